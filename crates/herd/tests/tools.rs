//! Tools that `herd serve` runs: for the page's conversations, each with its own, and for other programs by `/mcp`.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;
#[path = "common/server.rs"]
mod server;
#[path = "common/tiny.rs"]
mod tiny;

use std::io::Read;
use std::path::Path;

use serde_json::{Value, json};
use server::{Reply, Server, request};

const CHATS: &str = "/ui/api/chats";

/// A server of the model that calls.
fn serve(home: &Path, more: &[&str]) -> Server {
    let model = tiny::write_llama31(home);
    let flags = ["--chat-template", "llama3.1-hf", "-c", "4096", "--tools", "calc,python,search"];
    Server::start(home, &model, &[&flags[..], more].concat())
}

/// Settings by which a server's tool is called with this argument: its schema here allows nothing else.
fn forced(tool: &str, argument: &str, value: &str) -> Value {
    let parameters = json!({
        "type": "object", "properties": { argument: { "enum": [value] } }, "required": [argument],
        "additionalProperties": false,
    });
    let function = json!({ "name": tool, "parameters": parameters });
    json!({
        "tools": [{ "type": "function", "function": function }], "seed": 1, "max_tokens": 400,
        "tool_choice": { "type": "function", "function": { "name": tool } },
        "temperature": 0.7, "logit_bias": { "259": 8 },
    })
}

fn python(code: &str) -> Value {
    forced("python", "code", code)
}

fn ask(server: &Server, method: &str, path: &str, body: &Value, head: &str) -> Reply {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    server.send(&request(path, &body, head).replacen("POST", method, 1))
}

/// A new conversation's path.
fn chat(server: &Server, settings: &Value, head: &str) -> String {
    let made = ask(server, "POST", CHATS, &json!({ "settings": settings }), head);
    assert_eq!(made.status, 200, "{}", made.body);
    format!("{CHATS}/{}", made.json()["id"])
}

fn events(body: &str) -> Vec<Value> {
    let data = body.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|text| serde_json::from_str(text).unwrap()).collect()
}

/// Says these parts behind `parent` and waits for the answer's events.
fn say(server: &Server, chat: &str, parent: &Value, said: &Value, head: &str) -> Vec<Value> {
    let asked = json!({ "parent": parent, "said": said });
    let reply = ask(server, "POST", &format!("{chat}/answers"), &asked, head);
    assert_eq!(reply.status, 200, "{}", reply.body);
    let told = events(&reply.body);
    let end = told.last().unwrap();
    assert!(end["reason"] == "stop" || end["reason"] == "length", "{end}");
    told
}

fn go() -> Value {
    json!([{ "type": "text", "text": "go" }])
}

/// The only event of this type.
fn one<'a>(events: &'a [Value], kind: &str) -> &'a Value {
    let mut found = events.iter().filter(|event| event["type"] == kind);
    let first = found.next().unwrap_or_else(|| panic!("no {kind} in {events:?}"));
    assert!(found.next().is_none(), "two of {kind} in {events:?}");
    first
}

/// What the one call of an answer gave.
fn result_of(server: &Server, settings: &Value) -> Value {
    let told = say(server, &chat(server, settings, ""), &Value::Null, &go(), "");
    one(&told, "result").clone()
}

