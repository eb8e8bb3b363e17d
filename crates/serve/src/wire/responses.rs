//! `/v1/responses`: OpenAI's newer shape, in which a conversation is a list of items and an answer can be gone on
//! with by its name.

use herd_codec::chat::{Dialogue, ToolCall, ToolDefinition};
use herd_engine::{Request, Usage};
use serde_json::{Map, Value, json};

use super::chat::{self, call_id};
use super::items::{messages, read_input};
use super::{Exchange, Head, Wire, said};
use crate::answer::{Choice, Ending, Part};
use crate::ask::{Ask, sampling, stops};
use crate::fields::{Field, Given, Kind, MODEL, Shape, honoured, only, refused, shorten, warned};
use crate::forms::{self, Depth, Wanted};
use crate::kept::{Answer, Kept};
use crate::offer::{Choice as Calls, Offer};
use crate::refusal::Refusal;
use crate::served::Served;

/// The fields.
pub static SHAPE: Shape = Shape {
    path: "/v1/responses",
    about: "go on with a conversation of items, and be gone on with by name",
    prefix: "resp_",
    groups: &[&FIELDS],
    required: &["input", "model"],
};

const CACHE: &str = "prompts are found in the cache by what they hold";

static FIELDS: [Field; 39] = [
    MODEL,
    honoured("input", Kind::Any, "a text, or a list of items"),
    honoured("instructions", Kind::Text, "the system's text, for this answer alone"),
    honoured("previous_response_id", Kind::Text, "the answer that the conversation goes on from"),
    honoured("store", Kind::Flag, "keeps the answer for a while; true if not given"),
    honoured("stream", Kind::Flag, "the answer as it comes"),
    honoured("max_output_tokens", Kind::Whole(1, 1 << 24), "tokens of the answer at most"),
    honoured("temperature", Kind::Number(0.0, 1e6), "divides the logits; 0 takes the likeliest"),
    honoured("top_p", Kind::Number(0.0, 1.0), "keeps the likeliest tokens that hold this mass"),
    honoured("top_k", Kind::Whole(-1, 1 << 24), "keeps the likeliest tokens; 0 and -1 keep all"),
    honoured("min_p", Kind::Number(0.0, 1.0), "drops what is less likely than this share"),
    honoured("repetition_penalty", Kind::Number(1e-3, 1e3), "divides the logits of tokens seen"),
    honoured("seed", Kind::Whole(i64::MIN, i64::MAX), "key of the random numbers"),
    honoured("stop", Kind::Texts, "texts that end the answer"),
    honoured("tools", Kind::List, "functions that the model may call"),
    honoured("include", Kind::List, "message.output_text.logprobs: log-probabilities"),
    honoured("top_logprobs", Kind::Whole(0, 20), "those of the likeliest tokens beside it"),
    honoured("metadata", Kind::Object, "is given back with the answer"),
    honoured("tool_choice", Kind::Any, "none, auto, required, or a function that is to be called"),
    honoured("parallel_tool_calls", Kind::Flag, "false: an answer makes one call at most"),
    honoured("text", Kind::Object, "format: the answer's form: text, json_object, json_schema"),
    only("reasoning", &["{}", "{\"effort\":\"none\"}"], "the model has no hidden reasoning"),
    only("truncation", &["\"disabled\""], "nothing is cut from a conversation"),
    only("service_tier", &["\"auto\"", "\"default\""], "there is one tier"),
    only("background", &["false"], "an answer ends with its connection"),
    only("stream_options", &["{}", "{\"include_obfuscation\":false}"], "chunks are not padded"),
    refused("access_programs", "there are none"),
    refused("background_options", "an answer ends with its connection"),
    refused("context_management", "nothing is cut from a conversation"),
    refused("conversation", "conversations go on by previous_response_id"),
    refused("image", "the model makes no images"),
    refused("moderation", "nothing here moderates"),
    refused("prompt", "no prompts are kept"),
    warned("max_tool_calls", "the server calls no tools of its own"),
    warned("prompt_cache_key", CACHE),
    warned("prompt_cache_options", CACHE),
    warned("prompt_cache_retention", "prompts stay in the cache as long as there is room"),
    warned("safety_identifier", "no account of users is kept"),
    warned("user", "no account of users is kept"),
];

/// What `include` may hold.
const LOG_PROBS: &str = "message.output_text.logprobs";

