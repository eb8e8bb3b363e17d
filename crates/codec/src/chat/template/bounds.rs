//! Bounds on what a template may spend, and the guards that hold it to them.
//!
//! Fuel bounds the steps. Values grow at assignments, so a guard that weighs the value is written
//! behind each tag that binds a name; between two guards one tag can only multiply by its own
//! operators, which are counted.

use std::borrow::Cow;
use std::sync::Mutex;

use minijinja::value::{Value, ValueKind};

use super::super::ChatError;

/// What a rendering may spend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Instructions.
    pub fuel: u64,
    /// Bytes of any one value, counted deep.
    pub value_bytes: usize,
    /// Bytes printed in all, inside blocks too, and of source run through by loops and macros.
    pub printed_bytes: usize,
}

impl Bounds {
    /// For a source and dialogue of so many bytes, and so many messages and tools.
    ///
    /// Published templates use some hundred steps a message and print a few times what they get;
    /// a hostile one with these bounds takes seconds and some ten megabytes.
    pub fn of(bytes: usize, items: usize) -> Bounds {
        Bounds {
            fuel: 200_000 + 5_000 * items as u64,
            value_bytes: 256 * 1024 + 8 * bytes,
            printed_bytes: 8 * 1024 * 1024 + 64 * bytes,
        }
    }
}

/// Most operators, calls and slices in one tag: each can add a value of full weight before the
/// next guard. Published templates have at most some twenty.
const OPERATORS_MAX: usize = 128;

/// Deepest value.
const DEPTH_MAX: usize = 64;

/// A bound that was broken, carried through minijinja's errors.
#[derive(Debug)]
pub(super) struct Broken {
    pub what: &'static str,
    pub bytes: usize,
    pub limit: usize,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} takes {} bytes of {}", self.what, self.bytes, self.limit)
    }
}

impl std::error::Error for Broken {}

/// An error that stops the template.
pub(super) fn broken(what: &'static str, bytes: usize, limit: usize) -> minijinja::Error {
    let kind = minijinja::ErrorKind::InvalidOperation;
    minijinja::Error::new(kind, what).with_source(Broken { what, bytes, limit })
}

/// Counts bytes against a bound.
pub(super) struct Meter {
    what: &'static str,
    limit: usize,
    spent: Mutex<usize>,
}

impl Meter {
    pub fn new(what: &'static str, limit: usize) -> Meter {
        Meter { what, limit, spent: Mutex::new(0) }
    }

    pub fn spend(&self, bytes: usize) -> Result<(), minijinja::Error> {
        let mut spent = self.spent.lock().expect("no holder panics");
        *spent = spent.saturating_add(bytes);
        if *spent > self.limit {
            return Err(broken(self.what, *spent, self.limit));
        }
        Ok(())
    }
}

/// The bytes of a value, counted deep; an error where they pass `limit`.
pub(super) fn weigh(value: &Value, limit: usize) -> Result<usize, minijinja::Error> {
    let mut weight = 0;
    add_weight(value, 0, limit, &mut weight)?;
    Ok(weight)
}

