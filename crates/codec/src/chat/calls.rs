//! Tool calls as the Llama 3 family writes them, and reading them back.
//!
//! Source: Meta's `tool_utils` of llama-models 0.3.0. Reading goes further than that code where it
//! loses something: several calls, text before a call, nested arguments, quotes in a query.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::python::{Dumps, Found, Literals, Stop, is_space, number_repr};
use super::{ChatError, ToolCall};

/// How calls of the caller's tools are written; built-in tools have a form of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolFormat {
    /// `{"type": "function", "name": "f", "parameters": {..}}`
    Json,
    /// `<function=f>{..}</function>`
    FunctionTag,
    /// `[f(a=1, b="x")]`
    PythonList,
}

impl ToolFormat {
    /// All three, for a reader that does not know what the model was told.
    pub const ALL: &'static [ToolFormat] =
        &[ToolFormat::Json, ToolFormat::FunctionTag, ToolFormat::PythonList];
}

/// The tool whose argument `code` is written bare behind `<|python_tag|>`.
pub(super) const CODE_INTERPRETER: &str = "code_interpreter";

/// Built-in tools of one argument, `query`, written `name.call(query="..")`.
pub(super) const QUERY_TOOLS: [&str; 3] = ["brave_search", "wolfram_alpha", "photogen"];

/// Writes a call as Meta's code does.
///
/// Errors: a built-in tool without its one text argument.
pub(super) fn write_call(
    call: &ToolCall,
    format: ToolFormat,
    message: usize,
) -> Result<String, ChatError> {
    let argument = |name: &str| match call.arguments.get(name) {
        Some(Value::String(text)) => Ok(text.as_str()),
        _ => Err(ChatError::ArgumentNotText {
            message,
            call: call.name.clone(),
            argument: name.to_string(),
        }),
    };
    let ToolCall { name, arguments, .. } = call;
    if QUERY_TOOLS.contains(&name.as_str()) {
        return Ok(format!("{name}.call(query=\"{}\")", argument("query")?));
    }
    if name == CODE_INTERPRETER {
        return Ok(argument("code")?.to_string());
    }
    Ok(match format {
        ToolFormat::Json => {
            let name = Dumps::PLAIN.dump(&Value::String(name.clone()));
            let arguments = Dumps::PLAIN.dump_object(arguments);
            format!("{{\"type\": \"function\", \"name\": {name}, \"parameters\": {arguments}}}")
        }
        ToolFormat::FunctionTag => {
            format!("<function={name}>{}</function>", Dumps::PLAIN.dump_object(arguments))
        }
        ToolFormat::PythonList => format!("[{name}({})]", python_pairs(arguments)),
    })
}

/// What a call has before its arguments and behind them, where the arguments stand as JSON. `typed` says that it is a function.
///
/// Nothing for lists of Python, and for names that the form cannot hold.
pub(super) fn frame(name: &str, format: ToolFormat, typed: bool) -> Option<(String, String)> {
    match format {
        ToolFormat::Json => {
            let kind = if typed { "\"type\": \"function\", " } else { "" };
            let name = Dumps::PLAIN.dump(&Value::String(name.to_string()));
            Some((format!("{{{kind}\"name\": {name}, \"parameters\": "), "}".to_string()))
        }
        ToolFormat::FunctionTag => {
            let held = !name.is_empty()
                && name.len() <= NAME_BYTES_MAX
                && !name.contains(['>', '<', '}', '\n']);
            held.then(|| (format!("{TAG_OPEN}{name}>"), TAG_CLOSE.to_string()))
        }
        ToolFormat::PythonList => None,
    }
}

/// `k=v, ..`; strings bare between double quotes, as Meta's code writes them.
fn python_pairs(map: &Map<String, Value>) -> String {
    let pairs = map.iter().map(|(key, value)| format!("{key}={}", python_value(value)));
    pairs.collect::<Vec<_>>().join(", ")
}

