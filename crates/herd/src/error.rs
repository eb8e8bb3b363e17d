//! Why a command could not do its work, and what to try.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::console::{bytes, visible};

/// The errors of the program itself; those of the crates below pass through with their causes.
#[derive(Debug, Error)]
#[allow(missing_docs)] // each message names its fields
pub enum Error {
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },

    #[error("cannot write to standard output")]
    Output(#[source] io::Error),

    #[error("cannot read standard input")]
    Input(#[source] io::Error),

    #[error("no place for models: neither HERD_HOME, XDG_DATA_HOME nor HOME is set")]
    NoHome,

    #[error("{name:?} is not a model name: {reason}")]
    Name { name: String, reason: &'static str },

    #[error("no file, folder or model named {name:?}")]
    NoModel { name: String, nearest: Option<String> },

    #[error("{} holds {} model files: {}", folder.display(), files.len(), files.join(", "))]
    ManyFiles { folder: PathBuf, files: Vec<String> },

    #[error("{} holds no model file", folder.display())]
    NoFile { folder: PathBuf },

    #[error("another herd is pulling {name:?}")]
    Busy { name: String },

    #[error("{what} needs the network, and --offline forbids it")]
    Offline { what: String },

    #[error("no pip found: tried {tried}")]
    NoPip { tried: String },

    #[error("`{command}` ended with {status}")]
    Pip { command: String, status: String },

    #[error("{} is not the package expected: {what}", path.display())]
    Package { path: PathBuf, what: String },

    #[error("cannot reach {url}")]
    Network { url: String, source: Box<ureq::Error> },

    #[error("{url} answered {status}")]
    Status { url: String, status: u16 },

    #[error("{url} gave {what}")]
    Answer { url: String, what: String },

    #[error("the writer at {url} gave {what}")]
    Endpoint { url: String, what: String },

    #[error("{file} has sha256 {got}, expected {expected}")]
    Hash { file: String, expected: String, got: String },

    #[error("{model} has no file that matches {globs}")]
    NoMatch { model: String, globs: String, files: Vec<String> },

    #[error("{model} offers {} model files: {}", files.len(), files.join(", "))]
    Choose { model: String, files: Vec<String> },

    #[error("{} is {what}", path.display())]
    Json { path: PathBuf, what: String },

    #[error("no answer on a terminal: say --yes to remove {name}")]
    Unanswered { name: String },

    #[error("{what} is {got:?}, expected {expected}")]
    Value { what: &'static str, got: String, expected: String },

    #[error("{} holds neither tokenizer.json nor tokenizer.model", folder.display())]
    NoTokenizer { folder: PathBuf },

    #[error("the tokenizer of {} cannot be used", path.display())]
    Tokenizer { path: PathBuf, source: herd_codec::CodecError },

    #[error(
        "the model needs {} with a context of {context}, {} are free",
        bytes(*needed), bytes(*available)
    )]
    Memory { needed: u64, available: u64, context: usize, most: Option<usize> },

    #[error("the run needs {} at its peak, {} are free", bytes(*needed), bytes(*available))]
    RunMemory { needed: u64, available: u64, change: Option<String> },

    #[error("{problem}")]
    Command { problem: String },

    #[error("cannot read the chat template {name:?}")]
    Template { name: String, source: io::Error },

    #[error("{} says not how it chats", path.display())]
    NoTemplate { path: PathBuf },

    #[error(transparent)]
    Codec(#[from] herd_codec::CodecError),

    #[error(transparent)]
    Chat(#[from] herd_codec::chat::ChatError),

    #[error(transparent)]
    Data(#[from] herd_data::DataError),

    #[error(transparent)]
    Config(#[from] herd_model::ConfigError),

    #[error(transparent)]
    Sampling(#[from] herd_engine::sample::SampleError),

    #[error(transparent)]
    Request(#[from] herd_engine::RequestError),

    #[error("{} holds {holds}", folder.display())]
    Taken { folder: PathBuf, holds: String },

    #[error("the schema is no JSON: {0}")]
    Schema(String),

    #[error("the form of the answer: {0}")]
    Form(#[from] herd_engine::GrammarError),

    #[error(transparent)]
    Checkpoint(#[from] herd_model::CheckpointError),

    #[error(transparent)]
    Train(#[from] herd_train::TrainError),

    #[error(transparent)]
    Run(#[from] herd_train::runs::RunError),

    #[error(transparent)]
    Average(#[from] herd_train::average::AverageError),

    #[error(transparent)]
    Door(#[from] herd_serve::DoorError),

    #[error(transparent)]
    Eval(#[from] herd_eval::EvalError),

    #[error(transparent)]
    Arena(#[from] herd_serve::arena::ArenaError),

    #[error(transparent)]
    Agent(#[from] herd_serve::agent::AgentError),

    #[error(transparent)]
    Sandbox(#[from] herd_sandbox::SandboxError),

    #[error(transparent)]
    Files(#[from] herd_tensor::files::FileError),
}

impl Error {
    /// The error of a system call on `path`; `action` completes "cannot ...".
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    }

    /// What the user can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        self.advice().map(|text| visible(&text))
    }

    fn advice(&self) -> Option<String> {
        let text = match self {
            Error::NoHome => "set HERD_HOME to a folder for models",
            Error::Name { .. } => "names look like smollm2 or owner/name",
            Error::NoModel { nearest: Some(near), .. } => {
                return Some(format!("did you mean {near}?"));
            }
            Error::NoModel { nearest: None, .. } => {
                "`herd ls` lists models, `herd pull` brings one"
            }
            Error::ManyFiles { .. } => "give the path of one of them to -m",
            Error::Taken { .. } => "give --out a folder that is empty or not there",
            Error::Busy { .. } => "wait for it to end, or stop it, and run this again",
            Error::Offline { .. } => "leave out --offline",
            Error::NoPip { .. } => "install Python's pip (on Debian: apt install python3-pip)",
            Error::Pip { .. } => "its own message stands above; run this again to go on",
            Error::Network { .. } => "run this again to go on where it stopped",
            Error::Status { status: 401 | 403, .. } => {
                "the model may ask for consent: accept its licence at the hub and set HF_TOKEN"
            }
            Error::Status { status: 404, .. } => "check the spelling of owner, name and revision",
            Error::Status { .. } => "run this again later to go on where it stopped",
            Error::Endpoint { .. } => "run this again to go on: no answer is asked for twice",
            Error::Hash { .. } => "the bad file was removed; run this again",
            Error::NoMatch { files, .. } => return Some(format!("it has {}", files.join(", "))),
            Error::Choose { .. } => "choose with --file, for example --file '*Q4_K_M.gguf'",
            Error::Memory { most: Some(n), .. } => return Some(format!("--ctx-size {n} fits")),
            Error::Memory { most: None, .. } => "take a smaller model, or quantise this one",
            Error::RunMemory { change: Some(it), .. } => return Some(format!("{it} would fit")),
            Error::RunMemory { change: None, .. } => "take a smaller model or shorter rows",
            Error::Template { .. } => "--chat-template takes a name that --help lists, or a file",
            Error::NoTemplate { .. } => "say how with --chat-template, or use `herd complete`",
            Error::Schema(_) | Error::Form(_) => "`herd complete --help` names the forms",
            Error::Request(herd_engine::RequestError::Context { .. }) => {
                "give a shorter prompt or a larger --ctx-size; in a chat, /clear"
            }
            Error::Door(error) => return error.hint().map(str::to_owned),
            Error::Checkpoint(error) => return error.hint().map(str::to_owned),
            Error::Data(error) => return error.hint().map(str::to_owned),
            Error::Config(error) => return error.hint().map(str::to_owned),
            Error::Train(error) => return of_train(error),
            Error::Run(error) => return error.hint().map(str::to_owned),
            Error::Average(error) => return error.hint().map(str::to_owned),
            Error::Sandbox(error) => return error.hint().map(str::to_owned),
            Error::Eval(error) => return error.hint().map(str::to_owned),
            Error::Files(error) => return error.hint().map(str::to_owned),
            Error::Arena(error) => return error.hint().map(str::to_owned),
            Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "the disk is full; make room and run this again"
            }
            Error::Io { .. }
            | Error::Output(_)
            | Error::Input(_)
            | Error::NoFile { .. }
            | Error::Package { .. }
            | Error::Answer { .. }
            | Error::Json { .. }
            | Error::Codec(_)
            | Error::NoTokenizer { .. }
            | Error::Tokenizer { .. }
            | Error::Chat(_)
            | Error::Agent(_)
            | Error::Sampling(_)
            | Error::Request(_)
            | Error::Command { .. }
            | Error::Unanswered { .. }
            | Error::Value { .. } => return None,
        };
        Some(text.to_owned())
    }

    /// The message and its causes on one line, without control characters of files.
    pub fn line(&self) -> String {
        let mut line = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let text = error.to_string();
            if !line.contains(&text) {
                line = format!("{line}: {text}");
            }
            cause = error.source();
        }
        visible(&line.replace('\n', " "))
    }
}

/// What to try after an error of training; a writer's may be one of this program.
fn of_train(error: &herd_train::TrainError) -> Option<String> {
    match error {
        herd_train::TrainError::Writer { source } => {
            source.downcast_ref::<Error>().and_then(Error::advice)
        }
        other => other.hint(),
    }
}
