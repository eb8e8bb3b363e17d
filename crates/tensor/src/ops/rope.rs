//! Rotary positions: pairs of each head turn by angles that grow with the position.

use crate::Tensor;
use herd_kernels::cpu::for_rows;
use herd_kernels::rope as kernel;

/// The cosines and sines of a batch's positions; one table serves all layers.
pub struct Positions {
    table: Vec<f32>,
    /// Numbers in the table for one row: K.
    width: usize,
}

impl Positions {
    /// No positions yet.
    pub fn new() -> Positions {
        Positions { table: Vec::new(), width: 0 }
    }

    /// Computes the table for these positions with `frequencies` [K/2], times `factor`.
    pub fn set(&mut self, positions: &[u32], frequencies: &[f32], factor: f32) {
        self.width = 2 * frequencies.len();
        self.table.resize(positions.len() * self.width, 0.0);
        kernel::cos_sin(&mut self.table, positions, frequencies, factor);
    }
}

impl Default for Positions {
    fn default() -> Self {
        Positions::new()
    }
}

/// Turns the neighbouring pairs of each head of `x` [T, H K], in place.
pub fn rope(mut x: Tensor, at: &Positions) -> Tensor {
    let device = x.device().clone();
    let (class, width, head_dim) = (device.class(), x.width(), at.width);
    assert_eq!(at.table.len(), x.rows() * head_dim, "rope: positions of another batch");
    for_rows(device.kernels(), x.data_mut(), width, |t, row| {
        let table = &at.table[t * head_dim..(t + 1) * head_dim];
        let layout = kernel::Layout::Interleaved;
        kernel::rope(class, row, &[0], table, width / head_dim, head_dim, layout);
    });
    x
}
