//! The gradient of causal grouped-query attention over packed documents, without T x T memory.
//!
//! With s_ij = scale q_i . k_j, p_ij = e^(s_ij - lse_i) and D_i = dout_i . out_i, over the keys j <= i
//! of a document: dp_ij = dout_i . v_j, ds_ij = p_ij (dp_ij - D_i),
//!
//! dv_j = sum_i p_ij dout_i,  dk_j = scale sum_i ds_ij q_i,  dq_i = scale sum_j ds_ij k_j.
//!
//! Every sum is one chain: over the head width for s and dp, over keys for dq, over queries for dk and dv,
//! all ascending and within one head; then the heads of a group are added in order. So a document's bits
//! depend on nothing but the document, and blocks and threads are free.
//!
//! Letters: T tokens, H query heads, G key/value heads, K head width. Source: arXiv 2205.14135.

mod kernels;

use crate::Class;
use crate::cpu::{Cpu, Parts, floats};
use crate::lanes::Plain;
use kernels::{Block, Entry, KEYS, Product, QUERIES, Reach, Rows, Weights};
use std::cell::RefCell;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};

/// Gradients to be written.
#[derive(Debug)]
pub struct AttentionGrads<'a> {
    /// Of the queries, [T, H, K].
    pub dq: &'a mut [f32],
    /// Of the keys, [T, G, K].
    pub dk: &'a mut [f32],
    /// Of the values, [T, G, K].
    pub dv: &'a mut [f32],
}

/// What attention took and gave.
#[derive(Clone, Copy, Debug)]
pub struct Attended<'a> {
    /// Queries, [T, H, K].
    pub q: &'a [f32],
    /// Keys, [T, G, K].
    pub k: &'a [f32],
    /// Values, [T, G, K].
    pub v: &'a [f32],
    /// The result, [T, H, K].
    pub out: &'a [f32],
    /// ln sum_j e^(scale q_i . k_j), [T, H].
    pub lse: &'a [f32],
}

/// Heads and their width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    /// Query heads, H: a multiple of G.
    pub heads: usize,
    /// Key/value heads, G.
    pub kv_heads: usize,
    /// Head width, K.
    pub head_dim: usize,
}

/// How the factors of the five products are kept; sums are in f32 either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As they are.
    F32,
    /// q, k, v, dout, p and ds rounded to bf16; D, lse and the exponentials stay in f32.
    Bf16,
}

/// Writes the gradients of attention for every row of the documents; other rows get 0.
///
/// `dout` is [T, H, K]. `documents` are ranges of rows, ascending and apart; each row sees the rows of
/// its document up to itself. A document's bits depend on that document alone.
/// Panics if sizes disagree, or a document is out of order or past the last row.
pub fn attention_backward(
    cpu: &Cpu,
    grads: AttentionGrads<'_>,
    dout: &[f32],
    saved: Attended<'_>,
    shape: HeadShape,
    scale: f32,
    precision: Precision,
    documents: &[Range<usize>],
) {
    check(&grads, dout, saved, shape, documents);
    let AttentionGrads { dq, dk, dv } = grads;
    let HeadShape { heads, kv_heads, head_dim } = shape;
    fill_gaps(dq, heads * head_dim, documents);
    fill_gaps(dk, kv_heads * head_dim, documents);
    fill_gaps(dv, kv_heads * head_dim, documents);
    let (dq, dk, dv) = (Parts::new(dq), Parts::new(dk), Parts::new(dv));
    let pass = Pass { dq, dk, dv, dout, saved, shape, scale, precision };
    let group = heads / kv_heads;
    if group == 1 || documents.len() * kv_heads >= 4 * cpu.pool.threads() {
        cpu.pool.run(documents.len() * kv_heads, |i| {
            let (document, g) = (&documents[i / kv_heads], i % kv_heads);
            pass.run(cpu.lanes(), document, g * group..(g + 1) * group, None);
        });
        return;
    }
    // Few key/value heads: the query heads go to different threads, and are added afterwards.
    let rows = saved.lse.len() / heads;
    let mut scratch = cpu.scratch();
    let sums = floats(&mut scratch, 2 * rows * heads * head_dim);
    let parts = Parts::new(sums);
    cpu.pool.run(documents.len() * heads, |i| {
        let (document, h) = (&documents[i / heads], i % heads);
        pass.run(cpu.lanes(), document, h..h + 1, Some(parts));
    });
    cpu.pool.run(documents.len() * kv_heads, |i| {
        pass.join_heads(&documents[i / kv_heads], i % kv_heads, sums);
    });
}

