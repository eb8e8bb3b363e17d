//! `/v1/messages`: Anthropic's chat, and `/v1/messages/count_tokens`.

use herd_codec::chat::{Block, Dialogue, Message, Role, ToolCall, ToolDefinition};
use herd_engine::{Form, Request, Usage};
use serde_json::{Map, Value, json};

use super::chat::call_id;
use super::{Exchange, Head, Wire};
use crate::answer::{Choice, Ending, Part};
use crate::ask::{Ask, sampling, stops_under};
use crate::fields::{Field, Given, Kind, MODEL, Shape, honoured, only, refused, shorten, warned};
use crate::forms::Wanted;
use crate::offer::{self, Offer};
use crate::refusal::{Dialect, Refusal};
use crate::served::Served;

/// The fields.
pub static SHAPE: Shape = Shape {
    path: "/v1/messages",
    about: "go on with a conversation, in Anthropic's shape",
    prefix: "msg_",
    groups: &[&DIALOGUE, &FIELDS],
    required: &["max_tokens", "messages", "model"],
};

/// The fields of the count of tokens.
pub static COUNT: Shape = Shape {
    path: "/v1/messages/count_tokens",
    about: "the tokens of the prompt that a conversation becomes",
    prefix: "",
    groups: &[&DIALOGUE],
    required: &["messages", "model"],
};

static DIALOGUE: [Field; 9] = [
    MODEL,
    honoured("messages", Kind::List, "the conversation"),
    honoured("system", Kind::Any, "the system's text, or a list of text blocks"),
    honoured("tools", Kind::List, "functions that the model may call"),
    honoured("tool_choice", Kind::Object, "none, auto, any, or a tool that is to be called"),
    only("thinking", &["{\"type\":\"disabled\"}"], "the model has no hidden reasoning"),
    warned("cache_control", "prompts are found in the cache by what they hold"),
    honoured("output_config", Kind::Object, "format: the answer is JSON of its schema"),
    only("speed", &["\"standard\""], "there is one speed"),
];

static FIELDS: [Field; 16] = [
    honoured("max_tokens", Kind::Whole(0, 1 << 24), "tokens of the answer at most"),
    honoured("stop_sequences", Kind::Texts, "texts that end the answer"),
    honoured("stream", Kind::Flag, "the answer as it comes"),
    honoured("temperature", Kind::Number(0.0, 1e6), "divides the logits; 0 takes the likeliest"),
    honoured("top_k", Kind::Whole(-1, 1 << 24), "keeps the likeliest tokens; 0 and -1 keep all"),
    honoured("top_p", Kind::Number(0.0, 1.0), "keeps the likeliest tokens that hold this mass"),
    honoured("seed", Kind::Whole(i64::MIN, i64::MAX), "key of the random numbers"),
    only("service_tier", &["\"auto\"", "\"standard_only\""], "there is one tier"),
    warned("metadata", "no account of users is kept"),
    warned("diagnostics", "the log of the server says what there is to say"),
    refused("container", "no programs are kept for later"),
    warned("inference_geo", "the model runs where the server runs"),
    warned("user_profile_id", "no account of users is kept"),
    warned("workspace_id", "there are no workspaces"),
    refused("context_management", "nothing is cut from a conversation"),
    refused("mcp_servers", "the server calls no tools of its own"),
];

/// Reads a request.
pub fn read(mut given: Given, served: &Served, head: Head) -> Result<Exchange, Refusal> {
    let (dialogue, offer) = dialogue(&mut given, served)?;
    let wanted = output_format(&given)?;
    let grammar = offer.grammar(served, wanted, "input_schema")?;
    let calls = offer.calls(served)?;
    let prompt = served.dialogue(&dialogue)?;
    let (stop, stop_tokens) = stops_under(&given, "stop_sequences", &served.chat_stops);
    let request = Request {
        max_tokens: given.count("max_tokens"),
        stop,
        stop_tokens,
        grammar,
        ..Request::new(prompt, sampling(&given, served)?)
    };
    let wire = Messages {
        id: head.id,
        model: served.name.clone(),
        seed: request.sampling.seed,
        input: request.prompt.len(),
        warnings: std::mem::take(&mut given.warnings),
        block: None,
        blocks: 0,
    };
    let ask = Ask { requests: vec![request], n: 1, calls, by_token: false, field: "messages" };
    let stream = given.flag("stream") == Some(true);
    Ok(Exchange { ask, wire: Box::new(wire), stream })
}

