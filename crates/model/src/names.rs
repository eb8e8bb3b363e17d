//! What checkpoints call the tensors of a Llama, how they are shaped, sharded and permuted.
//!
//! Axes: D width, H heads, G kv_heads, K head_dim, F ffn_width, V vocab.

use crate::error::cut;
use crate::nearest::nearest;
use crate::{Config, ConfigError, Head};

/// One tensor of a Llama; the number is the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Embedding, [V, D].
    TokEmbd,
    /// Norm before the head, `[D]`.
    OutputNorm,
    /// Head, [V, D]; absent when tied.
    Output,
    /// Head of a reward model, or of values beside a language model's, [1, D].
    Score,
    /// Norm before attention, `[D]`.
    AttnNorm(usize),
    /// Query projection, [HK, D].
    Q(usize),
    /// Key projection, [GK, D].
    K(usize),
    /// Value projection, [GK, D].
    V(usize),
    /// Output projection of attention, [D, HK].
    O(usize),
    /// Norm before the feed-forward network, `[D]`.
    FfnNorm(usize),
    /// Gate of SwiGLU, [F, D]: Meta's w1.
    Gate(usize),
    /// Linear branch of SwiGLU, [F, D]: Meta's w3.
    Up(usize),
    /// Projection back, [D, F]: Meta's w2.
    Down(usize),
    /// Divisors of the RoPE frequencies, [K/2]; GGUF only.
    RopeFreqs,
}

/// Who named the tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// `consolidated.NN.pth`.
    Meta,
    /// Hugging Face safetensors.
    Hf,
    /// GGUF.
    Gguf,
}

/// What a name in a checkpoint stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// A tensor of the model.
    Part(Part),
    /// A table that the configuration gives as well, such as RoPE frequencies; skip it.
    Derived,
}

/// Names outside the layers: Meta, Hugging Face, GGUF.
const OUTER: [(Part, [&str; 3]); 4] = [
    (Part::TokEmbd, ["tok_embeddings.weight", "model.embed_tokens.weight", "token_embd.weight"]),
    (Part::OutputNorm, ["norm.weight", "model.norm.weight", "output_norm.weight"]),
    (Part::Output, ["output.weight", "lm_head.weight", "output.weight"]),
    (Part::Score, ["score.weight", "score.weight", "cls.output.weight"]),
];

/// Makes the part of a layer.
type InLayer = fn(usize) -> Part;

/// Names inside a layer, after the layer's prefix.
const INNER: [(InLayer, [&str; 3]); 9] = [
    (Part::AttnNorm, ["attention_norm.weight", "input_layernorm.weight", "attn_norm.weight"]),
    (Part::Q, ["attention.wq.weight", "self_attn.q_proj.weight", "attn_q.weight"]),
    (Part::K, ["attention.wk.weight", "self_attn.k_proj.weight", "attn_k.weight"]),
    (Part::V, ["attention.wv.weight", "self_attn.v_proj.weight", "attn_v.weight"]),
    (Part::O, ["attention.wo.weight", "self_attn.o_proj.weight", "attn_output.weight"]),
    (Part::FfnNorm, ["ffn_norm.weight", "post_attention_layernorm.weight", "ffn_norm.weight"]),
    (Part::Gate, ["feed_forward.w1.weight", "mlp.gate_proj.weight", "ffn_gate.weight"]),
    (Part::Up, ["feed_forward.w3.weight", "mlp.up_proj.weight", "ffn_up.weight"]),
    (Part::Down, ["feed_forward.w2.weight", "mlp.down_proj.weight", "ffn_down.weight"]),
];

const ROPE_FREQS: &str = "rope_freqs.weight";

/// Tables outside the layers that old files carry.
const DERIVED_OUTER: [&str; 2] = ["rope.freqs", "model.rotary_emb.inv_freq"];

