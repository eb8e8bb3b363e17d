//! `herd scaling`: a sweep killed at any moment ends with the bytes of one that was not; forecasts stand before their runs.

#![allow(clippy::unwrap_used)] // helpers of tests too

#[path = "common/training.rs"]
mod training;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;
use training::{begin, done, expect_same, herd, refused, rows, stage};

/// Two budgets, four sizes, a benchmark: eight runs of seconds.
const SETTINGS: &str = r#"
budgets = [1e9, 4e9]
sizes = [26e3, 39e3, 75e3, 124e3]
batch = [[0, 128], [2e9, 256]]
lr = [[1e4, 8e-3], [1e5, 5e-3]]
steps_min = 10
[tasks]
names = ["pick.toml"]
data = "."
limit = 20
[run]
tokenizer = "words"
[run.data]
input = ["docs.jsonl"]
validation_share = 0.3
[run.batch]
tokens = 128
seq_len = 64
micro_tokens = 256
[run.checkpoint]
every = 5
"#;

const TASK: &str = r#"
name = "pick"
version = 1
about = "which word follows"
citation = "this test"
files = ["pick.jsonl"]
scorer = "choice"
metric = "acc"
[[form]]
has = ["q", "options", "gold"]
text = "{{q}}"
choices = "options"
gold = "gold"
"#;

fn begin_sweep() -> tempfile::TempDir {
    let folder = begin();
    fs::write(folder.path().join("sweep.toml"), SETTINGS).unwrap();
    fs::write(folder.path().join("pick.toml"), TASK).unwrap();
    let row = |n: usize| {
        let options = ["model", "kernel", "file"];
        serde_json::json!({ "q": format!("The {n}"), "options": options, "gold": n % 3 })
            .to_string()
    };
    let text: Vec<String> = (0..20).map(row).collect();
    fs::write(folder.path().join("pick.jsonl"), text.join("\n")).unwrap();
    folder
}

fn scaling(folder: &Path, args: &[&str]) -> Command {
    let mut command = herd(folder);
    command.arg("scaling").args(args).stdout(Stdio::piped());
    command
}

fn sweep(folder: &Path, out: &str) -> Command {
    scaling(folder, &["sweep", "--config", "sweep.toml", "--out", out, "-t", "1"])
}

/// What a command prints as JSON.
fn told(command: &mut Command) -> Value {
    let output = command.arg("--json").output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code().is_some_and(|code| code < 2), "{command:?}: {error}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_sweep_grows_by_budgets_and_sizes_behind_the_runs_that_are_there() {
    let folder = begin_sweep();
    let folder = folder.path();
    let of = |budgets: &str, sizes: &str| {
        let mut command = sweep(folder, "out");
        command.args(["--set", &format!("budgets={budgets}"), "--set", &format!("sizes={sizes}")]);
        command
    };
    done(&mut of("[4e9]", "[26e3, 75e3]"));
    let (trials, first) = (folder.join("out/trials.jsonl"), folder.join("out/runs"));
    let before = fs::read_to_string(&trials).unwrap();
    let made = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    let run = fs::read_dir(&first).unwrap().next().unwrap().unwrap().path();
    let metrics = (run.join("metrics.jsonl"), made(&run.join("metrics.jsonl")));
    done(&mut of("[1e9, 4e9]", "[26e3, 39e3, 75e3]"));
    let after = fs::read_to_string(&trials).unwrap();
    assert!(after.starts_with(&before) && after.lines().count() == 6, "{after}");
    assert_eq!(made(&metrics.0), metrics.1);
    let error = refused(&mut of("[1e9]", "[26e3, 39e3, 75e3]"));
    assert!(error.contains("budgets"), "{error}");
}

#[test]
fn a_sweep_that_is_killed_ends_with_the_bytes_of_one_that_is_not() {
    let folder = begin_sweep();
    let folder = folder.path();
    done(&mut sweep(folder, "out"));
    let trials = rows(&folder.join("out/trials.jsonl"));
    assert_eq!(trials.len(), 8);
    for trial in &trials {
        let (flops, budget) = (trial["flops"].as_f64().unwrap(), trial["budget"].as_f64().unwrap());
        assert!((flops / budget - 1.0).abs() < 0.05, "{trial}");
        assert_eq!(trial["tasks"]["pick"]["n"], 20);
        assert!((trial["tasks"]["pick"]["chance"].as_f64().unwrap() - 1.0 / 3.0).abs() < 1e-12);
    }
    fs::rename(folder.join("out"), folder.join("whole")).unwrap(); // some files name their folder
    // Killed in the shards, in a run, behind the first one, and in the last ones.
    let last = format!("runs/{}/metrics.jsonl", trials[7]["name"].as_str().unwrap());
    for place in ["shards", "runs", "trials.jsonl", &last] {
        let mut run = sweep(folder, "out");
        let mut run = run.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        while run.try_wait().unwrap().is_none() && !folder.join("out").join(place).exists() {
            sleep(Duration::from_millis(1));
        }
        let _ = run.kill(); // it may have ended
        run.wait().unwrap();
    }
    done(&mut sweep(folder, "out"));
    expect_same(&folder.join("whole"), &folder.join("out"));

    // Other settings are another sweep; the same ones change nothing.
    let error = refused(sweep(folder, "out").args(["--set", "steps_min=11"]));
    assert!(error.contains("steps_min was 10, is 11"), "{error}");
    done(&mut sweep(folder, "out"));
    expect_same(&folder.join("whole"), &folder.join("out"));
}

