//! One question in every shape of the API: the bits of the answer are those of `herd complete`, alone and among 32 others,
//! with a cold cache and a warm one, in one piece of a prompt or in many, streamed or not.
//!
//! What it notices was tried by hand; docs/serving.md lists the mutants.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;
#[path = "common/server.rs"]
mod server;
#[path = "common/tiny.rs"]
mod tiny;

use std::thread;

use serde_json::{Value, json};
use server::{CHAT, MESSAGES, Reply, Server, TEXT, with};

const TOKENS: usize = 25;

/// An answer as far as every shape can tell it, and the log-probabilities where it can.
#[derive(Clone, Debug, PartialEq)]
struct Said {
    text: String,
    log_probs: Option<Vec<f64>>,
}

/// A shape: its path, the question, and where text and log-probabilities stand in its answer and in a part of its stream.
struct Shape {
    path: &'static str,
    ask: Value,
    whole: [&'static str; 2],
    part: [&'static str; 2],
}

/// The question; `stop` is a text that only begins to come, so that the answer's end is held back until it is over.
fn shapes(user: &str, prompt: &Value, stop: &str) -> Vec<Shape> {
    let openai = json!({
        "model": "tiny", "max_tokens": TOKENS, "temperature": 1.2, "top_p": 0.95, "seed": 3,
    });
    let stopped = with(&openai, json!({ "stop": stop }));
    let said =
        json!([{ "role": "system", "content": "be brief" }, { "role": "user", "content": user }]);
    let options = json!({ "num_predict": TOKENS, "temperature": 1.2, "top_p": 0.95, "seed": 3, "stop": [stop] });
    let ollama = json!({ "model": "tiny", "options": options, "logprobs": true });
    vec![
        Shape {
            path: TEXT,
            ask: with(&stopped, json!({ "prompt": prompt, "logprobs": 0 })),
            whole: ["/choices/0/text", "/choices/0/logprobs/token_logprobs"],
            part: ["/choices/0/text", "/choices/0/logprobs/token_logprobs"],
        },
        Shape {
            path: CHAT,
            ask: with(&stopped, json!({ "messages": said, "logprobs": true })),
            whole: ["/choices/0/message/content", "/choices/0/logprobs/content"],
            part: ["/choices/0/delta/content", "/choices/0/logprobs/content"],
        },
        Shape {
            path: MESSAGES,
            ask: with(
                &openai,
                json!({ "system": "be brief", "messages": [said[1]], "stop_sequences": [stop] }),
            ),
            whole: ["/content/0/text", ""],
            part: ["/delta/text", ""],
        },
        Shape {
            path: "/v1/responses",
            ask: json!({
                "model": "tiny", "max_output_tokens": TOKENS, "temperature": 1.2, "top_p": 0.95, "seed": 3,
                "instructions": "be brief", "input": user, "stop": stop, "include": ["message.output_text.logprobs"],
            }),
            whole: ["/output/0/content/0/text", "/output/0/content/0/logprobs"],
            part: ["/delta", "/logprobs"],
        },
        Shape {
            path: "/api/chat",
            ask: with(&ollama, json!({ "messages": said })),
            whole: ["/message/content", "/logprobs"],
            part: ["/message/content", "/logprobs"],
        },
        Shape {
            path: "/api/generate",
            ask: with(&ollama, json!({ "system": "be brief", "prompt": user })),
            whole: ["/response", "/logprobs"],
            part: ["/response", "/logprobs"],
        },
    ]
}

/// What stands at the places: a text, and numbers, bare or under `logprob`.
fn found(value: &Value, [text, log_probs]: [&str; 2]) -> Said {
    let list = value.pointer(log_probs).and_then(Value::as_array);
    let number = |one: &Value| one.as_f64().or_else(|| one["logprob"].as_f64()).unwrap();
    Said {
        text: value.pointer(text).and_then(Value::as_str).unwrap_or_default().to_owned(),
        log_probs: list.map(|list| list.iter().map(number).collect()),
    }
}

impl Shape {
    fn say(&self, server: &Server, stream: bool) -> Said {
        let reply = server.post(self.path, &with(&self.ask, json!({ "stream": stream })));
        assert_eq!(reply.status, 200, "{}: {}", self.path, reply.body);
        if stream { self.joined(&reply) } else { found(&reply.json(), self.whole) }
    }

    /// The parts of a stream as one.
    fn joined(&self, reply: &Reply) -> Said {
        let lines = reply.body.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line));
        let events = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut said = Said { text: String::new(), log_probs: None };
        for event in events {
            // This shape says everything again at the end of a part; deltas alone are counted.
            let kind = event["type"].as_str().unwrap_or_default();
            if kind.starts_with("response.") && kind != "response.output_text.delta" {
                continue;
            }
            let part = found(&event, self.part);
            said.text += &part.text;
            if let Some(more) = part.log_probs {
                said.log_probs.get_or_insert_default().extend(more);
            }
        }
        said
    }
}

