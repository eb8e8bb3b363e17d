//! The Model Context Protocol, its tools alone: other programs' tools as ours, and ours for other programs.
//!
//! JSON-RPC 2.0 (specification of 18 June 2025): a line of JSON a message over a program's standard input and output, or a POST a
//! message over HTTP, answered by JSON or by a stream of events. What a server says is data; it is bounded, and waited for
//! no longer than [`PATIENCE`].

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use herd_codec::chat::ToolCall;
use serde_json::{Value, json};

use super::AgentError;
use super::config::{Fetch, Fetched, Sent};
use super::run::Rule;
use super::tools::{Ran, Tool, Tools};

/// The version that is asked for and offered.
pub const VERSION: &str = "2025-06-18";
/// How long an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of one message at most.
const MESSAGE_BYTES: usize = 8 << 20;
/// Lines that wait to be read, and to be written, at most.
const LINES_MAX: usize = 16;
/// Tools of one server at most.
const TOOLS_MAX: usize = 256;
/// Pages of its list at most.
const PAGES_MAX: usize = 32;

/// Where a server is.
pub enum Place {
    /// A program that is started; it talks on its standard input and output.
    Program {
        /// Its name or path and its arguments.
        command: Vec<String>,
        /// Variables on top of ours.
        environment: Vec<(String, String)>,
    },
    /// An address.
    Address {
        /// Its URL.
        url: String,
        /// Headers of every request, a key for example.
        headers: Vec<(String, String)>,
        /// Goes there.
        fetch: Fetch,
    },
}

/// A server that was greeted.
struct Client {
    name: String,
    wire: Wire,
    number: u64,
    /// How long an answer may take.
    patience: Duration,
}

enum Wire {
    Program { child: Child, input: Option<SyncSender<String>>, lines: Receiver<Option<Vec<u8>>> },
    Address { url: String, headers: Vec<(String, String)>, fetch: Fetch, session: Option<String> },
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Wire::Program { child, input, .. } = self {
            drop(input.take()); // a server ends when its input does
            let until = Instant::now() + Duration::from_millis(500);
            while Instant::now() < until {
                if !matches!(child.try_wait(), Ok(None)) {
                    return;
                }
                thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill(); // it may have ended meanwhile
            let _ = child.wait();
        }
    }
}

/// The tools of a server, each named `NAME_tool`. They ask before they run, unless a rule says otherwise: what another program
/// does is not held by our walls.
///
/// Errors: it cannot be started or reached, or does not speak the protocol.
pub fn tools(name: &str, place: Place) -> Result<Vec<Tool>, AgentError> {
    let failed = |why: String| AgentError::Tool { name: format!("mcp:{name}"), why };
    let wire = open(place).map_err(failed)?;
    let mut client = Client { name: name.to_owned(), wire, number: 0, patience: PATIENCE };
    let found = client.greet().and_then(|()| client.list()).map_err(failed)?;
    let client = Arc::new(Mutex::new(client));
    let one = |told: &Value| {
        let theirs = told["name"].as_str()?.to_owned();
        let plain = theirs.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' });
        let own = format!("{name}_{}", plain.collect::<String>());
        let client = Arc::clone(&client);
        let hand = move |call: &ToolCall| {
            let mut client = client.lock().unwrap_or_else(PoisonError::into_inner);
            client.call(&theirs, call).unwrap_or_else(Ran::failed)
        };
        let schema = match &told["inputSchema"] {
            schema @ Value::Object(_) => schema.clone(),
            _ => json!({"type": "object", "properties": {}}),
        };
        let about = told["description"].as_str().unwrap_or("");
        Some(Tool { rule: Rule::Ask, ..Tool::new(&own, about, schema, Box::new(hand)) })
    };
    Ok(found.iter().filter_map(one).collect())
}

fn open(place: Place) -> Result<Wire, String> {
    let (command, environment) = match place {
        Place::Address { url, headers, fetch } => {
            return Ok(Wire::Address { url, headers, fetch, session: None });
        }
        Place::Program { command, environment } => (command, environment),
    };
    let (program, arguments) = command.split_first().ok_or("its command is empty")?;
    let mut child = Command::new(program)
        .args(arguments)
        .envs(environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("cannot start {program}: {e}"))?;
    let output = child.stdout.take().ok_or("it has no output")?;
    let mut listener = child.stdin.take().ok_or("it has no input")?;
    let (send, lines) = sync_channel(LINES_MAX);
    // A thread waits for lines, so that nobody else has to: it ends with the program, or with us.
    thread::spawn(move || {
        let mut output = BufReader::new(output);
        loop {
            let mut line = Vec::new();
            let read = (&mut output).take(MESSAGE_BYTES as u64 + 1).read_until(b'\n', &mut line);
            let over = !matches!(read, Ok(1..)) || line.len() > MESSAGE_BYTES;
            if send.send((!over).then_some(line)).is_err() || over {
                return;
            }
        }
    });
    // Another writes, since a program that does not read fills its pipe: it ends with our side of the channel or with the program.
    let (input, written) = sync_channel::<String>(LINES_MAX);
    thread::spawn(move || {
        for line in written {
            if listener.write_all(line.as_bytes()).and_then(|()| listener.flush()).is_err() {
                return;
            }
        }
    });
    Ok(Wire::Program { child, input: Some(input), lines })
}

