//! Weights in GGML's block formats: unpack them, quantise into them, look inside one block.
//!
//! A block is a run of weights that share scales. Every block format is one equation,
//!
//! ```text
//! weight[i] = scale[i / sub_len] * code[i] + min[i / sub_len]
//! ```
//!
//! and differs from the others in how the integers are packed: `docs/formats.md`. [`decode_block`]
//! takes the packing away and leaves [`Plain`], the equation; [`unpack`] evaluates it for a whole
//! tensor; [`quantise`] searches for the scales and codes. [`naive::value`] is the definition of
//! the layouts, one weight at a time.

mod fit;
mod float;
mod iq4_nl;
pub mod naive;
mod q2_k;
mod q3_k;
mod q4_k;
mod q6_k;
mod simple;
mod weighted;

use std::fmt;

use crate::Format;

/// One block as its equation: weight i is `scales[i / sub_len] * codes[i] + mins[i / sub_len]`.
///
/// Entries from `len` on (in `codes`) and from `len / sub_len` on (in `scales` and `mins`) have no
/// meaning. What the integers are, by format:
///
/// | format | len | sub_len | code | min |
/// |---|---|---|---|---|
/// | Q4_0, Q5_0, Q8_0 | 32 | 32 | q - 8, q - 16, q | none |
/// | IQ4_NL | 32 | 32 | the table's value | none |
/// | Q4_1, Q5_1 | 32 | 32 | q | m |
/// | Q2_K | 256 | 16 | q | -dmin * m |
/// | Q3_K, Q6_K | 256 | 16 | q - 4, q - 32 | none |
/// | Q4_K, Q5_K | 256 | 32 | q | -dmin * m |
///
/// Scales and mins are exact, being an f16 times at most eight bits. So is every `scale * code`
/// (at most 24 bits): the addition alone rounds, and fusing it changes nothing. Where there is no
/// min it is -0.0, which leaves any number as it is, the sign of zero included.
#[derive(Clone, Debug, PartialEq)]
pub struct Plain {
    /// The integers.
    pub codes: [i8; 256],
    /// One factor for each sub-block.
    pub scales: [f32; 16],
    /// One constant for each sub-block.
    pub mins: [f32; 16],
    /// Weights in a sub-block: 16 or 32.
    pub sub_len: usize,
    /// Weights in the block: 32 or 256.
    pub len: usize,
}

impl Default for Plain {
    /// A block of 32 weights that are all zero.
    fn default() -> Plain {
        Plain { codes: [0; 256], scales: [0.0; 16], mins: [-0.0; 16], sub_len: 32, len: 32 }
    }
}

impl Plain {
    /// Weight `i` of the block. Panics if `i` is not below `len`.
    pub fn value(&self, i: usize) -> f32 {
        assert!(i < self.len, "a block of {} weights has no weight {i}", self.len);
        self.scales[i / self.sub_len] * f32::from(self.codes[i]) + self.mins[i / self.sub_len]
    }
}

/// Numbers that a format cannot hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum QuantiseError {
    /// The first number that is NaN or infinite.
    NotFinite {
        /// Its place in the input.
        index: usize,
        /// The number.
        value: f32,
    },
    /// A number so large that the number itself, or its block's scale, overflows the format.
    TooLarge {
        /// The format asked for.
        format: Format,
        /// The place in the input of the block's largest number.
        index: usize,
        /// That number.
        value: f32,
    },
}

impl QuantiseError {
    /// The error as one of the whole, of which the input was a piece that began at `start`.
    pub fn after(mut self, start: usize) -> QuantiseError {
        match &mut self {
            QuantiseError::NotFinite { index, .. } | QuantiseError::TooLarge { index, .. } => {
                *index += start;
            }
        }
        self
    }
}

impl fmt::Display for QuantiseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QuantiseError::NotFinite { index, value } => {
                write!(f, "number {index} is {value}; only finite numbers can be quantised")
            }
            QuantiseError::TooLarge { format, index, value } => {
                write!(f, "number {index} is {value:e}, too large for {}", format.name())
            }
        }
    }
}

impl std::error::Error for QuantiseError {}

