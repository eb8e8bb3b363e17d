//! `herd pretrain`: from shards or text to a model.

use herd_train::{RunConfig, presets};

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::flags::range;
use crate::training::{self, StageFlags};

/// Flags of `herd pretrain`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(flatten)]
    stage: StageFlags,
    /// One dial for small runs: so many layers, and the rest by rule where FILE does not say
    #[arg(long, value_name = "N", value_parser = range(1, 128))]
    depth: Option<usize>,
}

/// Trains to the last step, or goes on where the folder's run stopped.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let (file, set) = (&flags.stage.run.config, &flags.stage.run.set);
    let mut config = RunConfig::read(file, set)?;
    if let Some(depth) = flags.depth {
        let vocab = training::words(&config.tokenizer)?.tokenizer.vocab_size();
        config = RunConfig::read_over(file, set, |_| presets::of_depth(depth, vocab))?;
    }
    training::run_or_export(&flags.stage, config, "pretrain", herd_train::pretrain, console)?;
    Ok(Verdict::Done)
}
