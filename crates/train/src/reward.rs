//! The reward model: one number after the last token of an answer (arXiv 2407.21783, section 4.1.2).
//!
//! ```text
//! r(y) = w . h(y)                                    h: the last hidden state, normed; w: the head, [1, D]
//! L    = -ln sigmoid(r(c) - r(d) - m)                c the better answer, d the worse; mean over ordered pairs
//! dL / d r(c) = -sigmoid(m - r(c) + r(d))            dL / d r(d) = -dL / d r(c)
//! ```
//!
//! Of answers e > c > d all three pairs count. The answers to a prompt share it: the prompt is one stem, each answer a
//! branch that sees the stem and itself and whose positions go on where the stem ends. So an answer has the
//! reward that it would have alone. The margin m is 0; Llama 2 had one by how much better people found
//! the better answer (arXiv 2307.09288, section 3.2.2 and table 27).

use crate::config::{Long, RunConfig, SampleConfig};
use crate::dpo::{Preferences, sigmoid, softplus};
use crate::error::TrainError;
use crate::init;
use crate::metrics::Line;
use crate::pretrain::pretrain;
use crate::sft;
use crate::step::{Micro, Packed, PackedRows};
use crate::trainer::Trainer;
use herd_data::dialogue::{Compare, Counting, Mark, Standing, Strength};
use herd_data::{Batch, Span};
use herd_model::llama::Llama;
use herd_model::names::Part;
use herd_model::{Config, Head};
use herd_tensor::ops::{Branching, Documents};
use herd_tensor::{Tape, Tensor, blocks_of};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

mod score;

pub(crate) use score::TOKENS;
pub use score::{Asked, RewardModel};

/// The settings of the loss and of its pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardConfig {
    /// By how much the better reward must lead.
    pub margin: Margin,
    /// The first numbers of the head, where the checkpoint that the run starts from is a language model.
    pub head: FirstHead,
    /// Rows whose chosen answer is better by less are left out.
    pub strength_min: Strength,
    /// An answer as similar to a better one is left out: 0 to 1, of pairs of neighbouring words.
    pub similar: f64,
}

/// By how much the better reward must lead (arXiv 2307.09288, table 27).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Margin {
    /// Llama 3's: nothing.
    None,
    /// Llama 2's small ones: 1, 2/3, 1/3, 0 from the greatest strength to the least.
    Small,
    /// Llama 2's large ones: 3, 2, 1, 0.
    Large,
}

/// The first numbers of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FirstHead {
    /// Normal with deviation 1 / sqrt(D + 1), by the seed (arXiv 2009.01325, section 3.4).
    Normal,
    /// Zeros: all rewards are 0 at first.
    Zero,
}

impl FirstHead {
    /// They, for a model of this shape.
    pub(crate) fn numbers(self, shape: &Config, seed: u64) -> Vec<f32> {
        let shape = Config { head: Head::Score, ..shape.clone() };
        match self {
            FirstHead::Normal => init::numbers(&shape, Part::Score, 0.0, seed),
            FirstHead::Zero => vec![0.0; shape.width],
        }
    }
}

impl RewardConfig {
    /// The paper's.
    pub const LLAMA: RewardConfig = RewardConfig {
        margin: Margin::None,
        head: FirstHead::Normal,
        strength_min: Strength::Better,
        similar: 0.9,
    };

    /// Which answers count.
    pub fn compare(&self) -> Compare {
        let RewardConfig { strength_min, similar, .. } = *self;
        Compare { counts: Counting::End, strength_min, similar }
    }
}

impl Margin {
    /// That of a pair: 0 where no strength is known, and between an edited answer and the one it was made from,
    /// which nobody compared.
    fn of(self, better: Mark, worse: Mark) -> f64 {
        if worse.standing != Standing::Rejected {
            return 0.0;
        }
        let thirds = match better.strength {
            None | Some(Strength::MarginallyBetter) => 0.0,
            Some(Strength::SlightlyBetter) => 1.0,
            Some(Strength::Better) => 2.0,
            Some(Strength::SignificantlyBetter) => 3.0,
        };
        match self {
            Margin::None => 0.0,
            Margin::Small => thirds / 3.0,
            Margin::Large => thirds,
        }
    }
}

