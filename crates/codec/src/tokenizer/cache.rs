//! The ids of pieces met before: a table of fixed size in which newcomers displace older pieces.

use super::TokenId;
use super::hash::{hash_bytes, mix, short_key};

/// Entries of 32 bytes, in pairs that share a cache line: 8 MB for each thread at work.
const SETS_LOG2: u32 = 17;
/// Ids of pieces with more than three tokens (1 MB), and bytes of pieces of 16 and more (1 MB).
const IDS_MAX: usize = 1 << 18;
const BYTES_MAX: usize = 1 << 20;
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

/// The id of an entry of a short piece with a single one.
#[inline(always)]
pub(super) fn single(entry: &Entry) -> Option<TokenId> {
    (entry[3] >> 32 == 1).then_some(TokenId(entry[2] as u32))
}

/// A cache for one thread at a time.
pub(super) struct Cache {
    entries: Vec<[Entry; 2]>,
    ids: Vec<TokenId>,
    bytes: Vec<u8>,
}

/// The key of a piece, and the set it belongs to.
#[derive(Clone, Copy, Default)]
pub(super) struct Key {
    words: (u64, u64),
    set: usize,
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
        Self { words, set: (hash >> (64 - SETS_LOG2)) as usize }
    }

    #[inline]
    fn is_long(self) -> bool {
        self.words.1 >= LONG
    }
}

impl Cache {
    pub(super) fn new() -> Self {
        let entries = vec![[[0; 4]; 2]; 1 << SETS_LOG2];
        Self { entries, ids: Vec::new(), bytes: Vec::new() }
    }

    /// Reads the entries of `keys`, all at once, so that finding them will not wait for memory.
    #[inline(always)]
    pub(super) fn touch(&self, keys: &[Key]) {
        let word = |key: &Key| self.entries.get(key.set).map_or(0, |set| set[0][0]);
        std::hint::black_box(keys.iter().fold(0, |all, key| all ^ word(key)));
    }

    /// The entry of a key, if there is one. The bytes of a long piece have yet to be compared.
    #[inline(always)]
    pub(super) fn entry(&mut self, key: Key) -> Option<&Entry> {
        let set = self.entries.get_mut(key.set)?;
        if !is_key(&set[0], key) {
            if !is_key(&set[1], key) {
                return None;
            }
            set.swap(0, 1);
        }
        Some(&set[0])
    }

    /// Appends the ids of `piece` to `out`, if they are known.
    #[inline(never)]
    pub(super) fn find(&mut self, key: Key, piece: &[u8], out: &mut Vec<TokenId>) -> bool {
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

    /// Keeps `ids` as those of `piece`. A newcomer takes the second place of its set, and the
    /// first when it is met again, so that words met once do not displace common ones.
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
        self.entries[key.set][1] = [key.words.0, key.words.1, ids_word, last_word];
    }
}

#[inline(never)]
fn long_hash(piece: &[u8]) -> u64 {
    if piece.len() <= PIECE_MAX { hash_bytes(piece) } else { 0 }
}

#[inline]
fn is_key(entry: &Entry, key: Key) -> bool {
    entry[0] == key.words.0 && entry[1] == key.words.1
}
