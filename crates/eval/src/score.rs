//! Answers to numbers.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use fancy_regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::item::{Ask, Item};
use crate::query::Said;

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
}

/// Counts up with each change that can move a score.
pub const VERSION: u32 = 1;

impl Scorer {
    /// The scores that it gives.
    pub fn metrics(self) -> &'static [&'static str] {
        match self {
            Scorer::Choice => &["acc", "acc_norm"],
            Scorer::Follow => &["acc", "log_prob"],
            Scorer::Number => &["strict", "flexible"],
            Scorer::Match => &["exact_match"],
            Scorer::Words => &["em", "f1"],
            Scorer::Found => &["recall"],
        }
    }

    /// Whether answers are written; else they are given.
    pub fn written(self) -> bool {
        !matches!(self, Scorer::Choice | Scorer::Follow)
    }

    /// The scores of an item, and what was taken for its answer.
    ///
    /// Panics if the answers are not those of the item's queries.
    pub fn score(self, item: &Item, said: &[Said]) -> (BTreeMap<&'static str, f64>, Value) {
        match (&item.ask, said) {
            (Ask::Choose { .. }, [Said::Likelihood { log_probs, greedy }]) => {
                let scores = [("acc", share(*greedy)), ("log_prob", log_probs.iter().sum())];
                (BTreeMap::from(scores), (*greedy).into())
            }
            (Ask::Choose { choices, gold, .. }, said) => choose(choices, *gold, said),
            (Ask::Write { reference, .. }, [Said::Written { text, .. }]) => {
                let references = texts(reference);
                match self {
                    Scorer::Number => number(text, &references),
                    Scorer::Words => words(text, &references),
                    Scorer::Found => {
                        let found = references.iter().filter(|r| text.contains(r.as_str())).count();
                        let recall = found as f64 / references.len().max(1) as f64;
                        (BTreeMap::from([("recall", recall)]), found.into())
                    }
                    Scorer::Match | Scorer::Choice | Scorer::Follow => {
                        let text = text.trim();
                        let same = references.iter().any(|reference| reference.trim() == text);
                        (BTreeMap::from([("exact_match", share(same))]), text.into())
                    }
                }
            }
            _ => panic!("score: answers of another item"),
        }
    }
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

fn choose(choices: &[String], gold: usize, said: &[Said]) -> (BTreeMap<&'static str, f64>, Value) {
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
    let scores = [("acc", share(taken == gold)), ("acc_norm", share(normed == gold))];
    (BTreeMap::from(scores), taken.into())
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

fn number(text: &str, references: &[String]) -> (BTreeMap<&'static str, f64>, Value) {
    let found = |taken: Option<&str>| {
        let taken = taken.unwrap_or("[invalid]").trim().to_owned();
        let right = references.iter().any(|reference| bare(reference) == bare(&taken));
        (taken, share(right))
    };
    let capture = STRICT.captures(text).ok().flatten();
    let (_, strict) = found(capture.as_ref().and_then(|c| c.get(1)).map(|m| m.as_str()));
    let last = NUMBERS.find_iter(text).filter_map(Result::ok).last();
    let (taken, flexible) = found(last.map(|m| m.as_str()));
    (BTreeMap::from([("strict", strict), ("flexible", flexible)]), taken.into())
}

/// A text's words as SQuAD counts them: lower case, without punctuation and articles.
fn plain_words(text: &str) -> Vec<String> {
    let bare: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let words = bare.split_whitespace().filter(|word| !["a", "an", "the"].contains(word));
    words.map(str::to_owned).collect()
}

fn words(text: &str, references: &[String]) -> (BTreeMap<&'static str, f64>, Value) {
    let said = plain_words(text);
    let mut best = (0.0f64, 0.0f64);
    for reference in references {
        let wanted = plain_words(reference);
        best.0 = best.0.max(share(said == wanted));
        best.1 = best.1.max(f1(&said, &wanted));
    }
    (BTreeMap::from([("em", best.0), ("f1", best.1)]), said.join(" ").into())
}

fn f1(said: &[String], wanted: &[String]) -> f64 {
    if said.is_empty() || wanted.is_empty() {
        return share(said == wanted);
    }
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    wanted.iter().for_each(|word| *left.entry(word).or_default() += 1);
    let mut shared = 0;
    for word in said {
        if let Some(n) = left.get_mut(word.as_str()).filter(|n| **n > 0) {
            *n -= 1;
            shared += 1;
        }
    }
    2.0 * f64::from(shared) / (said.len() + wanted.len()) as f64
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
        scorer.score(&item, &[said]).0
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
        let (scores, _) = Scorer::Follow.score(&item, &[said]);
        assert_eq!(scores, BTreeMap::from([("acc", 1.0), ("log_prob", -1.5)]));
    }

    #[test]
    fn of_equal_answers_the_first_is_taken_and_length_counts() {
        let likely = |x: f64| Said::Likelihood { log_probs: vec![x], greedy: false };
        let choices = ["a".to_owned(), "abcd".to_owned()];
        let (scores, taken) = choose(&choices, 1, &[likely(-1.0), likely(-2.0)]);
        assert_eq!((scores["acc"], scores["acc_norm"], taken), (0.0, 1.0, json!(0)));
        assert_eq!(choose(&choices, 0, &[likely(-1.0), likely(-1.0)]).1, json!(0));
    }
}
