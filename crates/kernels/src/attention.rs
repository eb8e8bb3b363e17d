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

use crate::cpu::{Cpu, Parts};
use crate::lanes::{Lanes, Plain};
use crate::{Class, math};
use std::cell::RefCell;

#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};

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
}

impl KvFormat {
    /// Bytes of one number.
    pub const fn bytes(self) -> usize {
        match self {
            KvFormat::F32 => 4,
            KvFormat::F16 => 2,
        }
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
        self.kv_heads * self.padded() * self.page_len * self.format.bytes()
    }

    /// Bytes of one head's keys (or values) in a page.
    fn head_bytes(self) -> usize {
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
/// `[G][page_len][K]`, both as attention reads them. Panics if a page is missing.
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
    let store = |g: usize| sequences.iter().for_each(|s| store_head(cache, shape, k, v, s, g));
    // Heads lie apart in a page. A few rows are stored before another thread is awake.
    if few { (0..shape.kv_heads).for_each(store) } else { cpu.pool.run(shape.kv_heads, store) }
}

/// The rows of one sequence, for one key/value head.
fn store_head(cache: Parts<u8>, shape: KvShape, k: &[f32], v: &[f32], s: &Sequence<'_>, g: usize) {
    let (dim, bytes) = (shape.head_dim, shape.head_bytes());
    for t in 0..s.rows {
        let at = s.past + t;
        let (page, slot) = (s.pages[at / shape.page_len] as usize, at % shape.page_len);
        let row = ((s.row + t) * shape.kv_heads + g) * dim;
        let place = page * shape.page_bytes() + g * bytes;
        // SAFETY: the head's part of the page belongs to one task; `store` checked the page.
        let (keys, values) =
            unsafe { (cache.part(place, bytes), cache.part(place + shape.value_offset(), bytes)) };
        put(keys, shape.format, slot, shape.page_len, &k[row..row + dim]);
        put(values, shape.format, slot * shape.padded(), 1, &v[row..row + dim]);
    }
}

/// Number i of `x` goes to place `from + i * step` of `out`.
fn put(out: &mut [u8], format: KvFormat, from: usize, step: usize, x: &[f32]) {
    match format {
        KvFormat::F32 => {
            let (out, _) = out.as_chunks_mut::<4>();
            for (i, x) in x.iter().enumerate() {
                out[from + i * step] = x.to_le_bytes();
            }
        }
        KvFormat::F16 => {
            let (out, _) = out.as_chunks_mut::<2>();
            for (i, x) in x.iter().enumerate() {
                out[from + i * step] = half::f16::from_f32(*x).to_le_bytes();
            }
        }
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
    let width = heads * shape.head_dim;
    assert_eq!(q.len(), out.len(), "attention: q and out differ in length");
    assert!(width > 0 && q.len().is_multiple_of(width), "attention: q is not rows of {width}");
    assert!(heads.is_multiple_of(shape.kv_heads), "attention: {heads} heads, {}", shape.kv_heads);
    assert!(shape.page_len > 0 && shape.page_len.is_multiple_of(16), "attention: page length");
    let rows = q.len() / width;
    assert!(lse.as_ref().is_none_or(|l| l.len() == rows * heads), "attention: lse is not [T, H]");
    for s in sequences {
        assert!((s.row + s.rows) * width <= q.len(), "attention: rows past the end of q");
        let pages = (s.past + s.rows).div_ceil(shape.page_len);
        assert!(s.pages.len() >= pages, "attention: {pages} pages needed, {}", s.pages.len());
        for &page in &s.pages[..pages] {
            let end = (page as usize + 1) * shape.page_bytes();
            assert!(end <= cache.len(), "attention: page {page} is past the end of the cache");
        }
    }
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
                        work.states[t].fold(&work.partial, shape.padded());
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
                    work.states[t].fold(&work.partial, shape.padded());
                }
            }
            work.finish(&batch, &tiles);
        }
    });
}

struct Batch<'a> {
    out: Parts<f32>,
    lse: Option<Parts<f32>>,
    q: &'a [f32],
    cache: &'a [u8],
    shape: KvShape,
    heads: usize,
    scale: f32,
    sequences: &'a [Sequence<'a>],
}

