//! Programs in another language (arXiv 2407.21783, section 4.3.1): kept if the translation parses, runs, and prints what the original prints,
//! to the last byte: what is too long to be kept, or no UTF-8, is not compared.

use crate::error::TrainError;
use crate::synth::items::Item;
use crate::synth::read::fences;
use crate::synth::{Harvest, Shelf, said};
use crate::writer::desk::{Desk, Made, reject};
use crate::writer::prompts::Default;
use crate::writer::{between, within};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::Path;

/// Settings of `translate-code`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TranslateConfig {
    /// The language of the programs in the input.
    pub from: Language,
    /// The language that they are wanted in.
    pub to: Language,
    /// Bytes of a program at most: it is never cut.
    pub program_bytes: usize,
    /// Seconds that a program may compute.
    pub seconds: f64,
}

/// A language that runs without a compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // their names say it
pub enum Language {
    Python,
    Perl,
    Bash,
    Ruby,
    Php,
}

impl Language {
    fn name(self) -> &'static str {
        match self {
            Language::Python => "Python",
            Language::Perl => "Perl",
            Language::Bash => "Bash",
            Language::Ruby => "Ruby",
            Language::Php => "PHP",
        }
    }

    /// What parses a file, and what runs it.
    fn commands(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Language::Python => (
                &[
                    "python3",
                    "-I",
                    "-B",
                    "-S",
                    "-c",
                    "compile(open('main').read(), 'main', 'exec')",
                ],
                &["python3", "-I", "-u", "-B", "-S", "main"],
            ),
            Language::Perl => (&["perl", "-c", "main"], &["perl", "main"]),
            Language::Bash => (&["bash", "-n", "main"], &["bash", "main"]),
            Language::Ruby => (&["ruby", "-c", "main"], &["ruby", "main"]),
            Language::Php => (&["php", "-l", "main"], &["php", "main"]),
        }
    }

    /// Whether the sandbox will find its interpreter.
    fn is_here(self) -> bool {
        let program = self.commands().1[0];
        ["/usr/local/bin", "/usr/bin", "/bin"]
            .iter()
            .any(|folder| Path::new(folder).join(program).exists())
    }
}

/// What the writer is asked.
pub(super) const PROMPTS: &[Default] = &[Default {
    step: "translate",
    names: &["program", "from", "to"],
    text: "Translate this {{ from }} program into {{ to }}. It must print exactly the same.\n\n```\n{{ program }}\n```\n\nPut the whole program \
           into one ``` block.",
}];

impl TranslateConfig {
    pub(super) fn base() -> TranslateConfig {
        let (from, to) = (Language::Python, Language::Perl);
        TranslateConfig { from, to, program_bytes: 8000, seconds: 5.0 }
    }

    pub(super) fn check(&self) -> Result<(), TrainError> {
        between("translate.program_bytes", self.program_bytes as u64, 1, 1 << 20)?;
        within("translate.seconds", self.seconds, 0.01, 3600.0)?;
        if self.from == self.to {
            return Err(TrainError::no("translate.to", self.to.name(), "another language"));
        }
        for (key, language) in [("translate.from", self.from), ("translate.to", self.to)] {
            if !language.is_here() {
                let expected = "a language whose interpreter is in /usr of this machine";
                return Err(TrainError::no(key, language.name(), expected));
            }
        }
        Ok(())
    }
}

pub(super) fn work(desk: &mut Desk<'_>, shelf: &Shelf<'_>, item: &Item) -> Made<Harvest> {
    let config = shelf.config.translate.as_ref().expect("the settings of its kind");
    let program = item.text.trim_end();
    if program.len() > config.program_bytes {
        return reject("source", "long", program.len() as u64);
    }
    let source = desk.run(config.from.commands().1, &[("main", program)])?;
    let what = json!({ "program": program, "ran": source });
    if !source.succeeded() {
        return reject("source", "failed", what);
    }
    if let Some(reason) = source.lossy() {
        return reject("source", reason, what);
    }
    if source.stdout.trim().is_empty() {
        return reject("source", "silent", what); // nothing to compare
    }
    desk.passed("source");
    let (from, to) = (config.from.name(), config.to.name());
    let with = json!({ "program": program, "from": from, "to": to });
    let answer = desk.say("translate", with.clone())?;
    let Some(code) = fences(&answer).into_iter().next() else {
        return reject("translate", "no_code", answer);
    };
    desk.passed("translate");
    let (parse, run) = config.to.commands();
    let parsed = desk.run(parse, &[("main", &code)])?;
    if !parsed.succeeded() {
        return reject("parse", "syntax", json!({ "code": code, "ran": parsed }));
    }
    desk.passed("parse");
    let ran = desk.run(run, &[("main", &code)])?;
    let what = json!({ "program": program, "code": code, "ran": ran });
    if !ran.succeeded() {
        return reject("run", "failed", what);
    }
    if let Some(reason) = ran.lossy() {
        return reject("run", reason, what);
    }
    if ran.stdout.trim_end() != source.stdout.trim_end() {
        return reject("run", "other_output", what);
    }
    desk.passed("run");
    let asked = desk.room.prompts.render("translate", &with)?;
    let row = json!({ "messages": [said("user", &asked), said("assistant", &answer)] });
    Ok(Harvest { rows: vec![row], ..Harvest::default() })
}
