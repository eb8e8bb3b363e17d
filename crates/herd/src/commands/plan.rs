//! `herd plan`: how much memory a model or a run takes at its peak, and whether that is there.

use std::path::{Path, PathBuf};

use herd_engine::plan::Plan;
use herd_tensor::Device;
use herd_train::plan::{plan, savings};
use herd_train::schedule::tokens_in_all;
use herd_train::{RunConfig, TrainError};
use serde_json::json;

use crate::commands::bench_train;
use crate::console::{Console, Verdict, bytes};
use crate::error::Error;
use crate::flags::{KvFlag, ModelFlags};
use crate::machine::machine;
use crate::{flags, live, run, training};

/// Flags of `herd plan`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Plan a training run by its settings instead of a model
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "ctx_size", "kv"])]
    config: Option<PathBuf>,
    /// Override a setting: `--set optim.lr=3e-4`
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = training::pair, requires = "config")]
    set: Vec<(String, String)>,
    #[command(flatten)]
    model: Option<ModelFlags>,
    #[command(flatten)]
    kv: KvFlag,
}

/// Prints the parts; the answer is no if they do not fit.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    if let Some(config) = &flags.config {
        return training(config, &flags.set, console);
    }
    let Some(model) = &flags.model else {
        let problem = "nothing to plan: give a model with -m, or a run with --config".to_owned();
        return Err(Error::Command { problem });
    };
    let (checkpoint, limits) = run::open(model, &flags.kv, None)?;
    let plan = Plan::new(&checkpoint, limits)?;
    let available = machine().memory_available_bytes;
    let fits = run::fits(&plan, available);
    let most = plan.context_that_fits(&checkpoint.config, limits, available as usize);
    let parts = [
        ("weights", plan.weights),
        ("cache", plan.cache),
        ("activations", plan.activations),
        ("logits", plan.logits),
        ("rest", plan.rest),
    ];
    if console.json {
        let parts: serde_json::Map<String, serde_json::Value> =
            parts.into_iter().map(|(name, bytes)| (name.to_owned(), json!(bytes))).collect();
        console.print_json(&json!({
            "context": limits.context,
            "parts": parts,
            "peak_bytes": plan.peak(),
            "available_bytes": available,
            "fits": fits,
            "context_that_fits": most,
        }))?;
    } else {
        for (name, size) in parts {
            console.print(format!("{name:<12} {:>11}", bytes(size as u64)))?;
        }
        let (peak, free) = (bytes(plan.peak() as u64), bytes(available));
        console.print(format!("{:<12} {peak:>11} with a context of {}", "peak", limits.context))?;
        let answer = match (fits, most) {
            (true, _) => format!("fits into the {free} that are free"),
            (false, Some(n)) => format!("does not fit into {free}; a context of {n} would"),
            (false, None) => format!("does not fit into {free} with any context"),
        };
        console.print(answer)?;
    }
    Ok(if fits { Verdict::Done } else { Verdict::No })
}

/// The settings of a run; one over dialogues is known by its `[chat]`.
fn settings(file: &Path, set: &[(String, String)]) -> Result<RunConfig, TrainError> {
    let error = match RunConfig::read(file, set) {
        Err(TrainError::InFile { source, .. }) => source,
        read => return read,
    };
    match *error {
        TrainError::Key { key, .. } if key == "distill" => herd_train::distill::read(file, set),
        TrainError::Key { key, .. }
            if ["chat", "dpo", "grpo", "ppo", "reward"].contains(&key.as_str()) =>
        {
            herd_train::dpo::read_either(file, set)
        }
        other => Err(TrainError::InFile { path: file.into(), source: Box::new(other) }),
    }
}

/// The plan of a run: memory by part, disk, and time as a short trial foretells it.
fn training(config: &Path, set: &[(String, String)], console: &Console) -> Result<Verdict, Error> {
    let config = settings(config, set)?;
    let words = training::words(&config.tokenizer)?;
    let shape = herd_train::network(&config, &words)?;
    let device = Device::cpu(flags::class(None)?, flags::threads(None)?);
    let plan = plan(&config, &shape, device.threads());
    let available = machine().memory_available_bytes;
    let fits = available == 0 || plan.peak() <= available;
    let changes: Vec<(String, u64)> = savings(&config, &shape, device.threads())
        .into_iter()
        .map(|(change, plan)| (change, plan.peak()))
        .filter(|(_, peak)| *peak <= available)
        .collect();
    let tokens = tokens_in_all(&config.batch, config.optim.steps);
    let seconds = tokens as f64 * bench_train::seconds_a_token(&config, &shape, &device);
    if console.json {
        let parts: serde_json::Map<String, serde_json::Value> =
            plan.parts().iter().map(|(name, bytes)| ((*name).to_owned(), json!(bytes))).collect();
        console.print_json(&json!({
            "parts": parts,
            "peak_bytes": plan.peak(),
            "available_bytes": available,
            "fits": fits,
            "would_fit": changes.iter().map(|(change, _)| change).collect::<Vec<_>>(),
            "disk_bytes": plan.disk,
            "params": shape.params(),
            "tokens": tokens,
            "seconds": seconds,
        }))?;
        return Ok(if fits { Verdict::Done } else { Verdict::No });
    }
    for (name, size) in plan.parts() {
        console.print(format!("{name:<12} {:>11}", bytes(size)))?;
    }
    console.print(format!("{:<12} {:>11}", "peak", bytes(plan.peak())))?;
    console.print(format!("{:<12} {:>11}", "disk", bytes(plan.disk)))?;
    console.print(format!("{:<12} {:>11}", "time", live::duration(seconds)))?;
    let free = bytes(available);
    console.print(match (fits, changes.first()) {
        (true, _) => format!("fits into the {free} that are free"),
        (false, Some((change, peak))) => {
            format!("does not fit into {free}; {change} would: {}", bytes(*peak))
        }
        (false, None) => format!("does not fit into {free}; take a smaller model"),
    })?;
    Ok(if fits { Verdict::Done } else { Verdict::No })
}