/// Some query rows that share a key/value head: `tokens` rows of the batch, `count` heads each.
struct Tile<'a> {
    sequence: Sequence<'a>,
    g: usize,
    /// First of its query heads, and how many.
    head: usize,
    count: usize,
    /// First token within the sequence, and how many.
    token: usize,
    tokens: usize,
}

impl Tile<'_> {
    fn rows(&self) -> usize {
        self.tokens * self.count
    }

    /// The position of row `i`'s token.
    fn position(&self, i: usize) -> usize {
        self.sequence.past + self.token + i / self.count
    }

    /// Keys that its last token sees.
    fn keys(&self) -> usize {
        self.sequence.past + self.token + self.tokens
    }

    /// Where row `i` lies in q and out, in heads.
    fn place(&self, i: usize, heads: usize) -> usize {
        let row = self.sequence.row + self.token + i / self.count;
        row * heads + self.head + i % self.count
    }
}

/// Tiles that walk the keys together, so that a block of keys and values is read from memory once
/// for all of them: 64 KiB for a head of 64, which stay in the second cache.
struct Group<'a> {
    sequence: Sequence<'a>,
    g: usize,
    by_heads: usize,
    /// Tiles of the sequence and head: from the first to before the last.
    first: usize,
    last: usize,
}

/// Tiles in a group at most.
const TILES: usize = 8;

impl<'a> Group<'a> {
    fn len(&self) -> usize {
        self.last - self.first
    }

    fn tile(&self, batch: &Batch<'_>, t: usize) -> Tile<'a> {
        let (t, h) = ((self.first + t) / self.by_heads, (self.first + t) % self.by_heads);
        let r = batch.heads / batch.shape.kv_heads;
        let token = t * batch.tokens_a_tile();
        Tile {
            sequence: self.sequence,
            g: self.g,
            head: self.g * r + h * batch.heads_a_tile(),
            count: batch.heads_a_tile().min(r - h * batch.heads_a_tile()),
            token,
            tokens: batch.tokens_a_tile().min(self.sequence.rows - token),
        }
    }

    /// Blocks that any of its tiles may see: none of the tile is left out, some see fewer.
    fn blocks(&self) -> usize {
        (self.sequence.past + self.sequence.rows).div_ceil(BLOCK)
    }
}

impl<'a> Batch<'a> {
    /// Query heads that a tile takes of each token.
    fn heads_a_tile(&self) -> usize {
        (self.heads / self.shape.kv_heads).min(TILE)
    }

    fn tokens_a_tile(&self) -> usize {
        TILE / self.heads_a_tile()
    }

    /// Tiles of one sequence for each key/value head: by tokens, and by heads.
    fn tiles_of(&self, s: &Sequence<'_>) -> (usize, usize) {
        let by_heads = (self.heads / self.shape.kv_heads).div_ceil(self.heads_a_tile());
        (s.rows.div_ceil(self.tokens_a_tile()), by_heads)
    }

    fn groups_of(&self, s: &Sequence<'_>) -> usize {
        let (by_tokens, by_heads) = self.tiles_of(s);
        (by_tokens * by_heads).div_ceil(TILES) * self.shape.kv_heads
    }

    fn groups(&self) -> usize {
        self.sequences.iter().map(|s| self.groups_of(s)).sum()
    }

    /// Group `i`; the last tokens, which see most keys, come first so that no thread ends alone.
    fn group(&self, mut i: usize) -> Group<'a> {
        for s in self.sequences {
            let count = self.groups_of(s);
            if i < count {
                let (by_tokens, by_heads) = self.tiles_of(s);
                let (g, first) = (i % self.shape.kv_heads, i / self.shape.kv_heads * TILES);
                let last = by_tokens * by_heads - first;
                return Group {
                    sequence: *s,
                    g,
                    by_heads,
                    first: last.saturating_sub(TILES),
                    last,
                };
            }
            i -= count;
        }
        unreachable!("group {i} past the last")
    }

