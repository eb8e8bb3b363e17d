//! Solutions, and the steps in them.

use super::*;

/// A pupil whose answers depend on the problem and on the seed.
fn pupil(prompt: &str, _seed: u64) -> Reply {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let is = |word: &str| prompt.contains(word);
    if is("Is every step of this solution valid") {
        return says(match prompt {
            _ if is("doubtful") || is("grudging") => "Verdict: no",
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
        _ if is("wrong") || is("lost") || is("grudging") => says("3 + 4 = 8\n#### 8"),
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
    let row = |way: &str| {
        json!({ "prompt": format!("A {way} sum: 3 + 4?"), "answer": "#### 7" }).to_string()
    };
    let mut lines: Vec<String> = ways.into_iter().chain(["grudging"]).map(row).collect();
    lines.push(json!({ "prompt": "Why?", "answer": "because" }).to_string());
    fs::write(folder.join("input.jsonl"), lines.join("\n")).unwrap();
    let writer = Writer::new(pupil);
    let told = summary(command(folder, "maths", &writer.url, "out", &[]));
    let steps = &told["steps"];
    assert_eq!(told["told"], json!({ "corrected": 1 }), "{told}");
    assert_eq!(told["rows"], 3, "{told}"); // plain, varied, and one that was wrong
    let failed = json!({ "answer": 6, "cut_off": 2, "duplicate": 3, "no_answer": 2, "step": 2 });
    assert_eq!(steps["solve"]["failed"], failed, "{told}");
    assert_eq!(steps["verify"]["failed"], json!({ "no": 2, "no_verdict": 1 }), "{told}");
    // A correction is looked at as any other solution.
    assert_eq!(steps["correct"], json!({ "passed": 2, "failed": { "answer": 1 } }));
    assert_eq!(steps["keep"]["failed"], json!({ "enough": 1 }));
    assert_eq!(steps["problem"]["failed"], json!({ "no_number": 1 }));
    let made = rows(&folder.join("out/rows.jsonl"));
    assert_eq!(made[2]["messages"].as_array().unwrap().len(), 4);
    assert_eq!(made[2]["messages"][1]["weight"], 0);
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
    // A checkpoint may judge what an endpoint writes.
    let judge = ["judge.model=base/checkpoints/step-12", "prompts.verify={{ solution }}"];
    let mut judged = run("judged", &[&judge[..], &["maths.verify=true"]].concat());
    judged.args(["--set", &base_url]);
    summary(judged);
    let log = rows(&folder.join("judged/rows.asked.jsonl"));
    for entry in &log {
        let wanted = &entry["wanted"];
        let local = wanted["writer"].as_str().unwrap().starts_with("base/checkpoints");
        assert_eq!(local, wanted["step"] == "verify", "{wanted}");
    }
    let words =
        |entry: &Value| entry["wanted"]["step"] == "verify" && entry["got"][0]["text"] != "";
    assert!(log.iter().any(words));
    let args = ["preview", "-m", "base/checkpoints/step-12", "--chat-template", "llama3", "-i"];
    done(herd(folder).args(args).arg("scripted/rows.jsonl"));
}

/// A pupil whose second step may lead astray.
fn stepper(prompt: &str, seed: u64) -> Reply {
    let is = |word: &str| prompt.contains(word);
    if is("Is this step right") {
        let last = prompt.split("The next step:").nth(1).unwrap();
        return says(if last.contains("* 2 = 15") { "Verdict: no" } else { "Verdict: yes" });
    }
    if is("Go on from there") {
        // From a wrong step half of those that go on find back; from a lost one none.
        let right = match prompt {
            _ if is("<lost>") => false,
            _ if is("* 2 = 15") => seed.is_multiple_of(2),
            _ => true,
        };
        return says(if right { "so\n#### 14" } else { "so\n#### 15" });
    }
    match prompt {
        _ if is("<blank>") => says("I do not know."),
        _ if is("<long>") => says("1\n2\n3\n4\n5\n#### 14"),
        _ if is("<lucky>") => says("3 + 4 = 7\n7 * 2 = 15\nno, it is less\n#### 14"),
        _ if is("<lost>") => says("3 + 4 = 8\n8 * 2 = 16\n#### 16"),
        _ => says("3 + 4 = 7\n7 * 2 = 14\n#### 14"),
    }
}

#[test]
fn steps_are_labelled_by_where_they_lead() {
    let folder =
        begin_synth(&[], "[steps]\nk = 2\nrollouts = 4\nsteps_max = 4\nleast_min = 0.75\n");
    let folder = folder.path();
    let ways = ["plain", "lucky", "lost", "blank", "long"];
    let rows_of = |way: &str| {
        json!({ "prompt": format!("A <{way}> sum: twice 3 + 4?"), "answer": 14 }).to_string()
    };
    fs::write(folder.join("input.jsonl"), ways.map(rows_of).join("\n")).unwrap();
    let writer = Writer::new(stepper);
    let told = summary(command(folder, "maths-steps", &writer.url, "out", &[]));
    let failed = json!({ "duplicate": 3, "no_answer": 2, "long": 2 });
    assert_eq!(told["steps"]["solve"], json!({ "passed": 3, "failed": failed }), "{told}");
    assert_eq!(told["steps"]["keep"]["failed"], json!({ "answer": 1, "step": 1 }), "{told}");
    let made = rows(&folder.join("out/rows.jsonl"));
    let label = |way: &str, step: u64| {
        let row = made.iter().find(|row| row.to_string().contains(way) && row["step"] == step);
        let row = row.unwrap();
        (row["share"].as_f64().unwrap(), row["messages"][1]["content"].as_str().unwrap())
    };
    assert_eq!(label("<plain>", 1), (1.0, "Verdict: yes"));
    assert_eq!(label("<plain>", 2), (1.0, "Verdict: yes"));
    assert_eq!(label("<lucky>", 2), (0.5, "Verdict: yes")); // some find back
    assert_eq!(label("<lost>", 1), (0.0, "Verdict: no"));
    assert_eq!(label("<lost>", 2), (0.0, "Verdict: no"));
    assert_eq!(
        told["told"],
        json!({ "right_steps": 5, "wrong_steps": 2, "solutions": 1 }),
        "{told}"
    );
    assert_eq!(made[2]["shares"], json!([1.0, 1.0]));
    // With a bar for steps, one that half of the completions leave is wrong.
    let strict = summary(command(
        folder,
        "maths-steps",
        &writer.url,
        "strict",
        &["steps.right_min=0.6", "steps.solutions=false"],
    ));
    assert_eq!(strict["told"], json!({ "right_steps": 4, "wrong_steps": 3 }), "{strict}");
    // A stepwise judge is asked in the words that it learnt from.
    let set = ["maths.k=[1, 1]", "maths.steps=false", "maths.verify=false", "maths.stepwise=true"];
    fs::write(
        folder.join("synth.toml"),
        "input = [\"input.jsonl\"]\n[writer]\nmodel = \"scripted\"\n",
    )
    .unwrap();
    writer.requests();
    let judged = summary(command(folder, "maths", &writer.url, "maths", &set));
    assert_eq!(
        judged["steps"]["stepwise"],
        json!({ "passed": 2, "failed": { "no": 1 } }),
        "{judged}"
    );
    let learnt = &made[0]["messages"][0]["content"];
    let asked = |(_, body): &(String, Value)| body["messages"][0]["content"] == *learnt;
    assert!(writer.requests().iter().any(asked), "{learnt}");
}

/// A pupil who fails at once, and step by step as the dice fall.
fn climber(prompt: &str, seed: u64) -> Reply {
    let is = |word: &str| prompt.contains(word);
    if is("Is this step right") {
        let last = prompt.split("The next step:").nth(1).unwrap();
        return says(match prompt {
            _ if is("<mute>") => "Hm.",
            _ if last.contains("= 8") || is("<harsh>") => "Verdict: no",
            _ => "Verdict: yes",
        });
    }
    if is("Solve this step by step") {
        return says(if is("<easy>") { "3 + 4 = 7\n#### 14" } else { "#### 13" });
    }
    let (so_far, dice) = (prompt.split("The solution so far:").nth(1).unwrap(), seed % 3);
    let has = |words: &str| so_far.contains(words);
    if has("7 * 2 = 14") && dice == 0 {
        return Reply::CutOff("#### 14\nand then I went on".to_owned());
    }
    says(match prompt {
        _ if is("<hopeless>") && has("(nothing)") => "3 + 4 = 8",
        _ if is("<hopeless>") => "#### 16",
        _ if has("(nothing)") => ["", "3 + 4 = 8", "3 + 4 = 7\nand more"][dice as usize],
        _ if has("= 8") => "#### 16",
        _ if has("7 * 2 = 14") => "#### 14",
        _ => ["7 * 2 = 14", "7 * 2 = 15 = 8", "#### 7"][dice as usize],
    })
}

#[test]
fn hard_problems_are_searched_step_by_step() {
    let folder = begin_synth(&[], "[search]\nk = 3\ntries = 2\nexpansions = 12\n");
    let folder = folder.path();
    let ways = ["found", "easy", "hopeless", "mute", "harsh"];
    let row = |way: &str| {
        json!({ "prompt": format!("A <{way}> sum: twice 3 + 4?"), "answer": "14" }).to_string()
    };
    fs::write(folder.join("input.jsonl"), ways.map(row).join("\n")).unwrap();
    let writer = Writer::new(climber);
    let told = summary(command(folder, "maths-search", &writer.url, "out", &[]));
    assert_eq!((&told["told"], &told["rows"]), (&json!({ "found": 1 }), &json!(1)), "{told}");
    let steps = &told["steps"];
    assert_eq!(steps["problem"], json!({ "passed": 4, "failed": { "easy": 1 } }), "{told}");
    assert_eq!(steps["search"]["failed"], json!({ "not_found": 3 }), "{told}");
    // The judge that says no to every step lets the search go on, and no solution pass.
    assert_eq!(steps["solution"], json!({ "passed": 1, "failed": { "step": 1 } }), "{told}");
    assert!(steps["step"]["failed"]["no_verdict"].as_u64() > Some(0), "{told}");
    let made = rows(&folder.join("out/rows.jsonl"));
    assert_eq!(made[0]["messages"][1]["content"], "3 + 4 = 7\n7 * 2 = 14\n#### 14");
    assert_eq!(made[0]["values"], json!([1.0, 1.0, 1.0]));
    // Several looks are drawn, and their share is the value.
    let wanted = ["search.looks=4", "search.tries=0", "sample.temperature=0.9"];
    writer.requests();
    summary(command(folder, "maths-search", &writer.url, "looks", &wanted));
    let heat = |(_, body): &(String, Value)| body["temperature"] == 0.9;
    assert!(writer.requests().iter().all(heat));
    expect_unbreakable(folder, 6, |out| command(folder, "maths-search", &writer.url, out, &[]));
}
