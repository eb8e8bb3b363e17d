//! A run of training, killed at any moment and begun again, ends with the bytes of one that was not.

#![allow(clippy::unwrap_used)] // helpers of tests too

#[path = "common/training.rs"]
mod training;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use training::{EXTENSION, SETTINGS};
use training::{begin, done, expect_same, expect_unbreakable, files, herd, pretrain, stage};

#[test]
fn a_run_killed_at_any_moment_ends_with_the_same_bytes() {
    let folder = begin();
    expect_unbreakable(folder.path(), 60, |out| pretrain(folder.path(), out, &[]));
}

#[test]
fn an_average_that_was_killed_is_there_whole_or_not_at_all() {
    const KILLS: usize = 60;
    let folder = begin();
    let folder = folder.path();
    // Wide enough that the files are not written in a moment.
    let wide = ["--set", "model.width=256", "--set", "checkpoint.keep_every=3"];
    done(&mut pretrain(folder, "base", &wide));
    let average = |out: &str| {
        let mut command = herd(folder);
        command.arg("average").args(["-o", out, "-q"]);
        command.args([6, 9, 12].map(|step| format!("base/checkpoints/step-{step}")));
        command
    };
    let begun = Instant::now();
    done(&mut average("whole"));
    let length = begun.elapsed();
    let (mut kills, mut parts) = (0, 0);
    for round in 0u32.. {
        let mut child = average("out").stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(length.mul_f64(f64::from(round * 37 % 101) / 100.0));
        child.kill().unwrap();
        kills += usize::from(!child.wait().unwrap().success());
        parts += usize::from(folder.join(".out.part").exists());
        if !folder.join("out").exists() {
            done(&mut average("out"));
        }
        assert!(files(&folder.join("whole")) == files(&folder.join("out")), "kill {kills}");
        assert!(!folder.join(".out.part").exists());
        fs::remove_dir_all(folder.join("out")).unwrap();
        if kills >= KILLS {
            break;
        }
    }
    assert!(parts > 0, "no kill met the work");
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
    let set = ["optim.steps=500", "checkpoint.every=500", "data.epochs_max=1"];
    let ended = ["--out", "ended"].into_iter().chain(set.iter().flat_map(|set| ["--set", set]));
    let ended: Vec<&str> = ended.collect();
    for _ in 0..2 {
        fails(&ended, &["data ended after", "hint: what was learnt stands"]);
        let left = herd_train::state::steps(&folder.path().join("ended/checkpoints")).unwrap();
        assert!(matches!(left[..], [1..500]), "{left:?}");
    }
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
    let origin = fs::read_to_string(folder.path().join("run/origin.toml")).unwrap();
    fs::write(folder.path().join("run/origin.toml"), "class = \"amx9\"\n").unwrap();
    fails(&["--out", "run"], &["class", "amx9"]);
    fs::write(folder.path().join("run/origin.toml"), origin).unwrap();
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
    let manifest = String::from_utf8_lossy(&before[Path::new("data/manifest.json")]).into_owned();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let name = shard.file_name().unwrap().to_str().unwrap();
    fails(&["--out", "run"], &[name, &hash_of(&manifest, name)]);
    fs::write(folder.path().join("run").join(&shard), &before[&shard]).unwrap();
    done(&mut pretrain(folder.path(), "run", &[]));
    assert!(files(&folder.path().join("run")) == before);
    // Another vocabulary: for the run, and for its shards.
    let train = "tokenizer train -i docs.jsonl --vocab-size 380 --specials 16 -o other";
    done(herd(folder.path()).args(train.split(' ')));
    let other = ["--set", "tokenizer=other"];
    fails(&[&["--out", "run"], &other[..]].concat(), &["run/data", "the tokenizer"]);
    let shards = ["--set", "data.input=[]", "--set", "data.shards=run/data"];
    fails(&[&["--out", "y"], &other[..], &shards].concat(), &["run/data", "tokenizer"]);
    assert!(files(&folder.path().join("run")) == before);
    fs::write(folder.path().join("empty.jsonl"), "\n").unwrap();
    fails(&["--out", "z", "--set", "data.input=[\"empty.jsonl\"]"], &["no documents", "empty"]);
}

