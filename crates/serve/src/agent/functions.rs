//! Functions of the user's: a file of Python's `def`s, read without running it, offered as tools, run in the sandbox.

use std::sync::{Arc, Mutex, PoisonError};

use herd_codec::chat::ToolCall;
use herd_sandbox::{Python, Sandbox, Session};
use serde_json::{Map, Value, json};

use super::AgentError;
use super::tools::{Ran, Tool};

/// A function's name, purpose and arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    /// Its name.
    pub name: String,
    /// Its docstring up to the first blank line or `Args:`; empty where there is none.
    pub about: String,
    /// The JSON Schema of its arguments.
    pub parameters: Value,
}

/// Bytes of a file of functions at most.
const FILE_BYTES: usize = 1 << 20;

/// The functions at the top of a Python file whose names do not begin with `_`.
///
/// Errors: a signature that has no JSON Schema, with its line.
pub fn signatures(source: &str) -> Result<Vec<Signature>, AgentError> {
    let wrong = |line: usize, got: &str, expected: &str| AgentError::Value {
        what: "a function's signature",
        got: format!("line {line}: {}", got.chars().take(80).collect::<String>()),
        expected: expected.to_owned(),
    };
    if source.len() > FILE_BYTES {
        let got = format!("{} bytes long", source.len());
        let expected = format!("at most {FILE_BYTES} bytes");
        return Err(AgentError::Value { what: "the file of functions", got, expected });
    }
    let mut found: Vec<Signature> = Vec::new();
    let mut at = 0;
    for (number, line) in source.split_inclusive('\n').enumerate() {
        let start = at;
        at += line.len();
        let Some(rest) = line.strip_prefix("def ").or_else(|| line.strip_prefix("async def "))
        else {
            continue;
        };
        let name = rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or("");
        if name.is_empty() || name.starts_with('_') {
            continue;
        }
        if line.starts_with("async") {
            return Err(wrong(number + 1, line, "a `def` without `async`"));
        }
        let open = start + "def ".len() + name.len();
        let inner = bracketed(&source[open..]);
        let Some((arguments, after)) = inner else {
            return Err(wrong(number + 1, line, "arguments in brackets"));
        };
        let doc = docstring(after);
        let parameters = parameters(arguments, &doc)
            .map_err(|(got, expected)| wrong(number + 1, &got, expected))?;
        let cut = ["\n\n", "\nArgs:", "\n:param"].iter().filter_map(|mark| doc.find(mark)).min();
        let about = doc[..cut.unwrap_or(doc.len())].trim().to_owned();
        found.retain(|known| known.name != name); // the later definition counts, as in Python
        found.push(Signature { name: name.to_owned(), about, parameters });
    }
    Ok(found)
}

/// What stands in the brackets that a text begins with, and what comes after them.
fn bracketed(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start().strip_prefix('(')?;
    let end = parts(text, ')').1?;
    Some((&text[..end], &text[end + 1..]))
}

/// A text at its commas outside of brackets, strings and comments, up to `close` if it comes: the parts, and its place.
fn parts(text: &str, close: char) -> (Vec<&str>, Option<usize>) {
    let (mut parts, mut from, mut depth) = (Vec::new(), 0, 0usize);
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' | '"' => {
                while let Some((_, inner)) = chars.next() {
                    match inner {
                        '\\' => drop(chars.next()),
                        inner if inner == c => break,
                        _ => {}
                    }
                }
            }
            '#' => drop(chars.by_ref().find(|(_, c)| *c == '\n')),
            c if c == close && depth == 0 => {
                parts.push(&text[from..at]);
                return (parts, Some(at));
            }
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    (parts, None)
}

/// The docstring behind a signature's brackets, its indent taken off.
fn docstring(after: &str) -> String {
    let Some((_, body)) = after.split_once(":\n").or_else(|| after.split_once(":\r\n")) else {
        return String::new();
    };
    let body = body.trim_start().trim_start_matches(['r', 'R']);
    let doc = ["\"\"\"", "'''"].iter().find_map(|quote| {
        let (doc, _) = body.strip_prefix(quote)?.split_once(quote)?;
        Some(doc)
    });
    let doc = doc.or_else(|| {
        let (doc, _) = body.strip_prefix('"')?.split_once('"')?;
        Some(doc)
    });
    let lines = doc.unwrap_or("").trim().lines().map(str::trim);
    lines.collect::<Vec<_>>().join("\n")
}

