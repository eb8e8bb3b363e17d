//! The products: a few rows of activations by one or two groups of sixteen rows of weights.
//!
//! Each output has one sum, over columns in ascending order, whatever the tile: that is what
//! makes a row give the same bits alone and among a thousand.

use super::activations::{BLOCK_WORDS, LOWER, LOWERS, SCALE, STARTS, SUMS};
use super::unpack::unpack;
use crate::lanes::Lanes;

/// Where a tile writes: row t, lane n of group g is `y[t * stride + 16 g + n]`.
#[derive(Clone, Copy)]
pub(super) struct Out {
    pub y: *mut f32,
    pub stride: usize,
    /// Columns of y from here on that exist: stores stop there.
    pub width: usize,
    /// Rows that exist: a tile may be larger.
    pub rows: usize,
    /// The sums go on from what stands in y.
    pub resume: bool,
}

impl Out {
    /// # Safety
    ///
    /// The contract of `Lanes`; row `t` of y, if it exists, is readable from lane `16 g` for `width - 16 g`.
    #[inline(always)]
    pub unsafe fn start<L: Lanes>(self, t: usize, g: usize) -> L::F {
        // SAFETY: the caller's contract.
        unsafe {
            if !self.resume || self.width <= 16 * g || t >= self.rows {
                return L::splat(0.0);
            }
            let p = self.y.add(t * self.stride + 16 * g);
            if self.width >= 16 * (g + 1) {
                return L::load(p);
            }
            let mut part = [0.0f32; 16];
            std::ptr::copy_nonoverlapping(p, part.as_mut_ptr(), self.width - 16 * g);
            L::load(part.as_ptr())
        }
    }

    /// # Safety
    ///
    /// The contract of `Lanes`; row `t` of y, if it exists, is writable from lane `16 g` for `width - 16 g`.
    #[inline(always)]
    pub unsafe fn finish<L: Lanes>(self, t: usize, g: usize, sum: L::F) {
        // SAFETY: the caller's contract.
        unsafe {
            if self.width <= 16 * g || t >= self.rows {
                return;
            }
            let p = self.y.add(t * self.stride + 16 * g);
            if self.width >= 16 * (g + 1) {
                return L::store(p, sum);
            }
            let part = L::to_array(sum);
            std::ptr::copy_nonoverlapping(part.as_ptr(), p, self.width - 16 * g);
        }
    }
}

/// How the weights of a dense product are stored.
pub(super) const W_F32: u8 = 0;
/// f16, widened on the way.
pub(super) const W_F16: u8 = 1;
/// Pairs of bf16.
pub(super) const W_BF16: u8 = 2;

/// Plain floats: G groups at `w` by T rows at `x`, `steps` columns (pairs of columns for bf16).
///
/// # Safety
///
/// The contract of `Lanes`; each group holds `steps` vectors, `x` holds `steps` times T words,
/// and `out` is writable as it says.
#[inline(always)]
pub(super) unsafe fn dense<L: Lanes, const W: u8, const G: usize, const T: usize>(
    out: Out,
    w: [*const u8; G],
    x: *const u32,
    steps: usize,
) {
    // SAFETY: the caller's contract; a group whose columns do not exist is passed over.
    unsafe {
        if !L::NARROW || T <= 3 {
            return sums::<L, W, G, T>(out, w, x, steps);
        }
        // Sixteen registers of eight lanes hold the sums of one group beside the operands.
        let parts = w.into_iter().enumerate().take_while(|(g, _)| out.width > 16 * g);
        let parts =
            parts.map(|(g, w)| (Out { y: out.y.add(16 * g), width: out.width - 16 * g, ..out }, w));
        if W == W_BF16 {
            return widened::<L, T>(parts, x, steps);
        }
        parts.for_each(|(out, w)| sums::<L, W, 1, T>(out, [w], x, steps));
    }
}

/// Steps whose pairs of bf16 are widened at once: with 6 rows 6 KB.
const WIDENED: usize = 128;

/// Products of bf16 where nothing multiplies pairs: what all groups share of `x` is widened once, piece by piece, so
/// that the loop has it as f32 from memory.
///
/// # Safety
///
/// As `dense`, of each part; T is 6 at most.
#[inline(always)]
unsafe fn widened<L: Lanes, const T: usize>(
    parts: impl Iterator<Item = (Out, *const u8)> + Clone,
    x: *const u32,
    steps: usize,
) {
    let mut halves = [[0.0f32; 6 * WIDENED]; 2];
    let mut from = 0;
    // SAFETY: the caller's contract; a piece is within `steps`, and its words within `halves`.
    unsafe {
        while from < steps.max(1) {
            let n = WIDENED.min(steps - from);
            let [first, second] = &mut halves;
            for i in 0..n * T {
                let pair = *x.add(from * T + i);
                first[i] = f32::from_bits(pair << 16);
                second[i] = f32::from_bits(pair & 0xffff_0000);
            }
            for (out, w) in parts.clone() {
                let out = Out { resume: out.resume || from > 0, ..out };
                pairs::<L, T>(out, w.add(from * 64), halves.each_ref().map(|x| x.as_ptr()), n);
            }
            from += WIDENED;
        }
    }
}

