//! Meta's `params.json`, the file beside `consolidated.NN.pth`.

use serde_json::{Map, Value};

use crate::presets::SCALED_8;
use crate::{Config, ConfigError, Head, RopeScaling, json};

const FILE: &str = "params.json";

/// What `params.json` leaves out and the caller knows from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Rows of `tok_embeddings.weight`, all shards together; files of LLaMA 1 and 2 say -1.
    pub vocab: Option<usize>,
    /// Positions the model is meant for; guessed from the generation if `None` (see [`read`]).
    pub context: Option<usize>,
    /// `output.weight` is the embedding again. Files of Llama 3.2 1B and 3B carry both, equal.
    pub tied: bool,
}

/// Meta's feed-forward width: two thirds of four widths, times `multiplier`, rounded up to
/// `multiple_of`. Each product is cut to a whole number as Python's `int` does.
///
/// `multiple_of` must not be 0. Source: llama-models 0.3.0, `FeedForward`.
///
/// ```
/// assert_eq!(herd_model::meta::ffn_width(4096, Some(1.3), 1024), 14_336);
/// ```
pub const fn ffn_width(width: usize, multiplier: Option<f64>, multiple_of: usize) -> usize {
    let hidden = width * 8 / 3;
    let hidden = match multiplier {
        Some(multiplier) => (multiplier * hidden as f64) as usize,
        None => hidden,
    };
    hidden.div_ceil(multiple_of) * multiple_of
}

/// Reads `params.json`.
///
/// The file has no context: 131,072 with `use_scaled_rope`, else 8192 at theta 500,000, 16,384 at
/// 1,000,000, and below that 2048 or 4096 as LLaMA 1 or Llama 2 (told apart by `norm_eps` 1e-6 and
/// the 65B's shape). It has no stretch either: Meta's code scales by 8 wherever `use_scaled_rope`
/// stands, also for 3.2 1B and 3B, where Hugging Face has 32.
///
/// Errors: missing keys, wrong types, sizes out of bounds, vision models and quantised files.
pub fn read(text: &str, known: Known) -> Result<Config, ConfigError> {
    let map = json::object(FILE, text)?;
    refuse_other_models(&map)?;
    let required = |key| json::count(&map, key)?.ok_or_else(|| ConfigError::missing(FILE, key));
    let width = bounded("dim", required("dim")?, 1 << 17)?;
    let heads = bounded("n_heads", required("n_heads")?, 1 << 10)?;
    if !width.is_multiple_of(heads) {
        return Err(ConfigError::value("dim", width, format!("a multiple of n_heads = {heads}")));
    }
    let layers = required("n_layers")?;
    let kv_heads = json::count(&map, "n_kv_heads")?.unwrap_or(heads);
    let norm_eps = json::float(&map, "norm_eps")?.unwrap_or(1e-5) as f32;
    let rope_theta = json::float(&map, "rope_theta")?.unwrap_or(10_000.0);
    let scaled = json::flag(&map, "use_scaled_rope")?.unwrap_or(false);
    let first_generation = norm_eps == 1e-6 || (layers == 80 && kv_heads == heads);
    let context = known.context.unwrap_or(match (scaled, rope_theta as u64) {
        (true, _) => 131_072,
        (false, 500_000) => 8192,
        (false, 1_000_000) => 16_384,
        (false, _) if first_generation => 2048,
        (false, _) => 4096,
    });
    let config = Config {
        layers,
        width,
        heads,
        kv_heads,
        head_dim: width / heads,
        ffn_width: read_ffn_width(&map, width)?,
        vocab: read_vocab(&map, known.vocab)?,
        norm_eps,
        rope_theta,
        rope_scaling: if scaled { SCALED_8 } else { RopeScaling::None },
        context,
        tied: known.tied,
        head: Head::Language,
    };
    config.validate()?;
    Ok(config)
}

