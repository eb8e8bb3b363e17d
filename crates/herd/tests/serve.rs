//! `herd serve` on a tiny model: shapes, refusals, keys, the queue, and the same bits whatever the
//! company.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;
#[path = "common/server.rs"]
mod server;
#[path = "common/tiny.rs"]
mod tiny;

use std::io::Read;
use std::thread;

use serde_json::{Value, json};
use server::{CHAT, MESSAGES, Server, TEXT, request, with};

/// Text of all answers of a stream of completions.
fn text_of(events: &[Value]) -> String {
    let texts = events.iter().flat_map(|e| e["choices"].as_array().unwrap());
    texts.filter_map(|choice| choice["text"].as_str().map(str::to_owned)).collect()
}

fn chat_text_of(events: &[Value]) -> String {
    let texts = events.iter().flat_map(|e| e["choices"].as_array().unwrap());
    texts.filter_map(|c| c["delta"]["content"].as_str().map(str::to_owned)).collect()
}

#[test]
fn an_answer_is_that_of_complete_alone_or_among_many_streamed_or_not_in_any_shape() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &["--parallel", "32"]);
    let ask = json!({
        "model": "tiny", "prompt": "once upon", "max_tokens": 40, "temperature": 1.5, "seed": 7,
        "top_p": 0.95, "logprobs": 2, "return_token_ids": true,
    });
    let alone = server.post(TEXT, &ask).json();
    let choice = &alone["choices"][0];
    let flags = ["complete", "-m", model.to_str().unwrap(), "-p", "once upon", "-n", "40"];
    let more = ["--temp", "1.5", "--seed", "7", "--top-p", "0.95", "--json"];
    let (code, out, _) = common::run(home.path(), &[&flags[..], &more[..]].concat());
    assert_eq!(code, 0);
    let complete: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&choice["token_ids"], &choice["text"]), (&complete["ids"], &complete["text"]));
    // The scorer's numbers, to the last bit.
    let ids: Vec<u64> = [&choice["prompt_token_ids"], &choice["token_ids"]]
        .iter()
        .flat_map(|list| list.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()))
        .collect();
    let said: Vec<String> = ids.iter().map(u64::to_string).collect();
    let flags = ["logits", "-m", model.to_str().unwrap(), "--top", "0", "--json", "--ids"];
    let (_, out, _) = common::run(home.path(), &[&flags[..], &[&said.join(",")]].concat());
    let logits: Value = serde_json::from_str(&out).unwrap();
    let prompt = choice["prompt_token_ids"].as_array().unwrap().len();
    for (i, log_prob) in choice["logprobs"]["token_logprobs"].as_array().unwrap().iter().enumerate()
    {
        let id = ids[prompt + i] as usize;
        assert_eq!(log_prob, &logits["logprobs"][prompt + i - 1][id]["logprob"], "token {i}");
    }
    // The same among 32 others, of which some stream, some share its prompt, some leave.
    thread::scope(|scope| {
        let server = &server;
        let others: Vec<_> = (0..32)
            .map(|i| {
                let text = format!("{}{}", &"once upon a time"[..i % 16 + 1], "x".repeat(3 * i));
                let fields = json!({ "prompt": text, "seed": i, "stream": i % 3 == 0 });
                let other = with(&ask, fields);
                scope.spawn(move || server.post(TEXT, &other).status)
            })
            .collect();
        for stream in [false, true, false] {
            let reply = server.post(TEXT, &with(&ask, json!({ "stream": stream })));
            if stream {
                let events = reply.events();
                assert_eq!(text_of(&events), choice["text"].as_str().unwrap());
                let ids = events
                    .iter()
                    .flat_map(|e| e["choices"][0]["token_ids"].as_array().unwrap().clone());
                assert_eq!(Value::Array(ids.collect()), choice["token_ids"]);
                let all = events.iter().filter_map(|e| {
                    e["choices"][0]["logprobs"]["token_logprobs"].as_array().cloned()
                });
                let all: Vec<Value> = all.flatten().collect();
                assert_eq!(Value::Array(all), choice["logprobs"]["token_logprobs"]);
            } else {
                assert_eq!(reply.json()["choices"][0], *choice);
            }
        }
        assert!(others.into_iter().all(|other| other.join().unwrap() == 200));
    });
}

