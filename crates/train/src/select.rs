//! Data quality (arXiv 2407.21783, section 4.2.3): which rows are worth learning from, and why the others are not.
//!
//! ```text
//! rows -> clean -> tags, difficulty, marks, rewards -> quality -> duplicates in meaning -> over-used phrases -> rows
//!    each row that falls: its reason, in the ledger
//! ```
//!
//! Each part is done where the settings have its table. What cost time (answers, rewards, embeddings) is in a log; all else is a
//! function of it, so that a run that was killed ends with the bytes of one that was not.

mod clean;
mod cluster;
mod config;
mod judge;
mod phrases;
mod rows;

pub use clean::CleanConfig;
pub use cluster::DedupConfig;
pub use config::SelectConfig;
pub use judge::{QualityConfig, TagsConfig};
pub use phrases::PhrasesConfig;

use crate::error::TrainError;
use crate::rejection::{Rows, begin, beside, hash_input};
use crate::reward::RewardModel;
use crate::trainer::replace;
use crate::writer::desk::{Desk, Halt, Room, Voices, answer_all};
use crate::writer::log::{Id, Log};
use crate::writer::prompts::Prompts;
use crate::writer::{AskConfig, Writer};
use herd_codec::chat::Dialogue;
use herd_data::Hash;
use judge::Marks;
use rows::{Read, Reader};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Gives the vector of a text.
pub type Embed<'a> = dyn FnMut(&str) -> Result<Vec<f32>, TrainError> + 'a;

/// What selecting needs from outside.
pub struct Inputs<'a, 'b> {
    /// The settings.
    pub config: &'a SelectConfig,
    /// The folder that their paths are relative to.
    pub base: &'a Path,
    /// The file of rows.
    pub out: &'a Path,
    /// Who tags and judges, and what names its weights.
    pub writer: Option<(String, &'a mut Writer<'b>)>,
    /// The reward model of the settings.
    pub reward: Option<(Hash, RewardModel)>,
    /// What gives vectors, and what names its weights.
    pub embed: Option<(String, &'a mut Embed<'b>)>,
    /// Set from outside to end.
    pub stop: &'a AtomicBool,
}

/// What became of all rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Rows read.
    pub rows: u64,
    /// Rows kept.
    pub kept: u64,
    /// The others, by the reason.
    pub dropped: BTreeMap<String, u64>,
    /// Kept rows by topic.
    pub topics: BTreeMap<String, u64>,
    /// Kept rows by difficulty.
    pub difficulty: BTreeMap<String, u64>,
    /// Verdicts that could not be read, by step.
    pub unread: BTreeMap<String, u64>,
    /// The reward from which on a row is of high quality.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward_min: Option<f64>,
    /// Rows of high quality by the reward alone, by the judge alone, by both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<[u64; 3]>,
    /// Clusters that were looked through for duplicates.
    pub clusters: u64,
    /// Phrases whose share was cut, with the rows that had them before and after.
    pub phrases: Vec<(String, u64, u64)>,
}