fn python_value(value: &Value) -> String {
    match value {
        Value::Null => "None".to_string(),
        Value::Bool(true) => "True".to_string(),
        Value::Bool(false) => "False".to_string(),
        Value::Number(number) => number_repr(number),
        Value::String(text) => format!("\"{text}\""),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(python_value).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => format!("{{{}}}", python_pairs(map)),
    }
}

/// Which calls a reader looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallForms {
    /// Forms of the caller's tools.
    pub custom: &'static [ToolFormat],
    /// Calls of built-in tools outside `<|python_tag|>`; behind it they are always read.
    pub builtin: bool,
}

impl CallForms {
    /// Every form.
    pub const ALL: CallForms = CallForms { custom: ToolFormat::ALL, builtin: true };
    /// Text is text; only `<|python_tag|>` makes a call.
    pub const NONE: CallForms = CallForms { custom: &[], builtin: false };
    /// JSON calls alone.
    pub const JSON: CallForms = CallForms { custom: &[ToolFormat::Json], builtin: true };
}

/// A search for calls that run to the end of a text.
///
/// Cost: linear times the nesting that JSON allows (128), because no place is read twice.
pub(super) struct Search<'a> {
    text: &'a str,
    forms: CallForms,
    /// Places from which calls do not run to the end.
    dead: HashSet<usize>,
}

impl<'a> Search<'a> {
    pub fn new(text: &'a str, forms: CallForms) -> Search<'a> {
        Search { text, forms, dead: HashSet::new() }
    }

    /// The first place at or behind `from` where calls may stand, and what stands there.
    pub fn next(&mut self, from: usize) -> Option<(usize, Found<Vec<ToolCall>>)> {
        for (at, c) in self.text[from..].char_indices() {
            if matches!(c, '{' | '<' | '[' | 'b' | 'w' | 'p') {
                match self.calls_at(from + at) {
                    Found::Nothing => {}
                    found => return Some((from + at, found)),
                }
            }
        }
        None
    }

    /// Calls from `start` to the end; between them white space and semicolons may stand.
    pub fn calls_at(&mut self, start: usize) -> Found<Vec<ToolCall>> {
        let mut calls = Vec::new();
        let mut at = start;
        loop {
            let rest = self.text[at..].trim_start_matches(is_between);
            at = self.text.len() - rest.len();
            if rest.is_empty() && !calls.is_empty() {
                return Found::Whole(calls, at - start);
            }
            if !self.dead.insert(at) {
                return Found::Nothing;
            }
            match self.call_at(rest) {
                Found::Whole(found, bytes) => {
                    calls.extend(found);
                    at += bytes;
                }
                Found::Part => return Found::Part,
                Found::Nothing => return Found::Nothing,
            }
        }
    }

    /// One call, or one list of calls.
    fn call_at(&mut self, text: &str) -> Found<Vec<ToolCall>> {
        let mut part = false;
        for format in self.forms.custom {
            let found = match format {
                ToolFormat::Json => read_json(text),
                ToolFormat::FunctionTag => read_tag(text),
                ToolFormat::PythonList => read_list(text),
            };
            match found {
                Found::Whole(..) => return found,
                Found::Part => part = true,
                Found::Nothing => {}
            }
        }
        if self.forms.builtin {
            match read_query(text, self.forms.custom) {
                Found::Nothing => {}
                Found::Part => {
                    // A query without an end leaves none for any query behind it.
                    self.forms.builtin = false;
                    part = true;
                }
                found => return found,
            }
        }
        if part { Found::Part } else { Found::Nothing }
    }
}

/// What may stand between two calls.
fn is_between(c: char) -> bool {
    is_space(c) || c == ';'
}

/// Reads a value of JSON from the front of `text`.
fn read_json_value(text: &str) -> Found<Value> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter();
    match values.next() {
        Some(Ok(value)) => Found::Whole(value, values.byte_offset()),
        Some(Err(error)) if error.is_eof() => Found::Part,
        None => Found::Part,
        Some(Err(_)) => Found::Nothing,
    }
}

