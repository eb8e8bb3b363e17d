//! `herd serve` holds answers to forms: structured output, forced calls, strict functions; the same
//! bits in any company, and what is no form is refused by name.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;
#[path = "common/server.rs"]
mod server;
#[path = "common/tiny.rs"]
mod tiny;

use std::thread;

use serde_json::{Value, json};
use server::Server;

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";
const MESSAGES: &str = "/v1/messages";

/// A server of a model that knows calls.
fn calling(home: &std::path::Path, more: &[&str]) -> Server {
    let model = tiny::write_llama3(home);
    let flags = ["--chat-template", "llama3.1-hf", "-c", "4096", "--alias", "tiny"];
    Server::start(home, &model, &[&flags[..], more].concat())
}

/// `a` with the fields of `b`.
fn with(a: &Value, b: Value) -> Value {
    let mut all = a.clone();
    for (name, value) in b.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

/// A flat object of three fields, and whether a value is one.
fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "colour": { "enum": ["red", "green"] },
            "size": { "type": "integer", "minimum": 1, "maximum": 99 },
            "tags": { "type": "array", "items": { "type": "string", "maxLength": 5 }, "maxItems": 2 },
        },
        "required": ["colour", "size", "tags"],
        "additionalProperties": false,
    })
}

fn holds(value: &Value) -> bool {
    let size = value["size"].as_i64();
    let tags = value["tags"].as_array();
    value.as_object().is_some_and(|map| map.len() == 3)
        && ["red", "green"].contains(&value["colour"].as_str().unwrap_or_default())
        && size.is_some_and(|n| (1..=99).contains(&n))
        && tags.is_some_and(|tags| {
            tags.len() <= 2 && tags.iter().all(|t| t.as_str().unwrap().chars().count() <= 5)
        })
}

fn asked() -> Value {
    json!({
        "model": "tiny", "messages": [{ "role": "user", "content": "which?" }],
        "max_tokens": 120, "temperature": 5.0,
    })
}

/// Two functions, in OpenAI's shape.
fn tools(strict: bool) -> Value {
    let none = json!({ "type": "object", "properties": {}, "additionalProperties": false });
    json!([
        { "type": "function", "function": { "name": "paint", "parameters": schema(), "strict": strict } },
        { "type": "function", "function": { "name": "now", "parameters": none, "strict": strict } },
    ])
}

/// A call's name and arguments, checked against its schema.
fn checked(name: &str, arguments: &Value) {
    match name {
        "paint" => assert!(holds(arguments), "{arguments}"),
        _ => assert_eq!((name, arguments), ("now", &json!({}))),
    }
}