/// Zero for the rows that no document has.
fn fill_gaps(x: &mut [f32], width: usize, documents: &[Range<usize>]) {
    let mut end = 0;
    for document in documents {
        x[end * width..document.start * width].fill(0.0);
        end = document.end;
    }
    x[end * width..].fill(0.0);
}

thread_local! {
    /// A thread's working memory; one head of one document uses it from beginning to end.
    static WORK: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// Query blocks that walk the keys together: what they need of 96 queries fits the second cache,
/// and each key block is fetched once for all of them.
const SPAN: usize = 3;

const _: () = assert!(QUERIES.is_multiple_of(KEYS), "a key block lies in one query block");

/// The whole call, as its tasks see it.
struct Pass<'a> {
    dq: Parts<f32>,
    dk: Parts<f32>,
    dv: Parts<f32>,
    dout: &'a [f32],
    saved: Attended<'a>,
    shape: HeadShape,
    scale: f32,
    precision: Precision,
}

impl<'a> Pass<'a> {
    /// Some query heads of one key/value head, over one document. Their dk and dv go to the caller, or to
    /// `apart`, where each document and head has its rows: dk [rows, K], then dv.
    fn run(
        &self,
        class: Class,
        document: &Range<usize>,
        heads: Range<usize>,
        apart: Option<Parts<f32>>,
    ) {
        let (len, dim) = (document.len(), self.shape.head_dim);
        let g = heads.start / (self.shape.heads / self.shape.kv_heads);
        WORK.with_borrow_mut(|work| {
            let narrow = self.precision == Precision::Bf16;
            let mut m = Memory::new(work, len, dim.next_multiple_of(16), narrow);
            self.lay_keys(class, &mut m, document, g);
            for h in heads.clone() {
                self.walk(class, &mut m, document, h);
                m.gain(h == heads.start);
            }
            let scaled = |out: &mut [f32], sums: &[f32], scale: f32| {
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * scale);
            };
            for t in 0..len {
                let sums = t * m.padded..t * m.padded + dim;
                if let Some(apart) = apart {
                    let at = 2 * ((document.start * self.shape.heads) + heads.start * len) * dim;
                    // SAFETY: each document and head is given to one task.
                    let (dk, dv) = unsafe {
                        (apart.part(at + t * dim, dim), apart.part(at + (len + t) * dim, dim))
                    };
                    dk.copy_from_slice(&m.dk_sum[sums.clone()]);
                    dv.copy_from_slice(&m.dv_sum[sums]);
                } else {
                    let at = ((document.start + t) * self.shape.kv_heads + g) * dim;
                    let ahead = at + kernels::AHEAD * self.shape.kv_heads * dim;
                    kernels::ask(self.dk.pointer().wrapping_add(ahead), dim);
                    kernels::ask(self.dv.pointer().wrapping_add(ahead), dim);
                    // SAFETY: each document and head is given to one task.
                    let (dk, dv) = unsafe { (self.dk.part(at, dim), self.dv.part(at, dim)) };
                    scaled(dk, &m.dk_sum[sums.clone()], self.scale);
                    scaled(dv, &m.dv_sum[sums], 1.0);
                }
            }
        });
    }

    /// Adds what `run` wrote apart: the query heads of a key/value head, in order.
    fn join_heads(&self, document: &Range<usize>, g: usize, sums: &[f32]) {
        let HeadShape { heads, kv_heads, head_dim: dim } = self.shape;
        let (group, len) = (heads / kv_heads, document.len());
        for (which, out, scale) in [(0, self.dk, self.scale), (1, self.dv, 1.0)] {
            for t in 0..len {
                let head = |h: usize| {
                    let at = 2 * (document.start * heads + h * len) + which * len + t;
                    &sums[at * dim..][..dim]
                };
                // SAFETY: each document and head is given to one task.
                let out = unsafe { out.part(((document.start + t) * kv_heads + g) * dim, dim) };
                out.copy_from_slice(head(g * group));
                for h in g * group + 1..(g + 1) * group {
                    out.iter_mut().zip(head(h)).for_each(|(out, sum)| *out += sum);
                }
                out.iter_mut().for_each(|out| *out *= scale);
            }
        }
    }

    /// One query head over one document: dq to the caller, dk and dv to `m`.
    fn walk(&self, class: Class, m: &mut Memory<'_>, document: &Range<usize>, h: usize) {
        let HeadShape { heads, head_dim: dim, .. } = self.shape;
        for first in (0..document.len()).step_by(SPAN * QUERIES) {
            let rows = (document.len() - first).min(SPAN * QUERIES);
            self.lay_queries(class, m, document.start + first, rows, h);
            for key in (0..first + rows).step_by(KEYS) {
                for at in (0..rows).step_by(QUERIES) {
                    let query = first + at;
                    let queries = (rows - at).min(QUERIES);
                    // The keys that the block's last query sees.
                    let keys = (query + queries).saturating_sub(key).min(KEYS);
                    if keys > 0 {
                        self.block_of(class, m, Block { key, query, keys, queries }, at);
                    }
                }
            }
            for i in 0..rows {
                let at = ((document.start + first + i) * heads + h) * dim;
                kernels::ask(
                    self.dq.pointer().wrapping_add(at + kernels::AHEAD * heads * dim),
                    dim,
                );
                // SAFETY: each row and head belongs to one task.
                let out = unsafe { self.dq.part(at, dim) };
                let sums = &m.dq[i * m.padded..];
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * self.scale);
            }
        }
    }

    /// `block` for a class and precision.
    fn block_of(&self, class: Class, m: &mut Memory<'_>, block: Block, at: usize) {
        // SAFETY: `Cpu` checked the class; the block lies in the document.
        unsafe {
            match (class, self.precision) {
                (Class::Portable, Precision::F32) => self.block::<Plain, false>(m, block, at),
                (Class::Portable, Precision::Bf16) => self.block::<Plain, true>(m, block, at),
                #[cfg(target_arch = "x86_64")]
                (Class::Avx2, Precision::F32) => self.block::<Avx2, false>(m, block, at),
                #[cfg(target_arch = "x86_64")]
                (Class::Avx2, Precision::Bf16) => self.block::<Avx2, true>(m, block, at),
                #[cfg(target_arch = "x86_64")]
                (Class::Avx512 | Class::Amx, Precision::F32) => {
                    self.block::<Avx512, false>(m, block, at);
                }
                #[cfg(target_arch = "x86_64")]
                (Class::Avx512 | Class::Amx, Precision::Bf16) => {
                    self.block::<Avx512, true>(m, block, at);
                }
                #[cfg(not(target_arch = "x86_64"))]
                (Class::Avx2 | Class::Avx512 | Class::Amx, _) => {
                    unreachable!("checked by Cpu::new")
                }
            }
        }
    }
    /// The keys and values of a document, for one head.
    fn lay_keys(&self, class: Class, m: &mut Memory<'_>, document: &Range<usize>, g: usize) {
        let HeadShape { kv_heads, head_dim: dim, .. } = self.shape;
        let at = (document.start * kv_heads + g) * dim;
        let (stride, padded, rows) = (kv_heads * dim, m.padded, document.len());
        let of = |x| Rows { x, stride, dim, padded, rows };
        let (k, v) = (of(&self.saved.k[at..]), of(&self.saved.v[at..]));
        kernels::lay_rows(class, m.k, k, self.precision);
        kernels::lay_rows(class, m.v, v, self.precision);
        if self.precision == Precision::Bf16 {
            kernels::lay_pairs(class, m.k_pairs, k);
        }
    }

    /// Some rows of queries and dout, and their lse and D, for one head.
    fn lay_queries(&self, class: Class, m: &mut Memory<'_>, first: usize, rows: usize, h: usize) {
        let HeadShape { heads, head_dim: dim, .. } = self.shape;
        let at = (first * heads + h) * dim;
        let (stride, padded) = (heads * dim, m.padded);
        for from in (0..rows).step_by(QUERIES) {
            let count = (rows - from).min(QUERIES);
            let of = |x: &'a [f32]| Rows {
                x: &x[at + from * stride..],
                stride,
                dim,
                padded,
                rows: count,
            };
            let b = from / QUERIES;
            for (x, rows, pairs, columns) in [
                (of(self.saved.q), &mut *m.q, &mut *m.q_pairs, &mut *m.q_columns),
                (of(self.dout), &mut *m.a, &mut *m.a_pairs, &mut *m.a_columns),
            ] {
                let rows = &mut rows[from * m.width..][..count * m.width];
                kernels::lay_rows(class, rows, x, self.precision);
                kernels::lay_columns(class, &mut columns[b * QUERIES * m.width..], rows, m.width);
                if self.precision == Precision::Bf16 {
                    kernels::lay_pairs(class, &mut pairs[from / 2 * padded..], x);
                }
            }
            let d = &mut m.d[from..][..count];
            kernels::row_dots(class, d, of(self.dout), of(self.saved.out));
        }
        for (i, lse) in m.lse[..rows].iter_mut().enumerate() {
            *lse = self.saved.lse[(first + i) * heads + h];
        }
    }

    /// One block of keys against the queries from row `at` of those that are laid.
    ///
    /// # Safety
    ///
    /// The contract of `Lanes`; `block` lies in what `m` holds.
    unsafe fn block<L: Entry, const BF16: bool>(
        &self,
        m: &mut Memory<'_>,
        block: Block,
        at: usize,
    ) {
        let (padded, width, per) = (m.padded, m.width, if BF16 { 2 } else { 1 });
        let steps = self.shape.head_dim.div_ceil(per);
        let columns = at * width..;
        // s and dp: [keys, queries], sums over the head width.
        let scores = Product {
            out: m.p.as_mut_ptr(),
            out_stride: QUERIES,
            rows: block.keys,
            vectors: block.queries.div_ceil(16),
            a: m.k[block.key * width..].as_ptr(),
            a_row: width,
            a_step: 1,
            b: m.q_columns[columns.clone()].as_ptr(),
            b_step: QUERIES,
            resume: false,
        };
        let d_weights = Product {
            out: m.ds.as_mut_ptr(),
            a: m.v[block.key * width..].as_ptr(),
            b: m.a_columns[columns].as_ptr(),
            ..scores
        };
        let seen = |row, _| Reach { vector: block.seen_from(row) / 16, first: 0, last: steps };
        // SAFETY: the caller's contract; each row of `a` has `width` words, `b` as many steps.
        unsafe {
            kernels::product::<L, BF16>(&scores, seen);
            kernels::product::<L, BF16>(&d_weights, seen);
        }
        kernels::weights(L::CLASS, m.weights(at), block, self.scale, self.precision);
        // dv and dk: [keys, K], sums over queries. dq: [queries, K], sums over keys.
        let (p, ds): (*const u32, *const u32) = match BF16 {
            true => (m.p_narrow.as_ptr(), m.ds_narrow.as_ptr()),
            false => (m.p.as_ptr().cast(), m.ds.as_ptr().cast()),
        };
        let rows = |f32s: &[u32], pairs: &[u32], row: usize| match BF16 {
            true => pairs[row / 2 * padded..].as_ptr(),
            false => f32s[row * padded..].as_ptr(),
        };
        let values = Product {
            out: m.dv[block.key * padded..].as_mut_ptr(),
            out_stride: padded,
            rows: block.keys,
            vectors: padded / 16,
            a: p,
            a_row: QUERIES / per,
            a_step: 1,
            b: rows(m.a, m.a_pairs, at),
            b_step: padded,
            // The keys of a block meet their first queries where both begin.
            resume: block.key < block.query,
        };
        let keys = Product {
            out: m.dk[block.key * padded..].as_mut_ptr(),
            a: ds,
            b: rows(m.q, m.q_pairs, at),
            ..values
        };
        let queries = Product {
            out: m.dq[at * padded..].as_mut_ptr(),
            rows: block.queries,
            a: if BF16 { m.ds_pairs.as_ptr() } else { ds },
            a_row: 1,
            a_step: QUERIES,
            b: rows(m.k, m.k_pairs, block.key),
            resume: block.key > 0,
            ..values
        };
        let after = |row, _| Reach {
            vector: 0,
            first: block.seen_from(row) / per,
            last: block.queries.div_ceil(per),
        };
        let before = |row, rows| Reach {
            vector: 0,
            first: 0,
            last: block.sees(row + rows - 1).div_ceil(per),
        };
        // SAFETY: the caller's contract; `weights` wrote what the reaches name.
        unsafe {
            kernels::product::<L, BF16>(&values, after);
            kernels::product::<L, BF16>(&keys, after);
            kernels::product::<L, BF16>(&queries, before);
        }
    }
}

