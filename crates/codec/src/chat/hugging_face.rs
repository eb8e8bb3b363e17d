//! Llama 3.1, 3.2 and 3.3 Instruct as Hugging Face's templates write them.
//!
//! They differ from Meta's code: a system message always stands first, contents are stripped,
//! tool definitions go into the first user message, and a tool's result is quoted as JSON.

use serde_json::Value;

use super::calls::CODE_INTERPRETER;
use super::llama3::header;
use super::python::{Dumps, strip};
use super::span::Writer;
use super::{
    ChatError, Date, Dialogue, Ending, Message, Origin, RenderOptions, Role, Span, SpanKind,
    ToolCall, ToolsIn,
};

/// Which template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// 3.1 and 3.3: built-in tools, `<|eom_id|>`.
    V31,
    /// 3.2: neither.
    V32,
}

const DATE: Date = Date::new(2024, 7, 26).expect("July has 31 days");
const FORM: &str = "Respond in the format {\"name\": function name, \"parameters\": dictionary of \
                    argument name and its value}.Do not use variables.\n\n";
const IN_SYSTEM: &str = "You have access to the following functions. To call a function, please \
                         respond with JSON for a function call.";
const IN_USER: &str = "Given the following functions, please respond with a JSON for a function \
                       call with its proper arguments that best answers the given prompt.\n\n";

pub(super) fn render(
    dialogue: &Dialogue,
    options: &RenderOptions,
    version: Version,
) -> Result<Vec<Span>, ChatError> {
    if let (Version::V32, Some(builtin)) = (version, &dialogue.builtin_tools) {
        let tool = builtin.first().cloned().unwrap_or_default();
        return Err(ChatError::NoPlaceForTools { tool });
    }
    let mut out = Writer::joined();
    out.control("<|begin_of_text|>", Origin::FRAME);
    let mut next = system(&mut out, dialogue, options)?;
    if !dialogue.tools.is_empty() && options.tools_in == ToolsIn::User {
        let Some(first) = dialogue.messages.get(next) else {
            let wants = "a message for the tools behind it";
            return Err(ChatError::Order { message: next - 1, role: Role::System, wants });
        };
        header(&mut out, Role::User, Some(next));
        let from = Origin::of(next, Role::User, SpanKind::Preamble);
        out.text(format!("{IN_USER}{FORM}{}", definitions(dialogue)), from);
        content(&mut out, first, next)?;
        end(&mut out, first.role, next, "<|eot_id|>");
        next += 1;
    }
    for (index, message) in dialogue.messages.iter().enumerate().skip(next) {
        header(&mut out, message.role, Some(index));
        if !message.tool_calls.is_empty() {
            let from = Origin::of(index, message.role, SpanKind::Call);
            call(&mut out, message, dialogue, from, index)?;
            let eom = dialogue.builtin_tools.is_some();
            end(&mut out, message.role, index, if eom { "<|eom_id|>" } else { "<|eot_id|>" });
            continue;
        }
        if message.role == Role::Tool {
            refuse_image(message, index)?;
            let quoted = Dumps::TEMPLATE.dump(&Value::String(message.text()));
            out.text(quoted, Origin::of(index, message.role, SpanKind::Content));
        } else {
            content(&mut out, message, index)?;
        }
        end(&mut out, message.role, index, "<|eot_id|>");
    }
    if options.ending == Ending::Prompt {
        header(&mut out, Role::Assistant, None);
    }
    Ok(out.finish())
}

/// The system message, which is always there; gives the index of the message after it.
fn system(
    out: &mut Writer,
    dialogue: &Dialogue,
    options: &RenderOptions,
) -> Result<usize, ChatError> {
    let first = &dialogue.messages[0];
    let given = (first.role == Role::System).then_some(0);
    let from = |kind| Origin { message: given, role: Some(Role::System), kind };
    header(out, Role::System, given);
    let mut preamble = String::new();
    if dialogue.builtin_tools.is_some() || !dialogue.tools.is_empty() {
        preamble += "Environment: ipython\n";
    }
    if let Some(builtin) = &dialogue.builtin_tools {
        let listed: Vec<_> =
            builtin.iter().map(String::as_str).filter(|name| *name != CODE_INTERPRETER).collect();
        preamble += &format!("Tools: {}\n\n", listed.join(", "));
    }
    let today = options.today.unwrap_or(DATE).short();
    preamble += &format!("Cutting Knowledge Date: December 2023\nToday Date: {today}\n\n");
    if !dialogue.tools.is_empty() && options.tools_in == ToolsIn::System {
        preamble += &format!("{IN_SYSTEM}{FORM}{}", definitions(dialogue));
    }
    out.text(preamble, from(SpanKind::Preamble));
    if given.is_some() {
        content(out, first, 0)?;
    }
    out.control("<|eot_id|>", from(SpanKind::End));
    Ok(usize::from(given.is_some()))
}

fn definitions(dialogue: &Dialogue) -> String {
    let dumps = Dumps { indent: Some(4), ..Dumps::TEMPLATE };
    dialogue.tools.iter().map(|tool| dumps.dump_object(tool.json()) + "\n\n").collect()
}

fn content(out: &mut Writer, message: &Message, index: usize) -> Result<(), ChatError> {
    refuse_image(message, index)?;
    let from = Origin::of(index, message.role, SpanKind::Content);
    out.text(strip(&message.text()), from);
    Ok(())
}

fn refuse_image(message: &Message, index: usize) -> Result<(), ChatError> {
    if message.has_image() {
        return Err(ChatError::NoForm { message: index, what: "an image" });
    }
    Ok(())
}

fn end(out: &mut Writer, role: Role, index: usize, token: &'static str) {
    out.control(token, Origin::of(index, role, SpanKind::End));
}

/// The one call of a message; its text, if any, is dropped as the templates drop it.
fn call(
    out: &mut Writer,
    message: &Message,
    dialogue: &Dialogue,
    from: Origin,
    index: usize,
) -> Result<(), ChatError> {
    let [call] = message.tool_calls.as_slice() else {
        return Err(ChatError::ManyCalls { message: index, calls: message.tool_calls.len() });
    };
    if dialogue.builtin_tools.iter().flatten().any(|name| *name == call.name) {
        out.control("<|python_tag|>", from);
        out.text(dotted(call, index)?, from);
    } else {
        let arguments = Dumps::TEMPLATE.dump_object(&call.arguments);
        out.text(format!("{{\"name\": \"{}\", \"parameters\": {arguments}}}", call.name), from);
    }
    Ok(())
}

/// `name.call(a="x", b="y")`.
fn dotted(call: &ToolCall, message: usize) -> Result<String, ChatError> {
    let mut pairs = Vec::new();
    for (name, value) in &call.arguments {
        let Value::String(text) = value else {
            let (call, argument) = (call.name.clone(), name.clone());
            return Err(ChatError::ArgumentNotText { message, call, argument });
        };
        pairs.push(format!("{name}=\"{text}\""));
    }
    Ok(format!("{}.call({})", call.name, pairs.join(", ")))
}
