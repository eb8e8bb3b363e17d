//! Answers that the model gives while it learns, judged, kept and packed into the batches that it learns from.
//!
//! ```text
//! prompts -> P of them, in an order of the seed -> G requests each: their pages shared     the engine over the weights at hand
//!         -> tokens and their nats -> scores -> advantages -> rows of rollouts.jsonl
//!         -> parts, each learnt from in a step: rows of whole answers, each behind its prompt
//! ```
//!
//! What is drawn depends on the seed and on how many prompts were drawn before, never on what runs beside it. The engine
//! reads the masters' own products, so nothing is laid out anew for it; it and its pages live for one generation. The
//! sampler's log-probabilities are the trainer's bits, so at the first step after it every ratio is 1.

mod asking;
mod config;
mod pack;
mod row;
mod speak;
mod way;

pub use config::RolloutConfig;
pub(crate) use config::read;
pub use row::RolloutRow;
pub(crate) use speak::limits;
pub(crate) use way::Way;

use crate::config::RunConfig;
use crate::error::TrainError;
use crate::grpo::deviation;
use crate::metrics::{Line, Metrics, part};
use crate::paired::interval;
use crate::policy::{self, Answer, Sums};
use crate::ppo::Worth;
use crate::reference::Live;
use crate::rejection::score::{self, Asked, Judges, Scores};
use crate::rejection::spoken::Spoken;
use crate::reward::RewardModel;
use crate::step::{Micro, Packed};
use crate::trainer::Trainer;
use crate::words::Words;
use asking::{Asking, Askings};
use herd_data::{Batch, Hash};
use herd_engine::rng::uniform;
use herd_model::llama::Llama;
use herd_tensor::{Device, Tape};
use pack::{Text, here, pack, read_answers};
use row::{damaged, read_back};
use serde::{Deserialize, Serialize};
use speak::say;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a run is among its answers: what a checkpoint keeps of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Prompts, words and judges that it belongs to.
    belongs_to: Hash,
    /// Prompts drawn.
    drawn: u64,
    /// Steps that learnt from the last generation.
    used: usize,
    /// Where its rows begin in `rollouts.jsonl`.
    at: u64,
    /// Bytes of the file.
    bytes: u64,
    /// The hash of the last generation's rows.
    rows: Hash,
}

/// What a generation was worth; names as TRL has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // their names in the file say it
pub struct Generation {
    /// Steps that the policy had done.
    pub step: u64,
    pub answers: usize,
    /// The mean reward.
    pub reward: f64,
    /// The mean over prompts of the deviation of their answers' rewards; of one answer a prompt that of all.
    pub reward_std: f64,
    /// The share of prompts whose answers are all worth the same: nothing is learnt from them.
    pub frac_reward_zero_std: f64,
    #[serde(rename = "completions/mean_length")]
    pub mean_length: f64,
    #[serde(rename = "completions/min_length")]
    pub min_length: usize,
    #[serde(rename = "completions/max_length")]
    pub max_length: usize,
    /// The share of answers that did not end by themselves.
    #[serde(rename = "completions/clipped_ratio")]
    pub clipped: f64,
    /// The mean score by each judge, not weighted.
    pub rewards: BTreeMap<String, f64>,
    /// Of `ppo` with a reference.
    #[serde(flatten, deserialize_with = "part", skip_serializing_if = "Option::is_none")]
    pub objective: Option<Objective>,
}

/// What a generation was worth after its divergence from the reference was paid for; names as TRL has them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // their names in the file say it
pub struct Objective {
    /// The mean over answers of the sum of ln p(t) - ln q(t).
    #[serde(rename = "objective/kl")]
    pub kl: f64,
    /// What that costs.
    #[serde(rename = "objective/non_score_reward")]
    pub cost: f64,
    /// The mean reward and that.
    #[serde(rename = "objective/rlhf_reward")]
    pub reward: f64,
}

/// Held-out prompts, answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // their names in the file say it
pub struct Evaluation {
    pub step: u64,
    pub prompts: usize,
    /// The mean reward of one answer each.
    pub eval_reward: f64,
    /// The ends of its 95 % interval, where there are several prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    #[serde(rename = "eval_completions/mean_length")]
    pub mean_length: f64,
    pub eval_rewards: BTreeMap<String, f64>,
}

