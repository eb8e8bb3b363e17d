//! How much a score hangs on things that should not matter: the names of answers, their order, the
//! labels of examples, the words before the question (arXiv 2407.21783, section 5.1.2).
//!
//! A task whose form says what it asks and which options it has (`asks`, `options`) is put in other
//! words, variant by variant; each is a task of its own over the same rows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::EvalError;
use crate::item::cluster;
use crate::results::Scores;
use crate::score::Scorer;
use crate::task::{Form, Row, Shots, Task};
use crate::template::{render, value};

/// Options of a question: variants are of so many.
const OPTIONS: usize = 4;

/// Examples whose labels are set.
const LABELLED_SHOTS: usize = 4;

/// A way to put a task.
struct Variant {
    family: &'static str,
    name: &'static str,
    /// The names of options, and what stands behind each.
    labels: [&'static str; OPTIONS],
    behind: &'static str,
    /// Which option stands at each place.
    order: [usize; OPTIONS],
    /// Where the right option of each example stands.
    shots: Option<[usize; LABELLED_SHOTS]>,
    prompt: Prompt,
}

/// What stands before everything.
#[derive(Clone, Copy)]
enum Prompt {
    Own,
    Bare,
    Task,
    Expert,
    Best,
}

const PLAIN: Variant = Variant {
    family: "plain",
    name: "plain",
    labels: ["A", "B", "C", "D"],
    behind: ". ",
    order: [0, 1, 2, 3],
    shots: None,
    prompt: Prompt::Own,
};

/// All of them; what each family's first is compared with is the task as it stands.
const VARIANTS: [Variant; 18] = [
    Variant { family: "labels", name: "letters", ..PLAIN },
    Variant { family: "labels", name: "brackets", behind: ") ", ..PLAIN },
    Variant { family: "labels", name: "numbers", labels: ["1", "2", "3", "4"], ..PLAIN },
    Variant { family: "labels", name: "signs", labels: ["$", "&", "#", "@"], ..PLAIN },
    Variant { family: "labels", name: "rare", labels: ["œ", "§", "з", "ü"], ..PLAIN },
    Variant { family: "order", name: "ABCD", ..PLAIN },
    Variant { family: "order", name: "BACD", order: [1, 0, 2, 3], ..PLAIN },
    Variant { family: "order", name: "BCAD", order: [1, 2, 0, 3], ..PLAIN },
    Variant { family: "order", name: "DCBA", order: [3, 2, 1, 0], ..PLAIN },
    Variant { family: "shots", name: "ABCD", shots: Some([0, 1, 2, 3]), ..PLAIN },
    Variant { family: "shots", name: "AADD", shots: Some([0, 0, 3, 3]), ..PLAIN },
    Variant { family: "shots", name: "BBCC", shots: Some([1, 1, 2, 2]), ..PLAIN },
    Variant { family: "shots", name: "AAAA", shots: Some([0, 0, 0, 0]), ..PLAIN },
    Variant { family: "prompt", name: "bare", prompt: Prompt::Bare, ..PLAIN },
    Variant { family: "prompt", name: "own", ..PLAIN },
    Variant { family: "prompt", name: "task", prompt: Prompt::Task, ..PLAIN },
    Variant { family: "prompt", name: "expert", prompt: Prompt::Expert, ..PLAIN },
    Variant { family: "prompt", name: "best", prompt: Prompt::Best, ..PLAIN },
];

/// A task put in other words, with its rows.
pub struct Put {
    /// The task, named `TASK.FAMILY.VARIANT`.
    pub task: Task,
    /// Its rows.
    pub rows: Vec<Row>,
    /// The rows of its examples.
    pub shots: Option<Vec<Row>>,
}

/// How the scores of a family lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The least of its scores.
    pub least: f64,
    /// The greatest.
    pub most: f64,
    /// Their difference.
    pub spread: f64,
}

