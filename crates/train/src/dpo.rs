//! Direct preference optimisation (arXiv 2305.18290) as Llama 3 has it (arXiv 2407.21783, section 4.1.4).
//!
//! ```text
//! r(y) = beta (ln p(y) - ln q(y))                           p the policy, q the reference, sums over tokens that count
//! L    = -ln sigmoid(r(c) - r(d)) - nll ln p(c) / |c|       c the chosen answer, d the rejected; mean over pairs
//! dL / d ln p(c) = -beta sigmoid(r(d) - r(c)) - nll / |c|        dL / d ln p(d) = beta sigmoid(r(d) - r(c))
//! ```
//!
//! The loss knows an answer by one number, ln p(y), so its gradient is one number an answer: the weight of the
//! cross-entropy of that answer's tokens. A step therefore computes hidden states once, their log-probabilities beside the
//! tape, these weights in f64, and sends the weighted cross-entropy back. Of answers e > c > d all three pairs count.

use crate::config::{Long, RunConfig};
use crate::error::TrainError;
use crate::metrics::{Line, Measured};
use crate::pretrain::pretrain;
use crate::reference::{Ask, Reference};
use crate::step::{Micro, Packed, PackedRows};
use crate::trainer::{Event, Trainer};
use crate::{distill, grpo, ppo, reward, sft};
use herd_data::dialogue::{Compare, Counting, Strength};
use herd_data::validation::bits_per_byte;
use herd_data::{Batch, Corpus, Span};
use herd_model::llama::Llama;
use herd_tensor::ops::{Documents, Targets};
use herd_tensor::{Tape, Tensor, blocks_of};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The settings of the loss and of its pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DpoConfig {
    /// How much a log-probability moved from the reference's is worth.
    pub beta: f64,
    /// The share of the chosen answer's nats a token.
    pub nll: f64,
    /// What pairs lose.
    pub loss: PairLoss,
    /// Whether headers and ends of answers do not count.
    pub mask_format: bool,
    /// Rows whose chosen answer is better by less are left out.
    pub strength_min: Strength,
    /// An answer as similar to a better one is left out: 0 to 1, of pairs of neighbouring words.
    pub similar: f64,
    /// The checkpoint whose answers are the measure; `model.init` where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<PathBuf>,
    /// Keep the reference in memory beside the policy, rather than compute its log-probabilities of all
    /// answers before the first step; changes no bit.
    pub live: bool,
}

impl DpoConfig {
    /// The paper's.
    pub const LLAMA: DpoConfig = DpoConfig {
        beta: 0.1,
        nll: 0.2,
        loss: PairLoss::Sigmoid,
        mask_format: true,
        strength_min: Strength::Better,
        similar: 0.9,
        reference: None,
        live: false,
    };

    /// Which answers and tokens count.
    pub fn compare(&self) -> Compare {
        let DpoConfig { mask_format, strength_min, similar, .. } = *self;
        let counts = if mask_format { Counting::Words } else { Counting::All };
        Compare { counts, strength_min, similar }
    }
}

/// What a pair loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PairLoss {
    /// -ln sigmoid(beta D), D the difference of the sums.
    Sigmoid,
    /// (D - 1 / 2 beta)^2, D that of the means over tokens (arXiv 2310.12036).
    Ipo,
}

/// Reads the settings of a run over preferences: those of [`sft::read`], and the paper's of `[dpo]`.
///
/// Errors: as there; a setting out of its range, long answers cut.
pub fn read(path: &Path, overrides: &[(String, String)]) -> Result<RunConfig, TrainError> {
    sft::read_over(path, overrides, |base| RunConfig { dpo: Some(DpoConfig::LLAMA), ..base }, check)
}