type Unfit = (String, &'static str);

fn parameters(arguments: &str, doc: &str) -> Result<Value, Unfit> {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for part in parts(arguments, '\0').0 {
        let part = without_comments(part);
        let part = part.trim();
        if part.is_empty() || part == "*" {
            continue;
        }
        if part.starts_with('*') || part == "/" {
            return Err((part.to_owned(), "arguments that can be given by name"));
        }
        let (head, default) = match split_outside(part, '=') {
            Some((head, default)) => (head, Some(default.trim())),
            None => (part, None),
        };
        let (name, annotation) = match head.split_once(':') {
            Some((name, annotation)) => (name.trim(), annotation.trim()),
            None => (head.trim(), ""),
        };
        if !name.chars().all(|c| c.is_alphanumeric() || c == '_') || name.is_empty() {
            return Err((part.to_owned(), "a name, perhaps a type and a default"));
        }
        let mut schema = schema(annotation, 0)?;
        if let Some(about) = described(doc, name) {
            schema["description"] = json!(about);
        }
        match default {
            None => required.push(json!(name)),
            Some(default) => {
                if let Some(value) = literal(default) {
                    schema["default"] = value;
                }
            }
        }
        properties.insert(name.to_owned(), schema);
    }
    Ok(json!({"type": "object", "properties": properties, "required": required}))
}

fn without_comments(part: &str) -> String {
    part.lines().map(|line| line.split(" #").next().unwrap_or("")).collect::<Vec<_>>().join(" ")
}

/// A text at the first `mark` outside of brackets and strings.
fn split_outside(text: &str, mark: char) -> Option<(&str, &str)> {
    let at = parts(text, mark).1?;
    Some((&text[..at], &text[at + mark.len_utf8()..]))
}

/// The JSON Schema of an annotation.
fn schema(annotation: &str, depth: usize) -> Result<Value, Unfit> {
    let known = "int, float, str, bool, list, dict, Literal, Optional, or such types joined by |";
    let unfit = || (annotation.to_owned(), known);
    if depth > 16 {
        return Err(unfit());
    }
    let text = annotation.trim().trim_matches(['"', '\'']);
    if let Some((first, rest)) = split_outside(text, '|') {
        let both = [schema(first, depth + 1)?, schema(rest, depth + 1)?];
        let mut all = Vec::new();
        for one in both {
            match one.get("anyOf").and_then(Value::as_array) {
                Some(inner) => all.extend(inner.iter().cloned()),
                None => all.push(one),
            }
        }
        return Ok(json!({ "anyOf": all }));
    }
    let text = text.strip_prefix("typing.").unwrap_or(text);
    let (name, inner) = match text.split_once('[') {
        Some((name, inner)) => (name.trim(), inner.strip_suffix(']').ok_or_else(unfit)?),
        None => (text, ""),
    };
    Ok(match name {
        "" | "Any" | "object" => json!({}),
        "int" => json!({"type": "integer"}),
        "float" => json!({"type": "number"}),
        "str" => json!({"type": "string"}),
        "bool" => json!({"type": "boolean"}),
        "None" => json!({"type": "null"}),
        "list" | "List" | "Sequence" | "Iterable" | "set" | "tuple" | "Tuple" => {
            match parts(inner, '\0').0.first().filter(|first| !first.is_empty()) {
                Some(first) => json!({"type": "array", "items": schema(first, depth + 1)?}),
                None => json!({"type": "array"}),
            }
        }
        "dict" | "Dict" | "Mapping" => match parts(inner, '\0').0.get(1) {
            Some(value) => {
                json!({"type": "object", "additionalProperties": schema(value, depth + 1)?})
            }
            None => json!({"type": "object"}),
        },
        "Optional" => json!({"anyOf": [schema(inner, depth + 1)?, {"type": "null"}]}),
        "Union" => {
            let each: Result<Vec<_>, _> =
                parts(inner, '\0').0.into_iter().map(|one| schema(one, depth + 1)).collect();
            json!({"anyOf": each?})
        }
        "Literal" => {
            let each: Option<Vec<_>> =
                parts(inner, '\0').0.into_iter().map(|one| literal(one.trim())).collect();
            json!({"enum": each.ok_or_else(unfit)?})
        }
        _ => return Err(unfit()),
    })
}

/// A number, a string, True, False or None.
fn literal(text: &str) -> Option<Value> {
    Some(match text {
        "None" => Value::Null,
        "True" => json!(true),
        "False" => json!(false),
        text => {
            let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''));
            match quote {
                Some(quote) => json!(text[1..].strip_suffix(quote).filter(|t| !t.contains('\\'))?),
                None => serde_json::from_str::<serde_json::Number>(text).ok()?.into(),
            }
        }
    })
}

/// What a docstring says of an argument: `name: ..`, `name (type): ..` or `:param name: ..`.
fn described(doc: &str, name: &str) -> Option<String> {
    doc.lines().find_map(|line| {
        let rest = line.strip_prefix(":param ").unwrap_or(line).strip_prefix(name)?;
        let rest = match rest.trim_start().strip_prefix('(') {
            Some(kind) => kind.split_once(')')?.1,
            None => rest,
        };
        Some(rest.strip_prefix(':')?.trim().to_owned())
    })
}

