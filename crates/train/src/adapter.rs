//! LoRA beside frozen weights of any format (arXiv 2106.09685; QLoRA, arXiv 2305.14314, where they
//! are quantised), and its files as PEFT reads them.
//!
//! ```text
//! y = W x + (alpha / rank) B A x        A: [rank, inputs], B: [outputs, rank]
//! ```

use crate::config::{LoraConfig, RunConfig};
use crate::error::TrainError;
use crate::init;
use herd_model::llama::{Llama, Named, Piece, Training};
use herd_model::names::{Direction, Part, Style, name, permute_rows};
use herd_model::{Checkpoint, Config, Head};
use herd_tensor::files::{DType, NewFolder, SafetensorsWriter, TensorInfo};
use herd_tensor::{Device, Format};
use serde_json::json;

/// A kind of target: its name in a config, in PEFT, and its part of a layer.
type Target = (&'static str, &'static str, fn(usize) -> Part);

const TARGETS: [Target; 7] = [
    ("q", "q_proj", Part::Q),
    ("k", "k_proj", Part::K),
    ("v", "v_proj", Part::V),
    ("o", "o_proj", Part::O),
    ("gate", "gate_proj", Part::Gate),
    ("up", "up_proj", Part::Up),
    ("down", "down_proj", Part::Down),
];

/// The targets of a config, in the order of the model.
///
/// Errors: none, one that does not exist, a rank that is no rank, an alpha that is no number.
fn targets(lora: &LoraConfig, shape: &Config) -> Result<Vec<&'static Target>, TrainError> {
    let unknown = |name: &&String| !TARGETS.iter().any(|(known, ..)| known == name);
    if let Some(name) = lora.targets.iter().find(unknown) {
        return Err(TrainError::no("model.lora.targets", name, "q k v o gate up down"));
    }
    if lora.targets.is_empty() {
        return Err(TrainError::no("model.lora.targets", "empty", "at least one"));
    }
    if !(1..=shape.width).contains(&lora.rank) {
        let expected = format!("1 to the model's width of {}", shape.width);
        return Err(TrainError::no("model.lora.rank", lora.rank, &expected));
    }
    if !(lora.alpha.is_finite() && lora.alpha > 0.0) {
        return Err(TrainError::no("model.lora.alpha", lora.alpha, "a number over 0"));
    }
    Ok(TARGETS.iter().filter(|(known, ..)| lora.targets.iter().any(|t| t == known)).collect())
}

/// The parts that get a trained addition.
///
/// Errors: a target, rank or alpha is out of bounds.
pub(crate) fn parts(lora: &LoraConfig, shape: &Config) -> Result<Vec<Part>, TrainError> {
    let targets = targets(lora, shape)?;
    Ok((0..shape.layers).flat_map(|l| targets.iter().map(move |(_, _, part)| part(l))).collect())
}

/// The checkpoint with all weights frozen, and a trained addition beside each target; `head` are the first numbers of one that
/// scores, which is trained whole.
///
/// Errors: a target, rank or alpha that cannot be; a part that cannot be read.
pub fn build(
    config: &RunConfig,
    lora: &LoraConfig,
    checkpoint: &Checkpoint,
    device: &Device,
    training: &Training,
    head: Option<Vec<f32>>,
) -> Result<Llama, TrainError> {
    let shape = checkpoint.config.clone();
    let parts = parts(lora, &shape)?;
    let mut llama = match head {
        Some(head) => Llama::scoring(checkpoint, device, shape.context, training, head)?,
        None => Llama::load(checkpoint, device, shape.context)?,
    };
    llama.add_lora(training, &parts, lora.rank, lora.alpha as f32, |part, piece, len| {
        init::lora(&shape, part, piece, lora.rank, len, config.seed)
    });
    Ok(llama)
}

/// Writes `adapter_config.json` and `adapter_model.safetensors`, in f32; a head that scores is among the tensors, as PEFT has
/// modules that are trained whole.
///
/// Errors: the disk.
pub fn write(
    folder: &NewFolder,
    model: &Llama,
    lora: &LoraConfig,
    base: &str,
) -> Result<(), TrainError> {
    let modules: Vec<&str> =
        targets(lora, model.config())?.iter().map(|(_, module, _)| *module).collect();
    let (task, whole) = match model.config().head {
        Head::Language => ("CAUSAL_LM", None),
        Head::Score => ("SEQ_CLS", Some(["score"])),
    };
    let config = json!({
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": modules,
        "modules_to_save": whole,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
    });
    folder.write("adapter_config.json", format!("{config:#}\n").as_bytes())?;
    let mut params = model.params();
    // A head beside a language model is no part of it.
    params.retain(|named| named.piece != Piece::Whole || model.config().head == Head::Score);
    let info = |named: &Named<'_>| TensorInfo {
        name: peft_name(named),
        shape: vec![named.param.rows(), named.param.cols()],
        dtype: DType::Format(Format::F32),
    };
    let infos: Vec<TensorInfo> = params.iter().map(info).collect();
    let path = folder.part().join("adapter_model.safetensors");
    let mut writer = SafetensorsWriter::create(&path, &[("format", "pt")], &infos)?;
    for (named, info) in params.iter().zip(&infos) {
        writer.write_tensor(&info.name, &bytes(named, model.config()))?;
    }
    Ok(writer.finish()?)
}

fn peft_name(named: &Named<'_>) -> String {
    let part = name(named.part, Style::Hf).expect("every target has a name in that style");
    let module = part.trim_end_matches(".weight");
    let piece = match named.piece {
        Piece::LoraA => ".lora_A",
        Piece::LoraB => ".lora_B",
        Piece::Whole => "",
    };
    format!("base_model.model.{module}{piece}.weight")
}

/// The numbers as the file has them: outputs of queries and keys in Hugging Face's order.
fn bytes(named: &Named<'_>, shape: &Config) -> Vec<u8> {
    let bytes: Vec<u8> =
        named.param.with_master(|numbers| numbers.iter().flat_map(|x| x.to_le_bytes()).collect());
    match named.part.permuted_heads(shape) {
        Some(heads) if named.piece == Piece::LoraB => {
            let row_bytes = 4 * named.param.cols();
            permute_rows(&bytes, heads, shape.head_dim, row_bytes, Direction::MetaToHf)
        }
        Some(_) | None => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lora_that_cannot_be_is_named() {
        let shape = herd_model::presets::preset("llama-3.1-8b").unwrap();
        let error = |rank, alpha, names: &[&str]| {
            let names = names.iter().map(|n| (*n).to_owned()).collect();
            targets(&LoraConfig { rank, alpha, targets: names }, shape).map_err(|e| e.to_string())
        };
        assert_eq!(error(8, 16.0, &["v", "q"]).unwrap().len(), 2);
        assert!(error(8, 16.0, &["query"]).unwrap_err().contains("query"));
        assert!(error(8, 16.0, &[]).unwrap_err().contains("targets"));
        assert!(error(0, 16.0, &["q"]).unwrap_err().contains("rank"));
        assert!(error(usize::MAX, 16.0, &["q"]).unwrap_err().contains("rank"));
        assert!(error(8, f64::NAN, &["q"]).unwrap_err().contains("alpha"));
    }
}
