//! Products of activations with weights: y = x W^T, for plain floats and block formats.
//!
//! Weights are laid once in the order of `layout`. Block formats multiply 8-bit activations
//! (each 32 columns of a row with their own scale) by codes, exactly, and add the scaled sums of
//! blocks in f32 in ascending order; bf16 multiplies activations rounded to bf16; f16 and f32
//! multiply f32. One output has one chain of additions in every kernel, so its bits depend on its
//! row and the class alone.

mod activations;
#[macro_use]
mod entry;
mod amx;
#[macro_use]
pub mod backward;
pub mod head;
mod kernels;
mod layout;
mod refill;
mod unpack;

use crate::buffer::Buffer;
use crate::cpu::{Cpu, Parts};
use crate::lanes::Plain;
use crate::{Class, Format};
use activations::{Kind, TILE_ROWS, words};
use entry::Entry;
use kernels::{Out, PANEL_BLOCK, W_BF16, W_F16, W_F32};
use layout::GROUP;
use std::cell::RefCell;

#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};

/// A weight matrix laid out for products.
pub struct Packed {
    format: Format,
    rows: usize,
    cols: usize,
    data: Buffer,
}

impl Packed {
    /// Lays a matrix of `rows` by `cols`, `raw` in the file's own layout, row by row.
    ///
    /// Panics if `raw` is not that long, or `cols` is not whole blocks.
    pub fn new(cpu: &Cpu, format: Format, rows: usize, cols: usize, raw: &[u8]) -> Packed {
        let row_bytes = format.bytes(cols);
        let row_bytes = row_bytes.unwrap_or_else(|| panic!("{cols} columns of {}", format.name()));
        assert_eq!(raw.len(), rows * row_bytes, "{} weights, {rows} x {cols}", format.name());
        let group_bytes = layout::group_bytes(format, cols);
        let mut data = cpu.arena.zeroed(Packed::bytes_of(format, rows, cols));
        if cols > 0 {
            crate::cpu::for_rows(cpu, data.bytes_mut(), group_bytes, |g, out| {
                layout::pack_group(out, format, raw, g * GROUP, rows, cols);
            });
        }
        Packed { format, rows, cols, data }
    }

    /// Bytes that a matrix of `rows` by `cols` will hold in memory.
    pub fn bytes_of(format: Format, rows: usize, cols: usize) -> usize {
        rows.div_ceil(GROUP) * layout::group_bytes(format, cols)
    }

    /// How the numbers are stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Rows: outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    fn groups(&self) -> usize {
        self.rows.div_ceil(GROUP)
    }

    fn group(&self, g: usize) -> *const u8 {
        let bytes = layout::group_bytes(self.format, self.cols);
        self.data.bytes()[g * bytes..][..bytes].as_ptr()
    }

    fn kind(&self, class: Class) -> Kind {
        match (self.format, layout::codes(self.format)) {
            (_, Some(c)) => Kind::Codes { zero: c.zero, sub16: c.sub16 },
            (Format::BF16 | Format::F16, None) if class == Class::Amx => Kind::PairTiles,
            (Format::BF16, None) => Kind::Pairs,
            (_, None) => Kind::Floats,
        }
    }

    /// The numbers of one row, as `unpack` gives them: `out` is `cols` long.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        assert_eq!(out.len(), self.cols, "row: wrong length");
        let (group, lane) = (self.group(row / GROUP), row % GROUP);
        let bytes = &self.data.bytes()[row / GROUP * layout::group_bytes(self.format, self.cols)..];
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        for (k, out) in out.iter_mut().enumerate() {
            *out = match self.format {
                Format::F32 => {
                    let at = (k * GROUP + lane) * 4;
                    f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
                }
                Format::F16 => half::f16::from_bits(half((k * GROUP + lane) * 2)).to_f32(),
                Format::BF16 => {
                    f32::from_bits(u32::from(half(k / 2 * 64 + lane * 4 + k % 2 * 2)) << 16)
                }
                _ => continue,
            };
        }
        let Some(c) = layout::codes(self.format) else { return };
        for (b, out) in out.as_chunks_mut::<{ layout::BLOCK }>().0.iter_mut().enumerate() {
            let mut block = [0u8; PANEL_BLOCK];
            // SAFETY: the portable class runs everywhere; the group holds block `b`.
            unsafe { fill_blocks::<Plain>(self.format, block.as_mut_ptr(), group, b, 1) };
            let float = |at: usize| {
                let at = at + 4 * lane;
                f32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
            };
            for (k, out) in out.iter_mut().enumerate() {
                let sub = if c.sub16 { k / 16 } else { 0 };
                let code = i32::from(block[k / 4 * 64 + 4 * lane + k % 4]) - c.zero;
                let scaled = float(512 + 64 * sub) * code as f32;
                *out = if c.min { scaled + float(640 + 64 * sub) } else { scaled };
            }
        }
    }
}

