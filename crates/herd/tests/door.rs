//! What every command has in common: flags, errors, exit codes.

mod common;

use common::{herd, run};

#[test]
fn misspelt_flags_and_verbs_get_the_nearest_name() {
    let home = tempfile::tempdir().unwrap();
    let (code, _, err) = run(home.path(), &["ls", "--jsn"]);
    assert_eq!(code, 2);
    assert!(err.contains("--json"), "{err}");
    let (code, _, err) = run(home.path(), &["pul"]);
    assert_eq!(code, 2);
    assert!(err.contains("pull"), "{err}");
}

#[test]
fn errors_are_one_line_and_a_hint() {
    let home = tempfile::tempdir().unwrap();
    let (code, out, err) = run(home.path(), &["show", "nothing"]);
    assert_eq!((code, out.as_str()), (2, ""));
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(lines[0], "error: no file, folder or model named \"nothing\"");
    assert!(lines[1].starts_with("hint: ") && lines.len() == 2, "{err}");
}

#[test]
fn names_cannot_climb_out_of_the_store() {
    let home = tempfile::tempdir().unwrap();
    for name in ["../x", "a/../../x", "/etc", "a/b/c"] {
        let (code, _, err) = run(home.path(), &["rm", "--yes", name]);
        assert_eq!(code, 2);
        assert!(err.contains("is not a model name"), "{err}");
    }
}

#[test]
fn offline_forbids_pulling() {
    let home = tempfile::tempdir().unwrap();
    let (code, _, err) = run(home.path(), &["--offline", "pull", "smollm2"]);
    assert_eq!(code, 2);
    assert!(err.contains("--offline forbids it"), "{err}");
}

#[test]
fn without_a_home_the_store_says_what_to_set() {
    let home = tempfile::tempdir().unwrap();
    let output = herd(home.path()).env_remove("HERD_HOME").arg("ls").output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.contains("hint: set HERD_HOME"), "{err}");
}

#[test]
fn completions_name_the_verbs() {
    let home = tempfile::tempdir().unwrap();
    let (code, out, _) = run(home.path(), &["completions", "bash"]);
    assert_eq!(code, 0);
    assert!(out.contains("pull"));
}
