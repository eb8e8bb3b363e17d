//! Q3_K: 256 weights of three bits, -4..=3; 16 sub-blocks with a signed scale of six bits.

use super::q2_k::{decode_pairs, encode_pairs};
use super::{Plain, fit, float, simple::concat};

/// 32 bytes of high bits (bit k of byte l belongs to code 32 k + l; clear means less 4), 64 bytes
/// of low pairs, 12 bytes of scales (plus 32), d.
pub(super) fn decode(block: &[u8; 110], plain: &mut Plain) {
    let (high, rest) = block.split_at(32);
    let (qs, rest) = rest.split_at(64);
    let d = float::scale([rest[12], rest[13]]);
    for j in 0..8 {
        let (low, high) = (rest[j], rest[8 + j % 4] >> (2 * (j / 4)));
        let (first, second) = (low & 15 | (high & 3) << 4, low >> 4 | (high >> 4 & 3) << 4);
        plain.scales[j] = d * (f32::from(first) - 32.0);
        plain.scales[j + 8] = d * (f32::from(second) - 32.0);
    }
    plain.mins = [-0.0; 16];
    decode_pairs(qs.try_into().expect("64 bytes were split off"), &mut plain.codes);
    for (k, codes) in plain.codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (code, &high) in codes.iter_mut().zip(high) {
            *code += ((high >> k & 1) << 2) as i8 - 4;
        }
    }
}

/// Encodes by [`fit::linear`].
pub(super) fn encode(x: &[f32; 256]) -> Option<[u8; 110]> {
    let fit = fit::linear::<16, 16>(x, (-4.0, 3.0), (-32.0, 31.0))?;
    let code = |i: usize| (fit.codes[i] + 4) as u8;
    let high: [u8; 32] =
        std::array::from_fn(|l| (0..8).fold(0, |bits, k| bits | code(32 * k + l) >> 2 << k));
    let qs = encode_pairs(|i| code(i) & 3);
    let mut scales = [0; 12];
    for (j, scale) in fit.scales.iter().enumerate() {
        let field = (scale + 32) as u8;
        scales[j % 8] |= (field & 15) << (4 * (j / 8));
        scales[8 + j % 4] |= field >> 4 << (2 * (j / 4));
    }
    Some(concat([&high, &qs, &scales, &fit.d]))
}
