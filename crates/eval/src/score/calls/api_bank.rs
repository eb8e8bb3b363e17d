//! Whether an API is called as in API-Bank: its name, and its keyword arguments, as texts where there is one right value, by ROUGE where
//! any text of the same meaning will do (Llama 3.1's evaluation details).
//!
//! Calls are read as API-Bank's own code reads them. Which arguments are free, and how much they must share, is nowhere told:
//! a page says it.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use fancy_regex::Regex;
use serde::Deserialize;
use serde_json::Value;

use crate::score::rouge::rouge_l;
use crate::score::text::pattern;
use crate::score::{Worth, share};

/// What is scored: calls that are right; and the same with what free arguments share in the place of yes and no.
pub const METRICS: [&str; 2] = ["accuracy", "shared"];

/// The right call.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// `[Name(key='value', ...)]`, somewhere in a text.
    call: String,
    /// Names of arguments that may be any text.
    #[serde(default)]
    free: Vec<String>,
    /// ROUGE-L that such an argument has at least.
    #[serde(default)]
    least: f64,
}

/// A call: its name and arguments.
type Call = (String, BTreeMap<String, String>);

impl Wanted {
    /// Reads an object of these fields. Errors: it is none; there is no call in it.
    pub fn read(reference: &Value) -> Result<Wanted, String> {
        let wanted: Wanted =
            serde_json::from_value(reference.clone()).map_err(|e| e.to_string())?;
        match call(&wanted.call) {
            Some(_) => Ok(wanted),
            None => Err(format!("there is no call in {:?}", wanted.call)),
        }
    }
}

/// The score of an answer.
pub fn score(reference: &Value, answer: &str) -> Result<Worth, String> {
    let wanted = Wanted::read(reference)?;
    let (Some(right), Some(made)) = (call(&wanted.call), call(answer)) else {
        return Ok(Worth::of([("accuracy", 0.0), ("shared", 0.0)], answer.trim()));
    };
    let taken = serde_json::json!({ "name": made.0, "arguments": made.1 });
    let alike = right.0 == made.0 && right.1.keys().eq(made.1.keys());
    let free = |name: &&String| wanted.free.contains(name);
    let texts = || right.1.iter().map(|(name, text)| (name, text.trim(), made.1.get(name)));
    let exact = alike
        && texts()
            .filter(|(name, ..)| !free(name))
            .all(|(_, text, made)| made.is_some_and(|made| made.trim() == text));
    let shared: Vec<f64> = texts()
        .filter(|(name, ..)| free(name))
        .map(|(_, text, made)| match made {
            Some(made) if made.trim() == text => 1.0,
            Some(made) => rouge_l(made, text, true),
            None => 0.0,
        })
        .collect();
    let enough = shared.iter().all(|share| *share >= wanted.least);
    let mean = match shared.len() {
        0 => 1.0,
        n => shared.iter().sum::<f64>() / n as f64,
    };
    let shared = if exact { mean } else { 0.0 };
    Ok(Worth::of([("accuracy", share(exact && enough)), ("shared", shared)], taken))
}

static CALL: LazyLock<Regex> = LazyLock::new(|| pattern(r"\[(\w+)\((.*)\)\]"));
static ARGUMENT: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r#"(\w+)\s*=\s*['"](.+?)['"]|(\w+)\s*=\s*(\[.*\])|(\w+)\s*=\s*(\w+)"#)
});

/// The first call in a text.
fn call(text: &str) -> Option<Call> {
    let found = CALL.captures(text).ok()??;
    let name = found.get(1)?.as_str().to_owned();
    let mut arguments = BTreeMap::new();
    for found in ARGUMENT.captures_iter(found.get(2)?.as_str()).filter_map(Result::ok) {
        let group = |i: usize| found.get(i).map(|group| group.as_str().to_owned());
        if let Some((key, value)) = [1, 3, 5].iter().find_map(|i| group(*i).zip(group(i + 1))) {
            arguments.insert(key, value);
        }
    }
    Some((name, arguments))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn free_arguments_may_be_in_other_words() {
        let right =
            "API-Request: [Add(token='a1', content='meet the new client', n=3, of=['x', 'y'])]";
        let reference = json!({ "call": right, "free": ["content"], "least": 0.5 });
        let worth = |answer: &str| {
            let scores = score(&reference, answer).unwrap().scores;
            (scores["accuracy"], scores["shared"])
        };
        assert_eq!(worth(right), (1.0, 1.0));
        let other = "[Add(n=3, of=['x', 'y'], token=\"a1\", content='Meeting a new client')]";
        assert_eq!(worth(other), (1.0, 0.75));
        assert_eq!(worth(&other.replace("new client", "friend")).0, 0.0);
        assert_eq!(worth(&other.replace("a1", "a2")), (0.0, 0.0));
        assert_eq!(worth(&other.replace("n=3, ", "")), (0.0, 0.0));
        assert_eq!(worth(&other.replace("[Add", "[Sub")), (0.0, 0.0));
        assert_eq!(worth("none"), (0.0, 0.0));
        assert!(Wanted::read(&json!({ "call": "none" })).is_err());
    }
}
