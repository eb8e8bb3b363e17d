//! Meta's `tokenizer.model` of Llama 3: one `base64 rank` on each line.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::build::{AlphabetPart, MergeOrder, Parts, every_split, reached};
use super::specials::SpecialTable;
use super::steps::Splitter;
use super::{AddedToken, Alphabet, Specials, TokenId, TokenKind, Tokenizer};
use crate::CodecError;
use crate::error::shorten;

impl Tokenizer {
    /// Reads a tiktoken rank file, with Llama 3's split and the special tokens of `table` after
    /// the ranks.
    ///
    /// Ranks may come in any order but must be 0, 1, 2 ... without gaps. Errors name the line.
    pub fn from_tiktoken(file: &[u8], table: SpecialTable) -> Result<Self, CodecError> {
        let mut tokens = ranked_tokens(file)?;
        let first = tokens.len() as u32;
        let mut added = Vec::new();
        for (id, text) in (first..).zip(table.names()) {
            tokens.push((text.clone().into_bytes(), TokenKind::Control));
            let (id, special) = (TokenId(id), true);
            let (lstrip, rstrip, normalized) = (false, false, false);
            added.push(AddedToken { id, text, special, lstrip, rstrip, normalized });
        }
        let find = |name: &str| added.iter().find(|t| t.text == name).map(|t| t.id);
        Parts {
            tokens,
            alphabet: AlphabetPart::Bytes,
            order: MergeOrder::TokenId,
            whole_pieces: true,
            splitter: Splitter::Llama3,
            nfc: false,
            specials: Specials::by_name(find),
            add_bos: !added.is_empty(),
            add_eos: false,
            added,
        }
        .build()
    }

    /// The rank file of this tokenizer; special tokens are not part of it.
    ///
    /// Errors unless the vocabulary is one of Llama 3's kind: bytes, Llama 3's split, all text
    /// tokens first, and merges that follow from the order of the ids.
    pub fn to_tiktoken(&self) -> Result<Vec<u8>, CodecError> {
        let refuse = |reason: &str| {
            Err(CodecError::NotRepresentable { format: "a rank file", reason: reason.to_owned() })
        };
        if !matches!(self.alphabet, Alphabet::Bytes(_)) {
            return refuse("its vocabulary is over characters, not bytes");
        }
        if !matches!(self.splitter, Splitter::Llama3) || self.nfc {
            return refuse("its split is not Llama 3's");
        }
        let ranks = self.vocab.iter().take_while(|(_, _, kind)| *kind == TokenKind::Normal).count();
        if self.vocab.iter().skip(ranks).any(|(_, _, kind)| kind != TokenKind::Control) {
            return refuse("text tokens stand behind special ones");
        }
        if !self.whole_pieces || !self.merges_follow_ids() {
            return refuse("its merges do not follow from the order of its tokens");
        }
        let mut file = Vec::with_capacity(ranks * 16);
        for (TokenId(id), bytes, _) in self.vocab.iter().take(ranks) {
            file.extend_from_slice(STANDARD.encode(bytes).as_bytes());
            file.extend_from_slice(format!(" {id}\n").as_bytes());
        }
        Ok(file)
    }

    /// Whether the merges that texts can reach are those that follow from the tokens, every split
    /// of a token being a merge and that of the lower id going first.
    pub(super) fn merges_follow_ids(&self) -> bool {
        let list = match &self.order {
            MergeOrder::TokenId => return true,
            MergeOrder::Score(_) => return false,
            MergeOrder::List(list) => list,
        };
        let splits = every_split(&self.vocab, &self.alphabet, |id| id);
        let of_ids = reached(&self.vocab, &self.alphabet, &splits);
        let in_order = list.is_sorted_by_key(|merge| merge[2]);
        in_order && of_ids.is_ok_and(|of_ids| of_ids.sorted() == self.merges.sorted())
    }
}

fn ranked_tokens(file: &[u8]) -> Result<Vec<(Vec<u8>, TokenKind)>, CodecError> {
    let mut ranked: Vec<(u32, Vec<u8>)> = Vec::new();
    for (i, line) in file.split(|&b| b == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let (rank, token) = ranked_token(line).ok_or_else(|| CodecError::RankLine {
            line: i + 1,
            got: shorten(&String::from_utf8_lossy(line)),
        })?;
        ranked.push((rank, token));
    }
    if ranked.is_empty() {
        let (field, got) = ("the rank file".to_owned(), "nothing".to_owned());
        return Err(CodecError::Field { field, expected: "at least one token", got });
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    for (expected, (rank, _)) in ranked.iter().enumerate() {
        if *rank as usize != expected {
            return Err(CodecError::Field {
                field: format!("rank {rank} of the rank file"),
                expected: "ranks without gaps or repeats",
                got: format!("{rank} in place of {expected}"),
            });
        }
    }
    let mut seen = std::collections::HashSet::with_capacity(ranked.len());
    if let Some((rank, _)) = ranked.iter().find(|(_, token)| !seen.insert(token.as_slice())) {
        return Err(CodecError::Duplicate { id: TokenId(*rank) });
    }
    Ok(ranked.into_iter().map(|(_, token)| (token, TokenKind::Normal)).collect())
}

fn ranked_token(line: &[u8]) -> Option<(u32, Vec<u8>)> {
    let space = line.iter().position(|&b| b == b' ')?;
    let token = STANDARD.decode(&line[..space]).ok().filter(|token| !token.is_empty())?;
    let rank = std::str::from_utf8(&line[space + 1..]).ok()?.trim().parse().ok()?;
    Some((rank, token))
}
