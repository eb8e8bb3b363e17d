//! What the server says of itself: figures for Prometheus, capabilities, and OpenAPI.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use serde_json::{Map, Value, json};

use crate::fields::{Fate, Shape};
use crate::host::Figures;
use crate::keys::{Caller, Key, Keys, Usage};
use crate::openapi;
use crate::roster::Seen;
use crate::served::Served;
use crate::wire::{PARTS, SHAPES};

/// The figures in Prometheus' text format.
pub fn metrics(figures: &Figures) -> String {
    let (live, running) = (figures.live.load(Relaxed), figures.running.load(Relaxed));
    let seconds = figures.busy_ns.load(Relaxed) as f64 / 1e9;
    let whole = |n: u64| n as f64;
    let rows = [
        ("requests_running", "gauge", "Answers that run", running as f64),
        ("requests_waiting", "gauge", "Answers that wait", live.saturating_sub(running) as f64),
        ("cache_pages", "gauge", "Pages of the cache", figures.pages.load(Relaxed) as f64),
        (
            "cache_pages_held",
            "gauge",
            "Pages that answers hold",
            figures.pages_held.load(Relaxed) as f64,
        ),
        ("answers_begun_total", "counter", "Answers let in", whole(figures.begun.load(Relaxed))),
        (
            "answers_ended_total",
            "counter",
            "Answers that ended",
            whole(figures.ended.load(Relaxed)),
        ),
        (
            "prompt_tokens_total",
            "counter",
            "Tokens of prompts computed",
            whole(figures.prompt_tokens.load(Relaxed)),
        ),
        (
            "cached_tokens_total",
            "counter",
            "Tokens of prompts found in the cache",
            whole(figures.cached_tokens.load(Relaxed)),
        ),
        (
            "answer_tokens_total",
            "counter",
            "Tokens of answers",
            whole(figures.answer_tokens.load(Relaxed)),
        ),
        (
            "proposed_tokens_total",
            "counter",
            "Tokens that a draft or the text proposed",
            whole(figures.proposed_tokens.load(Relaxed)),
        ),
        (
            "accepted_tokens_total",
            "counter",
            "Of the proposed tokens, those that were chosen",
            whole(figures.accepted_tokens.load(Relaxed)),
        ),
        (
            "preemptions_total",
            "counter",
            "Times that an answer gave up its pages",
            whole(figures.preempted.load(Relaxed)),
        ),
        ("steps_total", "counter", "Steps computed", whole(figures.steps.load(Relaxed))),
        ("step_seconds_total", "counter", "Seconds in steps", seconds),
        ("panics_total", "counter", "Steps that panicked", whole(figures.panics.load(Relaxed))),
    ];
    let mut text = String::new();
    for (name, kind, about, value) in rows {
        // Writing to a string does not fail.
        let _ = writeln!(text, "# HELP herd_{name} {about}");
        let _ = writeln!(text, "# TYPE herd_{name} {kind}\nherd_{name} {value}");
    }
    text
}

/// Which models are loaded, and the bytes that they take by their plans.
pub fn model_metrics(seen: &[Seen], bytes: usize) -> String {
    let mut text = String::from("# HELP herd_model_loaded Whether a model is loaded\n");
    text += "# TYPE herd_model_loaded gauge\n";
    for Seen { card, loaded, .. } in seen {
        let name = label(&card.name);
        // Writing to a string does not fail.
        let _ = writeln!(text, "herd_model_loaded{{model={name}}} {}", u8::from(loaded.is_some()));
    }
    let about = "Bytes of the models that are loaded, by their plans";
    let _ = writeln!(text, "# HELP herd_model_bytes {about}");
    let _ = writeln!(text, "# TYPE herd_model_bytes gauge\nherd_model_bytes {bytes}");
    text
}

/// What each key did; a caller who is no administrator sees its own alone.
pub fn key_metrics(keys: &Keys, caller: &Caller) -> String {
    let mut text = String::new();
    type Figure = fn(&Usage) -> u64;
    let figures: [(&str, &str, Figure); 4] = [
        ("requests", "Requests let in", |usage| usage.requests.load(Relaxed)),
        ("limited", "Requests sent away for a limit", |usage| usage.limited.load(Relaxed)),
        ("prompt_tokens", "Tokens of prompts", |usage| usage.prompt_tokens.load(Relaxed)),
        ("answer_tokens", "Tokens of answers", |usage| usage.answer_tokens.load(Relaxed)),
    ];
    for (name, about, figure) in figures {
        let seen = |key: &&Arc<Key>| caller.is_admin() || caller.name() == Some(&key.name);
        let mut keys = keys.list().iter().filter(seen).peekable();
        if keys.peek().is_some() {
            let _ = writeln!(text, "# HELP herd_key_{name}_total {about}, by key");
            let _ = writeln!(text, "# TYPE herd_key_{name}_total counter");
        }
        for key in keys {
            let value = figure(&key.usage);
            let _ = writeln!(text, "herd_key_{name}_total{{key={}}} {value}", label(&key.name));
        }
    }
    text
}

