//! `/v1/chat/completions`: OpenAI's chat.

use std::sync::Arc;

use herd_codec::chat::{Block, Dialogue, Message, Role, ToolCall, ToolDefinition};
use herd_engine::Request;
use serde_json::{Map, Value, json};

use super::{Counts, Exchange, Head, Wire, event, include_usage, said};
use crate::answer::{Choice, Chosen, Ending, Part};
use crate::ask::{Ask, sampling, stops};
use crate::fields::{
    EXTENSIONS, Given, Kind, MODEL, SAMPLING, Shape, honoured, only, refused, shorten, warned,
};
use crate::forms::{self, FORMS};
use crate::offer::{self, Offer};
use crate::refusal::Refusal;
use crate::served::Served;

/// The fields.
pub static SHAPE: Shape = Shape {
    path: "/v1/chat/completions",
    about: "go on with a conversation",
    prefix: "chatcmpl-",
    groups: &[SAMPLING, EXTENSIONS, FORMS, &FIELDS],
    required: &["messages", "model"],
};

static FIELDS: [crate::fields::Field; 27] = [
    MODEL,
    honoured("messages", Kind::List, "the conversation"),
    honoured("max_completion_tokens", Kind::Whole(0, 1 << 24), "tokens of an answer at most"),
    honoured("max_tokens", Kind::Whole(0, 1 << 24), "its older name"),
    honoured("logprobs", Kind::Flag, "the log-probability of each token"),
    honoured("top_logprobs", Kind::Whole(0, 20), "those of the likeliest tokens beside it"),
    honoured("tools", Kind::List, "functions that the model may call"),
    honoured("tool_choice", Kind::Any, "none, auto, required, or a function that is to be called"),
    honoured("parallel_tool_calls", Kind::Flag, "false: an answer makes one call at most"),
    honoured("response_format", Kind::Object, "the answer's form: text, json_object, json_schema"),
    only("modalities", &["[\"text\"]"], "the model reads and writes text"),
    only("reasoning_effort", &["\"none\""], "the model has no hidden reasoning"),
    only("verbosity", &["\"medium\""], "the model writes as it writes"),
    only("store", &["false"], "answers are not kept"),
    only("service_tier", &["\"auto\"", "\"default\""], "there is one tier"),
    refused("audio", "the model has no voice"),
    refused("function_call", "deprecated by its authors: use tool_choice"),
    refused("functions", "deprecated by its authors: use tools"),
    refused("moderation", "nothing here moderates"),
    refused("web_search_options", "the server does not search the web"),
    warned("metadata", "answers are not kept"),
    warned("prediction", "the answer is the same without it"),
    warned("prompt_cache_key", "prompts are found in the cache by what they hold"),
    warned("prompt_cache_options", "prompts are found in the cache by what they hold"),
    warned("prompt_cache_retention", "prompts stay in the cache as long as there is room"),
    warned("safety_identifier", "no account of users is kept"),
    only("continue_final_message", &["false"], "a new message is begun"),
];

/// Reads a request.
pub fn read(given: Given, served: &Served, head: Head) -> Result<Exchange, Refusal> {
    read_with(given, served, head, &[])
}

