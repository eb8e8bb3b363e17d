//! The final answer of a text: in a box, behind `####`, or its last number.

/// The number that a text ends in: that of its final part where one is marked, else the last of all.
///
/// Reads `1,020`, `$5`, `-3.5`, `1e3`, `3/4`, `\frac{3}{4}`, `50%` (as 50).
pub(crate) fn last_number(text: &str) -> Option<f64> {
    let text = marked(text).unwrap_or(text);
    let text = text.replace("\\frac{", "").replace("}{", "/");
    let bytes = text.as_bytes();
    let mut last = None;
    let mut at = 0;
    while at < bytes.len() {
        match number_at(&text, at) {
            Some((number, end)) => (last, at) = (Some(number), end),
            None => at += 1,
        }
    }
    last
}

/// Equal but for the rounding of decimals. What is infinite is near nothing: of the tolerance there would be no end.
pub(crate) fn near(a: f64, b: f64) -> bool {
    a.is_finite() && b.is_finite() && (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

/// Whether the final answer of a text is what is wanted, but for case, space and a full stop.
pub(super) fn same_answer(text: &str, wanted: &str) -> bool {
    let plain = |text: &str| {
        let words: Vec<&str> = text.split_whitespace().collect();
        words.join(" ").trim_end_matches('.').to_lowercase()
    };
    plain(marked(text).unwrap_or(text)) == plain(marked(wanted).unwrap_or(wanted))
}

/// The code in an answer: what stands in its last fence, or all of it where there is none.
pub(super) fn code_of(text: &str) -> &str {
    let Some((before, _)) = text.trim_end().rsplit_once("```") else { return text };
    match before.rsplit_once("```") {
        // The rest of the fence's line is the language.
        Some((_, fenced)) => fenced.split_once('\n').map_or(fenced, |(_, code)| code),
        None => text,
    }
}

/// Whether the last words of a text are those wanted, but for case and marks; of no words that is so of none.
///
/// ```
/// assert!(herd_train::rejection::ends_with("The opposite of hot is cold.", "Cold"));
/// assert!(!herd_train::rejection::ends_with("It is ice-cold!", "old"));
/// ```
pub fn ends_with(text: &str, wanted: &str) -> bool {
    let words = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        words.map(str::to_lowercase).collect()
    };
    let wanted = words(wanted);
    !wanted.is_empty() && words(text).ends_with(&wanted)
}

/// What stands in the last `\boxed{}`, else behind the last `####`.
fn marked(text: &str) -> Option<&str> {
    if let Some((_, rest)) = text.rsplit_once("\\boxed{") {
        let mut depth = 1;
        let end = rest.find(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth == 0
        });
        return end.map(|end| &rest[..end]);
    }
    let (_, rest) = text.rsplit_once("####")?;
    Some(rest.trim_start().split('\n').next().unwrap_or(rest))
}

/// A number, or a fraction of two, that begins at a byte, and where it ends.
fn number_at(text: &str, at: usize) -> Option<(f64, usize)> {
    let bytes = text.as_bytes();
    let joined = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'.');
    if joined {
        return None;
    }
    let negative = bytes[at] == b'-';
    let first = at + usize::from(negative);
    let (above, end) = plain(bytes, first)?;
    let (value, end) = match bytes.get(end) {
        Some(b'/') => match plain(bytes, end + 1) {
            Some((below, end)) if (above / below).is_finite() => (above / below, end),
            Some(_) | None => (above, end),
        },
        Some(_) | None => (above, end),
    };
    Some((if negative { -value } else { value }, end))
}

/// Digits with commas between, a decimal part, an exponent. What is too large to be a finite number is none.
fn plain(bytes: &[u8], from: usize) -> Option<(f64, usize)> {
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let mut at = from;
    let mut digits = String::new();
    while digit(at) || (bytes.get(at) == Some(&b',') && at > from && thousand(bytes, at)) {
        if bytes[at] != b',' {
            digits.push(bytes[at] as char);
        }
        at += 1;
    }
    if bytes.get(at) == Some(&b'.') && digit(at + 1) {
        digits.push('.');
        at += 1;
        while digit(at) {
            digits.push(bytes[at] as char);
            at += 1;
        }
    }
    if !digits.is_empty() && matches!(bytes.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        let mut end = at + 1 + sign;
        while digit(end) {
            end += 1;
        }
        if end > at + 1 + sign {
            digits.extend(bytes[at..end].iter().map(|&b| b as char));
            at = end;
        }
    }
    let value: f64 = digits.parse().ok()?;
    value.is_finite().then_some((value, at))
}

/// Whether three digits and no fourth follow the comma.
fn thousand(bytes: &[u8], comma: usize) -> bool {
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    (1..=3).all(|i| digit(comma + i)) && !digit(comma + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_what_stands_in_the_last_fence() {
        assert_eq!(code_of("First:\n```\na\n```\nbetter:\n```python\nb = 1\n```\n"), "b = 1\n");
        assert_eq!(code_of("b = 1"), "b = 1");
        assert_eq!(code_of("```python\nnever closed"), "```python\nnever closed");
    }

    #[test]
    fn the_last_number_is_found_in_every_spelling() {
        for (text, number) in [
            ("42", Some(42.0)),
            ("a1 then 2, 3", Some(3.0)),
            ("1,234,567.5 euros", Some(1_234_567.5)),
            ("lists 1,2", Some(2.0)),
            ("-7", Some(-7.0)),
            ("3/4", Some(0.75)),
            ("\\boxed{\\frac{3}{4}}", Some(0.75)),
            ("\\boxed{12} and 13", Some(12.0)),
            ("1 #### 2\n3", Some(2.0)),
            ("2e3.", Some(2000.0)),
            ("x2", None),
            ("1/0", Some(0.0)),
            ("", None),
            ("\\boxed{", None),
            ("Grüße 5 €", Some(5.0)),
            ("#### 9e999", None),
            ("-1e999", None),
            (&*"9".repeat(310), None),
            ("1e-999", Some(0.0)),
            ("1e300/1e-300", Some(1e-300)),
        ] {
            assert_eq!(last_number(text), number, "{text}");
        }
    }

    #[test]
    fn nothing_is_near_an_infinite_number() {
        assert!(near(5.0, 5.0) && near(1e300, 1e300 * (1.0 + 1e-12)) && near(0.0, 0.0));
        for far in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            assert!(!near(5.0, far) && !near(far, 5.0) && !near(far, far), "{far}");
        }
        assert!(!near(f64::MAX, f64::MIN));
    }
}
