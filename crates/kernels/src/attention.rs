//! Grouped-query attention over a paged cache, without ever holding T x T scores.
//!
//! out_t = sum_j softmax_j(q_t . k_j / sqrt(K)) v_j over the keys j <= t of the same sequence.
//!
//! Keys are walked in blocks of `BLOCK` at fixed positions of the sequence. A block gives each
//! query its largest score m, the sum l of e^(s - m) and the sum o of e^(s - m) v; blocks are
//! folded in ascending order. That order is the same whether blocks are computed by one thread or
//! by several, for one query or many, in pages of any length: so are the bits.
//!
//! Letters: T tokens, H query heads, G key/value heads, R = H / G, K head width.

use crate::Class;
use crate::convert::f32_to_f16;
use crate::cpu::{Cpu, Parts};

mod codes;
mod floats;
mod tiles;
mod weights;

pub(crate) use weights::exp2;
mod work;

use tiles::{Batch, TILES};
use work::WORK;

/// Keys in a block: their scores for twelve queries fill a quarter of the first cache.
const BLOCK: usize = 256;
/// Query rows that a tile holds at most.
const TILE: usize = 12;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvFormat {
    /// As computed.
    F32,
    /// Half the bytes; 11 bits of precision.
    F16,
    /// Codes of 16 bits with a scale a vector: 12 to 15 bits, and products twice as fast (`codes`).
    I16,
    /// Codes of 8 bits with a scale a vector: half the bytes of f16, off by a 254th of a vector's peak.
    I8,
}

impl KvFormat {
    /// Bytes of one number.
    const fn bytes(self) -> usize {
        match self {
            KvFormat::F32 => 4,
            KvFormat::F16 | KvFormat::I16 => 2,
            KvFormat::I8 => 1,
        }
    }

    /// Bytes that belong to a whole vector.
    const fn scale_bytes(self) -> usize {
        match self {
            KvFormat::F32 | KvFormat::F16 => 0,
            KvFormat::I16 | KvFormat::I8 => 4,
        }
    }

    /// Bytes of a key, or a value, of `len` numbers.
    pub const fn vector_bytes(self, len: usize) -> usize {
        len * self.bytes() + self.scale_bytes()
    }
}

/// The shape of one layer's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// How numbers are stored.
    pub format: KvFormat,
    /// Positions in a page; a multiple of 16.
    pub page_len: usize,
    /// Key/value heads, G.
    pub kv_heads: usize,
    /// Head width, K.
    pub head_dim: usize,
}

impl KvShape {
    /// Head width in memory: values are read sixteen at a time.
    fn padded(self) -> usize {
        self.head_dim.next_multiple_of(16)
    }

    /// Bytes of one page of keys and values.
    pub fn page_bytes(self) -> usize {
        self.value_offset() * 2
    }

    /// Where the values of a page begin.
    fn value_offset(self) -> usize {
        self.kv_heads * self.head_bytes()
    }

    /// Bytes of one head's keys (or values) in a page: numbers, then scales if the format has any.
    fn head_bytes(self) -> usize {
        self.format.vector_bytes(self.padded()) * self.page_len
    }

    /// Bytes of the numbers alone.
    fn code_bytes(self) -> usize {
        self.padded() * self.page_len * self.format.bytes()
    }
}

/// Rows of one sequence in a packed batch.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    /// Its first row in the batch.
    pub row: usize,
    /// Its rows.
    pub rows: usize,
    /// Positions already in the cache: the position of its first row.
    pub past: usize,
    /// The pages that hold positions 0 and up.
    pub pages: &'a [u32],
}

