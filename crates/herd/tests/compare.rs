//! `herd compare` and `herd card`: figures come from where they say, and what is wrong is named before anything is measured.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;
#[path = "common/server.rs"]
mod server;
#[path = "common/tiny.rs"]
mod tiny;
#[path = "common/training.rs"]
mod training;

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use server::Server;

fn herd(home: &Path, args: &[&str]) -> Command {
    let mut command = common::herd(home);
    command.current_dir(home).args(args);
    command
}

fn json_of(mut command: Command) -> Value {
    let output = command.arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A folder of results, as `herd eval run` leaves it.
fn results(home: &Path, name: &str, scores: &[(&str, f64)]) {
    let task = |(task, value): &(&str, f64)| {
        let mean = json!({ "value": value, "stderr": 0.01, "ci95": [value - 0.0196, value + 0.0196], "n": 100 });
        let scores = json!({ "version": 1, "scorer_version": 1, "metric": "acc", "num_fewshot": 0, "scores": { "acc": mean }, "cut": 0, "full": 0 });
        ((*task).to_owned(), scores)
    };
    let of = json!({ "model": "x", "class": "avx2", "kv": "f32", "context": 64, "limit": null, "num_fewshot": null, "seed": 1,
        "chat": null, "fewshot_as_multiturn": false, "system_instruction": null, "herd": "0" });
    let tasks: serde_json::Map<String, Value> = scores.iter().map(task).collect();
    fs::create_dir_all(home.join(name)).unwrap();
    fs::write(
        home.join(name).join("results.json"),
        json!({ "of": of, "tasks": tasks }).to_string(),
    )
    .unwrap();
}

fn compare(home: &Path, text: &str) -> Command {
    fs::write(home.join("models.toml"), text).unwrap();
    herd(home, &["compare", "models.toml", "-o", "out", "-t", "1"])
}

/// The costs of a machine by the hour, where two tokens are read for one written.
fn costs_follow_from_speed(model: &Value, an_hour: f64) {
    let loads = model["known"]["loads"].as_array().unwrap();
    let most = loads.iter().map(|l| l["tok_s"].as_f64().unwrap()).fold(0.0, f64::max);
    let written = model["cost_written"]["value"].as_f64().unwrap();
    assert!((written * 3600.0 * most / 1e6 / an_hour - 1.0).abs() < 1e-9);
    let all = model["cost_all"]["value"].as_f64().unwrap();
    assert!((all * 3.0 / written - 1.0).abs() < 1e-9 && model["blended"].is_null());
    assert_eq!(model["throughput"]["value"].as_f64(), Some(most));
}

#[test]
fn models_stand_side_by_side_with_where_each_figure_is_from() {
    let (home, _) = tiny::home();
    let home = home.path();
    results(home, "a", &[("arc", 0.4), ("mmlu", 0.3)]);
    results(home, "b", &[("arc", 0.5)]);
    results(home, "c", &[("mmlu", 0.6)]);
    let bench = json!([{ "concurrency": 4, "tok_s": 200.0, "failed": 0, "output_tok_s": 60.0,
        "ttft_ms": { "p50": 30.0, "p95": 50.0 }, "inter_token_ms": { "p50": 20.0 } }]);
    fs::write(home.join("bench.json"), bench.to_string()).unwrap();
    let server = Server::start(home, &home.join("tiny.gguf"), &["--parallel", "4"]);
    let text = format!(
        "[measure]\nprompt_tokens = 16\nmax_tokens = 8\nconcurrency = [1, 2]\n\
         [models.here]\nmodel = 'tiny.gguf'\nspeed = true\neval = ['a']\nwatts = 50\ncost_per_hour = 1\noutput_limit = 256\n\
         [models.'else|where']\nbench = 'bench.json'\neval = ['b', 'c']\nprice_input = 1\nprice_output = 3\ncontext = 4096\n\
         [models.served]\nurl = 'http://{}'\neval = ['a']\nmodel = 'tiny.gguf'\n",
        server.address
    );
    let told = json_of(compare(home, &text));
    assert_eq!(told["tasks"], json!(["arc", "mmlu"]));
    let [elsewhere, here, served] = [0, 1, 2].map(|i| &told["models"][i]);
    assert_eq!(
        (&here["quality"]["value"], &elsewhere["quality"]["value"]),
        (&json!(0.35), &json!(0.55))
    );
    assert_eq!(here["known"]["parameters"]["from"], "the model's files");
    assert_eq!(elsewhere["known"]["context"], json!({ "value": 4096.0, "from": "given" }));
    assert_eq!(
        (&elsewhere["speed"]["value"], &elsewhere["ttft_ms"]["value"]),
        (&json!(60.0), &json!(30.0))
    );
    assert_eq!((&elsewhere["blended"]["value"], &elsewhere["energy"]), (&json!(1.5), &Value::Null));
    assert_eq!(elsewhere["cost_written"], Value::Null);
    assert_eq!(here["known"]["quality_from"]["arc"]["metric"], "acc");
    assert!(elsewhere["throughput"]["from"].as_str().unwrap().ends_with("4 at once"));
    for (measured, words) in [(here, "in process, class "), (served, "herd bench serve of http")] {
        assert!(measured["speed"]["value"].as_f64() > Some(0.0), "{measured}");
        assert!(measured["speed"]["from"].as_str().unwrap().starts_with(words), "{measured}");
        let loads = measured["known"]["loads"].as_array().unwrap();
        assert_eq!(
            loads.iter().map(|load| load["concurrency"].as_u64().unwrap()).collect::<Vec<_>>(),
            [1, 2]
        );
    }
    costs_follow_from_speed(here, 1.0);
    assert!(served["known"]["loads"][0]["total_tok_s"].as_f64() > Some(0.0));
    let energy = here["energy"]["from"].as_str().unwrap();
    assert!(energy.contains("RAPL") || energy.contains("50 W given"), "{energy}");
    let read = |name: &str| fs::read_to_string(home.join("out").join(name)).unwrap();
    assert!(
        read("report.md").contains("else\\|where")
            && read("report.md").contains("quality-price.svg")
    );
    assert_eq!(serde_json::from_str::<Value>(&read("report.json")).unwrap(), told);
    assert_eq!(read("report.csv").lines().count(), 4);
    let page = read("report.html");
    assert!(
        page.matches("<svg").count() == 3 && !page.contains("<script") && !page.contains("src=")
    );
    for name in ["quality-speed.svg", "quality-price.svg", "speed-price.svg"] {
        assert!(read(name).contains("<circle"), "{name}");
    }
}

#[test]
fn a_comparison_that_is_wrong_is_named_before_anything_is_measured() {
    let (home, _) = tiny::home();
    let home = home.path();
    results(home, "a", &[("arc", 0.4)]);
    results(home, "b", &[("arc", 0.5)]);
    let path = home.join("b/results.json");
    let other =
        fs::read_to_string(&path).unwrap().replace("\"num_fewshot\":0", "\"num_fewshot\":5");
    fs::write(&path, other).unwrap();
    fs::write(
        home.join("failed.json"),
        json!([{ "concurrency": 1, "tok_s": 1.0, "failed": 1 }]).to_string(),
    )
    .unwrap();
    let slow = "[models.x]\nmodel = 'tiny.gguf'\nspeed = true\n";
    for (text, words) in [
        ("", "missing field `models`"),
        ("[models]\n", "no [models.NAME]"),
        ("[models.a]\nwatt = 3\n", "unknown field `watt`"),
        ("[models.a]\nwatts = -3\n", "a.watts is -3"),
        ("[models.a]\nprice_input = 3\n", "one price"),
        ("[models.a]\nspeed = true\n", "a.speed needs a.model"),
        ("[models.a]\nspeed = true\nurl = 'http://x'\n", "more than one of speed, url and bench"),
        ("[models.a]\nmodel = 'none.gguf'\n", "none.gguf"),
        ("[models.a]\neval = ['none']\n", "none"),
        ("[models.a]\neval = ['a', 'a']\n", "a second folder with results of arc"),
        ("[models.a]\nbench = 'failed.json'\n", "not what herd bench serve --json says"),
        ("[measure]\nmax_tokens = 1\n[models.a]\n", "1 tokens"),
        ("[measure]\nconcurrency = []\n[models.a]\n", "concurrency is []"),
        (
            "[measure]\nprompt_tokens = 1000000\n[models.x]\nmodel = 'tiny.gguf'\nspeed = true\n",
            "measure.prompt_tokens and max_tokens together is \"1000064\"",
        ),
        ("[models.a]\nquality = { arc = 40 }\n", "a.quality.arc is 40"),
        ("[models.a]\neval = ['a']\nquality = { arc = 0.4 }\n", "arc of a"),
        ("[models.a]\nstrict = true\n", "without a url"),
        (
            "[models.a]\neval = ['a']\n[models.b]\neval = ['b']\n",
            "arc of a is acc, 0 examples, 100 items",
        ),
    ] {
        let output =
            compare(home, &format!("{text}{}", if text.contains("models.a]") { slow } else { "" }))
                .output()
                .unwrap();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}: {err}");
        assert!(err.contains(words) && !err.contains("a fault in herd"), "{text}: {err}");
        assert!(!home.join("out").exists());
    }
    // A model that could be measured stands before what is wrong: it is not.
    for (text, args, words) in [
        ("url = 'http://127.0.0.1:9'\n", vec!["--offline"], "--offline"),
        ("url = 'http://127.0.0.1:9'\n", vec![], "127.0.0.1:9"),
        ("url = 'http://127.0.0.1:9'\nkey_env = 'NO_SUCH_KEY'\n", vec![], "NO_SUCH_KEY"),
        ("", vec!["-o", "models.toml/out"], "models.toml"),
    ] {
        fs::write(home.join("models.toml"), format!("{slow}[models.z]\n{text}")).unwrap();
        let out = if args.len() == 2 { vec![] } else { vec!["-o", "out"] };
        let all = [vec!["compare", "models.toml", "-t", "1"], args, out].concat();
        let (code, _, err) = common::told(herd(home, &all).output().unwrap());
        assert!(code == 2 && err.contains(words) && !err.contains("is measured"), "{err}");
        assert!(!home.join("out").exists());
    }
}

