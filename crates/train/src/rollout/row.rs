//! `rollouts.jsonl`: a row an answer, in the order in which they were given.

use super::Place;
use crate::error::TrainError;
use crate::metrics;
use herd_data::Hash;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// An answer that a run learns from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // their names in the file say it
pub struct RolloutRow {
    /// Steps that the policy had done which gave it.
    pub step: u64,
    /// The hash of the dialogue up to the question.
    pub prompt: String,
    pub file: String,
    pub row: u64,
    /// Its place among the answers to the prompt, from 0.
    pub sample: usize,
    /// The answer is that of a request with this seed and stream.
    pub seed: u64,
    pub stream: u64,
    pub prompt_tokens: usize,
    /// The tokens of the answer, what ended it included.
    pub ids: Vec<u32>,
    pub text: String,
    /// Minus the trainer's loss of each token, the same bits.
    pub logps: Vec<f32>,
    /// The same by the reference, where there is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ref_logps: Vec<f32>,
    /// What the value head expected before each token, where there is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<f32>,
    /// `stop` or `length`.
    pub finish: String,
    pub scores: BTreeMap<String, f64>,
    /// The sum of weight times score, less what an answer without an end costs.
    pub reward: f64,
    /// By how much it is better than the others to its prompt, where it is held against them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advantage: Option<f64>,
}

impl RolloutRow {
    /// Whether it ended by itself.
    pub fn ended(&self) -> bool {
        self.finish == "stop"
    }
}

/// The lines of some rows.
pub(super) fn text(rows: &[RolloutRow]) -> Vec<u8> {
    rows.iter().flat_map(metrics::text).collect()
}

/// The rows of the last generation.
///
/// Errors: they cannot be read, are others than a checkpoint knows of, or are none.
pub(super) fn read_back(
    path: &Path,
    place: &Place,
    count: usize,
) -> Result<Vec<RolloutRow>, TrainError> {
    let io = |e| TrainError::io("read", path, e);
    let mut file = File::open(path).map_err(io)?;
    file.seek(SeekFrom::Start(place.at)).map_err(io)?;
    let mut text = Vec::new();
    file.take(place.bytes.saturating_sub(place.at)).read_to_end(&mut text).map_err(io)?;
    if Hash::of(&text) != place.rows {
        return Err(damaged(path, "its last answers are not those that the checkpoint knows of"));
    }
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let rows = lines.map(|line| serde_json::from_slice(line).map_err(|e| damaged(path, e)));
    let rows = rows.collect::<Result<Vec<RolloutRow>, TrainError>>()?;
    match rows.len() == count {
        true => Ok(rows),
        false => Err(damaged(path, format!("{} of {count} answers are there", rows.len()))),
    }
}

pub(super) fn damaged(path: &Path, what: impl ToString) -> TrainError {
    TrainError::Damaged { path: path.to_owned(), what: what.to_string() }
}
