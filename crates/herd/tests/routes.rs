//! `herd serve` in the shapes beside OpenAI's chat and completions and Anthropic's: the same answers.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;
#[path = "common/server.rs"]
mod server;
#[path = "common/tiny.rs"]
mod tiny;

use serde_json::{Value, json};
use server::{CHAT, Server, with};

fn lines(body: &str) -> Vec<Value> {
    body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn ollamas_chat_is_the_chat_of_the_same_words_streamed_or_not() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &[]);
    let said = json!([
        { "role": "system", "content": "be brief" }, { "role": "user", "content": "who?" }
    ]);
    let chat = json!({
        "model": "tiny", "messages": said, "max_tokens": 25, "temperature": 1.2, "seed": 3,
        "logprobs": true, "top_logprobs": 2,
    });
    let chat = server.post(CHAT, &chat).json();
    let options = json!({ "num_predict": 25, "temperature": 1.2, "seed": 3, "num_ctx": 4096 });
    let ask = json!({
        "model": "tiny:latest", "messages": said, "options": options, "logprobs": true,
        "top_logprobs": 2,
    });
    let whole = server.post("/api/chat", &with(&ask, json!({ "stream": false }))).json();
    let choice = &chat["choices"][0];
    assert_eq!(whole["message"]["content"], choice["message"]["content"]);
    assert_eq!(whole["logprobs"], choice["logprobs"]["content"]);
    assert_eq!(whole["prompt_eval_count"], chat["usage"]["prompt_tokens"]);
    assert_eq!(whole["eval_count"], chat["usage"]["completion_tokens"]);
    assert_eq!((&whole["done"], &whole["done_reason"]), (&json!(true), &json!("length")));
    assert_eq!(whole["warnings"][0], "num_ctx changes nothing: the context is that of the server");
    let parts = ["prompt_eval_duration", "eval_duration"].map(|name| whole[name].as_u64().unwrap());
    assert_eq!(parts.iter().sum::<u64>(), whole["total_duration"].as_u64().unwrap());
    let streamed = server.post("/api/chat", &ask);
    assert_eq!(streamed.header("content-type").unwrap(), "application/x-ndjson");
    let streamed = lines(&streamed.body);
    let text: String = streamed.iter().filter_map(|l| l["message"]["content"].as_str()).collect();
    assert_eq!(text, whole["message"]["content"].as_str().unwrap());
    let (last, before) = streamed.split_last().unwrap();
    assert_eq!((&last["done"], &last["eval_count"]), (&json!(true), &whole["eval_count"]));
    assert!(before.iter().all(|line| line["done"] == false) && before.len() > 5);
    let generate = json!({
        "model": "tiny", "system": "be brief", "prompt": "who?", "options": options, "stream": false,
    });
    let generated = server.post("/api/generate", &generate).json();
    assert_eq!(generated["response"], whole["message"]["content"]);
    let raw = json!({
        "model": "tiny", "prompt": "ab", "raw": true, "options": options, "stream": false,
    });
    let text = json!({
        "model": "tiny", "prompt": "ab", "max_tokens": 25, "temperature": 1.2, "seed": 3,
    });
    let text = server.post("/v1/completions", &text).json();
    let raw = server.post("/api/generate", &raw).json();
    assert_eq!(raw["response"], text["choices"][0]["text"]);
}

