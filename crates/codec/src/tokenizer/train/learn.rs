//! The merges: join the commonest neighbours, again and again.
//!
//! ```text
//! (l, r) = the pair with the greatest count; of equal ones the least l, then the least r
//! ```
//!
//! All distinct words lie in one array of units (bytes, or tokens of an older vocabulary). The
//! first and the last unit of a token hold its id, so neighbours are found by its width. A pair's
//! places are known from the merge that brought its later half on, and from then on the pair
//! only loses places. So its count is an upper bound, and is counted anew when the pair comes to
//! the top of the queue: nothing has to be kept true in between, and no pair is ever looked up.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

use super::LearntMerge;
use crate::CodecError;
use crate::tokenizer::TokenId;

/// Stands between words, and inside tokens.
const NONE: u32 = u32::MAX;

/// What training works on: distinct words as ids, each with its count.
pub(super) struct Words {
    units: Vec<Unit>,
    counts: Vec<u64>,
    tokens: u64,
}

/// A byte, or a token of an older vocabulary.
#[derive(Clone, Copy)]
struct Unit {
    /// The token of which this is the first or the last unit.
    id: u32,
    /// The word's place in `counts`.
    word: u32,
}

const BORDER: Unit = Unit { id: NONE, word: 0 };

impl Default for Words {
    fn default() -> Self {
        Self { units: vec![BORDER], counts: Vec::new(), tokens: 0 }
    }
}

impl Words {
    /// Adds a word that occurs `count` times. Errors if all words together have 2^32 units.
    pub(super) fn push(
        &mut self,
        ids: impl ExactSizeIterator<Item = u32>,
        count: u64,
    ) -> Result<(), CodecError> {
        let length = ids.len();
        self.tokens += length as u64 * count;
        if length < 2 {
            return Ok(()); // nothing to merge
        }
        let (got, limit) = (self.units.len() + length + 1, NONE as usize);
        if got > limit {
            let what = "the length of all distinct pieces together";
            return Err(CodecError::TooLarge { what, got, limit });
        }
        let word = self.counts.len() as u32;
        self.units.extend(ids.map(|id| Unit { id, word }));
        self.units.push(BORDER);
        self.counts.push(count);
        Ok(())
    }

    /// Number of tokens in the whole text.
    pub(super) fn tokens(&self) -> u64 {
        self.tokens
    }
}

/// When to stop, and what not to merge.
pub(super) struct Rules<'a> {
    /// How many merges at most.
    pub(super) merges: usize,
    /// The longest token that a merge may make.
    pub(super) token_bytes_max: usize,
    /// Whether a pair, which would make a token of these bytes, is never to be merged.
    pub(super) refuses: &'a dyn Fn(u32, u32, &[u8]) -> bool,
}

/// Learns merges on `words`. `tokens` holds the bytes of the ids that words may have, and gets
/// those of the new ones. Gives the merges, and the number of tokens that the text then has.
pub(super) fn learn(
    words: Words,
    tokens: &mut Vec<Vec<u8>>,
    rules: &Rules<'_>,
    progress: &mut dyn FnMut(usize, usize),
) -> (Vec<LearntMerge>, u64) {
    let mut text = Text::new(words, tokens.len());
    let mut queue = text.first_pairs();
    let mut merges = Vec::new();
    while merges.len() < rules.merges {
        let Some(mut pair) = queue.pop() else { break };
        let bound = pair.count;
        text.count_anew(&mut pair);
        if pair.count < bound {
            if pair.count > 0 {
                queue.push(pair);
            }
            continue;
        }
        let Pair { left, right, count, .. } = pair;
        let merged = [&tokens[left as usize][..], &tokens[right as usize]].concat();
        if merged.len() > rules.token_bytes_max || (rules.refuses)(left, right, &merged) {
            continue;
        }
        let id = tokens.len() as u32;
        tokens.push(merged);
        text.merge(&pair, id, &mut queue);
        let [left, right, id] = [left, right, id].map(TokenId);
        merges.push(LearntMerge { left, right, id, count });
        progress(merges.len(), rules.merges);
    }
    (merges, text.tokens)
}

