//! What an agent did, step by step, in SQLite; its replay, and its conversations as rows to learn from.

use std::path::Path;

use herd_codec::chat::{Dialogue, Message, Role, ToolCall, ToolDefinition};
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::event::{Event, ToolResult};
use super::run::Speak;
use super::wording::Manner;
use super::{AgentError, Turn};
use crate::db;

/// The tables: a run, and its steps in order. `kind` is `said`, `turn`, `result` or `end`; `body` is JSON; ids are
/// little-endian u32.
const CHANGES: [&str; 1] = ["
    CREATE TABLE agent_runs (
        id INTEGER PRIMARY KEY, begun TEXT NOT NULL DEFAULT (datetime('now')), about TEXT NOT NULL
    ) STRICT;
    CREATE TABLE agent_steps (
        run INTEGER NOT NULL REFERENCES agent_runs, n INTEGER NOT NULL, kind TEXT NOT NULL,
        body TEXT NOT NULL, prompt BLOB, answer BLOB, seconds REAL,
        PRIMARY KEY (run, n)
    ) STRICT;
"];

/// What a run was done with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AboutRun {
    /// The model's name.
    pub model: String,
    /// A hash of the model's files.
    pub fingerprint: String,
    /// The numeric class that it ran in: bits are promised within one.
    pub class: String,
    /// How tools were spoken of.
    pub manner: Manner,
    /// The day that prompts name, as YYYY-MM-DD.
    pub today: Option<String>,
    /// How tokens were chosen, as flags and settings say it.
    pub sampling: Value,
    /// The tools.
    pub tools: Vec<ToolDefinition>,
}

/// Writes a run, step by step; what is written outlives a kill.
pub struct Recorder {
    db: Connection,
    run: i64,
    n: i64,
}

/// The step of a turn, beside its ids.
#[derive(Serialize, Deserialize)]
struct TurnBody {
    message: Message,
    seed: u64,
    cut: bool,
    cancelled: bool,
    asked_ms: u64,
}

/// The step of a result. Files are named; what they hold is not kept.
#[derive(Serialize, Deserialize)]
struct ResultBody {
    id: String,
    ok: bool,
    text: String,
    files: Vec<(String, usize)>,
}

impl Recorder {
    /// Begins a run in the file at `path`, which is made if it is not there.
    ///
    /// Errors: the file is no such database, or cannot be written.
    pub fn begin(path: &Path, about: &AboutRun) -> Result<Recorder, AgentError> {
        let db = db::open(path, "agent", &CHANGES)?;
        let about = serde_json::to_string(about).expect("it is made of texts");
        db.execute("INSERT INTO agent_runs (about) VALUES (?1)", [about])?;
        let run = db.last_insert_rowid();
        Ok(Recorder { db, run, n: 0 })
    }

    /// The run's number, by which it is replayed.
    pub fn id(&self) -> i64 {
        self.run
    }

    /// Somebody other than the model said this.
    pub fn said(&mut self, message: &Message) -> Result<(), AgentError> {
        let body = serde_json::to_string(message).expect("messages serialise");
        self.step("said", &body, None, None)
    }

    /// Something happened. Text and calls are kept with their turn.
    pub fn event(&mut self, event: &Event) -> Result<(), AgentError> {
        match event {
            Event::Text(_) | Event::Call(_) | Event::Ask(_) => Ok(()),
            Event::Turn(turn) => {
                let Turn { message, seed, cut, cancelled, asked_ms, .. } = turn.clone();
                let body = TurnBody { message, seed, cut, cancelled, asked_ms };
                let body = serde_json::to_string(&body).expect("messages serialise");
                let ids = (&turn.prompt[..], &turn.answer[..]);
                self.step("turn", &body, Some(ids), Some(turn.seconds))
            }
            Event::Result(ToolResult { id, ok, text, files, seconds }) => {
                let files = files.iter().map(|f| (f.name.clone(), f.bytes.len())).collect();
                let body = ResultBody { id: id.clone(), ok: *ok, text: text.clone(), files };
                let body = serde_json::to_string(&body).expect("it is made of texts");
                self.step("result", &body, None, Some(*seconds))
            }
            Event::End { .. } => {
                let body = event.json().map_or(String::new(), |json| json.to_string());
                self.step("end", &body, None, None)
            }
        }
    }

