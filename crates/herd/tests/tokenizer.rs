//! `herd tokenizer`: what it writes, that it is whole or not there, and what it refuses.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use common::{herd, run};
use serde_json::{Value, json};

fn shakespeare() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tokenizer/train.txt")
}

/// Runs a verb that must succeed, and gives its answer.
fn answer(home: &Path, args: &[&str]) -> Value {
    let (code, out, err) = run(home, &[args, &["--json", "--quiet"]].concat());
    assert_eq!((code, err.as_str()), (0, ""), "{args:?}");
    serde_json::from_str(&out).unwrap()
}

fn ids(home: &Path, tokenizer: &Path, text: &str) -> Value {
    answer(home, &["tokenize", "-m", tokenizer.to_str().unwrap(), "-p", text])["ids"].clone()
}

/// A folder with one text, one corpus of records, and a vocabulary trained on the text.
fn trained(home: &Path) -> (PathBuf, PathBuf) {
    let (base, corpus) = (home.join("base"), home.join("corpus.jsonl"));
    let text = shakespeare();
    let args = ["tokenizer", "train", "--input", text.to_str().unwrap(), "--vocab-size", "1000"];
    let said = answer(home, &[&args[..], &["-o", base.to_str().unwrap()]].concat());
    assert_eq!((&said["vocab_size"], &said["merges"]), (&json!(1000), &json!(488)));
    let greek = "μῆνιν ἄειδε θεὰ Πηληϊάδεω Ἀχιλῆος ".repeat(4);
    let records = [
        json!({"lang": "el", "domain": "epic", "text": greek}),
        json!({"lang": "en", "text": "To be, or not to be: that is the question.\n"}),
    ];
    fs::write(&corpus, records.map(|record| record.to_string()).join("\n")).unwrap();
    (base, corpus)
}

#[test]
fn a_trained_folder_is_used_like_any_model_and_trained_again_it_is_the_same() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let (base, _) = trained(home);
    let text = "First, hear me speak: caf\u{e9} \u{1} \u{1f600}";
    let of_folder = ids(home, &base, text);
    assert_eq!(ids(home, &base.join("tokenizer.model"), text), of_folder);
    let config = fs::read_to_string(base.join("tokenizer_config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["bos_token"], "<|begin_of_text|>");

    let again = home.join("again");
    let (text, out) = (shakespeare(), again.to_str().unwrap());
    let text = text.to_str().unwrap();
    let args = ["tokenizer", "train", "-i", text, "--vocab-size", "1000", "-t", "3", "-o", out];
    answer(home, &args);
    for file in ["tokenizer.json", "tokenizer.model", "tokenizer_config.json"] {
        assert!(fs::read(base.join(file)).unwrap() == fs::read(again.join(file)).unwrap());
    }
    let (code, _, err) = run(home, &args);
    assert_eq!(code, 2, "nothing is overwritten");
    assert!(err.contains("again"), "{err}");
}

#[test]
fn an_extension_reports_what_it_shortens_and_that_english_stays() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let (base, corpus) = trained(home);
    let (base, out) = (base.to_str().unwrap(), home.join("more"));
    let (corpus, text) = (corpus.to_str().unwrap(), shakespeare());
    let args =
        ["tokenizer", "extend", "--base", base, "--input", corpus, "--add", "30", "--measure"];
    let more = [text.to_str().unwrap(), "-o", out.to_str().unwrap()];
    let said = answer(home, &[&args[..], &more].concat());
    assert_eq!((&said["added"], &said["first_id"]), (&json!(30), &json!(1000)));
    assert_eq!(said["guard"], "english");
    let greek = &said["compression"]["languages"]["el"];
    assert!(greek["tokens_change"].as_f64().unwrap() < -0.2, "{greek}");
    let english = &said["compression"]["languages"]["en"];
    assert_eq!(english["texts_changed"], 0);
    assert_eq!(english["tokens_before"], english["tokens_after"]);
    // What was reported is what measuring the new vocabulary gives.
    let stats = ["tokenizer", "stats", "--tokenizer", out.to_str().unwrap(), "--input", corpus];
    let stats = answer(home, &stats);
    assert_eq!(stats["languages"]["el"]["tokens"], greek["tokens_after"]);
    assert_eq!(stats["domains"]["epic"]["tokens"], greek["tokens_after"]);
    assert_eq!(stats["text_ids"], 774);
    assert!(stats["unused_ids"].as_u64().unwrap() > 600);
    let moved = home.join("moved");
    let args = ["tokenizer", "extend", "--base", base, "--input", corpus, "--add", "30"];
    let more = ["--specials-last", "--protect", corpus, "-o", moved.to_str().unwrap()];
    let said = answer(home, &[&args[..], &more].concat());
    assert_eq!(said["added"], 0, "all of its text is protected");
    assert!(moved.join("tokenizer.model").is_file() && !out.join("tokenizer.model").exists());
}

