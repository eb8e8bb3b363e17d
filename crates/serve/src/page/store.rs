//! Conversations that outlive the server: trees of messages in SQLite, owned by one thread.
//!
//! A message knows the one before it. To edit a message is to add another one behind the same, and
//! to answer again likewise; `leaf` is the end of the branch that was looked at last.

use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use super::{papers, parts};
use crate::db::{self, DbError};
use crate::refusal::Refusal;

const CHANGES: &[&str] = &[
    "
    CREATE TABLE page_chats (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        owner TEXT NOT NULL,
        title TEXT NOT NULL,
        words TEXT NOT NULL,
        settings TEXT NOT NULL,
        leaf INTEGER,
        changed INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX page_chats_by_owner ON page_chats (owner, changed);
    CREATE TABLE page_messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        chat INTEGER NOT NULL REFERENCES page_chats ON DELETE CASCADE,
        parent INTEGER REFERENCES page_messages ON DELETE CASCADE,
        role TEXT NOT NULL CHECK (role IN ('user', 'assistant')),
        parts TEXT NOT NULL,
        words TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('running', 'done', 'interrupted')),
        made INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX page_messages_by_chat ON page_messages (chat);
    CREATE INDEX page_messages_by_parent ON page_messages (parent);
",
    papers::CHANGE,
];

/// Conversations in a list at most.
const LISTED: usize = 500;

/// The way to the thread that has the file.
pub struct Store {
    orders: Sender<Work>,
}

type Work = Box<dyn FnOnce(&mut Connection) + Send>;

/// Whose conversation, and which.
#[derive(Clone, Debug)]
pub struct Key {
    /// The hash of the caller's key; empty where the server wants none.
    pub owner: String,
    /// The conversation.
    pub chat: i64,
}

/// What is to be changed of a conversation.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Its title.
    pub title: Option<String>,
    /// Its settings, as a whole.
    pub settings: Option<Map<String, Value>>,
    /// The branch that is looked at, by its last message.
    pub leaf: Option<i64>,
}

impl Store {
    /// Opens the file, or keeps all in memory. Answers that were being written when the last
    /// server ended are marked as interrupted.
    pub fn open(path: Option<&Path>) -> Result<Store, DbError> {
        let path = path.unwrap_or(Path::new(":memory:"));
        let mut db = db::open(path, "page", CHANGES)?;
        db.execute("UPDATE page_messages SET state = 'interrupted' WHERE state = 'running'", [])
            .map_err(|source| DbError::Sqlite { path: path.to_owned(), source })?;
        let (orders, work) = mpsc::channel::<Work>();
        let keep = move || work.into_iter().for_each(|work| work(&mut db));
        let spawned = thread::Builder::new().name("herd-page".into()).spawn(keep);
        spawned.expect("the system gives a program one more thread");
        Ok(Store { orders })
    }

    /// Does `work` on that thread. Errors: SQLite's, and those of `work` itself.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (tell, told) = oneshot::channel();
        let work: Work = Box::new(move |db| drop(tell.send(work(db)))); // who asked may have left
        self.orders.send(work).map_err(|_| Refusal::fault())?;
        told.await.map_err(|_| Refusal::fault())?.map_err(Refusal::from)
    }
}

/// Why work on the file was not done.
#[derive(Debug)]
pub enum Refused {
    /// SQLite says so.
    Sqlite(rusqlite::Error),
    /// The request is wrong.
    Wrong(Refusal),
}

impl From<rusqlite::Error> for Refused {
    fn from(error: rusqlite::Error) -> Refused {
        Refused::Sqlite(error)
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        Refused::Wrong(refusal)
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Refusal {
        match refused {
            Refused::Wrong(refusal) => refusal,
            Refused::Sqlite(error) => {
                let full = error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull);
                let status = if full { 507 } else { 500 };
                Refusal::new(status, format!("conversations cannot be kept: {error}"))
            }
        }
    }
}

/// Milliseconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// The owner's conversations that hold `query` in their title or any message, newest first;
/// `more` says whether some are left out.
pub fn list(db: &Connection, owner: &str, query: &str) -> Result<Value, Refused> {
    let mut statement = db.prepare_cached(
        "SELECT id, title, changed FROM page_chats AS c WHERE owner = ?1 AND (?2 = ''
             OR instr(words, ?2) > 0
             OR EXISTS (SELECT 1 FROM page_messages WHERE chat = c.id AND instr(words, ?2) > 0))
         ORDER BY changed DESC, id DESC LIMIT ?3",
    )?;
    let row = |row: &Row<'_>| {
        let (id, title, changed): (i64, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(json!({ "id": id, "title": title, "changed": changed }))
    };
    let found = statement.query_map(params![owner, query.to_lowercase(), LISTED + 1], row)?;
    let mut chats = found.collect::<Result<Vec<Value>, _>>()?;
    let more = chats.len() > LISTED;
    chats.truncate(LISTED);
    Ok(json!({ "chats": chats, "more": more }))
}