#[test]
fn a_hosted_model_stands_beside_with_what_its_makers_say() {
    let (home, _) = tiny::home();
    let home = home.path();
    results(home, "a", &[("arc", 0.4)]);
    let server = Server::start(home, &home.join("tiny.gguf"), &["--api-key", "open"]);
    let text = format!(
        "[measure]\nprompt_tokens = 8\nmax_tokens = 4\nconcurrency = [1]\n[models.here]\neval = ['a']\n[models.bare]\n\
         [models.there]\nurl = 'http://{}'\nurl_model = 'tiny'\nkey_env = 'THEIR_KEY'\nstrict = true\n[models.there.quality]\narc = 0.75\n",
        server.address
    );
    let mut command = compare(home, &text);
    command.env("THEIR_KEY", "open");
    let told = json_of(command);
    let [bare, here, there] = [0, 1, 2].map(|i| &told["models"][i]);
    // A model without results takes the mean from nobody.
    assert_eq!((&told["tasks"], &bare["quality"]), (&json!(["arc"]), &Value::Null));
    assert_eq!(
        (&here["quality"]["value"], &there["quality"]["value"]),
        (&json!(0.4), &json!(0.75))
    );
    assert_eq!(there["known"]["quality_from"]["arc"]["how"], "given");
    assert!(there["speed"]["value"].as_f64() > Some(0.0), "{there}");
    let page = fs::read_to_string(home.join("out/report.md")).unwrap();
    assert!(page.contains("| - | 40.0 ± 2.0 | 75.0 |"), "{page}");
    assert!(page.contains("- arc: given, without an interval"), "{page}");
}

