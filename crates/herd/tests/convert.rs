//! Models written in other styles and with fewer bits, and what `verify` says of them.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::path::Path;

use common::run;
use serde_json::Value;

/// A small model without a tokenizer, recorded as a Hugging Face folder.
const PARENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/models/llama3_gqa");
const IDS: &str = "1 2 3 5 8 13 21 34 55 1 4 9 16 25 36 49";

/// Runs `herd ARGS --json`, which must succeed.
fn json(home: &Path, args: &[&str]) -> Value {
    let (code, out, err) = run(home, &[args, &["--json"]].concat());
    assert_eq!(code, 0, "{args:?}: {err}");
    serde_json::from_str(&out).unwrap()
}

#[test]
fn a_model_comes_back_from_every_style_as_it_was() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let (gguf, meta, hf) = (path("a.gguf"), path("meta"), path("hf"));
    let answer = json(home.path(), &["convert", "-m", PARENT, "-o", &gguf]);
    assert_eq!(answer["style"], "gguf");
    let lost = answer["lost"].to_string();
    assert!(lost.contains("no tokenizer lies beside"), "{lost}");
    let answer = json(home.path(), &["convert", "-m", &gguf, "-o", &meta, "--to", "meta"]);
    assert_eq!(answer["style"], "meta");
    assert_eq!(json(home.path(), &["convert", "-m", &meta, "-o", &hf])["style"], "hf");
    for child in [&gguf, &meta, &hf] {
        let same = json(home.path(), &["verify", "-m", child, "-a", PARENT, "--ids", IDS]);
        assert_eq!(same["same"], true);
        assert_eq!(same["logit_difference_max"], 0.0);
        assert_eq!(same["tokens"], 16);
    }
    let (code, _, err) = run(home.path(), &["convert", "-m", &gguf, "-o", &hf]);
    assert_eq!(code, 2);
    assert!(err.contains("already exists") && err.contains("hint: "), "{err}");
}

#[test]
fn a_quantised_model_is_near_and_verify_says_how_near() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let (q8, float) = (path("q8.gguf"), path("float"));
    let answer = json(home.path(), &["quantize", "-m", PARENT, "-o", &q8, "--type", "Q8_0"]);
    assert!(answer["lost"].to_string().contains("rounded from F32 to Q8_0"));
    assert_eq!(answer["measured"], Value::Null, "it has no tokenizer");
    assert!(answer["bits_per_weight"].as_f64().unwrap() < 10.0);
    let about = json(home.path(), &["inspect", &q8]);
    assert_eq!(about["metadata"]["general.file_type"], 7);
    assert_eq!(about["metadata"]["herd.quantize.recipe"], "q8_0");

    let verify = ["verify", "-m", &q8, "-a", PARENT, "--ids", IDS];
    let (code, out, _) = run(home.path(), &verify);
    assert_eq!(code, 1, "{out}");
    assert!(out.ends_with("not the same\n"), "{out}");
    let (code, out, _) = run(home.path(), &[&verify[..], &["--kl", "0.01"]].concat());
    assert_eq!(code, 0, "{out}");

    // Unpacked, its numbers are the same.
    json(home.path(), &["convert", "-m", &q8, "-o", &float]);
    let same = json(home.path(), &["verify", "-m", &float, "-a", &q8, "--ids", IDS]);
    assert_eq!((&same["same"], &same["logit_difference_max"]), (&true.into(), &0.0.into()));
}

#[test]
fn wrong_types_and_styles_are_named() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("x.gguf").to_str().unwrap().to_owned();
    for (args, message) in [
        (["quantize", "--type", "q4_k_n"], "did you mean \"q4_k_s\"?"),
        (["convert", "--to", "onnx"], "expected gguf, hf or meta"),
        (["convert", "--dtype", "q4_0"], "herd quantize"),
    ] {
        let (code, _, err) = run(home.path(), &[&args[..], &["-m", PARENT, "-o", &out]].concat());
        assert_eq!(code, 2);
        assert!(err.contains(message), "{err}");
    }
    let (code, _, err) = run(home.path(), &["verify", "-m", PARENT, "-a", PARENT, "--ids", "99"]);
    assert_eq!(code, 2);
    assert!(err.contains("a token id is 99, expected below"), "{err}");
}
