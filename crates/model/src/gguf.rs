//! GGUF's `llama.*` metadata as a [`Config`], and back.
//!
//! The GGUF reader lies on a lower storey; this page sees only keys and values.

use crate::json::shortest;
use crate::{Config, ConfigError, GenerationDefaults, Head, RopeScaling, Yarn};

const FILE: &str = "GGUF metadata";

/// A metadata value, free of GGUF's widths. What [`write()`] returns is stored as u32, f32, bool
/// and string: those are the widths that other readers expect of these keys.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    List(Vec<Value>),
}

/// What the tensors of the file tell, and the metadata may not.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensors {
    /// Rows of `token_embd.weight`; old files have no `llama.vocab_size`.
    pub vocab: Option<usize>,
    /// There is an `output.weight`; without it the embedding is the head.
    pub has_output: bool,
    /// Contents of `rope_freqs.weight`.
    pub rope_freqs: Option<Vec<f32>>,
}

/// Reads the configuration through `get`, which returns the value under a key.
///
/// Errors: missing keys by name, wrong types, sizes out of bounds, and keys that ask for
/// mathematics other than Llama's. Shapes that vary by layer are refused.
pub fn read(get: impl Fn(&str) -> Option<Value>, tensors: &Tensors) -> Result<Config, ConfigError> {
    let meta = Metadata { get: &get };
    meta.refuse_other_mathematics()?;
    let width = meta.required_count("llama.embedding_length")?;
    let heads = meta.required_count("llama.attention.head_count")?;
    let head_dim = match meta.count("llama.attention.key_length")? {
        Some(head_dim) => head_dim,
        None if heads > 0 && width.is_multiple_of(heads) => width / heads,
        None => {
            let rule = format!("a multiple of llama.attention.head_count = {heads}");
            return Err(ConfigError::value("llama.embedding_length", width, rule));
        }
    };
    for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
        if let Some(other) = meta.count(key)?.filter(|other| *other != head_dim) {
            return Err(ConfigError::unsupported(key, other, "Llama has one width for a head"));
        }
    }
    let context = meta.required_count("llama.context_length")?;
    let rope_theta = meta.float("llama.rope.freq_base")?.unwrap_or(10_000.0);
    let config = Config {
        layers: meta.required_count("llama.block_count")?,
        width,
        heads,
        kv_heads: meta.count("llama.attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        ffn_width: meta.required_count("llama.feed_forward_length")?,
        vocab: meta.vocab(tensors.vocab)?,
        norm_eps: meta
            .float("llama.attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| ConfigError::missing(FILE, "llama.attention.layer_norm_rms_epsilon"))?
            as f32,
        rope_theta,
        rope_scaling: meta.scaling(context, tensors, rope_theta, head_dim)?,
        context,
        tied: !tensors.has_output,
        head: Head::Language,
    };
    config.validate()?;
    Ok(config)
}

/// The ids and sampling that the metadata recommends. End of turn and of message end an answer
/// too.
///
/// Errors: wrong types, by key.
pub fn read_generation(
    get: impl Fn(&str) -> Option<Value>,
) -> Result<GenerationDefaults, ConfigError> {
    let meta = Metadata { get: &get };
    let mut eos_token_ids = Vec::new();
    for name in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        let id = meta.id(&format!("tokenizer.ggml.{name}"))?;
        eos_token_ids.extend(id.filter(|id| !eos_token_ids.contains(id)));
    }
    let float = |key| Ok::<_, ConfigError>(meta.float(key)?.map(|x| x as f32));
    let temperature = float("general.sampling.temp")?;
    Ok(GenerationDefaults {
        do_sample: temperature.map(|t| t > 0.0),
        temperature,
        top_p: float("general.sampling.top_p")?,
        top_k: meta.id("general.sampling.top_k")?,
        min_p: float("general.sampling.min_p")?,
        repetition_penalty: float("general.sampling.penalty_repeat")?,
        bos_token_id: meta.id("tokenizer.ggml.bos_token_id")?,
        eos_token_ids,
        pad_token_id: meta.id("tokenizer.ggml.padding_token_id")?,
    })
}

/// What a GGUF file says of a configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// Keys and values, in the order in which they are written.
    pub metadata: Vec<(&'static str, Value)>,
    /// Contents of `rope_freqs.weight`, f32 [K/2], if the file needs it.
    pub rope_freqs: Option<Vec<f32>>,
}

