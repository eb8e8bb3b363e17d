//! Scalar functions without branches, so that loops over them vectorise, and sums in lanes.

use std::f32::consts::LOG2_E;
use std::f64::consts::{LN_2, SQRT_2};

/// Lanes of a row's sum: element i adds to lane i mod 64.
///
/// Four registers of AVX-512 or eight of AVX2: enough independent chains for the latency of an
/// addition (4 cycles), few enough to stay in registers.
pub const LANES: usize = 64;

/// `a * b + c`: rounded once where the class has the instruction, else twice.
#[inline(always)]
pub fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// e^x within 2 ulp; exact at 0 and the infinities; NaN stays NaN. Overflow gives infinity.
///
/// Results below 2^-125.5 (x < -86.99) are 0: subnormal numbers stall some processors for a
/// hundred cycles. Source: x = n ln 2 + r with |r| <= ln 2 / 2; then 2 e^r by a polynomial
/// (least greatest relative error with its first two terms fixed: 0.05 of half an ulp), times
/// 2^(n-1), whose exponent is what adding `SHIFT` leaves in the lowest bits.
#[inline(always)]
pub fn exp<const FMA: bool>(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0 + 126.0; // 1.5 * 2^23: ulp 1; bias 127, less one
    const LN_2_HIGH: f32 = 0.693_359_4; // 355/512: its product with n is exact
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const C: [f32; 7] =
        [2.0, 2.0, 0.999_999_9, 0.333_330_42, 0.083_336_78, 0.016_737_49, 0.002_762_907_7];
    // In this form NaN passes, and each line is one instruction.
    let x = if x < -87.3 { -87.3 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let shifted = mul_add::<FMA>(x, LOG2_E, SHIFT);
    let n = shifted - SHIFT;
    let r = mul_add::<FMA>(n, -LN_2_LOW, mul_add::<FMA>(n, -LN_2_HIGH, x));
    polynomial::<FMA, 7>(&C, r) * f32::from_bits(shifted.to_bits() << 23)
}

/// `c[0] + c[1] x + c[2] x^2 + ...`
#[inline(always)]
pub fn polynomial<const FMA: bool, const N: usize>(c: &[f32; N], x: f32) -> f32 {
    let mut sum = c[N - 1];
    for i in (0..N - 1).rev() {
        sum = mul_add::<FMA>(sum, x, c[i]);
    }
    sum
}

/// Natural logarithm, the same bits on every machine: -infinity at 0, NaN below.
///
/// Source: x = m 2^e with m in [1/sqrt 2, sqrt 2]; ln m = 2 artanh((m-1)/(m+1)) by its series,
/// whose terms shrink by 0.03 each: twelve leave less than one part in 2^53.
pub fn ln(x: f64) -> f64 {
    if x.is_nan() || x < 0.0 {
        return f64::NAN;
    }
    if x == 0.0 {
        return f64::NEG_INFINITY;
    }
    if x == f64::INFINITY {
        return x;
    }
    const TWO_54: f64 = (1u64 << 54) as f64;
    let (x, scaled) = if x < f64::MIN_POSITIVE { (x * TWO_54, 54) } else { (x, 0) };
    let mut exponent = (x.to_bits() >> 52) as i32 - 1023 - scaled;
    let mut m = f64::from_bits(x.to_bits() & ((1 << 52) - 1) | 1023 << 52);
    if m > SQRT_2 {
        m *= 0.5;
        exponent += 1;
    }
    let s = (m - 1.0) / (m + 1.0);
    let mut series = 0.0;
    for i in (0..12).rev() {
        series = series * (s * s) + 2.0 / f64::from(2 * i + 1);
    }
    f64::from(exponent) * LN_2 + s * series
}

/// Folds a row into lanes: element i goes to lane i mod 64, so the order is the row's alone.
#[inline(always)]
pub(crate) fn fold_lanes(x: &[f32], start: f32, f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    let mut lanes = [start; LANES];
    let (blocks, tail) = x.as_chunks::<LANES>();
    for block in blocks {
        for j in 0..LANES {
            lanes[j] = f(lanes[j], block[j]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(tail) {
        *lane = f(*lane, *x);
    }
    lanes
}

/// Joins lanes in pairs, then the pairs, until one is left.
#[inline(always)]
pub(crate) fn join_lanes(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for j in 0..half {
            lanes[j] = f(lanes[j], lanes[j + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Sum of `f(0, x)` over a row, in lanes; `f` adds its second argument's term to its first.
#[inline(always)]
pub(crate) fn sum_by(x: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    join_lanes(fold_lanes(x, 0.0, f), |a, b| a + b)
}

/// Greatest element; NaN is passed over; -infinity if there is no other.
#[inline(always)]
pub(crate) fn maximum(x: &[f32]) -> f32 {
    let greater = |a, b| if b > a { b } else { a };
    join_lanes(fold_lanes(x, f32::NEG_INFINITY, greater), greater)
}

/// Roundings on the way of one element into a sum of `n`: what tests derive tolerances from.
#[cfg(test)]
pub(crate) fn sum_roundings(n: usize) -> f64 {
    (n.div_ceil(LANES) + LANES.ilog2() as usize) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ulps(got: f32, want: f64) -> f64 {
        let rounded = want as f32;
        let ulp = f64::from(f32::from_bits(rounded.to_bits() + 1)) - f64::from(rounded);
        (f64::from(got) - want).abs() / ulp
    }

    #[test]
    fn exp_is_within_two_ulp_over_its_range() {
        let mut worst = [0.0f64; 2];
        for bits in (0..0x7f80_0000u32).step_by(997) {
            for x in [f32::from_bits(bits), -f32::from_bits(bits)] {
                let want = f64::from(x).exp();
                if (want as f32).is_infinite() || want < 2f64.powf(-125.49) {
                    continue;
                }
                worst[0] = worst[0].max(ulps(exp::<false>(x), want));
                worst[1] = worst[1].max(ulps(exp::<true>(x), want));
            }
        }
        assert!(worst[0] <= 2.0 && worst[1] <= 2.0, "{worst:?}");
    }

    #[test]
    fn exp_is_right_at_the_edges() {
        fn check<const FMA: bool>() {
            assert_eq!(exp::<FMA>(0.0), 1.0);
            assert_eq!(exp::<FMA>(-0.0), 1.0);
            assert_eq!(exp::<FMA>(f32::NEG_INFINITY).to_bits(), 0);
            assert_eq!(exp::<FMA>(-88.0).to_bits(), 0);
            assert_eq!(exp::<FMA>(f32::MIN).to_bits(), 0);
            assert_eq!(exp::<FMA>(f32::INFINITY), f32::INFINITY);
            assert_eq!(exp::<FMA>(f32::MAX), f32::INFINITY);
            assert_eq!(exp::<FMA>(88.722_84), f32::INFINITY);
            assert!(exp::<FMA>(88.722_83).is_finite());
            for nan in [0x7fc0_0000, 0xffc0_0000, 0x7f80_0001, 0xffff_ffff] {
                assert!(exp::<FMA>(f32::from_bits(nan)).is_nan());
            }
        }
        check::<false>();
        check::<true>();
    }

    #[test]
    fn ln_agrees_with_the_standard_library() {
        let mut x = 1e-320;
        while x < 1e308 {
            let (got, want) = (ln(x), x.ln());
            assert!((got - want).abs() <= 4e-16 * want.abs().max(1.0), "ln({x}) = {got}");
            x *= 1.013;
        }
        assert_eq!(ln(1.0), 0.0);
        assert_eq!(ln(0.0), f64::NEG_INFINITY);
        assert_eq!(ln(f64::INFINITY), f64::INFINITY);
        assert!(ln(-1.0).is_nan() && ln(f64::NAN).is_nan());
    }

    #[test]
    fn lanes_hold_every_element_once() {
        for n in 0..200 {
            let x: Vec<f32> = (1..=n).map(|i| i as f32).collect();
            assert_eq!(sum_by(&x, |sum, x| sum + x), (n * (n + 1) / 2) as f32);
            assert_eq!(maximum(&x), if n == 0 { f32::NEG_INFINITY } else { n as f32 });
        }
    }
}
