//! Whole records as JSON: lines, lists and the texts of Parquet rows.

use std::path::Path;

use serde_json::{Map, Value};

use super::columns::Columns;
use super::{Body, InputFile, Raw, ReadOptions, Records, record_error};
use crate::DataError;

/// The records of one file, in its order, each with its line or row from 1 on.
///
/// Of a Parquet file, all columns that hold one text a row; lists and numbers are not read. An error
/// that [is of a record](DataError::Record) does not end them. Errors: the file cannot be opened.
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

/// The texts of the rows of a Parquet file, each row as a JSON object.
pub struct Rows {
    columns: Vec<(String, Columns)>,
}

impl Rows {
    pub(super) fn open(path: &Path, number: u32, options: &ReadOptions) -> Result<Rows, DataError> {
        let open = |field: String| {
            let options = ReadOptions { field: field.clone(), ..options.clone() };
            Ok((field, Columns::open(path, number, &options)?))
        };
        let columns = Columns::texts(path)?.into_iter().map(open).collect::<Result<_, _>>()?;
        Ok(Rows { columns })
    }

    /// The next row; columns of different lengths end with the shortest.
    pub(super) fn next(&mut self) -> Result<Option<Raw>, DataError> {
        let mut object = Map::new();
        let mut place = None;
        for (name, column) in &mut self.columns {
            let Some(raw) = column.next()? else { return Ok(None) };
            let text = match raw.body {
                Body::Text(bytes) => Value::String(String::from_utf8_lossy(&bytes).into_owned()),
                Body::Json(_) | Body::Broken(_) => Value::Null,
            };
            object.insert(name.clone(), text);
            place = Some(raw.id);
        }
        Ok(place
            .map(|id| Raw { id, body: Body::Json(Value::Object(object).to_string().into_bytes()) }))
    }
}