/// Tables inside layers that old files carry.
const DERIVED_INNER: [&str; 3] =
    ["self_attn.rotary_emb.inv_freq", "attention.inner_attention.rope.freqs", "attn_rot_embd"];

impl Style {
    const fn column(self) -> usize {
        match self {
            Style::Meta => 0,
            Style::Hf => 1,
            Style::Gguf => 2,
        }
    }

    const fn layer_prefix(self) -> &'static str {
        match self {
            Style::Meta => "layers.",
            Style::Hf => "model.layers.",
            Style::Gguf => "blk.",
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Style::Meta => "tensor of a Meta checkpoint",
            Style::Hf => "tensor of a Hugging Face checkpoint",
            Style::Gguf => "tensor of a GGUF file",
        }
    }
}

impl Part {
    /// The layer, or `None` outside the layers.
    pub const fn layer(self) -> Option<usize> {
        match self {
            Part::TokEmbd | Part::OutputNorm | Part::Output | Part::Score => None,
            Part::RopeFreqs => None,
            Part::AttnNorm(l) | Part::Q(l) | Part::K(l) | Part::V(l) | Part::O(l) => Some(l),
            Part::FfnNorm(l) | Part::Gate(l) | Part::Up(l) | Part::Down(l) => Some(l),
        }
    }

    /// The shape in row-major order, slowest axis first; GGUF files list it reversed.
    pub fn shape(self, config: &Config) -> Vec<usize> {
        let Config { width: d, ffn_width: f, vocab: v, .. } = *config;
        let (hk, gk) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        match self {
            Part::TokEmbd | Part::Output => vec![v, d],
            Part::Score => vec![1, d],
            Part::OutputNorm | Part::AttnNorm(_) | Part::FfnNorm(_) => vec![d],
            Part::Q(_) => vec![hk, d],
            Part::K(_) | Part::V(_) => vec![gk, d],
            Part::O(_) => vec![d, hk],
            Part::Gate(_) | Part::Up(_) => vec![f, d],
            Part::Down(_) => vec![d, f],
            Part::RopeFreqs => vec![config.head_dim / 2],
        }
    }

    /// Heads whose rows differ in order between Meta or GGUF and Hugging Face; `None` if the
    /// tensor is the same in all three. See [`permute_rows`].
    pub fn permuted_heads(self, config: &Config) -> Option<usize> {
        match self {
            Part::Q(_) => Some(config.heads),
            Part::K(_) => Some(config.kv_heads),
            Part::TokEmbd | Part::OutputNorm | Part::Output | Part::Score => None,
            Part::RopeFreqs => None,
            Part::AttnNorm(_) | Part::V(_) | Part::O(_) | Part::FfnNorm(_) => None,
            Part::Gate(_) | Part::Up(_) | Part::Down(_) => None,
        }
    }
}

/// Every tensor of the model in the order of the forward pass; no output matrix if tied, or if the head scores.
pub fn all_parts(config: &Config) -> Vec<Part> {
    let layers = (0..config.layers).flat_map(|l| INNER.iter().map(move |(part, _)| part(l)));
    let head = match config.head {
        Head::Language => (!config.tied).then_some(Part::Output),
        Head::Score => Some(Part::Score),
    };
    [Part::TokEmbd].into_iter().chain(layers).chain([Part::OutputNorm]).chain(head).collect()
}

/// The name of `part`; `None` for [`Part::RopeFreqs`] outside GGUF.
///
/// ```
/// use herd_model::names::{Part, Style, name};
/// assert_eq!(name(Part::Q(3), Style::Gguf).unwrap(), "blk.3.attn_q.weight");
/// ```
pub fn name(part: Part, style: Style) -> Option<String> {
    if part == Part::RopeFreqs {
        return (style == Style::Gguf).then(|| ROPE_FREQS.to_string());
    }
    if let Some((_, names)) = OUTER.iter().find(|(outer, _)| *outer == part) {
        return Some(names[style.column()].to_string());
    }
    let layer = part.layer().expect("the table of outer names has every part without a layer");
    let (_, names) =
        INNER.iter().find(|(inner, _)| inner(layer) == part).expect("the table is complete");
    Some(format!("{}{layer}.{}", style.layer_prefix(), names[style.column()]))
}

