//! Messages as OpenAI, ShareGPT, Alpaca and plain pairs write them.

use herd_codec::chat::{Block, Dialogue, Message, Role, ToolCall, ToolDefinition};
use serde_json::{Map, Value};

use super::Lesson;
use super::shape::{first, kind, need, need_any, no_dialogue, text};
use crate::Fault;

type Object = Map<String, Value>;

/// What a message is, and the weight said beside it.
type Said = (Message, Option<f32>);

/// `messages`, each perhaps with a weight beside it.
pub(super) fn openai(row: &Object) -> Result<Lesson, Fault> {
    lesson(row, Vec::new(), listed(list(row, "messages")?)?)
}

/// `conversations`.
pub(super) fn sharegpt(row: &Object) -> Result<Lesson, Fault> {
    lesson(row, Vec::new(), listed(list(row, "conversations")?)?)
}

/// An instruction and its input, a line apart, and the output; `history` holds pairs from before.
pub(super) fn alpaca(row: &Object) -> Result<Lesson, Fault> {
    let mut messages = Vec::new();
    if let Some(history) = first(row, &["history"]) {
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
    lesson(row, Vec::new(), messages.into_iter().map(|message| (message, None)).collect())
}

/// A question and its answer; either may be a list of messages. What the prompt has the assistant say is no answer to it.
pub(super) fn prompt_completion(row: &Object) -> Result<Lesson, Fault> {
    let answers = match need_any(row, &["completion", "response", "answer"])? {
        Value::Array(items) => listed(items)?,
        one => vec![answer(one)?],
    };
    lesson(row, asked(row, &["prompt", "question"])?, answers)
}

/// What a row asks under the first of the keys that is there, with what stands [beside](beside) it.
pub(super) fn prompt(row: &Object, keys: &[&str]) -> Result<Dialogue, Fault> {
    beside(row, asked(row, keys)?)
}

/// A text as a user's message, or messages.
fn asked(row: &Object, keys: &[&str]) -> Result<Vec<Message>, Fault> {
    match need_any(row, keys)? {
        Value::String(text) => Ok(vec![Message::new(Role::User, text)]),
        Value::Array(items) => given(items),
        other => Err(no_dialogue(format!("the prompt is {}", kind(other)))),
    }
}

/// Messages of which none is learnt.
pub(super) fn given(items: &[Value]) -> Result<Vec<Message>, Fault> {
    let unweighted = |(at, (message, weight)): (usize, Said)| match weight {
        None | Some(0.0) => Ok(message),
        Some(weight) => {
            Err(no_dialogue(format!("message {at} of a prompt has the weight {weight}")))
        }
    };
    listed(items)?.into_iter().enumerate().map(unweighted).collect()
}

/// A dialogue of these messages and what a row says beside them: its `system` text, `tools` and `builtin_tools`.
pub(super) fn beside(row: &Object, mut messages: Vec<Message>) -> Result<Dialogue, Fault> {
    if let Some(system) = text(row, "system")?.filter(|text| !text.is_empty()) {
        match messages.first().filter(|first| first.role == Role::System) {
            None => messages.insert(0, Message::new(Role::System, system)),
            Some(first) if first.text() == system => {}
            Some(_) => return Err(no_dialogue("`system` is not what its system message says")),
        }
    }
    let builtin_tools = match first(row, &["builtin_tools"]) {
        None => None,
        Some(names) => Some(
            serde_json::from_value(names.clone())
                .map_err(|e| no_dialogue(format!("`builtin_tools`: {e}")))?,
        ),
    };
    Ok(Dialogue { messages, tools: tools(row)?, builtin_tools })
}

/// An answer: a text or a message.
pub(super) fn answer(value: &Value) -> Result<Said, Fault> {
    let (message, weight) = match value {
        Value::String(text) => (Message::new(Role::Assistant, text), None),
        value => message(value)?,
    };
    match message.role {
        Role::Assistant => Ok((message, weight)),
        role => Err(no_dialogue(format!("an answer is the {}'s", role.name()))),
    }
}

/// What is learnt of `said` behind `given`: the assistant's messages, by the weights beside them, else by the row's, else by 1.
fn lesson(row: &Object, given: Vec<Message>, said: Vec<Said>) -> Result<Lesson, Fault> {
    let (mut weights, mut messages, usual) = (vec![0.0; given.len()], given, weight(row)?);
    for (message, weight) in said {
        let learnt = message.role == Role::Assistant;
        if !learnt && weight.is_some_and(|weight| weight != 0.0) {
            let at = messages.len();
            return Err(no_dialogue(format!("message {at} has a weight, but is no answer")));
        }
        weights.push(if learnt { weight.or(usual).unwrap_or(1.0) } else { 0.0 });
        messages.push(message);
    }
    let dialogue = beside(row, messages)?;
    // The row's `system` came before them.
    weights.splice(0..0, vec![0.0; dialogue.messages.len() - weights.len()]);
    Ok(Lesson { dialogue, weights })
}

fn listed(items: &[Value]) -> Result<Vec<Said>, Fault> {
    items.iter().map(message).collect()
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
    match first(row, &["tools"]) {
        None => Ok(Vec::new()),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(Vec::new()),
        Some(Value::String(text)) => serde_json::from_str(text).map_err(bad),
        Some(list) => serde_json::from_value(list.clone()).map_err(bad),
    }
}

/// A message in OpenAI's words or ShareGPT's, and the weight beside it.
fn message(item: &Value) -> Result<Said, Fault> {
    let Some(item) = item.as_object() else {
        return Err(no_dialogue(format!("a message is {}, not an object", kind(item))));
    };
    let name = need(item, &["role", "from"])?;
    let content = match first(item, &["content", "value"]) {
        None => Vec::new(),
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
    if let Some(calls) = first(item, &["tool_calls"]) {
        let calls: Vec<ToolCall> = serde_json::from_value(calls.clone())
            .map_err(|e| no_dialogue(format!("`tool_calls`: {e}")))?;
        message.tool_calls.extend(calls);
    }
    message.tool_call_id = text(item, "tool_call_id")?.map(str::to_owned);
    message.name = text(item, "name")?.map(str::to_owned);
    if let Some(end) = first(item, &["end"]) {
        let end = serde_json::from_value(end.clone());
        message.end = end.map_err(|e| no_dialogue(format!("`end`: {e}")))?;
    }
    Ok((message, weight(item)?))
}

/// What a message, or a row for its answers, says of the weight of the loss: a number, or whether to learn it.
pub(super) fn weight(item: &Object) -> Result<Option<f32>, Fault> {
    match first(item, &["weight", "loss_weight", "train"]) {
        None => Ok(None),
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
            r#"{"system":"be brief","messages":[{"role":"user","content":"2 + 2\n?"},{"role":"assistant","content":"4"}]}"#,
            r#"{"system":"be brief","prompt":"2 + 2\n?","completion":"4"}"#,
            r#"{"system":"be brief","messages":[{"role":"system","content":"be brief"},{"role":"user","content":"2 + 2\n?"},{"role":"assistant","content":"4","end":null}]}"#,
            r#"{"system":"be brief","chosen":"\n\nHuman: 2 + 2\n?\n\nAssistant: 4","rejected":"\n\nHuman: 2 + 2\n?\n\nAssistant: 5"}"#,
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
    fn tools_are_read_and_weights_count_in_every_shape() {
        let more = r#""tools":[{"name":"f","parameters":{}}],"builtin_tools":["brave_search"]"#;
        for shape in [
            r#""messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]"#,
            r#""conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]"#,
            r#""instruction":"q","output":"a""#,
            r#""prompt":"q","completion":"a""#,
            r#""prompt":"q","chosen":"a","rejected":"b""#,
            r#""chosen":"\n\nHuman: q\n\nAssistant: a","rejected":"\n\nHuman: q\n\nAssistant: b""#,
        ] {
            let Lesson { dialogue, weights } = read(&format!("{{{shape},{more}}}")).unwrap();
            assert_eq!((dialogue.tools[0].name(), &weights[..]), ("f", &[0.0, 1.0][..]), "{shape}");
            assert_eq!(dialogue.builtin_tools.unwrap(), ["brave_search"], "{shape}");
            let half = read(&format!("{{{shape},\"weight\":0.5}}"));
            match shape.contains("chosen") {
                true => assert!(half.unwrap_err().to_string().contains("weight"), "{shape}"),
                false => assert_eq!(half.unwrap().weights, [0.0, 0.5], "{shape}"),
            }
        }
        for (answer, weights) in [
            (r#"{"role":"assistant","content":"a","weight":0}"#, &[0.0, 0.0][..]),
            (
                r#"[{"role":"assistant","content":"a","train":false},{"role":"user","content":"r"},
                    {"role":"assistant","content":"b","weight":null,"train":true}]"#,
                &[0.0, 0.0, 0.0, 1.0],
            ),
        ] {
            let lesson = read(&format!(r#"{{"prompt":"q","completion":{answer}}}"#)).unwrap();
            assert_eq!(lesson.weights, weights, "{answer}");
        }
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
            (r#"{"prompt":"x","completion":"y","system":["z"]}"#, "\"system\" is a list"),
            (
                r#"{"system":"y","messages":[{"role":"system","content":"x"}]}"#,
                "`system` is not what",
            ),
            (
                r#"{"prompt":[{"role":"assistant","content":"x","weight":1}],"completion":"y"}"#,
                "message 0 of a prompt",
            ),
            (r#"{"instruction":"x","output":{}}"#, "an object, not a text"),
            (r#"{"conversations":[{"from":"function_call","value":"{"}]}"#, "a function call"),
        ] {
            let fault = read(json).unwrap_err().to_string();
            assert!(fault.contains(told), "{json}: {fault}");
        }
    }
}
