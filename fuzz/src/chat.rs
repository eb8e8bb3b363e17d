//! Chat templates, and answers of a model taken apart.

use arbitrary::{Result, Unstructured};
use herd_codec::chat::{
    CallForms, ChatFormat, Date, Delta, Dialogue, Message, Piece, RenderOptions, Role, Span,
    StreamParser, ToolCall, ToolFormat, parse_assistant,
};
use serde_json::json;

use super::memory::{Allowance, within};

/// What `template/bounds.rs` allows, and the engine.
const RENDERING: Allowance = Allowance { factor: 1024, fixed: 128 << 20 };

const CONTROLS: [&str; 6] = [
    "<|begin_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|python_tag|>",
];

/// Texts that matter to templates and parsers.
const WORDS: [&str; 12] = [
    "hello",
    "",
    " ",
    "\n",
    "é😀",
    "<|eot_id|>",
    "{{ x }}",
    "{% endfor %}",
    "\u{f0000}\u{f0001}",
    "[INST]",
    "{\"name\": \"f\", \"parameters\": {}}",
    "'\"\\",
];

/// A template up to the first zero byte, and behind it what makes the dialogue.
pub fn template(data: &[u8]) {
    let end = data.iter().position(|&b| b == 0).unwrap_or(data.len());
    let source = String::from_utf8_lossy(&data[..end]);
    let mut u = Unstructured::new(data.get(end + 1..).unwrap_or_default());
    let dialogue = dialogue(&mut u)
        .unwrap_or_else(|_| Dialogue::from(vec![Message::new(Role::User, "hello <|eot_id|>")]));
    let options = match u.arbitrary().unwrap_or(false) {
        true => RenderOptions { today: Date::parse("2026-02-28"), ..RenderOptions::CLOSED },
        false => RenderOptions::PROMPT,
    };
    within(RENDERING, data.len(), || {
        let format =
            ChatFormat::of_template(&source, &CONTROLS, Some(CONTROLS[0]), Some(CONTROLS[1]));
        let Ok(format) = format else { return };
        let Ok(spans) = format.render(&dialogue, &options) else { return };
        // A control token comes from the template's own text: named there, or as a variable.
        let named = |token: &str| {
            let variable = token == CONTROLS[0] && source.contains("bos_token")
                || token == CONTROLS[1] && source.contains("eos_token");
            variable || source.contains(token)
        };
        for span in &spans {
            if let (Span::Control { token, .. }, ChatFormat::Template(_)) = (span, &format) {
                assert!(named(token), "{token} came from the dialogue");
            }
        }
    });
}

fn dialogue(u: &mut Unstructured) -> Result<Dialogue> {
    let mut messages = Vec::new();
    for _ in 0..u.int_in_range(1..=4)? {
        let role = *u.choose(&[Role::System, Role::User, Role::Assistant, Role::Tool])?;
        let mut message = Message::new(role, [word(u)?, word(u)?].concat());
        if role == Role::Assistant && u.ratio(1, 3)? {
            let arguments = serde_json::Map::from_iter([("x".to_owned(), json!([1, word(u)?]))]);
            message.tool_calls = vec![ToolCall { id: None, name: "f".to_owned(), arguments }];
        }
        message.name = u.arbitrary::<bool>()?.then(|| "f".to_owned());
        messages.push(message);
    }
    Ok(Dialogue::from(messages))
}

fn word<'a>(u: &mut Unstructured) -> Result<&'a str> {
    u.choose(&WORDS).copied()
}

/// An answer: its form, the length of the pieces in which it streams, and its text, in which the
/// names of control tokens are control tokens. However it is cut, the result is the same.
pub fn model_output_parser(data: &[u8]) {
    let [form, step, text @ ..] = data else { return };
    let text = String::from_utf8_lossy(text);
    let forms = [
        CallForms::NONE,
        CallForms::JSON,
        CallForms::ALL,
        CallForms { custom: &[ToolFormat::FunctionTag], builtin: false },
        CallForms { custom: &[ToolFormat::PythonList], builtin: true },
    ];
    let forms = forms[usize::from(*form) % forms.len()];
    let stops = ["<|eot_id|>", "<|eom_id|>"];
    within(RENDERING, text.len(), || {
        let whole = parse_assistant(pieces(&text, usize::MAX), forms, &stops);
        let (mut parser, mut deltas) = (StreamParser::new(forms, &stops), Vec::new());
        for piece in pieces(&text, usize::from(*step % 16) + 1) {
            deltas.extend(parser.push(piece));
        }
        let (last, parsed) = parser.finish();
        deltas.extend(last);
        assert_eq!(parsed, whole);
        let (mut streamed, mut calls) = (String::new(), Vec::new());
        for delta in deltas {
            match delta {
                Delta::Text(text) => streamed += &text,
                Delta::Call { index, call } => {
                    assert_eq!(index, calls.len());
                    calls.push(call);
                }
            }
        }
        assert_eq!((streamed, calls), (whole.text.clone(), whole.tool_calls.clone()));
        let message = whole.into_message();
        for tools in [ToolFormat::Json, ToolFormat::FunctionTag, ToolFormat::PythonList] {
            ChatFormat::Llama31 { tools }.holds(&message);
        }
        ChatFormat::HuggingFace31.holds(&message);
    });
}

/// The pieces of a text, none longer than `step` characters but for control tokens.
fn pieces(text: &str, step: usize) -> Vec<Piece<'_>> {
    let mut out = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(name) = CONTROLS.iter().find(|name| rest.starts_with(**name)) {
            out.push(Piece::Control(name));
            rest = &rest[name.len()..];
            continue;
        }
        let control = CONTROLS.iter().filter_map(|name| rest.find(name)).min();
        let cut = rest.char_indices().nth(step).map_or(rest.len(), |(at, _)| at);
        let (piece, behind) = rest.split_at(control.map_or(cut, |at| at.min(cut)));
        out.push(Piece::Text(piece));
        rest = behind;
    }
    out
}
