//! Items of `/v1/responses`: what was said, one by one, as messages.

use herd_codec::chat::{Message, Role, ToolCall};
use serde_json::{Map, Value, json};

use crate::fields::shorten;
use crate::refusal::Refusal;

/// The items of an input; a text is what the user says.
pub fn read_input(input: Value) -> Result<Vec<Value>, Refusal> {
    match input {
        Value::String(text) => {
            Ok(vec![json!({ "type": "message", "role": "user", "content": text })])
        }
        Value::Array(items) if !items.is_empty() => Ok(items),
        other => {
            let message = format!("input is {}, expected a text or items", shorten(&other));
            Err(Refusal::field("input", message))
        }
    }
}

/// The messages of a conversation. The first `before` items were taken earlier; errors name the others by their place.
pub fn messages(
    instructions: Option<&str>,
    items: &[Value],
    before: usize,
) -> Result<Vec<Message>, Refusal> {
    let mut messages: Vec<Message> =
        instructions.map(|text| Message::new(Role::System, text)).into_iter().collect();
    for (i, item) in items.iter().enumerate() {
        let field = format!("input[{}]", i.saturating_sub(before));
        read_item(item, &mut messages).map_err(|what| {
            let message = format!("{field} {what}");
            Refusal::field(field, message)
        })?;
    }
    Ok(messages)
}

/// Adds what an item says; what is wrong with it, if it cannot be read.
fn read_item(item: &Value, messages: &mut Vec<Message>) -> Result<(), String> {
    let map = item.as_object().ok_or_else(|| format!("is {}, no item", shorten(item)))?;
    match map.get("type").and_then(Value::as_str) {
        None | Some("message") => {
            known(map, &["type", "role", "content", "id", "status", "phase"])?;
            let role = match map.get("role").and_then(Value::as_str) {
                Some("user") => Role::User,
                Some("assistant") => Role::Assistant,
                Some("system" | "developer") => Role::System,
                _ => return Err(format!("has the role {}", shorten(&item["role"]))),
            };
            messages.push(Message::new(role, text(&item["content"])?));
        }
        Some("function_call") => {
            known(map, &["type", "call_id", "name", "arguments", "id", "status"])?;
            let word = |name: &str| {
                let word = map.get(name).and_then(Value::as_str).map(str::to_owned);
                word.ok_or_else(|| format!("has no {name}"))
            };
            let arguments = serde_json::from_str(&word("arguments")?)
                .map_err(|e| format!("has arguments that are no JSON object: {e}"))?;
            let (id, name) = (Some(word("call_id")?), word("name")?);
            let call = ToolCall { id, name, arguments };
            // Calls belong to the words before them.
            match messages.last_mut().filter(|message| message.role == Role::Assistant) {
                Some(message) => message.tool_calls.push(call),
                None => {
                    let mut message = Message::new(Role::Assistant, "");
                    message.content.clear();
                    message.tool_calls.push(call);
                    messages.push(message);
                }
            }
        }
        Some("function_call_output") => {
            known(map, &["type", "call_id", "output", "id", "status"])?;
            let id = map.get("call_id").and_then(Value::as_str);
            let id = id.ok_or_else(|| "names no call".to_owned())?;
            let mut message = Message::new(Role::Tool, text(&item["output"])?);
            message.tool_call_id = Some(id.to_owned());
            messages.push(message);
        }
        Some(kind) => return Err(format!("is of type {kind:?}, which is not read")),
    }
    Ok(())
}

fn known(map: &Map<String, Value>, names: &[&str]) -> Result<(), String> {
    let other = map.iter().find(|(name, value)| !names.contains(&&***name) && !value.is_null());
    other.map_or(Ok(()), |(name, _)| Err(format!("has no field {name:?}")))
}

/// A text, or parts of text one after another.
fn text(content: &Value) -> Result<String, String> {
    let wrong = |value: &Value| format!("holds {}, the model reads text alone", shorten(value));
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => {
            let one = |part: &Value| {
                let text = match part["type"].as_str() {
                    Some("input_text" | "output_text") => part["text"].as_str(),
                    Some("refusal") => part["refusal"].as_str(),
                    Some(_) | None => None,
                };
                text.map(str::to_owned).ok_or_else(|| wrong(part))
            };
            parts.iter().map(one).collect()
        }
        other => Err(wrong(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_become_messages_and_calls_belong_to_the_words_before_them() {
        let call = |id: &str| json!({ "type": "function_call", "call_id": id, "name": "f", "arguments": "{\"x\":1}" });
        let items = [
            json!({ "role": "user", "content": [{ "type": "input_text", "text": "go" }] }),
            json!({ "type": "message", "role": "assistant", "content": "yes", "id": "msg_1" }),
            call("a"),
            call("b"),
            json!({ "type": "function_call_output", "call_id": "b", "output": "2" }),
        ];
        let read = messages(Some("be brief"), &items, 0).unwrap();
        let roles: Vec<Role> = read.iter().map(|message| message.role).collect();
        assert_eq!(roles, [Role::System, Role::User, Role::Assistant, Role::Tool]);
        assert_eq!(read[2].tool_calls.len(), 2);
        assert_eq!(read[3].tool_call_id.as_deref(), Some("b"));
        for (item, words) in [
            (json!({ "type": "reasoning" }), "input[1] is of type \"reasoning\""),
            (json!({ "role": "user", "content": "x", "audio": 1 }), "no field \"audio\""),
            (json!({ "role": "judge", "content": "x" }), "has the role \"judge\""),
            (json!({ "role": "user", "content": [{ "type": "input_image" }] }), "text alone"),
        ] {
            let refusal = messages(None, &[items[0].clone(), item], 0).unwrap_err();
            assert!(refusal.message.contains(words), "{}", refusal.message);
            assert_eq!(refusal.field.as_deref(), Some("input[1]"));
        }
    }
}
