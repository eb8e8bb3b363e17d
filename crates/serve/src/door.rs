//! The door itself: who may come in, how many, and how long they may take.
//!
//! One thread serves all connections; what takes long is computed elsewhere. A connection that
//! sends its head slowly, or does not take what it asked for, is closed; one too many waits in the
//! system's queue. At the first signal no new work is taken and the rest is finished, at the
//! second all is dropped.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::Response;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::agent::benches::Benches;
use crate::batches::{self, Batches};
use crate::bodies::Bodies;
use crate::db::DbError;
use crate::files::{Files, FilesError};
use crate::hall::{Hall, now};
use crate::keys::{Caller, KeyError, Keys};
use crate::page::{self, Page};
use crate::patience::Patient;
use crate::refusal::Refusal;
use crate::roster::Roster;
use crate::tls::{Tls, TlsError};

/// How the door is opened.
#[derive(Clone)]
pub struct Settings {
    /// Where it listens; port 0 lets the system choose.
    pub address: SocketAddr,
    /// Keys of which a caller must have one; none lets everybody in.
    pub keys: Keys,
    /// Origins whose pages may ask from a browser; `*` for all.
    pub origins: Vec<String>,
    /// Names of this machine that callers may use, beside its addresses and `localhost`.
    pub names: Vec<String>,
    /// Connections at once.
    pub connections: usize,
    /// Answers that may wait beside those that run.
    pub waiting: usize,
    /// Bytes of a body at most; those that are read at once have sixteen times that together.
    pub body_bytes: usize,
    /// How long the head of a request may take, and a connection be idle.
    pub head_time: Duration,
    /// How long a body may take.
    pub body_time: Duration,
    /// How long a caller may take nothing of what is sent to it.
    pub stall_time: Duration,
    /// How long answers may take to end after the first signal.
    pub drain_time: Duration,
    /// The certificate under which is served; `None` for plain HTTP.
    pub tls: Option<Arc<Tls>>,
    /// Where files are kept.
    pub files: Option<Arc<Files>>,
    /// Bytes of a file that a caller gives, at most.
    pub file_bytes: usize,
    /// How lines of the log look.
    pub log_format: LogFormat,
    /// The file of conversations; without one they end with the server.
    pub data: Option<PathBuf>,
    /// Tools that the server runs.
    pub tools: Option<Arc<Benches>>,
    /// Where lines of the log go.
    pub log: fn(&str),
}

/// How lines of the log look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// An object a line.
    Json,
    /// Its values, for people.
    Text,
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
    /// The file of conversations cannot be opened.
    #[error("cannot keep conversations")]
    Data(#[from] DbError),
    /// The system gives no more of something.
    #[error("cannot serve")]
    System {
        /// The system's words.
        source: io::Error,
    },
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The folder of files.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A key of `--api-key`.
    #[error("--api-key: {0}")]
    ApiKey(KeyError),
    /// A file of keys.
    #[error("{}: {source}", path.display())]
    Keys {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: KeyError,
    },
}

impl DoorError {
    /// What to try.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            DoorError::Listen { .. } => {
                Some("another server may have the port: choose one with --port")
            }
            DoorError::Data(_) => {
                Some("name another file by --data, or keep no conversations by --no-data")
            }
            DoorError::Files(FilesError::Taken(_)) => {
                Some("give this server one of its own: --files-dir")
            }
            DoorError::System { .. }
            | DoorError::Tls(_)
            | DoorError::Files(_)
            | DoorError::ApiKey(_)
            | DoorError::Keys { .. } => None,
        }
    }
}

impl Settings {
    /// Loopback, no key, room for a thousand, time-outs in which people have answered.
    pub fn new(address: SocketAddr, log: fn(&str)) -> Settings {
        Settings {
            address,
            keys: Keys::default(),
            origins: Vec::new(),
            names: Vec::new(),
            connections: 4096,
            waiting: 512,
            body_bytes: 16 << 20,
            head_time: Duration::from_secs(30),
            body_time: Duration::from_secs(60),
            stall_time: Duration::from_secs(60),
            drain_time: Duration::from_secs(60),
            tls: None,
            files: None,
            file_bytes: 512 << 20,
            log_format: LogFormat::Json,
            data: None,
            tools: None,
            log,
        }
    }

