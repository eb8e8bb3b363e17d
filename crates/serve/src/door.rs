//! The door itself: who may come in, how many, and how long they may take.
//!
//! One thread serves all connections; what takes long is computed elsewhere. A connection that
//! sends its head slowly, or does not take what it asked for, is closed; one too many waits in the
//! system's queue. At the first signal no new work is taken and the rest is finished, at the
//! second all is dropped.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::Response;
use herd_codec::Tokenizer;
use herd_engine::Limits;
use herd_model::llama::Llama;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::hall::{Hall, Ready};
use crate::host::Host;
use crate::patience::Patient;
use crate::refusal::Refusal;
use crate::served::Served;

/// How the door is opened.
#[derive(Clone)]
pub struct Settings {
    /// Where it listens; port 0 lets the system choose.
    pub address: SocketAddr,
    /// Keys of which a caller must have one; none lets everybody in.
    pub keys: Vec<String>,
    /// Origins whose pages may ask from a browser; `*` for all.
    pub origins: Vec<String>,
    /// Connections at once.
    pub connections: usize,
    /// Answers that may wait beside those that run.
    pub waiting: usize,
    /// Bytes of a body at most.
    pub body_bytes: usize,
    /// How long the head of a request may take, and a connection be idle.
    pub head_time: Duration,
    /// How long a body may take.
    pub body_time: Duration,
    /// How long a caller may take nothing of what is sent to it.
    pub stall_time: Duration,
    /// How long answers may take to end after the first signal.
    pub drain_time: Duration,
    /// Where lines of the log go.
    pub log: fn(&str),
}

/// Why the door cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// The address is taken, or not this machine's.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's words.
        source: io::Error,
    },
    /// The system gives no more of something.
    #[error("cannot serve")]
    System {
        /// The system's words.
        source: io::Error,
    },
}

impl DoorError {
    /// What to try.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            DoorError::Listen { .. } => {
                Some("another server may have the port: choose one with --port")
            }
            DoorError::System { .. } => None,
        }
    }
}

impl Settings {
    /// Loopback, no key, room for a thousand, time-outs in which people have answered.
    pub fn new(address: SocketAddr, log: fn(&str)) -> Settings {
        Settings {
            address,
            keys: Vec::new(),
            origins: Vec::new(),
            connections: 4096,
            waiting: 512,
            body_bytes: 16 << 20,
            head_time: Duration::from_secs(30),
            body_time: Duration::from_secs(60),
            stall_time: Duration::from_secs(60),
            drain_time: Duration::from_secs(60),
            log,
        }
    }

    /// A line of the log.
    pub fn log(&self, line: &Value) {
        (self.log)(&line.to_string());
    }

    /// Whether a request may come in.
    pub fn admits(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<(), Refusal> {
        self.check_host(headers)?;
        self.check_origin(headers)?;
        // Whether the server lives, and whether a browser may ask, everybody may know.
        if self.keys.is_empty() || path == "/health" || method == Method::OPTIONS {
            return Ok(());
        }
        let text = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
        let bearer = text(header::AUTHORIZATION).and_then(|v| v.strip_prefix("Bearer "));
        let given = bearer.or_else(|| headers.get("x-api-key").and_then(|v| v.to_str().ok()));
        let Some(given) = given else {
            let message = "a key is needed: Authorization: Bearer KEY, or x-api-key: KEY";
            return Err(Refusal { code: Some("invalid_api_key"), ..Refusal::new(401, message) });
        };
        // Every key is compared, so that time tells nothing.
        let known = self.keys.iter().fold(false, |known, key| same(key, given) | known);
        match known {
            true => Ok(()),
            false => {
                let code = Some("invalid_api_key");
                Err(Refusal { code, ..Refusal::new(401, "this key is not known here") })
            }
        }
    }

    /// On loopback the caller must have meant loopback: a page whose name was made to point here
    /// says its own name.
    fn check_host(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        if !self.address.ip().is_loopback() {
            return Ok(());
        }
        let Some(host) = headers.get(header::HOST).and_then(|v| v.to_str().ok()) else {
            return Ok(()); // no browser
        };
        let name = host.rsplit_once(':').map_or(host, |(name, port)| {
            if port.bytes().all(|b| b.is_ascii_digit()) { name } else { host }
        });
        let local = name.eq_ignore_ascii_case("localhost")
            || name
                .trim_matches(['[', ']'])
                .parse()
                .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        match local {
            true => Ok(()),
            false => Err(Refusal::new(403, "this server answers to localhost alone")),
        }
    }

    /// A browser says which page asks: its own page may, and those that were named.
    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(origin) = headers.get(header::ORIGIN).and_then(|v| v.to_str().ok()) else {
            return Ok(());
        };
        let host = headers.get(header::HOST).and_then(|v| v.to_str().ok());
        let own = origin.split_once("://").is_some_and(|(_, name)| Some(name) == host);
        match own || self.allowed(origin).is_some() {
            true => Ok(()),
            false => Err(Refusal::new(403, "pages of this origin may not ask here (--cors)")),
        }
    }

