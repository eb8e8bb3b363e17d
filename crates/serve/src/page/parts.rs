//! What a message is made of: the events of an answer, and what a person says.
//!
//! A message is the list of its parts, in the JSON in which they were streamed (docs/page.md), so
//! that what is kept, what is shown and what streams are one thing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::refusal::Refusal;

/// What a person says: words, and files: as text, which goes into the prompt; as bytes, for tools; or by the number of one
/// that was given before.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
enum Said {
    Text {
        text: String,
    },
    File {
        name: String,
        text: Option<String>,
        base64: Option<String>,
        file: Option<i64>,
        bytes: Option<u64>,
    },
}

/// Bytes of a file's name at most.
const NAME_MAX: usize = 255;

/// Checks what a person says. Errors: parts that are none, or say nothing.
pub fn check_said(parts: &Value) -> Result<(), Refusal> {
    let wrong = |message: String| Refusal::field("said", message);
    let list: Vec<Said> =
        Vec::deserialize(parts).map_err(|error| wrong(format!("said: {error}")))?;
    let silent = |part: &Said| match part {
        Said::Text { text } | Said::File { text: Some(text), .. } => text.trim().is_empty(),
        Said::File { text: None, .. } => false,
    };
    if list.iter().all(silent) {
        return Err(wrong("said holds no text".to_owned()));
    }
    for part in &list {
        let Said::File { name, text, base64, file, bytes } = part else { continue };
        if name.is_empty() || name.len() > NAME_MAX || name.contains(char::is_control) {
            return Err(wrong(format!("said has a file of the name {name:?}")));
        }
        let given = [text.is_some(), base64.is_some(), file.is_some()];
        let one = given.into_iter().filter(|given| *given).count() == 1;
        if !one || bytes.is_some() && file.is_none() {
            return Err(wrong(format!("the file {name:?} of said is text, base64 or a number")));
        }
        if base64.as_ref().is_some_and(|base64| STANDARD.decode(base64).is_err()) {
            return Err(wrong(format!("the file {name:?} of said is no base64")));
        }
    }
    Ok(())
}

/// Adds an event to the parts of an answer. Texts that follow each other become one.
pub fn push(parts: &mut Vec<Value>, event: &Value) {
    if event["type"] == "text"
        && let Some(last) = parts.last_mut().filter(|last| last["type"] == "text")
    {
        append(last, "text", event);
        append(last, "tokens", event);
        return;
    }
    parts.push(event.clone());
}

/// Appends a text or a list of `event` to that of `last`.
fn append(last: &mut Value, name: &str, event: &Value) {
    match (&mut last[name], &event[name]) {
        (Value::String(all), Value::String(more)) => all.push_str(more),
        (Value::Array(all), Value::Array(more)) => all.extend(more.iter().cloned()),
        (all @ Value::Null, Value::Array(more)) => *all = Value::Array(more.clone()),
        _ => {}
    }
}

/// The words by which a message is found, in small letters.
pub fn words(parts: &[Value]) -> String {
    let texts = parts.iter().flat_map(|part| [part["name"].as_str(), part["text"].as_str()]);
    let texts: Vec<&str> = texts.flatten().collect();
    texts.join("\n").to_lowercase()
}

/// The first words of a message, as a title; at most so many characters.
pub fn title(parts: &[Value]) -> String {
    const CHARACTERS: usize = 60;
    let texts = parts.iter().filter(|part| part["type"] == "text");
    let line = texts.filter_map(|part| part["text"].as_str()).flat_map(str::lines);
    let line = line.map(str::trim).find(|line| !line.is_empty());
    let name = || parts.iter().find_map(|part| part["name"].as_str());
    let line = line.or_else(name).unwrap_or_default();
    match line.char_indices().nth(CHARACTERS) {
        Some((at, _)) => format!("{}…", line[..at].trim_end()),
        None => line.to_owned(),
    }
}

/// The messages, in OpenAI's shape, that a kept message stands for: one for a person's, as many as
/// there were steps for an answer's.
pub fn messages(role: &str, parts: &[Value]) -> Vec<Value> {
    match role {
        "assistant" => answers(parts),
        _ => vec![json!({ "role": role, "content": said(parts) })],
    }
}

