//! What can be wrong with a configuration, a preset name, a tensor name or a whole checkpoint.

use std::io;
use std::path::PathBuf;

use crate::Head;
use herd_tensor::blocks::QuantiseError;
use herd_tensor::files::{DType, FileError};

/// A configuration that Herd cannot use, with the key and value that offend.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// The text is not JSON, or not a JSON object.
    #[error("{file} is not a JSON object: {reason}")]
    Json {
        /// Name of the file, such as `config.json`.
        file: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// A key that the model cannot do without is absent.
    #[error("{file} has no {key}")]
    Missing {
        /// Name of the file or kind of metadata.
        file: &'static str,
        /// The key.
        key: String,
    },
    /// A value has the wrong type.
    #[error("{key} must be {expected}, it is {got}")]
    Type {
        /// The key.
        key: String,
        /// The type in words.
        expected: &'static str,
        /// The value, cut if long.
        got: String,
    },
    /// A value is out of bounds or contradicts another.
    #[error("{key} is {got}; it must be {expected}")]
    Value {
        /// The key or field.
        key: String,
        /// The value, cut if long.
        got: String,
        /// The rule that it breaks.
        expected: String,
    },
    /// The value asks for mathematics that is not Llama's.
    #[error("{key} = {got} is not supported")]
    Unsupported {
        /// The key.
        key: String,
        /// The value, cut if long.
        got: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// No preset or tensor has this name.
    #[error("no {what} is called {name:?}{}", suggest(.nearest.as_deref()))]
    Name {
        /// What was looked for: `preset`, `Hugging Face tensor`, ...
        what: &'static str,
        /// The name, cut if long.
        name: String,
        /// The most similar right name, if one is similar.
        nearest: Option<String>,
    },
}

impl ConfigError {
    /// What to do about the error, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            ConfigError::Unsupported { hint, .. } => Some(hint),
            ConfigError::Json { .. }
            | ConfigError::Missing { .. }
            | ConfigError::Type { .. }
            | ConfigError::Value { .. }
            | ConfigError::Name { .. } => None,
        }
    }

    pub(crate) fn value(key: &str, got: impl ToString, expected: impl Into<String>) -> Self {
        ConfigError::Value {
            key: key.into(),
            got: cut(&got.to_string()),
            expected: expected.into(),
        }
    }

    pub(crate) fn kind(key: &str, expected: &'static str, got: impl ToString) -> Self {
        ConfigError::Type { key: key.into(), expected, got: cut(&got.to_string()) }
    }

    pub(crate) fn unsupported(key: &str, got: impl ToString, hint: &'static str) -> Self {
        ConfigError::Unsupported { key: key.into(), got: cut(&got.to_string()), hint }
    }

    pub(crate) fn missing(file: &'static str, key: &str) -> Self {
        ConfigError::Missing { file, key: key.into() }
    }
}

/// A model that Herd cannot open or write, with the file and the value that offend.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each message names its fields
pub enum CheckpointError {
    /// The files of tensors themselves.
    #[error(transparent)]
    File(#[from] FileError),
    /// A configuration, or the name of a tensor.
    #[error("cannot use {}", path.display())]
    Config { path: PathBuf, source: ConfigError },
    /// A file that must lie beside the weights.
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} is no text file of at most {bytes_max} bytes: it has {bytes}", path.display())]
    NoText { path: PathBuf, bytes: u64, bytes_max: u64 },
    #[error("{} has no tensor {tensor}", path.display())]
    MissingTensor { path: PathBuf, tensor: String },
    #[error("{}: tensor {tensor} is of layer {layer}, the model has {layers}", path.display())]
    Layer { path: PathBuf, tensor: String, layer: usize, layers: usize },
    #[error("{} is a {got}, expected a {expected}", path.display())]
    Head { path: PathBuf, expected: Head, got: Head },
    #[error("{}: tensor {tensor} is no part of a {head}", path.display())]
    OtherHead { path: PathBuf, tensor: String, head: Head },
    #[error("{}: tensor {tensor} has the shape {got:?}, expected {expected:?}", path.display())]
    Shape { path: PathBuf, tensor: String, expected: Vec<usize>, got: Vec<usize> },
    #[error("{}: tensor {tensor} is stored as {got}, which is no weight format", path.display())]
    Type { path: PathBuf, tensor: String, got: DType },
    #[error("{}: tensor {tensor} has no place in the new format", path.display())]
    Number { path: PathBuf, tensor: String, source: QuantiseError },
    /// Meta's files repeat key/value heads only evenly.
    #[error("{} has {ranks} ranks for {kv_heads} key/value heads", path.display())]
    Ranks { path: PathBuf, ranks: usize, kv_heads: usize },
}

impl CheckpointError {
    /// What to do about the error, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            CheckpointError::File(error) => error.hint(),
            CheckpointError::Config { source, .. } => source.hint(),
            CheckpointError::Read { source, .. } => (source.kind() == io::ErrorKind::NotFound)
                .then_some("the weights need the file that describes them, in the same folder"),
            CheckpointError::MissingTensor { .. } => {
                Some("part of the model may not be there: download it again")
            }
            CheckpointError::Type { got, .. } => Some(match got {
                DType::F64 => "save the checkpoint as float32, float16 or bfloat16",
                DType::F8_E4M3 | DType::F8_E5M2 | DType::F8_E8M0 => {
                    "an 8-bit checkpoint: use the bfloat16 one, then `herd quantize`"
                }
                DType::Ggml(_) => "quantise the parent model with `herd quantize` instead",
                DType::Format(_) | DType::I8 | DType::I16 | DType::I32 | DType::I64 => INTEGERS,
                DType::U8 | DType::U16 | DType::U32 | DType::U64 => INTEGERS,
                DType::Bool | DType::C64 => INTEGERS,
            }),
            CheckpointError::Head { expected, .. } => Some(match expected {
                Head::Language => "`herd score` and `herd reward` take reward models",
                Head::Score => "`herd reward` makes one of it",
            }),
            CheckpointError::OtherHead { .. }
            | CheckpointError::Write { .. }
            | CheckpointError::NoText { .. }
            | CheckpointError::Number { .. }
            | CheckpointError::Layer { .. }
            | CheckpointError::Shape { .. }
            | CheckpointError::Ranks { .. } => None,
        }
    }
}

const INTEGERS: &str =
    "packed by another quantiser: use the bfloat16 checkpoint, then `herd quantize`";

/// The text, shortened so that a hostile value does not fill the screen.
pub(crate) fn cut(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_string(),
    }
}

fn suggest(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; did you mean {name:?}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_value_and_cut_it() {
        let error = ConfigError::value("hidden_size", "9".repeat(500), "at most 7");
        let text = error.to_string();
        assert!(text.starts_with("hidden_size is 999") && text.len() < 130, "{text}");
        let error = ConfigError::Name {
            what: "preset",
            name: "lama".into(),
            nearest: Some("llama-7b".into()),
        };
        assert_eq!(error.to_string(), "no preset is called \"lama\"; did you mean \"llama-7b\"?");
    }
}
