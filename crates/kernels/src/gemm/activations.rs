//! Activations laid out for multiplication: tiles of a few rows, columns outermost.
//!
//! Every number depends on its own row alone, so a row gives the same bits in any tile.

use super::layout::BLOCK;
use crate::lanes::bf16_bits;

/// Rows of a tile for the tile unit. In these, each row's share of a step of 32 columns (upper and
/// lower codes, or bf16) is 64 bytes that lie together.
pub(super) const TILE_ROWS: usize = crate::tiles::ROWS;

/// Words that one row takes in a tile of block activations, a block of 32 columns: eight words of
/// upper and eight of lower codes, two starting sums, the scale, two scaled sums.
pub(super) const BLOCK_WORDS: usize = 21;
/// Where the starting sums, the scale and the scaled sums stand among them.
pub(super) const STARTS: usize = 16;
/// The scale.
pub(super) const SCALE: usize = 18;
/// The scaled sums.
pub(super) const SUMS: usize = 19;
/// Bits of a lower code.
pub(super) const LOWER: i32 = 7;

/// Words that one row of `cols` columns takes in a tile.
pub(super) fn words(kind: Kind, cols: usize) -> usize {
    match kind {
        Kind::Floats => cols,
        Kind::Pairs => cols.div_ceil(2),
        Kind::PairTiles => cols.div_ceil(BLOCK) * BLOCK / 2,
        Kind::Codes { .. } => cols / BLOCK * BLOCK_WORDS,
    }
}

/// What a multiplication reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// f32 as it is.
    Floats,
    /// Two columns rounded to bf16 in one word.
    Pairs,
    /// The same for the tile unit: steps of 32 columns, each of 16 rows by 64 bytes.
    PairTiles,
    /// 8-bit codes, each block of 32 columns with its own scale.
    Codes { zero: i32, sub16: bool },
}

/// Lays the rows of `x`, `cols` long, into one tile of `rows` rows; rows that `x` lacks keep
/// what the tile held, or zero: their products are not stored.
///
/// Inlined into a function of each class, so that its loops become that class's vectors.
#[inline(always)]
pub(super) fn lay(tile: &mut [u32], x: &[f32], rows: usize, cols: usize, kind: Kind) {
    assert!(x.len() <= rows * cols, "activations: x is more than {rows} rows of {cols}");
    assert_eq!(tile.len(), rows * words(kind, cols), "activations: wrong tile");
    match kind {
        Kind::Floats => {
            for (t, row) in x.chunks_exact(cols).enumerate() {
                for (k, x) in row.iter().enumerate() {
                    tile[k * rows + t] = x.to_bits();
                }
            }
        }
        Kind::Pairs => {
            for (t, row) in x.chunks_exact(cols).enumerate() {
                // Sixteen pairs at a time are rounded in vectors, then spread.
                let (chunks, rest) = row.as_chunks::<32>();
                for (c, chunk) in chunks.iter().enumerate() {
                    let words: [u32; 16] = pairs(chunk);
                    for (j, word) in words.iter().enumerate() {
                        tile[(16 * c + j) * rows + t] = *word;
                    }
                }
                for (j, pair) in rest.chunks(2).enumerate() {
                    let high = if pair.len() == 2 { bf16_bits(pair[1]) } else { 0 };
                    tile[(16 * chunks.len() + j) * rows + t] = bf16_bits(pair[0]) | high << 16;
                }
            }
        }
        Kind::PairTiles => {
            for (t, row) in x.chunks_exact(cols).enumerate() {
                for (s, step) in row.chunks(BLOCK).enumerate() {
                    let mut padded = [0.0; BLOCK];
                    padded[..step.len()].copy_from_slice(step);
                    let words = &mut tile[(s * rows + t) * (BLOCK / 2)..][..BLOCK / 2];
                    for (word, pair) in words.iter_mut().zip(padded.as_chunks::<2>().0) {
                        *word = bf16_bits(pair[0]) | bf16_bits(pair[1]) << 16;
                    }
                }
            }
        }
        Kind::Codes { zero, sub16 } => {
            if rows == TILE_ROWS && x.len() < rows * cols {
                // The tile unit's kernel scales all rows: no number may be slow or not a number.
                tile.fill(0);
            }
            match rows {
                1 => lay_codes::<1>(tile, x, cols, zero, sub16),
                2 => lay_codes::<2>(tile, x, cols, zero, sub16),
                6 => lay_codes::<6>(tile, x, cols, zero, sub16),
                TILE_ROWS => lay_codes::<TILE_ROWS>(tile, x, cols, zero, sub16),
                _ => unreachable!("no tile of {rows} rows of codes"),
            }
        }
    }
}