#[test]
fn structured_answers_validate_or_end_with_length_and_are_the_same_in_company() {
    let home = tempfile::tempdir().unwrap();
    let model = tiny::write(home.path());
    let server = Server::start(home.path(), &model, &["--parallel", "8"]);
    let format = json!({ "type": "json_schema", "json_schema": { "name": "s", "strict": true, "schema": schema() } });
    let ask = |seed: u64| with(&asked(), json!({ "seed": seed, "response_format": format }));
    let alone: Vec<Value> =
        (0..24).map(|seed| server.post(CHAT, &ask(seed)).json()["choices"][0].clone()).collect();
    let mut whole = 0;
    for choice in &alone {
        let text = choice["message"]["content"].as_str().unwrap();
        match choice["finish_reason"].as_str().unwrap() {
            "length" => {}
            reason => {
                assert_eq!(reason, "stop");
                assert!(holds(&serde_json::from_str(text).unwrap()), "{text}");
                whole += 1;
            }
        }
    }
    assert!(whole > 12, "{whole} of 24 came to their end");
    thread::scope(|scope| {
        let (server, ask) = (&server, &ask);
        let others: Vec<_> = (0..24)
            .map(|seed| {
                let stream = json!({ "stream": seed % 2 == 0 });
                scope.spawn(move || server.post(CHAT, &with(&ask(seed), stream)))
            })
            .collect();
        for (seed, other) in others.into_iter().enumerate() {
            let reply = other.join().unwrap();
            let text: String = match seed % 2 {
                0 => reply
                    .events()
                    .iter()
                    .filter_map(|e| e["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
                    .collect(),
                _ => reply.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned(),
            };
            assert_eq!(text, alone[seed]["message"]["content"].as_str().unwrap(), "seed {seed}");
        }
    });
}

#[test]
fn every_field_that_asks_for_a_form_gets_it() {
    let home = tempfile::tempdir().unwrap();
    let model = tiny::write(home.path());
    let server = Server::start(home.path(), &model, &[]);
    let text = json!({ "model": "tiny", "prompt": "x", "max_tokens": 60, "temperature": 5.0 });
    for (fields, texts) in [
        (json!({ "json_schema": { "enum": [12, 34] } }), ["12", "34"]),
        (json!({ "guided_json": { "enum": [12, 34] } }), ["12", "34"]),
        (json!({ "guided_json": "{\"enum\": [12, 34]}" }), ["12", "34"]),
        (json!({ "grammar": "start: \"ab\" | \"cd\"" }), ["ab", "cd"]),
        (json!({ "guided_grammar": "start: \"ab\" | \"cd\"" }), ["ab", "cd"]),
        (json!({ "guided_regex": "ab|cd" }), ["ab", "cd"]),
        (json!({ "guided_choice": ["yes", "no"] }), ["yes", "no"]),
        (json!({ "structured_outputs": { "json": { "enum": [12, 34] } } }), ["12", "34"]),
        (json!({ "structured_outputs": { "regex": "ab|cd" } }), ["ab", "cd"]),
        (json!({ "structured_outputs": { "choice": ["yes", "no"] } }), ["yes", "no"]),
        (json!({ "structured_outputs": { "grammar": "start: \"ab\" | \"cd\"" } }), ["ab", "cd"]),
    ] {
        for seed in 0..4 {
            let fields = with(&fields, json!({ "seed": seed }));
            let whole = server.post(TEXT, &with(&text, fields.clone())).json();
            let choice = &whole["choices"][0];
            assert!(texts.contains(&choice["text"].as_str().unwrap()), "{fields}: {whole}");
            assert_eq!(choice["finish_reason"], "stop");
            let chat = server.post(CHAT, &with(&asked(), fields.clone())).json();
            let said = &chat["choices"][0]["message"]["content"];
            assert!(texts.contains(&said.as_str().unwrap()), "{fields}: {chat}");
        }
    }
    let object = json!({ "response_format": { "type": "json_object" }, "temperature": 0.3, "max_tokens": 400 });
    let object = with(&asked(), object);
    for seed in 0..8 {
        let said = server.post(CHAT, &with(&object, json!({ "seed": seed }))).json();
        let choice = &said["choices"][0];
        let content = choice["message"]["content"].as_str().unwrap();
        assert!(content.starts_with('{'), "{content}");
        if choice["finish_reason"] == "stop" {
            assert!(serde_json::from_str::<Value>(content).unwrap().is_object());
        }
    }
    let said = json!({ "format": { "type": "json_schema", "schema": { "enum": [12, 34] } } });
    let said = server.post(MESSAGES, &with(&asked(), json!({ "output_config": said }))).json();
    assert!(["12", "34"].contains(&said["content"][0]["text"].as_str().unwrap()), "{said}");
}

#[test]
fn what_is_no_form_is_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    let server = calling(home.path(), &[]);
    let format = |value: Value| json!({ "response_format": value });
    let bad = json!({ "type": "wrong" });
    let schema = |schema: &Value| json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": schema } });
    let tool = |parameters: Value| json!([{ "type": "function", "function": { "name": "f", "parameters": parameters } }]);
    for (path, fields, field) in [
        (CHAT, format(schema(&bad)), "response_format.json_schema.schema"),
        (CHAT, format(schema(&json!({ "not": 3 }))), "response_format.json_schema.schema"),
        (CHAT, format(json!({ "type": "json_schema" })), "response_format.json_schema"),
        (CHAT, format(json!({ "type": "text", "more": 1 })), "response_format.more"),
        (CHAT, json!({ "json_schema": bad }), "json_schema"),
        (CHAT, json!({ "grammar": "root ::= \"a\"" }), "grammar"),
        (CHAT, json!({ "guided_regex": "(" }), "guided_regex"),
        (CHAT, json!({ "guided_choice": [] }), "guided_choice"),
        (CHAT, json!({ "guided_choice": ["a"], "guided_regex": "a" }), "guided_choice"),
        (CHAT, json!({ "structured_outputs": { "odd": 1 } }), "structured_outputs.odd"),
        (CHAT, json!({ "tool_choice": "required" }), "tool_choice"),
        (CHAT, json!({ "tool_choice": "sometimes" }), "tool_choice"),
        (
            CHAT,
            json!({ "tool_choice": { "type": "function", "function": { "name": "g" } }, "tools": tools(false) }),
            "tool_choice",
        ),
        (
            CHAT,
            json!({ "tool_choice": "required", "tools": tool(json!({ "type": "array" })) }),
            "tools[0].function.parameters",
        ),
        (
            CHAT,
            json!({ "tool_choice": "required", "tools": tool(json!({ "not": 3 })) }),
            "tools[0].function.parameters",
        ),
        (CHAT, json!({ "tools": tools(true), "json_schema": {} }), "json_schema"),
        (
            MESSAGES,
            json!({ "output_config": { "format": { "type": "json_schema", "schema": bad } } }),
            "output_config.format.schema",
        ),
        (
            MESSAGES,
            json!({ "tool_choice": { "type": "tool", "name": "g" }, "tools": [{ "name": "f", "input_schema": {} }] }),
            "tool_choice",
        ),
    ] {
        let reply = server.post(path, &with(&asked(), fields.clone()));
        assert_eq!(reply.status, 400, "{fields}: {}", reply.body);
        match path {
            MESSAGES => assert!(
                reply.json()["error"]["message"].as_str().unwrap().starts_with(field),
                "{}",
                reply.body
            ),
            _ => assert_eq!(reply.field().as_deref(), Some(field), "{fields}: {}", reply.body),
        }
    }
}

#[test]
fn forced_calls_come_out_as_calls_that_fit_their_schema_streamed_or_not() {
    let home = tempfile::tempdir().unwrap();
    let server = calling(home.path(), &[]);
    let named = json!({ "type": "function", "function": { "name": "paint" } });
    let mut called = 0;
    for (choice, names) in [(json!("required"), &["paint", "now"][..]), (named, &["paint"])] {
        for seed in 0..6 {
            let fields =
                json!({ "tools": tools(seed % 2 == 0), "tool_choice": choice, "seed": seed });
            let ask = with(&asked(), fields);
            let whole = server.post(CHAT, &ask).json();
            let one = &whole["choices"][0];
            if one["finish_reason"] == "length" {
                assert!(one["message"].get("tool_calls").is_none());
                continue;
            }
            called += 1;
            assert_eq!(
                (&one["finish_reason"], &one["message"]["content"]),
                (&json!("tool_calls"), &Value::Null),
                "{whole}"
            );
            let calls = one["message"]["tool_calls"].as_array().unwrap();
            assert_eq!(calls.len(), 1);
            let function = &calls[0]["function"];
            let name = function["name"].as_str().unwrap();
            assert!(names.contains(&name));
            checked(name, &serde_json::from_str(function["arguments"].as_str().unwrap()).unwrap());
            let events = server.post(CHAT, &with(&ask, json!({ "stream": true }))).events();
            let deltas: Vec<&Value> = events.iter().map(|e| &e["choices"][0]["delta"]).collect();
            let streamed: Vec<&Value> =
                deltas.iter().filter_map(|d| d["tool_calls"].get(0)).collect();
            assert_eq!(streamed.len(), 1);
            assert_eq!(streamed[0]["function"], *function);
            assert!(deltas.iter().all(|d| d["content"].as_str().unwrap_or_default().is_empty()));
            assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
        }
    }
    assert!(called >= 8, "{called} of 12 came to their end");
}

#[test]
fn anthropics_any_and_tool_force_a_call() {
    let home = tempfile::tempdir().unwrap();
    let server = calling(home.path(), &[]);
    let tools = json!([{ "name": "paint", "input_schema": schema() }, { "name": "now", "input_schema": { "additionalProperties": false } }]);
    let mut called = 0;
    for seed in 0..8 {
        let choice = match seed % 2 {
            0 => json!({ "type": "any", "disable_parallel_tool_use": true }),
            _ => json!({ "type": "tool", "name": "paint" }),
        };
        let fields = json!({ "tools": tools, "tool_choice": choice, "seed": seed });
        let said = server.post(MESSAGES, &with(&asked(), fields)).json();
        if said["stop_reason"] != "max_tokens" {
            called += 1;
            assert_eq!(said["stop_reason"], "tool_use", "{said}");
            let block = &said["content"][0];
            assert_eq!(block["type"], "tool_use");
            checked(block["name"].as_str().unwrap(), &block["input"]);
        }
    }
    assert!(called >= 4, "{called} of 8 came to their end");
}

#[test]
fn one_call_at_most_is_made_where_that_is_asked_for() {
    let home = tempfile::tempdir().unwrap();
    let server = calling(home.path(), &[]);
    let mut called = 0;
    for seed in 0..20 {
        let fields = json!({
            "tools": tools(false), "seed": seed, "parallel_tool_calls": false, "temperature": 2.0,
            "logit_bias": { "123": 8, "34": 4 },
        });
        let said = server.post(CHAT, &with(&asked(), fields)).json();
        let calls = said["choices"][0]["message"]["tool_calls"].as_array().map_or(0, Vec::len);
        assert!(calls <= 1, "{said}");
        called += calls;
    }
    assert!(called > 0);
}

#[test]
fn calls_of_strict_functions_fit_their_schema_where_none_is_forced() {
    let home = tempfile::tempdir().unwrap();
    let server = calling(home.path(), &[]);
    let mut called = 0;
    // Braces, quotation marks and the letters of a call are made likely.
    let bias = json!({ "123": 8 , "34": 4 });
    for seed in 0..30 {
        let fields = json!({
            "tools": tools(true), "seed": seed, "logit_bias": bias, "temperature": 2.0, "max_tokens": 150,
            "parallel_tool_calls": seed % 2 == 0,
        });
        let said = server.post(CHAT, &with(&asked(), fields)).json();
        for call in said["choices"][0]["message"]["tool_calls"].as_array().into_iter().flatten() {
            let function = &call["function"];
            let arguments = function["arguments"].as_str().unwrap();
            checked(function["name"].as_str().unwrap(), &serde_json::from_str(arguments).unwrap());
            called += 1;
        }
    }
    assert!(called > 0);
}
