//! Writes a model that is in memory as a Hugging Face folder.

use crate::names::{Direction, Part, Style, all_parts, name, permute_rows};
use crate::{CheckpointError, Config, GenerationDefaults, hf};
use herd_tensor::Format;
use herd_tensor::blocks::{self, QuantiseError};
use herd_tensor::files::{DType, NewFolder, ShardedWriter, TensorInfo};

/// Data in one safetensors file, as transformers splits them.
const SHARD_BYTES_MAX: usize = 5_000_000_000;

/// What takes a part's numbers.
pub type See<'a> = &'a mut dyn FnMut(&[f32]) -> Result<(), CheckpointError>;

/// Writes `config.json`, `generation_config.json` and the weights into `folder`, all numbers as
/// `format` (F32, F16 or BF16); those of a head that scores as F32.
///
/// `lend` shows a part's numbers to what it is given, row by row, queries and keys in the order of
/// Meta and GGUF. They are converted some at a time, so the largest part costs no memory.
/// Errors: the configuration has no place in the format, a number none in `format` (its tensor is
/// named), or the files cannot be written.
pub fn write_folder(
    folder: &NewFolder,
    config: &Config,
    generation: &GenerationDefaults,
    format: Format,
    mut lend: impl FnMut(Part, See<'_>) -> Result<(), CheckpointError>,
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
            dtype: DType::Format(stored(part, format)),
        })
        .collect();
    let mut writer = ShardedWriter::create(folder.part(), &infos, SHARD_BYTES_MAX)?;
    for (part, info) in parts.into_iter().zip(&infos) {
        lend(part, &mut |numbers| {
            for (at, piece) in pieces(part, config, numbers) {
                let bytes =
                    encoded(part, config, stored(part, format), piece).map_err(|source| {
                        let (path, tensor) = (folder.part().to_owned(), info.name.clone());
                        CheckpointError::Number { path, tensor, source: source.after(at) }
                    })?;
                writer.write_piece(&info.name, &bytes)?;
            }
            Ok(())
        })?;
    }
    Ok(writer.finish()?)
}

/// A score is read through one row of numbers: it stays as it was trained.
fn stored(part: Part, format: Format) -> Format {
    if part == Part::Score { Format::F32 } else { format }
}

/// Numbers that are converted at once.
const PIECE: usize = 1 << 16;

/// A part in pieces, with the place of each: whole heads where their rows change places.
fn pieces<'a>(
    part: Part,
    config: &Config,
    numbers: &'a [f32],
) -> impl Iterator<Item = (usize, &'a [f32])> {
    let size = match part.permuted_heads(config) {
        Some(heads) => numbers.len() / heads,
        None => PIECE,
    };
    numbers.chunks(size).enumerate().map(move |(i, piece)| (i * size, piece))
}

/// A piece as its bytes lie in the file.
fn encoded(
    part: Part,
    config: &Config,
    format: Format,
    piece: &[f32],
) -> Result<Vec<u8>, QuantiseError> {
    let mut bytes = vec![0; format.bytes(piece.len()).expect("plain floats have any length")];
    blocks::quantise(format, piece, &mut bytes)?;
    Ok(match part.permuted_heads(config) {
        Some(_) => {
            let row_bytes = bytes.len() / config.head_dim;
            permute_rows(&bytes, 1, config.head_dim, row_bytes, Direction::MetaToHf)
        }
        None => bytes,
    })
}

fn hf_name(part: Part) -> String {
    name(part, Style::Hf).expect("every part of a model has a name in Hugging Face's style")
}
