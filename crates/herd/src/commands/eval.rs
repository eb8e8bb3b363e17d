//! `herd eval`: measures models on benchmarks, and says how they differ.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use herd_data::disk::{RealDisk, replace};
use herd_engine::Limits;
use herd_eval::item::{Drawn, Item, items};
use herd_eval::local::Local;
use herd_eval::query::{Chat, Query, Samples, Words};
use herd_eval::results::{Scores, numbers};
use herd_eval::score::{Judge, Scorer};
use herd_eval::stats::{Mean, difference};
use herd_eval::suite::{self, Receipt};
use herd_eval::{EvalError, Task, catalogue};
use herd_sandbox::Helper;
use herd_train::weights_hash;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::about::{About, today};
use crate::console::{Console, Verdict, visible};
use crate::error::Error;
use crate::flags::{KvFlag, ModelFlags, range};
use crate::run::{self, Ready};
use crate::store::Store;
use crate::training;

/// Flags of `herd eval`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Measure a model; the same command goes on where it stopped
    Run(Box<RunFlags>),
    /// List the tasks
    Ls,
    /// Say how two measured models differ, item by item
    Compare {
        /// Results of the first
        a: PathBuf,
        /// Results of the second
        b: PathBuf,
    },
}

/// Flags of `herd eval run`.
#[derive(Debug, clap::Args)]
struct RunFlags {
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    kv: KvFlag,
    /// Tasks by name (`herd eval ls`), or files of tasks, between commas
    #[arg(long, required = true, value_name = "NAMES", value_delimiter = ',')]
    tasks: Vec<String>,
    /// The folder of the tasks' rows [default: eval in the store]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The folder of results: results.json and samples/TASK.jsonl
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Items of each task at most
    #[arg(long, value_name = "N", value_parser = range(1, 1 << 32))]
    limit: Option<usize>,
    /// Examples before each question [default: the task's]
    #[arg(long, value_name = "N", value_parser = range(0, 1000))]
    num_fewshot: Option<usize>,
    /// Questions answered at once; changes no bit
    #[arg(short, long, default_value_t = 32, value_name = "N", value_parser = range(1, 4096))]
    batch_size: usize,
    /// What the draw of examples depends on
    #[arg(long, default_value_t = 1234, value_name = "N")]
    seed: u64,
    /// Put questions as messages of a chat
    #[arg(long)]
    apply_chat_template: bool,
    /// Put each example as a turn of the chat
    #[arg(long, requires = "apply_chat_template")]
    fewshot_as_multiturn: bool,
    /// What the system says in the chat
    #[arg(long, requires = "apply_chat_template", value_name = "TEXT")]
    system_instruction: Option<String>,
    /// llama2, llama3, llama3.1, llama3.1-hf, code-llama-70b, chatml, or a file with a template [default: the model's]
    #[arg(long, requires = "apply_chat_template", value_name = "NAME|FILE")]
    chat_template: Option<String>,
    /// Answers to each question of tasks whose answers are programs [default: one, of the likeliest tokens]
    #[arg(long, value_name = "N", value_parser = range(2, 1000))]
    samples: Option<usize>,
    /// Divides the logits of `--samples`
    #[arg(long, requires = "samples", default_value_t = 0.8, value_name = "X")]
    temperature: f32,
    /// The mass of the tokens that `--samples` are drawn from
    #[arg(long, requires = "samples", default_value_t = 0.95, value_name = "X")]
    top_p: f32,
    /// End with code 1 if a question was cut for want of room, or an answer ran to its limit
    #[arg(long)]
    fail_on_truncation: bool,
}

/// What a folder of results is of: all that can move a score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Of {
    model: String,
    class: String,
    kv: String,
    context: usize,
    limit: Option<usize>,
    num_fewshot: Option<usize>,
    seed: u64,
    chat: Option<String>,
    fewshot_as_multiturn: bool,
    system_instruction: Option<String>,
    samples: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    herd: String,
}

/// `results.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Results {
    of: Of,
    tasks: BTreeMap<String, Scores>,
}

