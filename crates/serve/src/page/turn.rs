//! An answer of the page: turns of the model, calls between them, each told as it comes and
//! written down as it grows.
//!
//! An answer is a task of its own. Whoever listens may leave and come back; it ends by itself, by
//! a stop, or with the server.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use herd_engine::{Request, What};
use hyper::body::Frame;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};

use super::calls::{Call, Course, Hands, Went, tokens_left};
use super::store::{self, with_system};
use super::{Key, Room, papers, parts};
use crate::agent::wording::Manner;
use crate::answer::{Ending, Part, Reader};
use crate::ask::fresh;
use crate::hall::{Hall, aside, full, now};
use crate::host::{Reception, Told};
use crate::keys::{Caller, Pass};
use crate::refusal::Refusal;
use crate::roster::Visit;
use crate::served::Served;
use crate::wire::chat::{self, call_id};
use crate::wire::{Counts, Head, event, said};

/// What is not written down yet is at most so old.
const SAVED_EVERY: Duration = Duration::from_secs(1);

/// Fields of a conversation's settings: those of `/v1/chat/completions` that suit one answer to
/// a page. Beside them are `system` and `tools_off`.
const SETTINGS: [&str; 18] = [
    "model",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "repeat_last_n",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "max_tokens",
    "seed",
    "stop",
    "logprobs",
    "top_logprobs",
    "tools",
    "tool_choice",
];

/// An answer that is being written.
pub struct Live {
    /// Whose it is, and where.
    pub key: Key,
    /// The message.
    pub answer: i64,
    told: Mutex<Sayings>,
    orders: UnboundedSender<Order>,
}

/// What was told so far, and who listens.
#[derive(Default)]
struct Sayings {
    text: String,
    listeners: Vec<UnboundedSender<Bytes>>,
    over: bool,
}

/// What a person wants of an answer.
pub enum Order {
    /// It shall end.
    Stop,
    /// A call is approved, with its result, or denied.
    Decide {
        /// The call.
        call: String,
        /// Its result; `None` denies it.
        result: Option<String>,
    },
}

impl Live {
    /// Gives an order. Does nothing to an answer that is over.
    pub fn order(&self, order: Order) {
        let _ = self.orders.send(order); // the answer may be over
    }

    /// All that was told, and all that will be.
    pub fn listen(&self) -> Body {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (tell, heard) = unbounded_channel();
        let _ = tell.send(Bytes::from(told.text.clone())); // `heard` is here
        if !told.over {
            told.listeners.push(tell);
        }
        Body::new(Heard(heard))
    }

    fn tell(&self, said: &Value) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        event(&mut text, said);
        told.text.push_str(&text);
        let bytes = Bytes::from(text);
        told.listeners.retain(|listener| listener.send(bytes.clone()).is_ok());
        if said["type"] == "end" {
            told.over = true;
            told.listeners.clear();
        }
    }
}

/// A stream of what is told. All that is there at once goes out at once.
struct Heard(UnboundedReceiver<Bytes>);

impl HttpBody for Heard {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut all = Vec::new();
        loop {
            match self.0.poll_recv(context) {
                Poll::Ready(Some(bytes)) => all.extend_from_slice(&bytes),
                Poll::Ready(None) if all.is_empty() => return Poll::Ready(None),
                Poll::Pending if all.is_empty() => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => {
                    return Poll::Ready(Some(Ok(Frame::data(Bytes::from(all)))));
                }
            }
        }
    }
}

/// Checks settings. Errors: a field that is none, or its value.
pub fn check_settings(settings: &Map<String, Value>) -> Result<(), Refusal> {
    let mut fields = settings.clone();
    if let Some(system) = fields.remove("system").filter(|system| !system.is_string()) {
        return Err(Refusal::field("system", format!("system is {system}, expected a text")));
    }
    if let Some(off) = fields.remove("tools_off")
        && !off.as_array().is_some_and(|names| names.iter().all(Value::is_string))
    {
        let message = format!("tools_off is {off}, expected names of tools");
        return Err(Refusal::field("tools_off", message));
    }
    if let Some(name) = fields.keys().find(|name| !SETTINGS.contains(&name.as_str())) {
        return Err(Refusal::field(name, format!("settings have no field {name:?}")));
    }
    fields.entry("model").or_insert_with(|| "".into());
    fields.insert("messages".to_owned(), json!([]));
    chat::SHAPE.check(fields).map(drop)
}

