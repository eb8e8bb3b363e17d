//! `herd pretrain`: from shards or text to a model.

use herd_train::{RunConfig, Trainer, presets};

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::flags::range;
use crate::training::{self, RunFlags};

/// Flags of `herd pretrain`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(flatten)]
    run: RunFlags,
    /// One dial for small runs: so many layers, and the rest by rule where FILE does not say
    #[arg(long, value_name = "N", value_parser = range(1, 128))]
    depth: Option<usize>,
    /// Train nothing: write the first weights into checkpoints/step-0, and the batches of the first
    /// N steps and of the validation into batches.safetensors
    #[arg(long, value_name = "N")]
    export: Option<u64>,
}

/// Trains to the last step, or goes on where the folder's run stopped.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let (file, set) = (&flags.run.config, &flags.run.set);
    let mut config = RunConfig::read(file, set)?;
    if let Some(depth) = flags.depth {
        let vocab = training::words(&config.tokenizer)?.tokenizer.vocab_size();
        config = RunConfig::read_over(file, set, |_| presets::of_depth(depth, vocab))?;
    }
    let stage = |run: &mut Trainer<'_>| match flags.export {
        None => herd_train::pretrain(run),
        Some(steps) => training::export(run, steps, console),
    };
    training::run(&flags.run, config, "pretrain", stage, console)?;
    Ok(Verdict::Done)
}
