//! Conversations for formats in which a message makes one call: several are made one after another.

use std::collections::VecDeque;

use herd_codec::chat::{Dialogue, Message, Role};

/// The same conversation with one call a message, each with its result behind it.
///
/// A result belongs to the call that it names; one that names none of them stands behind the last.
pub fn in_turn(dialogue: &Dialogue) -> Dialogue {
    let mut messages = Vec::new();
    let mut rest: VecDeque<&Message> = dialogue.messages.iter().collect();
    while let Some(message) = rest.pop_front() {
        if message.tool_calls.len() < 2 {
            messages.push(message.clone());
            continue;
        }
        let results = rest.iter().take_while(|message| message.role == Role::Tool).count();
        let mut results: Vec<&Message> = rest.drain(..results).collect();
        for (k, call) in message.tool_calls.iter().enumerate() {
            let mut one = Message { tool_calls: vec![call.clone()], ..message.clone() };
            if k > 0 {
                one.content.clear();
            }
            messages.push(one);
            let own =
                |result: &&Message| result.tool_call_id.is_some() && result.tool_call_id == call.id;
            messages.extend(results.extract_if(.., |result| own(result)).cloned());
        }
        messages.extend(results.into_iter().cloned());
    }
    Dialogue { messages, ..dialogue.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use herd_codec::chat::ToolCall;

    #[test]
    fn each_call_is_followed_by_its_result() {
        let call = |id: &str| ToolCall {
            id: Some(id.into()),
            name: "f".into(),
            arguments: Default::default(),
        };
        let result = |id: &str| {
            let tool_call_id = Some(id.to_owned());
            Message { tool_call_id, ..Message::new(Role::Tool, id) }
        };
        let calls = vec![call("a"), call("b"), call("c")];
        let messages = vec![
            Message::new(Role::User, "go"),
            Message { tool_calls: calls, ..Message::new(Role::Assistant, "yes") },
            result("b"),
            result("a"),
            result("odd"),
            Message::new(Role::User, "and?"),
        ];
        let turned = in_turn(&Dialogue::from(messages)).messages;
        let said = |message: &Message| match message.tool_calls.first() {
            Some(call) => format!("{}!", call.id.as_deref().unwrap()),
            None => message.text(),
        };
        let order: Vec<String> = turned.iter().map(said).collect();
        assert_eq!(order, ["go", "a!", "a", "b!", "b", "c!", "odd", "and?"]);
        assert_eq!((turned[1].text().as_str(), turned[3].text().as_str()), ("yes", ""));
    }
}
