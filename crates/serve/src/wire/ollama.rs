//! `/api/chat` and `/api/generate`: ollama's shapes, streams of lines of JSON.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use herd_codec::chat::{Dialogue, Message, Role, ToolCall};
use herd_engine::{Request, Usage};
use serde_json::{Map, Value, json};

use super::chat::{self, call_id};
use super::{Exchange, Head, Wire, said};
use crate::answer::{Choice, Ending, Part};
use crate::ask::{Ask, sampling, stops};
use crate::fields::{Field, Given, Kind, MODEL, Shape, honoured, only, refused, shorten, warned};
use crate::forms;
use crate::offer::Offer;
use crate::refusal::{Dialect, Refusal};
use crate::served::Served;

/// The fields of a chat.
pub static CHAT: Shape = Shape {
    path: "/api/chat",
    about: "go on with a conversation, in ollama's shape",
    prefix: "ollama-",
    groups: &[
        &COMMON,
        &[
            honoured("messages", Kind::List, "the conversation"),
            honoured("tools", Kind::List, "functions that the model may call"),
        ],
    ],
    required: &["messages", "model"],
};

/// The fields of a prompt.
pub static GENERATE: Shape = Shape {
    path: "/api/generate",
    about: "answer a prompt, in ollama's shape",
    prefix: "ollama-",
    groups: &[
        &COMMON,
        &[
            honoured("prompt", Kind::Text, "what the user says"),
            honoured("system", Kind::Text, "the system's text before it"),
            honoured("raw", Kind::Flag, "the prompt is gone on with as it is, without a chat"),
            refused("suffix", "the text behind a gap has no place in a prompt of this model"),
            refused("template", "the model's own format of chats is used"),
            refused("context", "deprecated by its authors: use /api/chat"),
            only("images", &["[]"], "the model reads text alone"),
            refused("width", "the model makes no images"),
            refused("height", "the model makes no images"),
            refused("steps", "the model makes no images"),
        ],
    ],
    required: &["model", "prompt"],
};

static COMMON: [Field; 8] = [
    MODEL,
    honoured("options", Kind::Object, "how tokens are chosen: see the table of options"),
    honoured("stream", Kind::Flag, "the answer as it comes; true if not given"),
    honoured("logprobs", Kind::Flag, "the log-probability of each token"),
    honoured("top_logprobs", Kind::Whole(0, 20), "those of the likeliest tokens beside it"),
    honoured("format", Kind::Any, "the answer's form: json, or a schema"),
    only("think", &["false"], "the model has no hidden reasoning"),
    KEEP_ALIVE,
];

/// How long a model stays.
pub const KEEP_ALIVE: Field =
    honoured("keep_alive", Kind::Any, "how long the model stays after it: \"5m\", seconds, 0, -1");

const RUNNING: &str = "how the model runs is said when the server starts";

/// The fields of `options`.
pub static OPTIONS: Shape = Shape {
    path: "options",
    about: "of ollama's shapes",
    prefix: "",
    groups: &[&[
        honoured("temperature", Kind::Number(0.0, 1e6), "divides the logits"),
        honoured("top_k", Kind::Whole(-1, 1 << 24), "keeps the likeliest tokens; 0 keeps all"),
        honoured("top_p", Kind::Number(0.0, 1.0), "keeps the likeliest that hold this mass"),
        honoured("min_p", Kind::Number(0.0, 1.0), "drops what is less likely than this share"),
        honoured("typical_p", Kind::Number(1e-6, 1.0), "keeps tokens of the expected surprise"),
        honoured("seed", Kind::Whole(i64::MIN, i64::MAX), "key of the random numbers"),
        honoured("num_predict", Kind::Whole(-2, 1 << 24), "tokens at most; below 0 no limit"),
        honoured("stop", Kind::Texts, "texts that end the answer"),
        honoured("repeat_penalty", Kind::Number(1e-3, 1e3), "divides logits of tokens seen"),
        honoured("repeat_last_n", Kind::Whole(-1, 1 << 24), "tokens that count as seen"),
        honoured("presence_penalty", Kind::Number(-2.0, 2.0), "taken from logits of tokens seen"),
        honoured("frequency_penalty", Kind::Number(-2.0, 2.0), "the same for each time"),
        only("mirostat", &["0"], "mirostat is not built"),
        only("tfs_z", &["1", "1.0"], "tail-free sampling is not built"),
        only("penalize_newline", &["true"], "penalties are for all tokens"),
        only("embedding_only", &["false"], "the model writes as well"),
        only("vocab_only", &["false"], "the model is loaded with its weights"),
        warned("mirostat_tau", "mirostat is not built"),
        warned("mirostat_eta", "mirostat is not built"),
        warned("num_keep", "nothing is cut from a prompt"),
        warned("num_ctx", "the context is that of the server"),
        warned("num_batch", RUNNING),
        warned("num_gpu", RUNNING),
        warned("main_gpu", RUNNING),
        warned("num_thread", RUNNING),
        warned("numa", RUNNING),
        warned("low_vram", RUNNING),
        warned("f16_kv", RUNNING),
        warned("logits_all", RUNNING),
        warned("use_mmap", RUNNING),
        warned("use_mlock", RUNNING),
    ]],
    required: &[],
};

