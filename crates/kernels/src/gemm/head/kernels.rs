//! The loops of the fused head over lanes, compiled for each class.

use super::super::activations::Kind;
use super::super::backward::lay::{Compiled, Matrix, Place};
use super::super::kernels::Out;
use super::super::layout::GROUP;
use super::pass::{Desk, Pass, Piece};
use crate::lanes::{Lanes, Plain};
use half::bf16;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};

/// Rows of a tile. Beside three groups they fill 24 of 32 registers with sums.
pub(super) const TILE: usize = 8;
/// Groups of outputs whose logits exist at once, for the tokens of a piece.
pub(super) const LOGIT_GROUPS: usize = 6;
/// Groups of outputs after which dx is summed on.
pub(super) const STRIP_GROUPS: usize = 12;
/// Logits of a row that exist at once.
pub(super) const LOGITS: usize = LOGIT_GROUPS * GROUP;
/// Words between the rows of a strip of g: seven cache lines, so that eight rows lie in eight sets.
pub(super) const G_ROW: usize = STRIP_GROUPS * GROUP / 2 + 16;
/// Steps of logits summed at once: three groups of as many take 27 KB of the first cache.
const LOGIT_STEPS: usize = 144;
/// A sum from which a row begins again with a greater shift: bf16 and f32 go on to 2^127.
const OUTGROWN: f64 = (1u64 << 60) as f64;

/// What is known of a row when its logits are gone.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Row {
    /// m: what is taken from each logit.
    pub shift: f32,
    /// The logit of the target.
    pub logit: f32,
    /// e^(logit - m) of the target as g holds it.
    pub weight: f32,
    /// The sum of e^(logit - m).
    pub sum: f64,
}

impl Row {
    /// Whether its shift is too small, or its sum no number.
    fn outgrown(&self) -> bool {
        self.sum.is_nan() || self.sum >= OUTGROWN
    }
}

