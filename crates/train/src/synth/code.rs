//! Programs with execution feedback (arXiv 2407.21783, section 4.3.1): a problem from a snippet, a solution, tests; what fails is revised.
//!
//! ```text
//! snippet -> problem -> solution -> tests -> parse and lint -> run -> judge -> row
//!                          ^--- what was printed or said ---<--'------<--'  up to `turns` times
//! ```
//!
//! No word of the writer's keeps a dialogue: its last program passes tests that fail without it. A judge, where one is asked,
//! can only send it back: the paper keeps what has two of two points, and has hard answers revised until they have them.

use crate::error::TrainError;
use crate::synth::items::{Item, snippet};
use crate::synth::read::{fences, mark};
use crate::synth::{Harvest, Shelf, said, unlearnt};
use crate::writer::desk::{Desk, Made, Ran, reject};
use crate::writer::prompts::Default;
use crate::writer::{between, within};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Settings of `code`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeConfig {
    /// Bytes of a snippet, in whole lines.
    pub snippet_bytes: usize,
    /// Whether the judge must give both points, for correctness and for style, to what passes its tests.
    pub judge: bool,
    /// Revisions of a program that fails its tests or its judge.
    pub turns: usize,
    /// Seconds that a program may compute.
    pub seconds: f64,
    /// Bytes of what a program printed that a revision is shown.
    pub feedback_bytes: usize,
    /// What of a dialogue stays in its row.
    pub keep: Keep,
}

/// What of a dialogue stays in its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// All turns; the last answer is learnt.
    Dialogue,
    /// The problem and the last answer.
    Final,
}

const RULES: &str = "Write clear, idiomatic Python 3 that needs the standard library alone. \
     Check edge cases, give functions docstrings, and explain your reasoning in comments.";

/// What the writer is asked.
pub(super) const PROMPTS: &[Default] = &[
    Default {
        step: "problem",
        names: &["snippet"],
        text: "Here is a piece of text or code:\n\n{{ snippet }}\n\nInvent a small, self-contained programming problem that it \
               inspires. It must be solved by one Python function or class whose name and arguments you state. Give two examples. \
               Write the problem alone, without a solution.",
    },
    Default {
        step: "solution",
        names: &["problem", "rules"],
        text: "{{ problem }}\n\n{{ rules }} Put the whole program into one ```python block.",
    },
    Default {
        step: "tests",
        names: &["problem", "solution"],
        text: "Problem:\n{{ problem }}\n\nSolution:\n```python\n{{ solution }}\n```\n\nWrite unit tests for the solution: plain \
               `assert` statements at the top level that call it by its name, edge cases included. Do not repeat the solution. Put \
               them into one ```python block.",
    },
    Default {
        step: "revise",
        names: &["problem", "solution", "tests", "feedback"],
        text: "Problem:\n{{ problem }}\n\nSolution:\n```python\n{{ solution }}\n```\n\nTests:\n```python\n{{ tests }}\n```\n\n{{ feedback }}\n\n\
               Say in a sentence what is at fault, then write the whole corrected solution into one ```python block. If the tests \
               are at fault, write the corrected tests into a second ```python block.",
    },
    Default {
        step: "judge",
        names: &["problem", "answer", "tests"],
        text: "Problem:\n{{ problem }}\n\nAnswer:\n{{ answer }}\n\nIt passes these tests:\n```python\n{{ tests }}\n```\n\nReview the answer. Give a \
               point for correctness if its code has no bug and does all that was asked, and a point for style if it is clear, idiomatic \
               and well explained; else say what is at fault. End with two lines, `Correctness: 0` or `Correctness: 1`, and `Style: 0` \
               or `Style: 1`.",
    },
];

/// What a user says when an answer has failed, in rows of whole dialogues.
const AGAIN: &str = "That does not work yet.";

/// The same when it works and the judge sends it back.
const BETTER: &str = "That works, but it is not good enough yet.";

