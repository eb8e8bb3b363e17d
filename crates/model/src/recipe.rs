//! llama.cpp's recipes for quantising a whole model: which format each part gets.
//!
//! A recipe is a format for most matrices and more bits for those that suffer most: the head,
//! values, the projections back, the first and last layers. Norms and the divisors of RoPE stay
//! F32. Source: llama-quant.cpp as in `llama-cpp-python` 0.3.36, for Llamas without an importance
//! matrix; `docs/model.md` has the table.

use herd_tensor::Format;

use crate::error::cut;
use crate::names::Part;
use crate::nearest::nearest;
use crate::{Config, ConfigError};

/// How a model is quantised. S, M and L spend more bits in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, non_camel_case_types)]
pub enum Recipe {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K_S,
    Q3_K_M,
    Q3_K_L,
    Q4_K_S,
    Q4_K_M,
    Q5_K_S,
    Q5_K_M,
    Q6_K,
    IQ4_NL,
}

/// Name, the format of most matrices, llama.cpp's `general.file_type`.
const TABLE: [(Recipe, &str, Format, u32); 18] = [
    (Recipe::F32, "f32", Format::F32, 0),
    (Recipe::F16, "f16", Format::F16, 1),
    (Recipe::BF16, "bf16", Format::BF16, 32),
    (Recipe::Q4_0, "q4_0", Format::Q4_0, 2),
    (Recipe::Q4_1, "q4_1", Format::Q4_1, 3),
    (Recipe::Q5_0, "q5_0", Format::Q5_0, 8),
    (Recipe::Q5_1, "q5_1", Format::Q5_1, 9),
    (Recipe::Q8_0, "q8_0", Format::Q8_0, 7),
    (Recipe::Q2_K, "q2_k", Format::Q2_K, 10),
    (Recipe::Q3_K_S, "q3_k_s", Format::Q3_K, 11),
    (Recipe::Q3_K_M, "q3_k_m", Format::Q3_K, 12),
    (Recipe::Q3_K_L, "q3_k_l", Format::Q3_K, 13),
    (Recipe::Q4_K_S, "q4_k_s", Format::Q4_K, 14),
    (Recipe::Q4_K_M, "q4_k_m", Format::Q4_K, 15),
    (Recipe::Q5_K_S, "q5_k_s", Format::Q5_K, 16),
    (Recipe::Q5_K_M, "q5_k_m", Format::Q5_K, 17),
    (Recipe::Q6_K, "q6_k", Format::Q6_K, 18),
    (Recipe::IQ4_NL, "iq4_nl", Format::IQ4_NL, 25),
];

/// What llama.cpp calls the M recipes for short.
const SHORT: [(&str, Recipe); 3] =
    [("q3_k", Recipe::Q3_K_M), ("q4_k", Recipe::Q4_K_M), ("q5_k", Recipe::Q5_K_M)];

impl Recipe {
    /// Every recipe, by name.
    pub fn all() -> impl Iterator<Item = (&'static str, Recipe)> {
        TABLE.iter().map(|(recipe, name, ..)| (*name, *recipe))
    }

    /// The recipe with this name, in either case; `q4_k` means `q4_k_m`.
    ///
    /// Errors: [`ConfigError::Name`] with the nearest name.
    ///
    /// ```
    /// use herd_model::recipe::Recipe;
    /// assert_eq!(Recipe::named("Q4_K_M"), Ok(Recipe::Q4_K_M));
    /// ```
    pub fn named(text: &str) -> Result<Recipe, ConfigError> {
        let name = text.to_ascii_lowercase();
        let mut known = Recipe::all().chain(SHORT);
        match known.find(|(own, _)| *own == name) {
            Some((_, recipe)) => Ok(recipe),
            None => {
                let nearest = nearest(&name, Recipe::all().map(|(name, _)| name));
                let nearest = nearest.map(String::from);
                Err(ConfigError::Name { what: "quantisation", name: cut(text), nearest })
            }
        }
    }

    /// The name, in lower case.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The format of most matrices.
    pub fn base(self) -> Format {
        self.row().2
    }

    /// llama.cpp's number for `general.file_type`.
    pub fn file_type(self) -> u32 {
        self.row().3
    }

    fn row(self) -> &'static (Recipe, &'static str, Format, u32) {
        TABLE.iter().find(|(recipe, ..)| *recipe == self).expect("the table has every recipe")
    }

    /// The format of `part` in a model of this shape, fallbacks for short rows included.
    pub fn format(self, part: Part, config: &Config) -> Format {
        let [_, cols] = part.shape(config)[..] else { return Format::F32 };
        if self.base().block_len() == 1 {
            return self.base();
        }
        fit(self.mixed(part, config), cols)
    }

    /// The format before fallbacks.
    fn mixed(self, part: Part, config: &Config) -> Format {
        let base = self.base();
        match part {
            Part::Output => head(base, config),
            Part::TokEmbd if config.tied => head(base, config),
            Part::V(layer) => self.values(layer, config),
            Part::O(_) => match self {
                Recipe::Q2_K => Format::Q3_K,
                Recipe::Q3_K_M => Format::Q4_K,
                Recipe::Q3_K_L => Format::Q5_K,
                _ => base,
            },
            Part::Down(layer) => self.down(layer, config.layers),
            Part::TokEmbd | Part::Q(_) | Part::K(_) | Part::Gate(_) | Part::Up(_) => base,
            Part::OutputNorm | Part::AttnNorm(_) | Part::FfnNorm(_) => Format::F32,
            Part::Score | Part::RopeFreqs => Format::F32,
        }
    }

    fn values(self, layer: usize, config: &Config) -> Format {
        let shared = config.heads / config.kv_heads >= 4;
        let format = match self {
            Recipe::Q2_K if shared => Format::Q4_K,
            Recipe::Q2_K => Format::Q3_K,
            Recipe::Q3_K_M if layer < 2 => Format::Q5_K,
            Recipe::Q3_K_M => Format::Q4_K,
            Recipe::Q3_K_L => Format::Q5_K,
            Recipe::Q4_K_S if layer < 4 => Format::Q5_K,
            Recipe::Q4_K_M | Recipe::Q5_K_M if more_bits(layer, config.layers) => Format::Q6_K,
            Recipe::IQ4_NL if shared => Format::Q5_K,
            _ => self.base(),
        };
        // Eight heads share the values of the 70B, which cost little and matter much.
        let is_70b = config.layers == 80 && config.heads != config.kv_heads;
        match format {
            Format::Q3_K | Format::Q4_K if is_70b => Format::Q5_K,
            format => format,
        }
    }

    fn down(self, layer: usize, layers: usize) -> Format {
        let first = layer < layers / 8;
        match self {
            Recipe::Q2_K => Format::Q3_K,
            Recipe::Q3_K_M if layer < layers / 16 => Format::Q5_K,
            Recipe::Q3_K_M => Format::Q4_K,
            Recipe::Q3_K_L => Format::Q5_K,
            Recipe::Q4_K_M | Recipe::Q5_K_M if more_bits(layer, layers) => Format::Q6_K,
            Recipe::Q4_K_S | Recipe::IQ4_NL if first => Format::Q5_K,
            _ => self.base(),
        }
    }
}

