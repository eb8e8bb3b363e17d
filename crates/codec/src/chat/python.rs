//! Values as Python writes and reads them: `json.dumps`, `str`, `strip`, and a small literal
//! grammar.

use serde_json::{Map, Number, Value};

/// How `json.dumps` lays its text out.
#[derive(Clone, Copy)]
pub(super) struct Dumps {
    /// Escapes everything beyond ASCII, as Python does unless told otherwise.
    pub ascii: bool,
    /// Spaces a level; `None` is one line.
    pub indent: Option<usize>,
    /// Whether keys are sorted.
    pub sorted: bool,
}

impl Dumps {
    /// `json.dumps(value)`.
    pub const PLAIN: Dumps = Dumps { ascii: true, indent: None, sorted: false };
    /// The `tojson` of Hugging Face's templates.
    pub const TEMPLATE: Dumps = Dumps { ascii: false, indent: None, sorted: false };

    /// The value as Python's `json.dumps` writes it.
    pub fn dump(self, value: &Value) -> String {
        let mut out = String::new();
        self.value(value, 0, &mut out);
        out
    }

    /// The object as Python's `json.dumps` writes it.
    pub fn dump_object(self, object: &Map<String, Value>) -> String {
        let mut out = String::new();
        self.object(object, 0, &mut out);
        out
    }

