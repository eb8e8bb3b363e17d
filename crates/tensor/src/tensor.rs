//! A contiguous matrix of f32 on a device: rows (usually tokens) by width.

use crate::Device;
use std::fmt;

/// `rows` by `width` numbers, row by row.
pub struct Tensor {
    /// Longer than the numbers where a larger buffer was reused.
    buffer: Vec<f32>,
    rows: usize,
    width: usize,
    device: Device,
}

impl Tensor {
    /// A tensor of any contents, for an operation that writes all of it.
    pub(crate) fn uninitialised(device: &Device, rows: usize, width: usize) -> Tensor {
        let buffer = device.take(rows * width);
        Tensor { buffer, rows, width, device: device.clone() }
    }

    /// Copies numbers in. Panics if they are not `rows` times `width`.
    pub fn from_slice(device: &Device, rows: usize, width: usize, numbers: &[f32]) -> Tensor {
        assert_eq!(numbers.len(), rows * width, "tensor of {rows} x {width}");
        let mut tensor = Tensor::uninitialised(device, rows, width);
        tensor.data_mut().copy_from_slice(numbers);
        tensor
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Numbers in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The numbers, row by row.
    pub fn data(&self) -> &[f32] {
        &self.buffer[..self.rows * self.width]
    }

    /// The numbers, to be written.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[..self.rows * self.width]
    }

    /// Row `i`.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data()[i * self.width..(i + 1) * self.width]
    }

    /// Where it lives.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The rows with these indices, in their order.
    pub fn select(&self, rows: &[usize]) -> Tensor {
        let mut out = Tensor::uninitialised(&self.device, rows.len(), self.width);
        for (out, &i) in out.data_mut().chunks_exact_mut(self.width.max(1)).zip(rows) {
            out.copy_from_slice(self.row(i));
        }
        out
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        self.device.give_back(std::mem::take(&mut self.buffer));
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor [{} x {}]", self.rows, self.width)
    }
}