/// The same where the server has tools of its own, which are offered beside those of the request: any chat format is told of
/// them. A function of the request that has the name of one stands in its place.
pub fn read_with(
    mut given: Given,
    served: &Served,
    head: Head,
    hands: &[ToolDefinition],
) -> Result<Exchange, Refusal> {
    served.check_name(given.text("model").unwrap_or_default())?;
    let (mut tools, strict) = given.take("tools").map(offered).transpose()?.unwrap_or_default();
    let choice = given.take("tool_choice").map(tool_choice).transpose()?.unwrap_or_default();
    let single = given.flag("parallel_tool_calls") == Some(false);
    if single && tools.is_empty() {
        let message = "parallel_tool_calls is false, and tools are not given";
        return Err(Refusal::field("parallel_tool_calls", message));
    }
    let named = |hand: &&ToolDefinition| !tools.iter().any(|tool| tool.name() == hand.name());
    let more: Vec<ToolDefinition> = hands.iter().filter(named).cloned().collect();
    tools.extend(more);
    let offer = Offer { tools, strict, choice, single };
    let tools = offer.shown().to_vec();
    let calls = match hands.is_empty() {
        true => offer.calls(served)?,
        false => Some(Arc::new(served.chat()?.clone())).filter(|_| !tools.is_empty()),
    };
    let wanted = forms::wanted(&mut given)?;
    let grammar = offer.grammar(served, wanted, "function.parameters")?;
    let messages = messages(given.take("messages").unwrap_or_default())?;
    let prompt = match hands.is_empty() {
        true => served.dialogue(&Dialogue { messages, tools, builtin_tools: None })?,
        false => served.with_tools(messages, &tools)?,
    };
    let log_probs = log_probs(&given)?;
    let (stop, stop_tokens) = stops(&given, &served.chat_stops);
    let token_ids = given.flag("return_token_ids") == Some(true);
    let manner = Manner {
        head,
        seed: 0,
        usage: include_usage(&given)?,
        log_probs: log_probs.is_some(),
        token_ids: token_ids.then(|| prompt.clone()),
        warnings: std::mem::take(&mut given.warnings),
    };
    let request = Request {
        max_tokens: max_tokens(&given)?,
        stop,
        stop_tokens,
        log_probs,
        grammar,
        ..Request::new(prompt, sampling(&given, served)?)
    };
    let manner = Manner { seed: request.sampling.seed, ..manner };
    let n = given.count("n").unwrap_or(1);
    let by_token = log_probs.is_some() || token_ids;
    let ask = Ask { requests: vec![request], n, calls, by_token, field: "messages" };
    let stream = given.flag("stream") == Some(true);
    Ok(Exchange { ask, wire: Box::new(Chat::new(manner, served, n)), stream })
}

fn max_tokens(given: &Given) -> Result<Option<usize>, Refusal> {
    match (given.count("max_completion_tokens"), given.count("max_tokens")) {
        (Some(new), Some(old)) if new != old => Err(Refusal::field(
            "max_tokens",
            format!("max_tokens is {old} and max_completion_tokens {new}: give one"),
        )),
        (new, old) => Ok(new.or(old)),
    }
}

/// The log-probabilities wanted: so many of the likeliest tokens, if any.
pub fn log_probs(given: &Given) -> Result<Option<usize>, Refusal> {
    match (given.flag("logprobs"), given.count("top_logprobs")) {
        (Some(true), top) => Ok(Some(top.unwrap_or(0))),
        (_, None | Some(0)) => Ok(None),
        (_, Some(top)) => Err(Refusal::field(
            "top_logprobs",
            format!("top_logprobs is {top} and logprobs not true"),
        )),
    }
}

/// Which calls are wanted, as OpenAI says it.
fn tool_choice(value: Value) -> Result<offer::Choice, Refusal> {
    let named = |value: &Value| {
        let function = value["function"].as_object()?;
        let alone = value.as_object()?.len() == 2 && function.len() == 1;
        let name = function.get("name").and_then(Value::as_str)?;
        (alone && value["type"] == "function").then(|| name.to_owned())
    };
    match value.as_str() {
        Some("none") => Ok(offer::Choice::None),
        Some("auto") => Ok(offer::Choice::Auto),
        Some("required") => Ok(offer::Choice::Any),
        _ => named(&value).map(offer::Choice::One).ok_or_else(|| {
            let message = format!(
                "tool_choice is {}, taken are \"none\", \"auto\", \"required\" and \
                 {{\"type\":\"function\",\"function\":{{\"name\":..}}}}",
                shorten(&value)
            );
            Refusal::field("tool_choice", message)
        }),
    }
}

/// Tools as OpenAI has them: functions alone.
pub fn tools(value: Value) -> Result<Vec<ToolDefinition>, Refusal> {
    offered(value).map(|(tools, _)| tools)
}