/// Reads a request.
pub fn read(mut given: Given, served: &Served, head: Head) -> Result<Exchange, Refusal> {
    served.check_name(given.text("model").unwrap_or_default())?;
    let echo = echo(&given);
    let (tools, strict) = given.take("tools").map(tools).transpose()?.unwrap_or_default();
    let choice = given.take("tool_choice").map(tool_choice).transpose()?.unwrap_or_default();
    let single = given.flag("parallel_tool_calls") == Some(false);
    let offer = Offer { tools, strict, choice, single };
    let calls = offer.calls(served)?;
    let wanted = text_format(&mut given)?;
    let grammar = offer.grammar(served, wanted, "parameters")?;
    let tools = offer.shown().to_vec();
    let mut items = match given.text("previous_response_id") {
        None => Vec::new(),
        Some(id) => previous(id, served)?,
    };
    let before = items.len();
    items.extend(read_input(given.take("input").unwrap_or_default())?);
    let messages = messages(given.text("instructions"), &items, before)?;
    let under = |refusal: Refusal| match refusal.field.as_deref() {
        Some("messages") => Refusal { field: Some("input".into()), ..refusal },
        _ => refusal,
    };
    let prompt =
        served.dialogue(&Dialogue { messages, tools, builtin_tools: None }).map_err(under)?;
    let log_probs = log_probs(&given)?;
    let (stop, stop_tokens) = stops(&given, &served.chat_stops);
    let request = Request {
        max_tokens: given.count("max_output_tokens"),
        stop,
        stop_tokens,
        log_probs,
        grammar,
        ..Request::new(prompt, sampling(&given, served)?)
    };
    let wire = Responses {
        base: base(&mut given, &head, served, &request, echo),
        id: head.id,
        items,
        store: given.flag("store") != Some(false),
        log_probs: log_probs.is_some(),
        events: 0,
        open: false,
        choice: Choice::default(),
    };
    let by_token = log_probs.is_some();
    let ask = Ask { requests: vec![request], n: 1, calls, by_token, field: "input" };
    let stream = given.flag("stream") == Some(true);
    Ok(Exchange { ask, wire: Box::new(wire), stream })
}

/// Gives a kept answer.
pub fn kept(id: &str, kept: &Kept) -> Result<Value, Refusal> {
    kept.get(id).map(|answer| answer.response.clone()).ok_or_else(|| gone(id))
}

/// Drops a kept answer.
pub fn drop_kept(id: &str, kept: &Kept) -> Result<Value, Refusal> {
    match kept.remove(id) {
        true => Ok(json!({ "id": id, "object": "response", "deleted": true })),
        false => Err(gone(id)),
    }
}

fn gone(id: &str) -> Refusal {
    Refusal::new(404, format!("no answer {id:?} is kept here, or not any more"))
}

/// The conversation of a kept answer.
fn previous(id: &str, served: &Served) -> Result<Vec<Value>, Refusal> {
    let code = Some("previous_response_not_found");
    let gone = || Refusal { code, ..Refusal::field("previous_response_id", gone(id).message) };
    served.kept.get(id).map(|answer| answer.items.clone()).ok_or_else(gone)
}

/// What of a request is given back as it came, or as it holds where it did not come.
fn echo(given: &Given) -> Map<String, Value> {
    let or = |name: &str, default: Value| {
        (name.to_owned(), given.value(name).cloned().unwrap_or(default))
    };
    let mut text = given.object("text").cloned().unwrap_or_default();
    text.entry("format").or_insert_with(|| json!({ "type": "text" }));
    Map::from_iter([
        or("tools", json!([])),
        or("tool_choice", "auto".into()),
        or("parallel_tool_calls", true.into()),
        ("text".to_owned(), text.into()),
    ])
}

/// Which calls are wanted, as this shape says it.
fn tool_choice(value: Value) -> Result<Calls, Refusal> {
    let named = |map: &Map<String, Value>| {
        let function = map.len() == 2 && map.get("type").is_some_and(|kind| kind == "function");
        map.get("name").and_then(Value::as_str).filter(|_| function).map(str::to_owned)
    };
    match value.as_str() {
        Some("none") => Ok(Calls::None),
        Some("auto") => Ok(Calls::Auto),
        Some("required") => Ok(Calls::Any),
        _ => value.as_object().and_then(named).map(Calls::One).ok_or_else(|| {
            let message = format!(
                "tool_choice is {}, taken are \"none\", \"auto\", \"required\" and \
                 {{\"type\":\"function\",\"name\":..}}",
                shorten(&value)
            );
            Refusal::field("tool_choice", message)
        }),
    }
}

