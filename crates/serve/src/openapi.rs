//! Operations as OpenAPI describes them: what is read, from the tables of fields, and what comes back.

use serde_json::{Map, Value, json};

use crate::batches;
use crate::fields::Shape;
use crate::files::PURPOSES;
use crate::refusal::Dialect;
use crate::wire::{embeddings, messages, ollama_models, tokens};

/// What the answers of a path always hold, as a whole.
const ANSWERS: &[(&str, &[&str])] = &[
    ("/v1/chat/completions", &["id", "object", "created", "model", "choices", "usage"]),
    ("/v1/completions", &["id", "object", "created", "model", "choices", "usage"]),
    ("/v1/messages", &["id", "type", "role", "model", "content", "stop_reason", "usage"]),
    ("/v1/messages/count_tokens", &["input_tokens"]),
    ("/v1/responses", &["id", "object", "created_at", "model", "status", "output", "usage"]),
    ("/v1/responses/{id}", &["id", "object", "created_at", "model", "status", "output", "usage"]),
    ("/v1/embeddings", &["object", "data", "model", "usage"]),
    ("/v1/models", &["object", "data"]),
    ("/v1/files", FILE),
    ("/v1/files/{id}", FILE),
    ("/v1/batches", BATCH),
    ("/v1/batches/{id}", BATCH),
    ("/v1/batches/{id}/cancel", BATCH),
    ("/v1/capabilities", &["model", "fields", "context"]),
    ("/api/chat", &["model", "created_at", "message", "done"]),
    ("/api/generate", &["model", "created_at", "response", "done"]),
    ("/api/embed", &["model", "embeddings"]),
    ("/api/embeddings", &["embedding"]),
    ("/api/show", &["model_info", "details", "capabilities"]),
    ("/api/tags", &["models"]),
    ("/api/ps", &["models"]),
    ("/api/version", &["version"]),
    ("/tokenize", &["tokens"]),
    ("/detokenize", &["content"]),
    ("/apply-template", &["prompt", "tokens"]),
    ("/tokenizer_info", &["bos_token", "eos_token"]),
    ("/health", &["status"]),
    ("/docs", &["openapi", "paths"]),
];

const FILE: &[&str] = &["id", "object", "bytes", "created_at", "filename", "purpose"];
const BATCH: &[&str] = &["id", "object", "endpoint", "input_file_id", "status", "request_counts"];

/// A request of a path, without the name of the model.
fn example(path: &str) -> Value {
    let said = json!([{ "role": "user", "content": "Name three colours." }]);
    match path {
        "/v1/chat/completions" | "/v1/messages" => json!({ "messages": said, "max_tokens": 8 }),
        "/v1/messages/count_tokens" | "/api/chat" | "/apply-template" => {
            json!({ "messages": said })
        }
        "/v1/completions" => json!({ "prompt": "Once upon a time", "max_tokens": 8 }),
        "/v1/responses" => json!({ "input": "Name three colours.", "max_output_tokens": 8 }),
        "/v1/embeddings" | "/api/embed" => json!({ "input": ["A cat sleeps.", "Shares fell."] }),
        "/api/generate" | "/api/embeddings" => json!({ "prompt": "Once upon a time" }),
        "/tokenize" => json!({ "content": "Once upon a time" }),
        "/detokenize" => json!({ "tokens": [1, 2, 3] }),
        "/v1/batches" => json!({
            "input_file_id": "file-0",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }),
        _ => json!({}),
    }
}

/// Paths with a body that answer at once, never in a stream.
fn at_once(path: &str) -> bool {
    let shapes = [
        &messages::COUNT,
        &ollama_models::SHOW,
        &embeddings::SHAPE,
        &embeddings::OLLAMA,
        &embeddings::OLDER,
        &tokens::TOKENIZE,
        &tokens::DETOKENIZE,
        &tokens::TEMPLATE,
        &batches::SHAPE,
    ];
    shapes.iter().any(|shape| shape.path == path)
}

/// A path that takes a body.
pub fn posted(shape: &Shape) -> Value {
    let mut content = json!({ "application/json": { "schema": answer(shape.path) } });
    if !at_once(shape.path) {
        let text = json!({ "type": "string" });
        // A stream's schema is that of an event.
        let event = json!({ "type": "object", "properties": { "event": text, "data": text }, "required": ["data"] });
        let (stream, schema) = match Dialect::of(shape.path) {
            Dialect::OpenAi | Dialect::Anthropic => ("text/event-stream", event),
            Dialect::Ollama => ("application/x-ndjson", text),
        };
        content[stream] = json!({ "schema": schema });
    }
    let mut example = example(shape.path);
    if shape.required.contains(&"model") {
        example["model"] = "NAME".into();
    }
    let mut responses = refusals(shape.path, &[400, 401, 403, 404, 408, 413, 429, 503]);
    let said = json!({ "description": "the answer, or a stream of it", "content": content });
    responses.insert("200".to_owned(), said);
    json!({
        "post": {
            "summary": shape.about,
            "requestBody": {
                "required": true,
                "content": {
                    "application/json": { "schema": shape.schema(), "example": example },
                },
            },
            "responses": responses,
        }
    })
}

