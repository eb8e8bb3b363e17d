//! The file that keeps what must outlive the server: SQLite, so that anyone can query it.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

/// Opens or makes the database at `path`, and brings the tables of `part` up to date: `changes` are
/// statements in the order in which they were ever added, and those not yet made in this file are
/// made in one transaction. What is committed outlives a kill; several programs may have it open. A file that is made is its
/// user's alone, and so are those that SQLite puts beside it.
///
/// # Errors
/// A path that is no such database, a full disk, or a file that a later Herd has changed.
pub fn open(path: &Path, part: &str, changes: &[&str]) -> Result<Connection, DbError> {
    let at = |source| DbError::Sqlite { path: path.to_owned(), source };
    if path != Path::new(":memory:") {
        // If it cannot be made it is there, or SQLite says why not.
        let _ = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    }
    let mut db = Connection::open(path).map_err(at)?;
    prepare(&mut db, part, changes).map_err(at)?.map_or(Ok(db), |made| {
        Err(DbError::Later { path: path.to_owned(), part: part.to_owned(), made })
    })
}

/// `Some(changes made)` if the file has more than are known.
fn prepare(
    db: &mut Connection,
    part: &str,
    changes: &[&str],
) -> Result<Option<usize>, rusqlite::Error> {
    db.busy_timeout(Duration::from_secs(10))?;
    db.pragma_update(None, "journal_mode", "wal")?;
    db.pragma_update(None, "synchronous", "full")?;
    db.pragma_update(None, "foreign_keys", true)?;
    let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    change.execute_batch(
        "CREATE TABLE IF NOT EXISTS parts (name TEXT PRIMARY KEY, changes INTEGER NOT NULL) STRICT",
    )?;
    let made: usize = change
        .query_row("SELECT changes FROM parts WHERE name = ?1", [part], |row| row.get(0))
        .optional()?
        .unwrap_or(0);
    if made > changes.len() {
        return Ok(Some(made));
    }
    for statement in &changes[made..] {
        change.execute_batch(statement)?;
    }
    change.execute("INSERT OR REPLACE INTO parts VALUES (?1, ?2)", params![part, changes.len()])?;
    change.commit()?;
    Ok(None)
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// SQLite says so.
    #[error("{}: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// A later program changed the tables.
    #[error("{}: {part} was changed {made} times, more than this Herd knows of", path.display())]
    Later {
        /// The file.
        path: PathBuf,
        /// The tables.
        part: String,
        /// Changes made.
        made: usize,
    },
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn changes_are_made_once_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept.sqlite");
        let first = ["CREATE TABLE a (x INTEGER) STRICT"];
        open(&path, "a", &first).unwrap().execute("INSERT INTO a VALUES (1)", []).unwrap();
        let both = [first[0], "ALTER TABLE a ADD COLUMN y INTEGER DEFAULT 7"];
        for _ in 0..2 {
            let db = open(&path, "a", &both).unwrap();
            let row = db.query_row("SELECT x, y FROM a", [], |row| Ok((row.get(0)?, row.get(1)?)));
            assert_eq!(row.unwrap(), (1, 7));
        }
        open(&path, "b", &["CREATE TABLE b (x INTEGER) STRICT"]).unwrap();
        assert!(matches!(open(&path, "a", &first), Err(DbError::Later { made: 2, .. })));
    }

    #[test]
    fn a_file_that_is_no_database_is_named_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        let text = "no database, but longer than the header of one is\n".repeat(9);
        fs::write(&path, &text).unwrap();
        let error = open(&path, "a", &[]).unwrap_err();
        assert!(error.to_string().contains("notes.txt"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}
