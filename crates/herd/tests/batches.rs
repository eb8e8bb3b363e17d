//! Files and batches: given, answered beside users, once each whatever happens, and gone on with after a kill.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;
#[path = "common/server.rs"]
mod server;
#[path = "common/tiny.rs"]
mod tiny;

use std::collections::BTreeMap;
use std::path::Path;

use common::run;
use serde_json::{Value, json};
use server::{Reply, Server, TEXT};

const BATCHES: &str = "/v1/batches";

fn upload_as(server: &Server, text: &str, name: &str, purpose: &str, head: &str) -> Reply {
    let part = "Content-Disposition: form-data; name=";
    let body = format!(
        "--cut\r\n{part}\"purpose\"\r\n\r\n{purpose}\r\n--cut\r\n{part}\"file\"; filename=\"{name}\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n{text}\r\n--cut--\r\n"
    );
    server.send(&format!(
        "POST /v1/files HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{head}\
         Content-Type: multipart/form-data; boundary=cut\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}

fn upload(server: &Server, text: &str) -> String {
    let reply = upload_as(server, text, "rows.jsonl", "batch", "");
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json()["id"].as_str().unwrap().to_owned()
}

fn row(name: &str, more: Value) -> String {
    let mut body =
        json!({ "model": "tiny", "prompt": name, "max_tokens": 8, "seed": 7, "ignore_eos": true });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    json!({ "custom_id": name, "method": "POST", "url": TEXT, "body": body }).to_string()
}

fn begin(server: &Server, file: &str) -> String {
    let body = json!({ "input_file_id": file, "endpoint": TEXT, "completion_window": "24h" });
    let reply = server.post(BATCHES, &body);
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json()["id"].as_str().unwrap().to_owned()
}

fn over(server: &Server, id: &str) -> Value {
    let open = ["validating", "in_progress", "finalizing", "cancelling"];
    server.wait(&format!("{BATCHES}/{id}"), |b| !open.contains(&b["status"].as_str().unwrap()))
}

/// The rows of a file of answers, by their own names; each may stand there once.
fn answers(server: &Server, file: &Value) -> BTreeMap<String, Value> {
    let text = server.get(&format!("/v1/files/{}/content", file.as_str().unwrap())).body;
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let name = row["custom_id"].as_str().unwrap().to_owned();
        assert!(rows.insert(name.clone(), row).is_none(), "{name} was answered twice");
    }
    rows
}

fn start(home: &Path, model: &Path, more: &[&str]) -> Server {
    Server::start(home, model, more)
}

#[test]
fn a_batch_answers_each_row_as_a_user_would_be_answered() {
    let (home, model) = tiny::home();
    let server = start(home.path(), &model, &[]);
    let rows = [
        row("a", json!({})),
        row("b", json!({ "top_p": 7 })),
        row("c", json!({ "stream": true })),
        row("d", json!({ "model": "other" })),
        row("e", json!({ "n": 2 })),
    ];
    let file = upload(&server, &(rows.join("\n") + "\n"));
    let id = begin(&server, &file);
    let batch = over(&server, &id);
    assert_eq!(batch["status"], "completed", "{batch}");
    assert_eq!(batch["request_counts"], json!({ "total": 5, "completed": 2, "failed": 3 }));
    assert!(batch["completed_at"].is_u64() && batch["in_progress_at"].is_u64(), "{batch}");
    let good = answers(&server, &batch["output_file_id"]);
    assert_eq!(good.keys().collect::<Vec<_>>(), ["a", "e"]);
    let body: Value = serde_json::from_str::<Value>(&rows[0]).unwrap()["body"].clone();
    let alone = server.post(TEXT, &body).json();
    let response = &good["a"]["response"];
    assert_eq!(response["status_code"], 200);
    assert_eq!(response["body"]["choices"], alone["choices"]);
    let bad = answers(&server, &batch["error_file_id"]);
    let status = |name: &str| bad[name]["response"]["status_code"].as_u64().unwrap();
    assert_eq!((status("b"), status("c"), status("d")), (400, 400, 404));
    assert_eq!(bad["b"]["response"]["body"]["error"]["param"], "top_p");
    let list = server.get(BATCHES).json();
    assert_eq!(list["data"][0]["id"], id.as_str());
    let reply = server.post(&format!("{BATCHES}/{id}/cancel"), &json!({}));
    assert_eq!(reply.status, 409, "{}", reply.body);
}

#[test]
fn a_kill_costs_no_row_and_answers_none_twice() {
    let (home, model) = tiny::home();
    let names: Vec<String> = (0..160).map(|i| format!("row-{i}")).collect();
    let text: Vec<String> =
        names.iter().map(|name| row(name, json!({ "max_tokens": 60 }))).collect();
    let id = {
        let mut server = start(home.path(), &model, &["--parallel", "4"]);
        let file = upload(&server, &text.join("\n"));
        let id = begin(&server, &file);
        let path = format!("{BATCHES}/{id}");
        server.wait(&path, |b| b["request_counts"]["completed"].as_u64() > Some(5));
        let reply = server.delete(&format!("/v1/files/{file}"));
        assert_eq!(reply.status, 409, "{}", reply.body);
        server.child.kill().unwrap();
        server.child.wait().unwrap();
        id
    };
    let server = start(home.path(), &model, &["--parallel", "4"]);
    let batch = over(&server, &id);
    assert_eq!(batch["request_counts"]["completed"], 160, "{batch}");
    let good = answers(&server, &batch["output_file_id"]);
    assert_eq!(good.len(), names.len());
    for name in [&names[0], &names[3], &names[159]] {
        let body = serde_json::from_str::<Value>(&row(name, json!({ "max_tokens": 60 }))).unwrap();
        let alone = server.post(TEXT, &body["body"]).json();
        assert_eq!(good[name]["response"]["body"]["choices"], alone["choices"], "{name}");
    }
}

#[test]
fn wrong_batches_are_told_by_line_and_running_ones_can_be_ended() {
    let (home, model) = tiny::home();
    let server = start(home.path(), &model, &["--parallel", "2"]);
    let file = upload(&server, &format!("{}\n{{}}\n", row("a", json!({}))));
    let batch = over(&server, &begin(&server, &file));
    assert_eq!(
        (batch["status"].as_str(), batch["errors"]["data"][0]["line"].as_u64()),
        (Some("failed"), Some(2))
    );
    for (body, field) in [
        (
            json!({ "input_file_id": "file-0", "endpoint": TEXT, "completion_window": "24h" }),
            "input_file_id",
        ),
        (
            json!({ "input_file_id": file, "endpoint": "/v1/x", "completion_window": "24h" }),
            "endpoint",
        ),
        (
            json!({ "input_file_id": file, "endpoint": TEXT, "completion_window": "1h" }),
            "completion_window",
        ),
    ] {
        let reply = server.post(BATCHES, &body);
        assert_eq!((reply.status, reply.field().as_deref()), (400, Some(field)), "{}", reply.body);
    }
    let rows: Vec<String> =
        (0..400).map(|i| row(&format!("r{i}"), json!({ "max_tokens": 200 }))).collect();
    let id = begin(&server, &upload(&server, &rows.join("\n")));
    let path = format!("{BATCHES}/{id}");
    server.wait(&path, |b| b["request_counts"]["completed"].as_u64() > Some(0));
    let reply = server.post(&format!("{path}/cancel"), &json!({}));
    assert_eq!(reply.status, 200, "{}", reply.body);
    let batch = over(&server, &id);
    assert_eq!(batch["status"], "cancelled", "{batch}");
    // What was answered is given.
    let done = batch["request_counts"]["completed"].as_u64().unwrap();
    assert_eq!(answers(&server, &batch["output_file_id"]).len() as u64, done);
    server.wait_until_idle();
}

#[test]
fn files_have_bounds_owners_and_harmless_names() {
    let (home, model) = tiny::home();
    let args = ["--file-mb", "1", "--files-mb", "2", "--api-key", "one", "--api-key", "two"];
    let server = start(home.path(), &model, &args);
    let key = |key: &str| format!("Authorization: Bearer {key}\r\n");
    let put = |text: &str, name: &str, purpose: &str| {
        upload_as(&server, text, name, purpose, &key("one"))
    };
    let reply = put("hello", "../../etc/pass\\wd", "assistants");
    assert_eq!(reply.status, 200, "{}", reply.body);
    let file = reply.json();
    assert_eq!((&file["filename"], &file["bytes"]), (&json!("wd"), &json!(5)));
    let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
    let get = |path: &str, who: &str| server.get_with(path, &key(who));
    assert_eq!(get(&format!("{path}/content"), "one").body, "hello");
    assert_eq!((get(&path, "one").status, get(&path, "two").status), (200, 404));
    assert_eq!(get("/v1/files", "two").json()["data"], json!([]));
    for (text, purpose, status, words) in [
        ("x", "fine-tune", 400, "purpose"),
        (&*"x".repeat((1 << 20) + 1), "batch", 413, "exceeds 1048576 bytes"),
    ] {
        let reply = put(text, "a", purpose);
        assert_eq!(reply.status, status, "{}", reply.body);
        assert!(reply.body.contains(words), "{}", reply.body);
    }
    let full = "x".repeat(1 << 20);
    assert_eq!(put(&full, "a", "batch").status, 200);
    let reply = put(&full, "a", "batch");
    assert_eq!((reply.status, reply.json()["error"]["code"].clone()), (507, json!("no_space")));
    for wrong in ["/v1/files/..%2f..%2flock", "/v1/files/file-0/content", "/v1/files?limit=x"] {
        assert!([400, 404].contains(&get(wrong, "one").status), "{wrong}");
    }
    let body = "--cut\r\nbroken";
    let broken = format!(
        "POST /v1/files HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{}\
         Content-Type: multipart/form-data; boundary=cut\r\nContent-Length: {}\r\n\r\n{body}",
        key("one"),
        body.len()
    );
    assert_eq!(server.send(&broken).status, 400);
    let removed = server.send(&format!(
        "DELETE {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{}\r\n",
        key("one")
    ));
    assert_eq!(removed.json()["deleted"], true);
    assert_eq!(get(&path, "one").status, 404);
    // What was begun and not kept leaves nothing behind.
    let left = std::fs::read_dir(home.path().join("files/coming")).unwrap().count();
    assert_eq!(left, 0);
}

#[test]
fn a_folder_of_files_has_one_server() {
    let (home, model) = tiny::home();
    let folder = home.path().join("mine");
    let folder = folder.to_str().unwrap();
    let _server = start(home.path(), &model, &["--files-dir", folder]);
    let args = ["serve", "-m", model.to_str().unwrap(), "--port", "0", "--files-dir", folder];
    let (code, _, err) = run(home.path(), &args);
    assert!(code == 2 && err.contains("is another server's") && err.contains("hint"), "{err}");
}
