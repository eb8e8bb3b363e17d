//! Records of text files, of JSON lines and of JSON lists.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

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
    /// A list of JSON, and where its elements lie that were not given out yet.
    list: Option<(Vec<u8>, std::vec::IntoIter<Range<usize>>)>,
}

/// What makes one record.
#[derive(Clone, Copy)]
enum Unit {
    JsonLine,
    /// An element of the list that the file is; a line where it is none.
    JsonElement,
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
            (Kind::Json, _) => Unit::JsonElement,
            (Kind::Text | Kind::Parquet, Some(bytes)) => Unit::Lines(bytes.max(1)),
            (Kind::Text | Kind::Parquet, None) => Unit::File,
        };
        let bytes_max = options.record_bytes_max;
        let stream = Stream::open(file)?;
        Ok(Lines { stream, number, lines: 0, unit, bytes_max, ended: false, list: None })
    }

    /// The next record; blank lines between JSON records are none.
    pub(super) fn next(&mut self) -> Result<Option<Raw>, DataError> {
        if self.ended {
            return Ok(None);
        }
        let raw = match self.unit {
            Unit::JsonLine => self.next_json(),
            Unit::JsonElement => self.next_element(),
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

    fn next_element(&mut self) -> Result<Option<Raw>, DataError> {
        if self.list.is_none() {
            let mut text = Vec::new();
            let end = self.stream.read_rest(&mut text, self.bytes_max)?;
            if end == LineEnd::TooLong {
                return Ok(Some(self.raw(1, 0, end, Body::Text(text))));
            }
            let found = match elements(&text) {
                Ok(found) => found,
                Err(fault) => return Ok(Some(self.raw(1, 0, end, Body::Broken(fault)))),
            };
            self.list = Some((text, found.into_iter()));
        }
        let next = |(text, places): &mut (Vec<u8>, std::vec::IntoIter<Range<usize>>)| {
            places.next().map(|at| (at.clone(), text[at].to_vec()))
        };
        let Some((at, json)) = self.list.as_mut().and_then(next) else { return Ok(None) };
        self.lines += 1;
        let bytes = at.start as u64..at.end as u64;
        Ok(Some(Raw {
            id: RowId { file: self.number, row: self.lines, bytes },
            body: Body::Json(json),
        }))
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

/// Where the elements of a list lie, or the lines of a text that is none.
fn elements(text: &[u8]) -> Result<Vec<Range<usize>>, Fault> {
    let place = |part: &[u8]| {
        let start = part.as_ptr() as usize - text.as_ptr() as usize;
        start..start + part.len()
    };
    let start = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text).trim_ascii_start();
    if start.first() != Some(&b'[') {
        let lines = start.split(|&byte| byte == b'\n').filter(|l| !l.trim_ascii().is_empty());
        return Ok(lines.map(place).collect());
    }
    let mut reader = serde_json::Deserializer::from_slice(start);
    let found = reader.deserialize_seq(Elements(&place)).and_then(|found| {
        reader.end()?;
        Ok(found)
    });
    found.map_err(|e| Fault::NotJson { reason: e.to_string() })
}

/// Keeps where each element of a list lies, and nothing else of it.
struct Elements<'p, F>(&'p F);

impl<'de, F: Fn(&[u8]) -> Range<usize>> Visitor<'de> for Elements<'_, F> {
    type Value = Vec<Range<usize>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut found = Vec::new();
        while let Some(element) = list.next_element::<&RawValue>()? {
            found.push((self.0)(element.get().as_bytes()));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_and_lines_give_the_same_elements() {
        let texts = |json: &str| {
            let found = elements(json.as_bytes()).unwrap();
            found.into_iter().map(|at| json[at].trim().to_owned()).collect::<Vec<_>>()
        };
        let two = [r#"{"a": "]\","}"#, r#"{"b": [1, {}]}"#];
        assert_eq!(texts(&format!("\u{feff} [\n {} , {}\n]\n", two[0], two[1])), two);
        assert_eq!(texts(&format!("{}\n\n{}", two[0], two[1])), two);
        assert!(texts("[]").is_empty() && texts("").is_empty());
        assert!(elements(b"[1, 2").is_err() && elements(b"[1] 2").is_err());
    }
}
