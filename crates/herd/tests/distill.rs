//! `herd distill`: what the teacher says is kept or asked for with the same bytes, what is wrong is named, and a run killed
//! at any moment ends with the bytes of one that was not.

#![allow(clippy::unwrap_used)] // helpers of tests too

#[path = "common/training.rs"]
mod training;

use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use training::{
    BASE, LORA, answers_taught, begin_from_base, done, expect_same, expect_unbreakable, herd,
    metrics, pretrain, refused, replace_weights, stage, stage_set, text_taught,
};

const LARGE: &str = "large/checkpoints/step-12";

/// Texts, a vocabulary, dialogues, a student and a larger teacher, and settings.
fn begin_distill() -> tempfile::TempDir {
    let folder = begin_from_base("text", &text_taught(LARGE));
    done(&mut pretrain(folder.path(), "large", &["--set", "model.width=64", "--set", "seed=5"]));
    fs::write(folder.path().join("answers.toml"), answers_taught(BASE, LARGE)).unwrap();
    folder
}

fn command(folder: &Path, config: &str, out: &str, set: &[&str]) -> std::process::Command {
    stage_set(folder, "distill", config, out, set)
}

/// The words of a failure.
fn fails(folder: &Path, config: &str, out: &str, set: &[&str]) -> String {
    refused(&mut command(folder, config, out, set))
}

#[test]
fn a_run_that_is_taught_has_the_same_bytes_however_often_it_is_killed() {
    let folder = begin_distill();
    let lora = answers_taught(BASE, LARGE) + LORA;
    fs::write(folder.path().join("lora.toml"), lora).unwrap();
    for name in ["text", "lora"] {
        let run = |out: &str| stage(folder.path(), "distill", &format!("{name}.toml"), out);
        expect_unbreakable(folder.path(), 12, run);
        let whole = folder.path().join("whole");
        for line in metrics(&whole, "step").iter().chain(&metrics(&whole, "validation")) {
            let [loss, ce, kl] = ["loss", "ce", "kl"].map(|key| line[key].as_f64().unwrap());
            let square = if name == "text" { 1.0 } else { 4.0 };
            assert!((loss - 0.5 * ce - 0.5 * square * kl).abs() < 1e-9 && kl > 0.0, "{line}");
        }
        assert!(metrics(&whole, "validation")[0]["bpb"].is_f64());
        assert!(whole.join("teacher.bin").exists() && !whole.join("teacher.part").exists());
        let report = fs::read_to_string(whole.join("report.md")).unwrap();
        assert!(report.contains("divergence"), "{report}");
        fs::rename(whole, folder.path().join(name)).unwrap();
    }
}

#[test]
fn a_live_teacher_and_any_cut_into_micro_batches_and_threads_change_no_bit() {
    let folder = begin_distill();
    let folder = folder.path();
    for config in ["text.toml", "answers.toml"] {
        let out = |name: &str| format!("{name}-{config}");
        let err = done(&mut command(folder, config, &out("kept"), &[]));
        assert!(err.contains("the teacher has read"), "{err}");
        done(&mut command(folder, config, &out("live"), &["distill.live=true"]));
        done(&mut command(folder, config, &out("rows"), &["batch.micro_tokens=256"]));
        let args = ["distill", "--config", config, "--out", &out("threads"), "-t", "2"];
        done(herd(folder).args(args));
        let read = |run: &str, file: &str| fs::read(folder.join(out(run)).join(file)).unwrap();
        for other in ["live", "rows", "threads"] {
            for file in ["metrics.jsonl", "checkpoints/step-12/state/optimizer.safetensors"] {
                assert!(read("kept", file) == read(other, file), "{config} {other}: {file}");
            }
        }
        assert!(!folder.join(out("live")).join("teacher.bin").exists());
        for other in ["rows", "threads"] {
            assert!(read("kept", "teacher.bin") == read(other, "teacher.bin"), "{config} {other}");
        }
    }
}

