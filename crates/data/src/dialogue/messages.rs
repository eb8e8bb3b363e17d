//! Messages as OpenAI, ShareGPT, Alpaca and plain pairs write them.

use herd_codec::chat::{Block, Dialogue, Message, Role, ToolCall, ToolDefinition};
use serde_json::{Map, Value};

use super::Lesson;
use super::shape::{kind, need, no_dialogue, text};
use crate::Fault;

type Object = Map<String, Value>;

/// `messages`, with `tools` and a weight beside a message.
pub(super) fn openai(row: &Object) -> Result<Lesson, Fault> {
    let items = list(row, "messages")?;
    let mut dialogue = Dialogue { tools: tools(row)?, ..Dialogue::default() };
    if let Some(builtin) = row.get("builtin_tools").filter(|value| !value.is_null()) {
        let names = serde_json::from_value(builtin.clone());
        dialogue.builtin_tools =
            Some(names.map_err(|e| no_dialogue(format!("`builtin_tools`: {e}")))?);
    }
    lesson(dialogue, items)
}

/// `conversations`, after a `system` text.
pub(super) fn sharegpt(row: &Object) -> Result<Lesson, Fault> {
    let system = text(row, "system")?.filter(|text| !text.is_empty());
    let messages = system.map(|text| Message::new(Role::System, text)).into_iter().collect();
    let dialogue = Dialogue { messages, tools: tools(row)?, builtin_tools: None };
    lesson(dialogue, list(row, "conversations")?)
}

/// An instruction and its input, a line apart, and the output; `history` holds pairs from before.
pub(super) fn alpaca(row: &Object) -> Result<Lesson, Fault> {
    let mut messages = Vec::new();
    let system = text(row, "system")?.filter(|text| !text.is_empty());
    messages.extend(system.map(|text| Message::new(Role::System, text)));
    if let Some(history) = row.get("history").filter(|value| !value.is_null()) {
        let pairs: Vec<(String, String)> = serde_json::from_value(history.clone())
            .map_err(|e| no_dialogue(format!("`history` is no list of pairs: {e}")))?;
        for (question, answer) in pairs {
            messages.push(Message::new(Role::User, question));
            messages.push(Message::new(Role::Assistant, answer));
        }
    }
    let instruction = need(row, &["instruction"])?;
    let question = match text(row, "input")?.filter(|text| !text.is_empty()) {
        Some(input) => format!("{instruction}\n{input}"),
        None => instruction.to_owned(),
    };
    messages.push(Message::new(Role::User, question));
    messages.push(Message::new(Role::Assistant, need(row, &["output"])?));
    Ok(weighted(Dialogue::from(messages), &[]))
}

/// A question and its answer; either may be a list of messages.
pub(super) fn prompt_completion(row: &Object) -> Result<Lesson, Fault> {
    let mut dialogue = prompt(row, &["prompt", "question"])?;
    dialogue.tools = tools(row)?;
    let before = dialogue.messages.len();
    let keys = ["completion", "response", "answer"];
    let found = keys.iter().find_map(|key| row.get(*key).filter(|value| !value.is_null()));
    let answer = found.ok_or_else(|| no_dialogue(format!("it has no {}", keys.join(", "))))?;
    match answer {
        Value::Array(items) => {
            for item in items {
                dialogue.messages.push(message(item)?.0);
            }
        }
        answer => dialogue.messages.push(answer_of(answer)?),
    }
    let mut lesson = weighted(dialogue, &[]);
    // What the prompt has the assistant say is no answer to it.
    lesson.weights[..before].fill(0.0);
    Ok(lesson)
}

/// A text as a user's message, or messages, under the first of the keys that is there.
pub(super) fn prompt(row: &Object, keys: &[&str]) -> Result<Dialogue, Fault> {
    let found = keys.iter().find_map(|key| row.get(*key).filter(|value| !value.is_null()));
    match found {
        Some(Value::String(text)) => Ok(Dialogue::from(vec![Message::new(Role::User, text)])),
        Some(Value::Array(items)) => {
            let messages: Result<Vec<_>, _> =
                items.iter().map(|item| Ok(message(item)?.0)).collect();
            Ok(Dialogue::from(messages?))
        }
        Some(other) => Err(no_dialogue(format!("the prompt is {}", kind(other)))),
        None => Err(no_dialogue(format!("it has no {}", keys.join(", ")))),
    }
}

/// An answer: a text, a message, or a list that ends in one.
pub(super) fn answer_of(value: &Value) -> Result<Message, Fault> {
    let message = match value {
        Value::String(text) => Message::new(Role::Assistant, text),
        Value::Array(items) => match items.last() {
            Some(last) => message(last)?.0,
            None => return Err(no_dialogue("an answer is an empty list")),
        },
        value => message(value)?.0,
    };
    match message.role {
        Role::Assistant => Ok(message),
        role => Err(no_dialogue(format!("an answer is the {}'s", role.name()))),
    }
}

