//! Code Llama 70B Instruct: steps with a source and a destination.
//!
//! Source: `dialog_prompt_tokens` of meta-llama/codellama. An empty system message stands first
//! if the dialogue brings none. Header and body are tokenised apart.

use super::llama2::{check_order, refuse_tags};
use super::llama3::refuse_tools;
use super::python::strip;
use super::span::Writer;
use super::{ChatError, Dialogue, Ending, Origin, RenderOptions, Role, Span, SpanKind};

const TAGS: [&str; 5] = ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<step>"];

pub(super) fn render(dialogue: &Dialogue, options: &RenderOptions) -> Result<Vec<Span>, ChatError> {
    refuse_tools(dialogue)?;
    refuse_tags(dialogue, &TAGS)?;
    let system = usize::from(dialogue.messages[0].role == Role::System);
    check_order(dialogue, options, system)?;
    let mut out = Writer::apart();
    out.control("<s>", Origin::FRAME);
    if system == 0 {
        header(&mut out, Role::System, None);
        out.control("<step>", Origin::added(Role::System, SpanKind::End));
    }
    for (index, message) in dialogue.messages.iter().enumerate() {
        let head = header(&mut out, message.role, Some(index));
        let text = message.text();
        if !text.is_empty() {
            out.text("\n\n ", head);
            out.join(strip(&text), Origin::of(index, message.role, SpanKind::Content));
        }
        out.control("<step>", Origin::of(index, message.role, SpanKind::End));
    }
    if options.ending == Ending::Prompt {
        let head = header(&mut out, Role::Assistant, None);
        out.text("\n\n ", head);
    }
    Ok(out.finish())
}

/// ` Source: role`; the assistant names its destination too.
fn header(out: &mut Writer, role: Role, message: Option<usize>) -> Origin {
    let from = Origin { message, role: Some(role), kind: SpanKind::Header };
    let destination = if role == Role::Assistant { "\nDestination: user" } else { "" };
    out.text(format!(" Source: {}{destination}", role.name()), from);
    from
}
