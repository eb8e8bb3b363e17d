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
mod row;

pub use config::RolloutConfig;
pub(crate) use config::read;
pub use row::RolloutRow;

use crate::config::RunConfig;
use crate::error::TrainError;
use crate::grpo::deviation;
use crate::metrics::{Line, Metrics};
use crate::paired::interval;
use crate::policy::{self, Answer, Loss, Moved, Sums};
use crate::reference::Live;
use crate::rejection::score::{self, Asked, Judges, Scores};
use crate::rejection::spoken::Spoken;
use crate::reward::RewardModel;
use crate::step::{Packed, PackedRows};
use crate::trainer::Trainer;
use crate::words::Words;
use asking::{Asking, Askings};
use herd_data::{Batch, Hash, Span};
use herd_engine::sample::Sampling;
use herd_engine::{Engine, Limits, Request};
use herd_model::llama::Llama;
use herd_tensor::{Device, KvFormat, Tape};
use row::{damaged, read_back};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a run is among its answers: what a checkpoint keeps of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Prompts and judges that it belongs to.
    belongs_to: Hash,
    /// Prompts drawn.
    drawn: u64,
    /// Steps that learnt from the last generation.
    used: usize,
    /// Where its rows begin in `rollouts.jsonl`.
    at: u64,
    /// Bytes of the file.
    bytes: u64,
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
}