/// The settings of a run over dialogues or, where they have a `[dpo]` or a `[reward]`, over preferences; a `[distill]` has
/// a teacher; with a `[grpo]` or a `[ppo]`, over prompts.
///
/// Errors: those of [`sft::read`], [`read`], [`reward::read`], [`distill::read`], [`grpo::read`] or [`ppo::read`].
pub fn read_either(path: &Path, overrides: &[(String, String)]) -> Result<RunConfig, TrainError> {
    let unknown = |error: &TrainError, name: &str| match error {
        TrainError::InFile { source, .. } => {
            matches!(&**source, TrainError::Key { key, .. } if key == name)
        }
        _ => false,
    };
    match sft::read(path, overrides) {
        Err(error) if unknown(&error, "dpo") => read(path, overrides),
        Err(error) if unknown(&error, "reward") => reward::read(path, overrides),
        Err(error) if unknown(&error, "distill") => distill::read(path, overrides),
        Err(error) if unknown(&error, "grpo") => grpo::read(path, overrides),
        Err(error) if unknown(&error, "ppo") => ppo::read(path, overrides),
        config => config,
    }
}

fn check(config: &RunConfig) -> Result<(), TrainError> {
    let DpoConfig { beta, nll, similar, .. } = *config.dpo.as_ref().expect("`read` gave it");
    for (key, value, range) in [
        ("dpo.beta", beta, 1e-6..=1e6),
        ("dpo.nll", nll, 0.0..=1e6),
        ("dpo.similar", similar, 0.0..=1.0),
    ] {
        if !range.contains(&value) {
            let expected = format!("{} to {}", range.start(), range.end());
            return Err(TrainError::no(key, value, &expected));
        }
    }
    match config.data.long {
        Long::Shorten => {
            Err(TrainError::no("data.long", "shorten", "drop or refuse: answers stay whole"))
        }
        Long::Split | Long::Drop | Long::Refuse => Ok(()),
    }
}

/// Runs to the last step, or until it is asked to stop.
///
/// Errors: those of [`pretrain`].
pub fn dpo(run: &mut Trainer<'_>) -> Result<(), TrainError> {
    pretrain(run)
}

/// What was met of pairs, as means over them; names as TRL has them. Log-probabilities are those of `dpo`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // their names in the file say it
pub struct Preferences {
    #[serde(rename = "rewards/chosen")]
    pub chosen: f64,
    #[serde(rename = "rewards/rejected")]
    pub rejected: f64,
    /// The share of pairs whose chosen answer has the greater reward.
    #[serde(rename = "rewards/accuracies")]
    pub accuracy: f64,
    #[serde(rename = "rewards/margins")]
    pub margin: f64,
    #[serde(rename = "logps/chosen", default, skip_serializing_if = "Option::is_none")]
    pub chosen_logp: Option<f64>,
    #[serde(rename = "logps/rejected", default, skip_serializing_if = "Option::is_none")]
    pub rejected_logp: Option<f64>,
    /// Nats a token of the chosen answers.
    #[serde(rename = "nll_loss", default, skip_serializing_if = "Option::is_none")]
    pub nll: Option<f64>,
    /// Of `reward`: how many they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs: Option<u64>,
}

/// Sums over pairs, added pair by pair: the same however rows are cut into micro-batches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sums {
    /// How many.
    pub pairs: u64,
    loss: f64,
    chosen: f64,
    rejected: f64,
    right: f64,
    chosen_logp: f64,
    rejected_logp: f64,
    nll: f64,
    /// Nats of the best answer of each row.
    best_nats: f64,
}

impl Sums {
    /// The mean loss of a pair.
    pub fn loss(&self) -> f64 {
        self.loss / self.pairs as f64
    }

    fn measured(&self, bytes: u64) -> Measured {
        Measured { loss: self.loss(), bpb: bits_per_byte(self.best_nats, bytes) }
    }

    /// The means of the rest.
    pub fn preferences(&self) -> Preferences {
        let mean = |sum: f64| sum / self.pairs as f64;
        Preferences {
            chosen: mean(self.chosen),
            rejected: mean(self.rejected),
            accuracy: mean(self.right),
            margin: mean(self.chosen - self.rejected),
            chosen_logp: Some(mean(self.chosen_logp)),
            rejected_logp: Some(mean(self.rejected_logp)),
            nll: Some(mean(self.nll)),
            pairs: None,
        }
    }
}

