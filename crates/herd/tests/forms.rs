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
use server::{CHAT, MESSAGES, Server, TEXT, with};

/// A server of a model that knows calls.
fn calling(home: &std::path::Path, more: &[&str]) -> Server {
    let model = tiny::write_llama3(home);
    let flags = ["--chat-template", "llama3.1-hf", "-c", "4096", "--alias", "tiny"];
    Server::start(home, &model, &[&flags[..], more].concat())
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

const RESPONSES: &str = "/v1/responses";

/// The same question in the shape of a path.
fn asked_of(path: &str) -> Value {
    let options = json!({ "num_predict": 120, "temperature": 5.0 });
    match path {
        RESPONSES => json!({
            "model": "tiny", "input": "which?", "max_output_tokens": 120, "temperature": 5.0,
        }),
        "/api/chat" => json!({
            "model": "tiny", "messages": [{ "role": "user", "content": "which?" }], "options": options,
            "stream": false,
        }),
        "/api/generate" => {
            json!({ "model": "tiny", "prompt": "which?", "options": options, "stream": false })
        }
        _ => asked(),
    }
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
        (CHAT, json!({ "tools": tools(true), "guided_regex": "a" }), "guided_regex"),
        (CHAT, json!({ "tools": tools(false), "json_schema": { "not": 3 } }), "json_schema"),
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
        refused(&server, path, &fields, field);
    }
}

#[test]
fn what_is_no_form_is_refused_by_name_in_the_other_shapes() {
    let home = tempfile::tempdir().unwrap();
    let server = calling(home.path(), &[]);
    let bad = json!({ "type": "wrong" });
    for (path, fields, field) in [
        (RESPONSES, json!({ "text": { "format": { "type": "xml" } } }), "text.format.type"),
        (
            RESPONSES,
            json!({ "text": { "format": { "type": "json_schema", "schema": bad } } }),
            "text.format.schema",
        ),
        (RESPONSES, json!({ "text": { "odd": 1 } }), "text.odd"),
        (RESPONSES, json!({ "tool_choice": "required" }), "tool_choice"),
        (RESPONSES, json!({ "tool_choice": { "type": "file_search" } }), "tool_choice"),
        ("/api/chat", json!({ "format": "xml" }), "format"),
        ("/api/chat", json!({ "format": bad }), "format"),
        ("/api/generate", json!({ "format": 3 }), "format"),
    ] {
        refused(&server, path, &fields, field);
    }
}

