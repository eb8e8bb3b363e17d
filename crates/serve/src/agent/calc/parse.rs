//! Expressions as people write them: `2(3+4)^2`, `5 km/h`, `sqrt(2)`, `10!`, `15%`.

use num_bigint::BigInt;

use super::number::Ratio;
use super::{CalcError, units};

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// A number as it was written, exact.
    Number(Ratio),
    /// A constant, a unit or an unknown.
    Name(String),
    /// Two operands.
    Binary(Op, Box<Expr>, Box<Expr>),
    /// A function of some arguments.
    Call(String, Vec<Expr>),
}

/// Operations of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // their names say it
pub enum Op {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
}

/// Deeper nesting is refused: the reader calls itself.
const DEPTH_MAX: usize = 64;

/// Operations of one expression at most: what works on it calls itself, operation by operation.
const OPERATIONS_MAX: usize = 400;

/// Reads a whole expression.
///
/// Errors: something that is no expression, with its place.
pub fn parse(text: &str) -> Result<Expr, CalcError> {
    let mut reader = Reader { text, at: 0, depth: 0, operations: 0 };
    let expr = reader.sum()?;
    reader.space();
    match reader.at == text.len() {
        true => Ok(expr),
        false => Err(reader.wrong()),
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    operations: usize,
}

impl Reader<'_> {
    fn space(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    fn peek(&mut self) -> Option<char> {
        self.space();
        self.text[self.at..].chars().next()
    }

    fn take(&mut self, wanted: &[&str]) -> Option<usize> {
        self.space();
        let rest = &self.text[self.at..];
        let found = wanted.iter().position(|word| rest.starts_with(word))?;
        self.at += wanted[found].len();
        Some(found)
    }

    fn count(&mut self) -> Result<(), CalcError> {
        self.operations += 1;
        if self.operations > OPERATIONS_MAX { Err(CalcError::TooDeep) } else { Ok(()) }
    }

    fn wrong(&self) -> CalcError {
        let rest: String = self.text[self.at..].chars().take(20).collect();
        CalcError::Syntax { rest }
    }

    fn sum(&mut self) -> Result<Expr, CalcError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(CalcError::TooDeep);
        }
        let mut left = self.product()?;
        while let Some(found) = self.take(&["+", "-", "\u{2212}"]) {
            let op = if found == 0 { Op::Add } else { Op::Sub };
            self.count()?;
            left = binary(op, left, self.product()?);
        }
        self.depth -= 1;
        Ok(left)
    }

    fn product(&mut self) -> Result<Expr, CalcError> {
        let mut left = self.sign()?;
        loop {
            self.count()?;
            // `**` is a power and was taken before.
            if let Some(found) = self.take(&["*", "\u{d7}", "\u{b7}", "/", "\u{f7}"]) {
                let op = if found < 3 { Op::Mul } else { Op::Div };
                left = binary(op, left, self.sign()?);
            } else if self.word("mod") {
                left = Expr::Call("mod".to_owned(), vec![left, self.sign()?]);
            } else if self.begins_factor() {
                left = binary(Op::Mul, left, self.power()?);
            } else {
                return Ok(left);
            }
        }
    }

    fn word(&mut self, word: &str) -> bool {
        self.space();
        let rest = &self.text[self.at..];
        let next = rest.get(word.len()..).and_then(|rest| rest.chars().next());
        let found = rest.starts_with(word) && !next.is_some_and(|c| c.is_alphanumeric());
        if found {
            self.at += word.len();
        }
        found
    }

    fn begins_factor(&mut self) -> bool {
        self.peek().is_some_and(|c| c == '(' || c.is_alphabetic() || c == '\u{b0}')
    }

    fn sign(&mut self) -> Result<Expr, CalcError> {
        let mut negative = false;
        while let Some(found) = self.take(&["-", "\u{2212}", "+"]) {
            negative ^= found < 2;
        }
        let inner = self.with_unit()?;
        Ok(match negative {
            true => binary(Op::Mul, Expr::Number(Ratio::int(-1)), inner),
            false => inner,
        })
    }

    /// A power; a number binds more tightly to a unit behind it than anything else: `10 m / 2 s`.
    fn with_unit(&mut self) -> Result<Expr, CalcError> {
        let mut left = self.power()?;
        if matches!(left, Expr::Number(_)) {
            while self.unit_next() {
                self.count()?;
                left = binary(Op::Mul, left, self.power()?);
            }
        }
        Ok(left)
    }

    fn unit_next(&mut self) -> bool {
        self.space();
        let rest = &self.text[self.at..];
        units::is_unit(name(rest)) && !rest[name(rest).len()..].trim_start().starts_with('(')
    }

    fn power(&mut self) -> Result<Expr, CalcError> {
        let base = self.postfix()?;
        if self.take(&["^", "**"]).is_none() {
            return Ok(base);
        }
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(CalcError::TooDeep);
        }
        let mut negative = false;
        while let Some(found) = self.take(&["-", "+"]) {
            negative ^= found == 0;
        }
        let exponent = self.power()?; // from the right: 2^3^2 is 2^9
        self.depth -= 1;
        let minus = |expr| binary(Op::Mul, Expr::Number(Ratio::int(-1)), expr);
        Ok(binary(Op::Pow, base, if negative { minus(exponent) } else { exponent }))
    }

    fn postfix(&mut self) -> Result<Expr, CalcError> {
        let mut inner = self.atom()?;
        while let Some(found) = self.take(&["!", "%"]) {
            self.count()?;
            inner = match found {
                0 => Expr::Call("factorial".to_owned(), vec![inner]),
                _ => binary(Op::Div, inner, Expr::Number(Ratio::int(100))),
            };
        }
        Ok(inner)
    }

    fn atom(&mut self) -> Result<Expr, CalcError> {
        match self.peek() {
            Some('(') => {
                self.at += 1;
                let inner = self.sum()?;
                self.take(&[")"]).ok_or_else(|| self.wrong())?;
                Ok(inner)
            }
            Some(c) if c.is_ascii_digit() || c == '.' => self.number(),
            Some(c) if c.is_alphabetic() || c == '\u{b0}' => self.name(),
            _ => Err(self.wrong()),
        }
    }

    fn name(&mut self) -> Result<Expr, CalcError> {
        let found = name(&self.text[self.at..]).to_owned();
        self.at += found.len();
        let function = super::eval::is_function(&found);
        if !function || !self.text[self.at..].trim_start().starts_with('(') {
            return Ok(Expr::Name(found));
        }
        self.take(&["("]);
        let mut arguments = vec![self.sum()?];
        while self.take(&[","]).is_some() {
            arguments.push(self.sum()?);
        }
        self.take(&[")"]).ok_or_else(|| self.wrong())?;
        Ok(Expr::Call(found, arguments))
    }

    /// `1,234.5e-3`, with commas between groups of three digits alone.
    fn number(&mut self) -> Result<Expr, CalcError> {
        let rest = &self.text[self.at..];
        let bytes = rest.as_bytes();
        let (mut digits, mut places, mut at, mut point) = (String::new(), 0i64, 0, false);
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b'0'..=b'9' => {
                    digits.push(char::from(byte));
                    places += i64::from(point);
                }
                b'.' if !point => point = true,
                b',' if !point && self.depth < 2 && groups(&bytes[at..]) => {}
                b'_' if bytes.get(at + 1).is_some_and(u8::is_ascii_digit) => {}
                _ => break,
            }
            at += 1;
        }
        if digits.is_empty() || digits.len() > 40_000 {
            return Err(self.wrong());
        }
        let mut exponent = 0i64;
        let tail = &rest[at..];
        if tail.starts_with(['e', 'E']) {
            let sign = usize::from(tail[1..].starts_with(['+', '-']));
            let count = tail[1 + sign..].bytes().take_while(u8::is_ascii_digit).count();
            if count > 0 {
                exponent = tail[1..1 + sign + count].parse().map_err(|_| CalcError::TooLarge)?;
                at += 1 + sign + count;
            }
        }
        self.at += at;
        let digits: BigInt = digits.parse().map_err(|_| self.wrong())?;
        let exponent = exponent.checked_sub(places).ok_or(CalcError::TooLarge)?;
        let ten = Ratio::int(10).pow(exponent)?;
        Ok(Expr::Number(Ratio::int(digits).mul(&ten)?))
    }
}

/// A comma with three digits behind it, and no fourth.
fn groups(bytes: &[u8]) -> bool {
    bytes.len() > 3
        && bytes[1..4].iter().all(u8::is_ascii_digit)
        && !bytes.get(4).is_some_and(u8::is_ascii_digit)
}

/// The name at the front of a text.
fn name(text: &str) -> &str {
    let part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '\u{b0}');
    &text[..text.find(|c| !part(c)).unwrap_or(text.len())]
}

pub(super) fn binary(op: Op, left: Expr, right: Expr) -> Expr {
    Expr::Binary(op, Box::new(left), Box::new(right))
}