    /// A line of the log.
    pub fn log(&self, line: &Value) {
        match self.log_format {
            LogFormat::Json => (self.log)(&line.to_string()),
            LogFormat::Text => {
                let word = |value: &Value| match value {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                let words: Vec<String> =
                    line.as_object().into_iter().flatten().map(|(_, value)| word(value)).collect();
                (self.log)(&words.join(" "));
            }
        }
    }

    /// Whether a request may come in, and with which key.
    pub fn admits(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Caller, Refusal> {
        self.check_host(headers)?;
        self.check_origin(headers)?;
        // Whether the server lives, whether a browser may ask, and the page: everybody may know.
        let open = path == "/health" || method == Method::OPTIONS || page::is_file(path);
        if self.keys.is_empty() || open {
            return Ok(Caller::default());
        }
        let text = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
        let bearer = text(header::AUTHORIZATION).and_then(|v| v.strip_prefix("Bearer "));
        let given = bearer.or_else(|| headers.get("x-api-key").and_then(|v| v.to_str().ok()));
        let Some(given) = given else {
            let message = "a key is needed: Authorization: Bearer KEY, or x-api-key: KEY";
            return Err(Refusal { code: Some("invalid_api_key"), ..Refusal::new(401, message) });
        };
        match self.keys.find(given) {
            Some(key) => Ok(Caller(Some(key))),
            None => {
                let code = Some("invalid_api_key");
                Err(Refusal { code, ..Refusal::new(401, "this key is not known here") })
            }
        }
    }

    /// The caller must have meant this machine: a page whose name was made to point here says its own name. So a name must
    /// be `localhost` or one that was given; an address cannot be made to point elsewhere. Where a key is needed, such a
    /// page has none, and on other addresses than loopback any name will do.
    fn check_host(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let loopback = self.address.ip().is_loopback();
        if !loopback && !self.keys.is_empty() {
            return Ok(());
        }
        let Some(host) = headers.get(header::HOST).and_then(|v| v.to_str().ok()) else {
            return Ok(()); // no browser
        };
        let name = host.rsplit_once(':').map_or(host, |(name, port)| {
            if port.bytes().all(|b| b.is_ascii_digit()) { name } else { host }
        });
        let address: Option<std::net::IpAddr> = name.trim_matches(['[', ']']).parse().ok();
        let meant = address.is_some_and(|ip| !loopback || ip.is_loopback())
            || name.eq_ignore_ascii_case("localhost")
            || self.names.iter().any(|known| name.eq_ignore_ascii_case(known));
        match meant {
            true => Ok(()),
            false if loopback => Err(Refusal::new(403, "this server answers to localhost alone")),
            false => {
                let message = format!("this server does not go by the name {name:?} (--name)");
                Err(Refusal::new(403, message))
            }
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
        let methods = HeaderValue::from_static("GET, POST, DELETE, OPTIONS");
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        let names = "authorization, content-type, x-api-key, x-request-id, anthropic-version";
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(names));
    }
}

/// An open door, before and while it serves.
pub struct Door {
    hall: Arc<Hall>,
    listener: std::net::TcpListener,
    address: SocketAddr,
}

/// Puts models behind a door that is serving already.
#[derive(Clone)]
pub struct Inside {
    hall: Arc<Hall>,
}

impl Inside {
    /// From now on requests are answered. Does nothing the second time.
    pub fn ready(&self, roster: Arc<Roster>) {
        let _ = self.hall.roster.set(roster);
    }
}

impl Door {
    /// Takes the address. Nothing is answered before [`Door::serve`].
    pub fn open(settings: Settings) -> Result<Door, DoorError> {
        let (listener, address) = listen(settings.address)?;
        let files = settings.files.clone();
        let batches = files.clone().map(|files| Arc::new(Batches::new(files)));
        let page = Page::open(settings.data.as_deref())?;
        let bodies = Bodies::new(settings.body_bytes);
        let roster = OnceLock::new();
        let hall = Arc::new(Hall { roster, files, batches, settings, page, bodies });
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
        let Door { hall, listener, .. } = self;
        let (router, settings) = (Arc::clone(&hall).router(), Arc::new(hall.settings.clone()));
        let begun = Arc::clone(&hall);
        run(receive(listener, router, settings, move || chores(&begun)))?;
        for ready in hall.roster.get().map(|roster| roster.loaded()).unwrap_or_default() {
            ready.host.finish();
        }
        Ok(())
    }
}

/// Takes an address; where that is. Errors: another has it.
pub(crate) fn listen(
    address: SocketAddr,
) -> Result<(std::net::TcpListener, SocketAddr), DoorError> {
    let refused = |source| DoorError::Listen { address, source };
    let listener = std::net::TcpListener::bind(address).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    Ok((listener, address))
}

/// Runs a door on this thread. Errors: the system gives no more of something.
pub(crate) fn run(door: impl Future<Output = io::Result<()>>) -> Result<(), DoorError> {
    let system = |source| DoorError::System { source };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()
        .map_err(system)?;
    let served = runtime.block_on(door).map_err(system);
    runtime.shutdown_timeout(Duration::ZERO);
    served
}

/// Lets callers in until a signal to end comes, then waits for them to be served; `chores` are done meanwhile.
pub(crate) async fn receive(
    listener: std::net::TcpListener,
    router: Router,
    settings: Arc<Settings>,
    chores: impl FnOnce() -> JoinSet<()>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut signals = Signals::new(settings.tls.is_some())?;
    let mut hangup = signals.renew.take();
    let chores = chores();
    let (close, closing) = watch::channel(false);
    let room = Arc::new(Semaphore::new(settings.connections));
    let mut guests = JoinSet::new();
    loop {
        let entry = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            let permit = permit.expect("the semaphore is never closed");
            listener.accept().await.map(|(stream, _)| (stream, permit))
        };
        tokio::select! {
            () = signals.next() => break,
            () = renew(&mut hangup) => reload(&settings),
            Some(_) = guests.join_next() => {}
            entered = entry => match entered {
                Ok((stream, permit)) => {
                    let (router, closing) = (router.clone(), closing.clone());
                    let settings = Arc::clone(&settings);
                    guests.spawn(async move {
                        greet(stream, router, closing, &settings).await;
                        drop(permit);
                    });
                }
                // Out of descriptors, or a caller who left: the others go on.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
        }
    }
    drop((listener, chores));
    let _ = close.send(true); // nobody listens: nobody is there
    let all = async { while guests.join_next().await.is_some() {} };
    tokio::select! {
        () = all => {}
        () = signals.next() => {}
        () = tokio::time::sleep(settings.drain_time) => {}
    }
    Ok(())
}

/// What is done besides answering: models that nobody needs go, batches go on. Dropping it ends that.
fn chores(hall: &Arc<Hall>) -> JoinSet<()> {
    let mut chores = JoinSet::new();
    let swept = Arc::clone(hall);
    chores.spawn(async move {
        loop {
            tokio::time::sleep(SWEEP).await;
            if let Some(roster) = swept.roster.get() {
                roster.sweep();
            }
        }
    });
    if let Some(batches) = &hall.batches {
        chores.spawn(batches::work(Arc::clone(hall), Arc::clone(batches)));
    }
    chores
}

/// How often is looked for models that nobody needs.
const SWEEP: Duration = Duration::from_millis(250);

/// One connection: its handshake, then what it asks.
async fn greet(
    stream: TcpStream,
    router: Router,
    closing: watch::Receiver<bool>,
    settings: &Settings,
) {
    let _ = stream.set_nodelay(true); // a hint
    let stream = Patient::new(stream, settings.stall_time);
    let Some(tls) = &settings.tls else {
        return attend(stream, router, closing, settings).await;
    };
    let shaken = tokio::time::timeout(settings.head_time, tls.acceptor().accept(stream)).await;
    // Who shakes no hands is gone.
    if let Ok(Ok(stream)) = shaken {
        attend(stream, router, closing, settings).await;
    }
}

/// One connection, until it is closed.
async fn attend(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    mut closing: watch::Receiver<bool>,
    settings: &Settings,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.head_time)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    loop {
        tokio::select! {
            // How a connection ended, nobody needs to know.
            _ = connection.as_mut() => return,
            Ok(()) = closing.changed() => connection.as_mut().graceful_shutdown(),
        }
    }
}

/// Waits for the signal to read the certificate again; for ever where there is none.
async fn renew(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

fn reload(settings: &Settings) {
    let Some(tls) = &settings.tls else { return };
    let said = tls.reload().map_or_else(|error| error.to_string(), |()| "read again".to_owned());
    settings.log(&json!({ "time": now(), "certificate": said }));
}

/// Signals to end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// SIGHUP, where there is a certificate to read again.
    renew: Option<Signal>,
}

impl Signals {
    fn new(renewed: bool) -> io::Result<Signals> {
        let (interrupt, terminate) = (SignalKind::interrupt(), SignalKind::terminate());
        let renew = renewed.then(|| signal(SignalKind::hangup())).transpose()?;
        Ok(Signals { interrupt: signal(interrupt)?, terminate: signal(terminate)?, renew })
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
        asked.map_or_else(|refusal| refusal.status, |_| 200)
    }

    #[test]
    fn keys_are_asked_for_in_either_header() {
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut settings = Settings::new(local, |_| {});
        assert_eq!(admits(&settings, &[]), 200);
        settings.keys.add("1".into(), "one").unwrap();
        settings.keys.add("2".into(), "another").unwrap();
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
        for host in ["192.168.0.7:80", "[2001:db8::7]:80", "localhost", "127.0.0.1"] {
            assert_eq!(admits(&settings, &[("host", host)]), 200, "{host}");
        }
        assert_eq!(admits(&settings, &[("host", "my.example:80")]), 403);
        let rebound = page("evil.example:80", "http://evil.example:80");
        assert_eq!(admits(&settings, &rebound), 403);
        settings.names = vec!["My.example".into()];
        assert_eq!(admits(&settings, &page("my.example:80", "http://my.example:80")), 200);
        assert_eq!(admits(&settings, &rebound), 403);
        // With a key there is nothing that such a page could ask.
        settings.keys.add("1".into(), "one").unwrap();
        assert_eq!(admits(&settings, &rebound), 401);
    }
}
