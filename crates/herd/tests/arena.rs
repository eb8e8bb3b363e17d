//! `herd arena`: answers are the same however they are made, no vote that was kept is lost, and what votes say can be counted,
//! trained on, and held against a model that judges.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;
#[path = "common/script.rs"]
mod script;
#[path = "common/server.rs"]
mod server;
#[path = "common/tiny.rs"]
mod tiny;
#[path = "common/training.rs"]
mod training;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use script::{Writer, rows, says};
use serde_json::{Value, json};
use server::Server;

/// A folder with two models and prompts of two skills, the last of two turns.
fn home(prompts: usize) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    fill(home.path(), prompts);
    home
}

fn fill(home: &Path, prompts: usize) {
    tiny::write(home);
    tiny::write_llama3(home);
    let skills = ["english", "coding"];
    let row = |i: usize| match i + 1 == prompts {
        true => json!({ "id": "turns", "turns": ["say a", "say b"], "skill": "coding" }),
        false => {
            let difficulty = ["easy", "hard"][i % 2];
            json!({ "prompt": format!("question {i}"), "skill": skills[i % 2], "difficulty": difficulty })
        }
    };
    let lines: Vec<String> = (0..prompts).map(|i| row(i).to_string()).collect();
    fs::write(home.join("prompts.jsonl"), lines.join("\n")).unwrap();
}

/// A command in the folder.
fn herd(home: &Path, args: &[&str]) -> Command {
    let mut command = common::herd(home);
    command.current_dir(home).args(args);
    command
}

/// `herd arena serve` of the two models.
fn serve(home: &Path, db: &str, more: &[&str]) -> Command {
    serve_models(home, "secret=tiny.gguf,llama3.gguf", db, more)
}

fn serve_models(home: &Path, models: &str, db: &str, more: &[&str]) -> Command {
    let fixed = [
        "arena",
        "serve",
        "--models",
        models,
        "--prompts",
        "prompts.jsonl",
        "--db",
        db,
        "--port",
        "0",
        "-n",
        "8",
        "-t",
        "1",
        "--chat-template",
        "chat.jinja",
        "--temp",
        "1",
    ];
    let template =
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:";
    fs::write(home.join("chat.jinja"), template).unwrap();
    herd(home, &[&fixed, more].concat())
}

fn post(server: &Server, path: &str, body: &Value) -> Value {
    let reply = server.post(path, body);
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json()
}

fn next(server: &Server, judge: &str) -> Value {
    post(server, "/arena/next", &json!({ "judge": judge }))
}

/// Waits until all answers are there.
fn answered(server: &Server, judge: &str) -> Value {
    loop {
        let told = next(server, judge);
        if told["unmade"] == 0 {
            return told;
        }
        std::thread::yield_now();
    }
}

fn vote(server: &Server, judge: &str, told: &Value, grade: i64) -> Value {
    let show = &told["pair"]["show"];
    let body = json!({ "judge": judge, "show": show, "grade": grade, "seconds": 2.5 });
    post(server, "/arena/vote", &body)
}

