//! How well a vocabulary fits a text.

use super::{TokenId, Tokenizer};

/// What a text comes to in tokens. Sums over texts; the ratios follow from them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compression {
    /// Bytes of UTF-8.
    pub bytes: u64,
    /// Characters.
    pub chars: u64,
    /// Words: what stands between white space.
    pub words: u64,
    /// Tokens, without begin or end of text.
    pub tokens: u64,
    /// Tokens of a single byte.
    pub single_bytes: u64,
}

impl Compression {
    /// Adds a text; its ids come back in `ids`.
    pub fn add(&mut self, tokenizer: &Tokenizer, text: &str, ids: &mut Vec<TokenId>) {
        ids.clear();
        tokenizer.encode_into(text, ids);
        let single = ids.iter().filter(|&&id| tokenizer.token_bytes(id).len() == 1).count();
        *self += Self {
            bytes: text.len() as u64,
            chars: text.chars().count() as u64,
            words: text.split_whitespace().count() as u64,
            tokens: ids.len() as u64,
            single_bytes: single as u64,
        };
    }

    /// Bytes of text in a token; 0 where there is no token.
    pub fn bytes_per_token(&self) -> f64 {
        ratio(self.bytes, self.tokens)
    }

    /// Characters in a token, the measure of arXiv 2407.21783, section 3.2.
    pub fn chars_per_token(&self) -> f64 {
        ratio(self.chars, self.tokens)
    }

    /// Tokens that a word takes (fertility). It says little of languages without spaces.
    pub fn tokens_per_word(&self) -> f64 {
        ratio(self.tokens, self.words)
    }

    /// Share of the tokens that are one byte.
    pub fn single_byte_share(&self) -> f64 {
        ratio(self.single_bytes, self.tokens)
    }
}

impl std::ops::AddAssign for Compression {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.chars += other.chars;
        self.words += other.words;
        self.tokens += other.tokens;
        self.single_bytes += other.single_bytes;
    }
}

fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}
