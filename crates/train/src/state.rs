//! Checkpoints of a run: a folder that other tools open, with what training needs beside it.
//!
//! `step-N/` is a Hugging Face folder; `step-N/state/` holds the f32 masters and the moments of the
//! optimiser, exactly, and everything else that decides the next step. It appears whole or not at
//! all, and taking it up gives the bits of a run that never stopped.

use crate::adapter;
use crate::config::{CheckpointConfig, LoraConfig};
use crate::error::TrainError;
use crate::optimizer::Optimizer;
use crate::rollout::Place;
use crate::spikes::Watch;
use crate::words::Words;
use herd_data::Cursor;
use herd_model::llama::{Llama, Named, Piece};
use herd_model::names::{Part, Style, name};
use herd_model::save::write_folder;
use herd_tensor::files::{Archive, DType, FileError, NewFolder, SafetensorsWriter, TensorInfo};
use herd_tensor::{Format, blocks};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What decides the next step, beside weights and moments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Tokens read, those of skipped batches not counted.
    pub tokens: u64,
    /// Spikes answered by going back.
    pub rewinds: u64,
    /// Bytes of `metrics.jsonl` that belong to these steps.
    pub metrics_bytes: u64,
    /// The running mean of the loss.
    pub watch: Watch,
    /// The next batch, of stages that read shards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Cursor>,
    /// The answers under way, of stages that learn from their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollouts: Option<Place>,
}

impl Progress {
    /// Nothing done.
    pub const NEW: Progress = Progress {
        step: 0,
        tokens: 0,
        rewinds: 0,
        metrics_bytes: 0,
        watch: Watch::NEW,
        cursor: None,
        rollouts: None,
    };
}

/// Where a checkpoint came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The verb that wrote it.
    pub stage: String,
    /// Steps done.
    pub step: u64,
    /// The checkpoint it started from, if any, and the hash of its weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The hash of the shards.
    pub data: String,
    /// The resolved config.
    pub config: String,
    /// The numeric class.
    pub class: String,
    /// The version of Herd.
    pub version: String,
}

/// What a checkpoint is made of.
pub struct Snapshot<'a> {
    /// The weights.
    pub model: &'a Llama,
    /// How they are stored for others.
    pub format: Format,
    /// Where LoRA is trained: its settings, and the checkpoint it stands beside.
    pub adapter: Option<(&'a LoraConfig, &'a str)>,
    /// Its moments.
    pub optimizer: &'a Optimizer,
    /// The rest.
    pub progress: &'a Progress,
    /// The tokenizer, whose files go along.
    pub words: &'a Words,
    /// Where it came from.
    pub provenance: &'a Provenance,
}

/// The folder of a step.
pub fn step_folder(checkpoints: &Path, step: u64) -> PathBuf {
    checkpoints.join(format!("step-{step}"))
}

/// The steps that have a whole checkpoint, ascending; leftovers of killed writers are removed.
///
/// Errors: the folder cannot be read.
pub fn steps(checkpoints: &Path) -> Result<Vec<u64>, TrainError> {
    let entries = match fs::read_dir(checkpoints) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(TrainError::io("read", checkpoints, e)),
    };
    let mut steps = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| TrainError::io("read", checkpoints, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(".step-") {
            let path = entry.path();
            fs::remove_dir_all(&path).map_err(|e| TrainError::io("remove", &path, e))?;
        }
        let step = name.strip_prefix("step-").and_then(|n| n.parse::<u64>().ok());
        steps.extend(step.filter(|step| name == format!("step-{step}")));
    }
    steps.sort_unstable();
    Ok(steps)
}

/// Removes a checkpoint in one step as seen by others: a killed removal leaves no half of one.
pub fn remove(checkpoints: &Path, step: u64) -> Result<(), TrainError> {
    let (path, gone) =
        (step_folder(checkpoints, step), checkpoints.join(format!(".step-{step}.old")));
    // The new name reaches the disk first: else a power cut could bring back the old one, emptied.
    let sync = || if cfg!(unix) { fs::File::open(checkpoints)?.sync_all() } else { Ok(()) };
    fs::rename(&path, &gone)
        .and_then(|()| sync())
        .and_then(|()| fs::remove_dir_all(&gone))
        .map_err(|e| TrainError::io("remove", &path, e))
}