#[test]
fn a_chat_is_the_completion_of_its_rendering_streamed_or_not() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &[]);
    let ask = json!({
        "model": "tiny", "messages": [{ "role": "user", "content": "who?" }],
        "max_tokens": 30, "temperature": 1.2, "seed": 3, "return_token_ids": true,
        "logprobs": true, "top_logprobs": 3, "n": 2,
    });
    let whole = server.post(CHAT, &ask).json();
    let choices = whole["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 2);
    assert_ne!(choices[0]["token_ids"], choices[1]["token_ids"]);
    let raw = json!({
        "model": "tiny", "prompt": whole["prompt_token_ids"], "max_tokens": 30,
        "temperature": 1.2, "seed": 3, "return_token_ids": true, "n": 2,
    });
    let raw = server.post(TEXT, &raw).json();
    for (chat, text) in choices.iter().zip(raw["choices"].as_array().unwrap()) {
        assert_eq!(chat["token_ids"], text["token_ids"]);
        assert_eq!(chat["message"]["content"], text["text"]);
    }
    let usage = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let events = server.post(CHAT, &with(&ask, usage)).events();
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let (last, before) = events.split_last().unwrap();
    for of in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(last["usage"][of], whole["usage"][of]);
    }
    // Asked again, the prompt is in the cache but for its last token.
    let read = last["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(last["usage"]["prompt_tokens_details"]["cached_tokens"], read - 1);
    assert_eq!(last["choices"], json!([]));
    for (i, choice) in choices.iter().enumerate() {
        let own: Vec<Value> =
            before.iter().filter(|e| e["choices"][0]["index"] == i).cloned().collect();
        assert_eq!(chat_text_of(&own), choice["message"]["content"].as_str().unwrap());
        let end = own.last().unwrap();
        assert_eq!(end["choices"][0]["finish_reason"], choice["finish_reason"]);
        let said = own.iter().filter_map(|e| e["choices"][0]["logprobs"]["content"].as_array());
        let said: Vec<Value> = said.flatten().cloned().collect();
        assert_eq!(Value::Array(said), choice["logprobs"]["content"]);
    }
}

#[test]
fn what_is_wrong_is_refused_and_named() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &["--body-mb", "1"]);
    let chat = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "x" }] });
    let text = json!({ "model": "tiny", "prompt": "x" });
    for (path, ask, status, field) in [
        (CHAT, with(&chat, json!({ "model": "gpt" })), 404, "model"),
        (CHAT, with(&chat, json!({ "messages": [] })), 400, "messages"),
        (CHAT, with(&chat, json!({ "messages": [{ "role": "king" }] })), 400, "messages[0]"),
        (CHAT, with(&chat, json!({ "top_logprobs": 3 })), 400, "top_logprobs"),
        (CHAT, with(&chat, json!({ "n": 0 })), 400, "n"),
        (CHAT, with(&chat, json!({ "stop": [""] })), 400, "stop"),
        (CHAT, with(&chat, json!({ "logit_bias": { "999": 1 } })), 400, "logit_bias"),
        (CHAT, with(&chat, json!({ "logit_bias": { "x": 1 } })), 400, "logit_bias"),
        (
            CHAT,
            with(&chat, json!({ "response_format": { "type": "xml" } })),
            400,
            "response_format.type",
        ),
        (CHAT, with(&chat, json!({ "stream_options": {} })), 400, "stream_options"),
        (TEXT, with(&text, json!({ "prompt": "x".repeat(600) })), 400, "prompt"),
        (TEXT, with(&text, json!({ "prompt": [] })), 400, "prompt"),
        (TEXT, with(&text, json!({ "prompt": [300] })), 400, "prompt"),
        (TEXT, with(&text, json!({ "prompt": "" })), 400, "prompt"),
        (TEXT, with(&text, json!({ "prompt": [["a"]] })), 400, "prompt"),
        (TEXT, with(&text, json!({ "best_of": 2, "n": 3 })), 400, "best_of"),
        (TEXT, with(&text, json!({ "suffix": "y" })), 400, "suffix"),
        (TEXT, json!({ "model": "tiny" }), 400, "prompt"),
        (TEXT, with(&text, json!({ "max_token": 5 })), 400, "max_token"),
    ] {
        let reply = server.post(path, &ask);
        assert_eq!(
            (reply.status, reply.field().as_deref()),
            (status, Some(field)),
            "{}",
            reply.body
        );
    }
    let near = server.post(TEXT, &with(&text, json!({ "max_token": 5 }))).json();
    assert!(near["error"]["message"].as_str().unwrap().ends_with("did you mean max_tokens?"));
    assert_eq!(server.send(&request(TEXT, "{\"model\": ", "")).status, 400);
    assert_eq!(server.send(&request(TEXT, &"x".repeat(2 << 20), "")).status, 413);
    assert_eq!(server.get("/v1/none").status, 404);
    assert_eq!(server.get(TEXT).status, 405);
    assert_eq!(server.get("/health").json()["status"], "ok");
    assert_eq!(server.get("/v1/models").json()["data"][0]["id"], "tiny");
    assert_eq!(server.get("/v1/models/tiny").json()["id"], "tiny");
    assert_eq!(server.get("/v1/models/other").status, 404);
}

