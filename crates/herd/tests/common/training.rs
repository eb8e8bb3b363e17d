//! Small runs of training: texts, a vocabulary, settings, and the bytes that a run promises.

#![allow(clippy::unwrap_used, dead_code)] // helpers of tests; each test file uses a part

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
}

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

/// `herd pretrain` on [`SETTINGS`].
pub fn pretrain(folder: &Path, out: &str, more: &[&str]) -> Command {
    let mut command = stage(folder, "pretrain", "run.toml", out);
    command.args(more);
    command
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
