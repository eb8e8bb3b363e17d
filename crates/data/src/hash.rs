//! SHA-256 of contents, and the identity of a tokenizer.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use herd_codec::{TokenId, Tokenizer};
use sha2::{Digest, Sha256};

use crate::DataError;

/// A SHA-256; written as 64 hexadecimal digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The hash of some bytes.
    pub fn of(bytes: &[u8]) -> Hash {
        Hash(Sha256::digest(bytes).into())
    }

    /// The hash of a file, read piece by piece.
    pub fn of_file(path: &Path) -> Result<Hash, DataError> {
        let mut file = File::open(path).map_err(DataError::io("open", path))?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 18];
        loop {
            match file.read(&mut buffer).map_err(DataError::io("read", path))? {
                0 => return Ok(Hash(hasher.finalize().into())),
                n => hasher.update(&buffer[..n]),
            }
        }
    }

    /// What makes two tokenizers give the same ids: vocabulary, merges, split, added tokens,
    /// normal form. Not the container, nor which tokens begin and end a text.
    pub fn of_tokenizer(tokenizer: &Tokenizer) -> Hash {
        let json = tokenizer.to_tokenizer_json().ok();
        let json = json.and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
        if let Some(json) = json {
            let parts = ["normalizer", "pre_tokenizer", "added_tokens", "model"];
            let parts = parts.map(|name| json.get(name).cloned().unwrap_or_default());
            return Hash::of(&serde_json::to_vec(&parts).expect("JSON values serialise"));
        }
        // Merges that the file format cannot name: what the ids stand for, and how a text is cut.
        let mut hasher = Sha256::new();
        hasher.update(format!("{tokenizer:?}"));
        for id in (0..tokenizer.vocab_size() as u32).map(TokenId) {
            let bytes = tokenizer.token_bytes(id);
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
            hasher.update([tokenizer.kind(id) as u8]);
        }
        Hash(hasher.finalize().into())
    }

    /// The first eight bytes as a number, even over all 64-bit numbers.
    pub fn word(&self) -> u64 {
        u64::from_le_bytes(self.0[..8].try_into().expect("eight of 32 bytes"))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Hash {
    type Err = String;

    fn from_str(text: &str) -> Result<Hash, String> {
        let wrong = || format!("{text:?} is no sha256 of 64 hexadecimal digits");
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut hash = Hash::default();
        for (byte, digits) in hash.0.iter_mut().zip(text.as_bytes().as_chunks::<2>().0) {
            let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(hash)
    }
}

impl serde::Serialize for Hash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Hash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Hash, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_read_as_it_is_written() {
        let hash = Hash::of(b"abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash.to_string(), text);
        assert_eq!(text.parse(), Ok(hash));
        for wrong in ["", "ba78", &text[1..], &text.replace('f', "g"), &text.replace("ba", "é")] {
            assert!(wrong.parse::<Hash>().is_err(), "{wrong:?}");
        }
    }
}
