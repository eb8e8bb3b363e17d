//! ROUGE: what a summary shares with others (Lin, 2004), as Google's `rouge_score` 0.1.2 counts it.
//!
//! ```text
//! rouge1, rouge2   n-grams in common, each as often as both have it
//! rougeL           the longest common subsequence
//! f = 2 p r / (p + r),   p = common / of the answer,   r = common / of the reference
//! ```

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{Worth, harmonic, porter};

/// What is scored.
pub const METRICS: [&str; 4] = ["rouge1", "rouge2", "rougeL", "geometric_mean"];

/// What an answer is compared with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summaries {
    texts: Vec<String>,
    /// Whether words are compared by their stems.
    #[serde(default)]
    stemmer: bool,
}

impl Summaries {
    /// Reads an object of these fields. Errors: it is none; it has no texts.
    pub fn read(reference: &Value) -> Result<Summaries, String> {
        let read: Summaries =
            serde_json::from_value(reference.clone()).map_err(|e| e.to_string())?;
        if read.texts.is_empty() {
            return Err("there is no text to compare with".to_owned());
        }
        Ok(read)
    }
}

/// The scores of an answer: each by the reference that is best for it, and their geometric mean.
pub fn score(reference: &Value, answer: &str) -> Result<Worth, String> {
    let Summaries { texts, stemmer } = Summaries::read(reference)?;
    let said = tokens(answer, stemmer);
    let mut best = [0.0f64; 3];
    for text in &texts {
        let wanted = tokens(text, stemmer);
        let own = [ngrams(&said, &wanted, 1), ngrams(&said, &wanted, 2), longest(&said, &wanted)];
        for (best, own) in best.iter_mut().zip(own) {
            *best = best.max(own);
        }
    }
    let [rouge1, rouge2, rouge_l] = best;
    let mean = (rouge1 * rouge2 * rouge_l).cbrt();
    let scores =
        [("rouge1", rouge1), ("rouge2", rouge2), ("rougeL", rouge_l), ("geometric_mean", mean)];
    Ok(Worth::of(scores, answer.trim()))
}

/// ROUGE-L of two texts.
pub fn rouge_l(answer: &str, reference: &str, stemmer: bool) -> f64 {
    longest(&tokens(answer, stemmer), &tokens(reference, stemmer))
}

/// Runs of Latin letters and digits, in small letters; those of more than three by their stems.
fn tokens(text: &str, stemmer: bool) -> Vec<String> {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit()));
    let stemmed = |word: &str| match stemmer && word.len() > 3 {
        true => porter::stem(word),
        false => word.to_owned(),
    };
    words.filter(|word| !word.is_empty()).map(stemmed).collect()
}

fn ngrams(said: &[String], wanted: &[String], n: usize) -> f64 {
    let mut left: BTreeMap<&[String], usize> = BTreeMap::new();
    wanted.windows(n).for_each(|ngram| *left.entry(ngram).or_default() += 1);
    let mut common = 0;
    for ngram in said.windows(n) {
        if let Some(times) = left.get_mut(ngram).filter(|times| **times > 0) {
            *times -= 1;
            common += 1;
        }
    }
    let all = |words: &[String]| words.windows(n).len().max(1);
    harmonic(common, all(said), all(wanted))
}

fn longest(said: &[String], wanted: &[String]) -> f64 {
    if said.is_empty() || wanted.is_empty() {
        return 0.0;
    }
    // A row of the table of common lengths, for one word of the reference after the other.
    let mut row = vec![0usize; said.len() + 1];
    for word in wanted {
        let mut corner = 0;
        for (i, own) in said.iter().enumerate() {
            let above = row[i + 1];
            row[i + 1] = if own == word { corner + 1 } else { above.max(row[i]) };
            corner = above;
        }
    }
    harmonic(row[said.len()], said.len(), wanted.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_summary_shares_words_pairs_and_order_with_the_best_reference() {
        let reference = json!({ "texts": ["The quick brown fox jumps over the lazy dog", "x"] });
        let worth = score(&reference, "The quick brown dog jumps on the log.").unwrap();
        // The example of rouge_score: 6 of 8 and 9 words in common, 5 in order, 2 of 7 and 8 pairs.
        assert!((worth.scores["rouge1"] - 12.0 / 17.0).abs() < 1e-12);
        assert!((worth.scores["rougeL"] - 10.0 / 17.0).abs() < 1e-12);
        assert!((worth.scores["rouge2"] - 4.0 / 15.0).abs() < 1e-12, "{worth:?}");
        assert_eq!(rouge_l("running dogs", "run, dog!", true), 1.0);
        assert_eq!(rouge_l("", "é", true), 0.0);
        assert!(Summaries::read(&json!({ "texts": [] })).is_err());
        assert!(Summaries::read(&json!(["a"])).is_err());
    }
}
