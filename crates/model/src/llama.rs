//! The forward pass of Llama (arXiv 2407.21783, section 3.2; `docs/model.md`): one page for every
//! size, weight format and use.
//!
//! Letters: T tokens (packed), D width, H heads, G key/value heads, K head width, F feed-forward,
//! V vocabulary.

use crate::checkpoint::Checkpoint;
use crate::error::CheckpointError;
use crate::names::Part;
use crate::{Config, Head, RopeScaling};
use herd_tensor::ops::{
    Documents, Keys, KvCache, Likeliest, Loss, Positions, Targets, Taught, Teacher, attention,
    cross_entropy, distill, embed, likeliest, linear, linears, recompute, rms_norm, rope, swiglu,
};
use herd_tensor::{Device, Format, Gain, Scaling, Sequence, Tensor, Weight, inverse_frequencies};
use std::sync::Arc;

mod adapted;
mod training;

pub use adapted::Adapter;
pub use training::{Named, Piece, Training};

/// A Llama, ready to run or to be trained. Clones share the weights.
#[derive(Clone)]
pub struct Llama {
    config: Config,
    device: Device,
    tok_embd: Weight,
    blocks: Vec<Block>,
    output_norm: Norm,
    /// The head of a language model; `None` if it is the embedding.
    output: Option<Weight>,
    /// The head that scores: of a reward model, or beside a language model's while that learns what its answers are worth.
    score: Option<Weight>,
    frequencies: Vec<f32>,
    attention_factor: f32,
    /// Whether training keeps a block's input alone and runs the block again for its gradient.
    recompute: bool,
}

/// One layer. Clones share the weights.
#[derive(Clone)]
struct Block {
    attn_norm: Norm,
    q: Weight,
    k: Weight,
    v: Weight,
    o: Weight,
    ffn_norm: Norm,
    gate: Weight,
    up: Weight,
    down: Weight,
}

/// The gains of an RMSNorm.
#[derive(Clone)]
struct Norm {
    w: Gain,
    eps: f32,
}

/// Tokens of several sequences, packed; row t of every tensor is token t.
pub struct Batch<'a> {
    /// Token ids, one for each of T rows.
    pub tokens: &'a [u32],
    /// The position of each in its sequence.
    pub positions: &'a [u32],
    /// Which rows belong to which sequence, and where its keys and values lie.
    pub sequences: &'a [Sequence<'a>],
}

impl Llama {
    /// The hidden state of every token of the batch, normed for the head: [T, D].
    ///
    /// Their keys and values go to the cache. Panics if a token is not below V.
    pub fn forward(&self, batch: &Batch<'_>, cache: &mut KvCache) -> Tensor {
        let keys = Keys::Cached { cache, sequences: batch.sequences };
        self.hidden(batch.tokens, batch.positions, keys)
    }

    /// The same for whole documents that lie one after another in `tokens`; gradients pass.
    pub fn forward_documents(
        &self,
        tokens: &[u32],
        positions: &[u32],
        documents: &Arc<Documents>,
    ) -> Tensor {
        self.hidden(tokens, positions, Keys::Packed(Arc::clone(documents)))
    }

    fn hidden(&self, tokens: &[u32], positions: &[u32], mut keys: Keys<'_>) -> Tensor {
        let at = Positions::new(positions, &self.frequencies, self.attention_factor);
        let mut x_td = embed(&self.device, &self.tok_embd, tokens);
        for (layer, block) in self.blocks.iter().enumerate() {
            x_td = match &keys {
                Keys::Packed(documents) if self.recompute => {
                    let (block, at) = (block.clone(), at.clone());
                    let documents = Arc::clone(documents);
                    recompute(x_td, move |x_td| {
                        block.forward(x_td, &at, &mut Keys::Packed(Arc::clone(&documents)), layer)
                    })
                }
                Keys::Packed(_) | Keys::Cached { .. } => block.forward(x_td, &at, &mut keys, layer),
            };
        }
        self.output_norm.forward(&x_td)
    }

    /// Logits of hidden states [T, D]: [T, V].
    pub fn logits(&self, x_td: &Tensor) -> Tensor {
        linear(x_td, self.head())
    }

