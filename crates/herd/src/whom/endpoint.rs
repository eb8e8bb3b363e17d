//! A model behind an endpoint: who it is, how it reads, what it answers to questions side by side.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use herd_codec::chat::Dialogue;
use herd_eval::EvalError;
use herd_eval::query::{Query, Render, Said, Words, renderer};
use herd_eval::remote::{Kind, Other, Telling, body, read};
use serde_json::{Value, json};

use super::{Answers, Known, Manner, Whom, WhomFlags, chat, read_here};
use crate::about::About;
use crate::caller::{CallError, Caller, Patience};
use crate::error::Error;

/// Bytes of an answer: a log-probability of each of some hundred thousand tokens.
const BYTES_MAX: u64 = 256 << 20;

/// Texts whose ids are remembered: the answers to a question share it.
const REMEMBERED: usize = 1024;

/// The other end.
pub struct Endpoint {
    caller: Arc<Caller>,
    other: Other,
    telling: OnceLock<Telling>,
    parallel: usize,
}

/// How `/tokenize` is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spelling {
    /// As llama-server and Herd are.
    Content,
    /// As vLLM is.
    Prompt,
}

/// What `herd serve` tells of a model.
struct Herd {
    known: Known,
    bos: Option<u32>,
    alone: Option<u32>,
    stops: Vec<u32>,
}

impl Endpoint {
    /// Finds the model at an address. Errors: nobody answers there, it is not served, its context or its ids are told
    /// by nobody.
    pub fn open(flags: &WhomFlags, url: &str, manner: &Manner<'_>) -> Result<Whom, Error> {
        let patience = Patience {
            attempts: flags.attempts,
            pause: Duration::from_millis(flags.pause_ms as u64),
            time: Duration::from_secs(flags.timeout as u64),
            bytes_max: BYTES_MAX,
        };
        let root = url.trim_end_matches('/');
        let root = root.strip_suffix("/completions").unwrap_or(root);
        let root = root.strip_suffix("/v1").unwrap_or(root);
        let caller = Arc::new(Caller::new(root, flags.api_key.clone(), patience));
        let card = card(&caller, flags.model.as_deref())?;
        let owner = card["owned_by"].as_str().unwrap_or_default().to_owned();
        let model = card["id"].as_str().unwrap_or_default().to_owned();
        let other = Other { model, kind: Kind::of(&owner) };
        let about = flags.tokenizer.as_deref().map(About::of_tokenizer).transpose()?;
        if manner.template.is_some() && about.is_none() {
            let got = manner.template.unwrap_or_default().to_owned();
            let expected = "a chat of the endpoint's own, or --tokenizer beside it".to_owned();
            return Err(Error::Value { what: "--chat-template", got, expected });
        }
        let herd = match other.kind {
            Kind::Herd => Some(herd(&caller, &other.model, manner.chat)?),
            Kind::Open | Kind::Plain => None,
        };
        let told = match &herd {
            Some(herd) => herd.known.context,
            None => context(&caller, &card, flags)?,
        };
        let context = match flags.ctx_size {
            None => told,
            Some(n) if (1..=told).contains(&n) => n,
            Some(n) => {
                let expected = format!("between 1 and the endpoint's {told}");
                return Err(Error::Value { what: "--ctx-size", got: n.to_string(), expected });
            }
        };
        let words = words(&caller, &other, about, herd.as_ref(), manner)?;
        let spare = if herd.is_some() { 1 } else { 2 }; // others write a token behind what they read
        let words = Words { context: context.saturating_sub(spare).max(1), ..words };
        let known = match herd {
            Some(herd) => Known { context, ..herd.known },
            None => Known {
                model: other.model.clone(),
                class: None,
                kv: None,
                context,
                endpoint: Some(if owner.is_empty() { "unknown".to_owned() } else { owner }),
            },
        };
        let (telling, parallel) = (OnceLock::new(), manner.batch);
        let endpoint = Endpoint { caller, other, telling, parallel };
        Ok(Whom { known, words, answers: Answers::Endpoint(Box::new(endpoint)) })
    }