/// Checks that a request with these fields is a 400 that names one of them.
fn refused(server: &Server, path: &str, fields: &Value, field: &str) {
    let reply = server.post(path, &with(&asked_of(path), fields.clone()));
    assert_eq!(reply.status, 400, "{fields}: {}", reply.body);
    let said = &reply.json()["error"];
    match path {
        MESSAGES => assert!(said["message"].as_str().unwrap().starts_with(field), "{said}"),
        "/api/chat" | "/api/generate" => {
            assert!(said.as_str().unwrap().starts_with(field), "{said}");
        }
        _ => assert_eq!(reply.field().as_deref(), Some(field), "{fields}: {}", reply.body),
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
            assert!(calls.len() == 1 || calls.len() > 1 && names.len() > 1, "{whole}");
            for call in calls {
                let function = &call["function"];
                let name = function["name"].as_str().unwrap();
                assert!(names.contains(&name));
                let arguments = function["arguments"].as_str().unwrap();
                checked(name, &serde_json::from_str(arguments).unwrap());
            }
            let events = server.post(CHAT, &with(&ask, json!({ "stream": true }))).events();
            let deltas: Vec<&Value> = events.iter().map(|e| &e["choices"][0]["delta"]).collect();
            let streamed: Vec<&Value> =
                deltas.iter().filter_map(|d| d["tool_calls"].get(0)).collect();
            let functions = |calls: &[&Value]| -> Vec<Value> {
                calls.iter().map(|call| call["function"].clone()).collect()
            };
            assert_eq!(functions(&streamed), functions(&calls.iter().collect::<Vec<_>>()));
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

#[test]
fn a_schema_holds_the_same_answer_in_every_shape() {
    let home = tempfile::tempdir().unwrap();
    let model = tiny::write(home.path());
    let server = Server::start(home.path(), &model, &[]);
    let text = json!({ "format": { "type": "json_schema", "name": "s", "strict": true, "schema": schema() } });
    let mut whole = 0;
    for seed in 0..8 {
        let chat =
            json!({ "type": "json_schema", "json_schema": { "name": "s", "schema": schema() } });
        let chat = with(&asked(), json!({ "seed": seed, "response_format": chat }));
        let chat = server.post(CHAT, &chat).json()["choices"][0].clone();
        let said = chat["message"]["content"].as_str().unwrap();
        let ask = json!({ "seed": seed, "text": text });
        let response = server.post(RESPONSES, &with(&asked_of(RESPONSES), ask)).json();
        assert_eq!(response["output"][0]["content"][0]["text"], said);
        assert_eq!(response["text"], text);
        let format = json!({ "format": { "type": "json_schema", "schema": schema() } });
        let ask = with(&asked(), json!({ "seed": seed, "output_config": format }));
        assert_eq!(server.post(MESSAGES, &ask).json()["content"][0]["text"], said);
        for (path, place) in [("/api/chat", "/message/content"), ("/api/generate", "/response")] {
            let mut ask = with(&asked_of(path), json!({ "format": schema() }));
            ask["options"]["seed"] = seed.into();
            assert_eq!(server.post(path, &ask).json().pointer(place).unwrap(), said);
        }
        if chat["finish_reason"] == "stop" {
            assert!(holds(&serde_json::from_str(said).unwrap()), "{said}");
            whole += 1;
        }
    }
    assert!(whole >= 3, "{whole} of 8 came to their end");
    for (path, place) in [("/api/chat", "/message/content"), ("/api/generate", "/response")] {
        let said = server.post(path, &with(&asked_of(path), json!({ "format": "json" }))).json();
        assert!(said.pointer(place).unwrap().as_str().unwrap().starts_with('{'), "{said}");
    }
}

/// The functions in OpenAI's flat shape and in Anthropic's.
fn flat_and_theirs() -> (Value, Value) {
    let functions = tools(false).as_array().unwrap().clone();
    let functions = functions.iter().map(|tool| &tool["function"]);
    let flat = functions.clone().map(|f| with(f, json!({ "type": "function" })));
    let theirs = functions.map(|f| json!({ "name": f["name"], "input_schema": f["parameters"] }));
    (flat.collect(), theirs.collect())
}

/// Name and arguments of each call in a list, by where they stand; arguments may be a text of JSON.
fn calls_in(list: &Value, name: &str, arguments: &str) -> Vec<(String, Value)> {
    let one = |call: &Value| {
        let arguments = match call.pointer(arguments).unwrap() {
            Value::String(text) => serde_json::from_str(text).unwrap(),
            object => object.clone(),
        };
        (call.pointer(name).unwrap().as_str().unwrap().to_owned(), arguments)
    };
    list.as_array().unwrap().iter().map(one).collect()
}

#[test]
fn several_calls_are_forced_where_they_may_be_parallel_the_same_in_every_shape() {
    let home = tempfile::tempdir().unwrap();
    let server = calling(home.path(), &[]);
    let (flat, theirs) = flat_and_theirs();
    let (mut most, mut ended) = (0, 0);
    for seed in 0..16 {
        let single = seed % 4 == 3;
        let common =
            json!({ "seed": seed, "tool_choice": "required", "parallel_tool_calls": !single });
        let ask = with(&common, json!({ "max_tokens": 400, "tools": tools(false) }));
        let chat = server.post(CHAT, &with(&asked(), ask)).json()["choices"][0].clone();
        if chat["finish_reason"] == "length" {
            continue;
        }
        ended += 1;
        let list = &chat["message"]["tool_calls"];
        let calls = calls_in(list, "/function/name", "/function/arguments");
        calls.iter().for_each(|(name, arguments)| checked(name, arguments));
        assert!(!single || calls.len() == 1, "{chat}");
        most = most.max(calls.len());
        let ask = with(&common, json!({ "max_output_tokens": 400, "tools": flat }));
        let response = server.post(RESPONSES, &with(&asked_of(RESPONSES), ask)).json();
        assert_eq!(calls_in(&response["output"], "/name", "/arguments"), calls);
        let choice = json!({ "type": "any", "disable_parallel_tool_use": single });
        let ask =
            json!({ "seed": seed, "max_tokens": 400, "tools": theirs, "tool_choice": choice });
        let message = server.post(MESSAGES, &with(&asked(), ask)).json();
        assert_eq!(calls_in(&message["content"], "/name", "/input"), calls);
        // The conversation goes on behind them, though the model's format has one call in a message.
        let mut said =
            vec![json!({ "role": "user", "content": "which?" }), chat["message"].clone()];
        for call in list.as_array().unwrap() {
            said.push(json!({ "role": "tool", "tool_call_id": call["id"], "content": "done" }));
        }
        let next = json!({ "messages": said, "tools": tools(false), "max_tokens": 4 });
        let next = server.post(CHAT, &with(&asked(), next));
        assert_eq!(next.status, 200, "{}", next.body);
    }
    assert!(most > 1 && ended >= 6, "{most} calls at most in {ended} answers");
}

#[test]
fn a_form_beside_tools_makes_an_answer_of_the_form_or_a_call() {
    let home = tempfile::tempdir().unwrap();
    let server = calling(home.path(), &[]);
    let (mut called, mut formed) = (0, 0);
    // A schema that speaks of itself: the places it names move with it.
    let schema = json!({
        "$defs": { "size": { "type": "integer", "minimum": 1, "maximum": 99 } }, "type": "object",
        "properties": { "name": { "enum": ["a", "b"] }, "size": { "$ref": "#/$defs/size" } },
        "required": ["name", "size"], "additionalProperties": false,
    });
    for seed in 0..24 {
        let format =
            json!({ "type": "json_schema", "json_schema": { "name": "s", "schema": schema } });
        let ask = json!({ "seed": seed, "max_tokens": 200, "tools": tools(true), "response_format": format });
        let whole = server.post(CHAT, &with(&asked(), ask.clone())).json();
        let choice = &whole["choices"][0];
        match choice["finish_reason"].as_str().unwrap() {
            "length" => {}
            "tool_calls" => {
                let function = &choice["message"]["tool_calls"][0]["function"];
                let arguments = function["arguments"].as_str().unwrap();
                checked(
                    function["name"].as_str().unwrap(),
                    &serde_json::from_str(arguments).unwrap(),
                );
                called += 1;
            }
            reason => {
                assert_eq!(reason, "stop");
                let said: Value =
                    serde_json::from_str(choice["message"]["content"].as_str().unwrap()).unwrap();
                assert!(["a", "b"].contains(&said["name"].as_str().unwrap()), "{said}");
                assert!((1..=99).contains(&said["size"].as_i64().unwrap()), "{said}");
                formed += 1;
            }
        }
    }
    assert!(called > 0 && formed > 0, "{called} calls, {formed} of the form");
}

/// Events of a stream whose bytes come in pieces; `end` is what stands behind each.
struct Events {
    end: &'static [u8],
    held: Vec<u8>,
    read: Vec<Value>,
}

impl Events {
    fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
        while let Some(at) = self.held.windows(self.end.len()).position(|w| w == self.end) {
            let event: Vec<u8> = self.held.drain(..at + self.end.len()).collect();
            let text = String::from_utf8(event).unwrap();
            let data = text.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line));
            self.read.extend(data.filter_map(|line| serde_json::from_str::<Value>(line).ok()));
        }
    }

    /// Names and arguments of all calls, whichever shape says them.
    fn calls(&self) -> Vec<(String, String)> {
        let mut calls: Vec<(String, String)> = Vec::new();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for event in &self.read {
            let chat = event["choices"][0]["delta"]["tool_calls"].as_array();
            let ollama = event["message"]["tool_calls"].as_array();
            for call in chat.into_iter().chain(ollama).flatten() {
                let function = &call["function"];
                let arguments = match &function["arguments"] {
                    Value::String(text) => text.clone(),
                    object => object.to_string(),
                };
                calls.push((text(&function["name"]), arguments));
            }
            if event["content_block"]["type"] == "tool_use" {
                calls.push((text(&event["content_block"]["name"]), String::new()));
            }
            if let Some(more) = event["delta"]["partial_json"].as_str() {
                calls.last_mut().unwrap().1 += more;
            }
            if event["type"] == "response.function_call_arguments.done" {
                calls.push((text(&event["name"]), text(&event["arguments"])));
            }
        }
        calls
    }
}

