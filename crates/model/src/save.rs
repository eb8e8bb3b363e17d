//! Writes a model that is in memory as a Hugging Face folder.

use crate::names::{Direction, Part, Style, all_parts, name, permute_rows};
use crate::{CheckpointError, Config, GenerationDefaults, hf};
use herd_tensor::files::{DType, NewFolder, ShardedWriter, TensorInfo};
use herd_tensor::{Format, blocks};

/// Data in one safetensors file, as transformers splits them.
const SHARD_BYTES_MAX: usize = 5_000_000_000;

/// Writes `config.json`, `generation_config.json` and the weights into `folder`, all numbers as
/// `format` (F32, F16 or BF16).
///
/// `numbers` gives a part's numbers, row by row, queries and keys in the order of Meta and GGUF.
/// Errors: the configuration has no place in the format, a number none in `format` (its tensor is
/// named), or the files cannot be written.
pub fn write_folder(
    folder: &NewFolder,
    config: &Config,
    generation: &GenerationDefaults,
    format: Format,
    mut numbers: impl FnMut(Part) -> Vec<f32>,
) -> Result<(), CheckpointError> {
    let path = folder.part().join("config.json");
    let dtype = match format {
        Format::BF16 => "bfloat16",
        Format::F16 => "float16",
        _ => "float32",
    };
    let text = hf::ConfigFile::new(config.clone(), generation.clone(), Some(dtype.into()))
        .write()
        .map_err(|source| CheckpointError::Config { path, source })?;
    folder.write("config.json", text.as_bytes())?;
    if *generation != GenerationDefaults::default() {
        let text = hf::GenerationFile::new(generation.clone()).write();
        folder.write("generation_config.json", text.as_bytes())?;
    }
    let parts = all_parts(config);
    let infos: Vec<TensorInfo> = parts
        .iter()
        .map(|&part| TensorInfo {
            name: hf_name(part),
            shape: part.shape(config),
            dtype: DType::Format(format),
        })
        .collect();
    let mut writer = ShardedWriter::create(folder.part(), &infos, SHARD_BYTES_MAX)?;
    for (part, info) in parts.into_iter().zip(&infos) {
        let numbers = numbers(part);
        let bytes = format.bytes(numbers.len()).expect("plain floats have any length");
        let mut bytes = vec![0; bytes];
        blocks::quantise(format, &numbers, &mut bytes).map_err(|source| {
            let (path, tensor) = (folder.part().to_owned(), info.name.clone());
            CheckpointError::Number { path, tensor, source }
        })?;
        if let Some(heads) = part.permuted_heads(config) {
            let row_bytes = bytes.len() / (heads * config.head_dim);
            let order = Direction::MetaToHf;
            bytes = permute_rows(&bytes, heads, config.head_dim, row_bytes, order);
        }
        writer.write_tensor(&info.name, &bytes)?;
    }
    Ok(writer.finish()?)
}

fn hf_name(part: Part) -> String {
    name(part, Style::Hf).expect("every part of a model has a name in Hugging Face's style")
}
