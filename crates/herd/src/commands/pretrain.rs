//! `herd pretrain`: from shards or text to a model.

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::training::{self, RunFlags};
use herd_train::RunConfig;

/// Flags of `herd pretrain`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(flatten)]
    run: RunFlags,
}

/// Trains to the last step, or goes on where the folder's run stopped.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let config = RunConfig::read(&flags.run.config, &flags.run.set)?;
    training::run(&flags.run, config, "pretrain", herd_train::pretrain, console)?;
    Ok(Verdict::Done)
}
