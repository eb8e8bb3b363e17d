//! Loss spikes: a loss far above where the run has been.

use crate::config::SpikeConfig;
use serde::{Deserialize, Serialize};

/// The running mean and variance of the loss: exponential, over about `window` steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    steps: u64,
    mean: f64,
    variance: f64,
}

/// A loss that leapt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spike {
    /// The loss.
    pub loss: f64,
    /// The greatest that would have passed.
    pub expected: f64,
}

/// Losses that are seen before any is judged.
const FIRST: u64 = 10;

impl Watch {
    /// Nothing seen yet.
    pub const NEW: Watch = Watch { steps: 0, mean: 0.0, variance: 0.0 };

    /// Whether `loss` is a spike. One that is not is taken into the mean.
    pub fn judge(&mut self, loss: f64, config: &SpikeConfig) -> Option<Spike> {
        // A floor under the deviation: at the end of a run losses hardly differ.
        let deviation = self.variance.sqrt().max(0.01 * self.mean.abs());
        let expected = self.mean + config.deviations * deviation;
        if !loss.is_finite() || (self.steps >= FIRST && loss > expected) {
            return Some(Spike { loss, expected });
        }
        // Young means are plain means.
        let share = (2.0 / (config.window as f64 + 1.0)).max(1.0 / (self.steps + 1) as f64);
        let difference = loss - self.mean;
        self.mean += share * difference;
        self.variance = (1.0 - share) * (self.variance + share * difference * difference);
        self.steps += 1;
        None
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
            assert_eq!(watch.judge(loss, &config), None, "step {step}");
        }
        let before = watch;
        assert!(watch.judge(9.0, &config).is_some());
        assert!(watch.judge(f64::NAN, &config).is_some());
        assert!(watch.judge(f64::INFINITY, &config).is_some());
        assert_eq!(watch, before, "a spike does not move the mean");
    }
}
