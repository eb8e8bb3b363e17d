//! Python's literals: numbers, texts, lists, tuples, dictionaries, and how Python compares them.

use serde_json::Value;

use super::Kind;

/// How deep literals may be nested.
const DEPTH: usize = 64;

/// A literal.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    None,
    Bool(bool),
    /// As far as it is exact; larger ones are compared as floats.
    Int(i128),
    Float(f64),
    Str(String),
    List(Vec<Literal>),
    Tuple(Vec<Literal>),
    Dict(Vec<(Literal, Literal)>),
}

impl Literal {
    /// The literal of a JSON value.
    pub fn of(value: &Value) -> Literal {
        match value {
            Value::Null => Literal::None,
            Value::Bool(b) => Literal::Bool(*b),
            Value::Number(n) => match n.as_i128() {
                Some(n) => Literal::Int(n),
                None => Literal::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(s) => Literal::Str(s.clone()),
            Value::Array(all) => Literal::List(all.iter().map(Literal::of).collect()),
            Value::Object(all) => Literal::Dict(
                all.iter().map(|(k, v)| (Literal::Str(k.clone()), Literal::of(v))).collect(),
            ),
        }
    }

    /// Its type.
    pub fn kind(&self) -> Kind {
        match self {
            Literal::None => Kind::None,
            Literal::Bool(_) => Kind::Bool,
            Literal::Int(_) => Kind::Int,
            Literal::Float(_) => Kind::Float,
            Literal::Str(_) => Kind::Str,
            Literal::List(_) => Kind::List,
            Literal::Tuple(_) => Kind::Tuple,
            Literal::Dict(_) => Kind::Dict,
        }
    }

    /// Whether it is this text.
    pub fn is(&self, text: &str) -> bool {
        matches!(self, Literal::Str(own) if own == text)
    }

    /// The value of a text's key.
    pub fn get(&self, key: &str) -> Option<&Literal> {
        match self {
            // Of a key that is there twice the last counts.
            Literal::Dict(all) => {
                all.iter().rev().find(|(own, _)| own.is(key)).map(|(_, value)| value)
            }
            _ => None,
        }
    }

    /// A whole number where a float is wanted, a tuple where a list stands for one.
    pub fn converted(self, float: bool, tuple: bool) -> Literal {
        match self {
            Literal::Int(n) if float => Literal::Float(n as f64),
            Literal::Tuple(all) if tuple => Literal::List(all),
            other => other,
        }
    }

    fn number(&self) -> Option<f64> {
        match self {
            Literal::Bool(b) => Some(f64::from(u8::from(*b))),
            Literal::Int(n) => Some(*n as f64),
            Literal::Float(x) => Some(*x),
            _ => None,
        }
    }

    /// `==`: numbers and truths by what they are worth, dictionaries in any order.
    pub fn same(&self, other: &Literal) -> bool {
        let all = |a: &[Literal], b: &[Literal]| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b))
        };
        match (self, other) {
            (Literal::Int(a), Literal::Int(b)) => a == b,
            (Literal::List(a), Literal::List(b)) | (Literal::Tuple(a), Literal::Tuple(b)) => {
                all(a, b)
            }
            (Literal::Dict(a), Literal::Dict(b)) => {
                a.len() == b.len()
                    && a.iter().all(|(key, value)| {
                        b.iter().any(|(own, other)| own.same(key) && other.same(value))
                    })
            }
            (Literal::None, Literal::None) => true,
            (Literal::Str(a), Literal::Str(b)) => a == b,
            (a, b) => matches!((a.number(), b.number()), (Some(a), Some(b)) if a == b),
        }
    }
}

/// Reads a literal, with white space before and behind it. Nothing of anything else, sums and calls
/// among it.
pub fn read(text: &str) -> Option<Literal> {
    let chars: Vec<char> = text.trim_start_matches([' ', '\t']).chars().collect();
    let mut reader = Reader { chars, at: 0, depth: 0, steps: None };
    let first = reader.value()?;
    reader.space();
    // What stands between commas is a tuple, without brackets as well.
    let value = if reader.take(',') { reader.rest_of_tuple(first, None)? } else { first };
    reader.space();
    (reader.at == reader.chars.len()).then_some(value)
}

/// What Python does when it comes to a call, or to the name of a variable.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Looks up what is called so.
    Name(String),
    /// Calls a function with what it is given: by names, or by their places.
    Call(String, Vec<(Option<String>, Literal)>),
}

/// The steps of statements that are values, in the order in which they are done: what a call is given
/// comes before it. A call is worth `None`. Nothing of any other text, sums and assignments among it.
pub fn steps(text: &str) -> Option<Vec<Step>> {
    let mut reader = Reader { chars: text.chars().collect(), at: 0, depth: 0, steps: Some(vec![]) };
    loop {
        reader.space();
        while reader.peek() == Some('#') {
            let rest = reader.chars[reader.at..].iter();
            reader.at += rest.take_while(|c| **c != '\n').count();
            reader.space();
        }
        if reader.at == reader.chars.len() {
            return reader.steps;
        }
        reader.value()?;
        while reader.peek().is_some_and(|c| c == ' ' || c == '\t') {
            reader.at += 1;
        }
        let ended = reader.peek().is_none_or(|c| ";#\n\r".contains(c));
        if !ended {
            return None;
        }
        reader.at += usize::from(reader.peek() == Some(';'));
    }
}

