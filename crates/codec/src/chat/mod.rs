//! Chats as typed spans, and the model's answers as messages again.
//!
//! A renderer turns a [`Dialogue`] into [`Span`]s. Control tokens come from structure only: what
//! anybody wrote is text, whatever it spells. [`parse_assistant`] is the way back.

mod calls;
mod chatml;
mod code_llama;
mod date;
mod hugging_face;
mod llama2;
mod llama3;
mod message;
mod parse;
mod python;
mod span;
mod template;

pub use calls::{CallForms, ToolFormat};
pub use chatml::SMOLLM2_SYSTEM;
pub use date::Date;
pub use message::{Block, Dialogue, EndOf, Message, Role, ToolCall, ToolDefinition};
pub use parse::{Delta, ParsedMessage, Piece, StopReason, StreamParser, parse_assistant, pieces};
pub use span::{Encoded, Origin, Run, Span, SpanKind, spans_to_ids};
pub use template::Template;

use crate::tokenizer::{TokenId, Tokenizer};

/// A chat format.
#[derive(Clone, Debug)]
pub enum ChatFormat {
    /// Llama 2 Chat: `[INST]`, and the system text inside the first user message.
    Llama2,
    /// Code Llama 70B Instruct: `Source:`, `Destination:` and `<step>`.
    CodeLlama70b,
    /// Llama 3 of April 2024: contents are stripped, no tools.
    Llama3,
    /// Llama 3.1 and later as Meta's own code writes it: contents as given, calls in `tools`.
    Llama31 {
        /// How calls of the caller's tools are written.
        tools: ToolFormat,
    },
    /// Llama 3.1 and 3.3 Instruct as Hugging Face's template writes it.
    HuggingFace31,
    /// Llama 3.2 Instruct as Hugging Face's template writes it.
    HuggingFace32,
    /// `<|im_start|>role`, as SmolLM2 and many others.
    ChatMl {
        /// The system text of a dialogue that brings none.
        system: Option<String>,
    },
    /// Any other template.
    Template(Box<Template>),
}

/// What a rendering needs beside the dialogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenderOptions {
    /// What comes after the last message.
    pub ending: Ending,
    /// The day, for formats that name it; `None` gives the template's own, 26 July 2024.
    pub today: Option<Date>,
    /// Where Hugging Face's formats put tool definitions.
    pub tools_in: ToolsIn,
}

impl RenderOptions {
    /// A prompt to be answered, without a day, tools in the user's message.
    pub const PROMPT: RenderOptions =
        RenderOptions { ending: Ending::Prompt, today: None, tools_in: ToolsIn::User };
    /// A whole dialogue, as in training.
    pub const CLOSED: RenderOptions =
        RenderOptions { ending: Ending::Closed, ..RenderOptions::PROMPT };
}

/// What comes after the last message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The assistant's header: the model is to answer.
    Prompt,
    /// Nothing.
    Closed,
}

/// Which message holds the tool definitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolsIn {
    /// The first message after the system's (the default of Hugging Face's template).
    User,
    /// The system's message.
    System,
}

