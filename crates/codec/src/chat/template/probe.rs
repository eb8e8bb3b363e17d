//! Knowing a published template by what it says: rendered beside a native format on probes that
//! touch every branch of those templates. Spelling does not matter, so the many copies of a
//! template that differ in white space are known as well.

use std::sync::LazyLock;

use super::super::{
    ChatFormat, Date, Dialogue, Ending, RenderOptions, SMOLLM2_SYSTEM, Span, ToolsIn,
};
use super::Template;

/// The native format that agrees with the template on every probe.
pub(super) fn native(template: &Template) -> Option<ChatFormat> {
    let candidates = [
        ChatFormat::HuggingFace31,
        ChatFormat::HuggingFace32,
        ChatFormat::Llama3,
        ChatFormat::ChatMl { system: None },
        ChatFormat::ChatMl { system: Some(SMOLLM2_SYSTEM.to_string()) },
    ];
    candidates.into_iter().find(|native| agrees(template, native))
}

/// Whether the two say the same on all probes. What the native format refuses, the template must
/// refuse or pass over in silence, as templates that know no tools do.
fn agrees(template: &Template, native: &ChatFormat) -> bool {
    PROBES.iter().all(|dialogue| {
        options().into_iter().all(|options| {
            let theirs = template.render(dialogue, &options).map(|spans| flat(&spans));
            let ours =
                |dialogue: &Dialogue| native.render(dialogue, &options).map(|spans| flat(&spans));
            match (ours(dialogue), theirs) {
                (Ok(ours), Ok(theirs)) => ours == theirs,
                (Ok(_), Err(_)) => false,
                (Err(_), Ok(theirs)) => {
                    let mut less = bared(dialogue).into_iter();
                    less.any(|dialogue| ours(&dialogue).is_ok_and(|ours| ours == theirs))
                }
                (Err(_), Err(_)) => true,
            }
        })
    })
}

/// The dialogue without built-in tools, and without any tools and calls.
fn bared(dialogue: &Dialogue) -> [Dialogue; 2] {
    let mut messages = dialogue.messages.clone();
    messages.iter_mut().for_each(|message| message.tool_calls.clear());
    [Dialogue { builtin_tools: None, ..dialogue.clone() }, Dialogue::from(messages)]
}

fn options() -> [RenderOptions; 3] {
    let today = Date::new(2026, 2, 3);
    let system = RenderOptions { tools_in: ToolsIn::System, today, ..RenderOptions::PROMPT };
    [RenderOptions::PROMPT, RenderOptions { ending: Ending::Closed, ..system }, system]
}

/// Control tokens, and the text between two of them in one piece.
fn flat(spans: &[Span]) -> Vec<(bool, String)> {
    let mut out: Vec<(bool, String)> = Vec::new();
    for span in spans {
        match (span, out.last_mut()) {
            (Span::Control { token, .. }, _) => out.push((true, token.to_string())),
            (Span::Text { text, .. }, Some((false, before))) => before.push_str(text),
            (Span::Text { text, .. }, _) => out.push((false, text.clone())),
        }
    }
    out
}

static PROBES: LazyLock<Vec<Dialogue>> = LazyLock::new(|| {
    const TOOLS: &str = r#""tools": [{"type": "function", "function": {"name": "f",
        "description": "é", "parameters": {"type": "object", "properties": {}, "required": []}}}]"#;
    const TURNS: &str = r#"{"role": "user", "content": " q\n"},
        {"role": "assistant", "content": " a<think>\nt</think> "}, {"role": "user", "content": "\nr <|eot_id|>"}"#;
    const CALLS: &str = r#"{"role": "user", "content": " q "},
        {"role": "assistant", "tool_calls": [{"function": {"name": "g", "arguments":
        {"x": "ü\"", "y": "1"}}}]}, {"role": "tool", "content": " t\"ö "}"#;
    const SYSTEM: &str = r#"{"role": "system", "content": " s "}"#;
    let probes = [
        format!(r#"{{"messages": [{TURNS}]}}"#),
        format!(r#"{{"messages": [{SYSTEM}, {TURNS}]}}"#),
        format!(r#"{{"messages": [{TURNS}, {SYSTEM}, {TURNS}]}}"#),
        r#"{"messages": [{"role": "system", "content": ""}]}"#.to_string(),
        r#"{"messages": [{"role": "user", "content": ""}]}"#.to_string(),
        format!(r#"{{"messages": [{SYSTEM}, {CALLS}, {TURNS}], {TOOLS}}}"#),
        format!(r#"{{"messages": [{CALLS}], {TOOLS}}}"#),
        format!(r#"{{"messages": [{CALLS}]}}"#),
        format!(r#"{{"messages": [{CALLS}], "builtin_tools": ["g", "code_interpreter", "h"]}}"#),
        format!(r#"{{"messages": [{CALLS}], {TOOLS}, "builtin_tools": ["h"]}}"#),
    ];
    let read = |json: &String| serde_json::from_str(json).expect("the probes are well formed");
    probes.iter().map(read).collect()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_that_formats_are_written_as_are_known_again() {
        let controls = "<|begin_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|> <|im_start|> <|im_end|>";
        let controls: Vec<&str> = controls.split(' ').collect();
        for format in [ChatFormat::Llama3, ChatFormat::ChatMl { system: None }] {
            let source = format.template().expect("it has one");
            let read = ChatFormat::of_template(source, &controls, None, None).expect("it compiles");
            assert_eq!(format!("{read:?}"), format!("{format:?}"));
        }
    }
}
