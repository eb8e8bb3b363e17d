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
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen i32.
    type I: Copy;
    /// 64 bytes: four for each of the sixteen lanes.
    type B: Copy;
    /// Whether there are sixteen registers of eight lanes or fewer, not 32 of sixteen.
    const NARROW: bool;

    unsafe fn splat(x: f32) -> Self::F;
    /// Sixteen f32 at `p`.
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn store(p: *mut f32, x: Self::F);
    /// a * b + c, with one rounding where the class has FMA.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    /// b where it is greater, else a: NaN in b is passed over.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// Each lane's bits, moved up by 23: a number's low bits become an exponent.
    unsafe fn to_exponent(x: Self::F) -> Self::F;
    /// The low 16 bits of each lane, side by side at `p`.
    unsafe fn store_low(p: *mut i16, x: Self::F);
    /// Sum of the lanes: j and j + 8, then j and j + 4, and so on.
    unsafe fn sum(x: Self::F) -> f32;
    /// The greatest lane, of lanes without NaN.
    unsafe fn greatest(x: Self::F) -> f32;
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
    /// Lane i gains w[2 i] * x[0] + w[2 i + 1] * x[1]: pairs of i16, the first in the low half.
    ///
    /// Sums wrap, so that an order in which they pass 2^31 on the way does no harm.
    unsafe fn dot2_i16(acc: Self::I, w: Self::B, x: i32) -> Self::I;
    /// Lane i gains w[2 i] * x[0] + w[2 i + 1] * x[1]: pairs of bf16, the first in the low half.
    unsafe fn dot2_bf16(acc: Self::F, w: Self::B, x: i32) -> Self::F;

    /// The first of each lane's pair of bf16, widened.
    #[inline(always)]
    unsafe fn first_bf16(x: Self::B) -> Self::F {
        // SAFETY: the trait's contract; the arrays are 64 bytes.
        unsafe {
            let mut words = [0u32; 16];
            Self::store_bytes(words.as_mut_ptr().cast(), x);
            Self::load(words.map(|word| f32::from_bits(word << 16)).as_ptr())
        }
    }
    /// The second of each.
    #[inline(always)]
    unsafe fn second_bf16(x: Self::B) -> Self::F {
        // SAFETY: the trait's contract; the arrays are 64 bytes.
        unsafe {
            let mut words = [0u32; 16];
            Self::store_bytes(words.as_mut_ptr().cast(), x);
            Self::load(words.map(|word| f32::from_bits(word & 0xffff_0000)).as_ptr())
        }
    }

    /// 32 numbers rounded to bf16, those of `a` first. Subnormal ones may become zero.
    #[inline(always)]
    unsafe fn join_bf16(a: Self::F, b: Self::F) -> Self::B {
        // SAFETY: the trait's contract; the array is 64 bytes.
        unsafe {
            let (a, b) = (Self::to_array(a), Self::to_array(b));
            let mut halves = [0u16; 32];
            for i in 0..16 {
                halves[i] = bf16_bits(a[i]) as u16;
                halves[16 + i] = bf16_bits(b[i]) as u16;
            }
            Self::load_bytes(halves.as_ptr().cast())
        }
    }
    /// Lane i holds a[i] and b[i] as `join_bf16` rounds them, the first in the low half.
    #[inline(always)]
    unsafe fn pairs_bf16(a: Self::F, b: Self::F) -> Self::B {
        // SAFETY: the trait's contract; the array is 64 bytes.
        unsafe {
            let (a, b) = (Self::to_array(a), Self::to_array(b));
            let mut words = [0u32; 16];
            for i in 0..16 {
                words[i] = bf16_bits(a[i]) | bf16_bits(b[i]) << 16;
            }
            Self::load_bytes(words.as_ptr().cast())
        }
    }
    /// The 32 halves of `a` and of `b` in turn: a0 b0 a1 b1 ...
    #[inline(always)]
    unsafe fn zip_halves(a: Self::B, b: Self::B) -> [Self::B; 2] {
        let (mut x, mut zipped) = ([[0u16; 32]; 2], [[0u16; 32]; 2]);
        // SAFETY: the trait's contract; the arrays are 64 bytes each.
        unsafe {
            Self::store_bytes(x[0].as_mut_ptr().cast(), a);
            Self::store_bytes(x[1].as_mut_ptr().cast(), b);
            for i in 0..32 {
                zipped[i / 16][i % 16 * 2] = x[0][i];
                zipped[i / 16][i % 16 * 2 + 1] = x[1][i];
            }
            [
                Self::load_bytes(zipped[0].as_ptr().cast()),
                Self::load_bytes(zipped[1].as_ptr().cast()),
            ]
        }
    }
    /// Lane j of row i becomes lane i of row j.
    #[inline(always)]
    unsafe fn transpose(rows: &mut [Self::B; 16]) {
        let (mut x, mut turned) = ([[0u32; 16]; 16], [[0u32; 16]; 16]);
        // SAFETY: the trait's contract; each row of the arrays is 64 bytes.
        unsafe {
            for i in 0..16 {
                Self::store_bytes(x[i].as_mut_ptr().cast(), rows[i]);
            }
            for i in 0..16 {
                for j in 0..16 {
                    turned[j][i] = x[i][j];
                }
            }
            for i in 0..16 {
                rows[i] = Self::load_bytes(turned[i].as_ptr().cast());
            }
        }
    }
}

/// The nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
pub(crate) fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // A choice, not a branch, so that loops become vectors.
    if x.is_nan() { bits >> 16 | 0x40 } else { rounded }
}

/// Plain Rust; the definition of each method.
#[derive(Clone, Copy)]
pub(crate) struct Plain;

/// The number whose bf16 bits stand in the upper half of `bits`.
fn upper(bits: u32) -> f32 {
    f32::from_bits(bits & 0xffff_0000)
}

impl Lanes for Plain {
    type F = [f32; 16];
    type I = [i32; 16];
    type B = [u8; 64];
    const NARROW: bool = true;

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
    unsafe fn add(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn max(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| if b[i] > a[i] { b[i] } else { a[i] })
    }
    #[inline(always)]
    unsafe fn to_exponent(x: [f32; 16]) -> [f32; 16] {
        x.map(|x| f32::from_bits(x.to_bits() << 23))
    }
    #[inline(always)]
    unsafe fn store_low(p: *mut i16, x: [f32; 16]) {
        // SAFETY: the caller vouches for sixteen i16 at `p`.
        unsafe { p.cast::<[i16; 16]>().write_unaligned(x.map(|x| x.to_bits() as i16)) }
    }
    #[inline(always)]
    unsafe fn sum(mut x: [f32; 16]) -> f32 {
        for half in [8, 4, 2, 1] {
            for j in 0..half {
                x[j] += x[j + half];
            }
        }
        x[0]
    }
    #[inline(always)]
    unsafe fn greatest(x: [f32; 16]) -> f32 {
        x.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
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
    unsafe fn dot2_i16(acc: [i32; 16], w: [u8; 64], x: i32) -> [i32; 16] {
        let (x0, x1) = (i32::from(x as i16), x >> 16);
        std::array::from_fn(|i| {
            let w = i32::from_le_bytes([w[4 * i], w[4 * i + 1], w[4 * i + 2], w[4 * i + 3]]);
            let pair = (i32::from(w as i16) * x0).wrapping_add((w >> 16) * x1);
            acc[i].wrapping_add(pair)
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
mod x86;
