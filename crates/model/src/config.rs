//! The numbers that make a Llama: shapes, RoPE, norms; their bounds and the parameter count.

use crate::ConfigError;

/// The most layers that a configuration may have; the largest published Llama has 126.
pub(crate) const LAYERS_MAX: usize = 1 << 10;

/// The shape and constants of one Llama. Every reader returns it validated.
///
/// Symbols of `docs/model.md`: L layers, D width, H heads, G kv_heads, K head_dim, F ffn_width,
/// V vocab. Attention and feed-forward have no biases; files that ask for them are refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Transformer blocks, L.
    pub layers: usize,
    /// Width of the residual stream, D.
    pub width: usize,
    /// Query heads, H.
    pub heads: usize,
    /// Key/value heads, G; divides H.
    pub kv_heads: usize,
    /// Width of one head, K; even, because RoPE turns pairs. Usually D / H.
    pub head_dim: usize,
    /// Hidden width of SwiGLU, F.
    pub ffn_width: usize,
    /// Rows of the embedding, V.
    pub vocab: usize,
    /// Added to the mean square inside the root of RMSNorm.
    pub norm_eps: f32,
    /// Base of the RoPE frequencies: theta^(-2i/K).
    pub rope_theta: f64,
    /// How those frequencies are stretched for long contexts.
    pub rope_scaling: RopeScaling,
    /// Positions that the model is meant for.
    pub context: usize,
    /// The head reads the embedding's rows; there is no separate output matrix.
    pub tied: bool,
    /// What the last hidden states are read by.
    pub head: Head,
}

/// What the last hidden states are read by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// V logits a token: a language model.
    Language,
    /// One number a token: a reward model. Hugging Face's `LlamaForSequenceClassification` of one label.
    Score,
}

impl std::fmt::Display for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Head::Language => "language model",
            Head::Score => "reward model",
        })
    }
}

/// How RoPE frequencies are stretched beyond the context of pretraining.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// Position interpolation (arXiv 2306.15595): every frequency divided by `factor`.
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// Dynamic NTK: the base grows with the sequence once it is longer than `original_context`.
    Dynamic {
        /// At least 1.
        factor: f64,
        /// Positions seen in training.
        original_context: usize,
    },
    /// Llama 3.1: slow frequencies divided by `factor`, fast ones kept, a ramp between
    /// (arXiv 2407.21783; `docs/model.md`).
    Llama3 {
        /// 8 for 3.1; Hugging Face has 32 for 3.2 1B and 3B.
        factor: f64,
        /// Wavelengths above original_context / this are divided.
        low_freq_factor: f64,
        /// Wavelengths below original_context / this are kept.
        high_freq_factor: f64,
        /// Positions seen before long-context training.
        original_context: usize,
    },
    /// YaRN (arXiv 2309.00071).
    Yarn(Yarn),
    /// GGUF's `rope_freqs.weight`: frequency i is divided by entry i, of K/2.
    Divisors(Vec<f32>),
}

/// The constants of YaRN (arXiv 2309.00071), under the names that transformers gives them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    /// Stretch of the context, at least 1.
    pub factor: f64,
    /// Positions seen in training.
    pub original_context: usize,
    /// Factor on the cos and sin tables where a file states it; see [`Yarn::attention_factor`].
    pub stated_attention_factor: Option<f64>,
    /// Dimensions that turn more often than this over the original context are kept.
    pub beta_fast: f64,
    /// Dimensions that turn less often than this are divided by `factor`.
    pub beta_slow: f64,
    /// With `mscale_all_dim`, replaces the 1 in the attention factor's numerator.
    pub mscale: Option<f64>,
    /// With `mscale`, divides the attention factor.
    pub mscale_all_dim: Option<f64>,
    /// Round the ends of the ramp outwards to whole dimensions.
    pub truncate: bool,
}

impl Yarn {
    /// The paper's constants for a stretch of `factor`.
    pub const fn new(factor: f64, original_context: usize) -> Yarn {
        Yarn {
            factor,
            original_context,
            stated_attention_factor: None,
            beta_fast: 32.0,
            beta_slow: 1.0,
            mscale: None,
            mscale_all_dim: None,
            truncate: true,
        }
    }

    /// Factor on the cos and sin tables: the stated one, else m(mscale) / m(mscale_all_dim) where
    /// both are given, else m(1); m(x) = 0.1 x ln(factor) + 1. Source: transformers 5, `yarn`.
    pub fn attention_factor(&self) -> f64 {
        let m = |scale: f64| 0.1 * scale * self.factor.max(1.0).ln() + 1.0;
        let given = |x: Option<f64>| x.filter(|x| *x != 0.0);
        match (self.stated_attention_factor, given(self.mscale), given(self.mscale_all_dim)) {
            (Some(stated), _, _) => stated,
            (None, Some(mscale), Some(all)) => m(mscale) / m(all),
            (None, _, _) => m(1.0),
        }
    }
}