/// What they are opened with.
pub(crate) struct Opening<'a> {
    pub config: &'a RunConfig,
    pub words: &'a Words,
    pub device: &'a Device,
    pub out: &'a Path,
    /// Reward models of the judges, and the hashes of their weights.
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
    /// Errors: those of [`Askings::open`]; the file is damaged, or belongs to other prompts or judges.
    pub fn open(opening: &Opening<'_>, saved: Option<&Place>) -> Result<Rollouts, TrainError> {
        let Opening { config, words, device, out, rewards } = *opening;
        let asked = Askings::open(config, words)?;
        let scores = config.score.as_deref().unwrap_or_default();
        let judges = Judges::open(scores, rewards.iter().map(|(_, model)| Arc::clone(model)))?;
        let hashes: Vec<String> = rewards.iter().map(|(hash, _)| hash.to_string()).collect();
        let belongs_to = Hash::of(format!("{} {hashes:?}", asked.hash).as_bytes());
        let whole = config.parts() * config.iterations();
        let first = Place { belongs_to, drawn: 0, used: whole, at: 0, bytes: 0 };
        let place = saved.cloned().unwrap_or(first);
        if place.belongs_to != belongs_to {
            let (was, is) = (place.belongs_to.to_string(), belongs_to.to_string());
            let key = "the prompts and judges".to_owned();
            return Err(TrainError::OtherConfig { folder: out.to_owned(), key, was, is });
        }
        let reference = match loss(config).beta != 0.0 {
            true => Some(Live::first(config, words, device)?),
            false => None,
        };
        let path = out.join(FILE);
        let file = Metrics::open(&path, place.bytes)?;
        let (rows, prompts) = (Vec::new(), Vec::new());
        let mut opened = Rollouts { asked, judges, reference, file, path, place, rows, prompts };
        if opened.place.used < whole {
            opened.take_up(config)?;
        }
        Ok(opened)
    }

    /// Reads the last generation back.
    fn take_up(&mut self, config: &RunConfig) -> Result<(), TrainError> {
        let count = config.rollout.as_ref().map_or(0, |rollout| rollout.prompts);
        let each = config.answers_a_prompt();
        self.rows = read_back(&self.path, self.place.at, count * each)?;
        self.prompts = self.asked.at(self.place.drawn - count as u64, count);
        for (row, prompt) in self.rows.iter().zip(self.prompts.iter().flat_map(|p| vec![p; each])) {
            let asking = &self.asked.train[*prompt];
            let right = row.prompt == asking.prompt.id && row.logps.len() == row.ids.len();
            if !right || row.prompt_tokens != asking.ids.len() {
                return Err(damaged(&self.path, "an answer is to another prompt"));
            }
        }
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

    /// The hash of prompts and judges.
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
        let (parts, iterations) = (player.config.parts(), player.config.iterations());
        let mut met = None;
        if self.place.used >= parts * iterations {
            let rollout = player.config.rollout.as_ref().expect("it has answers");
            let drawn = self.place.drawn + rollout.prompts as u64;
            if drawn as f64 > player.config.data.epochs_max * self.asked.train.len() as f64 {
                return Ok(None);
            }
            self.prompts = self.asked.at(self.place.drawn, rollout.prompts);
            self.rows = self.generate(player)?;
            self.place.at = self.file.bytes();
            for row in &self.rows {
                self.file.write(row)?;
            }
            (self.place.drawn, self.place.used, self.place.bytes) = (drawn, 0, self.file.bytes());
            met = Some(self.met(player));
        }
        let batch = self.pack(player, self.place.used % parts);
        self.place.used += 1;
        Ok(Some((batch, met)))
    }

    /// Whether the weights of the step at hand are those that gave its answers.
    fn on_policy(&self) -> bool {
        self.place.used == 1
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
        if let Some(reference) = &self.reference {
            for part in 0..player.config.parts() {
                let batch = self.pack_rows(player, &rows, part);
                refer(reference, &batch, player.config, &mut rows);
            }
        }
        if let Some(grpo) = &player.config.grpo {
            let rewards: Vec<f64> = rows.iter().map(|row| row.reward).collect();
            for (row, advantage) in rows.iter_mut().zip(grpo.advantages(&rewards)) {
                row.advantage = advantage;
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
                    finish: said.finish_name().to_owned(),
                    scores,
                    reward: 0.0,
                    advantage: 0.0,
                });
            }
        }
        let names: Vec<&str> = config.iter().map(|score| score.name.as_str()).collect();
        fill(&names, &mut rows);
        for row in &mut rows {
            row.reward = score::total(config, &row.scores).expect("every score was filled in");
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
        }
    }

    /// Rows of a part of the generation at hand.
    fn pack(&self, player: Player<'_>, part: usize) -> Batch {
        self.pack_rows(player, &self.rows, part)
    }

    /// Answers one behind the other, each behind its prompt, in as many rows as they need.
    fn pack_rows(&self, player: Player<'_>, rows: &[RolloutRow], part: usize) -> Batch {
        let seq_len = player.config.batch.seq_len;
        let count = rows.len() / player.config.parts();
        let each = player.config.answers_a_prompt();
        let mut batch = Batch {
            step: player.step,
            rows: 0,
            seq_len,
            tokens_t: Vec::new(),
            targets_t: Vec::new(),
            weight_t: Vec::new(),
            spans: Vec::new(),
        };
        let pad = |batch: &mut Batch| {
            batch.rows = batch.tokens_t.len().div_ceil(seq_len);
            let end = batch.rows * seq_len;
            batch.tokens_t.resize(end, 0);
            batch.targets_t.resize(end, 0);
            batch.weight_t.resize(end, 0.0);
        };
        for number in part * count..(part + 1) * count {
            let prompt = &self.asked.train[self.prompts[number / each]].ids;
            let text = [&prompt[..], &rows[number].ids].concat();
            let (len, start) = (text.len() - 1, batch.tokens_t.len());
            if start % seq_len + len > seq_len {
                pad(&mut batch);
            }
            let start = batch.tokens_t.len();
            batch.tokens_t.extend(&text[..len]);
            batch.targets_t.extend(&text[1..]);
            batch.weight_t.resize(start + prompt.len() - 1, 0.0);
            batch.weight_t.resize(start + len, 1.0);
            let (source, epoch, document, from) = (0, 0, number as u64, 0);
            batch.spans.push(Span { at: start..start + len, source, epoch, document, from });
        }
        pad(&mut batch);
        batch
    }

    /// Sums the gradient of a batch, `rows` rows at a time.
    pub fn gradient(
        &self,
        run: &Trainer<'_>,
        batch: &Batch,
        packed: &Packed,
        rows: usize,
    ) -> (f64, Moved) {
        let (loss, told) = (loss(&run.config), self.told(&run.config, batch));
        let mut sums = Sums::default();
        for first in (0..batch.rows).step_by(rows) {
            let part = packed.rows(batch, first, rows.min(batch.rows - first));
            let answers: Vec<Answer<'_>> =
                here(batch, &part).map(|(number, at)| told[&number].answer(at)).collect();
            policy::accumulate(&run.model, &run.tape, &part.borrow(), &answers, &loss, &mut sums);
        }
        (sums.loss, sums.moved(loss.beta, self.on_policy()))
    }

    /// What is known of the answers of a batch.
    fn told(&self, config: &RunConfig, batch: &Batch) -> HashMap<usize, Told<'_>> {
        let numbers: Vec<usize> = batch.spans.iter().map(|span| span.document as usize).collect();
        let lengths: Vec<(usize, bool)> =
            numbers.iter().map(|n| (self.rows[*n].ids.len(), self.rows[*n].ended())).collect();
        let most = config.rollout.as_ref().map_or(0, |rollout| rollout.max_tokens);
        let grpo = config.grpo.as_ref().expect("it has a loss");
        let told = |(number, share): (usize, f64)| {
            let row = &self.rows[number];
            (number, Told { row, share, advantages: vec![row.advantage; row.ids.len()] })
        };
        numbers.into_iter().zip(grpo.shares(&lengths, most)).map(told).collect()
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

