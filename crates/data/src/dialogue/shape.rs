//! Which shape a row has: by its keys, or as the caller says.

use serde_json::{Map, Value};

use crate::Fault;

/// The shape of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// OpenAI's.
    Messages,
    /// ShareGPT's.
    #[serde(rename = "sharegpt")]
    ShareGpt,
    /// Alpaca's.
    Alpaca,
    /// Two texts.
    PromptCompletion,
    /// A prompt and its answers.
    Preference,
    /// Anthropic's two transcripts.
    HhRlhf,
}

pub(super) fn no_dialogue(reason: impl Into<String>) -> Fault {
    Fault::NoDialogue { reason: reason.into() }
}

/// The object that a row is.
pub(super) fn object(row: &Value) -> Result<&Map<String, Value>, Fault> {
    row.as_object().ok_or_else(|| no_dialogue(format!("it is {}, not an object", kind(row))))
}

/// The shape as asked for, or told by the keys.
pub(super) fn shape(row: &Map<String, Value>, asked: Option<Shape>) -> Result<Shape, Fault> {
    if let Some(shape) = asked {
        return Ok(shape);
    }
    let has = |key: &str| first(row, &[key]).is_some();
    let transcript = |key: &str| {
        row.get(key).and_then(Value::as_str).is_some_and(|t| t.starts_with("\n\nHuman:"))
    };
    match () {
        () if transcript("chosen") && transcript("rejected") => Ok(Shape::HhRlhf),
        () if has("chosen") && has("rejected") => Ok(Shape::Preference),
        () if has("messages") => Ok(Shape::Messages),
        () if has("conversations") => Ok(Shape::ShareGpt),
        () if has("instruction") && has("output") => Ok(Shape::Alpaca),
        () if has("prompt") || has("question") => Ok(Shape::PromptCompletion),
        () => {
            let keys: Vec<_> = row.keys().take(12).map(String::as_str).collect();
            Err(no_dialogue(format!("its keys are of no known shape: {}", keys.join(", "))))
        }
    }
}

/// The text under a key; `None` where there is none.
pub(super) fn text<'a>(row: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, Fault> {
    match row.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(no_dialogue(format!("{key:?} is {}, not a text", kind(other)))),
    }
}

/// The text under the first of the keys that has one.
pub(super) fn need<'a>(row: &'a Map<String, Value>, keys: &[&str]) -> Result<&'a str, Fault> {
    for key in keys {
        if let Some(text) = text(row, key)? {
            return Ok(text);
        }
    }
    Err(no_dialogue(format!("it has no {}", keys.join(", "))))
}

/// What stands under the first of the keys that has something other than null.
pub(super) fn first<'a>(row: &'a Map<String, Value>, keys: &[&str]) -> Option<&'a Value> {
    keys.iter().find_map(|key| row.get(*key).filter(|value| !value.is_null()))
}

/// The same, which must be there.
pub(super) fn need_any<'a>(row: &'a Map<String, Value>, keys: &[&str]) -> Result<&'a Value, Fault> {
    first(row, keys).ok_or_else(|| no_dialogue(format!("it has no {}", keys.join(", "))))
}

/// What a value is, in words.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
