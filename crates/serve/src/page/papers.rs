//! Files of a conversation: what a person attached that is no text, and what tools wrote.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value, json};

use super::store::{Key, Refused, branch_parts, now};
use crate::agent::event::FileOut;
use crate::agent::tools::Given;
use crate::refusal::Refusal;

/// The table, as a change to the page's.
pub const CHANGE: &str = "
    CREATE TABLE page_files (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        chat INTEGER NOT NULL REFERENCES page_chats ON DELETE CASCADE,
        name TEXT NOT NULL,
        bytes BLOB NOT NULL,
        made INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX page_files_by_chat ON page_files (chat);
";

/// Bytes of all files of a conversation at most.
const BYTES_MAX: usize = 256 << 20;

/// Keeps a file; its number. Errors: there is no room.
fn add(db: &Connection, chat: i64, name: &str, bytes: &[u8]) -> Result<i64, Refused> {
    let held: usize = db
        .prepare_cached("SELECT coalesce(sum(length(bytes)), 0) FROM page_files WHERE chat = ?")?
        .query_row([chat], |row| row.get(0))?;
    if held + bytes.len() > BYTES_MAX {
        let message = format!("the files of a conversation may have {BYTES_MAX} bytes in all");
        return Err(Refusal::new(413, message).into());
    }
    db.prepare_cached("INSERT INTO page_files (chat, name, bytes, made) VALUES (?, ?, ?, ?)")?
        .execute(params![chat, name, bytes, now()])?;
    Ok(db.last_insert_rowid())
}

/// Keeps what a tool wrote, as its result lists it. A file for which there is no room is listed without an address.
pub fn written(db: &Connection, chat: i64, files: &[FileOut]) -> Vec<Value> {
    let one = |file: &FileOut| {
        let mut listed = json!({ "name": file.name, "bytes": file.bytes.len() });
        if let Ok(id) = add(db, chat, &file.name, &file.bytes) {
            listed["url"] = format!("/ui/api/files/{id}").into();
        }
        listed
    };
    files.iter().map(one).collect()
}

/// Keeps what was attached as bytes; the parts, with its numbers in their place.
pub fn keep(db: &Connection, chat: i64, said: &[Value]) -> Result<Vec<Value>, Refused> {
    let one = |part: &Value| {
        let Some(bytes) = bytes_in(part) else { return Ok(part.clone()) };
        let name = part["name"].as_str().unwrap_or_default();
        let id = add(db, chat, name, &bytes)?;
        Ok(json!({ "type": "file", "name": name, "file": id, "bytes": bytes.len() }))
    };
    said.iter().map(one).collect()
}

/// The bytes that a part brings along.
fn bytes_in(part: &Value) -> Option<Vec<u8>> {
    STANDARD.decode(part["base64"].as_str()?).ok()
}

/// A file of a conversation of this owner: its name and what it holds.
pub fn read(db: &Connection, owner: &str, file: i64) -> Result<Given, Refused> {
    let mut statement = db.prepare_cached(
        "SELECT f.name, f.bytes FROM page_files AS f JOIN page_chats AS c ON c.id = f.chat
         WHERE f.id = ? AND c.owner = ?",
    )?;
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let found = statement.query_row(params![file, owner], row).optional()?;
    Ok(found.ok_or_else(|| Refusal::new(404, format!("there is no file {file}")))?)
}

/// The files that tools get: those on the branch that ends with `leaf`, then those of `said`. Of two of one name the later
/// one counts, and folders are left out of names.
///
/// Errors: a number in `said` is no file of this conversation.
pub fn attached(
    db: &Connection,
    key: &Key,
    leaf: Option<i64>,
    said: &[Value],
) -> Result<Vec<Given>, Refused> {
    let before = leaf.map_or(Ok(Vec::new()), |leaf| branch_parts(db, leaf))?;
    let before = before.into_iter().filter(|(role, _)| role == "user").flat_map(|(_, parts)| parts);
    let mut files: Vec<Given> = Vec::new();
    for part in before.chain(said.iter().cloned()).filter(|part| part["type"] == "file") {
        let bytes = match (part["text"].as_str(), part["file"].as_i64()) {
            (Some(text), _) => text.as_bytes().to_vec(),
            (None, Some(id)) => own(db, key.chat, id)?,
            (None, None) => bytes_in(&part).unwrap_or_default(),
        };
        let name = part["name"].as_str().unwrap_or_default();
        let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
        if matches!(name, "" | "." | "..") {
            continue; // no file can be called so
        }
        files.retain(|(known, _)| known != name);
        files.push((name.to_owned(), bytes));
    }
    Ok(files)
}

fn own(db: &Connection, chat: i64, file: i64) -> Result<Vec<u8>, Refused> {
    let mut statement =
        db.prepare_cached("SELECT bytes FROM page_files WHERE id = ? AND chat = ?")?;
    let found = statement.query_row(params![file, chat], |row| row.get(0)).optional()?;
    let none = || Refusal::field("said", format!("said has file {file}, none of this chat"));
    Ok(found.ok_or_else(none)?)
}
