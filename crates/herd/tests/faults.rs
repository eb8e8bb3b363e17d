//! Verbs of training on a disk that fails: the power is cut, or there is no room left. Run again, they
//! end with the bytes of a run that nothing disturbed; mutants do not.
//!
//! `common/faulty_disk.c` stands between the program and the system. Here some of the steps are cut;
//! `scripts/check-unbreakable.py` cuts every one.

#![cfg(all(target_os = "linux", target_env = "gnu"))] // LD_PRELOAD
#![allow(clippy::unwrap_used)] // helpers of tests too

#[path = "common/training.rs"]
mod training;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;
use training::{EXTENSION, LORA, SAMPLE_SETTINGS, SELECT_SETTINGS, SETTINGS, SYNTH_SETTINGS};
use training::{
    begin_in, chat_settings, done, expect_same, files, grpo_settings, herd, pair_settings,
    ppo_settings, pretrain, reward_settings, sample, stage, text_taught,
};

/// The exit code of a power cut.
const CUT: i32 = 137;

/// The disk, compiled by the linker that Rust needs anyway.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/faulty_disk.c");
        let library = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("faulty_disk-{}.so", std::process::id()));
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
        done(cc.args(["-ldl", "-lpthread"]));
        library
    })
}

/// A folder on a disk that can fail, with texts, a vocabulary and checkpoints in it.
struct Place {
    home: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place { home: tempfile::tempdir().unwrap() };
        fs::create_dir(place.root()).unwrap();
        begin_in(&place.root());
        let every = ["--set", "checkpoint.keep_every=3"];
        place.peacefully(&mut pretrain(&place.root(), "base", &every));
        place
    }

    fn root(&self) -> PathBuf {
        self.home.path().join("root")
    }

    /// Runs a command on a disk with a fault: see `faulty_disk.c`.
    fn run(&self, command: &mut Command, fault: &str) -> Output {
        command.env("LD_PRELOAD", library()).env("HERD_DISK_ROOT", self.root());
        command.env("HERD_DISK_FAULT", fault);
        command.env("HERD_DISK_TOLD", self.home.path().join("told"));
        command.output().unwrap()
    }

    /// Runs a command without a fault; its steps and the bytes it wrote.
    fn peacefully(&self, command: &mut Command) -> (usize, usize) {
        let output = self.run(command, "count:0");
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{command:?}: {err}");
        let told = fs::read_to_string(self.home.path().join("told")).unwrap();
        let (steps, bytes) = told.trim().split_once(' ').unwrap();
        (steps.parse().unwrap(), bytes.parse().unwrap())
    }

    fn remove(&self, out: &str) {
        let _ = fs::remove_dir_all(self.root().join(out));
        for entry in fs::read_dir(self.home.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_str().unwrap().contains("-lost-") {
                let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
            }
        }
    }
}

/// A command in a folder that writes to a place there.
type Make = dyn Fn(&Path, &str) -> Command;

/// A verb that writes to a place.
struct Verb {
    name: &'static str,
    command: Box<Make>,
    /// Whether it never writes over what is there: a whole result is not made again.
    once: bool,
}

fn verbs() -> Vec<Verb> {
    let words = |line: &'static str| {
        move |root: &Path, out: &str| {
            let mut command = herd(root);
            command.args(line.split(' ')).arg(out);
            command
        }
    };
    let staged = |verb: &'static str, config: &'static str| {
        move |root: &Path, out: &str| stage(root, verb, config, out)
    };
    let train = "tokenizer train -i docs.jsonl --vocab-size 400 --specials 16 -t 1 -o";
    let extend = "tokenizer extend --base words -i docs.jsonl --add 40 -t 1 -o";
    let tokenize = "data tokenize --tokenizer words --input docs.jsonl --shard-tokens 3000 -t 1 -o";
    let mean =
        "average base/checkpoints/step-6 base/checkpoints/step-9 base/checkpoints/step-12 -o";
    let verb = |name, once, command| Verb { name, command, once };
    vec![
        verb("tokenizer train", true, Box::new(words(train))),
        verb("tokenizer extend", true, Box::new(words(extend))),
        verb("data tokenize", false, Box::new(words(tokenize))),
        verb("average", true, Box::new(words(mean))),
        verb("pretrain", false, Box::new(staged("pretrain", "run.toml"))),
        verb("anneal", false, Box::new(staged("anneal", "anneal.toml"))),
        verb("sft", false, Box::new(staged("sft", "sft.toml"))),
        verb("sft with LoRA", false, Box::new(staged("sft", "sft-lora.toml"))),
        verb("dpo", false, Box::new(staged("dpo", "dpo.toml"))),
        verb("reward", false, Box::new(staged("reward", "reward.toml"))),
        verb("distill", false, Box::new(staged("distill", "distill.toml"))),
        verb("grpo", false, Box::new(staged("grpo", "grpo.toml"))),
        verb("ppo", false, Box::new(staged("ppo", "ppo.toml"))),
        verb("sample", false, Box::new(|root, out| sample(root, "sample.toml", out))),
        verb("synth", false, Box::new(|root, out| rows(root, &["synth", "maths"], out))),
        verb("select", false, Box::new(|root, out| rows(root, &["select"], out))),
        verb("extend-context", false, Box::new(staged("extend-context", "longer.toml"))),
    ]
}

