//! What a round takes of memory: its stages run one after another, each as its verb would.

use super::{Model, Sampling, format, plan, savings};
use crate::config::RunConfig;
use crate::dpo::DpoConfig;
use crate::error::TrainError;
use crate::rejection::RejectionConfig;
use crate::reward::RewardConfig;
use crate::round::{Beginning, RoundConfig, Settings, Start};
use crate::sft;
use herd_model::{Checkpoint, Config, Head};
use std::path::{Path, PathBuf};

/// The plan of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Its name in `[stages]`, or that of its settings.
    pub name: &'static str,
    /// Bytes by part.
    pub parts: Vec<(&'static str, u64)>,
    /// What could be changed for it to take less, from the cheapest on, and its peak then.
    pub savings: Vec<(String, u64)>,
}

impl Stage {
    /// Memory at the peak.
    pub fn peak(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// The stages of a round in which all checkpoints are there: the second, if there is one.
///
/// `available` bytes decide how many answers are under way at once, as they do when it runs.
/// Errors: a checkpoint that cannot be opened; settings of a stage that cannot be.
pub fn round(
    config: &RoundConfig,
    available: u64,
    threads: usize,
) -> Result<Vec<Stage>, TrainError> {
    let open = |path: &Path| Checkpoint::open(path);
    let (policy, base) = (open(&config.policy)?, open(&config.base)?);
    let path = config.policy.display().to_string();
    let begin = Beginning {
        round: config.rounds.min(2),
        previous: (config.rounds > 1).then(|| path.clone()),
        policy: path,
    };
    let of = Settings::of(config, &begin);
    let scored = Config { head: Head::Score, ..base.config.clone() };
    let tuned = match config.start {
        Start::Base => &base.config,
        Start::Policy => &policy.config,
    };
    let run = |text: &str, more: fn(&mut RunConfig)| {
        RunConfig::parse_over(text, &[], |preset| {
            let mut base = sft::base(preset);
            more(&mut base);
            base
        })
    };
    let reward = run(&of.reward, |base| base.reward = Some(RewardConfig::LLAMA))?;
    let sft = run(&of.sft, |_| ())?;
    let dpo = run(&of.dpo, |base| base.dpo = Some(DpoConfig::LLAMA))?;
    let (first, made) = (Model::of(&policy)?, Model::stored(tuned, format(&dpo)));
    // Those of a later round are all made, but the first may be stored in more bytes.
    let policy = if made.weights > first.weights { made.clone() } else { first };
    let scores = Model::stored(&scored, format(&reward));
    // Models that a round makes are not there yet; those that the settings name are.
    let judge = |path: &PathBuf| {
        let made = !path.is_absolute();
        if made { Ok(scores.clone()) } else { Ok(Model::of(&Checkpoint::open_any(path)?)?) }
    };
    let answers = |name, text: &str, policies: Vec<Model>| {
        let config = RejectionConfig::parse(text, &[])?;
        let judges = config.score.iter().filter_map(|score| score.judge.model());
        let judges = judges.map(judge).collect::<Result<_, TrainError>>()?;
        let of = Sampling { policies, judges, prompts: None };
        let fitting = of.fitting(&config, available, threads);
        let parts = of.plan(&fitting, threads).parts().to_vec();
        Ok::<_, TrainError>(Stage { name, parts, savings: Vec::new() })
    };
    let learns = |name, run: &RunConfig, shape: &Config| {
        let saved = savings(run, shape, threads).into_iter();
        let of_stage = |change: String| change.replace("--set ", &format!("--set stages.{name}."));
        let savings = saved.map(|(change, plan)| (of_stage(change), plan.peak())).collect();
        Stage { name, parts: plan(run, shape, threads).parts().to_vec(), savings }
    };
    let before =
        if config.rounds > 1 { vec![policy.clone(), policy.clone()] } else { vec![policy.clone()] };
    Ok(vec![
        answers("collect", &of.collect, before)?,
        learns("reward", &reward, &scored),
        answers("sample", &of.sample, vec![policy.clone()])?,
        learns("sft", &sft, tuned),
        learns("dpo", &dpo, tuned),
        answers("gate", &of.gate, vec![policy, made])?,
    ])
}