    /// Answers queries in their order, as many at once as are wanted.
    ///
    /// Errors: no attempt at one brought an answer; it was stopped.
    pub fn answer(&self, queries: &[Query], stop: &AtomicBool) -> Result<Vec<Said>, EvalError> {
        let first = queries.iter().find(|query| matches!(query, Query::Likelihood { .. }));
        if let Some(first) = first
            && self.telling.get().is_none()
        {
            let _ = self.telling.set(self.find_telling(first, stop)); // nobody else sets it
        }
        let (next, ends) = (AtomicUsize::new(0), AtomicBool::new(false));
        let over = || stop.load(Relaxed) || ends.load(Relaxed);
        let said: Vec<OnceLock<Said>> = queries.iter().map(|_| OnceLock::new()).collect();
        let failed = Mutex::new(None);
        thread::scope(|scope| {
            for _ in 0..self.parallel.min(queries.len()) {
                scope.spawn(|| {
                    loop {
                        let i = next.fetch_add(1, Relaxed);
                        let Some(query) = queries.get(i).filter(|_| !over()) else { return };
                        match self.ask(query, &over) {
                            Ok(Some(answer)) => drop(said[i].set(answer)),
                            Ok(None) => return,
                            Err(error) => {
                                ends.store(true, Relaxed);
                                let mut failed =
                                    failed.lock().unwrap_or_else(PoisonError::into_inner);
                                failed.get_or_insert(error);
                            }
                        }
                    }
                });
            }
        });
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let said: Option<Vec<Said>> = said.into_iter().map(OnceLock::into_inner).collect();
        said.ok_or(EvalError::Stopped)
    }

    /// How it tells log-probabilities of prompts: the first way that brings an answer, else the first of all, whose
    /// fault is then told.
    fn find_telling(&self, query: &Query, stop: &AtomicBool) -> Telling {
        let ways = self.other.kind.ways();
        let works = |telling: &&Telling| {
            let asked = body(query, &self.other, **telling);
            // What is no answer is not asked for again: the next way may be the right one.
            let read = |status: u16, text: &str| match status {
                200 => Ok(read(query, &self.other, **telling, text).is_ok()),
                _ => Err(String::new()),
            };
            let over = || stop.load(Relaxed);
            matches!(self.caller.post("v1/completions", &asked, &read, &over), Ok(Some(true)))
        };
        let found = if ways.len() > 1 { ways.iter().find(works) } else { None };
        *found.unwrap_or(&ways[0])
    }

    fn ask(&self, query: &Query, over: &dyn Fn() -> bool) -> Result<Option<Said>, EvalError> {
        let telling = self.telling.get().copied().unwrap_or(Telling::Echo); // texts need none
        let asked = body(query, &self.other, telling);
        let read = |status: u16, text: &str| match status {
            200 => read(query, &self.other, telling, text).map_err(|why| match query {
                Query::Likelihood { .. } => format!("{why}; asked by {}", telling.name()),
                Query::Write { .. } => why,
            }),
            _ => Err(String::new()),
        };
        self.caller.post("v1/completions", &asked, &read, over).map_err(failed)
    }
}

fn failed(error: CallError) -> EvalError {
    EvalError::Endpoint { url: error.url, what: error.what }
}

/// A JSON answer.
fn json_of(status: u16, text: &str) -> Result<Value, String> {
    match status {
        200 => serde_json::from_str(text).map_err(|e| format!("no JSON: {e}")),
        _ => Err(String::new()),
    }
}

/// What `/v1/models` says of a model, else of the first; of an endpoint without such a list, the name alone.
fn card(caller: &Caller, name: Option<&str>) -> Result<Value, Error> {
    let list = |status: u16, text: &str| {
        let models = json_of(status, text)?;
        models.get("data").and_then(Value::as_array).cloned().ok_or("no list of models".to_owned())
    };
    let models = match (caller.get("v1/models", &list), name) {
        (Ok(models), _) => models,
        (Err(error), Some(name)) if error.refused => return Ok(json!({ "id": name })),
        (Err(error), _) => return Err(failed(error).into()),
    };
    let id = |model: &Value| model["id"].as_str().map(str::to_owned);
    let ids: Vec<String> = models.iter().filter_map(id).collect();
    let wanted = match name {
        Some(name) => name.to_owned(),
        None => ids.first().cloned().unwrap_or_default(),
    };
    let found = models.into_iter().find(|model| model["id"].as_str() == Some(&wanted));
    found.filter(|_| !wanted.is_empty()).ok_or_else(|| Error::Value {
        what: "--model",
        got: wanted,
        expected: format!("one that the endpoint serves: {}", ids.join(", ")),
    })
}

