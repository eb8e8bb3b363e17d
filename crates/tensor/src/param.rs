//! Numbers that training changes: f32 masters, the form that products read, and sums of gradients.

use crate::{Device, Tape, Weight};
use herd_kernels::Format;
use herd_kernels::gemm::Packed;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

/// A trained matrix [rows, cols], or a vector as one row.
pub struct Param {
    rows: usize,
    cols: usize,
    format: Format,
    device: Device,
    tape: Arc<Tape>,
    values: RwLock<Values>,
    gradient: Mutex<Gradient>,
}

/// Masters, and what the forward pass reads: masters rounded to the format of the run.
pub(crate) struct Values {
    master: Vec<f32>,
    form: Form,
}

enum Form {
    /// Laid out for products.
    Matrix(Packed),
    /// A norm's gains; empty where the masters themselves are read.
    Vector(Vec<f32>),
}

/// Sums over the tokens of a batch, in their order.
#[derive(Default)]
struct Gradient {
    sums: Vec<f32>,
    /// What rows got that were looked up. An embedding that is the head as well has two uses, whose
    /// sums must not interleave: micro-batches would change the order.
    looked_up: Vec<f32>,
    /// There are products: else the sums of rows stand for all, and return to their place when they
    /// are cleared.
    multiplied: bool,
}

impl Param {
    /// A matrix of `rows` outputs by `cols` inputs, used in products as `format`.
    ///
    /// Panics if `master` is not `rows` times `cols`, or the format is neither F32 nor BF16.
    pub fn matrix(
        device: &Device,
        tape: &Arc<Tape>,
        format: Format,
        [rows, cols]: [usize; 2],
        master: Vec<f32>,
    ) -> Arc<Param> {
        assert_eq!(master.len(), rows * cols, "param of {rows} x {cols}");
        assert!(matches!(format, Format::F32 | Format::BF16), "trained as {}", format.name());
        let packed = Packed::from_f32(device.kernels(), format, rows, cols, &master);
        Param::new(device, tape, format, [rows, cols], master, Form::Matrix(packed))
    }

    /// The gains of a norm, rounded to `format` in the forward pass.
    pub fn vector(
        device: &Device,
        tape: &Arc<Tape>,
        format: Format,
        master: Vec<f32>,
    ) -> Arc<Param> {
        let form = Form::Vector(rounded(format, &master));
        Param::new(device, tape, format, [1, master.len()], master, form)
    }

    fn new(
        device: &Device,
        tape: &Arc<Tape>,
        format: Format,
        [rows, cols]: [usize; 2],
        master: Vec<f32>,
        form: Form,
    ) -> Arc<Param> {
        Arc::new(Param {
            rows,
            cols,
            format,
            device: device.clone(),
            tape: Arc::clone(tape),
            values: RwLock::new(Values { master, form }),
            gradient: Mutex::default(),
        })
    }

    /// Outputs; 1 for a vector.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs, or the length of a vector.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// How the forward pass sees the numbers.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Where it lives.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Where its operations are recorded.
    pub fn tape(&self) -> &Arc<Tape> {
        &self.tape
    }

    /// Whether it is a norm's gains: such parameters are not decayed.
    pub fn is_vector(&self) -> bool {
        matches!(self.read().form, Form::Vector(_))
    }

    /// Shows the masters, row by row.
    pub fn with_master<T>(&self, f: impl FnOnce(&[f32]) -> T) -> T {
        f(&self.read().master)
    }

    /// Sets the masters. Panics if there are not as many.
    pub fn set_master(&self, numbers: &[f32]) {
        self.update(|master, _| master.copy_from_slice(numbers));
    }

    /// Shows the sums of gradients; empty if none came.
    pub fn with_gradient<T>(&self, f: impl FnOnce(&[f32]) -> T) -> T {
        f(&self.gradient().sums)
    }

    /// Joins the sums of all uses: after the last micro-batch, before the norm.
    pub fn join_gradients(&self) {
        let gradient = &mut *self.gradient();
        if gradient.looked_up.is_empty() {
            return;
        }
        if !gradient.multiplied {
            std::mem::swap(&mut gradient.sums, &mut gradient.looked_up);
            return;
        }
        for (sum, more) in gradient.sums.iter_mut().zip(&mut gradient.looked_up) {
            *sum += std::mem::take(more);
        }
    }

    /// Sets the sums to zero for the next batch.
    pub fn clear_gradient(&self) {
        let gradient = &mut *self.gradient();
        if !gradient.multiplied && gradient.looked_up.is_empty() {
            std::mem::swap(&mut gradient.sums, &mut gradient.looked_up);
        }
        gradient.sums.fill(0.0);
        gradient.looked_up.fill(0.0);
    }

