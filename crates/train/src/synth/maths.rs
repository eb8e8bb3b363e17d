//! Step-by-step solutions (arXiv 2407.21783, section 4.3.3): kept by their final answer, by the arithmetic in their steps, and by the
//! writer's own second look; wrong ones may be corrected.

use crate::error::TrainError;
use crate::rejection::{last_number, near};
use crate::synth::arithmetic::check;
use crate::synth::items::Item;
use crate::synth::read::verdict;
use crate::synth::steps;
use crate::synth::{Harvest, Shelf, fall, said, unlearnt};
use crate::writer::between;
use crate::writer::desk::{Ask, Desk, Made, fault};
use crate::writer::prompts::Default;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Settings of `maths`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MathsConfig {
    /// The field of a row that holds the right answer; dots lead into objects and lists.
    pub answer: String,
    /// Solutions of a problem: drawn from the least to the most.
    pub k: [usize; 2],
    /// Solutions of a problem that are kept at most.
    pub keep: usize,
    /// Whether every sum that is written out must be right.
    pub steps: bool,
    /// Whether the judge looks over a solution again.
    pub verify: bool,
    /// Whether the judge must find every step right, each by itself. `maths-steps` makes the rows that teach it.
    pub stepwise: bool,
    /// Wrong solutions of a problem that are corrected at most.
    pub mistakes: usize,
}

/// What the writer is asked.
pub(super) const PROMPTS: &[Default] = &[
    Default {
        step: "solve",
        names: &["problem"],
        text: "{{ problem }}\n\nSolve this step by step. Write out every calculation as an equation. End with a line `#### ANSWER` that \
               holds the final number alone.",
    },
    Default {
        step: "verify",
        names: &["problem", "solution"],
        text: "Problem:\n{{ problem }}\n\nSolution:\n{{ solution }}\n\nIs every step of this solution valid and its answer right? Think, \
               then end with `Verdict: yes` or `Verdict: no`.",
    },
    steps::STEP,
    Default {
        step: "correct",
        names: &["problem", "solution"],
        text: "Problem:\n{{ problem }}\n\nA solution that is wrong:\n{{ solution }}\n\nFind the first mistake, say what it is, and solve the \
               problem again step by step. End with a line `#### ANSWER` that holds the final number alone.",
    },
];

/// What a user says to a wrong solution, in rows that learn from mistakes.
const WRONG: &str = "That is not right. Find your mistake and solve it again.";

impl MathsConfig {
    pub(super) fn base() -> MathsConfig {
        let (answer, k) = ("answer".to_owned(), [4, 8]);
        MathsConfig { answer, k, keep: 4, steps: true, verify: true, stepwise: false, mistakes: 0 }
    }

    pub(super) fn check(&self) -> Result<(), TrainError> {
        let [least, most] = self.k;
        if !(1 <= least && least <= most && most <= 1024) {
            let expected = "[least, most] of 1 to 1024";
            return Err(TrainError::no("maths.k", format!("[{least}, {most}]"), expected));
        }
        between("maths.keep", self.keep as u64, 0, 1024)?;
        between("maths.mistakes", self.mistakes as u64, 0, 1024)
    }
}

pub(super) fn work(desk: &mut Desk<'_>, shelf: &Shelf<'_>, item: &Item) -> Made<Harvest> {
    let config = shelf.config.maths.as_ref().expect("the settings of its kind");
    let wanted = steps::wanted(item, &config.answer)?;
    let problem = &item.text;
    let [least, most] = config.k.map(|k| k as u64);
    let n = (least + desk.draw("k") % (most - least + 1)) as usize;
    let solve = Ask { n, ..Ask::one("solve", json!({ "problem": problem })) };
    let said = desk.ask(vec![solve])?.remove(0);
    let mut harvest = Harvest::default();
    let (mut good, mut mistaken): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    for answer in said {
        let text = answer.text.trim().to_owned();
        let reason = fault(&answer).or_else(|| wrong(&text, wanted, config));
        match reason {
            None if good.contains(&text) => fall(desk, &mut harvest, "solve", "duplicate", text),
            None => {
                desk.passed("solve");
                good.push(text);
            }
            Some(reason) => {
                if reason == "answer" && !mistaken.contains(&text) {
                    mistaken.push(text.clone());
                }
                fall(desk, &mut harvest, "solve", reason, text);
            }
        }
    }
    let solved = good.into_iter().map(|text| Solved { mistake: None, text }).collect();
    let mut good = checked(desk, &mut harvest, config, problem, solved)?;
    let more = good.len().saturating_sub(config.keep);
    for solved in good.drain(good.len() - more..) {
        fall(desk, &mut harvest, "keep", "enough", solved.text);
    }
    harvest.rows.extend(good.iter().map(|solved| row(problem, solved)));
    mistaken.truncate(config.mistakes);
    let asks = mistaken
        .iter()
        .map(|wrong| Ask::one("correct", json!({ "problem": problem, "solution": wrong })));
    let said = desk.ask(asks.collect())?;
    let mut corrected = Vec::new();
    for (first, mut said) in mistaken.into_iter().zip(said) {
        let answer = said.remove(0);
        let text = answer.text.trim().to_owned();
        match fault(&answer).or_else(|| wrong(&text, wanted, config)) {
            None => {
                desk.passed("correct");
                corrected.push(Solved { mistake: Some(first), text });
            }
            Some(reason) => fall(desk, &mut harvest, "correct", reason, text),
        }
    }
    for solved in checked(desk, &mut harvest, config, problem, corrected)? {
        harvest.told.push("corrected");
        harvest.rows.push(row(problem, &solved));
    }
    Ok(harvest)
}

