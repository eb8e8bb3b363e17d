//! y = x / sqrt(mean(x^2) + eps) * w, row by row.

use crate::Tensor;
use crate::param::Gain;
use crate::tape::record;
use herd_kernels::cpu::for_rows;
use herd_kernels::norm;
use std::sync::Arc;

/// The norm of each row of `x` [T, D] with D gains `w`.
///
/// Backward, with r = 1 / sqrt(mean(x^2) + eps) and g = dy * w:
/// dx = r (g - x r^2 mean(g x)); dw = sum over tokens of dy x r, in the blocks of the tape.
pub fn rms_norm(x: &Tensor, w: &Gain, eps: f32) -> Tensor {
    let device = x.device();
    let mut y = Tensor::uninitialised(device, x.rows(), x.width());
    let class = device.class();
    w.with(|w| {
        for_rows(device.kernels(), y.data_mut(), x.width(), |t, y| {
            norm::rms_norm(class, y, x.row(t), w, eps);
        });
    });
    let tape = x.slot().map(|slot| slot.tape()).or_else(|| w.param().map(|p| p.tape()));
    let tape = tape.map(Arc::clone);
    let (x, w) = (x.clone(), w.clone());
    let slot = record(tape.as_ref(), move |dy, flow| {
        let cpu = dy.device().kernels();
        let gains = w.with(<[f32]>::to_vec);
        let mut dx = Tensor::uninitialised(dy.device(), x.rows(), x.width());
        let mut back = |dw: &mut [f32]| {
            let (dy, x) = (dy.data(), x.data());
            norm::rms_norm_backward(cpu, dx.data_mut(), dw, dy, x, &gains, eps, &flow.blocks);
        };
        match w.param() {
            Some(param) => param.accumulate(back),
            None => back(&mut vec![0.0; gains.len()]),
        }
        if let Some(slot) = x.slot() {
            flow.add(slot, dx);
        }
    });
    y.with_slot(slot)
}
