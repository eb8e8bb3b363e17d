//! minijinja set up as Hugging Face sets Jinja up, within bounds.

use std::error::Error as _;
use std::sync::Arc;

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind};

use super::super::python::{Dumps, number_repr, strip};
use super::super::{ChatError, Date};
use super::Marks;
use super::bounds::{Bounds, Broken, Meter, broken, guarded, weigh};

/// The words of `raise_exception`, carried through minijinja's errors.
#[derive(Debug)]
struct Refusal(String);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// Compiles a template and throws it away.
pub(super) fn check(source: &str, marks: &Marks) -> Result<(), ChatError> {
    let source = guarded(source)?;
    let environment = environment(marks, None, Bounds::of(source.len(), 0), source.len());
    environment.template_from_str(&source).map_err(meaning)?;
    Ok(())
}

/// Renders a template.
pub(super) fn run(
    source: &str,
    marks: &Marks,
    variables: &serde_json::Value,
    today: Option<Date>,
    bounds: Bounds,
) -> Result<String, ChatError> {
    let guarded = guarded(source)?;
    let environment = environment(marks, today, bounds, source.len());
    let template = environment.template_from_str(&guarded).map_err(meaning)?;
    let mut out = Limited { bytes: Vec::new(), limit: bounds.printed_bytes };
    let rendered = template.render_captured_to(variables, &mut out).map(drop);
    if out.bytes.len() >= out.limit {
        let (bytes, limit) = (out.bytes.len(), out.limit);
        return Err(ChatError::TooLarge { what: "the output", bytes, limit });
    }
    rendered.map_err(meaning)?;
    Ok(String::from_utf8(out.bytes).expect("minijinja writes UTF-8"))
}

/// Output that takes `limit` bytes and no more.
struct Limited {
    bytes: Vec<u8>,
    limit: usize,
}

impl std::io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let room = self.limit - self.bytes.len();
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if bytes.len() > room {
            return Err(std::io::Error::other("the output is too long"));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What an error of minijinja means here.
fn meaning(error: Error) -> ChatError {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(Refusal(message)) = cause.downcast_ref() {
            return ChatError::Refused { message: message.clone() };
        }
        if let Some(Broken { what, bytes, limit }) = cause.downcast_ref() {
            return ChatError::TooLarge { what, bytes: *bytes, limit: *limit };
        }
        source = cause.source();
    }
    ChatError::Template(Box::new(error))
}

fn environment<'a>(
    marks: &Marks,
    today: Option<Date>,
    bounds: Bounds,
    source_bytes: usize,
) -> Environment<'a> {
    let mut env = Environment::new();
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    env.set_fuel(Some(bounds.fuel));
    env.set_recursion_limit(100);
    let limit = bounds.value_bytes;
    let printed = Arc::new(Meter::new("what the template prints", bounds.printed_bytes));
    let meter = Arc::clone(&printed);
    env.set_formatter(move |out, _, value| {
        meter.spend(weigh(value, limit)?)?;
        out.write_str(&shown(value)).map_err(Error::from)
    });
    env.add_function("herd_guard", move |values: Rest<Value>| -> Result<Value, Error> {
        printed.spend(source_bytes)?;
        for value in values.iter() {
            weigh(value, limit)?;
        }
        Ok(Value::UNDEFINED)
    });
    env.add_function("herd_times", move |a: Value, b: Value| times(&a, &b, limit));
    let (open, close) = (marks.open, marks.close);
    env.add_filter("herd_said", move |said: String| format!("{open}{said}{close}"));
    env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        let error = Error::new(ErrorKind::InvalidOperation, "raise_exception");
        Err(error.with_source(Refusal(message)))
    });
    if let Some(today) = today {
        env.add_function("strftime_now", move |format: String| {
            let date = today.format(&format);
            date.map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))
        });
    }
    add_filters(&mut env, limit);
    env.set_unknown_method_callback(move |state, value, method, arguments| {
        check_method(value, method, arguments, limit)?;
        minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments)
    });
    env
}

/// `a * b` of numbers, or a text repeated.
fn times(a: &Value, b: &Value, limit: usize) -> Result<Value, Error> {
    let (text, count) = if a.as_str().is_some() { (a, b) } else { (b, a) };
    let Some(text) = text.as_str() else {
        let product = match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.checked_mul(b).map(Value::from),
            _ => f64::try_from(a.clone())
                .ok()
                .zip(f64::try_from(b.clone()).ok())
                .map(|(a, b)| (a * b).into()),
        };
        return product.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "not a product"));
    };
    let count = usize::try_from(count.as_i64().unwrap_or(-1).max(0)).unwrap_or(0);
    within(text.len().saturating_mul(count), limit)?;
    Ok(text.repeat(count).into())
}