/// One product of a call: `y` is [rows of x, w.rows()].
pub struct Product<'a> {
    /// The result, row by row.
    pub y: &'a mut [f32],
    /// The weights.
    pub w: &'a Packed,
}

/// Words in a cache line.
const LINE_WORDS: usize = 16;

/// y = x W^T for each of `products`, on the same `x` of `rows` rows.
///
/// Panics if lengths disagree.
pub fn matmul(cpu: &Cpu, x: &[f32], rows: usize, products: &mut [Product<'_>]) {
    if rows == 0 {
        return;
    }
    let cols = x.len() / rows;
    assert_eq!(x.len(), rows * cols, "matmul: x is not {rows} rows");
    for p in products.iter() {
        assert_eq!(p.w.cols, cols, "matmul: x has {cols} columns, the weights {}", p.w.cols);
        assert_eq!(p.y.len(), rows * p.w.rows, "matmul: y is not {rows} x {}", p.w.rows);
    }
    let mut scratch = cpu.scratch();
    let mut kinds = [None; 8];
    let mut places = [0; 8];
    let mut end = 0;
    for p in products.iter() {
        let kind = p.w.kind(cpu.class);
        let slot = kinds.iter().position(|k| k.is_none_or(|k| k == kind)).expect("eight kinds");
        if kinds[slot].is_none() {
            (kinds[slot], places[slot]) = (Some(kind), end);
            end += laid_words(cpu.class, kind, rows, cols).next_multiple_of(LINE_WORDS);
        }
    }
    if scratch.len() < end + LINE_WORDS {
        scratch.resize(end + LINE_WORDS, 0);
    }
    let line = scratch.as_ptr().align_offset(64);
    let scratch = &mut scratch[line..];
    for (kind, place) in kinds.iter().zip(places) {
        if let Some(kind) = *kind {
            let len = laid_words(cpu.class, kind, rows, cols);
            lay_all(cpu, &mut scratch[place..][..len], x, rows, cols, kind);
        }
    }
    assert!(products.len() <= 8, "matmul: more than eight products");
    let mut jobs: [Option<Job>; 8] = [const { None }; 8];
    for (job, p) in jobs.iter_mut().zip(products.iter_mut()) {
        let kind = p.w.kind(cpu.class);
        let slot = kinds.iter().position(|k| *k == Some(kind)).expect("laid above");
        *job = Some(Job::new(cpu.class, p, &scratch[places[slot]..], rows, cpu.pool.threads()));
    }
    let tasks: usize = jobs.iter().flatten().map(|j| j.tasks).sum();
    cpu.pool.run(tasks, |mut task| {
        for job in jobs.iter().flatten() {
            if task < job.tasks {
                // SAFETY: `Cpu` checked the class; tasks write disjoint columns of y.
                unsafe {
                    if tiles(cpu.class, job.w.kind(cpu.class), rows) == [TILE_ROWS] {
                        amx::run_task(cpu, job, task);
                    } else {
                        by_class!(cpu.lanes(), run_task(cpu.class, job, task));
                    }
                }
                return;
            }
            task -= job.tasks;
        }
    });
}

/// Tiles of activations that have a kernel, by rows, ascending. A few rows less fill one with
/// rows that are computed and not stored.
fn tiles(class: Class, kind: Kind, rows: usize) -> &'static [usize] {
    // 32 registers of 16 lanes: 2 x 12 sums and the operands; block sums need two of each.
    // 16 registers of 8 lanes: 6 sums of two registers, and the operands; of codes a third of that.
    match (class, kind) {
        (_, Kind::PairTiles) => &[TILE_ROWS],
        (Class::Amx, Kind::Codes { .. }) if rows > amx::VECTOR_ROWS => &[TILE_ROWS],
        (Class::Avx512 | Class::Amx, Kind::Codes { .. }) => &[1, 2, 6],
        (Class::Avx512 | Class::Amx, _) => &[1, 4, 12],
        (Class::Avx2 | Class::Portable, Kind::Codes { .. }) => &[1, 2],
        (Class::Avx2 | Class::Portable, _) => &[1, 3, 6],
    }
}

