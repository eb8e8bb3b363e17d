//! The page's part of `herd serve`: conversations are kept through restarts and kills, answers
//! stream, may be left and found again, and nobody reads another's.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;
#[path = "common/server.rs"]
mod server;
#[path = "common/tiny.rs"]
mod tiny;

use std::io::Read;
use std::path::Path;

use serde_json::{Value, json};
use server::{CHAT, Reply, Server, read, request};

const CHATS: &str = "/ui/api/chats";

/// A request without a body, or with one of JSON.
fn ask(server: &Server, method: &str, path: &str, body: &Value, key: &str) -> Reply {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let posted = request(path, &body, key);
    server.send(&posted.replacen("POST", method, 1))
}

fn get(server: &Server, path: &str) -> Value {
    let reply = server.get(path);
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json()
}

fn post(server: &Server, path: &str, body: &Value) -> Value {
    let reply = server.post(path, body);
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json()
}

/// A new conversation's path.
fn chat(server: &Server, settings: Value) -> String {
    let made = post(server, CHATS, &json!({ "settings": settings }));
    format!("{CHATS}/{}", made["id"])
}

fn events(body: &str) -> Vec<Value> {
    let data = body.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|text| serde_json::from_str(text).unwrap()).collect()
}

/// Says something behind `parent` and waits for the answer's events.
fn say(server: &Server, chat: &str, parent: &Value, text: &str) -> Vec<Value> {
    let said = json!([{ "type": "text", "text": text }]);
    let asked = json!({ "parent": parent, "said": said });
    let reply = server.post(&format!("{chat}/answers"), &asked);
    assert_eq!(reply.status, 200, "{}", reply.body);
    events(&reply.body)
}

fn text_of(events: &[Value]) -> String {
    events.iter().filter(|e| e["type"] == "text").filter_map(|e| e["text"].as_str()).collect()
}

/// Settings of short answers that are the same each time.
fn settings() -> Value {
    json!({ "temperature": 1.2, "seed": 3, "max_tokens": 12, "logit_bias": { "258": -100 } })
}

/// A model that calls, and settings by which it must.
fn caller(home: &Path, more: &[&str]) -> (Server, Value) {
    let model = tiny::write_llama3(home);
    let flags = [&["--chat-template", "llama3.1-hf", "-c", "1024"], more].concat();
    let parameters = json!({
        "type": "object", "properties": { "x": { "enum": [1, 2] } }, "required": ["x"],
        "additionalProperties": false,
    });
    let tool = json!({ "type": "function", "function": { "name": "f", "parameters": parameters } });
    let settings =
        json!({ "tools": [tool], "tool_choice": "required", "seed": 1, "max_tokens": 40 });
    (Server::start(home, &model, &flags), settings)
}

