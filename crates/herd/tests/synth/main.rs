//! `herd synth`: every branch of every kind with a scripted writer; endpoints that misbehave; runs that are killed; and
//! rows that `herd sft` reads.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod code;
mod imports;
mod maths;
#[path = "../common/script.rs"]
mod script;
mod texts;
mod tools;
#[path = "../common/training.rs"]
mod training;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use script::{Reply, Writer, fails, rows, says, summary};
use serde_json::{Value, json};
use training::{SYNTH_SETTINGS, begin, done, expect_unbreakable, herd, pretrain};

/// `herd synth` of a kind, by an endpoint, into a folder.
fn command(folder: &Path, kind: &str, url: &str, out: &str, set: &[&str]) -> Command {
    let mut command = herd(folder);
    let out = format!("{out}/rows.jsonl");
    command.args(["synth", kind, "--config", "synth.toml", "--out", &out, "-t", "1"]);
    command.args(["--set", &format!("writer.base_url={url}")]);
    command.args(set.iter().flat_map(|set| ["--set", set]));
    command
}

/// A folder with settings and documents, one a text.
fn begin_synth(texts: &[&str], more: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let lines = texts.iter().map(|text| json!({ "text": text }).to_string());
    let lines = lines.collect::<Vec<_>>().join("\n");
    fs::write(folder.path().join("input.jsonl"), lines).unwrap();
    let settings = "input = [\"input.jsonl\"]\n[writer]\nmodel = \"scripted\"\npause_ms = 1\n";
    fs::write(folder.path().join("synth.toml"), format!("{settings}{more}")).unwrap();
    folder
}

/// Steps and reasons of the rows that fell.
fn fallen(folder: &Path, out: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let fallen = rows(&folder.join(out).join("rows.rejected.jsonl"));
    fallen.iter().map(|row| (text(&row["step"]), text(&row["reason"]))).collect()
}

fn pairs(told: &[(&str, &str)]) -> Vec<(String, String)> {
    told.iter().map(|(step, reason)| ((*step).to_owned(), (*reason).to_owned())).collect()
}

fn python(code: &str) -> String {
    format!("Here it is.\n```python\n{code}\n```\n")
}

/// One sum to solve, once and without a second look.
fn one_question() -> tempfile::TempDir {
    let folder = begin_synth(&[], "");
    let row = json!({ "prompt": "3 + 4?", "answer": 7 }).to_string();
    fs::write(folder.path().join("input.jsonl"), row).expect("a file");
    folder
}

const ONCE: [&str; 2] = ["maths.k=[1, 1]", "maths.verify=false"];

fn right() -> Reply {
    says("3 + 4 = 7\n#### 7")
}

#[test]
fn an_endpoint_that_misbehaves_is_asked_again_or_named() {
    let folder = one_question();
    let folder = folder.path();
    // It comes to its senses at the fourth attempt.
    for (name, bad) in [("broken", 0), ("busy", 1), ("closed", 2), ("empty", 3)] {
        let attempts = AtomicUsize::new(0);
        let writer = Writer::new(move |_, _| match attempts.fetch_add(1, Ordering::Relaxed) {
            0..3 => match bad {
                0 => Reply::Raw(200, "{\"choices\": [".to_owned()),
                1 => Reply::Raw(503, "later".to_owned()),
                2 => Reply::Closes,
                _ => Reply::Raw(200, "{\"choices\": []}".to_owned()),
            },
            _ => right(),
        });
        let told = summary(command(folder, "maths", &writer.url, name, &ONCE));
        assert_eq!((told["rows"].as_u64(), writer.requests().len()), (Some(1), 4), "{name}");
    }
    // It does not; the words of its refusal are told, on one line.
    type Make = fn() -> Reply;
    let ways: [(&str, Make, &str, usize); 5] = [
        ("key", || Reply::Raw(401, "no\n\u{1b}[2Jkey".to_owned()), "status 401: no", 1),
        ("moved", || Reply::Raw(302, String::new()), "status 302", 1),
        ("junk", || Reply::Raw(200, "<html>".to_owned()), "no answer: <html>", 3),
        ("flood", || Reply::Floods, "more than 65536 bytes", 1),
        ("hang", || Reply::Hangs, "the writer at", 3),
    ];
    for (name, make, wanted, attempts) in ways {
        let writer = Writer::new(move |_, _| make());
        let patience = ["writer.attempts=3", "writer.seconds=1", "writer.bytes_max=65536"];
        let set = [&ONCE[..], &patience[..]].concat();
        let err = fails(command(folder, "maths", &writer.url, name, &set));
        assert!(err.contains(wanted) && !err.contains('\u{1b}'), "{name}: {err}");
        assert!(err.contains("hint: run this again"), "{err}");
        assert_eq!(writer.requests().len(), attempts, "{name}");
        // Where nothing was made another address may be asked, and is bound to what it made.
        let kind = Writer::new(move |_, _| right());
        let told = summary(command(folder, "maths", &kind.url, name, &ONCE));
        assert_eq!(told["rows"].as_u64(), Some(1), "{name}");
        let err = fails(command(folder, "maths", &writer.url, name, &set));
        assert!(err.contains("writer.base_url was"), "{err}");
    }
    let writer = Writer::new(move |_, _| {
        Reply::Raw(400, "{\"error\": {\"code\": \"context_length_exceeded\"}}".to_owned())
    });
    let told = summary(command(folder, "maths", &writer.url, "long", &ONCE));
    assert_eq!(told["steps"]["solve"]["failed"], json!({ "too_long": 1 }));
}

