//! `/v1/files`: giving a file, and what became of it.

use std::fs::File;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::multipart::{Field, MultipartError, MultipartRejection};
use axum::extract::{DefaultBodyLimit, Multipart, Path, State};
use axum::http::{HeaderValue, Uri, header};
use axum::response::Response;
use axum::routing::{get, post};
use hyper::body::Frame;
use serde_json::{Value, json};

use super::{Coming, Entry, Files};
use crate::door::Settings;
use crate::hall::{Hall, Shared, aside, now, reply, reply_json};
use crate::keys::Caller;
use crate::refusal::Refusal;

const PATH: &str = "/v1/files";

/// What a caller may give a file for.
pub const PURPOSES: [&str; 3] = ["assistants", "batch", "user_data"];

/// Bytes that are gathered before they are written.
const PIECE: usize = 1 << 20;

/// Characters of a name at most.
const NAME: usize = 255;

/// The routes.
pub fn router(settings: &Settings) -> Router<Arc<Hall>> {
    let limit = DefaultBodyLimit::max(settings.file_bytes.saturating_add(1 << 16));
    Router::new()
        .route(PATH, post(upload).layer(limit).get(list))
        .route("/v1/files/{id}", get(one).delete(remove))
        .route("/v1/files/{id}/content", get(content))
}

impl Hall {
    /// The files. Errors: the server keeps none.
    pub fn files(&self) -> Result<&Arc<Files>, Refusal> {
        let none =
            || Refusal::new(501, "this server keeps no files (herd serve --files-dir FOLDER)");
        self.files.as_ref().ok_or_else(none)
    }

    /// A file that a caller owns.
    pub async fn file(&self, id: &str, caller: &Caller) -> Result<Entry, Refusal> {
        let (files, id, caller) = (Arc::clone(self.files()?), id.to_owned(), caller.clone());
        aside(false, move || {
            let gone = || Refusal::new(404, format!("there is no file {id:?}"));
            files.find(&id, caller.name())?.ok_or_else(gone)
        })
        .await
    }
}

async fn upload(
    State(hall): Shared,
    caller: Caller,
    form: Result<Multipart, MultipartRejection>,
) -> Response {
    let kept = async {
        hall.files()?;
        let form = form.map_err(|error| Refusal::new(400, error.body_text()))?;
        caller.begin()?;
        let (coming, name, purpose) = receive(&hall, form).await?;
        let keep = move || Ok(coming.keep(&name, &purpose, caller.name(), now())?);
        Ok(aside(false, keep).await?.json())
    };
    reply_json(kept.await, PATH)
}

/// Takes a form in: its file, and what it is for.
async fn receive(hall: &Hall, mut form: Multipart) -> Result<(Coming, String, String), Refusal> {
    let (mut file, mut purpose) = (None, None);
    while let Some(field) = timely(hall, form.next_field()).await? {
        match field.name() {
            Some("purpose") => purpose = Some(short(hall, field).await?),
            Some("file") if file.is_none() => file = Some(store(hall, field).await?),
            other => {
                let shown: String = other.unwrap_or_default().chars().take(80).collect();
                let message = format!("{PATH} has no field {shown:?}, or it is given twice");
                return Err(Refusal::field(shown, message));
            }
        }
    }
    let missing = |name: &str| Refusal::field(name, format!("{name} is missing"));
    let purpose = purpose.ok_or_else(|| missing("purpose"))?;
    if !PURPOSES.contains(&purpose.as_str()) {
        let message = format!("purpose is {purpose:?}, taken are {}", PURPOSES.join(", "));
        return Err(Refusal::field("purpose", message));
    }
    let (coming, name) = file.ok_or_else(|| missing("file"))?;
    Ok((coming, name, purpose))
}

/// A text of a few characters.
async fn short(hall: &Hall, mut field: Field<'_>) -> Result<String, Refusal> {
    let mut bytes = Vec::new();
    while let Some(chunk) = timely(hall, field.chunk()).await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > NAME {
            return Err(Refusal::field("purpose", "purpose is too long"));
        }
    }
    String::from_utf8(bytes).map_err(|_| Refusal::field("purpose", "purpose is no UTF-8"))
}

/// Writes a file's bytes as they come; and its name, of which only the last part is kept.
async fn store(hall: &Hall, mut field: Field<'_>) -> Result<(Coming, String), Refusal> {
    let most = hall.settings.file_bytes;
    let given = field.file_name().unwrap_or("file");
    let last = given.rsplit(['/', '\\']).next().unwrap_or_default();
    let name: String = last.chars().filter(|c| !c.is_control()).take(NAME).collect();
    let files = Arc::clone(hall.files()?);
    let mut coming = aside(false, move || Ok(files.begin()?)).await?;
    let mut piece: Vec<u8> = Vec::new();
    loop {
        let chunk = timely(hall, field.chunk()).await?;
        let over = chunk.is_none();
        piece.extend_from_slice(&chunk.unwrap_or_default());
        if coming.bytes() + piece.len() as u64 > most as u64 {
            return Err(Refusal::new(413, format!("the file exceeds {most} bytes")));
        }
        if piece.len() >= PIECE || over {
            let full = std::mem::take(&mut piece);
            let write = move || coming.write(&full).map(|()| coming).map_err(Refusal::from);
            coming = aside(false, write).await?;
        }
        if over {
            return Ok((coming, name));
        }
    }
}

/// Waits for a part of the body; one that does not come is waited for as long as for a whole body.
async fn timely<T>(
    hall: &Hall,
    part: impl Future<Output = Result<T, MultipartError>>,
) -> Result<T, Refusal> {
    let limit = hall.settings.body_time;
    match tokio::time::timeout(limit, part).await {
        Ok(Ok(part)) => Ok(part),
        Ok(Err(error)) => Err(Refusal::new(error.status().as_u16(), error.body_text())),
        Err(_) => Err(Refusal::new(408, format!("nothing of the body came for {limit:?}"))),
    }
}

