//! A Llama of a few thousand random numbers, with a vocabulary of single bytes.

#![allow(dead_code)] // each test file uses a part

use std::path::{Path, PathBuf};

use herd_kernels::Format;
use herd_tensor::files::{Array, DType, FileError, GgufWriter, Metadata, TensorInfo, Value};

const WIDTH: usize = 32;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const FFN: usize = 64;
const LAYERS: usize = 2;
/// 256 bytes, then `<|endoftext|>`, `<|im_start|>`, `<|im_end|>`.
pub const VOCAB: usize = 259;

const TEMPLATE: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + \
    message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}\
    {{ '<|im_start|>assistant\n' }}{% endif %}";

/// Writes `tiny.gguf` into `folder`.
pub fn write(folder: &Path) -> PathBuf {
    write_with(folder.join("tiny.gguf"), &metadata())
}

/// [`write`] in a folder of its own.
pub fn home() -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let model = write(home.path());
    (home, model)
}

/// The same without a chat template.
pub fn write_plain(folder: &Path) -> PathBuf {
    let mut metadata = metadata();
    metadata.remove("tokenizer.chat_template");
    write_with(folder.join("plain.gguf"), &metadata)
}

/// The same with the control tokens of Llama 3.1 as far as they fit, for `--chat-template llama3.1-hf`.
pub fn write_llama3(folder: &Path) -> PathBuf {
    write_controls(folder.join("llama3.gguf"), &[])
}

/// The same with the control tokens of calls of built-in tools.
pub fn write_llama31(folder: &Path) -> PathBuf {
    write_controls(folder.join("llama31.gguf"), &["<|eom_id|>", "<|python_tag|>"])
}

fn write_controls(path: PathBuf, more: &[&str]) -> PathBuf {
    let mut metadata = metadata();
    metadata.remove("tokenizer.chat_template");
    let controls = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"];
    let mut tokens: Vec<String> = byte_characters().map(String::from).to_vec();
    tokens.extend(controls.iter().chain(more).map(|&name| name.to_owned()));
    let vocab = tokens.len();
    let kinds = (0..vocab).map(|id| if id < 256 { 1 } else { 3 }).collect();
    metadata.insert("llama.vocab_size", Value::U32(vocab as u32));
    metadata.insert("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
    metadata.insert("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds)));
    metadata.insert("tokenizer.ggml.bos_token_id", Value::U32(256));
    metadata.insert("tokenizer.ggml.eos_token_id", Value::U32(259));
    let mut tensors = tensors();
    tensors[0].shape = vec![vocab, WIDTH];
    write_as(&path, &metadata, &tensors).unwrap();
    path
}

/// The same with the longest context that a file may state.
pub fn write_endless(folder: &Path) -> PathBuf {
    let mut metadata = metadata();
    metadata.insert("llama.context_length", Value::U32(1 << 26));
    write_with(folder.join("endless.gguf"), &metadata)
}

fn write_with(path: PathBuf, metadata: &Metadata) -> PathBuf {
    write_as(&path, metadata, &tensors()).unwrap();
    path
}

/// Writes a file of this metadata and these tensors, whatever model that makes. Tensors of F32 get
/// random numbers, others the bytes of some.
pub fn write_as(path: &Path, metadata: &Metadata, tensors: &[TensorInfo]) -> Result<(), FileError> {
    let mut writer = GgufWriter::create(path, metadata, tensors)?;
    let mut seed = 1u64;
    for tensor in tensors {
        let norm = tensor.name.contains("norm");
        let len = tensor.bytes().expect("types with a size");
        let numbers =
            (0..len.div_ceil(4)).map(|_| if norm { 1.0 } else { 0.3 * random(&mut seed) });
        let bytes: Vec<u8> = numbers.flat_map(f32::to_le_bytes).take(len).collect();
        writer.write_tensor(&tensor.name, &bytes)?;
    }
    writer.finish()
}

/// About uniform in -1 to 1: a linear congruence is random enough for weights.
fn random(seed: &mut u64) -> f32 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 40) as f32 / (1 << 23) as f32 - 1.0
}

/// The tensors in the order of the file.
pub fn tensors() -> Vec<TensorInfo> {
    let f32 = DType::Format(Format::F32);
    let tensor =
        |name: String, shape: &[usize]| TensorInfo { name, shape: shape.into(), dtype: f32 };
    let mut tensors = vec![tensor("token_embd.weight".into(), &[VOCAB, WIDTH])];
    let kv_width = WIDTH / HEADS * KV_HEADS;
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("attn_norm", vec![WIDTH]),
            ("attn_q", vec![WIDTH, WIDTH]),
            ("attn_k", vec![kv_width, WIDTH]),
            ("attn_v", vec![kv_width, WIDTH]),
            ("attn_output", vec![WIDTH, WIDTH]),
            ("ffn_norm", vec![WIDTH]),
            ("ffn_gate", vec![FFN, WIDTH]),
            ("ffn_up", vec![FFN, WIDTH]),
            ("ffn_down", vec![WIDTH, FFN]),
        ] {
            tensors.push(tensor(format!("blk.{layer}.{name}.weight"), &shape));
        }
    }
    tensors.push(tensor("output_norm.weight".into(), &[WIDTH]));
    tensors
}

/// Shape, vocabulary and template.
pub fn metadata() -> Metadata {
    let mut metadata = Metadata::default();
    let mut set = |key: &str, value: Value| drop(metadata.insert(key, value));
    let number = |n: usize| Value::U32(n as u32);
    set("general.architecture", Value::String("llama".into()));
    set("general.name", Value::String("tiny \x1b[31m".into()));
    set("llama.context_length", number(4096));
    set("llama.embedding_length", number(WIDTH));
    set("llama.block_count", number(LAYERS));
    set("llama.feed_forward_length", number(FFN));
    set("llama.attention.head_count", number(HEADS));
    set("llama.attention.head_count_kv", number(KV_HEADS));
    set("llama.rope.freq_base", Value::F32(10_000.0));
    set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    set("llama.vocab_size", number(VOCAB));
    set("tokenizer.ggml.model", Value::String("gpt2".into()));
    set("tokenizer.ggml.pre", Value::String("smollm".into()));
    let mut tokens: Vec<String> = byte_characters().map(String::from).to_vec();
    tokens.extend(["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(str::to_owned));
    let kinds = (0..VOCAB).map(|id| if id < 256 { 1 } else { 3 }).collect();
    set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
    set("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds)));
    set("tokenizer.ggml.merges", Value::Array(Array::String(vec![])));
    set("tokenizer.ggml.bos_token_id", number(257));
    set("tokenizer.ggml.eos_token_id", number(258));
    set("tokenizer.ggml.add_bos_token", Value::Bool(false));
    set("tokenizer.chat_template", Value::String(TEMPLATE.into()));
    metadata
}

/// The characters by which GPT-2's vocabulary writes bytes: printable ones stand for themselves.
fn byte_characters() -> [char; 256] {
    let mut next = 256;
    std::array::from_fn(|byte| {
        let printable = matches!(byte, 33..=126 | 161..=172 | 174..=255);
        let code = if printable { byte as u32 } else { next };
        next += u32::from(!printable);
        char::from_u32(code).unwrap()
    })
}
