//! Whether an answer does what it was told: the 25 kinds of instructions of IFEval (arXiv
//! 2311.07911), as its official code decides.
//!
//! Strictly an answer counts as it is; loosely also without its first line, its last, both, and its
//! asterisks, whichever does. The official code draws at random what a row leaves out; here a row
//! must have it all. One row of the benchmark (key 1122) asks for the letter `#`, for which the
//! official code draws another; here `#` is counted.

use std::sync::LazyLock;

use fancy_regex::Regex;
use serde_json::{Value, json};

use super::language::detect;
use super::sentences::{sentences, words};
use super::text::{
    count, is_json, is_lower, is_upper, parts, pattern, row_count, row_pattern, split, strip,
};
use super::{Worth, share};

/// What one instruction asks for.
#[derive(Debug)]
enum Check {
    Keywords(Vec<Regex>),
    Keyword(Regex, Amount),
    Forbidden(Vec<Regex>),
    Letter(char, Amount),
    Language(String),
    Sentences(Amount),
    Paragraphs(usize),
    Words(Amount),
    FirstWord { paragraphs: usize, nth: usize, word: String },
    Placeholders(usize),
    Postscript(Regex),
    Bullets(usize),
    OneOfThree,
    Highlights(usize),
    Sections(Regex, usize),
    Json,
    Title,
    TwoAnswers,
    Repeats(String),
    Ends(String),
    CapitalWords(Amount),
    Capital,
    Lowercase,
    NoComma,
    Quoted,
}

/// At least so many, or fewer.
#[derive(Clone, Copy, Debug)]
struct Amount {
    fewer: bool,
    number: usize,
}

impl Amount {
    fn takes(self, n: usize) -> bool {
        if self.fewer { n < self.number } else { n >= self.number }
    }
}

/// What is scored, in lm-evaluation-harness' names; `mean` is what Llama 3 reports.
pub const METRICS: [&str; 5] = [
    "prompt_level_strict_acc",
    "inst_level_strict_acc",
    "prompt_level_loose_acc",
    "inst_level_loose_acc",
    "mean",
];

/// The scores of an answer.
pub fn score(reference: &Value, answer: &str) -> Result<Worth, String> {
    let Followed { strict, loose } = Instructions::read(reference)?.followed(answer)?;
    let mut worth =
        Worth { taken: json!({ "strict": strict, "loose": loose }), ..Worth::default() };
    for (prompt, part, held) in [(0, 1, strict), (2, 3, loose)] {
        let parts: Vec<f64> = held.iter().map(|held| share(*held)).collect();
        let mean = parts.iter().sum::<f64>() / parts.len() as f64;
        worth.scores.insert(METRICS[prompt], share(held.iter().all(|held| *held)));
        worth.scores.insert(METRICS[part], mean);
        worth.parts.insert(METRICS[part], parts);
    }
    let mean = worth.scores.values().sum::<f64>() / 4.0;
    worth.scores.insert("mean", mean);
    Ok(worth)
}

/// The instructions of a row.
#[derive(Debug)]
pub struct Instructions(Vec<Check>);

/// What an answer did, instruction by instruction.
#[derive(Debug, PartialEq)]
pub struct Followed {
    /// As it is.
    pub strict: Vec<bool>,
    /// As it is, or without what often surrounds answers.
    pub loose: Vec<bool>,
}

impl Instructions {
    /// Reads `instruction_id_list` and `kwargs`, in an object with both.
    ///
    /// Errors: one is unknown, or lacks what it needs.
    pub fn read(reference: &Value) -> Result<Instructions, String> {
        let list =
            |name: &str| reference[name].as_array().ok_or_else(|| format!("{name} is no list"));
        let (ids, kwargs) = (list("instruction_id_list")?, list("kwargs")?);
        if ids.is_empty() || ids.len() != kwargs.len() {
            return Err(format!("{} instructions and {} kwargs", ids.len(), kwargs.len()));
        }
        let read = |(id, kwargs): (&Value, &Value)| {
            let id = id.as_str().ok_or("an instruction is no text")?;
            read(id, kwargs).map_err(|what| format!("{id}: {what}"))
        };
        ids.iter().zip(kwargs).map(read).collect::<Result<_, _>>().map(Instructions)
    }

    /// Which are followed. Error: a pattern of the row cannot be looked for.
    pub fn followed(&self, answer: &str) -> Result<Followed, String> {
        let forms = forms(answer);
        let (mut strict, mut loose) = (Vec::new(), Vec::new());
        for check in &self.0 {
            let does = |text: &String| -> Result<bool, String> {
                Ok(!strip(text).is_empty() && check.holds(text)?)
            };
            let as_it_is = does(&forms[0])?;
            let mut any = as_it_is;
            for form in &forms[1..] {
                any = any || does(form)?;
            }
            strict.push(as_it_is);
            loose.push(any);
        }
        Ok(Followed { strict, loose })
    }
}

