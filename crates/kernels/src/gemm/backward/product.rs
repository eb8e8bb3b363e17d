//! One product of laid factors: every tile of rows by every pair of panels.

use super::super::activations::{Kind, TILE_ROWS};
use super::super::amx::pairs;
use super::super::kernels::{Out, W_BF16, W_F32};
use super::super::layout::GROUP;
use super::lay::{Compiled, Place, steps};
use crate::Class;
use crate::cpu::{Cpu, Parts};
use crate::lanes::Plain;
use crate::tiles::Tiles;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};

/// How the sums of a product join what stands in the result.
#[derive(Clone, Copy)]
pub(super) enum Sum<'a> {
    /// One chain, from zero.
    Fresh,
    /// One chain, from what stands there.
    Resumed,
    /// A chain from zero for each of these ranges of terms, each then added.
    Blocks(&'a [Range<usize>]),
}

/// Steps taken through all rows of a strip before the next. A pair of panels of as many is 16 KB
/// and stays, beside a tile of 6 KB and the results, in a first cache of 48 KB.
const PIECE: usize = 128;

/// Bytes of a strip of the left factor: a quarter of a second cache of 1 MB. Half was 4 %, an
/// eighth 10 % slower (dW in f32, T = 1024, 768 x 768, Zen 5, `perf stat` on a busy machine).
const STRIP_BYTES: usize = 256 << 10;

/// A product C \[rows, cols\] of laid factors.
pub(super) struct Laid<'a> {
    /// The left factor, in tiles of `place.rows` rows.
    pub a: &'a [u32],
    /// The right factor, in panels of `GROUP` columns.
    pub b: &'a [u32],
    pub place: Place,
    pub rows: usize,
    pub cols: usize,
    pub sum: Sum<'a>,
}

/// C = A B, or C += A B, as `laid.sum` says.
pub(super) fn multiply(cpu: &Cpu, c: &mut [f32], laid: Laid<'_>) {
    multiply_all(cpu, &mut [Job { c, laid: vec![laid] }]);
}

/// Products of one shape that are summed into one result, in their order.
pub(super) struct Job<'a> {
    pub c: &'a mut [f32],
    pub laid: Vec<Laid<'a>>,
}

/// All of these at once: threads wait for each other at the end alone.
pub(super) fn multiply_all(cpu: &Cpu, jobs: &mut [Job<'_>]) {
    let threads = cpu.pool.threads();
    let cuts: Vec<Cut<'_>> = jobs.iter_mut().map(|job| Cut::new(job, threads)).collect();
    cpu.pool.run(cuts.iter().map(Cut::tasks).sum(), |mut task| {
        for cut in &cuts {
            if task < cut.tasks() {
                let first = task / cut.pairs * cut.strip;
                let tiles = first..cut.tiles.min(first + cut.strip);
                for laid in cut.laid {
                    let panel = task % cut.pairs * 2;
                    let part = Part { laid, c: cut.c, tiles: tiles.clone(), panel };
                    // SAFETY: tasks write disjoint rectangles of C; `Cpu` checked the class.
                    unsafe { part.run(cpu) }
                }
                return;
            }
            task -= cut.tasks();
        }
    });
}

/// A job cut into rectangles of its result: strips of tiles by pairs of panels.
struct Cut<'a> {
    c: Parts<f32>,
    laid: &'a [Laid<'a>],
    tiles: usize,
    pairs: usize,
    strip: usize,
}

impl<'a> Cut<'a> {
    fn new(job: &'a mut Job<'_>, threads: usize) -> Cut<'a> {
        let (tiles, pairs) = (job.laid[0].tiles(), job.laid[0].panels().div_ceil(2));
        for laid in &job.laid {
            let panels = laid.panels();
            assert_eq!(job.c.len(), laid.rows * laid.cols, "product: wrong result");
            assert_eq!(laid.a.len(), tiles * laid.place.words(), "product: wrong left factor");
            assert_eq!(laid.b.len(), panels * laid.place.steps * GROUP, "product: wrong right one");
        }
        // Strips of whole pairs of tiles, so many that threads end together.
        let words: usize = job.laid.iter().map(|laid| laid.place.words()).sum();
        let mut strip = (STRIP_BYTES / 4 / words).clamp(2, tiles.max(2));
        while strip > 8 && tiles.div_ceil(strip) * pairs < 16 * threads {
            strip = strip.div_ceil(2);
        }
        let strip = strip.next_multiple_of(2);
        Cut { c: Parts::new(job.c), laid: &job.laid, tiles, pairs, strip }
    }

    fn tasks(&self) -> usize {
        self.tiles.div_ceil(self.strip) * self.pairs
    }
}

impl Laid<'_> {
    fn tiles(&self) -> usize {
        self.rows.div_ceil(self.place.rows)
    }

    fn panels(&self) -> usize {
        self.cols.div_ceil(GROUP)
    }
}

/// A strip of tiles by a pair of panels.
struct Part<'a> {
    laid: &'a Laid<'a>,
    c: Parts<f32>,
    tiles: Range<usize>,
    panel: usize,
}

/// Sums of blocks before they are added: the rows of two tiles of the tile unit.
type Sums = [[f32; 2 * GROUP]; 2 * TILE_ROWS];

