//! The shapes of other people's servers: one file each, from its fields to its answers.

pub mod chat;
pub mod completions;
pub mod embeddings;
pub mod items;
pub mod messages;
pub mod models;
pub mod ollama;
pub mod ollama_models;
pub mod responses;
pub mod tokens;
pub mod turns;

use herd_engine::Usage;
use serde_json::{Value, json};

use crate::answer::{Choice, Chosen, Part};
use crate::ask::Ask;
use crate::fields::{Given, Shape};
use crate::refusal::Refusal;
use crate::served::Served;

/// Every shape that takes a body.
pub const SHAPES: &[&Shape] = &[
    &chat::SHAPE,
    &completions::SHAPE,
    &messages::SHAPE,
    &messages::COUNT,
    &ollama::CHAT,
    &ollama::GENERATE,
    &ollama_models::SHOW,
    &responses::SHAPE,
    &embeddings::SHAPE,
    &embeddings::OLLAMA,
    &embeddings::OLDER,
    &tokens::TOKENIZE,
    &tokens::DETOKENIZE,
    &tokens::TEMPLATE,
    &crate::batches::SHAPE,
    &models::LOAD,
    &models::UNLOAD,
];

/// Tables of objects within requests.
pub const PARTS: &[&Shape] = &[&ollama::OPTIONS];

/// How answers are written. One value writes the answers to one request.
pub trait Wire: Send {
    /// The answer as a whole, with what else is to be known of it; choices stand in their order.
    fn whole(&self, choices: Vec<Choice>, served: &Served) -> Value;
    /// What comes before the first part of a stream.
    fn open(&mut self, out: &mut String);
    /// A part of answer `answer` of a stream.
    fn part(&mut self, answer: usize, part: Part, served: &Served, out: &mut String);
    /// What ends a stream whose answers have all ended.
    fn close(&mut self, out: &mut String);
    /// What ends a stream that cannot go on.
    fn broken(&mut self, refusal: &Refusal, out: &mut String);
    /// The type of a stream's content.
    fn stream_type(&self) -> &'static str {
        "text/event-stream"
    }
}

/// A request that was read: what to compute, and how to write what comes of it.
pub struct Exchange {
    /// What to compute.
    pub ask: Ask,
    /// How to write it.
    pub wire: Box<dyn Wire>,
    /// Whether parts are wanted as they come.
    pub stream: bool,
}

/// What identifies an answer.
#[derive(Clone, Debug)]
pub struct Head {
    /// The request's own name, after a prefix of the shape's.
    pub id: String,
    /// When it came, in seconds since 1970.
    pub created: u64,
}

/// Adds one event to a stream.
pub fn event(out: &mut String, value: &Value) {
    out.push_str("data: ");
    out.push_str(&value.to_string());
    out.push_str("\n\n");
}

/// Token counts as OpenAI's completions have them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    prompt: usize,
    cached: usize,
    generated: usize,
}

impl Counts {
    /// Takes in the usage of an answer. A prompt counts once, with its first answer.
    pub fn add(&mut self, usage: Usage, first: bool) {
        if first {
            self.prompt += usage.prompt;
            self.cached += usage.cached;
        }
        self.generated += usage.generated;
    }

    /// Tokens that were generated.
    pub fn written(&self) -> usize {
        self.generated
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.generated,
            "total_tokens": self.prompt + self.generated,
            "prompt_tokens_details": { "cached_tokens": self.cached },
        })
    }
}

/// Whether the stream's last chunk shall hold the usage.
pub fn include_usage(given: &Given) -> Result<bool, Refusal> {
    const KEYS: &[&str] = &["include_usage", "include_obfuscation"];
    let options = given.object_of("stream_options", KEYS)?;
    let stream = given.flag("stream") == Some(true);
    if given.value("stream_options").is_some() && !stream {
        let message = "stream_options is only allowed where stream is true";
        return Err(Refusal::field("stream_options", message));
    }
    if options.get("include_obfuscation") == Some(&Value::Bool(true)) {
        let message = "include_obfuscation is not supported: chunks are not padded";
        return Err(Refusal::field("stream_options.include_obfuscation", message));
    }
    match options.get("include_usage") {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(wanted)) => Ok(*wanted),
        Some(other) => Err(Refusal::field(
            "stream_options.include_usage",
            format!("include_usage is {other}, expected true or false"),
        )),
    }
}

/// A token as a text for programs: its characters, or `bytes:\xNN..` where they are not whole.
pub fn spell(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            let hex = bytes.iter().map(|byte| format!("\\x{byte:02x}"));
            format!("bytes:{}", hex.collect::<String>())
        }
    }
}

/// Chosen tokens with their log-probabilities, as OpenAI has them; one that ends the answer is not among them.
pub fn said(tokens: &[Chosen], served: &Served) -> Value {
    let one = |id: u32, log_prob: f64| {
        let bytes = served.bytes(id);
        json!({ "token": spell(bytes), "logprob": finite(log_prob), "bytes": bytes })
    };
    let said = tokens.iter().filter(|chosen| !chosen.ends).map(|chosen| {
        let token = &chosen.token;
        let mut said = one(token.id, token.log_prob.unwrap_or(f64::NEG_INFINITY));
        said["top_logprobs"] = token.top.iter().map(|t| one(t.id, t.log_prob)).collect();
        said
    });
    said.collect()
}

/// JSON has no number for minus infinity; this is what OpenAI gives for what is as good as impossible. What is no number
/// becomes null.
pub fn finite(log_prob: f64) -> f64 {
    if log_prob.is_nan() { log_prob } else { log_prob.max(-9999.0) }
}
