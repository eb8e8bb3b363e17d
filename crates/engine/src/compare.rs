//! How far one model's predictions lie from its parent's on the same tokens.

use crate::softmax::log_normaliser;

/// Sums over positions at which both models were asked.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Positions compared.
    pub positions: usize,
    /// Largest difference of a logit.
    pub logit_difference_max: f32,
    /// Largest Kullback-Leibler divergence of the child from the parent at a position, in nats.
    pub kl_max: f64,
    /// Positions at which both find the same token likeliest.
    pub same_top: usize,
    kl_sum: f64,
    /// Positions whose next token is known, and the sums of its log-probabilities.
    known: usize,
    parent_sum: f64,
    child_sum: f64,
}

impl Comparison {
    /// Adds a position: both rows of logits, [V], and the token that came next, if one did.
    ///
    /// Panics if the rows differ in length, or `next` is outside them.
    pub fn add(&mut self, parent_v: &[f32], child_v: &[f32], next: Option<u32>) {
        assert_eq!(parent_v.len(), child_v.len(), "compare: rows of two vocabularies");
        let (parent_z, child_z) = (log_normaliser(parent_v), log_normaliser(child_v));
        let mut kl = 0.0;
        for (a, b) in parent_v.iter().zip(child_v) {
            // NaN must show, which `f32::max` would hide.
            let difference = (a - b).abs();
            if difference.is_nan() || difference > self.logit_difference_max {
                self.logit_difference_max = difference;
            }
            let (log_p, log_q) = (f64::from(*a) - parent_z, f64::from(*b) - child_z);
            kl += log_p.exp() * (log_p - log_q);
        }
        let kl = kl.max(0.0); // of equal rows, rounding may leave less than nothing
        self.positions += 1;
        self.kl_sum += kl;
        self.kl_max = self.kl_max.max(kl);
        self.same_top += usize::from(top(parent_v) == top(child_v));
        if let Some(next) = next {
            self.known += 1;
            self.parent_sum += f64::from(parent_v[next as usize]) - parent_z;
            self.child_sum += f64::from(child_v[next as usize]) - child_z;
        }
    }

    /// Mean divergence of the child from the parent, in nats a token.
    pub fn kl_mean(&self) -> f64 {
        self.kl_sum / self.positions as f64
    }

    /// The parent's perplexity of the tokens that came next.
    pub fn parent_perplexity(&self) -> f64 {
        (-self.parent_sum / self.known as f64).exp()
    }

    /// The child's.
    pub fn child_perplexity(&self) -> f64 {
        (-self.child_sum / self.known as f64).exp()
    }
}

/// The likeliest token, the first of equals.
fn top(row: &[f32]) -> usize {
    (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_rows_have_no_divergence() {
        let mut c = Comparison::default();
        c.add(&[1.0, 2.0, -3.0], &[1.0, 2.0, -3.0], Some(1));
        assert_eq!((c.positions, c.same_top, c.logit_difference_max), (1, 1, 0.0));
        assert_eq!((c.kl_mean(), c.kl_max), (0.0, 0.0));
        assert_eq!(c.parent_perplexity(), c.child_perplexity());
    }

    #[test]
    fn divergence_is_that_of_the_definition() {
        // p = (3/4, 1/4), q = (1/2, 1/2): 3/4 ln(3/2) + 1/4 ln(1/2).
        let mut c = Comparison::default();
        c.add(&[3f32.ln(), 0.0], &[7.0, 7.0], Some(0));
        let expected = 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln();
        assert!((c.kl_mean() - expected).abs() < 1e-7, "{}", c.kl_mean());
        assert!((c.parent_perplexity() - 4.0 / 3.0).abs() < 1e-6);
        assert!((c.child_perplexity() - 2.0).abs() < 1e-6);
        assert_eq!(c.logit_difference_max, 7.0);
        c.add(&[0.0, 1.0], &[1.0, 0.0], None);
        assert_eq!((c.positions, c.same_top), (2, 1));
    }

    #[test]
    fn a_logit_that_is_no_number_shows() {
        let mut c = Comparison::default();
        c.add(&[0.0, 1.0], &[f32::NAN, 1.0], None);
        assert!(c.logit_difference_max.is_nan());
    }
}
