//! Routes: which path is answered by what, and what holds for all of them.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::about;
use crate::answer::Reader;
use crate::ask::fresh;
use crate::batches::{self, Batches, Places};
use crate::bodies::Bodies;
use crate::course::Course;
use crate::door::Settings;
use crate::fields::{Given, Shape};
use crate::files::{self, Files};
use crate::forms;
use crate::host::{Full, Told};
use crate::keys::{Caller, Pass};
use crate::mcp;
use crate::page::{self, Page};
use crate::refusal::{Dialect, Refusal};
use crate::roster::{Ready, Roster, Visit, stay};
use crate::served::Served;
use crate::wire::{Exchange, Head, chat, completions, messages, models, tokens};
use crate::wire::{embeddings, ollama, ollama_models, responses};

/// What handlers share.
pub struct Hall {
    /// The models, once the first is loaded.
    pub roster: OnceLock<Arc<Roster>>,
    /// Files that were given, and batches of requests, where they are kept.
    pub files: Option<Arc<Files>>,
    /// Batches of requests in those files.
    pub batches: Option<Arc<Batches>>,
    /// How the door was opened.
    pub settings: Settings,
    /// Conversations in the browser.
    pub page: Page,
    /// The bodies that are read.
    pub bodies: Bodies,
}

/// A reader of one shape.
pub type Read = fn(Given, &Served, Head) -> Result<Exchange, Refusal>;

/// A shape that is answered without computing.
type Plain = fn(Given, &Served) -> Result<Value, Refusal>;

/// How a request is let in.
#[derive(Clone, Debug)]
pub enum Lane {
    /// By the limits of its key.
    User,
    /// As a row of a batch, which has no limit of its own, comes after all users, and takes its places of those that rows have.
    Batch(Arc<Places>),
}

/// Bodies that take longer to read than a step may take are read on a thread of their own.
const SMALL_BODY: usize = 16 << 10;

impl Hall {
    /// The router of all paths.
    pub fn router(self: Arc<Hall>) -> Router {
        Router::new()
            .route("/health", get(health))
            .route("/metrics", get(metrics))
            .route("/docs", get(docs))
            .route("/v1/capabilities", get(capabilities))
            .route(messages::SHAPE.path, answering(&messages::SHAPE, messages::read))
            .route(messages::COUNT.path, telling(&messages::COUNT, messages::count))
            .route("/tokenize", telling(&tokens::TOKENIZE, tokens::tokenize))
            .route("/detokenize", telling(&tokens::DETOKENIZE, tokens::detokenize))
            .route("/tokenizer_info", get(tokenizer_info))
            .route("/apply-template", telling(&tokens::TEMPLATE, tokens::apply_template))
            .route(ollama::CHAT.path, answering(&ollama::CHAT, ollama::read_chat))
            .route(ollama::GENERATE.path, answering(&ollama::GENERATE, ollama::read_generate))
            .route(ollama_models::SHOW.path, telling(&ollama_models::SHOW, ollama_models::show))
            .route(responses::SHAPE.path, answering(&responses::SHAPE, responses::read))
            .route("/v1/responses/{id}", get(kept_response).delete(drop_response))
            .route(embeddings::SHAPE.path, answering(&embeddings::SHAPE, embeddings::read))
            .route(embeddings::OLLAMA.path, answering(&embeddings::OLLAMA, embeddings::read_ollama))
            .route(embeddings::OLDER.path, answering(&embeddings::OLDER, embeddings::read_older))
            .route("/api/tags", get(ollama_tags))
            .route("/api/ps", get(ollama_running))
            .route("/api/version", get(ollama_version))
            .route("/v1/models", get(list_models))
            .route("/v1/models/{*name}", get(one_model))
            .route(models::LOAD.path, post(load_model))
            .route(models::UNLOAD.path, post(unload_model))
            .route(chat::SHAPE.path, answering(&chat::SHAPE, chat::read))
            .route(completions::SHAPE.path, answering(&completions::SHAPE, completions::read))
            .merge(files::router(&self.settings))
            .merge(batches::router())
            .merge(page::router())
            .merge(mcp::router())
            .fallback(no_such_path)
            .method_not_allowed_fallback(no_such_method)
            .layer(middleware::from_fn_with_state(Arc::clone(&self), guard))
            .with_state(self)
    }

