//! IQ4_NL: 32 weights, each one of sixteen unevenly spaced values, times one scale.

use super::simple::{concat, encode_nibbles};
use super::{Plain, fit, float, naive::IQ4_NL_VALUES};

/// d, then 16 bytes of nibbles in the order of Q4_0.
pub(super) fn decode(block: &[u8; 18], plain: &mut Plain) {
    let [d0, d1, qs @ ..] = block;
    (plain.scales[0], plain.mins[0]) = (float::scale([*d0, *d1]), -0.0);
    for (j, &q) in qs.iter().enumerate() {
        plain.codes[j] = IQ4_NL_VALUES[usize::from(q & 15)];
        plain.codes[j + 16] = IQ4_NL_VALUES[usize::from(q >> 4)];
    }
}

/// Encodes by [`fit::table`].
pub(super) fn encode(x: &[f32; 32]) -> Option<[u8; 18]> {
    let (d, codes) = fit::table(x, &IQ4_NL_VALUES)?;
    Some(concat([&d, &encode_nibbles(codes)]))
}
