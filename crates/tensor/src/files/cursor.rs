//! Reads little-endian numbers off a slice, never past its end.

use std::path::Path;

use super::FileError;

/// A place in a file's bytes. `what` in the calls names the field for the error.
pub(super) struct Cursor<'a> {
    pub path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(path: &'a Path, bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { path, bytes, at: 0 }
    }

    /// The same, starting at byte `at`, which may lie past the end.
    pub fn starting_at(
        path: &'a Path,
        bytes: &'a [u8],
        at: u64,
        what: &str,
    ) -> Result<Self, FileError> {
        let mut cursor = Cursor::new(path, bytes);
        cursor.take(at, what)?;
        Ok(cursor)
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Bytes left.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// What is left, without reading it.
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: u64, what: &str) -> Result<&'a [u8], FileError> {
        let rest = self.rest();
        match usize::try_from(len).ok().and_then(|len| rest.get(..len)) {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => Err(FileError::Truncated {
                path: self.path.to_owned(),
                what: what.to_owned(),
                expected: len,
                got: rest.len() as u64,
            }),
        }
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], FileError> {
        Ok(self.take(N as u64, what)?.try_into().expect("take returns the length asked for"))
    }

    /// A count of things that take at least `least_bytes` each: too many for the rest is an error,
    /// so that a count is safe to allocate for.
    pub fn count(&mut self, least_bytes: usize, what: &str) -> Result<usize, FileError> {
        let count = self.u64(what)?;
        let most = self.remaining() / least_bytes;
        match usize::try_from(count) {
            Ok(count) if count <= most => Ok(count),
            _ => Err(FileError::field(self.path, what, format!("at most {most}"), count)),
        }
    }
}

macro_rules! numbers {
    ($($number:ident)*) => {
        /// The next number.
        impl Cursor<'_> {
            $(pub fn $number(&mut self, what: &str) -> Result<$number, FileError> {
                Ok($number::from_le_bytes(self.array(what)?))
            })*
        }
    };
}
numbers!(u8 i8 u16 i16 u32 i32 u64 i64 f32 f64);
