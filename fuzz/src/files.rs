//! Files of tensors: as they come, and made valid on the outside so that the inside is reached.

use std::fs;
use std::io::{Cursor, Read, Write};
use std::path::Path;
use std::sync::OnceLock;

use arbitrary::{Arbitrary, Result, Unstructured};
use herd_engine::score::Scorer;
use herd_kernels::Class;
use herd_model::Checkpoint;
use herd_model::llama::Llama;
use herd_tensor::files::{Archive, Array, DType, FileError, Metadata, TensorInfo, Value};
use herd_tensor::{Device, Format, KvFormat};

use super::memory::{Allowance, within};
use super::tiny;

/// As `crates/tensor/tests/hostile.rs`: a pickled object or a string takes more than its bytes.
const READING: Allowance = Allowance { factor: 8, fixed: 1 << 20 };
/// Of a whole model beside its file: the laid weights, a short cache, threads.
const RUNNING: Allowance = Allowance { factor: 16, fixed: 64 << 20 };
/// Larger models are opened and not run.
const RUN_BYTES_MAX: usize = 1 << 20;
/// Positions of the cache that a model runs with.
const CONTEXT: usize = 8;

/// GGUF: what begins with its magic is a file as it is; anything else says how to change the
/// metadata and tensors of a tiny model, which is then opened, loaded and run.
pub fn gguf(data: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder for one file");
    let path = folder.path().join("model.gguf");
    if data.starts_with(b"GGUF") {
        fs::write(&path, data).expect("a small file can be written");
        let _ = read_all(&path);
        run(&path);
    } else if let Ok((metadata, tensors)) = edited_model(&mut Unstructured::new(data)) {
        // The writer refuses what no file can say.
        if tiny::write_as(&path, &metadata, &tensors).is_ok() {
            let _ = read_all(&path);
            run(&path);
        }
    }
}

/// safetensors: what begins with a brace is a header, and gets its length and zeros for
/// tensors; anything else is a file as it is.
pub fn safetensors(data: &[u8]) {
    const DATA_BYTES_MAX: u64 = 4096;
    let mut file = data.to_vec();
    if data.starts_with(b"{") {
        let header: serde_json::Value = serde_json::from_slice(data).unwrap_or_default();
        let ends = header.as_object().into_iter().flatten();
        let ends = ends.filter_map(|(_, tensor)| tensor["data_offsets"][1].as_u64());
        let bytes = ends.max().unwrap_or(0).min(DATA_BYTES_MAX) as usize;
        file = (data.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(data);
        file.resize(file.len() + bytes, 0);
    }
    read_file("model.safetensors", &file);
}

/// PyTorch: what begins with a zip's magic is a file as it is; anything else is the pickle
/// inside a sound one.
pub fn pth(data: &[u8]) {
    match data.starts_with(b"PK") {
        true => read_file("model.pth", data),
        false => read_file("model.pth", &with_pickle(data)),
    }
}

fn read_file(name: &str, bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder for one file");
    let path = folder.path().join(name);
    fs::write(&path, bytes).expect("a small file can be written");
    let _ = read_all(&path);
}

/// Opens a file and reads every tensor of it.
fn read_all(path: &Path) -> std::result::Result<(), FileError> {
    let file_bytes = fs::metadata(path).expect("it was written").len() as usize;
    within(READING, file_bytes, || {
        let archive = Archive::open(path)?;
        for info in archive.tensors() {
            let bytes = archive.bytes(info)?;
            assert_eq!(Some(bytes.len()), info.bytes(), "{}", info.name);
        }
        Ok(())
    })
}

/// Loads what the checkpoint's own checks let through, and computes the log-probability of a few tokens.
fn run(path: &Path) {
    let file_bytes = fs::metadata(path).expect("it was written").len() as usize;
    if file_bytes > RUN_BYTES_MAX {
        return;
    }
    within(RUNNING, file_bytes, || {
        let Ok(checkpoint) = Checkpoint::open(path) else { return };
        let config = &checkpoint.config;
        let tokens: Vec<u32> = (0..4.min(config.vocab as u32)).collect();
        let Ok(model) = Llama::load(&checkpoint, device(), CONTEXT) else { return };
        let mut scorer = Scorer::new(&model, CONTEXT, CONTEXT, KvFormat::F16);
        let scores = scorer.log_probs(&tokens, 0);
        assert_eq!(scores.len(), tokens.len().saturating_sub(1));
        assert!(scores.iter().all(|p| p.is_nan() || *p <= 0.0), "{scores:?}");
    });
}

fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| Device::cpu(Class::best(), 1))
}

