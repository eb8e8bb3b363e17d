//! Synthetic data (arXiv 2407.21783, sections 4.2.3 and 4.3): rows for `herd sft` that a writer makes and checks let through.
//!
//! ```text
//! input -> Item -> a page of steps: ask, check, run, ask again -> rows, each with where it came from
//!                                                              -> what fell, with its reason
//! ```
//!
//! A kind is one file: its prompts, its settings, and a function from an item to rows, written as if every answer were there
//! (`writer/desk.rs`). What was asked and run is in a log; rows are a function of input, settings and log, so that a run that
//! was killed goes on and ends with the same bytes.

mod arithmetic;
mod backtranslate;
mod code;
mod config;
mod files;
mod imports;
mod items;
mod long_qa;
mod maths;
mod probe;
pub(crate) mod read;
mod search;
mod steps;
mod tools;
mod translate_code;

pub use backtranslate::BacktranslateConfig;
pub use code::{CodeConfig, Keep};
pub use config::SynthConfig;
pub use imports::ImportsConfig;
pub use long_qa::LongQaConfig;
pub use maths::MathsConfig;
pub use probe::ProbeConfig;
pub use search::SearchConfig;
pub use steps::StepsConfig;
pub use tools::ToolsConfig;
pub use translate_code::{Language, TranslateConfig};

use crate::error::TrainError;
use crate::rejection::{Rows, begin, beside};
use crate::trainer::replace;
use crate::writer::desk::{Ask, Desk, Halt, Made, Rejected, Room, Voices, answer_all, fault};
use crate::writer::log::{Id, Log};
use crate::writer::prompts::{Default, Prompts};
use crate::writer::{Writer, WriterConfig};
use herd_codec::Tokenizer;
use herd_sandbox::{Helper, Limits, Sandbox};
use items::{Begins, Item, Items};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// What rows are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Programs that pass tests.
    Code,
    /// Programs in another language that print the same.
    TranslateCode,
    /// Explanations that code can be made from again.
    Backtranslate,
    /// Solutions with the right answer.
    Maths,
    /// Steps of solutions, by where they lead.
    MathsSteps,
    /// Solutions of hard problems, found by a tree search.
    MathsSearch,
    /// What the writer knows, and what it should not claim to.
    Probe,
    /// Questions about long documents, and their summaries.
    LongQa,
    /// Code that a repository lacks, and who depends on it.
    Imports,
    /// Calls of tools, and answers that use what came back.
    Tools,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 10] = [
        Kind::Code,
        Kind::TranslateCode,
        Kind::Backtranslate,
        Kind::Maths,
        Kind::MathsSteps,
        Kind::MathsSearch,
        Kind::Probe,
        Kind::LongQa,
        Kind::Imports,
        Kind::Tools,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Code => "code",
            Kind::TranslateCode => "translate-code",
            Kind::Backtranslate => "backtranslate",
            Kind::Maths => "maths",
            Kind::MathsSteps => "maths-steps",
            Kind::MathsSearch => "maths-search",
            Kind::Probe => "probe",
            Kind::LongQa => "long-qa",
            Kind::Imports => "imports",
            Kind::Tools => "tools",
        }
    }

    pub(crate) fn prompts(self) -> &'static [Default] {
        match self {
            Kind::Code => code::PROMPTS,
            Kind::TranslateCode => translate_code::PROMPTS,
            Kind::Backtranslate => backtranslate::PROMPTS,
            Kind::Maths => maths::PROMPTS,
            Kind::MathsSteps => steps::PROMPTS,
            Kind::MathsSearch => search::PROMPTS,
            Kind::Probe => probe::PROMPTS,
            Kind::LongQa => long_qa::PROMPTS,
            Kind::Imports => imports::PROMPTS,
            Kind::Tools => tools::PROMPTS,
        }
    }
}

