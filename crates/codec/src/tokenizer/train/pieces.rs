//! How often each piece occurs: memory in proportion to distinct pieces, whatever the length
//! of the text.

use super::Split;
use crate::CodecError;
use crate::tokenizer::hash::{hash_bytes, mix, short_key};

/// Counts of distinct pieces: all that training needs to know of a text.
#[derive(Clone, Debug)]
pub struct PieceCounts {
    /// Open addressing, at most half full; a power of two of them.
    slots: Vec<Slot>,
    used: usize,
    /// Pieces of 16 bytes and more.
    long: Vec<Box<[u8]>>,
    pieces: u64,
    bytes: u64,
}

/// The key of a piece under 16 bytes is the piece, zeros, and its length in the last byte. The key
/// of a longer one is its hash, its place in `long`, and [`LONG`] in the last byte.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    key: [u8; 16],
    /// 0 where the slot is free.
    count: u64,
}

const LONG: u8 = 0xFF;
/// Longest run of occupied slots met; only chosen collisions come near.
const PROBES_MAX: usize = 4096;
const SLOTS_MIN: usize = 1 << 12;

impl Default for PieceCounts {
    fn default() -> Self {
        let slots = vec![Slot::default(); SLOTS_MIN];
        Self { slots, used: 0, long: Vec::new(), pieces: 0, bytes: 0 }
    }
}

impl PieceCounts {
    /// Counts the pieces of a text.
    ///
    /// Errors if a pattern gives up on it, or pieces were made so that their hashes collide.
    pub fn add(&mut self, split: &Split, text: &str) -> Result<(), CodecError> {
        let mut result = Ok(());
        split.each_piece(text, |text, at, end| {
            if let Err(error) = self.add_piece(text, at, end, 1) {
                result = Err(error);
            }
        })?;
        result
    }

    /// Adds the counts of another part of the text.
    ///
    /// Errors as [`add`](Self::add) does.
    pub fn absorb(&mut self, mut other: Self) -> Result<(), CodecError> {
        if self.used < other.used {
            std::mem::swap(self, &mut other);
        }
        other.iter().try_for_each(|(piece, count)| self.add_piece(piece, 0, piece.len(), count))
    }

    /// Whether no piece has been counted.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Number of distinct pieces.
    pub fn distinct(&self) -> usize {
        self.used
    }

    /// Number of pieces, equal ones each by itself.
    pub fn pieces(&self) -> u64 {
        self.pieces
    }

    /// Number of bytes of all pieces.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Every distinct piece with its count, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.slots.iter().filter(|slot| slot.count > 0).map(|slot| (self.piece(slot), slot.count))
    }

    fn piece<'a>(&'a self, slot: &'a Slot) -> &'a [u8] {
        match slot.key[15] {
            LONG => &self.long[slot.place()],
            length => &slot.key[..usize::from(length)],
        }
    }

    /// Counts the piece `text[at..end]`; the bytes around it are not looked at.
    #[inline(always)]
    fn add_piece(
        &mut self,
        text: &[u8],
        at: usize,
        end: usize,
        count: u64,
    ) -> Result<(), CodecError> {
        self.pieces += count;
        self.bytes += (end - at) as u64 * count;
        if end - at >= 16 {
            return self.add_long(&text[at..end], count);
        }
        let (low, high) = short_key(text, at, end - at);
        let key = (u128::from(high) << 64 | u128::from(low)).to_le_bytes();
        let mask = self.slots.len() - 1;
        let mut at = mix(low, high) as usize & mask;
        for _ in 0..PROBES_MAX {
            let slot = &mut self.slots[at];
            if slot.key == key && slot.count > 0 {
                slot.count += count;
                return Ok(());
            }
            if slot.count == 0 {
                *slot = Slot { key, count };
                return self.took_one();
            }
            at = (at + 1) & mask;
        }
        Err(colliding())
    }

    #[inline(never)]
    fn add_long(&mut self, piece: &[u8], count: u64) -> Result<(), CodecError> {
        let hash = hash_bytes(piece);
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        for _ in 0..PROBES_MAX {
            let slot = &mut self.slots[at];
            if slot.count == 0 {
                *slot = Slot { key: long_key(hash, self.long.len()), count };
                self.long.push(piece.into());
                return self.took_one();
            }
            if slot.key[15] == LONG && slot.low() == hash && *self.long[slot.place()] == *piece {
                slot.count += count;
                return Ok(());
            }
            at = (at + 1) & mask;
        }
        Err(colliding())
    }

    /// Doubles the table when it is half full.
    fn took_one(&mut self) -> Result<(), CodecError> {
        self.used += 1;
        if self.used * 2 <= self.slots.len() {
            return Ok(());
        }
        let mask = self.slots.len() * 2 - 1;
        let mut slots = vec![Slot::default(); mask + 1];
        for slot in self.slots.iter().filter(|slot| slot.count > 0) {
            let mut at = slot.hash() as usize & mask;
            for probe in 0.. {
                if slots[at].count == 0 {
                    break;
                }
                if probe == PROBES_MAX {
                    return Err(colliding());
                }
                at = (at + 1) & mask;
            }
            slots[at] = *slot;
        }
        self.slots = slots;
        Ok(())
    }
}

impl Slot {
    fn low(&self) -> u64 {
        u128::from_le_bytes(self.key) as u64
    }

    fn high(&self) -> u64 {
        (u128::from_le_bytes(self.key) >> 64) as u64
    }

    fn hash(&self) -> u64 {
        if self.key[15] == LONG { self.low() } else { mix(self.low(), self.high()) }
    }

    /// The place of a long piece.
    fn place(&self) -> usize {
        (self.high() & !(u64::from(LONG) << 56)) as usize
    }
}

fn long_key(hash: u64, place: usize) -> [u8; 16] {
    let high = place as u64 | u64::from(LONG) << 56;
    (u128::from(high) << 64 | u128::from(hash)).to_le_bytes()
}

fn colliding() -> CodecError {
    let what = "the number of pieces with one hash";
    CodecError::TooLarge { what, got: PROBES_MAX + 1, limit: PROBES_MAX }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn counts_are_those_of_a_map_whatever_the_lengths_and_the_parts() {
        let split = Split::llama3();
        let (mut whole, mut parts) = (PieceCounts::default(), PieceCounts::default());
        let mut expected: HashMap<Vec<u8>, u64> = HashMap::new();
        for i in 0..3000usize {
            let text = format!("{} \0{}{}", i % 700, "ab".repeat(i % 13), "\u{e9}".repeat(i % 40));
            whole.add(&split, &text).unwrap();
            let mut part = PieceCounts::default();
            part.add(&split, &text).unwrap();
            if i % 100 == 0 {
                parts.absorb(std::mem::take(&mut part)).unwrap();
            }
            part.absorb(parts).unwrap();
            parts = part;
            let each = |text: &[u8], at: usize, end: usize| {
                *expected.entry(text[at..end].to_vec()).or_default() += 1;
            };
            split.each_piece(&text, each).unwrap();
        }
        for counts in [&whole, &parts] {
            let got: HashMap<Vec<u8>, u64> =
                counts.iter().map(|(piece, count)| (piece.to_vec(), count)).collect();
            assert_eq!(got.len(), counts.distinct());
            assert!(got == expected);
            assert_eq!(counts.pieces(), expected.values().sum::<u64>());
        }
    }
}
