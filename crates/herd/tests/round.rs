//! `herd round`: rounds killed at any moment end with the bytes of rounds that were not, a round that harms is stopped, and people
//! may judge in place of scores.

#![allow(clippy::unwrap_used)] // helpers of tests too

#[path = "common/training.rs"]
mod training;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use training::{
    BASE, begin, chat_settings, done, expect_same, herd, pretrain, refused, replace_weights,
    second, stage,
};

/// The first policy.
const POLICY: &str = "tuned/checkpoints/step-12";

const SETTINGS: &str = r#"
tokenizer = "words"
base = "base/checkpoints/step-12"
policy = "tuned/checkpoints/step-12"
prompts = ["chats.jsonl"]
held = ["held.jsonl"]
dialogues = ["chats.jsonl"]
start = "policy"
[chat]
template = "llama3"
[collect]
max_tokens = 8
context = 64
unfinished = "keep"
[[collect.score]]
kind = "length"
words = [2, 1000]
[[collect.score]]
kind = "regex"
pattern = "[aeiou].*[aeiou]"
weight = 0.5
[gate]
k = 2
min_gain = -100.0
[stages.sample.sample]
k = 3
[stages.reward]
optim = { steps = 2, lr = 1e-3, warmup_steps = 0 }
batch = { tokens = 256, seq_len = 128, micro_tokens = 256 }
data.long = "drop"
[stages.sft]
optim = { steps = 2, lr = 1e-3, warmup_steps = 0 }
batch = { tokens = 256, seq_len = 128, micro_tokens = 256 }
data.long = "drop"
[stages.dpo]
optim = { steps = 2, lr = 1e-4, warmup_steps = 0 }
batch = { tokens = 256, seq_len = 128, micro_tokens = 256 }
data.long = "drop"
"#;

/// A round that learns: 64 prompts, and as many held ones.
const LEARN: &str = r#"
tokenizer = "words"
base = "base/checkpoints/step-12"
policy = "tuned/checkpoints/step-12"
prompts = ["asked.jsonl"]
held = ["held.jsonl"]
start = "policy"
chat.template = "llama3"
[collect]
max_tokens = 12
context = 64
unfinished = "keep"
[stages.sample.sample]
k = 8
[stages.reward]
optim = { steps = 20, lr = 3e-3, warmup_steps = 0 }
batch = { tokens = 1024, seq_len = 128, micro_tokens = 1024 }
data.long = "drop"
[stages.sft]
optim = { steps = 15, lr = 3e-3, warmup_steps = 0 }
batch = { tokens = 1024, seq_len = 128, micro_tokens = 1024 }
data.long = "drop"
[stages.dpo]
optim = { steps = 6, lr = 5e-4, warmup_steps = 0 }
batch = { tokens = 1024, seq_len = 128, micro_tokens = 1024 }
data.long = "drop"
"#;

/// Texts, a vocabulary, dialogues, a model that has read both, and settings.
fn begin_rounds() -> tempfile::TempDir {
    let folder = begin();
    done(&mut pretrain(folder.path(), "base", &[]));
    fs::write(folder.path().join("sft.toml"), chat_settings("base/checkpoints/step-12")).unwrap();
    done(&mut stage(folder.path(), "sft", "sft.toml", "tuned"));
    fs::write(folder.path().join("round.toml"), SETTINGS).unwrap();
    let held = ["Who ends?", "Who begins?", "What is said?"].map(|asked| {
        format!("{}\n", serde_json::json!({ "messages": [{ "role": "user", "content": asked }] }))
    });
    fs::write(folder.path().join("held.jsonl"), held.concat()).unwrap();
    folder
}

fn round(folder: &Path, out: &str, more: &[&str]) -> Command {
    let mut command = herd(folder);
    command.args(["round", "--config", "round.toml", "--out", out, "-t", "1"]).args(more);
    command
}