/// A parameter of a function: its name, and what it is where nothing is given.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    pub name: String,
    pub default: Option<Literal>,
}

/// A function's name and parameters, of the first line of its definition, with types or without. Nothing of other texts,
/// and of defaults that are no literals.
pub fn signature(text: &str) -> Option<(String, Vec<Parameter>)> {
    let text = text.trim();
    let chars = text.strip_prefix("def ").unwrap_or(text).chars().collect();
    let mut reader = Reader { chars, at: 0, depth: 0, steps: None };
    reader.space();
    let name = reader.name();
    let mut parameters = Vec::new();
    if name.is_empty() || !reader.take('(') {
        return None;
    }
    let mut open = true;
    while !reader.take(')') {
        let name = reader.name();
        if name.is_empty() || !open {
            return None;
        }
        if reader.take(':') {
            reader.pass_type();
        }
        let default = if reader.take('=') { Some(reader.value()?) } else { None };
        parameters.push(Parameter { name, default });
        open = reader.take(',');
        reader.space();
    }
    Some((name, parameters))
}

struct Reader {
    chars: Vec<char>,
    at: usize,
    depth: usize,
    /// What is done, where calls are read; else there are none.
    steps: Option<Vec<Step>>,
}

impl Reader {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn space(&mut self) {
        while self.peek().is_some_and(|c| " \t\n\r\x0c".contains(c)) {
            self.at += 1;
        }
    }

    fn take(&mut self, wanted: char) -> bool {
        self.space();
        let there = self.peek() == Some(wanted);
        self.at += usize::from(there);
        there
    }

    fn value(&mut self) -> Option<Literal> {
        self.space();
        self.depth += 1;
        if self.depth > DEPTH {
            return None;
        }
        let value = match self.peek()? {
            '{' => self.dict(),
            '[' => {
                self.at += 1;
                self.items(']').map(Literal::List)
            }
            '(' => {
                self.at += 1;
                if self.take(')') {
                    Some(Literal::Tuple(Vec::new()))
                } else {
                    let first = self.value()?;
                    if self.take(')') {
                        Some(first)
                    } else if self.take(',') {
                        self.rest_of_tuple(first, Some(')'))
                    } else {
                        None
                    }
                }
            }
            '"' | '\'' => self.texts(),
            '-' | '+' | '.' | '0'..='9' => self.number(),
            c if c.is_alphabetic() || c == '_' => self.word(),
            _ => None,
        };
        self.depth -= 1;
        value
    }

    fn items(&mut self, close: char) -> Option<Vec<Literal>> {
        let mut all = Vec::new();
        while !self.take(close) {
            all.push(self.value()?);
            if !self.take(',') {
                return self.take(close).then_some(all);
            }
        }
        Some(all)
    }

    /// A tuple behind its first comma, up to `close` or the end.
    fn rest_of_tuple(&mut self, first: Literal, close: Option<char>) -> Option<Literal> {
        let mut all = vec![first];
        if let Some(close) = close {
            all.extend(self.items(close)?);
            return Some(Literal::Tuple(all));
        }
        loop {
            self.space();
            if self.at == self.chars.len() {
                return Some(Literal::Tuple(all));
            }
            all.push(self.value()?);
            self.space();
            if self.at < self.chars.len() && !self.take(',') {
                return None;
            }
        }
    }

    fn dict(&mut self) -> Option<Literal> {
        self.at += 1;
        let mut all: Vec<(Literal, Literal)> = Vec::new();
        while !self.take('}') {
            let key = self.value()?;
            if !self.take(':') || matches!(key, Literal::List(_) | Literal::Dict(_)) {
                return None;
            }
            let value = self.value()?;
            match all.iter_mut().find(|(own, _)| own.same(&key)) {
                Some((_, own)) => *own = value,
                None => all.push((key, value)),
            }
            if !self.take(',') {
                return self.take('}').then_some(Literal::Dict(all));
            }
        }
        Some(Literal::Dict(all))
    }

    /// Letters, digits and underscores from here on; nothing where there are none.
    fn name(&mut self) -> String {
        let rest = self.chars[self.at..].iter();
        let word: String = rest.take_while(|c| c.is_alphanumeric() || **c == '_').collect();
        self.at += word.chars().count();
        word
    }

    fn word(&mut self) -> Option<Literal> {
        match self.name().as_str() {
            "True" => Some(Literal::Bool(true)),
            "False" => Some(Literal::Bool(false)),
            "None" => Some(Literal::None),
            "" => None,
            name => self.step(name.to_owned()),
        }
    }

