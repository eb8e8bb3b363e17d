//! Cutting text into the pieces that BPE works on, by hand-written state machines over bytes.
//!
//! Each function gives the end of the piece that begins at `at`, exactly as the leftmost-first
//! regex in its comment would. ASCII letters are found eight at a time.

use super::unicode::Class::{Letter, Number, Other, Space};
use super::unicode::class_at;

/// The pattern of Llama 3 with `DIGITS` = 3, and of Qwen 2 with `DIGITS` = 1.
pub(super) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The same with single digits.
pub(super) const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The pattern of GPT-2.
pub(super) const GPT2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// End of the piece at `at` under [`LLAMA3`], with at most `DIGITS` numbers in a piece.
#[inline]
pub(super) fn llama3<const DIGITS: usize>(text: &[u8], at: usize) -> usize {
    // Most pieces are an ASCII word of up to eight letters with something in front.
    let before = LETTERS_AFTER[text[at] as usize];
    if let Some(eight) = text.get(at + before..).and_then(|text| text.first_chunk::<8>()) {
        let n = leading_letters(*eight);
        let end = at + before + n;
        if n > 0 {
            return if n < 8 && text[end] < 0x80 { end } else { letters_end(text, end) };
        }
    }
    llama3_ascii::<DIGITS>(text, at)
}

/// What a byte can be, as far as pieces of ASCII text go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Letter,
    Digit,
    Blank,
    Newline,
    /// Punctuation and controls, but for the apostrophe.
    Mark,
    /// What needs a closer look: apostrophes, tabs and kin, bytes above ASCII.
    Closer,
}

static KINDS: [Kind; 256] = {
    let mut table = [Kind::Closer; 256];
    let mut b = 0;
    while b < 128 {
        table[b] = match b as u8 {
            b'a'..=b'z' | b'A'..=b'Z' => Kind::Letter,
            b'0'..=b'9' => Kind::Digit,
            b' ' => Kind::Blank,
            b'\r' | b'\n' => Kind::Newline,
            b'\'' | b'\t' | 0x0B | 0x0C => Kind::Closer,
            _ => Kind::Mark,
        };
        b += 1;
    }
    table
};

/// [`llama3`] for pieces that are no short words: marks, numbers and white space of ASCII.
fn llama3_ascii<const DIGITS: usize>(text: &[u8], at: usize) -> usize {
    let kind = |at: usize| text.get(at).map_or(Kind::Closer, |&b| KINDS[b as usize]);
    let marks_from = match (kind(at), kind(at + 1)) {
        (Kind::Digit, _) => {
            let mut end = at + 1;
            while end < at + DIGITS && kind(end) == Kind::Digit {
                end += 1;
            }
            // A number beyond ASCII may follow.
            if end < at + DIGITS && text.get(end).is_some_and(|&b| b >= 0x80) {
                return llama3_any::<DIGITS>(text, at);
            }
            return end;
        }
        (Kind::Blank, Kind::Digit) => return at + 1,
        (Kind::Blank, Kind::Blank | Kind::Newline) | (Kind::Newline, _) => {
            return space_with_newlines(text, at);
        }
        (Kind::Blank, Kind::Mark) => at + 2,
        (Kind::Mark, Kind::Mark | Kind::Newline | Kind::Blank | Kind::Digit) => at + 1,
        _ => return llama3_any::<DIGITS>(text, at),
    };
    let mut end = marks_from;
    while kind(end) == Kind::Mark {
        end += 1;
    }
    match kind(end) {
        Kind::Letter | Kind::Digit | Kind::Blank | Kind::Mark => end,
        Kind::Newline => newlines_end(text, end),
        Kind::Closer => newlines_end(text, others_end(text, end)),
    }
}

/// How many bytes may stand before the letters of a word that begins with this byte; so many
/// that no word fits where it takes a closer look.
static LETTERS_AFTER: [usize; 256] = {
    let mut table = [usize::MAX >> 1; 256];
    let mut b = 0;
    while b < 128 {
        table[b] = match b as u8 {
            b'a'..=b'z' | b'A'..=b'Z' => 0,
            b'0'..=b'9' | b'\r' | b'\n' | b'\'' => usize::MAX >> 1,
            _ => 1,
        };
        b += 1;
    }
    table
};