/// The answers of a run.
pub(crate) struct Rollouts {
    asked: Askings,
    judges: Judges,
    reference: Option<Live>,
    file: Metrics,
    path: PathBuf,
    place: Place,
    /// Those of the last generation, prompt by prompt, and which prompts these are.
    rows: Vec<RolloutRow>,
    prompts: Vec<usize>,
    /// What the tokens of each were worth.
    worth: Vec<Worth>,
}

/// What they are opened with.
pub(crate) struct Opening<'a> {
    pub config: &'a RunConfig,
    pub words: &'a Words,
    pub device: &'a Device,
    pub out: &'a Path,
    /// Reward models of the judges, and the hashes of what their rewards depend on.
    pub rewards: &'a [(Hash, Arc<RewardModel>)],
}

/// The policy and its settings.
#[derive(Clone, Copy)]
pub(crate) struct Player<'a> {
    pub config: &'a RunConfig,
    pub words: &'a Words,
    pub model: &'a Arc<Llama>,
    pub tape: &'a Tape,
    /// Steps it has done.
    pub step: u64,
}

const FILE: &str = "rollouts.jsonl";

impl Rollouts {
    /// Reads the prompts, and takes up the file of answers where `saved` has it.
    ///
    /// Errors: those of [`Askings::open`]; the file is damaged, or belongs to other prompts, words or judges.
    pub fn open(opening: &Opening<'_>, saved: Option<&Place>) -> Result<Rollouts, TrainError> {
        let Opening { config, words, device, out, rewards } = *opening;
        let asked = Askings::open(config, words)?;
        let scores = config.score.as_deref().unwrap_or_default();
        let judges = Judges::open(scores, rewards.iter().map(|(_, model)| Arc::clone(model)))?;
        let hashes: Vec<String> = rewards.iter().map(|(hash, _)| hash.to_string()).collect();
        let all = format!("{} {} {hashes:?}", asked.hash, words.manners());
        let belongs_to = Hash::of(all.as_bytes());
        let whole = config.parts() * config.iterations();
        let rows = Hash::of(b"");
        let first = Place { belongs_to, drawn: 0, used: whole, at: 0, bytes: 0, rows };
        let place = saved.cloned().unwrap_or(first);
        if place.belongs_to != belongs_to {
            let (was, is) = (place.belongs_to.to_string(), belongs_to.to_string());
            let key = "the prompts, words and judges".to_owned();
            return Err(TrainError::OtherConfig { folder: out.to_owned(), key, was, is });
        }
        let reference = match config.way().has_reference() {
            true => Some(Live::first(config, words, device)?),
            false => None,
        };
        let path = out.join(FILE);
        let file = Metrics::open(&path, place.bytes)?;
        let (rows, prompts, worth) = (Vec::new(), Vec::new(), Vec::new());
        let mut opened =
            Rollouts { asked, judges, reference, file, path, place, rows, prompts, worth };
        if opened.place.used < whole {
            opened.take_up(config)?;
        }
        Ok(opened)
    }

    /// Reads the last generation back.
    fn take_up(&mut self, config: &RunConfig) -> Result<(), TrainError> {
        let count = config.rollout.as_ref().map_or(0, |rollout| rollout.prompts);
        let each = config.answers_a_prompt();
        self.rows = read_back(&self.path, &self.place, count * each)?;
        self.prompts = self.asked.at(self.place.drawn - count as u64, count);
        for (row, prompt) in self.rows.iter().zip(self.prompts.iter().flat_map(|p| vec![p; each])) {
            let asking = &self.asked.train[*prompt];
            let right = row.prompt == asking.prompt.id && row.logps.len() == row.ids.len();
            if !right || row.prompt_tokens != asking.ids.len() {
                return Err(damaged(&self.path, "an answer is to another prompt"));
            }
            if row.ids.is_empty() {
                return Err(damaged(&self.path, "an answer has no token"));
            }
            if !config.way().fits(row) {
                return Err(damaged(&self.path, "an answer lacks numbers of its tokens"));
            }
        }
        self.worth = config.way().worth(&self.rows);
        Ok(())
    }