const LINT: &str = include_str!("lint.py");

impl CodeConfig {
    pub(super) fn base() -> CodeConfig {
        let (snippet_bytes, feedback_bytes) = (800, 2000);
        let (judge, turns, seconds, keep) = (false, 3, 5.0, Keep::Dialogue);
        CodeConfig { snippet_bytes, judge, turns, seconds, feedback_bytes, keep }
    }

    pub(super) fn check(&self) -> Result<(), TrainError> {
        between("code.snippet_bytes", self.snippet_bytes as u64, 16, 1 << 20)?;
        between("code.turns", self.turns as u64, 0, 100)?;
        between("code.feedback_bytes", self.feedback_bytes as u64, 0, 1 << 14)?;
        within("code.seconds", self.seconds, 0.01, 3600.0)
    }
}

/// Why a program is not kept, and what the writer is told.
struct Failure {
    step: &'static str,
    reason: String,
    feedback: String,
}

pub(super) fn work(desk: &mut Desk<'_>, shelf: &Shelf<'_>, item: &Item) -> Made<Harvest> {
    let config = shelf.config.code.as_ref().expect("the settings of its kind");
    let snippet = snippet(&item.text, config.snippet_bytes, desk.draw("snippet"));
    let problem = desk.say("problem", json!({ "snippet": snippet }))?;
    desk.passed("problem");
    let mut answer = desk.say("solution", json!({ "problem": problem, "rules": RULES }))?;
    let Some(mut solution) = fences(&answer).pop() else {
        return reject("solution", "no_code", answer);
    };
    desk.passed("solution");
    let told = desk.say("tests", json!({ "problem": problem, "solution": solution }))?;
    let Some(mut tests) = fences(&told).pop() else { return reject("tests", "no_code", told) };
    desk.passed("tests");
    let mut messages = vec![said("user", &problem)];
    let (mut turn, mut sent_back) = (0, false);
    loop {
        let mut found = trial(desk, config, &solution, &tests)?;
        if found.is_none() {
            desk.passed("trial");
            let with = json!({ "problem": problem, "answer": answer, "tests": tests });
            found = if config.judge { judged(desk, config, with)? } else { None };
        }
        let Some(failure) = found else { break };
        if turn == config.turns {
            let what =
                json!({ "problem": problem, "solution": solution, "tests": tests, "turns": turn });
            return reject(failure.step, failure.reason, what);
        }
        desk.failed(failure.step, failure.reason);
        (turn, sent_back) = (turn + 1, sent_back || failure.step == "judge");
        let with = json!({ "problem": problem, "solution": solution, "tests": tests, "feedback": failure.feedback });
        let revised = desk.say("revise", with)?;
        let mut blocks = fences(&revised).into_iter();
        let Some(code) = blocks.next() else { return reject("revise", "no_code", revised) };
        desk.passed("revise");
        let begins = if failure.step == "judge" { BETTER } else { AGAIN };
        let back = format!("{begins}\n\n{}", failure.feedback);
        messages.extend([unlearnt(&answer), said("user", &back)]);
        (answer, solution) = (revised, code);
        tests = blocks.next().unwrap_or(tests);
    }
    if config.keep == Keep::Final {
        messages.truncate(1);
    }
    messages.push(said("assistant", &answer));
    let told = if turn == 0 { "passed_at_once" } else { "self_corrected" };
    let told = [told].into_iter().chain(sent_back.then_some("judge_convinced")).collect();
    let row = json!({ "messages": messages, "tests": tests, "turns": turn });
    Ok(Harvest { rows: vec![row], told, ..Harvest::default() })
}

