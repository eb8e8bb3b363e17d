//! How well a larger model will answer a benchmark, in two steps (arXiv 2407.21783, section 3.2.1).
//!
//! ```text
//! x(C)   = a + b ln C                          nats a character of the right answer, of the best model of each budget
//! acc(x) = c + L / (1 + exp(k (x - x0)))       over all models; c is what guessing gives
//! ```
//!
//! The line is by least squares, its interval by Student's t. Of sigmoids a grid is searched for the likeliest; the interval of
//! an accuracy is the profile of the likelihood: all shares that some sigmoid, some place about the line and the luck of counting
//! give, as long as their squared deviations together are within 1.645^2 of the least. Answers that scatter more than coins
//! would count for as much less.

use super::chance::{Z, student};
use super::law::Interval;
use serde::{Deserialize, Serialize};

/// What a model made of a benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// Mean over items of the right answer's nats a character.
    pub nll_per_char: f64,
    /// The share of items answered rightly.
    pub acc: f64,
    /// What guessing would have answered rightly.
    pub chance: f64,
    /// Items.
    pub n: usize,
}

/// c + L / (1 + exp(k (x - x0))).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sigmoid {
    /// c, what guessing gives.
    pub floor: f64,
    /// L.
    pub rise: f64,
    /// k, above zero: likelier answers are right more often.
    pub k: f64,
    /// x0.
    pub x0: f64,
}

impl Sigmoid {
    /// The share of right answers.
    pub fn at(&self, x: f64) -> f64 {
        self.floor + self.rise / (1.0 + (self.k * (x - self.x0)).exp())
    }
}

/// a + b ln C.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// a.
    pub a: f64,
    /// b.
    pub b: f64,
    /// Standard deviation of what is left, nats a character.
    pub sigma: f64,
    n: f64,
    middle: f64,
    spread: f64,
}

impl Line {
    /// Least squares over (C, x); `None` of fewer than three points or two budgets.
    fn fit(points: &[(f64, f64)]) -> Option<Line> {
        let n = points.len() as f64;
        let middle = points.iter().map(|p| p.0.ln()).sum::<f64>() / n;
        let mean = points.iter().map(|p| p.1).sum::<f64>() / n;
        let spread: f64 = points.iter().map(|p| (p.0.ln() - middle).powi(2)).sum();
        let b = points.iter().map(|p| (p.0.ln() - middle) * (p.1 - mean)).sum::<f64>() / spread;
        let a = mean - b * middle;
        let squares: f64 = points.iter().map(|p| (p.1 - a - b * p.0.ln()).powi(2)).sum();
        let sigma = (squares / (n - 2.0)).sqrt();
        (n > 2.0 && spread > 0.0 && sigma.is_finite()).then_some(Line {
            a,
            b,
            sigma,
            n,
            middle,
            spread,
        })
    }

    /// Its value.
    pub fn at(&self, flops: f64) -> f64 {
        self.a + self.b * flops.ln()
    }

    /// Standard deviation of a new point about it.
    fn error(&self, flops: f64) -> f64 {
        let far = flops.ln() - self.middle;
        self.sigma * (1.0 + 1.0 / self.n + far * far / self.spread).sqrt()
    }
}

/// Both steps of a benchmark.
#[derive(Clone, Debug)]
pub struct TaskLaw {
    /// The first.
    pub line: Line,
    /// The second, where it is likeliest.
    pub sigmoid: Sigmoid,
    /// Sigmoids that may be, and by how much their deviance is beyond the least.
    may_be: Vec<(f64, Sigmoid)>,
    /// Coins that scatter as items do.
    items: f64,
}

/// What a benchmark will come to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskForecast {
    /// Nats a character of the right answer.
    pub nll_per_char: Interval,
    /// The share of right answers.
    pub acc: Interval,
}

impl TaskLaw {
    /// Fits both: `best` are (C, x) of the best model of each budget, `all` whatever models answered.
    ///
    /// `None` of fewer than three budgets or four models.
    pub fn fit(best: &[(f64, f64)], all: &[Answered]) -> Option<TaskLaw> {
        let line = Line::fit(best)?;
        if all.len() < 4 {
            return None;
        }
        let grid = sigmoids(all);
        let errors: Vec<f64> = grid.iter().map(|sigmoid| deviance(sigmoid, all)).collect();
        let least = errors.iter().copied().min_by(f64::total_cmp)?;
        let at = errors.iter().position(|error| *error == least)?;
        // Models differ by more than coins do: then what is left over, not the coins, is the noise.
        let noise = (least / (all.len() as f64 - 3.0)).max(1.0);
        let beyond = errors.iter().map(|error| (error - least) / noise);
        let may_be = beyond.zip(&grid).filter(|(beyond, _)| *beyond <= Z * Z);
        let may_be = may_be.map(|(beyond, sigmoid)| (beyond, *sigmoid)).collect();
        let items = all.iter().map(|a| a.n as f64).sum::<f64>() / all.len() as f64 / noise;
        Some(TaskLaw { line, sigmoid: grid[at], may_be, items })
    }

