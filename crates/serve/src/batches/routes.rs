//! `/v1/batches`: giving a batch, looking at it, ending it.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::Response;
use axum::routing::{get, post};
use serde_json::Value;

use super::{Batch, Batches, SHAPE, endpoint};
use crate::files::Page;
use crate::hall::{Hall, Shared, aside, reply_json};
use crate::keys::Caller;
use crate::refusal::Refusal;

/// The routes.
pub fn router() -> Router<Arc<Hall>> {
    Router::new()
        .route(SHAPE.path, post(create).get(list))
        .route("/v1/batches/{id}", get(one))
        .route("/v1/batches/{id}/cancel", post(cancel))
}

impl Hall {
    fn batches(&self) -> Result<Arc<Batches>, Refusal> {
        self.files()?; // says how to have them
        self.batches.clone().ok_or_else(Refusal::fault)
    }

    /// A batch that a caller owns.
    async fn batch(&self, id: String, caller: &Caller) -> Result<Batch, Refusal> {
        let (batches, caller) = (self.batches()?, caller.clone());
        aside(false, move || {
            let gone = || Refusal::new(404, format!("there is no batch {id:?}"));
            batches.find(&id, caller.name())?.ok_or_else(gone)
        })
        .await
    }
}

async fn create(State(hall): Shared, caller: Caller, body: Body) -> Response {
    reply_json(begin(&hall, caller, body).await, SHAPE.path)
}

async fn begin(hall: &Hall, caller: Caller, body: Body) -> Result<Value, Refusal> {
    let batches = hall.batches()?;
    caller.begin()?;
    let given = SHAPE.read(&hall.body(body).await?)?;
    let path = given.text("endpoint").unwrap_or_default().to_owned();
    if endpoint(&path).is_none() {
        let message = format!(
            "endpoint is {path:?}, taken are /v1/chat/completions, /v1/completions, \
             /v1/embeddings, /v1/responses"
        );
        return Err(Refusal::field("endpoint", message));
    }
    let file = given.text("input_file_id").unwrap_or_default();
    let under = |refusal: Refusal| match refusal.status {
        404 => Refusal::field("input_file_id", refusal.message),
        _ => refusal,
    };
    let file = hall.file(file, &caller).await.map_err(under)?;
    if file.purpose != "batch" {
        let message = format!("file {:?} was given for {:?}, not for batch", file.id, file.purpose);
        return Err(Refusal::field("input_file_id", message));
    }
    let metadata = given.object("metadata").cloned();
    aside(false, move || {
        let made = batches.create(caller.name(), &path, &file.id, metadata.as_ref())?;
        let gone =
            || Refusal::field("input_file_id", format!("file {:?} was dropped meanwhile", file.id));
        made.map(|batch| batch.json()).ok_or_else(gone)
    })
    .await
}

async fn list(State(hall): Shared, caller: Caller, uri: Uri) -> Response {
    let listed = async {
        let batches = hall.batches()?;
        let page = Page::read(&uri, &[])?;
        let all = aside(false, move || Ok(batches.list(caller.name())?)).await?;
        Ok(page.json(all.iter().map(Batch::json).collect()))
    };
    reply_json(listed.await, SHAPE.path)
}

async fn one(State(hall): Shared, caller: Caller, Path(id): Path<String>) -> Response {
    reply_json(hall.batch(id, &caller).await.map(|batch| batch.json()), SHAPE.path)
}

async fn cancel(State(hall): Shared, caller: Caller, Path(id): Path<String>) -> Response {
    let cancelled = async {
        let batch = hall.batch(id.clone(), &caller).await?;
        let (batches, name) = (hall.batches()?, id.clone());
        if !aside(false, move || Ok(batches.cancel(&name)?)).await? {
            let status = batch.status.name();
            return Err(Refusal::new(409, format!("batch {id:?} cannot end: it is {status}")));
        }
        hall.batch(id, &caller).await.map(|batch| batch.json())
    };
    reply_json(cancelled.await, SHAPE.path)
}
