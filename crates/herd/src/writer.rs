//! Who writes: a checkpoint of this machine, or an endpoint that the settings name.

mod endpoint;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use herd_codec::Tokenizer;
use herd_engine::plan::Plan;
use herd_model::checkpoint::Checkpoint;
use herd_tensor::Device;
use herd_train::TrainError;
use herd_train::config::ChatConfig;
use herd_train::rejection::limits;
use herd_train::writer::{AskConfig, Local, Question, Tell, WriterConfig};

use crate::commands::sample::{fitting, policy};
use crate::console::Console;
use crate::error::Error;
use crate::store::Store;
pub use endpoint::Endpoint;

/// A writer, ready to be asked.
pub enum Source {
    /// A checkpoint.
    Local(Box<Local>),
    /// An endpoint.
    Endpoint(Endpoint),
}

/// What opening a writer looks at.
pub struct Wanted<'a> {
    pub writer: &'a WriterConfig,
    pub ask: &'a AskConfig,
    pub chat: &'a ChatConfig,
    /// The folder that paths are relative to.
    pub base: &'a Path,
    pub device: &'a Device,
    /// Whether going online is forbidden.
    pub offline: bool,
}

/// Opens the writer of some settings.
///
/// Errors: a checkpoint that cannot be opened or does not fit; an endpoint that needs the network where that is
/// forbidden, or a key that is not there.
pub fn open(wanted: &Wanted<'_>, console: &Console) -> Result<Source, Error> {
    let Wanted { writer, ask, chat, base, device, offline } = *wanted;
    if let Some(url) = &writer.base_url {
        if offline {
            return Err(Error::Offline { what: format!("the writer at {url}") });
        }
        return Ok(Source::Endpoint(Endpoint::new(url, writer, ask.parallel)?));
    }
    let checkpoint = Checkpoint::open(&find(&writer.model, base)?)?;
    let limits = |parallel| limits(ask.context, parallel);
    let needed = |parallel| Ok(Plan::new(&checkpoint, limits(parallel))?.peak() as u64);
    let parallel = fitting(ask.parallel, needed, "a smaller sample.context", console)?;
    let path = writer.model.display().to_string();
    let policy = policy(&checkpoint, path, chat, limits(parallel), device)?;
    Ok(Source::Local(Box::new(Local::new(policy))))
}

/// A checkpoint beside the settings, else by its name in the store.
pub fn find(model: &Path, base: &Path) -> Result<PathBuf, Error> {
    let beside = base.join(model);
    if beside.exists() { Ok(beside) } else { Store::open()?.resolve(&model.display().to_string()) }
}

impl Source {
    /// Names its weights, as far as they are known.
    pub fn hash(&self) -> String {
        match self {
            Source::Local(local) => local.policy().hash.to_string(),
            Source::Endpoint(endpoint) => endpoint.model.clone(),
        }
    }

    /// What makes tokens of texts; an endpoint does not tell.
    pub fn tokenizer(&self) -> Option<std::sync::Arc<Tokenizer>> {
        match self {
            Source::Local(local) => Some(std::sync::Arc::clone(&local.policy().tokenizer)),
            Source::Endpoint(_) => None,
        }
    }

    /// Answers questions; see `herd_train::writer::Writer`.
    pub fn answer(
        &mut self,
        questions: &[Question],
        stop: &AtomicBool,
        tell: &mut Tell<'_>,
    ) -> Result<(), TrainError> {
        match self {
            Source::Local(local) => local.answer(questions, stop, tell),
            Source::Endpoint(endpoint) => endpoint.answer(questions, stop, tell),
        }
    }
}
