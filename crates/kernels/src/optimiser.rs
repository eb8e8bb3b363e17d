//! The step of AdamW, and the sum of squares by which gradients are clipped.

use crate::Cpu;
use crate::cpu::Parts;
use crate::dispatch::for_class;

/// The numbers of one step of AdamW, those of a schedule already applied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the root.
    pub eps: f64,
    /// Share of a parameter, times the rate, that each step takes away.
    pub weight_decay: f64,
    /// Steps done, this one included: from 1.
    pub step: u64,
    /// Every gradient is multiplied by this first: less than 1 when the norm is clipped.
    pub grad_scale: f32,
}

/// The factors of a step, computed in f64 and rounded once, as PyTorch does.
#[derive(Clone, Copy)]
struct Factors {
    scale: f32,
    keep: f32,
    to_mean: f32,
    beta2: f32,
    to_square: f32,
    root: f32,
    eps: f32,
    step: f32,
}

impl AdamW {
    fn factors(&self) -> Factors {
        assert!(self.step > 0, "adamw: steps count from 1");
        let steps = i32::try_from(self.step).unwrap_or(i32::MAX);
        let correction1 = 1.0 - self.beta1.powi(steps);
        let correction2 = 1.0 - self.beta2.powi(steps);
        Factors {
            scale: self.grad_scale,
            keep: (1.0 - self.lr * self.weight_decay) as f32,
            to_mean: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            to_square: (1.0 - self.beta2) as f32,
            root: correction2.sqrt() as f32,
            eps: self.eps as f32,
            step: (-(self.lr / correction1)) as f32,
        }
    }
}

/// One step of AdamW on the parameters `w`, with the means `m` and `v` of `grad` and its squares.
///
/// Panics if lengths differ. Source: torch.optim.AdamW of one tensor, arXiv 1711.05101.
pub fn adamw(
    cpu: &Cpu,
    w: &mut [f32],
    m: &mut [f32],
    v: &mut [f32],
    grad: &[f32],
    settings: &AdamW,
) {
    let n = grad.len();
    assert!(w.len() == n && m.len() == n && v.len() == n, "adamw: lengths differ");
    let f = settings.factors();
    let (class, parts) = (cpu.lanes(), [Parts::new(w), Parts::new(m), Parts::new(v)]);
    cpu.pool.run_ranges(n, GRAIN, |a, b| {
        // SAFETY: each range is given to one task.
        let [w, m, v] = [0, 1, 2].map(|i| unsafe { parts[i].part(a, b - a) });
        let grad = &grad[a..b];
        for_class!(
            class,
            step(w: &mut [f32], m: &mut [f32], v: &mut [f32], grad: &[f32], f: Factors)
        );
    });
}

/// Numbers of a task at least: a page of f32 or more.
const GRAIN: usize = 4096;

#[inline(always)]
fn step<const FMA: bool>(w: &mut [f32], m: &mut [f32], v: &mut [f32], grad: &[f32], f: Factors) {
    for (((w, m), v), g) in w.iter_mut().zip(m).zip(v).zip(grad) {
        let g = g * f.scale;
        *w *= f.keep;
        *m = crate::math::mul_add::<FMA>(f.to_mean, g - *m, *m);
        *v = *v * f.beta2 + f.to_square * g * g;
        let root = v.sqrt() / f.root + f.eps;
        *w += f.step * *m / root;
    }
}

/// The sum of x^2 in f64, the same bits on any threads and in any class: blocks of `GRAIN` numbers
/// in sixteen chains, added in order. NaN or infinite if and only if a number of x is.
pub fn sum_of_squares(cpu: &Cpu, x: &[f32]) -> f64 {
    let mut sums = vec![0.0; x.len().div_ceil(GRAIN)];
    let class = cpu.lanes();
    crate::cpu::for_rows(cpu, &mut sums, 1, |i, sum| {
        let x = &x[i * GRAIN..x.len().min((i + 1) * GRAIN)];
        sum[0] = for_class!(class, squares(x: &[f32]) -> f64);
    });
    sums.iter().sum()
}

#[inline(always)]
fn squares<const FMA: bool>(x: &[f32]) -> f64 {
    let mut sums = [0.0f64; 16];
    let (blocks, rest) = x.as_chunks::<16>();
    for block in blocks {
        for (sum, x) in sums.iter_mut().zip(block) {
            // The square of an f32 is exact in f64, so one rounding or two are the same.
            *sum += f64::from(*x) * f64::from(*x);
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += f64::from(*x) * f64::from(*x);
    }
    sums.iter().sum()
}

/// The definitions.
pub mod naive {
    use super::AdamW;

    /// Twin of [`super::adamw`] in f64, each result rounded once.
    pub fn adamw(w: &mut [f32], m: &mut [f32], v: &mut [f32], grad: &[f32], s: &AdamW) {
        let corrections = [s.beta1, s.beta2].map(|b| 1.0 - b.powf(s.step as f64));
        for (((w, m), v), g) in w.iter_mut().zip(m).zip(v).zip(grad) {
            let g = f64::from(*g) * f64::from(s.grad_scale);
            let mean = s.beta1 * f64::from(*m) + (1.0 - s.beta1) * g;
            let square = s.beta2 * f64::from(*v) + (1.0 - s.beta2) * g * g;
            let step = mean / corrections[0] / ((square / corrections[1]).sqrt() + s.eps);
            let kept = f64::from(*w) * (1.0 - s.lr * s.weight_decay);
            (*w, *m, *v) = ((kept - s.lr * step) as f32, mean as f32, square as f32);
        }
    }
}
