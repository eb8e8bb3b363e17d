//! Answers to one prompt, best first.

use herd_codec::chat::{Dialogue, Message, Role};
use serde_json::{Map, Value};

use super::messages::{answer_of, message, prompt};
use super::shape::{kind, need, no_dialogue};
use super::{Comparison, Strength};
use crate::Fault;

/// `chosen` and `rejected`, and `edited` where it is; the prompt beside them or within them.
pub(super) fn answers(row: &Map<String, Value>) -> Result<Comparison, Fault> {
    let keys = ["prompt", "messages", "conversations", "question"];
    let beside = keys.iter().any(|key| row.get(*key).is_some_and(|value| !value.is_null()));
    let mut before = match beside {
        true => prompt(row, &keys)?,
        false => within(row)?,
    };
    if let Some(system) = row.get("system").and_then(Value::as_str).filter(|s| !s.is_empty()) {
        before.messages.insert(0, Message::new(Role::System, system));
    }
    let mut answers = Vec::new();
    for key in ["edited", "chosen", "rejected"] {
        match row.get(key) {
            None | Some(Value::Null) if key == "edited" => {}
            None => return Err(no_dialogue(format!("it has no {key:?}"))),
            Some(value) => answers.push(answer_of(value)?),
        }
    }
    Ok(Comparison { prompt: before, answers, strength: strength(row)? })
}

/// The prompt that both lists of messages begin with.
fn within(row: &Map<String, Value>) -> Result<Dialogue, Fault> {
    let lists = ["chosen", "rejected"].map(|key| row.get(key).and_then(Value::as_array));
    let [Some(chosen), Some(rejected)] = lists else {
        return Err(no_dialogue("it has no prompt"));
    };
    let [before, other] = [chosen, rejected].map(|list| &list[..list.len().saturating_sub(1)]);
    if before != other {
        return Err(no_dialogue("the two answers have different prompts"));
    }
    let messages: Result<Vec<_>, _> = before.iter().map(|item| Ok(message(item)?.0)).collect();
    Ok(Dialogue::from(messages?))
}

/// One of the four words, or 1 (marginally) to 4 (significantly).
fn strength(row: &Map<String, Value>) -> Result<Option<Strength>, Fault> {
    let said = row.get("strength").or_else(|| row.get("preference_strength"));
    let unknown = |what: String| no_dialogue(format!("no such strength: {what}"));
    let strengths = [
        Strength::MarginallyBetter,
        Strength::SlightlyBetter,
        Strength::Better,
        Strength::SignificantlyBetter,
    ];
    match said {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(n)) => {
            let found = n.as_u64().and_then(|n| strengths.get((n as usize).wrapping_sub(1)));
            found.copied().map(Some).ok_or_else(|| unknown(format!("{n}, not 1 to 4")))
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
    Ok(Comparison { prompt: Dialogue::from(chosen), answers, strength: strength(row)? })
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
            r#"{"chosen":"\n\nHuman: q\n\nAssistant: good","rejected":"\n\nHuman: q\n\nAssistant: bad","strength":4}"#,
        ] {
            let strength = Some(Strength::SignificantlyBetter);
            assert_eq!(told(json), (a.clone(), b.clone(), strength), "{json}");
        }
        let json = r#"{"prompt":"q","chosen":"good","rejected":"bad","edited":"best"}"#;
        assert_eq!(told(json).1, ["best", "good", "bad"]);
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
