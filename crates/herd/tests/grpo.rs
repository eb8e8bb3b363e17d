//! `herd grpo`: the sampler's numbers are the trainer's, what is wrong is named or counted, and a run killed at any
//! moment ends with the bytes of one that was not.

#![allow(clippy::unwrap_used)] // helpers of tests too

#[path = "common/training.rs"]
mod training;

use std::fs;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};
use training::{
    BASE, LORA, begin_from_base, chat_settings, done, expect_unbreakable, grpo_settings, herd,
    metrics, refused, reward_settings, rows, stage, stage_set,
};

/// Dialogues, a vocabulary, a model to begin with, and settings.
fn begin_grpo() -> tempfile::TempDir {
    begin_from_base("grpo", &grpo_settings(BASE))
}

fn run(folder: &Path, out: &str, set: &[&str]) -> String {
    done(&mut stage_set(folder, "grpo", "grpo.toml", out, set))
}

/// The words of a failure.
fn fails(folder: &Path, out: &str, set: &[&str]) -> String {
    refused(&mut stage_set(folder, "grpo", "grpo.toml", out, set))
}

fn rollouts(run: &Path) -> Vec<Value> {
    rows(&run.join("rollouts.jsonl"))
}

#[test]
fn a_run_over_its_own_answers_has_the_same_bytes_however_often_it_is_killed() {
    let folder = begin_grpo();
    fs::write(folder.path().join("lora.toml"), grpo_settings(BASE) + LORA).unwrap();
    for name in ["grpo", "lora"] {
        let run = |out: &str| stage(folder.path(), "grpo", &format!("{name}.toml"), out);
        expect_unbreakable(folder.path(), 10, run);
        fs::rename(folder.path().join("whole"), folder.path().join(name)).unwrap();
    }
}