/// What one head of one document works with. `pairs` and `narrow` are for bf16 alone.
struct Memory<'a> {
    /// K in memory, and words of a row.
    padded: usize,
    width: usize,
    /// Keys and values of the document, in words.
    k: &'a mut [u32],
    v: &'a mut [u32],
    k_pairs: &'a mut [u32],
    /// Queries and dout ("a") of a span of rows.
    q: &'a mut [u32],
    a: &'a mut [u32],
    q_pairs: &'a mut [u32],
    a_pairs: &'a mut [u32],
    q_columns: &'a mut [u32],
    a_columns: &'a mut [u32],
    lse: &'a mut [f32],
    d: &'a mut [f32],
    dq: &'a mut [f32],
    /// Sums over the queries of one head, [keys, padded K], and over the heads so far.
    dk: &'a mut [f32],
    dv: &'a mut [f32],
    dk_sum: &'a mut [f32],
    dv_sum: &'a mut [f32],
    /// Scores of a block.
    p: &'a mut [f32],
    ds: &'a mut [f32],
    p_narrow: &'a mut [u32],
    ds_narrow: &'a mut [u32],
    ds_pairs: &'a mut [u32],
}

impl<'a> Memory<'a> {
    fn new(work: &'a mut Vec<u32>, len: usize, padded: usize, narrow: bool) -> Memory<'a> {
        let width = if narrow { padded / 2 } else { padded };
        let (span, scores) = (SPAN * QUERIES, KEYS * QUERIES);
        let pairs = |rows: usize| if narrow { rows.div_ceil(2) * padded } else { 0 };
        let keys = 2 * len * width + pairs(len) + 4 * len * padded;
        let queries = 4 * span * width + 2 * pairs(span) + 2 * span + span * padded;
        let total = keys + queries + 2 * scores + if narrow { scores + scores / 2 } else { 0 };
        if work.len() < total {
            work.resize(total, 0);
        }
        let mut rest = &mut work[..];
        let mut words = |count: usize| {
            let (first, last) = std::mem::take(&mut rest).split_at_mut(count);
            rest = last;
            first
        };
        Memory {
            padded,
            width,
            k: words(len * width),
            v: words(len * width),
            k_pairs: words(pairs(len)),
            q: words(span * width),
            a: words(span * width),
            q_pairs: words(pairs(span)),
            a_pairs: words(pairs(span)),
            q_columns: words(span * width),
            a_columns: words(span * width),
            lse: bytemuck::cast_slice_mut(words(span)),
            d: bytemuck::cast_slice_mut(words(span)),
            dq: bytemuck::cast_slice_mut(words(span * padded)),
            dk: bytemuck::cast_slice_mut(words(len * padded)),
            dv: bytemuck::cast_slice_mut(words(len * padded)),
            dk_sum: bytemuck::cast_slice_mut(words(len * padded)),
            dv_sum: bytemuck::cast_slice_mut(words(len * padded)),
            p: bytemuck::cast_slice_mut(words(scores)),
            ds: bytemuck::cast_slice_mut(words(scores)),
            p_narrow: words(if narrow { scores / 2 } else { 0 }),
            ds_narrow: words(if narrow { scores / 2 } else { 0 }),
            ds_pairs: words(if narrow { scores / 2 } else { 0 }),
        }
    }

    /// Adds the sums of a head to those of the heads before it.
    fn gain(&mut self, first: bool) {
        if first {
            std::mem::swap(&mut self.dk, &mut self.dk_sum);
            std::mem::swap(&mut self.dv, &mut self.dv_sum);
            return;
        }
        self.dk_sum.iter_mut().zip(&*self.dk).for_each(|(sum, dk)| *sum += dk);
        self.dv_sum.iter_mut().zip(&*self.dv).for_each(|(sum, dv)| *sum += dv);
    }

    /// The scores of a block, with the statistics of the queries from row `at` on.
    fn weights(&mut self, at: usize) -> Weights<'_> {
        Weights {
            p: self.p,
            ds: self.ds,
            p_narrow: bytemuck::cast_slice_mut(self.p_narrow),
            ds_narrow: bytemuck::cast_slice_mut(self.ds_narrow),
            ds_pairs: self.ds_pairs,
            lse: &self.lse[at..],
            d: &self.d[at..],
        }
    }
}