/// Answers `/v1/messages/count_tokens`.
pub fn count(mut given: Given, served: &Served) -> Result<Value, Refusal> {
    let (dialogue, _) = dialogue(&mut given, served)?;
    Ok(json!({ "input_tokens": served.dialogue(&dialogue)?.len() }))
}

fn dialogue(given: &mut Given, served: &Served) -> Result<(Dialogue, Offer), Refusal> {
    served.check_name(given.text("model").unwrap_or_default())?;
    let (tools, strict) = given.take("tools").map(tools).transpose()?.unwrap_or_default();
    let (choice, single) = tool_choice(given)?;
    let offer = Offer { tools, strict, choice, single };
    let tools = offer.shown().to_vec();
    offer.calls(served)?;
    let mut messages = Vec::new();
    if let Some(system) = given.take("system") {
        messages.push(Message::new(Role::System, plain_text("system", system)?));
    }
    let Some(Value::Array(list)) = given.take("messages") else { return Ok(Default::default()) };
    if list.is_empty() {
        return Err(Refusal::field("messages", "messages is empty"));
    }
    for (i, message) in list.into_iter().enumerate() {
        read_message(i, message, &mut messages)?;
    }
    Ok((Dialogue { messages, tools, builtin_tools: None }, offer))
}

/// Which calls are wanted, as Anthropic says it, and whether one at most.
fn tool_choice(given: &Given) -> Result<(offer::Choice, bool), Refusal> {
    let map = given.object_of("tool_choice", &["type", "name", "disable_parallel_tool_use"])?;
    let name = map.get("name").and_then(Value::as_str);
    let choice = match (map.get("type").and_then(Value::as_str), name) {
        (None, None) if map.is_empty() => offer::Choice::Auto,
        (Some("auto"), None) => offer::Choice::Auto,
        (Some("none"), None) => offer::Choice::None,
        (Some("any"), None) => offer::Choice::Any,
        (Some("tool"), Some(name)) => offer::Choice::One(name.to_owned()),
        _ => {
            let said = shorten(&Value::Object(map));
            let message =
                format!("tool_choice is {said}, its type none, auto, any, or tool with a name");
            return Err(Refusal::field("tool_choice", message));
        }
    };
    match map.get("disable_parallel_tool_use") {
        None | Some(Value::Null | Value::Bool(false)) => Ok((choice, false)),
        Some(Value::Bool(true)) => Ok((choice, true)),
        Some(other) => {
            let field = "tool_choice.disable_parallel_tool_use";
            let message = format!("{field} is {}, expected true or false", shorten(other));
            Err(Refusal::field(field, message))
        }
    }
}

/// The form of an answer's text.
fn output_format(given: &Given) -> Result<Option<Wanted>, Refusal> {
    const FIELD: &str = "output_config.format";
    let config = given.object_of("output_config", &["format"])?;
    let Some(format) = config.get("format").filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let known = format.as_object().is_some_and(|map| map.len() == 2);
    match (known && format["type"] == "json_schema", format.get("schema")) {
        (true, Some(schema)) => {
            Ok(Some((Form::JsonSchema(schema.clone()), format!("{FIELD}.schema"))))
        }
        _ => {
            let message = format!(
                "{FIELD} is {}, expected {{\"type\":\"json_schema\",\"schema\":..}}",
                shorten(format)
            );
            Err(Refusal::field(FIELD, message))
        }
    }
}

