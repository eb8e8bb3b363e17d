//! IsoFLOP curves: the best size of each budget, and how it grows with the budget (arXiv 2407.21783, section 3.2.1).
//!
//! Tokens are the paper's convention: D*(C) = A C^alpha, where D = C / (6 N). Of one budget ln D and ln N differ by a constant and
//! a sign, so that one parabola gives both.

use std::collections::BTreeMap;

use super::chance::{Draw, middle_ninety};
use super::law::Interval;
use super::{Best, Power, Trial, best, parabola};
use serde::{Deserialize, Serialize};

/// The law of the paper's figure 3, as its legend prints it: D*(C) = 0.299 C^0.537.
pub const LLAMA3: Power = Power { a: 0.299, b: 0.537 };

/// A power law with the intervals of its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fit {
    /// a x^b.
    pub power: Power,
    /// 90 % of the bootstrap's a; `None` where no budget has a run more than its parabola needs.
    pub a: Option<(f64, f64)>,
    /// 90 % of its b.
    pub b: Option<(f64, f64)>,
}

/// What a budget should be spent on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Optimum {
    /// Operations, 6 N D.
    pub flops: f64,
    /// N*.
    pub params: f64,
    /// 90 % of the bootstrap's N*.
    pub params_ci90: Option<(f64, f64)>,
    /// D*.
    pub tokens: f64,
    /// 90 % of the bootstrap's D*.
    pub tokens_ci90: Option<(f64, f64)>,
}

/// The curves of a sweep.
#[derive(Clone, Debug)]
pub struct IsoFlops {
    /// The best of each budget.
    pub minima: Vec<Best>,
    /// D*(C), the paper's.
    pub tokens: Fit,
    /// N*(C).
    pub params: Fit,
    /// loss*(C), without a floor: of few budgets as good as one with it.
    pub loss: Power,
    /// Of each run, its loss less its budget's parabola; none where a budget has no parabola.
    pub residuals: Vec<Option<f64>>,
    /// Standard deviation of a loss about its parabola, nats; `None` where no run is left to tell.
    pub sigma: Option<f64>,
    /// The laws of N* of each draw.
    drawn: Vec<Power>,
}

/// Minima that lie among the sizes.
fn inside(minima: &[Best]) -> usize {
    minima.iter().filter(|best| best.inside).count()
}

/// Fits the curves; `draws` times with noise as large as what the parabolas leave, for the intervals.
///
/// `None` of fewer than two budgets. Budgets whose parabola has no least among its models do not count for the power laws,
/// where at least two others do.
pub fn fit(trials: &[Trial], seed: u64, draws: u64) -> Option<IsoFlops> {
    let minima = best(trials);
    let (params, tokens, loss) = powers(&minima)?;
    let (expected, residuals, free) = about_parabolas(trials);
    let squares: f64 = residuals.iter().flatten().map(|r| r * r).sum();
    let sigma = (free > 0).then(|| (squares / free as f64).sqrt());
    let mut drawn = Vec::new();
    // Minima at the edge of the sizes are at that edge in every draw: their intervals would say nothing.
    let sure = sigma.is_some() && inside(&minima) >= 2;
    for number in 0..if sure { draws } else { 0 } {
        let mut draw = Draw::new(seed, number);
        let spread = sigma.unwrap_or(0.0) * draw.spread(free);
        let noisy =
            |(trial, loss): (&Trial, &f64)| Trial { loss: loss + spread * draw.normal(), ..*trial };
        let again: Vec<Trial> = trials.iter().zip(&expected).map(noisy).collect();
        drawn.extend(powers(&best(&again)).map(|(params, ..)| params));
    }
    let of = |power: Power, of: fn(&Power) -> Power| {
        let middle = |number: fn(&Power) -> f64| {
            let mut numbers: Vec<f64> = drawn.iter().map(|drawn| number(&of(drawn))).collect();
            middle_ninety(&mut numbers)
        };
        Fit { power, a: middle(|power| power.a), b: middle(|power| power.b) }
    };
    let (tokens, params) = (of(tokens, as_tokens), of(params, |power| *power));
    Some(IsoFlops { tokens, params, minima, loss, residuals, sigma, drawn })
}