/// The form of the answer's text.
fn text_format(given: &mut Given) -> Result<Option<Wanted>, Refusal> {
    let mut text = given.object_of("text", &["format", "verbosity"])?;
    if let Some(word) = text.get("verbosity").filter(|w| !w.is_null() && *w != "medium") {
        let message = format!("text.verbosity is {}: the model writes as it writes", shorten(word));
        return Err(Refusal::field("text.verbosity", message));
    }
    match text.remove("format").filter(|format| !format.is_null()) {
        Some(format) => forms::format_of("text.format", Depth::Flat, format, &mut given.warnings),
        None => Ok(None),
    }
}

/// The answer as it is before anything is said.
fn base(
    given: &mut Given,
    head: &Head,
    served: &Served,
    request: &Request,
    echo: Map<String, Value>,
) -> Value {
    let own = |name: &str| given.value(name).cloned().unwrap_or(Value::Null);
    let mut base = json!({
        "id": head.id,
        "object": "response",
        "created_at": head.created,
        "status": "in_progress",
        "background": false,
        "error": null,
        "incomplete_details": null,
        "instructions": own("instructions"),
        "max_output_tokens": own("max_output_tokens"),
        "metadata": given.value("metadata").cloned().unwrap_or_else(|| json!({})),
        "model": served.name,
        "output": [],
        "previous_response_id": own("previous_response_id"),
        "reasoning": { "effort": null, "summary": null },
        "service_tier": "default",
        "store": given.flag("store") != Some(false),
        "temperature": request.sampling.temperature,
        "top_logprobs": given.count("top_logprobs").unwrap_or(0),
        "top_p": request.sampling.top_p,
        "truncation": "disabled",
        "usage": null,
        "seed": request.sampling.seed,
    });
    for (name, value) in echo {
        base[name] = value;
    }
    if !given.warnings.is_empty() {
        base["warnings"] = std::mem::take(&mut given.warnings).into();
    }
    base
}

/// Tools lie flat here; OpenAI's chat has them one storey down.
fn tools(value: Value) -> Result<(Vec<ToolDefinition>, Vec<usize>), Refusal> {
    let Value::Array(list) = value else { return Ok(Default::default()) };
    let nested = |tool: Value| match tool {
        Value::Object(mut map) if map.get("type").is_some_and(|kind| kind == "function") => {
            map.remove("type");
            map.retain(|_, value| !value.is_null());
            json!({ "type": "function", "function": map })
        }
        other => other, // its reader refuses it
    };
    let up = |refusal: Refusal| {
        let field = refusal.field.as_ref().map(|name| name.replacen(".function", "", 1));
        Refusal { field, ..refusal }
    };
    chat::offered(list.into_iter().map(nested).collect()).map_err(up)
}

fn log_probs(given: &Given) -> Result<Option<usize>, Refusal> {
    let mut wanted = false;
    for item in given.value("include").and_then(Value::as_array).into_iter().flatten() {
        if item != LOG_PROBS {
            let message = format!("include holds {}, taken is {LOG_PROBS}", shorten(item));
            return Err(Refusal::field("include", message));
        }
        wanted = true;
    }
    match (wanted, given.count("top_logprobs")) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(top)) => Err(Refusal::field(
            "top_logprobs",
            format!("top_logprobs is {top} and include does not hold {LOG_PROBS}"),
        )),
    }
}

/// Writes the answer.
struct Responses {
    base: Value,
    id: String,
    /// The conversation up to the answer.
    items: Vec<Value>,
    store: bool,
    log_probs: bool,
    /// Events of the stream so far.
    events: u64,
    /// Whether the item of text is open.
    open: bool,
    /// What the stream said so far.
    choice: Choice,
}

impl Responses {
    /// The name of an item of the answer.
    fn item_id(&self, kind: &str, index: usize) -> String {
        format!("{kind}_{}_{index}", self.id.trim_start_matches(SHAPE.prefix))
    }

    fn text_part(&self, choice: &Choice, served: &Served) -> Value {
        let said = if self.log_probs { said(&choice.tokens, served) } else { json!([]) };
        json!({ "type": "output_text", "text": choice.text, "annotations": [], "logprobs": said })
    }

    fn message(&self, status: &str, content: Vec<Value>) -> Value {
        json!({
            "id": self.item_id("msg", 0),
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        })
    }

    fn call(&self, index: usize, call: &ToolCall, status: &str, arguments: &str) -> Value {
        json!({
            "id": self.item_id("fc", index),
            "type": "function_call",
            "status": status,
            "call_id": call_id(&self.id, 0, index),
            "name": call.name,
            "arguments": arguments,
        })
    }

