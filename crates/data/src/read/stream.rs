//! The bytes of a file, unpacked, of which there are no more than its size allows.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;

use super::{InputFile, Packing};
use crate::DataError;

const BUFFER_BYTES: usize = 1 << 18;

/// A packed file gives at most this many times its size, and `EXPANSION_FREE` bytes in any case.
/// gzip cannot give more than 1,032 times; logs that repeat themselves reach some hundreds.
const EXPANSION_MAX: u64 = 2000;
const EXPANSION_FREE: u64 = 64 << 20;

/// A file being read from its beginning.
pub(super) struct Stream {
    reader: BufReader<Box<dyn Read + Send>>,
    path: PathBuf,
    /// Bytes given out.
    at: u64,
    packed: u64,
    limit: u64,
}

/// How a line ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineEnd {
    /// With a line feed, or with the file.
    Whole,
    /// It was longer than the limit; the rest was passed over.
    TooLong,
    /// There was none.
    NoMore,
}

impl Stream {
    pub fn open(file: &InputFile) -> Result<Stream, DataError> {
        let path = &file.path;
        let raw = File::open(path).map_err(DataError::io("open", path))?;
        let packed = raw.metadata().map_err(DataError::io("read", path))?.len();
        let reader: Box<dyn Read + Send> = match file.packing {
            Packing::Plain => Box::new(raw),
            Packing::Gzip => Box::new(flate2::read::MultiGzDecoder::new(raw)),
            Packing::Zstd => {
                let decoder = zstd::stream::read::Decoder::new(raw);
                Box::new(decoder.map_err(DataError::io("unpack", path))?)
            }
        };
        let limit = match file.packing {
            Packing::Plain => u64::MAX,
            Packing::Gzip | Packing::Zstd => {
                packed.saturating_mul(EXPANSION_MAX).saturating_add(EXPANSION_FREE)
            }
        };
        let reader = BufReader::with_capacity(BUFFER_BYTES, reader);
        Ok(Stream { reader, path: path.clone(), at: 0, packed, limit })
    }

    /// Bytes given out or passed over so far.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Appends the next line with its end to `line`, unless it is longer than `bytes_max`.
    pub fn read_line(&mut self, line: &mut Vec<u8>, bytes_max: u64) -> Result<LineEnd, DataError> {
        let before = line.len();
        let mut end = LineEnd::NoMore;
        loop {
            let chunk = match self.reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(DataError::io("read", &self.path)(e)),
            };
            if chunk.is_empty() {
                return Ok(end);
            }
            let feed = find_feed(chunk);
            let taken = feed.map_or(chunk.len(), |at| at + 1);
            if end == LineEnd::NoMore {
                end = LineEnd::Whole;
            }
            if (line.len() - before + taken) as u64 > bytes_max {
                end = LineEnd::TooLong;
                line.truncate(before);
            }
            if end == LineEnd::Whole {
                line.extend_from_slice(&chunk[..taken]);
            }
            self.reader.consume(taken);
            self.at += taken as u64;
            self.check_size()?;
            if feed.is_some() {
                return Ok(end);
            }
        }
    }

    /// Appends the rest of the file, or says that it is longer than `bytes_max`.
    pub fn read_rest(&mut self, text: &mut Vec<u8>, bytes_max: u64) -> Result<LineEnd, DataError> {
        loop {
            let left = bytes_max.saturating_sub(text.len() as u64);
            match self.read_line(text, left)? {
                LineEnd::Whole => {}
                LineEnd::NoMore if text.is_empty() => return Ok(LineEnd::NoMore),
                LineEnd::NoMore => return Ok(LineEnd::Whole),
                LineEnd::TooLong => {
                    while self.read_line(&mut Vec::new(), 0)? != LineEnd::NoMore {}
                    return Ok(LineEnd::TooLong);
                }
            }
        }
    }

    fn check_size(&self) -> Result<(), DataError> {
        if self.at <= self.limit {
            return Ok(());
        }
        let (path, packed, limit) = (self.path.clone(), self.packed, self.limit);
        Err(DataError::Expands { path, packed, limit })
    }
}

/// The place of the first line feed: eight bytes at a time.
fn find_feed(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let (words, tail) = bytes.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let x = u64::from_le_bytes(*word) ^ (ONES * u64::from(b'\n'));
        let zero = x.wrapping_sub(ONES) & !x & (ONES << 7);
        if zero != 0 {
            return Some(8 * i + zero.trailing_zeros() as usize / 8);
        }
    }
    tail.iter().position(|&b| b == b'\n').map(|at| 8 * words.len() + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_feeds_are_found_at_every_place() {
        for n in 0..40 {
            for at in 0..=n {
                let mut bytes = vec![b'\n' ^ 1; n];
                bytes[at..].fill(b'\n');
                assert_eq!(find_feed(&bytes), (at < n).then_some(at), "{at} of {n}");
            }
        }
    }
}
