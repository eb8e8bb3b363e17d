//! The Llama family by name: shapes whose parameter counts the compiler checks, and their cards.

use crate::error::cut;
use crate::meta::ffn_width;
use crate::nearest::nearest;
use crate::{Config, ConfigError, Head, RopeScaling};

/// LLaMA 7B, arXiv 2302.13971, table 2.
pub const LLAMA1_7B: Config = Config {
    layers: 32,
    width: 4096,
    heads: 32,
    kv_heads: 32,
    head_dim: 128,
    ffn_width: 11_008,
    vocab: 32_000,
    norm_eps: 1e-6,
    rope_theta: 10_000.0,
    rope_scaling: RopeScaling::None,
    context: 2048,
    tied: false,
    head: Head::Language,
};

/// LLaMA 13B.
pub const LLAMA1_13B: Config =
    Config { layers: 40, width: 5120, heads: 40, kv_heads: 40, ffn_width: 13_824, ..LLAMA1_7B };

/// LLaMA 33B; its files say 30B.
pub const LLAMA1_33B: Config =
    Config { layers: 60, width: 6656, heads: 52, kv_heads: 52, ffn_width: 17_920, ..LLAMA1_7B };

/// LLaMA 65B. Copies of its params.json disagree about the norm's epsilon: 1e-5 or 1e-6.
pub const LLAMA1_65B: Config = Config {
    layers: 80,
    width: 8192,
    heads: 64,
    kv_heads: 64,
    ffn_width: 22_016,
    norm_eps: 1e-5,
    ..LLAMA1_7B
};

/// Llama 2 7B, arXiv 2307.09288; also Llama Guard 1.
pub const LLAMA2_7B: Config = Config { norm_eps: 1e-5, context: 4096, ..LLAMA1_7B };

/// Llama 2 13B.
pub const LLAMA2_13B: Config = Config { norm_eps: 1e-5, context: 4096, ..LLAMA1_13B };

/// Llama 2 70B: the first with grouped queries.
pub const LLAMA2_70B: Config =
    Config { layers: 80, width: 8192, heads: 64, kv_heads: 8, ffn_width: 28_672, ..LLAMA2_7B };

/// Code Llama 7B, arXiv 2308.12950, with the 16 ids of infilling; Python variants have 32,000.
pub const CODE_LLAMA_7B: Config =
    Config { vocab: 32_016, rope_theta: 1_000_000.0, context: 16_384, ..LLAMA2_7B };

/// Code Llama 7B Python.
pub const CODE_LLAMA_7B_PYTHON: Config = Config { vocab: 32_000, ..CODE_LLAMA_7B };

/// Code Llama 13B.
pub const CODE_LLAMA_13B: Config =
    Config { vocab: 32_016, rope_theta: 1_000_000.0, context: 16_384, ..LLAMA2_13B };

/// Code Llama 13B Python.
pub const CODE_LLAMA_13B_PYTHON: Config = Config { vocab: 32_000, ..CODE_LLAMA_13B };

/// Code Llama 34B, all variants.
pub const CODE_LLAMA_34B: Config = Config {
    layers: 48,
    ffn_width: 22_016,
    rope_theta: 1_000_000.0,
    context: 16_384,
    ..LLAMA2_70B
};

/// Code Llama 70B base.
pub const CODE_LLAMA_70B: Config =
    Config { vocab: 32_016, rope_theta: 1_000_000.0, context: 16_384, ..LLAMA2_70B };

/// Code Llama 70B Instruct: no long-context training (meta-llama/codellama, issue 188).
pub const CODE_LLAMA_70B_INSTRUCT: Config = Config { vocab: 32_016, ..LLAMA2_70B };

/// Llama 3 8B, arXiv 2407.21783, table 3; 128,256 rows, not the table's 128,000. Also Guard 2.
pub const LLAMA3_8B: Config = Config {
    layers: 32,
    width: 4096,
    heads: 32,
    kv_heads: 8,
    head_dim: 128,
    ffn_width: 14_336,
    vocab: 128_256,
    norm_eps: 1e-5,
    rope_theta: 500_000.0,
    rope_scaling: RopeScaling::None,
    context: 8192,
    tied: false,
    head: Head::Language,
};

/// Llama 3 70B: only what differs from the 8B.
pub const LLAMA3_70B: Config =
    Config { layers: 80, width: 8192, heads: 64, ffn_width: 28_672, ..LLAMA3_8B };

