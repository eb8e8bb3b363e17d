//! The products of training: dx = dy W and dW = sum over tokens of dy^T x, beside y = x W^T.
//!
//! Letters: T tokens, O outputs (rows of W), I inputs (its columns). Each number has one chain of
//! additions, whatever the threads and however many tokens share the call: dx over outputs
//! ascending, dW over the tokens of a block ascending and then over blocks.

pub(super) mod lay;
pub mod naive;
mod product;

use super::activations::{Kind, TILE_ROWS};
use super::layout::GROUP;
use super::{LINE_WORDS, Packed, tiles};
use crate::cpu::Parts;
use crate::lanes::Plain;
use crate::{Class, Cpu, Format};
use half::bf16;
pub use joint::{Back, matmul_back, scratch_bytes};
use lay::{Compiled, Matrix, Place, steps, terms};
use product::{Laid, Sum};
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};

/// Calls a function of `lay`, compiled for the vector instructions of a CPU.
macro_rules! by_compiled {
    ($cpu:expr, $f:ident($($arg:expr),*)) => {
        match $cpu.lanes() {
            Class::Portable => <Plain as Compiled>::$f($($arg),*),
            #[cfg(target_arch = "x86_64")]
            Class::Avx2 => <Avx2 as Compiled>::$f($($arg),*),
            #[cfg(target_arch = "x86_64")]
            Class::Avx512 | Class::Amx => <Avx512 as Compiled>::$f($($arg),*),
            #[cfg(not(target_arch = "x86_64"))]
            Class::Avx2 | Class::Avx512 | Class::Amx => unreachable!("checked by Cpu::new"),
        }
    };
}

mod joint;

/// What becomes of the numbers that stand in a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// They are replaced.
    Set,
    /// Every chain of additions begins with them.
    Add,
}

/// In what a product multiplies; sums are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// f32 by f32.
    F32,
    /// Both factors rounded to bf16.
    Bf16,
}

impl Precision {
    /// In what [`matmul_dx`] multiplies weights of a format. Block formats have fewer digits than
    /// bf16 keeps, but for the last of Q8_0; f16 has more.
    pub fn of(format: Format) -> Precision {
        match format {
            Format::F32 | Format::F16 => Precision::F32,
            Format::BF16
            | Format::Q4_0
            | Format::Q4_1
            | Format::Q5_0
            | Format::Q5_1
            | Format::Q8_0
            | Format::Q2_K
            | Format::Q3_K
            | Format::Q4_K
            | Format::Q5_K
            | Format::Q6_K
            | Format::IQ4_NL => Precision::Bf16,
        }
    }
}