impl std::ops::AddAssign for Sums {
    fn add_assign(&mut self, other: Sums) {
        self.pairs += other.pairs;
        self.loss += other.loss;
        self.chosen += other.chosen;
        self.rejected += other.rejected;
        self.right += other.right;
        self.chosen_logp += other.chosen_logp;
        self.rejected_logp += other.rejected_logp;
        self.nll += other.nll;
        self.best_nats += other.best_nats;
    }
}

/// An answer in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The tokens of its prompt and its own, in the micro-batch.
    pub at: Range<usize>,
    /// The reference's log-probability of what counts in it.
    pub reference: f64,
}

/// The pairs of so many answers, the best first: chosen, rejected.
fn pairs(answers: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..answers).flat_map(move |c| (c + 1..answers).map(move |r| (c, r)))
}

/// How many they are.
fn pairs_of(answers: usize) -> u64 {
    pairs(answers).count() as u64
}

/// Log-probabilities of what counts in each answer, and how many tokens that is.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Said {
    logp: f64,
    tokens: f64,
}

/// What the pairs of one prompt lose, into `sums`; and by how much it rises with each answer's log-probability.
fn compare(config: &DpoConfig, said: &[Said], references: &[f64], sums: &mut Sums) -> Vec<f64> {
    let mut slopes = vec![0.0; said.len()];
    let beta = config.beta;
    for (c, r) in pairs(said.len()) {
        let share = |k: usize| match config.loss {
            PairLoss::Sigmoid => 1.0,
            PairLoss::Ipo => 1.0 / said[k].tokens,
        };
        let moved = |k: usize| said[k].logp - references[k];
        let apart = share(c) * moved(c) - share(r) * moved(r);
        // The loss of the pair, and its slope over `apart`.
        let (loss, slope) = match config.loss {
            PairLoss::Sigmoid => (softplus(-beta * apart), -beta * sigmoid(-beta * apart)),
            PairLoss::Ipo => {
                let off = apart - 0.5 / beta;
                (off * off, 2.0 * off)
            }
        };
        let nll = -said[c].logp / said[c].tokens;
        slopes[c] += share(c) * slope - config.nll / said[c].tokens;
        slopes[r] -= share(r) * slope;
        let (chosen, rejected) = (beta * moved(c), beta * moved(r));
        sums.pairs += 1;
        sums.loss += loss + config.nll * nll;
        sums.chosen += chosen;
        sums.rejected += rejected;
        sums.right += f64::from(chosen > rejected);
        sums.chosen_logp += said[c].logp;
        sums.rejected_logp += said[r].logp;
        sums.nll += nll;
    }
    sums.best_nats -= said[0].logp;
    slopes
}

/// ln(1 + e^x).
pub(crate) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

pub(crate) fn sigmoid(x: f64) -> f64 {
    (-softplus(-x)).exp()
}

pub(crate) fn hidden(model: &Llama, micro: &Micro<'_>) -> Tensor {
    let config = model.config();
    let documents =
        Arc::new(Documents::new(micro.documents.to_vec(), config.kv_heads, config.head_dim));
    model.forward_documents(micro.tokens, micro.positions, &documents)
}

/// What each of the ranges says, after these hidden states.
fn said<'a>(
    model: &Llama,
    x_td: &Tensor,
    micro: &Micro<'_>,
    answers: impl Iterator<Item = &'a Range<usize>>,
) -> Vec<Said> {
    let targets = Targets { ids: micro.targets, weights: micro.weights, scale: 0.0, z_loss: 0.0 };
    let nats_t = model.loss(x_td, &targets).nats_t;
    let one = |at: &Range<usize>| {
        let rows = nats_t[at.clone()].iter().zip(&micro.weights[at.clone()]);
        let count = |said: Said, (nats, weight): (&f32, &f32)| Said {
            logp: said.logp - f64::from(*nats) * f64::from(*weight),
            tokens: said.tokens + f64::from(*weight),
        };
        rows.fold(Said { logp: 0.0, tokens: 0.0 }, count)
    };
    answers.map(one).collect()
}

/// The log-probability of what counts in each of the ranges. Nothing may be recorded meanwhile.
pub fn logps(model: &Llama, micro: &Micro<'_>, answers: &[Range<usize>]) -> Vec<f64> {
    let x_td = hidden(model, micro);
    said(model, &x_td, micro, answers.iter()).into_iter().map(|said| said.logp).collect()
}

