//! Several models and adapters behind one port: asked for by name, loaded and unloaded, the same answers as without a server; and the
//! servers of a machine, listed and ended.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;
#[path = "common/server.rs"]
mod server;
#[path = "common/tiny.rs"]
mod tiny;

use std::fs;
use std::path::{Path, PathBuf};

use common::run;
use herd_kernels::Format;
use herd_tensor::files::{DType, SafetensorsWriter, TensorInfo};
use serde_json::{Value, json};
use server::{CHAT, Server, TEXT, with};

const PROMPT: &str = "once upon";

/// An adapter beside the tiny model, of numbers that follow from `seed`.
fn adapter(home: &Path, name: &str, seed: u64) -> PathBuf {
    let folder = home.join(name);
    fs::create_dir(&folder).unwrap();
    let config = json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 8, "bias": "none" });
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    let mut infos = Vec::new();
    for layer in 0..2 {
        for (module, outputs) in [("self_attn.q_proj", 32), ("mlp.up_proj", 64)] {
            for (half, shape) in [("A", vec![2, 32]), ("B", vec![outputs, 2])] {
                let name =
                    format!("base_model.model.model.layers.{layer}.{module}.lora_{half}.weight");
                infos.push(TensorInfo { name, shape, dtype: DType::Format(Format::F32) });
            }
        }
    }
    let path = folder.join("adapter_model.safetensors");
    let mut writer = SafetensorsWriter::create(&path, &[("format", "pt")], &infos).unwrap();
    let mut state = seed;
    for info in &infos {
        let numbers = (0..info.shape.iter().product::<usize>()).flat_map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((state >> 40) as f32 / (1 << 23) as f32 - 1.0).to_le_bytes()
        });
        writer.write_tensor(&info.name, &numbers.collect::<Vec<u8>>()).unwrap();
    }
    writer.finish().unwrap();
    folder
}

/// The ids that `herd complete` gives.
fn completed(home: &Path, more: &[&str]) -> Value {
    let base = [
        "complete",
        "-p",
        PROMPT,
        "-n",
        "24",
        "-c",
        "512",
        "--temp",
        "0",
        "--json",
        "--ignore-eos",
    ];
    let (code, out, err) = run(home, &[&base, more].concat());
    assert_eq!(code, 0, "{err}");
    serde_json::from_str::<Value>(&out).unwrap()["ids"].clone()
}

/// The ids that the server gives.
fn served(server: &Server, model: &str) -> Value {
    let body = json!({
        "model": model, "prompt": PROMPT, "max_tokens": 24, "temperature": 0, "ignore_eos": true, "return_token_ids": true,
    });
    let reply = server.post(TEXT, &body);
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json()["choices"][0]["token_ids"].clone()
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect()
}

fn loaded(server: &Server) -> Vec<String> {
    let list = server.get("/api/ps").json();
    let name = |model: &Value| model["name"].as_str().unwrap().to_owned();
    list["models"].as_array().unwrap().iter().map(name).collect()
}

#[test]
fn models_and_adapters_answer_by_their_names_as_complete_does() {
    let (home, model) = tiny::home();
    let (first, second) = (adapter(home.path(), "one", 1), adapter(home.path(), "two", 2));
    let plain = tiny::write_plain(home.path());
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (model, plain) = (text(&model), text(&plain));
    let (one, two) = (format!("one={}", text(&first)), format!("two={}", text(&second)));
    let server =
        Server::launch(home.path(), &["-m", &model, "-m", &plain, "--lora", &one, "--lora", &two]);
    let list = server.get("/v1/models").json();
    assert_eq!(names(&list["data"]), ["tiny", "plain", "one", "two"]);
    assert_eq!(
        (&list["data"][2]["parent"], &list["data"][2]["loaded"]),
        (&json!("tiny"), &json!(false))
    );
    assert_eq!(loaded(&server), ["tiny"]);
    let wanted = [
        ("tiny", completed(home.path(), &["-m", &model])),
        ("plain", completed(home.path(), &["-m", &plain])),
        ("one", completed(home.path(), &["-m", &model, "--lora", &text(&first)])),
        ("two", completed(home.path(), &["-m", &model, "--lora", &text(&second)])),
    ];
    assert!(wanted[0].1 != wanted[2].1 && wanted[2].1 != wanted[3].1);
    for (name, ids) in &wanted {
        assert_eq!(&served(&server, name), ids, "{name}");
    }
    assert_eq!(loaded(&server), ["tiny", "plain", "one", "two"]);
    // All at once, too.
    std::thread::scope(|scope| {
        let server = &server;
        for (name, ids) in &wanted {
            scope.spawn(move || assert_eq!(&served(server, name), ids, "{name}"));
        }
    });
    let name = "one:latest";
    assert_eq!(served(&server, name), wanted[2].1);
    let reply = server.post(TEXT, &json!({ "model": "tyni", "prompt": "x" }));
    assert_eq!((reply.status, reply.field().as_deref()), (404, Some("model")));
    assert!(reply.body.contains("did you mean"), "{}", reply.body);
    let tags = server.get("/api/tags").json();
    assert_eq!(tags["models"].as_array().unwrap().len(), 4);
    let metrics = server.get("/metrics").body;
    assert!(metrics.contains("herd_model_loaded{model=\"two\"} 1"), "{metrics}");
}

