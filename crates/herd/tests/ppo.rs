//! `herd ppo`: it learns what it is paid for, its numbers add up, what is wrong is named, and a run killed at any moment ends
//! with the bytes of one that was not.

#![allow(clippy::unwrap_used)] // helpers of tests too

#[path = "common/training.rs"]
mod training;

use std::fs;
use std::path::Path;

use serde_json::Value;
use training::{
    BASE, LORA, begin_from_base, done, expect_unbreakable, metrics, ppo_settings, refused,
    reward_settings, rows, stage, stage_set,
};

/// Dialogues, a vocabulary, a model to begin with, and settings.
fn begin_ppo() -> tempfile::TempDir {
    begin_from_base("ppo", &ppo_settings(BASE))
}

fn run(folder: &Path, out: &str, set: &[&str]) -> String {
    done(&mut stage_set(folder, "ppo", "ppo.toml", out, set))
}

/// The words of a failure.
fn fails(folder: &Path, out: &str, set: &[&str]) -> String {
    refused(&mut stage_set(folder, "ppo", "ppo.toml", out, set))
}

fn rollouts(run: &Path) -> Vec<Value> {
    rows(&run.join("rollouts.jsonl"))
}

fn numbers(row: &Value, key: &str) -> Vec<f64> {
    row[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

#[test]
fn a_run_with_a_value_head_has_the_same_bytes_however_often_it_is_killed() {
    let folder = begin_ppo();
    fs::write(folder.path().join("lora.toml"), ppo_settings(BASE) + LORA).unwrap();
    for name in ["ppo", "lora"] {
        let run = |out: &str| stage(folder.path(), "ppo", &format!("{name}.toml"), out);
        expect_unbreakable(folder.path(), 10, run);
        fs::rename(folder.path().join("whole"), folder.path().join(name)).unwrap();
    }
    // The adapter is that of the policy alone.
    let adapter = folder.path().join("lora/checkpoints/step-12");
    let names =
        String::from_utf8_lossy(&fs::read(adapter.join("adapter_model.safetensors")).unwrap())
            .into_owned();
    assert!(names.contains("lora_A") && !names.contains("score"));
}

#[test]
fn the_first_step_after_answers_finds_their_numbers_bit_by_bit_and_they_add_up() {
    let folder = begin_ppo();
    let folder = folder.path();
    for (name, set) in [("bf16", "precision.weights=bf16"), ("f32", "precision.weights=f32")] {
        run(folder, name, &[set, "ppo.head=normal"]);
        let steps = metrics(&folder.join(name), "step");
        assert_eq!(steps.len(), 12);
        for (i, step) in steps.iter().enumerate() {
            let off = &step["sampling/sampling_logp_difference/max"];
            match i % 4 {
                0 => {
                    assert_eq!(off.as_f64(), Some(0.0), "{name}: {step}");
                    assert_eq!(step["policy/approxkl_avg"].as_f64(), Some(0.0), "{step}");
                    assert_eq!(step["val/clipfrac_avg"].as_f64(), Some(0.0), "{step}");
                }
                _ => assert!(off.is_null(), "{step}"),
            }
            let number = |key: &str| step[key].as_f64().unwrap();
            let sum = number("loss/policy_avg") + 0.1 * number("loss/value_avg");
            assert!((number("loss") - sum).abs() < 1e-12, "{step}");
            assert!(number("explained_variance") < 1.0 && number("entropy") > 0.0, "{step}");
        }
        assert_eq!(steps[0]["kl"].as_f64(), Some(0.0));
        assert!(steps[11]["kl"].as_f64() > Some(0.0));
        let (generations, rows) =
            (metrics(&folder.join(name), "rollouts"), rollouts(&folder.join(name)));
        assert_eq!((generations.len(), rows.len()), (3, 12));
        for (generation, rows) in generations.iter().zip(rows.chunks(4)) {
            let mut away = 0.0;
            for row in rows {
                let [logps, refs, values] =
                    ["logps", "ref_logps", "values"].map(|k| numbers(row, k));
                let tokens = numbers(row, "ids").len();
                assert!([&logps, &refs, &values].iter().all(|x| x.len() == tokens));
                assert!(row.get("advantage").is_none());
                away += logps.iter().zip(&refs).map(|(p, q)| p - q).sum::<f64>() / 4.0;
                let scores = &row["scores"];
                let total =
                    scores["regex"].as_f64().unwrap() + 0.5 * scores["length"].as_f64().unwrap();
                let cut = if row["finish"] == "length" { 0.25 } else { 0.0 };
                assert_eq!(row["reward"].as_f64(), Some(total - cut), "{row}");
            }
            assert!((generation["objective/kl"].as_f64().unwrap() - away).abs() < 1e-6);
            let cost = generation["objective/non_score_reward"].as_f64().unwrap();
            assert!((cost + 0.05 * away).abs() < 1e-6);
        }
        assert!(rows.iter().any(|row| numbers(row, "values").iter().any(|v| *v != 0.0)));
        let held = metrics(&folder.join(name), "evaluation");
        assert_eq!(held.len(), 4);
    }
    // What others open is the policy alone; the next stage begins with it, and with the values if it is asked to.
    let last = folder.join("f32/checkpoints/step-12");
    let state = fs::read(last.join("state/optimizer.safetensors")).unwrap();
    assert!(String::from_utf8_lossy(&state).contains("w.cls.output.weight"));
    let model = fs::read(last.join("model.safetensors")).unwrap();
    assert!(!String::from_utf8_lossy(&model[..4096.min(model.len())]).contains("score"));
    let on = ["model.init=f32/checkpoints/step-12", "ppo.value_model=f32/checkpoints/step-12"];
    run(folder, "on", &[&on[..], &["precision.weights=f32"]].concat());
    let first = &rollouts(&folder.join("on"))[0];
    assert!(numbers(first, "values").iter().all(|v| *v != 0.0), "{first}");
}

#[test]
fn it_learns_what_it_is_paid_for_and_its_values_learn_to_expect_it() {
    let folder = begin_ppo();
    let folder = folder.path();
    let settings = [
        "score=[{kind=\"regex\",pattern=\"^[^e]*$\"}]",
        "rollout.prompts=48",
        "rollout.max_tokens=6",
        "ppo.kl_coef=0",
        "ppo.missing_eos_penalty=0",
        "ppo.num_mini_batches=1",
        "ppo.vf_coef=0.5",
        "optim.lr=5e-3",
        "optim.warmup_steps=0",
        "optim.steps=40",
        "validation.every=0",
    ];
    run(folder, "paid", &settings);
    let rewards: Vec<f64> = metrics(&folder.join("paid"), "rollouts")
        .iter()
        .map(|line| line["reward"].as_f64().unwrap())
        .collect();
    let mean = |some: &[f64]| some.iter().sum::<f64>() / some.len() as f64;
    let (first, last) = (mean(&rewards[..4]), mean(&rewards[rewards.len() - 4..]));
    assert!(last > first + 0.2, "{rewards:?}");
    let steps = metrics(&folder.join("paid"), "step");
    let lost = |step: &Value| step["loss/value_avg"].as_f64().unwrap();
    assert!(lost(&steps[39]) < 0.7 * lost(&steps[0]), "{} {}", steps[0], steps[39]);
    assert!(steps[0].get("kl").is_none());
}

#[test]
fn a_reward_model_judges_and_lends_its_head() {
    let folder = begin_ppo();
    let folder = folder.path();
    fs::write(folder.join("reward.toml"), reward_settings(BASE)).unwrap();
    done(&mut stage(folder, "reward", "reward.toml", "reward"));
    let judged = [
        "score=[{kind=\"reward\",model=\"reward/checkpoints/step-12\"}]",
        "ppo.value_model=reward/checkpoints/step-12",
        "ppo.whiten_scores=true",
        "ppo.whiten_rewards=true",
    ];
    run(folder, "judged", &judged);
    let rows = rollouts(&folder.join("judged"));
    assert!(rows.iter().all(|row| row["scores"]["reward"].as_f64().is_some()));
    assert!(numbers(&rows[0], "values").iter().all(|v| *v != 0.0));
    // A language model has no head that scores.
    let err = fails(folder, "none", &[&format!("ppo.value_model={BASE}")]);
    assert!(err.contains("cls.output.weight"), "{err}");
}

#[test]
fn any_cut_into_micro_batches_threads_and_answers_at_once_changes_no_bit_of_it() {
    let folder = begin_ppo();
    let folder = folder.path();
    run(folder, "whole", &[]);
    run(folder, "rows", &["batch.micro_tokens=128"]);
    run(folder, "again", &["precision.recompute=true"]);
    run(folder, "alone", &["rollout.parallel=1"]);
    let mut threads = training::herd(folder);
    done(threads.args(["ppo", "--config", "ppo.toml", "--out", "threads", "-t", "2"]));
    let read = |run: &str, file: &str| fs::read(folder.join(run).join(file)).unwrap();
    for other in ["rows", "again", "alone", "threads"] {
        for file in
            ["metrics.jsonl", "rollouts.jsonl", "checkpoints/step-12/state/optimizer.safetensors"]
        {
            assert!(read("whole", file) == read(other, file), "{other}: {file}");
        }
    }
    let err = fails(folder, "whole", &["ppo.lam=0.9"]);
    assert!(err.contains("ppo.lam was 0.95, is 0.9"), "{err}");
}

#[test]
fn a_gradient_that_is_no_number_takes_policy_and_values_back_to_their_first() {
    let folder = begin_ppo();
    let folder = folder.path();
    // The second gradient of values is beyond f32.
    let wild = [
        "score=[{kind=\"regex\",pattern=\"^\",weight=1e30}]",
        "ppo.vf_coef=1e6",
        "optim.lr=10",
        "optim.warmup_steps=0",
        "optim.steps=200",
        "checkpoint.every=1000",
        "validation.every=0",
        "spikes.policy=rewind",
        "spikes.rewinds_max=2",
    ];
    let err = fails(folder, "wild", &wild);
    assert!(err.contains("after 2 rewinds"), "{err}");
    let spikes = metrics(&folder.join("wild"), "spike");
    assert_eq!(spikes[0]["action"], "rewound to 0", "{spikes:?}");
    let rows = rollouts(&folder.join("wild"));
    // Each time the reference gave the answers, and its values are those of a head of zeros.
    let back: Vec<_> = rows.iter().filter(|row| row["step"] == 0).collect();
    assert_eq!(back.len(), 3 * 4, "{spikes:?}");
    assert!(!metrics(&folder.join("wild"), "step").is_empty());
    for row in back {
        assert!(row["logps"] == row["ref_logps"], "{row}");
        assert!(numbers(row, "values").iter().all(|v| *v == 0.0), "{row}");
    }
}

#[test]
fn settings_that_teach_nothing_are_named() {
    let folder = begin_ppo();
    let folder = folder.path();
    for (set, told) in [
        ("ppo.cliprange=2", "ppo.cliprange"),
        ("ppo.gamma=1.5", "ppo.gamma"),
        ("ppo.lam=nan", "ppo.lam"),
        ("ppo.num_ppo_epochs=0", "ppo.num_ppo_epochs"),
        ("ppo.num_mini_batches=3", "ppo.num_mini_batches"),
        ("ppo.missing_eos_penalty=-1", "ppo.missing_eos_penalty"),
        ("ppo.head=one", "one"),
        ("ppo.clip_range=0.1", "did you mean ppo.cliprange?"),
        ("ppo.value_model=nowhere", "nowhere"),
        ("batch.tokens=512", "batch.tokens"),
        ("score=[]", "score"),
        ("grpo.beta=0", "grpo"),
    ] {
        let err = fails(folder, "none", &[set]);
        assert!(err.contains(told), "{set}: {err}");
        let _ = fs::remove_dir_all(folder.join("none"));
    }
    let preview =
        training::herd(folder).args(["preview", "--config", "ppo.toml"]).output().unwrap();
    let err = String::from_utf8_lossy(&preview.stderr).into_owned();
    assert!(err.contains("it learns from its own answers"), "{err}");
    let plan = done(training::herd(folder).args(["plan", "--config", "ppo.toml"]));
    assert!(!plan.contains("hint"), "{plan}");
    run(folder, "run", &[]);
    // The last checkpoint stands between two steps of a generation when answers are cut in three; its rows are read back.
    let cut = ["rollout.prompts=6", "ppo.num_mini_batches=3", "optim.steps=8"];
    run(folder, "cut", &cut);
    let rows = folder.join("cut/rollouts.jsonl");
    let text = fs::read_to_string(&rows).unwrap();
    fs::write(&rows, text.replace("\"values\"", "\"prices\"")).unwrap();
    let err = fails(folder, "cut", &cut);
    assert!(err.contains("its last answers are not those"), "{err}");
}