fn add_filters(env: &mut Environment, limit: usize) {
    for unbounded in
        ["format", "pprint", "urlencode", "batch", "slice", "indent", "sum", "chain", "zip"]
    {
        env.remove_filter(unbounded);
    }
    // In Python neither None nor a number can be walked.
    env.add_test("iterable", |value: Value| {
        let walked = [ValueKind::Seq, ValueKind::Iterable, ValueKind::Map, ValueKind::String];
        walked.contains(&value.kind()) || value.is_undefined()
    });
    env.add_filter("trim", |text: String| strip(&text).to_string());
    env.add_filter("string", move |value: Value| -> Result<String, Error> {
        weigh(&value, limit)?;
        Ok(shown(&value))
    });
    env.add_filter("tojson", move |value: Value, indent: Option<usize>, options: Kwargs| {
        to_json(&value, indent, &options, limit)
    });
    env.add_filter("indent", move |text: String, width: Option<usize>| -> Result<String, Error> {
        let width = width.unwrap_or(4);
        let bytes = text.len() + text.matches('\n').count().saturating_mul(width);
        within(bytes, limit)?;
        Ok(text.replace('\n', &format!("\n{}", " ".repeat(width.min(limit)))))
    });
    env.add_filter("replace", move |text: String, from: String, to: String| {
        check_replace(&text, &from, &to, limit)?;
        Ok::<_, Error>(text.replace(&from, &to))
    });
    env.add_filter("join", move |value: Value, joiner: Option<String>| -> Result<String, Error> {
        let joiner = joiner.unwrap_or_default();
        let mut parts = Vec::new();
        let mut bytes = 0usize;
        for part in value.try_iter()? {
            bytes += weigh(&part, limit)? + joiner.len();
            within(bytes, limit)?;
            parts.push(shown(&part));
        }
        Ok(parts.join(&joiner))
    });
}

fn within(bytes: usize, limit: usize) -> Result<(), Error> {
    if bytes > limit { Err(broken("a value", bytes, limit)) } else { Ok(()) }
}

fn check_replace(text: &str, from: &str, to: &str, limit: usize) -> Result<(), Error> {
    within(text.len().saturating_add(text.matches(from).count().saturating_mul(to.len())), limit)
}

/// Refuses a call of a Python method whose result could pass the bound.
fn check_method(
    value: &Value,
    method: &str,
    arguments: &[Value],
    limit: usize,
) -> Result<(), Error> {
    let texts: Vec<&str> = arguments.iter().filter_map(Value::as_str).collect();
    match (method, value.as_str(), texts.as_slice()) {
        ("replace", Some(text), [from, to]) => check_replace(text, from, to, limit),
        ("join", Some(joiner), _) => {
            let mut bytes = 0usize;
            for list in arguments {
                for part in list.try_iter()? {
                    bytes += weigh(&part, limit)? + joiner.len();
                    within(bytes, limit)?;
                }
            }
            Ok(())
        }
        // Widths in a format can ask for any length.
        ("format", Some(text), _) if text.contains(':') => Err(Error::new(
            ErrorKind::UnknownMethod,
            "str.format with a format spec is not allowed",
        )),
        ("format", Some(text), _) => {
            let mut bytes = 0usize;
            for argument in arguments {
                bytes += weigh(argument, limit)?;
            }
            within(text.matches('{').count().saturating_mul(bytes), limit)
        }
        _ => Ok(()),
    }
}

/// `tojson` of Hugging Face: Python's spacing, nothing escaped beyond what JSON needs.
fn to_json(
    value: &Value,
    indent: Option<usize>,
    options: &Kwargs,
    limit: usize,
) -> Result<Value, Error> {
    let weight = weigh(value, limit)?;
    let indent = indent.or(options.get::<Option<usize>>("indent")?);
    if let Some(indent) = indent {
        // Each value takes a line, and a line is at most as deep as values nest.
        within(indent.saturating_mul(weight / 8), limit.saturating_mul(8))?;
    }
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    // Separators are given by name at times, with the values that are the default here.
    let _ = options.get::<Option<Value>>("separators")?;
    options.assert_all_used()?;
    let json = serde_json::to_value(value)
        .map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    let text = Dumps { ascii, indent, sorted }.dump(&json);
    within(text.len(), limit)?;
    Ok(Value::from_safe_string(text))
}

/// A value as Python prints it.
fn shown(value: &Value) -> String {
    match value.kind() {
        ValueKind::None => "None".to_string(),
        ValueKind::Bool if value.is_true() => "True".to_string(),
        ValueKind::Bool => "False".to_string(),
        ValueKind::Number => match serde_json::to_value(value) {
            Ok(serde_json::Value::Number(number)) => number_repr(&number),
            _ => value.to_string(),
        },
        _ => value.to_string(),
    }
}