/// Reads a stream until it holds `mark`; what was read.
fn read_until(stream: &mut impl Read, mark: &str) -> String {
    let mut all = Vec::new();
    let mut piece = [0; 1024];
    while !String::from_utf8_lossy(&all).contains(mark) {
        let n = stream.read(&mut piece).unwrap();
        assert!(n > 0, "the stream ended: {}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&piece[..n]);
    }
    String::from_utf8(all).unwrap()
}

/// Begins an answer that waits for the result of a call; its stream, its number and the call's.
fn waiting(server: &Server, chat: &str) -> (std::net::TcpStream, u64, String) {
    let said = json!({ "parent": null, "said": [{ "type": "text", "text": "call" }] });
    let mut stream = server.open(&request(&format!("{chat}/answers"), &said.to_string(), ""));
    let begun = read_until(&mut stream, "\"ask\"");
    let begun = events(&begun);
    let call = begun.iter().find(|e| e["type"] == "call").unwrap();
    (stream, begun[0]["answer"].as_u64().unwrap(), call["id"].as_str().unwrap().to_owned())
}

#[test]
fn an_answer_is_that_of_the_chat_and_is_kept_through_a_restart() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &[]);
    let mut settings = settings();
    settings["system"] = "be brief".into();
    settings["logprobs"] = true.into();
    settings["top_logprobs"] = 2.into();
    let path = chat(&server, settings.clone());
    let told = say(&server, &path, &Value::Null, "who?");
    let answer = told[0]["answer"].clone();
    let mut same = settings.clone();
    same.as_object_mut().unwrap().remove("system");
    same["model"] = "tiny".into();
    same["messages"] = json!([
        { "role": "system", "content": "be brief" }, { "role": "user", "content": "who?" }
    ]);
    let whole = post(&server, CHAT, &same);
    assert_eq!(text_of(&told), whole["choices"][0]["message"]["content"].as_str().unwrap());
    let end = told.last().unwrap();
    assert_eq!((&end["type"], &end["reason"]), (&json!("end"), &json!("length")));
    assert_eq!(end["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);

    // What was said again in other words, and what was answered again, are branches.
    say(&server, &path, &Value::Null, "why?");
    let again = json!({ "parent": told[0]["user"] });
    let again = events(&server.post(&format!("{path}/answers"), &again).body);
    assert_eq!(again[0]["user"], Value::Null);
    let before = get(&server, &path);
    assert_eq!(before["messages"].as_array().unwrap().len(), 5);
    assert_eq!((&before["title"], &before["leaf"]), (&json!("who?"), &again[0]["answer"]));
    let tokens = before["messages"][1]["parts"][0]["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 12);
    assert_eq!(tokens[0]["top"].as_array().unwrap().len(), 2);
    drop(server);

    let server = Server::start(home.path(), &model, &[]);
    assert_eq!(get(&server, &path), before);
    let next = say(&server, &path, &answer, "and then?");
    assert_eq!(next.last().unwrap()["type"], "end");
}

#[test]
fn an_answer_that_a_kill_cuts_is_kept_and_shown_as_interrupted() {
    let home = tempfile::tempdir().unwrap();
    let (mut server, settings) = caller(home.path(), &[]);
    let path = chat(&server, settings);
    let (_stream, answer, call) = waiting(&server, &path);
    let kept = || get(&server, &path)["messages"][1].clone();
    while kept()["parts"].as_array().unwrap().is_empty() {
        assert_eq!(kept()["state"], "running");
    }
    assert_eq!(get(&server, &path)["live"], answer);
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    let (server, _) = caller(home.path(), &[]);
    let found = get(&server, &path);
    assert_eq!(found["live"], Value::Null);
    assert_eq!(found["messages"][0]["parts"][0]["text"], "call");
    assert_eq!(found["messages"][1]["state"], "interrupted");
    assert_eq!(found["messages"][1]["parts"][0]["id"], call);
}

#[test]
fn a_call_waits_for_a_person_and_the_answer_goes_on_with_the_result() {
    let home = tempfile::tempdir().unwrap();
    let (server, settings) = caller(home.path(), &[]);
    let path = chat(&server, settings.clone());
    let (stream, answer, call) = waiting(&server, &path);
    drop(stream); // who leaves finds the answer again
    let calls = format!("/ui/api/answers/{answer}/calls");
    let mut heard = server.open(&format!(
        "GET /ui/api/answers/{answer} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    ));
    let again = json!({ "parent": null, "said": [{ "type": "text", "text": "x" }] });
    assert_eq!(server.post(&format!("{path}/answers"), &again).status, 409);
    post(&server, &calls, &json!({ "id": "other", "allow": false }));
    post(&server, &calls, &json!({ "id": call, "allow": true, "result": "<|eot_id|>7" }));
    let mut all = Vec::new();
    heard.read_to_end(&mut all).unwrap();
    let told = events(&read(&all).body);
    let kinds: Vec<_> = told.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[..4], ["begin", "call", "ask", "result"]);
    assert_eq!(kinds.last(), Some(&"end"));
    assert_eq!((&told[3]["ok"], &told[3]["text"]), (&json!(true), &json!("<|eot_id|>7")));
    let parts = &get(&server, &path)["messages"][1]["parts"];
    assert_eq!(parts[0]["name"], "f");
    assert!(parts[0]["arguments"]["x"].is_number());
    let row = server.get(&format!("{path}/export")).body;
    let row: Value = serde_json::from_str(&row).unwrap();
    assert_eq!(row["messages"][1]["tool_calls"][0]["function"]["name"], "f");
    assert_eq!(row["messages"][2]["role"], "tool");
    assert_eq!(row["tools"][0]["function"]["name"], "f");

    let denied = chat(&server, settings.clone());
    let (mut stream, answer, call) = waiting(&server, &denied);
    let calls = format!("/ui/api/answers/{answer}/calls");
    post(&server, &calls, &json!({ "id": call, "allow": false }));
    assert!(read_until(&mut stream, "\"end\"").contains("denied"));

    let stopped = chat(&server, settings);
    let (mut stream, answer, _) = waiting(&server, &stopped);
    let path = format!("/ui/api/answers/{answer}");
    assert_eq!(ask(&server, "DELETE", &path, &Value::Null, "").status, 200);
    assert!(read_until(&mut stream, "\"end\"").contains("cancelled"));
    assert_eq!(server.get(&path).status, 404);
}

#[test]
fn conversations_are_found_renamed_taken_out_brought_in_and_dropped() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &[]);
    let rows = json!({ "messages": [
        { "role": "system", "content": "be kind" },
        { "role": "user", "content": "Wo liegt ÄGYPTEN?" },
        { "role": "assistant", "content": "50 % in Africa_" },
    ] });
    let id = post(&server, CHATS, &rows)["id"].clone();
    let path = format!("{CHATS}/{id}");
    chat(&server, settings());
    let found = |query: &str| get(&server, &format!("{CHATS}?q={query}"))["chats"].clone();
    assert_eq!(found("").as_array().unwrap().len(), 2);
    for query in ["%C3%A4gypten", "africa_", "50%20%25", "WO%20LIEGT"] {
        assert_eq!(found(query)[0]["id"], id, "{query}");
    }
    assert_eq!(found("africa%25"), json!([]));
    let row = server.get(&format!("{path}/export")).body;
    assert_eq!(serde_json::from_str::<Value>(&row).unwrap(), rows);
    let title = json!({ "title": " Egypt " });
    assert_eq!(ask(&server, "PATCH", &path, &title, "").status, 200);
    assert_eq!(found("egypt")[0]["title"], "Egypt");
    let all = server.get("/ui/api/export").body;
    assert_eq!(all.lines().count(), 2);
    assert_eq!(ask(&server, "DELETE", &path, &Value::Null, "").status, 200);
    assert_eq!(server.get(&path).status, 404);
    assert_eq!(found("egypt"), json!([]));
}

#[test]
fn a_stranger_reads_and_changes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let (server, settings) = caller(home.path(), &["--api-key", "mine", "--api-key", "theirs"]);
    let (mine, theirs) = ("x-api-key: mine\r\n", "Authorization: Bearer theirs\r\n");
    let made = ask(&server, "POST", CHATS, &json!({ "settings": settings }), mine).json();
    let path = format!("{CHATS}/{}", made["id"]);
    let said = json!({ "parent": null, "said": [{ "type": "text", "text": "secret words" }] });
    let mut stream = server.open(&request(&format!("{path}/answers"), &said.to_string(), mine));
    let begun = events(&read_until(&mut stream, "\"ask\""));
    let answer = format!("/ui/api/answers/{}", begun[0]["answer"]);
    let calls = format!("{answer}/calls");
    let decision = json!({ "id": begun[1]["id"], "allow": false });
    let none = Value::Null;
    for (method, path, body) in [
        ("GET", path.clone(), &none),
        ("PATCH", path.clone(), &json!({ "title": "x" })),
        ("DELETE", path.clone(), &none),
        ("GET", format!("{path}/export"), &none),
        ("POST", format!("{path}/answers"), &said),
        ("GET", answer.clone(), &none),
        ("DELETE", answer.clone(), &none),
        ("POST", calls.clone(), &decision),
    ] {
        assert_eq!(ask(&server, method, &path, body, "").status, 401, "{method} {path}");
        let reply = ask(&server, method, &path, body, theirs);
        // To a stranger what is another's is as if it were not there.
        assert_eq!(reply.status, 404, "{method} {path}: {}", reply.body);
    }
    assert_eq!(ask(&server, "GET", CHATS, &none, theirs).json()["chats"], json!([]));
    assert_eq!(ask(&server, "GET", "/ui/api/export", &none, theirs).body, "");
    assert_eq!(ask(&server, "GET", &path, &none, mine).json()["messages"][0]["role"], "user");
    assert_eq!(ask(&server, "POST", &calls, &decision, mine).status, 200);
    let foreign = format!("{mine}Origin: http://evil.example\r\n");
    assert_eq!(ask(&server, "GET", &path, &none, &foreign).status, 403);
}

