//! The memory of a group's tiles, what blocks give, and how blocks are joined.

use super::floats::{F16, F32, I8};
use super::tiles::{Batch, Group, Tile};
use super::{BLOCK, KvFormat, TILE, codes, floats};
use crate::dispatch::for_class;
use crate::lanes::{Lanes, Plain};
use crate::{Class, math};
use std::cell::RefCell;

#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};

thread_local! {
    /// A thread's working memory; a tile uses it from beginning to end.
    pub(super) static WORK: RefCell<Work> = const { RefCell::new(Work::new()) };
}

/// The memory of a group's tiles.
pub(super) struct Work {
    /// Scores, then weights: [n][BLOCK].
    pub(super) s: Vec<f32>,
    /// Weights as codes, for values that are codes: [n][BLOCK].
    pub(super) p: Vec<i16>,
    pub(super) partial: Partial,
    pub(super) states: Vec<State>,
}

/// What a block gives.
pub(super) struct Partial {
    /// Query rows in the kernel: those of the tile, and idle ones up to a size that has a kernel.
    pub(super) n: usize,
    /// For each row the largest score, the sum of weights, the weighted values [n][padded K].
    pub(super) m: [f32; TILE],
    pub(super) l: [f32; TILE],
    pub(super) o: Vec<f32>,
}

/// A tile's queries, and what its blocks so far have given.
pub(super) struct State {
    pub(super) n: usize,
    /// [K][n] as the bits of f32, or [K / 2][n] pairs of codes and the rows' scales.
    pub(super) q: Vec<u32>,
    pub(super) scales: [f32; TILE],
    pub(super) m: [f32; TILE],
    pub(super) l: [f32; TILE],
    pub(super) o: Vec<f32>,
}

/// Numbers of query rows that have a kernel.
const KERNELS: [usize; 5] = [1, 3, 4, 8, 12];

impl Work {
    pub(super) const fn new() -> Work {
        let partial = Partial { n: 0, m: [0.0; TILE], l: [0.0; TILE], o: Vec::new() };
        Work { s: Vec::new(), p: Vec::new(), partial, states: Vec::new() }
    }

    pub(super) fn begin(&mut self, batch: &Batch<'_>, tiles: &Group<'_>) {
        let padded = batch.shape.padded();
        self.s.resize(TILE * BLOCK, 0.0);
        self.p.resize(TILE * BLOCK, 0);
        self.partial.o.resize(TILE * padded, 0.0);
        while self.states.len() < tiles.len() {
            let rows = [0.0; TILE];
            let (q, o) = (Vec::new(), Vec::new());
            self.states.push(State { n: 0, q, scales: rows, m: rows, l: rows, o });
        }
        for (t, state) in self.states[..tiles.len()].iter_mut().enumerate() {
            state.begin(batch, &tiles.tile(batch, t));
        }
    }