    /// What a model of so many operations will come to, on as many items.
    pub fn forecast(&self, flops: f64) -> TaskForecast {
        const PLACES: i32 = 12;
        let x = self.line.at(flops);
        let half = student(self.line.n - 2.0) * self.line.error(flops);
        let value = self.sigmoid.at(x);
        let (mut low, mut high) = (value, value);
        for (beyond, sigmoid) in &self.may_be {
            for place in -PLACES..=PLACES {
                let off = f64::from(place) / f64::from(PLACES);
                let room = Z * Z * (1.0 - off * off) - beyond;
                if room >= 0.0 {
                    let share = sigmoid.at(x + off * half);
                    let luck = (room * share * (1.0 - share) / self.items).sqrt();
                    (low, high) = (low.min(share - luck), high.max(share + luck));
                }
            }
        }
        TaskForecast {
            nll_per_char: Interval { value: x, low: x - half, high: x + half },
            acc: Interval { value, low: low.max(0.0), high: high.min(1.0) },
        }
    }
}

/// Sigmoids over the range of what was answered, and beyond it.
fn sigmoids(all: &[Answered]) -> Vec<Sigmoid> {
    let floor = all.iter().map(|a| a.chance).sum::<f64>() / all.len() as f64;
    let x = || all.iter().map(|a| a.nll_per_char);
    let (low, high) = (x().fold(f64::INFINITY, f64::min), x().fold(0.0, f64::max));
    let span = (high - low).max(1e-3);
    let mut made = Vec::new();
    for i in 0..24 {
        let k = 0.5 * (60.0f64.powf(f64::from(i) / 23.0)) / span;
        for j in 0..40 {
            let x0 = low - 1.5 * span + 3.0 * span * f64::from(j) / 39.0;
            for l in 1..=20 {
                let rise = (1.0 - floor) * f64::from(l) / 20.0;
                made.push(Sigmoid { floor, rise, k, x0 });
            }
        }
    }
    made
}

/// Twice what the likelihood of the counts lacks.
fn deviance(sigmoid: &Sigmoid, all: &[Answered]) -> f64 {
    let lacks = |a: &Answered| {
        let p = sigmoid.at(a.nll_per_char).clamp(1e-6, 1.0 - 1e-6);
        let part = |share: f64, p: f64| if share > 0.0 { share * (share / p).ln() } else { 0.0 };
        2.0 * a.n as f64 * (part(a.acc, p) + part(1.0 - a.acc, 1.0 - p))
    };
    all.iter().map(lacks).sum()
}

#[cfg(test)]
mod tests {
    use super::super::chance::Draw;
    use super::*;

    /// A sweep's answers: the best of five budgets, and five others off the curve; of 500 items each.
    fn answers(draw: &mut Draw, truth: &Sigmoid) -> (Vec<(f64, f64)>, Vec<Answered>) {
        let (mut best, mut all) = (Vec::new(), Vec::new());
        for i in 0..10 {
            let flops = 1e18 * 10f64.powf(f64::from(i % 5) * 0.8);
            let off = if i < 5 { 0.0 } else { 0.05 };
            let x = 3.0 - 0.05 * flops.ln() + off + 0.004 * draw.normal();
            if i < 5 {
                best.push((flops, x));
            }
            all.push(measured(draw, truth, x));
        }
        (best, all)
    }

    fn measured(draw: &mut Draw, truth: &Sigmoid, x: f64) -> Answered {
        let n = 500;
        let right = (0..n).filter(|_| draw.uniform() < truth.at(x)).count();
        let acc = right as f64 / n as f64;
        Answered { nll_per_char: x, acc, chance: truth.floor, n }
    }

    #[test]
    fn nine_of_ten_accuracies_lie_where_they_were_foretold() {
        let truth = Sigmoid { floor: 0.25, rise: 0.7, k: 12.0, x0: 0.55 };
        let (mut x, mut acc) = (0, 0);
        for number in 0..200 {
            let mut draw = Draw::new(9, number);
            let (best, all) = answers(&mut draw, &truth);
            let law = TaskLaw::fit(&best, &all).unwrap();
            let (foretold, flops) = (law.forecast(1e23), 1e23f64);
            let next = 3.0 - 0.05 * flops.ln() + 0.004 * draw.normal();
            let next = measured(&mut draw, &truth, next);
            x += u32::from(foretold.nll_per_char.holds(next.nll_per_char));
            acc += u32::from(foretold.acc.holds(next.acc));
        }
        // 180 of 200, with a standard deviation of 4.2. Of sigmoids whose top is hardly seen the interval is too wide.
        assert!((168..=192).contains(&x), "{x}");
        assert!((168..=200).contains(&acc), "{acc}");
    }

    #[test]
    fn models_that_guess_foretell_little() {
        let guess = |x: f64| Answered { nll_per_char: x, acc: 0.25, chance: 0.25, n: 100 };
        let all: Vec<Answered> = (0..6).map(|i| guess(2.0 - 0.1 * f64::from(i))).collect();
        let best: Vec<(f64, f64)> = all
            .iter()
            .enumerate()
            .map(|(i, a)| (10f64.powi(12 + i as i32), a.nll_per_char))
            .collect();
        let law = TaskLaw::fit(&best, &all).unwrap();
        let far = law.forecast(1e20).acc;
        assert!(far.low < 0.3 && far.high > 0.5, "{far:?}");
        assert!(
            TaskLaw::fit(&best[..2], &all).is_none() && TaskLaw::fit(&best, &all[..3]).is_none()
        );
    }
}