/// 32 others: longer and shorter prompts that begin alike, some streamed.
fn others(i: usize, user: &str) -> Value {
    let end = user.len() * (i % 8 + 1) / 8;
    json!({
        "model": "tiny", "messages": [
            { "role": "system", "content": "be brief" },
            { "role": "user", "content": format!("{}{i}", &user[..end]) },
        ],
        "max_tokens": 10 + i, "temperature": 1.5, "seed": i, "stream": i.is_multiple_of(3),
    })
}

#[test]
fn every_shape_says_what_complete_says_in_any_company_cache_and_cut() {
    let (home, model) = tiny::home();
    let user = "once upon a time ".repeat(20) + "who?";
    let template = Server::start(home.path(), &model, &[]);
    let messages =
        json!([{ "role": "system", "content": "be brief" }, { "role": "user", "content": user }]);
    let prompt = template.post("/apply-template", &json!({ "messages": messages })).json();
    drop(template);
    let (prompt, tokens) = (prompt["prompt"].as_str().unwrap().to_owned(), TOKENS.to_string());
    let flags =
        ["complete", "-m", model.to_str().unwrap(), "--special", "-p", &prompt, "-n", &tokens];
    let more = ["--temp", "1.2", "--seed", "3", "--top-p", "0.95", "--json"];
    let (code, out, err) = common::run(home.path(), &[&flags[..], &more[..]].concat());
    assert_eq!(code, 0, "{err}");
    let complete: Value = serde_json::from_str(&out).unwrap();
    let text = complete["text"].as_str().unwrap();
    let ids = |server: &Server| {
        let content = json!({ "content": prompt, "parse_special": true, "add_special": true });
        server.post("/tokenize", &content).json()["tokens"].clone()
    };
    let mut log_probs: Option<Vec<f64>> = None;
    for cut in [&[][..], &["-b", "8"]] {
        for place in 0..6 {
            let flags = [&["--parallel", "32", "-c", "1024"][..], cut].concat();
            let server = Server::start(home.path(), &model, &flags);
            let stop = format!("{}{}", text.chars().last().unwrap(), "and no more");
            let shape = shapes(&user, &ids(&server), &stop).swap_remove(place);
            let check = |server: &Server, stream: bool, known: &mut Option<Vec<f64>>| {
                let said = shape.say(server, stream);
                assert_eq!(said.text, text, "{} {cut:?} {stream}", shape.path);
                if let Some(own) = said.log_probs {
                    assert_eq!(own, *known.get_or_insert_with(|| own.clone()), "{}", shape.path);
                }
            };
            // Somebody has asked the same behind another beginning: of that no page may be taken.
            let said = json!([{ "role": "system", "content": "be quick" }, messages[1]]);
            let other = json!({ "model": "tiny", "messages": said, "max_tokens": 1 });
            assert_eq!(server.post(CHAT, &other).status, 200);
            // The cache is cold, then warm; then there are others.
            let streams = if place.is_multiple_of(2) { [true, false] } else { [false, true] };
            streams.into_iter().for_each(|stream| check(&server, stream, &mut log_probs));
            thread::scope(|scope| {
                let (server, user) = (&server, &user);
                let crowd: Vec<_> = (0..32)
                    .map(|i| scope.spawn(move || server.post(CHAT, &others(i, user)).status))
                    .collect();
                streams.into_iter().for_each(|stream| check(server, stream, &mut log_probs));
                assert!(crowd.into_iter().all(|other| other.join().unwrap() == 200));
            });
        }
    }
    assert_eq!(log_probs.unwrap().len(), TOKENS);
}
