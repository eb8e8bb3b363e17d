//! The model that an agent asks, behind the thread that computes; and what one turn of it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use herd_codec::chat::{
    ChatFormat, Date, Delta, Dialogue, Message, Piece, RenderOptions, StreamParser, ToolDefinition,
};
use herd_codec::{TokenId, Tokenizer};
use herd_engine::sample::Sampling;
use herd_engine::{Finish, Request, What};
use tokio::runtime::{Builder, Runtime};

use super::AgentError;
use super::wording::Manner;
use crate::host::{Host, Told};

/// One turn of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// What it says: text, then calls, without ids.
    pub message: Message,
    /// The ids that it was asked with; none where an endpoint does not tell.
    pub prompt: Vec<u32>,
    /// The ids that it chose, the last included.
    pub answer: Vec<u32>,
    /// The seed of its randomness.
    pub seed: u64,
    /// Whether it ended for want of tokens.
    pub cut: bool,
    /// Whether somebody cancelled it.
    pub cancelled: bool,
    /// Milliseconds since 1970 when it was asked.
    pub asked_ms: u64,
    /// How long it took.
    pub seconds: f64,
}

impl Turn {
    /// A turn of these words and calls: what a script says.
    pub fn of(message: Message) -> Turn {
        Turn {
            message,
            prompt: Vec::new(),
            answer: Vec::new(),
            seed: 0,
            cut: false,
            cancelled: false,
            asked_ms: 0,
            seconds: 0.0,
        }
    }
}

/// A model with its manners, asked turn by turn. It waits for answers, so it has a thread to itself.
pub struct Voice {
    host: Host,
    tokenizer: Arc<Tokenizer>,
    format: ChatFormat,
    manner: Manner,
    stops: Vec<u32>,
    sampling: Sampling,
    today: Option<Date>,
    tools: Vec<ToolDefinition>,
    stop: Arc<AtomicBool>,
    runtime: Runtime,
}

/// What a [`Voice`] is made of.
pub struct Manners {
    /// Text to ids and back.
    pub tokenizer: Arc<Tokenizer>,
    /// How the model chats.
    pub format: ChatFormat,
    /// Tokens that end an answer.
    pub stops: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The day, for formats that name it.
    pub today: Option<Date>,
    /// What it may call.
    pub tools: Vec<ToolDefinition>,
}

impl Voice {
    /// The model behind `host`. `stop` ends an answer from elsewhere.
    pub fn new(host: Host, manners: Manners, stop: Arc<AtomicBool>) -> Voice {
        let Manners { tokenizer, format, stops, sampling, today, tools } = manners;
        let runtime = Builder::new_current_thread().enable_time().build();
        let runtime = runtime.expect("a runtime without sockets asks the system for nothing");
        let manner = Manner::of(&format);
        Voice { host, tokenizer, format, manner, stops, sampling, today, tools, stop, runtime }
    }

    /// How tools are spoken of.
    pub fn manner(&self) -> Manner {
        self.manner
    }

    /// The ids that ask for the next turn of a dialogue.
    ///
    /// Errors: the format cannot say the dialogue.
    pub fn prompt(&self, dialogue: &Dialogue) -> Result<Vec<u32>, AgentError> {
        let said = self.manner.say(dialogue, &self.tools, self.today)?;
        let options = RenderOptions { today: self.today, ..RenderOptions::PROMPT };
        let ids = self.format.ids(&said, &options, &self.tokenizer)?;
        Ok(ids.into_iter().map(|id| id.0).collect())
    }

