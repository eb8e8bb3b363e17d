//! Writing Hugging Face's `tokenizer.json`.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::build::{MergeOrder, every_split, token_ranks};
use super::chars::{Chars, Prefix, VISIBLE_SPACE};
use super::sentencepiece::byte_piece;
use super::split::{GPT2, LLAMA3, QWEN2};
use super::steps::{Behaviour, Splitter, Step};
use super::{AddedToken, Alphabet, TokenId, TokenKind, Tokenizer};
use crate::CodecError;

impl Tokenizer {
    /// The tokenizer as a `tokenizer.json` that `tokenizers` opens and that gives the same ids.
    ///
    /// Errors if the merges need characters that are no tokens, which the format cannot name, or a
    /// token would be read as another or as one of another kind.
    pub fn to_tokenizer_json(&self) -> Result<String, CodecError> {
        self.check_names()?;
        let merges = self.merge_list()?;
        let written = |id: u32| self.written(TokenId(id));
        let merges: Vec<Value> =
            merges.iter().map(|&[l, r, _]| json!([written(l), written(r)])).collect();
        let byte_level = matches!(self.alphabet, Alphabet::Bytes(_));
        let chars = match &self.alphabet {
            Alphabet::Bytes(_) => None,
            Alphabet::Chars(chars) => Some(chars),
        };
        let file = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added_json(),
            "normalizer": self.normalizer_json(),
            "pre_tokenizer": self.pre_tokenizer_json(),
            "post_processor": self.post_processor_json(),
            "decoder": decoder_json(chars.map(|chars| &**chars)),
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": self.specials.unk.map(|id| self.written(id)),
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": chars.is_some_and(|chars| chars.fuse_unk),
                "byte_fallback": !byte_level,
                "ignore_merges": self.whole_pieces,
                "vocab": self.vocab_json(),
                "merges": merges,
            },
        });
        serde_json::to_string_pretty(&file).map_err(CodecError::Json)
    }

    /// The format has one name for each token, and tells its kind by the name.
    fn check_names(&self) -> Result<(), CodecError> {
        let mut names = HashSet::new();
        let nameless = |id: TokenId| {
            let reason = format!("token {id} has no name of its own there");
            CodecError::NotRepresentable { format: "tokenizer.json", reason }
        };
        for (id, bytes, kind) in self.vocab.iter().filter(|(_, bytes, _)| !bytes.is_empty()) {
            let name = self.written(id);
            let misread = matches!(self.alphabet, Alphabet::Chars(_))
                && match kind {
                    TokenKind::Normal => byte_piece(&name).is_some(),
                    TokenKind::Byte => byte_piece(&name) != Some(bytes[0]),
                    TokenKind::Unused => true,
                    TokenKind::Unknown => self.specials.unk != Some(id),
                    TokenKind::Control | TokenKind::UserDefined => false,
                };
            if misread || !names.insert(name) {
                return Err(nameless(id));
            }
        }
        // Added tokens stand there as texts find them, be it with a visible space.
        let other = |token: &&AddedToken| {
            names.contains(&token.text) && self.written(token.id) != token.text
        };
        self.added.iter().find(other).map_or(Ok(()), |token| Err(nameless(token.id)))
    }

    /// The merges as (left, right, merged), best first.
    pub(super) fn merge_list(&self) -> Result<Vec<[u32; 3]>, CodecError> {
        if let MergeOrder::List(list) = &self.order {
            return Ok(list.clone());
        }
        let rank_of = token_ranks(&self.vocab, &self.order);
        let mut splits = every_split(&self.vocab, &self.alphabet, |id| rank_of[id as usize]);
        if let Some(merge) =
            splits.iter().find(|m| m.left.max(m.right) as usize >= self.vocab.len())
        {
            let reason = format!("token {} is made of characters that are no tokens", merge.merged);
            return Err(CodecError::NotRepresentable { format: "a list of merges", reason });
        }
        splits.sort_unstable_by_key(|merge| (merge.rank, merge.left, merge.right));
        Ok(splits.iter().map(|merge| [merge.left, merge.right, merge.merged]).collect())
    }

    fn added_json(&self) -> Vec<Value> {
        let mut added: Vec<_> = self.added.iter().collect();
        added.sort_by_key(|token| token.id);
        let token = |token: &&AddedToken| {
            json!({
                "id": token.id.0,
                "content": token.text,
                "single_word": false,
                "lstrip": token.lstrip,
                "rstrip": token.rstrip,
                "normalized": token.normalized,
                "special": token.special,
            })
        };
        added.iter().map(token).collect()
    }

    /// All tokens up to the last that text can reach; added ones behind it stand in their own
    /// list only, where `tokenizers` expects them.
    fn vocab_json(&self) -> Map<String, Value> {
        let added = |kind| matches!(kind, TokenKind::Control | TokenKind::UserDefined);
        let last = self.vocab.iter().filter(|(_, _, kind)| !added(*kind)).last();
        let count = last.map_or(0, |(id, ..)| id.0 + 1);
        let named = (0..count).filter(|&id| !self.vocab.bytes(id).is_empty());
        named.map(|id| (self.written(TokenId(id)), json!(id))).collect()
    }

    fn normalizer_json(&self) -> Value {
        let replace =
            json!({"type": "Replace", "pattern": {"String": " "}, "content": VISIBLE_SPACE});
        let mut list = Vec::new();
        if self.nfc {
            list.push(json!({"type": "NFC"}));
        }
        if let Alphabet::Chars(chars) = &self.alphabet {
            match chars.prefix {
                Prefix::Always => {
                    list.push(json!({"type": "Prepend", "prepend": VISIBLE_SPACE}));
                    list.push(replace);
                }
                Prefix::Never => list.push(replace),
                Prefix::UnlessSpace | Prefix::FirstUnlessSpace => {}
            }
        }
        match list.len() {
            0 => Value::Null,
            1 => list.remove(0),
            _ => json!({"type": "Sequence", "normalizers": list}),
        }
    }

    fn pre_tokenizer_json(&self) -> Value {
        let metaspace = |scheme: &str| {
            json!({
                "type": "Metaspace",
                "replacement": VISIBLE_SPACE,
                "prepend_scheme": scheme,
                "split": false,
            })
        };
        let mut list = match &self.splitter {
            Splitter::Llama3 => vec![split_json(LLAMA3, Behaviour::Isolated)],
            Splitter::Qwen2 => vec![split_json(QWEN2, Behaviour::Isolated)],
            Splitter::Gpt2 => vec![byte_level_json(true)],
            Splitter::Gpt2SingleDigits => vec![digits_json(true), byte_level_json(true)],
            Splitter::SpacesThenWord | Splitter::Whole => Vec::new(),
            Splitter::Steps(steps) => steps.iter().map(step_json).collect(),
        };
        match &self.alphabet {
            Alphabet::Bytes(_) => {
                if list.last().is_none_or(|last| last["type"] != "ByteLevel") {
                    list.push(byte_level_json(false));
                }
            }
            Alphabet::Chars(chars) => match chars.prefix {
                Prefix::UnlessSpace => list.push(metaspace("always")),
                Prefix::FirstUnlessSpace => list.push(metaspace("first")),
                Prefix::Always | Prefix::Never => {}
            },
        }
        match list.len() {
            0 => Value::Null,
            1 => list.remove(0),
            _ => json!({"type": "Sequence", "pretokenizers": list}),
        }
    }

    fn post_processor_json(&self) -> Value {
        let bos = self.specials.bos.filter(|_| self.add_bos);
        let eos = self.specials.eos.filter(|_| self.add_eos);
        if bos.is_none() && eos.is_none() {
            return Value::Null;
        }
        let special =
            |id: TokenId, of| json!({"SpecialToken": {"id": self.written(id), "type_id": of}});
        let around = |name: &str, of: u32| {
            let text = json!({"Sequence": {"id": name, "type_id": of}});
            let parts = [bos.map(|id| special(id, of)), Some(text), eos.map(|id| special(id, of))];
            parts.into_iter().flatten().collect::<Vec<_>>()
        };
        let tokens: Map<String, Value> = bos
            .into_iter()
            .chain(eos)
            .map(|id| {
                let text = self.written(id);
                (text.clone(), json!({"id": text, "ids": [id.0], "tokens": [text]}))
            })
            .collect();
        let pair = [around("A", 0), around("B", 1)].concat();
        json!({
            "type": "TemplateProcessing",
            "single": around("A", 0),
            "pair": pair,
            "special_tokens": tokens,
        })
    }
}

