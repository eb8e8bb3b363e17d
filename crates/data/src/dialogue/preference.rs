//! Answers to one prompt, best first.

use herd_codec::chat::{Dialogue, Message, Role};
use serde_json::{Map, Value};

use super::messages::{answer, beside, given, prompt, weight};
use super::shape::{first, kind, need, no_dialogue};
use super::{Comparison, Strength};
use crate::Fault;

/// `chosen` and `rejected`, and `edited` where it is; the prompt beside them or within them.
pub(super) fn answers(row: &Map<String, Value>) -> Result<Comparison, Fault> {
    let keys = ["prompt", "messages", "conversations", "question"];
    let prompt = match first(row, &keys) {
        Some(_) => prompt(row, &keys)?,
        None => beside(row, within(row)?)?,
    };
    let mut answers = Vec::new();
    for key in ["edited", "chosen", "rejected"] {
        match row.get(key) {
            None | Some(Value::Null) if key == "edited" => {}
            None => return Err(no_dialogue(format!("it has no {key:?}"))),
            Some(value) => answers.push(answer_of(key, value, &prompt.messages)?),
        }
    }
    compared(row, prompt, answers)
}

fn compared(
    row: &Map<String, Value>,
    prompt: Dialogue,
    answers: Vec<Message>,
) -> Result<Comparison, Fault> {
    unweighted("the row", weight(row)?)?;
    Ok(Comparison { prompt, answers, strength: strength(row)? })
}

/// Errors: what is compared counts more, or less, than once.
fn unweighted(what: &str, weight: Option<f32>) -> Result<(), Fault> {
    match weight {
        None | Some(1.0) => Ok(()),
        Some(weight) => {
            let reason = "answers that are compared all weigh 1";
            Err(no_dialogue(format!("{what} has the weight {weight}: {reason}")))
        }
    }
}

/// An answer: a text, a message, or a list that ends in one; what a list has before it must end the prompt.
fn answer_of(key: &str, value: &Value, prompt: &[Message]) -> Result<Message, Fault> {
    let last = match value {
        Value::Array(items) => {
            let Some((last, before)) = items.split_last() else {
                return Err(no_dialogue("an answer is an empty list"));
            };
            if !prompt.ends_with(&given(before)?) {
                let (n, reason) = (items.len(), "only the last may be no part of the prompt");
                return Err(no_dialogue(format!("{key:?} has {n} messages, of which {reason}")));
            }
            last
        }
        one => one,
    };
    let (message, weight) = answer(last)?;
    unweighted(&format!("{key:?}"), weight)?;
    Ok(message)
}

/// The prompt that both lists of messages begin with.
fn within(row: &Map<String, Value>) -> Result<Vec<Message>, Fault> {
    let before = |key: &str| match row.get(key).and_then(Value::as_array) {
        Some(list) => given(&list[..list.len().saturating_sub(1)]),
        None => Err(no_dialogue("it has no prompt")),
    };
    let (chosen, rejected) = (before("chosen")?, before("rejected")?);
    match chosen == rejected {
        true => Ok(chosen),
        false => Err(no_dialogue("the two answers have different prompts")),
    }
}

/// One of the four words, or 1 (marginally) to 4 (significantly).
fn strength(row: &Map<String, Value>) -> Result<Option<Strength>, Fault> {
    let said = first(row, &["strength", "preference_strength"]);
    let unknown = |what: String| no_dialogue(format!("no such strength: {what}"));
    let strengths = [
        Strength::MarginallyBetter,
        Strength::SlightlyBetter,
        Strength::Better,
        Strength::SignificantlyBetter,
    ];
    match said {
        None => Ok(None),
        Some(Value::Number(n)) => {
            // A column of numbers with gaps is often one of floats.
            let whole = n.as_f64().filter(|n| n.fract() == 0.0 && (1.0..=4.0).contains(n));
            let found = whole.map(|n| strengths[n as usize - 1]);
            found.map(Some).ok_or_else(|| unknown(format!("{n}, not 1 to 4")))
        }
        Some(Value::String(text)) => {
            let name = text.trim().to_ascii_lowercase().replace([' ', '-'], "_");
            match serde_json::from_value(Value::String(name)) {
                Ok(strength) => Ok(Some(strength)),
                Err(_) => Err(unknown(format!("{text:?}"))),
            }
        }
        Some(other) => Err(unknown(kind(other).to_owned())),
    }
}

