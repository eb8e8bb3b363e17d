//! What a policy loses on answers that it gave: the clipped surrogate (arXiv 1707.06347, section 3), with a penalty.
//!
//! ```text
//! rho_t = p(t) / p_old(t)                                p the policy, p_old it when it gave the answer, t its tokens
//! l_t   = -min(rho_t A_t, clip(rho_t, 1 - low, 1 + high) A_t) + beta k_t,     k_t = q(t) / p(t) - ln (q(t) / p(t)) - 1
//! L     = sum over t of share_t l_t                      A the advantage, q the reference, shares as the stage has them
//!         and of share_t times what its value loses (`value.rs`), where there is a value head
//! dl_t / d ln p(t) = -[the first is the least] rho_t A_t + beta (1 - q(t) / p(t))
//! ```
//!
//! The loss knows a token by one number, ln p(t), so its gradient is one number a token: the weight of its cross-entropy.
//! As in `dpo`, a step computes hidden states once, their log-probabilities beside the tape, these weights in f64, and
//! sends the weighted cross-entropy back; gradients of values go with it.

use crate::dpo::hidden;
use crate::step::Micro;
use crate::value::{self, ValueLoss, Valued};
use herd_model::llama::Llama;
use herd_tensor::ops::Targets;
use herd_tensor::{Tape, blocks_of};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// What tokens lose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// How far below 1 a ratio still counts.
    pub low: f64,
    /// How far above.
    pub high: f64,
    /// What the divergence from the reference costs.
    pub beta: f64,
    /// What values lose, where the model has a head of them.
    pub value: Option<ValueLoss>,
}

/// An answer in its place, and what is known of it since it was given.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<'a> {
    /// The places of a micro-batch whose targets are its tokens.
    pub at: Range<usize>,
    /// What each of its tokens counts in the loss.
    pub share: f64,
    /// Its log-probabilities when it was given.
    pub old: &'a [f32],
    /// Those that the reference gives, or none; needed where `beta` is not 0.
    pub reference: &'a [f32],
    /// What each token was better than expected.
    pub advantages: &'a [f64],
    /// The values of its tokens when it was given, and what came; needed where values lose something.
    pub values: &'a [f32],
    /// What came from each token on.
    pub returns: &'a [f64],
}

/// Sums over tokens that count, added answer by answer: the same however rows are cut into micro-batches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sums {
    /// What their likelihoods lose; shares are in it.
    policy: f64,
    /// What their values lose, the same.
    critic: f64,
    /// How many.
    pub tokens: f64,
    nats: f64,
    kl: Option<f64>,
    low: f64,
    high: f64,
    /// How far a log-probability is from the old one, at most.
    moved: f64,
    squares: f64,
    values: Option<value::Sums>,
}

/// What was met of the tokens of a step; names as TRL has them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // their names in the file say it
pub struct Moved {
    /// The mean of k over tokens, where there is a reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// Minus the mean log-probability of the tokens: at temperature 1 an estimate of the entropy without bias.
    pub entropy: f64,
    /// The share of tokens whose ratio is below the clip and whose advantage is negative.
    #[serde(rename = "clip_ratio/low_mean")]
    pub low: f64,
    /// The share above the clip, of positive advantage.
    #[serde(rename = "clip_ratio/high_mean")]
    pub high: f64,
    #[serde(rename = "clip_ratio/region_mean")]
    pub clipped: f64,
    /// Where the weights are those that gave the answers: how far the trainer's log-probability of a token is from the
    /// sampler's, at most. It is 0: the same bits.
    #[serde(
        rename = "sampling/sampling_logp_difference/max",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub off: Option<f64>,
}

impl Sums {
    /// The loss.
    pub fn loss(&self) -> f64 {
        self.policy + self.critic
    }

    /// The means; `on_policy` where the weights are those that gave the answers.
    pub fn moved(&self, on_policy: bool) -> Moved {
        let mean = |sum: f64| sum / self.tokens.max(1.0);
        Moved {
            kl: self.kl.map(mean),
            entropy: mean(self.nats),
            low: mean(self.low),
            high: mean(self.high),
            clipped: mean(self.low + self.high),
            off: on_policy.then_some(self.moved),
        }
    }

    /// What was met of values, where there are any.
    pub fn valued(&self) -> Option<Valued> {
        self.values.as_ref().map(|values| values.valued(self.policy, self.squares))
    }
}

/// What a token loses, and by how much that rises with its log-probability.
fn lose(
    loss: &Loss,
    logp: f64,
    old: f64,
    reference: Option<f64>,
    advantage: f64,
    sums: &mut Sums,
) -> [f64; 2] {
    let Loss { low, high, beta, .. } = *loss;
    let ratio = (logp - old).exp();
    let (free, clipped) = (ratio * advantage, ratio.clamp(1.0 - low, 1.0 + high) * advantage);
    let mut lost = -free.min(clipped);
    // Where both are equal the ratio is inside, and both have the same slope.
    let mut slope = if free <= clipped { -free } else { 0.0 };
    if let Some(reference) = reference {
        let away = reference - logp;
        let k = away.exp() - away - 1.0;
        *sums.kl.get_or_insert(0.0) += k;
        if beta != 0.0 {
            lost += beta * k;
            slope += beta * (1.0 - away.exp());
        }
    }
    sums.tokens += 1.0;
    sums.nats -= logp;
    sums.low += f64::from(u8::from(ratio < 1.0 - low && advantage < 0.0));
    sums.high += f64::from(u8::from(ratio > 1.0 + high && advantage > 0.0));
    sums.moved = sums.moved.max((logp - old).abs());
    sums.squares += (logp - old) * (logp - old);
    [lost, slope]
}

