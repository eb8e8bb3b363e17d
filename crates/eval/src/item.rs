//! Rows to questions: the text, the examples before it, and what counts as right.

use serde_json::Value;

use crate::error::EvalError;
use crate::score::Scorer;
use crate::task::{Form, Row, Task};
use crate::template::{render, value};

/// A question of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Its place among the task's items.
    pub number: usize,
    /// The file and row that it was made of.
    pub row: u64,
    /// The group that its score also counts for.
    pub group: Option<String>,
    /// What it shares with others that stand or fall with it.
    pub cluster: Option<String>,
    /// Text before everything.
    pub description: String,
    /// Questions and answers of the examples.
    pub shots: Vec<(String, String)>,
    /// What is asked.
    pub ask: Ask,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// Which of some answers is the likeliest.
    Choose {
        /// The questions: one for all answers, or one each.
        texts: Vec<String>,
        /// The answers.
        choices: Vec<String>,
        /// The place of the right one.
        gold: usize,
    },
    /// An answer.
    Write {
        /// The question.
        text: String,
        /// What the answer is compared with.
        reference: Value,
    },
}

/// How many examples, and which are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// Examples before each question.
    pub number: usize,
    /// What the draw depends on, beside the row.
    pub seed: u64,
}

/// The items of a task's rows, `limit` at most.
///
/// Errors: a row that no form of the task can read; too few examples.
pub fn items(
    task: &Task,
    rows: &[Row],
    shots: Option<&[Row]>,
    drawn: Drawn,
    limit: Option<usize>,
) -> Result<Vec<Item>, EvalError> {
    let most = limit.unwrap_or(usize::MAX);
    rows.iter()
        .take(most)
        .enumerate()
        .map(|(i, row)| item(task, rows, shots, drawn, i, row))
        .collect()
}

fn item(
    task: &Task,
    rows: &[Row],
    shots: Option<&[Row]>,
    drawn: Drawn,
    number: usize,
    row: &Row,
) -> Result<Item, EvalError> {
    let wrong = |what| task.row_error(row, what);
    let form = task.form(row)?;
    let field = |name: &Option<String>| {
        let Some(name) = name else { return Ok(None) };
        let found = row.fields.get(name).map(plain);
        found.map(Some).ok_or_else(|| wrong(format!("it has no {name}")))
    };
    let ask = ask(task, form, &row.fields).map_err(wrong)?;
    if let Ask::Write { reference, .. } = &ask {
        task.scorer.check(reference).map_err(wrong)?;
    }
    let mut examples = Vec::new();
    for shot in choose(task, rows, shots, drawn, row)? {
        examples.push(example(task, shot)?);
    }
    Ok(Item {
        number,
        row: row.number,
        group: field(&task.group)?,
        cluster: cluster(task, row)?,
        description: render(&task.description, &row.fields).map_err(wrong)?,
        shots: examples,
        ask,
    })
}

fn ask(task: &Task, form: &Form, fields: &Value) -> Result<Ask, String> {
    let Some(choices) = &form.choices else {
        let reference = form.reference.as_deref().unwrap_or("none");
        return Ok(Ask::Write {
            text: render(&form.text, fields)?,
            reference: value(reference, fields)?,
        });
    };
    let choices: Vec<String> = value(choices, fields)?;
    let gold = value::<i64>(form.gold.as_deref().unwrap_or("none"), fields)?;
    let texts = match &form.texts {
        Some(texts) => value(texts, fields)?,
        None => vec![render(&form.text, fields)?],
    };
    let least = if task.scorer == Scorer::Follow { 1 } else { 2 };
    if choices.len() < least && texts.len() < least {
        return Err(format!("{} answers to choose from", choices.len()));
    }
    let several = choices.len().max(texts.len());
    if task.scorer == Scorer::Follow && several > 1 {
        return Err(format!("{several} answers, where one is followed"));
    }
    if (choices.len() != several && choices.len() != 1)
        || (texts.len() != several && texts.len() != 1)
    {
        return Err(format!("{} questions and {} answers", texts.len(), choices.len()));
    }
    let gold = usize::try_from(gold).ok().filter(|&gold| gold < several);
    let gold = gold.ok_or_else(|| format!("the right answer is none of {several}"))?;
    Ok(Ask::Choose { texts, choices, gold })
}

/// A row as an example: its question, and its answer with what stands before it.
fn example(task: &Task, row: &Row) -> Result<(String, String), EvalError> {
    let wrong = |what| task.row_error(row, what);
    let form = task.form(row)?;
    if let Some(shot) = &form.shot {
        let text = render(&form.text, &row.fields).map_err(wrong)?;
        return Ok((text, render(shot, &row.fields).map_err(wrong)?));
    }
    match ask(task, form, &row.fields).map_err(wrong)? {
        Ask::Choose { mut texts, mut choices, gold } => {
            let of = |all: &mut Vec<String>| all.swap_remove(if all.len() == 1 { 0 } else { gold });
            Ok((of(&mut texts), of(&mut choices)))
        }
        Ask::Write { .. } => Err(wrong("the task has no form of examples".to_owned())),
    }
}

