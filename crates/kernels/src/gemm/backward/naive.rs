//! The definitions of the products of training, summed in f64 and rounded once.

use super::{Precision, Rows, Write};
use half::bf16;
use std::ops::Range;

/// The number that is multiplied for `x`.
pub fn seen(precision: Precision, x: f32) -> f64 {
    f64::from(match precision {
        Precision::F32 => x,
        Precision::Bf16 => bf16::from_f32(x).to_f32(),
    })
}

/// Twin of [`super::matmul_dx`] for one token: dx\[i\] = sum over o of dy\[o\] W\[o, i\].
pub fn matmul_dx(dx: &mut [f32], dy: &[f32], w: &[f32], precision: Precision, write: Write) {
    let inputs = dx.len();
    for (i, dx) in dx.iter_mut().enumerate() {
        let terms = dy.iter().zip(w[i..].iter().step_by(inputs));
        let sum: f64 = terms.map(|(dy, w)| seen(precision, *dy) * seen(precision, *w)).sum();
        *dx = match write {
            Write::Set => sum as f32,
            Write::Add => (f64::from(*dx) + sum) as f32,
        };
    }
}

/// Twin of [`super::matmul_dw`] for one of `outputs` rows of dW:
/// dW\[o, i\] += sum over t of dy\[t, o\] x\[t, i\], one block after the other.
pub fn matmul_dw(
    dw: &mut [f32],
    dy: &[f32],
    x: Rows<'_>,
    blocks: &[Range<usize>],
    precision: Precision,
    (o, outputs): (usize, usize),
) {
    let inputs = dw.len();
    for (i, dw) in dw.iter_mut().enumerate() {
        for block in blocks {
            let term = |t: usize| {
                seen(precision, dy[t * outputs + o]) * seen(precision, x.get(t * inputs + i))
            };
            *dw += block.clone().map(term).sum::<f64>() as f32;
        }
    }
}