impl Config {
    /// Numbers in the checkpoint: L (2HKD + 2GKD + 3FD + 2D) + D + VD, and VD again unless tied; D in place of the
    /// latter where the head scores.
    pub const fn params(&self) -> u64 {
        let [l, d, h, g, k, f, v] = [
            self.layers as u64,
            self.width as u64,
            self.heads as u64,
            self.kv_heads as u64,
            self.head_dim as u64,
            self.ffn_width as u64,
            self.vocab as u64,
        ];
        let layer = 2 * h * k * d + 2 * g * k * d + 3 * f * d + 2 * d;
        let head = match self.head {
            Head::Language if self.tied => 0,
            Head::Language => v * d,
            Head::Score => d,
        };
        l * layer + d + v * d + head
    }

    /// Checks every field, so that shapes agree and no product of sizes overflows.
    ///
    /// Errors: [`ConfigError::Value`] with the field, its value and the rule. The bounds are some
    /// eight times the largest published Llama; they stop hostile files before any allocation.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let sizes = [
            ("layers", self.layers, LAYERS_MAX),
            ("width", self.width, 1 << 17),
            ("heads", self.heads, 1 << 10),
            ("kv_heads", self.kv_heads, 1 << 10),
            ("head_dim", self.head_dim, 1 << 10),
            ("ffn_width", self.ffn_width, 1 << 20),
            ("vocab", self.vocab, 1 << 21),
            ("context", self.context, 1 << 26),
        ];
        for (key, size, max) in sizes {
            in_range(key, size, max)?;
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let rule = format!("a divisor of heads = {}", self.heads);
            return Err(ConfigError::value("kv_heads", self.kv_heads, rule));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(ConfigError::value("head_dim", self.head_dim, "even: RoPE turns pairs"));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(ConfigError::value("norm_eps", self.norm_eps, "between 0 and 1"));
        }
        if !(self.rope_theta > 1.0 && self.rope_theta <= 1e12) {
            return Err(ConfigError::value("rope_theta", self.rope_theta, "above 1, at most 1e12"));
        }
        self.rope_scaling.validate(self.head_dim)
    }
}

impl RopeScaling {
    /// The same scaling as divisors of the K/2 frequencies, where it is of that kind: `None` for
    /// unscaled, dynamic and YaRN. Source: `rope_freqs.weight` of GGUF files.
    pub fn divisors(&self, rope_theta: f64, head_dim: usize) -> Option<Vec<f32>> {
        match self {
            RopeScaling::None | RopeScaling::Dynamic { .. } | RopeScaling::Yarn(_) => None,
            RopeScaling::Linear { factor } => Some(vec![*factor as f32; head_dim / 2]),
            RopeScaling::Divisors(divisors) => Some(divisors.clone()),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let divisor = |i: usize| {
                    let frequency = rope_theta.powf(-2.0 * i as f64 / head_dim as f64);
                    let wavelength = std::f64::consts::TAU / frequency;
                    let turns = *original_context as f64 / wavelength;
                    if turns > *high_freq_factor {
                        1.0
                    } else if turns < *low_freq_factor {
                        *factor
                    } else {
                        let s = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        1.0 / ((1.0 - s) / factor + s)
                    }
                };
                Some((0..head_dim / 2).map(|i| divisor(i) as f32).collect())
            }
        }
    }

    fn validate(&self, head_dim: usize) -> Result<(), ConfigError> {
        match self {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => stretch("rope_scaling.factor", *factor),
            RopeScaling::Dynamic { factor, original_context } => {
                stretch("rope_scaling.factor", *factor)?;
                original(*original_context)
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                stretch("rope_scaling.factor", *factor)?;
                positive("rope_scaling.low_freq_factor", *low_freq_factor)?;
                positive("rope_scaling.high_freq_factor", *high_freq_factor)?;
                if high_freq_factor <= low_freq_factor {
                    let rule = format!("above low_freq_factor = {low_freq_factor}");
                    let key = "rope_scaling.high_freq_factor";
                    return Err(ConfigError::value(key, high_freq_factor, rule));
                }
                original(*original_context)
            }
            RopeScaling::Yarn(yarn) => yarn.validate(),
            RopeScaling::Divisors(divisors) => {
                if divisors.len() != head_dim / 2 {
                    let rule = format!("head_dim / 2 = {}", head_dim / 2);
                    return Err(ConfigError::value("length of rope_freqs", divisors.len(), rule));
                }
                divisors.iter().try_for_each(|d| positive("rope_freqs", f64::from(*d)))
            }
        }
    }
}

impl Yarn {
    fn validate(&self) -> Result<(), ConfigError> {
        stretch("rope_scaling.factor", self.factor)?;
        original(self.original_context)?;
        positive("rope_scaling.beta_fast", self.beta_fast)?;
        positive("rope_scaling.beta_slow", self.beta_slow)?;
        if self.beta_fast < self.beta_slow {
            let rule = format!("at least beta_slow = {}", self.beta_slow);
            return Err(ConfigError::value("rope_scaling.beta_fast", self.beta_fast, rule));
        }
        for (key, value) in [
            ("rope_scaling.attention_factor", self.stated_attention_factor),
            ("attention factor from mscale", Some(self.attention_factor())),
        ] {
            value.map_or(Ok(()), |value| positive(key, value))?;
        }
        Ok(())
    }
}