/// The answer, and what it may be loosely.
fn forms(answer: &str) -> Vec<String> {
    let lines: Vec<&str> = answer.split('\n').collect();
    let n = lines.len();
    let of = |from: usize, to: usize| {
        strip(&lines.get(from..to).unwrap_or_default().join("\n")).to_owned()
    };
    let mut forms = vec![answer.to_owned(), of(1, n), of(0, n - 1), of(1, n - 1)];
    for i in 0..forms.len() {
        forms.push(forms[i].replace('*', ""));
    }
    forms
}

fn text<'a>(kwargs: &'a Value, name: &str) -> Result<&'a str, String> {
    kwargs[name].as_str().ok_or_else(|| format!("{name} is {}, no text", kwargs[name]))
}

fn texts<'a>(kwargs: &'a Value, name: &str) -> Result<Vec<&'a str>, String> {
    let all = kwargs[name].as_array().and_then(|all| all.iter().map(Value::as_str).collect());
    all.ok_or_else(|| format!("{name} is {}, no list of texts", kwargs[name]))
}

fn number(kwargs: &Value, name: &str) -> Result<usize, String> {
    let number = &kwargs[name];
    // Files that went through tables of numbers have 3.0 for 3.
    let whole = number.as_f64().filter(|x| (0.0..=1e9).contains(x) && x.fract() == 0.0);
    whole.map(|x| x as usize).ok_or_else(|| format!("{name} is {number}, no number"))
}

fn amount(kwargs: &Value, name: &str, relation: &str) -> Result<Amount, String> {
    let fewer = match text(kwargs, relation)? {
        "less than" => true,
        "at least" => false,
        other => return Err(format!("{relation} is {other:?}, not \"less than\" or \"at least\"")),
    };
    Ok(Amount { fewer, number: number(kwargs, name)? })
}

fn read(id: &str, kwargs: &Value) -> Result<Check, String> {
    let patterns = |name: &str, around: &str| -> Result<Vec<Regex>, String> {
        let all = texts(kwargs, name)?.into_iter();
        all.map(|word| row_pattern(&format!("(?i){around}{word}{around}"))).collect()
    };
    Ok(match id {
        "keywords:existence" => Check::Keywords(patterns("keywords", "")?),
        "keywords:frequency" => {
            let word = strip(text(kwargs, "keyword")?);
            let regex = row_pattern(&format!("(?i){word}"))?;
            Check::Keyword(regex, amount(kwargs, "frequency", "relation")?)
        }
        "keywords:forbidden_words" => Check::Forbidden(patterns("forbidden_words", r"\b")?),
        "keywords:letter_frequency" => {
            let letter = strip(text(kwargs, "letter")?).to_lowercase();
            let mut chars = letter.chars();
            let (Some(letter), None) = (chars.next(), chars.next()) else {
                return Err(format!("letter is {letter:?}, not one"));
            };
            Check::Letter(letter, amount(kwargs, "let_frequency", "let_relation")?)
        }
        "language:response_language" => Check::Language(text(kwargs, "language")?.to_owned()),
        "length_constraints:number_sentences" => {
            Check::Sentences(amount(kwargs, "num_sentences", "relation")?)
        }
        "length_constraints:number_paragraphs" => {
            Check::Paragraphs(number(kwargs, "num_paragraphs")?)
        }
        "length_constraints:number_words" => Check::Words(amount(kwargs, "num_words", "relation")?),
        "length_constraints:nth_paragraph_first_word" => first_word(kwargs)?,
        "detectable_content:number_placeholders" => {
            Check::Placeholders(number(kwargs, "num_placeholders")?)
        }
        "detectable_content:postscript" => postscript(strip(text(kwargs, "postscript_marker")?))?,
        "detectable_format:number_bullet_lists" => Check::Bullets(number(kwargs, "num_bullets")?),
        "detectable_format:constrained_response" => Check::OneOfThree,
        "detectable_format:number_highlighted_sections" => {
            Check::Highlights(number(kwargs, "num_highlights")?)
        }
        "detectable_format:multiple_sections" => {
            let mark = strip(text(kwargs, "section_spliter")?);
            let regex = row_pattern(&format!(r"\s?{mark}\s?\d+\s?"))?;
            Check::Sections(regex, number(kwargs, "num_sections")?)
        }
        "detectable_format:json_format" => Check::Json,
        "detectable_format:title" => Check::Title,
        "combination:two_responses" => Check::TwoAnswers,
        "combination:repeat_prompt" => {
            Check::Repeats(strip(text(kwargs, "prompt_to_repeat")?).to_lowercase())
        }
        "startend:end_checker" => Check::Ends(strip(text(kwargs, "end_phrase")?).to_lowercase()),
        "change_case:capital_word_frequency" => {
            Check::CapitalWords(amount(kwargs, "capital_frequency", "capital_relation")?)
        }
        "change_case:english_capital" => Check::Capital,
        "change_case:english_lowercase" => Check::Lowercase,
        "punctuation:no_comma" => Check::NoComma,
        "startend:quotation" => Check::Quoted,
        _ => return Err("no kind of instruction".to_owned()),
    })
}

