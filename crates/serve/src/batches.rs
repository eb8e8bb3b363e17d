//! Batches: a file of requests that are answered when there is room, into a file of answers.
//!
//! A batch goes through its states in the database alone, so a server that was killed goes on where it was: a row is
//! answered once, since its answer is kept under its line before it counts.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{OptionalExtension, Row, params};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use crate::ask::fresh;
use crate::fields::{Kind, Shape, honoured, only, refused};
use crate::files::{Coming, Files, FilesError, insert};
use crate::hall::{Read, now};
use crate::wire::{chat, completions, embeddings, responses};

pub use places::Places;
pub use routes::router;
pub use run::work;

mod lines;
mod places;
mod routes;
mod run;

/// The fields of a new batch.
pub static SHAPE: Shape = Shape {
    path: "/v1/batches",
    about: "answer a file of requests when there is room",
    prefix: "batch_",
    groups: &[&[
        honoured("input_file_id", Kind::Text, "the file: a line of JSON for each request"),
        honoured("endpoint", Kind::Text, "the path that all of them are for"),
        honoured("metadata", Kind::Object, "is given back with the batch"),
        only("completion_window", &["\"24h\""], "what is not answered by then is not any more"),
        refused("output_expires_after", "files stay until they are deleted"),
    ]],
    required: &["completion_window", "endpoint", "input_file_id"],
};

/// Seconds that a batch has.
const WINDOW: u64 = 24 * 3600;

/// The shape that rows for this path have.
pub fn endpoint(path: &str) -> Option<(&'static Shape, Read)> {
    let known: [(&'static Shape, Read); 4] = [
        (&chat::SHAPE, chat::read),
        (&completions::SHAPE, completions::read),
        (&embeddings::SHAPE, embeddings::read),
        (&responses::SHAPE, responses::read),
    ];
    known.into_iter().find(|(shape, _)| shape.path == path)
}

/// Where a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Its file is being read.
    Validating,
    /// Its file was wrong, or it could not go on.
    Failed,
    /// Its rows are being answered.
    InProgress,
    /// All rows are answered, and its files are written.
    Finalizing,
    /// It is over.
    Completed,
    /// It was not over in time.
    Expired,
    /// It is to end.
    Cancelling,
    /// It was ended.
    Cancelled,
}

const STATUSES: [(Status, &str); 8] = [
    (Status::Validating, "validating"),
    (Status::Failed, "failed"),
    (Status::InProgress, "in_progress"),
    (Status::Finalizing, "finalizing"),
    (Status::Completed, "completed"),
    (Status::Expired, "expired"),
    (Status::Cancelling, "cancelling"),
    (Status::Cancelled, "cancelled"),
];

impl Status {
    /// As OpenAI writes it.
    pub fn name(self) -> &'static str {
        STATUSES.iter().find(|(status, _)| *status == self).expect("the table is complete").1
    }

    /// A status that this Herd did not write ends its batch.
    fn of(name: &str) -> Status {
        STATUSES.iter().find(|(_, known)| *known == name).map_or(Status::Failed, |(s, _)| *s)
    }
}

/// A batch.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Its name.
    pub id: String,
    /// The name of the key that owns it.
    pub owner: Option<String>,
    /// Where it is.
    pub status: Status,
    /// The path of its rows.
    pub endpoint: String,
    /// The file of its requests.
    pub input: String,
    /// When it came, in seconds since 1970.
    pub created: u64,
    output: Option<String>,
    errors: Option<String>,
    total: u64,
    completed: u64,
    failed: u64,
    faults: Option<String>,
    metadata: Option<String>,
    /// When it came to each status.
    times: String,
}

/// A row's answer.
#[derive(Clone, Debug)]
pub struct Answered {
    /// Its line in the file, from 1.
    pub line: u64,
    /// Whether it is an answer, and no error.
    pub good: bool,
    /// The line of the file of answers.
    pub answer: String,
}

/// The batches of a folder of files.
pub struct Batches {
    files: Arc<Files>,
    /// Somebody has something to do.
    wake: Notify,
    /// Batches that are to end.
    ending: Mutex<HashSet<String>>,
    /// Batches that could not go on, and until when they are passed over.
    resting: Mutex<HashMap<String, Instant>>,
}

impl Batches {
    /// The batches in these files.
    pub fn new(files: Arc<Files>) -> Batches {
        Batches { files, wake: Notify::new(), ending: Mutex::default(), resting: Mutex::default() }
    }