    /// Position `at`'s page of the tile, as keys and values of its head.
    fn page(&self, tile: &Tile<'_>, at: usize) -> (&'a [u8], &'a [u8]) {
        let page = tile.sequence.pages[at / self.shape.page_len] as usize;
        let (bytes, head) = (self.shape.page_bytes(), self.shape.head_bytes());
        let page = &self.cache[page * bytes..][..bytes];
        let (keys, values) = page.split_at(self.shape.value_offset());
        (&keys[tile.g * head..][..head], &values[tile.g * head..][..head])
    }
}

thread_local! {
    /// A thread's working memory; a tile uses it from beginning to end.
    static WORK: RefCell<Work> = const { RefCell::new(Work::new()) };
}

/// The memory of a group's tiles.
struct Work {
    /// Scores, then weights: [n][BLOCK].
    s: Vec<f32>,
    partial: Partial,
    states: Vec<State>,
}

/// What a block gives.
struct Partial {
    /// Query rows in the kernel: those of the tile, and idle ones up to a size that has a kernel.
    n: usize,
    /// For each row the largest score, the sum of weights, the weighted values [n][padded K].
    m: [f32; TILE],
    l: [f32; TILE],
    o: Vec<f32>,
}

/// A tile's queries, and what its blocks so far have given.
struct State {
    n: usize,
    /// [K][n].
    q: Vec<f32>,
    m: [f32; TILE],
    l: [f32; TILE],
    o: Vec<f32>,
}

/// Numbers of query rows that have a kernel.
const KERNELS: [usize; 5] = [1, 3, 4, 8, 12];

impl Work {
    const fn new() -> Work {
        let partial = Partial { n: 0, m: [0.0; TILE], l: [0.0; TILE], o: Vec::new() };
        Work { s: Vec::new(), partial, states: Vec::new() }
    }

    fn begin(&mut self, batch: &Batch<'_>, tiles: &Group<'_>) {
        let padded = batch.shape.padded();
        self.s.resize(TILE * BLOCK, 0.0);
        self.partial.o.resize(TILE * padded, 0.0);
        while self.states.len() < tiles.len() {
            let (m, l) = ([0.0; TILE], [0.0; TILE]);
            self.states.push(State { n: 0, q: Vec::new(), m, l, o: Vec::new() });
        }
        for (t, state) in self.states[..tiles.len()].iter_mut().enumerate() {
            state.begin(batch, &tiles.tile(batch, t));
        }
    }

    /// Computes block `b` of tile `t` of the group, if the tile sees any of it.
    fn block(&mut self, class: Class, batch: &Batch<'_>, tile: &Tile<'_>, t: usize, b: usize) {
        self.partial.n = self.states[t].n;
        if tile.keys() <= b * BLOCK {
            self.partial.m = [f32::NEG_INFINITY; TILE];
            return;
        }
        // SAFETY: `Cpu` checked the class; `attention` checked the pages.
        unsafe {
            match class {
                Class::Portable => block::<Plain>(self, batch, tile, t, b),
                #[cfg(target_arch = "x86_64")]
                Class::Avx2 => block_avx2(self, batch, tile, t, b),
                #[cfg(target_arch = "x86_64")]
                Class::Avx512 | Class::Amx => block_avx512(self, batch, tile, t, b),
                #[cfg(not(target_arch = "x86_64"))]
                Class::Avx2 | Class::Avx512 | Class::Amx => unreachable!("checked by Cpu::new"),
            }
        }
    }

    fn finish(&self, batch: &Batch<'_>, tiles: &Group<'_>) {
        let (dim, padded) = (batch.shape.head_dim, batch.shape.padded());
        for (t, state) in self.states[..tiles.len()].iter().enumerate() {
            let tile = tiles.tile(batch, t);
            for i in 0..tile.rows() {
                // SAFETY: each row and head of `out` belongs to one tile.
                let out = unsafe { batch.out.part(tile.place(i, batch.heads) * dim, dim) };
                for (out, o) in out.iter_mut().zip(&state.o[i * padded..]) {
                    *out = o / state.l[i];
                }
                if let Some(lse) = &batch.lse {
                    // SAFETY: as above.
                    let lse = unsafe { lse.part(tile.place(i, batch.heads), 1) };
                    lse[0] = (f64::from(state.m[i]) + math::ln(f64::from(state.l[i]))) as f32;
                }
            }
        }
    }
}