/// What is known of an answer.
struct Told<'a> {
    row: &'a RolloutRow,
    share: f64,
    advantages: Vec<f64>,
}

impl Told<'_> {
    fn answer(&self, at: Range<usize>) -> Answer<'_> {
        let Told { row, share, advantages } = self;
        let (old, reference) = (&row.logps[..], &row.ref_logps[..]);
        Answer { at, share: *share, old, reference, advantages }
    }
}

/// The answers that stand in some rows of a batch: their numbers, and the places there whose targets are their tokens.
fn here<'a>(
    batch: &'a Batch,
    rows: &'a PackedRows<'_>,
) -> impl Iterator<Item = (usize, Range<usize>)> + 'a {
    let inside = batch.spans.iter().filter(|span| rows.at.contains(&span.at.start));
    inside.map(|span| {
        let counts = |t: &usize| batch.weight_t[*t] != 0.0;
        let first = span.at.clone().find(counts).unwrap_or(span.at.end);
        (span.document as usize, first - rows.at.start..span.at.end - rows.at.start)
    })
}

/// What the loss of a run is.
fn loss(config: &RunConfig) -> Loss {
    config.grpo.as_ref().expect("a run with answers has a loss").loss()
}

/// The seed of the answers to the prompt at a place.
fn seed(config: &RunConfig, what: &str, place: u64) -> u64 {
    Hash::of(format!("{} {what} {place}", config.seed).as_bytes()).word()
}

/// How the engine divides its memory for so many answers; its cache is of f32, as the trainer's.
pub(crate) fn limits(config: &RunConfig, answers: usize) -> Limits {
    let parallel = config.rollout.as_ref().map_or(1, |rollout| rollout.parallel.min(answers));
    let context = config.batch.seq_len + 1;
    // Small pages: what lies behind the last whole page of a prompt is computed for each answer.
    Limits { context, parallel, batch: 512, page_len: 16, kv: KvFormat::F32, positions: None }
}

/// `each` answers to each prompt.
fn say(
    player: Player<'_>,
    asked: &[(&Asking, u64)],
    each: usize,
) -> Result<Vec<Spoken>, TrainError> {
    let Player { config, words, model, .. } = player;
    let fails = |error: String| TrainError::Sample { error };
    let rollout = config.rollout.as_ref().expect("it has answers");
    let limits = limits(config, asked.len() * each);
    let mut engine = Engine::new(Arc::clone(model), Some(Arc::clone(&words.tokenizer)), limits);
    let (temperature, top_p) = (rollout.temperature as f32, rollout.top_p as f32);
    let mut places = HashMap::new();
    for (i, (asking, seed)) in asked.iter().enumerate() {
        let sampling = Sampling { temperature, top_p, seed: *seed, stream: 0, ..Sampling::LLAMA };
        let request = Request {
            max_tokens: Some(rollout.max_tokens),
            stop_tokens: words.generation.eos_token_ids.clone(),
            nats: true,
            ..Request::new(asking.ids.clone(), sampling)
        };
        let ids = engine.submit_many(&request, each).map_err(|e| fails(e.to_string()))?;
        places.extend(ids.into_iter().enumerate().map(|(g, id)| (id, i * each + g)));
    }
    let mut said = vec![Spoken::default(); asked.len() * each];
    let mut events = Vec::new();
    while !engine.is_idle() {
        engine.step(&mut events);
        for event in events.drain(..) {
            said[places[&event.id]].hear(event.what);
        }
    }
    match said.iter().position(|said| said.finish_name() == "failed" || said.ids.is_empty()) {
        Some(at) => Err(fails(format!("{:?}", said[at].finish))),
        None => Ok(said),
    }
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

/// Writes down what the reference says of the answers of a batch.
fn refer(reference: &Live, batch: &Batch, config: &RunConfig, rows: &mut [RolloutRow]) {
    let packed = Packed::of(batch, true);
    let many = (config.batch.micro_tokens / batch.seq_len).clamp(1, batch.rows);
    for first in (0..batch.rows).step_by(many) {
        let part = packed.rows(batch, first, many.min(batch.rows - first));
        let logps = reference.token_logps(&part.borrow());
        for (number, at) in here(batch, &part) {
            rows[number].ref_logps = logps[at].to_vec();
        }
    }
}