    fn value(self, value: &Value, depth: usize, out: &mut String) {
        match value {
            Value::Null => out.push_str("null"),
            Value::Bool(true) => out.push_str("true"),
            Value::Bool(false) => out.push_str("false"),
            Value::Number(number) => out.push_str(&number_repr(number)),
            Value::String(text) => self.string(text, out),
            Value::Array(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    self.comma(i, depth + 1, out);
                    self.value(item, depth + 1, out);
                }
                self.close(items.is_empty(), depth, out);
                out.push(']');
            }
            Value::Object(object) => self.object(object, depth, out),
        }
    }

    fn object(self, object: &Map<String, Value>, depth: usize, out: &mut String) {
        out.push('{');
        let mut entries: Vec<_> = object.iter().collect();
        if self.sorted {
            entries.sort_by_key(|(key, _)| key.as_str());
        }
        for (i, (key, value)) in entries.into_iter().enumerate() {
            self.comma(i, depth + 1, out);
            self.string(key, out);
            out.push_str(": ");
            self.value(value, depth + 1, out);
        }
        self.close(object.is_empty(), depth, out);
        out.push('}');
    }

    fn comma(self, index: usize, depth: usize, out: &mut String) {
        match self.indent {
            None if index > 0 => out.push_str(", "),
            None => {}
            Some(indent) => {
                out.push_str(if index > 0 { ",\n" } else { "\n" });
                out.extend(std::iter::repeat_n(' ', indent * depth));
            }
        }
    }

    fn close(self, empty: bool, depth: usize, out: &mut String) {
        if let (Some(indent), false) = (self.indent, empty) {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn string(self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// A number as Python's `repr` writes it: the shortest digits, an exponent from 1e16 and below
/// 1e-4.
pub(super) fn number_repr(number: &Number) -> String {
    if number.is_i64() || number.is_u64() {
        return number.to_string();
    }
    let x = number.as_f64().expect("a JSON number is an integer or a float");
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').expect("Rust writes the exponent");
    let exponent: i32 = exponent.parse().expect("Rust writes the exponent");
    if x == 0.0 || (-4..16).contains(&exponent) {
        return format!("{x:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// What Python's `str.isspace` holds: Unicode's white space and four separators.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Python's `str.strip()`.
pub(super) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// What a reader found at the beginning of a text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Found<T> {
    /// The thing, and the bytes it takes.
    Whole(T, usize),
    /// The text may be the beginning of one.
    Part,
    /// No such thing.
    Nothing,
}

/// Why a reader stopped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stop {
    End,
    Wrong,
}

type Read<T> = Result<T, Stop>;

/// Deepest nesting of a literal; deeper ones are no calls.
const DEPTH_MAX: usize = 64;

/// Reads Python calls and literals from the front of a text.
///
/// Beyond Python it takes what Llama writes: JSON's `true`, `false`, `null`, dictionaries of the
/// form `{key=value}`, and line breaks inside strings.
pub(super) struct Literals<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Literals<'a> {
    pub fn new(text: &'a str) -> Literals<'a> {
        Literals { text, at: 0 }
    }

    /// Bytes read so far.
    pub fn at(&self) -> usize {
        self.at
    }

    pub fn peek(&self) -> Read<char> {
        self.text[self.at..].chars().next().ok_or(Stop::End)
    }

    pub fn space(&mut self) {
        while self.peek().is_ok_and(is_space) {
            self.at += self.peek().map_or(0, char::len_utf8);
        }
    }

    /// Takes `c` after white space, if it comes next.
    pub fn take(&mut self, c: char) -> Read<bool> {
        self.space();
        let taken = self.peek()? == c;
        if taken {
            self.at += c.len_utf8();
        }
        Ok(taken)
    }

    /// Takes `c` after white space; anything else is wrong.
    pub fn must(&mut self, c: char) -> Read<()> {
        if self.take(c)? { Ok(()) } else { Err(Stop::Wrong) }
    }

    /// A name of letters, digits, underscores and inner points.
    pub fn name(&mut self) -> Read<&'a str> {
        self.space();
        let rest = &self.text[self.at..];
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.'));
        let name = &rest[..end.unwrap_or(rest.len())];
        match name.chars().next() {
            None if rest.is_empty() => return Err(Stop::End),
            Some(c) if c.is_alphabetic() || c == '_' => {}
            _ => return Err(Stop::Wrong),
        }
        self.at += name.len();
        Ok(name)
    }

    /// `name=value, ...` up to `close`, which is taken too.
    pub fn keywords(&mut self, close: char, depth: usize) -> Read<Map<String, Value>> {
        let mut map = Map::new();
        while !self.take(close)? {
            let name = self.name()?;
            self.must('=')?;
            if map.insert(name.to_string(), self.value(depth)?).is_some() {
                return Err(Stop::Wrong);
            }
            if !self.take(',')? {
                self.must(close)?;
                break;
            }
        }
        Ok(map)
    }

    /// Any literal.
    pub fn value(&mut self, depth: usize) -> Read<Value> {
        if depth > DEPTH_MAX {
            return Err(Stop::Wrong);
        }
        self.space();
        match self.peek()? {
            '"' | '\'' => Ok(Value::String(self.string()?)),
            '[' => self.list(']', depth),
            '(' => self.list(')', depth),
            '{' => self.dictionary(depth),
            '-' | '+' | '.' | '0'..='9' => self.number(),
            _ => self.word(),
        }
    }

    fn word(&mut self) -> Read<Value> {
        let word = self.name()?;
        let whole = [
            ("True", Value::Bool(true)),
            ("False", Value::Bool(false)),
            ("None", Value::Null),
            ("true", Value::Bool(true)),
            ("false", Value::Bool(false)),
            ("null", Value::Null),
        ];
        if let Some((_, value)) = whole.iter().find(|(name, _)| *name == word) {
            return Ok(value.clone());
        }
        let cut =
            self.at == self.text.len() && whole.iter().any(|(name, _)| name.starts_with(word));
        Err(if cut { Stop::End } else { Stop::Wrong })
    }

    fn list(&mut self, close: char, depth: usize) -> Read<Value> {
        self.at += 1;
        let mut items = Vec::new();
        while !self.take(close)? {
            items.push(self.value(depth + 1)?);
            if !self.take(',')? {
                self.must(close)?;
                break;
            }
        }
        Ok(Value::Array(items))
    }

    /// `{"key": value}`, or Llama's `{key=value}`.
    pub fn dictionary(&mut self, depth: usize) -> Read<Value> {
        self.must('{')?;
        self.space();
        if !matches!(self.peek()?, '"' | '\'' | '}') {
            return Ok(Value::Object(self.keywords('}', depth + 1)?));
        }
        let mut map = Map::new();
        while !self.take('}')? {
            self.space();
            let key = match self.peek()? {
                '"' | '\'' => self.string()?,
                _ => return Err(Stop::Wrong),
            };
            self.must(':')?;
            map.insert(key, self.value(depth + 1)?);
            if !self.take(',')? {
                self.must('}')?;
                break;
            }
        }
        Ok(Value::Object(map))
    }

    fn number(&mut self) -> Read<Value> {
        let rest = &self.text[self.at..];
        let digits = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E');
        let Some(end) = rest.find(|c| !digits(c)) else { return Err(Stop::End) };
        let number = &rest[..end];
        self.at += end;
        if number.contains(['.', 'e', 'E']) {
            let float = number.parse().ok().and_then(Number::from_f64);
            return float.map(Value::Number).ok_or(Stop::Wrong);
        }
        let signed = number.parse::<i64>().map(Value::from);
        signed.or_else(|_| number.parse::<u64>().map(Value::from)).map_err(|_| Stop::Wrong)
    }

    fn string(&mut self) -> Read<String> {
        let quote = self.peek()?;
        let mut out = String::new();
        let mut chars = self.text[self.at + 1..].char_indices();
        while let Some((i, c)) = chars.next() {
            if c == quote {
                self.at += i + 2;
                return Ok(out);
            }
            if c == '\\' { escape(&mut chars, &mut out)? } else { out.push(c) }
        }
        Err(Stop::End)
    }
}

/// What follows a backslash in a Python string; an unknown escape keeps its backslash.
fn escape(chars: &mut std::str::CharIndices, out: &mut String) -> Read<()> {
    let (_, c) = chars.next().ok_or(Stop::End)?;
    match c {
        'n' => out.push('\n'),
        't' => out.push('\t'),
        'r' => out.push('\r'),
        'a' => out.push('\x07'),
        'b' => out.push('\x08'),
        'f' => out.push('\x0c'),
        'v' => out.push('\x0b'),
        '\\' | '\'' | '"' => out.push(c),
        '\n' => {}
        'x' => out.push(coded_by(chars, 2)?),
        'u' => out.push(coded_by(chars, 4)?),
        'U' => out.push(coded_by(chars, 8)?),
        other => out.extend(['\\', other]),
    }
    Ok(())
}

/// A character by that many hexadecimal digits.
fn coded_by(chars: &mut std::str::CharIndices, digits: usize) -> Read<char> {
    let mut code = 0u32;
    for _ in 0..digits {
        let (_, c) = chars.next().ok_or(Stop::End)?;
        code = code.wrapping_mul(16) + c.to_digit(16).ok_or(Stop::Wrong)?;
    }
    char::from_u32(code).ok_or(Stop::Wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        for (json, python) in [
            ("1.0", "1.0"),
            ("0.1", "0.1"),
            ("1e16", "1e+16"),
            ("1e15", "1000000000000000.0"),
            ("123456789012345680.0", "1.2345678901234568e+17"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("-0.0", "-0.0"),
            ("2.5e-10", "2.5e-10"),
            ("1e300", "1e+300"),
            ("18446744073709551615", "18446744073709551615"),
        ] {
            assert_eq!(number_repr(&serde_json::from_str(json).unwrap()), python);
        }
    }

    #[test]
    fn json_is_laid_out_as_python_lays_it_out() {
        let value: Value =
            serde_json::from_str(r#"{"b": [1, {}, []], "a": "é😀\"\u0001\u007f"}"#).unwrap();
        let plain = r#"{"b": [1, {}, []], "a": "\u00e9\ud83d\ude00\"\u0001\u007f"}"#;
        assert_eq!(Dumps::PLAIN.dump(&value), plain);
        let indented = Dumps { indent: Some(2), sorted: true, ascii: false }.dump(&value);
        assert_eq!(
            indented,
            "{\n  \"a\": \"é😀\\\"\\u0001\u{7f}\",\n  \"b\": [\n    1,\n    {},\n    []\n  ]\n}"
        );
    }

    #[test]
    fn literals_of_every_kind_are_read() {
        for (python, json) in [
            ("'a\"b' ", r#""a\"b""#),
            (r#""\x41\u00e9\U0001F600\q\n" "#, r#""Aé😀\\q\n""#),
            ("[1, -2.5, .5, True, None,]", "[1, -2.5, 0.5, true, null]"),
            ("{'a': {'b': (1, 2)}}", r#"{"a": {"b": [1, 2]}}"#),
            ("{a=1, b=\"x\"}", r#"{"a": 1, "b": "x"}"#),
            ("{}", "{}"),
        ] {
            let value = Literals::new(python).value(0);
            assert_eq!(value.unwrap(), serde_json::from_str::<Value>(json).unwrap(), "{python}");
        }
    }

    #[test]
    fn what_is_cut_and_what_is_wrong_are_told_apart() {
        for cut in ["", "'a", "[1,", "{'a'", "{'a':", "12", "Tr", "'\\", "{a=", "'\\u00"] {
            assert_eq!(Literals::new(cut).value(0), Err(Stop::End), "{cut}");
        }
        let deep = "[".repeat(100_000);
        for wrong in ["x ", "[1 2]", "{1: 2}", "1-2 ", "99999999999999999999 ", "1e999 ", &deep] {
            assert_eq!(Literals::new(wrong).value(0), Err(Stop::Wrong), "{wrong:.20}");
        }
    }
}
