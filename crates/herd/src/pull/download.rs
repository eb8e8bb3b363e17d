//! Fetches one file over HTTP: goes on where an earlier attempt stopped, and checks the hash.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use sha2::{Digest, Sha256};
use ureq::{Agent, Body, http::Response};

use crate::console::{Console, Meter};
use crate::error::Error;

/// A file to fetch.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Where it is.
    pub url: &'a str,
    /// Where it goes.
    pub path: &'a Path,
    /// Its length, if the other side told.
    pub bytes: Option<u64>,
    /// Its hash, if the other side told.
    pub sha256: Option<&'a str>,
}

/// Speaks HTTP; `token` goes along as `Authorization`, to the first host only.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    token: Option<String>,
}

/// Attempts that bring not a byte before giving up.
const ATTEMPTS: u32 = 5;

impl Client {
    /// A client that gives up on a dead line, not on a slow one.
    pub fn new(token: Option<String>) -> Client {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(30)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            // A stalled body ends here and is taken up again where it stopped.
            .timeout_recv_body(Some(Duration::from_secs(300)))
            .user_agent(concat!("herd/", env!("CARGO_PKG_VERSION")))
            .build();
        Client { agent: config.into(), token }
    }

    /// Asks for `url`, from byte `start` on.
    fn get(&self, url: &str, start: u64) -> Result<Response<Body>, Error> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if start > 0 {
            request = request.header("Range", format!("bytes={start}-"));
        }
        let network = |e| Error::Network { url: url.to_owned(), source: Box::new(e) };
        request.call().map_err(network)
    }

    /// A short answer as text; `bytes_max` bounds it.
    pub fn get_text(&self, url: &str, bytes_max: u64) -> Result<String, Error> {
        let mut attempt = 0;
        loop {
            let error = match self.get(url, 0) {
                Ok(response) if response.status().as_u16() == 200 => {
                    let mut body = response.into_body();
                    let text = body.with_config().limit(bytes_max).read_to_string();
                    return text.map_err(|e| Error::Network { url: url.into(), source: e.into() });
                }
                Ok(response) => {
                    Error::Status { url: url.into(), status: response.status().as_u16() }
                }
                Err(error) => error,
            };
            attempt += 1;
            if attempt == ATTEMPTS || !passes(&error) {
                return Err(error);
            }
            sleep(pause(attempt));
        }
    }

    /// Brings the file, or what is missing of it, and gives its length and sha256.
    ///
    /// Bytes gather in `path.part`; the name `path` appears only when length and hash are right.
    pub fn fetch(&self, wanted: &Wanted, console: &Console) -> Result<(u64, String), Error> {
        if let Some(done) = finished(wanted)? {
            return Ok(done);
        }
        let part = part_path(wanted.path);
        let label = wanted.path.file_name().unwrap_or_default().display().to_string();
        let mut meter = console.meter(&label, wanted.bytes);
        let resumed = length(&part)? > 0;
        self.fill(wanted, &part, &mut meter)?;
        let (bytes, hash) = match check(wanted, &part) {
            // What lay there before may be of another file: once more, from the first byte.
            Err(Error::Hash { .. }) if resumed => {
                self.fill(wanted, &part, &mut meter)?;
                check(wanted, &part)?
            }
            other => other?,
        };
        fs::rename(&part, wanted.path).map_err(Error::io("create", wanted.path))?;
        Ok((bytes, hash))
    }

    /// Asks again and again until the part is whole, as long as there is progress.
    fn fill(&self, wanted: &Wanted, part: &Path, meter: &mut Meter) -> Result<(), Error> {
        let mut attempt = 0;
        loop {
            let before = length(part)?;
            let error = match self.fill_once(wanted, part, meter) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            attempt = if length(part)? > before { 0 } else { attempt + 1 };
            if attempt == ATTEMPTS || !passes(&error) {
                return Err(error);
            }
            if attempt > 0 {
                sleep(pause(attempt));
            }
        }
    }

    fn fill_once(&self, wanted: &Wanted, part: &Path, meter: &mut Meter) -> Result<(), Error> {
        let mut start = length(part)?;
        if wanted.bytes.is_some_and(|bytes| start > bytes) {
            start = 0;
        }
        if start > 0 && wanted.bytes == Some(start) {
            return Ok(());
        }
        let response = self.get(wanted.url, start)?;
        let keep = match response.status().as_u16() {
            206 if begins_at(&response, start) => start,
            200 => 0, // the whole file, asked for or not
            // The part does not fit the file over there: begin anew.
            206 | 416 if start > 0 => {
                fs::remove_file(part).map_err(Error::io("remove", part))?;
                return self.fill_once(wanted, part, meter);
            }
            status => return Err(Error::Status { url: wanted.url.to_owned(), status }),
        };
        self.append(response, wanted, part, keep, meter)
    }

    fn append(
        &self,
        response: Response<Body>,
        wanted: &Wanted,
        part: &Path,
        keep: u64,
        meter: &mut Meter,
    ) -> Result<(), Error> {
        let promised = response.body().content_length().map(|n| n + keep);
        let file = OpenOptions::new().create(true).append(true).open(part);
        let mut file = file.map_err(Error::io("write", part))?;
        file.set_len(keep).map_err(Error::io("write", part))?;
        let mut at = keep;
        let mut reader = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let n = reader.read(&mut buffer).map_err(|e| Error::Network {
                url: wanted.url.to_owned(),
                source: Box::new(e.into()),
            })?;
            if n == 0 {
                break;
            }
            at += n as u64;
            if let Some(expected) = wanted.bytes.filter(|&bytes| at > bytes) {
                let what = format!("more than the {expected} bytes it promised");
                return Err(Error::Answer { url: wanted.url.to_owned(), what });
            }
            file.write_all(&buffer[..n]).map_err(Error::io("write", part))?;
            meter.at(at);
        }
        file.sync_all().map_err(Error::io("write", part))?;
        match wanted.bytes.or(promised) {
            Some(expected) if at < expected => Err(Error::Network {
                url: wanted.url.to_owned(),
                source: Box::new(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
            }),
            _ => Ok(()),
        }
    }
}

