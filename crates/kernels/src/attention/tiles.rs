//! Which query rows walk the keys together: rows in tiles, tiles in groups.

use super::{BLOCK, KvShape, Sequence, TILE};
use crate::cpu::Parts;

pub(super) struct Batch<'a> {
    pub(super) out: Parts<f32>,
    pub(super) lse: Option<Parts<f32>>,
    pub(super) q: &'a [f32],
    pub(super) cache: &'a [u8],
    pub(super) shape: KvShape,
    pub(super) heads: usize,
    pub(super) scale: f32,
    pub(super) sequences: &'a [Sequence<'a>],
}

/// Some query rows that share a key/value head: `tokens` rows of the batch, `count` heads each.
pub(super) struct Tile<'a> {
    pub(super) sequence: Sequence<'a>,
    pub(super) g: usize,
    /// First of its query heads, and how many.
    pub(super) head: usize,
    pub(super) count: usize,
    /// First token within the sequence, and how many.
    pub(super) token: usize,
    pub(super) tokens: usize,
}

impl Tile<'_> {
    pub(super) fn rows(&self) -> usize {
        self.tokens * self.count
    }

    /// The position of row `i`'s token.
    pub(super) fn position(&self, i: usize) -> usize {
        self.sequence.past + self.token + i / self.count
    }

    /// Keys that its last token sees.
    pub(super) fn keys(&self) -> usize {
        self.sequence.past + self.token + self.tokens
    }

    /// Where row `i` lies in q and out, in heads.
    pub(super) fn place(&self, i: usize, heads: usize) -> usize {
        let row = self.sequence.row + self.token + i / self.count;
        row * heads + self.head + i % self.count
    }
}

/// Tiles that walk the keys together, so that a block of keys and values is read from memory once
/// for all of them: 64 KiB for a head of 64, which stay in the second cache.
pub(super) struct Group<'a> {
    pub(super) sequence: Sequence<'a>,
    pub(super) g: usize,
    pub(super) by_heads: usize,
    /// Tiles of the sequence and head: from the first to before the last.
    pub(super) first: usize,
    pub(super) last: usize,
}

/// Tiles in a group at most.
pub(super) const TILES: usize = 8;

impl<'a> Group<'a> {
    pub(super) fn len(&self) -> usize {
        self.last - self.first
    }

    pub(super) fn tile(&self, batch: &Batch<'_>, t: usize) -> Tile<'a> {
        let (t, h) = ((self.first + t) / self.by_heads, (self.first + t) % self.by_heads);
        let r = batch.heads / batch.shape.kv_heads;
        let token = t * batch.tokens_a_tile();
        Tile {
            sequence: self.sequence,
            g: self.g,
            head: self.g * r + h * batch.heads_a_tile(),
            count: batch.heads_a_tile().min(r - h * batch.heads_a_tile()),
            token,
            tokens: batch.tokens_a_tile().min(self.sequence.rows - token),
        }
    }

    /// Blocks that any of its tiles may see: none of the tile is left out, some see fewer.
    pub(super) fn blocks(&self) -> usize {
        (self.sequence.past + self.sequence.rows).div_ceil(BLOCK)
    }
}

impl<'a> Batch<'a> {
    /// Query heads that a tile takes of each token.
    pub(super) fn heads_a_tile(&self) -> usize {
        (self.heads / self.shape.kv_heads).min(TILE)
    }

    pub(super) fn tokens_a_tile(&self) -> usize {
        TILE / self.heads_a_tile()
    }

    /// Tiles of one sequence for each key/value head: by tokens, and by heads.
    pub(super) fn tiles_of(&self, s: &Sequence<'_>) -> (usize, usize) {
        let by_heads = (self.heads / self.shape.kv_heads).div_ceil(self.heads_a_tile());
        (s.rows.div_ceil(self.tokens_a_tile()), by_heads)
    }

    pub(super) fn groups_of(&self, s: &Sequence<'_>) -> usize {
        let (by_tokens, by_heads) = self.tiles_of(s);
        (by_tokens * by_heads).div_ceil(TILES) * self.shape.kv_heads
    }

    pub(super) fn groups(&self) -> usize {
        self.sequences.iter().map(|s| self.groups_of(s)).sum()
    }

    /// Group `i`; the last tokens, which see most keys, come first so that no thread ends alone.
    pub(super) fn group(&self, mut i: usize) -> Group<'a> {
        for s in self.sequences {
            let count = self.groups_of(s);
            if i < count {
                let (by_tokens, by_heads) = self.tiles_of(s);
                let (g, first) = (i % self.shape.kv_heads, i / self.shape.kv_heads * TILES);
                let last = by_tokens * by_heads - first;
                return Group {
                    sequence: *s,
                    g,
                    by_heads,
                    first: last.saturating_sub(TILES),
                    last,
                };
            }
            i -= count;
        }
        unreachable!("group {i} past the last")
    }

    /// Position `at`'s page of the tile, as keys and values of its head.
    #[inline(always)]
    pub(super) fn page(&self, tile: &Tile<'_>, at: usize) -> (&'a [u8], &'a [u8]) {
        let page = tile.sequence.pages[at / self.shape.page_len] as usize;
        let (bytes, head) = (self.shape.page_bytes(), self.shape.head_bytes());
        let page = &self.cache[page * bytes..][..bytes];
        let (keys, values) = page.split_at(self.shape.value_offset());
        (&keys[tile.g * head..][..head], &values[tile.g * head..][..head])
    }
}
