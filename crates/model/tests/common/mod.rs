//! A small random model, written in each style for the tests to open.

#![allow(dead_code)] // each test file uses a part of this

use std::fs;
use std::path::{Path, PathBuf};

use herd_model::names::{self, Direction, EmbeddingShards, Part, Style};
use herd_model::{Config, GenerationDefaults, RopeScaling, gguf, hf, meta};
use herd_tensor::Format;
use herd_tensor::files::{
    DType, GgufWriter, Metadata, PthWriter, SafetensorsWriter, TensorInfo, Value,
};

/// Two layers with grouped queries, every axis of its own length.
pub fn config() -> Config {
    Config {
        layers: 2,
        width: 32,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        ffn_width: 64,
        vocab: 40,
        norm_eps: 1e-5,
        rope_theta: 500_000.0,
        rope_scaling: RopeScaling::None,
        context: 8192,
        tied: false,
        head: herd_model::Head::Language,
    }
}

/// A tensor that is to be written.
#[derive(Clone)]
pub struct Tensor {
    pub info: TensorInfo,
    pub bytes: Vec<u8>,
}

impl Tensor {
    pub fn new(name: &str, shape: &[usize], dtype: DType, bytes: Vec<u8>) -> Tensor {
        Tensor { info: TensorInfo { name: name.into(), shape: shape.to_vec(), dtype }, bytes }
    }
}

/// The numbers of a part in the order of Meta and GGUF, in f32; the same on each call.
pub fn numbers(config: &Config, part: Part) -> Vec<f32> {
    let name = names::name(part, Style::Gguf).unwrap();
    let mut seed = name.bytes().fold(7u32, |seed, b| seed.wrapping_mul(31).wrapping_add(b.into()));
    (0..part.shape(config).iter().product())
        .map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) as f32 / 32_768.0 - 1.0
        })
        .collect()
}

pub fn bytes(config: &Config, part: Part) -> Vec<u8> {
    numbers(config, part).into_iter().flat_map(f32::to_le_bytes).collect()
}

/// The model's tensors under the names of `style`, rows in its order.
pub fn tensors(config: &Config, style: Style) -> Vec<Tensor> {
    let tensor = |part: Part| {
        let mut bytes = bytes(config, part);
        if let (Style::Hf, Some(heads)) = (style, part.permuted_heads(config)) {
            let (head_dim, row_bytes) = (config.head_dim, 4 * config.width);
            let order = Direction::MetaToHf;
            bytes = names::permute_rows(&bytes, heads, head_dim, row_bytes, order);
        }
        let name = names::name(part, style).unwrap();
        Tensor::new(&name, &part.shape(config), DType::Format(Format::F32), bytes)
    };
    names::all_parts(config).into_iter().map(tensor).collect()
}

pub fn write_hf(folder: &Path, config: &Config, tensors: &[Tensor]) {
    let generation = GenerationDefaults { bos_token_id: Some(1), ..Default::default() };
    let file = hf::ConfigFile::new(config.clone(), generation, Some("float32".into()));
    fs::write(folder.join("config.json"), file.write().unwrap()).unwrap();
    let infos: Vec<_> = tensors.iter().map(|t| t.info.clone()).collect();
    let mut writer =
        SafetensorsWriter::create(folder.join("model.safetensors"), &[], &infos).unwrap();
    tensors.iter().for_each(|t| writer.write_tensor(&t.info.name, &t.bytes).unwrap());
    writer.finish().unwrap();
}

/// `config` as typed GGUF metadata.
pub fn metadata(config: &Config) -> Metadata {
    let mut metadata = Metadata::default();
    for (key, value) in gguf::write(config).unwrap().metadata {
        metadata.insert(
            key,
            match value {
                gguf::Value::Unsigned(n) => Value::U32(n as u32),
                gguf::Value::Float(x) => Value::F32(x as f32),
                gguf::Value::Text(text) => Value::String(text),
                other => panic!("{other:?}"),
            },
        );
    }
    metadata
}

pub fn write_gguf(path: &Path, metadata: &Metadata, tensors: &[Tensor]) {
    let infos: Vec<_> = tensors.iter().map(|t| t.info.clone()).collect();
    let mut writer = GgufWriter::create(path, metadata, &infos).unwrap();
    tensors.iter().for_each(|t| writer.write_tensor(&t.info.name, &t.bytes).unwrap());
    writer.finish().unwrap();
}

pub fn write_pth(path: &Path, tensors: &[Tensor]) {
    let infos: Vec<_> = tensors.iter().map(|t| t.info.clone()).collect();
    let mut writer = PthWriter::create(path, &infos).unwrap();
    tensors.iter().for_each(|t| writer.write_tensor(&t.info.name, &t.bytes).unwrap());
    writer.finish().unwrap();
}

/// Meta's folder, spread over `ranks` files.
pub fn write_meta(
    folder: &Path,
    config: &Config,
    tensors: &[Tensor],
    ranks: usize,
    cut: EmbeddingShards,
) {
    fs::write(folder.join("params.json"), meta::write(config).unwrap()).unwrap();
    for rank in 0..ranks {
        let shards: Vec<_> = tensors.iter().map(|t| shard(config, t, rank, ranks, cut)).collect();
        write_pth(&folder.join(format!("consolidated.{rank:02}.pth")), &shards);
    }
}

/// What one rank holds of a tensor.
fn shard(config: &Config, t: &Tensor, rank: usize, ranks: usize, cut: EmbeddingShards) -> Tensor {
    let Ok(names::Named::Part(part)) = names::parse(&t.info.name, Style::Meta) else {
        return t.clone();
    };
    let Some(axis) = names::shard_axis(part, cut) else { return t.clone() };
    let step = names::rank_step(part, config, ranks);
    let (rank, ranks) = (rank / step, ranks / step);
    let mut shard = t.clone();
    shard.info.shape[axis] /= ranks;
    let rows = if axis == 0 { 1 } else { t.info.shape[0] };
    let row_bytes = t.bytes.len() / rows;
    let cut_bytes = row_bytes / ranks;
    shard.bytes = t
        .bytes
        .chunks(row_bytes)
        .flat_map(|row| &row[rank * cut_bytes..][..cut_bytes])
        .copied()
        .collect();
    shard
}

/// A recorded Hugging Face folder.
pub fn recorded(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/models").join(name)
}

/// Every recorded folder.
pub const RECORDED: [&str; 11] = [
    "code_llama_sharded",
    "dynamic_ntk",
    "llama1_mha",
    "llama2_gqa",
    "llama2_linear",
    "llama31_scaled",
    "llama32_tied",
    "llama3_gqa",
    "mqa_rope_parameters",
    "yarn",
    "yarn_tuned",
];
