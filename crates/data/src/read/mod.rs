//! Raw files as documents: text, JSON lines and Parquet, plain or packed, one record at a time.
//!
//! | file | brings |
//! |---|---|
//! | `sources` | which files, and under which names |
//! | `stream` | bytes of a file, unpacked, with bounds |
//! | `lines` | records of text and JSON lines |
//! | `json` | the few fields of a line that are wanted |
//! | `columns` | columns of Parquet, and records of one of them |
//! | `nested` | lists and structs of Parquet as JSON |
//! | `objects` | whole records as JSON |
//!
//! Reading gives [`Raw`] records in the file's order; [`Raw::parse`] makes a document of one, and
//! may run on another thread. Memory is bounded by the longest record, and that by a limit.

mod columns;
mod json;
mod lines;
mod nested;
mod objects;
mod sources;
mod stream;

use std::ops::Range;
use std::path::{Path, PathBuf};

pub use objects::objects;
pub use sources::{InputFile, Kind, Packing, Source, Sources};

use crate::{DataError, Fault};

/// Bytes that a document or line may have where nothing else is said.
pub const RECORD_BYTES_MAX: u64 = 1 << 28;

/// How files become documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// The field of a JSON line, or the column of a Parquet file, that holds the text.
    pub field: String,
    /// Text files: end a document at the first line end after this many bytes; a file is one
    /// document where nothing is said.
    pub text_bytes: Option<u64>,
    /// Longer records are no documents. At most [`RECORD_BYTES_MAX`].
    pub record_bytes_max: u64,
}

impl ReadOptions {
    /// The field `text`, whole text files.
    pub fn new() -> ReadOptions {
        ReadOptions { field: "text".into(), text_bytes: None, record_bytes_max: RECORD_BYTES_MAX }
    }
}

impl Default for ReadOptions {
    fn default() -> Self {
        ReadOptions::new()
    }
}

/// Where a document came from, within its source.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RowId {
    /// Which of the source's files, from 0.
    pub file: u32,
    /// The line on which it begins, or the Parquet row; the first is 1.
    pub row: u64,
    /// The bytes of the unpacked file that hold it, its line end included; for Parquet those of
    /// the value, from 0.
    pub bytes: Range<u64>,
}

/// A text and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The text, as it stood there.
    pub text: String,
    /// Where that was.
    pub id: RowId,
}

/// A text and what its record says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labelled {
    /// The text.
    pub text: String,
    /// What stands in its field `lang` or `language`.
    pub language: Option<String>,
    /// What stands in its field `domain`.
    pub domain: Option<String>,
}

/// A record that has been read but not understood.
#[derive(Clone, Debug)]
pub struct Raw {
    /// Where it stands.
    pub id: RowId,
    body: Body,
}

#[derive(Clone, Debug)]
enum Body {
    Text(Vec<u8>),
    Json(Vec<u8>),
    Broken(Fault),
}

impl Raw {
    /// Bytes of memory that it holds.
    pub fn len(&self) -> usize {
        match &self.body {
            Body::Text(bytes) | Body::Json(bytes) => bytes.len(),
            Body::Broken(_) => 0,
        }
    }

    /// Whether it holds no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The text of the record; `field` is the JSON field that holds it. An empty text is a fault.
    pub fn parse(self, field: &str) -> Result<String, Fault> {
        self.labelled(field).map(|record| record.text)
    }

    /// The whole record as JSON. Errors: it is none.
    pub fn json(self) -> Result<serde_json::Value, Fault> {
        match self.body {
            Body::Text(line) | Body::Json(line) => {
                if let Err(e) = std::str::from_utf8(&line) {
                    return Err(Fault::NotUtf8 { at: e.valid_up_to() });
                }
                serde_json::from_slice(&line).map_err(|e| Fault::NotJson { reason: e.to_string() })
            }
            Body::Broken(fault) => Err(fault),
        }
    }

    /// The text of the record and its labels, as [`parse`](Raw::parse) gives it.
    pub fn labelled(self, field: &str) -> Result<Labelled, Fault> {
        let record = match self.body {
            Body::Text(bytes) => {
                let text = String::from_utf8(bytes)
                    .map_err(|e| Fault::NotUtf8 { at: e.utf8_error().valid_up_to() })?;
                Labelled { text, ..Labelled::default() }
            }
            Body::Json(line) => json::labelled(&line, field)?,
            Body::Broken(fault) => return Err(fault),
        };
        if record.text.is_empty() { Err(Fault::Empty) } else { Ok(record) }
    }
}

/// The records of one file, in its order.
pub enum Records {
    /// Of a text or of JSON lines.
    Lines(lines::Lines),
    /// Of a column of a Parquet file.
    Columns(Box<columns::Columns>),
    /// Of all columns of a Parquet file.
    Rows(Box<objects::Rows>),
}

impl Records {
    /// Opens a file as number `number` of its source. Errors: it cannot be read, or it is a
    /// Parquet file without such a column of texts.
    pub fn open(
        file: &InputFile,
        number: u32,
        options: &ReadOptions,
    ) -> Result<Records, DataError> {
        Ok(match file.kind {
            Kind::Parquet => {
                Records::Columns(Box::new(columns::Columns::open(&file.path, number, options)?))
            }
            Kind::Text | Kind::Json | Kind::JsonLines => {
                Records::Lines(lines::Lines::open(file, number, options)?)
            }
        })
    }

    /// The same for [`Raw::json`]: of a Parquet file all columns.
    pub(crate) fn whole(
        file: &InputFile,
        number: u32,
        options: &ReadOptions,
    ) -> Result<Records, DataError> {
        match file.kind {
            Kind::Parquet => {
                Ok(Records::Rows(Box::new(objects::Rows::open(&file.path, number, options)?)))
            }
            Kind::Text | Kind::Json | Kind::JsonLines => Records::open(file, number, options),
        }
    }
}

impl Iterator for Records {
    type Item = Result<Raw, DataError>;

    /// Errors: the file cannot be read on; there is no more after that.
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Records::Lines(lines) => lines.next().transpose(),
            Records::Columns(columns) => columns.next().transpose(),
            Records::Rows(rows) => rows.next().transpose(),
        }
    }
}

/// The documents of one file. An error that [is of a record](DataError::Record) does not end them.
///
/// ```no_run
/// use herd_data::read::{InputFile, ReadOptions, documents};
/// let file = InputFile::new("books.jsonl.zst".as_ref())?;
/// for document in documents(&file, &ReadOptions::new())? {
///     println!("{}", document?.text);
/// }
/// # Ok::<(), herd_data::DataError>(())
/// ```
pub fn documents(
    file: &InputFile,
    options: &ReadOptions,
) -> Result<impl Iterator<Item = Result<Document, DataError>> + use<>, DataError> {
    let (path, field): (PathBuf, String) = (file.path.clone(), options.field.clone());
    let records = Records::open(file, 0, options)?;
    Ok(records.map(move |raw| {
        let raw = raw?;
        let id = raw.id.clone();
        match raw.parse(&field) {
            Ok(text) => Ok(Document { text, id }),
            Err(fault) => Err(record_error(&path, id.row, fault)),
        }
    }))
}

pub(crate) fn record_error(path: &Path, row: u64, fault: Fault) -> DataError {
    DataError::Record { path: path.to_owned(), row, fault }
}
