//! `herd sft`: a model learns the answers of dialogues.

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::training;

pub use crate::training::StageFlags as Flags;

/// Trains to the last step, or goes on where the folder's run stopped.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let config = herd_train::sft::read(&flags.run.config, &flags.run.set)?;
    training::run_or_export(flags, config, "sft", herd_train::sft, console)?;
    Ok(Verdict::Done)
}
