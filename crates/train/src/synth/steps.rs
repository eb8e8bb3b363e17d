//! Labels for the steps of solutions (arXiv 2407.21783, section 4.3.3; the labels as in Math-Shepherd, arXiv 2312.08935).
//!
//! ```text
//! problem -> solutions -> their prefixes, each once -> N completions of each
//! share(prefix) = completions that reach the right answer / N;   of a whole solution: 1 if its answer is right, else 0
//! rows: problem, steps, "is the last one right?" -> yes where the share says so       a stepwise judge learns from them
//!       problem -> a solution with the right answer whose least share is high enough
//! ```
//!
//! A step is a line. No judge is asked: what counts is where a step leads.

use crate::error::TrainError;
use crate::rejection::{field_text, last_number, near};
use crate::synth::items::Item;
use crate::synth::{Harvest, Shelf, fall, said};
use crate::writer::desk::{Ask, Desk, Made, fault, reject};
use crate::writer::prompts::Default;
use crate::writer::{Said, between, within};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Settings of `maths-steps`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepsConfig {
    /// The field of a row that holds the right answer; dots lead into objects and lists.
    pub answer: String,
    /// Solutions of a problem.
    pub k: usize,
    /// Completions of a prefix.
    pub rollouts: usize,
    /// Steps of a solution at most.
    pub steps_max: usize,
    /// Whether rows ask for a verdict on each step.
    pub labels: bool,
    /// The share from which on a step is right; of 0 any completion with the right answer will do.
    pub right_min: f64,
    /// Whether rows are solutions.
    pub solutions: bool,
    /// The least share that a step of such a solution may have.
    pub least_min: f64,
    /// Solutions of a problem that are rows at most.
    pub keep: usize,
}

/// The words by which a stepwise judge is asked: the rows that it learns from have the same.
pub(super) const STEP: Default = Default {
    step: "step",
    names: &["problem", "steps", "step"],
    text: "Problem:\n{{ problem }}\n\nThe solution so far:\n{% for step in steps %}{{ step }}\n{% else %}(nothing)\n{% endfor %}\n\nThe next step:\n{{ step }}\n\nIs this step right, and \
           does it lead to the answer? End with `Verdict: yes` or `Verdict: no`.",
};

/// What the writer is asked to begin with.
pub(super) const SOLVE: Default = Default {
    step: "solve",
    names: &["problem"],
    text: "{{ problem }}\n\nSolve this step by step, one step a line. Write out every calculation as an equation. End with a line \
           `#### ANSWER` that holds the final number alone.",
};

/// What the writer is asked.
pub(super) const PROMPTS: &[Default] = &[
    SOLVE,
    Default {
        step: "go_on",
        names: &["problem", "steps"],
        text: "{{ problem }}\n\nA solution begins:\n{% for step in steps %}{{ step }}\n{% endfor %}\nGo on from there, one step a line, without repeating \
               what is written. End with a line `#### ANSWER` that holds the final number alone.",
    },
    STEP,
];

impl StepsConfig {
    pub(super) fn base() -> StepsConfig {
        let (answer, labels, solutions) = ("answer".to_owned(), true, true);
        let (k, rollouts, steps_max, keep) = (4, 8, 16, 4);
        let (right_min, least_min) = (0.0, 0.5);
        StepsConfig {
            answer,
            k,
            rollouts,
            steps_max,
            labels,
            right_min,
            solutions,
            least_min,
            keep,
        }
    }

    pub(super) fn check(&self) -> Result<(), TrainError> {
        between("steps.k", self.k as u64, 1, 1024)?;
        between("steps.rollouts", self.rollouts as u64, 1, 1024)?;
        between("steps.steps_max", self.steps_max as u64, 1, 256)?;
        between("steps.keep", self.keep as u64, 0, 1024)?;
        within("steps.right_min", self.right_min, 0.0, 1.0)?;
        within("steps.least_min", self.least_min, 0.0, 1.0)?;
        if self.labels || self.solutions {
            return Ok(());
        }
        Err(TrainError::no("steps.labels", false, "true, or steps.solutions"))
    }
}

/// The shares of prefixes, by their steps.
type Shares = BTreeMap<Vec<String>, f64>;

pub(super) fn work(desk: &mut Desk<'_>, shelf: &Shelf<'_>, item: &Item) -> Made<Harvest> {
    let config = shelf.config.steps.as_ref().expect("the settings of its kind");
    let problem = &item.text;
    let wanted = wanted(item, &config.answer)?;
    let solve = Ask { n: config.k, ..Ask::one("solve", json!({ "problem": problem })) };
    let said = desk.ask(vec![solve])?.remove(0);
    let (mut harvest, mut solutions) = (Harvest::default(), Vec::new());
    for answer in said {
        let steps = steps(&answer.text);
        let reason = match fault(&answer) {
            Some(reason) => Some(reason),
            None if last_number(&answer.text).is_none() => Some("no_answer"),
            None if steps.len() > config.steps_max => Some("long"),
            None if solutions.contains(&steps) => Some("duplicate"),
            None => None,
        };
        match reason {
            Some(reason) => fall(desk, &mut harvest, "solve", reason, answer.text),
            None => {
                desk.passed("solve");
                solutions.push(steps);
            }
        }
    }
    let shares = shares(desk, config, problem, wanted, &solutions)?;
    if config.labels {
        label(desk, config, &mut harvest, problem, &shares)?;
    }
    if config.solutions {
        keep(desk, config, &mut harvest, problem, (&solutions, &shares));
    }
    Ok(harvest)
}

