//! `herd plan`: how much memory a model or a run takes at its peak, and whether that is there.

use std::path::{Path, PathBuf};

use herd_engine::plan::Plan;
use herd_model::checkpoint::Checkpoint;
use herd_tensor::Device;
use herd_train::config::keys;
use herd_train::plan::{Sampling, Stage, plan, savings};
use herd_train::rejection::{self, RejectionConfig};
use herd_train::round::RoundConfig;
use herd_train::schedule::tokens_in_all;
use herd_train::{RunConfig, TrainError};
use serde_json::{Map, Value, json};

use crate::about::About;
use crate::commands::bench_train;
use crate::commands::sample::spoken;
use crate::console::{Console, Verdict, bytes};
use crate::error::Error;
use crate::flags::{KvFlag, ModelFlags};
use crate::machine::machine;
use crate::{flags, live, run, training};

/// Flags of `herd plan`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Plan a run by its settings instead of a model: of training, `herd sample` or `herd round`
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
        return planned(config, &flags.set, console);
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
        let parts: Map<String, Value> =
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

/// What is told of a plan.
struct Outlook {
    parts: Vec<(&'static str, u64)>,
    /// What could be changed, from the cheapest on, and the peak then.
    changes: Vec<(String, u64)>,
    seconds: Option<f64>,
    disk: Option<u64>,
    /// For those who read JSON.
    more: Value,
}

/// The plan of what a file of settings is for: a round, answers, or a run that trains.
fn planned(file: &Path, set: &[(String, String)], console: &Console) -> Result<Verdict, Error> {
    let available = machine().memory_available_bytes;
    let device = Device::cpu(flags::class(None)?, flags::threads(None)?);
    let keys = keys(file, set)?;
    let outlook = if keys.contains("policy") {
        round(&RoundConfig::read(file, set)?, available, &device)?
    } else if keys.contains("sample") {
        let base = file.parent().unwrap_or(Path::new("."));
        sampling(&RejectionConfig::read(file, set)?, base, &device)?
    } else {
        training(&settings(file, set)?, &device)?
    };
    tell(outlook, available, console)
}

/// A run that trains: memory by part, disk, and time as a short trial foretells it.
fn training(config: &RunConfig, device: &Device) -> Result<Outlook, Error> {
    let words = training::words(&config.tokenizer)?;
    let shape = herd_train::network(config, &words)?;
    let plan = plan(config, &shape, device.threads());
    let savings = savings(config, &shape, device.threads()).into_iter();
    let tokens = tokens_in_all(&config.batch, config.optim.steps);
    Ok(Outlook {
        parts: plan.parts().to_vec(),
        changes: savings.map(|(change, plan)| (change, plan.peak())).collect(),
        seconds: Some(tokens as f64 * bench_train::seconds_a_token(config, &shape, device)),
        disk: Some(plan.disk),
        more: json!({ "params": shape.params(), "tokens": tokens }),
    })
}

/// Answers: as many tokens as they may have.
fn sampling(config: &RejectionConfig, base: &Path, device: &Device) -> Result<Outlook, Error> {
    let mut of = Sampling::open(config, base)?;
    // One tokenizer tells how long prompts are; those of other policies differ little.
    let about = About::read(&Checkpoint::open(base.join(&config.sample.policies[0]))?)?;
    let chat = spoken(&about, &config.chat)?;
    let prompts = rejection::lengths(config, base, &chat, &about.tokenizer)?;
    let answers = config.answers() * config.sample.max_tokens;
    let tokens = prompts.iter().map(|prompt| prompt + answers).sum::<usize>() as u64;
    let (each, threads) = (config.sample.parallel, device.threads());
    let seconds = bench_train::seconds_an_answered_token(&of.policies[0].shape, each, device);
    of.prompts = Some(prompts);
    let savings = of.savings(config, threads).into_iter();
    Ok(Outlook {
        parts: of.plan(config, threads).parts().to_vec(),
        changes: savings.map(|(change, plan)| (change, plan.peak())).collect(),
        seconds: Some(tokens as f64 * seconds),
        disk: None,
        more: json!({ "tokens": tokens }),
    })
}

/// The largest stage of a round; each that does not fit has to be changed.
fn round(config: &RoundConfig, available: u64, device: &Device) -> Result<Outlook, Error> {
    let stages = herd_train::plan::round(config, available, device.threads())?;
    let peaks: Map<String, Value> =
        stages.iter().map(|stage| (stage.name.to_owned(), json!(stage.peak()))).collect();
    let largest = stages.iter().max_by_key(|stage| stage.peak()).expect("a round has stages");
    let change = |stage: &Stage| {
        let fits = |(_, peak): &&(String, u64)| *peak <= available;
        stage.savings.iter().find(fits).cloned()
    };
    let over = stages.iter().filter(|stage| stage.peak() > available);
    let changes: Option<Vec<(String, u64)>> = over.map(change).collect();
    let all = changes.filter(|changes| !changes.is_empty()).map(|changes| {
        let peak = changes.iter().map(|(_, peak)| *peak).max().unwrap_or(0);
        (changes.into_iter().map(|(change, _)| change).collect::<Vec<_>>().join(" "), peak)
    });
    Ok(Outlook {
        parts: largest.parts.clone(),
        changes: all.into_iter().collect(),
        seconds: None,
        disk: None,
        more: json!({ "stage": largest.name, "stages": peaks }),
    })
}

/// Prints a plan; the answer is no if it does not fit.
fn tell(outlook: Outlook, available: u64, console: &Console) -> Result<Verdict, Error> {
    let Outlook { parts, changes, seconds, disk, more } = outlook;
    let peak = parts.iter().map(|(_, bytes)| bytes).sum::<u64>();
    let fits = available == 0 || peak <= available;
    let changes: Vec<_> = changes.into_iter().filter(|(_, peak)| *peak <= available).collect();
    let verdict = if fits { Verdict::Done } else { Verdict::No };
    if console.json {
        let parts: Map<String, Value> =
            parts.iter().map(|(name, bytes)| ((*name).to_owned(), json!(bytes))).collect();
        let mut told = json!({
            "parts": parts,
            "peak_bytes": peak,
            "available_bytes": available,
            "fits": fits,
            "would_fit": changes.iter().map(|(change, _)| change).collect::<Vec<_>>(),
            "seconds": seconds,
        });
        if let Some(disk) = disk {
            told["disk_bytes"] = disk.into();
        }
        for (key, value) in more.as_object().into_iter().flatten() {
            told[key] = value.clone();
        }
        console.print_json(&told)?;
        return Ok(verdict);
    }
    for (stage, bytes_of_stage) in more["stages"].as_object().into_iter().flatten() {
        let peak = bytes(bytes_of_stage.as_u64().unwrap_or(0));
        console.print(format!("{stage:<12} {peak:>11}"))?;
    }
    if let Some(stage) = more["stage"].as_str() {
        console.print(format!("of {stage}:"))?;
    }
    for (name, size) in parts {
        console.print(format!("{name:<12} {:>11}", bytes(size)))?;
    }
    console.print(format!("{:<12} {:>11}", "peak", bytes(peak)))?;
    if let Some(disk) = disk {
        console.print(format!("{:<12} {:>11}", "disk", bytes(disk)))?;
    }
    if let Some(seconds) = seconds {
        console.print(format!("{:<12} {:>11}", "time", live::duration(seconds)))?;
    }
    let free = bytes(available);
    console.print(match (fits, changes.first()) {
        (true, _) => format!("fits into the {free} that are free"),
        (false, Some((change, peak))) => {
            format!("does not fit into {free}; {change} would: {}", bytes(*peak))
        }
        (false, None) => format!("does not fit into {free}; take a smaller model"),
    })?;
    Ok(verdict)
}