/// One group of pairs of bf16 by T rows whose first and second numbers are f32, `steps` pairs of columns.
///
/// # Safety
///
/// As `dense`.
#[inline(always)]
unsafe fn pairs<L: Lanes, const T: usize>(
    out: Out,
    w: *const u8,
    [first, second]: [*const f32; 2],
    steps: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut sum: [L::F; T] = std::array::from_fn(|t| out.start::<L>(t, 0));
        for k in 0..steps {
            let w = w.add(k * 64);
            let w0 = L::first_bf16(L::load_bytes(w));
            for t in 0..T {
                sum[t] = L::fma(w0, L::splat(*first.add(k * T + t)), sum[t]);
            }
            // Read again: kept meanwhile it would cost the registers of a sum.
            let w1 = L::second_bf16(L::load_bytes(std::hint::black_box(w)));
            for t in 0..T {
                sum[t] = L::fma(w1, L::splat(*second.add(k * T + t)), sum[t]);
            }
        }
        for (t, &sum) in sum.iter().enumerate() {
            out.finish::<L>(t, 0, sum);
        }
    }
}

/// # Safety
///
/// As `dense`.
#[inline(always)]
unsafe fn sums<L: Lanes, const W: u8, const G: usize, const T: usize>(
    out: Out,
    w: [*const u8; G],
    x: *const u32,
    steps: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut sum = [[L::splat(0.0); G]; T];
        for t in 0..T {
            for g in 0..G {
                sum[t][g] = out.start::<L>(t, g);
            }
        }
        for k in 0..steps {
            let x = x.add(k * T);
            if W == W_BF16 {
                let w: [L::B; G] = std::array::from_fn(|g| L::load_bytes(w[g].add(k * 64)));
                for t in 0..T {
                    let x = *x.add(t) as i32;
                    for g in 0..G {
                        sum[t][g] = L::dot2_bf16(sum[t][g], w[g], x);
                    }
                }
            } else {
                let w: [L::F; G] = std::array::from_fn(|g| match W {
                    W_F32 => L::load(w[g].add(k * 64).cast()),
                    _ => L::load_f16(w[g].add(k * 32)),
                });
                for t in 0..T {
                    let x = L::splat(f32::from_bits(*x.add(t)));
                    for g in 0..G {
                        sum[t][g] = L::fma(w[g], x, sum[t][g]);
                    }
                }
            }
        }
        for t in 0..T {
            for g in 0..G {
                out.finish::<L>(t, g, sum[t][g]);
            }
        }
    }
}

/// Bytes that a single row of a block format asks for ahead: the processor follows the stream by
/// itself, and this is worth 1 to 6 % beside that (1 KB: nothing).
const AHEAD: usize = 2048;

/// One row by a group of a block format, read where it lies.
///
/// # Safety
///
/// The contract of `Lanes`; the group holds `blocks` blocks of format `F` and `x` as many blocks
/// of one row; `out` is writable as it says.
#[inline(always)]
pub(super) unsafe fn one_row<L: Lanes, const F: u8>(
    out: Out,
    w: *const u8,
    x: *const u32,
    blocks: usize,
) {
    let c = super::layout::codes(super::unpack::format::<F>()).expect("a block format");
    // SAFETY: the caller's contract.
    unsafe {
        let mut sum = out.start::<L>(0, 0);
        for b in 0..blocks {
            let x = x.add(b * BLOCK_WORDS);
            let word = |i: usize| *x.add(i) as i32;
            let float = |i: usize| L::splat(f32::from_bits(*x.add(i)));
            for line in 0..c.block_bytes.div_ceil(64) {
                // The end of a group asks for the next one's beginning.
                L::prefetch(w.wrapping_add(b * c.block_bytes + AHEAD + 64 * line));
            }
            let u = unpack::<L, F>(w, b);
            // Two chains for each half of the codes, joined exactly. Lower codes of zero are not
            // skipped: one row waits for memory, and a branch only cost it cycles.
            let zero = L::splat_i(0);
            let (mut upper, mut lower) = ([zero; 2], [zero; 2]);
            for j in 0..4 {
                for h in 0..2 {
                    upper[h] = L::dot4(upper[h], u.codes[4 * h + j], word(4 * h + j));
                    lower[h] = L::dot4(lower[h], u.codes[4 * h + j], word(8 + 4 * h + j));
                }
            }
            let start = |h: usize| L::splat_i(word(STARTS + h));
            let join = |up, low| L::add_i(L::shift_left::<LOWER>(up), low);
            if c.sub16 {
                for h in 0..2 {
                    let whole = L::add_i(join(upper[h], lower[h]), start(h));
                    sum = L::fma(L::to_f(whole), L::mul(u.scale[h], float(SCALE)), sum);
                }
            } else {
                let upper = L::add_i(upper[0], upper[1]);
                let lower = L::add_i(lower[0], lower[1]);
                let whole = L::add_i(join(upper, lower), start(0));
                sum = L::fma(L::to_f(whole), L::mul(u.scale[0], float(SCALE)), sum);
            }
            if c.min {
                sum = L::fma(u.min[0], float(SUMS), sum);
            }
            if c.min && c.sub16 {
                sum = L::fma(u.min[1], float(SUMS + 1), sum);
            }
        }
        out.finish::<L>(0, 0, sum);
    }
}

