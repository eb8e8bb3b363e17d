//! GGUF, versions 2 and 3: metadata, tensor places, and the numbers, each tensor aligned.
//!
//! Source: the constants and reader of the `gguf` package, 0.19.

mod write;

use std::path::Path;

pub use write::GgufWriter;

use super::archive::{Contents, Place, Span};
use super::cursor::Cursor;
use super::{Array, DType, FileError, Metadata, TensorInfo, Value};

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;
const ALIGNMENT_KEY: &str = "general.alignment";
const ALIGNMENT: u32 = 32;
/// Files use 32, a few up to a page; more would only make padding.
const ALIGNMENT_MAX: u32 = 1 << 20;
/// GGML's limit.
const AXES_MAX: u32 = 4;
/// GGUF allows arrays of arrays; nobody nests them deeper than once.
const NESTING_MAX: u32 = 4;
/// An empty key, a type, and a value of one byte.
const ENTRY_BYTES_MIN: usize = 8 + 4 + 1;
/// An empty name, no axes, a type, an offset.
const INFO_BYTES_MIN: usize = 8 + 4 + 4 + 8;

/// Reads the metadata and checks the place of every tensor.
pub(super) fn read(path: &Path, bytes: &[u8], file: usize) -> Result<Contents, FileError> {
    let mut cursor = Cursor::new(path, bytes);
    cursor.take(MAGIC.len() as u64, "the magic number")?;
    check_version(path, cursor.u32("the version")?)?;
    let tensor_count = cursor.count(INFO_BYTES_MIN, "the number of tensors")?;
    let entry_count = cursor.count(ENTRY_BYTES_MIN, "the number of metadata entries")?;

    let mut metadata = Metadata::of(path);
    for _ in 0..entry_count {
        let key = string(&mut cursor, "a metadata key")?;
        let kind = cursor.u32("a metadata type")?;
        let value = value(&mut cursor, &key, kind)?;
        metadata.insert_new(key, value)?;
    }
    let alignment = alignment(path, &metadata)?;
    let mut stated = Vec::with_capacity(tensor_count);
    for _ in 0..tensor_count {
        stated.push(tensor_info(&mut cursor)?);
    }
    // The padding may be missing where no data follows.
    let data_start = cursor.position().next_multiple_of(alignment).min(bytes.len());
    let data = Span { file, start: data_start, end: bytes.len() };
    let mut tensors = Vec::with_capacity(tensor_count);
    for (info, offset) in stated {
        let span = place(path, &info, offset, alignment, data)?;
        tensors.push((info, span));
    }
    check_apart(path, &tensors, data_start)?;
    let placed = |(info, span)| (info, Place::Span(span));
    Ok(Contents { tensors: tensors.into_iter().map(placed).collect(), metadata })
}

pub(super) fn big_endian(path: &Path) -> FileError {
    FileError::unsupported(path, "a big-endian gguf", "convert it with gguf_convert_endian.py")
}

fn check_version(path: &Path, version: u32) -> Result<(), FileError> {
    match version {
        2 | VERSION => Ok(()),
        1 => {
            let hint = "convert the model anew: version 1 was used for a few weeks in 2023";
            Err(FileError::unsupported(path, "a gguf of version 1", hint))
        }
        swapped if swapped & 0xffff == 0 => Err(big_endian(path)),
        other => Err(FileError::field(path, "the gguf version", "2 or 3", other)),
    }
}

fn string(cursor: &mut Cursor<'_>, what: &str) -> Result<String, FileError> {
    let length = cursor.u64(what)?;
    let bytes = cursor.take(length, what)?;
    match str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => {
            let got = bytes[..bytes.len().min(40)].escape_ascii();
            Err(FileError::field(cursor.path, what, "utf-8", got))
        }
    }
}

fn value(cursor: &mut Cursor<'_>, key: &str, kind: u32) -> Result<Value, FileError> {
    Ok(match kind {
        0 => Value::U8(cursor.u8(key)?),
        1 => Value::I8(cursor.i8(key)?),
        2 => Value::U16(cursor.u16(key)?),
        3 => Value::I16(cursor.i16(key)?),
        4 => Value::U32(cursor.u32(key)?),
        5 => Value::I32(cursor.i32(key)?),
        6 => Value::F32(cursor.f32(key)?),
        7 => Value::Bool(truth(cursor, key)?),
        8 => Value::String(string(cursor, key)?),
        9 => Value::Array(array(cursor, key, NESTING_MAX)?),
        10 => Value::U64(cursor.u64(key)?),
        11 => Value::I64(cursor.i64(key)?),
        12 => Value::F64(cursor.f64(key)?),
        other => return Err(bad_type(cursor, key, other)),
    })
}

fn array(cursor: &mut Cursor<'_>, key: &str, nesting: u32) -> Result<Array, FileError> {
    fn many<'a, T>(
        cursor: &mut Cursor<'a>,
        key: &str,
        least_bytes: usize,
        item: impl Fn(&mut Cursor<'a>, &str) -> Result<T, FileError>,
    ) -> Result<Vec<T>, FileError> {
        let count = cursor.count(least_bytes, key)?;
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(item(cursor, key)?);
        }
        Ok(items)
    }
    Ok(match cursor.u32(key)? {
        0 => Array::U8(many(cursor, key, 1, Cursor::u8)?),
        1 => Array::I8(many(cursor, key, 1, Cursor::i8)?),
        2 => Array::U16(many(cursor, key, 2, Cursor::u16)?),
        3 => Array::I16(many(cursor, key, 2, Cursor::i16)?),
        4 => Array::U32(many(cursor, key, 4, Cursor::u32)?),
        5 => Array::I32(many(cursor, key, 4, Cursor::i32)?),
        6 => Array::F32(many(cursor, key, 4, Cursor::f32)?),
        7 => Array::Bool(many(cursor, key, 1, truth)?),
        8 => Array::String(many(cursor, key, 8, string)?),
        9 if nesting == 0 => {
            let got = format!("more than {NESTING_MAX} arrays deep");
            return Err(FileError::field(cursor.path, key, "a flatter array", got));
        }
        9 => Array::Array(many(cursor, key, 12, |cursor, key| array(cursor, key, nesting - 1))?),
        10 => Array::U64(many(cursor, key, 8, Cursor::u64)?),
        11 => Array::I64(many(cursor, key, 8, Cursor::i64)?),
        12 => Array::F64(many(cursor, key, 8, Cursor::f64)?),
        other => return Err(bad_type(cursor, key, other)),
    })
}

