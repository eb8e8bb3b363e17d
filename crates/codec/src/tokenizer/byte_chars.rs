//! The characters by which byte-level vocabularies are written in JSON and GGUF files.
//!
//! Printable Latin-1 bytes stand for themselves; the others, in order, for U+0100 and up. The
//! space is "Ġ", the newline "Ċ".

/// Code point for each byte, and bytes for the code points below 324.
const fn tables() -> ([u32; 256], [i16; 324]) {
    let (mut code_of, mut byte_of) = ([0; 256], [-1i16; 324]);
    let (mut byte, mut next) = (0, 256);
    while byte < 256 {
        let code = match byte {
            0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => byte,
            _ => {
                next += 1;
                next - 1
            }
        };
        code_of[byte] = code as u32;
        byte_of[code] = byte as i16;
        byte += 1;
    }
    (code_of, byte_of)
}

static TABLES: ([u32; 256], [i16; 324]) = tables();

/// The bytes behind a written token, or `None` if some character stands for no byte.
pub(super) fn to_bytes(written: &str) -> Option<Vec<u8>> {
    let byte = |c: char| u8::try_from(*TABLES.1.get(c as usize)?).ok();
    written.chars().map(byte).collect()
}

/// How a token is written.
pub(super) fn from_bytes(bytes: &[u8]) -> String {
    let code = |&b: &u8| char::from_u32(TABLES.0[b as usize]);
    bytes.iter().filter_map(code).collect()
}

/// The bytes in the order of their characters, which is that of the first ids of GPT-2's and Llama
/// 3's vocabularies: printable ASCII first, "!" is 0.
pub(super) fn in_written_order() -> [u8; 256] {
    let mut bytes: [u8; 256] = std::array::from_fn(|byte| byte as u8);
    bytes.sort_by_key(|&byte| TABLES.0[usize::from(byte)]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_written_as_one_character_and_read_back() {
        for byte in 0..=255u8 {
            let written = from_bytes(&[byte]);
            assert_eq!(written.chars().count(), 1);
            assert_eq!(to_bytes(&written), Some(vec![byte]));
        }
        assert_eq!(from_bytes(b" a\n"), "ĠaĊ");
        assert_eq!(to_bytes("a b"), None);
    }
}
