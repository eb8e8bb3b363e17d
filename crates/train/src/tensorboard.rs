//! Event files that TensorBoard reads: scalars and texts, one record a call.
//!
//! ```text
//! record = length: u64 | masked crc32c of those 8 bytes: u32 | payload | its masked crc32c: u32
//! masked(c) = (c rotated right by 15 bits) + 0xa282ead8 mod 2^32
//! ```
//!
//! A payload is an `Event` of TensorFlow's `event.proto`, written by hand: three messages, eleven
//! fields. Each record is one write to the file, so a kill leaves whole records and at most one torn
//! tail, at which TensorBoard leaves the file. Therefore each process begins a file of its own,
//! which sorts after those before it and says at which step it goes on: what older files hold from
//! that step onwards is then forgotten by TensorBoard.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use herd_data::disk::make_folder;

/// An event file under way.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: File,
}

/// Files that may begin in one second.
const FILES_MAX: u32 = 10_000;

impl EventWriter {
    /// Begins a file in `folder`, made if it is not there, for a run that goes on with `step`.
    /// `wall_time` is in seconds since 1970 and names the file.
    ///
    /// Errors: the file cannot be made or written.
    pub fn create(folder: &Path, wall_time: f64, step: u64) -> io::Result<EventWriter> {
        make_folder(folder)?;
        let (path, file) = new_file(folder, wall_time)?;
        let mut writer = EventWriter { path, file };
        writer.write(&event(wall_time, 0, Field::bytes(3, b"brain.Event:2")))?;
        const START: u64 = 1;
        writer.write(&event(wall_time, step, Field::bytes(7, &Field::varint(1, START).0)))?;
        Ok(writer)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes numbers by their names, such as `train/loss`, as one record. They become f32.
    pub fn scalars(
        &mut self,
        wall_time: f64,
        step: u64,
        scalars: &[(&str, f64)],
    ) -> io::Result<()> {
        self.write(&event(wall_time, step, summary(scalars.iter().map(|(tag, x)| scalar(tag, *x)))))
    }

    /// Writes a text, which TensorBoard shows as Markdown.
    pub fn text(&mut self, wall_time: f64, step: u64, tag: &str, text: &str) -> io::Result<()> {
        self.write(&event(wall_time, step, summary([self::text(tag, text)])))
    }

    fn write(&mut self, payload: &[u8]) -> io::Result<()> {
        self.file.write_all(&record(payload))
    }
}

/// A file that was not there. Names sort by time, then by number.
fn new_file(folder: &Path, wall_time: f64) -> io::Result<(PathBuf, File)> {
    for number in 0..FILES_MAX {
        let name = format!("events.out.tfevents.{:010}.herd.{number:04}", wall_time as u64);
        let path = folder.join(name);
        match File::create_new(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|file| (path, file)),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "ten thousand event files of one second"))
}

/// A payload between its lengths and checks.
fn record(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(payload.len() + 16);
    out.extend(length);
    out.extend(masked_crc32c(&length).to_le_bytes());
    out.extend(payload);
    out.extend(masked_crc32c(payload).to_le_bytes());
    out
}

/// `Event`: wall_time = 1, step = 2, and `what`.
fn event(wall_time: f64, step: u64, what: Field) -> Vec<u8> {
    let mut out = vec![1 << 3 | FIXED64];
    out.extend(wall_time.to_le_bytes());
    if step > 0 {
        out.extend(Field::varint(2, step).0); // zero goes unsaid
    }
    out.extend(what.0);
    out
}

/// `Event.summary = 5`, with `Summary.value = 1` repeated.
fn summary(values: impl IntoIterator<Item = Vec<u8>>) -> Field {
    let values: Vec<u8> = values.into_iter().flat_map(|v| Field::bytes(1, &v).0).collect();
    Field::bytes(5, &values)
}

/// `Value`: tag = 1, simple_value = 2.
fn scalar(tag: &str, x: f64) -> Vec<u8> {
    let mut out = Field::bytes(1, tag.as_bytes()).0;
    out.push(2 << 3 | FIXED32);
    out.extend((x as f32).to_le_bytes());
    out
}

/// `Value`: tag = 1, tensor = 8 { dtype = 1, tensor_shape = 2 { dim = 2 { size = 1 } },
/// string_val = 8 }, metadata = 9 { plugin_data = 1 { plugin_name = 1 } }.
fn text(tag: &str, text: &str) -> Vec<u8> {
    const DT_STRING: u64 = 7;
    let shape = Field::bytes(2, &Field::varint(1, 1).0);
    let tensor =
        [Field::varint(1, DT_STRING), Field::bytes(2, &shape.0), Field::bytes(8, text.as_bytes())];
    let plugin = Field::bytes(1, &Field::bytes(1, b"text").0);
    let tensor: Vec<u8> = tensor.into_iter().flat_map(|field| field.0).collect();
    let fields =
        [Field::bytes(1, tag.as_bytes()), Field::bytes(8, &tensor), Field::bytes(9, &plugin.0)];
    fields.into_iter().flat_map(|field| field.0).collect()
}

// Wire types of protocol buffers.
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;
const FIXED32: u8 = 5;

/// A field of a message: its number and type, then its value. Numbers here are under 16.
struct Field(Vec<u8>);

impl Field {
    fn varint(number: u8, value: u64) -> Field {
        let mut out = vec![number << 3 | VARINT];
        push_varint(&mut out, value);
        Field(out)
    }

    fn bytes(number: u8, value: &[u8]) -> Field {
        let mut out = vec![number << 3 | BYTES];
        push_varint(&mut out, value.len() as u64);
        out.extend(value);
        Field(out)
    }
}

/// Seven bits a byte, the lowest first; the high bit says that more follow.
fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Castagnoli's checksum (RFC 3720, appendix B.4), bits reflected, a byte a step.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!0, |crc, byte| crc >> 8 ^ CRC_TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize])
}

const CRC_TABLE: [u32; 256] = {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_checksum_gives_the_values_of_the_rfc() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn numbers_take_seven_bits_a_byte() {
        for (value, bytes) in [(0, vec![0]), (127, vec![127]), (300, vec![0xac, 2])] {
            let mut out = Vec::new();
            push_varint(&mut out, value);
            assert_eq!(out, bytes);
        }
        let mut out = Vec::new();
        push_varint(&mut out, u64::MAX);
        assert_eq!(out.len(), 10);
    }

    #[test]
    fn each_process_begins_a_file_that_sorts_last() {
        let folder = tempfile::tempdir().unwrap();
        let names: Vec<PathBuf> = [1e9, 1e9, 1e9 + 1.5]
            .map(|t| EventWriter::create(folder.path(), t, 1).unwrap().path().to_owned())
            .to_vec();
        assert!(names.is_sorted() && names[0] != names[1]);
    }

    #[test]
    fn a_record_is_in_the_file_when_the_call_returns() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(folder.path(), 0.0, 1).unwrap();
        let before = fs::metadata(writer.path()).unwrap().len();
        writer.scalars(0.0, 1, &[("loss", 1.0)]).unwrap();
        assert!(fs::metadata(writer.path()).unwrap().len() > before);
    }
}
