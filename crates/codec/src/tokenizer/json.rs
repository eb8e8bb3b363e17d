//! Reading Hugging Face's `tokenizer.json` (BPE models).

use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::Value;

use super::build::{AlphabetPart, MergeOrder, Parts};
use super::byte_chars;
use super::chars::{Prefix, VISIBLE_SPACE};
use super::gguf::resolve_merges;
use super::steps::{Behaviour, STEPS_MAX, Splitter, Step, check_size};
use super::{AddedToken, Specials, TokenId, TokenKind, Tokenizer};
use crate::CodecError;
use crate::error::shorten;

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    dropout: Option<f64>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    vocab: HashMap<String, u32>,
    #[serde(default)]
    merges: Vec<Pair>,
}

/// A merge, written `"left right"` or `["left", "right"]`.
struct Pair(String, String);

impl<'de> Deserialize<'de> for Pair {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairVisitor;
        impl<'de> Visitor<'de> for PairVisitor {
            type Value = Pair;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge: \"left right\" or [\"left\", \"right\"]")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Pair, E> {
                let halves = text.split_once(' ').filter(|halves| !halves.1.contains(' '));
                let (left, right) = halves.ok_or_else(|| E::custom(format!("merge {text:?}")))?;
                Ok(Pair(left.to_owned(), right.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Pair, A::Error> {
                let mut next = || {
                    let text = list.next_element::<String>()?;
                    text.ok_or_else(|| A::Error::custom("a merge has fewer than two halves"))
                };
                let pair = Pair(next()?, next()?);
                match list.next_element::<serde::de::IgnoredAny>()? {
                    None => Ok(pair),
                    Some(_) => Err(A::Error::custom("a merge has more than two halves")),
                }
            }
        }
        deserializer.deserialize_any(PairVisitor)
    }
}

impl Tokenizer {
    /// Reads a `tokenizer.json` with a BPE model. Padding and truncation, which are settings of a
    /// run, are not read.
    ///
    /// Errors if the file is broken or asks for something that would change ids and that this
    /// crate does not carry out; nothing that matters is passed over.
    pub fn from_tokenizer_json(file: &[u8]) -> Result<Self, CodecError> {
        let file: File = serde_json::from_slice(file)?;
        refuse_unsupported(&file.model)?;
        let mut text = TextRules::default();
        text.read_normalizer(&file.normalizer)?;
        text.read_pre_tokenizer(&file.pre_tokenizer)?;
        if !text.byte_level && !text.visible_space {
            return Err(unsupported("pre_tokenizer", &file.pre_tokenizer));
        }
        let bytes = text.byte_level;
        let tokens = tokens(&file, bytes)?;
        let added: Vec<AddedToken> = file.added_tokens.iter().map(added_token).collect();
        let ids: HashMap<&str, u32> =
            file.model.vocab.iter().map(|(text, &id)| (text.as_str(), id)).collect();
        let pairs = file.model.merges.iter().map(|pair| Ok((pair.0.as_str(), pair.1.as_str())));
        let order = MergeOrder::List(resolve_merges(&ids, pairs)?);
        let find = |name: &str| {
            let added = added.iter().find(|token| token.text == name).map(|token| token.id);
            added.or_else(|| ids.get(name).copied().map(TokenId))
        };
        let mut specials = Specials::by_name(find);
        specials.unk = match &file.model.unk_token {
            Some(name) => Some(find(name).ok_or_else(|| CodecError::NoSpecial(shorten(name)))?),
            None => None,
        };
        let ends = read_post_processor(&file.post_processor)?;
        let named = |name: Option<&str>, old| match name {
            Some(name) => find(name).map(Some).ok_or_else(|| CodecError::NoSpecial(shorten(name))),
            None => Ok(old),
        };
        specials.bos = named(ends.bos, specials.bos)?;
        specials.eos = named(ends.eos, specials.eos)?;
        let fuse_unk = file.model.fuse_unk;
        let prefix = text.prefix;
        Parts {
            tokens,
            alphabet: match bytes {
                true => AlphabetPart::Bytes,
                false => AlphabetPart::Chars { prefix, fuse_unk },
            },
            order,
            whole_pieces: file.model.ignore_merges,
            splitter: Splitter::of(text.steps),
            nfc: text.nfc,
            added,
            specials,
            add_bos: ends.bos.is_some(),
            add_eos: ends.eos.is_some(),
        }
        .build()
    }
}

fn unsupported(field: &str, got: &Value) -> CodecError {
    CodecError::Unsupported { field: field.to_owned(), got: shorten(&got.to_string()) }
}

fn refuse_unsupported(model: &Model) -> Result<(), CodecError> {
    let refuse = |field: &str, got: &str| {
        let (field, got) = (format!("model.{field}"), shorten(got));
        Err(CodecError::Unsupported { field, got })
    };
    match model.kind.as_deref() {
        Some("BPE") | None => {}
        Some(other) => return refuse("type", other),
    }
    if let Some(dropout) = model.dropout.filter(|&dropout| dropout != 0.0) {
        return refuse("dropout", &dropout.to_string());
    }
    for (field, affix) in [
        ("continuing_subword_prefix", &model.continuing_subword_prefix),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        if let Some(affix) = affix.as_deref().filter(|affix| !affix.is_empty()) {
            return refuse(field, affix);
        }
    }
    Ok(())
}

fn added_token(token: &Added) -> AddedToken {
    AddedToken {
        id: TokenId(token.id),
        text: token.content.clone(),
        special: token.special,
        lstrip: token.lstrip,
        rstrip: token.rstrip,
        normalized: token.normalized,
    }
}

/// Bytes and kind of each id; ids that nothing names are unused and empty.
fn tokens(file: &File, byte_level: bool) -> Result<Vec<(Vec<u8>, TokenKind)>, CodecError> {
    let ids = file.model.vocab.values().copied().chain(file.added_tokens.iter().map(|t| t.id));
    let size = ids.max().map_or(0, |id| id as usize + 1);
    // Gaps are allowed, but not so large that a small file asks for much memory.
    let limit = 2 * (file.model.vocab.len() + file.added_tokens.len()) + 1024;
    if size > limit {
        return Err(CodecError::TooLarge { what: "the largest id", got: size - 1, limit });
    }
    let mut tokens = vec![(Vec::new(), TokenKind::Unused); size];
    let mut named = vec![false; size];
    for (text, &id) in &file.model.vocab {
        if std::mem::replace(&mut named[id as usize], true) {
            return Err(CodecError::Duplicate { id: TokenId(id) });
        }
        let byte = super::sentencepiece::byte_piece(text).filter(|_| file.model.byte_fallback);
        let normal = match byte_level {
            true => byte_chars::to_bytes(text),
            false => Some(text.replace(VISIBLE_SPACE, " ").into_bytes()),
        };
        let unknown = file.model.unk_token.as_ref() == Some(text);
        tokens[id as usize] = match (byte, normal) {
            _ if unknown => (text.clone().into_bytes(), TokenKind::Unknown),
            (Some(byte), _) => (vec![byte], TokenKind::Byte),
            (None, Some(bytes)) => (bytes, TokenKind::Normal),
            // Characters outside the byte alphabet: no merge can reach it.
            (None, None) => (text.clone().into_bytes(), TokenKind::Unused),
        };
    }
    for token in &file.added_tokens {
        if token.single_word {
            return Err(unsupported("added_tokens.single_word", &Value::Bool(true)));
        }
        if file.model.vocab.get(&token.content).is_some_and(|&id| id != token.id) {
            return Err(CodecError::Duplicate { id: TokenId(token.id) });
        }
        let slot = &mut tokens[token.id as usize];
        let kind = if token.special { TokenKind::Control } else { TokenKind::UserDefined };
        // Over bytes the unknown token is often one that ends texts; it must stay control.
        let unknown = slot.1 == TokenKind::Unknown && !byte_level;
        let kind = if unknown { TokenKind::Unknown } else { kind };
        *slot = (token.content.clone().into_bytes(), kind);
    }
    Ok(tokens)
}

/// What happens to text before merging.
struct TextRules {
    nfc: bool,
    byte_level: bool,
    /// Spaces become U+2581.
    visible_space: bool,
    prefix: Prefix,
    steps: Vec<Step>,
}

impl Default for TextRules {
    fn default() -> Self {
        let (nfc, byte_level, visible_space) = (false, false, false);
        Self { nfc, byte_level, visible_space, prefix: Prefix::Never, steps: Vec::new() }
    }
}

impl TextRules {
    fn read_normalizer(&mut self, value: &Value) -> Result<(), CodecError> {
        let field = |name: &str| value.get(name).and_then(Value::as_str);
        match field("type") {
            None if value.is_null() => Ok(()),
            Some("Sequence") => {
                let list = value.get("normalizers").and_then(Value::as_array);
                let list = list.ok_or_else(|| unsupported("normalizer", value))?;
                list.iter().try_for_each(|value| self.read_normalizer(value))
            }
            Some("NFC") => {
                self.nfc = true;
                Ok(())
            }
            Some("Prepend") if field("prepend") == Some(VISIBLE_SPACE) => {
                self.prefix = Prefix::Always;
                Ok(())
            }
            Some("Replace")
                if field("content") == Some(VISIBLE_SPACE)
                    && value["pattern"]["String"].as_str() == Some(" ") =>
            {
                self.visible_space = true;
                Ok(())
            }
            _ => Err(unsupported("normalizer", value)),
        }
    }