/// What the tensor called `text` is.
///
/// Errors: [`ConfigError::Name`] with the nearest name of that style.
pub fn parse(text: &str, style: Style) -> Result<Named, ConfigError> {
    let column = style.column();
    if let Some((part, _)) = OUTER.iter().find(|(_, names)| names[column] == text) {
        return Ok(Named::Part(*part));
    }
    if style == Style::Gguf && text == ROPE_FREQS {
        return Ok(Named::Part(Part::RopeFreqs));
    }
    if DERIVED_OUTER.contains(&text) {
        return Ok(Named::Derived);
    }
    let Some((layer, rest)) = split_layer(text, style) else {
        return Err(unknown(text, style, None));
    };
    if DERIVED_INNER.contains(&rest.trim_end_matches(".weight")) {
        return Ok(Named::Derived);
    }
    match INNER.iter().find(|(_, names)| names[column] == rest) {
        Some((part, _)) => Ok(Named::Part(part(layer))),
        None => Err(unknown(text, style, Some((layer, rest)))),
    }
}

/// Splits `blk.12.attn_q.weight` into 12 and `attn_q.weight`. Layers have one spelling: 012 and
/// +12 are no numbers of layers.
fn split_layer(text: &str, style: Style) -> Option<(usize, &str)> {
    let (digits, rest) = text.strip_prefix(style.layer_prefix())?.split_once('.')?;
    let layer: usize = digits.parse().ok()?;
    (layer.to_string() == digits).then_some((layer, rest))
}

fn unknown(text: &str, style: Style, inner: Option<(usize, &str)>) -> ConfigError {
    let column = style.column();
    let nearest = match inner {
        Some((layer, rest)) => nearest(rest, INNER.iter().map(|(_, names)| names[column]))
            .map(|rest| format!("{}{layer}.{rest}", style.layer_prefix())),
        None => nearest(text, OUTER.iter().map(|(_, names)| names[column])).map(String::from),
    };
    ConfigError::Name { what: style.what(), name: cut(text), nearest }
}

/// Along which axis Meta's shards of the embedding are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbeddingShards {
    /// Axis 0: Llama 3 and later.
    ByVocabulary,
    /// Axis 1: LLaMA 1 and 2.
    ByWidth,
}

impl EmbeddingShards {
    /// Tells the two apart by the shape of one shard; `None` if it fits neither.
    pub fn of(shard: &[usize], config: &Config, ranks: usize) -> Option<EmbeddingShards> {
        let [rows, columns] = *shard else { return None };
        if columns == config.width && rows.checked_mul(ranks) == Some(config.vocab) {
            return Some(EmbeddingShards::ByVocabulary);
        }
        let by_width = rows == config.vocab && columns.checked_mul(ranks) == Some(config.width);
        by_width.then_some(EmbeddingShards::ByWidth)
    }
}

/// The axis along which Meta's model-parallel shards of `part` are joined; `None` if every rank
/// holds the whole. Source: llama-models 0.3.0, checkpoint.py.
pub const fn shard_axis(part: Part, embedding: EmbeddingShards) -> Option<usize> {
    match part {
        Part::TokEmbd => match embedding {
            EmbeddingShards::ByVocabulary => Some(0),
            EmbeddingShards::ByWidth => Some(1),
        },
        Part::Output | Part::Q(_) | Part::K(_) | Part::V(_) | Part::Gate(_) | Part::Up(_) => {
            Some(0)
        }
        Part::O(_) | Part::Down(_) => Some(1),
        Part::OutputNorm | Part::AttnNorm(_) | Part::FfnNorm(_) => None,
        Part::Score | Part::RopeFreqs => None,
    }
}

