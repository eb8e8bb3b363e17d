//! Flags that several commands share, under llama.cpp's names.

use std::fs;
use std::path::{Path, PathBuf};

use herd_codec::chat::Date;
use herd_engine::Form;
use herd_engine::sample::{Sampling, TemperatureAt};
use herd_model::GenerationDefaults;
use herd_tensor::{Class, Format, KvFormat};

use crate::error::Error;

/// Takes whole numbers from `least` to `most`.
pub fn range(least: u64, most: u64) -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(least..=most)
}

/// A day of the calendar.
pub fn day(text: &str) -> Result<Date, Error> {
    Date::parse(text).ok_or_else(|| {
        let expected = "a day such as 2024-07-26".to_owned();
        Error::Value { what: "the date", got: text.to_owned(), expected }
    })
}

/// Which model, and how the machine runs it.
#[derive(Clone, Debug, clap::Args)]
pub struct ModelFlags {
    /// The model: a file, a folder, or a name in the store
    #[arg(short, long)]
    pub model: String,
    /// Threads that compute [default: as many as the machine lends]
    #[arg(short, long, value_name = "N")]
    pub threads: Option<usize>,
    /// Tokens of context [default: the model's own]
    #[arg(short, long, visible_aliases = ["context", "max-model-len"], value_name = "N")]
    pub ctx_size: Option<usize>,
    /// The numeric class: portable, avx2, avx512 or amx [default: $HERD_CLASS, else the fastest]
    #[arg(long, value_name = "CLASS")]
    pub class: Option<String>,
    /// The folder of an adapter that stands beside the model, as PEFT and `herd sft` write them
    #[arg(long, value_name = "FOLDER")]
    pub lora: Option<PathBuf>,
}

impl ModelFlags {
    /// The numeric class asked for, or the fastest of this machine.
    pub fn class(&self) -> Result<Class, Error> {
        class(self.class.as_deref())
    }

    /// Threads asked for, or those that affinity and quota leave.
    pub fn threads(&self) -> Result<usize, Error> {
        threads(self.threads)
    }
}

/// The class with this name, else `HERD_CLASS`, else the fastest; it must run here.
pub fn class(name: Option<&str>) -> Result<Class, Error> {
    let from_environment = std::env::var("HERD_CLASS").ok();
    let Some(name) = name.or(from_environment.as_deref()) else { return Ok(Class::best()) };
    let runs = Class::from_name(name).filter(|class| class.runs_here());
    runs.ok_or_else(|| {
        let names: Vec<&str> = Class::available().into_iter().map(Class::name).collect();
        let expected = format!("one that this machine runs: {}", names.join(", "));
        Error::Value { what: "--class", got: name.to_owned(), expected }
    })
}

/// The number of threads asked for, else what the machine lends this process.
pub fn threads(wanted: Option<usize>) -> Result<usize, Error> {
    match wanted {
        Some(n @ 1..=1024) => Ok(n),
        Some(n) => {
            let expected = "between 1 and 1024".to_owned();
            Err(Error::Value { what: "--threads", got: n.to_string(), expected })
        }
        None => Ok(herd_kernels::pool::allowed_threads()),
    }
}

/// How keys and values are stored.
#[derive(Debug, Default, clap::Args)]
pub struct KvFlag {
    /// Store keys and values as f32, f16, i16 or i8 [default: f32 for f32 weights, else f16]
    #[arg(long, visible_alias = "cache-type", value_name = "TYPE")]
    pub kv: Option<String>,
}

impl KvFlag {
    /// The format asked for, else the one that fits weights of `format`.
    pub fn format(&self, format: Format) -> Result<KvFormat, Error> {
        match self.kv.as_deref() {
            Some("f32") => Ok(KvFormat::F32),
            Some("f16") => Ok(KvFormat::F16),
            Some("i16") => Ok(KvFormat::I16),
            Some("i8") => Ok(KvFormat::I8),
            Some(other) => {
                let expected = "f32, f16, i16 or i8".to_owned();
                Err(Error::Value { what: "--kv", got: other.to_owned(), expected })
            }
            None if format == Format::F32 => Ok(KvFormat::F32),
            None => Ok(KvFormat::F16),
        }
    }
}

