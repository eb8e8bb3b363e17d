//! `/v1/models`: what is served, and loading and unloading it.

use serde_json::{Value, json};

use super::ollama::KEEP_ALIVE;
use crate::fields::{MODEL, Shape};
use crate::roster::Seen;

/// The path.
pub const PATH: &str = "/v1/models";

/// The fields of a request to load.
pub static LOAD: Shape = Shape {
    path: "/v1/models/load",
    about: "load a model",
    prefix: "",
    groups: &[&[MODEL, KEEP_ALIVE]],
    required: &["model"],
};

/// The fields of a request to unload.
pub static UNLOAD: Shape = Shape {
    path: "/v1/models/unload",
    about: "unload a model that nobody is with",
    prefix: "",
    groups: &[&[MODEL]],
    required: &["model"],
};

/// The list of models.
pub fn list(seen: impl Iterator<Item = Seen>) -> Value {
    json!({ "object": "list", "data": seen.map(|seen| one(&seen)).collect::<Value>() })
}

/// One model.
pub fn one(seen: &Seen) -> Value {
    let card = &seen.card;
    let mut said = json!({
        "id": card.name,
        "object": "model",
        "created": card.created,
        "owned_by": "herd",
        "max_model_len": card.context,
        "loaded": seen.loaded.is_some(),
    });
    if let Some(base) = &card.base {
        said["parent"] = base.as_str().into();
    }
    said
}
