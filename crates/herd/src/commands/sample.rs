//! `herd sample`: many answers to each prompt, judged, and the best of them as rows to train on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use herd_data::Hash;
use herd_data::disk::make_folder;
use herd_engine::Limits;
use herd_model::checkpoint::Checkpoint;
use herd_model::llama::Llama;
use herd_tensor::Device;
use herd_train::Chat;
use herd_train::config::ChatConfig;
use herd_train::plan::Sampling;
use herd_train::rejection::{self, Inputs, Policy, RejectionConfig, ScoreConfig, Summary, limits};
use herd_train::reward::RewardModel;
use herd_train::weights_hash;
use serde_json::json;

use crate::about::About;
use crate::commands::score;
use crate::console::{Console, Verdict, count};
use crate::error::Error;
use crate::machine::machine;
use crate::{flags, training};

/// Flags of `herd sample`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// The settings, in TOML
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The file of samples; the same command takes up what it finds there
    #[arg(long, value_name = "SAMPLES.jsonl")]
    out: PathBuf,
    /// Override a setting: `--set sample.k=8`
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = training::pair)]
    set: Vec<(String, String)>,
    /// Threads that compute [default: as many as the machine lends]
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,
    /// The numeric class: portable, avx2, avx512 or amx [default: $HERD_CLASS, else the fastest]
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
}

/// Samples all prompts, or goes on where the file ends, and writes the rows to train on beside it.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let config = RejectionConfig::read(&flags.config, &flags.set)?;
    let base = flags.config.parent().unwrap_or(Path::new("."));
    if flags.out.extension().is_none() {
        let expected = "a file such as SAMPLES.jsonl".to_owned();
        let got = flags.out.display().to_string();
        return Err(Error::Value { what: "--out", got, expected });
    }
    if let Some(folder) = flags.out.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        make_folder(folder).map_err(Error::io("make", folder))?;
    }
    let device = Device::cpu(flags::class(flags.class.as_deref())?, flags::threads(flags.threads)?);
    let policies = policies(&config, base, &device, console)?;
    let stop = training::stop_on_interrupt(console);
    let rewards = rewards(&config.score, base, &config.chat, &device)?;
    let begun = Instant::now();
    let inputs = Inputs { config: &config, base, out: &flags.out, policies, rewards, stop: &stop };
    let mut meter = Meter { console, begun, shown: begun };
    let summary = rejection::sample(inputs, &mut |summary| meter.tell(summary))?;
    match summary {
        None => console.note("stopped; the same command goes on"),
        Some(summary) => tell(&summary, begun.elapsed().as_secs_f64(), &flags.out, console)?,
    }
    Ok(Verdict::Done)
}

/// Loads the checkpoints that answer, with as many answers at once as memory has room for.
///
/// Errors: one cannot be opened, or does not fit with a single answer.
fn policies(
    config: &RejectionConfig,
    base: &Path,
    device: &Device,
    console: &Console,
) -> Result<Vec<Policy>, Error> {
    let sample = &config.sample;
    let paths = sample.policies.iter().map(|path| base.join(path));
    let checkpoints: Vec<Checkpoint> =
        paths.map(|path| Checkpoint::open(&path)).collect::<Result<_, _>>()?;
    let of = Sampling::open(config, base)?;
    let needed = |parallel: usize| {
        let mut config = config.clone();
        config.sample.parallel = parallel;
        Ok(of.plan(&config, device.threads()).peak())
    };
    let parallel =
        fitting(sample.parallel, needed, "a smaller sample.context, or fewer policies", console)?;
    let told = sample.policies.iter().map(|path| path.display().to_string());
    let (both, limits) = (checkpoints.iter().zip(told), limits(sample.context, parallel));
    both.map(|(checkpoint, path)| policy(checkpoint, path, &config.chat, limits, device)).collect()
}

/// How many answers at once memory has room for, at most `wanted`; `needed` are the bytes of so many.
///
/// Errors: one alone does not fit; `change` would make it.
pub fn fitting(
    wanted: usize,
    needed: impl Fn(usize) -> Result<u64, Error>,
    change: &str,
    console: &Console,
) -> Result<usize, Error> {
    let available = machine().memory_available_bytes;
    let mut parallel = wanted;
    while parallel > 1 && available > 0 && needed(parallel)? > available {
        parallel /= 2;
    }
    if available > 0 && needed(parallel)? > available {
        let change = Some(change.to_owned());
        return Err(Error::RunMemory { needed: needed(parallel)?, available, change });
    }
    if parallel < wanted {
        console.note(format!("memory has room for {parallel} answers at once"));
    }
    Ok(parallel)
}

