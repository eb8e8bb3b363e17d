//! Byte-pair encoding proper: merge the best-ranked neighbours until none is left.
//!
//! Short pieces live in arrays that are scanned for the least rank; long ones use a heap over a
//! linked list, n log n in the worst case. Both take the leftmost of equal ranks.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::CodecError;

/// Stands for "no such merge" and "no such token".
pub(super) const NONE: u32 = u32::MAX;
/// Ids must fit 20 bits and ranks 24, so that a pair and its rank share one 64-bit word.
pub(super) const IDS_MAX: usize = 1 << 20;
const RANKS_MAX: usize = 1 << 24;
const EMPTY: u64 = u64::MAX;
/// Up to here scanning beats the heap; positions have 7 bits.
const SHORT_MAX: usize = 128;
/// Up to here one by one beats vectors.
const FEW_MAX: usize = 16;

/// All merges of a vocabulary: a pair of ids gives a rank, a rank gives the merged id.
pub(super) struct Merges {
    /// Open addressing: left id (20 bits), right id (20), rank (24); a power of two of them.
    slots: Vec<u64>,
    shift: u32,
    merged: Vec<u32>,
    /// What to add to any rank to get its merged id, where one number does (tiktoken: 0): it
    /// spares a look into `merged` on which everything else would wait.
    offset: Option<u32>,
    /// Ids that are the left, or the right, half of some merge: most long tokens are neither, and
    /// these 32 KB spare them a look into the table's megabytes.
    lefts: Bits,
    rights: Bits,
}

/// A set of ids.
struct Bits(Vec<u64>);

impl Bits {
    fn insert(&mut self, id: u32) {
        let word = (id / 64) as usize;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (id % 64);
    }

    #[inline]
    fn has(&self, id: u32) -> bool {
        self.0.get((id / 64) as usize).is_some_and(|word| word >> (id % 64) & 1 != 0)
    }
}

/// One merge: the two halves, their rank (lower goes first) and what they become.
#[derive(Clone, Copy)]
pub(super) struct Merge {
    pub(super) left: u32,
    pub(super) right: u32,
    pub(super) rank: u32,
    pub(super) merged: u32,
}

/// Working memory of [`Merges::apply`], kept between calls.
#[derive(Default)]
pub(super) struct Scratch {
    /// The rank of the pair that begins at each id.
    pub(super) ranks: Vec<u32>,
    next: Vec<u32>,
    previous: Vec<u32>,
    heap: BinaryHeap<Reverse<u64>>,
}

impl Merges {
    /// A table of `merges`; of equal pairs the first stays.
    ///
    /// Errors if an id or rank is too large for the table.
    pub(super) fn new(merges: &[Merge]) -> Result<Self, CodecError> {
        let ranks = merges.iter().map(|m| m.rank as usize + 1).max().unwrap_or(0);
        if ranks > RANKS_MAX {
            return Err(CodecError::TooLarge {
                what: "the number of merges",
                got: ranks,
                limit: RANKS_MAX,
            });
        }
        let slots = (merges.len() * 2).next_power_of_two().max(16);
        let mut table = Self {
            slots: vec![EMPTY; slots],
            shift: 64 - slots.trailing_zeros(),
            merged: vec![NONE; ranks],
            offset: merges.first().map(|m| m.merged.wrapping_sub(m.rank)),
            lefts: Bits(Vec::new()),
            rights: Bits(Vec::new()),
        };
        for merge in merges {
            table.insert(merge);
        }
        Ok(table)
    }

    /// Of several merges that make one token, keeps the one that texts can reach.
    ///
    /// While the halves of token T stand side by side, all merges inside its bytes so far were
    /// those, in the same order, that encoding T alone makes. So a pair that does not make T when
    /// T is encoded alone never comes up, and leaving it out changes no id. Of Llama 3's 280,147
    /// merges 127,744 remain, in half the memory. `spell` gives the symbols of a token.
    pub(super) fn pruned(
        self,
        merges: &[Merge],
        spell: impl Fn(u32, &mut Vec<u32>),
    ) -> Result<Self, CodecError> {
        let tokens = merges.iter().map(|m| m.merged as usize + 1).max().unwrap_or(0);
        let mut ways = vec![0u32; tokens];
        for merge in merges {
            ways[merge.merged as usize] += 1;
        }
        let mut symbols = Vec::new();
        let mut reached: Vec<Option<(u32, u32)>> = vec![None; tokens];
        for id in (0..tokens).filter(|&id| ways[id] > 1) {
            symbols.clear();
            spell(id as u32, &mut symbols);
            // Quadratic in the token's length: the few long ones keep all their merges.
            if symbols.len() <= SHORT_MAX {
                reached[id] = self.last_pair(&mut symbols);
            }
        }
        let keep = |m: &&Merge| match reached[m.merged as usize] {
            Some(pair) => pair == (m.left, m.right),
            None => true,
        };
        Self::new(&merges.iter().filter(keep).copied().collect::<Vec<_>>())
    }

