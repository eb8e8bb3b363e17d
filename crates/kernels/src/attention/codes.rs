//! Blocks of keys and values that are stored as codes of 16 bits: products are exact integers.
//!
//! A vector x is `scale * c`, c whole numbers. Then q . k = scale_q scale_k sum_d c_q c_k, where the
//! sum is exact, and so are weights times values once the weights of a block are codes too. Two
//! products of 16 bits cost one of f32 (`dot2_i16`), and no order of integer sums changes a bit.
//!
//! | | bound | so that |
//! |---|---|---|
//! | query, key | length 46,000 and entries 2^15 | any sum is below 2^31 (Cauchy-Schwarz) |
//! | value | entries 4,095 | |
//! | weights of a block | entries 2^15 and sum 524,000 | weights times values are below 2^31 |
//!
//! An entry is off by half a unit: 1e-5 of a vector's length in a key, where f16 has up to 5e-4 of
//! the entry. NaN and infinity live on in the scale and make all products of their vector NaN.

use super::tiles::{Batch, Tile};
use super::weights::{peak, weigh};
use super::work::Work;
use super::{BLOCK, KvShape};
use crate::lanes::Lanes;
use crate::math;

/// Codes of values reach this far from 0.
const VALUE_MAX: f32 = 4095.0;
/// Codes of a block's weights sum to no more, rounding (half of each of `BLOCK`) aside:
/// (524,000 + 128) * 4,095 < 2^31.
const WEIGHTS_MAX: f32 = 524_000.0;
/// No code of a weight, a query or a key is greater.
const CODE_MAX: f32 = 32_767.0;
/// Queries and keys are no longer; rounding adds sqrt(K) / 2, and 46,340 squared is below 2^31.
const LENGTH_MAX: f32 = 46_000.0;
/// 1.5 * 2^23: its ulp is 1.
const CODE_SHIFT: f32 = 12_582_912.0;
/// Vectors below this size are zero: dividing by them would overflow.
const TINY: f32 = 1e-30;

/// The whole number nearest to `x`, of size below 2^15; any code for NaN.
///
/// Adding `CODE_SHIFT` leaves it in the lowest bits: one instruction in any class.
#[inline(always)]
fn code(x: f32) -> i16 {
    (x + CODE_SHIFT).to_bits() as i16
}

/// What a query or key is multiplied by to become codes, and what its codes are worth.
pub(super) fn key_scale(x: &[f32]) -> (f32, f32) {
    let length = math::sum_by(x, |sum, x| sum + x * x).sqrt();
    let peak = x.iter().fold(0.0f32, |a, b| if b.abs() > a { b.abs() } else { a });
    // A length of 46,000 and more in one entry is too much for 16 bits.
    let unit = (length / LENGTH_MAX).max(peak / CODE_MAX);
    scale_of(if length.is_finite() { unit } else { f32::NAN })
}

/// As `key_scale`, for a value.
fn value_scale(x: &[f32]) -> (f32, f32) {
    let peak = x.iter().fold(0.0f32, |a, b| if b.abs() > a { b.abs() } else { a });
    let finite = x.iter().all(|x| x.is_finite());
    scale_of(if finite { peak / VALUE_MAX } else { f32::NAN })
}

/// The scale of 0 is no 0: a hidden key's score of -infinity stays one when multiplied by it.
fn scale_of(unit: f32) -> (f32, f32) {
    if unit < TINY { (0.0, TINY) } else { (1.0 / unit, unit) }
}

/// Key `x` to place `slot` of its head's part of a page: codes `[K / 2][page_len][2]`, then scales
/// `[page_len]`. An odd width is filled up with a zero.
pub(super) fn put_key(out: &mut [u8], shape: KvShape, slot: usize, x: &[f32]) {
    let (codes, scales) = out.split_at_mut(shape.code_bytes());
    let (times, scale) = key_scale(x);
    scales.as_chunks_mut::<4>().0[slot] = scale.to_le_bytes();
    let (codes, _) = codes.as_chunks_mut::<4>();
    for (d, x) in x.chunks(2).enumerate() {
        let pair = [code(x[0] * times), x.get(1).map_or(0, |x| code(x * times))];
        codes[d * shape.page_len + slot] = pack(pair).to_le_bytes();
    }
}

/// Value `x` to place `slot` of its head's part of a page: codes `[page_len / 2][K][2]`, then scales
/// `[page_len]`.
pub(super) fn put_value(out: &mut [u8], shape: KvShape, slot: usize, x: &[f32]) {
    let (codes, scales) = out.split_at_mut(shape.code_bytes());
    let (times, scale) = value_scale(x);
    scales.as_chunks_mut::<4>().0[slot] = scale.to_le_bytes();
    let (codes, _) = codes.as_chunks_mut::<2>();
    let row = &mut codes[slot / 2 * 2 * shape.padded()..][..2 * shape.padded()];
    for (d, x) in x.iter().enumerate() {
        row[2 * d + slot % 2] = code(x * times).to_le_bytes();
    }
}

