//! What can be wrong with a tokenizer file, a prompt or a chat.

use crate::TokenId;

/// Why a file or a request was refused; each variant carries the value that offends.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// A tokenizer.json that is not JSON, or not of the expected shape.
    #[error("tokenizer.json cannot be read")]
    Json(#[from] serde_json::Error),
    /// A field whose value is not what the format allows.
    #[error("{field} should be {expected}, got {got}")]
    Field {
        /// Path of the field in its file.
        field: String,
        /// What the format allows there.
        expected: &'static str,
        /// What stood there, shortened.
        got: String,
    },
    /// A feature of the format that this crate does not carry out.
    #[error("{field} = {got} is not supported")]
    Unsupported {
        /// Path of the field in its file.
        field: String,
        /// What stood there, shortened.
        got: String,
    },
    /// A line of a tiktoken rank file that is not `base64 rank`.
    #[error("line {line} of the rank file should be a base64 token and its rank, got {got:?}")]
    RankLine {
        /// Line number, from 1.
        line: usize,
        /// The line, shortened.
        got: String,
    },
    /// A SentencePiece file that is not the protobuf it should be.
    #[error("the SentencePiece file is broken at byte {at}: {reason}")]
    Protobuf {
        /// Byte offset of the fault.
        at: usize,
        /// What is wrong there.
        reason: &'static str,
    },
    /// An id outside the vocabulary.
    #[error("{what} is token {id}, the vocabulary has {vocab_size}")]
    TokenRange {
        /// The field or token that names the id.
        what: String,
        /// The id it names.
        id: u64,
        /// Number of tokens.
        vocab_size: usize,
    },
    /// Two entries that claim the same id or the same bytes.
    #[error("token {id} is given twice")]
    Duplicate {
        /// The id given twice.
        id: TokenId,
    },
    /// A merge whose halves or whole are not in the vocabulary.
    #[error("merge {rank} names {text:?}, which is no token")]
    Merge {
        /// Place of the merge in the list, from 0.
        rank: usize,
        /// The text that is not in the vocabulary.
        text: String,
    },
    /// Something larger than the limit that keeps memory and time bounded.
    #[error("{what} is {got}, the limit is {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        got: usize,
        /// The largest allowed.
        limit: usize,
    },
    /// A split pattern that the regex engine refuses.
    #[error("the split pattern {pattern:?} is refused: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// The engine's words.
        reason: String,
    },
    /// A split pattern that gave up on a text.
    #[error("the split pattern {pattern:?} gave up: {reason}")]
    Backtrack {
        /// The pattern.
        pattern: String,
        /// The engine's words.
        reason: String,
    },
    /// Training on nothing.
    #[error("there is no text to learn from")]
    NoText,
    /// A vocabulary without room for what it must hold.
    #[error("a vocabulary of {got} ids cannot hold 256 bytes and {specials} special tokens")]
    VocabSize {
        /// The size asked for.
        got: usize,
        /// The least that would do.
        least: usize,
        /// Special tokens asked for.
        specials: usize,
    },
    /// A special string that the vocabulary does not have.
    #[error("the vocabulary has no special token {0:?}")]
    NoSpecial(String),
    /// A tokenizer that the wanted file format cannot hold without loss.
    #[error("{format} cannot hold this tokenizer: {reason}")]
    NotRepresentable {
        /// The format asked for.
        format: &'static str,
        /// What would be lost.
        reason: String,
    },
}

/// The first characters of a value, for an error message.
pub(crate) fn shorten(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