/// A turn of the model that was let in.
struct Turn {
    reception: Reception,
    reader: Reader,
    served: Arc<Served>,
    id: String,
    pass: Pass,
    _visit: Visit,
}

impl Turn {
    /// Asks for an answer to these messages, with the server's tools, where so many tokens were written before. Errors: as
    /// `/v1/chat/completions` refuses.
    async fn begin(
        hall: &Hall,
        caller: &Caller,
        settings: &Map<String, Value>,
        messages: Vec<Value>,
        tools: (&Hands, usize),
    ) -> Result<Turn, Refusal> {
        caller.begin()?;
        let head = Head { id: format!("{}{:016x}", chat::SHAPE.prefix, fresh()), created: now() };
        let id = head.id.clone();
        let mut fields = settings.clone();
        fields.remove("system");
        fields.remove("tools_off");
        let hands = tools.0.shown();
        if !hands.is_empty() {
            let left = tokens_left(tools.1);
            let own = fields.get("max_tokens").and_then(Value::as_u64);
            let most = own.map_or(left as u64, |own| own.min(left as u64));
            fields.insert("max_tokens".to_owned(), most.into());
        }
        if !fields.contains_key("model") {
            fields.insert("model".to_owned(), hall.roster()?.name(None)?.into());
        }
        fields.insert("messages".to_owned(), with_system(settings, messages).into());
        let mut given = chat::SHAPE.check(fields)?;
        let (visit, _) = hall.enter(&mut given, caller).await?;
        let served = visit.served_for(caller.name());
        let reader = Arc::clone(&served);
        let spoken = !hands.is_empty();
        let read = move || chat::read_with(given, &reader, head, &hands);
        let ask = aside(false, read).await?.ask;
        let pass = caller.clone().run(ask.requests.len() * ask.n)?;
        let prompt: usize = ask.requests.iter().map(|request| request.prompt.len()).sum();
        let signed = |request: &Request| {
            let mut request = request.clone();
            caller.sign(&mut request);
            (request, ask.n)
        };
        let requests = ask.requests.iter().map(signed).collect();
        let mut reception = visit.host.submit(requests).map_err(full)?;
        match reception.next().await {
            Some(Told::Taken) => pass.read(prompt),
            Some(Told::Refused(_, error)) => return Err(Refusal::of_request(&error, ask.field)),
            Some(Told::Event(..) | Told::Fault(_)) | None => return Err(Refusal::fault()),
        }
        let reader = match (spoken, &served.format) {
            (true, Some(format)) => {
                Reader::of_calls(&ask, 0, Manner::of(format).call_forms(format))
            }
            _ => Reader::new(&ask, 0),
        };
        Ok(Turn { reception, reader, served, id, pass, _visit: visit })
    }
}

/// Begins an answer behind `parent`, to `said` if there is something. Errors: nothing is kept of a
/// request that is refused.
pub async fn begin(
    hall: Arc<Hall>,
    caller: Caller,
    key: Key,
    parent: Option<i64>,
    said: Option<Vec<Value>>,
) -> Result<Arc<Live>, Refusal> {
    let (asked, has_said) = (key.clone(), said.is_some());
    let read = move |db: &mut _| store::branch(db, &asked, parent, has_said);
    let (settings, mut messages) = hall.page.store.run(read).await?;
    let room = Room::take(&hall, &key)?;
    let hands = hands(&hall, &key, &settings, parent, said.as_deref()).await?;
    if let Some(said) = &said {
        messages.extend(parts::messages("user", said));
    }
    let tools = (&hands, 0);
    let turn = Turn::begin(&hall, &caller, &settings, messages.clone(), tools).await?;
    let asked = key.clone();
    let add = move |db: &mut _| store::begin(db, &asked, parent, said.as_deref());
    let begun = hall.page.store.run(add).await?;
    let (orders, heard) = unbounded_channel();
    let live = Arc::new(Live { key, answer: begun.answer, told: Mutex::default(), orders });
    hall.page.lives().insert(begun.answer, Arc::clone(&live));
    live.tell(&json!({ "type": "begin", "user": begun.user, "answer": begun.answer }));
    let writer = Writer {
        hall,
        caller,
        room,
        live: Arc::clone(&live),
        settings,
        hands,
        course: Course::new(),
        messages,
        orders: heard,
        parts: Vec::new(),
        counts: Counts::default(),
        unsaved: None,
    };
    tokio::spawn(writer.write(turn));
    Ok(live)
}

