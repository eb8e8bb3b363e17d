//! Files that are made piece by piece before the first step, and can be taken up after a kill.
//!
//! ```text
//! magic (8 bytes), the hash of what it belongs to, pieces: the bytes of each, and their SHA-256 with its number and that hash
//! ```
//!
//! A piece that a kill cut is made again. How long each is, is known before.

use crate::error::TrainError;
use herd_data::Hash;
use herd_data::disk::sync_name;
use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

const HASH: usize = 32;
const HEAD: u64 = 8 + HASH as u64;

/// A file of pieces.
pub(crate) struct Pieces {
    file: Mutex<File>,
    path: PathBuf,
    belongs_to: Hash,
    /// Where each begins, and where the last ends.
    starts: Vec<u64>,
    /// How many are whole.
    made: usize,
}

impl Pieces {
    /// Opens a file to be made, or made further, behind its last whole piece.
    ///
    /// Errors: the disk.
    pub fn begin(
        path: &Path,
        magic: &[u8; 8],
        belongs_to: Hash,
        sizes: impl Iterator<Item = usize>,
    ) -> Result<Pieces, TrainError> {
        let io = |e| TrainError::io("write", path, e);
        let opened =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut pieces = Pieces::of(opened.map_err(io)?, path, belongs_to, sizes);
        pieces.made = pieces.count(magic)?;
        let file = pieces.file.get_mut().unwrap_or_else(PoisonError::into_inner);
        let begin = |file: &mut File, made: usize, end: u64| -> std::io::Result<()> {
            if made == 0 {
                file.set_len(0)?;
                file.rewind()?;
                return file.write_all(&[magic, &belongs_to.0[..]].concat());
            }
            file.set_len(end)
        };
        begin(file, pieces.made, pieces.starts[pieces.made]).map_err(io)?;
        Ok(pieces)
    }

    /// Opens a file that was finished; `None` if it is not there.
    ///
    /// Errors: it is damaged or belongs to something else.
    pub fn finished(
        path: &Path,
        magic: &[u8; 8],
        belongs_to: Hash,
        sizes: impl Iterator<Item = usize>,
    ) -> Result<Option<Pieces>, TrainError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(TrainError::io("read", path, e)),
        };
        let mut pieces = Pieces::of(file, path, belongs_to, sizes);
        pieces.made = pieces.count(magic)?;
        let end = pieces.starts.last().copied().unwrap_or(HEAD);
        let len = fs::metadata(path).map_err(|e| TrainError::io("read", path, e))?.len();
        if pieces.made + 1 < pieces.starts.len() || len != end {
            let what = "it is of something else".into();
            return Err(TrainError::Damaged { path: path.to_owned(), what });
        }
        Ok(Some(pieces))
    }

    fn of(file: File, path: &Path, belongs_to: Hash, sizes: impl Iterator<Item = usize>) -> Pieces {
        let mut starts = vec![HEAD];
        for size in sizes {
            let last = starts[starts.len() - 1];
            starts.push(last + (size + HASH) as u64);
        }
        Pieces { file: Mutex::new(file), path: path.to_owned(), belongs_to, starts, made: 0 }
    }

    /// The pieces that are whole, from the first on.
    fn count(&mut self, magic: &[u8; 8]) -> Result<usize, TrainError> {
        let io = |e| TrainError::io("read", &self.path, e);
        let file = self.file.get_mut().unwrap_or_else(PoisonError::into_inner);
        file.rewind().map_err(io)?;
        let mut from = BufReader::new(file);
        // Whether there is as much as is asked for.
        let mut take = |bytes: &mut [u8]| match from.read_exact(bytes) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(io(e)),
        };
        let mut head = [0; HEAD as usize];
        if !take(&mut head)? || head[..8] != *magic || head[8..] != self.belongs_to.0 {
            return Ok(0);
        }
        let mut bytes = Vec::new();
        for (number, at) in self.starts.windows(2).enumerate() {
            bytes.resize((at[1] - at[0]) as usize, 0);
            if !take(&mut bytes)? {
                return Ok(number);
            }
            let (payload, hash) = bytes.split_at(bytes.len() - HASH);
            if hash != hash_of(self.belongs_to, number, payload).0 {
                return Ok(number);
            }
        }
        Ok(self.starts.len() - 1)
    }

    /// How many are whole.
    pub fn made(&self) -> usize {
        self.made
    }

    /// Adds the next one. Panics if it is not as long as was said.
    pub fn add(&mut self, payload: &[u8]) -> Result<(), TrainError> {
        let size = self.starts[self.made + 1] - self.starts[self.made];
        assert_eq!(payload.len() as u64 + HASH as u64, size, "piece {} of a file", self.made);
        let hash = hash_of(self.belongs_to, self.made, payload);
        let file = self.file.get_mut().unwrap_or_else(PoisonError::into_inner);
        let at = file.seek(SeekFrom::Start(self.starts[self.made]));
        let write = at.and_then(|_| file.write_all(payload)).and_then(|()| file.write_all(&hash.0));
        write.map_err(|e| TrainError::io("write", &self.path, e))?;
        self.made += 1;
        Ok(())
    }

    /// Bytes of a piece, from byte `from` of it on.
    pub fn read(&self, piece: usize, from: u64, bytes: &mut [u8]) -> Result<(), TrainError> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let at = SeekFrom::Start(self.starts[piece] + from);
        let read = file.seek(at).and_then(|_| file.read_exact(bytes));
        read.map_err(|e| TrainError::io("read", &self.path, e))
    }

    /// Gives the file, whose pieces are all made, another name, on the disk.
    pub fn rename(&mut self, to: &Path) -> Result<(), TrainError> {
        let file = self.file.get_mut().unwrap_or_else(PoisonError::into_inner);
        file.sync_all().map_err(|e| TrainError::io("write", &self.path, e))?;
        fs::rename(&self.path, to).map_err(|e| TrainError::io("rename", &self.path, e))?;
        sync_name(to).map_err(|e| TrainError::io("rename", to, e))?;
        self.path = to.to_owned();
        Ok(())
    }
}

