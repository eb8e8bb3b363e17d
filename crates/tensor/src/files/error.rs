//! What can be wrong with a file of tensors, said with the value that offends.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a file of tensors could not be read or written. [`FileError::hint`] says what to try.
#[derive(Debug, Error)]
#[allow(missing_docs)] // each message names its fields
pub enum FileError {
    #[error("cannot {action} {}", path.display())]
    Io { path: PathBuf, action: &'static str, source: io::Error },

    #[error("no room left on the disk for {}", path.display())]
    DiskFull { path: PathBuf, source: io::Error },

    #[error("{} already exists", path.display())]
    Exists { path: PathBuf },

    #[error("{} is not a file of tensors that herd knows: it starts with {got}", path.display())]
    UnknownKind { path: PathBuf, got: String },

    #[error("{} holds no model: looked for {expected}", path.display())]
    NoModel { path: PathBuf, expected: &'static str },

    /// A file of a known kind that Herd does not read, with what to do instead.
    #[error("{} is {what}", path.display())]
    Unsupported { path: PathBuf, what: String, hint: &'static str },

    #[error("{}: {what} needs {expected} bytes, {got} are left", path.display())]
    Truncated { path: PathBuf, what: String, expected: u64, got: u64 },

    #[error("{}: {what} is {got}, expected {expected}", path.display())]
    Field { path: PathBuf, what: String, expected: String, got: String },

    #[error("{}: tensor {tensor}: {what} is {got}, expected {expected}", path.display())]
    Tensor { path: PathBuf, tensor: String, what: &'static str, expected: String, got: String },

    #[error("{}: {name} is there twice", path.display())]
    Duplicate { path: PathBuf, name: String },

    #[error("{} has no tensor {tensor}", path.display())]
    NoTensor { path: PathBuf, tensor: String },

    #[error("{}: tensor {tensor} is stored as {got}, which herd does not read", path.display())]
    UnknownType { path: PathBuf, tensor: String, got: String },

    #[error("{}: metadata key {key} is {got}, expected {expected}", path.display())]
    Key { path: PathBuf, key: String, expected: &'static str, got: String },

    #[error("{}: {what} is not valid json", path.display())]
    Json { path: PathBuf, what: &'static str, source: serde_json::Error },

    /// A pickle asks for a Python object beyond the few that tensors need.
    #[error("{} asks for the python object {name}, which is not on the list", path.display())]
    Forbidden { path: PathBuf, name: String },

    #[error("{} has {ranks} ranks, and no rule says how to join them", path.display())]
    Ranks { path: PathBuf, ranks: usize },
}

impl FileError {
    /// What the user can do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            FileError::Unsupported { hint, .. } => Some(hint),
            FileError::Forbidden { .. } => {
                Some("load it in python where it was made, and save its state_dict alone")
            }
            FileError::Truncated { .. } => Some("the file may be cut short: download it again"),
            FileError::UnknownType { .. } => Some("quantise the model to a type that herd reads"),
            FileError::Exists { .. } => Some("choose another folder, or remove the model there"),
            FileError::Io { .. }
            | FileError::DiskFull { .. }
            | FileError::UnknownKind { .. }
            | FileError::NoModel { .. }
            | FileError::Field { .. }
            | FileError::Tensor { .. }
            | FileError::Duplicate { .. }
            | FileError::NoTensor { .. }
            | FileError::Key { .. }
            | FileError::Json { .. }
            | FileError::Ranks { .. } => None,
        }
    }

    /// The error of a system call on `path`; `action` completes "cannot ...".
    pub(super) fn io(path: &Path, action: &'static str, source: io::Error) -> FileError {
        let path = path.to_owned();
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        match full.contains(&source.kind()) {
            true => FileError::DiskFull { path, source },
            false => FileError::Io { path, action, source },
        }
    }

    pub(super) fn field(
        path: &Path,
        what: impl Into<String>,
        expected: impl ToString,
        got: impl ToString,
    ) -> FileError {
        let (expected, got) = (expected.to_string(), got.to_string());
        FileError::Field { path: path.to_owned(), what: what.into(), expected, got }
    }

    pub(super) fn tensor(
        path: &Path,
        tensor: &str,
        what: &'static str,
        expected: impl ToString,
        got: impl ToString,
    ) -> FileError {
        let (expected, got) = (expected.to_string(), got.to_string());
        FileError::Tensor { path: path.to_owned(), tensor: tensor.to_owned(), what, expected, got }
    }

    pub(super) fn unsupported(
        path: &Path,
        what: impl Into<String>,
        hint: &'static str,
    ) -> FileError {
        FileError::Unsupported { path: path.to_owned(), what: what.into(), hint }
    }
}
