//! Receipts to scores.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::stats::{Mean, mean, mean_of_groups};
use crate::suite::Receipt;
use crate::task::Task;

/// What came of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // their names in the file say it
pub struct Scores {
    pub version: u32,
    pub scorer_version: u32,
    /// The score that stands for the task.
    pub metric: String,
    pub num_fewshot: usize,
    pub scores: BTreeMap<String, Mean>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, BTreeMap<String, Mean>>,
    /// Items whose question was cut for want of room.
    pub cut: usize,
    /// Written answers that were as long as they may be.
    pub full: usize,
}

impl Scores {
    /// The scores of a task's receipts. Panics if there are none.
    pub fn of(task: &Task, num_fewshot: usize, receipts: &[Receipt]) -> Scores {
        let mut apart: BTreeMap<String, Vec<&Receipt>> = BTreeMap::new();
        for receipt in receipts {
            if let Some(group) = &receipt.group {
                apart.entry(group.clone()).or_default().push(receipt);
            }
        }
        let groups: BTreeMap<String, BTreeMap<String, Mean>> =
            apart.into_iter().map(|(name, of)| (name, means(task, &of))).collect();
        let all: Vec<&Receipt> = receipts.iter().collect();
        let mut scores = means(task, &all);
        if task.by_group {
            for (name, mean) in &mut scores {
                let of: Vec<Mean> = groups.values().map(|group| group[name]).collect();
                *mean = mean_of_groups(&of);
            }
        }
        let full =
            |receipt: &Receipt| receipt.answers.iter().any(|answer| answer.full == Some(true));
        Scores {
            version: task.version,
            scorer_version: crate::score::VERSION,
            metric: task.metric.clone(),
            num_fewshot,
            scores,
            groups,
            cut: receipts.iter().filter(|receipt| receipt.cut > 0).count(),
            full: receipts.iter().filter(|receipt| full(receipt)).count(),
        }
    }

    /// The score that stands for the task.
    pub fn main(&self) -> Mean {
        self.scores[&self.metric]
    }
}

fn means(task: &Task, receipts: &[&Receipt]) -> BTreeMap<String, Mean> {
    let clusters: Option<Vec<String>> = task.cluster.as_ref().map(|_| {
        receipts.iter().map(|receipt| receipt.cluster.clone().unwrap_or_default()).collect()
    });
    let of = |name: &str| {
        let numbers: Vec<f64> = receipts.iter().map(|receipt| receipt.scores[name]).collect();
        mean(&numbers, clusters.as_deref())
    };
    task.scorer.metrics().iter().map(|name| ((*name).to_owned(), of(name))).collect()
}
