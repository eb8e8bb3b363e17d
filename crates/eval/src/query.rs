//! Questions to token ids.
//!
//! A target is what the ids of question and answer together have beyond those of the question; spaces
//! that end a question belong to the answer (as lm-evaluation-harness has it).

use std::sync::Arc;

use herd_codec::chat::{ChatFormat, Dialogue, Message, RenderOptions, Role};
use herd_codec::{TokenId, Tokenizer};

use crate::error::EvalError;
use crate::item::{Ask, Item};
use crate::task::Task;

/// What a model is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Query {
    /// How likely a target is behind a context.
    Likelihood {
        /// At least one id.
        context: Vec<u32>,
        /// At least one id.
        target: Vec<u32>,
    },
    /// What it writes behind a prompt.
    Write {
        /// At least one id.
        prompt: Vec<u32>,
        /// Texts that end the answer.
        until: Vec<String>,
        /// Tokens that end it.
        stops: Vec<u32>,
        /// Tokens at most.
        max_tokens: usize,
        /// How tokens are drawn; else the likeliest is taken each time.
        draw: Option<Draw>,
    },
}

/// How the tokens of one answer among several are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// Divides the logits.
    pub temperature: f32,
    /// The mass of the tokens that are drawn from.
    pub top_p: f32,
    /// Key of the random numbers.
    pub seed: u64,
    /// Which of the answers it is.
    pub stream: u64,
}

/// Several answers to a question.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Samples {
    /// How many.
    pub number: u64,
    /// Divides the logits.
    pub temperature: f32,
    /// The mass of the tokens that are drawn from.
    pub top_p: f32,
    /// What the draws depend on, beside the row.
    pub seed: u64,
}

/// What it answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// The log-probability of each token of the target, and whether each was the likeliest.
    Likelihood {
        /// In nats.
        log_probs: Vec<f64>,
        /// Whether greedy writing would have given the target.
        greedy: bool,
    },
    /// What it wrote.
    Written {
        /// Ids, with what ended it.
        ids: Vec<u32>,
        /// The text before what ended it.
        text: String,
        /// Whether `max_tokens` ended it.
        full: bool,
    },
}

/// The log-probability of what is as good as impossible: JSON has no minus infinity, and endpoints give this.
pub const IMPOSSIBLE: f64 = -9999.0;

/// A text to ids, without what begins texts.
pub type Encode = dyn Fn(&str) -> Result<Vec<u32>, EvalError>;

/// A dialogue to the ids that the model goes on with.
pub type Render = dyn Fn(&Dialogue) -> Result<Vec<u32>, EvalError>;

/// How a model reads: what makes its ids.
pub struct Words {
    /// Text to ids. Errors: who knows the vocabulary cannot be asked.
    pub encode: Box<Encode>,
    /// The id before every text.
    pub bos: Option<u32>,
    /// The id that stands where a text has none: the one that begins texts, else the one that ends them.
    pub alone: Option<u32>,
    /// Tokens that end what it writes.
    pub stops: Vec<u32>,
    /// Tokens of a question and its answer at most.
    pub context: usize,
    /// The chat that questions are put in; else they are plain text.
    pub chat: Option<Chat>,
    /// How many answers are written, and how; else one, of the likeliest tokens.
    pub samples: Option<Samples>,
}

/// Questions as messages.
pub struct Chat {
    /// How a dialogue is written. Errors: it cannot be in this form, or nobody can be asked.
    pub render: Box<Render>,
    /// What the system says.
    pub system: Option<String>,
    /// Whether each example is a question and an answer of the dialogue, not text of the question.
    pub turns: bool,
}

/// A tokenizer of this machine, as questions want it.
pub fn encoder(tokenizer: Arc<Tokenizer>) -> Box<Encode> {
    Box::new(move |text| Ok(tokenizer.encode(text).into_iter().map(|TokenId(id)| id).collect()))
}

/// A chat format of this machine, on the day that the template has of its own: what is asked is the same every day.
pub fn renderer(format: ChatFormat, tokenizer: Arc<Tokenizer>) -> Box<Render> {
    let options = RenderOptions { today: None, ..RenderOptions::PROMPT };
    Box::new(move |dialogue| {
        let ids = format.ids(dialogue, &options, &tokenizer);
        let ids = ids.map_err(|e| EvalError::Model(e.to_string()))?;
        Ok(ids.into_iter().map(|TokenId(id)| id).collect())
    })
}