/// Unpacks whole blocks into floats: bit-equal to the `gguf` package and to [`naive::value`].
///
/// Panics if `packed` is not as long as `out.len()` numbers of `format` are.
///
/// ```
/// use herd_kernels::{Format, blocks};
/// let mut out = [0.0; 2];
/// blocks::unpack(Format::BF16, &[0x80, 0x3f, 0x20, 0xc0], &mut out);
/// assert_eq!(out, [1.0, -2.5]);
/// ```
pub fn unpack(format: Format, packed: &[u8], out: &mut [f32]) {
    check_sizes(format, packed.len(), out.len());
    match format {
        Format::F32 => float::unpack(packed, out, f32::from_le_bytes),
        Format::F16 => float::unpack(packed, out, |b| float::f16_to_f32(u16::from_le_bytes(b))),
        Format::BF16 => float::unpack(packed, out, |b| float::bf16_to_f32(u16::from_le_bytes(b))),
        Format::Q4_0 => unpack_blocks::<_, 32, 32>(packed, out, simple::decode_q4_0),
        Format::Q4_1 => unpack_blocks::<_, 32, 32>(packed, out, simple::decode_q4_1),
        Format::Q5_0 => unpack_blocks::<_, 32, 32>(packed, out, simple::decode_q5_0),
        Format::Q5_1 => unpack_blocks::<_, 32, 32>(packed, out, simple::decode_q5_1),
        Format::Q8_0 => unpack_blocks::<_, 32, 32>(packed, out, simple::decode_q8_0),
        Format::IQ4_NL => unpack_blocks::<_, 32, 32>(packed, out, iq4_nl::decode),
        Format::Q2_K => unpack_blocks::<_, 256, 16>(packed, out, q2_k::decode),
        Format::Q3_K => unpack_blocks::<_, 256, 16>(packed, out, q3_k::decode),
        Format::Q4_K => unpack_blocks::<_, 256, 32>(packed, out, q4_k::decode_q4_k),
        Format::Q5_K => unpack_blocks::<_, 256, 32>(packed, out, q4_k::decode_q5_k),
        Format::Q6_K => unpack_blocks::<_, 256, 16>(packed, out, q6_k::decode),
    }
}

/// Evaluates the equation of every block. The lengths are constants so that it runs in vectors.
fn unpack_blocks<const BYTES: usize, const LEN: usize, const SUB: usize>(
    packed: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut Plain),
) {
    let mut plain = Plain::default();
    for (block, out) in packed.as_chunks().0.iter().zip(out.as_chunks_mut::<LEN>().0) {
        decode(block, &mut plain);
        let codes = plain.codes.as_chunks::<SUB>().0;
        for (s, out) in out.as_chunks_mut::<SUB>().0.iter_mut().enumerate() {
            let (scale, min) = (plain.scales[s], plain.mins[s]);
            for (out, &code) in out.iter_mut().zip(&codes[s]) {
                *out = scale * f32::from(code) + min;
            }
        }
    }
}

/// Writes one block's equation into `plain`: the integers and scales, free of packing.
///
/// For code that lays weights anew. Panics if `block` is not one block of `format`, or if
/// `format` is a plain float (F32, F16, BF16), which has no codes.
pub fn decode_block(format: Format, block: &[u8], plain: &mut Plain) {
    fn one<const BYTES: usize>(
        block: &[u8],
        plain: &mut Plain,
        decode: impl Fn(&[u8; BYTES], &mut Plain),
    ) {
        decode(block.try_into().expect("the size was checked"), plain);
    }
    check_sizes(format, block.len(), format.block_len());
    plain.len = format.block_len();
    plain.sub_len = sub_len(format);
    match format {
        Format::F32 | Format::F16 | Format::BF16 => {
            panic!("{} is a plain float and has no codes", format.name())
        }
        Format::Q4_0 => one(block, plain, simple::decode_q4_0),
        Format::Q4_1 => one(block, plain, simple::decode_q4_1),
        Format::Q5_0 => one(block, plain, simple::decode_q5_0),
        Format::Q5_1 => one(block, plain, simple::decode_q5_1),
        Format::Q8_0 => one(block, plain, simple::decode_q8_0),
        Format::IQ4_NL => one(block, plain, iq4_nl::decode),
        Format::Q2_K => one(block, plain, q2_k::decode),
        Format::Q3_K => one(block, plain, q3_k::decode),
        Format::Q4_K => one(block, plain, q4_k::decode_q4_k),
        Format::Q5_K => one(block, plain, q4_k::decode_q5_k),
        Format::Q6_K => one(block, plain, q6_k::decode),
    }
}

