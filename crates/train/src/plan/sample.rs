//! What a run of `herd sample` takes of memory, by part: models that answer and models that judge, one after another on one
//! device, whose buffers they share.

use super::weights::part_bytes;
use super::{HEAP, Play, TOKEN, Top, laid, program};
use crate::error::TrainError;
use crate::rejection::{RejectionConfig, limits};
use crate::reward::TOKENS;
use herd_engine::plan as engine;
use herd_model::names::all_parts;
use herd_model::{Checkpoint, CheckpointError, Config};
use herd_tensor::Format;
use herd_tensor::ops::fused_head_bytes;
use std::path::Path;

/// Bytes by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SamplePlan {
    /// The models that answer, as products read them.
    pub weights: u64,
    /// Keys and values of all answers under way, and of prompts that may come again.
    pub cache: u64,
    /// Tensors of a step or of a judgement, whichever take more, and what kernels lay beside them.
    pub activations: u64,
    /// The reward models, as products read them.
    pub judges: u64,
    /// Tokenizers, the program.
    pub rest: u64,
}

impl SamplePlan {
    /// Memory at the peak.
    pub fn peak(&self) -> u64 {
        self.parts().iter().map(|(_, bytes)| bytes).sum()
    }

    /// The parts of the peak and their names.
    pub fn parts(&self) -> [(&'static str, u64); 5] {
        [
            ("weights", self.weights),
            ("cache", self.cache),
            ("activations", self.activations),
            ("judges", self.judges),
            ("rest", self.rest),
        ]
    }
}

/// A model that runs and does not learn.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its shape.
    pub shape: Config,
    /// How most of it is stored.
    pub format: Format,
    /// Bytes of its weights as products read them.
    pub weights: u64,
}

impl Model {
    /// That of a checkpoint.
    ///
    /// Errors: a part that is not there.
    pub fn of(checkpoint: &Checkpoint) -> Result<Model, CheckpointError> {
        let shape = checkpoint.config.clone();
        let mut weights = 0;
        for part in all_parts(&shape) {
            weights += part_bytes(&shape, part, checkpoint.format(part)?);
        }
        let format = checkpoint.format(herd_model::names::Part::Down(0))?;
        Ok(Model { shape, format, weights })
    }

    /// One of this shape whose matrices are all in one format.
    pub fn stored(shape: &Config, format: Format) -> Model {
        let parts = all_parts(shape).into_iter().map(|part| part_bytes(shape, part, format));
        Model { shape: shape.clone(), format, weights: parts.sum() }
    }
}

/// What a run of `herd sample` is made of.
#[derive(Clone, Debug)]
pub struct Sampling {
    /// Those that answer.
    pub policies: Vec<Model>,
    /// Those that judge.
    pub judges: Vec<Model>,
    /// Tokens of each prompt, where they are known; else each may be as long as the context lets it.
    pub prompts: Option<Vec<usize>>,
}

impl Sampling {
    /// The models of some settings, whose paths are relative to `base`.
    ///
    /// Errors: one that cannot be opened.
    pub fn open(config: &RejectionConfig, base: &Path) -> Result<Sampling, TrainError> {
        let policies = config.sample.policies.iter();
        let policies = policies.map(|path| opened(&base.join(path))).collect::<Result<_, _>>()?;
        let judges = config.score.iter().filter_map(|score| score.judge.model());
        let judges = judges.map(|path| opened(&base.join(path))).collect::<Result<_, _>>()?;
        Ok(Sampling { policies, judges, prompts: None })
    }

    /// The same settings with as many answers at once as `available` bytes have room for, but at least one; 0: all.
    pub fn fitting(
        &self,
        config: &RejectionConfig,
        available: u64,
        threads: usize,
    ) -> RejectionConfig {
        let mut config = config.clone();
        let fits = |config: &RejectionConfig| self.plan(config, threads).peak() <= available;
        while available > 0 && config.sample.parallel > 1 && !fits(&config) {
            config.sample.parallel /= 2;
        }
        config
    }

