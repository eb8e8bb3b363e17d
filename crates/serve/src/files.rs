//! Files that callers give to be kept: their bytes in a folder, what is known of them in SQLite beside it.
//!
//! A file is there once its row is: its bytes are synced under their last name before, and bytes without a row are
//! swept when the folder is opened. One server has a folder at a time.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value, json};

use crate::ask::fresh;
use crate::db::{self, DbError};
use crate::refusal::Refusal;

pub use routes::{PURPOSES, Page, router};

mod routes;

/// The folder, and its tables.
pub struct Files {
    folder: PathBuf,
    db: Mutex<Connection>,
    /// Bytes of all files at most.
    most: u64,
    /// Bytes of files that are kept, and of those that come.
    held: AtomicU64,
    /// Held while the folder is this server's.
    _lock: File,
}

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name here.
    pub id: String,
    /// Its length.
    pub bytes: u64,
    /// When it came, in seconds since 1970.
    pub created: u64,
    /// What its owner calls it: shown, never opened.
    pub name: String,
    /// What it is for.
    pub purpose: String,
    /// The name of the key that owns it; `None` where there are no keys.
    pub owner: Option<String>,
}

/// Why a file cannot be kept or given.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// A statement.
    #[error("the files' database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The disk.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Another server has the folder.
    #[error("{} is another server's", .0.display())]
    Taken(PathBuf),
    /// All files together would be too long.
    #[error("the files would take more than {most} bytes")]
    Full {
        /// What they may take.
        most: u64,
    },
}

/// The tables, in the order in which they were added.
const CHANGES: &[&str] = &[
    "CREATE TABLE files (
        id TEXT PRIMARY KEY, bytes INTEGER NOT NULL, created INTEGER NOT NULL,
        name TEXT NOT NULL, purpose TEXT NOT NULL, owner TEXT
    ) STRICT",
    "CREATE TABLE batches (
        id TEXT PRIMARY KEY, created INTEGER NOT NULL, owner TEXT, status TEXT NOT NULL,
        endpoint TEXT NOT NULL, input TEXT NOT NULL, output TEXT, errors TEXT,
        total INTEGER NOT NULL DEFAULT 0, completed INTEGER NOT NULL DEFAULT 0,
        failed INTEGER NOT NULL DEFAULT 0, faults TEXT, metadata TEXT, times TEXT NOT NULL DEFAULT '{}'
    ) STRICT",
    "CREATE TABLE rows (
        batch TEXT NOT NULL, line INTEGER NOT NULL, good INTEGER NOT NULL, answer TEXT NOT NULL,
        PRIMARY KEY (batch, line)
    ) STRICT, WITHOUT ROWID",
];

impl FilesError {
    /// The error of a system call on `path`.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> FilesError {
        let path = path.to_owned();
        move |source| FilesError::Io { path, source }
    }

    fn is_full(&self) -> bool {
        let disk = |error: &rusqlite::Error| {
            error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
        };
        match self {
            FilesError::Full { .. } => true,
            FilesError::Io { source, .. } => {
                let kinds = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
                kinds.contains(&source.kind())
            }
            FilesError::Sqlite(error) => disk(error),
            FilesError::Db(DbError::Sqlite { source, .. }) => disk(source),
            FilesError::Db(DbError::Later { .. }) | FilesError::Taken(_) => false,
        }
    }
}

impl From<FilesError> for Refusal {
    fn from(error: FilesError) -> Refusal {
        match error.is_full() {
            true => Refusal {
                code: Some("no_space"),
                ..Refusal::new(507, "there is no room for it on the server's disk")
            },
            // The system's words may hold paths: they are for the log of whoever runs this.
            false => Refusal::new(500, "the server's files cannot be used"),
        }
    }
}