/// Begins an answer, reads until `mark`, and gives the stream and what was told.
fn begin(server: &Server, chat: &str, mark: &str) -> (std::net::TcpStream, Vec<Value>) {
    let said = json!({ "parent": null, "said": go() });
    let mut stream = server.open(&request(&format!("{chat}/answers"), &said.to_string(), ""));
    let mut all = Vec::new();
    let mut piece = [0; 1024];
    while !String::from_utf8_lossy(&all).contains(mark) {
        let n = stream.read(&mut piece).unwrap();
        assert!(n > 0, "the stream ended: {}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&piece[..n]);
    }
    (stream, events(&String::from_utf8_lossy(&all)))
}

fn rest(mut stream: std::net::TcpStream) -> String {
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    all
}

#[test]
fn a_call_of_the_servers_tool_is_run_and_its_result_is_kept() {
    let home = tempfile::tempdir().unwrap();
    let server = serve(home.path(), &[]);
    let path = chat(&server, &forced("calc", "query", "2^100"), "");
    let told = say(&server, &path, &Value::Null, &go(), "");
    assert_eq!(one(&told, "call")["arguments"], json!({ "query": "2^100" }));
    let result = one(&told, "result");
    assert_eq!(result["text"], "1267650600228229401496703205376");
    assert_eq!(result["ok"], true);
    assert!(result["seconds"].is_number());
    assert!(told.iter().all(|event| event["type"] != "ask"));
    drop(server);
    let server = serve(home.path(), &[]);
    let kept = server.get(&path).json();
    assert_eq!(kept["messages"][1]["parts"][1], *result);
    let listed = server.get("/ui/api/tools").json();
    let rules = listed["tools"].as_array().unwrap().iter().map(|t| (&t["name"], &t["rule"]));
    let rules: Vec<_> = rules.map(|(n, r)| (n.as_str().unwrap(), r.as_str().unwrap())).collect();
    assert_eq!(rules, [("calc", "always"), ("python", "always"), ("search", "always")]);
}

#[test]
fn a_tool_that_is_switched_off_is_not_run() {
    let home = tempfile::tempdir().unwrap();
    let server = serve(home.path(), &[]);
    let mut settings = forced("calc", "query", "1+1");
    settings["tools_off"] = json!(["calc"]);
    let (stream, told) = begin(&server, &chat(&server, &settings, ""), "\"ask\"");
    assert_eq!(one(&told, "ask")["wants"], "result");
    drop(stream);
}

#[test]
fn a_person_approves_or_denies_and_what_is_never_allowed_is_not_run() {
    let home = tempfile::tempdir().unwrap();
    let server = serve(home.path(), &["--approve", "ask", "--approve", "python=never"]);
    for (allow, text) in [(true, "2"), (false, "not run: the user said no")] {
        let path = chat(&server, &forced("calc", "query", "1+1"), "");
        let (stream, told) = begin(&server, &path, "\"ask\"");
        assert_eq!(one(&told, "ask")["wants"], Value::Null);
        let calls = format!("/ui/api/answers/{}/calls", told[0]["answer"]);
        let decision = json!({ "id": one(&told, "call")["id"], "allow": allow });
        assert_eq!(server.post(&calls, &decision).status, 200);
        assert!(rest(stream).contains(&format!("\"text\":\"{text}\"")));
        let parts = server.get(&path).json()["messages"][1]["parts"].clone();
        assert_eq!((&parts[2]["ok"], &parts[2]["text"]), (&json!(allow), &json!(text)));
    }
    let result = result_of(&server, &python("1"));
    assert_eq!(
        (&result["ok"], &result["text"]),
        (&json!(false), &json!("not run: the tool python is not allowed"))
    );
}

#[test]
fn conversations_do_not_share_pythons_names() {
    let home = tempfile::tempdir().unwrap();
    let server = serve(home.path(), &[]);
    let code = "globals().setdefault('seen', []).append(1); len(seen)";
    let path = chat(&server, &python(code), "");
    let told = say(&server, &path, &Value::Null, &go(), "");
    assert_eq!(one(&told, "result")["text"], "1");
    let again = say(&server, &path, &told[0]["answer"], &go(), "");
    assert_eq!(one(&again, "result")["text"], "2", "a conversation keeps its own");
    assert_eq!(result_of(&server, &python(code))["text"], "1", "another has none of them");
}

#[test]
fn a_file_that_python_wrote_is_had_by_its_owner_and_by_nobody_else() {
    let home = tempfile::tempdir().unwrap();
    let server = serve(home.path(), &["--api-key", "mine", "--api-key", "theirs"]);
    let (mine, theirs) = ("x-api-key: mine\r\n", "x-api-key: theirs\r\n");
    let code = "open('<b>ä.html', 'w').write('<script>') and None";
    let path = chat(&server, &python(code), mine);
    let told = say(&server, &path, &Value::Null, &go(), mine);
    let file = one(&told, "result")["files"][0].clone();
    assert_eq!((&file["name"], &file["bytes"]), (&json!("<b>ä.html"), &json!(8)));
    let url = file["url"].as_str().unwrap();
    let got = ask(&server, "GET", url, &Value::Null, mine);
    assert_eq!((got.status, got.body.as_str()), (200, "<script>"));
    assert_eq!(got.header("content-type").unwrap(), "application/octet-stream");
    let name = got.header("content-disposition").unwrap();
    assert_eq!(name, "attachment; filename*=UTF-8''%3Cb%3E%C3%A4.html");
    assert_eq!(ask(&server, "GET", url, &Value::Null, theirs).status, 404);
    assert_eq!(ask(&server, "GET", url, &Value::Null, "").status, 401);
    assert_eq!(ask(&server, "DELETE", &path, &Value::Null, mine).status, 200);
    assert_eq!(ask(&server, "GET", url, &Value::Null, mine).status, 404);
}

#[test]
fn what_is_attached_is_there_for_python_and_search() {
    let home = tempfile::tempdir().unwrap();
    let server = serve(home.path(), &[]);
    let said = json!([
        { "type": "file", "name": "../herd.csv", "text": "name\nBerta\n" },
        { "type": "file", "name": "bytes.bin", "base64": "AP8=" },
        { "type": "text", "text": "look" },
    ]);
    let code = "open('herd.csv').read(), open('bytes.bin', 'rb').read()";
    let path = chat(&server, &python(code), "");
    let told = say(&server, &path, &Value::Null, &said, "");
    assert_eq!(one(&told, "result")["text"], "('name\\nBerta\\n', b'\\x00\\xff')");
    let kept = server.get(&path).json()["messages"][0]["parts"].clone();
    assert_eq!((&kept[1]["bytes"], &kept[1]["base64"]), (&json!(2), &Value::Null));
    // A message that is edited names the file that is there.
    let again = json!([kept[1], { "type": "text", "text": "again" }]);
    let change = json!({ "settings": python("open('bytes.bin', 'rb').read()") });
    assert_eq!(ask(&server, "PATCH", &path, &change, "").status, 200);
    let told = say(&server, &path, &Value::Null, &again, "");
    assert_eq!(one(&told, "result")["text"], "b'\\x00\\xff'");

    let path = chat(&server, &forced("search", "query", "berta"), "");
    let told = say(&server, &path, &Value::Null, &said, "");
    assert_eq!(one(&told, "result")["text"], "[1] herd.csv, lines 1-2\nname\nBerta");

    // What is another conversation's, or for no tool to read, is refused.
    let strange = json!({ "parent": null, "said": again });
    assert_eq!(server.post(&format!("{path}/answers"), &strange).status, 400);
    let off = json!({ "tools_off": ["python", "search"] });
    let path = chat(&server, &off, "");
    assert_eq!(server.post(&format!("{path}/answers"), &json!({ "said": said })).status, 400);
}

#[test]
fn a_kill_between_call_and_result_leaves_the_call_and_a_stop_ends_it() {
    let home = tempfile::tempdir().unwrap();
    let mut server = serve(home.path(), &[]);
    let slow = python("import time; time.sleep(20)");
    let stopped = chat(&server, &slow, "");
    let (stream, told) = begin(&server, &stopped, "\"call\"");
    let answer = format!("/ui/api/answers/{}", told[0]["answer"]);
    server.wait(&stopped, |kept| kept["messages"][1]["parts"][0]["type"] == "call");
    assert_eq!(ask(&server, "DELETE", &answer, &Value::Null, "").status, 200);
    assert!(rest(stream).contains("\"cancelled\""));

    let killed = chat(&server, &slow, "");
    let (_stream, _) = begin(&server, &killed, "\"call\"");
    // The call is written down before it is run.
    server.wait(&killed, |kept| kept["messages"][1]["parts"][0]["type"] == "call");
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    let server = serve(home.path(), &[]);
    let kept = server.get(&killed).json();
    assert_eq!(kept["messages"][1]["state"], "interrupted");
    let parts = kept["messages"][1]["parts"].as_array().unwrap();
    assert!(parts.iter().all(|part| part["type"] != "result"));
    let row: Value = serde_json::from_str(&server.get(&format!("{killed}/export")).body).unwrap();
    assert!(row["messages"][2]["content"].as_str().unwrap().contains("interrupted"));
}

/// A message of JSON-RPC.
fn rpc(method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params })
}

