//! Hugging Face's `config.json` and `generation_config.json`, read strictly and rewritten without
//! losing keys that Herd does not know.

use serde_json::{Map, Value, json};

use crate::gguf::scaling_of_divisors;
use crate::json::{count, count_of, flag, float, get, object, print, short, text};
use crate::{Config, ConfigError, GenerationDefaults, Head, RopeScaling, Yarn};

const FILE: &str = "config.json";
const GENERATION_FILE: &str = "generation_config.json";

/// A `config.json`: what Herd reads from it, and the whole of it for rewriting.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigFile {
    /// The shape.
    pub config: Config,
    /// Special ids; sampling stands in the other file.
    pub generation: GenerationDefaults,
    /// Number format of the weights: `bfloat16`.
    pub dtype: Option<String>,
    /// The text as read.
    original: String,
}

impl ConfigFile {
    /// A file for a model that did not come from Hugging Face.
    pub fn new(config: Config, generation: GenerationDefaults, dtype: Option<String>) -> Self {
        ConfigFile { config, generation, dtype, original: "{}".into() }
    }

    /// Reads `config.json`, in the spellings of transformers 4 and 5.
    ///
    /// Keys that Herd does not know are kept; keys that would change the mathematics are errors
    /// ([`ConfigError::Unsupported`]), as are missing sizes and contradictions between spellings.
    /// Where a file is silent, transformers' own defaults hold.
    pub fn read(text: &str) -> Result<ConfigFile, ConfigError> {
        let map = object(FILE, text)?;
        let (config, generation, dtype) = read_map(&map)?;
        Ok(ConfigFile { config, generation, dtype, original: text.into() })
    }

    /// Keys of the file that Herd does not read; those that ask for nothing (null, the only value
    /// that Herd takes) are left out.
    pub fn other_keys(&self) -> Vec<String> {
        other_keys(FILE, &self.original, &READ)
    }

    /// Writes `config.json`. If nothing was changed since reading, every byte stays as it was.
    ///
    /// Errors: GGUF divisors that are no known scaling have no key in this format.
    pub fn write(&self) -> Result<String, ConfigError> {
        self.config.validate()?;
        let before = ConfigFile::read(&self.original).ok();
        if before.as_ref() == Some(self) {
            return Ok(self.original.clone());
        }
        let mut map = object(FILE, &self.original)?;
        let c = &self.config;
        match c.head {
            Head::Language => {
                let named = get(&map, "architectures").is_some();
                if !named || read_head(&map) != Ok(Head::Language) {
                    map.insert("architectures".into(), json!([LANGUAGE[0]]));
                }
            }
            Head::Score => {
                map.insert("architectures".into(), json!([SCORE]));
                map.insert("id2label".into(), json!({"0": "LABEL_0"}));
                map.insert("label2id".into(), json!({"LABEL_0": 0}));
            }
        }
        map.insert("model_type".into(), "llama".into());
        map.insert("hidden_size".into(), c.width.into());
        map.insert("intermediate_size".into(), c.ffn_width.into());
        map.insert("num_hidden_layers".into(), c.layers.into());
        map.insert("num_attention_heads".into(), c.heads.into());
        map.insert("num_key_value_heads".into(), c.kv_heads.into());
        map.insert("head_dim".into(), c.head_dim.into());
        map.insert("vocab_size".into(), c.vocab.into());
        map.insert("rms_norm_eps".into(), short(c.norm_eps));
        // An unchanged scaling keeps its spelling and the keys that Herd does not know.
        let rope = |c: &Config| (c.rope_theta, c.rope_scaling.clone(), c.context);
        if before.is_none_or(|before| rope(&before.config) != rope(c)) {
            write_rope(&mut map, c)?;
        }
        map.insert("tie_word_embeddings".into(), c.tied.into());
        map.insert("hidden_act".into(), "silu".into());
        map.entry("attention_bias").or_insert(false.into());
        map.entry("mlp_bias").or_insert(false.into());
        write_ids(&mut map, &self.generation);
        let (dtype, other) = match map.contains_key("dtype") {
            true => ("dtype", "torch_dtype"),
            false => ("torch_dtype", "dtype"),
        };
        put(&mut map, dtype, self.dtype.as_deref().map(Value::from));
        map.shift_remove(other);
        Ok(print(&map))
    }
}

