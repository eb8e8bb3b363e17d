//! Cross-entropy of rows of logits, and its gradient written over them.
//!
//! loss = sum_t weight_t (lse_t - logit_t[target_t] + z lse_t^2), lse_t = ln sum_v e^logit_tv.
//!
//! The caller brings a chunk of rows at a time, so that the logits of all tokens never exist at once.
//! Letters: T tokens, V vocabulary.

use crate::cpu::{Cpu, Parts};
use crate::dispatch::for_class;
use crate::math::{LANES, exp, fold_lanes, join_lanes, ln, maximum};

/// What the rows should have said, and how much each counts.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    /// The token that follows each row, `[T]`.
    pub ids: &'a [u32],
    /// The weight of each row, `[T]`; 0 leaves a row out, whatever it holds.
    pub weights: &'a [f32],
    /// Factor of the gradient alone: 1 / the number of targets in the batch, or of all weights.
    pub scale: f32,
    /// Coefficient of lse^2, which keeps logits from drifting; 0 for none.
    pub z_loss: f32,
}

/// Sums over rows, in their order, in f64.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// Weighted nats: the sum of weight (lse - logit of the target).
    pub nats: f64,
    /// The sum of weight z lse^2.
    pub z: f64,
}

/// Writes the nats of each row, and over the logits the gradient of the scaled loss.
///
/// Shapes: `nats` is `[T]` (lse - logit of the target, not weighted; 0 where the weight is 0), `logits`
/// is [T, `width`]; row t becomes weight_t scale (softmax (1 + 2 z lse) - onehot(target_t)).
/// A row with NaN in it gives NaN in both. A row's bits depend on that row alone.
/// Panics if `width` is 0, sizes disagree, or a target is not below `width`.
pub fn cross_entropy(
    cpu: &Cpu,
    nats: &mut [f32],
    logits: &mut [f32],
    width: usize,
    targets: &Targets<'_>,
) -> Loss {
    assert!(width > 0, "cross_entropy: rows have no width");
    assert_eq!(logits.len(), nats.len() * width, "cross_entropy: logits are not one row a target");
    assert_eq!(targets.ids.len(), nats.len(), "cross_entropy: ids and nats differ in length");
    assert_eq!(targets.weights.len(), nats.len(), "cross_entropy: not one weight a target");
    for (t, id) in targets.ids.iter().enumerate() {
        assert!(
            (*id as usize) < width,
            "cross_entropy: target {id} of row {t}, vocabulary {width}"
        );
    }
    crate::naive::cross_entropy(nats, logits, width, targets)
}
