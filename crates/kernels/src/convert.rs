//! Slices of f16 and bf16 to f32 and back, to the nearest, ties to even; NaN stays NaN.
//!
//! The bits are the same in every class: f16 uses the processor's conversion where there is one.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::class::Class;
use crate::dispatch::for_class;

/// out = x, exactly.
///
/// Panics if lengths differ, as all functions here.
pub fn bf16_to_f32(class: Class, out: &mut [f32], x: &[bf16]) {
    assert_eq!(out.len(), x.len(), "bf16_to_f32: lengths differ");
    let x: &[u16] = x.reinterpret_cast();
    for_class!(class, bf16_to_f32_body(out: &mut [f32], x: &[u16]));
}

#[inline(always)]
fn bf16_to_f32_body<const FMA: bool>(out: &mut [f32], x: &[u16]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = f32::from_bits(u32::from(*x) << 16);
    }
}

/// out = x, rounded to 8 significant bits.
pub fn f32_to_bf16(class: Class, out: &mut [bf16], x: &[f32]) {
    assert_eq!(out.len(), x.len(), "f32_to_bf16: lengths differ");
    let out: &mut [u16] = out.reinterpret_cast_mut();
    for_class!(class, f32_to_bf16_body(out: &mut [u16], x: &[f32]));
}

#[inline(always)]
fn f32_to_bf16_body<const FMA: bool>(out: &mut [u16], x: &[f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        let bits = x.to_bits();
        // Just under half of the last kept bit, and one more if that bit is odd.
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        *out = if x.is_nan() { bits >> 16 | 0x40 } else { rounded } as u16;
    }
}

/// out = x, exactly.
pub fn f16_to_f32(class: Class, out: &mut [f32], x: &[f16]) {
    assert_eq!(out.len(), x.len(), "f16_to_f32: lengths differ");
    let x: &[u16] = x.reinterpret_cast();
    for_class!(class, f16_to_f32_body(out: &mut [f32], x: &[u16]));
}

#[inline(always)]
fn f16_to_f32_body<const FMA: bool>(out: &mut [f32], x: &[u16]) {
    let done = if FMA { x86::f16_to_f32(out, x) } else { 0 };
    for (out, x) in out[done..].iter_mut().zip(&x[done..]) {
        *out = widen(*x);
    }
}

/// out = x, rounded to 11 significant bits; from 65,520 on, infinity.
pub fn f32_to_f16(class: Class, out: &mut [f16], x: &[f32]) {
    assert_eq!(out.len(), x.len(), "f32_to_f16: lengths differ");
    let out: &mut [u16] = out.reinterpret_cast_mut();
    for_class!(class, f32_to_f16_body(out: &mut [u16], x: &[f32]));
}

#[inline(always)]
fn f32_to_f16_body<const FMA: bool>(out: &mut [u16], x: &[f32]) {
    let done = if FMA { x86::f32_to_f16(out, x) } else { 0 };
    for (out, x) in out[done..].iter_mut().zip(&x[done..]) {
        *out = narrow(*x);
    }
}

/// The bits of an f16 as an f32.
#[inline(always)]
fn widen(x: u16) -> f32 {
    const TWO_112: f32 = f32::from_bits((127 + 112) << 23); // the difference of the two biases
    let sign = u32::from(x & 0x8000) << 16;
    let shifted = u32::from(x & 0x7fff) << 13;
    let quiet = if shifted > 0x7c00 << 13 { 0x0040_0000 } else { 0 };
    let finite = (f32::from_bits(shifted) * TWO_112).to_bits();
    let special = shifted | 0x7f80_0000 | quiet;
    f32::from_bits(sign | if shifted >= 0x7c00 << 13 { special } else { finite })
}

