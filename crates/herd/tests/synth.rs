//! `herd synth`: every branch of every kind with a scripted writer; endpoints that misbehave; runs that are killed; and
//! rows that `herd sft` reads.

#![allow(clippy::unwrap_used)] // helpers of tests too

#[path = "common/script.rs"]
mod script;
#[path = "common/training.rs"]
mod training;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use script::{Reply, Writer, fails, rows, says, summary};
use serde_json::{Value, json};
use training::{SYNTH_SETTINGS, begin, done, expect_unbreakable, herd, pretrain};

/// `herd synth` of a kind, by an endpoint, into a folder.
fn command(folder: &Path, kind: &str, url: &str, out: &str, set: &[&str]) -> Command {
    let mut command = herd(folder);
    let out = format!("{out}/rows.jsonl");
    command.args(["synth", kind, "--config", "synth.toml", "--out", &out, "-t", "1"]);
    command.args(["--set", &format!("writer.base_url={url}")]);
    command.args(set.iter().flat_map(|set| ["--set", set]));
    command
}

/// A folder with settings and documents, one a text.
fn begin_synth(texts: &[&str], more: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let lines = texts.iter().map(|text| json!({ "text": text }).to_string());
    let lines = lines.collect::<Vec<_>>().join("\n");
    fs::write(folder.path().join("input.jsonl"), lines).unwrap();
    let settings = "input = [\"input.jsonl\"]\n[writer]\nmodel = \"scripted\"\npause_ms = 1\n";
    fs::write(folder.path().join("synth.toml"), format!("{settings}{more}")).unwrap();
    folder
}

/// Steps and reasons of the rows that fell.
fn fallen(folder: &Path, out: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let fallen = rows(&folder.join(out).join("rows.rejected.jsonl"));
    fallen.iter().map(|row| (text(&row["step"]), text(&row["reason"]))).collect()
}

fn pairs(told: &[(&str, &str)]) -> Vec<(String, String)> {
    told.iter().map(|(step, reason)| ((*step).to_owned(), (*reason).to_owned())).collect()
}

fn python(code: &str) -> String {
    format!("Here it is.\n```python\n{code}\n```\n")
}

const ADD: &str = "def add(a, b):\n    \"\"\"The sum.\"\"\"\n    return a + b";
const TESTS: &str = "assert add(1, 2) == 3\nassert add(-1, 1) == 0";

/// A programmer whose way of failing stands in the problem.
fn programmer(prompt: &str, _seed: u64) -> Reply {
    let is = |word: &str| prompt.contains(word);
    if is("Invent a small") {
        let word = prompt.split('<').nth(1).unwrap().split('>').next().unwrap();
        return match word {
            "silent" => says(" \n"),
            "endless" => Reply::CutOff("Write a function that".to_owned()),
            word => says(format!("Write add(a, b). Way: <{word}>")),
        };
    }
    if is("Say in a sentence what is at fault") {
        if is("<stubborn>") || is("<looping>") {
            return says(python("def add(a, b):\n    return a - b"));
        }
        if is("<mute>") {
            return says("I give up.");
        }
        if is("<badtests>") {
            assert!(is("AssertionError"), "{prompt}");
            return says(python(ADD) + &python(TESTS));
        }
        let known = ["'c' in line", "never closed", "no module", "without the solution", "exit 0"];
        let known = [&known[..], &["assert nothing", "no function", "ended with: time"]].concat();
        assert!(known.iter().any(|words| is(words)) || is("AssertionError"), "{prompt}");
        return says(
            python(ADD)
                + if is("<idle>") || is("<weak>") { "" } else { "Fixed." }
                + &if is("<idle>") || is("<weak>") { python(TESTS) } else { String::new() },
        );
    }
    if is("Write unit tests") {
        return says(match prompt {
            _ if is("<idle>") => python("assert 1 + 1 == 2"),
            _ if is("<weak>") => python("add(1, 2)"),
            _ if is("<badtests>") => python("assert add(1, 2) == 4"),
            _ if is("<untested>") => "No.".to_owned(),
            _ => python(TESTS),
        });
    }
    says(match prompt {
        _ if is("<wordy>") => "It is easy.".to_owned(),
        _ if is("<syntax>") => python("def add(a, b:\n    return a"),
        _ if is("<undefined>") => python("def add(a, b):\n    return a + c"),
        _ if is("<module>") => python(&format!("import nosuchthing\n{ADD}")),
        _ if is("<bare>") => python("a = 1"),
        _ if is("<early>") => python(&format!("import sys\n{ADD}\nsys.exit(0)")),
        _ if is("<slow>") => python("def add(a, b):\n    while True:\n        pass"),
        _ if is("<wrong>") || is("<stubborn>") || is("<mute>") => {
            python("def add(a, b):\n    return a - b")
        }
        _ if is("<looping>") => python("def add(a, b):\n    return a * b"),
        _ => python(ADD),
    })
}

