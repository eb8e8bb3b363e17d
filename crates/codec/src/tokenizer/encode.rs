//! Text to ids: the loop over pieces, and its entrances.

use std::sync::{Arc, PoisonError};

use super::added::Segment;
use super::bpe::{NONE, Scratch};
use super::cache::{self, Key, Table};
use super::chars::{Chars, push_with_spaces};
use super::steps::Splitter;
use super::unicode::decode;
use super::{Alphabet, Bytes, SpecialSet, TokenId, Tokenizer, split};
use crate::CodecError;

/// Pieces are cut at this many bytes, so that positions inside one fit 32 bits.
const PIECE_BYTES_MAX: usize = 1 << 30;

/// Pieces cut before any is looked up, so that their entries come from memory side by side.
const BATCH: usize = 16;

/// What a thread encodes with.
pub(super) struct Work {
    table: Arc<Table>,
    memory: Memory,
}

/// Working memory of one thread.
#[derive(Default)]
pub(super) struct Memory {
    scratch: Scratch,
    ids: Vec<u32>,
    tokens: Vec<TokenId>,
    text: Vec<u8>,
}

impl Tokenizer {
    /// The ids of a plain text. Special strings are text like any other: no control token comes
    /// out. No begin- or end-of-text token is added.
    pub fn encode(&self, text: &str) -> Vec<TokenId> {
        self.encode_bytes(text.as_bytes())
    }

