//! How weights lie in memory for multiplication: sixteen rows side by side.
//!
//! A *group* is sixteen rows of the matrix, one a lane. Inside a group the columns follow each
//! other, so that one vector load reads the same columns of sixteen rows:
//!
//! - f32, f16: `[column][16]`; bf16: `[column pair][16][2]`;
//! - 4-bit codes of a block of 32 columns: four vectors; vector j holds, for lane n and i < 4,
//!   column 4 j + i in the low nibble of byte 4 n + i and column 4 j + 16 + i in the high one;
//! - 8-bit codes: eight vectors, vector j columns 4 j .. 4 j + 4;
//! - 2-bit codes: two vectors; crumb i of vector j holds columns 16 j + 4 i .. + 4;
//! - a fifth (third) bit: eight masks of 64 bits, mask j for the bytes of vector j of the codes;
//! - scales before the codes, sixteen at a time.
//!
//! The bytes are as many as in the file's own layout, up to the unpacking of 6-bit scales.

use crate::Format;

/// Columns in one block of codes.
pub(super) const BLOCK: usize = 32;
/// Rows in one group.
pub(super) const GROUP: usize = 16;

/// What the multiplication must know of a block format.
#[derive(Clone, Copy, Debug)]
pub(super) struct Codes {
    /// A code stands for `scale * (code - zero) + min`.
    pub zero: i32,
    /// Sixteen columns share a scale, not thirty-two.
    pub sub16: bool,
    /// There is a `min`.
    pub min: bool,
    /// Bytes of one block of 32 columns in a group.
    pub block_bytes: usize,
    /// Bytes before each eight blocks (the scales of the 256-column formats), or 0.
    pub super_bytes: usize,
}

/// The code layout of a block format; `None` for plain floats.
pub(super) const fn codes(format: Format) -> Option<Codes> {
    Some(match format {
        Format::F32 | Format::F16 | Format::BF16 => return None,
        Format::Q4_0 => row(8, false, false, 32 + 256, 0),
        Format::IQ4_NL => row(128, false, false, 32 + 256, 0),
        Format::Q4_1 => row(0, false, true, 64 + 256, 0),
        Format::Q5_0 => row(16, false, false, 32 + 64 + 256, 0),
        Format::Q5_1 => row(0, false, true, 64 + 64 + 256, 0),
        Format::Q8_0 => row(128, false, false, 32 + 512, 0),
        Format::Q2_K => row(0, true, true, 32 + 128, 64),
        Format::Q3_K => row(4, true, false, 32 + 64 + 128, 32),
        Format::Q4_K => row(0, false, true, 32 + 256, 64),
        Format::Q5_K => row(0, false, true, 32 + 64 + 256, 64),
        Format::Q6_K => row(32, true, false, 32 + 128 + 256, 32),
    })
}

const fn row(zero: i32, sub16: bool, min: bool, block_bytes: usize, super_bytes: usize) -> Codes {
    Codes { zero, sub16, min, block_bytes, super_bytes }
}

/// Bytes of one group of sixteen rows of `cols` columns.
pub(super) fn group_bytes(format: Format, cols: usize) -> usize {
    match (format, codes(format)) {
        (Format::F32, _) => cols * GROUP * 4,
        (Format::F16, _) => cols * GROUP * 2,
        (_, None) => cols.next_multiple_of(2) * GROUP * 2,
        (_, Some(c)) => {
            let blocks = cols / BLOCK;
            blocks * c.block_bytes + if c.super_bytes > 0 { blocks / 8 * c.super_bytes } else { 0 }
        }
    }
}

/// Lays rows `row .. row + 16` of the matrix into `out`; rows past the end are zero.
///
/// `raw` is the whole matrix in the file's own layout, `rows` by `cols`.
pub(super) fn pack_group(
    out: &mut [u8],
    format: Format,
    raw: &[u8],
    row: usize,
    rows: usize,
    cols: usize,
) {
    let row_bytes = cols / format.block_len() * format.block_bytes();
    let lanes = (rows - row).min(GROUP);
    if lanes < GROUP {
        out.fill(0);
    }
    for n in 0..lanes {
        let src = &raw[(row + n) * row_bytes..][..row_bytes];
        match format {
            Format::F32 => spread::<4>(out, src, n),
            Format::F16 => spread::<2>(out, src, n),
            Format::BF16 => {
                // Pairs of two bytes move as one; an odd last column is padded with zero.
                spread::<4>(out, &src[..cols / 2 * 4], n);
                if cols % 2 == 1 {
                    let at = cols / 2 * 64 + n * 4;
                    out[at..at + 2].copy_from_slice(&src[(cols - 1) * 2..]);
                    out[at + 2..at + 4].fill(0);
                }
            }
            _ => pack_row(out, format, src, n),
        }
    }
}