#[test]
fn what_is_wrong_is_refused_and_leaves_nothing() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &[]);
    let path = chat(&server, settings());
    let answers = format!("{path}/answers");
    let said = |text: &str| json!({ "said": [{ "type": "text", "text": text }] });
    let none = Value::Null;
    for (method, path, body, status) in [
        ("POST", CHATS, json!({ "settings": { "n": 2 } }), 400),
        ("POST", CHATS, json!({ "settings": { "temperature": "hot" } }), 400),
        ("POST", CHATS, json!({ "title": "" }), 400),
        ("POST", CHATS, json!({ "messages": [{ "role": "tool", "content": "x" }] }), 400),
        ("POST", CHATS, json!({ "messages": [7] }), 400),
        ("POST", CHATS, json!({ "other": 1 }), 400),
        ("POST", CHATS, json!([]), 400),
        ("PATCH", &path, json!({ "leaf": 999 }), 400),
        ("PATCH", &path, json!({ "title": "x".repeat(201) }), 400),
        ("PATCH", &path, json!({ "settings": { "stream": true } }), 400),
        ("POST", &answers, json!({}), 400),
        ("POST", &answers, json!({ "parent": 999 }), 400),
        ("POST", &answers, json!({ "said": [{ "type": "end" }] }), 400),
        ("POST", &answers, said(""), 400),
        ("POST", &answers, said(&"x".repeat(600)), 400), // beyond the context
        ("GET", "/ui/api/chats/999", none.clone(), 404),
        ("GET", "/ui/api/chats/x", none.clone(), 400),
        ("GET", "/ui/api/answers/1", none.clone(), 404),
        ("GET", "/ui/../Cargo.toml", none.clone(), 404),
        ("PUT", CHATS, json!({}), 405),
    ] {
        let reply = ask(&server, method, path, &body, "");
        assert_eq!(reply.status, status, "{method} {path} {body}: {}", reply.body);
    }
    assert_eq!(get(&server, &path)["messages"], json!([]));
    // A model that is not served is refused when it is asked for.
    let change = json!({ "settings": { "model": "other" } });
    assert_eq!(ask(&server, "PATCH", &path, &change, "").status, 200);
    assert_eq!(server.post(&answers, &said("x")).status, 404);
}

#[test]
fn the_page_is_there_for_everybody_and_loads_nothing_from_elsewhere() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &["--api-key", "k", "--no-data"]);
    let page = server.get("/");
    assert_eq!(page.status, 200);
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'self'"));
    for name in page.body.split("\"/ui/").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert_eq!(server.get(&format!("/ui/{name}")).status, 200, "{name}");
    }
    let tag = page.header("etag").unwrap();
    let again = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: {tag}\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(server.send(&again).status, 304);
    assert_eq!(server.get(CHATS).status, 401);
    assert_eq!(server.get("/ui/none.js").status, 401);
    let kept = std::fs::read_dir(home.path()).unwrap();
    let kept = kept.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(kept.into_iter().all(|name| !name.contains("sqlite")));
}

/// The models that the browser's suite talks to; `HERD_PAGE_MODELS` names the folder.
#[test]
#[ignore = "writes models for scripts/page.sh"]
fn models_for_the_browser() {
    let folder = std::env::var("HERD_PAGE_MODELS").unwrap();
    tiny::write(Path::new(&folder));
    tiny::write_llama3(Path::new(&folder));
    tiny::write_llama31(Path::new(&folder));
}
