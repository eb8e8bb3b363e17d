//! What is trained on: the best answers for `herd sft`, pairs of answers for `herd dpo` and `herd reward`.

use crate::error::TrainError;
use crate::rejection::beside;
use crate::rejection::config::{Against, RejectionConfig};
use crate::rejection::file::{Rows, SampleRow, read_groups};
use crate::rejection::prompts::{Prompt, Prompts};
use crate::rejection::summary::{Summary, ranked};
use herd_codec::chat::{Dialogue, Message, Role};
use serde_json::{Value, json};
use std::path::Path;

/// Writes both files from the whole file of samples and the rows that were asked.
pub(super) fn write(
    config: &RejectionConfig,
    out: &Path,
    mut prompts: Prompts,
    summary: &mut Summary,
) -> Result<(), TrainError> {
    let mut best = Rows::create(beside(out, "best.jsonl"))?;
    let mut pairs = Rows::create(beside(out, "pairs.jsonl"))?;
    read_groups(out, config.answers(), |rows| {
        let first = &rows[0];
        let prompt = loop {
            match prompts.next()? {
                Some(p) if (&p.file, p.row, &p.id) == (&first.file, first.row, &first.prompt) => {
                    break p;
                }
                Some(_) => {} // it was left out
                None => {
                    let what = format!("row {} of {} is not there", first.row, first.file);
                    return Err(TrainError::Damaged { path: out.to_owned(), what });
                }
            }
        };
        let ranked = ranked(rows);
        if let Some(row) = best_row(config, &prompt, ranked[0]) {
            best.write(&row)?;
        }
        match pair(config, &prompt, &ranked) {
            Ok(row) => pairs.write(&row)?,
            Err(reason) => *summary.unpaired.entry(reason.to_owned()).or_default() += 1,
        }
        Ok(())
    })?;
    (summary.best, summary.pairs) = (best.finish()?, pairs.finish()?);
    Ok(())
}

/// The dialogue with its best answer; answers that stood there before are not learnt.
fn best_row(config: &RejectionConfig, prompt: &Prompt, best: &SampleRow) -> Option<Value> {
    let enough = config.best.score_min.is_none_or(|least| best.total >= Some(least));
    if best.rejected.is_some() || !enough {
        return None;
    }
    let dialogue = prompt.under(kept_system(config, best));
    let mut messages: Vec<Value> = dialogue.messages.iter().map(message).collect();
    for (told, message) in messages.iter_mut().zip(&dialogue.messages) {
        if message.role == Role::Assistant {
            told["weight"] = 0.into();
        }
    }
    messages.push(answer(best));
    let mut row = json!({ "messages": messages });
    equip(&mut row, &dialogue);
    row["prompt_id"] = best.prompt.clone().into();
    row["policy_hash"] = best.policy_hash.clone().into();
    row["score"] = best.total.into();
    Some(row)
}

/// Tells a row the tools of its dialogue.
fn equip(row: &mut Value, dialogue: &Dialogue) {
    if !dialogue.tools.is_empty() {
        row["tools"] = json!(dialogue.tools);
    }
    if let Some(names) = &dialogue.builtin_tools {
        row["builtin_tools"] = json!(names);
    }
}

/// The best answer against a worse one, or why there is no such pair.
fn pair(
    config: &RejectionConfig,
    prompt: &Prompt,
    ranked: &[&SampleRow],
) -> Result<Value, &'static str> {
    let best = ranked[0];
    if best.rejected.is_some() {
        return Err("none_accepted");
    }
    // A best answer that may be chosen was judged.
    let most = best.total.ok_or("none_accepted")?;
    if config.pairs.score_min.is_some_and(|least| most < least) {
        return Err("score_min");
    }
    // One prompt for both: where system prompts stay, they must be the same.
    let system = kept_system(config, best);
    let mut worse = ranked[1..].iter().filter_map(|row| {
        let readable = !row.text.trim().is_empty() && row.finish != "failed";
        let total = row.total.filter(|total| *total < most && readable)?;
        (kept_system(config, row) == system).then_some((row, total))
    });
    // Answers that may not be chosen stand behind the others, whatever their totals.
    let worse = match config.pairs.against {
        Against::Worst => worse.next_back(),
        Against::Next => worse.next(),
    };
    let (worse, least) = worse.ok_or("ties")?;
    if most - least < config.pairs.gap_min {
        return Err("gap_min");
    }
    let dialogue = prompt.under(system);
    let messages: Vec<Value> = dialogue.messages.iter().map(message).collect();
    let mut row = json!({
        "prompt": messages,
        "chosen": [answer(best)],
        "rejected": [answer(worse)],
        "prompt_id": best.prompt,
        "policy_hashes": [best.policy_hash, worse.policy_hash],
        "scores": [most, least],
    });
    equip(&mut row, &dialogue);
    Ok(row)
}

fn kept_system<'a>(config: &RejectionConfig, row: &'a SampleRow) -> Option<&'a str> {
    row.system.as_deref().filter(|_| config.sample.keep_system)
}

fn message(message: &Message) -> Value {
    serde_json::to_value(message).expect("a message is JSON")
}

fn answer(row: &SampleRow) -> Value {
    message(&Message::new(Role::Assistant, row.text.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::round::sample;

    #[test]
    fn an_answer_that_no_judge_could_read_is_never_the_worse_one() {
        let settings = "input = [\"p\"]\nsample.policies = [\"m\"]";
        let config = RejectionConfig::parse(settings, &[]).unwrap();
        let builtin_tools = Some(vec!["brave_search".to_owned()]);
        let messages = vec![Message::new(Role::User, "Why?")];
        let dialogue = Dialogue { builtin_tools, ..Dialogue::from(messages) };
        let (file, id, value) = (String::new(), String::new(), Value::Null);
        let prompt = Prompt { file, row: 1, value, dialogue, id };
        let best = sample("m", 1, Some(0.5));
        let unread = SampleRow { rejected: Some("unread".into()), ..sample("m", 1, None) };
        assert_eq!(pair(&config, &prompt, &[&best, &unread]), Err("ties"));
        let worse = sample("m", 1, Some(-3.0));
        let row = pair(&config, &prompt, &[&best, &worse, &unread]).unwrap();
        assert_eq!(row["scores"], json!([0.5, -3.0]));
        assert_eq!(row["builtin_tools"], json!(["brave_search"]));
    }
}
