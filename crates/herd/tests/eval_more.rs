//! `herd eval` beside `run`: pages of others, tasks in other words, adversarial pairs, receipts to look at.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;
#[path = "common/measured.rs"]
mod measured;
#[path = "common/tiny.rs"]
mod tiny;

use std::fs;

use measured::Place;
use serde_json::{Value, json};

const YAML: &str = r#"
task: pick
dataset_path: json
data_files: {test: pick.jsonl, dev: shots.jsonl}
test_split: test
fewshot_split: dev
fewshot_config: {sampler: first_n}
num_fewshot: 2
output_type: multiple_choice
description: "Words about {{kind}}.\n\n"
doc_to_text: "Q: {{q}}\nA:"
doc_to_choice: options
doc_to_target: "{{gold}}"
metric_list: [{metric: acc_norm}, {metric: acc}]
"#;

const TOML: &str = r#"
name = "pick"
version = 1
about = ""
citation = ""
files = ["pick.jsonl"]
scorer = "choice"
metric = "acc_norm"
description = "Words about {{kind}}.\n\n"
shots = { number = 2, files = ["shots.jsonl"], first = true }
[[form]]
has = []
text = "Q: {{q}}\nA:"
choices = "options"
gold = "gold"
"#;

/// `herd eval VERB ARGS` that must end well; what it said.
fn eval(place: &Place, args: &[&str]) -> String {
    let (code, told, error) = common::run(place.home.path(), &[&["eval"], args].concat());
    assert_eq!(code, 0, "{error}");
    told
}

/// The words of one that cannot run.
fn refused(place: &Place, args: &[&str]) -> String {
    let (code, _, error) = common::run(place.home.path(), &[&["eval"], args].concat());
    assert_eq!(code, 2, "{error}");
    assert!(!error.contains("a fault in herd"), "{error}");
    error
}

/// The flags of a run of some tasks.
fn of(place: &Place, verb: &str, tasks: &str, out: &str) -> Vec<String> {
    let home = place.home.path().display().to_string();
    let (model, out) = (place.model.display().to_string(), place.path(out).display().to_string());
    let all = [verb, "--quiet", "-m", &model, "--data", &home, "--tasks", tasks, "--out", &out];
    all.map(str::to_owned).to_vec()
}

fn run(place: &Place, verb: &str, tasks: &str, out: &str, more: &[&str]) -> String {
    let flags = of(place, verb, tasks, out);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    eval(place, &[&flags[..], more].concat())
}

fn file(place: &Place, name: &str) -> String {
    fs::read_to_string(place.path(name)).unwrap()
}