/// Reads the settings of a run that teaches a reward model: those of [`sft::read`], and the paper's of `[reward]`.
///
/// Errors: as there; a setting out of its range, long answers cut, samples asked for.
pub fn read(path: &Path, overrides: &[(String, String)]) -> Result<RunConfig, TrainError> {
    let more = |base: RunConfig| RunConfig {
        reward: Some(RewardConfig::LLAMA),
        samples: SampleConfig { every: 0, ..base.samples },
        ..base
    };
    sft::read_over(path, overrides, more, check)
}

fn check(config: &RunConfig) -> Result<(), TrainError> {
    let similar = config.reward.as_ref().expect("`read` gave it").similar;
    if !(0.0..=1.0).contains(&similar) {
        return Err(TrainError::no("reward.similar", similar, "0 to 1"));
    }
    if config.samples.every > 0 {
        let expected = "0: a reward model writes nothing";
        return Err(TrainError::no("samples.every", config.samples.every, expected));
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
pub fn reward(run: &mut Trainer<'_>) -> Result<(), TrainError> {
    pretrain(run)
}

/// A prompt and its answers, in their places of a micro-batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// The tokens of the prompt.
    pub stem: Range<usize>,
    /// Those of each answer, and what is known of it.
    pub answers: Vec<(Range<usize>, Mark)>,
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
}

impl Sums {
    /// The mean loss of a pair.
    pub fn loss(&self) -> f64 {
        self.loss / self.pairs as f64
    }

    /// The means of the rest.
    pub fn preferences(&self) -> Preferences {
        let mean = |sum: f64| sum / self.pairs as f64;
        Preferences {
            chosen: mean(self.chosen),
            rejected: mean(self.rejected),
            accuracy: mean(self.right),
            margin: mean(self.chosen - self.rejected),
            chosen_logp: None,
            rejected_logp: None,
            nll: None,
            pairs: Some(self.pairs),
        }
    }
}

/// The pairs of answers of which one is better: its place, and that of the worse one.
fn pairs(answers: &[(Range<usize>, Mark)]) -> impl Iterator<Item = (usize, usize)> {
    let standing = |k: usize| answers[k].1.standing;
    let all = (0..answers.len()).flat_map(|c| (0..answers.len()).map(move |r| (c, r)));
    all.filter(move |(c, r)| standing(*c) > standing(*r))
}

/// What the pairs of a prompt lose whose answers have these rewards, into `sums`; and by how much it rises with each
/// reward.
fn compare(margin: Margin, prompt: &Prompt, rewards: &[f64], sums: &mut Sums) -> Vec<f64> {
    let mut slopes = vec![0.0; rewards.len()];
    for (c, r) in pairs(&prompt.answers) {
        let short = margin.of(prompt.answers[c].1, prompt.answers[r].1) - rewards[c] + rewards[r];
        slopes[c] -= sigmoid(short);
        slopes[r] += sigmoid(short);
        sums.pairs += 1;
        sums.loss += softplus(short);
        sums.chosen += rewards[c];
        sums.rejected += rewards[r];
        sums.right += f64::from(rewards[c] > rewards[r]);
    }
    slopes
}

/// The normed hidden states of a micro-batch whose prompts are shared by their answers: [T, D].
fn hidden(model: &Llama, micro: &Micro<'_>, prompts: &[Prompt]) -> Tensor {
    let mut positions = micro.positions.to_vec();
    for Prompt { stem, answers } in prompts {
        for position in answers.iter().flat_map(|(at, _)| at.clone()) {
            positions[position] += stem.len() as u32;
        }
    }
    let branching = |p: &Prompt| Branching {
        stem: p.stem.clone(),
        branches: p.answers.iter().map(|(at, _)| at.clone()).collect(),
    };
    let mut documents: Vec<Branching> = prompts.iter().map(branching).collect();
    // What is of no prompt is padding.
    let parts = documents.iter().flat_map(|d| std::iter::once(&d.stem).chain(&d.branches));
    let starts: BTreeSet<usize> = parts.map(|part| part.start).collect();
    let others = micro.documents.iter().filter(|d| !starts.contains(&d.start));
    documents.extend(others.map(|d| Branching { stem: d.clone(), branches: Vec::new() }));
    let config = model.config();
    let documents = Documents::branching(&documents, config.kv_heads, config.head_dim);
    model.forward_documents(micro.tokens, &positions, &Arc::new(documents))
}

/// The places where the rewards of a prompt are read.
fn ends(prompt: &Prompt) -> impl Iterator<Item = usize> + '_ {
    prompt.answers.iter().map(|(at, _)| at.end - 1)
}

