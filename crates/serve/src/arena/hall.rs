//! The paths of the arena's page, behind a door of their own.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::ballots::{ArenaError, Ballots};
use super::draw::Rules;
use super::poll::Voted;
use crate::bodies::Bodies;
use crate::door::{self, DoorError, Settings};
use crate::hall::{json_response, reply};
use crate::page::{File, send_file};
use crate::refusal::Refusal;

const FILES: &[File] = &[
    File::new("/", "text/html; charset=utf-8", include_bytes!("static/index.html")),
    File::new("/arena.js", "text/javascript; charset=utf-8", include_bytes!("static/arena.js")),
    File::new("/arena.css", "text/css; charset=utf-8", include_bytes!("static/arena.css")),
];

/// A page for judges.
pub struct Arena {
    listener: std::net::TcpListener,
    address: std::net::SocketAddr,
    room: Arc<Room>,
}

/// What handlers share.
struct Room {
    ballots: Arc<Ballots>,
    rules: Rules,
    settings: Arc<Settings>,
    bodies: Bodies,
}

impl Arena {
    /// Takes the address. Nothing is answered before [`Arena::serve`].
    ///
    /// # Errors
    /// The address is taken.
    pub fn open(
        settings: Settings,
        ballots: Arc<Ballots>,
        rules: Rules,
    ) -> Result<Arena, DoorError> {
        let (listener, address) = door::listen(settings.address)?;
        let bodies = Bodies::new(settings.body_bytes);
        let room = Arc::new(Room { ballots, rules, settings: Arc::new(settings), bodies });
        Ok(Arena { listener, address, room })
    }

    /// Where it listens.
    pub fn address(&self) -> std::net::SocketAddr {
        self.address
    }

    /// Serves until a signal to end comes (Ctrl-C or SIGTERM).
    ///
    /// # Errors
    /// The system gives no more of something.
    pub fn serve(self) -> Result<(), DoorError> {
        let settings = Arc::clone(&self.room.settings);
        let router = Router::new()
            .route("/arena/next", post(next))
            .route("/arena/vote", post(vote))
            .fallback(get(file))
            .layer(middleware::from_fn_with_state(Arc::clone(&self.room), guard))
            .with_state(self.room);
        door::run(door::receive(self.listener, router, settings, JoinSet::new))
    }
}

/// Lets in who may come in.
async fn guard(State(room): State<Arc<Room>>, request: Request, next: Next) -> Response {
    let admitted = room.settings.admits(request.method(), request.uri().path(), request.headers());
    match admitted {
        Ok(_) => next.run(request).await,
        Err(refusal) => reply(Err(refusal), "/arena"),
    }
}

async fn file(uri: Uri, headers: HeaderMap) -> Response {
    let none = || Refusal::new(404, format!("there is no path {:?}", uri.path()));
    let own = send_file(FILES, uri.path(), &headers);
    // Its own index stands before the chat's; colours, Markdown and the like are shared.
    let found = own.or_else(|| crate::page::send(uri.path(), &headers));
    reply(found.ok_or_else(none), "/arena")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Who {
    judge: String,
}

async fn next(State(room): State<Arc<Room>>, given: Body) -> Response {
    let told = async {
        let Who { judge } = body(&room, given).await?;
        let rules = room.rules;
        aside(&room, move |ballots| ballots.next(&judge, &rules)).await
    };
    said(told.await)
}

async fn vote(State(room): State<Arc<Room>>, given: Body) -> Response {
    let told = async {
        let vote: Voted = body(&room, given).await?;
        aside(&room, move |ballots| ballots.vote(&vote)).await?;
        Ok(json!({ "kept": true }))
    };
    said(told.await)
}

fn said(result: Result<Value, Refusal>) -> Response {
    reply(result.map(|value| json_response(StatusCode::OK, &value)), "/arena")
}

async fn body<T: DeserializeOwned>(room: &Room, body: Body) -> Result<T, Refusal> {
    let body_time = room.settings.body_time;
    let late = |_| Refusal::new(408, format!("the body took more than {body_time:?}"));
    let bytes = tokio::time::timeout(body_time, room.bodies.read(body)).await.map_err(late)??;
    serde_json::from_slice(&bytes).map_err(|e| Refusal::new(400, format!("the body: {e}")))
}

/// Does work on the file on a thread of its own.
async fn aside<T: Send + 'static>(
    room: &Room,
    work: impl FnOnce(&Ballots) -> Result<T, ArenaError> + Send + 'static,
) -> Result<T, Refusal> {
    let ballots = Arc::clone(&room.ballots);
    let done = tokio::task::spawn_blocking(move || work(&ballots)).await;
    done.map_err(|_| Refusal::fault())?.map_err(Refusal::from)
}
