//! `herd complete` and `herd chat` on a tiny model: what they print, refuse, keep and survive.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;
#[path = "common/tiny.rs"]
mod tiny;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{herd, run, told};
use serde_json::Value;

fn complete(home: &Path, model: &Path, more: &[&str]) -> (i32, String, String) {
    let model = model.to_str().unwrap();
    run(home, &[&["complete", "-m", model, "-p", "once upon"], more].concat())
}

/// Talks line by line and gives code, standard output and standard error.
fn talk(home: &Path, model: &Path, more: &[&str], lines: &str) -> (i32, String, String) {
    let mut command = herd(home);
    let command = command.args(["chat", "-m", model.to_str().unwrap(), "-n", "5"]).args(more);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(lines.as_bytes()); // it may have ended already
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn complete_prints_the_continuation_alone() {
    let home = tempfile::tempdir().unwrap();
    let model = tiny::write(home.path());
    let json =
        complete(home.path(), &model, &["-n", "12", "--temp", "0", "--json", "--ignore-eos"]);
    let value: Value = serde_json::from_str(&json.1).unwrap();
    assert_eq!(value["ids"].as_array().unwrap().len(), 12);
    assert_eq!(value["stop"], "length");
    assert_eq!(value["timings"]["prompt_tokens"], 9);
    let output = herd(home.path())
        .args(["complete", "-m", model.to_str().unwrap(), "-p", "once upon"])
        .args(["-n", "12", "--temp", "0", "--ignore-eos"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), value["text"].as_str().unwrap());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn the_same_seed_gives_the_same_answer_on_any_number_of_threads() {
    let home = tempfile::tempdir().unwrap();
    let model = tiny::write(home.path());
    let answer = |seed: &str, threads: &str| {
        let flags =
            ["-n", "40", "--temp", "2", "--top-p", "1", "-s", seed, "-t", threads, "--json"];
        let (code, out, err) = complete(home.path(), &model, &flags);
        assert_eq!(code, 0, "{err}");
        let value: Value = serde_json::from_str(&out).unwrap();
        value["ids"].clone()
    };
    let first = answer("7", "1");
    assert_eq!(answer("7", "1"), first);
    assert_eq!(answer("7", "2"), first);
    assert_ne!(answer("8", "1"), first);
}

#[test]
fn an_answer_stops_at_a_stop_text() {
    let home = tempfile::tempdir().unwrap();
    let model = tiny::write(home.path());
    let flags = ["-n", "60", "--temp", "0", "--json", "--logit-bias", "88=50", "--stop", "XXXX"];
    let (code, out, err) = complete(home.path(), &model, &flags);
    assert_eq!(code, 0, "{err}");
    let value: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((value["stop"].as_str(), value["text"].as_str()), (Some("stop_string"), Some("")));
}

#[test]
fn what_does_not_fit_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let model = tiny::write(home.path());
    let (code, out, err) = complete(home.path(), &model, &["-c", "8"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("9 tokens, the context 8") && err.contains("hint: "), "{err}");
    let (code, _, err) = complete(home.path(), &model, &["-c", "4097"]);
    assert_eq!(code, 2);
    assert!(err.contains("\"4097\", expected between 1 and the model's 4096"), "{err}");
    let (code, _, err) = complete(home.path(), &model, &["--temp", "-1"]);
    assert_eq!(code, 2);
    assert!(err.contains("temp"), "{err}");
    let (code, _, err) = complete(home.path(), &model, &["--top-p", "1.5"]);
    assert_eq!(code, 2);
    assert!(err.contains("top_p is 1.5"), "{err}");
}

#[test]
fn the_plan_adds_up_and_what_exceeds_memory_is_refused_before_loading() {
    let home = tempfile::tempdir().unwrap();
    let model = tiny::write_endless(home.path());
    let model = model.to_str().unwrap();
    let plan = |context: &str| {
        let (code, out, err) = run(home.path(), &["plan", "-m", model, "-c", context, "--json"]);
        assert_eq!(err, "");
        (code, serde_json::from_str::<Value>(&out).unwrap())
    };
    let (code, small) = plan("64");
    assert_eq!((code, &small["fits"]), (0, &Value::Bool(true)));
    let parts = small["parts"].as_object().unwrap().values();
    assert_eq!(parts.map(|p| p.as_u64().unwrap()).sum::<u64>(), small["peak_bytes"]);
    // 2 layers, keys and values, 2 heads of 16 padded numbers, 4 bytes each.
    assert_eq!(small["parts"]["cache"], 64 * 2 * 2 * 2 * 16 * 4);
    let free = small["available_bytes"].as_u64().unwrap();
    let huge = free / 400;
    if free == 0 || huge > 1 << 26 {
        return; // this system does not say, or has more than any context takes here
    }
    let huge = huge.to_string();
    let (code, plan) = plan(&huge);
    assert_eq!((code, &plan["fits"]), (1, &Value::Bool(false)));
    let (code, out, err) = run(home.path(), &["complete", "-m", model, "-p", "x", "-c", &huge]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("are free") && err.contains("hint: --ctx-size"), "{err}");
}

#[test]
fn a_pipe_gets_one_answer_a_question_and_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let model = tiny::write(home.path());
    let (code, out, err) = talk(home.path(), &model, &["--temp", "0"], "hello\n\nmore\\\nlines\n");
    assert_eq!((code, err.as_str()), (0, ""));
    let one = talk(home.path(), &model, &["--temp", "0", "-p", "hello"], "");
    assert!(out.starts_with(&one.1), "{out:?} {:?}", one.1);
}

#[test]
fn a_conversation_is_saved_taken_up_and_answered_again() {
    let home = tempfile::tempdir().unwrap();
    let model = tiny::write(home.path());
    let file = home.path().join("talk.json");
    let file = file.to_str().unwrap();
    let lines = format!("/system be brief\nhello\n/regen\n/save {file}\n/exit\nnever asked\n");
    let (code, _, err) = talk(home.path(), &model, &["-s", "1"], &lines);
    assert_eq!(code, 0, "{err}");
    let saved: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let roles: Vec<&Value> =
        saved["messages"].as_array().unwrap().iter().map(|m| &m["role"]).collect();
    assert_eq!(roles, ["system", "user", "assistant"]);
    let again = home.path().join("again.json");
    let lines = format!("/load {file}\nand?\n/set temperature 0.5\n/save {}\n", again.display());
    let (code, _, err) = talk(home.path(), &model, &[], &lines);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("3 messages taken up"), "{err}");
    let saved: Value = serde_json::from_str(&fs::read_to_string(again).unwrap()).unwrap();
    assert_eq!(saved["messages"].as_array().unwrap().len(), 5);
}

