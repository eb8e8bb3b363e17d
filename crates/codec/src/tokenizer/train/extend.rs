//! More merges on top of an existing vocabulary, for languages that it spells badly.

use super::guard::Watch;
use super::learn::{Rules, Words, learn};
use super::{Guard, LLAMA3_TOKEN_BYTES, LearntMerge, PieceCounts, Trained};
use crate::CodecError;
use crate::tokenizer::bpe::IDS_MAX;
use crate::tokenizer::build::{AlphabetPart, MergeOrder, Parts};
use crate::tokenizer::steps::check_size;
use crate::tokenizer::vocab::TOKEN_BYTES_MAX;
use crate::tokenizer::{AddedToken, Alphabet, TokenId, TokenKind, Tokenizer};

/// Where the new tokens stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewIds {
    /// Behind all others: every old id stays, those of special tokens too. A rank file cannot hold
    /// such a vocabulary, since its text tokens come first.
    Last,
    /// Behind the text tokens: special tokens move up by the number of new ones, as between the
    /// 100K tokens of tiktoken and Llama 3's 128K. For vocabularies without a trained model.
    BeforeSpecials,
}

/// What is to be added.
#[derive(Clone, Copy, Debug)]
pub struct Extension<'a> {
    /// How many merges.
    pub add: usize,
    /// Where their tokens stand.
    pub ids: NewIds,
    /// What keeps its ids.
    pub guard: Guard<'a>,
    /// Merges that would make a longer token are passed over.
    pub token_bytes_max: usize,
}

impl Extension<'_> {
    /// `add` merges behind all others that leave English as it was.
    pub fn new(add: usize) -> Self {
        let (ids, guard) = (NewIds::Last, Guard::English);
        Self { add, ids, guard, token_bytes_max: LLAMA3_TOKEN_BYTES }
    }
}

/// Learns merges of `base`'s tokens on text that was cut by [`Split::of`](super::Split::of) it.
///
/// All old merges go before the new ones, so a text is first encoded as before, and only tokens
/// that stand side by side then are joined. Text in which no new pair stands keeps its ids.
/// Ties are decided as in [`train`](super::train).
///
/// Errors if there is no text, `base` is over characters and not bytes, the vocabulary grows too
/// large, or special tokens that shall move do not all stand last.
pub fn extend(
    base: &Tokenizer,
    pieces: &PieceCounts,
    extension: &Extension<'_>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Trained, CodecError> {
    let bytes = matches!(base.alphabet, Alphabet::Bytes(_));
    if !bytes || matches!(base.order, MergeOrder::Score(_)) {
        let field = "the vocabulary to extend".to_owned();
        return Err(CodecError::Unsupported { field, got: "SentencePiece".to_owned() });
    }
    if pieces.is_empty() {
        return Err(CodecError::NoText);
    }
    let first = first_new_id(base, extension.ids)?;
    let size = base.vocab_size().saturating_add(extension.add);
    check_size("the extended vocabulary", size, IDS_MAX - 1)?;
    let (mut ids, mut words) = (Vec::new(), Words::default());
    base.with_work(|work| -> Result<(), CodecError> {
        for (piece, count) in pieces.iter() {
            ids.clear();
            base.encode_whole_piece(piece, work, &mut ids);
            words.push(ids.iter().map(|id| id.0), count)?;
        }
        Ok(())
    })?;
    let watch = Watch::new(extension.guard, base);
    let is_text =
        |id: u32| id as usize >= base.vocab_size() || base.kind(TokenId(id)) == TokenKind::Normal;
    let refuses = |left, right, merged: &[u8]| {
        // A token that merges never reach keeps its id and its way.
        !is_text(left)
            || !is_text(right)
            || base.vocab.find(merged).is_some()
            || watch.refuses(left, right, merged)
    };
    let token_bytes_max = extension.token_bytes_max.min(TOKEN_BYTES_MAX);
    let rules = Rules { merges: extension.add, token_bytes_max, refuses: &refuses };
    let mut tokens: Vec<Vec<u8>> = base.vocab.iter().map(|(_, bytes, _)| bytes.to_vec()).collect();
    let before = words.tokens();
    let (mut merges, after) = learn(words, &mut tokens, &rules, progress);
    let new = tokens.split_off(base.vocab_size());
    for merge in &mut merges {
        let moved = |id: TokenId| match id.0.checked_sub(base.vocab_size() as u32) {
            Some(i) => TokenId(first + i),
            None => id,
        };
        *merge = LearntMerge {
            left: moved(merge.left),
            right: moved(merge.right),
            id: moved(merge.id),
            count: merge.count,
        };
    }
    let tokenizer = build(base, new, &merges, first)?;
    Ok(Trained { tokenizer, merges, merges_asked: extension.add, tokens: (before, after) })
}

/// The id of the first new token.
fn first_new_id(base: &Tokenizer, ids: NewIds) -> Result<u32, CodecError> {
    let size = base.vocab_size() as u32;
    if ids == NewIds::Last {
        return Ok(size);
    }
    let is_text = |id: &u32| base.kind(TokenId(*id)) == TokenKind::Normal;
    let first = (0..size).rev().find(is_text).map_or(0, |id| id + 1);
    match (0..first).find(|id| !is_text(id)) {
        None => Ok(first),
        Some(id) => Err(CodecError::NotRepresentable {
            format: "an extension whose special tokens stand last",
            reason: format!("token {id} stands among text and is no text"),
        }),
    }
}

/// `base` with `new` tokens from id `first` on, and `merges` behind its own.
fn build(
    base: &Tokenizer,
    new: Vec<Vec<u8>>,
    merges: &[LearntMerge],
    first: u32,
) -> Result<Tokenizer, CodecError> {
    let count = new.len() as u32;
    let moved = |id: TokenId| if id.0 < first { id } else { TokenId(id.0 + count) };
    let old = base.vocab.iter().map(|(_, bytes, kind)| (bytes.to_vec(), kind));
    let mut tokens: Vec<(Vec<u8>, TokenKind)> = old.collect();
    let new = new.into_iter().map(|token| (token, TokenKind::Normal));
    tokens.splice(first as usize..first as usize, new);
    let mut order = base.merge_list()?;
    order.extend(merges.iter().map(LearntMerge::ids));
    let added = base.added.iter().map(|t| AddedToken { id: moved(t.id), ..t.clone() });
    Parts {
        tokens,
        alphabet: AlphabetPart::Bytes,
        order: MergeOrder::List(order),
        whole_pieces: base.whole_pieces,
        splitter: base.splitter.clone(),
        nfc: base.nfc,
        added: added.collect(),
        specials: base.specials.moved(moved),
        add_bos: base.add_bos,
        add_eos: base.add_eos,
    }
    .build()
}