    /// The answer once it is over; it is kept, if that is wished.
    fn finished(&self, choice: &Choice, served: &Served) -> Value {
        let mut output = Vec::new();
        let cut = choice.ending == Some(Ending::Length);
        if !choice.text.is_empty() || choice.calls.is_empty() {
            let status = if cut && choice.calls.is_empty() { "incomplete" } else { "completed" };
            output.push(self.message(status, vec![self.text_part(choice, served)]));
        }
        for (index, call) in choice.calls.iter().enumerate() {
            output.push(self.call(index, call, "completed", &call.arguments_json()));
        }
        let mut response = self.base.clone();
        response["status"] = if cut { "incomplete" } else { "completed" }.into();
        if cut {
            response["incomplete_details"] = json!({ "reason": "max_output_tokens" });
        }
        response["output"] = Value::Array(output.clone());
        response["usage"] = counts(choice.usage);
        if self.store {
            let items = self.items.iter().cloned().chain(output).collect();
            served.kept.add(&self.id, Answer { response: response.clone(), items });
        }
        response
    }

    /// Adds one event, with its name and number.
    fn event(&mut self, name: &str, fields: Value, out: &mut String) {
        let mut event = Map::new();
        event.insert("type".to_owned(), name.into());
        event.insert("sequence_number".to_owned(), self.events.into());
        if let Value::Object(fields) = fields {
            event.extend(fields);
        }
        self.events += 1;
        out.push_str(&format!("event: {name}\ndata: {}\n\n", Value::Object(event)));
    }

    /// Begins the item of text.
    fn begin_text(&mut self, out: &mut String) {
        self.open = true;
        let item = self.message("in_progress", Vec::new());
        self.event("response.output_item.added", json!({ "output_index": 0, "item": item }), out);
        let part = json!({ "type": "output_text", "text": "", "annotations": [], "logprobs": [] });
        let mut at = self.place();
        at["part"] = part;
        self.event("response.content_part.added", at, out);
    }

    /// Ends the item of text, if one is open.
    fn end_text(&mut self, status: &str, served: &Served, out: &mut String) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let part = self.text_part(&self.choice, served);
        let mut at = self.place();
        (at["text"], at["logprobs"]) = (part["text"].clone(), part["logprobs"].clone());
        self.event("response.output_text.done", at, out);
        let mut at = self.place();
        at["part"] = part.clone();
        self.event("response.content_part.done", at, out);
        let item = self.message(status, vec![part]);
        self.event("response.output_item.done", json!({ "output_index": 0, "item": item }), out);
    }

    /// Where text stands in the answer.
    fn place(&self) -> Value {
        json!({ "item_id": self.item_id("msg", 0), "output_index": 0, "content_index": 0 })
    }

    fn say_call(&mut self, index: usize, call: &ToolCall, out: &mut String) {
        let place = index + usize::from(!self.choice.text.is_empty());
        let arguments = call.arguments_json();
        let item = self.call(index, call, "in_progress", "");
        let added = json!({ "output_index": place, "item": item });
        self.event("response.output_item.added", added, out);
        let id = self.item_id("fc", index);
        let delta = json!({ "item_id": id, "output_index": place, "delta": arguments });
        self.event("response.function_call_arguments.delta", delta, out);
        let done = json!({
            "item_id": id, "output_index": place, "name": call.name, "arguments": arguments
        });
        self.event("response.function_call_arguments.done", done, out);
        let item = self.call(index, call, "completed", &arguments);
        let done = json!({ "output_index": place, "item": item });
        self.event("response.output_item.done", done, out);
    }
}

fn counts(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.prompt,
        "input_tokens_details": { "cached_tokens": usage.cached, "cache_write_tokens": 0 },
        "output_tokens": usage.generated,
        "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": usage.prompt + usage.generated,
    })
}

impl Wire for Responses {
    fn whole(&self, mut choices: Vec<Choice>, served: &Served) -> Value {
        self.finished(&choices.pop().unwrap_or_default(), served)
    }

    fn open(&mut self, out: &mut String) {
        let response = json!({ "response": self.base });
        self.event("response.created", response.clone(), out);
        self.event("response.in_progress", response, out);
    }

    fn part(&mut self, _: usize, part: Part, served: &Served, out: &mut String) {
        match &part {
            Part::Prompt(_) | Part::Embedding(_) => {}
            // Tokens without text of their own begin no item.
            Part::Text { text, .. } if text.is_empty() && !self.open => {}
            Part::Text { text, tokens } => {
                if !self.open {
                    self.begin_text(out);
                }
                let mut delta = self.place();
                delta["delta"] = text.as_str().into();
                delta["logprobs"] = if self.log_probs { said(tokens, served) } else { json!([]) };
                self.event("response.output_text.delta", delta, out);
            }
            Part::Call { index, call } => {
                self.end_text("completed", served, out);
                self.say_call(*index, call, out);
            }
            Part::End { ending, .. } => {
                // An answer without a word is a message without a word.
                if !self.open && self.choice.calls.is_empty() {
                    self.begin_text(out);
                }
                let cut = *ending == Ending::Length;
                self.end_text(if cut { "incomplete" } else { "completed" }, served, out);
            }
        }
        let over = matches!(part, Part::End { .. });
        self.choice.take(part);
        if over {
            let response = self.finished(&self.choice, served);
            let name = match response["status"] == "incomplete" {
                true => "response.incomplete",
                false => "response.completed",
            };
            self.event(name, json!({ "response": response }), out);
        }
    }

