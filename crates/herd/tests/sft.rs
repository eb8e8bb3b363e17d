//! `herd sft`: what it learns is what `herd preview` shows, what is wrong is named, and a run killed at any moment
//! ends with the bytes of one that was not.

#![allow(clippy::unwrap_used)] // helpers of tests too

#[path = "common/training.rs"]
mod training;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use training::{
    BASE, LORA, begin_from_base, chat_settings, done, expect_unbreakable, files, herd, pretrain,
    refused, rows, stage, stage_set,
};

/// Texts, a vocabulary, dialogues, a model to begin with, and settings.
fn begin_sft() -> tempfile::TempDir {
    begin_from_base("sft", &chat_settings(BASE))
}

fn metrics(run: &Path) -> Vec<Value> {
    rows(&run.join("metrics.jsonl"))
}

/// The words of a failure.
fn fails(folder: &Path, config: &str, out: &str, set: &[&str]) -> String {
    refused(&mut stage_set(folder, "sft", config, out, set))
}

#[test]
fn a_run_over_dialogues_learns_answers_and_has_the_same_bytes_however_often_it_is_killed() {
    let folder = begin_sft();
    fs::write(folder.path().join("lora.toml"), chat_settings(BASE) + LORA).unwrap();
    for (name, adapter) in [("sft", false), ("lora", true)] {
        let run = |out: &str| stage(folder.path(), "sft", &format!("{name}.toml"), out);
        expect_unbreakable(folder.path(), 20, run);
        fs::rename(folder.path().join("whole"), folder.path().join(name)).unwrap();
        let run = folder.path().join(name);
        let lines = metrics(&run);
        let held = lines.iter().filter(|line| line["kind"] == "validation");
        let held: Vec<f64> = held.filter_map(|line| line["loss"].as_f64()).collect();
        assert!(held.len() > 1 && held.first() > held.last(), "{name}: {held:?}");
        let step = run.join("checkpoints/step-12");
        assert_eq!(step.join("adapter_model.safetensors").exists(), adapter);
        let template = fs::read_to_string(step.join("chat_template.jinja")).unwrap();
        assert!(template.contains("<|start_header_id|>"));
    }
    // An adapter brings its format along, into a folder, into a file, and beside the base.
    let adapter = ["-m", BASE, "--lora", "lora/checkpoints/step-12"];
    let made = |verb: &str, more: &[&str]| {
        let mut command = herd(folder.path());
        command.arg(verb).args(adapter).args(more).stdout(Stdio::piped());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    for out in ["merged", "merged.gguf"] {
        made("convert", &["-o", out]);
        let mut preview = herd(folder.path());
        preview.args(["preview", "-m", out, "-i", "chats.jsonl", "--rows", "1"]);
        done(&mut preview);
    }
    made("chat", &["-p", "hello", "-n", "2"]);
    // What was learnt says its format itself.
    let seen = |args: &str| {
        let mut preview = herd(folder.path());
        preview.args(["preview", "--json"]).args(args.split(' '));
        preview.stdout(Stdio::piped()).output().unwrap().stdout
    };
    let step = "-m sft/checkpoints/step-12 -i chats.jsonl";
    assert!(!seen(step).is_empty() && seen(step) == seen("--config sft.toml"));
}

/// One-dimensional tensors of a safetensors file, as 32-bit words.
fn words(path: &Path) -> BTreeMap<String, Vec<u32>> {
    let bytes = fs::read(path).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..start]).unwrap();
    let tensors = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    let words = tensors.map(|(name, tensor)| {
        let at = |i: usize| start + tensor["data_offsets"][i].as_u64().unwrap() as usize;
        let words = bytes[at(0)..at(1)].as_chunks().0.iter().map(|b| u32::from_le_bytes(*b));
        (name.clone(), words.collect())
    });
    words.collect()
}

type Sequence = (Vec<u32>, Vec<u32>);