#[test]
fn a_vocabulary_is_learnt_from_a_column_and_rows_without_text_are_passed_over_when_asked() {
    let home = tempfile::tempdir().unwrap();
    let (home, out) = (home.path(), home.path().join("out"));
    let table = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/parquet/plain.parquet");
    let args = ["tokenizer", "train", "-i", table, "--vocab-size", "1000", "-o"];
    let args = [&args[..], &[out.to_str().unwrap()]].concat();
    let (code, _, err) = run(home, &args);
    assert!(code == 2 && err.contains("--skip-bad"), "{err}");
    let said = answer(home, &[&args[..], &["--skip-bad"]].concat());
    assert_eq!(said["records_skipped"], 2);
    assert_eq!(said["compression"]["sources"]["plain"]["texts"], 297);
}

#[test]
fn what_is_wrong_is_one_line_and_leaves_nothing_behind() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let file = |name: &str, bytes: &[u8]| {
        fs::write(home.join(name), bytes).unwrap();
        home.join(name).to_str().unwrap().to_owned()
    };
    let (good, empty) = (file("good.txt", b"a text"), file("empty.txt", b""));
    let bad = file("bad.txt", b"valid, then \xFF");
    let record = file("record.jsonl", b"{\"text\":\"a\"}\n{\"body\":\"b\"}\n");
    let cases: [(&[&str], &str); 9] = [
        (&["-i", &empty, "--vocab-size", "1000"], "no text to learn from"),
        (&["-i", &bad, "--vocab-size", "1000"], "bad.txt: not UTF-8 at byte 12"),
        (&["-i", &record, "--vocab-size", "1000"], "row 2 of "),
        (&["-i", &good, "--vocab-size", "511"], "511 ids cannot hold"),
        (&["-i", &good, "--vocab-size", "100000000"], "the limit is"),
        (&["-i", &good, "--vocab-size", "1000", "--split", "(a"], "the split pattern"),
        (&["-i", &good, "--vocab-size", "1000", "--specials", "5"], "--specials"),
        (&["-i", &good, "--vocab-size", "1000", "--max-token-bytes", "1"], "--max-token-bytes"),
        (&["-i", "no-such.txt", "--vocab-size", "1000"], "no-such.txt"),
    ];
    let before = fs::read_dir(home).unwrap().count();
    for (args, told) in cases {
        let out = home.join("out");
        let args = [&["tokenizer", "train", "-o", out.to_str().unwrap()], args].concat();
        let (code, _, err) = run(home, &args);
        assert_eq!(code, 2, "{args:?}");
        assert!(err.contains(told), "{args:?}: {err}");
        assert_eq!(fs::read_dir(home).unwrap().count(), before);
    }
    let out = home.join("out");
    let names = file("names", b"<s>\n</s>\n");
    let args = ["tokenizer", "train", "-i", &good, "--vocab-size", "5000", "--specials", &names];
    let (code, _, err) = run(home, &[&args[..], &["-o", out.to_str().unwrap()]].concat());
    assert_eq!(code, 0);
    assert!(err.contains("the text gave 4 merges of 4,742"), "{err}");
}

#[test]
fn a_killed_run_leaves_no_folder_or_a_whole_one_and_the_next_gives_the_same() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let (base, _) = trained(home);
    let (text, out) = (shakespeare(), home.join("out"));
    let files = ["tokenizer.json", "tokenizer.model", "tokenizer_config.json", "stats.json"];
    for delay in 0..40 {
        let mut command = herd(home);
        command.args(["tokenizer", "train", "-q", "--vocab-size", "1000", "-i"]);
        command.arg(&text).arg("-o").arg(&out).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
        if out.exists() {
            assert!(files.iter().all(|file| out.join(file).is_file()), "torn after {delay} ms");
            for file in &files[..3] {
                assert!(fs::read(out.join(file)).unwrap() == fs::read(base.join(file)).unwrap());
            }
            fs::remove_dir_all(&out).unwrap();
        }
    }
    let (text, out) = (text.to_str().unwrap(), out.to_str().unwrap());
    answer(home, &["tokenizer", "train", "-i", text, "--vocab-size", "1000", "-o", out]);
    assert!(!home.join(".out.part").exists());
}
