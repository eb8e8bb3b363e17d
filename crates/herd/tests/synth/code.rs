//! Programs: with tests and judges, translated, explained; and runs of them that are killed.

use super::*;

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
        let more = ["assert nothing", "no function", "ended with: time", "Too much was printed"];
        let known = [&known[..], &more].concat();
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
        _ if is("<chatty>") => python(&format!("{ADD}\nprint('x' * 20_000)")),
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
        "chatty",
    ];
    let texts = ways.map(|way| format!("a snippet <{way}>"));
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let folder = begin_synth(&texts, "[code]\nturns = 2\nseconds = 1\n");
    let folder = folder.path();
    let writer = Writer::new(programmer);
    let told = summary(command(folder, "code", &writer.url, "out", &[]));
    assert_eq!(told["told"], json!({ "passed_at_once": 1, "self_corrected": 11 }), "{told}");
    assert_eq!((told["items"].as_u64(), told["rows"].as_u64()), (Some(19), Some(12)));
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
        "long_output",
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
    assert_eq!(last["rows"], 12);
    let made = rows(&folder.join("last/rows.jsonl"));
    assert!(made.iter().all(|row| row["messages"].as_array().unwrap().len() == 2));
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
    let ways = ["same", "other", "syntax", "dies", "codeless", "flood", "garbled"];
    let mut texts: Vec<String> = ways.map(|way| format!("print(6 * 7) # <{way}>")).to_vec();
    let bytes = "import sys\nsys.stdout.buffer.write(b'42 \\xff')";
    texts.extend(["print(1 / 0)", "a = 1", "print('x' * 20_000)", bytes].map(str::to_owned));
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
            _ if is("<flood>") => code("echo 42; printf ' %.0s' {1..20000}; echo x"),
            _ if is("<garbled>") => code("printf '42\\377'"),
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
        ("run", "long_output"), // as far as it was kept it is the same
        ("run", "not_utf8"),
        ("source", "failed"),
        ("source", "silent"),
        ("source", "long_output"),
        ("source", "not_utf8"),
    ];
    assert_eq!(fallen(folder, "out"), pairs(&wanted));
    let err = fails(command(folder, "translate-code", &writer.url, "x", &["translate.to=python"]));
    assert!(err.contains("another language"), "{err}");
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

/// The programmer, who listens to a reviewer as well.
fn reviewed(prompt: &str, seed: u64) -> Reply {
    let is = |word: &str| prompt.contains(word);
    assert!(!is("Review the answer"), "the judge's: {prompt}");
    match prompt {
        _ if is("A reviewer says") && is("<never>") => says(python(ADD)),
        _ if is("A reviewer says") && is("<worse>") => {
            says(python("def add(a, b):\n    return a - b"))
        }
        _ if is("A reviewer says") => says(python(&format!("{ADD} # clear"))),
        _ if is("AssertionError") && is("<worse>") => says(python(&format!("{ADD} # clear"))),
        _ => programmer(prompt, seed),
    }
}

/// Who reviews programs, and nothing else.
fn reviewer(prompt: &str, _seed: u64) -> Reply {
    let is = |word: &str| prompt.contains(word);
    assert!(is("Review the answer") && is("assert add"), "{prompt}");
    let clear = is("# clear");
    says(match prompt {
        _ if is("<ugly>") && !clear => "No words.\n**Correctness:** 1\n**Style:** 0",
        _ if (is("<buggy>") || is("<worse>")) && !clear => "Overflows.\nCorrectness: 0\nStyle: 1",
        _ if is("<never>") => "Correctness: 0\nStyle: 0",
        _ if is("<unjudged>") => "It is fine.",
        _ => "Correctness: 1\nStyle: 1",
    })
}

#[test]
fn a_judge_of_its_own_gives_verdicts_and_programs_need_both_its_points() {
    let ways = ["right", "ugly", "buggy", "worse", "never", "unjudged", "wrong"];
    let texts = ways.map(|way| format!("a snippet <{way}>"));
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let folder = begin_synth(
        &texts,
        "[judge]\nmodel = \"strict\"\npause_ms = 1\n[code]\njudge = true\nturns = 2\n",
    );
    let folder = folder.path();
    let (writer, judge) = (Writer::new(reviewed), Writer::new(reviewer));
    let address = format!("judge.base_url={}", judge.url);
    let told = summary(command(folder, "code", &writer.url, "out", &[&address]));
    let wanted = json!({ "passed_at_once": 1, "self_corrected": 4, "judge_convinced": 3 });
    assert_eq!(told["told"], wanted, "{told}");
    let wanted = pairs(&[("judge", "correctness_and_style"), ("judge", "no_verdict")]);
    assert_eq!(fallen(folder, "out"), wanted);
    let failed =
        json!({ "style": 1, "correctness": 2, "correctness_and_style": 3, "no_verdict": 1 });
    assert_eq!(told["steps"]["judge"], json!({ "passed": 5, "failed": failed }), "{told}");
    // Rows know both; the log knows who answered what.
    let made = rows(&folder.join("out/rows.jsonl"));
    let sent_back = &made[1]["messages"];
    assert_eq!((&sent_back[1]["weight"], sent_back.as_array().unwrap().len()), (&json!(0), 4));
    assert!(sent_back[2]["content"].as_str().unwrap().contains("not good enough yet"));
    let provenance = &made[0]["provenance"];
    assert_eq!(
        (&provenance["writer_hash"], &provenance["judge_hash"]),
        (&json!("scripted"), &json!("strict"))
    );
    assert_eq!(provenance["judge"], format!("{} strict", judge.url));
    for entry in rows(&folder.join("out/rows.asked.jsonl")) {
        let wanted = &entry["wanted"];
        let Some(who) = wanted["writer"].as_str() else { continue };
        let url = if wanted["step"] == "judge" { &judge.url } else { &writer.url };
        assert!(who.starts_with(url.as_str()), "{wanted}");
    }
    // The judge is part of the settings: another cannot go on.
    let other = Writer::new(reviewer);
    let address = format!("judge.base_url={}", other.url);
    let err = fails(command(folder, "code", &writer.url, "out", &[&address]));
    assert!(err.contains("judge.base_url was"), "{err}");
    // Without one the writer judges itself.
    let both = Writer::new(|prompt, seed| match prompt.contains("Review the answer") {
        true => reviewer(prompt, seed),
        false => reviewed(prompt, seed),
    });
    fs::write(
        folder.join("synth.toml"),
        "input = [\"input.jsonl\"]\n[writer]\nmodel = \"scripted\"\n",
    )
    .unwrap();
    let alone =
        summary(command(folder, "code", &both.url, "alone", &["code.judge=true", "code.turns=2"]));
    assert_eq!(alone["told"], told["told"]);
}

#[test]
fn a_run_with_a_judge_that_is_killed_ends_with_the_bytes_of_one_that_was_not() {
    let texts = ["right", "ugly", "worse", "unjudged"].map(|way| format!("a snippet <{way}>"));
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let folder =
        begin_synth(&texts, "[judge]\nmodel = \"strict\"\npause_ms = 1\n[code]\njudge = true\n");
    let (writer, judge) = (Writer::new(reviewed), Writer::new(reviewer));
    let address = format!("judge.base_url={}", judge.url);
    expect_unbreakable(folder.path(), 8, |out| {
        command(folder.path(), "code", &writer.url, out, &[&address, "sample.parallel=2"])
    });
}
