//! y = x W^T, and with LoRA y = x W^T + scale (x A^T) B^T.

use crate::param::{Lora, Param};
use crate::tape::{record, record_all};
use crate::{Tape, Tensor, Weight};
use herd_kernels::cpu::for_rows;
use herd_kernels::gemm::backward::{
    Back, Precision, Rows, Write, matmul_back, matmul_dw, scratch_bytes,
};
use herd_kernels::gemm::{Product, matmul};
use herd_kernels::{Class, Format};
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
///
/// Panics if one trained weight is given twice.
pub fn linears<const N: usize>(x: &Tensor, weights: [&Weight; N]) -> [Tensor; N] {
    assert!(!twice(&weights), "linears: one trained weight twice");
    let device = x.device();
    let forms = weights.map(Weight::packed);
    let mut outs = forms.each_ref().map(|w| Tensor::uninitialised(device, x.rows(), w.rows()));
    let mut outs_iter = outs.iter_mut();
    let mut products: [Product<'_>; N] = forms.each_ref().map(|w| {
        let y = outs_iter.next().expect("one output a weight").data_mut();
        Product { y, w }
    });
    matmul(device.kernels(), x.data(), x.rows(), &mut products);
    if !weights.iter().any(|w| matches!(w, Weight::Lora(_))) {
        return record_products(x, outs, weights.map(Weight::clone));
    }
    let mut weights = weights.iter();
    outs.map(|y| finish(x, y, weights.next().expect("one weight an output")))
}

/// Whether two of them are one parameter, whose sums can be lent only once.
fn twice(weights: &[&Weight]) -> bool {
    let same = |a: &Weight, b: &Weight| match (a, b) {
        (Weight::Trained(a), Weight::Trained(b)) => Arc::ptr_eq(a, b),
        _ => false,
    };
    weights.iter().enumerate().any(|(i, a)| weights[..i].iter().any(|b| same(a, b)))
}

/// Adds what LoRA adds, and leaves the node.
fn finish(x: &Tensor, y: Tensor, w: &Weight) -> Tensor {
    match w {
        Weight::Lora(lora) => {
            let [frozen] = record_products(x, [y], [lora.base.clone()]);
            add_lora(x, frozen, lora)
        }
        Weight::Packed(_) | Weight::Trained(_) => {
            let [y] = record_products(x, [y], [w.clone()]);
            y
        }
    }
}

/// Leaves one node for products of one `x`: their gradients are read once, and summed in dx.
fn record_products<const N: usize>(
    x: &Tensor,
    outs: [Tensor; N],
    weights: [Weight; N],
) -> [Tensor; N] {
    let tape = weights.iter().find_map(|w| tape_of(x, w));
    let x = x.clone();
    let slots = record_all(tape.as_ref(), move |dys: [Option<Tensor>; N], flow| {
        let blocks = Arc::clone(&flow.blocks);
        if x.slot().is_some() {
            flow.write(&x, |dx, write| back(&x, &dys, &weights, Some((dx, write)), &blocks));
        } else {
            back(&x, &dys, &weights, None, &blocks);
        }
    });
    let mut slots = slots.into_iter().flatten();
    outs.map(|y| y.with_slot(slots.next()))
}

/// Adds to the gradients of all weights that are trained, and of `x` if it is wanted.
fn back(
    x: &Tensor,
    dys: &[Option<Tensor>],
    weights: &[Weight],
    dx: Option<(&mut Tensor, Write)>,
    blocks: &[Range<usize>],
) {
    let used = || dys.iter().zip(weights).filter_map(|(dy, w)| Some((dy.as_ref()?, w)));
    let forms: Vec<_> = used().map(|(_, w)| w.packed()).collect();
    let mut sums: Vec<_> = used()
        .map(|(_, w)| match w {
            Weight::Trained(param) => Some(param.sums()),
            Weight::Packed(_) | Weight::Lora(_) => None,
        })
        .collect();
    let mut products: Vec<Back<'_>> = used()
        .zip(&forms)
        .zip(&mut sums)
        .map(|(((dy, _), w), dw)| Back { dy: dy.data(), w, dw: dw.as_deref_mut() })
        .collect();
    let dx = dx.map(|(dx, write)| (dx.data_mut(), write));
    matmul_back(x.device().kernels(), dx, Rows::F32(x.data()), &mut products, blocks);
}

/// Bytes of working memory for the gradients of trained products of one x over packed rows of
/// `row_tokens` tokens, on this machine's fastest class; `None` where each product is on its own.
pub fn linears_back_bytes(
    format: Format,
    outputs: &[usize],
    inputs: usize,
    row_tokens: usize,
) -> Option<usize> {
    let joint = format == Format::BF16;
    joint.then(|| scratch_bytes(Class::best(), outputs, inputs, row_tokens)).flatten()
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
    let low = linear(x, &lora.a);
    let up = linear(&low, &lora.b);
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
