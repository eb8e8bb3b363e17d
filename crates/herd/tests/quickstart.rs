//! `herd quickstart`: the whole way in seconds, the same every time, whatever ends it on the way.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

fn quickstart(out: &Path) -> Command {
    let mut herd = Command::new(env!("CARGO_BIN_EXE_herd"));
    herd.args(["quickstart", "--size", "smoke", "--quiet", "--out"]).arg(out);
    herd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    herd
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path.as_ref())
        .unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()))
}

#[test]
fn a_quickstart_that_is_killed_on_its_way_ends_with_the_hashes_of_one_that_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    let ended = quickstart(&whole).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    // Once in the midst of its shards, whose manifest is there before them.
    let mut run = quickstart(&killed).spawn().unwrap();
    while run.try_wait().unwrap().is_none() && !killed.join("shards/manifest.json").exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = run.kill();
    run.wait().unwrap();
    for ms in [300, 900, 1700, 2500] {
        let mut run = quickstart(&killed).args(["-t", "1"]).spawn().unwrap(); // changes no bit
        std::thread::sleep(Duration::from_millis(ms));
        let _ = run.kill(); // it may have ended
        run.wait().unwrap();
    }
    let end = || {
        let ended = quickstart(&killed).output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    };
    end();
    // Killed between a model and what is said of it.
    let told = ["extend/stage-1/verdict.json", "sft/report.md"];
    for file in told {
        std::fs::remove_file(killed.join(file)).unwrap();
    }
    for stage in std::fs::read_dir(killed.join("stages")).unwrap() {
        let stage = stage.unwrap().path();
        if ["-context.json", "-sft.json"].iter().any(|end| stage.to_string_lossy().ends_with(end)) {
            std::fs::remove_file(stage).unwrap();
        }
    }
    end();
    assert_eq!(read(whole.join(told[0])), read(killed.join(told[0])));
    assert!(killed.join(told[1]).exists());
    assert_eq!(read(whole.join("hashes.json")), read(killed.join("hashes.json")));
    expect_report(&whole);
    expect_talk(&whole);
}

const STAGES: [&str; 13] = [
    "tokenizer",
    "scaling",
    "pretrain",
    "context",
    "anneal",
    "sft",
    "reward",
    "sample",
    "best",
    "dpo",
    "average",
    "eval",
    "quantize",
];

/// The report tells of every stage, and of scores what their verb says.
fn expect_report(out: &Path) {
    let report = read(out.join("report.md"));
    for stage in STAGES {
        assert!(report.contains(&format!("| {stage} |")), "{stage} is missing in\n{report}");
    }
    // What it says of the score is what the verb says, and receipts are among what is the same.
    let compared = Command::new(env!("CARGO_BIN_EXE_herd"))
        .args(["eval", "compare", "--json"])
        .args(["sft", "average"].map(|of| out.join("eval").join(of)))
        .output()
        .expect("it runs");
    assert!(compared.status.success(), "{}", String::from_utf8_lossy(&compared.stderr));
    let compared: Value = serde_json::from_slice(&compared.stdout).expect("JSON");
    let [low, high] = [0, 1]
        .map(|end| compared["questions"]["difference"]["ci95"][end].as_f64().expect("an end"));
    assert!(report.contains(&format!("| {low:+.3} to {high:+.3} |")), "{compared}\n{report}");
    assert!(report.contains("- eval: exact_match of average, 95 % from "), "{report}");
    assert!(read(out.join("hashes.json")).contains("eval/average/samples/questions.jsonl"));
    // Before it learnt answers it was asked what it is asked then.
    let asked = |heading: &str| {
        let (_, behind) = report.split_once(&format!("\n{heading}:\n\n")).expect(heading);
        let lines = behind.lines().take_while(|line| !line.is_empty());
        let prompts = lines.map(|line| line.split_once(": `").expect(line).0.to_owned());
        prompts.collect::<Vec<_>>()
    };
    assert_eq!((asked("Before sft"), asked("After sft").len()), (asked("After sft"), 4));
    let page = read(out.join("report.html"));
    assert!(page.contains("<table>") && page.contains("<svg"));
}

/// What came of it talks.
fn expect_talk(out: &Path) {
    let model = out.join("model.gguf");
    let said = Command::new(env!("CARGO_BIN_EXE_herd"))
        .args(["complete", "-p", "The people", "-n", "4", "--temp", "0", "-m"])
        .arg(&model)
        .output()
        .expect("it runs");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}

#[test]
fn a_folder_of_another_size_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path()).unwrap();
    std::fs::write(folder.path().join("size"), "large").unwrap();
    let ended = quickstart(folder.path()).output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2));
    assert!(told.contains("--size") && told.contains("large"), "{told}");
}

#[test]
fn a_folder_that_no_quickstart_began_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let mine = folder.path().join("data/train.jsonl");
    std::fs::create_dir(folder.path().join("data")).unwrap();
    std::fs::write(&mine, "my own").unwrap();
    let ended = quickstart(folder.path()).output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2), "{told}");
    assert!(told.contains("holds \"data\"") && told.contains("hint: give --out"), "{told}");
    assert_eq!(read(&mine), "my own");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