fn truth(cursor: &mut Cursor<'_>, key: &str) -> Result<bool, FileError> {
    match cursor.u8(key)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(FileError::field(cursor.path, key, "a bool, 0 or 1", other)),
    }
}

fn bad_type(cursor: &Cursor<'_>, key: &str, got: u32) -> FileError {
    FileError::field(cursor.path, format!("the type of {key}"), "0 to 12", got)
}

/// The alignment in force: the file's own, or 32.
fn alignment(path: &Path, metadata: &Metadata) -> Result<usize, FileError> {
    let alignment = metadata.find(ALIGNMENT_KEY)?.unwrap_or(ALIGNMENT);
    if !alignment.is_power_of_two() || alignment > ALIGNMENT_MAX {
        let expected = format!("a power of two up to {ALIGNMENT_MAX}");
        return Err(FileError::field(path, ALIGNMENT_KEY, expected, alignment));
    }
    Ok(alignment as usize)
}

/// A tensor's name, shape and type, and its offset from the start of the data.
fn tensor_info(cursor: &mut Cursor<'_>) -> Result<(TensorInfo, u64), FileError> {
    let name = string(cursor, "a tensor's name")?;
    let axes = cursor.u32(&name)?;
    if axes > AXES_MAX {
        let expected = format!("at most {AXES_MAX}");
        return Err(FileError::tensor(cursor.path, &name, "the number of axes", expected, axes));
    }
    let mut shape = Vec::with_capacity(axes as usize);
    for _ in 0..axes {
        let axis = cursor.u64(&name)?;
        let Ok(axis) = usize::try_from(axis) else {
            return Err(FileError::tensor(cursor.path, &name, "an axis", "a length", axis));
        };
        shape.push(axis);
    }
    shape.reverse();
    let dtype = DType::from_ggml_id(cursor.u32(&name)?);
    let info = TensorInfo { name, shape, dtype };
    let offset = cursor.u64(&info.name)?;
    Ok((info, offset))
}

/// Where a tensor lies. One of unknown type is taken to be empty: it can be listed, not read.
fn place(
    path: &Path,
    info: &TensorInfo,
    offset: u64,
    alignment: usize,
    data: Span,
) -> Result<Span, FileError> {
    if !offset.is_multiple_of(alignment as u64) {
        let expected = format!("a multiple of {alignment}");
        return Err(FileError::tensor(path, &info.name, "the offset", expected, offset));
    }
    let unknown = matches!(info.dtype, DType::Ggml(_));
    let bytes = match info.bytes() {
        Some(bytes) => bytes,
        None if unknown && info.elements().is_some() => 0,
        None => {
            let expected = format!("whole blocks of {}, of a size that fits", info.dtype);
            let got = format!("{:?}", info.shape);
            return Err(FileError::tensor(path, &info.name, "the shape", expected, got));
        }
    };
    let held = data.end - data.start;
    let start = usize::try_from(offset).ok().filter(|start| *start <= held);
    match start.filter(|start| bytes <= held - start) {
        Some(start) => {
            let start = data.start + start;
            Ok(Span { file: data.file, start, end: start + bytes })
        }
        None => {
            let expected = format!("a place in {held} bytes of data");
            let got = format!("{bytes} bytes at {offset}");
            Err(FileError::tensor(path, &info.name, "the place", expected, got))
        }
    }
}

fn check_apart(
    path: &Path,
    tensors: &[(TensorInfo, Span)],
    data_start: usize,
) -> Result<(), FileError> {
    let mut order: Vec<&(TensorInfo, Span)> =
        tensors.iter().filter(|(_, span)| span.start < span.end).collect();
    order.sort_by_key(|(_, span)| span.start);
    for pair in order.windows(2) {
        let [(before, ahead), (info, span)] = [pair[0], pair[1]].map(|(i, s)| (i, s));
        if span.start < ahead.end {
            let expected = format!("at least {}, after {}", ahead.end - data_start, before.name);
            let got = span.start - data_start;
            return Err(FileError::tensor(path, &info.name, "the offset", expected, got));
        }
    }
    Ok(())
}

/// Checks a split file's own counts, where the first part states them.
pub(super) fn check_split(path: &Path, parts: &[Contents]) -> Result<(), FileError> {
    let metadata = &parts[0].metadata;
    if let Some(count) = metadata.find::<u64>("split.count")?.filter(|count| *count > 0)
        && count != parts.len() as u64
    {
        return Err(FileError::field(path, "the number of parts", count, parts.len()));
    }
    let held: usize = parts.iter().map(|part| part.tensors.len()).sum();
    match metadata.find::<u64>("split.tensors.count")? {
        Some(count) if count != held as u64 => {
            Err(FileError::field(path, "the number of tensors in all parts", count, held))
        }
        _ => Ok(()),
    }
}
