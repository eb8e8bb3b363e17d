//! From the parts that the loaders find to a working tokenizer.

use std::sync::Mutex;

use super::added::AddedTokens;
use super::bpe::{Merge, Merges, NONE};
use super::cache::Cache;
use super::chars::{Chars, Prefix};
use super::steps::Splitter;
use super::vocab::Vocab;
use super::{AddedToken, Alphabet, Bytes, Specials, TokenId, TokenKind, Tokenizer};
use crate::CodecError;

/// Which merge goes first.
pub(super) enum MergeOrder {
    /// The one that makes the lower id, and every split of a token into two is a merge (tiktoken).
    TokenId,
    /// The earlier in this list of (left, right, merged).
    List(Vec<[u32; 3]>),
    /// The one that makes the token with the higher score, every split being a merge
    /// (SentencePiece). Equal scores go by id.
    Score(Vec<f32>),
}

/// The alphabet as a loader names it.
pub(super) enum AlphabetPart {
    Bytes,
    Chars { prefix: Prefix, fuse_unk: bool },
}

/// What a tokenizer file says.
pub(super) struct Parts {
    /// Bytes and kind of each id.
    pub(super) tokens: Vec<(Vec<u8>, TokenKind)>,
    pub(super) alphabet: AlphabetPart,
    pub(super) order: MergeOrder,
    pub(super) whole_pieces: bool,
    pub(super) splitter: Splitter,
    pub(super) nfc: bool,
    pub(super) added: Vec<AddedToken>,
    pub(super) specials: Specials,
    pub(super) add_bos: bool,
    pub(super) add_eos: bool,
}

impl Parts {
    /// Builds the tables.
    ///
    /// Errors if an id lies outside the vocabulary or a table would grow too large.
    pub(super) fn build(mut self) -> Result<Tokenizer, CodecError> {
        let vocab = Vocab::new(&self.tokens)?;
        for token in &self.added {
            check_id(&token.text, token.id.0.into(), vocab.len())?;
        }
        if let Some(id) = self.specials.unk {
            check_id("the unknown token", id.0.into(), vocab.len())?;
        }
        // An unknown letter never becomes a control token, whatever the file says.
        let unk = self.specials.unk.map(|id| id.0);
        let unk = unk.filter(|&id| vocab.kind(id) != TokenKind::Control);
        let (mut alphabet, splitter) = match self.alphabet {
            AlphabetPart::Bytes => {
                let id = |byte: usize| vocab.find(&[byte as u8]).unwrap_or(NONE);
                let ids = std::array::from_fn(id);
                let complete = !ids.contains(&NONE);
                let unk = unk.map(TokenId);
                let bytes = Bytes { ids, unk, complete, pair_ranks: Vec::new() };
                (Alphabet::Bytes(Box::new(bytes)), self.splitter)
            }
            AlphabetPart::Chars { prefix, fuse_unk } => {
                // What stands for unknown characters stands for nothing else.
                let unk = unk.filter(|&id| vocab.kind(id) == TokenKind::Unknown);
                self.specials.unk = unk.map(TokenId);
                let chars = Chars::new(&vocab, prefix, unk, fuse_unk);
                let whole = matches!(self.splitter, Splitter::Whole);
                // A space that has a token ends every run of unknown characters.
                let runs_end = !chars.fuses_unknown() || vocab.find(b" ").is_some();
                let cut = whole && runs_end && spaces_only_in_front(&vocab);
                let splitter = if cut { Splitter::SpacesThenWord } else { self.splitter };
                (Alphabet::Chars(Box::new(chars)), splitter)
            }
        };
        let list = merges(&vocab, &alphabet, &self.order)?;
        let merges = reached(&vocab, &alphabet, &list)?;
        if let Alphabet::Bytes(bytes) = &mut alphabet {
            bytes.pair_ranks = merges.byte_pair_ranks(&bytes.ids);
        }
        Ok(Tokenizer {
            vocab,
            alphabet,
            merges,
            order: self.order,
            whole_pieces: self.whole_pieces,
            splitter,
            nfc: self.nfc,
            added: AddedTokens::new(self.added),
            specials: self.specials,
            add_bos: self.add_bos,
            add_eos: self.add_eos,
            cache: Cache::default(),
            idle: Mutex::new(Vec::new()),
        })
    }
}

/// The table of those merges in `list` that texts can reach.
pub(super) fn reached(
    vocab: &Vocab,
    alphabet: &Alphabet,
    list: &[Merge],
) -> Result<Merges, CodecError> {
    Merges::new(list)?.pruned(list, |id, symbols| spell(vocab, alphabet, id, symbols))
}

