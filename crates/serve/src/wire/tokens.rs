//! `/tokenize`, `/detokenize`, `/apply-template`: text and ids without the model, in
//! llama-server's shapes.

use herd_codec::chat::{Date, Dialogue};
use herd_codec::{Controls, TokenId};
use serde_json::{Value, json};

use super::chat;
use crate::fields::{Given, Kind, MODEL, Shape, honoured};
use crate::refusal::Refusal;
use crate::served::Served;

/// Text to ids.
pub static TOKENIZE: Shape = Shape {
    path: "/tokenize",
    about: "the ids of a text",
    prefix: "",
    groups: &[&[
        honoured("content", Kind::Text, "the text"),
        honoured("prompt", Kind::Text, "the text, under vLLM's name"),
        honoured("model", Kind::Text, "the model's name; another's is refused"),
        honoured("add_special_tokens", Kind::Flag, "add_special, under vLLM's name"),
        honoured(
            "add_special",
            Kind::Flag,
            "the begin-of-text token before it, if the model wants one",
        ),
        honoured("parse_special", Kind::Flag, "special strings are the tokens that they name"),
        honoured("with_pieces", Kind::Flag, "with each id its text, or its bytes"),
    ]],
    required: &[],
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
        MODEL,
        honoured("messages", Kind::List, "the conversation"),
        honoured("tools", Kind::List, "functions that the model may call"),
        honoured(
            "date",
            Kind::Text,
            "the day that templates tell, like 2024-07-26, or none: their own; else today",
        ),
    ]],
    required: &["messages"],
};

/// Answers `/tokenize`.
pub fn tokenize(given: Given, served: &Served) -> Result<Value, Refusal> {
    let flag = |name| given.flag(name) == Some(true);
    if let Some(name) = given.text("model") {
        served.check_name(name)?;
    }
    let (text, begin) = match (given.text("content"), given.text("prompt")) {
        (Some(text), None) => (text, flag("add_special")),
        (None, Some(text)) => (text, given.flag("add_special_tokens") != Some(false)),
        (None, None) => return Err(Refusal::field("content", "content is missing")),
        (Some(_), Some(_)) => {
            return Err(Refusal::field("prompt", "content and prompt are both the text: give one"));
        }
    };
    let tokenizer = &served.tokenizer;
    // vLLM's callers ask for the id of a control token by its name alone.
    let named = given.text("prompt").is_some() && tokenizer.special_id(text).is_some();
    let special = flag("parse_special") || named;
    let ids: Vec<TokenId> = match (begin, special) {
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
    Ok(json!({ "count": tokens.len(), "max_model_len": served.limits.context, "tokens": tokens }))
}

/// Answers `/tokenizer_info`, in vLLM's shape: the names of the tokens that begin and end a text.
pub fn info(served: &Served) -> Value {
    let name = |id: TokenId| String::from_utf8_lossy(served.bytes(id.0)).into_owned();
    let specials = served.tokenizer.specials();
    let (begin, end) = (specials.bos.map(name), specials.eos.or(specials.eot).map(name));
    json!({ "bos_token": begin, "eos_token": end, "pad_token": null })
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
    let text = served.tokenizer.decode_lossy(&ids);
    // llama-server's name for it, and vLLM's.
    Ok(json!({ "content": text, "prompt": text }))
}

/// Answers `/apply-template`.
pub fn apply_template(mut given: Given, served: &Served) -> Result<Value, Refusal> {
    let tools = given.take("tools").map(chat::tools).transpose()?.unwrap_or_default();
    let messages = chat::messages(given.take("messages").unwrap_or_default())?;
    let today = match given.text("date") {
        None => (served.today)(),
        Some("none") => None,
        Some(day) => Some(Date::parse(day).ok_or_else(|| {
            Refusal::field("date", format!("date is {day:?}, not a day like 2024-07-26 or none"))
        })?),
    };
    let ids = served.dialogue_of(&Dialogue { messages, tools, builtin_tools: None }, today)?;
    let tokens: Vec<TokenId> = ids.iter().map(|&id| TokenId(id)).collect();
    let text = served.tokenizer.decode_with(&tokens, Controls::Show);
    Ok(json!({ "prompt": String::from_utf8_lossy(&text), "tokens": ids }))
}
