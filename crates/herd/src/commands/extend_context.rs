//! `herd extend-context`: longer texts, stage by stage.

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::training::{self, RunFlags};
use herd_train::extend_context::{self, Outcome};

/// Flags of `herd extend-context`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(flatten)]
    run: RunFlags,
}

/// Goes through the stages; the answer is no where one did not pass.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let config = extend_context::read(&flags.run.config, &flags.run.set)?;
    let name = extend_context::STAGE;
    let outcome =
        training::with_inputs(&flags.run, config, name, console, extend_context::extend_context)?;
    Ok(match outcome {
        Outcome::Extended(path) => {
            console.note(format!("the model stands in {}", path.display()));
            Verdict::Done
        }
        Outcome::Stopped => Verdict::Done,
        Outcome::Failed(verdict) => {
            console.note(format!("stage {} failed: {}", verdict.stage, verdict.failed.join("; ")));
            Verdict::No
        }
    })
}
