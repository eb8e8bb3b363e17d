//! Tokens with a duty: begin and end of text, of a turn, of a tool call; and the tables of Llama 3.

use super::{TokenId, Tokenizer};
use crate::CodecError;

/// The tokens that a model's formats name, as far as the vocabulary has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Specials {
    /// Begins a text.
    pub bos: Option<TokenId>,
    /// Ends a text.
    pub eos: Option<TokenId>,
    /// Ends a turn.
    pub eot: Option<TokenId>,
    /// Ends a message inside a turn (a tool call).
    pub eom: Option<TokenId>,
    /// Fills up batches.
    pub pad: Option<TokenId>,
    /// Stands for what the vocabulary cannot spell.
    pub unk: Option<TokenId>,
    /// Begins a call of a tool or code.
    pub python_tag: Option<TokenId>,
    /// Begins the header of a message.
    pub start_header: Option<TokenId>,
    /// Ends the header of a message.
    pub end_header: Option<TokenId>,
    /// Stands where an image is seen.
    pub image: Option<TokenId>,
    /// Code infilling: before the prefix.
    pub fim_prefix: Option<TokenId>,
    /// Code infilling: before the suffix.
    pub fim_suffix: Option<TokenId>,
    /// Code infilling: before the middle.
    pub fim_middle: Option<TokenId>,
    /// Code infilling: ends the middle.
    pub fim_end: Option<TokenId>,
}

impl Specials {
    /// Finds each by the names that published models use; the first name that exists counts.
    pub(super) fn by_name(find: impl Fn(&str) -> Option<TokenId>) -> Self {
        let first = |names: &[&str]| names.iter().find_map(|name| find(name));
        Self {
            bos: first(&["<|begin_of_text|>", "<s>", "<｜begin▁of▁sentence｜>"]),
            eos: first(&["<|end_of_text|>", "</s>", "<｜end▁of▁sentence｜>", "<|endoftext|>"]),
            eot: first(&["<|eot_id|>", "<|im_end|>", "<|EOT|>", "<|end|>"]),
            eom: first(&["<|eom_id|>"]),
            pad: first(&["<|finetune_right_pad_id|>", "<pad>", "[PAD]"]),
            unk: first(&["<unk>"]),
            python_tag: first(&["<|python_tag|>"]),
            start_header: first(&["<|start_header_id|>"]),
            end_header: first(&["<|end_header_id|>"]),
            image: first(&["<|image|>"]),
            fim_prefix: first(&["▁<PRE>", "<|fim_prefix|>", "<fim_prefix>"]),
            fim_suffix: first(&["▁<SUF>", "<|fim_suffix|>", "<fim_suffix>"]),
            fim_middle: first(&["▁<MID>", "<|fim_middle|>", "<fim_middle>"]),
            fim_end: first(&["▁<EOT>"]),
        }
    }

    /// The same duties, every id as `place` moves it.
    pub(super) fn moved(self, place: impl Fn(TokenId) -> TokenId) -> Self {
        let Self { bos, eos, eot, eom, pad, unk, python_tag, start_header, end_header, .. } = self;
        let Self { image, fim_prefix, fim_suffix, fim_middle, fim_end, .. } = self;
        Self {
            bos: bos.map(&place),
            eos: eos.map(&place),
            eot: eot.map(&place),
            eom: eom.map(&place),
            pad: pad.map(&place),
            unk: unk.map(&place),
            python_tag: python_tag.map(&place),
            start_header: start_header.map(&place),
            end_header: end_header.map(&place),
            image: image.map(&place),
            fim_prefix: fim_prefix.map(&place),
            fim_suffix: fim_suffix.map(&place),
            fim_middle: fim_middle.map(&place),
            fim_end: fim_end.map(&place),
        }
    }

    /// The tokens that end an answer: of text, turn and message, each once.
    ///
    /// Llama 3.1 gives 128001, 128009, 128008.
    pub fn stops(&self) -> Vec<TokenId> {
        let mut stops = Vec::new();
        for id in [self.eos, self.eot, self.eom, self.fim_end].into_iter().flatten() {
            if !stops.contains(&id) {
                stops.push(id);
            }
        }
        stops
    }
}

