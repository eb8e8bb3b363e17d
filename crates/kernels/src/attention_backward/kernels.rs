//! The five products of a block of keys and a block of queries, and what lies between them.
//!
//! A *word* is one f32, or two bf16 of neighbouring columns or rows: a product takes a word a step,
//! the same for both precisions. One factor is read a word at a time for each row of the result, the other
//! sixteen words at a time.

use super::Precision;
use crate::Class;
use crate::dispatch::for_class;
use crate::lanes::{Lanes, Plain};
use crate::math::{exp, mul_add};

#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};

/// Queries of a block: whole vectors, and a multiple of the rows of every tile.
pub(super) const QUERIES: usize = 96;
/// Keys of a block. The scores of a block and their gradients, 18 KiB each, stay in the first cache.
pub(super) const KEYS: usize = 48;

/// out[r][c] (+)= sum over steps of a[r][step] b[step][c], each sum in the order of the steps.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub out: *mut f32,
    pub out_stride: usize,
    pub rows: usize,
    /// Columns in vectors of sixteen.
    pub vectors: usize,
    /// The words of `a`: row r and step s lie at `r * a_row + s * a_step`.
    pub a: *const u32,
    pub a_row: usize,
    pub a_step: usize,
    /// The words of `b`: step s begins at `s * b_step`.
    pub b: *const u32,
    pub b_step: usize,
    /// The sums go on from what stands in `out`.
    pub resume: bool,
}

/// What a tile of a product's rows takes: vectors from `vector` on, steps `first` to before `last`.
#[derive(Clone, Copy)]
pub(super) struct Reach {
    pub vector: usize,
    pub first: usize,
    pub last: usize,
}

/// Vectors of a result that a tile holds at most, when there are `vectors` of them.
fn width<L: Entry>(vectors: usize) -> usize {
    match vectors {
        5 | 6 | 9 => 3,
        _ => vectors,
    }
    .min(L::WIDEST)
}

/// Rows of a tile `width` vectors wide: 24 sums in 32 registers (12 in 16 for AVX2, of half the
/// length) hide the latency of 4 cycles at two instructions a cycle.
fn height<L: Entry>(width: usize) -> usize {
    match width {
        _ if L::WIDEST == 1 => 6,
        1 | 2 => 12,
        3 => 8,
        _ => 6,
    }
}

/// Computes a product in tiles; `reach(row, rows)` says what the tile of these rows takes.
///
/// # Safety
///
/// The contract of `Lanes`; the words that the reaches name can be read, and `out` written.
pub(super) unsafe fn product<L: Entry, const BF16: bool>(
    p: &Product,
    reach: impl Fn(usize, usize) -> Reach,
) {
    let width = width::<L>(p.vectors);
    let mut row = 0;
    while row < p.rows {
        let fits = |n: &usize| *n <= height::<L>(width) && row + n <= p.rows;
        let rows = [12, 8, 6, 4, 2, 1].into_iter().find(fits).expect("a row is left");
        let Reach { mut vector, first, last } = reach(row, rows);
        while vector < p.vectors && (first < last || !p.resume) {
            let take = width.min(p.vectors - vector);
            let tile = Product {
                out: p.out.wrapping_add(row * p.out_stride + 16 * vector),
                a: p.a.wrapping_add(row * p.a_row + first * p.a_step),
                b: p.b.wrapping_add(16 * vector + first * p.b_step),
                ..*p
            };
            // SAFETY: the caller's contract.
            unsafe { L::tile::<BF16>(&tile, rows, take, last.saturating_sub(first)) };
            vector += take;
        }
        row += rows;
    }
}

/// # Safety
///
/// As `product`, for N rows and C vectors from the pointers on.
#[inline(always)]
unsafe fn tile<L: Lanes, const BF16: bool, const N: usize, const C: usize>(
    p: &Product,
    steps: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut sum = [[L::splat(0.0); C]; N];
        if p.resume {
            for n in 0..N {
                for c in 0..C {
                    sum[n][c] = L::load(p.out.add(n * p.out_stride + 16 * c));
                }
            }
        }
        let (mut a, mut b) = (p.a, p.b);
        for _ in 0..steps {
            if BF16 {
                let b: [L::B; C] = std::array::from_fn(|c| L::load_bytes(b.add(16 * c).cast()));
                for n in 0..N {
                    let a = *a.add(n * p.a_row) as i32;
                    for c in 0..C {
                        sum[n][c] = L::dot2_bf16(sum[n][c], b[c], a);
                    }
                }
            } else {
                let b: [L::F; C] = std::array::from_fn(|c| L::load(b.add(16 * c).cast()));
                for n in 0..N {
                    let a = L::splat(f32::from_bits(*a.add(n * p.a_row)));
                    for c in 0..C {
                        sum[n][c] = L::fma(b[c], a, sum[n][c]);
                    }
                }
            }
            a = a.wrapping_add(p.a_step);
            b = b.wrapping_add(p.b_step);
        }
        for n in 0..N {
            for c in 0..C {
                L::store(p.out.add(n * p.out_stride + 16 * c), sum[n][c]);
            }
        }
    }
}

