//! Factors laid for a product: words of one or two terms, tiles of rows beside panels of columns.
//!
//! A *word* is what one lane multiplies in one step: an f32, or two bf16 that follow each other
//! along the sum. The left factor lies in tiles of some rows, `[step][row]` (for the tile unit
//! `[16 steps][row][step]`), the right one in panels of sixteen columns, `[step][column]`.

use super::super::activations::{Kind, TILE_ROWS};
use super::super::entry::Entry;
use super::super::kernels::{Out, PANEL_BLOCK};
use super::super::layout::{BLOCK, GROUP, codes};
use super::super::{Packed, fill_blocks};
use super::Rows;
use crate::Format;
use crate::cpu::Parts;
use crate::lanes::{Lanes, Plain};
use half::bf16;

#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};

/// Terms in a word.
pub(super) const fn terms(kind: Kind) -> usize {
    match kind {
        Kind::Floats => 1,
        Kind::Pairs | Kind::PairTiles | Kind::Codes { .. } => 2,
    }
}

/// Steps of a sum of `n` terms: whole tiles for the tile unit, the rest being zero.
pub(in crate::gemm) const fn steps(kind: Kind, n: usize) -> usize {
    match kind {
        Kind::Floats => n,
        Kind::Pairs | Kind::Codes { .. } => n.div_ceil(2),
        Kind::PairTiles => n.div_ceil(BLOCK) * (BLOCK / 2),
    }
}

/// Numbers of f32, row by row.
#[derive(Clone, Copy)]
pub(in crate::gemm) struct Matrix<'a> {
    pub x: &'a [f32],
    /// Numbers in a row.
    pub stride: usize,
}

impl Matrix<'_> {
    /// Rows, the first of which may lack its first columns.
    fn rows(self) -> usize {
        self.x.len().div_ceil(self.stride)
    }

    /// Columns from the first number to the end of its row.
    fn cols(self) -> usize {
        self.x.len() - (self.rows() - 1) * self.stride
    }

    /// The words of sixteen columns from `col` on in step `s` of a sum over rows.
    ///
    /// # Safety
    ///
    /// The contract of `Lanes`.
    #[inline(always)]
    unsafe fn step<L: Lanes>(self, kind: Kind, s: usize, col: usize) -> L::B {
        let (t, left) = (s * terms(kind), self.cols().saturating_sub(col));
        // SAFETY: the caller's contract; row t has `left` numbers from `col` on.
        unsafe {
            let zero = L::splat(0.0);
            if t >= self.rows() || left == 0 {
                return float_words::<L>(zero);
            }
            let p = self.x.as_ptr().add(t * self.stride + col);
            let first = load::<L>(p, left);
            if kind == Kind::Floats {
                return float_words::<L>(first);
            }
            let odd = t + 1 == self.rows();
            L::pairs_bf16(first, if odd { zero } else { load::<L>(p.add(self.stride), left) })
        }
    }
}

/// Where words go: `out` holds tiles of `rows` rows, each of `steps` steps.
#[derive(Clone, Copy)]
pub(in crate::gemm) struct Place {
    pub kind: Kind,
    pub rows: usize,
    pub steps: usize,
}

impl Place {
    /// Words of a tile.
    pub fn words(self) -> usize {
        self.rows * self.steps
    }
}