/// Rows saved by the forward pass, one after the other.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// As they were.
    F32(&'a [f32]),
    /// Rounded.
    Bf16(&'a [bf16]),
}

impl<'a> Rows<'a> {
    /// Some of the numbers.
    fn part(self, numbers: Range<usize>) -> Rows<'a> {
        match self {
            Rows::F32(x) => Rows::F32(&x[numbers]),
            Rows::Bf16(x) => Rows::Bf16(&x[numbers]),
        }
    }

    /// Numbers in all rows.
    pub fn len(self) -> usize {
        match self {
            Rows::F32(x) => x.len(),
            Rows::Bf16(x) => x.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Number `i`.
    pub fn get(self, i: usize) -> f32 {
        match self {
            Rows::F32(x) => x[i],
            Rows::Bf16(x) => x[i].to_f32(),
        }
    }
}

/// Most tokens of a block of [`matmul_dw`].
pub const BLOCK_TOKENS: usize = 256;

/// The blocks of `rows` packed rows of `row_tokens` tokens: at most `BLOCK_TOKENS` each, counted
/// from the start of the row, so that they are the same in every micro-batch of whole rows.
///
/// ```
/// let blocks = herd_kernels::gemm::backward::blocks(2, 300);
/// assert_eq!(blocks, [0..256, 256..300, 300..556, 556..600]);
/// ```
pub fn blocks(rows: usize, row_tokens: usize) -> Vec<Range<usize>> {
    let starts = |row| (0..row_tokens).step_by(BLOCK_TOKENS).map(move |t| (row, t));
    (0..rows)
        .flat_map(starts)
        .map(|(row, t)| {
            let first = row * row_tokens;
            first + t..first + row_tokens.min(t + BLOCK_TOKENS)
        })
        .collect()
}

/// dx = dy W, or dx += dy W; bf16 weights and block formats multiply dy rounded to bf16, the
/// latter being rounded themselves, f32 and f16 weights f32.
///
/// Shapes: `dx` is [T, I], `dy` is [T, O], `w` is [O, I]. A row of dx depends on its row of dy
/// alone. Panics if lengths disagree.
pub fn matmul_dx(cpu: &Cpu, dx: &mut [f32], dy: &[f32], w: &Packed, write: Write) {
    let (outputs, inputs) = (w.rows(), w.cols());
    let tokens = dx.len().checked_div(inputs).unwrap_or(0);
    assert_eq!(dx.len(), tokens * inputs, "matmul_dx: dx is not rows of {inputs}");
    assert_eq!(dy.len(), tokens * outputs, "matmul_dx: dy is not {tokens} x {outputs}");
    if dx.is_empty() {
        return;
    }
    let kind = kind(cpu, Precision::of(w.format()));
    let place = |rows, steps| Place { kind, rows, steps };
    let mut scratch = cpu.scratch();
    let all = outputs.next_multiple_of(TERMS);
    let most = terms_at_once(tokens + inputs, kind);
    for from in (0..all).step_by(most) {
        let to = all.min(from + most);
        let (a, b) = (place(tile_rows(cpu, kind), steps(kind, to - from)), steps(kind, to - from));
        let (left, right) = split(&mut scratch, a.words() * tokens.div_ceil(a.rows), {
            inputs.div_ceil(GROUP) * GROUP * b
        });
        lay_gradients(cpu, left, Matrix { x: dy, stride: outputs }, from..to.min(outputs), a);
        lay_transposed(cpu, right, w, from..to, place(GROUP, b));
        let sum = if from > 0 || write == Write::Add { Sum::Resumed } else { Sum::Fresh };
        let laid = Laid { a: left, b: right, place: a, rows: tokens, cols: inputs, sum };
        product::multiply(cpu, dx, laid);
    }
    if all == 0 && write == Write::Set {
        dx.fill(0.0);
    }
}

/// Most terms of a sum that are laid at once, and the unit of shorter pieces.
const MOST_TERMS: usize = 1024;
/// Two groups of weights: a step of the tile unit.
const TERMS: usize = 2 * GROUP;

/// Terms of a sum laid at once for `lines` rows and columns: at most 16 MB, or a block.
fn terms_at_once(lines: usize, kind: Kind) -> usize {
    let bytes = 4 / terms(kind);
    ((16 << 20) / bytes / lines / BLOCK_TOKENS * BLOCK_TOKENS).clamp(BLOCK_TOKENS, MOST_TERMS)
}

/// What is multiplied in a precision.
fn kind(cpu: &Cpu, precision: Precision) -> Kind {
    match (precision, cpu.class) {
        (Precision::F32, _) => Kind::Floats,
        (Precision::Bf16, Class::Amx) => Kind::PairTiles,
        (Precision::Bf16, Class::Portable | Class::Avx2 | Class::Avx512) => Kind::Pairs,
    }
}

/// Rows of a tile.
fn tile_rows(cpu: &Cpu, kind: Kind) -> usize {
    *tiles(cpu.class, kind, TILE_ROWS).last().expect("every kind has tiles")
}

/// Two aligned parts of the scratch.
fn split(scratch: &mut Vec<u32>, a: usize, b: usize) -> (&mut [u32], &mut [u32]) {
    let (a_room, need) = (a.next_multiple_of(LINE_WORDS), a + b + 2 * LINE_WORDS);
    if scratch.len() < need {
        scratch.resize(need, 0);
    }
    let line = scratch.as_ptr().align_offset(64);
    let (left, right) = scratch[line..].split_at_mut(a_room);
    (&mut left[..a], &mut right[..b])
}

/// Lays columns `terms` of each row of `dy` as the left factor of dy W.
fn lay_gradients(cpu: &Cpu, out: &mut [u32], dy: Matrix<'_>, terms: Range<usize>, place: Place) {
    let Matrix { x, stride } = dy;
    crate::cpu::for_rows(cpu, out, place.words(), |tile, out| {
        let first = tile * place.rows * stride;
        let x = &x[first..x.len().min(first + place.rows * stride)];
        let x = Matrix { x: &x[terms.start..], stride };
        // SAFETY: `Cpu` checked the class.
        unsafe { by_compiled!(cpu, lay_along(out, x, terms.len(), place)) }
    });
}

/// Lays rows `terms` (from a multiple of `TERMS` on) of the weights as the right factor of dy W.
fn lay_transposed(cpu: &Cpu, out: &mut [u32], w: &Packed, terms: Range<usize>, place: Place) {
    let groups = (terms.start / GROUP, w.groups().min(terms.end / GROUP));
    let panels = Parts::new(out);
    cpu.pool.run(w.cols().div_ceil(TERMS), |pair| {
        let from = pair * 2 * place.words();
        let to = (from + 2 * place.words()).min(panels.len());
        // SAFETY: each pair of panels is written by one task; `Cpu` checked the class.
        unsafe {
            let out = panels.part(from, to - from);
            by_compiled!(cpu, lay_weights(out, w, groups, pair * TERMS, place));
        }
    });
}

/// dW += sum over tokens of dy^T x, tokens in their order: each block has its own chain from zero,
/// pair by pair in bf16, and is then added to dW, blocks ascending.
///
/// Shapes: `dw` is [O, I], `dy` is [T, O], `x` is [T, I]; `blocks` are the tokens 0..T in pieces.
/// A batch cut at borders of blocks gives the same bits in as many calls.
/// Panics if lengths disagree, or the blocks leave a gap or are longer than `BLOCK_TOKENS`.
pub fn matmul_dw(
    cpu: &Cpu,
    dw: &mut [f32],
    dy: &[f32],
    x: Rows<'_>,
    blocks: &[Range<usize>],
    precision: Precision,
) {
    let Some((outputs, inputs)) = sizes(dw, dy, x, blocks) else { return };
    let kind = kind(cpu, precision);
    let mut rest = blocks;
    while let Some(first) = rest.first() {
        let fit = rest.iter().take_while(|b| b.end - first.start <= MOST_TERMS).count().max(1);
        let (now, later) = rest.split_at(fit);
        rest = later;
        let steps = now.iter().map(|b| steps(kind, b.len())).sum();
        let a = Place { kind, rows: tile_rows(cpu, kind), steps };
        let b = Place { kind, rows: GROUP, steps };
        let most = rows_at_once(outputs, steps);
        let mut scratch = cpu.scratch();
        let (left, right) = split(
            &mut scratch,
            a.words() * most.div_ceil(a.rows),
            b.words() * inputs.div_ceil(GROUP),
        );
        lay_blocks(cpu, right, now, b, |out, at, col, block| {
            let numbers = block.start * inputs + col..block.end * inputs;
            // SAFETY: `Cpu` checked the class.
            unsafe { by_compiled!(cpu, lay_saved(out, at, x.part(numbers), inputs, b)) }
        });
        for (i, dw) in dw.chunks_mut(most * inputs).enumerate() {
            let rows = dw.len() / inputs;
            let left = &mut left[..a.words() * rows.div_ceil(a.rows)];
            lay_blocks(cpu, left, now, a, |out, at, col, block| {
                let numbers = block.start * outputs + i * most + col..block.end * outputs;
                let dy = Matrix { x: &dy[numbers], stride: outputs };
                // SAFETY: `Cpu` checked the class.
                unsafe { by_compiled!(cpu, lay_across(out, at, dy, a)) }
            });
            let sum = Sum::Blocks(now);
            let laid = Laid { a: left, b: right, place: a, rows, cols: inputs, sum };
            product::multiply(cpu, dw, laid);
        }
    }
}

/// Rows of dW whose factors are laid at once: 16 MB, in whole tiles of 6, 12 or 16.
fn rows_at_once(outputs: usize, steps: usize) -> usize {
    ((4 << 20) / steps.max(1) / 48 * 48).max(48).min(outputs)
}

/// Tiles or panels that a task lays side by side: it walks rows of some 400 or 512 bytes.
const SIDE_BY_SIDE: usize = 8;

/// Calls `lay(tiles, first step, first column, block)` for every block, in order, of every few
/// tiles of `out`.
pub(super) fn lay_blocks(
    cpu: &Cpu,
    out: &mut [u32],
    blocks: &[Range<usize>],
    place: Place,
    lay: impl Fn(&mut [u32], usize, usize, Range<usize>) + Sync,
) {
    if place.steps == 0 {
        return;
    }
    let parts = Parts::new(out);
    let tiles = parts.len() / place.words();
    cpu.pool.run(tiles.div_ceil(SIDE_BY_SIDE), |task| {
        let first = task * SIDE_BY_SIDE;
        let n = SIDE_BY_SIDE.min(tiles - first);
        // SAFETY: each tile is laid by one task.
        let out = unsafe { parts.part(first * place.words(), n * place.words()) };
        let mut at = 0;
        for block in blocks.iter().filter(|b| !b.is_empty()) {
            lay(out, at, first * place.rows, block.clone());
            at += steps(place.kind, block.len());
        }
    });
}

/// O and I of a call of [`matmul_dw`], or `None` if there is nothing to add.
fn sizes(dw: &[f32], dy: &[f32], x: Rows<'_>, blocks: &[Range<usize>]) -> Option<(usize, usize)> {
    let mut tokens = 0;
    for block in blocks {
        assert_eq!(block.start, tokens, "matmul_dw: a block does not follow the one before");
        assert!(block.end >= tokens, "matmul_dw: a block ends before it begins");
        assert!(block.len() <= BLOCK_TOKENS, "matmul_dw: a block of {} tokens", block.len());
        tokens = block.end;
    }
    let (outputs, inputs) = (dy.len().checked_div(tokens)?, x.len().checked_div(tokens)?);
    assert_eq!(dy.len(), tokens * outputs, "matmul_dw: dy is not {tokens} rows");
    assert_eq!(x.len(), tokens * inputs, "matmul_dw: x is not {tokens} rows");
    assert_eq!(dw.len(), outputs * inputs, "matmul_dw: dW is not {outputs} x {inputs}");
    (!dw.is_empty()).then_some((outputs, inputs))
}

#[cfg(test)]
mod tests;
