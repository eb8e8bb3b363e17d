//! `metrics.jsonl`: what a run computed, a line an event, and nothing of clocks: a run that was
//! killed and taken up again writes the same bytes as one that was not.

use crate::distill::Learnt;
use crate::dpo::Preferences;
use crate::error::TrainError;
use crate::policy::Moved;
use crate::rollout::{Evaluation, Generation};
use crate::spikes::Leapt;
use crate::value::Valued;
use herd_data::disk::sync_name;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The name of the file in a run's folder.
pub(crate) const FILE: &str = "metrics.jsonl";

/// A line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Line {
    /// A step was made.
    Step(StepLine),
    /// Held-out text was measured.
    Validation {
        /// Steps done.
        step: u64,
        /// Nats a token over all sources.
        loss: f64,
        /// Bits per byte over all sources; a reward model has none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bpb: Option<f64>,
        /// The same for each.
        by_source: BTreeMap<String, Measured>,
        /// Of `dpo` and `reward`: what was met of pairs. Then the loss is theirs, and bits are the best answers'.
        #[serde(flatten, skip_serializing_if = "Option::is_none")]
        preferences: Option<Preferences>,
        /// Of `distill`: the parts of the loss; bits are those of the cross-entropy.
        #[serde(flatten, skip_serializing_if = "Option::is_none")]
        taught: Option<Learnt>,
    },
    /// The mean of checkpoints was measured on held-out text.
    Average {
        /// Steps done.
        step: u64,
        /// The steps of the checkpoints.
        of: Vec<u64>,
        /// Nats a token over all sources.
        loss: f64,
        /// Bits per byte over all sources.
        bpb: f64,
        /// The same for each.
        by_source: BTreeMap<String, Measured>,
    },
    /// The policy gave answers to learn from.
    Rollouts(Generation),
    /// Held-out prompts were answered and judged.
    Evaluation(Evaluation),
    /// The model wrote something.
    Sample {
        /// Steps done.
        step: u64,
        /// What it went on from.
        prompt: String,
        /// What it wrote.
        text: String,
    },
    /// The loss leapt, or the gradient is no number.
    Spike {
        /// The step that was not, or no longer, made.
        step: u64,
        /// What leapt.
        #[serde(default)]
        what: Leapt,
        /// Its loss; null if it is no number.
        loss: Option<f64>,
        /// The greatest loss that would have passed.
        expected: f64,
        /// The documents of the batch: source and row.
        rows: Vec<String>,
        /// What was done.
        action: String,
    },
    /// Something that is not needed for training failed.
    Failure {
        /// Steps done.
        step: u64,
        /// `validation` or `sample`.
        what: String,
        /// Why.
        error: String,
    },
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepLine {
    /// Its number, from 1.
    pub step: u64,
    /// Tokens read up to and with it.
    pub tokens: u64,
    /// Nats a token of its batch, before the step.
    pub loss: f64,
    /// The gradient's norm before clipping.
    pub grad_norm: f64,
    /// Its learning rate.
    pub lr: f64,
    /// Tokens a row.
    pub seq_len: usize,
    /// Of `dpo` and `reward`: what was met of the pairs of its batch.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub preferences: Option<Preferences>,
    /// Of `distill`: the parts of the loss.
    #[serde(flatten, deserialize_with = "part", skip_serializing_if = "Option::is_none")]
    pub taught: Option<Learnt>,
    /// Of stages that learn from answers of their own: what was met of their tokens.
    #[serde(flatten, deserialize_with = "part", skip_serializing_if = "Option::is_none")]
    pub moved: Option<Moved>,
    /// Of `ppo`: what was met of their values.
    #[serde(flatten, deserialize_with = "part", skip_serializing_if = "Option::is_none")]
    pub valued: Option<Valued>,
}

/// What a stage adds to a line, where all of it is there. Two stages have a `kl`; left to itself, `flatten` lets the first
/// take the second's.
pub(crate) fn part<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    line: D,
) -> Result<Option<T>, D::Error> {
    let line = serde_json::Map::deserialize(line)?;
    Ok(T::deserialize(serde_json::Value::Object(line)).ok())
}

/// Held-out text of one source.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Nats a token.
    pub loss: f64,
    /// Bits per byte.
    pub bpb: f64,
}

/// A file of lines under way.
pub(crate) struct Metrics {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl Metrics {
    /// Opens the file for the line after its first `bytes` bytes; what lies behind them is of steps
    /// that will be made again.
    pub fn open(path: &Path, bytes: u64) -> Result<Metrics, TrainError> {
        let open = || {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
            let len = file.metadata()?.len();
            if len >= bytes {
                file.set_len(bytes)?;
                file.seek(SeekFrom::End(0))?;
            }
            if bytes == 0 {
                // A checkpoint must not outlive the file that it counts the bytes of.
                sync_name(path)?;
            }
            Ok((file, len))
        };
        let (file, len) = open().map_err(|e| TrainError::io("open", path, e))?;
        if len < bytes {
            let what = format!("it has {len} bytes, its checkpoint knows of {bytes}");
            return Err(TrainError::Damaged { path: path.to_owned(), what });
        }
        Ok(Metrics { file, path: path.to_owned(), bytes })
    }

    /// Adds a line.
    pub fn write(&mut self, line: &impl Serialize) -> Result<(), TrainError> {
        self.write_text(&text(line))
    }

    /// Adds lines.
    pub fn write_text(&mut self, text: &[u8]) -> Result<(), TrainError> {
        self.file.write_all(text).map_err(|e| TrainError::io("write", &self.path, e))?;
        self.bytes += text.len() as u64;
        Ok(())
    }

    /// Brings it to the disk: before a checkpoint says how much of it there is.
    pub fn sync(&mut self) -> Result<(), TrainError> {
        self.file.sync_all().map_err(|e| TrainError::io("write", &self.path, e))
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A line and its end.
pub(crate) fn text(line: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec(line).expect("a line serialises");
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_read_back_as_the_stage_that_wrote_it() {
        let (step, tokens, loss, grad_norm, lr, seq_len) = (1, 64, 2.0, 1.0, 1e-3, 8);
        let plain = StepLine {
            step,
            tokens,
            loss,
            grad_norm,
            lr,
            seq_len,
            preferences: None,
            taught: None,
            moved: None,
            valued: None,
        };
        let taught = StepLine { taught: Some(Learnt { ce: 1.5, kl: 0.5 }), ..plain };
        let (kl, off) = (Some(0.25), Some(0.0));
        let moved = Moved { kl, entropy: 1.0, low: 0.0, high: 0.1, clipped: 0.1, off };
        let moved = StepLine { moved: Some(moved), ..plain };
        let (policy, value, approx_kl, clipped) = (-0.5, 0.25, 0.0, 0.5);
        let explained_variance = Some(-1.0);
        let valued = Valued { policy, value, approx_kl, clipped, explained_variance };
        let valued = StepLine { valued: Some(valued), ..moved };
        for line in [plain, taught, moved, valued] {
            let text = serde_json::to_string(&line).unwrap();
            assert_eq!(serde_json::from_str::<StepLine>(&text).unwrap(), line, "{text}");
        }
    }
}