/// A verb that writes rows, on one thread.
fn rows(root: &Path, verb: &[&str], out: &str) -> Command {
    let mut command = herd(root);
    let (config, out) = (format!("{}.toml", verb[0]), format!("{out}/rows.jsonl"));
    command.args(verb).args(["--config", &config, "--out", &out, "-t", "1"]);
    command
}

/// The settings of the stages that begin at a checkpoint.
fn write_configs(root: &Path) {
    let from = SETTINGS.replace("[model]\n", "[model]\ninit = \"base/checkpoints/step-12\"\n");
    fs::write(root.join("anneal.toml"), from.replace("warmup_steps = 3\n", "")).unwrap();
    fs::write(root.join("longer.toml"), from + EXTENSION).unwrap();
    let chat = chat_settings("base/checkpoints/step-12");
    fs::write(root.join("sft.toml"), &chat).unwrap();
    fs::write(root.join("dpo.toml"), pair_settings("base/checkpoints/step-12")).unwrap();
    fs::write(root.join("reward.toml"), reward_settings("base/checkpoints/step-12")).unwrap();
    fs::write(root.join("distill.toml"), text_taught("base/checkpoints/step-12")).unwrap();
    fs::write(root.join("grpo.toml"), grpo_settings("base/checkpoints/step-12")).unwrap();
    fs::write(root.join("ppo.toml"), ppo_settings("base/checkpoints/step-12")).unwrap();
    fs::write(root.join("sft-lora.toml"), chat + LORA).unwrap();
    fs::write(root.join("sample.toml"), SAMPLE_SETTINGS).unwrap();
    fs::write(root.join("synth.toml"), SYNTH_SETTINGS).unwrap();
    fs::write(root.join("select.toml"), SELECT_SETTINGS).unwrap();
}

impl Verb {
    /// Runs what is left to do, and holds it against `whole`.
    fn finish(&self, place: &Place, how: &str) {
        let root = place.root();
        if !(self.once && root.join("out").exists()) {
            place.peacefully(&mut (self.command)(&root, "out"));
        }
        println!("{}, {how}", self.name); // shown if what follows fails
        expect_same(&root.join("whole"), &root.join("out"));
        let left = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_str().unwrap().starts_with('.')).collect();
        assert!(left.is_empty(), "{left:?} left behind");
        place.remove("out");
    }
}

/// Cuts at some steps of each kind.
const CUTS: usize = 6;

#[test]
fn after_power_cuts_the_same_command_ends_with_the_same_bytes() {
    let place = Place::new();
    let root = place.root();
    write_configs(&root);
    for verb in verbs() {
        place.peacefully(&mut (verb.command)(&root, "whole"));
        let (steps, _) = place.peacefully(&mut (verb.command)(&root, "out"));
        verb.finish(&place, "undisturbed");
        for (kind, first) in [("tear", 0), ("forget", 1), ("one", 2)] {
            // Other steps for each kind; the last is often a rename.
            for step in (0..CUTS).map(|i| (steps - 1).saturating_sub(first + i * steps / CUTS)) {
                let command = || (verb.command)(&root, "out");
                let cut = place.run(&mut command(), &format!("{kind}:{step}")).status.code();
                assert_eq!(cut, Some(CUT), "{} at {step} of {steps}", verb.name);
                if step % 2 == 1 {
                    place.run(&mut command(), &format!("{kind}:{}", step / 2 % 23));
                }
                verb.finish(&place, &format!("{kind} after {step} steps"));
            }
        }
        place.remove("whole");
    }
}

#[test]
fn what_has_ended_is_on_the_disk() {
    let place = Place::new();
    let root = place.root();
    write_configs(&root);
    for verb in verbs() {
        place.peacefully(&mut (verb.command)(&root, "whole"));
        let cut = place.run(&mut (verb.command)(&root, "out"), "end:0").status.code();
        assert_eq!(cut, Some(CUT), "{}", verb.name);
        println!("{}", verb.name); // shown if what follows fails
        expect_same(&root.join("whole"), &root.join("out"));
        let told = |run: &str| root.join(run).join("report.md").exists();
        assert_eq!(told("whole"), told("out"), "{}: the report is lost", verb.name);
        place.remove("whole");
        place.remove("out");
    }
}