fn lesson(mut dialogue: Dialogue, items: &[Value]) -> Result<Lesson, Fault> {
    let mut said = vec![None; dialogue.messages.len()];
    for item in items {
        let (message, weight) = message(item)?;
        dialogue.messages.push(message);
        said.push(weight);
    }
    let odd = dialogue.messages.iter().zip(&said).position(|(message, weight)| {
        message.role != Role::Assistant && weight.is_some_and(|weight| weight != 0.0)
    });
    match odd {
        Some(at) => Err(no_dialogue(format!("message {at} has a weight, but is no answer"))),
        None => Ok(weighted(dialogue, &said)),
    }
}

/// The weights said, and where nothing is said, 1 for the assistant's messages.
fn weighted(dialogue: Dialogue, said: &[Option<f32>]) -> Lesson {
    let weight = |(i, message): (usize, &Message)| match said.get(i).copied().flatten() {
        Some(weight) => weight,
        None if message.role == Role::Assistant => 1.0,
        None => 0.0,
    };
    let weights = dialogue.messages.iter().enumerate().map(weight).collect();
    Lesson { dialogue, weights }
}

fn list<'a>(row: &'a Object, key: &str) -> Result<&'a [Value], Fault> {
    match row.get(key) {
        Some(Value::Array(items)) => Ok(items),
        Some(other) => Err(no_dialogue(format!("{key:?} is {}, not a list", kind(other)))),
        None => Err(no_dialogue(format!("it has no {key:?}"))),
    }
}

/// Definitions of tools: a list, or a text that holds one.
fn tools(row: &Object) -> Result<Vec<ToolDefinition>, Fault> {
    let bad = |e: serde_json::Error| no_dialogue(format!("`tools`: {e}"));
    match row.get("tools") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(Vec::new()),
        Some(Value::String(text)) => serde_json::from_str(text).map_err(bad),
        Some(list) => serde_json::from_value(list.clone()).map_err(bad),
    }
}

/// A message in OpenAI's words or ShareGPT's, and the weight beside it.
pub(super) fn message(item: &Value) -> Result<(Message, Option<f32>), Fault> {
    let Some(item) = item.as_object() else {
        return Err(no_dialogue(format!("a message is {}, not an object", kind(item))));
    };
    let name = need(item, &["role", "from"])?;
    let content = match item.get("content").or_else(|| item.get("value")) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => vec![Block::Text { text: text.clone() }],
        Some(Value::Array(blocks)) => blocks.iter().map(block).collect::<Result<_, _>>()?,
        Some(other) => return Err(no_dialogue(format!("a content is {}", kind(other)))),
    };
    let mut message = Message { content, ..Message::new(Role::User, "") };
    message.role = match name.to_ascii_lowercase().as_str() {
        "system" | "developer" => Role::System,
        "user" | "human" | "prompter" => Role::User,
        "assistant" | "gpt" | "chatgpt" | "model" | "bing" | "bard" => Role::Assistant,
        "tool" | "ipython" | "function" | "observation" | "function_response" => Role::Tool,
        "function_call" => {
            message.tool_calls = written_calls(&message.text())?;
            message.content.clear();
            Role::Assistant
        }
        _ => return Err(no_dialogue(format!("no such speaker: {name:?}"))),
    };
    if let Some(calls) = item.get("tool_calls").filter(|value| !value.is_null()) {
        let calls: Vec<ToolCall> = serde_json::from_value(calls.clone())
            .map_err(|e| no_dialogue(format!("`tool_calls`: {e}")))?;
        message.tool_calls.extend(calls);
    }
    message.tool_call_id = text(item, "tool_call_id")?.map(str::to_owned);
    message.name = text(item, "name")?.map(str::to_owned);
    if let Some(end) = item.get("end") {
        let end = serde_json::from_value(end.clone());
        message.end = end.map_err(|e| no_dialogue(format!("`end`: {e}")))?;
    }
    Ok((message, weight(item)?))
}

/// What stands beside a message for the weight of its loss: a number, or whether to learn it.
fn weight(item: &Object) -> Result<Option<f32>, Fault> {
    let said = ["weight", "loss_weight", "train"].iter().find_map(|key| item.get(*key));
    match said {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(learn)) => Ok(Some(if *learn { 1.0 } else { 0.0 })),
        Some(Value::Number(number)) => match number.as_f64() {
            Some(weight) if weight == 0.0 || (1e-6..=1e6).contains(&weight) => {
                Ok(Some(weight as f32))
            }
            _ => Err(no_dialogue(format!("a weight is {number}, not 0 or 0.000001 to 1,000,000"))),
        },
        Some(other) => Err(no_dialogue(format!("a weight is {}", kind(other)))),
    }
}