    fn step(
        &mut self,
        kind: &str,
        body: &str,
        ids: Option<(&[u32], &[u32])>,
        seconds: Option<f64>,
    ) -> Result<(), AgentError> {
        let bytes = |ids: &[u32]| ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>();
        let (prompt, answer) = (ids.map(|ids| bytes(ids.0)), ids.map(|ids| bytes(ids.1)));
        self.db.execute(
            "INSERT INTO agent_steps VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![self.run, self.n, kind, body, prompt, answer, seconds],
        )?;
        self.n += 1;
        Ok(())
    }
}

/// A run as it was recorded.
#[derive(Clone, Debug)]
pub struct Recording {
    /// What it was done with.
    pub about: AboutRun,
    /// What was said and done, in order.
    pub steps: Vec<Step>,
}

/// A step of a recorded run.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Somebody other than the model said this.
    Said(Message),
    /// The model took a turn.
    Turn(Turn),
    /// A call came to this, told to the model.
    Result(Message),
}

/// Reads a run.
///
/// Errors: there is none of that number, or it is damaged.
pub fn read(path: &Path, run: i64) -> Result<Recording, AgentError> {
    if !path.is_file() {
        return Err(AgentError::Record(format!("{} is not there", path.display())));
    }
    let db = db::open(path, "agent", &CHANGES)?;
    recording(&db, run)
}

fn recording(db: &Connection, run: i64) -> Result<Recording, AgentError> {
    let damaged = |what: serde_json::Error| AgentError::Record(format!("run {run}: {what}"));
    let about: Option<String> = db
        .query_row("SELECT about FROM agent_runs WHERE id = ?1", [run], |row| row.get(0))
        .optional()?;
    let about = about.ok_or_else(|| AgentError::Record(format!("it holds no run {run}")))?;
    let about: AboutRun = serde_json::from_str(&about).map_err(damaged)?;
    let mut query = db.prepare(
        "SELECT kind, body, prompt, answer, seconds FROM agent_steps WHERE run = ?1 ORDER BY n",
    )?;
    let mut rows = query.query([run])?;
    let (mut steps, mut calls) = (Vec::new(), Vec::<ToolCall>::new());
    while let Some(row) = rows.next()? {
        let (kind, body): (String, String) = (row.get(0)?, row.get(1)?);
        match kind.as_str() {
            "said" => steps.push(Step::Said(serde_json::from_str(&body).map_err(damaged)?)),
            "turn" => {
                let body: TurnBody = serde_json::from_str(&body).map_err(damaged)?;
                let TurnBody { message, seed, cut, cancelled, asked_ms } = body;
                calls.extend(message.tool_calls.iter().cloned());
                let (prompt, answer) = (ids(row.get(2)?), ids(row.get(3)?));
                let seconds = row.get::<_, Option<f64>>(4)?.unwrap_or(0.0);
                let turn =
                    Turn { message, prompt, answer, seed, cut, cancelled, asked_ms, seconds };
                steps.push(Step::Turn(turn));
            }
            "result" => {
                let body: ResultBody = serde_json::from_str(&body).map_err(damaged)?;
                let call = calls.iter().find(|call| call.id.as_ref() == Some(&body.id));
                let mut message = Message::new(Role::Tool, body.text);
                message.name = call.map(|call| call.name.clone());
                message.tool_call_id = Some(body.id);
                steps.push(Step::Result(message));
            }
            "end" => {}
            other => return Err(AgentError::Record(format!("a step of kind {other:?}"))),
        }
    }
    Ok(Recording { about, steps })
}

fn ids(bytes: Option<Vec<u8>>) -> Vec<u32> {
    let bytes = bytes.unwrap_or_default();
    bytes.as_chunks::<4>().0.iter().map(|id| u32::from_le_bytes(*id)).collect()
}

/// Where a replay first differs from its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The turn, from 1.
    pub turn: usize,
    /// What differs: `prompt`, `answer`, or `message`.
    pub what: &'static str,
    /// The first place that differs, for ids.
    pub at: Option<usize>,
    /// What was recorded there.
    pub recorded: String,
    /// What came now.
    pub got: String,
}