/// A label's value as Prometheus reads it.
fn label(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// What this server can, for programs that ask first.
pub fn capabilities(served: &Served) -> Value {
    let shape = |shape: &&Shape| {
        let names = |wanted: fn(Fate) -> bool| -> Vec<&str> {
            shape.fields().filter(|f| wanted(f.fate)).map(|f| f.name).collect()
        };
        let fields = json!({
            "honoured": names(|fate| fate == Fate::Honoured),
            "restricted": names(|fate| matches!(fate, Fate::Only(_))),
            "warned": names(|fate| fate == Fate::Warned),
            "refused": names(|fate| fate == Fate::Refused),
        });
        (shape.path.to_owned(), fields)
    };
    let calls = served.format.as_ref().is_some_and(|f| !f.call_forms().custom.is_empty());
    let specials = served.tokenizer.specials();
    json!({
        "model": served.name,
        "version": env!("CARGO_PKG_VERSION"),
        "chat": served.format.is_some(),
        "tools": calls,
        "stream": true,
        "embeddings": true,
        "logprobs": true,
        "structured_output": true,
        "images": false,
        "context": served.limits.context,
        "parallel": served.limits.parallel,
        "class": served.class,
        "kv": format!("{:?}", served.limits.kv).to_lowercase(),
        "tokens": {
            "bos": specials.bos.map(|id| id.0),
            "eos": specials.eos.map(|id| id.0),
            "add_bos": served.tokenizer.add_bos(),
            "stops": served.text_stops,
            "chat_stops": served.chat_stops,
        },
        "fields": SHAPES.iter().map(shape).collect::<Map<String, Value>>(),
    })
}

/// The OpenAPI description of every path that takes a body, from the tables of fields.
pub fn openapi() -> Value {
    let path = |shape: &&Shape| (shape.path.to_owned(), openapi::posted(shape));
    let mut paths: Map<String, Value> = SHAPES.iter().map(path).collect();
    for (name, about) in [
        ("/health", "whether the model is ready"),
        ("/metrics", "figures for Prometheus"),
        ("/tokenizer_info", "the tokens that begin and end a text"),
        ("/v1/models", "the models served"),
        ("/v1/capabilities", "what this server can"),
        ("/v1/files", "the files that are kept"),
        ("/v1/files/{id}", "a file"),
        ("/v1/files/{id}/content", "what a file holds"),
        ("/v1/batches", "the batches"),
        ("/v1/batches/{id}", "a batch"),
        ("/v1/responses/{id}", "an answer that is kept"),
        ("/api/tags", "the models served, in ollama's shape"),
        ("/api/ps", "the models loaded, in ollama's shape"),
        ("/api/version", "the version"),
        ("/docs", "this description"),
    ] {
        let known = paths.entry(name).or_insert_with(|| json!({}));
        if let (Some(known), Value::Object(read)) =
            (known.as_object_mut(), openapi::read(name, about))
        {
            known.extend(read);
        }
    }
    paths["/v1/files"]["post"] = openapi::uploaded("/v1/files");
    for path in ["/v1/responses/{id}", "/v1/files/{id}"] {
        paths[path]["delete"] = openapi::dropped(path);
    }
    let cancel = "/v1/batches/{id}/cancel";
    paths.insert(cancel.to_owned(), openapi::cancelled(cancel));
    json!({
        "openapi": "3.1.0",
        "info": { "title": "herd", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
    })
}

/// The tables of fields for docs/serving.md.
pub fn tables() -> String {
    let mut text = String::new();
    for shape in SHAPES.iter().chain(PARTS) {
        let _ = writeln!(text, "**`{}`**: {}\n", shape.path, shape.about); // strings do not fail
        for (title, wanted) in [
            ("honoured", (|fate| fate == Fate::Honoured) as fn(Fate) -> bool),
            ("some values alone", |fate| matches!(fate, Fate::Only(_))),
            ("passed over with a warning", |fate| fate == Fate::Warned),
            ("refused", |fate| fate == Fate::Refused),
        ] {
            let names: Vec<String> = shape
                .fields()
                .filter(|field| wanted(field.fate))
                .map(|field| match field.fate {
                    Fate::Only(values) => format!("`{}` ({})", field.name, values.join(", ")),
                    Fate::Honoured | Fate::Warned | Fate::Refused => format!("`{}`", field.name),
                })
                .collect();
            if !names.is_empty() {
                let _ = writeln!(text, "- {title}: {}", names.join(", "));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_on_serving_has_the_tables_of_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/serving.md");
        let page = std::fs::read_to_string(path).unwrap();
        let tables = tables();
        assert!(page.contains(tables.trim()), "docs/serving.md wants these tables:\n{tables}");
    }

    #[test]
    fn every_published_field_has_its_fate() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/api_fields.json");
        let published: Value =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        for shape in SHAPES.iter().chain(PARTS) {
            let Some(list) = published["shapes"][shape.path].as_array() else { continue };
            let own: Vec<&str> = shape.fields().map(|field| field.name).collect();
            for name in list {
                assert!(own.contains(&name.as_str().unwrap()), "{} lacks {name}", shape.path);
            }
        }
    }

    #[test]
    fn figures_are_lines_that_prometheus_reads() {
        let text = metrics(&Figures::default());
        assert!(text.contains("\n# TYPE herd_steps_total counter\nherd_steps_total 0\n"));
        assert!(text.lines().all(|line| line.starts_with("# ") || line.starts_with("herd_")));
    }
}