fn first_word(kwargs: &Value) -> Result<Check, String> {
    let (paragraphs, nth) = (number(kwargs, "num_paragraphs")?, number(kwargs, "nth_paragraph")?);
    if !(1..=paragraphs).contains(&nth) {
        return Err(format!("nth_paragraph is {nth} of {paragraphs}"));
    }
    let word = text(kwargs, "first_word")?.to_lowercase();
    Ok(Check::FirstWord { paragraphs, nth, word })
}

fn postscript(mark: &str) -> Result<Check, String> {
    let regex = match mark {
        "P.P.S" => r"(?m)\s*p\.\s?p\.\s?s.*$".to_owned(),
        "P.S." => r"(?m)\s*p\.\s?s\..*$".to_owned(),
        other => format!(r"(?m)\s*{}.*$", other.to_lowercase()),
    };
    row_pattern(&regex).map(Check::Postscript)
}

static PLACEHOLDER: LazyLock<Regex> = LazyLock::new(|| pattern(r"\[.*?\]"));
static BULLETS: LazyLock<[Regex; 2]> =
    LazyLock::new(|| [pattern(r"(?m)^\s*\*[^*].*$"), pattern(r"(?m)^\s*-.*$")]);
static HIGHLIGHTS: LazyLock<[Regex; 2]> =
    LazyLock::new(|| [pattern(r"\*[^\n*]*\*"), pattern(r"\*\*[^\n*]*\*\*")]);
static TITLE: LazyLock<Regex> = LazyLock::new(|| pattern(r"<<[^\n]+>>"));
static PARAGRAPHS: LazyLock<Regex> = LazyLock::new(|| pattern(r"\s?\*\*\*\s?"));

impl Check {
    fn holds(&self, text: &str) -> Result<bool, String> {
        Ok(match self {
            Check::Keywords(words) => !counts(words, text)?.contains(&0),
            Check::Keyword(word, amount) => amount.takes(row_count(word, text)?),
            Check::Forbidden(words) => counts(words, text)?.iter().all(|n| *n == 0),
            Check::Letter(letter, amount) => {
                amount.takes(text.to_lowercase().chars().filter(|c| c == letter).count())
            }
            Check::Language(language) => detect(text).is_none_or(|own| own == language),
            Check::Sentences(amount) => amount.takes(sentences(text).len()),
            Check::Paragraphs(number) => paragraphs(text) == Some(*number),
            Check::Words(amount) => amount.takes(count(&WORDS, text)),
            Check::FirstWord { paragraphs, nth, word } => begins(text, *paragraphs, *nth, word),
            Check::Placeholders(number) => count(&PLACEHOLDER, text) >= *number,
            Check::Postscript(regex) => row_count(regex, &text.to_lowercase())? > 0,
            Check::Bullets(number) => {
                BULLETS.iter().map(|regex| count(regex, text)).sum::<usize>() == *number
            }
            Check::OneOfThree => ["yes", "no", "maybe"]
                .iter()
                .any(|word| strip(text).contains(&format!("My answer is {word}."))),
            Check::Highlights(number) => highlights(text) >= *number,
            Check::Sections(regex, number) => row_count(regex, text)? >= *number,
            Check::Json => is_json(unfenced(text)),
            Check::Title => TITLE.find_iter(text).map_while(Result::ok).any(|title| {
                let title = title.as_str().trim_start_matches('<').trim_end_matches('>');
                !strip(title).is_empty()
            }),
            Check::TwoAnswers => two(text),
            Check::Repeats(prompt) => strip(text).to_lowercase().starts_with(prompt),
            Check::Ends(phrase) => strip(text).trim_matches('"').to_lowercase().ends_with(phrase),
            Check::CapitalWords(amount) => {
                amount.takes(words(text).iter().filter(|word| is_upper(word)).count())
            }
            Check::Capital => is_upper(text) && detect(text).is_none_or(|own| own == "en"),
            Check::Lowercase => is_lower(text) && detect(text).is_none_or(|own| own == "en"),
            Check::NoComma => !text.contains(','),
            Check::Quoted => {
                let text = strip(text);
                text.len() > 1 && text.starts_with('"') && text.ends_with('"')
            }
        })
    }
}

