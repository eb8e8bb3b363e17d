//! Sentences and words of English as NLTK 3.10 cuts them: by Punkt (Kiss and Strunk 2006, in
//! Computational Linguistics 32) with its English model, and by the Penn Treebank's rules.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use fancy_regex::Regex;
use serde::Deserialize;

use super::text::{is_lower, is_space, is_upper, pattern, split};

/// `data/sentences.json.zst`; scripts/make-eval-tables.py writes it.
#[derive(Deserialize)]
struct Model {
    abbreviations: HashSet<String>,
    collocations: HashSet<(String, String)>,
    starters: HashSet<String>,
    contexts: HashMap<String, u8>,
}

static MODEL: LazyLock<Model> =
    LazyLock::new(|| super::table(include_bytes!("../../data/sentences.json.zst")));

// Where a word was seen, and with which first letter: at a sentence's beginning (B), within (M),
// unknown (U).
const UPPER_BMU: u8 = 2 + 4 + 8;
const UPPER_M: u8 = 4;
const LOWER_BMU: u8 = 16 + 32 + 64;
const LOWER_B: u8 = 16;

/// Characters that end a word: brackets, quotes, and the ends of sentences but for the period.
const NO_WORD: &str = "?!)\";}]*:@'({[\u{2018}\u{2019}\u{201c}\u{201d}\u{ab}\u{bb}";
/// Those of them that may close a sentence behind its end.
const CLOSING: &str = "\"')]}\u{2018}\u{2019}\u{201c}\u{201d}\u{ab}\u{bb}";

static WORDS: LazyLock<Regex> = LazyLock::new(|| {
    let no_word = format!("[{}]", NO_WORD.replace('[', r"\[").replace(']', r"\]"));
    let several = r"(?:-{2,}|\.{2,}|(?:\.\s){2,}\.)";
    let starts = r##"[^("`{\[:;&#*@)}\]\-,]"##;
    let ends = format!(r"\s|$|{no_word}|{several}|,(?=$|\s|{no_word}|{several})");
    pattern(&format!(r"{several}|(?={starts})[^\s\x1c-\x1f]+?(?={ends})|[^\s\x1c-\x1f]"))
});
static NUMBER: LazyLock<Regex> = LazyLock::new(|| pattern(r"^-?[.,]?\d[\d,.\-]*\.?$"));
static INITIAL: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[\p{L}\p{Nl}\p{No}_]\.$"));

/// A word of a context, and what was found about it.
struct Token {
    text: String,
    /// In small letters, of numbers one word for all.
    kind: String,
    ends: bool,
    abbreviation: bool,
    ellipsis: bool,
}

impl Token {
    fn of(text: &str) -> Token {
        let lower = text.to_lowercase();
        let kind = NUMBER.replace(&lower, "##number##").into_owned();
        let mut token = Token {
            text: text.to_owned(),
            kind,
            ends: false,
            abbreviation: false,
            ellipsis: false,
        };
        if [".", "?", "!"].contains(&text) {
            token.ends = true;
        } else if text.len() > 1 && text.bytes().all(|b| b == b'.') {
            token.ellipsis = true;
        } else if text.ends_with('.') && !text.ends_with("..") {
            let lower = text[..text.len() - 1].to_lowercase();
            let last = lower.rsplit('-').next().unwrap_or_default();
            let known = &MODEL.abbreviations;
            token.abbreviation = known.contains(&lower) || known.contains(last);
            token.ends = !token.abbreviation;
        }
        token
    }

    fn without_period(&self) -> &str {
        self.kind.strip_suffix('.').filter(|kind| !kind.is_empty()).unwrap_or(&self.kind)
    }

    fn without_end(&self) -> &str {
        if self.ends { self.without_period() } else { &self.kind }
    }

    fn first_is(&self, case: fn(&str) -> bool) -> bool {
        let end = self.text.chars().next().map_or(0, char::len_utf8);
        case(&self.text[..end])
    }

    /// Whether it begins a sentence, by the case it has and was seen with.
    fn begins(&self) -> Option<bool> {
        if [";", ":", ",", ".", "!", "?"].contains(&self.text.as_str()) {
            return Some(false);
        }
        let seen = MODEL.contexts.get(self.without_end()).copied().unwrap_or(0);
        if self.first_is(is_upper) && seen & LOWER_BMU != 0 && seen & UPPER_M == 0 {
            return Some(true);
        }
        let small = self.first_is(is_lower) && (seen & UPPER_BMU != 0 || seen & LOWER_B == 0);
        small.then_some(false)
    }
}

