//! A running `herd serve`, and the smallest client that can talk to it.

#![allow(dead_code)] // each test file uses a part

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

use crate::common::herd;

/// A server of the tiny model; ends with the test.
pub struct Server {
    pub child: Child,
    pub address: SocketAddr,
    /// Lines of its log.
    pub log: Arc<Mutex<Vec<String>>>,
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
        let mut command = herd(home);
        command.args(["serve", "-m", model.to_str().unwrap(), "--port", "0"]);
        if !more.contains(&"-c") {
            command.args(["-c", "512"]);
        }
        command.args(more).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let address = loop {
            let line = lines.next().expect("the server says where it listens").unwrap();
            if let Some((_, rest)) = line.split_once("listening on http://") {
                break rest.split(',').next().unwrap().parse().unwrap();
            }
            log.lock().unwrap().push(line);
        };
        let kept = Arc::clone(&log);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        Server { child, address, log }
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
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
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(bytes.as_bytes()).unwrap();
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