/// The queries of an item, and how many tokens of its questions were cut off because there is no
/// room for them.
///
/// Errors: an item that cannot be asked, by its number and row; those of `words`.
pub fn queries(task: &Task, item: &Item, words: &Words) -> Result<(Vec<Query>, usize), EvalError> {
    let wrong = |what: String| EvalError::Task {
        task: task.name.clone(),
        what: format!("item {} (row {}): {what}", item.number, item.row),
    };
    let mut cut = 0;
    let mut made = Vec::new();
    match &item.ask {
        Ask::Choose { texts, choices, .. } => {
            let several = texts.len().max(choices.len());
            let of = |all: &[String], i: usize| all[if all.len() == 1 { 0 } else { i }].clone();
            for i in 0..several {
                let answer = of(choices, i);
                let (context, target) = words.pair(task, item, &of(texts, i), &answer)?;
                if target.is_empty() {
                    return Err(wrong(format!("the answer {answer:?} has no token of its own")));
                }
                // The last token is predicted, not read.
                let room = (words.context + 1).saturating_sub(target.len());
                if room == 0 {
                    let what = "an answer of";
                    let (tokens, context) = (target.len(), words.context);
                    return Err(wrong(format!(
                        "{what} {tokens} tokens, the context has {context}"
                    )));
                }
                let (context, lost) = last(context, room.min(words.context));
                cut += lost;
                made.push(Query::Likelihood { context, target });
            }
        }
        Ask::Write { text, .. } => {
            let Some(write) = &task.write else { return Err(wrong("no [write]".to_owned())) };
            let prompt = words.prompt(task, item, text)?;
            let room = words.context.saturating_sub(write.max_tokens).max(words.context / 2).max(1);
            let (prompt, lost) = last(prompt, room);
            cut += lost;
            let max_tokens = write.max_tokens.min(words.context.saturating_sub(prompt.len()));
            if max_tokens == 0 {
                let what = "there is no room for an answer: the context has";
                return Err(wrong(format!("{what} {} tokens", words.context)));
            }
            let (until, stops) = (write.until.clone(), words.stops.clone());
            let greedy = Query::Write { prompt, until, stops, max_tokens, draw: None };
            made =
                words.samples.map_or(vec![greedy.clone()], |samples| drawn(&greedy, item, samples));
        }
    }
    Ok((made, cut))
}

/// The same query several times, each with draws of its own.
fn drawn(query: &Query, item: &Item, samples: Samples) -> Vec<Query> {
    let Samples { number, temperature, top_p, seed } = samples;
    let seed = herd_data::Hash::of(format!("{seed}/{}/answers", item.row).as_bytes()).word();
    let one = |stream| {
        let mut query = query.clone();
        if let Query::Write { draw, .. } = &mut query {
            *draw = Some(Draw { temperature, top_p, seed, stream });
        }
        query
    };
    (0..number).map(one).collect()
}

/// The last `room` ids, and how many stood before them.
fn last(mut ids: Vec<u32>, room: usize) -> (Vec<u32>, usize) {
    let lost = ids.len().saturating_sub(room);
    ids.drain(..lost);
    (ids, lost)
}

impl Words {
    /// A question with all that stands before it, as one text.
    fn plain(task: &Task, item: &Item, text: &str) -> String {
        let mut all = item.description.clone();
        for (question, answer) in &item.shots {
            all += &format!("{question}{}{answer}{}", task.delimiter, task.between);
        }
        all + text
    }

    /// The ids of a question, and of an answer behind it.
    fn pair(
        &self,
        task: &Task,
        item: &Item,
        text: &str,
        answer: &str,
    ) -> Result<(Vec<u32>, Vec<u32>), EvalError> {
        if self.chat.is_some() {
            return Ok((self.prompt(task, item, text)?, (self.encode)(answer)?));
        }
        let whole = Words::plain(task, item, text);
        let question = whole.trim_end();
        let both = format!("{whole}{}{answer}", task.delimiter);
        let (context, both) = ((self.encode)(question)?, (self.encode)(&both)?);
        let target = both.get(context.len()..).unwrap_or_default().to_vec();
        Ok((self.begun(context), target))
    }

    /// The ids of a question that is to be answered.
    fn prompt(&self, task: &Task, item: &Item, text: &str) -> Result<Vec<u32>, EvalError> {
        let Some(chat) = &self.chat else {
            return Ok(self.begun((self.encode)(&Words::plain(task, item, text))?));
        };
        let mut messages = Vec::new();
        let system = [chat.system.as_deref(), Some(item.description.trim_end())];
        let system: Vec<&str> = system.into_iter().flatten().filter(|s| !s.is_empty()).collect();
        if !system.is_empty() {
            messages.push(Message::new(Role::System, system.join("\n\n")));
        }
        if chat.turns {
            for (question, answer) in &item.shots {
                messages.push(Message::new(Role::User, question.clone()));
                messages.push(Message::new(Role::Assistant, answer.clone()));
            }
            messages.push(Message::new(Role::User, text));
        } else {
            let bare = Item { description: String::new(), ..item.clone() };
            messages.push(Message::new(Role::User, Words::plain(task, &bare, text)));
        }
        (chat.render)(&Dialogue { messages, ..Dialogue::default() })
    }

    /// Ids behind the one that begins a text; of no ids that alone, or the token that ends texts.
    fn begun(&self, mut ids: Vec<u32>) -> Vec<u32> {
        if let Some(bos) = self.bos {
            ids.insert(0, bos);
        }
        if ids.is_empty() {
            ids.extend(self.alone);
        }
        ids
    }
}
