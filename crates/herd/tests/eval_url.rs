//! `herd eval run --url`: an endpoint is measured as a model of this machine is, to the last byte; one that fails is
//! asked again, and then said to have failed.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;
#[path = "common/measured.rs"]
mod measured;
#[path = "common/proxy.rs"]
mod proxy;
#[path = "common/server.rs"]
mod server;
#[path = "common/tiny.rs"]
mod tiny;

use std::fs;
use std::process::Stdio;

use measured::{Place, kill_behind};
use proxy::{Act, Proxy};
use serde_json::{Value, json};
use server::Server;

/// As long as [`Server`]'s.
const CONTEXT: [&str; 2] = ["-c", "512"];

/// All that a run leaves.
fn left(place: &Place, out: &str) -> Vec<String> {
    let of = fs::read_to_string(place.path(out).join("of.json")).unwrap();
    [vec![of], place.left(out).to_vec()].concat()
}

/// What measuring the endpoint at `url` leaves.
fn measured_at(place: &Place, out: &str, url: &str, more: &[&str]) -> Vec<String> {
    let output = place.command_of(out, &[&["--url", url], more].concat()).output().unwrap();
    let (code, _, error) = common::told(output);
    assert_eq!(code, 0, "{error}");
    left(place, out)
}

/// The words of a run at `url` that cannot be gone on with.
fn refused_at(place: &Place, out: &str, url: &str, more: &[&str]) -> String {
    let output = place.command_of(out, &[&["--url", url], more].concat()).output().unwrap();
    let (code, _, error) = common::told(output);
    assert_eq!(code, 2, "{error}");
    assert!(!error.contains("a fault in herd"), "{error}");
    error
}

#[test]
fn over_http_the_results_are_those_of_this_machine() {
    let place = Place::new();
    place.measured("here", &CONTEXT);
    let wanted = left(&place, "here");
    let server = Server::start(place.home.path(), &place.model, &[]);
    let url = format!("http://{}", server.address);
    for size in ["1", "7", "32"] {
        let out = format!("there{size}");
        assert!(measured_at(&place, &out, &url, &["-b", size]) == wanted, "batches of {size}");
    }
    // One half over HTTP until a kill, the other here, or over HTTP again.
    for (out, goes_on_here) in [("mixed", true), ("again", false)] {
        let mut command = place.command_of(out, &["--url", &format!("{url}/v1/"), "-b", "2"]);
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        kill_behind(&mut child, &place.path(out).join("samples/pick.jsonl"));
        assert!(!place.path(out).join("results.json").exists());
        match goes_on_here {
            true => drop(place.measured(out, &CONTEXT)),
            false => drop(measured_at(&place, out, &url, &[])),
        }
        assert!(left(&place, out) == wanted, "{out}");
    }
}

#[test]
fn chats_over_http_are_those_of_this_machine() {
    let place = Place::new();
    let chat = ["--limit", "5", "--apply-chat-template", "--system-instruction", "Be brief."];
    let turns = [&chat[..], &["--fewshot-as-multiturn"]].concat();
    place.measured("here", &[&CONTEXT[..], &turns].concat());
    let server = Server::start(place.home.path(), &place.model, &[]);
    let url = format!("http://{}", server.address);
    assert_eq!(measured_at(&place, "there", &url, &turns), left(&place, "here"));
    let named = [&turns[..], &["--chat-template", "chatml"]].concat();
    assert!(refused_at(&place, "named", &url, &named).contains("--tokenizer"));
    // A tokenizer of this machine says the same.
    let model = place.model.to_str().unwrap();
    let own = [&turns[..], &["--tokenizer", model]].concat();
    assert_eq!(measured_at(&place, "own", &url, &own), left(&place, "here"));
}

#[test]
fn models_contexts_and_fields_that_are_not_there_are_named() {
    let place = Place::new();
    let server = Server::start(place.home.path(), &place.model, &["-a", "a name/1"]);
    let url = format!("http://{}", server.address);
    let told = measured_at(&place, "named", &url, &["--limit", "2", "--model", "a name/1"]);
    assert!(!told[0].contains("a name"), "{}", told[0]);
    let error = refused_at(&place, "other", &url, &["--model", "b"]);
    assert!(error.contains("one that the endpoint serves: a name/1"), "{error}");
    let error = refused_at(&place, "long", &url, &["-c", "513"]);
    assert!(error.contains("between 1 and the endpoint's 512"), "{error}");
    let shown = server.get("/v1/capabilities?weight=true");
    assert_eq!(shown.status, 400, "{}", shown.body);
}