/// What the rows of a programmer hold, and the log that they name.
fn check_rows_and_log(folder: &Path, told: &Value) {
    let made = rows(&folder.join("out/rows.jsonl"));
    let wrong = made.iter().find(|row| row.to_string().contains("<wrong>")).unwrap();
    let messages = wrong["messages"].as_array().unwrap();
    let weights: Vec<&Value> = messages.iter().map(|message| &message["weight"]).collect();
    assert_eq!(weights, [&Value::Null, &json!(0), &Value::Null, &Value::Null]);
    assert!(messages[2]["content"].as_str().unwrap().contains("AssertionError"));
    let provenance = &wrong["provenance"];
    assert_eq!((&provenance["kind"], &provenance["row"]), (&json!("code"), &json!(11)));
    assert_eq!(provenance["writer_hash"], "scripted");
    // Every entry that a row names stands in the log, and no other does.
    let log = rows(&folder.join("out/rows.asked.jsonl"));
    for id in provenance["entries"].as_array().unwrap() {
        assert!(log.iter().any(|entry| entry["id"] == *id));
    }
    assert_eq!(told["entries"].as_u64(), Some(log.len() as u64));
}

#[test]
fn programs_are_kept_when_they_pass_tests_that_fail_without_them() {
    let ways = [
        "right",
        "silent",
        "endless",
        "wordy",
        "syntax",
        "undefined",
        "module",
        "bare",
        "early",
        "slow",
        "wrong",
        "stubborn",
        "looping",
        "mute",
        "badtests",
        "idle",
        "weak",
        "untested",
    ];
    let texts = ways.map(|way| format!("a snippet <{way}>"));
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let folder = begin_synth(&texts, "[code]\nturns = 2\nseconds = 1\n");
    let folder = folder.path();
    let writer = Writer::new(programmer);
    let told = summary(command(folder, "code", &writer.url, "out", &[]));
    assert_eq!(told["told"], json!({ "passed_at_once": 1, "self_corrected": 10 }), "{told}");
    assert_eq!((told["items"].as_u64(), told["rows"].as_u64()), (Some(18), Some(11)));
    let wanted = pairs(&[
        ("problem", "empty"),
        ("problem", "cut_off"),
        ("solution", "no_code"),
        ("trial", "tests_failed"),
        ("trial", "tests_failed"),
        ("revise", "no_code"),
        ("tests", "no_code"),
    ]);
    assert_eq!(fallen(folder, "out"), wanted);
    let failed = told["steps"]["trial"]["failed"].as_object().unwrap();
    let reasons: Vec<&str> = failed.keys().map(String::as_str).collect();
    let wanted = [
        "ended_early",
        "module",
        "no_assert",
        "nothing_defined",
        "syntax",
        "tests_failed",
        "tests_idle",
        "time",
        "undefined",
    ];
    assert_eq!(reasons, wanted, "{told}");
    check_rows_and_log(folder, &told);
    // Again: nothing is asked, and the bytes are the same; another order of work changes none.
    let before = training::files(&folder.join("out"));
    writer.requests();
    summary(command(folder, "code", &writer.url, "out", &["sample.parallel=1"]));
    assert_eq!(writer.requests().len(), 0);
    assert!(training::files(&folder.join("out")) == before);
    let last = summary(command(folder, "code", &writer.url, "last", &["code.keep=final"]));
    assert_eq!(last["rows"], 11);
    let made = rows(&folder.join("last/rows.jsonl"));
    assert!(made.iter().all(|row| row["messages"].as_array().unwrap().len() == 2));
}

