//! A Llama with an adapter: products of low rank beside weights that it shares with the model without one
//! (arXiv 2106.09685), from the folders that PEFT and `herd sft` write.
//!
//! ```text
//! y = W x + scale B A x        A: [rank, inputs], B: [outputs, rank], scale = alpha / rank
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use herd_tensor::files::{Archive, TensorInfo};
use herd_tensor::{Device, Format, Lora, Weight, blocks};
use serde_json::{Map, Value};

use super::Llama;
use crate::checkpoint::{Stored, config_error, read_text};
use crate::json::{count, flag, float, get, object, text};
use crate::names::{Direction, Named, Part, Style, all_parts, parse, permute_rows};
use crate::{CheckpointError, Config, ConfigError};

const FILE: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before the names of a model.
const PREFIX: &str = "base_model.model.";
/// The head of a reward model, which is trained whole.
const SCORE: &str = "base_model.model.score.weight";

/// An adapter's products, read and checked against the shape of the model that they stand beside.
pub struct Adapter {
    scale: f32,
    pairs: BTreeMap<Part, Pair>,
    score: Option<Matrix>,
}

/// A [rank, inputs] and B [outputs, rank], row by row in f32.
#[derive(Default)]
struct Pair {
    a: Option<Matrix>,
    b: Option<Matrix>,
}

struct Matrix {
    shape: [usize; 2],
    bytes: Vec<u8>,
}

impl Adapter {
    /// Reads `adapter_config.json` and `adapter_model.safetensors` of a folder, for a language model of this shape.
    ///
    /// Errors: those of [`open_any`](Adapter::open_any); it brings the head of a reward model.
    pub fn open(folder: &Path, config: &Config) -> Result<Adapter, CheckpointError> {
        const HINT: &str = "`herd convert -m BASE --lora FOLDER -o OUT` makes a reward model of it, which `herd score` and judges take";
        let adapter = Adapter::open_any(folder, config)?;
        match adapter.score {
            None => Ok(adapter),
            Some(_) => {
                let score = ConfigError::unsupported("modules_to_save", "score", HINT);
                Err(config_error(&folder.join(FILE), score))
            }
        }
    }

    /// The same, of a language model or a reward model.
    ///
    /// Errors: a file that is not there, a kind of adapter that is no plain LoRA, a tensor that is unknown, misshapen or
    /// without its other half.
    pub fn open_any(folder: &Path, config: &Config) -> Result<Adapter, CheckpointError> {
        let (path, text) = read_text(folder, FILE)?;
        let settings = read_settings(&text).map_err(|source| config_error(&path, source))?;
        let archive = Archive::open(folder.join(WEIGHTS))?;
        let mut pairs: BTreeMap<Part, Pair> = BTreeMap::new();
        let score = settings.scores.then(|| score(&archive, config)).transpose()?;
        for info in archive.tensors().iter().filter(|info| score.is_none() || info.name != SCORE) {
            let (part, half) = place(info, archive.path())?;
            let matrix = read(&archive, info, part, half, &settings, config)?;
            let pair = pairs.entry(part).or_default();
            match half {
                Half::A => pair.a = Some(matrix),
                Half::B => pair.b = Some(matrix),
            }
        }
        for (part, pair) in &pairs {
            let (missing, half) = match (&pair.a, &pair.b) {
                (Some(_), Some(_)) => continue,
                (None, _) => (part, "lora_A"),
                (_, None) => (part, "lora_B"),
            };
            let module = crate::names::name(*missing, Style::Hf).unwrap_or_default();
            let module = module.trim_end_matches(".weight");
            let tensor = format!("{PREFIX}{module}.{half}.weight");
            return Err(CheckpointError::MissingTensor { path: archive.path().into(), tensor });
        }
        Ok(Adapter { scale: settings.scale, pairs, score })
    }

    /// The numbers of a part with the adapter's products in them, W + scale B A, each added up in f64; `None` for a part that
    /// it leaves alone.
    pub fn merged(&self, part: Part, stored: &Stored<'_>) -> Option<Vec<f32>> {
        let Pair { a: Some(a), b: Some(b) } = self.pairs.get(&part)? else { return None };
        let ([rank, inputs], (a, b)) = (a.shape, (a.numbers(), b.numbers()));
        let mut w = stored.unpack();
        for (row, b) in w.chunks_exact_mut(inputs).zip(b.chunks_exact(rank)) {
            for (column, w) in row.iter_mut().enumerate() {
                let products =
                    (0..rank).map(|k| f64::from(b[k]) * f64::from(a[k * inputs + column]));
                *w = (f64::from(*w) + f64::from(self.scale) * products.sum::<f64>()) as f32;
            }
        }
        Some(w)
    }