/// The tiles that `rows` rows are cut into: first row, rows, and rows of the kernel.
fn cut(tiles: &'static [usize], rows: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let largest = tiles[tiles.len() - 1];
    (0..rows).step_by(largest).map(move |t| {
        let n = largest.min(rows - t);
        let tile = tiles.iter().find(|&&tile| tile >= n).expect("n is at most the largest");
        (t, n, *tile)
    })
}

/// Words of `rows` rows cut into tiles.
fn laid_words(class: Class, kind: Kind, rows: usize, cols: usize) -> usize {
    let tiles = tiles(class, kind, rows);
    rows.next_multiple_of(tiles[tiles.len() - 1]) * words(kind, cols)
}

/// Lays all of x, tile after tile.
fn lay_all(cpu: &Cpu, out: &mut [u32], x: &[f32], rows: usize, cols: usize, kind: Kind) {
    let tiles = tiles(cpu.class, kind, rows);
    let largest = tiles[tiles.len() - 1];
    let words = words(kind, cols);
    let parts = Parts::new(out);
    cpu.pool.run_ranges(rows, largest, |a, b| {
        for (t, n, tile) in cut(tiles, b - a) {
            let x = &x[(a + t) * cols..(a + t + n) * cols];
            // SAFETY: each tile is laid by one task; `Cpu` checked the class.
            unsafe {
                let out = parts.part((a + t) * words, tile * words);
                by_class!(cpu.lanes(), lay(out, x, tile, cols, kind));
            }
        }
    });
}

/// One product, cut into tasks over groups of rows of the weights.
struct Job<'a> {
    w: &'a Packed,
    y: Parts<f32>,
    x: &'a [u32],
    rows: usize,
    /// Rows that are multiplied by all weights before the next: whole tiles.
    strip: usize,
    /// Groups a task.
    grain: usize,
    tasks: usize,
}

/// Bytes of laid rows that stay in the second cache while all weights pass over them, a quarter of
/// it as in `backward`.
const STRIP_BYTES: usize = 256 << 10;

impl<'a> Job<'a> {
    fn new(
        class: Class,
        p: &'a mut Product<'_>,
        x: &'a [u32],
        rows: usize,
        threads: usize,
    ) -> Job<'a> {
        let groups = p.w.groups();
        // Small enough that threads end together, large enough to amortise a claim; pairs of
        // groups share what they read of x. A single row shares nothing: it wants long runs of
        // memory, and a short last task.
        let grain = match rows {
            1 => groups.div_ceil(threads * 4).clamp(1, 16),
            _ => (groups / (threads * 4)).clamp(2, 16) & !1,
        };
        let strip = Job::strip(class, p.w, rows);
        let tasks = groups.div_ceil(grain) * rows.div_ceil(strip);
        Job { w: p.w, y: Parts::new(p.y), x, rows, strip, grain, tasks }
    }

    /// Rows of a strip: plain floats alone, whose rows are long where prompts and batches are.
    fn strip(class: Class, w: &Packed, rows: usize) -> usize {
        let kind = w.kind(class);
        match kind {
            Kind::Floats | Kind::Pairs => {
                let tiles = tiles(class, kind, rows);
                let tile = tiles[tiles.len() - 1];
                let most = STRIP_BYTES / (4 * words(kind, w.cols).max(1) * tile);
                rows.min(most.max(4) * tile)
            }
            Kind::PairTiles | Kind::Codes { .. } => rows,
        }
    }
}