/// Tools as Anthropic has them, in OpenAI's shape, and the places of those that are strict.
fn tools(value: Value) -> Result<(Vec<ToolDefinition>, Vec<usize>), Refusal> {
    let Value::Array(list) = value else { return Ok(Default::default()) };
    let mut strict = Vec::new();
    let one = |(i, tool): (usize, Value)| {
        let wrong = |message: String| Refusal::field(format!("tools[{i}]"), message);
        let own = tool.get("type").is_none_or(|kind| kind == "custom");
        let mut tool = match tool {
            Value::Object(tool) if own => tool,
            other => {
                let message = format!("tools[{i}] is {}, taken are custom tools", shorten(&other));
                return Err(wrong(message));
            }
        };
        tool.remove("type");
        tool.remove("cache_control");
        match tool.remove("strict") {
            None | Some(Value::Null | Value::Bool(false)) => {}
            Some(Value::Bool(true)) => strict.push(i),
            Some(other) => {
                let said = shorten(&other);
                return Err(wrong(format!("tools[{i}].strict is {said}, expected true or false")));
            }
        }
        let mut function = Map::new();
        for (from, to) in
            [("name", "name"), ("description", "description"), ("input_schema", "parameters")]
        {
            if let Some(value) = tool.remove(from) {
                function.insert(to.to_owned(), value);
            }
        }
        if let Some(name) = tool.keys().next() {
            return Err(wrong(format!("tools[{i}] has no field {name:?}")));
        }
        serde_json::from_value(json!({ "type": "function", "function": function }))
            .map_err(|e| wrong(format!("tools[{i}]: {e}")))
    };
    let tools = list.into_iter().enumerate().map(one).collect::<Result<_, _>>()?;
    Ok((tools, strict))
}

/// A text, or a list of text blocks one after another.
fn plain_text(field: &str, value: Value) -> Result<String, Refusal> {
    let wrong = |value: &Value| {
        let message = format!("{field} holds {}, the model reads text alone", shorten(value));
        Refusal::field(field, message)
    };
    match value {
        Value::String(text) => Ok(text),
        Value::Array(blocks) => {
            let text = |block: &Value| match (block["type"].as_str(), block["text"].as_str()) {
                (Some("text"), Some(text)) => Ok(text.to_owned()),
                _ => Err(wrong(block)),
            };
            blocks.iter().map(text).collect()
        }
        other => Err(wrong(&other)),
    }
}

/// One message becomes one or more: results of tools are messages of their own.
fn read_message(i: usize, value: Value, messages: &mut Vec<Message>) -> Result<(), Refusal> {
    let field = format!("messages[{i}]");
    let wrong = |what: String| Refusal::field(field.clone(), format!("messages[{i}] {what}"));
    let role = match value["role"].as_str() {
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        Some("system") => Role::System,
        _ => return Err(wrong(format!("has the role {}", shorten(&value["role"])))),
    };
    let known = ["role", "content"];
    if let Some(name) = value.as_object().and_then(|m| m.keys().find(|k| !known.contains(&&***k))) {
        return Err(wrong(format!("has no field {name:?}")));
    }
    let mut message = Message::new(role, "");
    message.content.clear();
    let blocks = match &value["content"] {
        Value::String(text) => vec![json!({ "type": "text", "text": text })],
        Value::Array(blocks) => blocks.clone(),
        other => return Err(wrong(format!("has the content {}", shorten(other)))),
    };
    for block in blocks {
        match (block["type"].as_str(), role) {
            (Some("text"), _) => {
                let text = block["text"].as_str().ok_or_else(|| wrong("has no text".into()))?;
                message.content.push(Block::Text { text: text.to_owned() });
            }
            (Some("tool_use"), Role::Assistant) => {
                let name = block["name"].as_str();
                let name = name.ok_or_else(|| wrong("calls a tool without a name".into()))?;
                let arguments = block["input"].as_object().cloned().unwrap_or_default();
                let id = block["id"].as_str().map(str::to_owned);
                message.tool_calls.push(ToolCall { id, name: name.to_owned(), arguments });
            }
            (Some("tool_result"), Role::User) => {
                let content = match block.get("content") {
                    None | Some(Value::Null) => String::new(),
                    Some(content) => plain_text(&field, content.clone())?,
                };
                let mut result = Message::new(Role::Tool, content);
                result.tool_call_id = block["tool_use_id"].as_str().map(str::to_owned);
                messages.push(result);
            }
            _ => return Err(wrong(format!("holds a block that is not read: {}", shorten(&block)))),
        }
    }
    // A message of results alone says nothing else.
    if !message.content.is_empty() || !message.tool_calls.is_empty() {
        messages.push(message);
    }
    Ok(())
}

/// Writes the answer.
struct Messages {
    id: String,
    model: String,
    seed: u64,
    input: usize,
    warnings: Vec<String>,
    /// The block of text that is open.
    block: Option<usize>,
    /// Blocks begun.
    blocks: usize,
}

