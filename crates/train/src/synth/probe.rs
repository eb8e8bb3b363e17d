//! Knowledge probing (arXiv 2407.21783, section 4.3.6): a model is taught to say what it knows, and to refuse what it keeps getting wrong.
//!
//! ```text
//! snippet -> question -> K answers without the snippet -> right? informative?
//!     often right                    -> a right, informative answer is a row
//!     informative and nearly always wrong -> a refusal is the row
//! ```
//!
//! Both are shares of the answers that were judged, and those must be more than half of the K.

use crate::error::TrainError;
use crate::synth::items::{Item, snippet};
use crate::synth::read::verdict;
use crate::synth::{Harvest, Shelf, fall, said, say};
use crate::writer::desk::{Ask, Desk, Made, fault, reject};
use crate::writer::prompts::Default;
use crate::writer::{between, within};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Settings of `probe`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeConfig {
    /// Bytes of a snippet, in whole lines.
    pub snippet_bytes: usize,
    /// Answers to a question.
    pub k: usize,
    /// The share of answers that must be right for one of them to be learnt.
    pub right_min: f64,
    /// The share of right answers up to which a question is refused.
    pub refuse_max: f64,
    /// The share of answers that must be informative for a question to be refused: who says nothing needs no refusal.
    pub informative_min: f64,
}

/// What the writer is asked.
pub(super) const PROMPTS: &[Default] = &[
    Default {
        step: "question",
        names: &["snippet"],
        text: "Here is a piece of text:\n\n{{ snippet }}\n\nWrite one factual question that this text answers. Someone who has never seen \
               the text must understand it, so name what it is about. Write the question alone.",
    },
    Default { step: "answer", names: &["question"], text: "{{ question }}" },
    Default {
        step: "right",
        names: &["snippet", "question", "answer"],
        text: "Text:\n{{ snippet }}\n\nQuestion: {{ question }}\nAnswer: {{ answer }}\n\nJudged by the text alone, is the answer right? \
               End with `Verdict: yes` or `Verdict: no`.",
    },
    Default {
        step: "informative",
        names: &["question", "answer"],
        text: "Question: {{ question }}\nAnswer: {{ answer }}\n\nDoes the answer, true or not, say something definite about what was asked, \
               rather than evade it or decline? End with `Verdict: yes` or `Verdict: no`.",
    },
    Default {
        step: "refusal",
        names: &["question"],
        text: "Question: {{ question }}\n\nYou do not know the answer. Say so in one or two friendly sentences, without guessing and without \
               an answer.",
    },
];

impl ProbeConfig {
    pub(super) fn base() -> ProbeConfig {
        let (right_min, refuse_max, informative_min) = (0.5, 0.0, 0.75);
        ProbeConfig { snippet_bytes: 1500, k: 4, right_min, refuse_max, informative_min }
    }

    pub(super) fn check(&self) -> Result<(), TrainError> {
        between("probe.snippet_bytes", self.snippet_bytes as u64, 16, 1 << 20)?;
        between("probe.k", self.k as u64, 1, 1024)?;
        within("probe.right_min", self.right_min, 0.0, 1.0)?;
        within("probe.refuse_max", self.refuse_max, 0.0, 1.0)?;
        within("probe.informative_min", self.informative_min, 0.0, 1.0)?;
        if self.refuse_max < self.right_min {
            return Ok(());
        }
        let value = format!("{} of {}", self.refuse_max, self.right_min);
        Err(TrainError::no("probe.refuse_max", value, "less than probe.right_min"))
    }
}

/// An answer and its verdicts.
struct Judged {
    text: String,
    right: bool,
    informative: bool,
}

pub(super) fn work(desk: &mut Desk<'_>, shelf: &Shelf<'_>, item: &Item) -> Made<Harvest> {
    let config = shelf.config.probe.as_ref().expect("the settings of its kind");
    let snippet = snippet(&item.text, config.snippet_bytes, desk.draw("snippet"));
    let question = desk.say("question", json!({ "snippet": snippet }))?;
    if !question.contains('?') {
        return reject("question", "no_question", question);
    }
    desk.passed("question");
    let ask = Ask { n: config.k, ..Ask::one("answer", json!({ "question": question })) };
    let given = desk.ask(vec![ask])?.remove(0);
    let (mut harvest, mut answers) = (Harvest::default(), Vec::new());
    for answer in given {
        match fault(&answer) {
            None => {
                desk.passed("answer");
                answers.push(answer.text.trim().to_owned());
            }
            Some(reason) => fall(desk, &mut harvest, "answer", reason, answer.text),
        }
    }
    let judged = judge(desk, &mut harvest, snippet, &question, answers)?;
    // Shares of few answers say little: of one that is wrong all are.
    if judged.len() * 2 <= config.k {
        fall(desk, &mut harvest, "probe", "few_answers", question);
        return Ok(harvest);
    }
    let share = |count: usize| count as f64 / judged.len() as f64;
    let right = share(judged.iter().filter(|a| a.right).count());
    let informative = share(judged.iter().filter(|a| a.informative).count());
    let shows = judged.iter().find(|a| a.right && a.informative);
    let found = if right >= config.right_min {
        shows.map(|answer| (answer.text.clone(), "known")).ok_or("uninformative")
    } else if right > config.refuse_max {
        Err("mixed")
    } else if informative < config.informative_min {
        Err("uninformative")
    } else {
        let with = json!({ "question": question });
        let Some(text) = say(desk, &mut harvest, "refusal", with)? else { return Ok(harvest) };
        Ok((text, "refused"))
    };
    let (text, told) = match found {
        Ok(found) => found,
        Err(reason) => {
            fall(desk, &mut harvest, "probe", reason, question);
            return Ok(harvest);
        }
    };
    desk.passed("probe");
    let messages = [said("user", &question), said("assistant", &text)];
    let shares = json!({ "right": right, "informative": informative, "answers": judged.len() });
    harvest.rows.push(json!({ "messages": messages, "probe": shares }));
    harvest.told.push(told);
    Ok(harvest)
}

/// Both verdicts on each answer; answers without two are left out.
fn judge(
    desk: &mut Desk<'_>,
    harvest: &mut Harvest,
    snippet: &str,
    question: &str,
    answers: Vec<String>,
) -> Made<Vec<Judged>> {
    let with =
        |answer: &String| json!({ "snippet": snippet, "question": question, "answer": answer });
    let bare = |answer: &String| json!({ "question": question, "answer": answer });
    let mut asks: Vec<Ask> = answers.iter().map(|a| Ask::verdict("right", with(a))).collect();
    asks.extend(answers.iter().map(|a| Ask::verdict("informative", bare(a))));
    let said = desk.ask(asks)?;
    let verdicts: Vec<Option<bool>> = said.iter().map(|said| verdict(&said[0].text)).collect();
    let (right, informative) = verdicts.split_at(answers.len());
    let mut judged = Vec::new();
    for (text, both) in answers.into_iter().zip(right.iter().zip(informative)) {
        match both {
            (Some(right), Some(informative)) => {
                desk.passed("judge");
                judged.push(Judged { text, right: *right, informative: *informative });
            }
            (None, _) | (_, None) => fall(desk, harvest, "judge", "no_verdict", text),
        }
    }
    Ok(judged)
}