thread_local! {
    /// A thread's panel of unpacked weights: grows to the largest, then stays.
    static PANEL: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Blocks of 32 columns in a panel: two groups of 768 bytes each stay within the second cache.
const PANEL_BLOCKS: usize = 64;
/// The same for up to `FEW_ROWS` rows: 27 KiB stay within the first cache, which pays as long as the
/// sums of all rows, which pass it again for each panel, are few.
const FEW_BLOCKS: usize = 18;
/// Rows that are few: eight tiles.
const FEW_ROWS: usize = 48;

/// # Safety
///
/// The machine runs the class of `L`; no other task writes the columns of y of task `i`.
unsafe fn run_task<L: Entry>(class: Class, job: &Job<'_>, i: usize) {
    let tasks = job.w.groups().div_ceil(job.grain);
    let (strip, i) = (i / tasks * job.strip, i % tasks);
    let last = job.w.groups().min((i + 1) * job.grain);
    let mut g = i * job.grain;
    while g < last {
        let n = if job.rows == 1 { abreast(job.w.format) } else { 2 }.min(last - g);
        // SAFETY: the caller's contract.
        unsafe {
            match job.w.format {
                Format::F32 => dense_groups::<L, W_F32>(class, job, strip, g, n),
                Format::F16 => dense_groups::<L, W_F16>(class, job, strip, g, n),
                Format::BF16 => dense_groups::<L, W_BF16>(class, job, strip, g, n),
                Format::Q4_0 => groups::<L, { Format::Q4_0 as u8 }>(class, job, g, n),
                Format::Q4_1 => groups::<L, { Format::Q4_1 as u8 }>(class, job, g, n),
                Format::Q5_0 => groups::<L, { Format::Q5_0 as u8 }>(class, job, g, n),
                Format::Q5_1 => groups::<L, { Format::Q5_1 as u8 }>(class, job, g, n),
                Format::Q8_0 => groups::<L, { Format::Q8_0 as u8 }>(class, job, g, n),
                Format::Q2_K => groups::<L, { Format::Q2_K as u8 }>(class, job, g, n),
                Format::Q3_K => groups::<L, { Format::Q3_K as u8 }>(class, job, g, n),
                Format::Q4_K => groups::<L, { Format::Q4_K as u8 }>(class, job, g, n),
                Format::Q5_K => groups::<L, { Format::Q5_K as u8 }>(class, job, g, n),
                Format::Q6_K => groups::<L, { Format::Q6_K as u8 }>(class, job, g, n),
                Format::IQ4_NL => groups::<L, { Format::IQ4_NL as u8 }>(class, job, g, n),
            }
        }
        g += n;
    }
}

/// Groups that a single row reads abreast.
///
/// One: a task is then one stream through memory, which the processor follows by itself to 95 % of what
/// it can read; it follows four to 65 %, however far ahead they are asked for. But a chain of one
/// step of 4 cycles for each 32 bytes of f16 would be slower than memory.
const fn abreast(format: Format) -> usize {
    match format {
        Format::F16 => 2,
        _ => 1,
    }
}

impl Job<'_> {
    /// Where `n` groups from `g` on write `rows` rows from `t` on.
    ///
    /// # Safety
    ///
    /// The rows and groups exist.
    unsafe fn out(&self, t: usize, rows: usize, g: usize, n: usize) -> Out {
        let stride = self.w.rows;
        // SAFETY: row t and column 16 g lie in y, whose length `matmul` checked.
        let y = unsafe { self.y.pointer().add(t * stride + g * GROUP) };
        Out { y, stride, width: (stride - g * GROUP).min(16 * n), rows, resume: false }
    }

    /// Group `g`, or the last: a pair whose second half is missing computes it for nothing.
    fn group(&self, g: usize) -> *const u8 {
        self.w.group(g.min(self.w.groups() - 1))
    }
}

/// `n` groups (1 or 2) of plain floats by the strip of rows from `from` on.
///
/// # Safety
///
/// As `run_task`.
unsafe fn dense_groups<L: Entry, const W: u8>(
    class: Class,
    job: &Job<'_>,
    from: usize,
    g: usize,
    n: usize,
) {
    let kind = job.w.kind(class);
    let steps = words(kind, job.w.cols);
    // SAFETY: the caller's contract; tiles were laid with these sizes.
    unsafe {
        if job.rows == 1 && n == 1 {
            return L::dense::<W, 1, 1>(job.out(0, 1, g, 1), [job.group(g)], job.x.as_ptr(), steps);
        }
        let w = [job.group(g), job.group(g + 1)];
        let rows = job.strip.min(job.rows - from);
        for (t, rows, tile) in cut(tiles(class, kind, job.rows), rows) {
            let out = job.out(from + t, rows, g, n);
            let x = job.x[(from + t) * steps..].as_ptr();
            match tile {
                1 => L::dense::<W, 2, 1>(out, w, x, steps),
                3 => L::dense::<W, 2, 3>(out, w, x, steps),
                4 => L::dense::<W, 2, 4>(out, w, x, steps),
                6 => L::dense::<W, 2, 6>(out, w, x, steps),
                _ => L::dense::<W, 2, 12>(out, w, x, steps),
            }
        }
    }
}