    /// Lets `f(masters, sums of gradients)` change the masters; products read the new ones.
    pub fn update(&self, f: impl FnOnce(&mut [f32], &[f32])) {
        let values = &mut *self.values.write().unwrap_or_else(PoisonError::into_inner);
        f(&mut values.master, &self.gradient().sums);
        match &mut values.form {
            Form::Matrix(packed) => packed.refill(self.device.kernels(), &values.master),
            Form::Vector(gains) => *gains = rounded(self.format, &values.master),
        }
    }

    /// Adds to the sums of products.
    pub(crate) fn accumulate(&self, f: impl FnOnce(&mut [f32])) {
        f(&mut self.sums());
    }

    /// The sums of products, to be added to.
    pub(crate) fn sums(&self) -> Sums<'_> {
        let mut gradient = self.gradient();
        gradient.multiplied = true;
        gradient.sums.resize(self.rows * self.cols, 0.0);
        Sums(gradient)
    }

    /// Adds to the sums of rows that were looked up.
    pub(crate) fn accumulate_rows(&self, f: impl FnOnce(&mut [f32])) {
        let sums = &mut self.gradient().looked_up;
        sums.resize(self.rows * self.cols, 0.0);
        f(sums);
    }

    /// The matrix for products. Panics if it is a vector.
    pub(crate) fn packed(&self) -> Read<'_> {
        Read(self.read())
    }

    /// Shows a vector's gains. Panics if it is a matrix.
    pub(crate) fn with_gains<T>(&self, f: impl FnOnce(&[f32]) -> T) -> T {
        match &self.read().form {
            Form::Vector(gains) => f(gains),
            Form::Matrix(_) => panic!("a matrix as gains"),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Values> {
        self.values.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn gradient(&self) -> MutexGuard<'_, Gradient> {
        self.gradient.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A matrix that nobody changes meanwhile.
pub(crate) struct Read<'a>(RwLockReadGuard<'a, Values>);

impl Deref for Read<'_> {
    type Target = Packed;

    fn deref(&self) -> &Packed {
        match &self.0.form {
            Form::Matrix(packed) => packed,
            Form::Vector(_) => panic!("a vector in a product"),
        }
    }
}

/// The sums of a parameter's gradient that nobody else changes meanwhile.
pub(crate) struct Sums<'a>(MutexGuard<'a, Gradient>);

impl Deref for Sums<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0.sums
    }
}

impl DerefMut for Sums<'_> {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0.sums
    }
}

/// The numbers as a forward pass in `format` sees them.
fn rounded(format: Format, master: &[f32]) -> Vec<f32> {
    match format {
        Format::BF16 => master.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect(),
        _ => master.to_vec(),
    }
}

/// The gains of a norm.
#[derive(Clone)]
pub enum Gain {
    /// As loaded.
    Fixed(Arc<[f32]>),
    /// Changed by training.
    Trained(Arc<Param>),
}

impl Gain {
    /// Its parameter, if it is trained.
    pub fn param(&self) -> Option<&Arc<Param>> {
        match self {
            Gain::Fixed(_) => None,
            Gain::Trained(param) => Some(param),
        }
    }

    pub(crate) fn with<T>(&self, f: impl FnOnce(&[f32]) -> T) -> T {
        match self {
            Gain::Fixed(gains) => f(gains),
            Gain::Trained(param) => param.with_gains(f),
        }
    }
}

/// A frozen matrix W and a product of low rank beside it, trained or not: W + scale B A (arXiv 2106.09685).
pub struct Lora {
    /// W, [outputs, inputs].
    pub base: Weight,
    /// A, [rank, inputs].
    pub a: Weight,
    /// B, [outputs, rank].
    pub b: Weight,
    /// alpha / rank.
    pub scale: f32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use herd_kernels::Class;

    #[test]
    fn rows_that_are_only_looked_up_have_one_place_for_their_sums() {
        let device = Device::cpu(Class::Portable, 1);
        let tape = Arc::new(Tape::default());
        let param = Param::matrix(&device, &tape, Format::F32, [2, 1], vec![0.0; 2]);
        for step in 0..3 {
            param.accumulate_rows(|sums| sums[1] += 1.0);
            param.accumulate_rows(|sums| sums[1] += 2.0);
            param.join_gradients();
            param.with_gradient(|sums| assert_eq!(sums, [0.0, 3.0], "step {step}"));
            param.clear_gradient();
            param.clear_gradient();
            let gradient = param.gradient();
            assert_eq!((gradient.sums.len(), gradient.looked_up.len()), (0, 2), "step {step}");
        }
        param.accumulate_rows(|sums| sums[1] += 1.0);
        param.accumulate(|sums| sums[0] += 1.0);
        param.join_gradients();
        param.with_gradient(|sums| assert_eq!(sums, [1.0, 1.0]));
    }
}