fn ended(folder: &Path, out: &str) -> Vec<Value> {
    serde_json::from_str(&fs::read_to_string(folder.join(out).join("rounds.json")).unwrap())
        .unwrap()
}

#[test]
fn rounds_that_are_killed_end_with_the_bytes_of_rounds_that_are_not() {
    let folder = begin_rounds();
    let folder = folder.path();
    done(&mut round(folder, "out", &["--rounds", "2"]));
    fs::rename(folder.join("out"), folder.join("whole")).unwrap(); // some files name their folder
    let mut random = 7u64;
    for _ in 0..12 {
        let mut run = round(folder, "out", &["--rounds", "2"]);
        let mut run = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        std::thread::sleep(Duration::from_millis(40 + (random >> 33) % 500));
        let _ = run.kill(); // it may have ended
        run.wait().unwrap();
    }
    done(&mut round(folder, "out", &["--rounds", "2"]));
    expect_same(&folder.join("whole"), &folder.join("out"));
    let rounds = ended(folder, "out");
    assert_eq!(rounds.len(), 2);
    // A row knows the policy that made it.
    assert!(rounds[0]["policy_made"] != rounds[0]["policy_before"]);
    if rounds[0]["passed"] == true {
        assert_eq!(rounds[1]["policy_before"], rounds[0]["policy_made"]);
    }
    // More rounds go on where these ended.
    done(&mut round(folder, "out", &["--rounds", "3"]));
    assert_eq!(ended(folder, "out")[..2], rounds);
}

#[test]
fn a_round_that_gains_too_little_is_stopped_and_the_old_policy_stays() {
    let folder = begin_rounds();
    // No score rises by so much.
    let little = ["--rounds", "2", "--set", "gate.min_gain=1e9"];
    let output = round(folder.path(), "out", &little).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    let rounds = ended(folder.path(), "out");
    assert!(rounds.iter().all(|round| round["passed"] == false), "{rounds:?}");
    assert_eq!(rounds[1]["policy_before"], rounds[0]["policy_before"]);
    assert!(told.contains("it is stopped") && told.contains("tuned/checkpoints/step-12"), "{told}");
}

/// Judges that say so much for each word from the second to the sixth.
fn words(weight: f64) -> String {
    let score = |n: usize| {
        format!("{{ kind = \"length\", name = \"{n}\", words = [{n}, 1000], weight = {weight:?} }}")
    };
    format!("[{}]", (2..=6).map(score).collect::<Vec<_>>().join(", "))
}

#[test]
fn a_round_that_harms_is_stopped_by_the_gate() {
    let folder = begin_rounds();
    let ask = |n: u32| {
        let said = serde_json::json!({ "role": "user", "content": format!("Say {n}.") });
        format!("{}\n", serde_json::json!({ "messages": [said] }))
    };
    for (name, from) in [("asked.jsonl", 100), ("held.jsonl", 200)] {
        let rows: String = (from..from + 64).map(ask).collect();
        fs::write(folder.path().join(name), rows).unwrap();
    }
    fs::write(folder.path().join("round.toml"), LEARN).unwrap();
    // Annotators like the opposite of what the gate goes by: what is learnt from them is worse.
    let (liked, good) = (words(-0.2), words(0.2));
    let harm = [
        "--rounds",
        "1",
        "--set",
        &format!("collect.score={liked}"),
        "--set",
        &format!("gate.score={good}"),
    ];
    let output = round(folder.path(), "out", &harm).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    let round = &ended(folder.path(), "out")[0];
    assert!(round["gate"]["high"].as_f64().unwrap() < 0.0, "{round}");
    assert!(round["passed"] == false && round["policy_made"] != round["policy_before"], "{round}");
    assert!(told.contains("the old policy stays") && told.contains(POLICY), "{told}");
}

