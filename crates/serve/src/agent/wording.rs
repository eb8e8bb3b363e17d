//! How a chat format is told of tools, of calls that were made, and of what came of them.

use herd_codec::chat::{
    Block, CallForms, ChatFormat, Date, Dialogue, EndOf, Message, Role, ToolCall, ToolDefinition,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::AgentError;

/// How tools are spoken of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Manner {
    /// Meta's own words for Llama 3.1: `Environment: ipython`, `Tools: ..`, definitions before the first question.
    Meta31,
    /// Hugging Face's template of 3.1, which knows built-in tools.
    HuggingFace31,
    /// Hugging Face's template of 3.2, which knows definitions alone.
    HuggingFace32,
    /// A format that knows no tools: definitions in the system's message, calls and results as words.
    Words,
}

/// Llama 3.1's names of built-in tools, and what Herd calls them.
pub const BUILTIN: [(&str, &str); 3] =
    [("brave_search", "search"), ("wolfram_alpha", "calc"), ("code_interpreter", "python")];

/// The tool that a model means by this name.
pub fn own_name(name: &str) -> &str {
    BUILTIN.iter().find(|(theirs, _)| *theirs == name).map_or(name, |(_, own)| own)
}

impl Manner {
    /// The manner of a format.
    pub fn of(format: &ChatFormat) -> Manner {
        match format {
            ChatFormat::Llama31 { .. } => Manner::Meta31,
            ChatFormat::HuggingFace31 => Manner::HuggingFace31,
            ChatFormat::HuggingFace32 => Manner::HuggingFace32,
            ChatFormat::Llama2 | ChatFormat::CodeLlama70b | ChatFormat::Llama3 => Manner::Words,
            ChatFormat::ChatMl { .. } | ChatFormat::Template(_) => Manner::Words,
        }
    }

    /// The calls that an answer may hold.
    pub fn call_forms(self, format: &ChatFormat) -> CallForms {
        match self {
            Manner::Words => CallForms::JSON,
            Manner::Meta31 | Manner::HuggingFace31 | Manner::HuggingFace32 => format.call_forms(),
        }
    }

    /// The dialogue as the format can render it, tools and all.
    ///
    /// Errors: none of its own; a dialogue that the format refuses is refused when it is rendered.
    pub fn say(
        self,
        dialogue: &Dialogue,
        tools: &[ToolDefinition],
        today: Option<Date>,
    ) -> Result<Dialogue, AgentError> {
        let messages = dialogue.messages.clone();
        if tools.is_empty() && !messages.iter().any(|m| m.role == Role::Tool) {
            return Ok(Dialogue::from(messages));
        }
        let (builtin, custom): (Vec<_>, Vec<_>) =
            tools.iter().cloned().partition(|tool| builtin_of(tool.name()).is_some());
        let names = builtin.iter().filter_map(|tool| builtin_of(tool.name()));
        let names: Vec<String> = names.map(str::to_owned).collect();
        Ok(match self {
            Manner::HuggingFace31 => Dialogue {
                messages: apart(messages.into_iter().map(bare_arguments).collect()),
                tools: custom,
                builtin_tools: (!names.is_empty()).then_some(names),
            },
            Manner::HuggingFace32 => {
                Dialogue { messages: apart(messages), tools: tools.to_vec(), builtin_tools: None }
            }
            Manner::Meta31 => Dialogue::from(meta(messages, &names, &custom, today)),
            Manner::Words => Dialogue::from(words(messages, tools)),
        })
    }
}

/// Llama 3.1's name of a tool of ours.
fn builtin_of(own: &str) -> Option<&'static str> {
    BUILTIN.iter().find(|(_, ours)| *ours == own).map(|(theirs, _)| *theirs)
}

/// One call a message, each followed by its result: what formats of one call allow.
fn apart(messages: Vec<Message>) -> Vec<Message> {
    let mut out: Vec<Message> = Vec::new();
    let mut messages = messages.into_iter().peekable();
    while let Some(message) = messages.next() {
        if message.tool_calls.len() < 2 {
            out.push(message);
            continue;
        }
        let mut results = Vec::new();
        while let Some(result) = messages.next_if(|next| next.role == Role::Tool) {
            results.push(result);
        }
        for call in &message.tool_calls {
            out.push(Message { tool_calls: vec![call.clone()], ..message.clone() });
            let own = |result: &Message| result.tool_call_id == call.id;
            if let Some(at) = results.iter().position(own) {
                out.push(results.remove(at));
            }
        }
        out.extend(results);
    }
    out
}

