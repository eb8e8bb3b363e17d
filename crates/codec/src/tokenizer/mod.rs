//! Tokenizers: text to token ids and back.
//!
//! | file | brings |
//! |---|---|
//! | `tiktoken` | Meta's `tokenizer.model` of Llama 3: ranks of byte strings |
//! | `json` | Hugging Face's `tokenizer.json` |
//! | `gguf` | the vocabulary inside a GGUF file |
//! | `sentencepiece` | `tokenizer.model` of Llama 1 and 2 |
//!
//! All become one [`Tokenizer`]: recognise added tokens, cut the rest into pieces (`split`,
//! `steps`), look each piece up (`cache`), merge where it is new (`bpe`). [`train`] makes new ones.

mod added;
mod batch;
mod bpe;
mod build;
mod byte_chars;
mod cache;
mod chars;
mod compression;
mod encode;
mod gguf;
mod hash;
mod infill;
mod json;
mod json_write;
mod sentencepiece;
mod specials;
mod split;
mod steps;
mod stream;
mod tiktoken;
pub mod train;
mod unicode;
mod unicode_ranges;
mod vocab;

use std::sync::Mutex;

pub use added::AddedToken;
pub use batch::Batch;
pub use compression::Compression;
pub use gguf::GgufVocab;
pub use infill::InfillOrder;
pub use specials::{SpecialSet, SpecialTable, Specials};
pub use stream::StreamDecoder;

use added::AddedTokens;
use bpe::Merges;
use build::MergeOrder;
use cache::Cache;
use chars::Chars;
use encode::Memory;
use steps::Splitter;
use vocab::Vocab;

/// The number of a token in its vocabulary; never a position.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(transparent)]
pub struct TokenId(pub u32);

impl std::fmt::Display for TokenId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a token is for; the numbers are those of SentencePiece and GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Text, reached by merging.
    Normal = 1,
    /// Stands for what the vocabulary cannot spell.
    Unknown = 2,
    /// Structure, never text: never produced by plain text.
    Control = 3,
    /// Text added by hand, recognised whole.
    UserDefined = 4,
    /// A place without use.
    Unused = 5,
    /// One byte, where a character is not in the vocabulary.
    Byte = 6,
}

/// Whether control tokens appear in decoded text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controls {
    /// As their names, like `<|eot_id|>`.
    Show,
    /// Not at all.
    Hide,
}

/// What a vocabulary is built from.
enum Alphabet {
    /// The 256 bytes.
    Bytes(Box<Bytes>),
    /// Characters, with bytes for those outside.
    Chars(Box<Chars>),
}

/// How bytes become ids before merging.
struct Bytes {
    /// [`bpe::NONE`] where a byte has no token.
    ids: [u32; 256],
    /// Stands for a byte without a token; never a control token. Without it the byte is lost, as
    /// in `tokenizers` and llama.cpp.
    unk: Option<TokenId>,
    /// Whether every byte has one.
    complete: bool,
    pair_ranks: Vec<u32>,
}

/// A vocabulary with everything needed to encode and decode. Shared between threads by reference.
pub struct Tokenizer {
    vocab: Vocab,
    alphabet: Alphabet,
    merges: Merges,
    order: MergeOrder,
    /// A piece that is itself a token becomes it without merging.
    whole_pieces: bool,
    splitter: Splitter,
    /// Texts are brought to Unicode normal form C first.
    nfc: bool,
    added: AddedTokens,
    specials: Specials,
    add_bos: bool,
    add_eos: bool,
    /// Ids of pieces met before.
    cache: Cache,
    /// Working memory of threads that are not encoding at the moment.
    idle: Mutex<Vec<Memory>>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} tokens, split {:?})", self.vocab_size(), self.splitter)
    }
}

impl Tokenizer {
    /// Number of ids, special ones included.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// The bytes that a token decodes to, the name for a special one, nothing for an id outside
    /// the vocabulary (models may have more rows than their tokenizer has tokens).
    pub fn token_bytes(&self, id: TokenId) -> &[u8] {
        if (id.0 as usize) < self.vocab.len() { self.vocab.bytes(id.0) } else { &[] }
    }