/// A `generation_config.json`: what Herd reads from it, and the whole of it for rewriting.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationFile {
    /// Ids and sampling.
    pub defaults: GenerationDefaults,
    /// The text as read.
    original: String,
}

impl GenerationFile {
    /// A file for a model that did not come from Hugging Face.
    pub fn new(defaults: GenerationDefaults) -> Self {
        GenerationFile { defaults, original: "{}".into() }
    }

    /// Reads `generation_config.json`; keys that Herd does not know are kept.
    ///
    /// Errors: wrong types and values out of bounds, by key.
    pub fn read(text: &str) -> Result<GenerationFile, ConfigError> {
        let map = object(GENERATION_FILE, text)?;
        let bounded = |key: &'static str, rule: &'static str, holds: fn(f64) -> bool| {
            let value = float(&map, key)?;
            match value {
                Some(x) if !holds(x) => Err(ConfigError::value(key, x, rule)),
                _ => Ok(value.map(|x| x as f32)),
            }
        };
        let defaults = GenerationDefaults {
            do_sample: flag(&map, "do_sample")?,
            temperature: bounded("temperature", "from 0 to 1e4", |x| (0.0..=1e4).contains(&x))?,
            top_p: bounded("top_p", "from 0 to 1", |x| (0.0..=1.0).contains(&x))?,
            top_k: count(&map, "top_k")?.map(|k| u32::try_from(k).unwrap_or(u32::MAX)),
            min_p: bounded("min_p", "from 0 to 1", |x| (0.0..=1.0).contains(&x))?,
            repetition_penalty: bounded("repetition_penalty", "above 0, at most 1e4", |x| {
                x > 0.0 && x <= 1e4
            })?,
            ..read_ids(&map)?
        };
        Ok(GenerationFile { defaults, original: text.into() })
    }

    /// Keys of the file that Herd does not read.
    pub fn other_keys(&self) -> Vec<String> {
        other_keys(GENERATION_FILE, &self.original, &READ_GENERATION)
    }

    /// Writes `generation_config.json`. If nothing was changed since reading, every byte stays.
    pub fn write(&self) -> String {
        if GenerationFile::read(&self.original).is_ok_and(|unchanged| unchanged == *self) {
            return self.original.clone();
        }
        let d = &self.defaults;
        let mut map =
            object(GENERATION_FILE, &self.original).expect("`read` and `new` keep an object");
        let values = [
            ("do_sample", d.do_sample.map(Value::from)),
            ("temperature", d.temperature.map(short)),
            ("top_p", d.top_p.map(short)),
            ("top_k", d.top_k.map(Value::from)),
            ("min_p", d.min_p.map(short)),
            ("repetition_penalty", d.repetition_penalty.map(short)),
        ];
        for (key, value) in values {
            put(&mut map, key, value);
        }
        write_ids(&mut map, d);
        print(&map)
    }
}

/// Keys that [`ConfigFile::read`] takes in, besides [`MATHEMATICS`].
const READ: [&str; 26] = [
    "architectures",
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "rms_norm_eps",
    "max_position_embeddings",
    "original_max_position_embeddings",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "dtype",
    "torch_dtype",
    "sliding_window",
    "use_sliding_window",
    "num_labels",
    "id2label",
    "label2id",
];

/// Keys that [`GenerationFile::read`] takes in.
const READ_GENERATION: [&str; 9] = [
    "do_sample",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
];