impl State {
    fn begin(&mut self, batch: &Batch<'_>, tile: &Tile<'_>) {
        let (dim, padded) = (batch.shape.head_dim, batch.shape.padded());
        let rows = tile.rows();
        self.n = KERNELS.into_iter().find(|&n| n >= rows).expect("a tile holds twelve rows");
        self.q.resize(TILE * padded, 0.0);
        self.o.resize(TILE * padded, 0.0);
        for i in 0..rows {
            let q = &batch.q[tile.place(i, batch.heads) * dim..][..dim];
            for (d, q) in q.iter().enumerate() {
                self.q[d * self.n + i] = *q;
            }
        }
        self.m = [f32::NEG_INFINITY; TILE];
        self.l = [0.0; TILE];
        self.o[..self.n * padded].fill(0.0);
    }

    /// Joins a block to those before it.
    fn fold(&mut self, block: &Partial, padded: usize) {
        for i in 0..self.n {
            if block.m[i] == f32::NEG_INFINITY {
                continue;
            }
            let (o, all) = (&block.o[i * padded..], &mut self.o[i * padded..][..padded]);
            let m = self.m[i].max(block.m[i]);
            let (old, new) =
                (math::exp::<false>(self.m[i] - m), math::exp::<false>(block.m[i] - m));
            self.l[i] = self.l[i] * old + block.l[i] * new;
            for (all, o) in all.iter_mut().zip(o) {
                *all = *all * old + o * new;
            }
            self.m[i] = m;
        }
    }
}

impl Partial {
    /// Writes a block's results down, for another thread.
    fn save(&self, out: &mut [u32], padded: usize) {
        let numbers = self.m.iter().chain(&self.l).chain(&self.o[..self.n * padded]);
        for (out, x) in out.iter_mut().zip(numbers) {
            *out = x.to_bits();
        }
    }

    fn load(&mut self, from: &[u32], padded: usize) {
        let o = &mut self.o[..self.n * padded];
        for (x, from) in self.m.iter_mut().chain(&mut self.l).chain(o).zip(from) {
            *x = f32::from_bits(*from);
        }
    }
}

/// # Safety
///
/// The CPU has AVX2; as `block`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn block_avx2(work: &mut Work, batch: &Batch<'_>, tile: &Tile<'_>, t: usize, b: usize) {
    // SAFETY: the caller's contract.
    unsafe { block::<Avx2>(work, batch, tile, t, b) }
}

/// # Safety
///
/// The CPU has AVX-512; as `block`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,fma,f16c")]
unsafe fn block_avx512(work: &mut Work, batch: &Batch<'_>, tile: &Tile<'_>, t: usize, b: usize) {
    // SAFETY: the caller's contract.
    unsafe { block::<Avx512>(work, batch, tile, t, b) }
}

/// Scores, weights and weighted values of one block.
///
/// # Safety
///
/// The contract of `Lanes`; the pages of all keys that the tile sees exist.
#[inline(always)]
unsafe fn block<L: Lanes>(work: &mut Work, batch: &Batch<'_>, tile: &Tile<'_>, t: usize, b: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        match (batch.shape.format, work.partial.n) {
            (KvFormat::F32, 1) => block_of::<L, false, 1, 4>(work, batch, tile, t, b),
            (KvFormat::F32, 3) => block_of::<L, false, 3, 4>(work, batch, tile, t, b),
            (KvFormat::F32, 4) => block_of::<L, false, 4, 4>(work, batch, tile, t, b),
            (KvFormat::F32, 8) => block_of::<L, false, 8, 2>(work, batch, tile, t, b),
            (KvFormat::F32, _) => block_of::<L, false, 12, 2>(work, batch, tile, t, b),
            (KvFormat::F16, 1) => block_of::<L, true, 1, 4>(work, batch, tile, t, b),
            (KvFormat::F16, 3) => block_of::<L, true, 3, 4>(work, batch, tile, t, b),
            (KvFormat::F16, 4) => block_of::<L, true, 4, 4>(work, batch, tile, t, b),
            (KvFormat::F16, 8) => block_of::<L, true, 8, 2>(work, batch, tile, t, b),
            (KvFormat::F16, _) => block_of::<L, true, 12, 2>(work, batch, tile, t, b),
        }
    }
}

