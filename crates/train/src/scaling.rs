//! What a larger run will reach, told by smaller ones: IsoFLOP parabolas and a power law
//! (arXiv 2407.21783, section 3.2.1; arXiv 2203.15556).
//!
//! ```text
//! of one budget C:   loss(ln N) ~ parabola, its least at N*(C); tokens D*(C) = C / (6 N*)
//! over budgets:      loss*(C) ~ a C^-b,   N*(C) ~ c C^d,   D*(C) ~ A C^alpha
//! ```
//!
//! | module | duty |
//! |---|---|
//! | [`isoflop`] | parabolas and power laws over budgets, with bootstrap intervals |
//! | [`law`] | L(N, D), and the interval of a forecast by it |
//! | [`task`] | operations to the likelihood of right answers to accuracy |
//! | [`sweep`] | which runs a sweep makes, and what each came to |
//! | [`forecast`] | forecasts that are written down before the run, and judged after it |
//! | [`figures`] | the paper's figures of all this |

mod chance;
pub mod figures;
pub mod forecast;
pub mod isoflop;
pub mod law;
pub mod sweep;
pub mod task;

pub use law::{Interval, Law, Point};

use crate::config::ModelConfig;
use serde::{Deserialize, Serialize};

/// A finished small run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Operations that it was to take: 6 N tokens.
    pub flops: f64,
    /// Parameters, N.
    pub params: f64,
    /// What it lost in the end.
    pub loss: f64,
}

/// Parameters of a network over so many tokens, norms left out.
pub fn params(model: &ModelConfig, vocab: usize) -> f64 {
    let ModelConfig { layers, width, heads, kv_heads, ffn_width, tied, .. } = *model;
    let keys = 2 * width * kv_heads * (width / heads);
    let layer = 2 * width * width + keys + 3 * width * ffn_width;
    (layers * layer + if tied { 1 } else { 2 } * vocab * width) as f64
}

/// a x^b.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Power {
    /// a.
    pub a: f64,
    /// b.
    pub b: f64,
}

impl Power {
    /// Least squares over the logarithms; `None` of fewer than two different x, or a number not above zero.
    pub fn fit(points: &[(f64, f64)]) -> Option<Power> {
        if points.iter().any(|(x, y)| !(*x > 0.0 && *y > 0.0)) {
            return None;
        }
        let logs: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
        let n = logs.len() as f64;
        let (mx, my) =
            (logs.iter().map(|p| p.0).sum::<f64>() / n, logs.iter().map(|p| p.1).sum::<f64>() / n);
        let xx: f64 = logs.iter().map(|(x, _)| (x - mx) * (x - mx)).sum();
        let xy: f64 = logs.iter().map(|(x, y)| (x - mx) * (y - my)).sum();
        let b = xy / xx;
        (xx > 0.0).then(|| Power { a: (my - b * mx).exp(), b })
    }

    /// Its value at x.
    pub fn at(&self, x: f64) -> f64 {
        self.a * x.powf(self.b)
    }
}

/// The best of one budget.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The budget.
    pub flops: f64,
    /// Parameters at the least loss.
    pub params: f64,
    /// That loss.
    pub loss: f64,
    /// Whether the parabola has its least between the smallest and the largest model.
    pub inside: bool,
}

/// The best of each budget, in the order in which budgets first appear. Where the parabola has no least
/// between the smallest and the largest model, the best trial stands for it.
pub fn best(trials: &[Trial]) -> Vec<Best> {
    let mut budgets: Vec<f64> = Vec::new();
    for trial in trials {
        if !budgets.contains(&trial.flops) {
            budgets.push(trial.flops);
        }
    }
    let of = |flops: f64| {
        let trials: Vec<&Trial> = trials.iter().filter(|trial| trial.flops == flops).collect();
        let least =
            trials.iter().min_by(|a, b| a.loss.total_cmp(&b.loss)).expect("a budget has a trial");
        let points: Vec<(f64, f64)> = trials.iter().map(|t| (t.params.ln(), t.loss)).collect();
        let inside = |x: f64| points.iter().any(|p| p.0 < x) && points.iter().any(|p| p.0 > x);
        let lowest = parabola(&points).and_then(|curve| curve.lowest());
        match lowest.filter(|(x, _)| inside(*x)) {
            Some((x, loss)) => Best { flops, params: x.exp(), loss, inside: true },
            None => Best { flops, params: least.params, loss: least.loss, inside: false },
        }
    };
    budgets.into_iter().map(of).collect()
}

