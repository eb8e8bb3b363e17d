//! How much memory a piece of work takes.

use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// What work takes whatever its input: tables of fixed size, names of files, errors.
pub struct Allowance {
    /// Bytes for each byte of input.
    pub factor: usize,
    /// Bytes beside.
    pub fixed: usize,
}

/// Does `work` on `input_bytes` bytes of input. Panics if it takes more memory than allowed.
pub fn within<T>(allowed: Allowance, input_bytes: usize, work: impl FnOnce() -> T) -> T {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let done = work();
    let taken = MEMORY.peak_usage().saturating_sub(before);
    let most = input_bytes * allowed.factor + allowed.fixed;
    assert!(taken <= most, "{input_bytes} bytes took {taken}, {most} are allowed");
    done
}
