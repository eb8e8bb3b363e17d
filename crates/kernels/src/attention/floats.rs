//! Blocks of keys and values that are read as numbers, f32, f16 or codes of 8 bits: sums in f32.
//!
//! A code is exact as an f32. The scale of a key multiplies its score, that of a value its weight, so each
//! costs one product for a vector and not one for each number.

use super::tiles::{Batch, Tile};
use super::weights::{peak, weigh};
use super::work::Work;
use super::{BLOCK, KvShape};
use crate::lanes::Lanes;
use std::f32::consts::LOG2_E;

/// How numbers are stored: what `FORM` may be.
pub(super) const F32: u8 = 0;
pub(super) const F16: u8 = 1;
pub(super) const I8: u8 = 2;

/// Vector `x` as codes of 8 bits, number i to place `from + i * step`, and its scale to `slot` behind the codes.
///
/// NaN and infinity live on in the scale, which makes all of their vector NaN.
pub(super) fn put_bytes(
    out: &mut [u8],
    shape: KvShape,
    slot: usize,
    (from, step): (usize, usize),
    x: &[f32],
) {
    let (codes, scales) = out.split_at_mut(shape.code_bytes());
    let peak = x.iter().fold(0.0f32, |a, b| if b.abs() > a { b.abs() } else { a });
    let finite = x.iter().all(|x| x.is_finite());
    let scale = if finite { peak / 127.0 } else { f32::NAN };
    // Below this size the quotient would overflow: such a vector is zero.
    let times = if scale > 1e-30 { 1.0 / scale } else { 0.0 };
    scales.as_chunks_mut::<4>().0[slot] = scale.to_le_bytes();
    for (i, x) in x.iter().enumerate() {
        codes[from + i * step] = (x * times).round_ties_even() as i8 as u8;
    }
}

/// # Safety
///
/// As `work::block`; the tile's state has N rows.
#[inline(always)]
pub(super) unsafe fn block<L: Lanes, const FORM: u8, const N: usize, const C: usize>(
    work: &mut Work,
    batch: &Batch<'_>,
    tile: &Tile<'_>,
    t: usize,
    b: usize,
) {
    let first = b * BLOCK;
    let keys = (tile.keys() - first).min(BLOCK);
    // SAFETY: the caller's contract.
    unsafe {
        let q = &work.states[t].q[..batch.shape.head_dim * N];
        scores::<L, FORM, N, C>(&mut work.s, q, batch, tile, first, keys);
        for i in 0..tile.rows() {
            let seen = (tile.position(i) + 1).saturating_sub(first).min(keys);
            let row = &mut work.s[i * BLOCK..][..keys.next_multiple_of(16)];
            let m = peak::<L>(row, seen);
            work.partial.m[i] = m * batch.scale;
            work.partial.l[i] = weigh::<L>(row, m, batch.scale * LOG2_E);
        }
        work.partial.m[tile.rows()..].fill(f32::NEG_INFINITY);
        values::<L, FORM, N, C>(&mut work.partial.o, &work.s, batch, tile, first, keys);
    }
}

/// Sixteen stored numbers at `p`.
///
/// # Safety
///
/// The contract of `Lanes`.
#[inline(always)]
unsafe fn load<L: Lanes, const FORM: u8>(p: *const u8) -> L::F {
    // SAFETY: the caller's contract.
    unsafe {
        match FORM {
            I8 => L::load_i8(p),
            F16 => L::load_f16(p),
            _ => L::load(p.cast()),
        }
    }
}

