//! silu(gate) * up, elementwise.

use crate::Tensor;
use herd_kernels::activation;
use herd_kernels::cpu::for_rows;

/// silu(gate) * up, each [T, F].
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Tensor {
    assert_eq!((gate.rows(), gate.width()), (up.rows(), up.width()), "swiglu: shapes differ");
    let device = up.device();
    let mut y = Tensor::uninitialised(device, up.rows(), up.width());
    for_rows(device.kernels(), y.data_mut(), up.width(), |t, y| {
        activation::swiglu(device.class(), y, gate.row(t), up.row(t));
    });
    y
}