    /// The models.
    pub fn roster(&self) -> Result<&Arc<Roster>, Refusal> {
        let loading = || Refusal {
            retry_after: Some(1),
            code: Some("model_loading"),
            ..Refusal::new(503, "the model is being loaded")
        };
        self.roster.get().ok_or_else(loading)
    }

    /// The first model. Errors: it is not loaded.
    pub fn ready(&self) -> Result<Arc<Ready>, Refusal> {
        self.roster()?.first()
    }

    /// The first model, loaded if it was let go.
    async fn first(&self) -> Result<Visit, Refusal> {
        let roster = self.roster()?;
        roster.enter(&roster.name(None)?).await
    }

    /// Reads a body, lets it compute, and writes the answer.
    pub async fn answer(
        &self,
        shape: &'static Shape,
        read: Read,
        caller: Caller,
        body: Body,
        lane: Lane,
    ) -> Result<Response, Refusal> {
        if matches!(lane, Lane::User) {
            caller.begin()?;
        }
        let body = self.body(body).await?;
        let small = body.len() <= SMALL_BODY;
        let mut given = aside(small, move || shape.read(&body)).await?;
        let only_loads = ollama::only_loads(shape, &given);
        if only_loads && given.value("keep_alive").is_some() {
            self.check_admin(&caller)?;
        }
        let (visit, left) = self.enter(&mut given, &caller).await?;
        if only_loads {
            let said = ollama::loaded(shape, &visit.served.name, left, now());
            return Ok(json_response(StatusCode::OK, &said));
        }
        let served = visit.served_for(caller.name());
        let head = Head { id: format!("{}{:016x}", shape.prefix, fresh()), created: now() };
        let quick = small && !forms::named(&given);
        let known = Arc::clone(&served);
        let mut exchange = aside(quick, move || read(given, &known, head)).await?;
        exchange.ask.requests.iter_mut().for_each(|request| match &lane {
            Lane::User => caller.sign(request),
            Lane::Batch(_) => caller.sign_row(request),
        });
        let answers = exchange.ask.requests.len() * exchange.ask.n;
        // A row's answer is whole, so its places are held until it is written.
        let (pass, _held) = match &lane {
            Lane::User => (caller.run(answers)?, None),
            Lane::Batch(places) => (Pass::unlimited(caller), Some(places.take(answers).await)),
        };
        compute(exchange, visit, served, pass).await
    }

    /// The model that a request names, loaded; and whether it is to go at once after it. How long it stays is what
    /// administrators say: from others that is passed over with a warning.
    pub async fn enter(
        &self,
        given: &mut Given,
        caller: &Caller,
    ) -> Result<(Visit, bool), Refusal> {
        let roster = self.roster()?;
        let named = given.text("model").map(str::to_owned);
        let name = roster.name(named.as_deref())?;
        caller.check_model(&name)?;
        let mut keep = given.take("keep_alive").map(|keep| stay(&keep)).transpose()?;
        if keep.is_some()
            && let Err(refusal) = self.check_admin(caller)
        {
            keep = None;
            given.warnings.push(format!("keep_alive changes nothing: {}", refusal.message));
        }
        let visit = roster.enter(&name).await?;
        if let Some(keep) = keep {
            roster.keep(&name, keep);
        }
        if named.is_some() {
            given.put("model", name.into()); // without `:latest`
        }
        Ok((visit, keep.flatten().is_some_and(|keep| keep.is_zero())))
    }

