//! `herd grpo`: a model answers prompts, and learns from the answers that are better than its others.

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::training;

pub use crate::training::RunFlags as Flags;

/// Trains to the last step, or goes on where the folder's run stopped.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let config = herd_train::grpo::read(&flags.config, &flags.set)?;
    training::run(flags, config, "grpo", herd_train::grpo, console)?;
    Ok(Verdict::Done)
}
