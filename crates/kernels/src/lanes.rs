//! Sixteen numbers at a time: the few instructions that the kernels are written in.
//!
//! Each kernel is written once over `Lanes` and compiled for each class inside a function that
//! enables the class's instructions. The portable implementation is the definition.

/// Sixteen f32 or i32 lanes and 64 bytes, as one class computes them.
///
/// # Safety
///
/// All methods ask that the CPU has the instructions of the class (checked by `Class`), and that
/// pointers are readable or writable for the stated length. Alignment is never needed.
pub(crate) trait Lanes: Copy {
    /// Products and sums round once.
    const FMA: bool;
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen i32.
    type I: Copy;
    /// 64 bytes: four for each of the sixteen lanes.
    type B: Copy;

    unsafe fn splat(x: f32) -> Self::F;
    /// Sixteen f32 at `p`.
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn store(p: *mut f32, x: Self::F);
    /// a * b + c, with one rounding where the class has FMA.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// Sixteen f16 at `p` (32 bytes), widened.
    unsafe fn load_f16(p: *const u8) -> Self::F;
    /// Sixteen unsigned bytes at `p`, as floats.
    unsafe fn load_u8(p: *const u8) -> Self::F;
    /// Sixteen signed bytes at `p`, as floats.
    unsafe fn load_i8(p: *const u8) -> Self::F;
    unsafe fn to_array(x: Self::F) -> [f32; 16];

    /// Asks for the cache line at `p`, which need not be readable.
    unsafe fn prefetch(p: *const u8);