/// What making rows needs from outside.
pub struct Inputs<'a> {
    /// What rows are of.
    pub kind: Kind,
    /// The settings.
    pub config: &'a SynthConfig,
    /// The folder that their paths are relative to.
    pub base: &'a Path,
    /// The file of rows.
    pub out: &'a Path,
    /// Who writes.
    pub writer: &'a mut Writer<'a>,
    /// Names its weights: a hash, or an endpoint's model.
    pub writer_hash: String,
    /// Who gives verdicts where the settings name one, with what names its weights.
    pub judge: Option<(String, &'a mut Writer<'a>)>,
    /// What counts the tokens of long documents.
    pub tokenizer: Option<&'a Tokenizer>,
    /// Set from outside to end.
    pub stop: &'a AtomicBool,
}

/// What became of all items.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// What rows are of.
    pub kind: String,
    /// Items that were begun.
    pub items: u64,
    /// Rows written.
    pub rows: u64,
    /// Items and candidates that fell, written as well.
    pub rejected: u64,
    /// What became of each step.
    pub steps: BTreeMap<String, Steps>,
    /// Records of the input that no item was made from, by the reason.
    pub dropped: BTreeMap<String, u64>,
    /// What else a kind counts.
    pub told: BTreeMap<String, u64>,
    /// Entries of the log that the rows used.
    pub entries: u64,
}

/// What became of a step.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Steps {
    /// How often it went well.
    pub passed: u64,
    /// How often not, by the reason.
    pub failed: BTreeMap<String, u64>,
}

/// What work on an item gave.
#[derive(Default)]
struct Harvest {
    /// Rows: at least `messages`.
    rows: Vec<Value>,
    /// Candidates that fell.
    rejected: Vec<Rejected>,
    /// What else is counted.
    told: Vec<&'static str>,
}

/// What work on an item may look at besides.
struct Shelf<'a> {
    config: &'a SynthConfig,
    tokenizer: Option<&'a Tokenizer>,
}

/// Makes all rows; `None` if it was asked to stop.
///
/// Beside `ROWS.jsonl` lie `ROWS.rejected.jsonl`, `ROWS.summary.json`, `ROWS.asked.jsonl` (the log) and `ROWS.config.toml`.
/// Errors: the file was begun with other settings, is damaged, in use or somebody else's; input that cannot be read; the writer, the
/// sandbox or the disk fails.
pub fn synth(inputs: Inputs<'_>) -> Result<Option<Summary>, TrainError> {
    let Inputs { kind, config, base, out, writer, writer_hash, judge, tokenizer, stop } = inputs;
    let (judge_hash, judge) = judge.unzip();
    let who = Who { writer: writer_hash, judge: judge_hash };
    let files: Vec<PathBuf> = config.input.iter().map(|path| base.join(path)).collect();
    let beside_it = ["rejected.jsonl", "summary.json", "asked.jsonl"];
    begin(out, &beside_it, &files, &told(kind, config, &who, &files)?)?;
    let prompts = Prompts::new(&config.prompts, kind.prompts())?;
    let [writes, judges] = who.names(config);
    let (sandbox, seed) = (sandbox(config)?, config.seed);
    let ask = &config.sample;
    let room = Room { prompts: &prompts, ask, seed, writer: &writes, judge: &judges, sandbox };
    let shelf = Shelf { config, tokenizer };
    let mut log = Log::open(&beside(out, "asked.jsonl"))?;
    let mut items = Items::open(kind, config, &files)?;
    let work = |desk: &mut Desk<'_>, item: &Item| harvest(kind, desk, &shelf, item).map(|_| ());
    let mut keyed = items.by_ref().map(|item| item.map(|item| (item.key.clone(), item)));
    let voices = Voices { writer, judge };
    if !answer_all(&room, &mut log, &mut keyed, &work, voices, stop)? {
        return Ok(None);
    }
    let mut writing = Writing::create(kind, config, out, &who)?;
    let mut items = Items::open(kind, config, &files)?;
    for item in items.by_ref() {
        let item = item?;
        let mut desk = Desk::new(&room, &mut log, &item.key);
        let made = harvest(kind, &mut desk, &shelf, &item);
        let Desk { trace, steps, .. } = desk;
        writing.take(&item, made, trace, steps)?;
    }
    writing.summary.dropped = items.dropped;
    writing.finish(log, out).map(Some)
}