    /// Adds a batch; `None` where its file is gone.
    pub fn create(
        &self,
        owner: Option<&str>,
        endpoint: &str,
        input: &str,
        metadata: Option<&Map<String, Value>>,
    ) -> Result<Option<Batch>, FilesError> {
        let id = format!("{}{:016x}{:016x}", SHAPE.prefix, fresh(), fresh());
        let metadata = metadata.map(|map| Value::Object(map.clone()).to_string());
        // One statement: the file cannot go in between.
        let batch = self.files.db().query_row(
            "INSERT INTO batches (id, created, owner, status, endpoint, input, metadata)
             SELECT ?1, ?2, ?3, 'validating', ?4, id, ?6 FROM files WHERE id = ?5
             RETURNING *",
            params![id, now(), owner, endpoint, input, metadata],
            read,
        );
        self.wake.notify_one();
        Ok(batch.optional()?)
    }

    /// The batch of this name, if it is this owner's.
    pub fn find(&self, id: &str, owner: Option<&str>) -> Result<Option<Batch>, FilesError> {
        let db = self.files.db();
        let found = db.query_row("SELECT * FROM batches WHERE id = ?1", [id], read).optional()?;
        Ok(found.filter(|batch| batch.owner.as_deref() == owner))
    }

    /// The batches of this owner, the latest first.
    pub fn list(&self, owner: Option<&str>) -> Result<Vec<Batch>, FilesError> {
        let db = self.files.db();
        let mut all = db
            .prepare("SELECT * FROM batches WHERE owner IS ?1 ORDER BY created DESC, rowid DESC")?;
        let found = all.query_map([owner], read)?.collect::<rusqlite::Result<_>>()?;
        Ok(found)
    }

    /// Lets a batch end; whether it was not over.
    pub fn cancel(&self, id: &str) -> Result<bool, FilesError> {
        let changed = [Status::Validating, Status::InProgress, Status::Finalizing]
            .into_iter()
            .map(|from| self.advance(id, from, Status::Cancelling))
            .collect::<Result<Vec<bool>, _>>()?;
        let ending = changed.contains(&true);
        if ending {
            self.ending().insert(id.to_owned());
            self.resting().remove(id);
            self.wake.notify_one();
        }
        Ok(ending)
    }