/// # Safety
///
/// As `block`; the tile's state has N rows.
#[inline(always)]
unsafe fn block_of<L: Lanes, const HALF: bool, const N: usize, const C: usize>(
    work: &mut Work,
    batch: &Batch<'_>,
    tile: &Tile<'_>,
    t: usize,
    b: usize,
) {
    let first = b * BLOCK;
    let keys = (tile.keys() - first).min(BLOCK);
    // SAFETY: the caller's contract.
    unsafe {
        let q = &work.states[t].q[..batch.shape.head_dim * N];
        scores::<L, HALF, N, C>(&mut work.s, q, batch, tile, first, keys);
        for i in 0..tile.rows() {
            let seen = (tile.position(i) + 1).saturating_sub(first).min(keys);
            let row = &mut work.s[i * BLOCK..][..keys.next_multiple_of(16)];
            (work.partial.m[i], work.partial.l[i]) = weights::<L>(row, seen, batch.scale);
        }
        work.partial.m[tile.rows()..].fill(f32::NEG_INFINITY);
        values::<L, HALF, N, C>(&mut work.partial.o, &work.s, batch, tile, first, keys);
    }
}

/// Sixteen stored numbers at `p`.
///
/// # Safety
///
/// The contract of `Lanes`.
#[inline(always)]
unsafe fn load<L: Lanes, const HALF: bool>(p: *const u8) -> L::F {
    // SAFETY: the caller's contract.
    unsafe { if HALF { L::load_f16(p) } else { L::load(p.cast()) } }
}

/// s[i][j] = q_i . k_j, sixteen keys a vector, each a sum over the head width in order.
///
/// # Safety
///
/// As `block_of`.
#[inline(always)]
unsafe fn scores<L: Lanes, const HALF: bool, const N: usize, const C: usize>(
    s: &mut [f32],
    q: &[f32],
    batch: &Batch<'_>,
    tile: &Tile<'_>,
    first: usize,
    keys: usize,
) {
    let (bytes, page_len) = (batch.shape.format.bytes(), batch.shape.page_len);
    let step = page_len * bytes;
    let last = keys.next_multiple_of(16);
    for j in (0..last).step_by(16 * C) {
        // SAFETY: the caller's contract; a vector past the last reads the last again.
        unsafe {
            let k: [*const u8; C] = std::array::from_fn(|c| {
                let at = first + (j + 16 * c).min(last - 16);
                batch.page(tile, at).0[at % page_len * bytes..].as_ptr()
            });
            // The keys after these, a page further or in the same: asked for one round ahead.
            let next = first + (j + 16 * C).min(tile.keys() - 1 - first);
            let next = batch.page(tile, next).0[next % page_len * bytes..].as_ptr();
            let mut sum = [[L::splat(0.0); C]; N];
            for (d, q) in q.as_chunks::<N>().0.iter().enumerate() {
                L::prefetch(next.wrapping_add(d * step));
                L::prefetch(next.wrapping_add(d * step + 64));
                let k: [L::F; C] = std::array::from_fn(|c| load::<L, HALF>(k[c].add(d * step)));
                for i in 0..N {
                    let q = L::splat(q[i]);
                    for c in 0..C {
                        sum[i][c] = L::fma(q, k[c], sum[i][c]);
                    }
                }
            }
            for i in 0..N {
                for c in 0..C {
                    if j + 16 * c < last {
                        L::store(s[i * BLOCK + j + 16 * c..][..16].as_mut_ptr(), sum[i][c]);
                    }
                }
            }
        }
    }
}

