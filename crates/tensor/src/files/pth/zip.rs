//! The directory of a zip whose entries are stored as they are, zip64 included.

mod write;

use std::collections::HashSet;
use std::path::Path;

pub(super) use write::ZipWriter;

use super::super::FileError;
use super::super::cursor::Cursor;

/// A stored entry and the bytes of the file that it takes.
pub(super) struct Entry {
    pub name: String,
    pub start: usize,
    pub end: usize,
}

const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END64: u32 = 0x0606_4b50;
const LOCATOR64: u32 = 0x0706_4b50;

const END_BYTES: usize = 22;
const LOCATOR64_BYTES: usize = 20;
const CENTRAL_BYTES_MIN: usize = 46;
/// An extra field with this id holds the 64-bit sizes and offset.
const EXTRA64: u16 = 1;
const ENCRYPTED: u16 = 1;
const STORED: u16 = 0;

/// Every entry, in the order of the directory.
pub(super) fn entries(path: &Path, bytes: &[u8]) -> Result<Vec<Entry>, FileError> {
    let (count, offset) = directory(path, bytes)?;
    let mut cursor = Cursor::starting_at(path, bytes, offset, "the zip directory")?;
    let most = cursor.remaining() / CENTRAL_BYTES_MIN;
    if count > most as u64 {
        let expected = format!("at most {most}");
        return Err(FileError::field(path, "the number of zip entries", expected, count));
    }
    let mut entries: Vec<Entry> = Vec::with_capacity(count as usize);
    for _ in 0..count {
        entries.push(central(&mut cursor, bytes)?);
    }
    let mut names = HashSet::with_capacity(entries.len());
    match entries.iter().find(|entry| !names.insert(&entry.name)) {
        Some(twice) => {
            let name = format!("zip entry {}", twice.name);
            Err(FileError::Duplicate { path: path.to_owned(), name })
        }
        None => Ok(entries),
    }
}

/// The number of entries and where the directory starts, from the record at the file's end.
fn directory(path: &Path, bytes: &[u8]) -> Result<(u64, u64), FileError> {
    let end = end_record(bytes).ok_or_else(|| FileError::Truncated {
        path: path.to_owned(),
        what: "the record at the end of the zip".to_owned(),
        expected: END_BYTES as u64,
        got: 0,
    })?;
    let what = "the end of the zip";
    let mut cursor = Cursor::starting_at(path, bytes, end as u64 + 10, what)?;
    let count = cursor.u16(what)?;
    let _directory_bytes = cursor.u32(what)?;
    let offset = cursor.u32(what)?;
    let locator = end.checked_sub(LOCATOR64_BYTES);
    if let Some(locator) = locator.filter(|_| count == u16::MAX || offset == u32::MAX) {
        let mut cursor = Cursor::starting_at(path, bytes, locator as u64, what)?;
        if cursor.u32(what)? == LOCATOR64 {
            cursor.u32(what)?; // the disk
            let end64 = cursor.u64(what)?;
            let mut cursor = Cursor::starting_at(path, bytes, end64, what)?;
            signature(&mut cursor, END64, "the zip64 end record")?;
            cursor.take(28, what)?; // its size, versions, disks, entries on this disk
            let count = cursor.u64(what)?;
            let _directory_bytes = cursor.u64(what)?;
            return Ok((count, cursor.u64(what)?));
        }
    }
    Ok((count.into(), offset.into()))
}

/// Where the end record starts: the last place with its signature and a comment that fits.
fn end_record(bytes: &[u8]) -> Option<usize> {
    let last = bytes.len().checked_sub(END_BYTES)?;
    let first = last.saturating_sub(usize::from(u16::MAX));
    (first..=last).rev().find(|&at| {
        let comment = u16::from_le_bytes([bytes[at + 20], bytes[at + 21]]);
        bytes[at..].starts_with(&END.to_le_bytes()) && last - at == usize::from(comment)
    })
}

fn central(cursor: &mut Cursor<'_>, bytes: &[u8]) -> Result<Entry, FileError> {
    let (path, what) = (cursor.path, "a zip directory entry");
    signature(cursor, CENTRAL, what)?;
    cursor.take(4, what)?; // versions
    let flags = cursor.u16(what)?;
    let method = cursor.u16(what)?;
    cursor.take(8, what)?; // time, date, checksum
    let packed = cursor.u32(what)?;
    let size = cursor.u32(what)?;
    let name_bytes = cursor.u16(what)?;
    let extra_bytes = cursor.u16(what)?;
    let comment_bytes = cursor.u16(what)?;
    cursor.take(8, what)?; // disk, attributes
    let offset = cursor.u32(what)?;
    let name = cursor.take(name_bytes.into(), what)?;
    let extra = cursor.take(extra_bytes.into(), what)?;
    cursor.take(comment_bytes.into(), what)?;

    let Ok(name) = str::from_utf8(name) else {
        return Err(FileError::field(path, "a zip entry's name", "utf-8", name.escape_ascii()));
    };
    if method != STORED || flags & ENCRYPTED != 0 {
        let what = format!("a zip whose entry {name} is compressed or encrypted");
        return Err(FileError::unsupported(path, what, "unpack it, or save it with torch.save"));
    }
    let [size, packed, offset] = wide([size, packed, offset], extra, path)?;
    if size != packed {
        let what = format!("the packed size of {name}");
        return Err(FileError::field(path, what, size, packed));
    }
    let mut local = Cursor::starting_at(path, bytes, offset, name)?;
    signature(&mut local, LOCAL, name)?;
    local.take(22, name)?;
    let name_bytes = local.u16(name)?;
    let extra_bytes = local.u16(name)?;
    local.take(u64::from(name_bytes) + u64::from(extra_bytes), name)?;
    let start = local.position();
    local.take(size, name)?;
    Ok(Entry { name: name.to_owned(), start, end: local.position() })
}

/// Size, packed size and offset: those that do not fit 32 bits stand in an extra field.
fn wide(narrow: [u32; 3], extra: &[u8], path: &Path) -> Result<[u64; 3], FileError> {
    let mut wide = narrow.map(u64::from);
    let mut cursor = Cursor::new(path, extra);
    let what = "a zip extra field";
    while narrow.contains(&u32::MAX) && cursor.remaining() >= 4 {
        let id = cursor.u16(what)?;
        let length = cursor.u16(what)?;
        let field = cursor.take(length.into(), what)?;
        if id == EXTRA64 {
            let mut field = Cursor::new(path, field);
            for (wide, _) in wide.iter_mut().zip(narrow).filter(|(_, narrow)| *narrow == u32::MAX) {
                *wide = field.u64(what)?;
            }
            break;
        }
    }
    Ok(wide)
}

fn signature(cursor: &mut Cursor<'_>, expected: u32, what: &str) -> Result<(), FileError> {
    match cursor.u32(what)? {
        got if got == expected => Ok(()),
        got => {
            let (what, expected) = (format!("the signature of {what}"), format!("{expected:#x}"));
            Err(FileError::field(cursor.path, what, expected, format!("{got:#x}")))
        }
    }
}
