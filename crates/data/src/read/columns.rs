//! Columns of Parquet files, row by row: values with their levels, and records of one column of texts.

use std::collections::VecDeque;
use std::collections::vec_deque::Iter;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::basic::{ConvertedType, Type};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor};

use super::{Body, Raw, ReadOptions, RowId};
use crate::{DataError, Fault};

/// Rows of a column without lists that are decoded at once; their bytes are shared with the page they came from. Of a
/// column with lists it is one row, so that memory is bounded by it.
const ROWS: usize = 128;

/// A file that states more rows than these is refused: reading them would take time out of all
/// proportion to its size. Texts that are all null or all the same are the only ones that small.
const ROWS_PER_BYTE: u64 = 64;
const ROWS_FREE: u64 = 1 << 16;

/// The same of the values of a column with lists, which may all be of one row; and of those of one page.
const VALUES_PER_BYTE: u64 = 16;
const PAGE_VALUES_MAX: u64 = 1 << 24;

/// Places of a column that a row may have.
pub(super) const PLACES_MAX: usize = 1 << 20;

/// Columns that are read at once, and how many an error names.
const COLUMNS_MAX: usize = 1024;
const NAMED: usize = 20;

/// A value as it is stored.
pub(super) enum Scalar {
    Text(ByteArray),
    Int(i64),
    Unsigned(u64),
    Float(f64),
    Bool(bool),
}

/// A place of a column: what of its path is there and what repeats, and the value where all of it is there.
pub(super) struct Entry {
    pub def: i16,
    pub rep: i16,
    pub value: Option<Scalar>,
}

impl Entry {
    /// Those of its text.
    pub(super) fn bytes(&self) -> u64 {
        match &self.value {
            Some(Scalar::Text(text)) => text.len() as u64,
            Some(_) | None => 0,
        }
    }
}

/// Whether the values of a column are texts, numbers or truth values.
pub(super) fn is_readable(column: &ColumnDescriptor) -> bool {
    match column.physical_type() {
        Type::BYTE_ARRAY | Type::INT32 | Type::INT64 => {
            column.converted_type() != ConvertedType::DECIMAL
        }
        Type::BOOLEAN | Type::FLOAT | Type::DOUBLE => true,
        Type::INT96 | Type::FIXED_LEN_BYTE_ARRAY => false,
    }
}

/// The columns that hold one text a row: their numbers and names.
fn texts(schema: &SchemaDescriptor) -> Vec<(usize, String)> {
    let columns = schema.columns().iter().enumerate();
    let text = |column: &ColumnDescriptor| {
        column.physical_type() == Type::BYTE_ARRAY && column.max_rep_level() == 0
    };
    columns.filter(|(_, c)| text(c)).map(|(at, c)| (at, c.path().string())).collect()
}

/// Some columns of a file, which go through its rows together.
pub(super) struct Table {
    path: PathBuf,
    file: SerializedFileReader<File>,
    bytes: u64,
    pub columns: Vec<Column>,
    /// The row group to open next.
    group: usize,
    /// Rows to come of the one that is open.
    left: u64,
    /// Rows so far.
    pub row: u64,
    /// There is no more, or an error came.
    ended: bool,
}

/// A column, and what of it was decoded: of one with lists the row at hand, else rows to come as well.
pub(super) struct Column {
    number: usize,
    def_max: i16,
    rep_max: i16,
    unsigned: bool,
    reader: Option<ColumnReader>,
    pub ready: VecDeque<Entry>,
}

impl Table {
    /// Opens a file of which no column is read yet. Errors: it is none, or states more rows than its size allows.
    pub(super) fn open(path: &Path) -> Result<Table, DataError> {
        let file = File::open(path).map_err(DataError::io("open", path))?;
        let bytes = file.metadata().map_err(DataError::io("read", path))?.len();
        let file = guard(path, || SerializedFileReader::new(file))?;
        let groups = file.metadata().row_groups().iter();
        let rows = groups.map(|g| u64::try_from(g.num_rows()).unwrap_or(u64::MAX));
        let rows = rows.fold(0, u64::saturating_add);
        if rows > bytes.saturating_mul(ROWS_PER_BYTE).saturating_add(ROWS_FREE) {
            return Err(fault(path, &format!("it states {rows} rows in {bytes} bytes")));
        }
        let (path, columns) = (path.to_owned(), Vec::new());
        Ok(Table { path, file, bytes, columns, group: 0, left: 0, row: 0, ended: false })
    }

    pub(super) fn schema(&self) -> &SchemaDescriptor {
        self.file.metadata().file_metadata().schema_descr()
    }

