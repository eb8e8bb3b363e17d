//! Softmax of one row of a block: its greatest score, and weights against it.

use crate::lanes::Lanes;

/// Hides the scores from `seen` on; the greatest of the others, NaN if there are only NaN.
///
/// # Safety
///
/// The contract of `Lanes`.
#[inline(always)]
pub(super) unsafe fn peak<L: Lanes>(s: &mut [f32], seen: usize) -> f32 {
    if seen < s.len() {
        s[seen..].fill(f32::NEG_INFINITY);
    }
    // SAFETY: the caller's contract; each chunk is sixteen f32.
    let peaks = unsafe {
        let mut peaks = L::splat(f32::NEG_INFINITY);
        for s in s.as_chunks::<16>().0 {
            peaks = L::max(peaks, L::load(s.as_ptr()));
        }
        L::greatest(peaks)
    };
    // All hidden; or NaN, which must not pass for hidden.
    if peaks == f32::NEG_INFINITY && seen > 0 { f32::NAN } else { peaks }
}

/// Scores to weights e^(s - m); returns their sum. `factor` is log2 e times what a score counts.
///
/// # Safety
///
/// The contract of `Lanes`.
#[inline(always)]
pub(super) unsafe fn weigh<L: Lanes>(s: &mut [f32], m: f32, factor: f32) -> f32 {
    // SAFETY: the caller's contract; each chunk is sixteen f32.
    unsafe {
        let (m, factor, mut sum) = (L::splat(m), L::splat(factor), L::splat(0.0));
        for s in s.as_chunks_mut::<16>().0 {
            let e = exp2::<L>(L::mul(L::sub(L::load(s.as_ptr()), m), factor));
            sum = L::add(sum, e);
            L::store(s.as_mut_ptr(), e);
        }
        L::sum(sum)
    }
}

/// 2^x for x <= 0 within 4 ulp, exact at 0; results below 2^-125.5 are 0; NaN stays NaN.
///
/// As `math::exp`: x = n + r with |r| <= 1/2, 2 2^r by a polynomial (least greatest relative error with
/// its first term fixed: 9e-8), times 2^(n-1), whose exponent is what adding `SHIFT` leaves in the lowest bits.
///
/// # Safety
///
/// The contract of `Lanes`.
#[inline(always)]
pub(crate) unsafe fn exp2<L: Lanes>(x: L::F) -> L::F {
    const SHIFT: f32 = 12_582_912.0 + 126.0; // 1.5 * 2^23: ulp 1; bias 127, less one
    const C: [f32; 6] =
        [2.0, 1.386_294, 0.480_444_85, 0.111_014_67, 0.019_343_026, 0.002_652_945_5];
    // SAFETY: the caller's contract.
    unsafe {
        let x = L::max(x, L::splat(-126.0));
        let shifted = L::add(x, L::splat(SHIFT));
        let r = L::sub(x, L::sub(shifted, L::splat(SHIFT)));
        let mut sum = L::splat(C[5]);
        for c in [C[4], C[3], C[2], C[1], C[0]] {
            sum = L::fma(sum, r, L::splat(c));
        }
        L::mul(sum, L::to_exponent(shifted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::Plain;

    #[test]
    fn exp2_is_within_four_ulp_below_zero() {
        // SAFETY: plain lanes run anywhere.
        let exp2 = |x: f32| unsafe { exp2::<Plain>([x; 16])[0] };
        for bits in (0..125.4f32.to_bits()).step_by(9973) {
            let x = -f32::from_bits(bits);
            let want = f64::from(x).exp2();
            let ulp = f64::from((want as f32).next_up()) - f64::from(want as f32);
            let off = (f64::from(exp2(x)) - want).abs() / ulp;
            assert!(off <= 4.0, "2^{x} is off by {off} ulp");
        }
        assert_eq!(exp2(0.0), 1.0);
        assert_eq!(exp2(f32::NEG_INFINITY).to_bits(), 0);
        assert!(exp2(f32::NAN).is_nan());
    }
}