#[test]
fn ollamas_options_are_heard_refused_or_warned_of() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &[]);
    let ask = |options: Value| {
        let base = json!({ "num_predict": 12, "seed": 1, "temperature": 0.9 });
        let options = with(&base, options);
        let said = json!([{ "role": "user", "content": "x" }]);
        let ask = json!({ "model": "tiny", "messages": said, "options": options, "stream": false });
        server.post("/api/chat", &ask)
    };
    let letters = ('a'..='z').chain('A'..='Z').map(String::from).collect::<Value>();
    for (name, beside, value) in [
        ("temperature", json!({}), json!(3.0)),
        ("top_p", json!({}), json!(0.05)),
        ("top_k", json!({}), json!(1)),
        ("min_p", json!({}), json!(0.9)),
        ("typical_p", json!({}), json!(0.05)),
        ("seed", json!({}), json!(99)),
        ("num_predict", json!({}), json!(3)),
        ("stop", json!({ "num_predict": 60 }), letters),
        ("repeat_penalty", json!({ "temperature": 0 }), json!(5.0)),
        ("repeat_last_n", json!({ "temperature": 0, "repeat_penalty": 5.0 }), json!(1)),
        ("presence_penalty", json!({ "temperature": 0 }), json!(2.0)),
        ("frequency_penalty", json!({ "temperature": 0 }), json!(2.0)),
    ] {
        let without = ask(beside.clone()).json();
        let got = ask(with(&beside, json!({ name: value }))).json();
        assert_ne!(without["message"], got["message"], "{name} changes nothing");
    }
    let refused = ask(json!({ "temprature": 1 }));
    assert_eq!(refused.status, 400);
    let message = refused.json()["error"].as_str().unwrap().to_owned();
    assert!(message.contains("did you mean temperature?"), "{message}");
    assert_eq!(ask(json!({ "mirostat": 1 })).status, 400);
    assert_eq!(
        ask(json!({ "mirostat": 0, "use_mmap": true })).json()["warnings"][0]
            .as_str()
            .map(|w| &w[..8]),
        Some("use_mmap")
    );
}

#[test]
fn ollamas_clients_are_told_of_the_model() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &[]);
    let tags = server.get("/api/tags").json();
    assert_eq!(tags["models"][0]["name"], "tiny");
    assert_eq!(tags["models"][0]["details"]["format"], "gguf");
    assert_eq!(server.get("/api/ps").json()["models"][0]["context_length"], 512);
    let shown = server.post("/api/show", &json!({ "model": "tiny" })).json();
    assert_eq!(shown["model_info"]["llama.vocab_size"], 259);
    assert_eq!(shown["capabilities"][0], "completion");
    assert!(server.get("/api/version").json()["version"].is_string());
    let other = server.post("/api/show", &json!({ "model": "other" }));
    assert_eq!(other.status, 404);
    assert!(other.json()["error"].as_str().unwrap().contains("no model"));
}

#[test]
fn a_text_has_one_vector_alone_or_among_many_in_any_shape() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &["--parallel", "4"]);
    const EMBED: &str = "/v1/embeddings";
    let texts: Vec<String> = (1..20).map(|n| "once upon a time ".repeat(n)).collect();
    let texts = json!(texts);
    let base = json!({ "model": "tiny", "input": texts });
    let all = server.post(EMBED, &base).json();
    let data = all["data"].as_array().unwrap();
    let vector = |i: usize| data[i]["embedding"].as_array().unwrap();
    let length: f64 = vector(3).iter().map(|x| x.as_f64().unwrap().powi(2)).sum();
    assert!((length - 1.0).abs() < 1e-6 && vector(3).len() == 32, "{length}");
    for i in [0, 3, 18] {
        let one = server.post(EMBED, &with(&base, json!({ "input": texts[i] }))).json();
        assert_eq!(one["data"][0]["embedding"], data[i]["embedding"]);
        let ids = server.post("/tokenize", &json!({ "content": texts[i] })).json();
        let ids = server.post(EMBED, &with(&base, json!({ "input": ids["tokens"] }))).json();
        assert_eq!(ids["data"][0]["embedding"], data[i]["embedding"]);
    }
    let ollama = server.post("/api/embed", &base).json();
    assert_eq!(ollama["embeddings"][3], data[3]["embedding"]);
    assert_eq!(ollama["prompt_eval_count"], all["usage"]["prompt_tokens"]);
    let raw = server.post(EMBED, &with(&base, json!({ "normalize": false }))).json();
    let older = server.post("/api/embeddings", &json!({ "model": "tiny", "prompt": texts[3] }));
    assert_eq!(older.json()["embedding"], raw["data"][3]["embedding"]);
    let full = json!({ "encoding_format": "base64", "dimensions": 32, "user": "me" });
    let packed = server.post(EMBED, &with(&base, full)).json();
    assert_eq!(packed["data"][0]["embedding"].as_str().unwrap().len(), 128_usize.div_ceil(3) * 4);
    assert!(packed["warnings"][0].as_str().unwrap().starts_with("user"));
    for (fields, field, words) in [
        (json!({ "input": "x".repeat(600) }), "input", "600 tokens, the context 512"),
        (json!({ "input": "" }), "input", "empty"),
        (json!({ "input": { "a": 1 } }), "input", "input is no text"),
        (json!({ "dimensions": 16 }), "dimensions", "the model's vectors have 32"),
        (json!({ "encoding_format": "int8" }), "encoding_format", "taken are"),
    ] {
        let refused = server.post(EMBED, &with(&base, fields));
        assert_eq!((refused.status, refused.field().as_deref()), (400, Some(field)));
        assert!(refused.body.contains(words), "{}", refused.body);
    }
}

