//! The ids of pieces met before, for all threads of a tokenizer: a table that only fills.
//!
//! An entry is written once and never changed, so a reader needs no lock and no second look: who
//! sees the key sees the ids. A larger table follows a full one, at the bound an empty one.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::TokenId;
use super::hash::{hash_bytes, mix, short_key};

/// Entries of 32 bytes, in pairs that share a cache line: 512 KB at first, at most 32 MB. A text of
/// 30 MB has some 200,000 different pieces.
const SETS_LOG2_FIRST: u32 = 13;
const SETS_LOG2_MAX: u32 = 19;
/// Sets in which a piece may stand; nearly all stand in the first, which is looked at in line.
const PROBES: usize = 4;
/// A table is followed by one four times as large: fresh pages cost 0.7 us each, and threads take
/// them one after the other.
const GROWTH_LOG2: u32 = 2;
/// Room for each set: ids of pieces with more than three tokens (4 MB in the largest table), and
/// words of bytes of pieces of 16 bytes and more (4 MB).
const IDS_PER_SET: usize = 2;
const WORDS_PER_SET: usize = 1;
/// Longer pieces are seldom met twice.
const PIECE_MAX: usize = 128;
/// The number of ids in the upper half of the last word, whose top bit marks long pieces.
const COUNT_MASK: usize = 0x7FFF_FFFF;
/// In the top byte of the second word, where short pieces have their length.
const LONG: u64 = 0xFF << 56;
/// The second word of an entry that is free, and of one that is being written: no piece is empty.
const FREE: u64 = 0;
const TAKEN: u64 = 1;

/// Two words of key, then three ids and their number. The key of a piece under 16 bytes
/// is the piece; of a longer one its hash and length, and its first id makes room for the place
/// of its bytes. More ids than fit stand in `ids`, and their place in the last id's room.
type Entry = [AtomicU64; 4];

/// A pair of entries on a cache line.
#[derive(Default)]
#[repr(align(64))]
struct Set([Entry; 2]);

/// The last two words of an entry.
type Found = [u64; 2];

/// Up to three ids that an entry holds itself, and their number; more than three if they stand
/// elsewhere or the piece is long.
#[inline(always)]
pub(super) fn ids(found: Found) -> ([TokenId; 3], usize) {
    (room(found).map(TokenId), (found[1] >> 32) as usize)
}

#[inline(always)]
fn room(found: Found) -> [u32; 3] {
    [found[0] as u32, (found[0] >> 32) as u32, found[1] as u32]
}

/// The table in use; threads work with a copy of the pointer.
#[derive(Default)]
pub(super) struct Cache(Mutex<Option<Arc<Table>>>);

impl Cache {
    /// The table in use, a first one where there is none.
    pub(super) fn table(&self) -> Arc<Table> {
        let table = |table: &mut Option<Arc<Table>>| {
            Arc::clone(table.get_or_insert_with(|| Arc::new(Table::new(SETS_LOG2_FIRST))))
        };
        table(&mut self.lock())
    }

    /// Gives back the memory, once no thread works with it any more.
    pub(super) fn forget(&self) {
        *self.lock() = None;
    }

