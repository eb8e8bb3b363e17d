//! Whether something grew: means of paired differences, and shares, each with its 95 % interval.

use serde::{Deserialize, Serialize};

/// A mean before and after, over the same things.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gain {
    /// The mean before.
    pub before: f64,
    /// The mean after.
    pub after: f64,
    /// The lower end of the 95 % interval of `after - before`.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// How many things.
    pub of: usize,
}

impl Gain {
    /// By Student's t on the differences of pairs. Of fewer than two the interval is everything.
    ///
    /// Panics if the lengths differ or there are none.
    ///
    /// ```
    /// let gain = herd_train::paired::Gain::of(&[1.0, 2.0, 3.0], &[2.0, 2.5, 4.5]);
    /// assert!((gain.before, gain.after) == (2.0, 3.0) && gain.low < 1.0 && gain.high > 1.0);
    /// ```
    pub fn of(before: &[f64], after: &[f64]) -> Gain {
        assert!(before.len() == after.len() && !before.is_empty(), "gain: pairs");
        let differences: Vec<f64> = before.iter().zip(after).map(|(b, a)| a - b).collect();
        let (mean, half) = interval(&differences);
        let of = differences.len();
        Gain {
            before: self::mean(before),
            after: self::mean(after),
            low: mean - half,
            high: mean + half,
            of,
        }
    }

    /// Whether the whole interval lies above zero.
    pub fn rose(&self) -> bool {
        self.low > 0.0
    }

    /// Whether the whole interval lies below zero.
    pub fn fell(&self) -> bool {
        self.high < 0.0
    }
}

/// The mean, and half the width of its 95 % interval by Student's t.
pub fn interval(numbers: &[f64]) -> (f64, f64) {
    let (mean, n) = (mean(numbers), numbers.len() as f64);
    if n < 2.0 {
        return (mean, f64::INFINITY);
    }
    let squares: f64 = numbers.iter().map(|x| (x - mean) * (x - mean)).sum();
    (mean, t(n - 1.0) * (squares / (n - 1.0) / n).sqrt())
}

/// The 95 % interval of a share of `n` (Wilson 1927): where a true share would have given this one.
///
/// ```
/// let (low, high) = herd_train::paired::share(0.5, 100);
/// assert!((low - 0.4038).abs() < 1e-4 && (high - 0.5962).abs() < 1e-4);
/// ```
pub fn share(share: f64, n: u64) -> (f64, f64) {
    let (n, zz) = (n as f64, Z * Z);
    let centre = (share + zz / (2.0 * n)) / (1.0 + zz / n);
    let half = Z / (1.0 + zz / n) * (share * (1.0 - share) / n + zz / (4.0 * n * n)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

/// The 97.5 % point of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// That of Student's t with `f` degrees of freedom: from tables up to three, else the expansion in 1 / f
/// (Abramowitz and Stegun 26.7.5), within 0.4 %.
fn t(f: f64) -> f64 {
    match f {
        1.0 => 12.706_204_736_174_7,
        2.0 => 4.302_652_729_696_14,
        3.0 => 3.182_446_305_284_26,
        _ => {
            let z = |power| Z.powi(power);
            let g1 = (z(3) + z(1)) / 4.0;
            let g2 = (5.0 * z(5) + 16.0 * z(3) + 3.0 * z(1)) / 96.0;
            let g3 = (3.0 * z(7) + 19.0 * z(5) + 17.0 * z(3) - 15.0 * z(1)) / 384.0;
            Z + g1 / f + g2 / (f * f) + g3 / (f * f * f)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn student_s_points_are_those_of_the_tables() {
        for (f, point) in
            [(1.0, 12.7062), (2.0, 4.3027), (3.0, 3.1824), (9.0, 2.2622), (29.0, 2.0452)]
        {
            assert!((t(f) / point - 1.0).abs() < 4e-3, "{f}: {}", t(f));
        }
    }

    #[test]
    fn wilson_s_interval_is_that_of_the_literature() {
        let (low, high) = share(0.7, 10); // R: prop.test(7, 10, correct = FALSE)
        assert!((low - 0.396_78).abs() < 1e-4 && (high - 0.892_21).abs() < 1e-4, "{low} {high}");
        assert_eq!((share(0.0, 5).0, share(1.0, 5).1), (0.0, 1.0));
    }

    #[test]
    fn pairs_that_all_rise_have_risen_and_noise_has_not() {
        let before: Vec<f64> = (0..50).map(f64::from).collect();
        let after: Vec<f64> = before.iter().map(|x| x + 1.0 + (x % 3.0) / 10.0).collect();
        assert!(Gain::of(&before, &after).rose() && Gain::of(&after, &before).fell());
        let noise: Vec<f64> =
            before.iter().map(|x| x + if x % 2.0 == 0.0 { 1.0 } else { -1.0 }).collect();
        let gain = Gain::of(&before, &noise);
        assert!(!gain.rose() && !gain.fell());
        assert!(!Gain::of(&[1.0], &[9.0]).rose());
    }
}