fn check(
    grads: &AttentionGrads<'_>,
    dout: &[f32],
    saved: Attended<'_>,
    shape: HeadShape,
    documents: &[Range<usize>],
) {
    let HeadShape { heads, kv_heads, head_dim } = shape;
    assert!(head_dim > 0 && kv_heads > 0 && heads > 0, "attention_backward: {shape:?}");
    assert!(heads.is_multiple_of(kv_heads), "attention_backward: {heads} heads, {kv_heads}");
    let rows = saved.lse.len() / heads;
    assert_eq!(saved.lse.len(), rows * heads, "attention_backward: lse is not rows of {heads}");
    for (name, x) in [("q", saved.q), ("out", saved.out), ("dout", dout), ("dq", &*grads.dq)] {
        assert_eq!(x.len(), rows * heads * head_dim, "attention_backward: length of {name}");
    }
    for (name, x) in [("k", saved.k), ("v", saved.v), ("dk", &*grads.dk), ("dv", &*grads.dv)] {
        assert_eq!(x.len(), rows * kv_heads * head_dim, "attention_backward: length of {name}");
    }
    let mut end = 0;
    for document in documents {
        assert!(
            end <= document.start && document.start <= document.end && document.end <= rows,
            "attention_backward: document {document:?} after row {end} of {rows}"
        );
        end = document.end;
    }
}

#[cfg(test)]
mod tests;
