//! Products by the tile unit: sixteen rows of activations by sixteen outputs at a time.
//!
//! bf16 and f16 weights take any number of rows through the same products of tiles, 32 columns a
//! step from column 0, so one row has the bits it has among many. f16 weights are split exactly
//! into two bf16 (11 bits = 8 + 3), whose products follow each other in each step. Block formats
//! take tiles of bytes, exact, and scale each block as `kernels::panel` does, so they have the
//! bits of the vector kernels, which serve one and two rows.

use super::activations::{BLOCK_WORDS, LOWER, SCALE, SUMS, TILE_ROWS, words};
use super::entry::Entry;
use super::kernels::{Out, PANEL_BLOCK};
use super::layout::{BLOCK, Codes, GROUP, codes};
use super::{Job, fill_blocks};
use crate::Format;
use crate::buffer::Buffer;
use crate::cpu::Cpu;
use crate::lanes::Lanes;
use crate::tiles::{BYTES, ROW_BYTES, Shape, Tiles};
use std::cell::Cell;
use std::ops::Range;

/// Rows of a block format up to which vectors are used: they read the weights where they lie,
/// tiles only after unpacking.
pub(super) const VECTOR_ROWS: usize = 2;

/// Columns that all rows of a task are taken through before the next. Of bf16, two groups are
/// 32 KiB and stay in the first cache (48 KiB), 512 rows are 512 KiB and stay in the second (2 MiB).
const CHUNK: usize = 512;

/// Bytes of unpacked weights: four groups of f16 in two parts, or one group of blocks.
const PANEL_BYTES: usize = 4 * 2 * (CHUNK / BLOCK) * BYTES;
const _: () = assert!(PANEL_BYTES >= CHUNK / BLOCK * PANEL_BLOCK);

/// Blocks whose products are started before the block that is scaled. A product takes about 52
/// cycles from first to last and its store a few more; scaling sixteen rows takes about 40.
const AHEAD: usize = 2;
/// Blocks whose products lie in the ring.
const RING: usize = 4;
const _: () = assert!(AHEAD < RING);
/// i32 of a tile of products.
const TILE: usize = TILE_ROWS * GROUP;
/// i32 that the products of a block take in the ring: of each half of its columns, those of the
/// upper and of the lower codes.
const RING_BLOCK: usize = 4 * TILE;
const RING_BYTES: usize = RING * RING_BLOCK * 4;

thread_local! {
    /// A thread's panel of unpacked weights, and behind it its ring of block products.
    static SPACE: Cell<Option<Buffer>> = const { Cell::new(None) };
}

/// Computes task `i` of a job whose activations are laid in tiles of sixteen rows.
///
/// # Safety
///
/// The machine runs the class `amx`, or `cpu` emulates it; no other task writes the columns of y
/// of task `i`.
pub(super) unsafe fn run_task(cpu: &Cpu, job: &Job<'_>, i: usize) {
    #[cfg(test)]
    if cpu.emulates_tiles {
        // SAFETY: the caller's contract; this machine runs `lanes`.
        return unsafe { emulated::run_task(cpu, job, i) };
    }
    assert_eq!(cpu.class, crate::Class::Amx, "tiles belong to the class amx");
    // SAFETY: the caller's contract.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        run_on_hardware(job, i);
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("checked by Cpu::new");
}

/// # Safety
///
/// As `run_task`, on a machine that has the unit.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,fma,f16c")]
unsafe fn run_on_hardware(job: &Job<'_>, i: usize) {
    // SAFETY: the caller's contract.
    unsafe { task::<crate::lanes::Avx512, crate::tiles::Hardware>(job, i) }
}

