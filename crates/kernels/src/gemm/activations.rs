//! Activations laid out for multiplication: tiles of a few rows, columns outermost.
//!
//! Every number depends on its own row alone, so a row gives the same bits in any tile.

use super::layout::BLOCK;

/// Rows of a tile for the tile unit. In these, each row's share of a step of 32 columns (upper and
/// lower codes, or bf16) is 64 bytes that lie together.
pub(super) const TILE_ROWS: usize = crate::tiles::ROWS;

/// Columns whose codes share a scale: eight blocks. The last of a row may be fewer.
pub(super) const STRETCH: usize = 8 * BLOCK;

/// Words that one row takes in a tile of bytes, a block of 32 columns: eight words of upper and
/// eight of lower codes, two starting sums, the scale, two sums of codes.
pub(super) const BLOCK_WORDS: usize = 21;
/// Where the starting sums, the scale and the sums stand among them.
pub(super) const STARTS: usize = 16;
/// The scale.
pub(super) const SCALE: usize = 18;
/// The sums.
pub(super) const SUMS: usize = 19;
/// Bits of a lower code.
pub(super) const LOWER: i32 = 7;

/// Words that one row takes in a tile of whole codes, a block: sixteen pairs of codes that lie
/// together, then, row beside row, the scale and two sums of codes.
pub(super) const PAIR_WORDS: usize = 19;
/// Where the scale and the sums stand among them.
pub(super) const PAIR_SCALE: usize = 16;
/// The sums.
pub(super) const PAIR_SUMS: usize = 17;

/// Words that one row of `cols` columns takes in a tile.
pub(super) fn words(kind: Kind, cols: usize) -> usize {
    match kind {
        Kind::Floats => cols,
        Kind::Pairs | Kind::PairTiles => cols.div_ceil(BLOCK) * BLOCK / 2,
        Kind::Bytes { .. } => cols / BLOCK * BLOCK_WORDS,
        Kind::Words { .. } => cols / BLOCK * PAIR_WORDS,
    }
}

/// What a multiplication reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// f32 as it is.
    Floats,
    /// Two columns rounded to bf16 in one word; sixteen words of a row lie together.
    Pairs,
    /// The same in steps of 16 rows, for the tile unit.
    PairTiles,
    /// Codes of 15 bits as two bytes: for one row, and in steps of 16 for the tile unit.
    Bytes { zero: i32, sub16: bool },
    /// Codes of 15 bits whole, two columns in one word: for several rows.
    Words { sub16: bool },
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
        Kind::Pairs | Kind::PairTiles => {
            for (t, row) in x.chunks_exact(cols).enumerate() {
                for (s, step) in row.chunks(BLOCK).enumerate() {
                    let words = &mut tile[(s * rows + t) * (BLOCK / 2)..][..BLOCK / 2];
                    if let Ok(step) = step.try_into() {
                        words.copy_from_slice(&pairs(step));
                    } else {
                        let mut padded = [0.0; BLOCK];
                        padded[..step.len()].copy_from_slice(step);
                        words.copy_from_slice(&pairs(&padded));
                    }
                }
            }
        }
        Kind::Bytes { zero, sub16 } => {
            if rows == TILE_ROWS && x.len() < rows * cols {
                // The tile unit's kernel scales all rows: no number may be slow or not a number.
                tile.fill(0);
            }
            for (t, row) in x.chunks_exact(cols).enumerate() {
                for (s, stretch) in row.chunks(STRETCH).enumerate() {
                    let tile = &mut tile[s * (STRETCH / BLOCK) * rows * BLOCK_WORDS..];
                    lay_bytes(tile, stretch, rows, t, (zero, sub16));
                }
            }
        }
        Kind::Words { sub16 } => {
            for (t, row) in x.chunks_exact(cols).enumerate() {
                for (s, stretch) in row.chunks(STRETCH).enumerate() {
                    let tile = &mut tile[s * (STRETCH / BLOCK) * rows * PAIR_WORDS..];
                    lay_words(tile, stretch, rows, t, sub16);
                }
            }
        }
    }
}

/// Lays the codes of columns that share a scale, of row `t`, as bytes.
#[inline(always)]
fn lay_bytes(tile: &mut [u32], x: &[f32], rows: usize, t: usize, (zero, sub16): (i32, bool)) {
    let (scale, inverse) = scales(x);
    let tiles = tile.chunks_exact_mut(rows * BLOCK_WORDS);
    for (tile, block) in tiles.zip(x.as_chunks::<BLOCK>().0) {
        let codes = quantise(block, inverse);
        let upper = codes.map(|c| c.wrapping_add(1 << (LOWER - 1)) >> LOWER);
        for k in 0..8 {
            let place = |k: usize| if rows == TILE_ROWS { t * 16 + k } else { k * rows + t };
            let four = |f: &dyn Fn(usize) -> i32| {
                u32::from_le_bytes(std::array::from_fn(|i| f(4 * k + i) as u8))
            };
            tile[place(k)] = four(&|i| upper[i]);
            tile[place(8 + k)] = four(&|i| codes[i].wrapping_sub(upper[i] << LOWER));
        }
        let sums = sums(&codes, sub16);
        for s in 0..2 {
            tile[(STARTS + s) * rows + t] = zero.wrapping_mul(sums[s].wrapping_neg()) as u32;
            tile[(SUMS + s) * rows + t] = (sums[s] as f32).to_bits();
        }
        tile[SCALE * rows + t] = scale.to_bits();
    }
}