#[test]
fn a_plain_page_of_lm_eval_asks_what_a_page_of_herd_asks() {
    let place = Place::new();
    let shot = |n: usize| json!({ "q": format!("shot {n}?"), "options": ["a", "b"], "gold": n % 2, "kind": "x" });
    place.rows("shots.jsonl", (0..3).map(shot));
    fs::write(place.path("theirs.yaml"), YAML).unwrap();
    fs::write(place.path("ours.toml"), TOML).unwrap();
    for (name, out) in [("theirs.yaml", "theirs"), ("ours.toml", "ours")] {
        let task = place.path(name).display().to_string();
        run(&place, "run", &task, out, &["--limit", "12"]);
    }
    let samples = "samples/pick.jsonl";
    assert_eq!(
        file(&place, &format!("theirs/{samples}")),
        file(&place, &format!("ours/{samples}"))
    );

    fs::write(place.path("python.yaml"), YAML.replace("options", "!function utils.choices"))
        .unwrap();
    let task = place.path("python.yaml").display().to_string();
    let flags = of(&place, "run", &task, "python");
    let error = refused(&place, &flags.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(error.contains("doc_to_choice is !function"), "{error}");
    assert!(!place.path("python").exists());
}

#[test]
fn a_task_in_other_words_is_measured_variant_by_variant() {
    let place = Place::new();
    let row = |n: usize| {
        json!({ "subject": (["law", "art"][n % 2]), "question": format!("what is {n}?"), "answer": (n / 2) % 4,
                "choices": ["red", "green", "blue", "grey"] })
    };
    fs::create_dir(place.path("mmlu")).unwrap();
    place.rows("mmlu/test.jsonl", (0..4).map(row));
    place.rows("mmlu/dev.jsonl", (10..20).map(row));
    run(&place, "run", "mmlu", "plain", &[]);
    let told = run(&place, "robustness", "mmlu", "robust", &["--json"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    let tasks = told["tasks"].as_object().unwrap();
    assert_eq!((tasks.len(), told["spreads"].as_object().unwrap().len()), (18, 4));
    let plain = file(&place, "plain/samples/mmlu.jsonl");
    for same in ["labels.letters", "order.ABCD", "prompt.own"] {
        assert_eq!(file(&place, &format!("robust/samples/mmlu.{same}.jsonl")), plain, "{same}");
    }
    for other in ["labels.signs", "order.DCBA", "shots.AAAA", "prompt.expert"] {
        assert_ne!(file(&place, &format!("robust/samples/mmlu.{other}.jsonl")), plain, "{other}");
    }
    let values: Vec<f64> = tasks
        .iter()
        .filter(|(name, _)| name.starts_with("mmlu.labels."))
        .map(|(_, scores)| scores["scores"]["acc"]["value"].as_f64().unwrap())
        .collect();
    let most = values.iter().copied().fold(0.0, f64::max);
    let least = values.iter().copied().fold(1.0, f64::min);
    assert_eq!(
        told["spreads"]["mmlu.labels"],
        json!({ "least": least, "most": most, "spread": most - least })
    );
    // Tasks whose answers are no letters are not taken.
    let task = place.path("pick.toml").display().to_string();
    let flags = of(&place, "robustness", &task, "none");
    let error = refused(&place, &flags.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(error.contains("asks, options"), "{error}");
}

#[test]
fn a_task_is_compared_with_its_adversarial_twin() {
    let place = Place::new();
    place.measured("a", &["--limit", "8"]);
    let a = place.path("a").display().to_string();
    let told = eval(&place, &["compare", &a, "--pair", "pick:sums", "--json"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    let results: Value = serde_json::from_str(&file(&place, "a/results.json")).unwrap();
    let score = |task: &str, metric: &str| &results["tasks"][task]["scores"][metric];
    assert_eq!(&told[0]["first"], score("pick", "acc_norm"));
    assert_eq!(&told[0]["second"], score("sums", "flexible"));
    let value = |score: &Value| score["value"].as_f64().unwrap();
    let wanted = value(score("sums", "flexible")) - value(score("pick", "acc_norm"));
    assert_eq!(told[0]["difference"]["difference"], wanted);
    let both = eval(&place, &["compare", &a, &a, "--pair", "pick:sums"]);
    assert_eq!(both.matches("pick:sums").count(), 2, "{both}");
    assert!(refused(&place, &["compare", &a, "--pair", "pick:none"]).contains("no task none"));
    assert!(refused(&place, &["compare", &a]).contains("<B>"));
}

#[test]
fn receipts_become_a_page_and_a_table() {
    let place = Place::new();
    place.measured("a", &["--limit", "8"]);
    let (a, model) = (place.path("a").display().to_string(), place.model.display().to_string());
    eval(&place, &["view", &a, "--tokenizer", &model]);
    let page = file(&place, "a/view.html");
    assert!(page.contains("Words about birds.") && !page.contains("://"), "nothing of elsewhere");
    eval(&place, &["view", &a, "--csv", "--tasks", "pick"]);
    let table = file(&place, "a/view.csv");
    assert!(
        table.starts_with("task,item,row,") && table.matches("\npick,").count() == 8,
        "{table}"
    );
    assert!(!table.contains("\nsums,"));
    assert!(refused(&place, &["view", &a, "--tasks", "none"]).contains("no task none"));
}
