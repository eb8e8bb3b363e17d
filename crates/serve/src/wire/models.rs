//! `/v1/models`: what is served.

use serde_json::{Value, json};

use crate::served::Served;

/// The path.
pub const PATH: &str = "/v1/models";

/// The list of models.
pub fn list(served: &Served) -> Value {
    json!({ "object": "list", "data": [one(served)] })
}

/// One model.
pub fn one(served: &Served) -> Value {
    json!({
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "herd",
        "max_model_len": served.limits.context,
    })
}
