//! Weights, in whatever form they are stored.

use crate::param::{Lora, Param};
use crate::{Device, Tape};
use herd_kernels::Format;
use herd_kernels::gemm::Packed;
use std::ops::Deref;
use std::sync::Arc;

/// A matrix that activations are multiplied with; [outputs, inputs]. Clones share it.
#[derive(Clone)]
pub enum Weight {
    /// Laid out for products on the CPU.
    Packed(Arc<Packed>),
    /// Changed by training.
    Trained(Arc<Param>),
    /// Frozen, with an addition of low rank, trained or frozen as well.
    Lora(Arc<Lora>),
}

impl Weight {
    /// A weight from its stored bytes: `rows` outputs by `cols` inputs, row by row.
    ///
    /// Panics if the bytes are not that many; files are checked before.
    pub fn new(device: &Device, format: Format, rows: usize, cols: usize, raw: &[u8]) -> Weight {
        Weight::Packed(Arc::new(Packed::new(device.kernels(), format, rows, cols, raw)))
    }

    /// Bytes in memory that a weight will take.
    pub fn bytes_of(format: Format, rows: usize, cols: usize) -> usize {
        Packed::bytes_of(format, rows, cols)
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.packed().rows()
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.packed().cols()
    }

    /// How the numbers are stored.
    pub fn format(&self) -> Format {
        self.packed().format()
    }

    /// Bytes in memory, as products read it.
    pub fn bytes(&self) -> usize {
        self.packed().bytes()
    }

    /// The trained parameters in it.
    pub fn params(&self) -> Vec<&Arc<Param>> {
        match self {
            Weight::Packed(_) => vec![],
            Weight::Trained(param) => vec![param],
            Weight::Lora(lora) => [lora.a.params(), lora.b.params()].concat(),
        }
    }

    /// The tape on which products with it are recorded, whatever they multiply.
    pub(crate) fn tape(&self) -> Option<&Arc<Tape>> {
        match self {
            Weight::Packed(_) => None,
            Weight::Trained(param) => Some(param.tape()),
            Weight::Lora(lora) => lora.a.tape(),
        }
    }

    /// The matrix itself; without the addition of LoRA.
    pub(crate) fn packed(&self) -> Matrix<'_> {
        match self {
            Weight::Packed(packed) => Matrix::Fixed(packed),
            Weight::Trained(param) => Matrix::Trained(param.packed()),
            Weight::Lora(lora) => lora.base.packed(),
        }
    }
}

/// A matrix that nobody changes meanwhile.
pub(crate) enum Matrix<'a> {
    Fixed(&'a Packed),
    Trained(crate::param::Read<'a>),
}

impl Deref for Matrix<'_> {
    type Target = Packed;

    fn deref(&self) -> &Packed {
        match self {
            Matrix::Fixed(packed) => packed,
            Matrix::Trained(read) => read,
        }
    }
}
