//! `herd compare`: models side by side, from what was measured, what is measured now and what is given.

mod speed;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use herd_data::disk::{RealDisk, make_folder, replace};
use herd_eval::beside::{
    Axis, Column, Figure, Known, Load, Point, Way, beside, csv, html, markdown, plot, unlike,
};
use herd_eval::results::Scores;
use herd_eval::stats::Mean;
use herd_model::checkpoint::Checkpoint;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::commands::{bench_serve, eval};
use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::writer::find;
use speed::Here;

/// Flags of `herd compare`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// The models, in TOML: a [models.NAME] for each (docs/compare.md)
    #[arg(value_name = "FILE.toml")]
    file: PathBuf,
    /// The folder of the report
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Threads that compute [default: as many as the machine lends]
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,
    /// The numeric class: portable, avx2, avx512 or amx [default: $HERD_CLASS, else the fastest]
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    measure: Measure,
    /// In the order of their names.
    models: BTreeMap<String, Model>,
}

/// How speed is measured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Measure {
    /// Tokens of a prompt; words of one for a server.
    prompt_tokens: usize,
    /// Tokens of an answer.
    max_tokens: usize,
    /// Requests at once.
    concurrency: Vec<usize>,
}

impl Default for Measure {
    fn default() -> Measure {
        Measure { prompt_tokens: 128, max_tokens: 64, concurrency: vec![1, 8] }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Model {
    /// A file, a folder, or a name in the store: its context and parameters, and what `measure` loads.
    model: Option<String>,
    /// Whether its speed is measured in this process.
    speed: bool,
    /// A server whose speed is measured.
    url: Option<String>,
    /// The name of its model there; the first that it lists where nothing is said.
    url_model: Option<String>,
    /// The variable of the environment that holds its key.
    key_env: Option<String>,
    /// Whether it is sent OpenAI's fields alone.
    strict: bool,
    /// What `herd bench serve --json` said of it.
    bench: Option<PathBuf>,
    /// Folders of `herd eval run`.
    eval: Vec<PathBuf>,
    /// Scores that its makers state, as shares.
    quality: BTreeMap<String, f64>,
    context: Option<u64>,
    output_limit: Option<u64>,
    parameters: Option<u64>,
    price_input: Option<f64>,
    price_output: Option<f64>,
    cost_per_hour: Option<f64>,
    watts: Option<f64>,
}

/// Measures what is to be measured, and writes the report.
pub fn run(flags: &Flags, console: &Console, offline: bool) -> Result<Verdict, Error> {
    let File { measure, models } = read(&flags.file)?;
    check(&flags.file, &measure, &models)?;
    let base = flags.file.parent().unwrap_or(Path::new("."));
    // All that may be wrong is found before anything is measured.
    let mut known: Vec<(String, Known)> = Vec::new();
    for (name, model) in &models {
        known.push((name.clone(), given(name, model, base)?));
    }
    if let Some(told) = unlike(&known) {
        let what = format!("wrong: scores that were got in two ways: {told}");
        return Err(Error::Json { path: flags.file.clone(), what });
    }
    let mut jobs = Vec::new();
    for (name, model) in &models {
        jobs.push(job(flags, name, model, &measure, offline)?);
    }
    make_folder(&flags.out).map_err(Error::io("make", &flags.out))?;
    for ((name, known), job) in known.iter_mut().zip(&jobs) {
        match job {
            Job::Nothing => {}
            Job::Server { url, asked } => {
                known.loads = loads(&bench_serve::rows(asked, console)?, url)?;
                known.loads_from = format!("herd bench serve of {url}");
            }
            Job::Here(here) => {
                console.note(format!("{name} is measured"));
                here.measure(&measure, known)?;
            }
        }
    }
    let (tasks, columns) = beside(known);
    let page = write(&flags.out, &tasks, &columns)?;
    match console.json {
        true => console.print_json(&json!({ "tasks": tasks, "models": columns }))?,
        false => console.print(page)?,
    }
    Ok(Verdict::Done)
}

/// What is measured of a model.
enum Job {
    Nothing,
    Server { url: String, asked: Box<bench_serve::Flags> },
    Here(Here),
}

/// Errors: a server that may not or cannot be reached, a key that is not there, a model that cannot be measured.
fn job(
    flags: &Flags,
    name: &str,
    model: &Model,
    measure: &Measure,
    offline: bool,
) -> Result<Job, Error> {
    let base = flags.file.parent().unwrap_or(Path::new("."));
    if let Some(url) = &model.url {
        if offline {
            return Err(Error::Offline { what: format!("the server at {url}") });
        }
        let key = |name: &String| match std::env::var(name) {
            Ok(key) if !key.is_empty() => Ok(key),
            Ok(_) | Err(_) => {
                let expected = "a variable of the environment that holds a key".to_owned();
                Err(Error::Value { what: "key_env", got: name.clone(), expected })
            }
        };
        let asked = bench_serve::Asked {
            url,
            model: model.url_model.as_deref(),
            key: model.key_env.as_ref().map(key).transpose()?,
            strict: model.strict,
            concurrency: &measure.concurrency,
            prompt_words: measure.prompt_tokens,
            max_tokens: measure.max_tokens,
        };
        let asked = Box::new(asked.flags());
        bench_serve::check(&asked)?;
        return Ok(Job::Server { url: url.clone(), asked });
    }
    match model.model.as_ref().filter(|_| model.speed) {
        Some(path) => {
            Ok(Job::Here(Here::check(flags, name, &find(Path::new(path), base)?, measure)?))
        }
        None => Ok(Job::Nothing),
    }
}

fn read(path: &Path) -> Result<File, Error> {
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    let wrong = |e: toml::de::Error| Error::Json {
        path: path.to_owned(),
        what: format!("no comparison: {}", e.message()),
    };
    toml::from_str(&text).map_err(wrong)
}

/// Errors: nothing to compare, numbers out of their bounds, speed from two places.
fn check(path: &Path, measure: &Measure, models: &BTreeMap<String, Model>) -> Result<(), Error> {
    let wrong =
        |what: String| Err(Error::Json { path: path.to_owned(), what: format!("wrong: {what}") });
    if models.is_empty() {
        return wrong("it has no [models.NAME]".to_owned());
    }
    let Measure { prompt_tokens, max_tokens, concurrency } = measure;
    let least = |n: usize| (1..=1 << 20).contains(&n);
    if !least(*prompt_tokens) || !(2..=1 << 20).contains(max_tokens) {
        return wrong(format!(
            "measure has {prompt_tokens} and {max_tokens} tokens, not 1 and 2 to {}",
            1 << 20
        ));
    }
    if concurrency.is_empty() || !concurrency.iter().all(|n| (1..=4096).contains(n)) {
        return wrong(format!("measure.concurrency is {concurrency:?}, not of 1 to 4096"));
    }
    for (name, model) in models {
        let numbers = [
            ("price_input", model.price_input),
            ("price_output", model.price_output),
            ("cost_per_hour", model.cost_per_hour),
            ("watts", model.watts),
        ];
        for (field, number) in numbers {
            if let Some(number) = number.filter(|number| !(number.is_finite() && *number >= 0.0)) {
                return wrong(format!("{name}.{field} is {number}, not 0 or more"));
            }
        }
        let places = [model.speed, model.url.is_some(), model.bench.is_some()];
        if places.iter().filter(|place| **place).count() > 1 {
            return wrong(format!("{name} has more than one of speed, url and bench"));
        }
        if model.speed && model.model.is_none() {
            return wrong(format!("{name}.speed needs {name}.model"));
        }
        if let Some((task, share)) =
            model.quality.iter().find(|(_, share)| !(0.0..=1.0).contains(*share))
        {
            return wrong(format!("{name}.quality.{task} is {share}, not a share from 0 to 1"));
        }
        let of_server = [model.url_model.is_some(), model.key_env.is_some(), model.strict];
        if model.url.is_none() && of_server.contains(&true) {
            return wrong(format!("{name} has url_model, key_env or strict without a url"));
        }
        if model.price_input.is_some() != model.price_output.is_some() {
            return wrong(format!("{name} has one price of price_input and price_output"));
        }
    }
    Ok(())
}

/// What files say, and what is given.
fn given(name: &str, model: &Model, base: &Path) -> Result<Known, Error> {
    let mut known =
        Known { cost_per_hour: model.cost_per_hour, watts: model.watts, ..Known::default() };
    if let Some(path) = &model.model {
        let checkpoint = Checkpoint::open(&find(Path::new(path), base)?)?;
        let files = |n: f64| Some(Figure::new(n, "the model's files"));
        known.context = files(checkpoint.config.context as f64);
        known.parameters = files(checkpoint.config.params() as f64);
    }
    let said = |n: Option<u64>| n.map(|n| Figure::new(n as f64, "given"));
    known.context = said(model.context).or(known.context);
    known.parameters = said(model.parameters).or(known.parameters);
    known.output_limit = said(model.output_limit);
    known.price_input = model.price_input.map(|price| Figure::new(price, "given"));
    known.price_output = model.price_output.map(|price| Figure::new(price, "given"));
    quality(name, model, base, &mut known)?;
    if let Some(path) = &model.bench {
        let path = base.join(path);
        let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let rows: Option<Vec<Value>> = serde_json::from_str(&text).ok();
        let wrong = || Error::Json {
            path: path.clone(),
            what: "not what herd bench serve --json says".to_owned(),
        };
        known.loads =
            loads(&rows.ok_or_else(wrong)?, &path.display().to_string()).map_err(|_| wrong())?;
        known.loads_from = format!(
            "herd bench serve, as {} has it",
            model.bench.as_ref().expect("it is there").display()
        );
    }
    Ok(known)
}

/// Scores of folders, and scores that are given. Errors: two of one task.
fn quality(name: &str, model: &Model, base: &Path, known: &mut Known) -> Result<(), Error> {
    for folder in &model.eval {
        let folder = base.join(folder);
        for (task, scores) in eval::scores(&folder)? {
            if known.quality.insert(task.clone(), scores.main()).is_some() {
                let what = format!("a second folder with results of {task}");
                return Err(Error::Json { path: folder, what });
            }
            known.quality_from.insert(task, way(&scores));
        }
    }
    for (task, share) in &model.quality {
        let mean = Mean { value: *share, stderr: 0.0, ci95: (*share, *share), n: 0 };
        if known.quality.insert(task.clone(), mean).is_some() {
            let expected = "what no folder has results of".to_owned();
            let got = format!("{task} of {name}");
            return Err(Error::Value { what: "quality", got, expected });
        }
        known.quality_from.insert(task.clone(), Way::Given);
    }
    Ok(())
}

fn way(scores: &Scores) -> Way {
    Way::Measured {
        metric: scores.metric.clone(),
        shots: scores.num_fewshot,
        version: scores.version,
        scorer_version: scores.scorer_version,
        items: scores.main().n,
    }
}

/// Rows of `herd bench serve`. Where an older one has no speed behind the first token, the median gap stands for it.
fn loads(rows: &[Value], url: &str) -> Result<Vec<Load>, Error> {
    let load = |row: &Value| {
        let gap = row["inter_token_ms"]["p50"].as_f64().filter(|gap| *gap > 0.0);
        Some(Load {
            concurrency: row["concurrency"].as_u64()? as usize,
            tok_s: row["tok_s"].as_f64()?,
            total_tok_s: row["total_tok_s"].as_f64(),
            output_tok_s: row["output_tok_s"].as_f64().or(gap.map(|gap| 1000.0 / gap)),
            ttft_ms: (row["ttft_ms"]["p50"].as_f64(), row["ttft_ms"]["p95"].as_f64()),
            joules_per_token: None,
        })
    };
    let failed: u64 = rows.iter().filter_map(|row| row["failed"].as_u64()).sum();
    let read: Option<Vec<Load>> = rows.iter().map(load).collect();
    read.filter(|loads| failed == 0 && !loads.is_empty()).ok_or_else(|| Error::Answer {
        url: url.to_owned(),
        what: format!("{failed} requests that failed, or rows without tok_s"),
    })
}

/// Writes all files of the report; its Markdown.
fn write(out: &Path, tasks: &[String], columns: &[Column]) -> Result<String, Error> {
    let figures = figures(columns);
    let names: Vec<&str> = figures.iter().map(|(name, _)| *name).collect();
    let page = markdown(tasks, columns, &names);
    let told = json!({ "tasks": tasks, "models": columns });
    let told = serde_json::to_string_pretty(&told).expect("figures serialise") + "\n";
    let put = |name: &str, text: &str| replace(&RealDisk, out, name, &[text.as_bytes()]);
    for (name, svg) in &figures {
        put(name, svg)?;
    }
    put("report.html", &html(tasks, columns, &figures))?;
    put("report.csv", &csv(tasks, columns))?;
    put("report.json", &told)?;
    put("report.md", &page)?;
    Ok(page)
}

/// Each pair of quality, speed and price that some model has.
fn figures(columns: &[Column]) -> Vec<(&'static str, String)> {
    let speed = Axis { name: "output speed (tokens/s)", log: true };
    let price = Axis { name: "price or cost of a million tokens, read or written", log: true };
    let quality = Axis { name: "quality (%)", log: false };
    type Known = fn(&Column) -> Option<f64>;
    let fast: Known = |c| c.speed.as_ref().map(|speed| speed.value);
    let dear: Known = |c| c.price().map(|price| price.value);
    let good: Known = |c| c.quality.map(|mean| 100.0 * mean.value);
    let points = |x: Known, y: Known, sure: bool| -> Vec<Point> {
        let point = |c: &Column| {
            let interval = c.quality.filter(|_| sure).and_then(|mean| mean.interval());
            let interval = interval.map(|(low, high)| (100.0 * low, 100.0 * high));
            Point { name: c.name.clone(), x: x(c), y: y(c), interval }
        };
        columns.iter().map(point).collect()
    };
    let all = [
        ("quality-speed.svg", plot("Quality by speed", speed, quality, &points(fast, good, true))),
        ("quality-price.svg", plot("Quality by price", price, quality, &points(dear, good, true))),
        ("speed-price.svg", plot("Speed by price", price, speed, &points(dear, fast, false))),
    ];
    all.into_iter().filter_map(|(name, svg)| Some((name, svg?))).collect()
}
