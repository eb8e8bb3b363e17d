//! Small runs of training: texts, a vocabulary, settings, and the bytes that a run promises.

#![allow(clippy::unwrap_used, dead_code)] // helpers of tests; each test file uses a part

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The program, in a folder.
pub fn herd(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_herd"));
    command.current_dir(folder).env("HERD_HOME", folder.join("home")).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Runs a command that must succeed; what it said.
pub fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {err}");
    err
}

/// Runs a command that must refuse, without a fault of its own; its words.
pub fn refused(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{command:?}: {err}");
    assert!(!err.contains("a fault in herd"), "{err}");
    err
}

/// The sections of this repository's pages as documents, a vocabulary learnt from them, and
/// settings of a run of twelve steps.
pub fn begin() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    begin_in(folder.path());
    folder
}

/// The same in a folder that is there.
pub fn begin_in(folder: &Path) {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let pages = ["model.md", "files.md", "chat.md", "kernels.md"];
    let text = pages.map(|page| fs::read_to_string(docs.join(page)).unwrap()).concat();
    let lines = text.split("\n## ").map(|part| serde_json::json!({ "text": part }).to_string());
    fs::write(folder.join("docs.jsonl"), lines.collect::<Vec<_>>().join("\n")).unwrap();
    let train = "tokenizer train -i docs.jsonl --vocab-size 400 --specials 16 -o words";
    done(herd(folder).args(train.split(' ')));
    fs::write(folder.join("run.toml"), SETTINGS).unwrap();
    fs::write(folder.join("chats.jsonl"), dialogues(&text)).unwrap();
    fs::write(folder.join("pairs.jsonl"), comparisons(&text)).unwrap();
}

/// A dialogue a section: what it is about, and its first words; some go on with the next words.
fn dialogues(text: &str) -> String {
    let say = |role: &str, text: String| serde_json::json!({"role": role, "content": text});
    let line = |(i, part): (usize, &str)| {
        let (head, body) = part.split_once('\n')?;
        let words: Vec<&str> = body.split_whitespace().take(20).collect();
        let (first, rest) = words.split_at_checked(8)?;
        let mut messages = vec![say("user", head.to_owned()), say("assistant", first.join(" "))];
        if i % 3 == 0 && !rest.is_empty() {
            messages.push(say("user", "And then?".to_owned()));
            messages.push(say("assistant", rest.join(" ")));
        }
        Some(serde_json::json!({ "messages": messages, "number": 7 }).to_string())
    };
    text.split("\n## ").enumerate().filter_map(line).collect::<Vec<_>>().join("\n")
}

/// A comparison a section: its first words are better than its next ones; some have a third answer, and some are to
/// be left out, as they are too weak or say the same.
fn comparisons(text: &str) -> String {
    let line = |(i, part): (usize, &str)| {
        let (head, body) = part.split_once('\n')?;
        let words: Vec<&str> = body.split_whitespace().take(15).collect();
        let (first, rest) = words.split_at_checked(8).filter(|(_, rest)| rest.len() == 7)?;
        let strengths = ["better", "significantly better", "slightly better"];
        let mut row = serde_json::json!({
            "prompt": head,
            "chosen": first.join(" "),
            "rejected": rest.join(" "),
            "strength": strengths[usize::min(i % 7, 2)],
        });
        match i % 7 {
            3 => row["rejected"] = row["chosen"].clone(),
            4 | 5 => row["edited"] = first[..5].join(" ").into(),
            _ => {}
        }
        if i % 7 > 2 {
            row.as_object_mut().unwrap().remove("strength");
        }
        Some(row.to_string())
    };
    text.split("\n## ").enumerate().filter_map(line).collect::<Vec<_>>().join("\n")
}

/// Settings of a run over comparisons, of which some are too long for a row, from `init`.
pub fn pair_settings(init: &str) -> String {
    let text = chat_settings(init).replace("\"shorten\"", "\"drop\"");
    text.replace("chats.jsonl", "pairs.jsonl").replace("tokens = 256\n", "tokens = 512\n")
        + "[dpo]\n"
}

/// Settings of a run over texts that is taught by `teacher`.
pub fn text_taught(teacher: &str) -> String {
    format!("{SETTINGS}[distill]\nlearn = \"text\"\nteacher = {teacher:?}\nk = 8\n")
}

