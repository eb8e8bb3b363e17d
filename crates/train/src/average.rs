//! Averages checkpoints: Polyak's mean of those taken while annealing.
//!
//! ```text
//! theta = (sum_i w_i theta_i) / (sum_i w_i)        w_i = 1 unless given
//! ```
//!
//! Source: arXiv 2407.21783, section 3.4.3. Sums are in f64, in the order in which the checkpoints
//! are given, and are rounded once, to the format that the first checkpoint has. One tensor is in
//! memory at a time.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use herd_model::checkpoint::Checkpoint;
use herd_model::hf::ConfigFile;
use herd_model::names::Style;
use herd_model::{CheckpointError, Config, GenerationDefaults};
use herd_tensor::files::{Archive, DType, FileError, NewFolder, ShardedWriter, TensorInfo};
use herd_tensor::{Format, blocks};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// A checkpoint, and how much it counts.
#[derive(Clone, Copy, Debug)]
pub struct Parent<'a> {
    /// A Hugging Face folder.
    pub path: &'a Path,
    /// 0, or from 1e-100 to 1e100, where no product is lost; the weights need not sum to 1.
    pub weight: f64,
}

/// What is to be averaged, and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// At least one; the first gives the format, the config and the order of tensors.
    pub parents: &'a [Parent<'a>],
    /// A folder, which must be new or empty.
    pub out: &'a Path,
    /// Files that go beside the weights, by name: the tokenizer's.
    pub files: &'a [(String, Vec<u8>)],
    /// What wrote it, for `herd.json`.
    pub tool: &'a str,
}

/// Why checkpoints could not be averaged.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each message names its fields
pub enum AverageError {
    #[error("there is no checkpoint to average")]
    Nothing,

    #[error("the weight of {} is {weight}, expected 0 or from 1e-100 to 1e100", path.display())]
    Weight { path: PathBuf, weight: f64 },

    #[error("the weights of all checkpoints are 0")]
    Weights,

    #[error("{} is no Hugging Face folder", path.display())]
    Style { path: PathBuf },

    #[error(
        "{} is another model than {}: {key} is {got}, not {expected}",
        path.display(), first.display()
    )]
    Config { path: PathBuf, first: PathBuf, key: String, expected: String, got: String },

    #[error("{} has another {file} than {}", path.display(), first.display())]
    Tokenizer { path: PathBuf, first: PathBuf, file: &'static str },

    #[error("{}: tensor {tensor} is {got}, expected {expected}", path.display())]
    Tensor { path: PathBuf, tensor: String, expected: String, got: String },

    #[error("{}: tensor {tensor} holds {value} at {index}", path.display())]
    NotFinite { path: PathBuf, tensor: String, index: usize, value: f64 },

    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },

    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),

    #[error(transparent)]
    File(#[from] FileError),
}

impl AverageError {
    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            AverageError::Checkpoint(error) => error.hint(),
            AverageError::File(error) => error.hint(),
            AverageError::Config { .. } | AverageError::Tokenizer { .. } => {
                Some("average checkpoints of one run")
            }
            AverageError::Style { .. } => Some("`herd convert --to hf` makes one"),
            AverageError::NotFinite { .. } => Some("leave this checkpoint out"),
            AverageError::Nothing | AverageError::Weight { .. } => None,
            AverageError::Weights | AverageError::Tensor { .. } => None,
            AverageError::Read { .. } => None,
        }
    }
}

/// Data in one safetensors file, as transformers splits them.
const SHARD_BYTES_MAX: usize = 5_000_000_000;

/// Writes the average. The folder appears whole or not at all. `progress` is called with the
/// tensors done and their number.
///
/// Errors: see [`AverageError`]; checkpoints must agree in config, tokenizer, tensors and shapes,
/// and hold finite numbers only.
pub fn average(job: &Job<'_>, progress: &mut dyn FnMut(usize, usize)) -> Result<(), AverageError> {
    let total = total_weight(job.parents)?;
    let open = |parent: &Parent<'_>| Checkpoint::open_any(parent.path);
    let checkpoints: Vec<Checkpoint> = job.parents.iter().map(open).collect::<Result<_, _>>()?;
    let first = &checkpoints[0];
    for checkpoint in &checkpoints {
        check(first, checkpoint)?;
    }
    let archives: Vec<&Archive> = checkpoints.iter().map(Checkpoint::archive).collect();
    let infos = archives[0].tensors();
    let folder = NewFolder::create(job.out)?;
    let mut writer = ShardedWriter::create(folder.part(), infos, SHARD_BYTES_MAX)?;
    for (done, info) in infos.iter().enumerate() {
        progress(done, infos.len());
        let parts =
            archives.iter().zip(job.parents).map(|(archive, parent)| (*archive, parent.weight));
        writer.write_tensor(&info.name, &mean(info, &parts.collect::<Vec<_>>(), total)?)?;
        archives.iter().for_each(|archive| archive.release());
    }
    writer.finish()?;
    progress(infos.len(), infos.len());
    for (name, bytes) in texts(first)?.iter().chain(job.files) {
        folder.write(name, bytes)?;
    }
    folder.write("herd.json", provenance(job)?.as_bytes())?;
    Ok(folder.publish()?)
}

