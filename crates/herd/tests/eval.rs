//! `herd eval`: the same bytes in any batches, whenever it is killed; what is wrong is named.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;
#[path = "common/measured.rs"]
mod measured;
#[path = "common/tiny.rs"]
mod tiny;

use std::fs;
use std::process::Stdio;

use measured::{Place, kill_behind};
use serde_json::{Value, json};

#[test]
fn any_batches_and_any_kill_leave_the_same_bytes() {
    let place = Place::new();
    let wanted = place.measured("whole", &["--batch-size", "32"]);
    let receipts: Vec<Value> =
        wanted[1].lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((receipts.len(), wanted[2].lines().count()), (150, 9));
    assert!(receipts.iter().all(|receipt| receipt["answers"].as_array().unwrap().len() == 4));
    for size in ["1", "7"] {
        assert_eq!(place.measured(&format!("batch{size}"), &["--batch-size", size]), wanted);
    }

    let mut child = place.command("killed", &["-b", "3"]).stdout(Stdio::null()).spawn().unwrap();
    let samples = place.path("killed/samples/pick.jsonl");
    kill_behind(&mut child, &samples);
    assert!(!place.path("killed/results.json").exists());
    assert_eq!(place.measured("killed", &["-b", "32"]), wanted);

    // A kill may tear a line off anywhere.
    for kept in [0, 1, 700, wanted[1].len() - 1, wanted[1].len()] {
        fs::write(&samples, &wanted[1].as_bytes()[..kept]).unwrap();
        fs::remove_file(place.path("killed/results.json")).unwrap();
        assert_eq!(place.measured("killed", &[]), wanted, "{kept} bytes kept");
    }
}

#[test]
fn a_folder_holds_results_of_one_kind_of_one_set_of_questions() {
    let place = Place::new();
    place.measured("out", &["--limit", "6"]);
    let before = place.left("out");
    let refused = |more: &[&str], wanted: &str| {
        let (code, _, error) = place.run("out", more);
        assert_eq!(code, 2, "{error}");
        assert!(error.contains(wanted), "{error}");
    };
    refused(&["--limit", "7"], "limit was 6, is 7");
    refused(&["--limit", "6", "--num-fewshot", "1"], "num_fewshot was null, is 1");
    refused(&["--limit", "6", "--seed", "2"], "seed was 1234, is 2");
    refused(&["--limit", "6", "--apply-chat-template"], "chat was null");
    // Another row is another question, and a line that is none is told of.
    let rows = fs::read_to_string(place.path("pick.jsonl")).unwrap();
    fs::write(place.path("pick.jsonl"), rows.replace("before 4?", "after 4?")).unwrap();
    refused(&["--limit", "6"], "another question");
    // So are another right answer, another page and other ends of what is written.
    fs::write(place.path("pick.jsonl"), rows.replacen("\"gold\":0", "\"gold\":1", 1)).unwrap();
    refused(&["--limit", "6"], "another question, page or scorer");
    fs::write(place.path("pick.jsonl"), &rows).unwrap();
    let page = fs::read_to_string(place.path("sums.toml")).unwrap();
    for (old, new) in [("version = 1", "version = 2"), ("max_tokens = 12", "max_tokens = 11")] {
        fs::write(place.path("sums.toml"), page.replace(old, new)).unwrap();
        refused(&["--limit", "6"], "another question, page or scorer");
    }
    fs::write(place.path("sums.toml"), &page).unwrap();
    assert_eq!(place.left("out"), before);
    let samples = place.path("out/samples/pick.jsonl");
    fs::write(&samples, before[1].replacen("\"item\"", "\"itme\"", 1)).unwrap();
    refused(&["--limit", "6"], "line 1 is no receipt");
}

#[test]
fn a_row_that_is_none_is_named_and_nothing_is_measured() {
    let place = Place::new();
    let first = json!({ "q": "a", "options": ["b", "c"], "gold": 0, "kind": "d", "passage": 1 });
    for (row, wanted) in [
        (json!({ "q": "a", "gold": 0 }), "fields of none of: q, options, gold"),
        (
            json!({ "q": null, "options": ["b", "c"], "gold": 0, "kind": "d", "passage": 1 }),
            "fields of none of",
        ),
        (
            json!({ "q": "a", "options": ["b", "c"], "gold": 2, "kind": "d", "passage": 1 }),
            "none of 2",
        ),
        (json!({ "q": "a", "options": ["b"], "gold": 0, "kind": "d", "passage": 1 }), "1 answers"),
        (json!({ "q": "a", "options": "bc", "gold": 0, "kind": "d", "passage": 1 }), "options"),
        (json!({ "q": "a", "options": ["b", "c"], "gold": 0, "passage": 1 }), "no kind"),
    ] {
        place.rows("pick.jsonl", [first.clone(), row].into_iter());
        let (code, _, error) = place.run("out", &["--num-fewshot", "0"]);
        assert_eq!(code, 2, "{error}");
        assert!(error.contains("row 2 of ") && error.contains("pick.jsonl"), "{error}");
        assert!(error.contains(wanted), "{error}");
        assert!(!place.path("out").exists());
    }
    fs::write(place.path("pick.jsonl"), "{\"q\": \"a\", \n").unwrap();
    let (code, _, error) = place.run("out", &[]);
    assert!(code == 2 && error.contains("pick.jsonl"), "{error}");
    fs::remove_file(place.path("pick.jsonl")).unwrap();
    let (code, _, error) = place.run("out", &[]);
    assert!(code == 2 && error.contains("none of pick.jsonl is in"), "{error}");
}

