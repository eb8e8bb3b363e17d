//! Products of block formats: exact on tiles of bytes, scaled and added by vectors.

use super::super::activations::{BLOCK_WORDS, LOWER, SCALE, SUMS, TILE_ROWS};
use super::super::entry::Entry;
use super::super::kernels::{Out, PANEL_BLOCK};
use super::super::layout::{BLOCK, Codes, GROUP};
use super::{Part, fill_blocks};
use crate::lanes::Lanes;
use crate::tiles::{ROW_BYTES, Shape, Tiles};

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
/// Bytes of the ring.
pub(super) const RING_BYTES: usize = RING * RING_BLOCK * 4;

impl Part<'_> {
    /// A block format.
    ///
    /// # Safety
    ///
    /// As `task`; `panel` and `ring` are writable for PANEL_BYTES and RING_BYTES.
    #[inline(always)]
    pub unsafe fn blocks<L: Entry, U: Tiles>(
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
                macro_rules! call {
                    ($sub16:literal, $min:literal, $rows:literal) => {
                        scaled::<L, U, $sub16, $min, $rows>(unit, out, panel, x, n, ring)
                    };
                }
                match (c.sub16, c.min, out.rows <= 8) {
                    (false, false, true) => call!(false, false, 8),
                    (false, true, true) => call!(false, true, 8),
                    (true, false, true) => call!(true, false, 8),
                    (true, true, true) => call!(true, true, 8),
                    (false, false, false) => call!(false, false, 16),
                    (false, true, false) => call!(false, true, 16),
                    (true, false, false) => call!(true, false, 16),
                    (true, true, false) => call!(true, true, 16),
                }
            }
        }
    }
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
    // SAFETY: the caller's contract.
    unsafe {
        unit.configure(&block_shape(out.rows, SUB16));
        let mut sum = [[L::splat(0.0); 8]; 2];
        for t in 0..T {
            sum[t / 8][t % 8] = out.start::<L>(t, 0);
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
            scale_eight::<L, SUB16, MIN>(&mut sum[0], q, x, c);
            if T > 8 {
                scale_eight::<L, SUB16, MIN>(&mut sum[1], q, x.add(8), c.add(8 * GROUP));
            }
        }
        for t in 0..T {
            out.finish::<L>(t, 0, sum[t / 8][t % 8]);
        }
    }
}

/// Adds the products `c` of a block to the sums of eight rows, times the scales at `q` and those
/// of the rows. Eight, so that the compiler unrolls the loop and keeps the sums in registers.
///
/// # Safety
///
/// The contract of `Lanes`; `q`, `x` and `c` hold a block of a panel from its scales on, of
/// activations, and of the ring.
#[inline(always)]
unsafe fn scale_eight<L: Lanes, const SUB16: bool, const MIN: bool>(
    sum: &mut [L::F; 8],
    q: *const f32,
    x: *const f32,
    c: *const i32,
) {
    let halves = if SUB16 { 2 } else { 1 };
    // SAFETY: the caller's contract.
    unsafe {
        let scale = [L::load(q), L::load(q.add(GROUP))];
        let min = [L::load(q.add(2 * GROUP)), L::load(q.add(3 * GROUP))];
        for t in 0..8 {
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