#[test]
fn the_first_step_after_answers_finds_their_log_probabilities_bit_by_bit() {
    let folder = begin_grpo();
    let folder = folder.path();
    for (name, set) in [("bf16", "precision.weights=bf16"), ("f32", "precision.weights=f32")] {
        run(folder, name, &[set]);
        let steps = metrics(&folder.join(name), "step");
        assert_eq!(steps.len(), 12);
        for (i, step) in steps.iter().enumerate() {
            let off = &step["sampling/sampling_logp_difference/max"];
            match i % 4 {
                0 => assert_eq!(off.as_f64(), Some(0.0), "{name}: {step}"),
                _ => assert!(off.is_null(), "{step}"),
            }
        }
        // The policy is its reference before the first step, and no longer in the end.
        assert_eq!(steps[0]["kl"].as_f64(), Some(0.0), "{}", steps[0]);
        assert!(steps[11]["kl"].as_f64() > Some(0.0), "{}", steps[11]);
        let (generations, rows) =
            (metrics(&folder.join(name), "rollouts"), rollouts(&folder.join(name)));
        assert_eq!((generations.len(), rows.len()), (3, 36));
        for (generation, rows) in generations.iter().zip(rows.chunks(12)) {
            let rewards: f64 = rows.iter().map(|row| row["reward"].as_f64().unwrap()).sum();
            assert!((generation["reward"].as_f64().unwrap() - rewards / 12.0).abs() < 1e-12);
            assert!(rows.iter().all(|row| row["step"] == generation["step"]));
            for row in rows {
                let len = |key: &str| row[key].as_array().unwrap().len();
                assert!(len("ids") == len("logps") && len("ids") == len("ref_logps"));
                let scores = &row["scores"];
                let total =
                    scores["regex"].as_f64().unwrap() + 0.5 * scores["length"].as_f64().unwrap();
                assert_eq!(row["reward"].as_f64(), Some(total));
            }
            for group in rows.chunks(3) {
                let sum: f64 = group.iter().map(|row| row["advantage"].as_f64().unwrap()).sum();
                assert!(
                    sum.abs() < 1e-9 && group.iter().all(|r| r["prompt"] == group[0]["prompt"])
                );
            }
        }
        let held = metrics(&folder.join(name), "evaluation");
        let steps: Vec<_> = held.iter().map(|line| line["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [0, 5, 10, 12]);
        assert!(held[0]["low"].as_f64() <= held[0]["eval_reward"].as_f64());
    }
    let report = fs::read_to_string(folder.join("f32/report.md")).unwrap();
    assert!(report.contains("that of held-out prompts") && report.contains("reward.svg"));
}

#[test]
fn any_cut_into_micro_batches_threads_and_answers_at_once_changes_no_bit() {
    let folder = begin_grpo();
    let folder = folder.path();
    run(folder, "whole", &[]);
    run(folder, "rows", &["batch.micro_tokens=128"]);
    run(folder, "again", &["precision.recompute=true"]);
    run(folder, "alone", &["rollout.parallel=1"]);
    let args = ["grpo", "--config", "grpo.toml", "--out", "threads", "-t", "2"];
    done(herd(folder).args(args));
    let read = |run: &str, file: &str| fs::read(folder.join(run).join(file)).unwrap();
    for other in ["rows", "again", "alone", "threads"] {
        for file in
            ["metrics.jsonl", "rollouts.jsonl", "checkpoints/step-12/state/optimizer.safetensors"]
        {
            assert!(read("whole", file) == read(other, file), "{other}: {file}");
        }
    }
    // Other settings are another run.
    let err = fails(folder, "whole", &["seed=2"]);
    assert!(err.contains("seed was 1, is 2"), "{err}");
}

#[test]
fn settings_and_prompts_that_teach_nothing_are_named() {
    let folder = begin_grpo();
    let folder = folder.path();
    for (set, told) in [
        ("grpo.epsilon=2", "grpo.epsilon"),
        ("grpo.num_generations=1", "grpo.num_generations"),
        ("grpo.num_generations=9223372036854775807", "at most 1048576 answers"),
        ("grpo.steps_per_generation=3", "grpo.steps_per_generation"),
        ("grpo.loss_type=ppo", "ppo"),
        ("grpo.betta=1", "did you mean grpo.beta?"),
        ("rollout.temperature=0", "rollout.temperature"),
        ("rollout.max_tokens=200", "rollout.max_tokens"),
        ("rollout.prompt=1", "did you mean rollout.prompts?"),
        ("batch.tokens=512", "batch.tokens"),
        ("data.long=shorten", "data.long"),
        ("score=[]", "score"),
        ("score=[{kind=\"length\",words=[1,2],require=1}]", "require"),
        ("score=[{kind=\"exact\",field=\"nowhere\"}]", "no prompt"),
    ] {
        let err = fails(folder, "none", &[set]);
        assert!(err.contains(told), "{set}: {err}");
        let _ = fs::remove_dir_all(folder.join("none"));
    }
    let err = fails(folder, "long", &["data.long=refuse", "rollout.max_tokens=100"]);
    assert!(err.contains("129 fit") && !err.contains("\"shorten\""), "{err}");
    let err =
        run(folder, "few", &["rollout.max_tokens=100", "optim.warmup_steps=0", "optim.steps=1"]);
    assert!(err.contains("left out: ") && err.contains("too_long"), "{err}");
    run(folder, "run", &[]);
    // Other prompts under the same name are not those of the run.
    let path = folder.join("chats.jsonl");
    let chats = fs::read_to_string(&path).unwrap();
    fs::write(&path, chats.lines().skip(1).collect::<Vec<_>>().join("\n")).unwrap();
    let err = fails(folder, "run", &[]);
    assert!(err.contains("prompts, words and judges"), "{err}");
    fs::write(&path, chats).unwrap();
    let rows = folder.join("run/rollouts.jsonl");
    fs::write(&rows, &fs::read(&rows).unwrap()[..99]).unwrap();
    let err = fails(folder, "run", &[]);
    assert!(err.contains("rollouts.jsonl is damaged"), "{err}");
}

#[test]
fn words_of_the_policy_or_of_a_judge_that_change_under_a_run_are_refused() {
    let folder = begin_grpo();
    let folder = folder.path();
    // Both bring the format that they were taught.
    fs::write(folder.join("sft.toml"), chat_settings(BASE)).unwrap();
    fs::write(folder.join("reward.toml"), reward_settings(BASE)).unwrap();
    done(&mut stage(folder, "sft", "sft.toml", "tuned"));
    done(&mut stage(folder, "reward", "reward.toml", "judge"));
    let (tuned, judge) = ("tuned/checkpoints/step-12", "judge/checkpoints/step-12");
    let settings = grpo_settings(tuned).replace("template = \"llama3\"\n", "");
    fs::write(folder.join("grpo.toml"), settings).unwrap();
    let score = format!("score=[{{ kind = \"reward\", model = {judge:?} }}]");
    let set = [&score[..], "optim.steps=3"];
    run(folder, "run", &set);
    for model in [tuned, judge] {
        let file = folder.join(model).join("chat_template.jinja");
        let own = fs::read_to_string(&file).unwrap();
        fs::write(&file, format!("{own}more")).unwrap();
        let err = fails(folder, "run", &set);
        assert!(err.contains("the prompts, words and judges was"), "{model}: {err}");
        fs::write(&file, own).unwrap();
    }
    run(folder, "run", &set);
}

#[test]
fn answers_under_way_that_were_touched_are_not_learnt_from() {
    let folder = begin_grpo();
    let folder = folder.path();
    // Behind the first step of its third generation.
    run(folder, "run", &["checkpoint.every=1", "checkpoint.keep_last=20"]);
    for step in 10..=12 {
        fs::remove_dir_all(folder.join(format!("run/checkpoints/step-{step}"))).unwrap();
    }
    let file = folder.join("run/rollouts.jsonl");
    let own = fs::read_to_string(&file).unwrap();
    let last = rollouts(&folder.join("run")).pop().unwrap();
    let number = last["advantage"].to_string();
    let digit = if number.ends_with('1') { "2" } else { "1" };
    let other = format!("{}{digit}", &number[..number.len() - 1]);
    fs::write(&file, own.replace(&number, &other)).unwrap();
    let set = ["checkpoint.every=1", "checkpoint.keep_last=20"];
    let err = fails(folder, "run", &set);
    assert!(err.contains("rollouts.jsonl is damaged: its last answers"), "{err}");
    // Nor is an answer without a token, though the checkpoint knew of it.
    let state = folder.join("run/checkpoints/step-9/state/train.json");
    let saved: Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
    let mut place = saved["rollouts"].clone();
    let mut empty = last.clone();
    for key in ["ids", "logps", "ref_logps"] {
        empty[key] = Value::Array(vec![]);
    }
    let cut = own.trim_end().rfind('\n').unwrap() + 1;
    let text = format!("{}{empty}\n", &own[..cut]);
    let hash = Sha256::digest(&text.as_bytes()[place["at"].as_u64().unwrap() as usize..]);
    place["bytes"] = text.len().into();
    place["rows"] = hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
    let mut changed = saved.clone();
    changed["rollouts"] = place;
    fs::write(&state, changed.to_string()).unwrap();
    fs::write(&file, text).unwrap();
    let err = fails(folder, "run", &set);
    assert!(err.contains("an answer has no token"), "{err}");
    // As they were they are.
    fs::write(&state, saved.to_string()).unwrap();
    fs::write(&file, own).unwrap();
    run(folder, "run", &set);
}
