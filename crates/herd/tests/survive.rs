//! `herd serve` among callers who stall, flood, leave, and send what is no request: each hurts only itself, and who
//! asks beside them gets the bits that it gets alone.
//!
//! Time-outs are the server's own (`--patience`); no test has one.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;
#[path = "common/server.rs"]
mod server;
#[path = "common/tiny.rs"]
mod tiny;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use serde_json::{Value, json};
use server::{CHAT, Reply, Server, TEXT, read, request, with};

/// What the bystander asks.
fn asked() -> Value {
    json!({
        "model": "tiny", "prompt": "once upon", "max_tokens": 30, "temperature": 1.5, "seed": 7,
        "logprobs": 2, "return_token_ids": true,
    })
}

/// Lets `hostile` do its worst while somebody asks, again and again, at least once behind it; the answers are those of
/// somebody alone.
fn beside(server: &Server, hostile: impl FnOnce() + Send) {
    let alone = server.post(TEXT, &asked()).json()["choices"].clone();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let (over, alone) = (&over, &alone);
        let bystander = scope.spawn(move || {
            loop {
                let last = over.load(Relaxed);
                let reply = server.post(TEXT, &asked());
                assert_eq!(reply.status, 200, "{}", reply.body);
                assert_eq!(reply.json()["choices"], *alone);
                if last {
                    return;
                }
            }
        });
        hostile();
        over.store(true, Relaxed);
        bystander.join().unwrap();
    });
    server.wait_until_idle();
}

/// All that comes back until the other end closes; a reset is an end as well.
fn rest(mut stream: TcpStream) -> Vec<u8> {
    let (mut all, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return all,
            Ok(n) => all.extend_from_slice(&piece[..n]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return all,
        }
    }
}

/// The status of what comes back; nothing where the connection is closed without a word.
fn status(stream: TcpStream) -> Option<u16> {
    let answer = rest(stream);
    (!answer.is_empty()).then(|| read(&answer).status)
}

fn head(length: usize) -> String {
    format!(
        "POST {TEXT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
    )
}

#[test]
fn who_stalls_is_sent_away() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &["--patience", "1"]);
    beside(&server, || {
        // In the head, after a byte and after a line; and before anything.
        let slow: Vec<TcpStream> =
            ["P", "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", ""]
                .map(|start| server.open(start))
                .into();
        // In the body.
        let body = server.open(&format!("{}\r\n{{\"model\": ", head(500)));
        for stream in slow {
            assert_eq!(status(stream), None);
        }
        assert_eq!(status(body), Some(408));
    });
}

#[test]
fn who_drips_its_head_is_sent_away_all_the_same() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &["--patience", "1"]);
    beside(&server, || {
        let mut stream = server.open("GET /health HTTP/1.1\r\n");
        // A byte at a time until nobody listens any more; the head never ends.
        while stream.write_all(b"X-Drip: 1\r\n").is_ok() {
            let mut byte = [0];
            stream.set_nonblocking(true).unwrap();
            match stream.read(&mut byte) {
                Ok(_) => return,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
            stream.set_nonblocking(false).unwrap();
            thread::sleep(std::time::Duration::from_millis(20));
        }
    });
}

#[test]
fn who_takes_nothing_of_its_answer_is_let_go_of() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &["--patience", "1", "-c", "4096"]);
    // More than the system holds for a reader who does not read: many long answers with all that may be told.
    let long = json!({
        "max_tokens": 3000, "stream": true, "ignore_eos": true, "logprobs": 20, "n": 32, "temperature": 3.0,
    });
    let greedy = request(TEXT, &with(&asked(), long).to_string(), "");
    let alone = server.post(TEXT, &asked()).json()["choices"].clone();
    let stream = server.open(&greedy);
    for _ in 0..10 {
        assert_eq!(server.post(TEXT, &asked()).json()["choices"], alone);
    }
    server.wait_until_idle(); // though nobody has read a byte
    drop(stream);
    assert!(server.get("/metrics").body.contains("\nherd_requests_running 0\n"));
}

#[test]
fn a_thousand_at_once_are_answered_or_told_to_come_back() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &["--parallel", "8", "--queue", "200"]);
    let short = request(TEXT, &with(&asked(), json!({ "max_tokens": 4 })).to_string(), "");
    let streams: Vec<TcpStream> = (0..1000).map(|_| server.open(&short)).collect();
    let replies: Vec<Reply> = streams.into_iter().map(|stream| read(&rest(stream))).collect();
    let count = |status: u16| replies.iter().filter(|reply| reply.status == status).count();
    assert_eq!(count(200) + count(429), 1000);
    assert!(count(200) >= 208, "{} answered", count(200));
    for reply in replies.iter().filter(|reply| reply.status == 429) {
        assert!(reply.header("retry-after").is_some());
    }
    let alone = replies.iter().find(|reply| reply.status == 200).unwrap().json()["choices"].clone();
    let answered = replies.iter().filter(|reply| reply.status == 200);
    assert!(answered.into_iter().all(|reply| reply.json()["choices"] == alone));
    server.wait_until_idle();
}