/// # Safety
///
/// The machine has L and U; else as `run_task`.
#[inline(always)]
unsafe fn task<L: Entry, U: Tiles>(job: &Job<'_>, i: usize) {
    let blocks = codes(job.w.format);
    let groups = i * job.grain..job.w.groups().min((i + 1) * job.grain);
    // Two groups share what is read of x; for few rows, four are four streams from memory.
    let width = match blocks {
        Some(_) => 1,
        None if job.rows <= TILE_ROWS => 4,
        None => 2,
    };
    let chunks = job.w.cols.div_ceil(CHUNK).max(1);
    // Few rows meet each weight once: walk a group to its end, as it lies in memory.
    let stretch = if job.rows <= 2 * TILE_ROWS { chunks } else { 1 };
    let mut space = SPACE.take().unwrap_or_else(|| Buffer::zeroed(PANEL_BYTES + RING_BYTES));
    let (panel, ring) = space.bytes_mut().split_at_mut(PANEL_BYTES);
    // SAFETY: the caller's contract; the panel and the ring have the sizes that parts ask for.
    unsafe {
        let mut unit = U::new();
        for first in (0..chunks).step_by(stretch) {
            for g in groups.clone().step_by(width) {
                for chunk in first..chunks.min(first + stretch) {
                    let cols = chunk * CHUNK..job.w.cols.min((chunk + 1) * CHUNK);
                    let part = Part { job, g, width, n: width.min(groups.end - g), cols };
                    match (blocks, job.w.format) {
                        (Some(c), _) => {
                            part.blocks::<L, U>(
                                &mut unit,
                                c,
                                panel.as_mut_ptr(),
                                ring.as_mut_ptr(),
                            );
                        }
                        (None, Format::F16) => {
                            part.pairs::<L, U, 2>(&mut unit, panel.as_mut_ptr());
                        }
                        (None, _) => part.pairs::<L, U, 1>(&mut unit, panel.as_mut_ptr()),
                    }
                }
            }
        }
    }
    SPACE.set(Some(space));
}

/// Some groups and columns of a product, for all its rows.
struct Part<'a> {
    job: &'a Job<'a>,
    /// The first group, how many the kernel takes, and how many of these exist.
    g: usize,
    width: usize,
    n: usize,
    /// From a multiple of CHUNK on, at most CHUNK.
    cols: Range<usize>,
}