/// [`llama3`] without the short cut.
fn llama3_any<const DIGITS: usize>(text: &[u8], at: usize) -> usize {
    let (class, bytes) = class_at(text, at);
    let first = text[at];
    let after = at + bytes;
    match class {
        Letter => return letters_end(text, after),
        Number => return numbers_end(text, after, DIGITS - 1),
        Other | Space => {}
    }
    if first == b'\''
        && let Some(end) = contraction_any_case(text, at)
    {
        return end;
    }
    if after == text.len() {
        return after;
    }
    if first != b'\r' && first != b'\n' {
        let (next, next_bytes) = class_at(text, after);
        if next == Letter {
            return letters_end(text, after + next_bytes);
        }
        if class == Other {
            return newlines_end(text, others_end(text, after));
        }
        if first == b' ' && next == Other {
            return newlines_end(text, others_end(text, after + next_bytes));
        }
    }
    space_with_newlines(text, at)
}

/// End of the piece at `at` under [`GPT2`].
#[inline]
pub(super) fn gpt2(text: &[u8], at: usize) -> usize {
    gpt2_family::<false>(text, at)
}

/// End of the piece at `at` where every `\p{N}` is first cut out alone and [`GPT2`] then cuts
/// what lies between (SmolLM, StarCoder, Command R).
#[inline]
pub(super) fn gpt2_single_digits(text: &[u8], at: usize) -> usize {
    gpt2_family::<true>(text, at)
}

#[inline]
fn gpt2_family<const SINGLE: bool>(text: &[u8], at: usize) -> usize {
    let (mut class, mut bytes) = class_at(text, at);
    let first = text[at];
    if first == b'\''
        && let Some(end) = contraction(text, at)
    {
        return end;
    }
    let mut after = at + bytes;
    if first == b' ' && after < text.len() {
        let (next, next_bytes) = class_at(text, after);
        if next != Space && !(SINGLE && next == Number) {
            (class, bytes) = (next, next_bytes);
            after += bytes;
        }
    }
    match class {
        Letter => letters_end(text, after),
        Number if SINGLE => after,
        Number => numbers_end(text, after, usize::MAX),
        Other => others_end(text, after),
        Space => {
            let end = spaces_end(text, at);
            let last = last_begin(text, end);
            // Where a number has been cut out, the run stands at the end of its text.
            let at_end = end == text.len() || SINGLE && class_at(text, end).0 == Number;
            if at_end || last == at { end } else { last }
        }
    }
}

/// End of a piece that is a run of spaces and the word after it, for vocabularies whose pieces
/// hold spaces only in front.
#[inline]
pub(super) fn spaces_then_word(text: &[u8], at: usize) -> usize {
    let spaces = text[at..].iter().take_while(|&&b| b == b' ').count();
    find_space(text, at + spaces)
}