/// The bits of the f16 nearest to an f32.
#[inline(always)]
fn narrow(x: f32) -> u16 {
    const LEAST_NORMAL: u32 = (127 - 14) << 23;
    const INFINITE_FROM: u32 = (127 + 16) << 23;
    let sign = x.to_bits() >> 16 & 0x8000;
    let bits = x.to_bits() & 0x7fff_ffff;
    let biased = bits.wrapping_sub(112 << 23);
    let normal = biased.wrapping_add(0xfff + (bits >> 13 & 1)) >> 13;
    // One ulp of 0.5 is the least f16: the addition rounds to whole steps of it.
    let subnormal = (f32::from_bits(bits) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let finite = if bits < LEAST_NORMAL { subnormal } else { normal };
    let limited = if bits >= INFINITE_FROM { 0x7c00 } else { finite };
    let nan = 0x7e00 | (bits >> 13 & 0x3ff);
    (sign | if bits > 0x7f80_0000 { nan } else { limited }) as u16
}

/// Whole blocks by F16C, which the compiler does not find by itself; returns how many are done.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    #[inline]
    #[target_feature(enable = "avx,f16c")]
    fn widen_blocks(out: &mut [[f32; 8]], x: &[[u16; 8]]) {
        for (out, x) in out.iter_mut().zip(x) {
            // SAFETY: `x` is 16 readable bytes and `out` 32 writable ones; neither need align.
            unsafe {
                let x = _mm_loadu_si128(x.as_ptr().cast());
                _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(x));
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx,f16c")]
    fn narrow_blocks(out: &mut [[u16; 8]], x: &[[f32; 8]]) {
        for (out, x) in out.iter_mut().zip(x) {
            // SAFETY: `x` is 32 readable bytes and `out` 16 writable ones; neither need align.
            unsafe {
                let x = _mm256_loadu_ps(x.as_ptr());
                let x = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x);
                _mm_storeu_si128(out.as_mut_ptr().cast(), x);
            }
        }
    }

    pub(super) fn f16_to_f32(out: &mut [f32], x: &[u16]) -> usize {
        let (blocks, _) = x.as_chunks();
        // SAFETY: the bodies call this for Avx2 and above only, which have AVX and F16C.
        unsafe { widen_blocks(out.as_chunks_mut().0, blocks) };
        8 * blocks.len()
    }

    pub(super) fn f32_to_f16(out: &mut [u16], x: &[f32]) -> usize {
        let (blocks, _) = x.as_chunks();
        // SAFETY: as above.
        unsafe { narrow_blocks(out.as_chunks_mut().0, blocks) };
        8 * blocks.len()
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod x86 {
    pub(super) fn f16_to_f32(_: &mut [f32], _: &[u16]) -> usize {
        0
    }

    pub(super) fn f32_to_f16(_: &mut [u16], _: &[f32]) -> usize {
        0
    }
}

#[cfg(test)]
mod tests {
    use half::slice::HalfBitsSliceExt;

    use super::*;
    use crate::sample::Sample;

    /// Every f16's neighbourhood in f32, random bits, and the edges.
    fn floats() -> Vec<f32> {
        let mut sample = Sample::new(3);
        let mut x: Vec<f32> = (0..200_000).map(|_| f32::from_bits(sample.bits() as u32)).collect();
        for half in 0..=u16::MAX {
            for exact in [f16::from_bits(half).to_f32(), bf16::from_bits(half).to_f32()] {
                // Steps to the ties of f16 (2^12) and bf16 (2^15), and beside them.
                for step in [0, 1, 0xfff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001] {
                    x.push(f32::from_bits(exact.to_bits().wrapping_add(step)));
                }
            }
        }
        x
    }

    #[test]
    fn every_half_widens_to_the_bits_of_the_half_crate() {
        let x: Vec<u16> = (0..=u16::MAX).collect();
        for class in Class::available() {
            let mut out = vec![0.0; x.len()];
            f16_to_f32(class, &mut out, x.reinterpret_cast());
            for (x, out) in x.iter().zip(&out) {
                let want = f16::from_bits(*x).to_f32_const();
                assert_eq!(out.to_bits(), want.to_bits(), "{class} f16 {x:#x}");
            }
            bf16_to_f32(class, &mut out, x.reinterpret_cast());
            for (x, out) in x.iter().zip(&out) {
                assert_eq!(out.to_bits(), u32::from(*x) << 16, "{class} bf16 {x:#x}");
            }
        }
    }

    #[test]
    fn floats_narrow_to_the_bits_of_the_half_crate() {
        let x = floats();
        for class in Class::available() {
            let mut out = vec![f16::ZERO; x.len()];
            f32_to_f16(class, &mut out, &x);
            for (x, out) in x.iter().zip(&out) {
                let want = f16::from_f32_const(*x);
                assert_eq!(out.to_bits(), want.to_bits(), "{class} f16 {:#x}", x.to_bits());
            }
            let mut out = vec![bf16::ZERO; x.len()];
            f32_to_bf16(class, &mut out, &x);
            for (x, out) in x.iter().zip(&out) {
                let want = bf16::from_f32(*x);
                assert_eq!(out.to_bits(), want.to_bits(), "{class} bf16 {:#x}", x.to_bits());
            }
        }
    }

    #[test]
    fn tails_of_every_length_are_converted() {
        for n in 0..40 {
            let x: Vec<f32> = (0..n).map(|i| i as f32 * 0.5 - 7.0).collect();
            for class in Class::available() {
                let (mut halves, mut brains) = (vec![f16::ZERO; n], vec![bf16::ZERO; n]);
                f32_to_f16(class, &mut halves, &x);
                f32_to_bf16(class, &mut brains, &x);
                let mut back = vec![0.0; n];
                f16_to_f32(class, &mut back, &halves);
                assert_eq!(back, x);
                bf16_to_f32(class, &mut back, &brains);
                assert_eq!(back, x);
            }
        }
    }
}
