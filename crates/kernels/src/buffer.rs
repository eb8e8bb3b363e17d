//! Bytes that begin on a cache line; those of weights side by side in huge pages.

use memmap2::MmapMut;
use std::sync::{Arc, Mutex};

/// Bytes of a cache line.
const LINE: usize = 64;

/// Memory that buffers are cut from: whole pages, which the system gives when they are first
/// written (an allocation of the standard library, aligned so, would write them all).
struct Chunk {
    bytes: *mut u8,
    lines: usize,
    /// Keeps the memory.
    _map: MmapMut,
}

// SAFETY: a chunk is plain memory; buffers cut from it never overlap.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Chunk {
    /// `lines` zeroed lines. Panics if the system has no such range of addresses.
    fn new(lines: usize) -> Chunk {
        let len = (lines * LINE).max(1);
        let map = MmapMut::map_anon(len);
        let mut map = map.unwrap_or_else(|e| panic!("no memory for {len} bytes: {e}"));
        Chunk { bytes: map.as_mut_ptr(), lines, _map: map }
    }

    /// Walking a model through 4 KiB pages costs an address look-up a page, and the processor asks
    /// ahead only within a page; 2 MiB pages spare both.
    fn ask_for_huge_pages(&self) {
        #[cfg(target_os = "linux")]
        {
            let page = 2 << 20;
            let start = (self.bytes as usize).next_multiple_of(page);
            let end = (self.bytes as usize + self.lines * LINE) / page * page;
            // SAFETY: the range lies inside our own mapping; the call changes no contents.
            // Its failure changes nothing but speed.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
        }
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
        Buffer { chunk: Arc::new(Chunk::new(len.div_ceil(LINE))), start: 0, len }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: lines from `start` on hold `len` initialised bytes that only this buffer uses.
        unsafe { std::slice::from_raw_parts(self.chunk.bytes.add(self.start * LINE), self.len) }
    }

    /// The bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.chunk.bytes.add(self.start * LINE), self.len) }
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
        let lines = len.div_ceil(LINE);
        let mut open = self.open.lock().unwrap_or_else(|e| e.into_inner());
        match &mut *open {
            Some((chunk, next)) if *next + lines <= chunk.lines => {
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
