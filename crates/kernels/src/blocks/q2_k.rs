//! Q2_K: 256 weights of two bits; 16 sub-blocks with four bits each for scale and minimum.

use super::{Plain, fit, float, simple::concat};

/// 16 bytes of scale (low nibble) and min (high), 64 bytes of codes, d, dmin.
pub(super) fn decode(block: &[u8; 84], plain: &mut Plain) {
    let [fields @ .., d0, d1, m0, m1] = block;
    let (fields, qs) = fields.split_at(16);
    let (d, dmin) = (float::scale([*d0, *d1]), float::scale([*m0, *m1]));
    for (s, &field) in fields.iter().enumerate() {
        plain.scales[s] = d * f32::from(field & 15);
        plain.mins[s] = -(dmin * f32::from(field >> 4));
    }
    decode_pairs(qs.try_into().expect("84 - 16 - 4 bytes"), &mut plain.codes);
}

/// 64 bytes of two-bit codes: 32 bytes hold bits 0-1 of 32 codes, bits 2-3 of the next 32, ...
pub(super) fn decode_pairs(qs: &[u8; 64], codes: &mut [i8; 256]) {
    for (run, codes) in codes.as_chunks_mut::<128>().0.iter_mut().enumerate() {
        for (plane, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (l, code) in codes.iter_mut().enumerate() {
                *code = (qs[32 * run + l] >> (2 * plane) & 3) as i8;
            }
        }
    }
}

/// The inverse of [`decode_pairs`].
pub(super) fn encode_pairs(code: impl Fn(usize) -> u8) -> [u8; 64] {
    std::array::from_fn(|byte| {
        let first = 128 * (byte / 32) + byte % 32;
        (0..4).fold(0, |bits, plane| bits | code(first + 32 * plane) << (2 * plane))
    })
}

/// Encodes by [`fit::affine`].
pub(super) fn encode(x: &[f32; 256]) -> Option<[u8; 84]> {
    let fit = fit::affine::<16, 16>(x, 3.0, 15.0)?;
    let fields: [u8; 16] = std::array::from_fn(|s| fit.scales[s] | fit.mins[s] << 4);
    let qs = encode_pairs(|i| fit.codes[i]);
    Some(concat([&fields, &qs, &fit.d, &fit.dmin]))
}