    fn close(&mut self, _: &mut String) {}

    fn broken(&mut self, refusal: &Refusal, out: &mut String) {
        let Refusal { code, field, message, .. } = refusal;
        let error =
            json!({ "code": code.unwrap_or("server_error"), "message": message, "param": field });
        self.event("error", error, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, LazyLock};

    use crate::forms::Forms;
    use herd_codec::Tokenizer;
    use herd_engine::Limits;
    use herd_engine::sample::Sampling;

    fn served() -> Served {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/tokenizer/small.json");
        let tokenizer = Tokenizer::from_tokenizer_json(&std::fs::read(path).unwrap()).unwrap();
        let tokenizer = Arc::new(tokenizer);
        Served {
            name: "small".into(),
            created: 0,
            forms: Arc::new(Forms::new(tokenizer.clone(), 80)),
            tokenizer,
            format: None,
            sampling: Sampling::GREEDY,
            seed: None,
            text_stops: Vec::new(),
            chat_stops: Vec::new(),
            limits: Limits::single(64),
            vocab: 80,
            class: "portable",
            weights: Arc::new(LazyLock::new(Box::new(|| Err("none".to_owned())))),
            facts: Default::default(),
            kept: Arc::default(),
            today: || None,
        }
    }

    fn wire() -> Responses {
        Responses {
            base: json!({ "id": "resp_1" }),
            id: "resp_1".into(),
            items: Vec::new(),
            store: true,
            log_probs: false,
            events: 0,
            open: false,
            choice: Choice::default(),
        }
    }

    /// The types of the events of a stream of parts, and the response that ends it.
    fn stream(parts: &[Part], served: &Served) -> (Vec<String>, Value) {
        let (mut wire, mut out) = (wire(), String::new());
        parts.iter().for_each(|part| wire.part(0, part.clone(), served, &mut out));
        let data = out.lines().filter_map(|line| line.strip_prefix("data: "));
        let events: Vec<Value> = data.map(|text| serde_json::from_str(text).unwrap()).collect();
        let short = |e: &Value| e["type"].as_str().unwrap().replacen("response.", "", 1);
        (events.iter().map(short).collect(), events.last().unwrap()["response"].clone())
    }

    #[test]
    fn a_stream_ends_with_the_whole_answer_with_words_calls_both_or_none() {
        let served = served();
        let text = |text: &str| Part::Text { text: text.into(), tokens: Vec::new() };
        let call = |index: usize| {
            let arguments = json!({ "x": index }).as_object().cloned().unwrap();
            Part::Call { index, call: ToolCall { id: None, name: "f".into(), arguments } }
        };
        let end = |ending: Ending| Part::End { ending, usage: Usage::default() };
        let begun = ["output_item.added", "content_part.added"];
        let ended = ["output_text.done", "content_part.done", "output_item.done"];
        let called = [
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
        ];
        let delta = ["output_text.delta"];
        for (parts, kinds, items) in [
            (
                vec![text("a"), text("b"), call(0), call(1), end(Ending::Calls)],
                [&begun[..], &delta, &delta, &ended, &called, &called, &["completed"]].concat(),
                3,
            ),
            (vec![call(0), end(Ending::Calls)], [&called[..], &["completed"]].concat(), 1),
            (
                vec![text("a"), end(Ending::Length)],
                [&begun[..], &delta, &ended, &["incomplete"]].concat(),
                1,
            ),
            (vec![end(Ending::Model)], [&begun[..], &ended, &["completed"]].concat(), 1),
        ] {
            let (got, last) = stream(&parts, &served);
            assert_eq!(got, kinds);
            let mut choice = Choice::default();
            parts.into_iter().for_each(|part| choice.take(part));
            assert_eq!(wire().whole(vec![choice], &served), last);
            assert_eq!(last["output"].as_array().unwrap().len(), items);
            // What is kept can be read again.
            let kept = served.kept.get("resp_1").unwrap();
            assert!(messages(None, &kept.items, 0).is_ok());
        }
    }
}
