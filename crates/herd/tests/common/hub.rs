//! A hub on 127.0.0.1 that can be told to misbehave.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use sha2::{Digest, Sha256};

/// What the hub does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    None,
    /// Closes the connection after so many bytes of a file.
    DropsAfter(usize),
    /// Answers so many requests for files with this status first.
    Status(u16, u32),
    /// Sends other bytes than its hashes say.
    WrongBytes,
    /// Takes no notice of ranges.
    NoRanges,
}

#[derive(Debug)]
struct State {
    files: Vec<(String, Vec<u8>)>,
    fault: Fault,
    commit: String,
    log: Vec<String>,
}

/// The hub; it serves until the test ends.
#[derive(Clone, Debug)]
pub struct Hub {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl Hub {
    pub fn new(files: &[(&str, &[u8])]) -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let files = files.iter().map(|(n, b)| (n.to_string(), b.to_vec())).collect();
        let commit = "c0ffee".to_owned();
        let state = State { files, fault: Fault::None, commit, log: vec![] };
        let state = Arc::new(Mutex::new(state));
        let hub = Hub { url, state: state.clone() };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = state.clone();
                thread::spawn(move || {
                    let _ = serve(&stream, &state);
                });
            }
        });
        hub
    }

    pub fn set(&self, fault: Fault) {
        self.state.lock().unwrap().fault = fault;
    }

    /// The requests for files since the last call: `path` or `path bytes=N-`.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }
}

fn serve(stream: &TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut range = None;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        let lower = line.to_ascii_lowercase();
        if let Some(bytes) = lower.strip_prefix("range: bytes=") {
            range = bytes.trim().strip_suffix('-').and_then(|n| n.parse::<usize>().ok());
        }
    }
    let target = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut state = state.lock().unwrap();
    if target.starts_with("/api/models/meta/small/revision/main?blobs=true") {
        let body = listing(&state);
        return answer(stream, 200, "", body.as_bytes(), body.len());
    }
    let prefix = format!("/meta/small/resolve/{}/", state.commit);
    let name = target.strip_prefix(&prefix).unwrap_or("?").to_owned();
    let Some(mut bytes) = state.files.iter().find(|f| f.0 == name).map(|f| f.1.clone()) else {
        return answer(stream, 404, "", b"no such thing", 13);
    };
    state.log.push(range.map_or(name.clone(), |start| format!("{name} bytes={start}-")));
    let fault = state.fault;
    if let Fault::Status(status, times) = fault
        && times > 0
    {
        state.fault = Fault::Status(status, times - 1);
        return answer(stream, status, "", b"", 0);
    }
    drop(state);
    if fault == Fault::WrongBytes {
        bytes.iter_mut().for_each(|b| *b ^= 1);
    }
    let start = range.filter(|_| fault != Fault::NoRanges).unwrap_or(0);
    if start > 0 && start >= bytes.len() {
        return answer(stream, 416, "", b"", 0);
    }
    let head = format!("Content-Range: bytes {start}-{}/{}\r\n", bytes.len() - 1, bytes.len());
    let status = if start > 0 { 206 } else { 200 };
    let body = &bytes[start..];
    let sent = match fault {
        Fault::DropsAfter(n) => &body[..n.min(body.len())],
        _ => body,
    };
    answer(stream, status, if start > 0 { &head } else { "" }, sent, body.len())
}

fn answer(
    mut s: &TcpStream,
    status: u16,
    head: &str,
    body: &[u8],
    len: usize,
) -> std::io::Result<()> {
    let close = "Connection: close\r\n";
    write!(s, "HTTP/1.1 {status} X\r\nContent-Length: {len}\r\n{close}{head}\r\n")?;
    s.write_all(body)?;
    s.flush()
}

fn listing(state: &State) -> String {
    let sibling = |(name, bytes): &(String, Vec<u8>)| {
        let mut value = serde_json::json!({ "rfilename": name, "size": bytes.len() });
        if name.ends_with(".safetensors") || name.ends_with(".gguf") {
            let hash: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
            value["lfs"] = serde_json::json!({ "sha256": hash, "size": bytes.len() });
        }
        value
    };
    let siblings: Vec<_> = state.files.iter().map(sibling).collect();
    let card = serde_json::json!({ "license": "llama3" });
    serde_json::json!({ "sha": state.commit, "siblings": siblings, "cardData": card }).to_string()
}
