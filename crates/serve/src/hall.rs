//! Routes: which path is answered by what, and what holds for all of them.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use hyper::body::Frame;
use serde_json::{Value, json};

use crate::about;
use crate::answer::{Choice, Part, Reader};
use crate::ask::fresh;
use crate::door::Settings;
use crate::fields::{Given, Shape};
use crate::forms;
use crate::host::{Full, Host, Reception, Told};
use crate::refusal::{Dialect, Refusal};
use crate::served::Served;
use crate::wire::{Exchange, Head, Wire, chat, completions, messages, models, tokens};
use crate::wire::{embeddings, ollama, ollama_models, responses};

/// What handlers share.
pub struct Hall {
    /// The model, once it is loaded.
    pub ready: OnceLock<Ready>,
    /// How the door was opened.
    pub settings: Settings,
}

/// A model that answers.
pub struct Ready {
    /// What is known of it.
    pub served: Arc<Served>,
    /// The thread that computes.
    pub host: Host,
}

/// A reader of one shape.
type Read = fn(Given, &Served, Head) -> Result<Exchange, Refusal>;

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
            .route(messages::SHAPE.path, post(create_message))
            .route(messages::COUNT.path, post(count_tokens))
            .route("/tokenize", post(tokenize))
            .route("/detokenize", post(detokenize))
            .route("/apply-template", post(apply_template))
            .route(ollama::CHAT.path, post(ollama_chat))
            .route(ollama::GENERATE.path, post(ollama_generate))
            .route(ollama_models::SHOW.path, post(ollama_show))
            .route(responses::SHAPE.path, post(create_response))
            .route("/v1/responses/{id}", get(kept_response).delete(drop_response))
            .route(embeddings::SHAPE.path, post(embed))
            .route(embeddings::OLLAMA.path, post(ollama_embed))
            .route(embeddings::OLDER.path, post(ollama_embeddings))
            .route("/api/tags", get(ollama_tags))
            .route("/api/ps", get(ollama_running))
            .route("/api/version", get(ollama_version))
            .route("/v1/models", get(list_models))
            .route("/v1/models/{*name}", get(one_model))
            .route("/v1/chat/completions", post(chat_completions))
            .route("/v1/completions", post(text_completions))
            .fallback(no_such_path)
            .method_not_allowed_fallback(no_such_method)
            .layer(middleware::from_fn_with_state(Arc::clone(&self), guard))
            .with_state(self)
    }

    fn ready(&self) -> Result<&Ready, Refusal> {
        let loading = || Refusal {
            retry_after: Some(1),
            code: Some("model_loading"),
            ..Refusal::new(503, "the model is being loaded")
        };
        self.ready.get().ok_or_else(loading)
    }

    /// Reads a body, lets it compute, and writes the answer.
    async fn answer(
        self: Arc<Hall>,
        shape: &'static Shape,
        read: Read,
        body: Body,
    ) -> Result<Response, Refusal> {
        let body = self.body(body).await?;
        let served = Arc::clone(&self.ready()?.served);
        let head = Head { id: format!("{}{:016x}", shape.prefix, fresh()), created: now() };
        let small = body.len() <= SMALL_BODY;
        let given = aside(small, move || shape.read(&body)).await?;
        let quick = small && !forms::named(&given);
        let exchange = aside(quick, move || read(given, &served, head)).await?;
        self.compute(exchange).await
    }

    /// Answers a request that no model is needed for.
    async fn plain(
        &self,
        shape: &'static Shape,
        answer: fn(Given, &Served) -> Result<Value, Refusal>,
        body: Body,
    ) -> Result<Response, Refusal> {
        let body = self.body(body).await?;
        let served = Arc::clone(&self.ready()?.served);
        let small = body.len() <= SMALL_BODY;
        let work = move || shape.read(&body).and_then(|given| answer(given, &served));
        Ok(json_response(StatusCode::OK, &aside(small, work).await?))
    }

    async fn compute(self: Arc<Hall>, exchange: Exchange) -> Result<Response, Refusal> {
        let Exchange { ask, wire, stream } = exchange;
        let ready = self.ready()?;
        let requests = ask.requests.iter().map(|request| (request.clone(), ask.n)).collect();
        let mut reception = ready.host.submit(requests).map_err(full)?;
        match reception.next().await {
            Some(Told::Taken) => {}
            Some(Told::Refused(_, error)) => return Err(Refusal::of_request(&error, ask.field)),
            Some(Told::Event(..) | Told::Fault(_)) | None => return Err(Refusal::fault()),
        }
        let answers = ask.requests.len() * ask.n;
        let readers = (0..answers).map(|answer| Reader::new(&ask, answer / ask.n)).collect();
        let served = Arc::clone(&ready.served);
        let course = Course { reception, readers, wire, served };
        match stream {
            true => Ok(course.stream()),
            false => course.whole().await,
        }
    }

    /// A body within its limits of size and time.
    async fn body(&self, body: Body) -> Result<Bytes, Refusal> {
        let Settings { body_bytes, body_time, .. } = self.settings;
        let read = tokio::time::timeout(body_time, axum::body::to_bytes(body, body_bytes)).await;
        match read {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => {
                let too_long = std::error::Error::source(&error)
                    .is_some_and(|cause| cause.to_string().contains("length limit"));
                Err(match too_long {
                    true => Refusal::new(413, format!("the body exceeds {body_bytes} bytes")),
                    false => Refusal::new(400, format!("the body cannot be read: {error}")),
                })
            }
            Err(_) => Err(Refusal::new(408, format!("the body took more than {body_time:?}"))),
        }
    }
}