fn in_range(key: &str, size: usize, max: usize) -> Result<(), ConfigError> {
    if (1..=max).contains(&size) {
        return Ok(());
    }
    Err(ConfigError::value(key, size, format!("from 1 to {max}")))
}

fn original(context: usize) -> Result<(), ConfigError> {
    in_range("rope_scaling.original_max_position_embeddings", context, 1 << 26)
}

fn stretch(key: &str, factor: f64) -> Result<(), ConfigError> {
    if (1.0..=1e6).contains(&factor) {
        return Ok(());
    }
    Err(ConfigError::value(key, factor, "from 1 to 1e6"))
}

fn positive(key: &str, x: f64) -> Result<(), ConfigError> {
    if x > 0.0 && x <= 1e9 {
        return Ok(());
    }
    Err(ConfigError::value(key, x, "above 0, at most 1e9"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets::{LLAMA3_1_8B, LLAMA3_8B};

    #[test]
    fn bad_fields_are_refused_by_name() {
        type Change = fn(&mut Config);
        let cases: [(&str, Change); 17] = [
            ("layers", |c| c.layers = 0),
            ("layers", |c| c.layers = usize::MAX),
            ("width", |c| c.width = 1 << 40),
            ("heads", |c| c.heads = 0),
            ("kv_heads", |c| c.kv_heads = 0),
            ("kv_heads", |c| c.kv_heads = 7),
            ("kv_heads", |c| c.kv_heads = 64),
            ("head_dim", |c| c.head_dim = 63),
            ("ffn_width", |c| c.ffn_width = usize::MAX),
            ("vocab", |c| c.vocab = 0),
            ("context", |c| c.context = usize::MAX),
            ("norm_eps", |c| c.norm_eps = f32::NAN),
            ("norm_eps", |c| c.norm_eps = 0.0),
            ("rope_theta", |c| c.rope_theta = f64::INFINITY),
            ("rope_theta", |c| c.rope_theta = 1.0),
            ("rope_scaling.factor", |c| c.rope_scaling = RopeScaling::Linear { factor: 0.5 }),
            ("length of rope_freqs", |c| c.rope_scaling = RopeScaling::Divisors(vec![1.0; 3])),
        ];
        for (field, change) in cases {
            let mut config = LLAMA3_8B;
            change(&mut config);
            match config.validate() {
                Err(ConfigError::Value { key, .. }) => assert_eq!(key, field),
                other => panic!("{field}: {other:?}"),
            }
        }
    }

    #[test]
    fn hostile_scaling_is_refused() {
        let yarn = Yarn::new(4.0, 4096);
        for scaling in [
            RopeScaling::Yarn(Yarn { factor: f64::NAN, ..yarn }),
            RopeScaling::Yarn(Yarn { original_context: 0, ..yarn }),
            RopeScaling::Yarn(Yarn { beta_fast: 0.5, ..yarn }),
            RopeScaling::Yarn(Yarn { stated_attention_factor: Some(-1.0), ..yarn }),
            RopeScaling::Yarn(Yarn { mscale: Some(1e300), mscale_all_dim: Some(1.0), ..yarn }),
            RopeScaling::Dynamic { factor: 2.0, original_context: usize::MAX },
            RopeScaling::Divisors(vec![f32::NAN; 64]),
            RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 4.0,
                high_freq_factor: 4.0,
                original_context: 8192,
            },
        ] {
            let config = Config { rope_scaling: scaling, ..LLAMA3_8B };
            assert!(config.validate().is_err(), "{:?}", config.rope_scaling);
        }
    }

    #[test]
    fn llama3_divisors_keep_29_ramp_6_and_divide_29() {
        let Config { rope_scaling, rope_theta, head_dim, .. } = LLAMA3_1_8B;
        let divisors = rope_scaling.divisors(rope_theta, head_dim).unwrap();
        assert_eq!(divisors.iter().filter(|d| **d == 1.0).count(), 29);
        assert_eq!(divisors.iter().filter(|d| **d == 8.0).count(), 29);
        assert!(divisors.is_sorted());
    }

    #[test]
    fn yarn_attention_factor_follows_the_paper_and_the_file() {
        let yarn = Yarn::new(16.0, 4096);
        assert!((yarn.attention_factor() - (0.1 * 16f64.ln() + 1.0)).abs() < 1e-15);
        let stated = Yarn { stated_attention_factor: Some(1.25), ..yarn };
        assert_eq!(stated.attention_factor(), 1.25);
        let both = Yarn { mscale: Some(0.7), mscale_all_dim: Some(0.7), ..yarn };
        assert_eq!(both.attention_factor(), 1.0);
        let zero = Yarn { mscale: Some(0.7), mscale_all_dim: Some(0.0), ..yarn };
        assert_eq!(zero.attention_factor(), yarn.attention_factor());
    }
}