/// Position of the first space from `at` on, or the length of the text.
#[inline]
fn find_space(text: &[u8], mut at: usize) -> usize {
    while let Some(eight) = text[at..].first_chunk::<8>() {
        let x = u64::from_le_bytes(*eight) ^ (ONES * b' ' as u64);
        let zero = x.wrapping_sub(ONES) & !x & HIGH;
        if zero != 0 {
            return at + (zero.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    text[at..].iter().position(|&b| b == b' ').map_or(text.len(), |i| at + i)
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// How many of eight bytes, from the first on, are ASCII letters.
#[inline]
fn leading_letters(eight: [u8; 8]) -> usize {
    let x = u64::from_le_bytes(eight);
    // With the high bits off, no byte's sum carries into the next; 0x20 folds upper case.
    let folded = (x | (ONES * 0x20)) & !HIGH;
    let from_a = folded + ONES * (0x80 - b'a' as u64);
    let past_z = folded + ONES * (0x7F - b'z' as u64);
    let letters = from_a & !past_z & !x & HIGH;
    ((!letters & HIGH).trailing_zeros() / 8) as usize
}

/// End of `\p{L}*` from `at`.
#[inline]
fn letters_end(text: &[u8], mut at: usize) -> usize {
    while let Some(eight) = text[at..].first_chunk::<8>() {
        let n = leading_letters(*eight);
        at += n;
        if n < 8 {
            if text[at] < 0x80 {
                return at;
            }
            break;
        }
    }
    class_end::<{ Letter as u8 }>(text, at)
}

/// End of the run of one class from `at`.
#[inline]
fn class_end<const CLASS: u8>(text: &[u8], mut at: usize) -> usize {
    while at < text.len() {
        let (class, bytes) = class_at(text, at);
        if class as u8 != CLASS {
            break;
        }
        at += bytes;
    }
    at
}

/// End of `[^\s\p{L}\p{N}]*` from `at`.
#[inline]
fn others_end(text: &[u8], at: usize) -> usize {
    class_end::<{ Other as u8 }>(text, at)
}

/// End of `\p{N}{0,most}` from `at`.
#[inline]
fn numbers_end(text: &[u8], mut at: usize, most: usize) -> usize {
    for _ in 0..most {
        if at == text.len() {
            break;
        }
        let (class, bytes) = class_at(text, at);
        if class != Number {
            break;
        }
        at += bytes;
    }
    at
}

/// End of `[\r\n]*` from `at`.
#[inline]
fn newlines_end(text: &[u8], mut at: usize) -> usize {
    while at < text.len() && (text[at] == b'\n' || text[at] == b'\r') {
        at += 1;
    }
    at
}

/// End of the run of white space from `at`.
#[inline]
fn spaces_end(text: &[u8], mut at: usize) -> usize {
    while at < text.len() {
        // Indentation comes in eights of spaces.
        if text[at..].first_chunk() == Some(b"        ") {
            at += 8;
            continue;
        }
        let (class, bytes) = class_at(text, at);
        if class != Space {
            break;
        }
        at += bytes;
    }
    at
}

/// Where the character before `end` begins, in well-formed text.
#[inline]
fn last_begin(text: &[u8], end: usize) -> usize {
    let mut at = end - 1;
    while text[at] & 0xC0 == 0x80 {
        at -= 1;
    }
    at
}

/// `\s*[\r\n]+|\s+(?!\S)|\s+` at white space.
fn space_with_newlines(text: &[u8], at: usize) -> usize {
    let end = spaces_end(text, at);
    if let Some(i) = text[at..end].iter().rposition(|&b| b == b'\n' || b == b'\r') {
        return at + i + 1;
    }
    if end == text.len() {
        return end;
    }
    let last = last_begin(text, end);
    if last == at { end } else { last }
}

/// `'s|'t|'re|'ve|'m|'ll|'d` at an apostrophe.
#[inline]
fn contraction(text: &[u8], at: usize) -> Option<usize> {
    let pair = |second: u8| text.get(at + 2).is_some_and(|&b| b == second).then_some(at + 3);
    match text.get(at + 1)? {
        b's' | b't' | b'm' | b'd' => Some(at + 2),
        b'r' | b'v' => pair(b'e'),
        b'l' => pair(b'l'),
        _ => None,
    }
}

/// The same in any case. Under Unicode's folding the long s (U+017F) counts as an s.
#[inline]
fn contraction_any_case(text: &[u8], at: usize) -> Option<usize> {
    let pair = |second: u8| text.get(at + 2).is_some_and(|&b| b | 0x20 == second).then_some(at + 3);
    match text.get(at + 1)? {
        b's' | b't' | b'm' | b'd' | b'S' | b'T' | b'M' | b'D' => Some(at + 2),
        b'r' | b'v' | b'R' | b'V' => pair(b'e'),
        b'l' | b'L' => pair(b'l'),
        0xC5 if text.get(at + 2) == Some(&0xBF) => Some(at + 3),
        _ => None,
    }
}
