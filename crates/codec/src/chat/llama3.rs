//! The Llama 3 family as Meta's own code writes it: header, content, end of turn or message.
//!
//! Source: `chat_format` of meta-llama/llama3 (April 2024) and of llama-models 0.3.0.

use super::calls::{CODE_INTERPRETER, write_call};
use super::python::strip;
use super::span::Writer;
use super::{
    Block, ChatError, Dialogue, EndOf, Ending, Message, Origin, RenderOptions, Role, Span,
    SpanKind, ToolFormat,
};

/// Llama 3.1 and later: contents as given, each block encoded by itself.
pub(super) fn render(
    dialogue: &Dialogue,
    options: &RenderOptions,
    tools: ToolFormat,
) -> Result<Vec<Span>, ChatError> {
    refuse_tools(dialogue)?;
    let mut out = Writer::apart();
    out.control("<|begin_of_text|>", Origin::FRAME);
    for (index, message) in dialogue.messages.iter().enumerate() {
        header(&mut out, message.role, Some(index));
        body(&mut out, message, index, tools)?;
        let eom = message.role == Role::Assistant && message.end == EndOf::Message;
        let end = if eom { "<|eom_id|>" } else { "<|eot_id|>" };
        out.control(end, Origin::of(index, message.role, SpanKind::End));
    }
    if options.ending == Ending::Prompt {
        header(&mut out, Role::Assistant, None);
    }
    Ok(out.finish())
}

fn body(
    out: &mut Writer,
    message: &Message,
    index: usize,
    tools: ToolFormat,
) -> Result<(), ChatError> {
    let call_from = Origin::of(index, message.role, SpanKind::Call);
    if message.tool_calls.first().is_some_and(|call| call.name == CODE_INTERPRETER) {
        out.control("<|python_tag|>", call_from);
    }
    let from = Origin::of(index, message.role, SpanKind::Content);
    for block in &message.content {
        match block {
            Block::Text { text } => out.text(text, from),
            Block::Image { .. } => out.control("<|image|>", from),
        }
    }
    for call in &message.tool_calls {
        out.text(write_call(call, tools, index)?, call_from);
    }
    Ok(())
}

/// [`render_april`] in the language of Jinja.
pub(super) const TEMPLATE: &str = "{{ '<|begin_of_text|>' }}{% for message in messages %}\
    {% if message['role'] not in ['system', 'user', 'assistant'] %}\
    {{ raise_exception('no such role: ' + message['role']) }}{% endif %}\
    {{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}\
    {{ message['content'] | trim }}{{ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}\
    {{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";

/// Llama 3 of April 2024: contents stripped, three roles, no tools.
pub(super) fn render_april(
    dialogue: &Dialogue,
    options: &RenderOptions,
) -> Result<Vec<Span>, ChatError> {
    refuse_tools(dialogue)?;
    let mut out = Writer::apart();
    out.control("<|begin_of_text|>", Origin::FRAME);
    for (index, message) in dialogue.messages.iter().enumerate() {
        if message.role == Role::Tool {
            let wants = "system, user or assistant";
            return Err(ChatError::Order { message: index, role: message.role, wants });
        }
        refuse_beyond_text(message, index)?;
        header(&mut out, message.role, Some(index));
        let from = Origin::of(index, message.role, SpanKind::Content);
        out.text(strip(&message.text()), from);
        out.control("<|eot_id|>", Origin::of(index, message.role, SpanKind::End));
    }
    if options.ending == Ending::Prompt {
        header(&mut out, Role::Assistant, None);
    }
    Ok(out.finish())
}

/// `<|start_header_id|>role<|end_header_id|>\n\n`.
pub(super) fn header(out: &mut Writer, role: Role, message: Option<usize>) {
    let from = Origin { message, role: Some(role), kind: SpanKind::Header };
    let name = if role == Role::Tool { "ipython" } else { role.name() };
    out.control("<|start_header_id|>", from);
    out.text(name, from);
    out.control("<|end_header_id|>", from);
    out.text("\n\n", from);
}

/// Refuses tool definitions where the format has no place for them.
pub(super) fn refuse_tools(dialogue: &Dialogue) -> Result<(), ChatError> {
    let builtin = dialogue.builtin_tools.iter().flatten().map(String::as_str);
    match dialogue.tools.iter().map(|tool| tool.name()).chain(builtin).next() {
        Some(tool) => Err(ChatError::NoPlaceForTools { tool: tool.to_string() }),
        None => Ok(()),
    }
}

/// Refuses images, calls and ends of message where the format knows words only.
pub(super) fn refuse_beyond_text(message: &Message, index: usize) -> Result<(), ChatError> {
    let what = if message.has_image() {
        "an image"
    } else if !message.tool_calls.is_empty() {
        "a tool call"
    } else if message.end == EndOf::Message {
        "an end of message"
    } else {
        return Ok(());
    };
    Err(ChatError::NoForm { message: index, what })
}
