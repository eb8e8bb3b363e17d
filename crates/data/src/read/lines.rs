//! Records of text files and of JSON lines.

use super::stream::{LineEnd, Stream};
use super::{Body, InputFile, Kind, Raw, ReadOptions, RowId};
use crate::{DataError, Fault};

/// The records of a file of lines.
pub struct Lines {
    stream: Stream,
    number: u32,
    /// Lines read so far.
    lines: u64,
    unit: Unit,
    bytes_max: u64,
    ended: bool,
}

/// What makes one record.
#[derive(Clone, Copy)]
enum Unit {
    JsonLine,
    /// Lines that together have at least this many bytes.
    Lines(u64),
    File,
}

impl Lines {
    pub(super) fn open(
        file: &InputFile,
        number: u32,
        options: &ReadOptions,
    ) -> Result<Lines, DataError> {
        let unit = match (file.kind, options.text_bytes) {
            (Kind::JsonLines, _) => Unit::JsonLine,
            (Kind::Text | Kind::Parquet, Some(bytes)) => Unit::Lines(bytes.max(1)),
            (Kind::Text | Kind::Parquet, None) => Unit::File,
        };
        let bytes_max = options.record_bytes_max;
        Ok(Lines { stream: Stream::open(file)?, number, lines: 0, unit, bytes_max, ended: false })
    }

    /// The next record; blank lines between JSON records are none.
    pub(super) fn next(&mut self) -> Result<Option<Raw>, DataError> {
        if self.ended {
            return Ok(None);
        }
        let raw = match self.unit {
            Unit::JsonLine => self.next_json(),
            Unit::Lines(bytes) => self.next_lines(bytes),
            Unit::File => self.next_file(),
        };
        self.ended = !matches!(raw, Ok(Some(_)));
        raw
    }

    fn next_json(&mut self) -> Result<Option<Raw>, DataError> {
        loop {
            let start = self.stream.position();
            let mut line = Vec::new();
            let end = self.stream.read_line(&mut line, self.bytes_max)?;
            self.lines += 1;
            let marked = start == 0 && line.starts_with("\u{feff}".as_bytes());
            if marked {
                line.drain(..3); // a byte order mark is no part of JSON
            }
            match end {
                LineEnd::NoMore => return Ok(None),
                LineEnd::Whole if line.trim_ascii().is_empty() => {}
                _ => return Ok(Some(self.raw(self.lines, start, end, Body::Json(line)))),
            }
        }
    }

    fn next_lines(&mut self, bytes: u64) -> Result<Option<Raw>, DataError> {
        let (start, first) = (self.stream.position(), self.lines + 1);
        let mut text = Vec::new();
        while (text.len() as u64) < bytes {
            let left = self.bytes_max.saturating_sub(text.len() as u64);
            match self.stream.read_line(&mut text, left)? {
                LineEnd::NoMore => break,
                end => {
                    self.lines += 1;
                    if end == LineEnd::TooLong {
                        return Ok(Some(self.raw(first, start, end, Body::Text(Vec::new()))));
                    }
                }
            }
        }
        match text.is_empty() {
            true => Ok(None),
            false => Ok(Some(self.raw(first, start, LineEnd::Whole, Body::Text(text)))),
        }
    }

    fn next_file(&mut self) -> Result<Option<Raw>, DataError> {
        let mut text = Vec::new();
        if self.stream.position() > 0 {
            return Ok(None);
        }
        match self.stream.read_rest(&mut text, self.bytes_max)? {
            LineEnd::NoMore => Ok(None),
            end => Ok(Some(self.raw(1, 0, end, Body::Text(text)))),
        }
    }

    fn raw(&self, row: u64, start: u64, end: LineEnd, body: Body) -> Raw {
        let body = match end {
            LineEnd::TooLong => Body::Broken(Fault::TooLong { limit: self.bytes_max }),
            LineEnd::Whole | LineEnd::NoMore => body,
        };
        Raw { id: RowId { file: self.number, row, bytes: start..self.stream.position() }, body }
    }
}