fn other_keys(file: &'static str, text: &str, read: &[&str]) -> Vec<String> {
    let map = object(file, text).expect("the text was read as an object");
    let mathematics = |key: &str| MATHEMATICS.iter().any(|(known, ..)| *known == key);
    map.into_iter()
        .filter(|(key, value)| !value.is_null() && !read.contains(&key.as_str()))
        .map(|(key, _)| key)
        .filter(|key| !mathematics(key))
        .collect()
}

type Read = (Config, GenerationDefaults, Option<String>);

fn read_map(map: &Map<String, Value>) -> Result<Read, ConfigError> {
    refuse_other_mathematics(map)?;
    let required = |key| count(map, key)?.ok_or_else(|| ConfigError::missing(FILE, key));
    let width = required("hidden_size")?;
    let heads = required("num_attention_heads")?;
    let head_dim = match count(map, "head_dim")? {
        Some(head_dim) => head_dim,
        None if heads > 0 && width.is_multiple_of(heads) => width / heads,
        None => {
            let rule = format!("a multiple of num_attention_heads = {heads}");
            return Err(ConfigError::value("hidden_size", width, rule));
        }
    };
    let context = count(map, "max_position_embeddings")?.unwrap_or(2048);
    let (rope_theta, rope_scaling) = read_rope(map, context)?;
    let config = Config {
        layers: required("num_hidden_layers")?,
        width,
        heads,
        kv_heads: count(map, "num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        ffn_width: required("intermediate_size")?,
        vocab: required("vocab_size")?,
        norm_eps: float(map, "rms_norm_eps")?.unwrap_or(1e-6) as f32,
        rope_theta,
        rope_scaling,
        context,
        tied: flag(map, "tie_word_embeddings")?.unwrap_or(false),
        head: read_head(map)?,
    };
    config.validate()?;
    let dtype = text(map, "dtype")?.or(text(map, "torch_dtype")?).map(String::from);
    Ok((config, read_ids(map)?, dtype))
}

type Harmless = fn(&Value) -> bool;

/// Keys by which a file asks for mathematics other than Llama's, the values that do not, and what
/// to do. Null asks for nothing.
const MATHEMATICS: [(&str, Harmless, &str); 25] = [
    ("hidden_act", |v| v == "silu" || v == "swish", "Llama's feed-forward network uses SiLU"),
    ("attention_bias", is_false, "published Llama models have no biases"),
    ("mlp_bias", is_false, "published Llama models have no biases"),
    ("qkv_bias", is_false, "published Llama models have no biases"),
    ("bias", is_false, "published Llama models have no biases"),
    ("quantization_config", |_| false, "convert the unquantised checkpoint, then quantize it"),
    ("partial_rotary_factor", is_one, "Llama turns whole heads"),
    ("rope_interleaved", is_false, "Hugging Face's Llama turns pairs (i, i + K/2)"),
    ("layer_types", is_full_attention, "every layer of Llama attends to all earlier tokens"),
    ("no_rope_layers", |_| false, "every layer of Llama uses RoPE"),
    ("no_rope_layer_interval", is_zero, "every layer of Llama uses RoPE"),
    ("use_qk_norm", is_false, "Llama does not normalise queries and keys"),
    ("qk_norm", is_false, "Llama does not normalise queries and keys"),
    ("num_experts", is_at_most_one, "a mixture of experts is not a Llama"),
    ("num_local_experts", is_at_most_one, "a mixture of experts is not a Llama"),
    ("n_routed_experts", is_at_most_one, "a mixture of experts is not a Llama"),
    ("use_parallel_residual", is_false, "Llama's blocks are sequential"),
    ("attn_logit_softcapping", |_| false, "Llama does not cap logits"),
    ("final_logit_softcapping", |_| false, "Llama does not cap logits"),
    ("logit_scale", is_one, "Llama does not scale logits"),
    ("logits_scaling", is_one, "Llama does not scale logits"),
    ("embedding_multiplier", is_one, "Llama does not scale embeddings"),
    ("residual_multiplier", is_one, "Llama does not scale residuals"),
    ("attention_multiplier", |_| false, "Llama divides by the root of the head's width"),
    ("is_causal", |v| *v == true, "Llama is causal"),
];

fn is_false(v: &Value) -> bool {
    *v == false
}

fn is_one(v: &Value) -> bool {
    v.as_f64() == Some(1.0)
}

fn is_zero(v: &Value) -> bool {
    v.as_f64() == Some(0.0)
}

fn is_at_most_one(v: &Value) -> bool {
    v.as_u64().is_some_and(|n| n <= 1)
}

fn is_full_attention(v: &Value) -> bool {
    v.as_array().is_some_and(|types| types.iter().all(|t| t == "full_attention"))
}

fn refuse_other_mathematics(map: &Map<String, Value>) -> Result<(), ConfigError> {
    let model = text(map, "model_type")?.ok_or_else(|| ConfigError::missing(FILE, "model_type"))?;
    if model != "llama" {
        let hint = "Herd runs models whose model_type is llama";
        return Err(ConfigError::unsupported("model_type", model, hint));
    }
    for (key, harmless, hint) in MATHEMATICS {
        if let Some(value) = get(map, key).filter(|value| !harmless(value)) {
            return Err(ConfigError::unsupported(key, value, hint));
        }
    }
    let unused = get(map, "use_sliding_window").is_some_and(is_false);
    if let Some(value) = get(map, "sliding_window").filter(|_| !unused) {
        let hint = "every layer of Llama attends to all earlier tokens";
        return Err(ConfigError::unsupported("sliding_window", value, hint));
    }
    Ok(())
}

/// Names of the class of a language model, and of a model with labels.
const LANGUAGE: [&str; 2] = ["LlamaForCausalLM", "LLaMAForCausalLM"];
pub(crate) const SCORE: &str = "LlamaForSequenceClassification";

/// The head by the name of the class; a language model's where there is none.
fn read_head(map: &Map<String, Value>) -> Result<Head, ConfigError> {
    let Some(value) = get(map, "architectures") else { return Ok(Head::Language) };
    let names = value.as_array().map(Vec::as_slice).unwrap_or_default();
    if names.iter().any(|name| LANGUAGE.iter().any(|language| name == language)) {
        return Ok(Head::Language);
    }
    if !names.iter().any(|name| name == SCORE) {
        let hint = "Herd needs the head of a language model, LlamaForCausalLM, or of a reward model, LlamaForSequenceClassification";
        return Err(ConfigError::unsupported("architectures", value, hint));
    }
    // transformers writes the labels rather than their number, and where a file is silent has two.
    let labels = match get(map, "id2label") {
        Some(labels) => labels.as_object().map(Map::len),
        None => Some(count(map, "num_labels")?.unwrap_or(2)),
    };
    match labels {
        Some(1) => Ok(Head::Score),
        Some(_) | None => {
            let value = get(map, "id2label").or(get(map, "num_labels")).unwrap_or(&Value::Null);
            let hint = "a reward model has one label: its score";
            Err(ConfigError::unsupported("id2label", value, hint))
        }
    }
}

/// The base and the scaling from `rope_theta`, `rope_scaling` and transformers 5's
/// `rope_parameters`; where several speak they must agree.
fn read_rope(map: &Map<String, Value>, context: usize) -> Result<(f64, RopeScaling), ConfigError> {
    let mut theta = float(map, "rope_theta")?;
    let mut scaling = None;
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(value) = get(map, key) else { continue };
        let inner = value.as_object().ok_or_else(|| ConfigError::kind(key, "an object", value))?;
        agree("rope_theta", &mut theta, float(inner, "rope_theta")?)?;
        if inner.iter().any(|(name, _)| name != "rope_theta") {
            agree(key, &mut scaling, Some(read_scaling(map, inner, context)?))?;
        }
    }
    Ok((theta.unwrap_or(10_000.0), scaling.unwrap_or(RopeScaling::None)))
}

