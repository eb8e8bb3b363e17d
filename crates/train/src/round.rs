//! Rounds of alignment (arXiv 2407.21783, section 4.1): collect -> reward -> sample -> sft -> dpo -> average -> gate, and again.
//!
//! ```text
//! pairs      two answers to each prompt, of the policy and the one before it
//! votes      of annotators; who is against the others is found, and not heard
//! gate       the new policy answers held prompts better than the old one, or the old one stays
//! ```
//!
//! The runs themselves are those of the other stages; here is what joins them.

mod annotators;
mod config;
mod stages;

pub use annotators::{Judged, Pair, Quality, Shown, Vote, judge, pairs, simulated};
pub use config::{Annotator, By, CollectConfig, GateConfig, RoundConfig, StageTables, Start};
pub use stages::{Beginning, Settings, preferences, seed};

use crate::error::TrainError;
use crate::paired::Gain;
use crate::rejection::{SampleRow, least};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// How a round ended: `round.json` in its folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Its number, from 1.
    pub round: u64,
    /// The weights of the policy that it began with, hashed.
    pub policy_before: String,
    /// Those of the one that it made.
    pub policy_made: String,
    /// The mean score of answers to held prompts, of the old policy and the new.
    pub gate: Gain,
    /// Whether the new one goes on.
    pub passed: bool,
    /// What is known of annotators.
    pub annotators: Vec<Quality>,
    /// Pairs that were judged, and those that are learnt from.
    pub pairs: u64,
    /// Rows of preferences written.
    pub preferences: u64,
}

/// The gate: the whole 95 % interval of the gain is above `min_gain`.
pub fn passes(gain: &Gain, min_gain: f64) -> bool {
    gain.low > min_gain
}

/// The rows of a file of samples.
///
/// Errors: it cannot be read, or a line is no sample.
pub fn rows(path: &Path) -> Result<Vec<SampleRow>, TrainError> {
    let text = std::fs::read_to_string(path).map_err(|e| TrainError::io("read", path, e))?;
    let row = |(i, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| TrainError::Damaged {
            path: path.into(),
            what: format!("line {}: {e}", i + 1),
        })
    };
    text.lines().enumerate().map(row).collect()
}

/// What two policies scored on the same prompts, and the hashes of their weights: of each prompt the mean over its answers. An
/// answer that a judge could not read is worth the least of its prompt's, so that silence is no gain.
///
/// Errors: the rows are not of both.
pub fn compared(
    rows: &[SampleRow],
    before: &str,
    after: &str,
) -> Result<(Gain, [String; 2]), TrainError> {
    // The question, its file and row; the sum and number of scores of each policy.
    type Asked<'a> = (&'a str, &'a str, u64);
    let mut of: BTreeMap<Asked<'_>, [(f64, f64); 2]> = BTreeMap::new();
    let mut hashes = [String::new(), String::new()];
    for group in rows.chunk_by(SampleRow::same_prompt) {
        let least = least(group).unwrap_or(0.0);
        for row in group {
            for (side, policy) in [before, after].into_iter().enumerate() {
                if row.policy == policy {
                    let (sum, count) =
                        &mut of.entry((&row.prompt, &row.file, row.row)).or_default()[side];
                    (*sum, *count) = (*sum + row.total.unwrap_or(least), *count + 1.0);
                    hashes[side].clone_from(&row.policy_hash);
                }
            }
        }
    }
    let means =
        |side: usize| of.values().map(|sides| sides[side].0 / sides[side].1).collect::<Vec<f64>>();
    let (before, after) = (means(0), means(1));
    if before.len() < 2 || before.iter().chain(&after).any(|mean| mean.is_nan()) {
        let value = format!("{} prompts", before.len());
        return Err(TrainError::no("held", value, "at least 2 that both policies answer"));
    }
    Ok((Gain::of(&before, &after), hashes))
}

#[cfg(test)]
pub(crate) use tests::sample;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_lets_gains_pass_and_nothing_else() {
        let gain =
            |before: f64, after: f64, low: f64, high: f64| Gain { before, after, low, high, of: 9 };
        assert!(passes(&gain(1.0, 2.0, 0.5, 1.5), 0.0));
        assert!(!passes(&gain(1.0, 1.0, -0.5, 0.5), 0.0));
        assert!(!passes(&gain(1.0, 1.4, -0.1, 0.9), 0.0));
        assert!(!passes(&gain(1.0, 2.0, 0.5, 1.5), 0.6));
        assert!(passes(&gain(1.0, 0.9, -0.2, 0.0), -0.3));
    }

    /// An answer that was worth so much.
    pub(crate) fn sample(policy: &str, row: u64, total: Option<f64>) -> SampleRow {
        SampleRow {
            prompt: String::new(),
            file: "held".into(),
            row,
            sample: 0,
            policy: policy.into(),
            policy_hash: format!("hash of {policy}"),
            seed: 0,
            stream: 0,
            temperature: 0.6,
            system: None,
            prompt_tokens: 1,
            ids: vec![1],
            text: "a".into(),
            logp: 0.0,
            logps: vec![0.0],
            finish: "stop".into(),
            scores: BTreeMap::new(),
            total,
            rejected: None,
            chosen: false,
        }
    }

    #[test]
    fn one_held_prompt_decides_nothing() {
        let row = |policy: &str, row: u64, total: f64| sample(policy, row, Some(total));
        let mut rows = vec![row("old", 1, 0.0), row("new", 1, 1.0)];
        let error = compared(&rows, "old", "new").unwrap_err().to_string();
        assert!(error.contains("1 prompts"), "{error}");
        rows.extend([row("old", 2, 0.5), row("new", 2, 1.0)]);
        let (gain, hashes) = compared(&rows, "old", "new").unwrap();
        assert_eq!((gain.before, gain.after, gain.of), (0.25, 1.0, 2));
        // Who says nothing where rewards are below zero gains nothing.
        rows.extend([row("old", 3, -2.0), sample("new", 3, None)]);
        let (gain, _) = compared(&rows, "old", "new").unwrap();
        assert_eq!((gain.before, gain.after), (-0.5, 0.0));
        rows.truncate(4);
        assert_eq!(hashes, ["hash of old", "hash of new"]);
        // A policy that did not answer one of them.
        rows.pop();
        assert!(compared(&rows, "old", "new").is_err());
    }
}