/// Built-in tools take one text: whatever else a model gave them becomes that text.
fn bare_arguments(mut message: Message) -> Message {
    for call in &mut message.tool_calls {
        let key = match call.name.as_str() {
            "code_interpreter" => "code",
            "brave_search" | "wolfram_alpha" | "photogen" => "query",
            _ => continue,
        };
        let text = match call.arguments.get(key).or_else(|| call.arguments.values().next()) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        };
        call.arguments = [(key.to_owned(), Value::String(text))].into_iter().collect();
    }
    message
}

/// Meta's layout: llama-models, `llama3_1/prompt_format.md`.
fn meta(
    messages: Vec<Message>,
    builtin: &[String],
    custom: &[ToolDefinition],
    today: Option<Date>,
) -> Vec<Message> {
    let listed: Vec<&str> =
        builtin.iter().map(String::as_str).filter(|name| *name != "code_interpreter").collect();
    let mut head = String::from("Environment: ipython\n");
    if !listed.is_empty() {
        head += &format!("Tools: {}\n", listed.join(", "));
    }
    head += "Cutting Knowledge Date: December 2023\n";
    if let Some(day) = today.and_then(|day| day.format("%d %B %Y").ok()) {
        head += &format!("Today Date: {day}\n");
    }
    let mut messages: Vec<Message> = messages.into_iter().map(bare_arguments).collect();
    for message in messages.iter_mut().filter(|m| !m.tool_calls.is_empty()) {
        message.end = EndOf::Message;
    }
    before_system(&mut messages, &format!("{head}\n"));
    if !custom.is_empty()
        && let Some(first) = messages.iter_mut().find(|m| m.role == Role::User)
    {
        first.content.insert(0, Block::Text { text: definitions(custom) });
    }
    messages
}

/// Puts words in front of the system's message.
fn before_system(messages: &mut Vec<Message>, words: &str) {
    match messages.first_mut().filter(|m| m.role == Role::System) {
        Some(system) => *system = Message::new(Role::System, words.to_owned() + &system.text()),
        None => messages.insert(0, Message::new(Role::System, words.trim_end())),
    }
}

/// The definitions of tools, and how they are called.
fn definitions(tools: &[ToolDefinition]) -> String {
    let mut text = String::from(
        "You may call these functions. To call one, answer with nothing but JSON: \
         {\"type\": \"function\", \"name\": its name, \"parameters\": its arguments by name}. \
         You are then told its result.\n\n",
    );
    for tool in tools {
        text += &Value::Object(tool.json().clone()).to_string();
        text += "\n\n";
    }
    text
}

fn words(messages: Vec<Message>, tools: &[ToolDefinition]) -> Vec<Message> {
    let mut out: Vec<Message> = Vec::new();
    let mut after_result = false;
    for message in messages {
        if message.role == Role::Tool {
            let name = message.name.as_deref().unwrap_or("a tool");
            let text = format!("Result of {name}:\n{}", message.text());
            match out.last_mut().filter(|_| after_result) {
                Some(before) => {
                    *before = Message::new(Role::User, format!("{}\n\n{text}", before.text()));
                }
                None => out.push(Message::new(Role::User, text)),
            }
            after_result = true;
            continue;
        }
        after_result = false;
        let text = said(&message);
        out.push(Message::new(message.role, text));
    }
    before_system(&mut out, &definitions(tools));
    out
}

/// What a message says, its calls as JSON.
fn said(message: &Message) -> String {
    let call = |call: &ToolCall| {
        json!({"type": "function", "name": call.name, "parameters": call.arguments}).to_string()
    };
    let mut parts = vec![message.text()];
    parts.extend(message.tool_calls.iter().map(call));
    parts.retain(|part| !part.is_empty());
    parts.join("\n")
}
