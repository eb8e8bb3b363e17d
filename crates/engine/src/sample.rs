//! Chooses the next token from a row of logits; the order of the steps is in docs/sampling.md.
//!
//! A choice depends on the row, the history, the settings and (seed, position): never on batch,
//! threads or earlier draws. Legend: V is the size of the vocabulary.

use std::cmp::Ordering;
use std::sync::{Mutex, PoisonError};

use thiserror::Error;

use crate::rng::uniform;
use crate::softmax::{LogProb, exp, greatest, ln, log_normaliser, sum_exp};

/// How tokens are chosen. [`Sampling::GREEDY`] and [`Sampling::LLAMA`] are the starting points.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest token, of equals the one with the smaller id.
    pub temperature: f32,
    /// Where temperature stands among the steps.
    pub temperature_at: TemperatureAt,
    /// Keep the `top_k` likeliest tokens; `None` keeps all.
    pub top_k: Option<usize>,
    /// Keep the tokens nearest to the expected surprise until they hold this mass; 1 keeps all.
    pub typical_p: f32,
    /// Keep the likeliest tokens until they hold this mass; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than `min_p` times the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies other logits of tokens seen; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Taken from the logit of each token seen.
    pub presence_penalty: f32,
    /// Taken from the logit of each token once for each time it was seen.
    pub frequency_penalty: f32,
    /// How many of the last tokens, prompt and answer, count as seen; `usize::MAX` for all.
    pub repeat_last_n: usize,
    /// Added to the logits of these tokens before anything else; -inf forbids a token.
    pub logit_bias: Vec<(u32, f32)>,
    /// Key of the random numbers: the same seed and stream, the same answer.
    pub seed: u64,
    /// Which of the random numbers of a seed: answers to one prompt have 0, 1, 2, ...
    pub stream: u64,
}

/// Where temperature stands among the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemperatureAt {
    /// After top-k, typical, top-p and min-p, as in llama.cpp.
    Last,
    /// Before them, as in Meta's reference code.
    First,
}

impl Sampling {
    /// The likeliest token each time.
    pub const GREEDY: Sampling = Sampling::plain(0.0, TemperatureAt::Last, 1.0);

    /// The defaults of Llama's `generation.py`: temperature 0.6, then top-p 0.9.
    pub const LLAMA: Sampling = Sampling::plain(0.6, TemperatureAt::First, 0.9);

    /// All other steps off.
    const fn plain(temperature: f32, temperature_at: TemperatureAt, top_p: f32) -> Sampling {
        Sampling {
            temperature,
            temperature_at,
            top_k: None,
            typical_p: 1.0,
            top_p,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repeat_last_n: 64,
            logit_bias: Vec::new(),
            seed: 0,
            stream: 0,
        }
    }

    /// Checks every field against its range, and the biased tokens against the vocabulary.
    pub fn check(&self, vocab: usize) -> Result<(), SampleError> {
        let positive = |x: f32| x > 0.0 && x.is_finite();
        let share = |x: f32| x > 0.0 && x <= 1.0;
        let field = |name, value: f32, good: bool, range| match good {
            true => Ok(()),
            false => Err(SampleError::Field { name, value, range }),
        };
        let t = self.temperature;
        field("temperature", t, t >= 0.0 && t.is_finite(), "a number from 0 up")?;
        field("typical_p", self.typical_p, share(self.typical_p), "above 0 and at most 1")?;
        field("top_p", self.top_p, (0.0..=1.0).contains(&self.top_p), "between 0 and 1")?;
        field("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "between 0 and 1")?;
        let (r, p, f) = (self.repetition_penalty, self.presence_penalty, self.frequency_penalty);
        field("repetition_penalty", r, positive(r), "a number above 0")?;
        field("presence_penalty", p, p.is_finite(), "a finite number")?;
        field("frequency_penalty", f, f.is_finite(), "a finite number")?;
        if self.top_k == Some(0) {
            return Err(SampleError::Field { name: "top_k", value: 0.0, range: "at least 1" });
        }
        for &(id, bias) in &self.logit_bias {
            if id as usize >= vocab {
                return Err(SampleError::BiasToken { id, vocab });
            }
            field("logit_bias", bias, bias < f32::INFINITY, "a finite number or -inf")?;
        }
        Ok(())
    }

    fn edits_logits(&self) -> bool {
        !self.logit_bias.is_empty() || self.penalises()
    }

    fn penalises(&self) -> bool {
        let neutral = (1.0, 0.0, 0.0);
        let set = (self.repetition_penalty, self.presence_penalty, self.frequency_penalty);
        self.repeat_last_n > 0 && set != neutral
    }
}

/// Why settings or logits give no token.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum SampleError {
    /// A setting outside its range.
    #[error("{name} is {value}, it must be {range}")]
    Field {
        /// The field of [`Sampling`].
        name: &'static str,
        /// What it held.
        value: f32,
        /// What it may hold.
        range: &'static str,
    },
    /// A bias for a token that does not exist.
    #[error("logit_bias names token {id}, the vocabulary has {vocab}")]
    BiasToken {
        /// The token.
        id: u32,
        /// V.
        vocab: usize,
    },
    /// The model gave a number that is none: its weights or its input are broken.
    #[error("the logit of token {id} is {value}")]
    Logit {
        /// The token.
        id: u32,
        /// NaN or +inf.
        value: f32,
    },
    /// Every token is forbidden.
    #[error("every token of the vocabulary is forbidden")]
    NoToken,
}