/// D = C / (6 N) of N = a C^b.
fn as_tokens(params: &Power) -> Power {
    Power { a: 1.0 / (6.0 * params.a), b: 1.0 - params.b }
}

/// N*(C), D*(C) and loss*(C).
fn powers(minima: &[Best]) -> Option<(Power, Power, Power)> {
    let inside: Vec<Best> = minima.iter().filter(|best| best.inside).copied().collect();
    let minima = if inside.len() >= 2 { &inside[..] } else { minima };
    let law = |of: fn(&Best) -> f64| {
        Power::fit(&minima.iter().map(|best| (best.flops, of(best))).collect::<Vec<_>>())
    };
    let params = law(|best| best.params)?;
    Some((params, as_tokens(&params), law(|best| best.loss)?))
}

/// Of each run what its budget's parabola says, or its own loss where there is none; what it is off by; and how many runs
/// there are beyond those that parabolas need.
fn about_parabolas(trials: &[Trial]) -> (Vec<f64>, Vec<Option<f64>>, usize) {
    let mut of: BTreeMap<u64, Vec<(f64, f64)>> = BTreeMap::new();
    for trial in trials {
        of.entry(trial.flops.to_bits()).or_default().push((trial.params.ln(), trial.loss));
    }
    let curves: BTreeMap<u64, _> =
        of.iter().map(|(flops, points)| (*flops, parabola(points))).collect();
    let says = |trial: &Trial| curves[&trial.flops.to_bits()].map(|c| c.at(trial.params.ln()));
    let expected = trials.iter().map(|trial| says(trial).unwrap_or(trial.loss)).collect();
    let residuals = trials.iter().map(|trial| says(trial).map(|says| trial.loss - says)).collect();
    let with = of.iter().filter(|(flops, _)| curves[flops].is_some());
    (expected, residuals, with.map(|(_, points)| points.len() - 3).sum())
}

impl IsoFlops {
    /// Minima that lie among the sizes, not at their edge.
    pub fn inside(&self) -> usize {
        inside(&self.minima)
    }

    /// What a budget should be spent on.
    pub fn optimum(&self, flops: f64) -> Optimum {
        let mut drawn: Vec<f64> = self.drawn.iter().map(|power| power.at(flops)).collect();
        let params_ci90 = middle_ninety(&mut drawn);
        Optimum {
            flops,
            params: self.params.power.at(flops),
            params_ci90,
            tokens: self.tokens.power.at(flops),
            tokens_ci90: params_ci90.map(|(low, high)| (flops / (6.0 * high), flops / (6.0 * low))),
        }
    }