/// A person's parts as the prompt has them: files first, each in a fence longer than any in it.
fn said(parts: &[Value]) -> String {
    let (mut files, mut words) = (String::new(), String::new());
    for part in parts {
        let text = part["text"].as_str().unwrap_or_default();
        match part["name"].as_str() {
            Some(name) if part["text"].is_null() => {
                files.push_str(&format!("{name}: attached, for tools to read.\n\n"));
            }
            Some(name) => {
                let fence = "`".repeat(longest_run(text, '`').max(2) + 1);
                let end = if text.ends_with('\n') { "" } else { "\n" };
                files.push_str(&format!("{name}:\n{fence}\n{text}{end}{fence}\n\n"));
            }
            None => words.push_str(text),
        }
    }
    files + &words
}

fn longest_run(text: &str, wanted: char) -> usize {
    let mut longest = 0;
    let mut run = 0;
    for c in text.chars() {
        run = if c == wanted { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    longest
}

/// An answer's parts as turns: words and calls, results, words again.
fn answers(parts: &[Value]) -> Vec<Value> {
    let mut turns = Vec::new();
    let (mut text, mut calls) = (String::new(), Vec::new());
    let mut results: Vec<Value> = Vec::new();
    for part in parts {
        match part["type"].as_str().unwrap_or_default() {
            // Words behind calls begin the next turn.
            "text" | "call" if !results.is_empty() => {
                close(&mut turns, &mut text, &mut calls, &mut results);
                begin(part, &mut text, &mut calls);
            }
            "text" | "call" => begin(part, &mut text, &mut calls),
            "result" => results.push(part.clone()),
            _ => {}
        }
    }
    close(&mut turns, &mut text, &mut calls, &mut results);
    turns
}

fn begin(part: &Value, text: &mut String, calls: &mut Vec<Value>) {
    match part["type"] == "call" {
        true => calls.push(part.clone()),
        false => text.push_str(part["text"].as_str().unwrap_or_default()),
    }
}

/// Ends a turn. A call without a result gets one that says so, since models expect one.
fn close(
    turns: &mut Vec<Value>,
    text: &mut String,
    calls: &mut Vec<Value>,
    results: &mut Vec<Value>,
) {
    let (text, calls, results) =
        (std::mem::take(text), std::mem::take(calls), std::mem::take(results));
    if text.is_empty() && calls.is_empty() {
        return;
    }
    let mut turn = json!({ "role": "assistant", "content": text });
    if !calls.is_empty() {
        let call = |call: &Value| {
            json!({
                "id": call["id"],
                "type": "function",
                "function": { "name": call["name"], "arguments": call["arguments"].to_string() },
            })
        };
        turn["tool_calls"] = calls.iter().map(call).collect();
    }
    turns.push(turn);
    for call in &calls {
        let found = results.iter().find(|result| result["id"] == call["id"]);
        let text = found.map_or("there is no result: the answer was interrupted", |result| {
            result["text"].as_str().unwrap_or_default()
        });
        turns.push(json!({ "role": "tool", "tool_call_id": call["id"], "content": text }));
    }
}

/// Messages in OpenAI's shape as kept ones: role and parts. What a tool said and what the model
/// said after it belong to the answer that called.
pub fn from_messages(list: &[Value]) -> Result<Vec<(String, Vec<Value>)>, Refusal> {
    let mut kept: Vec<(String, Vec<Value>)> = Vec::new();
    for (i, message) in list.iter().enumerate() {
        let wrong = |what: &str| {
            let field = format!("messages[{i}]");
            Refusal::field(field.clone(), format!("{field} {what}"))
        };
        let content = match &message["content"] {
            Value::String(text) => text.as_str(),
            Value::Null => "",
            _ => return Err(wrong("has a content that is no text")),
        };
        let text = json!({ "type": "text", "text": content });
        match message["role"].as_str() {
            Some("user") => kept.push(("user".to_owned(), vec![text])),
            Some("assistant") => {
                if kept.last().is_none_or(|last| last.0 != "assistant") {
                    kept.push(("assistant".to_owned(), Vec::new()));
                }
                let parts = &mut kept.last_mut().expect("one was pushed").1;
                if !content.is_empty() {
                    push(parts, &text);
                }
                for call in message["tool_calls"].as_array().into_iter().flatten() {
                    parts.push(read_call(call).ok_or_else(|| wrong("has a call that is none"))?);
                }
            }
            Some("tool") => {
                let last = kept.last_mut().filter(|last| last.0 == "assistant");
                let last = last.ok_or_else(|| wrong("answers no call"))?;
                let id = &message["tool_call_id"];
                last.1.push(json!({ "type": "result", "id": id, "ok": true, "text": content }));
            }
            _ => return Err(wrong("has a role that is none of user, assistant and tool")),
        }
    }
    Ok(kept)
}

fn read_call(call: &Value) -> Option<Value> {
    let function = &call["function"];
    let arguments = match &function["arguments"] {
        Value::String(text) => serde_json::from_str(text).ok()?,
        other => other.clone(),
    };
    let (id, name) = (call["id"].as_str()?, function["name"].as_str()?);
    arguments
        .is_object()
        .then(|| json!({ "type": "call", "id": id, "name": name, "arguments": arguments }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(value: Value) -> Vec<Value> {
        value.as_array().unwrap().clone()
    }

    #[test]
    fn texts_that_follow_each_other_become_one() {
        let mut parts = Vec::new();
        for event in [
            json!({ "type": "text", "text": "a" }),
            json!({ "type": "text", "text": "b", "tokens": [1] }),
            json!({ "type": "text", "text": "c", "tokens": [2] }),
            json!({ "type": "ask", "id": "x" }),
            json!({ "type": "text", "text": "d" }),
        ] {
            push(&mut parts, &event);
        }
        assert_eq!(
            Value::Array(parts).to_string(),
            r#"[{"type":"text","text":"abc","tokens":[1,2]},{"type":"ask","id":"x"},{"type":"text","text":"d"}]"#
        );
    }

    #[test]
    fn an_answer_with_calls_is_the_turns_it_took_and_comes_back_from_them() {
        let parts = list(json!([
            { "type": "text", "text": "Let me see." },
            { "type": "call", "id": "c1", "name": "f", "arguments": { "x": 1 } },
            { "type": "result", "id": "c1", "ok": true, "text": "2" },
            { "type": "text", "text": "It is 2." },
        ]));
        let turns = messages("assistant", &parts);
        let roles: Vec<_> = turns.iter().map(|t| t["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["assistant", "tool", "assistant"]);
        assert_eq!(turns[0]["tool_calls"][0]["function"]["arguments"], r#"{"x":1}"#);
        assert_eq!(from_messages(&turns).unwrap(), [("assistant".to_owned(), parts)]);
    }

    #[test]
    fn a_call_without_a_result_gets_one() {
        let parts = list(json!([{ "type": "call", "id": "c", "name": "f", "arguments": {} }]));
        let turns = messages("assistant", &parts);
        assert_eq!(turns.len(), 2);
        assert_eq!(turns[1]["tool_call_id"], "c");
    }

    #[test]
    fn a_file_stands_in_a_fence_that_it_cannot_close() {
        let parts = list(json!([
            { "type": "text", "text": "Look." },
            { "type": "file", "name": "a.md", "text": "````\nx" },
        ]));
        let said = messages("user", &parts)[0]["content"].as_str().unwrap().to_owned();
        assert_eq!(said, "a.md:\n`````\n````\nx\n`````\n\nLook.");
    }

    #[test]
    fn what_says_nothing_or_is_no_part_is_refused() {
        for bad in [
            json!([]),
            json!("x"),
            json!([{ "type": "text", "text": " \n" }]),
            json!([{ "type": "end" }]),
            json!([{ "type": "text", "text": "x", "more": 1 }]),
            json!([{ "type": "file", "name": "", "text": "x" }]),
            json!([{ "type": "file", "name": "a\u{1b}[31m", "text": "x" }]),
            json!([{ "type": "file", "name": "a" }]),
            json!([{ "type": "file", "name": "a", "text": "x", "base64": "eA==" }]),
            json!([{ "type": "file", "name": "a", "base64": "x y" }]),
        ] {
            assert!(check_said(&bad).is_err(), "{bad}");
        }
        check_said(&json!([{ "type": "text", "text": "x" }])).unwrap();
        check_said(&json!([{ "type": "file", "name": "a.pdf", "base64": "eA==" }])).unwrap();
        check_said(&json!([{ "type": "file", "name": "a", "file": 3, "bytes": 7 }])).unwrap();
    }

    #[test]
    fn a_title_is_the_first_line_cut_between_characters() {
        let parts = list(json!([{ "type": "text", "text": format!("\n  {}\nx", "ä".repeat(90)) }]));
        assert_eq!(title(&parts), format!("{}…", "ä".repeat(60)));
    }
}