    /// The plan of a run by these settings on so many threads.
    pub fn plan(&self, config: &RejectionConfig, threads: usize) -> SamplePlan {
        let mut buffers = Vec::new();
        let mut scratch = 0;
        for policy in &self.policies {
            let rows = self.step(config);
            buffers = answer(policy, config, rows, buffers);
            scratch = scratch.max(beside(policy, rows, config.sample.parallel, threads));
        }
        for judge in &self.judges {
            let (tokens, copies) = self.judgement(config);
            buffers = judged(judge, tokens, copies, buffers);
            scratch = scratch.max(beside(judge, copies, 1, threads));
        }
        let models = self.policies.iter().chain(&self.judges);
        let words = models.map(|model| TOKEN * model.shape.vocab as u64).sum::<u64>();
        SamplePlan {
            weights: self.policies.iter().map(|model| model.weights).sum(),
            cache: self.policies.iter().map(|model| self.cache(model, config)).sum(),
            activations: buffers.iter().map(|(len, _)| 4 * *len as u64).sum::<u64>() + scratch,
            judges: self.judges.iter().map(|model| model.weights).sum(),
            rest: program() + HEAP + words,
        }
    }

    /// Tokens of a step at most: no more than the prompts of all answers that run at once.
    fn step(&self, config: &RejectionConfig) -> usize {
        let sample = &config.sample;
        let longest = self.longest().unwrap_or(sample.context);
        limits(sample.context, sample.parallel).batch.min(longest.max(1) * sample.parallel)
    }

    /// Tokens of the longest prompt, where they are known.
    fn longest(&self) -> Option<usize> {
        self.prompts.as_ref().map(|tokens| tokens.iter().copied().max().unwrap_or(0))
    }

    /// Pages are taken anew until none is left that was never written: what was answered stays, and may be found again.
    fn cache(&self, model: &Model, config: &RejectionConfig) -> u64 {
        let sample = &config.sample;
        let limits = limits(sample.context, sample.parallel);
        let answers = config.answers() / self.policies.len().max(1);
        let pages = |tokens: &usize| {
            let shared = tokens.saturating_sub(1) / limits.page_len;
            shared + answers * ((tokens + sample.max_tokens).div_ceil(limits.page_len) - shared)
        };
        let written = self.prompts.iter().flatten().map(pages).sum::<usize>();
        let most = limits.pages();
        let pages = if self.prompts.is_some() { written.min(most) } else { most };
        engine::pages_bytes(&model.shape, limits, pages) as u64
    }

    /// Tokens of the largest judgement, a prompt and some of its answers, and rows that attention sees of it.
    fn judgement(&self, config: &RejectionConfig) -> (usize, usize) {
        let sample = &config.sample;
        let prompt = self.longest().unwrap_or(sample.context - sample.max_tokens).max(1);
        let at_once =
            (TOKENS.saturating_sub(prompt) / sample.max_tokens).clamp(1, config.answers());
        let copies = at_once * (prompt + sample.max_tokens);
        (prompt + at_once * sample.max_tokens, copies)
    }

    /// What the settings could change to take less, from the cheapest on, and the plan that they would have.
    ///
    /// Fewer answers at once change no bit and cost speed; a shorter context leaves out long prompts; one policy is one policy.
    pub fn savings(&self, config: &RejectionConfig, threads: usize) -> Vec<(String, SamplePlan)> {
        let mut changed = config.clone();
        let mut savings = Vec::new();
        while changed.sample.parallel > 1 {
            changed.sample.parallel /= 2;
            let word = format!("--set sample.parallel={}", changed.sample.parallel);
            savings.push((word, self.plan(&changed, threads)));
        }
        while changed.sample.context / 2 > changed.sample.max_tokens {
            changed.sample.context /= 2;
            let word =
                format!("--set sample.parallel=1 --set sample.context={}", changed.sample.context);
            let shorter = Sampling { prompts: self.prompts_within(&changed), ..self.clone() };
            savings.push((word, shorter.plan(&changed, threads)));
        }
        savings
    }

    fn prompts_within(&self, config: &RejectionConfig) -> Option<Vec<usize>> {
        let room = config.sample.context - config.sample.max_tokens;
        let fits = |tokens: &Vec<usize>| tokens.iter().copied().filter(|n| *n <= room).collect();
        self.prompts.as_ref().map(fits)
    }
}

fn opened(path: &Path) -> Result<Model, TrainError> {
    Ok(Model::of(&Checkpoint::open_any(path)?)?)
}

