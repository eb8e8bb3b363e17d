//! Scores are those that the official scorers gave, recorded by `scripts/check-scorers.py`.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::collections::BTreeMap;
use std::path::Path;

use herd_eval::score::{Scorer, Worth};
use serde_json::{Value, json};

/// Scores all texts of a recording, and compares what is wanted of each with what `told` makes of it.
fn agrees(name: &str, scorer: Scorer, least: usize, told: impl Fn(&Worth) -> Value) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/scorers");
    let packed = std::fs::read(folder.join(name)).unwrap();
    let text = String::from_utf8(zstd::decode_all(&packed[..]).unwrap()).unwrap();
    let mut differences = Vec::new();
    for (line, row) in text.lines().zip(1..) {
        let line: Value = serde_json::from_str(line).unwrap();
        let answer = line["answer"].as_str().unwrap().to_owned();
        let worth = scorer.worth(&line["reference"], &[answer], None, row).unwrap();
        if told(&worth) != line["wanted"] {
            differences.push(format!("line {row}: {} for {}", told(&worth), line["wanted"]));
        }
    }
    assert!(text.lines().count() >= least, "{} lines", text.lines().count());
    assert!(differences.is_empty(), "{}: {differences:#?}", differences.len());
}

#[test]
fn instructions_are_followed_where_ifevals_code_says_so() {
    agrees("ifeval.jsonl.zst", Scorer::Ifeval, 400, |worth| worth.taken.clone());
}

fn answer(worth: &Worth) -> Value {
    json!({ "taken": worth.taken, "exact_match": worth.scores["exact_match"] })
}

#[test]
fn final_answers_are_taken_and_compared_as_minerva_math_does() {
    agrees("maths.jsonl.zst", Scorer::Maths, 300, answer);
}

#[test]
fn what_the_answer_is_is_taken_as_bbh_does() {
    agrees("answer_is.jsonl.zst", Scorer::AnswerIs, 300, answer);
}

#[test]
fn calls_are_right_where_bfcls_checker_says_so() {
    agrees("calls.jsonl.zst", Scorer::Calls, 300, |worth| (worth.scores["accuracy"] == 1.0).into());
}

/// Scores to ten places, which is how they are recorded.
fn figures(worth: &Worth) -> Value {
    let figure = |(name, score): (&&str, &f64)| ((*name).to_owned(), format!("{score:.10}"));
    json!(worth.scores.iter().map(figure).collect::<BTreeMap<String, String>>())
}

#[test]
fn summaries_share_what_rouge_score_says() {
    agrees("rouge.jsonl.zst", Scorer::Rouge, 300, |worth| {
        let mut all = figures(worth);
        all.as_object_mut().unwrap().remove("geometric_mean");
        all
    });
}

#[test]
fn spans_share_the_words_that_squad_and_quac_count() {
    agrees("f1.jsonl.zst", Scorer::F1, 300, figures);
    agrees("words.jsonl.zst", Scorer::Words, 200, figures);
    agrees("quac.jsonl.zst", Scorer::Quac, 300, figures);
}

#[test]
fn options_are_found_where_infinitebench_finds_them() {
    agrees("option.jsonl.zst", Scorer::Option, 300, figures);
}

#[test]
fn functions_are_given_what_python_gives_them() {
    agrees("nexus.jsonl.zst", Scorer::Nexus, 300, |worth| (worth.scores["accuracy"] == 1.0).into());
}

#[test]
fn apis_are_called_as_api_bank_reads_calls() {
    agrees("api_bank.jsonl.zst", Scorer::ApiBank, 300, figures);
}
