//! y = x W^T.

use crate::{Tensor, Weight};
use herd_kernels::gemm::{Product, matmul};

/// The product of `x` [T, inputs] with `w` [outputs, inputs]: [T, outputs].
pub fn linear(x: &Tensor, w: &Weight) -> Tensor {
    let [y] = linears(x, [w]);
    y
}

/// Products of one `x` with several weights, at once: x is prepared once, threads wake once.
pub fn linears<const N: usize>(x: &Tensor, weights: [&Weight; N]) -> [Tensor; N] {
    let device = x.device();
    let mut outs = weights.map(|w| Tensor::uninitialised(device, x.rows(), w.rows()));
    let mut outs_iter = outs.iter_mut();
    let mut products: [Product<'_>; N] = weights.map(|w| {
        let Weight::Packed(w) = w;
        let y = outs_iter.next().expect("one output a weight").data_mut();
        Product { y, w }
    });
    matmul(device.kernels(), x.data(), x.rows(), &mut products);
    outs
}