/// The same, and the places of those that are strict.
pub fn offered(value: Value) -> Result<(Vec<ToolDefinition>, Vec<usize>), Refusal> {
    let Value::Array(list) = value else { return Ok(Default::default()) };
    let mut strict = Vec::new();
    let one = |(i, mut tool): (usize, Value)| {
        if tool.get("type").is_none_or(|kind| kind != "function") {
            let message = format!("tools[{i}] is {}, taken are functions", shorten(&tool));
            return Err(Refusal::field(format!("tools[{i}].type"), message));
        }
        // A model is held to its strict calls, and need not read that it is.
        if let Some(function) = tool.get_mut("function").and_then(Value::as_object_mut) {
            match function.remove("strict") {
                None | Some(Value::Null | Value::Bool(false)) => {}
                Some(Value::Bool(true)) => strict.push(i),
                Some(other) => {
                    let field = format!("tools[{i}].function.strict");
                    let message = format!("{field} is {}, expected true or false", shorten(&other));
                    return Err(Refusal::field(field, message));
                }
            }
        }
        serde_json::from_value(tool)
            .map_err(|e| Refusal::field(format!("tools[{i}]"), format!("tools[{i}]: {e}")))
    };
    let tools = list.into_iter().enumerate().map(one).collect::<Result<_, _>>()?;
    Ok((tools, strict))
}

/// Messages as OpenAI has them, field by field.
pub fn messages(value: Value) -> Result<Vec<Message>, Refusal> {
    let Value::Array(list) = value else { return Ok(Vec::new()) };
    if list.is_empty() {
        return Err(Refusal::field("messages", "messages is empty"));
    }
    list.into_iter().enumerate().map(|(i, message)| read_message(i, message)).collect()
}

fn read_message(i: usize, value: Value) -> Result<Message, Refusal> {
    let at = |name: &str| format!("messages[{i}].{name}");
    let Value::Object(mut map) = value else {
        let message = format!("messages[{i}] is {}, expected an object", shorten(&value));
        return Err(Refusal::field(format!("messages[{i}]"), message));
    };
    map.retain(|_, value| !value.is_null());
    // The rules of a newer name for the same role.
    if map.get("role").is_some_and(|role| role == "developer") {
        map.insert("role".to_owned(), "system".into());
    }
    for (name, why) in [
        ("audio", "the model has no voice"),
        ("function_call", "deprecated by its authors: use tool_calls"),
    ] {
        if map.contains_key(name) {
            return Err(Refusal::field(at(name), format!("{} is not supported: {why}", at(name))));
        }
    }
    // Clients send back what they added to an answer, without a word in it.
    for name in ["annotations", "provider_specific_fields"] {
        if map.get(name).is_some_and(is_empty) {
            map.remove(name);
        }
    }
    // What a model said and what it refused to say stand in one place of every format.
    if let Some(refusal) = map.remove("refusal") {
        if map.contains_key("content") {
            let message = "a message has content or a refusal, not both";
            return Err(Refusal::field(at("refusal"), message));
        }
        map.insert("content".to_owned(), refusal);
    }
    if let Some(content) = map.remove("content") {
        map.insert("content".to_owned(), parts(i, content)?);
    }
    let error = |e: serde_json::Error| {
        Refusal::field(format!("messages[{i}]"), format!("messages[{i}]: {e}"))
    };
    let message: Message = serde_json::from_value(Value::Object(map)).map_err(error)?;
    let has_image = message.content.iter().any(|block| matches!(block, Block::Image { .. }));
    if has_image {
        return Err(Refusal::field(at("content"), "the model reads text alone, no images"));
    }
    if message.role == Role::Tool && message.tool_call_id.is_none() {
        return Err(Refusal::field(at("tool_call_id"), "a tool's message names no call"));
    }
    Ok(message)
}

/// Whether a value says nothing: null, or a list or an object of nothing else.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.iter().all(is_empty),
        Value::Object(map) => map.values().all(is_empty),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Content as text, or a list of text parts.
