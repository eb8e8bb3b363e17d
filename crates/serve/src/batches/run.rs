//! Runs batches: one at a time, its rows beside the requests of users, and only where none of these waits.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use axum::body::Body;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::lines::{Line, Lines, Request, check};
use super::{Answered, Batch, Batches, Places, Status, endpoint};
use crate::ask::fresh;
use crate::files::FilesError;
use crate::hall::{Hall, Lane, aside, now};
use crate::keys::Caller;
use crate::refusal::{Dialect, Refusal};

/// How often is looked whether there is room.
const LOOK: Duration = Duration::from_millis(20);

/// How long is waited after the database has failed.
const REST: Duration = Duration::from_secs(5);

/// How long a batch that could not go on is passed over: its answers are written again each time.
const BATCH_REST: Duration = Duration::from_secs(60);

/// Bytes of an answer at most.
const ANSWER: usize = 256 << 20;

/// Runs batches for ever.
pub async fn work(hall: Arc<Hall>, batches: Arc<Batches>) {
    while hall.roster().is_err() {
        tokio::time::sleep(LOOK).await;
    }
    loop {
        let next = {
            let batches = Arc::clone(&batches);
            aside(false, move || Ok(batches.next(Instant::now())?)).await
        };
        match next {
            Ok(Some(batch)) => {
                if let Err(refusal) = go_on(&hall, &batches, batch.clone()).await {
                    hall.settings.log(
                        &json!({ "time": now(), "batch": batch.id, "batches": refusal.message }),
                    );
                    pause(&batches, batch, refusal).await;
                }
            }
            Ok(None) => match batches.rested_in(Instant::now()) {
                None => batches.wake.notified().await,
                // Whether it is woken or rested: `next` tells.
                Some(rest) => drop(tokio::time::timeout(rest, batches.wake.notified()).await),
            },
            Err(refusal) => {
                hall.settings.log(&json!({ "time": now(), "batches": refusal.message }));
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// A batch could not go on: it rests while others do. One that was to end, or is late, fails instead.
async fn pause(batches: &Arc<Batches>, batch: Batch, refusal: Refusal) {
    let store = Arc::clone(batches);
    let given_up = aside(false, move || {
        // It may have been cancelled since it was read.
        let cancelling = store.ending().contains(&batch.id) || batch.status == Status::Cancelling;
        store.rest(&batch.id, Instant::now() + BATCH_REST);
        if cancelling || now() >= batch.expires() {
            store.fail(&batch.id, &[stuck("cannot_go_on", &refusal.message)])?;
        }
        Ok(())
    });
    // A failure of this too is met again after the rest.
    let _ = given_up.await;
}

/// Why a whole batch fails, as its `errors` have it.
fn stuck(code: &str, message: &str) -> Value {
    json!({ "code": code, "message": message, "line": null, "param": null })
}

/// The lines of a batch's file; a batch whose file is gone fails, and has none.
fn lines(batches: &Batches, batch: &Batch, most: usize) -> Result<Option<Lines>, FilesError> {
    match batches.files.content(&batch.input) {
        Ok(file) => Ok(Some(Lines::new(file, most))),
        Err(FilesError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            batches.fail(&batch.id, &[stuck("no_file", "the batch's file is gone")])?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Takes a batch to its next status.
async fn go_on(hall: &Arc<Hall>, batches: &Arc<Batches>, batch: Batch) -> Result<(), Refusal> {
    let (store, one) = (Arc::clone(batches), batch.clone());
    match batch.status {
        Status::Validating => {
            let most = hall.settings.body_bytes;
            aside(false, move || Ok(validate(&store, &one, most)?)).await
        }
        Status::InProgress => rows(hall, batches, batch).await,
        Status::Finalizing => {
            aside(false, move || {
                Ok(store.finish(&one, Status::Finalizing, Status::Completed, &[])?)
            })
            .await
        }
        Status::Cancelling => {
            aside(false, move || {
                Ok(store.finish(&one, Status::Cancelling, Status::Cancelled, &[])?)
            })
            .await
        }
        Status::Failed | Status::Completed | Status::Expired | Status::Cancelled => Ok(()),
    }
}

fn validate(batches: &Batches, batch: &Batch, most: usize) -> Result<(), FilesError> {
    let Some(lines) = lines(batches, batch, most)? else { return Ok(()) };
    let checked = check(lines, &batch.endpoint).map_err(FilesError::io(batch.input.as_ref()))?;
    match checked {
        Ok(total) => batches.accept(&batch.id, total),
        Err(faults) => batches.fail(&batch.id, &faults),
    }
}

/// Answers rows until all are, or the batch is to end, or its time is over.
async fn rows(hall: &Arc<Hall>, batches: &Arc<Batches>, batch: Batch) -> Result<(), Refusal> {
    let Some(caller) = owner(hall, &batch) else {
        let fault = stuck("no_key", "the batch's key is not known any more");
        let store = Arc::clone(batches);
        return aside(false, move || Ok(store.fail(&batch.id, &[fault])?)).await;
    };
    let (store, one, most) = (Arc::clone(batches), batch.clone(), hall.settings.body_bytes);
    let begun = aside(false, move || {
        Ok(lines(&store, &one, most)?.map(|lines| Ok((store.answered(&one.id)?, lines))))
    });
    let Some(begun) = begun.await? else { return Ok(()) };
    let (done, mut lines) = begun.map_err(|error: FilesError| Refusal::from(error))?;
    let half = half(hall);
    let row_places = Arc::new(Places::new(half));
    let (mut tasks, mut places) = (JoinSet::new(), HashMap::new());
    let mut over = false;
    loop {
        if batches.ending().contains(&batch.id) {
            return Ok(()); // what runs is dropped
        }
        let late = now() >= batch.expires();
        while !over && !late && tasks.len() < half && !users_wait(hall) {
            let line;
            (lines, line) = next_line(lines).await?;
            let Some((number, text)) = line else {
                over = true;
                break;
            };
            if done.contains(&number) {
                continue;
            }
            let room = Arc::clone(&row_places);
            let work = answer(Arc::clone(hall), batch.clone(), caller.clone(), room, number, text);
            places.insert(tasks.spawn(work).id(), number);
        }
        if late && tasks.is_empty() {
            return expire(batches, batch, lines).await;
        }
        if over && tasks.is_empty() {
            let store = Arc::clone(batches);
            return aside(false, move || {
                store.advance(&batch.id, Status::InProgress, Status::Finalizing)?;
                Ok(())
            })
            .await;
        }
        tokio::select! {
            Some(first) = tasks.join_next_with_id() => {
                let mut answers = Vec::new();
                let mut joined = Some(first);
                while let Some(result) = joined {
                    answers.push(result.map_or_else(
                        |error| fault(&places, error.id()),
                        |(_, answered)| answered,
                    ));
                    joined = tasks.try_join_next_with_id();
                }
                let (store, id) = (Arc::clone(batches), batch.id.clone());
                aside(false, move || Ok(store.keep(&id, &answers)?)).await?;
            }
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Who a batch belongs to; nothing if their key is gone.
fn owner(hall: &Hall, batch: &Batch) -> Option<Caller> {
    match &batch.owner {
        None => Some(Caller::default()),
        Some(name) => hall.settings.keys.named(name).map(|key| Caller(Some(key))),
    }
}

async fn next_line(mut lines: Lines) -> Result<(Lines, Option<Line>), Refusal> {
    aside(false, move || {
        let line = lines.next().map_err(FilesError::io("a batch's file".as_ref()))?;
        Ok((lines, line))
    })
    .await
}

/// Answers to rows that run at most: half of all.
fn half(hall: &Hall) -> usize {
    hall.ready().map_or(2, |ready| ready.served.limits.parallel).div_ceil(2)
}

/// Whether anybody waits: no row begins then.
fn users_wait(hall: &Hall) -> bool {
    let Ok(roster) = hall.roster() else { return true };
    let figures = roster.figures();
    figures.live.load(Relaxed) > figures.running.load(Relaxed)
}

/// Writes the rest of the rows off.
async fn expire(batches: &Arc<Batches>, batch: Batch, mut lines: Lines) -> Result<(), Refusal> {
    let store = Arc::clone(batches);
    aside(false, move || {
        let done = store.answered(&batch.id)?;
        let mut late = Vec::new();
        let path = "a batch's file".as_ref();
        while let Some((line, text)) = lines.next().map_err(FilesError::io(path))? {
            if !done.contains(&line) {
                let name = text.ok().and_then(|text| Request::read(&text, &batch.endpoint).ok());
                let name = name.map(|request| request.custom_id);
                let error =
                    json!({ "code": "batch_expired", "message": "it was not answered in time" });
                late.push(Answered { line, good: false, answer: told(name, Value::Null, error) });
            }
        }
        Ok(store.finish(&batch, Status::InProgress, Status::Expired, &late)?)
    })
    .await
}

/// Answers one row; one that finds no room is asked again, unless its model has had no memory for long.
async fn answer(
    hall: Arc<Hall>,
    batch: Batch,
    caller: Caller,
    places: Arc<Places>,
    line: u64,
    text: Result<Vec<u8>, String>,
) -> Answered {
    let read = text.and_then(|text| Request::read(&text, &batch.endpoint));
    let (request, (shape, read)) = match (read, endpoint(&batch.endpoint)) {
        (Ok(request), Some(endpoint)) => (request, endpoint),
        // The file was checked: somebody has changed it.
        (Err(message), _) => return broken(line, message),
        (_, None) => return broken(line, format!("no path {:?}", batch.endpoint)),
    };
    let body = Value::Object(request.body).to_string();
    let answered = loop {
        let body = Body::from(body.clone());
        let lane = Lane::Batch(Arc::clone(&places));
        let answered = hall.answer(shape, read, caller.clone(), body, lane).await;
        let found = !matches!(answered, Err(Refusal { status: 503, .. }));
        let hopeless = places.is_hopeless(found, Instant::now());
        match answered {
            Err(Refusal { status: 429 | 503, retry_after, .. })
                if !hopeless && now() < batch.expires() =>
            {
                tokio::time::sleep(Duration::from_secs(retry_after.unwrap_or(1))).await;
            }
            Err(refusal) => break Err(refusal),
            Ok(response) => break collect(response).await,
        }
    };
    let (status, body) = match answered {
        Ok(body) => (200, body),
        Err(refusal) => (refusal.status, refusal.body(Dialect::OpenAi)),
    };
    let response = json!({
        "status_code": status, "request_id": format!("req_{:016x}", fresh()), "body": body,
    });
    let answer = told(Some(request.custom_id), response, Value::Null);
    Answered { line, good: status == 200, answer }
}

/// The answer as JSON; a stream is none.
async fn collect(response: axum::response::Response) -> Result<Value, Refusal> {
    let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok());
    if kind != Some("application/json") {
        return Err(Refusal::field("stream", "a row of a batch has no stream"));
    }
    let bytes = axum::body::to_bytes(response.into_body(), ANSWER).await;
    let bytes = bytes.map_err(|_| Refusal::fault())?;
    serde_json::from_slice(&bytes).map_err(|_| Refusal::fault())
}

fn told(custom_id: Option<String>, response: Value, error: Value) -> String {
    let id = format!("batch_req_{:016x}", fresh());
    json!({ "id": id, "custom_id": custom_id, "response": response, "error": error }).to_string()
}

fn broken(line: u64, message: String) -> Answered {
    let error = json!({ "code": "invalid_request", "message": message });
    Answered { line, good: false, answer: told(None, Value::Null, error) }
}

/// A row that panicked.
fn fault(places: &HashMap<tokio::task::Id, u64>, id: tokio::task::Id) -> Answered {
    let line = places.get(&id).copied().unwrap_or_default();
    broken(line, Refusal::fault().message)
}
