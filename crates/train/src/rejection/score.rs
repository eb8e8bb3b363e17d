//! What answers are judged by: verifiers, which need no model, and reward models.

use crate::error::TrainError;
use crate::rejection::answer::{code_of, ends_with, last_number, near, same_answer};
use crate::rejection::script::script;
use crate::reward::RewardModel;
use fancy_regex::Regex;
use herd_codec::chat::{Dialogue, Message, Role};
use herd_sandbox::{Helper, Limits, Python, RunAs, Sandbox};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use toml::Table;

/// A judge, and what its word is worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Table", into = "Table")]
pub struct ScoreConfig {
    /// What its scores are called; the judge's kind where nothing is said.
    pub name: String,
    /// What its score counts in the total.
    pub weight: f64,
    /// Answers that score less are never chosen.
    pub require: Option<f64>,
    /// Who it is.
    pub judge: Judge,
}

/// Who judges an answer. Verifiers say 1 for good and 0 for bad.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Judge {
    /// A reward model.
    Reward {
        /// Its checkpoint.
        model: PathBuf,
    },
    /// The final answer is the text in a field of the row, but for case and space.
    Exact {
        /// The field; dots lead into objects and lists.
        field: String,
    },
    /// The final answer is the number in a field of the row.
    Number {
        /// The field; dots lead into objects and lists.
        field: String,
    },
    /// The answer's last words are those of the text in a field of the row, but for case and marks.
    Ends {
        /// The field; dots lead into objects and lists.
        field: String,
    },
    /// The Python in the answer, and behind it the tests in a field of the row, end well behind the walls of the sandbox.
    Code {
        /// The field; dots lead into objects and lists.
        field: String,
        /// Seconds that they may compute.
        #[serde(default = "ten")]
        seconds: f64,
    },
    /// The answer holds a match.
    Regex {
        /// The pattern, in the language of the crate `fancy-regex`.
        pattern: String,
    },
    /// The answer has a form; all that is said must hold.
    Format(Form),
    /// The answer has so many words.
    Length {
        /// The least and the most.
        words: [usize; 2],
    },
}

/// The form of an answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Form {
    /// It is JSON, and nothing else.
    #[serde(skip_serializing_if = "is_false")]
    pub json: bool,
    /// It is one line.
    #[serde(skip_serializing_if = "is_false")]
    pub one_line: bool,
    /// It has no more words than these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub words_max: Option<usize>,
    /// Its letters are mostly of the script that those of the question are of; where either has none, that holds.
    #[serde(skip_serializing_if = "is_false")]
    pub same_script: bool,
}

fn ten() -> f64 {
    10.0
}

fn is_false(x: &bool) -> bool {
    !x
}

impl Judge {
    /// Its name in settings.
    pub fn kind(&self) -> &'static str {
        match self {
            Judge::Reward { .. } => "reward",
            Judge::Exact { .. } => "exact",
            Judge::Number { .. } => "number",
            Judge::Ends { .. } => "ends",
            Judge::Code { .. } => "code",
            Judge::Regex { .. } => "regex",
            Judge::Format(_) => "format",
            Judge::Length { .. } => "length",
        }
    }

    /// The checkpoint of a reward model.
    pub fn model(&self) -> Option<&PathBuf> {
        match self {
            Judge::Reward { model } => Some(model),
            Judge::Exact { .. } | Judge::Number { .. } | Judge::Ends { .. } => None,
            Judge::Code { .. } | Judge::Regex { .. } | Judge::Format(_) => None,
            Judge::Length { .. } => None,
        }
    }

    /// The same, to be changed.
    pub(crate) fn model_mut(&mut self) -> Option<&mut PathBuf> {
        match self {
            Judge::Reward { model } => Some(model),
            Judge::Exact { .. } | Judge::Number { .. } | Judge::Ends { .. } => None,
            Judge::Code { .. } | Judge::Regex { .. } | Judge::Format(_) => None,
            Judge::Length { .. } => None,
        }
    }

    /// The field that a row must have for it.
    pub fn field(&self) -> Option<&str> {
        match self {
            Judge::Exact { field } | Judge::Number { field } => Some(field),
            Judge::Ends { field } | Judge::Code { field, .. } => Some(field),
            Judge::Reward { .. } | Judge::Regex { .. } | Judge::Format(_) => None,
            Judge::Length { .. } => None,
        }
    }
}

impl TryFrom<Table> for ScoreConfig {
    type Error = String;