    /// One turn of at most `room` tokens. `tell` hears text as it becomes certain.
    ///
    /// Errors: the dialogue cannot be said or is too long; the engine gives no answer.
    pub fn turn(
        &self,
        dialogue: &Dialogue,
        room: usize,
        tell: &mut dyn FnMut(&str),
    ) -> Result<Turn, AgentError> {
        let asked = SystemTime::now();
        let prompt = self.prompt(dialogue)?;
        let request = Request {
            max_tokens: Some(room),
            stop_tokens: self.stops.clone(),
            ..Request::new(prompt.clone(), self.sampling.clone())
        };
        let mut parser =
            StreamParser::new(self.manner.call_forms(&self.format), &self.format.stops());
        let heard = self.runtime.block_on(self.hear(request, &mut parser, tell))?;
        let (deltas, parsed) = parser.finish();
        for delta in &deltas {
            if let Delta::Text(text) = delta {
                tell(text);
            }
        }
        let since = asked.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        Ok(Turn {
            message: parsed.into_message(),
            prompt,
            answer: heard.answer,
            seed: self.sampling.seed,
            cut: heard.cut,
            cancelled: heard.cancelled,
            asked_ms: since,
            seconds: asked.elapsed().map_or(0.0, |d| d.as_secs_f64()),
        })
    }

    async fn hear(
        &self,
        request: Request,
        parser: &mut StreamParser,
        tell: &mut dyn FnMut(&str),
    ) -> Result<Heard, AgentError> {
        let full = |_| AgentError::Model("too many ask at once".to_owned());
        let mut reception = self.host.submit(vec![(request, 1)]).map_err(full)?;
        let mut heard = Heard { answer: Vec::new(), cut: false, cancelled: false };
        let mut say = |parser: &mut StreamParser, piece: Piece<'_>| {
            if let Some(Delta::Text(text)) = parser.push(piece) {
                tell(&text);
            }
        };
        while let Some(told) = reception.next().await {
            if self.stop.load(Ordering::Relaxed) {
                heard.cancelled = true;
                return Ok(heard); // the reception is dropped, and with it the request
            }
            match told {
                Told::Taken => {}
                Told::Refused(_, error) => return Err(error.into()),
                Told::Fault(_) => return Err(AgentError::Model("a fault of Herd".to_owned())),
                Told::Event(_, What::Prompt(_) | What::Embedding(_)) => {}
                Told::Event(_, What::Token(token)) => {
                    heard.answer.push(token.id);
                    let id = TokenId(token.id);
                    if self.tokenizer.is_control(id) {
                        let name = String::from_utf8_lossy(self.tokenizer.token_bytes(id));
                        say(parser, Piece::Control(&name));
                    } else {
                        say(parser, Piece::Text(&token.text));
                    }
                }
                Told::Event(_, What::End { finish, text, .. }) => {
                    say(parser, Piece::Text(&text));
                    match finish {
                        Finish::StopToken(_) | Finish::StopString(_) | Finish::Complete => {}
                        Finish::Length => heard.cut = true,
                        Finish::Cancelled => heard.cancelled = true,
                        Finish::Failed(error) => return Err(AgentError::Model(error.to_string())),
                        Finish::Form(error) => return Err(AgentError::Model(error.to_string())),
                    }
                }
            }
        }
        Ok(heard)
    }
}

/// What came of a request.
struct Heard {
    answer: Vec<u32>,
    cut: bool,
    cancelled: bool,
}

/// The vector of a text by the model behind `host`: the mean of its hidden states.
///
/// Errors: the engine refuses it, or gives no answer.
pub fn embed(host: &Host, tokenizer: &Tokenizer, text: &str) -> Result<Vec<f32>, AgentError> {
    let ids = tokenizer.encode_prompt(text, false).into_iter().map(|id| id.0).collect();
    let runtime = Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime without sockets asks the system for nothing");
    let full = |_| AgentError::Model("too many ask at once".to_owned());
    let mut reception = host.submit(vec![(Request::embedding(ids), 1)]).map_err(full)?;
    let mut vector = None;
    while let Some(told) = runtime.block_on(reception.next()) {
        match told {
            Told::Event(_, What::Embedding(x_d)) => vector = Some(x_d),
            Told::Refused(_, error) => return Err(error.into()),
            Told::Taken | Told::Event(..) | Told::Fault(_) => {}
        }
    }
    vector.ok_or_else(|| AgentError::Model("no vector came".to_owned()))
}