    /// The head of a reward model, [1, D], where the adapter brings one.
    pub fn score(&self) -> Option<Vec<f32>> {
        self.score.as_ref().map(Matrix::numbers)
    }

    /// Bytes in memory beside the weights.
    pub fn bytes(&self) -> usize {
        let halves = self.pairs.values().flat_map(|pair| [&pair.a, &pair.b]);
        halves.chain([&self.score]).flatten().map(|matrix| matrix.bytes.len()).sum()
    }
}

impl Llama {
    /// The model with an adapter that was read for its shape. The weights are shared, not copied.
    pub fn adapted(&self, adapter: &Adapter) -> Llama {
        let mut llama = self.clone();
        let device = self.device.clone();
        for (part, pair) in &adapter.pairs {
            let weight = llama.weight_mut(*part).expect("parts were checked when it was read");
            let half = |matrix: &Option<Matrix>| {
                matrix.as_ref().expect("both halves were checked when it was read").weight(&device)
            };
            let (a, b) = (half(&pair.a), half(&pair.b));
            let (base, scale) = (weight.clone(), adapter.scale);
            *weight = Weight::Lora(Arc::new(Lora { base, a, b, scale }));
        }
        llama
    }
}

impl Llama {
    /// The model without adapters; the weights are shared.
    pub fn unadapted(&self) -> Llama {
        let mut llama = self.clone();
        for part in all_parts(&self.config) {
            let Some(weight) = llama.weight_mut(part) else { continue };
            if let Weight::Lora(lora) = weight {
                *weight = lora.base.clone();
            }
        }
        llama
    }
}

impl Matrix {
    fn numbers(&self) -> Vec<f32> {
        let words = self.bytes.chunks_exact(4);
        words.map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()
    }

    fn weight(&self, device: &Device) -> Weight {
        let [rows, cols] = self.shape;
        Weight::new(device, Format::F32, rows, cols, &self.bytes)
    }
}

/// What of the configuration decides the mathematics.
struct Settings {
    rank: usize,
    scale: f32,
    /// Whether it brings the head of a reward model.
    scores: bool,
}

fn read_settings(text_: &str) -> Result<Settings, ConfigError> {
    let map = object(FILE, text_)?;
    let kind = text(&map, "peft_type")?.ok_or(ConfigError::missing(FILE, "peft_type"))?;
    if kind != "LORA" {
        return Err(ConfigError::unsupported("peft_type", kind, "Herd runs LORA alone"));
    }
    let scores = scores(&map);
    refuse_others(&map, scores)?;
    let rank = count(&map, "r")?.ok_or(ConfigError::missing(FILE, "r"))?;
    let alpha = float(&map, "lora_alpha")?.ok_or(ConfigError::missing(FILE, "lora_alpha"))?;
    if rank == 0 {
        return Err(ConfigError::value("r", rank, "1 or more"));
    }
    if !alpha.is_finite() {
        return Err(ConfigError::value("lora_alpha", alpha, "a number"));
    }
    let by = match flag(&map, "use_rslora")? {
        Some(true) => (rank as f64).sqrt(),
        Some(false) | None => rank as f64,
    };
    Ok(Settings { rank, scale: (alpha / by) as f32, scores })
}

/// Whether the head is all that is trained whole. PEFT names two that may be one, of which a Llama has the second.
fn scores(map: &Map<String, Value>) -> bool {
    let whole = get(map, "modules_to_save").and_then(Value::as_array);
    let head = |name: &Value| name == "score" || name == "classifier";
    whole.is_some_and(|names| names.contains(&"score".into()) && names.iter().all(head))
}