/// Every `W` bytes of `src` go to lane `n` of the next vector of `out`.
fn spread<const W: usize>(out: &mut [u8], src: &[u8], n: usize) {
    let (items, _) = src.as_chunks::<W>();
    let (slots, _) = out.as_chunks_mut::<W>();
    for (k, item) in items.iter().enumerate() {
        slots[k * GROUP + n] = *item;
    }
}

/// One row of a block format into lane `n` of its group.
fn pack_row(out: &mut [u8], format: Format, src: &[u8], n: usize) {
    let c = codes(format).expect("plain floats are packed above");
    for (i, block) in src.chunks_exact(format.block_bytes()).enumerate() {
        match format {
            Format::F32 | Format::F16 | Format::BF16 => {}
            Format::Q4_0 | Format::IQ4_NL => {
                let out = &mut out[i * c.block_bytes..][..c.block_bytes];
                put(out, 0, n, &block[..2]);
                put_words(&mut out[32..], n, &block[2..18]);
            }
            Format::Q4_1 => {
                let out = &mut out[i * c.block_bytes..][..c.block_bytes];
                put(out, 0, n, &block[..2]);
                put(out, 32, n, &block[2..4]);
                put_words(&mut out[64..], n, &block[4..20]);
            }
            Format::Q5_0 => {
                let out = &mut out[i * c.block_bytes..][..c.block_bytes];
                put(out, 0, n, &block[..2]);
                put_bits(&mut out[32..96], n, word(&block[2..6]));
                put_words(&mut out[96..], n, &block[6..22]);
            }
            Format::Q5_1 => {
                let out = &mut out[i * c.block_bytes..][..c.block_bytes];
                put(out, 0, n, &block[..2]);
                put(out, 32, n, &block[2..4]);
                put_bits(&mut out[64..128], n, word(&block[4..8]));
                put_words(&mut out[128..], n, &block[8..24]);
            }
            Format::Q8_0 => {
                let out = &mut out[i * c.block_bytes..][..c.block_bytes];
                put(out, 0, n, &block[..2]);
                put_words(&mut out[32..], n, &block[2..34]);
            }
            Format::Q2_K | Format::Q3_K | Format::Q4_K | Format::Q5_K | Format::Q6_K => {
                let bytes = c.super_bytes + 8 * c.block_bytes;
                pack_super(&mut out[i * bytes..][..bytes], format, c, block, n);
            }
        }
    }
}

/// Two bytes to lane `n` of the sixteen halves at `at`.
fn put(out: &mut [u8], at: usize, n: usize, half: &[u8]) {
    out[at + 2 * n..at + 2 * n + 2].copy_from_slice(half);
}