fn block(item: &Value) -> Result<Block, Fault> {
    let text = |key: &str| item.get(key).and_then(Value::as_str);
    match (item, text("type")) {
        (Value::String(text), _) => Ok(Block::Text { text: text.clone() }),
        (_, Some("text")) => match text("text").or_else(|| text("value")) {
            Some(text) => Ok(Block::Text { text: text.to_owned() }),
            None => Err(no_dialogue("a block of text has none")),
        },
        (_, Some("image")) => Ok(Block::Image { url: text("url").map(str::to_owned) }),
        (_, Some("image_url")) => {
            let url = item.pointer("/image_url/url").and_then(Value::as_str);
            Ok(Block::Image { url: url.map(str::to_owned) })
        }
        (_, other) => Err(no_dialogue(format!("no such block: {other:?}"))),
    }
}

/// ShareGPT's calls: an object `{name, arguments}`, or a list of them, as a text.
fn written_calls(text: &str) -> Result<Vec<ToolCall>, Fault> {
    let bad = |e: serde_json::Error| no_dialogue(format!("a function call: {e}"));
    let value: Value = serde_json::from_str(text).map_err(bad)?;
    let items = match value {
        Value::Array(items) => items,
        one => vec![one],
    };
    let call = |item: Value| serde_json::from_value(serde_json::json!({ "function": item }));
    items.into_iter().map(|item| call(item).map_err(bad)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::lesson;
    use super::*;

    fn read(json: &str) -> Result<Lesson, Fault> {
        lesson(&serde_json::from_str(json).unwrap(), None)
    }

    fn said(lesson: &Lesson) -> Vec<(Role, String, f32)> {
        let messages = lesson.dialogue.messages.iter().zip(&lesson.weights);
        messages.map(|(message, weight)| (message.role, message.text(), *weight)).collect()
    }

    #[test]
    fn every_shape_gives_the_same_dialogue() {
        let expected = vec![
            (Role::System, "be brief".to_owned(), 0.0),
            (Role::User, "2 + 2\n?".to_owned(), 0.0),
            (Role::Assistant, "4".to_owned(), 1.0),
        ];
        for json in [
            r#"{"messages":[{"role":"system","content":"be brief"},{"role":"user","content":[{"type":"text","text":"2 + 2\n?"}]},{"role":"assistant","content":"4","weight":1}]}"#,
            r#"{"system":"be brief","conversations":[{"from":"human","value":"2 + 2\n?"},{"from":"gpt","value":"4"}]}"#,
            r#"{"system":"be brief","instruction":"2 + 2","input":"?","output":"4"}"#,
            r#"{"prompt":[{"role":"system","content":"be brief"},{"role":"user","content":"2 + 2\n?"}],"completion":"4"}"#,
            r#"{"prompt":[{"role":"system","content":"be brief"},{"role":"user","content":"2 + 2\n?"}],"chosen":"4","rejected":"5"}"#,
        ] {
            assert_eq!(said(&read(json).unwrap()), expected, "{json}");
        }
    }

    #[test]
    fn calls_results_and_weights_are_read() {
        let lesson = read(
            r#"{"tools":"[{\"name\":\"f\",\"parameters\":{}}]","conversations":[{"from":"human","value":"q"},
                {"from":"function_call","value":"{\"name\":\"f\",\"arguments\":{\"a\":1}}"},
                {"from":"observation","value":"r"},{"from":"gpt","value":"x"}]}"#,
        )
        .unwrap();
        assert_eq!(lesson.dialogue.tools[0].name(), "f");
        assert_eq!(lesson.dialogue.messages[1].tool_calls[0].arguments["a"], 1);
        assert_eq!(lesson.dialogue.messages[2].role, Role::Tool);
        assert_eq!(lesson.weights, [0.0, 1.0, 0.0, 1.0]);
        let lesson = read(
            r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a","weight":0},
                {"role":"user","content":"q"},{"role":"assistant","content":"a","loss_weight":0.5}]}"#,
        );
        assert_eq!(lesson.unwrap().weights, [0.0, 0.0, 0.0, 0.5]);
    }

    #[test]
    fn what_is_no_dialogue_is_named() {
        for (json, told) in [
            ("[1]", "a list, not an object"),
            (r#"{"text":"a"}"#, "no known shape: text"),
            (r#"{"messages":5}"#, "a number, not a list"),
            (r#"{"messages":[{"role":"king","content":"x"}]}"#, "\"king\""),
            (
                r#"{"messages":[{"role":"user","content":"x","weight":1}]}"#,
                "message 0 has a weight",
            ),
            (r#"{"messages":[{"role":"assistant","content":"x","weight":-1}]}"#, "a weight is -1"),
            (r#"{"prompt":"x"}"#, "it has no completion"),
            (r#"{"instruction":"x","output":{}}"#, "an object, not a text"),
            (r#"{"conversations":[{"from":"function_call","value":"{"}]}"#, "a function call"),
        ] {
            let fault = read(json).unwrap_err().to_string();
            assert!(fault.contains(told), "{json}: {fault}");
        }
    }
}
