//! The gradients of products that share their input, from one reading of each dy.
//!
//! dx = sum over products of dy W, the last product first, as a tape goes back; dW += dy^T x for
//! each. Tokens pass block by block: a few rows of dy are laid for both while they are in the
//! nearest caches, x is laid once for all, and what is laid is multiplied before it leaves the second.
//! Every number has the chain of additions that [`matmul_dx`] and [`matmul_dw`] give it.

use super::super::Packed;
use super::super::activations::Kind;
use super::super::layout::GROUP;
use super::lay::{Compiled, Matrix, Place, ROWS_AHEAD, steps};
use super::product::{Job, Laid, Sum, multiply_all};
use super::{BLOCK_TOKENS, LINE_WORDS, tile_rows};
use super::{
    Precision, Rows, TERMS, Write, kind, lay_blocks, lay_transposed, matmul_dw, matmul_dx,
};
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
        Some((dx, write))
            if pairs && !dx.is_empty() && !products.is_empty() && products.iter().all(joint) =>
        {
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

/// Rows of dy that a task lays.
const TASK_ROWS: usize = 4 * ROWS_AHEAD;

/// Where the factors of some products lie in the scratch, in words: each part on lines of its own.
struct Room {
    /// W, dy along and dy across, of each product.
    parts: Vec<[Range<usize>; 3]>,
    x: Range<usize>,
}

impl Room {
    /// For products with these outputs over blocks of at most `tokens` tokens.
    fn new(outputs: &[usize], inputs: usize, tokens: usize, high: usize) -> Room {
        let (panels, steps, mut end) = (inputs.div_ceil(GROUP), steps(Kind::Pairs, tokens), 0);
        let mut cut = |words: usize| {
            let start = end;
            end += words.next_multiple_of(LINE_WORDS);
            start..start + words
        };
        let mut part = |&o: &usize| {
            let along = width(o, high);
            let across = high * steps * o.div_ceil(high);
            let tiles = tokens.div_ceil(high);
            [cut(panels * GROUP * along.steps), cut(along.words() * tiles), cut(across)]
        };
        Room { parts: outputs.iter().map(&mut part).collect(), x: cut(panels * GROUP * steps) }
    }
}

/// A tile of rows of dy with `outputs` columns.
fn width(outputs: usize, high: usize) -> Place {
    let steps = steps(Kind::Pairs, outputs.next_multiple_of(TERMS));
    Place { kind: Kind::Pairs, rows: high, steps }
}

/// Bytes of working memory that products of bf16 with these outputs take over blocks of `tokens`
/// tokens; `None` where this class computes them one after the other.
pub fn scratch_bytes(
    class: Class,
    outputs: &[usize],
    inputs: usize,
    tokens: usize,
) -> Option<usize> {
    let high = *super::tiles(class, Kind::Pairs, super::TILE_ROWS).last()?;
    (class != Class::Amx).then(|| {
        let room = Room::new(outputs, inputs, tokens.min(BLOCK_TOKENS), high);
        4 * (room.x.end.next_multiple_of(LINE_WORDS) + LINE_WORDS)
    })
}

/// Block by block: of 256, 512 and 1,024 tokens at once, 256 took the least time on Zen 5 (at
/// best 11 % less than 1,024, two products of 768 x 288; at worst 2 % more, 288 x 768).
fn together(
    cpu: &Cpu,
    dx: &mut [f32],
    write: Write,
    x: Rows<'_>,
    products: &mut [Back<'_>],
    blocks: &[Range<usize>],
) {
    let inputs = check(dx, x, products, blocks);
    let high = tile_rows(cpu, Kind::Pairs);
    let outputs: Vec<usize> = products.iter().map(|p| p.w.rows()).collect();
    let tokens = blocks.iter().map(Range::len).max().unwrap_or(0);
    let room = Room::new(&outputs, inputs, tokens, high);
    let mut scratch = cpu.scratch();
    if scratch.len() < room.x.end + LINE_WORDS {
        scratch.resize(room.x.end.next_multiple_of(LINE_WORDS) + LINE_WORDS, 0);
    }
    let line = scratch.as_ptr().align_offset(64);
    let (parts, x_laid) = scratch[line..].split_at_mut(room.x.start);
    let mut parts = Laying { factors: split(parts, &room), widths: vec![], x: x_laid };
    for (factors, product) in parts.factors.iter_mut().zip(&*products) {
        let along = width(product.w.rows(), high);
        let all = 0..product.w.rows().next_multiple_of(TERMS);
        lay_transposed(cpu, factors[0], product.w, all, Place { rows: GROUP, ..along });
        parts.widths.push(along);
    }
    for block in blocks.iter().filter(|b| !b.is_empty()) {
        parts.lay(cpu, block, x, products);
        let c = &mut dx[block.start * inputs..block.end * inputs];
        parts.multiply(cpu, block, c, write, products);
    }
}

/// The factors of each product, one after the other in the scratch.
fn split<'a>(mut words: &'a mut [u32], room: &Room) -> Vec<[&'a mut [u32]; 3]> {
    let mut cut = |part: &Range<usize>| {
        let (now, later) =
            std::mem::take(&mut words).split_at_mut(part.len().next_multiple_of(LINE_WORDS));
        words = later;
        &mut now[..part.len()]
    };
    room.parts.iter().map(|parts| parts.each_ref().map(&mut cut)).collect()
}

/// What is laid for a block.
struct Laying<'a> {
    /// W, dy along and dy across, of each product; the last two are longer than some blocks need.
    factors: Vec<[&'a mut [u32]; 3]>,
    widths: Vec<Place>,
    x: &'a mut [u32],
}

impl Laying<'_> {
    /// Words of a block: dy along and across for product `i`.
    fn words(&self, i: usize, outputs: usize, tokens: usize) -> [usize; 2] {
        let width = self.widths[i];
        let tiles = |n: usize| n.div_ceil(width.rows);
        let steps = steps(Kind::Pairs, tokens);
        [width.words() * tiles(tokens), width.rows * steps * tiles(outputs)]
    }

    /// Lays every dy both ways, and x, for a block.
    fn lay(&mut self, cpu: &Cpu, block: &Range<usize>, x: Rows<'_>, products: &[Back<'_>]) {
        let (tokens, inputs) = (block.len(), products[0].w.cols());
        let place = |rows| Place { kind: Kind::Pairs, rows, steps: steps(Kind::Pairs, tokens) };
        let wide = place(GROUP);
        let x_laid = &mut self.x[..inputs.div_ceil(GROUP) * wide.words()];
        if let Rows::Bf16(_) = x {
            lay_blocks(cpu, x_laid, std::slice::from_ref(block), wide, |out, at, col, block| {
                let numbers = block.start * inputs + col..block.end * inputs;
                // SAFETY: `Cpu` checked the class.
                unsafe { by_compiled!(cpu, lay_saved(out, at, x.part(numbers), inputs, wide)) }
            });
        }
        let mut lays = Vec::with_capacity(products.len() + 1);
        if let Rows::F32(x) = x {
            let x = &x[block.start * inputs..block.end * inputs];
            let x = Matrix { x, stride: inputs };
            lays.push(Lay { x, along: None, across: Parts::new(x_laid), place: wide });
        }
        for (i, product) in products.iter().enumerate() {
            let stride = product.w.rows();
            let [along, across] = self.words(i, stride, tokens);
            let width = self.widths[i];
            let x = Matrix { x: &product.dy[block.start * stride..block.end * stride], stride };
            let [_, rows, columns] = &mut self.factors[i];
            let along = Some((Parts::new(&mut rows[..along]), width));
            let across = Parts::new(&mut columns[..across]);
            lays.push(Lay { x, along, across, place: place(width.rows) });
        }
        let tasks = tokens.div_ceil(TASK_ROWS);
        cpu.pool.run(tasks * lays.len(), |i| {
            let first = i % tasks * TASK_ROWS;
            lays[i / tasks].run(cpu, first..tokens.min(first + TASK_ROWS));
        });
    }

    /// Every product of a block: all that is summed in `dx`, its rows, beside dW.
    fn multiply(
        &self,
        cpu: &Cpu,
        block: &Range<usize>,
        dx: &mut [f32],
        write: Write,
        products: &mut [Back<'_>],
    ) {
        let (tokens, inputs, n) = (block.len(), products[0].w.cols(), products.len());
        let steps = steps(Kind::Pairs, tokens);
        let laid = (0..n).rev().map(|i| Laid {
            a: &self.factors[i][1][..self.words(i, products[i].w.rows(), tokens)[0]],
            b: self.factors[i][0],
            place: self.widths[i],
            rows: tokens,
            cols: inputs,
            sum: if write == Write::Set && i + 1 == n { Sum::Fresh } else { Sum::Resumed },
        });
        let mut jobs = vec![Job { c: dx, laid: laid.collect() }];
        let b = &self.x[..inputs.div_ceil(GROUP) * GROUP * steps];
        for (i, product) in products.iter_mut().enumerate() {
            let rows = product.w.rows();
            let a = &self.factors[i][2][..self.words(i, rows, tokens)[1]];
            let place = Place { steps, ..self.widths[i] };
            let sum = Sum::Blocks(std::slice::from_ref(block));
            let c = product.dw.as_deref_mut().expect("checked by the caller");
            jobs.push(Job { c, laid: vec![Laid { a, b, place, rows, cols: inputs, sum }] });
        }
        multiply_all(cpu, &mut jobs);
    }
}

