//! What each step is told: its learning rate, and how much it reads.

use crate::config::{BatchConfig, Decay, OptimConfig};
use std::f64::consts::PI;

/// The learning rate of step `step`, counted from 1 (spec: pretraining, section 3.1).
///
/// Warm-up: lr = peak step / warm-up. After it, with p the share of the way from there to the last
/// step: cosine lr = min + (peak - min) (1 + cos(pi p)) / 2, linear lr = peak + (min - peak) p.
///
/// ```
/// use herd_train::{presets, schedule::lr};
/// let optim = presets::b8().optim;
/// assert_eq!(lr(&optim, 4000), 1.5e-4);
/// assert_eq!(lr(&optim, 8000), 3e-4);
/// assert!((lr(&optim, 1_200_000) - 3e-6).abs() < 1e-18);
/// ```
pub fn lr(optim: &OptimConfig, step: u64) -> f64 {
    let OptimConfig { steps, lr: peak, min_lr_ratio, warmup_steps, decay, .. } = *optim;
    if step < warmup_steps {
        return peak * step as f64 / warmup_steps as f64;
    }
    let least = peak * min_lr_ratio;
    let way = (step - warmup_steps) as f64 / (steps - warmup_steps).max(1) as f64;
    let way = way.min(1.0);
    match decay {
        Decay::Cosine => least + 0.5 * (peak - least) * (1.0 + (PI * way).cos()),
        Decay::Linear => peak + (least - peak) * way,
        Decay::Constant => peak,
    }
}

/// Tokens a step and tokens a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Tokens a step.
    pub tokens: usize,
    /// Tokens a row.
    pub seq_len: usize,
}

/// How much the step reads that begins after `tokens_done` tokens.
pub fn size(batch: &BatchConfig, tokens_done: u64) -> Size {
    let reached = batch.ramp.iter().rev().find(|ramp| ramp.from_tokens <= tokens_done);
    match reached {
        Some(ramp) => Size { tokens: ramp.tokens, seq_len: ramp.seq_len },
        None => Size { tokens: batch.tokens, seq_len: batch.seq_len },
    }
}

/// The tokens that all steps of a run read.
pub fn tokens_in_all(batch: &BatchConfig, steps: u64) -> u64 {
    let (mut done, mut left) = (0u64, steps);
    for (i, edge) in batch.ramp.iter().map(|ramp| ramp.from_tokens).enumerate() {
        let tokens = size(batch, done).tokens as u64;
        // The first step that begins at or after the edge is of the next size.
        let here = edge.saturating_sub(done).div_ceil(tokens).min(left);
        (done, left) = (done + here * tokens, left - here);
        debug_assert!(i < batch.ramp.len());
    }
    done + left * size(batch, done).tokens as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets;

    #[test]
    fn batches_grow_at_the_tokens_that_the_ramp_names() {
        let mut batch = presets::b405().batch;
        batch.tokens = 100;
        for (ramp, (from_tokens, tokens)) in batch.ramp.iter_mut().zip([(250, 200), (1000, 400)]) {
            (ramp.from_tokens, ramp.tokens) = (from_tokens, tokens);
        }
        let mut done = 0;
        let steps: Vec<usize> = (0..9)
            .map(|_| {
                let tokens = size(&batch, done).tokens;
                done += tokens as u64;
                tokens
            })
            .collect();
        assert_eq!(steps, [100, 100, 100, 200, 200, 200, 200, 400, 400]);
        for n in 0..=9 {
            let sum: usize = steps[..n].iter().sum();
            assert_eq!(tokens_in_all(&batch, n as u64), sum as u64, "{n} steps");
        }
    }

    #[test]
    fn rates_rise_turn_and_end_where_they_should() {
        let mut optim = presets::tiny().optim;
        (optim.steps, optim.warmup_steps, optim.lr, optim.min_lr_ratio) = (110, 10, 1.0, 0.0);
        optim.decay = Decay::Linear;
        let rates = [1, 5, 10, 60, 110, 500].map(|step| lr(&optim, step));
        assert_eq!(rates, [0.1, 0.5, 1.0, 0.5, 0.0, 0.0]);
        optim.decay = Decay::Cosine;
        assert!((lr(&optim, 60) - 0.5).abs() < 1e-15);
        optim.decay = Decay::Constant;
        assert_eq!(lr(&optim, 110), 1.0);
    }
}