/// The number that a problem is to come to.
pub(super) fn wanted(item: &Item, field: &str) -> Made<f64> {
    let wanted = field_text(&item.value, field);
    match wanted.as_deref().and_then(last_number) {
        Some(wanted) => Ok(wanted),
        None => reject("problem", "no_number", item.value.clone()),
    }
}

/// The lines of a solution that hold something; one that is the answer alone belongs to the step before it.
pub(super) fn steps(text: &str) -> Vec<String> {
    let mut steps: Vec<String> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match steps.last_mut() {
            Some(last) if line.starts_with("####") => *last += &format!("\n{line}"),
            Some(_) | None => steps.push(line.to_owned()),
        }
    }
    steps
}

/// Whether a text ends in the right number.
fn is_right(text: &str, wanted: f64) -> bool {
    last_number(text).is_some_and(|number| near(number, wanted))
}

/// Where each prefix leads; those that solutions share are gone on from once.
fn shares(
    desk: &mut Desk<'_>,
    config: &StepsConfig,
    problem: &str,
    wanted: f64,
    solutions: &[Vec<String>],
) -> Made<Shares> {
    let mut shares = Shares::new();
    for steps in solutions {
        (1..steps.len()).for_each(|n| {
            shares.insert(steps[..n].to_vec(), 0.0);
        });
    }
    let with = |steps: &Vec<String>| json!({ "problem": problem, "steps": steps });
    let n = config.rollouts;
    let asks = shares.keys().map(|steps| Ask { n, ..Ask::one("go_on", with(steps)) }).collect();
    let reaches = |said: &&Said| fault(said).is_none() && is_right(&said.text, wanted);
    let said = desk.ask(asks)?;
    for (share, said) in shares.values_mut().zip(said) {
        *share = said.iter().filter(reaches).count() as f64 / n as f64;
    }
    for steps in solutions {
        let right = steps.last().is_some_and(|last| is_right(last, wanted));
        shares.insert(steps.clone(), f64::from(u8::from(right)));
    }
    Ok(shares)
}

/// A row for each step.
fn label(
    desk: &mut Desk<'_>,
    config: &StepsConfig,
    harvest: &mut Harvest,
    problem: &str,
    shares: &Shares,
) -> Made<()> {
    for (steps, share) in shares {
        let Some((last, before)) = steps.split_last() else { continue };
        let right = *share > 0.0 && *share >= config.right_min;
        let asked = desk.room.prompts.render("step", &asked(problem, before, last))?;
        let answer = if right { "Verdict: yes" } else { "Verdict: no" };
        let messages = [said("user", &asked), said("assistant", answer)];
        harvest.rows.push(json!({ "messages": messages, "share": share, "step": steps.len() }));
        harvest.told.push(if right { "right_steps" } else { "wrong_steps" });
    }
    Ok(())
}

/// What the words of a stepwise judge name.
pub(super) fn asked(problem: &str, before: &[String], last: &str) -> Value {
    json!({ "problem": problem, "steps": before, "step": last })
}

/// Solutions with the right answer and no step that leads astray.
fn keep(
    desk: &mut Desk<'_>,
    config: &StepsConfig,
    harvest: &mut Harvest,
    problem: &str,
    (solutions, shares): (&[Vec<String>], &Shares),
) {
    let mut kept = 0;
    for steps in solutions {
        let text = steps.join("\n");
        let of = |n: usize| shares.get(&steps[..n]).copied().unwrap_or(0.0);
        let shares: Vec<f64> = (1..=steps.len()).map(of).collect();
        let least = shares.iter().copied().fold(1.0, f64::min);
        let reason = match shares.last() {
            Some(last) if *last > 0.0 => (least < config.least_min)
                .then_some("step")
                .or((kept == config.keep).then_some("enough")),
            Some(_) | None => Some("answer"),
        };
        if let Some(reason) = reason {
            fall(desk, harvest, "keep", reason, json!({ "solution": text, "shares": shares }));
            continue;
        }
        desk.passed("keep");
        kept += 1;
        let messages = [said("user", problem), said("assistant", &text)];
        harvest.rows.push(json!({ "messages": messages, "shares": shares }));
        harvest.told.push("solutions");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_lines_and_the_bare_answer_is_part_of_the_last() {
        assert_eq!(
            steps("3 + 4 = 7\n\n  7 * 2 = 14  \n#### 14\n"),
            ["3 + 4 = 7", "7 * 2 = 14\n#### 14"]
        );
        assert_eq!(steps("#### 7"), ["#### 7"]);
        assert!(steps(" \n").is_empty());
    }
}