/// Writes `params.json`. The context and the tie have no key: their readers know them.
///
/// Errors: a head width other than D / H, and RoPE scaling other than that of Llama 3.1 by 8:
/// Meta's code would compute something else.
pub fn write(config: &Config) -> Result<String, ConfigError> {
    config.validate()?;
    let hint = "write a Hugging Face folder or a GGUF file instead";
    if config.heads * config.head_dim != config.width {
        return Err(ConfigError::unsupported("head_dim in params.json", config.head_dim, hint));
    }
    let scaled = match &config.rope_scaling {
        RopeScaling::None => false,
        scaling if *scaling == SCALED_8 => true,
        other => {
            let other = format!("{other:?}");
            return Err(ConfigError::unsupported("RoPE scaling in params.json", other, hint));
        }
    };
    let (multiplier, multiple_of) = ffn_rule(config.width, config.ffn_width);
    let mut map = Map::new();
    map.insert("dim".into(), config.width.into());
    map.insert("n_layers".into(), config.layers.into());
    map.insert("n_heads".into(), config.heads.into());
    map.insert("n_kv_heads".into(), config.kv_heads.into());
    map.insert("vocab_size".into(), config.vocab.into());
    if let Some(multiplier) = multiplier {
        map.insert("ffn_dim_multiplier".into(), multiplier.into());
    }
    map.insert("multiple_of".into(), multiple_of.into());
    map.insert("norm_eps".into(), json::short(config.norm_eps));
    map.insert("rope_theta".into(), config.rope_theta.into());
    map.insert("use_scaled_rope".into(), scaled.into());
    Ok(json::print(&map))
}

/// A multiplier and rounding that give `ffn` from `width`: none and 256 if they do, else the
/// multiplier with the fewest decimals. Exact for every `ffn`, at worst rounding to 1.
fn ffn_rule(width: usize, ffn: usize) -> (Option<f64>, usize) {
    if ffn_width(width, None, 256) == ffn {
        return (None, 256);
    }
    let hidden = (width * 8 / 3) as f64;
    for decimals in 0..=9 {
        for multiple_of in [256, 1024, 4096, 64, 16, 4, 1] {
            let scale = 10f64.powi(decimals);
            let middle = ffn as f64 - (multiple_of - 1) as f64 / 2.0;
            let multiplier = (middle / hidden * scale).round() / scale;
            if ffn_width(width, Some(multiplier), multiple_of) == ffn {
                return (Some(multiplier), multiple_of);
            }
        }
    }
    // Half above the whole number, so that the cut product is `ffn` whatever the rounding.
    (Some((ffn as f64 + 0.5) / hidden), 1)
}

fn refuse_other_models(map: &Map<String, Value>) -> Result<(), ConfigError> {
    let quantised = "quantised by Meta; use the bf16 checkpoint, then `herd quantize`";
    let refused = [
        ("quantization_args", quantised),
        ("lora_args", "merge the adaptor first, or use the bf16 checkpoint"),
        ("vision_model", "a vision model; Herd reads its text checkpoints"),
        ("moe_args", "a mixture of experts; Herd's Llamas are dense"),
    ];
    for (key, hint) in refused {
        if let Some(value) = json::get(map, key) {
            return Err(ConfigError::unsupported(key, value, hint));
        }
    }
    let vision = "vision_num_cross_attention_layers";
    if let Some(value) = json::get(map, vision).filter(|v| v.as_i64() != Some(-1)) {
        return Err(ConfigError::unsupported(vision, value, refused[2].1));
    }
    Ok(())
}

