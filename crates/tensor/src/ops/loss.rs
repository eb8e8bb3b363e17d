//! The head and its loss as one operation, which never holds all logits.
//!
//! L = scale sum_t weight_t (ln sum_v e^(x_t . w_v) - x_t . w_target(t)).

use crate::ops::linear::add_weight_gradient;
use crate::tape::Slot;
use crate::{Tensor, Weight};
use herd_kernels::cross_entropy as kernel;
use herd_kernels::gemm::backward::{Write, matmul_dx};
use herd_kernels::gemm::head::{Head, HeadGrads, fuses, head_loss, scratch_words};
use herd_kernels::gemm::{Product, matmul};
use herd_kernels::{Class, Format};
use std::ops::Range;

pub use kernel::Targets;

/// What the rows lose, and the gradient that waits to flow back.
pub struct Loss {
    /// ln 1/p of each row's target, not weighted; 0 where its weight is 0.
    pub nats_t: Vec<f32>,
    /// The weighted sum of `nats_t`, in the order of the rows.
    pub nats: f64,
    /// The weighted sum of z (ln sum_v e^logit)^2.
    pub z: f64,
    back: Option<(Slot, Tensor)>,
}

/// Rows of a block where no tape names them, and whose logits exist at once, at most.
pub(super) const ROWS: usize = 256;

/// The blocks of rows whose gradients of weights are chains of their own.
pub(super) fn chunks_of(x: &Tensor, slot: Option<&Slot>) -> Vec<Range<usize>> {
    match slot {
        Some(slot) => slot.tape().blocks().to_vec(),
        None => (0..x.rows()).step_by(ROWS).map(|a| a..(a + ROWS).min(x.rows())).collect(),
    }
}

/// The loss of hidden states `x` [T, D] under the head `w` [V, D].
///
/// On a tape, the gradient of the head is summed at once, block by block of the tape, and that of
/// `x` waits for [`Loss::backward`]: logits are computed once and never kept. A head in bf16 is one
/// kernel (`herd_kernels::gemm::head`). Panics if there is not one target a row, a target is not
/// below V, or the head has a LoRA.
pub fn cross_entropy(x: &Tensor, w: &Weight, targets: &Targets<'_>) -> Loss {
    assert!(!matches!(w, Weight::Lora(_)), "the loss of a head with LoRA");
    assert_eq!(targets.ids.len(), x.rows(), "cross_entropy: not one target a row");
    let slot = x.slot().filter(|slot| !slot.tape().is_paused()).cloned();
    let chunks = chunks_of(x, slot.as_ref());
    let mut dx = slot.as_ref().map(|_| Tensor::uninitialised(x.device(), x.rows(), x.width()));
    let mut loss = Loss { nats_t: vec![0.0; x.rows()], nats: 0.0, z: 0.0, back: None };
    if fuses(x.device().class(), w.format(), targets.z_loss) {
        let sums = fused(x, w, targets, &chunks, &mut loss.nats_t, dx.as_mut());
        (loss.nats, loss.z) = (sums.nats, sums.z);
        loss.back = slot.zip(dx);
        return loss;
    }
    for rows in chunks {
        let (dlogits, sums) = chunk(x, w, targets, &rows, &mut loss.nats_t[rows.clone()]);
        loss.nats += sums.nats;
        loss.z += sums.z;
        if let Some(dx) = &mut dx {
            let of = |rows: &Range<usize>| rows.start * x.width()..rows.end * x.width();
            let dx = &mut dx.data_mut()[of(&rows)];
            matmul_dx(x.device().kernels(), dx, dlogits.data(), &w.packed(), Write::Set);
            if let Weight::Trained(param) = w {
                let block = 0..rows.len();
                add_weight_gradient(param, &dlogits, &x.data()[of(&rows)], &[block]);
            }
        }
    }
    loss.back = slot.zip(dx);
    loss
}

/// Bytes of working memory where a head [V, D] in this format is one kernel for T tokens, on this
/// machine's fastest class; `None` where logits are a tensor. `sizes` are T, V and D.
pub fn fused_head_bytes(format: Format, sizes: [usize; 3], threads: usize) -> Option<u64> {
    let [tokens, vocab, width] = sizes;
    let fused = fuses(Class::best(), format, 0.0);
    fused.then(|| 4 * scratch_words(tokens, vocab, width, threads) as u64)
}

/// All in one walk, whose logits never leave the cache.
fn fused(
    x: &Tensor,
    w: &Weight,
    targets: &Targets<'_>,
    blocks: &[Range<usize>],
    nats_t: &mut [f32],
    dx: Option<&mut Tensor>,
) -> kernel::Loss {
    let (cpu, packed) = (x.device().kernels(), w.packed());
    let head = Head { x: x.data(), w: &packed, targets: *targets, blocks };
    let Some(dx) = dx.map(Tensor::data_mut) else { return head_loss(cpu, nats_t, &head, None) };
    let Weight::Trained(param) = w else {
        return head_loss(cpu, nats_t, &head, Some(HeadGrads { dx, dw: None }));
    };
    let mut sums = kernel::Loss { nats: 0.0, z: 0.0 };
    param.accumulate(|dw| {
        sums = head_loss(cpu, nats_t, &head, Some(HeadGrads { dx, dw: Some(dw) }));
    });
    sums
}

/// The gradient of the logits of some rows, and their sums.
fn chunk(
    x: &Tensor,
    w: &Weight,
    targets: &Targets<'_>,
    rows: &Range<usize>,
    nats_t: &mut [f32],
) -> (Tensor, kernel::Loss) {
    let (device, width) = (x.device(), x.width());
    let packed = w.packed();
    let mut logits = Tensor::uninitialised(device, rows.len(), packed.rows());
    let x = &x.data()[rows.start * width..rows.end * width];
    let mut products = [Product { y: logits.data_mut(), w: &packed }];
    matmul(device.kernels(), x, rows.len(), &mut products);
    let (ids, weights) = (&targets.ids[rows.clone()], &targets.weights[rows.clone()]);
    let targets = Targets { ids, weights, ..*targets };
    let sums =
        kernel::cross_entropy(device.kernels(), nats_t, logits.data_mut(), packed.rows(), &targets);
    (logits, sums)
}

impl Loss {
    /// Sends the gradient back through all that led here; nothing if nothing was recorded.
    pub fn backward(self) {
        if let Some((slot, dx)) = self.back {
            slot.tape().backward([(&slot, dx)]);
        }
    }

    /// The same, and with it the gradient of other numbers that were computed from the same hidden states, row by row.
    /// Panics if there are not as many.
    pub fn backward_with(self, others: &Tensor, gradient: &[f32]) {
        let gradient = Tensor::from_slice(others.device(), others.rows(), others.width(), gradient);
        if let Some(((slot, dx), other)) = self.back.zip(others.slot()) {
            slot.tape().backward([(&slot, dx), (other, gradient)]);
        }
    }
}
