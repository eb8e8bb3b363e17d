//! `herd eval contamination`: which items of benchmarks the training shards hold, and what models gain by it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use herd_data::disk::make_folder;
use herd_data::{Check, Corpus, Hash};
use herd_eval::contamination::{
    Chosen, Gain, Read, THRESHOLDS, Watch, choose, gain, is_contaminated, text,
};
use herd_eval::item::{Drawn, Item, items};
use herd_eval::{EvalError, Task, catalogue, suite};
use serde::Serialize;

use crate::console::{Console, Verdict, count};
use crate::error::Error;
use crate::flags::range;
use crate::store::Store;
use crate::verbs::save;
use crate::vocabulary;

/// Flags of `herd eval contamination`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// The shards that models were trained on
    #[arg(long, value_name = "SHARDS")]
    shards: PathBuf,
    /// The tokenizer that made them: a folder or file that holds one, or a model
    #[arg(long, value_name = "DIR")]
    tokenizer: String,
    /// Tasks by name (`herd eval ls`), or files of tasks, between commas
    #[arg(long, required = true, value_name = "NAMES", value_delimiter = ',')]
    tasks: Vec<String>,
    /// The folder of the tasks' rows [default: eval in the store]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Folders of results of `herd eval run`, between commas: what their models gain
    #[arg(long, value_name = "DIRS", value_delimiter = ',')]
    results: Vec<PathBuf>,
    /// Items of each task at most
    #[arg(long, value_name = "N", value_parser = range(1, 1 << 32))]
    limit: Option<usize>,
    /// An item is contaminated from this share of its tokens on [default: the one of greatest gain; 0.8 without results]
    #[arg(long, value_name = "T", value_parser = share)]
    threshold: Option<f64>,
    /// Tokens of an n-gram
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = range(1, 1000))]
    ngram: usize,
    /// Seed of the orders that a gain is compared with
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Also write the report, and the share of each item, into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

fn share(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "expected a number, as 0.8")?;
    let inside = number > 0.0 && number <= 1.0;
    inside.then_some(number).ok_or_else(|| "expected a number above 0, up to 1".to_owned())
}

/// Where there are no results to choose by.
const THRESHOLD: f64 = 0.8;

/// All that is found.
#[derive(Debug, Serialize)]
struct Report {
    shards: Hash,
    ngram: usize,
    read: Read,
    tasks: BTreeMap<String, Found>,
}

/// What is found of a task.
#[derive(Debug, Serialize)]
struct Found {
    items: usize,
    /// Of fewer tokens than an n-gram has: they count as clean.
    short: usize,
    threshold: f64,
    /// `given`, `chosen`, or `default`.
    by: &'static str,
    /// Of a threshold that was chosen: how often chance alone does as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    p: Option<f64>,
    /// The share of items from the threshold on.
    contaminated: f64,
    /// The same of each threshold.
    by_threshold: BTreeMap<String, f64>,
    /// By folder of results; null where fewer than ten items are on either side.
    models: BTreeMap<String, Option<Gain>>,
    /// By folder of results, the mean of the items that are not contaminated.
    clean: BTreeMap<String, f64>,
}

struct Asked {
    task: Task,
    items: Vec<Item>,
}

/// Reads the shards once for all tasks, and reports.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let asked = asked(flags)?;
    let tokenizer = vocabulary::load(&Store::open()?.resolve_file(&flags.tokenizer)?)?;
    let corpus = Corpus::open(&flags.shards, Check::Tables)?;
    corpus.expect_tokenizer(Hash::of_tokenizer(&tokenizer))?;
    // Results are read before the shards: what is wrong is told at once.
    let models = asked.iter().map(|of| scores(of, &flags.results));
    let models: Vec<Vec<Vec<f64>>> = models.collect::<Result<_, _>>()?;
    let texts: Vec<String> =
        asked.iter().flat_map(|of| of.items.iter().map(|item| text(&of.task, item))).collect();
    let mut watch = Watch::of_texts(&tokenizer, &texts, flags.ngram);
    let tokens: u64 = corpus.sources().iter().map(|source| source.train.counts().tokens).sum();
    let mut meter = console.meter("tokens", None);
    let read = watch.read(&corpus, &mut |done| meter.step(done as usize, tokens as usize))?;
    let (ratios, short) = (watch.ratios(), watch.shorts());
    let mut tasks = BTreeMap::new();
    let mut from = 0;
    for (of, models) in asked.iter().zip(&models) {
        let here = from..from + of.items.len();
        from = here.end;
        let (ratios, short) = (&ratios[here.clone()], &short[here]);
        let found = found(flags, ratios, short, models);
        if let Some(out) = &flags.out {
            make_folder(out).map_err(Error::io("make", out))?;
            let rows: Vec<u64> = of.items.iter().map(|item| item.row).collect();
            let lines: Vec<(u64, f64)> = rows.into_iter().zip(ratios.iter().copied()).collect();
            save(&out.join(format!("{}.json", of.task.name)), &lines)?;
        }
        tasks.insert(of.task.name.clone(), found);
    }
    let report = Report { shards: corpus.hash(), ngram: flags.ngram, read, tasks };
    if let Some(out) = &flags.out {
        save(&out.join("contamination.json"), &report)?;
    }
    show(&report, console)?;
    Ok(Verdict::Done)
}

