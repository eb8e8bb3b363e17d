//! How far one model is from another: perplexities, Kullback-Leibler divergence, logits.

use crate::score::Scorer;
use crate::softmax::{exp, log_normaliser};

/// What two models make of the same text; `child` is measured against `parent`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Positions compared.
    pub tokens: usize,
    /// Perplexity of the parent on the text.
    pub parent_ppl: f64,
    /// Perplexity of the child.
    pub child_ppl: f64,
    /// Mean over positions of KL(parent || child), in nats: sum of p (ln p - ln q).
    pub kl_mean: f64,
    /// The largest of them.
    pub kl_max: f64,
    /// Share of positions whose likeliest token is the same.
    pub same_top: f64,
    /// Largest difference between two log-probabilities of the parent's likely tokens (p >= 1e-3).
    pub log_prob_difference_max: f64,
    /// Every logit has the same bits.
    pub identical: bool,
}

/// Compares two models of one vocabulary over `tokens`, in chunks of `context`.
///
/// Keeps the logits of one chunk, `context` * V * 4 bytes. `each(chunk, chunks)` reports.
/// Panics if a chunk exceeds a scorer's context, or the vocabularies differ in size.
pub fn compare(
    parent: &mut Scorer<'_>,
    child: &mut Scorer<'_>,
    tokens: &[u32],
    context: usize,
    mut each: impl FnMut(usize, usize),
) -> Comparison {
    let mut sums = Sums { identical: true, ..Sums::default() };
    let mut parent_v = Vec::new();
    let chunks = tokens.chunks(context.max(2));
    let count = chunks.len();
    for (i, chunk) in chunks.enumerate() {
        parent_v.clear();
        let mut vocab = 0;
        parent.logits(chunk, 0, |_, logits_tv| {
            vocab = logits_tv.width();
            (0..logits_tv.rows()).for_each(|t| parent_v.extend_from_slice(logits_tv.row(t)));
        });
        child.logits(chunk, 0, |first, logits_tv| {
            assert_eq!(logits_tv.width(), vocab, "compare: vocabularies differ");
            for t in 0..logits_tv.rows() {
                let row = &parent_v[(first + t) * vocab..][..vocab];
                sums.add(row, logits_tv.row(t), chunk.get(first + t + 1).copied());
            }
        });
        each(i, count);
    }
    sums.finish()
}

#[derive(Default)]
struct Sums {
    tokens: usize,
    predicted: usize,
    parent: f64,
    child: f64,
    kl: f64,
    kl_max: f64,
    same_top: usize,
    difference_max: f64,
    identical: bool,
}

impl Sums {
    /// One position: two rows of logits, and the token that follows if the text has it.
    fn add(&mut self, parent_v: &[f32], child_v: &[f32], next: Option<u32>) {
        let (zp, zc) = (log_normaliser(parent_v), log_normaliser(child_v));
        let mut kl = 0.0;
        let (mut top_parent, mut top_child) = (0, 0);
        for (v, (&a, &b)) in parent_v.iter().zip(child_v).enumerate() {
            let (log_p, log_q) = (f64::from(a) - zp, f64::from(b) - zc);
            let p = exp(log_p);
            if p > 0.0 {
                kl += p * (log_p - log_q);
            }
            if p >= 1e-3 {
                self.difference_max = self.difference_max.max((log_p - log_q).abs());
            }
            self.identical &= a.to_bits() == b.to_bits();
            top_parent = if a > parent_v[top_parent] { v } else { top_parent };
            top_child = if b > child_v[top_child] { v } else { top_child };
        }
        self.tokens += 1;
        self.kl += kl;
        self.kl_max = self.kl_max.max(kl);
        self.same_top += usize::from(top_parent == top_child);
        if let Some(next) = next {
            self.predicted += 1;
            self.parent -= f64::from(parent_v[next as usize]) - zp;
            self.child -= f64::from(child_v[next as usize]) - zc;
        }
    }

    fn finish(self) -> Comparison {
        let (tokens, predicted) = (self.tokens.max(1) as f64, self.predicted.max(1) as f64);
        Comparison {
            tokens: self.tokens,
            parent_ppl: (self.parent / predicted).exp(),
            child_ppl: (self.child / predicted).exp(),
            kl_mean: self.kl / tokens,
            kl_max: self.kl_max,
            same_top: self.same_top as f64 / tokens,
            log_prob_difference_max: self.difference_max,
            identical: self.identical,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_that_of_the_definition() {
        let (p, q) = ([0.5f64, 0.25, 0.25], [0.25f64, 0.5, 0.25]);
        let logits = |p: [f64; 3]| p.map(|p| (p.ln() + 3.0) as f32);
        let mut sums = Sums { identical: true, ..Sums::default() };
        sums.add(&logits(p), &logits(q), Some(1));
        let kl: f64 = (0..3).map(|i| p[i] * (p[i] / q[i]).ln()).sum();
        let c = sums.finish();
        assert!((c.kl_mean - kl).abs() < 1e-6 && (c.kl_max - kl).abs() < 1e-6, "{c:?}");
        assert!((c.parent_ppl - 4.0).abs() < 1e-5 && (c.child_ppl - 2.0).abs() < 1e-5);
        assert!((c.log_prob_difference_max - 2f64.ln()).abs() < 1e-6);
        assert_eq!((c.same_top, c.identical, c.tokens), (0.0, false, 1));
    }

    #[test]
    fn a_row_does_not_differ_from_itself() {
        let row = [1.0, f32::NEG_INFINITY, -3.5];
        let mut sums = Sums { identical: true, ..Sums::default() };
        sums.add(&row, &row, None);
        let c = sums.finish();
        assert!(c.identical && c.same_top == 1.0);
        assert_eq!((c.kl_mean, c.log_prob_difference_max), (0.0, 0.0));
    }
}
