//! What can go wrong in measuring.

use std::io;
use std::path::{Path, PathBuf};

use herd_data::DataError;
use herd_sandbox::SandboxError;

/// Why a model could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A task's page is wrong.
    #[error("task {task}: {what}")]
    Task {
        /// Its name, or its file.
        task: String,
        /// What is wrong.
        what: String,
    },
    /// No task of that name.
    #[error("there is no task {name:?}{}", near.as_ref().map(|n| format!("; did you mean {n}?")).unwrap_or_default())]
    Unknown {
        /// What was asked for.
        name: String,
        /// The nearest that there is.
        near: Option<String>,
    },
    /// A task's rows are not there.
    #[error("task {task}: none of {} is in {}", files.join(", "), folder.display())]
    NoRows {
        /// The task.
        task: String,
        /// The names looked for.
        files: Vec<String>,
        /// Where.
        folder: PathBuf,
    },
    /// A row that the task cannot read.
    #[error("task {task}, row {row} of {}: {what}", path.display())]
    Row {
        /// The task.
        task: String,
        /// The file.
        path: PathBuf,
        /// The row, from 1 on.
        row: u64,
        /// What is wrong.
        what: String,
    },
    /// A file of data cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An endpoint gives no answer, however often it is asked.
    #[error("{url}: {what}")]
    Endpoint {
        /// What was asked.
        url: String,
        /// What came instead.
        what: String,
    },
    /// A task could not be gone on with; what is done stands.
    #[error("task {task}: {stand} of {items} items stand and the same command goes on: {source}")]
    Held {
        /// The task.
        task: String,
        /// Items with a receipt.
        stand: usize,
        /// Items in all.
        items: usize,
        /// Why.
        source: Box<EvalError>,
    },
    /// A row that the scorer cannot score by.
    #[error("row {row}: {what}")]
    Reference {
        /// The row, from 1 on.
        row: u64,
        /// What is wrong.
        what: String,
    },
    /// A program that was written cannot be run.
    #[error("row {row}: the sandbox cannot run the answer")]
    Program {
        /// The row, from 1 on.
        row: u64,
        /// Why.
        source: SandboxError,
    },
    /// No program can be run.
    #[error("answers are programs, and nothing can run them")]
    Sandbox(#[source] SandboxError),
    /// The model fails.
    #[error("{0}")]
    Model(String),
    /// A folder of results that cannot be gone on with.
    #[error("{}: {what}", path.display())]
    Results {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The system.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The run was stopped; the same command goes on.
    #[error("stopped; the same command goes on")]
    Stopped,
}

impl EvalError {
    /// What to try, where something is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            EvalError::Program { source, .. } | EvalError::Sandbox(source) => source.hint(),
            EvalError::Held { source, .. } => match **source {
                EvalError::Endpoint { .. } => {
                    Some("--attempts, --pause-ms and --timeout say how long it is waited for")
                }
                _ => source.hint(),
            },
            EvalError::Results { .. } => {
                Some("another --out, or remove what stands there to measure anew")
            }
            EvalError::NoRows { .. } => {
                Some("--data names the folder of rows; docs/evaluation.md says in which form")
            }
            _ => None,
        }
    }

    /// For `map_err`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EvalError + use<> {
        let path = path.to_owned();
        move |source| EvalError::Io { action, path, source }
    }
}