/// The ids and the bits of the weights of all that batches teach, and how often.
fn taught(batches: &BTreeMap<String, Vec<u32>>, part: &str) -> BTreeMap<Sequence, usize> {
    let tensor = |name: &str| &batches[&format!("{part}.{name}")];
    let (mut at, mut found) = (0, BTreeMap::new());
    for len in tensor("lengths").iter().map(|len| *len as usize) {
        let weights = &tensor("weights")[at..at + len];
        if weights.iter().any(|bits| f32::from_bits(*bits) > 0.0) {
            let mut ids = tensor("tokens")[at..at + len].to_vec();
            ids.push(tensor("targets")[at + len - 1]);
            let weights = [&[0], weights].concat();
            *found.entry((ids, weights)).or_default() += 1;
        }
        at += len;
    }
    found
}

#[test]
fn batches_hold_the_ids_and_weights_that_preview_shows() {
    let folder = begin_sft();
    let weight = |i: usize| [1.0, 0.5, 0.0, 0.25][i % 4];
    let row = |i: usize| {
        json!({"messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": format!("say {i}")},
            {"role": "assistant", "content": format!("it is {i}"), "weight": weight(i)},
            {"role": "user", "content": "again"},
            {"role": "assistant", "content": format!("{i}, as I said")}]})
        .to_string()
    };
    let rows = (0..40).map(row).collect::<Vec<_>>().join("\n");
    fs::write(folder.path().join("chats.jsonl"), rows).unwrap();
    let preview = ["preview", "--config", "sft.toml", "--rows", "1000", "--json"];
    let said = herd(folder.path()).args(preview).stdout(Stdio::piped()).output().unwrap().stdout;
    let said: Value = serde_json::from_slice(&said).unwrap();
    let numbers = |value: &Value| -> Vec<u32> {
        value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect()
    };
    let mut shown: BTreeMap<Sequence, usize> = BTreeMap::new();
    for row in said["shown"].as_array().unwrap() {
        let weights = row["weights"].as_array().unwrap().iter();
        let weights = weights.map(|w| (w.as_f64().unwrap() as f32).to_bits()).collect();
        *shown.entry((numbers(&row["ids"]), weights)).or_default() += 1;
    }
    assert_eq!(shown.len(), 40);
    // Every document of two epochs comes in so many steps, and the last one is not whole.
    let args = ["--set", "data.epochs_max=2", "--set", "data.validation_share=0.3"];
    let mut command = stage(folder.path(), "sft", "sft.toml", "run");
    let output = command.args(args).args(["--export", "1000"]).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    let steps = err.split("the data ended after step ").nth(1).and_then(|s| s.split(' ').next());
    let steps = steps.unwrap_or_else(|| panic!("{err}")).to_owned();
    let mut command = stage(folder.path(), "sft", "sft.toml", "told");
    done(command.args(args).args(["--export", &steps]));
    let batches = words(&folder.path().join("told/batches.safetensors"));
    let mut met = taught(&batches, "train");
    assert!(met.values().all(|times| *times == 2));
    met.extend(taught(&batches, "validation"));
    assert!(met.keys().eq(shown.keys()));
}

