//! The settings of stages that learn from answers which the model gives while it learns.

use crate::config::{BatchConfig, Long, RunConfig};
use crate::error::TrainError;
use crate::rejection::score::check_all;
use crate::sft;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How answers are given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutConfig {
    /// Prompts of a generation: P.
    pub prompts: usize,
    /// The temperature. Ratios are of probabilities at 1.
    pub temperature: f64,
    /// The nucleus.
    pub top_p: f64,
    /// Tokens of an answer at most.
    pub max_tokens: usize,
    /// Answers under way at once, at most; changes no bit.
    pub parallel: usize,
}

impl RolloutConfig {
    /// What a file need not say.
    pub const USUAL: RolloutConfig =
        RolloutConfig { prompts: 8, temperature: 1.0, top_p: 1.0, max_tokens: 256, parallel: 32 };
}

/// Answers of a generation at most.
const ANSWERS_MAX: usize = 1 << 20;

/// Reads the settings of a run that has a section of its own, which `more` lays on and `check` judges.
///
/// Errors: those of [`sft::read`]; a setting out of its range, no judge.
pub(crate) fn read(
    path: &Path,
    overrides: &[(String, String)],
    more: impl FnOnce(RunConfig) -> RunConfig,
    check: impl FnOnce(&RunConfig) -> Result<(), TrainError>,
) -> Result<RunConfig, TrainError> {
    let more = |base: RunConfig| {
        let (rollout, score) = (Some(RolloutConfig::USUAL), Some(Vec::new()));
        // How many tokens a step takes its answers say.
        let batch = BatchConfig { tokens: 0, ..base.batch.clone() };
        more(RunConfig { rollout, score, batch, ..base })
    };
    let check = |config: &RunConfig| self::check(config).and_then(|()| check(config));
    let mut config = sft::read_over(path, overrides, more, check)?;
    let tokens = config.answers_a_step() * config.batch.seq_len;
    if ![0, tokens].contains(&config.batch.tokens) {
        let expected = format!("nothing: a step takes its answers, at most {tokens} tokens");
        let source = Box::new(TrainError::no("batch.tokens", config.batch.tokens, &expected));
        return Err(TrainError::InFile { path: path.into(), source });
    }
    config.batch.tokens = tokens;
    Ok(config)
}

fn check(config: &RunConfig) -> Result<(), TrainError> {
    let rollout = config.rollout.as_ref().expect("`read` gave it");
    for (key, value, most) in [
        ("rollout.prompts", rollout.prompts, ANSWERS_MAX),
        ("rollout.max_tokens", rollout.max_tokens, config.batch.seq_len.max(1)),
        ("rollout.parallel", rollout.parallel, 4096),
    ] {
        if !(1..=most).contains(&value) {
            return Err(TrainError::no(key, value, &format!("1 to {most}")));
        }
    }
    for (key, value, most) in
        [("rollout.temperature", rollout.temperature, 100.0), ("rollout.top_p", rollout.top_p, 1.0)]
    {
        if !(value > 0.0 && value <= most) {
            return Err(TrainError::no(key, value, &format!("above 0, at most {most}")));
        }
    }
    // How many answers a prompt has is not checked yet.
    let answers = rollout.prompts.saturating_mul(config.answers_a_prompt());
    if answers > ANSWERS_MAX {
        let value = format!("{} prompts of {}", rollout.prompts, config.answers_a_prompt());
        let expected = format!("at most {ANSWERS_MAX} answers");
        return Err(TrainError::no("rollout.prompts", value, &expected));
    }
    let scores = config.score.as_deref().unwrap_or_default();
    if scores.is_empty() {
        return Err(TrainError::no("score", "nothing", "[[score]]: what answers are judged by"));
    }
    check_all(scores)?;
    if let Some(score) = scores.iter().find(|score| score.require.is_some()) {
        let expected = "nothing: every answer is learnt from";
        return Err(TrainError::no("score.require", &score.name, expected));
    }
    if config.data.shards.is_some() {
        return Err(TrainError::no("data.shards", "a folder", "data.input: files of prompts"));
    }
    if !(config.data.mix.is_empty() && config.data.changes.is_empty()) {
        return Err(TrainError::no("data.mix", "a mix", "nothing: prompts come as they are"));
    }
    if !config.batch.ramp.is_empty() {
        return Err(TrainError::no("batch.ramp", "sizes", "nothing: a step takes its answers"));
    }
    match config.data.long {
        Long::Drop | Long::Refuse => Ok(()),
        Long::Shorten | Long::Split => {
            Err(TrainError::no("data.long", "another", "drop or refuse: prompts stay whole"))
        }
    }
}

impl RunConfig {
    /// Answers that a step learns from.
    fn answers_a_step(&self) -> usize {
        let prompts = self.rollout.as_ref().map_or(0, |rollout| rollout.prompts);
        prompts / self.parts() * self.answers_a_prompt()
    }
}
