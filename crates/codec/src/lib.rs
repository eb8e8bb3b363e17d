//! Text and chats as numbers and back.

pub mod chat;
mod error;
pub mod tokenizer;

pub use error::CodecError;
pub use tokenizer::{
    AddedToken, Batch, Compression, Controls, GgufVocab, InfillOrder, SpecialSet, SpecialTable,
    Specials, StreamDecoder, TokenId, TokenKind, Tokenizer,
};