impl Client {
    fn greet(&mut self) -> Result<(), String> {
        let hello = json!({
            "protocolVersion": VERSION,
            "capabilities": {},
            "clientInfo": {"name": "herd", "version": env!("CARGO_PKG_VERSION")},
        });
        let told = self.ask("initialize", &hello)?;
        if !told["protocolVersion"].is_string() {
            return Err("it names no version of the protocol".to_owned());
        }
        let note = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        self.send(&note, None).map(drop)
    }

    fn list(&mut self) -> Result<Vec<Value>, String> {
        let (mut all, mut cursor) = (Vec::new(), None::<String>);
        for _ in 0..PAGES_MAX {
            let page = match &cursor {
                None => json!({}),
                Some(cursor) => json!({"cursor": cursor}),
            };
            let told = self.ask("tools/list", &page)?;
            let tools = told["tools"].as_array().ok_or("it lists no tools")?;
            all.extend(tools.iter().cloned());
            if all.len() > TOOLS_MAX {
                return Err(format!("it lists more than {TOOLS_MAX} tools"));
            }
            cursor = told["nextCursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                return Ok(all);
            }
        }
        Err(format!("its list has more than {PAGES_MAX} pages"))
    }

    fn call(&mut self, tool: &str, call: &ToolCall) -> Result<Ran, String> {
        let told = self.ask("tools/call", &json!({"name": tool, "arguments": call.arguments}))?;
        let mut parts = Vec::new();
        for part in told["content"].as_array().into_iter().flatten() {
            match part["text"].as_str().or(part["resource"]["text"].as_str()) {
                Some(text) => parts.push(text.to_owned()),
                None => {
                    let kind = part["type"].as_str().unwrap_or("something");
                    parts.push(format!("[{kind}, which is not shown]"));
                }
            }
        }
        if parts.is_empty() && !told["structuredContent"].is_null() {
            parts.push(told["structuredContent"].to_string());
        }
        let ok = told["isError"].as_bool() != Some(true);
        Ok(Ran { ok, ..Ran::done(parts.join("\n")) })
    }

    fn ask(&mut self, method: &str, parameters: &Value) -> Result<Value, String> {
        self.number += 1;
        let number = self.number;
        let message =
            json!({"jsonrpc": "2.0", "id": number, "method": method, "params": parameters});
        let told = self.send(&message, Some(number))?.ok_or("it gave no answer")?;
        if let Some(error) = told.get("error").filter(|error| !error.is_null()) {
            let what = error["message"].as_str().unwrap_or("no message");
            return Err(format!("{} says: {what}", self.name));
        }
        Ok(told["result"].clone())
    }

    /// Sends a message and waits for the answer of that number, if one is wanted.
    fn send(&mut self, message: &Value, number: Option<u64>) -> Result<Option<Value>, String> {
        match &mut self.wire {
            Wire::Program { input, lines, .. } => {
                let input = input.as_ref().ok_or("it was ended")?;
                let write = |message: &Value| {
                    let sent = input.try_send(format!("{message}\n"));
                    sent.map_err(|_| "it does not listen".to_owned())
                };
                write(message)?;
                let Some(number) = number else { return Ok(None) };
                let late = || format!("no answer in {} s", self.patience.as_secs());
                let until = Instant::now() + self.patience;
                loop {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(late()); // lines that are there already would be given without a wait
                    }
                    let line = match lines.recv_timeout(left) {
                        Ok(Some(line)) => line,
                        Ok(None) | Err(RecvTimeoutError::Disconnected) => {
                            return Err("it has ended, or writes lines without an end".to_owned());
                        }
                        Err(RecvTimeoutError::Timeout) => return Err(late()),
                    };
                    let Ok(told) = serde_json::from_slice::<Value>(&line) else { continue };
                    if let Some(refusal) = refusal(&told) {
                        write(&refusal)?;
                    } else if told["id"].as_u64() == Some(number) {
                        return Ok(Some(told));
                    }
                }
            }
            Wire::Address { url, headers, fetch, session } => {
                let mut all = headers.clone();
                all.push(("Accept".to_owned(), "application/json, text/event-stream".to_owned()));
                all.push(("MCP-Protocol-Version".to_owned(), VERSION.to_owned()));
                if let Some(session) = session {
                    all.push(("Mcp-Session-Id".to_owned(), session.clone()));
                }
                let sent = Sent {
                    url: url.clone(),
                    headers: all,
                    body: Some(message.to_string()),
                    bytes_max: MESSAGE_BYTES,
                    patience: self.patience,
                };
                let Fetched { status, headers, body } = fetch(&sent)?;
                if !(200..300).contains(&status) {
                    return Err(format!("it answered {status}: {}", excerpt(&body)));
                }
                let named = headers.iter().find(|(n, _)| n.eq_ignore_ascii_case("mcp-session-id"));
                if let Some((_, id)) = named {
                    *session = Some(id.clone());
                }
                Ok(number.and_then(|number| answer_in(&body, number)))
            }
        }
    }
}