/// A task in all variants, over its rows.
///
/// Errors: its answers are not named by letters; a row has not four options.
pub fn variants(task: &Task, rows: &[Row], shots: Option<&[Row]>) -> Result<Vec<Put>, EvalError> {
    let options = task.form.iter().any(|form| form.asks.is_some() && form.options.is_some());
    if task.scorer != Scorer::Choice || !options {
        let what = "its forms do not say what is asked and which options there are (asks, options)";
        return Err(EvalError::Task { task: task.name.clone(), what: what.to_owned() });
    }
    let bare = |rows: &[Row]| rows.iter().map(|row| bared(task, row)).collect::<Result<_, _>>();
    let rows: Vec<Row> = bare(rows)?;
    let shots: Option<Vec<Row>> = shots.map(bare).transpose()?;
    let put = |variant: &Variant| {
        let rows = rows.iter().map(|row| ordered(row, &variant.order)).collect();
        let shots = shots.as_deref().map(|shots| of_shots(task, shots, variant));
        Put { task: put(task, variant), rows, shots }
    };
    Ok(VARIANTS.iter().map(put).collect())
}

/// A row as its question, its options and the right one's place, beside its group and cluster.
fn bared(task: &Task, row: &Row) -> Result<Row, EvalError> {
    let wrong = |what: String| task.row_error(row, what);
    let form = task.form(row)?;
    let (Some(asks), Some(options), Some(gold)) = (&form.asks, &form.options, &form.gold) else {
        return Err(wrong("its form does not say what is asked and which options".to_owned()));
    };
    let question = render(asks, &row.fields).map_err(wrong)?;
    let options: Vec<String> = value(options, &row.fields).map_err(wrong)?;
    let gold: usize = value(gold, &row.fields).map_err(wrong)?;
    if options.len() != OPTIONS || gold >= OPTIONS {
        let what = format!("{} options, variants are of {OPTIONS}", options.len());
        return Err(wrong(what));
    }
    let mut fields = json!({ "question": question, "options": options, "gold": gold });
    if let Some(name) = &task.group {
        fields[name] = row.fields.get(name).cloned().unwrap_or_default();
    }
    if let (Some(name), Some(of)) = (&task.cluster, cluster(task, row)?) {
        fields[name] = of.into();
    }
    Ok(Row { fields, ..row.clone() })
}

/// A row with its options in another order.
fn ordered(row: &Row, order: &[usize; OPTIONS]) -> Row {
    let mut row = row.clone();
    let options = order.map(|from| row.fields["options"][from].clone());
    let gold = row.fields["gold"].as_u64().unwrap_or_default() as usize;
    let place = order.iter().position(|&from| from == gold).unwrap_or_default();
    row.fields["options"] = Value::Array(options.to_vec());
    row.fields["gold"] = place.into();
    row
}

/// Examples in the order of a variant; the right option of the i-th of each group where the variant
/// wants it, in place of the one that stands there.
fn of_shots(task: &Task, shots: &[Row], variant: &Variant) -> Vec<Row> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let one = |row: &Row| {
        let row = ordered(row, &variant.order);
        let Some(wanted) = variant.shots else { return row };
        let group = task.group.as_ref().map(|name| row.fields[name].to_string());
        let number = seen.entry(group.unwrap_or_default()).or_default();
        let place = wanted[*number % wanted.len()];
        *number += 1;
        let gold = row.fields["gold"].as_u64().unwrap_or_default() as usize;
        let mut order = [0, 1, 2, 3];
        order.swap(gold, place);
        ordered(&row, &order)
    };
    shots.iter().map(one).collect()
}

/// The task of a variant.
fn put(task: &Task, variant: &Variant) -> Task {
    let topic = match &task.group {
        Some(name) => format!("{{{{{name} | replace('_', ' ')}}}}"),
        None => "the matter".to_owned(),
    };
    let description = match variant.prompt {
        Prompt::Own => task.description.clone(),
        Prompt::Bare => String::new(),
        Prompt::Task => "Answer the following multiple choice questions.\n\n".to_owned(),
        Prompt::Expert => format!(
            "You are an expert on {topic}. Answer the following multiple choice questions.\n\n"
        ),
        Prompt::Best => format!(
            "You are an expert on {topic}. Read each of the following questions, think about all of \
             its answers, and choose the best one.\n\n"
        ),
    };
    let labels = json!(variant.labels);
    let behind = Value::from(variant.behind);
    let text = format!(
        "{{{{question}}}}\n{{% for text in options %}}{{{{{labels}[loop.index0]}}}}{{{{{behind}}}}}\
         {{{{text}}}}\n{{% endfor %}}Answer:"
    );
    let number = if variant.shots.is_some() { LABELLED_SHOTS } else { task.shots.number };
    let first = task.shots.first || variant.shots.is_some();
    Task {
        name: format!("{}.{}.{}", task.name, variant.family, variant.name),
        description,
        shots: Shots { number, first, ..task.shots.clone() },
        form: vec![Form {
            has: ["question", "options", "gold"].map(str::to_owned).to_vec(),
            text,
            texts: None,
            choices: Some(labels.to_string()),
            gold: Some("gold".to_owned()),
            shot: None,
            reference: None,
            asks: None,
            options: None,
        }],
        ..task.clone()
    }
}

