//! `herd reward`: a model learns to say by a number how good an answer is.

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::training;

pub use crate::training::RunFlags as Flags;

/// Trains to the last step, or goes on where the folder's run stopped.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let config = herd_train::reward::read(&flags.config, &flags.set)?;
    training::run(flags, config, "reward", herd_train::reward, console)?;
    Ok(Verdict::Done)
}
