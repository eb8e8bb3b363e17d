//! The ids of pieces met before: a table that grows to a bound, then displaces.

use super::TokenId;
use super::hash::{hash_bytes, mix, short_key};

/// Entries of 32 bytes, in pairs that share a cache line: 512 KB at first, at most 32 MB for each
/// thread at work. A text of 30 MB has some 200,000 different pieces.
const SETS_LOG2_FIRST: u32 = 13;
const SETS_LOG2_MAX: u32 = 19;
/// Ids of pieces with more than three tokens (4 MB), and bytes of pieces of 16 and more (4 MB).
const IDS_MAX: usize = 1 << 20;
const BYTES_MAX: usize = 1 << 22;
/// Longer pieces are seldom met twice.
const PIECE_MAX: usize = 128;
/// The number of ids in the upper half of the last word, whose top bit marks long pieces.
const COUNT_MASK: usize = 0x7FFF_FFFF;
/// In the top byte of the second word, where short pieces have their length.
const LONG: u64 = 0xFF << 56;

/// Two words of key, then three ids and their number. The key of a piece under 16 bytes
/// is the piece; of a longer one its hash and length, and its first id makes room for the place
/// of its bytes. More ids than fit stand in `ids`, and their place in the last id's room.
pub(super) type Entry = [u64; 4];

/// Up to three ids that an entry holds itself, and their number; more than three if they stand
/// elsewhere or the piece is long.
#[inline(always)]
pub(super) fn ids(entry: &Entry) -> ([TokenId; 3], usize) {
    let words = [entry[2] as u32, (entry[2] >> 32) as u32, entry[3] as u32];
    (words.map(TokenId), (entry[3] >> 32) as usize)
}

/// A cache for one thread at a time.
pub(super) struct Cache {
    entries: Vec<[Entry; 2]>,
    sets_log2: u32,
    /// Pieces displaced since the table last grew.
    displaced: usize,
    ids: Vec<TokenId>,
    bytes: Vec<u8>,
}

/// The key of a piece, and the hash that gives its set.
#[derive(Clone, Copy, Default)]
pub(super) struct Key {
    words: (u64, u64),
    hash: u64,
}

impl Key {
    /// The key of `text[at..end]`.
    #[inline(always)]
    pub(super) fn new(text: &[u8], at: usize, end: usize) -> Self {
        let len = end - at;
        let (words, hash) = if len < 16 {
            let words = short_key(text, at, len);
            (words, mix(words.0, words.1))
        } else {
            let hash = long_hash(&text[at..end]);
            ((hash, LONG | len as u64), hash)
        };
        Self { words, hash }
    }

    #[inline]
    fn is_long(self) -> bool {
        self.words.1 >= LONG
    }
}

impl Cache {
    pub(super) fn new() -> Self {
        let sets_log2 = SETS_LOG2_FIRST;
        let entries = vec![[[0; 4]; 2]; 1 << sets_log2];
        Self { entries, sets_log2, displaced: 0, ids: Vec::new(), bytes: Vec::new() }
    }

    #[inline(always)]
    fn set(&self, hash: u64) -> usize {
        (hash >> (64 - self.sets_log2)) as usize
    }

    /// Reads the entries of `keys`, all at once, so that finding them will not wait for memory.
    #[inline(always)]
    pub(super) fn touch(&self, keys: &[Key]) {
        let word = |key: &Key| self.entries.get(self.set(key.hash)).map_or(0, |set| set[0][0]);
        std::hint::black_box(keys.iter().fold(0, |all, key| all ^ word(key)));
    }

    /// The entry of a key, if there is one. The bytes of a long piece have yet to be compared.
    ///
    /// Which place of its set it has is computed, not branched on: nothing foretells it.
    #[inline(always)]
    pub(super) fn entry(&self, key: Key) -> Option<&Entry> {
        let set = self.entries.get(self.set(key.hash))?;
        let entry = &set[usize::from(!is_key(&set[0], key))];
        is_key(entry, key).then_some(entry)
    }

    /// Appends the ids of `piece` to `out`, if they are known.
    #[inline(never)]
    pub(super) fn find(&self, key: Key, piece: &[u8], out: &mut Vec<TokenId>) -> bool {
        let Some(&entry) = self.entry(key) else { return false };
        let count = (entry[3] >> 32) as usize & COUNT_MASK;
        let room = [entry[2] as u32, (entry[2] >> 32) as u32, entry[3] as u32];
        if key.is_long() {
            let at = room[0] as usize;
            if &self.bytes[at..at + piece.len()] != piece {
                return false;
            }
        }
        let first = usize::from(key.is_long());
        if count <= 3 - first {
            for &id in &room[first..first + count] {
                out.push(TokenId(id));
            }
        } else {
            let at = room[2] as usize;
            out.extend_from_slice(&self.ids[at..at + count]);
        }
        true
    }

    /// Keeps `ids` as those of `piece`, in a free place of its set or instead of another piece.
    pub(super) fn insert(&mut self, key: Key, piece: &[u8], ids: &[TokenId]) {
        if piece.len() > PIECE_MAX {
            return;
        }
        if self.ids.len() + ids.len() > IDS_MAX || self.bytes.len() + piece.len() > BYTES_MAX {
            self.entries.fill([[0; 4]; 2]);
            self.ids.clear();
            self.bytes.clear();
        }
        let mut room = [0; 3];
        let first = usize::from(key.is_long());
        if key.is_long() {
            room[0] = self.bytes.len() as u32;
            self.bytes.extend_from_slice(piece);
        }
        if ids.len() <= 3 - first {
            for (room, id) in room[first..].iter_mut().zip(ids) {
                *room = id.0;
            }
        } else {
            room[2] = self.ids.len() as u32;
            self.ids.extend_from_slice(ids);
        }
        let ids_word = u64::from(room[0]) | u64::from(room[1]) << 32;
        let long = u64::from(key.is_long()) << 63;
        let last_word = u64::from(room[2]) | (ids.len() as u64) << 32 | long;
        self.place(key.hash, [key.words.0, key.words.1, ids_word, last_word]);
        if self.displaced > self.entries.len() / 64 && self.sets_log2 < SETS_LOG2_MAX {
            self.grow();
        }
    }

    fn place(&mut self, hash: u64, entry: Entry) {
        let at = self.set(hash);
        let set = &mut self.entries[at];
        let free = set.iter().position(|entry| entry[1] == 0);
        self.displaced += usize::from(free.is_none());
        // A low bit of the hash, which has not chosen the set: either may go.
        set[free.unwrap_or((hash & 1) as usize)] = entry;
    }

    /// Gives every piece its place in a table twice as large.
    fn grow(&mut self) {
        self.sets_log2 += 1;
        self.displaced = 0;
        let larger = vec![[[0; 4]; 2]; 1 << self.sets_log2];
        for entry in std::mem::replace(&mut self.entries, larger).into_iter().flatten() {
            if entry[1] != 0 {
                let hash = if entry[1] >= LONG { entry[0] } else { mix(entry[0], entry[1]) };
                self.place(hash, entry);
            }
        }
    }
}

#[inline(never)]
fn long_hash(piece: &[u8]) -> u64 {
    if piece.len() <= PIECE_MAX { hash_bytes(piece) } else { 0 }
}

#[inline]
fn is_key(entry: &Entry, key: Key) -> bool {
    (entry[0] ^ key.words.0) | (entry[1] ^ key.words.1) == 0
}