/// Adds the gradient of `share` (1 over the pairs of the whole batch) of what the pairs of `prompts` lose to the
/// sums of the model's parameters, and what they lose to `sums`.
///
/// Weights in `micro` are 1 where a token counts and else 0. The order of additions depends on rows
/// alone: rows in one call or in several give the same bits.
pub fn accumulate(
    model: &Llama,
    tape: &Tape,
    micro: &Micro<'_>,
    prompts: &[Vec<Answer>],
    config: &DpoConfig,
    share: f64,
    sums: &mut Sums,
) {
    tape.begin(blocks_of(micro.tokens.len() / micro.seq_len, micro.seq_len));
    let x_td = hidden(model, micro);
    let mut weights = vec![0.0; micro.weights.len()];
    let slopes = tape.paused(|| slopes(model, &x_td, micro, prompts, config, sums));
    for (answer, slope) in prompts.iter().flatten().zip(slopes) {
        for t in answer.at.clone() {
            // The cross-entropy of a token is minus its log-probability.
            weights[t] = (-slope * share * f64::from(micro.weights[t])) as f32;
        }
    }
    let targets = Targets { ids: micro.targets, weights: &weights, scale: 1.0, z_loss: 0.0 };
    model.loss(&x_td, &targets).backward();
}

/// By how much the sum of all losses rises with each answer's log-probability.
fn slopes(
    model: &Llama,
    x_td: &Tensor,
    micro: &Micro<'_>,
    prompts: &[Vec<Answer>],
    config: &DpoConfig,
    sums: &mut Sums,
) -> Vec<f64> {
    let said = said(model, x_td, micro, prompts.iter().flatten().map(|answer| &answer.at));
    let (mut rest, mut slopes) = (&said[..], Vec::with_capacity(said.len()));
    for answers in prompts {
        let (now, later) = rest.split_at(answers.len());
        rest = later;
        let references: Vec<f64> = answers.iter().map(|answer| answer.reference).collect();
        slopes.extend(compare(config, now, &references, sums));
    }
    slopes
}

/// The loss of a run, and what it is measured by.
pub(crate) struct Dpo {
    pub config: DpoConfig,
    pub reference: Reference,
}

/// The documents that a batch is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Train,
    Validation,
}

/// The answers of each document.
fn prompts(spans: &[Span]) -> impl Iterator<Item = &[Span]> {
    spans.chunk_by(|_, next| next.from > 0)
}

impl Dpo {
    /// That of a run that has one.
    ///
    /// Errors: those of [`Reference::open`].
    pub fn open(
        ask: &Ask<'_>,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<Option<Dpo>, TrainError> {
        let Some(config) = ask.config.dpo.clone() else { return Ok(None) };
        Ok(Some(Dpo { config, reference: Reference::open(ask, watch)? }))
    }

    /// The answers in some rows of a batch, and what the reference says of them.
    fn answers(
        &self,
        corpus: &Corpus,
        side: Side,
        batch: &Batch,
        rows: &PackedRows<'_>,
    ) -> Vec<Vec<Answer>> {
        let here = |answers: &&[Span]| rows.at.contains(&answers[0].at.start);
        let here: Vec<&[Span]> = prompts(&batch.spans).filter(here).collect();
        let place = |span: &Span| span.at.start - rows.at.start..span.at.end - rows.at.start;
        let places: Vec<Range<usize>> = here.iter().copied().flatten().map(place).collect();
        let mut said = self.reference.logps(corpus, side, &here, &rows.borrow(), &places);
        let mut places = places.into_iter();
        let answers = here.into_iter().map(|answers| {
            let said = said.drain(..answers.len());
            places.by_ref().zip(said).map(|(at, reference)| Answer { at, reference }).collect()
        });
        answers.collect()
    }