/// The rewards of the answers of each prompt. Nothing may be recorded meanwhile.
pub fn rewards(model: &Llama, micro: &Micro<'_>, prompts: &[Prompt]) -> Vec<Vec<f64>> {
    let x_td = hidden(model, micro, prompts);
    let of = |prompt: &Prompt| {
        let scores = model.scores(&x_td.select(&ends(prompt).collect::<Vec<_>>()));
        scores.data().iter().map(|reward| f64::from(*reward)).collect()
    };
    prompts.iter().map(of).collect()
}

/// Adds the gradient of `share` (1 over the pairs of the whole batch) of what the pairs of `prompts` lose to the
/// sums of the model's parameters, and what they lose to `sums`.
///
/// The order of additions depends on rows alone: rows in one call or in several give the same bits.
pub fn accumulate(
    model: &Llama,
    tape: &Tape,
    micro: &Micro<'_>,
    prompts: &[Prompt],
    margin: Margin,
    share: f64,
    sums: &mut Sums,
) {
    tape.begin(blocks_of(micro.tokens.len() / micro.seq_len, micro.seq_len));
    // Scores of all rows, though few are read: their gradients are summed in the blocks of the rows.
    let scores = model.scores(&hidden(model, micro, prompts));
    let mut gradient = vec![0.0; micro.tokens.len()];
    for prompt in prompts {
        let read: Vec<f64> = ends(prompt).map(|t| f64::from(scores.data()[t])).collect();
        for (t, slope) in ends(prompt).zip(compare(margin, prompt, &read, sums)) {
            gradient[t] = (slope * share) as f32;
        }
    }
    scores.backward(&gradient);
}

/// The prompt whose document has these spans: its stem, then its answers.
fn prompt(batch: &Batch, spans: &[Span], first: usize) -> Prompt {
    let place = |span: &Span| span.at.start - first..span.at.end - first;
    let answer = |span: &Span| {
        let mark = Mark::of_weight(batch.weight_t[span.at.end - 1]);
        (place(span), mark.expect("the weight behind an answer is its mark"))
    };
    Prompt { stem: place(&spans[0]), answers: spans[1..].iter().map(answer).collect() }
}

/// All prompts of a batch.
fn prompts(batch: &Batch) -> Vec<Prompt> {
    let documents = batch.spans.chunk_by(|_, next| next.from > 0);
    documents.map(|spans| prompt(batch, spans, 0)).collect()
}

/// Those that stand in some of its rows, in their places there.
fn prompts_in(batch: &Batch, rows: &PackedRows<'_>) -> Vec<Prompt> {
    let documents = batch.spans.chunk_by(|_, next| next.from > 0);
    let here = documents.filter(|spans| rows.at.contains(&spans[0].at.start));
    here.map(|spans| prompt(batch, spans, rows.at.start)).collect()
}

impl RewardConfig {
    /// Sums the gradient of a batch, `rows` rows at a time.
    pub(crate) fn gradient(
        &self,
        run: &Trainer<'_>,
        batch: &Batch,
        packed: &Packed,
        rows: usize,
    ) -> Sums {
        let count: usize = prompts(batch).iter().map(|prompt| pairs(&prompt.answers).count()).sum();
        let share = 1.0 / count as f64;
        let mut sums = Sums::default();
        for first in (0..batch.rows).step_by(rows) {
            let part = packed.rows(batch, first, rows.min(batch.rows - first));
            let (micro, prompts) = (part.borrow(), prompts_in(batch, &part));
            accumulate(&run.model, &run.tape, &micro, &prompts, self.margin, share, &mut sums);
        }
        sums
    }

