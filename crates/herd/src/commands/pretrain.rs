//! `herd pretrain`: from shards or text to a model.

use herd_train::Trainer;

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::training::{self, RunFlags};
use herd_train::RunConfig;

/// Flags of `herd pretrain`.
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
    let config = RunConfig::read(&flags.run.config, &flags.run.set)?;
    let stage = |run: &mut Trainer<'_>| match flags.export {
        None => herd_train::pretrain(run),
        Some(steps) => {
            let path = herd_train::export(run, steps)?;
            console.note(format!("wrote {}", path.display()));
            Ok(())
        }
    };
    training::run(&flags.run, config, "pretrain", stage, console)?;
    Ok(Verdict::Done)
}