/// What `herd serve` tells of a model.
fn herd(caller: &Caller, name: &str, chat: bool) -> Result<Herd, Error> {
    let path = format!("v1/capabilities?weights=true&model={}", percent(name));
    let read = |status: u16, text: &str| {
        let told = json_of(status, text)?;
        let text = |name: &str| told[name].as_str().map(str::to_owned);
        let missing = |name: &str| format!("it does not tell {name}");
        let id = |name: &str| told["tokens"][name].as_u64().and_then(|id| u32::try_from(id).ok());
        let stops = if chat { "chat_stops" } else { "stops" };
        let stops = told["tokens"][stops].as_array().ok_or_else(|| missing("tokens"))?;
        let own = env!("CARGO_PKG_VERSION");
        let version = text("version").ok_or_else(|| missing("its version"))?;
        Ok(Herd {
            known: Known {
                model: text("weights").ok_or_else(|| missing("the hash of its weights"))?,
                class: text("class"),
                kv: text("kv"),
                context: told["context"].as_u64().ok_or_else(|| missing("context"))? as usize,
                endpoint: (version != own).then(|| format!("herd {version}")),
            },
            bos: id("bos").filter(|_| told["tokens"]["add_bos"] == true),
            alone: id("bos").or(id("eos")),
            stops: stops.iter().filter_map(|id| id.as_u64()).map(|id| id as u32).collect(),
        })
    };
    Ok(caller.get(&path, &read).map_err(failed)?)
}

/// The context of another's model: as `/v1/models` or `/props` has it, else as `--ctx-size` says.
fn context(caller: &Caller, card: &Value, flags: &WhomFlags) -> Result<usize, Error> {
    let listed = card["max_model_len"].as_u64();
    let props = || {
        let props = caller.get("props", &json_of).ok()?;
        props["default_generation_settings"]["n_ctx"].as_u64()
    };
    let told = match (listed, flags.ctx_size) {
        (Some(n), _) => Some(n as usize),
        (None, Some(n)) => Some(n),
        (None, None) => props().map(|n| n as usize),
    };
    told.ok_or_else(|| Error::Value {
        what: "--ctx-size",
        got: String::new(),
        expected: "the tokens of the endpoint's context, which it does not tell".to_owned(),
    })
}

/// How it reads: by a tokenizer of this machine, else by asking.
fn words(
    caller: &Arc<Caller>,
    other: &Other,
    about: Option<About>,
    herd: Option<&Herd>,
    manner: &Manner<'_>,
) -> Result<Words, Error> {
    let mut words = match &about {
        Some(about) => read_here(about),
        None => read_there(caller, other, herd)?,
    };
    if let Some(herd) = herd {
        words.stops.clone_from(&herd.stops);
    }
    if manner.chat {
        let render = match about {
            Some(about) => {
                let format = about.chat_format(manner.template)?;
                if herd.is_none() {
                    words.stops = about.stop_ids(Some(&format));
                }
                renderer(format, Arc::clone(&about.tokenizer))
            }
            None => render_there(caller, other),
        };
        words.chat = Some(chat(manner, render));
    }
    Ok(words)
}

