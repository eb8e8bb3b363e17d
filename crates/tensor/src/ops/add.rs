//! x + y, in place.

use crate::Tensor;
use herd_kernels::cpu::for_rows;
use std::ops::Add;

impl Add<&Tensor> for Tensor {
    type Output = Tensor;

    /// Sums of two tensors of one shape, written over the first.
    fn add(mut self, y: &Tensor) -> Tensor {
        assert_eq!((self.rows(), self.width()), (y.rows(), y.width()), "add: shapes differ");
        let device = self.device().clone();
        let width = self.width();
        for_rows(device.kernels(), self.data_mut(), width, |t, x| {
            for (x, y) in x.iter_mut().zip(y.row(t)) {
                *x += y;
            }
        });
        self
    }
}