const RESPONSES: &str = "/v1/responses";

/// The events of a stream by their names, which stand twice.
fn named(body: &str) -> Vec<Value> {
    let mut events = Vec::new();
    for block in body.split_terminator("\n\n") {
        let (name, data) = block.split_once('\n').unwrap();
        let event: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(event["type"], name.strip_prefix("event: ").unwrap());
        assert_eq!(event["sequence_number"], events.len());
        events.push(event);
    }
    events
}

#[test]
fn a_response_is_the_chat_of_the_same_words_streamed_or_not() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &[]);
    let chat = json!({
        "model": "tiny", "max_tokens": 25, "temperature": 1.2, "seed": 3, "logprobs": true,
        "top_logprobs": 2, "messages": [
            { "role": "system", "content": "be brief" }, { "role": "user", "content": "who?" }
        ],
    });
    let chat = server.post(CHAT, &chat).json();
    let ask = json!({
        "model": "tiny", "instructions": "be brief", "input": "who?", "max_output_tokens": 25,
        "temperature": 1.2, "seed": 3, "include": ["message.output_text.logprobs"], "top_logprobs": 2,
        "metadata": { "k": "v" },
    });
    let whole = server.post(RESPONSES, &ask).json();
    let part = &whole["output"][0]["content"][0];
    assert_eq!(part["text"], chat["choices"][0]["message"]["content"]);
    assert_eq!(part["logprobs"], chat["choices"][0]["logprobs"]["content"]);
    assert_eq!(whole["usage"]["input_tokens"], chat["usage"]["prompt_tokens"]);
    assert_eq!((&whole["status"], &whole["metadata"]["k"]), (&json!("incomplete"), &json!("v")));
    assert_eq!(whole["incomplete_details"]["reason"], "max_output_tokens");
    let streamed = server.post(RESPONSES, &with(&ask, json!({ "stream": true })));
    let events = named(&streamed.body);
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(
        kinds[..4],
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added"
        ]
    );
    assert_eq!(
        kinds[kinds.len() - 4..],
        [
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.incomplete"
        ]
    );
    let text: String = events.iter().filter_map(|e| e["delta"].as_str()).collect();
    assert_eq!(text, part["text"].as_str().unwrap());
    let last = &events.last().unwrap()["response"];
    assert_eq!(last["output"][0]["content"], whole["output"][0]["content"]);
    let done = &events[events.len() - 2]["item"];
    assert_eq!(*done, last["output"][0]);
    let kept = server.get(&format!("{RESPONSES}/{}", last["id"].as_str().unwrap())).json();
    assert_eq!(kept, *last);
}