    /// What a browser is told of an origin that may ask.
    fn allowed(&self, origin: &str) -> Option<HeaderValue> {
        let named = self.origins.iter().any(|known| known == "*" || known == origin);
        named.then(|| HeaderValue::from_str(origin).ok()).flatten()
    }

    /// Adds to a response what a browser wants to hear.
    pub fn tell_browser(&self, origin: Option<&HeaderValue>, response: &mut Response) {
        let origin = origin.and_then(|v| v.to_str().ok()).and_then(|o| self.allowed(o));
        let Some(origin) = origin else { return };
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
        let methods = HeaderValue::from_static("GET, POST, OPTIONS");
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        let names = "authorization, content-type, x-api-key, anthropic-version";
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(names));
    }
}

/// Whether two keys are equal, in a time that depends on the length of `given` alone.
fn same(key: &str, given: &str) -> bool {
    let (key, given) = (key.as_bytes(), given.as_bytes());
    let mut different = key.len() ^ given.len();
    for (i, byte) in given.iter().enumerate() {
        // `black_box`: no compiler leaves the loop early.
        let own = key.get(i % key.len().max(1)).copied().unwrap_or(0);
        different = std::hint::black_box(different | usize::from(own ^ byte));
    }
    different == 0
}

/// An open door, before and while it serves.
pub struct Door {
    hall: Arc<Hall>,
    listener: std::net::TcpListener,
    address: SocketAddr,
}

/// Puts the model behind a door that is serving already.
#[derive(Clone)]
pub struct Inside {
    hall: Arc<Hall>,
}

impl Inside {
    /// From now on requests are answered. Does nothing the second time.
    pub fn ready(
        &self,
        served: Served,
        model: Arc<Llama>,
        tokenizer: Arc<Tokenizer>,
        limits: Limits,
    ) {
        let host = Host::start(model, tokenizer, limits, self.hall.settings.waiting);
        let _ = self.hall.ready.set(Ready { served: Arc::new(served), host });
    }
}

