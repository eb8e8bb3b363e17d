//! The page at `/`: a chat in the browser, its conversations, and the load of the server.
//!
//! `files` has what the browser loads, `store` the conversations, `parts` what a message is made
//! of, `turn` the answers, `calls` the tools between their turns, `papers` the files; docs/page.md tells the whole.

mod calls;
mod files;
mod papers;
mod parts;
mod store;
mod turn;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::agent::Rule;
use crate::agent::benches::Whose;
use crate::agent::tools::Given;
use crate::db::DbError;
use crate::hall::{Hall, json_response, reply};
use crate::keys::Caller;
use crate::refusal::Refusal;
pub use calls::refused;
pub use files::{File, is_file, send, send_file};
use store::{Change, Key, Store};
use turn::{Live, Order};

/// What the page keeps on the server.
pub struct Page {
    store: Store,
    /// Answers that are being written, by their message.
    lives: Mutex<HashMap<i64, Arc<Live>>>,
    /// Conversations in which an answer is being written, or about to be.
    taken: Mutex<HashMap<i64, String>>,
}

/// Characters of a title at most.
const TITLE_MAX: usize = 200;
/// Answers that are being written at most, those that wait for a person included.
const LIVES_MAX: usize = 1024;
/// Of these, answers of one owner.
const OWN_LIVES_MAX: usize = 128;

impl Page {
    /// Opens the file of conversations; without one they end with the server.
    pub fn open(path: Option<&std::path::Path>) -> Result<Page, DbError> {
        Ok(Page { store: Store::open(path)?, lives: Mutex::default(), taken: Mutex::default() })
    }

    fn lives(&self) -> MutexGuard<'_, HashMap<i64, Arc<Live>>> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer that is being written. Errors: none of this name, or another's.
    fn live(&self, owner: &str, answer: i64) -> Result<Arc<Live>, Refusal> {
        let found = self.lives().get(&answer).filter(|live| live.key.owner == owner).cloned();
        found.ok_or_else(|| Refusal::new(404, format!("answer {answer} is not being written")))
    }
}

/// The right to write an answer in a conversation: one has it at a time.
struct Room {
    hall: Arc<Hall>,
    chat: i64,
}

impl Room {
    /// Errors: an answer is being written there, or too many are elsewhere.
    fn take(hall: &Arc<Hall>, key: &Key) -> Result<Room, Refusal> {
        let mut taken = hall.page.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.values().filter(|other| **other == key.owner).count();
        if taken.len() >= LIVES_MAX || own >= OWN_LIVES_MAX {
            let message = format!("{} answers are being written, {own} of them yours", taken.len());
            return Err(Refusal { retry_after: Some(10), ..Refusal::new(429, message) });
        }
        if taken.contains_key(&key.chat) {
            return Err(Refusal::new(409, "an answer of this conversation is being written"));
        }
        taken.insert(key.chat, key.owner.clone());
        Ok(Room { hall: Arc::clone(hall), chat: key.chat })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.hall.page.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.chat);
    }
}

/// The paths of the page.
pub fn router() -> Router<Arc<Hall>> {
    Router::new()
        .route("/", get(file))
        .route("/ui/{*path}", get(file))
        .route("/ui/api/chats", get(list).post(create))
        .route("/ui/api/export", get(export_all))
        .route("/ui/api/chats/{chat}", get(read).patch(change).delete(remove))
        .route("/ui/api/chats/{chat}/export", get(export))
        .route("/ui/api/chats/{chat}/answers", post(answer))
        .route("/ui/api/answers/{answer}", get(listen).delete(stop))
        .route("/ui/api/answers/{answer}/calls", post(decide))
        .route("/ui/api/files/{file}", get(paper))
        .route("/ui/api/tools", get(tools))
}

type Shared = State<Arc<Hall>>;