    /// What a token is for; an id outside the vocabulary is [`TokenKind::Unused`].
    pub fn kind(&self, id: TokenId) -> TokenKind {
        if (id.0 as usize) < self.vocab.len() { self.vocab.kind(id.0) } else { TokenKind::Unused }
    }

    /// Bytes that this vocabulary cannot spell and that encoding therefore loses; none for Llama.
    ///
    /// SmolLM2's vocabulary lacks twenty-odd control characters and bytes that UTF-8 rarely uses.
    pub fn missing_bytes(&self) -> Vec<u8> {
        match &self.alphabet {
            Alphabet::Bytes(bytes) => {
                (0..=255).filter(|&byte| bytes.ids[usize::from(byte)] == bpe::NONE).collect()
            }
            Alphabet::Chars(chars) => chars.missing_bytes(),
        }
    }

    /// The text token with exactly these bytes.
    pub fn id_of(&self, bytes: &[u8]) -> Option<TokenId> {
        self.vocab.find(bytes).map(TokenId)
    }

    /// The special (control) token with this name.
    pub fn special_id(&self, name: &str) -> Option<TokenId> {
        self.added.find(name).filter(|token| token.special).map(|token| token.id)
    }

    /// Whether a token is one that only structure may produce (the same as
    /// [`is_control`](Self::is_control)).
    pub fn is_special(&self, id: TokenId) -> bool {
        self.is_control(id)
    }

    /// Whether a token is structure rather than text.
    pub fn is_control(&self, id: TokenId) -> bool {
        self.kind(id) == TokenKind::Control
    }

    /// The tokens with a duty.
    pub fn specials(&self) -> &Specials {
        &self.specials
    }

    /// Replaces the tokens with a duty, where a model's configuration knows better than its
    /// tokenizer file.
    pub fn set_specials(&mut self, specials: Specials) {
        self.specials = specials;
    }

    /// The added tokens, special and not, by their bytes.
    pub fn added_tokens(&self) -> impl Iterator<Item = &AddedToken> {
        self.added.iter()
    }

    /// Whether the model wants a begin-of-text token in front of every prompt. The `encode`
    /// functions never add it.
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether the model wants an end-of-text token after every text.
    pub fn add_eos(&self) -> bool {
        self.add_eos
    }

    /// The bytes of a text; control tokens appear by name, and the space that SentencePiece puts
    /// in front is taken away again.
    pub fn decode(&self, ids: &[TokenId]) -> Vec<u8> {
        self.decode_with(ids, Controls::Show)
    }

    /// [`decode`](Self::decode), with or without control tokens.
    pub fn decode_with(&self, ids: &[TokenId], controls: Controls) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ids.len() * 5 + 16);
        let mut at_start = true;
        for (i, &id) in ids.iter().enumerate() {
            if !at_start && controls == Controls::Show {
                self.push_all(&ids[i..], &mut bytes);
                break;
            }
            bytes.extend_from_slice(self.visible_bytes(id, controls, &mut at_start));
        }
        bytes
    }

    /// Appends the bytes of every token.
    fn push_all(&self, ids: &[TokenId], bytes: &mut Vec<u8>) {
        for &id in ids {
            if (id.0 as usize) < self.vocab.len() {
                self.vocab.push_bytes(id.0, bytes);
            }
        }
    }

    /// [`decode`](Self::decode) as text; what is not UTF-8 becomes U+FFFD.
    pub fn decode_lossy(&self, ids: &[TokenId]) -> String {
        match String::from_utf8(self.decode(ids)) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }
    }

    /// The bytes a token adds to a text, given whether text has come before.
    #[inline]
    fn visible_bytes(&self, id: TokenId, controls: Controls, at_start: &mut bool) -> &[u8] {
        let bytes = self.token_bytes(id);
        if controls == Controls::Show && !*at_start {
            return bytes;
        }
        if self.is_control(id) {
            return if controls == Controls::Show { bytes } else { &[] };
        }
        if !std::mem::replace(at_start, false) {
            return bytes;
        }
        match (&self.alphabet, bytes) {
            (Alphabet::Chars(chars), [b' ', rest @ ..]) if chars.prefix != chars::Prefix::Never => {
                rest
            }
            _ => bytes,
        }
    }
}