/// The frequency scaling of Llama 3.1.
pub const SCALED_8: RopeScaling = RopeScaling::Llama3 {
    factor: 8.0,
    low_freq_factor: 1.0,
    high_freq_factor: 4.0,
    original_context: 8192,
};

/// The frequency scaling that Hugging Face has for Llama 3.2 1B and 3B.
pub const SCALED_32: RopeScaling = RopeScaling::Llama3 {
    factor: 32.0,
    low_freq_factor: 1.0,
    high_freq_factor: 4.0,
    original_context: 8192,
};

/// Llama 3.1 8B; also Llama Guard 3 8B.
pub const LLAMA3_1_8B: Config = Config { rope_scaling: SCALED_8, context: 131_072, ..LLAMA3_8B };

/// Llama 3.1 70B.
pub const LLAMA3_1_70B: Config = Config { rope_scaling: SCALED_8, context: 131_072, ..LLAMA3_70B };

/// Llama 3.1 405B.
pub const LLAMA3_1_405B: Config =
    Config { layers: 126, width: 16_384, heads: 128, ffn_width: 53_248, ..LLAMA3_1_8B };

/// Llama 3.2 1B, as Hugging Face has it: stretch 32. Meta's own code has 8 for every model.
pub const LLAMA3_2_1B: Config = Config {
    layers: 16,
    width: 2048,
    head_dim: 64,
    ffn_width: 8192,
    rope_scaling: SCALED_32,
    tied: true,
    ..LLAMA3_1_8B
};

/// Llama 3.2 3B, as Hugging Face has it: stretch 32.
pub const LLAMA3_2_3B: Config =
    Config { layers: 28, width: 3072, heads: 24, head_dim: 128, ..LLAMA3_2_1B };

/// Llama Guard 3 1B: the shape of 3.2 1B, untied, with the stretch of 3.1.
pub const LLAMA_GUARD3_1B: Config = Config { rope_scaling: SCALED_8, tied: false, ..LLAMA3_2_1B };

/// Llama Guard 3 1B as pruned for phones, before its head is cut to 20 tokens.
pub const LLAMA_GUARD3_1B_PRUNED: Config =
    Config { layers: 12, ffn_width: 6400, ..LLAMA_GUARD3_1B };

/// SmolLM2 135M, arXiv 2502.02737: a Llama by another house.
pub const SMOLLM2_135M: Config = Config {
    layers: 30,
    width: 576,
    heads: 9,
    kv_heads: 3,
    head_dim: 64,
    ffn_width: 1536,
    vocab: 49_152,
    norm_eps: 1e-5,
    rope_theta: 100_000.0,
    rope_scaling: RopeScaling::None,
    context: 8192,
    tied: true,
    head: Head::Language,
};

/// SmolLM2 360M.
pub const SMOLLM2_360M: Config =
    Config { layers: 32, width: 960, heads: 15, kv_heads: 5, ffn_width: 2560, ..SMOLLM2_135M };

/// SmolLM2 1.7B: multi-head.
pub const SMOLLM2_1_7B: Config = Config {
    layers: 24,
    width: 2048,
    heads: 32,
    kv_heads: 32,
    ffn_width: 8192,
    rope_theta: 130_000.0,
    ..SMOLLM2_135M
};

// A wrong preset does not compile.
const _: () = {
    assert!(LLAMA1_7B.params() == 6_738_415_616);
    assert!(LLAMA1_13B.params() == 13_015_864_320);
    assert!(LLAMA1_33B.params() == 32_528_943_616);
    assert!(LLAMA1_65B.params() == 65_285_660_672);
    assert!(LLAMA2_7B.params() == 6_738_415_616);
    assert!(LLAMA2_13B.params() == 13_015_864_320);
    assert!(LLAMA2_70B.params() == 68_976_648_192);
    assert!(CODE_LLAMA_7B.params() == 6_738_546_688);
    assert!(CODE_LLAMA_7B_PYTHON.params() == 6_738_415_616);
    assert!(CODE_LLAMA_13B.params() == 13_016_028_160);
    assert!(CODE_LLAMA_13B_PYTHON.params() == 13_015_864_320);
    assert!(CODE_LLAMA_34B.params() == 33_743_970_304);
    assert!(CODE_LLAMA_70B.params() == 68_976_910_336);
    assert!(CODE_LLAMA_70B_INSTRUCT.params() == 68_976_910_336);
    assert!(LLAMA3_8B.params() == 8_030_261_248);
    assert!(LLAMA3_70B.params() == 70_553_706_496);
    assert!(LLAMA3_1_8B.params() == 8_030_261_248);
    assert!(LLAMA3_1_70B.params() == 70_553_706_496);
    assert!(LLAMA3_1_405B.params() == 405_853_388_800);
    assert!(LLAMA3_2_1B.params() == 1_235_814_400);
    assert!(LLAMA3_2_3B.params() == 3_212_749_824);
    assert!(LLAMA_GUARD3_1B.params() == 1_498_482_688);
    assert!(LLAMA_GUARD3_1B_PRUNED.params() == 1_123_076_096);
    assert!(SMOLLM2_135M.params() == 134_515_008);
    assert!(SMOLLM2_360M.params() == 361_821_120);
    assert!(SMOLLM2_1_7B.params() == 1_711_376_384);
};