/// `multiple_of` and `ffn_dim_multiplier`, or the width itself as `hidden_dim` (Llama Guard 3 1B).
fn read_ffn_width(map: &Map<String, Value>, width: usize) -> Result<usize, ConfigError> {
    if let Some(hidden_dim) = json::count(map, "hidden_dim")? {
        return Ok(hidden_dim);
    }
    let multiple_of = json::count(map, "multiple_of")?.unwrap_or(256);
    let multiple_of = bounded("multiple_of", multiple_of, 1 << 20)?;
    let multiplier = json::float(map, "ffn_dim_multiplier")?;
    if let Some(m) = multiplier.filter(|m| !(*m > 0.0 && *m <= 64.0)) {
        return Err(ConfigError::value("ffn_dim_multiplier", m, "above 0, at most 64"));
    }
    Ok(ffn_width(width, multiplier, multiple_of))
}

fn read_vocab(map: &Map<String, Value>, known: Option<usize>) -> Result<usize, ConfigError> {
    let unstated = json::get(map, "vocab_size").is_none_or(|v| v.as_i64() == Some(-1));
    let stated = if unstated { None } else { json::count(map, "vocab_size")? };
    match (stated, known) {
        (Some(stated), Some(known)) if stated != known => {
            Err(ConfigError::value("vocab_size", stated, format!("the embedding's rows, {known}")))
        }
        (stated, known) => stated.or(known).ok_or_else(|| ConfigError::missing(FILE, "vocab_size")),
    }
}