    fn read_pre_tokenizer(&mut self, value: &Value) -> Result<(), CodecError> {
        // Before compiling one pattern too many.
        check_size("the number of split patterns", self.steps.len(), STEPS_MAX)?;
        let refuse = || unsupported("pre_tokenizer", value);
        let flag =
            |name: &str, default: bool| value.get(name).map_or(Some(default), Value::as_bool);
        match value.get("type").and_then(Value::as_str) {
            None if value.is_null() => {}
            Some("Sequence") => {
                let list = value.get("pretokenizers").and_then(Value::as_array);
                return list
                    .ok_or_else(refuse)?
                    .iter()
                    .try_for_each(|value| self.read_pre_tokenizer(value));
            }
            Some("ByteLevel") => {
                if flag("add_prefix_space", true) != Some(false) || self.byte_level {
                    return Err(refuse());
                }
                self.byte_level = true;
                if flag("use_regex", true).ok_or_else(refuse)? {
                    self.steps.push(Step::Gpt2);
                }
            }
            // After the bytes have become characters, patterns would see other text.
            _ if self.byte_level => return Err(refuse()),
            Some("Digits") => {
                let single = flag("individual_digits", false).ok_or_else(refuse)?;
                self.steps.push(Step::Digits { single });
            }
            Some("Split") => self.steps.push(read_split(value)?),
            Some("Punctuation") => {
                let behaviour = value.get("behavior").map_or(Ok(Behaviour::Isolated), behaviour)?;
                self.steps.push(Step::pattern(r"[\p{P}$+<=>^`|~]", behaviour)?);
            }
            Some("Metaspace") => {
                let replacement = value.get("replacement").and_then(Value::as_str);
                if replacement != Some(VISIBLE_SPACE) || flag("split", true) != Some(false) {
                    return Err(refuse());
                }
                self.visible_space = true;
                self.prefix = match value.get("prepend_scheme").and_then(Value::as_str) {
                    Some("always") => Prefix::UnlessSpace,
                    Some("first") => Prefix::FirstUnlessSpace,
                    Some("never") => Prefix::Never,
                    _ => return Err(refuse()),
                };
            }
            _ => return Err(refuse()),
        }
        Ok(())
    }
}

fn read_split(value: &Value) -> Result<Step, CodecError> {
    let refuse = || unsupported("pre_tokenizer", value);
    let pattern = value.get("pattern").ok_or_else(refuse)?;
    let invert = value.get("invert").is_some_and(|invert| invert == &Value::Bool(true));
    let kind = value.get("behavior").ok_or_else(refuse)?;
    // Removing what a pattern does not match keeps the matches, each by itself.
    let behaviour = match (kind.as_str(), invert) {
        (Some("Removed"), true) => Behaviour::Isolated,
        (_, true) => return Err(refuse()),
        (_, false) => behaviour(kind)?,
    };
    match (pattern["Regex"].as_str(), pattern["String"].as_str()) {
        (Some(regex), None) => Step::pattern(regex, behaviour),
        (None, Some(text)) => Step::pattern(&fancy_regex::escape(text), behaviour),
        _ => Err(refuse()),
    }
}

fn behaviour(value: &Value) -> Result<Behaviour, CodecError> {
    match value.as_str() {
        Some("Isolated") => Ok(Behaviour::Isolated),
        Some("Contiguous") => Ok(Behaviour::Contiguous),
        Some("MergedWithPrevious") => Ok(Behaviour::WithPrevious),
        Some("MergedWithNext") => Ok(Behaviour::WithNext),
        _ => Err(unsupported("pre_tokenizer.behavior", value)),
    }
}

/// The special tokens that are put around a single text.
#[derive(Default)]
struct Ends<'v> {
    bos: Option<&'v str>,
    eos: Option<&'v str>,
}

