//! Writes a zip of stored entries, zip64 where a number needs it.

use std::path::Path;

use super::super::super::FileError;
use super::super::super::pending::Pending;
use super::{CENTRAL, END, END64, EXTRA64, LOCAL, LOCATOR64, STORED};

/// Where an entry's bytes start, as `torch.save` has it, so that tensors can be mapped.
const ALIGNMENT: u64 = 64;
/// The id of the extra field that pads, as `torch.save` has it.
const PADDING: u16 = u16::from_le_bytes(*b"FB");
/// Version 4.5 of the format: zip64.
const VERSION: u16 = 45;
/// 1 January 1980, the earliest there is: files do not depend on the clock.
const DATE: u16 = 1 << 5 | 1;

/// A zip under way.
#[derive(Debug)]
pub(in super::super) struct ZipWriter {
    file: Pending,
    folder: String,
    directory: Vec<u8>,
    entries: u64,
    /// Numbers from here on take the 64-bit form; lower in tests, which cannot write 4 GiB.
    wide_from: u64,
}

impl ZipWriter {
    /// Starts a zip whose entries lie in `folder`.
    pub fn new(file: Pending, folder: &str) -> ZipWriter {
        let wide_from = u64::from(u32::MAX);
        ZipWriter { file, folder: folder.to_owned(), directory: Vec::new(), entries: 0, wide_from }
    }

    /// Where the zip will stand.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Adds an entry.
    pub fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        let name = format!("{}/{name}", self.folder);
        let offset = self.file.position();
        let size = bytes.len() as u64;
        let size_wide = if size >= self.wide_from { vec![size, size] } else { vec![] };
        let mut extra = extra64(&size_wide);
        pad(&mut extra, offset + 30 + name.len() as u64);
        let narrow = self.narrow(size);
        let mut common = Vec::new(); // what the two headers share
        put16(&mut common, &[VERSION, 0, STORED, 0, DATE]);
        put32(&mut common, &[crc32(bytes), narrow, narrow]);
        put16(&mut common, &[name.len() as u16]);

        let mut local = LOCAL.to_le_bytes().to_vec();
        local.extend_from_slice(&common);
        put16(&mut local, &[extra.len() as u16]);
        local.extend_from_slice(name.as_bytes());
        local.extend_from_slice(&extra);
        self.file.write(&local)?;
        self.file.write(bytes)?;

        let mut wide = size_wide;
        wide.extend((offset >= self.wide_from).then_some(offset));
        let extra = extra64(&wide);
        self.directory.extend_from_slice(&CENTRAL.to_le_bytes());
        put16(&mut self.directory, &[VERSION]);
        self.directory.extend_from_slice(&common);
        put16(&mut self.directory, &[extra.len() as u16, 0, 0, 0]); // no comment, disk 0
        let offset = self.narrow(offset);
        put32(&mut self.directory, &[0, offset]); // no attributes
        self.directory.extend_from_slice(name.as_bytes());
        self.directory.extend_from_slice(&extra);
        self.entries += 1;
        Ok(())
    }

    /// Writes the directory and puts the file in its place.
    pub fn finish(mut self) -> Result<(), FileError> {
        let (start, bytes) = (self.file.position(), self.directory.len() as u64);
        let mut end = Vec::new();
        let few = self.entries < u64::from(u16::MAX);
        if !few || start >= self.wide_from || bytes >= self.wide_from {
            put32(&mut end, &[END64]);
            put64(&mut end, &[44]); // bytes that follow in this record
            put16(&mut end, &[VERSION, VERSION]);
            put32(&mut end, &[0, 0]);
            put64(&mut end, &[self.entries, self.entries, bytes, start]);
            put32(&mut end, &[LOCATOR64, 0]);
            put64(&mut end, &[start + bytes]);
            put32(&mut end, &[1]);
        }
        let entries = if few { self.entries as u16 } else { u16::MAX };
        put32(&mut end, &[END]);
        put16(&mut end, &[0, 0, entries, entries]);
        put32(&mut end, &[self.narrow(bytes), self.narrow(start)]);
        put16(&mut end, &[0]);
        self.file.write(&self.directory)?;
        self.file.write(&end)?;
        self.file.publish()
    }

    /// The 32-bit form, or the mark that says where to look for the 64-bit one.
    fn narrow(&self, value: u64) -> u32 {
        if value >= self.wide_from { u32::MAX } else { value as u32 }
    }
}

fn extra64(values: &[u64]) -> Vec<u8> {
    let mut extra = Vec::new();
    if !values.is_empty() {
        put16(&mut extra, &[EXTRA64, 8 * values.len() as u16]);
        put64(&mut extra, values);
    }
    extra
}

/// Adds an extra field such that the bytes after a header that starts its extras at `at` are
/// aligned.
fn pad(extra: &mut Vec<u8>, at: u64) {
    let bare = at + extra.len() as u64 + 4;
    let zeros = (bare.next_multiple_of(ALIGNMENT) - bare) as u16;
    put16(extra, &[PADDING, zeros]);
    extra.resize(extra.len() + usize::from(zeros), 0);
}

fn put16(out: &mut Vec<u8>, values: &[u16]) {
    values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
}

fn put32(out: &mut Vec<u8>, values: &[u32]) {
    values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
}

fn put64(out: &mut Vec<u8>, values: &[u64]) {
    values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
}

/// TABLES[0] is the remainder of each byte; TABLES[n] that of the byte followed by n zeros.
static TABLES: [[u32; 256]; 8] = {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    let mut tables = [[0; 256]; 8];
    let mut i = 0;
    while i < 256 {
        let (mut remainder, mut bit) = (i as u32, 0);
        while bit < 8 {
            remainder = remainder >> 1 ^ if remainder & 1 == 1 { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        tables[0][i] = remainder;
        i += 1;
    }
    let mut n = 1;
    while n < 8 {
        let mut i = 0;
        while i < 256 {
            let before = tables[n - 1][i];
            tables[n][i] = before >> 8 ^ tables[0][before as usize & 255];
            i += 1;
        }
        n += 1;
    }
    tables
};

/// The zip's checksum, eight bytes a step: byte by byte it would be slower than the disk.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    let (blocks, tail) = bytes.as_chunks::<8>();
    for block in blocks {
        let mixed = u64::from_le_bytes(*block) ^ u64::from(crc);
        crc = mixed
            .to_le_bytes()
            .iter()
            .zip(TABLES.iter().rev())
            .fold(0, |crc, (byte, table)| crc ^ table[usize::from(*byte)]);
    }
    for byte in tail {
        crc = crc >> 8 ^ TABLES[0][usize::from(crc as u8 ^ byte)];
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_known_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b"The quick brown fox jumps over the lazy dog"), 0x414f_a339);
    }

    #[test]
    fn wide_numbers_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pth");
        for wide_from in [0, 100, 200, u64::from(u32::MAX)] {
            let mut zip = ZipWriter::new(Pending::create(&path).unwrap(), "a");
            zip.wide_from = wide_from;
            zip.add("x", &[1; 150]).unwrap();
            zip.add("y", &[2; 90]).unwrap();
            zip.finish().unwrap();
            let bytes = std::fs::read(&path).unwrap();
            let entries = super::super::entries(&path, &bytes).unwrap();
            let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
            assert_eq!(names, ["a/x", "a/y"]);
            assert_eq!(bytes[entries[0].start..entries[0].end], [1; 150]);
            assert_eq!(bytes[entries[1].start..entries[1].end], [2; 90]);
            assert!(entries.iter().all(|entry| (entry.start as u64).is_multiple_of(ALIGNMENT)));
        }
    }
}
