//! Any other model's chat template, through minijinja, rendered as typed spans.
//!
//! Control tokens come from the template's own text alone. Each one that stands literally in the
//! source is replaced by a private mark before rendering, a character that neither the source nor
//! the dialogue uses; afterwards the marks are the control tokens and everything else is text.
//! A control token that a template spells out of parts is therefore text.

mod bounds;
mod jinja;
mod probe;

use std::collections::HashSet;

use super::span::Writer;
use super::{
    Block, ChatError, ChatFormat, Dialogue, Ending, Message, Origin, RenderOptions, Role, Span,
    SpanKind, ToolsIn,
};
use bounds::Bounds;
use serde_json::{Map, Value, json};

/// Largest source of a template. The largest published ones have some 17 kB.
const SOURCE_BYTES_MAX: usize = 256 * 1024;

/// A chat template and the control tokens it may write.
#[derive(Clone, Debug)]
pub struct Template {
    source: String,
    /// Longest first, so that the longest one that matches wins.
    controls: Vec<String>,
    bos: Option<String>,
    eos: Option<String>,
}

impl Template {
    /// Checks and keeps a template. `controls` are the vocabulary's control tokens.
    ///
    /// Errors: a source too large or not Jinja.
    pub fn new(
        source: &str,
        controls: &[&str],
        bos: Option<&str>,
        eos: Option<&str>,
    ) -> Result<Template, ChatError> {
        if source.len() > SOURCE_BYTES_MAX {
            let (what, bytes, limit) = ("the source", source.len(), SOURCE_BYTES_MAX);
            return Err(ChatError::TooLarge { what, bytes, limit });
        }
        let unique: HashSet<&str> = controls.iter().copied().chain(bos).chain(eos).collect();
        let mut controls: Vec<String> =
            unique.into_iter().filter(|name| !name.is_empty()).map(String::from).collect();
        controls.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        let (bos, eos) = (bos.map(String::from), eos.map(String::from));
        let template = Template { source: source.to_string(), controls, bos, eos };
        let (source, marks) = template.marked("")?;
        jinja::check(&source, &marks)?;
        Ok(template)
    }

    /// The native format that says the same on every probe, if there is one.
    pub(super) fn native(&self) -> Option<ChatFormat> {
        probe::native(self)
    }

    /// Its text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The token that ends an answer.
    pub fn eos(&self) -> Option<&str> {
        self.eos.as_deref()
    }

    /// Renders a dialogue.
    ///
    /// Errors: what the template refuses, and a template that runs or grows without bound.
    pub(super) fn render(
        &self,
        dialogue: &Dialogue,
        options: &RenderOptions,
    ) -> Result<Vec<Span>, ChatError> {
        let mut variables = variables(dialogue, options);
        let input = Value::Object(variables.clone()).to_string();
        let (source, marks) = self.marked(&input)?;
        for (name, token) in [("bos_token", &self.bos), ("eos_token", &self.eos)] {
            let mark = token.as_ref().and_then(|token| marks.of(token, &self.controls));
            let mark = mark.map_or(String::new(), String::from);
            variables.insert(name.to_string(), Value::String(mark));
        }
        let items = dialogue.messages.len() + dialogue.tools.len();
        let bounds = Bounds::of(source.len() + input.len(), items);
        let text = jinja::run(&source, &marks, &Value::Object(variables), options.today, bounds)?;
        Ok(self.split(&text, &marks))
    }

    /// The source with a mark in place of each control token.
    fn marked(&self, input: &str) -> Result<(String, Marks), ChatError> {
        let marks = Marks::free_of(self.controls.len(), &[&self.source, input])?;
        let mut out = String::new();
        let mut rest = self.source.as_str();
        'next: while let Some(c) = rest.chars().next() {
            for (name, mark) in self.controls.iter().zip(&marks.controls) {
                if let Some(behind) = rest.strip_prefix(name.as_str()) {
                    out.push(*mark);
                    rest = behind;
                    continue 'next;
                }
            }
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
        Ok((out, marks))
    }

