//! Products of bf16, and of f16 split into two.

use super::super::activations::{Kind, TILE_ROWS, words};
use super::super::kernels::Out;
use super::super::layout::{BLOCK, GROUP};
use super::{CHUNK, Part};
use crate::lanes::Lanes;
use crate::tiles::{BYTES, ROW_BYTES, Shape, Tiles};
use std::ops::Range;

impl Part<'_> {
    /// bf16, or f16 in two PARTS.
    ///
    /// # Safety
    ///
    /// As `task`; `panel` is writable for PANEL_BYTES.
    #[inline(always)]
    pub unsafe fn pairs<L: Lanes, U: Tiles, const PARTS: usize>(
        &self,
        unit: &mut U,
        panel: *mut u8,
    ) {
        let steps = self.cols.len().div_ceil(BLOCK);
        let row_words = words(Kind::PairTiles, self.job.w.cols);
        // SAFETY: the caller's contract; x was laid with these sizes.
        unsafe {
            let w = self.pair_tiles::<L, PARTS>(panel);
            for t in (0..self.job.rows).step_by(2 * TILE_ROWS) {
                let out = self.out(t, 2 * TILE_ROWS);
                let x = self.job.x[t * row_words..].as_ptr().cast::<u8>();
                let x = x.add(self.cols.start / BLOCK * BYTES);
                if self.width == 4 {
                    one_by::<U, PARTS, 4>(unit, out, w, x, steps);
                } else if out.rows <= TILE_ROWS {
                    one_by::<U, PARTS, 2>(unit, out, w, x, steps);
                } else {
                    let x = [x, x.add(TILE_ROWS * row_words * 4)];
                    two_by_two::<U, PARTS>(unit, out, [w[0], w[1]], x, steps);
                }
            }
        }
    }

    /// Tiles of the weights, PARTS a step: where they lie if bf16 in whole steps, else in the panel.
    ///
    /// # Safety
    ///
    /// As `pairs`.
    #[inline(always)]
    unsafe fn pair_tiles<L: Lanes, const PARTS: usize>(&self, panel: *mut u8) -> [*const u8; 4] {
        let Range { start, end } = self.cols;
        let mut w = [std::ptr::null(); 4];
        for i in 0..self.width {
            let group = self.job.group(self.g + i);
            let part = panel.wrapping_add(i * PARTS * (CHUNK / BLOCK) * BYTES);
            // SAFETY: the group holds the columns; a part of the panel takes PARTS tiles a step.
            unsafe {
                w[i] = if PARTS == 2 {
                    split_f16::<L>(part, group.add(start * GROUP * 2), end - start);
                    part
                } else if (end - start) % BLOCK > 0 {
                    let bytes = (end - start).div_ceil(2) * ROW_BYTES;
                    let whole = (end - start).div_ceil(BLOCK) * BYTES;
                    part.copy_from_nonoverlapping(group.add(start / 2 * ROW_BYTES), bytes);
                    part.add(bytes).write_bytes(0, whole - bytes);
                    part
                } else {
                    group.wrapping_add(start / 2 * ROW_BYTES)
                };
            }
        }
        w
    }
}

/// f16 weights of one group as tiles of bf16: in each step of 32 columns the upper eight bits of
/// each number, then the rest, which has three. Columns past `cols` are zero.
///
/// # Safety
///
/// The contract of `Lanes`; `group` holds `cols` columns; `panel` takes two tiles a step.
#[inline(always)]
unsafe fn split_f16<L: Lanes>(panel: *mut u8, group: *const u8, cols: usize) {
    for pair in 0..cols.div_ceil(BLOCK) * (BLOCK / 2) {
        let k = 2 * pair;
        let (mut first, mut second) = ([0.0f32; GROUP], [0.0f32; GROUP]);
        let (mut high, mut rest) = ([0u32; GROUP], [0u32; GROUP]);
        // SAFETY: the caller's contract: the columns that are read are below `cols`.
        unsafe {
            if k < cols {
                first = L::to_array(L::load_f16(group.add(k * GROUP * 2)));
            }
            if k + 1 < cols {
                second = L::to_array(L::load_f16(group.add((k + 1) * GROUP * 2)));
            }
        }
        for n in 0..GROUP {
            let (a, b) = (halves(first[n]), halves(second[n]));
            high[n] = a.0 >> 16 | b.0;
            rest[n] = a.1 >> 16 | b.1;
        }
        let at = pair / TILE_ROWS * 2 * BYTES + pair % TILE_ROWS * ROW_BYTES;
        // SAFETY: the caller's contract: row `pair % 16` of both tiles of its step.
        unsafe {
            panel.add(at).cast::<[u32; GROUP]>().write_unaligned(high);
            panel.add(at + BYTES).cast::<[u32; GROUP]>().write_unaligned(rest);
        }
    }
}

