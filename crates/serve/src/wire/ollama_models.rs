//! `/api/tags`, `/api/ps`, `/api/show`, `/api/version`: what ollama's clients ask of a model.

use serde_json::{Value, json};

use super::ollama::{check_name, moment};
use crate::fields::{Given, MODEL, Shape, warned};
use crate::refusal::Refusal;
use crate::roster::{Card, Seen};
use crate::served::{Facts, Served};

/// The fields of `/api/show`.
pub static SHOW: Shape = Shape {
    path: "/api/show",
    about: "what is known of the model, in ollama's shape",
    prefix: "",
    groups: &[&[MODEL, warned("verbose", "the tables of the tokenizer are not shown")]],
    required: &["model"],
};

/// The moment of a model that stays.
const NEVER: &str = "9999-12-31T23:59:59Z";

/// Answers `/api/tags`: the models that there are.
pub fn tags(seen: impl Iterator<Item = Seen>) -> Value {
    json!({ "models": seen.map(|seen| one(&seen.card)).collect::<Value>() })
}

/// Answers `/api/ps`: the models that are loaded; `now` in seconds since 1970.
pub fn running(seen: impl Iterator<Item = Seen>, now: u64) -> Value {
    let model = |seen: Seen| {
        let left = seen.loaded?;
        let mut model = one(&seen.card);
        let until = |left: std::time::Duration| moment(now + left.as_secs());
        model["expires_at"] = left.map_or_else(|| NEVER.to_owned(), until).into();
        model["size_vram"] = 0.into();
        model["context_length"] = seen.card.context.into();
        Some(model)
    };
    json!({ "models": seen.filter_map(model).collect::<Value>() })
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
        "details": details(&served.facts, None),
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

fn one(card: &Card) -> Value {
    json!({
        "name": card.name,
        "model": card.name,
        "modified_at": moment(card.created),
        "size": card.facts.bytes,
        "details": details(&card.facts, card.base.as_deref()),
    })
}

fn details(facts: &Facts, parent: Option<&str>) -> Value {
    let parameters = facts.parameters as f64;
    let size = match parameters {
        n if n >= 1e9 => format!("{:.1}B", n / 1e9),
        n if n >= 1e6 => format!("{:.1}M", n / 1e6),
        n => format!("{:.1}K", n / 1e3),
    };
    json!({
        "parent_model": parent.unwrap_or_default(),
        "format": facts.container,
        "family": "llama",
        "families": ["llama"],
        "parameter_size": size,
        "quantization_level": facts.format,
    })
}