/// The same over dialogues, from `init`.
pub fn answers_taught(init: &str, teacher: &str) -> String {
    let loss = "k = 8\ntemperature = 2.0\nrest = \"drop\"\n";
    format!("{}[distill]\nteacher = {teacher:?}\n{loss}", chat_settings(init))
}

/// The same of a run that teaches a reward model.
pub fn reward_settings(init: &str) -> String {
    let text = pair_settings(init).replace("[dpo]\n", "");
    let samples = &text[text.find("[samples]").unwrap()..];
    text.replace(samples, "[reward]\n")
}

/// Settings of a run over dialogues, of which some are too long for a row, from `init`.
pub fn chat_settings(init: &str) -> String {
    let input = "input = [\"chats.jsonl\"]\nlong = \"shorten\"";
    let text = SETTINGS.replace("input = [\"docs.jsonl\"]", input);
    let text = text.replace("seq_len = 64", "seq_len = 128");
    let text = text.replace("warmup_steps = 3", "warmup_steps = 3\nlr = 1e-3");
    text.replace("[model]\n", &format!("[chat]\ntemplate = \"llama3\"\n[model]\ninit = {init:?}\n"))
}

/// Settings of `herd sample` by the model of [`SETTINGS`] over the dialogues, of which some leave no room for an answer.
pub const SAMPLE_SETTINGS: &str = r#"
input = ["chats.jsonl"]
[sample]
k = 3
policies = ["base/checkpoints/step-12"]
temperature = [0.5, 1.2]
max_tokens = 12
context = 64
parallel = 4
system = ["brief", "kind"]
unfinished = "keep"
[chat]
template = "llama3"
[[score]]
kind = "regex"
pattern = "e"
[[score]]
kind = "length"
words = [1, 6]
weight = 0.5
"#;

/// Settings of `herd synth maths` by the model of [`SETTINGS`]: the dialogues are its problems, their first answers hold numbers or not.
pub const SYNTH_SETTINGS: &str = r#"
input = ["chats.jsonl"]
items_max = 12
[writer]
model = "base/checkpoints/step-12"
[sample]
max_tokens = 8
context = 64
parallel = 4
[prompts]
solve = "{{ problem }}"
[chat]
template = "llama3"
[maths]
answer = "number"
k = [1, 3]
verify = false
"#;

/// Settings of `herd select` over the dialogues: the model of [`SETTINGS`] judges and gives vectors.
pub const SELECT_SETTINGS: &str = r#"
input = ["chats.jsonl"]
[writer]
model = "base/checkpoints/step-12"
[sample]
max_tokens = 8
context = 64
parallel = 4
[chat]
template = "llama3"
[prompts]
general = "{{ dialogue[:40] }}"
[clean]
[quality]
[dedup]
model = "base/checkpoints/step-12"
cosine_max = 0.8
[phrases]
find_share = 0.2
"#;

/// `herd sample` on one thread, into a folder.
pub fn sample(folder: &Path, config: &str, out: &str) -> Command {
    let mut command = herd(folder);
    let out = format!("{out}/samples.jsonl");
    command.args(["sample", "--config", config, "--out", &out, "-t", "1"]);
    command
}

/// An adapter in place of all weights.
pub const LORA: &str = "\n[model.lora]\nrank = 4\nalpha = 8\ntargets = [\"q\", \"down\"]\n";

/// Settings of a run of twelve steps.
pub const SETTINGS: &str = r#"
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

/// Two stages of longer contexts that anything passes.
pub const EXTENSION: &str = r#"
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

/// A verb of training on one thread.
pub fn stage(folder: &Path, verb: &str, config: &str, out: &str) -> Command {
    let mut command = herd(folder);
    command.args([verb, "--config", config, "--out", out, "-t", "1"]);
    command
}

/// The same with some settings changed.
pub fn stage_set(folder: &Path, verb: &str, config: &str, out: &str, set: &[&str]) -> Command {
    let mut command = stage(folder, verb, config, out);
    command.args(set.iter().flat_map(|set| ["--set", set]));
    command
}

