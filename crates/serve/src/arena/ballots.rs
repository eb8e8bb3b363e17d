//! The file of an arena: models, prompts, answers. SQLite, and nothing is told before it is committed.

use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::db::{self, DbError};
use crate::refusal::Refusal;

const CHANGES: &[&str] = &["
    CREATE TABLE arena_about (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    CREATE TABLE arena_models (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        settings TEXT NOT NULL,
        serving INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE arena_prompts (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        skill TEXT NOT NULL,
        difficulty TEXT,
        messages TEXT NOT NULL,
        turns TEXT NOT NULL,
        root INTEGER NOT NULL,
        behind INTEGER
    ) STRICT;
    CREATE TABLE arena_answers (
        prompt INTEGER NOT NULL REFERENCES arena_prompts,
        model INTEGER NOT NULL REFERENCES arena_models,
        said TEXT NOT NULL,
        ended TEXT NOT NULL,
        seed INTEGER NOT NULL,
        made INTEGER NOT NULL,
        PRIMARY KEY (prompt, model)
    ) STRICT;
    CREATE TABLE arena_shows (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        judge TEXT NOT NULL,
        prompt INTEGER NOT NULL REFERENCES arena_prompts,
        left_model INTEGER NOT NULL REFERENCES arena_models,
        right_model INTEGER NOT NULL REFERENCES arena_models,
        again INTEGER REFERENCES arena_shows,
        given INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX arena_shows_by_judge ON arena_shows (judge);
    CREATE INDEX arena_shows_by_prompt ON arena_shows (prompt);
    CREATE TABLE arena_votes (
        show INTEGER PRIMARY KEY REFERENCES arena_shows,
        grade INTEGER CHECK (grade BETWEEN -3 AND 3),
        seconds REAL NOT NULL,
        edited TEXT,
        follow TEXT,
        made INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE arena_verdicts (
        judge TEXT NOT NULL,
        prompt INTEGER NOT NULL REFERENCES arena_prompts,
        left_model INTEGER NOT NULL REFERENCES arena_models,
        right_model INTEGER NOT NULL REFERENCES arena_models,
        grade INTEGER CHECK (grade BETWEEN -3 AND 3),
        words TEXT NOT NULL,
        made INTEGER NOT NULL,
        PRIMARY KEY (judge, prompt, left_model, right_model)
    ) STRICT;
"];

/// An arena's file. Calls wait for one another; what they changed is on the disk when they return.
pub struct Ballots {
    path: PathBuf,
    db: Mutex<Connection>,
    /// Told when there is more to answer.
    more: Condvar,
}

/// A message of a dialogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Turn {
    /// What a role says.
    pub fn new(role: &str, content: impl Into<String>) -> Turn {
        Turn { role: role.to_owned(), content: content.into() }
    }
}

/// Something to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Names it; no other prompt has the name.
    pub name: String,
    /// Its place in the taxonomy.
    pub skill: String,
    /// How hard it is, where that is said.
    pub difficulty: Option<String>,
    /// What was said up to the first answer; the last is a user's.
    pub messages: Vec<Turn>,
    /// What the user says after each answer but the last.
    pub turns: Vec<String>,
}

/// A model that answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Contestant {
    /// Its name in reports; judges never see it.
    pub name: String,
    /// All that decides its answers.
    pub settings: Value,
}

/// An answer that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The prompt's number.
    pub id: i64,
    /// The prompt.
    pub prompt: Prompt,
}

/// An answer that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// A text for each of the user's turns.
    pub said: Vec<String>,
    /// `stop`, `length`, or why there is none: `too_long`, `failed`.
    pub ended: String,
    /// What it was drawn by.
    pub seed: u64,
}

/// Why an arena's file cannot be used, or a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] DbError),
    /// SQLite says so.
    #[error("{}: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What it says.
        source: rusqlite::Error,
    },
    /// The file has something of this name that is otherwise.
    #[error("{} has {what} {name:?} otherwise: {differs}", path.display())]
    Otherwise {
        /// The file.
        path: PathBuf,
        /// What kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
        /// How.
        differs: String,
    },
    /// A request that is wrong.
    #[error("{}", .0.message)]
    Refused(Refusal),
}

impl ArenaError {
    /// What to try.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            ArenaError::Otherwise { .. } => Some("take the settings of before, or another --db"),
            ArenaError::Open(_) | ArenaError::Sqlite { .. } | ArenaError::Refused(_) => None,
        }
    }
}

impl From<Refusal> for ArenaError {
    fn from(refusal: Refusal) -> ArenaError {
        ArenaError::Refused(refusal)
    }
}

