//! Strings that stand for one token wherever they are recognised, and finding them in a text.

use super::{SpecialSet, TokenId};

/// A token beside the trained vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedToken {
    /// Its id.
    pub id: TokenId,
    /// Its text.
    pub text: String,
    /// A control token: recognised only where the caller allows it. Others are always recognised.
    pub special: bool,
    /// Takes the white space before it along.
    pub lstrip: bool,
    /// Takes the white space after it along.
    pub rstrip: bool,
    /// Kept for the file only; texts are searched before they are normalised.
    pub normalized: bool,
}

/// A stretch of a text: to be encoded, or one token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Segment<'t> {
    /// Plain text, and whether it begins the text or follows a token.
    Text(&'t [u8], bool),
    Token(TokenId),
}

/// All added tokens, sorted by their bytes.
#[derive(Clone, Debug)]
pub(super) struct AddedTokens {
    sorted: Vec<AddedToken>,
    /// First bytes of all tokens, and of those that are not special.
    starts_any: [bool; 256],
    starts_plain: [bool; 256],
    has_plain: bool,
}

impl AddedTokens {
    pub(super) fn new(mut tokens: Vec<AddedToken>) -> Self {
        tokens.retain(|token| !token.text.is_empty());
        tokens.sort_by(|a, b| a.text.as_bytes().cmp(b.text.as_bytes()).then(b.id.cmp(&a.id)));
        let (mut starts_any, mut starts_plain) = ([false; 256], [false; 256]);
        for token in &tokens {
            let first = token.text.as_bytes()[0] as usize;
            starts_any[first] = true;
            starts_plain[first] |= !token.special;
        }
        let has_plain = tokens.iter().any(|token| !token.special);
        Self { sorted: tokens, starts_any, starts_plain, has_plain }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &AddedToken> {
        self.sorted.iter()
    }

    /// The token with this text.
    pub(super) fn find(&self, text: &str) -> Option<&AddedToken> {
        let at = self.sorted.partition_point(|t| t.text.as_bytes() < text.as_bytes());
        self.sorted.get(at).filter(|token| token.text == text)
    }

    /// Cuts `text` at the tokens it holds: leftmost first, of those the longest. Special ones
    /// count if `allowed` has them.
    pub(super) fn segments<'t>(
        &self,
        text: &'t [u8],
        allowed: Option<&SpecialSet>,
        mut each: impl FnMut(Segment<'t>),
    ) {
        let starts = match allowed {
            Some(_) => &self.starts_any,
            None if self.has_plain => &self.starts_plain,
            None => return each(Segment::Text(text, true)),
        };
        let (mut done, mut at, mut fresh) = (0, 0, true);
        while let Some(skipped) = text[at..].iter().position(|&b| starts[b as usize]) {
            at += skipped;
            let Some(token) = self.longest_at(text, at, allowed) else {
                at += 1;
                continue;
            };
            let mut before = &text[done..at];
            if token.lstrip {
                before = before.trim_ascii_end();
            }
            if !before.is_empty() {
                each(Segment::Text(before, fresh));
            }
            each(Segment::Token(token.id));
            fresh = true;
            at += token.text.len();
            if token.rstrip {
                at = text.len() - text[at..].trim_ascii_start().len();
            }
            done = at;
        }
        if done < text.len() {
            each(Segment::Text(&text[done..], fresh));
        }
    }

    /// The longest allowed token that `text[at..]` begins with.
    fn longest_at(
        &self,
        text: &[u8],
        at: usize,
        allowed: Option<&SpecialSet>,
    ) -> Option<&AddedToken> {
        let mut group = &self.sorted[..];
        let mut best = None;
        for depth in 0.. {
            // All of `group` begin with the `depth` bytes read so far; a whole one comes first.
            let first = group.first()?;
            if first.text.len() == depth
                && (!first.special || allowed.is_some_and(|set| set.allows(first.id)))
            {
                best = Some(first);
            }
            let Some(&byte) = text.get(at + depth) else { break };
            let byte_of = |token: &AddedToken| token.text.as_bytes().get(depth).copied();
            let from = group.partition_point(|token| byte_of(token) < Some(byte));
            let to = group.partition_point(|token| byte_of(token) <= Some(byte));
            if from == to {
                break;
            }
            group = &group[from..to];
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: u32, text: &str, special: bool) -> AddedToken {
        let (id, text) = (TokenId(id), text.to_owned());
        AddedToken { id, text, special, lstrip: false, rstrip: false, normalized: false }
    }

    fn cut<'t>(
        tokens: &AddedTokens,
        text: &'t str,
        allowed: Option<&SpecialSet>,
    ) -> Vec<Segment<'t>> {
        let mut segments = Vec::new();
        tokens.segments(text.as_bytes(), allowed, |segment| segments.push(segment));
        segments
    }

    #[test]
    fn the_longest_of_the_leftmost_tokens_wins() {
        let tokens = AddedTokens::new(vec![
            token(1, "<a", true),
            token(2, "<a>", true),
            token(3, "b", true),
        ]);
        assert_eq!(
            cut(&tokens, "x<a>b<a", Some(&SpecialSet::All)),
            [
                Segment::Text(b"x", true),
                Segment::Token(TokenId(2)),
                Segment::Token(TokenId(3)),
                Segment::Token(TokenId(1)),
            ]
        );
        let only = SpecialSet::Only(vec![TokenId(1)]);
        assert_eq!(
            cut(&tokens, "<a>b", Some(&only)),
            [Segment::Token(TokenId(1)), Segment::Text(b">b", true)]
        );
    }

    #[test]
    fn special_tokens_are_text_unless_allowed() {
        let tokens = AddedTokens::new(vec![token(1, "<s>", true), token(2, "\t\t", false)]);
        assert_eq!(cut(&tokens, "<s>", None), [Segment::Text(b"<s>", true)]);
        assert_eq!(
            cut(&tokens, "<s>\t\tx", None),
            [Segment::Text(b"<s>", true), Segment::Token(TokenId(2)), Segment::Text(b"x", true)]
        );
    }
}