/// A path that is read. What stands in braces in it is a parameter.
pub fn read(path: &str, about: &str) -> Value {
    let (kind, schema) = match path {
        "/metrics" => ("text/plain", json!({ "type": "string" })),
        "/v1/files/{id}/content" => ("application/octet-stream", json!({})),
        "/v1/files" | "/v1/batches" => ("application/json", list()),
        _ => ("application/json", answer(path)),
    };
    let content = Map::from_iter([(kind.to_owned(), json!({ "schema": schema }))]);
    let mut responses = refusals(path, &[400, 401, 403, 404]);
    // It says itself that the model is being loaded.
    match path {
        "/health" => {
            let said = json!({ "description": "the model is being loaded", "content": content });
            responses.insert("503".to_owned(), said);
        }
        _ => responses.extend(refusals(path, &[503])),
    }
    responses.insert("200".to_owned(), json!({ "description": about, "content": content }));
    let mut said = json!({ "get": { "summary": about, "responses": responses } });
    let paging = paging(path);
    if !paging.is_empty() {
        said["get"]["parameters"] = Value::Array(paging);
    }
    let parameters = parameters(path);
    if !parameters.is_empty() {
        said["parameters"] = Value::Array(parameters);
    }
    said
}

/// What stands in braces in a path.
fn parameters(path: &str) -> Vec<Value> {
    let names = path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    let one = |name: &str| {
        let schema = json!({ "type": "string", "minLength": 1 });
        json!({ "name": name, "in": "path", "required": true, "schema": schema })
    };
    names.map(one).collect()
}

/// A list, a page at a time.
fn list() -> Value {
    let list = json!({ "type": "array" });
    json!({ "type": "object", "required": ["object", "data", "has_more"], "properties": { "data": list } })
}

/// What chooses a page of a list.
fn paging(path: &str) -> Vec<Value> {
    let mut named = vec![
        ("limit", json!({ "type": "integer", "minimum": 1, "maximum": 10_000 })),
        ("after", json!({ "type": "string" })),
        ("order", json!({ "enum": ["asc", "desc"] })),
    ];
    match path {
        "/v1/files" => named.push(("purpose", json!({ "type": "string" }))),
        "/v1/batches" => {}
        _ => return Vec::new(),
    }
    let one = |(name, schema)| json!({ "name": name, "in": "query", "schema": schema });
    named.into_iter().map(one).collect()
}

/// A file is given, in a form.
pub fn uploaded(path: &str) -> Value {
    let form = json!({
        "type": "object",
        "properties": {
            "file": { "type": "string", "format": "binary" },
            "purpose": { "enum": PURPOSES },
        },
        "required": ["file", "purpose"],
        "additionalProperties": false,
    });
    let mut said = operation(path, "keeps a file", FILE, &[400, 401, 403, 408, 413, 429, 503]);
    let content = json!({ "multipart/form-data": { "schema": form } });
    said["requestBody"] = json!({ "required": true, "content": content });
    said
}

/// A batch is ended.
pub fn cancelled(path: &str) -> Value {
    let refused = [400, 401, 403, 404, 409, 503];
    let said = operation(path, "ends it; what is answered stays", BATCH, &refused);
    json!({ "post": said, "parameters": parameters(path) })
}

/// What is kept is dropped by its name.
pub fn dropped(path: &str) -> Value {
    operation(path, "drops it", &["id", "deleted"], &[400, 401, 403, 404, 409, 503])
}

/// An operation whose answer holds these, and which may be refused so.
fn operation(path: &str, about: &str, holds: &[&str], refused: &[u16]) -> Value {
    let mut responses = refusals(path, refused);
    let schema = json!({ "type": "object", "required": holds });
    let content = json!({ "application/json": { "schema": schema } });
    responses.insert("200".to_owned(), json!({ "description": about, "content": content }));
    json!({ "summary": about, "responses": responses })
}

fn answer(path: &str) -> Value {
    let known = ANSWERS.iter().find(|(known, _)| *known == path);
    let required = known.map_or(&[][..], |(_, names)| names);
    json!({ "type": "object", "required": required })
}

fn refusals(path: &str, statuses: &[u16]) -> Map<String, Value> {
    let error = match Dialect::of(path) {
        Dialect::OpenAi => {
            json!({ "type": "object", "required": ["message", "type", "param", "code"] })
        }
        Dialect::Anthropic => json!({ "type": "object", "required": ["type", "message"] }),
        Dialect::Ollama => json!({ "type": "string" }),
    };
    let schema =
        json!({ "type": "object", "properties": { "error": error }, "required": ["error"] });
    let one = |status: &u16| {
        let about = match status {
            400 => "a field is wrong; the message names it",
            401 => "a key is needed",
            403 => "this caller may not ask here",
            404 => "there is none of this name",
            409 => "it is in use, or over",
            408 => "the body took too long",
            413 => "the body is too long",
            429 => "no more may wait; Retry-After says when",
            _ => "the model is being loaded",
        };
        let content = json!({ "application/json": { "schema": schema } });
        (status.to_string(), json!({ "description": about, "content": content }))
    };
    statuses.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use crate::about::openapi;
    use crate::wire::SHAPES;

    #[test]
    fn every_answer_says_what_it_holds_and_every_path_its_parameters() {
        let said = openapi();
        let paths = said["paths"].as_object().unwrap();
        assert!(SHAPES.iter().all(|shape| paths.contains_key(shape.path)));
        for (path, operations) in paths {
            let operation = operations.get("post").unwrap_or(&operations["get"]);
            let content = operation["responses"]["200"]["content"].as_object().unwrap();
            assert!(!content.is_empty(), "{path}");
            let named = operations.get("parameters").and_then(|list| list.as_array());
            assert_eq!(path.matches('{').count(), named.map_or(0, Vec::len), "{path}");
        }
    }

    #[test]
    fn a_field_may_be_null_unless_it_must_be_there() {
        let said = openapi();
        let schema = &said["paths"]["/v1/completions"]["post"]["requestBody"]["content"];
        let fields = &schema["application/json"]["schema"]["properties"];
        assert_eq!(fields["temperature"]["type"], serde_json::json!(["number", "null"]));
        assert_eq!(fields["model"]["type"], "string");
        assert_eq!(fields["suffix"]["type"], "null");
    }
}