/// Two ids that stand side by side at `places[from..from + len]`, or stood there once.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Pair {
    count: u64,
    left: u32,
    right: u32,
    from: usize,
    len: u32,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |p: &Self| (p.count, Reverse((p.left, p.right)));
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Pairs, the greatest first. Most are too rare ever to be merged: those under `floor` lie
/// unsorted until all others are gone.
struct Queue {
    heap: BinaryHeap<Pair>,
    floor: u64,
    rare: Vec<Pair>,
}

impl Queue {
    fn push(&mut self, pair: Pair) {
        if pair.count < self.floor {
            self.rare.push(pair);
        } else {
            self.heap.push(pair);
        }
    }

    fn pop(&mut self) -> Option<Pair> {
        if self.heap.is_empty() {
            self.floor = self.rare.iter().map(|pair| pair.count).max()?.div_ceil(4);
            let floor = self.floor;
            let common = |pair: &mut Pair| pair.count >= floor;
            self.heap = self.rare.extract_if(.., common).collect();
        }
        self.heap.pop()
    }
}

struct Text {
    units: Vec<Unit>,
    counts: Vec<u64>,
    tokens: u64,
    /// How many units a token has, by id.
    widths: Vec<u32>,
    /// Where pairs begin, in ascending order for each pair.
    places: Vec<u32>,
    before: Neighbours,
    after: Neighbours,
}

impl Text {
    fn new(words: Words, ids: usize) -> Self {
        let Words { units, counts, tokens } = words;
        let (before, after) = (Neighbours::new(ids), Neighbours::new(ids));
        let places = Vec::with_capacity(units.len());
        Self { units, counts, tokens, widths: vec![1; ids], places, before, after }
    }

    /// All pairs of neighbours, before any merge.
    fn first_pairs(&mut self) -> Queue {
        let mut numbers: FxHashMap<(u32, u32), u32> = FxHashMap::default();
        let mut pairs: Vec<Pair> = Vec::new();
        let mut number_at = vec![NONE; self.units.len()];
        for (at, two) in self.units.windows(2).enumerate() {
            let (left, right) = (two[0].id, two[1].id);
            if left == NONE || right == NONE {
                continue;
            }
            let number = *numbers.entry((left, right)).or_insert_with(|| {
                pairs.push(Pair { count: 0, left, right, from: 0, len: 0 });
                pairs.len() as u32 - 1
            });
            let pair = &mut pairs[number as usize];
            pair.count += self.counts[two[0].word as usize];
            pair.len += 1;
            number_at[at] = number;
        }
        let mut from = 0;
        for pair in &mut pairs {
            pair.from = from;
            from += std::mem::take(&mut pair.len) as usize;
        }
        self.places = vec![0; from];
        for (at, &number) in number_at.iter().enumerate().filter(|&(_, &number)| number != NONE) {
            let pair = &mut pairs[number as usize];
            self.places[pair.from + pair.len as usize] = at as u32;
            pair.len += 1;
        }
        Queue { heap: BinaryHeap::new(), floor: u64::MAX, rare: pairs }
    }

    /// The word's count if the pair still stands at `at`.
    #[inline]
    fn count_at(&self, at: usize, left: u32, right: u32, left_width: usize) -> Option<u64> {
        let unit = self.units[at];
        let stands = unit.id == left && self.units[at + left_width].id == right;
        stands.then(|| self.counts[unit.word as usize])
    }

    /// Brings a pair's count and places up to date.
    fn count_anew(&mut self, pair: &mut Pair) {
        let left_width = self.widths[pair.left as usize] as usize;
        let (mut count, mut kept) = (0, pair.from);
        for i in pair.from..pair.from + pair.len as usize {
            let at = self.places[i];
            if let Some(n) = self.count_at(at as usize, pair.left, pair.right, left_width) {
                count += n;
                self.places[kept] = at;
                kept += 1;
            }
        }
        pair.count = count;
        pair.len = (kept - pair.from) as u32;
    }