/// Errors unless `id` is one of the vocabulary's.
pub(super) fn check_id(what: &str, id: u64, vocab_size: usize) -> Result<(), CodecError> {
    if id < vocab_size as u64 {
        return Ok(());
    }
    Err(CodecError::TokenRange { what: crate::error::shorten(what), id, vocab_size })
}

/// Whether no piece holds a space after another character. Merges then never cross the border
/// before a space, and cutting there first changes no id.
fn spaces_only_in_front(vocab: &Vocab) -> bool {
    vocab
        .iter()
        .filter(|(_, _, kind)| *kind == TokenKind::Normal)
        .all(|(_, bytes, _)| !bytes.trim_ascii_start().contains(&b' ') && !starts_oddly(bytes))
}

/// `trim_ascii_start` takes tabs and newlines for spaces; the cut does not.
fn starts_oddly(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len() - bytes.trim_ascii_start().len()];
    head.contains(&b' ') && head.iter().any(|&b| b != b' ')
}

fn merges(
    vocab: &Vocab,
    alphabet: &Alphabet,
    order: &MergeOrder,
) -> Result<Vec<Merge>, CodecError> {
    let merges = match order {
        MergeOrder::List(list) => {
            let merge = |(rank, &[left, right, merged]): (usize, &[u32; 3])| Merge {
                left,
                right,
                rank: rank as u32,
                merged,
            };
            list.iter().enumerate().map(merge).collect()
        }
        MergeOrder::TokenId | MergeOrder::Score(_) => {
            let rank_of = token_ranks(vocab, order);
            every_split(vocab, alphabet, |id| rank_of[id as usize])
        }
    };
    let ids = vocab.len()
        + match alphabet {
            Alphabet::Bytes(_) => 0,
            Alphabet::Chars(chars) => chars.beyond_count(),
        };
    if ids >= super::bpe::IDS_MAX {
        let limit = super::bpe::IDS_MAX - 1;
        return Err(CodecError::TooLarge {
            what: "the vocabulary with its characters",
            got: ids,
            limit,
        });
    }
    Ok(merges)
}

/// For each token the rank of the merges that make it, where tokens rather than merges have ranks.
pub(super) fn token_ranks(vocab: &Vocab, order: &MergeOrder) -> Vec<u32> {
    let mut best_first: Vec<u32> = (0..vocab.len() as u32).collect();
    if let MergeOrder::Score(scores) = order {
        let score = |id: u32| scores.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
        best_first.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
    }
    let mut rank_of = vec![0; vocab.len()];
    for (rank, &id) in best_first.iter().enumerate() {
        rank_of[id as usize] = rank as u32;
    }
    rank_of
}

/// The symbols that merging a token begins with; none for an id that is no text.
fn spell(vocab: &Vocab, alphabet: &Alphabet, id: u32, symbols: &mut Vec<u32>) {
    let bytes = vocab.bytes(id);
    match alphabet {
        Alphabet::Bytes(known) => symbols.extend(bytes.iter().map(|&b| known.ids[b as usize])),
        Alphabet::Chars(chars) => {
            let mut at = 0;
            while at < bytes.len() {
                let (code, n) = super::unicode::decode(&bytes[at..]);
                symbols.extend(code.and_then(|code| chars.id_of(code)));
                at += n;
            }
        }
    }
}

/// Every way in which two symbols make a token.
pub(super) fn every_split(
    vocab: &Vocab,
    alphabet: &Alphabet,
    rank: impl Fn(u32) -> u32,
) -> Vec<Merge> {
    let find = |bytes: &[u8]| {
        vocab.find(bytes).or_else(|| match alphabet {
            Alphabet::Bytes(_) => None,
            Alphabet::Chars(chars) => {
                let (code, n) = super::unicode::decode(bytes);
                code.filter(|_| n == bytes.len()).and_then(|code| chars.id_of(code))
            }
        })
    };
    let mut merges = Vec::new();
    for (TokenId(id), bytes, kind) in vocab.iter() {
        // Of tokens with the same bytes only the one that is found can be made.
        if kind != TokenKind::Normal || bytes.len() < 2 || vocab.find(bytes) != Some(id) {
            continue;
        }
        for at in 1..bytes.len() {
            let (left, right) = bytes.split_at(at);
            if let Some(left) = find(left)
                && let Some(right) = find(right)
            {
                merges.push(Merge { left, right, rank: rank(id), merged: id });
            }
        }
    }
    merges
}