// Meta's rule for the feed-forward width gives the published ones.
const _: () = {
    assert!(ffn_width(4096, None, 256) == LLAMA1_7B.ffn_width);
    assert!(ffn_width(5120, None, 256) == LLAMA1_13B.ffn_width);
    assert!(ffn_width(6656, None, 256) == LLAMA1_33B.ffn_width);
    assert!(ffn_width(8192, None, 256) == LLAMA1_65B.ffn_width);
    assert!(ffn_width(8192, Some(1.3), 4096) == LLAMA2_70B.ffn_width);
    assert!(ffn_width(8192, Some(1.0), 256) == CODE_LLAMA_34B.ffn_width);
    assert!(ffn_width(4096, Some(1.3), 1024) == LLAMA3_8B.ffn_width);
    assert!(ffn_width(16_384, Some(1.2), 4096) == LLAMA3_1_405B.ffn_width);
    assert!(ffn_width(2048, Some(1.5), 256) == LLAMA3_2_1B.ffn_width);
    assert!(ffn_width(3072, Some(1.0), 256) == LLAMA3_2_3B.ffn_width);
};

/// A published model: its shape and what is known about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    /// The name that [`preset`] takes, such as `llama-3.1-8b`.
    pub name: &'static str,
    /// Day of the release, ISO 8601.
    pub release: &'static str,
    /// Tokens seen in pretraining, in words; empty where not known.
    pub tokens: &'static str,
    /// Licence of the weights.
    pub licence: &'static str,
    /// The shape.
    pub config: Config,
}

const LLAMA1: &str = "research, non-commercial";
const LLAMA2: &str = "Llama 2 Community";
const LLAMA3: &str = "Llama 3 Community";
const LLAMA31: &str = "Llama 3.1 Community";
const LLAMA32: &str = "Llama 3.2 Community";
const APACHE: &str = "Apache-2.0";

const fn card(
    name: &'static str,
    release: &'static str,
    tokens: &'static str,
    licence: &'static str,
    config: Config,
) -> Card {
    Card { name, release, tokens, licence, config }
}