/// The memory that choosing needs: one for all requests of a thread, V * 8 bytes and the kept.
#[derive(Clone, Debug, Default)]
pub struct Sampler {
    row_v: Vec<f32>,
    counts_v: Vec<u32>,
    kept: Vec<Candidate>,
}

/// Samplers that threads borrow.
#[derive(Debug, Default)]
pub(crate) struct Samplers(Mutex<Vec<Sampler>>);

impl Samplers {
    /// Does something with a sampler that nobody else has.
    pub(crate) fn lend<T>(&self, to: impl FnOnce(&mut Sampler) -> T) -> T {
        let spare = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lent = spare().pop();
        let mut sampler = lent.unwrap_or_default();
        let done = to(&mut sampler);
        spare().push(sampler);
        done
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    id: u32,
    logit: f32,
    /// exp(logit - max): the probability before division by the sum.
    weight: f64,
}

/// Forbids the tokens whose bit is not set.
fn forbid(row_v: &mut [f32], allowed: Option<&[u32]>) {
    let Some(allowed) = allowed else { return };
    for (part, word) in row_v.chunks_mut(32).zip(allowed) {
        for (i, x) in part.iter_mut().enumerate() {
            if word >> i & 1 == 0 {
                *x = f32::NEG_INFINITY;
            }
        }
    }
}

impl Sampler {
    /// A sampler that has not grown its memory yet.
    pub fn new() -> Sampler {
        Sampler::default()
    }

    /// Chooses the token at `position` (tokens before it), given the tokens `history` before it.
    ///
    /// `logits_v` holds V logits. The settings must have passed [`Sampling::check`] for this V, and
    /// `history` must hold tokens of the vocabulary (panics otherwise). Allocates nothing once
    /// the memory has grown.
    pub fn choose(
        &mut self,
        sampling: &Sampling,
        logits_v: &[f32],
        history: &[u32],
        position: u64,
    ) -> Result<u32, SampleError> {
        self.choose_among(None, sampling, logits_v, history, position)
    }

    /// [`choose`](Self::choose) among the tokens whose bit is set: `id % 32` of word `id / 32` of `allowed`.
    pub fn choose_among(
        &mut self,
        allowed: Option<&[u32]>,
        sampling: &Sampling,
        logits_v: &[f32],
        history: &[u32],
        position: u64,
    ) -> Result<u32, SampleError> {
        let mut row_v = std::mem::take(&mut self.row_v);
        let chosen = if sampling.edits_logits() || allowed.is_some() {
            row_v.clear();
            row_v.extend_from_slice(logits_v);
            self.edit(&mut row_v, sampling, history);
            forbid(&mut row_v, allowed);
            self.choose_from(sampling, &row_v, position)
        } else {
            self.choose_from(sampling, logits_v, position)
        };
        self.row_v = row_v;
        chosen
    }

    /// The `n` likeliest tokens of the raw row, likeliest first, and their log-probabilities.
    ///
    /// `out` is cleared first. Temperature, penalties and truncation do not enter. Gives back ln of the sum of e^logit.
    pub fn top_log_probs(&mut self, logits_v: &[f32], n: usize, out: &mut Vec<LogProb>) -> f64 {
        let normaliser = log_normaliser(logits_v);
        gather_top(&mut self.kept, logits_v, n);
        out.clear();
        let of = |c: &Candidate| LogProb { id: c.id, log_prob: f64::from(c.logit) - normaliser };
        out.extend(self.kept.iter().map(of));
        normaliser
    }