/// Query `x` as row `i` of a tile of `n`: pairs of codes `[K / 2][n]`; returns their scale.
pub(super) fn put_query(out: &mut [u32], n: usize, i: usize, x: &[f32]) -> f32 {
    let (times, scale) = key_scale(x);
    for (d, x) in x.chunks(2).enumerate() {
        out[d * n + i] = pack([code(x[0] * times), x.get(1).map_or(0, |x| code(x * times))]);
    }
    scale
}

fn pack(pair: [i16; 2]) -> u32 {
    u32::from(pair[0] as u16) | u32::from(pair[1] as u16) << 16
}

/// Scores, weights and weighted values of one block.
///
/// # Safety
///
/// As `work::block`; the tile's state has N rows.
#[inline(always)]
pub(super) unsafe fn block<L: Lanes, const N: usize, const C: usize>(
    work: &mut Work,
    batch: &Batch<'_>,
    tile: &Tile<'_>,
    t: usize,
    b: usize,
) {
    let first = b * BLOCK;
    let keys = (tile.keys() - first).min(BLOCK);
    let last = keys.next_multiple_of(16);
    // SAFETY: the caller's contract.
    unsafe {
        let state = &work.states[t];
        let q = &state.q[..batch.shape.head_dim.div_ceil(2) * N];
        scores::<L, N, C>(&mut work.s, q, batch, tile, first, last);
        let scales = value_scales(batch, tile, first, last);
        let mut units = [0.0; N];
        for i in 0..tile.rows() {
            let seen = (tile.position(i) + 1).saturating_sub(first).min(keys);
            let (s, p) = (&mut work.s[i * BLOCK..][..last], &mut work.p[i * BLOCK..][..last]);
            let factor = state.scales[i] * batch.scale;
            let weights = weights::<L>(p, s, &scales[..last], seen, factor);
            (work.partial.m[i], work.partial.l[i], units[i]) = weights;
        }
        work.partial.m[tile.rows()..].fill(f32::NEG_INFINITY);
        values::<L, N, C>(&mut work.partial.o, &work.p, &units, batch, tile, first, keys);
    }
}

/// s[i][j] = c_q . c_k times the key's scale, sixteen keys a vector.
///
/// # Safety
///
/// As `block`.
#[inline(always)]
unsafe fn scores<L: Lanes, const N: usize, const C: usize>(
    s: &mut [f32],
    q: &[u32],
    batch: &Batch<'_>,
    tile: &Tile<'_>,
    first: usize,
    last: usize,
) {
    let (page_len, codes) = (batch.shape.page_len, batch.shape.code_bytes());
    let step = page_len * 4;
    for j in (0..last).step_by(16 * C) {
        // SAFETY: the caller's contract; a vector past the last reads the last again.
        unsafe {
            let k: [(*const u8, *const u8); C] = std::array::from_fn(|c| {
                let at = first + (j + 16 * c).min(last - 16);
                let head = batch.page(tile, at).0;
                (head[at % page_len * 4..].as_ptr(), head[codes + at % page_len * 4..].as_ptr())
            });
            // The keys after these, a page further or in the same: asked for one round ahead, with
            // the scales of their values, which are needed before the values themselves.
            let next = first + (j + 16 * C).min(tile.keys() - 1 - first);
            let slot = next % page_len * 4;
            let (next, values) = batch.page(tile, next);
            let (next, values) = (next[slot..].as_ptr(), values[slot..].as_ptr());
            if N <= FEW {
                for c in 0..C {
                    L::prefetch(next.wrapping_add(codes + 64 * c));
                    L::prefetch(values.wrapping_add(codes + 64 * c));
                }
            }
            let mut sum = [[L::splat_i(0); C]; N];
            for (d, q) in q.as_chunks::<N>().0.iter().enumerate() {
                if N <= FEW {
                    for c in 0..C {
                        L::prefetch(next.wrapping_add(d * step + 64 * c));
                    }
                }
                let k: [L::B; C] = std::array::from_fn(|c| L::load_bytes(k[c].0.add(d * step)));
                for i in 0..N {
                    for c in 0..C {
                        sum[i][c] = L::dot2_i16(sum[i][c], k[c], q[i] as i32);
                    }
                }
            }
            for c in 0..C {
                let scale = L::load(k[c].1.cast());
                for i in 0..N {
                    if j + 16 * c < last {
                        let s = s[i * BLOCK + j + 16 * c..][..16].as_mut_ptr();
                        L::store(s, L::mul(L::to_f(sum[i][c]), scale));
                    }
                }
            }
        }
    }
}

/// Up to so many rows wait for memory rather than for arithmetic, and ask ahead.
const FEW: usize = 4;

/// So many sixteens of values are asked for before they are needed.
const AHEAD: usize = 4;

/// The scales of the block's values, of `last` keys in whole sixteens.
///
/// # Safety
///
/// As `block`.
#[inline(always)]
unsafe fn value_scales(
    batch: &Batch<'_>,
    tile: &Tile<'_>,
    first: usize,
    last: usize,
) -> [f32; BLOCK] {
    let (page_len, codes) = (batch.shape.page_len, batch.shape.code_bytes());
    let mut scales = [0.0; BLOCK];
    for (j, out) in scales[..last].as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let at = first + 16 * j;
        let from = &batch.page(tile, at).1[codes + at % page_len * 4..][..64];
        // SAFETY: sixteen f32, as bytes of any alignment.
        *out = unsafe { from.as_ptr().cast::<[f32; 16]>().read_unaligned() };
    }
    scales
}

