//! The file of tokens: documents one behind the other, where each ends, and where it came from.
//!
//! All numbers are little-endian; `pad` fills with zeros up to a multiple of 8.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `HERDTOKS` |
//! | 4, 4 | version 1, or 2 where losses have weights; bytes of a token: 2, or 4 where the vocabulary has more than 65,536 |
//! | 8, 8, 8, 8 | tokens, documents, bytes of text, size of the vocabulary |
//! | 32 | hash of the tokenizer ([`Hash::of_tokenizer`]) |
//! | tokens, pad | ids, without begin- or end-of-text tokens |
//! | 4 each, pad | for each document, the tokens up to its end |
//! | 32 each | for each document: row, first byte, end byte (8 each), file, bytes of text (4 each) |
//! | 4 each, pad | version 2: the weight of each token's loss as a target, f32 |
//! | 32 | SHA-256 of all bytes before |
//!
//! The same documents give the same file. Its length follows from its head.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::disk::{self, Disk};
use crate::read::RowId;
use crate::{DataError, Hash};

const MAGIC: &[u8; 8] = b"HERDTOKS";
/// The version of shards whose targets all count alike, and of those with weights.
const VERSIONS: [u32; 2] = [1, 2];
const HEAD_BYTES: usize = 80;
const ROW_BYTES: u64 = 32;
const HASH_BYTES: u64 = 32;

/// Tokens of a shard at most, unless one document alone has more: positions have 32 bits.
pub const SHARD_TOKENS_MAX: u64 = 1 << 31;

/// What a shard's tokens are numbers of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vocabulary {
    /// [`Hash::of_tokenizer`].
    pub sha256: Hash,
    /// Number of ids.
    pub size: u64,
}

impl Vocabulary {
    /// Bytes that a token takes in a shard: 2 or 4.
    pub fn token_bytes(&self) -> usize {
        if self.size <= 1 << 16 { 2 } else { 4 }
    }
}

/// How much there is of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Documents.
    pub documents: u64,
    /// Tokens, without those that begin and end a text.
    pub tokens: u64,
    /// Bytes of UTF-8: with the tokens, what makes bits per byte of a loss.
    pub bytes: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.documents += other.documents;
        self.tokens += other.tokens;
        self.bytes = self.bytes.saturating_add(other.bytes); // a damaged head may claim anything
    }
}

/// A shard in memory, before it is written.
#[derive(Debug)]
pub struct ShardBuilder {
    vocabulary: Vocabulary,
    counts: Counts,
    tokens: Vec<u8>,
    ends: Vec<u8>,
    rows: Vec<u8>,
    weights: Option<Vec<u8>>,
}

impl ShardBuilder {
    /// An empty shard, with a weight of each token's loss if it is `weighted`.
    pub fn new(vocabulary: Vocabulary, weighted: bool) -> ShardBuilder {
        let (tokens, ends, rows) = (Vec::new(), Vec::new(), Vec::new());
        let weights = weighted.then(Vec::new);
        ShardBuilder { vocabulary, counts: Counts::default(), tokens, ends, rows, weights }
    }

    /// What it holds.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Appends a document of `text_bytes` bytes; `weights`, one for each id, where the shard is
    /// weighted, else nothing.
    ///
    /// Panics if the document is empty, an id is outside the vocabulary, weights are where none are
    /// wanted or the other way round, or the tokens of the shard no longer fit 32 bits; the pipeline
    /// makes no such documents.
    pub fn push(&mut self, ids: &[u32], weights: &[f32], text_bytes: u32, row: &RowId) {
        assert!(!ids.is_empty(), "push: the document is empty");
        let wanted = if self.weights.is_some() { ids.len() } else { 0 };
        assert!(weights.len() == wanted, "push: {} weights of {wanted}", weights.len());
        if let Some(all) = &mut self.weights {
            all.extend(weights.iter().flat_map(|weight| weight.to_le_bytes()));
        }
        for &id in ids {
            assert!(u64::from(id) < self.vocabulary.size, "push: {id} is outside the vocabulary");
        }
        match self.vocabulary.token_bytes() {
            2 => self.tokens.extend(ids.iter().flat_map(|&id| (id as u16).to_le_bytes())),
            _ => self.tokens.extend(ids.iter().flat_map(|id| id.to_le_bytes())),
        }
        self.counts +=
            Counts { documents: 1, tokens: ids.len() as u64, bytes: u64::from(text_bytes) };
        let end = u32::try_from(self.counts.tokens).expect("the pipeline ends shards before");
        self.ends.extend(end.to_le_bytes());
        for number in [row.row, row.bytes.start, row.bytes.end] {
            self.rows.extend(number.to_le_bytes());
        }
        self.rows.extend(row.file.to_le_bytes());
        self.rows.extend(text_bytes.to_le_bytes());
    }

