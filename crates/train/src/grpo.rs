//! Group relative policy optimisation (arXiv 2402.03300, section 4.1): an answer is as good as it is better than the others to
//! its prompt. Names of settings and their meaning are those of TRL.
//!
//! ```text
//! A_i = (r_i - mean(r)) / (std(r) + 1e-4)              r the rewards of the G answers to a prompt
//! ```
//!
//! What tokens lose stands in `policy.rs`; `loss_type` says what each of them counts.

use crate::config::{Decay, OptimConfig, RunConfig, SampleConfig};
use crate::error::TrainError;
use crate::policy::Loss;
use crate::pretrain::pretrain;
use crate::rollout::{self, RolloutConfig};
use crate::trainer::Trainer;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The settings of the loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpoConfig {
    /// Answers to a prompt: G.
    pub num_generations: usize,
    /// What a token counts.
    pub loss_type: LossType,
    /// How far from 1 a ratio still counts.
    pub epsilon: f64,
    /// The same above 1, where that differs (arXiv 2503.14476).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epsilon_high: Option<f64>,
    /// What the divergence from the first policy costs; 0: no reference is in memory.
    pub beta: f64,
    /// How often answers are learnt from.
    pub num_iterations: usize,
    /// Into how many steps the answers of one generation are cut.
    pub steps_per_generation: usize,
    /// What advantages are divided by.
    pub scale_rewards: Scale,
    /// Whether answers that did not end by themselves are not learnt from.
    pub mask_truncated_completions: bool,
}

/// What a token counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// 1 / tokens of its answer, 1 / answers (arXiv 2402.03300).
    Grpo,
    /// 1 / tokens of all answers of the step.
    Bnpo,
    /// 1 / `rollout.max_tokens`, 1 / answers (arXiv 2503.20783).
    DrGrpo,
}

/// What advantages are divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// The deviation of the rewards of the group.
    Group,
    /// That of all rewards of the generation.
    Batch,
    /// Nothing (arXiv 2503.20783).
    None,
}

/// Added to deviations.
const EPS: f64 = 1e-4;

impl GrpoConfig {
    /// What a file need not say.
    pub const USUAL: GrpoConfig = GrpoConfig {
        num_generations: 8,
        loss_type: LossType::Grpo,
        epsilon: 0.2,
        epsilon_high: None,
        beta: 0.0,
        num_iterations: 1,
        steps_per_generation: 1,
        scale_rewards: Scale::Group,
        mask_truncated_completions: false,
    };

    /// What tokens lose.
    pub fn loss(&self) -> Loss {
        let GrpoConfig { epsilon, epsilon_high, beta, .. } = *self;
        Loss { low: epsilon, high: epsilon_high.unwrap_or(epsilon), beta, value: None }
    }

    /// Of each answer what one of its tokens counts. `answers` are tokens and whether it ended by itself.
    pub fn shares(&self, answers: &[(usize, bool)], max_tokens: usize) -> Vec<f64> {
        let counts = |ended: bool| ended || !self.mask_truncated_completions;
        let tokens: usize =
            answers.iter().map(|(n, ended)| if counts(*ended) { *n } else { 0 }).sum();
        let all = answers.len() as f64;
        let share = |(n, ended): &(usize, bool)| match (counts(*ended), self.loss_type) {
            (false, _) => 0.0,
            (true, LossType::Grpo) => 1.0 / (all * *n as f64),
            (true, LossType::Bnpo) => 1.0 / tokens as f64,
            (true, LossType::DrGrpo) => 1.0 / (all * max_tokens as f64),
        };
        answers.iter().map(share).collect()
    }

    /// By how much each answer is better than expected; `rewards` are those of groups, one after another.
    pub fn advantages(&self, rewards: &[f64]) -> Vec<f64> {
        let whole = deviation(rewards);
        let group = |rewards: &[f64]| -> Vec<f64> {
            let mean = rewards.iter().sum::<f64>() / rewards.len() as f64;
            let scale = match self.scale_rewards {
                Scale::Group => deviation(rewards) + EPS,
                Scale::Batch => whole + EPS,
                Scale::None => 1.0,
            };
            rewards.iter().map(|reward| (reward - mean) / scale).collect()
        };
        rewards.chunks(self.num_generations).flat_map(group).collect()
    }
}