/// Does what the verb says.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    match &flags.verb {
        Verb::Run(flags) => measure(flags, console),
        Verb::Ls => list(console),
        Verb::Compare { a, b } => compare(a, b, console),
    }
}

fn list(console: &Console) -> Result<Verdict, Error> {
    let tasks = catalogue::all();
    if console.json {
        console.print_json(&tasks)?;
        return Ok(Verdict::Done);
    }
    let row = |task: &Task| {
        vec![
            task.name.clone(),
            task.metric.clone(),
            task.shots.number.to_string(),
            task.about.clone(),
        ]
    };
    let head = ["task", "metric", "examples", ""].map(str::to_owned).to_vec();
    console.print_table(&[vec![head], tasks.iter().map(row).collect()].concat())?;
    Ok(Verdict::Done)
}

/// A task, the examples before each question, and its questions.
struct Asked {
    task: Task,
    number: usize,
    items: Vec<Item>,
}

/// Reads all rows before anything is measured, so that what is wrong is told at once.
fn asked(flags: &RunFlags) -> Result<Vec<Asked>, Error> {
    let data = match &flags.data {
        Some(data) => data.clone(),
        None => Store::open()?.home().join("eval"),
    };
    let read = |name: &String| {
        let task = catalogue::find(name)?;
        if flags.samples.is_some() && task.scorer != Scorer::Programs {
            let what = "--samples is of answers that are programs".to_owned();
            return Err(EvalError::Task { task: task.name, what });
        }
        let (rows, shots) = (task.rows(&data)?, task.shot_rows(&data)?);
        let number = flags.num_fewshot.unwrap_or(task.shots.number);
        let drawn = Drawn { number, seed: flags.seed };
        let items = items(&task, &rows, shots.as_deref(), drawn, flags.limit)?;
        if items.is_empty() {
            let what = "it has no rows".to_owned();
            return Err(EvalError::Task { task: task.name, what });
        }
        Ok(Asked { task, number, items })
    };
    Ok(flags.tasks.iter().map(read).collect::<Result<_, _>>()?)
}

/// The chat that questions are put in, if one is asked for.
fn chat(flags: &RunFlags, about: &About) -> Result<Option<Chat>, Error> {
    if !flags.apply_chat_template {
        return Ok(None);
    }
    Ok(Some(Chat {
        format: about.chat_format(flags.chat_template.as_deref())?,
        today: today(),
        system: flags.system_instruction.clone(),
        turns: flags.fewshot_as_multiturn,
    }))
}

/// How several answers are drawn, where they are asked for. Errors: a value that cannot be drawn by.
fn samples(flags: &RunFlags) -> Result<Option<Samples>, Error> {
    let Some(number) = flags.samples else { return Ok(None) };
    let within = |what, x: f32, most: f32| match x > 0.0 && x <= most {
        true => Ok(x),
        false => {
            let expected = format!("above 0, at most {most}");
            Err(Error::Value { what, got: x.to_string(), expected })
        }
    };
    let temperature = within("--temperature", flags.temperature, 10.0)?;
    let top_p = within("--top-p", flags.top_p, 1.0)?;
    Ok(Some(Samples { number: number as u64, temperature, top_p, seed: flags.seed }))
}

/// What runs programs, where a task asks for some. Errors: nothing here can; a language that cannot
/// be run.
fn judge(tasks: &[Asked]) -> Result<Option<Judge>, EvalError> {
    let with: Vec<&Asked> =
        tasks.iter().filter(|asked| asked.task.scorer == Scorer::Programs).collect();
    if with.is_empty() {
        return Ok(None);
    }
    let judge = Helper::this_program().map_err(EvalError::Sandbox).and_then(Judge::new)?;
    for Asked { task, items, .. } in with {
        judge.check(task, items)?;
    }
    Ok(Some(judge))
}