/// The form that an answer must have.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Form")]
#[group(multiple = false)]
pub struct FormFlags {
    /// Answer with JSON of this schema: a file, or the schema itself
    #[arg(long, value_name = "FILE|JSON")]
    pub json_schema: Option<String>,
    /// Answer with a text that this regular expression matches whole
    #[arg(long, value_name = "REGEX")]
    pub regex: Option<String>,
    /// Answer with a text of this grammar, in Lark's form
    #[arg(long, value_name = "FILE")]
    pub grammar: Option<PathBuf>,
}

impl FormFlags {
    /// The form, if one is asked for.
    pub fn form(&self) -> Result<Option<Form>, Error> {
        if let Some(schema) = &self.json_schema {
            let path = Path::new(schema);
            let text = match schema.trim_start().starts_with('{') {
                true => schema.clone(),
                false => fs::read_to_string(path).map_err(Error::io("read", path))?,
            };
            let schema = serde_json::from_str(&text).map_err(|e| Error::Schema(e.to_string()))?;
            return Ok(Some(Form::JsonSchema(schema)));
        }
        if let Some(path) = &self.grammar {
            return Ok(Some(Form::Lark(
                fs::read_to_string(path).map_err(Error::io("read", path))?,
            )));
        }
        Ok(self.regex.clone().map(Form::Regex))
    }
}

/// How tokens are chosen; what is not given comes from the model, else from Llama's defaults.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingFlags {
    /// Divides the logits; 0 takes the likeliest token
    #[arg(long, visible_alias = "temperature", value_name = "T", allow_negative_numbers = true)]
    pub temp: Option<f32>,
    /// Apply temperature before top-k and the like, as Meta's code does, or last, as llama.cpp
    #[arg(long, value_name = "first|last")]
    pub temp_at: Option<String>,
    /// Keep the K likeliest tokens; 0 keeps all
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Keep the likeliest tokens that hold this mass
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f32>,
    /// Drop tokens less likely than this share of the likeliest
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub min_p: Option<f32>,
    /// Keep the tokens of about the expected surprise that hold this mass
    #[arg(long, visible_alias = "typical-p", value_name = "P", allow_negative_numbers = true)]
    pub typical: Option<f32>,
    /// Divide the logits of tokens seen
    #[arg(
        long,
        visible_alias = "repetition-penalty",
        value_name = "R",
        allow_negative_numbers = true
    )]
    pub repeat_penalty: Option<f32>,
    /// Tokens that count as seen; -1 for all
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub repeat_last_n: Option<i64>,
    /// Taken from the logit of each token seen
    #[arg(long, value_name = "A", allow_negative_numbers = true)]
    pub presence_penalty: Option<f32>,
    /// Taken from the logit of a token for each time it was seen
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub frequency_penalty: Option<f32>,
    /// Add BIAS to the logit of a token; -inf forbids it; may be given more than once
    #[arg(long, value_name = "TOKEN=BIAS")]
    pub logit_bias: Vec<String>,
    /// Key of the random numbers: the same seed, the same answer [default: drawn and told]
    #[arg(short, long, value_name = "SEED")]
    pub seed: Option<u64>,
}

