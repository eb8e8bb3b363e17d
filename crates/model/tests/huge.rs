//! A file that claims huge sizes is refused before anything of that size is allocated.

#![allow(clippy::unwrap_used)] // a helper that fails fails its test

mod common;

use std::fs;

use herd_model::Checkpoint;
use herd_model::names::Style;
use herd_tensor::files::Value;
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Far above what a model of 60 KB needs, far below what any of the claims would take.
const BYTES_MAX: usize = 4 << 20;

/// Claims beyond every bound, and at the bounds that a configuration may reach.
const CLAIMS: [u64; 5] = [1 << 10, 1 << 17, 1 << 20, 1 << 26, u32::MAX as u64];

/// The error's text and the most bytes that opening held.
fn refusal(path: &std::path::Path) -> (Option<String>, usize) {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let error = Checkpoint::open(path).err().map(|error| error.to_string());
    (error, ALLOCATOR.peak_usage().saturating_sub(before))
}

// One test, since the allocator counts for all threads.
#[test]
fn huge_claims_are_refused_within_the_memory_of_the_file() {
    let config = common::config();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huge.gguf");
    let tensors = common::tensors(&config, Style::Gguf);
    for key in [
        "llama.block_count",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.head_count_kv",
        "llama.attention.key_length",
        "llama.attention.value_length",
        "llama.rope.dimension_count",
        "llama.vocab_size",
    ] {
        for claim in CLAIMS {
            let mut metadata = common::metadata(&config);
            metadata.insert(key, Value::U32(claim as u32));
            common::write_gguf(&path, &metadata, &tensors);
            let (error, bytes) = refusal(&path);
            assert!(error.is_some(), "{key} = {claim} is taken");
            assert!(bytes < BYTES_MAX, "{key} = {claim}: {bytes} bytes for {error:?}");
        }
    }

    let folder = folder.path();
    common::write_hf(folder, &config, &common::tensors(&config, Style::Hf));
    let text = fs::read_to_string(folder.join("config.json")).unwrap();
    let plain: serde_json::Value = serde_json::from_str(&text).unwrap();
    for key in [
        "num_hidden_layers",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
    ] {
        for claim in CLAIMS.into_iter().chain([u64::MAX]) {
            let mut json = plain.clone();
            json[key] = claim.into();
            fs::write(folder.join("config.json"), json.to_string()).unwrap();
            let (error, bytes) = refusal(&folder.join("model.safetensors"));
            assert!(error.is_some(), "{key} = {claim} is taken");
            assert!(bytes < BYTES_MAX, "{key} = {claim}: {bytes} bytes for {error:?}");
        }
    }
}