fn harvest(kind: Kind, desk: &mut Desk<'_>, shelf: &Shelf<'_>, item: &Item) -> Made<Harvest> {
    match kind {
        Kind::Code => code::work(desk, shelf, item),
        Kind::TranslateCode => translate_code::work(desk, shelf, item),
        Kind::Backtranslate => backtranslate::work(desk, shelf, item),
        Kind::Maths => maths::work(desk, shelf, item),
        Kind::MathsSteps => steps::work(desk, shelf, item),
        Kind::MathsSearch => search::work(desk, shelf, item),
        Kind::Probe => probe::work(desk, shelf, item),
        Kind::LongQa => long_qa::work(desk, shelf, item),
        Kind::Imports => imports::work(desk, shelf, item),
        Kind::Tools => tools::work(desk, shelf, item),
    }
}

/// The hashes of those who answer, or the names of endpoints' models.
struct Who {
    writer: String,
    judge: Option<String>,
}

impl Who {
    /// What the log calls the writer and the judge: who answered is part of a question.
    fn names(&self, config: &SynthConfig) -> [String; 2] {
        let name = |config: &WriterConfig, hash: &str| format!("{} {hash}", config.name());
        let writer = name(&config.writer, &self.writer);
        let judge = config.judge.as_ref().zip(self.judge.as_ref());
        let judge = judge.map_or(writer.clone(), |(config, hash)| name(config, hash));
        [writer, judge]
    }
}

/// The settings, and what rows depend on besides.
fn told(
    kind: Kind,
    config: &SynthConfig,
    who: &Who,
    input: &[PathBuf],
) -> Result<String, TrainError> {
    let mut config = config.clone();
    config.sample.parallel = 1; // it changes no bit
    config.writer = config.writer.lasting();
    config.judge = config.judge.as_ref().map(WriterConfig::lasting);
    let (input, kind, writer) = (Begins::of(kind, &config).hash(input)?, kind.name(), &who.writer);
    let mut begun = format!("kind = {kind:?}\ninput = \"{input}\"\nwriter = {writer:?}\n");
    if let Some(judge) = &who.judge {
        begun += &format!("judge = {judge:?}\n");
    }
    Ok(format!("{}\n[begun]\n{begun}", config.write()))
}

/// Where programs run, of kinds that run any.
fn sandbox(config: &SynthConfig) -> Result<Option<Sandbox>, TrainError> {
    let code = config.code.as_ref().map(|code| code.seconds);
    let others = [
        config.translate.as_ref().map(|t| t.seconds),
        config.tools.as_ref().map(|t| t.seconds),
        config.imports.as_ref().map(|i| i.seconds),
    ];
    let Some(seconds) = others.into_iter().fold(code, Option::or) else { return Ok(None) };
    let cpu = Duration::from_secs_f64(seconds);
    // What is read back goes into a prompt; but for the graph of a repository.
    let output_bytes = if config.imports.is_some() { 1 << 22 } else { 1 << 14 };
    // A busy machine changes no verdict: the wall clock only ends what sleeps.
    let limits = Limits { cpu, wall: 10 * cpu, output_bytes, ..Limits::USUAL };
    Ok(Some(Sandbox::new(Helper::this_program()?, limits)?))
}

/// The files in the making.
struct Writing<'a> {
    kind: Kind,
    config: &'a SynthConfig,
    who: &'a Who,
    rows: Rows,
    rejected: Rows,
    order: Vec<Id>,
    /// Hashes of the messages of rows.
    seen: HashSet<Id>,
    summary: Summary,
}

