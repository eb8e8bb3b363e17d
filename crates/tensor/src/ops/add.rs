//! x + y, in place where nobody else holds x.

use crate::Tensor;
use crate::tape::record;
use herd_kernels::cpu::for_rows;
use std::ops::Add;
use std::sync::Arc;

impl Add<&Tensor> for Tensor {
    type Output = Tensor;

    /// Sums of two tensors of one shape, written over the first if it has no clones.
    ///
    /// Backward: dx = dy = the gradient of the sum.
    fn add(self, y: &Tensor) -> Tensor {
        assert_eq!((self.rows(), self.width()), (y.rows(), y.width()), "add: shapes differ");
        let slots = [self.slot().cloned(), y.slot().cloned()];
        let tape = slots.iter().flatten().next().map(|slot| Arc::clone(slot.tape()));
        let slot = record(tape.as_ref(), move |d, flow| {
            for slot in slots.iter().flatten() {
                flow.add(slot, d.clone());
            }
        });
        let mut x = self.own();
        let (device, width) = (x.device().clone(), x.width());
        for_rows(device.kernels(), x.data_mut(), width, |t, x| {
            for (x, y) in x.iter_mut().zip(y.row(t)) {
                *x += y;
            }
        });
        x.with_slot(slot)
    }
}