/// Who asks: the hash of the key, where keys are wanted.
pub fn owner(hall: &Hall, headers: &HeaderMap) -> String {
    if hall.settings.keys.is_empty() {
        return String::new();
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let key = bearer.or_else(|| text("x-api-key")).unwrap_or_default();
    Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn key(hall: &Hall, headers: &HeaderMap, chat: i64) -> Key {
    Key { owner: owner(hall, headers), chat }
}

fn said(result: Result<Value, Refusal>) -> Response {
    reply(result.map(|value| json_response(StatusCode::OK, &value)), "/ui/api")
}

/// Reads a body of JSON, on a thread of its own where it is long.
async fn body<T: DeserializeOwned + Send + 'static>(hall: &Hall, body: Body) -> Result<T, Refusal> {
    let bytes = hall.body(body).await?;
    let small = bytes.len() < 16 << 10;
    let wrong = |error: serde_json::Error| Refusal::new(400, format!("the body: {error}"));
    crate::hall::aside(small, move || serde_json::from_slice(&bytes).map_err(wrong)).await
}

async fn file(uri: Uri, headers: HeaderMap) -> Response {
    let none = || Refusal::new(404, format!("there is no path {:?}", uri.path()));
    reply(send(uri.path(), &headers).ok_or_else(none), "/ui")
}

#[derive(Deserialize)]
struct Search {
    #[serde(default)]
    q: String,
}

async fn list(State(hall): Shared, headers: HeaderMap, Query(search): Query<Search>) -> Response {
    let owner = owner(&hall, &headers);
    said(hall.page.store.run(move |db| store::list(db, &owner, &search.q)).await)
}

/// A new conversation; with messages, one that took place elsewhere.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    title: Option<String>,
    #[serde(default)]
    settings: Map<String, Value>,
    #[serde(default)]
    messages: Vec<Value>,
    /// Rows of `messages` may offer tools.
    tools: Option<Value>,
}

async fn create(State(hall): Shared, headers: HeaderMap, given: Body) -> Response {
    let made = async {
        let New { title, mut settings, messages, tools } = body(&hall, given).await?;
        let title = title.map(|title| check_title(&title)).transpose()?;
        settings.extend(tools.map(|tools| ("tools".to_owned(), tools)));
        let owner = owner(&hall, &headers);
        let import = move |db: &mut _| {
            turn::check_settings(&settings)?;
            store::import(db, &owner, title.as_deref(), &mut settings, &messages)
        };
        hall.page.store.run(import).await.map(|chat| json!({ "id": chat }))
    };
    said(made.await)
}

fn check_title(title: &str) -> Result<String, Refusal> {
    let title = title.trim();
    match title.is_empty() || title.chars().count() > TITLE_MAX || title.contains(char::is_control)
    {
        true => Err(Refusal::field("title", format!("a title has 1 to {TITLE_MAX} characters"))),
        false => Ok(title.to_owned()),
    }
}

