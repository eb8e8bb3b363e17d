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
    /// Whether the scores are means of the groups' scores.
    #[serde(default, rename = "macro", skip_serializing_if = "std::ops::Not::not")]
    pub by_group: bool,
    pub num_fewshot: usize,
    pub scores: BTreeMap<String, Mean>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, BTreeMap<String, Mean>>,
    /// Items whose question was cut for want of room.
    pub cut: usize,
    /// Written answers that were as long as they may be.
    pub full: usize,
    /// How programs ended, and how many so.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ended: BTreeMap<String, usize>,
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
        let mut ended = BTreeMap::new();
        for how in receipts.iter().flat_map(|receipt| &receipt.ended) {
            *ended.entry(how.clone()).or_default() += 1;
        }
        Scores {
            version: task.version,
            scorer_version: crate::score::VERSION,
            metric: task.metric.clone(),
            by_group: task.by_group,
            num_fewshot,
            scores,
            groups,
            cut: receipts.iter().filter(|receipt| receipt.cut > 0).count(),
            full: receipts.iter().filter(|receipt| full(receipt)).count(),
            ended,
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
    let of = |name: &str| mean(&numbers(receipts, name), clusters.as_deref());
    let given = |name: &&&str| receipts.iter().all(|receipt| receipt.scores.contains_key(**name));
    let names = task.scorer.metrics().iter().filter(given);
    names.map(|name| ((*name).to_owned(), of(name))).collect()
}

/// A number of each item, whose mean is the score of that name.
///
/// Where items have parts, the score is the mean of all parts. An item's number is then that mean,
/// and by how much its parts move it, as the interval of a ratio counts it; `mean` is the mean of the
/// other scores. `geometric_mean` is that of the other scores' means, an item's number what it adds to it to first
/// order. Panics if an item has no such score.
pub fn numbers(receipts: &[&Receipt], name: &str) -> Vec<f64> {
    let Some(first) = receipts.first() else { return Vec::new() };
    if first.parts.contains_key(name) {
        return of_parts(receipts, name);
    }
    if name == "mean" && !first.parts.is_empty() {
        let others = first.scores.keys().filter(|other| *other != name);
        let all: Vec<Vec<f64>> = others.map(|other| numbers(receipts, other)).collect();
        let mean = |i: usize| all.iter().map(|of| of[i]).sum::<f64>() / all.len() as f64;
        return (0..receipts.len()).map(mean).collect();
    }
    if name == "geometric_mean" {
        let others = first.scores.keys().filter(|other| *other != name);
        let all: Vec<Vec<f64>> = others.map(|other| numbers(receipts, other)).collect();
        return of_geometric_mean(&all, receipts.len());
    }
    receipts.iter().map(|receipt| receipt.scores[name]).collect()
}

/// Of `n` items numbers whose mean is the geometric mean g of the means of `all`: g times one and the mean of
/// x / m - 1, as the interval of a product counts them.
fn of_geometric_mean(all: &[Vec<f64>], n: usize) -> Vec<f64> {
    let (k, n_items) = (all.len().max(1) as f64, n as f64);
    let means: Vec<f64> = all.iter().map(|of| of.iter().sum::<f64>() / n_items).collect();
    let g = means.iter().product::<f64>().powf(1.0 / k);
    if g == 0.0 {
        return vec![0.0; n];
    }
    let moved = |i: usize| all.iter().zip(&means).map(|(of, m)| of[i] / m - 1.0).sum::<f64>() / k;
    (0..n).map(|i| g * (1.0 + moved(i))).collect()
}

fn of_parts(receipts: &[&Receipt], name: &str) -> Vec<f64> {
    let sums: Vec<(f64, f64)> = receipts
        .iter()
        .map(|receipt| (receipt.parts[name].iter().sum(), receipt.parts[name].len() as f64))
        .collect();
    let (sum, n) = sums.iter().fold((0.0, 0.0), |all, one| (all.0 + one.0, all.1 + one.1));
    let (share, each) = (sum / n, n / receipts.len() as f64);
    sums.iter().map(|(sum, n)| share + (sum - share * n) / each).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_geometric_mean_is_that_of_means_and_as_sure_as_its_logarithm() {
        let (a, b) = (vec![0.1, 0.3], vec![0.9, 0.1]);
        let score = mean(&of_geometric_mean(&[a.clone(), b.clone()], 2), None);
        assert!((score.value - (0.2f64 * 0.5).sqrt()).abs() < 1e-12);
        // d ln g = (d ln a + d ln b) / 2, where errors of the two items are opposite.
        let moved = (0.1 / 0.2 - 0.4 / 0.5) / 2.0 * score.value;
        assert!((score.stderr - (2.0 * moved * moved).sqrt() / 2.0).abs() < 1e-12);
        assert_eq!(of_geometric_mean(&[a, vec![0.0, 0.0]], 2), [0.0, 0.0]);
    }

    #[test]
    fn parts_count_alike_whatever_item_they_are_of() {
        let receipt = |item: usize, parts: &[f64]| -> Receipt {
            let whole = f64::from(u8::from(parts.iter().all(|part| *part == 1.0)));
            let own = parts.iter().sum::<f64>() / parts.len() as f64;
            serde_json::from_value(json!({
                "item": item, "row": item, "prompts": [], "answers": [], "taken": null,
                "gold": null, "parts": { "of_parts": parts },
                "scores": { "of_parts": own, "whole": whole, "mean": (own + whole) / 2.0 },
            }))
            .unwrap()
        };
        let all = [receipt(0, &[1.0]), receipt(1, &[0.0, 0.0, 1.0]), receipt(2, &[1.0, 0.0])];
        let all: Vec<&Receipt> = all.iter().collect();
        let score = mean(&numbers(&all, "of_parts"), None);
        assert!((score.value - 0.5).abs() < 1e-12);
        // Errors of items, summed: 0.5, -0.5, 0.
        assert!((score.stderr - 0.5f64.sqrt() / 6.0).abs() < 1e-12);
        let both = mean(&numbers(&all, "mean"), None).value;
        assert!((both - (0.5 + 1.0 / 3.0) / 2.0).abs() < 1e-12);
    }
}