/// s[i][j] = q_i . k_j, sixteen keys a vector, each a sum over the head width in order.
///
/// # Safety
///
/// As `block`.
#[inline(always)]
unsafe fn scores<L: Lanes, const FORM: u8, const N: usize, const C: usize>(
    s: &mut [f32],
    q: &[u32],
    batch: &Batch<'_>,
    tile: &Tile<'_>,
    first: usize,
    keys: usize,
) {
    let (bytes, page_len) = (batch.shape.format.bytes(), batch.shape.page_len);
    let step = page_len * bytes;
    let last = keys.next_multiple_of(16);
    for j in (0..last).step_by(16 * C) {
        // SAFETY: the caller's contract; a vector past the last reads the last again.
        unsafe {
            let k: [*const u8; C] = std::array::from_fn(|c| {
                let at = first + (j + 16 * c).min(last - 16);
                batch.page(tile, at).0[at % page_len * bytes..].as_ptr()
            });
            // The keys after these, a page further or in the same: asked for one round ahead.
            let next = first + (j + 16 * C).min(tile.keys() - 1 - first);
            let next = batch.page(tile, next).0[next % page_len * bytes..].as_ptr();
            let mut sum = [[L::splat(0.0); C]; N];
            for (d, q) in q.as_chunks::<N>().0.iter().enumerate() {
                L::prefetch(next.wrapping_add(d * step));
                L::prefetch(next.wrapping_add(d * step + 64));
                let k: [L::F; C] = std::array::from_fn(|c| load::<L, FORM>(k[c].add(d * step)));
                for i in 0..N {
                    let q = L::splat(f32::from_bits(q[i]));
                    for c in 0..C {
                        sum[i][c] = L::fma(q, k[c], sum[i][c]);
                    }
                }
            }
            if FORM == I8 {
                for c in 0..C {
                    let at = first + (j + 16 * c).min(last - 16);
                    let scales = &batch.page(tile, at).0[batch.shape.code_bytes()..];
                    let scale = L::load(scales[at % page_len * 4..].as_ptr().cast());
                    (0..N).for_each(|i| sum[i][c] = L::mul(sum[i][c], scale));
                }
            }
            for i in 0..N {
                for c in 0..C {
                    if j + 16 * c < last {
                        L::store(s[i * BLOCK + j + 16 * c..][..16].as_mut_ptr(), sum[i][c]);
                    }
                }
            }
        }
    }
}

/// o[i] = sum_j s[i][j] v_j, each a sum over keys in order.
///
/// # Safety
///
/// As `block`.
#[inline(always)]
unsafe fn values<L: Lanes, const FORM: u8, const N: usize, const C: usize>(
    o: &mut [f32],
    s: &[f32],
    batch: &Batch<'_>,
    tile: &Tile<'_>,
    first: usize,
    keys: usize,
) {
    let (padded, page_len) = (batch.shape.padded(), batch.shape.page_len);
    let bytes = batch.shape.format.bytes();
    // Keys that all rows see; the last few are for some rows only. Their weight in the others is 0,
    // but 0 times a value that is no number is none, and would depend on who shares the tile.
    let whole = (tile.position(0) + 1).saturating_sub(first).min(keys);
    for d in (0..padded).step_by(16 * C) {
        // SAFETY: the caller's contract; a vector past the last reads the last again.
        unsafe {
            let place: [usize; C] = std::array::from_fn(|c| (d + 16 * c).min(padded - 16));
            let mut sum = [[L::splat(0.0); C]; N];
            let mut j = 0;
            while j < whole {
                let at = first + j;
                let end = (j + page_len - at % page_len).min(whole);
                let page = batch.page(tile, at).1;
                let mut v = page[at % page_len * padded * bytes..].as_ptr();
                let scales = page[batch.shape.code_bytes()..].as_chunks::<4>().0;
                let next = (at + page_len).min(tile.keys() - 1);
                let mut next = batch.page(tile, next).1[at % page_len * padded * bytes..].as_ptr();
                for (j, slot) in (j..end).zip(at % page_len..) {
                    let scale = if FORM == I8 { f32::from_le_bytes(scales[slot]) } else { 1.0 };
                    L::prefetch(next.wrapping_add(place[0] * bytes));
                    L::prefetch(next.wrapping_add(place[0] * bytes + 64));
                    next = next.wrapping_add(padded * bytes);
                    let row: [L::F; C] =
                        std::array::from_fn(|c| load::<L, FORM>(v.add(place[c] * bytes)));
                    for i in 0..N {
                        let weight = L::splat(*s.get_unchecked(i * BLOCK + j) * scale);
                        for c in 0..C {
                            sum[i][c] = L::fma(weight, row[c], sum[i][c]);
                        }
                    }
                    v = v.wrapping_add(padded * bytes);
                }
                j = end;
            }
            for j in whole..keys {
                let at = first + j;
                let page = batch.page(tile, at).1;
                let v = page[at % page_len * padded * bytes..].as_ptr();
                let scales = page[batch.shape.code_bytes()..].as_chunks::<4>().0;
                let scale =
                    if FORM == I8 { f32::from_le_bytes(scales[at % page_len]) } else { 1.0 };
                for i in (0..N).filter(|&i| i < tile.rows() && tile.position(i) >= at) {
                    let weight = L::splat(*s.get_unchecked(i * BLOCK + j) * scale);
                    for c in 0..C {
                        let v = load::<L, FORM>(v.add(place[c] * bytes));
                        sum[i][c] = L::fma(weight, v, sum[i][c]);
                    }
                }
            }
            for i in 0..N {
                for c in 0..C {
                    if d + 16 * c < padded {
                        L::store(o[i * padded + d + 16 * c..][..16].as_mut_ptr(), sum[i][c]);
                    }
                }
            }
        }
    }
}
