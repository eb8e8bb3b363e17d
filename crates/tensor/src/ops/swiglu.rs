//! silu(gate) * up, elementwise.

use crate::Tensor;
use crate::tape::record;
use herd_kernels::activation;
use herd_kernels::cpu::for_rows;
use std::sync::Arc;

/// silu(gate) * up, each [T, F].
///
/// Backward, with s = sigmoid(gate): dgate = dy up s (1 + gate (1 - s)); dup = dy gate s.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Tensor {
    assert_eq!((gate.rows(), gate.width()), (up.rows(), up.width()), "swiglu: shapes differ");
    let device = up.device();
    let mut y = Tensor::uninitialised(device, up.rows(), up.width());
    for_rows(device.kernels(), y.data_mut(), up.width(), |t, y| {
        activation::swiglu(device.class(), y, gate.row(t), up.row(t));
    });
    let tape = gate.slot().or(up.slot()).map(|slot| Arc::clone(slot.tape()));
    let (gate, up) = (gate.clone(), up.clone());
    let slot = record(tape.as_ref(), move |dy, flow| {
        let device = dy.device();
        let mut dgate = Tensor::uninitialised(device, dy.rows(), dy.width());
        let mut dup = Tensor::uninitialised(device, dy.rows(), dy.width());
        let (g, u) = (gate.data(), up.data());
        activation::swiglu_backward(
            device.kernels(),
            dgate.data_mut(),
            dup.data_mut(),
            dy.data(),
            g,
            u,
        );
        for (x, dx) in [(&gate, dgate), (&up, dup)] {
            if let Some(slot) = x.slot() {
                flow.add(slot, dx);
            }
        }
    });
    y.with_slot(slot)
}