    /// The same with the columns of these numbers. Errors: there are none, or too many.
    pub(super) fn of(mut self, numbers: &[usize]) -> Result<Table, DataError> {
        let what = "columns of texts, numbers or truth values";
        match numbers.len() {
            0 => return Err(self.fault(&format!("it has no {what}"))),
            1..=COLUMNS_MAX => {}
            n => return Err(self.fault(&format!("it has {n} {what}, more than {COLUMNS_MAX}"))),
        }
        let column = |number: &usize| {
            use ConvertedType::{UINT_8, UINT_16, UINT_32, UINT_64};
            let column = self.schema().column(*number);
            Column {
                number: *number,
                def_max: column.max_def_level(),
                rep_max: column.max_rep_level(),
                unsigned: [UINT_8, UINT_16, UINT_32, UINT_64].contains(&column.converted_type()),
                reader: None,
                ready: VecDeque::new(),
            }
        };
        self.columns = numbers.iter().map(column).collect();
        Ok(self)
    }

    pub(super) fn fault(&self, reason: &str) -> DataError {
        fault(&self.path, reason)
    }

    /// Makes the next row ready in each column; false where there is none.
    ///
    /// Errors: the file cannot be read on; there is no row after that.
    pub(super) fn advance(&mut self) -> Result<bool, DataError> {
        if self.ended {
            return Ok(false);
        }
        let more = self.read_on();
        self.ended = !matches!(more, Ok(true));
        more
    }

    fn read_on(&mut self) -> Result<bool, DataError> {
        while self.left == 0 {
            for column in &mut self.columns {
                if column.reader.is_some() && column.fill(&self.path, 1)? > 0 {
                    return Err(fault(&self.path, "a column has more values than its rows"));
                }
            }
            if self.group == self.file.num_row_groups() {
                return Ok(false);
            }
            self.open_group()?;
        }
        for column in &mut self.columns {
            if column.ready.is_empty() && column.fill(&self.path, self.left)? == 0 {
                return Err(fault(&self.path, "a column has fewer values than its rows"));
            }
        }
        self.left -= 1;
        self.row += 1;
        Ok(true)
    }

    fn open_group(&mut self) -> Result<(), DataError> {
        let Table { path, file, bytes, columns, group, .. } = self;
        let values = bytes.saturating_mul(VALUES_PER_BYTE).saturating_add(ROWS_FREE);
        for column in columns {
            let open = || {
                let pages = file.get_row_group(*group)?.get_column_page_reader(column.number)?;
                let schema = file.metadata().file_metadata().schema_descr();
                let bounded: Box<dyn PageReader> = match column.rep_max {
                    0 => pages,
                    _ => Box::new(Bounded { pages, values }),
                };
                Ok(get_column_reader(schema.column(column.number), bounded))
            };
            column.reader = Some(guard(path, open)?);
        }
        self.left = self.file.metadata().row_group(self.group).num_rows() as u64;
        self.group += 1;
        Ok(())
    }
}

impl Column {
    /// Whether a row of it may have several places, or none.
    pub(super) fn has_lists(&self) -> bool {
        self.rep_max > 0
    }

    /// The places of the row at hand.
    pub(super) fn row(&self) -> Iter<'_, Entry> {
        let places = if self.has_lists() { self.ready.len() } else { 1 };
        self.ready.range(..places.min(self.ready.len()))
    }

    /// Passes over the row at hand.
    pub(super) fn pass(&mut self) {
        self.ready.drain(..self.row().len());
    }

    /// Decodes some of `left` rows, and says how many.
    fn fill(&mut self, path: &Path, left: u64) -> Result<usize, DataError> {
        let Some(reader) = &mut self.reader else {
            return Err(fault(path, "a column is not open"));
        };
        let rows = if self.rep_max > 0 { 1 } else { left.min(ROWS as u64) as usize };
        let (mut levels, unsigned) = (Levels::default(), self.unsigned);
        let l = &mut levels;
        let (rows, values) = guard(path, || match reader {
            ColumnReader::ByteArrayColumnReader(r) => decode(r, rows, l, Scalar::Text),
            ColumnReader::Int32ColumnReader(r) if unsigned => {
                decode(r, rows, l, |n| Scalar::Unsigned(u64::from(n.cast_unsigned())))
            }
            ColumnReader::Int32ColumnReader(r) => decode(r, rows, l, |n| Scalar::Int(i64::from(n))),
            ColumnReader::Int64ColumnReader(r) if unsigned => {
                decode(r, rows, l, |n| Scalar::Unsigned(n.cast_unsigned()))
            }
            ColumnReader::Int64ColumnReader(r) => decode(r, rows, l, Scalar::Int),
            ColumnReader::FloatColumnReader(r) => {
                decode(r, rows, l, |x| Scalar::Float(f64::from(x)))
            }
            ColumnReader::DoubleColumnReader(r) => decode(r, rows, l, Scalar::Float),
            ColumnReader::BoolColumnReader(r) => decode(r, rows, l, Scalar::Bool),
            ColumnReader::Int96ColumnReader(_) | ColumnReader::FixedLenByteArrayColumnReader(_) => {
                Err(ParquetError::General("the column changes its type".into()))
            }
        })?;
        self.arrange(path, levels, values)?;
        Ok(rows)
    }

    /// Puts values to their levels. Errors: there are more or fewer of them.
    fn arrange(
        &mut self,
        path: &Path,
        levels: Levels,
        values: Vec<Scalar>,
    ) -> Result<(), DataError> {
        let places = if self.def_max > 0 { levels.def.len() } else { values.len() };
        // Of a row that is refused for its length only that is kept.
        let kept = places.min(PLACES_MAX + 1);
        let mut values = values.into_iter();
        self.ready.reserve(kept);
        for place in 0..kept {
            let def = if self.def_max > 0 { levels.def[place] } else { 0 };
            let rep = levels.rep.get(place).copied().unwrap_or(0);
            if !(0..=self.def_max).contains(&def) || !(0..=self.rep_max).contains(&rep) {
                return Err(fault(path, &format!("a value has the levels {def} and {rep}")));
            }
            let value = match def == self.def_max {
                true => Some(values.next().ok_or_else(|| fault(path, "a value is missing"))?),
                false => None,
            };
            self.ready.push_back(Entry { def, rep, value });
        }
        match kept == places && values.next().is_some() {
            true => Err(fault(path, "a column has more values than places")),
            false => Ok(()),
        }
    }
}

