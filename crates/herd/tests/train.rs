//! A run of training, killed at any moment and begun again, ends with the bytes of one that was not.

#![allow(clippy::unwrap_used)] // helpers of tests too

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn herd(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_herd"));
    command.current_dir(folder).env("HERD_HOME", folder.join("home")).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {err}");
    err
}

/// The sections of this repository's pages as documents, a vocabulary learnt from them, and
/// settings of a run of twelve steps.
fn begin() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let pages = ["model.md", "files.md", "chat.md", "kernels.md"];
    let text = pages.map(|page| fs::read_to_string(docs.join(page)).unwrap()).concat();
    let lines = text.split("\n## ").map(|part| serde_json::json!({ "text": part }).to_string());
    fs::write(folder.path().join("docs.jsonl"), lines.collect::<Vec<_>>().join("\n")).unwrap();
    let train = "tokenizer train -i docs.jsonl --vocab-size 400 --specials 16 -o words";
    done(herd(folder.path()).args(train.split(' ')));
    fs::write(folder.path().join("run.toml"), SETTINGS).unwrap();
    folder
}

const SETTINGS: &str = r#"
tokenizer = "words"
[data]
input = ["docs.jsonl"]
validation_share = 0.3
[model]
layers = 1
width = 32
heads = 2
kv_heads = 1
ffn_width = 64
[batch]
tokens = 256
seq_len = 64
micro_tokens = 128
[optim]
steps = 12
warmup_steps = 3
[checkpoint]
every = 3
keep_last = 2
keep_every = 6
[validation]
every = 5
[samples]
every = 6
tokens = 8
"#;

fn stage(folder: &Path, verb: &str, config: &str, out: &str) -> Command {
    let mut command = herd(folder);
    command.args([verb, "--config", config, "--out", out, "-t", "1"]);
    command
}

fn pretrain(folder: &Path, out: &str, more: &[&str]) -> Command {
    let mut command = stage(folder, "pretrain", "run.toml", out);
    command.args(more);
    command
}

/// All files of a run whose bytes are promised.
fn files(run: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(root: &Path, folder: &Path, out: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, out);
            } else {
                out.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(run, run, &mut out);
    // Speed, and with it the report and TensorBoard's events, is that of the machine.
    let timed = ["speed.jsonl", "events", "report", "report.md", ".lock"];
    out.retain(|path, _| !path.iter().any(|part| timed.iter().any(|timed| part == *timed)));
    out
}