impl SamplingFlags {
    /// The settings: these flags, else the model's recommendation, else Llama's defaults.
    pub fn sampling(&self, model: &GenerationDefaults) -> Result<Sampling, Error> {
        let base = Sampling::LLAMA;
        let greedy = (model.do_sample == Some(false)).then_some(0.0);
        let temperature = self.temp.or(model.temperature).or(greedy).unwrap_or(base.temperature);
        let top_k = self.top_k.or(model.top_k.map(|k| k as usize));
        let repetition = self.repeat_penalty.or(model.repetition_penalty);
        Ok(Sampling {
            temperature,
            temperature_at: self.temperature_at()?.unwrap_or(base.temperature_at),
            top_k: top_k.filter(|&k| k > 0),
            typical_p: self.typical.unwrap_or(base.typical_p),
            top_p: self.top_p.or(model.top_p).unwrap_or(base.top_p),
            min_p: self.min_p.or(model.min_p).unwrap_or(base.min_p),
            repetition_penalty: repetition.unwrap_or(base.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(base.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(base.frequency_penalty),
            repeat_last_n: self.repeat_last_n()?.unwrap_or(base.repeat_last_n),
            logit_bias: self.logit_bias.iter().map(|b| bias(b)).collect::<Result<_, _>>()?,
            seed: self.seed.unwrap_or_else(draw_seed),
            stream: base.stream,
        })
    }

    fn temperature_at(&self) -> Result<Option<TemperatureAt>, Error> {
        match self.temp_at.as_deref() {
            None => Ok(None),
            Some("first") => Ok(Some(TemperatureAt::First)),
            Some("last") => Ok(Some(TemperatureAt::Last)),
            Some(other) => {
                let expected = "first or last".to_owned();
                Err(Error::Value { what: "--temp-at", got: other.to_owned(), expected })
            }
        }
    }

    fn repeat_last_n(&self) -> Result<Option<usize>, Error> {
        let Some(n) = self.repeat_last_n else { return Ok(None) };
        if n == -1 {
            return Ok(Some(usize::MAX));
        }
        let expected = "a count, or -1 for all".to_owned();
        let wrong = |_| Error::Value { what: "--repeat-last-n", got: n.to_string(), expected };
        usize::try_from(n).map(Some).map_err(wrong)
    }
}

/// A seed that differs from run to run, from the randomness that keys the library's hash maps.
fn draw_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish() >> 32 // short enough to type again
}

/// `TOKEN=BIAS`, or llama.cpp's `TOKEN+BIAS` and `TOKEN-BIAS`.
fn bias(text: &str) -> Result<(u32, f32), Error> {
    let parse = || {
        let at = text.find(|c: char| !c.is_ascii_digit())?;
        let (id, bias) = text.split_at(at);
        Some((id.parse().ok()?, bias.strip_prefix('=').unwrap_or(bias).parse().ok()?))
    };
    let expected = "TOKEN=BIAS, like 128001=-inf".to_owned();
    parse().ok_or_else(|| Error::Value { what: "--logit-bias", got: text.to_owned(), expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_model_and_the_model_over_llama() {
        let model =
            GenerationDefaults { temperature: Some(0.2), top_k: Some(0), ..Default::default() };
        let flags = SamplingFlags { seed: Some(7), ..Default::default() };
        let sampling = flags.sampling(&model).unwrap();
        assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (0.2, 0.9, None));
        let flags = SamplingFlags { temp: Some(0.0), top_k: Some(40), ..flags };
        let sampling = flags.sampling(&model).unwrap();
        assert_eq!((sampling.temperature, sampling.top_k, sampling.seed), (0.0, Some(40), 7));
    }

    #[test]
    fn biases_are_read_in_both_spellings() {
        assert_eq!(bias("12=1.5").unwrap(), (12, 1.5));
        assert_eq!(bias("12-1.5").unwrap(), (12, -1.5));
        assert_eq!(bias("12=-inf").unwrap(), (12, f32::NEG_INFINITY));
        for wrong in ["", "12", "x=1", "12=x", "-1=2"] {
            assert!(bias(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_class_that_does_not_run_is_refused_by_name() {
        let error = class(Some("abacus")).unwrap_err();
        assert!(error.to_string().contains("\"abacus\"") && error.to_string().contains("portable"));
        assert_eq!(class(Some("portable")).unwrap(), Class::Portable);
        assert!(threads(Some(0)).is_err());
    }
}
