//! A door before a server that can be told to misbehave, request by request.

#![allow(clippy::unwrap_used, dead_code)] // helpers of tests; each test file uses a part

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// What is done with a request.
pub enum Act {
    /// The server answers it.
    Pass,
    /// The server answers it, and only some bytes of that come back.
    Cut(usize),
    /// This is the answer.
    Says(u16, String),
    /// The connection is closed.
    Close,
    /// Nothing comes, ever.
    Hang,
}

type Plan = dyn Fn(&str, usize) -> Act + Send + Sync;

/// The door; it stays open until the test ends.
pub struct Proxy {
    pub url: String,
}

impl Proxy {
    /// Does with each request what `plan` says of its path and of how many came for completions before it.
    pub fn new(to: SocketAddr, plan: impl Fn(&str, usize) -> Act + Send + Sync + 'static) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (plan, count): (Arc<Plan>, _) = (Arc::new(plan), Arc::new(AtomicUsize::new(0)));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (plan, count) = (Arc::clone(&plan), Arc::clone(&count));
                thread::spawn(move || {
                    let _ = serve(&stream, to, &*plan, &count); // who asks may have gone
                });
            }
        });
        Proxy { url }
    }
}

fn serve(
    mut stream: &TcpStream,
    to: SocketAddr,
    plan: &Plan,
    count: &AtomicUsize,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut first, mut head, mut length) = (String::new(), String::new(), 0);
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
        if !lower.starts_with("connection:") {
            head += &line;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let path = first.split(' ').nth(1).unwrap().to_owned();
    let asked = path.ends_with("/completions");
    let before = if asked { count.fetch_add(1, Ordering::SeqCst) } else { 0 };
    let act = plan(&path, before);
    let answered = || -> std::io::Result<Vec<u8>> {
        let mut server = TcpStream::connect(to)?;
        server.write_all(format!("{first}{head}Connection: close\r\n\r\n").as_bytes())?;
        server.write_all(&body)?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        Ok(answer)
    };
    match act {
        Act::Pass => stream.write_all(&answered()?),
        Act::Cut(bytes) => {
            let answer = answered()?;
            stream.write_all(&answer[..bytes.min(answer.len() - 1)])
        }
        Act::Says(status, body) => {
            let length = body.len();
            let head = "Content-Type: application/json\r\nConnection: close\r\nRetry-After: 0\r\n";
            write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{head}\r\n{body}")
        }
        Act::Close => Ok(()),
        Act::Hang => loop {
            thread::park();
        },
    }
}
