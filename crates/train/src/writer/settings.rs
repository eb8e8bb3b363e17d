//! Settings that all who ask a writer share.

use crate::error::TrainError;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Who writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriterConfig {
    /// A checkpoint; of an endpoint the name of its model.
    pub model: PathBuf,
    /// The address of an endpoint of OpenAI's kind, as `http://127.0.0.1:8000/v1`; nothing else goes online.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// The variable of the environment that holds the endpoint's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_env: Option<String>,
    /// Attempts at an answer of an endpoint before giving up.
    pub attempts: usize,
    /// The pause behind the first attempt, doubled behind each other.
    pub pause_ms: u64,
    /// Seconds that an endpoint may take for an answer.
    pub seconds: u64,
    /// Bytes of an endpoint's answer at most.
    pub bytes_max: u64,
}

/// How it is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskConfig {
    /// Divides the logits of what is written; verdicts are the likeliest words.
    pub temperature: f64,
    /// The nucleus.
    pub top_p: f64,
    /// Tokens of an answer at most.
    pub max_tokens: usize,
    /// Tokens of question and answer at most, of a checkpoint.
    pub context: usize,
    /// Questions under way at once, at most. Changes no bit of a checkpoint's answers.
    pub parallel: usize,
}

impl WriterConfig {
    /// What a file need not say.
    pub fn base() -> WriterConfig {
        WriterConfig {
            model: PathBuf::new(),
            base_url: None,
            key_env: None,
            attempts: 6,
            pause_ms: 500,
            seconds: 600,
            bytes_max: 16 << 20,
        }
    }

    /// What rows depend on: patience may change while a run is under way.
    pub(crate) fn lasting(&self) -> WriterConfig {
        let (model, base_url) = (self.model.clone(), self.base_url.clone());
        WriterConfig { model, base_url, ..WriterConfig::base() }
    }

    /// What the log calls it, but for the hash of its weights.
    pub fn name(&self) -> String {
        match &self.base_url {
            Some(url) => format!("{url} {}", self.model.display()),
            None => self.model.display().to_string(),
        }
    }

    /// Checks the table of this name.
    pub(crate) fn check(&self, table: &str) -> Result<(), TrainError> {
        let key = |key: &str| format!("{table}.{key}");
        if self.model.as_os_str().is_empty() {
            let expected = format!("a checkpoint, or an endpoint's model beside {table}.base_url");
            return Err(TrainError::no(&key("model"), "\"\"", &expected));
        }
        if let Some(url) = &self.base_url
            && !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme))
        {
            return Err(TrainError::no(&key("base_url"), url, "an address of http or https"));
        }
        if let (Some(name), None) = (&self.key_env, &self.base_url) {
            let expected = format!("nothing without {table}.base_url");
            return Err(TrainError::no(&key("key_env"), name, &expected));
        }
        between(&key("attempts"), self.attempts as u64, 1, 100)?;
        between(&key("pause_ms"), self.pause_ms, 0, 600_000)?;
        between(&key("seconds"), self.seconds, 1, 86_400)?;
        between(&key("bytes_max"), self.bytes_max, 1, 1 << 30)
    }
}

impl AskConfig {
    /// What a file need not say.
    pub(crate) fn base() -> AskConfig {
        AskConfig { temperature: 0.7, top_p: 1.0, max_tokens: 512, context: 2048, parallel: 16 }
    }

    pub(crate) fn check(&self) -> Result<(), TrainError> {
        within("sample.temperature", self.temperature, 0.0, 100.0)?;
        within("sample.top_p", self.top_p, 0.0, 1.0)?;
        between("sample.max_tokens", self.max_tokens as u64, 1, 1 << 20)?;
        between("sample.context", self.context as u64, 2, 1 << 24)?;
        between("sample.parallel", self.parallel as u64, 1, 4096)?;
        if self.max_tokens >= self.context {
            let value = format!("{} of {}", self.max_tokens, self.context);
            return Err(TrainError::no("sample.max_tokens", value, "less than sample.context"));
        }
        Ok(())
    }
}

/// Errors: a whole number out of bounds.
pub(crate) fn between(key: &str, value: u64, least: u64, most: u64) -> Result<(), TrainError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(TrainError::no(key, value, &format!("{least} to {most}")))
}

/// Errors: a number out of bounds, or none.
pub(crate) fn within(key: &str, value: f64, least: f64, most: f64) -> Result<(), TrainError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(TrainError::no(key, value, &format!("{least} to {most}")))
}