/// Decides of a word before a period, by the word behind it.
fn decide(token: &mut Token, next: &Token) {
    if !token.text.ends_with('.') {
        return;
    }
    let (kind, following) = (token.without_period().to_owned(), next.without_end().to_owned());
    let initial = INITIAL.is_match(&token.text).unwrap_or(false);
    let mut abbreviate = || {
        token.ends = false;
        token.abbreviation = true;
    };
    if MODEL.collocations.contains(&(kind.clone(), following.clone())) {
        return abbreviate();
    }
    let begins = next.begins();
    if (token.abbreviation || token.ellipsis) && !initial {
        let starter = next.first_is(is_upper) && MODEL.starters.contains(&following);
        if begins == Some(true) || starter {
            token.ends = true;
            return;
        }
    }
    if initial || kind == "##number##" {
        let seen = MODEL.contexts.get(&following).copied().unwrap_or(0);
        let name = initial && next.first_is(is_upper) && seen & LOWER_BMU == 0;
        if begins == Some(false) || begins.is_none() && name {
            token.ends = false;
            token.abbreviation = true;
        }
    }
}

/// Whether a sentence ends within a text, before its last word.
fn ends_within(text: &str) -> bool {
    let lines = text.split('\n').filter(|line| !super::text::strip(line).is_empty());
    let mut tokens: Vec<Token> = lines
        .flat_map(|line| WORDS.find_iter(line).map_while(Result::ok).map(|m| Token::of(m.as_str())))
        .collect();
    for at in 1..tokens.len() {
        let (before, behind) = tokens.split_at_mut(at);
        decide(&mut before[at - 1], &behind[0]);
        if before[at - 1].ends {
            return true;
        }
    }
    false
}

/// A place where a sentence may end: the mark's place, what follows it at once, and where the next
/// word begins behind white space.
struct Place {
    mark: usize,
    after: usize,
    next: Option<usize>,
}

fn places(text: &[char]) -> Vec<Place> {
    let run = |from: usize, space: bool| {
        text[from..].iter().take_while(|c| is_space(**c) == space).count()
    };
    let of = |mark: usize| {
        let behind = mark + 1;
        match text.get(behind)? {
            c if NO_WORD.contains(*c) => Some(Place { mark, after: behind + 1, next: None }),
            c if is_space(*c) => {
                let next = behind + run(behind, true);
                let after = next + run(next, false);
                (after > next).then_some(Place { mark, after, next: Some(next) })
            }
            _ => None,
        }
    };
    (0..text.len()).filter(|at| ".?!".contains(text[*at])).filter_map(of).collect()
}

/// Sentences of a text.
pub fn sentences(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    // The word before each mark; of marks of one word the last counts.
    let (mut before, mut kept): ((usize, usize), Option<Place>) = ((0, 0), None);
    let mut cuts: Vec<(usize, usize)> = Vec::new(); // the end of a sentence, the next one's beginning
    let mut cut = |place: &Place, before: (usize, usize)| {
        let context: String = chars[before.0..before.1].iter().collect::<String>()
            + &chars[place.mark..place.after].iter().collect::<String>();
        if ends_within(&context) {
            cuts.push((place.mark + 1, place.next.unwrap_or(place.mark + 1)));
        }
    };
    for place in places(&chars) {
        let ascii = |c: &char| " \t\n\r\x0b\x0c".contains(*c);
        let space = chars[before.1..place.mark].iter().rposition(ascii).filter(|at| *at > 0);
        let word = (space.map_or(before.0, |at| before.1 + at + 1), place.mark);
        if let Some(kept) = kept.take().filter(|_| before.1 <= word.0) {
            cut(&kept, before);
        }
        (before, kept) = (word, Some(place));
    }
    if let Some(kept) = kept {
        cut(&kept, before);
    }
    let end = chars.iter().rposition(|c| !is_space(*c)).map_or(0, |at| at + 1);
    let (mut slices, mut from) = (Vec::new(), 0);
    for (to, next) in cuts {
        slices.push((from, to));
        from = next;
    }
    slices.push((from, end));
    close(&chars, &slices)
}

/// Quotes and brackets behind a sentence's end belong to it.
fn close(text: &[char], slices: &[(usize, usize)]) -> Vec<String> {
    let (mut sentences, mut moved) = (Vec::new(), 0);
    let mut take = |from: usize, to: usize| {
        if from < to {
            sentences.push(text[from..to].iter().collect());
        }
    };
    for (i, &(from, to)) in slices.iter().enumerate() {
        let from = from + moved;
        moved = 0;
        match slices.get(i + 1).and_then(|next| Some((next.0, closing(text, *next)?))) {
            Some((next, (closed, whole))) => {
                take(from, next + closed);
                moved = whole;
            }
            None => take(from, to),
        }
    }
    sentences
}

