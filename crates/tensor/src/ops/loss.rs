//! The head and its loss as one operation, which never holds all logits.
//!
//! L = scale sum_t weight_t (ln sum_v e^(x_t . w_v) - x_t . w_target(t)).

use crate::ops::linear::add_weight_gradient;
use crate::tape::Slot;
use crate::{Tensor, Weight};
use herd_kernels::cross_entropy as kernel;
use herd_kernels::gemm::backward::{Write, matmul_dx};
use herd_kernels::gemm::{Product, matmul};
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

/// Rows whose logits exist at once, at most.
const ROWS: usize = 256;

/// The loss of hidden states `x` [T, D] under the head `w` [V, D].
///
/// On a tape, the gradient of the head is summed at once, block by block of the tape, and that of
/// `x` waits for [`Loss::backward`]: logits are computed once and never kept. Panics if there is
/// not one target a row, a target is not below V, or the head has a LoRA.
pub fn cross_entropy(x: &Tensor, w: &Weight, targets: &Targets<'_>) -> Loss {
    assert!(!matches!(w, Weight::Lora(_)), "the loss of a head with LoRA");
    assert_eq!(targets.ids.len(), x.rows(), "cross_entropy: not one target a row");
    let slot = x.slot().filter(|slot| !slot.tape().is_paused()).cloned();
    let chunks = match &slot {
        Some(slot) => slot.tape().blocks().to_vec(),
        None => (0..x.rows()).step_by(ROWS).map(|a| a..(a + ROWS).min(x.rows())).collect(),
    };
    let mut dx = slot.as_ref().map(|_| Tensor::uninitialised(x.device(), x.rows(), x.width()));
    let mut loss = Loss { nats_t: vec![0.0; x.rows()], nats: 0.0, z: 0.0, back: None };
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
            slot.tape().backward(&slot, dx);
        }
    }
}