/// A pupil whose answers depend on the problem and on the seed.
fn pupil(prompt: &str, _seed: u64) -> Reply {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let is = |word: &str| prompt.contains(word);
    if is("Is every step of this solution valid") {
        return says(match prompt {
            _ if is("doubtful") => "Verdict: no",
            _ if is("unsure") => "Who knows?",
            _ => "All is well.\nVerdict: yes",
        });
    }
    if is("Find the first mistake") {
        return says(if is("lost") { "#### 1" } else { "I added wrongly. 3 + 4 = 7.\n#### 7" });
    }
    match prompt {
        _ if is("varied") => {
            let turn = TURN.fetch_add(1, Ordering::Relaxed);
            says(format!("Way {turn}: 3 + 4 = 7.\n#### 7"))
        }
        _ if is("misstep") => says("3 + 5 = 9, and so it is\n#### 7"),
        _ if is("wrong") || is("lost") => says("3 + 4 = 8\n#### 8"),
        _ if is("blank") => says("I do not know."),
        _ if is("cut") => Reply::CutOff("3 + 4 = 7\n#### 7".to_owned()),
        _ if is("unsure") => says("unsure: 3 + 4 = 7\n#### 7"),
        _ if is("doubtful") => says("doubtful: 3 + 4 = 7\n#### 7"),
        _ => says("3 + 4 = 7\n#### 7"),
    }
}

#[test]
fn solutions_are_kept_by_answer_steps_and_a_second_look() {
    let folder = begin_synth(&[], "[maths]\nk = [2, 2]\nkeep = 1\nmistakes = 1\n");
    let folder = folder.path();
    let ways =
        ["plain", "varied", "misstep", "wrong", "lost", "blank", "cut", "unsure", "doubtful"];
    let mut lines: Vec<String> = ways
        .map(|way| {
            json!({ "prompt": format!("A {way} sum: 3 + 4?"), "answer": "#### 7" }).to_string()
        })
        .to_vec();
    lines.push(json!({ "prompt": "Why?", "answer": "because" }).to_string());
    fs::write(folder.join("input.jsonl"), lines.join("\n")).unwrap();
    let writer = Writer::new(pupil);
    let told = summary(command(folder, "maths", &writer.url, "out", &[]));
    let steps = &told["steps"];
    assert_eq!(told["told"], json!({ "corrected": 1 }), "{told}");
    assert_eq!(told["rows"], 3, "{told}"); // plain, varied, and one that was wrong
    let failed = json!({ "answer": 4, "cut_off": 2, "duplicate": 3, "no_answer": 2, "step": 2 });
    assert_eq!(steps["solve"]["failed"], failed, "{told}");
    assert_eq!(steps["verify"]["failed"], json!({ "no": 1, "no_verdict": 1 }), "{told}");
    assert_eq!(steps["correct"], json!({ "passed": 1, "failed": { "answer": 1 } }));
    assert_eq!(steps["keep"]["failed"], json!({ "enough": 1 }));
    assert_eq!(steps["problem"]["failed"], json!({ "no_number": 1 }));
    let made = rows(&folder.join("out/rows.jsonl"));
    assert_eq!(made[2]["messages"].as_array().unwrap().len(), 4);
    assert_eq!(made[2]["messages"][1]["weight"], 0);
}

