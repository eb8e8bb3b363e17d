//! Soft targets: rows that should say what a teacher says, of which a few outputs are known.
//!
//! ```text
//! q = softmax(logits); p_j of the listed outputs K of a row, r of all others together; y the row's hard target
//! CE = lse - logit_y,    KL = sum_K p_j (ln p_j - ln q_j) + r (ln r - ln sum_{v not in K} q_v)
//! L  = sum_t weight_t (hard CE_t + soft KL_t)
//! dL / dlogit_v = weight ((hard + soft m) q_v - soft p_v - hard [v = y])              v listed; m = sum_K p_j + r
//!               = weight ((hard + soft (m - r / sum_{u not in K} q_u)) q_v - hard [v = y])          v not listed
//! ```
//!
//! So a row is its softmax times one factor, and differs from that at its listed outputs and its target alone. Where
//! r is 0 nothing is said of outputs that are not listed but that they take nothing from the others.
//! Letters: T tokens, V vocabulary, K listed outputs.

use crate::cpu::{Cpu, Parts, for_rows};
use crate::cross_entropy::{Exponentials, Targets, exponentials, scale_pieces};
use crate::dispatch::for_class;
use crate::math::{exp, ln};

/// What a teacher says of each row, and what that is worth beside the row's target.
#[derive(Clone, Copy, Debug)]
pub struct Soft<'a> {
    /// The listed outputs of each row, ascending, `[T, K]`.
    pub ids: &'a [u32],
    /// Their probabilities, `[T, K]`.
    pub probs: &'a [f32],
    /// The probability of all that are not listed, `[T]`; 0 to say nothing of them.
    pub rest: &'a [f32],
    /// Factor of the cross-entropy of the target.
    pub hard: f32,
    /// Factor of the divergence from the teacher.
    pub soft: f32,
}

/// A row of logits without those that are listed: their exponentials, less `shift`, sum to `sum`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unlisted {
    pub shift: f64,
    pub sum: f64,
}

/// What a row loses, and its gradient beside that of the listed outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Settled {
    pub nats: f32,
    pub kl: f32,
    /// Times e^(logit - shift): the gradient of a logit that is not listed.
    pub factor: f64,
    /// To be added to that of the target where it is not listed.
    pub own: f32,
}

impl<'a> Soft<'a> {
    /// K.
    pub fn listed(&self) -> usize {
        self.ids.len() / self.rest.len().max(1)
    }

    /// Panics if lists are not as many as rows, not ascending, or name an output that is not below `vocab`.
    pub(crate) fn check(&self, tokens: usize, vocab: usize) {
        assert_eq!(self.rest.len(), tokens, "soft targets: not one rest a row");
        assert_eq!(self.ids.len(), self.probs.len(), "soft targets: not one probability an id");
        let k = self.listed();
        assert_eq!(self.ids.len(), k * tokens, "soft targets: {k} ids of {tokens} rows");
        for (t, ids) in self.ids.chunks_exact(k.max(1)).enumerate() {
            assert!(
                ids.is_sorted_by(|a, b| a < b),
                "soft targets: the ids of row {t} do not ascend"
            );
            let last = ids.last().copied().unwrap_or(0) as usize;
            assert!(last < vocab, "soft targets: id {last} of row {t}, vocabulary {vocab}");
        }
    }

    /// The listed outputs of row t and their probabilities.
    pub(crate) fn row(&self, t: usize) -> (&'a [u32], &'a [f32]) {
        let at = t * self.listed()..(t + 1) * self.listed();
        (&self.ids[at.clone()], &self.probs[at])
    }

