//! Code Llama's infilling prompts: what stands before and after, and the model writes between.

use super::{TokenId, Tokenizer};
use crate::CodecError;

/// The order of the parts of an infilling prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InfillOrder {
    /// Prefix, suffix, middle.
    Psm,
    /// Suffix, prefix, middle.
    Spm,
}

impl Tokenizer {
    /// The prompt after which the model writes what lies between `prefix` and `suffix`; it ends
    /// with [`fim_end`](super::Specials::fim_end).
    ///
    /// The suffix gets no leading space. Errors if the vocabulary lacks an infilling token.
    /// Source: Code Llama, arXiv 2308.12950, section 2.3, and its `generation.py`.
    pub fn encode_infill(
        &self,
        prefix: &str,
        suffix: &str,
        order: InfillOrder,
    ) -> Result<Vec<TokenId>, CodecError> {
        let specials = self.specials();
        let need = |id: Option<TokenId>, name: &str| {
            id.ok_or_else(|| CodecError::NoSpecial(name.to_owned()))
        };
        let bos = need(specials.bos, "<s>")?;
        let pre = need(specials.fim_prefix, "▁<PRE>")?;
        let suf = need(specials.fim_suffix, "▁<SUF>")?;
        let mid = need(specials.fim_middle, "▁<MID>")?;
        let prefix = self.encode(prefix);
        let suffix = self.encode_without_prefix(suffix);
        Ok(match order {
            InfillOrder::Psm => [&[bos, pre][..], &prefix, &[suf], &suffix, &[mid]].concat(),
            InfillOrder::Spm => [&[bos, pre, suf][..], &suffix, &[mid], &prefix].concat(),
        })
    }
}
