//! Two tasks, their rows and a model in a folder, and what measuring leaves there.

#![allow(clippy::unwrap_used, dead_code)] // helpers of tests; each test file uses a part

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common;
use crate::tiny;

const CHOICE: &str = r#"
name = "pick"
version = 1
about = "which word follows"
citation = "this test"
files = ["pick.jsonl"]
scorer = "choice"
metric = "acc_norm"
group = "kind"
macro = true
cluster = "passage"
description = "Words about {{kind}}.\n\n"

[shots]
number = 2
of_group = true

[[form]]
has = ["q", "options", "gold"]
text = "Q: {{q}}\nA:"
choices = "options"
gold = "gold"
"#;

const WRITTEN: &str = r#"
name = "sums"
version = 1
about = "sums, written out"
citation = "this test"
files = ["sums.jsonl"]
scorer = "number"
metric = "flexible"

[shots]
number = 1
first = true

[write]
until = ["Q:"]
max_tokens = 12

[[form]]
has = ["q", "a"]
text = "Q: {{q}}\nA:"
shot = "{{a}}"
reference = "a"
"#;

/// A model, two tasks and their rows in a folder.
pub struct Place {
    pub home: TempDir,
    pub model: PathBuf,
}

impl Place {
    pub fn new() -> Place {
        let (home, model) = tiny::home();
        let place = Place { home, model };
        fs::write(place.path("pick.toml"), CHOICE).unwrap();
        fs::write(place.path("sums.toml"), WRITTEN).unwrap();
        let pick = (0..150).map(|n| {
            let options = ["one", "twenty one", "", "three"].map(|word| format!("{word}{n}"));
            json!({ "q": format!("what comes before {}?", n * n), "options": options, "gold": n % 4,
                    "kind": (["birds", "boats", "bells"][n % 3]), "passage": n / 5 })
        });
        let sums =
            (0..9).map(|n| json!({ "q": format!("{n} + 1?"), "a": format!("#### {}", n + 1) }));
        place.rows("pick.jsonl", pick);
        place.rows("sums.jsonl", sums);
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn rows(&self, name: &str, rows: impl Iterator<Item = Value>) {
        let text: String = rows.map(|row| format!("{row}\n")).collect();
        fs::write(self.path(name), text).unwrap();
    }

    pub fn command(&self, out: &str, more: &[&str]) -> Command {
        let model = self.model.to_str().unwrap();
        self.command_of(out, &[&["-m", model], more].concat())
    }

    /// The same of whom `more` says.
    pub fn command_of(&self, out: &str, more: &[&str]) -> Command {
        let mut command = common::herd(self.home.path());
        let tasks =
            format!("{},{}", self.path("pick.toml").display(), self.path("sums.toml").display());
        command.args(["eval", "run", "--quiet", "--tasks", &tasks]);
        command.arg("--data").arg(self.home.path()).arg("--out").arg(self.path(out)).args(more);
        command
    }

    /// Exit code, standard output and standard error.
    pub fn run(&self, out: &str, more: &[&str]) -> (i32, String, String) {
        common::told(self.command(out, more).output().unwrap())
    }

    /// What a run left: its results, and its receipts task by task.
    pub fn left(&self, out: &str) -> [String; 3] {
        ["results.json", "samples/pick.jsonl", "samples/sums.jsonl"]
            .map(|name| fs::read_to_string(self.path(out).join(name)).unwrap())
    }

    pub fn measured(&self, out: &str, more: &[&str]) -> [String; 3] {
        let (code, _, error) = self.run(out, more);
        assert_eq!(code, 0, "{error}");
        self.left(out)
    }
}

/// Waits until the file has some lines, and kills the program.
pub fn kill_behind(child: &mut Child, file: &Path) {
    while child.try_wait().unwrap().is_none()
        && fs::read(file).map_or(0, |bytes| bytes.iter().filter(|&&b| b == b'\n').count()) == 0
    {
        sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