async fn list(State(hall): Shared, caller: Caller, uri: Uri) -> Response {
    let listed = async {
        let files = Arc::clone(hall.files()?);
        let all = aside(false, move || Ok(files.list(caller.name())?)).await?;
        let page = Page::read(&uri, &["purpose"])?;
        let fits = |entry: &&Entry| page.other.as_ref().is_none_or(|p| *p == entry.purpose);
        Ok(page.json(all.iter().filter(fits).map(Entry::json).collect()))
    };
    reply_json(listed.await, PATH)
}

async fn one(State(hall): Shared, caller: Caller, Path(id): Path<String>) -> Response {
    reply_json(hall.file(&id, &caller).await.map(|entry| entry.json()), PATH)
}

async fn remove(State(hall): Shared, caller: Caller, Path(id): Path<String>) -> Response {
    let removed = async {
        let entry = hall.file(&id, &caller).await?;
        let (files, id) = (Arc::clone(hall.files()?), entry.id.clone());
        if !aside(false, move || Ok(files.remove(&id)?)).await? {
            return Err(Refusal::new(409, format!("a batch that runs reads {:?}", entry.id)));
        }
        Ok(json!({ "id": entry.id, "object": "file", "deleted": true }))
    };
    reply_json(removed.await, PATH)
}

async fn content(State(hall): Shared, caller: Caller, Path(id): Path<String>) -> Response {
    let given = async {
        let entry = hall.file(&id, &caller).await?;
        let (files, length) = (Arc::clone(hall.files()?), entry.bytes);
        let file = aside(false, move || Ok(files.content(&entry.id)?)).await?;
        let mut response = Response::new(Body::new(Content { file, left: length }));
        let kind = HeaderValue::from_static("application/octet-stream");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        Ok(response)
    };
    reply(given.await, PATH)
}

/// A file as a body. Pieces are read on the thread of all connections: the system has most of them at hand.
struct Content {
    file: File,
    left: u64,
}

impl HttpBody for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let mut piece = vec![0; self.left.min(64 << 10) as usize];
        let read = match self.file.read(&mut piece) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            read => read,
        };
        Poll::Ready(Some(read.map(|n| {
            self.left -= n as u64;
            piece.truncate(n);
            Frame::data(Bytes::from(piece))
        })))
    }
}

/// Which part of a list is wanted.
pub struct Page {
    limit: usize,
    after: Option<String>,
    upwards: bool,
    /// A parameter of the list's own.
    pub other: Option<String>,
}

impl Page {
    /// Reads `limit`, `after`, `order` and one parameter of the list's own.
    pub fn read(uri: &Uri, own: &[&str]) -> Result<Page, Refusal> {
        let mut page = Page { limit: 100, after: None, upwards: false, other: None };
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let wrong = |expected: &str| {
                Err(Refusal::field(name, format!("{name} is {value:?}, expected {expected}")))
            };
            match (name, value) {
                ("limit", n) => match n.parse() {
                    Ok(n @ 1..=10_000) => page.limit = n,
                    _ => return wrong("a whole number from 1 to 10000"),
                },
                ("after", id) => page.after = Some(id.to_owned()),
                ("order", "asc") => page.upwards = true,
                ("order", "desc") => page.upwards = false,
                ("order", _) => return wrong("asc or desc"),
                (own_name, value) if own.contains(&own_name) => page.other = Some(value.to_owned()),
                _ => return Err(Refusal::field(name, format!("{name:?} is no parameter here"))),
            }
        }
        Ok(page)
    }

    /// The list, given with the latest first.
    pub fn json(&self, mut all: Vec<Value>) -> Value {
        if self.upwards {
            all.reverse();
        }
        let id = |value: &Value| value["id"].as_str().map(str::to_owned);
        let start = match &self.after {
            None => 0,
            Some(after) => {
                all.iter().position(|v| id(v).as_ref() == Some(after)).map_or(all.len(), |i| i + 1)
            }
        };
        let more = all.len() > start + self.limit;
        let data: Vec<Value> = all.into_iter().skip(start).take(self.limit).collect();
        let (first, last) = (data.first().and_then(id), data.last().and_then(id));
        json!({
            "object": "list", "data": data, "has_more": more, "first_id": first, "last_id": last,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_come_in_pages() {
        let all = || ["c", "b", "a"].map(|id| json!({ "id": id })).to_vec();
        let page = |query: &str| {
            let uri: Uri = format!("/v1/files?{query}").parse().unwrap();
            Page::read(&uri, &["purpose"]).map(|page| page.json(all()))
        };
        let ids = |value: Value| {
            let list = value["data"].as_array().unwrap().iter();
            list.map(|v| v["id"].as_str().unwrap().to_owned()).collect::<String>()
        };
        assert_eq!(ids(page("").unwrap()), "cba");
        let first = page("limit=2").unwrap();
        assert_eq!(
            (first["has_more"].as_bool(), first["last_id"].as_str()),
            (Some(true), Some("b"))
        );
        assert_eq!(ids(page("limit=2&after=b").unwrap()), "a");
        assert_eq!(ids(page("order=asc&after=a").unwrap()), "bc");
        assert_eq!(ids(page("after=gone").unwrap()), "");
        for wrong in ["limit=0", "limit=x", "order=up", "foo=1"] {
            assert_eq!(page(wrong).unwrap_err().status, 400, "{wrong}");
        }
    }
}
