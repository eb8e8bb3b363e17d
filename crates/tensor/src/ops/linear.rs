//! y = x W^T, and with LoRA y = x W^T + scale (x A^T) B^T.

use crate::param::{Lora, Param};
use crate::tape::record;
use crate::{Tape, Tensor, Weight};
use herd_kernels::Format;
use herd_kernels::cpu::for_rows;
use herd_kernels::gemm::backward::{Precision, Rows, matmul_dw, matmul_dx};
use herd_kernels::gemm::{Product, matmul};
use std::ops::Range;
use std::sync::Arc;

/// The product of `x` [T, inputs] with `w` [outputs, inputs]: [T, outputs].
///
/// Backward: dx = dy W; dW = sum over tokens of dy_t x_t^T, in the blocks of the tape.
pub fn linear(x: &Tensor, w: &Weight) -> Tensor {
    let [y] = linears(x, [w]);
    y
}

/// Products of one `x` with several weights, at once: x is prepared once, threads wake once.
pub fn linears<const N: usize>(x: &Tensor, weights: [&Weight; N]) -> [Tensor; N] {
    let device = x.device();
    let forms = weights.map(Weight::packed);
    let mut outs = forms.each_ref().map(|w| Tensor::uninitialised(device, x.rows(), w.rows()));
    let mut outs_iter = outs.iter_mut();
    let mut products: [Product<'_>; N] = forms.each_ref().map(|w| {
        let y = outs_iter.next().expect("one output a weight").data_mut();
        Product { y, w }
    });
    matmul(device.kernels(), x.data(), x.rows(), &mut products);
    let mut weights = weights.iter();
    outs.map(|y| finish(x, y, weights.next().expect("one weight an output")))
}

/// Adds what LoRA adds, and leaves the node.
fn finish(x: &Tensor, y: Tensor, w: &Weight) -> Tensor {
    match w {
        Weight::Lora(lora) => {
            let frozen = record_product(x, y, lora.base.clone());
            add_lora(x, frozen, lora)
        }
        Weight::Packed(_) | Weight::Trained(_) => record_product(x, y, w.clone()),
    }
}

fn record_product(x: &Tensor, y: Tensor, w: Weight) -> Tensor {
    let tape = tape_of(x, &w);
    let x = x.clone();
    let slot = record(tape.as_ref(), move |dy, flow| {
        flow.write(&x, |dx, write| {
            let cpu = dy.device().kernels();
            matmul_dx(cpu, dx.data_mut(), dy.data(), &w.packed(), write);
        });
        if let Weight::Trained(param) = &w {
            add_weight_gradient(param, &dy, x.data(), &flow.blocks);
        }
    });
    y.with_slot(slot)
}

/// Where a product is recorded: if its input wants a gradient, or its weight does.
fn tape_of(x: &Tensor, w: &Weight) -> Option<Arc<Tape>> {
    x.slot().map(|slot| slot.tape()).or_else(|| w.tape()).map(Arc::clone)
}

/// Adds to the gradient of a weight what the rows `x` with the gradients `dy` give, in `blocks`.
pub(super) fn add_weight_gradient(param: &Param, dy: &Tensor, x: &[f32], blocks: &[Range<usize>]) {
    let cpu = dy.device().kernels();
    let precision = match param.format() {
        Format::BF16 => Precision::Bf16,
        _ => Precision::F32,
    };
    param.accumulate(|dw| matmul_dw(cpu, dw, dy.data(), Rows::F32(x), blocks, precision));
}

/// y + scale (x A^T) B^T.
fn add_lora(x: &Tensor, y: Tensor, lora: &Lora) -> Tensor {
    let low = linear(x, &Weight::Trained(Arc::clone(&lora.a)));
    let up = linear(&low, &Weight::Trained(Arc::clone(&lora.b)));
    y + &scaled(up, lora.scale)
}

/// x times a constant.
fn scaled(x: Tensor, by: f32) -> Tensor {
    let tape = x.slot().map(|slot| Arc::clone(slot.tape()));
    let of = x.slot().cloned();
    let slot = record(tape.as_ref(), move |dy, flow| {
        if let Some(of) = of {
            flow.add(&of, times(dy.own(), by));
        }
    });
    times(x.own(), by).with_slot(slot)
}

fn times(mut x: Tensor, by: f32) -> Tensor {
    let (device, width) = (x.device().clone(), x.width());
    for_rows(device.kernels(), x.data_mut(), width, |_, row| {
        row.iter_mut().for_each(|x| *x *= by);
    });
    x
}