impl<'a> Writing<'a> {
    fn create(
        kind: Kind,
        config: &'a SynthConfig,
        out: &Path,
        who: &'a Who,
    ) -> Result<Writing<'a>, TrainError> {
        let rows = Rows::create(out.to_owned())?;
        let rejected = Rows::create(beside(out, "rejected.jsonl"))?;
        let summary = Summary { kind: kind.name().to_owned(), ..Summary::default() };
        let (order, seen) = (Vec::new(), HashSet::new());
        Ok(Writing { kind, config, who, rows, rejected, order, seen, summary })
    }

    /// What came of an item.
    fn take(
        &mut self,
        item: &Item,
        made: Made<Harvest>,
        trace: Vec<Id>,
        steps: Vec<(&'static str, Option<String>)>,
    ) -> Result<(), TrainError> {
        self.summary.items += 1;
        for (step, reason) in steps {
            self.count(step, reason);
        }
        let entries: Vec<String> = trace.iter().map(Id::to_string).collect();
        self.order.extend(trace);
        let harvest = match made {
            Ok(harvest) => harvest,
            Err(Halt::Rejected(fallen)) => {
                self.count(fallen.step, Some(fallen.reason.clone()));
                return self.reject(item, &fallen);
            }
            Err(Halt::Failed(error)) => return Err(error),
            Err(Halt::Waits) => {
                let error = "its log lacks an answer that was there".to_owned();
                return Err(TrainError::Sample { error });
            }
        };
        for told in harvest.told {
            *self.summary.told.entry(told.to_owned()).or_default() += 1;
        }
        for fallen in &harvest.rejected {
            self.reject(item, fallen)?;
        }
        for mut row in harvest.rows {
            if !self.seen.insert(Id::of(&row["messages"])) {
                self.count("row", Some("duplicate".to_owned()));
                let (step, reason) = ("row", "duplicate".to_owned());
                self.reject(item, &Rejected { step, reason, what: row })?;
                continue;
            }
            self.count("row", None);
            row["provenance"] = json!({
                "kind": self.kind.name(), "file": item.file, "row": item.row, "copy": item.copy,
                "item": item.key, "seed": self.config.seed, "writer": self.config.writer.name(),
                "writer_hash": self.who.writer, "entries": entries,
            });
            if let (Some(judge), Some(hash)) = (&self.config.judge, &self.who.judge) {
                row["provenance"]["judge"] = judge.name().into();
                row["provenance"]["judge_hash"] = hash.as_str().into();
            }
            self.rows.write(&row)?;
        }
        Ok(())
    }

    fn count(&mut self, step: &str, reason: Option<String>) {
        let step = self.summary.steps.entry(step.to_owned()).or_default();
        match reason {
            None => step.passed += 1,
            Some(reason) => *step.failed.entry(reason).or_default() += 1,
        }
    }

    fn reject(&mut self, item: &Item, fallen: &Rejected) -> Result<(), TrainError> {
        let Rejected { step, reason, what } = fallen;
        self.rejected.write(&json!({
            "step": step, "reason": reason, "what": what,
            "item": item.key, "file": item.file, "row": item.row, "copy": item.copy,
        }))
    }

    fn finish(mut self, log: Log, out: &Path) -> Result<Summary, TrainError> {
        log.settle(&self.order)?;
        self.summary.entries = self.order.iter().collect::<HashSet<_>>().len() as u64;
        self.summary.rejected = self.rejected.finish()?;
        self.summary.rows = self.rows.finish()?;
        let text = serde_json::to_string_pretty(&self.summary).expect("a summary is JSON");
        replace(&beside(out, "summary.json"), format!("{text}\n").as_bytes())?;
        Ok(self.summary)
    }
}

/// A candidate falls, and its item goes on.
fn fall(
    desk: &mut Desk<'_>,
    harvest: &mut Harvest,
    step: &'static str,
    reason: &str,
    what: impl Into<Value>,
) {
    desk.failed(step, reason);
    harvest.rejected.push(Rejected { step, reason: reason.to_owned(), what: what.into() });
}

/// The one answer to a step; one that is cut off or empty falls, and its item goes on.
fn say(
    desk: &mut Desk<'_>,
    harvest: &mut Harvest,
    step: &'static str,
    with: Value,
) -> Made<Option<String>> {
    let answer = desk.ask(vec![Ask::one(step, with)])?.remove(0).remove(0);
    match fault(&answer) {
        None => {
            desk.passed(step);
            Ok(Some(answer.text.trim().to_owned()))
        }
        Some(reason) => {
            fall(desk, harvest, step, reason, answer.text);
            Ok(None)
        }
    }
}

/// A message of a row.
fn said(role: &str, text: &str) -> Value {
    json!({ "role": role, "content": text })
}

/// An assistant's message that is not learnt.
fn unlearnt(text: &str) -> Value {
    json!({ "role": "assistant", "content": text, "weight": 0 })
}
