//! Which merges an extension leaves alone, so that what was encoded well stays as it was.

use std::collections::HashSet;

use super::PieceCounts;
use crate::tokenizer::Tokenizer;

/// What keeps its ids when a vocabulary is extended.
#[derive(Clone, Copy, Debug)]
pub enum Guard<'a> {
    /// All text without letters beyond ASCII: English, code, numbers, with typographic marks,
    /// symbols and emoji. No new token is one that such a text could hold.
    English,
    /// The text that was counted here. No two tokens that stand side by side in it are merged.
    Text(&'a PieceCounts),
    /// Nothing.
    Nothing,
}

/// A guard at work on one vocabulary.
pub(super) enum Watch {
    English,
    /// Neighbours that stay apart.
    Pairs(HashSet<(u32, u32)>),
    Nothing,
}

impl Watch {
    pub(super) fn new(guard: Guard<'_>, base: &Tokenizer) -> Self {
        let pieces = match guard {
            Guard::English => return Self::English,
            Guard::Nothing => return Self::Nothing,
            Guard::Text(pieces) => pieces,
        };
        let (mut ids, mut pairs) = (Vec::new(), HashSet::new());
        base.with_work(|work| {
            for (piece, _) in pieces.iter() {
                ids.clear();
                base.encode_whole_piece(piece, work, &mut ids);
                pairs.extend(ids.windows(2).map(|two| (two[0].0, two[1].0)));
            }
        });
        Self::Pairs(pairs)
    }

    /// Whether the pair, which would make a token of these bytes, is to stay apart.
    pub(super) fn refuses(&self, left: u32, right: u32, merged: &[u8]) -> bool {
        match self {
            Self::English => may_be_english(merged),
            // Guarded text never changes, so only pairs of old tokens stand in it.
            Self::Pairs(pairs) => pairs.contains(&(left, right)),
            Self::Nothing => false,
        }
    }
}

/// Whether bytes are part of some text of ASCII, the signs of Latin-1 (U+0080 to U+00BF), symbols
/// (U+2000 to U+2BFF, U+FE00 to U+FE0F) and emoji (U+1F000 to U+1FFFF). They may begin and end
/// inside a character; where what is missing decides, the answer is yes.
fn may_be_english(bytes: &[u8]) -> bool {
    let inside = |b: &u8| b & 0xC0 == 0x80;
    let cut = bytes.iter().take(3).take_while(|b| inside(b)).count();
    let mut rest = &bytes[cut..];
    loop {
        rest = match rest {
            [] | [0xC2 | 0xE2 | 0xEF | 0xF0] | [0xF0, 0x9F] => return true,
            [0xE2, 0x80..=0xAF] | [0xEF, 0xB8] | [0xF0, 0x9F, _] => return true,
            [..=0x7F, rest @ ..] | [0xC2, _, rest @ ..] => rest,
            [0xE2, 0x80..=0xAF, _, rest @ ..] | [0xEF, 0xB8, 0x80..=0x8F, rest @ ..] => rest,
            [0xF0, 0x9F, _, _, rest @ ..] => rest,
            _ => return false,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_an_english_text_is_known_as_such_and_other_letters_are_not() {
        let text = "\u{201c}Don\u{2019}t\u{201d} \u{2014} \u{a3}5, 20\u{b0}C \u{2192} \u{20ac}6\u{2122} \u{2500} \u{1f600}\u{fe0f}\0";
        let bytes = text.as_bytes();
        for from in 0..bytes.len() {
            for to in from..=bytes.len() {
                assert!(may_be_english(&bytes[from..to]), "{:x?}", &bytes[from..to]);
            }
        }
        for other in
            ["caf\u{e9}", "\u{e9}", "\u{434}", "\u{3001}", "\u{e01}", "\u{915}", "a\u{300}"]
        {
            assert!(!may_be_english(other.as_bytes()), "{other}");
        }
        assert!(!may_be_english(&[0x80; 4]), "no character has four bytes inside");
    }
}