/// A checkpoint that answers, under these limits.
///
/// Errors: its context is shorter, nothing says how it chats, or it cannot be read.
pub fn policy(
    checkpoint: &Checkpoint,
    path: String,
    chat: &ChatConfig,
    limits: Limits,
    device: &Device,
) -> Result<Policy, Error> {
    let own = checkpoint.config.context;
    if limits.context > own {
        let got = format!("{} for {path}", limits.context);
        let expected = format!("at most the {own} of its model");
        return Err(Error::Value { what: "sample.context", got, expected });
    }
    let about = About::read(checkpoint)?;
    let chat = spoken(&about, chat)?;
    let stops = about.stop_ids(Some(&chat.format));
    let hash = weights_hash(checkpoint)?;
    let model = Arc::new(Llama::load(checkpoint, device, limits.context)?);
    Ok(Policy { path, hash, model, tokenizer: about.tokenizer, chat, stops, limits })
}

/// How a model chats under some settings.
///
/// Errors: nothing says how.
pub fn spoken(about: &About, chat: &ChatConfig) -> Result<Chat, Error> {
    let format = about.chat_format(chat.template.as_deref())?;
    let today = chat.date.as_deref().map(flags::day).transpose()?;
    Ok(Chat { format, today, shape: chat.shape, compare: None })
}

fn reward_paths(scores: &[ScoreConfig], base: &Path) -> impl Iterator<Item = PathBuf> {
    scores.iter().filter_map(|score| score.judge.model()).map(|model| base.join(model))
}

/// The reward models that judge, each with the hash of all that its rewards depend on.
///
/// Errors: one cannot be opened, or is none.
pub fn rewards(
    scores: &[ScoreConfig],
    base: &Path,
    chat: &ChatConfig,
    device: &Device,
) -> Result<Vec<(Hash, Arc<RewardModel>)>, Error> {
    let open = |path: PathBuf| {
        let weights = weights_hash(&Checkpoint::open_any(&path)?)?;
        let ChatConfig { template, date, .. } = chat;
        let model = score::open(&path, template.as_deref(), date.as_deref(), device)?;
        Ok((model.hash(weights), Arc::new(model)))
    };
    reward_paths(scores, base).map(open).collect()
}

/// A line now and then.
struct Meter<'a> {
    console: &'a Console,
    begun: Instant,
    shown: Instant,
}

impl Meter<'_> {
    fn tell(&mut self, summary: &Summary) {
        if self.shown.elapsed().as_secs() < 10 {
            return;
        }
        self.shown = Instant::now();
        let rate = summary.work.tokens as f64 / self.begun.elapsed().as_secs_f64();
        let (prompts, samples) = (count(summary.prompts), count(summary.samples));
        self.console.note(format!("{prompts} prompts, {samples} answers, {rate:.0} tokens/s"));
    }
}

fn tell(summary: &Summary, seconds: f64, out: &Path, console: &Console) -> Result<(), Error> {
    let work = summary.work;
    let rate = work.tokens as f64 / seconds.max(1e-9);
    let saved = work.cached as f64 / work.prompt_tokens.max(1) as f64;
    if console.json {
        let mut told = json!(summary);
        told["seconds"] = seconds.into();
        told["tokens_per_second"] = rate.into();
        told["prompt_tokens_saved"] = saved.into();
        return console.print_json(&told);
    }
    let (prompts, samples) = (count(summary.prompts), count(summary.samples));
    console.print(format!("{prompts} prompts, {samples} answers in {}", out.display()))?;
    for (reason, rows) in &summary.dropped {
        console.print(format!("left out: {} rows ({reason})", count(*rows)))?;
    }
    let share = 100.0 * summary.accepted as f64 / summary.samples.max(1) as f64;
    console.print(format!("accepted: {} ({share:.1} %)", count(summary.accepted)))?;
    for (reason, answers) in &summary.rejected {
        console.print(format!("rejected: {} answers ({reason})", count(*answers)))?;
    }
    if !summary.best_of.is_empty() {
        let mut rows = vec![vec!["best of".to_owned(), "mean score".to_owned()]];
        let line = |(k, mean): &(usize, f64)| vec![k.to_string(), format!("{mean:.4}")];
        rows.extend(summary.best_of.iter().map(line));
        console.print_table(&rows)?;
    }
    let (best, pairs) = (count(summary.best), count(summary.pairs));
    let [best_at, pairs_at] = ["best.jsonl", "pairs.jsonl"].map(|e| out.with_extension(e));
    console.print(format!("{best} best answers in {}", best_at.display()))?;
    console.print(format!("{pairs} pairs in {}", pairs_at.display()))?;
    for (reason, prompts) in &summary.unpaired {
        console.print(format!("no pair: {} prompts ({reason})", count(*prompts)))?;
    }
    if work.samples > 0 {
        let saved = 100.0 * saved;
        console.note(format!("{rate:.0} tokens/s; {saved:.1} % of prompt tokens were shared"));
    }
    Ok(())
}
