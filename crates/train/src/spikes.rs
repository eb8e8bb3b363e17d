//! Spikes: a loss far above where the run has been, or a gradient that is no number.

use crate::config::SpikeConfig;
use serde::{Deserialize, Serialize};

/// The running mean and variance of the loss: exponential, over about `window` steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    steps: u64,
    mean: f64,
    variance: f64,
}

/// What leapt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Leapt {
    /// The loss, or it is no number.
    #[default]
    Loss,
    /// The gradient: its norm is no number.
    Gradient,
}

/// A batch that leapt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spike {
    /// What leapt.
    pub what: Leapt,
    /// The loss.
    pub loss: f64,
    /// The gradient's norm.
    pub grad_norm: f64,
    /// The greatest loss that would have passed.
    pub expected: f64,
}

impl Spike {
    /// What leapt, in words, and its value.
    pub fn value(&self) -> (&'static str, f64) {
        match self.what {
            Leapt::Loss => ("loss", self.loss),
            Leapt::Gradient => ("gradient's norm", self.grad_norm),
        }
    }
}

/// Losses that are seen before any is judged.
const FIRST: u64 = 10;

impl Watch {
    /// Nothing seen yet.
    pub const NEW: Watch = Watch { steps: 0, mean: 0.0, variance: 0.0 };

    /// Whether a batch of this loss and norm of the gradient is a spike. The loss of one that is
    /// not is taken into the mean.
    pub fn judge(&mut self, loss: f64, grad_norm: f64, config: &SpikeConfig) -> Option<Spike> {
        // A floor under the deviation: at the end of a run losses hardly differ.
        let deviation = self.variance.sqrt().max(0.01 * self.mean.abs());
        let expected = self.mean + config.deviations * deviation;
        let spike = |what| Some(Spike { what, loss, grad_norm, expected });
        if !loss.is_finite() || (self.steps >= FIRST && loss > expected) {
            return spike(Leapt::Loss);
        }
        if !grad_norm.is_finite() {
            return spike(Leapt::Gradient);
        }
        // Young means are plain means.
        let share = (2.0 / (config.window as f64 + 1.0)).max(1.0 / (self.steps + 1) as f64);
        let difference = loss - self.mean;
        self.mean += share * difference;
        self.variance = (1.0 - share) * (self.variance + share * difference * difference);
        self.steps += 1;
        None
    }

    /// The same where the loss is around 0 and no measure of anything: only what is no number is a spike.
    pub fn judge_numbers(&self, loss: f64, grad_norm: f64) -> Option<Spike> {
        let spike = |what| Some(Spike { what, loss, grad_norm, expected: f64::MAX });
        match (loss.is_finite(), grad_norm.is_finite()) {
            (false, _) => spike(Leapt::Loss),
            (true, false) => spike(Leapt::Gradient),
            (true, true) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets;

    #[test]
    fn a_leap_and_a_nan_are_spikes_and_noise_is_none() {
        let config = presets::tiny().spikes;
        let mut watch = Watch::NEW;
        for step in 0..500u32 {
            let noise = f64::from(step * 7919 % 101) / 101.0 - 0.5;
            let loss = 10.0 * (-f64::from(step) / 200.0).exp() + 2.0 + 0.4 * noise;
            assert_eq!(watch.judge(loss, 1.0, &config), None, "step {step}");
        }
        let before = watch;
        let none = f64::NAN;
        for (loss, grad_norm, what) in [
            (9.0, 1.0, Leapt::Loss),
            (none, none, Leapt::Loss),
            (f64::INFINITY, 1.0, Leapt::Loss),
            (2.0, none, Leapt::Gradient),
            (2.0, f64::INFINITY, Leapt::Gradient),
        ] {
            let spike = watch.judge(loss, grad_norm, &config).unwrap();
            assert_eq!(spike.what, what, "{loss} {grad_norm}");
        }
        assert_eq!(watch, before, "a spike does not move the mean");
    }
}