/// Every preset, by release. The instruct and chat models have the shapes of their bases.
pub static CARDS: [Card; 29] = [
    card("llama-7b", "2023-02-24", "1.0T", LLAMA1, LLAMA1_7B),
    card("llama-13b", "2023-02-24", "1.0T", LLAMA1, LLAMA1_13B),
    card("llama-33b", "2023-02-24", "1.4T", LLAMA1, LLAMA1_33B),
    card("llama-65b", "2023-02-24", "1.4T", LLAMA1, LLAMA1_65B),
    card("llama-2-7b", "2023-07-18", "2.0T", LLAMA2, LLAMA2_7B),
    card("llama-2-13b", "2023-07-18", "2.0T", LLAMA2, LLAMA2_13B),
    card("llama-2-70b", "2023-07-18", "2.0T", LLAMA2, LLAMA2_70B),
    card("code-llama-7b", "2023-08-24", "2.0T + 500B code", LLAMA2, CODE_LLAMA_7B),
    card("code-llama-7b-python", "2023-08-24", "2.0T + 500B code", LLAMA2, CODE_LLAMA_7B_PYTHON),
    card("code-llama-13b", "2023-08-24", "2.0T + 500B code", LLAMA2, CODE_LLAMA_13B),
    card("code-llama-13b-python", "2023-08-24", "2.0T + 500B code", LLAMA2, CODE_LLAMA_13B_PYTHON),
    card("code-llama-34b", "2023-08-24", "2.0T + 500B code", LLAMA2, CODE_LLAMA_34B),
    card("llama-guard-7b", "2023-12-07", "2.0T", LLAMA2, LLAMA2_7B),
    card("code-llama-70b", "2024-01-29", "2.0T + 1T code", LLAMA2, CODE_LLAMA_70B),
    card(
        "code-llama-70b-instruct",
        "2024-01-29",
        "2.0T + 1T code",
        LLAMA2,
        CODE_LLAMA_70B_INSTRUCT,
    ),
    card("llama-3-8b", "2024-04-18", "15T+", LLAMA3, LLAMA3_8B),
    card("llama-3-70b", "2024-04-18", "15T+", LLAMA3, LLAMA3_70B),
    card("llama-guard-2-8b", "2024-04-18", "15T+", LLAMA3, LLAMA3_8B),
    card("llama-3.1-8b", "2024-07-23", "15T+", LLAMA31, LLAMA3_1_8B),
    card("llama-3.1-70b", "2024-07-23", "15T+", LLAMA31, LLAMA3_1_70B),
    card("llama-3.1-405b", "2024-07-23", "15.6T", LLAMA31, LLAMA3_1_405B),
    card("llama-guard-3-8b", "2024-07-23", "15T+", LLAMA31, LLAMA3_1_8B),
    card("llama-3.2-1b", "2024-09-25", "up to 9T", LLAMA32, LLAMA3_2_1B),
    card("llama-3.2-3b", "2024-09-25", "up to 9T", LLAMA32, LLAMA3_2_3B),
    card("llama-guard-3-1b", "2024-09-25", "up to 9T", LLAMA32, LLAMA_GUARD3_1B),
    card("llama-guard-3-1b-pruned", "2024-09-25", "up to 9T", LLAMA32, LLAMA_GUARD3_1B_PRUNED),
    card("smollm2-135m", "2024-10-31", "", APACHE, SMOLLM2_135M),
    card("smollm2-360m", "2024-10-31", "", APACHE, SMOLLM2_360M),
    card("smollm2-1.7b", "2024-10-31", "", APACHE, SMOLLM2_1_7B),
];

/// Other names in use, and the card that each means.
const ALIASES: [(&str, &str); 2] = [("llama-30b", "llama-33b"), ("smollm2", "smollm2-135m")];

/// The card with this name or alias; case does not matter.
///
/// Errors: [`ConfigError::Name`] with the nearest name.
pub fn card_of(name: &str) -> Result<&'static Card, ConfigError> {
    let alias = ALIASES.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(name));
    let full = alias.map_or(name, |(_, full)| full);
    CARDS.iter().find(|card| card.name.eq_ignore_ascii_case(full)).ok_or_else(|| {
        let names =
            CARDS.iter().map(|card| card.name).chain(ALIASES.iter().map(|(alias, _)| *alias));
        ConfigError::Name {
            what: "preset",
            name: cut(name),
            nearest: nearest(name, names).map(String::from),
        }
    })
}

/// The shape of the published model with this name.
///
/// Errors: [`ConfigError::Name`] with the nearest name.
///
/// ```
/// let config = herd_model::presets::preset("llama-3.1-8b").unwrap();
/// assert_eq!((config.layers, config.params()), (32, 8_030_261_248));
/// ```
pub fn preset(name: &str) -> Result<&'static Config, ConfigError> {
    card_of(name).map(|card| &card.config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_valid_and_named_once() {
        for (i, card) in CARDS.iter().enumerate() {
            card.config.validate().unwrap();
            assert_eq!(card.config.width, card.config.heads * card.config.head_dim);
            assert_eq!(preset(&card.name.to_uppercase()).unwrap(), &card.config);
            assert!(CARDS[..i].iter().all(|other| other.name != card.name), "{}", card.name);
        }
    }

    #[test]
    fn misspelt_presets_get_the_nearest_name() {
        for (wrong, right) in [
            ("llama3-8b", Some("llama-3-8b")),
            ("Llama-3.1-8", Some("llama-3.1-8b")),
            ("smollm", Some("smollm2")),
            ("codellama-34b", Some("code-llama-34b")),
            ("gpt-4", None),
        ] {
            match preset(wrong) {
                Err(ConfigError::Name { nearest, .. }) => assert_eq!(nearest.as_deref(), right),
                other => panic!("{wrong}: {other:?}"),
            }
        }
    }
}