fn expect_same(a: &Path, b: &Path) {
    let (a, b) = (files(a), files(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (path, bytes) in &a {
        assert!(*bytes == b[path], "{} differs", path.display());
    }
}

#[test]
fn a_run_killed_at_any_moment_ends_with_the_same_bytes() {
    let folder = begin();
    expect_unbreakable(folder.path(), 120, |out| pretrain(folder.path(), out, &[]));
}

/// Kills a run at random moments, at least `enough` times, and takes it up until it is done.
fn expect_unbreakable(folder: &Path, enough: usize, command: impl Fn(&str) -> Command) {
    let begun = Instant::now();
    done(&mut command("whole"));
    let whole = begun.elapsed();
    let mut random = 12_345u64;
    let mut kills = 0;
    for round in 0.. {
        let out = format!("killed-{round}");
        loop {
            let mut child = command(&out).stderr(Stdio::null()).spawn().unwrap();
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let wait = whole.as_secs_f64() * ((random >> 33) as f64 / (1u64 << 31) as f64);
            std::thread::sleep(Duration::from_secs_f64(wait));
            child.kill().unwrap();
            if child.wait().unwrap().success() {
                break;
            }
            kills += 1;
        }
        expect_same(&folder.join("whole"), &folder.join(&out));
        fs::remove_dir_all(folder.join(&out)).unwrap();
        if kills >= enough {
            break;
        }
    }
}

#[test]
fn annealing_ends_with_the_mean_of_its_checkpoints_however_often_it_is_killed() {
    let folder = begin();
    done(&mut pretrain(folder.path(), "base", &[]));
    let init = "[model]\ninit = \"base/checkpoints/step-12\"\n";
    let text = SETTINGS.replace("[model]\n", init).replace("warmup_steps = 3\n", "");
    fs::write(folder.path().join("anneal.toml"), text).unwrap();
    let anneal = |out: &str| stage(folder.path(), "anneal", "anneal.toml", out);
    expect_unbreakable(folder.path(), 25, anneal);
    let steps = [3, 6, 9, 12].map(|step| format!("whole/checkpoints/step-{step}"));
    done(herd(folder.path()).arg("average").args(steps).args(["-o", "mean"]));
    let weights = |path: &str| fs::read(folder.path().join(path)).unwrap();
    assert!(weights("whole/model/model.safetensors") == weights("mean/model.safetensors"));
    let metrics = fs::read_to_string(folder.path().join("whole/metrics.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    assert_eq!(last["kind"], "average");
    assert_eq!(last["of"], serde_json::json!([3, 6, 9, 12]));
    let rates: Vec<f64> = metrics
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter_map(|line| line["lr"].as_f64())
        .collect();
    assert!(rates.is_sorted_by(|a, b| a > b) && rates.last() == Some(&0.0), "{rates:?}");
}

#[test]
fn extending_judges_each_stage_and_ends_with_the_same_bytes_however_often_it_is_killed() {
    let folder = begin();
    done(&mut pretrain(folder.path(), "base", &[]));
    let init = "[model]\ninit = \"base/checkpoints/step-12\"\n";
    let text = SETTINGS.replace("[model]\n", init) + EXTENSION;
    fs::write(folder.path().join("longer.toml"), &text).unwrap();
    let extend = |out: &str| stage(folder.path(), "extend-context", "longer.toml", out);
    expect_unbreakable(folder.path(), 25, extend);
    let json = |path: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(folder.path().join(path)).unwrap()).unwrap()
    };
    let config = json("whole/stage-2/checkpoints/step-4/config.json");
    assert_eq!(config["max_position_embeddings"], 256);
    assert_eq!(config["rope_theta"], 60_000.0);
    let verdict = json("whole/stage-2/verdict.json");
    assert_eq!(verdict["failed"], serde_json::json!([]));
    let lengths: Vec<_> =
        verdict["needles"].as_array().unwrap().iter().map(|n| &n["length"]).collect();
    assert_eq!(lengths, [64, 64, 128, 128, 256, 256]);
    let told = fs::read_to_string(folder.path().join("whole/stage-2/config.toml")).unwrap();
    assert!(told.contains("init = \"../stage-1/checkpoints/step-4\""), "{told}");
    // A model that finds nothing does not pass, and the command says so.
    fs::write(folder.path().join("hard.toml"), text.replace("needle_rate = 0", "needle_rate = 1"))
        .unwrap();
    let output = stage(folder.path(), "extend-context", "hard.toml", "hard").output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("needles at 128 tokens"), "{err}");
    assert!(folder.path().join("hard/stage-1.2/verdict.json").is_file());
    assert!(!folder.path().join("hard/stage-2").exists());
}

const EXTENSION: &str = r#"
[context]
loss_tolerance = 10
needle_rate = 0
rounds_max = 2
[context.needle]
sentence = "{key}{value}"
question = "{key}"
digits = 1
depths = [0, 1]
samples = 1
[[context.stage]]
seq_len = 128
rope_theta = 30000
steps = 4
[[context.stage]]
seq_len = 256
rope_theta = 60000
steps = 4
"#;

#[test]
fn lora_learns_beside_frozen_weights_of_any_format_and_a_killed_run_has_the_same_bytes() {
    let folder = begin();
    done(&mut pretrain(folder.path(), "base", &["--set", "optim.steps=24"]));
    for args in [
        "convert -m base/checkpoints/step-24 -o base.gguf",
        "quantize -m base.gguf --type q8_0 --no-measure -o small.gguf",
    ] {
        done(herd(folder.path()).args(args.split(' ')));
    }
    for (name, init, kills) in
        [("full", "base/checkpoints/step-24", 25), ("small", "small.gguf", 3)]
    {
        let lora = "\n[model.lora]\nrank = 4\nalpha = 8\ntargets = [\"q\", \"k\", \"down\"]\n";
        let head = format!("[model]\ninit = {init:?}\n");
        let text = SETTINGS.replace("[model]\n", &head) + lora;
        fs::write(folder.path().join(format!("{name}.toml")), text).unwrap();
        let run = |out: &str| stage(folder.path(), "pretrain", &format!("{name}.toml"), out);
        expect_unbreakable(folder.path(), kills, run);
        fs::rename(folder.path().join("whole"), folder.path().join(name)).unwrap();
        let metrics = fs::read_to_string(folder.path().join(name).join("metrics.jsonl")).unwrap();
        let losses: Vec<f64> = metrics
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .filter(|line| line["kind"] == "validation")
            .filter_map(|line| line["loss"].as_f64())
            .collect();
        assert!(losses.first() > losses.last(), "{name}: {losses:?}");
        let step = folder.path().join(name).join("checkpoints/step-12");
        assert!(!step.join("model.safetensors").exists());
        let adapter = fs::read(step.join("adapter_model.safetensors")).unwrap();
        let header = u64::from_le_bytes(adapter[..8].try_into().unwrap()) as usize;
        let header: serde_json::Value = serde_json::from_slice(&adapter[8..8 + header]).unwrap();
        let b = &header["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"];
        assert_eq!(b["shape"], serde_json::json!([32, 4]));
    }
}

#[test]
fn threads_and_micro_batches_give_the_same_weights() {
    let folder = begin();
    done(&mut pretrain(folder.path(), "a", &[]));
    let weights = |out: &str| {
        let state = format!("{out}/checkpoints/step-12/state/optimizer.safetensors");
        fs::read(folder.path().join(state)).unwrap()
    };
    for (out, more) in [
        ("b", &["--set", "batch.micro_tokens=64"][..]),
        ("c", &["--set", "batch.micro_tokens=256", "-t", "2"]),
        ("d", &["--set", "precision.recompute=true", "-t", "2"]),
    ] {
        let mut command = herd(folder.path());
        done(command.args(["pretrain", "--config", "run.toml", "--out", out]).args(more));
        assert!(weights("a") == weights(out), "{more:?}");
    }
}

#[test]
fn what_is_wrong_is_named_and_nothing_is_lost() {
    let folder = begin();
    let fails = |args: &[&str], words: &[&str]| {
        let mut command = herd(folder.path());
        let output =
            command.args(["pretrain", "--config", "run.toml"]).args(args).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {err}");
        assert!(!err.contains("a fault in herd"), "{err}");
        words.iter().for_each(|word| assert!(err.contains(word), "{args:?}: no {word:?} in {err}"));
    };
    fails(&["--out", "x", "--set", "optim.learning_rate=1"], &["optim.learning_rate"]);
    fails(&["--out", "x", "--set", "optim.step=1"], &["optim.step", "did you mean optim.steps?"]);
    fails(&["--out", "x", "--set", "optim.lr=fast"], &["fast"]);
    fails(&["--out", "x", "--set", "batch.tokens=100"], &["100 in rows of 64"]);
    let tokens = "batch.tokens=1152921504606846976"; // 2^60
    fails(&["--out", "x", "--set", tokens], &["1152921504606846976", "2^28"]);
    fails(&["--out", "x", "--set", "samples.tokens=0"], &["samples.tokens", "1 to 65536"]);
    fails(&["--out", "x", "--set", "model.init_std=nan"], &["model.init_std", "NaN"]);
    fails(&["--out", "x", "--set", "preset=8g"], &["8g", "did you mean 8b?"]);
    fails(&["--out", "x", "--set", "model.heads=3"], &["3 for a width of 32"]);
    done(&mut pretrain(folder.path(), "run", &[]));
    let before = files(&folder.path().join("run"));
    fails(&["--out", "run", "--set", "optim.lr=1e-4"], &["optim.lr", "another --out"]);
    fs::write(folder.path().join("run/checkpoints/step-12/state/train.json"), "{}").unwrap();
    fails(&["--out", "run"], &["train.json", "damaged"]);
    let path = Path::new("checkpoints/step-12/state/train.json");
    fs::write(folder.path().join("run").join(path), &before[path]).unwrap();
    let shard = before.keys().find(|path| path.extension().is_some_and(|e| e == "tok")).cloned();
    let shard = shard.unwrap_or_else(|| panic!("no shard in {:?}", before.keys()));
    let mut bytes = before[&shard].clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(folder.path().join("run").join(&shard), bytes).unwrap();
    fails(&["--out", "run"], &[shard.file_name().unwrap().to_str().unwrap()]);
    fs::write(folder.path().join("run").join(&shard), &before[&shard]).unwrap();
    done(&mut pretrain(folder.path(), "run", &[]));
    assert!(files(&folder.path().join("run")) == before);
}

#[test]
fn a_run_whose_batches_were_exported_ends_with_the_same_bytes_and_read_them() {
    let folder = begin();
    done(&mut pretrain(folder.path(), "plain", &[]));
    done(&mut pretrain(folder.path(), "told", &["--export", "12"]));
    let told = folder.path().join("told");
    assert!(told.join("checkpoints/step-0/model.safetensors").is_file());
    let batches = fs::read(told.join("batches.safetensors")).unwrap();
    let header = u64::from_le_bytes(batches[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&batches[8..8 + header]).unwrap();
    assert_eq!(header["train.sizes"]["shape"], serde_json::json!([12, 3]));
    assert_eq!(header["train.tokens"]["shape"], serde_json::json!([12 * 256]));
    assert_eq!(header["train.weights"]["shape"], serde_json::json!([12 * 256]));
    fs::remove_file(told.join("batches.safetensors")).unwrap();
    done(&mut pretrain(folder.path(), "told", &[]));
    fs::remove_dir_all(told.join("checkpoints/step-0")).unwrap();
    expect_same(&folder.path().join("plain"), &told);
    let begun = pretrain(folder.path(), "told", &["--export", "1"]).output().unwrap();
    assert!(String::from_utf8_lossy(&begun.stderr).contains("12 steps are done"));
}

#[test]
fn one_dial_sets_the_rest_and_the_file_still_wins() {
    let folder = begin();
    let text = "tokenizer = \"words\"\n[data]\ninput = [\"docs.jsonl\"]\n[optim]\nsteps = 1\nwarmup_steps = 0\n\
                [batch]\ntokens = 64\nseq_len = 64\n";
    fs::write(folder.path().join("dial.toml"), text).unwrap();
    let mut command = herd(folder.path());
    done(command.args(["pretrain", "--config", "dial.toml", "--depth", "2", "--out", "dial"]));
    let config = fs::read_to_string(folder.path().join("dial/config.toml")).unwrap();
    for line in ["layers = 2", "width = 128", "heads = 2", "ffn_width = 384", "steps = 1"] {
        assert!(config.lines().any(|l| l == line), "no {line} in {config}");
    }
}
