//! The definition of every layout: one weight of one block, straight from `docs/formats.md`.

use half::{bf16, f16};

use crate::Format;

/// The sixteen values of IQ4_NL: steps that are fine near zero and coarse at the ends.
pub const IQ4_NL_VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Weight `i` of one block. Slow; the specification of [`super::unpack`].
///
/// Panics if `block` is not one block of `format` or `i` is beyond it.
pub fn value(format: Format, block: &[u8], i: usize) -> f32 {
    assert_eq!(block.len(), format.block_bytes(), "{}: not one block", format.name());
    assert!(i < format.block_len(), "{}: a block has no weight {i}", format.name());
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    match format {
        Format::F32 => f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
        Format::F16 => half(0),
        Format::BF16 => bf16::from_le_bytes([block[0], block[1]]).to_f32(),
        Format::Q4_0 => half(0) * (nibble(&block[2..], i) - 8) as f32,
        Format::Q4_1 => half(0) * nibble(&block[4..], i) as f32 + half(2),
        Format::Q5_0 => half(0) * (nibble(&block[6..], i) + 16 * bit(&block[2..], i) - 16) as f32,
        Format::Q5_1 => {
            half(0) * (nibble(&block[8..], i) + 16 * bit(&block[4..], i)) as f32 + half(2)
        }
        Format::Q8_0 => half(0) * f32::from(block[2 + i] as i8),
        Format::IQ4_NL => half(0) * f32::from(IQ4_NL_VALUES[nibble(&block[2..], i) as usize]),
        Format::Q2_K => {
            let byte = i32::from(block[i / 16]);
            let q = bits(&block[16..], 2, i);
            half(80) * (byte & 15) as f32 * q as f32 - half(82) * (byte >> 4) as f32
        }
        Format::Q3_K => {
            let high = i32::from(block[i % 32]) >> (i / 32) & 1;
            let q = bits(&block[32..], 2, i) + 4 * high - 4;
            half(108) * (q3_k_scale(&block[96..], i / 16) - 32) as f32 * q as f32
        }
        Format::Q4_K => {
            let (scale, min) = q4_k_scale(&block[4..], i / 32);
            let q = bits(&block[16..], 4, i);
            half(0) * scale as f32 * q as f32 - half(2) * min as f32
        }
        Format::Q5_K => {
            let (scale, min) = q4_k_scale(&block[4..], i / 32);
            let high = i32::from(block[16 + i % 32]) >> (i / 32) & 1;
            let q = bits(&block[48..], 4, i) + 16 * high;
            half(0) * scale as f32 * q as f32 - half(2) * min as f32
        }
        Format::Q6_K => {
            let (half_block, l) = (i / 128, i % 128);
            let low = i32::from(block[64 * half_block + l % 64]) >> (4 * (l / 64)) & 15;
            let high = bits(&block[128..], 2, i);
            let scale = f32::from(block[192 + i / 16] as i8);
            half(208) * scale * (low + 16 * high - 32) as f32
        }
    }
}

/// Code `i` of 32: the low nibbles of 16 bytes come first, then the high ones.
fn nibble(qs: &[u8], i: usize) -> i32 {
    i32::from(qs[i % 16]) >> (4 * (i / 16)) & 15
}

/// Bit `i` of a little-endian word.
fn bit(word: &[u8], i: usize) -> i32 {
    i32::from(word[i / 8]) >> (i % 8) & 1
}

/// Code `i` of `width` bits where each run of 32 bytes holds the lowest bits of its first 32
/// codes, then the next bits of the next 32, and so on.
fn bits(qs: &[u8], width: usize, i: usize) -> i32 {
    let planes = 8 / width;
    let (run, plane, byte) = (i / (32 * planes), i / 32 % planes, i % 32);
    i32::from(qs[32 * run + byte]) >> (width * plane) & ((1 << width) - 1)
}

/// Q3_K's scale `j` of 16: four low bits in bytes 0..8, two high bits in bytes 8..12.
fn q3_k_scale(b: &[u8], j: usize) -> i32 {
    let low = i32::from(b[j % 8]) >> (4 * (j / 8)) & 15;
    let high = i32::from(b[8 + j % 4]) >> (2 * (j / 4)) & 3;
    low + 16 * high
}

/// The scale and min `j` of 8 in Q4_K and Q5_K: the first four lie whole in the low six bits of
/// bytes 0..8; the others have four bits in bytes 8..12 and two atop the first four.
fn q4_k_scale(b: &[u8], j: usize) -> (i32, i32) {
    let b = |i: usize| i32::from(b[i]);
    if j < 4 {
        (b(j) & 63, b(j + 4) & 63)
    } else {
        ((b(j + 4) & 15) + 16 * (b(j - 4) >> 6), (b(j + 4) >> 4) + 16 * (b(j) >> 6))
    }
}
