//! The vector classes of x86-64: `avx2` and `avx512`.

use super::Lanes;
use std::arch::x86_64::*;

/// AVX-512 F, BW, VL, DQ, VNNI and BF16.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

// SAFETY of every block below: the trait's contract, that the CPU has the instructions and
// that pointers are good for the stated length; the loads and stores used need no alignment.
impl Lanes for Avx512 {
    type F = __m512;
    type I = __m512i;
    type B = __m512i;
    const NARROW: bool = false;

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
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the trait's contract.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the trait's contract.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        // The instruction gives its second operand unless the first is greater.
        // SAFETY: the trait's contract.
        unsafe { _mm512_max_ps(b, a) }
    }
    #[inline(always)]
    unsafe fn to_exponent(x: __m512) -> __m512 {
        // SAFETY: the trait's contract.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(x))) }
    }
    #[inline(always)]
    unsafe fn store_low(p: *mut i16, x: __m512) {
        // SAFETY: the trait's contract.
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(_mm512_castps_si512(x))) }
    }
    #[inline(always)]
    unsafe fn sum(x: __m512) -> f32 {
        // SAFETY: the trait's contract.
        unsafe { sum_halves([_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x)]) }
    }
    #[inline(always)]
    unsafe fn greatest(x: __m512) -> f32 {
        // SAFETY: the trait's contract.
        unsafe { greatest_half([_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x)]) }
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
    unsafe fn dot2_i16(acc: __m512i, w: __m512i, x: i32) -> __m512i {
        // SAFETY: the trait's contract.
        unsafe { _mm512_dpwssd_epi32(acc, w, _mm512_set1_epi32(x)) }
    }
    #[inline(always)]
    unsafe fn dot2_bf16(acc: __m512, w: __m512i, x: i32) -> __m512 {
        // SAFETY: the trait's contract; both types are 512 plain bits.
        unsafe {
            let pairs = |x: __m512i| std::mem::transmute::<__m512i, __m512bh>(x);
            _mm512_dpbf16_ps(acc, pairs(w), pairs(_mm512_set1_epi32(x)))
        }
    }
    #[inline(always)]
    unsafe fn join_bf16(a: __m512, b: __m512) -> __m512i {
        // SAFETY: the trait's contract; both types are 512 plain bits.
        unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(b, a)) }
    }
    #[inline(always)]
    unsafe fn pairs_bf16(a: __m512, b: __m512) -> __m512i {
        // SAFETY: the trait's contract.
        unsafe { _mm512_permutexvar_epi16(in_turn(0, 16), Self::join_bf16(a, b)) }
    }
    #[inline(always)]
    unsafe fn zip_halves(a: __m512i, b: __m512i) -> [__m512i; 2] {
        // SAFETY: the trait's contract.
        unsafe {
            [
                _mm512_permutex2var_epi16(a, in_turn(0, 32), b),
                _mm512_permutex2var_epi16(a, in_turn(16, 32), b),
            ]
        }
    }
    #[inline(always)]
    unsafe fn transpose(rows: &mut [__m512i; 16]) {
        let mut x = *rows;
        // SAFETY: the trait's contract.
        unsafe {
            for i in [0, 2, 4, 6, 8, 10, 12, 14] {
                x[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
                x[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
            }
            // Lane l of rows[4 j + c] will hold column 4 l + c of rows 4 j to 4 j + 3.
            for i in [0, 4, 8, 12] {
                rows[i] = _mm512_unpacklo_epi64(x[i], x[i + 2]);
                rows[i + 1] = _mm512_unpackhi_epi64(x[i], x[i + 2]);
                rows[i + 2] = _mm512_unpacklo_epi64(x[i + 1], x[i + 3]);
                rows[i + 3] = _mm512_unpackhi_epi64(x[i + 1], x[i + 3]);
            }
            for c in 0..4 {
                let [a, b, c_, d] = [rows[c], rows[4 + c], rows[8 + c], rows[12 + c]];
                x[c] = _mm512_shuffle_i32x4::<0x88>(a, b);
                x[4 + c] = _mm512_shuffle_i32x4::<0xdd>(a, b);
                x[8 + c] = _mm512_shuffle_i32x4::<0x88>(c_, d);
                x[12 + c] = _mm512_shuffle_i32x4::<0xdd>(c_, d);
            }
            for c in 0..4 {
                rows[c] = _mm512_shuffle_i32x4::<0x88>(x[c], x[8 + c]);
                rows[4 + c] = _mm512_shuffle_i32x4::<0x88>(x[4 + c], x[12 + c]);
                rows[8 + c] = _mm512_shuffle_i32x4::<0xdd>(x[c], x[8 + c]);
                rows[12 + c] = _mm512_shuffle_i32x4::<0xdd>(x[4 + c], x[12 + c]);
            }
        }
    }
}

/// The order a, b, a + 1, b + 1, ... of 32 halves.
///
/// # Safety
///
/// The machine has AVX-512.
#[inline(always)]
unsafe fn in_turn(a: u16, b: u16) -> __m512i {
    let mut order = [0u16; 32];
    for i in 0..16 {
        order[2 * i] = a + i as u16;
        order[2 * i + 1] = a + b + i as u16;
    }
    // SAFETY: the caller's contract; the array is 64 bytes.
    unsafe { _mm512_loadu_si512(order.as_ptr().cast()) }
}

/// Sum of sixteen lanes, halves first.
///
/// # Safety
///
/// The CPU has AVX.
#[inline(always)]
unsafe fn sum_halves(x: [__m256; 2]) -> f32 {
    // SAFETY: the caller's contract.
    unsafe {
        let x = _mm256_add_ps(x[0], x[1]);
        let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps::<1>(x, x)))
    }
}