/// The functions of a Python file as tools. The file is read here and runs only in the sandbox, once, before the first call.
///
/// Errors: a signature that has no JSON Schema; a file without functions.
pub fn tools(sandbox: &Sandbox, name: &str, source: &str) -> Result<Vec<Tool>, AgentError> {
    let found = signatures(source)?;
    if found.is_empty() {
        let why = "it holds no `def` at its top whose name does not begin with _".to_owned();
        return Err(AgentError::Tool { name: name.to_owned(), why });
    }
    let shared = Arc::new(Mutex::new(None::<Session>));
    let tool = |Signature { name, about, parameters }: Signature| {
        let (sandbox, source, shared) = (sandbox.clone(), source.to_owned(), Arc::clone(&shared));
        let function = name.clone();
        let hand = move |call: &ToolCall| {
            let mut session = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let ran = call_function(&sandbox, &source, &mut session, &function, call);
            ran.unwrap_or_else(|error| {
                *session = None;
                Ran::failed(error.to_string())
            })
        };
        Tool::new(&name, &about, parameters, Box::new(hand))
    };
    Ok(found.into_iter().map(tool).collect())
}

fn call_function(
    sandbox: &Sandbox,
    source: &str,
    session: &mut Option<Session>,
    function: &str,
    call: &ToolCall,
) -> Result<Ran, herd_sandbox::SandboxError> {
    if session.is_none() {
        let mut fresh = Session::open(sandbox, Python::Packages, &[])?;
        let answer = fresh.execute(source)?;
        if let Some(error) = answer.error {
            return Ok(Ran::failed(format!("the file of functions fails: {error}")));
        }
        *session = Some(fresh);
    }
    let session = session.as_mut().expect("it was opened above");
    // Arguments travel as a string of JSON inside a string of Python, which JSON's is.
    let arguments = json!(call.arguments_json()).to_string();
    let code = format!(
        "import json as _json\n_value = {function}(**_json.loads({arguments}))\n\
         _value if _value is None or isinstance(_value, str) else _json.dumps(_value, default=str)"
    );
    let answer = session.execute(&code)?;
    if let Some(error) = answer.error {
        return Ok(Ran::failed(error));
    }
    if answer.interrupted {
        return Ok(Ran::failed("it was interrupted: its time was over"));
    }
    let mut text = answer.stdout.text();
    text += &answer.result.map_or("None".to_owned(), |result| unquoted(&result));
    Ok(Ran::done(text))
}

/// The text of a string that Python's `repr` wrote, where that is plain.
fn unquoted(repr: &str) -> String {
    let quote = repr.chars().next().filter(|c| matches!(c, '\'' | '"'));
    let inner = quote.and_then(|quote| repr[1..].strip_suffix(quote));
    match inner {
        Some(inner) if !inner.contains('\\') => inner.to_owned(),
        Some(inner) => inner.replace("\\n", "\n").replace("\\'", "'").replace("\\\\", "\\"),
        None => repr.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_become_schemas_without_running_anything() {
        let source = "import os\nraise SystemExit\n\ndef _hidden(x): pass\n\
            def weather(city: str, days: int = 3, *, unit: Literal['C', \"F\"] = 'C',\n\
            \x20           tags: list[str] | None = None) -> dict[str, float]:\n\
            \x20   \"\"\"The weather of a city.\n\n    Args:\n        city: its name\n        days (int): how many\n    \"\"\"\n\
            \x20   return {}\n\nclass A:\n    def method(self): pass\n";
        let found = signatures(source).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].name.as_str(), found[0].about.as_str()),
            ("weather", "The weather of a city.")
        );
        let expected = json!({
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "its name"},
                "days": {"type": "integer", "description": "how many", "default": 3},
                "unit": {"enum": ["C", "F"], "default": "C"},
                "tags": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}], "default": null},
            },
            "required": ["city"],
        });
        assert_eq!(found[0].parameters, expected);
    }

    #[test]
    fn signatures_that_have_no_schema_are_errors_with_their_line() {
        for (source, wanted) in [
            ("\n\ndef f(*args): pass\n", "line 3: *args"),
            ("def f(x: Foo): pass\n", "Foo"),
            ("def f(x\n", "arguments in brackets"),
            ("async def f(): pass\n", "async"),
            ("def f(x: list[int): pass\n", "brackets"),
            ("def f(a/b): pass\n", "a/b"),
        ] {
            let error = signatures(source).unwrap_err().to_string();
            assert!(error.contains(wanted), "{source}: {error}");
        }
        let deep = format!("def f(x: {}int{}): pass\n", "list[".repeat(5000), "]".repeat(5000));
        assert!(signatures(&deep).is_err());
        assert!(signatures("x = 1\n").unwrap().is_empty());
    }
}