    /// What a checkpoint keeps; the file is on the disk then.
    pub fn keep(&mut self) -> Result<(), TrainError> {
        self.file.sync()
    }

    /// Where it is.
    pub fn place(&self) -> Place {
        self.place.clone()
    }

    /// The hash of prompts, words and judges.
    pub fn hash(&self) -> Hash {
        self.place.belongs_to
    }

    /// Rows that ask nothing, or too much, by the reason.
    pub fn dropped(&self) -> &BTreeMap<String, u64> {
        &self.asked.dropped
    }

    /// Answers of weights that are no more: the next step gives others.
    pub fn forget(&mut self) {
        self.place.used = usize::MAX;
    }

    /// The rows of the prompts of a batch.
    pub fn origins(&self, batch: &Batch) -> Vec<String> {
        let rows = batch.spans.iter().map(|span| &self.rows[span.document as usize]);
        let mut rows: Vec<String> = rows.map(|row| format!("{} {}", row.file, row.row)).collect();
        rows.dedup();
        rows
    }

    /// The answers of the next step, and what was met where they are new; `None` where prompts have come as often as
    /// they may.
    ///
    /// Errors: those of [`generate`](Rollouts::generate).
    pub fn batch(
        &mut self,
        player: Player<'_>,
    ) -> Result<Option<(Batch, Option<Generation>)>, TrainError> {
        let whole = player.config.parts() * player.config.iterations();
        let mut met = None;
        if self.place.used >= whole {
            let rollout = player.config.rollout.as_ref().expect("it has answers");
            let drawn = self.place.drawn + rollout.prompts as u64;
            if drawn as f64 > player.config.data.epochs_max * self.asked.train.len() as f64 {
                return Ok(None);
            }
            self.prompts = self.asked.at(self.place.drawn, rollout.prompts);
            self.rows = self.generate(player)?;
            self.worth = player.config.way().worth(&self.rows);
            let (text, at) = (row::text(&self.rows), self.file.bytes());
            self.file.write_text(&text)?;
            let (bytes, rows) = (self.file.bytes(), Hash::of(&text));
            self.place = Place { drawn, used: 0, at, bytes, rows, ..self.place };
            met = Some(self.met(player));
        }
        let batch = self.pack(player, &self.rows, self.numbers(player.config).into_iter());
        self.place.used += 1;
        Ok(Some((batch, met)))
    }

    /// Whether the weights of the step at hand are those that gave its answers.
    pub fn on_policy(&self) -> bool {
        self.place.used == 1
    }

    /// The answers of the next step: a part of all, each time in another order where the way has several orders.
    fn numbers(&self, config: &RunConfig) -> Vec<usize> {
        let (parts, count) = (config.parts(), self.rows.len() / config.parts());
        let (part, epoch) = (self.place.used % parts, self.place.used / parts);
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        if parts > 1 && config.way().shuffles() {
            let seed = seed(config, "order", self.place.drawn);
            let key = |i: &usize| uniform(seed, epoch as u64, *i as u64);
            order.sort_by(|a, b| key(a).total_cmp(&key(b)));
        }
        order[part * count..][..count].to_vec()
    }

    /// Some answers in rows.
    fn pack(
        &self,
        player: Player<'_>,
        rows: &[RolloutRow],
        numbers: impl Iterator<Item = usize>,
    ) -> Batch {
        let each = player.config.answers_a_prompt();
        let text = |number: usize| Text {
            number,
            prompt: &self.asked.train[self.prompts[number / each]].ids,
            ids: &rows[number].ids,
        };
        pack(player.step, player.config.batch.seq_len, numbers.map(text))
    }

