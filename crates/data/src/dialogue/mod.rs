//! Rows of dialogues, in the shapes that people have them in, and the tokens that are learnt from them.
//!
//! | module | duty |
//! |---|---|
//! | `shape` | which shape a row has |
//! | `messages` | messages as OpenAI, ShareGPT and their kin write them |
//! | `preference` | answers to one prompt, best first |
//! | `encode` | a dialogue to rows of ids, each with the weight of its loss |
//! | `branch` | answers to one prompt as one document that has the prompt once |
//! | `compare` | answers to one prompt to rows of ids, each with the tokens that count |
//!
//! | shape | keys |
//! |---|---|
//! | `messages` | `messages`: `[{role, content, tool_calls, weight}]` |
//! | `sharegpt` | `conversations`: `[{from, value}]` |
//! | `alpaca` | `instruction`, `input`, `output`; `history` |
//! | `prompt_completion` | `prompt` with `completion`, `response` or `answer`; `question` with `answer` |
//! | `preference` | `chosen`, `rejected`, `edited`; `prompt`, `messages` or `conversations`; `strength` |
//! | `hh_rlhf` | `chosen`, `rejected`: texts of `\n\nHuman:` and `\n\nAssistant:` |
//!
//! Any may have `system`, `tools` and `builtin_tools` beside these, and `weight` where it is no comparison.

mod branch;
mod compare;
mod encode;
mod messages;
mod preference;
mod shape;

use herd_codec::chat::{ChatFormat, Dialogue, Message, RenderOptions, Role};

use crate::{Fault, Hash};

pub use branch::{Mark, Standing};
pub use compare::{Compare, Compared, Counting, similarity};
pub use encode::{Encoder, Row};
pub use shape::Shape;

/// How rows become dialogues, and these ids.
#[derive(Clone, Debug)]
pub struct Lessons {
    /// The shape of the rows; told by their keys where nothing is said.
    pub shape: Option<Shape>,
    /// How dialogues are rendered.
    pub format: ChatFormat,
    /// The day and where tools stand.
    pub options: RenderOptions,
    /// Where all answers of a row are learnt from, rather than the best one.
    pub compare: Option<Compare>,
}

impl Lessons {
    /// What decides the rendering.
    pub(crate) fn hash(&self) -> Hash {
        let mut told = format!("{:?} {:?} {:?}", self.shape, self.format, self.options);
        if let Some(compare) = &self.compare {
            told.push_str(&format!(" {compare:?}"));
        }
        Hash::of(told.as_bytes())
    }
}

/// A dialogue whose answers are learnt.
#[derive(Clone, Debug, PartialEq)]
pub struct Lesson {
    /// What was said.
    pub dialogue: Dialogue,
    /// The weight of each message's loss: 1 for the assistant's and 0 for others, unless the row
    /// says otherwise.
    pub weights: Vec<f32>,
}

/// Answers to one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// What was said before.
    pub prompt: Dialogue,
    /// Two or three answers, the best first: edited, chosen, rejected.
    pub answers: Vec<Message>,
    /// By how much the chosen one is better, where it is known.
    pub strength: Option<Strength>,
}

/// By how much an answer is better (arXiv 2407.21783, section 4.2.1).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Strength {
    /// The least.
    MarginallyBetter,
    /// More.
    SlightlyBetter,
    /// Clearly.
    Better,
    /// The most.
    SignificantlyBetter,
}

/// What a dialogue asks first: all messages before the first answer, as one text. Rows of equal questions are held out together.
pub fn opening(dialogue: &Dialogue) -> String {
    let asked = dialogue.messages.iter().take_while(|message| message.role != Role::Assistant);
    serde_json::to_string(&asked.collect::<Vec<_>>()).expect("messages serialise")
}

/// The dialogue of a row; of a comparison its prompt and best answer.
///
/// Errors: the row has none of the [shapes](self), or its messages are no dialogue.
pub fn lesson(row: &serde_json::Value, shape: Option<Shape>) -> Result<Lesson, Fault> {
    let object = shape::object(row)?;
    match shape::shape(object, shape)? {
        Shape::Messages => messages::openai(object),
        Shape::ShareGpt => messages::sharegpt(object),
        Shape::Alpaca => messages::alpaca(object),
        Shape::PromptCompletion => messages::prompt_completion(object),
        Shape::Preference | Shape::HhRlhf => {
            let Comparison { mut prompt, answers, .. } = comparison(row, shape)?;
            let mut weights = vec![0.0; prompt.messages.len()];
            prompt.messages.extend(answers.into_iter().next());
            weights.push(1.0);
            Ok(Lesson { dialogue: prompt, weights })
        }
    }
}

