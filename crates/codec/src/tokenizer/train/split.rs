//! How texts are cut into pieces before pairs are counted.

use crate::CodecError;
use crate::tokenizer::Tokenizer;
use crate::tokenizer::added::{AddedTokens, Segment};
use crate::tokenizer::encode::normal_form_c;
use crate::tokenizer::split as ends;
use crate::tokenizer::steps::{Behaviour, Splitter, Step};

/// A way of cutting texts, as a setting of training. Merges never cross the border of a piece.
#[derive(Clone, Debug)]
pub struct Split {
    splitter: Splitter,
    nfc: bool,
    /// Text tokens that are recognised whole and never merge.
    added: AddedTokens,
}

impl Split {
    /// Llama 3's.
    pub fn llama3() -> Self {
        Self::plain(Splitter::Llama3)
    }

    /// A split by its name in GGUF files (`llama3`, `qwen2`, `gpt-2`, `smollm` ...), else a
    /// pattern whose matches, and what lies between them, are the pieces. Patterns of models that
    /// Herd knows run as hand-written code, others as regular expressions.
    ///
    /// Errors if the engine refuses the pattern.
    pub fn new(name_or_pattern: &str) -> Result<Self, CodecError> {
        if let Ok(splitter) = Splitter::named(name_or_pattern) {
            return Ok(Self::plain(splitter));
        }
        let step = Step::pattern(name_or_pattern, Behaviour::Isolated)?;
        Ok(Self::plain(Splitter::of(vec![step])))
    }

    fn plain(splitter: Splitter) -> Self {
        Self { splitter, nfc: false, added: AddedTokens::new(Vec::new()) }
    }

    /// The way in which a tokenizer cuts texts, its normal form and added text tokens included.
    pub fn of(tokenizer: &Tokenizer) -> Self {
        let plain = tokenizer.added_tokens().filter(|token| !token.special).cloned();
        Self {
            splitter: tokenizer.splitter.clone(),
            nfc: tokenizer.nfc,
            added: AddedTokens::new(plain.collect()),
        }
    }

    pub(super) fn splitter(&self) -> &Splitter {
        &self.splitter
    }

    /// The last place inside `text` where it may be cut without a change of any piece: before an
    /// ASCII letter at the begin of a line. `None` where there is none, or none is known.
    ///
    /// No hand-written split lets a newline and a letter share a piece. Those of Llama 3 and Qwen 2
    /// end a piece after the last newline of white space whatever follows; GPT-2's cut white space
    /// before its last character unless the text ends, so there the newline must stand alone.
    pub fn last_cut(&self, text: &[u8]) -> Option<usize> {
        let alone = match self.splitter {
            Splitter::Llama3 | Splitter::Qwen2 => false,
            Splitter::Gpt2 | Splitter::Gpt2SingleDigits => true,
            Splitter::SpacesThenWord | Splitter::Whole | Splitter::Steps(_) => return None,
        };
        if self.added.iter().next().is_some() {
            return None;
        }
        let cuts = |three: &[u8]| match three {
            [before, b'\n', letter] => {
                letter.is_ascii_alphabetic() && (before.is_ascii_graphic() || !alone)
            }
            _ => false,
        };
        text.windows(3).rposition(cuts).map(|at| at + 2)
    }

    /// Calls `each` with every piece of `text`, as the bytes around it and its borders.
    ///
    /// Errors if a pattern without hand-written code gives up on the text.
    pub(super) fn each_piece(
        &self,
        text: &str,
        mut each: impl FnMut(&[u8], usize, usize),
    ) -> Result<(), CodecError> {
        let mut result = Ok(());
        self.added.segments(text.as_bytes(), None, |segment| {
            let Segment::Text(text, _) = segment else { return };
            let cut = match self.nfc {
                true => self.cut(&normal_form_c(text), &mut each),
                false => self.cut(text, &mut each),
            };
            if result.is_ok() {
                result = cut;
            }
        });
        result
    }

    fn cut(
        &self,
        text: &[u8],
        each: &mut impl FnMut(&[u8], usize, usize),
    ) -> Result<(), CodecError> {
        match &self.splitter {
            Splitter::Llama3 => by_hand(text, ends::llama3::<3>, each),
            Splitter::Qwen2 => by_hand(text, ends::llama3::<1>, each),
            Splitter::Gpt2 => by_hand(text, ends::gpt2, each),
            Splitter::Gpt2SingleDigits => by_hand(text, ends::gpt2_single_digits, each),
            Splitter::SpacesThenWord => by_hand(text, ends::spaces_then_word, each),
            Splitter::Whole => by_hand(text, |text, _| text.len(), each),
            Splitter::Steps(steps) => {
                let mut at = 0;
                for end in steps.try_ends(text)? {
                    each(text, at, end);
                    at = end;
                }
            }
        }
        Ok(())
    }
}

#[inline(always)]
fn by_hand(
    text: &[u8],
    piece_end: impl Fn(&[u8], usize) -> usize,
    each: &mut impl FnMut(&[u8], usize, usize),
) {
    let mut at = 0;
    while at < text.len() {
        let end = piece_end(text, at);
        each(text, at, end);
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces(split: &Split, text: &str) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        split.each_piece(text, |text, at, end| pieces.push(text[at..end].to_vec())).unwrap();
        pieces
    }

    proptest! {
        #[test]
        fn cutting_where_it_is_allowed_changes_no_piece(
            text in "[ab0 .'\r\n\t\u{e9}\u{3000}\u{660}]{0,8}[a \r.]\n[ab]{1,2}[ab0 .'\r\u{e9}]{0,8}",
        ) {
            for name in ["llama3", "qwen2", "gpt-2", "smollm"] {
                let split = Split::new(name).unwrap();
                let Some(at) = split.last_cut(text.as_bytes()) else {
                    prop_assert!(name == "gpt-2" || name == "smollm");
                    continue;
                };
                let cut = [pieces(&split, &text[..at]), pieces(&split, &text[at..])].concat();
                prop_assert_eq!(cut, pieces(&split, &text), "{}", name);
            }
        }
    }

    #[test]
    fn a_pattern_of_a_known_model_runs_by_hand_and_a_bad_one_is_refused() {
        let known = Split::new(ends::LLAMA3).unwrap();
        assert!(matches!(known.splitter, Splitter::Llama3));
        let own = Split::new(r"\w+|\W+").unwrap();
        assert_eq!(pieces(&own, "ab, c"), [&b"ab"[..], b", ", b"c"]);
        assert!(matches!(Split::new("(").unwrap_err(), CodecError::Pattern { .. }));
        let endless = Split::new(r"(x+x+)+\1y").unwrap();
        let error = endless.each_piece(&"x".repeat(5000), |_, _, _| {}).unwrap_err();
        assert!(matches!(error, CodecError::Backtrack { .. }), "{error}");
    }
}