/// Writes a checkpoint. Errors: the disk; what was there before is untouched.
pub fn save(path: &Path, snapshot: &Snapshot<'_>) -> Result<(), TrainError> {
    let Snapshot { model, format, adapter, optimizer, progress, words, provenance } = snapshot;
    let folder = NewFolder::create(path)?;
    match adapter {
        Some((lora, base)) => adapter::write(&folder, model, lora, base)?,
        None => write_folder(&folder, model.config(), &words.generation, *format, |part, see| {
            let named = model.params().into_iter();
            let whole = named.into_iter().find(|p| (p.part, p.piece) == (part, Piece::Whole));
            let whole = whole.unwrap_or_else(|| panic!("{part:?} is not trained"));
            whole.param.with_master(see)
        })?,
    }
    for (name, bytes) in &words.files {
        folder.write(name, bytes)?;
    }
    folder.write("herd.json", &pretty(provenance))?;
    folder.make("state")?;
    save_tensors(&folder.part().join("state/optimizer.safetensors"), model, optimizer)?;
    folder.write("state/train.json", &pretty(progress))?;
    Ok(folder.publish()?)
}

fn pretty(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("numbers and texts serialise");
    text.push(b'\n');
    text
}

/// Numbers that are written at once.
const PIECE: usize = 1 << 16;

/// The tensors of `state/optimizer.safetensors`: `w.`, `m.` and `v.` before the names of GGUF.
const KINDS: [&str; 3] = ["w", "m", "v"];

fn state_name(kind: &str, named: &Named<'_>) -> String {
    let part = name(named.part, Style::Gguf).expect("every part has a name in GGUF's style");
    match named.piece {
        Piece::Whole => format!("{kind}.{part}"),
        Piece::LoraA => format!("{kind}.{part}.lora_a"),
        Piece::LoraB => format!("{kind}.{part}.lora_b"),
    }
}

fn infos(model: &Llama) -> Vec<TensorInfo> {
    let of = |kind: &'static str| {
        move |named: Named<'_>| TensorInfo {
            name: state_name(kind, &named),
            shape: vec![named.param.rows(), named.param.cols()],
            dtype: DType::Format(Format::F32),
        }
    };
    KINDS.into_iter().flat_map(|kind| model.params().into_iter().map(of(kind))).collect()
}

fn save_tensors(path: &Path, model: &Llama, optimizer: &Optimizer) -> Result<(), FileError> {
    let infos = infos(model);
    let mut infos = infos.iter();
    let mut writer = SafetensorsWriter::create(path, &[], infos.as_slice())?;
    let mut bytes = Vec::new();
    let mut write = |numbers: &[f32]| {
        let info = infos.next().expect("one name a tensor");
        for piece in numbers.chunks(PIECE) {
            bytes.clear();
            bytes.extend(piece.iter().flat_map(|x| x.to_le_bytes()));
            writer.write_piece(&info.name, &bytes)?;
        }
        Ok(())
    };
    for named in model.params() {
        named.param.with_master(&mut write)?;
    }
    for moments in optimizer.moments() {
        write(&moments.m)?;
    }
    for moments in optimizer.moments() {
        write(&moments.v)?;
    }
    writer.finish()
}

/// Of the steps that have a checkpoint, ascending, those that need not be kept: what a stop wrote
/// between two that were due, and of those that were due the oldest. The last one always stays.
pub(crate) fn outlived(config: &CheckpointConfig, steps: &[u64]) -> Vec<u64> {
    let CheckpointConfig { every, keep_last, keep_every } = *config;
    let own = |step: &u64| every == 0 || step.is_multiple_of(every) || Some(step) == steps.last();
    let (due, between): (Vec<u64>, Vec<u64>) = steps.iter().copied().partition(own);
    let last = due.len().saturating_sub(keep_last);
    let old = due[..last].iter().chain(&between).copied();
    old.filter(|step| keep_every == 0 || step % keep_every != 0).collect()
}

