//! `herd sample`: a file killed at any moment ends with the bytes of one that was not, what is wrong is named or
//! counted, and what it writes is what `sft`, `dpo` and `reward` read.

#![allow(clippy::unwrap_used)] // helpers of tests too

#[path = "common/training.rs"]
mod training;

use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use training::{
    SAMPLE_SETTINGS as SETTINGS, begin_from_base, done, expect_same, expect_unbreakable, herd,
    refused, reward_settings, rows, sample, stage,
};

/// Texts, a vocabulary, dialogues, a model, and settings.
fn begin_sample() -> tempfile::TempDir {
    begin_from_base("sample", SETTINGS)
}

fn run(folder: &Path, out: &str, set: &[&str]) -> String {
    done(sample(folder, "sample.toml", out).args(set.iter().flat_map(|set| ["--set", set])))
}

/// The words of a failure.
fn fails(folder: &Path, out: &str, set: &[&str]) -> String {
    let mut command = sample(folder, "sample.toml", out);
    refused(command.args(set.iter().flat_map(|set| ["--set", set])))
}

/// The summary, as JSON.
fn summary(folder: &Path, out: &str, set: &[&str]) -> Value {
    let mut command = sample(folder, "sample.toml", out);
    command.args(set.iter().flat_map(|set| ["--set", set])).arg("--json").stdout(Stdio::piped());
    let output = command.output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{set:?}: {err}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_file_of_samples_has_the_same_bytes_however_often_it_is_killed() {
    let folder = begin_sample();
    expect_unbreakable(folder.path(), 20, |out| sample(folder.path(), "sample.toml", out));
    let rows = rows(&folder.path().join("whole/samples.jsonl"));
    assert!(rows.len() > 30 && rows.len().is_multiple_of(3), "{} rows", rows.len());
    for prompt in rows.chunks(3) {
        assert!(prompt.iter().all(|row| row["prompt"] == prompt[0]["prompt"]));
        assert!(prompt.iter().filter(|row| row["chosen"] == true).count() <= 1);
        for row in prompt {
            let logps = row["logps"].as_array().unwrap();
            assert_eq!(logps.len(), row["ids"].as_array().unwrap().len());
            let sum: f64 = logps.iter().map(|logp| logp.as_f64().unwrap() as f32 as f64).sum();
            assert_eq!(row["logp"].as_f64(), Some(sum));
        }
    }
}

#[test]
fn a_start_without_an_answer_binds_nobody() {
    let folder = begin_sample();
    let folder = folder.path();
    let chats = fs::read_to_string(folder.join("chats.jsonl")).unwrap();
    fs::write(folder.join("chats.jsonl"), format!("{{\"messages\": 1}}\n{chats}")).unwrap();
    assert!(fails(folder, "out", &[]).contains("chats.jsonl"));
    run(folder, "out", &["chat.skip_bad=true"]);
    let err = fails(folder, "out", &["chat.skip_bad=false"]);
    assert!(err.contains("chat.skip_bad was true, is false"), "{err}");
}

#[test]
fn threads_and_answers_at_once_change_no_byte_and_a_torn_tail_is_cut_off() {
    let folder = begin_sample();
    let folder = folder.path();
    run(folder, "one", &["sample.parallel=1"]);
    let mut many = herd(folder);
    many.args(["sample", "--config", "sample.toml", "--out", "many/samples.jsonl", "-t", "2"]);
    done(many.args(["--set", "sample.parallel=7"]));
    expect_same(&folder.join("one"), &folder.join("many"));
    let path = folder.join("many/samples.jsonl");
    let whole = fs::read(&path).unwrap();
    for cut in [whole.len() - 1, whole.len() / 2, 40, 0] {
        fs::write(&path, &whole[..cut]).unwrap();
        run(folder, "many", &["sample.parallel=2"]);
        expect_same(&folder.join("one"), &folder.join("many"));
    }
    // A row in the middle that is none is no torn tail.
    let mut spoilt = whole.clone();
    spoilt[40] = b'\n';
    fs::write(&path, spoilt).unwrap();
    assert!(fails(folder, "many", &[]).contains("is damaged"));
}

#[test]
fn settings_rows_and_files_that_do_not_fit_are_named_or_counted() {
    let folder = begin_sample();
    let folder = folder.path();
    run(folder, "out", &[]);
    // A name without a folder lies in this one.
    done(herd(folder).args(["sample", "--config", "sample.toml", "--out", "samples.jsonl"]));
    let err = fails(folder, "out", &["sample.k=4"]);
    assert!(err.contains("sample.k was 3, is 4"), "{err}");
    let err = fails(folder, "out", &["sample.policies=[\"base/checkpoints/step-6\"]"]);
    assert!(err.contains("policies"), "{err}");
    for (set, told) in [
        ("sample.kk=1", "did you mean sample.k?"),
        ("sample.policies=[\"nowhere\"]", "nowhere"),
        ("input=[\"nowhere.jsonl\"]", "nowhere.jsonl"),
        ("sample.context=4096", "sample.context"),
        ("sample.long=refuse", "exceed sample.context"),
        ("score=[{kind=\"reward\", model=\"base/checkpoints/step-12\"}]", "`herd reward`"),
    ] {
        let err = fails(folder, "other", &[set]);
        assert!(err.contains(told), "{set}: {err}");
        let _ = fs::remove_dir_all(folder.join("other"));
    }
    // What stands there already is no file of samples.
    let input = fs::read(folder.join("chats.jsonl")).unwrap();
    let mut over = herd(folder);
    let output = over.args(["sample", "--config", "sample.toml", "--out", "chats.jsonl"]).output();
    assert!(String::from_utf8_lossy(&output.unwrap().stderr).contains("the run reads it"));
    assert_eq!(fs::read(folder.join("chats.jsonl")).unwrap(), input);
    assert!(!folder.join("chats.config.toml").exists());
    for file in ["samples.jsonl", "samples.best.jsonl", "samples.pairs.jsonl"] {
        let path = folder.join("taken").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "mine").unwrap();
        let err = fails(folder, "taken", &[]);
        assert!(err.contains(file) && err.contains("would be lost"), "{err}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        fs::remove_dir_all(folder.join("taken")).unwrap();
    }
    let hostile = [
        r#"{"prompt": "Why?", "n": 4}"#,
        r#"{"prompt": "", "n": 4}"#,
        r#"{"prompt": "no number"}"#,
        "not JSON",
        r#"{"messages": [{"role": "assistant", "content": "alone"}], "n": 1}"#,
        r#"{"prompt": "<|eot_id|>", "n": "4"}"#,
        &format!(r#"{{"prompt": "{}", "n": 1}}"#, "long ".repeat(500)),
        "[]",
    ];
    fs::write(folder.join("hostile.jsonl"), hostile.join("\n")).unwrap();
    let input = "input=[\"hostile.jsonl\"]";
    assert!(fails(folder, "strict", &[input]).contains("row 2"));
    let number = "score=[{kind=\"number\", field=\"n\"}]";
    let told = summary(folder, "hostile", &[input, "chat.skip_bad=true", number]);
    assert_eq!(told["prompts"], 2, "{told}");
    assert_eq!(told["samples"], 6, "{told}");
    let dropped: Vec<(&str, u64)> = told["dropped"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(reason, rows)| (reason.as_str(), rows.as_u64().unwrap()))
        .collect();
    let wanted = [("no_dialogue", 3), ("no_field", 1), ("not_json", 1), ("too_long", 1)];
    assert_eq!(dropped, wanted, "{told}");
}

#[test]
fn what_is_written_is_read_by_the_stages_that_learn_from_it() {
    let folder = begin_sample();
    let folder = folder.path();
    let told = summary(folder, "out", &[]);
    let best_of = told["best_of"].as_array().unwrap();
    let means: Vec<f64> = best_of.iter().map(|pair| pair[1].as_f64().unwrap()).collect();
    assert!(means.is_sorted() && means[0] < means[means.len() - 1], "{means:?}");
    let saved = told["prompt_tokens_saved"].as_f64().unwrap();
    assert!(saved > 0.2, "{saved} of the prompts are shared");
    for (file, key) in [("best", "best"), ("pairs", "pairs")] {
        let written = rows(&folder.join(format!("out/samples.{file}.jsonl")));
        assert_eq!(told[key].as_u64(), Some(written.len() as u64));
        assert!(written.len() > 2, "{file}: {told}");
        let input = format!("out/samples.{file}.jsonl");
        let args = ["preview", "-m", "base/checkpoints/step-12", "--chat-template", "llama3", "-i"];
        done(herd(folder).args(args).arg(&input));
    }
    // Steering prompts are drawn by answer, and left out of what is trained on where that is asked for.
    let steered = rows(&folder.join("out/samples.jsonl"));
    assert!(["brief", "kind"].iter().all(|s| steered.iter().any(|row| row["system"] == *s)));
    let first = |out: &str| rows(&folder.join(out).join("samples.best.jsonl"))[0].clone();
    assert_eq!(first("out")["messages"][0]["role"], "system");
    run(folder, "bare", &["sample.keep_system=false"]);
    assert_eq!(first("bare")["messages"][0]["role"], "user");
}

#[test]
fn a_reward_model_judges_and_two_policies_share_the_answers() {
    let folder = begin_sample();
    let folder = folder.path();
    let settings = reward_settings("base/checkpoints/step-12");
    fs::write(folder.join("reward.toml"), settings).unwrap();
    done(&mut stage(folder, "reward", "reward.toml", "judge"));
    let score = "score=[{kind=\"reward\", model=\"judge/checkpoints/step-12\"}]";
    let policies = "sample.policies=[\"base/checkpoints/step-12\", \"base/checkpoints/step-6\"]";
    let out = |out: &str, share: &str| -> Vec<Value> {
        let limits = ["sample.context=64", "sample.max_tokens=8", "sample.system=[]"];
        let share = format!("sample.share={share}");
        run(folder, out, &[&[score, policies, &share], &limits[..]].concat());
        rows(&folder.join(out).join("samples.jsonl"))
    };
    let (split, each) = (out("split", "split"), out("each", "each"));
    assert_eq!(each.len(), 2 * split.len());
    for row in split.iter().chain(&each) {
        let wanted = ["base/checkpoints/step-12", "base/checkpoints/step-6"];
        assert_eq!(row["policy"], wanted[row["sample"].as_u64().unwrap() as usize % 2]);
        assert!(row["rejected"] == "empty" || row["total"] == row["scores"]["reward"], "{row}");
    }
    // The same answers by one policy have the same rewards, whatever stands beside them.
    assert_eq!(split[0]["scores"], each[0]["scores"]);
    assert!(split.iter().any(|row| row["total"] != split[0]["total"]));
}

#[test]
fn code_is_run_behind_walls_and_what_does_not_end_well_is_worth_nothing() {
    let folder = begin_sample();
    let folder = folder.path();
    // The row's tests alone decide: what so small a model writes is no Python.
    let judge = "score=[{kind = \"code\", field = \"tests\", require = 1}]";
    let row = |tests: &str| serde_json::json!({ "prompt": "Say it.", "tests": tests }).to_string();
    fs::write(folder.join("code.jsonl"), row("assert add(1, 2) == 3")).unwrap();
    run(folder, "out", &[judge, "input=[\"code.jsonl\"]"]);
    let rows = rows(&folder.join("out/samples.jsonl"));
    assert!(!rows.is_empty() && rows.iter().all(|row| row["scores"]["code"] == 0.0), "{rows:?}");
    let err =
        fails(folder, "other", &["score=[{kind = \"code\", field = \"tests\", seconds = 0}]"]);
    assert!(err.contains("score.seconds"), "{err}");
}
