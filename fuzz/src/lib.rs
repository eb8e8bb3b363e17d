//! What each fuzz target does with its bytes.
//!
//! The programs in `fuzz_targets` hand over what libFuzzer makes up; the test `crates/herd/tests/fuzz.rs` includes
//! this file and hands over the corpus `regressions`. A target panics if Herd breaks a promise:
//! it panics itself, takes memory out of proportion, or an answer contradicts another.

mod chat;
mod config;
mod files;
mod json;
mod memory;
#[path = "../../crates/herd/tests/common/tiny.rs"]
mod tiny;
mod tokenizers;

/// What a target does with its bytes.
type Target = fn(&[u8]);

/// Every target, by the name of its program and of its folder of regressions.
pub const TARGETS: [(&str, Target); 10] = [
    ("chat_template", chat::template),
    ("encode_decode", tokenizers::encode_decode),
    ("gguf", files::gguf),
    ("hf_config", config::hf_config),
    ("model_output_parser", chat::model_output_parser),
    ("pth", files::pth),
    ("safetensors", files::safetensors),
    ("sentencepiece", tokenizers::sentencepiece),
    ("tiktoken_model", tokenizers::tiktoken_model),
    ("tokenizer_json", tokenizers::tokenizer_json),
];

/// Runs the target of this name on `data`. Panics if there is none.
pub fn run(target: &str, data: &[u8]) {
    let known = TARGETS.iter().find(|(name, _)| *name == target);
    let (_, target) = known.unwrap_or_else(|| panic!("no fuzz target {target}"));
    target(data);
}