fn read_json(text: &str) -> Found<Vec<ToolCall>> {
    let Some(inner) = text.strip_prefix('{') else { return Found::Nothing };
    // A cheap look first: most braces in a text open no object.
    if !matches!(inner.trim_start().chars().next(), None | Some('"')) {
        return Found::Nothing;
    }
    match read_json_value(text) {
        Found::Whole(Value::Object(object), bytes) => match json_call(object) {
            Some(call) => Found::Whole(vec![call], bytes),
            None => Found::Nothing,
        },
        Found::Part => Found::Part,
        _ => Found::Nothing,
    }
}

/// The call in `{"name": .., "parameters": ..}`; `arguments` stands for `parameters` at times.
fn json_call(mut object: Map<String, Value>) -> Option<ToolCall> {
    let arguments = object.shift_remove("parameters").or_else(|| object.shift_remove("arguments"));
    match (object.shift_remove("name"), arguments) {
        (Some(Value::String(name)), Some(Value::Object(arguments))) => {
            Some(custom_call(&name, arguments))
        }
        _ => None,
    }
}

/// A call in a custom form. A query tool called so keeps one argument, as in Meta's code.
fn custom_call(name: &str, arguments: Map<String, Value>) -> ToolCall {
    let arguments = match arguments.values().next() {
        Some(first) if QUERY_TOOLS.contains(&name) => {
            Map::from_iter([("query".to_string(), first.clone())])
        }
        _ => arguments,
    };
    ToolCall { id: None, name: name.to_string(), arguments }
}

const TAG_OPEN: &str = "<function=";
const TAG_CLOSE: &str = "</function>";
/// Longer names are none: the limit keeps the search for `>` short.
const NAME_BYTES_MAX: usize = 256;

fn read_tag(text: &str) -> Found<Vec<ToolCall>> {
    const OPEN: &str = TAG_OPEN;
    const CLOSE: &str = TAG_CLOSE;
    let Some(rest) = text.strip_prefix(OPEN) else {
        return if OPEN.starts_with(text) { Found::Part } else { Found::Nothing };
    };
    let end = rest.find(['>', '<', '}', '\n']);
    let name = match end {
        None if rest.len() <= NAME_BYTES_MAX => return Found::Part,
        Some(end) if rest[end..].starts_with('>') && 0 < end && end <= NAME_BYTES_MAX => {
            &rest[..end]
        }
        _ => return Found::Nothing,
    };
    let body = &rest[name.len() + 1..];
    let (arguments, bytes) = match read_object(body) {
        Found::Whole(arguments, bytes) => (arguments, bytes),
        Found::Part => return Found::Part,
        Found::Nothing => return Found::Nothing,
    };
    let after = &body[bytes..];
    if !after.is_empty() && CLOSE.starts_with(after) && after != CLOSE {
        return Found::Part;
    }
    let close = if after.starts_with(CLOSE) { CLOSE.len() } else { 0 };
    let call = custom_call(name, arguments);
    Found::Whole(vec![call], OPEN.len() + name.len() + 1 + bytes + close)
}

/// An object in JSON or, as models write it at times, with Python's quotes.
fn read_object(text: &str) -> Found<Map<String, Value>> {
    if !text.starts_with('{') {
        return if text.is_empty() { Found::Part } else { Found::Nothing };
    }
    match read_json_value(text) {
        Found::Whole(Value::Object(map), bytes) => return Found::Whole(map, bytes),
        Found::Part => return Found::Part,
        _ => {}
    }
    let mut literals = Literals::new(text);
    match literals.dictionary(0) {
        Ok(Value::Object(map)) => Found::Whole(map, literals.at()),
        Err(Stop::End) => Found::Part,
        _ => Found::Nothing,
    }
}

