//! The CPU as a device: a numeric class and a pool of threads.

use crate::{Class, buffer::Arena, pool::Pool};
use std::sync::{Mutex, MutexGuard};

/// Where kernels run.
pub struct Cpu {
    /// The instruction-set path; decides the bits.
    pub class: Class,
    /// The threads; they do not change a bit.
    pub pool: Pool,
    /// Where weights lie.
    pub(crate) arena: Arena,
    scratch: Mutex<Vec<u32>>,
    /// Tiles are computed by their definition, not by the tile unit.
    #[cfg(test)]
    pub(crate) emulates_tiles: bool,
}

impl Cpu {
    /// A CPU of this class and number of threads.
    ///
    /// Panics if the machine cannot run the class.
    pub fn new(class: Class, threads: usize) -> Cpu {
        assert!(class.runs_here(), "this machine cannot run the numeric class {class}");
        Cpu {
            class,
            pool: Pool::new(threads),
            arena: Arena::default(),
            scratch: Mutex::default(),
            #[cfg(test)]
            emulates_tiles: false,
        }
    }

    /// The class `amx` on any machine, tiles by their definition: slow, for tests.
    #[cfg(test)]
    pub(crate) fn emulated(threads: usize) -> Cpu {
        Cpu {
            class: Class::Amx,
            pool: Pool::new(threads),
            arena: Arena::default(),
            scratch: Mutex::default(),
            emulates_tiles: true,
        }
    }

    /// The class whose vector instructions run: below the class itself only in emulation.
    pub(crate) fn lanes(&self) -> Class {
        self.class.min(Class::best())
    }

    /// Working memory that outlives calls, so that a step allocates nothing after the first.
    pub(crate) fn scratch(&self) -> MutexGuard<'_, Vec<u32>> {
        self.scratch.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// The first `len` numbers of working memory, which grows if it must.
pub(crate) fn floats(scratch: &mut Vec<u32>, len: usize) -> &mut [f32] {
    if scratch.len() < len {
        scratch.resize(len, 0);
    }
    bytemuck::cast_slice_mut(&mut scratch[..len])
}

/// A slice that several tasks write at once, each its own part.
#[derive(Clone, Copy)]
pub(crate) struct Parts<T>(*mut T, usize);

// SAFETY: the tasks write disjoint parts (the contract of `part`), and `T: Send` may move there.
unsafe impl<T: Send> Sync for Parts<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Parts<T> {}

impl<T> Parts<T> {
    pub(crate) fn new(slice: &mut [T]) -> Parts<T> {
        Parts(slice.as_mut_ptr(), slice.len())
    }

    pub(crate) fn len(&self) -> usize {
        self.1
    }

    pub(crate) fn pointer(&self) -> *mut T {
        self.0
    }

    /// Elements `from .. from + len`.
    ///
    /// # Safety
    ///
    /// The slice outlives the part, and no other task touches these elements meanwhile.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, from: usize, len: usize) -> &mut [T] {
        assert!(from + len <= self.1, "part {from} + {len} of {}", self.1);
        // SAFETY: in bounds by the line above; alone by the caller's contract.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(from), len) }
    }
}

/// Calls `task(i, row)` for each row of `out`, on all threads.
pub fn for_rows<T: Send>(
    cpu: &Cpu,
    out: &mut [T],
    row_len: usize,
    task: impl Fn(usize, &mut [T]) + Sync,
) {
    assert!(row_len > 0 && out.len().is_multiple_of(row_len), "rows of {row_len} in {}", out.len());
    let rows = out.len() / row_len;
    let parts = Parts::new(out);
    cpu.pool.run_ranges(rows, 1, |a, b| {
        for i in a..b {
            // SAFETY: each row is given to one task.
            task(i, unsafe { parts.part(i * row_len, row_len) });
        }
    });
}