    /// What the head loses on `targets` after hidden states [T, D], without all its logits.
    pub fn loss(&self, x_td: &Tensor, targets: &Targets<'_>) -> Loss {
        cross_entropy(x_td, self.head(), targets)
    }

    /// The same on `targets` and on what a teacher says.
    pub fn taught(&self, x_td: &Tensor, targets: &Targets<'_>, teacher: &Teacher<'_>) -> Taught {
        distill(x_td, self.head(), targets, teacher)
    }

    /// The `k` likeliest ids after each of the hidden states [T, D], at a temperature.
    pub fn likeliest(&self, x_td: &Tensor, k: usize, temperature: f32) -> Likeliest {
        likeliest(x_td, self.head(), k, temperature)
    }

    /// The number that the head that scores reads after each of the hidden states [T, D]: [T, 1], in f32.
    ///
    /// Gradients pass. Panics if there is none: files are checked before.
    pub fn scores(&self, x_td: &Tensor) -> Tensor {
        linear(x_td, self.score.as_ref().expect("scores of a language model"))
    }

    fn head(&self) -> &Weight {
        assert_eq!(self.config.head, Head::Language, "logits of a reward model");
        self.output.as_ref().unwrap_or(&self.tok_embd)
    }

    /// Its numbers.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where it runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// How the weights of the layers are stored; of several, that of the first.
    pub fn format(&self) -> Format {
        self.blocks.first().map_or(self.tok_embd.format(), |block| block.down.format())
    }

    /// Bytes of an embedding that is no head: a step reads single rows of it.
    pub fn embedding_only_bytes(&self) -> usize {
        let also_head = self.output.is_none() && self.config.head == Head::Language;
        if also_head { 0 } else { self.tok_embd.bytes() }
    }

    /// Bytes that the weights take in memory.
    pub fn weight_bytes(&self) -> usize {
        let heads = [&self.output, &self.score].into_iter().flatten().map(Weight::bytes);
        let outer = self.tok_embd.bytes() + heads.sum::<usize>();
        outer + self.blocks.iter().map(Block::bytes).sum::<usize>()
    }
}

impl Block {
    fn forward(&self, x_td: Tensor, at: &Positions, keys: &mut Keys<'_>, layer: usize) -> Tensor {
        let a_td = self.attend(&self.attn_norm.forward(&x_td), at, keys, layer);
        let h_td = x_td + &a_td;
        let f_td = self.feed(&self.ffn_norm.forward(&h_td));
        h_td + &f_td
    }

    fn attend(&self, x_td: &Tensor, at: &Positions, keys: &mut Keys<'_>, layer: usize) -> Tensor {
        let [q_thk, k_tgk, v_tgk] = linears(x_td, [&self.q, &self.k, &self.v]);
        let (q_thk, k_tgk) = (rope(q_thk, at), rope(k_tgk, at));
        linear(&attention(&q_thk, &k_tgk, &v_tgk, keys, layer), &self.o)
    }

    fn feed(&self, x_td: &Tensor) -> Tensor {
        let [gate_tf, up_tf] = linears(x_td, [&self.gate, &self.up]);
        linear(&swiglu(&gate_tf, &up_tf), &self.down)
    }

    fn bytes(&self) -> usize {
        let weights = [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down];
        weights.iter().map(|w| w.bytes()).sum()
    }
}

impl Norm {
    fn forward(&self, x_td: &Tensor) -> Tensor {
        rms_norm(x_td, &self.w, self.eps)
    }
}

impl Llama {
    /// Loads the weights of a checkpoint, laid out for this device.
    ///
    /// `context` is the longest sequence that will be run: dynamic RoPE scaling depends on it.
    /// Errors: a part that cannot be read.
    pub fn load(
        checkpoint: &Checkpoint,
        device: &Device,
        context: usize,
    ) -> Result<Llama, CheckpointError> {
        Llama::build(&checkpoint.config, device, context, &mut Loader { checkpoint, device })
    }