    /// Cuts rendered text at the marks.
    fn split(&self, text: &str, marks: &Marks) -> Vec<Span> {
        let mut out = Writer::joined();
        let mut learned = false;
        let mut from = 0;
        let origin = |learned, kind| match learned {
            true => Origin::added(Role::Assistant, kind),
            false => Origin::FRAME,
        };
        for (at, c) in text.char_indices() {
            let control = marks.controls.iter().position(|mark| *mark == c);
            if control.is_none() && c != marks.open && c != marks.close {
                continue;
            }
            out.text(&text[from..at], origin(learned, SpanKind::Content));
            from = at + c.len_utf8();
            match control {
                Some(i) => {
                    out.control(self.controls[i].clone(), origin(learned, SpanKind::End));
                }
                None => learned = c == marks.open,
            }
        }
        out.text(&text[from..], origin(learned, SpanKind::Content));
        out.finish()
    }
}

/// Private characters that stand for control tokens while a template runs.
pub(super) struct Marks {
    /// One for each control token, in the template's order.
    controls: Vec<char>,
    /// The beginning of what the assistant says (`{% generation %}`).
    open: char,
    /// Its end.
    close: char,
}

impl Marks {
    /// Marks that none of the texts uses, from the supplementary private-use planes.
    fn free_of(controls: usize, texts: &[&str]) -> Result<Marks, ChatError> {
        let private = |c: &char| *c >= '\u{f0000}';
        let used: HashSet<char> =
            texts.iter().flat_map(|text| text.chars()).filter(private).collect();
        let mut free = ('\u{f0000}'..='\u{ffffd}')
            .chain('\u{100000}'..='\u{10fffd}')
            .filter(|c| !used.contains(c));
        match (free.next(), free.next()) {
            (Some(open), Some(close)) => {
                let marks = Marks { controls: free.take(controls).collect(), open, close };
                (marks.controls.len() == controls).then_some(marks)
            }
            _ => None,
        }
        .ok_or(ChatError::NoMarks { controls })
    }

    fn of(&self, token: &str, controls: &[String]) -> Option<char> {
        controls.iter().position(|name| name == token).map(|i| self.controls[i])
    }
}

/// What Hugging Face passes to a template.
fn variables(dialogue: &Dialogue, options: &RenderOptions) -> Map<String, Value> {
    let mut variables = Map::new();
    let mut set = |name: &str, value: Value| variables.insert(name.to_string(), value);
    set("messages", dialogue.messages.iter().map(message).collect());
    let tools: Vec<_> =
        dialogue.tools.iter().map(|tool| Value::Object(tool.json().clone())).collect();
    set("tools", if tools.is_empty() { Value::Null } else { tools.into() });
    set("documents", Value::Null);
    set("add_generation_prompt", (options.ending == Ending::Prompt).into());
    if let Some(builtin) = &dialogue.builtin_tools {
        set("builtin_tools", json!(builtin));
    }
    if options.tools_in == ToolsIn::System {
        set("tools_in_user_message", false.into());
    }
    if let Some(today) = options.today {
        set("date_string", today.short().into());
    }
    variables
}

fn message(message: &Message) -> Value {
    let content = match message.content.as_slice() {
        [] => Value::from(""),
        [Block::Text { text }] => Value::from(text.as_str()),
        blocks => blocks
            .iter()
            .map(|block| match block {
                Block::Text { text } => json!({"type": "text", "text": text}),
                Block::Image { .. } => json!({"type": "image"}),
            })
            .collect(),
    };
    let mut out = Map::from_iter([
        ("role".to_string(), Value::from(message.role.name())),
        ("content".to_string(), content),
    ]);
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(|call| {
            let function = json!({"name": call.name, "arguments": call.arguments});
            match &call.id {
                Some(id) => json!({"id": id, "type": "function", "function": function}),
                None => json!({"type": "function", "function": function}),
            }
        });
        out.insert("tool_calls".to_string(), calls.collect());
    }
    for (key, value) in [("tool_call_id", &message.tool_call_id), ("name", &message.name)] {
        if let Some(value) = value {
            out.insert(key.to_string(), Value::from(value.as_str()));
        }
    }
    Value::Object(out)
}
