//! `herd preview`: what training would see, before it does.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/tiny.rs"]
mod tiny;

use std::fs;

use common::run;
use serde_json::{Value, json};

#[test]
fn the_first_rows_are_shown_token_by_token_and_all_are_counted() {
    let home = tempfile::tempdir().unwrap();
    let model = tiny::write(home.path());
    let (model, input) = (model.to_str().unwrap(), home.path().join("chats.jsonl"));
    let row = |answer: &str| {
        json!({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": answer}]})
            .to_string()
    };
    fs::write(&input, format!("{}\n{}\n{{\"messages\": 5}}\n", row("yes"), row("no"))).unwrap();
    let args = ["preview", "-m", model, "-i", input.to_str().unwrap(), "--rows", "1"];
    let (code, _, err) = run(home.path(), &args);
    assert!(code == 2 && err.contains("row 3 of") && err.contains("--skip-bad"), "{err}");

    let (code, out, err) = run(home.path(), &[&args[..], &["--skip-bad", "--json"]].concat());
    assert_eq!(code, 0, "{err}");
    let said: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&said["rows"], &said["dropped"]["no_dialogue"]), (&json!(2), &json!(1)));
    let shown = said["shown"].as_array().unwrap();
    assert_eq!(shown.len(), 1);
    let learnt: String = shown[0]["pieces"]
        .as_array()
        .unwrap()
        .iter()
        .zip(shown[0]["weights"].as_array().unwrap())
        .filter(|(_, weight)| weight.as_f64() == Some(1.0))
        .map(|(piece, _)| piece.as_str().unwrap())
        .collect();
    assert!(learnt.starts_with("yes") && learnt.len() > 3, "{learnt:?}");

    let (_, out, _) = run(home.path(), &[&args[..], &["--skip-bad"]].concat());
    assert!(out.contains("2 rows in 2 sequences") && out.contains("left out: 1 rows"), "{out}");
    let (code, _, err) = run(home.path(), &[&args[..], &["--shape", "sharegtp"]].concat());
    assert!(code == 2 && err.contains("sharegtp"), "{err}");
}
