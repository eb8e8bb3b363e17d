//! Who may come in, and how: keys with their limits, certificates, names of requests and the log.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;
#[path = "common/server.rs"]
mod server;
#[path = "common/tiny.rs"]
mod tiny;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::run;
use serde_json::{Value, json};
use server::{Reply, Server, TEXT};
use sha2::{Digest, Sha256};

const TLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/tls");

fn key_file(home: &Path, text: &str) -> String {
    let path = home.join("keys.toml");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn bearer(key: &str) -> String {
    format!("Authorization: Bearer {key}\r\n")
}

fn ask(server: &Server, key: &str, more: &[(&str, Value)]) -> Reply {
    let mut body = json!({ "model": "tiny", "prompt": "hi", "max_tokens": 3, "temperature": 0, "ignore_eos": true });
    for (name, value) in more {
        body[*name] = value.clone();
    }
    server.post_with(TEXT, &body, &bearer(key))
}

#[test]
fn each_key_has_its_own_limits_models_and_figures() {
    let (home, model) = tiny::home();
    let hash: String = Sha256::digest("secret-two").iter().map(|b| format!("{b:02x}")).collect();
    let keys = format!(
        "[keys.few]\nkey = 'secret-one'\nrequests_per_minute = 2\n\
         [keys.short]\nsha256 = '{hash}'\ntokens_per_minute = 20\nparallel = 2\n\
         [keys.other]\nkey = 'secret-three'\nmodels = ['another']\n"
    );
    let keys = key_file(home.path(), &keys);
    let server =
        Server::start(home.path(), &model, &["--api-key-file", &keys, "--api-key", "secret-main"]);
    assert_eq!(ask(&server, "secret", &[]).status, 401);
    // Requests of the minute.
    let left = [1, 0].map(|_| ask(&server, "secret-one", &[]));
    let told = left.each_ref().map(|r| r.header("x-ratelimit-remaining-requests").unwrap());
    assert_eq!((left[0].status, told), (200, ["1".to_owned(), "0".to_owned()]));
    let reply = ask(&server, "secret-one", &[]);
    let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!(reply.status == 429 && (1..=30).contains(&wait), "{}", reply.body);
    assert_eq!(reply.json()["error"]["code"], "rate_limit_exceeded");
    assert_eq!(reply.header("x-ratelimit-limit-requests").unwrap(), "2");
    let reply = server.post_with("/tokenize", &json!({ "content": "a" }), &bearer("secret-one"));
    assert_eq!(reply.status, 429, "{}", reply.body);
    // Answers at once, and tokens of the minute: what goes beyond is a debt.
    // More answers than the key may have are let in alone.
    let more = [("max_tokens", json!(10)), ("n", json!(3))];
    assert_eq!(ask(&server, "secret-two", &more).status, 200);
    let reply = ask(&server, "secret-two", &[]);
    assert!(reply.status == 429 && reply.body.contains("20 tokens"), "{}", reply.body);
    assert_eq!(reply.header("x-ratelimit-remaining-tokens").unwrap(), "0");
    // Models.
    let reply = ask(&server, "secret-three", &[]);
    assert_eq!((reply.status, reply.field().as_deref()), (403, Some("model")));
    let list = server.get_with("/v1/models", &bearer("secret-three")).json();
    assert_eq!(list["data"], json!([]));
    // What only an administrator may.
    let unload = json!({ "model": "tiny" });
    let reply = server.post_with("/v1/models/unload", &unload, &bearer("secret-two"));
    assert_eq!(reply.status, 403, "{}", reply.body);
    let reply = server.post_with("/v1/models/unload", &unload, &bearer("secret-main"));
    assert_eq!(reply.status, 200, "{}", reply.body);
    let figures = server.get_with("/metrics", &bearer("secret-main")).body;
    for line in [
        "herd_key_requests_total{key=\"few\"} 2",
        "herd_key_limited_total{key=\"few\"} 2",
        "herd_key_limited_total{key=\"short\"} 1",
        "herd_key_answer_tokens_total{key=\"short\"} 30",
        "herd_key_answer_tokens_total{key=\"few\"} 6",
    ] {
        assert!(figures.contains(line), "{line}: {figures}");
    }
    let own = server.get_with("/metrics", &bearer("secret-one")).body;
    assert!(own.contains("key=\"few\"") && !own.contains("key=\"short\""), "{own}");
    // No key is ever in the log; its name is.
    server.told(&["\"key\":\"few\""]);
    let log = server.log.lock().unwrap().join("\n");
    assert!(!log.contains("secret"), "{log}");
}

#[test]
fn how_long_a_model_stays_is_said_by_administrators() {
    let (home, model) = tiny::home();
    let keys = key_file(home.path(), "[keys.plain]\nkey = 'secret-four'\n");
    let server =
        Server::start(home.path(), &model, &["--api-key-file", &keys, "--api-key", "secret-main"]);
    let generate = |key: &str, prompt: &str, more: Value| {
        let mut body = json!({ "model": "tiny", "prompt": prompt, "stream": false,
                               "options": { "num_predict": 1 } });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.post_with("/api/generate", &body, &bearer(key))
    };
    for keep in [json!(0), json!(-1)] {
        let reply = generate("secret-four", "", json!({ "keep_alive": keep }));
        assert_eq!(reply.status, 403, "{}", reply.body);
        let reply = generate("secret-four", "a", json!({ "keep_alive": keep }));
        let warning = reply.json()["warnings"][0].as_str().unwrap().to_owned();
        assert!(reply.status == 200 && warning.contains("keep_alive changes nothing"), "{warning}");
    }
    assert_eq!(generate("secret-four", "", json!({})).json()["done_reason"], "load");
    let running = || server.get_with("/api/ps", &bearer("secret-main")).json()["models"].clone();
    assert_eq!(running().as_array().unwrap().len(), 1);
    let reply = generate("secret-main", "", json!({ "keep_alive": 0 }));
    assert_eq!(reply.json()["done_reason"], "unload", "{}", reply.body);
}

#[test]
fn answers_are_kept_for_the_key_that_asked() {
    let home = tempfile::tempdir().unwrap();
    let model = tiny::write_llama3(home.path());
    let args = ["--chat-template", "llama3.1-hf", "--api-key", "one", "--api-key", "two"];
    let server = Server::start(home.path(), &model, &args);
    let body = json!({ "model": "llama3", "input": "hi", "max_output_tokens": 3 });
    let reply = server.post_with("/v1/responses", &body, &bearer("one"));
    assert_eq!(reply.status, 200, "{}", reply.body);
    let id = reply.json()["id"].as_str().unwrap().to_owned();
    let get = |key: &str| server.get_with(&format!("/v1/responses/{id}"), &bearer(key)).status;
    assert_eq!((get("one"), get("two")), (200, 404));
    let next = json!({
        "model": "llama3", "input": "go on", "max_output_tokens": 3, "previous_response_id": id,
    });
    let go_on = |key: &str| server.post_with("/v1/responses", &next, &bearer(key)).status;
    assert_eq!((go_on("one"), go_on("two")), (200, 400));
    // It outlives the model that gave it.
    let unload = json!({ "model": "llama3" });
    assert_eq!(server.post_with("/v1/models/unload", &unload, &bearer("one")).status, 200);
    assert_eq!((get("one"), go_on("one")), (200, 200));
}

#[test]
fn an_empty_key_opens_no_door() {
    let (home, model) = tiny::home();
    let args = ["serve", "-m", model.to_str().unwrap(), "--port", "0", "--api-key", ""];
    let (code, _, err) = run(home.path(), &args);
    assert!(code == 2 && err.contains("the key is empty"), "{err}");
}

#[test]
fn wrong_files_of_keys_are_told_without_what_they_hold() {
    let (home, model) = tiny::home();
    let model = model.to_str().unwrap();
    for (text, words) in [
        ("[keys.a]\nkey = 'secret'\nlimit = 3\n", "unknown field"),
        ("[keys]\n", "without [keys.NAME]"),
        ("[keys.a]\nkey = secret\n", "no file of keys"),
    ] {
        let keys = key_file(home.path(), text);
        let args = ["serve", "-m", model, "--port", "0", "--api-key-file", &keys];
        let (code, _, err) = run(home.path(), &args);
        assert!(code == 2 && err.contains(words) && !err.contains("secret"), "{text}: {err}");
    }
}

/// Asks a server under a certificate, which alone is trusted.
fn secure(server: &Server, certificate: &str) -> Result<String, String> {
    let pem = fs::read(PathBuf::from(TLS).join(certificate)).unwrap();
    let root = ureq::tls::Certificate::from_pem(&pem).unwrap();
    let roots = ureq::tls::RootCerts::from(vec![root]);
    let config = ureq::Agent::config_builder()
        .tls_config(ureq::tls::TlsConfig::builder().root_certs(roots).build())
        .build();
    let url = format!("https://localhost:{}/v1/models", server.address.port());
    let mut response = config.new_agent().get(&url).call().map_err(|e| e.to_string())?;
    response.body_mut().read_to_string().map_err(|e| e.to_string())
}

#[test]
fn certificates_are_served_under_and_read_again() {
    let (home, model) = tiny::home();
    let path = |name: &str| home.path().join(name);
    let put = |name: &str| {
        for ending in ["pem", "key"] {
            let from = PathBuf::from(TLS).join(format!("{name}.{ending}"));
            fs::copy(from, path(&format!("now.{ending}"))).unwrap();
        }
    };
    put("first");
    let (pem, key) = (path("now.pem"), path("now.key"));
    let args = ["--tls-cert", pem.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let server = Server::start(home.path(), &model, &args);
    assert!(secure(&server, "first.pem").unwrap().contains("\"tiny\""));
    assert!(secure(&server, "second.pem").is_err());
    // Who does not speak TLS hears nothing, and others are served.
    let plain = server.open("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    put("second");
    let pid = server.child.id().to_string();
    let hang_up = || assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    hang_up();
    server.told(&["read again"]);
    assert!(secure(&server, "second.pem").unwrap().contains("\"tiny\""));
    // A broken one changes nothing.
    fs::write(&pem, "nothing").unwrap();
    hang_up();
    server.told(&["holds no certificate", "cannot be used"]);
    assert!(secure(&server, "second.pem").is_ok());
    drop(plain);
    let wrong =
        ["serve", "-m", model.to_str().unwrap(), "--port", "0", args[0], args[1], args[2], args[3]];
    let (code, _, err) = run(home.path(), &wrong);
    assert!(code == 2 && err.contains("now.pem"), "{err}");
}

#[test]
fn requests_have_names_and_the_log_has_two_forms() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &["--log-format", "text"]);
    let reply = server.get_with("/health", "x-request-id: my-own.1\r\n");
    assert_eq!(reply.header("x-request-id").unwrap(), "my-own.1");
    for wrong in ["with space", "", &"x".repeat(129)] {
        let reply = server.get_with("/health", &format!("x-request-id: {wrong}\r\n"));
        assert!(reply.header("x-request-id").unwrap().starts_with("req_"), "{wrong:?}");
    }
    let line = server.told(&["my-own.1"]);
    assert!(line.contains("my-own.1 GET /health 200") && !line.contains('{'), "{line}");
}