fn bounded(key: &str, size: usize, max: usize) -> Result<usize, ConfigError> {
    if (1..=max).contains(&size) {
        return Ok(size);
    }
    Err(ConfigError::value(key, size, format!("from 1 to {max}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets::*;

    const UNKNOWN: Known = Known { vocab: None, context: None, tied: false };

    #[test]
    fn published_files_give_the_presets() {
        let embedding = Known { vocab: Some(32_000), ..UNKNOWN };
        for (text, known, preset) in [
            (
                r#"{"dim":4096,"multiple_of":256,"n_heads":32,"n_layers":32,"norm_eps":1e-06,
                    "vocab_size":-1}"#,
                embedding,
                LLAMA1_7B,
            ),
            (
                r#"{"dim":8192,"multiple_of":256,"n_heads":64,"n_layers":80,"norm_eps":1e-05,
                    "vocab_size":-1}"#,
                embedding,
                LLAMA1_65B,
            ),
            (
                r#"{"dim":8192,"multiple_of":4096,"ffn_dim_multiplier":1.3,"n_heads":64,
                    "n_kv_heads":8,"n_layers":80,"norm_eps":1e-05,"vocab_size":-1}"#,
                embedding,
                LLAMA2_70B,
            ),
            (
                r#"{"dim":8192,"n_layers":48,"n_heads":64,"n_kv_heads":8,"multiple_of":256,
                    "ffn_dim_multiplier":1.0,"norm_eps":1e-5,"rope_theta":1000000}"#,
                embedding,
                CODE_LLAMA_34B,
            ),
            (
                r#"{"dim":4096,"n_layers":32,"n_heads":32,"n_kv_heads":8,"vocab_size":128256,
                    "multiple_of":1024,"ffn_dim_multiplier":1.3,"norm_eps":1e-05,
                    "rope_theta":500000.0}"#,
                UNKNOWN,
                LLAMA3_8B,
            ),
            (
                r#"{"dim":16384,"ffn_dim_multiplier":1.2,"multiple_of":4096,"n_heads":128,
                    "n_kv_heads":8,"n_layers":126,"norm_eps":1e-05,"rope_theta":500000.0,
                    "use_scaled_rope":true,"vocab_size":128256}"#,
                UNKNOWN,
                LLAMA3_1_405B,
            ),
            (
                r#"{"dim":2048,"n_layers":12,"n_heads":32,"n_kv_heads":8,"vocab_size":128256,
                    "rope_theta":500000.0,"norm_eps":1e-05,"hidden_dim":6400,
                    "use_scaled_rope":true,"vision_num_cross_attention_layers":-1}"#,
                UNKNOWN,
                LLAMA_GUARD3_1B_PRUNED,
            ),
        ] {
            assert_eq!(read(text, known).unwrap(), preset);
        }
    }

    #[test]
    fn meta_scales_the_small_models_by_8() {
        let text = r#"{"dim":2048,"ffn_dim_multiplier":1.5,"multiple_of":256,"n_heads":32,
            "n_kv_heads":8,"n_layers":16,"norm_eps":1e-05,"rope_theta":500000.0,
            "use_scaled_rope":true,"vocab_size":128256}"#;
        let read = read(text, Known { tied: true, ..UNKNOWN }).unwrap();
        assert_eq!(read, Config { rope_scaling: SCALED_8, ..LLAMA3_2_1B });
        assert!(matches!(write(&LLAMA3_2_1B), Err(ConfigError::Unsupported { .. })));
    }

    #[test]
    fn writing_and_reading_gives_the_config_back() {
        for card in &CARDS {
            let mut config = card.config.clone();
            if config.rope_scaling != RopeScaling::None {
                config.rope_scaling = SCALED_8;
            }
            let text = write(&config).unwrap();
            let known = Known { vocab: None, context: Some(config.context), tied: config.tied };
            assert_eq!(read(&text, known).unwrap(), config, "{}: {text}", card.name);
        }
    }

    #[test]
    fn every_feed_forward_width_has_a_rule() {
        for width in [1, 2, 64, 576, 4096, 1 << 17] {
            for ffn in (1..300).chain([1536, 11_008, 14_337, 65_537, 999_983, 1 << 20]) {
                let (multiplier, multiple_of) = ffn_rule(width, ffn);
                assert_eq!(ffn_width(width, multiplier, multiple_of), ffn, "{width} {ffn}");
            }
        }
        assert_eq!(ffn_rule(4096, 11_008), (None, 256));
        assert_eq!(ffn_rule(8192, 28_672), (Some(1.3), 1024));
    }

    #[test]
    fn wrong_files_are_refused_with_the_key() {
        let base = r#""dim":64,"n_layers":2,"n_heads":4"#;
        for (text, expected) in [
            ("[1]".to_string(), "params.json is not a JSON object: its top is another value"),
            ("{".to_string(), "params.json is not a JSON object: EOF while parsing"),
            (r#"{"dim":64}"#.to_string(), "params.json has no n_heads"),
            (format!("{{{base}}}"), "params.json has no vocab_size"),
            (r#"{"dim":65,"n_heads":4}"#.to_string(), "dim is 65; it must be a multiple of n_hea"),
            (r#"{"dim":1e300,"n_heads":4}"#.to_string(), "dim must be a whole number"),
            (r#"{"dim":-4,"n_heads":4}"#.to_string(), "dim must be a whole number"),
            (r#"{"dim":4,"n_heads":0}"#.to_string(), "n_heads is 0; it must be from 1"),
            (r#"{"dim":1099511627776,"n_heads":4}"#.to_string(), "dim is 1099511627776; it must"),
            (format!(r#"{{{base},"multiple_of":0}}"#), "multiple_of is 0; it must be from 1"),
            (format!(r#"{{{base},"ffn_dim_multiplier":1e99}}"#), "ffn_dim_multiplier is 1"),
            (format!(r#"{{{base},"ffn_dim_multiplier":"x"}}"#), "ffn_dim_multiplier must be a num"),
            (
                format!(r#"{{{base},"quantization_args":{{"scheme":"int4"}}}}"#),
                "quantization_args = {\"scheme\":\"int4\"} is not supported",
            ),
            (
                format!(r#"{{{base},"vision_num_cross_attention_layers":8}}"#),
                "vision_num_cross_attention_layers = 8 is not supported",
            ),
        ] {
            let message = read(&text, UNKNOWN).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{text}: {message}");
        }
        let text = format!(r#"{{{base},"vocab_size":100}}"#);
        let message = read(&text, Known { vocab: Some(99), ..UNKNOWN }).unwrap_err().to_string();
        assert_eq!(message, "vocab_size is 100; it must be the embedding's rows, 99");
    }
}
