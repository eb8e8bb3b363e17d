//! Makes a model ready to run: finds it, checks that it fits into memory, loads it.

use std::path::Path;
use std::sync::Arc;

use herd_data::Hash;
use herd_engine::Limits;
use herd_engine::plan::Plan;
use herd_model::checkpoint::Checkpoint;
use herd_model::llama::{Adapter, Llama};
use herd_model::names::Part;
use herd_tensor::Device;
use herd_train::weights_hash;

use crate::about::About;
use crate::error::Error;
use crate::flags::{KvFlag, ModelFlags};
use crate::machine::machine;
use crate::store::Store;

/// A loaded model.
pub struct Ready {
    /// What its files say besides weights.
    pub about: Arc<About>,
    /// The weights.
    pub model: Arc<Llama>,
    /// Its context, and how keys and values are stored.
    pub limits: Limits,
}

/// Loads the model that the flags name, with its tokenizer; `context` where they give none, else
/// the model's own. What does not fit into memory is refused.
pub fn load(flags: &ModelFlags, kv: &KvFlag, context: Option<usize>) -> Result<Ready, Error> {
    let (checkpoint, limits) = open(flags, kv, context)?;
    ready(&checkpoint, limits, flags)
}

/// Loads an open model with its tokenizer, if it fits into memory.
pub fn ready(checkpoint: &Checkpoint, limits: Limits, flags: &ModelFlags) -> Result<Ready, Error> {
    check_memory(checkpoint, limits)?;
    let about = Arc::new(About::adapted(checkpoint, flags.lora.as_deref())?);
    let device = Device::cpu(flags.class()?, flags.threads()?);
    let plain = Llama::load(checkpoint, &device, limits.context)?;
    let model = Arc::new(match &flags.lora {
        None => plain,
        Some(folder) => plain.adapted(&Adapter::open(folder, &checkpoint.config)?),
    });
    Ok(Ready { about, model, limits })
}

/// What names the weights that are run: those of a checkpoint, and of the adapter beside it. Reads all of them.
pub fn identity(checkpoint: &Checkpoint, lora: Option<&Path>) -> Result<String, Error> {
    let hash = weights_hash(checkpoint)?;
    let Some(folder) = lora else { return Ok(hash.to_string()) };
    let of = |name: &str| Hash::of_file(&folder.join(name));
    let (settings, weights) = (of("adapter_config.json")?, of("adapter_model.safetensors")?);
    Ok(format!("{hash}+{}", Hash::of(format!("{settings} {weights}").as_bytes())))
}

/// Errors: the model does not fit into memory under these limits.
pub fn check_memory(checkpoint: &Checkpoint, limits: Limits) -> Result<(), Error> {
    let plan = Plan::new(checkpoint, limits)?;
    let available = machine().memory_available_bytes;
    if fits(&plan, available) {
        return Ok(());
    }
    let most = plan.context_that_fits(&checkpoint.config, limits, available as usize);
    let (needed, context) = (plan.peak() as u64, limits.context);
    Err(Error::Memory { needed, available, context, most })
}

/// Opens the model that the flags name, and the limits of one request at a time.
pub fn open(
    flags: &ModelFlags,
    kv: &KvFlag,
    context: Option<usize>,
) -> Result<(Checkpoint, Limits), Error> {
    let checkpoint = Checkpoint::open(Store::open()?.resolve(&flags.model)?)?;
    let own = checkpoint.config.context;
    let context = match flags.ctx_size {
        None => context.unwrap_or(own).min(own),
        Some(n) if (1..=own).contains(&n) => n,
        Some(n) => {
            let expected = format!("between 1 and the model's {own}");
            return Err(Error::Value { what: "--ctx-size", got: n.to_string(), expected });
        }
    };
    let kv = kv.format(checkpoint.format(Part::Down(0))?)?;
    Ok((checkpoint, Limits { kv, ..Limits::single(context) }))
}

/// Whether the plan fits; yes where the system does not say what is free.
pub fn fits(plan: &Plan, available: u64) -> bool {
    available == 0 || plan.peak() as u64 <= available
}