/// The tasks of a pass, compiled for each class.
///
/// # Safety
///
/// The machine runs the class; no other task has the same piece, or groups.
pub(super) trait Entry: Compiled {
    /// Whether there are 32 registers of sixteen lanes.
    const WIDE: bool;
    unsafe fn piece(pass: &Pass<'_>, piece: &Piece, desk: &mut Desk<'_>);
    unsafe fn columns(pass: &Pass<'_>, groups: Range<usize>, panels: &[u32], dw: *mut f32);
}

macro_rules! entries {
    ($lanes:ty, $wide:literal, $enable:meta) => {
        impl Entry for $lanes {
            const WIDE: bool = $wide;
            unsafe fn piece(pass: &Pass<'_>, piece: &Piece, desk: &mut Desk<'_>) {
                #[$enable]
                unsafe fn go(pass: &Pass<'_>, piece: &Piece, desk: &mut Desk<'_>) {
                    // SAFETY: the caller's contract.
                    unsafe { walk::<$lanes>(pass, piece, desk) }
                }
                // SAFETY: the caller's contract.
                unsafe { go(pass, piece, desk) }
            }
            unsafe fn columns(pass: &Pass<'_>, groups: Range<usize>, panels: &[u32], dw: *mut f32) {
                #[$enable]
                unsafe fn go(pass: &Pass<'_>, groups: Range<usize>, panels: &[u32], dw: *mut f32) {
                    // SAFETY: the caller's contract.
                    unsafe { sum_columns::<$lanes>(pass, groups, panels, dw) }
                }
                // SAFETY: the caller's contract.
                unsafe { go(pass, groups, panels, dw) }
            }
        }
    };
}

entries!(Plain, false, inline(never));
#[cfg(target_arch = "x86_64")]
entries!(Avx2, false, target_feature(enable = "avx2,fma,f16c"));
#[cfg(target_arch = "x86_64")]
entries!(
    Avx512,
    true,
    target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,fma,f16c")
);

/// All outputs for the tokens of a piece: their rows, and g for dx and dW.
///
/// # Safety
///
/// As `Entry`.
#[inline(always)]
unsafe fn walk<L: Entry>(pass: &Pass<'_>, piece: &Piece, desk: &mut Desk<'_>) {
    // SAFETY: the caller's contract.
    unsafe {
        lay_rows::<L>(pass, piece, desk);
        desk.rows.fill(Row { shift: f32::NEG_INFINITY, ..Row::default() });
        let first = 0..LOGIT_GROUPS.min(pass.groups());
        logits::<L>(pass, desk, first.clone());
        peaks(pass, desk, first, |_| true);
        outputs::<L>(pass, piece, desk);
        if !desk.rows.iter().any(Row::outgrown) {
            return;
        }
        for g in (0..pass.groups()).step_by(LOGIT_GROUPS) {
            let groups = g..pass.groups().min(g + LOGIT_GROUPS);
            logits::<L>(pass, desk, groups.clone());
            peaks(pass, desk, groups, Row::outgrown);
        }
        outputs::<L>(pass, piece, desk);
    }
}

/// Lays the hidden states of a piece in tiles; rows without weight are zeros.
///
/// # Safety
///
/// As `Entry`.
#[inline(always)]
unsafe fn lay_rows<L: Entry>(pass: &Pass<'_>, piece: &Piece, desk: &mut Desk<'_>) {
    let (width, place) = (pass.width, Place { kind: Kind::Pairs, rows: TILE, steps: pass.pairs });
    for (i, tile) in desk.x.chunks_exact_mut(place.words()).enumerate() {
        let first = piece.tokens.start + i * TILE;
        let rows = first..piece.tokens.end.min(first + TILE);
        let mut x = &pass.x[rows.start * width..rows.end * width];
        if pass.weights[rows.clone()].contains(&0.0) {
            let copy = &mut desk.copy[..x.len()];
            for (r, t) in rows.enumerate() {
                let row = &mut copy[r * width..(r + 1) * width];
                match pass.weights[t] {
                    0.0 => row.fill(0.0),
                    _ => row.copy_from_slice(&x[r * width..(r + 1) * width]),
                }
            }
            x = copy;
        }
        // SAFETY: the caller's contract.
        unsafe { L::lay_along(tile, Matrix { x, stride: width }, width, place) }
    }
}

/// The logits of these groups for all tiles.
///
/// # Safety
///
/// As `Entry`.
#[inline(always)]
unsafe fn logits<L: Entry>(pass: &Pass<'_>, desk: &mut Desk<'_>, groups: Range<usize>) {
    let tiles = desk.x.len() / (TILE * pass.pairs);
    let rounds = pass.pairs.div_ceil(LOGIT_STEPS);
    for g in groups.clone().step_by(3) {
        let n = 3.min(groups.end - g);
        let w = std::array::from_fn(|i| pass.w.group(g + i.min(n - 1)));
        for from in (0..pass.pairs).step_by(LOGIT_STEPS) {
            let steps = LOGIT_STEPS.min(pass.pairs - from);
            for tile in 0..tiles {
                let x = &desk.x[(tile * pass.pairs + from) * TILE..][..steps * TILE];
                let y = &mut desk.logits[tile * TILE * LOGITS + (g - groups.start) * GROUP..];
                let out = Out {
                    y: y.as_mut_ptr(),
                    stride: LOGITS,
                    width: n * GROUP,
                    rows: TILE,
                    resume: from > 0,
                };
                // SAFETY: the caller's contract; groups hold `pairs` vectors, `desk` whole tiles.
                unsafe {
                    // The groups of the next round, which follow, are asked for in equal shares.
                    let next = pass.w.group(g).wrapping_add(3 * pass.pairs * 64);
                    let round = (from / LOGIT_STEPS * tiles + tile, rounds * tiles);
                    ask_ahead::<L>(next, 3 * pass.pairs, round);
                    let w = w.map(|w: *const u8| w.add(from * 64));
                    tile_of::<L, TILE, 1, false>(out, w, n, x.as_ptr(), steps);
                }
            }
        }
    }
}

/// Asks for share `i` of `n` of some cache lines.
///
/// # Safety
///
/// The contract of `Lanes`.
#[inline(always)]
unsafe fn ask_ahead<L: Lanes>(p: *const u8, lines: usize, (i, n): (usize, usize)) {
    for line in lines * i / n..lines * (i + 1) / n {
        // SAFETY: a prefetch reads nothing.
        unsafe { L::prefetch(p.wrapping_add(64 * line)) };
    }
}

/// Raises the shift of some rows to the greatest of these logits; one that is none becomes 0.
fn peaks(pass: &Pass<'_>, desk: &mut Desk<'_>, groups: Range<usize>, of: impl Fn(&Row) -> bool) {
    let width = pass.w.rows().min(groups.end * GROUP) - groups.start * GROUP;
    for (row, logits) in desk.rows.iter_mut().zip(desk.logits.chunks_exact(LOGITS)) {
        if of(row) {
            let peak = logits[..width].iter().fold(row.shift, |a, b| a.max(*b));
            row.shift = if peak.is_finite() { peak } else { 0.0 };
        }
    }
}

/// Sums e^(logit - m) of all outputs, and dx before it is scaled.
///
/// # Safety
///
/// As `Entry`.
#[inline(always)]
unsafe fn outputs<L: Entry>(pass: &Pass<'_>, piece: &Piece, desk: &mut Desk<'_>) {
    desk.rows.iter_mut().for_each(|row| row.sum = 0.0);
    for strip in (0..pass.groups()).step_by(STRIP_GROUPS) {
        let end = pass.groups().min(strip + STRIP_GROUPS);
        for g in (strip..end).step_by(LOGIT_GROUPS) {
            let groups = g..end.min(g + LOGIT_GROUPS);
            // SAFETY: the caller's contract.
            unsafe {
                logits::<L>(pass, desk, groups.clone());
                weigh::<L>(pass, piece, desk, groups, (g - strip) * GROUP / 2);
            }
        }
        if pass.dx.is_some() {
            // SAFETY: the caller's contract.
            unsafe { rows_of_dx::<L>(pass, piece, desk, strip..end) }
        }
    }
}

/// Turns logits into g: rows for dx from word `at` on, and groups of columns for dW.
///
/// # Safety
///
/// As `Entry`.
#[inline(always)]
unsafe fn weigh<L: Entry>(
    pass: &Pass<'_>,
    piece: &Piece,
    desk: &mut Desk<'_>,
    groups: Range<usize>,
    at: usize,
) {
    let tokens = piece.tokens.len();
    let (from, to) = (groups.start * GROUP, groups.end * GROUP);
    for (t, row) in desk.rows.iter_mut().enumerate() {
        let target = pass.ids[piece.tokens.start + t] as usize;
        if (from..to).contains(&target) {
            row.logit = desk.logits[t * LOGITS + target - from];
        }
    }
    if pass.listed.is_some() {
        take_listed(pass, piece, desk, from..to);
    }
    desk.sums.fill(0.0);
    for g in groups.clone().step_by(2) {
        let (first, both) = (g - groups.start, g + 1 < groups.end);
        // SAFETY: the caller's contract; `desk` holds whole tiles of rows, `kept` all steps.
        unsafe {
            let masks = [mask::<L>(pass, g), mask::<L>(pass, g + 1)];
            for t in (0..tokens).step_by(2) {
                let zero = L::splat(0.0);
                let mut p = [[zero; 2]; 2];
                for i in 0..2 {
                    if t + i >= tokens {
                        continue;
                    }
                    let row = t + i;
                    let logits = desk.logits.as_ptr().add(row * LOGITS + first * GROUP);
                    let shift = L::splat(desk.rows[row].shift);
                    p[i][0] = exp::<L>(L::sub(L::load(logits), shift));
                    if both {
                        p[i][1] = exp::<L>(L::sub(L::load(logits.add(GROUP)), shift));
                    }
                    for h in 0..2 {
                        if let Some(mask) = masks[h] {
                            p[i][h] = L::mul(p[i][h], mask);
                        }
                    }
                    let sums = desk.sums.as_mut_ptr().add(row * GROUP);
                    L::store(sums, L::add(L::add(L::load(sums), p[i][0]), p[i][1]));
                    let g_row = desk.g.as_mut_ptr().add(row * G_ROW + at + first * GROUP / 2);
                    L::store_bytes(g_row.cast(), L::join_bf16(p[i][0], p[i][1]));
                }
                if let Some(kept) = &pass.kept {
                    for h in 0..if both { 2 } else { 1 } {
                        let step = (g + h) * pass.steps + piece.step + t / 2;
                        let out = kept.pointer().add(step * GROUP);
                        L::store_bytes(out.cast(), L::pairs_bf16(p[0][h], p[1][h]));
                    }
                }
            }
        }
    }
    for (t, row) in desk.rows.iter_mut().enumerate() {
        // SAFETY: the caller's contract; sixteen sums a row.
        row.sum += f64::from(unsafe { L::sum(L::load(desk.sums[t * GROUP..].as_ptr())) });
        let target = pass.ids[piece.tokens.start + t] as usize;
        if (from..to).contains(&target) {
            let word = desk.g[t * G_ROW + at + (target - from) / 2];
            row.weight = bf16::from_bits((word >> (target % 2 * 16)) as u16).to_f32();
        }
    }
}

/// Takes the listed outputs of these tokens out of their logits. A call, so that walks without lists stay as they are.
#[cold]
#[inline(never)]
fn take_listed(pass: &Pass<'_>, piece: &Piece, desk: &mut Desk<'_>, outputs: Range<usize>) {
    let Some(listed) = &pass.listed else { return };
    for (t, logits) in piece.tokens.clone().zip(desk.logits.chunks_exact_mut(LOGITS)) {
        // SAFETY: the tokens of this piece are in no other.
        unsafe { listed.take(t, outputs.clone(), logits) };
    }
}

/// 1 for each output of group `g` that exists, if not all do.
///
/// # Safety
///
/// The contract of `Lanes`.
#[inline(always)]
unsafe fn mask<L: Lanes>(pass: &Pass<'_>, g: usize) -> Option<L::F> {
    let left = pass.w.rows().saturating_sub(g * GROUP);
    (left < GROUP).then(|| {
        let ones: [f32; GROUP] = std::array::from_fn(|i| if i < left { 1.0 } else { 0.0 });
        // SAFETY: the caller's contract.
        unsafe { L::load(ones.as_ptr()) }
    })
}

/// e^x within 2 ulp of e^(x + 2^-24 |x|), from 2^-126 to 2^126; NaN stays NaN.
///
/// # Safety
///
/// The contract of `Lanes`.
#[inline(always)]
unsafe fn exp<L: Lanes>(x: L::F) -> L::F {
    // SAFETY: the caller's contract.
    unsafe {
        let zero = L::splat(0.0);
        let down = L::max(L::mul(x, L::splat(-std::f32::consts::LOG2_E)), L::splat(-126.0));
        crate::attention::exp2::<L>(L::sub(zero, down))
    }
}

/// dx += g W over a strip of outputs, whose rows of W are laid across first.
///
/// # Safety
///
/// As `Entry`.
#[inline(always)]
unsafe fn rows_of_dx<L: Entry>(
    pass: &Pass<'_>,
    piece: &Piece,
    desk: &mut Desk<'_>,
    groups: Range<usize>,
) {
    let (width, panels) = (pass.width, pass.width.div_ceil(GROUP));
    let steps = groups.len() * GROUP / 2;
    let place = Place { kind: Kind::Pairs, rows: GROUP, steps };
    let laid = &mut desk.panels[..panels * place.words()];
    for (i, pair) in laid.chunks_mut(2 * place.words()).enumerate() {
        // SAFETY: the caller's contract.
        unsafe {
            L::lay_weights(pair, pass.w, (groups.start, groups.end), i * 2 * GROUP, place);
        }
    }
    let dx = pass.dx.as_ref().expect("asked for").pointer();
    for panel in (0..panels).step_by(3) {
        let n = 3.min(panels - panel);
        let w = std::array::from_fn(|i| {
            laid[(panel + i.min(n - 1)) * place.words()..].as_ptr().cast::<u8>()
        });
        for t in (0..piece.tokens.len()).step_by(TILE) {
            // SAFETY: the caller's contract; the rows of dx and g exist.
            unsafe {
                let out = Out {
                    y: dx.add((piece.tokens.start + t) * width + panel * GROUP),
                    stride: width,
                    width: (width - panel * GROUP).min(3 * GROUP),
                    rows: TILE.min(piece.tokens.len() - t),
                    resume: groups.start > 0,
                };
                let g = desk.g[t * G_ROW..].as_ptr();
                tile_of::<L, 1, G_ROW, false>(out, w, n, g, steps);
            }
        }
    }
}

/// dW += g^T x of these groups of outputs, block after block for some of them at a time.
///
/// # Safety
///
/// As `Entry`; `panels` are those of the scaled rows, `dw` is the whole gradient.
#[inline(always)]
unsafe fn sum_columns<L: Entry>(
    pass: &Pass<'_>,
    groups: Range<usize>,
    panels: &[u32],
    dw: *mut f32,
) {
    for first in groups.clone().step_by(pass.chunk) {
        let mut from = 0;
        for (i, block) in pass.blocks.iter().enumerate() {
            let steps = from..from + block.len().div_ceil(2);
            let chunk = first..groups.end.min(first + pass.chunk);
            let next = if i + 1 < pass.blocks.len() {
                (steps.end, first)
            } else {
                (0, first + pass.chunk)
            };
            // SAFETY: the caller's contract.
            unsafe { block_of_columns::<L>(pass, chunk, steps.clone(), next, panels, dw) }
            from = steps.end;
        }
    }
}

/// The same for one block, whose steps these are; `next` is the step and the group that follow.
///
/// # Safety
///
/// As `sum_columns`.
#[inline(always)]
unsafe fn block_of_columns<L: Entry>(
    pass: &Pass<'_>,
    groups: Range<usize>,
    steps: Range<usize>,
    next: (usize, usize),
    panels: &[u32],
    dw: *mut f32,
) {
    let (width, vocab) = (pass.width, pass.w.rows());
    let words = pass.steps * GROUP;
    let kept = pass.kept.as_ref().expect("kept for dW").pointer();
    let (all, tiles) = (width.div_ceil(GROUP), groups.len() * GROUP / TILE);
    let rounds = all.div_ceil(3) * tiles;
    for panel in (0..all).step_by(3) {
        let n = 3.min(all - panel);
        let w = std::array::from_fn(|i| {
            panels[(panel + i.min(n - 1)) * words + steps.start * GROUP..].as_ptr().cast::<u8>()
        });
        for tile in 0..tiles {
            let row = groups.start * GROUP + tile * TILE;
            if row >= vocab || steps.is_empty() {
                continue;
            }
            // SAFETY: the caller's contract; rows and columns lie in dW, steps in `kept`.
            unsafe {
                let round = panel / 3 * tiles + tile;
                ask_for_columns::<L>(pass, next, (steps.len(), dw), (round, rounds));
                let out = Out {
                    y: dw.add(row * width + panel * GROUP),
                    stride: width,
                    width: (width - panel * GROUP).min(3 * GROUP),
                    rows: TILE.min(vocab - row),
                    resume: false,
                };
                let g = kept.add(row / GROUP * words + steps.start * GROUP + row % GROUP);
                tile_of::<L, GROUP, 1, true>(out, w, n, g, steps.len());
            }
        }
    }
}

/// Asks for a share of what the next block, or the next groups, will read.
///
/// # Safety
///
/// The contract of `Lanes`.
#[inline(always)]
unsafe fn ask_for_columns<L: Lanes>(
    pass: &Pass<'_>,
    (step, group): (usize, usize),
    (steps, dw): (usize, *mut f32),
    share: (usize, usize),
) {
    let kept = pass.kept.as_ref().expect("kept for dW").pointer();
    // SAFETY: the caller's contract.
    unsafe {
        // Each round asks for its part of one group.
        let at = share.0 * pass.chunk / share.1;
        let first = (share.1 * at).div_ceil(pass.chunk);
        let end = (share.1 * (at + 1)).div_ceil(pass.chunk);
        let p = kept.wrapping_add(((group + at) * pass.steps + step) * GROUP);
        ask_ahead::<L>(p.cast(), steps, (share.0 - first, end - first));
        if step == 0 {
            let p = dw.wrapping_add(group * GROUP * pass.width);
            ask_ahead::<L>(p.cast(), pass.chunk * pass.width, share);
        }
    }
}

/// A tile of `TILE` rows by `n` groups at `w`: word of row r in step k is
/// `x[k STEP + r ROW]`. With `ADD` the sums begin at zero and are added to what stands there.
///
/// # Safety
///
/// The contract of `Lanes`; `w` and `x` hold `steps` steps; `out` is writable as it says.
#[inline(always)]
unsafe fn tile_of<L: Entry, const STEP: usize, const ROW: usize, const ADD: bool>(
    out: Out,
    w: [*const u8; 3],
    n: usize,
    x: *const u32,
    steps: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        if L::WIDE {
            return match n {
                3 => tile::<L, 3, TILE, STEP, ROW, ADD>(out, w, x, steps),
                2 => tile::<L, 2, TILE, STEP, ROW, ADD>(out, [w[0], w[1]], x, steps),
                _ => tile::<L, 1, TILE, STEP, ROW, ADD>(out, [w[0]], x, steps),
            };
        }
        for r in (0..out.rows).step_by(TILE / 2) {
            for (g, w) in w.into_iter().enumerate().take(n) {
                let part = Out {
                    y: out.y.add(r * out.stride + g * GROUP),
                    rows: (out.rows - r).min(TILE / 2),
                    width: out.width - g * GROUP,
                    ..out
                };
                tile::<L, 1, { TILE / 2 }, STEP, ROW, ADD>(part, [w], x.add(r * ROW), steps);
            }
        }
    }
}