    fn try_from(mut table: Table) -> Result<ScoreConfig, String> {
        let number = |key: &str, value: toml::Value| match value {
            toml::Value::Integer(n) => Ok(n as f64),
            toml::Value::Float(x) => Ok(x),
            other => Err(format!("`score.{key}` is {other}, expected a number")),
        };
        let weight = table.remove("weight").map(|v| number("weight", v)).transpose()?;
        let require = table.remove("require").map(|v| number("require", v)).transpose()?;
        let name = match table.remove("name") {
            None => None,
            Some(toml::Value::String(name)) => Some(name),
            Some(other) => return Err(format!("`score.name` is {other}, expected a text")),
        };
        let judge: Judge = table.try_into().map_err(|e: toml::de::Error| e.message().to_owned())?;
        let name = name.unwrap_or_else(|| judge.kind().to_owned());
        Ok(ScoreConfig { name, weight: weight.unwrap_or(1.0), require, judge })
    }
}

impl From<ScoreConfig> for Table {
    fn from(score: ScoreConfig) -> Table {
        let mut table = Table::try_from(&score.judge).expect("a judge is a table");
        table.insert("name".to_owned(), score.name.into());
        table.insert("weight".to_owned(), score.weight.into());
        table.extend(score.require.map(|least| ("require".to_owned(), least.into())));
        table
    }
}

impl ScoreConfig {
    /// Errors: a number or a pattern that is none.
    pub(crate) fn check(&self) -> Result<(), TrainError> {
        for (key, value) in [("weight", Some(self.weight)), ("require", self.require)] {
            if let Some(value) = value.filter(|value| !value.is_finite()) {
                return Err(TrainError::no(&format!("score.{key}"), value, "a finite number"));
            }
        }
        match &self.judge {
            Judge::Regex { pattern } => compiled(pattern).map(|_| ()),
            Judge::Length { words: [least, most] } if least > most => {
                let value = format!("[{least}, {most}]");
                Err(TrainError::no("score.words", value, "[least, most]"))
            }
            Judge::Format(form) if *form == Form::default() => {
                let expected = "json, one_line, words_max or same_script";
                Err(TrainError::no("score.format", "empty", expected))
            }
            Judge::Code { seconds, .. } if !(0.1..=3600.0).contains(seconds) => {
                Err(TrainError::no("score.seconds", seconds, "0.1 to 3600"))
            }
            Judge::Code { .. } | Judge::Length { .. } | Judge::Format(_) => Ok(()),
            Judge::Exact { .. } | Judge::Number { .. } | Judge::Ends { .. } => Ok(()),
            Judge::Reward { .. } => Ok(()),
        }
    }
}

fn compiled(pattern: &str) -> Result<Regex, TrainError> {
    Regex::new(pattern)
        .map_err(|e| TrainError::no("score.pattern", format!("{pattern:?}: {e}"), "a pattern"))
}

/// What an answer got from each judge that could read it, by their names.
pub(crate) type Scores = BTreeMap<String, f64>;

/// The judges of some settings at work.
pub(crate) struct Judges {
    judges: Vec<(ScoreConfig, Scorer)>,
}

impl Judges {
    /// `rewards` are the reward models of the settings, in their order.
    ///
    /// Errors: those of [`Scorer::open`].
    pub fn open(
        config: &[ScoreConfig],
        rewards: impl IntoIterator<Item = Arc<RewardModel>>,
    ) -> Result<Judges, TrainError> {
        let mut rewards = rewards.into_iter();
        let open =
            |score: &ScoreConfig| Ok((score.clone(), Scorer::open(&score.judge, &mut rewards)?));
        Ok(Judges { judges: config.iter().map(open).collect::<Result<_, TrainError>>()? })
    }

    /// What each answer to a question gets.
    ///
    /// Errors: those of [`Scorer::scores`].
    pub fn scores(
        &self,
        asked: &Asked<'_>,
        answers: &[Answer<'_>],
    ) -> Result<Vec<Scores>, TrainError> {
        let mut scores = vec![Scores::new(); answers.len()];
        for (config, judge) in &self.judges {
            for (scores, value) in scores.iter_mut().zip(judge.scores(asked, answers)?) {
                scores.extend(value.map(|value| (config.name.clone(), value)));
            }
        }
        Ok(scores)
    }
}

/// The sum of weight times score; `None` where a judge could not read the answer.
pub(crate) fn total(config: &[ScoreConfig], scores: &Scores) -> Option<f64> {
    config.iter().map(|score| Some(score.weight * scores.get(&score.name)?)).sum()
}

/// Errors: settings that are none, or two of one name.
pub(crate) fn check_all(config: &[ScoreConfig]) -> Result<(), TrainError> {
    let mut names: Vec<&str> = config.iter().map(|score| score.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|two| two[0] == two[1]) {
        Some(twice) => Err(TrainError::no("score.name", twice[0], "a name of its own")),
        None => config.iter().try_for_each(ScoreConfig::check),
    }
}

/// A judge at work.
pub(crate) enum Scorer {
    Reward(Arc<RewardModel>),
    Exact { field: String },
    Number { field: String },
    Ends { field: String },
    Code { field: String, sandbox: Sandbox },
    Regex(Regex),
    Format(Form),
    Length([usize; 2]),
}

/// A question, and the row that it stands in.
pub(crate) struct Asked<'a> {
    pub row: &'a Value,
    pub dialogue: &'a Dialogue,
}

