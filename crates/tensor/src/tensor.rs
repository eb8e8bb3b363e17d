//! A contiguous matrix of f32 on a device: rows (usually tokens) by width.

use crate::Device;
use crate::tape::Slot;
use std::fmt;
use std::mem::take;
use std::sync::Arc;

/// `rows` by `width` numbers, row by row. Clones share the numbers.
#[derive(Clone)]
pub struct Tensor {
    storage: Arc<Storage>,
    rows: usize,
    width: usize,
    /// Where its gradient is summed, if one is wanted.
    slot: Option<Slot>,
}

/// The numbers of a tensor; their memory goes back to the device.
struct Storage {
    /// Longer than the numbers where a larger buffer was reused.
    buffer: Vec<f32>,
    device: Device,
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.device.give_back(take(&mut self.buffer));
    }
}

impl Tensor {
    /// A tensor of any contents, for an operation that writes all of it.
    pub(crate) fn uninitialised(device: &Device, rows: usize, width: usize) -> Tensor {
        let storage = Storage { buffer: device.take(rows * width), device: device.clone() };
        Tensor { storage: Arc::new(storage), rows, width, slot: None }
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
        &self.storage.buffer[..self.rows * self.width]
    }

    /// The numbers, to be written. Panics if a clone shares them.
    pub fn data_mut(&mut self) -> &mut [f32] {
        let len = self.rows * self.width;
        let storage = Arc::get_mut(&mut self.storage);
        &mut storage.expect("a tensor that is written has no clones").buffer[..len]
    }

    /// The same numbers with no clones and no gradient: copied if they are shared.
    pub(crate) fn own(mut self) -> Tensor {
        self.slot = None;
        match Arc::get_mut(&mut self.storage) {
            Some(_) => self,
            None => Tensor::from_slice(self.device(), self.rows, self.width, self.data()),
        }
    }

    /// Row `i`.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data()[i * self.width..(i + 1) * self.width]
    }

    /// Where it lives.
    pub fn device(&self) -> &Device {
        &self.storage.device
    }

    /// Where its gradient is summed.
    pub(crate) fn slot(&self) -> Option<&Slot> {
        self.slot.as_ref()
    }

    /// The same, its gradient summed in `slot`.
    pub(crate) fn with_slot(mut self, slot: Option<Slot>) -> Tensor {
        self.slot = slot;
        self
    }

    /// Sends the gradient of these numbers, row by row, back through all that led here; nothing if nothing was
    /// recorded. Panics if there are not as many.
    pub fn backward(&self, gradient: &[f32]) {
        let gradient = Tensor::from_slice(self.device(), self.rows, self.width, gradient);
        if let Some(slot) = &self.slot {
            slot.tape().backward([(slot, gradient)]);
        }
    }

    /// The rows with these indices, in their order; no gradient passes.
    pub fn select(&self, rows: &[usize]) -> Tensor {
        let mut out = Tensor::uninitialised(self.device(), rows.len(), self.width);
        for (out, &i) in out.data_mut().chunks_exact_mut(self.width.max(1)).zip(rows) {
            out.copy_from_slice(self.row(i));
        }
        out
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor [{} x {}]", self.rows, self.width)
    }
}
