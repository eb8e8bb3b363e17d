//! What a benchmark asks: a page of settings and templates.

use std::path::PathBuf;

use fancy_regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::EvalError;
use crate::score::Scorer;

/// A benchmark. Its page is TOML; keys are those of these fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// What it is called by.
    pub name: String,
    /// Counts up with each change that can move a score.
    pub version: u32,
    /// What it is, in a line.
    pub about: String,
    /// Where its definition was published, and the settings that are followed.
    pub citation: String,
    /// Where its rows are, below the folder of data: the first that is there counts. `*` stands
    /// for any part of a name.
    pub files: Vec<String>,
    /// Which rows are asked, as an expression; all where nothing is said.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub only: Option<String>,
    /// Lists in its records, whose elements are the rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub each: Option<Each>,
    /// Rows of other files that go with these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join: Option<Join>,
    /// Rows that are one question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gather: Option<Gather>,
    /// What is done with the answers.
    pub scorer: Scorer,
    /// The score that stands for the task.
    pub metric: String,
    /// Text before everything, as a template.
    #[serde(default)]
    pub description: String,
    /// What stands between a question and its answer.
    #[serde(default = "space")]
    pub delimiter: String,
    /// What stands between examples.
    #[serde(default = "blank_line")]
    pub between: String,
    /// Examples before the question.
    #[serde(default)]
    pub shots: Shots,
    /// The field by which scores are also given apart.
    #[serde(default)]
    pub group: Option<String>,
    /// Whether the score is the mean of its groups, not of its items.
    #[serde(default, rename = "macro")]
    pub by_group: bool,
    /// What questions share which stand or fall together, as those of one passage: a field, or an expression over them.
    #[serde(default)]
    pub cluster: Option<String>,
    /// Where an answer that is written ends.
    #[serde(default)]
    pub write: Option<Write>,
    /// How a row is read; the first whose fields are all there counts.
    pub form: Vec<Form>,
}

/// Rows that have more fields of the same items.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// Where they are, as the task's own.
    pub files: Vec<String>,
    /// The field that tells which row goes with which.
    pub by: String,
}

/// Rows that lie in lists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Each {
    /// The fields that hold the lists, the outermost first. Fields of what holds a list go to its elements, which may
    /// have their own of the same name; a record without such a list is the row itself.
    pub lists: Vec<String>,
    /// The field for the elements that stand before a row in its list, as the turns of a dialogue. Quadratic in the
    /// length of a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
}

/// Rows that are one: the first stands for all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gather {
    /// The field in which they agree.
    pub by: String,
    /// The field that becomes the list of what each has in it.
    pub list: String,
}

/// Where examples come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shots {
    /// How many, where nothing else is asked for.
    #[serde(default)]
    pub number: usize,
    /// Where they are; the task's own rows if there are none, but for the row that is asked.
    #[serde(default)]
    pub files: Vec<String>,
    /// The rows themselves, in the place of files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub row: Vec<Value>,
    /// Whether the first of them, else some drawn for each row.
    #[serde(default)]
    pub first: bool,
    /// Whether of the row's own group alone.
    #[serde(default)]
    pub of_group: bool,
    /// Whether of other clusters than the row's own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub apart: bool,
}

/// An answer that is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Write {
    /// Texts that end it.
    pub until: Vec<String>,
    /// Tokens at most.
    pub max_tokens: usize,
    /// What of it counts: the first group of this regular expression's last match, nothing where
    /// there is none.
    #[serde(default)]
    pub take: Option<String>,
}

/// How a row becomes a question. `text`, `texts` and `shot` are templates, the others expressions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Form {
    /// Fields that such a row has.
    pub has: Vec<String>,
    /// The question.
    #[serde(default)]
    pub text: String,
    /// The questions, where the choices differ in them and the answer is the same.
    #[serde(default)]
    pub texts: Option<String>,
    /// The answers to choose from.
    #[serde(default)]
    pub choices: Option<String>,
    /// The place of the right one among them.
    #[serde(default)]
    pub gold: Option<String>,
    /// The answer as an example gives it, where there are no choices.
    #[serde(default)]
    pub shot: Option<String>,
    /// What a written answer is compared with: a text, or a list of them.
    #[serde(default)]
    pub reference: Option<String>,
    /// Of answers that are letters, what is asked, as a template: for [`crate::robust`].
    #[serde(default)]
    pub asks: Option<String>,
    /// And what the letters stand for, as an expression.
    #[serde(default)]
    pub options: Option<String>,
}

fn space() -> String {
    " ".to_owned()
}

fn blank_line() -> String {
    "\n\n".to_owned()
}

/// A row, and where it stands.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its file.
    pub path: PathBuf,
    /// Its number there, from 1 on.
    pub number: u64,
    /// Its fields.
    pub fields: Value,
}

