//! Answers to one prompt as one document that branches: the prompt once, then each answer, in random order.
//!
//! ```text
//! sequences   prompt | an answer | another one | .. z
//! weights     0 .. 0   0 0 .. 0    m 0 .. 0      m    m: the mark of the answer that ends before it
//! ```
//!
//! The last place of an answer, its end, is where its reward is read, so it must be an input: the token z, which is
//! never one, stands behind the last answer. What its target weighs says what the answer is. No place of a document
//! but these has a weight.

use herd_codec::TokenId;

use super::Strength;
use super::compare::Compared;
use crate::shuffle::permute;

/// What people made of an answer; later ones are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Another one was preferred.
    Rejected,
    /// It was preferred.
    Chosen,
    /// The chosen one, made better by hand.
    Edited,
}

/// What is known of an answer among those to its prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// What people made of it.
    pub standing: Standing,
    /// By how much the chosen answer is better than the rejected one, where it is known.
    pub strength: Option<Strength>,
}

const STANDINGS: [Standing; 3] = [Standing::Rejected, Standing::Chosen, Standing::Edited];
const STRENGTHS: [Option<Strength>; 5] = [
    None,
    Some(Strength::MarginallyBetter),
    Some(Strength::SlightlyBetter),
    Some(Strength::Better),
    Some(Strength::SignificantlyBetter),
];

impl Mark {
    /// The mark as a weight in a shard: 1 and up.
    pub fn weight(self) -> f32 {
        let place = |found: Option<usize>| found.expect("the tables have all of them") as u8;
        let standing = place(STANDINGS.iter().position(|standing| *standing == self.standing));
        let strength = place(STRENGTHS.iter().position(|strength| *strength == self.strength));
        f32::from(1 + standing + 3 * strength)
    }

    /// The mark that a weight stands for, if it is one.
    pub fn of_weight(weight: f32) -> Option<Mark> {
        let marks = STRENGTHS.iter().flat_map(|strength| {
            STANDINGS.iter().map(|standing| Mark { standing: *standing, strength: *strength })
        });
        marks.into_iter().find(|mark| mark.weight() == weight)
    }
}

/// A sequence of a document that branches: its ids, and the weight of each as a target.
pub(crate) struct Part {
    pub ids: Vec<TokenId>,
    pub weights: Vec<f32>,
}

impl Compared {
    /// The sequences of a document, the prompt first; `key` orders the answers.
    pub(crate) fn branch(&self, key: u64) -> Vec<Part> {
        let n = self.rows.len() as u64;
        let order = (0..n).map(|i| permute(i, n, key) as usize);
        let stem = self.rows[0].ids[..self.prompt].to_vec();
        let mut parts = vec![Part { weights: vec![0.0; stem.len()], ids: stem }];
        let mut before = 0.0;
        for k in order {
            let ids = self.rows[k].ids[self.prompt..].to_vec();
            let mut weights = vec![0.0; ids.len()];
            weights[0] = std::mem::replace(&mut before, self.marks[k].weight());
            parts.push(Part { ids, weights });
        }
        let last = parts.last_mut().expect("the prompt is there");
        last.ids.push(*last.ids.last().expect("an answer has an end"));
        last.weights.push(before);
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_weights_and_weights_are_marks() {
        let mut seen = Vec::new();
        for strength in STRENGTHS {
            for standing in STANDINGS {
                let mark = Mark { standing, strength };
                assert_eq!(Mark::of_weight(mark.weight()), Some(mark));
                seen.push(mark.weight());
            }
        }
        seen.dedup();
        assert_eq!(seen.len(), 15);
        for none in [0.0, 0.5, 16.0, -1.0, f32::NAN] {
            assert_eq!(Mark::of_weight(none), None);
        }
        assert!(Standing::Edited > Standing::Chosen && Standing::Chosen > Standing::Rejected);
    }
}
