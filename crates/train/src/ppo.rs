//! Proximal policy optimisation with a value head (arXiv 1707.06347; as Llama 2 had it, arXiv 2307.09288, section 3.2.3): a
//! token is as good as what follows it is better than was expected. Names of settings and their meaning are those of TRL.
//!
//! ```text
//! v_t = w . h_t                                        h_t: the policy's last hidden state before token t; w: the value head, [1, D]
//! r_t = -kl_coef (ln p_old(t) - ln q(t)),  + score at the last token               q the reference
//! A_t = d_t + gamma lambda A_(t+1),  d_t = r_t + gamma v_(t+1) - v_t,  R_t = A_t + v_t     (arXiv 1506.02438)
//! ```
//!
//! Advantages are whitened over the generation. What tokens lose stands in `policy.rs` and `value.rs`: means over the tokens of
//! a mini-batch. Policy and values share all but their heads, as TRL's models with a value head do; a critic of its own (InstructGPT's) would
//! take twice the memory. A checkpoint is the policy alone; the value head lies in its `state/`.

use crate::config::{Decay, OptimConfig, RunConfig, SampleConfig};
use crate::error::TrainError;
use crate::policy::Loss;
use crate::pretrain::pretrain;
use crate::reward::FirstHead;
use crate::rollout::{self, RolloutConfig};
use crate::state;
use crate::trainer::Trainer;
use crate::value::ValueLoss;
use herd_model::names::Part;
use herd_model::{Checkpoint, Config};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

mod worth;

pub use worth::{Judged, Worth};

/// The settings of the loss and of the value head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PpoConfig {
    /// How often answers are learnt from.
    pub num_ppo_epochs: usize,
    /// Into how many steps each time.
    pub num_mini_batches: usize,
    /// What divergence from the first policy costs a token; 0: no reference is in memory.
    pub kl_coef: f64,
    /// How far from 1 a ratio still counts.
    pub cliprange: f64,
    /// How far from the old value a value still counts.
    pub cliprange_value: f64,
    /// What the loss of values counts.
    pub vf_coef: f64,
    /// What a reward counts a token earlier.
    pub gamma: f64,
    /// How far advantages look beyond values.
    pub lam: f64,
    /// Whether scores have a mean of 0 and a variance of 1 over a generation (arXiv 2307.09288, section 3.2.3).
    pub whiten_scores: bool,
    /// Whether the rewards of tokens have a variance of 1.
    pub whiten_rewards: bool,
    /// What the score of an answer that did not end by itself is lowered by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing_eos_penalty: Option<f64>,
    /// The first numbers of the value head.
    pub head: FirstHead,
    /// Instead: a reward model, or a checkpoint of this stage, whose head they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_model: Option<PathBuf>,
}

impl PpoConfig {
    /// What a file need not say: Llama 2's clip and price of divergence (its smaller models'), the rest as TRL has it.
    pub const USUAL: PpoConfig = PpoConfig {
        num_ppo_epochs: 4,
        num_mini_batches: 1,
        kl_coef: 0.01,
        cliprange: 0.2,
        cliprange_value: 0.2,
        vf_coef: 0.1,
        gamma: 1.0,
        lam: 0.95,
        whiten_scores: false,
        whiten_rewards: false,
        missing_eos_penalty: None,
        head: FirstHead::Zero,
        value_model: None,
    };

    /// What tokens lose.
    pub fn loss(&self) -> Loss {
        let PpoConfig { cliprange: clip, cliprange_value, vf_coef, .. } = *self;
        let value = Some(ValueLoss { clip: cliprange_value, coef: vf_coef });
        Loss { low: clip, high: clip, beta: 0.0, value } // divergence is in the rewards
    }

    /// The first numbers of the value head of a model of this shape.
    ///
    /// Errors: the checkpoint that has them cannot be read, has none, or is of another width.
    pub(crate) fn first_values(&self, shape: &Config, seed: u64) -> Result<Vec<f32>, TrainError> {
        let Some(path) = &self.value_model else { return Ok(self.head.numbers(shape, seed)) };
        let numbers = state::first_numbers(&Checkpoint::open_any(path)?, Part::Score)?;
        match numbers.len() == shape.width {
            true => Ok(numbers),
            false => {
                let value = format!("{} of width {}", path.display(), numbers.len());
                let expected = format!("the width of model.init, {}", shape.width);
                Err(TrainError::no("ppo.value_model", value, &expected))
            }
        }
    }
}

/// Reads the settings of a run: those of [`sft::read`](crate::sft::read), `[rollout]`, `[[score]]`, and TRL's of `[ppo]`.
///
/// Errors: as there; a setting out of its range, no judge.
pub fn read(path: &Path, overrides: &[(String, String)]) -> Result<RunConfig, TrainError> {
    // Rate and epsilon of AdamW: arXiv 2307.09288, section 3.2.3.
    let optim = |optim: OptimConfig| OptimConfig {
        lr: 1e-6,
        eps: 1e-5,
        decay: Decay::Constant,
        warmup_steps: 0,
        ..optim
    };
    let more = |base: RunConfig| RunConfig {
        ppo: Some(PpoConfig::USUAL),
        optim: optim(base.optim),
        samples: SampleConfig { every: 0, ..base.samples },
        ..base
    };
    rollout::read(path, overrides, more, check)
}

fn check(config: &RunConfig) -> Result<(), TrainError> {
    let ppo = config.ppo.as_ref().expect("`read` gave it");
    for (key, value, range) in [
        ("ppo.kl_coef", ppo.kl_coef, 0.0..=1e6),
        ("ppo.cliprange", ppo.cliprange, 0.0..=1.0),
        ("ppo.cliprange_value", ppo.cliprange_value, 0.0..=1e6),
        ("ppo.vf_coef", ppo.vf_coef, 0.0..=1e6),
        ("ppo.gamma", ppo.gamma, 0.0..=1.0),
        ("ppo.lam", ppo.lam, 0.0..=1.0),
        ("ppo.missing_eos_penalty", ppo.missing_eos_penalty.unwrap_or(0.0), 0.0..=1e6),
    ] {
        if !range.contains(&value) {
            let expected = format!("{} to {}", range.start(), range.end());
            return Err(TrainError::no(key, value, &expected));
        }
    }
    if !(1..=1024).contains(&ppo.num_ppo_epochs) {
        return Err(TrainError::no("ppo.num_ppo_epochs", ppo.num_ppo_epochs, "1 to 1024"));
    }
    let RolloutConfig { prompts, .. } = *config.rollout.as_ref().expect("`read` gave it");
    if ppo.num_mini_batches == 0 || !prompts.is_multiple_of(ppo.num_mini_batches) {
        let expected = format!("a divisor of rollout.prompts, {prompts}");
        return Err(TrainError::no("ppo.num_mini_batches", ppo.num_mini_batches, &expected));
    }
    Ok(())
}

/// Runs to the last step, or until it is asked to stop.
///
/// Errors: those of [`pretrain`], and of the judges.
pub fn ppo(run: &mut Trainer<'_>) -> Result<(), TrainError> {
    run.validate_first()?;
    pretrain(run)
}
