//! The arithmetic in the steps of a solution: every `a + b = c` that can be read is worked out.

use crate::rejection::near;

/// An equation that does not hold, and what its left side comes to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wrong {
    pub equation: String,
    pub value: f64,
}

/// Equations checked, and the first that does not hold.
///
/// What stands between two signs of equality is read as a term of numbers, `+ - * / × ÷ ·`, powers and brackets; units and words
/// around it do not count. Results may be rounded to the digits that are written.
pub(super) fn check(text: &str) -> (usize, Option<Wrong>) {
    let (mut count, mut wrong) = (0, None);
    for line in text.lines() {
        let line = plain(line);
        let parts: Vec<&str> = line.split('=').collect();
        for two in parts.windows(2) {
            let (Some(left), Some(right)) = (last_term(two[0]), first_term(two[1])) else {
                continue;
            };
            // A number alone on both sides says nothing: `x = 5 = 5`.
            if !left.1 && !right.1 {
                continue;
            }
            count += 1;
            if !agrees(left.0, right.0, two[1]) && wrong.is_none() {
                let equation = format!("{}={}", two[0].trim(), two[1].trim());
                wrong = Some(Wrong { equation, value: left.0 });
            }
        }
    }
    (count, wrong)
}

/// The value of a term; nothing if it is none.
pub(super) fn value(text: &str) -> Option<f64> {
    let text = plain(text);
    let (value, end, _) = Reader::read(text.trim())?;
    (end == text.trim().len()).then_some(value)
}

/// Signs as ASCII has them; marks of money, per cent and thousands left out.
fn plain(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let chars: Vec<char> = line.chars().collect();
    for (i, c) in chars.iter().enumerate() {
        let digit = |at: Option<&char>| at.is_some_and(char::is_ascii_digit);
        match c {
            '×' | '·' | '∗' => out.push('*'),
            '÷' => out.push('/'),
            '−' | '–' => out.push('-'),
            '$' | '€' | '£' | '`' => {}
            ',' if i > 0 && digit(chars.get(i - 1)) && digit(chars.get(i + 1)) => {}
            // `3 x 4`
            'x' | 'X'
                if (i > 0 && digit(chars[..i].iter().rev().find(|c| **c != ' ')))
                    && digit(chars[i + 1..].iter().find(|c| **c != ' ')) =>
            {
                out.push('*');
            }
            c if c.is_ascii() => out.push(*c),
            _ => out.push('?'),
        }
    }
    out
}

/// Equal, or equal when rounded to the digits that are written on the right.
fn agrees(left: f64, right: f64, written: &str) -> bool {
    let number = written.trim_start();
    let decimals = number
        .split_once('.')
        .map_or(0, |(_, rest)| rest.bytes().take_while(u8::is_ascii_digit).count());
    let rounded = decimals > 0 && (left - right).abs() <= 0.5001 * 10f64.powi(-(decimals as i32));
    near(left, right) || rounded
}

/// The term that a text ends with: its value, and whether there is something to work out.
fn last_term(text: &str) -> Option<(f64, bool)> {
    let text = text.trim_end();
    // What stands before a place: the letter there, and the last that is no blank.
    let (mut before, mut last) = (None, None);
    // The longest that goes to the end; not from the middle of a number or word. Blanks begin none, or a run of them
    // would be read from each of its places.
    for (at, c) in text.char_indices() {
        let joined = |c: char| c.is_alphanumeric() || matches!(c, '.' | ')' | '?');
        let goes_on = |c: char| c.is_ascii_digit() || "+-*/^%".contains(c);
        if !c.is_whitespace()
            && !before.is_some_and(joined)
            && !last.is_some_and(goes_on)
            && let Some((value, end, works)) = Reader::read(&text[at..])
            && at + end == text.len()
        {
            return Some((value, works));
        }
        before = Some(c);
        if !c.is_whitespace() {
            last = before;
        }
    }
    None
}

/// The term that a text begins with.
fn first_term(text: &str) -> Option<(f64, bool)> {
    let text = text.trim_start();
    let (value, end, works) = Reader::read(text)?;
    // `5x`, `7%` or `2 1/2` is something else.
    let next = text[end..].chars().next();
    let other = next.is_some_and(|c| c.is_alphanumeric() || matches!(c, '%' | '(' | '^' | '?'));
    let goes_on = text[end..].trim_start().starts_with(['+', '-', '*', '/', '^']);
    (!other && !goes_on).then_some((value, works))
}

/// Nesting of brackets and signs at most.
const DEPTH: usize = 64;

/// Reads a term from left to right.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    /// Whether an operation was worked out.
    works: bool,
}