#[test]
fn other_programs_call_the_tools_by_mcp_each_in_its_session() {
    let home = tempfile::tempdir().unwrap();
    let server = serve(home.path(), &["--api-key", "mine", "--api-key", "theirs"]);
    let key = "Authorization: Bearer mine\r\n";
    let send = |message: &Value, head: &str| server.post_with("/mcp", message, head);
    assert_eq!(send(&rpc("ping", json!({})), "").status, 401);
    let foreign = format!("{key}Origin: http://evil.example\r\n");
    assert_eq!(send(&rpc("ping", json!({})), &foreign).status, 403);
    let begun = send(&rpc("initialize", json!({})), key);
    assert_eq!(begun.json()["result"]["serverInfo"]["name"], "herd");
    let id = begun.header("mcp-session-id").unwrap();
    let session = format!("{key}Mcp-Session-Id: {id}\r\n");
    let listed = send(&rpc("tools/list", json!({})), key).json();
    assert_eq!(listed["result"]["tools"].as_array().unwrap().len(), 3);
    let call =
        |code: &str| rpc("tools/call", json!({ "name": "python", "arguments": { "code": code } }));
    let text =
        |reply: Reply| reply.json()["result"]["content"][0]["text"].as_str().unwrap().to_owned();
    send(&call("x = 40"), &session);
    assert_eq!(text(send(&call("x + 2"), &session)), "42");
    assert!(text(send(&call("x"), key)).contains("NameError"), "without a session nothing stays");
    let stolen = format!("Authorization: Bearer theirs\r\nMcp-Session-Id: {id}\r\n");
    assert_eq!(send(&call("x"), &stolen).status, 404);
    let told = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    assert_eq!(send(&told, &session).status, 202);
    assert_eq!(send(&json!([]), &session).status, 400);
    assert_eq!(ask(&server, "DELETE", "/mcp", &Value::Null, &session).status, 200);
    assert_eq!(send(&call("x"), &session).status, 404);
}

#[test]
fn a_format_that_knows_no_tools_is_told_of_them_in_words_and_without_tools_there_is_no_path() {
    let home = tempfile::tempdir().unwrap();
    let model = tiny::write(home.path());
    let server = Server::start(home.path(), &model, &["-c", "4096", "--tools", "calc"]);
    let settings = json!({ "max_tokens": 4, "seed": 1 });
    let told = say(&server, &chat(&server, &settings, ""), &Value::Null, &go(), "");
    let off = json!({ "max_tokens": 4, "seed": 1, "tools_off": ["calc"] });
    let bare = say(&server, &chat(&server, &off, ""), &Value::Null, &go(), "");
    let prompt = |told: &[Value]| one(told, "end")["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(prompt(&told) > prompt(&bare) + 500, "{} and {}", prompt(&told), prompt(&bare));
    drop(server);
    let server = Server::start(home.path(), &model, &[]);
    assert_eq!(server.post("/mcp", &rpc("ping", json!({}))).status, 404);
    assert_eq!(server.get("/ui/api/tools").json()["tools"], json!([]));
}