    /// Sums the gradient of a batch, `rows` rows at a time.
    pub fn gradient(&self, run: &Trainer<'_>, batch: &Batch, packed: &Packed, rows: usize) -> Sums {
        let pairs: u64 = prompts(&batch.spans).map(|answers| pairs_of(answers.len())).sum();
        let share = 1.0 / pairs as f64;
        let mut sums = Sums::default();
        for first in (0..batch.rows).step_by(rows) {
            let part = packed.rows(batch, first, rows.min(batch.rows - first));
            let answers = self.answers(run.corpus(), Side::Train, batch, &part);
            let micro = part.borrow();
            accumulate(&run.model, &run.tape, &micro, &answers, &self.config, share, &mut sums);
        }
        sums
    }

    /// The line of the held-out pairs; `None` if none is held out. Bits a byte are those of best answers.
    pub fn measure(&self, run: &Trainer<'_>) -> Result<Option<Line>, TrainError> {
        let held = run.held_out()?;
        let (mut all, mut bytes_in_all) = (Sums::default(), 0);
        let mut by_source = BTreeMap::new();
        for source in held.sources() {
            let (mut sums, bytes) = (Sums::default(), held.bytes(source)?);
            for batch in held.batches(source) {
                let batch = batch?;
                let packed = Packed::of(&batch, true);
                let rows = packed.rows(&batch, 0, batch.rows);
                let answers = self.answers(run.corpus(), Side::Validation, &batch, &rows);
                let micro = rows.borrow();
                let x_td = hidden(&run.model, &micro);
                slopes(&run.model, &x_td, &micro, &answers, &self.config, &mut sums);
            }
            if sums.pairs > 0 && bytes > 0 {
                by_source.insert(run.corpus().sources()[source].name.clone(), sums.measured(bytes));
                bytes_in_all += bytes;
                all += sums;
            }
        }
        if by_source.is_empty() {
            return Ok(None);
        }
        let Measured { loss, bpb } = all.measured(bytes_in_all);
        let preferences = Some(all.preferences());
        let (step, bpb) = (run.step(), Some(bpb));
        Ok(Some(Line::Validation { step, loss, bpb, by_source, preferences, taught: None }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the pairs lose on the whole, and the slopes.
    fn lose(config: &DpoConfig, logps: &[f64]) -> (f64, Vec<f64>) {
        let said: Vec<Said> = logps
            .iter()
            .enumerate()
            .map(|(k, l)| Said { logp: *l, tokens: 3.0 + k as f64 })
            .collect();
        let mut sums = Sums::default();
        let slopes = compare(config, &said, &[-4.0, -5.5, -6.25], &mut sums);
        (sums.loss, slopes)
    }

    #[test]
    fn slopes_are_central_differences_of_the_loss() {
        for loss in [PairLoss::Sigmoid, PairLoss::Ipo] {
            let config = DpoConfig { loss, beta: 0.3, ..DpoConfig::LLAMA };
            let at = [-4.5, -5.0, -7.0];
            let (_, slopes) = lose(&config, &at);
            for (k, slope) in slopes.iter().enumerate() {
                let moved = |by: f64| {
                    let mut at = at;
                    at[k] += by;
                    lose(&config, &at).0
                };
                let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                assert!((slope - difference).abs() < 1e-8, "{loss:?} {k}: {slope} {difference}");
            }
        }
    }

    #[test]
    fn a_pair_at_the_reference_loses_ln_2_and_three_answers_are_three_pairs() {
        let config = DpoConfig { nll: 0.0, ..DpoConfig::LLAMA };
        let (loss, slopes) = lose(&config, &[-4.0, -5.5, -6.25]);
        assert!((loss - 3.0 * 2f64.ln()).abs() < 1e-12);
        assert!((slopes[0] + 0.1).abs() < 1e-12 && slopes[1] == 0.0 && slopes[2] == 0.1);
        assert_eq!(pairs(3).collect::<Vec<_>>(), [(0, 1), (0, 2), (1, 2)]);
    }

    #[test]
    fn no_margin_is_too_great_for_a_number() {
        for margin in [1e4, -1e4] {
            let (loss, slopes) = lose(&DpoConfig { beta: 1.0, ..DpoConfig::LLAMA }, &[margin, 0.0]);
            assert!(loss.is_finite() && slopes.iter().all(|slope| slope.is_finite()));
        }
        assert_eq!((softplus(-1e4), sigmoid(-1e4), sigmoid(1e4)), (0.0, 0.0, 1.0));
    }
}