#[test]
fn what_teaches_nothing_or_does_not_fit_is_named_or_counted_as_the_settings_say() {
    let folder = begin_sft();
    let folder = folder.path();
    let fails = |out: &str, set: &[&str]| fails(folder, "sft.toml", out, set);
    let good = fs::read_to_string(folder.join("chats.jsonl")).unwrap();
    for (row, told) in [
        (r#"{"messages": []}"#, "no answer in it is learnt"),
        (r#"{"messages": [{"role": "user", "content": "hi"}]}"#, "no answer in it is learnt"),
        (
            r#"{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a", "weight": 0}]}"#,
            "no answer in it is learnt",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a", "weight": 1e-9}]}"#,
            "0.000001",
        ),
        (r#"{"messages": [{"role": "king", "content": "hi"}]}"#, "king"),
        (r#"{"messages": [{"role": "assistant", "content": "hi"}]}"#, "begins with an answer"),
        (r#"{"text": "hi"}"#, "no known shape"),
        ("{", "not JSON"),
    ] {
        fs::write(folder.join("chats.jsonl"), format!("{good}\n{row}\n")).unwrap();
        let (err, row) = (fails("bad", &[]), good.lines().count() + 1);
        assert!(err.contains(told) && err.contains(&format!("row {row} of")), "{told}: {err}");
        let run = |out: &str| {
            let mut command = stage(folder, "sft", "sft.toml", out);
            command.args(["--set", "chat.skip_bad=true", "--set", "optim.steps=1"]);
            command.args(["--set", "optim.warmup_steps=0", "--set", "validation.every=0"]);
            done(&mut command);
        };
        run("skipped");
        let manifest = fs::read(folder.join("skipped/data/manifest.json")).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let dropped = manifest["sources"][0]["dropped"].as_object().unwrap();
        assert_eq!(dropped.values().map(|n| n.as_u64().unwrap()).sum::<u64>(), 1, "{dropped:?}");
        for out in ["bad", "skipped"] {
            fs::remove_dir_all(folder.join(out)).unwrap();
        }
    }
    fs::write(folder.join("chats.jsonl"), &good).unwrap();
    // Rows of 64 tokens hold the shorter dialogues alone.
    let short = |long: &str| format!("data.long={long}");
    let rows = ["batch.seq_len=64", "data.validation_share=0"];
    let err = fails("refused", &[&rows[..], &[&short("refuse")]].concat());
    assert!(err.contains("65 fit") && err.contains("others") && err.contains("data.long"), "{err}");
    assert!(fails("split", &[&short("split")]).contains("data.long"));
    for (long, told) in [("drop", "too_long"), ("shorten", "shortened")] {
        let mut command = stage(folder, "sft", "sft.toml", long);
        command.args(rows.iter().flat_map(|set| ["--set", set]));
        let err = done(command.args(["--set", &short(long)]));
        assert!(err.contains("left out: ") && err.contains(told), "{err}");
        let state = fs::read(folder.join(long).join("checkpoints/step-12/state/train.json"));
        let state: Value = serde_json::from_slice(&state.unwrap()).unwrap();
        let ledger = &state["cursor"]["ledger"];
        let some = if long == "drop" {
            &ledger["dropped"]["too_long"]["tokens"]
        } else {
            &ledger["shortened"]
        };
        assert!(some.as_u64() > Some(0), "{ledger}");
    }
    // Where a row ends before every answer, nothing is left to learn.
    let rows = ["batch.seq_len=8", "batch.tokens=64", "data.validation_share=0"];
    assert!(fails("nothing", &rows).contains("the data ended after step 0"));
}

#[test]
fn a_run_refuses_other_dialogues_another_template_and_shards_of_texts() {
    let folder = begin_sft();
    let folder = folder.path();
    done(&mut stage(folder, "sft", "sft.toml", "run"));
    let before = files(&folder.join("run"));
    let chats = fs::read_to_string(folder.join("chats.jsonl")).unwrap();
    fs::write(folder.join("chats.jsonl"), chats.replacen("user", "system", 1)).unwrap();
    let err = fails(folder, "sft.toml", "run", &[]);
    assert!(err.contains("run/data") && err.contains("was begun with"), "{err}");
    fs::write(folder.join("chats.jsonl"), &chats).unwrap();
    let err = fails(folder, "sft.toml", "run", &["chat.template=llama2"]);
    assert!(err.contains("the rendering of dialogues"), "{err}");
    let err = fails(folder, "sft.toml", "other", &["data.input=[]", "data.shards=base/data"]);
    assert!(err.contains("base/data") && err.contains("plain texts"), "{err}");
    let shards = ["data.input=[]", "data.shards=run/data"];
    let err =
        fails(folder, "sft.toml", "third", &[&shards[..], &["chat.template=llama3.1"]].concat());
    assert!(err.contains("run/data") && err.contains("rendering"), "{err}");
    let mut texts = pretrain(folder, "texts", &[]);
    texts.args(shards.iter().flat_map(|set| ["--set", set]));
    let err = String::from_utf8_lossy(&texts.output().unwrap().stderr).into_owned();
    assert!(err.contains("expected plain texts"), "{err}");
    let mut again = stage(folder, "sft", "sft.toml", "again");
    done(again.args(shards.iter().flat_map(|set| ["--set", set])));
    let weights =
        |run: &str| fs::read(folder.join(run).join("checkpoints/step-12/model.safetensors"));
    assert!(weights("run").unwrap() == weights("again").unwrap());
    assert!(files(&folder.join("run")) == before);
}