/// Lays the codes of columns that share a scale, of row `t`, whole. Pairs are of columns i and
/// i + 2 of each four, as the even and odd bytes of weights are (`Lanes::words`).
#[inline(always)]
fn lay_words(tile: &mut [u32], x: &[f32], rows: usize, t: usize, sub16: bool) {
    let (scale, inverse) = scales(x);
    let tiles = tile.chunks_exact_mut(rows * PAIR_WORDS);
    for (tile, block) in tiles.zip(x.as_chunks::<BLOCK>().0) {
        let codes = quantise(block, inverse);
        let words = &mut tile[t * 16..t * 16 + 16];
        for (pair, c) in words.as_chunks_mut::<2>().0.iter_mut().zip(codes.as_chunks::<4>().0) {
            *pair = [0, 1].map(|i| c[i] as u32 & 0xffff | (c[i + 2] as u32) << 16);
        }
        let sums = sums(&codes, sub16);
        for s in 0..2 {
            tile[(PAIR_SUMS + s) * rows + t] = (sums[s] as f32).to_bits();
        }
        tile[PAIR_SCALE * rows + t] = scale.to_bits();
    }
}

/// Sixteen words of two columns each.
#[inline(always)]
fn pairs(x: &[f32; BLOCK]) -> [u32; 16] {
    let mut words = [0; 16];
    for (word, x) in words.iter_mut().zip(x.as_chunks::<2>().0) {
        *word = bf16_bits(x[0]) | bf16_bits(x[1]) << 16;
    }
    words
}

/// The nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
pub(super) fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // A choice, not a branch, so that loops become vectors.
    if x.is_nan() { bits >> 16 | 0x40 } else { rounded }
}

/// The scale of some columns' codes and its inverse: x = scale * code, scale = max |x| / (127 * 128).
///
/// Eight bits would do for a conversation, but cost 0.2 % of perplexity (docs/kernels.md).
/// Where there is NaN or infinity so is the scale, and products are NaN or infinite; the codes mean
/// nothing then, and their sums may wrap.
#[inline(always)]
fn scales(x: &[f32]) -> (f32, f32) {
    const LARGEST: f32 = 127.0 * 128.0;
    // As integers the sizes of floats have the order of their bits, NaN above all.
    let mut peaks = [0u32; 16];
    for half in x.as_chunks::<16>().0 {
        for (p, x) in peaks.iter_mut().zip(half) {
            *p = (*p).max(x.to_bits() & 0x7fff_ffff);
        }
    }
    let peak = f32::from_bits(peaks.into_iter().fold(0, u32::max));
    (peak / LARGEST, if peak == 0.0 { 0.0 } else { LARGEST / peak })
}

/// Codes of 15 bits, rounded to nearest, ties to even.
#[inline(always)]
fn quantise(x: &[f32; BLOCK], inverse: f32) -> [i32; BLOCK] {
    // Adding 1.5 * 2^23 rounds to a whole number and leaves it in the lowest bits.
    const WHOLE: f32 = 12_582_912.0;
    let mut codes = [0i32; BLOCK];
    for (c, x) in codes.iter_mut().zip(x) {
        *c = ((x * inverse + WHOLE).to_bits() as i32).wrapping_sub(WHOLE.to_bits() as i32);
    }
    codes
}

/// The sum of the codes, and nothing; or of each half.
#[inline(always)]
fn sums(codes: &[i32; BLOCK], halves: bool) -> [i32; 2] {
    let sum = |half: &[i32]| half.iter().fold(0i32, |a, &c| a.wrapping_add(c));
    if halves { [sum(&codes[..16]), sum(&codes[16..])] } else { [sum(codes), 0] }
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
        let (scale, inverse) = scales(&x);
        let codes = quantise(&x, inverse);
        for i in 0..32 {
            assert!((x[i] - scale * codes[i] as f32).abs() <= scale * 0.51, "{i}");
        }
        assert_eq!(codes.iter().map(|c| c.abs()).max(), Some(127 * 128));
    }

    #[test]
    fn bytes_and_words_hold_the_same_codes() {
        let x: [f32; 320] = std::array::from_fn(|i| ((i * 37 % 640) as f32 - 311.0) * 0.17);
        let mut bytes = vec![0; words(Kind::Bytes { zero: 8, sub16: true }, 320)];
        lay(&mut bytes, &x, 1, 320, Kind::Bytes { zero: 8, sub16: true });
        let mut whole = vec![0; words(Kind::Words { sub16: true }, 320)];
        lay(&mut whole, &x, 1, 320, Kind::Words { sub16: true });
        for (b, w) in bytes.chunks(BLOCK_WORDS).zip(whole.chunks(PAIR_WORDS)) {
            for k in 0..BLOCK {
                let byte = |part: usize| i32::from((b[8 * part + k / 4] >> (8 * (k % 4))) as i8);
                let word = (w[k / 4 * 2 + k % 2] >> (k % 4 / 2 * 16)) as i16;
                assert_eq!(128 * byte(0) + byte(1), i32::from(word), "{k}");
            }
            assert_eq!((b[SCALE], b[SUMS]), (w[PAIR_SCALE], w[PAIR_SUMS]));
        }
    }

    #[test]
    fn a_number_that_is_none_poisons_its_scale() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; 32];
            x[7] = bad;
            assert!(!scales(&x).0.is_finite(), "{bad}");
        }
    }
}