#[test]
fn an_error_in_a_pipe_ends_with_code_2() {
    let home = tempfile::tempdir().unwrap();
    let model = tiny::write(home.path());
    let (code, _, err) = talk(home.path(), &model, &[], "/laod x\n");
    assert_eq!(code, 2);
    assert!(err.contains("did you mean /load?"), "{err}");
    let long = "x".repeat(5000);
    let (code, _, err) = talk(home.path(), &model, &[], &format!("{long}\n"));
    assert_eq!(code, 2);
    assert!(err.contains("the context 4096") && err.contains("/clear"), "{err}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_does_not_end_the_program() {
    let home = tempfile::tempdir().unwrap();
    let model = tiny::write(home.path());
    let mut command = herd(home.path());
    command.args(["chat", "-m", model.to_str().unwrap(), "-n", "3"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"hello\n").unwrap();
    // An answer has begun: the handler is in place.
    let mut first = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    input.write_all(b"again\n").unwrap();
    drop(input);
    let (code, _, err) = {
        let output = child.wait_with_output().unwrap();
        told(std::process::Output { stdout: vec![], ..output })
    };
    assert_eq!((code, err.as_str()), (0, ""));
}

/// At a terminal, which `script` plays.
#[cfg(unix)]
#[test]
fn ctrl_c_at_a_terminal_stops_the_answer_and_not_the_program() {
    let home = tempfile::tempdir().unwrap();
    let model = tiny::write(home.path());
    let program = env!("CARGO_BIN_EXE_herd");
    // The end of turn is forbidden: the answer goes on until it is stopped.
    // The shell tells how the program left, and so has to outlive Ctrl-C, which reaches it too.
    let chat = format!("{program} chat -m {} --logit-bias 258=-inf", model.display());
    let line = format!("trap : INT; {chat}; echo left with $?.");
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).env("SHELL", "/bin/sh");
    command.env("HERD_HOME", home.path()).env("TERM", "xterm");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("this test needs util-linux's `script`");
    let mut keys = child.stdin.take().unwrap();
    let mut screen = Screen { output: child.stdout.take().unwrap(), seen: vec![] };
    screen.wait_for("> ");
    keys.write_all(b"hello\r").unwrap();
    screen.wait_for("hello");
    screen.wait_for_bytes(200);
    keys.write_all(b"\x03").unwrap();
    screen.wait_for("| stopped]");
    keys.write_all(b"/stats\r").unwrap();
    screen.wait_for("tokens/s");
    keys.write_all(b"/exit\r").unwrap();
    screen.wait_for("left with 0.");
    drop(keys);
    child.wait().unwrap();
}

/// What a terminal shows, read as far as the test has looked.
#[cfg(unix)]
struct Screen {
    output: std::process::ChildStdout,
    seen: Vec<u8>,
}

#[cfg(unix)]
impl Screen {
    fn wait_for(&mut self, text: &str) {
        while !self.seen.windows(text.len()).any(|w| w == text.as_bytes()) {
            let seen = String::from_utf8_lossy(&self.seen).into_owned();
            self.wait_for_bytes(1);
            assert!(self.seen.len() < 1 << 20, "no {text:?} in {seen:?}");
        }
        self.seen.clear();
    }

    fn wait_for_bytes(&mut self, count: usize) {
        let wanted = self.seen.len() + count;
        while self.seen.len() < wanted {
            let mut buffer = [0; 4096];
            let n = std::io::Read::read(&mut self.output, &mut buffer).unwrap();
            assert!(n > 0, "the program ended: {:?}", String::from_utf8_lossy(&self.seen));
            self.seen.extend_from_slice(&buffer[..n]);
        }
    }
}

#[test]
fn a_model_without_a_template_says_so() {
    let home = tempfile::tempdir().unwrap();
    let model = tiny::write_plain(home.path());
    let (code, _, err) = talk(home.path(), &model, &[], "hello\n");
    assert_eq!(code, 2);
    assert!(err.contains("--chat-template"), "{err}");
    let (code, _, err) = talk(home.path(), &model, &["--chat-template", "chatml"], "hello\n");
    assert_eq!(code, 0, "{err}");
}

#[test]
fn bench_refuses_what_measures_nothing_or_does_not_fit() {
    let home = tempfile::tempdir().unwrap();
    let model = tiny::write(home.path());
    let bench = |more: &[&str]| {
        let model = model.to_str().unwrap();
        let small = ["bench", "-m", model, "-p", "17", "-n", "3", "--no-limits", "-q"];
        run(home.path(), &[&small, more].concat())
    };
    for (flag, value) in [("-b", "0"), ("--sequences", "0"), ("-r", "0"), ("-d", "99999999999")] {
        let (code, out, err) = bench(&[flag, value]);
        assert_eq!((code, out.as_str()), (2, ""), "{flag} {value}");
        assert!(err.contains(value), "{err}");
    }
    let (code, _, err) = bench(&["-d", "16777216", "--sequences", "4096"]);
    assert_eq!(code, 2);
    assert!(err.contains("the memory of a test") && !err.contains("fault"), "{err}");
    let (code, out, err) = bench(&["--json", "--sequences", "2"]);
    assert_eq!((code, out.matches("tok_s_median").count()), (0, 2), "{err}");
}
