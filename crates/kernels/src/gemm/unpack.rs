//! From a packed block of 32 columns by 16 rows to codes, scales and minima in registers.

use super::layout::{BLOCK, codes};
use crate::Format;
use crate::lanes::Lanes;

/// A block as the products want it: lane n is row n; value = scale * (code - zero) + min.
pub(super) struct Unpacked<L: Lanes> {
    /// Vector j holds columns 4 j .. 4 j + 4.
    pub codes: [L::B; 8],
    /// One for all 32 columns, or one for each 16.
    pub scale: [L::F; 2],
    pub min: [L::F; 2],
}

/// Where block `block` of a group begins, and where the scales that it shares stand.
#[inline(always)]
fn places<const F: u8>(group: *const u8, block: usize) -> (*const u8, *const u8) {
    let c = codes(format::<F>()).expect("a block format");
    if c.super_bytes == 0 {
        return (group.wrapping_add(block * c.block_bytes), group);
    }
    let shared = group.wrapping_add(block / 8 * (c.super_bytes + 8 * c.block_bytes));
    (shared.wrapping_add(c.super_bytes + block % 8 * c.block_bytes), shared)
}

/// The format whose number in `Format::ALL` is `F`.
pub(super) const fn format<const F: u8>() -> Format {
    Format::ALL[F as usize]
}

/// The values that 4-bit codes of IQ4_NL stand for, with 128 added.
const IQ4_NL: [u8; 16] = [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];

/// Unpacks block `block` of the group at `group`.
///
/// # Safety
///
/// The contract of `Lanes`; `group` holds more than `block` blocks of format `F`.
#[inline(always)]
pub(super) unsafe fn unpack<L: Lanes, const F: u8>(group: *const u8, block: usize) -> Unpacked<L> {
    let (p, shared) = places::<F>(group, block);
    // SAFETY: the caller's contract; all reads lie in the block or its shared scales.
    unsafe {
        let none = L::splat(0.0);
        let mut scale = [none; 2];
        let mut min = [none; 2];
        let at = |i: usize| p.wrapping_add(i);
        let codes = match format::<F>() {
            Format::F32 | Format::F16 | Format::BF16 => [L::load_bytes(p); 8],
            Format::Q4_0 => {
                scale[0] = L::load_f16(p);
                nibbles::<L>(at(32))
            }
            Format::IQ4_NL => {
                scale[0] = L::load_f16(p);
                // `from_fn` inlines its closure into the class's function; `map` does not.
                let q = nibbles::<L>(at(32));
                std::array::from_fn(|j| L::lookup(&IQ4_NL, q[j]))
            }
            Format::Q4_1 => {
                scale[0] = L::load_f16(p);
                min[0] = L::load_f16(at(32));
                nibbles::<L>(at(64))
            }
            Format::Q5_0 => {
                scale[0] = L::load_f16(p);
                masked::<L>(nibbles::<L>(at(96)), at(32), 16)
            }
            Format::Q5_1 => {
                scale[0] = L::load_f16(p);
                min[0] = L::load_f16(at(32));
                masked::<L>(nibbles::<L>(at(128)), at(64), 16)
            }
            Format::Q8_0 => {
                scale[0] = L::load_f16(p);
                std::array::from_fn(|j| L::flip_signs(L::load_bytes(at(32 + 64 * j))))
            }
            Format::Q4_K | Format::Q5_K => {
                scale[0] = L::mul(L::load_f16(shared), L::load_u8(p));
                min[0] = L::mul(L::load_f16(shared.wrapping_add(32)), L::load_u8(at(16)));
                if format::<F>() as u8 == Format::Q4_K as u8 {
                    nibbles::<L>(at(32))
                } else {
                    masked::<L>(nibbles::<L>(at(96)), at(32), 16)
                }
            }
            Format::Q6_K => {
                let d = L::load_f16(shared);
                scale = [L::mul(d, L::load_i8(p)), L::mul(d, L::load_i8(at(16)))];
                let (low, high) = (nibbles::<L>(at(160)), crumbs::<L, 4>(at(32)));
                std::array::from_fn(|j| L::or(low[j], high[j]))
            }
            Format::Q3_K => {
                let d = L::load_f16(shared);
                scale = [L::mul(d, L::load_i8(p)), L::mul(d, L::load_i8(at(16)))];
                masked::<L>(crumbs::<L, 0>(at(96)), at(32), 4)
            }
            Format::Q2_K => {
                let (d, dmin) = (L::load_f16(shared), L::load_f16(shared.wrapping_add(32)));
                let (s, m) = scales_and_minima::<L>(p);
                scale = [L::mul(d, s[0]), L::mul(d, s[1])];
                min = [L::mul(dmin, m[0]), L::mul(dmin, m[1])];
                crumbs::<L, 0>(at(32))
            }
        };
        Unpacked { codes, scale, min }
    }
}