/// `n` groups (1 or 2) of a block format by all rows.
///
/// # Safety
///
/// As `run_task`.
unsafe fn groups<L: Entry, const F: u8>(class: Class, job: &Job<'_>, g: usize, n: usize) {
    let blocks = unpack::blocks(job.w.cols);
    // SAFETY: the caller's contract; tiles were laid with these sizes.
    unsafe {
        if job.rows == 1 {
            return L::one_row::<F>(job.out(0, 1, g, 1), job.group(g), job.x.as_ptr(), blocks);
        }
        PANEL.with_borrow_mut(|panel| {
            if panel.is_empty() {
                panel.resize(2 * PANEL_BLOCKS * PANEL_BLOCK, 0);
            }
            let most = if job.rows <= FEW_ROWS { FEW_BLOCKS } else { PANEL_BLOCKS };
            for from in (0..blocks).step_by(most) {
                let count = most.min(blocks - from);
                for i in 0..2 {
                    let p = panel.as_mut_ptr().add(i * PANEL_BLOCK);
                    L::fill_panel::<F>(p, 2, job.group(g + i), from, count);
                }
                panel_rows::<L>(class, job, (g, n), panel, (from, count));
            }
        });
    }
}

/// A filled panel of `groups` (first, count) and `blocks` (first, count) by all rows.
///
/// # Safety
///
/// As `run_task`; the panel holds those blocks.
unsafe fn panel_rows<L: Entry>(
    class: Class,
    job: &Job<'_>,
    groups: (usize, usize),
    panel: &[u8],
    blocks: (usize, usize),
) {
    let kind = job.w.kind(class);
    let c = layout::codes(job.w.format).expect("a block format");
    let words = words(kind, job.w.cols);
    for (t, rows, tile) in cut(tiles(class, kind, job.rows), job.rows) {
        // SAFETY: the caller's contract.
        unsafe {
            let out = Out { resume: blocks.0 > 0, ..job.out(t, rows, groups.0, groups.1) };
            let x = job.x[t * words + blocks.0 * tile * activations::BLOCK_WORDS..].as_ptr();
            let (panel, n) = (panel.as_ptr(), blocks.1);
            match (c.sub16, c.min, tile) {
                (false, false, 6) => L::panel::<false, false, 6>(out, panel, x, n),
                (false, true, 6) => L::panel::<false, true, 6>(out, panel, x, n),
                (true, false, 6) => L::panel::<true, false, 6>(out, panel, x, n),
                (true, true, 6) => L::panel::<true, true, 6>(out, panel, x, n),
                (false, false, 2) => L::panel::<false, false, 2>(out, panel, x, n),
                (false, true, 2) => L::panel::<false, true, 2>(out, panel, x, n),
                (true, false, 2) => L::panel::<true, false, 2>(out, panel, x, n),
                (true, true, 2) => L::panel::<true, true, 2>(out, panel, x, n),
                (false, false, _) => L::panel::<false, false, 1>(out, panel, x, n),
                (false, true, _) => L::panel::<false, true, 1>(out, panel, x, n),
                (true, false, _) => L::panel::<true, false, 1>(out, panel, x, n),
                (true, true, _) => L::panel::<true, true, 1>(out, panel, x, n),
            }
        }
    }
}

/// Unpacks `blocks` blocks of one group, from block `from`; nothing for plain floats.
///
/// # Safety
///
/// The machine runs the class of `L`; the group holds the blocks; `panel` takes `PANEL_BLOCK`
/// bytes for each.
#[inline(always)]
unsafe fn fill_blocks<L: Entry>(
    format: Format,
    panel: *mut u8,
    group: *const u8,
    from: usize,
    blocks: usize,
) {
    macro_rules! fill {
        ($($f:ident),+) => {
            match format {
                Format::F32 | Format::F16 | Format::BF16 => {}
                $(Format::$f => {
                    // SAFETY: the caller's contract.
                    unsafe { L::fill_panel::<{ Format::$f as u8 }>(panel, 1, group, from, blocks) }
                })+
            }
        };
    }
    fill!(Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL);
}

#[cfg(test)]
mod tests;
