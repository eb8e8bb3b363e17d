//! `herd select`: each part with a scripted writer, the reasons in the ledger, runs that are killed, hostile rows.

#![allow(clippy::unwrap_used)] // helpers of tests too

#[path = "common/script.rs"]
mod script;
#[path = "common/training.rs"]
mod training;

use std::fs;
use std::path::Path;
use std::process::Command;

use script::{Reply, Writer, fails, rows, says, summary};
use serde_json::{Value, json};
use training::{
    SELECT_SETTINGS, begin, done, expect_unbreakable, herd, pretrain, reward_settings, stage,
};

fn command(folder: &Path, out: &str, set: &[&str]) -> Command {
    let mut command = herd(folder);
    let out = format!("{out}/rows.jsonl");
    command.args(["select", "--config", "select.toml", "--out", &out, "-t", "1"]);
    command.args(set.iter().flat_map(|set| ["--set", set]));
    command
}

fn begin_select(rows: &[String], settings: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("rows.jsonl"), rows.join("\n")).unwrap();
    let settings = format!("input = [\"rows.jsonl\"]\n{settings}");
    fs::write(folder.path().join("select.toml"), settings).unwrap();
    folder
}

fn row(question: &str, answer: &str) -> String {
    let say = |role: &str, text: &str| json!({ "role": role, "content": text });
    json!({ "messages": [say("user", question), say("assistant", answer)], "n": 1 }).to_string()
}

