//! `herd data`: shards from raw files, killed at any moment and run again.

#![allow(clippy::unwrap_used)] // helpers beside the tests panic as the tests do

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use common::{herd, run};
use serde_json::Value;

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name)
}

/// JSON lines of `n` documents cut from a text that is there anyway.
fn write_corpus(path: &Path, n: usize) {
    let text = fs::read_to_string(testdata("tokenizer/train.txt")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let document = |i: usize| {
        let from = i * 37 % lines.len();
        let body = lines[from..(from + 9).min(lines.len())].join("\n");
        serde_json::json!({ "text": format!("{i} {body}") }).to_string() + "\n"
    };
    fs::write(path, (0..n).map(document).collect::<String>()).unwrap();
}

struct Place {
    home: tempfile::TempDir,
    tokenizer: String,
    input: String,
}

impl Place {
    fn new(documents: usize) -> Place {
        let home = tempfile::tempdir().unwrap();
        let input = home.path().join("input");
        fs::create_dir(&input).unwrap();
        write_corpus(&input.join("books.jsonl"), documents);
        write_corpus(&input.join("notes.jsonl"), documents / 4);
        let tokenizer = testdata("tokenizer/small.json").to_str().unwrap().to_owned();
        let input = input.to_str().unwrap().to_owned();
        Place { home, tokenizer, input }
    }

    fn shards(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn args<'a>(&'a self, shards: &'a Path) -> Vec<&'a str> {
        let shards = shards.to_str().unwrap();
        let args = ["data", "tokenize", "--tokenizer", &self.tokenizer, "--input", &self.input];
        let more =
            ["-o", shards, "--validation", "0.05", "--shard-tokens", "20000", "--json", "-q"];
        args.into_iter().chain(more).collect()
    }

    fn tokenize(&self, shards: &Path) -> (i32, String, String) {
        run(self.home.path(), &self.args(shards))
    }
}

fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let file =
        |e: fs::DirEntry| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap());
    entries.map(file).collect()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn tokenize_inspect_and_count_agree() {
    let place = Place::new(200);
    let shards = place.shards("a");
    let (code, out, err) = place.tokenize(&shards);
    assert_eq!((code, err.as_str()), (0, ""));
    let made = json(&out);
    let folder = shards.to_str().unwrap();
    let (code, out, _) = run(place.home.path(), &["data", "inspect", folder, "--json"]);
    assert_eq!(code, 0);
    let seen = json(&out);
    assert_eq!(seen["verified"], true);
    for key in ["documents", "tokens", "bytes", "validation", "dropped"] {
        assert_eq!(made[key], seen[key], "{key}");
    }
    let first = &seen["sources"][0]["first"][0];
    assert!(first["ids"].as_array().unwrap().len() == 16 && first["row"] == 1, "{first}");
    let args = ["data", "count", "--tokenizer", &place.tokenizer, "--input", &place.input];
    let (code, out, _) = run(place.home.path(), &[&args[..], &["--json"]].concat());
    let counted = json(&out);
    let held = seen["validation"]["tokens"].as_u64().unwrap();
    assert_eq!(code, 0);
    assert_eq!(counted["tokens"].as_u64().unwrap(), seen["tokens"].as_u64().unwrap() + held);
    let (code, out, _) = run(place.home.path(), &["data", "inspect", folder]);
    assert!(
        code == 0 && out.contains("books") && out.contains("all as they were written"),
        "{out}"
    );
}

#[test]
fn errors_name_the_file_and_give_a_hint() {
    let place = Place::new(40);
    let shards = place.shards("a");
    assert_eq!(place.tokenize(&shards).0, 0);
    let folder = shards.to_str().unwrap();
    let shard = shards.join("books.train-00000.tok");
    let mut bytes = fs::read(&shard).unwrap();
    bytes[200] ^= 1;
    fs::write(&shard, &bytes).unwrap();
    let (code, _, err) = run(place.home.path(), &["data", "inspect", folder]);
    assert_eq!(code, 2);
    assert!(err.contains("books.train-00000.tok has sha256 ") && err.contains("hint: "), "{err}");

    let mut other = place.args(&shards);
    let json = testdata("tokenizer/small.tiktoken");
    other[3] = json.to_str().unwrap();
    let (code, _, err) = run(place.home.path(), &other);
    assert!(code == 2 && err.contains("was begun with the tokenizer"), "{err}");

    fs::write(place.home.path().join("bad.jsonl"), "{\"text\": \"a\"}\n{\"body\": 1}\n").unwrap();
    let bad = place.home.path().join("bad.jsonl");
    let args = ["data", "count", "--tokenizer", &place.tokenizer, "--input", bad.to_str().unwrap()];
    let (code, _, err) = run(place.home.path(), &args);
    assert!(code == 2 && err.contains("row 2 of") && err.contains("--skip-bad"), "{err}");
    let (code, out, err) = run(place.home.path(), &[&args[..], &["--skip-bad"]].concat());
    assert!(code == 0 && out.contains("bad") && err.contains("no field \"text\""), "{out}{err}");
}

#[cfg(unix)]
#[test]
fn killed_at_any_moment_and_run_again_it_writes_the_same_bytes() {
    const KILLS: u32 = 48;
    let place = Place::new(3000);
    let undisturbed = place.shards("undisturbed");
    let begun = Instant::now();
    assert_eq!(place.tokenize(&undisturbed).0, 0);
    let whole = begun.elapsed();
    let expected = contents(&undisturbed);
    assert!(expected.len() > 10, "{} files are too few to tell", expected.len());
    let (mut killed, mut unfinished) = (0, 0);
    let mut run = 0u32;
    while killed < KILLS {
        let shards = place.shards(&format!("run{run}"));
        // Two or three kills each; the moments move over the whole run, and beyond what it takes.
        for kill in 0..2 + run % 2 {
            let mut child = herd(place.home.path())
                .args(place.args(&shards))
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap();
            let share = (run * 61 + kill * 29) % 101;
            thread::sleep(Duration::from_micros(whole.as_micros() as u64 * u64::from(share) / 110));
            child.kill().unwrap(); // SIGKILL
            killed += u32::from(child.wait().unwrap().code().is_none());
            let there = fs::read(shards.join("manifest.json")).unwrap_or_default();
            let open = String::from_utf8(there).unwrap().contains("\"complete\": false");
            unfinished += u32::from(open);
        }
        let (code, _, err) = place.tokenize(&shards);
        assert_eq!(code, 0, "{err}");
        assert!(contents(&shards) == expected, "run {run} ends in other bytes");
        fs::remove_dir_all(&shards).unwrap();
        run += 1;
    }
    assert!(unfinished > 0, "no kill met the work");
}
