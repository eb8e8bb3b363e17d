//! Rotary positions: pairs of each head turn by angles that grow with the position.

use crate::Tensor;
use crate::tape::record;
use herd_kernels::cpu::for_rows;
use herd_kernels::rope as kernel;
use std::sync::Arc;

/// The cosines and sines of a batch's positions; one table serves all layers. Clones share it.
#[derive(Clone)]
pub struct Positions {
    table: Arc<Vec<f32>>,
    /// Numbers in the table for one row: K.
    width: usize,
}

impl Positions {
    /// The table for these positions with `frequencies` [K/2], times `factor`.
    pub fn new(positions: &[u32], frequencies: &[f32], factor: f32) -> Positions {
        let width = 2 * frequencies.len();
        let mut table = vec![0.0; positions.len() * width];
        kernel::cos_sin(&mut table, positions, frequencies, factor);
        Positions { table: Arc::new(table), width }
    }
}

/// Turns the neighbouring pairs of each head of `x` [T, H K]; in place if it has no clones.
///
/// Backward: the gradient turns back.
pub fn rope(x: Tensor, at: &Positions) -> Tensor {
    let of = x.slot().cloned();
    let tape = of.as_ref().map(|slot| Arc::clone(slot.tape()));
    let y = turn(x, at, kernel::rope);
    let at = at.clone();
    let slot = record(tape.as_ref(), move |dy, flow| {
        if let Some(of) = of {
            flow.add(&of, turn(dy, &at, kernel::rope_backward));
        }
    });
    y.with_slot(slot)
}

type Turn = fn(herd_kernels::Class, &mut [f32], &[u32], &[f32], usize, usize, kernel::Layout);

fn turn(x: Tensor, at: &Positions, turn: Turn) -> Tensor {
    let mut x = x.own();
    let device = x.device().clone();
    let (class, width, head_dim) = (device.class(), x.width(), at.width);
    assert_eq!(at.table.len(), x.rows() * head_dim, "rope: positions of another batch");
    for_rows(device.kernels(), x.data_mut(), width, |t, row| {
        let table = &at.table[t * head_dim..(t + 1) * head_dim];
        turn(class, row, &[0], table, width / head_dim, head_dim, kernel::Layout::Interleaved);
    });
    x
}
