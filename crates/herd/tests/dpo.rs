//! `herd dpo`: what counts is what `herd preview` shows, what is wrong is named or counted, and a run killed at any
//! moment ends with the bytes of one that was not.

#![allow(clippy::unwrap_used)] // helpers of tests too

#[path = "common/training.rs"]
mod training;

use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use sha2::Digest;
use training::{
    BASE, LORA, begin_from_base, done, expect_same, expect_unbreakable, herd, metrics,
    pair_settings, pretrain, refused, replace_weights, second, stage, stage_set,
};

/// Texts, a vocabulary, comparisons, a model to begin with, and settings.
fn begin_dpo() -> tempfile::TempDir {
    begin_from_base("dpo", &pair_settings(BASE))
}

fn run(folder: &Path, out: &str, set: &[&str]) -> String {
    done(&mut stage_set(folder, "dpo", "dpo.toml", out, set))
}

/// The words of a failure.
fn fails(folder: &Path, config: &str, out: &str, set: &[&str]) -> String {
    refused(&mut stage_set(folder, "dpo", config, out, set))
}

#[test]
fn a_run_over_pairs_has_the_same_bytes_however_often_it_is_killed() {
    let folder = begin_dpo();
    fs::write(folder.path().join("lora.toml"), pair_settings(BASE) + LORA).unwrap();
    for name in ["dpo", "lora"] {
        let run = |out: &str| stage(folder.path(), "dpo", &format!("{name}.toml"), out);
        expect_unbreakable(folder.path(), 20, run);
        let whole = folder.path().join("whole");
        let first = &metrics(&whole, "step")[0];
        // The policy is its reference before the first step, bit by bit.
        assert_eq!(first["rewards/chosen"], 0.0, "{first}");
        assert_eq!(first["rewards/margins"], 0.0, "{first}");
        assert!(metrics(&whole, "validation")[0]["rewards/accuracies"].is_f64());
        assert!(whole.join("reference.bin").exists() && !whole.join("reference.part").exists());
        fs::rename(whole, folder.path().join(name)).unwrap();
    }
}

#[test]
fn a_live_reference_and_any_cut_into_micro_batches_and_threads_change_no_bit() {
    let folder = begin_dpo();
    let folder = folder.path();
    run(folder, "kept", &[]);
    run(folder, "live", &["dpo.live=true"]);
    run(folder, "rows", &["batch.micro_tokens=512"]);
    let args = ["dpo", "--config", "dpo.toml", "--out", "threads", "-t", "2"];
    done(herd(folder).args(args));
    let read = |run: &str, file: &str| fs::read(folder.join(run).join(file)).unwrap();
    for other in ["live", "rows", "threads"] {
        for file in ["metrics.jsonl", "checkpoints/step-12/state/optimizer.safetensors"] {
            assert!(read("kept", file) == read(other, file), "{other}: {file}");
        }
    }
    // A reference of its own is another measure; that of the base said out loud is the same one.
    run(folder, "named", &[&format!("dpo.reference={BASE}")]);
    assert!(
        read("kept", "reference.bin")[40..][..64] == read("named", "reference.bin")[40..][..64]
    );
    run(folder, "other", &["dpo.reference=kept/checkpoints/step-12"]);
    let first = &metrics(&folder.join("other"), "step")[0];
    assert_ne!(first["rewards/chosen"], 0.0);
}

