//! Answers to numbers.

mod answers;
mod calls;
mod ifeval;
mod language;
mod maths;
mod porter;
mod programs;
mod rouge;
mod sentences;
mod text;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use fancy_regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::EvalError;
use crate::item::{Ask, Item};
use crate::query::Said;

pub use answers::agreement;
pub use programs::Judge;

/// What is done with the answers to an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scorer {
    /// The likeliest answer: `acc` by the sum of log-probabilities, `acc_norm` by that a character
    /// of the answer.
    Choice,
    /// A given answer alone: whether it is what would be written (`acc`), and how likely it is
    /// (`log_prob`, in nats).
    Follow,
    /// The number behind `####` (`strict`) or the last one (`flexible`), as GSM8K is scored.
    Number,
    /// The text, trimmed (`exact_match`).
    Match,
    /// The words shared with the best of the references (`f1`), and whether all are (`em`), as SQuAD
    /// is scored.
    Words,
    /// The share of the references that stand in the text (`recall`).
    Found,
    /// Whether instructions were followed, as IFEval is scored: of prompts and of instructions,
    /// strictly and loosely, and the mean of the four.
    Ifeval,
    /// Whether programs pass their tests: `pass@k` of as many answers as there are.
    Programs,
    /// The final answer, a text or a formula, as Minerva is scored (`exact_match`).
    Maths,
    /// What stands behind "the answer is", as BIG-Bench Hard is scored (`exact_match`).
    AnswerIs,
    /// Whether functions are called as they should be, as BFCL's syntax trees decide (`accuracy`).
    Calls,
    /// The words shared with the best of the references (`f1`), as SQuAD 1.1, ZeroSCROLLS and InfiniteBench
    /// count them.
    F1,
    /// The same with the references left out one by one, and whether it is at least a person's (`heq`), as QuAC
    /// is scored.
    Quac,
    /// Whether the letter or the text of the right option is said (`acc`), as InfiniteBench finds it.
    Option,
    /// What a summary shares with others (`rouge1`, `rouge2`, `rougeL` and their `geometric_mean`), as
    /// `rouge_score` counts it.
    Rouge,
    /// Whether calls give functions what the right ones do (`accuracy`), as NexusRaven's benchmark runs them.
    Nexus,
    /// Whether an API is called with the right arguments (`accuracy`; with what free ones share, `shared`).
    ApiBank,
}

/// Counts up with each change that can move a score.
pub const VERSION: u32 = 3;

/// What the answers to an item are worth.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Worth {
    /// Its scores.
    pub scores: BTreeMap<&'static str, f64>,
    /// Of scores that are means of an item's parts, each part's.
    pub parts: BTreeMap<&'static str, Vec<f64>>,
    /// What was taken for the answer.
    pub taken: Value,
    /// How the programs of its answers ended.
    pub ended: Vec<String>,
}

