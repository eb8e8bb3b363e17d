//! Final answers of mathematics, as Minerva (arXiv 2206.14858, appendix D) and lm-evaluation-harness'
//! `minerva_math` take and compare them.
//!
//! Two answers are the same where their texts are, in one spelling, or where both are formulas that have the
//! same values; the reference asks sympy for the latter, which knows more formulas.

use std::sync::LazyLock;

use fancy_regex::Regex;
use serde_json::Value;

use super::text::{pattern, strip};
use super::{Worth, share};

mod formula;

/// The score of an answer by a solution, whose last box holds what is right.
pub fn score(reference: &Value, answer: &str) -> Worth {
    let taken = normal(taken(answer));
    let solution = reference.as_str().unwrap_or_default();
    let gold = normal(boxed(solution).unwrap_or(solution));
    Worth::of([("exact_match", share(same(&taken, &gold)))], taken)
}

static FINAL: LazyLock<Regex> =
    LazyLock::new(|| pattern("Final Answer: The final answer is(.*?). I hope it is correct."));

/// What an answer says that its final answer is.
fn taken(answer: &str) -> String {
    let text = format!("{answer}I hope it is correct.");
    let found = FINAL.captures(&text).ok().flatten().and_then(|found| found.get(1));
    found.map_or("[invalidanswer]", |found| strip(found.as_str())).to_owned()
}

/// What stands in the last box of a solution.
fn boxed(solution: &str) -> Option<&str> {
    if let Some((_, behind)) = solution.rsplit_once("\\boxed ") {
        return behind.split('$').next();
    }
    let at = solution.rfind("\\boxed").or_else(|| solution.rfind("\\fbox"))?;
    let open = at + solution[at..].find('{')?;
    let mut depth = 0usize;
    for (i, byte) in solution.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&solution[open + 1..i]);
        }
    }
    None
}

/// Whether two answers in their normal spelling are the same.
fn same(a: &str, b: &str) -> bool {
    !a.is_empty() && a == b || formula::equal(a, b)
}

const REPLACED: [(&str, &str); 10] = [
    ("an ", ""),
    ("a ", ""),
    (".$", "$"),
    ("\\$", ""),
    ("\\ ", ""),
    (" ", ""),
    ("mbox", "text"),
    (",\\text{and}", ","),
    ("\\text{and}", ","),
    ("\\text{m}", "\\text{}"),
];
const UNITS: [&str; 27] = [
    "square",
    "ways",
    "integers",
    "dollars",
    "mph",
    "inches",
    "ft",
    "hours",
    "km",
    "units",
    "sue",
    "points",
    "feet",
    "minutes",
    "digits",
    "cents",
    "degrees",
    "cm",
    "gm",
    "pounds",
    "meters",
    "meals",
    "edges",
    "students",
    "childrentickets",
    "multiples",
    "\\ldots",
];
const MARKS: [&str; 15] = [
    "\\text{s}",
    "\\text{.}",
    "\\text{\ns}",
    "\\text{}^2",
    "\\text{}^3",
    "\\text{\n}",
    "\\text{}",
    "\\mathrm{th}",
    "^\\circ",
    "^{\\circ}",
    "\\;",
    ",\\!",
    "{,}",
    "\"",
    "\\dots",
];

static COMMAND: LazyLock<Regex> = LazyLock::new(|| pattern(r"\\[a-zA-Z]+"));
static UNIT: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let words = UNITS.iter().filter(|unit| !unit.starts_with('\\'));
    words.map(|unit| pattern(&format!(r"(?<!\\)\b{unit}\b"))).collect()
});
static SPELLINGS: LazyLock<[(Regex, &str); 8]> = LazyLock::new(|| {
    [
        (pattern(r"(.*?)(\$)(.*?)(\$)(.*)"), "$$${3}$$"),
        (pattern(r"(\\text\{)(.*?)(\})"), "${2}"),
        (pattern(r"(\\textbf\{)(.*?)(\})"), "${2}"),
        (pattern(r"(\\overline\{)(.*?)(\})"), "${2}"),
        (pattern(r"(\\boxed\{)(.*)(\})"), "${2}"),
        (pattern(r"(frac)([^{])(.)"), "frac{${2}}{${3}}"),
        (pattern(r"(sqrt)(\[[^\]]*\])(\w)"), "${1}${2}{${3}}"),
        (pattern(r"(sqrt)(?!\[)([^{])"), "sqrt{${2}}"),
    ]
});
static THOUSANDS: LazyLock<Regex> = LazyLock::new(|| pattern(r"^-?\d{1,3}(,\d{3})+$"));

/// An answer in its normal spelling: behind the last `=`, without units, words and dollars.
fn normal(answer: impl AsRef<str>) -> String {
    let mut text = answer.as_ref().rsplit('=').next().unwrap_or_default().to_owned();
    for unit in &*UNIT {
        text = unit.replace_all(&text, "").into_owned();
    }
    for (before, after) in REPLACED {
        text = text.replace(before, after);
    }
    for unit in UNITS {
        text = match unit.starts_with('\\') {
            true => text.replace(unit, ""),
            false => without(&text, unit),
        };
    }
    for mark in MARKS {
        text = text.replace(mark, "");
    }
    for (spelling, by) in &*SPELLINGS {
        text = spelling.replace_all(&text, *by).into_owned();
    }
    text = text.replace('$', "");
    if THOUSANDS.is_match(&text).unwrap_or(false) { text.replace(',', "") } else { text }
}

/// A text without a word, but for commands that hold it.
fn without(text: &str, word: &str) -> String {
    let (mut made, mut from) = (String::new(), 0);
    for command in COMMAND.find_iter(text).map_while(Result::ok) {
        made += &text[from..command.start()].replace(word, "");
        made += command.as_str();
        from = command.end();
    }
    made + &text[from..].replace(word, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_answers_are_taken_and_spelt_one_way() {
        let of = |text: &str| normal(taken(text));
        assert_eq!(
            of("Final Answer: The final answer is $\\frac12$. I hope it is correct."),
            "\\frac{1}{2}"
        );
        assert_eq!(
            of("Final Answer: The final answer is $x = 1,000$ cm. I hope"),
            "[invalidanswer]"
        );
        assert_eq!(normal("x = 1,000 \\text{ cm}"), "1000");
        assert_eq!(normal("2\\pi cm"), "2\\pi");
        assert_eq!(normal("\\left(1,2\\right)"), "\\left(1,2\\right)");
        assert_eq!(boxed("so $\\boxed{\\frac{1}{2}}$ or $\\boxed{3}$"), Some("3"));
        assert_eq!(boxed("so $\\boxed 7$"), Some("7"));
    }

    #[test]
    fn answers_of_one_value_are_the_same() {
        for (a, b) in [
            ("0.5", "\\frac{1}{2}"),
            ("2\\sqrt{3}", "\\sqrt{12}"),
            ("x^2+2x+1", "(x+1)^2"),
            ("\\frac{\\pi}{2}", "\\pi/2"),
            ("(1,2)", "(1,2)"),
        ] {
            assert!(same(a, b), "{a} {b}");
        }
        for (a, b) in
            [("1", "2"), ("x", "y"), ("", ""), ("(1,2)", "(2,1)"), ("0.33", "\\frac{1}{3}")]
        {
            assert!(!same(a, b), "{a} {b}");
        }
    }
}