impl Reader<'_> {
    /// The longest term at the start: value, bytes, whether there is something to work out.
    fn read(text: &str) -> Option<(f64, usize, bool)> {
        let mut reader = Reader { bytes: text.as_bytes(), at: 0, depth: 0, works: false };
        let value = reader.sum()?;
        value.is_finite().then_some((value, reader.at, reader.works))
    }

    fn peek(&self) -> Option<u8> {
        let rest = &self.bytes[self.at..];
        rest.iter().find(|byte| **byte != b' ').copied()
    }

    fn skip(&mut self) {
        while self.bytes.get(self.at) == Some(&b' ') {
            self.at += 1;
        }
    }

    /// Goes on with an operation if what follows it can be read; else it belongs to no term.
    fn operation(
        &mut self,
        signs: &[u8],
        operand: fn(&mut Self) -> Option<f64>,
    ) -> Option<(u8, f64)> {
        let sign = self.peek().filter(|sign| signs.contains(sign))?;
        let before = self.at;
        self.skip();
        self.at += 1;
        match operand(self) {
            Some(value) => {
                self.works = true;
                Some((sign, value))
            }
            None => {
                self.at = before;
                None
            }
        }
    }

    fn sum(&mut self) -> Option<f64> {
        let mut value = self.product()?;
        while let Some((sign, other)) = self.operation(b"+-", Reader::product) {
            value = if sign == b'+' { value + other } else { value - other };
        }
        Some(value)
    }

    fn product(&mut self) -> Option<f64> {
        let mut value = self.signed()?;
        while let Some((sign, other)) = self.operation(b"*/", Reader::signed) {
            value = if sign == b'*' { value * other } else { value / other };
        }
        Some(value)
    }

    /// A power, or what is less than nothing by one: -2^2 is -4.
    fn signed(&mut self) -> Option<f64> {
        self.skip();
        if self.bytes.get(self.at) != Some(&b'-') {
            return self.power();
        }
        let before = self.at;
        self.at += 1;
        self.depth += 1;
        let value = if self.depth > DEPTH { None } else { self.signed().map(|value| -value) };
        self.depth -= 1;
        if value.is_none() {
            self.at = before;
        }
        value
    }

    fn power(&mut self) -> Option<f64> {
        let base = self.atom()?;
        match self.operation(b"^", Reader::signed) {
            Some((_, exponent)) => Some(base.powf(exponent)),
            None => Some(base),
        }
    }

    fn atom(&mut self) -> Option<f64> {
        self.skip();
        let before = self.at;
        self.depth += 1;
        let value = if self.depth > DEPTH {
            None
        } else {
            match self.bytes.get(self.at)? {
                b'(' => {
                    self.at += 1;
                    let value = self.sum();
                    self.skip();
                    let closed = self.bytes.get(self.at) == Some(&b')');
                    self.at += usize::from(closed);
                    value.filter(|_| closed)
                }
                _ => self.number(),
            }
        };
        self.depth -= 1;
        if value.is_none() {
            self.at = before;
        }
        value
    }

    fn number(&mut self) -> Option<f64> {
        let start = self.at;
        let mut point = false;
        while let Some(byte) = self.bytes.get(self.at) {
            let next = self.bytes.get(self.at + 1);
            match byte {
                b'0'..=b'9' => {}
                b'.' if !point && next.is_some_and(u8::is_ascii_digit) => point = true,
                _ => break,
            }
            self.at += 1;
        }
        let text = std::str::from_utf8(&self.bytes[start..self.at]).ok()?;
        text.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_have_the_value_that_school_gives_them() {
        for (text, wanted) in [
            ("2 + 3 * 4", Some(14.0)),
            ("(2 + 3) × 4", Some(20.0)),
            ("-2^2", Some(-4.0)),
            ("3 - -2 * 2^-1", Some(4.0)),
            ("10 ÷ 4", Some(2.5)),
            ("$1,200.50 - 0.5", Some(1200.0)),
            ("3 x 4", Some(12.0)),
            ("1 / 0", None),
            ("2 +", None),
            ("", None),
        ] {
            assert_eq!(value(text), wanted, "{text}");
        }
        assert_eq!(value(&"(".repeat(100_000)), None);
    }

    #[test]
    fn wrong_steps_are_found_and_words_are_let_be() {
        for (text, count, wrong) in [
            ("She has 3 + 4 = 7 apples.", 1, false),
            ("She has 3 + 4 = 8 apples.", 1, true),
            ("2 * 3 = 6 + 1 = 7", 2, true),
            ("The rest is 10 - 2*3 = 4, so 4 / 2 = 2.", 2, false),
            ("10 / 3 = 3.33", 1, false),
            ("10 / 3 = 3.34", 1, true),
            ("x = 5", 0, false),
            ("2x + 1 = 5", 0, false),
            ("2x + 3 * 1 = 5", 0, false),
            ("1 + 2 = 3 + y", 0, false),
            ("√9 + 1 = 4", 0, false),
            ("3 1/2 = 3.5", 0, false),
            ("a = b = c", 0, false),
            ("$5 × 3 = $15", 1, false),
            ("20% of 50 = 10", 0, false),
            ("1,000 + 1 = 1,001", 1, false),
            ("", 0, false),
        ] {
            let (got, fault) = check(text);
            assert_eq!((got, fault.is_some()), (count, wrong), "{text}: {fault:?}");
        }
        assert_eq!(check("so 7 * 6 = 41.").1.unwrap().value, 42.0);
    }

    #[test]
    fn runs_of_blanks_and_brackets_are_read_in_time() {
        // A quadratic reader would be at the first for an hour.
        let [blanks, tabs] = [" ", "\t "].map(|sign| sign.repeat(1 << 20));
        let [open, sum] = ["(", "1 + "].map(|sign| sign.repeat(1 << 12));
        for (text, count, wrong) in [
            (format!("a{blanks}b = 1 + 1"), 0, false),
            (format!("a{tabs}b = 1 + 1"), 0, false),
            (format!("1 +{blanks}1{blanks} = {blanks}3{blanks}x"), 1, true),
            (format!("{open} = 1 + 1"), 0, false),
            (format!("{open}{sum}1 = 1 + 1"), 1, true),
            (format!("a {sum}1 b {sum} = 1 + 1"), 0, false),
        ] {
            let (got, fault) = check(&text);
            assert_eq!((got, fault.is_some()), (count, wrong), "{}", &text[..9]);
        }
    }
}
