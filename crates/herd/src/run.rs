//! Makes a model ready to run: finds it, plans its memory, loads it.

use std::path::PathBuf;
use std::sync::Arc;

use herd_codec::Tokenizer;
use herd_model::checkpoint::Checkpoint;
use herd_model::llama::Llama;
use herd_tensor::Device;

use crate::error::Error;
use crate::flags::ModelFlags;
use crate::store::Store;
use crate::vocabulary;

/// A loaded model with its tokenizer.
pub struct Ready {
    /// The file or folder.
    pub path: PathBuf,
    /// The weights.
    pub model: Arc<Llama>,
    /// Text to ids and back.
    pub tokenizer: Arc<Tokenizer>,
    /// Tokens of context asked for.
    pub context: usize,
}

/// Loads the model that the flags name; `context` where they give none, else the model's own.
pub fn load(flags: &ModelFlags, context: Option<usize>) -> Result<Ready, Error> {
    let path = Store::open()?.resolve_file(&flags.model)?;
    let tokenizer = Arc::new(vocabulary::load(&path)?);
    let (model, context) = load_model(flags, context)?;
    Ok(Ready { path, model, tokenizer, context })
}

/// The same without a tokenizer.
pub fn load_model(
    flags: &ModelFlags,
    context: Option<usize>,
) -> Result<(Arc<Llama>, usize), Error> {
    let path = Store::open()?.resolve_file(&flags.model)?;
    let checkpoint = Checkpoint::open(&path)?;
    let own = checkpoint.config.context;
    let context = flags.ctx_size.or(context).unwrap_or(own);
    if context == 0 {
        let expected = "at least 1".to_owned();
        return Err(Error::Value { what: "--ctx-size", got: "0".to_owned(), expected });
    }
    let device = Device::cpu(flags.class()?, flags.threads()?);
    let model = Llama::load(&checkpoint, &device, context)?;
    Ok((Arc::new(model), context))
}