impl Files {
    /// Opens a folder, or makes it for its user alone; all files in it together may have `most` bytes.
    ///
    /// Errors: the disk, or another server has it.
    pub fn open(folder: &Path, most: u64) -> Result<Files, FilesError> {
        for folder in [folder.to_owned(), folder.join("content"), folder.join("coming")] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
            made.map_err(FilesError::io(&folder))?;
        }
        let lock_path = folder.join("lock");
        let lock = File::create(&lock_path).map_err(FilesError::io(&lock_path))?;
        if lock.try_lock().is_err() {
            return Err(FilesError::Taken(folder.to_owned()));
        }
        let db = db::open(&folder.join("files.sqlite"), "files", CHANGES)?;
        let held = db.query_row("SELECT coalesce(sum(bytes), 0) FROM files", [], |r| r.get(0))?;
        let (db, held) = (Mutex::new(db), AtomicU64::new(held));
        let files = Files { folder: folder.to_owned(), db, most, held, _lock: lock };
        files.clear()?;
        Ok(files)
    }

    /// Removes bytes that no row is for: a kill left them.
    fn clear(&self) -> Result<(), FilesError> {
        let ids = |db: &Connection| -> rusqlite::Result<Vec<String>> {
            db.prepare("SELECT id FROM files")?.query_map([], |row| row.get(0))?.collect()
        };
        let known = ids(&self.db())?;
        for folder in ["content", "coming"].map(|name| self.folder.join(name)) {
            for entry in fs::read_dir(&folder).map_err(FilesError::io(&folder))? {
                let entry = entry.map_err(FilesError::io(&folder))?;
                let name = entry.file_name();
                if folder.ends_with("coming") || !known.iter().any(|id| name == id.as_str()) {
                    fs::remove_file(entry.path()).map_err(FilesError::io(&entry.path()))?;
                }
            }
        }
        Ok(())
    }

    /// The tables.
    pub fn db(&self) -> MutexGuard<'_, Connection> {
        // A transaction that was not ended is undone.
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a file that is to be kept.
    pub fn begin(self: &Arc<Files>) -> Result<Coming, FilesError> {
        let id = format!("file-{:016x}{:016x}", fresh(), fresh());
        let path = self.folder.join("coming").join(&id);
        let file = File::create(&path).map_err(FilesError::io(&path))?;
        Ok(Coming { files: Arc::clone(self), id, path, file, bytes: 0, kept: false })
    }

    /// The file of this name, if it is this owner's.
    pub fn find(&self, id: &str, owner: Option<&str>) -> Result<Option<Entry>, FilesError> {
        let found =
            self.db().query_row("SELECT * FROM files WHERE id = ?1", [id], read).optional()?;
        Ok(found.filter(|entry| entry.owner.as_deref() == owner))
    }

    /// The files of this owner, the latest first.
    pub fn list(&self, owner: Option<&str>) -> Result<Vec<Entry>, FilesError> {
        let db = self.db();
        let mut all =
            db.prepare("SELECT * FROM files WHERE owner IS ?1 ORDER BY created DESC, rowid DESC")?;
        let found = all.query_map([owner], read)?.collect::<rusqlite::Result<_>>()?;
        Ok(found)
    }

    /// Opens the bytes of a file.
    pub fn content(&self, id: &str) -> Result<File, FilesError> {
        let path = self.path(id);
        File::open(&path).map_err(FilesError::io(&path))
    }

    /// Drops a file, its row first; `false` where a batch that is not over reads it.
    pub fn remove(&self, id: &str) -> Result<bool, FilesError> {
        // One statement: no batch can come in between.
        let drop = "DELETE FROM files WHERE id = ?1 AND NOT EXISTS (
                        SELECT 1 FROM batches WHERE input = ?1
                        AND status IN ('validating', 'in_progress', 'finalizing', 'cancelling'))
                    RETURNING bytes";
        let dropped: Option<u64> = {
            let db = self.db();
            let dropped = db.query_row(drop, [id], |row| row.get(0)).optional()?;
            let there = "SELECT EXISTS (SELECT 1 FROM files WHERE id = ?1)";
            if dropped.is_none() && db.query_row(there, [id], |row| row.get(0))? {
                return Ok(false);
            }
            dropped
        };
        let Some(bytes) = dropped else { return Ok(true) }; // somebody else was faster
        self.held.fetch_sub(bytes, Relaxed);
        let path = self.path(id);
        fs::remove_file(&path).map_err(FilesError::io(&path))?;
        Ok(true)
    }

    /// Where the bytes of a file lie. Names are made here: none comes from a caller.
    fn path(&self, id: &str) -> PathBuf {
        self.folder.join("content").join(id)
    }
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        id: row.get("id")?,
        bytes: row.get("bytes")?,
        created: row.get("created")?,
        name: row.get("name")?,
        purpose: row.get("purpose")?,
        owner: row.get("owner")?,
    })
}