    /// Keeps `ids` as those of `piece`, if there is room. `table` is this thread's; it becomes the
    /// one in use where another has followed it.
    pub(super) fn insert(&self, table: &mut Arc<Table>, key: Key, piece: &[u8], ids: &[TokenId]) {
        if table.retired.load(Acquire) {
            *table = self.table();
        }
        if piece.len() > PIECE_MAX || table.insert(key, piece, ids).is_some() {
            return;
        }
        let refused = table.refused.fetch_add(1, Relaxed);
        if refused > table.refused_max() && !table.growing.swap(true, Relaxed) {
            let larger = Arc::new(table.follower());
            *self.lock() = Some(Arc::clone(&larger));
            table.retired.store(true, Release);
            *table = larger;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Table>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ids by piece.
pub(super) struct Table {
    sets: Box<[Set]>,
    sets_log2: u32,
    ids: Arena<AtomicU32>,
    words: Arena<AtomicU64>,
    /// Pieces that found no room; one met again counts again.
    refused: AtomicUsize,
    /// Whether a thread makes the table to follow, and whether it is there.
    growing: AtomicBool,
    retired: AtomicBool,
}

/// Numbers appended by any thread, never changed.
struct Arena<T> {
    numbers: Box<[T]>,
    /// More than there are once it is full.
    taken: AtomicUsize,
}

impl<T: Default> Arena<T> {
    fn new(len: usize) -> Self {
        Self { numbers: (0..len).map(|_| T::default()).collect(), taken: AtomicUsize::new(0) }
    }

    /// A place for `len` numbers, if there is one left.
    fn take(&self, len: usize) -> Option<(usize, &[T])> {
        let at = self.taken.fetch_add(len, Relaxed);
        self.numbers.get(at..at + len).map(|numbers| (at, numbers))
    }
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

impl Table {
    fn new(sets_log2: u32) -> Self {
        let sets = 1 << sets_log2;
        Self {
            sets: (0..sets).map(|_| Set::default()).collect(),
            sets_log2,
            ids: Arena::new(sets * IDS_PER_SET),
            words: Arena::new(sets * WORDS_PER_SET),
            refused: AtomicUsize::new(0),
            growing: AtomicBool::new(false),
            retired: AtomicBool::new(false),
        }
    }

    #[inline(always)]
    fn place(&self, hash: u64) -> usize {
        (hash >> (64 - self.sets_log2)) as usize
    }

    /// Reads the entries of `keys`, all at once, so that finding them will not wait for memory.
    #[inline(always)]
    pub(super) fn touch(&self, keys: &[Key]) {
        let word = |key: &Key| {
            self.sets.get(self.place(key.hash)).map_or(0, |set| set.0[0][0].load(Relaxed))
        };
        std::hint::black_box(keys.iter().fold(0, |all, key| all ^ word(key)));
    }

    /// The entry of a key in its first set. The bytes of a long piece have yet to be compared.
    ///
    /// Which place of its set it has is computed, not branched on: nothing foretells it.
    #[inline(always)]
    pub(super) fn entry(&self, key: Key) -> Option<Found> {
        self.entry_at(self.place(key.hash), key)
    }

    #[inline(always)]
    fn entry_at(&self, place: usize, key: Key) -> Option<Found> {
        let Set(set) = self.sets.get(place)?;
        let entry = &set[usize::from(!is_key(&set[0], key))];
        is_key(entry, key).then(|| [entry[2].load(Relaxed), entry[3].load(Relaxed)])
    }

    /// Appends the ids of `piece` to `out`, if they are known.
    #[inline(never)]
    pub(super) fn find(&self, key: Key, piece: &[u8], out: &mut Vec<TokenId>) -> bool {
        let place = self.place(key.hash);
        let found = (0..PROBES).find_map(|beside| self.entry_at(place ^ beside, key));
        let Some(found) = found else { return false };
        let (count, room) = ((found[1] >> 32) as usize & COUNT_MASK, room(found));
        let first = usize::from(key.is_long());
        if key.is_long() {
            let words = &self.words.numbers[room[0] as usize..];
            if !words_of(piece).zip(words).all(|(word, kept)| word == kept.load(Relaxed)) {
                return false;
            }
        }
        if count <= 3 - first {
            out.extend(room[first..first + count].iter().map(|&id| TokenId(id)));
        } else {
            let at = room[2] as usize;
            out.extend(self.ids.numbers[at..at + count].iter().map(|id| TokenId(id.load(Relaxed))));
        }
        true
    }

    /// Keeps `ids` as those of `piece`, in a free place of its sets.
    #[must_use]
    fn insert(&self, key: Key, piece: &[u8], ids: &[TokenId]) -> Option<()> {
        let entry = self.take(key.hash)?;
        let mut room = [0; 3];
        let first = usize::from(key.is_long());
        // The place is lost if there is no room elsewhere: then the table is near its end.
        if key.is_long() {
            let (at, words) = self.words.take(words_of(piece).count())?;
            words_of(piece).zip(words).for_each(|(word, kept)| kept.store(word, Relaxed));
            room[0] = at as u32;
        }
        if ids.len() <= 3 - first {
            for (room, id) in room[first..].iter_mut().zip(ids) {
                *room = id.0;
            }
        } else {
            let (at, kept) = self.ids.take(ids.len())?;
            ids.iter().zip(kept).for_each(|(id, kept)| kept.store(id.0, Relaxed));
            room[2] = at as u32;
        }
        let long = u64::from(key.is_long()) << 63;
        let found = [
            u64::from(room[0]) | u64::from(room[1]) << 32,
            u64::from(room[2]) | (ids.len() as u64) << 32 | long,
        ];
        fill(entry, key.words, found);
        Some(())
    }

    /// A free entry for a hash, which from now on is the caller's to fill.
    fn take(&self, hash: u64) -> Option<&Entry> {
        let place = self.place(hash);
        let free = |entry: &&Entry| {
            entry[1].load(Relaxed) == FREE
                && entry[1].compare_exchange(FREE, TAKEN, Relaxed, Relaxed).is_ok()
        };
        (0..PROBES).flat_map(|beside| &self.sets[place ^ beside].0).find(free)
    }

    /// How many pieces may find no room before another table follows: few while tables grow; at
    /// the bound so many that learning them anew has cost as much as filling the table.
    fn refused_max(&self) -> usize {
        match self.sets_log2 < SETS_LOG2_MAX {
            true => self.sets.len() / 8,
            false => self.sets.len() * 2,
        }
    }

    /// The table to follow this one: all pieces in a larger one, or none where this is the largest.
    fn follower(&self) -> Self {
        let table = Self::new((self.sets_log2 + GROWTH_LOG2).min(SETS_LOG2_MAX));
        if self.sets_log2 == SETS_LOG2_MAX {
            return table;
        }
        for entry in self.sets.iter().flat_map(|set| &set.0) {
            let high = entry[1].load(Acquire);
            let low = entry[0].load(Relaxed);
            if high > TAKEN {
                let hash = if high >= LONG { low } else { mix(low, high) };
                if let Some(place) = table.take(hash) {
                    fill(place, (low, high), [entry[2].load(Relaxed), entry[3].load(Relaxed)]);
                }
            }
        }
        // After the entries: what they point to is there by now.
        let ids = self.ids.numbers.iter().zip(&table.ids.numbers);
        ids.for_each(|(from, to)| to.store(from.load(Relaxed), Relaxed));
        let words = self.words.numbers.iter().zip(&table.words.numbers);
        words.for_each(|(from, to)| to.store(from.load(Relaxed), Relaxed));
        table.ids.taken.store(self.ids.numbers.len(), Relaxed);
        table.words.taken.store(self.words.numbers.len(), Relaxed);
        table
    }
}

/// Fills an entry; the word that readers look for comes last.
fn fill(entry: &Entry, (low, high): (u64, u64), found: Found) {
    entry[0].store(low, Relaxed);
    entry[2].store(found[0], Relaxed);
    entry[3].store(found[1], Relaxed);
    entry[1].store(high, Release);
}

/// Bytes as words, the last one filled up with zeros.
fn words_of(piece: &[u8]) -> impl Iterator<Item = u64> {
    piece.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    })
}

#[inline(never)]
fn long_hash(piece: &[u8]) -> u64 {
    if piece.len() <= PIECE_MAX { hash_bytes(piece) } else { 0 }
}

#[inline(always)]
fn is_key(entry: &Entry, key: Key) -> bool {
    // The second word first: once it is there, all are.
    let high = entry[1].load(Acquire);
    (high ^ key.words.1) | (entry[0].load(Relaxed) ^ key.words.0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A piece for each number, every third a long one, with up to six ids.
    fn piece(n: u32) -> (Vec<u8>, Vec<TokenId>) {
        let piece = match n % 3 {
            0 => format!("a piece of more than sixteen bytes {n}"),
            _ => format!("p{n}"),
        };
        (piece.into_bytes(), (0..n % 7).map(|i| TokenId(n + i)).collect())
    }

    fn key(piece: &[u8]) -> Key {
        Key::new(piece, 0, piece.len())
    }

    fn found(table: &Table, n: u32) -> bool {
        let (piece, ids) = piece(n);
        let mut out = Vec::new();
        let found = table.find(key(&piece), &piece, &mut out);
        assert!(!found || out == ids, "piece {n} has ids {out:?} in place of {ids:?}");
        found
    }

    #[test]
    fn a_full_table_refuses_and_its_follower_has_all_it_had() {
        let table = Table::new(4);
        let kept = |n: &u32| {
            let (piece, ids) = piece(*n);
            table.insert(key(&piece), &piece, &ids).is_some()
        };
        let kept: Vec<u32> = (0..100).filter(kept).collect();
        assert!(!kept.is_empty() && kept.len() <= 32, "{} pieces in 32 places", kept.len());
        let larger = table.follower();
        assert_eq!(larger.sets_log2, 4 + GROWTH_LOG2);
        for n in 0..100 {
            assert_eq!(found(&table, n), kept.contains(&n), "piece {n}");
            assert_eq!(found(&larger, n), kept.contains(&n), "piece {n} in the larger table");
        }
    }

    #[test]
    fn threads_that_fill_one_cache_find_the_ids_of_each_piece_or_nothing() {
        let cache = Cache::default();
        let work = |thread: u32| {
            let mut table = cache.table();
            // Each meets all pieces, in an order of its own; the first table has not room for all.
            for i in 0..40_000 {
                let n = i * (2 * thread + 1) % 40_000;
                if !found(&table, n) {
                    let (piece, ids) = piece(n);
                    cache.insert(&mut table, key(&piece), &piece, &ids);
                }
            }
        };
        std::thread::scope(|scope| {
            let work = &work;
            (0..4).for_each(|thread| drop(scope.spawn(move || work(thread))));
        });
        let table = cache.table();
        assert!(table.sets_log2 > SETS_LOG2_FIRST, "the table has not grown");
        let known = (0..40_000).filter(|&n| found(&table, n)).count();
        assert!(known > 20_000, "{known} of 40,000 pieces are known");
        cache.forget();
        assert!(!found(&cache.table(), 1));
    }
}