impl Worth {
    fn of<const N: usize>(scores: [(&'static str, f64); N], taken: impl Into<Value>) -> Worth {
        Worth { scores: BTreeMap::from(scores), taken: taken.into(), ..Worth::default() }
    }
}

impl Scorer {
    /// The scores that it may give.
    pub fn metrics(self) -> &'static [&'static str] {
        match self {
            Scorer::Choice => &["acc", "acc_norm"],
            Scorer::Follow => &["acc", "log_prob"],
            Scorer::Number => &["strict", "flexible"],
            Scorer::Match | Scorer::Maths | Scorer::AnswerIs => &["exact_match"],
            Scorer::Words => &["em", "f1"],
            Scorer::Found => &["recall"],
            Scorer::Ifeval => &ifeval::METRICS,
            Scorer::Programs => &programs::METRICS,
            Scorer::Calls | Scorer::Nexus => &["accuracy"],
            Scorer::F1 => &["f1"],
            Scorer::Quac => &answers::QUAC,
            Scorer::Option => &["acc"],
            Scorer::Rouge => &rouge::METRICS,
            Scorer::ApiBank => &calls::api_bank::METRICS,
        }
    }

    /// Whether answers are written; else they are given.
    pub fn written(self) -> bool {
        !matches!(self, Scorer::Choice | Scorer::Follow)
    }

    /// Whether it can score by this reference; else what is wrong with it.
    pub fn check(self, reference: &Value) -> Result<(), String> {
        match self {
            Scorer::Ifeval => ifeval::Instructions::read(reference).map(|_| ()),
            Scorer::Programs => programs::Test::read(reference).map(|_| ()),
            Scorer::Calls => calls::Wanted::read(reference).map(|_| ()),
            Scorer::Nexus => calls::nexus::Wanted::read(reference).map(|_| ()),
            Scorer::ApiBank => calls::api_bank::Wanted::read(reference).map(|_| ()),
            Scorer::Rouge => rouge::Summaries::read(reference).map(|_| ()),
            Scorer::F1 | Scorer::Quac | Scorer::Option => answers::check(reference),
            Scorer::Choice | Scorer::Follow => Ok(()),
            Scorer::Number | Scorer::Match | Scorer::Words | Scorer::Found => {
                let plain = |v: &Value| v.is_string() || v.is_number() || v.is_boolean();
                let known = match reference {
                    Value::Array(all) => !all.is_empty() && all.iter().all(plain),
                    one => plain(one),
                };
                let what = || format!("the reference is {reference}, no text and no texts");
                if known { Ok(()) } else { Err(what()) }
            }
            Scorer::Maths | Scorer::AnswerIs => match reference {
                Value::String(_) => Ok(()),
                other => Err(format!("the reference is {other}, no text")),
            },
        }
    }

    /// What the answers to an item are worth. `judge` runs programs.
    ///
    /// Errors: a program cannot be run; a reference that it cannot score by. Panics if the answers
    /// are not those of the item's queries.
    pub fn score(
        self,
        item: &Item,
        said: &[Said],
        judge: Option<&Judge>,
    ) -> Result<Worth, EvalError> {
        let reference = match &item.ask {
            Ask::Choose { choices, gold, .. } => {
                return Ok(match said {
                    [Said::Likelihood { log_probs, greedy }] => {
                        let scores =
                            [("acc", share(*greedy)), ("log_prob", log_probs.iter().sum())];
                        Worth::of(scores, *greedy)
                    }
                    said => choose(choices, *gold, said),
                });
            }
            Ask::Write { reference, .. } => reference,
        };
        let text = |said: &Said| match said {
            Said::Written { text, .. } => text.clone(),
            Said::Likelihood { .. } => panic!("score: a likelihood where a text was asked for"),
        };
        let answers: Vec<String> = said.iter().map(text).collect();
        self.worth(reference, &answers, judge, item.row)
    }

    /// What written answers are worth by a reference, which is told of as `row`.
    ///
    /// Errors: a program cannot be run; a reference that it cannot score by. Panics if there are several
    /// answers where one is scored, or programs and no judge.
    pub fn worth(
        self,
        reference: &Value,
        answers: &[String],
        judge: Option<&Judge>,
        row: u64,
    ) -> Result<Worth, EvalError> {
        let wrong = |what| EvalError::Reference { row, what };
        match (self, answers) {
            (Scorer::Programs, answers) => programs::score(reference, answers, judge, row),
            (Scorer::Ifeval, [text]) => ifeval::score(reference, text).map_err(wrong),
            (Scorer::Calls, [text]) => calls::score(reference, text).map_err(wrong),
            (Scorer::Nexus, [text]) => calls::nexus::score(reference, text).map_err(wrong),
            (Scorer::ApiBank, [text]) => calls::api_bank::score(reference, text).map_err(wrong),
            (Scorer::Rouge, [text]) => rouge::score(reference, text).map_err(wrong),
            (Scorer::F1, [text]) => Ok(answers::f1(text, &texts(reference))),
            (Scorer::Quac, [text]) => Ok(answers::quac(text, &texts(reference))),
            (Scorer::Option, [text]) => Ok(answers::option(text, &texts(reference))),
            (Scorer::Maths, [text]) => Ok(maths::score(reference, text)),
            (Scorer::AnswerIs, [text]) => Ok(answer_is(reference, text)),
            (Scorer::Number, [text]) => Ok(number(text, &texts(reference))),
            (Scorer::Words, [text]) => Ok(words(text, &texts(reference))),
            (Scorer::Found, [text]) => {
                let references = texts(reference);
                let found = references.iter().filter(|r| text.contains(r.as_str())).count();
                let recall = found as f64 / references.len().max(1) as f64;
                Ok(Worth::of([("recall", recall)], found))
            }
            (Scorer::Match | Scorer::Choice | Scorer::Follow, [text]) => {
                let text = text.trim();
                let same = texts(reference).iter().any(|reference| reference.trim() == text);
                Ok(Worth::of([("exact_match", share(same))], text))
            }
            _ => panic!("score: {} answers to an item", answers.len()),
        }
    }
}

/// A table of this crate's `data`: JSON, packed.
fn table<T: serde::de::DeserializeOwned>(packed: &[u8]) -> T {
    let text = zstd::decode_all(packed).expect("a table of this crate");
    serde_json::from_slice(&text).expect("a table of this crate")
}

fn share(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

/// A reference as texts.
fn texts(reference: &Value) -> Vec<String> {
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match reference {
        Value::Array(all) => all.iter().map(plain).collect(),
        one => vec![plain(one)],
    }
}

fn choose(choices: &[String], gold: usize, said: &[Said]) -> Worth {
    let sums: Vec<f64> = said
        .iter()
        .map(|said| match said {
            Said::Likelihood { log_probs, .. } => log_probs.iter().sum(),
            Said::Written { .. } => panic!("score: a text where likelihoods were asked for"),
        })
        .collect();
    let chars = |i: usize| choices[if choices.len() == 1 { 0 } else { i }].chars().count().max(1);
    let by_char: Vec<f64> = sums.iter().enumerate().map(|(i, sum)| sum / chars(i) as f64).collect();
    let (taken, normed) = (greatest(&sums), greatest(&by_char));
    Worth::of([("acc", share(taken == gold)), ("acc_norm", share(normed == gold))], taken)
}

/// The place of the greatest, of equals the first.
fn greatest(numbers: &[f64]) -> usize {
    let mut best = 0;
    for (i, x) in numbers.iter().enumerate() {
        if *x > numbers[best] {
            best = i;
        }
    }
    best
}

static STRICT: LazyLock<Regex> = LazyLock::new(|| regex(r"#### (-?[0-9.,]+)"));
static NUMBERS: LazyLock<Regex> = LazyLock::new(|| regex(r"(-?[$0-9.,]{2,})|(-?[0-9]+)"));
static LEAD: LazyLock<Regex> = LazyLock::new(|| regex(r"(?s).*#### "));

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a pattern of this file")
}

/// A number as it is compared: without what stands before `####`, commas, dollars and a last dot.
fn bare(text: &str) -> String {
    let text = LEAD.replace(text, "").replace([',', '$'], "");
    text.strip_suffix('.').unwrap_or(&text).to_lowercase()
}

fn number(text: &str, references: &[String]) -> Worth {
    let found = |taken: Option<&str>| {
        let taken = taken.unwrap_or("[invalid]").trim().to_owned();
        let right = references.iter().any(|reference| bare(reference) == bare(&taken));
        (taken, share(right))
    };
    let capture = STRICT.captures(text).ok().flatten();
    let (_, strict) = found(capture.as_ref().and_then(|c| c.get(1)).map(|m| m.as_str()));
    let last = NUMBERS.find_iter(text).map_while(Result::ok).last();
    let (taken, flexible) = found(last.map(|m| m.as_str()));
    Worth::of([("strict", strict), ("flexible", flexible)], taken)
}

static BEHIND: LazyLock<Regex> = LazyLock::new(|| regex(r"(?<=the answer is )(.*)(?=.)"));

/// What stands behind "the answer is" in its line, but for the last character.
fn answer_is(reference: &Value, text: &str) -> Worth {
    let found = BEHIND.find(text).ok().flatten().map_or("[invalid]", |found| found.as_str());
    let taken = found.trim();
    Worth::of([("exact_match", share(reference.as_str() == Some(taken)))], taken)
}

static ARTICLES: LazyLock<Regex> = LazyLock::new(|| text::pattern(r"\b(a|an|the)\b"));

/// A text's words as SQuAD counts them: lower case, without punctuation and articles.
fn plain_words(text: &str) -> Vec<String> {
    let bare: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    text::split(&ARTICLES.replace_all(&bare, " ")).map(str::to_owned).collect()
}

fn words(text: &str, references: &[String]) -> Worth {
    let said = plain_words(text);
    let mut best = (0.0f64, 0.0f64);
    for reference in references {
        let wanted = plain_words(reference);
        best.0 = best.0.max(share(said == wanted));
        // Of SQuAD 2.0: that nothing is said can be right.
        let none = said.is_empty() && wanted.is_empty();
        best.1 = best.1.max(if none { 1.0 } else { shared(&said, &wanted) });
    }
    Worth::of([("em", best.0), ("f1", best.1)], said.join(" "))
}

/// F1 of the words that two texts have in common, each as often as both have it.
fn shared(said: &[String], wanted: &[String]) -> f64 {
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    wanted.iter().for_each(|word| *left.entry(word).or_default() += 1);
    let mut common = 0;
    for word in said {
        if let Some(n) = left.get_mut(word.as_str()).filter(|n| **n > 0) {
            *n -= 1;
            common += 1;
        }
    }
    harmonic(common, said.len(), wanted.len())
}

/// 2 p r / (p + r) of what two have in common, rounded as the official scorers round it; 0 of nothing.
fn harmonic(common: usize, of_said: usize, of_wanted: usize) -> f64 {
    if common == 0 {
        return 0.0;
    }
    let (p, r) = (common as f64 / of_said as f64, common as f64 / of_wanted as f64);
    2.0 * p * r / (p + r)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn written(scorer: Scorer, text: &str, reference: Value) -> BTreeMap<&'static str, f64> {
        let ask = Ask::Write { text: String::new(), reference };
        let (description, shots) = (String::new(), Vec::new());
        let item = Item { number: 0, row: 1, group: None, cluster: None, description, shots, ask };
        let said = Said::Written { ids: vec![], text: text.to_owned(), full: false };
        scorer.score(&item, &[said], None).unwrap().scores
    }