/// The rows of a question's examples.
fn choose<'a>(
    task: &Task,
    rows: &'a [Row],
    shots: Option<&'a [Row]>,
    drawn: Drawn,
    row: &Row,
) -> Result<Vec<&'a Row>, EvalError> {
    if drawn.number == 0 {
        return Ok(Vec::new());
    }
    let field = |name: &Option<String>, row: &Row| {
        name.as_ref().and_then(|name| row.fields.get(name)).cloned()
    };
    let (own, passage) = (field(&task.group, row), cluster(task, row)?);
    let other = |shot: &&Row| (&shot.path, shot.number) != (&row.path, row.number);
    let mut open: Vec<&Row> = shots
        .unwrap_or(rows)
        .iter()
        .filter(other)
        .filter(|shot| !task.shots.of_group || field(&task.group, shot) == own)
        .filter(|shot| !task.shots.apart || !cluster(task, shot).is_ok_and(|of| of == passage))
        .collect();
    if open.len() < drawn.number {
        let what = format!("{} examples are wanted, {} are there", drawn.number, open.len());
        return Err(task.row_error(row, what));
    }
    if !task.shots.first {
        // The order of a draw without putting back, by numbers of the seed and the row.
        for at in 0..drawn.number {
            let key = format!("{}/{}/{at}", drawn.seed, row.number);
            let word = herd_data::Hash::of(key.as_bytes()).word();
            let left = (open.len() - at) as u64;
            open.swap(at, at + (word % left) as usize);
        }
    }
    open.truncate(drawn.number);
    Ok(open)
}

/// What a row shares with others: a field, else what the expression gives.
///
/// Errors: it is neither.
pub(crate) fn cluster(task: &Task, row: &Row) -> Result<Option<String>, EvalError> {
    let Some(of) = &task.cluster else { return Ok(None) };
    if let Some(found) = row.fields.get(of) {
        return Ok(Some(plain(found)));
    }
    match value::<Value>(of, &row.fields) {
        Ok(Value::Null) => Err(task.row_error(row, format!("it has no {of}"))),
        Ok(found) => Ok(Some(plain(&found))),
        Err(what) => Err(task.row_error(row, format!("cluster = {of:?}: {what}"))),
    }
}

/// A field as a text.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn task(more: &str) -> Task {
        let page = format!(
            "name = \"t\"\nversion = 1\nabout = \"\"\ncitation = \"\"\nfiles = [\"t\"]\nscorer = \"choice\"\nmetric = \"acc\"\n{more}\n[[form]]\nhas = [\"q\", \"c\"]\ntext = \"Q: {{{{q}}}}\\nA:\"\nchoices = \"c\"\ngold = \"g\"\n"
        );
        Task::parse(&page, "t").unwrap()
    }

    fn row(number: u64, fields: Value) -> Row {
        Row { path: "t".into(), number, fields }
    }

    #[test]
    fn a_row_is_never_its_own_example_and_draws_are_repeated() {
        let task = task("shots = { number = 2 }");
        let rows: Vec<Row> =
            (1..6).map(|n| row(n, json!({ "q": n, "c": ["a", "b"], "g": n % 2 }))).collect();
        let drawn = Drawn { number: 2, seed: 1 };
        let made = items(&task, &rows, None, drawn, None).unwrap();
        for item in &made {
            let Ask::Choose { texts, .. } = &item.ask else { unreachable!() };
            assert!(item.shots.iter().all(|(question, _)| question != &texts[0]));
            assert_ne!(item.shots[0], item.shots[1]);
        }
        assert_eq!(made, items(&task, &rows, None, drawn, None).unwrap());
        assert_eq!(made[..2], items(&task, &rows, None, drawn, Some(2)).unwrap()[..]);
        let other = Drawn { seed: 2, ..drawn };
        assert_ne!(made, items(&task, &rows, None, other, None).unwrap());
        let many = Drawn { number: 5, ..drawn };
        assert!(
            items(&task, &rows, None, many, None).unwrap_err().to_string().contains("4 are there")
        );
    }

    #[test]
    fn what_rows_share_may_stand_within_a_field() {
        let task = task("cluster = \"q.split(' Q: ')[0]\"");
        let of = |q: &str| cluster(&task, &row(1, json!({ "q": q, "c": ["a", "b"], "g": 0 })));
        assert_eq!(of("one Q: who?").unwrap(), of("one Q: whose?").unwrap());
        assert_ne!(of("one Q: who?").unwrap(), of("two Q: who?").unwrap());
        let none = cluster(&task, &row(1, json!({ "c": ["a", "b"], "g": 0 }))).unwrap_err();
        assert!(none.to_string().contains("q.split"), "{none}");
    }

    #[test]
    fn examples_that_stand_apart_are_of_no_row_of_the_same_cluster() {
        let task = task("cluster = \"p\"\nshots = { number = 1, apart = true }");
        let rows: Vec<Row> = (1..5)
            .map(|n| row(n, json!({ "q": n, "p": n % 2, "c": ["a", "b"], "g": 0 })))
            .collect();
        let made = items(&task, &rows, None, Drawn { number: 2, seed: 1 }, None).unwrap();
        let even = ["Q: 2\nA:", "Q: 4\nA:"];
        assert!(made[0].shots.iter().all(|(question, _)| even.contains(&question.as_str())));
        let many = Drawn { number: 3, seed: 1 };
        let error = items(&task, &rows, None, many, None).unwrap_err().to_string();
        assert!(error.contains("2 are there"), "{error}");
    }

    #[test]
    fn a_row_that_makes_no_question_is_named() {
        let task = task("");
        let none = Drawn { number: 0, seed: 0 };
        let error = |fields| {
            let rows = [row(7, fields)];
            items(&task, &rows, None, none, None).unwrap_err().to_string()
        };
        assert!(error(json!({ "q": 1 })).contains("row 7"));
        assert!(error(json!({ "q": 1, "c": ["a"], "g": 0 })).contains("1 answers"));
        assert!(error(json!({ "q": 1, "c": ["a", "b"], "g": 2 })).contains("none of 2"));
        assert!(error(json!({ "q": 1, "c": "ab", "g": 0 })).contains("row 7"));
    }
}