fn measure(flags: &RunFlags, console: &Console) -> Result<Verdict, Error> {
    let tasks = asked(flags)?;
    let samples = samples(flags)?;
    let judge = judge(&tasks)?;
    let (checkpoint, limits) = run::open(&flags.model, &flags.kv, None)?;
    let hash = weights_hash(&checkpoint)?;
    // Pages are short, so that answers to one question share all but its last few tokens.
    let limits = Limits {
        parallel: flags.batch_size,
        page_len: 16,
        positions: Some(flags.batch_size * 2048),
        ..limits
    };
    let Ready { about, model, limits } = run::ready(&checkpoint, limits, &flags.model)?;
    let chat = chat(flags, &about)?;
    let of = Of {
        model: hash.to_string(),
        class: model.device().class().name().to_owned(),
        kv: format!("{:?}", limits.kv).to_lowercase(),
        context: limits.context,
        limit: flags.limit,
        num_fewshot: flags.num_fewshot,
        seed: flags.seed,
        chat: chat
            .as_ref()
            .map(|_| flags.chat_template.clone().unwrap_or_else(|| "model".to_owned())),
        fewshot_as_multiturn: flags.fewshot_as_multiturn,
        system_instruction: flags.system_instruction.clone(),
        samples: flags.samples,
        temperature: flags.samples.map(|_| flags.temperature),
        top_p: flags.samples.map(|_| flags.top_p),
        herd: env!("CARGO_PKG_VERSION").to_owned(),
    };
    begin(&flags.out, &of)?;
    let tokenizer = Arc::clone(&about.tokenizer);
    let words = Words {
        bos: tokenizer.specials().bos.filter(|_| tokenizer.add_bos()).map(|id| id.0),
        stops: about.stop_ids(chat.as_ref().map(|chat| &chat.format)),
        context: limits.context - 1,
        tokenizer,
        chat,
        samples,
    };
    let mut local = Local::new(model, Arc::clone(&about.tokenizer), limits);
    let mut results = Results { of, tasks: BTreeMap::new() };
    let stop = training::stop_on_interrupt(console);
    for Asked { task, number, items } in &tasks {
        let mut meter = console.meter(&task.name, None);
        let path = receipts(&flags.out, &task.name);
        let mut answer = |queries: &[Query]| local.answer(queries, &stop);
        let mut tell = |done| meter.step(done, items.len());
        let receipts =
            suite::run(task, items, &words, &path, judge.as_ref(), &mut answer, &mut tell)?;
        results.tasks.insert(task.name.clone(), Scores::of(task, *number, &receipts));
    }
    let text = serde_json::to_vec_pretty(&results).expect("results serialise");
    replace(&RealDisk, &flags.out, "results.json", &[&text]).map_err(EvalError::from)?;
    show(&results, console)?;
    let cut = results.tasks.values().any(|scores| scores.cut + scores.full > 0);
    Ok(if flags.fail_on_truncation && cut { Verdict::No } else { Verdict::Done })
}

fn receipts(out: &Path, task: &str) -> PathBuf {
    out.join("samples").join(format!("{task}.jsonl"))
}

/// Takes the folder for results of this kind. Errors: it holds some of another.
fn begin(out: &Path, of: &Of) -> Result<(), Error> {
    fs::create_dir_all(out).map_err(Error::io("make", out))?;
    let path = out.join("of.json");
    if path.exists() {
        let text = fs::read(&path).map_err(Error::io("read", &path))?;
        let before: Option<Of> = serde_json::from_slice(&text).ok();
        if before.as_ref() == Some(of) {
            return Ok(());
        }
        let what = match before {
            Some(before) => {
                format!("it holds results of other settings: {}", differing(&before, of))
            }
            None => "it says not what the results here are of".to_owned(),
        };
        return Err(EvalError::Results { path, what }.into());
    }
    let text = serde_json::to_vec_pretty(of).expect("settings serialise");
    replace(&RealDisk, out, "of.json", &[&text]).map_err(EvalError::from)?;
    Ok(())
}

