//! Rows of every form of every page, made up, and the questions that they become.

use std::path::PathBuf;

use herd_eval::catalogue;
use herd_eval::item::{Ask, Drawn, items};
use herd_eval::task::Row;
use serde_json::{Value, json};

/// For a page the rows, one for each of its forms, then the question and the right answer of each.
type Case = (&'static str, Value, &'static [(&'static str, &'static str)]);

fn cases() -> Vec<Case> {
    [first_cases(), more_cases(), last_cases(), long_cases(), call_cases()].concat()
}

fn first_cases() -> Vec<Case> {
    let foundry = json!({ "query": "Q? ", "choices": ["x", "y"], "gold": 1 });
    let said =
        |question: &str| json!({ "context": question, "chain_of_thought": "1 + 1", "answer": "2" });
    let cause = |question: &str| json!({ "premise": "Abc def.", "choice1": "Er x.", "choice2": "Sie y.", "question": question, "label": 1 });
    vec![
        ("agieval_lsat_ar", json!([foundry]), &[("Q?", "y")]),
        ("agieval_lsat_rc", json!([foundry]), &[("Q?", "y")]),
        ("agieval_sat_en", json!([foundry]), &[("Q?", "y")]),
        ("agieval_sat_math", json!([said("Q: one?")]), &[("Q: one?\nA:", "\"2\"")]),
        ("aqua", json!([said("one?")]), &[("Q: one?\nA:", "\"2\"")]),
        ("svamp", json!([said("one?")]), &[("Question: one?\nAnswer:", "\"2\"")]),
        (
            "lambada",
            json!([{ "context": "He said to", "continuation": "Ann" }, { "text": "He said to Ann" }]),
            &[("He said to", "Ann"), ("He said to", "Ann")],
        ),
        ("xcopa_it", json!([cause("cause")]), &[("Abc def perché", "sie y.")]),
        ("xcopa_th", json!([cause("effect")]), &[("Abc def ดังนั้น", "sie y.")]),
    ]
}

fn more_cases() -> Vec<Case> {
    let span =
        json!({ "context": "P", "question": "q?", "answers": [{ "text": "a" }], "file": "de" });
    let hub_span = json!({ "context": "P", "question": "q?", "answers": { "text": ["a", "b"] }, "file": "de" });
    vec![
        (
            "winograd",
            json!([
                { "context_options": ["A saw B, and A", "A saw B, and B"], "continuation": "ran.", "gold": 1 },
                { "text": "A saw B, and he ran.", "pronoun": "he", "pronoun_loc": 13, "options": ["A", "B"], "label": 0 },
            ]),
            &[("A saw B, and B", "ran."), ("A saw B, and A", "ran.")],
        ),
        (
            "bbh",
            json!([{ "task": "t", "input": "not True is", "target": "False" }]),
            &[("Q: not True is\nA: Let's think step by step.\n", "\"False\"")],
        ),
        (
            "squad",
            json!([span, hub_span]),
            &[
                ("P\nQuestion: q?\nAnswer:", "[\"a\"]"),
                ("P\nQuestion: q?\nAnswer:", "[\"a\",\"b\"]"),
            ],
        ),
        ("xquad", json!([span]), &[("P\nQuestion: q?\nAnswer:", "[\"a\"]")]),
        (
            "pubmedqa",
            json!([
                { "context": "C\nAnswer: ", "continuation": "no" },
                { "QUESTION": "q", "CONTEXTS": ["c", "d"], "final_decision": "maybe" },
            ]),
            &[("C\nAnswer:", "no"), ("Abstract: c\nd\nQuestion: q\nAnswer:", "maybe")],
        ),
        (
            "truthfulqa",
            json!([
                { "question": "q", "mc1_targets": { "choices": ["a", "b"], "labels": [0, 1] } },
                { "Question": "q", "Best Answer": "a", "Incorrect Answers": "b; c;" },
            ]),
            &[("Q: q\nA:", "b"), ("Q: q\nA:", "a")],
        ),
        ("adversarial_squad", json!([span]), &[("P\nQuestion: q?\nAnswer:", "[\"a\"]")]),
        ("dynabench_squad", json!([span]), &[("P\nQuestion: q?\nAnswer:", "[\"a\"]")]),
        (
            "gsm_plus",
            json!([
                { "question": "q", "solution": "s", "answer": "3", "perturbation_type": "p" },
                { "question": "q", "answer": "s\n#### 3", "perturbation_type": "p" },
            ]),
            &[("Question: q\nAnswer:", "\"3\""), ("Question: q\nAnswer:", "\"s\\n#### 3\"")],
        ),
        (
            "paws",
            json!([{ "sentence1": "a", "sentence2": "b", "label": 1 }]),
            &[("a\nb\nQuestion: Do both sentences say the same?\nAnswer:", "yes")],
        ),
    ]
}