fn read_list(text: &str) -> Found<Vec<ToolCall>> {
    let mut literals = Literals::new(text);
    let mut calls = || {
        if literals.peek()? != '[' {
            return Err(Stop::Wrong);
        }
        literals.must('[')?;
        let mut calls = Vec::new();
        loop {
            let name = literals.name()?;
            literals.must('(')?;
            calls.push(custom_call(name, literals.keywords(')', 0)?));
            if !literals.take(',')? {
                literals.must(']')?;
                return Ok(calls);
            }
            if literals.take(']')? {
                return Ok(calls);
            }
        }
    };
    match calls() {
        Ok(calls) => Found::Whole(calls, literals.at()),
        Err(Stop::End) => Found::Part,
        Err(Stop::Wrong) => Found::Nothing,
    }
}

const QUERY: &str = ".call(query=\"";

/// Calls of the query tools to the end of the text. The query is written bare, so it ends where
/// `")` stands before the next call or the end.
fn read_query(text: &str, custom: &[ToolFormat]) -> Found<Vec<ToolCall>> {
    let opening = |tool: &str| format!("{tool}{QUERY}");
    let Some(tool) = QUERY_TOOLS.into_iter().find(|tool| text.starts_with(&opening(tool))) else {
        let cut = QUERY_TOOLS.iter().any(|tool| opening(tool).starts_with(text));
        return if cut { Found::Part } else { Found::Nothing };
    };
    let body = &text[opening(tool).len()..];
    let starts = |rest: &str| {
        QUERY_TOOLS.iter().any(|tool| rest.starts_with(&opening(tool)))
            || custom.iter().any(|format| match format {
                ToolFormat::Json => rest.starts_with("{\""),
                ToolFormat::FunctionTag => rest.starts_with(TAG_OPEN),
                ToolFormat::PythonList => rest.starts_with('['),
            })
    };
    let mut ends = body.match_indices("\")").map(|(at, _)| at);
    let end = ends.find(|at| {
        let rest = body[at + 2..].trim_start_matches(is_between);
        rest.is_empty() || starts(rest)
    });
    let Some(end) = end else { return Found::Part };
    let arguments = Map::from_iter([("query".to_string(), Value::from(&body[..end]))]);
    let call = ToolCall { id: None, name: tool.to_string(), arguments };
    Found::Whole(vec![call], opening(tool).len() + end + 2)
}

/// What stands behind `<|python_tag|>`: calls, or a program for the code interpreter.
pub(super) fn read_tagged(text: &str, forms: CallForms) -> Vec<ToolCall> {
    if let Some(call) = read_dotted(text) {
        return vec![call];
    }
    let forms = CallForms { builtin: true, ..forms };
    if let Found::Whole(calls, _) = Search::new(text, forms).calls_at(0) {
        return calls;
    }
    let arguments = Map::from_iter([("code".to_string(), Value::from(text))]);
    vec![ToolCall { id: None, name: CODE_INTERPRETER.to_string(), arguments }]
}

/// `name.call(a="x", b="y")`, the form of templates, with bare strings.
fn read_dotted(text: &str) -> Option<ToolCall> {
    let (name, rest) = text.split_once(".call(")?;
    let is_name =
        |name: &str| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    let mut rest = rest.trim_end().strip_suffix(')')?;
    let mut arguments = Map::new();
    while !rest.is_empty() {
        let (key, value) = rest.split_once("=\"")?;
        let next = value
            .match_indices("\", ")
            .map(|(at, _)| at)
            .find(|at| value[at + 3..].split_once("=\"").is_some_and(|(key, _)| is_name(key)));
        let (value, left) = match next {
            Some(at) => (&value[..at], &value[at + 3..]),
            None => (value.strip_suffix('"')?, ""),
        };
        let is_query = QUERY_TOOLS.contains(&name);
        if !is_name(key) || (value.contains("\")") && !is_query) {
            return None;
        }
        if arguments.insert(key.to_string(), Value::from(value)).is_some() {
            return None;
        }
        rest = left;
    }
    is_name(name).then(|| ToolCall { id: None, name: name.to_string(), arguments })
}
