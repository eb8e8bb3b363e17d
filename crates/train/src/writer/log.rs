//! The log of a run: a line of JSON for each thing that cost time, by the hash of what was wanted.
//!
//! It grows while a run is under way, in whatever order answers come. When all is there it is written once more in the order
//! in which the rows used it, so that a run that was killed leaves the bytes of one that was not.

use crate::error::TrainError;
use crate::rejection::Rows;
use herd_data::Hash;
use herd_data::disk::sync_name;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The log under way; no other process has it. In memory are the places of entries alone.
pub struct Log {
    file: File,
    path: PathBuf,
    places: HashMap<Id, (u64, usize)>,
    end: u64,
}

/// Names an entry: the hash of what was wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id([u8; 16]);

impl Id {
    /// Of what is wanted.
    pub fn of(wanted: &Value) -> Id {
        let hash = Hash::of(wanted.to_string().as_bytes());
        Id(hash.0[..16].try_into().expect("sixteen of 32 bytes"))
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    id: std::borrow::Cow<'a, str>,
    wanted: Value,
    got: Value,
}

/// The same without what need not be kept in memory.
#[derive(Deserialize)]
struct Named {
    id: String,
}

impl Log {
    /// Opens the log, and cuts off a torn tail.
    ///
    /// Errors: another process has it; it cannot be read or written; a line that is not its last is none.
    pub fn open(path: &Path) -> Result<Log, TrainError> {
        let io = |action| move |e| TrainError::io(action, path, e);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).map_err(io("open"))?;
        if let Err(fs::TryLockError::WouldBlock) = file.try_lock() {
            return Err(TrainError::Busy { folder: path.to_owned() });
        }
        sync_name(path).map_err(io("sync"))?;
        let mut log = Log { file, path: path.to_owned(), places: HashMap::new(), end: 0 };
        log.index()?;
        log.file.set_len(log.end).map_err(io("write"))?;
        Ok(log)
    }

    fn index(&mut self) -> Result<(), TrainError> {
        let io = |e| TrainError::io("read", &self.path, e);
        let mut reader = BufReader::new(&self.file);
        reader.seek(SeekFrom::Start(0)).map_err(io)?;
        let (mut line, mut torn) = (Vec::new(), false);
        loop {
            line.clear();
            let bytes = reader.read_until(b'\n', &mut line).map_err(io)?;
            if bytes == 0 {
                return Ok(());
            }
            let named = line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice(line).ok());
            match named.and_then(|named: Named| id(&named.id)) {
                Some(id) if !torn => {
                    self.places.insert(id, (self.end, bytes));
                    self.end += bytes as u64;
                }
                None if !torn => torn = true,
                Some(_) | None => {
                    let what = format!("the line at byte {} is none of its own", self.end);
                    return Err(TrainError::Damaged { path: self.path.clone(), what });
                }
            }
        }
    }

    /// What was got for this; `None` if it was not asked yet.
    pub fn get(&mut self, id: Id) -> Result<Option<Value>, TrainError> {
        let Some(&place) = self.places.get(&id) else { return Ok(None) };
        let bytes = self.bytes(place)?;
        let line: Line<'_> = serde_json::from_slice(&bytes).map_err(|e| TrainError::Damaged {
            path: self.path.clone(),
            what: format!("the line at byte {}: {e}", place.0),
        })?;
        Ok(Some(line.got))
    }

    fn bytes(&mut self, (at, bytes): (u64, usize)) -> Result<Vec<u8>, TrainError> {
        let mut line = vec![0; bytes];
        let read = self.file.seek(SeekFrom::Start(at));
        read.and_then(|_| self.file.read_exact(&mut line))
            .map_err(|e| TrainError::io("read", &self.path, e))?;
        Ok(line)
    }

    /// Adds what was got, and brings it to the disk.
    pub fn put(&mut self, wanted: &Value, got: Value) -> Result<Id, TrainError> {
        let id = Id::of(wanted);
        let line = Line { id: id.to_string().into(), wanted: wanted.clone(), got };
        let mut text = serde_json::to_vec(&line).expect("JSON serialises");
        text.push(b'\n');
        let written = self.file.seek(SeekFrom::Start(self.end));
        written
            .and_then(|_| self.file.write_all(&text))
            .and_then(|()| self.file.sync_data())
            .map_err(|e| TrainError::io("write", &self.path, e))?;
        self.places.insert(id, (self.end, text.len()));
        self.end += text.len() as u64;
        Ok(id)
    }

    /// Writes the file once more: these entries, in this order, each once.
    pub(crate) fn settle(mut self, order: &[Id]) -> Result<(), TrainError> {
        let mut rows = Rows::create(self.path.clone())?;
        let mut seen = std::collections::HashSet::new();
        for id in order.iter().filter(|id| seen.insert(**id)) {
            let line = self.bytes(self.places[id])?;
            rows.write_line(&line)?;
        }
        rows.finish().map(|_| ())
    }
}

fn id(text: &str) -> Option<Id> {
    let mut id = [0; 16];
    if text.len() != 32 {
        return None;
    }
    for (byte, digits) in id.iter_mut().zip(text.as_bytes().as_chunks::<2>().0) {
        let digits = std::str::from_utf8(digits).ok()?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(Id(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn entries_come_back_and_the_last_order_is_that_of_their_use() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut log = Log::open(&path).unwrap();
        assert!(matches!(Log::open(&path), Err(TrainError::Busy { .. })));
        let ids: Vec<Id> = (0..3)
            .map(|i| log.put(&json!({ "q": i }), json!(format!("a{i}\n"))).unwrap())
            .collect();
        drop(log);
        let whole = fs::read(&path).unwrap();
        // A torn tail is cut off, and what stood before it is there.
        fs::write(&path, &whole[..whole.len() - 5]).unwrap();
        let mut log = Log::open(&path).unwrap();
        assert_eq!(log.places.len(), 2);
        assert_eq!(log.get(ids[1]).unwrap(), Some(json!("a1\n")));
        assert_eq!(log.get(ids[2]).unwrap(), None);
        log.put(&json!({ "q": 2 }), json!("a2\n")).unwrap();
        log.settle(&[ids[2], ids[0], ids[2]]).unwrap();
        let mut log = Log::open(&path).unwrap();
        assert_eq!((log.places.len(), log.get(ids[1]).unwrap()), (2, None));
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.find("a2").unwrap() < text.find("a0").unwrap());
    }

    #[test]
    fn a_line_in_the_middle_that_is_none_is_damage() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut log = Log::open(&path).unwrap();
        log.put(&json!(1), json!(1)).unwrap();
        log.put(&json!(2), json!(2)).unwrap();
        drop(log);
        let mut bytes = fs::read(&path).unwrap();
        bytes[3] = b'\n';
        fs::write(&path, bytes).unwrap();
        assert!(matches!(Log::open(&path), Err(TrainError::Damaged { .. })));
    }
}