/// Scores to codes of weight times value's scale, 0 from `seen` on; returns the greatest score m (times
/// `factor`), the sum of the weights e^(factor s - m), and what a unit of the codes is worth.
///
/// # Safety
///
/// The contract of `Lanes`; `p`, `s` and `scales` are the same whole sixteens, up to `BLOCK`.
#[inline(always)]
unsafe fn weights<L: Lanes>(
    p: &mut [i16],
    s: &mut [f32],
    scales: &[f32],
    seen: usize,
    factor: f32,
) -> (f32, f32, f32) {
    // SAFETY: the caller's contract; each chunk is sixteen numbers.
    unsafe {
        let m = peak::<L>(s, seen);
        if seen == 0 {
            p.fill(0);
            return (m, 0.0, 0.0);
        }
        let l = weigh::<L>(s, m, factor * std::f32::consts::LOG2_E);
        // What later keys hold must not reach this row, not even as NaN times 0.
        let (whole, part) = (seen / 16 * 16, &mut [0.0; 16]);
        part[..seen - whole].copy_from_slice(&scales[whole..seen]);
        let scales = scales[..whole].as_chunks::<16>().0.iter().chain([&*part]);
        let (mut sums, mut peaks) = (L::splat(0.0), L::splat(0.0));
        for (s, scale) in s.as_chunks_mut::<16>().0.iter_mut().zip(scales) {
            let scaled = L::mul(L::load(s.as_ptr()), L::load(scale.as_ptr()));
            (sums, peaks) = (L::add(sums, scaled), L::max(peaks, scaled));
            L::store(s.as_mut_ptr(), scaled);
        }
        let (sum, peak) = (L::sum(sums) / WEIGHTS_MAX, L::greatest(peaks) / CODE_MAX);
        let (times, unit) = scale_of(if peak > sum { peak } else { sum });
        let (times, shift) = (L::splat(times), L::splat(CODE_SHIFT));
        for (p, s) in p.as_chunks_mut::<16>().0.iter_mut().zip(s.as_chunks::<16>().0) {
            L::store_low(p.as_mut_ptr(), L::fma(L::load(s.as_ptr()), times, shift));
        }
        (m * factor, l, unit)
    }
}

/// o[i] = units[i] sum_j p[i][j] c_v, sixteen columns a vector and two keys a step.
///
/// Keys that a row does not see have weight 0, and 0 times any code is 0.
///
/// # Safety
///
/// As `block`.
#[inline(always)]
unsafe fn values<L: Lanes, const N: usize, const C: usize>(
    o: &mut [f32],
    p: &[i16],
    units: &[f32; N],
    batch: &Batch<'_>,
    tile: &Tile<'_>,
    first: usize,
    keys: usize,
) {
    let (padded, page_len) = (batch.shape.padded(), batch.shape.page_len);
    let step = padded * 4;
    let p: *const i16 = p[..N * BLOCK].as_ptr();
    // Each sixteen keys lie in one page. Past the last, the last again: what is only asked for.
    let rows: [*const u8; BLOCK / 16 + AHEAD] = std::array::from_fn(|n| {
        let at = (first + 16 * n).min(tile.keys() - 1) / 16 * 16;
        batch.page(tile, at).1[at % page_len / 2 * step..].as_ptr()
    });
    for d in (0..padded).step_by(16 * C) {
        // SAFETY: the caller's contract; a vector past the last reads the last again. Keys past the last
        // lie in the same page, since pages hold whole sixteens.
        unsafe {
            let place: [usize; C] = std::array::from_fn(|c| (d + 16 * c).min(padded - 16) * 4);
            let mut sum = [[L::splat_i(0); C]; N];
            for n in 0..keys.div_ceil(16) {
                let (v, next) = (rows[n], rows[n + AHEAD]);
                for pair in 0..8 {
                    if N <= FEW {
                        for c in 0..C {
                            L::prefetch(next.wrapping_add(pair * step + place[c]));
                        }
                    }
                    let row: [L::B; C] =
                        std::array::from_fn(|c| L::load_bytes(v.add(pair * step + place[c])));
                    for i in 0..N {
                        let p = p.add(i * BLOCK + 16 * n + 2 * pair).cast::<i32>();
                        let p = p.read_unaligned();
                        for c in 0..C {
                            sum[i][c] = L::dot2_i16(sum[i][c], row[c], p);
                        }
                    }
                }
            }
            for i in 0..N {
                let unit = L::splat(units[i]);
                for c in 0..C {
                    if d + 16 * c < padded {
                        let o = o[i * padded + d + 16 * c..][..16].as_mut_ptr();
                        L::store(o, L::mul(L::to_f(sum[i][c]), unit));
                    }
                }
            }
        }
    }
}
