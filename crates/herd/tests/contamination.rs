//! `herd eval contamination`: what was planted in the shards is found, and clean scores move as it was planted.

#![allow(clippy::unwrap_used)] // helpers of tests too

#[path = "common/training.rs"]
mod training;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use training::{begin, done, herd, refused};

const TASK: &str = r#"
name = "pick"
version = 1
about = "which words follow"
citation = "this test"
files = ["pick.jsonl"]
scorer = "choice"
metric = "acc"
[[form]]
has = ["q", "options", "gold"]
text = "Q: {{q}}\nA:"
choices = "options"
gold = "gold"
"#;

const ITEMS: usize = 300;

/// Words of random letters, so that texts share no n-gram by chance.
fn words(seed: usize, n: usize) -> String {
    let mut state = seed as u64 * 7919 + 1;
    let mut letter = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + ((state >> 33) % 26) as u8)
    };
    let mut word = || (0..5).map(|_| letter()).collect::<String>();
    (0..n).map(|_| word()).collect::<Vec<_>>().join(" ")
}

/// Whether an item stands in the corpus.
fn is_planted(i: usize) -> bool {
    i.is_multiple_of(4)
}

/// Whether a made-up model answers it: planted ones always, of the others every other.
fn is_right(i: usize) -> bool {
    is_planted(i) || (i / 2).is_multiple_of(2)
}

/// A corpus with items planted in the middle of its texts, shards of it, a task, and receipts of a model.
fn begin_planted() -> tempfile::TempDir {
    let folder = begin();
    let at = |name: &str| folder.path().join(name);
    let question = |i: usize| words(i, 24);
    let rows = (0..ITEMS).map(|i| {
        let options = [words(1000 + i, 6), words(2000 + i, 6)];
        json!({ "q": question(i), "options": options, "gold": i % 2 }).to_string()
    });
    fs::write(at("pick.jsonl"), rows.collect::<Vec<_>>().join("\n")).unwrap();
    fs::write(at("pick.toml"), TASK).unwrap();
    let documents = (0..ITEMS).map(|i| {
        let (before, after) = (words(5000 + i, 60), words(9000 + i, 60));
        let planted = match is_planted(i) {
            true => format!("{} {}", question(i), words(1000 + 1000 * (i % 2) + i, 6)),
            false => words(20_000 + i, 30),
        };
        json!({ "text": format!("{before} {planted} {after}") }).to_string()
    });
    fs::write(at("corpus.jsonl"), documents.collect::<Vec<_>>().join("\n")).unwrap();
    let cut = "data tokenize --tokenizer words --input corpus.jsonl -o shards";
    done(herd(folder.path()).args(cut.split(' ')));
    let receipts = (0..ITEMS).map(|i| {
        let score = if is_right(i) { 1.0 } else { 0.0 };
        json!({ "item": i, "row": i + 1, "prompts": [], "answers": [], "taken": 0, "gold": i % 2,
                "scores": { "acc": score, "acc_norm": score } })
        .to_string()
            + "\n"
    });
    fs::create_dir_all(at("results/samples")).unwrap();
    fs::write(at("results/samples/pick.jsonl"), receipts.collect::<String>()).unwrap();
    folder
}

fn contamination(folder: &Path, more: &[&str]) -> Command {
    let mut command = herd(folder);
    let line = "eval contamination --shards shards --tokenizer words --tasks pick.toml --data .";
    command.args(line.split(' ')).args(more).stdout(Stdio::piped());
    command
}

fn told(command: &mut Command) -> Value {
    let output = command.arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn what_was_planted_is_found_and_the_clean_score_is_that_of_the_rest() {
    let folder = begin_planted();
    let folder = folder.path();
    let report = told(&mut contamination(folder, &["--results", "results", "--out", "found"]));
    let found = &report["tasks"]["pick"];
    assert_eq!((&found["items"], &found["by"]), (&json!(ITEMS), &json!("chosen")));
    assert_eq!(report["read"]["documents"], ITEMS);
    // Each planted item is seen but for the words at its edges, and no other is.
    let lines = fs::read_to_string(folder.join("found/pick.json")).unwrap();
    let ratios: Vec<(u64, f64)> = serde_json::from_str(&lines).unwrap();
    for (i, (row, ratio)) in ratios.iter().enumerate() {
        assert_eq!(*row, i as u64 + 1);
        match is_planted(i) {
            true => assert!(*ratio > 0.7, "{i}: {ratio}"),
            false => assert!(*ratio < 0.4, "{i}: {ratio}"),
        }
    }
    let share = (0..ITEMS).filter(|i| is_planted(*i)).count() as f64 / ITEMS as f64;
    assert_eq!(found["contaminated"], share);
    assert!(found["p"].as_f64().unwrap() < 0.01);
    let gain = &found["models"]["results"];
    let mean = |of: &dyn Fn(usize) -> bool| {
        let all: Vec<f64> =
            (0..ITEMS).filter(|i| of(*i)).map(|i| f64::from(u8::from(is_right(i)))).collect();
        all.iter().sum::<f64>() / all.len() as f64
    };
    for (name, wanted) in
        [("all", mean(&|_| true)), ("clean", mean(&|i| !is_planted(i))), ("contaminated", 1.0)]
    {
        assert!((gain[name].as_f64().unwrap() - wanted).abs() < 1e-12, "{name}: {gain}");
    }
    // What was given is taken; without results there is nothing to choose by.
    let given = told(&mut contamination(folder, &["--threshold", "1"]));
    assert_eq!(given["tasks"]["pick"]["by"], "given");
    let report = told(&mut contamination(folder, &[]));
    assert_eq!(
        (&report["tasks"]["pick"]["by"], &report["tasks"]["pick"]["threshold"]),
        (&json!("default"), &json!(0.8))
    );
}

#[test]
fn shards_of_another_tokenizer_and_results_of_other_items_are_refused() {
    let folder = begin_planted();
    let folder = folder.path();
    let error = refused(contamination(folder, &["--results", "results"]).args(["--limit", "7"]));
    assert!(error.contains("300 receipts") && error.contains("7 items"), "{error}");
    let error = refused(&mut contamination(folder, &["--results", "nowhere"]));
    assert!(error.contains("nowhere"), "{error}");
    for (threshold, wanted) in [("0", "above 0"), ("1.5", "up to 1"), ("x", "a number")] {
        let error = refused(&mut contamination(folder, &["--threshold", threshold]));
        assert!(error.contains(wanted), "{error}");
    }
    let other = "tokenizer train -i corpus.jsonl --vocab-size 300 --specials 16 -o other";
    done(herd(folder).args(other.split(' ')));
    let line = "eval contamination --shards shards --tokenizer other --tasks pick.toml --data .";
    let error = refused(herd(folder).args(line.split(' ')));
    assert!(error.contains("tokenizer"), "{error}");
}