/// Four bytes a vector to lane `n`.
fn put_words(out: &mut [u8], n: usize, src: &[u8]) {
    spread::<4>(out, src, n);
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// Bit k of `bits` belongs to column k: bit 4 n + k % 4 of mask k / 4.
fn put_bits(out: &mut [u8], n: usize, bits: u32) {
    let (masks, _) = out.as_chunks_mut::<8>();
    for (j, mask) in masks.iter_mut().enumerate() {
        let four = u64::from(bits >> (4 * j) & 15) << (4 * n);
        let kept = u64::from_le_bytes(*mask) & !(15 << (4 * n));
        *mask = (kept | four).to_le_bytes();
    }
}

/// One 256-column block into lane `n`.
fn pack_super(out: &mut [u8], format: Format, c: Codes, block: &[u8], n: usize) {
    let parts = SuperBlock::read(format, block);
    put(out, 0, n, &parts.d);
    if c.super_bytes == 64 {
        // The minimum is subtracted in these formats and added here: its sign is turned.
        put(out, 32, n, &[parts.dmin[0], parts.dmin[1] ^ 0x80]);
    }
    for b in 0..8 {
        let out = &mut out[c.super_bytes + b * c.block_bytes..][..c.block_bytes];
        let q = &parts.codes[32 * b..32 * b + 32];
        match format {
            Format::Q4_K | Format::Q5_K => {
                out[n] = parts.scales[b] as u8;
                out[16 + n] = parts.mins[b];
            }
            Format::Q2_K => {
                out[n] = parts.scales[2 * b] as u8 | parts.mins[2 * b] << 4;
                out[16 + n] = parts.scales[2 * b + 1] as u8 | parts.mins[2 * b + 1] << 4;
            }
            _ => {
                out[n] = parts.scales[2 * b] as u8;
                out[16 + n] = parts.scales[2 * b + 1] as u8;
            }
        }
        put_codes(&mut out[32..], format, q, n);
    }
}

/// The 32 codes of a block, split into the planes of its format.
fn put_codes(out: &mut [u8], format: Format, q: &[u8], n: usize) {
    let bit = |i: u32| (0..32).fold(0, |bits, k| bits | u32::from(q[k] >> i & 1) << k);
    let out = match format {
        Format::Q5_K => {
            put_bits(&mut out[..64], n, bit(4));
            &mut out[64..]
        }
        Format::Q3_K => {
            put_bits(&mut out[..64], n, bit(2));
            &mut out[64..]
        }
        Format::Q6_K => {
            put_crumbs(&mut out[..128], n, q, 4);
            &mut out[128..]
        }
        _ => out,
    };
    if matches!(format, Format::Q2_K | Format::Q3_K) {
        put_crumbs(out, n, q, 0);
        return;
    }
    for k in 0..16 {
        out[k / 4 * 64 + 4 * n + k % 4] = q[k] & 15 | (q[k + 16] & 15) << 4;
    }
}

/// Two bits of each code, from bit `shift` up, as crumbs.
fn put_crumbs(out: &mut [u8], n: usize, q: &[u8], shift: u32) {
    for j in 0..2 {
        for i in 0..4 {
            let crumb = |c: usize| (q[16 * j + 4 * c + i] >> shift & 3) << (2 * c);
            out[64 * j + 4 * n + i] = crumb(0) | crumb(1) | crumb(2) | crumb(3);
        }
    }
}

/// The plain parts of a 256-column block.
struct SuperBlock {
    d: [u8; 2],
    dmin: [u8; 2],
    scales: [i8; 16],
    mins: [u8; 16],
    codes: [u8; 256],
}

impl SuperBlock {
    /// Layouts: `docs/formats.md`.
    fn read(format: Format, b: &[u8]) -> SuperBlock {
        let mut s =
            SuperBlock { d: [0; 2], dmin: [0; 2], scales: [0; 16], mins: [0; 16], codes: [0; 256] };
        match format {
            Format::Q2_K => {
                s.d = [b[80], b[81]];
                s.dmin = [b[82], b[83]];
                for j in 0..16 {
                    s.scales[j] = (b[j] & 15) as i8;
                    s.mins[j] = b[j] >> 4;
                }
                two_bits(&mut s.codes, &b[16..80]);
            }
            Format::Q3_K => {
                s.d = [b[108], b[109]];
                s.scales = scales_q3(&b[96..108]);
                two_bits(&mut s.codes, &b[32..96]);
                for (i, q) in s.codes.iter_mut().enumerate() {
                    *q |= (b[i % 32] >> (i / 32) & 1) << 2;
                }
            }
            Format::Q4_K | Format::Q5_K => {
                s.d = [b[0], b[1]];
                s.dmin = [b[2], b[3]];
                scales_q4(&mut s, &b[4..16]);
                let low = if format == Format::Q4_K { &b[16..144] } else { &b[48..176] };
                for (i, q) in s.codes.iter_mut().enumerate() {
                    let byte = low[i / 64 * 32 + i % 32];
                    *q = if i % 64 < 32 { byte & 15 } else { byte >> 4 };
                    if format == Format::Q5_K {
                        *q |= (b[16 + i % 32] >> (i / 32) & 1) << 4;
                    }
                }
            }
            _ => {
                s.d = [b[208], b[209]];
                for j in 0..16 {
                    s.scales[j] = b[192 + j] as i8;
                }
                for (i, q) in s.codes.iter_mut().enumerate() {
                    let (h, r, l) = (i / 128, i % 128 / 32, i % 32);
                    let low = b[64 * h + 32 * (r % 2) + l] >> (r / 2 * 4) & 15;
                    *q = low | (b[128 + 32 * h + l] >> (2 * r) & 3) << 4;
                }
            }
        }
        s
    }
}

fn two_bits(codes: &mut [u8; 256], qs: &[u8]) {
    for (i, q) in codes.iter_mut().enumerate() {
        *q = qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
    }
}

fn scales_q3(b: &[u8]) -> [i8; 16] {
    std::array::from_fn(|j| {
        let low = if j < 8 { b[j] & 15 } else { b[j - 8] >> 4 };
        let high = b[8 + j % 4] >> (j / 4 * 2) & 3;
        (low | high << 4) as i8 - 32
    })
}

fn scales_q4(s: &mut SuperBlock, b: &[u8]) {
    for j in 0..4 {
        s.scales[j] = (b[j] & 63) as i8;
        s.mins[j] = b[j + 4] & 63;
        s.scales[j + 4] = (b[j + 8] & 15 | b[j] >> 6 << 4) as i8;
        s.mins[j + 4] = b[j + 8] >> 4 | b[j + 4] >> 6 << 4;
    }
}