/// The server's tools of a conversation, over the files that it has by now.
async fn hands(
    hall: &Hall,
    key: &Key,
    settings: &Map<String, Value>,
    parent: Option<i64>,
    said: Option<&[Value]>,
) -> Result<Hands, Refusal> {
    let said = said.unwrap_or_default().to_vec();
    let files = match Hands::want_files(hall, settings) {
        true => {
            let asked = key.clone();
            let read = move |db: &mut _| papers::attached(db, &asked, parent, &said);
            hall.page.store.run(read).await?
        }
        false => match said.iter().find(|part| part["type"] == "file" && part["text"].is_null()) {
            Some(part) => {
                let message = format!("{} is no text, and no tool is on to read it", part["name"]);
                return Err(Refusal::field("said", message));
            }
            None => Vec::new(),
        },
    };
    Hands::of(hall, key, settings, files).await
}

/// Who writes an answer.
pub struct Writer {
    /// What handlers share.
    pub hall: Arc<Hall>,
    caller: Caller,
    /// Held until all is written.
    room: Room,
    /// The answer.
    pub live: Arc<Live>,
    settings: Map<String, Value>,
    /// The server's tools.
    pub hands: Hands,
    /// What its calls have come to.
    pub course: Course,
    /// What the answer follows.
    messages: Vec<Value>,
    /// What people want of it.
    pub orders: UnboundedReceiver<Order>,
    parts: Vec<Value>,
    /// Its tokens.
    pub counts: Counts,
    /// When what is not written down yet is to be.
    pub unsaved: Option<Instant>,
}

impl Writer {
    /// Writes to the end. Who hears the end finds it kept.
    async fn write(mut self, turn: Turn) {
        let mut end = match self.turns(turn).await {
            Ok((reason, None)) => json!({ "type": "end", "reason": reason }),
            Ok((reason, note)) => json!({ "type": "end", "reason": reason, "message": note }),
            Err(refusal) => {
                json!({ "type": "end", "reason": "error", "message": refusal.message })
            }
        };
        let usage = self.counts.json();
        end["usage"] = json!({
            "prompt_tokens": usage["prompt_tokens"],
            "completion_tokens": usage["completion_tokens"],
        });
        parts::push(&mut self.parts, &end);
        if let Err(refusal) = self.save(true).await {
            end["reason"] = "error".into();
            end["message"] = refusal.message.into();
        }
        self.hall.page.lives().remove(&self.live.answer);
        drop(self.room);
        self.live.tell(&end);
    }

    /// Turns until one makes no call; why the answer ends, and words about it where there are any.
    async fn turns(&mut self, mut turn: Turn) -> Result<(&'static str, Option<String>), Refusal> {
        for step in 1.. {
            let mut calls = Vec::new();
            let ending = self.turn(turn, &mut calls).await?;
            match ending {
                None => return Ok(("cancelled", None)),
                Some(Ending::Model | Ending::Text(_)) => return Ok(("stop", None)),
                Some(Ending::Length) => return Ok(("length", None)),
                Some(Ending::Calls) => {}
            }
            match self.carry_out(&calls, step).await? {
                Went::On => {}
                Went::Cancelled => return Ok(("cancelled", None)),
                Went::Limit(limit) => return Ok(("limit", Some(limit))),
            }
            // A call that was asked for has been made.
            self.settings.remove("tool_choice");
            let mut messages = self.messages.clone();
            messages.extend(parts::messages("assistant", &self.parts));
            let tools = (&self.hands, self.counts.written());
            turn = Turn::begin(&self.hall, &self.caller, &self.settings, messages, tools).await?;
        }
        unreachable!("the limit of steps ends the loop")
    }