fn agree<T: PartialEq + std::fmt::Debug>(
    key: &str,
    first: &mut Option<T>,
    second: Option<T>,
) -> Result<(), ConfigError> {
    match (&first, &second) {
        (Some(a), Some(b)) if a != b => {
            Err(ConfigError::value(key, format!("{b:?}"), format!("the same in all places: {a:?}")))
        }
        (None, Some(_)) => {
            *first = second;
            Ok(())
        }
        (Some(_), _) | (None, None) => Ok(()),
    }
}

fn read_scaling(
    map: &Map<String, Value>,
    inner: &Map<String, Value>,
    context: usize,
) -> Result<RopeScaling, ConfigError> {
    let mut kind = text(inner, "rope_type")?;
    agree("rope_scaling.type", &mut kind, text(inner, "type")?)?;
    if let Some(value) = get(inner, "partial_rotary_factor").filter(|v| !is_one(v)) {
        let hint = "Llama turns whole heads";
        return Err(ConfigError::unsupported("partial_rotary_factor", value, hint));
    }
    let missing = |key: &str| ConfigError::missing(FILE, &format!("rope_scaling.{key}"));
    let required = |key| float(inner, key)?.ok_or_else(|| missing(key));
    const ORIGINAL: &str = "original_max_position_embeddings";
    let original_context = match count(map, ORIGINAL)? {
        Some(outer) => Some(outer),
        None => count(inner, ORIGINAL)?,
    };
    Ok(match kind.ok_or_else(|| missing("rope_type"))? {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: required("factor")? },
        // transformers measures the growth from max_position_embeddings, whatever else is there.
        "dynamic" => {
            RopeScaling::Dynamic { factor: required("factor")?, original_context: context }
        }
        "llama3" => RopeScaling::Llama3 {
            factor: required("factor")?,
            low_freq_factor: required("low_freq_factor")?,
            high_freq_factor: required("high_freq_factor")?,
            original_context: original_context.ok_or_else(|| missing(ORIGINAL))?,
        },
        "yarn" => {
            RopeScaling::Yarn(read_yarn(inner, original_context.unwrap_or(context), context)?)
        }
        other => {
            let hint = "known types: default, linear, dynamic, llama3, yarn";
            return Err(ConfigError::unsupported("rope_scaling.rope_type", other, hint));
        }
    })
}