/// Codes of the rows of `x` into a tile of R rows.
#[inline(always)]
fn lay_codes<const R: usize>(tile: &mut [u32], x: &[f32], cols: usize, zero: i32, sub16: bool) {
    for (t, row) in x.chunks_exact(cols).take(R).enumerate() {
        let (tile, _) = tile.as_chunks_mut::<R>().0.as_chunks_mut::<BLOCK_WORDS>();
        for (tile, block) in tile.iter_mut().zip(row.as_chunks::<BLOCK>().0) {
            let q = quantise(block);
            let sums = if sub16 { q.sums } else { [q.sums[0].wrapping_add(q.sums[1]), 0] };
            let mut words = [0; BLOCK_WORDS];
            for k in 0..8 {
                words[k] = word(&q.upper[4 * k..4 * k + 4]);
                words[8 + k] = word(&q.lower[4 * k..4 * k + 4]);
            }
            for s in 0..2 {
                words[STARTS + s] = zero.wrapping_mul(sums[s].wrapping_neg()) as u32;
                words[SUMS + s] = (q.scale * sums[s] as f32).to_bits();
            }
            words[SCALE] = q.scale.to_bits();
            let apart = if R == TILE_ROWS { STARTS } else { 0 };
            tile.as_flattened_mut()[t * apart..][..apart].copy_from_slice(&words[..apart]);
            for k in apart..BLOCK_WORDS {
                tile[k][t] = words[k];
            }
        }
    }
}

/// Sixteen words of two columns each.
#[inline(always)]
fn pairs(x: &[f32; 32]) -> [u32; 16] {
    let mut words = [0; 16];
    for (word, x) in words.iter_mut().zip(x.as_chunks::<2>().0) {
        *word = bf16_bits(x[0]) | bf16_bits(x[1]) << 16;
    }
    words
}

/// Four codes in one word, the first lowest.
#[inline(always)]
fn word(codes: &[i8]) -> u32 {
    u32::from_le_bytes([codes[0] as u8, codes[1] as u8, codes[2] as u8, codes[3] as u8])
}

/// Codes of 15 bits in two parts: 128 upper + lower, each a signed byte.
struct Quantised {
    upper: [i8; BLOCK],
    lower: [i8; BLOCK],
    /// The sum of the codes of each half.
    sums: [i32; 2],
    scale: f32,
}

/// x = scale * code with scale = max |x| / (127 * 128), codes rounded to nearest, ties to even.
///
/// Eight bits would do for a conversation, but cost 0.2 % of perplexity (docs/kernels.md).
/// A block with NaN or infinity has such a scale, and its products are NaN; its codes mean nothing,
/// so their sums may wrap.
#[inline(always)]
fn quantise(x: &[f32; BLOCK]) -> Quantised {
    const LARGEST: f32 = 127.0 * 128.0;
    // As integers the sizes of floats have the order of their bits, NaN above all.
    let mut peaks = [0u32; 16];
    for half in x.as_chunks::<16>().0 {
        for (p, x) in peaks.iter_mut().zip(half) {
            *p = (*p).max(x.to_bits() & 0x7fff_ffff);
        }
    }
    let peak = f32::from_bits(peaks.into_iter().fold(0, u32::max));
    let inverse = if peak == 0.0 { 0.0 } else { LARGEST / peak };
    // Adding 1.5 * 2^23 rounds to a whole number and leaves it in the lowest bits.
    const WHOLE: f32 = 12_582_912.0;
    let mut codes = [0i32; BLOCK];
    for (c, x) in codes.iter_mut().zip(x) {
        *c = ((x * inverse + WHOLE).to_bits() as i32).wrapping_sub(WHOLE.to_bits() as i32);
    }
    let (mut upper, mut lower) = ([0i8; BLOCK], [0i8; BLOCK]);
    for i in 0..BLOCK {
        let up = codes[i].wrapping_add(1 << (LOWER - 1)) >> LOWER;
        upper[i] = up as i8;
        lower[i] = codes[i].wrapping_sub(up << LOWER) as i8;
    }
    // Halves of halves: a vector's lanes are joined in four steps, not taken out one by one.
    let sums = std::array::from_fn(|half| {
        let mut sum: [i32; 16] = std::array::from_fn(|i| codes[16 * half + i]);
        for len in [8, 4, 2, 1] {
            for i in 0..len {
                sum[i] = sum[i].wrapping_add(sum[i + len]);
            }
        }
        sum[0]
    });
    Quantised { upper, lower, sums, scale: peak / LARGEST }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_to_the_nearest_even() {
        for bits in (0..u32::MAX).step_by(65_521) {
            let x = f32::from_bits(bits);
            let want = half::bf16::from_f32(x);
            assert!(x.is_nan() || bf16_bits(x) == u32::from(want.to_bits()), "{x}");
        }
    }

    #[test]
    fn codes_are_within_half_a_step() {
        let x: [f32; 32] = std::array::from_fn(|i| ((i * 37 % 64) as f32 - 31.0) * 0.17);
        let q = quantise(&x);
        for i in 0..32 {
            let code = 128 * i32::from(q.upper[i]) + i32::from(q.lower[i]);
            assert!((x[i] - q.scale * code as f32).abs() <= q.scale * 0.51, "{i}");
        }
        assert_eq!(q.upper.iter().map(|&c| i32::from(c).abs()).max(), Some(127));
    }

    #[test]
    fn a_number_that_is_none_poisons_its_block() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; 32];
            x[7] = bad;
            let q = quantise(&x);
            assert!(!q.scale.is_finite(), "{bad}");
        }
    }
}