/// Whether a request asks for no answer, and so loads the model alone, or lets it go.
pub fn only_loads(shape: &Shape, given: &Given) -> bool {
    let empty = |name: &str| given.value(name).and_then(Value::as_array).is_some_and(Vec::is_empty);
    (shape.path == GENERATE.path && given.text("prompt") == Some(""))
        || (shape.path == CHAT.path && empty("messages"))
}

/// What such a request is told.
pub fn loaded(shape: &Shape, model: &str, left: bool, now: u64) -> Value {
    let mut said = json!({ "model": model, "created_at": moment(now) });
    match shape.path == CHAT.path {
        true => said["message"] = json!({ "role": "assistant", "content": "" }),
        false => said["response"] = "".into(),
    }
    said["done"] = true.into();
    said["done_reason"] = if left { "unload" } else { "load" }.into();
    said
}

/// Checks the model that a request names; `:latest` may stand behind it.
pub fn check_name(given: &Given, served: &Served) -> Result<(), Refusal> {
    let name = given.text("model").unwrap_or_default();
    match name.strip_suffix(":latest") {
        Some(name) if name == served.name => Ok(()),
        _ => served.check_name(name),
    }
}

/// The options by their own table, with what they pass over added to the request's warnings.
pub fn options(given: &mut Given) -> Result<Given, Refusal> {
    let Value::Object(map) = given.take("options").unwrap_or_else(|| json!({})) else {
        return OPTIONS.check(Map::new()); // the table let objects in alone
    };
    let under = |refusal: Refusal| {
        let field = refusal.field.as_ref().map(|name| format!("options.{name}"));
        Refusal { field, ..refusal }
    };
    let mut options = OPTIONS.check(map).map_err(under)?;
    given.warnings.append(&mut options.warnings);
    if let Some(penalty) = options.take("repeat_penalty") {
        options.put("repetition_penalty", penalty);
    }
    Ok(options)
}

/// Reads `/api/chat`.
pub fn read_chat(mut given: Given, served: &Served, head: Head) -> Result<Exchange, Refusal> {
    check_name(&given, served)?;
    let (tools, strict) = given.take("tools").map(chat::offered).transpose()?.unwrap_or_default();
    let offer = Offer { tools, strict, ..Offer::default() };
    let calls = offer.calls(served)?;
    let wanted = forms::ollamas(given.take("format"))?;
    let grammar = offer.grammar(served, wanted, "function.parameters")?;
    let messages = messages(given.take("messages").unwrap_or_default())?;
    let dialogue = Dialogue { messages, tools: offer.tools, builtin_tools: None };
    let prompt = served.dialogue(&dialogue)?;
    let mut exchange = exchange(given, served, head, Manner::Chat, (prompt, &served.chat_stops))?;
    exchange.ask.requests.iter_mut().for_each(|request| request.grammar = grammar.clone());
    Ok(Exchange { ask: Ask { calls, field: "messages", ..exchange.ask }, ..exchange })
}

/// Reads `/api/generate`.
pub fn read_generate(mut given: Given, served: &Served, head: Head) -> Result<Exchange, Refusal> {
    check_name(&given, served)?;
    let wanted = forms::ollamas(given.take("format"))?;
    let grammar = wanted.map(|(form, field)| served.forms.compile(form, &field)).transpose()?;
    let text = given.text("prompt").unwrap_or_default();
    let system = given.text("system").filter(|text| !text.is_empty());
    let raw = given.flag("raw") == Some(true);
    if let (true, Some(_)) = (raw, system) {
        return Err(Refusal::field("system", "a raw prompt has no system's text before it"));
    }
    let (prompt, stops) = match raw || served.format.is_none() && system.is_none() {
        true => (served.prompt(text), &served.text_stops),
        false => {
            let system = system.map(|text| Message::new(Role::System, text));
            let user = Message::new(Role::User, text);
            let messages: Vec<Message> = system.into_iter().chain([user]).collect();
            (served.dialogue(&Dialogue::from(messages))?, &served.chat_stops)
        }
    };
    let mut exchange = exchange(given, served, head, Manner::Generate, (prompt, stops))?;
    exchange.ask.requests.iter_mut().for_each(|request| request.grammar = grammar.clone());
    Ok(exchange)
}