/// Of how many neighbouring ranks one is to be read: with more ranks than key/value heads (405B
/// in 16 files) each head's rows are stored more than once.
pub fn rank_step(part: Part, config: &Config, ranks: usize) -> usize {
    let repeated = matches!(part, Part::K(_) | Part::V(_)) && ranks > config.kv_heads;
    if repeated { ranks / config.kv_heads } else { 1 }
}

/// Which way to reorder the rows of a query or key matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From pairs (2i, 2i+1), as Meta and GGUF have them, to pairs (i, i + K/2).
    MetaToHf,
    /// Back.
    HfToMeta,
}

/// Reorders whole rows of a query or key matrix between the two layouts of RoPE.
///
/// Within each head, Hugging Face's row b K/2 + a is Meta's row 2a + b, for a in 0..K/2 and b in
/// {0, 1}. Rows move as bytes, so any block format will do. `rows` is [heads K] rows of
/// `row_bytes`; so is the result.
/// Panics if `rows` is not that long or `head_dim` is odd.
/// Source: transformers 4.46, convert_llama_weights_to_hf.py.
///
/// ```
/// use herd_model::names::{Direction, permute_rows};
/// let meta = [0, 1, 2, 3, 4, 5]; // one head of width 6, rows of one byte
/// assert_eq!(permute_rows(&meta, 1, 6, 1, Direction::MetaToHf), [0, 2, 4, 1, 3, 5]);
/// ```
pub fn permute_rows(
    rows: &[u8],
    heads: usize,
    head_dim: usize,
    row_bytes: usize,
    direction: Direction,
) -> Vec<u8> {
    assert!(head_dim.is_multiple_of(2), "permute_rows: head_dim {head_dim} is odd");
    let bytes = heads * head_dim * row_bytes;
    assert_eq!(rows.len(), bytes, "permute_rows: rows are not heads x head_dim x row_bytes");
    let half = head_dim / 2;
    let mut out = Vec::with_capacity(bytes);
    for head in 0..heads {
        for row in 0..head_dim {
            let source = match direction {
                Direction::MetaToHf => 2 * (row % half) + row / half,
                Direction::HfToMeta => (row % 2) * half + row / 2,
            };
            let start = (head * head_dim + source) * row_bytes;
            out.extend_from_slice(&rows[start..start + row_bytes]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets::{CARDS, LLAMA2_7B, LLAMA3_1_405B, LLAMA3_8B};

    const STYLES: [Style; 3] = [Style::Meta, Style::Hf, Style::Gguf];

    #[test]
    fn names_parse_back_in_every_style() {
        for style in STYLES {
            for part in all_parts(&LLAMA3_1_405B) {
                let name = name(part, style).unwrap();
                assert_eq!(parse(&name, style), Ok(Named::Part(part)), "{name}");
            }
        }
        assert_eq!(parse("rope_freqs.weight", Style::Gguf), Ok(Named::Part(Part::RopeFreqs)));
        assert_eq!(name(Part::RopeFreqs, Style::Gguf).unwrap(), "rope_freqs.weight");
        assert_eq!(name(Part::RopeFreqs, Style::Hf), None);
    }

    #[test]
    fn shapes_sum_to_the_parameter_count() {
        for card in &CARDS {
            let sum: usize = all_parts(&card.config)
                .into_iter()
                .map(|part| part.shape(&card.config).iter().product::<usize>())
                .sum();
            assert_eq!(sum as u64, card.config.params(), "{}", card.name);
        }
    }

    #[test]
    fn tables_that_the_config_gives_are_derived() {
        for (name, style) in [
            ("rope.freqs", Style::Meta),
            ("layers.3.attention.inner_attention.rope.freqs", Style::Meta),
            ("model.layers.0.self_attn.rotary_emb.inv_freq", Style::Hf),
            ("model.rotary_emb.inv_freq", Style::Hf),
            ("blk.7.attn_rot_embd.weight", Style::Gguf),
        ] {
            assert_eq!(parse(name, style), Ok(Named::Derived), "{name}");
        }
    }

    #[test]
    fn unknown_names_get_the_nearest() {
        for (text, style, right) in [
            ("blk.3.attn_qq.weight", Style::Gguf, Some("blk.3.attn_q.weight")),
            ("blk.03.attn_q.weight", Style::Gguf, None),
            ("blk.+3.attn_q.weight", Style::Gguf, None),
            ("blk.99999999999999999999.attn_q.weight", Style::Gguf, None),
            ("token_emb.weight", Style::Gguf, Some("token_embd.weight")),
            (
                "model.layers.0.self_attn.q_proj.bias",
                Style::Hf,
                Some("model.layers.0.self_attn.q_proj.weight"),
            ),
            ("lm_head.weigth", Style::Hf, Some("lm_head.weight")),
            (
                "layers.1.feed_forward.w4.weight",
                Style::Meta,
                Some("layers.1.feed_forward.w1.weight"),
            ),
            ("vision_model.patch_embedding", Style::Hf, None),
            ("", Style::Meta, None),
        ] {
            match parse(text, style) {
                Err(ConfigError::Name { nearest, .. }) => {
                    assert_eq!(nearest.as_deref(), right, "{text}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
        let hostile = "blk.".repeat(1 << 18);
        assert!(parse(&hostile, Style::Gguf).unwrap_err().to_string().len() < 200);
    }

    #[test]
    fn permuting_there_and_back_changes_nothing() {
        let mut seed = 1u32;
        for (heads, head_dim, row_bytes) in [(1, 2, 1), (3, 64, 18), (8, 128, 5), (2, 6, 144)] {
            let rows: Vec<u8> = (0..heads * head_dim * row_bytes)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 24) as u8
                })
                .collect();
            for (there, back) in [
                (Direction::MetaToHf, Direction::HfToMeta),
                (Direction::HfToMeta, Direction::MetaToHf),
            ] {
                let moved = permute_rows(&rows, heads, head_dim, row_bytes, there);
                assert_eq!(permute_rows(&moved, heads, head_dim, row_bytes, back), rows);
                assert_eq!(moved == rows, head_dim == 2, "{heads} x {head_dim}");
            }
        }
    }

    #[test]
    fn hf_row_b_half_a_is_meta_row_2a_b() {
        let (heads, head_dim) = (4, 10);
        let meta: Vec<u8> = (0..40).collect();
        let hf = permute_rows(&meta, heads, head_dim, 1, Direction::MetaToHf);
        for n in 0..heads {
            for a in 0..head_dim / 2 {
                for b in 0..2 {
                    let at = n * head_dim + b * (head_dim / 2) + a;
                    assert_eq!(usize::from(hf[at]), n * head_dim + 2 * a + b);
                }
            }
        }
    }

    #[test]
    fn embedding_shards_are_told_by_their_shape() {
        let of = EmbeddingShards::of;
        let by_vocabulary = EmbeddingShards::ByVocabulary;
        assert_eq!(of(&[16_032, 4096], &LLAMA3_8B, 8), Some(by_vocabulary));
        assert_eq!(of(&[32_000, 2048], &LLAMA2_7B, 2), Some(EmbeddingShards::ByWidth));
        assert_eq!(of(&[32_000, 2047], &LLAMA2_7B, 2), None);
        assert_eq!(of(&[32_000], &LLAMA2_7B, 2), None);
        assert_eq!(shard_axis(Part::Down(0), by_vocabulary), Some(1));
        assert_eq!(shard_axis(Part::AttnNorm(0), by_vocabulary), None);
        assert_eq!(rank_step(Part::K(0), &LLAMA3_1_405B, 16), 2);
        assert_eq!(rank_step(Part::Q(0), &LLAMA3_1_405B, 16), 1);
    }
}
