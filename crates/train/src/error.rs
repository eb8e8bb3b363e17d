//! Why a stage could not run.

use crate::average::AverageError;
use herd_data::DataError;
use herd_model::{CheckpointError, ConfigError};
use herd_sandbox::SandboxError;
use herd_tensor::files::FileError;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The errors of training; those of the crates below pass through with their causes.
#[derive(Debug, Error)]
#[allow(missing_docs)] // each message names its fields
pub enum TrainError {
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },

    #[error("in {}", path.display())]
    InFile { path: PathBuf, source: Box<TrainError> },

    #[error("the config is no valid TOML")]
    Toml { source: Box<toml::de::Error> },

    #[error("the config has no key `{key}`")]
    Key { key: String, nearest: Option<String> },

    #[error("`{key}` is {value}, expected {expected}")]
    Value { key: String, value: String, expected: String },

    #[error("no run preset named {name:?}")]
    Preset { name: String, nearest: Option<String> },

    #[error("{} was begun with another config: {key} was {was}, is {is}", folder.display())]
    OtherConfig { folder: PathBuf, key: String, was: String, is: String },

    #[error("{} is damaged: {what}", path.display())]
    Damaged { path: PathBuf, what: String },

    #[error("{} would be lost: {why}", path.display())]
    Taken { path: PathBuf, why: &'static str },

    #[error("step {step}: the {what} is {value}")]
    NotFinite { step: u64, what: String, value: f64 },

    #[error(
        "step {step}: the {what} is {value} after {rewinds} rewinds; spikes.rewinds_max allows no more"
    )]
    Spikes { step: u64, what: &'static str, value: f64, rewinds: u64 },

    #[error(
        "row {row} of {} has {tokens} tokens where {places} fit, and so have {others} others",
        path.display()
    )]
    Long { path: PathBuf, row: u64, tokens: usize, places: usize, others: u64, whole: bool },

    #[error("nothing in the batch of step {step} is learnt: its weights are all 0")]
    NothingLearnt { step: u64 },

    #[error("stopped before the first step, while {what} were computed")]
    Stopped { what: &'static str },

    #[error("the data ended after step {step} of {steps}")]
    DataEnded { step: u64, steps: u64 },

    #[error("the run has begun: {step} steps are done")]
    Begun { step: u64 },

    #[error("no sample: {error}")]
    Sample { error: String },

    #[error("no reward: {error}")]
    Score { error: String },

    #[error("the writer gave no answer")]
    Writer { source: Box<dyn std::error::Error + Send + Sync> },

    #[error("no prompt `{step}`: {error}")]
    Prompt { step: String, error: String },

    #[error("another herd is training in {}", folder.display())]
    Busy { folder: PathBuf },

    #[error(transparent)]
    Sandbox(#[from] SandboxError),

    #[error(transparent)]
    Data(#[from] DataError),

    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),

    #[error(transparent)]
    Config(#[from] ConfigError),

    #[error(transparent)]
    File(#[from] FileError),

    #[error(transparent)]
    Average(Box<AverageError>),
}

impl From<AverageError> for TrainError {
    fn from(error: AverageError) -> TrainError {
        TrainError::Average(Box::new(error))
    }
}

impl TrainError {
    /// The error of a value that a config must not have.
    pub(crate) fn no(key: &str, value: impl ToString, expected: &str) -> TrainError {
        let (key, value) = (key.to_owned(), value.to_string());
        TrainError::Value { key, value, expected: expected.to_owned() }
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> TrainError {
        TrainError::Io { action, path: path.to_owned(), source }
    }

    pub(crate) fn value(key: &str, value: &toml::Value, expected: &str) -> TrainError {
        let (key, value) = (key.to_owned(), value.to_string());
        TrainError::Value { key, value, expected: expected.to_owned() }
    }

    /// What to try.
    pub fn hint(&self) -> Option<String> {
        match self {
            TrainError::InFile { source, .. } => source.hint(),
            TrainError::Key { nearest, .. } | TrainError::Preset { nearest, .. } => {
                nearest.as_ref().map(|name| format!("did you mean {name}?"))
            }
            TrainError::OtherConfig { .. } => {
                Some("take another --out, or the settings that the run began with".into())
            }
            TrainError::NotFinite { .. } => {
                Some("a lower optim.lr, or spikes.policy = \"rewind\"".into())
            }
            TrainError::Damaged { .. } => Some("remove it; an older checkpoint is taken up".into()),
            TrainError::Long { whole: true, .. } => {
                Some("a larger batch.seq_len, or data.long = \"drop\": answers stay whole".into())
            }
            TrainError::Long { whole: false, .. } => {
                Some("a larger batch.seq_len, or data.long = \"shorten\" or \"drop\"".into())
            }
            TrainError::DataEnded { .. } => {
                Some("what was learnt stands in the last checkpoint; for other optim.steps, a larger data.epochs_max or more data take another --out".into())
            }
            TrainError::NothingLearnt { .. } => Some("shards of dialogues in data.input".into()),
            TrainError::Stopped { .. } => Some("the same command goes on".into()),
            TrainError::Begun { .. } => Some("take another --out".into()),
            TrainError::Taken { .. } => Some("take another --out, or move it away".into()),
            TrainError::Sandbox(error) => error.hint().map(str::to_owned),
            TrainError::Data(error) => error.hint().map(str::to_owned),
            TrainError::Checkpoint(error) => error.hint().map(str::to_owned),
            TrainError::Config(error) => error.hint().map(str::to_owned),
            TrainError::File(error) => error.hint().map(str::to_owned),
            TrainError::Average(error) => error.hint().map(str::to_owned),
            TrainError::Io { .. } | TrainError::Toml { .. } | TrainError::Value { .. } => None,
            TrainError::Spikes { .. } | TrainError::Busy { .. } | TrainError::Sample { .. } => None,
            TrainError::Score { .. } | TrainError::Writer { .. } | TrainError::Prompt { .. } => {
                None
            }
        }
    }
}
