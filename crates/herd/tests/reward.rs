//! `herd reward` and `herd score`: what is wrong is named or counted, a run killed at any moment ends with the bytes of
//! one that was not, and a reward is the same number in training and after it, alone or among others.

#![allow(clippy::unwrap_used)] // helpers of tests too

#[path = "common/training.rs"]
mod training;

use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use training::{
    BASE, LORA, begin_from_base, done, expect_same, expect_unbreakable, herd, metrics, refused,
    reward_settings, stage, stage_set,
};

/// Texts, a vocabulary, comparisons, a model to begin with, and settings.
fn begin_reward() -> tempfile::TempDir {
    begin_from_base("reward", &reward_settings(BASE))
}

fn run(folder: &Path, out: &str, set: &[&str]) -> String {
    done(&mut stage_set(folder, "reward", "reward.toml", out, set))
}

/// The words of a command that fails.
fn fails(folder: &Path, args: &[&str]) -> String {
    refused(herd(folder).args(args))
}

/// The rows with their rewards.
fn score(folder: &Path, model: &str, input: &str, more: &[&str]) -> Vec<Value> {
    let mut command = herd(folder);
    command.args(["score", "-m", model, "-i", input]).args(more).stdout(Stdio::piped());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn an_adapter_and_its_head_have_the_same_bytes_however_often_they_are_killed() {
    let folder = begin_reward();
    let folder = folder.path();
    fs::write(folder.join("lora.toml"), reward_settings(BASE) + LORA).unwrap();
    expect_unbreakable(folder, 10, |out| stage(folder, "reward", "lora.toml", out));
    let steps = metrics(&folder.join("whole"), "step");
    let norm = |line: &Value| line["grad_norm"].as_f64().unwrap();
    assert!(steps.len() == 12 && steps.iter().all(|line| norm(line) > 0.0));
    let adapter = folder.join("whole/checkpoints/step-12");
    let text = fs::read_to_string(adapter.join("adapter_config.json")).unwrap();
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&told["task_type"], &told["modules_to_save"][0]),
        (&"SEQ_CLS".into(), &"score".into())
    );
    let tensors = fs::read(adapter.join("adapter_model.safetensors")).unwrap();
    let names = String::from_utf8_lossy(&tensors);
    for name in ["layers.0.self_attn.q_proj.lora_A.weight", "layers.0.mlp.down_proj.lora_B.weight"]
    {
        assert!(names.contains(&format!("\"base_model.model.model.{name}\"")), "{name}");
    }
    assert!(names.contains("\"base_model.model.score.weight\""));
    assert!(!adapter.join("model.safetensors").exists());
}