/// Scores to weights e^(s - m), 0 from `seen` on; returns m and the sum of the weights.
///
/// # Safety
///
/// The contract of `Lanes`.
#[inline(always)]
unsafe fn weights<L: Lanes>(s: &mut [f32], seen: usize, scale: f32) -> (f32, f32) {
    let mut peaks = [f32::NEG_INFINITY; 16];
    for (c, s) in s.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        for j in 0..16 {
            s[j] = if 16 * c + j < seen { s[j] * scale } else { f32::NEG_INFINITY };
            peaks[j] = if s[j] > peaks[j] { s[j] } else { peaks[j] };
        }
    }
    let m = peaks.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
    if m == f32::NEG_INFINITY {
        s.fill(0.0);
        // All masked; or NaN, which must not pass for masked.
        return if seen == 0 { (m, 0.0) } else { (f32::NAN, f32::NAN) };
    }
    let mut sums = [0.0f32; 16];
    for s in s.as_chunks_mut::<16>().0 {
        for j in 0..16 {
            s[j] = if L::FMA { math::exp::<true>(s[j] - m) } else { math::exp::<false>(s[j] - m) };
            sums[j] += s[j];
        }
    }
    for half in [8, 4, 2, 1] {
        for j in 0..half {
            sums[j] += sums[j + half];
        }
    }
    (m, sums[0])
}

/// o[i] = sum_j s[i][j] v_j, each a sum over keys in order.
///
/// # Safety
///
/// As `block_of`.
#[inline(always)]
unsafe fn values<L: Lanes, const HALF: bool, const N: usize, const C: usize>(
    o: &mut [f32],
    s: &[f32],
    batch: &Batch<'_>,
    tile: &Tile<'_>,
    first: usize,
    keys: usize,
) {
    let (padded, page_len) = (batch.shape.padded(), batch.shape.page_len);
    let bytes = batch.shape.format.bytes();
    // Keys that all rows see; the last few are for some rows only. Their weight in the others is 0,
    // but 0 times a value that is no number is none, and would depend on who shares the tile.
    let whole = (tile.position(0) + 1).saturating_sub(first).min(keys);
    for d in (0..padded).step_by(16 * C) {
        // SAFETY: the caller's contract; a vector past the last reads the last again.
        unsafe {
            let place: [usize; C] = std::array::from_fn(|c| (d + 16 * c).min(padded - 16));
            let mut sum = [[L::splat(0.0); C]; N];
            let mut j = 0;
            while j < whole {
                let at = first + j;
                let end = (j + page_len - at % page_len).min(whole);
                let page = batch.page(tile, at).1;
                let mut v = page[at % page_len * padded * bytes..].as_ptr();
                let next = (at + page_len).min(tile.keys() - 1);
                let mut next = batch.page(tile, next).1[at % page_len * padded * bytes..].as_ptr();
                for j in j..end {
                    L::prefetch(next.wrapping_add(place[0] * bytes));
                    L::prefetch(next.wrapping_add(place[0] * bytes + 64));
                    next = next.wrapping_add(padded * bytes);
                    let row: [L::F; C] =
                        std::array::from_fn(|c| load::<L, HALF>(v.add(place[c] * bytes)));
                    for i in 0..N {
                        let weight = L::splat(*s.get_unchecked(i * BLOCK + j));
                        for c in 0..C {
                            sum[i][c] = L::fma(weight, row[c], sum[i][c]);
                        }
                    }
                    v = v.wrapping_add(padded * bytes);
                }
                j = end;
            }
            for j in whole..keys {
                let at = first + j;
                let v = batch.page(tile, at).1[at % page_len * padded * bytes..].as_ptr();
                for i in (0..N).filter(|&i| i < tile.rows() && tile.position(i) >= at) {
                    let weight = L::splat(*s.get_unchecked(i * BLOCK + j));
                    for c in 0..C {
                        let v = load::<L, HALF>(v.add(place[c] * bytes));
                        sum[i][c] = L::fma(weight, v, sum[i][c]);
                    }
                }
            }
            for i in 0..N {
                for c in 0..C {
                    if d + 16 * c < padded {
                        L::store(o[i * padded + d + 16 * c..][..16].as_mut_ptr(), sum[i][c]);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
