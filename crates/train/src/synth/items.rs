//! What rows are made from: documents, rows that ask something, repositories or files, each as often as it is wanted.

use crate::error::TrainError;
use crate::rejection::hash_input;
use crate::synth::{Kind, SynthConfig, files};
use herd_data::dialogue::{Shape, question};
use herd_data::read::{InputFile, ReadOptions, Sources, documents, objects};
use herd_data::{DataError, Hash};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where work begins.
pub(super) struct Item {
    /// Its name in the log: what it is, where it stands, which copy.
    pub key: String,
    pub file: String,
    /// Its line or row, from 1.
    pub row: u64,
    /// Which of the items of the same record.
    pub copy: u64,
    /// The document, the question's last words, or the text of a file.
    pub text: String,
    /// The row of a question, the files of a repository with their texts, or the name of a file.
    pub value: Value,
}

/// What items are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begins {
    /// Documents.
    Documents,
    /// Rows that ask something.
    Questions,
    /// Folders of Python code, or rows with `files`.
    Repositories,
    /// Files of at most so many bytes that a user uploads.
    Uploads(u64),
}

impl Begins {
    /// Of a kind.
    pub fn of(kind: Kind, config: &SynthConfig) -> Begins {
        let tools = config.tools.as_ref().filter(|tools| tools.uploads);
        match kind {
            Kind::Maths | Kind::MathsSteps | Kind::MathsSearch => Begins::Questions,
            Kind::Imports => Begins::Repositories,
            Kind::Tools => {
                tools.map_or(Begins::Documents, |tools| Begins::Uploads(tools.upload_bytes as u64))
            }
            Kind::Code | Kind::TranslateCode | Kind::Backtranslate => Begins::Documents,
            Kind::Probe | Kind::LongQa => Begins::Documents,
        }
    }

    /// The hash of all input.
    pub fn hash(self, input: &[PathBuf]) -> Result<Hash, TrainError> {
        match self {
            Begins::Documents | Begins::Questions => hash_input(input),
            Begins::Uploads(_) => files::hash(input, files::UPLOADS),
            Begins::Repositories => {
                let (folders, rows): (Vec<PathBuf>, Vec<PathBuf>) =
                    input.iter().cloned().partition(|path| path.is_dir());
                let folders = files::hash(&folders, files::PYTHON)?;
                let rows = if rows.is_empty() { folders } else { hash_input(&rows)? };
                Ok(Hash::of(format!("{folders} {rows}").as_bytes()))
            }
        }
    }
}

/// A part of the input.
enum Part {
    /// A file of records.
    Records(InputFile),
    /// A folder that is a repository.
    Repository(PathBuf),
    /// A file that is a record.
    Upload(PathBuf),
}

impl Part {
    fn path(&self) -> &Path {
        match self {
            Part::Records(file) => &file.path,
            Part::Repository(path) | Part::Upload(path) => path,
        }
    }
}

type Records = Box<dyn Iterator<Item = Result<(u64, String, Value), DataError>>>;

/// All items, in the order of the input.
pub(super) struct Items {
    begins: Begins,
    parts: std::vec::IntoIter<Part>,
    open: Option<(String, Records)>,
    /// The record whose copies are given, and the next of them.
    record: Option<(u64, String, Value, u64)>,
    copies: u64,
    left: u64,
    field: String,
    shape: Option<Shape>,
    skip_bad: bool,
    /// Records left out, by the reason.
    pub dropped: BTreeMap<String, u64>,
}

impl Items {
    /// Errors: an input that is not there or holds nothing known.
    pub fn open(kind: Kind, config: &SynthConfig, input: &[PathBuf]) -> Result<Items, TrainError> {
        let begins = Begins::of(kind, config);
        Ok(Items {
            begins,
            parts: parts(begins, input)?.into_iter(),
            open: None,
            record: None,
            copies: config.copies,
            left: config.items_max.unwrap_or(u64::MAX),
            field: config.field.clone(),
            shape: config.chat.shape,
            skip_bad: config.chat.skip_bad,
            dropped: BTreeMap::new(),
        })
    }