/// A number among the masters and moments that is none, and the name of its tensor.
pub fn no_number(model: &Llama, optimizer: &Optimizer) -> Option<(String, f64)> {
    let none = |numbers: &[f32]| numbers.iter().copied().find(|x| !x.is_finite()).map(f64::from);
    model.params().iter().zip(optimizer.moments()).find_map(|(named, moments)| {
        let found = [named.param.with_master(none), none(&moments.m), none(&moments.v)];
        let found = KINDS.into_iter().zip(found);
        found.into_iter().find_map(|(kind, x)| Some((state_name(kind, named), x?)))
    })
}

/// Reads the state of a checkpoint into a model and an optimiser that have its shape.
///
/// Errors: a file is missing or damaged, or a tensor has another shape.
pub fn load(path: &Path, model: &Llama, optimizer: &mut Optimizer) -> Result<Progress, TrainError> {
    let progress = load_progress(path)?;
    let archive = Archive::open(path.join("state/optimizer.safetensors"))?;
    let mut tensors: HashMap<String, Vec<f32>> = HashMap::new();
    for TensorInfo { name, shape, .. } in infos(model) {
        let numbers = exact(&archive, &name, &shape)?;
        tensors.insert(name, numbers);
    }
    let mut take = |kind, named: &Named<'_>| {
        tensors.remove(&state_name(kind, named)).expect("all were read above")
    };
    for (named, moments) in model.params().iter().zip(optimizer.moments_mut()) {
        named.param.set_master(&take("w", named));
        (moments.m, moments.v) = (take("m", named), take("v", named));
    }
    optimizer.step = progress.step;
    Ok(progress)
}

/// Reads what decides the next step, weights and moments left out.
pub fn load_progress(path: &Path) -> Result<Progress, TrainError> {
    let file = path.join("state/train.json");
    let text = fs::read(&file).map_err(|e| TrainError::io("read", &file, e))?;
    serde_json::from_slice(&text)
        .map_err(|e| TrainError::Damaged { path: file, what: e.to_string() })
}

/// The numbers of a tensor of `state/optimizer.safetensors`.
///
/// Errors: it is not there, is no matrix of f32 of this shape, or holds what is no number.
fn exact(archive: &Archive, name: &str, shape: &[usize]) -> Result<Vec<f32>, TrainError> {
    let info = archive.tensor(name)?;
    let damaged = |what| TrainError::Damaged { path: archive.path().to_owned(), what };
    if info.shape != shape || info.dtype != DType::Format(Format::F32) {
        let what = format!("{name} is {:?} of {}, not {shape:?} of F32", info.shape, info.dtype);
        return Err(damaged(what));
    }
    let mut numbers = vec![0.0; shape.iter().product()];
    blocks::unpack(Format::F32, &archive.bytes(info)?, &mut numbers);
    match numbers.iter().find(|x| !x.is_finite()) {
        Some(bad) => Err(damaged(format!("{name} holds {bad}"))),
        None => Ok(numbers),
    }
}