    /// [`encode`](Self::encode) for any bytes. Bytes that are not UTF-8 count as characters that
    /// are neither letter, number nor space; byte vocabularies give them back unchanged.
    pub fn encode_bytes(&self, text: &[u8]) -> Vec<TokenId> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 4);
        self.encode_bytes_into(text, &mut ids);
        ids
    }

    /// [`encode`](Self::encode), appending to `ids`.
    pub fn encode_into(&self, text: &str, ids: &mut Vec<TokenId>) {
        self.encode_bytes_into(text.as_bytes(), ids);
    }

    /// [`encode_bytes`](Self::encode_bytes), appending to `ids`.
    pub fn encode_bytes_into(&self, text: &[u8], ids: &mut Vec<TokenId>) {
        self.with_work(|work| self.encode_segments(text, None, work, ids));
    }

    /// The ids of a text that a model goes on with: the begin-of-text token where it wants one, unless the text brings
    /// it. Special strings are text, or where `special` the control tokens that they name.
    pub fn encode_prompt(&self, text: &str, special: bool) -> Vec<TokenId> {
        let ids = match special {
            true => self.encode_with_specials(text, &SpecialSet::All),
            false => self.encode(text),
        };
        let bos = self.specials().bos.filter(|_| self.add_bos());
        let bos = bos.filter(|bos| ids.first() != Some(bos));
        bos.into_iter().chain(ids).collect()
    }

    /// The ids of a raw prompt, in which the `allowed` special strings are control tokens.
    ///
    /// SentencePiece's leading space stands at the start and after each special token, as in
    /// llama.cpp.
    pub fn encode_with_specials(&self, text: &str, allowed: &SpecialSet) -> Vec<TokenId> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 4);
        self.with_work(|work| {
            self.encode_segments(text.as_bytes(), Some(allowed), work, &mut ids);
        });
        ids
    }

    /// [`encode`](Self::encode), or an error where a split pattern without hand-written code
    /// gives up on the text (backtracking limit); `encode` then goes on with longer pieces.
    pub fn try_encode(&self, text: &str) -> Result<Vec<TokenId>, CodecError> {
        if let Splitter::Steps(steps) = &self.splitter {
            steps.try_ends(text.as_bytes())?;
        }
        Ok(self.encode(text))
    }

    /// Gives back the memory kept for texts to come: the pieces met so far, up to 40 MB. No id
    /// changes; the next text is slower.
    pub fn forget(&self) {
        self.cache.forget();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        *idle = Vec::new();
    }

    /// Lends a thread what it encodes with.
    pub(super) fn with_work<R>(&self, encode: impl FnOnce(&mut Work) -> R) -> R {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut work = Work { table: self.cache.table(), memory: idle.unwrap_or_default() };
        let result = encode(&mut work);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(work.memory);
        result
    }

    /// Appends the ids of a text in which the `allowed` special strings are tokens.
    pub(super) fn encode_segments(
        &self,
        text: &[u8],
        allowed: Option<&SpecialSet>,
        work: &mut Work,
        ids: &mut Vec<TokenId>,
    ) {
        let mut whole = true;
        self.added.segments(text, allowed, |segment| {
            match segment {
                Segment::Token(id) => ids.push(id),
                Segment::Text(text, fresh) => self.encode_text(text, fresh, whole, work, ids),
            }
            whole = false;
        });
    }

    /// Encodes text without added tokens, after normalising it.
    fn encode_text(
        &self,
        text: &[u8],
        fresh: bool,
        whole: bool,
        work: &mut Work,
        ids: &mut Vec<TokenId>,
    ) {
        let normal;
        let mut text = text;
        if self.nfc {
            normal = normal_form_c(text);
            text = &normal;
        }
        let Alphabet::Chars(chars) = &self.alphabet else {
            return self.encode_plain(text, work, ids);
        };
        let mut buffer = std::mem::take(&mut work.memory.text);
        buffer.clear();
        if chars.wants_space(text, fresh, whole) {
            buffer.push(b' ');
        }
        push_with_spaces(&mut buffer, text);
        self.encode_plain(&buffer, work, ids);
        work.memory.text = buffer;
    }

    /// The ids of one piece, as the split gives it.
    pub(super) fn encode_whole_piece(&self, piece: &[u8], work: &mut Work, ids: &mut Vec<TokenId>) {
        self.encode_piece(piece, 0, piece.len(), Key::new(piece, 0, piece.len()), work, ids);
    }

    /// Encodes text exactly as given.
    pub(super) fn encode_plain(&self, text: &[u8], work: &mut Work, ids: &mut Vec<TokenId>) {
        match &self.splitter {
            Splitter::Llama3 => self.encode_pieces(text, split::llama3::<3>, work, ids),
            Splitter::Qwen2 => self.encode_pieces(text, split::llama3::<1>, work, ids),
            Splitter::Gpt2 => self.encode_pieces(text, split::gpt2, work, ids),
            Splitter::Gpt2SingleDigits => {
                self.encode_pieces(text, split::gpt2_single_digits, work, ids);
            }
            Splitter::SpacesThenWord => {
                self.encode_pieces(text, split::spaces_then_word, work, ids);
            }
            Splitter::Whole => self.encode_pieces(text, |text, _| text.len(), work, ids),
            Splitter::Steps(steps) => {
                let mut at = 0;
                for end in steps.ends(text) {
                    self.encode_piece(text, at, end, Key::new(text, at, end), work, ids);
                    at = end;
                }
            }
        }
    }

    #[inline(never)]
    fn encode_pieces(
        &self,
        text: &[u8],
        piece_end: impl Fn(&[u8], usize) -> usize,
        work: &mut Work,
        ids: &mut Vec<TokenId>,
    ) {
        let mut at = 0;
        let (mut ends, mut keys) = ([0; BATCH], [Key::default(); BATCH]);
        while at < text.len() {
            let (mut start, mut count) = (at, 0);
            while count < BATCH && at < text.len() {
                let end = piece_end(text, at).min(at.saturating_add(PIECE_BYTES_MAX));
                keys[count] = Key::new(text, at, end);
                ends[count] = end;
                (at, count) = (end, count + 1);
            }
            work.table.touch(&keys[..count]);
            for (&key, &end) in keys[..count].iter().zip(&ends) {
                self.encode_piece(text, start, end, key, work, ids);
                start = end;
            }
        }
    }

    #[inline(always)]
    fn encode_piece(
        &self,
        text: &[u8],
        at: usize,
        end: usize,
        key: Key,
        work: &mut Work,
        ids: &mut Vec<TokenId>,
    ) {
        if let Some((three, count)) = work.table.entry(key).map(cache::ids)
            && count <= three.len()
        {
            // All are written and the end set: branching on their number would cost more.
            ids.extend_from_slice(&three);
            ids.truncate(ids.len() - (three.len() - count));
            return;
        }
        let piece = &text[at..end];
        if !work.table.find(key, piece, ids) {
            self.encode_new(piece, key, work, ids);
        }
    }

    /// Encodes a piece that the cache does not know.
    #[inline(never)]
    fn encode_new(&self, piece: &[u8], key: Key, work: &mut Work, ids: &mut Vec<TokenId>) {
        let Work { table, memory } = work;
        let Memory { scratch, ids: symbols, tokens, .. } = memory;
        tokens.clear();
        let whole = if self.whole_pieces { self.vocab.find(piece) } else { None };
        match (whole, &self.alphabet) {
            (Some(id), _) => tokens.push(TokenId(id)),
            (None, Alphabet::Bytes(bytes)) if bytes.complete => {
                symbols.clear();
                symbols.extend(piece.iter().map(|&byte| bytes.ids[byte as usize]));
                let rank = |pair: &[u8; 2]| bytes.pair_ranks[pair_index(pair)];
                scratch.ranks.clear();
                scratch.ranks.extend(piece.array_windows().map(rank));
                self.merges.apply_ranked(symbols, scratch);
                tokens.extend(symbols.drain(..).map(TokenId));
            }
            (None, Alphabet::Bytes(bytes)) => {
                self.encode_known_bytes(piece, bytes, symbols, scratch, tokens);
            }
            (None, Alphabet::Chars(chars)) => {
                self.encode_chars(piece, chars, symbols, scratch, tokens);
            }
        }
        self.cache.insert(table, key, piece, tokens);
        ids.extend_from_slice(tokens);
    }

    /// Encodes a piece where some bytes may have no token: the unknown token stands for each.
    fn encode_known_bytes(
        &self,
        piece: &[u8],
        bytes: &Bytes,
        symbols: &mut Vec<u32>,
        scratch: &mut Scratch,
        tokens: &mut Vec<TokenId>,
    ) {
        // What is lost leaves no gap: its neighbours may merge, as in `tokenizers`.
        let cuts = |byte: &u8| bytes.unk.is_some() && bytes.ids[usize::from(*byte)] == NONE;
        for part in piece.split_inclusive(cuts) {
            symbols.clear();
            let ids = part.iter().map(|&byte| bytes.ids[byte as usize]);
            symbols.extend(ids.filter(|&id| id != NONE));
            let unknown = symbols.len() < part.len();
            self.merges.apply(symbols, scratch);
            tokens.extend(symbols.drain(..).map(TokenId));
            if unknown {
                tokens.extend(bytes.unk);
            }
        }
    }

    /// Encodes a piece character by character; one outside the vocabulary merges with nothing.
    fn encode_chars(
        &self,
        piece: &[u8],
        chars: &Chars,
        symbols: &mut Vec<u32>,
        scratch: &mut Scratch,
        tokens: &mut Vec<TokenId>,
    ) {
        let mut flush = |symbols: &mut Vec<u32>, tokens: &mut Vec<TokenId>| {
            self.merges.apply(symbols, scratch);
            for id in symbols.drain(..) {
                match chars.beyond(id) {
                    Some(c) => chars.spell(c.encode_utf8(&mut [0; 4]).as_bytes(), tokens),
                    None => tokens.push(TokenId(id)),
                }
            }
        };
        let mut at = 0;
        while at < piece.len() {
            let (code, bytes) = decode(&piece[at..]);
            match code.and_then(|code| chars.id_of(code)) {
                Some(id) => symbols.push(id),
                None => {
                    flush(symbols, tokens);
                    chars.spell(&piece[at..at + bytes], tokens);
                }
            }
            at += bytes;
        }
        flush(symbols, tokens);
    }

    /// The ids of a text without the space in front, whatever the vocabulary's rule.
    pub(super) fn encode_without_prefix(&self, text: &str) -> Vec<TokenId> {
        let mut ids = Vec::new();
        let mut buffer = Vec::new();
        push_with_spaces(&mut buffer, text.as_bytes());
        self.with_work(|work| self.encode_plain(&buffer, work, &mut ids));
        ids
    }
}

/// Where the rank of two bytes stands in [`Bytes::pair_ranks`].
#[inline]
fn pair_index(pair: &[u8; 2]) -> usize {
    usize::from(pair[0]) << 8 | usize::from(pair[1])
}

/// Unicode normal form C of what is UTF-8 in `text`; the rest as it is.
pub(super) fn normal_form_c(text: &[u8]) -> Vec<u8> {
    use unicode_normalization::UnicodeNormalization;
    let mut normal = Vec::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        if chunk.valid().is_ascii() {
            normal.extend_from_slice(chunk.valid().as_bytes());
        } else {
            normal.extend_from_slice(chunk.valid().nfc().collect::<String>().as_bytes());
        }
        normal.extend_from_slice(chunk.invalid());
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_after_forgetting_and_ids_stay() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/tokenizer/tokenizer.json");
        let tokenizer = Tokenizer::from_tokenizer_json(&std::fs::read(file).unwrap()).unwrap();
        let ids = tokenizer.encode("The people of the United States");
        let kept = || tokenizer.idle.lock().unwrap().len();
        assert_eq!(kept(), 1);
        tokenizer.forget();
        assert_eq!(kept(), 0);
        assert_eq!(tokenizer.encode("The people of the United States"), ids);
    }
}
