//! Whole records as JSON: lines, lists and Parquet rows.

use std::path::Path;

use serde_json::Value;

use super::columns::Table;
use super::nested::Layout;
use super::{Body, InputFile, Raw, ReadOptions, Records, RowId, record_error};
use crate::{DataError, Fault};

/// The records of one file, in its order, each with its line or row from 1 on.
///
/// Of a Parquet file all columns of texts, numbers and truth values, in the lists and structs that hold them; decimals,
/// bytes of a fixed length and the old timestamps of 96 bits are not read. An error that [is of a record](DataError::Record) does not end them. Errors: the file cannot be opened.
pub fn objects(
    file: &InputFile,
) -> Result<impl Iterator<Item = Result<(u64, Value), DataError>> + use<>, DataError> {
    let path = file.path.clone();
    let records = Records::whole(file, 0, &ReadOptions::new())?;
    Ok(records.map(move |raw| {
        let raw = raw?;
        let row = raw.id.row;
        raw.json().map(|value| (row, value)).map_err(|fault| record_error(&path, row, fault))
    }))
}

/// The rows of a Parquet file, each as a JSON object.
pub struct Rows {
    table: Table,
    layout: Layout,
    number: u32,
    bytes_max: u64,
}

impl Rows {
    pub(super) fn open(path: &Path, number: u32, options: &ReadOptions) -> Result<Rows, DataError> {
        let table = Table::open(path)?;
        let (layout, columns) = Layout::of(&table)?;
        let (table, bytes_max) = (table.of(&columns)?, options.record_bytes_max);
        Ok(Rows { table, layout, number, bytes_max })
    }

    /// The next row.
    pub(super) fn next(&mut self) -> Result<Option<Raw>, DataError> {
        if !self.table.advance()? {
            return Ok(None);
        }
        let row = self.layout.row(&mut self.table, self.bytes_max)?;
        let json = row.map(|row| Value::Object(row).to_string().into_bytes());
        let (body, len) = match json {
            Ok(json) if json.len() as u64 <= self.bytes_max => {
                let len = json.len() as u64;
                (Body::Json(json), len)
            }
            Ok(_) => (Body::Broken(Fault::TooLong { limit: self.bytes_max }), 0),
            Err(fault) => (Body::Broken(fault), 0),
        };
        let id = RowId { file: self.number, row: self.table.row, bytes: 0..len };
        Ok(Some(Raw { id, body }))
    }
}
