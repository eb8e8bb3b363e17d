//! The tile unit: eight registers of sixteen rows by 64 bytes, and products of whole tiles.
//!
//! `Hardware` is AMX; `Emulated` is Intel's definition in plain Rust, so that everything built
//! on tiles is tested on any machine, and a machine with AMX is tested against the definition.
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, TDPBF16PS,
//! TDPBSSD, LDTILECFG, TILELOADD, TILESTORED.

// Other processors compile the file to check it, and have no unit to run it on.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

/// Rows of a tile.
pub(crate) const ROWS: usize = 16;
/// Bytes of a row of a tile.
pub(crate) const ROW_BYTES: usize = 64;
/// Bytes of a tile.
pub(crate) const BYTES: usize = ROWS * ROW_BYTES;

/// Rows and bytes a row of each of the eight registers, as `ldtilecfg` reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct Shape {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

const _: () = assert!(size_of::<Shape>() == 64);

impl Shape {
    /// Registers of (rows, bytes a row), from register 0 on; (0, 0) for one that is not used.
    pub(crate) const fn new(registers: [(usize, usize); 8]) -> Shape {
        let mut shape =
            Shape { palette: 1, start_row: 0, reserved: [0; 14], bytes: [0; 16], rows: [0; 16] };
        let mut i = 0;
        while i < 8 {
            let (rows, bytes) = registers[i];
            assert!(rows <= ROWS && bytes <= ROW_BYTES && bytes % 4 == 0);
            assert!((rows == 0) == (bytes == 0));
            (shape.rows[i], shape.bytes[i]) = (rows as u8, bytes as u16);
            i += 1;
        }
        shape
    }
}

/// The operations on tiles. Products take C [m, n], A [m, k], and B with four bytes of k a row:
/// row i of B holds, for each of n columns, elements 4 i .. 4 i + 4 (bytes) or 2 i, 2 i + 1 (bf16).
///
/// # Safety
///
/// All methods ask that the machine has the unit; all but `new` and `configure` that `configure`
/// was called and the registers they name are in use; products that the sizes of C, A and B
/// agree; loads and stores that the register's bytes are readable or writable at `stride`.
pub(crate) trait Tiles {
    /// The unit of this thread. Dropping it gives the unit back.
    unsafe fn new() -> Self;
    /// Sets the shapes of the registers, whose contents are then unknown. Free if they are set.
    unsafe fn configure(&mut self, shape: &Shape);
    /// Register T becomes zero.
    unsafe fn zero<const T: u8>(&mut self);
    /// Register T from the rows at `from`, `stride` bytes apart.
    unsafe fn load<const T: u8>(&mut self, from: *const u8, stride: usize);
    /// Register T to the rows at `to`, `stride` bytes apart.
    unsafe fn store<const T: u8>(&mut self, to: *mut u8, stride: usize);
    /// C += A B for pairs of bf16, C of f32. Even and odd elements of k are added apart, each
    /// from zero in ascending order with one rounding a step; their sum is added to C.
    /// Subnormal numbers count as zero, on the way in and out.
    unsafe fn dot_bf16<const C: u8, const A: u8, const B: u8>(&mut self);
    /// C += A B for signed bytes, C of i32. Exact.
    unsafe fn dot_i8<const C: u8, const A: u8, const B: u8>(&mut self);
}

#[cfg(target_arch = "x86_64")]
pub(crate) use hardware::Hardware;

#[cfg(target_arch = "x86_64")]
mod hardware {
    use super::{Shape, Tiles};
    use std::arch::asm;
    use std::marker::PhantomData;

    /// AMX. The registers belong to the thread, so the value stays on it.
    pub(crate) struct Hardware {
        shape: Option<Shape>,
        thread: PhantomData<*const ()>,
    }

    // What all blocks below rely on: no function here enables AMX for the compiler, so it keeps
    // nothing in tile registers, and what one block leaves there the next one finds. The blocks
    // are not `pure`, so their order stays; they may touch memory, so stores before them are made.
    impl Tiles for Hardware {
        #[inline(always)]
        unsafe fn new() -> Hardware {
            Hardware { shape: None, thread: PhantomData }
        }

        #[inline(always)]
        unsafe fn configure(&mut self, shape: &Shape) {
            if self.shape.as_ref() == Some(shape) {
                return;
            }
            self.shape = Some(*shape);
            // SAFETY: the machine has the unit; `shape` is 64 readable bytes of a valid
            // configuration (`Shape::new` checked it).
            unsafe {
                asm!("ldtilecfg [{}]", in(reg) shape, options(nostack, preserves_flags, readonly));
            }
        }

        #[inline(always)]
        unsafe fn zero<const T: u8>(&mut self) {
            // SAFETY: the trait's contract.
            unsafe {
                asm!("tilezero tmm{t}", t = const T, options(nostack, preserves_flags, nomem));
            }
        }

        #[inline(always)]
        unsafe fn load<const T: u8>(&mut self, from: *const u8, stride: usize) {
            // SAFETY: the trait's contract: the rows are readable.
            unsafe {
                asm!(
                    "tileloadd tmm{t}, [{from} + {stride} * 1]",
                    t = const T,
                    from = in(reg) from,
                    stride = in(reg) stride,
                    options(nostack, preserves_flags, readonly),
                );
            }
        }

        #[inline(always)]
        unsafe fn store<const T: u8>(&mut self, to: *mut u8, stride: usize) {
            // SAFETY: the trait's contract: the rows are writable.
            unsafe {
                asm!(
                    "tilestored [{to} + {stride} * 1], tmm{t}",
                    t = const T,
                    to = in(reg) to,
                    stride = in(reg) stride,
                    options(nostack, preserves_flags),
                );
            }
        }

        #[inline(always)]
        unsafe fn dot_bf16<const C: u8, const A: u8, const B: u8>(&mut self) {
            // SAFETY: the trait's contract: the sizes agree.
            unsafe {
                asm!(
                    "tdpbf16ps tmm{c}, tmm{a}, tmm{b}",
                    c = const C,
                    a = const A,
                    b = const B,
                    options(nostack, preserves_flags, nomem),
                );
            }
        }

        #[inline(always)]
        unsafe fn dot_i8<const C: u8, const A: u8, const B: u8>(&mut self) {
            // SAFETY: the trait's contract: the sizes agree.
            unsafe {
                asm!(
                    "tdpbssd tmm{c}, tmm{a}, tmm{b}",
                    c = const C,
                    a = const A,
                    b = const B,
                    options(nostack, preserves_flags, nomem),
                );
            }
        }
    }

    impl Drop for Hardware {
        #[inline(always)]
        fn drop(&mut self) {
            if self.shape.is_some() {
                // SAFETY: a shape was set, so the unit is there; nobody reads the tiles again.
                unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
            }
        }
    }
}

#[cfg(test)]
pub(crate) use emulated::Emulated;

#[cfg(test)]
mod emulated;
#[cfg(test)]
mod tests;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
pub(crate) mod trap;