#[test]
fn an_endpoint_that_stumbles_is_asked_again_and_the_results_are_the_same() {
    let place = Place::new();
    place.measured("here", &[&CONTEXT[..], &["--limit", "20"]].concat());
    let wanted = left(&place, "here");
    let server = Server::start(place.home.path(), &place.model, &[]);
    let proxy = Proxy::new(server.address, |_, before| match before {
        5 => Act::Close,
        10 => Act::Says(429, "{\"error\":{\"message\":\"busy\"}}".to_owned()),
        15..=17 => Act::Says(503, "no".to_owned()),
        20 => Act::Says(200, "{\"choices\":[{\"prompt_log".to_owned()),
        25 => Act::Says(200, json!({ "choices": [{ "text": "", "logprobs": null }] }).to_string()),
        30 => Act::Says(200, "\u{fffd}<html>".to_owned()),
        35 => Act::Cut(300),
        40 => Act::Hang,
        _ => Act::Pass,
    });
    let more = ["--limit", "20", "--attempts", "20", "--pause-ms", "1", "--timeout", "5"];
    assert_eq!(measured_at(&place, "there", &proxy.url, &more), wanted);
}

#[test]
fn an_endpoint_that_is_gone_is_named_and_what_was_done_stands() {
    let place = Place::new();
    place.measured("here", &CONTEXT);
    let wanted = left(&place, "here");
    let server = Server::start(place.home.path(), &place.model, &[]);
    let few = ["--attempts", "3", "--pause-ms", "1", "-b", "4"];
    let junk = json!({ "choices": [{ "prompt_logprobs": [null, 0], "text": "" }] }).to_string();
    for (out, words) in [("dead", "status 502"), ("junk", "no answer (it has log-prob")] {
        let (text, status) = if out == "dead" { (String::new(), 502) } else { (junk.clone(), 200) };
        let proxy = Proxy::new(server.address, move |path, before| {
            let over = path.ends_with("/completions") && before > 300;
            if over { Act::Says(status, text.clone()) } else { Act::Pass }
        });
        let error = refused_at(&place, out, &proxy.url, &few);
        assert!(error.contains("task pick: 64 of 150 items stand"), "{error}");
        assert!(error.contains("the same command goes on") && error.contains(words), "{error}");
        assert!(!place.path(out).join("results.json").exists());
        let samples = fs::read_to_string(place.path(out).join("samples/pick.jsonl")).unwrap();
        assert!(wanted[2].starts_with(&samples) && samples.lines().count() == 64);
        let url = format!("http://{}", server.address);
        assert!(measured_at(&place, out, &url, &[]) == wanted, "{out}");
    }
    // Nobody is there at all.
    let nobody = "http://127.0.0.1:1";
    let error = refused_at(&place, "nobody", nobody, &few);
    assert!(error.contains(nobody) && !place.path("nobody").exists(), "{error}");
    let error = refused_at(&place, "nobody", nobody, &["--offline"]);
    assert!(error.contains("--offline forbids"), "{error}");
}

/// A server that is not Herd's: no ids, no templates, OpenAI's fields.
fn another(server: &Server, card: Value) -> Proxy {
    let card = json!({ "object": "list", "data": [card] }).to_string();
    Proxy::new(server.address, move |path, _| match path {
        "/v1/models" => Act::Says(200, card.clone()),
        "/v1/completions" => Act::Pass,
        _ => Act::Says(404, "{}".to_owned()),
    })
}

#[test]
fn another_endpoint_is_asked_as_lm_eval_asks_with_a_tokenizer_of_this_machine() {
    let place = Place::new();
    let short = ["--limit", "9"];
    let [_, pick, sums] = place.measured("here", &[&CONTEXT[..], &short].concat());
    let server = Server::start(place.home.path(), &place.model, &[]);
    let card = json!({ "id": "tiny", "owned_by": "somebody", "max_model_len": 512 });
    let proxy = another(&server, card);
    let error = refused_at(&place, "none", &proxy.url, &short);
    assert!(error.contains("--tokenizer would"), "{error}");
    let own = [&short[..], &["--tokenizer", place.model.to_str().unwrap()]].concat();
    let told = measured_at(&place, "there", &proxy.url, &own);
    assert_eq!(told[2], pick);
    let of: Value = serde_json::from_str(&told[0]).unwrap();
    assert_eq!((&of["model"], &of["class"]), (&json!("tiny"), &Value::Null));
    assert_eq!(of["endpoint"], "somebody");
    let texts = |receipts: &str| -> Vec<Value> {
        let lines = receipts.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|receipt| receipt["answers"][0]["text"].clone()).collect()
    };
    assert_eq!(texts(&told[3]), texts(&sums));
    // One that does not tell its context must be told.
    let proxy = another(&server, json!({ "id": "tiny" }));
    let error = refused_at(&place, "bare", &proxy.url, &own);
    assert!(error.contains("--ctx-size"), "{error}");
    let told = measured_at(&place, "bare", &proxy.url, &[&own[..], &CONTEXT].concat());
    assert_eq!(told[2], pick);
}

#[test]
fn a_key_goes_along() {
    let place = Place::new();
    let server = Server::start(place.home.path(), &place.model, &["--api-key", "s3cret"]);
    let url = format!("http://{}", server.address);
    let error = refused_at(&place, "out", &url, &["--limit", "1"]);
    assert!(error.contains("status 401"), "{error}");
    measured_at(&place, "out", &url, &["--limit", "1", "--api-key", "s3cret"]);
    let (code, _, error) = place.run("out", &["--api-key", "s3cret"]);
    assert!(code == 2 && error.contains("--url"), "{error}");
}