/// Finished runs as a law has them, with the hash of the shards of a real run.
fn lay_trials(folder: &Path, data: &str) {
    let mut lines = String::new();
    for budget in [1e9, 4e9, 1.6e10] {
        for params in [2e4, 4e4, 8e4, 1.6e5] {
            let tokens: f64 = budget / 6.0 / params;
            let wobble = 1.0 + 0.002 * ((params / 1e3 + budget / 1e9) * 1.7).sin();
            let loss = (1.5 + 20.0 * f64::powf(params, -0.3) + 40.0 * tokens.powf(-0.3)) * wobble;
            let line = serde_json::json!({
                "name": format!("{budget:e}-{params:e}"), "budget": budget, "params": params,
                "tokens": tokens, "flops": budget, "steps": 10, "batch_tokens": 128, "lr": 1e-3,
                "layers": 1, "width": 32, "loss": loss, "bpb": loss, "by_source": {},
                "data": data, "metrics": "",
            });
            lines += &format!("{line}\n");
        }
    }
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("trials.jsonl"), lines).unwrap();
}

#[test]
fn a_forecast_is_written_down_before_its_run_and_judged_after_it() {
    let folder = begin_sweep();
    let folder = folder.path();
    let short = ["--set", "budgets=[1e9]", "--set", "sizes=[26e3]"];
    let short =
        [&short[..], &["--set", "tasks={names=[\"pick.toml\"], data=\".\", limit=3}"]].concat();
    done(sweep(folder, "study").args(&short));
    let data = rows(&folder.join("study/trials.jsonl"))[0]["data"].as_str().unwrap().to_owned();
    lay_trials(&folder.join("study"), &data);

    let fit = told(&mut scaling(folder, &["fit", "study"]));
    assert_eq!(fit["mixes"][0]["runs"], 12);
    assert_eq!(fs::read(folder.join("study/fit.json")).unwrap(), {
        told(&mut scaling(folder, &["fit", "study"]));
        fs::read(folder.join("study/fit.json")).unwrap()
    });
    for figure in ["isoflop", "optimum"] {
        let text = fs::read_to_string(folder.join(format!("study/figures/{figure}.svg"))).unwrap();
        assert!(text.starts_with("<svg") && text.ends_with("</svg>\n"));
    }

    // The settings of the run that is foretold are the sweep's.
    let predict =
        ["predict", "study", "--params", "5e4", "--tokens", "6000", "--settings", "next.toml"];
    let foretold = told(&mut scaling(folder, &predict))[0].clone();
    let interval = ["low", "value", "high"].map(|end| foretold["loss"][end].as_f64().unwrap());
    assert!(interval.is_sorted() && interval[0] < interval[2], "{foretold}");
    let run = stage(folder, "pretrain", "next.toml", "next");
    done(&mut { run });
    let judged = told(&mut scaling(folder, &["verify", "study", "--run", "next"]));
    assert_eq!(judged["forecast"], foretold["hash"]);
    let (loss, inside) = (judged["loss"].as_f64().unwrap(), judged["inside"].as_bool().unwrap());
    assert_eq!(inside, interval[0] <= loss && loss <= interval[2]);
    let output = scaling(folder, &["verify", "study", "--run", "next"]).output().unwrap();
    assert_eq!(output.status.code(), Some(if inside { 0 } else { 1 }));

    // What comes after the run, or is of another one, is no forecast of it.
    let forecasts = folder.join("study/forecasts.jsonl");
    let before = fs::read_to_string(&forecasts).unwrap();
    fs::remove_file(&forecasts).unwrap();
    told(&mut scaling(folder, &predict[..6]));
    told(&mut scaling(folder, &predict));
    let error = refused(&mut scaling(folder, &["verify", "study", "--run", "next"]));
    assert!(error.contains("before the run began"), "{error}");
    fs::write(&forecasts, before.replace("\"tokens\":", "\"tokens\":1")).unwrap();
    let error = refused(&mut scaling(folder, &["verify", "study", "--run", "next"]));
    assert!(error.contains("line 1") && error.contains("hash"), "{error}");
}

#[test]
fn what_is_no_sweep_and_no_forecast_is_named() {
    let folder = begin_sweep();
    let folder = folder.path();
    let error = refused(sweep(folder, "none").args(["--set", "run.data.validation_share=0"]));
    assert!(error.contains("validation_share"), "{error}");
    let error = refused(sweep(folder, "few").args(["--set", "budgets=[1e6]"]));
    assert!(error.contains("steps"), "{error}");
    lay_trials(&folder.join("laid"), "data");
    for (args, wanted) in [
        (&["fit", "nowhere"][..], "trials.jsonl"),
        (&["predict", "laid", "--flops", "0"], "above 0"),
        (&["predict", "laid", "--params", "1e6"], "--tokens"),
        (&["predict", "laid"], "--flops"),
        (&["predict", "laid", "--flops", "1e12", "--mix", "web"], "--mix"),
    ] {
        let error = refused(&mut scaling(folder, args));
        assert!(error.contains(wanted), "{args:?}: {error}");
    }
    let path = folder.join("laid/trials.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("\"loss\"", "\"lose\"", 1)).unwrap();
    let error = refused(&mut scaling(folder, &["fit", "laid"]));
    assert!(error.contains("line 1"), "{error}");
    fs::write(&path, text.lines().take(5).collect::<Vec<_>>().join("\n")).unwrap();
    let error = refused(&mut scaling(folder, &["fit", "laid"]));
    assert!(error.contains("5 runs"), "{error}");
}
