//! Chance, as forecasts need it: Student's 95 % point, and draws that belong to their place.

use herd_engine::rng::uniform;

/// The 95 % point of the normal distribution.
pub(crate) const Z: f64 = 1.644_853_626_951_472_7;

/// That of Student's t with `f` degrees of freedom, so that 90 % lie between it and its negative: from tables up to three,
/// else the expansion in 1 / f (Abramowitz and Stegun 26.7.5), within 0.1 %.
pub(crate) fn student(f: f64) -> f64 {
    match f {
        1.0 => 6.313_751_514_675_04,
        2.0 => 2.919_985_580_353_73,
        3.0 => 2.353_363_434_801_83,
        _ => {
            let z = |power| Z.powi(power);
            let g1 = (z(3) + z(1)) / 4.0;
            let g2 = (5.0 * z(5) + 16.0 * z(3) + 3.0 * z(1)) / 96.0;
            let g3 = (3.0 * z(7) + 19.0 * z(5) + 17.0 * z(3) - 15.0 * z(1)) / 384.0;
            Z + g1 / f + g2 / (f * f) + g3 / (f * f * f)
        }
    }
}

/// Numbers of one draw of many: a function of the seed and of which draw it is.
pub(crate) struct Draw {
    seed: u64,
    draw: u64,
    at: u64,
}

impl Draw {
    pub fn new(seed: u64, draw: u64) -> Draw {
        Draw { seed, draw, at: 0 }
    }

    /// In [0, 1).
    pub fn uniform(&mut self) -> f64 {
        self.at += 1;
        uniform(self.seed, self.draw, self.at)
    }

    /// Of the normal distribution (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
    }

    /// What a standard deviation that was measured with `f` degrees of freedom may truly be, over what was measured: the root
    /// of f over a chi-squared number. Normal numbers times it are Student's.
    pub fn spread(&mut self, f: usize) -> f64 {
        let squares: f64 = (0..f).map(|_| self.normal().powi(2)).sum();
        (f as f64 / squares).sqrt()
    }
}

/// The 5 % and the 95 % point of some numbers; `None` of none.
pub(crate) fn middle_ninety(numbers: &mut [f64]) -> Option<(f64, f64)> {
    numbers.sort_by(f64::total_cmp);
    let last = numbers.len().checked_sub(1)? as f64;
    let point = |share: f64| {
        let at = share * last;
        let (below, above) = (numbers[at.floor() as usize], numbers[at.ceil() as usize]);
        below + (above - below) * at.fract()
    };
    Some((point(0.05), point(0.95)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn student_s_points_are_those_of_the_tables() {
        for (f, point) in [(1.0, 6.3138), (4.0, 2.1318), (5.0, 2.0150), (10.0, 1.8125)] {
            assert!((student(f) / point - 1.0).abs() < 1e-3, "{f}: {}", student(f));
        }
    }

    #[test]
    fn draws_have_the_mean_and_the_spread_that_they_should() {
        let n = 20_000;
        let of = |f: fn(&mut Draw) -> f64| -> f64 {
            (0..n).map(|i| f(&mut Draw::new(7, i))).sum::<f64>() / n as f64
        };
        assert!(of(Draw::normal).abs() < 0.03);
        assert!((of(|draw| draw.normal().powi(2)) - 1.0).abs() < 0.05);
        // f / chi-squared has the mean f / (f - 2).
        assert!((of(|draw| draw.spread(8).powi(2)) - 8.0 / 6.0).abs() < 0.05);
    }

    #[test]
    fn the_middle_ninety_of_a_hundred_and_one() {
        let mut numbers: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        assert_eq!(middle_ninety(&mut numbers), Some((5.0, 95.0)));
        assert_eq!(middle_ninety(&mut []), None);
    }
}