    /// Writes the shard to `folder/name`, there whole or not at all, and gives its hash.
    pub fn write(&self, disk: &dyn Disk, folder: &Path, name: &str) -> Result<Hash, DataError> {
        let mut head = Vec::with_capacity(HEAD_BYTES);
        head.extend(MAGIC);
        head.extend(VERSIONS[usize::from(self.weights.is_some())].to_le_bytes());
        head.extend((self.vocabulary.token_bytes() as u32).to_le_bytes());
        let Counts { documents, tokens, bytes } = self.counts;
        for number in [tokens, documents, bytes, self.vocabulary.size] {
            head.extend(number.to_le_bytes());
        }
        head.extend(self.vocabulary.sha256.0);
        let pad = |bytes: &[u8]| &[0; 8][..bytes.len().next_multiple_of(8) - bytes.len()];
        let (tokens, ends) = (&self.tokens, &self.ends);
        let weights = self.weights.as_deref().unwrap_or_default();
        let parts =
            [&head[..], tokens, pad(tokens), ends, pad(ends), &self.rows, weights, pad(weights)];
        let mut hasher = Sha256::new();
        parts.iter().for_each(|part| hasher.update(part));
        let hash = Hash(hasher.finalize().into());
        disk::replace(disk, folder, name, &[&parts[..], &[&hash.0]].concat())?;
        Ok(hash)
    }
}

/// A shard on the disk. Its tokens are read where they are asked for.
#[derive(Debug)]
pub struct Shard {
    path: PathBuf,
    file: File,
    vocabulary: Vocabulary,
    counts: Counts,
    /// The tokens up to each document's end.
    ends: Vec<u32>,
    rows_at: u64,
    /// Where the weights begin, if there are any.
    weights_at: Option<u64>,
    length: u64,
    stated: Hash,
}

impl Shard {
    /// Opens a shard and checks its head, its length and its table of documents; not its hash.
    pub fn open(path: &Path) -> Result<Shard, DataError> {
        let mut file = File::open(path).map_err(DataError::io("open", path))?;
        let length = file.metadata().map_err(DataError::io("read", path))?.len();
        let wrong = |what, expected: &dyn ToString, got: &dyn ToString| DataError::Format {
            path: path.to_owned(),
            what,
            expected: expected.to_string(),
            got: got.to_string(),
        };
        if length < HEAD_BYTES as u64 + HASH_BYTES {
            let least = format!("at least {}", HEAD_BYTES as u64 + HASH_BYTES);
            return Err(wrong("the length", &least, &length));
        }
        let mut head = [0; HEAD_BYTES];
        file.read_exact(&mut head).map_err(DataError::io("read", path))?;
        if head[..8] != *MAGIC {
            let got = String::from_utf8_lossy(&head[..8]).escape_debug().to_string();
            return Err(wrong("the first word", &"HERDTOKS", &got));
        }
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("4 bytes"));
        let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8 bytes"));
        if !VERSIONS.contains(&word(8)) {
            return Err(wrong("the version", &"1 or 2", &word(8)));
        }
        let weighted = word(8) == VERSIONS[1];
        let sha256 = Hash(head[48..80].try_into().expect("32 bytes"));
        let vocabulary = Vocabulary { sha256, size: number(40) };
        if word(12) as usize != vocabulary.token_bytes() {
            let expected = format!("{} for {} ids", vocabulary.token_bytes(), vocabulary.size);
            return Err(wrong("the bytes of a token", &expected, &word(12)));
        }
        let counts = Counts { tokens: number(16), documents: number(24), bytes: number(32) };
        let places = Places::new(&counts, vocabulary.token_bytes() as u64, weighted);
        let Some(places) = places.filter(|places| places.length == length) else {
            let expected = places.map_or("far more".to_owned(), |p| p.length.to_string());
            return Err(wrong("the length", &expected, &length));
        };
        let mut bytes = vec![0; counts.documents as usize * 4];
        read_at(&file, &mut bytes, places.ends).map_err(DataError::io("read", path))?;
        let ends: Vec<u32> = bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        let starts = std::iter::once(&0).chain(&ends);
        if let Some(at) = starts.zip(&ends).position(|(start, end)| start >= end) {
            let expected = format!("behind the one before (document {at})");
            return Err(wrong("the end of a document", &expected, &ends[at]));
        }
        let last = ends.last().copied().unwrap_or(0);
        if u64::from(last) != counts.tokens {
            return Err(wrong("the end of the last document", &counts.tokens, &last));
        }
        let mut stated = Hash::default();
        read_at(&file, &mut stated.0, places.hash).map_err(DataError::io("read", path))?;
        let (path, rows_at) = (path.to_owned(), places.rows);
        let weights_at = weighted.then_some(places.weights);
        Ok(Shard { path, file, vocabulary, counts, ends, rows_at, weights_at, length, stated })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What its tokens are numbers of.
    pub fn vocabulary(&self) -> Vocabulary {
        self.vocabulary
    }

