//! Whether programs that a model wrote pass their tests, behind the walls of the sandbox.
//!
//! ```text
//! pass@k = 1 - C(n - c, k) / C(n, k)        n answers, c of them pass (arXiv 2107.03374)
//! ```
//!
//! A program that runs out of time fails, as in the official harnesses, and is counted apart. A sandbox
//! that does not do its work is no answer's fault: the run ends with what is wrong, and goes on from there.

use std::collections::BTreeSet;
use std::time::Duration;

use herd_sandbox::{Ended, Helper, Limits, Program, Python, RunAs, Sandbox, SandboxError};
use serde::Deserialize;
use serde_json::Value;

use super::Worth;
use crate::error::EvalError;
use crate::item::{Ask, Item};
use crate::task::Task;

/// How many answers may be counted together.
const KS: [usize; 3] = [1, 10, 100];
/// What is scored; of more answers than there are nothing is.
pub const METRICS: [&str; 3] = ["pass@1", "pass@10", "pass@100"];

/// Enough for V8, which maps a gigabyte before it begins.
const MEMORY_BYTES: u64 = 4 << 30;
/// Seconds of a program, where a row says nothing: HumanEval's.
const SECONDS: u64 = 3;

/// How a program runs that was written in a language, by its name in MultiPL-E.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Language {
    Python,
    Cpp,
    Cs,
    Java,
    Js,
    Lua,
    Php,
    Pl,
    Rb,
    Rs,
    Sh,
    Ts,
}

impl Language {
    /// The program's file, the shell's line that runs it, and a program that does nothing, with what
    /// the tests of MultiPL-E use.
    fn runner(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Language::Python => ("main.py", "", "pass\n"),
            Language::Cpp => (
                "main.cpp",
                "g++ -std=c++17 main.cpp -o main && ./main",
                "#include<assert.h>\n#include<bits/stdc++.h>\nint main() {}\n",
            ),
            Language::Cs => (
                "main.cs",
                "mcs -d:DEBUG -r:System.Numerics.dll main.cs && mono main.exe",
                "class Problem { static void Main() {} }\n",
            ),
            Language::Java => (
                "Problem.java",
                "javac -encoding UTF8 -cp '/usr/share/java/*' Problem.java && java -ea -cp '.:/usr/share/java/*' Problem",
                "import org.javatuples.*;\nclass Problem { public static void main(String[] a) {} }\n",
            ),
            Language::Js => ("main.js", "node main.js", "require('node:assert');\n"),
            Language::Lua => ("main.lua", "lua main.lua", "lu = require('luaunit')\n"),
            Language::Php => ("main.php", "php main.php", "<?php\n"),
            Language::Pl => ("main.pl", "perl main.pl", "use Test::Deep;\n"),
            Language::Rb => ("main.rb", "ruby main.rb", "require 'test/unit'\n"),
            Language::Rs => ("main.rs", "rustc main.rs -o main && ./main", "fn main() {}\n"),
            Language::Sh => ("main.sh", "bash main.sh", "true\n"),
            Language::Ts => ("main.ts", "tsc main.ts && node main.js", "const n: number = 1;\n"),
        }
    }
}

/// What an answer is tried by.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Test {
    language: Language,
    /// What stands before the answer, and behind it.
    before: String,
    after: String,
    /// What ends the answer.
    #[serde(default)]
    stop: Vec<String>,
    /// Where the answer may say more than the program.
    #[serde(default)]
    take: Take,
    /// A name whose definition makes what stands before needless.
    #[serde(default)]
    entry: Option<String>,
    /// Seconds of the processor.
    #[serde(default)]
    seconds: Option<u64>,
}

/// What of an answer is the program.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Take {
    /// All of it.
    #[default]
    All,
    /// Its first fenced block, or all where there is none.
    Block,
}

