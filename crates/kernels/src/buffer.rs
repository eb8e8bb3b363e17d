//! Bytes that begin on a cache line; those of weights side by side in huge pages.

use std::sync::{Arc, Mutex};

/// One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line(#[allow(dead_code)] [u8; 64]);

/// Memory that buffers are cut from. Its pages are given by the system when first written.
struct Chunk {
    lines: *mut Line,
    len: usize,
}

// SAFETY: a chunk is plain memory; buffers cut from it never overlap.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Chunk {
    /// `len` zeroed lines.
    fn new(len: usize) -> Chunk {
        // `vec!` of a zero line asks the allocator for zeroed pages and touches none of them.
        let lines = Box::leak(vec![Line([0; 64]); len].into_boxed_slice());
        Chunk { lines: lines.as_mut_ptr(), len }
    }

    /// Walking a model through 4 KiB pages costs an address look-up a page, and the processor asks
    /// ahead only within a page; 2 MiB pages spare both.
    fn ask_for_huge_pages(&self) {
        #[cfg(target_os = "linux")]
        {
            let page = 2 << 20;
            let start = (self.lines as usize).next_multiple_of(page);
            let end = (self.lines as usize + self.len * 64) / page * page;
            // SAFETY: the range lies inside our own allocation; the call changes no contents.
            // Its failure changes nothing but speed.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let lines = std::ptr::slice_from_raw_parts_mut(self.lines, self.len);
        // SAFETY: the pointer came from a box of this length, and no buffer is left.
        drop(unsafe { Box::from_raw(lines) });
    }
}

/// Bytes, zero at first, aligned to 64.
pub struct Buffer {
    chunk: Arc<Chunk>,
    /// First line in the chunk.
    start: usize,
    len: usize,
}

impl Buffer {
    /// `len` zero bytes with memory of their own.
    pub fn zeroed(len: usize) -> Buffer {
        Buffer { chunk: Arc::new(Chunk::new(len.div_ceil(64))), start: 0, len }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: lines from `start` on hold `len` initialised bytes that only this buffer uses.
        unsafe { std::slice::from_raw_parts(self.chunk.lines.add(self.start).cast(), self.len) }
    }

    /// The bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.chunk.lines.add(self.start).cast(), self.len) }
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Cuts buffers from large chunks of huge pages: for what is made once and read often.
#[derive(Default)]
pub struct Arena {
    /// The chunk in use, and its first free line.
    open: Mutex<Option<(Arc<Chunk>, usize)>>,
}

/// Lines of a chunk: 64 MiB, of which only written pages take memory.
const CHUNK: usize = 1 << 20;

impl Arena {
    /// `len` zero bytes beside those cut before. Their memory returns to the system when all
    /// buffers of the chunk are gone.
    pub fn zeroed(&self, len: usize) -> Buffer {
        let lines = len.div_ceil(64);
        let mut open = self.open.lock().unwrap_or_else(|e| e.into_inner());
        match &mut *open {
            Some((chunk, next)) if *next + lines <= chunk.len => {
                let start = *next;
                *next += lines;
                Buffer { chunk: Arc::clone(chunk), start, len }
            }
            _ => {
                let chunk = Arc::new(Chunk::new(lines.max(CHUNK)));
                chunk.ask_for_huge_pages();
                *open = Some((Arc::clone(&chunk), lines));
                Buffer { chunk, start: 0, len }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_an_arena_are_aligned_and_do_not_overlap() {
        let arena = Arena::default();
        let mut buffers: Vec<Buffer> = (0..50).map(|i| arena.zeroed(i * 37)).collect();
        for (i, buffer) in buffers.iter_mut().enumerate() {
            assert!(buffer.is_empty() || buffer.bytes().as_ptr() as usize % 64 == 0);
            assert!(buffer.bytes().iter().all(|b| *b == 0));
            buffer.bytes_mut().fill(i as u8);
        }
        for (i, buffer) in buffers.iter().enumerate() {
            assert!(buffer.bytes().iter().all(|b| *b == i as u8));
        }
    }

    #[test]
    fn a_buffer_larger_than_a_chunk_has_one_of_its_own() {
        let arena = Arena::default();
        let big = arena.zeroed(CHUNK * 64 + 1);
        assert_eq!(big.len(), CHUNK * 64 + 1);
    }
}