/// Why a chat cannot be rendered, encoded or compiled.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// There is no message.
    #[error("the dialogue has no message")]
    Empty,
    /// A role stands where the format has no place for it.
    #[error("message {message} is of role {}, the format wants {wants} there", role.name())]
    Order {
        /// Index of the message.
        message: usize,
        /// Its role.
        role: Role,
        /// What the format wants.
        wants: &'static str,
    },
    /// Llama 2 marks turns by plain text, so a message that contains a mark is refused.
    #[error("message {message} contains {tag}, which the format reserves")]
    ReservedTag {
        /// Index of the message.
        message: usize,
        /// The mark.
        tag: &'static str,
    },
    /// The format cannot say this.
    #[error("{what} in message {message}: the format has no form for it")]
    NoForm {
        /// Index of the message.
        message: usize,
        /// What it has no form for.
        what: &'static str,
    },
    /// The format has no place for tool definitions.
    #[error("tool {tool}: the format has no place for tool definitions, put them into a message")]
    NoPlaceForTools {
        /// The first tool's name.
        tool: String,
    },
    /// Hugging Face's formats allow one call a message.
    #[error("message {message} makes {calls} tool calls, the format allows one")]
    ManyCalls {
        /// Index of the message.
        message: usize,
        /// Calls in it.
        calls: usize,
    },
    /// An argument that is written bare must be text.
    #[error("message {message}: argument {argument} of {call} is missing or not text")]
    ArgumentNotText {
        /// Index of the message.
        message: usize,
        /// The tool's name.
        call: String,
        /// The argument's name.
        argument: String,
    },
    /// The vocabulary lacks a control token.
    #[error("the vocabulary has no control token {name}")]
    UnknownControl {
        /// The token's name.
        name: String,
    },
    /// A date directive that a day cannot fill.
    #[error("date format {format:?} has a directive that a day cannot fill")]
    DateFormat {
        /// The format.
        format: String,
    },
    /// The template refuses the dialogue by `raise_exception`.
    #[error("the template refuses the dialogue: {message}")]
    Refused {
        /// The template's words.
        message: String,
    },
    /// The template is wrong, or spends more than its bounds.
    #[error("chat template")]
    Template(#[from] Box<minijinja::Error>),
    /// The template grows a value, its output or itself beyond a bound.
    #[error("chat template: {what} takes {bytes} bytes, at most {limit} are allowed")]
    TooLarge {
        /// What grew.
        what: &'static str,
        /// How large it is.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// A product in a template that cannot be bounded beforehand.
    #[error("chat template: the product in {tag:?} is not of two names or literals")]
    Product {
        /// The tag.
        tag: String,
    },
    /// All private characters that could mark control tokens are used by the dialogue.
    #[error(
        "the dialogue uses so many private characters that none is left to mark {controls} control tokens"
    )]
    NoMarks {
        /// Marks wanted.
        controls: usize,
    },
}

impl ChatFormat {
    /// Renders a dialogue.
    ///
    /// Errors: what the format cannot say, and what it refuses; nothing is dropped in silence
    /// but what the published templates drop (see docs/chat.md).
    pub fn render(
        &self,
        dialogue: &Dialogue,
        options: &RenderOptions,
    ) -> Result<Vec<Span>, ChatError> {
        if dialogue.messages.is_empty() {
            return Err(ChatError::Empty);
        }
        for (message, said) in dialogue.messages.iter().enumerate() {
            if said.role != Role::Assistant && !said.tool_calls.is_empty() {
                return Err(ChatError::NoForm { message, what: "a call by another" });
            }
        }
        match self {
            ChatFormat::Llama2 => llama2::render(dialogue, options),
            ChatFormat::CodeLlama70b => code_llama::render(dialogue, options),
            ChatFormat::Llama3 => llama3::render_april(dialogue, options),
            ChatFormat::Llama31 { tools } => llama3::render(dialogue, options, *tools),
            ChatFormat::HuggingFace31 => {
                hugging_face::render(dialogue, options, hugging_face::Version::V31)
            }
            ChatFormat::HuggingFace32 => {
                hugging_face::render(dialogue, options, hugging_face::Version::V32)
            }
            ChatFormat::ChatMl { system } => chatml::render(dialogue, options, system.as_deref()),
            ChatFormat::Template(template) => template.render(dialogue, options),
        }
    }

