//! Annealing: the learning rate goes to zero on the best texts, and the model is the mean of the
//! checkpoints on the way (arXiv 2407.21783, section 3.4.3).

use crate::average::{Job, Parent, average};
use crate::config::{AverageConfig, CheckpointConfig, Decay, OptimConfig, RunConfig};
use crate::error::TrainError;
use crate::metrics::Line;
use crate::pretrain::pretrain;
use crate::trainer::{Trainer, guarded};
use crate::{state, validate};
use herd_model::Checkpoint;
use herd_model::names::Style;
use std::path::{Path, PathBuf};

/// Reads the settings of an annealing run: a line to zero without warm-up, unless they say
/// otherwise.
///
/// Errors: those of [`RunConfig::read`]; no `model.init`; an average of checkpoints that no run
/// writes.
pub fn read(path: &Path, overrides: &[(String, String)]) -> Result<RunConfig, TrainError> {
    let config = RunConfig::read_over(path, overrides, base)?;
    resolved(config).map_err(|e| TrainError::InFile { path: path.into(), source: Box::new(e) })
}

fn base(preset: RunConfig) -> RunConfig {
    let optim =
        OptimConfig { decay: Decay::Linear, min_lr_ratio: 0.0, warmup_steps: 0, ..preset.optim };
    RunConfig { optim, average: Some(AverageConfig { every: 0 }), ..preset }
}

/// The same with every number in the open: which checkpoints stay, and which are averaged.
fn resolved(config: RunConfig) -> Result<RunConfig, TrainError> {
    if config.model.init.is_none() {
        return Err(TrainError::no("model.init", "nothing", "the checkpoint to anneal"));
    }
    if config.model.lora.is_some() {
        return Err(TrainError::no("model.lora", "given", "nothing: LoRA has no average"));
    }
    let saved_every = config.checkpoint.every;
    let every = match config.average {
        Some(AverageConfig { every }) if every > 0 => every,
        Some(_) | None => saved_every,
    };
    if !every.is_multiple_of(saved_every) {
        return Err(TrainError::no("average.every", every, "a multiple of checkpoint.every"));
    }
    let checkpoint = CheckpointConfig { keep_every: every, ..config.checkpoint };
    Ok(RunConfig { checkpoint, average: Some(AverageConfig { every }), ..config })
}

/// Runs to the last step and writes the mean of the checkpoints as `model` into the run's folder,
/// or runs until it is asked to stop.
///
/// Errors: those of [`pretrain`]; a checkpoint that is gone.
pub fn anneal(run: &mut Trainer<'_>) -> Result<(), TrainError> {
    pretrain(run)?;
    if run.step() < run.config.optim.steps {
        return Ok(());
    }
    let (folder, of) = (run.folder.join("model"), averaged(&run.config));
    if !folder.join("config.json").is_file() {
        write_average(run, &of, &folder)?;
    }
    measure(run, of, &folder)
}

/// The steps of the checkpoints that are averaged: by the settings alone, so that those which an
/// interrupt left do not count.
fn averaged(config: &RunConfig) -> Vec<u64> {
    let (steps, every) = (config.optim.steps, config.average.as_ref().map_or(0, |a| a.every));
    let mut of: Vec<u64> = (1..=steps / every.max(1)).map(|n| n * every.max(1)).collect();
    if of.last() != Some(&steps) {
        of.push(steps);
    }
    of
}

fn write_average(run: &Trainer<'_>, of: &[u64], folder: &Path) -> Result<(), TrainError> {
    let paths: Vec<PathBuf> =
        of.iter().map(|step| state::step_folder(&run.checkpoints, *step)).collect();
    let parents: Vec<Parent<'_>> = paths.iter().map(|path| Parent { path, weight: 1.0 }).collect();
    let tool = concat!("herd ", env!("CARGO_PKG_VERSION"));
    let job = Job { parents: &parents, out: folder, files: &run.words.files, tool };
    Ok(average(&job, &mut |_, _| ())?)
}

/// Measures the mean on the held-out text. The run is over: its weights give way.
fn measure(run: &mut Trainer<'_>, of: Vec<u64>, folder: &Path) -> Result<(), TrainError> {
    let checkpoint = Checkpoint::open(folder)?;
    debug_assert_eq!(checkpoint.style, Style::Hf);
    for named in run.model.params() {
        named.param.set_master(&checkpoint.part(named.part)?.unpack());
    }
    let step = run.step();
    let line = guarded(step, "validation", || {
        Ok(validate::measure(run)?.map(|measured| match measured.line(step) {
            Line::Validation { step, loss, bpb: Some(bpb), by_source, .. } => {
                Line::Average { step, of, loss, bpb, by_source }
            }
            other => other,
        }))
    });
    let Some(line) = line else { return Ok(()) };
    run.write(&line)?;
    run.metrics.sync()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RunConfig, TrainError> {
        let head = "tokenizer = \"t\"\ndata.input = [\"a\"]\n";
        resolved(RunConfig::parse_over(&format!("{head}{text}"), &[], base)?)
    }

    #[test]
    fn the_rate_goes_to_zero_and_every_checkpoint_counts_unless_the_file_says_otherwise() {
        let config = parse("model.init = \"m\"\noptim.steps = 50").unwrap();
        assert_eq!(crate::schedule::lr(&config.optim, 50), 0.0);
        assert_eq!(averaged(&config), [20, 40, 50]);
        assert_eq!(config.checkpoint.keep_every, 20);
        let config = parse("model.init = \"m\"\noptim.steps = 80\naverage.every = 40").unwrap();
        assert_eq!(averaged(&config), [40, 80]);
    }

    #[test]
    fn settings_that_cannot_be_annealed_are_named() {
        let error = |text: &str| parse(text).unwrap_err().to_string();
        assert!(error("").contains("model.init"));
        assert!(error("model.init = \"m\"\naverage.every = 30").contains("average.every"));
    }
}
