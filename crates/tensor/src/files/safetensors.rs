//! safetensors: a length, a JSON header, and the numbers.
//!
//! Layout: u64 header length; `{name: {dtype, shape, data_offsets: [begin, end]}}` with an optional
//! `__metadata__` of strings; then the data, which the tensors cover without gap or overlap.

mod write;

use std::fmt;
use std::path::Path;

pub use write::{SafetensorsWriter, ShardedWriter};

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::archive::{Contents, Place, Span};
use super::cursor::Cursor;
use super::{DType, FileError, Metadata, TensorInfo, Value};

const METADATA_KEY: &str = "__metadata__";

/// The header in the order of the file, doubles included, so that they can be refused by name.
struct Header {
    tensors: Vec<(String, Entry)>,
    metadata: Vec<(String, String)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

/// Reads a header and checks every place in it.
pub(super) fn read(path: &Path, bytes: &[u8], file: usize) -> Result<Contents, FileError> {
    let mut cursor = Cursor::new(path, bytes);
    let header_bytes = cursor.u64("the header length")?;
    let text = cursor.take(header_bytes, "the header")?;
    let data_start = cursor.position();
    let data_bytes = cursor.remaining();
    let header: Header = serde_json::from_slice(text).map_err(|source| FileError::Json {
        path: path.to_owned(),
        what: "the header",
        source,
    })?;

    let mut metadata = Metadata::of(path);
    for (key, value) in header.metadata {
        metadata.insert_new(key, Value::String(value))?;
    }
    let mut tensors = Vec::with_capacity(header.tensors.len());
    for (name, entry) in header.tensors {
        let [begin, end] = entry.data_offsets;
        if begin > end || end > data_bytes {
            let expected = format!("an ordered pair up to {data_bytes}");
            let got = format!("[{begin}, {end}]");
            return Err(FileError::tensor(path, &name, "data_offsets", expected, got));
        }
        let info = info(path, name, entry)?;
        let span = Span { file, start: data_start + begin, end: data_start + end };
        tensors.push((info, span));
    }
    check_cover(path, &tensors, data_start, bytes.len())?;
    let placed = |(info, span)| (info, Place::Span(span));
    Ok(Contents { tensors: tensors.into_iter().map(placed).collect(), metadata })
}

fn info(path: &Path, name: String, entry: Entry) -> Result<TensorInfo, FileError> {
    let Some(dtype) = DType::from_safetensors(&entry.dtype) else {
        let expected = "a safetensors type of whole bytes";
        return Err(FileError::tensor(path, &name, "dtype", expected, entry.dtype));
    };
    let info = TensorInfo { name, shape: entry.shape, dtype };
    let got = entry.data_offsets[1] - entry.data_offsets[0];
    match info.bytes() {
        Some(bytes) if bytes == got => Ok(info),
        Some(bytes) => Err(FileError::tensor(path, &info.name, "the length", bytes, got)),
        None => {
            let got = format!("{:?}", info.shape);
            Err(FileError::tensor(path, &info.name, "the shape", "one whose size fits", got))
        }
    }
}

/// Tensors must follow one another from the first byte of the data to the last.
fn check_cover(
    path: &Path,
    tensors: &[(TensorInfo, Span)],
    start: usize,
    end: usize,
) -> Result<(), FileError> {
    let mut order: Vec<&(TensorInfo, Span)> = tensors.iter().collect();
    order.sort_by_key(|(_, span)| (span.start, span.end));
    let mut at = start;
    for (info, span) in order {
        if span.start != at {
            let (expected, got) = (at - start, span.start - start);
            return Err(FileError::tensor(path, &info.name, "the offset", expected, got));
        }
        at = span.end;
    }
    match at == end {
        true => Ok(()),
        false => Err(FileError::field(path, "the end of the tensors", end, at)),
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Header, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Header;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header { tensors: Vec::new(), metadata: Vec::new() };
                while let Some(key) = map.next_key::<String>()? {
                    match key == METADATA_KEY {
                        true => header.metadata.extend(map.next_value::<Strings>()?.0),
                        false => header.tensors.push((key, map.next_value()?)),
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Read)
    }
}

/// An object of strings, doubles included.
struct Strings(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Strings, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Strings;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strings, A::Error> {
                let mut strings = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    strings.push(pair);
                }
                Ok(Strings(strings))
            }
        }
        deserializer.deserialize_map(Read)
    }
}