#[test]
fn what_is_known_is_learnt_and_what_is_always_wrong_is_refused() {
    let ways = ["known", "unknown", "mixed", "evasive", "shy", "pointless", "unjudged", "mute"];
    let texts = ways.map(|way| format!("The <{way}> town lies on the river Alm."));
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let folder = begin_synth(&texts, "[probe]\nk = 4\nright_min = 0.6\n");
    let folder = folder.path();
    let writer = Writer::new(|prompt: &str, seed: u64| {
        let is = |word: &str| prompt.contains(word);
        let yes = |yes: bool| says(if yes { "Verdict: yes" } else { "Verdict: no" });
        if is("Write one factual question") {
            let word = prompt.split('<').nth(1).unwrap().split('>').next().unwrap();
            let mark = if word == "pointless" { "." } else { "?" };
            return says(format!("Where does the <{word}> town lie{mark}"));
        }
        if is("is the answer right?") {
            return match prompt {
                _ if is("<unjudged>") => says("Hm."),
                _ if is("<mixed>") => yes(prompt.contains("half 0")),
                _ => yes(is("<known>") || is("<shy>")),
            };
        }
        if is("say something definite") {
            return yes(!is("<evasive>") && !is("<shy>"));
        }
        if is("You do not know the answer") {
            return says("I do not know where it lies.");
        }
        if is("<mute>") { says("") } else { says(format!("On the Alm, half {}.", seed % 2)) }
    });
    let told = summary(command(folder, "probe", &writer.url, "out", &[]));
    assert_eq!(told["told"], json!({ "known": 1, "refused": 1 }), "{told}");
    let failed = json!({ "mixed": 1, "no_answers": 2, "uninformative": 2 });
    assert_eq!(told["steps"]["probe"]["failed"], failed, "{told}");
    assert_eq!(told["steps"]["question"]["failed"], json!({ "no_question": 1 }));
    assert_eq!(told["steps"]["answer"]["failed"], json!({ "empty": 4 }));
    assert_eq!(told["steps"]["judge"]["failed"], json!({ "no_verdict": 4 }));
    let made = rows(&folder.join("out/rows.jsonl"));
    assert!(made[0]["messages"][1]["content"].as_str().unwrap().contains("On the Alm"));
    assert_eq!(made[1]["messages"][1]["content"], "I do not know where it lies.");
    assert_eq!(made[1]["probe"], json!({ "right": 0.0, "informative": 1.0, "answers": 4 }));
    // Answers are given without the text that they are judged by.
    let log = rows(&folder.join("out/rows.asked.jsonl"));
    let answers = log.iter().filter(|entry| entry["wanted"]["step"] == "answer");
    assert!(
        answers.clone().count() > 5 && !answers.clone().any(|a| a.to_string().contains("river"))
    );
}

#[test]
fn long_documents_are_asked_about_chunk_by_chunk_and_summarised_level_by_level() {
    let trained = begin();
    let long = "A line about the river and its mills.\n".repeat(60);
    let ways = ["good", "wrong", "shapeless", "wordless"];
    let texts = ways.map(|way| long.replacen("line", &format!("line <{way}>"), 60));
    let texts: Vec<&str> = texts.iter().map(String::as_str).chain(["Too short."]).collect();
    let settings = "[long_qa]\nchunk_tokens = 300\ndocument_tokens = [500, 100000]\nquestions = 2\n\
                    summary = true\nglobal_questions = 1\n";
    let folder = begin_synth(&texts, settings);
    let folder = folder.path();
    let words = trained.path().join("words");
    let tokenizer = format!("long_qa.tokenizer={}", words.display());
    let writer = Writer::new(|prompt: &str, _| {
        let is = |word: &str| prompt.contains(word);
        let both = "Question: What does the river drive?\nAnswer: Its mills.";
        match prompt {
            _ if is("Judged by the text alone") => {
                says(if is("<wrong>") { "Verdict: no" } else { "Verdict: yes" })
            }
            _ if is("Write one question that this text") => {
                says(if is("<shapeless>") { "What?" } else { both })
            }
            _ if is("Summarise this part") && is("<wordless>") => says(""),
            _ if is("Summarise this part") && is("<") => says("short ".repeat(15)),
            _ if is("Summarise this part") => says("A part."),
            _ if is("Write one summary of the whole") => says("Rivers and mills."),
            _ if is("only someone who knows") => says("Question: Whose?\nAnswer: Everybody's."),
            _ => panic!("{prompt}"),
        }
    });
    let err = fails(command(folder, "long-qa", &writer.url, "none", &[]));
    assert!(err.contains("long_qa.tokenizer"), "{err}");
    let told = summary(command(folder, "long-qa", &writer.url, "out", &[&tokenizer]));
    let steps = &told["steps"];
    assert_eq!(steps["document"], json!({ "passed": 4, "failed": { "short": 1 } }), "{told}");
    assert_eq!(steps["qa"], json!({ "passed": 6, "failed": { "no_pair": 2 } }), "{told}");
    assert_eq!(steps["check"], json!({ "passed": 4, "failed": { "no": 2 } }), "{told}");
    assert_eq!(steps["summarise"]["failed"], json!({ "empty": 1 }), "{told}");
    assert_eq!((&steps["join"]["passed"], &steps["global_qa"]["passed"]), (&json!(3), &json!(3)));
    let made = rows(&folder.join("out/rows.jsonl"));
    let first = made[0]["messages"][0]["content"].as_str().unwrap();
    assert!(first.contains(long.lines().next_back().unwrap().split(' ').next_back().unwrap()));
    assert!(first.ends_with("What does the river drive?") && first.matches('\n').count() > 58);
    assert!(made.iter().any(|row| row["messages"][1]["content"] == "Rivers and mills."));
    // Two questions of one document from one chunk each say the same here: a row once.
    assert_eq!(told["steps"]["row"]["failed"]["duplicate"], 2, "{told}");
}