#[test]
fn bodies_without_end_are_cut_short() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &["--body-mb", "1"]);
    beside(&server, || {
        let stream = server.open(&format!("{}\r\n", head(100 << 20)));
        let mut writer = stream.try_clone().unwrap();
        // Whoever is refused may be cut off while it still sends.
        let sender = thread::spawn(move || {
            let piece = vec![b' '; 1 << 20];
            (0..100).all(|_| writer.write_all(&piece).is_ok())
        });
        let answer = rest(stream);
        let whole = sender.join().unwrap();
        assert!(!whole || !answer.is_empty());
        if !answer.is_empty() {
            assert_eq!(read(&answer).status, 413);
        }
        // The same in chunks, whose length nobody says.
        let chunked = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut stream = server.open(chunked);
        let piece = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
        while stream.write_all(piece.as_bytes()).is_ok() {}
    });
}

#[test]
fn who_leaves_has_its_answer_cancelled() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &["--parallel", "4", "-c", "4096"]);
    for stream in [true, false] {
        let long = json!({ "max_tokens": 4000, "ignore_eos": true, "stream": stream, "n": 8 });
        let long = request(TEXT, &with(&asked(), long).to_string(), "");
        beside(&server, || {
            for _ in 0..8 {
                let mut caller = server.open(&long);
                if stream {
                    caller.read_exact(&mut [0; 64]).unwrap(); // it has begun
                }
            }
        });
        let metrics = server.get("/metrics").body;
        let told = metrics.lines().find_map(|line| line.strip_prefix("herd_answer_tokens_total "));
        let tokens: f64 = told.unwrap().parse().unwrap();
        assert!(tokens < 4000.0 * 64.0, "{tokens} tokens for nobody");
    }
}

#[test]
fn what_is_no_request_is_refused() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &["--patience", "1"]);
    let posted = |body: &[u8]| {
        let head = head(body.len()).replace("Host", "Connection: close\r\nHost");
        status(server.open_bytes(&[head.as_bytes(), b"\r\n", body].concat()))
    };
    beside(&server, || {
        for body in [
            &b"{\"model\": \"tiny\", \"prompt\": \"\xff\xfe\"}"[..],
            b"{\"model\": \"tiny\", \"prompt\": \"\\ud800\"}",
            b"{\"model\": \"tiny\", \"prompt\": \"x\"",
            b"{\"model\": \"tiny\", \"prompt\": \"x\"} {}",
            b"{\"model\": \"tiny\", \"prompt\": \"x\", \"seed\": 1, \"seed\": 2}",
            b"{\"model\": \"tiny\", \"prompt\": \"x\", \"temperature\": NaN}",
            b"{\"model\": \"tiny\", \"prompt\": \"x\", \"temperature\": 1e999}",
            b"",
            b"\0\0\0",
            "[".repeat(1 << 20).as_bytes(),
            format!("{}1{}", "{\"model\":".repeat(100_000), "}".repeat(100_000)).as_bytes(),
            format!("{{\"model\": \"tiny\", \"prompt\": {}}}", "9".repeat(1 << 16)).as_bytes(),
        ] {
            assert_eq!(posted(body), Some(400), "{:?}", &body[..body.len().min(80)]);
        }
    });
}

#[test]
fn what_is_no_http_ends_its_own_connection() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &["--patience", "1"]);
    let chunked =
        format!("POST {TEXT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    let huge = format!(
        "GET /health HTTP/1.1\r\nHost: localhost\r\nX-Huge: {}\r\n\r\n",
        "x".repeat(1 << 20)
    );
    let many =
        format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X-More: 1\r\n".repeat(1000));
    beside(&server, || {
        for (bytes, statuses) in [
            (format!("{chunked}zz\r\n{{}}\r\n0\r\n\r\n"), &[400][..]),
            (format!("{chunked}ffffffffffffffff\r\n{{"), &[400, 408, 413]),
            (format!("{chunked}-1\r\n{{}}\r\n"), &[400]),
            (format!("{}Content-Length: 3\r\n\r\nabc", head(2)), &[400]),
            (head(2).replace("Length: 2", "Length: two") + "\r\n{}", &[400]),
            (huge.clone(), &[400, 431]),
            (many.clone(), &[400, 431]),
            ("GET /health HTTP/9.9\r\nHost: localhost\r\n\r\n".into(), &[400, 505]),
            ("\u{16}\u{3}\u{1} hello, is this TLS?\r\n\r\n".into(), &[400]),
            ("GET /\u{1}\u{2} HTTP/1.1\r\nHost: localhost\r\n\r\n".into(), &[400]),
            ("\r\n\r\n\r\n".into(), &[400]),
        ] {
            // What is sent into a closed door may fail; what came back before counts.
            let mut stream = TcpStream::connect(server.address).unwrap();
            let _ = stream.write_all(bytes.as_bytes());
            if let Some(status) = status(stream) {
                assert!(
                    statuses.contains(&status),
                    "{status} for {:?}",
                    &bytes[..60.min(bytes.len())]
                );
            }
        }
    });
}