/// What both shapes share, once there is a prompt and what ends its answer.
fn exchange(
    mut given: Given,
    served: &Served,
    head: Head,
    manner: Manner,
    (prompt, own): (Vec<u32>, &Vec<u32>),
) -> Result<Exchange, Refusal> {
    let options = options(&mut given)?;
    let log_probs = chat::log_probs(&given)?;
    let (stop, stop_tokens) = stops(&options, own);
    let request = Request {
        max_tokens: options.count("num_predict"), // below 0 is no count, and no limit
        stop,
        stop_tokens,
        log_probs,
        ..Request::new(prompt, sampling(&options, served)?)
    };
    let wire = Ollama {
        manner,
        id: head.id,
        model: served.name.clone(),
        seed: request.sampling.seed,
        log_probs: log_probs.is_some(),
        warnings: std::mem::take(&mut given.warnings),
        asked: Instant::now(),
        begun: None,
    };
    let by_token = log_probs.is_some();
    let ask = Ask { requests: vec![request], n: 1, calls: None, by_token, field: "prompt" };
    let stream = given.flag("stream") != Some(false);
    Ok(Exchange { ask, wire: Box::new(wire), stream })
}

/// Messages in OpenAI's shape. Calls have no ids here: a result belongs to the call that it names, else to the first
/// that has none yet.
fn messages(value: Value) -> Result<Vec<Message>, Refusal> {
    let Value::Array(mut list) = value else { return Ok(Vec::new()) };
    let mut open: Vec<(String, String)> = Vec::new();
    for (i, message) in list.iter_mut().enumerate() {
        let Value::Object(map) = message else { continue }; // its reader says so
        for (name, why) in [("images", "the model reads text alone"), ("thinking", "it is hidden")]
        {
            let empty = |v: &Value| matches!(v, Value::Null) || v == "" || v == &json!([]);
            match map.remove(name) {
                Some(value) if !empty(&value) => {
                    let field = format!("messages[{i}].{name}");
                    let message = format!("{field} is {}: {why}", shorten(&value));
                    return Err(Refusal::field(field, message));
                }
                Some(_) | None => {}
            }
        }
        let calls = map.get_mut("tool_calls").and_then(Value::as_array_mut);
        for (k, call) in calls.into_iter().flatten().enumerate() {
            let name = call["function"]["name"].as_str().unwrap_or_default().to_owned();
            let Value::Object(call) = call else { continue };
            let id = call.entry("id").or_insert_with(|| format!("call_{i}_{k}").into());
            open.push((name, id.as_str().unwrap_or_default().to_owned()));
            if let Some(Value::Object(function)) = call.get_mut("function") {
                function.remove("index");
            }
        }
        let name = map.remove("tool_name");
        if map.get("role").is_some_and(|role| role == "tool") && !map.contains_key("tool_call_id") {
            let named = |(own, _): &(String, String)| name.as_ref().is_some_and(|n| n == own);
            let place = open.iter().position(named).unwrap_or(0);
            if place < open.len() {
                map.insert("tool_call_id".to_owned(), open.remove(place).1.into());
            }
        }
    }
    chat::messages(Value::Array(list))
}

/// Which of the two shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Chat,
    Generate,
}

/// Writes the answer.
struct Ollama {
    manner: Manner,
    id: String,
    model: String,
    seed: u64,
    log_probs: bool,
    warnings: Vec<String>,
    /// When the request was read, and when the first of its answer came.
    asked: Instant,
    begun: Option<Instant>,
}

impl Ollama {
    /// One line: words, and calls.
    fn line(&self, text: &str, calls: Vec<Value>) -> Value {
        let mut line = json!({ "model": self.model, "created_at": stamp(), "done": false });
        match self.manner {
            Manner::Generate => line["response"] = text.into(),
            Manner::Chat => {
                let mut message = json!({ "role": "assistant", "content": text });
                if !calls.is_empty() {
                    message["tool_calls"] = Value::Array(calls);
                }
                line["message"] = message;
            }
        }
        line
    }

    fn call(&self, index: usize, call: &ToolCall) -> Value {
        let function =
            json!({ "index": index, "name": call.name, "arguments": call.arguments.clone() });
        json!({ "id": call_id(&self.id, 0, index), "function": function })
    }

