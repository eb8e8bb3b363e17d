//! What is known, and long documents.

use super::*;

#[test]
fn what_is_known_is_learnt_and_what_is_always_wrong_is_refused() {
    let ways = ["known", "unknown", "mixed", "evasive", "shy", "pointless", "unjudged", "mute"];
    let more = ["gagged", "terse"];
    let texts: Vec<String> = ways
        .into_iter()
        .chain(more)
        .map(|way| format!("The <{way}> town lies on the river Alm."))
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let given = more.map(|_| AtomicUsize::new(0));
    let folder = begin_synth(&texts, "[probe]\nk = 4\nright_min = 0.6\n");
    let folder = folder.path();
    let writer = Writer::new(move |prompt: &str, seed: u64| {
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
        if is("You do not know the answer") && is("<gagged>") {
            return Reply::CutOff("I do".to_owned());
        }
        if is("You do not know the answer") {
            return says("I do not know where it lies.");
        }
        // One of four answers is none, and two of four.
        let blanks = [("<gagged>", 1), ("<terse>", 2)].into_iter().zip(&given);
        let blank = |((way, blanks), given): ((&str, usize), &AtomicUsize)| {
            is(way) && given.fetch_add(1, Ordering::Relaxed) < blanks
        };
        let none = is("<mute>") || blanks.into_iter().any(blank);
        if none { says("") } else { says(format!("On the Alm, half {}.", seed % 2)) }
    });
    let told = summary(command(folder, "probe", &writer.url, "out", &[]));
    assert_eq!(told["told"], json!({ "known": 1, "refused": 1 }), "{told}");
    let failed = json!({ "few_answers": 3, "mixed": 1, "uninformative": 2 });
    assert_eq!(told["steps"]["probe"]["failed"], failed, "{told}");
    assert_eq!(told["steps"]["question"]["failed"], json!({ "no_question": 1 }));
    assert_eq!(told["steps"]["answer"]["failed"], json!({ "empty": 7 }));
    assert_eq!(told["steps"]["refusal"], json!({ "passed": 1, "failed": { "cut_off": 1 } }));
    // What fell before an item did is in the ledger as well.
    let fallen = fallen(folder, "out");
    let fell = |step: &str, reason: &str| {
        fallen.iter().filter(|(s, r)| (s.as_str(), r.as_str()) == (step, reason)).count()
    };
    assert_eq!((fell("answer", "empty"), fell("judge", "no_verdict")), (7, 4));
    assert_eq!((fell("refusal", "cut_off"), fell("probe", "few_answers")), (1, 3));
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
    let ways = ["good", "wrong", "shapeless", "wordless", "loose"];
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
                says(if is("<wrong>") || is("loose end") { "Verdict: no" } else { "Verdict: yes" })
            }
            _ if is("Write one question that this text") => {
                says(if is("<shapeless>") { "What?" } else { both })
            }
            _ if is("Summarise this part") && is("<wordless>") => says(""),
            _ if is("Summarise this part") && is("<loose>") => says("A loose end."),
            _ if is("Write one summary of the whole") && is("loose end") => {
                Reply::CutOff("Loose".to_owned())
            }
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
    assert_eq!(steps["document"], json!({ "passed": 5, "failed": { "short": 1 } }), "{told}");
    assert_eq!(steps["qa"], json!({ "passed": 8, "failed": { "no_pair": 2 } }), "{told}");
    // Questions over summaries are looked at with these.
    assert_eq!(steps["check"], json!({ "passed": 9, "failed": { "no": 3 } }), "{told}");
    assert_eq!(steps["summarise"]["failed"], json!({ "empty": 1 }), "{told}");
    assert_eq!(steps["join"], json!({ "passed": 3, "failed": { "cut_off": 1 } }), "{told}");
    assert_eq!(steps["global_qa"]["passed"], 4, "{told}");
    let made = rows(&folder.join("out/rows.jsonl"));
    // A document whose summary fails keeps its checked questions.
    let loose: Vec<&Value> =
        made.iter().filter(|row| row.to_string().contains("<loose>")).collect();
    assert!(loose.len() == 1 && loose[0].to_string().contains("What does the river drive?"));
    let first = made[0]["messages"][0]["content"].as_str().unwrap();
    assert!(first.contains(long.lines().next_back().unwrap().split(' ').next_back().unwrap()));
    assert!(first.ends_with("What does the river drive?") && first.matches('\n').count() > 58);
    assert!(made.iter().any(|row| row["messages"][1]["content"] == "Rivers and mills."));
    // Two questions of one document from one chunk each say the same here: a row once.
    assert_eq!(told["steps"]["row"]["failed"]["duplicate"], 3, "{told}");
}
