//! Answers to one prompt as rows of ids, the best first, and the tokens of each that count.
//!
//! With p the ids of the prompt and a(k) those of answer k with its end, row k is p a(k). The prompt never counts. Of
//! the answer its own words and calls do; the *format tokens* around them (headers, ends) only if they are asked
//! for: answers share them, so that what one is to lose the other is to gain (arXiv 2407.21783, section 4.1.4).

use std::collections::HashMap;

use herd_codec::chat::{Message, SpanKind};

use super::branch::{Mark, Standing};
use super::encode::{Answer, Encoder, Row};
use super::shape::no_dialogue;
use super::{Comparison, Strength};
use crate::Fault;

/// Which answers are compared, and which of their tokens count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compare {
    /// Which tokens count.
    pub counts: Counting,
    /// Rows whose chosen answer is better by less are left out; those that do not say stay.
    pub strength_min: Strength,
    /// An answer is left out that is as [similar](similarity) to a better one, or more.
    pub similar: f64,
}

/// Which tokens of an answer count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counting {
    /// What was said, without format tokens.
    Words,
    /// All.
    All,
    /// The last one, where a reward is read. The answers to a prompt then share it, as one document.
    End,
}

/// The rows of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// One for each answer, the best first; at least two.
    pub rows: Vec<Row>,
    /// Answers that were left out beside them.
    pub similar: u64,
    /// Ids that all rows begin with: the prompt.
    pub prompt: usize,
    /// What is known of each answer.
    pub marks: Vec<Mark>,
}

impl Encoder<'_> {
    /// The rows of the answers of a comparison.
    ///
    /// Errors: the chosen answer is hardly better, all answers are alike, the format cannot say one of them, or none of
    /// its tokens counts.
    pub fn compare(&self, comparison: &Comparison, compare: &Compare) -> Result<Compared, Fault> {
        let Comparison { prompt, answers, strength } = comparison;
        if let Some(strength) = strength.filter(|strength| *strength < compare.strength_min) {
            return Err(Fault::Weak { strength: strength.name() });
        }
        // Of three answers the best is the edited one.
        let standings = [Standing::Edited, Standing::Chosen, Standing::Rejected];
        let standings = &standings[standings.len() - answers.len()..];
        let (mut kept, mut marks): (Vec<&Message>, Vec<Mark>) = (Vec::new(), Vec::new());
        for (answer, standing) in answers.iter().zip(standings) {
            let alike = |better: &&Message| {
                better.tool_calls == answer.tool_calls
                    && similarity(&better.text(), &answer.text()) >= compare.similar
            };
            if !kept.iter().any(alike) {
                kept.push(answer);
                marks.push(Mark { standing: *standing, strength: *strength });
            }
        }
        if kept.len() < 2 {
            return Err(Fault::Similar);
        }
        let mut stem = 0;
        let row = |(k, answer): (usize, &&Message)| {
            let mut dialogue = prompt.clone();
            dialogue.messages.push((*answer).clone());
            let Answer { ids, origins, at, .. } = self.answer(&dialogue, prompt.messages.len())?;
            stem = at.start;
            let counts = |i: usize| match compare.counts {
                Counting::Words => !is_format(origins[i].kind),
                Counting::All => true,
                Counting::End => i + 1 == at.end,
            };
            let weight = |i: usize| if at.contains(&i) && counts(i) { 1.0 } else { 0.0 };
            let weights: Vec<f32> = (0..ids.len()).map(weight).collect();
            match weights.iter().any(|weight| *weight > 0.0) {
                true => Ok(Row { ids, weights, origins }),
                false => Err(no_dialogue(format!("answer {} is empty", k + 1))),
            }
        };
        let rows: Vec<Row> = kept.iter().enumerate().map(row).collect::<Result<_, _>>()?;
        let similar = (answers.len() - rows.len()) as u64;
        Ok(Compared { similar, rows, prompt: stem, marks })
    }
}

/// Whether a token is of the format, rather than of what was said.
fn is_format(kind: SpanKind) -> bool {
    match kind {
        SpanKind::Frame | SpanKind::Header | SpanKind::Preamble | SpanKind::End => true,
        SpanKind::Content | SpanKind::Call => false,
    }
}

/// The share of pairs of neighbouring words that two texts have in common, 0 to 1, their ends counted as words.
///
/// 2 |A and B| / (|A| + |B|) of the multisets A, B of pairs (Dice).
///
/// ```
/// use herd_data::dialogue::similarity;
/// assert_eq!(similarity("It is Rome.", " It is\nRome. "), 1.0);
/// assert_eq!(similarity("It is Rome.", "It is Paris."), 0.5);
/// ```
pub fn similarity(a: &str, b: &str) -> f64 {
    let pairs = |text: &str| -> Vec<(String, String)> {
        let ends = [""].into_iter();
        let words: Vec<&str> = ends.clone().chain(text.split_whitespace()).chain(ends).collect();
        words.windows(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect()
    };
    let (a, b) = (pairs(a), pairs(b));
    let all = (a.len() + b.len()) as f64;
    let mut left: HashMap<(String, String), usize> = HashMap::new();
    for pair in a {
        *left.entry(pair).or_default() += 1;
    }
    let mut common = 0;
    for pair in b {
        if let Some(n) = left.get_mut(&pair).filter(|n| **n > 0) {
            *n -= 1;
            common += 1;
        }
    }
    2.0 * f64::from(common) / all
}

impl Strength {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Strength::MarginallyBetter => "marginally_better",
            Strength::SlightlyBetter => "slightly_better",
            Strength::Better => "better",
            Strength::SignificantlyBetter => "significantly_better",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_as_similar_as_their_pairs_of_words() {
        for (a, b, expected) in [
            ("", "", 1.0),
            ("a", "a", 1.0),
            ("a", "b", 0.0),
            ("a", "", 0.0),
            ("a b c d", "a b x d", 0.6), // (, a) (a, b) (d, ) of five each
            ("a a a", "a a", 6.0 / 7.0),
        ] {
            assert_eq!(similarity(a, b), expected, "{a:?} {b:?}");
            assert_eq!(similarity(b, a), expected);
        }
    }
}
