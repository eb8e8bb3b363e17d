//! Votes to preference rows, as `herd reward` and `herd dpo` read them.

use std::collections::BTreeMap;
use std::path::Path;

use herd_data::dialogue::Strength;
use herd_data::disk::{RealDisk, replace};
use herd_serve::arena::{Counted, Turn};
use serde_json::{Value, json};

use crate::arena::report::left_out;
use crate::error::Error;

/// What became of the votes.
#[derive(Debug, Default, serde::Serialize)]
pub struct Summary {
    /// Rows that were written.
    pub rows: usize,
    /// Of these, with an edited answer.
    pub edited: usize,
    /// Votes without a row, by the reason.
    pub dropped: BTreeMap<&'static str, usize>,
}

/// Writes a row for each vote that prefers an answer, but for those of the judges `without`.
///
/// Errors: nobody of such a name voted; a path without a name; the disk.
pub fn write(votes: &[Counted], without: &[String], out: &Path) -> Result<Summary, Error> {
    let without = left_out(votes.iter().map(|vote| &vote.judge), without)?;
    let mut summary = Summary::default();
    let mut text = String::new();
    for vote in votes {
        let row = match without.contains_key(&vote.judge) {
            true => Err("judge_left_out"),
            false => row(vote),
        };
        match row {
            Ok(row) => {
                summary.rows += 1;
                summary.edited += usize::from(row.get("edited").is_some());
                text += &format!("{row}\n");
            }
            Err(reason) => *summary.dropped.entry(reason).or_default() += 1,
        }
    }
    let Some(name) = out.file_name().and_then(|name| name.to_str()) else {
        let (what, got) = ("-o", out.display().to_string());
        return Err(Error::Value { what, got, expected: "a file such as ROWS.jsonl".to_owned() });
    };
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    replace(&RealDisk, folder, name, &[text.as_bytes()])?;
    Ok(summary)
}

/// The strength that a grade of the seven-point scale has on the four of preference rows (arXiv 2407.21783, sections 4.2.1 and
/// 5.3). "Marginally" is the fourth's least, for which the seven points have no word.
fn strength(grade: i8) -> Option<Strength> {
    match grade.abs() {
        3 => Some(Strength::SignificantlyBetter),
        2 => Some(Strength::Better),
        1 => Some(Strength::SlightlyBetter),
        _ => None,
    }
}

fn row(vote: &Counted) -> Result<Value, &'static str> {
    let grade = vote.grade.ok_or("no_verdict")?;
    let strength = strength(grade).ok_or("about_the_same")?;
    if vote.again {
        return Err("repeat");
    }
    let [left, right] = [&vote.left_said, &vote.right_said];
    let turns = left.len() - 1;
    if left[..turns] != right[..turns] {
        return Err("dialogues_differ"); // each model has heard itself: there is no prompt that both answer
    }
    let mut prompt = vote.prompt.messages.clone();
    for (said, next) in left.iter().zip(&vote.prompt.turns) {
        prompt.extend([Turn::new("assistant", said.clone()), Turn::new("user", next.clone())]);
    }
    let [mut better, mut worse] = [(&vote.left, &left[turns]), (&vote.right, &right[turns])];
    if grade < 0 {
        std::mem::swap(&mut better, &mut worse);
    }
    if [better.1, worse.1].iter().any(|text| text.trim().is_empty()) {
        return Err("empty_answer");
    }
    let mut row = json!({
        "prompt": prompt,
        "chosen": better.1,
        "rejected": worse.1,
        "strength": strength.name(),
        "skill": vote.prompt.skill,
        "id": vote.prompt.name,
        "judge": vote.judge,
        "chosen_model": better.0,
        "rejected_model": worse.0,
    });
    if let Some(difficulty) = &vote.prompt.difficulty {
        row["difficulty"] = difficulty.clone().into();
    }
    if let Some(edited) = &vote.edited {
        row["edited"] = edited.clone().into();
    }
    Ok(row)
}

#[cfg(test)]
mod tests {
    use herd_data::dialogue::comparison;
    use herd_serve::arena::Prompt;

    use super::*;

    fn vote(grade: Option<i8>) -> Counted {
        Counted {
            judge: "ann".to_owned(),
            prompt: Prompt {
                name: "x".to_owned(),
                skill: "coding".to_owned(),
                difficulty: None,
                messages: vec![Turn::new("user", "q")],
                turns: Vec::new(),
            },
            root: 1,
            prompt_id: 1,
            left: "a".to_owned(),
            right: "b".to_owned(),
            left_said: vec!["left".to_owned()],
            right_said: vec!["right".to_owned()],
            grade,
            seconds: 1.0,
            edited: None,
            again: false,
        }
    }

    #[test]
    fn each_grade_has_its_strength_and_the_better_answer_is_chosen() {
        for (grade, expected, chosen) in [
            (3, Strength::SignificantlyBetter, "left"),
            (2, Strength::Better, "left"),
            (1, Strength::SlightlyBetter, "left"),
            (-1, Strength::SlightlyBetter, "right"),
            (-3, Strength::SignificantlyBetter, "right"),
        ] {
            let edited = Some("edited".to_owned());
            let row = row(&Counted { edited, ..vote(Some(grade)) }).unwrap();
            let read = comparison(&row, None).unwrap();
            assert_eq!(read.strength, Some(expected));
            let answers: Vec<String> = read.answers.iter().map(|answer| answer.text()).collect();
            assert_eq!(answers[..2], ["edited", chosen]);
        }
    }

    #[test]
    fn judges_may_be_left_out_and_rows_say_how_hard_they_were() {
        let mut hard = vote(Some(2));
        hard.prompt.difficulty = Some("hard".to_owned());
        let votes = [hard, Counted { judge: "bob".to_owned(), ..vote(Some(3)) }];
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("rows.jsonl");
        let summary = write(&votes, &["bob".to_owned()], &out).unwrap();
        assert_eq!((summary.rows, summary.dropped["judge_left_out"]), (1, 1));
        let text = std::fs::read_to_string(&out).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["difficulty"], "hard");
        let error = write(&votes, &["bop".to_owned()], &out).unwrap_err().line();
        assert!(error.contains("--without") && error.contains("ann, bob"), "{error}");
    }

    #[test]
    fn votes_without_a_row_say_why() {
        let mut differ = vote(Some(3));
        differ.prompt.turns = vec!["next".to_owned()];
        (differ.left_said, differ.right_said) =
            (vec!["a".into(), "b".into()], vec!["c".into(), "d".into()]);
        let empty = Counted { right_said: vec![" ".to_owned()], ..vote(Some(2)) };
        for (vote, reason) in [
            (vote(None), "no_verdict"),
            (vote(Some(0)), "about_the_same"),
            (Counted { again: true, ..vote(Some(3)) }, "repeat"),
            (differ, "dialogues_differ"),
            (empty, "empty_answer"),
        ] {
            assert_eq!(row(&vote), Err(reason));
        }
    }
}
