//! `herd compare`: models side by side, from what was measured, what is measured now and what is given.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use herd_data::disk::{RealDisk, replace};
use herd_engine::sample::Sampling;
use herd_engine::{Engine, Limits, Request, What};
use herd_eval::beside::{
    Axis, Column, Figure, Known, Load, Point, beside, csv, html, markdown, plot,
};
use herd_model::checkpoint::Checkpoint;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::commands::bench_serve::{self, median};
use crate::commands::eval;
use crate::console::{Console, Verdict};
use crate::energy::Rapl;
use crate::error::Error;
use crate::flags::{KvFlag, ModelFlags};
use crate::run::{self, Ready};
use crate::writer::find;

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
    /// What `herd bench serve --json` said of it.
    bench: Option<PathBuf>,
    /// Folders of `herd eval run`.
    eval: Vec<PathBuf>,
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
    // What is cheap and may be wrong is read before anything is measured.
    let mut known: Vec<(String, Known)> = Vec::new();
    for (name, model) in &models {
        known.push((name.clone(), given(model, base)?));
    }
    for ((_, known), (name, model)) in known.iter_mut().zip(&models) {
        if let Some(url) = &model.url {
            if offline {
                return Err(Error::Offline { what: format!("the server at {url}") });
            }
            let Measure { prompt_tokens, max_tokens, concurrency } = &measure;
            let asked = bench_serve::Flags::of(url, concurrency, *prompt_tokens, *max_tokens);
            known.loads = loads(&bench_serve::rows(&asked, console)?, url)?;
            known.loads_from = format!("herd bench serve of {url}");
        }
        if let Some(path) = model.model.as_ref().filter(|_| model.speed) {
            console.note(format!("{name} is measured"));
            in_process(flags, &find(Path::new(path), base)?, &measure, known)?;
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
        if model.price_input.is_some() != model.price_output.is_some() {
            return wrong(format!("{name} has one price of price_input and price_output"));
        }
    }
    Ok(())
}

