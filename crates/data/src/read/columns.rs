//! Records of one column of a Parquet file.

use std::collections::VecDeque;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::{Body, Raw, ReadOptions, RowId};
use crate::{DataError, Fault};

/// Rows decoded at once; their bytes are shared with the page they came from.
const ROWS: usize = 128;

/// A file that states more rows than these is refused: reading them would take time out of all
/// proportion to its size. Texts that are all null or all the same are the only ones that small.
const ROWS_PER_BYTE: u64 = 64;
const ROWS_FREE: u64 = 1 << 16;

/// The values of one column, row by row.
pub struct Columns {
    path: PathBuf,
    file: SerializedFileReader<File>,
    column: usize,
    /// Values that are null have fewer levels than this.
    levels_max: i16,
    field: String,
    number: u32,
    bytes_max: u64,
    /// The row group to open next.
    group: usize,
    reader: Option<ColumnReaderImpl<ByteArrayType>>,
    row: u64,
    /// Rows that the groups opened so far state: a page may claim any number, in a few bytes.
    rows_stated: u64,
    ready: VecDeque<Option<ByteArray>>,
    /// There is no more, or an error came.
    ended: bool,
}

impl Columns {
    pub(super) fn open(
        path: &Path,
        number: u32,
        options: &ReadOptions,
    ) -> Result<Columns, DataError> {
        let file = File::open(path).map_err(DataError::io("open", path))?;
        let length = file.metadata().map_err(DataError::io("read", path))?.len();
        let file = guard(path, || SerializedFileReader::new(file))?;
        let schema = file.metadata().file_metadata().schema_descr_ptr();
        let name = |c: usize| schema.column(c).path().string();
        let texts = |c: &usize| {
            let column = schema.column(*c);
            column.physical_type() == Type::BYTE_ARRAY && column.max_rep_level() == 0
        };
        let all: Vec<usize> = (0..schema.num_columns()).filter(texts).collect();
        let Some(&column) = all.iter().find(|&&c| name(c) == options.field) else {
            let got: Vec<String> = all.into_iter().take(20).map(name).collect();
            let (path, column) = (path.to_owned(), options.field.clone());
            return Err(DataError::Column { path, column, got: got.join(", ") });
        };
        let levels_max = schema.column(column).max_def_level();
        check_rows(path, &file, length)?;
        Ok(Columns {
            path: path.to_owned(),
            file,
            column,
            levels_max,
            field: options.field.clone(),
            number,
            bytes_max: options.record_bytes_max,
            group: 0,
            reader: None,
            row: 0,
            rows_stated: 0,
            ready: VecDeque::new(),
            ended: false,
        })
    }

    /// The next row.
    pub(super) fn next(&mut self) -> Result<Option<Raw>, DataError> {
        while self.ready.is_empty() {
            if self.ended {
                return Ok(None);
            }
            let more = self.fill();
            self.ended = !matches!(more, Ok(true));
            more?;
        }
        let value = self.ready.pop_front().flatten();
        self.row += 1;
        let len = value.as_ref().map_or(0, |v| v.len() as u64);
        let body = match value {
            None => Body::Broken(Fault::NotText { field: self.field.clone() }),
            Some(_) if len > self.bytes_max => {
                Body::Broken(Fault::TooLong { limit: self.bytes_max })
            }
            Some(value) => Body::Text(value.data().to_vec()),
        };
        Ok(Some(Raw { id: RowId { file: self.number, row: self.row, bytes: 0..len }, body }))
    }

    /// Decodes some rows; false when there are no more.
    fn fill(&mut self) -> Result<bool, DataError> {
        let Columns {
            path, file, column, levels_max, group, reader, ready, row, rows_stated, ..
        } = self;
        let open = match reader {
            Some(open) => open,
            None if *group == file.num_row_groups() => return Ok(false),
            None => {
                let column =
                    guard(path, || file.get_row_group(*group)?.get_column_reader(*column))?;
                *rows_stated += file.metadata().row_group(*group).num_rows() as u64;
                *group += 1;
                let ColumnReader::ByteArrayColumnReader(column) = column else {
                    return Err(fault(path, "the column changes its type"));
                };
                reader.insert(column)
            }
        };
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let read = guard(path, || open.read_records(ROWS, Some(&mut levels), None, &mut values));
        let (records, ..) = read?;
        if records == 0 {
            *reader = None;
            return Ok(true);
        }
        if *row + records as u64 > *rows_stated {
            return Err(fault(path, "a column has more values than its rows"));
        }
        if *levels_max == 0 {
            ready.extend(values.into_iter().map(Some));
            return Ok(true);
        }
        let mut values = values.into_iter();
        for level in levels {
            ready.push_back(match level == *levels_max {
                true => Some(values.next().ok_or_else(|| fault(path, "a value is missing"))?),
                false => None,
            });
        }
        Ok(true)
    }
}

/// Errors if a file states more rows than its length allows.
pub(super) fn check_rows(
    path: &Path,
    file: &SerializedFileReader<File>,
    length: u64,
) -> Result<(), DataError> {
    let groups = file.metadata().row_groups().iter();
    let rows = groups.map(|g| u64::try_from(g.num_rows()).unwrap_or(u64::MAX));
    let rows = rows.fold(0, u64::saturating_add);
    let limit = length.saturating_mul(ROWS_PER_BYTE).saturating_add(ROWS_FREE);
    match rows > limit {
        true => Err(fault(path, &format!("it states {rows} rows in {length} bytes"))),
        false => Ok(()),
    }
}

/// Runs the Parquet reader; its errors, and its panics on hostile files, become errors.
pub(super) fn guard<T>(
    path: &Path,
    read: impl FnOnce() -> Result<T, parquet::errors::ParquetError>,
) -> Result<T, DataError> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(fault(path, &error.to_string())),
        Err(_) => Err(fault(path, "it broke the reader")),
    }
}

fn fault(path: &Path, reason: &str) -> DataError {
    DataError::Parquet { path: path.to_owned(), reason: reason.to_owned() }
}