fn parts(i: usize, content: Value) -> Result<Value, Refusal> {
    let Value::Array(list) = content else { return Ok(content) };
    let part = |(k, part): (usize, Value)| {
        let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
        let field = format!("messages[{i}].content[{k}]");
        let text = match kind {
            "text" => part.get("text"),
            "refusal" => part.get("refusal"),
            _ => {
                let message = format!("{field} is of type {kind:?}, the model reads text alone");
                return Err(Refusal::field(field, message));
            }
        };
        let extra = part.as_object().into_iter().flat_map(Map::keys);
        let extra = extra.into_iter().find(|key| !["type", kind].contains(&key.as_str()));
        match (text, extra) {
            (Some(Value::String(text)), None) => Ok(json!({ "type": "text", "text": text })),
            (_, Some(key)) => Err(Refusal::field(
                format!("{field}.{key}"),
                format!("{field} has no field {key:?}"),
            )),
            (_, None) => Err(Refusal::field(field.clone(), format!("{field} has no text"))),
        }
    };
    list.into_iter().enumerate().map(part).collect()
}

/// What is written with every answer.
#[derive(Clone, Debug)]
struct Manner {
    head: Head,
    seed: u64,
    /// Whether a last chunk holds the usage.
    usage: bool,
    log_probs: bool,
    /// The prompt's ids, where ids are wanted.
    token_ids: Option<Vec<u32>>,
    warnings: Vec<String>,
}

impl Manner {
    /// What OpenAI's shape has no place for, put beside it: the seed, ids where they are wanted,
    /// and what was passed over.
    fn beside(&self, answer: &mut Value) {
        answer["seed"] = self.seed.into();
        if let Some(prompt) = &self.token_ids {
            answer["prompt_token_ids"] = prompt.iter().copied().collect();
        }
        if !self.warnings.is_empty() {
            answer["warnings"] = self.warnings.iter().cloned().collect();
        }
    }
}

/// Writes answers.
struct Chat {
    manner: Manner,
    fingerprint: String,
    model: String,
    counts: Counts,
    /// What a chunk of text begins with, before its index.
    before: String,
    n: usize,
}

impl Chat {
    fn new(manner: Manner, served: &Served, n: usize) -> Chat {
        let (fingerprint, model) = (served.fingerprint(), served.name.clone());
        let mut chat = Chat {
            manner,
            fingerprint,
            model,
            counts: Counts::default(),
            before: String::new(),
            n,
        };
        let empty = chat.chunk(json!([])).to_string();
        let at = empty.find("\"choices\":[").expect("a chunk has choices") + "\"choices\":[".len();
        chat.before = empty[..at].to_owned();
        chat
    }

    /// A chunk with these choices.
    fn chunk(&self, choices: Value) -> Value {
        json!({
            "id": self.manner.head.id,
            "object": "chat.completion.chunk",
            "created": self.manner.head.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        })
    }

    fn delta(&self, answer: usize, delta: Value, out: &mut String) {
        let choice = json!({ "index": answer, "delta": delta, "finish_reason": null });
        event(out, &self.chunk(json!([choice])));
    }

    fn log_probs(&self, tokens: &[Chosen], served: &Served) -> Value {
        json!({ "content": said(tokens, served), "refusal": null })
    }

    /// The frequent chunk: text alone.
    fn text(&self, answer: usize, text: &str, out: &mut String) {
        let text = Value::String(text.to_owned());
        out.push_str("data: ");
        out.push_str(&self.before);
        out.push_str(&format!(
            "{{\"index\":{answer},\"delta\":{{\"content\":{text}}},\"finish_reason\":null}}]}}\n\n"
        ));
    }

    fn call(&self, answer: usize, index: usize, call: &ToolCall) -> Value {
        json!({
            "id": call_id(&self.manner.head.id, answer, index),
            "type": "function",
            "function": { "name": call.name, "arguments": call.arguments_json() },
        })
    }
}