/// What files say, and what is given.
fn given(model: &Model, base: &Path) -> Result<Known, Error> {
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
    for folder in &model.eval {
        let folder = base.join(folder);
        for (task, scores) in eval::scores(&folder)? {
            if known.quality.insert(task.clone(), scores.main()).is_some() {
                let what = format!("a second folder with results of {task}");
                return Err(Error::Json { path: folder, what });
            }
        }
    }
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

/// Rows of `herd bench serve`. Where an older one has no speed behind the first token, the median gap stands for it.
fn loads(rows: &[Value], url: &str) -> Result<Vec<Load>, Error> {
    let load = |row: &Value| {
        let gap = row["inter_token_ms"]["p50"].as_f64().filter(|gap| *gap > 0.0);
        Some(Load {
            concurrency: row["concurrency"].as_u64()? as usize,
            tok_s: row["tok_s"].as_f64()?,
            output_tok_s: row["output_tok_s"].as_f64().or(gap.map(|gap| 1000.0 / gap)),
            ttft_ms: (row["ttft_ms"]["p50"].as_f64(), row["ttft_ms"]["p95"].as_f64()),
        })
    };
    let failed: u64 = rows.iter().filter_map(|row| row["failed"].as_u64()).sum();
    let read: Option<Vec<Load>> = rows.iter().map(load).collect();
    read.filter(|loads| failed == 0 && !loads.is_empty()).ok_or_else(|| Error::Answer {
        url: url.to_owned(),
        what: format!("{failed} requests that failed, or rows without tok_s"),
    })
}

/// One request's times.
#[derive(Default)]
struct Times {
    first: Option<Duration>,
    last: Duration,
    tokens: usize,
}

/// Answers prompts in this process, and counts energy where that may be read.
fn in_process(
    flags: &Flags,
    path: &Path,
    measure: &Measure,
    known: &mut Known,
) -> Result<(), Error> {
    let Measure { prompt_tokens, max_tokens, concurrency } = measure;
    let parallel = concurrency.iter().copied().max().unwrap_or(1);
    let model = ModelFlags {
        model: path.display().to_string(),
        threads: flags.threads,
        ctx_size: Some(prompt_tokens + max_tokens),
        class: flags.class.clone(),
        lora: None,
    };
    let (checkpoint, limits) = run::open(&model, &KvFlag::default(), None)?;
    let limits = Limits { parallel, ..limits };
    let Ready { model, limits, .. } = run::ready(&checkpoint, limits, &model)?;
    let (class, threads) = (model.device().class().name(), model.device().threads());
    let vocab = model.config().vocab;
    let mut engine = Engine::new(Arc::clone(&model), None, limits);
    let rapl = Rapl::open();
    let mut number = 0;
    measured(&mut engine, vocab, measure, 1, &mut number)?; // does not count
    for &at_once in concurrency {
        let mark = rapl.as_ref().and_then(Rapl::mark);
        let begun = Instant::now();
        let mut times = Vec::new();
        let rounds = if at_once == 1 { 5 } else { 2 };
        for _ in 0..rounds {
            times.extend(measured(&mut engine, vocab, measure, at_once, &mut number)?);
        }
        let seconds = begun.elapsed().as_secs_f64();
        let tokens: usize = times.iter().map(|t| t.tokens).sum();
        let joules = mark.and_then(|mark| rapl.as_ref()?.joules_since(&mark));
        if let Some(joules) = joules {
            let from = format!("counted by RAPL, the whole processor, {at_once} at once");
            known.joules_per_token = Some(Figure::new(joules / tokens as f64, from));
        }
        let first: Vec<f64> =
            times.iter().filter_map(|t| Some(t.first?.as_secs_f64() * 1e3)).collect();
        let speed = |t: &Times| {
            let seconds = (t.last - t.first?).as_secs_f64();
            (t.tokens > 1 && seconds > 0.0).then(|| (t.tokens - 1) as f64 / seconds)
        };
        known.loads.push(Load {
            concurrency: at_once,
            tok_s: tokens as f64 / seconds,
            output_tok_s: median(times.iter().filter_map(speed).collect()),
            ttft_ms: (median(first.clone()), first.into_iter().reduce(f64::max)),
        });
    }
    known.loads_from = format!(
        "in process, class {class}, {threads} threads, {prompt_tokens} tokens read, {max_tokens} written"
    );
    Ok(())
}

/// Answers so many prompts at once, none of which was there before.
fn measured(
    engine: &mut Engine,
    vocab: usize,
    measure: &Measure,
    at_once: usize,
    number: &mut usize,
) -> Result<Vec<Times>, Error> {
    let begun = Instant::now();
    let mut times: BTreeMap<_, Times> = BTreeMap::new();
    for _ in 0..at_once {
        *number += 1;
        let token = |i: usize| ((*number * 104_729 + i * 7919 + 13) % vocab) as u32;
        let prompt = (0..measure.prompt_tokens).map(token).collect();
        let request = Request {
            max_tokens: Some(measure.max_tokens),
            ..Request::new(prompt, Sampling::GREEDY)
        };
        times.insert(engine.submit(request)?, Times::default());
    }
    let mut events = Vec::new();
    while !engine.is_idle() {
        engine.step(&mut events);
        let now = begun.elapsed();
        for event in events.drain(..) {
            if let (What::Token(_), Some(times)) = (event.what, times.get_mut(&event.id)) {
                times.first.get_or_insert(now);
                times.last = now;
                times.tokens += 1;
            }
        }
    }
    Ok(times.into_values().collect())
}

/// Writes all files of the report; its Markdown.
fn write(out: &Path, tasks: &[String], columns: &[Column]) -> Result<String, Error> {
    fs::create_dir_all(out).map_err(Error::io("make", out))?;
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
    let price = Axis { name: "price of a million tokens", log: true };
    let quality = Axis { name: "quality (%)", log: false };
    let of = |figure: &Option<Figure>| figure.as_ref().map(|figure| figure.value);
    let good = |c: &Column| {
        let mean = c.quality?;
        Some((100.0 * mean.value, Some((100.0 * mean.ci95.0, 100.0 * mean.ci95.1))))
    };
    let fast = |c: &Column| Some((of(&c.speed)?, None));
    type Place = (f64, Option<(f64, f64)>);
    let points = |x: &dyn Fn(&Column) -> Option<f64>, y: &dyn Fn(&Column) -> Option<Place>| {
        let point = |c: &Column| {
            let (y, interval) = y(c)?;
            Some(Point { name: c.name.clone(), x: x(c)?, y, interval })
        };
        columns.iter().filter_map(point).collect::<Vec<_>>()
    };
    let all = [
        (
            "quality-speed.svg",
            plot("Quality by speed", speed, quality, &points(&|c| of(&c.speed), &good)),
        ),
        (
            "quality-price.svg",
            plot("Quality by price", price, quality, &points(&|c| of(&c.price), &good)),
        ),
        (
            "speed-price.svg",
            plot("Speed by price", price, speed, &points(&|c| of(&c.price), &fast)),
        ),
    ];
    all.into_iter().filter_map(|(name, svg)| Some((name, svg?))).collect()
}
