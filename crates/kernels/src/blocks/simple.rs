//! The formats with one scale (and perhaps one minimum) for 32 weights: Q4_0 Q4_1 Q5_0 Q5_1 Q8_0.
//!
//! The encoders repeat the arithmetic of the `gguf` package in its order: their bytes are equal. (One
//! sign is not: where the minimum is both 0.0 and -0.0, the first counts here, as in llama.cpp.)

use super::{Plain, float, largest};

/// d, then 16 bytes of nibbles.
pub(super) fn decode_q4_0(block: &[u8; 18], plain: &mut Plain) {
    let [d0, d1, qs @ ..] = block;
    (plain.scales[0], plain.mins[0]) = (float::scale([*d0, *d1]), -0.0);
    decode_nibbles(qs, &mut plain.codes, 8);
}

/// d, m, then 16 bytes of nibbles.
pub(super) fn decode_q4_1(block: &[u8; 20], plain: &mut Plain) {
    let [d0, d1, m0, m1, qs @ ..] = block;
    (plain.scales[0], plain.mins[0]) = (float::scale([*d0, *d1]), float::scale([*m0, *m1]));
    decode_nibbles(qs, &mut plain.codes, 0);
}

/// d, 32 fifth bits, then 16 bytes of nibbles.
pub(super) fn decode_q5_0(block: &[u8; 22], plain: &mut Plain) {
    let [d0, d1, h0, h1, h2, h3, qs @ ..] = block;
    (plain.scales[0], plain.mins[0]) = (float::scale([*d0, *d1]), -0.0);
    decode_nibbles(qs, &mut plain.codes, 16);
    add_fifth_bits([*h0, *h1, *h2, *h3], &mut plain.codes);
}

/// d, m, 32 fifth bits, then 16 bytes of nibbles.
pub(super) fn decode_q5_1(block: &[u8; 24], plain: &mut Plain) {
    let [d0, d1, m0, m1, h0, h1, h2, h3, qs @ ..] = block;
    (plain.scales[0], plain.mins[0]) = (float::scale([*d0, *d1]), float::scale([*m0, *m1]));
    decode_nibbles(qs, &mut plain.codes, 0);
    add_fifth_bits([*h0, *h1, *h2, *h3], &mut plain.codes);
}

/// d, then 32 signed bytes.
pub(super) fn decode_q8_0(block: &[u8; 34], plain: &mut Plain) {
    let [d0, d1, qs @ ..] = block;
    (plain.scales[0], plain.mins[0]) = (float::scale([*d0, *d1]), -0.0);
    for (code, &q) in plain.codes.iter_mut().zip(qs) {
        *code = q as i8;
    }
}

/// The low nibbles are codes 0..16, the high ones 16..32, all less `zero`.
fn decode_nibbles(qs: &[u8; 16], codes: &mut [i8; 256], zero: i8) {
    for (j, &q) in qs.iter().enumerate() {
        codes[j] = (q & 15) as i8 - zero;
        codes[j + 16] = (q >> 4) as i8 - zero;
    }
}

/// Adds 16 to code j where bit j is set.
fn add_fifth_bits(bits: [u8; 4], codes: &mut [i8; 256]) {
    for (byte, codes) in bits.iter().zip(codes.as_chunks_mut::<8>().0) {
        for (j, code) in codes.iter_mut().enumerate() {
            *code += if byte & 1 << j != 0 { 16 } else { 0 };
        }
    }
}

/// d maps the largest number to code -8; `None` if d overflows f16, here and below.
pub(super) fn encode_q4_0(x: &[f32; 32]) -> Option<[u8; 18]> {
    let d = x[largest(x)] / -8.0;
    let inverse = inverse(d);
    let q = x.map(|x| ((x * inverse + 8.5) as u8).min(15));
    Some(concat([&float::f16_bytes(d)?, &encode_nibbles(q)]))
}

/// d and m span the numbers from the smallest to the largest.
pub(super) fn encode_q4_1(x: &[f32; 32]) -> Option<[u8; 20]> {
    let (d, m, q) = span(x, 15);
    Some(concat([&float::f16_bytes(d)?, &float::f16_bytes(m)?, &encode_nibbles(q)]))
}

/// d maps the largest number to code -16.
pub(super) fn encode_q5_0(x: &[f32; 32]) -> Option<[u8; 22]> {
    let d = x[largest(x)] / -16.0;
    let inverse = inverse(d);
    let q = x.map(|x| ((x * inverse + 16.5) as u8).min(31));
    Some(concat([&float::f16_bytes(d)?, &fifth_bits(q), &encode_nibbles(q)]))
}

/// d and m span the numbers from the smallest to the largest.
pub(super) fn encode_q5_1(x: &[f32; 32]) -> Option<[u8; 24]> {
    let (d, m, q) = span(x, 31);
    Some(concat([&float::f16_bytes(d)?, &float::f16_bytes(m)?, &fifth_bits(q), &encode_nibbles(q)]))
}

/// d maps the largest number to code 127 or -127; codes round half away from zero.
pub(super) fn encode_q8_0(x: &[f32; 32]) -> Option<[u8; 34]> {
    let d = x[largest(x)].abs() / 127.0;
    let inverse = inverse(d);
    let q = x.map(|x| (x * inverse).round() as i8 as u8);
    Some(concat([&float::f16_bytes(d)?, &q]))
}

/// Step, minimum and codes 0..=top for numbers between their minimum and maximum.
fn span(x: &[f32; 32], top: u8) -> (f32, f32, [u8; 32]) {
    let (mut min, mut max) = (x[0], x[0]);
    for &x in x {
        min = if x < min { x } else { min };
        max = if x > max { x } else { max };
    }
    let d = (max - min) / f32::from(top);
    let inverse = inverse(d);
    (d, min, x.map(|x| (((x - min) * inverse + 0.5) as u8).min(top)))
}

/// 1 / d, or 0 where d is zero or so small that 1 / d is infinite (as f16 such a d is zero, so
/// the codes do not matter).
fn inverse(d: f32) -> f32 {
    Some(1.0 / d).filter(|inverse| inverse.is_finite()).unwrap_or(0.0)
}

/// The low four bits of 32 codes, as [`decode_nibbles`] reads them.
pub(super) fn encode_nibbles(q: [u8; 32]) -> [u8; 16] {
    std::array::from_fn(|j| q[j] & 15 | q[j + 16] << 4)
}

/// The fifth bits of 32 codes, as [`add_fifth_bits`] reads them.
fn fifth_bits(q: [u8; 32]) -> [u8; 4] {
    (0..32).fold(0, |bits, j| bits | u32::from(q[j] >> 4) << j).to_le_bytes()
}

/// Lays the parts of a block end to end. Panics if they do not fill it.
pub(super) fn concat<const BYTES: usize, const PARTS: usize>(parts: [&[u8]; PARTS]) -> [u8; BYTES] {
    let mut block = [0; BYTES];
    let mut at = 0;
    for part in parts {
        block[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    assert_eq!(at, BYTES, "the parts do not fill the block");
    block
}
