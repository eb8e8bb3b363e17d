//! Commands that look into files: `inspect`, `tokenize`, `detokenize`, and `doctor`.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;
#[path = "common/tiny.rs"]
mod tiny;

use std::fs;
use std::io::Write;
use std::process::Stdio;

use common::{herd, run, told};
use serde_json::Value;

/// Runs with `input` on standard input and gives code, raw standard output and standard error.
fn feed(home: &std::path::Path, args: &[&str], input: &[u8]) -> (i32, Vec<u8>, String) {
    let mut command = herd(home);
    let command = command.args(args).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), output.stdout, err)
}

#[test]
fn inspect_tells_metadata_tensors_types_and_sizes() {
    let home = tempfile::tempdir().unwrap();
    let model = tiny::write(home.path());
    let model = model.to_str().unwrap();
    let (code, out, err) = run(home.path(), &["inspect", model, "--json"]);
    assert_eq!(code, 0, "{err}");
    let value: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["metadata"]["llama.block_count"], 2);
    assert_eq!(value["metadata"]["llama.attention.layer_norm_rms_epsilon"], 1e-5);
    assert_eq!(value["metadata"]["tokenizer.ggml.tokens"]["length"], 259);
    assert_eq!(value["tensors"][0]["shape"], serde_json::json!([259, 32]));
    assert_eq!(value["types"]["F32"]["tensors"], 20);
    assert_eq!(value["bytes"], value["parameters"].as_u64().unwrap() * 4);
    let (_, out, _) = run(home.path(), &["inspect", model, "--json", "--full"]);
    let value: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["metadata"]["tokenizer.ggml.tokens"].as_array().unwrap().len(), 259);
}

#[test]
fn a_file_cannot_write_control_codes_to_the_terminal() {
    let home = tempfile::tempdir().unwrap();
    let model = tiny::write(home.path());
    let (_, out, _) = run(home.path(), &["inspect", model.to_str().unwrap()]);
    assert!(out.contains("tiny \\u{1b}[31m"), "{out}");
    assert!(!out.contains('\x1b'));
}

#[test]
fn a_cut_file_is_one_line_that_says_where() {
    let home = tempfile::tempdir().unwrap();
    let model = tiny::write(home.path());
    let bytes = fs::read(&model).unwrap();
    fs::write(&model, &bytes[..bytes.len() / 2]).unwrap();
    let (code, out, err) = run(home.path(), &["inspect", model.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("blk.0.ffn_gate.weight") && err.lines().count() == 1, "{err}");
}

#[test]
fn any_bytes_come_back_from_their_ids() {
    let home = tempfile::tempdir().unwrap();
    let model = tiny::write(home.path());
    let model = model.to_str().unwrap();
    let text: Vec<u8> = (0..=255).chain(*b"<|im_end|> caf\xc3\xa9\n").collect();
    let (code, ids, err) = feed(home.path(), &["tokenize", "-m", model, "--ids"], &text);
    assert_eq!(code, 0, "{err}");
    let line = String::from_utf8(ids.clone()).unwrap();
    assert_eq!((line.matches('\n').count(), line.split_whitespace().count()), (1, text.len()));
    let (code, back, err) = feed(home.path(), &["detokenize", "-m", model], &ids);
    assert_eq!((code, back), (0, text), "{err}");
}

#[test]
fn control_tokens_come_only_where_asked_for() {
    let home = tempfile::tempdir().unwrap();
    let model = tiny::write(home.path());
    let model = model.to_str().unwrap();
    let args = ["tokenize", "-m", model, "--ids", "-p", "<|im_end|>"];
    let (_, out, _) = run(home.path(), &args);
    assert_eq!(out.split_whitespace().count(), 10);
    let (_, out, _) = run(home.path(), &[&args[..], &["--special", "--bos"]].concat());
    assert_eq!(out, "257 258\n");
}

#[test]
fn ids_beyond_the_vocabulary_are_named() {
    let home = tempfile::tempdir().unwrap();
    let model = tiny::write(home.path());
    let args = ["detokenize", "-m", model.to_str().unwrap(), "--ids", "1 259"];
    let (code, out, err) = run(home.path(), &args);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("\"259\", expected a number below 259"), "{err}");
}

#[test]
fn doctor_names_the_class_and_obeys_the_one_asked_for() {
    let home = tempfile::tempdir().unwrap();
    let (code, out, err) = run(home.path(), &["doctor", "--json", "--fast"]);
    assert_eq!(code, 0, "{err}");
    let value: Value = serde_json::from_str(&out).unwrap();
    assert!(value["classes"].as_array().unwrap().contains(&value["class"]));
    let output =
        herd(home.path()).env("HERD_CLASS", "portable").args(["doctor", "--fast"]).output();
    assert!(told(output.unwrap()).1.contains("class      portable"));
    let (code, _, err) = run(home.path(), &["doctor", "--class", "abacus"]);
    assert_eq!(code, 2);
    assert!(err.contains("\"abacus\"") && err.contains("portable"), "{err}");
}