/// Rows of a block and where they are laid.
struct Lay<'a> {
    x: Matrix<'a>,
    /// Tiles of rows: the left factor of dx.
    along: Option<(Parts<u32>, Place)>,
    /// Tiles or panels of columns: a factor of dW.
    across: Parts<u32>,
    place: Place,
}

impl Lay<'_> {
    /// Lays `rows`, which begin a tile and a pair, a few at a time.
    fn run(&self, cpu: &Cpu, rows: Range<usize>) {
        let stride = self.x.stride;
        let some = |rows: Range<usize>| Matrix {
            x: &self.x.x[rows.start * stride..rows.end * stride],
            stride,
        };
        for from in rows.clone().step_by(ROWS_AHEAD) {
            let few = from..rows.end.min(from + ROWS_AHEAD);
            if let Some((along, place)) = self.along {
                for row in few.clone().step_by(place.rows) {
                    let x = some(row..few.end.min(row + place.rows));
                    // SAFETY: each tile is laid by one task; `Cpu` checked the class.
                    unsafe {
                        let out = along.part(row / place.rows * place.words(), place.words());
                        by_compiled!(cpu, lay_along(out, x, stride, place));
                    }
                }
            }
            let x = some(few);
            // SAFETY: each step is laid by one task; `Cpu` checked the class.
            unsafe { by_compiled!(cpu, lay_steps(self.across, from / 2, x, self.place)) }
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
