//! What is known, and long documents.

use super::*;

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