    /// What row t loses by `logits` of its listed outputs, which become their gradients, that of its
    /// target, and the sum of the others. `weight` has the scale in it.
    pub(crate) fn settle(
        &self,
        t: usize,
        (target, logit): (u32, f32),
        weight: f32,
        logits: &mut [f32],
        others: Unlisted,
    ) -> Settled {
        let ((ids, probs), rest) = (self.row(t), f64::from(self.rest[t]));
        // Above 0, so that its logarithm is a number; e^-690 of the others loses nothing.
        let sum = if others.sum == 0.0 { 1e-300 } else { others.sum };
        let ln_others = others.shift + ln(sum);
        let peak = logits.iter().fold(ln_others, |a, b| a.max(f64::from(*b)));
        let share = |x: f64| f64::from(exp::<false>(x as f32));
        let total = logits.iter().map(|z| share(f64::from(*z) - peak)).sum::<f64>();
        let lse = peak + ln(total + share(ln_others - peak));
        let (hard, soft, weight) = (f64::from(self.hard), f64::from(self.soft), f64::from(weight));
        let mut kl = match rest {
            0.0 => 0.0,
            rest => rest * (ln(rest) - (ln_others - lse)),
        };
        let mass = rest + probs.iter().map(|p| f64::from(*p)).sum::<f64>();
        let mut own = -hard * weight;
        for ((id, p), z) in ids.iter().zip(probs).zip(logits) {
            let (p, ln_q) = (f64::from(*p), f64::from(*z) - lse);
            if p > 0.0 {
                kl += p * (ln(p) - ln_q);
            }
            let mut slope = weight * ((hard + soft * mass) * share(ln_q) - soft * p);
            if *id == target {
                slope -= hard * weight;
                own = 0.0;
            }
            *z = slope as f32;
        }
        let none = rest == 0.0 || others.sum == 0.0;
        let taken = if none { 0.0 } else { soft * rest / sum };
        let factor = weight * ((hard + soft * mass) * share(others.shift - lse) - taken);
        Settled { nats: (lse - f64::from(logit)) as f32, kl: kl as f32, factor, own: own as f32 }
    }
}

/// Writes what each row loses to its target and to the teacher, and over the logits the gradient of the scaled loss.
///
/// Shapes: `nats` (CE) and `kl` are `[T]`, not weighted, 0 where the weight is 0; `logits` is [T, `width`]. `z_loss` of
/// the targets must be 0. A row with NaN in it gives NaN. A row's bits depend on that row alone.
/// Panics if sizes disagree, or an id is not below `width`.
pub fn soft_cross_entropy(
    cpu: &Cpu,
    [nats, kl]: [&mut [f32]; 2],
    logits: &mut [f32],
    width: usize,
    targets: &Targets<'_>,
    soft: &Soft<'_>,
) {
    assert!(width > 0, "soft_cross_entropy: rows have no width");
    assert_eq!(logits.len(), nats.len() * width, "soft_cross_entropy: not one row a target");
    assert_eq!(kl.len(), nats.len(), "soft_cross_entropy: nats and kl differ in length");
    assert_eq!(targets.ids.len(), nats.len(), "soft_cross_entropy: not one id a row");
    assert_eq!(targets.weights.len(), nats.len(), "soft_cross_entropy: not one weight a row");
    assert_eq!(targets.z_loss, 0.0, "soft_cross_entropy: z-loss");
    soft.check(nats.len(), width);
    for (t, id) in targets.ids.iter().enumerate() {
        assert!((*id as usize) < width, "soft_cross_entropy: target {id} of row {t}, {width}");
    }
    let (nats, kl) = (Parts::new(nats), Parts::new(kl));
    for_rows(cpu, logits, width, |t, row| {
        let settled = match targets.weights[t] {
            0.0 => {
                row.fill(0.0);
                Settled::default()
            }
            weight => {
                row_gradient(cpu.lanes(), row, soft, t, targets.ids[t], weight * targets.scale)
            }
        };
        // SAFETY: row t is given to one task, and so are its numbers here.
        unsafe {
            nats.part(t, 1)[0] = settled.nats;
            kl.part(t, 1)[0] = settled.kl;
        }
    });
}

fn row_gradient(
    class: crate::Class,
    row: &mut [f32],
    soft: &Soft<'_>,
    t: usize,
    target: u32,
    weight: f32,
) -> Settled {
    for_class!(class, row_body(row: &mut [f32], soft: &Soft<'_>, t: usize, target: u32, weight: f32) -> Settled)
}

#[inline(always)]
fn row_body<const FMA: bool>(
    row: &mut [f32],
    soft: &Soft<'_>,
    t: usize,
    target: u32,
    weight: f32,
) -> Settled {
    let (ids, _) = soft.row(t);
    let logit = row[target as usize];
    let mut listed: Vec<f32> = Vec::with_capacity(ids.len());
    for id in ids {
        listed.push(std::mem::replace(&mut row[*id as usize], f32::NEG_INFINITY));
    }
    let of: Exponentials = exponentials::<FMA>(row);
    let others = match of.peak == f32::NEG_INFINITY {
        true => Unlisted { shift: 0.0, sum: 0.0 }, // none
        false => Unlisted { shift: f64::from(of.peak), sum: of.sum },
    };
    let settled = soft.settle(t, (target, logit), weight, &mut listed, others);
    match others.sum == 0.0 {
        true => row.fill(0.0),
        false => scale_pieces(row, &of, settled.factor),
    }
    for (id, slope) in ids.iter().zip(listed) {
        row[*id as usize] = slope;
    }
    row[target as usize] += settled.own;
    settled
}

#[cfg(test)]
mod tests;
