//! Back-translation (arXiv 2407.21783, section 4.3.1): a snippet is explained, made again from the explanation alone, and held against the original.
//!
//! What can be rebuilt from an explanation was well explained. The best of K is kept, if its mark is high enough.

use crate::error::TrainError;
use crate::synth::items::{Item, snippet};
use crate::synth::read::{fences, mark};
use crate::synth::{Harvest, Shelf, fall, said};
use crate::writer::between;
use crate::writer::desk::{Ask, Desk, Made, fault, reject};
use crate::writer::prompts::Default;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Settings of `backtranslate`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BacktranslateConfig {
    /// Bytes of a snippet, in whole lines.
    pub snippet_bytes: usize,
    /// How often it is made again.
    pub k: usize,
    /// The least mark, of five.
    pub score_min: u32,
    /// Whether a row explains the snippet.
    pub explanation: bool,
    /// Whether a row makes the code from its explanation.
    pub generation: bool,
}

/// What the writer is asked.
pub(super) const PROMPTS: &[Default] = &[
    Default {
        step: "explain",
        names: &["snippet"],
        text: "```\n{{ snippet }}\n```\n\nExplain what this code does, so precisely that another programmer could write it again from your words \
               alone. Name its language, its inputs and outputs, and edge cases. Quote no code.",
    },
    Default {
        step: "create",
        names: &["explanation"],
        text: "{{ explanation }}\n\nWrite the code that this describes, in one ``` block.",
    },
    Default {
        step: "fidelity",
        names: &["snippet", "code"],
        text: "Original:\n```\n{{ snippet }}\n```\n\nWritten again from a description:\n```\n{{ code }}\n```\n\nHow faithful is the second to what \
               the first does, from 0 (something else) to 5 (the same)? End with `Score: N`.",
    },
    Default {
        step: "ask_explain",
        names: &["snippet"],
        text: "Explain what this code does.\n\n```\n{{ snippet }}\n```",
    },
];

impl BacktranslateConfig {
    pub(super) fn base() -> BacktranslateConfig {
        let (explanation, generation) = (true, true);
        BacktranslateConfig { snippet_bytes: 1500, k: 4, score_min: 4, explanation, generation }
    }

    pub(super) fn check(&self) -> Result<(), TrainError> {
        between("backtranslate.snippet_bytes", self.snippet_bytes as u64, 16, 1 << 20)?;
        between("backtranslate.k", self.k as u64, 1, 1024)?;
        between("backtranslate.score_min", self.score_min.into(), 0, 5)?;
        if self.explanation || self.generation {
            return Ok(());
        }
        let expected = "true, or backtranslate.explanation";
        Err(TrainError::no("backtranslate.generation", false, expected))
    }
}

pub(super) fn work(desk: &mut Desk<'_>, shelf: &Shelf<'_>, item: &Item) -> Made<Harvest> {
    let config = shelf.config.backtranslate.as_ref().expect("the settings of its kind");
    let snippet = snippet(&item.text, config.snippet_bytes, desk.draw("snippet"));
    let explanation = desk.say("explain", json!({ "snippet": snippet }))?;
    if explanation.contains("```") {
        return reject("explain", "quotes_code", explanation);
    }
    desk.passed("explain");
    let create = Ask::one("create", json!({ "explanation": explanation }));
    let (mut harvest, mut made) = (Harvest::default(), Vec::new());
    for answer in desk.ask(vec![Ask { n: config.k, ..create }])?.remove(0) {
        let code = fences(&answer.text).into_iter().next();
        match (fault(&answer), code) {
            (None, Some(code)) => {
                desk.passed("create");
                made.push((answer.text.trim().to_owned(), code));
            }
            (Some(reason), _) => fall(desk, &mut harvest, "create", reason, answer.text),
            (None, None) => fall(desk, &mut harvest, "create", "no_code", answer.text),
        }
    }
    let with = made.iter().map(|(_, code)| json!({ "snippet": snippet, "code": code })).collect();
    let mut best: Option<(u32, String)> = None;
    for ((answer, _), said) in made.into_iter().zip(desk.verdicts("fidelity", with)?) {
        let score = said.as_deref().and_then(|text| mark(text, "score", 5));
        match score {
            None => fall(desk, &mut harvest, "fidelity", "no_verdict", answer),
            Some(score) if score < config.score_min => {
                fall(desk, &mut harvest, "fidelity", "low", answer)
            }
            Some(score) => {
                desk.passed("fidelity");
                if best.as_ref().is_none_or(|(most, _)| score > *most) {
                    best = Some((score, answer));
                }
            }
        }
    }
    let Some((score, answer)) = best else { return Ok(harvest) };
    let mut add = |asked: &str, answer: &str, told| {
        let messages = [said("user", asked), said("assistant", answer)];
        harvest.rows.push(json!({ "messages": messages, "fidelity": score }));
        harvest.told.push(told);
    };
    if config.explanation {
        let asked = desk.room.prompts.render("ask_explain", &json!({ "snippet": snippet }))?;
        add(&asked, &explanation, "explanations");
    }
    if config.generation {
        let asked = desk.room.prompts.render("create", &json!({ "explanation": explanation }))?;
        add(&asked, &answer, "generations");
    }
    Ok(harvest)
}