/// The model that a stage begins with, after [`begin_from_base`].
pub const BASE: &str = "base/checkpoints/step-12";

/// [`begin`], a model to begin with, and the settings of a stage in `VERB.toml`.
pub fn begin_from_base(verb: &str, settings: &str) -> tempfile::TempDir {
    let folder = begin();
    done(&mut pretrain(folder.path(), "base", &[]));
    fs::write(folder.path().join(format!("{verb}.toml")), settings).unwrap();
    folder
}

/// `herd pretrain` on [`SETTINGS`].
pub fn pretrain(folder: &Path, out: &str, more: &[&str]) -> Command {
    let mut command = stage(folder, "pretrain", "run.toml", out);
    command.args(more);
    command
}

/// A second model, of another seed, whose weights [`replace_weights`] puts under the name of another.
pub fn second(folder: &Path) {
    done(&mut pretrain(folder, "second", &["--set", "seed=9"]));
}

/// Puts the weights of [`second`] in place of a checkpoint's own, and gives back what was there.
pub fn replace_weights(folder: &Path, checkpoint: &str) -> impl FnOnce() + use<> {
    let file = folder.join(checkpoint).join("model.safetensors");
    let own = fs::read(&file).unwrap();
    fs::copy(folder.join("second/checkpoints/step-12/model.safetensors"), &file).unwrap();
    move || fs::write(file, own).unwrap()
}

/// The lines of a run's metrics of one kind.
pub fn metrics(run: &Path, kind: &str) -> Vec<Value> {
    let lines = rows(&run.join("metrics.jsonl"));
    lines.into_iter().filter(|line| line["kind"] == kind).collect()
}

/// The rows of a file of JSON lines.
pub fn rows(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// All files of a run whose bytes are promised.
pub fn files(run: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
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
    let timed = ["stats.json", "speed.jsonl", "events", "report", "report.md", ".lock"];
    out.retain(|path, _| !path.iter().any(|part| timed.iter().any(|timed| part == *timed)));
    out
}

/// Two runs have the same files, but for those of the clock.
pub fn expect_same(a: &Path, b: &Path) {
    let (a, b) = (files(a), files(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (path, bytes) in &a {
        assert!(*bytes == b[path], "{} differs", path.display());
    }
}

/// Kills a run at random moments, at least `enough` times in all, each way some times, and lets it end.
pub fn expect_unbreakable(folder: &Path, enough: usize, command: impl Fn(&str) -> Command) {
    let begun = Instant::now();
    done(&mut command("whole"));
    let whole = begun.elapsed();
    let mut random = 12_345u64;
    let mut kills = 0;
    for round in 0.. {
        let out = format!("killed-{round}");
        for _ in 0..6 {
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
        done(&mut command(&out));
        expect_same(&folder.join("whole"), &folder.join(&out));
        fs::remove_dir_all(folder.join(&out)).unwrap();
        if kills >= enough {
            break;
        }
    }
}

/// Settings of a run that learns from its own answers to the dialogues, from `init`: two steps a generation, each made twice,
/// with a reference and held-out prompts.
pub fn grpo_settings(init: &str) -> String {
    let text = chat_settings(init).replace("\"shorten\"", "\"drop\"");
    let text =
        text.replace("tokens = 256\n", "").replace("micro_tokens = 128", "micro_tokens = 256");
    let samples = &text[text.find("[samples]").unwrap()..];
    text.replace(samples, GRPO)
}

/// The same of a run with a value head, two mini-batches a generation.
pub fn ppo_settings(init: &str) -> String {
    let text = grpo_settings(init);
    let [from, to] = ["[grpo]", "[[score]]"].map(|section| text.find(section).unwrap());
    text.replace(&text[from..to], PPO)
}

const PPO: &str = r#"[ppo]
num_ppo_epochs = 2
num_mini_batches = 2
kl_coef = 0.05
missing_eos_penalty = 0.25
"#;

const GRPO: &str = r#"
[rollout]
prompts = 4
max_tokens = 12
parallel = 6
[grpo]
num_generations = 3
num_iterations = 2
steps_per_generation = 2
beta = 0.05
[[score]]
kind = "regex"
pattern = "e"
[[score]]
kind = "length"
words = [1, 6]
weight = 0.5
"#;
