//! Scores texts: a line of `{"scorer": ..., "reference": ..., "answers": [...]}` in, a line of scores out.
//!
//! `scripts/check-scorers.py` holds what it says against the official scorers.

use std::io::{BufRead, Write, stdin, stdout};

use herd_eval::score::{Judge, Scorer};
use herd_sandbox::Helper;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Line {
    scorer: Scorer,
    reference: Value,
    answers: Vec<String>,
}

fn main() -> std::process::ExitCode {
    if herd_sandbox::inside::asked() {
        return herd_sandbox::inside::enter();
    }
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::from(2)
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut judge = None;
    let mut out = stdout().lock();
    for (line, row) in stdin().lock().lines().zip(1..) {
        let Line { scorer, reference, answers } = serde_json::from_str(&line?)?;
        if scorer == Scorer::Programs && judge.is_none() {
            judge = Some(Judge::new(Helper::this_program()?)?);
        }
        let worth = scorer.worth(&reference, &answers, judge.as_ref(), row)?;
        let line = json!({ "scores": worth.scores, "taken": worth.taken, "ended": worth.ended });
        writeln!(out, "{line}")?;
    }
    Ok(())
}
