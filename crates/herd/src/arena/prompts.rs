//! Rows to prompts of an arena.

use std::collections::BTreeSet;
use std::path::Path;

use herd_codec::chat::Role;
use herd_data::dialogue::question;
use herd_data::read::{Sources, objects};
use herd_eval::arena::Taxonomy;
use herd_model::nearest;
use herd_serve::arena::{Prompt, Turn};
use serde_json::Value;

use crate::error::Error;

/// Where a row says what.
pub struct Fields<'a> {
    /// The field with the skill.
    pub skill: &'a str,
    /// Which skills there are.
    pub taxonomy: Taxonomy,
}

/// The prompts of a file, in their order.
///
/// Errors: a row that asks nothing, has no skill of the taxonomy, or the name of another.
pub fn read(path: &Path, fields: &Fields<'_>) -> Result<Vec<Prompt>, Error> {
    let sources = Sources::find(&[path.display().to_string()])?;
    let (mut prompts, mut names) = (Vec::new(), BTreeSet::new());
    for file in sources.sources.into_iter().flat_map(|source| source.files) {
        for read in objects(&file)? {
            let (row, value) = read?;
            let wrong = |what: String| Error::Json {
                path: file.path.clone(),
                what: format!("wrong in row {row}: {what}"),
            };
            let prompt = prompt(&value, row, fields).map_err(wrong)?;
            if !names.insert(prompt.name.clone()) {
                return Err(wrong(format!("another row has the id {:?}", prompt.name)));
            }
            prompts.push(prompt);
        }
    }
    match prompts.is_empty() {
        true => Err(Error::Json { path: path.to_owned(), what: "without a row".to_owned() }),
        false => Ok(prompts),
    }
}

fn prompt(value: &Value, row: u64, fields: &Fields<'_>) -> Result<Prompt, String> {
    let (messages, turns) = match value.get("turns") {
        Some(turns) => of_turns(value, turns)?,
        None => (of_dialogue(value)?, Vec::new()),
    };
    let name = match value.get("id") {
        Some(Value::String(text)) if !text.trim().is_empty() => text.trim().to_owned(),
        Some(Value::Number(number)) => number.to_string(),
        None | Some(Value::Null) => row.to_string(),
        Some(other) => return Err(format!("an id is a text or a number, not {other}")),
    };
    let difficulty = value.get("difficulty").and_then(Value::as_str).map(str::to_owned);
    Ok(Prompt { name, skill: skill(value, fields)?, difficulty, messages, turns })
}

fn skill(value: &Value, fields: &Fields<'_>) -> Result<String, String> {
    let Fields { skill: field, taxonomy } = fields;
    let said = match value.get(*field) {
        Some(Value::String(text)) => text.as_str(),
        None | Some(Value::Null) if *taxonomy == Taxonomy::Any => "all",
        None | Some(Value::Null) => return Err(format!("it has no {field:?}")),
        Some(other) => return Err(format!("{field:?} is {other}, not a text")),
    };
    taxonomy.name(said).ok_or_else(|| {
        let near = nearest(said, taxonomy.names().iter().copied());
        let near = near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
        format!("{field:?} is {said:?}{near}, not one of {}", taxonomy.names().join(", "))
    })
}

/// What the user says turn by turn; each model answers for itself.
fn of_turns(value: &Value, turns: &Value) -> Result<(Vec<Turn>, Vec<String>), String> {
    let texts: Option<Vec<&str>> =
        turns.as_array().and_then(|turns| turns.iter().map(Value::as_str).collect());
    let texts = texts.filter(|texts| {
        (1..=11).contains(&texts.len()) && texts.iter().all(|text| !text.trim().is_empty())
    });
    let texts = texts.ok_or_else(|| "turns are 1 to 11 texts".to_owned())?;
    let mut messages = Vec::new();
    if let Some(system) = value.get("system").and_then(Value::as_str).filter(|s| !s.is_empty()) {
        messages.push(Turn::new("system", system));
    }
    messages.push(Turn::new("user", texts[0]));
    Ok((messages, texts[1..].iter().map(|text| (*text).to_owned()).collect()))
}

fn of_dialogue(value: &Value) -> Result<Vec<Turn>, String> {
    let dialogue = question(value, None).map_err(|fault| fault.to_string())?;
    let plain = dialogue.tools.is_empty()
        && dialogue.builtin_tools.is_none()
        && dialogue.messages.iter().all(|m| m.tool_calls.is_empty() && m.role != Role::Tool);
    if !plain {
        return Err("dialogues with tools cannot be judged here".to_owned());
    }
    let turn = |m: &herd_codec::chat::Message| Turn::new(m.role.name(), m.text());
    Ok(dialogue.messages.iter().map(turn).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(value: Value, taxonomy: Taxonomy) -> Result<Prompt, String> {
        prompt(&value, 3, &Fields { skill: "skill", taxonomy })
    }

    #[test]
    fn rows_become_prompts_whatever_their_shape() {
        let plain = told(json!({ "prompt": "q", "skill": "Coding" }), Taxonomy::Any).unwrap();
        assert_eq!((plain.name.as_str(), plain.skill.as_str()), ("3", "Coding"));
        assert_eq!(plain.messages, [Turn::new("user", "q")]);
        let row = json!({ "id": "x", "turns": ["a", "b", "c"], "system": "s", "skill": "Multi-turn coding", "difficulty": "hard" });
        let turns = told(row, Taxonomy::Capabilities).unwrap();
        assert_eq!((turns.name.as_str(), turns.skill.as_str()), ("x", "multi-turn-coding"));
        assert_eq!((turns.messages.len(), turns.turns.len()), (2, 2));
        assert_eq!(turns.difficulty.as_deref(), Some("hard"));
        let messages = json!([{ "role": "user", "content": "a" }, { "role": "assistant", "content": "b" },
            { "role": "user", "content": "c" }]);
        let row = json!({ "messages": messages });
        assert_eq!(told(row, Taxonomy::Any).unwrap().messages.len(), 3);
    }

    #[test]
    fn rows_that_cannot_be_judged_say_why() {
        for (row, words) in [
            (json!({ "prompt": "q" }), "no \"skill\""),
            (json!({ "prompt": "q", "skill": "codng" }), "did you mean coding?"),
            (json!({ "prompt": "q", "skill": 3 }), "not a text"),
            (json!({ "turns": [], "skill": "coding" }), "1 to 11 texts"),
            (json!({ "turns": ["a", 3], "skill": "coding" }), "1 to 11 texts"),
            (json!({ "skill": "coding" }), "dialogue"),
            (json!({ "prompt": "q", "skill": "coding", "id": [] }), "an id is"),
        ] {
            let error = told(row.clone(), Taxonomy::Capabilities).unwrap_err();
            assert!(error.contains(words), "{row}: {error}");
        }
    }
}