fn split_json(pattern: &str, behaviour: Behaviour) -> Value {
    let behaviour = match behaviour {
        Behaviour::Isolated => "Isolated",
        Behaviour::Contiguous => "Contiguous",
        Behaviour::WithPrevious => "MergedWithPrevious",
        Behaviour::WithNext => "MergedWithNext",
    };
    json!({
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": behaviour,
        "invert": false,
    })
}

fn digits_json(single: bool) -> Value {
    json!({"type": "Digits", "individual_digits": single})
}

fn byte_level_json(use_regex: bool) -> Value {
    json!({
        "type": "ByteLevel",
        "add_prefix_space": false,
        "trim_offsets": true,
        "use_regex": use_regex,
    })
}

fn step_json(step: &Step) -> Value {
    match step {
        Step::Pattern { regex, behaviour } => split_json(regex.as_str(), *behaviour),
        Step::Digits { single } => digits_json(*single),
        Step::Llama3 => split_json(LLAMA3, Behaviour::Isolated),
        Step::Qwen2 => split_json(QWEN2, Behaviour::Isolated),
        Step::Gpt2 => split_json(GPT2, Behaviour::Isolated),
    }
}

fn decoder_json(chars: Option<&Chars>) -> Value {
    let Some(chars) = chars else {
        return json!({
            "type": "ByteLevel",
            "add_prefix_space": true,
            "trim_offsets": true,
            "use_regex": true,
        });
    };
    let mut list = vec![
        json!({"type": "Replace", "pattern": {"String": VISIBLE_SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if chars.prefix != Prefix::Never {
        list.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": list})
}