/// Kinds of LoRA whose mathematics is another.
fn refuse_others(map: &Map<String, Value>, scores: bool) -> Result<(), ConfigError> {
    const HINT: &str = "merge the adapter into its model with PEFT, and use that";
    for key in ["use_dora", "fan_in_fan_out", "lora_bias", "use_qalora", "use_bdlora"] {
        if flag(map, key)? == Some(true) {
            return Err(ConfigError::unsupported(key, true, HINT));
        }
    }
    if let Some(bias) = text(map, "bias")?.filter(|bias| *bias != "none") {
        return Err(ConfigError::unsupported("bias", bias, HINT));
    }
    for key in [
        "rank_pattern",
        "alpha_pattern",
        "modules_to_save",
        "trainable_token_indices",
        "layer_replication",
        "target_parameters",
        "alora_invocation_tokens",
        "arrow_config",
        "kasa_config",
        "velora_config",
        "monteclora_config",
    ] {
        let empty = |value: &Value| {
            value.as_object().is_some_and(Map::is_empty)
                || value.as_array().is_some_and(Vec::is_empty)
        };
        let known = scores && key == "modules_to_save";
        if let Some(value) = get(map, key).filter(|value| !known && !empty(value)) {
            return Err(ConfigError::unsupported(key, value, HINT));
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    A,
    B,
}

/// Which half of which part a tensor is, by its name.
fn place(info: &TensorInfo, path: &Path) -> Result<(Part, Half), CheckpointError> {
    let unknown = || {
        let name = info.name.clone();
        config_error(path, ConfigError::Name { what: "tensor of LoRA", name, nearest: None })
    };
    let name = info.name.strip_prefix(PREFIX).ok_or_else(unknown)?;
    let (module, half) =
        match (name.strip_suffix(".lora_A.weight"), name.strip_suffix(".lora_B.weight")) {
            (Some(module), _) => (module, Half::A),
            (_, Some(module)) => (module, Half::B),
            (None, None) => return Err(unknown()),
        };
    let named = parse(&format!("{module}.weight"), Style::Hf);
    match named.map_err(|source| config_error(path, source))? {
        Named::Part(
            part @ (Part::Q(_)
            | Part::K(_)
            | Part::V(_)
            | Part::O(_)
            | Part::Gate(_)
            | Part::Up(_)
            | Part::Down(_)),
        ) => Ok((part, half)),
        Named::Part(_) | Named::Derived => Err(unknown()),
    }
}

/// Reads a half in the order in which the model has its rows.
fn read(
    archive: &Archive,
    info: &TensorInfo,
    part: Part,
    half: Half,
    settings: &Settings,
    config: &Config,
) -> Result<Matrix, CheckpointError> {
    if let Some(layer) = part.layer().filter(|layer| *layer >= config.layers) {
        let (path, tensor, layers) = (archive.path().into(), info.name.clone(), config.layers);
        return Err(CheckpointError::Layer { path, tensor, layer, layers });
    }
    let outer = part.shape(config);
    let shape = match half {
        Half::A => [settings.rank, outer[1]],
        Half::B => [outer[0], settings.rank],
    };
    let Matrix { bytes, .. } = matrix(archive, info, shape)?;
    let bytes = match part.permuted_heads(config).filter(|_| half == Half::B) {
        Some(heads) => {
            permute_rows(&bytes, heads, config.head_dim, 4 * shape[1], Direction::HfToMeta)
        }
        None => bytes,
    };
    Ok(Matrix { shape, bytes })
}

/// The head of a reward model.
fn score(archive: &Archive, config: &Config) -> Result<Matrix, CheckpointError> {
    let (path, tensor) = (PathBuf::from(archive.path()), SCORE.to_owned());
    let info = archive.find(SCORE).ok_or(CheckpointError::MissingTensor { path, tensor })?;
    matrix(archive, info, [1, config.width])
}

/// A tensor of plain floats as f32, row by row.
fn matrix(
    archive: &Archive,
    info: &TensorInfo,
    shape: [usize; 2],
) -> Result<Matrix, CheckpointError> {
    let (path, tensor) = (PathBuf::from(archive.path()), info.name.clone());
    if info.shape != shape {
        let (expected, got) = (shape.to_vec(), info.shape.clone());
        return Err(CheckpointError::Shape { path, tensor, expected, got });
    }
    let Some(format @ (Format::F32 | Format::F16 | Format::BF16)) = info.dtype.format() else {
        return Err(CheckpointError::Type { path, tensor, got: info.dtype });
    };
    let mut numbers = vec![0.0f32; shape[0] * shape[1]];
    blocks::unpack(format, &archive.bytes(info)?, &mut numbers);
    let bytes = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    Ok(Matrix { shape, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(more: &str) -> String {
        let text = format!(r#"{{"peft_type":"LORA","r":4,"lora_alpha":8{more}}}"#);
        read_settings(&text).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn settings_that_change_the_mathematics_are_refused_by_name() {
        for (more, words) in [
            (r#","use_dora":true"#, "use_dora = true"),
            (r#","bias":"all""#, "bias = all"),
            (r#","rank_pattern":{"q_proj":8}"#, "rank_pattern"),
            (r#","modules_to_save":["lm_head"]"#, "modules_to_save"),
            (r#","modules_to_save":["score","lm_head"]"#, "modules_to_save"),
        ] {
            assert!(error(more).contains(words), "{more}: {}", error(more));
        }
        assert!(read_settings(r#"{"peft_type":"LORA","r":0,"lora_alpha":8}"#).is_err());
        assert!(read_settings(r#"{"peft_type":"IA3"}"#).is_err());
    }

    #[test]
    fn the_scale_is_alpha_over_the_rank_or_its_root() {
        let scale = |more: &str| {
            let text = format!(r#"{{"peft_type":"LORA","r":4,"lora_alpha":8{more}}}"#);
            read_settings(&text).unwrap().scale
        };
        assert_eq!(scale(""), 2.0);
        assert_eq!(scale(r#","use_rslora":true,"modules_to_save":null"#), 4.0);
    }
}
