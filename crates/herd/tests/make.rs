//! Commands that write models: `convert`, `quantize`, and `verify`, which judges them.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;
#[path = "common/tiny.rs"]
mod tiny;

use std::fs;
use std::path::Path;

use common::run;
use serde_json::Value;

fn ids(home: &Path, model: &str) -> Value {
    let args = ["complete", "-m", model, "-p", "a text", "-n", "20", "--temp", "0", "--json"];
    let (code, out, err) = run(home, &args);
    assert_eq!(code, 0, "{err}");
    serde_json::from_str::<Value>(&out).unwrap()["ids"].clone()
}

fn json(home: &Path, args: &[&str]) -> (i32, Value) {
    let (code, out, err) = run(home, &[args, &["--json", "--quiet"]].concat());
    assert_eq!(err, "");
    (code, serde_json::from_str(&out).unwrap())
}

#[test]
fn a_model_goes_through_a_folder_and_back_without_a_change() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let model = tiny::write(home);
    let (model, folder, back) = (model.to_str().unwrap(), home.join("hf"), home.join("back.gguf"));
    let (folder, back) = (folder.to_str().unwrap(), back.to_str().unwrap());
    let (code, said) = json(home, &["convert", "-m", model, "-o", folder]);
    assert_eq!(code, 0);
    assert!(said["lost"][0].as_str().unwrap().contains("general.name"), "{said}");
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        assert!(Path::new(folder).join(file).is_file(), "{file}");
    }
    let (code, said) = json(home, &["convert", "-m", folder, "-o", back]);
    assert_eq!((code, &said["lost"]), (0, &serde_json::json!([])));
    let wanted = ids(home, model);
    assert_eq!(ids(home, folder), wanted);
    assert_eq!(ids(home, back), wanted);
    for child in [folder, back] {
        let (code, said) = json(home, &["verify", "-m", child, "-p", model, "--tokens", "100"]);
        assert_eq!((code, &said["identical"]), (0, &Value::Bool(true)), "{said}");
    }
    let (code, _, err) = run(home, &["chat", "-m", back, "-p", "hello", "-n", "3", "-q"]);
    assert_eq!(code, 0, "the template came along: {err}");
}

#[test]
fn a_quantised_file_says_what_it_cost_and_verify_judges_it() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let model = tiny::write(home);
    let (model, out) = (model.to_str().unwrap(), home.join("small.gguf"));
    let out = out.to_str().unwrap();
    let tokens = ["--tokens", "100"];
    // What a killed run left does not stand in the way.
    let draft = home.join(".small.gguf.unmeasured.gguf");
    fs::write(&draft, "half a file").unwrap();
    let args = ["quantize", "-m", model, "-o", out, "--type", "q8_0"];
    let (code, said) = json(home, &[&args[..], &tokens].concat());
    assert_eq!(code, 0, "{said}");
    let kl = said["against_parent"]["kl_mean"].as_f64().unwrap();
    assert!(kl > 0.0 && kl < 0.05, "{said}");
    let (_, inside) = json(home, &["inspect", out]);
    assert_eq!(inside["metadata"]["herd.quantize.kl_mean"], said["against_parent"]["kl_mean"]);
    assert_eq!(inside["metadata"]["herd.quantize.type"], "q8_0");
    assert_eq!(inside["types"]["Q8_0"]["tensors"], 15);
    let verify = ["verify", "-m", out, "-p", model, "--tokens", "100", "--kl-max"];
    assert_eq!(json(home, &[&verify[..], &["0.05"]].concat()).0, 0);
    assert_eq!(json(home, &[&verify[..], &["0"]].concat()).0, 1);
    let left = fs::read_dir(home).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("unmeasured")), "{left:?}");
}

#[test]
fn nothing_is_overwritten_and_recipes_are_known_by_name() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let model = tiny::write(home);
    let model = model.to_str().unwrap();
    let (code, _, err) = run(home, &["convert", "-m", model, "-o", model]);
    assert_eq!(code, 2);
    assert!(err.contains("already exists"), "{err}");
    let out = home.join("x.gguf");
    let args = ["quantize", "-m", model, "-o", out.to_str().unwrap(), "--type", "q8_1"];
    let (code, _, err) = run(home, &args);
    assert_eq!(code, 2);
    assert!(err.contains("q8_1") && !out.exists(), "{err}");
}

#[test]
fn the_numbers_of_blocks_are_the_same_in_a_folder() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let model = tiny::write(home);
    let path = |name: &str| home.join(name).to_str().unwrap().to_owned();
    let (model, q8, meta) = (model.to_str().unwrap(), path("q8.gguf"), path("meta"));
    let quantize = ["quantize", "-m", model, "-o", &q8, "--type", "q8_0", "--no-measure"];
    assert_eq!(json(home, &quantize).0, 0);
    let (code, said) = json(home, &["convert", "-m", &q8, "-o", &meta, "--to", "meta"]);
    assert_eq!(code, 0);
    assert!(!said["lost"].to_string().contains("rounded"), "{said}");
    let (code, said) = json(home, &["verify", "-m", &meta, "-p", &q8, "--tokens", "60"]);
    assert_eq!((code, &said["identical"]), (0, &Value::Bool(true)), "{said}");
    let (_, said) = json(home, &["verify", "-m", &meta, "-p", &q8, "--tokens", "60", "--as-run"]);
    assert_eq!(said["identical"], false, "kernels round activations beside blocks");
}

#[test]
fn a_model_without_a_tokenizer_is_converted_and_that_is_said() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/models/llama31_scaled");
    let out = home.join("x.gguf");
    let (code, said) = json(home, &["convert", "-m", model, "-o", out.to_str().unwrap()]);
    assert_eq!(code, 0);
    assert!(said["lost"].to_string().contains("no tokenizer lies beside"), "{said}");
}
