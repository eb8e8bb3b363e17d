#!/usr/bin/env python3
"""Write crates/codec/src/tokenizer/unicode_ranges.rs: letters, numbers and white space of Unicode 16.

    pip install unicodedata2==16.0.0
    python3 scripts/make-unicode-classes.py > crates/codec/src/tokenizer/unicode_ranges.rs

Unicode 16 is what the regex engines of tiktoken 0.14.0 and tokenizers 0.23.3 use; later versions
add letters that those references do not know.
"""
import unicodedata2 as unicode

# White_Space of PropList.txt, what \s means in both engines.
SPACE = {*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B),
         0x2028, 0x2029, 0x202F, 0x205F, 0x3000}
OTHER, LETTER, NUMBER, WHITE = range(4)


def class_of(code):
    if code in SPACE:
        return WHITE
    return {"L": LETTER, "N": NUMBER}.get(unicode.category(chr(code))[0], OTHER)


assert unicode.unidata_version == "16.0.0"
borders, last = [], None
for code in range(0x110000):
    kind = class_of(code)
    if kind != last:
        borders.append(code << 2 | kind)
        last = kind
print("//! Letters, numbers and white space of Unicode 16.0, as borders between runs of one class.")
print("//! Made by scripts/make-unicode-classes.py; do not edit.")
print()
print("/// Where a run begins (code point, times four) plus its class: 0 other, 1 letter, 2 number,")
print("/// 3 white space. A run ends where the next begins.")
print("#[rustfmt::skip]")
print(f"pub(super) const BORDERS: [u32; {len(borders)}] = [")
for at in range(0, len(borders), 12):
    print("    " + " ".join(f"{b:#x}," for b in borders[at:at + 12]))
print("];")