#[test]
fn what_does_not_fit_takes_the_place_of_what_nobody_is_with() {
    let (home, model) = tiny::home();
    let other = tiny::write_plain(home.path());
    let args = ["-m", model.to_str().unwrap(), "-m", other.to_str().unwrap()];
    // Each takes 16 MiB by its plan for the program alone.
    let server = Server::launch(home.path(), &[&args[..], &["--memory-mb", "30"]].concat());
    let ids = ["tiny", "plain"].map(|name| served(&server, name));
    assert_eq!(loaded(&server), ["plain"]);
    assert_eq!(served(&server, "tiny"), ids[0]);
    assert_eq!(loaded(&server), ["tiny"]);
    // Somebody who does not take what they asked for is with the model.
    let body = json!({
        "model": "tiny", "messages": [{ "role": "user", "content": "x" }], "n": 32, "max_tokens": 400, "ignore_eos": true,
        "logprobs": true, "top_logprobs": 20, "stream": true,
    });
    let stalled = server.open(&server::request(CHAT, &body.to_string(), ""));
    server.wait("/health", |load| load["running"].as_u64() > Some(0));
    let ask = json!({ "model": "plain", "prompt": "x", "max_tokens": 1 });
    let reply = server.post(TEXT, &ask);
    assert_eq!(
        (reply.status, reply.header("retry-after").is_some()),
        (503, true),
        "{}",
        reply.body
    );
    assert!(reply.body.contains("held by models in use (tiny)"), "{}", reply.body);
    let reply = server.post("/v1/models/unload", &json!({ "model": "tiny" }));
    assert_eq!(reply.status, 409, "{}", reply.body);
    drop(stalled);
    while server.post(TEXT, &ask).status == 503 {}
    assert_eq!(loaded(&server), ["plain"]);
    // What a model did is not forgotten with it.
    let metrics = server.get("/metrics").body;
    let total = metrics.lines().find_map(|line| line.strip_prefix("herd_answers_begun_total "));
    assert!(total.unwrap().parse::<u64>().unwrap() >= 36, "{metrics}");
}

#[test]
fn models_stay_as_long_as_they_are_asked_to() {
    let (home, model) = tiny::home();
    let server = Server::start(home.path(), &model, &[]);
    let generate = json!({ "model": "tiny", "prompt": "hi", "stream": false, "options": { "num_predict": 2 } });
    assert_eq!(server.get("/api/ps").json()["models"][0]["expires_at"], "9999-12-31T23:59:59Z");
    let reply = server.post("/api/generate", &with(&generate, json!({ "keep_alive": "1h" })));
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert!(reply.json().get("warnings").is_none(), "{}", reply.body);
    assert_ne!(server.get("/api/ps").json()["models"][0]["expires_at"], "9999-12-31T23:59:59Z");
    server.post("/api/generate", &with(&generate, json!({ "keep_alive": 0 })));
    server.wait("/api/ps", |list| list["models"].as_array().unwrap().is_empty());
    // No prompt: it is loaded, and no more.
    let load = json!({ "model": "tiny", "prompt": "", "keep_alive": -1 });
    assert_eq!(server.post("/api/generate", &load).json()["done_reason"], "load");
    assert_eq!(loaded(&server), ["tiny"]);
    let reply = server.post("/api/generate", &with(&generate, json!({ "keep_alive": "soon" })));
    assert_eq!((reply.status, reply.body.contains("keep_alive")), (400, true));
    let reply = server.post("/v1/models/unload", &json!({ "model": "tiny" }));
    assert_eq!(reply.json()["was_loaded"], true, "{}", reply.body);
    assert!(loaded(&server).is_empty());
    assert_eq!(server.post("/v1/models/load", &json!({ "model": "tiny" })).status, 200);
    assert_eq!(loaded(&server), ["tiny"]);
}