    /// Joins a pair wherever it stands, left to right, and queues the pairs that this brings on.
    fn merge(&mut self, pair: &Pair, id: u32, queue: &mut Queue) {
        let &Pair { left, right, from, len, .. } = pair;
        let [left_width, right_width] =
            [left, right].map(|half| self.widths[half as usize] as usize);
        self.widths.push((left_width + right_width) as u32);
        self.before.grow();
        self.after.grow();
        for i in from..from + len as usize {
            let at = self.places[i] as usize;
            // In a run of one id each may be the half of only one pair.
            let Some(count) = self.count_at(at, left, right, left_width) else { continue };
            let middle = at + left_width;
            let end = middle + right_width;
            self.units[middle - 1].id = NONE;
            self.units[middle].id = NONE;
            self.units[at].id = id;
            self.units[end - 1].id = id;
            self.tokens -= count;
            let before = self.units[at - 1].id;
            if before == id {
                // The pair's last place, which took this place's left half for its neighbour.
                self.after.take_back(count);
            }
            if before != NONE {
                let place = at - self.widths[before as usize] as usize;
                self.before.add(before, place as u32, count);
            }
            let after = self.units[end].id;
            if after != NONE {
                self.after.add(after, at as u32, count);
            }
        }
        let Self { before, after, places, .. } = self;
        before.settle(places, |other, found| queue.push(found.pair(other, id)));
        after.settle(places, |other, found| queue.push(found.pair(id, other)));
    }
}

/// The tokens that stand on one side of a new one, with counts and places.
struct Neighbours {
    /// By id; all zero between merges.
    found: Vec<Found>,
    /// Ids met, in order.
    met: Vec<u32>,
    /// Each place with its neighbour's id, in ascending order.
    all: Vec<(u32, u32)>,
}

#[derive(Clone, Copy, Default)]
struct Found {
    count: u64,
    from: usize,
    len: u32,
    met: bool,
}

impl Found {
    fn pair(&self, left: u32, right: u32) -> Pair {
        Pair { count: self.count, left, right, from: self.from, len: self.len }
    }
}

impl Neighbours {
    fn new(ids: usize) -> Self {
        Self { found: vec![Found::default(); ids], met: Vec::new(), all: Vec::new() }
    }

    fn grow(&mut self) {
        self.found.push(Found::default());
    }

    #[inline]
    fn add(&mut self, id: u32, place: u32, count: u64) {
        let found = &mut self.found[id as usize];
        if !std::mem::replace(&mut found.met, true) {
            self.met.push(id);
        }
        found.count += count;
        found.len += 1;
        self.all.push((id, place));
    }

    /// Undoes the last `add`.
    fn take_back(&mut self, count: u64) {
        let (id, _) = self.all.pop().expect("the place before has this one for its neighbour");
        let found = &mut self.found[id as usize];
        found.count -= count;
        found.len -= 1;
    }

    /// Appends the places of each neighbour to `places`, gives each to `each`, and forgets all.
    fn settle(&mut self, places: &mut Vec<u32>, mut each: impl FnMut(u32, &Found)) {
        let mut from = places.len();
        places.resize(from + self.all.len(), 0);
        for &id in &self.met {
            let found = &mut self.found[id as usize];
            found.from = from;
            from += std::mem::take(&mut found.len) as usize;
        }
        for (id, place) in self.all.drain(..) {
            let found = &mut self.found[id as usize];
            places[found.from + found.len as usize] = place;
            found.len += 1;
        }
        for id in self.met.drain(..) {
            let found = std::mem::take(&mut self.found[id as usize]);
            if found.len > 0 {
                each(id, &found);
            }
        }
    }
}