/// The metadata and `rope_freqs.weight` for `config`; `general.architecture` among them.
///
/// Errors: dynamic scaling and YaRN with a ramp that is not rounded have no keys.
pub fn write(config: &Config) -> Result<Written, ConfigError> {
    config.validate()?;
    let count = |n: usize| Value::Unsigned(n as u64);
    let mut metadata = vec![
        ("general.architecture", Value::Text("llama".into())),
        ("llama.block_count", count(config.layers)),
        ("llama.context_length", count(config.context)),
        ("llama.embedding_length", count(config.width)),
        ("llama.feed_forward_length", count(config.ffn_width)),
        ("llama.attention.head_count", count(config.heads)),
        ("llama.attention.head_count_kv", count(config.kv_heads)),
        ("llama.rope.freq_base", Value::Float(config.rope_theta)),
        ("llama.attention.layer_norm_rms_epsilon", Value::Float(f64::from(config.norm_eps))),
        ("llama.attention.key_length", count(config.head_dim)),
        ("llama.attention.value_length", count(config.head_dim)),
        ("llama.vocab_size", count(config.vocab)),
        ("llama.rope.dimension_count", count(config.head_dim)),
    ];
    let mut rope_freqs = None;
    match &config.rope_scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => {
            metadata.push(("llama.rope.scaling.type", Value::Text("linear".into())));
            metadata.push(("llama.rope.scaling.factor", Value::Float(*factor)));
        }
        RopeScaling::Llama3 { .. } | RopeScaling::Divisors(_) => {
            rope_freqs = config.rope_scaling.divisors(config.rope_theta, config.head_dim);
        }
        RopeScaling::Yarn(yarn) => metadata.extend(yarn_metadata(yarn)?),
        RopeScaling::Dynamic { .. } => {
            let got = format!("{:?}", config.rope_scaling);
            let hint = "GGUF has no dynamic scaling; keep the Hugging Face folder";
            return Err(ConfigError::unsupported("RoPE scaling in GGUF", got, hint));
        }
    }
    Ok(Written { metadata, rope_freqs })
}

/// YaRN's keys. `attn_factor` multiplies the paper's attention factor m(1), it does not replace it.
fn yarn_metadata(yarn: &Yarn) -> Result<Vec<(&'static str, Value)>, ConfigError> {
    if !yarn.truncate {
        let hint = "GGUF readers round YaRN's ramp; keep the Hugging Face folder";
        return Err(ConfigError::unsupported("YaRN truncate in GGUF", false, hint));
    }
    let mut metadata = vec![
        ("llama.rope.scaling.type", Value::Text("yarn".into())),
        ("llama.rope.scaling.factor", Value::Float(yarn.factor)),
        (
            "llama.rope.scaling.original_context_length",
            Value::Unsigned(yarn.original_context as u64),
        ),
    ];
    let paper = Yarn::new(yarn.factor, yarn.original_context);
    let optional = [
        ("llama.rope.scaling.attn_factor", yarn.attention_factor() / paper.attention_factor(), 1.0),
        ("llama.rope.scaling.yarn_beta_fast", yarn.beta_fast, paper.beta_fast),
        ("llama.rope.scaling.yarn_beta_slow", yarn.beta_slow, paper.beta_slow),
    ];
    for (key, value, default) in optional {
        if value != default {
            metadata.push((key, Value::Float(value)));
        }
    }
    Ok(metadata)
}

/// The scaling that `divisors` stand for: none if all are 1, linear if all are equal, Llama 3.1's
/// if they follow its formula with the published constants, else the divisors themselves.
///
/// The formula holds if every divisor is within 1e-5 of it: frequencies taken in f32, as writers do,
/// move the published divisors by up to 2.4e-7 (numpy against f64), a change of any constant moves
/// them by far more. Recomputed frequencies then differ from the file's by rounding only.
pub fn scaling_of_divisors(divisors: &[f32], rope_theta: f64, head_dim: usize) -> RopeScaling {
    let free = || RopeScaling::Divisors(divisors.to_vec());
    let Some(&last) = divisors.last() else { return free() };
    if divisors.iter().all(|d| *d == last) {
        return match last {
            1.0 => RopeScaling::None,
            factor if factor >= 1.0 => RopeScaling::Linear { factor: f64::from(factor) },
            _ => free(),
        };
    }
    // The published factors first: rounding may have moved the last divisor, and where even the
    // slowest frequency lies on the ramp, the last divisor is not the factor.
    for factor in [8.0, 32.0, f64::from(last)] {
        let guess = RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192,
        };
        let formula = guess.divisors(rope_theta, head_dim).unwrap_or_default();
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * b.abs();
        if formula.len() == divisors.len() && divisors.iter().zip(&formula).all(near) {
            return guess;
        }
    }
    free()
}