    /// Answers to the prompts at hand by the policy, judged.
    ///
    /// Errors: no token could be chosen, or a judge cannot be had.
    fn generate(&self, player: Player<'_>) -> Result<Vec<RolloutRow>, TrainError> {
        let each = player.config.answers_a_prompt();
        let asked: Vec<(&Asking, u64)> = self
            .prompts
            .iter()
            .enumerate()
            .map(|(i, p)| (&self.asked.train[*p], self.place.drawn + i as u64))
            .map(|(asking, place)| (asking, seed(player.config, "rollout", place)))
            .collect();
        let mut rows = self.answer(player, &asked, each)?;
        let Player { config, model, tape, .. } = player;
        let batch = self.pack(player, &rows, 0..rows.len());
        if let Some(reference) = &self.reference {
            let read = |micro: &Micro<'_>| reference.token_logps(micro);
            read_answers(config, &batch, read, |number, logps| rows[number].ref_logps = logps);
        }
        match config.way() {
            Way::Group(grpo) => {
                let rewards: Vec<f64> = rows.iter().map(|row| row.reward).collect();
                for (row, advantage) in rows.iter_mut().zip(grpo.advantages(&rewards)) {
                    row.advantage = Some(advantage);
                }
            }
            Way::Values(_) => {
                let read = |micro: &Micro<'_>| tape.paused(|| policy::expected(model, micro));
                read_answers(config, &batch, read, |number, values| rows[number].values = values);
                if let Some(bad) = rows.iter().flat_map(|row| &row.values).find(|v| !v.is_finite())
                {
                    let (step, what) = (player.step, "value of a token".to_owned());
                    return Err(TrainError::NotFinite { step, what, value: f64::from(*bad) });
                }
            }
        }
        Ok(rows)
    }

    /// `each` answers to some prompts, drawn from their seeds, with their scores.
    fn answer(
        &self,
        player: Player<'_>,
        asked: &[(&Asking, u64)],
        each: usize,
    ) -> Result<Vec<RolloutRow>, TrainError> {
        let said = player.tape.paused(|| say(player, asked, each))?;
        let config = player.config.score.as_deref().unwrap_or_default();
        let mut rows = Vec::with_capacity(said.len());
        for ((asking, seed), said) in asked.iter().zip(said.chunks(each)) {
            let Asking { prompt, ids } = asking;
            let question = Asked { row: &prompt.value, dialogue: &prompt.dialogue };
            let answer = |said: &Spoken| said.text.clone();
            let texts: Vec<String> = said.iter().map(answer).collect();
            let answers: Vec<score::Answer<'_>> = texts
                .iter()
                .map(|text| score::Answer { dialogue: &prompt.dialogue, text })
                .collect();
            let scores = self.judges.scores(&question, &answers)?;
            for (sample, (said, scores)) in said.iter().zip(scores).enumerate() {
                rows.push(RolloutRow {
                    step: player.step,
                    prompt: prompt.id.clone(),
                    file: prompt.file.clone(),
                    row: prompt.row,
                    sample,
                    seed: *seed,
                    stream: sample as u64,
                    prompt_tokens: ids.len(),
                    ids: said.ids.clone(),
                    text: said.text.clone(),
                    logps: said.logps(),
                    ref_logps: Vec::new(),
                    values: Vec::new(),
                    finish: said.finish_name().to_owned(),
                    scores,
                    reward: 0.0,
                    advantage: None,
                });
            }
        }
        let names: Vec<&str> = config.iter().map(|score| score.name.as_str()).collect();
        fill(&names, &mut rows);
        for row in &mut rows {
            let total = score::total(config, &row.scores).expect("every score was filled in");
            row.reward = total - player.config.way().penalty(row.ended());
        }
        Ok(rows)
    }

    /// What the generation at hand was worth.
    fn met(&self, player: Player<'_>) -> Generation {
        let rows = &self.rows;
        let (n, each) = (rows.len() as f64, player.config.answers_a_prompt());
        let rewards: Vec<f64> = rows.iter().map(|row| row.reward).collect();
        let groups = if each == 1 { rewards.len() } else { each };
        let stds: Vec<f64> = rewards.chunks(groups).map(deviation).collect();
        let of = stds.len() as f64;
        let lengths = || rows.iter().map(|row| row.ids.len());
        Generation {
            step: player.step,
            answers: rows.len(),
            reward: rewards.iter().sum::<f64>() / n,
            reward_std: stds.iter().sum::<f64>() / of,
            frac_reward_zero_std: stds.iter().filter(|std| **std == 0.0).count() as f64 / of,
            mean_length: lengths().sum::<usize>() as f64 / n,
            min_length: lengths().min().unwrap_or_default(),
            max_length: lengths().max().unwrap_or_default(),
            clipped: rows.iter().filter(|row| !row.ended()).count() as f64 / n,
            rewards: mean_scores(rows),
            objective: player.config.way().objective(rows),
        }
    }

