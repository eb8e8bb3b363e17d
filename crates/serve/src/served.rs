//! The model that is served, as far as the door must know it: names, tokens, chat, defaults.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use herd_codec::chat::{
    ChatError, ChatFormat, Date, Dialogue, Message, RenderOptions, Role, ToolDefinition,
};
use herd_codec::{TokenId, Tokenizer};
use herd_engine::Limits;
use herd_engine::sample::Sampling;

use crate::agent::wording::Manner;
use crate::forms::Forms;
use crate::kept::Kept;
use crate::refusal::Refusal;
use crate::wire::turns::in_turn;

/// What names a model's weights, or why nothing does; slow the first time, since all of them are read.
pub type WeightsHash =
    Arc<LazyLock<Result<String, String>, Box<dyn FnOnce() -> Result<String, String> + Send>>>;

/// A model without its weights.
#[derive(Clone, Debug)]
pub struct Served {
    /// What requests call it.
    pub name: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Text to ids and back.
    pub tokenizer: Arc<Tokenizer>,
    /// How it chats; `None` if its files do not say.
    pub format: Option<ChatFormat>,
    /// Sampling where a request says nothing, but for its seed.
    pub sampling: Sampling,
    /// The seed of requests that give none; else each draws one.
    pub seed: Option<u64>,
    /// Tokens that end a text.
    pub text_stops: Vec<u32>,
    /// Tokens that end an answer in a chat.
    pub chat_stops: Vec<u32>,
    /// The engine's limits.
    pub limits: Limits,
    /// Tokens that the model knows.
    pub vocab: usize,
    /// Forms that answers can be held to.
    pub forms: Arc<Forms>,
    /// The numeric class that it runs in.
    pub class: &'static str,
    /// What names its weights.
    pub weights: WeightsHash,
    /// What its files say of its size.
    pub facts: Facts,
    /// Answers that later requests may go on from.
    pub kept: Arc<Kept>,
    /// The day, for formats that name it.
    pub today: fn() -> Option<Date>,
}

/// The size of a model.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// Numbers in its weights.
    pub parameters: u64,
    /// Bytes of its weights in memory.
    pub bytes: usize,
    /// Numbers in a hidden state.
    pub width: usize,
    /// How the weights of its layers are stored.
    pub format: &'static str,
    /// The kind of its file.
    pub container: &'static str,
}

impl Served {
    /// What stands for numbers that do not move: the program's version and the numeric class.
    pub fn fingerprint(&self) -> String {
        format!("herd-{}-{}", env!("CARGO_PKG_VERSION"), self.class)
    }

    /// Checks the model that a request names.
    pub fn check_name(&self, name: &str) -> Result<(), Refusal> {
        match name == self.name {
            true => Ok(()),
            false => Err(Refusal {
                code: Some("model_not_found"),
                status: 404,
                ..Refusal::field(
                    "model",
                    format!("no model {name:?} is served here, only {:?}", self.name),
                )
            }),
        }
    }

    /// How it chats. Errors: its files do not say.
    pub fn chat(&self) -> Result<&ChatFormat, Refusal> {
        let message = "the model's files do not say how it chats; start `herd serve` with \
                       --chat-template, or use /v1/completions";
        self.format.as_ref().ok_or_else(|| Refusal::field("messages", message))
    }

    /// Whether calls can be read out of answers; `tool` is one that is offered.
    pub fn check_calls(&self, tool: &str) -> Result<(), Refusal> {
        match self.chat()?.call_forms().custom.is_empty() {
            false => Ok(()),
            true => Err(Refusal::field(
                "tools",
                format!(
                    "tool {tool} is offered, but calls of this model's chat format cannot be read"
                ),
            )),
        }
    }

    /// The ids of a dialogue that the model is to go on with.
    pub fn dialogue(&self, dialogue: &Dialogue) -> Result<Vec<u32>, Refusal> {
        self.dialogue_of(dialogue, (self.today)())
    }

    /// The same on another day; on none with the template's own.
    pub fn dialogue_of(
        &self,
        dialogue: &Dialogue,
        today: Option<Date>,
    ) -> Result<Vec<u32>, Refusal> {
        let options = RenderOptions { today, ..RenderOptions::PROMPT };
        let format = self.chat()?;
        let ids = match format.ids(dialogue, &options, &self.tokenizer) {
            Err(ChatError::ManyCalls { .. }) => {
                format.ids(&in_turn(dialogue), &options, &self.tokenizer)?
            }
            ids => ids?,
        };
        Ok(ids.into_iter().map(|id| id.0).collect())
    }

    /// The ids of messages where the server has tools, said as `herd agent` says them: each format has its words for them.
    pub fn with_tools(
        &self,
        mut messages: Vec<Message>,
        tools: &[ToolDefinition],
    ) -> Result<Vec<u32>, Refusal> {
        name_results(&mut messages);
        let manner = Manner::of(self.chat()?);
        let said = manner.say(&Dialogue::from(messages), tools, (self.today)());
        self.dialogue(&said.map_err(|error| Refusal::field("messages", error.to_string()))?)
    }

    /// The ids of a raw prompt, as `herd complete` has them.
    pub fn prompt(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode_prompt(text, false).into_iter().map(|id| id.0).collect()
    }

    /// A token's bytes; none for an id that the tokenizer does not have.
    pub fn bytes(&self, id: u32) -> &[u8] {
        match (id as usize) < self.tokenizer.vocab_size() {
            true => self.tokenizer.token_bytes(TokenId(id)),
            false => &[],
        }
    }
}

/// Results say whose they are, by the calls that they answer.
fn name_results(messages: &mut [Message]) {
    let mut names = HashMap::new();
    for message in messages {
        for call in &message.tool_calls {
            names.extend(call.id.clone().map(|id| (id, call.name.clone())));
        }
        if message.role == Role::Tool && message.name.is_none() {
            message.name = message.tool_call_id.as_ref().and_then(|id| names.get(id)).cloned();
        }
    }
}