/// c0 + c1 (x - middle) + c2 (x - middle)^2.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parabola {
    middle: f64,
    c: [f64; 3],
}

impl Parabola {
    /// Its value.
    pub fn at(&self, x: f64) -> f64 {
        let (x, [c0, c1, c2]) = (x - self.middle, self.c);
        c0 + x * (c1 + x * c2)
    }

    /// Where it is least, and how low; `None` where it opens downwards.
    pub fn lowest(&self) -> Option<(f64, f64)> {
        let [_, c1, c2] = self.c;
        let x = self.middle - c1 / (2.0 * c2);
        (c2 > 0.0).then(|| (x, self.at(x)))
    }
}

/// By least squares; `None` of fewer than three different x.
pub(crate) fn parabola(points: &[(f64, f64)]) -> Option<Parabola> {
    // About the middle of the x, so that the normal equations are well conditioned.
    let middle = points.iter().map(|p| p.0).sum::<f64>() / points.len() as f64;
    let moved = || points.iter().map(|(x, y)| (x - middle, *y));
    let sum = |power: i32| moved().map(|(x, _)| x.powi(power)).sum::<f64>();
    let right = |power: i32| moved().map(|(x, y)| x.powi(power) * y).sum::<f64>();
    let (s0, s1, s2, s3, s4) = (points.len() as f64, sum(1), sum(2), sum(3), sum(4));
    let (r0, r1, r2) = (right(0), right(1), right(2));
    let det = |m: [[f64; 3]; 3]| {
        m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1])
            - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
            + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
    };
    let whole = det([[s0, s1, s2], [s1, s2, s3], [s2, s3, s4]]);
    if whole.abs() <= 1e-12 * s0 * s2 * s4 {
        return None;
    }
    let c0 = det([[r0, s1, s2], [r1, s2, s3], [r2, s3, s4]]) / whole;
    let c1 = det([[s0, r0, s2], [s1, r1, s3], [s2, r2, s4]]) / whole;
    let c2 = det([[s0, s1, r0], [s1, s2, r1], [s2, s3, r2]]) / whole;
    Some(Parabola { middle, c: [c0, c1, c2] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_law_is_found_again() {
        let law = Power { a: 29.0, b: -0.12 };
        let points: Vec<(f64, f64)> = [1e12, 3e12, 9e12].map(|c| (c, law.at(c))).to_vec();
        let found = Power::fit(&points).unwrap();
        assert!((found.a / law.a - 1.0).abs() < 1e-9 && (found.b - law.b).abs() < 1e-12);
        assert_eq!(Power::fit(&points[..1]), None);
        assert_eq!(Power::fit(&[(1.0, 0.0), (2.0, 1.0)]), None);
    }

    #[test]
    fn the_least_of_a_parabola_is_the_best_of_its_budget() {
        let loss = |n: f64| 3.0 + 0.2 * (n.ln() - 2e6f64.ln()).powi(2);
        let trials: Vec<Trial> =
            [1e6, 2.5e6, 5e6].map(|n| Trial { flops: 1e13, params: n, loss: loss(n) }).to_vec();
        let best = &best(&trials)[0];
        assert!(
            (best.params / 2e6 - 1.0).abs() < 1e-6 && (best.loss - 3.0).abs() < 1e-9,
            "{best:?}"
        );
    }

    #[test]
    fn without_a_least_between_them_the_best_trial_stands() {
        let trial = |params: f64, loss: f64| Trial { flops: 1e12, params, loss };
        let falling = [trial(1e6, 3.0), trial(2e6, 2.8), trial(4e6, 2.7)];
        assert_eq!(best(&falling)[0].params, 4e6);
        assert_eq!(best(&falling[..1])[0].loss, 3.0);
    }
}
