//! Receipts to look at: a page that stands alone, and a table.

use serde_json::{Value, json};

use crate::results::Scores;
use crate::suite::{Answer, Receipt};

/// What is shown of a task.
pub struct Shown<'a> {
    /// Its name.
    pub name: &'a str,
    /// What came of it.
    pub scores: &'a Scores,
    /// The receipts.
    pub receipts: &'a [Receipt],
}

/// Ids to text.
pub type Text<'a> = dyn Fn(&[u32]) -> String + 'a;

/// The page. Of each question the last `chars` characters are in it.
const PAGE: &str = include_str!("view.html");

/// A page of HTML with all that it shows in it, and nothing of elsewhere.
pub fn html(of: &Value, tasks: &[Shown<'_>], text: &Text<'_>, chars: usize) -> String {
    let one = |shown: &Shown<'_>| {
        let items = shown.receipts.iter().map(|receipt| item(shown, receipt, text, chars));
        json!({
            "name": shown.name,
            "metric": shown.scores.metric,
            "score": shown.scores.main(),
            "items": items.collect::<Vec<Value>>(),
        })
    };
    let data = json!({ "of": of, "tasks": tasks.iter().map(one).collect::<Vec<Value>>() });
    // Whatever a model wrote stays text: within a script only `<` could end it.
    PAGE.replace("@DATA@", &data.to_string().replace('<', "\\u003c"))
}

fn item(shown: &Shown<'_>, receipt: &Receipt, text: &Text<'_>, chars: usize) -> Value {
    let answer = |answer: &Answer| {
        let sum = answer.log_probs.as_ref().map(|log_probs| log_probs.iter().sum::<f64>());
        json!({ "text": said(answer, text), "nats": sum })
    };
    json!({
        "item": receipt.item,
        "row": receipt.row,
        "group": receipt.group,
        "cut": receipt.cut,
        "right": is_right(shown, receipt),
        "prompts": receipt.prompts.iter().map(|ids| end(&text(ids), chars)).collect::<Vec<_>>(),
        "answers": receipt.answers.iter().map(answer).collect::<Vec<_>>(),
        "taken": receipt.taken,
        "gold": receipt.gold,
        "scores": receipt.scores,
    })
}

/// Whether the task's own score is whole.
fn is_right(shown: &Shown<'_>, receipt: &Receipt) -> bool {
    receipt.scores.get(&shown.scores.metric).is_some_and(|score| *score >= 1.0)
}

fn said(answer: &Answer, text: &Text<'_>) -> String {
    answer.text.clone().unwrap_or_else(|| text(&answer.ids))
}

/// The last `chars` characters of a text, marked where more stood before.
fn end(text: &str, chars: usize) -> String {
    let more = text.chars().count().saturating_sub(chars);
    let kept: String = text.chars().skip(more).collect();
    if more > 0 { format!("[...]{kept}") } else { kept }
}

/// The receipts as a table: a line each, fields between commas (RFC 4180).
pub fn csv(tasks: &[Shown<'_>], text: &Text<'_>, chars: usize) -> String {
    let head = ["task", "item", "row", "group", "right", "question", "answers", "taken", "gold"];
    let mut table = line(&[&head.map(str::to_owned)[..], &["scores".to_owned()]].concat());
    for shown in tasks {
        for receipt in shown.receipts {
            let question = receipt.prompts.first().map_or_else(String::new, |ids| text(ids));
            let answers: Vec<String> = receipt.answers.iter().map(|a| said(a, text)).collect();
            table += &line(&[
                shown.name.to_owned(),
                receipt.item.to_string(),
                receipt.row.to_string(),
                receipt.group.clone().unwrap_or_default(),
                is_right(shown, receipt).to_string(),
                end(&question, chars),
                answers.join("\n"),
                plain(&receipt.taken),
                plain(&receipt.gold),
                json!(receipt.scores).to_string(),
            ]);
        }
    }
    table
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn line(fields: &[String]) -> String {
    let quoted = |field: &String| match field.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.clone(),
    };
    let fields: Vec<String> = fields.iter().map(quoted).collect();
    fields.join(",") + "\r\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue;
    use std::collections::BTreeMap;

    fn shown_with(answer: &str, show: impl FnOnce(&Shown<'_>)) {
        let task = catalogue::find("triviaqa").unwrap();
        let written = Answer {
            prompt: 0,
            ids: vec![1],
            log_probs: None,
            greedy: None,
            text: Some(answer.to_owned()),
            full: Some(false),
        };
        let scores = BTreeMap::from([("em".to_owned(), 1.0), ("f1".to_owned(), 1.0)]);
        let receipt = Receipt {
            item: 0,
            row: 1,
            group: None,
            cluster: None,
            by: String::new(),
            prompts: vec![vec![7; 9]],
            answers: vec![written],
            cut: 0,
            taken: "a,b".into(),
            gold: "c\"d".into(),
            scores,
            parts: BTreeMap::new(),
            ended: vec![],
        };
        let receipts = [receipt];
        let scores = Scores::of(&task, 0, &receipts);
        show(&Shown { name: "triviaqa", scores: &scores, receipts: &receipts });
    }

    #[test]
    fn what_a_model_wrote_stays_text() {
        shown_with("</script><script>alert(1)</script>", |shown| {
            let text = |ids: &[u32]| "<b>".repeat(ids.len());
            let page = html(&json!({}), std::slice::from_ref(shown), &text, 6);
            assert_eq!(page.matches("</script>").count(), 2, "the page's own");
            assert!(page.contains("[...]\\u003cb>\\u003cb>\"") && !page.contains("@DATA@"));
            let data =
                page.split("id=\"data\">").nth(1).unwrap().split("</script>").next().unwrap();
            let data: Value = serde_json::from_str(data).unwrap();
            assert_eq!(data["tasks"][0]["items"][0]["right"], true);
        });
    }

    #[test]
    fn a_table_quotes_what_would_break_it() {
        shown_with("x\ny", |shown| {
            let table = csv(std::slice::from_ref(shown), &|_: &[u32]| "q".to_owned(), 9);
            let rest = table.split_once("\r\n").unwrap().1;
            let wanted = "triviaqa,0,1,,true,q,\"x\ny\",\"a,b\",\"c\"\"d\",";
            assert!(rest.starts_with(wanted), "{rest}");
        });
    }
}
