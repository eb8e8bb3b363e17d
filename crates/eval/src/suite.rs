//! The loop over a task's items: each answer is written down with all that made it, and a run that
//! was stopped goes on behind the last whole receipt.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::Path;

use fancy_regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::EvalError;
use crate::item::{Ask, Item};
use crate::query::{Query, Said, Words, queries};
use crate::score::{Judge, Worth};
use crate::task::Task;
use herd_data::disk::{make_folder, sync_name};

/// Items that are asked together; what batches they are computed in is another's choice.
const TOGETHER: usize = 64;

/// Answers queries, in their order.
pub type Asker<'a> = dyn FnMut(&[Query]) -> Result<Vec<Said>, EvalError> + 'a;

/// A receipt: an item, what was asked of it, what was answered, and what that is worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // their names in the file say it
pub struct Receipt {
    pub item: usize,
    pub row: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The hash of what it is scored by: both versions, the scorer, what ends texts, the answers, what is right.
    #[serde(default)]
    pub by: String,
    /// Ids read, question by question.
    pub prompts: Vec<Vec<u32>>,
    pub answers: Vec<Answer>,
    /// Tokens of questions cut off for want of room.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cut: usize,
    /// What was taken for the answer, and what is right.
    pub taken: Value,
    pub gold: Value,
    pub scores: BTreeMap<String, f64>,
    /// Of scores that are means of an item's parts, each part's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<String, Vec<f64>>,
    /// How the programs of the answers ended: `passed`, `failed`, `timed_out`, `out_of_memory`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<String>,
}

/// One answer of a receipt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Answer {
    /// The place of its question in `prompts`.
    pub prompt: usize,
    pub ids: Vec<u32>,
    /// Nats of each token of a given answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_probs: Option<Vec<f64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub greedy: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Whether a written answer was as long as it may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full: Option<bool>,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// Asks the items that have no receipt at `path` yet, and gives the receipts of all. `judge` runs the
/// programs that are written.
///
/// `asker` answers queries in their order; `tell` hears how many items are done. Errors: those of
/// `asker`; an item that the model cannot be asked; a file that cannot be written, or holds receipts
/// of other questions.
pub fn run(
    task: &Task,
    items: &[Item],
    words: &Words,
    path: &Path,
    judge: Option<&Judge>,
    asker: &mut Asker<'_>,
    tell: &mut dyn FnMut(usize),
) -> Result<Vec<Receipt>, EvalError> {
    let (mut file, mut receipts) = resume(path)?;
    let held = |stand: usize| {
        let (task, items) = (task.name.clone(), items.len());
        move |error: EvalError| match error {
            EvalError::Endpoint { .. } | EvalError::Model(_) => {
                EvalError::Held { task, stand, items, source: Box::new(error) }
            }
            other => other,
        }
    };
    let asked = |item: &Item| queries(task, item, words);
    if receipts.len() > items.len() {
        let what = format!("{} receipts of {} items", receipts.len(), items.len());
        return Err(EvalError::Results { path: path.to_owned(), what });
    }
    for (receipt, item) in receipts.iter().zip(items) {
        let (queries, _) = asked(item).map_err(held(receipts.len()))?;
        if receipt.by != by(task, item, words) || receipt.prompts != prompts(&queries).0 {
            let what = format!(
                "the receipt of item {} is of another question, page or scorer",
                item.number
            );
            return Err(EvalError::Results { path: path.to_owned(), what });
        }
    }
    tell(receipts.len());
    for items in items[receipts.len()..].chunks(TOGETHER) {
        let made: Result<Vec<(Vec<Query>, usize)>, EvalError> = items.iter().map(asked).collect();
        let made = made.map_err(held(receipts.len()))?;
        let all: Vec<Query> = made.iter().flat_map(|(queries, _)| queries.clone()).collect();
        let mut said = asker(&all).map_err(held(receipts.len()))?.into_iter();
        for (item, (queries, cut)) in items.iter().zip(made) {
            let said: Vec<Said> = said.by_ref().take(queries.len()).collect();
            let receipt = Receipt {
                by: by(task, item, words),
                ..receipt(task, item, &queries, &said, cut, judge)?
            };
            let mut line = serde_json::to_vec(&receipt).expect("receipts serialise");
            line.push(b'\n');
            // Each at once: to run its programs may have taken long.
            file.write_all(&line).map_err(EvalError::io("write", path))?;
            receipts.push(receipt);
        }
        file.sync_data().map_err(EvalError::io("write", path))?;
        tell(receipts.len());
    }
    Ok(receipts)
}

/// The hash of what decides an item's score beside what is asked and answered.
fn by(task: &Task, item: &Item, words: &Words) -> String {
    let stops = task.write.as_ref().map(|write| (write, &words.stops));
    let (versions, scorer) = ((task.version, crate::score::VERSION), task.scorer);
    let of = format!("{versions:?} {scorer:?} {stops:?} {:?}", item.ask);
    herd_data::Hash::of(of.as_bytes()).to_string()
}

/// The different questions of some queries, and which each query asks.
fn prompts(queries: &[Query]) -> (Vec<Vec<u32>>, Vec<usize>) {
    let mut prompts: Vec<Vec<u32>> = Vec::new();
    let places = queries
        .iter()
        .map(|query| {
            let (Query::Likelihood { context: ids, .. } | Query::Write { prompt: ids, .. }) = query;
            prompts.iter().position(|prompt| prompt == ids).unwrap_or_else(|| {
                prompts.push(ids.clone());
                prompts.len() - 1
            })
        })
        .collect();
    (prompts, places)
}

