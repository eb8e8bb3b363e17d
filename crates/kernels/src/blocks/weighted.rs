//! The search within one sub-block: the scale (and minimum) with which its codes lose least.
//!
//! Sums run in eight lanes in a fixed order: the same input always gives the same bits.

/// The numbers of a sub-block, each with its weight in the error.
///
/// The count is a value, not a type: loops of two or four constant steps would be unrolled before
/// they are turned into vectors, and then hardly are.
pub(super) struct Weighted {
    x: [[f32; 8]; 4],
    w: [[f32; 8]; 4],
    eights: usize,
    /// Sums of w and of w * x.
    pub(super) w_sum: f32,
    pub(super) wx_sum: f32,
    /// Whether to use AVX2; true only on a CPU that has it.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    avx2: bool,
}

/// weight = scale * code - min.
pub(super) type Line = (f32, f32);

/// The least and the greatest value of an integer field.
pub(super) type Range = (f32, f32);

/// A method that is compiled twice: for AVX2 where the machine has it, and plainly. Sums keep
/// their order and nothing is fused, so both give the same bits.
macro_rules! wide {
    (
        $(#[$doc:meta])*
        fn $name:ident($this:ident $(, $arg:ident: $type:ty)*) -> $out:ty $body:block
    ) => {
        $(#[$doc])*
        pub(super) fn $name(&self $(, $arg: $type)*) -> $out {
            #[inline(always)]
            fn plain($this: &Weighted $(, $arg: $type)*) -> $out $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2(this: &Weighted $(, $arg: $type)*) -> $out {
                    plain(this $(, $arg)*)
                }
                if self.avx2 {
                    // SAFETY: `avx2` is true only on a CPU that has it.
                    return unsafe { avx2(self $(, $arg)*) };
                }
            }
            plain(self $(, $arg)*)
        }
    };
}

impl Weighted {
    /// Takes 16 or 32 numbers.
    pub(super) fn new(numbers: &[f32]) -> Weighted {
        let (x, _) = numbers.as_chunks();
        let mut new = Weighted {
            x: [[0.0; 8]; 4],
            w: [[1.0; 8]; 4],
            eights: x.len(),
            w_sum: 0.0,
            wx_sum: 0.0,
            avx2: has_avx2(),
        };
        new.x[..x.len()].copy_from_slice(x);
        let [squares] = new.sums(|x, _| [x * x]);
        let rms = (squares / numbers.len() as f32).sqrt();
        new.w = new.x.map(|x| x.map(|x| rms + x.abs()));
        [new.w_sum, new.wx_sum] = new.sums(|x, w| [w, w * x]);
        new
    }

    /// Sums of K terms over all (x, w).
    #[inline(always)]
    fn sums<const K: usize>(&self, terms: impl Fn(f32, f32) -> [f32; K]) -> [f32; K] {
        let mut lanes = [[0.0f32; 8]; K];
        for (x, w) in self.x[..self.eights].iter().zip(&self.w) {
            for l in 0..8 {
                let terms = terms(x[l], w[l]);
                for k in 0..K {
                    lanes[k][l] += terms[k];
                }
            }
        }
        lanes.each_ref().map(total)
    }

    /// Sum of w * (x - y(x))^2.
    #[inline(always)]
    fn error(&self, y: impl Fn(f32) -> f32) -> f32 {
        let [error] = self.sums(|x, w| {
            let difference = x - y(x);
            [w * difference * difference]
        });
        error
    }

    /// Sums of w * y, w * y^2 and w * x * y, with y = y(x).
    #[inline(always)]
    pub(super) fn moments(&self, y: impl Fn(f32) -> f32) -> [f32; 3] {
        self.sums(|x, w| {
            let y = y(x);
            [w * y, w * y * y, w * x * y]
        })
    }

    /// The factor s with the least error for weight = s * y(x).
    #[inline(always)]
    fn factor_for(&self, y: impl Fn(f32) -> f32) -> f32 {
        let [_, yy, xy] = self.moments(y);
        ratio(xy, yy)
    }

    /// The line with the least error, min >= 0, for the codes that `codes` gives.
    #[inline(always)]
    fn line_for(&self, codes: impl Fn(f32) -> f32) -> Line {
        let [q, qq, xq] = self.moments(codes);
        let determinant = self.w_sum * qq - q * q;
        let min = (q * xq - qq * self.wx_sum) / determinant;
        if determinant > 0.0 && min > 0.0 {
            ((self.w_sum * xq - q * self.wx_sum) / determinant, min)
        } else {
            (ratio(xq, qq), 0.0)
        }
    }

    wide! {
        /// The line, scale and min at least 0, with which codes `0..=top` lose least.
        fn fit_line(this, top: f32) -> Line {
            let numbers = || this.x[..this.eights].as_flattened().iter();
            let low = numbers().fold(0.0f32, |a, &x| a.min(x));
            let high = numbers().fold(f32::NEG_INFINITY, |a, &x| a.max(x));
            let (mut best, mut least) = ((0.0, -low), this.error(|_| low));
            for step in -10..=15 {
                let codes = line_codes(((high - low) / (top + 0.1 * step as f32), -low), top);
                let (scale, min) = this.line_for(&codes);
                let error = this.error(|x| scale * codes(x) - min);
                if error < least && scale >= 0.0 {
                    (best, least) = ((scale, min), error);
                }
            }
            best
        }
    }

    wide! {
        /// The integers (scale, min), at most one from the given ones, with which
        /// weight = unit.0 * scale * code - unit.1 * min loses least; and the error of the given
        /// ones.
        fn nearby_line(this, unit: Line, given: Line, top: f32, field: f32) -> (Line, f32) {
            let around = |a: f32| [a, (a - 1.0).max(0.0), (a + 1.0).min(field)];
            let given_error = this.line_error((unit.0 * given.0, unit.1 * given.1), top);
            let (mut best, mut least) = (given, given_error);
            for scale in around(given.0) {
                for min in around(given.1) {
                    let error = this.line_error((unit.0 * scale, unit.1 * min), top);
                    if error < least {
                        (best, least) = ((scale, min), error);
                    }
                }
            }
            (best, given_error)
        }
    }

    /// The error of a line with the nearest codes.
    #[inline(always)]
    fn line_error(&self, line: Line, top: f32) -> f32 {
        let codes = line_codes(line, top);
        self.error(|x| line.0 * codes(x) - line.1)
    }

    wide! {
        /// The scale, of either sign, with which these codes lose least.
        fn fit_scale(this, range: Range) -> f32 {
            let numbers = this.x[..this.eights].as_flattened();
            let extreme = numbers[super::largest(numbers)];
            let (mut best, mut least) = (0.0, this.error(|_| 0.0));
            for step in -9..=9 {
                for end in [range.0, range.1] {
                    let codes = scale_codes(extreme / (end + 0.1 * step as f32), range);
                    let scale = this.factor_for(&codes);
                    let error = this.error(|x| scale * codes(x));
                    if error < least {
                        (best, least) = (scale, error);
                    }
                }
            }
            best
        }
    }

    wide! {
        /// The integer scale, at most one from the given one, with which weight = d * scale * code
        /// loses least; and the error of the given one.
        fn nearby_scale(this, d: f32, given: f32, codes: Range, fields: Range) -> (f32, f32) {
            let given_error = this.scale_error(d * given, codes);
            let (mut best, mut least) = (given, given_error);
            for scale in [(given - 1.0).max(fields.0), (given + 1.0).min(fields.1)] {
                let error = this.scale_error(d * scale, codes);
                if error < least {
                    (best, least) = (scale, error);
                }
            }
            (best, given_error)
        }
    }

    /// The error of a scale with the nearest codes.
    #[inline(always)]
    fn scale_error(&self, scale: f32, range: Range) -> f32 {
        let codes = scale_codes(scale, range);
        self.error(|x| scale * codes(x))
    }

    wide! {
        /// The factor with which the entries of `table` (rising) lose least.
        fn fit_table(this, table: &[i8; 16]) -> f32 {
            let numbers = this.x[..this.eights].as_flattened();
            let extreme = numbers[super::largest(numbers)];
            let (mut best, mut least) = (0.0, this.error(|_| 0.0));
            for step in -10..=10 {
                for end in [table[0], table[15]] {
                    let entries = table_entries(extreme / (f32::from(end) + step as f32), table);
                    let d = this.factor_for(&entries);
                    let error = this.error(|x| d * entries(x));
                    if error < least {
                        (best, least) = (d, error);
                    }
                }
            }
            best
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx2() -> bool {
    false
}

/// The sum of eight lanes. Not inlined: the compiler then keeps the lanes together in one register
/// in the loop before it, where it would pair them as the additions here do (twice as slow).
#[inline(never)]
fn total(&[a, b, c, d, e, f, g, h]: &[f32; 8]) -> f32 {
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// x to its nearest code in `0..=top` on a line.
#[inline(always)]
pub(super) fn line_codes((scale, min): Line, top: f32) -> impl Fn(f32) -> f32 {
    let inverse = inverse(scale);
    move |x| round(clamp((x + min) * inverse, 0.0, top))
}

/// x to its nearest code in `range` with a scale.
#[inline(always)]
pub(super) fn scale_codes(scale: f32, range: Range) -> impl Fn(f32) -> f32 {
    let inverse = inverse(scale);
    move |x| round(clamp(x * inverse, range.0, range.1))
}

/// x to the table entry nearest to x / d.
#[inline(always)]
pub(super) fn table_entries(d: f32, table: &[i8; 16]) -> impl Fn(f32) -> f32 {
    let inverse = inverse(d);
    move |x| {
        let mut entry = f32::from(table[0]);
        for pair in table.windows(2) {
            let (below, above) = (f32::from(pair[0]), f32::from(pair[1]));
            entry = if x * inverse > 0.5 * (below + above) { above } else { entry };
        }
        entry
    }
}

/// The nearest integer, ties to even, for |x| < 2^22: adding 1.5 * 2^23 leaves no fraction bits.
#[inline(always)]
pub(super) fn round(x: f32) -> f32 {
    const NO_FRACTION: f32 = 12_582_912.0;
    (x + NO_FRACTION) - NO_FRACTION
}

/// `x` between `low` and `high`. Unlike `f32::clamp` it says nothing about NaN, which would cost
/// three instructions in place of one.
#[inline(always)]
fn clamp(x: f32, low: f32, high: f32) -> f32 {
    let x = if x > low { x } else { low };
    if x < high { x } else { high }
}

/// 1 / x, or 0 where that is not finite.
#[inline(always)]
pub(super) fn inverse(x: f32) -> f32 {
    ratio(1.0, x)
}

/// a / b, or 0 where that is not finite.
#[inline(always)]
fn ratio(a: f32, b: f32) -> f32 {
    Some(a / b).filter(|r| r.is_finite()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(seed: u32) -> [f32; 32] {
        let mut state = seed;
        std::array::from_fn(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        })
    }

    #[test]
    fn avx2_and_plain_searches_give_the_same_bits() {
        let table = &super::super::naive::IQ4_NL_VALUES;
        for seed in 0..100 {
            let x = numbers(seed);
            for x in [&x[..], &x[..16]] {
                let fast = Weighted::new(x);
                let plain = Weighted { avx2: false, ..Weighted::new(x) };
                assert_eq!(fast.fit_line(15.0), plain.fit_line(15.0));
                assert_eq!(fast.fit_scale((-32.0, 31.0)), plain.fit_scale((-32.0, 31.0)));
                assert_eq!(fast.fit_table(table), plain.fit_table(table));
                let lines = |w: &Weighted| w.nearby_line((0.01, 0.02), (10.0, 50.0), 15.0, 63.0);
                assert_eq!(lines(&fast), lines(&plain));
                let scales = |w: &Weighted| w.nearby_scale(0.01, -20.0, (-4.0, 3.0), (-32.0, 31.0));
                assert_eq!(scales(&fast), scales(&plain));
            }
        }
    }

    #[test]
    fn numbers_on_a_line_are_fitted_without_loss() {
        let x: [f32; 32] = std::array::from_fn(|i| 0.25 * (i % 16) as f32 - 1.5);
        let (scale, min) = Weighted::new(&x).fit_line(15.0);
        assert!((scale - 0.25).abs() < 1e-6 && (min - 1.5).abs() < 1e-5, "{scale} {min}");
        let x: [f32; 16] = std::array::from_fn(|i| 0.25 * (i as f32 - 8.0));
        let scale = Weighted::new(&x).fit_scale((-8.0, 7.0));
        assert!((scale - 0.25).abs() < 1e-6, "{scale}");
    }
}
