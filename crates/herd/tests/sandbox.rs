//! `herd sandbox`: the program is its own helper.

#![allow(clippy::unwrap_used)]

mod common;

use common::{herd, run, told};

/// Whether this machine has all walls; the others are told which one it lacks.
fn stands(home: &std::path::Path) -> bool {
    let (code, _, err) = run(home, &["sandbox", "--", "true"]);
    if code == 2 {
        assert!(err.starts_with("error: the sandbox lacks a wall"), "{err}");
        assert!(err.contains("hint: "), "{err}");
        eprintln!("not tested, since nothing would run here: {err}");
    }
    code != 2
}

#[test]
fn a_command_runs_behind_the_walls() {
    let home = tempfile::tempdir().unwrap();
    if !stands(home.path()) {
        return;
    }
    let given = home.path().join("given");
    std::fs::create_dir_all(given.join("sub")).unwrap();
    std::fs::write(given.join("sub/a.txt"), "hello").unwrap();
    let out = home.path().join("out");
    let (given, out_flag) = (given.to_str().unwrap(), out.to_str().unwrap());
    let code = format!("cat sub/a.txt; tr a-z A-Z < sub/a.txt > b; ls {given}; exit 3");
    let collect = ["--dir", given, "--out", out_flag, "--collect", "b", "--collect", "c"];
    let args = [&["sandbox"][..], &collect, &["--", "sh", "-c", &code]].concat();
    let (code, stdout, stderr) = run(home.path(), &args);
    assert_eq!((code, stdout.as_str()), (1, "hello"), "{stderr}");
    assert!(stderr.contains("c is missing") && stderr.contains("it ended: code 3"), "{stderr}");
    assert_eq!(std::fs::read_to_string(out.join("b")).unwrap(), "HELLO");
    let (code, stdout, _) = run(home.path(), &["sandbox", "--json", "--", "echo", "sandbox-walls"]);
    let value: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &value["ended"]), (0, &"code 0".into()));
    assert_eq!(value["stdout"], "sandbox-walls\n");
}

#[test]
fn limits_are_flags_and_wrong_ones_are_named() {
    let home = tempfile::tempdir().unwrap();
    for (flag, value) in [("--time", "soon"), ("--memory", "much"), ("--memory", "1K")] {
        let (code, _, err) = run(home.path(), &["sandbox", flag, value, "--", "true"]);
        assert_eq!(code, 2, "{flag} {value}");
        assert!(err.starts_with("error: the "), "{err}");
    }
    if !stands(home.path()) {
        return;
    }
    let command = ["sandbox", "--time", "300ms", "--", "sleep", "1000"];
    let (code, _, err) = run(home.path(), &command);
    assert_eq!(code, 1);
    assert!(err.contains("out of time"), "{err}");
    let (code, _, err) = run(home.path(), &["sandbox", "--", "no-such-program"]);
    assert_eq!(code, 2);
    assert!(err.contains("no-such-program") && err.contains("hint: "), "{err}");
}

#[test]
fn an_inner_stage_by_hand_does_nothing() {
    let home = tempfile::tempdir().unwrap();
    for stage in ["sandbox-walls", "sandbox-keeper", "sandbox-start"] {
        let output = herd(home.path()).arg(stage).output().unwrap();
        let (code, _, _) = told(output);
        assert!(matches!(code, 0 | 2 | 126), "{stage}: {code}"); // its input ended, or no wall
    }
}