/// Asks the model again for every turn, behind what was recorded before it: turns that were equal, and the first
/// difference if there is one. Tools are not run: their results are those of the record.
///
/// Errors: the model gives no answer. A turn that was cancelled is passed over, since nobody knows where.
pub fn replay(
    recording: &Recording,
    speak: &mut Speak<'_>,
) -> Result<(usize, Option<Difference>), AgentError> {
    let mut dialogue = Dialogue::default();
    let mut equal = 0;
    for step in &recording.steps {
        match step {
            Step::Said(message) | Step::Result(message) => dialogue.messages.push(message.clone()),
            Step::Turn(turn) => {
                if !turn.cancelled {
                    let room = if turn.cut { turn.answer.len() } else { turn.answer.len() + 1 };
                    let got = speak(&dialogue, room.max(1), &mut |_| {})?;
                    if let Some(difference) = compare(equal + 1, turn, &got) {
                        return Ok((equal, Some(difference)));
                    }
                    equal += 1;
                }
                dialogue.messages.push(turn.message.clone());
            }
        }
    }
    Ok((equal, None))
}

fn compare(turn: usize, recorded: &Turn, got: &Turn) -> Option<Difference> {
    let ids = |what, a: &[u32], b: &[u32]| {
        let at = (0..a.len().max(b.len())).find(|&i| a.get(i) != b.get(i))?;
        let show = |id: Option<&u32>| id.map_or("nothing".to_owned(), |id| format!("id {id}"));
        let (recorded, got) = (show(a.get(at)), show(b.get(at)));
        Some(Difference { turn, what, at: Some(at), recorded, got })
    };
    let bare = |message: &Message| {
        let mut message = message.clone();
        message.tool_calls.iter_mut().for_each(|call| call.id = None);
        serde_json::to_string(&message).expect("messages serialise")
    };
    ids("prompt", &recorded.prompt, &got.prompt)
        .or_else(|| ids("answer", &recorded.answer, &got.answer))
        .or_else(|| {
            let (recorded, got) = (bare(&recorded.message), bare(&got.message));
            let what = "message";
            (recorded != got).then_some(Difference { turn, what, at: None, recorded, got })
        })
}

/// A recorded run as a row to learn from: `messages`, `tools` and `builtin_tools` as the model's format was told of them,
/// and `ids`, the last prompt and the answer to it, with `answers`, where the answers of all turns lie in them if they do.
///
/// Errors: the run has no turn.
pub fn row(recording: &Recording) -> Result<Value, AgentError> {
    let mut dialogue = Dialogue::default();
    let mut turns = Vec::new();
    for step in &recording.steps {
        match step {
            Step::Said(message) | Step::Result(message) => dialogue.messages.push(message.clone()),
            Step::Turn(turn) => {
                dialogue.messages.push(turn.message.clone());
                turns.push(turn);
            }
        }
    }
    let last = turns.last().ok_or_else(|| AgentError::Record("the run has no turn".to_owned()))?;
    let ids: Vec<u32> = last.prompt.iter().chain(&last.answer).copied().collect();
    let answers = turns.iter().map(|turn| {
        let (from, to) = (turn.prompt.len(), turn.prompt.len() + turn.answer.len());
        (ids.get(from..to) == Some(&turn.answer[..])).then_some([from, to])
    });
    let answers: Vec<Option<[usize; 2]>> = answers.collect();
    let today = recording.about.today.as_deref().and_then(herd_codec::chat::Date::parse);
    let said = recording.about.manner.say(&dialogue, &recording.about.tools, today)?;
    let mut row = serde_json::to_value(&said).expect("dialogues serialise");
    row["ids"] = json!(ids);
    row["answers"] = json!(answers);
    row["model"] = json!(recording.about.model);
    row["fingerprint"] = json!(recording.about.fingerprint);
    Ok(row)
}

/// The rows of every run in a file that has a turn.
///
/// Errors: as [`read`].
pub fn rows(path: &Path) -> Result<Vec<Value>, AgentError> {
    if !path.is_file() {
        return Err(AgentError::Record(format!("{} is not there", path.display())));
    }
    let db = db::open(path, "agent", &CHANGES)?;
    let mut query = db.prepare("SELECT id FROM agent_runs ORDER BY id")?;
    let runs: Result<Vec<i64>, _> = query.query_map([], |row| row.get(0))?.collect();
    let mut rows = Vec::new();
    for run in runs? {
        let recording = recording(&db, run)?;
        if recording.steps.iter().any(|step| matches!(step, Step::Turn(_))) {
            rows.push(row(&recording)?);
        }
    }
    Ok(rows)
}