/// The answers of a row: those of a comparison, best first, or the last one of a dialogue, which is all that was
/// said before.
///
/// Errors: the row has none of the [shapes](self), its messages are no dialogue, or a dialogue does not end in an answer.
pub fn answers(row: &serde_json::Value, asked: Option<Shape>) -> Result<Comparison, Fault> {
    if matches!(shape::shape(shape::object(row)?, asked)?, Shape::Preference | Shape::HhRlhf) {
        return comparison(row, asked);
    }
    let mut prompt = lesson(row, asked)?.dialogue;
    match prompt.messages.pop() {
        Some(answer) if answer.role == Role::Assistant => {
            Ok(Comparison { prompt, answers: vec![answer], strength: None })
        }
        Some(_) | None => Err(shape::no_dialogue("it does not end in an answer")),
    }
}

/// What a row asks: its dialogue up to the last message of the user's. An answer may follow it, and need not.
///
/// Errors: the row has none of the [shapes](self), or the user says nothing.
pub fn question(row: &serde_json::Value, shape: Option<Shape>) -> Result<Dialogue, Fault> {
    let object = shape::object(row)?;
    let prompts = ["prompt", "question"];
    let bare = |key: &str| object.contains_key(key) && !object.contains_key("output");
    let mut dialogue = match shape {
        None if bare("instruction") => {
            let mut object = object.clone();
            object.insert("output".to_owned(), "".into());
            messages::alpaca(&object)?.dialogue
        }
        shape => match shape::shape(object, shape)? {
            Shape::PromptCompletion => messages::prompt(object, &prompts)?,
            Shape::Preference | Shape::HhRlhf => comparison(row, shape)?.prompt,
            Shape::Messages | Shape::ShareGpt | Shape::Alpaca => lesson(row, shape)?.dialogue,
        },
    };
    let last = dialogue.messages.iter().rposition(|message| message.role == Role::User);
    let Some(last) = last.filter(|at| !dialogue.messages[*at].text().trim().is_empty()) else {
        return Err(shape::no_dialogue("the user says nothing"));
    };
    dialogue.messages.truncate(last + 1);
    Ok(dialogue)
}

/// The answers of a row of preferences.
///
/// Errors: the row is none, or its messages are no dialogue.
pub fn comparison(row: &serde_json::Value, shape: Option<Shape>) -> Result<Comparison, Fault> {
    let object = shape::object(row)?;
    match shape::shape(object, shape)? {
        Shape::Preference => preference::answers(object),
        Shape::HhRlhf => preference::hh_rlhf(object),
        Shape::Messages | Shape::ShareGpt | Shape::Alpaca | Shape::PromptCompletion => {
            Err(shape::no_dialogue("it compares no answers: `chosen` and `rejected` are wanted"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_what_stands_before_the_last_answer_whatever_the_shape() {
        let asked = |json: &str| {
            let dialogue = question(&serde_json::from_str(json).unwrap(), None)?;
            Ok::<_, Fault>(dialogue.messages.iter().map(Message::text).collect::<Vec<_>>())
        };
        for json in [
            r#"{"prompt":"q"}"#,
            r#"{"question":"q","answer":"a"}"#,
            r#"{"instruction":"q"}"#,
            r#"{"instruction":"q","output":"a"}"#,
            r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}"#,
            r#"{"prompt":"q","chosen":"a","rejected":"b"}"#,
            r#"{"chosen":"\n\nHuman: q\n\nAssistant: a","rejected":"\n\nHuman: q\n\nAssistant: b"}"#,
        ] {
            assert_eq!(asked(json).unwrap(), ["q"], "{json}");
        }
        let turns = r#"{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"},
                        {"from":"human","value":"r"},{"from":"gpt","value":"b"}]}"#;
        assert_eq!(asked(turns).unwrap(), ["q", "a", "r"]);
        for json in [r#"{"prompt":""}"#, r#"{"messages":[]}"#, r#"{"text":"q"}"#, "7"] {
            assert!(matches!(asked(json), Err(Fault::NoDialogue { .. })), "{json}");
        }
    }
}
