//! A writer on 127.0.0.1 that answers from a script, and can be told to misbehave.

#![allow(dead_code)] // each test file uses a part

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

/// What it answers.
pub enum Reply {
    Says(String),
    /// The same, cut off at the limit of tokens.
    CutOff(String),
    /// No completion: a status and a body.
    Raw(u16, String),
    /// More bytes than anybody wants.
    Floods,
    /// Nothing, ever.
    Hangs,
    /// Hangs up.
    Closes,
}

/// An answer in words.
pub fn says(text: impl Into<String>) -> Reply {
    Reply::Says(text.into())
}

type Script = dyn Fn(&str, u64) -> Reply + Send + Sync;

/// The writer; it serves until the test ends.
#[derive(Clone)]
pub struct Writer {
    pub url: String,
    /// Paths and bodies of the requests.
    log: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Writer {
    /// Answers what `script` says to the last message and the seed.
    pub fn new(script: impl Fn(&str, u64) -> Reply + Send + Sync + 'static) -> Writer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let (log, script): (_, Arc<Script>) = (Arc::new(Mutex::new(vec![])), Arc::new(script));
        let writer = Writer { url, log: Arc::clone(&log) };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, script) = (Arc::clone(&log), Arc::clone(&script));
                thread::spawn(move || serve(&stream, &log, &*script));
            }
        });
        writer
    }

    /// The requests since the last call.
    pub fn requests(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut self.log.lock().unwrap())
    }
}

/// An endpoint that gives a vector for a text.
pub struct Vectors {
    pub url: String,
}

impl Vectors {
    pub fn new(vector: impl Fn(&str) -> Vec<f32> + Send + Sync + 'static) -> Vectors {
        let writer = Writer::new(move |text: &str, _| {
            let data = json!({ "data": [{ "embedding": vector(text) }] });
            Reply::Raw(200, data.to_string())
        });
        Vectors { url: writer.url }
    }
}

fn serve(
    mut stream: &TcpStream,
    log: &Mutex<Vec<(String, Value)>>,
    script: &Script,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length, mut key) = (String::new(), 0, String::new());
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        let lower = line.to_ascii_lowercase();
        if let Some(bytes) = lower.strip_prefix("content-length:") {
            length = bytes.trim().parse().unwrap();
        }
        if lower.starts_with("authorization:") {
            key = line.trim().to_owned();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut body: Value = serde_json::from_slice(&body).unwrap();
    let last = match body["messages"].as_array() {
        Some(messages) => messages.last().unwrap()["content"].clone(),
        None => body["input"].clone(), // a vector is wanted
    };
    let seed = body["seed"].as_u64().unwrap_or(0);
    body["key"] = key.into();
    log.lock().unwrap().push((first.split(' ').nth(1).unwrap().to_owned(), body));
    let completion = |text: &str, end: &str| {
        let message = json!({ "role": "assistant", "content": text });
        json!({ "choices": [{ "index": 0, "message": message, "finish_reason": end }] }).to_string()
    };
    let (status, body) = match script(last.as_str().unwrap(), seed) {
        Reply::Says(text) => (200, completion(&text, "stop")),
        Reply::CutOff(text) => (200, completion(&text, "length")),
        Reply::Raw(status, body) => (status, body),
        Reply::Floods => (200, completion(&"flood ".repeat(1 << 20), "stop")),
        Reply::Hangs => loop {
            thread::park();
        },
        Reply::Closes => return Ok(()),
    };
    let length = body.len();
    let head = "Content-Type: application/json\r\nConnection: close\r\n";
    write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{head}\r\n{body}")?;
    stream.flush()
}

/// The summary, as JSON.
pub fn summary(mut command: Command) -> Value {
    let output = command.arg("--json").stdout(Stdio::piped()).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {err}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The words of a failure.
pub fn fails(mut command: Command) -> String {
    let output = command.output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{command:?}: {err}");
    assert!(!err.contains("a fault in herd"), "{err}");
    err
}

/// The rows of a file.
pub fn rows(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