#[test]
fn trajectories_make_their_calls_and_use_what_comes_back() {
    let ways = ["one", "two", "eager", "mute", "broken", "silent", "deaf", "tireless", "badterm"];
    let texts = ways.map(|way| format!("a snippet <{way}>"));
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let folder = begin_synth(&texts, "[tools]\ncalls = [1, 2]\n");
    let folder = folder.path();
    let writer = Writer::new(|prompt: &str, _| {
        let is = |word: &str| prompt.contains(word);
        let outputs = prompt.matches("Output:").count();
        match prompt {
            _ if is("Invent a question") => {
                let word = prompt.split('<').nth(1).unwrap().split('>').next().unwrap();
                says(format!("What is 6 times 7, <{word}>?"))
            }
            _ if is("<eager>") => says("Answer: 42"),
            _ if is("<mute>") => says("Let me think."),
            _ if is("<broken>") => says(python("print(1 / 0)")),
            _ if is("<silent>") => says(python("a = 6 * 7")),
            _ if is("<badterm>") => says("Calculator: six times seven"),
            _ if is("<tireless>") => says("Calculator: 6 * 7"),
            _ if is("<two>") && outputs == 0 => says("First:\nCalculator: 3 * 7"),
            _ if is("<two>") && outputs == 1 => says(python("print(21 * 2)")),
            _ if outputs == 0 => says(python("print(6 * 7)")),
            _ if is("<deaf>") => says("Answer: It is 41."),
            _ => says("Answer: It is 42."),
        }
    });
    let told = summary(command(folder, "tools", &writer.url, "out", &[]));
    assert_eq!(told["told"], json!({ "multi_step": 1, "single_step": 1 }), "{told}");
    let wanted = pairs(&[
        ("act", "too_few_calls"),
        ("act", "no_call"),
        ("call", "failed"),
        ("call", "no_output"),
        ("answer", "ignores_output"),
        ("act", "too_many_calls"),
        ("call", "failed"),
    ]);
    assert_eq!(fallen(folder, "out"), wanted);
    let made = rows(&folder.join("out/rows.jsonl"));
    let roles: Vec<&str> = made[1]["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["system", "user", "assistant", "tool", "assistant", "tool", "assistant"]);
    assert_eq!(made[1]["messages"][3]["content"], "21");
    assert_eq!(made[0]["messages"][0]["content"], "Environment: ipython");
    // Llama 3.1 has a form for all of it.
    let trained = begin();
    done(&mut pretrain(trained.path(), "base", &[]));
    let mut preview = herd(trained.path());
    preview.args([
        "preview",
        "-m",
        "base/checkpoints/step-12",
        "--chat-template",
        "llama3.1",
        "-i",
    ]);
    let preview = preview.arg(folder.join("out/rows.jsonl")).stdout(Stdio::piped());
    let output = preview.output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{err}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("<|eom_id|>"));
}