fn last_cases() -> Vec<Case> {
    let exam = json!({ "question": " q ", "choices": ["w", "x", "y", "z"], "answer": "2", "subject": "law" });
    let gpqa = json!({ "Question": "abcde", "Correct Answer": "r", "Incorrect Answer 1": "s",
                       "Incorrect Answer 2": "t", "Incorrect Answer 3": "u" });
    vec![
        (
            "qqp",
            json!([{ "question1": "a", "question2": "b", "label": "0" }]),
            &[("a\nb\nQuestion: Do both questions ask the same?\nAnswer:", "no")],
        ),
        (
            "mgsm_cot",
            json!([{ "question": "q", "answer": "3", "lang": "de" }]),
            &[("Problem: q\n\nSolution:", "\"3\"")],
        ),
        (
            "race",
            json!([{ "article": "a", "question": "q", "options": ["w", "x", "y", "z"], "answer": "C" }]),
            &[("Article: a\n\nQuestion: q\nAnswer:", "y")],
        ),
        (
            "drop",
            json!([{ "passage": "p", "question": "q", "answers_spans": { "spans": ["a", "b"], "types": ["span"] } }]),
            &[("Passage: p\nQuestion: q\nAnswer:", "[\"a, b\"]")],
        ),
        ("gpqa", json!([gpqa]), &[("abcde\nA. u\nB. r\nC. s\nD. t\nAnswer:", "B")]),
        ("gpqa_cot", json!([gpqa]), &[("(B) r\n", "\"B\"")]),
        ("mmlu", json!([exam]), &[("q\nA. w\nB. x\nC. y\nD. z\nAnswer:", "C")]),
        ("mmlu_cot", json!([exam]), &[("Question: q\nA. w\n", "\"C\"")]),
        (
            "mmlu_pro",
            json!([{ "question": "q", "options": ["w", "x "], "answer": "B", "category": "law",
                     "cot_content": "A: Let's think step by step. So. The answer is (B)." }]),
            &[("Question:\nq\nOptions:\nA. w\nB. x\nAnswer: Let's think step by step.", "\"B\"")],
        ),
        (
            "needle",
            json!([{ "text": "hay", "question": "which?", "values": ["7", "8"], "length": 200 }]),
            &[("hay\n\nwhich?", "[\"7\",\"8\"]")],
        ),
    ]
}

fn long_cases() -> Vec<Case> {
    let turn = |question: &str, answer: &str| json!({ "question": question, "orig_answer": { "text": answer } });
    let asked = json!({ "title": "T", "section_title": "S", "context": "P CANNOTANSWER", "turns": [turn("one?", "1")],
                        "question": "two? ", "answers": [{ "text": "2" }, { "text": "CANNOTANSWER" }] });
    let scrolls =
        |output: Value| json!({ "id": "i", "pid": "i_0", "input": "Do.\n\nS", "output": output });
    let novel = json!({ "id": 0, "context": "N", "input": "who?", "answer": ["Tom", "Thomas"] });
    let options = json!({ "context": "N", "input": "who?", "options": ["Ann", "Tom", "Al", "Ed"], "answer": ["Tom"] });
    let named = json!({ "context": "N", "input": "who?", "options": ["Ann", "Tom", "Al", "Ed"], "answer": "Ed" });
    vec![
        (
            "quac",
            json!([asked]),
            &[(
                "Title: T - S\nPassage: P CANNOTANSWER\n\nQuestion: one?\nAnswer: 1\nQuestion: two?\nAnswer:",
                "[\"2\",\"CANNOTANSWER\"]",
            )],
        ),
        (
            "quality",
            json!([{ "article": "s ", "question": "q", "options": ["w", "x", "y", "z"], "gold_label": 2 }]),
            &[(
                "Story:\ns\n\nQuestion and Possible Answers:\nq\n (A) w\n (B) x\n (C) y\n (D) z\n\nAnswer:",
                "\"B\"",
            )],
        ),
        ("zeroscrolls_quality", json!([scrolls("(C)".into())]), &[("Do.\n\nS", "\"C\"")]),
        ("zeroscrolls_qasper", json!([scrolls(json!(["a", "b"]))]), &[("S", "[\"a\",\"b\"]")]),
        (
            "zeroscrolls_squality",
            json!([scrolls(json!(["a"]))]),
            &[("S", "{\"texts\":[\"a\"],\"stemmer\":false}")],
        ),
        (
            "infinitebench_en_qa",
            json!([novel]),
            &[("question.\n\nN\n\nQuestion: who?\n\nBe very", "[\"Tom\",\"Thomas\"]")],
        ),
        (
            "infinitebench_en_mc",
            json!([options, named]),
            &[
                ("else.\nA. Ann\nB. Tom\nC. Al\nD. Ed", "[\"Tom\",\"B\"]"),
                ("\n\nN\n\nQuestion: who?\n\nOnly one", "[\"Ed\",\"D\"]"),
            ],
        ),
    ]
}