/// Two transcripts that differ in their last answer alone.
pub(super) fn hh_rlhf(row: &Map<String, Value>) -> Result<Comparison, Fault> {
    let (mut chosen, mut rejected) =
        (transcript(need(row, &["chosen"])?)?, transcript(need(row, &["rejected"])?)?);
    let answers = [chosen.pop(), rejected.pop()];
    if chosen != rejected {
        return Err(no_dialogue("the two transcripts differ before their last message"));
    }
    let answers: Option<Vec<Message>> = answers.into_iter().collect();
    let ends = answers.filter(|a| a.iter().all(|m| m.role == Role::Assistant));
    let answers = ends.ok_or_else(|| no_dialogue("a transcript does not end in an answer"))?;
    compared(row, beside(row, chosen)?, answers)
}

/// `\n\nHuman: ..\n\nAssistant: ..` as messages; a speaker who goes on has one message.
fn transcript(text: &str) -> Result<Vec<Message>, Fault> {
    const SPEAKERS: [(&str, Role); 2] =
        [("\n\nHuman:", Role::User), ("\n\nAssistant:", Role::Assistant)];
    let mut said: Vec<(Role, String)> = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let Some((mark, role)) = SPEAKERS.into_iter().find(|(mark, _)| rest.starts_with(mark))
        else {
            return Err(no_dialogue("a transcript does not begin with a speaker"));
        };
        rest = &rest[mark.len()..];
        let end = SPEAKERS.iter().filter_map(|(mark, _)| rest.find(mark)).min();
        let (words, others) = rest.split_at(end.unwrap_or(rest.len()));
        rest = others;
        let words = words.trim();
        match said.last_mut() {
            Some((last, text)) if *last == role => {
                text.push_str("\n\n");
                text.push_str(words);
            }
            _ => said.push((role, words.to_owned())),
        }
    }
    Ok(said.into_iter().map(|(role, words)| Message::new(role, words)).collect())
}

#[cfg(test)]
mod tests {
    use super::super::comparison;
    use super::*;

    fn read(json: &str) -> Result<Comparison, Fault> {
        comparison(&serde_json::from_str(json).unwrap(), None)
    }