/// How far apart the scores of each family are, by `TASK.FAMILY`.
pub fn spreads(tasks: &BTreeMap<String, Scores>) -> BTreeMap<String, Spread> {
    let mut families: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (name, scores) in tasks {
        if let Some((family, _)) = name.rsplit_once('.') {
            families.entry(family.to_owned()).or_default().push(scores.main().value);
        }
    }
    let spread = |values: Vec<f64>| {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Spread { least, most, spread: most - least }
    };
    families.into_iter().map(|(name, values)| (name, spread(values))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue;
    use crate::item::{Ask, Drawn, Item, items};

    fn row(number: u64, answer: usize) -> Row {
        let fields = json!({
            "subject": "high_school", "question": format!("q{number}"), "answer": answer,
            "choices": ["w", "x", "y", "z"],
        });
        Row { path: "t".into(), number, fields }
    }

    fn of(put: &Put) -> Item {
        let drawn = Drawn { number: put.task.shots.number, seed: 0 };
        items(&put.task, &put.rows, put.shots.as_deref(), drawn, None).unwrap().swap_remove(0)
    }

    #[test]
    fn the_right_option_is_right_in_every_variant_and_labels_of_examples_are_as_wanted() {
        let task = catalogue::find("mmlu").unwrap();
        let shots: Vec<Row> = (0..5).map(|i| row(i + 10, (i % 3) as usize)).collect();
        let all = variants(&task, &[row(1, 2)], Some(&shots)).unwrap();
        assert_eq!(all.len(), VARIANTS.len());
        for put in &all {
            let item = of(put);
            let Ask::Choose { texts, choices, gold } = item.ask else { unreachable!() };
            let named = choices[gold].clone();
            let line = texts[0].lines().find(|line| line.starts_with(&named)).unwrap();
            assert!(line.ends_with('y'), "{}: {}", put.task.name, texts[0]);
            let name = put.task.name.strip_prefix("mmlu.shots.");
            let labels: String = item.shots.iter().map(|(_, answer)| answer.as_str()).collect();
            match name {
                Some(name) => assert_eq!(labels, name),
                None => assert_eq!(item.shots.len(), 5),
            }
        }
        let put = |name: &str| of(all.iter().find(|put| put.task.name == name).unwrap());
        let plain = items(&task, &[row(1, 2)], Some(&shots), Drawn { number: 5, seed: 0 }, None);
        for name in ["mmlu.labels.letters", "mmlu.order.ABCD", "mmlu.prompt.own"] {
            assert_eq!(put(name), plain.as_ref().unwrap()[0], "{name} is the task as it stands");
        }
        assert!(put("mmlu.prompt.expert").description.contains("expert on high school."));
        let Ask::Choose { texts, .. } = put("mmlu.order.BACD").ask else { unreachable!() };
        assert!(texts[0].contains("A. x\nB. w\nC. y\n"), "{}", texts[0]);
    }

    #[test]
    fn tasks_without_options_and_rows_without_four_are_refused() {
        let refused = |name: &str, rows: &[Row]| {
            let task = catalogue::find(name).unwrap();
            variants(&task, rows, None).err().unwrap().to_string()
        };
        assert!(refused("piqa", &[]).contains("asks, options"));
        let mut short = row(3, 1);
        short.fields["choices"] = json!(["a", "b"]);
        assert!(refused("mmlu", &[short]).contains("2 options"));
    }
}
