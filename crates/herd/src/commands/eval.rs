//! `herd eval`: measures models on benchmarks, and says how they differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use herd_codec::{Controls, TokenId};
use herd_data::disk::{RealDisk, make_folder, replace};
use herd_eval::item::{Drawn, Item, items};
use herd_eval::query::{Query, Samples};
use herd_eval::results::{Scores, numbers};
use herd_eval::robust::{self, Put, Spread};
use herd_eval::score::{Judge, Scorer};
use herd_eval::stats::{Difference, Mean, apart, difference, difference_of_groups};
use herd_eval::suite::{self, Receipt};
use herd_eval::view::{self, Shown};
use herd_eval::{EvalError, Task, catalogue};
use herd_sandbox::Helper;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::about::About;
use crate::commands::contamination;
use crate::console::{Console, Verdict, visible};
use crate::error::Error;
use crate::flags::range;
use crate::store::Store;
use crate::training;
use crate::whom::{Known, Manner, Whom, WhomFlags};

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
    /// Measure tasks of four answers in other words: names and order of answers, labels of examples, prompts
    Robustness(Box<RunFlags>),
    /// Say how two measured models differ, item by item
    Compare(CompareFlags),
    /// Say which items the training shards hold, and what models gain by it
    Contamination(Box<contamination::Flags>),
    /// Write receipts as a page to look at, or as a table
    View(ViewFlags),
}

/// Flags of `herd eval compare`.
#[derive(Debug, clap::Args)]
struct CompareFlags {
    /// Results of the first
    a: PathBuf,
    /// Results of the second
    #[arg(required_unless_present = "pair")]
    b: Option<PathBuf>,
    /// A task and its adversarial twin: how much less the second is worth, for each of the results
    #[arg(long, value_name = "TASK:TASK", value_parser = pair)]
    pair: Vec<(String, String)>,
}

/// Flags of `herd eval view`.
#[derive(Debug, clap::Args)]
struct ViewFlags {
    /// The folder of results
    folder: PathBuf,
    /// What makes texts of ids: a tokenizer's file or folder, or a model [default: ids are shown]
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
    /// These tasks alone, between commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    tasks: Vec<String>,
    /// Characters at the end of each question that are shown
    #[arg(long, default_value_t = 2000, value_name = "N", value_parser = range(1, 1 << 24))]
    chars: usize,
    /// A table (CSV) in place of the page
    #[arg(long)]
    csv: bool,
    /// The file to write [default: view.html or view.csv in the folder]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((a, b)) if !a.is_empty() && !b.is_empty() => Ok((a.to_owned(), b.to_owned())),
        _ => Err("expected TASK:TASK".to_owned()),
    }
}

/// Flags of `herd eval run`.
#[derive(Debug, clap::Args)]
struct RunFlags {
    #[command(flatten)]
    whom: WhomFlags,
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
    #[arg(long, value_name = "N", value_parser = range(2, 1000), conflicts_with = "url")]
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
    class: Option<String>,
    kv: Option<String>,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
}

/// `results.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Results {
    of: Of,
    tasks: BTreeMap<String, Scores>,
    /// Of tasks in other words, how far the scores of each family are apart.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    spreads: BTreeMap<String, Spread>,
}

