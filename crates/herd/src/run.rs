//! Makes a model ready to run: finds it, checks that it fits, loads it.

use std::sync::Arc;

use herd_model::checkpoint::Checkpoint;
use herd_model::llama::Llama;
use herd_tensor::Device;

use crate::about::About;
use crate::error::Error;
use crate::flags::ModelFlags;
use crate::store::Store;

/// A loaded model.
pub struct Ready {
    /// What its files say besides weights.
    pub about: Arc<About>,
    /// The weights.
    pub model: Arc<Llama>,
    /// Tokens of context.
    pub context: usize,
}

/// Loads the model that the flags name, with its tokenizer; `context` where they give none, else
/// the model's own.
pub fn load(flags: &ModelFlags, context: Option<usize>) -> Result<Ready, Error> {
    let (checkpoint, context) = open(flags, context)?;
    let about = Arc::new(About::read(&checkpoint)?);
    let device = Device::cpu(flags.class()?, flags.threads()?);
    let model = Arc::new(Llama::load(&checkpoint, &device, context)?);
    Ok(Ready { about, model, context })
}

fn open(flags: &ModelFlags, context: Option<usize>) -> Result<(Checkpoint, usize), Error> {
    let checkpoint = Checkpoint::open(Store::open()?.resolve(&flags.model)?)?;
    let own = checkpoint.config.context;
    match flags.ctx_size {
        None => Ok((checkpoint, context.unwrap_or(own))),
        Some(n) if (1..=own).contains(&n) => Ok((checkpoint, n)),
        Some(n) => {
            let expected = format!("between 1 and the model's {own}");
            Err(Error::Value { what: "--ctx-size", got: n.to_string(), expected })
        }
    }
}