impl Messages {
    fn message(&self, content: Vec<Value>, ending: Option<&Ending>, usage: Value) -> Value {
        let mut message = json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": ending.map(reason),
            "stop_sequence": ending.and_then(sequence),
            "usage": usage,
            "seed": self.seed,
        });
        if !self.warnings.is_empty() {
            message["warnings"] = self.warnings.iter().cloned().collect();
        }
        message
    }

    fn tool_use(&self, index: usize, call: &ToolCall, input: Value) -> Value {
        let id = call_id(&self.id, 0, index).replacen("call_", "toolu_", 1);
        json!({ "type": "tool_use", "id": id, "name": call.name, "input": input })
    }

    fn end_block(&mut self, out: &mut String) {
        if let Some(index) = self.block.take() {
            event(out, &json!({ "type": "content_block_stop", "index": index }));
        }
    }

    fn begin_block(&mut self, content: Value, out: &mut String) -> usize {
        let index = self.blocks;
        self.blocks += 1;
        let start =
            json!({ "type": "content_block_start", "index": index, "content_block": content });
        event(out, &start);
        index
    }
}

/// An event with its name, as this shape has them.
fn event(out: &mut String, value: &Value) {
    let name = value["type"].as_str().unwrap_or_default();
    out.push_str(&format!("event: {name}\ndata: {value}\n\n"));
}

fn reason(ending: &Ending) -> &'static str {
    match ending {
        Ending::Model => "end_turn",
        Ending::Text(_) => "stop_sequence",
        Ending::Calls => "tool_use",
        Ending::Length => "max_tokens",
    }
}

fn sequence(ending: &Ending) -> Option<&str> {
    match ending {
        Ending::Text(text) => Some(text),
        Ending::Model | Ending::Calls | Ending::Length => None,
    }
}

/// Tokens of the prompt that came from the cache are counted apart here.
fn counts(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.prompt - usage.cached,
        "cache_read_input_tokens": usage.cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.generated,
    })
}

impl Wire for Messages {
    fn whole(&self, mut choices: Vec<Choice>, _: &Served) -> Value {
        let choice = choices.pop().unwrap_or_default();
        let mut content = Vec::new();
        if !choice.text.is_empty() {
            content.push(json!({ "type": "text", "text": choice.text }));
        }
        for (index, call) in choice.calls.iter().enumerate() {
            content.push(self.tool_use(index, call, Value::Object(call.arguments.clone())));
        }
        self.message(content, choice.ending.as_ref(), counts(choice.usage))
    }

    fn open(&mut self, out: &mut String) {
        let usage = json!({ "input_tokens": self.input, "output_tokens": 0 });
        let message = self.message(Vec::new(), None, usage);
        event(out, &json!({ "type": "message_start", "message": message }));
    }

    fn part(&mut self, _: usize, part: Part, _: &Served, out: &mut String) {
        match part {
            Part::Prompt(_) | Part::Embedding(_) => {}
            Part::Text { text, .. } => {
                let index = match self.block {
                    Some(index) => index,
                    None => self.begin_block(json!({ "type": "text", "text": "" }), out),
                };
                self.block = Some(index);
                let delta = json!({ "type": "text_delta", "text": text });
                event(
                    out,
                    &json!({ "type": "content_block_delta", "index": index, "delta": delta }),
                );
            }
            Part::Call { index, call } => {
                self.end_block(out);
                let block = self.begin_block(self.tool_use(index, &call, json!({})), out);
                let delta =
                    json!({ "type": "input_json_delta", "partial_json": call.arguments_json() });
                event(
                    out,
                    &json!({ "type": "content_block_delta", "index": block, "delta": delta }),
                );
                self.block = Some(block);
                self.end_block(out);
            }
            Part::End { ending, usage } => {
                self.end_block(out);
                let delta =
                    json!({ "stop_reason": reason(&ending), "stop_sequence": sequence(&ending) });
                event(
                    out,
                    &json!({
                        "type": "message_delta", "delta": delta, "usage": counts(usage)
                    }),
                );
            }
        }
    }

    fn close(&mut self, out: &mut String) {
        event(out, &json!({ "type": "message_stop" }));
    }

    fn broken(&mut self, refusal: &Refusal, out: &mut String) {
        event(out, &refusal.body(Dialect::Anthropic));
    }
}