#[test]
fn what_counts_is_what_preview_shows_and_what_is_left_out_is_counted() {
    let folder = begin_dpo();
    let folder = folder.path();
    let preview = |config: &str| -> Value {
        let mut command = herd(folder);
        command.args(["preview", "--config", config, "--rows", "1000", "--json"]);
        let output = command.stdout(Stdio::piped()).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let masked = preview("dpo.toml");
    fs::write(folder.join("bare.toml"), pair_settings(BASE) + "mask_format = false\n").unwrap();
    let bare = preview("bare.toml");
    let count = |row: &Value| -> f64 {
        row["weights"].as_array().unwrap().iter().map(|weight| weight.as_f64().unwrap()).sum()
    };
    let (masked, bare) = (&masked["shown"].as_array().unwrap(), &bare["shown"].as_array().unwrap());
    assert!(masked.len() > 20 && masked.len() == bare.len());
    for (masked, bare) in masked.iter().zip(bare.iter()) {
        assert_eq!(count(bare), count(masked) + 1.0); // <|eot_id|>
        let last = |field: &str| masked[field].as_array().unwrap().last().unwrap().clone();
        assert_eq!((last("weights"), last("kinds")), (0.0.into(), "end".into()));
    }
    let err = run(folder, "run", &[]);
    assert!(err.contains("the reference has read"), "{err}");
    assert!(err.contains("left out: ") && err.contains("too_long"), "{err}");
    let manifest: Value =
        serde_json::from_slice(&fs::read(folder.join("run/data/manifest.json")).unwrap()).unwrap();
    let dropped = &manifest["sources"][0]["dropped"];
    assert!(
        dropped["weak"].as_u64() > Some(0) && dropped["similar"].as_u64() > Some(0),
        "{dropped}"
    );
    run(folder, "all", &["dpo.strength_min=marginally_better"]);
    let manifest: Value =
        serde_json::from_slice(&fs::read(folder.join("all/data/manifest.json")).unwrap()).unwrap();
    assert!(manifest["sources"][0]["dropped"]["weak"].is_null());
}

#[test]
fn settings_and_rows_that_compare_nothing_are_named() {
    let folder = begin_dpo();
    let folder = folder.path();
    for (set, told) in [
        ("dpo.beta=0", "dpo.beta"),
        ("dpo.nll=-1", "dpo.nll"),
        ("dpo.similar=2", "dpo.similar"),
        ("dpo.loss=hinge", "hinge"),
        ("dpo.betta=1", "beta"),
        ("dpo.reference=nowhere", "nowhere"),
        ("data.long=shorten", "data.long"),
        ("data.long=refuse", "fit"),
    ] {
        let err = fails(folder, "dpo.toml", told, &[set]);
        assert!(err.contains(told), "{set}: {err}");
    }
    let err = fails(folder, "dpo.toml", "long", &["data.long=refuse"]);
    assert!(err.contains("\"drop\"") && !err.contains("\"shorten\""), "{err}");
    let err = fails(folder, "dpo.toml", "chats", &["data.input=[\"chats.jsonl\"]"]);
    assert!(err.contains("compares no answers"), "{err}");
    run(folder, "run", &[]);
    let path = folder.join("run/reference.bin");
    let mut bytes = fs::read(&path).unwrap();
    bytes[60] ^= 1;
    fs::write(&path, bytes).unwrap();
    let err = fails(folder, "dpo.toml", "run", &[]);
    assert!(err.contains("reference.bin is damaged"), "{err}");
    // It is made again as it was.
    fs::remove_file(&path).unwrap();
    run(folder, "run", &[]);
    run(folder, "again", &[]);
    expect_same(&folder.join("run"), &folder.join("again"));
}

#[test]
fn a_reference_that_is_replaced_under_a_run_is_refused_by_name() {
    let folder = begin_dpo();
    let folder = folder.path();
    second(folder);
    done(&mut pretrain(folder, "ref", &["--set", "seed=5"]));
    let of = |name: &str| format!("dpo.reference={name}");
    let (own, reference) = (of("ref/checkpoints/step-12"), "ref/checkpoints/step-12");
    for (out, set, path, key) in [
        ("kept", &["dpo.live=false"][..], BASE, "model.init"),
        ("live", &["dpo.live=true"][..], BASE, "model.init"),
        ("own", &[&own[..]][..], reference, "dpo.reference"),
        ("own-live", &[&own[..], "dpo.live=true"][..], reference, "dpo.reference"),
    ] {
        run(folder, out, &[set, &["optim.steps=3"]].concat());
        let restore = replace_weights(folder, path);
        let err = fails(folder, "dpo.toml", out, &[set, &["optim.steps=3"]].concat());
        assert!(err.contains(&format!("weights of {key} was")), "{out}: {err}");
        restore();
        run(folder, out, &[set, &["optim.steps=3"]].concat());
    }
    // What another reference has said is not gone on with, whatever the folder has forgotten.
    let restore = replace_weights(folder, reference);
    fs::remove_file(folder.join("own/origin.toml")).unwrap();
    let err = fails(folder, "dpo.toml", "own", &[&own, "optim.steps=3"]);
    assert!(err.contains("reference.bin is damaged: it is of other answers"), "{err}");
    restore();
}

#[test]
fn a_start_that_failed_binds_nobody() {
    let folder = begin_dpo();
    let folder = folder.path();
    let err = fails(folder, "dpo.toml", "out", &["data.long=refuse"]);
    assert!(err.contains("hint: a larger batch.seq_len, or data.long"), "{err}");
    let err = run(folder, "out", &["data.long=drop"]);
    assert!(err.contains("left out: "), "{err}");
    run(folder, "straight", &["data.long=drop"]);
    expect_same(&folder.join("out"), &folder.join("straight"));
    // A row that is none: the hint is to count such rows, or to mend it.
    let pairs = fs::read_to_string(folder.join("pairs.jsonl")).unwrap();
    fs::write(folder.join("pairs.jsonl"), format!("{{\"prompt\": 1}}\n{pairs}")).unwrap();
    for (out, set) in [("skipped", "chat.skip_bad=true"), ("mended", "chat.skip_bad=false")] {
        let err = fails(folder, "dpo.toml", out, &[]);
        assert!(err.contains("pairs.jsonl"), "{err}");
        if out == "mended" {
            fs::write(folder.join("pairs.jsonl"), &pairs).unwrap();
        }
        run(folder, out, &[set]);
    }
    // Where something was made they bind.
    let err = fails(folder, "dpo.toml", "mended", &["optim.lr=1e-4"]);
    assert!(err.contains("optim.lr was 0.001, is 0.0001"), "{err}");
}

#[test]
fn a_loss_that_is_no_number_obeys_the_policy() {
    let folder = begin_dpo();
    let folder = folder.path();
    run(folder, "whole", &["optim.steps=3"]);
    // A reference that knows nothing.
    let bytes = fs::read(folder.join("whole/reference.bin")).unwrap();
    let mut bytes = bytes[..bytes.len() - 32].to_vec();
    for number in bytes[48..].chunks_mut(8) {
        number.copy_from_slice(&f64::NAN.to_le_bytes());
    }
    let hash = sha2::Sha256::digest(&bytes);
    bytes.extend(hash);
    for (policy, told) in [("record", "the loss is NaN"), ("rewind", "after 2 rewinds")] {
        fs::create_dir(folder.join(policy)).unwrap();
        fs::write(folder.join(policy).join("reference.bin"), &bytes).unwrap();
        let policy_set = format!("spikes.policy={policy}");
        let err = fails(folder, "dpo.toml", policy, &[&policy_set, "spikes.rewinds_max=2"]);
        assert!(err.contains(told), "{policy}: {err}");
        let spikes = metrics(&folder.join(policy), "spike");
        assert!(!spikes.is_empty() && spikes[0]["loss"].is_null(), "{spikes:?}");
    }
}