    /// Answers a request that no model must compute for.
    async fn plain(
        &self,
        shape: &'static Shape,
        answer: Plain,
        caller: Caller,
        body: Body,
    ) -> Result<Response, Refusal> {
        caller.begin()?;
        let body = self.body(body).await?;
        let small = body.len() <= SMALL_BODY;
        let mut given = aside(small, move || shape.read(&body)).await?;
        let (visit, _) = self.enter(&mut given, &caller).await?;
        let work = move || answer(given, &visit.served);
        Ok(json_response(StatusCode::OK, &aside(small, work).await?))
    }

    /// A body within its limits of size and time.
    pub async fn body(&self, body: Body) -> Result<Bytes, Refusal> {
        let body_time = self.settings.body_time;
        match tokio::time::timeout(body_time, self.bodies.read(body)).await {
            Ok(read) => read,
            Err(_) => Err(Refusal::new(408, format!("the body took more than {body_time:?}"))),
        }
    }

    /// Errors: somebody who may not load and unload models.
    fn check_admin(&self, caller: &Caller) -> Result<(), Refusal> {
        let open = self.settings.keys.is_empty() && !self.settings.address.ip().is_loopback();
        if open {
            let message = "without keys models are loaded and unloaded from this machine alone";
            return Err(Refusal::new(403, message));
        }
        caller.check_admin()
    }
}

/// A path that is answered by a model.
fn answering(shape: &'static Shape, read: Read) -> MethodRouter<Arc<Hall>> {
    post(move |State(hall): Shared, caller: Caller, body: Body| async move {
        reply(hall.answer(shape, read, caller, body, Lane::User).await, shape.path)
    })
}

/// A path that tells of a model.
fn telling(shape: &'static Shape, answer: Plain) -> MethodRouter<Arc<Hall>> {
    post(move |State(hall): Shared, caller: Caller, body: Body| async move {
        reply(hall.plain(shape, answer, caller, body).await, shape.path)
    })
}

async fn compute(
    exchange: Exchange,
    visit: Visit,
    served: Arc<Served>,
    pass: Pass,
) -> Result<Response, Refusal> {
    let Exchange { ask, wire, stream } = exchange;
    let prompt: usize = ask.requests.iter().map(|request| request.prompt.len()).sum();
    let requests = ask.requests.iter().map(|request| (request.clone(), ask.n)).collect();
    let mut reception = visit.host.submit(requests).map_err(full)?;
    match reception.next().await {
        Some(Told::Taken) => pass.read(prompt),
        Some(Told::Refused(_, error)) => return Err(Refusal::of_request(&error, ask.field)),
        Some(Told::Event(..) | Told::Fault(_)) | None => return Err(Refusal::fault()),
    }
    let answers = ask.requests.len() * ask.n;
    let readers = (0..answers).map(|answer| Reader::new(&ask, answer / ask.n)).collect();
    let course = Course { reception, readers, wire, served, _visit: visit, pass };
    match stream {
        true => Ok(course.stream()),
        false => Ok(json_response(StatusCode::OK, &course.whole().await?)),
    }
}

/// Does small work at once, and other work on a thread of its own.
pub async fn aside<T: Send + 'static>(
    small: bool,
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    match small {
        true => work(),
        false => tokio::task::spawn_blocking(work).await.map_err(|_| Refusal::fault())?,
    }
}