#[test]
fn a_response_goes_on_from_one_that_is_kept() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &[]);
    let base = json!({
        "model": "tiny", "max_output_tokens": 12, "temperature": 0.9, "seed": 5,
    });
    let first = server.post(RESPONSES, &with(&base, json!({ "input": "one" }))).json();
    let said = first["output"][0]["content"][0]["text"].as_str().unwrap();
    let next = json!({ "input": "two", "previous_response_id": first["id"], "store": false });
    let next = server.post(RESPONSES, &with(&base, next)).json();
    let all = json!({ "input": [
        { "role": "user", "content": "one" },
        { "type": "message", "role": "assistant", "content": [
            { "type": "output_text", "text": said, "annotations": [] }
        ] },
        { "role": "user", "content": [{ "type": "input_text", "text": "two" }] },
    ] });
    let all = server.post(RESPONSES, &with(&base, all)).json();
    assert_eq!(next["output"][0]["content"], all["output"][0]["content"]);
    assert_eq!(next["usage"]["input_tokens"], all["usage"]["input_tokens"]);
    let gone = json!({ "input": "x", "previous_response_id": next["id"] });
    let gone = server.post(RESPONSES, &with(&base, gone));
    assert_eq!((gone.status, gone.field().as_deref()), (400, Some("previous_response_id")));
    for (fields, field) in [
        (json!({ "input": [{ "type": "reasoning" }] }), "input[0]"),
        (json!({ "input": [] }), "input"),
        (json!({ "input": "x", "include": ["file_search_call.results"] }), "include"),
        (json!({ "input": "x", "top_logprobs": 3 }), "top_logprobs"),
        (json!({ "input": "x", "tools": [{ "type": "web_search" }] }), "tools[0].type"),
        (json!({ "input": "x", "background": true }), "background"),
        (json!({ "input": "x", "conversation": "c" }), "conversation"),
        (json!({ "input": "x", "max_tokens": 3 }), "max_tokens"),
        (json!({ "input": "x".repeat(600) }), "input"),
    ] {
        let refused = server.post(RESPONSES, &with(&base, fields));
        assert_eq!(
            (refused.status, refused.field().as_deref()),
            (400, Some(field)),
            "{}",
            refused.body
        );
    }
}

#[test]
fn every_field_of_responses_is_heard_or_told() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &[]);
    let base = json!({
        "model": "tiny", "input": "x", "max_output_tokens": 12, "temperature": 0.9, "seed": 5,
    });
    let said = |reply: &server::Reply| {
        let json = reply.json();
        (json["output"][0]["content"].clone(), json["metadata"].clone(), json["store"].clone())
    };
    let letters = ('a'..='z').chain('A'..='Z').map(String::from).collect::<Value>();
    let list = json!(["message.output_text.logprobs"]);
    for (name, beside, value) in [
        ("input", json!({}), json!("other")),
        ("instructions", json!({}), json!("be brief")),
        ("store", json!({}), json!(false)),
        ("max_output_tokens", json!({}), json!(3)),
        ("temperature", json!({}), json!(3.0)),
        ("top_p", json!({}), json!(0.05)),
        ("top_k", json!({}), json!(1)),
        ("min_p", json!({}), json!(0.9)),
        ("repetition_penalty", json!({ "temperature": 0 }), json!(5.0)),
        ("seed", json!({}), json!(99)),
        ("stop", json!({ "max_output_tokens": 60 }), letters),
        ("include", json!({}), list.clone()),
        ("top_logprobs", json!({ "include": list }), json!(2)),
        ("metadata", json!({}), json!({ "a": "b" })),
        (
            "text",
            json!({}),
            json!({ "format": { "type": "json_schema", "schema": { "enum": [7] } } }),
        ),
    ] {
        let without = server.post(RESPONSES, &with(&base, beside.clone()));
        let got = server.post(RESPONSES, &with(&with(&base, beside), json!({ name: value })));
        assert_eq!(got.status, 200, "{name}: {}", got.body);
        assert_ne!(said(&without), said(&got), "{name} changes nothing");
    }
    let fields = server.get("/v1/capabilities").json()["fields"][RESPONSES].clone();
    for name in fields["warned"].as_array().unwrap() {
        let name = name.as_str().unwrap();
        let reply = server.post(RESPONSES, &with(&base, json!({ name: "x" }))).json();
        assert!(reply["warnings"][0].as_str().unwrap().starts_with(name), "{reply}");
    }
    for fate in ["refused", "restricted"] {
        for name in fields[fate].as_array().unwrap() {
            let name = name.as_str().unwrap();
            let reply = server.post(RESPONSES, &with(&base, json!({ name: { "odd": 1 } })));
            assert_eq!((reply.status, reply.field().as_deref()), (400, Some(name)));
        }
    }
}
