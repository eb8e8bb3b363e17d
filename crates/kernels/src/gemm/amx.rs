//! Products by the tile unit: sixteen rows of activations by sixteen outputs at a time.
//!
//! bf16 and f16 weights take any number of rows through the same products of tiles, 32 columns a
//! step from column 0, so one row has the bits it has among many. f16 weights are split exactly
//! into two bf16 (11 bits = 8 + 3), whose products follow each other in each step. Block formats
//! take tiles of bytes, exact, and scale each block as `kernels::panel` does, so they have the
//! bits of the vector kernels, which serve one and two rows.

// Other processors compile the file to check it, and have no unit to run it on.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

mod blocks;
pub(super) mod pairs;

use super::activations::TILE_ROWS;
use super::entry::Entry;
use super::kernels::{Out, PANEL_BLOCK};
use super::layout::{BLOCK, codes};
use super::{Job, fill_blocks};
use crate::Format;
use crate::buffer::Buffer;
use crate::cpu::Cpu;
use crate::tiles::{BYTES, Tiles};
use blocks::RING_BYTES;
use std::cell::Cell;
use std::ops::Range;

/// Rows of a block format up to which vectors are used: they read the weights where they lie,
/// tiles only after unpacking.
pub(super) const VECTOR_ROWS: usize = 2;

/// Columns that all rows of a task are taken through before the next. Of bf16, two groups are
/// 32 KiB and stay in the first cache (48 KiB), 512 rows are 512 KiB and stay in the second (2 MiB).
const CHUNK: usize = 512;

/// Bytes of unpacked weights: four groups of f16 in two parts, or one group of blocks.
const PANEL_BYTES: usize = 4 * 2 * (CHUNK / BLOCK) * BYTES;
const _: () = assert!(PANEL_BYTES >= CHUNK / BLOCK * PANEL_BLOCK);

thread_local! {
    /// A thread's panel of unpacked weights, and behind it its ring of block products.
    static SPACE: Cell<Option<Buffer>> = const { Cell::new(None) };
}

/// Computes task `i` of a job whose activations are laid in tiles of sixteen rows.
///
/// # Safety
///
/// The machine runs the class `amx`, or `cpu` emulates it; no other task writes the columns of y
/// of task `i`.
pub(super) unsafe fn run_task(cpu: &Cpu, job: &Job<'_>, i: usize) {
    #[cfg(test)]
    if cpu.emulates_tiles {
        // SAFETY: the caller's contract; this machine runs `lanes`.
        return unsafe { emulated::run_task(cpu, job, i) };
    }
    assert_eq!(cpu.class, crate::Class::Amx, "tiles belong to the class amx");
    // SAFETY: the caller's contract.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        run_on_hardware(job, i);
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("checked by Cpu::new");
}

/// # Safety
///
/// As `run_task`, on a machine that has the unit.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,fma,f16c")]
unsafe fn run_on_hardware(job: &Job<'_>, i: usize) {
    // SAFETY: the caller's contract.
    unsafe { task::<crate::lanes::Avx512, crate::tiles::Hardware>(job, i) }
}

/// # Safety
///
/// The machine has L and U; else as `run_task`.
#[inline(always)]
unsafe fn task<L: Entry, U: Tiles>(job: &Job<'_>, i: usize) {
    let blocks = codes(job.w.format);
    let groups = i * job.grain..job.w.groups().min((i + 1) * job.grain);
    // Two groups share what is read of x; for few rows, four are four streams from memory.
    let width = match blocks {
        Some(_) => 1,
        None if job.rows <= TILE_ROWS && groups.len() > 2 => 4,
        None => 2,
    };
    let chunks = job.w.cols.div_ceil(CHUNK).max(1);
    // Few rows meet each weight once: walk a group to its end, as it lies in memory.
    let stretch = if job.rows <= 2 * TILE_ROWS { chunks } else { 1 };
    let mut space = SPACE.take().unwrap_or_else(|| Buffer::zeroed(PANEL_BYTES + RING_BYTES));
    let (panel, ring) = space.bytes_mut().split_at_mut(PANEL_BYTES);
    // SAFETY: the caller's contract; the panel and the ring have the sizes that parts ask for.
    unsafe {
        let mut unit = U::new();
        for first in (0..chunks).step_by(stretch) {
            for g in groups.clone().step_by(width) {
                for chunk in first..chunks.min(first + stretch) {
                    let cols = chunk * CHUNK..job.w.cols.min((chunk + 1) * CHUNK);
                    let part = Part { job, g, width, n: width.min(groups.end - g), cols };
                    match (blocks, job.w.format) {
                        (Some(c), _) => {
                            part.blocks::<L, U>(
                                &mut unit,
                                c,
                                panel.as_mut_ptr(),
                                ring.as_mut_ptr(),
                            );
                        }
                        (None, Format::F16) => {
                            part.pairs::<L, U, 2>(&mut unit, panel.as_mut_ptr());
                        }
                        (None, _) => part.pairs::<L, U, 1>(&mut unit, panel.as_mut_ptr()),
                    }
                }
            }
        }
    }
    SPACE.set(Some(space));
}

/// Some groups and columns of a product, for all its rows.
struct Part<'a> {
    job: &'a Job<'a>,
    /// The first group, how many the kernel takes, and how many of these exist.
    g: usize,
    width: usize,
    n: usize,
    /// From a multiple of CHUNK on, at most CHUNK.
    cols: Range<usize>,
}

impl Part<'_> {
    /// Where rows `t ..` (at most `most`) write; sums of later columns go on from what is there.
    ///
    /// # Safety
    ///
    /// Row `t` exists.
    #[inline(always)]
    unsafe fn out(&self, t: usize, most: usize) -> Out {
        let rows = most.min(self.job.rows - t);
        // SAFETY: the caller's contract; the groups exist.
        let out = unsafe { self.job.out(t, rows, self.g, self.n) };
        Out { resume: self.cols.start > 0, ..out }
    }
}

#[cfg(test)]
mod emulated {
    use super::*;
    use crate::Class;
    use crate::lanes::{Avx2, Avx512, Plain};
    use crate::tiles::Emulated;

    /// # Safety
    ///
    /// As the outer `run_task`; this machine runs `cpu.lanes()`.
    pub(super) unsafe fn run_task(cpu: &Cpu, job: &Job<'_>, i: usize) {
        // SAFETY: the caller's contract; the definition of tiles runs everywhere.
        unsafe fn emulate<L: Entry>(job: &Job<'_>, i: usize) {
            // SAFETY: the caller's contract.
            unsafe { task::<L, Emulated>(job, i) }
        }
        // SAFETY: the caller's contract.
        unsafe { by_class!(cpu.lanes(), emulate(job, i)) }
    }
}