#[test]
fn a_card_has_the_figures_of_its_run() {
    let folder = training::begin();
    let home = folder.path();
    training::done(&mut training::pretrain(home, "run", &[]));
    let card = json_of(herd(
        home,
        &["card", "run", "--watts", "100", "--kg-per-kwh", "0.5", "-o", "CARD.md"],
    ));
    let find = |name: &str| {
        card["entries"].as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap()
    };
    let steps = training::metrics(&home.join("run"), "step");
    let last = steps.last().unwrap();
    assert_eq!(find("tokens read")["value"].as_u64(), None); // numbers of cards are floats
    assert_eq!(find("tokens read")["value"].as_f64(), last["tokens"].as_f64());
    let seconds: f64 = training::rows(&home.join("run/speed.jsonl"))
        .iter()
        .map(|line| line["step_s"].as_f64().unwrap())
        .sum();
    assert!((find("time of steps")["value"].as_f64().unwrap() - seconds).abs() < 1e-9);
    let kwh = find("energy")["value"].as_f64().unwrap();
    assert!((kwh - seconds * 100.0 / 3.6e6).abs() < 1e-12);
    assert!((find("emissions")["value"].as_f64().unwrap() - 0.5 * kwh).abs() < 1e-12);
    assert!(find("training FLOPs")["value"].as_f64() > Some(1e6));
    let page = fs::read_to_string(home.join("CARD.md")).unwrap();
    assert!(page.contains("| stage | pretrain |") && page.contains("docs.jsonl"), "{page}");
    assert!(page.contains("| figure | value | from |") && page.contains("| learning rate | "));
    assert!(page.contains("| seed | ") && page.contains("| batch (tokens a step) | "), "{page}");
    let (code, out, _) = common::told(herd(home, &["card", "run"]).output().unwrap());
    assert!(
        code == 0 && out.contains("| energy | not known |") && out.contains("--watts"),
        "{out}"
    );
    for (args, words) in
        [(vec!["card", "run", "--pue", "0.5"], "1 or more"), (vec!["card", "words"], "is no run")]
    {
        let (code, _, err) = common::told(herd(home, &args).output().unwrap());
        assert!(code == 2 && err.contains(words), "{err}");
    }
}

#[test]
fn the_card_of_an_adapter_has_the_shape_of_its_parent() {
    let settings = training::chat_settings(training::BASE) + training::LORA;
    let folder = training::begin_from_base("sft", &settings);
    let home = folder.path();
    training::done(&mut training::stage(home, "sft", "sft.toml", "run"));
    let card = |run: &str| json_of(herd(home, &["card", run]));
    let value = |card: &Value, name: &str| {
        let of = card["entries"].as_array().unwrap();
        of.iter().find(|entry| entry["name"] == name).unwrap().clone()
    };
    let (base, adapter) = (card("base"), card("run"));
    let [own, parent] = [&base, &adapter].map(|card| value(card, "parameters"));
    assert_eq!(own["value"], parent["value"]);
    assert!(parent["from"].as_str().unwrap().contains("made from"), "{parent}");
    let flops = value(&adapter, "training FLOPs");
    assert!(flops["value"].as_f64() > Some(1e6), "{flops}");
    assert!(flops["from"].as_str().unwrap().contains("an adapter takes about two thirds"));
}