#[test]
fn streams_of_calls_read_the_same_wherever_their_bytes_are_cut() {
    let home = tempfile::tempdir().unwrap();
    let server = calling(home.path(), &[]);
    let properties = json!({ "word": { "enum": ["né\n\"", "東京🐱", "{}"] } });
    let schema = json!({ "type": "object", "properties": properties, "required": ["word"], "additionalProperties": false });
    let function = json!({ "name": "say", "parameters": schema });
    let openai =
        json!([{ "type": "function", "function": with(&function, json!({ "strict": true })) }]);
    let flat = json!([with(&function, json!({ "type": "function" }))]);
    let theirs = json!([{ "name": "say", "input_schema": schema }]);
    for seed in 0..4 {
        let common = json!({ "seed": seed, "stream": true });
        let mut heard = Vec::new();
        for (path, fields) in [
            (CHAT, json!({ "tools": openai, "tool_choice": "required", "max_tokens": 400 })),
            (
                RESPONSES,
                json!({ "tools": flat, "tool_choice": "required", "max_output_tokens": 400 }),
            ),
            (
                MESSAGES,
                json!({ "tools": theirs, "tool_choice": { "type": "any" }, "max_tokens": 400 }),
            ),
        ] {
            let ask = with(&with(&asked_of(path), common.clone()), fields);
            let body = server.post(path, &ask).body;
            let bytes = body.as_bytes();
            let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
                let mut events = Events { end: b"\n\n", held: Vec::new(), read: Vec::new() };
                pieces.for_each(|piece| events.push(piece));
                events.calls()
            };
            let whole = read(&mut std::iter::once(bytes));
            assert_eq!(read(&mut bytes.chunks(1)), whole);
            for cut in 0..bytes.len() {
                assert_eq!(
                    read(&mut [&bytes[..cut], &bytes[cut..]].into_iter()),
                    whole,
                    "{path} {cut}"
                );
            }
            heard.push(whole);
        }
        assert_eq!((&heard[1], &heard[2]), (&heard[0], &heard[0]), "seed {seed}");
        let words = ["né\n\"", "東京🐱", "{}"];
        for (name, arguments) in &heard[0] {
            let said: Value = serde_json::from_str(arguments).unwrap();
            assert!(name == "say" && words.contains(&said["word"].as_str().unwrap()), "{said}");
        }
    }
}