fn read_yarn(
    inner: &Map<String, Value>,
    original_context: usize,
    context: usize,
) -> Result<Yarn, ConfigError> {
    let given = |key| Ok(float(inner, key)?.filter(|x| *x != 0.0));
    let stretch = context as f64 / original_context as f64;
    let paper = Yarn::new(float(inner, "factor")?.unwrap_or(stretch), original_context);
    Ok(Yarn {
        stated_attention_factor: float(inner, "attention_factor")?,
        beta_fast: given("beta_fast")?.unwrap_or(paper.beta_fast),
        beta_slow: given("beta_slow")?.unwrap_or(paper.beta_slow),
        mscale: float(inner, "mscale")?,
        mscale_all_dim: float(inner, "mscale_all_dim")?,
        truncate: flag(inner, "truncate")?.unwrap_or(paper.truncate),
        ..paper
    })
}

/// transformers reads the trained length of a dynamic model here, not the length it may reach.
fn stated_context(config: &Config) -> usize {
    match config.rope_scaling {
        RopeScaling::Dynamic { original_context, .. } => original_context,
        RopeScaling::None
        | RopeScaling::Linear { .. }
        | RopeScaling::Llama3 { .. }
        | RopeScaling::Yarn(_)
        | RopeScaling::Divisors(_) => config.context,
    }
}

