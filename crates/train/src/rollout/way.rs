//! The two ways in which a run learns from its answers, and in what they differ.

use super::{Objective, RolloutRow};
use crate::config::RunConfig;
use crate::grpo::GrpoConfig;
use crate::policy::Loss;
use crate::ppo::{Judged, PpoConfig, Worth};

/// What an answer is held against.
#[derive(Clone, Copy)]
pub(crate) enum Way<'a> {
    /// The others to its prompt.
    Group(&'a GrpoConfig),
    /// What was expected before each of its tokens.
    Values(&'a PpoConfig),
}

impl RunConfig {
    /// That of a run with answers. Panics if it has none: those who read its settings laid one on.
    pub(crate) fn way(&self) -> Way<'_> {
        match (&self.grpo, &self.ppo) {
            (Some(grpo), _) => Way::Group(grpo),
            (None, Some(ppo)) => Way::Values(ppo),
            (None, None) => panic!("a run with answers learns nothing from them"),
        }
    }

    /// Answers to a prompt.
    pub(crate) fn answers_a_prompt(&self) -> usize {
        match self.way() {
            Way::Group(grpo) => grpo.num_generations,
            Way::Values(_) => 1,
        }
    }

    /// Into how many steps the answers of a generation are cut.
    pub(crate) fn parts(&self) -> usize {
        match self.way() {
            Way::Group(grpo) => grpo.steps_per_generation,
            Way::Values(ppo) => ppo.num_mini_batches,
        }
    }

    /// How often each part is learnt from.
    pub(crate) fn iterations(&self) -> usize {
        match self.way() {
            Way::Group(grpo) => grpo.num_iterations,
            Way::Values(ppo) => ppo.num_ppo_epochs,
        }
    }
}

impl Way<'_> {
    /// Whether each time that the answers are learnt from their parts are others.
    pub fn shuffles(self) -> bool {
        match self {
            Way::Group(_) => false,
            Way::Values(_) => true,
        }
    }

    /// Whether the first policy is in memory, for what divergence from it costs.
    pub fn has_reference(self) -> bool {
        match self {
            Way::Group(grpo) => grpo.beta != 0.0,
            Way::Values(ppo) => ppo.kl_coef != 0.0,
        }
    }

    /// What tokens lose.
    pub fn loss(self) -> Loss {
        match self {
            Way::Group(grpo) => grpo.loss(),
            Way::Values(ppo) => ppo.loss(),
        }
    }

    /// Of each answer of a step what one of its tokens counts. `answers` are tokens and whether it ended by itself.
    pub fn shares(self, answers: &[(usize, bool)], max_tokens: usize) -> Vec<f64> {
        match self {
            Way::Group(grpo) => grpo.shares(answers, max_tokens),
            Way::Values(_) => {
                let tokens: usize = answers.iter().map(|(tokens, _)| tokens).sum();
                vec![1.0 / tokens as f64; answers.len()]
            }
        }
    }

    /// What the reward of an answer is lowered by.
    pub fn penalty(self, ended: bool) -> f64 {
        match self {
            Way::Values(ppo) if !ended => ppo.missing_eos_penalty.unwrap_or(0.0),
            Way::Values(_) | Way::Group(_) => 0.0,
        }
    }

    /// Whether a row that was read back has what is learnt from.
    pub fn fits(self, row: &RolloutRow) -> bool {
        let each = |numbers: &[f32]| numbers.len() == row.ids.len();
        let referred = !self.has_reference() || each(&row.ref_logps);
        referred
            && match self {
                Way::Group(_) => row.advantage.is_some(),
                Way::Values(_) => each(&row.values),
            }
    }

    /// What the tokens of each answer of a generation were worth.
    pub fn worth(self, rows: &[RolloutRow]) -> Vec<Worth> {
        match self {
            Way::Group(_) => {
                let of = |row: &RolloutRow| {
                    let advantage = row.advantage.expect("it was made with the row");
                    Worth { advantages: vec![advantage; row.ids.len()], returns: Vec::new() }
                };
                rows.iter().map(of).collect()
            }
            Way::Values(ppo) => ppo.worth(&rows.iter().map(judged).collect::<Vec<_>>()),
        }
    }

    /// What a generation was worth once divergence is paid for.
    pub fn objective(self, rows: &[RolloutRow]) -> Option<Objective> {
        let Way::Values(ppo) = self else { return None };
        if !self.has_reference() {
            return None;
        }
        let away = |row: &RolloutRow| -> f64 {
            let pairs = row.logps.iter().zip(&row.ref_logps);
            pairs.map(|(p, q)| f64::from(*p) - f64::from(*q)).sum()
        };
        let mean =
            |of: &dyn Fn(&RolloutRow) -> f64| rows.iter().map(of).sum::<f64>() / rows.len() as f64;
        let kl = mean(&away);
        let cost = -ppo.kl_coef * kl;
        Some(Objective { kl, cost, reward: mean(&|row| row.reward) + cost })
    }
}

fn judged(row: &RolloutRow) -> Judged<'_> {
    let RolloutRow { logps, ref_logps, values, reward, .. } = row;
    Judged { logps, reference: ref_logps, values, reward: *reward }
}