#[test]
fn folders_and_files_name_models_and_idle_ones_go() {
    let (home, model) = tiny::home();
    tiny::write_plain(home.path());
    let folder = home.path().to_str().unwrap();
    {
        let server = Server::launch(home.path(), &["--models", folder, "--ttl", "0"]);
        assert_eq!(names(&server.get("/v1/models").json()["data"]), ["plain", "tiny"]);
        assert!(loaded(&server).is_empty());
        assert_eq!(
            served(&server, "tiny"),
            completed(home.path(), &["-m", model.to_str().unwrap()])
        );
        server.wait("/api/ps", |list| list["models"].as_array().unwrap().is_empty());
    }
    let lora = adapter(home.path(), "lora", 3);
    let file = home.path().join("models.toml");
    let text = "[models.base]\nmodel = 'tiny.gguf'\nload = true\n[models.tuned]\nmodel = 'tiny.gguf'\nlora = 'lora'\n";
    fs::write(&file, text).unwrap();
    let server = Server::launch(home.path(), &["--models", file.to_str().unwrap()]);
    assert_eq!(loaded(&server), ["base"]);
    let more = ["-m", model.to_str().unwrap(), "--lora", lora.to_str().unwrap()];
    assert_eq!(served(&server, "tuned"), completed(home.path(), &more));
}

#[test]
fn models_of_one_name_and_broken_ones_are_told_before_anything_is_served() {
    let (home, model) = tiny::home();
    let model = model.to_str().unwrap();
    let fails = |args: &[&str], words: &str| {
        let (code, _, err) = run(home.path(), &[&["serve", "--port", "0"], args].concat());
        assert!(code == 2 && err.contains(words), "{args:?}: {err}");
    };
    fails(&["-m", model, "-m", model], "the name of a model is \"tiny\"");
    fails(&["-m", model, "--lora", "x=/nowhere"], "adapter_config.json");
    fails(&["-m", model, "--lora", "nothing"], "NAME=FOLDER");
    fails(&[], "--model");
    fails(&["--models", model], "cannot read");
}

#[test]
fn servers_are_listed_and_end_when_they_are_told_to() {
    let (home, model) = tiny::home();
    let list = |args: &[&str]| {
        let (code, out, err) = run(home.path(), &[&["ps", "--json"], args].concat());
        assert_eq!(code, 0, "{err}");
        serde_json::from_str::<Value>(&out).unwrap()
    };
    assert_eq!(list(&[]), json!([]));
    let mut first = Server::start(home.path(), &model, &["-a", "first"]);
    let mut second = Server::start(home.path(), &model, &["-a", "second"]);
    let running = list(&[]);
    let models: Vec<&Value> = running.as_array().unwrap().iter().map(|s| &s["models"][0]).collect();
    assert!(models.len() == 2 && models.contains(&&json!("first")));
    let port = running.as_array().unwrap().iter().find(|s| s["models"][0] == "second").unwrap();
    assert_eq!(port["port"], second.address.port());
    // Only one of them has the files.
    second.told(&["has the files"]);
    assert_eq!(second.get("/v1/files").status, 501);
    let (code, _, err) = run(home.path(), &["stop"]);
    assert!(code == 2 && err.contains("2 servers run here"), "{err}");
    let (code, _, err) = run(home.path(), &["stop", "third"]);
    assert!(code == 2 && err.contains("no server has"), "{err}");
    let (code, out, err) = run(home.path(), &["stop", "second"]);
    assert!(code == 0 && out.contains("ended"), "{out} {err}");
    assert!(second.child.wait().unwrap().success());
    // One that was killed is forgotten.
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    assert_eq!(list(&[]), json!([]));
    let (code, _, err) = run(home.path(), &["stop", "first"]);
    assert_eq!(code, 2, "{err}");
}
