//! The products of training: dx = dy W and dW = sum over tokens of dy^T x, beside y = x W^T.
//!
//! Letters: T tokens, O outputs (rows of W), I inputs (its columns). Each number has one chain of
//! additions, whatever the threads and however many tokens share the call: dx over outputs
//! ascending, dW over the tokens of a block ascending and then over blocks.

pub mod naive;

use super::Packed;
use crate::Cpu;
use half::bf16;
use std::ops::Range;

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

/// Rows saved by the forward pass, one after the other.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// As they were.
    F32(&'a [f32]),
    /// Rounded.
    Bf16(&'a [bf16]),
}

impl Rows<'_> {
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
    let mut plain = vec![0.0; outputs * inputs];
    for (row, out) in plain.chunks_exact_mut(inputs).enumerate() {
        w.row(row, out);
    }
    let precision = naive::precision_of(w.format());
    crate::cpu::for_rows(cpu, dx, inputs, |t, dx| {
        let dy = &dy[t * outputs..][..outputs];
        naive::matmul_dx(dx, dy, &plain, precision, write);
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
    crate::cpu::for_rows(cpu, dw, inputs, |o, dw| {
        naive::matmul_dw(dw, dy, x, blocks, precision, (o, outputs));
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
