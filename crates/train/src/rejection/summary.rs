//! What became of samples: how the best of k grows with k, what was accepted, what it took.

use crate::rejection::file::SampleRow;
use serde::Serialize;
use std::collections::BTreeMap;

/// What became of all samples of a file.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Prompts answered.
    pub prompts: u64,
    /// Answers.
    pub samples: u64,
    /// Answers that may be chosen.
    pub accepted: u64,
    /// The others, by the reason.
    pub rejected: BTreeMap<String, u64>,
    /// Rows of the input that were not asked, by the reason.
    pub dropped: BTreeMap<String, u64>,
    /// k, and the mean over prompts of the total of the best of k answers. An answer that no judge could read counts as the
    /// least of its prompt's; prompts of which all are such are left out.
    pub best_of: Vec<(usize, f64)>,
    /// Rows written for `herd sft`.
    pub best: u64,
    /// Rows written for `herd dpo`.
    pub pairs: u64,
    /// Prompts without such a pair, by the reason.
    pub unpaired: BTreeMap<String, u64>,
    /// What this process computed; the rest was there.
    pub work: Work,
    /// Prompts in `best_of`.
    #[serde(skip)]
    judged: u64,
}

/// What a process computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Work {
    /// Answers.
    pub samples: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Tokens of their prompts, each answer's counted.
    pub prompt_tokens: u64,
    /// Of these, tokens that were in the cache.
    pub cached: u64,
}

impl Summary {
    /// Adds the answers to one prompt.
    pub(super) fn add(&mut self, rows: &[SampleRow]) {
        if self.best_of.is_empty() {
            let doubled = std::iter::successors(Some(1), |k| Some(2 * k));
            let below = doubled.take_while(|k| *k < rows.len());
            self.best_of = below.chain([rows.len()]).map(|k| (k, 0.0)).collect();
        }
        self.prompts += 1;
        self.samples += rows.len() as u64;
        for row in rows {
            match &row.rejected {
                None => self.accepted += 1,
                Some(reason) => *self.rejected.entry(reason.clone()).or_default() += 1,
            }
        }
        let Some(least) = least(rows) else { return };
        self.judged += 1;
        let total = |row: &&SampleRow| row.total.unwrap_or(least);
        let totals: Vec<f64> = ranked(rows).iter().rev().map(total).collect();
        for (k, mean) in &mut self.best_of {
            *mean += (best_of(&totals, *k) - *mean) / self.judged as f64;
        }
    }
}

/// The answers, best first: those that may be chosen before the others, then by total, then as they came.
pub(super) fn ranked(rows: &[SampleRow]) -> Vec<&SampleRow> {
    let mut rows: Vec<&SampleRow> = rows.iter().collect();
    rows.sort_by(|a, b| {
        let accepted = b.rejected.is_none().cmp(&a.rejected.is_none());
        let total = |row: &SampleRow| row.total.unwrap_or(f64::NEG_INFINITY);
        accepted.then(total(b).total_cmp(&total(a))).then(a.sample.cmp(&b.sample))
    });
    rows
}

/// The least total among answers; none if no judge could read one.
pub(crate) fn least<'a>(rows: impl IntoIterator<Item = &'a SampleRow>) -> Option<f64> {
    rows.into_iter().filter_map(|row| row.total).min_by(f64::total_cmp)
}

/// The mean over all choices of k of n values, worst first, of the best one's value.
///
/// `sum_i x_i C(i-1, k-1) / C(n, k)`, i from 1: the i-th is the best if the other k - 1 are worse.
/// Panics if k is 0 or greater than n.
///
/// ```
/// assert_eq!(herd_train::rejection::best_of(&[0.0, 1.0, 5.0], 2), (1.0 + 5.0 + 5.0) / 3.0);
/// ```
pub fn best_of(worst_first: &[f64], k: usize) -> f64 {
    let n = worst_first.len();
    assert!((1..=n).contains(&k), "the best of {k} of {n}");
    let (mut sum, mut share) = (0.0, k as f64 / n as f64);
    for i in (k..=n).rev() {
        sum += share * worst_first[i - 1];
        share *= (i - k) as f64 / (i - 1).max(1) as f64;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_k_is_the_mean_over_all_subsets() {
        let values = [-3.0, 0.5, 0.5, 2.0, 7.0, 11.0];
        for k in 1..=values.len() {
            let (mut sum, mut count) = (0.0, 0);
            for subset in 0u32..1 << values.len() {
                if subset.count_ones() as usize == k {
                    sum += values[subset.ilog2() as usize];
                    count += 1;
                }
            }
            let (got, wanted) = (best_of(&values, k), sum / f64::from(count));
            assert!((got - wanted).abs() < 1e-12, "best of {k}: {got}, not {wanted}");
        }
    }
}
