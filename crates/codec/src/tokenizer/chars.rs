//! Vocabularies over characters with byte fallback: the SentencePiece BPE of Llama 1 and 2.
//!
//! A space is U+2581 in the files and a plain space in memory, so that the bytes of a token are
//! the bytes it decodes to. Consequence: a U+2581 in a text comes back as a space, as it does
//! from SentencePiece.

use std::collections::HashMap;

use super::bpe::NONE;
use super::unicode::decode;
use super::vocab::Vocab;
use super::{TokenId, TokenKind};

/// U+2581, the visible space of SentencePiece.
pub(super) const VISIBLE_SPACE: &str = "\u{2581}";

/// When a space is put in front of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prefix {
    Never,
    /// Before the text and before what follows a special token.
    Always,
    /// The same, unless a space stands there already.
    UnlessSpace,
    /// Only before the whole text, unless a space stands there already.
    FirstUnlessSpace,
}

/// How characters become ids before merging, and what stands for those without one.
pub(super) struct Chars {
    pub(super) prefix: Prefix,
    /// Byte tokens, for characters outside the vocabulary; [`NONE`] where there is none.
    pub(super) byte_ids: [u32; 256],
    pub(super) unk: Option<u32>,
    /// One unknown token for a run of unknown characters.
    pub(super) fuse_unk: bool,
    /// Ids of single characters: of pieces, or beyond the vocabulary for characters that occur
    /// only inside pieces.
    ids: HashMap<u32, u32>,
    ascii: [u32; 128],
    /// The characters with ids beyond the vocabulary.
    beyond: Vec<u32>,
    vocab_size: u32,
}

impl Chars {
    pub(super) fn new(vocab: &Vocab, prefix: Prefix, unk: Option<u32>, fuse_unk: bool) -> Self {
        let mut chars = Self {
            prefix,
            byte_ids: [NONE; 256],
            unk,
            fuse_unk,
            ids: HashMap::new(),
            ascii: [NONE; 128],
            beyond: Vec::new(),
            vocab_size: vocab.len() as u32,
        };
        for (id, bytes, kind) in vocab.iter() {
            match (kind, bytes) {
                (TokenKind::Byte, &[byte]) => chars.byte_ids[byte as usize] = id.0,
                (TokenKind::Normal, _) => chars.learn(vocab, bytes),
                _ => {}
            }
        }
        for code in 0..128 {
            chars.ascii[code as usize] = chars.ids.get(&code).copied().unwrap_or(NONE);
        }
        chars
    }

    /// Gives each character of a piece its id.
    fn learn(&mut self, vocab: &Vocab, piece: &[u8]) {
        let mut at = 0;
        while at < piece.len() {
            let (code, bytes) = decode(&piece[at..]);
            if let Some(code) = code
                && !self.ids.contains_key(&code)
            {
                let id = vocab.find(&piece[at..at + bytes]).unwrap_or_else(|| {
                    self.beyond.push(code);
                    self.vocab_size + self.beyond.len() as u32 - 1
                });
                self.ids.insert(code, id);
            }
            at += bytes;
        }
    }

    /// The id to start merging with, if the character occurs in the vocabulary.
    #[inline]
    pub(super) fn id_of(&self, code: u32) -> Option<u32> {
        match self.ascii.get(code as usize) {
            Some(&NONE) => None,
            Some(&id) => Some(id),
            None => self.ids.get(&code).copied(),
        }
    }

    /// The character behind an id beyond the vocabulary.
    pub(super) fn beyond(&self, id: u32) -> Option<char> {
        let at = id.checked_sub(self.vocab_size)?;
        self.beyond.get(at as usize).and_then(|&code| char::from_u32(code))
    }

    /// Bytes without a token, whether or not some character has one.
    pub(super) fn missing_bytes(&self) -> Vec<u8> {
        (0..=255).filter(|&byte| self.byte_ids[usize::from(byte)] == NONE).collect()
    }

    /// Whether some run of characters becomes a single unknown token.
    pub(super) fn fuses_unknown(&self) -> bool {
        self.fuse_unk && self.unk.is_some() && self.byte_ids.contains(&NONE)
    }

    /// How many ids lie beyond the vocabulary.
    pub(super) fn beyond_count(&self) -> usize {
        self.beyond.len()
    }

    /// Appends byte tokens for `bytes`, or the unknown token if some byte has none.
    pub(super) fn spell(&self, bytes: &[u8], ids: &mut Vec<TokenId>) {
        if bytes.iter().all(|&b| self.byte_ids[b as usize] != NONE) {
            ids.extend(bytes.iter().map(|&b| TokenId(self.byte_ids[b as usize])));
        } else if let Some(unk) = self.unk.map(TokenId)
            && !(self.fuse_unk && ids.last() == Some(&unk))
        {
            ids.push(unk);
        }
    }

    /// Whether a text that begins with `text` gets a space in front. `fresh` texts begin the
    /// whole or follow a special token; `whole` ones begin the whole.
    pub(super) fn wants_space(&self, text: &[u8], fresh: bool, whole: bool) -> bool {
        let has_space = text.starts_with(b" ") || text.starts_with(VISIBLE_SPACE.as_bytes());
        match self.prefix {
            Prefix::Never => false,
            Prefix::Always => fresh && !text.is_empty(),
            Prefix::UnlessSpace => fresh && !text.is_empty() && !has_space,
            Prefix::FirstUnlessSpace => whole && !text.is_empty() && !has_space,
        }
    }
}

/// Appends `text` with each U+2581 as a space.
pub(super) fn push_with_spaces(buffer: &mut Vec<u8>, text: &[u8]) {
    let visible = VISIBLE_SPACE.as_bytes();
    let mut rest = text;
    while let Some(at) = rest.iter().position(|&b| b == visible[0]) {
        if rest[at..].starts_with(visible) {
            buffer.extend_from_slice(&rest[..at]);
            buffer.push(b' ');
            rest = &rest[at + visible.len()..];
        } else {
            buffer.extend_from_slice(&rest[..=at]);
            rest = &rest[at + 1..];
        }
    }
    buffer.extend_from_slice(rest);
}
