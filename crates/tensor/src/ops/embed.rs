//! x_t = row id_t of the embedding.

use crate::{Device, Tensor, Weight};
use herd_kernels::cpu::for_rows;

/// Rows of `w` [V, D] for `ids`: [T, D]. Panics if an id is not below V.
pub fn embed(device: &Device, w: &Weight, ids: &[u32]) -> Tensor {
    let Weight::Packed(packed) = w;
    let mut out = Tensor::uninitialised(device, ids.len(), w.cols());
    for_rows(device.kernels(), out.data_mut(), w.cols(), |t, row| {
        packed.row(ids[t] as usize, row);
    });
    out
}