impl Task {
    /// Reads a page. Errors: it is no TOML, has keys that no task has, or contradicts itself.
    pub fn parse(page: &str, of: &str) -> Result<Task, EvalError> {
        let wrong = |what: String| EvalError::Task { task: of.to_owned(), what };
        let task: Task = toml::from_str(page).map_err(|e| wrong(e.to_string()))?;
        task.checked()
    }

    /// The same task. Errors: it contradicts itself.
    pub(crate) fn checked(self) -> Result<Task, EvalError> {
        match self.check() {
            Ok(()) => Ok(self),
            Err(what) => Err(EvalError::Task { task: self.name, what }),
        }
    }

    fn check(&self) -> Result<(), String> {
        let name = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if self.name.is_empty() || !self.name.chars().all(name) {
            return Err(format!(
                "its name {:?} is more than letters, digits, _, - and .",
                self.name
            ));
        }
        if self.form.is_empty() {
            return Err("it has no form of rows".to_owned());
        }
        if !self.scorer.metrics().contains(&self.metric.as_str()) {
            let known = self.scorer.metrics().join(", ");
            return Err(format!("its metric is {:?}, its scorer gives {known}", self.metric));
        }
        if self.by_group && self.group.is_none() {
            return Err("macro = true needs a group".to_owned());
        }
        if self.shots.apart && self.cluster.is_none() {
            return Err("shots that stand apart need a cluster".to_owned());
        }
        let written = self.scorer.written();
        if written != self.write.is_some() {
            return Err(
                "[write] belongs to answers that are written, and to these alone".to_owned()
            );
        }
        if let Some(take) = self.write.as_ref().and_then(|write| write.take.as_ref()) {
            let groups = Regex::new(take).map(|regex| regex.captures_len());
            if groups.map_err(|e| format!("take is {take:?}: {e}"))? < 2 {
                return Err(format!("take is {take:?}, which has no group"));
            }
        }
        if let Some(write) = &self.write {
            if write.max_tokens == 0 {
                return Err("max_tokens of [write] is 0".to_owned());
            }
            if write.until.iter().any(String::is_empty) {
                return Err("until of [write] has an empty text".to_owned());
            }
        }
        for form in &self.form {
            let chosen = form.choices.is_some() && form.gold.is_some();
            if !written && !chosen {
                return Err("a form of choices needs choices and gold".to_owned());
            }
            if written && (form.reference.is_none() || chosen || form.texts.is_some()) {
                return Err("a form of written answers has text, reference and shot".to_owned());
            }
        }
        Ok(())
    }

    /// The form of a row.
    pub fn form(&self, row: &Row) -> Result<&Form, EvalError> {
        let has = |form: &&Form| {
            form.has.iter().all(|field| row.fields.get(field).is_some_and(|value| !value.is_null()))
        };
        self.form.iter().find(has).ok_or_else(|| {
            let forms: Vec<String> = self.form.iter().map(|f| f.has.join(", ")).collect();
            self.row_error(row, format!("it has the fields of none of: {}", forms.join("; ")))
        })
    }

    /// An error of a row.
    pub(crate) fn row_error(&self, row: &Row, what: String) -> EvalError {
        EvalError::Row { task: self.name.clone(), path: row.path.clone(), row: row.number, what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_contradicts_itself_is_refused() {
        let page = "name = \"t\"\nversion = 1\nabout = \"\"\ncitation = \"\"\nfiles = [\"t\"]\nscorer = \"choice\"\nmetric = \"acc\"\n";
        let form = "[[form]]\nhas = [\"q\"]\ntext = \"{{q}}\"\nchoices = \"c\"\ngold = \"0\"\n";
        assert!(Task::parse(&format!("{page}{form}"), "t").is_ok());
        let error = |page: String| Task::parse(&page, "t").unwrap_err().to_string();
        assert!(error(page.to_owned()).contains("form"));
        assert!(error(format!("{}{form}", page.replace("acc", "f1"))).contains("f1"));
        assert!(error(format!("{page}macro = true\n{form}")).contains("group"));
        assert!(error(format!("{page}{form}golt = 1\n")).contains("golt"));
        assert!(error(format!("{page}[[form]]\nhas = []\n")).contains("choices"));
        let written = page.replace("choice", "match").replace("acc", "exact_match");
        let form = "[[form]]\nhas = [\"q\"]\nreference = \"q\"\n";
        let take = |take: &str| {
            format!("{written}write = {{ until = [], max_tokens = 1, take = '{take}' }}\n{form}")
        };
        assert!(Task::parse(&take("is (.)"), "t").is_ok());
        assert!(error(take("is .")).contains("no group") && error(take("(")).contains("take"));
    }
}