impl Part<'_> {
    /// # Safety
    ///
    /// No other task writes this part of C; the machine runs the class of `cpu`.
    unsafe fn run(&self, cpu: &Cpu) {
        // SAFETY: the caller's contract.
        unsafe {
            if self.laid.place.kind != Kind::PairTiles {
                return by_class!(cpu.lanes(), vectors(self));
            }
            #[cfg(test)]
            if cpu.emulates_tiles {
                return self.tiles::<Plain, crate::tiles::Emulated>();
            }
            assert_eq!(cpu.class, Class::Amx, "tiles belong to the class amx");
            #[cfg(target_arch = "x86_64")]
            self.tiles::<Avx512, crate::tiles::Hardware>();
        }
    }

    /// Calls `product(first tile, steps, out)` for `at_once` tiles at a time, piece after piece.
    #[inline(always)]
    fn pieces(&self, at_once: usize, mut product: impl FnMut(usize, Range<usize>, Out)) {
        let (place, stride) = (self.laid.place, self.laid.cols);
        let (mut from, mut block) = (0, 0);
        while from < place.steps {
            let n = match self.laid.sum {
                Sum::Fresh | Sum::Resumed => PIECE.min(place.steps - from),
                Sum::Blocks(blocks) => steps(place.kind, blocks[block].len()),
            };
            let resume = match self.laid.sum {
                Sum::Fresh => from > 0,
                Sum::Resumed => true,
                Sum::Blocks(_) => false,
            };
            for tile in self.tiles.clone().step_by(at_once) {
                let row = tile * place.rows;
                let rows = (self.laid.rows - row).min(at_once * place.rows);
                let (col, width) = (self.panel * GROUP, stride - self.panel * GROUP);
                // SAFETY: row and column lie in C, whose length `multiply` checked.
                let y = unsafe { self.c.pointer().add(row * stride + col) };
                let out = Out { y, stride, width: width.min(2 * GROUP), rows, resume };
                if n > 0 {
                    product(tile, from..from + n, out);
                }
            }
            (from, block) = (from + n, block + 1);
        }
    }

    /// Where the pair of panels lies from step `s` on; a second that is missing is the first.
    fn panels(&self, s: usize) -> [*const u8; 2] {
        let words = self.laid.place.steps * GROUP;
        let second = (self.panel + 1).min(self.laid.panels() - 1);
        [self.panel, second].map(|p| self.laid.b[p * words + s * GROUP..].as_ptr().cast())
    }

    /// Where tile `tile` lies from step `s` on.
    fn tile(&self, tile: usize, s: usize) -> *const u32 {
        let place = self.laid.place;
        self.laid.a[tile * place.words() + s * place.rows..].as_ptr()
    }

    /// The tile unit: two tiles at once.
    ///
    /// # Safety
    ///
    /// The machine has L and U; else as `run`.
    unsafe fn tiles<L: Compiled, U: Tiles>(&self) {
        let mut sums: Sums = [[0.0; 2 * GROUP]; 2 * TILE_ROWS];
        // SAFETY: the caller's contract.
        let mut unit = unsafe { U::new() };
        self.pieces(2, |tile, s, out| {
            let last = self.laid.tiles() - 1;
            let x = [tile, (tile + 1).min(last)].map(|t| self.tile(t, s.start).cast::<u8>());
            let (w, n) = (self.panels(s.start), s.len() / TILE_ROWS);
            // SAFETY: the caller's contract; the factors were laid with these sizes.
            unsafe {
                match self.laid.sum {
                    Sum::Fresh | Sum::Resumed => pairs::product(&mut unit, out, w, x, n),
                    Sum::Blocks(_) => {
                        let to = aside(&mut sums, out);
                        pairs::product(&mut unit, to, w, x, n);
                        L::add_tile(out, &sums);
                    }
                }
            }
        });
    }
}

/// The same tile of results, to be kept in `sums`.
fn aside(sums: &mut Sums, out: Out) -> Out {
    Out { y: sums.as_mut_ptr().cast(), stride: 2 * GROUP, width: 2 * GROUP, ..out }
}

/// # Safety
///
/// As `Part::run`.
unsafe fn vectors<L: Compiled>(part: &Part<'_>) {
    let mut sums: Sums = [[0.0; 2 * GROUP]; 2 * TILE_ROWS];
    let place = part.laid.place;
    part.pieces(1, |tile, s, out| {
        let (x, w, n) = (part.tile(tile, s.start), part.panels(s.start), s.len());
        let blocks = matches!(part.laid.sum, Sum::Blocks(_));
        let to = if blocks { aside(&mut sums, out) } else { out };
        // SAFETY: the caller's contract; the factors were laid with these sizes.
        unsafe {
            for t in 0..out.rows {
                // Asked for now, the results are there when the sums are.
                L::prefetch(out.y.add(t * out.stride).cast());
                L::prefetch(out.y.add(t * out.stride + out.width - 1).cast());
            }
            match (place.kind, place.rows) {
                (Kind::Floats, 12) => L::dense::<W_F32, 2, 12>(to, w, x, n),
                (Kind::Floats, _) => L::dense::<W_F32, 2, 6>(to, w, x, n),
                (_, 12) => L::dense::<W_BF16, 2, 12>(to, w, x, n),
                (_, _) => L::dense::<W_BF16, 2, 6>(to, w, x, n),
            }
            if blocks {
                L::add_tile(out, &sums);
            }
        }
    });
}