/// The tiny model with up to four changes.
fn edited_model(u: &mut Unstructured) -> Result<(Metadata, Vec<TensorInfo>)> {
    let (mut metadata, mut tensors) = (tiny::metadata(), tiny::tensors());
    for _ in 0..u.int_in_range(0..=4)? {
        let i = u.choose_index(tensors.len())?;
        match u.int_in_range(0..=6)? {
            0 => {
                let keys: Vec<String> = metadata.iter().map(|(key, _)| key.to_owned()).collect();
                metadata.remove(u.choose(&keys)?.as_str());
            }
            1 => {
                let key = *u.choose(&OTHER_KEYS)?;
                metadata.insert(key, value(u)?);
            }
            2 => tensors[i].dtype = DType::Format(*u.choose(&Format::ALL)?),
            3 => {
                let axis = u.choose_index(tensors[i].shape.len())?;
                tensors[i].shape[axis] = usize::from(u.arbitrary::<u8>()?);
            }
            4 if tensors.len() > 1 => drop(tensors.remove(i)),
            _ => {
                let keys: Vec<String> = metadata.iter().map(|(key, _)| key.to_owned()).collect();
                metadata.insert(u.choose(&keys)?.clone(), value(u)?);
            }
        }
    }
    Ok((metadata, tensors))
}

/// Keys that Herd reads and the tiny model lacks.
const OTHER_KEYS: [&str; 12] = [
    "llama.attention.key_length",
    "llama.attention.value_length",
    "llama.expert_count",
    "llama.rope.dimension_count",
    "llama.rope.scaling.factor",
    "llama.rope.scaling.original_context_length",
    "llama.rope.scaling.type",
    "llama.rope.scaling.yarn_beta_fast",
    "general.alignment",
    "general.quantization_version",
    "split.count",
    "tokenizer.ggml.unknown_token_id",
];

/// A value of any type, often one at which something changes.
fn value(u: &mut Unstructured) -> Result<Value> {
    const EDGES: [u64; 17] = [
        0,
        1,
        2,
        3,
        4,
        8,
        16,
        31,
        32,
        33,
        64,
        259,
        1 << 16,
        1 << 26,
        1 << 31,
        u32::MAX as u64,
        u64::MAX,
    ];
    const WORDS: [&str; 8] = ["", "llama", "gpt2", "linear", "yarn", "longrope", "mistral", "\0"];
    let n = *u.choose(&EDGES)?;
    Ok(match u.int_in_range(0..=9)? {
        0..=3 => Value::U32(n as u32),
        4 => Value::I32(n as i32),
        5 => Value::U64(n),
        6 => Value::F32(f32::arbitrary(u)?),
        7 => Value::String((*u.choose(&WORDS)?).to_owned()),
        8 => Value::Array(Array::U32(vec![n as u32; u.int_in_range(0..=3)?])),
        _ => Value::Bool(u.arbitrary()?),
    })
}

/// `testdata/files/small.pth` with another pickle in it.
fn with_pickle(pickle: &[u8]) -> Vec<u8> {
    const SOUND: &[u8] = include_bytes!("../../testdata/files/small.pth");
    let mut archive = zip::ZipArchive::new(Cursor::new(SOUND)).expect("a sound zip");
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).expect("an entry of the sound zip");
        writer.start_file(entry.name(), stored).expect("a zip in memory");
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("an entry of the sound zip");
        let bytes = if entry.name().ends_with("data.pkl") { pickle } else { &bytes };
        writer.write_all(bytes).expect("a zip in memory");
    }
    writer.finish().expect("a zip in memory").into_inner()
}
