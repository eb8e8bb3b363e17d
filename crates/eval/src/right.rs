//! How likely a model finds right answers: nats a character, what a forecast of accuracy starts from (arXiv 2407.21783, section
//! 3.2.1).

use serde::{Deserialize, Serialize};

use crate::item::{Ask, Item};
use crate::suite::Receipt;

/// What a model made of the right answers of a task of choices.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Right {
    /// Mean over items of the right answer's nats a character.
    pub nll_per_char: f64,
    /// The mean of one over the answers to choose from.
    pub chance: f64,
    /// Items.
    pub n: usize,
}

/// Of a task's items and their receipts; `None` where answers are written, or there are none.
///
/// ```text
/// x = (1 / n) sum over items of  -(sum over t of ln p(a_t | question, a_1 .. a_t-1)) / characters of a,   a the right answer
/// ```
pub fn right(items: &[Item], receipts: &[Receipt]) -> Option<Right> {
    let one = |(item, receipt): (&Item, &Receipt)| {
        let Ask::Choose { texts, choices, gold } = &item.ask else { return None };
        let answer = &choices[if choices.len() == 1 { 0 } else { *gold }];
        let log_probs = receipt.answers.get(*gold)?.log_probs.as_ref()?;
        let characters = answer.chars().count().max(1) as f64;
        let nats = -log_probs.iter().sum::<f64>();
        Some((nats / characters, 1.0 / texts.len().max(choices.len()) as f64))
    };
    let all: Vec<(f64, f64)> = items.iter().zip(receipts).map(one).collect::<Option<_>>()?;
    let n = all.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| all.iter().map(of).sum::<f64>() / n;
    (!all.is_empty()).then(|| Right {
        nll_per_char: mean(|x| x.0),
        chance: mean(|x| x.1),
        n: all.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::Answer;
    use serde_json::json;
    use std::collections::BTreeMap;

    #[test]
    fn the_right_answer_counts_by_its_characters() {
        let item = |gold: usize| Item {
            number: 0,
            row: 1,
            group: None,
            cluster: None,
            description: String::new(),
            shots: vec![],
            ask: Ask::Choose {
                texts: vec!["q".into()],
                choices: vec!["ab".into(), "abcde".into()],
                gold,
            },
        };
        let answer = |nats: f64| Answer {
            prompt: 0,
            ids: vec![1, 2],
            log_probs: Some(vec![-nats, -nats]),
            greedy: Some(false),
            text: None,
            full: None,
        };
        let receipt = Receipt {
            item: 0,
            row: 1,
            group: None,
            cluster: None,
            by: String::new(),
            prompts: vec![],
            answers: vec![answer(1.0), answer(5.0)],
            cut: 0,
            taken: json!(0),
            gold: json!(0),
            scores: BTreeMap::new(),
            parts: BTreeMap::new(),
            ended: vec![],
        };
        let two = [receipt.clone(), receipt.clone()];
        let found = right(&[item(0), item(1)], &two).unwrap();
        assert_eq!((found.nll_per_char, found.chance, found.n), (1.5, 0.5, 2));
        let written = Ask::Write { text: String::new(), reference: json!("a") };
        assert!(right(&[Item { ask: written, ..item(0) }], &two).is_none());
        assert!(right(&[], &[]).is_none());
    }
}