    /// Computes block `b` of tile `t` of the group, if the tile sees any of it.
    pub(super) fn block(
        &mut self,
        class: Class,
        batch: &Batch<'_>,
        tile: &Tile<'_>,
        t: usize,
        b: usize,
    ) {
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

    /// Joins the block at hand to those of tile `t` before it.
    pub(super) fn fold(&mut self, class: Class, t: usize, padded: usize) {
        let (state, block) = (&mut self.states[t], &self.partial);
        for_class!(class, fold(state: &mut State, block: &Partial, padded: usize));
    }

    pub(super) fn finish(&self, batch: &Batch<'_>, tiles: &Group<'_>) {
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
    pub(super) fn begin(&mut self, batch: &Batch<'_>, tile: &Tile<'_>) {
        let (dim, padded) = (batch.shape.head_dim, batch.shape.padded());
        let rows = tile.rows();
        self.n = KERNELS.into_iter().find(|&n| n >= rows).expect("a tile holds twelve rows");
        self.q.resize(TILE * padded, 0);
        self.o.resize(TILE * padded, 0.0);
        for i in 0..rows {
            let q = &batch.q[tile.place(i, batch.heads) * dim..][..dim];
            match batch.shape.format {
                KvFormat::F32 | KvFormat::F16 | KvFormat::I8 => {
                    for (d, q) in q.iter().enumerate() {
                        self.q[d * self.n + i] = q.to_bits();
                    }
                }
                KvFormat::I16 => self.scales[i] = codes::put_query(&mut self.q, self.n, i, q),
            }
        }
        self.m = [f32::NEG_INFINITY; TILE];
        self.l = [0.0; TILE];
        self.o[..self.n * padded].fill(0.0);
    }
}

/// Joins a block to those before it.
#[inline(always)]
fn fold<const FMA: bool>(state: &mut State, block: &Partial, padded: usize) {
    // All rows at once, also those that the block leaves alone: they cost nothing in a vector.
    let m: [f32; TILE] = std::array::from_fn(|i| state.m[i].max(block.m[i]));
    let old: [f32; TILE] = std::array::from_fn(|i| math::exp::<FMA>(state.m[i] - m[i]));
    let new: [f32; TILE] = std::array::from_fn(|i| math::exp::<FMA>(block.m[i] - m[i]));
    for i in 0..state.n {
        if block.m[i] == f32::NEG_INFINITY {
            continue;
        }
        let (o, all) = (&block.o[i * padded..][..padded], &mut state.o[i * padded..][..padded]);
        state.m[i] = m[i];
        state.l[i] = math::mul_add::<FMA>(state.l[i], old[i], block.l[i] * new[i]);
        for (all, o) in all.iter_mut().zip(o) {
            *all = math::mul_add::<FMA>(*all, old[i], o * new[i]);
        }
    }
}

impl Partial {
    /// Writes a block's results down, for another thread.
    pub(super) fn save(&self, out: &mut [u32], padded: usize) {
        let numbers = self.m.iter().chain(&self.l).chain(&self.o[..self.n * padded]);
        for (out, x) in out.iter_mut().zip(numbers) {
            *out = x.to_bits();
        }
    }

    pub(super) fn load(&mut self, from: &[u32], padded: usize) {
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
pub(super) unsafe fn block_avx2(
    work: &mut Work,
    batch: &Batch<'_>,
    tile: &Tile<'_>,
    t: usize,
    b: usize,
) {
    // SAFETY: the caller's contract.
    unsafe { block::<Avx2>(work, batch, tile, t, b) }
}

/// # Safety
///
/// The CPU has AVX-512; as `block`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,fma,f16c")]
pub(super) unsafe fn block_avx512(
    work: &mut Work,
    batch: &Batch<'_>,
    tile: &Tile<'_>,
    t: usize,
    b: usize,
) {
    // SAFETY: the caller's contract.
    unsafe { block::<Avx512>(work, batch, tile, t, b) }
}

/// Scores, weights and weighted values of one block.
///
/// # Safety
///
/// The contract of `Lanes`; the pages of all keys that the tile sees exist.
#[inline(always)]
pub(super) unsafe fn block<L: Lanes>(
    work: &mut Work,
    batch: &Batch<'_>,
    tile: &Tile<'_>,
    t: usize,
    b: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        match (batch.shape.format, work.partial.n) {
            (KvFormat::F32, 1) => floats::block::<L, F32, 1, 4>(work, batch, tile, t, b),
            (KvFormat::F32, 3) => floats::block::<L, F32, 3, 4>(work, batch, tile, t, b),
            (KvFormat::F32, 4) => floats::block::<L, F32, 4, 4>(work, batch, tile, t, b),
            (KvFormat::F32, 8) => floats::block::<L, F32, 8, 2>(work, batch, tile, t, b),
            (KvFormat::F32, _) => floats::block::<L, F32, 12, 2>(work, batch, tile, t, b),
            (KvFormat::F16, 1) => floats::block::<L, F16, 1, 4>(work, batch, tile, t, b),
            (KvFormat::F16, 3) => floats::block::<L, F16, 3, 4>(work, batch, tile, t, b),
            (KvFormat::F16, 4) => floats::block::<L, F16, 4, 4>(work, batch, tile, t, b),
            (KvFormat::F16, 8) => floats::block::<L, F16, 8, 2>(work, batch, tile, t, b),
            (KvFormat::F16, _) => floats::block::<L, F16, 12, 2>(work, batch, tile, t, b),
            (KvFormat::I16, 1) => codes::block::<L, 1, 4>(work, batch, tile, t, b),
            (KvFormat::I16, 3) => codes::block::<L, 3, 4>(work, batch, tile, t, b),
            (KvFormat::I16, 4) => codes::block::<L, 4, 4>(work, batch, tile, t, b),
            (KvFormat::I16, 8) => codes::block::<L, 8, 2>(work, batch, tile, t, b),
            (KvFormat::I16, _) => codes::block::<L, 12, 2>(work, batch, tile, t, b),
            (KvFormat::I8, 1) => floats::block::<L, I8, 1, 4>(work, batch, tile, t, b),
            (KvFormat::I8, 3) => floats::block::<L, I8, 3, 4>(work, batch, tile, t, b),
            (KvFormat::I8, 4) => floats::block::<L, I8, 4, 4>(work, batch, tile, t, b),
            (KvFormat::I8, 8) => floats::block::<L, I8, 8, 2>(work, batch, tile, t, b),
            (KvFormat::I8, _) => floats::block::<L, I8, 12, 2>(work, batch, tile, t, b),
        }
    }
}