/// # Safety
///
/// The contract of `Lanes`; 256 bytes at `p`.
#[inline(always)]
unsafe fn nibbles<L: Lanes>(p: *const u8) -> [L::B; 8] {
    // SAFETY: the caller's contract.
    unsafe {
        let v: [L::B; 4] = std::array::from_fn(|j| L::load_bytes(p.wrapping_add(64 * j)));
        std::array::from_fn(
            |j| {
                if j < 4 { L::low_nibbles(v[j]) } else { L::high_nibbles(v[j - 4]) }
            },
        )
    }
}

/// # Safety
///
/// The contract of `Lanes`; 128 bytes at `p`.
#[inline(always)]
unsafe fn crumbs<L: Lanes, const SHIFT: i32>(p: *const u8) -> [L::B; 8] {
    // SAFETY: the caller's contract.
    unsafe {
        let (a, b) = (L::load_bytes(p), L::load_bytes(p.wrapping_add(64)));
        [
            L::crumbs::<0, SHIFT>(a),
            L::crumbs::<1, SHIFT>(a),
            L::crumbs::<2, SHIFT>(a),
            L::crumbs::<3, SHIFT>(a),
            L::crumbs::<0, SHIFT>(b),
            L::crumbs::<1, SHIFT>(b),
            L::crumbs::<2, SHIFT>(b),
            L::crumbs::<3, SHIFT>(b),
        ]
    }
}

/// Adds `value` to each code whose bit is set in the eight masks at `p`.
///
/// # Safety
///
/// The contract of `Lanes`; 64 bytes at `p`.
#[inline(always)]
unsafe fn masked<L: Lanes>(codes: [L::B; 8], p: *const u8, value: u8) -> [L::B; 8] {
    // SAFETY: the caller's contract.
    unsafe {
        std::array::from_fn(|j| {
            let mask = p.wrapping_add(8 * j).cast::<u64>().read_unaligned();
            L::or_where(codes[j], u64::from_le(mask), value)
        })
    }
}

/// The scales (low nibbles) and minima (high nibbles) of two sub-blocks of Q2_K.
///
/// # Safety
///
/// The contract of `Lanes`; 64 bytes at `p`, of which the first 32 are used.
#[inline(always)]
unsafe fn scales_and_minima<L: Lanes>(p: *const u8) -> ([L::F; 2], [L::F; 2]) {
    let (mut low, mut high) = ([0u8; 64], [0u8; 64]);
    // SAFETY: the caller's contract; the block's codes follow its 32 bytes of scales.
    unsafe {
        let both = L::load_bytes(p);
        L::store_bytes(low.as_mut_ptr(), L::low_nibbles(both));
        L::store_bytes(high.as_mut_ptr(), L::high_nibbles(both));
        (
            [L::load_u8(low.as_ptr()), L::load_u8(low[16..].as_ptr())],
            [L::load_u8(high.as_ptr()), L::load_u8(high[16..].as_ptr())],
        )
    }
}

/// Blocks of 32 columns in a row.
pub(super) const fn blocks(cols: usize) -> usize {
    cols / BLOCK
}