    /// Sums the gradient of a batch, `rows` rows at a time.
    pub fn gradient(&self, run: &Trainer<'_>, batch: &Batch, packed: &Packed, rows: usize) -> Sums {
        let (loss, shares) = (run.config.way().loss(), self.shares(&run.config, batch));
        let mut sums = Sums::default();
        for first in (0..batch.rows).step_by(rows) {
            let part = packed.rows(batch, first, rows.min(batch.rows - first));
            let answer = |(number, at): (usize, _)| {
                let (row, worth) = (&self.rows[number], &self.worth[number]);
                Answer {
                    at,
                    share: shares[&number],
                    old: &row.logps,
                    reference: &row.ref_logps,
                    advantages: &worth.advantages,
                    values: &row.values,
                    returns: &worth.returns,
                }
            };
            let answers: Vec<Answer<'_>> = here(batch, &part).map(answer).collect();
            policy::accumulate(&run.model, &run.tape, &part.borrow(), &answers, &loss, &mut sums);
        }
        sums
    }

    /// Of each answer of a batch what one of its tokens counts.
    fn shares(&self, config: &RunConfig, batch: &Batch) -> BTreeMap<usize, f64> {
        let numbers: Vec<usize> = batch.spans.iter().map(|span| span.document as usize).collect();
        let lengths: Vec<(usize, bool)> =
            numbers.iter().map(|n| (self.rows[*n].ids.len(), self.rows[*n].ended())).collect();
        let most = config.rollout.as_ref().map_or(0, |rollout| rollout.max_tokens);
        numbers.into_iter().zip(config.way().shares(&lengths, most)).collect()
    }

    /// The line of the held-out prompts; `None` if none is held out.
    pub fn measure(&self, player: Player<'_>) -> Result<Option<Line>, TrainError> {
        let most = player.config.rollout.as_ref().map_or(0, |rollout| rollout.max_tokens);
        let mut tokens = 0;
        let fits = |asking: &&Asking| {
            tokens += asking.ids.len() + most;
            tokens <= player.config.validation.tokens
        };
        let asked = self.asked.held.iter().take_while(fits).enumerate();
        // The same random numbers each time.
        let asked: Vec<(&Asking, u64)> =
            asked.map(|(i, asking)| (asking, seed(player.config, "held", i as u64))).collect();
        if asked.is_empty() {
            return Ok(None);
        }
        let rows = self.answer(player, &asked, 1)?;
        let rewards: Vec<f64> = rows.iter().map(|row| row.reward).collect();
        let (mean, half) = interval(&rewards);
        Ok(Some(Line::Evaluation(Evaluation {
            step: player.step,
            prompts: rows.len(),
            eval_reward: mean,
            low: half.is_finite().then_some(mean - half),
            high: half.is_finite().then_some(mean + half),
            mean_length: rows.iter().map(|row| row.ids.len()).sum::<usize>() as f64
                / rows.len() as f64,
            eval_rewards: mean_scores(&rows),
        })))
    }
}

/// The seed of the answers to the prompt at a place.
fn seed(config: &RunConfig, what: &str, place: u64) -> u64 {
    Hash::of(format!("{} {what} {place}", config.seed).as_bytes()).word()
}

/// Gives answers that a judge could not read the least that it gave to any.
fn fill(names: &[&str], rows: &mut [RolloutRow]) {
    for name in names {
        let least = rows.iter().filter_map(|row| row.scores.get(*name).copied());
        let least = least.min_by(f64::total_cmp).unwrap_or(0.0);
        for row in rows.iter_mut() {
            row.scores.entry((*name).to_owned()).or_insert(least);
        }
    }
}

fn mean_scores(rows: &[RolloutRow]) -> Scores {
    let mut means = Scores::new();
    for (name, score) in rows.iter().flat_map(|row| &row.scores) {
        *means.entry(name.clone()).or_default() += score / rows.len() as f64;
    }
    means
}