impl From<ArenaError> for Refusal {
    fn from(error: ArenaError) -> Refusal {
        match error {
            ArenaError::Refused(refusal) => refusal,
            ArenaError::Sqlite { ref source, .. } => {
                let full = source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull);
                Refusal::new(if full { 507 } else { 500 }, error.to_string())
            }
            ArenaError::Open(_) | ArenaError::Otherwise { .. } => {
                Refusal::new(500, error.to_string())
            }
        }
    }
}

/// The result of work on the file: SQLite's errors, or a refusal.
pub(super) enum Halt {
    Sqlite(rusqlite::Error),
    Refused(Refusal),
}

impl From<rusqlite::Error> for Halt {
    fn from(error: rusqlite::Error) -> Halt {
        Halt::Sqlite(error)
    }
}

impl From<Refusal> for Halt {
    fn from(refusal: Refusal) -> Halt {
        Halt::Refused(refusal)
    }
}

impl Ballots {
    /// Opens or makes the file.
    ///
    /// # Errors
    /// A path that is no such file, or one that a later Herd has changed.
    pub fn open(path: &Path) -> Result<Ballots, ArenaError> {
        let db = Mutex::new(db::open(path, "arena", CHANGES)?);
        Ok(Ballots { path: path.to_owned(), db, more: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does work in one transaction.
    pub(super) fn work<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Halt>,
    ) -> Result<T, ArenaError> {
        let mut db = self.lock();
        let done = (|| {
            let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = work(&change)?;
            change.commit()?;
            Ok(done)
        })();
        done.map_err(|halt| match halt {
            Halt::Sqlite(source) => ArenaError::Sqlite { path: self.path.clone(), source },
            Halt::Refused(refusal) => ArenaError::Refused(refusal),
        })
    }

    /// Says that there is more to answer.
    pub(super) fn wake(&self) {
        self.more.notify_all();
    }

    /// Waits until there may be more to answer, at most so long.
    pub fn wait(&self, most: Duration) {
        let db = self.lock();
        drop(self.more.wait_timeout(db, most).unwrap_or_else(PoisonError::into_inner));
    }

    /// Sets something of the whole arena that may not change later.
    ///
    /// # Errors
    /// The file has another value.
    pub fn fix(&self, name: &str, value: &str) -> Result<(), ArenaError> {
        let known: Option<String> = self.work(|db| {
            let mut find = db.prepare_cached("SELECT value FROM arena_about WHERE name = ?")?;
            let known = find.query_row([name], |row| row.get(0)).optional()?;
            if known.is_none() {
                db.execute("INSERT INTO arena_about VALUES (?, ?)", [name, value])?;
            }
            Ok(known)
        })?;
        match known {
            Some(known) if known != value => {
                Err(self.otherwise("the setting", name, format!("{known}, not {value}")))
            }
            _ => Ok(()),
        }
    }

    fn otherwise(&self, what: &'static str, name: &str, differs: String) -> ArenaError {
        ArenaError::Otherwise { path: self.path.clone(), what, name: name.to_owned(), differs }
    }

    /// Names the models that are compared from now on; their numbers, in their order.
    ///
    /// # Errors
    /// A model of one of the names answered under other settings.
    pub fn serve(&self, models: &[Contestant]) -> Result<Vec<i64>, ArenaError> {
        let mut wrong = None;
        let ids = self.work(|db| {
            db.execute("UPDATE arena_models SET serving = 0", [])?;
            let mut ids = Vec::new();
            for model in models {
                let settings = model.settings.to_string();
                let known: Option<(i64, String)> = db
                    .prepare_cached("SELECT id, settings FROM arena_models WHERE name = ?")?
                    .query_row([&model.name], |row| Ok((row.get(0)?, row.get(1)?)))
                    .optional()?;
                match known {
                    Some((id, known)) if known == settings => {
                        db.execute("UPDATE arena_models SET serving = 1 WHERE id = ?", [id])?;
                        ids.push(id);
                    }
                    Some((_, known)) => {
                        wrong = Some((model.name.clone(), differing(&known, &model.settings)));
                        return Err(Refusal::new(409, "models differ").into());
                    }
                    None => {
                        db.execute(
                            "INSERT INTO arena_models (name, settings, serving) VALUES (?, ?, 1)",
                            [&model.name, &settings],
                        )?;
                        ids.push(db.last_insert_rowid());
                    }
                }
            }
            Ok(ids)
        });
        match wrong {
            Some((name, differs)) => Err(self.otherwise("the model", &name, differs)),
            None => ids,
        }
    }

    /// Adds prompts that are not there yet; how many there are now.
    ///
    /// # Errors
    /// The file has another prompt of one of the names.
    pub fn add(&self, prompts: &[Prompt]) -> Result<usize, ArenaError> {
        let mut wrong = None;
        let added = self.work(|db| {
            for prompt in prompts {
                let known: Option<Prompt> = db
                    .prepare_cached(&format!(
                        "SELECT {PROMPT} FROM arena_prompts AS p WHERE name = ?"
                    ))?
                    .query_row([&prompt.name], |row| read_prompt(row, 0))
                    .optional()?;
                match known {
                    None => drop(insert_prompt(db, prompt, None)?),
                    Some(known) if known == *prompt => {}
                    Some(_) => {
                        wrong = Some(prompt.name.clone());
                        return Err(Refusal::new(409, "prompts differ").into());
                    }
                }
            }
            Ok(db.query_row("SELECT count(*) FROM arena_prompts", [], |row| row.get(0))?)
        });
        match wrong {
            Some(name) => {
                let differs = "its text, skill or difficulty is another".to_owned();
                Err(self.otherwise("the prompt", &name, differs))
            }
            None => added,
        }
    }

    /// Prompts that a model has not answered, in their order; what grew out of votes first, and only for the two models
    /// that it is about.
    pub fn missing(&self, model: i64, most: usize) -> Result<Vec<Task>, ArenaError> {
        self.work(|db| {
            let mut find = db.prepare_cached(&format!(
                "SELECT {PROMPT}, p.id FROM arena_prompts AS p LEFT JOIN arena_shows AS s ON s.id = p.behind
                 WHERE NOT EXISTS (SELECT 1 FROM arena_answers WHERE prompt = p.id AND model = ?1)
                   AND (p.behind IS NULL OR ?1 IN (s.left_model, s.right_model))
                 ORDER BY p.behind IS NULL, p.id LIMIT ?2"
            ))?;
            let rows = find.query_map(params![model, most], |row| {
                Ok(Task { id: row.get(5)?, prompt: read_prompt(row, 0)? })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// Keeps an answer.
    pub fn put(&self, model: i64, prompt: i64, answer: &Answer) -> Result<(), ArenaError> {
        self.work(|db| {
            let said = json(&answer.said);
            db.prepare_cached(
                "INSERT OR IGNORE INTO arena_answers (prompt, model, said, ended, seed, made)
                 VALUES (?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                prompt,
                model,
                said,
                answer.ended,
                answer.seed as i64,
                now()
            ])?;
            Ok(())
        })
    }
}

/// The columns that [`read_prompt`] reads.
pub(super) const PROMPT: &str = "p.name, p.skill, p.difficulty, p.messages, p.turns";

/// Reads a prompt from these columns on.
pub(super) fn read_prompt(row: &Row<'_>, at: usize) -> rusqlite::Result<Prompt> {
    Ok(Prompt {
        name: row.get(at)?,
        skill: row.get(at + 1)?,
        difficulty: row.get(at + 2)?,
        messages: read_json(row, at + 3)?,
        turns: read_json(row, at + 4)?,
    })
}

/// Reads a column of JSON.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(
    row: &Row<'_>,
    at: usize,
) -> rusqlite::Result<T> {
    let text: String = row.get(at)?;
    serde_json::from_str(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Text, error.into())
    })
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts serialise")
}

/// Adds a prompt; of one that grew out of a vote, the prompt that its dialogue began with, and the vote.
pub(super) fn insert_prompt(
    db: &Connection,
    prompt: &Prompt,
    grown: Option<(i64, i64)>,
) -> rusqlite::Result<i64> {
    db.prepare_cached(
        "INSERT INTO arena_prompts (name, skill, difficulty, messages, turns, root, behind)
         VALUES (?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        prompt.name,
        prompt.skill,
        prompt.difficulty,
        json(&prompt.messages),
        json(&prompt.turns),
        grown.map_or(0, |(root, _)| root),
        grown.map(|(_, show)| show),
    ])?;
    let id = db.last_insert_rowid();
    if grown.is_none() {
        db.execute("UPDATE arena_prompts SET root = id WHERE id = ?", [id])?;
    }
    Ok(id)
}

/// Milliseconds since 1970.
pub(super) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as i64)
}

/// The settings that differ, with both values.
fn differing(known: &str, now: &Value) -> String {
    let known: Value = serde_json::from_str(known).unwrap_or_default();
    let names = now.as_object().into_iter().flat_map(|fields| fields.keys());
    let names = names.filter(|name| known[name.as_str()] != now[name.as_str()]);
    let told =
        names.map(|name| format!("{name} was {}, is {}", known[name.as_str()], now[name.as_str()]));
    told.collect::<Vec<_>>().join("; ")
}