/// The tiles of one class, in a function that enables its instructions.
pub(super) trait Entry: Lanes {
    /// The class of the functions that are not written over lanes.
    const CLASS: Class;
    /// Vectors of a tile at most.
    const WIDEST: usize;
    /// # Safety
    ///
    /// As `tile` for `n` rows and `c` vectors.
    unsafe fn tile<const BF16: bool>(p: &Product, n: usize, c: usize, steps: usize);
}

macro_rules! entry {
    ($lanes:ty, $class:expr, $widest:expr, [$(($n:literal, $c:literal)),*] $(, #[$enable:meta])?) => {
        impl Entry for $lanes {
            const CLASS: Class = $class;
            const WIDEST: usize = $widest;

            unsafe fn tile<const BF16: bool>(p: &Product, n: usize, c: usize, steps: usize) {
                $(#[$enable])?
                unsafe fn go<const BF16: bool>(p: &Product, n: usize, c: usize, steps: usize) {
                    // SAFETY: the caller's contract.
                    unsafe {
                        match (n, c) {
                            $(($n, $c) => tile::<$lanes, BF16, $n, $c>(p, steps),)*
                            _ => unreachable!("no tile of {n} rows and {c} vectors"),
                        }
                    }
                }
                // SAFETY: the caller's contract.
                unsafe { go::<BF16>(p, n, c, steps) }
            }
        }
    };
}

entry!(Plain, Class::Portable, 1, [(6, 1), (4, 1), (2, 1), (1, 1)]);
#[cfg(target_arch = "x86_64")]
entry!(
    Avx2,
    Class::Avx2,
    1,
    [(6, 1), (4, 1), (2, 1), (1, 1)],
    #[target_feature(enable = "avx2,fma,f16c")]
);
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
entry!(
    Avx512,
    Class::Avx512,
    4,
    [
        (12, 1), (12, 2), (8, 1), (8, 2), (8, 3), (6, 1), (6, 2), (6, 3), (6, 4),
        (4, 1), (4, 2), (4, 3), (4, 4), (2, 1), (2, 2), (2, 3), (2, 4),
        (1, 1), (1, 2), (1, 3), (1, 4)
    ],
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,fma,f16c")]
);

/// A block of keys against a block of queries.
#[derive(Clone, Copy)]
pub(super) struct Block {
    /// The first key and the first query, counted from the start of the document.
    pub key: usize,
    pub query: usize,
    pub keys: usize,
    pub queries: usize,
}

impl Block {
    /// The first query of the block that sees its key `row`.
    pub fn seen_from(&self, row: usize) -> usize {
        (self.key + row).saturating_sub(self.query)
    }

    /// Keys of the block that its query `row` sees.
    pub fn sees(&self, row: usize) -> usize {
        (self.query + row + 1).saturating_sub(self.key).min(self.keys)
    }
}

/// The scores of a block and what becomes of them, each [KEYS][QUERIES].
pub(super) struct Weights<'a> {
    /// q . k, then p.
    pub p: &'a mut [f32],
    /// dout . v, then ds.
    pub ds: &'a mut [f32],
    /// In bf16: p, ds, and ds by pairs of keys, a word a query.
    pub p_narrow: &'a mut [u16],
    pub ds_narrow: &'a mut [u16],
    pub ds_pairs: &'a mut [u32],
    /// lse and D of the queries.
    pub lse: &'a [f32],
    pub d: &'a [f32],
}

/// p = e^(scale s - lse) and ds = p (dp - D), both 0 where a query does not see a key.
///
/// Rows are written from sixteen queries before the first that sees them: products take rows a few
/// at a time, from the first query that sees any.
pub(super) fn weights(class: Class, w: Weights<'_>, b: Block, scale: f32, precision: Precision) {
    match precision {
        Precision::F32 => for_class!(class, plain_weights(w: Weights<'_>, b: Block, scale: f32)),
        Precision::Bf16 => for_class!(class, narrow_weights(w: Weights<'_>, b: Block, scale: f32)),
    }
}

#[inline(always)]
fn plain_weights<const FMA: bool>(w: Weights<'_>, b: Block, scale: f32) {
    for j in 0..b.keys {
        row_weights::<FMA>(
            &mut w.p[j * QUERIES..],
            &mut w.ds[j * QUERIES..],
            w.lse,
            w.d,
            b,
            j,
            scale,
        );
    }
}

#[inline(always)]
fn narrow_weights<const FMA: bool>(w: Weights<'_>, b: Block, scale: f32) {
    for j in 0..b.keys {
        let row = j * QUERIES..(j + 1) * QUERIES;
        let (p, ds) = (&mut w.p[row.clone()], &mut w.ds[row.clone()]);
        let from = row_weights::<FMA>(p, ds, w.lse, w.d, b, j, scale);
        let to = b.queries.next_multiple_of(16);
        narrow(&mut w.p_narrow[row.clone()][from..to], &p[from..to]);
        narrow(&mut w.ds_narrow[row.clone()][from..to], &ds[from..to]);
        let pairs = &mut w.ds_pairs[j / 2 * QUERIES..][from..to];
        for (pair, ds) in pairs.iter_mut().zip(&w.ds_narrow[row][from..to]) {
            *pair = if j % 2 == 0 { u32::from(*ds) } else { *pair | u32::from(*ds) << 16 };
        }
    }
}

/// One key; returns the first query that was written.
#[inline(always)]
fn row_weights<const FMA: bool>(
    p: &mut [f32],
    ds: &mut [f32],
    lse: &[f32],
    d: &[f32],
    b: Block,
    j: usize,
    scale: f32,
) -> usize {
    let first = b.seen_from(j);
    let (from, to) = (first.saturating_sub(16) / 16, b.queries.div_ceil(16));
    // Vectors of queries that all see the key.
    let (whole_from, whole_to) = (first.div_ceil(16).min(to), b.queries / 16);
    let p = &mut p.as_chunks_mut::<16>().0[..to];
    let ds = &mut ds.as_chunks_mut::<16>().0[..to];
    let (lse, d) = (&lse.as_chunks::<16>().0[..to], &d.as_chunks::<16>().0[..to]);
    for v in whole_from..whole_to {
        for l in 0..16 {
            p[v][l] = exp::<FMA>(mul_add::<FMA>(p[v][l], scale, -lse[v][l]));
            ds[v][l] = p[v][l] * (ds[v][l] - d[v][l]);
        }
    }
    for v in (from..whole_from).chain(whole_to.max(whole_from)..to) {
        for l in 0..16 {
            let seen = 16 * v + l >= first && 16 * v + l < b.queries;
            let weight = exp::<FMA>(mul_add::<FMA>(p[v][l], scale, -lse[v][l]));
            p[v][l] = if seen { weight } else { 0.0 };
            ds[v][l] = if seen { weight * (ds[v][l] - d[v][l]) } else { 0.0 };
        }
    }
    16 * from
}

/// The upper half of the nearest bf16.
#[inline(always)]
fn narrowed(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    (if x.is_nan() { bits >> 16 | 0x40 } else { rounded }) as u16
}

#[inline(always)]
fn narrow(out: &mut [u16], x: &[f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = narrowed(*x);
    }
}

/// Rows of one head somewhere in [T, heads, K], as the packers take them.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// From the first number of the first row.
    pub x: &'a [f32],
    /// Numbers from row to row.
    pub stride: usize,
    /// K, and K in memory.
    pub dim: usize,
    pub padded: usize,
    pub rows: usize,
}

/// Rows that are asked for ahead: they lie too far apart for the processor to foresee.
pub(super) const AHEAD: usize = 16;

/// Asks for `len` numbers at `p`, which need not be readable.
#[inline(always)]
pub(super) fn ask(p: *const f32, len: usize) {
    #[cfg(target_arch = "x86_64")]
    for i in (0..len).step_by(16) {
        // SAFETY: every x86-64 has this prefetch, and it never faults.
        unsafe { Avx2::prefetch(p.wrapping_add(i).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (p, len);
}

impl<'a> Rows<'a> {
    /// Row i; asks for one to come.
    #[inline(always)]
    fn row(&self, i: usize) -> &'a [f32] {
        ask(self.x.as_ptr().wrapping_add((i + AHEAD) * self.stride), self.dim);
        &self.x[i * self.stride..][..self.dim]
    }
}

/// Words of neighbouring columns, row by row; 0 from K on.
pub(super) fn lay_rows(class: Class, out: &mut [u32], x: Rows<'_>, precision: Precision) {
    match precision {
        Precision::F32 => for_class!(class, lay_f32(out: &mut [u32], x: Rows<'_>)),
        Precision::Bf16 => {
            let out: &mut [u16] = bytemuck::cast_slice_mut(out);
            for_class!(class, lay_bf16(out: &mut [u16], x: Rows<'_>));
        }
    }
}

#[inline(always)]
fn lay_f32<const FMA: bool>(out: &mut [u32], x: Rows<'_>) {
    for (i, out) in out.chunks_exact_mut(x.padded).enumerate().take(x.rows) {
        let (out, rest) = out.split_at_mut(x.dim);
        out.iter_mut().zip(x.row(i)).for_each(|(out, x)| *out = x.to_bits());
        rest.fill(0);
    }
}

#[inline(always)]
fn lay_bf16<const FMA: bool>(out: &mut [u16], x: Rows<'_>) {
    for (i, out) in out.chunks_exact_mut(x.padded).enumerate().take(x.rows) {
        let (out, rest) = out.split_at_mut(x.dim);
        narrow(out, x.row(i));
        rest.fill(0);
    }
}

/// Words of neighbouring rows, in bf16; a last row without a neighbour has 0 for it.
pub(super) fn lay_pairs(class: Class, out: &mut [u32], x: Rows<'_>) {
    for_class!(class, lay_pairs_body(out: &mut [u32], x: Rows<'_>));
}

#[inline(always)]
fn lay_pairs_body<const FMA: bool>(out: &mut [u32], x: Rows<'_>) {
    for (i, out) in out.chunks_exact_mut(x.padded).enumerate().take(x.rows.div_ceil(2)) {
        let (out, rest) = out.split_at_mut(x.dim);
        let lower = x.row(2 * i);
        if 2 * i + 1 < x.rows {
            for ((out, lower), upper) in out.iter_mut().zip(lower).zip(x.row(2 * i + 1)) {
                *out = u32::from(narrowed(*lower)) | u32::from(narrowed(*upper)) << 16;
            }
        } else {
            out.iter_mut().zip(lower).for_each(|(out, x)| *out = u32::from(narrowed(*x)));
        }
        rest.fill(0);
    }
}

/// Rows of `width` words as columns of QUERIES: word w of row i goes to `w * QUERIES + i`.
pub(super) fn lay_columns(class: Class, out: &mut [u32], rows: &[u32], width: usize) {
    let (whole, count) = (rows.len() / width / 16 * 16, rows.len() / width);
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if class >= Class::Avx512 && width >= 16 {
        for (i, w) in
            (0..whole).step_by(16).flat_map(|i| (0..width).step_by(16).map(move |w| (i, w)))
        {
            // A last square that is not whole overlaps the one before.
            let w = w.min(width - 16);
            let (from, to) = (&rows[i * width + w..], &mut out[w * QUERIES + i..]);
            assert!(from.len() >= 15 * width + 16 && to.len() >= 15 * QUERIES + 16);
            // SAFETY: the class was checked; the line above checked both squares.
            unsafe { transpose(to.as_mut_ptr(), from.as_ptr(), width) };
        }
        done = whole;
    }
    for i in done..count {
        for (w, word) in rows[i * width..][..width].iter().enumerate() {
            out[w * QUERIES + i] = *word;
        }
    }
}

/// A square of 16 words: four times, rows i and i + 8 are interleaved into rows 2i and 2i + 1.
///
/// # Safety
///
/// The CPU has AVX-512 F; the square can be read at `from`, rows `stride` apart, and written at
/// `to`, rows QUERIES apart.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn transpose(to: *mut u32, from: *const u32, stride: usize) {
    use std::arch::x86_64::*;
    // SAFETY: the caller's contract.
    unsafe {
        let lower = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        let upper = _mm512_add_epi32(lower, _mm512_set1_epi32(8));
        let mut rows: [__m512i; 16] =
            std::array::from_fn(|i| _mm512_loadu_si512(from.add(i * stride).cast()));
        for _ in 0..4 {
            rows = std::array::from_fn(|i| {
                let order = if i % 2 == 0 { lower } else { upper };
                _mm512_permutex2var_epi32(rows[i / 2], order, rows[i / 2 + 8])
            });
        }
        for (i, row) in rows.into_iter().enumerate() {
            _mm512_storeu_si512(to.add(i * QUERIES).cast(), row);
        }
    }
}

/// D of each row: dout . out, in sixteen lanes.
pub(super) fn row_dots(class: Class, d: &mut [f32], dout: Rows<'_>, out: Rows<'_>) {
    for_class!(class, row_dots_body(d: &mut [f32], dout: Rows<'_>, out: Rows<'_>));
}

#[inline(always)]
fn row_dots_body<const FMA: bool>(d: &mut [f32], dout: Rows<'_>, out: Rows<'_>) {
    for (i, d) in d.iter_mut().enumerate() {
        let mut lanes = [0.0f32; 16];
        let (a, b) = (dout.row(i).as_chunks::<16>(), out.row(i).as_chunks::<16>());
        for (a, b) in a.0.iter().zip(b.0) {
            for l in 0..16 {
                lanes[l] = mul_add::<FMA>(a[l], b[l], lanes[l]);
            }
        }
        for ((lane, a), b) in lanes.iter_mut().zip(a.1).zip(b.1) {
            *lane = mul_add::<FMA>(*a, *b, *lane);
        }
        for half in [8, 4, 2, 1] {
            for l in 0..half {
                lanes[l] += lanes[l + half];
            }
        }
        *d = lanes[0];
    }
}