    fn records(&self, part: &Part) -> Result<Records, DataError> {
        let file = match part {
            Part::Repository(folder) => {
                let files = files::repository(folder).map(|files| (1, String::new(), files));
                return Ok(Box::new(std::iter::once(files)));
            }
            Part::Upload(path) => {
                let most = match self.begins {
                    Begins::Uploads(most) => most,
                    Begins::Documents | Begins::Questions | Begins::Repositories => u64::MAX - 1,
                };
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let text = files::text(path, most).map(|text| (1, text, Value::from(name)));
                return Ok(Box::new(std::iter::once(text)));
            }
            Part::Records(file) => file,
        };
        if self.begins == Begins::Documents {
            let options = ReadOptions { field: self.field.clone(), ..ReadOptions::new() };
            let read = documents(file, &options)?;
            return Ok(Box::new(read.map(|d| d.map(|d| (d.id.row, d.text, Value::Null)))));
        }
        let (path, shape, begins) = (file.path.clone(), self.shape, self.begins);
        Ok(Box::new(objects(file)?.map(move |record| {
            let (row, value) = record?;
            let read = match begins {
                Begins::Repositories => files::given(&value).map(|files| (String::new(), files)),
                Begins::Documents | Begins::Questions | Begins::Uploads(_) => {
                    question(&value, shape).map(|asked| {
                        (asked.messages.last().map(|m| m.text()).unwrap_or_default(), value)
                    })
                }
            };
            let fault = |fault| DataError::Record { path: path.clone(), row, fault };
            read.map(|(text, value)| (row, text, value)).map_err(fault)
        })))
    }

    /// The next record of any file.
    fn record(&mut self) -> Result<Option<(u64, String, Value)>, TrainError> {
        loop {
            let Some((_, records)) = &mut self.open else {
                let Some(part) = self.parts.next() else { return Ok(None) };
                let name = part.path().file_name().unwrap_or_default();
                let name = name.to_string_lossy().into_owned();
                self.open = Some((name, self.records(&part)?));
                continue;
            };
            match records.next() {
                None => self.open = None,
                Some(Ok(record)) => return Ok(Some(record)),
                Some(Err(DataError::Record { fault, .. }))
                    if self.skip_bad || fault.is_harmless() =>
                {
                    *self.dropped.entry(fault.reason().to_owned()).or_default() += 1;
                }
                Some(Err(error)) => return Err(error.into()),
            }
        }
    }
}

impl Iterator for Items {
    type Item = Result<Item, TrainError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        if self.record.is_none() {
            match self.record() {
                Ok(Some((row, text, value))) => self.record = Some((row, text, value, 0)),
                Ok(None) => return None,
                Err(error) => {
                    self.left = 0;
                    return Some(Err(error));
                }
            }
        }
        let (row, text, value, copy) = self.record.take()?;
        self.left -= 1;
        let file = self.open.as_ref().map(|(name, _)| name.clone()).unwrap_or_default();
        let told = format!("{file}\n{row}\n{copy}\n{value}\n{text}");
        let key = Hash::of(told.as_bytes()).to_string()[..16].to_owned();
        if copy + 1 < self.copies {
            self.record = Some((row, text.clone(), value.clone(), copy + 1));
        }
        Some(Ok(Item { key, file, row, copy, text, value }))
    }
}

/// The input in its order. Errors: a path that is not there or holds nothing known.
fn parts(begins: Begins, input: &[PathBuf]) -> Result<Vec<Part>, TrainError> {
    let records = |paths: &[PathBuf]| -> Result<Vec<Part>, TrainError> {
        let inputs: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        let files = Sources::find(&inputs)?.sources.into_iter().flat_map(|source| source.files);
        Ok(files.map(Part::Records).collect())
    };
    let mut parts = Vec::new();
    match begins {
        Begins::Documents | Begins::Questions => parts = records(input)?,
        Begins::Repositories => {
            for path in input {
                match path.is_dir() {
                    true => parts.push(Part::Repository(path.clone())),
                    false => parts.extend(records(std::slice::from_ref(path))?),
                }
            }
        }
        Begins::Uploads(_) => {
            for path in input {
                parts.extend(files::find(path, files::UPLOADS)?.into_iter().map(Part::Upload));
            }
        }
    }
    Ok(parts)
}

/// Some whole lines of a text, of about so many bytes, from a place that a number draws; all of a short one.
pub(super) fn snippet(text: &str, bytes: usize, draw: u64) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let at = (draw % (text.len() - bytes + 1) as u64) as usize;
    let floor = |at: usize| (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let start = (at..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    let end = floor(at + bytes).max(start);
    let cut = &text[start..end];
    // From the first line's end on, and to the last, where something stands between.
    let from = if start == 0 { 0 } else { cut.find('\n').map_or(0, |at| at + 1) };
    let to = if end == text.len() { cut.len() } else { cut.rfind('\n').unwrap_or(cut.len()) };
    if from < to { &cut[from..to] } else { cut }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snippet_is_whole_lines_wherever_it_is_drawn() {
        let text = "one\ntwo\nthree\nfour\nfünf\n";
        for draw in 0..40 {
            let cut = snippet(text, 12, draw);
            assert!(!cut.is_empty() && cut.len() <= 12, "{draw}: {cut:?}");
            let whole = cut.lines().all(|line| text.lines().any(|other| other == line));
            assert!(whole, "{draw}: {cut:?}");
        }
        assert_eq!(snippet(text, 100, 7), text);
        assert_eq!(snippet("äöü", 3, 1).chars().count(), 1);
    }
}