/// How many closing characters a slice begins with, and how many with the white space behind them.
fn closing(text: &[char], (from, to): (usize, usize)) -> Option<(usize, usize)> {
    let slice = text.get(from..to.max(from))?;
    let most = slice.iter().take_while(|c| CLOSING.contains(**c)).count();
    (1..=most).find_map(|n| {
        let spaces = slice[n..].iter().take_while(|c| is_space(**c)).count();
        let dashes = slice[n..].starts_with(&['-', '-']);
        (spaces > 0 || dashes || n == slice.len()).then_some((n, n + spaces))
    })
}

/// What a rule of words puts in the place of a pattern.
type Rule = (Regex, &'static str);

static TREEBANK: LazyLock<[Vec<Rule>; 2]> = LazyLock::new(|| {
    let rules = |all: &[(&str, &'static str)]| {
        all.iter().map(|(text, by)| (pattern(text), *by)).collect::<Vec<_>>()
    };
    let before = rules(&[
        ("([«“‘„]|[`]+)", " ${1} "),
        (r#"^""#, "``"),
        ("(``)", " ${1} "),
        (r#"([ (\[{<])("|'{2})"#, "${1} `` "),
        (r"(?i)(?<!\w)(')(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", "${1} "),
        (r#"([^.])(\.)([\])}>"' »”’]*+)\s*$"#, "${1} ${2} ${3} "),
        (r"([:,])([^\d])", " ${1} ${2}"),
        (r"([:,])(?=\n?$)", " ${1} "),
        (r"\.{2,}", " ${0} "),
        ("[;@#$%&]", " ${0} "),
        (r"[\x{2012}-\x{2015}]", " ${0} "),
        (r#"([^.])(\.)([\])}>"']*)\s*$"#, "${1} ${2}${3} "),
        ("[?!]", " ${0} "),
        ("([^'])' ", "${1} ' "),
        ("[*]", " ${0} "),
        (r"[\]\[(){}<>]", " ${0} "),
        ("--", " -- "),
    ]);
    let behind = rules(&[
        ("([»”’])", " ${1} "),
        ("''", " '' "),
        ("\"", " '' "),
        (r"\s+", " "),
        ("([^' ])('[sS]|'[mM]|'[dD]|') ", "${1} ${2} "),
        ("([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", "${1} ${2} "),
        (r"(?i)\b(can)(not)\b", " ${1} ${2} "),
        (r"(?i)\b(d)('ye)\b", " ${1} ${2} "),
        (r"(?i)\b(gim)(me)\b", " ${1} ${2} "),
        (r"(?i)\b(gon)(na)\b", " ${1} ${2} "),
        (r"(?i)\b(got)(ta)\b", " ${1} ${2} "),
        (r"(?i)\b(lem)(me)\b", " ${1} ${2} "),
        (r"(?i)\b(more)('n)\b", " ${1} ${2} "),
        (r"(?i)\b(wan)(na)(?=\s)", " ${1} ${2} "),
        ("(?i) ('t)(is)\\b", " ${1} ${2} "),
        ("(?i) ('t)(was)\\b", " ${1} ${2} "),
    ]);
    [before, behind]
});

/// Words of a text, sentence by sentence.
pub fn words(text: &str) -> Vec<String> {
    let apply = |text: String, rules: &[Rule]| {
        rules.iter().fold(text, |text, (rule, by)| rule.replace_all(&text, *by).into_owned())
    };
    let [before, behind] = &*TREEBANK;
    let mut words = Vec::new();
    for sentence in sentences(text) {
        let padded = format!(" {} ", apply(sentence, before));
        words.extend(split(&apply(padded, behind)).map(str::to_owned));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_end_where_punkt_ends_them() {
        for (text, wanted) in [
            ("", vec![]),
            ("One. Two! Three?", vec!["One.", "Two!", "Three?"]),
            (
                "Mr. Smith went to Washington. He left.",
                vec!["Mr. Smith went to Washington.", "He left."],
            ),
            ("(It rained.) We stayed.\n\nDone", vec!["(It rained.)", "We stayed.", "Done"]),
            ("Very bad!!! I know.", vec!["Very bad!!!", "I know."]),
            ("It cost 3.5 dollars, e.g. less.", vec!["It cost 3.5 dollars, e.g.", "less."]),
        ] {
            assert_eq!(sentences(text), wanted);
        }
    }

    #[test]
    fn words_are_the_treebanks() {
        assert_eq!(
            words("I can't see the \"BIG\" U.S. map, cannot I? END."),
            [
                "I", "ca", "n't", "see", "the", "``", "BIG", "''", "U.S.", "map", ",", "can",
                "not", "I", "?", "END", "."
            ]
        );
    }
}