/// Writes keys and values, each [T, G, K], to the pages of their sequences.
///
/// `cache` is pages of `shape.page_bytes()`: keys `[G][K][page_len]`, then values
/// `[G][page_len][K]`, both as attention reads them (`codes` for `I16`). Panics if a page is missing.
pub fn store(
    cpu: &Cpu,
    cache: &mut [u8],
    shape: KvShape,
    k: &[f32],
    v: &[f32],
    sequences: &[Sequence<'_>],
) {
    let pages = cache.len() / shape.page_bytes();
    for s in sequences {
        let used = &s.pages[..(s.past + s.rows).div_ceil(shape.page_len)];
        assert!(used.iter().all(|&page| (page as usize) < pages), "store: a page is missing");
    }
    let cache = Parts::new(cache);
    let few = sequences.iter().map(|s| s.rows).sum::<usize>() < 16;
    let pages_of =
        |s: &Sequence<'_>| (s.past + s.rows).div_ceil(shape.page_len) - s.past / shape.page_len;
    let places: usize = sequences.iter().filter(|s| s.rows > 0).map(pages_of).sum();
    let store = |i: usize| {
        let (mut page, g) = (i / shape.kv_heads, i % shape.kv_heads);
        for s in sequences.iter().filter(|s| s.rows > 0) {
            if page < pages_of(s) {
                let page = s.past / shape.page_len + page;
                return store_head(cpu.class, cache, shape, k, v, s, page, g);
            }
            page -= pages_of(s);
        }
    };
    // Heads lie apart in a page. A few rows are stored before another thread is awake.
    let tasks = places * shape.kv_heads;
    if few { (0..tasks).for_each(store) } else { cpu.pool.run(tasks, store) }
}

/// The rows of one sequence that lie in its page `page`, for one key/value head.
fn store_head(
    class: Class,
    cache: Parts<u8>,
    shape: KvShape,
    k: &[f32],
    v: &[f32],
    s: &Sequence<'_>,
    page: usize,
    g: usize,
) {
    let (dim, bytes, len) = (shape.head_dim, shape.head_bytes(), shape.page_len);
    let place = s.pages[page] as usize * shape.page_bytes() + g * bytes;
    // SAFETY: the head's part of the page belongs to one task; `store` checked the page.
    let (keys, values) =
        unsafe { (cache.part(place, bytes), cache.part(place + shape.value_offset(), bytes)) };
    for at in s.past.max(page * len)..(s.past + s.rows).min((page + 1) * len) {
        let (row, slot) = (((s.row + at - s.past) * shape.kv_heads + g) * dim, at % len);
        let (k, v) = (&k[row..row + dim], &v[row..row + dim]);
        match shape.format {
            KvFormat::F32 => {
                put(keys, slot, len, k, |x| x.to_le_bytes());
                put(values, slot * shape.padded(), 1, v, |x| x.to_le_bytes());
            }
            KvFormat::F16 => {
                put_halves(class, keys, slot, len, k);
                put_halves(class, values, slot * shape.padded(), 1, v);
            }
            KvFormat::I16 => {
                codes::put_key(keys, shape, slot, k);
                codes::put_value(values, shape, slot, v);
            }
            KvFormat::I8 => {
                floats::put_bytes(keys, shape, slot, (slot, len), k);
                floats::put_bytes(values, shape, slot, (slot * shape.padded(), 1), v);
            }
        }
    }
}

/// As `put`, rounded to f16.
fn put_halves(class: Class, out: &mut [u8], from: usize, step: usize, x: &[f32]) {
    const SOME: usize = 64;
    let mut halves = [half::f16::ZERO; SOME];
    for (i, x) in x.chunks(SOME).enumerate() {
        f32_to_f16(class, &mut halves[..x.len()], x);
        put(out, from + i * SOME * step, step, &halves[..x.len()], |h| h.to_le_bytes());
    }
}

/// Number i of `x` goes to place `from + i * step` of `out`.
fn put<T: Copy, const B: usize>(
    out: &mut [u8],
    from: usize,
    step: usize,
    x: &[T],
    bytes: impl Fn(T) -> [u8; B],
) {
    let (out, _) = out.as_chunks_mut::<B>();
    for (i, x) in x.iter().enumerate() {
        out[from + i * step] = bytes(*x);
    }
}

/// Attention of every row of `q` [T, H, K] over its sequence's cache, into `out` [T, H, K].
///
/// The rows' own keys and values are stored before. `scale` is usually 1 / sqrt(K). `lse` [T, H],
/// where asked for, becomes ln sum_j e^(scaled score): what the gradient needs to find the weights
/// again. Rows that belong to no sequence keep their `out` and `lse`. Panics if sizes disagree.
pub fn attention(
    cpu: &Cpu,
    out: &mut [f32],
    q: &[f32],
    cache: &[u8],
    shape: KvShape,
    heads: usize,
    scale: f32,
    sequences: &[Sequence<'_>],
    lse: Option<&mut [f32]>,
) {
    assert_eq!(q.len(), out.len(), "attention: q and out differ in length");
    assert!(scale > 0.0, "attention: a scale of {scale}");
    check_sizes(q, cache.len(), shape, heads, sequences);
    let rows = q.len() / (heads * shape.head_dim);
    assert!(lse.as_ref().is_none_or(|l| l.len() == rows * heads), "attention: lse is not [T, H]");
    let (out, lse) = (Parts::new(out), lse.map(Parts::new));
    let batch = Batch { out, lse, q, cache, shape, heads, scale, sequences };
    let groups = batch.groups();
    let blocks = sequences.iter().map(|s| (s.past + s.rows).div_ceil(BLOCK)).max().unwrap_or(0);
    let wanted = 4 * cpu.pool.threads();
    if groups >= wanted || blocks <= 1 || cpu.pool.threads() == 1 {
        cpu.pool.run(groups, |i| {
            WORK.with_borrow_mut(|work| {
                let tiles = batch.group(i);
                work.begin(&batch, &tiles);
                for b in 0..tiles.blocks() {
                    for t in 0..tiles.len() {
                        work.block(cpu.class, &batch, &tiles.tile(&batch, t), t, b);
                        work.fold(cpu.class, t, shape.padded());
                    }
                }
                work.finish(&batch, &tiles);
            });
        });
        return;
    }
    // Few rows and many keys: the blocks of a group go to different threads.
    let chunk = (groups * blocks).div_ceil(wanted).clamp(1, blocks);
    let chunks = blocks.div_ceil(chunk);
    let per_block = TILES * TILE * (shape.padded() + 2);
    let mut scratch = cpu.scratch();
    let len = groups * blocks * per_block;
    if scratch.len() < len {
        scratch.resize(len, 0);
    }
    let places = Parts::new(&mut scratch[..len]);
    cpu.pool.run(groups * chunks, |i| {
        let (i, first) = (i / chunks, i % chunks * chunk);
        let tiles = batch.group(i);
        WORK.with_borrow_mut(|work| {
            work.begin(&batch, &tiles);
            for b in first..(first + chunk).min(tiles.blocks()) {
                for t in 0..tiles.len() {
                    work.block(cpu.class, &batch, &tiles.tile(&batch, t), t, b);
                    let place = ((i * blocks + b) * TILES + t) * (per_block / TILES);
                    // SAFETY: each tile and block has its own part of the scratch.
                    let out = unsafe { places.part(place, per_block / TILES) };
                    work.partial.save(out, shape.padded());
                }
            }
        });
    });
    WORK.with_borrow_mut(|work| {
        for i in 0..groups {
            let tiles = batch.group(i);
            work.begin(&batch, &tiles);
            for b in 0..tiles.blocks() {
                for t in 0..tiles.len() {
                    let place = ((i * blocks + b) * TILES + t) * (per_block / TILES);
                    work.partial.n = work.states[t].n;
                    work.partial.load(&scratch[place..][..per_block / TILES], shape.padded());
                    work.fold(cpu.class, t, shape.padded());
                }
            }
            work.finish(&batch, &tiles);
        }
    });
}

/// Panics unless `q` is rows of heads and the sequences have their pages.
fn check_sizes(
    q: &[f32],
    cache_bytes: usize,
    shape: KvShape,
    heads: usize,
    sequences: &[Sequence<'_>],
) {
    let width = heads * shape.head_dim;
    assert!(width > 0 && q.len().is_multiple_of(width), "attention: q is not rows of {width}");
    assert!(heads.is_multiple_of(shape.kv_heads), "attention: {heads} heads, {}", shape.kv_heads);
    assert!(shape.page_len > 0 && shape.page_len.is_multiple_of(16), "attention: page length");
    for s in sequences {
        assert!((s.row + s.rows) * width <= q.len(), "attention: rows past the end of q");
        let pages = (s.past + s.rows).div_ceil(shape.page_len);
        assert!(s.pages.len() >= pages, "attention: {pages} pages needed, {}", s.pages.len());
        for &page in &s.pages[..pages] {
            let end = (page as usize + 1) * shape.page_bytes();
            assert!(end <= cache_bytes, "attention: page {page} is past the end of the cache");
        }
    }
}

#[cfg(test)]
mod tests;
