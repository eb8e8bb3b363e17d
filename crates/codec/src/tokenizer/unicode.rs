//! Which characters are letters, numbers or white space, over text that may hold broken UTF-8.

use std::sync::LazyLock;

use super::unicode_ranges::BORDERS;

/// What a split pattern asks of a character: `\p{L}`, `\p{N}`, `\s`, or none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Other,
    Letter,
    Number,
    Space,
}

use Class::{Letter, Number, Other, Space};

/// Classes of the ASCII bytes; every byte above stands as `Other`.
pub(super) static ASCII: [Class; 256] = {
    let mut table = [Other; 256];
    let mut b = 0;
    while b < 128 {
        table[b] = match b as u8 {
            b'a'..=b'z' | b'A'..=b'Z' => Letter,
            b'0'..=b'9' => Number,
            b' ' | b'\t'..=b'\r' => Space,
            _ => Other,
        };
        b += 1;
    }
    table
};

/// One class for each code point, spread out from the borders at first use (0.1 ms; only the
/// pages that texts touch stay in memory for long).
static CLASSES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut table = vec![0u8; 0x11_0000];
    for (i, border) in BORDERS.iter().enumerate() {
        let class = (border & 3) as u8;
        let start = (border >> 2) as usize;
        let end = BORDERS.get(i + 1).map_or(table.len(), |next| (next >> 2) as usize);
        if class != 0 {
            table[start..end].fill(class);
        }
    }
    table
});

/// The class of the character at `at`, and how many bytes it has. A byte that begins no
/// well-formed character is `Other` by itself.
#[inline]
pub(super) fn class_at(text: &[u8], at: usize) -> (Class, usize) {
    let byte = text[at];
    if byte < 0x80 { (ASCII[byte as usize], 1) } else { wide_class_at(text, at) }
}

#[inline(never)]
fn wide_class_at(text: &[u8], at: usize) -> (Class, usize) {
    let (code, bytes) = decode(&text[at..]);
    let class = match code.map(|code| CLASSES[code as usize]) {
        Some(1) => Letter,
        Some(2) => Number,
        Some(3) => Space,
        _ => Other,
    };
    (class, bytes)
}

/// The code point that `text` begins with, if it is well formed, and its length in bytes (one
/// if it is not). `text` must not be empty.
#[inline]
pub(super) fn decode(text: &[u8]) -> (Option<u32>, usize) {
    let tail = |i: usize| text.get(i).filter(|&&b| b & 0xC0 == 0x80).map(|&b| u32::from(b & 0x3F));
    let first = u32::from(text[0]);
    let code = match text[0] {
        0..=0x7F => Some((first, 1)),
        0xC2..=0xDF => tail(1).map(|a| ((first & 0x1F) << 6 | a, 2)),
        0xE0..=0xEF => tail(1)
            .zip(tail(2))
            .map(|(a, b)| ((first & 0x0F) << 12 | a << 6 | b, 3))
            .filter(|&(c, _)| c >= 0x800 && !(0xD800..0xE000).contains(&c)),
        0xF0..=0xF4 => tail(1)
            .zip(tail(2).zip(tail(3)))
            .map(|(a, (b, c))| ((first & 0x07) << 18 | a << 12 | b << 6 | c, 4))
            .filter(|&(c, _)| (0x1_0000..0x11_0000).contains(&c)),
        _ => None,
    };
    code.map_or((None, 1), |(code, bytes)| (Some(code), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_agree_with_the_standard_library_where_the_versions_do() {
        // Rust's own tables may be of a later Unicode; none of these blocks has changed.
        for code in (0..0x3000u32).chain(0x4E00..0x9FFF).filter(|c| !(0x800..0x900).contains(c)) {
            let Some(c) = char::from_u32(code) else { continue };
            let mut bytes = [0; 4];
            let (class, n) = class_at(c.encode_utf8(&mut bytes).as_bytes(), 0);
            assert_eq!(n, c.len_utf8());
            assert_eq!(class == Space, c.is_whitespace(), "{code:#x}");
            assert_eq!(class == Number, c.is_numeric() && !c.is_alphabetic() || class == Number);
        }
    }

    #[test]
    fn decode_accepts_what_the_standard_library_accepts() {
        for first in 0..=255u8 {
            for second in [0, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF] {
                let text = [first, second, 0x80, 0xBF];
                let (code, n) = decode(&text);
                let expected = (1..=4).find_map(|n| std::str::from_utf8(&text[..n]).ok());
                match expected {
                    Some(s) => {
                        assert_eq!((code, n), (s.chars().next().map(|c| c as u32), s.len()));
                    }
                    None => assert_eq!((code, n), (None, 1)),
                }
            }
        }
    }
}