    #[test]
    fn answers_come_best_first_whatever_the_shape() {
        let told = |json: &str| {
            let found = read(json).unwrap();
            let texts =
                |messages: &[Message]| messages.iter().map(Message::text).collect::<Vec<_>>();
            (texts(&found.prompt.messages), texts(&found.answers), found.strength)
        };
        let (a, b) = (vec!["q".to_owned()], vec!["good".to_owned(), "bad".to_owned()]);
        for json in [
            r#"{"prompt":"q","chosen":"good","rejected":"bad","strength":"significantly better"}"#,
            r#"{"chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"good"}],
                "rejected":[{"role":"user","content":"q"},{"role":"assistant","content":"bad"}],"strength":4}"#,
            r#"{"conversations":[{"from":"human","value":"q"}],"chosen":{"from":"gpt","value":"good"},
                "rejected":{"from":"gpt","value":"bad"},"strength":"significantly_better"}"#,
            r#"{"prompt":"q","chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"good"}],
                "rejected":[{"role":"assistant","content":"bad","weight":1}],"strength":4.0}"#,
            r#"{"chosen":"\n\nHuman: q\n\nAssistant: good","rejected":"\n\nHuman: q\n\nAssistant: bad","strength":4}"#,
        ] {
            let strength = Some(Strength::SignificantlyBetter);
            assert_eq!(told(json), (a.clone(), b.clone(), strength), "{json}");
        }
        let json = r#"{"prompt":"q","chosen":"good","rejected":"bad","edited":"best"}"#;
        assert_eq!(told(json).1, ["best", "good", "bad"]);
    }

    #[test]
    fn no_message_of_an_answer_is_lost() {
        let user = |text: &str| format!(r#"{{"role":"user","content":"{text}"}}"#);
        let says = |text: &str| format!(r#"{{"role":"assistant","content":"{text}"}}"#);
        let list = |messages: &[String]| format!("[{}]", messages.join(","));
        let row = |prompt: &str, chosen: &str, rejected: &str, edited: &str| {
            let prompt = if prompt.is_empty() { "null" } else { prompt };
            read(&format!(
                r#"{{"prompt":{prompt},"chosen":{chosen},"rejected":{rejected},"edited":{edited}}}"#
            ))
        };
        let turns = |answer: &str| list(&[user("q1"), says("a1"), user("q2"), says(answer)]);
        // The whole prompt, its end, or nothing of it may stand before an answer.
        let asked = list(&[user("q1"), says("a1"), user("q2")]);
        let end = list(&[user("q2"), says("c")]);
        let found = row(&asked, &turns("a"), &list(&[says("b")]), &end).unwrap();
        assert_eq!(found.prompt.messages.len(), 3);
        assert_eq!(found.answers.iter().map(Message::text).collect::<Vec<_>>(), ["c", "a", "b"]);
        assert_eq!(row("", &turns("a"), &turns("b"), &turns("c")).unwrap().answers.len(), 3);
        // What is no part of it is refused, and so is an edited answer to something else.
        let tool = r#"{"role":"tool","content":"r"}"#.to_owned();
        let called = list(&[says("call"), tool, says("a")]);
        for (prompt, chosen, rejected, edited, told) in [
            ("\"q1\"", turns("a"), turns("b"), "null".to_owned(), "\"chosen\" has 4 messages"),
            ("\"q1\"", called.clone(), "\"b\"".into(), "null".into(), "\"chosen\" has 3 messages"),
            ("\"q1\"", "\"a\"".into(), called, "null".into(), "\"rejected\" has 3 messages"),
            (
                "",
                turns("a"),
                turns("b"),
                list(&[user("x"), says("c")]),
                "\"edited\" has 2 messages",
            ),
        ] {
            let fault = row(prompt, &chosen, &rejected, &edited).unwrap_err().to_string();
            assert!(fault.contains(told), "{chosen} {rejected} {edited}: {fault}");
        }
    }

    #[test]
    fn what_compares_nothing_is_named() {
        for (json, told) in [
            (r#"{"prompt":"q","completion":"a"}"#, "compares no answers"),
            (r#"{"chosen":"a","rejected":"b"}"#, "no prompt"),
            (r#"{"chosen":"\n\nHuman: q","rejected":"\n\nHuman: q"}"#, "does not end in an answer"),
            (
                r#"{"chosen":"\n\nHuman: q\n\nAssistant: a","rejected":"\n\nHuman: r\n\nAssistant: a"}"#,
                "differ before",
            ),
            (r#"{"prompt":"q","chosen":"a","rejected":"b","strength":5}"#, "5, not 1 to 4"),
            (r#"{"prompt":"q","chosen":"a","rejected":"b","strength":2.5}"#, "2.5, not 1 to 4"),
            (r#"{"prompt":"q","chosen":"a","rejected":"b","system":7}"#, "\"system\" is a number"),
            (
                r#"{"prompt":"q","chosen":{"role":"assistant","content":"a","weight":0},"rejected":"b"}"#,
                "\"chosen\" has the weight 0",
            ),
            (
                r#"{"prompt":"q","chosen":{"role":"user","content":"x"},"rejected":"b"}"#,
                "the user's",
            ),
        ] {
            let fault = read(json).unwrap_err().to_string();
            assert!(fault.contains(told), "{json}: {fault}");
        }
    }
}