/// A solution with the right answer, and the wrong one that it corrects, if any.
struct Solved {
    mistake: Option<String>,
    text: String,
}

/// Those of some solutions that a judge lets through, as the settings want it asked.
fn checked(
    desk: &mut Desk<'_>,
    harvest: &mut Harvest,
    config: &MathsConfig,
    problem: &str,
    mut good: Vec<Solved>,
) -> Made<Vec<Solved>> {
    if config.verify {
        good = verified(desk, harvest, problem, good)?;
    }
    if config.stepwise {
        good = stepwise(desk, harvest, problem, good)?;
    }
    Ok(good)
}

/// Those of some solutions that the writer finds right at a second look.
fn verified(
    desk: &mut Desk<'_>,
    harvest: &mut Harvest,
    problem: &str,
    good: Vec<Solved>,
) -> Made<Vec<Solved>> {
    let with = good.iter().map(|s| json!({ "problem": problem, "solution": s.text })).collect();
    let verdicts = desk.verdicts("verify", with)?;
    let mut kept = Vec::new();
    for (solved, said) in good.into_iter().zip(verdicts) {
        match said.as_deref().and_then(verdict) {
            Some(true) => {
                desk.passed("verify");
                kept.push(solved);
            }
            Some(false) => fall(desk, harvest, "verify", "no", solved.text),
            None => fall(desk, harvest, "verify", "no_verdict", solved.text),
        }
    }
    Ok(kept)
}

/// Those of some solutions of which the judge finds every step right.
fn stepwise(
    desk: &mut Desk<'_>,
    harvest: &mut Harvest,
    problem: &str,
    good: Vec<Solved>,
) -> Made<Vec<Solved>> {
    let of = |solved: &Solved| -> Vec<Value> {
        let steps = steps::steps(&solved.text);
        (0..steps.len()).map(|i| steps::asked(problem, &steps[..i], &steps[i])).collect()
    };
    let with: Vec<Vec<Value>> = good.iter().map(of).collect();
    let counts: Vec<usize> = with.iter().map(Vec::len).collect();
    let mut said = desk.verdicts("step", with.into_iter().flatten().collect())?.into_iter();
    let mut kept = Vec::new();
    for (solved, count) in good.into_iter().zip(counts) {
        let verdicts: Vec<Option<bool>> =
            said.by_ref().take(count).map(|said| said.as_deref().and_then(verdict)).collect();
        if verdicts.contains(&Some(false)) {
            fall(desk, harvest, "stepwise", "no", solved.text);
        } else if verdicts.contains(&None) {
            fall(desk, harvest, "stepwise", "no_verdict", solved.text);
        } else {
            desk.passed("stepwise");
            kept.push(solved);
        }
    }
    Ok(kept)
}

/// Why a solution is not right.
fn wrong(text: &str, wanted: f64, config: &MathsConfig) -> Option<&'static str> {
    match last_number(text) {
        None => Some("no_answer"),
        Some(number) if !near(number, wanted) => Some("answer"),
        Some(_) if config.steps && check(text).1.is_some() => Some("step"),
        Some(_) => None,
    }
}

fn row(problem: &str, solved: &Solved) -> Value {
    let mut messages = vec![said("user", problem)];
    let mistake = solved.mistake.iter();
    messages.extend(mistake.flat_map(|text| [unlearnt(text), said("user", WRONG)]));
    messages.push(said("assistant", &solved.text));
    json!({ "messages": messages })
}