/// G groups by T rows.
///
/// # Safety
///
/// As `tile_of`.
#[inline(always)]
unsafe fn tile<
    L: Lanes,
    const G: usize,
    const T: usize,
    const STEP: usize,
    const ROW: usize,
    const ADD: bool,
>(
    out: Out,
    w: [*const u8; G],
    x: *const u32,
    steps: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut sum = [[L::splat(0.0); G]; T];
        for t in 0..T {
            if ADD && t < out.rows {
                // Asked for now, the results are there when the sums are.
                for line in 0..G {
                    L::prefetch(out.y.add(t * out.stride + 16 * line).cast());
                }
                L::prefetch(out.y.add(t * out.stride + out.width.min(16 * G) - 1).cast());
            }
            for g in 0..G {
                sum[t][g] = out.start::<L>(t, g);
            }
        }
        for k in 0..steps {
            let w: [L::B; G] = std::array::from_fn(|g| L::load_bytes(w[g].add(k * 64)));
            for t in 0..T {
                let x = *x.add(k * STEP + t * ROW) as i32;
                for g in 0..G {
                    sum[t][g] = L::dot2_bf16(sum[t][g], w[g], x);
                }
            }
        }
        let old = Out { resume: true, ..out };
        for t in 0..T {
            for g in 0..G {
                let sum = if ADD { L::add(old.start::<L>(t, g), sum[t][g]) } else { sum[t][g] };
                out.finish::<L>(t, g, sum);
            }
        }
    }
}
