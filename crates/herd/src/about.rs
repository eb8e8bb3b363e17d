//! What a model's files say besides weights: its tokenizer, how it chats, what it recommends.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use herd_codec::chat::{ChatFormat, Date, RenderOptions, ToolFormat};
use herd_codec::{TokenId, TokenKind, Tokenizer};
use herd_model::GenerationDefaults;
use herd_model::checkpoint::Checkpoint;
use herd_model::hf::GenerationFile;
use herd_tensor::files::{Archive, Kind};
use herd_train::RunConfig;
use serde_json::Value;

use crate::chat::session::Session;
use crate::error::Error;
use crate::vocabulary;

/// A model without its weights.
#[derive(Debug)]
pub struct About {
    /// The file or folder.
    pub path: PathBuf,
    /// Text to ids and back.
    pub tokenizer: Arc<Tokenizer>,
    /// Sampling and special ids that the model recommends.
    pub defaults: GenerationDefaults,
    /// The chat template in the files, in the language of Jinja.
    template: Option<String>,
}

/// The file of a folder's chat template.
pub const TEMPLATE: &str = "chat_template.jinja";

/// The chat formats that have a name.
const NAMED_FORMATS: [&str; 6] =
    ["llama2", "code-llama-70b", "llama3", "llama3.1", "llama3.1-hf", "chatml"];

fn read_template(file: &str) -> Result<String, Error> {
    let error = |source| Error::Template { name: file.to_owned(), source };
    fs::read_to_string(Path::new(file)).map_err(error)
}

/// What a `generation_config.json` beside a GGUF file recommends; a folder's own is read with it.
fn generation_beside(checkpoint: &Checkpoint) -> Result<GenerationDefaults, Error> {
    let path = checkpoint.folder().join("generation_config.json");
    if checkpoint.archive().kind() != Kind::Gguf || !path.is_file() {
        return Ok(GenerationDefaults::default());
    }
    let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    Ok(GenerationFile::read(&text)?.defaults)
}

impl About {
    /// Reads what lies beside the weights of a checkpoint.
    pub fn read(checkpoint: &Checkpoint) -> Result<About, Error> {
        let archive = checkpoint.archive();
        let (path, template) = match archive.kind() {
            Kind::Gguf => {
                let template = archive.metadata().find::<&str>("tokenizer.chat_template")?;
                (checkpoint.path(), template.map(str::to_owned))
            }
            Kind::Safetensors | Kind::Torch => {
                (checkpoint.folder(), folder_template(checkpoint.folder())?)
            }
        };
        let tokenizer = Arc::new(vocabulary::load(path)?);
        let beside = generation_beside(checkpoint)?;
        let defaults = checkpoint.generation.clone().or(beside);
        Ok(About { path: path.to_owned(), tokenizer, defaults, template })
    }

    /// The same of a checkpoint with an adapter beside it, whose chat template, where it has one, it was taught.
    pub fn adapted(checkpoint: &Checkpoint, lora: Option<&Path>) -> Result<About, Error> {
        let about = About::read(checkpoint)?;
        let template = lora.map(folder_template).transpose()?.flatten().or(about.template);
        Ok(About { template, ..about })
    }

    /// What decides how the dialogues of a run become tokens: its tokenizer, and the chat template of
    /// the checkpoint that it starts from. No checkpoint need be there where the settings name
    /// another template.
    ///
    /// Errors: one of them cannot be opened.
    pub fn of_run(config: &RunConfig) -> Result<About, Error> {
        let named = config.chat.as_ref().is_some_and(|chat| chat.template.is_some());
        let init = config.model.init.as_ref().filter(|_| !named);
        let (path, tokenizer) = (config.tokenizer.clone(), vocabulary::load(&config.tokenizer)?);
        let beside = init.map(|init| About::read(&Checkpoint::open_any(init)?)).transpose()?;
        let template = beside.and_then(|about| about.template);
        let (tokenizer, defaults) = (Arc::new(tokenizer), GenerationDefaults::default());
        Ok(About { path, tokenizer, defaults, template })
    }

    /// A tokenizer alone, with the chat template beside it: of a file, a folder, or a GGUF.
    ///
    /// Errors: it cannot be opened.
    pub fn of_tokenizer(path: &Path) -> Result<About, Error> {
        let tokenizer = Arc::new(vocabulary::load(path)?);
        let gguf = path.is_file() && path.extension().is_some_and(|ending| ending == "gguf");
        let template = match path.is_dir() {
            true => folder_template(path)?,
            false if gguf => {
                let archive = Archive::open(path)?;
                archive.metadata().find::<&str>("tokenizer.chat_template")?.map(str::to_owned)
            }
            false => None,
        };
        let defaults = GenerationDefaults::default();
        Ok(About { path: path.to_owned(), tokenizer, defaults, template })
    }

    /// The chat template in the files.
    pub fn template(&self) -> Option<&str> {
        self.template.as_deref()
    }

    /// The template of a format that [`chat_format`](About::chat_format) gave for `wanted`, for the
    /// files of a model that learns it; `None` if it has no words in Jinja.
    pub fn template_for(
        &self,
        wanted: Option<&str>,
        format: &ChatFormat,
    ) -> Result<Option<String>, Error> {
        match wanted {
            None => Ok(self.template.clone()),
            Some(name) if NAMED_FORMATS.contains(&name) => Ok(format.template().map(str::to_owned)),
            Some(file) => read_template(file).map(Some),
        }
    }