#[test]
fn explanations_are_kept_if_code_can_be_made_from_them_again() {
    let ways = ["clear", "quoting", "vague", "codeless", "unmarked"];
    let texts = ways.map(|way| format!("print(1) # <{way}>"));
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let folder = begin_synth(&texts, "[backtranslate]\nk = 2\n");
    let folder = folder.path();
    let writer = Writer::new(|prompt: &str, seed: u64| {
        let is = |word: &str| prompt.contains(word);
        match prompt {
            _ if is("Explain what this code does, so") => {
                let word = prompt.split('<').nth(1).unwrap().split('>').next().unwrap();
                let quote = if word == "quoting" { "\n```\nprint(1)\n```" } else { "" };
                says(format!("A <{word}> program that prints one.{quote}"))
            }
            _ if is("How faithful") && is("<unmarked>") => says("Very."),
            _ if is("How faithful") && is("<vague>") => says("Score: 3"),
            _ if is("How faithful") => says(if is("even") { "Score: 5" } else { "Score: 4" }),
            _ if is("<codeless>") => says("print(1)"),
            _ => {
                let kind = if seed.is_multiple_of(2) { "even" } else { "odd" };
                says(python(&format!("print(1) # {kind}")))
            }
        }
    });
    let told = summary(command(folder, "backtranslate", &writer.url, "out", &[]));
    assert_eq!(told["told"], json!({ "explanations": 1, "generations": 1 }), "{told}");
    let wanted = [
        ("explain", "quotes_code"),
        ("fidelity", "low"),
        ("fidelity", "low"),
        ("create", "no_code"),
        ("create", "no_code"),
        ("fidelity", "no_verdict"),
        ("fidelity", "no_verdict"),
    ];
    assert_eq!(fallen(folder, "out"), pairs(&wanted));
    let made = rows(&folder.join("out/rows.jsonl"));
    assert_eq!((made.len(), &made[0]["fidelity"]), (2, &json!(5)));
    assert!(made[1]["messages"][1]["content"].as_str().unwrap().contains("even"));
}

#[test]
fn translations_are_kept_if_they_print_the_same() {
    let ways = ["same", "other", "syntax", "dies", "codeless"];
    let mut texts: Vec<String> = ways.map(|way| format!("print(6 * 7) # <{way}>")).to_vec();
    texts.extend(["print(1 / 0)", "a = 1"].map(str::to_owned));
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let folder = begin_synth(&texts, "[translate]\nto = \"bash\"\n");
    let folder = folder.path();
    let writer = Writer::new(|prompt: &str, _| {
        let is = |word: &str| prompt.contains(word);
        let code = |code: &str| says(format!("```bash\n{code}\n```"));
        match prompt {
            _ if is("<other>") => code("echo 41"),
            _ if is("<syntax>") => code("if then"),
            _ if is("<dies>") => code("echo 42; exit 3"),
            _ if is("<codeless>") => says("echo 42"),
            _ => code("echo $((6 * 7))"),
        }
    });
    let told = summary(command(folder, "translate-code", &writer.url, "out", &[]));
    assert_eq!(told["rows"], 1, "{told}");
    let wanted = [
        ("run", "other_output"),
        ("parse", "syntax"),
        ("run", "failed"),
        ("translate", "no_code"),
        ("source", "failed"),
        ("source", "silent"),
    ];
    assert_eq!(fallen(folder, "out"), pairs(&wanted));
    let err = fails(command(folder, "translate-code", &writer.url, "x", &["translate.to=python"]));
    assert!(err.contains("another language"), "{err}");
}