/// Bytes of one block of one group in a panel: eight vectors of codes, two of scales, two of minima
/// (those that the format has).
pub(super) const PANEL_BLOCK: usize = 12 * 64;

/// Unpacks `blocks` blocks of a group, from block `from`, to every `stride`-th block of a panel.
///
/// # Safety
///
/// The contract of `Lanes`; the group holds the blocks; `panel` is writable at every `stride`-th
/// block.
#[inline(always)]
pub(super) unsafe fn fill_panel<L: Lanes, const F: u8>(
    panel: *mut u8,
    stride: usize,
    w: *const u8,
    from: usize,
    blocks: usize,
) {
    let c = super::layout::codes(super::unpack::format::<F>()).expect("a block format");
    for b in 0..blocks {
        // SAFETY: the caller's contract.
        unsafe {
            let u = unpack::<L, F>(w, from + b);
            let p = panel.add(b * stride * PANEL_BLOCK);
            for j in 0..8 {
                L::store_bytes(p.add(64 * j), u.codes[j]);
            }
            for s in 0..if c.sub16 { 2 } else { 1 } {
                L::store(p.add(512 + 64 * s).cast(), u.scale[s]);
                if c.min {
                    L::store(p.add(640 + 64 * s).cast(), u.min[s]);
                }
            }
        }
    }
}

/// G groups of an unpacked panel by T rows.
///
/// # Safety
///
/// The contract of `Lanes`; `panel` holds G times `blocks` blocks, `x` as many blocks of T rows;
/// `out` is writable as it says.
#[inline(always)]
pub(super) unsafe fn panel<
    L: Lanes,
    const SUB16: bool,
    const MIN: bool,
    const G: usize,
    const T: usize,
>(
    out: Out,
    panel: *const u8,
    x: *const u32,
    blocks: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut sum = [[L::splat(0.0); G]; T];
        for t in 0..T {
            for g in 0..G {
                sum[t][g] = out.start::<L>(t, g);
            }
        }
        for b in 0..blocks {
            let p = panel.add(b * G * PANEL_BLOCK);
            let x = x.add(b * T * BLOCK_WORDS);
            let parts = if *x.add(LOWERS * T) == 0 { 1 } else { 2 };
            for half in 0..if SUB16 { 2 } else { 1 } {
                let (first, last) = if SUB16 { (4 * half, 4 * half + 4) } else { (0, 8) };
                let mut whole = [[L::splat_i(0); G]; T];
                for part in 0..parts {
                    for j in first..last {
                        let w: [L::B; G] =
                            std::array::from_fn(|g| L::load_bytes(p.add(g * PANEL_BLOCK + 64 * j)));
                        for t in 0..T {
                            let x = *x.add((8 * part + j) * T + t) as i32;
                            for g in 0..G {
                                whole[t][g] = L::dot4(whole[t][g], w[g], x);
                            }
                        }
                    }
                    if part == 0 {
                        // The upper codes count 128 times; the rest is added to them.
                        for t in 0..T {
                            let start = L::splat_i(*x.add((STARTS + half) * T + t) as i32);
                            for g in 0..G {
                                let upper = L::shift_left::<LOWER>(whole[t][g]);
                                whole[t][g] = L::add_i(upper, start);
                            }
                        }
                    }
                }
                for g in 0..G {
                    let q = p.add(g * PANEL_BLOCK + 512 + 64 * half);
                    let scale = L::load(q.cast());
                    for t in 0..T {
                        let d = L::splat(f32::from_bits(*x.add(SCALE * T + t)));
                        sum[t][g] = L::fma(L::to_f(whole[t][g]), L::mul(scale, d), sum[t][g]);
                    }
                }
            }
            if MIN {
                minima::<L, SUB16, G, T>(&mut sum, p, x);
            }
        }
        for t in 0..T {
            for g in 0..G {
                out.finish::<L>(t, g, sum[t][g]);
            }
        }
    }
}

/// Adds what the minima of a block's weights make of the sums of its activations.
///
/// # Safety
///
/// As [`panel`], of one block at `p` and `x`.
#[inline(always)]
unsafe fn minima<L: Lanes, const SUB16: bool, const G: usize, const T: usize>(
    sum: &mut [[L::F; G]; T],
    p: *const u8,
    x: *const u32,
) {
    // SAFETY: the caller's contract.
    unsafe {
        for half in 0..if SUB16 { 2 } else { 1 } {
            for g in 0..G {
                let min = L::load(p.add(g * PANEL_BLOCK + 640 + 64 * half).cast());
                for t in 0..T {
                    let s = L::splat(f32::from_bits(*x.add((SUMS + half) * T + t)));
                    sum[t][g] = L::fma(min, s, sum[t][g]);
                }
            }
        }
    }
}
