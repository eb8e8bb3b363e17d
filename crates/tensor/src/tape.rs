//! The tape: what was computed, so that gradients can flow back through it.
//!
//! An operation whose result depends on a trained weight leaves a node: a closure that takes the
//! gradient of its results and adds to those of its inputs. Nodes run in the reverse of their
//! order. Where a tensor was used several times, gradients are added in that order too, which
//! depends on the page of the model alone.

use crate::Tensor;
use herd_kernels::gemm::backward::Write;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

/// Records the operations of one micro-batch after another.
#[derive(Default)]
pub struct Tape {
    state: Mutex<State>,
}

/// What an operation does with the gradients of its results.
type Backward = Box<dyn FnOnce(&mut Flow) + Send>;

#[derive(Default)]
struct State {
    nodes: Vec<Backward>,
    slots: usize,
    paused: usize,
    blocks: Arc<[Range<usize>]>,
}

/// Where the gradient of a tensor is summed: a number on a tape.
#[derive(Clone)]
pub(crate) struct Slot {
    tape: Arc<Tape>,
    number: usize,
}

/// The gradients that are on their way, by slot.
pub(crate) struct Flow {
    gradients: Vec<Option<Tensor>>,
    /// Rows of the batch whose sums over tokens are chains of their own; see [`Tape::begin`].
    pub(crate) blocks: Arc<[Range<usize>]>,
}

impl Tape {
    /// Begins a micro-batch whose rows are cut into these ranges, in order and without gaps.
    ///
    /// A gradient of a weight sums each range on its own before adding it, so cutting a batch at
    /// their borders changes no bit. Whatever an abandoned pass recorded is forgotten.
    pub fn begin(&self, blocks: Vec<Range<usize>>) {
        let mut state = self.lock();
        state.nodes.clear();
        state.slots = 0;
        state.blocks = blocks.into();
    }

    /// Runs `f` without recording: for validation, sampling, and a forward pass that backward
    /// will repeat.
    pub fn paused<T>(&self, f: impl FnOnce() -> T) -> T {
        /// Records again even if `f` panics.
        struct Resume<'a>(&'a Tape);
        impl Drop for Resume<'_> {
            fn drop(&mut self) {
                self.0.lock().paused -= 1;
            }
        }
        self.lock().paused += 1;
        let _resume = Resume(self);
        f()
    }

    /// Whether nothing is recorded now.
    pub(crate) fn is_paused(&self) -> bool {
        self.lock().paused > 0
    }

    /// The ranges of rows of the micro-batch.
    pub(crate) fn blocks(&self) -> Arc<[Range<usize>]> {
        Arc::clone(&self.lock().blocks)
    }

    /// Sends gradients of tensors back through all that was recorded, at once: where ways meet, they are added.
    ///
    /// Gradients of weights are added to their sums.
    pub(crate) fn backward<const N: usize>(&self, seeds: [(&Slot, Tensor); N]) {
        let blocks = Arc::clone(&self.lock().blocks);
        let mut flow = Flow { gradients: Vec::new(), blocks };
        for (slot, dy) in seeds {
            flow.add(slot, dy);
        }
        loop {
            let node = self.lock().nodes.pop();
            match node {
                Some(node) => node(&mut flow),
                None => return,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Slot {
    pub(crate) fn tape(&self) -> &Arc<Tape> {
        &self.tape
    }
}

/// Leaves a node for an operation on `tape` and gives the slot of its result; `None` if there is
/// no tape, or it is paused. `backward` gets the gradient of the result.
pub(crate) fn record(
    tape: Option<&Arc<Tape>>,
    backward: impl FnOnce(Tensor, &mut Flow) + Send + 'static,
) -> Option<Slot> {
    let slots = record_all(tape, |[dy]: [Option<Tensor>; 1], flow| {
        backward(dy.expect("a node runs for a gradient"), flow);
    });
    slots.map(|[slot]| slot)
}

/// The same for an operation of N results; the gradient of one that nobody used is `None`.
pub(crate) fn record_all<const N: usize>(
    tape: Option<&Arc<Tape>>,
    backward: impl FnOnce([Option<Tensor>; N], &mut Flow) + Send + 'static,
) -> Option<[Slot; N]> {
    let tape = tape?;
    let mut state = tape.lock();
    if state.paused > 0 {
        return None;
    }
    let first = state.slots;
    state.slots += N;
    state.nodes.push(Box::new(move |flow: &mut Flow| {
        let gradients = std::array::from_fn(|i| flow.take(first + i));
        // Nothing flows back to results that nobody used.
        if gradients.iter().any(Option::is_some) {
            backward(gradients, flow);
        }
    }));
    Some(std::array::from_fn(|i| Slot { tape: Arc::clone(tape), number: first + i }))
}

impl Flow {
    fn take(&mut self, number: usize) -> Option<Tensor> {
        self.gradients.get_mut(number).and_then(Option::take)
    }

    fn place(&mut self, slot: &Slot) -> &mut Option<Tensor> {
        if self.gradients.len() <= slot.number {
            self.gradients.resize_with(slot.number + 1, || None);
        }
        &mut self.gradients[slot.number]
    }

    /// Adds `dx` to the gradient of a tensor.
    pub(crate) fn add(&mut self, slot: &Slot, dx: Tensor) {
        let place = self.place(slot);
        *place = Some(match place.take() {
            Some(sum) => sum.own() + &dx,
            None => dx,
        });
    }

    /// Lets `f` write the gradient of a tensor like `x`, or add to what is there.
    pub(crate) fn write(&mut self, x: &Tensor, f: impl FnOnce(&mut Tensor, Write)) {
        let Some(slot) = x.slot() else { return };
        let place = self.place(slot);
        let (mut dx, write) = match place.take() {
            Some(sum) => (sum.own(), Write::Add),
            None => (Tensor::uninitialised(x.device(), x.rows(), x.width()), Write::Set),
        };
        f(&mut dx, write);
        *place = Some(dx);
    }
}