    /// The last two symbols that `symbols` come to before they are one.
    fn last_pair(&self, symbols: &mut Vec<u32>) -> Option<(u32, u32)> {
        while symbols.len() > 2 {
            let ranks = symbols.windows(2).map(|pair| self.rank(pair[0], pair[1]));
            let (at, rank) = ranks.enumerate().min_by_key(|&(_, rank)| rank)?;
            if rank == NONE {
                return None;
            }
            symbols[at] = self.merged(rank);
            symbols.remove(at + 1);
        }
        let &[left, right] = symbols.as_slice() else { return None };
        (self.rank(left, right) != NONE).then_some((left, right))
    }

    fn insert(&mut self, merge: &Merge) {
        let &Merge { left, right, rank, merged } = merge;
        for id in [left, right, merged] {
            assert!((id as usize) < IDS_MAX, "merges: id {id} does not fit 20 bits");
        }
        self.merged[rank as usize] = merged;
        self.offset = self.offset.filter(|offset| rank.wrapping_add(*offset) == merged);
        self.lefts.insert(left);
        self.rights.insert(right);
        let key = pair_key(left, right);
        let mut slot = self.home(key);
        while self.slots[slot] != EMPTY {
            if self.slots[slot] >> 24 == key {
                return;
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
        self.slots[slot] = key << 24 | u64::from(rank);
    }

    #[inline]
    fn home(&self, key: u64) -> usize {
        (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> self.shift) as usize
    }

    /// What a merge of this rank makes.
    #[inline]
    fn merged(&self, rank: u32) -> u32 {
        match self.offset {
            Some(offset) => rank.wrapping_add(offset),
            None => self.merged[rank as usize],
        }
    }

    /// The rank of a pair, or [`NONE`].
    #[inline]
    pub(super) fn rank(&self, left: u32, right: u32) -> u32 {
        if !self.lefts.has(left) || !self.rights.has(right) {
            return NONE;
        }
        let key = pair_key(left, right);
        let mut slot = self.home(key);
        loop {
            let word = self.slots[slot];
            if word >> 24 == key {
                return (word & 0xFF_FFFF) as u32;
            }
            if word == EMPTY {
                return NONE;
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }

    /// Every (left, right, merged), sorted.
    pub(super) fn sorted(&self) -> Vec<[u32; 3]> {
        let merge = |&word: &u64| {
            let (key, rank) = (word >> 24, (word & 0xFF_FFFF) as u32);
            [(key >> 20) as u32, key as u32 & 0xF_FFFF, self.merged(rank)]
        };
        let taken = self.slots.iter().filter(|&&word| word != EMPTY);
        let mut merges: Vec<_> = taken.map(merge).collect();
        merges.sort_unstable();
        merges
    }

    /// Merges `ids` in place until no pair of neighbours has a rank.
    pub(super) fn apply(&self, ids: &mut Vec<u32>, scratch: &mut Scratch) {
        if ids.len() < 2 {
            return;
        }
        scratch.ranks.clear();
        scratch.ranks.extend(ids.windows(2).map(|pair| self.rank(pair[0], pair[1])));
        self.apply_ranked(ids, scratch);
    }

    /// [`apply`](Self::apply) where `scratch.ranks` holds the rank of each pair already.
    pub(super) fn apply_ranked(&self, ids: &mut Vec<u32>, scratch: &mut Scratch) {
        scratch.ranks.push(NONE);
        if ids.len() <= SHORT_MAX {
            self.apply_short(ids, &scratch.ranks);
        } else {
            self.apply_long(ids, scratch);
        }
        ids.retain(|&id| id != NONE);
    }

    /// Takes the least of all candidates for each merge: quadratic, but over so few, and eight at
    /// a time, that it beats the heap.
    fn apply_short(&self, ids: &mut [u32], ranks: &[u32]) {
        // A candidate is rank (24 bits) and position (7): the least is the leftmost of the best.
        const DEAD: i32 = i32::MAX;
        let candidate = |rank: u32, at: usize| match rank {
            NONE => DEAD,
            _ => (rank << 7 | at as u32) as i32,
        };
        let n = ids.len();
        let mut candidates = [DEAD; SHORT_MAX];
        let (mut next, mut previous) = ([0u8; SHORT_MAX + 1], [0u8; SHORT_MAX + 1]);
        for i in 0..n {
            candidates[i] = candidate(ranks[i], i);
            next[i] = i as u8 + 1;
            previous[i + 1] = i as u8;
        }
        let blocks = n.div_ceil(8);
        loop {
            let best = match n <= FEW_MAX {
                true => least_of_few(&candidates[..n]),
                false => least(&candidates.as_chunks::<8>().0[..blocks]),
            };
            if best == DEAD {
                return;
            }
            let at = best as usize % SHORT_MAX;
            let gone = next[at] as usize;
            let after = next[gone] as usize;
            let merged = self.merged((best as usize / SHORT_MAX) as u32);
            ids[at] = merged;
            ids[gone] = NONE;
            candidates[gone] = DEAD;
            next[at] = after as u8;
            previous[after] = at as u8;
            candidates[at] =
                if after < n { candidate(self.rank(merged, ids[after]), at) } else { DEAD };
            if at > 0 {
                let before = previous[at] as usize;
                candidates[before] = candidate(self.rank(ids[before], merged), before);
            }
        }
    }

    /// A heap of candidates over a linked list; each merge adds at most two candidates.
    fn apply_long(&self, ids: &mut [u32], scratch: &mut Scratch) {
        let Scratch { ranks, next, previous, heap } = scratch;
        let n = u32::try_from(ids.len()).expect("pieces are cut far below 2^32 bytes");
        next.clear();
        next.extend(1..=n);
        previous.clear();
        previous.extend((0..n).map(|i| i.wrapping_sub(1)));
        let mut entries = std::mem::take(heap).into_vec();
        entries.clear();
        entries.extend((0..n).filter(|&i| ranks[i as usize] != NONE).map(|i| entry(ranks, i)));
        *heap = BinaryHeap::from(entries);
        while let Some(Reverse(word)) = heap.pop() {
            let (rank, at) = ((word >> 32) as u32, word as u32 as usize);
            if ranks[at] != rank {
                continue; // The pair has changed since; its new rank has an entry of its own.
            }
            let gone = next[at] as usize;
            ids[at] = self.merged(rank);
            ids[gone] = NONE;
            ranks[gone] = NONE;
            next[at] = next[gone];
            ranks[at] = NONE;
            if next[at] < n {
                previous[next[at] as usize] = at as u32;
                ranks[at] = self.rank(ids[at], ids[next[at] as usize]);
                if ranks[at] != NONE {
                    heap.push(entry(ranks, at as u32));
                }
            }
            if at > 0 {
                let before = previous[at] as usize;
                ranks[before] = self.rank(ids[before], ids[at]);
                if ranks[before] != NONE {
                    heap.push(entry(ranks, before as u32));
                }
            }
        }
    }

    /// The rank of each pair of bytes, for alphabets of bytes: 256 KB that spare the first round
    /// of hashing.
    pub(super) fn byte_pair_ranks(&self, byte_ids: &[u32; 256]) -> Vec<u32> {
        let mut ranks = vec![NONE; 1 << 16];
        for (a, &left) in byte_ids.iter().enumerate() {
            for (b, &right) in byte_ids.iter().enumerate() {
                if left != NONE && right != NONE {
                    ranks[a << 8 | b] = self.rank(left, right);
                }
            }
        }
        ranks
    }
}

/// The least of all numbers, one by one: a vector would have to wait until the number written last
/// has left the store buffer.
#[inline]
fn least_of_few(numbers: &[i32]) -> i32 {
    let (mut best, mut least) = (0, numbers[0]);
    for (i, &number) in numbers.iter().enumerate().skip(1) {
        if number < least {
            (best, least) = (i, number);
        }
    }
    numbers[best]
}

/// The least of all numbers, lane by lane so that it is a few vector instructions.
#[inline]
fn least(blocks: &[[i32; 8]]) -> i32 {
    let mut lanes = [i32::MAX; 8];
    for block in blocks {
        for (lane, &number) in lanes.iter_mut().zip(block) {
            *lane = (*lane).min(number);
        }
    }
    lanes.into_iter().fold(i32::MAX, i32::min)
}

#[inline]
fn pair_key(left: u32, right: u32) -> u64 {
    u64::from(left) << 20 | u64::from(right)
}

#[inline]
fn entry(ranks: &[u32], at: u32) -> Reverse<u64> {
    Reverse(u64::from(ranks[at as usize]) << 32 | u64::from(at))
}