/// Makes a conversation; its number.
pub fn create(
    db: &Connection,
    owner: &str,
    title: &str,
    settings: &Map<String, Value>,
) -> Result<i64, Refused> {
    let settings = Value::Object(settings.clone()).to_string();
    db.prepare_cached(
        "INSERT INTO page_chats (owner, title, words, settings, changed) VALUES (?, ?, ?, ?, ?)",
    )?
    .execute(params![owner, title, title.to_lowercase(), settings, now()])?;
    Ok(db.last_insert_rowid())
}

/// A conversation with all its messages.
pub fn read(db: &Connection, key: &Key) -> Result<Value, Refused> {
    let Head { title, settings, leaf } = head(db, key)?;
    let mut statement = db.prepare_cached(
        "SELECT id, parent, role, parts, state, made FROM page_messages WHERE chat = ? ORDER BY id",
    )?;
    let row = |row: &Row<'_>| {
        Ok(json!({
            "id": row.get::<_, i64>(0)?,
            "parent": row.get::<_, Option<i64>>(1)?,
            "role": row.get::<_, String>(2)?,
            "parts": json_of::<Value>(row, 3)?,
            "state": row.get::<_, String>(4)?,
            "made": row.get::<_, i64>(5)?,
        }))
    };
    let messages = statement.query_map([key.chat], row)?.collect::<Result<Vec<Value>, _>>()?;
    Ok(json!({
        "id": key.chat, "title": title, "settings": settings, "leaf": leaf, "messages": messages,
    }))
}

/// A conversation without its messages.
struct Head {
    title: String,
    settings: Map<String, Value>,
    leaf: Option<i64>,
}

/// Errors: 404 if it is not there, or another's.
fn head(db: &Connection, key: &Key) -> Result<Head, Refused> {
    let mut statement = db.prepare_cached(
        "SELECT title, settings, leaf FROM page_chats WHERE id = ? AND owner = ?",
    )?;
    let row = |row: &Row<'_>| {
        Ok(Head { title: row.get(0)?, settings: json_of(row, 1)?, leaf: row.get(2)? })
    };
    let found = statement.query_row(params![key.chat, key.owner], row).optional()?;
    Ok(found.ok_or_else(|| no_chat(key.chat))?)
}

fn no_chat(chat: i64) -> Refusal {
    Refusal::new(404, format!("there is no conversation {chat}"))
}

fn json_of<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    let wrong = |error: serde_json::Error| {
        rusqlite::Error::FromSqlConversionFailure(
            column,
            rusqlite::types::Type::Text,
            Box::new(error),
        )
    };
    serde_json::from_str(&text).map_err(wrong)
}

/// Changes a conversation.
pub fn change(db: &mut Connection, key: &Key, change: &Change) -> Result<(), Refused> {
    let all = db.transaction()?;
    head(&all, key)?;
    if let Some(title) = &change.title {
        let words = title.to_lowercase();
        all.execute(
            "UPDATE page_chats SET title = ?, words = ? WHERE id = ?",
            params![title, words, key.chat],
        )?;
    }
    if let Some(settings) = &change.settings {
        let settings = Value::Object(settings.clone()).to_string();
        all.execute(
            "UPDATE page_chats SET settings = ? WHERE id = ?",
            params![settings, key.chat],
        )?;
    }
    if let Some(leaf) = change.leaf {
        role(&all, key.chat, leaf, "leaf")?;
        all.execute("UPDATE page_chats SET leaf = ? WHERE id = ?", params![leaf, key.chat])?;
    }
    Ok(all.commit()?)
}

/// Drops a conversation and its messages.
pub fn remove(db: &Connection, key: &Key) -> Result<(), Refused> {
    let gone = db.execute(
        "DELETE FROM page_chats WHERE id = ? AND owner = ?",
        params![key.chat, key.owner],
    )?;
    if gone == 0 { Err(no_chat(key.chat).into()) } else { Ok(()) }
}

/// The role of a message of a conversation; `field` named it.
fn role(db: &Connection, chat: i64, message: i64, field: &str) -> Result<String, Refused> {
    let mut statement =
        db.prepare_cached("SELECT role FROM page_messages WHERE id = ? AND chat = ?")?;
    let found = statement.query_row(params![message, chat], |row| row.get(0)).optional()?;
    let none = || Refusal::field(field, format!("{field} is {message}, no message of this chat"));
    Ok(found.ok_or_else(none)?)
}