#[test]
fn callers_without_a_key_and_foreign_pages_stay_outside() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &["--api-key", "secret"]);
    let text = json!({ "model": "tiny", "prompt": "x", "max_tokens": 1 });
    assert_eq!(server.post(TEXT, &text).status, 401);
    let key = "Authorization: Bearer secret\r\n";
    let reply = server.post_with(TEXT, &text, key);
    assert_eq!(reply.status, 200);
    assert!(reply.header("x-request-id").is_some());
    let foreign = format!("{key}Origin: http://evil.example\r\n");
    assert_eq!(server.post_with(TEXT, &text, &foreign).status, 403);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_full_queue_says_when_to_come_back_and_who_leaves_makes_room() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &["--parallel", "1", "--queue", "0"]);
    let long = json!({
        "model": "tiny", "prompt": "x", "max_tokens": 500, "stream": true, "ignore_eos": true,
    });
    let mut first = server.open(&request(TEXT, &long.to_string(), ""));
    first.read_exact(&mut [0; 64]).unwrap(); // it has begun
    let second = server.post(TEXT, &long);
    // On a fast machine the first may have ended.
    if second.status != 200 {
        assert_eq!(second.status, 429);
        assert!(second.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    }
    drop(first);
    server.wait_until_idle();
    assert_eq!(server.post(TEXT, &with(&long, json!({ "max_tokens": 2 }))).status, 200);
}

#[test]
fn at_a_signal_what_runs_is_finished() {
    let (home, model) = tiny::home();
    let mut server = Server::start(home.path(), &model, &[]);
    let long = json!({
        "model": "tiny", "prompt": "x", "max_tokens": 300, "stream": true, "ignore_eos": true,
    });
    let mut stream = server.open(&request(TEXT, &long.to_string(), ""));
    let mut answer = vec![0; 64];
    stream.read_exact(&mut answer).unwrap();
    let kill = std::process::Command::new("kill").arg(server.child.id().to_string()).status();
    assert!(kill.unwrap().success());
    stream.read_to_end(&mut answer).unwrap();
    let events = server::read(&answer).events();
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "length");
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

/// The fields that ask for a form, each for one that no other has.
fn forms() -> Vec<(&'static str, Value, Value)> {
    vec![
        ("json_schema", json!({}), json!({ "enum": [1, 2] })),
        ("grammar", json!({}), json!("start: \"a\" | \"b\"")),
        ("guided_json", json!({}), json!("{\"enum\": [3, 4]}")),
        ("guided_regex", json!({}), json!("[cd]")),
        ("guided_choice", json!({}), json!(["e", "f"])),
        ("guided_grammar", json!({}), json!("start: \"g\" | \"h\"")),
        ("structured_outputs", json!({}), json!({ "regex": "[ij]" })),
    ]
}