/// A row, as far as selecting needs it.
struct Entry {
    id: String,
    marks: Marks,
    reward: Option<f64>,
    vector: Vec<f32>,
    /// From 0 to 1.
    quality: f64,
    /// Why it fell, and what more is known.
    dropped: Option<(&'static str, Value)>,
}

impl Entry {
    fn drop(&mut self, reason: &'static str, what: Value) {
        self.dropped.get_or_insert((reason, what));
    }
}

/// Selects; `None` if it was asked to stop.
///
/// Beside `ROWS.jsonl` lie `ROWS.dropped.jsonl` (the ledger), `ROWS.summary.json`, `ROWS.asked.jsonl` (the log) and `ROWS.config.toml`.
/// Errors: the file was begun with other settings, is damaged, in use or somebody else's; input that cannot be read; the writer, a model
/// or the disk fails.
pub fn select(mut inputs: Inputs<'_, '_>) -> Result<Option<Summary>, TrainError> {
    let (config, out, stop) = (inputs.config, inputs.out, inputs.stop);
    let files: Vec<PathBuf> = config.input.iter().map(|path| inputs.base.join(path)).collect();
    let beside_it = ["dropped.jsonl", "summary.json", "asked.jsonl"];
    begin(out, &beside_it, &files, &told(&inputs, &files)?)?;
    let mut log = Log::open(&beside(out, "asked.jsonl"))?;
    let prompts = Prompts::new(&config.prompts, judge::PROMPTS)?;
    let hash = inputs.writer.as_ref().map(|(hash, _)| hash.clone()).unwrap_or_default();
    let name = config.writer.as_ref().map(|writer| format!("{} {hash}", writer.name()));
    let name = name.unwrap_or_default();
    let (ask, seed) = (&config.sample, config.seed);
    let room = Room { prompts: &prompts, ask, seed, writer: &name, judge: &name, sandbox: None };
    let open = || Reader::open(&files, &config.chat);
    if let Some((_, writer)) = &mut inputs.writer {
        let mut reader = open()?;
        let mut rows = reader.by_ref().filter_map(|row| match row {
            Ok(row) if clean::fault(&row, config.clean.as_ref()).is_some() => None,
            row => Some(row.map(|row| (row.id.clone(), row))),
        });
        let work = |desk: &mut Desk<'_>, row: &Read| judge::marks(desk, config, row).map(|_| ());
        let voices = Voices { writer: *writer, judge: None };
        if !answer_all(&room, &mut log, &mut rows, &work, voices, stop)? {
            return Ok(None);
        }
    }
    let mut order = Vec::new();
    let mut reader = open()?;
    let mut entries = Vec::new();
    for row in reader.by_ref() {
        entries.push(entry(&room, &mut log, &mut order, &mut inputs, &row?)?);
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
    }
    let mut summary = Summary { rows: entries.len() as u64, ..Summary::default() };
    summary.dropped = reader.dropped;
    if let Some(quality) = &config.quality {
        judge::quality(quality, &mut entries, &mut summary);
    }
    if let Some(dedup) = &config.dedup {
        summary.clusters = cluster::dedup(dedup, config.seed, &mut entries)?;
    }
    if let Some(phrases) = &config.phrases {
        phrases::balance(phrases, config.seed, &mut entries, &mut open()?, &mut summary)?;
    }
    log.settle(&order)?;
    write(&mut open()?, &entries, out, &mut summary)?;
    Ok(Some(summary))
}

/// The settings, and what rows depend on besides.
fn told(inputs: &Inputs<'_, '_>, files: &[PathBuf]) -> Result<String, TrainError> {
    let mut config = inputs.config.clone();
    config.sample = AskConfig { parallel: 1, ..config.sample }; // it changes no bit
    if let Some(writer) = &mut config.writer {
        *writer = writer.lasting();
    }
    let writer = inputs.writer.as_ref().map_or("", |(hash, _)| hash);
    let reward = inputs.reward.as_ref().map_or(String::new(), |(hash, _)| hash.to_string());
    let embed = inputs.embed.as_ref().map_or("", |(hash, _)| hash);
    let input = hash_input(files)?;
    let begun = format!(
        "input = \"{input}\"\nwriter = {writer:?}\nreward = {reward:?}\nembed = {embed:?}\n"
    );
    Ok(format!("{}\n[begun]\n{begun}", config.write()))
}

/// What is known of a row: from the log, else computed and put there.
fn entry(
    room: &Room<'_>,
    log: &mut Log,
    order: &mut Vec<Id>,
    inputs: &mut Inputs<'_, '_>,
    row: &Read,
) -> Result<Entry, TrainError> {
    let (id, marks) = (row.id.clone(), Marks::default());
    let mut entry =
        Entry { id, marks, reward: None, vector: Vec::new(), quality: 1.0, dropped: None };
    if let Some((reason, what)) = clean::fault(row, inputs.config.clean.as_ref()) {
        entry.drop(reason, what);
        return Ok(entry);
    }
    if inputs.writer.is_some() {
        let mut desk = Desk::new(room, log, &row.id);
        let marks = judge::marks(&mut desk, inputs.config, row);
        order.append(&mut desk.trace);
        entry.marks = match marks {
            Ok(marks) => marks,
            Err(Halt::Failed(error)) => return Err(error),
            Err(Halt::Waits | Halt::Rejected(_)) => {
                let error = "its log lacks an answer that was there".to_owned();
                return Err(TrainError::Sample { error });
            }
        };
    }
    if let Some((hash, model)) = &inputs.reward {
        let wanted = json!({ "item": row.id, "reward": hash });
        let got = known(log, order, &wanted, || Ok(json!(reward(model, row)?)))?;
        entry.reward = got.as_f64();
    }
    if let Some((hash, embed)) = &mut inputs.embed {
        let wanted = json!({ "item": row.id, "embed": hash });
        let got = known(log, order, &wanted, || Ok(json!(embed(&row.text)?)))?;
        entry.vector =
            serde_json::from_value(got).map_err(|e| TrainError::Writer { source: Box::new(e) })?;
    }
    Ok(entry)
}

/// What stands in the log, or is put there now.
fn known(
    log: &mut Log,
    order: &mut Vec<Id>,
    wanted: &Value,
    make: impl FnOnce() -> Result<Value, TrainError>,
) -> Result<Value, TrainError> {
    let id = Id::of(wanted);
    order.push(id);
    if let Some(got) = log.get(id)? {
        return Ok(got);
    }
    let made = make()?;
    log.put(wanted, made.clone())?;
    Ok(made)
}

/// The reward of the last answer; `None` of rows that the model cannot read.
fn reward(model: &RewardModel, row: &Read) -> Result<Option<f64>, TrainError> {
    let mut messages = row.dialogue.messages.clone();
    let Some(answer) = messages.pop() else { return Ok(None) };
    let prompt = Dialogue { messages, ..row.dialogue.clone() };
    let answers = std::slice::from_ref(&answer);
    let asked = model.ask(&prompt, answers)?;
    if asked.prompt.len() + asked.answers[0].len() > model.context() {
        return Ok(None);
    }
    let score = model.score(&prompt, answers)?[0];
    Ok(score.is_finite().then_some(score))
}

/// Writes rows, ledger and summary.
fn write(
    reader: &mut Reader,
    entries: &[Entry],
    out: &Path,
    summary: &mut Summary,
) -> Result<(), TrainError> {
    let mut kept = Rows::create(out.to_owned())?;
    let mut ledger = Rows::create(beside(out, "dropped.jsonl"))?;
    for (entry, row) in entries.iter().zip(reader) {
        let row = row?;
        for step in &entry.marks.unread {
            *summary.unread.entry((*step).to_owned()).or_default() += 1;
        }
        let mut told = json!({ "id": entry.id, "file": row.file, "row": row.row });
        entry.marks.tell(&mut told);
        if let Some(reward) = entry.reward {
            told["reward"] = reward.into();
        }
        match &entry.dropped {
            Some((reason, what)) => {
                *summary.dropped.entry((*reason).to_owned()).or_default() += 1;
                told["reason"] = (*reason).into();
                told["what"] = what.clone();
                ledger.write(&told)?;
            }
            None => {
                summary.kept += 1;
                let topic = entry.marks.topic.clone();
                if let Some(topic) = topic {
                    *summary.topics.entry(topic).or_default() += 1;
                }
                let difficulty = entry.marks.difficulty.map(|mark| mark.to_string());
                if let Some(mark) = difficulty {
                    *summary.difficulty.entry(mark).or_default() += 1;
                }
                told["quality"] = entry.quality.into();
                let mut value = row.value;
                value["selection"] = told;
                kept.write(&value)?;
            }
        }
    }
    ledger.finish()?;
    kept.finish()?;
    let text = serde_json::to_string_pretty(&summary).expect("a summary is JSON");
    replace(&beside(out, "summary.json"), format!("{text}\n").as_bytes())
}