/// What we answer to a request of the server's: we offer nothing but an answer to `ping`.
fn refusal(told: &Value) -> Option<Value> {
    let (method, id) = (told["method"].as_str()?, told.get("id")?);
    Some(match method {
        "ping" => json!({"jsonrpc": "2.0", "id": id, "result": {}}),
        _ => {
            let error = json!({"code": -32601, "message": "not offered"});
            json!({"jsonrpc": "2.0", "id": id, "error": error})
        }
    })
}

/// The message of that number in a body of JSON or of events.
fn answer_in(body: &str, number: u64) -> Option<Value> {
    let own = |told: &Value| told["id"].as_u64() == Some(number);
    if let Ok(told) = serde_json::from_str::<Value>(body) {
        return Some(told).filter(own);
    }
    let events = body.lines().filter_map(|line| line.strip_prefix("data:"));
    events.filter_map(|data| serde_json::from_str(data.trim()).ok()).find(own)
}

fn excerpt(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect()
}

/// Our tools, for a client of the protocol: the answer to one message, if it wants one. Tools whose rule is not `always` are
/// neither listed nor run: nobody could be asked.
pub fn answer(tools: &Tools, message: &Value) -> Option<Value> {
    let id = message.get("id").filter(|id| id.is_string() || id.is_number())?;
    let wrong = |code: i64, what: &str| json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": what}});
    let (Some(method), Some("2.0")) = (message["method"].as_str(), message["jsonrpc"].as_str())
    else {
        return Some(wrong(-32600, "no request of JSON-RPC 2.0"));
    };
    let result = match method {
        "initialize" => json!({
            "protocolVersion": VERSION,
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "herd", "version": env!("CARGO_PKG_VERSION")},
        }),
        "ping" => json!({}),
        "tools/list" => json!({"tools": listed(tools)}),
        "tools/call" => {
            let (Some(name), arguments) =
                (message["params"]["name"].as_str(), &message["params"]["arguments"])
            else {
                return Some(wrong(-32602, "params.name is no text"));
            };
            let arguments = match arguments {
                Value::Object(arguments) => arguments.clone(),
                Value::Null => serde_json::Map::new(),
                _ => return Some(wrong(-32602, "params.arguments is no object")),
            };
            match tools.find(name).filter(|tool| tools.rule(tool.name()) == Rule::Always) {
                None => return Some(wrong(-32602, &format!("no tool {name:?}"))),
                Some(tool) => {
                    let call = ToolCall { id: None, name: name.to_owned(), arguments };
                    let ran = (tool.hand)(&call);
                    let content = json!([{"type": "text", "text": ran.text}]);
                    json!({"content": content, "isError": !ran.ok})
                }
            }
        }
        _ => return Some(wrong(-32601, &format!("no method {method:?}"))),
    };
    Some(json!({"jsonrpc": "2.0", "id": id, "result": result}))
}

fn listed(tools: &Tools) -> Vec<Value> {
    let free = |definition: &&herd_codec::chat::ToolDefinition| {
        tools.rule(definition.name()) == Rule::Always
    };
    let definitions = tools.definitions();
    let one = |definition: &herd_codec::chat::ToolDefinition| {
        let function = &definition.json()["function"];
        json!({
            "name": function["name"],
            "description": function["description"],
            "inputSchema": function["parameters"],
        })
    };
    definitions.iter().filter(free).map(one).collect()
}

/// Answers messages, a line each, until the input is over.
///
/// Errors: reading or writing fails; a line of more than 8 MiB ends it.
pub fn serve(
    tools: &Tools,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
) -> std::io::Result<()> {
    loop {
        let mut line = Vec::new();
        input.take(MESSAGE_BYTES as u64 + 1).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(());
        }
        let answered = match serde_json::from_slice::<Value>(&line) {
            Ok(message) => answer(tools, &message),
            Err(_) if line.trim_ascii().is_empty() => None,
            Err(error) => {
                let what = format!("no JSON: {error}");
                Some(
                    json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32700, "message": what}}),
                )
            }
        };
        if let Some(answer) = answered {
            writeln!(output, "{answer}")?;
            output.flush()?;
        }
        if line.len() > MESSAGE_BYTES {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that says `script` in a shell, and a client without much patience.
    fn client(script: &str) -> Client {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        let wire = open(Place::Program { command, environment: Vec::new() }).unwrap();
        Client { name: "x".to_owned(), wire, number: 0, patience: Duration::from_millis(50) }
    }

    #[test]
    fn a_server_that_talks_without_answering_is_not_listened_to_for_ever() {
        let error = client("while :; do echo '{}'; done").ask("ping", &json!({})).unwrap_err();
        assert!(error.starts_with("no answer in"), "{error}");
    }

    #[test]
    fn a_server_that_does_not_read_holds_nobody_up() {
        let mut client = client("exec sleep 100");
        let long = json!({ "text": "x".repeat(1 << 20) }); // longer than a pipe
        for _ in 0..2 {
            let error = client.ask("ping", &long).unwrap_err();
            assert!(error.starts_with("no answer in"), "{error}");
        }
    }
}