    /// A call or a variable, where they are read. The name is looked up before what is given is made.
    fn step(&mut self, name: String) -> Option<Literal> {
        self.steps.as_mut()?.push(Step::Name(name.clone()));
        if !self.take('(') {
            return Some(Literal::None);
        }
        let mut given: Vec<(Option<String>, Literal)> = Vec::new();
        while !self.take(')') {
            let name = self.keyword();
            // Python takes neither a name twice nor a place behind names.
            let wrong = |other: &Option<String>| *other == name || name.is_none();
            if given.iter().filter(|(other, _)| other.is_some()).any(|(other, _)| wrong(other)) {
                return None;
            }
            given.push((name, self.value()?));
            if !self.take(',') && !self.stands(')') {
                return None;
            }
        }
        self.steps.as_mut()?.push(Step::Call(name, given));
        Some(Literal::None)
    }

    /// Whether this stands here, which is left standing.
    fn stands(&mut self, wanted: char) -> bool {
        self.space();
        self.peek() == Some(wanted)
    }

    /// The name in front of `=`, if that is what stands here.
    fn keyword(&mut self) -> Option<String> {
        self.space();
        let from = self.at;
        let name = self.name();
        if !name.is_empty() && self.take('=') && self.peek() != Some('=') {
            return Some(name);
        }
        self.at = from;
        None
    }

    /// A type, up to the comma, bracket or sign of equality behind it.
    fn pass_type(&mut self) {
        let mut open = 0usize;
        while let Some(c) = self.peek() {
            match c {
                '[' | '(' => open += 1,
                ']' if open > 0 => open -= 1,
                ')' if open > 0 => open -= 1,
                ',' | '=' | ')' if open == 0 => return,
                _ => {}
            }
            self.at += 1;
        }
    }

    fn number(&mut self) -> Option<Literal> {
        let mut negative = false;
        while let Some(sign @ ('-' | '+')) = self.peek() {
            negative ^= sign == '-';
            self.at += 1;
            self.space();
        }
        let mut digits = String::new();
        let mut before = ' ';
        while let Some(c) = self.peek() {
            let exponent = (c == '-' || c == '+') && matches!(before, 'e' | 'E');
            if !(c.is_ascii_digit() || "._eE".contains(c) || exponent) {
                break;
            }
            digits.push(c);
            before = c;
            self.at += 1;
        }
        let odd = digits.starts_with('_') || digits.ends_with('_') || digits.contains("__");
        if odd || self.peek().is_some_and(|c| c.is_alphanumeric()) {
            return None;
        }
        let digits = digits.replace('_', "");
        let whole = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.is_empty();
        if whole {
            // Python has no whole number that begins with 0, but for 0.
            if digits.starts_with('0') && digits.bytes().any(|b| b != b'0') {
                return None;
            }
            let number: Option<i128> = digits.parse().ok();
            return Some(match number {
                Some(n) => Literal::Int(if negative { -n } else { n }),
                None => {
                    Literal::Float(digits.parse::<f64>().ok()? * if negative { -1.0 } else { 1.0 })
                }
            });
        }
        let number: f64 = digits.parse().ok()?;
        Some(Literal::Float(if negative { -number } else { number }))
    }

    /// One text, or several side by side.
    fn texts(&mut self) -> Option<Literal> {
        let mut whole = String::new();
        while let Some(quote @ ('"' | '\'')) = self.peek() {
            let long = self.chars[self.at..].starts_with(&[quote; 3]);
            self.at += if long { 3 } else { 1 };
            loop {
                if long && self.chars[self.at..].starts_with(&[quote; 3]) {
                    self.at += 3;
                    break;
                }
                let c = self.peek()?;
                self.at += 1;
                match c {
                    c if c == quote && !long => break,
                    '\n' if !long => return None,
                    '\\' => self.escape(&mut whole)?,
                    c => whole.push(c),
                }
            }
            self.space();
        }
        Some(Literal::Str(whole))
    }

    fn escape(&mut self, whole: &mut String) -> Option<()> {
        let c = self.peek()?;
        self.at += 1;
        let digits = |reader: &mut Reader, n: usize| {
            let digits: String = reader.chars.get(reader.at..reader.at + n)?.iter().collect();
            reader.at += n;
            u32::from_str_radix(&digits, 16).ok()
        };
        let code = match c {
            '\n' => return Some(()),
            'n' => 10,
            't' => 9,
            'r' => 13,
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'v' => 11,
            'x' => digits(self, 2)?,
            'u' => digits(self, 4)?,
            'U' => digits(self, 8)?,
            '0'..='7' => {
                let mut code = c.to_digit(8)?;
                for _ in 0..2 {
                    let Some(digit) = self.peek().and_then(|c| c.to_digit(8)) else { break };
                    code = code * 8 + digit;
                    self.at += 1;
                }
                code
            }
            '\\' | '\'' | '"' => c as u32,
            other => {
                whole.push('\\');
                other as u32
            }
        };
        // A half of a pair stands alone in Python's texts; here it becomes U+FFFD.
        whole.push(char::from_u32(code).unwrap_or('\u{fffd}'));
        Some(())
    }
}