fn total_weight(parents: &[Parent<'_>]) -> Result<f64, AverageError> {
    if parents.is_empty() {
        return Err(AverageError::Nothing);
    }
    for Parent { path, weight } in parents {
        if *weight != 0.0 && !(1e-100..=1e100).contains(weight) {
            return Err(AverageError::Weight { path: path.to_path_buf(), weight: *weight });
        }
    }
    let sum: f64 = parents.iter().map(|parent| parent.weight).sum();
    if sum > 0.0 { Ok(sum) } else { Err(AverageError::Weights) }
}

/// Whether `other` is the same model as `first`, but for its numbers.
fn check(first: &Checkpoint, other: &Checkpoint) -> Result<(), AverageError> {
    if other.style != Style::Hf {
        return Err(AverageError::Style { path: other.path().to_owned() });
    }
    if first.config != other.config {
        return Err(other_config(first, other));
    }
    for file in ["tokenizer.json", "tokenizer.model"] {
        let [a, b] = [first, other].map(|c| hash(&c.folder().join(file)));
        if a? != b? {
            let (path, first) = (other.path().to_owned(), first.path().to_owned());
            return Err(AverageError::Tokenizer { path, first, file });
        }
    }
    let (archive, path) = (other.archive(), other.path());
    let error = |tensor: &TensorInfo, expected: String, got: String| AverageError::Tensor {
        path: path.to_owned(),
        tensor: tensor.name.clone(),
        expected,
        got,
    };
    for info in first.archive().tensors() {
        let Some(twin) = archive.find(&info.name) else {
            return Err(error(info, format!("{:?}", info.shape), "missing".into()));
        };
        if twin.shape != info.shape {
            return Err(error(info, format!("{:?}", info.shape), format!("{:?}", twin.shape)));
        }
        if float(twin.dtype).is_none() {
            return Err(error(info, "F32, F16 or BF16".into(), twin.dtype.to_string()));
        }
    }
    let unknown = |info: &&TensorInfo| first.archive().find(&info.name).is_none();
    match archive.tensors().iter().find(unknown) {
        None => Ok(()),
        Some(info) => Err(error(info, "missing".into(), format!("{:?}", info.shape))),
    }
}

/// The error for two configs that differ: the first key that does, by name.
fn other_config(first: &Checkpoint, other: &Checkpoint) -> AverageError {
    let fields = |config: &Config| -> Map<String, Value> {
        let file = ConfigFile::new(config.clone(), GenerationDefaults::default(), None);
        serde_json::from_str(&file.write().unwrap_or_default()).unwrap_or_default()
    };
    let (a, b) = (fields(&first.config), fields(&other.config));
    let key = a.keys().chain(b.keys()).find(|key| a.get(*key) != b.get(*key));
    let key = key.map_or("config.json", String::as_str);
    let told = |map: &Map<String, Value>| map.get(key).map_or("absent".into(), Value::to_string);
    AverageError::Config {
        path: other.path().to_owned(),
        first: first.path().to_owned(),
        key: key.to_owned(),
        expected: told(&a),
        got: told(&b),
    }
}

/// The format, if it is one of floats.
fn float(dtype: DType) -> Option<Format> {
    dtype.format().filter(|format| format.block_len() == 1)
}

/// The weighted mean of one tensor, in the format of the first archive.
fn mean(info: &TensorInfo, parts: &[(&Archive, f64)], total: f64) -> Result<Vec<u8>, AverageError> {
    const NUMBERS: usize = 1 << 16; // of f64 sums: half a megabyte stays in the cache
    let numbers = info.elements().expect("a tensor of a file has a size");
    let mut out = Vec::with_capacity(info.bytes().expect("a tensor of a file has a size"));
    let mut tensors = Vec::new();
    for (archive, weight) in parts {
        let format = float(archive.tensor(&info.name)?.dtype).expect("types were checked");
        tensors.push((archive, archive.bytes(info)?, format, *weight));
    }
    let (mut sums, mut part) = (vec![0.0; NUMBERS], vec![0.0f32; NUMBERS]);
    for start in (0..numbers).step_by(NUMBERS) {
        let count = NUMBERS.min(numbers - start);
        let (sums, part) = (&mut sums[..count], &mut part[..count]);
        for (i, (archive, bytes, format, weight)) in tensors.iter().enumerate() {
            let size = format.block_bytes();
            blocks::unpack(*format, &bytes[start * size..][..count * size], part);
            if let Some(at) = part.iter().position(|x| !x.is_finite()) {
                return Err(AverageError::NotFinite {
                    path: archive.path().to_owned(),
                    tensor: info.name.clone(),
                    index: start + at,
                    value: part[at].into(),
                });
            }
            for (sum, x) in sums.iter_mut().zip(&*part) {
                let term = weight * f64::from(*x);
                // The first is not added to zero, which would turn -0 into 0.
                *sum = if i == 0 { term } else { *sum + term };
            }
        }
        push(&mut out, tensors[0].2, sums.iter().map(|sum| sum / total));
    }
    Ok(out)
}

/// Appends numbers, each rounded once.
fn push(out: &mut Vec<u8>, format: Format, numbers: impl Iterator<Item = f64>) {
    match format {
        Format::F16 => numbers.for_each(|x| out.extend(f16::from_f32(odd(x)).to_le_bytes())),
        Format::BF16 => numbers.for_each(|x| out.extend(bf16::from_f32(odd(x)).to_le_bytes())),
        _ => numbers.for_each(|x| out.extend((x as f32).to_le_bytes())),
    }
}

/// The f32 beside `x` whose last bit is odd, or `x` itself where it is an f32.
///
/// Rounding that to a shorter format gives what rounding `x` would: the odd bit remembers that
/// something was cut off, so that no tie arises which is none (Boldo and Melquiond, 2008).
fn odd(x: f64) -> f32 {
    let near = x as f32;
    let is_odd = near.to_bits() & 1 == 1;
    match f64::from(near).partial_cmp(&x) {
        _ if is_odd => near,
        Some(std::cmp::Ordering::Less) => near.next_up(),
        Some(std::cmp::Ordering::Greater) => near.next_down(),
        Some(std::cmp::Ordering::Equal) | None => near,
    }
}

/// The configuration files of the first checkpoint, to the byte.
fn texts(first: &Checkpoint) -> Result<Vec<(String, Vec<u8>)>, AverageError> {
    let mut texts = Vec::new();
    for name in ["config.json", "generation_config.json"] {
        let path = first.folder().join(name);
        match std::fs::read(&path) {
            Ok(bytes) => texts.push((name.to_owned(), bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(AverageError::Read { path, source }),
        }
    }
    Ok(texts)
}

/// `herd.json`: which checkpoints, by the hashes of their weights, and how much each counted.
fn provenance(job: &Job<'_>) -> Result<String, AverageError> {
    let mut parents = Vec::new();
    for Parent { path, weight } in job.parents {
        let full = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let name = full.file_name().unwrap_or_default().to_string_lossy().into_owned();
        parents.push(json!({ "name": name, "weight": weight, "sha256": hashes(path)? }));
    }
    let value = json!({ "stage": "average", "tool": job.tool, "parents": parents });
    Ok(format!("{value:#}\n"))
}

/// The hash of each file of weights, by name, in their order.
fn hashes(folder: &Path) -> Result<Map<String, Value>, AverageError> {
    let error = |source| AverageError::Read { path: folder.to_owned(), source };
    if folder.is_file() {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return Ok(Map::from_iter([(name, hash(folder)?.into())]));
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(error)? {
        let name = entry.map_err(error)?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".safetensors") || name.ends_with(".bin") {
            names.push(name);
        }
    }
    names.sort();
    let hash = |name: String| Ok((name.clone(), hash(&folder.join(name))?.into()));
    names.into_iter().map(hash).collect()
}

/// sha256 in hexadecimal; `None` of a file that is not there.
fn hash(path: &Path) -> Result<Option<String>, AverageError> {
    let error = |source| AverageError::Read { path: path.to_owned(), source };
    let mut file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(error)?,
    };
    let (mut sha256, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).map_err(error)? {
            0 => break,
            bytes => sha256.update(&buffer[..bytes]),
        }
    }
    Ok(Some(sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_once() {
        // Between two bf16 and a hair above the middle: by way of f32 it would be a tie.
        let (low, high) = (1.0, 1.0078125);
        let middle = (low + high) / 2.0;
        for (x, expected) in [(middle, low), (middle + 1e-12, high), (middle - 1e-12, low)] {
            assert_eq!(bf16::from_f32(odd(x)).to_f64(), expected, "{x}");
            assert_eq!(bf16::from_f32(odd(-x)).to_f64(), -expected, "{x}");
        }
        let twice = bf16::from_f32((middle + 1e-12) as f32).to_f64();
        assert_eq!(twice, low, "the double rounding that this avoids");
        let (low, high) = (1.0, 1.0009765625);
        assert_eq!(f16::from_f32(odd((low + high) / 2.0 + 1e-12)).to_f64(), high);
        for x in [0.0, -0.0, 1.5, f64::from(f32::MAX), f64::from(f32::MIN_POSITIVE)] {
            assert_eq!(f64::from(odd(x)).to_bits(), x.to_bits());
        }
    }

    #[test]
    fn weights_are_zero_or_of_a_sensible_size_and_not_all_zero() {
        let parents = |weights: &[f64]| -> Vec<Parent<'static>> {
            weights.iter().map(|weight| Parent { path: Path::new("a"), weight: *weight }).collect()
        };
        assert_eq!(total_weight(&parents(&[1.0, 0.0, 2.0])).unwrap(), 3.0);
        assert!(matches!(total_weight(&[]), Err(AverageError::Nothing)));
        for weight in [-1.0, 1e-320, 1e200, f64::NAN, f64::INFINITY] {
            let error = total_weight(&parents(&[1.0, weight])).unwrap_err();
            assert!(matches!(error, AverageError::Weight { .. }), "{error}");
        }
        assert!(matches!(total_weight(&parents(&[0.0, 0.0])), Err(AverageError::Weights)));
    }
}