/// The judge's two points; `None` if it gives both. Rejects what it says nothing of.
fn judged(desk: &mut Desk<'_>, config: &CodeConfig, with: Value) -> Made<Option<Failure>> {
    let words = desk.verdicts("judge", vec![with.clone()])?.remove(0).unwrap_or_default();
    let reason = match (mark(&words, "correctness", 1), mark(&words, "style", 1)) {
        (Some(1), Some(1)) => {
            desk.passed("judge");
            return Ok(None);
        }
        (Some(1), Some(_)) => "style",
        (Some(_), Some(1)) => "correctness",
        (Some(_), Some(_)) => "correctness_and_style",
        (None, _) | (_, None) => {
            return reject("judge", "no_verdict", json!({ "of": with, "said": words }));
        }
    };
    let feedback = format!("A reviewer says:\n{}", cut(words.trim(), config));
    Ok(Some(Failure { step: "judge", reason: reason.to_owned(), feedback }))
}

/// Parses, lints and runs; `None` if all is well.
fn trial(
    desk: &mut Desk<'_>,
    config: &CodeConfig,
    solution: &str,
    tests: &str,
) -> Made<Option<Failure>> {
    let python = ["python3", "-I", "-u", "-B", "-S"];
    let command = |more: &[&'static str]| -> Vec<&'static str> {
        python.iter().chain(more).copied().collect()
    };
    let files = [("lint.py", LINT), ("solution.py", solution), ("tests.py", tests)];
    let lint = desk.run(&command(&["lint.py", "solution.py", "tests.py"]), &files)?;
    if let Some((reason, _)) = lint.stdout.lines().next().and_then(|line| line.split_once(':')) {
        let feedback = format!("Before it ran, this was found:\n{}", cut(&lint.stdout, config));
        return Ok(Some(Failure { step: "trial", reason: reason.to_owned(), feedback }));
    }
    if !lint.succeeded() {
        let feedback = outcome(&lint, config);
        return Ok(Some(Failure { step: "trial", reason: "lint".to_owned(), feedback }));
    }
    // A program can end before its tests, so that the last line says a word (which one that reads its own file can say too).
    let word = format!("{:016x}", desk.draw(&format!("{solution}\n{tests}")));
    let end = format!("\nprint({word:?})\n");
    let whole = format!("{solution}\n\n{tests}\n{end}");
    let ran = desk.run(&command(&["main.py"]), &[("main.py", &whole)])?;
    if !ran.succeeded() || !ran.stdout.trim_end().ends_with(&word) {
        let reason = match ran.ended.as_str() {
            "exit 0" if ran.dropped[0] > 0 => "long_output", // the word may have been said
            "exit 0" => "ended_early",
            "exit 1" => "tests_failed",
            "time" => "time",
            "memory" => "memory",
            _ => "crashed",
        };
        let feedback = outcome(&ran, config);
        return Ok(Some(Failure { step: "trial", reason: reason.to_owned(), feedback }));
    }
    let alone = desk.run(&command(&["main.py"]), &[("main.py", &format!("{tests}\n{end}"))])?;
    if alone.succeeded() {
        let feedback = "The tests pass without the solution: they must call it.".to_owned();
        return Ok(Some(Failure { step: "trial", reason: "tests_idle".to_owned(), feedback }));
    }
    Ok(None)
}

/// What a program did, in words.
fn outcome(ran: &Ran, config: &CodeConfig) -> String {
    let part = |name: &str, text: &str| match text.trim() {
        "" => String::new(),
        text => format!("\n{name}:\n{}", cut(text, config)),
    };
    let (out, err) = (part("Standard output", &ran.stdout), part("Standard error", &ran.stderr));
    let more = match ran.dropped {
        [0, 0] => String::new(),
        [out, err] => {
            format!(
                "\nToo much was printed: {out} bytes of output and {err} of errors were not kept."
            )
        }
    };
    format!("Solution and tests together ended with: {}{out}{err}{more}", ran.ended)
}

/// The last bytes of a text, where tracebacks say what went wrong.
fn cut<'a>(text: &'a str, config: &CodeConfig) -> &'a str {
    let text = text.trim_end();
    let from = text.len().saturating_sub(config.feedback_bytes);
    let from = (from..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    &text[from..]
}