    #[test]
    fn numbers_are_found_strictly_and_flexibly() {
        let gold = json!("It is 1,000 + 5.\n#### 1,005");
        let of = |text: &str| written(Scorer::Number, text, gold.clone());
        assert_eq!(of("so\n#### 1005"), BTreeMap::from([("strict", 1.0), ("flexible", 1.0)]));
        assert_eq!(
            of("The answer is $1,005."),
            BTreeMap::from([("strict", 0.0), ("flexible", 1.0)])
        );
        assert_eq!(of("#### 1005 or 7"), BTreeMap::from([("strict", 1.0), ("flexible", 0.0)]));
        assert_eq!(of("none"), BTreeMap::from([("strict", 0.0), ("flexible", 0.0)]));
    }

    #[test]
    fn words_are_shared_with_the_best_reference() {
        let scores =
            written(Scorer::Words, "The  Eiffel Tower!", json!(["Paris", "eiffel tower, Paris"]));
        assert_eq!(scores["em"], 0.0);
        assert!((scores["f1"] - 0.8).abs() < 1e-12);
        assert_eq!(written(Scorer::Words, "a cat", json!("The cat."))["em"], 1.0);
        assert_eq!(written(Scorer::Match, " Paris\n", json!("Paris"))["exact_match"], 1.0);
    }

