//! The file of samples: a row a sample, prompt by prompt on the disk, taken up behind the last whole prompt.

use crate::error::TrainError;
use crate::settings::keep_or_renew;
use herd_data::disk::sync_name;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// One answer to one prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // their names in the file say it
pub struct SampleRow {
    /// The hash of the dialogue up to the question.
    pub prompt: String,
    pub file: String,
    pub row: u64,
    /// 0 to K - 1.
    pub sample: usize,
    pub policy: String,
    /// The hash of the policy's weights.
    pub policy_hash: String,
    /// The answer is that of a request with this seed and stream.
    pub seed: u64,
    pub stream: u64,
    pub temperature: f32,
    /// The system prompt that it drew.
    pub system: Option<String>,
    pub prompt_tokens: usize,
    /// The tokens of the answer, what ended it included.
    pub ids: Vec<u32>,
    pub text: String,
    /// The sum of `logps`.
    pub logp: f64,
    /// Minus the trainer's loss of each token, the same bits.
    pub logps: Vec<f32>,
    /// `stop`, `length` or `failed`.
    pub finish: String,
    pub scores: BTreeMap<String, f64>,
    /// The weighted sum of the scores; none where a judge could not read the answer.
    pub total: Option<f64>,
    /// Why it is never chosen: `length`, `failed`, `empty`, `unread` (no reward model can), or the score that it lacks.
    pub rejected: Option<String>,
    /// The best of its K.
    pub chosen: bool,
}

/// The place of a prompt whose answers are in the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    pub prompt: String,
    pub file: String,
    pub row: u64,
}

impl SampleRow {
    /// Whether two are answers to one prompt.
    pub fn same_prompt(&self, other: &SampleRow) -> bool {
        (&self.prompt, &self.file, self.row) == (&other.prompt, &other.file, other.row)
    }

    fn place(&self) -> Place {
        Place { prompt: self.prompt.clone(), file: self.file.clone(), row: self.row }
    }
}

/// The file under way; no other process has it.
pub(super) struct Samples {
    file: File,
    path: PathBuf,
}

impl Samples {
    /// Takes the file, or makes it. What it holds is looked at by [`begin`].
    ///
    /// Errors: another process has it; it cannot be read or written.
    pub fn take(path: &Path) -> Result<Samples, TrainError> {
        let io = |action| move |e| TrainError::io(action, path, e);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).map_err(io("open"))?;
        if let Err(fs::TryLockError::WouldBlock) = file.try_lock() {
            return Err(TrainError::Busy { folder: path.to_owned() });
        }
        sync_name(path).map_err(io("sync"))?;
        Ok(Samples { file, path: path.to_owned() })
    }

    /// Cuts off a torn tail, and tells `each` of the prompts that are whole.
    ///
    /// Errors: it is damaged before its last prompt; it cannot be read or written.
    pub fn resume(
        &mut self,
        answers: usize,
        mut each: impl FnMut(&[SampleRow]),
    ) -> Result<VecDeque<Place>, TrainError> {
        let Samples { file, path } = self;
        let mut places = VecDeque::new();
        let whole = read_groups(path, answers, |rows| {
            places.push_back(rows[0].place());
            each(rows);
            Ok(())
        })?;
        let cut = file.set_len(whole).and_then(|()| file.seek(SeekFrom::End(0)));
        cut.map_err(|e| TrainError::io("write", path, e))?;
        Ok(places)
    }

    /// Adds the answers to one prompt, and brings them to the disk.
    pub fn write(&mut self, rows: &[SampleRow]) -> Result<(), TrainError> {
        let mut text = Vec::new();
        for row in rows {
            serde_json::to_writer(&mut text, row).expect("rows serialise");
            text.push(b'\n');
        }
        let written = self.file.write_all(&text).and_then(|()| self.file.sync_data());
        written.map_err(|e| TrainError::io("write", &self.path, e))
    }
}

/// Gives the answers of each prompt that are whole to `each`; the bytes that they fill.
///
/// Errors: the file cannot be read, or more than one prompt's rows stand behind its last whole prompt; those of `each`.
pub(super) fn read_groups(
    path: &Path,
    answers: usize,
    mut each: impl FnMut(&[SampleRow]) -> Result<(), TrainError>,
) -> Result<u64, TrainError> {
    let io = |e| TrainError::io("read", path, e);
    let mut reader = BufReader::new(File::open(path).map_err(io)?);
    let (mut line, mut at, mut whole) = (Vec::new(), 0u64, 0u64);
    let mut group: Vec<SampleRow> = Vec::new();
    let mut behind = 0; // rows behind the last prompt, once one of them is none of it
    loop {
        line.clear();
        let bytes = reader.read_until(b'\n', &mut line).map_err(io)?;
        if bytes == 0 {
            return Ok(whole);
        }
        at += bytes as u64;
        let row = line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice(line).ok());
        let next = |row: &SampleRow| {
            row.sample == group.len() && group.first().is_none_or(|f| f.place() == row.place())
        };
        match row {
            Some(row) if behind == 0 && next(&row) => group.push(row),
            // What was being written when it was torn: the rows of one prompt.
            _ if group.len() + behind < answers => behind += 1,
            _ => {
                let what = format!("a row before byte {at} is none of its prompt's {answers}");
                return Err(TrainError::Damaged { path: path.to_owned(), what });
            }
        }
        if behind == 0 && group.len() == answers {
            each(&group)?;
            group.clear();
            whole = at;
        }
    }
}

