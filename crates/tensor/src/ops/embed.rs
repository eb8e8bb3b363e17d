//! x_t = row id_t of the embedding.

use crate::tape::record;
use crate::{Device, Tensor, Weight};
use herd_kernels::cpu::for_rows;
use herd_kernels::embed::embed_backward;
use std::sync::Arc;

/// Rows of `w` [V, D] for `ids`: [T, D]. Panics if an id is not below V.
///
/// Backward: dw_i = sum of dx_t over the tokens with id i, in their order.
pub fn embed(device: &Device, w: &Weight, ids: &[u32]) -> Tensor {
    let packed = w.packed();
    let mut out = Tensor::uninitialised(device, ids.len(), packed.cols());
    for_rows(device.kernels(), out.data_mut(), packed.cols(), |t, row| {
        packed.row(ids[t] as usize, row);
    });
    let Weight::Trained(param) = w else { return out };
    let (param, ids) = (Arc::clone(param), ids.to_vec());
    let tape = Arc::clone(param.tape());
    let slot = record(Some(&tape), move |dx, _| {
        let cpu = dx.device().kernels();
        param.accumulate_rows(|dw| embed_backward(cpu, dw, dx.data(), &ids, dx.width()));
    });
    out.with_slot(slot)
}