/// Does what the verb says.
pub fn run(flags: &Flags, console: &Console, offline: bool) -> Result<Verdict, Error> {
    match &flags.verb {
        Verb::Run(flags) => measure(flags, asked(flags, false)?, console, offline),
        Verb::Robustness(flags) => measure(flags, asked(flags, true)?, console, offline),
        Verb::Ls => list(console),
        Verb::Compare(flags) => match &flags.b {
            _ if !flags.pair.is_empty() => compare_pairs(flags, console),
            Some(b) => compare(&flags.a, b, console),
            None => unreachable!("clap wants it where there is no --pair"),
        },
        Verb::Contamination(flags) => contamination::run(flags, console),
        Verb::View(flags) => view(flags, console),
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
    /// Whether it is another task in other words.
    variant: bool,
}

/// Reads all rows before anything is measured, so that what is wrong is told at once; `variants` of tasks in place of
/// them where these are wanted.
fn asked(flags: &RunFlags, variants: bool) -> Result<Vec<Asked>, Error> {
    let data = match &flags.data {
        Some(data) => data.clone(),
        None => Store::open()?.home().join("eval"),
    };
    let put = |Put { task, rows, shots }: Put| {
        let number = flags.num_fewshot.unwrap_or(task.shots.number);
        let drawn = Drawn { number, seed: flags.seed };
        let items = items(&task, &rows, shots.as_deref(), drawn, flags.limit)?;
        if items.is_empty() {
            let what = "it has no rows".to_owned();
            return Err(EvalError::Task { task: task.name, what }.into());
        }
        Ok::<_, Error>(Asked { task, number, items, variant: variants })
    };
    let (mut found, mut named) = (Vec::new(), BTreeSet::new());
    for name in &flags.tasks {
        let task = catalogue::find(name)?;
        let wrong = |what: String| EvalError::Task { task: task.name.clone(), what };
        if !named.insert(task.name.clone()) {
            return Err(wrong("it is asked for twice".to_owned()).into());
        }
        let least = task.metric.strip_prefix("pass@").and_then(|k| k.parse::<usize>().ok());
        if let Some(k) = least.filter(|k| *k > flags.samples.unwrap_or(1)) {
            let what = format!("its metric is {}, which wants --samples {k} at least", task.metric);
            return Err(wrong(what).into());
        }
        if flags.samples.is_some() && task.scorer != Scorer::Programs {
            return Err(wrong("--samples is of answers that are programs".to_owned()).into());
        }
        let (rows, shots) = (task.rows(&data)?, task.shot_rows(&data)?);
        let puts = match variants {
            true => robust::variants(&task, &rows, shots.as_deref())?,
            false => vec![Put { task, rows, shots }],
        };
        for one in puts {
            found.push(put(one)?);
        }
    }
    Ok(found)
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

/// What the results of some flags are of.
fn of(flags: &RunFlags, known: &Known) -> Of {
    let chat = flags.chat_template.clone().unwrap_or_else(|| "model".to_owned());
    Of {
        model: known.model.clone(),
        class: known.class.clone(),
        kv: known.kv.clone(),
        context: known.context,
        limit: flags.limit,
        num_fewshot: flags.num_fewshot,
        seed: flags.seed,
        chat: flags.apply_chat_template.then_some(chat),
        fewshot_as_multiturn: flags.fewshot_as_multiturn,
        system_instruction: flags.system_instruction.clone(),
        samples: flags.samples,
        temperature: flags.samples.map(|_| flags.temperature),
        top_p: flags.samples.map(|_| flags.top_p),
        herd: env!("CARGO_PKG_VERSION").to_owned(),
        endpoint: known.endpoint.clone(),
    }
}

fn measure(
    flags: &RunFlags,
    tasks: Vec<Asked>,
    console: &Console,
    offline: bool,
) -> Result<Verdict, Error> {
    let manner = Manner {
        batch: flags.batch_size,
        chat: flags.apply_chat_template,
        template: flags.chat_template.as_deref(),
        system: flags.system_instruction.as_deref(),
        turns: flags.fewshot_as_multiturn,
    };
    let (samples, judge) = (samples(flags)?, judge(&tasks)?);
    let Whom { known, mut words, mut answers } = Whom::open(&flags.whom, &manner, offline)?;
    words.samples = samples;
    let of = of(flags, &known);
    begin(&flags.out, &of)?;
    // What other commands of these settings measured in this folder stays.
    let before = read(&flags.out).ok().filter(|before| before.of == of);
    let tasks_before = before.map(|before| before.tasks).unwrap_or_default();
    let mut results = Results { of, tasks: tasks_before, spreads: BTreeMap::new() };
    let stop = training::stop_on_interrupt(console);
    for Asked { task, number, items, .. } in &tasks {
        let mut meter = console.meter(&task.name, None);
        let path = receipts(&flags.out, &task.name);
        let mut answer = |queries: &[Query]| answers.answer(queries, &stop);
        let mut tell = |done| meter.step(done, items.len());
        let receipts =
            suite::run(task, items, &words, &path, judge.as_ref(), &mut answer, &mut tell)?;
        results.tasks.insert(task.name.clone(), Scores::of(task, *number, &receipts));
    }
    if tasks.iter().any(|asked| asked.variant) {
        results.spreads = robust::spreads(&results.tasks);
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
    make_folder(out).map_err(Error::io("make", out))?;
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

fn nats(mean: Mean) -> String {
    format!("{:.3} +- {:.3} nats", mean.value, (mean.ci95.1 - mean.ci95.0) / 2.0)
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
                if metric == "log_prob" { nats(*mean) } else { percent(*mean) },
                scores.cut.to_string(),
                scores.full.to_string(),
                ended(scores),
            ]);
        }
    }
    console.print_table(&table)?;
    for (family, spread) in &results.spreads {
        let [least, most, apart] = [spread.least, spread.most, spread.spread].map(|x| 100.0 * x);
        let family = visible(family);
        console.print(format!("{family}: {least:.2} to {most:.2} %, {apart:.2} points apart"))?;
    }
    Ok(())
}