#[test]
fn an_endpoint_that_misbehaves_is_asked_again_or_named() {
    let folder = begin_synth(&[], "");
    let folder = folder.path();
    let row = json!({ "prompt": "3 + 4?", "answer": 7 }).to_string();
    fs::write(folder.join("input.jsonl"), row).unwrap();
    let once = ["maths.k=[1, 1]", "maths.verify=false"];
    let good = || says("3 + 4 = 7\n#### 7");
    // It comes to its senses at the fourth attempt.
    for (name, bad) in [("broken", 0), ("busy", 1), ("closed", 2), ("empty", 3)] {
        let attempts = AtomicUsize::new(0);
        let writer = Writer::new(move |_, _| match attempts.fetch_add(1, Ordering::Relaxed) {
            0..3 => match bad {
                0 => Reply::Raw(200, "{\"choices\": [".to_owned()),
                1 => Reply::Raw(503, "later".to_owned()),
                2 => Reply::Closes,
                _ => Reply::Raw(200, "{\"choices\": []}".to_owned()),
            },
            _ => says("3 + 4 = 7\n#### 7"),
        });
        let told = summary(command(folder, "maths", &writer.url, name, &once));
        assert_eq!((told["rows"].as_u64(), writer.requests().len()), (Some(1), 4), "{name}");
    }
    // It does not; the words of its refusal are told, on one line.
    type Make = fn() -> Reply;
    let ways: [(&str, Make, &str, usize); 5] = [
        ("key", || Reply::Raw(401, "no\n\u{1b}[2Jkey".to_owned()), "status 401: no", 1),
        ("moved", || Reply::Raw(302, String::new()), "status 302", 1),
        ("junk", || Reply::Raw(200, "<html>".to_owned()), "no answer: <html>", 3),
        ("flood", || Reply::Floods, "more than 65536 bytes", 1),
        ("hang", || Reply::Hangs, "the writer at", 3),
    ];
    for (name, make, wanted, attempts) in ways {
        let writer = Writer::new(move |_, _| make());
        let patience = ["writer.attempts=3", "writer.seconds=1", "writer.bytes_max=65536"];
        let set = [&once[..], &patience[..]].concat();
        let err = fails(command(folder, "maths", &writer.url, name, &set));
        assert!(err.contains(wanted) && !err.contains('\u{1b}'), "{name}: {err}");
        assert!(err.contains("hint: run this again"), "{err}");
        assert_eq!(writer.requests().len(), attempts, "{name}");
        // With more patience, or another address, the same file goes on.
        let kind = Writer::new(move |_, _| says("3 + 4 = 7\n#### 7"));
        let err = fails(command(folder, "maths", &kind.url, name, &once));
        assert!(err.contains("writer.base_url was"), "{err}");
    }
    let writer = Writer::new(move |_, _| {
        Reply::Raw(400, "{\"error\": {\"code\": \"context_length_exceeded\"}}".to_owned())
    });
    let told = summary(command(folder, "maths", &writer.url, "long", &once));
    assert_eq!(told["steps"]["solve"]["failed"], json!({ "too_long": 1 }));
    // A key comes from the variable that the settings name.
    let writer = Writer::new(move |_, _| good());
    let key = [&once[..], &["writer.key_env=SCRIPT_KEY"]].concat();
    let err = fails(command(folder, "maths", &writer.url, "keyless", &key));
    assert!(err.contains("SCRIPT_KEY"), "{err}");
    let mut keyed = command(folder, "maths", &writer.url, "keyed", &key);
    done(keyed.env("SCRIPT_KEY", "secret"));
    let (path, body) = writer.requests().remove(0);
    assert_eq!(
        (path.as_str(), &body["key"]),
        ("/v1/chat/completions", &json!("authorization: Bearer secret"))
    );
    let kept = fs::read_dir(folder.join("keyed")).unwrap();
    for file in kept.map(|entry| entry.unwrap().path()) {
        assert!(!fs::read_to_string(file).unwrap().contains("secret"));
    }
    let mut offline = command(folder, "maths", &writer.url, "offline", &once);
    offline.arg("--offline");
    assert!(fails(offline).contains("--offline forbids"));
}

