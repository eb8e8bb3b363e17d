//! What a tensor in a file is called, how it is shaped, and how its numbers are stored.

use std::fmt;

use herd_kernels::Format;

/// A tensor's name, shape and storage, as a file states them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name in the file, unchanged.
    pub name: String,
    /// Lengths of the axes, outermost first: [rows, columns] in every kind of file, GGUF too.
    pub shape: Vec<usize>,
    /// How the numbers are stored.
    pub dtype: DType,
}

impl TensorInfo {
    /// How many numbers there are, or `None` if that overflows.
    pub fn elements(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |product, axis| product.checked_mul(*axis))
    }

    /// How many bytes they take, or `None` if the type is unknown, the innermost axis is not whole
    /// blocks, or the size overflows.
    pub fn bytes(&self) -> Option<usize> {
        let row = self.shape.last().copied().unwrap_or(1);
        match self.dtype {
            DType::Format(format) if row % format.block_len() != 0 => None,
            DType::Format(format) => format.bytes(self.elements()?),
            DType::Ggml(_) => None,
            _ => self.elements()?.checked_mul(self.dtype.item_bytes()?),
        }
    }
}

/// How a tensor is stored: as weights that Herd computes with, or as something else it only lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, non_camel_case_types)]
pub enum DType {
    /// Weights.
    Format(Format),
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Bool,
    F8_E4M3,
    F8_E5M2,
    F8_E8M0,
    /// Two f32: real, imaginary.
    C64,
    /// A GGML type that Herd cannot size or read, by its id.
    Ggml(u32),
}

impl DType {
    /// Every type but the open-ended [`DType::Ggml`].
    fn known() -> impl Iterator<Item = DType> {
        let plain = [
            DType::F64,
            DType::I8,
            DType::I16,
            DType::I32,
            DType::I64,
            DType::U8,
            DType::U16,
            DType::U32,
            DType::U64,
            DType::Bool,
            DType::F8_E4M3,
            DType::F8_E5M2,
            DType::F8_E8M0,
            DType::C64,
        ];
        Format::ALL.into_iter().map(DType::Format).chain(plain)
    }

    /// The weight format, if this is one.
    pub fn format(self) -> Option<Format> {
        match self {
            DType::Format(format) => Some(format),
            _ => None,
        }
    }

    /// Bytes of one number, or `None` for blocks and unknown types.
    pub fn item_bytes(self) -> Option<usize> {
        match self {
            DType::Format(format) => (format.block_len() == 1).then(|| format.block_bytes()),
            DType::F64 | DType::I64 | DType::U64 | DType::C64 => Some(8),
            DType::I32 | DType::U32 => Some(4),
            DType::I16 | DType::U16 => Some(2),
            DType::I8 | DType::U8 | DType::Bool => Some(1),
            DType::F8_E4M3 | DType::F8_E5M2 | DType::F8_E8M0 => Some(1),
            DType::Ggml(_) => None,
        }
    }

    /// The type with this name in a safetensors header.
    pub(super) fn from_safetensors(name: &str) -> Option<DType> {
        DType::known().find(|d| d.item_bytes().is_some() && d.to_string() == name)
    }

    /// The type with this GGML id.
    pub(super) fn from_ggml_id(id: u32) -> DType {
        DType::known().find(|d| d.ggml_id() == Some(id)).unwrap_or(DType::Ggml(id))
    }

    /// GGML's id, where GGML has the type.
    pub(super) fn ggml_id(self) -> Option<u32> {
        match self {
            DType::Format(format) => Some(format.ggml_id()),
            DType::I8 => Some(24),
            DType::I16 => Some(25),
            DType::I32 => Some(26),
            DType::I64 => Some(27),
            DType::F64 => Some(28),
            DType::Ggml(id) => Some(id),
            DType::U8 | DType::U16 | DType::U32 | DType::U64 | DType::Bool => None,
            DType::F8_E4M3 | DType::F8_E5M2 | DType::F8_E8M0 | DType::C64 => None,
        }
    }
}

/// The name as safetensors and GGML write it: `BF16`, `Q4_K`, `BOOL`.
impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DType::Format(format) => f.write_str(format.name()),
            DType::Bool => f.write_str("BOOL"),
            DType::Ggml(id) => match ggml_name(*id) {
                Some(name) => write!(f, "ggml type {id} ({name})"),
                None => write!(f, "ggml type {id}"),
            },
            plain => write!(f, "{plain:?}"),
        }
    }
}

/// Names of the GGML types that Herd does not read. Source: `gguf` package 0.19, constants.
fn ggml_name(id: u32) -> Option<&'static str> {
    Some(match id {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ids_come_back() {
        for dtype in DType::known() {
            if dtype.item_bytes().is_some() {
                assert_eq!(DType::from_safetensors(&dtype.to_string()), Some(dtype));
            }
            if let Some(id) = dtype.ggml_id() {
                assert_eq!(DType::from_ggml_id(id), dtype);
            }
        }
        assert_eq!(DType::from_safetensors("Q4_0"), None);
        assert_eq!(DType::from_ggml_id(16).to_string(), "ggml type 16 (IQ2_XXS)");
        assert_eq!(DType::from_ggml_id(4).to_string(), "ggml type 4");
    }

    #[test]
    fn blocks_lie_along_the_innermost_axis() {
        let info =
            |shape: &[usize], dtype| TensorInfo { name: "w".into(), shape: shape.to_vec(), dtype };
        assert_eq!(info(&[2, 32], DType::Format(Format::Q4_0)).bytes(), Some(36));
        assert_eq!(info(&[32, 2], DType::Format(Format::Q4_0)).bytes(), None);
        assert_eq!(info(&[], DType::F64).bytes(), Some(8));
        assert_eq!(info(&[usize::MAX, 2], DType::I8).bytes(), None);
    }
}