/// What shows that a field is heard: fields beside it, and the field, with which the answer differs
/// from the one without it.
fn heard(path: &str) -> Vec<(&'static str, Value, Value)> {
    let mut all = vec![
        ("temperature", json!({}), json!(3.0)),
        ("top_p", json!({}), json!(0.05)),
        ("presence_penalty", json!({ "temperature": 0 }), json!(2.0)),
        ("frequency_penalty", json!({ "temperature": 0 }), json!(2.0)),
        ("logit_bias", json!({}), json!({ "65": 100 })),
        ("seed", json!({}), json!(99)),
        ("stop", json!({ "logit_bias": { "65": 100 } }), json!("AAA")),
        ("n", json!({}), json!(2)),
        ("stream", json!({}), json!(true)),
        ("stream_options", json!({ "stream": true }), json!({ "include_usage": true })),
        ("top_k", json!({}), json!(1)),
        ("min_p", json!({}), json!(0.9)),
        ("typical_p", json!({}), json!(0.05)),
        ("repetition_penalty", json!({ "temperature": 0 }), json!(5.0)),
        ("repeat_last_n", json!({ "temperature": 0, "repetition_penalty": 5.0 }), json!(1)),
        ("stop_token_ids", json!({ "logit_bias": { "65": 100 } }), json!([65])),
        ("ignore_eos", json!({ "logit_bias": { "258": 20 } }), json!(true)),
        ("return_token_ids", json!({}), json!(true)),
        ("max_tokens", json!({}), json!(3)),
    ];
    if path != MESSAGES {
        all.extend(forms());
    }
    let tool = json!([{ "type": "function", "function": { "name": "f", "parameters": {} } }]);
    match path {
        MESSAGES => {
            let letters = ('a'..='z').chain('A'..='Z').map(String::from).collect::<Value>();
            let common = ["temperature", "top_p", "top_k", "seed", "stream", "max_tokens"];
            all.retain(|(name, ..)| common.contains(name));
            all.extend([
                ("messages", json!({}), json!([{ "role": "user", "content": "other" }])),
                ("system", json!({}), json!("be brief")),
                ("stop_sequences", json!({ "max_tokens": 60 }), letters),
                ("tools", json!({}), json!([{ "name": "f", "input_schema": {} }])),
                ("tool_choice", json!({}), json!({ "type": "any" })),
                (
                    "output_config",
                    json!({}),
                    json!({ "format": { "type": "json_schema", "schema": { "enum": [7, 8] } } }),
                ),
            ]);
        }
        CHAT => all.extend([
            ("messages", json!({}), json!([{ "role": "user", "content": "other" }])),
            ("max_completion_tokens", json!({ "max_tokens": null }), json!(3)),
            ("logprobs", json!({}), json!(true)),
            ("top_logprobs", json!({ "logprobs": true }), json!(2)),
            ("tools", json!({}), tool),
            ("tool_choice", json!({}), json!("required")),
            ("parallel_tool_calls", json!({}), json!(false)),
            ("response_format", json!({}), json!({ "type": "json_object" })),
        ]),
        _ => all.extend([
            ("prompt", json!({}), json!("other")),
            ("logprobs", json!({}), json!(2)),
            ("echo", json!({}), json!(true)),
            ("prompt_logprobs", json!({}), json!(1)),
            ("logprob_start_len", json!({ "prompt": "xyz", "prompt_logprobs": 1 }), json!(2)),
            ("best_of", json!({ "temperature": 2.0 }), json!(8)),
        ]),
    }
    all.push(("model", json!({}), json!("other")));
    all
}

#[test]
fn every_honoured_field_changes_what_it_should_and_every_other_is_told() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &[]);
    let fields = server.get("/v1/capabilities").json()["fields"].clone();
    let base = json!({ "model": "tiny", "max_tokens": 12, "seed": 1, "temperature": 0.9 });
    let chat = with(&base, json!({ "messages": [{ "role": "user", "content": "x" }] }));
    let text = with(&base, json!({ "prompt": "x" }));
    for (path, base) in [(CHAT, &chat), (TEXT, &text), (MESSAGES, &chat)] {
        let names = |fate: &str| -> Vec<String> {
            let list = fields[path][fate].as_array().unwrap().iter();
            list.map(|name| name.as_str().unwrap().to_owned()).collect()
        };
        let (mut shown, mut honoured) = (Vec::new(), names("honoured"));
        for (name, beside, value) in heard(path) {
            let without = server.post(path, &with(base, beside.clone()));
            let asked = with(&with(base, beside), json!({ name: value }));
            let got = server.post(path, &asked);
            assert_eq!(without.status, 200, "{path} {name}: {}", without.body);
            // What is random, the time, or what the cache had, is no difference.
            let plain = |body: &str| {
                let chance = ["\"id\"", "\"created\"", "\"cache", "\"input_tokens\""];
                let parts = body.split([',', '{', '}']);
                let kept = parts.filter(|p| !chance.iter().any(|name| p.starts_with(name)));
                kept.collect::<Vec<_>>().join(",")
            };
            assert_ne!(plain(&without.body), plain(&got.body), "{path} {name} changes nothing");
            assert_eq!(plain(&server.post(path, &asked).body), plain(&got.body), "{path} {name}");
            shown.push(name.to_owned());
        }
        shown.sort();
        honoured.sort();
        assert_eq!(shown, honoured, "{path}");
        for name in names("warned") {
            let reply = server.post(path, &with(base, json!({ name.as_str(): "x" }))).json();
            let warning = reply["warnings"][0].as_str().unwrap();
            assert!(warning.starts_with(&format!("{name} changes nothing")), "{warning}");
        }
        for name in names("refused").iter().chain(&names("restricted")) {
            let reply = server.post(path, &with(base, json!({ name.as_str(): { "odd": 1 } })));
            assert_eq!(reply.status, 400, "{}", reply.body);
            let message = reply.json()["error"]["message"].as_str().unwrap().to_owned();
            assert!(message.starts_with(&format!("{name} is ")), "{message}");
        }
    }
}