#[test]
fn a_student_that_is_its_teacher_diverges_by_nothing() {
    let folder = begin_distill();
    let folder = folder.path();
    fs::write(folder.join("same.toml"), answers_taught(LARGE, LARGE)).unwrap();
    for (rest, k) in [("bucket", 8), ("drop", 400)] {
        let set = [
            &format!("distill.rest={rest}")[..],
            &format!("distill.k={k}"),
            "distill.alpha=1",
            "optim.steps=3",
        ];
        done(&mut command(folder, "same.toml", rest, &set));
        let first = &metrics(&folder.join(rest), "step")[0];
        assert!(first["kl"].as_f64().unwrap().abs() < 1e-5, "{first}");
        assert!(first["ce"].as_f64().unwrap() > 1.0, "{first}");
    }
}

#[test]
fn settings_and_teachers_that_teach_nothing_are_named() {
    let folder = begin_distill();
    let folder = folder.path();
    for (config, set, told) in [
        ("text.toml", "distill.alpha=2", "distill.alpha"),
        ("text.toml", "distill.temperature=0", "distill.temperature"),
        ("text.toml", "distill.k=401", "distill.k"),
        ("text.toml", "distill.rest=both", "both"),
        ("text.toml", "distill.techer=x", "teacher"),
        ("text.toml", "distill.teacher=nowhere", "nowhere"),
        ("text.toml", "data.packing=cut", "data.packing"),
        ("answers.toml", "data.packing=cut", "data.packing"),
        ("answers.toml", "distill.sample.k=2", "distill.sample"),
    ] {
        let err = fails(folder, config, "none", &[set]);
        assert!(err.contains(told), "{set}: {err}");
    }
    // Another vocabulary, and another of the same size.
    let text = fs::read_to_string(folder.join("chats.jsonl")).unwrap();
    let text = serde_json::json!({ "text": text }).to_string();
    fs::write(folder.join("other.jsonl"), text).unwrap();
    let train = "tokenizer train -i other.jsonl --vocab-size 400 --specials 16 -o other";
    done(herd(folder).args(train.split(' ')));
    let train = "tokenizer train -i docs.jsonl --vocab-size 380 --specials 16 -o fewer";
    done(herd(folder).args(train.split(' ')));
    for words in ["other", "fewer"] {
        done(&mut pretrain(folder, words, &["--set", &format!("tokenizer={words}")]));
        let teacher = format!("distill.teacher={words}/checkpoints/step-12");
        let err = fails(folder, "text.toml", "none", &[&teacher]);
        assert!(err.contains("distill.teacher") && err.contains("vocabulary"), "{err}");
    }
    done(&mut command(folder, "text.toml", "run", &[]));
    let path = folder.join("run/teacher.bin");
    let mut bytes = fs::read(&path).unwrap();
    bytes[60] ^= 1;
    fs::write(&path, bytes).unwrap();
    let err = fails(folder, "text.toml", "run", &[]);
    assert!(err.contains("teacher.bin is damaged"), "{err}");
    // It is made again as it was.
    fs::remove_file(&path).unwrap();
    done(&mut command(folder, "text.toml", "run", &[]));
    done(&mut command(folder, "text.toml", "again", &[]));
    expect_same(&folder.join("run"), &folder.join("again"));
}