impl Test {
    /// Reads an object of these fields. Error: it is none; a language that is not known.
    pub fn read(reference: &Value) -> Result<Test, String> {
        let test: Test = serde_json::from_value(reference.clone()).map_err(|e| e.to_string())?;
        let most = 3600;
        match test.seconds {
            Some(seconds) if !(1..=most).contains(&seconds) => {
                Err(format!("seconds is {seconds}, expected 1 to {most}"))
            }
            _ => Ok(test),
        }
    }

    /// The whole program of an answer.
    fn program(&self, answer: &str) -> String {
        let mut taken = match self.take {
            Take::All => answer,
            Take::Block => block(answer),
        };
        for stop in self.stop.iter().filter(|stop| !stop.is_empty()) {
            taken = taken.split(stop.as_str()).next().unwrap_or(taken);
        }
        let defined = self.entry.as_ref().is_some_and(|name| {
            taken.lines().any(|line| line.trim_start().starts_with(&format!("def {name}(")))
        });
        // The imports of a prompt hold for an answer that writes the function anew.
        let imports = |line: &&str| line.starts_with("import ") || line.starts_with("from ");
        let before = match defined {
            true => self
                .before
                .lines()
                .filter(imports)
                .fold(String::new(), |all, line| all + line + "\n"),
            false => self.before.clone(),
        };
        format!("{before}{taken}\n{}", self.after)
    }
}

/// The first fenced block of an answer, or all of it.
fn block(answer: &str) -> &str {
    let Some((_, behind)) = answer.split_once("```") else { return answer };
    let Some((_, code)) = behind.split_once('\n') else { return answer };
    code.split_once("```").map_or(code, |(code, _)| code)
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Passed,
    Failed,
    TimedOut,
    OutOfMemory,
}

impl How {
    fn name(self) -> &'static str {
        match self {
            How::Passed => "passed",
            How::Failed => "failed",
            How::TimedOut => "timed_out",
            How::OutOfMemory => "out_of_memory",
        }
    }
}

/// Runs programs.
#[derive(Clone, Debug)]
pub struct Judge {
    sandbox: Sandbox,
}

impl Judge {
    /// Errors: a wall that this machine does not offer; nothing is run without it.
    pub fn new(helper: Helper) -> Result<Judge, EvalError> {
        let sandbox = Sandbox::new(helper, limits(SECONDS)).map_err(EvalError::Sandbox)?;
        Ok(Judge { sandbox })
    }

    /// Whether the languages of a task's items can be run here.
    ///
    /// Errors: one whose compiler, interpreter or library is not there, by its name.
    pub fn check(&self, task: &Task, items: &[Item]) -> Result<(), EvalError> {
        let mut languages = BTreeSet::new();
        for item in items {
            let Ask::Write { reference, .. } = &item.ask else { continue };
            let wrong = |what| EvalError::Reference { row: item.row, what };
            languages.insert(Test::read(reference).map_err(wrong)?.language);
        }
        for language in languages {
            let (_, line, nothing) = language.runner();
            let refused = |told: String| {
                let what = format!("{language:?} cannot be run here: {told}").to_lowercase();
                EvalError::Task { task: task.name.clone(), what }
            };
            let (ended, told) = match self.run(language, nothing, 60) {
                Err(SandboxError::NotFound { name }) => return Err(refused(format!("no {name}"))),
                other => other.map_err(EvalError::Sandbox)?,
            };
            if ended != How::Passed {
                let last = told.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
                return Err(refused(format!("{line:?} {}: {last}", ended.name())));
            }
        }
        Ok(())
    }

    /// How a program ends, and what it says of errors.
    fn run(
        &self,
        language: Language,
        text: &str,
        seconds: u64,
    ) -> Result<(How, String), SandboxError> {
        let sandbox = self.sandbox.clone().within(limits(seconds))?;
        let (file, line, _) = language.runner();
        // As HumanEval's harness does it: not as `__main__`, with nothing to read. Only what comes to its
        // end has passed, whatever it exits with.
        let (outcome, proved) = if language == Language::Python {
            sandbox.python_to_its_end(text, RunAs::Module, Python::Packages)?
        } else {
            let files = [(file, text.as_bytes())];
            let command = ["sh", "-c", line];
            let program = Program { command: &command, files: &files, ..Program::default() };
            (sandbox.run(&program)?, true)
        };
        let how = match outcome.ended {
            Ended::Exited(0) if proved => How::Passed,
            Ended::Exited(_) | Ended::Signalled(_) => How::Failed,
            Ended::WallTime | Ended::CpuTime => How::TimedOut,
            Ended::Memory => How::OutOfMemory,
        };
        Ok((how, outcome.stderr.text()))
    }
}

