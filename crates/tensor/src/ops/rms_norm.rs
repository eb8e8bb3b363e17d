//! y = x / sqrt(mean(x^2) + eps) * w, row by row.

use crate::Tensor;
use herd_kernels::cpu::for_rows;
use herd_kernels::norm;

/// The norm of each row of `x` [T, D] with D weights `w`.
pub fn rms_norm(x: &Tensor, w: &[f32], eps: f32) -> Tensor {
    let device = x.device();
    let mut y = Tensor::uninitialised(device, x.rows(), x.width());
    let class = device.class();
    for_rows(device.kernels(), y.data_mut(), x.width(), |t, y| {
        norm::rms_norm(class, y, x.row(t), w, eps);
    });
    y
}
