//! The code that a repository lacks (arXiv 2407.21783, section 4.3.4): a file that many others refer to is taken away; which of them
//! depended on it, and what stood in it?
//!
//! ```text
//! repository -> which file imports which -> one that at least so many others refer to -> the others, and the question
//! row: the repository without the file -> the files that import it, and its code
//! ```
//!
//! Imports are read, never run (`imports.py`): so the list is known exactly. Of the code is known that it parses and binds
//! every name that the others take from it.

use crate::error::TrainError;
use crate::synth::items::Item;
use crate::synth::read::fences;
use crate::synth::{Harvest, Shelf, fall, said};
use crate::writer::desk::{Ask, Desk, Made, fault, reject};
use crate::writer::prompts::Default;
use crate::writer::{between, within};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Settings of `imports`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportsConfig {
    /// Other files that must refer to the one that is taken away.
    pub users_min: usize,
    /// Bytes of what is shown of a repository: the least and the most. Files that depend on the missing one are always shown.
    pub repository_bytes: [usize; 2],
    /// Answers asked of the writer; the first good one is the row.
    pub k: usize,
    /// Seconds that reading imports may take.
    pub seconds: f64,
}

/// What the writer is asked.
pub(super) const PROMPTS: &[Default] = &[Default {
    step: "restore",
    names: &["files", "missing"],
    text: "Here are the files of a repository of Python code. `{{ missing }}` is missing.\n\n\
           {% for file in files %}`{{ file.path }}`:\n```python\n{{ file.text }}\n```\n\n{% endfor %}\
           Which of these files import `{{ missing }}`? Write `{{ missing }}`, with all that they need of it. Answer in this form:\n\n\
           Files:\n- a path\n- a path\n\n```python\nthe whole missing file\n```",
}];

const READER: &str = include_str!("imports.py");

/// Bytes of a repository as JSON, in which one byte may become six: half of what the folder of a program holds.
const JSON_BYTES_MAX: u64 = 1 << 25;

/// For each file those that refer to it, and the names that each takes from it.
type Users = BTreeMap<String, BTreeMap<String, Vec<String>>>;

#[derive(Deserialize)]
struct Graph {
    /// Files that do not parse: what they refer to is not known.
    unread: Vec<String>,
    users: Users,
}

#[derive(Deserialize)]
struct Bound {
    names: Vec<String>,
    error: Option<String>,
}

impl ImportsConfig {
    pub(super) fn base() -> ImportsConfig {
        // Up to 128 Ki tokens of some four bytes.
        ImportsConfig { users_min: 5, repository_bytes: [1, 1 << 19], k: 4, seconds: 10.0 }
    }

    pub(super) fn check(&self) -> Result<(), TrainError> {
        between("imports.users_min", self.users_min as u64, 1, 1 << 16)?;
        between("imports.k", self.k as u64, 1, 1024)?;
        within("imports.seconds", self.seconds, 0.01, 3600.0)?;
        let [least, most] = self.repository_bytes;
        if least <= most {
            return Ok(());
        }
        let value = format!("[{least}, {most}]");
        Err(TrainError::no("imports.repository_bytes", value, "[least, most]"))
    }
}

pub(super) fn work(desk: &mut Desk<'_>, shelf: &Shelf<'_>, item: &Item) -> Made<Harvest> {
    let config = shelf.config.imports.as_ref().expect("the settings of its kind");
    let files = texts(&item.value);
    let Graph { unread, users } = graph(desk, &item.value)?;
    let wanted = |users: &BTreeMap<String, Vec<String>>| {
        users.len() >= config.users_min && users.values().any(|names| !names.is_empty())
    };
    let hubs: Vec<&String> =
        users.iter().filter(|(_, u)| wanted(u)).map(|(path, _)| path).collect();
    if hubs.is_empty() {
        let most = users.values().map(BTreeMap::len).max().unwrap_or(0);
        return reject("graph", "no_hub", json!({ "files": files.len(), "users_most": most }));
    }
    desk.passed("graph");
    let missing = hubs[(desk.draw("file") % hubs.len() as u64) as usize];
    let users = &users[missing];
    let hidden = |path: &str| path == missing || unread.iter().any(|other| other == path);
    let known: Vec<(&str, &str)> = files.into_iter().filter(|(path, _)| !hidden(path)).collect();
    let (shown, bytes) = shown(&known, users, config.repository_bytes[1]);
    let [least, most] = config.repository_bytes;
    if !(least..=most).contains(&bytes) {
        let reason = if bytes < least { "short" } else { "long" };
        return reject("repository", reason, json!({ "missing": missing, "bytes": bytes }));
    }
    desk.passed("repository");
    let with = json!({ "missing": missing, "files": shown });
    let ask = Ask { n: config.k, ..Ask::one("restore", with.clone()) };
    let mut harvest = Harvest::default();
    for answer in desk.ask(vec![ask])?.remove(0) {
        let text = answer.text.trim();
        let reason = match fault(&answer) {
            Some(reason) => Some(reason),
            None => wrong(desk, text, users)?,
        };
        let Some(reason) = reason else {
            desk.passed("restore");
            let asked = desk.room.prompts.render("restore", &with)?;
            let messages = [said("user", &asked), said("assistant", text)];
            let users: Vec<&String> = users.keys().collect();
            harvest.rows.push(json!({
                "messages": messages, "missing": missing, "users": users, "repository_bytes": bytes,
            }));
            return Ok(harvest);
        };
        let what = json!({ "missing": missing, "users": users, "said": text });
        fall(desk, &mut harvest, "restore", reason, what);
    }
    Ok(harvest)
}