#[test]
fn text_becomes_ids_and_text_again_without_the_model() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &[]);
    let ids =
        server.post("/tokenize", &json!({ "content": "hi<|im_end|>" })).json()["tokens"].clone();
    assert_eq!(ids.as_array().unwrap().len(), 12, "special strings are text");
    let back = server.post("/detokenize", &json!({ "tokens": ids })).json();
    assert_eq!(back["content"], "hi<|im_end|>");
    let special = json!({ "content": "h<|im_end|>", "parse_special": true, "with_pieces": true });
    let pieces = server.post("/tokenize", &special).json()["tokens"].clone();
    assert_eq!(pieces[0]["piece"], "h");
    assert_eq!((pieces.as_array().unwrap().len(), &pieces[1]["id"]), (2, &json!(258)));
    assert_eq!(server.post("/detokenize", &json!({ "tokens": [259] })).status, 400);
    // vLLM's names for the same, and a control token by its name alone.
    let theirs = json!({ "model": "tiny", "prompt": "hi<|im_end|>", "add_special_tokens": false });
    assert_eq!(server.post("/tokenize", &theirs).json()["tokens"], ids);
    let end = json!({ "prompt": "<|im_end|>", "add_special_tokens": false });
    assert_eq!(server.post("/tokenize", &end).json()["tokens"], json!([258]));
    assert_eq!(server.get("/tokenizer_info").json()["eos_token"], "<|im_end|>");
    for (body, field) in [
        (json!({}), "content"),
        (json!({ "content": "x", "prompt": "x" }), "prompt"),
        (json!({ "prompt": "x", "model": "other" }), "model"),
    ] {
        assert_eq!(server.post("/tokenize", &body).field().as_deref(), Some(field));
    }
    let template = json!({ "messages": [{ "role": "user", "content": "hi" }] });
    let prompt = server.post("/apply-template", &template).json();
    assert_eq!(prompt["prompt"], "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
    let text = json!({ "model": "tiny", "prompt": "x", "max_tokens": 2, "ignore_eos": true });
    assert_eq!(server.post(TEXT, &text).status, 200);
    server.wait_until_idle();
    assert!(server.get("/metrics").body.contains("\nherd_answer_tokens_total 2\n"));
    let docs = server.get("/docs").json();
    let schema =
        &docs["paths"][TEXT]["post"]["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(schema["properties"]["seed"]["type"], json!(["integer", "null"]));
}

#[test]
fn a_message_is_the_chat_of_the_same_words_streamed_or_not() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &[]);
    let settings = json!({ "model": "tiny", "max_tokens": 25, "temperature": 1.2, "seed": 3 });
    let user = json!({ "role": "user", "content": "who?" });
    let said = json!([{ "role": "system", "content": "be brief" }, user]);
    let chat = server.post(CHAT, &with(&settings, json!({ "messages": said }))).json();
    let blocks = json!([{ "type": "text", "text": "be " }, { "type": "text", "text": "brief" }]);
    let ask = with(&settings, json!({ "messages": [user], "system": blocks }));
    let whole = server.post(MESSAGES, &ask).json();
    assert_eq!(whole["content"][0]["text"], chat["choices"][0]["message"]["content"]);
    assert_eq!(whole["stop_reason"], "max_tokens");
    let input = whole["usage"]["input_tokens"].as_u64().unwrap();
    let cached = whole["usage"]["cache_read_input_tokens"].as_u64().unwrap();
    assert_eq!(input + cached, chat["usage"]["prompt_tokens"].as_u64().unwrap());
    let counted = json!({ "model": "tiny", "messages": [user], "system": "be brief" });
    let counted = server.post("/v1/messages/count_tokens", &counted).json();
    assert_eq!(counted["input_tokens"], chat["usage"]["prompt_tokens"]);
    let stream = server.post(MESSAGES, &with(&ask, json!({ "stream": true }))).body;
    let data = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    let events: Vec<Value> = data.map(|text| serde_json::from_str(text).unwrap()).collect();
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[..2], ["message_start", "content_block_start"]);
    assert_eq!(kinds[kinds.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    let text: String = events.iter().filter_map(|e| e["delta"]["text"].as_str()).collect();
    assert_eq!(text, whole["content"][0]["text"].as_str().unwrap());
    assert_eq!(events[events.len() - 2]["delta"]["stop_reason"], "max_tokens");
    let refused = server.post(MESSAGES, &with(&ask, json!({ "max_token": 3 }))).json();
    assert_eq!(refused["type"], "error");
    assert_eq!(refused["error"]["type"], "invalid_request_error");
}