#[test]
fn scores_are_those_of_the_receipts_and_groups_count_alike() {
    let place = Place::new();
    let [results, pick, _] = place.measured("out", &["--limit", "20"]);
    let results: Value = serde_json::from_str(&results).unwrap();
    let receipts: Vec<Value> =
        pick.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let score = &results["tasks"]["pick"];
    let mean = |kind: &str| {
        let of: Vec<f64> = receipts
            .iter()
            .filter(|receipt| receipt["group"] == kind)
            .map(|receipt| receipt["scores"]["acc_norm"].as_f64().unwrap())
            .collect();
        of.iter().sum::<f64>() / of.len() as f64
    };
    let kinds = ["bells", "birds", "boats"];
    for kind in kinds {
        let told = score["groups"][kind]["acc_norm"]["value"].as_f64().unwrap();
        assert!((told - mean(kind)).abs() < 1e-12);
    }
    let all = score["scores"]["acc_norm"].clone();
    let wanted = kinds.map(mean).iter().sum::<f64>() / 3.0;
    assert!((all["value"].as_f64().unwrap() - wanted).abs() < 1e-12);
    assert_eq!((&all["n"], &score["num_fewshot"]), (&json!(20), &json!(2)));
    assert_eq!(results["tasks"]["sums"]["scores"]["flexible"]["n"], 9);

    // A model does not differ from itself.
    let out = place.path("out");
    let (code, told, error) = common::run(
        place.home.path(),
        &["eval", "compare", out.to_str().unwrap(), out.to_str().unwrap(), "--json"],
    );
    assert_eq!(code, 0, "{error}");
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["pick"]["difference"]["difference"], 0.0);
    assert_eq!(
        (&told["pick"]["difference"]["p"], &told["sums"]["difference"]["n"]),
        (&json!(1.0), &json!(9))
    );
}

#[test]
fn questions_are_put_as_messages_where_a_chat_is_asked_for() {
    let place = Place::new();
    let text = |receipts: &str| -> String {
        let first: Value = serde_json::from_str(receipts.lines().next().unwrap()).unwrap();
        let ids = first["prompts"][0].as_array().unwrap().iter().map(|id| id.to_string());
        let (code, told, error) = common::run(
            place.home.path(),
            &[
                "detokenize",
                "-m",
                place.model.to_str().unwrap(),
                "--ids",
                &ids.collect::<Vec<_>>().join(","),
            ],
        );
        assert_eq!(code, 0, "{error}");
        told
    };
    let plain = text(&place.measured("plain", &["--limit", "1"])[1]);
    assert!(plain.starts_with("Words about birds.\n\nQ: "), "{plain}");
    assert_eq!(plain.matches("Q: ").count(), 3);
    let chat = ["--limit", "1", "--apply-chat-template", "--system-instruction", "Be brief."];
    let one = text(&place.measured("one", &chat)[1]);
    let turns = [&chat[..], &["--fewshot-as-multiturn"]].concat();
    let many = text(&place.measured("many", &turns)[1]);
    for (text, users) in [(&one, 1), (&many, 3)] {
        assert!(text.contains("system\nBe brief."), "{text}");
        assert_eq!(text.matches("user\n").count(), users, "{text}");
        assert!(text.trim_end().ends_with("assistant"), "{text}");
    }
}

#[test]
fn what_has_no_room_is_cut_and_counted_and_an_answer_alone_is_named() {
    let place = Place::new();
    let [results, pick, sums] = place.measured("out", &["-c", "44", "--batch-size", "32"]);
    assert_eq!(place.measured("one", &["-c", "44", "-b", "1"]), [results.clone(), pick, sums]);
    let results: Value = serde_json::from_str(&results).unwrap();
    assert_eq!(results["tasks"]["pick"]["cut"], 150);
    let (code, _, error) = place.run("odd", &["-c", "9"]);
    assert!(code == 2 && error.contains("an answer of 12 tokens, the context has 8"), "{error}");
}

#[test]
fn a_model_that_gives_no_numbers_gets_no_score() {
    let place = Place::new();
    let mut bytes = fs::read(&place.model).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&place.model, bytes).unwrap();
    let (code, _, error) = place.run("out", &["--limit", "2"]);
    assert!(code == 2 && error.contains("NaN") && error.contains("task pick"), "{error}");
    assert!(!place.path("out/results.json").exists());
}

#[test]
fn tasks_that_are_measured_one_after_another_stand_together() {
    let place = Place::new();
    let both = place.measured("both", &["--limit", "6"]);
    for name in ["pick.toml", "sums.toml"] {
        let (page, data, out) = (place.path(name), place.home.path(), place.path("out"));
        let [page, data, out] = [&page, data, &out].map(|path| path.to_str().unwrap());
        let model = place.model.to_str().unwrap();
        let asked = ["eval", "run", "-m", model, "--data", data, "--out", out, "--limit", "6"];
        let twice = format!("{page},{page}");
        let (code, _, error) =
            common::run(place.home.path(), &[&asked[..], &["--tasks", &twice]].concat());
        assert!(code == 2 && error.contains("asked for twice"), "{error}");
        let (code, _, error) =
            common::run(place.home.path(), &[&asked[..], &["--tasks", page]].concat());
        assert_eq!(code, 0, "{error}");
    }
    assert_eq!(place.left("out"), both);
}