    #[test]
    fn references_are_counted_where_they_stand_and_a_given_answer_is_followed() {
        let scores = written(Scorer::Found, "Paris 12, Rome 77", json!(["12", "13"]));
        assert_eq!(scores, BTreeMap::from([("recall", 0.5)]));
        let (texts, choices) = (vec![String::new()], vec!["a".to_owned()]);
        let ask = Ask::Choose { texts, choices, gold: 0 };
        let (description, shots) = (String::new(), Vec::new());
        let item = Item { number: 0, row: 1, group: None, cluster: None, description, shots, ask };
        let said = Said::Likelihood { log_probs: vec![-0.5, -1.0], greedy: true };
        let worth = Scorer::Follow.score(&item, &[said], None).unwrap();
        assert_eq!(worth.scores, BTreeMap::from([("acc", 1.0), ("log_prob", -1.5)]));
    }

    #[test]
    fn of_equal_answers_the_first_is_taken_and_length_counts() {
        let likely = |x: f64| Said::Likelihood { log_probs: vec![x], greedy: false };
        let choices = ["a".to_owned(), "abcd".to_owned()];
        let Worth { scores, taken, .. } = choose(&choices, 1, &[likely(-1.0), likely(-2.0)]);
        assert_eq!((scores["acc"], scores["acc_norm"], taken), (0.0, 1.0, json!(0)));
        assert_eq!(choose(&choices, 0, &[likely(-1.0), likely(-1.0)]).taken, json!(0));
    }
}