    fn build<P: Parts>(
        config: &Config,
        device: &Device,
        context: usize,
        parts: &mut P,
    ) -> Result<Llama, P::Error> {
        let scaling = kernel_scaling(&config.rope_scaling, context);
        let (frequencies, attention_factor) =
            inverse_frequencies(config.head_dim, config.rope_theta as f32, &scaling);
        Ok(Llama {
            tok_embd: parts.weight(Part::TokEmbd)?,
            blocks: (0..config.layers)
                .map(|l| Block::build(config, l, parts))
                .collect::<Result<_, _>>()?,
            output_norm: Norm::build(config, Part::OutputNorm, parts)?,
            output: match config.head {
                Head::Language if !config.tied => Some(parts.weight(Part::Output)?),
                Head::Language | Head::Score => None,
            },
            score: match config.head {
                Head::Language => None,
                Head::Score => Some(parts.weight(Part::Score)?),
            },
            config: config.clone(),
            device: device.clone(),
            frequencies,
            attention_factor,
            recompute: false,
        })
    }
}

impl Block {
    fn build<P: Parts>(config: &Config, l: usize, parts: &mut P) -> Result<Block, P::Error> {
        Ok(Block {
            attn_norm: Norm::build(config, Part::AttnNorm(l), parts)?,
            q: parts.weight(Part::Q(l))?,
            k: parts.weight(Part::K(l))?,
            v: parts.weight(Part::V(l))?,
            o: parts.weight(Part::O(l))?,
            ffn_norm: Norm::build(config, Part::FfnNorm(l), parts)?,
            gate: parts.weight(Part::Gate(l))?,
            up: parts.weight(Part::Up(l))?,
            down: parts.weight(Part::Down(l))?,
        })
    }
}

impl Norm {
    fn build<P: Parts>(config: &Config, part: Part, parts: &mut P) -> Result<Norm, P::Error> {
        Ok(Norm { w: parts.gain(part)?, eps: config.norm_eps })
    }
}

/// Where the parts of a Llama come from.
trait Parts {
    /// Why a part cannot be had.
    type Error;

    fn weight(&mut self, part: Part) -> Result<Weight, Self::Error>;

    fn gain(&mut self, part: Part) -> Result<Gain, Self::Error>;
}

/// A checkpoint's weights, frozen.
struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    device: &'a Device,
}

impl Parts for Loader<'_> {
    type Error = CheckpointError;

    fn weight(&mut self, part: Part) -> Result<Weight, CheckpointError> {
        let stored = self.checkpoint.part(part)?;
        let (rows, cols) = (stored.shape[0], stored.shape[1]);
        let weight = Weight::new(self.device, stored.format, rows, cols, &stored.bytes);
        drop(stored);
        if matches!(part, Part::TokEmbd | Part::Down(_)) {
            // The file's pages are packed into ours: together they would be twice the model.
            self.checkpoint.archive().release();
        }
        Ok(weight)
    }

    fn gain(&mut self, part: Part) -> Result<Gain, CheckpointError> {
        Ok(Gain::Fixed(self.checkpoint.part(part)?.unpack().into()))
    }
}

/// The configuration's scaling as the frequency table takes it.
fn kernel_scaling(scaling: &RopeScaling, context: usize) -> Scaling {
    match scaling {
        RopeScaling::None => Scaling::None,
        RopeScaling::Linear { factor } => Scaling::Linear { factor: *factor as f32 },
        RopeScaling::Dynamic { factor, original_context } => Scaling::DynamicNtk {
            factor: *factor as f32,
            original_max_position_embeddings: *original_context as u32,
            current_len: context as u32,
        },
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            Scaling::Llama3 {
                factor: *factor as f32,
                low_freq_factor: *low_freq_factor as f32,
                high_freq_factor: *high_freq_factor as f32,
                original_max_position_embeddings: *original_context as u32,
            }
        }
        RopeScaling::Yarn(yarn) => Scaling::Yarn {
            factor: yarn.factor as f32,
            original_max_position_embeddings: yarn.original_context as u32,
            beta_fast: yarn.beta_fast as f32,
            beta_slow: yarn.beta_slow as f32,
            attention_factor: Some(yarn.attention_factor() as f32),
            truncate: yarn.truncate,
        },
        RopeScaling::Divisors(divisors) => Scaling::Divisors(divisors.clone()),
    }
}