    /// What it holds.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether losses have weights.
    pub fn is_weighted(&self) -> bool {
        self.weights_at.is_some()
    }

    /// Number of documents.
    pub fn documents(&self) -> usize {
        self.ends.len()
    }

    /// The hash it states of itself.
    pub fn stated_hash(&self) -> Hash {
        self.stated
    }

    /// Reads all of it. Errors: the content does not have the hash stated, or an id is outside the
    /// vocabulary.
    pub fn verify(&self) -> Result<(), DataError> {
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 18];
        let tokens = HEAD_BYTES as u64..HEAD_BYTES as u64 + self.token_bytes() * self.counts.tokens;
        let mut outside = None;
        let mut at = 0;
        while at < self.length - HASH_BYTES {
            let n = (self.length - HASH_BYTES - at).min(buffer.len() as u64) as usize;
            let piece = &mut buffer[..n];
            read_at(&self.file, piece, at).map_err(DataError::io("read", &self.path))?;
            hasher.update(&*piece);
            // Tokens and pieces begin at multiples of 4, so that no token lies across a border.
            let from = tokens.start.clamp(at, at + n as u64) - at;
            let to = tokens.end.clamp(at, at + n as u64) - at;
            let ids = self.ids(&piece[from as usize..to as usize]);
            outside = outside.or(ids.into_iter().find(|&id| !self.holds(id)));
            at += n as u64;
        }
        let got = Hash(hasher.finalize().into());
        if got != self.stated {
            return Err(DataError::Hash { path: self.path.clone(), expected: self.stated, got });
        }
        outside.map_or(Ok(()), |id| Err(self.outside(id)))
    }

    /// Number of tokens of a document.
    pub fn len(&self, document: usize) -> usize {
        self.range(document).len()
    }

    /// Whether there are no documents.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Appends the tokens `part` of a document to `ids`.
    ///
    /// Panics if there is no such document or part. Errors: the file cannot be read, or an id is
    /// outside the vocabulary.
    pub fn read(
        &self,
        document: usize,
        part: Range<usize>,
        ids: &mut Vec<u32>,
    ) -> Result<(), DataError> {
        let whole = self.range(document);
        assert!(part.start <= part.end && part.end <= whole.len(), "read: {part:?} of {whole:?}");
        let mut bytes = vec![0; part.len() * self.token_bytes() as usize];
        let at = HEAD_BYTES as u64 + (whole.start + part.start) as u64 * self.token_bytes();
        read_at(&self.file, &mut bytes, at).map_err(DataError::io("read", &self.path))?;
        let read = self.ids(&bytes);
        match read.iter().find(|&&id| !self.holds(id)) {
            Some(&id) => Err(self.outside(id)),
            None => {
                ids.extend(read);
                Ok(())
            }
        }
    }

    /// Reads the weights of the losses of the tokens `part` of a document; 1 where the shard has none.
    ///
    /// Panics if there is no such document or part. Errors: the file cannot be read, or a weight
    /// is negative or no number.
    pub fn weights(
        &self,
        document: usize,
        part: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), DataError> {
        let whole = self.range(document);
        assert!(
            part.len() == out.len() && part.end <= whole.len(),
            "weights: {part:?} of {whole:?}"
        );
        let Some(start) = self.weights_at else {
            out.fill(1.0);
            return Ok(());
        };
        let mut bytes = vec![0; part.len() * 4];
        let at = start + (whole.start + part.start) as u64 * 4;
        read_at(&self.file, &mut bytes, at).map_err(DataError::io("read", &self.path))?;
        for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
            *out = f32::from_le_bytes(*bytes);
            if !(out.is_finite() && *out >= 0.0) {
                let (path, got) = (self.path.clone(), out.to_string());
                let expected = "a number, 0 or more".to_owned();
                return Err(DataError::Format { path, what: "a weight", expected, got });
            }
        }
        Ok(())
    }

    /// Where a document came from, and the bytes of its text.
    pub fn row(&self, document: usize) -> Result<(RowId, u32), DataError> {
        assert!(document < self.ends.len(), "row: {document} of {}", self.ends.len());
        let mut bytes = [0; ROW_BYTES as usize];
        let at = self.rows_at + document as u64 * ROW_BYTES;
        read_at(&self.file, &mut bytes, at).map_err(DataError::io("read", &self.path))?;
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let (row, start, end, last) = (number(0), number(8), number(16), number(24));
        Ok((RowId { file: last as u32, row, bytes: start..end }, (last >> 32) as u32))
    }

    fn range(&self, document: usize) -> Range<usize> {
        let start = document.checked_sub(1).map_or(0, |before| self.ends[before]);
        start as usize..self.ends[document] as usize
    }

    fn token_bytes(&self) -> u64 {
        self.vocabulary.token_bytes() as u64
    }

    fn ids(&self, bytes: &[u8]) -> Vec<u32> {
        match self.token_bytes() {
            2 => bytes.as_chunks().0.iter().map(|b| u32::from(u16::from_le_bytes(*b))).collect(),
            _ => bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect(),
        }
    }

    fn holds(&self, id: u32) -> bool {
        u64::from(id) < self.vocabulary.size
    }

    fn outside(&self, id: u32) -> DataError {
        let expected = format!("below {}", self.vocabulary.size);
        DataError::Format {
            path: self.path.clone(),
            what: "a token",
            expected,
            got: id.to_string(),
        }
    }
}

/// Where the parts of a shard begin.
#[derive(Clone, Copy)]
struct Places {
    ends: u64,
    rows: u64,
    weights: u64,
    hash: u64,
    length: u64,
}

impl Places {
    /// None where the numbers do not fit 64 bits.
    fn new(counts: &Counts, token_bytes: u64, weighted: bool) -> Option<Places> {
        let padded = |n: u64| n.checked_next_multiple_of(8);
        let tokens = padded(counts.tokens.checked_mul(token_bytes)?)?;
        let ends = (HEAD_BYTES as u64).checked_add(tokens)?;
        let rows = ends.checked_add(padded(counts.documents.checked_mul(4)?)?)?;
        let weights = rows.checked_add(counts.documents.checked_mul(ROW_BYTES)?)?;
        let weight_bytes = if weighted { padded(counts.tokens.checked_mul(4)?)? } else { 0 };
        let hash = weights.checked_add(weight_bytes)?;
        Some(Places { ends, rows, weights, hash, length: hash.checked_add(HASH_BYTES)? })
    }
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

#[cfg(not(unix))]
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> std::io::Result<()> {
    use std::io::{Seek, SeekFrom};
    // The place is the file's own: one reader at a time.
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut file = file;
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(bytes)
}
