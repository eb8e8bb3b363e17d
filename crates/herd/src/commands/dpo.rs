//! `herd dpo`: a model learns which of two answers is better.

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::training;

pub use crate::training::StageFlags as Flags;

/// Trains to the last step, or goes on where the folder's run stopped.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let config = herd_train::dpo::read(&flags.run.config, &flags.run.set)?;
    training::run_or_export(flags, config, "dpo", herd_train::dpo, console)?;
    Ok(Verdict::Done)
}
