//! `/mcp`: the server's tools for other programs, by the Model Context Protocol over HTTP.
//!
//! A session begins with `initialize` and has tools of its own; a message without one gets tools that forget.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::post;
use serde_json::{Value, json};

use crate::agent::benches::{Benches, Whose};
use crate::agent::mcp::answer;
use crate::ask::fresh;
use crate::hall::{Hall, Shared, aside, json_response, reply};
use crate::keys::Caller;
use crate::page::{owner, refused};
use crate::refusal::Refusal;

const PATH: &str = "/mcp";
const SESSION: &str = "mcp-session-id";

/// The path of the protocol.
pub fn router() -> Router<Arc<Hall>> {
    Router::new().route(PATH, post(ask).delete(leave))
}

fn benches(hall: &Hall) -> Result<Arc<Benches>, Refusal> {
    let none = || Refusal::new(404, "this server has no tools: start it with --tools");
    hall.settings.tools.clone().ok_or_else(none)
}

/// The session that a request is of.
fn session(hall: &Hall, headers: &HeaderMap) -> Option<Whose> {
    let id = headers.get(SESSION)?.to_str().ok()?.to_owned();
    Some(Whose::Session { owner: owner(hall, headers), id })
}

async fn ask(State(hall): Shared, caller: Caller, headers: HeaderMap, body: Body) -> Response {
    reply(answered(&hall, &caller, &headers, body).await, PATH)
}

async fn answered(
    hall: &Hall,
    caller: &Caller,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let benches = benches(hall)?;
    caller.begin()?;
    let bytes = hall.body(body).await?;
    let message = match serde_json::from_slice::<Value>(&bytes) {
        Ok(message) if message.is_object() => message,
        Ok(_) => return Ok(wrong(-32600, "no request of JSON-RPC 2.0")),
        Err(error) => return Ok(wrong(-32700, &format!("no JSON: {error}"))),
    };
    let begun = (message["method"] == "initialize").then(|| {
        let id = format!("{:016x}{:016x}", fresh(), fresh());
        Whose::Session { owner: owner(hall, headers), id }
    });
    let whose = begun.clone().or_else(|| session(hall, headers));
    let new = begun.is_some();
    let permit = Arc::clone(&benches.calls).acquire_owned().await;
    let said = aside(false, move || {
        let _permit = permit;
        let tools = match &whose {
            Some(whose) if new => benches.of(whose, &[]).map_err(refused)?,
            Some(whose) => benches.known(whose).ok_or_else(no_session)?,
            None if message["method"] == "tools/call" => {
                Arc::new(benches.fresh().map_err(refused)?)
            }
            None => return Ok(answer(benches.sample(), &message)),
        };
        Ok(answer(&tools, &message))
    });
    let Some(said) = said.await? else {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::ACCEPTED;
        return Ok(response);
    };
    let mut response = json_response(StatusCode::OK, &said);
    if let Some(Whose::Session { id, .. }) = begun
        && let Ok(value) = HeaderValue::from_str(&id)
    {
        response.headers_mut().insert(SESSION, value);
    }
    Ok(response)
}

fn no_session() -> Refusal {
    Refusal::new(404, "there is no such session, or its tools were let go: initialize again")
}

fn wrong(code: i64, what: &str) -> Response {
    let error = json!({ "code": code, "message": what });
    let said = json!({ "jsonrpc": "2.0", "id": null, "error": error });
    json_response(StatusCode::BAD_REQUEST, &said)
}

async fn leave(State(hall): Shared, headers: HeaderMap) -> Response {
    let left = benches(&hall).and_then(|benches| {
        let whose = session(&hall, &headers).ok_or_else(no_session)?;
        benches.forget(&whose).then_some(()).ok_or_else(no_session)
    });
    reply(left.map(|()| json_response(StatusCode::OK, &json!({}))), PATH)
}