#[test]
fn the_judges_marks_tags_and_difficulty_decide_what_stays() {
    let lines = [
        row("Why is the sky blue?", "Light scatters. best"),
        row("Why is the sky blue?", "Because. poor"),
        row("Sort a list", "```python\nsorted(x)\n```\nbest"),
        row("Sort a list", "```python\nx\n```\npoor"),
        row("Smile", "😀😀😀😀😀"),
        row("Shout", "Yes! Yes! Yes! Yes!"),
        row("Say", "something best, but mute"),
    ];
    let folder =
        begin_select(&lines, "[writer]\nmodel = \"scripted\"\n[clean]\n[tags]\n[quality]\n");
    let folder = folder.path();
    let writer = Writer::new(|prompt: &str, _| {
        let is = |word: &str| prompt.contains(word);
        match prompt {
            _ if is("Give the assistant a point") => match prompt {
                _ if is("mute") => says("Hm."),
                _ if is("N from 0 to 2") => says(if is("best") { "Score: 2" } else { "Score: 1" }),
                _ => says(if is("best") { "Fine. Score: 3" } else { "Score: 2" }),
            },
            _ if is("How hard") => says(if is("sky") { "Score: 2" } else { "It is easy." }),
            _ if is("Topic: one of") && is("sky") => {
                says("Topic: sciense\nSubtopic: optics\nIntentions: explain, learn, explain")
            }
            _ if is("Topic: one of") => says("Topic: Coding.\nIntentions: sort"),
            _ => Reply::Raw(500, String::new()),
        }
    });
    let url = format!("writer.base_url={}", writer.url);
    let told = summary(command(folder, "out", &[&url]));
    assert_eq!(
        told["dropped"],
        json!({ "emojis": 1, "exclamations": 1, "quality": 2, "unread": 1 }),
        "{told}"
    );
    assert_eq!(told["topics"], json!({ "coding": 1, "science": 1 }), "{told}");
    assert_eq!(told["quality"], json!([0, 2, 0]), "{told}");
    assert_eq!(told["unread"], json!({ "difficulty": 3, "general": 1 }), "{told}");
    let kept = rows(&folder.join("out/rows.jsonl"));
    assert_eq!((kept.len(), &kept[0]["n"]), (2, &json!(1)));
    let wanted =
        json!({ "topic": "science", "subtopic": "optics", "intentions": ["explain", "learn"] });
    assert_eq!(kept[0]["selection"]["tags"], wanted);
    let ledger = rows(&folder.join("out/rows.dropped.jsonl"));
    let reasons: Vec<&str> = ledger.iter().map(|row| row["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["quality", "quality", "emojis", "exclamations", "unread"]);
    assert_eq!((&ledger[0]["row"], &ledger[0]["points"]), (&json!(2), &json!([2, 3])));
    // Rows that rules leave out are not asked about, and nothing is asked twice.
    assert_eq!(writer.requests().len(), 5 * 3);
    let before = training::files(&folder.join("out"));
    summary(command(folder, "out", &[&url]));
    assert!(writer.requests().is_empty() && training::files(&folder.join("out")) == before);
    assert!(
        fails(command(folder, "off", &["writer.base_url=http://127.0.0.1:1", "writer.attempts=1"]))
            .contains("127.0.0.1:1")
    );
}

#[test]
fn phrases_are_found_and_cut_to_their_share() {
    let mut lines: Vec<String> = (0..20)
        .map(|i| {
            row(&format!("Question {i}"), &format!("As far as one can tell it is number {i}."))
        })
        .collect();
    lines.extend((0..70).map(|i| row(&format!("Other {i}"), &format!("w{i} x{i} y{i} z{i} v{i}"))));
    lines.extend(
        (0..10).map(|i| row(&format!("Third {i}"), &format!("I\u{2019}m sorry, a{i} b{i}"))),
    );
    let folder = begin_select(&lines, "[phrases]\nshare_max = 0.1\nfind_share = 0.15\n");
    let told = summary(command(folder.path(), "out", &[]));
    // 80 others: 8 of 20 stay; then 78 others: 8 of 10.
    let phrases = told["phrases"].as_array().unwrap();
    assert!(phrases.iter().any(|p| *p == json!(["as far as one can", 20, 8])), "{told}");
    assert!(phrases.iter().any(|p| p[0] == "I'm sorry" && p[1] == 10), "{told}");
    let kept = rows(&folder.path().join("out/rows.jsonl"));
    for phrase in ["As far", "sorry"] {
        let having = kept.iter().filter(|row| row.to_string().contains(phrase)).count();
        assert!(having > 5 && having * 10 <= kept.len(), "{phrase}: {having} of {}", kept.len());
    }
}

#[test]
fn rows_that_mean_the_same_fall_and_vectors_may_come_from_an_endpoint() {
    let folder = begin();
    let folder = folder.path();
    done(&mut pretrain(folder, "base", &[]));
    let chats = fs::read_to_string(folder.join("chats.jsonl")).unwrap();
    let first = chats.lines().next().unwrap();
    fs::write(folder.join("twice.jsonl"), format!("{chats}\n{first}\n{first}")).unwrap();
    let settings = "input = [\"twice.jsonl\"]\n[dedup]\nmodel = \"base/checkpoints/step-12\"\ncosine_max = 0.9999\n";
    fs::write(folder.join("select.toml"), settings).unwrap();
    let told = summary(command(folder, "out", &[]));
    assert_eq!(told["dropped"], json!({ "duplicate": 2 }), "{told}");
    let ledger = rows(&folder.join("out/rows.dropped.jsonl"));
    let kept = rows(&folder.join("out/rows.jsonl"));
    for row in &ledger {
        assert_eq!(row["what"]["of"], kept[0]["selection"]["id"]);
    }
    // An endpoint of the same kind gives vectors as well.
    let writer = script::Vectors::new(|text: &str| {
        vec![text.len() as f32, 1.0, text.matches('e').count() as f32]
    });
    let url = format!("dedup.base_url={}", writer.url);
    let told = summary(command(folder, "far", &[&url, "dedup.centre=false"]));
    assert!(told["dropped"]["duplicate"].as_u64().unwrap() >= 2, "{told}");
    let mut offline = command(folder, "off", &[&url]);
    offline.arg("--offline");
    assert!(fails(offline).contains("--offline forbids"));
}

#[test]
fn a_selection_that_is_killed_ends_with_the_bytes_of_one_that_was_not() {
    let folder = begin();
    let folder = folder.path();
    done(&mut pretrain(folder, "base", &[]));
    fs::write(folder.join("reward.toml"), reward_settings("base/checkpoints/step-12")).unwrap();
    done(&mut stage(folder, "reward", "reward.toml", "judge"));
    fs::write(folder.join("select.toml"), SELECT_SETTINGS).unwrap();
    let set = ["quality={ judge = true, reward_model = \"judge/checkpoints/step-12\" }"];
    expect_unbreakable(folder, 8, |out| command(folder, out, &set));
    let told = fs::read_to_string(folder.join("whole/rows.summary.json")).unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    let quarter = told["rows"].as_u64().unwrap().div_ceil(4);
    assert!(
        told["quality"][0].as_u64().unwrap() <= quarter && told["reward_min"].is_number(),
        "{told}"
    );
    assert_eq!(told["kept"], rows(&folder.join("whole/rows.jsonl")).len());
    done(&mut command(folder, "one", &[set[0], "sample.parallel=1"]));
    assert!(training::files(&folder.join("one")) == training::files(&folder.join("whole")));
}

#[test]
fn settings_and_rows_that_are_wrong_are_named_or_counted() {
    let hostile = [
        row("q", "a"),
        "not JSON".to_owned(),
        "[]".to_owned(),
        json!({ "messages": [{ "role": "user", "content": "alone" }] }).to_string(),
        row("q", ""),
        row("<|eot_id|>", "\u{0}\u{1b}[2J"),
    ];
    let folder = begin_select(&hostile, "[clean]\n");
    let folder = folder.path();
    assert!(fails(command(folder, "strict", &[])).contains("row 2"));
    let told = summary(command(folder, "out", &["chat.skip_bad=true"]));
    assert_eq!(told["dropped"], json!({ "empty": 1, "no_dialogue": 2, "not_json": 1 }), "{told}");
    // What stands where it would write stays whole, and so does what it reads.
    let mut over = herd(folder);
    over.args(["select", "--config", "select.toml", "--out", "rows.jsonl"]);
    over.args(["--set", "chat.skip_bad=true"]);
    let err = fails(over);
    assert!(err.contains("the run reads it"), "{err}");
    assert_eq!(fs::read_to_string(folder.join("rows.jsonl")).unwrap(), hostile.join("\n"));
    for file in ["rows.jsonl", "rows.dropped.jsonl", "rows.asked.jsonl", "rows.summary.json"] {
        fs::create_dir(folder.join("taken")).unwrap();
        fs::write(folder.join("taken").join(file), "mine").unwrap();
        let err = fails(command(folder, "taken", &["chat.skip_bad=true"]));
        assert!(err.contains(file) && err.contains("would be lost"), "{err}");
        assert_eq!(fs::read_to_string(folder.join("taken").join(file)).unwrap(), "mine");
        fs::remove_dir_all(folder.join("taken")).unwrap();
    }
    for (set, told) in [
        ("claen.emojis_max=1", "did you mean clean?"),
        ("clean.emoji_max=1", "did you mean clean.emojis_max?"),
        ("quality.judge=true", "`writer` is missing"),
        ("quality.judge=false", "quality.judge"),
        ("dedup.cosine_max=2", "dedup.model"),
        ("dedup={ model = \"m\", cosine_max = 2 }", "dedup.cosine_max"),
        ("dedup={ model = \"nowhere\" }", "nowhere"),
        ("phrases.share_max=-1", "phrases.share_max"),
        ("phrases.list=[\"--\"]", "phrases.list"),
        ("prompts.tags={{ dialog }}", "did you mean dialogue?"),
        ("input=[]", "input"),
    ] {
        let err = fails(command(folder, "other", &[set]));
        assert!(err.contains(told), "{set}: {err}");
        let _ = fs::remove_dir_all(folder.join("other"));
    }
}