/// An answer, and the dialogue that it ends: with the system prompt that it drew, where that is kept.
pub(crate) struct Answer<'a> {
    pub dialogue: &'a Dialogue,
    pub text: &'a str,
}

impl Scorer {
    /// `rewards` are the reward models of the settings, in their order.
    ///
    /// Errors: a pattern that is none; a reward model that is not among them.
    pub fn open(
        judge: &Judge,
        rewards: &mut impl Iterator<Item = Arc<RewardModel>>,
    ) -> Result<Scorer, TrainError> {
        Ok(match judge {
            Judge::Reward { model } => match rewards.next() {
                Some(reward) => Scorer::Reward(reward),
                None => return Err(TrainError::no("score.model", model.display(), "opened")),
            },
            Judge::Exact { field } => Scorer::Exact { field: field.clone() },
            Judge::Number { field } => Scorer::Number { field: field.clone() },
            Judge::Ends { field } => Scorer::Ends { field: field.clone() },
            Judge::Code { field, seconds } => {
                let cpu = Duration::from_secs_f64(*seconds);
                // A busy machine changes no verdict: the wall clock only ends what sleeps.
                let limits = Limits { cpu, wall: 10 * cpu, ..Limits::USUAL };
                let sandbox = Sandbox::new(Helper::this_program()?, limits)?;
                Scorer::Code { field: field.clone(), sandbox }
            }
            Judge::Regex { pattern } => Scorer::Regex(compiled(pattern)?),
            Judge::Format(form) => Scorer::Format(form.clone()),
            Judge::Length { words } => Scorer::Length(*words),
        })
    }

    /// The score of each answer to a question; `None` of answers that a reward model cannot read: empty, or
    /// longer than its context.
    ///
    /// Errors: a reward model cannot say the question, or its number is none.
    pub fn scores(
        &self,
        asked: &Asked<'_>,
        answers: &[Answer<'_>],
    ) -> Result<Vec<Option<f64>>, TrainError> {
        let Scorer::Reward(model) = self else {
            let holds = |answer: &Answer<'_>| {
                let holds = self.holds(asked, answer.text)?;
                Ok(Some(f64::from(u8::from(holds))))
            };
            return answers.iter().map(holds).collect();
        };
        let mut scores = vec![None; answers.len()];
        // Neighbours with one dialogue pass together: their prompt passes once.
        let mut first = 0;
        for group in answers.chunk_by(|a, b| a.dialogue == b.dialogue) {
            let (mut readable, mut all) = (Vec::new(), Vec::new());
            for (i, answer) in group.iter().enumerate() {
                if answer.text.trim().is_empty() {
                    continue;
                }
                let said = Message::new(Role::Assistant, answer.text);
                let ids = model.ask(group[0].dialogue, std::slice::from_ref(&said))?;
                if ids.prompt.len() + ids.answers[0].len() <= model.context() {
                    readable.push(first + i);
                    all.push(said);
                }
            }
            first += group.len();
            if all.is_empty() {
                continue;
            }
            for (place, score) in readable.into_iter().zip(model.score(group[0].dialogue, &all)?) {
                scores[place] = Some(score);
            }
        }
        Ok(scores)
    }

    /// Whether a verifier is content. Errors: the sandbox cannot run anything.
    fn holds(&self, asked: &Asked<'_>, answer: &str) -> Result<bool, TrainError> {
        Ok(match self {
            Scorer::Reward(_) => unreachable!("a reward model is no verifier"),
            Scorer::Exact { field } => {
                field_text(asked.row, field).is_some_and(|wanted| same_answer(answer, &wanted))
            }
            Scorer::Number { field } => {
                let wanted = field_text(asked.row, field).and_then(|text| last_number(&text));
                wanted.zip(last_number(answer)).is_some_and(|(a, b)| near(a, b))
            }
            Scorer::Ends { field } => {
                field_text(asked.row, field).is_some_and(|wanted| ends_with(answer, &wanted))
            }
            Scorer::Code { field, sandbox } => {
                let tests = field_text(asked.row, field).unwrap_or_default();
                if tests.trim().is_empty() {
                    return Ok(false);
                }
                let program = format!("{}\n\n{tests}\n", code_of(answer));
                sandbox.python_to_its_end(&program, RunAs::Main, Python::Bare)?.1
            }
            // A pattern that gives up has found nothing.
            Scorer::Regex(pattern) => pattern.is_match(answer).unwrap_or(false),
            Scorer::Format(form) => form.holds(asked, answer),
            Scorer::Length([least, most]) => (*least..=*most).contains(&words(answer)),
        })
    }
}