    /// Makes a line the last: why, how many tokens, and how long, in nanoseconds. Until the first of the answer
    /// came is the time of the prompt, a wait in the queue included.
    fn finish(&self, line: &mut Value, ending: &Ending, usage: Usage, begun: Option<Instant>) {
        let now = Instant::now();
        let begun = begun.unwrap_or(now);
        let nanoseconds = |from: Instant, to: Instant| {
            u64::try_from(to.duration_since(from).as_nanos()).unwrap_or(u64::MAX)
        };
        let figures = json!({
            "done": true,
            "done_reason": reason(ending),
            "total_duration": nanoseconds(self.asked, now),
            "load_duration": 0,
            "prompt_eval_count": usage.prompt,
            "prompt_eval_duration": nanoseconds(self.asked, begun),
            "eval_count": usage.generated,
            "eval_duration": nanoseconds(begun, now),
            "seed": self.seed,
        });
        for (name, value) in figures.as_object().into_iter().flatten() {
            line[name] = value.clone();
        }
        if !self.warnings.is_empty() {
            line["warnings"] = self.warnings.iter().cloned().collect();
        }
    }
}

fn reason(ending: &Ending) -> &'static str {
    match ending {
        Ending::Model | Ending::Text(_) | Ending::Calls => "stop",
        Ending::Length => "length",
    }
}

fn push(out: &mut String, line: &Value) {
    out.push_str(&line.to_string());
    out.push('\n');
}

impl Wire for Ollama {
    fn whole(&self, mut choices: Vec<Choice>, served: &Served) -> Value {
        let choice = choices.pop().unwrap_or_default();
        let calls = choice.calls.iter().enumerate().map(|(k, call)| self.call(k, call)).collect();
        let mut line = self.line(&choice.text, calls);
        if self.log_probs {
            line["logprobs"] = said(&choice.tokens, served);
        }
        let ending = choice.ending.unwrap_or(Ending::Model);
        self.finish(&mut line, &ending, choice.usage, choice.begun);
        line
    }

    fn open(&mut self, _: &mut String) {}

    fn part(&mut self, _: usize, part: Part, served: &Served, out: &mut String) {
        self.begun.get_or_insert_with(Instant::now);
        match part {
            Part::Prompt(_) | Part::Embedding(_) => {}
            Part::Text { text, tokens } => {
                let mut line = self.line(&text, Vec::new());
                if self.log_probs {
                    line["logprobs"] = said(&tokens, served);
                }
                push(out, &line);
            }
            Part::Call { index, call } => {
                push(out, &self.line("", vec![self.call(index, &call)]));
            }
            Part::End { ending, usage } => {
                let mut line = self.line("", Vec::new());
                self.finish(&mut line, &ending, usage, self.begun);
                push(out, &line);
            }
        }
    }

    fn close(&mut self, _: &mut String) {}

    fn broken(&mut self, refusal: &Refusal, out: &mut String) {
        push(out, &refusal.body(Dialect::Ollama));
    }

    fn stream_type(&self) -> &'static str {
        "application/x-ndjson"
    }
}

/// Now, as RFC 3339 has it.
fn stamp() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let second = moment(since.as_secs());
    format!("{}.{:06}Z", second.trim_end_matches('Z'), since.subsec_micros())
}

/// Seconds since 1970 as RFC 3339 has them.
///
/// Years are counted from March, so that the leap day is a year's last.
pub fn moment(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400); // from 1 March of year 0
    let (era, day_of_era) = (days / 146_097, days % 146_097); // days of 400 years
    let leaps = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leaps) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = 400 * era + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_calendars_have_them() {
        assert_eq!(moment(0), "1970-01-01T00:00:00Z");
        assert_eq!(moment(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(moment(1_735_689_599), "2024-12-31T23:59:59Z");
    }

    #[test]
    fn results_of_tools_find_their_calls_by_name_or_by_order() {
        let call = |name: &str| json!({ "function": { "name": name, "arguments": { "x": 1 } } });
        let said = json!([
            { "role": "user", "content": "go", "images": [] },
            { "role": "assistant", "content": "", "tool_calls": [call("f"), call("g")] },
            { "role": "tool", "content": "1", "tool_name": "g" },
            { "role": "tool", "content": "2" },
        ]);
        let read = messages(said).unwrap();
        assert_eq!(read[2].tool_call_id, read[1].tool_calls[1].id);
        assert_eq!(read[3].tool_call_id, read[1].tool_calls[0].id);
        let image = json!([{ "role": "user", "content": "x", "images": ["aa"] }]);
        assert_eq!(messages(image).unwrap_err().field.as_deref(), Some("messages[0].images"));
    }
}