fn asked(flags: &Flags) -> Result<Vec<Asked>, Error> {
    let data = match &flags.data {
        Some(data) => data.clone(),
        None => Store::open()?.home().join("eval"),
    };
    let read = |name: &String| {
        let task = catalogue::find(name)?;
        let rows = task.rows(&data)?;
        let none = Drawn { number: 0, seed: 0 };
        let items = items(&task, &rows, None, none, flags.limit)?;
        Ok(Asked { task, items })
    };
    Ok(flags.tasks.iter().map(read).collect::<Result<_, EvalError>>()?)
}

/// The scores of each model, item by item.
fn scores(of: &Asked, results: &[PathBuf]) -> Result<Vec<Vec<f64>>, EvalError> {
    let read = |folder: &PathBuf| {
        let path = folder.join("samples").join(format!("{}.jsonl", of.task.name));
        let receipts = suite::receipts(&path)?;
        let rows: Vec<u64> = receipts.iter().map(|receipt| receipt.row).collect();
        let own: Vec<u64> = of.items.iter().map(|item| item.row).collect();
        if rows != own {
            let (got, wanted) = (rows.len(), own.len());
            let what = format!("it holds {got} receipts that are not of these {wanted} items");
            return Err(EvalError::Results { path, what });
        }
        let score = |receipt: &suite::Receipt| receipt.scores.get(&of.task.metric).copied();
        let all: Option<Vec<f64>> = receipts.iter().map(score).collect();
        let missing = || EvalError::Results {
            path: path.clone(),
            what: format!("a receipt has no {}", of.task.metric),
        };
        all.ok_or_else(missing)
    };
    results.iter().map(read).collect()
}

fn found(flags: &Flags, ratios: &[f64], short: &[bool], models: &[Vec<f64>]) -> Found {
    let chosen = match flags.threshold {
        Some(_) => None,
        None => choose(ratios, models, flags.seed),
    };
    let (threshold, by) = match (flags.threshold, chosen) {
        (Some(given), _) => (given, "given"),
        (None, Some(Chosen { threshold, .. })) => (threshold, "chosen"),
        (None, None) => (THRESHOLD, "default"),
    };
    let n = ratios.len().max(1) as f64;
    let part =
        |t: f64| ratios.iter().filter(|ratio| is_contaminated(**ratio, t)).count() as f64 / n;
    let gains = models.iter().map(|scores| gain(ratios, scores, threshold));
    let names = flags.results.iter().map(|folder| folder.display().to_string());
    let clean_of = |scores: &Vec<f64>| {
        let of = ratios.iter().zip(scores).filter(|(r, _)| !is_contaminated(**r, threshold));
        let (n, sum) = of.fold((0usize, 0.0), |(n, sum), (_, score)| (n + 1, sum + score));
        (n > 0).then(|| sum / n as f64)
    };
    let clean = names.clone().zip(models).filter_map(|(name, of)| Some((name, clean_of(of)?)));
    let clean = clean.collect();
    Found {
        items: ratios.len(),
        short: short.iter().filter(|short| **short).count(),
        threshold,
        by,
        p: chosen.map(|chosen| chosen.p),
        contaminated: part(threshold),
        by_threshold: THRESHOLDS.iter().map(|t| (format!("{t:.1}"), part(*t))).collect(),
        models: names.zip(gains).collect(),
        clean,
    }
}

fn show(report: &Report, console: &Console) -> Result<(), Error> {
    if console.json {
        return console.print_json(report);
    }
    let Read { documents, tokens } = report.read;
    console.note(format!("{} documents of {} tokens", count(documents), count(tokens)));
    let head =
        ["task", "items", "threshold", "contaminated", "model", "all", "clean", "gain (95 %)", "p"];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    let percent = |x: f64| format!("{:.2} %", 100.0 * x);
    for (name, found) in &report.tasks {
        let mut row = vec![
            name.clone(),
            found.items.to_string(),
            format!("{:.2} ({})", found.threshold, found.by),
            percent(found.contaminated),
        ];
        let p = found.p.map(|p| format!("{p:.3}")).unwrap_or_default();
        for (name, gain) in &found.models {
            let model = Path::new(name).file_name().unwrap_or_default().to_string_lossy();
            row.push(model.into_owned());
            row.extend(match gain {
                Some(Gain { all, clean, gain, stderr, .. }) => [
                    percent(*all),
                    percent(*clean),
                    format!("{:+.2} +- {:.2} points", 100.0 * gain, 196.0 * stderr),
                    p.clone(),
                ],
                None => {
                    let clean = found.clean.get(name).map(|clean| percent(*clean));
                    let none = || String::new();
                    [none(), clean.unwrap_or_default(), "no estimate".to_owned(), none()]
                }
            });
            table.push(row);
            row = vec![String::new(); 4];
        }
        if found.models.is_empty() {
            row.resize(head.len(), String::new());
            table.push(row);
        }
    }
    console.print_table(&table)?;
    let (short, n) = (report.tasks.values().map(|found| found.short).sum::<usize>(), report.ngram);
    if short > 0 {
        console.note(format!("{short} items have fewer than {n} tokens, and count as clean"));
    }
    Ok(())
}
