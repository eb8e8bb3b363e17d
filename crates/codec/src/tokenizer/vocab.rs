//! The list of tokens: bytes and kind of each id, and the id of each byte string.

use crate::CodecError;

use super::bpe::{IDS_MAX, NONE};
use super::hash::hash_bytes;
use super::{TokenId, TokenKind};

/// The longest token; published ones have at most 256 bytes. Keeps building time linear.
pub(super) const TOKEN_BYTES_MAX: usize = 1024;
/// Longest run of occupied slots met while building; only chosen collisions come near.
const PROBES_MAX: usize = 4096;

/// Tokens by id, and ids of the [`TokenKind::Normal`] tokens by bytes.
pub(super) struct Vocab {
    bytes: Vec<u8>,
    /// Token `i` is `bytes[starts[i]..starts[i + 1]]`.
    starts: Vec<u32>,
    kinds: Vec<TokenKind>,
    /// Tokens under 16 bytes padded with zeros, their length last (16 for the others), so that
    /// decoding copies a fixed number of bytes.
    short: Vec<[u8; 16]>,
    /// Open addressing: high half of the hash, and the id (or [`NONE`]).
    slots: Vec<(u32, u32)>,
}

impl Vocab {
    /// Takes the tokens in the order of their ids. Where two normal tokens have the same bytes,
    /// the later one is found, as in llama.cpp.
    ///
    /// Errors if there are too many tokens, too long ones, or hashes were made to collide.
    pub(super) fn new<B: AsRef<[u8]>>(tokens: &[(B, TokenKind)]) -> Result<Self, CodecError> {
        if tokens.len() >= IDS_MAX {
            let (got, limit) = (tokens.len(), IDS_MAX - 1);
            return Err(CodecError::TooLarge { what: "the vocabulary", got, limit });
        }
        let mut vocab = Self {
            bytes: Vec::with_capacity(tokens.iter().map(|t| t.0.as_ref().len()).sum()),
            starts: vec![0],
            kinds: tokens.iter().map(|t| t.1).collect(),
            short: tokens.iter().map(|t| short(t.0.as_ref())).collect(),
            slots: vec![(0, NONE); (tokens.len() * 2).next_power_of_two().max(16)],
        };
        for (id, (token, kind)) in tokens.iter().enumerate() {
            let token = token.as_ref();
            if token.len() > TOKEN_BYTES_MAX {
                let (what, got) = ("a token's length in bytes", token.len());
                return Err(CodecError::TooLarge { what, got, limit: TOKEN_BYTES_MAX });
            }
            vocab.bytes.extend_from_slice(token);
            vocab.starts.push(vocab.bytes.len() as u32);
            if *kind == TokenKind::Normal && !token.is_empty() {
                vocab.index(id as u32)?;
            }
        }
        Ok(vocab)
    }

    fn index(&mut self, id: u32) -> Result<(), CodecError> {
        let hash = hash_bytes(self.bytes(id));
        let mask = self.slots.len() - 1;
        let mut slot = hash as usize & mask;
        for _ in 0..PROBES_MAX {
            let (tag, other) = self.slots[slot];
            let same = tag == (hash >> 32) as u32;
            if other == NONE || same && self.bytes(other) == self.bytes(id) {
                self.slots[slot] = ((hash >> 32) as u32, id);
                return Ok(());
            }
            slot = (slot + 1) & mask;
        }
        let what = "the number of tokens with one hash";
        Err(CodecError::TooLarge { what, got: PROBES_MAX + 1, limit: PROBES_MAX })
    }

    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// The bytes of a token. Panics if `id` is outside the vocabulary.
    #[inline]
    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        &self.bytes[self.starts[id] as usize..self.starts[id + 1] as usize]
    }

    /// Appends the bytes of a token. Panics if `id` is outside the vocabulary.
    #[inline]
    pub(super) fn push_bytes(&self, id: u32, out: &mut Vec<u8>) {
        let short = &self.short[id as usize];
        let len = usize::from(short[15]);
        if len < 16 {
            let end = out.len() + len;
            out.extend_from_slice(short);
            out.truncate(end);
        } else {
            out.extend_from_slice(self.bytes(id));
        }
    }

    pub(super) fn kind(&self, id: u32) -> TokenKind {
        self.kinds[id as usize]
    }

    /// The normal token with these bytes.
    #[inline]
    pub(super) fn find(&self, bytes: &[u8]) -> Option<u32> {
        let hash = hash_bytes(bytes);
        let mask = self.slots.len() - 1;
        let mut slot = hash as usize & mask;
        let short = short(bytes);
        // A short token is its entry: one look into memory in place of two, one after the other.
        let is = |id: u32| self.short[id as usize] == short;
        loop {
            let (tag, id) = self.slots[slot];
            if id == NONE {
                return None;
            }
            let same = tag == (hash >> 32) as u32 && is(id);
            if same && (bytes.len() < 16 || self.bytes(id) == bytes) {
                return Some(id);
            }
            slot = (slot + 1) & mask;
        }
    }

    /// The ids with their bytes and kinds.
    pub(super) fn iter(&self) -> impl Iterator<Item = (TokenId, &[u8], TokenKind)> {
        (0..self.len() as u32).map(|id| (TokenId(id), self.bytes(id), self.kind(id)))
    }
}

fn short(token: &[u8]) -> [u8; 16] {
    let mut short = [0; 16];
    short[15] = token.len().min(16) as u8;
    if token.len() < 16 {
        short[..token.len()].copy_from_slice(token);
    }
    short
}
