//! Whole records as JSON: lines, arrays and Parquet rows.

use std::fs::File;
use std::path::PathBuf;

use parquet::file::reader::SerializedFileReader;
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use serde_json::{Map, Value};

use super::columns::{check_rows, guard};
use super::{Body, InputFile, Kind, Raw, ReadOptions, Records, record_error};
use crate::{DataError, Fault};

/// The records of one file, in its order, each with its line or row from 1 on.
///
/// An error that [is of a record](DataError::Record) does not end them. Errors: the file cannot be
/// opened.
pub fn objects(file: &InputFile) -> Result<Objects, DataError> {
    let path = file.path.clone();
    let source = match file.kind {
        Kind::Parquet => {
            let opened = File::open(&path).map_err(DataError::io("open", &path))?;
            let length = opened.metadata().map_err(DataError::io("read", &path))?.len();
            let reader = guard(&path, || SerializedFileReader::new(opened))?;
            check_rows(&path, &reader, length)?;
            let rows = guard(&path, || Ok(RowIter::from_file_into(Box::new(reader))))?;
            Source::Rows { rows: Box::new(rows), row: 0 }
        }
        Kind::Text | Kind::Json | Kind::JsonLines => {
            Source::Lines(Records::open(file, 0, &ReadOptions::new())?)
        }
    };
    Ok(Objects { path, source, ended: false })
}

/// See [`objects`].
pub struct Objects {
    path: PathBuf,
    source: Source,
    ended: bool,
}

enum Source {
    Lines(Records),
    Rows { rows: Box<RowIter<'static>>, row: u64 },
}

impl Iterator for Objects {
    type Item = Result<(u64, Value), DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = match &mut self.source {
            Source::Lines(records) => match records.next()? {
                Ok(raw) => {
                    let row = raw.id.row;
                    return Some(parse(raw).map_or_else(
                        |fault| Err(record_error(&self.path, row, fault)),
                        |value| Ok((row, value)),
                    ));
                }
                Err(error) => Some(Err(error)),
            },
            Source::Rows { rows, row } => {
                *row += 1;
                match guard(&self.path, || rows.next().transpose()) {
                    Ok(None) => None,
                    Ok(Some(found)) => return Some(Ok((*row, object(&found)))),
                    Err(error) => Some(Err(error)),
                }
            }
        };
        // A file that broke off gives nothing more.
        self.ended = true;
        next
    }
}

fn parse(raw: Raw) -> Result<Value, Fault> {
    match raw.body {
        Body::Text(line) | Body::Json(line) => {
            if let Err(e) = std::str::from_utf8(&line) {
                return Err(Fault::NotUtf8 { at: e.valid_up_to() });
            }
            serde_json::from_slice(&line).map_err(|e| Fault::NotJson { reason: e.to_string() })
        }
        Body::Broken(fault) => Err(fault),
    }
}

fn object(row: &Row) -> Value {
    let fields = row.get_column_iter().map(|(name, field)| (name.clone(), value(field)));
    Value::Object(fields.collect::<Map<_, _>>())
}

/// A field as JSON; numbers that JSON lacks, and kinds that no row of text has, as their text.
fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(b) => (*b).into(),
        Field::Byte(n) => (*n).into(),
        Field::Short(n) => (*n).into(),
        Field::Int(n) => (*n).into(),
        Field::Long(n) => (*n).into(),
        Field::UByte(n) => (*n).into(),
        Field::UShort(n) => (*n).into(),
        Field::UInt(n) => (*n).into(),
        Field::ULong(n) => (*n).into(),
        Field::Float(n) => f64::from(*n).into(),
        Field::Double(n) => (*n).into(),
        Field::Str(text) => text.clone().into(),
        Field::Bytes(bytes) => String::from_utf8_lossy(bytes.data()).into_owned().into(),
        Field::Group(row) => object(row),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::MapInternal(map) => {
            let entry = |(key, held): &(Field, Field)| match key {
                Field::Str(key) => (key.clone(), value(held)),
                key => (key.to_string(), value(held)),
            };
            Value::Object(map.entries().iter().map(entry).collect())
        }
        other => other.to_string().into(),
    }
}
