//! How much memory a model takes at its peak, by part, told before any of it is taken.

use crate::Limits;
use herd_model::checkpoint::Checkpoint;
use herd_model::names::{Part, all_parts};
use herd_model::{CheckpointError, Config};
use herd_tensor::Weight;

/// Bytes by part. The mapped file is not among them: the system takes its pages back at will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The weights as they are laid for the kernels.
    pub weights: usize,
    /// Keys and values of all contexts, full.
    pub cache: usize,
    /// Tensors of one step, and what kernels lay beside them.
    pub activations: usize,
    /// Logits of one step, and the sampler.
    pub logits: usize,
    /// The tokenizer and the program.
    pub rest: usize,
}

/// The program itself, thread stacks, allocator.
const PROGRAM: usize = 16 << 20;

/// Bytes a token of the vocabulary takes in the tokenizer: 13 MB for SmolLM2's 49,152, 47 MB for
/// Llama 3's 128,256 (`RssAnon` of `herd tokenize` while it waits for its input).
const TOKEN: usize = 400;

impl Plan {
    /// The plan of a model under these limits.
    ///
    /// Errors: a part of the checkpoint that is not there.
    pub fn new(checkpoint: &Checkpoint, limits: Limits) -> Result<Plan, CheckpointError> {
        let config = &checkpoint.config;
        let mut weights = 0usize;
        for part in all_parts(config) {
            weights = weights.saturating_add(part_bytes(checkpoint, part)?);
        }
        let steps = limits.batch.min(limits.context.saturating_mul(limits.parallel));
        Ok(Plan {
            weights,
            cache: cache_bytes(config, limits),
            activations: steps.saturating_mul(activation_width(config) * 4),
            logits: limits.parallel.saturating_mul(config.vocab * 4) + config.vocab * 24,
            rest: PROGRAM + config.vocab * TOKEN,
        })
    }

    /// All parts together.
    pub fn peak(&self) -> usize {
        let parts = [self.weights, self.cache, self.activations, self.logits, self.rest];
        parts.into_iter().fold(0, usize::saturating_add)
    }

    /// The longest context, in whole pages and up to the model's own, with which the peak is at
    /// most `available` bytes; `None` if the model does not fit with one page.
    pub fn context_that_fits(
        &self,
        config: &Config,
        limits: Limits,
        available: usize,
    ) -> Option<usize> {
        let page = cache_bytes(config, Limits { context: limits.page_len, ..limits }).max(1);
        let pages = available.checked_sub(self.peak() - self.cache)? / page;
        let context = pages.saturating_mul(limits.page_len).min(config.context);
        (context > 0).then_some(context)
    }
}

/// Bytes of all but the weights of a model that runs under these limits, where each token's nats are asked for as well.
pub fn beside_weights(config: &Config, limits: Limits) -> usize {
    let steps = limits.batch.min(limits.context.saturating_mul(limits.parallel));
    // Logits stand there twice: to choose from, and for the trainer's numbers.
    let logits = limits.parallel.saturating_mul(2 * config.vocab * 4) + config.vocab * 24;
    let activations = steps.saturating_mul(activation_width(config) * 4);
    cache_bytes(config, limits).saturating_add(activations).saturating_add(logits)
}

fn part_bytes(checkpoint: &Checkpoint, part: Part) -> Result<usize, CheckpointError> {
    match part.shape(&checkpoint.config)[..] {
        [rows, cols] => Ok(Weight::bytes_of(checkpoint.format(part)?, rows, cols)),
        ref norm => Ok(norm.iter().product::<usize>() * 4),
    }
}

fn cache_bytes(config: &Config, limits: Limits) -> usize {
    pages_bytes(config, limits, limits.pages())
}

/// Bytes of so many pages of the cache, in all layers.
pub fn pages_bytes(config: &Config, limits: Limits, pages: usize) -> usize {
    pages.saturating_mul(limits.kv_shape(config).page_bytes()).saturating_mul(config.layers)
}

/// Numbers that one token holds at the widest place, the feed-forward: the stream, its norm and
/// sum, gate, up and their product; attention needs fewer. Beside them kernels lay the inputs of
/// one product, at most as f32. Buffers of both halves stay for the next layer.
fn activation_width(config: &Config) -> usize {
    let (d, f) = (config.width, config.ffn_width);
    let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let feed = 3 * d + 3 * f;
    let attend = 3 * d + 2 * q + 2 * kv;
    feed + attend - 3 * d + d.max(f).max(q)
}
