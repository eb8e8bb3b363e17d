//! The questions of rows, in their order, and what of them cannot be asked.

use crate::config::ChatConfig;
use crate::error::TrainError;
use crate::rejection::config::RejectionConfig;
use crate::rejection::score::{ScoreConfig, field_text};
use crate::words::Chat;
use herd_codec::Tokenizer;
use herd_codec::chat::{Dialogue, Message, Role};
use herd_data::dialogue::{Encoder, Lesson, Shape, lesson, question};
use herd_data::read::{InputFile, Sources, objects};
use herd_data::{DataError, Fault, Hash};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A question, and where it stands.
pub(crate) struct Prompt {
    /// The file's name.
    pub file: String,
    /// Its line or row, from 1.
    pub row: u64,
    /// The row.
    pub value: Value,
    /// What was said up to the question.
    pub dialogue: Dialogue,
    /// The hash of that.
    pub id: String,
}

type Rows = Box<dyn Iterator<Item = Result<(u64, Value), DataError>>>;

/// The questions of all files, one after another.
pub(crate) struct Prompts {
    files: std::vec::IntoIter<InputFile>,
    open: Option<(PathBuf, Rows)>,
    shape: Option<Shape>,
    skip_bad: bool,
    fields: Vec<String>,
    /// Rows left out, by the reason.
    pub dropped: BTreeMap<String, u64>,
}

impl Prompts {
    /// Errors: an input that is not there or holds nothing known.
    pub fn open(
        inputs: &[PathBuf],
        chat: &ChatConfig,
        scores: &[ScoreConfig],
    ) -> Result<Prompts, TrainError> {
        let files = files(inputs)?.into_iter();
        let fields = scores.iter().filter_map(|score| score.judge.field().map(str::to_owned));
        let (open, dropped) = (None, BTreeMap::new());
        let (shape, skip_bad, fields) = (chat.shape, chat.skip_bad, fields.collect());
        Ok(Prompts { files, open, shape, skip_bad, fields, dropped })
    }

    /// The next question; `None` behind the last.
    ///
    /// Errors: a file that cannot be read, or a row that asks nothing where such rows are not skipped.
    pub fn next(&mut self) -> Result<Option<Prompt>, TrainError> {
        loop {
            let Some((path, rows)) = &mut self.open else {
                let Some(file) = self.files.next() else { return Ok(None) };
                self.open = Some((file.path.clone(), Box::new(objects(&file)?)));
                continue;
            };
            let Some(read) = rows.next() else {
                self.open = None;
                continue;
            };
            let asked = read.and_then(|(row, value)| match question(&value, self.shape) {
                Ok(dialogue) => Ok((row, value, dialogue)),
                Err(fault) => Err(DataError::Record { path: path.clone(), row, fault }),
            });
            let (row, value, dialogue) = match asked {
                Ok(asked) => asked,
                Err(DataError::Record { fault, .. }) if self.skip_bad || fault.is_harmless() => {
                    self.drop(fault.reason());
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if self.fields.iter().any(|field| field_text(&value, field).is_none()) {
                self.drop("no_field");
                continue;
            }
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let id = id(&dialogue);
            return Ok(Some(Prompt { file, row, value, dialogue, id }));
        }
    }

    /// Counts a row that is left out.
    pub fn drop(&mut self, reason: &str) {
        *self.dropped.entry(reason.to_owned()).or_default() += 1;
    }
}

/// The ids of the questions of some files.
///
/// Errors: those of reading them.
pub fn asked(inputs: &[PathBuf], chat: &ChatConfig) -> Result<BTreeSet<String>, TrainError> {
    let mut prompts = Prompts::open(inputs, chat, &[])?;
    let mut ids = BTreeSet::new();
    while let Some(prompt) = prompts.next()? {
        ids.insert(prompt.id);
    }
    Ok(ids)
}

/// The ids of all questions whose answers some files of dialogues teach. Rows that are no dialogue teach nothing.
///
/// Errors: a file that cannot be read.
pub fn answered(inputs: &[PathBuf], chat: &ChatConfig) -> Result<BTreeSet<String>, TrainError> {
    let mut ids = BTreeSet::new();
    if inputs.is_empty() {
        return Ok(ids);
    }
    for file in files(inputs)? {
        for record in objects(&file)? {
            let read = record.map(|(_, value)| lesson(&value, chat.shape).ok());
            let Lesson { mut dialogue, .. } = match read {
                Ok(Some(lesson)) => lesson,
                Ok(None) | Err(DataError::Record { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            while let Some(last) = dialogue.messages.pop() {
                if last.role == Role::Assistant {
                    ids.insert(id(&dialogue));
                }
            }
        }
    }
    Ok(ids)
}

/// Tokens of each question as a model reads it, under the longest system prompt; those that leave no room for an answer, or
/// cannot be said, are not among them.
///
/// Errors: those of reading the input.
pub fn lengths(
    config: &RejectionConfig,
    base: &Path,
    chat: &Chat,
    tokenizer: &Tokenizer,
) -> Result<Vec<usize>, TrainError> {
    let input: Vec<PathBuf> = config.input.iter().map(|path| base.join(path)).collect();
    let mut prompts = Prompts::open(&input, &config.chat, &config.score)?;
    let system = config.sample.system.iter().max_by_key(|text| text.len());
    let most = config.sample.context - config.sample.max_tokens;
    let mut lengths = Vec::new();
    while let Some(prompt) = prompts.next()? {
        let tokens =
            prompt.render(chat, tokenizer, system.map(String::as_str)).map(|ids| ids.len());
        lengths.extend(tokens.ok().filter(|tokens| *tokens <= most));
    }
    Ok(lengths)
}

fn files(inputs: &[PathBuf]) -> Result<Vec<InputFile>, TrainError> {
    let inputs: Vec<String> = inputs.iter().map(|path| path.display().to_string()).collect();
    Ok(Sources::find(&inputs)?.sources.into_iter().flat_map(|source| source.files).collect())
}

/// The hash of all input, file by file.
///
/// Errors: a file that cannot be read.
pub fn hash(inputs: &[PathBuf]) -> Result<Hash, TrainError> {
    let mut all = String::new();
    for file in files(inputs)? {
        all.push_str(&Hash::of_file(&file.path)?.to_string());
    }
    Ok(Hash::of(all.as_bytes()))
}

fn id(dialogue: &Dialogue) -> String {
    let said = json!([dialogue.tools, dialogue.builtin_tools, dialogue.messages]).to_string();
    Hash::of(said.as_bytes()).to_string()[..16].to_owned()
}

impl Prompt {
    /// The ids of the prompt for an answer, under a system prompt behind its own.
    ///
    /// Errors: the format cannot say it.
    pub fn render(
        &self,
        chat: &Chat,
        tokenizer: &Tokenizer,
        system: Option<&str>,
    ) -> Result<Vec<u32>, Fault> {
        let encoder = Encoder { format: &chat.format, tokenizer, options: chat.options() };
        Ok(encoder.prompt(&self.under(system))?.into_iter().map(|id| id.0).collect())
    }

    /// What was said up to the question, under a system prompt behind its own.
    pub fn under(&self, system: Option<&str>) -> Dialogue {
        let mut dialogue = self.dialogue.clone();
        let Some(system) = system else { return dialogue };
        match dialogue.messages.first_mut().filter(|first| first.role == Role::System) {
            Some(own) => {
                *own = Message::new(Role::System, format!("{}\n\n{system}", own.text()));
            }
            None => dialogue.messages.insert(0, Message::new(Role::System, system)),
        }
        dialogue
    }
}
