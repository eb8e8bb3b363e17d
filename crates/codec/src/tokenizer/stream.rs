//! Text from tokens as they come: whole characters only.

use super::{Controls, TokenId, Tokenizer};

/// Turns tokens into text one by one, holding back the bytes of an unfinished character.
///
/// The pieces joined, with [`flush`](Self::flush) at the end, equal
/// [`decode_lossy`](Tokenizer::decode_lossy) of all tokens.
#[derive(Clone, Debug)]
pub struct StreamDecoder {
    controls: Controls,
    pending: Vec<u8>,
    /// No text has come yet, so a SentencePiece leading space may still be dropped.
    at_start: bool,
}

impl StreamDecoder {
    /// A decoder at the start of a text.
    pub fn new(controls: Controls) -> Self {
        Self { controls, pending: Vec::new(), at_start: true }
    }

    /// A decoder that goes on after a prompt: a leading space is kept.
    pub fn after_prompt(controls: Controls) -> Self {
        Self { at_start: false, ..Self::new(controls) }
    }

    /// Takes one token and appends the characters that are now whole to `out`.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: TokenId, out: &mut String) {
        let bytes = tokenizer.visible_bytes(id, self.controls, &mut self.at_start);
        if self.pending.is_empty()
            && let Ok(text) = std::str::from_utf8(bytes)
        {
            out.push_str(text);
            return;
        }
        self.pending.extend_from_slice(bytes);
        let whole = self.pending.len() - unfinished(&self.pending);
        out.push_str(&String::from_utf8_lossy(&self.pending[..whole]));
        self.pending.drain(..whole);
    }

    /// Ends the text: what is still unfinished becomes U+FFFD.
    pub fn flush(&mut self, out: &mut String) {
        out.push_str(&String::from_utf8_lossy(&self.pending));
        self.pending.clear();
    }
}

/// How many bytes at the end begin a character that more bytes could complete.
fn unfinished(bytes: &[u8]) -> usize {
    let Some(last) = bytes.utf8_chunks().last() else { return 0 };
    let broken = last.invalid();
    // `from_utf8` tells a character cut short (no error length) from one that is wrong.
    match std::str::from_utf8(broken) {
        Err(error) if error.error_len().is_none() => broken.len(),
        Err(_) | Ok(_) => 0,
    }
}