/// How often each is found.
fn counts(regexes: &[Regex], text: &str) -> Result<Vec<usize>, String> {
    regexes.iter().map(|regex| row_count(regex, text)).collect()
}

static WORDS: LazyLock<Regex> = LazyLock::new(|| pattern(r"\w+"));

/// Paragraphs between `***`; nothing if one within is empty.
fn paragraphs(text: &str) -> Option<usize> {
    let all = parts(&PARAGRAPHS, text);
    let mut number = all.len();
    for (i, paragraph) in all.iter().enumerate() {
        if strip(paragraph).is_empty() {
            if i != 0 && i + 1 != all.len() {
                return None;
            }
            number -= 1;
        }
    }
    Some(number)
}

/// Whether there are so many paragraphs between blank lines, and the nth begins with the word.
fn begins(text: &str, wanted: usize, nth: usize, first: &str) -> bool {
    let all: Vec<&str> = text.split("\n\n").collect();
    let number = all.iter().filter(|paragraph| !strip(paragraph).is_empty()).count();
    if nth > number {
        return false;
    }
    let Some(word) = split(all[nth - 1]).next() else { return false };
    let word = word.trim_start_matches('\'').trim_start_matches('"');
    let word: String =
        word.chars().take_while(|c| !".,?!'\"".contains(*c)).flat_map(char::to_lowercase).collect();
    number == wanted && word == first
}

fn highlights(text: &str) -> usize {
    let [single, double] = &*HIGHLIGHTS;
    let full = |regex: &Regex, bare: fn(&str) -> &str| {
        let all = regex.find_iter(text).map_while(Result::ok);
        all.filter(|mark| !strip(bare(mark.as_str())).is_empty()).count()
    };
    full(single, |mark| mark.trim_matches('*'))
        + full(double, |mark| {
            let mark = mark.strip_prefix("**").unwrap_or(mark);
            mark.strip_suffix("**").unwrap_or(mark)
        })
}

/// A text without the fence that code stands in.
fn unfenced(text: &str) -> &str {
    let mut text = strip(text);
    for fence in ["```json", "```Json", "```JSON", "```"] {
        text = text.strip_prefix(fence).unwrap_or(text);
    }
    strip(text.strip_suffix("```").unwrap_or(text))
}

/// Whether there are two different answers between `******`.
fn two(text: &str) -> bool {
    let all: Vec<&str> = text.split("******").collect();
    let mut answers = Vec::new();
    for (i, answer) in all.iter().enumerate() {
        let answer = strip(answer);
        if !answer.is_empty() {
            answers.push(answer);
        } else if i != 0 && i + 1 != all.len() {
            return false;
        }
    }
    answers.len() == 2 && answers[0] != answers[1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn followed(id: &str, kwargs: Value, answer: &str) -> (bool, bool) {
        let row = json!({ "instruction_id_list": [id], "kwargs": [kwargs] });
        let did = Instructions::read(&row).unwrap().followed(answer).unwrap();
        (did.strict[0], did.loose[0])
    }

    #[test]
    fn loosely_a_line_or_asterisks_may_be_in_the_way() {
        assert_eq!(followed("startend:quotation", json!({}), "Sure:\n\"yes\""), (false, true));
        assert_eq!(followed("detectable_format:json_format", json!({}), "**{}**"), (false, true));
        assert_eq!(followed("punctuation:no_comma", json!({}), ""), (false, false));
    }

    #[test]
    fn rows_must_say_all() {
        let read = |id: &str, kwargs: Value| {
            let row = json!({ "instruction_id_list": [id], "kwargs": [kwargs] });
            Instructions::read(&row).unwrap_err()
        };
        assert!(read("keywords:exists", json!({})).contains("keywords:exists"));
        assert!(read("keywords:existence", json!({})).contains("keywords is null"));
        let less = json!({ "num_words": 3, "relation": "fewer than" });
        assert!(read("length_constraints:number_words", less).contains("fewer than"));
        let nth = json!({ "num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a" });
        assert!(read("length_constraints:nth_paragraph_first_word", nth).contains("3 of 2"));
        assert!(read("keywords:existence", json!({ "keywords": ["("] })).contains("no pattern"));
    }
}
