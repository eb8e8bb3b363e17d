//! `/api/tags`, `/api/ps`, `/api/show`, `/api/version`: what ollama's clients ask of a model.

use serde_json::{Value, json};

use super::ollama::{check_name, moment};
use crate::fields::{Given, MODEL, Shape, warned};
use crate::refusal::Refusal;
use crate::served::Served;

/// The fields of `/api/show`.
pub static SHOW: Shape = Shape {
    path: "/api/show",
    about: "what is known of the model, in ollama's shape",
    prefix: "",
    groups: &[&[MODEL, warned("verbose", "the tables of the tokenizer are not shown")]],
    required: &["model"],
};

/// A model that stays until the server ends.
const NEVER: &str = "9999-12-31T23:59:59Z";

/// Answers `/api/tags`: the models that there are.
pub fn tags(served: &Served) -> Value {
    json!({ "models": [one(served)] })
}

/// Answers `/api/ps`: the models that are loaded.
pub fn running(served: &Served) -> Value {
    let mut model = one(served);
    model["expires_at"] = NEVER.into();
    model["size_vram"] = 0.into();
    model["context_length"] = served.limits.context.into();
    json!({ "models": [model] })
}

/// Answers `/api/show`.
pub fn show(given: Given, served: &Served) -> Result<Value, Refusal> {
    check_name(&given, served)?;
    let sampling = &served.sampling;
    let calls = served.format.as_ref().is_some_and(|f| !f.call_forms().custom.is_empty());
    let capabilities: Vec<&str> =
        ["completion", "embedding"].into_iter().chain(calls.then_some("tools")).collect();
    let mut said = json!({
        "modified_at": moment(served.created),
        "details": details(served),
        "parameters": format!(
            "temperature {}\ntop_p {}\nmin_p {}\nrepeat_penalty {}",
            sampling.temperature, sampling.top_p, sampling.min_p, sampling.repetition_penalty
        ),
        "model_info": {
            "general.architecture": "llama",
            "general.parameter_count": served.facts.parameters,
            "llama.context_length": served.limits.context,
            "llama.embedding_length": served.facts.width,
            "llama.vocab_size": served.vocab,
        },
        "capabilities": capabilities,
    });
    if !given.warnings.is_empty() {
        said["warnings"] = given.warnings.iter().cloned().collect();
    }
    Ok(said)
}

/// Answers `/api/version`.
pub fn version() -> Value {
    json!({ "version": env!("CARGO_PKG_VERSION") })
}

fn one(served: &Served) -> Value {
    json!({
        "name": served.name,
        "model": served.name,
        "modified_at": moment(served.created),
        "size": served.facts.bytes,
        "details": details(served),
    })
}

fn details(served: &Served) -> Value {
    let parameters = served.facts.parameters as f64;
    let size = match parameters {
        n if n >= 1e9 => format!("{:.1}B", n / 1e9),
        n if n >= 1e6 => format!("{:.1}M", n / 1e6),
        n => format!("{:.1}K", n / 1e3),
    };
    json!({
        "parent_model": "",
        "format": served.facts.container,
        "family": "llama",
        "families": ["llama"],
        "parameter_size": size,
        "quantization_level": served.facts.format,
    })
}
