//! A running `herd serve`, and the smallest client that can talk to it.

#![allow(dead_code)] // each test file uses a part

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use serde_json::Value;

use crate::common::herd;

pub const CHAT: &str = "/v1/chat/completions";
pub const TEXT: &str = "/v1/completions";
pub const MESSAGES: &str = "/v1/messages";

/// `a` with the fields of `b`.
pub fn with(a: &Value, b: Value) -> Value {
    let mut all = a.clone();
    for (name, value) in b.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

/// A server of the tiny model; ends with the test.
pub struct Server {
    pub child: Child,
    pub address: SocketAddr,
    /// Lines of its log that have come so far.
    pub log: Arc<Mutex<Vec<String>>>,
    reader: JoinHandle<()>,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<String> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut found = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.to_owned())
    }

    /// The JSON of each event of a stream but the last, which must be `[DONE]`.
    pub fn events(&self) -> Vec<Value> {
        let mut data: Vec<&str> =
            self.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(data.pop(), Some("[DONE]"), "{}", self.body);
        data.into_iter().map(|text| serde_json::from_str(text).unwrap()).collect()
    }

    /// The field that a refusal names.
    pub fn field(&self) -> Option<String> {
        self.json()["error"]["param"].as_str().map(str::to_owned)
    }
}

impl Server {
    /// Serves `model` on a port of the system's choice.
    pub fn start(home: &Path, model: &Path, more: &[&str]) -> Server {
        Server::start_at(home, model, 0, more)
    }

    /// The same on this port.
    pub fn start_at(home: &Path, model: &Path, port: u16, more: &[&str]) -> Server {
        let model = model.to_str().unwrap();
        Server::launch_at(home, port, &[&["-m", model], more].concat())
    }

    /// Serves what `args` say on a port of the system's choice.
    pub fn launch(home: &Path, args: &[&str]) -> Server {
        Server::launch_at(home, 0, args)
    }

    fn launch_at(home: &Path, port: u16, args: &[&str]) -> Server {
        let mut command = herd(home);
        command.args(["serve", "--port", &port.to_string()]);
        if !args.contains(&"-c") {
            command.args(["-c", "512"]);
        }
        command.args(args);
        Server::begin(command)
    }

    /// Runs a command that says where it listens.
    pub fn begin(mut command: Command) -> Server {
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let address = loop {
            let line = lines.next().expect("the server says where it listens").unwrap();
            let told =
                line.split_once("listening on http").and_then(|(_, rest)| rest.split_once("://"));
            if let Some((_, rest)) = told {
                break rest.split(',').next().unwrap().parse().unwrap();
            }
            log.lock().unwrap().push(line);
        };
        let kept = Arc::clone(&log);
        let reader = thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        Server { child, address, log, reader }
    }

    /// Waits for a line of the log that holds one of these words: an answer comes before its line is read.
    pub fn told(&self, words: &[&str]) -> String {
        loop {
            let over = self.reader.is_finished();
            let log = self.log.lock().unwrap();
            let found = log.iter().find(|line| words.iter().any(|words| line.contains(words)));
            if let Some(line) = found {
                return line.clone();
            }
            assert!(!over, "{words:?} are nowhere in {log:?}");
            drop(log);
            thread::yield_now();
        }
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    }

    /// Asks with more lines in the head.
    pub fn get_with(&self, path: &str, head: &str) -> Reply {
        self.send(&format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{head}\r\n"
        ))
    }

    /// Drops what has a path.
    pub fn delete(&self, path: &str) -> Reply {
        self.send(&format!(
            "DELETE {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        ))
    }

    /// Asks until the answer is as it is wished.
    pub fn wait(&self, path: &str, wished: impl Fn(&Value) -> bool) -> Value {
        loop {
            let value = self.get(path).json();
            if wished(&value) {
                return value;
            }
            thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Posts JSON, and waits for all that comes back.
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.post_with(path, body, "")
    }

    /// The same with more lines in the head.
    pub fn post_with(&self, path: &str, body: &Value, head: &str) -> Reply {
        self.send(&request(path, &body.to_string(), head))
    }

    /// Sends bytes as they are, and waits for all that comes back.
    pub fn send(&self, bytes: &str) -> Reply {
        let mut stream = self.open(bytes);
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        read(&answer)
    }

    /// Sends bytes and leaves the answer in the socket.
    pub fn open(&self, bytes: &str) -> TcpStream {
        self.open_bytes(bytes.as_bytes())
    }

    /// The same with bytes that are no text.
    pub fn open_bytes(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    }

    /// Asks for the load until nothing runs or waits.
    pub fn wait_until_idle(&self) {
        loop {
            let load = self.get("/health").json();
            // An answer that has yet to run is not over.
            if load["running"] == 0 && load["waiting"] == 0 {
                return;
            }
            thread::yield_now();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

/// A request that posts `body`.
pub fn request(path: &str, body: &str, head: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{head}\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Takes an answer apart; chunks are joined.
pub fn read(answer: &[u8]) -> Reply {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("the end of the head");
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut rest = &answer[end + 4..];
    let mut body = Vec::new();
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        while let Some(line) = rest.windows(2).position(|w| w == b"\r\n") {
            let size = std::str::from_utf8(&rest[..line]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            body.extend_from_slice(&rest[line + 2..line + 2 + size]);
            rest = &rest[line + 4 + size..];
        }
    } else {
        body.extend_from_slice(rest);
    }
    Reply { status, head, body: String::from_utf8(body).unwrap() }
}