#[test]
fn a_preview_shows_the_texts_that_the_teacher_is_asked_of() {
    let folder = begin_distill();
    let folder = folder.path();
    let mut command = herd(folder);
    let args = ["preview", "--config", "text.toml", "--rows", "2", "--json"];
    let output = command.args(args).stdout(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let texts = fs::read_to_string(folder.join("docs.jsonl")).unwrap();
    assert_eq!(told["rows"], texts.lines().count());
    for (shown, line) in told["shown"].as_array().unwrap().iter().zip(texts.lines()) {
        let line: Value = serde_json::from_str(line).unwrap();
        let kinds = shown["kinds"].as_array().unwrap().iter();
        let pieces = shown["pieces"].as_array().unwrap().iter().zip(kinds);
        let own = pieces.filter(|(_, kind)| *kind == "content");
        let said: String = own.map(|(piece, _)| piece.as_str().unwrap()).collect();
        // A character of several tokens is none in any of them.
        let ascii = |text: &str| text.chars().filter(char::is_ascii).collect::<String>();
        assert_eq!(ascii(&said), ascii(line["text"].as_str().unwrap()));
        let weights = shown["weights"].as_array().unwrap();
        assert!(weights[0] == 0.0 && weights[1..].iter().all(|weight| *weight == 1.0));
    }
}

#[test]
fn a_teacher_that_is_replaced_under_a_run_is_refused_by_name() {
    let folder = begin_distill();
    let folder = folder.path();
    done(&mut pretrain(folder, "second", &["--set", "model.width=64", "--set", "seed=9"]));
    for (out, live) in [("kept", "distill.live=false"), ("live", "distill.live=true")] {
        let set = [live, "optim.steps=3"];
        done(&mut command(folder, "text.toml", out, &set));
        let restore = replace_weights(folder, LARGE);
        let err = fails(folder, "text.toml", out, &set);
        assert!(err.contains("weights of distill.teacher was"), "{out}: {err}");
        fs::remove_file(folder.join(out).join("origin.toml")).unwrap();
        if out == "kept" {
            let err = fails(folder, "text.toml", out, &set);
            assert!(err.contains("teacher.bin is damaged: it is of something else"), "{err}");
        }
        restore();
    }
}

#[test]
fn the_plan_knows_the_teacher_and_its_file() {
    let folder = begin_distill();
    let folder = folder.path();
    let plan = |config: &str, set: &[&str]| -> Value {
        let mut command = herd(folder);
        command.args(["plan", "--config", config, "--json"]);
        command.args(set.iter().flat_map(|set| ["--set", set]));
        serde_json::from_slice(&command.stdout(Stdio::piped()).output().unwrap().stdout).unwrap()
    };
    let bytes = |plan: &Value, key: &str| plan["parts"][key].as_u64().unwrap();
    let [kept, live] = [&[][..], &["distill.live=true"]].map(|set| plan("text.toml", set));
    assert!(bytes(&live, "teacher") > bytes(&kept, "teacher"), "{live} {kept}");
    done(&mut command(folder, "text.toml", "run", &[]));
    let file = fs::metadata(folder.join("run/teacher.bin")).unwrap().len();
    let more = kept["disk_bytes"].as_u64().unwrap() - live["disk_bytes"].as_u64().unwrap();
    // Tokens are told by the bytes of the input; of shards they are known.
    assert!(more > file / 4 && more < 4 * file, "{more} planned, {file} taken");
    let shards = ["data.input=[]", "data.shards=run/data"];
    let [kept, live] = [&shards[..], &[shards[0], shards[1], "distill.live=true"]]
        .map(|set| plan("text.toml", set)["disk_bytes"].as_u64().unwrap());
    assert!((kept - live).abs_diff(file) < file / 50, "{} planned, {file} taken", kept - live);
}

#[test]
fn a_teacher_answers_and_its_student_learns_what_it_said() {
    let folder = begin_distill();
    let folder = folder.path();
    let set = [
        "distill.from=samples",
        "distill.sample={ max_tokens = 12, context = 64, unfinished = \"keep\", k = 2 }",
        "distill.score=[{ kind = \"length\", words = [1, 6] }]",
        "optim.steps=4",
    ];
    let text = answers_taught(BASE, LARGE);
    fs::write(folder.join("samples.toml"), text.split("k = 8").next().unwrap()).unwrap();
    for idle in ["alpha=0.9", "temperature=2.0", "k=8", "rest=drop", "live=true"] {
        let idle = format!("distill.{idle}");
        let err = fails(folder, "samples.toml", "run", &[&set[..], &[idle.as_str()]].concat());
        let key = idle.split('=').next().unwrap();
        assert!(err.contains(key) && err.contains("distill.from = \"logits\""), "{err}");
    }
    done(&mut command(folder, "samples.toml", "run", &set));
    let model = "run/student/checkpoints/step-4/model.safetensors";
    let (first, answers) = (
        fs::read(folder.join(model)).unwrap(),
        fs::read(folder.join("run/samples.jsonl")).unwrap(),
    );
    assert!(String::from_utf8_lossy(&answers).contains("policy_hash"));
    // What is there is not made again, what is gone is made as it was.
    fs::remove_dir_all(folder.join("run/student")).unwrap();
    // Killed between the best answers and the pairs.
    fs::remove_file(folder.join("run/samples.pairs.jsonl")).unwrap();
    done(&mut command(folder, "samples.toml", "run", &set));
    assert!(folder.join("run/samples.pairs.jsonl").exists());
    assert!(first == fs::read(folder.join(model)).unwrap());
    let err = fails(folder, "samples.toml", "run", &[&set[..3], &["optim.steps=5"]].concat());
    assert!(err.contains("another config") && err.contains("optim.steps"), "{err}");
}
