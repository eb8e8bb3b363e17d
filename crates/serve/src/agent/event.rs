//! What happens in an answer with tools, in the JSON that server, page and terminal share.

use herd_codec::chat::ToolCall;
use serde_json::{Value, json};

use super::voice::Turn;

/// Something that happened, in order.
#[derive(Clone, Debug)]
pub enum Event {
    /// The model said this, outside of calls.
    Text(String),
    /// The model calls a tool; the call has an id.
    Call(ToolCall),
    /// The call of this id waits for approval.
    Ask(String),
    /// A call is over.
    Result(ToolResult),
    /// A turn of the model is over: its tokens, for records; no JSON is made of it.
    Turn(Turn),
    /// All is over.
    End {
        /// Why.
        reason: Reason,
        /// Tokens of all prompts.
        prompt_tokens: usize,
        /// Tokens of all answers.
        completion_tokens: usize,
    },
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolResult {
    /// The call's id.
    pub id: String,
    /// Whether it did what was asked.
    pub ok: bool,
    /// What the model is told: data, whatever it spells.
    pub text: String,
    /// Files that the tool wrote.
    pub files: Vec<FileOut>,
    /// How long it took.
    pub seconds: f64,
}

/// A file that a tool wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOut {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub bytes: Vec<u8>,
    /// Where it can be had, if somebody serves it.
    pub url: Option<String>,
}

/// Why an answer with tools is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The model ended it.
    Stop,
    /// The model's last turn was cut.
    Length,
    /// Somebody cancelled it.
    Cancelled,
    /// A limit ended it: which.
    Limit(String),
    /// The model gave no answer: why.
    Error(String),
}

impl Reason {
    /// Its name in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Reason::Stop => "stop",
            Reason::Length => "length",
            Reason::Cancelled => "cancelled",
            Reason::Limit(_) => "limit",
            Reason::Error(_) => "error",
        }
    }

    /// Words about it, where there are any.
    pub fn note(&self) -> Option<&str> {
        match self {
            Reason::Limit(note) | Reason::Error(note) => Some(note),
            Reason::Stop | Reason::Length | Reason::Cancelled => None,
        }
    }
}

impl Event {
    /// The event as JSON, `type` first; nothing for turns.
    pub fn json(&self) -> Option<Value> {
        Some(match self {
            Event::Text(text) => json!({"type": "text", "text": text}),
            Event::Call(call) => {
                json!({"type": "call", "id": call.id, "name": call.name, "arguments": call.arguments})
            }
            Event::Ask(id) => json!({"type": "ask", "id": id}),
            Event::Result(result) => result.json(),
            Event::Turn(_) => return None,
            Event::End { reason, prompt_tokens, completion_tokens } => {
                let usage =
                    json!({"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens});
                let mut end = json!({"type": "end", "reason": reason.name(), "usage": usage});
                if let Some(note) = reason.note() {
                    end["note"] = json!(note);
                }
                end
            }
        })
    }
}

impl ToolResult {
    fn json(&self) -> Value {
        let files = self.files.iter().map(|file| {
            let mut value = json!({"name": file.name, "bytes": file.bytes.len()});
            if let Some(url) = &file.url {
                value["url"] = json!(url);
            }
            value
        });
        json!({
            "type": "result",
            "id": self.id,
            "ok": self.ok,
            "text": self.text,
            "files": files.collect::<Vec<_>>(),
            "seconds": self.seconds,
        })
    }
}
