//! Activations laid out for multiplication: tiles of a few rows, columns outermost.
//!
//! Every number depends on its own row alone, so a row gives the same bits in any tile.

use super::layout::BLOCK;
use crate::lanes::bf16_bits;

/// Rows of a tile for the tile unit. In these, each row's share of a step of 32 columns (upper and
/// lower codes, or bf16) is 64 bytes that lie together.
pub(super) const TILE_ROWS: usize = crate::tiles::ROWS;

/// Words that one row takes in a tile of block activations, a block of 32 columns: eight words of
/// upper and eight of lower codes, two starting sums, the scale, two scaled sums, a mark.
pub(super) const BLOCK_WORDS: usize = 22;
/// Where the starting sums, the scale and the scaled sums stand among them.
pub(super) const STARTS: usize = 16;
/// The scale.
pub(super) const SCALE: usize = 18;
/// The scaled sums.
pub(super) const SUMS: usize = 19;
/// The mark, kept by the first row of the tile: not zero where any row has lower codes.
pub(super) const LOWERS: usize = 21;
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
        let blocks = row.as_chunks::<BLOCK>().0;
        let mut total = 0;
        for (tile, block) in tile.iter_mut().zip(blocks) {
            tile[SCALE][t] = peak_bits(block);
            total += u64::from(tile[SCALE][t]);
        }
        let middle = (total / blocks.len().max(1) as u64) as u32;
        for (tile, block) in tile.iter_mut().zip(blocks) {
            let peak = tile[SCALE][t];
            let fine = peak > middle + FINE_ABOVE;
            let marked = if t == 0 { 0 } else { tile[LOWERS][0] } | u32::from(fine);
            let q = quantise(block, f32::from_bits(peak), fine);
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
            tile[LOWERS][0] = marked;
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

/// Codes of 15 bits in two parts: 128 upper + lower, each a signed byte. Codes of 8 bits have no
/// lower part.
struct Quantised {
    upper: [i8; BLOCK],
    lower: [i8; BLOCK],
    /// The sum of the codes of each half.
    sums: [i32; 2],
    scale: f32,
}

/// How far above the mean of a row's peaks, as bits, a block's peak keeps its lower codes: bits of
/// floats grow as their logarithms, so this is 1.3 to 1.5 times the geometric mean. Twice would
/// cost Q4_K_M and Q5_1 more than 0.1 % of perplexity (docs/performance.md).
const FINE_ABOVE: u32 = 1 << 22;

/// The bits of max |x|: as integers the sizes of floats have the order of their bits, NaN above all.
#[inline(always)]
fn peak_bits(x: &[f32; BLOCK]) -> u32 {
    let mut peaks = [0u32; 16];
    for half in x.as_chunks::<16>().0 {
        for (p, x) in peaks.iter_mut().zip(half) {
            *p = (*p).max(x.to_bits() & 0x7fff_ffff);
        }
    }
    peaks.into_iter().fold(0, u32::max)
}

/// x = scale * code with scale = peak / (127 * 128), codes rounded to nearest, ties to even: to a
/// whole number where `fine`, else to a multiple of 128, which has no lower part.
///
/// A block with NaN or infinity has such a scale, and its products are NaN; its codes mean nothing,
/// so their sums may wrap.
#[inline(always)]
fn quantise(x: &[f32; BLOCK], peak: f32, fine: bool) -> Quantised {
    const LARGEST: f32 = 127.0 * 128.0;
    let inverse = if peak == 0.0 { 0.0 } else { LARGEST / peak };
    // Adding 1.5 * 2^23 rounds to a whole number and leaves it in the lowest bits; 128 times that
    // rounds to a multiple of 128 and leaves how many.
    const WHOLE: f32 = 12_582_912.0;
    let (whole, shift) = if fine { (WHOLE, 0) } else { (WHOLE * 128.0, LOWER) };
    let mut codes = [0i32; BLOCK];
    for (c, x) in codes.iter_mut().zip(x) {
        let count = ((x * inverse + whole).to_bits() as i32).wrapping_sub(whole.to_bits() as i32);
        *c = count << shift;
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
        let peak = f32::from_bits(peak_bits(&x));
        assert_eq!(peak, x.iter().fold(0.0f32, |a, x| a.max(x.abs())));
        for (fine, step) in [(true, 1.0), (false, 128.0)] {
            let q = quantise(&x, peak, fine);
            for i in 0..32 {
                let code = 128 * i32::from(q.upper[i]) + i32::from(q.lower[i]);
                assert!((x[i] - q.scale * code as f32).abs() <= q.scale * 0.51 * step, "{i}");
            }
            assert_eq!(q.upper.iter().map(|&c| i32::from(c).abs()).max(), Some(127));
            assert_eq!(q.lower == [0; 32], !fine);
        }
    }

    #[test]
    fn a_large_block_keeps_its_lower_codes_and_marks_its_tile() {
        let (rows, cols) = (6, 4 * BLOCK);
        let mut x = crate::sample::noise(1, rows * cols);
        x[3 * cols + 2 * BLOCK + 5] = 40.0;
        let kind = Kind::Codes { zero: 0, sub16: false };
        let mut tile = vec![u32::MAX; rows * words(kind, cols)];
        lay(&mut tile, &x, rows, cols, kind);
        for (b, block) in tile.chunks_exact(rows * BLOCK_WORDS).enumerate() {
            assert_eq!(block[LOWERS * rows] != 0, b == 2, "block {b}");
            for (k, t) in (8..16).flat_map(|k| (0..rows).map(move |t| (k, t))) {
                assert!(block[k * rows + t] == 0 || (b, t) == (2, 3), "block {b} row {t}");
            }
        }
    }

    #[test]
    fn a_number_that_is_none_poisons_its_block() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; 32];
            x[7] = bad;
            let q = quantise(&x, f32::from_bits(peak_bits(&x)), true);
            assert!(!q.scale.is_finite(), "{bad}");
        }
    }
}