/// x as the sum of two bf16, both as the bits of f32; exact for what f16 can hold.
#[inline(always)]
fn halves(x: f32) -> (u32, u32) {
    let high = x.to_bits() & 0xffff_0000;
    let rest = x - f32::from_bits(high);
    // Infinity less itself is not a number: an infinite weight stays what it is.
    (high, if x.is_finite() { rest.to_bits() } else { 0 })
}

/// Registers of the products of pairs: 0 to 3 are sums (two rows of tiles by two groups, or one
/// by four), 4 and 5 activations, 6 and 7 weights.
#[inline(always)]
fn pair_shape(rows: usize) -> Shape {
    let full = (TILE_ROWS, ROW_BYTES);
    if rows <= TILE_ROWS {
        let part = (rows, ROW_BYTES);
        return Shape::new([part, part, part, part, part, (0, 0), full, full]);
    }
    let part = (rows - TILE_ROWS, ROW_BYTES);
    Shape::new([full, full, part, part, full, part, full, full])
}

/// Up to 32 rows, in tiles of bf16 at `x`, by two groups of as many `steps`.
///
/// # Safety
///
/// As `task`; `w` and, if there are rows, `x` hold `steps` steps; `out` is writable as it says.
#[inline(always)]
pub(in crate::gemm) unsafe fn product<U: Tiles>(
    unit: &mut U,
    out: Out,
    w: [*const u8; 2],
    x: [*const u8; 2],
    steps: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        if out.rows > TILE_ROWS {
            return two_by_two::<U, 1>(unit, out, w, x, steps);
        }
        one_by::<U, 1, 2>(unit, out, [w[0], w[1], w[0], w[1]], x[0], steps);
    }
}

/// Up to 32 rows by two groups. Of each step's 64 cycles of products 32 are spent loading.
///
/// # Safety
///
/// As `task`; `w` and `x` hold `steps` steps; `out` is writable as it says.
#[inline(always)]
unsafe fn two_by_two<U: Tiles, const PARTS: usize>(
    unit: &mut U,
    out: Out,
    w: [*const u8; 2],
    x: [*const u8; 2],
    steps: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        unit.configure(&pair_shape(out.rows));
        start::<U, 0>(unit, out, 0, 0);
        start::<U, 1>(unit, out, 0, 1);
        start::<U, 2>(unit, out, TILE_ROWS, 0);
        start::<U, 3>(unit, out, TILE_ROWS, 1);
        for s in 0..steps {
            unit.load::<4>(x[0].add(s * BYTES), ROW_BYTES);
            unit.load::<5>(x[1].add(s * BYTES), ROW_BYTES);
            for p in 0..PARTS {
                let at = (s * PARTS + p) * BYTES;
                unit.load::<6>(w[0].add(at), ROW_BYTES);
                unit.dot_bf16::<0, 4, 6>();
                unit.dot_bf16::<2, 5, 6>();
                unit.load::<7>(w[1].add(at), ROW_BYTES);
                unit.dot_bf16::<1, 4, 7>();
                unit.dot_bf16::<3, 5, 7>();
            }
        }
        finish::<U, 0>(unit, out, 0, 0);
        finish::<U, 1>(unit, out, 0, 1);
        finish::<U, 2>(unit, out, TILE_ROWS, 0);
        finish::<U, 3>(unit, out, TILE_ROWS, 1);
    }
}