/// The settings that differ, with both values.
fn differing(before: &Of, now: &Of) -> String {
    let fields = |of: &Of| serde_json::to_value(of).expect("settings serialise");
    let (before, now) = (fields(before), fields(now));
    let names = now.as_object().into_iter().flat_map(|fields| fields.keys());
    let told = names
        .filter(|name| before[name.as_str()] != now[name.as_str()])
        .map(|name| format!("{name} was {}, is {}", before[name.as_str()], now[name.as_str()]));
    told.collect::<Vec<_>>().join("; ")
}

fn percent(mean: Mean) -> String {
    let half = (mean.ci95.1 - mean.ci95.0) / 2.0;
    format!("{:.2} +- {:.2} %", 100.0 * mean.value, 100.0 * half)
}

/// How programs ended, but for those that just passed or failed.
fn ended(scores: &Scores) -> String {
    let odd = scores.ended.iter().filter(|(how, _)| *how != "passed" && *how != "failed");
    odd.map(|(how, n)| format!("{n} {}", how.replace('_', " "))).collect::<Vec<_>>().join(", ")
}

fn show(results: &Results, console: &Console) -> Result<(), Error> {
    if console.json {
        return console.print_json(results);
    }
    let head = ["task", "examples", "items", "metric", "score (95 %)", "cut", "full", "programs"];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    for (name, scores) in &results.tasks {
        for (metric, mean) in &scores.scores {
            let main = if *metric == scores.metric { " *" } else { "" };
            table.push(vec![
                visible(name),
                scores.num_fewshot.to_string(),
                mean.n.to_string(),
                format!("{metric}{main}"),
                percent(*mean),
                scores.cut.to_string(),
                scores.full.to_string(),
                ended(scores),
            ]);
        }
    }
    console.print_table(&table)
}

fn read(folder: &Path) -> Result<Results, Error> {
    let path = folder.join("results.json");
    let text = fs::read(&path).map_err(Error::io("read", &path))?;
    let wrong = |e: serde_json::Error| EvalError::Results { path, what: e.to_string() };
    Ok(serde_json::from_slice(&text).map_err(wrong)?)
}

fn compare(a: &Path, b: &Path, console: &Console) -> Result<Verdict, Error> {
    let (first, second) = (read(a)?, read(b)?);
    let mut found = BTreeMap::new();
    for (name, scores) in &first.tasks {
        if !second.tasks.contains_key(name) {
            continue;
        }
        let (of_a, of_b) =
            (suite::receipts(&receipts(a, name))?, suite::receipts(&receipts(b, name))?);
        let rows = |of: &[Receipt]| of.iter().map(|receipt| receipt.row).collect::<Vec<_>>();
        if rows(&of_a) != rows(&of_b) {
            let what = format!("the items of {name} are not those of {}", a.display());
            return Err(EvalError::Results { path: b.to_owned(), what }.into());
        }
        let clusters: Option<Vec<String>> =
            of_a.iter().map(|receipt| receipt.cluster.clone()).collect();
        let metric = &scores.metric;
        let of = |all: &[Receipt]| numbers(&all.iter().collect::<Vec<_>>(), metric);
        let (x, y) = (of(&of_a), of(&of_b));
        found.insert(name.clone(), (metric.clone(), difference(&x, &y, clusters.as_deref())));
    }
    if console.json {
        let tasks: BTreeMap<_, _> = found
            .iter()
            .map(|(name, (metric, d))| (name, json!({ "metric": metric, "difference": d })))
            .collect();
        console.print_json(&tasks)?;
        return Ok(Verdict::Done);
    }
    let head = ["task", "metric", "items", "second less first (95 %)", "p", "detectable"];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    for (name, (metric, d)) in &found {
        let half = 100.0 * (d.ci95.1 - d.ci95.0) / 2.0;
        table.push(vec![
            visible(name),
            metric.clone(),
            d.n.to_string(),
            format!("{:+.2} +- {half:.2} points", 100.0 * d.difference),
            format!("{:.4}", d.p),
            format!("{:.2} points", 100.0 * d.detectable),
        ]);
    }
    console.print_table(&table)?;
    Ok(Verdict::Done)
}