/// Adds the gradient of what the answers lose to the sums of the model's parameters, and what they lose to `sums`.
///
/// Weights in `micro` are 1 where a target is a token of an answer and else 0. The order of additions depends on rows
/// alone: rows in one call or in several give the same bits. Answers of no share are not met.
pub fn accumulate(
    model: &Llama,
    tape: &Tape,
    micro: &Micro<'_>,
    answers: &[Answer<'_>],
    loss: &Loss,
    sums: &mut Sums,
) {
    tape.begin(blocks_of(micro.tokens.len() / micro.seq_len, micro.seq_len));
    let x_td = hidden(model, micro);
    let targets = Targets { ids: micro.targets, weights: micro.weights, scale: 0.0, z_loss: 0.0 };
    let nats_t = tape.paused(|| model.loss(&x_td, &targets).nats_t);
    let mut weights = vec![0.0; micro.weights.len()];
    for answer in answers.iter().filter(|answer| answer.share != 0.0) {
        let mut lost = 0.0;
        for (i, t) in answer.at.clone().enumerate() {
            let reference = answer.reference.get(i).map(|logp| f64::from(*logp));
            let (logp, old) = (-f64::from(nats_t[t]), f64::from(answer.old[i]));
            let [loss, slope] = lose(loss, logp, old, reference, answer.advantages[i], sums);
            lost += loss;
            // The cross-entropy of a token is minus its log-probability.
            weights[t] = (-slope * answer.share) as f32;
        }
        sums.policy += lost * answer.share;
    }
    let targets = Targets { ids: micro.targets, weights: &weights, scale: 1.0, z_loss: 0.0 };
    let Some(value) = &loss.value else { return model.loss(&x_td, &targets).backward() };
    let scores = model.scores(&x_td);
    let slopes = values(value, scores.data(), answers, sums);
    model.loss(&x_td, &targets).backward_with(&scores, &slopes);
}

/// What the values of a micro-batch lose, into `sums`, and by how much it rises with each.
fn values(loss: &ValueLoss, v_t: &[f32], answers: &[Answer<'_>], sums: &mut Sums) -> Vec<f32> {
    let mut slopes = vec![0.0; v_t.len()];
    let met = sums.values.get_or_insert_default();
    for answer in answers.iter().filter(|answer| answer.share != 0.0) {
        let mut lost = 0.0;
        for (i, t) in answer.at.clone().enumerate() {
            let (v, old) = (f64::from(v_t[t]), f64::from(answer.values[i]));
            let [loss, slope] = loss.lose(v, old, answer.returns[i], met);
            lost += loss;
            slopes[t] = (slope * answer.share) as f32;
        }
        sums.critic += lost * answer.share;
    }
    slopes
}

/// The log-probability of every target that counts, 0 of the others (T). Nothing may be recorded meanwhile.
pub fn logps(model: &Llama, micro: &Micro<'_>) -> Vec<f32> {
    let targets = Targets { ids: micro.targets, weights: micro.weights, scale: 0.0, z_loss: 0.0 };
    let nats_t = model.loss(&hidden(model, micro), &targets).nats_t;
    nats_t.into_iter().map(|nats| -nats).collect()
}

/// What is expected before every target: \[T\]. Nothing may be recorded meanwhile. Panics if the model has no value head.
pub fn expected(model: &Llama, micro: &Micro<'_>) -> Vec<f32> {
    model.scores(&hidden(model, micro)).data().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOSS: Loss = Loss { low: 0.2, high: 0.3, beta: 0.1, value: None };

    #[test]
    fn slopes_are_central_differences_of_the_loss() {
        for advantage in [-1.5, 0.0, 2.0] {
            for logp in [-2.0, -1.1, -0.9, -0.2] {
                let of = |logp: f64| {
                    lose(&LOSS, logp, -1.0, Some(-1.3), advantage, &mut Sums::default())
                };
                let difference = (of(logp + 1e-5)[0] - of(logp - 1e-5)[0]) / 2e-5;
                let [_, slope] = of(logp);
                assert!(
                    (slope - difference).abs() < 1e-8,
                    "{advantage} {logp}: {slope} {difference}"
                );
            }
        }
    }

    #[test]
    fn a_token_that_nothing_moved_has_the_slope_of_its_advantage() {
        let mut sums = Sums::default();
        let loss = Loss { beta: 0.0, ..LOSS };
        assert_eq!(lose(&loss, -1.25, -1.25, None, 0.75, &mut sums), [-0.75, -0.75]);
        let moved = sums.moved(true);
        assert_eq!((moved.off, moved.kl, moved.entropy), (Some(0.0), None, 1.25));
        assert_eq!(lose(&loss, -0.25, -1.25, None, 0.75, &mut sums), [-0.75 * 1.3, 0.0]);
        assert_eq!(sums.moved(false).high, 0.5);
    }
}