/// The hash that the manifest of a folder of shards states for one of them.
fn hash_of(manifest: &serde_json::Value, name: &str) -> String {
    let text = manifest.to_string();
    let place = text.find(name).unwrap_or_else(|| panic!("no {name} in {text}"));
    let hex = |word: &&str| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let near = |words: &str, last: bool| {
        let mut words = words.split('"').filter(hex).map(str::to_owned);
        if last { words.next_back() } else { words.next() }
    };
    let object = text[..place].rfind('{').unwrap();
    let end = place + text[place..].find('}').unwrap();
    near(&text[object..end], false).unwrap()
}

#[test]
fn numbers_that_are_none_end_a_run_by_name_and_are_never_saved() {
    let folder = begin();
    let folder = folder.path();
    done(&mut pretrain(folder, "base", &[]));
    let fails = |verb: &str, config: &str, out: &str, more: &[&str], word: &str| {
        let output = stage(folder, verb, config, out).args(more).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{verb}: {err}");
        assert!(err.contains(word) && !err.contains("a fault in herd"), "{verb}, no {word}: {err}");
    };
    // Each step takes 100 times the weights away: a product leaves the range of numbers.
    let far = ["optim.lr=10", "optim.weight_decay=10", "optim.min_lr_ratio=1"];
    let far: Vec<&str> = far.into_iter().flat_map(|set| ["--set", set]).collect();
    fails("pretrain", "run.toml", "far", &far, " is NaN");
    let whole = files(&folder.join("far"));
    assert!(whole.keys().any(|path| path.ends_with("step-6/state/train.json")), "no checkpoint");
    fails("pretrain", "run.toml", "far", &far, " is NaN");
    assert!(files(&folder.join("far")) == whole);
    let rewind = ["--set", "spikes.policy=rewind", "--set", "spikes.rewinds_max=2"];
    fails("pretrain", "run.toml", "again", &[&far[..], &rewind].concat(), "after 2 rewinds");
    let metrics = fs::read_to_string(folder.join("again/metrics.jsonl")).unwrap();
    let spikes = metrics.lines().filter(|line| line.contains("\"kind\":\"spike\"")).count();
    assert_eq!(spikes, 3, "{metrics}");
    // Weights that were none before the run: in the masters, and where there are no masters.
    let checkpoint = folder.join("base/checkpoints/step-12");
    let (masters, weights) =
        (checkpoint.join("state/optimizer.safetensors"), checkpoint.join("model.safetensors"));
    let from = SETTINGS.replace("[model]\n", "[model]\ninit = \"base/checkpoints/step-12\"\n");
    fs::write(folder.join("next.toml"), &from).unwrap();
    fs::write(folder.join("longer.toml"), from.clone() + EXTENSION).unwrap();
    let lora = "\n[model.lora]\nrank = 4\nalpha = 8\ntargets = [\"q\"]\n";
    fs::write(folder.join("lora.toml"), from + lora).unwrap();
    let spoil = |path: &Path, none: &[u8]| {
        let mut bytes = fs::read(path).unwrap();
        let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[start..start + none.len()].copy_from_slice(none);
        fs::remove_file(path).unwrap();
        fs::write(path, bytes).unwrap();
    };
    spoil(&masters, &f32::NAN.to_le_bytes());
    fails("pretrain", "next.toml", "masters", &[], "optimizer.safetensors is damaged: w.");
    fails("anneal", "next.toml", "masters-2", &[], "holds NaN");
    fs::remove_dir_all(checkpoint.join("state")).unwrap();
    spoil(&weights, &[0xc0, 0x7f]); // NaN in bf16
    let before = files(&folder.join("base"));
    fails("pretrain", "next.toml", "weights", &[], "holds NaN");
    fails("anneal", "next.toml", "weights-2", &[], "holds NaN");
    fails("pretrain", "lora.toml", "weights-3", &[], "NaN");
    for _ in 0..2 {
        fails("extend-context", "longer.toml", "weights-4", &[], "NaN");
    }
    assert!(files(&folder.join("base")) == before);
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
