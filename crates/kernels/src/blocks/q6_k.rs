//! Q6_K: 256 weights of six bits, -32..=31; 16 sub-blocks with a signed scale of eight bits.

use super::q2_k::{decode_pairs, encode_pairs};
use super::{Plain, fit, float, simple::concat};

/// 128 bytes of low nibbles, 64 bytes of high pairs, 16 signed scales, d.
pub(super) fn decode(block: &[u8; 210], plain: &mut Plain) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let d = float::scale([rest[16], rest[17]]);
    for (scale, &field) in plain.scales.iter_mut().zip(rest) {
        *scale = d * f32::from(field as i8);
    }
    plain.mins = [-0.0; 16];
    decode_pairs(high.try_into().expect("64 bytes were split off"), &mut plain.codes);
    let halves = plain.codes.as_chunks_mut::<128>().0.iter_mut();
    for (codes, low) in halves.zip(low.as_chunks::<64>().0) {
        for (l, &low) in low.iter().enumerate() {
            codes[l] = (codes[l] << 4 | (low & 15) as i8) - 32;
            codes[l + 64] = (codes[l + 64] << 4 | (low >> 4) as i8) - 32;
        }
    }
}

/// Encodes by [`fit::linear`].
pub(super) fn encode(x: &[f32; 256]) -> Option<[u8; 210]> {
    let fit = fit::linear::<16, 16>(x, (-32.0, 31.0), (-128.0, 127.0))?;
    let code = |i: usize| (fit.codes[i] + 32) as u8;
    let low: [u8; 128] = std::array::from_fn(|byte| {
        let first = 128 * (byte / 64) + byte % 64;
        code(first) & 15 | code(first + 64) << 4
    });
    let high = encode_pairs(|i| code(i) >> 4);
    Some(concat([&low, &high, &fit.scales.map(|scale| scale as u8), &fit.d]))
}
