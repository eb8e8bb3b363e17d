//! The gradients of products that share their input, from one reading of each dy.
//!
//! dx = sum over products of dy W, the last product first, as a tape goes back; dW += dy^T x for
//! each. Tokens pass in strips: a few rows of dy are laid for both while they are in the first
//! cache, x is laid once for all, and what is laid is multiplied before it leaves the caches. Every
//! number has the chain of additions that [`matmul_dx`] and [`matmul_dw`] give it.

use super::super::Packed;
use super::super::activations::Kind;
use super::super::layout::GROUP;
use super::lay::{Compiled, Matrix, Place, ROWS_AHEAD, steps};
use super::product::{Job, Laid, Sum, multiply_all};
use super::{Precision, Rows, TERMS, Write, kind, lay_blocks, lay_transposed, matmul_dw, matmul_dx};
use super::{LINE_WORDS, tile_rows};
use crate::cpu::{Cpu, Parts};
use crate::lanes::Plain;
use crate::{Class, Format};
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};

/// What flows back to one of the products y = x W^T.
pub struct Back<'a> {
    /// The gradient of y, [T, O].
    pub dy: &'a [f32],
    /// W, [O, I].
    pub w: &'a Packed,
    /// Where dW [O, I] is summed; `None` if W is frozen.
    pub dw: Option<&'a mut [f32]>,
}

