//! A part of the forward pass that keeps its input alone; backward runs it again.

use crate::Tensor;
use crate::tape::record;
use std::sync::Arc;

/// `run(x)`, of which only `x` is kept for backward: memory for time.
///
/// The same bits and gradients as `run(x)`, if `run` gives the same each time.
pub fn recompute(x: Tensor, run: impl Fn(Tensor) -> Tensor + Send + 'static) -> Tensor {
    let Some(tape) = x.slot().map(|slot| Arc::clone(slot.tape())) else { return run(x) };
    let y = tape.paused(|| run(x.clone()));
    let slot = record(Some(&tape), move |dy, flow| {
        // The nodes that this leaves run next, and add to the slot of `x` at their end.
        if let Some(slot) = run(x).slot() {
            flow.add(slot, dy);
        }
    });
    y.with_slot(slot)
}