#[test]
fn settings_that_are_wrong_are_named() {
    let folder = begin_synth(&["one"], "");
    let folder = folder.path();
    let writer = Writer::new(|_, _| says("?"));
    for (kind, set, told) in [
        ("code", "code.turn=1", "did you mean code.turns?"),
        ("code", "maths.k=[1, 2]", "no key `maths`"),
        ("code", "prompts.problm=x", "did you mean prompts.problem?"),
        ("code", "prompts.problem={{ snipet }}", "did you mean snippet?"),
        ("code", "prompts.problem={% for %}", "no prompt `problem`"),
        ("code", "code.seconds=0", "code.seconds"),
        ("maths", "maths.k=[3, 2]", "maths.k"),
        ("probe", "probe.refuse_max=0.9", "probe.refuse_max"),
        ("probe", "sample.max_tokens=4096", "sample.max_tokens"),
        ("probe", "writer.base_url=ftp://x", "writer.base_url"),
        ("probe", "input=[]", "input"),
        ("probe", "input=[\"nowhere.jsonl\"]", "nowhere.jsonl"),
        ("probe", "field=body", "no field \"body\""),
    ] {
        let err = fails(command(folder, kind, &writer.url, "out", &[set]));
        assert!(err.contains(told), "{set}: {err}");
        let _ = fs::remove_dir_all(folder.join("out"));
    }
    let mut wrong = herd(folder);
    wrong.args(["synth", "coed", "--config", "synth.toml", "--out", "o/rows.jsonl"]);
    assert!(fails(wrong).contains("'code'"));
    done(&mut command(folder, "probe", &writer.url, "out", &[]));
    let err = fails(command(folder, "probe", &writer.url, "out", &["probe.k=9"]));
    assert!(err.contains("probe.k was 4, is 9"), "{err}");
    let err = fails(command(folder, "code", &writer.url, "out", &[]));
    assert!(err.contains("was begun with another config"), "{err}");
}

#[test]
fn a_run_that_is_killed_ends_with_the_bytes_of_one_that_was_not() {
    let ways = ["right", "wrong", "stubborn", "syntax", "idle", "mute"];
    let texts = ways.map(|way| format!("a snippet <{way}>"));
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let folder = begin_synth(&texts, "copies = 2\n");
    let settings = fs::read_to_string(folder.path().join("synth.toml")).unwrap();
    let settings = format!("copies = 2\n{}", settings.replace("copies = 2\n", ""));
    fs::write(folder.path().join("synth.toml"), settings).unwrap();
    let writer = Writer::new(programmer);
    let set = ["code.turns=1", "sample.parallel=3"];
    expect_unbreakable(folder.path(), 12, |out| {
        command(folder.path(), "code", &writer.url, out, &set)
    });
}

#[test]
fn a_checkpoint_writes_the_same_bytes_killed_or_not_and_sft_reads_rows() {
    let folder = begin();
    let folder = folder.path();
    done(&mut pretrain(folder, "base", &[]));
    fs::write(folder.join("synth.toml"), SYNTH_SETTINGS).unwrap();
    let run = |out: &str, set: &[&str]| {
        let mut command = herd(folder);
        let out = format!("{out}/rows.jsonl");
        command.args(["synth", "maths", "--config", "synth.toml", "--out", &out, "-t", "1"]);
        command.args(set.iter().flat_map(|set| ["--set", set]));
        command
    };
    expect_unbreakable(folder, 8, |out| run(out, &[]));
    let whole = training::files(&folder.join("whole"));
    done(&mut run("one", &["sample.parallel=1"]));
    assert!(training::files(&folder.join("one")) == whole);
    let said = rows(&folder.join("whole/rows.asked.jsonl"));
    assert!(said.len() > 10 && said.iter().any(|entry| entry["got"][0]["text"] != ""));
    // Rows of a scripted writer are what `sft` learns from.
    let writer = Writer::new(pupil);
    let mut command = run("scripted", &["maths.mistakes=1"]);
    let base_url = format!("writer.base_url={}", writer.url);
    done(command.args(["--set", &base_url, "--set", "maths.steps=true"]));
    let args = ["preview", "-m", "base/checkpoints/step-12", "--chat-template", "llama3", "-i"];
    done(herd(folder).args(args).arg("scripted/rows.jsonl"));
}
