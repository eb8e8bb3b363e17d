//! `herd dpo`: a model learns which of two answers is better.

use herd_train::Trainer;

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::training::{self, RunFlags};

/// Flags of `herd dpo`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(flatten)]
    run: RunFlags,
    /// Train nothing: write the first weights into checkpoints/step-0, and the batches of the first
    /// N steps and of the validation into batches.safetensors
    #[arg(long, value_name = "N")]
    export: Option<u64>,
}

/// Trains to the last step, or goes on where the folder's run stopped.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let config = herd_train::dpo::read(&flags.run.config, &flags.run.set)?;
    let stage = |run: &mut Trainer<'_>| match flags.export {
        None => herd_train::dpo(run),
        Some(steps) => training::export(run, steps, console),
    };
    training::run(&flags.run, config, "dpo", stage, console)?;
    Ok(Verdict::Done)
}