impl Part<'_> {
    /// Where rows `t ..` (at most `most`) write; sums of later columns go on from what is there.
    ///
    /// # Safety
    ///
    /// Row `t` exists.
    #[inline(always)]
    unsafe fn out(&self, t: usize, most: usize) -> Out {
        let rows = most.min(self.job.rows - t);
        // SAFETY: the caller's contract; the groups exist.
        let out = unsafe { self.job.out(t, rows, self.g, self.n) };
        Out { resume: self.cols.start > 0, ..out }
    }

    /// bf16, or f16 in two PARTS.
    ///
    /// # Safety
    ///
    /// As `task`; `panel` is writable for PANEL_BYTES.
    #[inline(always)]
    unsafe fn pairs<L: Lanes, U: Tiles, const PARTS: usize>(&self, unit: &mut U, panel: *mut u8) {
        let steps = self.cols.len().div_ceil(BLOCK);
        let row_words = words(super::Kind::PairTiles, self.job.w.cols);
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

    /// A block format.
    ///
    /// # Safety
    ///
    /// As `task`; `panel` and `ring` are writable for PANEL_BYTES and RING_BYTES.
    #[inline(always)]
    unsafe fn blocks<L: Entry, U: Tiles>(
        &self,
        unit: &mut U,
        c: Codes,
        panel: *mut u8,
        ring: *mut u8,
    ) {
        let job = self.job;
        let (from, n) = (self.cols.start / BLOCK, self.cols.len() / BLOCK);
        let row_words = job.w.cols / BLOCK * BLOCK_WORDS;
        // SAFETY: the caller's contract; x was laid with these sizes.
        unsafe {
            fill_blocks::<L>(job.w.format, panel, job.group(self.g), from, n);
            subtract_zero(panel, n, c.zero);
            for t in (0..job.rows).step_by(TILE_ROWS) {
                let out = self.out(t, TILE_ROWS);
                let x = job.x[t * row_words + from * TILE_ROWS * BLOCK_WORDS..].as_ptr();
                let ring = ring.cast::<i32>();
                match (c.sub16, c.min, out.rows <= 8) {
                    (false, false, true) => {
                        scaled::<L, U, false, false, 8>(unit, out, panel, x, n, ring)
                    }
                    (false, true, true) => {
                        scaled::<L, U, false, true, 8>(unit, out, panel, x, n, ring)
                    }
                    (true, false, true) => {
                        scaled::<L, U, true, false, 8>(unit, out, panel, x, n, ring)
                    }
                    (true, true, true) => {
                        scaled::<L, U, true, true, 8>(unit, out, panel, x, n, ring)
                    }
                    (false, false, false) => {
                        scaled::<L, U, false, false, 16>(unit, out, panel, x, n, ring)
                    }
                    (false, true, false) => {
                        scaled::<L, U, false, true, 16>(unit, out, panel, x, n, ring)
                    }
                    (true, false, false) => {
                        scaled::<L, U, true, false, 16>(unit, out, panel, x, n, ring)
                    }
                    (true, true, false) => {
                        scaled::<L, U, true, true, 16>(unit, out, panel, x, n, ring)
                    }
                }
            }
        }
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

/// Makes the codes of `blocks` blocks of a panel signed: they stand for `scale * code + min`.
///
/// # Safety
///
/// The panel holds the blocks.
#[inline(always)]
unsafe fn subtract_zero(panel: *mut u8, blocks: usize, zero: i32) {
    if zero == 0 {
        return;
    }
    for b in 0..blocks {
        // SAFETY: the caller's contract; the codes are the first 512 bytes of a block.
        let codes = unsafe { &mut *panel.add(b * PANEL_BLOCK).cast::<[u8; BLOCK * GROUP]>() };
        for code in codes {
            *code = code.wrapping_sub(zero as u8);
        }
    }
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

/// Registers of the products of blocks, in two sets so that one need not wait for the other: sums
/// of upper and lower codes (0, 1 and 6, 7), weights (4 and 5); 2 and 3 are the codes.
#[inline(always)]
fn block_shape(rows: usize, sub16: bool) -> Shape {
    let columns = if sub16 { BLOCK / 2 } else { BLOCK };
    let (c, a, b) = ((rows, ROW_BYTES), (rows, columns), (columns / 4, ROW_BYTES));
    Shape::new([c, c, a, a, b, b, c, c])
}

/// One group of an unpacked panel of signed codes by at most T rows: products of tiles run ahead
/// of the vectors that scale them. The same operations on floats as in `kernels::panel`.
///
/// # Safety
///
/// As `task`; `panel` holds `blocks` blocks, `x` as many of 16 rows, `ring` RING_BYTES; `out` is
/// writable as it says.
#[inline(always)]
unsafe fn scaled<L: Lanes, U: Tiles, const SUB16: bool, const MIN: bool, const T: usize>(
    unit: &mut U,
    out: Out,
    panel: *const u8,
    x: *const u32,
    blocks: usize,
    ring: *mut i32,
) {
    let halves = if SUB16 { 2 } else { 1 };
    // SAFETY: the caller's contract.
    unsafe {
        unit.configure(&block_shape(out.rows, SUB16));
        let mut sum = [L::splat(0.0); T];
        for t in 0..T {
            sum[t] = out.start::<L>(t, 0);
        }
        for b in 0..AHEAD.min(blocks) {
            multiply::<U, SUB16>(unit, b, panel, x, ring);
        }
        for b in 0..blocks {
            if b + AHEAD < blocks {
                multiply::<U, SUB16>(unit, b + AHEAD, panel, x, ring);
            }
            let q = panel.add(b * PANEL_BLOCK + BLOCK * GROUP).cast::<f32>();
            let x = x.add(b * TILE_ROWS * BLOCK_WORDS).cast::<f32>();
            let c = ring.add(b % RING * RING_BLOCK);
            let scale = [L::load(q), L::load(q.add(GROUP))];
            let min = [L::load(q.add(2 * GROUP)), L::load(q.add(3 * GROUP))];
            for t in 0..T {
                let word = |i: usize| L::splat(*x.add(i * TILE_ROWS + t));
                for half in 0..halves {
                    let c = c.add(2 * half * TILE + t * GROUP);
                    let upper = L::shift_left::<LOWER>(L::load_i(c));
                    let whole = L::add_i(upper, L::load_i(c.add(TILE)));
                    sum[t] = L::fma(L::to_f(whole), L::mul(scale[half], word(SCALE)), sum[t]);
                }
                for half in 0..if MIN { halves } else { 0 } {
                    sum[t] = L::fma(min[half], word(SUMS + half), sum[t]);
                }
            }
        }
        for t in 0..T {
            out.finish::<L>(t, 0, sum[t]);
        }
    }
}

/// The products of block `b`, into the ring.
///
/// # Safety
///
/// As `scaled`.
#[inline(always)]
unsafe fn multiply<U: Tiles, const SUB16: bool>(
    unit: &mut U,
    b: usize,
    panel: *const u8,
    x: *const u32,
    ring: *mut i32,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let w = panel.add(b * PANEL_BLOCK);
        let x = x.add(b * TILE_ROWS * BLOCK_WORDS).cast::<u8>();
        let c = ring.add(b % RING * RING_BLOCK);
        if SUB16 {
            products::<U, 0, 1, 4>(unit, c, x, w);
            let (x, w) = (x.add(BLOCK / 2), w.add(BLOCK / 2 * GROUP));
            products::<U, 6, 7, 5>(unit, c.add(2 * TILE), x, w);
        } else if b.is_multiple_of(2) {
            products::<U, 0, 1, 4>(unit, c, x, w);
        } else {
            products::<U, 6, 7, 5>(unit, c, x, w);
        }
    }
}

/// c = x w for the upper and then the lower codes of x, by the registers UP, LOW and W.
///
/// # Safety
///
/// As `scaled`; the registers have the shapes of `block_shape`.
#[inline(always)]
unsafe fn products<U: Tiles, const UP: u8, const LOW: u8, const W: u8>(
    unit: &mut U,
    c: *mut i32,
    x: *const u8,
    w: *const u8,
) {
    // SAFETY: the caller's contract.
    unsafe {
        unit.zero::<UP>();
        unit.zero::<LOW>();
        unit.load::<W>(w, ROW_BYTES);
        unit.load::<2>(x, ROW_BYTES);
        unit.load::<3>(x.add(BLOCK), ROW_BYTES);
        unit.dot_i8::<UP, 2, W>();
        unit.dot_i8::<LOW, 3, W>();
        unit.store::<UP>(c.cast(), ROW_BYTES);
        unit.store::<LOW>(c.add(TILE).cast(), ROW_BYTES);
    }
}

#[cfg(test)]
mod emulated {
    use super::*;
    use crate::Class;
    use crate::lanes::{Avx2, Avx512, Plain};
    use crate::tiles::Emulated;

    /// # Safety
    ///
    /// As the outer `run_task`; this machine runs `cpu.lanes()`.
    pub(super) unsafe fn run_task(cpu: &Cpu, job: &Job<'_>, i: usize) {
        // SAFETY: the caller's contract; the definition of tiles runs everywhere.
        unsafe fn emulate<L: Entry>(job: &Job<'_>, i: usize) {
            // SAFETY: the caller's contract.
            unsafe { task::<L, Emulated>(job, i) }
        }
        // SAFETY: the caller's contract.
        unsafe { by_class!(cpu.lanes(), emulate(job, i)) }
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