#[test]
fn what_rounds_read_stays_what_it_was() {
    let folder = begin_rounds();
    let folder = folder.path();
    second(folder);
    let one = ["--rounds", "1"];
    // Nothing was made yet: what is wrong may be mended.
    let err = refused(round(folder, "out", &one).args(["--set", "collect.context=100000"]));
    assert!(err.contains("sample.context") && folder.join("out/config.toml").exists(), "{err}");
    done(&mut round(folder, "out", &one));
    for (file, key) in [("chats.jsonl", "files of dialogues"), ("held.jsonl", "files of held")] {
        let own = fs::read_to_string(folder.join(file)).unwrap();
        let more = "{\"messages\": [{\"role\": \"user\", \"content\": \"And?\"}]}\n";
        fs::write(folder.join(file), format!("{}\n{more}", own.trim_end())).unwrap();
        for rounds in ["1", "2"] {
            let err = refused(&mut round(folder, "out", &["--rounds", rounds]));
            assert!(err.contains(&format!("{key} was")), "{file}: {err}");
        }
        fs::write(folder.join(file), own).unwrap();
    }
    for (model, key) in [(BASE, "weights of base"), (POLICY, "weights of policy")] {
        let restore = replace_weights(folder, model);
        let err = refused(&mut round(folder, "out", &one));
        assert!(err.contains(&format!("{key} was")), "{err}");
        restore();
    }
    done(&mut round(folder, "out", &one));
}

#[test]
fn what_decides_is_learnt_from_nowhere() {
    let folder = begin_rounds();
    let ask = |text: &str| serde_json::json!({ "role": "user", "content": text });
    let said = serde_json::json!({ "role": "assistant", "content": "All." });
    let row = serde_json::json!({ "messages": [ask("Who ends?"), said] });
    fs::write(folder.path().join("more.jsonl"), format!("{row}\n")).unwrap();
    let more = ["--set", "dialogues=[\"chats.jsonl\", \"more.jsonl\"]"];
    let output = round(folder.path(), "out", &more).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(2) && told.contains("1 prompts that stand in `dialogues`"),
        "{told}"
    );
    let lora = ["--set", "stages.sft.model.lora.rank=4"];
    let output = round(folder.path(), "out", &lora).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && told.contains("stages.sft.model.lora"), "{told}");
}

#[test]
fn people_are_waited_for_and_their_votes_are_read() {
    let folder = begin_rounds();
    let people = ["--rounds", "1", "--set", "collect.by=people"];
    // The reward model of the round chose what was learnt: it is no judge of that.
    let err = refused(&mut round(folder.path(), "out", &people));
    assert!(err.contains("`gate.score` is empty") && err.contains("[[gate.score]]"), "{err}");
    let judge = "gate.score=[{ kind = \"length\", words = [2, 1000] }]";
    let people = [&people[..], &["--set", judge]].concat();
    let told = done(&mut round(folder.path(), "out", &people));
    assert!(told.contains("judge") && told.contains("pairs.jsonl"), "{told}");
    let of = |name: &str| folder.path().join("out/round-1").join(name);
    let pairs = fs::read_to_string(of("pairs.jsonl")).unwrap();
    let vote = |better: u64| {
        move |(i, _): (usize, &str)| {
            format!("{{\"pair\": {i}, \"annotator\": \"me\", \"better\": {better}}}\n")
        }
    };
    let votes = |better: u64| pairs.lines().enumerate().map(vote(better)).collect::<String>();
    fs::write(of("votes.jsonl"), votes(2)).unwrap();
    let output = round(folder.path(), "out", &people).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && told.contains("better 2"), "{told}");
    fs::write(of("votes.jsonl"), votes(1)).unwrap();
    done(&mut round(folder.path(), "out", &people));
    assert_eq!(ended(folder.path(), "out")[0]["annotators"][0]["annotator"], "me");
    // Other votes under a round that has begun to learn from these.
    fs::write(of("votes.jsonl"), votes(0)).unwrap();
    fs::remove_file(of("round.json")).unwrap();
    let output = round(folder.path(), "out", &people).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && told.contains("other votes"), "{told}");
}