    /// The line of the held-out pairs; `None` if none is held out.
    pub(crate) fn measure(&self, run: &Trainer<'_>) -> Result<Option<Line>, TrainError> {
        let (held, mut sums) = (run.held_out()?, Sums::default());
        for source in held.sources() {
            for batch in held.batches(source) {
                let batch = batch?;
                let packed = Packed::of(&batch, true);
                let rows = packed.rows(&batch, 0, batch.rows);
                let prompts = prompts_in(&batch, &rows);
                let read = rewards(&run.model, &rows.borrow(), &prompts);
                for (prompt, rewards) in prompts.iter().zip(&read) {
                    compare(self.margin, prompt, rewards, &mut sums);
                }
            }
        }
        let (step, loss) = (run.step(), sums.loss());
        let (by_source, preferences) = (BTreeMap::new(), Some(sums.preferences()));
        let line = Line::Validation { step, loss, bpb: None, by_source, preferences, taught: None };
        Ok((sums.pairs > 0).then_some(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(standings: &[Standing], strength: Option<Strength>) -> Prompt {
        let mark = |standing: &Standing| (0..1, Mark { standing: *standing, strength });
        Prompt { stem: 0..0, answers: standings.iter().map(mark).collect() }
    }

    const THREE: [Standing; 3] = [Standing::Chosen, Standing::Rejected, Standing::Edited];

    #[test]
    fn slopes_are_central_differences_of_the_loss() {
        for margin in [Margin::None, Margin::Small, Margin::Large] {
            let prompt = answers(&THREE, Some(Strength::SignificantlyBetter));
            let lose = |rewards: &[f64]| {
                let mut sums = Sums::default();
                let slopes = compare(margin, &prompt, rewards, &mut sums);
                (sums.loss, slopes)
            };
            let at = [0.5, 0.75, -0.25];
            for (k, slope) in lose(&at).1.into_iter().enumerate() {
                let moved = |by: f64| {
                    let mut at = at;
                    at[k] += by;
                    lose(&at).0
                };
                let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                assert!((slope - difference).abs() < 1e-8, "{margin:?} {k}: {slope} {difference}");
            }
        }
    }

    #[test]
    fn three_answers_are_three_pairs_whatever_their_order() {
        let prompt = answers(&THREE, None);
        assert_eq!(pairs(&prompt.answers).collect::<Vec<_>>(), [(0, 1), (2, 0), (2, 1)]);
        let mut sums = Sums::default();
        compare(Margin::None, &prompt, &[0.0; 3], &mut sums);
        assert!((sums.loss() - 2f64.ln()).abs() < 1e-15 && sums.pairs == 3);
        assert_eq!(sums.preferences().accuracy, 0.0); // a tie is not right
    }

    #[test]
    fn margins_are_llama_2s_and_none_where_nobody_compared() {
        let of = |margin: Margin, strength| {
            let mark = |standing| Mark { standing, strength };
            let [edited, chosen, rejected] =
                [Standing::Edited, Standing::Chosen, Standing::Rejected].map(mark);
            assert_eq!(margin.of(edited, chosen), 0.0);
            assert_eq!(margin.of(edited, rejected), margin.of(chosen, rejected));
            margin.of(chosen, rejected)
        };
        let strengths = [
            Some(Strength::SignificantlyBetter),
            Some(Strength::Better),
            Some(Strength::SlightlyBetter),
            Some(Strength::MarginallyBetter),
            None,
        ];
        assert_eq!(strengths.map(|s| of(Margin::Small, s)), [1.0, 2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
        assert_eq!(strengths.map(|s| of(Margin::Large, s)), [3.0, 2.0, 1.0, 0.0, 0.0]);
        assert_eq!(strengths.map(|s| of(Margin::None, s)), [0.0; 5]);
    }
}
