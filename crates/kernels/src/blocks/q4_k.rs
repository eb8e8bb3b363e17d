//! Q4_K and Q5_K: 256 weights of four or five bits; 8 sub-blocks with six bits each for scale and
//! minimum.

use super::{Plain, fit, float, simple::concat};

/// d, dmin, 12 bytes of scales and mins, 128 bytes of codes.
pub(super) fn decode_q4_k(block: &[u8; 144], plain: &mut Plain) {
    let (head, qs) = block.split_at(16);
    decode_fields(head.try_into().expect("16 bytes were split off"), plain);
    decode_nibbles(qs.try_into().expect("144 - 16 bytes"), &mut plain.codes);
}

/// As Q4_K, with 32 bytes of fifth bits before the codes: bit k of byte l is code 32 k + l's.
pub(super) fn decode_q5_k(block: &[u8; 176], plain: &mut Plain) {
    let (head, rest) = block.split_at(16);
    let (high, qs) = rest.split_at(32);
    decode_fields(head.try_into().expect("16 bytes were split off"), plain);
    decode_nibbles(qs.try_into().expect("176 - 48 bytes"), &mut plain.codes);
    for (k, codes) in plain.codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (code, &high) in codes.iter_mut().zip(high) {
            *code |= ((high >> k & 1) << 4) as i8;
        }
    }
}

/// Scales and mins 0..4 are the low six bits of bytes 0..4 and 4..8; those from 4 on have their
/// low four bits in the nibbles of bytes 8..12 and their high two atop bytes 0..4 and 4..8.
fn decode_fields(head: &[u8; 16], plain: &mut Plain) {
    let [d0, d1, m0, m1, b @ ..] = head;
    let (d, dmin) = (float::scale([*d0, *d1]), float::scale([*m0, *m1]));
    for j in 0..4 {
        let (scale, min, nibbles) = (b[j], b[4 + j], b[8 + j]);
        plain.scales[j] = d * f32::from(scale & 63);
        plain.mins[j] = -(dmin * f32::from(min & 63));
        plain.scales[j + 4] = d * f32::from(nibbles & 15 | scale >> 6 << 4);
        plain.mins[j + 4] = -(dmin * f32::from(nibbles >> 4 | min >> 6 << 4));
    }
}

/// 32 bytes hold 64 codes: the low nibbles the first 32, the high ones the next.
fn decode_nibbles(qs: &[u8; 128], codes: &mut [i8; 256]) {
    for (qs, codes) in qs.as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<64>().0) {
        for (l, &q) in qs.iter().enumerate() {
            codes[l] = (q & 15) as i8;
            codes[l + 32] = (q >> 4) as i8;
        }
    }
}

/// Encodes by [`fit::affine`].
pub(super) fn encode_q4_k(x: &[f32; 256]) -> Option<[u8; 144]> {
    let fit = fit::affine::<8, 32>(x, 15.0, 63.0)?;
    Some(concat([&fit.d, &fit.dmin, &encode_fields(&fit), &encode_nibbles(&fit.codes)]))
}

/// Encodes by [`fit::affine`].
pub(super) fn encode_q5_k(x: &[f32; 256]) -> Option<[u8; 176]> {
    let fit = fit::affine::<8, 32>(x, 31.0, 63.0)?;
    let high: [u8; 32] =
        std::array::from_fn(|l| (0..8).fold(0, |bits, k| bits | fit.codes[32 * k + l] >> 4 << k));
    Some(concat([&fit.d, &fit.dmin, &encode_fields(&fit), &high, &encode_nibbles(&fit.codes)]))
}

/// The inverse of [`decode_fields`].
fn encode_fields(fit: &fit::Affine<8>) -> [u8; 12] {
    let mut b = [0; 12];
    for j in 0..4 {
        b[j] = fit.scales[j] | fit.scales[j + 4] >> 4 << 6;
        b[4 + j] = fit.mins[j] | fit.mins[j + 4] >> 4 << 6;
        b[8 + j] = fit.scales[j + 4] & 15 | fit.mins[j + 4] << 4;
    }
    b
}

/// The inverse of [`decode_nibbles`] for the low four bits of the codes.
fn encode_nibbles(codes: &[u8; 256]) -> [u8; 128] {
    std::array::from_fn(|byte| {
        let first = 64 * (byte / 32) + byte % 32;
        codes[first] & 15 | codes[first + 32] << 4
    })
}