fn read_post_processor(value: &Value) -> Result<Ends<'_>, CodecError> {
    let refuse = || unsupported("post_processor", value);
    match value.get("type").and_then(Value::as_str) {
        None if value.is_null() => Ok(Ends::default()),
        Some("ByteLevel") => Ok(Ends::default()), // It moves offsets, not ids.
        Some("Sequence") => {
            let mut ends = Ends::default();
            let list = value.get("processors").and_then(Value::as_array).ok_or_else(refuse)?;
            for value in list {
                let found = read_post_processor(value)?;
                ends = Ends { bos: found.bos.or(ends.bos), eos: found.eos.or(ends.eos) };
            }
            Ok(ends)
        }
        Some("TemplateProcessing") => {
            let list = value.get("single").and_then(Value::as_array).ok_or_else(refuse)?;
            let name = |value: &Value| value["SpecialToken"]["id"].as_str().is_some();
            let text = list.iter().position(|value| value.get("Sequence").is_some());
            let text = text.ok_or_else(refuse)?;
            let (before, after) = (&list[..text], &list[text + 1..]);
            if before.len() > 1 || after.len() > 1 || !before.iter().chain(after).all(name) {
                return Err(refuse());
            }
            Ok(Ends {
                bos: before.first().and_then(|v| v["SpecialToken"]["id"].as_str()),
                eos: after.first().and_then(|v| v["SpecialToken"]["id"].as_str()),
            })
        }
        _ => Err(refuse()),
    }
}
