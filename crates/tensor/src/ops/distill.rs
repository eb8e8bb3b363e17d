//! The head and what it loses to a teacher as one operation, and what a teacher says: neither holds all logits.
//!
//! ```text
//! L = scale sum_t weight_t ((1 - alpha) CE_t + alpha T^2 KL_t)
//! ```
//!
//! CE is that of the target by softmax(x W^T), KL that of softmax(x W^T / T) from the teacher at the same temperature
//! (`herd_kernels::soft_targets`). The head of x / T is that of x at the temperature T: at 1 both losses are one walk.

use crate::ops::linear::add_weight_gradient;
use crate::ops::loss::{ROWS, chunks_of};
use crate::tape::Slot;
use crate::{Tensor, Weight};
use herd_kernels::cpu::for_rows;
use herd_kernels::cross_entropy::{Targets, cross_entropy};
use herd_kernels::gemm::backward::{Write, matmul_dx};
use herd_kernels::gemm::head::{Head, HeadGrads, fuses, head_loss, soft_head_loss};
use herd_kernels::gemm::{Product, matmul};
use herd_kernels::soft_targets::{Soft, soft_cross_entropy};
use herd_kernels::softmax::log_sum_exp;
use herd_kernels::top_k::top_k;

/// What a teacher says of each row, and what that is worth.
#[derive(Clone, Copy, Debug)]
pub struct Teacher<'a> {
    /// The listed ids of each row, ascending, `[T, K]`.
    pub ids: &'a [u32],
    /// Their probabilities at the temperature, `[T, K]`.
    pub probs: &'a [f32],
    /// The probability of all other ids together, `[T]`; 0 to say nothing of them.
    pub rest: &'a [f32],
    /// The share of the divergence; the target has the others.
    pub alpha: f32,
    /// Logits of both are divided by it.
    pub temperature: f32,
}

/// What rows lose, not weighted, and the gradient that waits to flow back.
pub struct Taught {
    /// The cross-entropy of each row's target; 0 where its weight is 0.
    pub nats_t: Vec<f32>,
    /// The divergence of each row from the teacher; 0 where its weight is 0.
    pub kl_t: Vec<f32>,
    back: Option<(Slot, Tensor)>,
}

/// Both losses of hidden states `x` [T, D] under the head `w` [V, D].
///
/// On a tape, gradients are as in [`crate::ops::cross_entropy`]. Block after block passes both heads, so that cutting a
/// batch at their borders changes no bit. Panics as there, and if the teacher's lists are not those of T rows.
pub fn distill(x: &Tensor, w: &Weight, targets: &Targets<'_>, teacher: &Teacher<'_>) -> Taught {
    assert!(!matches!(w, Weight::Lora(_)), "the loss of a head with LoRA");
    assert_eq!(targets.ids.len(), x.rows(), "distill: not one target a row");
    assert_eq!(teacher.rest.len(), x.rows(), "distill: not one list a row");
    let slot = x.slot().filter(|slot| !slot.tape().is_paused()).cloned();
    let (rows, width) = (x.rows(), x.width());
    let mut dx = slot.as_ref().map(|_| Tensor::uninitialised(x.device(), rows, width));
    let mut taught = Taught { nats_t: vec![0.0; rows], kl_t: vec![0.0; rows], back: None };
    let k = teacher.ids.len() / rows.max(1);
    for rows in chunks_of(x, slot.as_ref()) {
        let (of, listed) = (rows.start * width..rows.end * width, rows.start * k..rows.end * k);
        let block = Block {
            x: Tensor::from_slice(x.device(), rows.len(), width, &x.data()[of.clone()]),
            w,
            targets: Targets {
                ids: &targets.ids[rows.clone()],
                weights: &targets.weights[rows.clone()],
                ..*targets
            },
        };
        let teacher = Teacher {
            ids: &teacher.ids[listed.clone()],
            probs: &teacher.probs[listed],
            rest: &teacher.rest[rows.clone()],
            ..*teacher
        };
        let out = [&mut taught.nats_t[rows.clone()], &mut taught.kl_t[rows]];
        block.taught(&teacher, out, dx.as_mut().map(|dx| &mut dx.data_mut()[of]));
    }
    taught.back = slot.zip(dx);
    taught
}

impl Taught {
    /// Sends the gradient back through all that led here; nothing if nothing was recorded.
    pub fn backward(self) {
        if let Some((slot, dx)) = self.back {
            slot.tape().backward([(&slot, dx)]);
        }
    }
}

/// Some rows, their head and their targets.
struct Block<'a> {
    x: Tensor,
    w: &'a Weight,
    targets: Targets<'a>,
}