/// The scores of a folder of results, by task.
///
/// Errors: it holds none.
pub fn scores(folder: &Path) -> Result<BTreeMap<String, Scores>, Error> {
    Ok(read(folder)?.tasks)
}

fn read(folder: &Path) -> Result<Results, Error> {
    let path = folder.join("results.json");
    let text = fs::read(&path).map_err(Error::io("read", &path))?;
    let wrong = |what: String| EvalError::Results { path: path.clone(), what };
    let results: Results = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
    match results.tasks.iter().find(|(_, of)| !of.scores.contains_key(&of.metric)) {
        Some((name, of)) => Err(wrong(format!("{name} has no score {:?}", of.metric)).into()),
        None => Ok(results),
    }
}

/// How the second differs from the first on a task that both have. Errors: its items are not the same.
fn paired(a: &Path, b: &Path, name: &str, scores: &Scores) -> Result<Difference, Error> {
    let read = |folder: &Path| suite::receipts(&receipts(folder, name));
    let (of_a, of_b) = (read(a)?, read(b)?);
    let rows = |of: &[Receipt]| {
        of.iter().map(|receipt| (receipt.row, receipt.gold.clone())).collect::<Vec<_>>()
    };
    if rows(&of_a) != rows(&of_b) {
        let what = format!("the items of {name} are not those of {}", a.display());
        return Err(EvalError::Results { path: b.to_owned(), what }.into());
    }
    let mut groups: BTreeMap<Option<&String>, Vec<usize>> = BTreeMap::new();
    for (i, receipt) in of_a.iter().enumerate() {
        groups.entry(receipt.group.as_ref().filter(|_| scores.by_group)).or_default().push(i);
    }
    let of = |places: &[usize]| {
        let clusters: Option<Vec<String>> =
            places.iter().map(|&i| of_a[i].cluster.clone()).collect();
        let [x, y] = [&of_a, &of_b].map(|all| {
            let of: Vec<&Receipt> = places.iter().map(|&i| &all[i]).collect();
            numbers(&of, &scores.metric)
        });
        difference(&x, &y, clusters.as_deref())
    };
    Ok(difference_of_groups(&groups.values().map(|places| of(places)).collect::<Vec<_>>()))
}

/// How the second of two folders of results differs from the first: by task, the metric and the difference.
///
/// Errors: they have no task in common, or not the same items and metric of one.
pub fn differences(a: &Path, b: &Path) -> Result<BTreeMap<String, (String, Difference)>, Error> {
    let (first, second) = (scores(a)?, scores(b)?);
    let mut found = BTreeMap::new();
    for (name, scores) in &first {
        let Some(other) = second.get(name) else { continue };
        if (&scores.metric, scores.num_fewshot) != (&other.metric, other.num_fewshot) {
            let how = |s: &Scores| format!("{} with {} examples", s.metric, s.num_fewshot);
            let what = format!("{name} is {} here, {} there", how(other), how(scores));
            return Err(EvalError::Results { path: b.to_owned(), what }.into());
        }
        found.insert(name.clone(), (scores.metric.clone(), paired(a, b, name, scores)?));
    }
    if found.is_empty() {
        let what = format!("it has no task of {}", a.display());
        return Err(EvalError::Results { path: b.to_owned(), what }.into());
    }
    Ok(found)
}