    /// Bias first, then penalties: repetition scales, then presence and frequency subtract.
    fn edit(&mut self, row_v: &mut [f32], sampling: &Sampling, history: &[u32]) {
        for &(id, bias) in &sampling.logit_bias {
            row_v[id as usize] += bias;
        }
        if !sampling.penalises() {
            return;
        }
        self.counts_v.resize(row_v.len().max(self.counts_v.len()), 0);
        let seen = &history[history.len().saturating_sub(sampling.repeat_last_n)..];
        for &id in seen {
            self.counts_v[id as usize] += 1;
        }
        for &id in seen {
            let count = std::mem::take(&mut self.counts_v[id as usize]);
            if count == 0 {
                continue; // this token has been seen to
            }
            let x = &mut row_v[id as usize];
            let r = sampling.repetition_penalty;
            *x = if *x > 0.0 { *x / r } else { *x * r };
            *x -= sampling.presence_penalty + count as f32 * sampling.frequency_penalty;
        }
    }

    fn choose_from(
        &mut self,
        sampling: &Sampling,
        row_v: &[f32],
        position: u64,
    ) -> Result<u32, SampleError> {
        let (best, max) = likeliest(row_v)?;
        if sampling.temperature == 0.0 {
            return Ok(best);
        }
        let temperature = f64::from(sampling.temperature);
        let (before, after) = match sampling.temperature_at {
            TemperatureAt::First => (1.0 / temperature, 1.0),
            TemperatureAt::Last => (1.0, 1.0 / temperature),
        };
        truncate(&mut self.kept, sampling, row_v, max, before);
        let scale = before * after;
        for c in &mut self.kept {
            c.weight = exp((f64::from(c.logit) - f64::from(max)) * scale);
        }
        Ok(draw(&mut self.kept, uniform(sampling.seed, sampling.stream, position)))
    }
}

/// The largest logit and the smallest id that has it.
///
/// Three passes that the compiler makes vectors of, which a search that may end at any element is not.
fn likeliest(row_v: &[f32]) -> Result<(u32, f32), SampleError> {
    let max = greatest(row_v);
    let bad = |x: f32| x.is_nan() || x == f32::INFINITY;
    let (blocks, _) = row_v.as_chunks::<32>();
    // Without a branch, where `any` would end at an element.
    if row_v.iter().fold(false, |any, &x| any | bad(x)) {
        let id = row_v.iter().position(|&x| bad(x)).expect("one was met");
        return Err(SampleError::Logit { id: id as u32, value: row_v[id] });
    }
    if max == f32::NEG_INFINITY {
        return Err(SampleError::NoToken);
    }
    let here = |block: &[f32; 32]| block.iter().fold(false, |any, &x| any | (x == max));
    let start = 32 * blocks.iter().position(here).unwrap_or(blocks.len());
    let best = row_v[start..].iter().position(|&x| x == max);
    Ok(((start + best.expect("the maximum is one of the row")) as u32, max))
}

/// Leaves in `kept` the tokens that may be drawn: top-k, typical, top-p, min-p, in this order.
///
/// `scale` is 1 / temperature where that comes first, else 1.
fn truncate(kept: &mut Vec<Candidate>, s: &Sampling, row_v: &[f32], max: f32, scale: f64) {
    let weigh = |logit: f32| exp((f64::from(logit) - f64::from(max)) * scale);
    let total = match s.top_k {
        Some(k) if k < row_v.len() => {
            gather_top(kept, row_v, k);
            kept.retain(|c| c.logit > f32::NEG_INFINITY);
            kept.iter_mut().for_each(|c| c.weight = weigh(c.logit));
            kept.iter().map(|c| c.weight).sum()
        }
        _ => {
            let total = sum_exp(row_v, max, scale);
            let floor = floor_of_the_nucleus(s, row_v.len(), total, max, scale);
            gather_above(kept, row_v, floor);
            kept.iter_mut().for_each(|c| c.weight = weigh(c.logit));
            total
        }
    };
    let total = if s.typical_p < 1.0 { keep_typical(kept, s.typical_p, total) } else { total };
    if s.top_p < 1.0 {
        kept.sort_unstable_by(by_logit);
        keep_mass(kept, f64::from(s.top_p) * total);
    }
    if s.min_p > 0.0 {
        let heaviest = kept.iter().map(|c| c.weight).fold(0.0, f64::max);
        kept.retain(|c| c.weight >= f64::from(s.min_p) * heaviest);
    }
}

/// A logit below which no token can be in the nucleus: most of the row need not be sorted.
///
/// Tokens of weight under t = (1 - p) total / 2V hold at most half of 1 - p together, so the
/// others hold more than p, and the nucleus lies among them. Typical sampling needs every token.
fn floor_of_the_nucleus(s: &Sampling, vocab: usize, total: f64, max: f32, scale: f64) -> f32 {
    if s.top_p == 1.0 || s.typical_p < 1.0 {
        return f32::NEG_INFINITY;
    }
    let weight = (1.0 - f64::from(s.top_p)) * total / (2.0 * vocab as f64);
    // A little lower, for the rounding of the logarithm; never above the likeliest token.
    let floor = f64::from(max) + ln(weight) / scale;
    ((floor - 1e-3 - floor.abs() * 1e-6) as f32).min(max)
}

/// All tokens from `floor` up, by id, without the forbidden ones.
fn gather_above(kept: &mut Vec<Candidate>, row_v: &[f32], floor: f32) {
    kept.clear();
    for (id, &logit) in row_v.iter().enumerate() {
        if logit >= floor && logit > f32::NEG_INFINITY {
            kept.push(Candidate { id: id as u32, logit, weight: 0.0 });
        }
    }
}

/// The `k` likeliest tokens in order, equals by id.
///
/// One pass with a bar that rises whenever the buffer is full, so few tokens are ever moved.
fn gather_top(kept: &mut Vec<Candidate>, row_v: &[f32], k: usize) {
    kept.clear();
    let k = k.min(row_v.len());
    if k == 0 {
        return;
    }
    let full = (4 * k).max(256);
    let mut bar = f32::NEG_INFINITY;
    for (id, &logit) in row_v.iter().enumerate() {
        // An equal of the bar comes after k tokens with smaller ids that are as likely.
        if logit <= bar && kept.len() >= k {
            continue;
        }
        kept.push(Candidate { id: id as u32, logit, weight: 0.0 });
        if kept.len() == full {
            kept.select_nth_unstable_by(k - 1, by_logit);
            kept.truncate(k);
            bar = kept[k - 1].logit;
        }
    }
    kept.sort_unstable_by(by_logit);
    kept.truncate(k);
}

fn by_logit(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// Keeps the tokens whose surprise -ln p is nearest to its mean; gives the sum of their weights.
///
/// Source: Meister et al., "Locally typical sampling" (arXiv 2202.00666), section 4.
/// Sorts all tokens: use it with top-k where the vocabulary is large.
fn keep_typical(kept: &mut Vec<Candidate>, p: f32, total: f64) -> f64 {
    let surprise = |c: &Candidate| -ln((c.weight / total).max(f64::MIN_POSITIVE));
    let mean: f64 = kept.iter().map(|c| c.weight / total * surprise(c)).sum();
    let distance = |c: &Candidate| (surprise(c) - mean).abs();
    kept.sort_unstable_by(|a, b| distance(a).total_cmp(&distance(b)).then(a.id.cmp(&b.id)));
    keep_mass(kept, f64::from(p) * total);
    kept.iter().map(|c| c.weight).sum()
}

/// Drops a token when the weights before it exceed `mass`; the first always stays.
fn keep_mass(kept: &mut Vec<Candidate>, mass: f64) {
    let mut before = 0.0;
    let dropped = kept.iter().position(|c| {
        let drop = before > mass;
        before += c.weight;
        drop
    });
    kept.truncate(dropped.unwrap_or(kept.len()));
}

/// Walks the kept tokens by id to the first whose cumulative weight exceeds u times the total.
fn draw(kept: &mut [Candidate], u: f64) -> u32 {
    kept.sort_unstable_by_key(|c| c.id);
    let total: f64 = kept.iter().map(|c| c.weight).sum();
    let mut sum = 0.0;
    let mut last = None;
    for c in kept.iter().filter(|c| c.weight > 0.0) {
        sum += c.weight;
        last = Some(c.id);
        if sum > u * total {
            break;
        }
    }
    last.or_else(|| kept.first().map(|c| c.id)).expect("truncation keeps at least one token")
}

#[cfg(test)]
#[path = "sample_tests.rs"]
mod tests;
