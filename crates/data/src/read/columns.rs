//! Records of one column of a Parquet file.

use std::collections::VecDeque;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor};

use super::{Body, Raw, ReadOptions, RowId};
use crate::{DataError, Fault};

/// Rows decoded at once; their bytes are shared with the page they came from.
const ROWS: usize = 128;

/// A file that states more rows than these is refused: reading them would take time out of all
/// proportion to its size. Texts that are all null or all the same are the only ones that small.
const ROWS_PER_BYTE: u64 = 64;
const ROWS_FREE: u64 = 1 << 16;

/// Columns of texts that are read at once, and how many an error names.
const COLUMNS_MAX: usize = 256;
const NAMED: usize = 20;

/// The columns that hold one text a row: their numbers and names.
fn texts(schema: &SchemaDescriptor) -> Vec<(usize, String)> {
    let columns = schema.columns().iter().enumerate();
    let text = |column: &ColumnDescriptor| {
        column.physical_type() == Type::BYTE_ARRAY && column.max_rep_level() == 0
    };
    columns.filter(|(_, c)| text(c)).map(|(at, c)| (at, c.path().string())).collect()
}

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
    /// The names of all columns of texts. Errors: the file has none, or too many of them.
    pub(super) fn texts(path: &Path) -> Result<Vec<String>, DataError> {
        let file = File::open(path).map_err(DataError::io("open", path))?;
        let file = guard(path, || SerializedFileReader::new(file))?;
        let names = texts(&file.metadata().file_metadata().schema_descr_ptr());
        match names.len() {
            1..=COLUMNS_MAX => Ok(names.into_iter().map(|(_, name)| name).collect()),
            0 => Err(fault(path, "no column of it holds a text a row")),
            n => Err(fault(path, &format!("it has {n} columns of texts, more than {COLUMNS_MAX}"))),
        }
    }

    pub(super) fn open(
        path: &Path,
        number: u32,
        options: &ReadOptions,
    ) -> Result<Columns, DataError> {
        let file = File::open(path).map_err(DataError::io("open", path))?;
        let length = file.metadata().map_err(DataError::io("read", path))?.len();
        let file = guard(path, || SerializedFileReader::new(file))?;
        let schema = file.metadata().file_metadata().schema_descr_ptr();
        let all = texts(&schema);
        let Some(&(column, _)) = all.iter().find(|(_, name)| *name == options.field) else {
            let got: Vec<String> = all.into_iter().take(NAMED).map(|(_, name)| name).collect();
            let (path, column) = (path.to_owned(), options.field.clone());
            return Err(DataError::Column { path, column, got: got.join(", ") });
        };
        let levels_max = schema.column(column).max_def_level();
        let groups = file.metadata().row_groups().iter();
        let rows = groups.map(|g| u64::try_from(g.num_rows()).unwrap_or(u64::MAX));
        let rows = rows.fold(0, u64::saturating_add);
        let limit = length.saturating_mul(ROWS_PER_BYTE).saturating_add(ROWS_FREE);
        if rows > limit {
            return Err(fault(path, &format!("it states {rows} rows in {length} bytes")));
        }
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

/// Runs the Parquet reader; its errors, and its panics on hostile files, become errors.
fn guard<T>(
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
