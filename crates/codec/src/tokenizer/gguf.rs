//! Vocabularies as GGUF files hold them.

use serde::{Deserialize, Serialize};

use super::build::{AlphabetPart, MergeOrder, Parts, check_id};
use super::byte_chars;
use super::chars::{Prefix, VISIBLE_SPACE};
use super::steps::Splitter;
use super::{AddedToken, Alphabet, Specials, TokenId, TokenKind, Tokenizer};
use crate::CodecError;
use crate::error::shorten;

/// The `tokenizer.ggml.*` keys of a GGUF file as plain data; the caller reads the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GgufVocab {
    /// `tokenizer.ggml.model`: "gpt2" (byte-level BPE) or "llama" (SentencePiece BPE).
    pub model: String,
    /// `tokenizer.ggml.pre`: the name of the split; empty if absent.
    pub pre: String,
    /// `tokenizer.ggml.tokens`.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.scores`; empty if absent.
    pub scores: Vec<f32>,
    /// `tokenizer.ggml.token_type`, numbered as [`TokenKind`]; empty if absent.
    pub token_type: Vec<i32>,
    /// `tokenizer.ggml.merges`: two tokens with a space between; empty if absent.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`.
    pub eot: Option<u32>,
    /// `tokenizer.ggml.eom_token_id`.
    pub eom: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unk: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`.
    pub pad: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`.
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`.
    pub add_space_prefix: Option<bool>,
}

impl Tokenizer {
    /// Builds the tokenizer of a GGUF file.
    ///
    /// Errors if the model or split is of an unknown kind, lists differ in length, or a merge or
    /// id names no token.
    pub fn from_gguf_vocab(vocab: &GgufVocab) -> Result<Self, CodecError> {
        for (field, len) in [("scores", vocab.scores.len()), ("token_type", vocab.token_type.len())]
        {
            if len != 0 && len != vocab.tokens.len() {
                return Err(CodecError::Field {
                    field: format!("tokenizer.ggml.{field}"),
                    expected: "as long as tokenizer.ggml.tokens",
                    got: format!("{len} for {} tokens", vocab.tokens.len()),
                });
            }
        }
        let kinds = kinds(vocab)?;
        let added = added(vocab, &kinds);
        let specials = specials(vocab, &added)?;
        match vocab.model.as_str() {
            "gpt2" => byte_level(vocab, &kinds, added, specials),
            "llama" => sentencepiece(vocab, &kinds, added, specials),
            other => {
                let field = "tokenizer.ggml.model".to_owned();
                Err(CodecError::Unsupported { field, got: shorten(other) })
            }
        }
    }

    /// The vocabulary as a GGUF file holds it.
    ///
    /// Errors if the split has no GGUF name, or SentencePiece scores cannot say the merges.
    pub fn to_gguf_vocab(&self) -> Result<GgufVocab, CodecError> {
        let format = "GGUF";
        let Some(pre) = self.splitter.gguf_name() else {
            let reason = "its split has no name there".to_owned();
            return Err(CodecError::NotRepresentable { format, reason });
        };
        if self.nfc || pre == "llama-bpe" && !self.whole_pieces {
            let reason = "its normaliser has no name there".to_owned();
            return Err(CodecError::NotRepresentable { format, reason });
        }
        let id = |id: Option<TokenId>| id.map(|id| id.0);
        let mut vocab = GgufVocab {
            pre: pre.to_owned(),
            tokens: self.vocab.iter().map(|(id, ..)| self.written(id)).collect(),
            token_type: self.vocab.iter().map(|(_, _, kind)| kind as i32).collect(),
            bos: id(self.specials.bos),
            eos: id(self.specials.eos),
            eot: id(self.specials.eot),
            eom: id(self.specials.eom),
            unk: id(self.specials.unk),
            pad: id(self.specials.pad),
            add_bos: Some(self.add_bos),
            add_eos: Some(self.add_eos),
            ..GgufVocab::default()
        };
        match &self.alphabet {
            Alphabet::Bytes(_) => {
                vocab.model = "gpt2".to_owned();
                let merge = |[left, right, _]: [u32; 3]| {
                    format!("{} {}", self.written(TokenId(left)), self.written(TokenId(right)))
                };
                vocab.merges = self.merge_list()?.into_iter().map(merge).collect();
            }
            Alphabet::Chars(chars) if chars.fuses_unknown() => {
                let reason = "one unknown token stands for several characters".to_owned();
                return Err(CodecError::NotRepresentable { format, reason });
            }
            Alphabet::Chars(chars) => {
                vocab.model = "llama".to_owned();
                vocab.add_space_prefix = Some(chars.prefix != Prefix::Never);
                vocab.scores = match &self.order {
                    MergeOrder::Score(scores) => scores.clone(),
                    MergeOrder::List(_) | MergeOrder::TokenId if self.merges_follow_ids() => {
                        (0..self.vocab_size()).map(|id| -(id as f32)).collect()
                    }
                    MergeOrder::List(_) | MergeOrder::TokenId => {
                        let reason = "its merges do not follow from scores".to_owned();
                        return Err(CodecError::NotRepresentable { format, reason });
                    }
                };
            }
        }
        Ok(vocab)
    }

    /// A token as JSON and GGUF files write it.
    pub(super) fn written(&self, id: TokenId) -> String {
        let bytes = self.vocab.bytes(id.0);
        match (self.vocab.kind(id.0), &self.alphabet) {
            (TokenKind::Normal, Alphabet::Bytes(_)) => byte_chars::from_bytes(bytes),
            (TokenKind::Normal, Alphabet::Chars(_)) => {
                String::from_utf8_lossy(bytes).replace(' ', VISIBLE_SPACE)
            }
            (TokenKind::Byte, _) => format!("<0x{:02X}>", bytes[0]),
            _ => String::from_utf8_lossy(bytes).into_owned(),
        }
    }
}

fn kinds(vocab: &GgufVocab) -> Result<Vec<TokenKind>, CodecError> {
    if vocab.token_type.is_empty() {
        return Ok(vec![TokenKind::Normal; vocab.tokens.len()]);
    }
    let kind = |(id, &number): (usize, &i32)| match number {
        1 => Ok(TokenKind::Normal),
        2 => Ok(TokenKind::Unknown),
        3 => Ok(TokenKind::Control),
        4 => Ok(TokenKind::UserDefined),
        5 => Ok(TokenKind::Unused),
        6 => Ok(TokenKind::Byte),
        _ => Err(CodecError::Field {
            field: format!("tokenizer.ggml.token_type[{id}]"),
            expected: "1 to 6",
            got: number.to_string(),
        }),
    };
    vocab.token_type.iter().enumerate().map(kind).collect()
}

/// Control and user-defined tokens, which are recognised whole.
fn added(vocab: &GgufVocab, kinds: &[TokenKind]) -> Vec<AddedToken> {
    let tokens = (0..).map(TokenId).zip(vocab.tokens.iter().zip(kinds));
    tokens
        .filter(|(_, (_, kind))| matches!(kind, TokenKind::Control | TokenKind::UserDefined))
        .map(|(id, (text, &kind))| AddedToken {
            id,
            text: text.clone(),
            special: kind == TokenKind::Control,
            lstrip: false,
            rstrip: false,
            normalized: false,
        })
        .collect()
}

/// Tokens with a duty: by key where the file has it, else by name.
fn specials(vocab: &GgufVocab, added: &[AddedToken]) -> Result<Specials, CodecError> {
    let named = Specials::by_name(|name| added.iter().find(|t| t.text == name).map(|t| t.id));
    let by_key = |key: &str, id: Option<u32>, named: Option<TokenId>| match id {
        Some(id) => check_id(key, id.into(), vocab.tokens.len()).map(|()| Some(TokenId(id))),
        None => Ok(named),
    };
    Ok(Specials {
        bos: by_key("bos_token_id", vocab.bos, named.bos)?,
        eos: by_key("eos_token_id", vocab.eos, named.eos)?,
        eot: by_key("eot_token_id", vocab.eot, named.eot)?,
        eom: by_key("eom_token_id", vocab.eom, named.eom)?,
        unk: by_key("unknown_token_id", vocab.unk, named.unk)?,
        pad: by_key("padding_token_id", vocab.pad, named.pad)?,
        ..named
    })
}

fn byte_level(
    vocab: &GgufVocab,
    kinds: &[TokenKind],
    added: Vec<AddedToken>,
    specials: Specials,
) -> Result<Tokenizer, CodecError> {
    let mut tokens = Vec::with_capacity(vocab.tokens.len());
    for (text, &kind) in vocab.tokens.iter().zip(kinds) {
        // A normal token with characters outside the byte alphabet can never be merged.
        let bytes = (kind == TokenKind::Normal).then(|| byte_chars::to_bytes(text)).flatten();
        match bytes {
            Some(bytes) => tokens.push((bytes, kind)),
            None if kind == TokenKind::Normal => {
                tokens.push((text.clone().into_bytes(), TokenKind::Unused));
            }
            None => tokens.push((text.clone().into_bytes(), kind)),
        }
    }
    let splitter = Splitter::named(&vocab.pre)?;
    let llama3 = matches!(splitter, Splitter::Llama3);
    let plain = matches!(vocab.pre.as_str(), "dbrx" | "smaug-bpe");
    let order = MergeOrder::List(read_merges(&vocab.tokens, kinds, &vocab.merges)?);
    Parts {
        tokens,
        alphabet: AlphabetPart::Bytes,
        order,
        whole_pieces: llama3 && !plain || vocab.pre == "tekken",
        splitter,
        nfc: false,
        added,
        specials,
        add_bos: vocab.add_bos.unwrap_or(llama3 && !plain || vocab.pre == "tekken"),
        add_eos: vocab.add_eos.unwrap_or(false),
    }
    .build()
}

/// Merges in the written form "left right" as ids.
fn read_merges(
    tokens: &[String],
    kinds: &[TokenKind],
    merges: &[String],
) -> Result<Vec<[u32; 3]>, CodecError> {
    let normal = (0u32..).zip(tokens.iter().zip(kinds)).filter(|t| *t.1.1 == TokenKind::Normal);
    let ids = normal.map(|(id, (text, _))| (text.as_str(), id)).collect();
    let pairs = merges.iter().enumerate().map(|(rank, merge)| {
        // The separator is a space that is not the first character.
        let split = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
        let at = split.ok_or_else(|| CodecError::Merge { rank, text: shorten(merge) })?;
        Ok((&merge[..at], &merge[at + 1..]))
    });
    resolve_merges(&ids, pairs)
}

/// Looks up the halves of merges and what they make.
pub(super) fn resolve_merges<'m>(
    ids: &std::collections::HashMap<&str, u32>,
    pairs: impl Iterator<Item = Result<(&'m str, &'m str), CodecError>>,
) -> Result<Vec<[u32; 3]>, CodecError> {
    let mut list = Vec::new();
    let mut whole = String::new();
    for (rank, pair) in pairs.enumerate() {
        let (left, right) = pair?;
        let find = |text: &str| {
            let unknown = || CodecError::Merge { rank, text: shorten(text) };
            ids.get(text).copied().ok_or_else(unknown)
        };
        whole.clear();
        whole.push_str(left);
        whole.push_str(right);
        list.push([find(left)?, find(right)?, find(&whole)?]);
    }
    Ok(list)
}

fn sentencepiece(
    vocab: &GgufVocab,
    kinds: &[TokenKind],
    added: Vec<AddedToken>,
    specials: Specials,
) -> Result<Tokenizer, CodecError> {
    let pieces = vocab.tokens.iter().zip(kinds).map(|(text, &kind)| (text.as_str(), kind));
    let prefix = match vocab.add_space_prefix {
        Some(false) => Prefix::Never,
        Some(true) | None => Prefix::Always,
    };
    Parts {
        tokens: super::sentencepiece::tokens(pieces)?,
        alphabet: AlphabetPart::Chars { prefix, fuse_unk: false },
        order: MergeOrder::Score(vocab.scores.clone()),
        whole_pieces: false,
        splitter: Splitter::Whole,
        nfc: false,
        added,
        specials,
        add_bos: vocab.add_bos.unwrap_or(true),
        add_eos: vocab.add_eos.unwrap_or(false),
    }
    .build()
}