impl Block<'_> {
    fn taught(self, teacher: &Teacher<'_>, [nats, kl]: [&mut [f32]; 2], dx: Option<&mut [f32]>) {
        let Teacher { ids, probs, rest, alpha, temperature } = *teacher;
        if temperature == 1.0 {
            let soft = Soft { ids, probs, rest, hard: 1.0 - alpha, soft: alpha };
            return self.walk(1.0, Some(&soft), [nats, kl], dx);
        }
        match dx {
            Some(dx) if alpha < 1.0 => {
                self.walk(1.0 - alpha, None, [nats, &mut []], Some(dx));
                self.cooled(teacher, kl, Some(dx));
            }
            Some(dx) => {
                self.walk(0.0, None, [nats, &mut []], None);
                dx.fill(0.0);
                self.cooled(teacher, kl, Some(dx));
            }
            None => {
                self.walk(0.0, None, [nats, &mut []], None);
                self.cooled(teacher, kl, None);
            }
        }
    }

    /// The divergence alone, at the temperature; its gradient is added.
    fn cooled(mut self, teacher: &Teacher<'_>, kl: &mut [f32], dx: Option<&mut [f32]>) {
        let Teacher { ids, probs, rest, alpha, temperature } = *teacher;
        let by = 1.0 / temperature;
        self.x.data_mut().iter_mut().for_each(|x| *x *= by);
        let soft = Soft { ids, probs, rest, hard: 0.0, soft: alpha * temperature * temperature };
        let mut unused = vec![0.0; kl.len()];
        let Some(dx) = dx else { return self.walk(1.0, Some(&soft), [&mut unused, kl], None) };
        let mut more = Tensor::uninitialised(self.x.device(), self.x.rows(), self.x.width());
        self.walk(1.0, Some(&soft), [&mut unused, kl], Some(more.data_mut()));
        for (dx, more) in dx.iter_mut().zip(more.data()) {
            *dx += by * more;
        }
    }

    /// One head: the losses of its rows, the gradient of the states in the place of `dx`, that of the head added, both
    /// times `share`.
    fn walk(
        &self,
        share: f32,
        soft: Option<&Soft<'_>>,
        out: [&mut [f32]; 2],
        dx: Option<&mut [f32]>,
    ) {
        let (x, w) = (&self.x, self.w);
        let targets = Targets { scale: share * self.targets.scale, ..self.targets };
        if !fuses(x.device().class(), w.format(), 0.0) {
            return self.walk_logits(&targets, soft, out, dx);
        }
        let (cpu, packed, all) = (x.device().kernels(), w.packed(), 0..x.rows());
        let blocks = std::slice::from_ref(&all);
        let head = Head { x: x.data(), w: &packed, targets, blocks };
        let go = |[nats, kl]: [&mut [f32]; 2], grads: Option<HeadGrads<'_>>| match soft {
            Some(soft) => soft_head_loss(cpu, [nats, kl], &head, soft, grads),
            None => {
                head_loss(cpu, nats, &head, grads);
            }
        };
        match (w, dx) {
            (_, None) => go(out, None),
            (Weight::Trained(param), Some(dx)) => {
                param.accumulate(|dw| go(out, Some(HeadGrads { dx, dw: Some(dw) })));
            }
            (_, Some(dx)) => go(out, Some(HeadGrads { dx, dw: None })),
        }
    }

    /// The same where logits are a tensor.
    fn walk_logits(
        &self,
        targets: &Targets<'_>,
        soft: Option<&Soft<'_>>,
        [nats, kl]: [&mut [f32]; 2],
        dx: Option<&mut [f32]>,
    ) {
        let (x, w) = (&self.x, self.w);
        let (cpu, mut logits) = (x.device().kernels(), logits_of(x, w));
        let vocab = logits.width();
        match soft {
            Some(soft) => {
                soft_cross_entropy(cpu, [nats, kl], logits.data_mut(), vocab, targets, soft)
            }
            None => {
                cross_entropy(cpu, nats, logits.data_mut(), vocab, targets);
            }
        }
        if let Some(dx) = dx {
            matmul_dx(cpu, dx, logits.data(), &w.packed(), Write::Set);
            if let Weight::Trained(param) = w {
                let block = 0..x.rows();
                add_weight_gradient(param, &logits, x.data(), &[block]);
            }
        }
    }
}

fn logits_of(x: &Tensor, w: &Weight) -> Tensor {
    let packed = w.packed();
    let mut logits = Tensor::uninitialised(x.device(), x.rows(), packed.rows());
    let mut products = [Product { y: logits.data_mut(), w: &packed }];
    matmul(x.device().kernels(), x.data(), x.rows(), &mut products);
    logits
}

/// The likeliest ids of rows and their log-probabilities, `[T, K]`, ids ascending in each row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Likeliest {
    /// The ids.
    pub ids: Vec<u32>,
    /// ln softmax(logits / temperature) of each.
    pub log_probs: Vec<f32>,
}

/// The `k` likeliest ids after hidden states `x` [T, D] under the head `w` [V, D], at a temperature.
///
/// A row's bits depend on that row alone. Panics if `k` is 0 or above V.
pub fn likeliest(x: &Tensor, w: &Weight, k: usize, temperature: f32) -> Likeliest {
    let (device, all) = (x.device(), x.rows());
    assert!((1..=w.packed().rows()).contains(&k), "likeliest: {k} of {}", w.packed().rows());
    let mut out = Likeliest::default();
    for first in (0..all).step_by(ROWS) {
        let rows: Vec<usize> = (first..all.min(first + ROWS)).collect();
        let mut logits = logits_of(&x.select(&rows), w);
        let (vocab, class) = (logits.width(), device.class());
        let mut found = vec![(0, 0.0); rows.len() * k];
        if temperature != 1.0 {
            let by = 1.0 / temperature;
            let cool = |_: usize, row: &mut [f32]| row.iter_mut().for_each(|x| *x *= by);
            for_rows(device.kernels(), logits.data_mut(), vocab, cool);
        }
        for_rows(device.kernels(), &mut found, k, |t, found| {
            let (row, mut sum) = (logits.row(t), [0.0]);
            log_sum_exp(class, &mut sum, row, vocab);
            let (mut best, mut ids) = (vec![0.0; k], vec![0; k]);
            top_k(class, &mut best, &mut ids, row);
            for (found, (id, logit)) in found.iter_mut().zip(ids.iter().zip(&best)) {
                *found = (*id, logit - sum[0]);
            }
            found.sort_unstable_by_key(|(id, _)| *id);
        });
        out.ids.extend(found.iter().map(|(id, _)| id));
        out.log_probs.extend(found.iter().map(|(_, log_prob)| log_prob));
    }
    out
}