#[test]
fn a_key_comes_from_the_variable_that_the_settings_name_and_is_kept_nowhere() {
    let folder = one_question();
    let folder = folder.path();
    let writer = Writer::new(move |_, _| right());
    let key = [&ONCE[..], &["writer.key_env=SCRIPT_KEY"]].concat();
    let err = fails(command(folder, "maths", &writer.url, "keyless", &key));
    assert!(err.contains("SCRIPT_KEY"), "{err}");
    let mut keyed = command(folder, "maths", &writer.url, "keyed", &key);
    done(keyed.env("SCRIPT_KEY", "secret"));
    let (path, body) = writer.requests().remove(0);
    assert_eq!(
        (path.as_str(), &body["key"]),
        ("/v1/chat/completions", &json!("authorization: Bearer secret"))
    );
    let kept = fs::read_dir(folder.join("keyed")).unwrap();
    for file in kept.map(|entry| entry.unwrap().path()) {
        assert!(!fs::read_to_string(file).unwrap().contains("secret"));
    }
    let mut offline = command(folder, "maths", &writer.url, "offline", &ONCE);
    offline.arg("--offline");
    assert!(fails(offline).contains("--offline forbids"));
}

#[test]
fn settings_that_are_wrong_are_named() {
    let folder = begin_synth(&["one"], "");
    let folder = folder.path();
    let writer = Writer::new(|_, _| says("?"));
    for (kind, set, told) in [
        ("code", "code.turn=1", "did you mean code.turns?"),
        ("code", "maths.k=[1, 2]", "no key `maths`"),
        ("code", "prompts.problm=x", "did you mean prompts.problem?"),
        ("code", "prompts.problem={{ snipet }}", "did you mean snippet?"),
        ("code", "prompts.problem={% for %}", "no prompt `problem`"),
        ("code", "code.seconds=0", "code.seconds"),
        ("maths", "maths.k=[3, 2]", "maths.k"),
        ("probe", "probe.refuse_max=0.9", "probe.refuse_max"),
        ("code", "judg.model=x", "did you mean judge?"),
        ("code", "judge.pause_ms=1", "judge.model"),
        ("code", "judge={model=\"x\", base_url=\"ftp://x\"}", "judge.base_url"),
        ("imports", "imports.repository_bytes=[2, 1]", "imports.repository_bytes"),
        ("imports", "imports.users_min=0", "imports.users_min"),
        ("tools", "tools.upload_bytes=0", "tools.upload_bytes"),
        ("maths-steps", "steps={labels=false, solutions=false}", "steps.labels"),
        ("maths-search", "search.k=0", "search.k"),
        ("probe", "sample.max_tokens=4096", "sample.max_tokens"),
        ("probe", "writer.base_url=ftp://x", "writer.base_url"),
        ("probe", "input=[]", "input"),
        ("probe", "input=[\"nowhere.jsonl\"]", "nowhere.jsonl"),
        ("probe", "field=body", "no field \"body\""),
    ] {
        let err = fails(command(folder, kind, &writer.url, "out", &[set]));
        assert!(err.contains(told), "{set}: {err}");
        let _ = fs::remove_dir_all(folder.join("out"));
    }
    // What stands where it would write stays whole, and so does what it reads.
    let input = fs::read(folder.join("input.jsonl")).unwrap();
    let mut over = herd(folder);
    over.args(["synth", "probe", "--config", "synth.toml", "--out", "input.jsonl"]);
    over.args(["--set", &format!("writer.base_url={}", writer.url)]);
    let err = fails(over);
    assert!(err.contains("the run reads it"), "{err}");
    assert!(fs::read(folder.join("input.jsonl")).unwrap() == input);
    for file in ["rows.jsonl", "rows.rejected.jsonl", "rows.asked.jsonl", "rows.summary.json"] {
        fs::create_dir(folder.join("out")).unwrap();
        fs::write(folder.join("out").join(file), "mine").unwrap();
        let err = fails(command(folder, "probe", &writer.url, "out", &[]));
        assert!(err.contains(file) && err.contains("would be lost"), "{err}");
        assert_eq!(fs::read_to_string(folder.join("out").join(file)).unwrap(), "mine");
        fs::remove_dir_all(folder.join("out")).unwrap();
    }
    let mut wrong = herd(folder);
    wrong.args(["synth", "coed", "--config", "synth.toml", "--out", "o/rows.jsonl"]);
    assert!(fails(wrong).contains("'code'"));
    done(&mut command(folder, "probe", &writer.url, "out", &[]));
    let err = fails(command(folder, "probe", &writer.url, "out", &["probe.k=9"]));
    assert!(err.contains("probe.k was 4, is 9"), "{err}");
    let err = fails(command(folder, "code", &writer.url, "out", &[]));
    assert!(err.contains("was begun with another config"), "{err}");
}