/// `SAMPLES.ending` for `SAMPLES.jsonl`.
pub(crate) fn beside(out: &Path, ending: &str) -> PathBuf {
    out.with_extension(ending)
}

/// Keeps the settings of a file of rows in `ROWS.config.toml`, as [`keep_or_renew`]. Where they are not there yet no run
/// has begun: what stands under the name of a file that it writes is somebody's, and stays whole.
///
/// `endings` are those of the files beside it that the run writes, `input` is what it reads.
/// Errors: those of [`keep_or_renew`]; a file that would be lost.
pub(crate) fn begin(
    out: &Path,
    endings: &[&str],
    input: &[PathBuf],
    settings: &str,
) -> Result<(), TrainError> {
    let kept = beside(out, "config.toml");
    let begun = kept.try_exists().map_err(|e| TrainError::io("read", &kept, e))?;
    // What cannot be found is told by who reads it.
    let input: Vec<PathBuf> = input.iter().filter_map(|path| path.canonicalize().ok()).collect();
    let beside = endings.iter().map(|ending| beside(out, ending));
    let mut made = false;
    for path in [out.to_owned()].into_iter().chain(beside) {
        let bytes = match fs::metadata(&path) {
            Ok(found) => found.len(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(TrainError::io("read", &path, e)),
        };
        made |= bytes > 0;
        let same = path.canonicalize().is_ok_and(|path| input.contains(&path));
        let why = match (same, begun) {
            (true, _) => "the run reads it and would write there",
            (false, false) if bytes > 0 => "the run would write there, and has not begun",
            (false, _) => continue,
        };
        return Err(TrainError::Taken { path, why });
    }
    keep_or_renew(&kept, settings, out, made)
}

/// A file that is written row by row under another name, and is there when it is whole.
pub(crate) struct Rows {
    file: std::io::BufWriter<File>,
    part: PathBuf,
    path: PathBuf,
    /// Rows so far.
    pub count: u64,
}

impl Rows {
    pub fn create(path: PathBuf) -> Result<Rows, TrainError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let part = path.with_file_name(format!(".{name}.part"));
        let file = File::create(&part).map_err(|e| TrainError::io("make", &path, e))?;
        Ok(Rows { file: std::io::BufWriter::new(file), part, path, count: 0 })
    }

    pub fn write(&mut self, row: &serde_json::Value) -> Result<(), TrainError> {
        self.write_line(format!("{row}\n").as_bytes())
    }

    /// A row that is text already, its line end included.
    pub fn write_line(&mut self, line: &[u8]) -> Result<(), TrainError> {
        self.count += 1;
        let written = self.file.write_all(line);
        written.map_err(|e| TrainError::io("write", &self.path, e))
    }

    /// Puts it in its place; the rows in it.
    pub fn finish(self) -> Result<u64, TrainError> {
        let Rows { file, part, path, count } = self;
        let io = |e| TrainError::io("write", &path, e);
        let file = file.into_inner().map_err(|e| io(e.into_error()))?;
        file.sync_all().and_then(|()| fs::rename(&part, &path)).map_err(io)?;
        sync_name(&path).map_err(io)?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_where_a_run_would_write_stays_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let (out, input) = (path("rows.jsonl"), [path("./in.jsonl"), path("nowhere")]);
        fs::write(path("in.jsonl"), "").unwrap();
        let begin = |out: &Path| begin(out, &["log.jsonl"], &input, "a = 1\n");
        // What it reads, by whatever name; what is not its own.
        std::os::unix::fs::symlink(path("in.jsonl"), path("link.jsonl")).unwrap();
        for (name, taken) in [
            ("in.jsonl", "in.jsonl"),
            ("link.jsonl", "link.jsonl"),
            ("rows.jsonl", "rows.jsonl"),
            ("rows.jsonl", "rows.log.jsonl"),
        ] {
            if taken.starts_with("rows") {
                fs::write(path(taken), "mine").unwrap();
            }
            match begin(&path(name)) {
                Err(TrainError::Taken { path: at, .. }) => assert_eq!(at, path(taken)),
                other => panic!("{name}: {other:?}"),
            }
            assert!(!beside(&path(name), "config.toml").exists());
            if taken.starts_with("rows") {
                fs::remove_file(path(taken)).unwrap();
            }
        }
        // An empty file holds nothing; what a run has begun it goes on with.
        fs::write(&out, "").unwrap();
        begin(&out).unwrap();
        fs::write(path("rows.log.jsonl"), "its own").unwrap();
        begin(&out).unwrap();
        // Settings are shared by names that differ in their ending alone; an input is none of these.
        let both = super::begin(&out, &[], std::slice::from_ref(&out), "a = 1\n");
        assert!(matches!(both, Err(TrainError::Taken { .. })), "{both:?}");
    }
}
