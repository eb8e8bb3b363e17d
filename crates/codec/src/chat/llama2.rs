//! Llama 2 Chat: `<s>[INST] question [/INST] answer </s>`, one pair after the other.
//!
//! Source: `chat_completion` of meta-llama/llama. A question and its answer are one text.

use super::llama3::{refuse_beyond_text, refuse_tools};
use super::python::strip;
use super::span::Writer;
use super::{ChatError, Dialogue, Ending, Origin, RenderOptions, Role, Span, SpanKind};

const TAGS: [&str; 4] = ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"];

pub(super) fn render(dialogue: &Dialogue, options: &RenderOptions) -> Result<Vec<Span>, ChatError> {
    refuse_tools(dialogue)?;
    refuse_tags(dialogue, &TAGS)?;
    let messages = &dialogue.messages;
    let system = usize::from(messages[0].role == Role::System);
    check_order(dialogue, options, system)?;
    let mut out = Writer::joined();
    for (index, message) in messages.iter().enumerate().skip(system) {
        if message.role == Role::User {
            question(&mut out, dialogue, index, system);
        } else {
            let from = Origin::of(index, Role::Assistant, SpanKind::Content);
            out.text(" ", Origin::FRAME);
            out.text(strip(&message.text()), from);
            out.text(" ", Origin::FRAME);
            out.control("</s>", Origin::of(index, Role::Assistant, SpanKind::End));
        }
    }
    Ok(out.finish())
}

/// Refuses messages that contain a mark of the format, as the reference does.
pub(super) fn refuse_tags(
    dialogue: &Dialogue,
    tags: &'static [&'static str],
) -> Result<(), ChatError> {
    for (message, said) in dialogue.messages.iter().enumerate() {
        refuse_beyond_text(said, message)?;
        let text = said.text();
        if let Some(tag) = tags.iter().find(|tag| text.contains(**tag)) {
            return Err(ChatError::ReservedTag { message, tag });
        }
    }
    Ok(())
}

/// The user's message, the first one with the system's in front. The two are stripped as one.
fn question(out: &mut Writer, dialogue: &Dialogue, index: usize, system: usize) {
    let from = Origin::of(index, Role::User, SpanKind::Content);
    let header = Origin::of(index, Role::User, SpanKind::Header);
    out.control("<s>", Origin::FRAME);
    out.text("[INST] ", header);
    let text = dialogue.messages[index].text();
    if system == 1 && index == 1 {
        let frame = Origin::of(0, Role::System, SpanKind::Header);
        out.text("<<SYS>>\n", frame);
        out.text(dialogue.messages[0].text(), Origin::of(0, Role::System, SpanKind::Content));
        let user = text.trim_end_matches(super::python::is_space);
        out.text(if user.is_empty() { "\n<</SYS>>" } else { "\n<</SYS>>\n\n" }, frame);
        out.text(user, from);
    } else {
        out.text(strip(&text), from);
    }
    out.text(" [/INST]", header);
}

/// Users and assistants must take turns from message `system` on.
pub(super) fn check_order(
    dialogue: &Dialogue,
    options: &RenderOptions,
    system: usize,
) -> Result<(), ChatError> {
    let messages = &dialogue.messages;
    for (message, said) in messages.iter().enumerate().skip(system) {
        let (role, wants) = match (message - system) % 2 {
            0 => (Role::User, "user"),
            _ => (Role::Assistant, "assistant"),
        };
        if said.role != role {
            return Err(ChatError::Order { message, role: said.role, wants });
        }
    }
    let last = messages.len() - 1;
    let ends_well = match options.ending {
        Ending::Prompt => messages[last].role == Role::User,
        Ending::Closed => messages[last].role != Role::System,
    };
    if ends_well {
        return Ok(());
    }
    Err(ChatError::Order { message: last, role: messages[last].role, wants: "user" })
}