/// The head's format; a tied embedding is the head.
fn head(base: Format, config: &Config) -> Format {
    match base {
        _ if !config.width.is_multiple_of(base.block_len()) => Format::Q8_0,
        Format::Q8_0 => Format::Q8_0,
        _ => Format::Q6_K,
    }
}

/// The first and the last eighth of the layers, and every third of the others.
fn more_bits(layer: usize, layers: usize) -> bool {
    let first = layers / 8;
    layer < first || layer >= 7 * layers / 8 || (layer - first) % 3 == 2
}

/// `format`, or the next best whose blocks divide a row of `cols`.
fn fit(format: Format, cols: usize) -> Format {
    let fits = |format: Format| cols.is_multiple_of(format.block_len());
    let smaller = match format {
        Format::Q2_K | Format::Q3_K => Format::Q4_0,
        Format::Q4_K => Format::Q5_0,
        Format::Q5_K => Format::Q5_1,
        Format::Q6_K => Format::Q8_0,
        Format::F32 | Format::F16 | Format::BF16 | Format::IQ4_NL => format,
        Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 | Format::Q8_0 => format,
    };
    [format, smaller].into_iter().find(|format| fits(*format)).unwrap_or(Format::F16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::all_parts;
    use crate::presets::*;

    /// The formats of a kind of part, as counts.
    fn count(recipe: Recipe, config: &Config, kind: fn(usize) -> Part, format: Format) -> usize {
        (0..config.layers).filter(|l| recipe.format(kind(*l), config) == format).count()
    }

    #[test]
    fn names_are_read_in_either_case() {
        for (name, recipe) in Recipe::all() {
            assert_eq!(Recipe::named(name), Ok(recipe));
            assert_eq!(Recipe::named(&name.to_uppercase()), Ok(recipe));
            assert_eq!(recipe.name(), name);
        }
        assert_eq!(Recipe::named("q5_k"), Ok(Recipe::Q5_K_M));
        let error = Recipe::named("q4_k_n").unwrap_err().to_string();
        assert_eq!(error, "no quantisation is called \"q4_k_n\"; did you mean \"q4_k_s\"?");
    }

    #[test]
    fn every_row_is_whole_blocks() {
        let odd = Config { width: 48, head_dim: 12, heads: 4, ..SMOLLM2_135M };
        for config in [SMOLLM2_135M, LLAMA3_8B, LLAMA2_13B, LLAMA3_2_1B, odd] {
            for (_, recipe) in Recipe::all() {
                for part in all_parts(&config) {
                    let cols = *part.shape(&config).last().unwrap();
                    let format = recipe.format(part, &config);
                    assert!(cols.is_multiple_of(format.block_len()), "{recipe:?} {part:?}");
                }
            }
        }
    }

    #[test]
    fn the_mix_of_an_8b_is_llama_cpps() {
        let (c, m) = (&LLAMA3_8B, Recipe::Q4_K_M);
        assert_eq!(m.format(Part::Output, c), Format::Q6_K);
        assert_eq!(m.format(Part::TokEmbd, c), Format::Q4_K);
        for kind in [Part::V, Part::Down] {
            let more = (0..32).filter(|l| m.format(kind(*l), c) == Format::Q6_K);
            let layers: Vec<usize> = more.collect();
            assert_eq!(layers, [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]);
        }
        assert_eq!(count(Recipe::Q4_K_S, c, Part::V, Format::Q5_K), 4);
        assert_eq!(count(Recipe::Q4_K_S, c, Part::Down, Format::Q5_K), 4);
        assert_eq!(count(Recipe::Q3_K_M, c, Part::V, Format::Q5_K), 2);
        assert_eq!(count(Recipe::Q3_K_M, c, Part::Down, Format::Q5_K), 2);
        assert_eq!(count(Recipe::Q3_K_L, c, Part::O, Format::Q5_K), 32);
        assert_eq!(count(Recipe::Q2_K, c, Part::V, Format::Q4_K), 32);
        assert_eq!(count(Recipe::IQ4_NL, c, Part::V, Format::Q5_K), 32);
        assert_eq!(count(Recipe::Q4_K_S, &LLAMA3_70B, Part::V, Format::Q5_K), 80);
        assert_eq!(count(m, c, Part::AttnNorm, Format::F32), 32);
    }
}
