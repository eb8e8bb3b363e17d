//! Renders chats for the comparison with reference code (scripts/check-chat.py): one JSON object
//! a line on standard input, one array of spans a line on standard output.
//!
//! In: `{"format": "llama31-json", "dialogue": {..}, "closed": false, "date": "2024-07-26",
//! "tools_in_system": false}`, with `"template": {"source", "controls", "bos", "eos"}` in place
//! of `format` (and `"know": true` to name the native format it is), or with `"answer": [..spans..]` alone to parse. Out: spans as
//! `["control" | "text", "..."]`, a message, or `{"error": ".."}`.

use std::error::Error;
use std::io::{BufRead, Write, stdin, stdout};

use herd_codec::chat::{
    CallForms, ChatFormat, Date, Dialogue, Ending, Piece, RenderOptions, SMOLLM2_SYSTEM, Span,
    Template, ToolFormat, ToolsIn, parse_assistant,
};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    format: Option<String>,
    template: Option<Source>,
    dialogue: Option<Dialogue>,
    answer: Option<Vec<(String, String)>>,
    #[serde(default)]
    closed: bool,
    date: Option<String>,
    #[serde(default)]
    tools_in_system: bool,
    /// Only say which native format the template is.
    #[serde(default)]
    know: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    source: String,
    controls: Vec<String>,
    bos: Option<String>,
    eos: Option<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = stdout().lock();
    for line in stdin().lock().lines() {
        let answer = answer(&line?).unwrap_or_else(|error| json!({"error": chain(&*error)}));
        writeln!(out, "{answer}")?;
    }
    Ok(())
}

/// An error with its causes on one line.
fn chain(error: &dyn Error) -> String {
    let cause = error.source().map(|cause| format!(": {}", chain(cause)));
    error.to_string() + &cause.unwrap_or_default()
}

fn answer(line: &str) -> Result<Value, Box<dyn Error>> {
    let request: Request = serde_json::from_str(line)?;
    if let Some(answer) = &request.answer {
        return parsed(answer);
    }
    let format = match (&request.format, &request.template) {
        (Some(name), None) => format(name)?,
        (None, Some(Source { source, controls, bos, eos })) => {
            let controls: Vec<&str> = controls.iter().map(String::as_str).collect();
            let (bos, eos) = (bos.as_deref(), eos.as_deref());
            if request.know {
                return Ok(match ChatFormat::of_template(source, &controls, bos, eos)? {
                    ChatFormat::Template(_) => Value::Null,
                    native => format!("{native:?}").into(),
                });
            }
            let template = Template::new(source, &controls, bos, eos)?;
            ChatFormat::Template(Box::new(template))
        }
        _ => return Err("give either a format or a template".into()),
    };
    let options = RenderOptions {
        ending: if request.closed { Ending::Closed } else { Ending::Prompt },
        today: match &request.date {
            Some(date) => Some(Date::parse(date).ok_or("no such date")?),
            None => None,
        },
        tools_in: if request.tools_in_system { ToolsIn::System } else { ToolsIn::User },
    };
    let spans = format.render(&request.dialogue.ok_or("no dialogue")?, &options)?;
    Ok(spans
        .iter()
        .map(|span| match span {
            Span::Control { token, .. } => json!(["control", token]),
            Span::Text { text, joins, .. } => json!(["text", text, joins]),
        })
        .collect())
}

fn format(name: &str) -> Result<ChatFormat, Box<dyn Error>> {
    Ok(match name {
        "llama2" => ChatFormat::Llama2,
        "code-llama-70b" => ChatFormat::CodeLlama70b,
        "llama3" => ChatFormat::Llama3,
        "llama31-json" => ChatFormat::Llama31 { tools: ToolFormat::Json },
        "llama31-function_tag" => ChatFormat::Llama31 { tools: ToolFormat::FunctionTag },
        "llama31-python_list" => ChatFormat::Llama31 { tools: ToolFormat::PythonList },
        "hugging-face-3.1" => ChatFormat::HuggingFace31,
        "hugging-face-3.2" => ChatFormat::HuggingFace32,
        "smollm2" => ChatFormat::ChatMl { system: Some(SMOLLM2_SYSTEM.to_string()) },
        other => return Err(format!("no format {other}").into()),
    })
}

fn parsed(answer: &[(String, String)]) -> Result<Value, Box<dyn Error>> {
    let pieces = answer.iter().map(|(kind, text)| match kind.as_str() {
        "control" => Piece::Control(text),
        _ => Piece::Text(text),
    });
    let format = ChatFormat::Llama31 { tools: ToolFormat::Json };
    let parsed = parse_assistant(pieces, CallForms::ALL, &format.stops());
    Ok(serde_json::to_value(parsed.into_message())?)
}
