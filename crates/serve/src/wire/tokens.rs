//! `/tokenize`, `/detokenize`, `/apply-template`: text and ids without the model, in
//! llama-server's shapes.

use herd_codec::chat::Dialogue;
use herd_codec::{Controls, TokenId};
use serde_json::{Value, json};

use super::chat;
use crate::fields::{Given, Kind, Shape, honoured};
use crate::refusal::Refusal;
use crate::served::Served;

/// Text to ids.
pub static TOKENIZE: Shape = Shape {
    path: "/tokenize",
    about: "the ids of a text",
    prefix: "",
    groups: &[&[
        honoured("content", Kind::Text, "the text"),
        honoured(
            "add_special",
            Kind::Flag,
            "the begin-of-text token before it, if the model wants one",
        ),
        honoured("parse_special", Kind::Flag, "special strings are the tokens that they name"),
        honoured("with_pieces", Kind::Flag, "with each id its text, or its bytes"),
    ]],
    required: &["content"],
};

/// Ids to text.
pub static DETOKENIZE: Shape = Shape {
    path: "/detokenize",
    about: "the text of ids",
    prefix: "",
    groups: &[&[honoured("tokens", Kind::Wholes, "the ids")]],
    required: &["tokens"],
};

/// A dialogue to the prompt that it becomes.
pub static TEMPLATE: Shape = Shape {
    path: "/apply-template",
    about: "the prompt that a conversation becomes, as text and ids",
    prefix: "",
    groups: &[&[
        honoured("messages", Kind::List, "the conversation"),
        honoured("tools", Kind::List, "functions that the model may call"),
    ]],
    required: &["messages"],
};

/// Answers `/tokenize`.
pub fn tokenize(given: Given, served: &Served) -> Result<Value, Refusal> {
    let flag = |name| given.flag(name) == Some(true);
    let (text, special) = (given.text("content").unwrap_or_default(), flag("parse_special"));
    let tokenizer = &served.tokenizer;
    let ids: Vec<TokenId> = match (flag("add_special"), special) {
        (true, special) => tokenizer.encode_prompt(text, special),
        (false, true) => tokenizer.encode_with_specials(text, &herd_codec::SpecialSet::All),
        (false, false) => tokenizer.encode(text),
    };
    let piece = |id: &TokenId| {
        let bytes = served.bytes(id.0);
        let piece = match std::str::from_utf8(bytes) {
            Ok(text) => json!(text),
            Err(_) => json!(bytes),
        };
        json!({ "id": id.0, "piece": piece })
    };
    let tokens: Vec<Value> = match flag("with_pieces") {
        true => ids.iter().map(piece).collect(),
        false => ids.iter().map(|id| id.0.into()).collect(),
    };
    Ok(json!({ "tokens": tokens }))
}

/// Answers `/detokenize`.
pub fn detokenize(given: Given, served: &Served) -> Result<Value, Refusal> {
    let known = served.tokenizer.vocab_size();
    let id = |id: i64| match usize::try_from(id) {
        Ok(place) if place < known => Ok(TokenId(id as u32)),
        _ => {
            let message = format!("tokens holds {id}, the vocabulary has {known}");
            Err(Refusal::field("tokens", message))
        }
    };
    let ids = given.wholes("tokens").into_iter().map(id).collect::<Result<Vec<_>, _>>()?;
    Ok(json!({ "content": served.tokenizer.decode_lossy(&ids) }))
}

/// Answers `/apply-template`.
pub fn apply_template(mut given: Given, served: &Served) -> Result<Value, Refusal> {
    let tools = given.take("tools").map(chat::tools).transpose()?.unwrap_or_default();
    let messages = chat::messages(given.take("messages").unwrap_or_default())?;
    let ids = served.dialogue(&Dialogue { messages, tools, builtin_tools: None })?;
    let tokens: Vec<TokenId> = ids.iter().map(|&id| TokenId(id)).collect();
    let text = served.tokenizer.decode_with(&tokens, Controls::Show);
    Ok(json!({ "prompt": String::from_utf8_lossy(&text), "tokens": ids }))
}