/// Buffers after steps of so many rows, and the choice of tokens behind as many answers as run at once.
fn answer(
    policy: &Model,
    config: &RejectionConfig,
    rows: usize,
    buffers: Vec<(usize, bool)>,
) -> Vec<(usize, bool)> {
    let shape = &policy.shape;
    let mut play =
        Play { buffers, shape, tokens: rows, head: Top::Fused, valued: false, copies: None };
    let chosen = config.sample.parallel.min(rows);
    for _ in 0..2 {
        let x = play.pass();
        let last = play.take_len(chosen * shape.width);
        play.give([x]);
        let logits = play.take_len(chosen * shape.vocab);
        let asked = play.take_len(chosen * shape.width);
        if fused_head_bytes(policy.format, [chosen, shape.vocab, shape.width], 1).is_none() {
            let again = play.take_len(chosen * shape.vocab);
            play.give([again]);
        }
        play.give([last, logits, asked]);
    }
    play.buffers
}

/// Buffers after a reward model has read so many tokens, of which attention sees `copies` rows.
fn judged(
    judge: &Model,
    tokens: usize,
    copies: usize,
    buffers: Vec<(usize, bool)>,
) -> Vec<(usize, bool)> {
    let shape = &judge.shape;
    let mut play =
        Play { buffers, shape, tokens, head: Top::Scores, valued: false, copies: Some(copies) };
    for _ in 0..2 {
        let x = play.pass();
        play.give([x]);
    }
    play.buffers
}

/// What kernels lay beside the tensors of so many rows: the inputs of a product, keys and values of one layer, the head.
fn beside(model: &Model, rows: usize, chosen: usize, threads: usize) -> u64 {
    let Config { width, heads, kv_heads, head_dim, ffn_width, vocab, .. } = model.shape;
    let widest = width.max(ffn_width).max(heads * head_dim);
    let head = fused_head_bytes(model.format, [chosen, vocab, width], threads).unwrap_or(0);
    let keys = 2 * 4 * rows * kv_heads * head_dim.next_multiple_of(16);
    (laid(rows, 1, widest, 4) + keys) as u64 + head
}

impl Play<'_> {
    /// One pass that keeps nothing; the normed states behind it.
    fn pass(&mut self) -> super::Lent {
        let mut x = self.take(self.shape.width);
        for _ in 0..self.shape.layers {
            let y = self.forward_paused();
            self.give([x]);
            x = y;
        }
        let normed = self.take(self.shape.width);
        self.give([x]);
        normed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_is_what_prompts_can_fill_and_fewer_answers_at_once_take_less() {
        let shape = Config {
            layers: 2,
            width: 64,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            ffn_width: 96,
            vocab: 300,
            ..herd_model::presets::LLAMA3_8B
        };
        let text = "input = [\"p\"]\n[sample]\npolicies = [\"m\"]\nk = 2\nmax_tokens = 16\ncontext = 64\nparallel = 8\n";
        let config = RejectionConfig::parse(text, &[]).unwrap();
        let policies = vec![Model::stored(&shape, Format::BF16)];
        let of = |prompts| Sampling { policies: policies.clone(), judges: vec![], prompts };
        let whole = of(None).plan(&config, 1);
        // Eight contexts of 64 positions: keys and values of 2 heads of 16 numbers in f32, in two layers.
        assert_eq!(whole.cache, 8 * 64 * 2 * 2 * 16 * 4 * 2);
        // A prompt of 20 tokens shares a page of 16, and each of its two answers has two pages of its own.
        let one = of(Some(vec![20])).plan(&config, 1);
        assert_eq!(one.cache, whole.cache / 32 * 5);
        assert!(one.activations <= whole.activations);
        let savings = of(None).savings(&config, 1);
        let words: Vec<&str> = savings.iter().map(|(word, _)| word.as_str()).collect();
        assert_eq!(words[..3], [4, 2, 1].map(|n| format!("--set sample.parallel={n}")));
        assert!(words[3].ends_with("sample.context=32") && words.len() == 4, "{words:?}");
        assert!(savings.is_sorted_by(|a, b| a.1.peak() > b.1.peak()));
        let room = savings[1].1.peak();
        assert_eq!(of(None).fitting(&config, room, 1).sample.parallel, 2);
    }
}