impl Form {
    fn holds(&self, asked: &Asked<'_>, answer: &str) -> bool {
        let question = asked.dialogue.messages.iter().rfind(|message| message.role == Role::User);
        let question = question.map(|message| message.text()).unwrap_or_default();
        (!self.json || serde_json::from_str::<Value>(answer).is_ok())
            && (!self.one_line || !answer.trim().contains('\n'))
            && self.words_max.is_none_or(|most| words(answer) <= most)
            && (!self.same_script || same_script(answer, &question))
    }
}

/// Whether two texts are of one script; a text without letters is of any.
fn same_script(a: &str, b: &str) -> bool {
    script(a).zip(script(b)).is_none_or(|(a, b)| a == b)
}

fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

/// A text or number in a row; in lists a number is a place, from the end if it is negative.
pub(crate) fn field_text(row: &Value, field: &str) -> Option<String> {
    match field.split('.').try_fold(row, inside)? {
        Value::String(text) => Some(text.clone()),
        number @ Value::Number(_) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// What stands under a key of an object, or at a place of a list.
fn inside<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    let Value::Array(items) = value else { return value.get(key) };
    let at: isize = key.parse().ok()?;
    items.get(if at < 0 { items.len().checked_add_signed(at)? } else { at as usize })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn score(judge: Judge, row: Value, question: &str, answer: &str) -> f64 {
        let dialogue = Dialogue::from(vec![Message::new(Role::User, question)]);
        let asked = Asked { row: &row, dialogue: &dialogue };
        let judge = Scorer::open(&judge, &mut std::iter::empty()).unwrap();
        let answers = [Answer { dialogue: &dialogue, text: answer }];
        judge.scores(&asked, &answers).unwrap()[0].unwrap()
    }

    #[test]
    fn numbers_are_compared_with_the_last_of_the_answer() {
        let row = json!({ "answer": "5 + 5 = 10, twice is\n#### 1,020", "n": 7, "deep": { "x": "-0.5" }, "list": [{ "x": 3 }] });
        let number = |field: &str, answer: &str| {
            score(Judge::Number { field: field.into() }, row.clone(), "q", answer)
        };
        for (field, answer, good) in [
            ("answer", "It is 1020.", 1.0),
            ("answer", "so $1,020.00 in all", 1.0),
            ("answer", "\\boxed{1020} of 3", 1.0),
            ("answer", "10", 0.0),
            ("answer", "none", 0.0),
            ("n", "7.0", 1.0),
            ("deep.x", "= -1/2", 1.0),
            ("list.-1.x", "It is 3", 1.0),
            ("list.-2", "It is 3", 0.0),
            ("absent", "7", 0.0),
        ] {
            assert_eq!(number(field, answer), good, "{field}: {answer}");
        }
        let exact = |answer: &str| {
            score(Judge::Exact { field: "a".into() }, json!({ "a": "Paris" }), "q", answer)
        };
        assert_eq!((exact(" paris. "), exact("Paris, France")), (1.0, 0.0));
        assert_eq!(exact("I know.\n#### Paris"), 1.0);
    }

    #[test]
    fn forms_and_patterns_say_yes_or_no() {
        let format =
            |form: Form, answer: &str| score(Judge::Format(form), json!({}), "Как дела?", answer);
        let json = || Form { json: true, ..Form::default() };
        assert_eq!((format(json(), "[1, {}]"), format(json(), "[1,]")), (1.0, 0.0));
        let line = || Form { one_line: true, words_max: Some(2), ..Form::default() };
        assert_eq!((format(line(), "a b\n"), format(line(), "a\nb")), (1.0, 0.0));
        assert_eq!(format(line(), "a b c"), 0.0);
        let script = || Form { same_script: true, ..Form::default() };
        assert_eq!((format(script(), "Хорошо, Bob"), format(script(), "Fine")), (1.0, 0.0));
        assert_eq!(format(script(), "42"), 1.0);
        let regex = |answer: &str| {
            score(Judge::Regex { pattern: "(?i)^yes".into() }, json!({}), "q", answer)
        };
        assert_eq!((regex("Yes."), regex("no, yes")), (1.0, 0.0));
        let length = |answer: &str| score(Judge::Length { words: [1, 2] }, json!({}), "q", answer);
        assert_eq!((length("a b"), length(""), length("a b c")), (1.0, 0.0, 0.0));
    }
}