#[test]
fn an_adapter_is_taken_into_its_base_with_its_head_and_its_chat_format() {
    let folder = begin_reward();
    let folder = folder.path();
    let pair = fs::read_to_string(folder.join("pairs.jsonl")).unwrap();
    let pair = pair.lines().next().unwrap();
    fs::write(folder.join("same.jsonl"), format!("{pair}\n").repeat(30)).unwrap();
    done(herd(folder).args(["convert", "-m", BASE, "-o", "plain", "--float", "f32"]));
    let settings = reward_settings("plain").replace("pairs.jsonl", "same.jsonl") + LORA;
    fs::write(folder.join("lora.toml"), settings).unwrap();
    let set = ["precision.weights=f32", "data.validation_share=0", "checkpoint.every=6"];
    done(&mut stage_set(folder, "reward", "lora.toml", "run", &set));
    let (adapter, base) = ("run/checkpoints/step-6", "plain");
    let convert = |out: &str, more: &[&str]| {
        let mut command = herd(folder);
        command.args(["convert", "-m", base, "--lora", adapter, "-o", out]).args(more);
        command
    };
    done(&mut convert("whole", &[]));
    // Its rewards are those that training had after six steps, but for the order of sums.
    let next = &metrics(&folder.join("run"), "step")[6];
    let told = &score(folder, "whole", "same.jsonl", &[])[0]["rewards"];
    for answer in ["chosen", "rejected"] {
        let met = next[&format!("rewards/{answer}")].as_f64().unwrap();
        let told = told[answer].as_f64().unwrap();
        assert!((met - told).abs() < 1e-5, "{answer}: {met}, not {told}");
    }
    let config = fs::read_to_string(folder.join("whole/config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["architectures"][0], "LlamaForSequenceClassification");
    assert!(config["pad_token_id"].is_u64(), "{config}");
    // It has no form elsewhere, and stands beside no language model.
    assert!(refused(&mut convert("whole.gguf", &[])).contains("Hugging Face folder"));
    assert!(!folder.join("whole.gguf").exists());
    let told = fails(folder, &["complete", "-m", base, "--lora", adapter, "-p", "a"]);
    assert!(told.contains("modules_to_save") && told.contains("herd convert"), "{told}");
    // A reward model is written as other floats.
    done(herd(folder).args(["convert", "-m", "whole", "-o", "half", "--float", "bf16"]));
    assert_eq!(score(folder, "half", "same.jsonl", &[]).len(), 30);
}

#[test]
fn a_run_has_the_same_bytes_however_often_it_is_killed() {
    let folder = begin_reward();
    expect_unbreakable(folder.path(), 20, |out| stage(folder.path(), "reward", "reward.toml", out));
    let whole = folder.path().join("whole");
    let (first, held) = (&metrics(&whole, "step")[0], &metrics(&whole, "validation")[0]);
    for line in [first, held] {
        for name in ["rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"]
        {
            assert!(line[name].is_f64(), "{name}: {line}");
        }
        assert!(line["pairs"].as_u64() > Some(0) && line["bpb"].is_null(), "{line}");
    }
    let report = fs::read_to_string(whole.join("report.md")).unwrap();
    assert!(report.contains("% right (95 %: ") && report.contains("nats a pair"), "{report}");
}

#[test]
fn any_cut_into_micro_batches_threads_and_recomputing_change_no_bit() {
    let folder = begin_reward();
    let folder = folder.path();
    run(folder, "whole", &[]);
    run(folder, "rows", &["batch.micro_tokens=512"]);
    run(folder, "again", &["precision.recompute=true"]);
    done(herd(folder).args(["reward", "--config", "reward.toml", "--out", "threads", "-t", "2"]));
    let read = |run: &str, file: &str| fs::read(folder.join(run).join(file)).unwrap();
    for other in ["rows", "again", "threads"] {
        for file in ["metrics.jsonl", "checkpoints/step-12/state/optimizer.safetensors"] {
            assert!(read("whole", file) == read(other, file), "{other}: {file}");
        }
    }
    // Margins, seeds and first heads are others.
    for (out, set) in
        [("margin", "reward.margin=large"), ("zero", "reward.head=zero"), ("seed", "seed=7")]
    {
        run(folder, out, &[set]);
        assert!(read("whole", "metrics.jsonl") != read(out, "metrics.jsonl"), "{set}");
    }
    let first = &metrics(&folder.join("zero"), "step")[0];
    assert_eq!((&first["rewards/chosen"], &first["rewards/margins"]), (&0.0.into(), &0.0.into()));
    assert!((first["loss"].as_f64().unwrap() - 2f64.ln()).abs() < 1e-12, "{first}");
}

#[test]
fn a_reward_is_the_same_number_in_training_and_after_it_alone_and_among_others() {
    let folder = begin_reward();
    let folder = folder.path();
    // Everything held out that can be: of the rest one pair is learnt.
    run(folder, "run", &["data.validation_share=0.5", "precision.weights=f32"]);
    let model = "run/checkpoints/step-12";
    let all = score(folder, model, "pairs.jsonl", &[]);
    assert!(all.len() > 20 && all.iter().any(|row| row["rewards"]["edited"].is_f64()));
    for (i, row) in all.iter().enumerate().step_by(7) {
        fs::write(folder.join("one.jsonl"), row.to_string()).unwrap();
        let alone = score(folder, model, "one.jsonl", &["-t", "2"]);
        assert_eq!(alone[0]["rewards"], row["rewards"], "row {i}");
    }
    // As training meets them: a batch of one pair many times.
    let pair = all.iter().find(|row| row["rewards"].get("edited").is_none()).unwrap();
    fs::write(folder.join("same.jsonl"), format!("{pair}\n").repeat(30)).unwrap();
    let same = reward_settings(model).replace("pairs.jsonl", "same.jsonl");
    fs::write(folder.join("same.toml"), same).unwrap();
    let mut again = stage(folder, "reward", "same.toml", "again");
    done(again.args(["--set", "precision.weights=f32", "--set", "data.validation_share=0"]));
    let first = &metrics(&folder.join("again"), "step")[0];
    for answer in ["chosen", "rejected"] {
        let (met, told) = (&first[&format!("rewards/{answer}")], &pair["rewards"][answer]);
        let (met, told) = (met.as_f64().unwrap(), told.as_f64().unwrap());
        assert!((met - told).abs() <= 1e-12 * told.abs(), "{answer}: {met}, not {told}");
    }
    // A dialogue has the reward of its last answer.
    let row = &all[0];
    let say = |role: &str, text: &Value| serde_json::json!({"role": role, "content": text});
    let messages = [say("user", &row["prompt"]), say("assistant", &row["chosen"])];
    let line = serde_json::json!({ "messages": messages }).to_string();
    fs::write(folder.join("chat.jsonl"), line).unwrap();
    let chat = score(folder, model, "chat.jsonl", &[]);
    assert_eq!(chat[0]["reward"], row["rewards"]["chosen"]);
    // A run that begins at a reward model begins with its head.
    fs::write(folder.join("more.toml"), reward_settings(model)).unwrap();
    done(&mut stage(folder, "reward", "more.toml", "more"));
}

#[test]
fn what_is_learnt_is_what_preview_shows_and_what_is_left_out_is_counted() {
    let folder = begin_reward();
    let folder = folder.path();
    let mut command = herd(folder);
    command.args(["preview", "--config", "reward.toml", "--rows", "1000", "--json"]);
    let output = command.stdout(Stdio::piped()).output().unwrap();
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    for row in shown["shown"].as_array().unwrap() {
        let weights = row["weights"].as_array().unwrap();
        let (last, rest) = weights.split_last().unwrap();
        assert_eq!(last, 1.0);
        assert!(rest.iter().all(|weight| *weight == 0.0), "{row}");
    }
    let err = run(folder, "run", &["batch.seq_len=64"]);
    assert!(err.contains("left out: ") && err.contains("too_long"), "{err}");
    let manifest = |run: &str| -> Value {
        let path = folder.join(run).join("data/manifest.json");
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    };
    let dropped = &manifest("run")["sources"][0]["dropped"];
    assert!(
        dropped["weak"].as_u64() > Some(0) && dropped["similar"].as_u64() > Some(0),
        "{dropped}"
    );
    run(folder, "all", &["reward.strength_min=marginally_better"]);
    assert!(manifest("all")["sources"][0]["dropped"]["weak"].is_null());
    let plan = herd(folder).args(["plan", "--config", "reward.toml"]).output().unwrap();
    assert!(plan.status.success(), "{}", String::from_utf8_lossy(&plan.stderr));
}

#[test]
fn settings_rows_and_models_that_do_not_fit_are_named() {
    let folder = begin_reward();
    let folder = folder.path();
    for (set, told) in [
        ("reward.similar=2", "reward.similar"),
        ("reward.margin=huge", "huge"),
        ("reward.head=one", "one"),
        ("reward.marginn=none", "did you mean reward.margin?"),
        ("data.long=shorten", "data.long"),
        ("data.long=refuse", "fit"),
        ("samples.every=3", "samples.every"),
    ] {
        let out = format!("out-{}", set.replace(['=', '.'], "-"));
        let args = ["reward", "--config", "reward.toml", "--out", &out, "--set", set];
        let err = fails(folder, &args);
        assert!(err.contains(told), "{set}: {err}");
    }
    run(folder, "run", &[]);
    let model = "run/checkpoints/step-12";
    // A verb that needs logits, one that needs rewards, and stages that begin at the wrong head.
    let err = fails(folder, &["complete", "-m", model, "-p", "a"]);
    assert!(err.contains("is a reward model, expected a language model"), "{err}");
    let err = fails(folder, &["convert", "-m", model, "--to", "gguf", "-o", "x.gguf"]);
    assert!(err.contains("LlamaForSequenceClassification") && err.contains("folder"), "{err}");
    let err = fails(folder, &["score", "-m", BASE, "-i", "pairs.jsonl"]);
    assert!(err.contains("is a language model") && err.contains("herd reward"), "{err}");
    fs::write(folder.join("dpo.toml"), training::pair_settings(model)).unwrap();
    let err = fails(folder, &["dpo", "--config", "dpo.toml", "--out", "dpo"]);
    assert!(err.contains("is a reward model"), "{err}");
    // Rows that are no dialogue, and rows that end with a question.
    fs::write(folder.join("bad.jsonl"), "{\"x\": 1}\n").unwrap();
    let err = fails(folder, &["score", "-m", model, "-i", "bad.jsonl"]);
    assert!(err.contains("bad.jsonl") && err.contains("no known shape"), "{err}");
    let question = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}]}"#;
    fs::write(folder.join("question.jsonl"), question).unwrap();
    let err = fails(folder, &["score", "-m", model, "-i", "question.jsonl"]);
    assert!(err.contains("does not end in an answer"), "{err}");
    let rows = score(folder, model, "question.jsonl", &["--skip-bad"]);
    assert!(rows.is_empty());
    // A reward that is no number.
    fs::create_dir(folder.join("broken")).unwrap();
    for entry in fs::read_dir(folder.join(model)).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), folder.join("broken").join(entry.file_name())).unwrap();
        }
    }
    let weights = folder.join("broken/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[8 + header..].fill(0xff); // no number, in bf16 and in f32
    fs::write(&weights, bytes).unwrap();
    let err = fails(folder, &["score", "-m", "broken", "-i", "pairs.jsonl"]);
    assert!(err.contains("no reward: it is NaN"), "{err}");
    // The mean of reward models is one.
    let average = ["average", "run/checkpoints/step-6", model, "-o", "mean"];
    done(herd(folder).args(average));
    assert!(!score(folder, "mean", "pairs.jsonl", &[]).is_empty());
    run(folder, "again", &[]);
    expect_same(&folder.join("run"), &folder.join("again"));
}