/// Whether asking again may help: a broken line or a busy server, not a missing file.
fn passes(error: &Error) -> bool {
    match error {
        Error::Network { .. } => true,
        Error::Status { status, .. } => matches!(status, 408 | 429 | 500..),
        _ => false,
    }
}

fn pause(attempt: u32) -> Duration {
    Duration::from_millis(150 << attempt)
}

fn part_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

/// The length of a file, 0 if there is none.
fn length(path: &Path) -> Result<u64, Error> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(Error::io("read", path)(e)),
    }
}

/// `Content-Range: bytes START-END/TOTAL` must begin where the part ends.
fn begins_at(response: &Response<Body>, start: u64) -> bool {
    let range = response.headers().get("content-range").and_then(|v| v.to_str().ok());
    let first = range.and_then(|r| r.trim().strip_prefix("bytes ")?.split('-').next());
    first.and_then(|n| n.trim().parse().ok()) == Some(start)
}

/// The file is there from an earlier run, and right: nothing to fetch.
fn finished(wanted: &Wanted) -> Result<Option<(u64, String)>, Error> {
    if !wanted.path.is_file() {
        return Ok(None);
    }
    match check(wanted, wanted.path) {
        Ok(done) if wanted.sha256.is_some() || wanted.bytes == Some(done.0) => Ok(Some(done)),
        Ok(_) | Err(Error::Hash { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Length and hash of the file at `path`, which is removed when they are not those wanted.
fn check(wanted: &Wanted, path: &Path) -> Result<(u64, String), Error> {
    let hash = sha256(path)?;
    if let Some(expected) = wanted.sha256.filter(|expected| !expected.eq_ignore_ascii_case(&hash)) {
        fs::remove_file(path).map_err(Error::io("remove", path))?;
        let file = wanted.path.file_name().unwrap_or_default().display().to_string();
        return Err(Error::Hash { file, expected: expected.to_owned(), got: hash });
    }
    Ok((length(path)?, hash))
}

/// The sha256 of a file's content, in hexadecimal.
pub fn sha256(path: &Path) -> Result<String, Error> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(Error::io("read", path))? {
            0 => return Ok(hex(&hasher.finalize())),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
