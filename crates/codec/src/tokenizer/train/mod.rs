//! Learning a vocabulary from text: byte-pair encoding from scratch, and more merges on top of
//! an existing vocabulary.
//!
//! | file | brings |
//! |---|---|
//! | `split` | how texts are cut into pieces, as a setting |
//! | `pieces` | how often each piece occurs: all that training knows of a text |
//! | `fold` | counting on many threads |
//! | `learn` | the merges: join the commonest neighbours, again and again |
//! | `extend` | merges for other languages, the old ids as they were |
//! | `guard` | which merges an extension leaves alone |

mod extend;
mod fold;
mod guard;
mod learn;
mod pieces;
mod split;

pub use extend::{Extension, NewIds, extend};
pub use fold::fold;
pub use guard::Guard;
pub use pieces::PieceCounts;
pub use split::Split;

use super::bpe::IDS_MAX;
use super::build::{AlphabetPart, MergeOrder, Parts};
use super::byte_chars;
use super::specials::{LLAMA3_SPECIALS, llama3_names};
use super::steps::check_size;
use super::vocab::TOKEN_BYTES_MAX;
use super::{AddedToken, Specials, TokenId, TokenKind, Tokenizer};
use crate::CodecError;
use learn::{Rules, Words, learn};

/// What a vocabulary shall be.
#[derive(Clone, Debug)]
pub struct Training {
    /// Number of ids: 256 bytes, merges and special tokens together, as models count them.
    pub vocab_size: usize,
    /// How texts are cut into pieces.
    pub split: Split,
    /// Names of the special tokens, which take the last ids in this order.
    pub specials: Vec<String>,
    /// Merges that would make a longer token are passed over.
    pub token_bytes_max: usize,
}

impl Training {
    /// Llama 3's split and its 256 special tokens in a vocabulary of `vocab_size` ids.
    pub fn llama3(vocab_size: usize) -> Self {
        let (split, specials) = (Split::llama3(), special_names(LLAMA3_SPECIALS));
        Self { vocab_size, split, specials, token_bytes_max: LLAMA3_TOKEN_BYTES }
    }
}

/// Length of the longest token of Llama 3's vocabulary. Longer ones are runs of one sign.
pub const LLAMA3_TOKEN_BYTES: usize = 128;

/// The first `count` special tokens by Llama 3.1's convention: those with a duty at their places,
/// `<|reserved_special_token_N|>` at all others. Fewer than 11 leave out tokens with a duty.
pub fn special_names(count: usize) -> Vec<String> {
    llama3_names(count)
}

/// A merge that was learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearntMerge {
    /// The token on the left.
    pub left: TokenId,
    /// The token on the right.
    pub right: TokenId,
    /// What they become.
    pub id: TokenId,
    /// How often they stood side by side when they were joined.
    pub count: u64,
}

/// A vocabulary with the story of its making.
#[derive(Debug)]
pub struct Trained {
    /// The vocabulary.
    pub tokenizer: Tokenizer,
    /// The merges in the order in which they were learnt. Fewer than asked for where the text has
    /// no more pairs.
    pub merges: Vec<LearntMerge>,
    /// How many merges were asked for.
    pub merges_asked: usize,
    /// Tokens of the text before the first merge, and after the last.
    pub tokens: (u64, u64),
}

/// Learns a byte-level vocabulary.
///
/// Start from the 256 bytes, in the order of Llama 3's rank file (printable ASCII first); then
/// join the pair of neighbours with the greatest count, again and again. Of equal counts the pair
/// with the lower left id goes first, then the one with the lower right id, as in `tokenizers`.
/// Counts are of all places where the pair stands, overlapping ones too. The same merges for any
/// number of threads that counted, and any order of the texts.
///
/// `progress` is called with the merges done and their number. Errors if there is no text, the
/// size leaves no room for bytes and special tokens, or a special name is empty or given twice.
pub fn train(
    pieces: &PieceCounts,
    training: &Training,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Trained, CodecError> {
    let Training { vocab_size, specials, token_bytes_max, .. } = training;
    let least = 256 + specials.len();
    if *vocab_size < least {
        return Err(CodecError::VocabSize { got: *vocab_size, least, specials: specials.len() });
    }
    check_size("the vocabulary", *vocab_size, IDS_MAX - 1)?;
    check_names(specials)?;
    if pieces.is_empty() {
        return Err(CodecError::NoText);
    }
    let bytes = byte_chars::in_written_order();
    let mut id_of = [0; 256];
    bytes.iter().zip(0..).for_each(|(&byte, id)| id_of[usize::from(byte)] = id);
    let mut words = Words::default();
    for (piece, count) in pieces.iter() {
        words.push(piece.iter().map(|&byte| id_of[usize::from(byte)]), count)?;
    }
    let mut tokens: Vec<Vec<u8>> = bytes.iter().map(|&byte| vec![byte]).collect();
    let merges_asked = vocab_size - least;
    let token_bytes_max = (*token_bytes_max).min(TOKEN_BYTES_MAX);
    let rules = Rules { merges: merges_asked, token_bytes_max, refuses: &|_, _, _| false };
    let before = words.tokens();
    let (merges, after) = learn(words, &mut tokens, &rules, progress);
    let tokenizer = build(tokens, &merges, training)?;
    Ok(Trained { tokenizer, merges, merges_asked, tokens: (before, after) })
}

/// Errors if a name is empty, given twice, or one that a text token could have.
fn check_names(names: &[String]) -> Result<(), CodecError> {
    let mut seen = std::collections::HashSet::new();
    match names.iter().find(|name| name.is_empty() || !seen.insert(name.as_str())) {
        None => Ok(()),
        Some(name) => Err(CodecError::Field {
            field: "the names of special tokens".to_owned(),
            expected: "not empty and each given once",
            got: format!("{name:?}"),
        }),
    }
}

fn build(
    tokens: Vec<Vec<u8>>,
    merges: &[LearntMerge],
    training: &Training,
) -> Result<Tokenizer, CodecError> {
    let first = tokens.len() as u32;
    let mut tokens: Vec<_> = tokens.into_iter().map(|t| (t, TokenKind::Normal)).collect();
    let names = training.specials.iter();
    tokens.extend(names.map(|name| (name.clone().into_bytes(), TokenKind::Control)));
    let added: Vec<AddedToken> =
        (first..).zip(&training.specials).map(|(id, name)| special(TokenId(id), name)).collect();
    let find = |name: &str| added.iter().find(|t| t.text == name).map(|t| t.id);
    let specials = Specials::by_name(find);
    Parts {
        tokens,
        alphabet: AlphabetPart::Bytes,
        order: MergeOrder::List(merges.iter().map(LearntMerge::ids).collect()),
        whole_pieces: true,
        splitter: training.split.splitter().clone(),
        nfc: false,
        specials,
        add_bos: specials.bos.is_some(),
        add_eos: false,
        added,
    }
    .build()
}

fn special(id: TokenId, name: &str) -> AddedToken {
    let (lstrip, rstrip, normalized) = (false, false, false);
    AddedToken { id, text: name.to_owned(), special: true, lstrip, rstrip, normalized }
}

impl LearntMerge {
    fn ids(&self) -> [u32; 3] {
        [self.left.0, self.right.0, self.id.0]
    }
}