/// Up to 16 rows by G groups, two or four.
///
/// # Safety
///
/// As `two_by_two`.
#[inline(always)]
unsafe fn one_by<U: Tiles, const PARTS: usize, const G: usize>(
    unit: &mut U,
    out: Out,
    w: [*const u8; 4],
    x: *const u8,
    steps: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        unit.configure(&pair_shape(out.rows));
        start::<U, 0>(unit, out, 0, 0);
        start::<U, 1>(unit, out, 0, 1);
        if G == 4 {
            start::<U, 2>(unit, out, 0, 2);
            start::<U, 3>(unit, out, 0, 3);
        }
        for s in 0..steps {
            unit.load::<4>(x.add(s * BYTES), ROW_BYTES);
            for p in 0..PARTS {
                let at = (s * PARTS + p) * BYTES;
                unit.load::<6>(w[0].add(at), ROW_BYTES);
                unit.dot_bf16::<0, 4, 6>();
                unit.load::<7>(w[1].add(at), ROW_BYTES);
                unit.dot_bf16::<1, 4, 7>();
                if G == 4 {
                    unit.load::<6>(w[2].add(at), ROW_BYTES);
                    unit.dot_bf16::<2, 4, 6>();
                    unit.load::<7>(w[3].add(at), ROW_BYTES);
                    unit.dot_bf16::<3, 4, 7>();
                }
            }
        }
        finish::<U, 0>(unit, out, 0, 0);
        finish::<U, 1>(unit, out, 0, 1);
        if G == 4 {
            finish::<U, 2>(unit, out, 0, 2);
            finish::<U, 3>(unit, out, 0, 3);
        }
    }
}

/// Sums of 16 rows from row `t` by group `g`: register C from y, or zero.
///
/// # Safety
///
/// Register C has as many rows as exist of these; `out` is readable as it says.
#[inline(always)]
unsafe fn start<U: Tiles, const C: u8>(unit: &mut U, out: Out, t: usize, g: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        if !out.resume || out.width <= GROUP * g {
            return unit.zero::<C>();
        }
        let y = out.y.add(t * out.stride + GROUP * g);
        if out.width >= GROUP * (g + 1) {
            return unit.load::<C>(y.cast(), out.stride * 4);
        }
        let mut part = [[0.0f32; GROUP]; TILE_ROWS];
        for (i, row) in part.iter_mut().enumerate().take(out.rows - t) {
            y.add(i * out.stride).copy_to_nonoverlapping(row.as_mut_ptr(), out.width - GROUP * g);
        }
        unit.load::<C>(part.as_ptr().cast(), ROW_BYTES);
    }
}

/// Sums of 16 rows from row `t` by group `g`: register C to y.
///
/// # Safety
///
/// Register C has as many rows as exist of these; `out` is writable as it says.
#[inline(always)]
unsafe fn finish<U: Tiles, const C: u8>(unit: &mut U, out: Out, t: usize, g: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        if out.width <= GROUP * g {
            return;
        }
        let y = out.y.add(t * out.stride + GROUP * g);
        if out.width >= GROUP * (g + 1) {
            return unit.store::<C>(y.cast(), out.stride * 4);
        }
        let mut part = [[0.0f32; GROUP]; TILE_ROWS];
        unit.store::<C>(part.as_mut_ptr().cast(), ROW_BYTES);
        for (i, row) in part.iter().enumerate().take(out.rows - t) {
            y.add(i * out.stride).copy_from_nonoverlapping(row.as_ptr(), out.width - GROUP * g);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_is_the_sum_of_two_bf16() {
        for bits in 0..=u16::MAX {
            let x = half::f16::from_bits(bits).to_f32();
            let (high, rest) = halves(x);
            assert_eq!((high | rest) & 0xffff, 0, "{x}");
            let sum = f32::from_bits(high) + f32::from_bits(rest);
            assert!(sum == x || (x.is_nan() && sum.is_nan()), "{x}: {sum}");
        }
    }
}
