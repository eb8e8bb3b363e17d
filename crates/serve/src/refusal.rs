//! Why a request is not answered, and how that is said in each dialect.

use herd_codec::chat::ChatError;
use herd_engine::RequestError;
use herd_engine::sample::SampleError;
use serde_json::{Value, json};

/// A request that is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status of HTTP.
    pub status: u16,
    /// One word that programs look at, in OpenAI's terms.
    pub code: Option<&'static str>,
    /// The field that offends.
    pub field: Option<String>,
    /// What is wrong, with the value.
    pub message: String,
    /// When to come back, in seconds.
    pub retry_after: Option<u64>,
}

/// How errors are said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `{"error": {"message", "type", "param", "code"}}`
    OpenAi,
    /// `{"type": "error", "error": {"type", "message"}}`
    Anthropic,
    /// `{"error": "message"}`
    Ollama,
}

impl Dialect {
    /// The dialect of a path.
    pub fn of(path: &str) -> Dialect {
        match path {
            _ if path.starts_with("/v1/messages") => Dialect::Anthropic,
            _ if path.starts_with("/api/") => Dialect::Ollama,
            _ => Dialect::OpenAi,
        }
    }
}

impl Refusal {
    /// A refusal of this status without more to say.
    pub fn new(status: u16, message: impl Into<String>) -> Refusal {
        let message = message.into();
        Refusal { status, code: None, field: None, message, retry_after: None }
    }

    /// A field is wrong.
    pub fn field(name: impl Into<String>, message: impl Into<String>) -> Refusal {
        Refusal { field: Some(name.into()), ..Refusal::new(400, message) }
    }

    /// The body in a dialect.
    pub fn body(&self, dialect: Dialect) -> Value {
        let Refusal { status, code, field, message, .. } = self;
        let kind = match (dialect, status) {
            (_, 401) => "authentication_error",
            (_, 403) => "permission_error",
            (Dialect::OpenAi, 404) => "invalid_request_error",
            (_, 404) => "not_found_error",
            (Dialect::Anthropic, 413) => "request_too_large",
            (_, 429) => "rate_limit_error",
            (Dialect::Anthropic, 503) => "overloaded_error",
            (Dialect::Anthropic, 500..) => "api_error",
            (_, 500..) => "server_error",
            (_, _) => "invalid_request_error",
        };
        match dialect {
            Dialect::OpenAi => json!({
                "error": { "message": message, "type": kind, "param": field, "code": code }
            }),
            Dialect::Anthropic => {
                json!({ "type": "error", "error": { "type": kind, "message": message } })
            }
            Dialect::Ollama => json!({ "error": message }),
        }
    }

    /// What the engine would not take; `prompt` is the field that brings the tokens.
    pub fn of_request(error: &RequestError, prompt: &str) -> Refusal {
        let field = match error {
            RequestError::Sampling(SampleError::Field { name, .. }) => name,
            RequestError::Sampling(SampleError::BiasToken { .. }) => "logit_bias",
            RequestError::Stop(_) => "stop",
            RequestError::NoAnswer => "n",
            _ => prompt,
        };
        let code = match error {
            RequestError::Context { .. } => Some("context_length_exceeded"),
            _ => None,
        };
        Refusal { code, ..Refusal::field(field, error.to_string()) }
    }

    /// A fault of this program ended the answer.
    pub fn fault() -> Refusal {
        Refusal::new(500, "a fault in herd ended this answer; its log says more")
    }

    /// What no token could be chosen for.
    pub fn of_sampling(error: &SampleError) -> Refusal {
        match error {
            SampleError::NoToken => Refusal::field("logit_bias", error.to_string()),
            SampleError::Field { .. }
            | SampleError::BiasToken { .. }
            | SampleError::Logit { .. } => Refusal::new(500, error.to_string()),
        }
    }
}

/// What a chat format cannot say; `field` is where the dialogue came from.
impl From<ChatError> for Refusal {
    fn from(error: ChatError) -> Refusal {
        let field = match &error {
            ChatError::NoPlaceForTools { .. } => "tools",
            _ => "messages",
        };
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
        Refusal::field(field, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_said_in_the_dialect_of_the_path() {
        let refusal = Refusal { code: Some("c"), ..Refusal::field("top_p", "top_p is 3") };
        assert_eq!(
            refusal.body(Dialect::of("/v1/chat/completions")).to_string(),
            r#"{"error":{"message":"top_p is 3","type":"invalid_request_error","param":"top_p","code":"c"}}"#
        );
        assert_eq!(
            refusal.body(Dialect::of("/v1/messages")).to_string(),
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"top_p is 3"}}"#
        );
        assert_eq!(refusal.body(Dialect::of("/api/chat")).to_string(), r#"{"error":"top_p is 3"}"#);
    }

    #[test]
    fn the_engines_errors_name_the_field() {
        let error = RequestError::Context { tokens: 9, context: 8 };
        let refusal = Refusal::of_request(&error, "messages");
        assert_eq!(refusal.field.as_deref(), Some("messages"));
        assert_eq!(refusal.code, Some("context_length_exceeded"));
        let error = SampleError::Field { name: "min_p", value: 2.0, range: "x" };
        let refusal = Refusal::of_request(&RequestError::Sampling(error), "messages");
        assert_eq!(refusal.field.as_deref(), Some("min_p"));
    }
}
