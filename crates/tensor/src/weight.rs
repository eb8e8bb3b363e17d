//! Weights, in whatever form they are stored.

use crate::Device;
use herd_kernels::Format;
use herd_kernels::gemm::Packed;

/// A matrix that activations are multiplied with; [outputs, inputs].
pub enum Weight {
    /// Laid out for products on the CPU.
    Packed(Packed),
}

impl Weight {
    /// A weight from its stored bytes: `rows` outputs by `cols` inputs, row by row.
    ///
    /// Panics if the bytes are not that many; files are checked before.
    pub fn new(device: &Device, format: Format, rows: usize, cols: usize, raw: &[u8]) -> Weight {
        Weight::Packed(Packed::new(device.kernels(), format, rows, cols, raw))
    }

    /// Bytes in memory that a weight will take.
    pub fn bytes_of(format: Format, rows: usize, cols: usize) -> usize {
        Packed::bytes_of(format, rows, cols)
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        let Weight::Packed(w) = self;
        w.rows()
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        let Weight::Packed(w) = self;
        w.cols()
    }

    /// How the numbers are stored.
    pub fn format(&self) -> Format {
        let Weight::Packed(w) = self;
        w.format()
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        let Weight::Packed(w) = self;
        w.bytes()
    }
}