/// Typed reads through the caller's `get`.
struct Metadata<'a> {
    get: &'a dyn Fn(&str) -> Option<Value>,
}

impl Metadata<'_> {
    fn required_count(&self, key: &str) -> Result<usize, ConfigError> {
        self.count(key)?.ok_or_else(|| ConfigError::missing(FILE, key))
    }

    /// A count, or a list of one count for each layer if all are equal.
    fn count(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        let Some(value) = (self.get)(key) else { return Ok(None) };
        let Value::List(layers) = &value else { return count_of(key, &value).map(Some) };
        let Some(first) = layers.first() else {
            return Err(ConfigError::kind(key, "a count", "an empty list"));
        };
        if let Some(other) = layers.iter().find(|other| *other != first) {
            let got = format!("{} in one layer and {} in another", show(first), show(other));
            return Err(ConfigError::unsupported(key, got, "every layer of Llama has one shape"));
        }
        count_of(key, first).map(Some)
    }

    fn id(&self, key: &str) -> Result<Option<u32>, ConfigError> {
        let Some(count) = self.count(key)? else { return Ok(None) };
        u32::try_from(count).map(Some).map_err(|_| ConfigError::kind(key, "below 2^32", count))
    }

    fn float(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        match (self.get)(key) {
            None => Ok(None),
            Some(Value::Float(x)) => Ok(Some(x)),
            Some(Value::Unsigned(n)) => Ok(Some(n as f64)),
            Some(Value::Signed(n)) => Ok(Some(n as f64)),
            Some(other @ (Value::Bool(_) | Value::Text(_) | Value::List(_))) => {
                Err(ConfigError::kind(key, "a number", show(&other)))
            }
        }
    }

    fn text(&self, key: &str) -> Result<Option<String>, ConfigError> {
        match (self.get)(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => Err(ConfigError::kind(key, "a text", show(&other))),
        }
    }

    fn vocab(&self, rows: Option<usize>) -> Result<usize, ConfigError> {
        let stated = self.count("llama.vocab_size")?;
        match (stated, rows) {
            (Some(stated), Some(rows)) if stated != rows => {
                let rule = format!("the rows of token_embd.weight, {rows}");
                Err(ConfigError::value("llama.vocab_size", stated, rule))
            }
            (stated, rows) => {
                stated.or(rows).ok_or_else(|| ConfigError::missing(FILE, "llama.vocab_size"))
            }
        }
    }

    fn refuse_other_mathematics(&self) -> Result<(), ConfigError> {
        let key = "general.architecture";
        let architecture = self.text(key)?.ok_or_else(|| ConfigError::missing(FILE, key))?;
        if architecture != "llama" {
            let hint = "Herd runs files whose architecture is llama";
            return Err(ConfigError::unsupported(key, architecture, hint));
        }
        let (experts, window, scale) = (
            "a mixture of experts is not a Llama",
            "every layer of Llama attends to all earlier tokens",
            "Llama does not scale logits, embeddings or residuals",
        );
        // The value that asks for nothing stands beside each key.
        for (key, harmless, hint) in [
            ("llama.expert_count", 0.0, experts),
            ("llama.attention.sliding_window", 0.0, window),
            ("llama.logit_scale", 1.0, scale),
            ("llama.residual_scale", 1.0, scale),
            ("llama.embedding_scale", 1.0, scale),
            ("llama.attention.scale", 0.0, scale),
            ("llama.attn_logit_softcapping", 0.0, scale),
            ("llama.final_logit_softcapping", 0.0, scale),
            ("llama.rope.scaling.yarn_log_multiplier", 0.0, "not used by Llama"),
            ("llama.rope.scaling.alpha", 0.0, "not used by Llama"),
        ] {
            if let Some(x) = self.float(key)?.filter(|x| *x != harmless) {
                return Err(ConfigError::unsupported(key, x, hint));
            }
        }
        for (key, harmless, hint) in [
            ("llama.use_parallel_residual", false, "Llama's blocks are sequential"),
            ("llama.attention.causal", true, "Llama is causal"),
        ] {
            match (self.get)(key) {
                None => {}
                Some(Value::Bool(flag)) if flag == harmless => {}
                Some(other) => return Err(ConfigError::unsupported(key, show(&other), hint)),
            }
        }
        Ok(())
    }

    fn scaling(
        &self,
        context: usize,
        tensors: &Tensors,
        rope_theta: f64,
        head_dim: usize,
    ) -> Result<RopeScaling, ConfigError> {
        let stated = self.stated_scaling(context)?;
        let Some(divisors) = &tensors.rope_freqs else { return Ok(stated) };
        match (stated, scaling_of_divisors(divisors, rope_theta, head_dim)) {
            (RopeScaling::None, divided) => Ok(divided),
            (stated, RopeScaling::None) => Ok(stated),
            (stated, _) => Err(ConfigError::unsupported(
                "rope_freqs.weight",
                format!("present beside {stated:?}"),
                "Llama scales its frequencies once",
            )),
        }
    }

    fn stated_scaling(&self, context: usize) -> Result<RopeScaling, ConfigError> {
        // `scale_linear` is the key of files before August 2023.
        let factor = match self.float("llama.rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.float("llama.rope.scale_linear")?,
        };
        let factor = factor.filter(|factor| *factor != 0.0).unwrap_or(1.0);
        let kind = self.text("llama.rope.scaling.type")?;
        match kind.as_deref() {
            Some("none") => Ok(RopeScaling::None),
            // A file that states a factor and no type means linear.
            Some("linear") | None if factor == 1.0 => Ok(RopeScaling::None),
            Some("linear") | None => Ok(RopeScaling::Linear { factor }),
            Some("yarn") => self.yarn(factor, context).map(RopeScaling::Yarn),
            Some(other) => {
                let hint = "known types: none, linear, yarn";
                Err(ConfigError::unsupported("llama.rope.scaling.type", other, hint))
            }
        }
    }

    fn yarn(&self, factor: f64, context: usize) -> Result<Yarn, ConfigError> {
        let original = self.count("llama.rope.scaling.original_context_length")?;
        let paper = Yarn::new(factor, original.unwrap_or(context));
        for (key, paper) in [
            ("llama.rope.scaling.yarn_ext_factor", 1.0),
            ("llama.rope.scaling.yarn_attn_factor", 1.0),
        ] {
            if let Some(x) = self.float(key)?.filter(|x| *x != paper && *x != -1.0) {
                return Err(ConfigError::unsupported(key, x, "transformers has no such constant"));
            }
        }
        let relative = self.float("llama.rope.scaling.attn_factor")?.filter(|x| *x != 1.0);
        let beta = |key, default: f64| {
            Ok::<_, ConfigError>(self.float(key)?.filter(|x| *x != 0.0).unwrap_or(default))
        };
        Ok(Yarn {
            // The key is an f32: the product has no more digits than that.
            stated_attention_factor: relative
                .map(|x| shortest((x * paper.attention_factor()) as f32)),
            beta_fast: beta("llama.rope.scaling.yarn_beta_fast", paper.beta_fast)?,
            beta_slow: beta("llama.rope.scaling.yarn_beta_slow", paper.beta_slow)?,
            ..paper
        })
    }
}

fn count_of(key: &str, value: &Value) -> Result<usize, ConfigError> {
    let count = match value {
        Value::Unsigned(n) => usize::try_from(*n).ok(),
        Value::Signed(n) => usize::try_from(*n).ok(),
        Value::Float(_) | Value::Bool(_) | Value::Text(_) | Value::List(_) => None,
    };
    count.ok_or_else(|| ConfigError::kind(key, "a whole number of 0 or more", show(value)))
}

fn show(value: &Value) -> String {
    match value {
        Value::Unsigned(n) => n.to_string(),
        Value::Signed(n) => n.to_string(),
        Value::Float(x) => x.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Text(text) => format!("{:?}", crate::error::cut(text)),
        Value::List(values) => format!("a list of {}", values.len()),
    }
}