fn call_cases() -> Vec<Case> {
    let tools = json!([{ "function_calls": "f(a: str, b=None)", "descriptions": "Does." }]);
    let one = json!({ "Input": "q", "Output": "r = nvdlib.f('x')", "tools": tools, "file": "NVDLibrary" });
    let several =
        json!({ "generated_question": "q", "fncall": ["f(1)", "f(f(2))"], "tools": tools });
    let api = json!({ "file": "d", "id": 0, "instruction": "\nDo.", "input": "User: u\n", "expected_output": "API-Request: [F(a='b')]" });
    vec![
        (
            "nexus",
            json!([one, several]),
            &[
                (
                    "\n\nFunction:\ndef f(a: str, b=None):\n\"\"\"\nDoes.\n\"\"\"\n\n\nQuestion: q\n",
                    "{\"calls\":\"f('x')\",\"functions\":[\"f(a: str, b=None)\"],\"skip_empty\":false}",
                ),
                (
                    "from my end. Do not use variables.\n\nFunction:",
                    "{\"calls\":\"f(1); f(f(2))\",\"functions\":[\"f(a: str, b=None)\"],\"skip_empty\":true}",
                ),
            ],
        ),
        (
            "api_bank",
            json!([api]),
            &[(
                "\nDo.\nUser: u\n",
                "{\"call\":\"API-Request: [F(a='b')]\",\"free\":[\"content\",\"keyword\",\"keywords\",\"meeting_topic\",\"subject\",\"symptom\"],\"least\":0.5}",
            )],
        ),
    ]
}

fn rows(rows: &Value) -> Vec<Row> {
    let row = |(i, fields): (usize, &Value)| Row {
        path: PathBuf::from("rows"),
        number: i as u64 + 1,
        fields: with_file(fields),
    };
    rows.as_array().expect("rows").iter().enumerate().map(row).collect()
}

/// A row as it is read, with the name of its file.
fn with_file(fields: &Value) -> Value {
    let mut fields = fields.clone();
    let object = fields.as_object_mut().expect("a row");
    object.entry("file").or_insert_with(|| "rows".into());
    fields
}

#[test]
fn rows_of_publishers_become_questions() {
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let write = |name: &str, rows: Value| {
        let path = folder.path().join(name);
        let made = std::fs::create_dir_all(path.parent().expect("a folder"));
        made.and_then(|()| std::fs::write(path, rows.to_string()))
            .unwrap_or_else(|e| panic!("{e}"));
    };
    let answers = |all: &[&str]| all.iter().map(|text| json!({ "text": text })).collect::<Vec<_>>();
    let turn = |question: &str, all: &[&str]| json!({ "question": question, "orig_answer": { "text": all[0] }, "answers": answers(all) });
    let dialogue = |context: &str, turns: Value| json!({ "title": "T", "section_title": "S", "paragraphs": [{ "context": context, "qas": turns }] });
    let first = json!([turn("a?", &["x"]), turn("b?", &["x", "y"]), turn("c?", &["z", "z"])]);
    let second = json!([turn("d?", &["CANNOTANSWER"])]);
    write("quac/val_v0.2.json", json!({ "data": [dialogue("P", first), dialogue("Q", second)] }));
    write(
        "zero_scrolls/qasper/validation.json",
        json!([{ "id": "i", "input": "I", "output": "a" }, { "id": "i", "input": "I", "output": "b" }]),
    );
    let read = |name: &str, number: usize| {
        let task = catalogue::find(name).unwrap_or_else(|e| panic!("{e}"));
        let rows = task.rows(folder.path()).unwrap_or_else(|e| panic!("{e}"));
        let made = items(&task, &rows, None, Drawn { number, seed: 0 }, None);
        made.unwrap_or_else(|e| panic!("{e}"))
    };
    // Of b? people do not agree.
    let quac = read("quac", 1);
    let asked = |i: usize| match &quac[i].ask {
        Ask::Write { text, .. } => text.clone(),
        Ask::Choose { .. } => panic!("quac writes"),
    };
    assert_eq!(quac.len(), 3);
    assert!(
        asked(1)
            .ends_with("Question: a?\nAnswer: x\nQuestion: b?\nAnswer: x\nQuestion: c?\nAnswer:")
    );
    assert_eq!(quac[0].shots[0].1, "CANNOTANSWER", "examples are of other passages");
    assert!(quac[2].shots[0].0.contains("Passage: P\n"));
    let qasper = read("zeroscrolls_qasper", 0);
    let Ask::Write { reference, .. } = &qasper[0].ask else { panic!("qasper writes") };
    assert_eq!((qasper.len(), reference), (1, &json!(["a", "b"])));
}