    /// The ids of a rendered dialogue.
    ///
    /// Errors: as [`ChatFormat::render`]; a control token that the vocabulary lacks.
    pub fn ids(
        &self,
        dialogue: &Dialogue,
        options: &RenderOptions,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<TokenId>, ChatError> {
        let spans = self.render(dialogue, options)?;
        let encode = |text: &str| tokenizer.encode(text);
        Ok(spans_to_ids(&spans, encode, |name| tokenizer.special_id(name))?.ids)
    }

    /// The format of a model's chat template: a native one where the template says the same on
    /// every probe, else the template itself.
    ///
    /// `controls` are the vocabulary's control tokens; `bos` and `eos` are among them.
    /// Errors: a template that does not compile, or is too large.
    pub fn of_template(
        source: &str,
        controls: &[&str],
        bos: Option<&str>,
        eos: Option<&str>,
    ) -> Result<ChatFormat, ChatError> {
        let template = Template::new(source, controls, bos, eos)?;
        Ok(template.native().unwrap_or_else(|| ChatFormat::Template(Box::new(template))))
    }

    /// A template that says the same to other programs, where there is one: for files of a model.
    pub fn template(&self) -> Option<&str> {
        match self {
            ChatFormat::Llama3 => Some(llama3::TEMPLATE),
            ChatFormat::ChatMl { system: None } => Some(chatml::TEMPLATE),
            ChatFormat::Template(template) => Some(template.source()),
            ChatFormat::Llama2 | ChatFormat::CodeLlama70b | ChatFormat::Llama31 { .. } => None,
            ChatFormat::HuggingFace31 | ChatFormat::HuggingFace32 => None,
            ChatFormat::ChatMl { system: Some(_) } => None,
        }
    }

    /// Control tokens at which an answer is over.
    pub fn stops(&self) -> Vec<&str> {
        match self {
            ChatFormat::Llama2 => vec!["</s>"],
            ChatFormat::CodeLlama70b => vec!["<step>", "</s>"],
            ChatFormat::Llama3 => vec!["<|eot_id|>", "<|end_of_text|>"],
            ChatFormat::Llama31 { .. } | ChatFormat::HuggingFace31 | ChatFormat::HuggingFace32 => {
                vec!["<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"]
            }
            ChatFormat::ChatMl { .. } => vec!["<|im_end|>"],
            ChatFormat::Template(template) => template.eos().into_iter().collect(),
        }
    }

    /// Which calls an answer in this format may hold.
    pub fn call_forms(&self) -> CallForms {
        match self {
            ChatFormat::Llama2 | ChatFormat::CodeLlama70b | ChatFormat::Llama3 => CallForms::NONE,
            ChatFormat::ChatMl { .. } | ChatFormat::Template(_) => CallForms::NONE,
            ChatFormat::Llama31 { tools } => {
                let custom: &'static [ToolFormat] = match tools {
                    ToolFormat::Json => &[ToolFormat::Json],
                    ToolFormat::FunctionTag => &[ToolFormat::FunctionTag],
                    ToolFormat::PythonList => &[ToolFormat::PythonList],
                };
                CallForms { custom, builtin: true }
            }
            ChatFormat::HuggingFace31 | ChatFormat::HuggingFace32 => CallForms::JSON,
        }
    }

    /// What a call of `name` has before its arguments and behind them, where they stand as JSON: by this an answer can be
    /// held to a call. Nothing for formats that write calls otherwise or not at all, and names that they cannot hold.
    pub fn call_frame(&self, name: &str) -> Option<(String, String)> {
        match self {
            ChatFormat::Llama31 { tools } => calls::frame(name, *tools, true),
            ChatFormat::HuggingFace31 | ChatFormat::HuggingFace32 => {
                calls::frame(name, ToolFormat::Json, false)
            }
            ChatFormat::Llama2 | ChatFormat::CodeLlama70b | ChatFormat::Llama3 => None,
            ChatFormat::ChatMl { .. } | ChatFormat::Template(_) => None,
        }
    }

    /// Whether an assistant's message survives rendering and parsing unchanged (ids of calls and
    /// the borders of text blocks apart). Text that ends in a call, and strings that a call
    /// writes bare, may not; docs/chat.md lists them.
    pub fn holds(&self, message: &Message) -> bool {
        let Ok(spans) = self.render_answer(message) else { return false };
        let parsed = parse_assistant(pieces(&spans), self.call_forms(), &self.stops());
        let bare = |message: &Message| {
            let calls = message.tool_calls.iter().map(|call| (&call.name, &call.arguments));
            (message.text(), calls.map(|(n, a)| (n.clone(), a.clone())).collect::<Vec<_>>())
        };
        let ended = parsed.stop.end() == Some(message.end);
        ended && bare(&parsed.into_message()) == bare(message)
    }

    /// The spans that the model itself writes for `message`: content, calls and the end.
    pub fn render_answer(&self, message: &Message) -> Result<Vec<Span>, ChatError> {
        let question = Message::new(Role::User, "?");
        let dialogue = Dialogue::from(vec![question, message.clone()]);
        let spans = self.render(&dialogue, &RenderOptions::CLOSED)?;
        let own = |span: &Span| span.from().message == Some(1) && span.is_learned();
        Ok(spans.into_iter().filter(own).collect())
    }
}