fn limits(seconds: u64) -> Limits {
    Limits {
        // A program that waits is given time as well, so that a busy machine moves no score.
        wall: Duration::from_secs(10 * seconds),
        cpu: Duration::from_secs(seconds),
        memory_bytes: MEMORY_BYTES,
        processes: 64,
        disk_bytes: 256 << 20,
        output_bytes: 1 << 20,
        ..Limits::USUAL
    }
}

/// The share of draws of `k` among `n` answers that hold one of the `c` that pass. Panics if k > n or c > n.
pub fn pass_at(k: usize, n: usize, c: usize) -> f64 {
    assert!(k <= n && c <= n, "pass_at: {k} and {c} of {n}");
    // C(n - c, k) / C(n, k) = product over i in n - c + 1 ..= n of (1 - k / i)
    1.0 - (n - c + 1..=n).map(|i| (1.0 - k as f64 / i as f64).max(0.0)).product::<f64>()
}

/// The scores of the answers to an item.
pub fn score(
    reference: &Value,
    answers: &[String],
    judge: Option<&Judge>,
    row: u64,
) -> Result<Worth, EvalError> {
    let test = Test::read(reference).map_err(|what| EvalError::Reference { row, what })?;
    let judge = judge.expect("a judge is there where programs are asked for");
    let seconds = test.seconds.unwrap_or(SECONDS);
    let mut ended = Vec::new();
    for answer in answers {
        let (how, _) = judge
            .run(test.language, &test.program(answer), seconds)
            .map_err(|source| EvalError::Program { row, source })?;
        ended.push(how);
    }
    let (n, passed) = (ended.len(), ended.iter().filter(|how| **how == How::Passed).count());
    let scores = KS.iter().zip(METRICS).filter(|(k, _)| **k <= n);
    Ok(Worth {
        scores: scores.map(|(k, name)| (name, pass_at(*k, n, passed))).collect(),
        taken: passed.into(),
        ended: ended.iter().map(|how| how.name().to_owned()).collect(),
        ..Worth::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pass_at_k_is_unbiased() {
        assert_eq!((pass_at(1, 1, 1), pass_at(1, 1, 0), pass_at(10, 10, 1)), (1.0, 0.0, 1.0));
        assert!((pass_at(1, 200, 50) - 0.25).abs() < 1e-12);
        // C(5, 3) / C(8, 3) = 10 / 56
        assert!((pass_at(3, 8, 3) - (1.0 - 10.0 / 56.0)).abs() < 1e-12);
    }

    #[test]
    fn a_program_is_what_its_row_takes_of_an_answer() {
        let test = |more: Value| {
            let mut row = json!({ "language": "python", "before": "import re\ndef f(x):\n",
                                  "after": "assert f(1)" });
            row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            Test::read(&row).unwrap()
        };
        let whole = "import re\ndef f(x):\n    return x\nassert f(1)";
        assert_eq!(test(json!({})).program("    return x"), whole);
        assert_eq!(test(json!({ "stop": ["\nf("] })).program("    return x\nf(2)"), whole);
        let fenced = "So:\n```python\ndef f(x):\n    return x\n```\nDone.";
        let taken = test(json!({ "take": "block", "entry": "f" })).program(fenced);
        assert_eq!(taken, "import re\ndef f(x):\n    return x\n\nassert f(1)");
        assert!(Test::read(&json!({ "language": "cobol", "before": "", "after": "" })).is_err());
    }
}