fn compare(a: &Path, b: &Path, console: &Console) -> Result<Verdict, Error> {
    let found = differences(a, b)?;
    let (first, second) = (scores(a)?, scores(b)?);
    let all = first.keys().chain(second.keys());
    let alone: BTreeSet<&String> = all.filter(|name| !found.contains_key(*name)).collect();
    for name in alone {
        console.note(format!("{} is in one of them alone", visible(name)));
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
        table.push([vec![visible(name), metric.clone()], told(d)].concat());
    }
    console.print_table(&table)?;
    Ok(Verdict::Done)
}

/// A difference as columns: items, points, how often by chance, what would be seen.
fn told(d: &Difference) -> Vec<String> {
    let half = 100.0 * (d.ci95.1 - d.ci95.0) / 2.0;
    vec![
        d.n.to_string(),
        format!("{:+.2} +- {half:.2} points", 100.0 * d.difference),
        format!("{:.4}", d.p),
        format!("{:.2} points", 100.0 * d.detectable),
    ]
}

/// How much less an adversarial task is worth than its twin, for each of the results.
fn compare_pairs(flags: &CompareFlags, console: &Console) -> Result<Verdict, Error> {
    let head = ["results", "pair", "first", "second", "items", "second less first (95 %)", "p"];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    let mut found = Vec::new();
    for folder in [Some(&flags.a), flags.b.as_ref()].into_iter().flatten() {
        let results = read(folder)?;
        let of = |name: &String| {
            let what = || EvalError::Results {
                path: folder.join("results.json"),
                what: format!("it has no task {name}"),
            };
            results.tasks.get(name).map(Scores::main).ok_or_else(what)
        };
        for (plain, adversarial) in &flags.pair {
            let (first, second) = (of(plain)?, of(adversarial)?);
            let difference = apart(first, second);
            let mut row = vec![visible(&folder.display().to_string())];
            row.push(visible(&format!("{plain}:{adversarial}")));
            row.extend([percent(first), percent(second)]);
            row.extend(told(&difference).into_iter().take(3));
            table.push(row);
            found.push(json!({
                "results": folder, "pair": [plain, adversarial],
                "first": first, "second": second, "difference": difference,
            }));
        }
    }
    if console.json {
        console.print_json(&found)?;
    } else {
        console.print_table(&table)?;
    }
    Ok(Verdict::Done)
}

/// Writes the receipts of a folder as a page or a table.
fn view(flags: &ViewFlags, console: &Console) -> Result<Verdict, Error> {
    let results = read(&flags.folder)?;
    let about = flags.tokenizer.as_deref().map(About::of_tokenizer).transpose()?;
    let text = |ids: &[u32]| match &about {
        Some(about) => {
            let known = about.tokenizer.vocab_size();
            let ids: Vec<TokenId> =
                ids.iter().filter(|id| (**id as usize) < known).map(|&id| TokenId(id)).collect();
            let text = about.tokenizer.decode_with(&ids, Controls::Show);
            String::from_utf8_lossy(&text).into_owned()
        }
        None => ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" "),
    };
    let mut found = Vec::new();
    let names: Vec<&String> = match flags.tasks.is_empty() {
        true => results.tasks.keys().collect(),
        false => flags.tasks.iter().collect(),
    };
    for name in names {
        let scores = results.tasks.get(name).ok_or_else(|| EvalError::Results {
            path: flags.folder.join("results.json"),
            what: format!("it has no task {name}"),
        })?;
        found.push((name, scores, suite::receipts(&receipts(&flags.folder, name))?));
    }
    let shown: Vec<Shown<'_>> = found
        .iter()
        .map(|(name, scores, receipts)| Shown { name: name.as_str(), scores, receipts })
        .collect();
    let of = serde_json::to_value(&results.of).expect("settings serialise");
    let page = match flags.csv {
        true => view::csv(&shown, &text, flags.chars),
        false => view::html(&of, &shown, &text, flags.chars),
    };
    let own = if flags.csv { "view.csv" } else { "view.html" };
    let out = flags.out.clone().unwrap_or_else(|| flags.folder.join(own));
    let name = out.file_name().map(|name| name.to_string_lossy().into_owned());
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    let (folder, name) = (folder.unwrap_or(Path::new(".")), name.unwrap_or_default());
    replace(&RealDisk, folder, &name, &[page.as_bytes()]).map_err(EvalError::from)?;
    console.note(format!("{} is written", visible(&out.display().to_string())));
    Ok(Verdict::Done)
}