fn add_weight(
    value: &Value,
    depth: usize,
    limit: usize,
    weight: &mut usize,
) -> Result<(), minijinja::Error> {
    *weight += value.as_str().map_or(8, str::len);
    if *weight > limit || depth > DEPTH_MAX {
        return Err(broken("a value", *weight, limit));
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            for item in value.try_iter()? {
                add_weight(&item, depth + 1, limit, weight)?;
            }
        }
        ValueKind::Map => {
            for key in value.try_iter()? {
                add_weight(&key, depth + 1, limit, weight)?;
                add_weight(&value.get_item(&key)?, depth + 1, limit, weight)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// The source with a guard behind each tag that binds a name, and with `{% generation %}` as a
/// filter block, which minijinja knows.
///
/// Errors: a tag with too many operators.
pub(super) fn guarded(source: &str) -> Result<String, ChatError> {
    let mut out = String::with_capacity(source.len() * 2);
    let mut rest = source;
    let mut open_sets = Vec::new();
    while let Some(at) = next_tag(rest) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end =
            if rest.starts_with("{#") { rest.find("#}").map(|end| end + 2) } else { tag_end(rest) };
        let (tag, behind) = rest.split_at(end.unwrap_or(rest.len()));
        let tag = &*multiplied(tag)?;
        let inner = tag.strip_prefix("{%").and_then(|tag| tag.strip_suffix("%}"));
        match inner {
            Some(inner) => out.push_str(&guarded_tag(inner, &mut open_sets)),
            None => out.push_str(tag),
        }
        rest = behind;
        if inner.is_some_and(|inner| inner.trim_matches(TRIM) == "raw") {
            let end = rest.find("endraw").unwrap_or(rest.len());
            out.push_str(&rest[..end]);
            rest = &rest[end..];
            // The tag's opening is out already, so its close is plain text here.
            let close = rest.find("%}").map_or(rest.len(), |at| at + 2);
            out.push_str(&rest[..close]);
            rest = &rest[close..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// Where the next tag begins.
fn next_tag(text: &str) -> Option<usize> {
    text.match_indices('{')
        .map(|(at, _)| at)
        .find(|at| matches!(text.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#')))
}

const TRIM: &[char] = &['-', '+', ' ', '\t', '\n', '\r'];

/// Where a tag ends: at the first closing outside quotes.
fn tag_end(tag: &str) -> Option<usize> {
    let close = if tag.starts_with("{{") { b"}}" } else { b"%}" };
    let bytes = tag.as_bytes();
    let (mut quote, mut braces, mut at) = (None, 0usize, 2);
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(_), b'\\') => at += 1,
            (Some(open), b) if b == open => quote = None,
            (Some(_), _) => {}
            (None, b @ (b'"' | b'\'')) => quote = Some(b),
            (None, _) if braces == 0 && bytes[at..].starts_with(close) => return Some(at + 2),
            (None, b'{') => braces += 1,
            (None, b'}') => braces = braces.saturating_sub(1),
            (None, _) => {}
        }
        at += 1;
    }
    None
}

/// A tag with `a * b` as a call of `herd_times`, which looks before it multiplies.
///
/// Errors: more operators than a tag may have, or a product of anything but names and literals,
/// as no published template has.
fn multiplied(tag: &str) -> Result<Cow<'_, str>, ChatError> {
    if tag.starts_with("{#") {
        return Ok(Cow::Borrowed(tag));
    }
    let operators =
        unquoted(tag).filter(|(_, c)| matches!(c, '+' | '~' | '*' | '|' | '(' | '[')).count();
    if operators > OPERATORS_MAX {
        let (what, limit) = ("a tag's operators", OPERATORS_MAX);
        return Err(ChatError::TooLarge { what, bytes: operators, limit });
    }
    let mut stars = unquoted(tag).filter(|(_, c)| *c == '*');
    let Some((at, _)) = stars.next() else { return Ok(Cow::Borrowed(tag)) };
    let mut product = || {
        let (left, right) = (tag[..at].trim_end(), tag[at + 1..].trim_start());
        let simple = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.');
        let (left, a) = match left.strip_suffix(['"', '\'']) {
            Some(inner) => left.split_at(inner.rfind(&left[inner.len()..])?),
            None => left.split_at(left.trim_end_matches(simple).len()),
        };
        let b = &right[..right.len() - right.trim_start_matches(simple).len()];
        let right = &right[b.len()..];
        let alone = !right.trim_start().starts_with(['(', '[', '|', '*'])
            && !left.trim_end().ends_with(['/', '%', '.']);
        (alone && !a.is_empty() && !b.is_empty() && stars.next().is_none())
            .then(|| format!("{left}herd_times({a}, {b}){right}"))
    };
    product().map(Cow::Owned).ok_or_else(|| ChatError::Product { tag: tag.to_string() })
}

/// Characters outside quotes, with their places.
fn unquoted(text: &str) -> impl Iterator<Item = (usize, char)> {
    let (mut quote, mut escaped) = (None, false);
    text.char_indices().filter(move |(_, c)| match quote {
        Some(_) if escaped => {
            escaped = false;
            false
        }
        Some(open) => {
            escaped = *c == '\\';
            if *c == open {
                quote = None;
            }
            false
        }
        None => {
            if matches!(c, '"' | '\'') {
                quote = Some(*c);
            }
            quote.is_none()
        }
    })
}

/// A block tag with what must stand behind it.
fn guarded_tag(inner: &str, open_sets: &mut Vec<String>) -> String {
    let body = inner.trim_matches(TRIM);
    let (word, bound) = match body.split_once(char::is_whitespace) {
        Some((word, bound)) => (word, bound.trim()),
        None => (body, ""),
    };
    let names = match word {
        "generation" => {
            return format!("{{%{}%}}", inner.replacen("generation", "filter herd_said", 1));
        }
        "endgeneration" => {
            return format!("{{%{}%}}", inner.replacen("endgeneration", "endfilter", 1));
        }
        "set" => match unquoted(bound).find(|(_, c)| *c == '=') {
            Some((at, _)) => names(&bound[..at]),
            None => {
                let name = bound.split('|').next().unwrap_or_default();
                open_sets.push(name.trim().to_string());
                return format!("{{%{inner}%}}");
            }
        },
        "endset" => open_sets.pop().into_iter().collect(),
        "for" => names(bound.split(" in ").next().unwrap_or_default()),
        "with" => assigned(bound),
        "macro" => names(bound.split_once('(').map_or("", |(_, arguments)| arguments)),
        "call" if bound.starts_with('(') => names(bound.split(')').next().unwrap_or_default()),
        _ => return format!("{{%{inner}%}}"),
    };
    let (left, right) = match inner.strip_suffix(['-', '+']) {
        Some(left) => (left, &inner[left.len()..]),
        None => (inner, ""),
    };
    format!("{{%{left}%}}{{% do herd_guard({}) {right}%}}", names.join(", "))
}

/// The names in a list of targets or parameters: `a, b=1`, `ns.x`.
fn names(list: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 0;
    let mut name = String::new();
    let mut skipping = false;
    for (_, c) in unquoted(list) {
        match c {
            '(' | '[' | '{' if skipping => depth += 1,
            ')' | ']' | '}' if skipping && depth > 0 => depth -= 1,
            ',' if depth == 0 => {
                names.push(std::mem::take(&mut name));
                skipping = false;
            }
            '=' => skipping = true,
            c if !skipping && (c.is_alphanumeric() || c == '_' || c == '.') => name.push(c),
            _ => {}
        }
    }
    names.push(name);
    names.retain(|name| !name.is_empty());
    names
}

/// The names that `with` binds.
fn assigned(list: &str) -> Vec<String> {
    names(list)
}