/// How texts become ids by `/tokenize`.
fn read_there(caller: &Arc<Caller>, other: &Other, herd: Option<&Herd>) -> Result<Words, Error> {
    let name = &other.model;
    let spelling = match (herd, tokenize(caller, name, Spelling::Content, "a", false)) {
        (_, Ok(_)) => Spelling::Content,
        (Some(_), Err(error)) => return Err(failed(error).into()),
        (None, Err(_)) => match tokenize(caller, name, Spelling::Prompt, "a", false) {
            Ok(_) => Spelling::Prompt,
            Err(error) => {
                let what = format!("it makes no ids of texts, --tokenizer would: {}", error.what);
                return Err(EvalError::Endpoint { url: error.url, what }.into());
            }
        },
    };
    let (bos, alone) = match herd {
        Some(herd) => (herd.bos, herd.alone),
        None => {
            let ids = |begun| tokenize(caller, name, spelling, "a", begun).map_err(failed);
            let (plain, begun) = (ids(false)?, ids(true)?);
            let bos = begun.first().copied().filter(|_| begun.get(1..) == Some(&plain[..]));
            (bos, bos)
        }
    };
    let (caller, name) = (Arc::clone(caller), name.clone());
    let known: RefCell<HashMap<String, Vec<u32>>> = RefCell::default();
    let encode = move |text: &str| {
        if let Some(ids) = known.borrow().get(text) {
            return Ok(ids.clone());
        }
        let ids = tokenize(&caller, &name, spelling, text, false).map_err(failed)?;
        let mut known = known.borrow_mut();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(text.to_owned(), ids.clone());
        Ok(ids)
    };
    let (stops, context, chat) = (Vec::new(), 0, None);
    Ok(Words { encode: Box::new(encode), bos, alone, stops, context, chat, samples: None })
}

/// The ids of a text; `begun` with what begins texts.
fn tokenize(
    caller: &Caller,
    name: &str,
    spelling: Spelling,
    text: &str,
    begun: bool,
) -> Result<Vec<u32>, CallError> {
    let body = match spelling {
        Spelling::Content => {
            json!({ "content": text, "add_special": begun, "parse_special": false })
        }
        Spelling::Prompt => json!({ "model": name, "prompt": text, "add_special_tokens": begun }),
    };
    // Herd's own wants the name where it has several models; llama-server takes no notice.
    let body = match spelling {
        Spelling::Content => with_model(body, name),
        Spelling::Prompt => body,
    };
    let read = |status: u16, text: &str| ids(&json_of(status, text)?);
    Ok(caller.post("tokenize", &body, &read, &|| false)?.expect("nobody ends it"))
}

fn with_model(mut body: Value, name: &str) -> Value {
    body["model"] = name.into();
    body
}

/// The ids in an answer's `tokens`.
fn ids(answer: &Value) -> Result<Vec<u32>, String> {
    let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids = answer["tokens"].as_array().and_then(|ids| ids.iter().map(id).collect());
    ids.ok_or_else(|| "it has no tokens".to_owned())
}

/// How dialogues become ids by `/apply-template`.
fn render_there(caller: &Arc<Caller>, other: &Other) -> Box<Render> {
    let (caller, name, kind) = (Arc::clone(caller), other.model.clone(), other.kind);
    Box::new(move |dialogue: &Dialogue| {
        let mut body = json!({ "messages": dialogue.messages });
        if kind == Kind::Herd {
            body["date"] = "none".into();
            body = with_model(body, &name);
        }
        let read = |status: u16, text: &str| match kind {
            Kind::Herd => ids(&json_of(status, text)?).map(Ok),
            Kind::Open | Kind::Plain => {
                let said = json_of(status, text)?;
                said["prompt"].as_str().map(|text| Err(text.to_owned())).ok_or("no prompt".into())
            }
        };
        let found = caller.post("apply-template", &body, &read, &|| false).map_err(failed)?;
        match found.expect("nobody ends it") {
            Ok(ids) => Ok(ids),
            Err(text) => {
                let body = json!({ "content": text, "add_special": false, "parse_special": true });
                let read = |status: u16, text: &str| ids(&json_of(status, text)?);
                let found = caller.post("tokenize", &body, &read, &|| false).map_err(failed)?;
                Ok(found.expect("nobody ends it"))
            }
        }
    })
}

/// A name as a part of an address.
fn percent(name: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    name.bytes().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parts_of_addresses() {
        assert_eq!(percent("a/B c-1_2.gguf"), "a%2FB%20c-1_2.gguf");
        assert_eq!(percent("é&x=1"), "%C3%A9%26x%3D1");
    }
}