    unsafe fn splat_i(x: i32) -> Self::I;
    /// Sixteen i32 at `p`.
    unsafe fn load_i(p: *const i32) -> Self::I;
    unsafe fn to_f(x: Self::I) -> Self::F;
    unsafe fn add_i(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn shift_left<const N: i32>(a: Self::I) -> Self::I;

    /// 64 bytes at `p`.
    unsafe fn load_bytes(p: *const u8) -> Self::B;
    unsafe fn store_bytes(p: *mut u8, x: Self::B);
    /// The lower four bits of each byte.
    unsafe fn low_nibbles(x: Self::B) -> Self::B;
    /// The upper four bits of each byte, moved down.
    unsafe fn high_nibbles(x: Self::B) -> Self::B;
    /// Bits `2 * i` and `2 * i + 1` of each byte, moved down to `SHIFT`; i below 4.
    unsafe fn crumbs<const I: i32, const SHIFT: i32>(x: Self::B) -> Self::B;
    unsafe fn or(a: Self::B, b: Self::B) -> Self::B;
    /// Flips the sign bit of each byte: i8 to u8 with 128 added.
    unsafe fn flip_signs(x: Self::B) -> Self::B;
    /// Byte i gains `value` where bit i of `mask` is set; the bits of `value` are clear before.
    unsafe fn or_where(x: Self::B, mask: u64, value: u8) -> Self::B;
    /// Byte i becomes table[x[i]]; x[i] below 16.
    unsafe fn lookup(table: &[u8; 16], x: Self::B) -> Self::B;
    /// Lane i gains the sum over j < 4 of w[4 i + j] (u8) times byte j of `x` (i8). Exact.
    ///
    /// `x` has no byte -128.
    unsafe fn dot4(acc: Self::I, w: Self::B, x: i32) -> Self::I;
    /// Lane i gains w[2 i] * x[0] + w[2 i + 1] * x[1]: pairs of bf16, the first in the low half.
    unsafe fn dot2_bf16(acc: Self::F, w: Self::B, x: i32) -> Self::F;
}

/// Plain Rust; the definition of each method.
#[derive(Clone, Copy)]
pub(crate) struct Plain;

/// The number whose bf16 bits stand in the upper half of `bits`.
fn upper(bits: u32) -> f32 {
    f32::from_bits(bits & 0xffff_0000)
}

impl Lanes for Plain {
    const FMA: bool = false;
    type F = [f32; 16];
    type I = [i32; 16];
    type B = [u8; 64];

    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 16] {
        [x; 16]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> [f32; 16] {
        // SAFETY: the caller vouches for sixteen f32 at `p`.
        unsafe { p.cast::<[f32; 16]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: [f32; 16]) {
        // SAFETY: the caller vouches for sixteen f32 at `p`.
        unsafe { p.cast::<[f32; 16]>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> [f32; 16] {
        // SAFETY: the caller vouches for 32 bytes at `p`.
        let halves = unsafe { p.cast::<[u16; 16]>().read_unaligned() };
        halves.map(|h| half::f16::from_bits(h).to_f32_const())
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> [f32; 16] {
        // SAFETY: the caller vouches for 16 bytes at `p`.
        unsafe { p.cast::<[u8; 16]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> [f32; 16] {
        // SAFETY: the caller vouches for 16 bytes at `p`.
        unsafe { p.cast::<[i8; 16]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn to_array(x: [f32; 16]) -> [f32; 16] {
        x
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}

    #[inline(always)]
    unsafe fn splat_i(x: i32) -> [i32; 16] {
        [x; 16]
    }
    #[inline(always)]
    unsafe fn load_i(p: *const i32) -> [i32; 16] {
        // SAFETY: the caller vouches for sixteen i32 at `p`.
        unsafe { p.cast::<[i32; 16]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn to_f(x: [i32; 16]) -> [f32; 16] {
        x.map(|x| x as f32)
    }
    #[inline(always)]
    unsafe fn shift_left<const N: i32>(a: [i32; 16]) -> [i32; 16] {
        std::array::from_fn(|i| a[i] << N)
    }
    #[inline(always)]
    unsafe fn add_i(a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }

    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> [u8; 64] {
        // SAFETY: the caller vouches for 64 bytes at `p`.
        unsafe { p.cast::<[u8; 64]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, x: [u8; 64]) {
        // SAFETY: the caller vouches for 64 bytes at `p`.
        unsafe { p.cast::<[u8; 64]>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn low_nibbles(x: [u8; 64]) -> [u8; 64] {
        x.map(|x| x & 15)
    }
    #[inline(always)]
    unsafe fn high_nibbles(x: [u8; 64]) -> [u8; 64] {
        x.map(|x| x >> 4)
    }
    #[inline(always)]
    unsafe fn crumbs<const I: i32, const SHIFT: i32>(x: [u8; 64]) -> [u8; 64] {
        x.map(|x| ((x >> (2 * I)) & 3) << SHIFT)
    }
    #[inline(always)]
    unsafe fn or(a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    unsafe fn flip_signs(x: [u8; 64]) -> [u8; 64] {
        x.map(|x| x ^ 0x80)
    }
    #[inline(always)]
    unsafe fn or_where(x: [u8; 64], mask: u64, value: u8) -> [u8; 64] {
        std::array::from_fn(|i| x[i] | if mask >> i & 1 == 1 { value } else { 0 })
    }
    #[inline(always)]
    unsafe fn lookup(table: &[u8; 16], x: [u8; 64]) -> [u8; 64] {
        x.map(|x| table[usize::from(x & 15)])
    }
    #[inline(always)]
    unsafe fn dot4(acc: [i32; 16], w: [u8; 64], x: i32) -> [i32; 16] {
        let x = x.to_le_bytes().map(|b| i32::from(b as i8));
        std::array::from_fn(|i| {
            acc[i] + (0..4).map(|j| i32::from(w[4 * i + j]) * x[j]).sum::<i32>()
        })
    }
    #[inline(always)]
    unsafe fn dot2_bf16(acc: [f32; 16], w: [u8; 64], x: i32) -> [f32; 16] {
        let (x0, x1) = (upper((x as u32) << 16), upper(x as u32));
        std::array::from_fn(|i| {
            let w = u32::from_le_bytes([w[4 * i], w[4 * i + 1], w[4 * i + 2], w[4 * i + 3]]);
            upper(w) * x1 + (upper(w << 16) * x0 + acc[i])
        })
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Lanes;
    use std::arch::x86_64::*;

    /// AVX-512 F, BW, VL, DQ, VNNI and BF16.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512;

    // SAFETY of every block below: the trait's contract, that the CPU has the instructions and
    // that pointers are good for the stated length; the loads and stores used need no alignment.
    impl Lanes for Avx512 {
        const FMA: bool = true;
        type F = __m512;
        type I = __m512i;
        type B = __m512i;

        #[inline(always)]
        unsafe fn splat(x: f32) -> __m512 {
            // SAFETY: the trait's contract.
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> __m512 {
            // SAFETY: the trait's contract.
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, x: __m512) {
            // SAFETY: the trait's contract.
            unsafe { _mm512_storeu_ps(p, x) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: the trait's contract.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            // SAFETY: the trait's contract.
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn load_f16(p: *const u8) -> __m512 {
            // SAFETY: the trait's contract.
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
        }
        #[inline(always)]
        unsafe fn load_u8(p: *const u8) -> __m512 {
            // SAFETY: the trait's contract.
            unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))) }
        }
        #[inline(always)]
        unsafe fn load_i8(p: *const u8) -> __m512 {
            // SAFETY: the trait's contract.
            unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
        }
        #[inline(always)]
        unsafe fn to_array(x: __m512) -> [f32; 16] {
            let mut out = [0.0; 16];
            // SAFETY: the trait's contract; `out` holds sixteen f32.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), x) };
            out
        }

        #[inline(always)]
        unsafe fn prefetch(p: *const u8) {
            // SAFETY: a prefetch never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
        }

        #[inline(always)]
        unsafe fn splat_i(x: i32) -> __m512i {
            // SAFETY: the trait's contract.
            unsafe { _mm512_set1_epi32(x) }
        }
        #[inline(always)]
        unsafe fn load_i(p: *const i32) -> __m512i {
            // SAFETY: the trait's contract.
            unsafe { _mm512_loadu_si512(p.cast()) }
        }
        #[inline(always)]
        unsafe fn to_f(x: __m512i) -> __m512 {
            // SAFETY: the trait's contract.
            unsafe { _mm512_cvtepi32_ps(x) }
        }
        #[inline(always)]
        unsafe fn shift_left<const N: i32>(a: __m512i) -> __m512i {
            // SAFETY: the trait's contract.
            unsafe { _mm512_sll_epi32(a, _mm_cvtsi32_si128(N)) }
        }
        #[inline(always)]
        unsafe fn add_i(a: __m512i, b: __m512i) -> __m512i {
            // SAFETY: the trait's contract.
            unsafe { _mm512_add_epi32(a, b) }
        }

        #[inline(always)]
        unsafe fn load_bytes(p: *const u8) -> __m512i {
            // SAFETY: the trait's contract.
            unsafe { _mm512_loadu_si512(p.cast()) }
        }
        #[inline(always)]
        unsafe fn store_bytes(p: *mut u8, x: __m512i) {
            // SAFETY: the trait's contract.
            unsafe { _mm512_storeu_si512(p.cast(), x) }
        }
        #[inline(always)]
        unsafe fn low_nibbles(x: __m512i) -> __m512i {
            // SAFETY: the trait's contract.
            unsafe { _mm512_and_si512(x, _mm512_set1_epi8(15)) }
        }
        #[inline(always)]
        unsafe fn high_nibbles(x: __m512i) -> __m512i {
            // SAFETY: the trait's contract.
            unsafe { _mm512_and_si512(_mm512_srli_epi16::<4>(x), _mm512_set1_epi8(15)) }
        }
        #[inline(always)]
        unsafe fn crumbs<const I: i32, const SHIFT: i32>(x: __m512i) -> __m512i {
            // SAFETY: the trait's contract.
            unsafe {
                let down = match (2 * I - SHIFT, I) {
                    (-4, _) => _mm512_slli_epi16::<4>(x),
                    (-2, _) => _mm512_slli_epi16::<2>(x),
                    (0, _) => x,
                    (2, _) => _mm512_srli_epi16::<2>(x),
                    (4, _) => _mm512_srli_epi16::<4>(x),
                    _ => _mm512_srli_epi16::<6>(x),
                };
                _mm512_and_si512(down, _mm512_set1_epi8(3 << SHIFT))
            }
        }
        #[inline(always)]
        unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
            // SAFETY: the trait's contract.
            unsafe { _mm512_or_si512(a, b) }
        }
        #[inline(always)]
        unsafe fn flip_signs(x: __m512i) -> __m512i {
            // SAFETY: the trait's contract.
            unsafe { _mm512_xor_si512(x, _mm512_set1_epi8(-128)) }
        }
        #[inline(always)]
        unsafe fn or_where(x: __m512i, mask: u64, value: u8) -> __m512i {
            // SAFETY: the trait's contract.
            unsafe { _mm512_mask_add_epi8(x, mask, x, _mm512_set1_epi8(value as i8)) }
        }
        #[inline(always)]
        unsafe fn lookup(table: &[u8; 16], x: __m512i) -> __m512i {
            // SAFETY: the trait's contract; `table` holds 16 bytes.
            unsafe {
                let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
                _mm512_shuffle_epi8(table, x)
            }
        }
        #[inline(always)]
        unsafe fn dot4(acc: __m512i, w: __m512i, x: i32) -> __m512i {
            // SAFETY: the trait's contract.
            unsafe { _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(x)) }
        }
        #[inline(always)]
        unsafe fn dot2_bf16(acc: __m512, w: __m512i, x: i32) -> __m512 {
            // SAFETY: the trait's contract; both types are 512 plain bits.
            unsafe {
                let pairs = |x: __m512i| std::mem::transmute::<__m512i, __m512bh>(x);
                _mm512_dpbf16_ps(acc, pairs(w), pairs(_mm512_set1_epi32(x)))
            }
        }
    }

    /// AVX2, FMA and F16C: each sixteen lanes are two registers.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2;

    /// One register's share of a trait method, for both halves.
    macro_rules! both {
        ($f:expr, $($x:expr),+) => {{
            let f = $f;
            [f($($x[0]),+), f($($x[1]),+)]
        }};
    }

    impl Lanes for Avx2 {
        const FMA: bool = true;
        type F = [__m256; 2];
        type I = [__m256i; 2];
        type B = [__m256i; 2];

        #[inline(always)]
        unsafe fn splat(x: f32) -> [__m256; 2] {
            // SAFETY: the trait's contract.
            unsafe { [_mm256_set1_ps(x); 2] }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> [__m256; 2] {
            // SAFETY: the trait's contract.
            unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, x: [__m256; 2]) {
            // SAFETY: the trait's contract.
            unsafe {
                _mm256_storeu_ps(p, x[0]);
                _mm256_storeu_ps(p.add(8), x[1]);
            }
        }
        #[inline(always)]
        unsafe fn fma(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: the trait's contract.
            unsafe { both!(|a, b, c| _mm256_fmadd_ps(a, b, c), a, b, c) }
        }
        #[inline(always)]
        unsafe fn mul(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: the trait's contract.
            unsafe { both!(|a, b| _mm256_mul_ps(a, b), a, b) }
        }
        #[inline(always)]
        unsafe fn load_f16(p: *const u8) -> [__m256; 2] {
            // SAFETY: the trait's contract.
            unsafe {
                let at = |i: usize| _mm256_cvtph_ps(_mm_loadu_si128(p.add(i).cast()));
                [at(0), at(16)]
            }
        }
        #[inline(always)]
        unsafe fn load_u8(p: *const u8) -> [__m256; 2] {
            // SAFETY: the trait's contract.
            unsafe {
                let at = |i: usize| {
                    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p.add(i).cast())))
                };
                [at(0), at(8)]
            }
        }
        #[inline(always)]
        unsafe fn load_i8(p: *const u8) -> [__m256; 2] {
            // SAFETY: the trait's contract.
            unsafe {
                let at = |i: usize| {
                    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.add(i).cast())))
                };
                [at(0), at(8)]
            }
        }
        #[inline(always)]
        unsafe fn to_array(x: [__m256; 2]) -> [f32; 16] {
            let mut out = [0.0; 16];
            // SAFETY: the trait's contract; `out` holds sixteen f32.
            unsafe { Self::store(out.as_mut_ptr(), x) };
            out
        }

        #[inline(always)]
        unsafe fn prefetch(p: *const u8) {
            // SAFETY: a prefetch never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
        }

        #[inline(always)]
        unsafe fn splat_i(x: i32) -> [__m256i; 2] {
            // SAFETY: the trait's contract.
            unsafe { [_mm256_set1_epi32(x); 2] }
        }
        #[inline(always)]
        unsafe fn load_i(p: *const i32) -> [__m256i; 2] {
            // SAFETY: the trait's contract.
            unsafe { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(8).cast())] }
        }
        #[inline(always)]
        unsafe fn to_f(x: [__m256i; 2]) -> [__m256; 2] {
            // SAFETY: the trait's contract.
            unsafe { both!(|x| _mm256_cvtepi32_ps(x), x) }
        }
        #[inline(always)]
        unsafe fn shift_left<const N: i32>(a: [__m256i; 2]) -> [__m256i; 2] {
            // SAFETY: the trait's contract.
            unsafe { both!(|a| _mm256_slli_epi32::<N>(a), a) }
        }
        #[inline(always)]
        unsafe fn add_i(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
            // SAFETY: the trait's contract.
            unsafe { both!(|a, b| _mm256_add_epi32(a, b), a, b) }
        }

        #[inline(always)]
        unsafe fn load_bytes(p: *const u8) -> [__m256i; 2] {
            // SAFETY: the trait's contract.
            unsafe { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())] }
        }
        #[inline(always)]
        unsafe fn store_bytes(p: *mut u8, x: [__m256i; 2]) {
            // SAFETY: the trait's contract.
            unsafe {
                _mm256_storeu_si256(p.cast(), x[0]);
                _mm256_storeu_si256(p.add(32).cast(), x[1]);
            }
        }
        #[inline(always)]
        unsafe fn low_nibbles(x: [__m256i; 2]) -> [__m256i; 2] {
            // SAFETY: the trait's contract.
            unsafe { both!(|x| _mm256_and_si256(x, _mm256_set1_epi8(15)), x) }
        }
        #[inline(always)]
        unsafe fn high_nibbles(x: [__m256i; 2]) -> [__m256i; 2] {
            // SAFETY: the trait's contract.
            unsafe {
                both!(|x| _mm256_and_si256(_mm256_srli_epi16::<4>(x), _mm256_set1_epi8(15)), x)
            }
        }
        #[inline(always)]
        unsafe fn crumbs<const I: i32, const SHIFT: i32>(x: [__m256i; 2]) -> [__m256i; 2] {
            // SAFETY: the trait's contract.
            unsafe {
                both!(
                    |x| {
                        let down = match 2 * I - SHIFT {
                            -4 => _mm256_slli_epi16::<4>(x),
                            -2 => _mm256_slli_epi16::<2>(x),
                            0 => x,
                            2 => _mm256_srli_epi16::<2>(x),
                            4 => _mm256_srli_epi16::<4>(x),
                            _ => _mm256_srli_epi16::<6>(x),
                        };
                        _mm256_and_si256(down, _mm256_set1_epi8(3 << SHIFT))
                    },
                    x
                )
            }
        }
        #[inline(always)]
        unsafe fn or(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
            // SAFETY: the trait's contract.
            unsafe { both!(|a, b| _mm256_or_si256(a, b), a, b) }
        }
        #[inline(always)]
        unsafe fn flip_signs(x: [__m256i; 2]) -> [__m256i; 2] {
            // SAFETY: the trait's contract.
            unsafe { both!(|x| _mm256_xor_si256(x, _mm256_set1_epi8(-128)), x) }
        }
        #[inline(always)]
        unsafe fn or_where(x: [__m256i; 2], mask: u64, value: u8) -> [__m256i; 2] {
            // SAFETY: the trait's contract.
            unsafe {
                // Byte i looks at bit i % 8 of byte i / 8 of its half of the mask.
                let order = _mm256_setr_epi64x(
                    0,
                    0x0101_0101_0101_0101,
                    0x0202_0202_0202_0202,
                    0x0303_0303_0303_0303,
                );
                let bits = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
                let part = |x, mask: u32| {
                    let spread = _mm256_shuffle_epi8(_mm256_set1_epi32(mask as i32), order);
                    let set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bits), bits);
                    _mm256_or_si256(x, _mm256_and_si256(set, _mm256_set1_epi8(value as i8)))
                };
                [part(x[0], mask as u32), part(x[1], (mask >> 32) as u32)]
            }
        }
        #[inline(always)]
        unsafe fn lookup(table: &[u8; 16], x: [__m256i; 2]) -> [__m256i; 2] {
            // SAFETY: the trait's contract; `table` holds 16 bytes.
            unsafe {
                let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
                both!(|x| _mm256_shuffle_epi8(table, x), x)
            }
        }
        #[inline(always)]
        unsafe fn dot4(acc: [__m256i; 2], w: [__m256i; 2], x: i32) -> [__m256i; 2] {
            // The pairwise product saturates at 16 bits, so one factor must stay below 129 in
            // size: 128 leaves each w, and what it took is given back as 128 times the sum of x.
            // SAFETY: the trait's contract.
            unsafe {
                let x = _mm256_set1_epi32(x);
                let ones = _mm256_set1_epi16(1);
                let half = _mm256_set1_epi8(-128);
                let back = _mm256_maddubs_epi16(_mm256_set1_epi8(64), x);
                let part = |acc, w| {
                    let w = _mm256_xor_si256(w, half);
                    let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
                    let acc = _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, ones));
                    _mm256_add_epi32(acc, _mm256_madd_epi16(back, _mm256_set1_epi16(2)))
                };
                both!(part, acc, w)
            }
        }
        #[inline(always)]
        unsafe fn dot2_bf16(acc: [__m256; 2], w: [__m256i; 2], x: i32) -> [__m256; 2] {
            // SAFETY: the trait's contract.
            unsafe {
                let x0 = _mm256_set1_ps(f32::from_bits((x as u32) << 16));
                let x1 = _mm256_set1_ps(f32::from_bits(x as u32 & 0xffff_0000));
                let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
                let part = |acc, w| {
                    let w0 = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(w));
                    let w1 = _mm256_castsi256_ps(_mm256_and_si256(w, upper));
                    _mm256_fmadd_ps(w1, x1, _mm256_fmadd_ps(w0, x0, acc))
                };
                both!(part, acc, w)
            }
        }
    }
}