impl Entry {
    /// As OpenAI has it.
    pub fn json(&self) -> Value {
        json!({
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": self.created,
            "expires_at": null,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
        })
    }
}

/// A file that is being written; dropped before it is kept, it is gone, and so is its part of the room.
pub struct Coming {
    files: Arc<Files>,
    id: String,
    path: PathBuf,
    file: File,
    bytes: u64,
    /// Whether it is there to stay.
    kept: bool,
}

impl Coming {
    /// Adds bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FilesError> {
        let (most, more) = (self.files.most, bytes.len() as u64);
        // Counted before they are written, so that files that come side by side see each other.
        let room = |held: u64| held.checked_add(more).filter(|held| *held <= most);
        if self.files.held.fetch_update(Relaxed, Relaxed, room).is_err() {
            return Err(FilesError::Full { most });
        }
        self.bytes += more;
        self.file.write_all(bytes).map_err(FilesError::io(&self.path))
    }

    /// The bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Puts the bytes where they stay; what is left to do is to add the row ([`insert`]), and then to say so ([`Coming::stay`]).
    pub fn settle(
        &mut self,
        name: &str,
        purpose: &str,
        owner: Option<&str>,
        created: u64,
    ) -> Result<Entry, FilesError> {
        self.file.sync_all().map_err(FilesError::io(&self.path))?;
        let path = self.files.path(&self.id);
        fs::rename(&self.path, &path).map_err(FilesError::io(&path))?;
        self.path = path;
        let folder = self.files.folder.join("content");
        let opened = File::open(&folder).and_then(|folder| folder.sync_all());
        opened.map_err(FilesError::io(&folder))?;
        Ok(Entry {
            id: self.id.clone(),
            bytes: self.bytes,
            created,
            name: name.to_owned(),
            purpose: purpose.to_owned(),
            owner: owner.map(str::to_owned),
        })
    }

    /// The file has its row.
    pub fn stay(mut self) {
        self.kept = true;
    }

    /// Keeps the file.
    pub fn keep(
        mut self,
        name: &str,
        purpose: &str,
        owner: Option<&str>,
        created: u64,
    ) -> Result<Entry, FilesError> {
        let files = Arc::clone(&self.files);
        let entry = self.settle(name, purpose, owner, created)?;
        insert(&files.db(), &entry)?;
        self.stay();
        Ok(entry)
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path); // what is left is swept when the folder is opened
            self.files.held.fetch_sub(self.bytes, Relaxed);
        }
    }
}

