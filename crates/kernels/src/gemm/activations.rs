//! Activations laid out for multiplication: tiles of a few rows, columns outermost.
//!
//! Every number depends on its own row alone, so a row gives the same bits in any tile.

use super::layout::BLOCK;
use crate::lanes::Lanes;

/// Rows of a tile for the tile unit. In these, each row's share of a step of 32 columns (codes or
/// bf16) lies together.
pub(super) const TILE_ROWS: usize = crate::tiles::ROWS;

/// Words that one row takes in a tile of block activations, a block of 32 columns:
/// eight words of codes, two starting sums, the scale, two scaled sums.
pub(super) const BLOCK_WORDS: usize = 13;

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
/// # Safety
///
/// The contract of `Lanes`.
#[inline(always)]
pub(super) unsafe fn lay<L: Lanes>(
    tile: &mut [u32],
    x: &[f32],
    rows: usize,
    cols: usize,
    kind: Kind,
) {
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
                for (k, pair) in row.chunks(2).enumerate() {
                    let high = if pair.len() == 2 { bf16_bits(pair[1]) } else { 0 };
                    tile[k * rows + t] = bf16_bits(pair[0]) | high << 16;
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
            for (t, row) in x.chunks_exact(cols).enumerate() {
                let (blocks, _) = row.as_chunks::<BLOCK>();
                for (b, block) in blocks.iter().enumerate() {
                    let tile = &mut tile[b * rows * BLOCK_WORDS..][..rows * BLOCK_WORDS];
                    // SAFETY: the caller's contract.
                    let q = unsafe { quantise::<L>(block) };
                    for k in 0..8 {
                        let c = [
                            q.codes[4 * k],
                            q.codes[4 * k + 1],
                            q.codes[4 * k + 2],
                            q.codes[4 * k + 3],
                        ];
                        let at = if rows == TILE_ROWS { t * 8 + k } else { k * rows + t };
                        tile[at] = u32::from_le_bytes(c.map(|c| c as u8));
                    }
                    let sums = if sub16 { q.sums } else { [q.sums[0] + q.sums[1], 0] };
                    for s in 0..2 {
                        tile[(8 + s) * rows + t] = (-zero * sums[s]) as u32;
                        tile[(11 + s) * rows + t] = (q.scale * sums[s] as f32).to_bits();
                    }
                    tile[10 * rows + t] = q.scale.to_bits();
                }
            }
        }
    }
}

/// The nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
pub(super) fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    if x.is_nan() {
        return bits >> 16 | 0x40;
    }
    (bits + 0x7fff + (bits >> 16 & 1)) >> 16
}

struct Quantised {
    codes: [i8; BLOCK],
    /// The sum of the codes of each half.
    sums: [i32; 2],
    scale: f32,
}

/// x = scale * code with scale = max |x| / 127 and codes rounded to nearest, ties to even.
///
/// # Safety
///
/// The contract of `Lanes`.
#[inline(always)]
unsafe fn quantise<L: Lanes>(x: &[f32; BLOCK]) -> Quantised {
    // Sixteen running maxima rather than one, so that the loop needs no order.
    let mut peaks = [0.0f32; 16];
    for half in x.as_chunks::<16>().0 {
        for (p, x) in peaks.iter_mut().zip(half) {
            *p = if x.abs() > *p { x.abs() } else { *p };
        }
    }
    let peak = peaks.iter().fold(0.0f32, |a, &b| if b > a { b } else { a });
    let scale = peak / 127.0;
    let inverse = if peak > 0.0 { 127.0 / peak } else { 0.0 };
    let mut codes = [0i8; BLOCK];
    let mut sums = [0i32; 2];
    for h in 0..2 {
        // SAFETY: the caller's contract; sixteen floats from `16 h` lie in `x`.
        let rounded = unsafe {
            L::to_array(L::round(L::mul(L::load(x[16 * h..].as_ptr()), L::splat(inverse))))
        };
        for (c, r) in codes[16 * h..16 * h + 16].iter_mut().zip(rounded) {
            *c = r as i8;
        }
        sums[h] = codes[16 * h..16 * h + 16].iter().map(|&c| i32::from(c)).sum();
    }
    Quantised { codes, sums, scale }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::Plain;

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
        // SAFETY: the portable class runs everywhere.
        let q = unsafe { quantise::<Plain>(&x) };
        for (x, c) in x.iter().zip(q.codes) {
            assert!((x - q.scale * f32::from(c)).abs() <= q.scale * 0.5001);
        }
        assert_eq!(q.codes.iter().map(|&c| i32::from(c).abs()).max(), Some(127));
    }
}
