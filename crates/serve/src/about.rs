//! What the server says of itself: figures for Prometheus, capabilities, and OpenAPI.

use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

use serde_json::{Map, Value, json};

use crate::fields::{Fate, Shape};
use crate::host::Figures;
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
    json!({
        "model": served.name,
        "chat": served.format.is_some(),
        "tools": calls,
        "stream": true,
        "embeddings": true,
        "logprobs": true,
        "structured_output": false,
        "images": false,
        "context": served.limits.context,
        "parallel": served.limits.parallel,
        "class": served.class,
        "fields": SHAPES.iter().map(shape).collect::<Map<String, Value>>(),
    })
}

/// The OpenAPI description of every path that takes a body, from the tables of fields.
pub fn openapi() -> Value {
    let path = |shape: &&Shape| {
        let refused = json!({ "description": "a field is wrong; the message names it" });
        let said = json!({
            "post": {
                "summary": shape.about,
                "requestBody": {
                    "required": true,
                    "content": { "application/json": { "schema": shape.schema() } },
                },
                "responses": {
                    "200": { "description": "the answer, or a stream of it" },
                    "400": refused,
                    "401": { "description": "a key is needed" },
                    "404": { "description": "no such model" },
                    "413": { "description": "the body is too long" },
                    "429": { "description": "no more may wait; Retry-After says when" },
                    "503": { "description": "the model is being loaded" },
                },
            }
        });
        (shape.path.to_owned(), said)
    };
    let read = |about: &str| json!({ "get": { "summary": about, "responses": { "200": { "description": about } } } });
    let mut paths: Map<String, Value> = SHAPES.iter().map(path).collect();
    for (name, about) in [
        ("/health", "whether the model is ready"),
        ("/metrics", "figures for Prometheus"),
        ("/v1/models", "the models served"),
        ("/v1/capabilities", "what this server can"),
        ("/v1/responses/{id}", "an answer that is kept"),
        ("/api/tags", "the models served, in ollama's shape"),
        ("/api/ps", "the models loaded, in ollama's shape"),
        ("/api/version", "the version"),
        ("/docs", "this description"),
    ] {
        paths.insert(name.to_owned(), read(about));
    }
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
