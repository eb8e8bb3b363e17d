//! What a critic loses: the squared error of what it expects, clipped as the policy's ratio is (TRL's; arXiv 1707.06347 has it
//! without the clip).
//!
//! ```text
//! v'  = clip(v, v_old - c, v_old + c)                     v what it expects, v_old when the answer was given
//! l   = coef / 2 max((v - R)^2, (v' - R)^2)               R what came
//! dl / dv = coef (v - R) where the first is the greatest, else 0
//! ```

use serde::{Deserialize, Serialize};

/// What tokens lose by what was expected of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValueLoss {
    /// How far from the old value a value still counts.
    pub clip: f64,
    /// What the error counts beside the policy's loss.
    pub coef: f64,
}

/// Sums over tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sums {
    tokens: f64,
    lost: f64,
    clipped: f64,
    returns: [f64; 2],
    errors: [f64; 2],
}

/// What was met of the values of a step's tokens; names as TRL has them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // their names in the file say it
pub struct Valued {
    /// The loss without that of values.
    #[serde(rename = "loss/policy_avg")]
    pub policy: f64,
    /// The mean of max((v - R)^2, (v' - R)^2) / 2.
    #[serde(rename = "loss/value_avg")]
    pub value: f64,
    /// The mean of (ln rho)^2 / 2: about the divergence from the policy that gave the answers.
    #[serde(rename = "policy/approxkl_avg")]
    pub approx_kl: f64,
    /// The share of tokens whose value's clip counts.
    #[serde(rename = "val/clipfrac_avg")]
    pub clipped: f64,
    /// 1 - Var(R - v) / Var(R); nothing where all returns are the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explained_variance: Option<f64>,
}

impl ValueLoss {
    /// What a token loses whose value was `old`, is `value` and should be `wanted`, and by how much that rises with it.
    pub(crate) fn lose(&self, value: f64, old: f64, wanted: f64, sums: &mut Sums) -> [f64; 2] {
        let ValueLoss { clip, coef } = *self;
        let error = value - wanted;
        let near = value.clamp(old - clip, old + clip) - wanted;
        let clipped = near * near > error * error;
        let lost = 0.5 * if clipped { near * near } else { error * error };
        sums.tokens += 1.0;
        sums.lost += lost;
        sums.clipped += f64::from(u8::from(clipped));
        for (sum, x) in [(&mut sums.returns, wanted), (&mut sums.errors, error)] {
            *sum = [sum[0] + x, sum[1] + x * x];
        }
        // Inside the clip both are the same; outside it the other does not move.
        [coef * lost, if clipped { 0.0 } else { coef * error }]
    }
}

impl Sums {
    /// The means; `policy` is the policy's loss, `squares` the sum of (ln rho)^2.
    pub fn valued(&self, policy: f64, squares: f64) -> Valued {
        let mean = |sum: f64| sum / self.tokens.max(1.0);
        let variance = |[sum, squares]: [f64; 2]| mean(squares) - mean(sum) * mean(sum);
        let all = variance(self.returns);
        Valued {
            policy,
            value: mean(self.lost),
            approx_kl: 0.5 * mean(squares),
            clipped: mean(self.clipped),
            // Of returns that are all but the same, rounding would be the answer.
            explained_variance: (all > 1e-12 * mean(self.returns[1]))
                .then(|| 1.0 - variance(self.errors) / all),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOSS: ValueLoss = ValueLoss { clip: 0.2, coef: 0.1 };

    #[test]
    fn slopes_are_central_differences_of_the_loss() {
        for value in [-1.0, 0.35, 0.55, 0.9] {
            for wanted in [-2.0, 0.45, 0.6, 3.0] {
                let of = |value: f64| LOSS.lose(value, 0.5, wanted, &mut Sums::default());
                let difference = (of(value + 1e-6)[0] - of(value - 1e-6)[0]) / 2e-6;
                let [_, slope] = of(value);
                assert!((slope - difference).abs() < 1e-8, "{value} {wanted}: {slope}");
            }
        }
    }

    #[test]
    fn a_value_that_went_too_far_towards_its_return_moves_no_more() {
        let mut sums = Sums::default();
        assert_eq!(LOSS.lose(1.0, 0.5, 1.0, &mut sums)[1], 0.0);
        assert_eq!(LOSS.lose(1.0, 0.5, 0.0, &mut sums)[1], 0.1);
        let met = sums.valued(0.25, 4.0);
        assert_eq!((met.clipped, met.policy, met.approx_kl), (0.5, 0.25, 1.0));
        // Errors 0 and 1, returns 1 and 0.
        assert_eq!(met.explained_variance, Some(0.0));
        LOSS.lose(0.0, 0.0, 1.0, &mut Sums::default());
        let mut same = Sums::default();
        LOSS.lose(0.0, 0.0, 1.0, &mut same);
        assert_eq!(same.valued(0.0, 0.0).explained_variance, None);
    }
}