#[derive(Default)]
struct Levels {
    def: Vec<i16>,
    rep: Vec<i16>,
}

fn decode<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    rows: usize,
    Levels { def, rep }: &mut Levels,
    scalar: impl Fn(T::T) -> Scalar,
) -> Result<(usize, Vec<Scalar>), ParquetError> {
    let mut values = Vec::new();
    let (rows, ..) = reader.read_records(rows, Some(def), Some(rep), &mut values)?;
    Ok((rows, values.into_iter().map(scalar).collect()))
}

/// Pages of a column with lists: a few bytes of them may claim any number of values, all of one row.
struct Bounded {
    pages: Box<dyn PageReader>,
    /// Values that are still believed.
    values: u64,
}

impl PageReader for Bounded {
    fn get_next_page(&mut self) -> Result<Option<Page>, ParquetError> {
        let page = self.pages.get_next_page()?;
        if let Some(Page::DataPage { num_values, .. } | Page::DataPageV2 { num_values, .. }) = &page
        {
            let n = u64::from(*num_values);
            if n > self.values.min(PAGE_VALUES_MAX) {
                return Err(ParquetError::General(format!("a page claims {n} values")));
            }
            self.values -= n;
        }
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>, ParquetError> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<(), ParquetError> {
        self.pages.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool, ParquetError> {
        self.pages.at_record_boundary()
    }
}

impl Iterator for Bounded {
    type Item = Result<Page, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

/// The texts of one column, row by row.
pub struct Columns {
    table: Table,
    field: String,
    number: u32,
    bytes_max: u64,
}

impl Columns {
    pub(super) fn open(
        path: &Path,
        number: u32,
        options: &ReadOptions,
    ) -> Result<Columns, DataError> {
        let (table, field) = (Table::open(path)?, options.field.clone());
        let all = texts(table.schema());
        let Some(&(column, _)) = all.iter().find(|(_, name)| *name == field) else {
            let got: Vec<String> = all.into_iter().take(NAMED).map(|(_, name)| name).collect();
            let (path, got) = (path.to_owned(), got.join(", "));
            return Err(DataError::Column { path, column: field, got });
        };
        let table = table.of(&[column])?;
        Ok(Columns { table, field, number, bytes_max: options.record_bytes_max })
    }

    /// The next row.
    pub(super) fn next(&mut self) -> Result<Option<Raw>, DataError> {
        if !self.table.advance()? {
            return Ok(None);
        }
        let value = self.table.columns[0].ready.pop_front().and_then(|entry| entry.value);
        let (body, len) = match value {
            Some(Scalar::Text(text)) if text.len() as u64 > self.bytes_max => {
                (Body::Broken(Fault::TooLong { limit: self.bytes_max }), text.len())
            }
            Some(Scalar::Text(text)) => (Body::Text(text.data().to_vec()), text.len()),
            Some(_) | None => (Body::Broken(Fault::NotText { field: self.field.clone() }), 0),
        };
        let id = RowId { file: self.number, row: self.table.row, bytes: 0..len as u64 };
        Ok(Some(Raw { id, body }))
    }
}

/// Runs the Parquet reader; its errors, and its panics on hostile files, become errors.
fn guard<T>(path: &Path, read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, DataError> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(fault(path, &error.to_string())),
        Err(_) => Err(fault(path, "it broke the reader")),
    }
}

fn fault(path: &Path, reason: &str) -> DataError {
    DataError::Parquet { path: path.to_owned(), reason: reason.to_owned() }
}
