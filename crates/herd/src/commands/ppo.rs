//! `herd ppo`: a model answers prompts, and learns from what turned out better than it expected.

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::training;

pub use crate::training::RunFlags as Flags;

/// Trains to the last step, or goes on where the folder's run stopped.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let config = herd_train::ppo::read(&flags.config, &flags.set)?;
    training::run(flags, config, "ppo", herd_train::ppo, console)?;
    Ok(Verdict::Done)
}