/// dx = sum of dy W, or dx += it, the last product first, and dW += dy^T x for each product.
///
/// Shapes: `dx` is [T, I], `x` is [T, I]; `blocks` are as for [`matmul_dw`]. The bits are those of
/// [`matmul_dx`] for each product, the last first, and of [`matmul_dw`]. Trained products of bf16
/// are computed together. Panics if lengths disagree, or as those two.
pub fn matmul_back(
    cpu: &Cpu,
    dx: Option<(&mut [f32], Write)>,
    x: Rows<'_>,
    products: &mut [Back<'_>],
    blocks: &[Range<usize>],
) {
    let pairs = kind(cpu, Precision::Bf16) == Kind::Pairs;
    let joint = |p: &Back<'_>| p.w.format() == Format::BF16 && p.dw.is_some() && p.w.rows() > 0;
    match dx {
        Some((dx, write)) if pairs && !dx.is_empty() && !products.is_empty() && products.iter().all(joint) => {
            together(cpu, dx, write, x, products, blocks);
        }
        dx => apart(cpu, dx, x, products, blocks),
    }
}

/// One product after the other.
fn apart(
    cpu: &Cpu,
    mut dx: Option<(&mut [f32], Write)>,
    x: Rows<'_>,
    products: &mut [Back<'_>],
    blocks: &[Range<usize>],
) {
    for Back { dy, w, dw } in products.iter_mut().rev() {
        if let Some((dx, write)) = &mut dx {
            matmul_dx(cpu, dx, dy, w, *write);
            *write = Write::Add;
        }
        if let Some(dw) = dw {
            let precision =
                if w.format() == Format::BF16 { Precision::Bf16 } else { Precision::F32 };
            matmul_dw(cpu, dw, dy, x, blocks, precision);
        }
    }
}

/// Most tokens of a strip, and bytes of all that is laid for it unless a block takes more.
const STRIP_TOKENS: usize = 1024;
/// As above.
const STRIP_BYTES: usize = 8 << 20;
/// Rows of dy that a task lays.
const TASK_ROWS: usize = 4 * ROWS_AHEAD;

/// Words of the scratch for a strip of some blocks: W of every product, dy along and across, x.
struct Room {
    w: Vec<usize>,
    along: Vec<usize>,
    across: Vec<usize>,
    x: usize,
}

fn together(
    cpu: &Cpu,
    dx: &mut [f32],
    write: Write,
    x: Rows<'_>,
    products: &mut [Back<'_>],
    blocks: &[Range<usize>],
) {
    let inputs = check(dx, x, products, blocks);
    let kind = Kind::Pairs;
    let place = |rows, steps| Place { kind, rows, steps };
    let high = tile_rows(cpu, kind);
    let outputs: Vec<usize> = products.iter().map(|p| p.w.rows()).collect();
    let widths: Vec<Place> =
        outputs.iter().map(|o| place(high, steps(kind, o.next_multiple_of(TERMS)))).collect();
    let panels = inputs.div_ceil(GROUP);
    let strip = strip_tokens(outputs.iter().sum(), inputs);

    let mut scratch = cpu.scratch();
    let room = |tokens: usize, steps: usize| Room {
        w: widths.iter().map(|p| panels * GROUP * p.steps).collect(),
        along: widths.iter().map(|p| p.words() * tokens.div_ceil(high)).collect(),
        across: outputs.iter().map(|o| high * steps * o.div_ceil(high)).collect(),
        x: panels * GROUP * steps,
    };
    let cuts = strips(blocks, strip);
    let most_tokens = cuts.iter().map(|c| tokens(c)).max().unwrap_or(0);
    let most_steps = cuts.iter().map(|c| all_steps(c)).max().unwrap_or(0);
    let most = room(most_tokens, most_steps);
    let lines = |words: &usize| words.next_multiple_of(LINE_WORDS);
    let need = most.w.iter().chain(&most.along).chain(&most.across).chain([&most.x]);
    let need = need.map(lines).sum::<usize>() + LINE_WORDS;
    if scratch.len() < need {
        scratch.resize(need, 0);
    }
    let line = scratch.as_ptr().align_offset(64);
    let mut rest = &mut scratch[line..];
    let mut cut = |words: &usize| {
        let (now, later) = std::mem::take(&mut rest).split_at_mut(words.next_multiple_of(LINE_WORDS));
        rest = later;
        now
    };
    let w: Vec<&mut [u32]> = most.w.iter().map(|n| &mut cut(n)[..*n]).collect();
    let mut along: Vec<&mut [u32]> = most.along.iter().map(&mut cut).collect();
    let mut across: Vec<&mut [u32]> = most.across.iter().map(&mut cut).collect();
    let x_laid = cut(&most.x);

    let mut w = w;
    for ((out, product), place_w) in w.iter_mut().zip(&*products).zip(&widths) {
        let all = 0..product.w.rows().next_multiple_of(TERMS);
        lay_transposed(cpu, out, product.w, all, place(GROUP, place_w.steps));
    }
    for now in cuts {
        let (first, tokens, steps) = (now[0].start, tokens(now), all_steps(now));
        let room = room(tokens, steps);
        let (tall, wide) = (place(high, steps), place(GROUP, steps));
        let x_laid = &mut x_laid[..room.x];
        if let Rows::Bf16(_) = x {
            lay_blocks(cpu, x_laid, now, wide, |out, at, col, block| {
                let numbers = block.start * inputs + col..block.end * inputs;
                // SAFETY: `Cpu` checked the class.
                unsafe { by_compiled!(cpu, lay_saved(out, at, x.part(numbers), inputs, wide)) }
            });
        }
        let mut lays: Vec<Lay<'_>> = Vec::new();
        for (i, product) in products.iter().enumerate() {
            lays.push(Lay {
                x: &product.dy[first * outputs[i]..(first + tokens) * outputs[i]],
                stride: outputs[i],
                along: Some((Parts::new(&mut along[i][..room.along[i]]), widths[i])),
                across: Parts::new(&mut across[i][..room.across[i]]),
                place: tall,
            });
        }
        if let Rows::F32(x) = x {
            let x = &x[first * inputs..(first + tokens) * inputs];
            let across = Parts::new(x_laid);
            lays.push(Lay { x, stride: inputs, along: None, across, place: wide });
        }
        let tasks = tokens.div_ceil(TASK_ROWS);
        cpu.pool.run(tasks * lays.len(), |i| {
            let rows = i % tasks * TASK_ROWS..tokens.min((i % tasks + 1) * TASK_ROWS);
            lays[i / tasks].run(cpu, now, rows);
        });
        drop(lays);

        let sum = |i: usize| match write {
            Write::Set if i + 1 == widths.len() => Sum::Fresh,
            Write::Set | Write::Add => Sum::Resumed,
        };
        let laid = (0..widths.len()).rev().map(|i| Laid {
            a: &along[i][..room.along[i]],
            b: &w[i],
            place: widths[i],
            rows: tokens,
            cols: inputs,
            sum: sum(i),
        });
        let c = &mut dx[first * inputs..(first + tokens) * inputs];
        let mut jobs = vec![Job { c, laid: laid.collect() }];
        for (i, product) in products.iter_mut().enumerate() {
            let Some(c) = product.dw.as_deref_mut() else { continue };
            let a = &across[i][..room.across[i]];
            let sum = Sum::Blocks(now);
            let laid = Laid { a, b: x_laid, place: tall, rows: outputs[i], cols: inputs, sum };
            jobs.push(Job { c, laid: vec![laid] });
        }
        multiply_all(cpu, &mut jobs);
    }
}

/// Tokens of a strip.
fn strip_tokens(outputs: usize, inputs: usize) -> usize {
    (STRIP_BYTES / (4 * outputs + 2 * inputs)).clamp(super::BLOCK_TOKENS, STRIP_TOKENS)
}

/// The blocks in runs of at most `most` tokens, or one block.
fn strips(mut blocks: &[Range<usize>], most: usize) -> Vec<&[Range<usize>]> {
    let mut strips = Vec::new();
    while let Some(first) = blocks.first() {
        let fit = blocks.iter().take_while(|b| b.end - first.start <= most).count().max(1);
        let (now, later) = blocks.split_at(fit);
        if tokens(now) > 0 {
            strips.push(now);
        }
        blocks = later;
    }
    strips
}

fn tokens(blocks: &[Range<usize>]) -> usize {
    blocks[blocks.len() - 1].end - blocks[0].start
}

fn all_steps(blocks: &[Range<usize>]) -> usize {
    blocks.iter().map(|b| steps(Kind::Pairs, b.len())).sum()
}

/// Rows of a strip and where they are laid.
struct Lay<'a> {
    x: &'a [f32],
    stride: usize,
    /// Tiles of rows: the left factor of dx.
    along: Option<(Parts<u32>, Place)>,
    /// Tiles or panels of columns: a factor of dW.
    across: Parts<u32>,
    place: Place,
}

impl Lay<'_> {
    /// Lays `rows` of the strip (from a multiple of a tile on), and the pairs that begin there.
    fn run(&self, cpu: &Cpu, blocks: &[Range<usize>], rows: Range<usize>) {
        for from in rows.clone().step_by(ROWS_AHEAD) {
            let few = from..rows.end.min(from + ROWS_AHEAD);
            if let Some((along, place)) = self.along {
                for row in few.clone().step_by(place.rows) {
                    let end = few.end.min(row + place.rows);
                    let x = &self.x[row * self.stride..end * self.stride];
                    let x = Matrix { x, stride: self.stride };
                    // SAFETY: each tile is laid by one task; `Cpu` checked the class.
                    unsafe {
                        let out = along.part(row / place.rows * place.words(), place.words());
                        by_compiled!(cpu, lay_along(out, x, self.stride, place));
                    }
                }
            }
            self.across(cpu, blocks, few);
        }
    }

    fn across(&self, cpu: &Cpu, blocks: &[Range<usize>], rows: Range<usize>) {
        let (start, mut at) = (blocks[0].start, 0);
        for block in blocks {
            let (first, end) = (block.start - start, block.end - start);
            let step = |row: usize| row.clamp(first, end).saturating_sub(first).div_ceil(2);
            let (from, to) = (step(rows.start), step(rows.end));
            if from < to {
                let x = &self.x[(first + 2 * from) * self.stride..end.min(first + 2 * to) * self.stride];
                let x = Matrix { x, stride: self.stride };
                // SAFETY: each step is laid by one task; `Cpu` checked the class.
                unsafe { by_compiled!(cpu, lay_steps(self.across, at + from, x, self.place)) }
            }
            at += steps(Kind::Pairs, block.len());
        }
    }
}

/// I, if all sizes agree.
fn check(dx: &[f32], x: Rows<'_>, products: &[Back<'_>], blocks: &[Range<usize>]) -> usize {
    let inputs = products.first().expect("checked by the caller").w.cols();
    for product in products {
        let dw = product.dw.as_deref().expect("checked by the caller");
        assert_eq!(product.w.cols(), inputs, "matmul_back: products of another x");
        let got = super::sizes(dw, product.dy, x, blocks);
        assert_eq!(got, Some((product.w.rows(), inputs)), "matmul_back: wrong sizes");
    }
    assert_eq!(dx.len(), x.len(), "matmul_back: dx is not like x");
    inputs
}