/// A conversation, with the number of the answer that is being written, if one is.
async fn read(State(hall): Shared, headers: HeaderMap, Path(chat): Path<i64>) -> Response {
    let key = key(&hall, &headers, chat);
    let mut found = hall.page.store.run(move |db| store::read(db, &key)).await;
    if let Ok(found) = &mut found {
        let lives = hall.page.lives();
        let live = lives.values().find(|live| live.key.chat == chat);
        found["live"] = live.map(|live| live.answer).into();
    }
    said(found)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Changes {
    title: Option<String>,
    settings: Option<Map<String, Value>>,
    leaf: Option<i64>,
}

async fn change(
    State(hall): Shared,
    headers: HeaderMap,
    Path(chat): Path<i64>,
    given: Body,
) -> Response {
    let changed = async {
        let Changes { title, settings, leaf } = body(&hall, given).await?;
        let title = title.map(|title| check_title(&title)).transpose()?;
        settings.as_ref().map_or(Ok(()), turn::check_settings)?;
        let (key, change) = (key(&hall, &headers, chat), Change { title, settings, leaf });
        hall.page.store.run(move |db| store::change(db, &key, &change)).await
    };
    said(changed.await.map(|()| json!({})))
}

async fn remove(State(hall): Shared, headers: HeaderMap, Path(chat): Path<i64>) -> Response {
    let key = key(&hall, &headers, chat);
    let gone = hall.page.store.run(move |db| store::remove(db, &key)).await;
    if gone.is_ok() {
        if let Some(benches) = &hall.settings.tools {
            benches.forget(&Whose::Chat(chat));
        }
        let lives = hall.page.lives();
        lives
            .values()
            .filter(|live| live.key.chat == chat)
            .for_each(|live| live.order(Order::Stop));
    }
    said(gone.map(|()| json!({})))
}

async fn export_all(State(hall): Shared, headers: HeaderMap) -> Response {
    rows(&hall, &headers, None).await
}

async fn export(State(hall): Shared, headers: HeaderMap, Path(chat): Path<i64>) -> Response {
    rows(&hall, &headers, Some(chat)).await
}

async fn rows(hall: &Hall, headers: &HeaderMap, chat: Option<i64>) -> Response {
    let owner = owner(hall, headers);
    let lines = hall.page.store.run(move |db| store::export(db, &owner, chat)).await;
    let response = |lines: String| typed(Body::from(lines), "application/jsonl; charset=utf-8");
    reply(lines.map(response), "/ui/api")
}

fn typed(body: Body, kind: &'static str) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// What is to be answered: something said behind `parent`, or `parent` again.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    parent: Option<i64>,
    said: Option<Value>,
}

async fn answer(
    State(hall): Shared,
    caller: Caller,
    headers: HeaderMap,
    Path(chat): Path<i64>,
    given: Body,
) -> Response {
    let begun = async {
        let Asked { parent, said } = body(&hall, given).await?;
        said.as_ref().map_or(Ok(()), parts::check_said)?;
        let said = said.as_ref().and_then(Value::as_array).cloned();
        let key = key(&hall, &headers, chat);
        turn::begin(Arc::clone(&hall), caller, key, parent, said).await
    };
    reply(begun.await.map(|live| typed(live.listen(), "text/event-stream")), "/ui/api")
}

async fn listen(State(hall): Shared, headers: HeaderMap, Path(answer): Path<i64>) -> Response {
    let live = hall.page.live(&owner(&hall, &headers), answer);
    reply(live.map(|live| typed(live.listen(), "text/event-stream")), "/ui/api")
}

async fn stop(State(hall): Shared, headers: HeaderMap, Path(answer): Path<i64>) -> Response {
    let live = hall.page.live(&owner(&hall, &headers), answer);
    said(live.map(|live| live.order(Order::Stop)).map(|()| json!({})))
}

/// What a person decides of a call.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Decision {
    /// The call.
    id: String,
    /// Whether it is approved.
    allow: bool,
    /// What it gave, where it was made by hand.
    #[serde(default)]
    result: String,
}

async fn decide(
    State(hall): Shared,
    headers: HeaderMap,
    Path(answer): Path<i64>,
    given: Body,
) -> Response {
    let decided = async {
        let live = hall.page.live(&owner(&hall, &headers), answer)?;
        let Decision { id, allow, result } = body(&hall, given).await?;
        live.order(Order::Decide { call: id, result: allow.then_some(result) });
        Ok(json!({}))
    };
    said(decided.await)
}

/// A file of a conversation, to be saved and never shown: whatever it holds runs nowhere.
async fn paper(State(hall): Shared, headers: HeaderMap, Path(file): Path<i64>) -> Response {
    let owner = owner(&hall, &headers);
    let found = hall.page.store.run(move |db| papers::read(db, &owner, file)).await;
    let response = |(name, bytes): Given| {
        let mut response = typed(Body::from(bytes), "application/octet-stream");
        let encoded: String = name.bytes().map(percent).collect();
        let attachment = format!("attachment; filename*=UTF-8''{encoded}");
        if let Ok(value) = HeaderValue::from_str(&attachment) {
            response.headers_mut().insert(header::CONTENT_DISPOSITION, value);
        }
        let nosniff = HeaderValue::from_static("nosniff");
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
        response
    };
    reply(found.map(response), "/ui/api")
}

/// A byte of a name as a header writes it (RFC 8187).
fn percent(byte: u8) -> String {
    match byte.is_ascii_alphanumeric() || b"-._".contains(&byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    }
}

/// The server's tools, with the rule of each.
async fn tools(State(hall): Shared) -> Response {
    let list = hall.settings.tools.iter().flat_map(|benches| {
        let sample = benches.sample();
        sample.definitions().into_iter().map(|tool| {
            let rule = match sample.rule(tool.name()) {
                Rule::Always => "always",
                Rule::Ask => "ask",
                Rule::Never => "never",
            };
            let about = &tool.json()["function"]["description"];
            json!({ "name": tool.name(), "description": about, "rule": rule })
        })
    });
    said(Ok(json!({ "tools": list.collect::<Vec<_>>() })))
}
