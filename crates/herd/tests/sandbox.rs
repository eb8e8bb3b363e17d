//! `herd sandbox`: the program is its own helper.

#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use common::{herd, run, told};

/// Whether this machine has all walls. It may lack them only where the kernel gives an ordinary user
/// no user namespace, and then says which one.
fn stands(home: &std::path::Path) -> bool {
    let (code, _, err) = run(home, &["sandbox", "--", "true"]);
    if code == 0 {
        return true;
    }
    let mut unshare = Command::new("unshare");
    unshare.args(["-U", "-r", "true"]).current_dir("/");
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        unshare.uid(65534).gid(65534); // as the sandbox does
    }
    assert!(!unshare.output().unwrap().status.success(), "{err}");
    assert!(err.starts_with("error: the sandbox lacks a wall"), "{err}");
    assert!(err.contains("hint: "), "{err}");
    eprintln!("not tested, since nothing would run here: {err}");
    false
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
    std::fs::write(given.join("sub/run.sh"), "#!/bin/sh\ncat sub/a.txt\n").unwrap();
    let out = home.path().join("out");
    let (given, out_flag) = (given.to_str().unwrap(), out.to_str().unwrap());
    let code = format!("sub/run.sh; tr a-z A-Z < sub/a.txt > b; ls {given}; exit 3");
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
    let dir = home.path().join("given");
    std::fs::create_dir(&dir).unwrap();
    (0..30).for_each(|n| std::fs::write(dir.join(n.to_string()), "").unwrap());
    let dir = dir.to_str().unwrap();
    let (code, _, err) =
        run(home.path(), &["sandbox", "--files", "10", "--dir", dir, "--", "true"]);
    assert_eq!(code, 2);
    assert!(err.contains("takes 10 files") && !err.contains("lacks a wall"), "{err}");
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
