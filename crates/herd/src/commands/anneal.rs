//! `herd anneal`: the learning rate to zero, and the mean of what it passed through.

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::training::{self, RunFlags};
use herd_train::anneal;

/// Flags of `herd anneal`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(flatten)]
    run: RunFlags,
}

/// Trains to the last step and averages, or goes on where the folder's run stopped.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let config = anneal::read(&flags.run.config, &flags.run.set)?;
    training::run(&flags.run, config, "anneal", anneal::anneal, console)?;
    Ok(Verdict::Done)
}