/// A call's id: unique, and the same whether streamed or not.
pub fn call_id(head: &str, answer: usize, index: usize) -> String {
    let own = head.rsplit(['-', '_']).next().unwrap_or(head);
    format!("call_{own}_{answer}_{index}")
}

fn finish(ending: &Ending) -> &'static str {
    match ending {
        Ending::Model | Ending::Text(_) => "stop",
        Ending::Calls => "tool_calls",
        Ending::Length => "length",
    }
}

fn ids(tokens: &[Chosen]) -> Value {
    tokens.iter().map(|chosen| chosen.token.id).collect()
}

impl Wire for Chat {
    fn whole(&self, choices: Vec<Choice>, served: &Served) -> Value {
        let mut counts = Counts::default();
        let one = |(index, choice): (usize, Choice)| {
            counts.add(choice.usage, index.is_multiple_of(self.n));
            let calls: Vec<Value> =
                choice.calls.iter().enumerate().map(|(k, c)| self.call(index, k, c)).collect();
            // Calls without words have no content.
            let content = match choice.text.is_empty() && !calls.is_empty() {
                true => Value::Null,
                false => Value::String(choice.text),
            };
            let mut message = json!({ "role": "assistant", "content": content, "refusal": null });
            if !calls.is_empty() {
                message["tool_calls"] = Value::Array(calls);
            }
            let mut said = json!({
                "index": index,
                "message": message,
                "logprobs": null,
                "finish_reason": choice.ending.as_ref().map(finish),
            });
            if self.manner.log_probs {
                said["logprobs"] = self.log_probs(&choice.tokens, served);
            }
            if self.manner.token_ids.is_some() {
                said["token_ids"] = ids(&choice.tokens);
            }
            said
        };
        let choices: Vec<Value> = choices.into_iter().enumerate().map(one).collect();
        let mut answer = self.chunk(Value::Array(choices));
        answer["object"] = "chat.completion".into();
        answer["usage"] = counts.json();
        self.manner.beside(&mut answer);
        answer
    }

    fn open(&mut self, out: &mut String) {
        for answer in 0..self.n {
            // Who speaks is said first, as clients expect.
            let delta = json!({ "role": "assistant", "content": "", "refusal": null });
            self.delta(answer, delta, out);
        }
    }

    fn part(&mut self, answer: usize, part: Part, served: &Served, out: &mut String) {
        match part {
            Part::Prompt(_) | Part::Embedding(_) => {}
            Part::Text { text, tokens } => {
                if !self.manner.log_probs && self.manner.token_ids.is_none() {
                    return self.text(answer, &text, out);
                }
                let delta = json!({ "content": text });
                let mut choice = json!({ "index": answer, "delta": delta, "finish_reason": null });
                if self.manner.log_probs {
                    choice["logprobs"] = self.log_probs(&tokens, served);
                }
                if self.manner.token_ids.is_some() {
                    choice["token_ids"] = ids(&tokens);
                }
                event(out, &self.chunk(json!([choice])));
            }
            Part::Call { index, call } => {
                let mut call = self.call(answer, index, &call);
                call["index"] = index.into();
                self.delta(answer, json!({ "tool_calls": [call] }), out);
            }
            Part::End { ending, usage } => {
                self.counts.add(usage, answer.is_multiple_of(self.n));
                let choice =
                    json!({ "index": answer, "delta": {}, "finish_reason": finish(&ending) });
                let mut chunk = self.chunk(json!([choice]));
                self.manner.beside(&mut chunk);
                event(out, &chunk);
            }
        }
    }

    fn close(&mut self, out: &mut String) {
        if self.manner.usage {
            let mut last = self.chunk(json!([]));
            last["usage"] = self.counts.json();
            event(out, &last);
        }
        out.push_str("data: [DONE]\n\n");
    }

    fn broken(&mut self, refusal: &Refusal, out: &mut String) {
        event(out, &refusal.body(crate::refusal::Dialect::OpenAi));
    }
}