/// A branch to answer: its settings, and its messages from the first to `parent`, in OpenAI's
/// shape. Errors: the message is not there, or not one that `said` may follow.
pub fn branch(
    db: &Connection,
    key: &Key,
    parent: Option<i64>,
    said: bool,
) -> Result<(Map<String, Value>, Vec<Value>), Refused> {
    let Head { settings, .. } = head(db, key)?;
    let role = parent.map(|parent| role(db, key.chat, parent, "parent")).transpose()?;
    match (role.as_deref(), said) {
        (None | Some("assistant"), true) | (Some("user"), false) => {}
        (None, false) => return Err(Refusal::field("said", "said is missing").into()),
        (Some(_), true) => {
            let message = "said follows an answer, and parent is none";
            return Err(Refusal::field("parent", message).into());
        }
        (Some(_), false) => {
            let message = "parent is an answer: say something, or answer what came before it";
            return Err(Refusal::field("parent", message).into());
        }
    }
    Ok((settings, parent.map_or(Ok(Vec::new()), |parent| messages(db, parent))?))
}

/// Messages from the first to this one, in OpenAI's shape.
fn messages(db: &Connection, leaf: i64) -> Result<Vec<Value>, Refused> {
    let kept = branch_parts(db, leaf)?;
    Ok(kept.iter().flat_map(|(role, parts)| parts::messages(role, parts)).collect())
}

/// Roles and parts of the messages from the first to this one.
pub fn branch_parts(db: &Connection, leaf: i64) -> Result<Vec<(String, Vec<Value>)>, Refused> {
    let mut statement = db.prepare_cached(
        "WITH RECURSIVE up (parent, role, parts, n) AS (
             SELECT parent, role, parts, 0 FROM page_messages WHERE id = ?
             UNION ALL SELECT m.parent, m.role, m.parts, n + 1
             FROM up JOIN page_messages AS m ON m.id = up.parent
         ) SELECT role, parts FROM up ORDER BY n DESC",
    )?;
    let row = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, json_of::<Vec<Value>>(row, 1)?));
    Ok(statement.query_map([leaf], row)?.collect::<Result<_, _>>()?)
}

/// What an answer begins with.
pub struct Begun {
    /// The message that asks, where it is new.
    pub user: Option<i64>,
    /// The answer.
    pub answer: i64,
}

/// Adds what was said, if anything, and an answer that is being written, behind `parent`.
pub fn begin(
    db: &mut Connection,
    key: &Key,
    parent: Option<i64>,
    said: Option<&[Value]>,
) -> Result<Begun, Refused> {
    let all = db.transaction()?;
    let Head { title, .. } = head(&all, key)?; // it may be gone by now
    let said = said.map(|said| papers::keep(&all, key.chat, said)).transpose()?;
    let said = said.as_deref();
    let user = said.map(|said| add(&all, key.chat, parent, "user", said, "done")).transpose()?;
    let answer = add(&all, key.chat, user.or(parent), "assistant", &[], "running")?;
    let title = match said {
        Some(said) if title.is_empty() => parts::title(said),
        _ => title,
    };
    all.execute(
        "UPDATE page_chats SET title = ?, words = ?, leaf = ?, changed = ? WHERE id = ?",
        params![title, title.to_lowercase(), answer, now(), key.chat],
    )?;
    all.commit()?;
    Ok(Begun { user, answer })
}