    /// How the model chats: as `wanted` says (a format's name, or a file with a template), else
    /// as its files say.
    pub fn chat_format(&self, wanted: Option<&str>) -> Result<ChatFormat, Error> {
        let format = match wanted {
            Some("llama2") => ChatFormat::Llama2,
            Some("code-llama-70b") => ChatFormat::CodeLlama70b,
            Some("llama3") => ChatFormat::Llama3,
            Some("llama3.1") => ChatFormat::Llama31 { tools: ToolFormat::Json },
            Some("llama3.1-hf") => ChatFormat::HuggingFace31,
            Some("chatml") => ChatFormat::ChatMl { system: None },
            Some(file) => self.format_of(&read_template(file)?)?,
            None => match &self.template {
                Some(template) => self.format_of(template)?,
                None => return Err(Error::NoTemplate { path: self.path.clone() }),
            },
        };
        Ok(format)
    }

    fn format_of(&self, template: &str) -> Result<ChatFormat, Error> {
        let name =
            |id: TokenId| String::from_utf8_lossy(self.tokenizer.token_bytes(id)).into_owned();
        let ids = (0..self.tokenizer.vocab_size() as u32).map(TokenId);
        let control = |id: &TokenId| self.tokenizer.kind(*id) == TokenKind::Control;
        let controls: Vec<String> = ids.filter(control).map(name).collect();
        let controls: Vec<&str> = controls.iter().map(String::as_str).collect();
        let specials = self.tokenizer.specials();
        let (bos, eos) = (specials.bos.map(name), specials.eos.map(name));
        Ok(ChatFormat::of_template(template, &controls, bos.as_deref(), eos.as_deref())?)
    }

    /// The ids of a conversation that the model is to go on with.
    pub fn render(&self, format: &ChatFormat, session: &Session) -> Result<Vec<u32>, Error> {
        let options = RenderOptions { today: today(), ..RenderOptions::PROMPT };
        let ids = format.ids(session.dialogue(), &options, &self.tokenizer)?;
        Ok(ids.into_iter().map(|id| id.0).collect())
    }

    /// The ids of a raw prompt, with the begin-of-text token where the model wants it. Where
    /// `special`, special strings in it are the control tokens they name.
    pub fn prompt(&self, text: &str, special: bool) -> Vec<u32> {
        self.tokenizer.encode_prompt(text, special).into_iter().map(|id| id.0).collect()
    }

    /// Tokens that end an answer.
    pub fn stop_ids(&self, format: Option<&ChatFormat>) -> Vec<u32> {
        let specials = self.tokenizer.specials().stops().into_iter().map(|id| id.0);
        let mut ids: Vec<u32> =
            specials.chain(self.defaults.eos_token_ids.iter().copied()).collect();
        for name in format.map(ChatFormat::stops).unwrap_or_default() {
            ids.extend(self.tokenizer.special_id(name).map(|id| id.0));
        }
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

/// The day in UTC, for formats that name it.
pub fn today() -> Option<Date> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?;
    let (year, month, day) = civil((now.as_secs() / 86_400) as i64);
    Date::parse(&format!("{year:04}-{month:02}-{day:02}"))
}

/// Days since 1 January 1970 as year, month and day of the Gregorian calendar.
///
/// Years are counted from March, so that the leap day is a year's last.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468; // from 1 March of year 0
    let era = days.div_euclid(146_097); // days of 400 years
    let day_of_era = days.rem_euclid(146_097);
    let leaps = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leaps) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (400 * era + year_of_era + i64::from(month <= 2), month, day)
}

/// `chat_template.jinja`, else the template in `tokenizer_config.json`: a text, or several by name.
pub fn folder_template(folder: &Path) -> Result<Option<String>, Error> {
    if let Some(text) = optional(&folder.join(TEMPLATE))? {
        return Ok(Some(text));
    }
    let path = folder.join("tokenizer_config.json");
    let Some(text) = optional(&path)? else { return Ok(None) };
    let config: Value = serde_json::from_str(&text)
        .map_err(|e| Error::Json { path, what: format!("damaged ({e})") })?;
    Ok(match config.get("chat_template") {
        Some(Value::String(template)) => Some(template.clone()),
        Some(Value::Array(several)) => {
            let named = |t: &&Value| t.get("name").and_then(Value::as_str) == Some("default");
            let template = several.iter().find(named).and_then(|t| t.get("template"));
            template.and_then(Value::as_str).map(str::to_owned)
        }
        Some(_) | None => None,
    })
}

/// A text file that need not be there.
pub fn optional(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (19_782, (2024, 2, 29)),
            (20_778, (2026, 11, 21)),
            (-1, (1969, 12, 31)),
        ] {
            assert_eq!(civil(days), date, "{days}");
        }
    }

    #[test]
    fn templates_of_a_folder_are_found_in_both_places() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        assert_eq!(folder_template(path).unwrap(), None);
        let config = r#"{"chat_template": [{"name": "tool_use", "template": "t"},
                                           {"name": "default", "template": "d"}]}"#;
        fs::write(path.join("tokenizer_config.json"), config).unwrap();
        assert_eq!(folder_template(path).unwrap().as_deref(), Some("d"));
        fs::write(path.join("chat_template.jinja"), "j").unwrap();
        assert_eq!(folder_template(path).unwrap().as_deref(), Some("j"));
    }
}
