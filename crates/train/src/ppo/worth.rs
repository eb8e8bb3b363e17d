//! What the tokens of a generation were worth: rewards, advantages and returns, as TRL has them, in f64.

use super::PpoConfig;

/// An answer as it was given and judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged<'a> {
    /// Its log-probabilities when it was given.
    pub logps: &'a [f32],
    /// Those that the reference gives; needed where divergence costs something.
    pub reference: &'a [f32],
    /// What was expected before each token.
    pub values: &'a [f32],
    /// What it was worth.
    pub reward: f64,
}

/// Of each token of an answer, what it brought more than expected, and what came from it on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Worth {
    /// A; whitened where the stage does so.
    pub advantages: Vec<f64>,
    /// R; none where nothing was expected.
    pub returns: Vec<f64>,
}

/// Added to variances.
const EPS: f64 = 1e-8;

impl PpoConfig {
    /// What the tokens of each answer of a generation were worth.
    pub fn worth(&self, answers: &[Judged<'_>]) -> Vec<Worth> {
        let mut scores: Vec<f64> = answers.iter().map(|answer| answer.reward).collect();
        if self.whiten_scores {
            whiten(&mut [&mut scores], true);
        }
        let mut rewards: Vec<Vec<f64>> =
            answers.iter().zip(scores).map(|(answer, score)| self.rewards(answer, score)).collect();
        if self.whiten_rewards {
            let mut all: Vec<&mut [f64]> = rewards.iter_mut().map(Vec::as_mut_slice).collect();
            whiten(&mut all, false);
        }
        let of = |(answer, rewards): (&Judged<'_>, &Vec<f64>)| {
            let advantages = self.advantages(rewards, answer.values);
            let values = answer.values.iter().map(|value| f64::from(*value));
            let returns = advantages.iter().zip(values).map(|(a, v)| a + v).collect();
            Worth { advantages, returns }
        };
        let mut worth: Vec<Worth> = answers.iter().zip(&rewards).map(of).collect();
        let mut all: Vec<&mut [f64]> =
            worth.iter_mut().map(|worth| worth.advantages.as_mut_slice()).collect();
        whiten(&mut all, true);
        worth
    }

    /// r_t: what divergence from the reference costs, and at the last token the score.
    fn rewards(&self, answer: &Judged<'_>, score: f64) -> Vec<f64> {
        let cost = |t: usize| match self.kl_coef {
            0.0 => 0.0,
            coef => -coef * (f64::from(answer.logps[t]) - f64::from(answer.reference[t])),
        };
        let mut rewards: Vec<f64> = (0..answer.logps.len()).map(cost).collect();
        *rewards.last_mut().expect("an answer has a token") += score;
        rewards
    }

    /// A_t = d_t + gamma lambda A_(t+1), d_t = r_t + gamma v_(t+1) - v_t; nothing is expected behind the last token.
    fn advantages(&self, rewards: &[f64], values: &[f32]) -> Vec<f64> {
        let value = |t: usize| values.get(t).map_or(0.0, |value| f64::from(*value));
        let (mut advantages, mut next) = (vec![0.0; rewards.len()], 0.0);
        for (t, advantage) in advantages.iter_mut().enumerate().rev() {
            let surprise = rewards[t] + self.gamma * value(t + 1) - value(t);
            next = surprise + self.gamma * self.lam * next;
            *advantage = next;
        }
        advantages
    }
}

/// Gives numbers a variance of 1 and, with `shift`, a mean of 0. One number has no variance: 0.
fn whiten(numbers: &mut [&mut [f64]], shift: bool) {
    let all = || numbers.iter().flat_map(|some| some.iter());
    let n = all().count() as f64;
    let mean = all().sum::<f64>() / n;
    let squares = all().map(|x| (x - mean) * (x - mean)).sum::<f64>();
    let scale = 1.0 / (squares / (n - 1.0).max(1.0) + EPS).sqrt();
    let kept = if shift { 0.0 } else { mean };
    for x in numbers.iter_mut().flat_map(|some| some.iter_mut()) {
        *x = (*x - mean) * scale + kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advantages_look_forward_and_returns_are_what_came() {
        let config = PpoConfig { gamma: 0.5, lam: 0.5, kl_coef: 0.0, ..PpoConfig::USUAL };
        let got = config.advantages(&[1.0, 0.0, 2.0], &[0.5, 1.0, 0.25]);
        // Surprises: 1 + 0.5 - 0.5, 0.125 - 1, 2 - 0.25.
        assert_eq!(got, [1.0 + 0.25 * (-0.875 + 0.25 * 1.75), -0.875 + 0.25 * 1.75, 1.75]);
        let whole = PpoConfig { gamma: 1.0, lam: 1.0, ..config };
        // With both 1 a return is the sum of what comes.
        let values = [0.5, 1.0, 0.25];
        for (t, a) in whole.advantages(&[1.0, 0.0, 2.0], &values).into_iter().enumerate() {
            assert_eq!(a + f64::from(values[t]), [3.0, 2.0, 2.0][t]);
        }
    }

    #[test]
    fn divergence_costs_each_token_and_the_score_comes_last() {
        let config = PpoConfig { kl_coef: 0.5, ..PpoConfig::USUAL };
        let (logps, reference, values) = (&[-1.0, -2.0][..], &[-1.5, -1.0][..], &[][..]);
        let answer = Judged { logps, reference, values, reward: 0.0 };
        assert_eq!(config.rewards(&answer, 3.0), [-0.25, 3.5]);
        let free = PpoConfig { kl_coef: 0.0, ..config };
        assert_eq!(free.rewards(&Judged { reference: &[], ..answer }, 3.0), [0.0, 3.0]);
    }

    #[test]
    fn one_token_in_all_and_answers_that_are_all_the_same_teach_nothing() {
        let config = PpoConfig { kl_coef: 0.0, whiten_scores: true, ..PpoConfig::USUAL };
        let answer = Judged { logps: &[-1.0], reference: &[], values: &[0.5], reward: 7.0 };
        let worth = config.worth(&[answer]);
        assert_eq!(worth, [Worth { advantages: vec![0.0], returns: vec![0.0] }]);
        let plain = PpoConfig { whiten_scores: false, ..config };
        let worth = plain.worth(&[answer, answer]);
        assert_eq!(worth[1], Worth { advantages: vec![0.0], returns: vec![7.0] });
    }

    #[test]
    fn whitened_numbers_have_a_variance_of_one_and_keep_their_mean_where_they_should() {
        let (mut a, mut b) = (vec![1.0, 2.0], vec![6.0]);
        whiten(&mut [&mut a, &mut b], false);
        assert!((a[0] + a[1] + b[0] - 9.0).abs() < 1e-9);
        let deviation = 7f64.sqrt(); // of 1, 2, 6: 14 / 2
        assert!((b[0] - (3.0 + 3.0 / deviation)).abs() < 1e-8);
        whiten(&mut [&mut a, &mut b], true);
        assert!((a[0] + a[1] + b[0]).abs() < 1e-9);
    }
}
