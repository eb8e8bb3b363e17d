//! Bytes that begin on a cache line, in huge pages where the system grants them.

/// One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Zeroed bytes, aligned to 64.
pub struct Buffer {
    lines: Vec<Line>,
    len: usize,
}

impl Buffer {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> Buffer {
        // `vec!` of a zero line asks the allocator for zeroed pages and touches none of them.
        let lines = vec![Line([0; 64]); len.div_ceil(64)];
        let buffer = Buffer { lines, len };
        buffer.ask_for_huge_pages();
        buffer
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the lines are `len` or more initialised bytes without padding.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    /// The bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Walking a model through 4 KiB pages costs an address look-up a page; 2 MiB pages cost none.
    fn ask_for_huge_pages(&self) {
        #[cfg(target_os = "linux")]
        if self.len >= 4 << 20 {
            let page = 2 << 20;
            let start = (self.lines.as_ptr() as usize).next_multiple_of(page);
            let end = (self.lines.as_ptr() as usize + self.len) / page * page;
            // SAFETY: the range lies inside our own allocation; the call changes no contents.
            // Its failure changes nothing but speed.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
        }
    }
}