/// Weights that share one scale: 1 for plain floats, 16 or 32 for block formats.
pub const fn sub_len(format: Format) -> usize {
    match format {
        Format::F32 | Format::F16 | Format::BF16 => 1,
        Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 => 32,
        Format::Q8_0 | Format::IQ4_NL | Format::Q4_K | Format::Q5_K => 32,
        Format::Q2_K | Format::Q3_K | Format::Q6_K => 16,
    }
}

/// Quantises `x` into whole blocks; the same numbers always give the same bytes.
///
/// F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 are byte-equal to the `gguf` package (and with it to
/// llama.cpp); the others, whose encoding is free, search for the scales with the least weighted
/// square error (`fit.rs`).
///
/// Errors: a NaN or an infinity anywhere in `x` (then `out` is untouched), or a number too large
/// for the format. Panics if `out` is not as long as `x.len()` numbers of `format` are.
///
/// ```
/// use herd_kernels::{Format, blocks};
/// let (x, mut packed, mut y) = ([0.5; 32], [0; 34], [0.0; 32]);
/// blocks::quantise(Format::Q8_0, &x, &mut packed).unwrap();
/// blocks::unpack(Format::Q8_0, &packed, &mut y);
/// assert!((y[0] - 0.5).abs() < 1e-3);
/// ```
pub fn quantise(format: Format, x: &[f32], out: &mut [u8]) -> Result<(), QuantiseError> {
    check_sizes(format, out.len(), x.len());
    if let Some(index) = x.iter().position(|x| !x.is_finite()) {
        return Err(QuantiseError::NotFinite { index, value: x[index] });
    }
    let done = match format {
        Format::F32 => quantise_blocks(x, out, |&[x]: &[f32; 1]| Some(x.to_le_bytes())),
        Format::F16 => quantise_blocks(x, out, |&[x]: &[f32; 1]| float::f16_bytes(x)),
        Format::BF16 => quantise_blocks(x, out, |&[x]: &[f32; 1]| float::bf16_bytes(x)),
        Format::Q4_0 => quantise_blocks(x, out, simple::encode_q4_0),
        Format::Q4_1 => quantise_blocks(x, out, simple::encode_q4_1),
        Format::Q5_0 => quantise_blocks(x, out, simple::encode_q5_0),
        Format::Q5_1 => quantise_blocks(x, out, simple::encode_q5_1),
        Format::Q8_0 => quantise_blocks(x, out, simple::encode_q8_0),
        Format::IQ4_NL => quantise_blocks(x, out, iq4_nl::encode),
        Format::Q2_K => quantise_blocks(x, out, q2_k::encode),
        Format::Q3_K => quantise_blocks(x, out, q3_k::encode),
        Format::Q4_K => quantise_blocks(x, out, q4_k::encode_q4_k),
        Format::Q5_K => quantise_blocks(x, out, q4_k::encode_q5_k),
        Format::Q6_K => quantise_blocks(x, out, q6_k::encode),
    };
    done.map_err(|index| QuantiseError::TooLarge { format, index, value: x[index] })
}

/// Encodes block by block; where a block does not fit, the index of its largest number.
fn quantise_blocks<const LEN: usize, const BYTES: usize>(
    x: &[f32],
    out: &mut [u8],
    encode: impl Fn(&[f32; LEN]) -> Option<[u8; BYTES]>,
) -> Result<(), usize> {
    let blocks = x.as_chunks().0.iter().zip(out.as_chunks_mut().0);
    for (b, (x, out)) in blocks.enumerate() {
        *out = encode(x).ok_or_else(|| b * LEN + largest(x))?;
    }
    Ok(())
}

/// The index of the number with the largest magnitude, the first of equals.
fn largest(x: &[f32]) -> usize {
    (1..x.len()).fold(0, |best, i| if x[i].abs() > x[best].abs() { i } else { best })
}

fn check_sizes(format: Format, bytes: usize, numbers: usize) {
    assert_eq!(
        Some(bytes),
        format.bytes(numbers),
        "{}: {bytes} bytes do not hold exactly {numbers} numbers",
        format.name()
    );
}