fn write_rope(map: &mut Map<String, Value>, config: &Config) -> Result<(), ConfigError> {
    for other_spelling in ["rope_parameters", "original_max_position_embeddings"] {
        map.shift_remove(other_spelling);
    }
    map.insert("max_position_embeddings".into(), stated_context(config).into());
    map.insert("rope_theta".into(), config.rope_theta.into());
    map.insert("rope_scaling".into(), write_scaling(config)?);
    Ok(())
}

fn write_scaling(config: &Config) -> Result<Value, ConfigError> {
    Ok(match &config.rope_scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Dynamic { factor, original_context: _ } => {
            json!({"rope_type": "dynamic", "factor": factor})
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            json!({
                "factor": factor,
                "high_freq_factor": high_freq_factor,
                "low_freq_factor": low_freq_factor,
                "original_max_position_embeddings": original_context,
                "rope_type": "llama3",
            })
        }
        RopeScaling::Yarn(yarn) => write_yarn(yarn),
        RopeScaling::Divisors(divisors) => {
            match scaling_of_divisors(divisors, config.rope_theta, config.head_dim) {
                RopeScaling::Divisors(_) => {
                    let hint = "only GGUF holds free divisors of the RoPE frequencies";
                    let got = format!("{divisors:?}");
                    return Err(ConfigError::unsupported("rope_freqs in config.json", got, hint));
                }
                known => write_scaling(&Config { rope_scaling: known, ..config.clone() })?,
            }
        }
    })
}

fn write_yarn(yarn: &Yarn) -> Value {
    let mut map = Map::new();
    map.insert("rope_type".into(), "yarn".into());
    map.insert("factor".into(), yarn.factor.into());
    map.insert("original_max_position_embeddings".into(), yarn.original_context.into());
    map.insert("beta_fast".into(), yarn.beta_fast.into());
    map.insert("beta_slow".into(), yarn.beta_slow.into());
    put(&mut map, "attention_factor", yarn.stated_attention_factor.map(Value::from));
    put(&mut map, "mscale", yarn.mscale.map(Value::from));
    put(&mut map, "mscale_all_dim", yarn.mscale_all_dim.map(Value::from));
    if !yarn.truncate {
        map.insert("truncate".into(), false.into());
    }
    Value::Object(map)
}

/// The special ids; old files write -1 for none.
fn read_ids(map: &Map<String, Value>) -> Result<GenerationDefaults, ConfigError> {
    let one = |key| match get(map, key) {
        None => Ok(None),
        Some(value) if value.as_i64() == Some(-1) => Ok(None),
        Some(value) => id_of(key, value).map(Some),
    };
    let eos_token_ids = match get(map, "eos_token_id") {
        Some(Value::Array(ids)) => {
            ids.iter().map(|id| id_of("eos_token_id", id)).collect::<Result<_, _>>()?
        }
        Some(_) | None => one("eos_token_id")?.into_iter().collect(),
    };
    Ok(GenerationDefaults {
        bos_token_id: one("bos_token_id")?,
        eos_token_ids,
        pad_token_id: one("pad_token_id")?,
        ..Default::default()
    })
}

fn id_of(key: &str, value: &Value) -> Result<u32, ConfigError> {
    let id = count_of(key, value)?;
    u32::try_from(id).map_err(|_| ConfigError::kind(key, "an id below 2^32", value))
}

fn write_ids(map: &mut Map<String, Value>, ids: &GenerationDefaults) {
    put(map, "bos_token_id", ids.bos_token_id.map(Value::from));
    let eos = match ids.eos_token_ids.as_slice() {
        [] => None,
        [one] => Some(Value::from(*one)),
        several => Some(Value::from(several)),
    };
    put(map, "eos_token_id", eos);
    put(map, "pad_token_id", ids.pad_token_id.map(Value::from));
}

/// Sets `key`, or removes it for `None`.
fn put(map: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    match value {
        Some(value) => map.insert(key.into(), value),
        None => map.shift_remove(key),
    };
}
