//! The definitions: each operation as its formula reads, summed in f64 and rounded once.
//!
//! The fast kernels are tested against these. Shapes and panics are those of the fast twin.

mod gradients;

use crate::rope::Layout;
use crate::top_k::order;

pub use gradients::*;

/// Twin of [`crate::norm::rms_norm`]: y = x / sqrt(mean(x^2) + eps) * w.
pub fn rms_norm(y: &mut [f32], x: &[f32], w: &[f32], eps: f32) {
    for (y, x) in y.chunks_exact_mut(w.len()).zip(x.chunks_exact(w.len())) {
        let mean_square = mean(x.iter().map(|x| f64::from(*x).powi(2)));
        let root = (mean_square + f64::from(eps)).sqrt();
        for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
            *y = (f64::from(*x) / root * f64::from(*w)) as f32;
        }
    }
}

/// Twin of [`crate::norm::layer_norm`]: y = (x - mean(x)) / sqrt(variance(x) + eps) * w + b.
pub fn layer_norm(y: &mut [f32], x: &[f32], w: &[f32], b: &[f32], eps: f32) {
    for (y, x) in y.chunks_exact_mut(w.len()).zip(x.chunks_exact(w.len())) {
        let centre = mean(x.iter().map(|x| f64::from(*x)));
        let variance = mean(x.iter().map(|x| (f64::from(*x) - centre).powi(2)));
        let root = (variance + f64::from(eps)).sqrt();
        for (((y, x), w), b) in y.iter_mut().zip(x).zip(w).zip(b) {
            *y = ((f64::from(*x) - centre) / root * f64::from(*w) + f64::from(*b)) as f32;
        }
    }
}

fn mean(x: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = x.len() as f64;
    x.sum::<f64>() / n
}

/// Twin of [`crate::rope::rope`]: (a, b) becomes (a cos - b sin, b cos + a sin).
pub fn rope(
    x: &mut [f32],
    positions: &[u32],
    table: &[f32],
    heads: usize,
    head_dim: usize,
    layout: Layout,
) {
    let half = head_dim / 2;
    for (t, position) in positions.iter().enumerate() {
        for h in 0..heads {
            for i in 0..half {
                let (first, second) = match layout {
                    Layout::Interleaved => (2 * i, 2 * i + 1),
                    Layout::HalfSplit => (i, i + half),
                };
                let row = *position as usize * head_dim;
                let (cos, sin) = (f64::from(table[row + i]), f64::from(table[row + half + i]));
                let head = (t * heads + h) * head_dim;
                let (a, b) = (f64::from(x[head + first]), f64::from(x[head + second]));
                x[head + first] = (a * cos - b * sin) as f32;
                x[head + second] = (b * cos + a * sin) as f32;
            }
        }
    }
}

/// Twin of [`crate::activation::silu`]: y = x / (1 + e^-x).
pub fn silu(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = silu_of(f64::from(*x)) as f32;
    }
}

/// Twin of [`crate::activation::swiglu`]: y = silu(gate) * up.
pub fn swiglu(y: &mut [f32], gate: &[f32], up: &[f32]) {
    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
        *y = (silu_of(f64::from(*gate)) * f64::from(*up)) as f32;
    }
}

fn silu_of(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// Twin of [`crate::activation::gelu`]: y = x (1 + erf(x / sqrt 2)) / 2.
pub fn gelu(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        let x = f64::from(*x);
        *y = (0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))) as f32;
    }
}

/// Twin of [`crate::activation::gelu_tanh`]: y = x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2.
pub fn gelu_tanh(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        let x = f64::from(*x);
        let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
        *y = (0.5 * x * (1.0 + u.tanh())) as f32;
    }
}

/// erf z = 2 / sqrt(pi) e^(-z^2) sum of 2^n z^(2n+1) / (1 3 5 ... (2n+1)): no term cancels another.
fn erf(z: f64) -> f64 {
    if z.abs() > 6.0 {
        return z.signum(); // 1 - erf 6 = 2e-17
    }
    let (mut term, mut sum) = (z, 0.0);
    for n in 1..200 {
        sum += term;
        term *= 2.0 * z * z / f64::from(2 * n + 1);
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-z * z).exp() * sum
}

/// Twin of [`crate::softmax::softmax`]: y_i = e^(x_i - m) / sum_j e^(x_j - m), m = max x.
pub fn softmax(y: &mut [f32], x: &[f32], width: usize) {
    for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
        let log_sum = log_sum_exp_of(x);
        for (y, x) in y.iter_mut().zip(x) {
            *y = (f64::from(*x) - log_sum).exp() as f32;
        }
    }
}

/// Twin of [`crate::softmax::log_softmax`]: y_i = x_i - log_sum_exp(x).
pub fn log_softmax(y: &mut [f32], x: &[f32], width: usize) {
    for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
        let log_sum = log_sum_exp_of(x);
        for (y, x) in y.iter_mut().zip(x) {
            *y = (f64::from(*x) - log_sum) as f32;
        }
    }
}

/// Twin of [`crate::softmax::log_sum_exp`]: m + ln sum_j e^(x_j - m), m = max x.
pub fn log_sum_exp(out: &mut [f32], x: &[f32], width: usize) {
    for (out, x) in out.iter_mut().zip(x.chunks_exact(width)) {
        *out = log_sum_exp_of(x) as f32;
    }
}

fn log_sum_exp_of(x: &[f32]) -> f64 {
    let m = x.iter().fold(f64::NEG_INFINITY, |m, x| m.max(f64::from(*x)));
    m + x.iter().map(|x| (f64::from(*x) - m).exp()).sum::<f64>().ln()
}

/// Twin of [`crate::top_k::top_k`]: the first `k` of the sorted row.
pub fn top_k(row: &[f32], k: usize) -> Vec<(f32, u32)> {
    let mut all: Vec<(f32, u32)> = row.iter().copied().zip(0..).collect();
    all.sort_by(|a, b| order(*a, *b));
    all.truncate(k);
    all
}