fn hash_of(belongs_to: Hash, number: usize, payload: &[u8]) -> Hash {
    Hash::of(&[&belongs_to.0[..], &(number as u64).to_le_bytes(), payload].concat())
}

/// Removes what was made on the way, if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), TrainError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(TrainError::io("remove", path, e))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: &[u8; 8] = b"HERDTEST";
    const SIZES: [usize; 3] = [3, 0, 5];

    fn begin(path: &Path) -> Pieces {
        Pieces::begin(path, MAGIC, Hash::of(b"a"), SIZES.into_iter()).unwrap()
    }

    #[test]
    fn a_file_cut_anywhere_goes_on_behind_its_last_whole_piece() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part");
        let whole = {
            let mut pieces = begin(&path);
            for piece in [&b"abc"[..], b"", b"defgh"] {
                pieces.add(piece).unwrap();
            }
            fs::read(&path).unwrap()
        };
        let ends = [40 + 35, 40 + 35 + 32, 40 + 35 + 32 + 37];
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut pieces = begin(&path);
            assert_eq!(pieces.made(), ends.iter().filter(|end| **end <= cut).count(), "{cut}");
            for piece in [&b"abc"[..], b"", b"defgh"].into_iter().skip(pieces.made()) {
                pieces.add(piece).unwrap();
            }
            assert_eq!(fs::read(&path).unwrap(), whole, "{cut}");
        }
        let mut bytes = [0; 2];
        begin(&path).read(2, 1, &mut bytes).unwrap();
        assert_eq!(&bytes, b"ef");
    }

    #[test]
    fn what_is_damaged_or_of_something_else_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (part, path) = (folder.path().join("part"), folder.path().join("whole"));
        let open = |of: &[u8]| Pieces::finished(&path, MAGIC, Hash::of(of), SIZES.into_iter());
        assert!(open(b"a").unwrap().is_none());
        let mut pieces = begin(&part);
        for piece in [&b"abc"[..], b"", b"defgh"] {
            pieces.add(piece).unwrap();
        }
        pieces.rename(&path).unwrap();
        assert!(open(b"a").unwrap().is_some() && open(b"b").is_err() && !part.exists());
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            assert!(open(b"a").is_err(), "{at}");
        }
        fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
        assert!(open(b"a").is_err());
    }
}