/// The functions of this file and the sum of tiles, compiled for each class.
macro_rules! compiled {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?);)+) => {
        /// # Safety
        ///
        /// The machine runs the class.
        pub(in crate::gemm) trait Compiled: Entry {
            $($(#[$doc])* unsafe fn $name($($arg: $type),*);)+
        }
        compiled!(@ Plain, inline(never), $(fn $name($($arg: $type),*);)+);
        #[cfg(target_arch = "x86_64")]
        compiled!(
            @ Avx2, target_feature(enable = "avx2,fma,f16c"),
            $(fn $name($($arg: $type),*);)+
        );
        #[cfg(target_arch = "x86_64")]
        compiled!(
            @ Avx512, target_feature(
                enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,fma,f16c"
            ),
            $(fn $name($($arg: $type),*);)+
        );
    };
    (@ $lanes:ty, $enable:meta, $(fn $name:ident($($arg:ident: $type:ty),*);)+) => {
        impl Compiled for $lanes {
            $(unsafe fn $name($($arg: $type),*) {
                #[$enable]
                unsafe fn go($($arg: $type),*) {
                    // SAFETY: the caller's contract.
                    unsafe { $name::<$lanes>($($arg),*) }
                }
                // SAFETY: the caller's contract.
                unsafe { go($($arg),*) }
            })+
        }
    };
}

compiled! {
    /// A tile from rows along which the sum runs.
    fn lay_along(out: &mut [u32], x: Matrix<'_>, cols: usize, place: Place);
    /// Tiles from columns along which the sum runs.
    fn lay_across(out: &mut [u32], at: usize, x: Matrix<'_>, place: Place);
    /// A few steps of tiles from columns along which the sum runs.
    fn lay_steps(out: Parts<u32>, at: usize, x: Matrix<'_>, place: Place);
    /// Panels from columns of saved rows.
    fn lay_saved(out: &mut [u32], at: usize, x: Rows<'_>, stride: usize, place: Place);
    /// A pair of panels from the rows of weights.
    fn lay_weights(out: &mut [u32], w: &Packed, groups: (usize, usize), col: usize, place: Place);
    /// Adds a tile of sums.
    fn add_tile(out: Out, sums: &[[f32; 2 * GROUP]]);
}

/// `n` numbers at `p`, at most sixteen, then zeros.
///
/// # Safety
///
/// The contract of `Lanes`; `p` is readable for that many.
#[inline(always)]
unsafe fn load<L: Lanes>(p: *const f32, n: usize) -> L::F {
    // SAFETY: the caller's contract.
    unsafe {
        if n >= 16 {
            return L::load(p);
        }
        let mut part = [0.0f32; 16];
        p.copy_to_nonoverlapping(part.as_mut_ptr(), n);
        L::load(part.as_ptr())
    }
}

/// The f32 of sixteen lanes as words.
///
/// # Safety
///
/// The contract of `Lanes`.
#[inline(always)]
unsafe fn float_words<L: Lanes>(x: L::F) -> L::B {
    // SAFETY: the caller's contract; the array is 64 bytes.
    unsafe { L::load_bytes(L::to_array(x).as_ptr().cast()) }
}

/// Sixteen words to the beginning of `out`, or as many as fit: those of rows that a tile lacks
/// lie where the next step writes its own.
///
/// # Safety
///
/// The contract of `Lanes`.
#[inline(always)]
unsafe fn put<L: Lanes>(out: &mut [u32], words: L::B) {
    // SAFETY: the caller's contract; `out` holds what is written.
    unsafe {
        if out.len() >= 16 {
            return L::store_bytes(out.as_mut_ptr().cast(), words);
        }
        let mut all = [0u32; 16];
        L::store_bytes(all.as_mut_ptr().cast(), words);
        let n = out.len();
        out.copy_from_slice(&all[..n]);
    }
}

/// One tile of the rows of `x`, at most `place.rows`, over their first `cols` numbers; rows and
/// terms that are missing are zero.
///
/// # Safety
///
/// The contract of `Lanes`.
#[inline(always)]
pub(super) unsafe fn lay_along<L: Lanes>(
    out: &mut [u32],
    x: Matrix<'_>,
    cols: usize,
    place: Place,
) {
    assert!(place.rows <= 16 && out.len() == place.words(), "lay: wrong tile");
    let rows = x.x.len().div_ceil(x.stride).min(place.rows);
    assert!((rows - 1) * x.stride + cols <= x.x.len(), "lay: the last row is too short");
    let per = terms(place.kind);
    for s in (0..place.steps).step_by(16) {
        let left = cols.saturating_sub(s * per);
        // SAFETY: the caller's contract; each row has `cols` numbers, of which `left` from here.
        unsafe {
            let zero = L::splat(0.0);
            let mut words = [float_words::<L>(zero); 16];
            for r in 0..if left > 0 { rows } else { 0 } {
                let p = x.x.as_ptr().add(r * x.stride + s * per);
                words[r] = if per == 1 {
                    float_words::<L>(load::<L>(p, left))
                } else {
                    let second = if left > 16 { load::<L>(p.add(16), left - 16) } else { zero };
                    L::join_bf16(load::<L>(p, left), second)
                };
            }
            if place.kind == Kind::PairTiles {
                for r in 0..TILE_ROWS {
                    put::<L>(&mut out[(s + r) * 16..], words[r]);
                }
                continue;
            }
            L::transpose(&mut words);
            for j in 0..16.min(place.steps - s) {
                put::<L>(&mut out[(s + j) * place.rows..], words[j]);
            }
        }
    }
}

/// Tiles of the columns of `x` from step `at` on: the sum runs over its rows. `out` begins with
/// column 0 of the first row; columns past the row's end are zero.
///
/// # Safety
///
/// The contract of `Lanes`; `x` is whole rows, but for columns before the first.
#[inline(always)]
pub(super) unsafe fn lay_across<L: Lanes>(out: &mut [u32], at: usize, x: Matrix<'_>, place: Place) {
    let steps = steps(place.kind, x.rows());
    let tiles = out.len() / place.words();
    assert!(at + steps <= place.steps, "lay: too many steps");
    // SAFETY: the caller's contract.
    unsafe {
        if place.kind == Kind::PairTiles {
            for s in (0..steps).step_by(16) {
                for (j, out) in out.chunks_exact_mut(place.words()).enumerate() {
                    let mut words = [float_words::<L>(L::splat(0.0)); 16];
                    for q in 0..16 {
                        words[q] = x.step::<L>(place.kind, s + q, j * place.rows);
                    }
                    L::transpose(&mut words);
                    for r in 0..16 {
                        put::<L>(&mut out[(at + s + r) * 16..], words[r]);
                    }
                }
            }
            return;
        }
        for s in 0..steps {
            for j in 0..tiles {
                let out = &mut out[j * place.words()..][..place.words()];
                let words = x.step::<L>(place.kind, s, j * place.rows);
                put::<L>(&mut out[(at + s) * place.rows..], words);
            }
        }
    }
}

/// Rows ahead of those that `lay_steps` lays which it asks for, a line with each of its own.
pub(super) const ROWS_AHEAD: usize = 24;

/// As `lay_across`, a step of all tiles after the other and no word beyond its steps: several tasks lay
/// steps of one tile. Not for the tile unit.
///
/// # Safety
///
/// As `lay_across`; no other task writes these steps of the tiles.
#[inline(always)]
pub(super) unsafe fn lay_steps<L: Lanes>(out: Parts<u32>, at: usize, x: Matrix<'_>, place: Place) {
    let (steps, tiles) = (steps(place.kind, x.rows()), out.len() / place.words());
    assert!(place.kind != Kind::PairTiles && at + steps <= place.steps, "lay: too many steps");
    let ahead = ROWS_AHEAD * x.stride;
    for s in 0..steps {
        let row = x.x.as_ptr().wrapping_add(s * terms(place.kind) * x.stride + ahead);
        for tile in 0..tiles {
            let (to, col) = (tile * place.words() + (at + s) * place.rows, tile * place.rows);
            // SAFETY: the caller's contract; the words lie in steps of this call, for `to` plus
            // the words of two steps is inside the tile where a vector is longer than one.
            unsafe {
                L::prefetch(row.wrapping_add(col).cast());
                L::prefetch(row.wrapping_add(col + x.stride).cast());
                let words = x.step::<L>(place.kind, s, col);
                if place.rows == GROUP || s + 2 <= steps && 2 * place.rows >= GROUP {
                    L::store_bytes(out.pointer().add(to).cast(), words);
                } else {
                    put::<L>(out.part(to, place.rows), words);
                }
            }
        }
    }
}

/// Panels of the columns of saved rows `x`, which begin at a multiple of 32 of their rows.
///
/// # Safety
///
/// As `lay_across`.
#[inline(always)]
pub(super) unsafe fn lay_saved<L: Lanes>(
    out: &mut [u32],
    at: usize,
    x: Rows<'_>,
    stride: usize,
    place: Place,
) {
    let x = match x {
        Rows::F32(x) => {
            // Panels have the order of vectors in every class; the tile unit's are padded.
            let kind = if place.kind == Kind::PairTiles { Kind::Pairs } else { place.kind };
            // SAFETY: the caller's contract.
            unsafe { lay_across::<L>(out, at, Matrix { x, stride }, Place { kind, ..place }) }
            let tokens = x.len().div_ceil(stride);
            let (from, to) = (steps(kind, tokens), steps(place.kind, tokens));
            for panel in out.chunks_exact_mut(place.words()) {
                panel[(at + from) * GROUP..(at + to) * GROUP].fill(0);
            }
            return;
        }
        Rows::Bf16(x) => x,
    };
    let steps = steps(place.kind, x.len().div_ceil(stride));
    assert!(at + steps <= place.steps, "lay: too many steps");
    for s in 0..steps {
        for (j, pair) in out.chunks_mut(2 * place.words()).enumerate() {
            let (first, second) = pair.split_at_mut(place.words());
            // SAFETY: the caller's contract.
            unsafe {
                let words = if place.kind == Kind::Floats {
                    // A bf16 behind a zero is its own f32.
                    let zero = float_words::<L>(L::splat(0.0));
                    L::zip_halves(zero, halves::<L>(x, stride, s, 32 * j))
                } else {
                    let [a, b] = [2 * s, 2 * s + 1];
                    L::zip_halves(
                        halves::<L>(x, stride, a, 32 * j),
                        halves::<L>(x, stride, b, 32 * j),
                    )
                };
                put::<L>(&mut first[(at + s) * GROUP..], words[0]);
                if !second.is_empty() {
                    put::<L>(&mut second[(at + s) * GROUP..], words[1]);
                }
            }
        }
    }
}

/// Columns `col .. col + 32` of row `t`; zeros where `x` has none.
///
/// # Safety
///
/// The contract of `Lanes`.
#[inline(always)]
unsafe fn halves<L: Lanes>(x: &[bf16], stride: usize, t: usize, col: usize) -> L::B {
    let tokens = x.len().div_ceil(stride);
    let cols = x.len() - (tokens - 1) * stride;
    let mut part = [bf16::ZERO; 32];
    // SAFETY: the caller's contract; 64 bytes are read where row t has them.
    unsafe {
        if t < tokens && cols >= col + 32 {
            return L::load_bytes(x.as_ptr().add(t * stride + col).cast());
        }
        if t < tokens && cols > col {
            part[..cols - col].copy_from_slice(&x[t * stride + col..][..cols - col]);
        }
        L::load_bytes(part.as_ptr().cast())
    }
}

/// The panels of columns `col .. col + 32` (`col` a multiple of 32), the second if `out` has it:
/// the sum runs over the rows of groups `groups.0 .. groups.1`. Steps past them are zero.
///
/// # Safety
///
/// The contract of `Lanes`.
#[inline(always)]
pub(super) unsafe fn lay_weights<L: Entry>(
    out: &mut [u32],
    w: &Packed,
    groups: (usize, usize),
    col: usize,
    place: Place,
) {
    let per_group = GROUP / terms(place.kind);
    let (first, second) = out.split_at_mut(place.words());
    for g in groups.0..groups.1 {
        let at = (g - groups.0) * per_group * GROUP;
        // SAFETY: the caller's contract.
        unsafe {
            let rows = match (w.format, place.kind) {
                (Format::BF16, _) => bf16_rows::<L>(w, g, col),
                (_, Kind::Floats) => {
                    let mut turned = turned_floats::<L>(w, g, col);
                    for (half, out) in [&mut *first, &mut *second].into_iter().enumerate() {
                        if out.is_empty() {
                            continue;
                        }
                        L::transpose(&mut turned[half]);
                        for o in 0..GROUP {
                            put::<L>(&mut out[at + o * GROUP..], turned[half][o]);
                        }
                    }
                    continue;
                }
                (_, _) => rounded_rows::<L>(w, g, col),
            };
            for p in 0..GROUP / 2 {
                let [a, b] = L::zip_halves(rows[2 * p], rows[2 * p + 1]);
                put::<L>(&mut first[at + p * GROUP..], a);
                if !second.is_empty() {
                    put::<L>(&mut second[at + p * GROUP..], b);
                }
            }
        }
    }
    let end = (groups.1 - groups.0) * per_group * GROUP;
    first[end..].fill(0);
    let second_end = end.min(second.len());
    second[second_end..].fill(0);
}

/// Columns `col .. col + 32` of the sixteen rows of group `g` of bf16 weights, as they are.
///
/// # Safety
///
/// The contract of `Lanes`.
#[inline(always)]
unsafe fn bf16_rows<L: Lanes>(w: &Packed, g: usize, col: usize) -> [L::B; 16] {
    let pairs = w.cols.div_ceil(2);
    // SAFETY: the caller's contract; the group holds `pairs` vectors.
    unsafe {
        let mut rows = [float_words::<L>(L::splat(0.0)); 16];
        for j in 0..16.min(pairs - col / 2) {
            rows[j] = L::load_bytes(w.group(g).add((col / 2 + j) * 64));
        }
        L::transpose(&mut rows);
        rows
    }
}

/// The same columns of weights of another format, rounded.
///
/// # Safety
///
/// The contract of `Lanes`.
#[inline(always)]
unsafe fn rounded_rows<L: Entry>(w: &Packed, g: usize, col: usize) -> [L::B; 16] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut halves = turned_floats::<L>(w, g, col);
        L::transpose(&mut halves[0]);
        L::transpose(&mut halves[1]);
        let mut rows = halves[0];
        for o in 0..GROUP {
            let mut row = [0.0f32; BLOCK];
            L::store_bytes(row.as_mut_ptr().cast(), halves[0][o]);
            L::store_bytes(row[16..].as_mut_ptr().cast(), halves[1][o]);
            rows[o] = L::join_bf16(L::load(row.as_ptr()), L::load(row[16..].as_ptr()));
        }
        rows
    }
}

/// f32 of the same columns, a column of sixteen rows a vector; columns past the end are zero.
///
/// # Safety
///
/// The contract of `Lanes`.
#[inline(always)]
unsafe fn turned_floats<L: Entry>(w: &Packed, g: usize, col: usize) -> [[L::B; 16]; 2] {
    let group = w.group(g);
    let n = BLOCK.min(w.cols - col);
    // SAFETY: the caller's contract; the group holds all columns of its sixteen rows.
    unsafe {
        let mut turned = [[float_words::<L>(L::splat(0.0)); 16]; 2];
        if codes(w.format).is_some() {
            let block = block_floats::<L>(w, g, col / BLOCK);
            for k in 0..BLOCK {
                turned[k / 16][k % 16] = L::load_bytes(block[k].as_ptr().cast());
            }
            return turned;
        }
        for k in 0..n {
            let at = (col + k) * GROUP;
            turned[k / 16][k % 16] = if w.format == Format::F32 {
                L::load_bytes(group.add(at * 4))
            } else {
                float_words::<L>(L::load_f16(group.add(at * 2)))
            };
        }
        turned
    }
}

/// The numbers of a block of codes of group `g`.
///
/// # Safety
///
/// The contract of `Lanes`.
#[inline(always)]
unsafe fn block_floats<L: Entry>(w: &Packed, g: usize, block: usize) -> [[f32; GROUP]; BLOCK] {
    let c = codes(w.format).expect("a block format");
    let mut panel = [0u8; PANEL_BLOCK];
    // SAFETY: the caller's contract; the group holds the block.
    unsafe { fill_blocks::<L>(w.format, panel.as_mut_ptr(), w.group(g), block, 1) };
    let float = |at: usize| {
        let bytes = [panel[at], panel[at + 1], panel[at + 2], panel[at + 3]];
        f32::from_le_bytes(bytes)
    };
    let mut x = [[0.0; GROUP]; BLOCK];
    for (k, x) in x.iter_mut().enumerate() {
        let sub = if c.sub16 { k / 16 } else { 0 };
        for (lane, x) in x.iter_mut().enumerate() {
            let code = i32::from(panel[k / 4 * 64 + 4 * lane + k % 4]) - c.zero;
            let scaled = float(512 + 64 * sub + 4 * lane) * code as f32;
            *x = if c.min { scaled + float(640 + 64 * sub + 4 * lane) } else { scaled };
        }
    }
    x
}

/// Adds `sums`, rows of two groups, to what stands at `out`.
///
/// # Safety
///
/// The contract of `Lanes`; `out` is readable and writable as it says.
#[inline(always)]
pub(super) unsafe fn add_tile<L: Lanes>(out: Out, sums: &[[f32; 2 * GROUP]]) {
    for (t, sums) in sums.iter().enumerate().take(out.rows) {
        // SAFETY: the caller's contract.
        unsafe {
            for g in 0..2 {
                let old = Out { resume: true, ..out }.start::<L>(t, g);
                out.finish::<L>(t, g, L::add(old, L::load(sums[g * GROUP..].as_ptr())));
            }
        }
    }
}
