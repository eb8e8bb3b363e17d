//! Half-precision floats as bits: f16 (IEEE binary16) and bf16 (the upper half of an f32).

use half::{bf16, f16};

/// Reads numbers of `BYTES` bytes each.
pub(super) fn unpack<const BYTES: usize>(
    packed: &[u8],
    out: &mut [f32],
    read: impl Fn([u8; BYTES]) -> f32,
) {
    for (out, &bytes) in out.iter_mut().zip(packed.as_chunks().0) {
        *out = read(bytes);
    }
}

/// The f32 equal to these f16 bits; a NaN keeps its payload.
///
/// Without branches and without subnormal f32s, so that a loop over it runs in vectors: a
/// subnormal f16 is m * 2^-24, which is (2^-14 + m * 2^-24) - 2^-14, and the first term is a
/// normal f32 that has m as its upper bits.
#[inline(always)]
pub(super) fn f16_to_f32(bits: u16) -> f32 {
    const REBIAS: u32 = (127 - 15) << 23;
    const SMALLEST_NORMAL: u32 = (127 - 14) << 23; // 2^-14
    let (sign, rest) = (u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7fff) << 13);
    let exponent = bits & 0x7c00;
    let subnormal = f32::from_bits(SMALLEST_NORMAL | rest) - f32::from_bits(SMALLEST_NORMAL);
    let magnitude = if exponent == 0 { subnormal.to_bits() } else { rest + REBIAS };
    let special = if exponent == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(sign | magnitude | special)
}

/// The f32 equal to these bf16 bits.
#[inline(always)]
pub(super) fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The nearest f16 (ties to even), or `None` if that is infinite.
pub(super) fn f16_bytes(x: f32) -> Option<[u8; 2]> {
    Some(f16::from_f32(x)).filter(|h| h.is_finite()).map(f16::to_le_bytes)
}

/// The nearest bf16 (ties to even), or `None` if that is infinite.
pub(super) fn bf16_bytes(x: f32) -> Option<[u8; 2]> {
    Some(bf16::from_f32(x)).filter(|h| h.is_finite()).map(bf16::to_le_bytes)
}

/// The f16 in a block's header, as f32.
#[inline(always)]
pub(super) fn scale(bytes: [u8; 2]) -> f32 {
    f16_to_f32(u16::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_widens_to_its_equal() {
        for bits in 0..=u16::MAX {
            let (got, expected) = (f16_to_f32(bits), f16::from_bits(bits));
            if expected.is_nan() {
                assert!(got.is_nan(), "{bits:#06x}");
            } else {
                assert_eq!(got.to_bits(), expected.to_f32_const().to_bits(), "{bits:#06x}");
            }
        }
    }

    #[test]
    fn numbers_beyond_the_largest_half_are_refused() {
        assert_eq!(f16_bytes(65_504.0), Some([0xff, 0x7b]));
        assert_eq!(f16_bytes(65_520.0), None);
        assert_eq!(bf16_bytes(f32::MAX), None);
    }
}