/// The 256 special tokens that follow the ranks of a Llama 3 `tokenizer.model`.
///
/// The rank file does not name them, so the caller says which model it belongs to. Ids of the
/// named tokens agree wherever two tables both name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialTable {
    /// Llama 3, April 2024: no pad, end-of-message or python tag.
    Llama3,
    /// Llama 3.1 and later as Hugging Face has them.
    Llama31,
    /// Llama 3.2 and Meta's code from `llama-models` 0.3: `<|step_id|>` and `<|image|>` besides.
    MetaLlama32,
    /// None: the ranks are all there is.
    None,
}

/// How many special tokens a Llama 3 vocabulary has.
pub(super) const LLAMA3_SPECIALS: usize = 256;

impl SpecialTable {
    /// The special strings in the order of their ids.
    pub(super) fn names(self) -> Vec<String> {
        let named: &[(usize, &str)] = match self {
            Self::None => return Vec::new(),
            Self::Llama3 => &[],
            Self::Llama31 => return llama3_names(LLAMA3_SPECIALS),
            Self::MetaLlama32 => &[
                (4, "<|finetune_right_pad_id|>"),
                (5, "<|step_id|>"),
                (8, "<|eom_id|>"),
                (10, "<|python_tag|>"),
                (11, "<|image|>"),
            ],
        };
        names_with(named, LLAMA3_SPECIALS)
    }
}

/// The first `count` names of Llama 3.1's kind; beyond 256 the reserved ones go on.
pub(super) fn llama3_names(count: usize) -> Vec<String> {
    let named = [(4, "<|finetune_right_pad_id|>"), (8, "<|eom_id|>"), (10, "<|python_tag|>")];
    names_with(&named, count)
}

/// `count` names: those that all Llama 3 models have, `named`, and reserved ones between.
fn names_with(named: &[(usize, &str)], count: usize) -> Vec<String> {
    let common = [
        (0, "<|begin_of_text|>"),
        (1, "<|end_of_text|>"),
        (6, "<|start_header_id|>"),
        (7, "<|end_header_id|>"),
        (9, "<|eot_id|>"),
    ];
    let mut names = vec![String::new(); count];
    for &(at, name) in common.iter().chain(named).filter(|(at, _)| *at < count) {
        names[at] = name.to_owned();
    }
    let unnamed = names.iter_mut().filter(|name| name.is_empty());
    for (i, name) in unnamed.enumerate() {
        *name = format!("<|reserved_special_token_{i}|>");
    }
    names
}

/// The special strings that a raw prompt may contain as tokens.
///
/// Everything else that looks special is encoded as the plain text it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpecialSet {
    /// Every special token of the vocabulary.
    All,
    /// Only these.
    Only(Vec<TokenId>),
}

impl SpecialSet {
    /// The set of the named special tokens.
    ///
    /// Errors with the first name that the vocabulary does not have.
    pub fn named(tokenizer: &Tokenizer, names: &[&str]) -> Result<Self, CodecError> {
        let find = |name: &&str| {
            tokenizer.special_id(name).ok_or_else(|| CodecError::NoSpecial((*name).to_owned()))
        };
        Ok(Self::Only(names.iter().map(find).collect::<Result<_, _>>()?))
    }

    pub(super) fn allows(&self, id: TokenId) -> bool {
        match self {
            Self::All => true,
            Self::Only(ids) => ids.contains(&id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_llama_3_put_each_name_at_its_published_id() {
        let at = |table: SpecialTable, name: &str| table.names().iter().position(|n| n == name);
        for table in [SpecialTable::Llama3, SpecialTable::Llama31, SpecialTable::MetaLlama32] {
            assert_eq!(table.names().len(), 256);
            assert_eq!(at(table, "<|eot_id|>"), Some(9));
            assert_eq!(at(table, "<|reserved_special_token_0|>"), Some(2));
        }
        assert_eq!(at(SpecialTable::Llama3, "<|reserved_special_token_5|>"), Some(10));
        assert_eq!(at(SpecialTable::Llama3, "<|reserved_special_token_250|>"), Some(255));
        assert_eq!(at(SpecialTable::Llama31, "<|reserved_special_token_2|>"), Some(5));
        assert_eq!(at(SpecialTable::Llama31, "<|reserved_special_token_247|>"), Some(255));
        assert_eq!(at(SpecialTable::MetaLlama32, "<|image|>"), Some(11));
        assert_eq!(at(SpecialTable::MetaLlama32, "<|reserved_special_token_2|>"), Some(12));
    }
}