#[test]
fn one_connection_may_ask_again_and_ahead_and_in_the_older_tongue() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &[]);
    let body = with(&asked(), json!({ "max_tokens": 4 })).to_string();
    let one = format!("{}\r\n{body}", head(body.len()));
    let last = request(TEXT, &body, "");
    // Three at once, on one connection: the answers come in their order.
    let answers = rest(server.open(&format!("{one}{one}{last}")));
    let text = String::from_utf8(answers).unwrap();
    let answers: Vec<&str> = text.split("HTTP/1.1 ").skip(1).collect();
    assert_eq!(answers.len(), 3);
    let said = |answer: &str| -> Value {
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    };
    assert!(answers.iter().all(|answer| said(answer)["choices"] == said(answers[0])["choices"]));
    // HTTP/1.0: no chunks, and the connection is closed.
    let stream = with(&asked(), json!({ "max_tokens": 4, "stream": true })).to_string();
    let old = format!("POST {TEXT} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{stream}", stream.len());
    let answer = read(&rest(server.open(&old)));
    assert_eq!((answer.status, answer.header("transfer-encoding")), (200, None));
    let text: String = answer
        .events()
        .iter()
        .filter_map(|event| event["choices"][0]["text"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(text, said(answers[0])["choices"][0]["text"].as_str().unwrap());
}

#[test]
fn killed_under_load_it_starts_again_on_the_same_port_with_the_same_answers() {
    let (home, model) = tiny::home();
    let mut server = Server::start(home.path(), &model, &["--parallel", "4"]);
    let alone = server.post(TEXT, &asked()).json()["choices"].clone();
    let long = json!({ "max_tokens": 400, "ignore_eos": true, "stream": true });
    let long = request(TEXT, &with(&asked(), long).to_string(), "");
    let mut callers: Vec<TcpStream> = (0..16).map(|_| server.open(&long)).collect();
    callers[0].read_exact(&mut [0; 64]).unwrap(); // it has begun
    server.child.kill().unwrap(); // SIGKILL
    server.child.wait().unwrap();
    callers.into_iter().for_each(|caller| drop(rest(caller))); // each ends
    let port = server.address.port();
    let again = Server::start_at(home.path(), &model, port, &["--parallel", "4"]);
    assert_eq!(again.address.port(), port);
    assert_eq!(again.post(TEXT, &asked()).json()["choices"], alone);
}

#[test]
fn forms_that_would_take_for_ever_are_refused() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &[]);
    let chat = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "x" }], "max_tokens": 4 });
    let deep = (0..100).fold(json!({ "type": "string" }), |inner, _| json!({ "items": inner }));
    let wide: Value = (0..2000).map(|i| json!({ "const": i })).collect();
    beside(&server, || {
        for fields in [
            json!({ "guided_regex": "((a{1,1000}){1,1000}){1,1000}" }),
            json!({ "guided_regex": "(.*a){40}b" }),
            json!({ "json_schema": deep }),
            json!({ "json_schema": { "anyOf": wide } }),
            json!({ "json_schema": { "type": "string", "pattern": "^(a|b|c){1,100000}$" } }),
            json!({ "json_schema": { "type": "array", "minItems": 1_000_000, "items": { "type": "integer" } } }),
            json!({ "json_schema": { "$ref": "#" } }),
            json!({ "json_schema": { "allOf": [{ "$ref": "#" }] } }),
            json!({ "grammar": "start: start start | \"\"" }),
            json!({ "guided_choice": vec!["x".repeat(1000); 1000] }),
        ] {
            let reply = server.post(CHAT, &with(&chat, fields.clone()));
            assert!([200, 400].contains(&reply.status), "{fields}: {}", reply.body);
        }
    });
}