fn receipt(
    task: &Task,
    item: &Item,
    queries: &[Query],
    said: &[Said],
    cut: usize,
    judge: Option<&Judge>,
) -> Result<Receipt, EvalError> {
    let (prompts, places) = prompts(queries);
    let answers =
        queries.iter().zip(said).zip(places).map(|((query, said), prompt)| match (query, said) {
            (Query::Likelihood { target, .. }, Said::Likelihood { log_probs, greedy }) => Answer {
                prompt,
                ids: target.clone(),
                log_probs: Some(log_probs.clone()),
                greedy: Some(*greedy),
                text: None,
                full: None,
            },
            (_, Said::Written { ids, text, full }) => Answer {
                prompt,
                ids: ids.clone(),
                log_probs: None,
                greedy: None,
                text: Some(text.clone()),
                full: Some(*full),
            },
            (Query::Write { .. }, Said::Likelihood { .. }) => {
                panic!("suite: a likelihood of a text to write")
            }
        });
    let answers = answers.collect();
    let Worth { scores, parts, taken, ended } =
        task.scorer.score(item, &counting(task, said)?, judge)?;
    let named = |(name, part): (&str, _)| (name.to_owned(), part);
    let gold = match &item.ask {
        Ask::Choose { gold, .. } => (*gold).into(),
        Ask::Write { reference, .. } => reference.clone(),
    };
    Ok(Receipt {
        item: item.number,
        row: item.row,
        group: item.group.clone(),
        cluster: item.cluster.clone(),
        by: String::new(),
        prompts,
        answers,
        cut,
        taken,
        gold,
        scores: scores.into_iter().map(|(name, score)| (name.to_owned(), score)).collect(),
        parts: parts.into_iter().map(named).collect(),
        ended,
    })
}

/// Answers as they count: of those that are written the part that the task takes.
///
/// Errors: the task's expression does not come to an end with one.
fn counting(task: &Task, said: &[Said]) -> Result<Vec<Said>, EvalError> {
    let take = task.write.as_ref().and_then(|write| write.take.as_ref());
    let Some(take) = take else { return Ok(said.to_vec()) };
    let regex = Regex::new(take).expect("the task is checked");
    let of = |said: &Said| match said {
        Said::Likelihood { .. } => Ok(said.clone()),
        Said::Written { ids, text, full } => {
            let mut last = None;
            for found in regex.captures_iter(text) {
                let wrong = |e: fancy_regex::Error| format!("take is {take:?}: {e}");
                let task = || task.name.clone();
                last = Some(found.map_err(|e| EvalError::Task { task: task(), what: wrong(e) })?);
            }
            let group = last.as_ref().and_then(|found| found.get(1));
            let text = group.map_or_else(String::new, |group| group.as_str().to_owned());
            Ok(Said::Written { ids: ids.clone(), text, full: *full })
        }
    };
    said.iter().map(of).collect()
}

/// The file of receipts, to be gone on with, and those that are whole; a torn last line is cut off.
fn resume(path: &Path) -> Result<(File, Vec<Receipt>), EvalError> {
    if let Some(folder) = path.parent() {
        make_folder(folder).map_err(EvalError::io("make", folder))?;
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(path).map_err(EvalError::io("open", path))?;
    if let Err(fs::TryLockError::WouldBlock) = file.try_lock() {
        let what = "another run is at it".to_owned();
        return Err(EvalError::Results { path: path.to_owned(), what });
    }
    let (receipts, whole) = read_from(&file, path)?;
    let cut = file.set_len(whole).and_then(|()| file.seek(SeekFrom::End(0)));
    cut.map_err(EvalError::io("write", path))?;
    if receipts.is_empty() {
        sync_name(path).map_err(EvalError::io("write", path))?; // results must not outlive them
    }
    Ok((file, receipts))
}

/// The receipts of a file.
///
/// Errors: it cannot be read, or holds something else before its last line.
pub fn receipts(path: &Path) -> Result<Vec<Receipt>, EvalError> {
    let file = File::open(path).map_err(EvalError::io("open", path))?;
    read_from(&file, path).map(|(receipts, _)| receipts)
}

fn read_from(file: &File, path: &Path) -> Result<(Vec<Receipt>, u64), EvalError> {
    let mut reader = BufReader::new(file);
    let (mut receipts, mut whole, mut line) = (Vec::new(), 0, Vec::new());
    loop {
        line.clear();
        let n = reader.read_until(b'\n', &mut line).map_err(EvalError::io("read", path))?;
        if line.last() != Some(&b'\n') {
            return Ok((receipts, whole)); // the end, or what a kill tore off
        }
        let receipt: Receipt = serde_json::from_slice(&line).map_err(|e| EvalError::Results {
            path: path.to_owned(),
            what: format!("line {} is no receipt: {e}", receipts.len() + 1),
        })?;
        if receipt.item != receipts.len() {
            let what = format!("line {} is of item {}", receipts.len() + 1, receipt.item);
            return Err(EvalError::Results { path: path.to_owned(), what });
        }
        receipts.push(receipt);
        whole += n as u64;
    }
}