/// Does small work at once, and other work on a thread of its own.
async fn aside<T: Send + 'static>(
    small: bool,
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    match small {
        true => work(),
        false => tokio::task::spawn_blocking(work).await.map_err(|_| Refusal::fault())?,
    }
}

/// An answer in the making.
struct Course {
    reception: Reception,
    readers: Vec<Reader>,
    wire: Box<dyn Wire>,
    served: Arc<Served>,
}

impl Course {
    /// Waits for all answers.
    async fn whole(mut self) -> Result<Response, Refusal> {
        let mut choices = vec![Choice::default(); self.readers.len()];
        while let Some(told) = self.reception.next().await {
            let (answer, parts) = self.parts(told)?;
            parts.into_iter().for_each(|part| choices[answer].take(part));
        }
        Ok(json_response(StatusCode::OK, &self.wire.whole(choices, &self.served)))
    }

    fn parts(&mut self, told: Told) -> Result<(usize, Vec<Part>), Refusal> {
        match told {
            Told::Event(answer, what) => {
                Ok((answer, self.readers[answer].take(what, &self.served)?))
            }
            Told::Fault(_) => Err(Refusal::fault()),
            Told::Taken | Told::Refused(..) => Ok((0, Vec::new())),
        }
    }

    /// A body that gives parts as they come. All that is there at once goes out at once.
    fn stream(mut self) -> Response {
        let kind = self.wire.stream_type();
        let mut first = String::new();
        self.wire.open(&mut first);
        let frames = Frames { course: Some(self), first };
        let mut response = Response::new(Body::new(frames));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // Proxies that collect an answer before they pass it on are asked not to.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }

    /// Adds what is told to `out`; whether the stream is over.
    fn write(&mut self, told: Option<Told>, out: &mut String) -> bool {
        let Some(told) = told else {
            self.wire.close(out);
            return true;
        };
        match self.parts(told) {
            Ok((answer, parts)) => {
                for part in parts {
                    self.wire.part(answer, part, &self.served, out);
                }
                false
            }
            Err(refusal) => {
                self.wire.broken(&refusal, out);
                true
            }
        }
    }
}

/// The stream of a body.
struct Frames {
    /// Absent once it is over.
    course: Option<Course>,
    first: String,
}

impl HttpBody for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut out = std::mem::take(&mut self.first);
        let Some(course) = &mut self.course else { return Poll::Ready(None) };
        let mut over = false;
        while !over {
            match course.reception.poll(context) {
                Poll::Ready(told) => over = course.write(told, &mut out),
                Poll::Pending if out.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        if over {
            self.course = None;
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(out)))))
    }
}

/// No room in the queue.
fn full(Full { retry_after, live }: Full) -> Refusal {
    Refusal {
        retry_after: Some(retry_after),
        code: Some("queue_full"),
        ..Refusal::new(429, format!("{live} answers are in hand, and no more may wait"))
    }
}

fn now() -> u64 {
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

/// What holds for every path: who may come in, names of requests, and the log.
async fn guard(State(hall): State<Arc<Hall>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let origin = request.headers().get(header::ORIGIN).cloned();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let id = format!("req_{:016x}", fresh());
    let mut response = match hall.settings.admits(&method, &path, request.headers()) {
        Ok(()) if method == Method::OPTIONS => empty(StatusCode::NO_CONTENT),
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal_response(&refusal, &path),
    };
    hall.settings.tell_browser(origin.as_ref(), &mut response);
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", value);
    }
    hall.settings.log(&json!({
        "time": now(),
        "request": id,
        "method": method.as_str(),
        "path": path,
        "status": response.status().as_u16(),
        "ms": started.elapsed().as_millis() as u64,
    }));
    response
}

fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

type Shared = State<Arc<Hall>>;

fn reply(result: Result<Response, Refusal>, path: &str) -> Response {
    result.unwrap_or_else(|refusal| refusal_response(&refusal, path))
}

async fn health(State(hall): Shared) -> Response {
    let Ok(ready) = hall.ready() else {
        return json_response(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "loading" }));
    };
    let figures = ready.host.figures();
    let (live, running) = (figures.live.load(Relaxed), figures.running.load(Relaxed));
    let said =
        json!({ "status": "ok", "running": running, "waiting": live.saturating_sub(running) });
    json_response(StatusCode::OK, &said)
}

async fn list_models(State(hall): Shared) -> Response {
    let list = hall.ready().map(|ready| models::list(&ready.served));
    reply(list.map(|list| json_response(StatusCode::OK, &list)), models::PATH)
}