impl Door {
    /// Takes the address. Nothing is answered before [`Door::serve`].
    pub fn open(settings: Settings) -> Result<Door, DoorError> {
        let address = settings.address;
        let listen = |source| DoorError::Listen { address, source };
        let listener = std::net::TcpListener::bind(address).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let hall = Arc::new(Hall { ready: OnceLock::new(), settings });
        Ok(Door { hall, listener, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The way to put a model behind the door.
    pub fn inside(&self) -> Inside {
        Inside { hall: Arc::clone(&self.hall) }
    }

    /// Serves until a signal to end comes (Ctrl-C or SIGTERM), then until answers have ended, a
    /// second signal comes, or their time is up.
    pub fn serve(self) -> Result<(), DoorError> {
        let system = |source| DoorError::System { source };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(2)
            .build()
            .map_err(system)?;
        let served = runtime.block_on(self.keep()).map_err(system);
        runtime.shutdown_timeout(Duration::ZERO);
        served
    }

    async fn keep(self) -> io::Result<()> {
        let listener = TcpListener::from_std(self.listener)?;
        let mut signals = Signals::new()?;
        let (close, closing) = watch::channel(false);
        let router = Arc::clone(&self.hall).router();
        let room = Arc::new(Semaphore::new(self.hall.settings.connections));
        let mut guests = JoinSet::new();
        loop {
            let entry = async {
                let permit = Arc::clone(&room).acquire_owned().await;
                let permit = permit.expect("the semaphore is never closed");
                listener.accept().await.map(|(stream, _)| (stream, permit))
            };
            tokio::select! {
                () = signals.next() => break,
                Some(_) = guests.join_next() => {}
                entered = entry => match entered {
                    Ok((stream, permit)) => {
                        let (router, closing) = (router.clone(), closing.clone());
                        let hall = Arc::clone(&self.hall);
                        guests.spawn(async move {
                            attend(stream, router, closing, &hall.settings).await;
                            drop(permit);
                        });
                    }
                    // Out of descriptors, or a caller who left: the others go on.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                },
            }
        }
        drop(listener);
        let _ = close.send(true); // nobody listens: nobody is there
        let all = async { while guests.join_next().await.is_some() {} };
        tokio::select! {
            () = all => {}
            () = signals.next() => {}
            () = tokio::time::sleep(self.hall.settings.drain_time) => {}
        }
        Ok(())
    }
}

/// One connection, until it is closed.
async fn attend(
    stream: TcpStream,
    router: Router,
    mut closing: watch::Receiver<bool>,
    settings: &Settings,
) {
    let _ = stream.set_nodelay(true); // a hint
    let io = TokioIo::new(Patient::new(stream, settings.stall_time));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.head_time)
        .serve_connection(io, TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    loop {
        tokio::select! {
            // How a connection ended, nobody needs to know.
            _ = connection.as_mut() => return,
            Ok(()) = closing.changed() => connection.as_mut().graceful_shutdown(),
        }
    }
}

/// Signals to end.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        let (interrupt, terminate) = (SignalKind::interrupt(), SignalKind::terminate());
        Ok(Signals { interrupt: signal(interrupt)?, terminate: signal(terminate)? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (header::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        list.iter().map(pair).collect()
    }

    fn admits(settings: &Settings, list: &[(&'static str, &str)]) -> u16 {
        let asked = settings.admits(&Method::POST, "/v1/completions", &headers(list));
        asked.map_or_else(|refusal| refusal.status, |()| 200)
    }

    #[test]
    fn keys_are_asked_for_in_either_header() {
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut settings = Settings::new(local, |_| {});
        assert_eq!(admits(&settings, &[]), 200);
        settings.keys = vec!["one".into(), "another".into()];
        assert_eq!(admits(&settings, &[]), 401);
        assert_eq!(admits(&settings, &[("authorization", "Bearer one")]), 200);
        assert_eq!(admits(&settings, &[("x-api-key", "another")]), 200);
        for wrong in ["", "on", "onee", "two", "oneone"] {
            assert_eq!(admits(&settings, &[("x-api-key", wrong)]), 401, "{wrong}");
        }
        let health = settings.admits(&Method::GET, "/health", &headers(&[]));
        assert!(health.is_ok());
    }

    #[test]
    fn pages_of_others_may_not_ask() {
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut settings = Settings::new(local, |_| {});
        let page = |host, origin| [("host", host), ("origin", origin)];
        assert_eq!(admits(&settings, &page("localhost:80", "http://localhost:80")), 200);
        assert_eq!(admits(&settings, &page("127.0.0.1:80", "http://evil.example")), 403);
        assert_eq!(admits(&settings, &[("host", "evil.example:80")]), 403);
        assert_eq!(admits(&settings, &[("host", "[::1]:80")]), 200);
        settings.origins = vec!["http://good.example".into()];
        assert_eq!(admits(&settings, &page("127.0.0.1:80", "http://good.example")), 200);
        settings.address = SocketAddr::from(([0, 0, 0, 0], 0));
        assert_eq!(admits(&settings, &[("host", "my.example:80")]), 200);
    }
}
