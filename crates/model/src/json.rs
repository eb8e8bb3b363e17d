//! Typed reads from a JSON object: each error names the key and the value.

use serde_json::{Map, Value};

use crate::ConfigError;

/// The object that `text` holds. `file` names it in errors.
pub(crate) fn object(file: &'static str, text: &str) -> Result<Map<String, Value>, ConfigError> {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(ConfigError::Json { file, reason: "its top is another value".into() }),
        Err(source) => Err(ConfigError::Json { file, reason: source.to_string() }),
    }
}

/// The value under `key`; null counts as absent, as it does in Python's readers.
pub(crate) fn get<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    map.get(key).filter(|value| !value.is_null())
}

/// A count. Python writes some counts as `8192.0`; whole floats are taken.
pub(crate) fn count(map: &Map<String, Value>, key: &str) -> Result<Option<usize>, ConfigError> {
    get(map, key).map(|value| count_of(key, value)).transpose()
}

pub(crate) fn count_of(key: &str, value: &Value) -> Result<usize, ConfigError> {
    const EXACT: f64 = (1u64 << 53) as f64;
    let whole = |x: &f64| x.fract() == 0.0 && (0.0..=EXACT).contains(x);
    let count = value.as_u64().or_else(|| value.as_f64().filter(whole).map(|x| x as u64));
    count
        .and_then(|count| usize::try_from(count).ok())
        .ok_or_else(|| ConfigError::kind(key, "a whole number of 0 or more", value))
}

pub(crate) fn float(map: &Map<String, Value>, key: &str) -> Result<Option<f64>, ConfigError> {
    get(map, key)
        .map(|value| value.as_f64().ok_or_else(|| ConfigError::kind(key, "a number", value)))
        .transpose()
}

pub(crate) fn flag(map: &Map<String, Value>, key: &str) -> Result<Option<bool>, ConfigError> {
    get(map, key)
        .map(|value| value.as_bool().ok_or_else(|| ConfigError::kind(key, "true or false", value)))
        .transpose()
}

pub(crate) fn text<'a>(
    map: &'a Map<String, Value>,
    key: &str,
) -> Result<Option<&'a str>, ConfigError> {
    get(map, key)
        .map(|value| value.as_str().ok_or_else(|| ConfigError::kind(key, "a text", value)))
        .transpose()
}

/// `x` as JSON with the fewest digits that give `x` back, so that 1e-5 stays 1e-5.
pub(crate) fn short(x: f32) -> Value {
    Value::from(shortest(x))
}

/// The number with the fewest digits that is `x` in f32: most likely what stood there before.
pub(crate) fn shortest(x: f32) -> f64 {
    x.to_string().parse().expect("a printed float parses")
}

/// The object as text, indented by two spaces, with a line break at the end.
pub(crate) fn print(map: &Map<String, Value>) -> String {
    let mut text = serde_json::to_string_pretty(map).expect("a map with text keys prints");
    text.push('\n');
    text
}