/// The standard deviation of a sample, as torch has it: over n - 1. 0 of numbers that are all the same, and of one.
pub(crate) fn deviation(numbers: &[f64]) -> f64 {
    if numbers.iter().all(|x| *x == numbers[0]) {
        return 0.0;
    }
    let n = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / n;
    (numbers.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (n - 1.0)).sqrt()
}

/// Reads the settings of a run: those of [`sft::read`](crate::sft::read), `[rollout]`, `[[score]]`, and TRL's of `[grpo]`.
///
/// Errors: as there; a setting out of its range, no judge.
pub fn read(path: &Path, overrides: &[(String, String)]) -> Result<RunConfig, TrainError> {
    let more = |base: RunConfig| RunConfig {
        grpo: Some(GrpoConfig::USUAL),
        optim: OptimConfig { lr: 1e-6, decay: Decay::Constant, warmup_steps: 0, ..base.optim },
        samples: SampleConfig { every: 0, ..base.samples },
        ..base
    };
    rollout::read(path, overrides, more, check)
}

fn check(config: &RunConfig) -> Result<(), TrainError> {
    let grpo = config.grpo.as_ref().expect("`read` gave it");
    for (key, value, range) in [
        ("grpo.epsilon", grpo.epsilon, 0.0..=1.0),
        ("grpo.epsilon_high", grpo.epsilon_high.unwrap_or(0.0), 0.0..=1e6),
        ("grpo.beta", grpo.beta, 0.0..=1e6),
    ] {
        if !range.contains(&value) {
            let expected = format!("{} to {}", range.start(), range.end());
            return Err(TrainError::no(key, value, &expected));
        }
    }
    for (key, value, range) in [
        ("grpo.num_generations", grpo.num_generations, 2..=1024),
        ("grpo.num_iterations", grpo.num_iterations, 1..=1024),
    ] {
        if !range.contains(&value) {
            let expected = format!("{} to {}", range.start(), range.end());
            return Err(TrainError::no(key, value, &expected));
        }
    }
    let RolloutConfig { prompts, .. } = *config.rollout.as_ref().expect("`read` gave it");
    if grpo.steps_per_generation == 0 || !prompts.is_multiple_of(grpo.steps_per_generation) {
        let expected = format!("a divisor of rollout.prompts, {prompts}");
        return Err(TrainError::no(
            "grpo.steps_per_generation",
            grpo.steps_per_generation,
            &expected,
        ));
    }
    Ok(())
}

/// Runs to the last step, or until it is asked to stop.
///
/// Errors: those of [`pretrain`], and of the judges.
pub fn grpo(run: &mut Trainer<'_>) -> Result<(), TrainError> {
    run.validate_first()?;
    pretrain(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advantage_is_what_an_answer_is_better_than_its_group() {
        let config = GrpoConfig { num_generations: 2, ..GrpoConfig::USUAL };
        let rewards = [1.0, 0.0, 0.3, 0.3];
        let at = 0.5 / (0.5f64.sqrt() + EPS);
        assert_eq!(config.advantages(&rewards), [at, -at, 0.0, 0.0]);
        let none = GrpoConfig { scale_rewards: Scale::None, ..config.clone() };
        assert_eq!(none.advantages(&rewards), [0.5, -0.5, 0.0, 0.0]);
        let batch = GrpoConfig { scale_rewards: Scale::Batch, ..config };
        let at = 0.5 / (deviation(&rewards) + EPS);
        assert_eq!(batch.advantages(&rewards), [at, -at, 0.0, 0.0]);
    }

    #[test]
    fn shares_of_tokens_are_those_of_the_loss_and_cut_answers_may_have_none() {
        let of = |loss_type, mask_truncated_completions| {
            let config = GrpoConfig { loss_type, mask_truncated_completions, ..GrpoConfig::USUAL };
            config.shares(&[(4, true), (12, false)], 16)
        };
        assert_eq!(of(LossType::Grpo, false), [1.0 / 8.0, 1.0 / 24.0]);
        assert_eq!(of(LossType::Bnpo, false), [1.0 / 16.0; 2]);
        assert_eq!(of(LossType::DrGrpo, false), [1.0 / 32.0; 2]);
        assert_eq!(of(LossType::Grpo, true), [1.0 / 8.0, 0.0]);
        assert_eq!(of(LossType::Bnpo, true), [1.0 / 4.0, 0.0]);
    }
}
