//! Commands that read training runs, and `average`, which makes a checkpoint of checkpoints.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;
#[path = "common/tiny.rs"]
mod tiny;

use std::fs;
use std::path::Path;

use common::run;
use serde_json::Value;

/// A run of ten steps whose sixth loss is `sixth`.
fn write(folder: &Path, sixth: f64) {
    fs::create_dir_all(folder).unwrap();
    let (mut metrics, mut speed) = (String::new(), String::new());
    for step in 1..=10 {
        let loss = if step == 6 { sixth } else { 10.0 / f64::from(step) };
        let tokens = step * 100;
        metrics += &format!(
            "{{\"kind\":\"step\",\"step\":{step},\"tokens\":{tokens},\"loss\":{loss},\
             \"grad_norm\":1.0,\"lr\":0.001,\"seq_len\":10}}\n"
        );
        speed += &format!(
            "{{\"step\":{step},\"tok_s\":1000.0,\"mfu\":null,\"step_s\":0.1,\"data_wait_s\":0.0,\
             \"peak_bytes\":1048576,\"eta_s\":1.0}}\n"
        );
    }
    metrics += "{\"kind\":\"validation\",\"step\":10,\"loss\":1.5,\"bpb\":0.75,\"by_source\":\
                {\"books\":{\"loss\":1.5,\"bpb\":0.75}}}\n";
    metrics += "{\"kind\":\"average\",\"step\":10,\"of\":[5,10],\"loss\":1.4,\"bpb\":0.7125,\
                \"by_source\":{\"books\":{\"loss\":1.4,\"bpb\":0.7125}}}\n";
    fs::write(folder.join("metrics.jsonl"), metrics).unwrap();
    fs::write(folder.join("speed.jsonl"), speed + "{\"step\":11").unwrap();
    fs::write(folder.join("config.toml"), format!("seed = {}\n", sixth as u64)).unwrap();
}

fn json(home: &Path, args: &[&str]) -> (i32, Value) {
    let (code, out, err) = run(home, &[args, &["--json", "--quiet"]].concat());
    assert_eq!(err, "");
    (code, serde_json::from_str(&out).unwrap())
}

#[test]
fn runs_are_listed_shown_and_drawn() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let folder = home.join("runs");
    write(&folder.join("a"), 2.0);
    write(&folder.join("b"), 3.0);
    let (folder_text, a, b) = (folder.to_str().unwrap(), folder.join("a"), folder.join("b"));
    let (a, b) = (a.to_str().unwrap(), b.to_str().unwrap());
    let (code, out, err) = run(home, &["runs", "list", folder_text]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(out.lines().count(), 3, "{out}");
    assert!(out.contains("1,000") && out.contains("0.7500"), "{out}");
    let (code, said) = json(home, &["runs", "show", a]);
    assert_eq!((code, &said["steps"], &said["best"]["bpb"]), (0, &10.into(), &0.75.into()));
    assert_eq!(said["average"]["bpb"], 0.7125);
    assert_eq!((&said["torn"][0]["line"], &said["peak_bytes"]), (&11.into(), &1_048_576.into()));
    let (code, out, err) = run(home, &["runs", "show", a]);
    assert!(code == 0 && out.contains("books") && err.contains("torn: line 11"), "{out}{err}");

    let svg = home.join("curves.svg");
    let args = ["runs", "plot", a, b, "--metric", "loss,bpb,tok_s", "-o", svg.to_str().unwrap()];
    assert_eq!(run(home, &args).0, 0);
    let svg = fs::read_to_string(svg).unwrap();
    assert_eq!(svg.matches("class=\"title\"").count(), 3);
    let (code, out, err) = run(home, &["runs", "plot", a, b]);
    assert!(code == 0 && err.is_empty() && out.contains("loss of b, steps 1 to 10"), "{out}{err}");
    let (code, said) = json(home, &["runs", "plot", a, "--metric", "lr"]);
    assert_eq!((code, &said[0]["series"]["lr"][9][1]), (0, &0.001.into()));
    let (code, _, err) = run(home, &["runs", "plot", a, "--metric", "los"]);
    assert!(code == 2 && err.contains("\"los\"") && err.contains("grad_norm"), "{err}");
    let (code, _, err) = run(home, &["runs", "show", home.to_str().unwrap()]);
    assert!(code == 2 && err.contains("is no run"), "{err}");
}

#[test]
fn diff_names_the_step_and_the_field_and_answers_by_its_exit_code() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    for (name, sixth) in [("a", 2.0), ("b", 2.0), ("c", 3.5)] {
        write(&home.join(name), sixth);
    }
    let [a, b, c] = ["a", "b", "c"].map(|name| home.join(name).to_str().unwrap().to_owned());
    let (code, said) = json(home, &["runs", "diff", &a, &b]);
    assert_eq!((code, said), (0, serde_json::json!({ "identical": true })));
    let (code, said) = json(home, &["runs", "diff", &a, &c]);
    assert_eq!((code, &said["identical"], &said["step"]), (1, &false.into(), &6.into()));
    assert_eq!((&said["field"], &said["a"], &said["b"]), (&"loss".into(), &2.into(), &3.5.into()));
    assert_eq!(said["settings"][0]["key"], "seed");
    let (code, out, err) = run(home, &["runs", "diff", &a, &c]);
    assert_eq!((code, out.as_str()), (1, "metrics part at step 6 (line 6): loss is 2 and 3.5\n"));
    assert!(err.contains("setting seed: 2 and 3"), "{err}");
    let metrics = home.join("b/metrics.jsonl");
    let text = fs::read_to_string(&metrics).unwrap();
    fs::write(&metrics, text.replacen("\"loss\":10", "\"loss\":\"ten\"", 1)).unwrap();
    let (code, _, err) = run(home, &["runs", "diff", &a, &b]);
    assert!(code == 2 && err.contains("metrics.jsonl line 1"), "{err}");
    assert_eq!(run(home, &["runs", "diff", &a, "nowhere"]).0, 2);
}

#[test]
fn the_mean_of_a_model_with_itself_is_the_model() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let model = tiny::write(home);
    let (folder, mean) = (home.join("step-1"), home.join("mean"));
    let (folder_text, mean_text) = (folder.to_str().unwrap(), mean.to_str().unwrap());
    let args = ["convert", "-m", model.to_str().unwrap(), "-o", folder_text, "-q"];
    assert_eq!(run(home, &args).0, 0);
    let average = ["average", folder_text, folder_text, "-o", mean_text];
    let (code, said) = json(home, &[&average[..], &["--weights", "1,3"]].concat());
    assert_eq!((code, &said["checkpoints"]), (0, &2.into()));
    for name in ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"] {
        let [a, b] = [&folder, &mean].map(|folder| fs::read(folder.join(name)).unwrap());
        assert!(a == b, "{name}");
    }
    let (code, out, _) =
        run(home, &["complete", "-m", mean_text, "-p", "a", "-n", "3", "--temp", "0", "-q"]);
    assert!(code == 0 && !out.is_empty());
    let (code, _, err) = run(home, &average);
    assert!(code == 2 && err.contains("already exists"), "{err}");
    let fresh = ["average", folder_text, "-o", "fresh", "--weights", "1,2"];
    let (code, _, err) = run(home, &fresh);
    assert!(code == 2 && err.contains("--weights"), "{err}");
    let (code, _, err) = run(home, &["average", model.to_str().unwrap(), "-o", "fresh"]);
    assert!(code == 2 && err.contains("no Hugging Face folder"), "{err}");
}