    /// The oldest batch that is not over and does not rest at this time.
    fn next(&self, at: Instant) -> Result<Option<Batch>, FilesError> {
        self.resting().retain(|_, until| *until > at);
        let open = "SELECT * FROM batches
                    WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling')
                    ORDER BY status = 'cancelling' DESC, created, rowid";
        let db = self.files.db();
        let mut open = db.prepare(open)?;
        for batch in open.query_map([], read)? {
            let batch = batch?;
            if !self.resting().contains_key(&batch.id) {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }

    /// Passes a batch over for a while, so that others go on.
    fn rest(&self, id: &str, until: Instant) {
        self.resting().insert(id.to_owned(), until);
    }

    /// How long from `at` until a batch that rests is looked at again.
    fn rested_in(&self, at: Instant) -> Option<Duration> {
        self.resting().values().min().map(|until| until.saturating_duration_since(at))
    }

    /// Takes a batch from one status to the next; whether it was in the first.
    fn advance(&self, id: &str, from: Status, to: Status) -> Result<bool, FilesError> {
        let changed = self.files.db().execute(
            "UPDATE batches SET status = ?3, times = json_set(times, '$.' || ?3, ?4)
             WHERE id = ?1 AND status = ?2",
            params![id, from.name(), to.name(), now()],
        )?;
        Ok(changed > 0)
    }

    /// Says how many rows a batch has.
    fn accept(&self, id: &str, total: u64) -> Result<(), FilesError> {
        let set = "UPDATE batches SET total = ?2 WHERE id = ?1";
        self.files.db().execute(set, params![id, total])?;
        self.advance(id, Status::Validating, Status::InProgress)?;
        Ok(())
    }

    /// Ends a batch whose file is wrong, or that cannot go on; answers that it had go with it.
    fn fail(&self, id: &str, faults: &[Value]) -> Result<(), FilesError> {
        let mut db = self.files.db();
        let change = db.transaction()?;
        change.execute(
            "UPDATE batches SET status = 'failed', faults = ?2,
                    times = json_set(times, '$.failed', ?3)
             WHERE id = ?1 AND status IN ('validating', 'in_progress', 'finalizing', 'cancelling')",
            params![id, json!(faults).to_string(), now()],
        )?;
        change.execute("DELETE FROM rows WHERE batch = ?1", [id])?;
        change.commit()?;
        drop(db);
        self.ending().remove(id);
        Ok(())
    }

    /// Lines that are answered.
    fn answered(&self, id: &str) -> Result<HashSet<u64>, FilesError> {
        let db = self.files.db();
        let mut rows = db.prepare("SELECT line FROM rows WHERE batch = ?1")?;
        let lines = rows.query_map([id], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        Ok(lines)
    }

    /// Keeps answers: all of them or none.
    fn keep(&self, id: &str, answers: &[Answered]) -> Result<(), FilesError> {
        let mut db = self.files.db();
        let change = db.transaction()?;
        for Answered { line, good, answer } in answers {
            change.execute(
                "INSERT INTO rows (batch, line, good, answer) VALUES (?1, ?2, ?3, ?4)",
                params![id, line, good, answer],
            )?;
            let set = match good {
                true => "UPDATE batches SET completed = completed + 1 WHERE id = ?1",
                false => "UPDATE batches SET failed = failed + 1 WHERE id = ?1",
            };
            change.execute(set, [id])?;
        }
        Ok(change.commit()?)
    }

    /// Writes the files of a batch and ends it; `late` are rows that were not answered in time.
    fn finish(
        &self,
        batch: &Batch,
        from: Status,
        to: Status,
        late: &[Answered],
    ) -> Result<(), FilesError> {
        self.keep(&batch.id, late)?;
        let (mut good, mut bad) = (None, None);
        {
            let mut after = 0u64;
            // In pieces, so that the answers of a batch need not fit into memory.
            loop {
                let rows = self.rows(&batch.id, after)?;
                let Some(last) = rows.last() else { break };
                after = last.line;
                for Answered { good: is_good, answer, .. } in &rows {
                    let file = if *is_good { &mut good } else { &mut bad };
                    if file.is_none() {
                        *file = Some(self.files.begin()?);
                    }
                    if let Some(coming) = file {
                        coming.write(answer.as_bytes())?;
                        coming.write(b"\n")?;
                    }
                }
            }
        }
        let mut entries = HashMap::new();
        for (kind, coming) in [("output", &mut good), ("error", &mut bad)] {
            if let Some(coming) = coming {
                let name = format!("{}_{kind}.jsonl", batch.id);
                let entry = coming.settle(&name, "batch_output", batch.owner.as_deref(), now())?;
                entries.insert(kind, entry);
            }
        }
        let id = |kind: &str| entries.get(kind).map(|entry| entry.id.clone());
        let mut db = self.files.db();
        let change = db.transaction()?;
        for entry in entries.values() {
            insert(&change, entry)?;
        }
        let changed = change.execute(
            "UPDATE batches SET status = ?3, output = ?4, errors = ?5,
                    times = json_set(times, '$.' || ?3, ?6)
             WHERE id = ?1 AND status = ?2",
            params![batch.id, from.name(), to.name(), id("output"), id("error"), now()],
        )?;
        if changed == 0 {
            return Ok(()); // cancelled meanwhile: its files are written when it ends
        }
        change.execute("DELETE FROM rows WHERE batch = ?1", [&batch.id])?;
        change.commit()?;
        drop(db);
        [good, bad].into_iter().flatten().for_each(Coming::stay);
        self.ending().remove(&batch.id);
        Ok(())
    }

    /// The next answers of a batch behind a line.
    fn rows(&self, id: &str, after: u64) -> Result<Vec<Answered>, FilesError> {
        let db = self.files.db();
        let mut rows = db.prepare(
            "SELECT line, good, answer FROM rows WHERE batch = ?1 AND line > ?2 ORDER BY line LIMIT 64",
        )?;
        let one = |row: &Row<'_>| {
            Ok(Answered { line: row.get(0)?, good: row.get(1)?, answer: row.get(2)? })
        };
        let found = rows.query_map(params![id, after], one)?.collect::<rusqlite::Result<_>>()?;
        Ok(found)
    }

    fn resting(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ending(&self) -> MutexGuard<'_, HashSet<String>> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<Batch> {
    Ok(Batch {
        id: row.get("id")?,
        owner: row.get("owner")?,
        status: Status::of(&row.get::<_, String>("status")?),
        endpoint: row.get("endpoint")?,
        input: row.get("input")?,
        created: row.get("created")?,
        output: row.get("output")?,
        errors: row.get("errors")?,
        total: row.get("total")?,
        completed: row.get("completed")?,
        failed: row.get("failed")?,
        faults: row.get("faults")?,
        metadata: row.get("metadata")?,
        times: row.get("times")?,
    })
}

impl Batch {
    /// When what is not answered is not any more, in seconds since 1970.
    pub fn expires(&self) -> u64 {
        self.created + WINDOW
    }

    /// As OpenAI has it.
    pub fn json(&self) -> Value {
        let value = |text: &Option<String>| -> Value {
            text.as_ref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
        };
        let times: Value = serde_json::from_str(&self.times).unwrap_or_default();
        let faults = value(&self.faults);
        let mut said = json!({
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": faults.is_array().then(|| json!({ "object": "list", "data": faults })),
            "input_file_id": self.input,
            "completion_window": "24h",
            "status": self.status.name(),
            "output_file_id": self.output,
            "error_file_id": self.errors,
            "created_at": self.created,
            "expires_at": self.expires(),
            "request_counts": {
                "total": self.total, "completed": self.completed, "failed": self.failed,
            },
            "metadata": value(&self.metadata),
        });
        for (status, name) in STATUSES {
            if status != Status::Validating {
                said[format!("{name}_at")] = times[name].clone();
            }
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn open(folder: &Path, most: u64) -> (Arc<Files>, Batches) {
        let files = Arc::new(Files::open(folder, most).unwrap());
        (Arc::clone(&files), Batches::new(files))
    }

    fn input(files: &Arc<Files>) -> String {
        let mut coming = files.begin().unwrap();
        coming.write(b"{}\n").unwrap();
        coming.keep("rows", "batch", None, 1).unwrap().id
    }

    fn begin(batches: &Batches, input: &str) -> Batch {
        batches.create(None, chat::SHAPE.path, input, None).unwrap().unwrap()
    }

    #[test]
    fn a_file_that_a_batch_reads_stays_and_a_batch_without_a_file_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let (files, batches) = open(folder.path(), 100);
        let input = input(&files);
        let batch = begin(&batches, &input);
        assert!(!files.remove(&input).unwrap());
        batches.fail(&batch.id, &[]).unwrap();
        assert!(files.remove(&input).unwrap());
        assert!(batches.create(None, chat::SHAPE.path, &input, None).unwrap().is_none());
    }

    #[test]
    fn a_batch_that_cannot_go_on_holds_no_other_up() {
        let folder = tempfile::tempdir().unwrap();
        let (files, batches) = open(folder.path(), 100);
        let input = input(&files);
        let (one, two) = (begin(&batches, &input), begin(&batches, &input));
        let at = Instant::now();
        let until = at + Duration::from_secs(9);
        let next = |at| batches.next(at).unwrap().map(|batch| batch.id);
        assert_eq!(next(at), Some(one.id.clone()));
        batches.rest(&one.id, until);
        assert_eq!(next(at), Some(two.id.clone()));
        batches.rest(&two.id, until + Duration::from_secs(1));
        assert_eq!((next(at), batches.rested_in(at)), (None, Some(Duration::from_secs(9))));
        assert_eq!(next(until), Some(one.id.clone()));
        // Whoever ends a batch does not wait for its rest.
        assert!(batches.cancel(&two.id).unwrap());
        assert_eq!(next(at), Some(two.id));
    }

    #[test]
    fn answers_of_a_batch_that_is_cancelled_while_they_are_written_are_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let (files, batches) = open(folder.path(), 100);
        let batch = begin(&batches, &input(&files));
        batches.accept(&batch.id, 1).unwrap();
        let answered = Answered { line: 1, good: true, answer: "x".repeat(30) };
        batches.keep(&batch.id, &[answered]).unwrap();
        batches.advance(&batch.id, Status::InProgress, Status::Finalizing).unwrap();
        assert!(batches.cancel(&batch.id).unwrap());
        batches.finish(&batch, Status::Finalizing, Status::Completed, &[]).unwrap();
        assert_eq!(files.list(None).unwrap().len(), 1);
        batches.finish(&batch, Status::Cancelling, Status::Cancelled, &[]).unwrap();
        assert_eq!(files.list(None).unwrap().len(), 2);
        let batch = batches.find(&batch.id, None).unwrap().unwrap();
        assert!(batch.status == Status::Cancelled && batch.output.is_some());
    }

    #[test]
    fn answers_without_room_leave_nothing_and_their_batch_can_be_ended() {
        let folder = tempfile::tempdir().unwrap();
        let (files, batches) = open(folder.path(), 50);
        let batch = begin(&batches, &input(&files));
        batches.accept(&batch.id, 1).unwrap();
        let answered = [(1, true), (2, false)].map(|(line, good)| Answered {
            line,
            good,
            answer: "x".repeat(30),
        });
        batches.keep(&batch.id, &answered).unwrap();
        batches.advance(&batch.id, Status::InProgress, Status::Finalizing).unwrap();
        let finish = batches.finish(&batch, Status::Finalizing, Status::Completed, &[]);
        assert!(matches!(finish, Err(FilesError::Full { .. })));
        for name in ["content", "coming"] {
            let left = std::fs::read_dir(folder.path().join(name)).unwrap().count();
            assert_eq!(left, usize::from(name == "content"));
        }
        assert!(batches.cancel(&batch.id).unwrap());
        let fault = json!({ "code": "cannot_go_on", "message": "no room" });
        batches.fail(&batch.id, &[fault]).unwrap();
        let batch = batches.find(&batch.id, None).unwrap().unwrap();
        assert_eq!(batch.status, Status::Failed);
        assert_eq!(batch.json()["errors"]["data"][0]["message"], "no room");
        assert!(batches.rows(&batch.id, 0).unwrap().is_empty());
        assert!(batches.next(Instant::now()).unwrap().is_none());
    }
}
