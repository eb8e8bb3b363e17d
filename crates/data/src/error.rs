//! What can be wrong with raw data, with shards, or with how they are to be mixed.

use std::io;
use std::path::{Path, PathBuf};

use herd_codec::CodecError;

use crate::Hash;

/// Why data was refused; each variant carries the value that offends.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each message names its fields
pub enum DataError {
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },

    #[error("no room left on the disk for {}", path.display())]
    DiskFull { path: PathBuf },

    /// A file whose name does not say what it holds.
    #[error("{} should end in {expected}", path.display())]
    Kind { path: PathBuf, expected: &'static str },

    /// Two files that would be one source.
    #[error("{} and {} are both named {name:?}", first.display(), second.display())]
    SameName { name: String, first: PathBuf, second: PathBuf },

    /// A source name that cannot be part of a file name.
    #[error("{name:?} cannot name a source: {reason}")]
    Name { name: String, reason: &'static str },

    /// A record that cannot be a document; the reader can go on behind it.
    #[error("row {row} of {}: {fault}", path.display())]
    Record { path: PathBuf, row: u64, fault: Fault },

    /// A packed file that grows beyond reason.
    #[error("{} unpacks to more than {limit} bytes from {packed}", path.display())]
    Expands { path: PathBuf, packed: u64, limit: u64 },

    #[error("{} is no Parquet file that can be read: {reason}", path.display())]
    Parquet { path: PathBuf, reason: String },

    #[error("{} has no column of texts named {column:?}; it has {got}", path.display())]
    Column { path: PathBuf, column: String, got: String },

    /// Nothing to work on.
    #[error("no documents in {what}")]
    NoDocuments { what: String },

    #[error("row {row} of {} cannot be encoded", path.display())]
    Encode { path: PathBuf, row: u64, source: CodecError },

    #[error("another process is writing {}", folder.display())]
    Busy { folder: PathBuf },

    /// A folder that was begun with other settings or other input.
    #[error("{} was begun with {what} {got}, not {expected}", folder.display())]
    OtherRun { folder: PathBuf, what: String, expected: String, got: String },

    /// A folder that a run has not finished.
    #[error("{} is not finished", folder.display())]
    Unfinished { folder: PathBuf },

    /// A shard or manifest that contradicts itself or its format.
    #[error("{}: {what} should be {expected}, got {got}", path.display())]
    Format { path: PathBuf, what: &'static str, expected: String, got: String },

    /// Content that is not what was written.
    #[error("{} has sha256 {got}, expected {expected}", path.display())]
    Hash { path: PathBuf, expected: Hash, got: Hash },

    /// Shards of another vocabulary.
    #[error("{} was made by the tokenizer {got}, not {expected}", path.display())]
    Tokenizer { path: PathBuf, expected: Hash, got: Hash },

    /// A setting outside its range.
    #[error("{what} is {got}, expected {expected}")]
    Setting { what: String, got: String, expected: String },

    /// A place in the data that belongs to other data or settings.
    #[error("the cursor belongs to {got}, these data and settings are {expected}")]
    Cursor { expected: Hash, got: Hash },
}

/// Why a record is no document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Fault {
    #[error("not UTF-8 at byte {at}")]
    NotUtf8 { at: usize },
    #[error("not JSON: {reason}")]
    NotJson { reason: String },
    #[error("no field {field:?}")]
    NoField { field: String },
    #[error("the field {field:?} is no text")]
    NotText { field: String },
    #[error("longer than {limit} bytes")]
    TooLong { limit: u64 },
    #[error("a column has more than {limit} values in it")]
    TooMany { limit: usize },
    #[error("empty")]
    Empty,
    #[error("no token stands for any of it")]
    NoTokens,
    #[error("no dialogue to learn from: {reason}")]
    NoDialogue { reason: String },
    #[error("the chosen answer is only {strength}")]
    Weak { strength: &'static str },
    #[error("the answers are alike")]
    Similar,
}

impl Fault {
    /// The name under which the ledger counts it.
    pub fn reason(&self) -> &'static str {
        match self {
            Fault::NotUtf8 { .. } => "not_utf8",
            Fault::NotJson { .. } => "not_json",
            Fault::NoField { .. } => "no_field",
            Fault::NotText { .. } => "not_text",
            Fault::TooLong { .. } | Fault::TooMany { .. } => "too_long",
            Fault::Empty => "empty",
            Fault::NoTokens => "no_tokens",
            Fault::NoDialogue { .. } => "no_dialogue",
            Fault::Weak { .. } => "weak",
            Fault::Similar => "similar",
        }
    }

    /// Whether a corpus may hold such records without being broken.
    pub fn is_harmless(&self) -> bool {
        matches!(self, Fault::Empty | Fault::Weak { .. } | Fault::Similar)
    }
}

impl DataError {
    /// The error of a system call on `path`; `action` completes "cannot ...".
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataError {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                DataError::DiskFull { path }
            }
            _ => DataError::Io { action, path, source },
        }
    }

    /// What the user can do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            DataError::DiskFull { .. } => Some("make room and run this again: it goes on"),
            DataError::Record { fault: Fault::NoField { .. } | Fault::NotText { .. }, .. } => {
                Some("name the field with --field, or pass over such rows with --skip-bad")
            }
            DataError::Record { fault: Fault::TooLong { .. }, .. } => {
                Some("cut the text into documents, a line of JSON each")
            }
            DataError::Record { .. } => Some("pass over such rows with --skip-bad"),
            DataError::Column { .. } => Some("name the column with --field"),
            DataError::SameName { .. } => Some("name them apart: --input NAME=PATH"),
            DataError::OtherRun { .. } => Some("choose another folder, or remove this one"),
            DataError::Unfinished { .. } => Some("run the same `herd data tokenize` again"),
            DataError::Hash { .. } => {
                Some("remove the file and run the same `herd data tokenize` again")
            }
            DataError::Busy { .. } => Some("wait for it to end, or stop it"),
            DataError::Tokenizer { .. } => {
                Some("take the tokenizer the shards were made by, or tokenize again")
            }
            DataError::Io { .. }
            | DataError::Kind { .. }
            | DataError::Name { .. }
            | DataError::Expands { .. }
            | DataError::Parquet { .. }
            | DataError::NoDocuments { .. }
            | DataError::Encode { .. }
            | DataError::Format { .. }
            | DataError::Setting { .. }
            | DataError::Cursor { .. } => None,
        }
    }
}