fn json_of(mut command: Command) -> Value {
    let output = command.arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn report(home: &Path, db: &str) -> Value {
    json_of(herd(home, &["arena", "report", db, "--bootstrap", "50"]))
}

fn fails(mut command: Command) -> String {
    let output = command.output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(!err.contains("a fault in herd"), "{err}");
    err
}

/// All pairs of an arena whose answers are there, as one judge sees them.
fn pairs(home: &Path, db: &str, count: usize) -> Vec<Value> {
    let server = Server::begin(serve(home, db, &[]));
    let see = |_| {
        let told = next(&server, "ann");
        assert_eq!(told["unmade"], 0);
        vote(&server, "ann", &told, 1);
        told["pair"].clone()
    };
    (0..count).map(see).collect()
}

#[test]
fn answers_are_the_same_however_they_are_made_and_say_not_whose_they_are() {
    let home = home(4);
    let home = home.path();
    let make = |db: &str, more: &[&str]| {
        let args = [&["--only-answers"], more].concat();
        let done = serve(home, db, &args).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    make("a.sqlite", &[]);
    make("b.sqlite", &["--together", "--parallel", "1"]);
    for _ in 0..4 {
        let mut child = serve(home, "c.sqlite", &["--only-answers"]).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(60));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    make("c.sqlite", &[]);
    let first = pairs(home, "a.sqlite", 4);
    assert_eq!(first, pairs(home, "b.sqlite", 4));
    assert_eq!(first, pairs(home, "c.sqlite", 4));
    let text = json!(first).to_string();
    assert!(!text.contains("secret") && !text.contains("llama3"), "{text}");
    let turns = first.iter().find(|pair| pair["left"].as_array().unwrap().len() > 1).unwrap();
    assert_eq!(turns["left"][1], json!({ "role": "user", "content": "say b" }));
    assert_ne!(first[0]["left"], first[0]["right"]);
}

#[test]
fn a_vote_that_was_kept_outlives_a_kill() {
    let home = home(30);
    let home = home.path();
    let (mut kept, mut server) = (0, Server::begin(serve(home, "votes.sqlite", &[])));
    answered(&server, "ann");
    for round in 0..3 {
        let count = 4 + 3 * round;
        for i in 0..count {
            let told = next(&server, "ann");
            assert_eq!(vote(&server, "ann", &told, i64::from(i % 7) - 3), json!({ "kept": true }));
            kept += 1;
        }
        // A vote is under way when the kill comes: it is whole or not there.
        let told = next(&server, "ann");
        let body =
            json!({ "judge": "ann", "show": told["pair"]["show"], "grade": 3, "seconds": 1 });
        let _stream = server.open(&server::request("/arena/vote", &body.to_string(), ""));
        server.child.kill().unwrap();
        server.child.wait().unwrap();
        server = Server::begin(serve(home, "votes.sqlite", &[]));
        let found = next(&server, "ann")["votes"].as_u64().unwrap();
        assert!(found == kept || found == kept + 1, "{found} of {kept}");
        kept = found;
    }
    let report = report(home, "votes.sqlite");
    let counted = ["votes", "repeats", "passed"].map(|name| report[name].as_u64().unwrap());
    assert_eq!(counted.iter().sum::<u64>(), kept);
}

#[test]
fn votes_are_counted_by_pair_skill_and_judge() {
    let home = home(8);
    let home = home.path();
    let server = Server::begin(serve(home, "votes.sqlite", &["--repeats", "0.3"]));
    answered(&server, "ann");
    for judge in ["ann", "bob"] {
        loop {
            let told = next(&server, judge);
            if told["pair"].is_null() {
                break;
            }
            vote(&server, judge, &told, 2); // left, whatever it says
        }
    }
    let pair = next(&server, "eve");
    let body = json!({ "judge": "eve", "show": pair["pair"]["show"], "grade": null, "seconds": 1 });
    post(&server, "/arena/vote", &body);
    let report = report(home, "votes.sqlite");
    assert_eq!((&report["votes"], &report["passed"]), (&json!(16), &json!(1)));
    assert_eq!(report["models"], json!(["llama3", "secret"]));
    let tally = &report["tallies"][0];
    // Sides are balanced: one who looks left alone finds both models equal.
    assert_eq!((&tally["win"]["value"], &tally["tie"]["value"]), (&json!(0.5), &json!(0.0)));
    assert_eq!(report["skills"]["coding"][0]["win"]["n"], 8);
    assert_eq!(report["judges"]["ann"]["others"]["same"], 0.0);
    assert!(report["repeats"].as_u64() > Some(0));
    assert_eq!(
        (&report["position"]["left"], &report["position"]["right"]),
        (&json!(1.0), &json!(0.0))
    );
    let ratings = report["ratings"].as_array().unwrap();
    assert!(ratings.iter().all(|rating| rating["points"].as_f64().unwrap().abs() < 1e-6));
    assert_eq!(report["difficulties"]["hard"][0]["win"]["n"], 6);
    // Judges may be left out, and nobody else.
    let without = ["arena", "report", "votes.sqlite", "--without", "bob,eve"];
    let one = json_of(herd(home, &without));
    assert_eq!((&one["votes"], &one["passed"]), (&json!(8), &json!(0)));
    assert!(one["without"]["bob"].as_u64() >= Some(8) && one["without"]["eve"] == 1, "{one}");
    assert!(one["judges"]["bob"].is_null());
    let err = fails(herd(home, &["arena", "report", "votes.sqlite", "--without", "bop"]));
    assert!(err.contains("--without") && err.contains("ann, bob, eve"), "{err}");
    let (code, out, err) =
        common::told(herd(home, &["arena", "report", "votes.sqlite"]).output().unwrap());
    assert!(
        code == 0 && out.contains("  50.0 %") && out.contains("position: left wins 100.0 %"),
        "{out}{err}"
    );
}

#[test]
fn the_page_asks_nobody_else_and_wrong_requests_are_named() {
    let home = home(2);
    let server = Server::begin(serve(home.path(), "votes.sqlite", &[]));
    let page = server.get("/");
    assert!(page.status == 200 && page.body.contains("arena.js"), "{}", page.body);
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'self'"));
    for path in ["/arena.js", "/arena.css", "/ui/style.css", "/ui/markdown.js", "/ui/api.js"] {
        let file = server.get(path);
        assert_eq!(file.status, 200, "{path}");
        assert!(!file.body.contains("https://") || path.contains("vendor"), "{path}");
    }
    assert_eq!((server.get("/nothing").status, server.get("/v1/models").status), (404, 404));
    let evil = "GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert_eq!(server.send(evil).status, 403);
    for (path, body, words) in [
        ("/arena/next", json!({}), "missing field `judge`"),
        ("/arena/next", json!({ "judge": " " }), "a judge's name"),
        (
            "/arena/vote",
            json!({ "judge": "ann", "show": 1, "grade": 9, "seconds": 1, "x": 1 }),
            "unknown field `x`",
        ),
        (
            "/arena/vote",
            json!({ "judge": "ann", "show": 77, "grade": 1, "seconds": 1 }),
            "was not shown 77",
        ),
    ] {
        let reply = server.post(path, &body);
        assert!(reply.status >= 400 && reply.body.contains(words), "{}", reply.body);
    }
}

#[test]
fn what_cannot_be_served_is_named_before_a_model_is_asked() {
    let home = home(2);
    let home = home.path();
    let with = |args: &[&str]| {
        let mut all =
            vec!["arena", "serve", "--db", "x.sqlite", "--only-answers", "-t", "1", "-n", "4"];
        all.extend(args);
        herd(home, &all)
    };
    let models = "tiny.gguf,llama3.gguf";
    for (args, words) in [
        (vec!["--models", "tiny.gguf", "--prompts", "prompts.jsonl"], "two models or more"),
        (vec!["--models", "tiny.gguf,tiny.gguf", "--prompts", "prompts.jsonl"], "NAME=MODEL"),
        (vec!["--models", "tiny.gguf,none.gguf", "--prompts", "prompts.jsonl"], "none.gguf"),
        (vec!["--models", models, "--prompts", "none.jsonl"], "none.jsonl"),
        (
            vec!["--models", models, "--prompts", "prompts.jsonl", "--taxonomy", "use-cases"],
            "\"english\"",
        ),
        (
            vec!["--models", models, "--prompts", "prompts.jsonl", "--repeats", "2"],
            "between 0 and 0.9",
        ),
        (
            vec!["--models", models, "--prompts", "prompts.jsonl", "--top-p", "NaN"],
            "between 0 and 1",
        ),
    ] {
        let err = fails(with(&args));
        assert!(err.contains(words), "{args:?}: {err}");
    }
    let done = serve(home, "x.sqlite", &["--only-answers"]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let err = fails(serve(home, "x.sqlite", &["--only-answers", "--seed", "2"]));
    assert!(err.contains("1, not 2") && err.contains("another --db"), "{err}");
    let err = fails(serve(home, "x.sqlite", &["--only-answers", "--top-p", "0.5"]));
    assert!(err.contains("top_p was 0.9, is 0.5"), "{err}");
    for verb in ["report", "judge"] {
        let args = if verb == "judge" {
            vec!["arena", verb, "none.sqlite", "-m", "tiny.gguf"]
        } else {
            vec!["arena", verb, "none.sqlite"]
        };
        assert!(fails(herd(home, &args)).contains("none.sqlite"));
        assert!(!home.join("none.sqlite").exists());
    }
}

#[test]
fn a_model_judges_both_ways_round_and_is_held_against_people() {
    let home = home(5);
    let home = home.path();
    let server = Server::begin(serve(home, "votes.sqlite", &["--repeats", "0"]));
    answered(&server, "ann");
    for _ in 0..5 {
        let told = next(&server, "ann");
        // People prefer the answer that comes first by the alphabet.
        let text = |side: &str| {
            told["pair"][side].as_array().unwrap().last().unwrap()["content"].to_string()
        };
        let grade = if text("left") < text("right") { 3 } else { -3 };
        vote(&server, "ann", &told, grade);
    }
    drop(server);
    let judge = |url: &str| {
        let args = ["arena", "judge", "votes.sqlite", "-m", "wise", "--url", url, "--voted"];
        json_of(herd(home, &args))
    };
    let first = Writer::new(|_, _| says("The first is fine. A is better."));
    let told = judge(&first.url);
    assert_eq!((&told["asked"], &told["unread"]), (&json!(10), &json!(0)));
    let calibration = &told["told"]["calibration"];
    assert_eq!((&calibration["pairs"], &calibration["consistent"]), (&json!(5), &json!(0.0)));
    assert_eq!(calibration["position"]["left"], 1.0);
    assert_eq!(
        (&calibration["accuracy"]["3"]["value"], &calibration["people"]["same"]),
        (&json!(0.5), &json!(0.0))
    );
    assert_eq!(first.requests().len(), 10);
    // What is there is not asked again.
    assert_eq!(judge(&first.url)["asked"], 0);
    assert!(first.requests().is_empty());
    // One who reads what people read; its words of one pair have no verdict.
    static KNOWS: AtomicBool = AtomicBool::new(false);
    let wise = Writer::new(|asked: &str, _| {
        let answer = |name: &str| {
            let (_, rest) = asked.split_once(&format!("<answer {name}>\n")).unwrap();
            let text =
                rest.split_once(&format!("</answer {name}>")).unwrap().0.trim_end_matches('\n');
            json!(text.rsplit("[assistant]\n").next().unwrap()).to_string()
        };
        if asked.contains("question 0") && !KNOWS.load(Ordering::Relaxed) {
            return says("who knows");
        }
        says(if answer("A") < answer("B") { "A is much better" } else { "**B is much better**" })
    });
    let told = judge(&wise.url);
    assert_eq!((&told["asked"], &told["unread"]), (&json!(10), &json!(2)));
    let calibration = &told["told"]["calibration"];
    assert_eq!((&calibration["pairs"], &calibration["consistent"]), (&json!(4), &json!(1.0)));
    assert_eq!(
        (&calibration["accuracy"]["3"]["value"], &calibration["people"]["same"]),
        (&json!(1.0), &json!(1.0))
    );
    // What had no verdict is asked again, and nothing else.
    assert_eq!(judge(&wise.url)["unread"], 2);
    KNOWS.store(true, Ordering::Relaxed);
    let told = judge(&wise.url);
    assert_eq!((&told["asked"], &told["unread"]), (&json!(2), &json!(0)));
    assert_eq!(told["told"]["calibration"]["pairs"], 5);
    assert_eq!(report(home, "votes.sqlite")["models_that_judge"].as_object().unwrap().len(), 2);
    // A model of this machine: what it babbles has no verdict, and is counted.
    let args =
        ["arena", "judge", "votes.sqlite", "-m", "tiny.gguf", "-n", "4", "-t", "1", "--voted"];
    let told = json_of(herd(home, &args));
    assert_eq!((&told["asked"], &told["unread"]), (&json!(10), &json!(10)));
}

#[test]
fn a_model_that_nobody_graded_takes_no_rating_from_the_others() {
    let home = home(4);
    let home = home.path();
    let serve = |models: &str| {
        Server::begin(serve_models(home, models, "votes.sqlite", &["--repeats", "0"]))
    };
    let server = serve("a=tiny.gguf,b=llama3.gguf");
    let told = answered(&server, "ann");
    vote(&server, "ann", &told, 3);
    drop(server);
    // A third model comes; of it there is a judge who cannot say.
    let server = serve("a=tiny.gguf,c=llama3.gguf");
    let told = answered(&server, "eve");
    let body = json!({ "judge": "eve", "show": told["pair"]["show"], "grade": null, "seconds": 1 });
    post(&server, "/arena/vote", &body);
    drop(server);
    let report = report(home, "votes.sqlite");
    assert_eq!(report["models"], json!(["a", "b", "c"]));
    let ratings = report["ratings"].as_array().unwrap();
    assert!(ratings[0]["points"].is_f64() && ratings[1]["points"].is_f64() && ratings[2].is_null());
    let (_, out, _) =
        common::told(herd(home, &["arena", "report", "votes.sqlite"]).output().unwrap());
    assert!(out.contains("not rated, for want of votes: c"), "{out}");
    assert!(out.contains("100.0 %") && !out.contains("+- 0.0"), "{out}"); // one vote has no interval
}

#[test]
fn exported_votes_teach_a_reward_model() {
    let folder = training::begin_from_base("reward", &training::reward_settings(training::BASE));
    let home = folder.path();
    fill(home, 40);
    let server = Server::begin(serve(home, "votes.sqlite", &["--repeats", "0.1", "--top-p", "1"]));
    answered(&server, "ann");
    let (mut votes, grades) = (0, [3, -2, 1, 0]);
    loop {
        let told = next(&server, "ann");
        let pair = &told["pair"];
        if pair.is_null() {
            break;
        }
        let mut body = json!({ "judge": "ann", "show": pair["show"], "grade": grades[votes % 4], "seconds": 3 });
        if votes % 8 == 0 {
            body["edited"] = json!(format!("an answer made better, number {votes}"));
        }
        post(&server, "/arena/vote", &body);
        votes += 1;
    }
    drop(server);
    let told = json_of(herd(home, &["arena", "export", "votes.sqlite", "-o", "pairs.jsonl"]));
    let exported = rows(&home.join("pairs.jsonl"));
    assert_eq!(told["rows"], exported.len());
    assert!(exported.len() > 20 && told["edited"].as_u64() > Some(2), "{told}");
    assert!(
        told["dropped"]["about_the_same"].as_u64() > Some(5)
            && told["dropped"]["repeat"].as_u64() > Some(0)
    );
    assert_eq!(
        exported.iter().filter(|row| row["edited"].is_string()).count() as u64,
        told["edited"]
    );
    training::done(&mut training::stage_set(home, "reward", "reward.toml", "run", &[]));
    let steps = training::metrics(&home.join("run"), "step");
    assert!(steps.len() == 12 && steps.iter().all(|line| line["pairs"].as_u64() > Some(0)));
}