/// The first masters of a part of a checkpoint that a new run starts from: exact where it has them.
///
/// Errors: the part cannot be read, is none of this model, or holds what is no number.
pub fn first_numbers(
    checkpoint: &herd_model::Checkpoint,
    part: Part,
) -> Result<Vec<f32>, TrainError> {
    let state = checkpoint.folder().join("state/optimizer.safetensors");
    let name = format!("w.{}", name(part, Style::Gguf).expect("every part has a name"));
    if state.is_file() {
        let mut shape = part.shape(&checkpoint.config);
        if shape.len() == 1 {
            shape.insert(0, 1); // gains are kept as rows
        }
        return exact(&Archive::open(&state)?, &name, &shape);
    }
    let (path, numbers) = (checkpoint.path().to_owned(), checkpoint.part(part)?.unpack());
    match numbers.iter().find(|x| !x.is_finite()) {
        Some(bad) => Err(TrainError::Damaged { path, what: format!("{name} holds {bad}") }),
        None => Ok(numbers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::OptimizerConfig;
    use herd_model::Config;
    use herd_model::llama::Training;
    use herd_tensor::{Class, Device, Tape};
    use std::sync::Arc;

    #[test]
    fn what_a_stop_wrote_takes_no_place_of_what_was_due() {
        let config = CheckpointConfig { every: 5, keep_last: 2, keep_every: 0 };
        assert_eq!(outlived(&config, &[10, 15, 18]), [10]);
        assert_eq!(outlived(&config, &[15, 18, 20]), [18]);
        let forever = CheckpointConfig { keep_every: 10, ..config };
        assert_eq!(outlived(&forever, &[10, 15, 18, 20]), [18]);
        let at_the_end = CheckpointConfig { every: 0, ..config };
        assert_eq!(outlived(&at_the_end, &[3, 7, 12]), [3]);
    }

    #[test]
    fn first_numbers_of_a_foreign_file_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/models/llama2_gqa");
        for name in ["config.json", "model.safetensors"] {
            fs::copy(from.join(name), folder.path().join(name)).unwrap();
        }
        fs::create_dir(folder.path().join("state")).unwrap();
        let checkpoint = herd_model::Checkpoint::open(folder.path()).unwrap();
        let width = checkpoint.config.width;
        let first = |shape: &[usize], format: Format, number: f32| {
            let (name, shape) = ("w.output_norm.weight".to_owned(), shape.to_vec());
            let count = shape.iter().product();
            let info = TensorInfo { name, shape, dtype: DType::Format(format) };
            let path = folder.path().join("state/optimizer.safetensors");
            let mut writer =
                SafetensorsWriter::create(&path, &[], std::slice::from_ref(&info)).unwrap();
            let mut bytes = number.to_le_bytes().repeat(count);
            bytes.truncate(count * if format == Format::F32 { 4 } else { 2 });
            writer.write_tensor(&info.name, &bytes).unwrap();
            writer.finish().unwrap();
            first_numbers(&checkpoint, Part::OutputNorm).map_err(|e| e.to_string())
        };
        assert_eq!(first(&[1, width], Format::F32, 0.5), Ok(vec![0.5; width]));
        for (shape, format, number, told) in [
            (&[1, width][..], Format::BF16, 0.5, "of BF16"),
            (&[1, width + 1][..], Format::F32, 0.5, "output_norm.weight is [1, "),
            (&[width][..], Format::F32, 0.5, "output_norm.weight is ["),
            (&[1, width][..], Format::F32, f32::NAN, "holds NaN"),
        ] {
            let error = first(shape, format, number).unwrap_err();
            assert!(error.contains("optimizer.safetensors is damaged"), "{error}");
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn what_is_no_number_is_named_wherever_it_stands() {
        let config = Config {
            layers: 1,
            width: 4,
            heads: 1,
            kv_heads: 1,
            head_dim: 4,
            ffn_width: 4,
            vocab: 3,
            ..herd_model::presets::LLAMA3_8B
        };
        let (tape, format) = (Arc::new(Tape::default()), Format::F32);
        let training = Training { tape, format, recompute: false };
        let device = Device::cpu(Class::Portable, 1);
        let numbers =
            |part: Part| Ok::<_, ()>(vec![1.0; part.shape(&config).iter().product::<usize>()]);
        let model = Llama::trainable(&config, &device, 8, &training, numbers).unwrap();
        let mut optimizer = Optimizer::new(&model, OptimizerConfig::LLAMA);
        assert_eq!(no_number(&model, &optimizer), None);
        let last = optimizer.moments().len() - 1;
        optimizer.moments_mut()[last].v[0] = f32::INFINITY;
        let (name, value) = no_number(&model, &optimizer).unwrap();
        assert_eq!((&name[..2], value), ("v.", f64::INFINITY));
        let first = &model.params()[0];
        first.param.set_master(&[f32::NAN; 12]);
        let (name, value) = no_number(&model, &optimizer).unwrap();
        assert!(name == state_name("w", first) && value.is_nan(), "{name} {value}");
    }
}