/// Adds the row of a file whose bytes are there.
pub fn insert(db: &Connection, entry: &Entry) -> rusqlite::Result<()> {
    let Entry { id, bytes, created, name, purpose, owner } = entry;
    db.execute(
        "INSERT INTO files (id, bytes, created, name, purpose, owner) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![id, bytes, created, name, purpose, owner],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn open(folder: &Path) -> Arc<Files> {
        Arc::new(Files::open(folder, 100).unwrap())
    }

    #[test]
    fn a_file_is_there_after_a_restart_and_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let entry = {
            let files = open(folder.path());
            let mut coming = files.begin().unwrap();
            coming.write(b"one").unwrap();
            coming.write(b"two").unwrap();
            coming.keep("../../name\n", "batch", Some("me"), 7).unwrap()
        };
        let files = open(folder.path());
        assert_eq!(files.find(&entry.id, Some("me")).unwrap(), Some(entry.clone()));
        assert_eq!(files.find(&entry.id, None).unwrap(), None);
        assert_eq!(files.find("../lock", Some("me")).unwrap(), None);
        assert_eq!(files.list(Some("me")).unwrap(), std::slice::from_ref(&entry));
        let mut text = String::new();
        files.content(&entry.id).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), entry.bytes), ("onetwo", 6));
        files.remove(&entry.id).unwrap();
        assert!(files.list(Some("me")).unwrap().is_empty());
    }

    #[test]
    fn bytes_without_a_row_are_swept_and_a_folder_has_one_server() {
        let folder = tempfile::tempdir().unwrap();
        let files = open(folder.path());
        assert!(matches!(Files::open(folder.path(), 100), Err(FilesError::Taken(_))));
        let mut coming = files.begin().unwrap();
        coming.write(b"lost").unwrap();
        let entry = coming.settle("a", "batch", None, 1).unwrap();
        assert!(files.content(&entry.id).is_ok());
        drop(coming);
        assert!(files.content(&entry.id).is_err());
        fs::write(folder.path().join("content").join(&entry.id), b"lost").unwrap(); // and then a kill
        fs::write(folder.path().join("coming/half"), b"x").unwrap();
        drop(files);
        let files = open(folder.path());
        assert!(files.content(&entry.id).is_err());
        assert_eq!(fs::read_dir(folder.path().join("coming")).unwrap().count(), 0);
    }

    #[test]
    fn files_that_come_side_by_side_share_the_room() {
        let folder = tempfile::tempdir().unwrap();
        let files = open(folder.path());
        let (mut one, mut two) = (files.begin().unwrap(), files.begin().unwrap());
        one.write(&[0; 60]).unwrap();
        assert!(matches!(two.write(&[0; 41]), Err(FilesError::Full { .. })));
        two.write(&[0; 40]).unwrap();
        drop(two);
        let entry = one.keep("a", "batch", None, 1).unwrap();
        files.begin().unwrap().write(&[0; 40]).unwrap();
        assert!(files.begin().unwrap().write(&[0; 41]).is_err());
        drop(files);
        let files = open(folder.path());
        assert!(files.begin().unwrap().write(&[0; 41]).is_err());
        assert!(files.remove(&entry.id).unwrap() && files.remove(&entry.id).unwrap());
        files.begin().unwrap().write(&[0; 100]).unwrap();
    }

    #[test]
    fn what_is_kept_is_its_users_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("a/b");
        let _files = open(&home);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&home), 0o700);
        for name in ["files.sqlite", "files.sqlite-wal"] {
            assert_eq!(mode(&home.join(name)), 0o600, "{name}");
        }
    }

    #[test]
    fn what_has_no_room_is_told_as_507() {
        let folder = tempfile::tempdir().unwrap();
        let files = open(folder.path());
        let mut coming = files.begin().unwrap();
        coming.write(&[0; 60]).unwrap();
        coming.keep("a", "batch", None, 1).unwrap();
        let mut coming = files.begin().unwrap();
        let refusal = Refusal::from(coming.write(&[0; 41]).unwrap_err());
        assert_eq!((refusal.status, refusal.code), (507, Some("no_space")));
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = FilesError::io(Path::new("/secret"))(full);
        assert_eq!(Refusal::from(error).status, 507);
        let error = FilesError::io(Path::new("/secret"))(io::ErrorKind::NotFound.into());
        assert!(!Refusal::from(error).message.contains("secret"));
    }
}