fn texts(files: &Value) -> Vec<(&str, &str)> {
    let files = files.as_object().into_iter().flatten();
    files.filter_map(|(path, text)| Some((path.as_str(), text.as_str()?))).collect()
}

/// Who refers to whom.
fn graph(desk: &mut Desk<'_>, files: &Value) -> Made<Graph> {
    let repository = files.to_string();
    if repository.len() as u64 > JSON_BYTES_MAX {
        return reject("graph", "long", json!({ "json_bytes": repository.len() }));
    }
    let command = ["python3", "-I", "-B", "-S", "imports.py", "graph"];
    let given = [("repository.json", repository.as_str())];
    let ran = desk.run_over(&command, &[("imports.py", READER)], &given)?;
    match serde_json::from_str(&ran.stdout) {
        Ok(graph) if ran.succeeded() => Ok(graph),
        Ok(_) | Err(_) => {
            reject("graph", "unreadable", json!({ "ended": ran.ended, "stderr": ran.stderr }))
        }
    }
}

/// The files that users see, in the order of their paths, and the bytes of all: those that depend on the missing one, and as many
/// of the others as there is room for.
fn shown(
    files: &[(&str, &str)],
    users: &BTreeMap<String, Vec<String>>,
    most: usize,
) -> (Vec<Value>, usize) {
    let depends = |path: &str| users.contains_key(path);
    let mut bytes: usize =
        files.iter().filter(|(path, _)| depends(path)).map(|(_, text)| text.len()).sum();
    let mut shown = Vec::new();
    for (path, text) in files {
        let fits = bytes + text.len() <= most;
        if !depends(path) && !fits {
            continue;
        }
        bytes += if depends(path) { 0 } else { text.len() };
        shown.push(json!({ "path": path, "text": text.trim_end() }));
    }
    (shown, bytes)
}

/// Why an answer is not right.
fn wrong(
    desk: &mut Desk<'_>,
    text: &str,
    users: &BTreeMap<String, Vec<String>>,
) -> Made<Option<&'static str>> {
    let named = paths(text);
    if users.keys().any(|path| !named.contains(path.as_str())) {
        return Ok(Some("users_missing"));
    }
    if named.len() > users.len() {
        return Ok(Some("users_wrong"));
    }
    let Some(code) = fences(text).pop() else { return Ok(Some("no_code")) };
    let command = ["python3", "-I", "-B", "-S", "imports.py", "names"];
    let ran = desk.run(&command, &[("imports.py", READER), ("code.py", &code)])?;
    let bound: Bound = match serde_json::from_str(&ran.stdout) {
        Ok(bound) if ran.succeeded() => bound,
        Ok(_) | Err(_) => return Ok(Some("unreadable")),
    };
    let has = |name: &String| bound.names.contains(name);
    Ok(match bound.error {
        Some(_) => Some("syntax"),
        None if users.values().flatten().all(has) => None,
        None => Some("names_missing"),
    })
}

/// The paths in the list before the first code.
fn paths(text: &str) -> BTreeSet<&str> {
    let head = text.split("```").next().unwrap_or_default();
    let marks = |c: char| c.is_whitespace() || matches!(c, '`' | '*');
    let points = head.lines().filter_map(|line| line.trim_start().strip_prefix(['-', '*']));
    points.map(|path| path.trim_matches(marks)).filter(|path| !path.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_list_before_the_code() {
        let text =
            "I think:\nFiles:\n- a/b.py\n* `c.py`\n  - **d.py**\n\n```python\n- e.py\n```\n- f.py";
        assert_eq!(paths(text).into_iter().collect::<Vec<_>>(), ["a/b.py", "c.py", "d.py"]);
        assert!(paths("a.py and b.py").is_empty());
    }

    #[test]
    fn users_are_always_shown_and_others_while_there_is_room() {
        let files = [("a.py", "12345"), ("b.py", "1234"), ("c.py", "123")];
        let users = BTreeMap::from([("b.py".to_owned(), vec!["x".to_owned()])]);
        let names = |most| -> (Vec<String>, usize) {
            let (shown, bytes) = shown(&files, &users, most);
            (shown.iter().map(|file| file["path"].as_str().unwrap().to_owned()).collect(), bytes)
        };
        assert_eq!(names(100), (vec!["a.py".into(), "b.py".into(), "c.py".into()], 12));
        assert_eq!(names(8), (vec!["b.py".into(), "c.py".into()], 7));
        assert_eq!(names(3), (vec!["b.py".into()], 4)); // too long, and said to be
    }
}