/// No room in the queue.
pub fn full(Full { retry_after, live }: Full) -> Refusal {
    Refusal {
        retry_after: Some(retry_after),
        code: Some("queue_full"),
        ..Refusal::new(429, format!("{live} answers are in hand, and no more may wait"))
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// A response of JSON.
pub fn json_response(status: StatusCode, value: &Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn refusal_response(refusal: &Refusal, path: &str) -> Response {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(status, &refusal.body(Dialect::of(path)));
    if let Some(seconds) = refusal.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The name of a request: the caller's, if it is a plain one, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get("x-request-id").and_then(|value| value.to_str().ok());
    let plain =
        |id: &&str| (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    given.filter(plain).map_or_else(|| format!("req_{:016x}", fresh()), str::to_owned)
}

/// What holds for every path: who may come in, names of requests, and the log.
async fn guard(State(hall): State<Arc<Hall>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let origin = request.headers().get(header::ORIGIN).cloned();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let id = request_id(request.headers());
    let mut caller = Caller::default();
    let mut response = match hall.settings.admits(&method, &path, request.headers()) {
        Ok(_) if method == Method::OPTIONS => empty(StatusCode::NO_CONTENT),
        Ok(known) => {
            caller = known;
            request.extensions_mut().insert(caller.clone());
            next.run(request).await
        }
        Err(refusal) => refusal_response(&refusal, &path),
    };
    hall.settings.tell_browser(origin.as_ref(), &mut response);
    if let Some(key) = &caller.0 {
        key.tell(response.headers_mut());
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", value);
    }
    let mut line = json!({
        "time": now(),
        "request": id,
        "method": method.as_str(),
        "path": path,
        "status": response.status().as_u16(),
        "ms": started.elapsed().as_millis() as u64,
    });
    if let Some(name) = caller.name() {
        line["key"] = name.into();
    }
    hall.settings.log(&line);
    response
}

fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// What handlers share, as they take it.
pub type Shared = State<Arc<Hall>>;

/// The answer, or why there is none, in the dialect of the path.
pub fn reply(result: Result<Response, Refusal>, path: &str) -> Response {
    result.unwrap_or_else(|refusal| refusal_response(&refusal, path))
}

/// The same for JSON.
pub fn reply_json(result: Result<Value, Refusal>, path: &str) -> Response {
    reply(result.map(|value| json_response(StatusCode::OK, &value)), path)
}

async fn health(State(hall): Shared) -> Response {
    let Ok(roster) = hall.roster() else {
        return json_response(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "loading" }));
    };
    let figures = roster.figures();
    let (live, running) = (figures.live.load(Relaxed), figures.running.load(Relaxed));
    let said =
        json!({ "status": "ok", "running": running, "waiting": live.saturating_sub(running) });
    json_response(StatusCode::OK, &said)
}

async fn list_models(State(hall): Shared, caller: Caller) -> Response {
    let list = hall.roster().map(|roster| {
        let seen = roster.seen().into_iter().filter(|seen| caller.may_use(&seen.card.name));
        models::list(seen)
    });
    reply_json(list, models::PATH)
}

async fn one_model(State(hall): Shared, caller: Caller, Path(name): Path<String>) -> Response {
    let one = || {
        let roster = hall.roster()?;
        let name = roster.name(Some(&name))?;
        caller.check_model(&name)?;
        let seen = roster.seen().into_iter().find(|seen| seen.card.name == name);
        seen.map(|seen| models::one(&seen)).ok_or_else(Refusal::fault)
    };
    reply_json(one(), models::PATH)
}

async fn load_model(State(hall): Shared, caller: Caller, body: Body) -> Response {
    let load = async {
        hall.check_admin(&caller)?;
        let mut given = models::LOAD.read(&hall.body(body).await?)?;
        let (visit, _) = hall.enter(&mut given, &caller).await?;
        Ok(json!({ "model": visit.served.name, "loaded": true }))
    };
    reply_json(load.await, models::LOAD.path)
}

async fn unload_model(State(hall): Shared, caller: Caller, body: Body) -> Response {
    let unload = async {
        hall.check_admin(&caller)?;
        let given = models::UNLOAD.read(&hall.body(body).await?)?;
        let roster = hall.roster()?;
        let name = roster.name(given.text("model"))?;
        let was = roster.unload(&name)?;
        Ok(json!({ "model": name, "loaded": false, "was_loaded": was }))
    };
    reply_json(unload.await, models::UNLOAD.path)
}

async fn metrics(State(hall): Shared, caller: Caller) -> Response {
    let text = hall.roster().map(|roster| {
        let seen = roster.seen();
        about::metrics(&roster.figures())
            + &about::model_metrics(&seen, roster.bytes())
            + &about::key_metrics(&hall.settings.keys, &caller)
    });
    let response = text.map(|text| {
        let mut response = Response::new(Body::from(text));
        let kind = HeaderValue::from_static("text/plain; version=0.0.4");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    });
    reply(response, "/metrics")
}

async fn docs() -> Response {
    json_response(StatusCode::OK, &about::openapi())
}

/// What is asked of `/v1/capabilities` behind `?`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// The model, else the first.
    model: Option<String>,
    /// Whether the hash of its weights is wanted, for which all of them are read.
    #[serde(default)]
    weights: bool,
}

/// What the server can by a model; slow where the hash of its weights is asked for the first time.
async fn capable(hall: &Hall, caller: &Caller, wanted: Wanted) -> Result<Value, Refusal> {
    let roster = hall.roster()?;
    let name = roster.name(wanted.model.as_deref())?;
    if wanted.model.is_some() {
        caller.check_model(&name)?;
    }
    let visit = roster.enter(&name).await?;
    let mut said = about::capabilities(&visit.served);
    if wanted.weights {
        let hash = move || Ok(LazyLock::force(&visit.served.weights).clone());
        let hash = aside(false, hash).await?;
        said["weights"] = hash.map_err(|what| Refusal::new(500, what))?.into();
    }
    Ok(said)
}

async fn capabilities(
    State(hall): Shared,
    caller: Caller,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    let said = match wanted {
        Ok(Query(wanted)) => capable(&hall, &caller, wanted).await,
        Err(rejection) => Err(Refusal::new(400, rejection.body_text())),
    };
    let said = said.and_then(|mut said| {
        let roster = hall.roster()?;
        let seen = roster.seen().into_iter().filter(|seen| caller.may_use(&seen.card.name));
        said["models"] = seen.map(|seen| seen.card.name).collect();
        said["files"] = hall.files.is_some().into();
        said["batches"] = hall.batches.is_some().into();
        Ok(said)
    });
    reply_json(said, "/v1/capabilities")
}

async fn ollama_tags(State(hall): Shared, caller: Caller) -> Response {
    let said = hall.roster().map(|roster| {
        let seen = roster.seen().into_iter().filter(|seen| caller.may_use(&seen.card.name));
        ollama_models::tags(seen)
    });
    reply_json(said, "/api/tags")
}

async fn ollama_running(State(hall): Shared, caller: Caller) -> Response {
    let said = hall.roster().map(|roster| {
        let seen = roster.seen().into_iter().filter(|seen| caller.may_use(&seen.card.name));
        ollama_models::running(seen, now())
    });
    reply_json(said, "/api/ps")
}

async fn tokenizer_info(State(hall): Shared) -> Response {
    reply_json(hall.first().await.map(|first| tokens::info(&first.served)), "/tokenizer_info")
}

async fn ollama_version() -> Response {
    json_response(StatusCode::OK, &ollama_models::version())
}

async fn kept_response(State(hall): Shared, caller: Caller, Path(id): Path<String>) -> Response {
    let said = hall.roster().and_then(|roster| responses::kept(&id, &caller.kept(roster.kept())));
    reply_json(said, responses::SHAPE.path)
}

async fn drop_response(State(hall): Shared, caller: Caller, Path(id): Path<String>) -> Response {
    let said =
        hall.roster().and_then(|roster| responses::drop_kept(&id, &caller.kept(roster.kept())));
    reply_json(said, responses::SHAPE.path)
}

async fn no_such_path(uri: Uri) -> Response {
    let path = uri.path();
    refusal_response(&Refusal::new(404, format!("there is no path {path:?}")), path)
}

async fn no_such_method(method: Method, uri: Uri, _: HeaderMap) -> Response {
    let message = format!("{} does not take {method}", uri.path());
    refusal_response(&Refusal::new(405, message), uri.path())
}
