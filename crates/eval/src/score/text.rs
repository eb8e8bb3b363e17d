//! Texts as Python sees them, whose ideas of white space, words and case decide official scores.

use std::sync::LazyLock;

use fancy_regex::{Regex, RegexBuilder};

/// A letter of a word: Python's `\w`, which holds no combining marks.
pub const WORD: &str = r"[\p{L}\p{N}_]";
/// White space: Python's `\s` takes the separators of files and records as well.
pub const SPACE: &str = r"[\s\x1c-\x1f]";
/// An edge of a word: Python's `\b`, with its `\w`.
pub const EDGE: &str =
    r"(?:(?<=[\p{L}\p{N}_])(?![\p{L}\p{N}_])|(?<![\p{L}\p{N}_])(?=[\p{L}\p{N}_]))";

/// A pattern of this crate, which may take all the steps it needs. Panics if it is none.
pub fn pattern(text: &str) -> Regex {
    let built = RegexBuilder::new(&translated(text)).backtrack_limit(usize::MAX).build();
    built.expect("a pattern of this crate")
}

/// A pattern of a row, which Python would have read. Error: it is none.
pub fn row_pattern(text: &str) -> Result<Regex, String> {
    Regex::new(&translated(text)).map_err(|e| format!("{text:?} is no pattern: {e}"))
}

/// A pattern of Python's in the words of this machine's expressions.
fn translated(text: &str) -> String {
    let (mut made, mut chars) = (String::new(), text.chars());
    while let Some(c) = chars.next() {
        match if c == '\\' { chars.next() } else { None } {
            Some('b') => made += EDGE,
            Some('w') => made += WORD,
            Some('s') => made += SPACE,
            Some(other) => made.extend([c, other]),
            None => made.push(c),
        }
    }
    made
}

/// Whether a character is white space.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// A text without white space at its ends.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Its words, between white space.
pub fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// Title case: neither upper nor lower, yet cased.
fn is_title(c: char) -> bool {
    matches!(c,
        'ǅ' | 'ǈ' | 'ǋ' | 'ǲ' | 'ᾼ' | 'ῌ' | 'ῼ'
        | '\u{1f88}'..='\u{1f8f}' | '\u{1f98}'..='\u{1f9f}' | '\u{1fa8}'..='\u{1faf}')
}

/// Whether it has letters with a case, and all are capital.
pub fn is_upper(text: &str) -> bool {
    text.chars().any(char::is_uppercase) && !text.chars().any(|c| c.is_lowercase() || is_title(c))
}

/// Whether it has letters with a case, and none is capital.
pub fn is_lower(text: &str) -> bool {
    text.chars().any(char::is_lowercase) && !text.chars().any(|c| c.is_uppercase() || is_title(c))
}

/// How often a pattern is found, one match behind the other.
pub fn count(regex: &Regex, text: &str) -> usize {
    regex.find_iter(text).filter(Result::is_ok).count()
}

/// The same of a row's pattern. Error: it takes too many steps.
pub fn row_count(regex: &Regex, text: &str) -> Result<usize, String> {
    let mut n = 0;
    for found in regex.find_iter(text) {
        found.map_err(|e| format!("{:?} in an answer: {e}", regex.as_str()))?;
        n += 1;
    }
    Ok(n)
}

/// The parts of a text between the matches of a pattern that never matches nothing.
pub fn parts<'a>(regex: &Regex, text: &'a str) -> Vec<&'a str> {
    let (mut parts, mut from) = (Vec::new(), 0);
    for found in regex.find_iter(text).map_while(Result::ok) {
        parts.push(&text[from..found.start()]);
        from = found.end();
    }
    parts.push(&text[from..]);
    parts
}

static BARE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r#"(?s)("(?:[^"\\]|\\.)*")|(?<![\p{L}\p{N}_.+-])(-?Infinity|NaN)(?![\p{L}\p{N}_.])"#)
});

/// Whether it is JSON as Python reads it, which knows `NaN` and `Infinity`, and pairs of one.
pub fn is_json(text: &str) -> bool {
    let plain = BARE.replace_all(text, |found: &fancy_regex::Captures<'_>| {
        found.get(1).map_or_else(|| "0".to_owned(), |text| text.as_str().to_owned())
    });
    serde_json::from_str::<serde::de::IgnoredAny>(&plain).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_is_of_cased_letters_alone() {
        assert!(is_upper("A 1 Ä!") && !is_upper("1!") && !is_upper("Aa") && !is_upper("Aǅ"));
        assert!(is_lower("a 1 ß") && !is_lower("") && !is_lower("aA"));
    }

    #[test]
    fn words_end_before_combining_marks() {
        assert_eq!(count(&pattern(r"\w+"), "नमस्ते a_b 12"), 4);
        assert_eq!(count(&pattern(r"(?i)\bcat\b"), "a Cat. cats"), 1);
        assert_eq!(strip("\x1c a\u{a0}"), "a");
    }

    #[test]
    fn json_is_what_python_takes() {
        for good in ["{}", " [1, NaN, -Infinity] ", "\"\\ud800\"", "{\"a\": \"NaN\"}", "1e999"] {
            assert!(is_json(good), "{good}");
        }
        for bad in ["", "{'a': 1}", "[1,]", "1NaN", "-NaN", "\"a\nb\"", "{} x", "NaNa"] {
            assert!(!is_json(bad), "{bad}");
        }
    }
}
