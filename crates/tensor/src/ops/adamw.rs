//! One step of AdamW (arXiv 1711.05101), as PyTorch computes it.

use crate::param::Param;
use herd_kernels::optimiser as kernel;

pub use kernel::AdamW;

/// Running means of a parameter's gradient and of its square.
pub struct Moments {
    /// Mean of the gradient.
    pub m: Vec<f32>,
    /// Mean of its square.
    pub v: Vec<f32>,
}

impl Moments {
    /// Zeros for a parameter.
    pub fn zeroed(param: &Param) -> Moments {
        let len = param.rows() * param.cols();
        Moments { m: vec![0.0; len], v: vec![0.0; len] }
    }
}

/// Changes the masters of `param` by its gradient sums times `step.grad_scale`.
///
/// With g that gradient, t the step from 1 on:
/// w -= lr wd w; m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
/// w -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps).
pub fn adamw(param: &Param, moments: &mut Moments, step: &AdamW) {
    let cpu = param.device().kernels();
    param.update(|master, gradient| {
        if !gradient.is_empty() {
            kernel::adamw(cpu, master, &mut moments.m, &mut moments.v, gradient, step);
        }
    });
}

/// The sum of squares of a parameter's gradient, in a fixed order; NaN or infinite if a number is.
pub fn gradient_square(param: &Param) -> f64 {
    param.with_gradient(|g| kernel::sum_of_squares(param.device().kernels(), g))
}