/// The greatest of sixteen lanes.
///
/// # Safety
///
/// The CPU has AVX.
#[inline(always)]
unsafe fn greatest_half(x: [__m256; 2]) -> f32 {
    // SAFETY: the caller's contract.
    unsafe {
        let x = _mm256_max_ps(x[0], x[1]);
        let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps::<1>(x, x)))
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
    type F = [__m256; 2];
    type I = [__m256i; 2];
    type B = [__m256i; 2];
    const NARROW: bool = true;

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
    unsafe fn add(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the trait's contract.
        unsafe { both!(|a, b| _mm256_add_ps(a, b), a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the trait's contract.
        unsafe { both!(|a, b| _mm256_sub_ps(a, b), a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the trait's contract.
        unsafe { both!(|a, b| _mm256_max_ps(b, a), a, b) }
    }
    #[inline(always)]
    unsafe fn to_exponent(x: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the trait's contract.
        unsafe {
            both!(|x| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(x))), x)
        }
    }
    #[inline(always)]
    unsafe fn store_low(p: *mut i16, x: [__m256; 2]) {
        // SAFETY: the trait's contract.
        unsafe {
            let low = _mm256_set1_epi32(0xffff);
            let [a, b] = both!(|x| _mm256_and_si256(_mm256_castps_si256(x), low), x);
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(a, b));
            _mm256_storeu_si256(p.cast(), packed);
        }
    }
    #[inline(always)]
    unsafe fn sum(x: [__m256; 2]) -> f32 {
        // SAFETY: the trait's contract.
        unsafe { sum_halves(x) }
    }
    #[inline(always)]
    unsafe fn greatest(x: [__m256; 2]) -> f32 {
        // SAFETY: the trait's contract.
        unsafe { greatest_half(x) }
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
        unsafe { both!(|x| _mm256_and_si256(_mm256_srli_epi16::<4>(x), _mm256_set1_epi8(15)), x) }
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
    unsafe fn dot2_i16(acc: [__m256i; 2], w: [__m256i; 2], x: i32) -> [__m256i; 2] {
        // SAFETY: the trait's contract.
        unsafe {
            let x = _mm256_set1_epi32(x);
            both!(|acc, w| _mm256_add_epi32(acc, _mm256_madd_epi16(w, x)), acc, w)
        }
    }
    #[inline(always)]
    unsafe fn first_bf16(x: [__m256i; 2]) -> [__m256; 2] {
        // SAFETY: the trait's contract.
        unsafe { both!(|x| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x)), x) }
    }
    #[inline(always)]
    unsafe fn second_bf16(x: [__m256i; 2]) -> [__m256; 2] {
        // SAFETY: the trait's contract.
        unsafe {
            let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            both!(|x| _mm256_castsi256_ps(_mm256_and_si256(x, upper)), x)
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