#[test]
fn every_form_becomes_the_question_that_its_page_says() {
    for (name, made, wanted) in cases() {
        let task = catalogue::find(name).unwrap_or_else(|e| panic!("{e}"));
        let none = Drawn { number: 0, seed: 0 };
        let made = items(&task, &rows(&made), None, none, None).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(made.len(), wanted.len());
        for (item, (question, right)) in made.iter().zip(wanted) {
            let (text, answer) = match &item.ask {
                Ask::Choose { texts, choices, gold } => {
                    let of = |all: &[String]| all[if all.len() == 1 { 0 } else { *gold }].clone();
                    (of(texts), of(choices))
                }
                Ask::Write { text, reference } => (text.clone(), reference.to_string()),
            };
            assert!(text.contains(question), "{name}: {text:?}");
            assert_eq!(answer, *right, "{name}");
        }
    }
}

#[test]
fn examples_are_worked_out_as_their_page_says() {
    let shot = |name: &str, own: Value, shots: Value| {
        let task = catalogue::find(name).unwrap_or_else(|e| panic!("{e}"));
        let drawn = Drawn { number: 1, seed: 0 };
        let made = items(&task, &rows(&own), Some(&rows(&shots)), drawn, None);
        made.unwrap_or_else(|e| panic!("{e}"))[0].shots[0].clone()
    };
    let own = json!([{ "task": "t", "input": "i", "target": "x" }]);
    let prompt =
        "CANARY\n-----\nDo this.\n\nQ: a\nA: Let's think step by step.\nSo the answer is b.";
    let shots = json!([{ "task": "s", "prompt": "p q" }, { "task": "t", "prompt": prompt }]);
    let (question, answer) = shot("bbh", own, shots);
    assert_eq!(question, "Do this.\n\nQ: a\nA: Let's think step by step.\nSo the answer is b.");
    assert_eq!(answer, "", "its examples are one text");
    let row = json!({ "question": "q", "options": ["w"], "answer": "A", "category": "c",
                      "cot_content": "A: Let's think step by step. So." });
    let mut other = row.clone();
    other["question"] = "r".into();
    let (question, answer) = shot("mmlu_pro", json!([row]), json!([row, other]));
    assert!(question.contains("\nr\n") && question.ends_with("step by step."), "{question}");
    assert_eq!(answer, "So.");
}

#[test]
fn a_whole_answer_is_kept_and_a_part_of_it_counts() {
    for (name, text, part) in [
        ("mmlu_cot", "Hence the best answer is (C).", Some("C")),
        ("mmlu_cot", "I do not know.", None),
        ("mmlu_pro", "The answer is (J).", Some("J")),
        ("gpqa_cot", "Answer is B", Some("B")),
        ("aqua", "x\nThe answer is 36 minutes.", Some("36 minutes")),
        ("mgsm_cot", "2 + 1\nAnswer: 3", Some("3")),
        ("quality", "(B) or C", Some("B")),
        ("zeroscrolls_quality", "Because of that,\nD. Or A.", Some("D")),
        ("zeroscrolls_quality", "ABCD", None),
    ] {
        let task = catalogue::find(name).unwrap_or_else(|e| panic!("{e}"));
        let write = task.write.unwrap_or_else(|| panic!("{name} writes"));
        let take = write.take.unwrap_or_else(|| panic!("{name} takes"));
        let regex = fancy_regex::Regex::new(&take).unwrap_or_else(|e| panic!("{e}"));
        let last = regex.captures_iter(text).filter_map(Result::ok).last();
        let found = last.as_ref().and_then(|found| found.get(1)).map(|found| found.as_str());
        assert_eq!(found, part, "{name}");
    }
}
