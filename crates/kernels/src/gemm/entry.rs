//! Each kernel compiled for each class: a function that enables the class's instructions.

use super::activations::{self, Kind};
use super::kernels::{self, Out};
use crate::lanes::{Lanes, Plain};

#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};

/// The kernels of one class, as functions of their own.
///
/// # Safety
///
/// As the functions of the same names in `kernels` and `activations`.
pub(super) trait Entry: Lanes {
    unsafe fn dense<const W: u8, const G: usize, const T: usize>(
        out: Out,
        w: [*const u8; G],
        x: *const u32,
        steps: usize,
    );
    unsafe fn one_row<const F: u8>(out: Out, w: *const u8, x: *const u32, blocks: usize);
    unsafe fn fill_panel<const F: u8>(
        panel: *mut u8,
        stride: usize,
        w: *const u8,
        from: usize,
        blocks: usize,
    );
    unsafe fn panel<const SUB16: bool, const MIN: bool, const T: usize>(
        out: Out,
        panel: *const u8,
        x: *const u32,
        blocks: usize,
    );
    unsafe fn lay(tile: &mut [u32], x: &[f32], rows: usize, cols: usize, kind: Kind);
}

macro_rules! entries {
    ($lanes:ty, $(#[$enable:meta])?) => {
        impl Entry for $lanes {
            unsafe fn dense<const W: u8, const G: usize, const T: usize>(
                out: Out,
                w: [*const u8; G],
                x: *const u32,
                steps: usize,
            ) {
                $(#[$enable])?
                unsafe fn go<const W: u8, const G: usize, const T: usize>(
                    out: Out,
                    w: [*const u8; G],
                    x: *const u32,
                    steps: usize,
                ) {
                    // SAFETY: the caller's contract.
                    unsafe { kernels::dense::<$lanes, W, G, T>(out, w, x, steps) }
                }
                // SAFETY: the caller's contract.
                unsafe { go::<W, G, T>(out, w, x, steps) }
            }

            unsafe fn one_row<const F: u8>(
                out: Out,
                w: *const u8,
                x: *const u32,
                blocks: usize,
            ) {
                $(#[$enable])?
                unsafe fn go<const F: u8>(out: Out, w: *const u8, x: *const u32, blocks: usize) {
                    // SAFETY: the caller's contract.
                    unsafe { kernels::one_row::<$lanes, F>(out, w, x, blocks) }
                }
                // SAFETY: the caller's contract.
                unsafe { go::<F>(out, w, x, blocks) }
            }

            unsafe fn fill_panel<const F: u8>(
                panel: *mut u8,
                stride: usize,
                w: *const u8,
                from: usize,
                blocks: usize,
            ) {
                $(#[$enable])?
                unsafe fn go<const F: u8>(
                    panel: *mut u8,
                    stride: usize,
                    w: *const u8,
                    from: usize,
                    blocks: usize,
                ) {
                    // SAFETY: the caller's contract.
                    unsafe { kernels::fill_panel::<$lanes, F>(panel, stride, w, from, blocks) }
                }
                // SAFETY: the caller's contract.
                unsafe { go::<F>(panel, stride, w, from, blocks) }
            }

            unsafe fn panel<const SUB16: bool, const MIN: bool, const T: usize>(
                out: Out,
                panel: *const u8,
                x: *const u32,
                blocks: usize,
            ) {
                $(#[$enable])?
                unsafe fn go<const SUB16: bool, const MIN: bool, const T: usize>(
                    out: Out,
                    panel: *const u8,
                    x: *const u32,
                    blocks: usize,
                ) {
                    // SAFETY: the caller's contract.
                    unsafe { kernels::panel::<$lanes, SUB16, MIN, 2, T>(out, panel, x, blocks) }
                }
                // SAFETY: the caller's contract.
                unsafe { go::<SUB16, MIN, T>(out, panel, x, blocks) }
            }

            unsafe fn lay(tile: &mut [u32], x: &[f32], rows: usize, cols: usize, kind: Kind) {
                $(#[$enable])?
                unsafe fn go(tile: &mut [u32], x: &[f32], rows: usize, cols: usize, kind: Kind) {
                    activations::lay(tile, x, rows, cols, kind);
                }
                // SAFETY: the caller's contract.
                unsafe { go(tile, x, rows, cols, kind) }
            }
        }
    };
}

entries!(Plain,);
#[cfg(target_arch = "x86_64")]
entries!(Avx2, #[target_feature(enable = "avx2,fma,f16c")]);
#[cfg(target_arch = "x86_64")]
entries!(
    Avx512,
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,fma,f16c")]
);

/// Calls a function over the lanes of a class: `by_class!(class, f(args))`.
macro_rules! by_class {
    ($class:expr, lay($($arg:expr),*)) => {
        by_class!(@ $class, Entry::lay, $($arg),*)
    };
    ($class:expr, $f:ident($($arg:expr),*)) => {
        match $class {
            Class::Portable => $f::<Plain>($($arg),*),
            #[cfg(target_arch = "x86_64")]
            Class::Avx2 => $f::<Avx2>($($arg),*),
            #[cfg(target_arch = "x86_64")]
            Class::Avx512 | Class::Amx => $f::<Avx512>($($arg),*),
            #[cfg(not(target_arch = "x86_64"))]
            Class::Avx2 | Class::Avx512 | Class::Amx => unreachable!("checked by Cpu::new"),
        }
    };
    (@ $class:expr, Entry::lay, $($arg:expr),*) => {
        match $class {
            Class::Portable => Plain::lay($($arg),*),
            #[cfg(target_arch = "x86_64")]
            Class::Avx2 => Avx2::lay($($arg),*),
            #[cfg(target_arch = "x86_64")]
            Class::Avx512 | Class::Amx => Avx512::lay($($arg),*),
            #[cfg(not(target_arch = "x86_64"))]
            Class::Avx2 | Class::Avx512 | Class::Amx => unreachable!("checked by Cpu::new"),
        }
    };
}
