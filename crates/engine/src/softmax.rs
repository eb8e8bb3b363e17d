//! Log-probabilities of a row of logits, with the same bits on every machine.
//!
//! `exp` and `ln` of the system's library differ in the last bit from version to version; these
//! two use only additions, products and one division in a written order, so they do not.

/// The log-probability of one token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogProb {
    /// The token.
    pub id: u32,
    /// Natural logarithm of its probability.
    pub log_prob: f64,
}

/// ln(sum of exp(x)) over the row: `x - log_normaliser(row)` is the log-probability of x.
///
/// `logits_v` holds V logits. The sum is in f64, in a fixed order. A row of only -inf gives -inf, a row
/// with NaN or +inf gives NaN.
///
/// ```
/// let z = herd_engine::softmax::log_normaliser(&[0.0, 0.0]);
/// assert!((z - 2f64.ln()).abs() < 1e-15);
/// ```
pub fn log_normaliser(logits_v: &[f32]) -> f64 {
    let max = greatest(logits_v);
    if max == f32::NEG_INFINITY && !logits_v.iter().any(|x| x.is_nan()) {
        return f64::NEG_INFINITY;
    }
    f64::from(max) + ln(sum_exp(logits_v, max, 1.0))
}

/// The log-probability of token `id` under the row. Panics if `id` is outside it.
pub fn log_prob(logits_v: &[f32], id: u32) -> f64 {
    f64::from(logits_v[id as usize]) - log_normaliser(logits_v)
}

/// The greatest of a row, NaN passed over: sixteen running ones, so that they become vectors.
pub(crate) fn greatest(row: &[f32]) -> f32 {
    let greater = |a: f32, b: f32| if b > a { b } else { a };
    let (blocks, tail) = row.as_chunks::<16>();
    let mut most = [f32::NEG_INFINITY; 16];
    for block in blocks {
        most.iter_mut().zip(block).for_each(|(a, &b)| *a = greater(*a, b));
    }
    most.into_iter().chain(tail.iter().copied()).fold(f32::NEG_INFINITY, greater)
}

/// Sum of exp((x - max) * scale) over a row, in f64: eight running sums, added up in order.
pub(crate) fn sum_exp(row: &[f32], max: f32, scale: f64) -> f64 {
    let max = f64::from(max);
    let (blocks, tail) = row.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for block in blocks {
        for (sum, &x) in sums.iter_mut().zip(block) {
            *sum += exp((f64::from(x) - max) * scale);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(tail) {
        *sum += exp((f64::from(x) - max) * scale);
    }
    sums.iter().sum()
}

const LN2_HIGH: f64 = f64::from_bits(0x3fe6_2e42_fee0_0000); // 32 bits: k * LN2_HIGH is exact
const LN2_LOW: f64 = f64::from_bits(0x3dea_39ef_3579_3c76); // ln 2 - LN2_HIGH

/// e^x for x up to 700; 0 below -708, where the result would not be a normal number.
///
/// x = k ln 2 + r, |r| <= ln 2 / 2; the Taylor polynomial of degree 13 errs by less than 1e-17
/// relative, so rounding rules: within 2 units in the last place. No branches, so loops of it
/// become vector code.
pub(crate) fn exp(x: f64) -> f64 {
    // Adding 1.5 * 2^52 rounds to a whole number and leaves it in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    const C: [f64; 12] = [
        1.0 / 6_227_020_800.0,
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        1.0 / 2.0,
    ];
    let shifted = x * std::f64::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    let r = (x - k * LN2_HIGH) - k * LN2_LOW;
    let tail = C.iter().fold(0.0, |sum, c| sum * r + c);
    let power = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52));
    let y = (1.0 + (r + r * r * tail)) * power;
    if x < -708.0 { 0.0 } else { y }
}

/// Natural logarithm of a positive normal number; NaN stays NaN.
///
/// x = 2^k m, m in [sqrt(1/2), sqrt(2)); ln m = 2 artanh(s), s = (m - 1) / (m + 1), |s| < 0.172:
/// the eleven terms kept err by less than 1e-18.
pub(crate) fn ln(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    const SQRT_HALF: u64 = 0x3fe6_a09e_667f_3bcd;
    let k = ((x.to_bits().wrapping_sub(SQRT_HALF)) as i64) >> 52;
    let m = f64::from_bits(x.to_bits().wrapping_sub((k << 52) as u64));
    let s = (m - 1.0) / (m + 1.0);
    let s2 = s * s;
    let tail = (1..=10).rev().fold(0.0, |sum, n| (sum + 1.0 / f64::from(2 * n + 1)) * s2);
    let k = k as f64;
    k * LN2_HIGH + (k * LN2_LOW + (2.0 * s + 2.0 * s * tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_and_ln_agree_with_the_library() {
        for i in 0..=200_000 {
            let x = -f64::from(i) * 0.0035;
            let (got, wanted) = (exp(x), x.exp());
            assert!((got - wanted).abs() <= 4.5e-16 * wanted, "exp({x}) = {got}, not {wanted}");
            let x = 1e-3 + f64::from(i) * 1.37;
            let (got, wanted) = (ln(x), x.ln());
            assert!((got - wanted).abs() <= 4.5e-16 * wanted.abs().max(1e-2), "ln({x}) = {got}");
        }
        assert_eq!((exp(0.0), exp(f64::NEG_INFINITY), ln(1.0)), (1.0, 0.0, 0.0));
    }

    #[test]
    fn probabilities_add_up_to_one_for_every_length() {
        for n in 1..40 {
            let row: Vec<f32> = (0..n).map(|i| ((i * 37) % 11) as f32 - 5.0).collect();
            let sum: f64 = (0..n).map(|id| log_prob(&row, id as u32).exp()).sum();
            assert!((sum - 1.0).abs() < 1e-14, "n = {n}: {sum}");
        }
    }

    #[test]
    fn rows_without_a_finite_logit_are_told_apart() {
        assert_eq!(log_normaliser(&[f32::NEG_INFINITY; 3]), f64::NEG_INFINITY);
        assert!(log_normaliser(&[0.0, f32::NAN]).is_nan());
        assert!(log_normaliser(&[0.0, f32::INFINITY]).is_nan());
        assert_eq!(log_normaliser(&[]), f64::NEG_INFINITY);
    }
}
