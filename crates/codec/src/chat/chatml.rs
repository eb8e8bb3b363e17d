//! ChatML: `<|im_start|>role\ncontent<|im_end|>\n`.

use super::llama3::{refuse_beyond_text, refuse_tools};
use super::span::Writer;
use super::{ChatError, Dialogue, Ending, Origin, RenderOptions, Role, Span, SpanKind};

/// SmolLM2's system text for a dialogue that brings none.
pub const SMOLLM2_SYSTEM: &str =
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face";

/// [`render`] without a system text of its own, in the language of Jinja.
pub(super) const TEMPLATE: &str = "{% for message in messages %}\
    {{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}\
    {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

pub(super) fn render(
    dialogue: &Dialogue,
    options: &RenderOptions,
    system: Option<&str>,
) -> Result<Vec<Span>, ChatError> {
    refuse_tools(dialogue)?;
    let mut out = Writer::joined();
    if let (Some(system), true) = (system, dialogue.messages[0].role != Role::System) {
        header(&mut out, Role::System, None);
        out.text(system, Origin::added(Role::System, SpanKind::Preamble));
        end(&mut out, Origin::added(Role::System, SpanKind::End));
    }
    for (index, message) in dialogue.messages.iter().enumerate() {
        refuse_beyond_text(message, index)?;
        header(&mut out, message.role, Some(index));
        out.text(message.text(), Origin::of(index, message.role, SpanKind::Content));
        end(&mut out, Origin::of(index, message.role, SpanKind::End));
    }
    if options.ending == Ending::Prompt {
        header(&mut out, Role::Assistant, None);
    }
    Ok(out.finish())
}

fn header(out: &mut Writer, role: Role, message: Option<usize>) {
    let from = Origin { message, role: Some(role), kind: SpanKind::Header };
    out.control("<|im_start|>", from);
    out.text(format!("{}\n", role.name()), from);
}

fn end(out: &mut Writer, from: Origin) {
    out.control("<|im_end|>", from);
    out.text("\n", Origin::FRAME);
}