    /// N* as a number with its interval; everything where nothing is known of it.
    pub fn params_at(&self, flops: f64) -> Interval {
        let Optimum { params, params_ci90, .. } = self.optimum(flops);
        let (low, high) = params_ci90.unwrap_or((0.0, f64::INFINITY));
        Interval { value: params, low, high }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paper's budgets, the legend of its figure 2.
    const BUDGETS: [f64; 10] = [6e18, 1e19, 3e19, 6e19, 1e20, 3e20, 6e20, 1e21, 3e21, 1e22];

    /// Curves that are parabolas about the paper's law; `width` is what a factor of e in N costs, in nats.
    fn runs(budgets: &[f64], sizes: i32, width: f64) -> Vec<Trial> {
        let about = |flops: f64| {
            (0..sizes).map(move |i| {
                let shift = 0.7 * f64::from(2 * i - sizes + 1) / 2.0;
                let params = flops / (6.0 * LLAMA3.at(flops)) * shift.exp();
                let loss = 14.0 * flops.powf(-0.04) + width * shift * shift;
                Trial { flops, params, loss }
            })
        };
        budgets.iter().flat_map(|flops| about(*flops)).collect()
    }

    #[test]
    fn the_paper_s_law_follows_from_curves_of_its_budgets() {
        let fitted = fit(&runs(&BUDGETS, 7, 0.05), 1, 50).unwrap();
        assert!((fitted.tokens.power.a / LLAMA3.a - 1.0).abs() < 1e-6);
        assert!((fitted.tokens.power.b - LLAMA3.b).abs() < 1e-8);
        assert!(fitted.minima.iter().all(|best| best.inside));
        // Section 3.2.1: 402B parameters on 16.55T tokens at 3.8e25 operations.
        let tokens = fitted.tokens.power.at(3.8e25);
        assert!((tokens / 1.6294e13 - 1.0).abs() < 1e-3, "{tokens}");
        let params = fitted.params.power.at(3.8e25);
        assert!((params / 388.7e9 - 1.0).abs() < 1e-3, "{params}");
    }

    #[test]
    fn rounding_explains_the_paper_s_tokens_and_not_its_parameters() {
        // All exponents and factors that are printed as 0.537 and 0.299.
        let (least, most) = (Power { a: 0.2985, b: 0.5365 }, Power { a: 0.2995, b: 0.5375 });
        let tokens = (least.at(3.8e25), most.at(3.8e25));
        assert!(tokens.0 < 16.55e12 && 16.55e12 < tokens.1, "{tokens:?}");
        // 6 N D of the printed pair is not the printed budget: 402B would need 15.75T tokens.
        let said: f64 = 6.0 * 402e9 * 16.55e12 / 3.8e25;
        assert!((said - 1.0505).abs() < 1e-3, "{said}");
        assert!(3.8e25 / (6.0 * 402e9) < tokens.0);
        // The rounded pair of the text is of another size.
        let text = Power { a: 0.29, b: 0.53 }.at(3.8e25);
        assert!((text / 1.05e13 - 1.0).abs() < 1e-2, "{text}");
    }

    #[test]
    fn curves_without_spare_runs_have_no_intervals_and_one_budget_no_law() {
        let runs = runs(&[1e18, 1e19], 3, 0.05);
        let fitted = fit(&runs, 1, 50).unwrap();
        assert_eq!((fitted.sigma, fitted.tokens.b), (None, None));
        assert!(fitted.optimum(1e20).params_ci90.is_none());
        assert!(fit(&runs[..3], 1, 50).is_none());
    }

    #[test]
    fn nine_of_ten_bootstrap_intervals_hold_the_optimum_and_the_exponent() {
        // Of curves as flat as the paper's, and of steeper ones of a small sweep.
        let small = &[1e12, 3e12, 1e13, 3e13][..];
        for (seed, budgets, sizes, width, noise) in
            [(1, &BUDGETS[..6], 7, 0.06, 0.003), (2, small, 5, 0.15, 0.004)]
        {
            let exact = runs(budgets, sizes, width);
            let next = 10.0 * budgets[budgets.len() - 1];
            let (mut size, mut exponent) = (0, 0);
            for number in 0..500 {
                let mut draw = Draw::new(100 + seed, number);
                let noisy = |t: &Trial| Trial { loss: t.loss + noise * draw.normal(), ..*t };
                let seen: Vec<Trial> = exact.iter().map(noisy).collect();
                let fitted = fit(&seen, 1000 * seed + number, 400).unwrap();
                size += u32::from(fitted.params_at(next).holds(next / (6.0 * LLAMA3.at(next))));
                let (low, high) = fitted.tokens.b.unwrap();
                exponent += u32::from(low <= LLAMA3.b && LLAMA3.b <= high);
            }
            let shares = [size, exponent].map(|n| f64::from(n) / 500.0);
            assert!(shares.iter().all(|share| (share - 0.9).abs() <= 0.03), "{sizes}: {shares:?}");
        }
    }
}