    /// One turn of the model; how it ended, or nothing if it was stopped.
    async fn turn(
        &mut self,
        mut turn: Turn,
        calls: &mut Vec<Call>,
    ) -> Result<Option<Ending>, Refusal> {
        loop {
            tokio::select! {
                told = turn.reception.next() => match told {
                    None | Some(Told::Fault(_)) => return Err(Refusal::fault()),
                    Some(Told::Taken | Told::Refused(..)) => {}
                    Some(Told::Event(_, what)) => {
                        if matches!(what, What::Token(_)) {
                            turn.pass.wrote(1);
                        }
                        for part in turn.reader.take(what, &turn.served)? {
                            if let Some(ending) = self.part(part, &turn, calls) {
                                return Ok(Some(ending));
                            }
                        }
                    }
                },
                order = self.orders.recv() => match order {
                    Some(Order::Stop) | None => return Ok(None),
                    Some(Order::Decide { .. }) => {} // nothing was asked
                },
                () = until(self.unsaved) => self.save(false).await?,
            }
        }
    }

    /// Takes a part in; how the turn ended, if it did.
    fn part(&mut self, part: Part, turn: &Turn, calls: &mut Vec<Call>) -> Option<Ending> {
        match part {
            Part::Prompt(_) | Part::Embedding(_) => None,
            Part::Text { text, tokens } => {
                let mut event = json!({ "type": "text", "text": text });
                if self.settings.get("logprobs") == Some(&Value::Bool(true)) {
                    event["tokens"] = tokens_of(&said(&tokens, &turn.served));
                }
                self.tell(event);
                None
            }
            Part::Call { index, call } => {
                let id = call_id(&turn.id, 0, index);
                self.tell(json!({
                    "type": "call", "id": id, "name": call.name, "arguments": call.arguments,
                }));
                calls.push(Call { id, call });
                None
            }
            Part::End { ending, usage } => {
                self.counts.add(usage, true);
                Some(ending)
            }
        }
    }

    /// Tells an event, and takes it in.
    pub fn tell(&mut self, event: Value) {
        self.live.tell(&event);
        parts::push(&mut self.parts, &event);
        self.unsaved.get_or_insert_with(|| Instant::now() + SAVED_EVERY);
    }

    /// Writes down what there is.
    pub async fn save(&mut self, over: bool) -> Result<(), Refusal> {
        self.unsaved = None;
        let (answer, parts) = (self.live.answer, self.parts.clone());
        self.hall.page.store.run(move |db| store::save(db, answer, &parts, over)).await
    }
}

/// Sleeps until then, or for ever.
pub async fn until(then: Option<Instant>) {
    match then {
        Some(then) => sleep_until(then).await,
        None => std::future::pending().await,
    }
}

/// Tokens as events have them, from OpenAI's.
fn tokens_of(said: &Value) -> Value {
    let short = |token: &Value| json!({ "token": token["token"], "logprob": token["logprob"] });
    let one = |token: &Value| {
        let mut own = short(token);
        let top = token["top_logprobs"].as_array();
        own["top"] = top.into_iter().flatten().map(short).collect();
        own
    };
    said.as_array().into_iter().flatten().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_fields_of_the_chat_and_no_others() {
        let check = |value: Value| check_settings(value.as_object().unwrap());
        check(json!({ "system": "be brief", "temperature": 0.5, "top_k": 40, "seed": 3 })).unwrap();
        check(json!({})).unwrap();
        for (bad, field) in [
            (json!({ "temperature": -1 }), "temperature"),
            (json!({ "n": 3 }), "n"),
            (json!({ "stream": true }), "stream"),
            (json!({ "system": 1 }), "system"),
            (json!({ "messages": [] }), "messages"),
            (json!({ "tools_off": "python" }), "tools_off"),
        ] {
            assert_eq!(check(bad).unwrap_err().field.as_deref(), Some(field));
        }
    }
}
