//! A writer: something that is asked messages and gives texts. Here one that is a checkpoint; whoever calls may bring another.
//!
//! ```text
//! Question -> writer -> Said, Said, ...        in any order, each told as it comes
//!          -> log: a line an entry             what is in it is never asked again
//! ```

pub(crate) mod desk;
mod embed;
pub(crate) mod log;
pub(crate) mod prompts;
mod settings;

pub use embed::embed;
pub use settings::{AskConfig, WriterConfig};
pub(crate) use settings::{between, within};

use crate::error::TrainError;
use crate::rejection::Policy;
use crate::words::Chat;
use herd_codec::chat::{Dialogue, Message};
use herd_data::dialogue::Encoder;
use herd_engine::sample::Sampling;
use herd_engine::{Engine, Finish, Request, RequestId, What};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a writer is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// What was said so far; the writer goes on as the assistant.
    pub messages: Vec<Message>,
    /// Answers wanted.
    pub n: usize,
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f64,
    /// The nucleus.
    pub top_p: f64,
    /// Tokens of an answer at most.
    pub max_tokens: usize,
    /// Strings that end an answer; they are not part of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// Answer i draws from this seed and i.
    pub seed: u64,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// Its words.
    pub text: String,
    /// Why it ended.
    pub end: SaidEnd,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SaidEnd {
    /// By itself.
    Stop,
    /// At `max_tokens`.
    Length,
    /// It never began: the question leaves no room in the writer's context.
    TooLong,
    /// The writer could not go on, or would not.
    Failed,
}

/// Tells of the answers to a question, by its place among those that were asked.
pub type Tell<'a> = dyn FnMut(usize, Vec<Said>) -> Result<(), TrainError> + 'a;

/// Answers all questions, or stops early where it was told to; those told of are kept.
pub type Writer<'a> = dyn FnMut(&[Question], &mut Tell<'_>) -> Result<(), TrainError> + 'a;

/// A checkpoint as a writer. Answers to one question share its pages, and all questions run side by side; what each
/// gets is the same whatever runs beside it.
pub struct Local {
    policy: Policy,
    engine: Engine,
}

/// A question under way.
struct Open {
    said: Vec<Said>,
    left: usize,
}

impl Local {
    /// A writer of this checkpoint.
    pub fn new(policy: Policy) -> Local {
        let (model, words) = (Arc::clone(&policy.model), Arc::clone(&policy.tokenizer));
        let engine = Engine::new(model, Some(words), policy.limits);
        Local { policy, engine }
    }

    /// Its checkpoint.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Answers all questions; see [`Writer`].
    ///
    /// Errors: a question that the chat format cannot say, settings out of range, and those of `tell`.
    pub fn answer(
        &mut self,
        questions: &[Question],
        stop: &AtomicBool,
        tell: &mut Tell<'_>,
    ) -> Result<(), TrainError> {
        let mut open: Vec<Open> = Vec::new();
        let mut places: HashMap<RequestId, (usize, usize)> = HashMap::new();
        for (i, question) in questions.iter().enumerate() {
            let prompt = self.render(question)?;
            let blank = Said { text: String::new(), end: SaidEnd::TooLong };
            open.push(Open { said: vec![blank; question.n], left: question.n });
            if prompt.len() + question.max_tokens > self.policy.limits.context {
                tell(i, std::mem::take(&mut open[i].said))?;
                continue;
            }
            let (temperature, top_p) = (question.temperature as f32, question.top_p as f32);
            let seed = question.seed;
            let request = Request {
                max_tokens: Some(question.max_tokens),
                stop_tokens: self.policy.stops.clone(),
                stop: question.stop.clone(),
                ..Request::new(prompt, Sampling { temperature, top_p, seed, ..Sampling::LLAMA })
            };
            let ids = self.engine.submit_many(&request, question.n);
            let ids = ids.map_err(|e| TrainError::Sample { error: e.to_string() })?;
            places.extend(ids.into_iter().enumerate().map(|(k, id)| (id, (i, k))));
        }
        let mut events = Vec::new();
        while !self.engine.is_idle() && !stop.load(Ordering::Relaxed) {
            self.engine.step(&mut events);
            for event in events.drain(..) {
                let (i, k) = places[&event.id];
                match event.what {
                    What::Prompt(_) | What::Embedding(_) => {}
                    What::Token(token) => open[i].said[k].text.push_str(&token.text),
                    What::End { finish, text, .. } => {
                        open[i].said[k].text.push_str(&text);
                        open[i].said[k].end = ended(&finish);
                        open[i].left -= 1;
                        if open[i].left == 0 {
                            tell(i, std::mem::take(&mut open[i].said))?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn render(&self, question: &Question) -> Result<Vec<u32>, TrainError> {
        let Chat { format, .. } = &self.policy.chat;
        let options = self.policy.chat.options();
        let encoder = Encoder { format, tokenizer: &self.policy.tokenizer, options };
        let ids = encoder.prompt(&Dialogue::from(question.messages.clone()));
        let ids = ids.map_err(|fault| TrainError::Sample { error: fault.to_string() })?;
        Ok(ids.into_iter().map(|id| id.0).collect())
    }
}

fn ended(finish: &Finish) -> SaidEnd {
    match finish {
        Finish::StopToken(_) | Finish::StopString(_) | Finish::Complete => SaidEnd::Stop,
        Finish::Length => SaidEnd::Length,
        Finish::Failed(_) | Finish::Form(_) | Finish::Cancelled => SaidEnd::Failed,
    }
}