async fn one_model(State(hall): Shared, Path(name): Path<String>) -> Response {
    let one = hall.ready().and_then(|ready| {
        ready.served.check_name(&name)?;
        Ok(json_response(StatusCode::OK, &models::one(&ready.served)))
    });
    reply(one, models::PATH)
}

async fn chat_completions(State(hall): Shared, body: Body) -> Response {
    reply(hall.answer(&chat::SHAPE, chat::read, body).await, chat::SHAPE.path)
}

async fn text_completions(State(hall): Shared, body: Body) -> Response {
    reply(hall.answer(&completions::SHAPE, completions::read, body).await, completions::SHAPE.path)
}

async fn metrics(State(hall): Shared) -> Response {
    let text = hall.ready().map(|ready| about::metrics(ready.host.figures()));
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

async fn capabilities(State(hall): Shared) -> Response {
    let said = hall.ready().map(|ready| about::capabilities(&ready.served));
    reply(said.map(|said| json_response(StatusCode::OK, &said)), "/v1/capabilities")
}

async fn create_message(State(hall): Shared, body: Body) -> Response {
    reply(hall.answer(&messages::SHAPE, messages::read, body).await, messages::SHAPE.path)
}

async fn count_tokens(State(hall): Shared, body: Body) -> Response {
    let shape = &messages::COUNT;
    reply(hall.plain(shape, messages::count, body).await, shape.path)
}

async fn tokenize(State(hall): Shared, body: Body) -> Response {
    reply(hall.plain(&tokens::TOKENIZE, tokens::tokenize, body).await, tokens::TOKENIZE.path)
}

async fn detokenize(State(hall): Shared, body: Body) -> Response {
    let shape = &tokens::DETOKENIZE;
    reply(hall.plain(shape, tokens::detokenize, body).await, shape.path)
}

async fn apply_template(State(hall): Shared, body: Body) -> Response {
    let shape = &tokens::TEMPLATE;
    reply(hall.plain(shape, tokens::apply_template, body).await, shape.path)
}

async fn ollama_chat(State(hall): Shared, body: Body) -> Response {
    reply(hall.answer(&ollama::CHAT, ollama::read_chat, body).await, ollama::CHAT.path)
}

async fn ollama_generate(State(hall): Shared, body: Body) -> Response {
    let shape = &ollama::GENERATE;
    reply(hall.answer(shape, ollama::read_generate, body).await, shape.path)
}

async fn ollama_show(State(hall): Shared, body: Body) -> Response {
    let shape = &ollama_models::SHOW;
    reply(hall.plain(shape, ollama_models::show, body).await, shape.path)
}

async fn ollama_tags(State(hall): Shared) -> Response {
    let said = hall.ready().map(|ready| ollama_models::tags(&ready.served));
    reply(said.map(|said| json_response(StatusCode::OK, &said)), "/api/tags")
}

async fn ollama_running(State(hall): Shared) -> Response {
    let said = hall.ready().map(|ready| ollama_models::running(&ready.served));
    reply(said.map(|said| json_response(StatusCode::OK, &said)), "/api/ps")
}

async fn ollama_version() -> Response {
    json_response(StatusCode::OK, &ollama_models::version())
}

async fn embed(State(hall): Shared, body: Body) -> Response {
    let shape = &embeddings::SHAPE;
    reply(hall.answer(shape, embeddings::read, body).await, shape.path)
}

async fn ollama_embed(State(hall): Shared, body: Body) -> Response {
    let shape = &embeddings::OLLAMA;
    reply(hall.answer(shape, embeddings::read_ollama, body).await, shape.path)
}

async fn ollama_embeddings(State(hall): Shared, body: Body) -> Response {
    let shape = &embeddings::OLDER;
    reply(hall.answer(shape, embeddings::read_older, body).await, shape.path)
}

async fn create_response(State(hall): Shared, body: Body) -> Response {
    let shape = &responses::SHAPE;
    reply(hall.answer(shape, responses::read, body).await, shape.path)
}

async fn kept_response(State(hall): Shared, Path(id): Path<String>) -> Response {
    let said = hall.ready().and_then(|ready| responses::kept(&id, &ready.served));
    reply(said.map(|said| json_response(StatusCode::OK, &said)), responses::SHAPE.path)
}

async fn drop_response(State(hall): Shared, Path(id): Path<String>) -> Response {
    let said = hall.ready().and_then(|ready| responses::drop_kept(&id, &ready.served));
    reply(said.map(|said| json_response(StatusCode::OK, &said)), responses::SHAPE.path)
}

async fn no_such_path(uri: Uri) -> Response {
    let path = uri.path();
    refusal_response(&Refusal::new(404, format!("there is no path {path:?}")), path)
}

async fn no_such_method(method: Method, uri: Uri, _: HeaderMap) -> Response {
    let message = format!("{} does not take {method}", uri.path());
    refusal_response(&Refusal::new(405, message), uri.path())
}