#[test]
fn a_full_disk_is_an_error_that_says_so_and_the_run_goes_on_later() {
    let place = Place::new();
    let root = place.root();
    write_configs(&root);
    for verb in verbs() {
        place.peacefully(&mut (verb.command)(&root, "whole"));
        let (_, bytes) = place.peacefully(&mut (verb.command)(&root, "out"));
        verb.finish(&place, "undisturbed");
        for room in (0..CUTS).map(|i| i * bytes / CUTS) {
            let output = place.run(&mut (verb.command)(&root, "out"), &format!("room:{room}"));
            let err = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{}, {room} bytes: {err}", verb.name);
            let told = ["No space left on device", "no room left on the disk"];
            assert!(told.iter().any(|told| err.contains(told)), "{}: {err}", verb.name);
            verb.finish(&place, &format!("room for {room} bytes"));
        }
        place.remove("whole");
    }
}

/// The files that two runs do not share byte for byte.
fn differing(a: &Path, b: &Path) -> Vec<PathBuf> {
    let (a, b) = (files(a), files(b));
    a.keys().chain(b.keys()).filter(|path| a.get(*path) != b.get(*path)).cloned().collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}

/// Takes up a copy of a run from its ninth step, after `spoil` of that checkpoint; the files that
/// differ in the end, that checkpoint's left out.
fn resumed(place: &Place, out: &str, spoil: impl Fn(&Path)) -> Vec<PathBuf> {
    let root = place.root();
    copy(&root.join("base"), &root.join(out));
    fs::remove_dir_all(root.join(out).join("checkpoints/step-12")).unwrap();
    spoil(&root.join(out).join("checkpoints/step-9/state"));
    place.peacefully(&mut pretrain(&root, out, &["--set", "checkpoint.keep_every=3"]));
    let mut differing = differing(&root.join("base"), &root.join(out));
    differing.retain(|path| !path.starts_with("checkpoints/step-9"));
    differing
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_cursor_that_starts_anew_and_moments_that_were_not_saved_are_caught() {
    let place = Place::new();
    let root = place.root();
    assert_eq!(resumed(&place, "same", |_| ()), Vec::<PathBuf>::new());
    done(&mut pretrain(&root, "first", &["--export", "1"]));
    let cursor = json(&root.join("first/checkpoints/step-0/state/train.json"))["cursor"].clone();
    let restarted = resumed(&place, "restarted", |state| {
        let mut train = json(&state.join("train.json"));
        assert_ne!(train["cursor"], cursor);
        train["cursor"] = cursor.clone();
        fs::write(state.join("train.json"), train.to_string()).unwrap();
    });
    let forgotten = resumed(&place, "forgotten", |state| {
        let path = state.join("optimizer.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..start]).unwrap();
        for (name, tensor) in header.as_object().unwrap() {
            if name.starts_with("m.") || name.starts_with("v.") {
                let at = |i: usize| start + tensor["data_offsets"][i].as_u64().unwrap() as usize;
                bytes[at(0)..at(1)].fill(0);
            }
        }
        fs::write(path, bytes).unwrap();
    });
    for (mutant, differing) in [("restarted", restarted), ("forgotten", forgotten)] {
        for file in ["metrics.jsonl", "checkpoints/step-12/model.safetensors"] {
            assert!(differing.iter().any(|path| path == Path::new(file)), "{mutant}: {file}");
        }
    }
}

#[test]
fn a_rename_that_comes_before_the_sync_is_caught() {
    let place = Place::new();
    let root = place.root();
    for verb in verbs()
        .into_iter()
        .filter(|verb| ["average", "data tokenize", "pretrain"].contains(&verb.name))
    {
        place.peacefully(&mut (verb.command)(&root, "whole"));
        let (steps, _) = place.peacefully(&mut (verb.command)(&root, "out"));
        place.remove("out");
        let caught = (0..steps).rev().any(|step| {
            let mut late = (verb.command)(&root, "out");
            place.run(late.env("HERD_DISK_LATE", "1"), &format!("tear:{step}"));
            let whole = verb.once && root.join("out").exists();
            let mut again = (verb.command)(&root, "out");
            let fails = !whole && !place.run(&mut again, "count:0").status.success();
            let caught = fails || !differing(&root.join("whole"), &root.join("out")).is_empty();
            place.remove("out");
            caught
        });
        assert!(caught, "{}: no cut shows that its files are not synced", verb.name);
        place.remove("whole");
    }
}
