//! `herd eval` of programs: each is tried behind the walls of the sandbox, and how it ended is counted.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;
#[path = "common/tiny.rs"]
mod tiny;

use std::fs;
use std::path::PathBuf;

use herd_eval::EvalError;
use herd_eval::score::{Judge, Scorer, Worth};
use herd_sandbox::{Helper, SandboxError};
use serde_json::{Value, json};

/// What runs programs; none where this machine lacks a wall.
fn judge() -> Option<Judge> {
    let helper = Helper { program: PathBuf::from(env!("CARGO_BIN_EXE_herd")), arguments: vec![] };
    match Judge::new(helper) {
        Ok(judge) => Some(judge),
        Err(EvalError::Sandbox(SandboxError::Wall { wall, .. })) => {
            eprintln!("not tested: no {wall:?}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn reference() -> Value {
    json!({
        "language": "python",
        "before": "def double(x):\n    \"\"\"Twice a number.\"\"\"\n",
        "after": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\ncheck(double)",
        "seconds": 2,
    })
}

fn score(judge: &Judge, reference: &Value, answers: &[&str]) -> Worth {
    let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
    Scorer::Programs.worth(reference, &answers, Some(judge), 1).unwrap()
}

#[test]
fn what_is_right_passes_and_all_else_fails_by_its_name() {
    let Some(judge) = judge() else { return };
    let of = |answer: &str| {
        let worth = score(&judge, &reference(), &[answer]);
        (worth.scores["pass@1"], worth.ended[0].clone())
    };
    for right in [
        "    return 2 * x",
        "    print('noise')\n    return x + x\nif __name__ == '__main__':\n    input()\n",
    ] {
        assert_eq!(of(right), (1.0, "passed".to_owned()), "{right}");
    }
    for wrong in [
        "    return x",
        "    return",
        "    return 2 *",
        "    raise ValueError",
        "    import sys; sys.exit(0)",
        "    import os; os._exit(0)",
        "    return int(input())",
        "    return x\nimport hashlib, os\nwith open('main.py', 'rb') as f: word = hashlib.sha256(f.read()).hexdigest()\n\
         os.write(1, word.encode() + b'\\n')\nos._exit(0)",
        "    import socket; socket.create_connection(('127.0.0.1', 80)); return 2 * x",
        "",
    ] {
        assert_eq!(of(wrong), (0.0, "failed".to_owned()), "{wrong}");
    }
    assert_eq!(of("    while True: pass"), (0.0, "timed_out".to_owned()));
}

#[test]
fn several_answers_are_counted_together() {
    let Some(judge) = judge() else { return };
    let answers: Vec<&str> =
        (0..10).map(|i| if i < 3 { "    return 2 * x" } else { "    return x" }).collect();
    let worth = score(&judge, &reference(), &answers);
    assert!((worth.scores["pass@1"] - 0.3).abs() < 1e-12);
    assert_eq!((worth.scores["pass@10"], worth.scores.get("pass@100")), (1.0, None));
    assert_eq!((worth.ended.len(), worth.taken), (10, json!(3)));
}

#[test]
fn other_languages_run_where_their_programs_are() {
    let Some(judge) = judge() else { return };
    for (language, program, before, right, after) in [
        (
            "js",
            "node",
            "function f(x){\n",
            "  return 2*x;\n}",
            "require('node:assert').equal(f(2), 4);",
        ),
        ("sh", "bash", "f() {\n", "  echo $((2 * $1))", "}\nset -e\n[[ $(f 2) = 4 ]]\n"),
        (
            "cpp",
            "g++",
            "#include<assert.h>\nlong f(long x) {\n",
            "  return 2 * x;",
            "}\nint main() { assert(f(2) == 4); }",
        ),
    ] {
        if !PathBuf::from("/usr/bin").join(program).exists() {
            eprintln!("not tested: no {program}");
            continue;
        }
        let row = json!({ "language": language, "before": before, "after": after, "seconds": 30 });
        assert_eq!(score(&judge, &row, &[right]).ended, ["passed"], "{language}");
        assert_eq!(
            score(&judge, &row, &[&right.replace('2', "3")]).ended,
            ["failed"],
            "{language}"
        );
    }
}

const PAGE: &str = r#"
name = "doubles"
version = 1
about = "functions"
citation = "this test"
files = ["doubles.jsonl"]
scorer = "programs"
metric = "pass@1"

[write]
until = ["\ndef"]
max_tokens = 8

[[form]]
has = ["prompt", "language", "test"]
text = "{{prompt}}"
reference = "{'language': language, 'before': prompt, 'after': test, 'seconds': 2}"
"#;

#[test]
fn a_run_says_how_programs_ended_and_refuses_what_cannot_run() {
    if judge().is_none() {
        return;
    }
    let (home, model) = tiny::home();
    let path = |name: &str| home.path().join(name);
    fs::write(path("doubles.toml"), PAGE).unwrap();
    let rows = |language: &str| {
        // The second row's test passes whatever is written: the answer stands in a comment.
        let rows = [("def f(x):\n", "assert f(2) == 4"), ("# ", "pass")];
        let line = |(prompt, test): (&str, &str)| {
            format!("{}\n", json!({ "prompt": prompt, "language": language, "test": test }))
        };
        fs::write(path("doubles.jsonl"), rows.map(line).concat()).unwrap();
    };
    let run = |out: &str, more: &[&str]| {
        let mut command = common::herd(home.path());
        command.args(["eval", "run", "--quiet", "--json", "--tasks"]).arg(path("doubles.toml"));
        command.arg("-m").arg(&model).arg("--data").arg(home.path()).arg("--out").arg(path(out));
        common::told(command.args(more).output().unwrap())
    };
    rows("python");
    let (code, told, error) = run("one", &[]);
    assert_eq!(code, 0, "{error}");
    let told: Value = serde_json::from_str(&told).unwrap();
    let ended = told["tasks"]["doubles"]["ended"].as_object().unwrap();
    assert_eq!(ended.values().map(|n| n.as_u64().unwrap()).sum::<u64>(), 2, "{told}");
    let (code, told, error) = run("ten", &["--samples", "10"]);
    assert_eq!(code, 0, "{error}");
    let told: Value = serde_json::from_str(&told).unwrap();
    let scores = &told["tasks"]["doubles"]["scores"];
    assert!(scores["pass@10"]["n"] == 2 && scores["pass@100"].is_null(), "{told}");

    if !PathBuf::from("/usr/bin/mcs").exists() {
        rows("cs");
        let (code, _, error) = run("two", &[]);
        assert!(code == 2 && error.contains("cs cannot be run here"), "{error}");
        assert!(!path("two").exists());
    }
    rows("cobol");
    let (code, _, error) = run("three", &[]);
    assert!(code == 2 && error.contains("cobol") && error.contains("row 1"), "{error}");
}