fn add(
    db: &Connection,
    chat: i64,
    parent: Option<i64>,
    role: &str,
    parts: &[Value],
    state: &str,
) -> Result<i64, Refused> {
    db.prepare_cached(
        "INSERT INTO page_messages (chat, parent, role, parts, words, state, made)
         VALUES (?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![chat, parent, role, text(parts), parts::words(parts), state, now()])?;
    Ok(db.last_insert_rowid())
}

fn text(parts: &[Value]) -> String {
    Value::Array(parts.to_vec()).to_string()
}

/// Writes down what there is of an answer.
pub fn save(db: &Connection, answer: i64, parts: &[Value], over: bool) -> Result<(), Refused> {
    let state = if over { "done" } else { "running" };
    db.prepare_cached("UPDATE page_messages SET parts = ?, words = ?, state = ? WHERE id = ?")?
        .execute(params![text(parts), parts::words(parts), state, answer])?;
    Ok(())
}

/// Makes a conversation of messages in OpenAI's shape; its number.
pub fn import(
    db: &mut Connection,
    owner: &str,
    title: Option<&str>,
    settings: &mut Map<String, Value>,
    list: &[Value],
) -> Result<i64, Refused> {
    let system = list.first().filter(|first| first["role"] == "system");
    if let Some(system) = system {
        settings.insert("system".to_owned(), system["content"].clone());
    }
    let kept = parts::from_messages(&list[usize::from(system.is_some())..])?;
    let first = kept.first().map(|(_, parts)| parts::title(parts));
    let title = title.map(str::to_owned).or(first).unwrap_or_default();
    let all = db.transaction()?;
    let chat = create(&all, owner, &title, settings)?;
    let mut leaf = None;
    for (role, parts) in kept {
        leaf = Some(add(&all, chat, leaf, &role, &parts, "done")?);
    }
    all.execute("UPDATE page_chats SET leaf = ? WHERE id = ?", params![leaf, chat])?;
    all.commit()?;
    Ok(chat)
}

/// Conversations as rows of `messages`, one a line: the branch that was looked at last.
pub fn export(db: &Connection, owner: &str, chat: Option<i64>) -> Result<String, Refused> {
    let mut statement = db.prepare_cached(
        "SELECT id FROM page_chats WHERE owner = ?1 AND id = coalesce(?2, id) ORDER BY id",
    )?;
    let chats = statement.query_map(params![owner, chat], |row| row.get::<_, i64>(0))?;
    let chats = chats.collect::<Result<Vec<_>, _>>()?;
    if let (Some(chat), []) = (chat, &chats[..]) {
        return Err(no_chat(chat).into());
    }
    let mut lines = String::new();
    for chat in chats {
        let Head { settings, leaf, .. } = head(db, &Key { owner: owner.to_owned(), chat })?;
        let mut list = with_system(&settings, Vec::new());
        list.extend(leaf.map_or(Ok(Vec::new()), |leaf| messages(db, leaf))?);
        let mut row = json!({ "messages": list });
        if let Some(tools) = settings.get("tools") {
            row["tools"] = tools.clone();
        }
        lines.push_str(&row.to_string());
        lines.push('\n');
    }
    Ok(lines)
}

/// Messages behind the system's message of the settings, if they have one.
pub fn with_system(settings: &Map<String, Value>, mut messages: Vec<Value>) -> Vec<Value> {
    let system = settings.get("system").and_then(Value::as_str).filter(|text| !text.is_empty());
    if let Some(system) = system {
        messages.insert(0, json!({ "role": "system", "content": system }));
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> Connection {
        db::open(Path::new(":memory:"), "page", CHANGES).unwrap()
    }

    fn said(text: &str) -> Vec<Value> {
        vec![json!({ "type": "text", "text": text })]
    }

    fn refused<T>(result: Result<T, Refused>) -> u16 {
        Refusal::from(result.map(drop).unwrap_err()).status
    }

    #[test]
    fn a_branch_is_what_leads_to_its_end_and_no_other() {
        let mut db = opened();
        let chat = create(&db, "", "", &Map::new()).unwrap();
        let key = Key { owner: String::new(), chat };
        let first = begin(&mut db, &key, None, Some(&said("a"))).unwrap();
        save(&db, first.answer, &said("A"), true).unwrap();
        let other = begin(&mut db, &key, None, Some(&said("b"))).unwrap();
        let (_, messages) = branch(&db, &key, Some(first.answer), true).unwrap();
        let words: Vec<_> = messages.iter().map(|m| m["content"].as_str().unwrap()).collect();
        assert_eq!(words, ["a", "A"]);
        // What is said follows an answer, and an answer follows what is said.
        assert_eq!(refused(branch(&db, &key, other.user, true)), 400);
        assert_eq!(refused(branch(&db, &key, Some(other.answer), false)), 400);
        assert_eq!(refused(branch(&db, &key, None, false)), 400);
        // Messages of another conversation are none of this one.
        let strange = Key { chat: create(&db, "", "", &Map::new()).unwrap(), ..key };
        assert_eq!(refused(branch(&db, &strange, other.user, false)), 400);
    }

    #[test]
    fn what_is_dropped_takes_its_messages_along_and_its_number_never_comes_back() {
        let mut db = opened();
        let chat = create(&db, "me", "", &Map::new()).unwrap();
        let key = Key { owner: "me".to_owned(), chat };
        begin(&mut db, &key, None, Some(&said("a"))).unwrap();
        let strange = Key { owner: "you".to_owned(), chat };
        assert_eq!(refused(remove(&db, &strange)), 404);
        remove(&db, &key).unwrap();
        let left = db.query_row("SELECT count(*) FROM page_messages", [], |row| row.get(0));
        assert_eq!(left, Ok(0));
        assert!(create(&db, "me", "", &Map::new()).unwrap() > chat);
    }
}
