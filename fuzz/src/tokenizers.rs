//! Tokenizer files, and texts through sound ones.

use std::sync::OnceLock;

use herd_codec::{
    Controls, GgufVocab, SpecialSet, SpecialTable, StreamDecoder, TokenId, Tokenizer,
};

use super::json;
use super::memory::{Allowance, within};

/// A rank file has every split of a token as a merge, at 8 bytes in a table half full, and each entry
/// of a vocabulary stands in a few lists. The cache has 8 MB, compiled patterns up to 10.
const LOADING: Allowance = Allowance { factor: 256, fixed: 64 << 20 };

const RANKS: &[u8] = include_bytes!("../../testdata/tokenizer/small.tiktoken");
const JSON: &str = include_str!("../../testdata/tokenizer/small.json");
const PIECES: &[u8] = include_bytes!("../../testdata/tokenizer/small.spm.model");

/// Texts that reach every part of a tokenizer.
const TEXTS: [&str; 5] = [
    "First Citizen: <s> 12 \u{1F980}\u{3000}",
    "we'LL  \t\r\n\n 12345 ſ é e\u{301} <|eot_id|><|endoftext|>[INST]",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "",
    "\0\u{7f}\u{2581}x\u{10FFFF}",
];

/// A `tokenizer.json`, or a GGUF vocabulary as JSON.
pub fn tokenizer_json(data: &[u8]) {
    static GGUF: OnceLock<String> = OnceLock::new();
    let gguf = GGUF.get_or_init(|| {
        let tokenizer = Tokenizer::from_sentencepiece(PIECES).expect("a sound model");
        let vocab = tokenizer.to_gguf_vocab().expect("GGUF holds it");
        serde_json::to_string(&vocab).expect("plain data")
    });
    let text = json::text(data, &[SMALL_JSON, JSON, gguf]);
    within(LOADING, text.len(), || {
        if let Ok(tokenizer) = Tokenizer::from_tokenizer_json(&text) {
            exercise(&tokenizer);
        }
        let vocab = serde_json::from_slice::<GgufVocab>(&text);
        if let Some(tokenizer) = vocab.ok().and_then(|v| Tokenizer::from_gguf_vocab(&v).ok()) {
            exercise(&tokenizer);
        }
    });
}

/// A few tokens with every key that is read.
const SMALL_JSON: &str = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [
    {"id": 5, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
    {"id": 6, "content": "  ", "single_word": false, "lstrip": false, "rstrip": false, "normalized": true, "special": false}],
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "\\p{L}+|\\p{N}+|\\s+(?!\\S)|."}, "behavior": "Isolated", "invert": false},
        {"type": "Digits", "individual_digits": true},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
    "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [5], "tokens": ["<s>"]}}},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
        "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "Ġab": 4}, "merges": ["a b", ["Ġ", "ab"]]}}"#;

/// A rank file as it comes; after a plus sign, lines behind those of the 256 bytes.
pub fn tiktoken_model(data: &[u8]) {
    let mut file = data.to_vec();
    if let [b'+', rest @ ..] = data {
        let bytes = RANKS.split_inclusive(|&b| b == b'\n').take(256);
        file = bytes.flatten().chain(rest).copied().collect();
    }
    within(LOADING, file.len(), || {
        for table in [SpecialTable::Llama31, SpecialTable::None] {
            if let Ok(tokenizer) = Tokenizer::from_tiktoken(&file, table) {
                exercise(&tokenizer);
            }
        }
    });
}

/// A SentencePiece model as it comes; after a plus sign, fields behind those of a sound one.
pub fn sentencepiece(data: &[u8]) {
    let mut file = data.to_vec();
    if let [b'+', rest @ ..] = data {
        file = PIECES.iter().chain(rest).copied().collect();
    }
    within(LOADING, file.len(), || {
        if let Ok(tokenizer) = Tokenizer::from_sentencepiece(&file) {
            exercise(&tokenizer);
        }
    });
}

/// What a tokenizer that loaded must do, whatever its vocabulary.
fn exercise(tokenizer: &Tokenizer) {
    for text in TEXTS {
        let ids = tokenizer.encode(text);
        assert!(!ids.iter().any(|&id| tokenizer.is_control(id)), "text made a control token");
        tokenizer.decode_lossy(&ids);
        let with = tokenizer.encode_with_specials(text, &SpecialSet::All);
        tokenizer.decode_with(&with, Controls::Hide);
        stream(tokenizer, &with);
    }
    if let Ok(file) = tokenizer.to_tokenizer_json() {
        let again = Tokenizer::from_tokenizer_json(file.as_bytes()).expect("what was written");
        agree(tokenizer, &again);
    }
    if let Ok(vocab) = tokenizer.to_gguf_vocab() {
        agree(tokenizer, &Tokenizer::from_gguf_vocab(&vocab).expect("what was written"));
    }
}

fn agree(a: &Tokenizer, b: &Tokenizer) {
    for text in TEXTS {
        assert_eq!(a.encode(text), b.encode(text), "{text:?}");
    }
}

fn stream(tokenizer: &Tokenizer, ids: &[TokenId]) -> String {
    let (mut stream, mut out) = (StreamDecoder::new(Controls::Show), String::new());
    ids.iter().for_each(|&id| stream.push(tokenizer, id, &mut out));
    stream.flush(&mut out);
    out
}

/// Any bytes, through the vocabulary that the first byte chooses.
pub fn encode_decode(data: &[u8]) {
    let Some((&first, bytes)) = data.split_first() else { return };
    let Sound { ranks, by_pattern, json, pieces } = sound();
    let tokenizer = [ranks, json, pieces][usize::from(first) % 3];
    let ids = tokenizer.encode_bytes(bytes);
    assert_eq!(tokenizer.encode_bytes(bytes), ids, "the cache changed ids");
    assert!(!ids.iter().any(|&id| tokenizer.is_control(id)), "text made a control token");
    let missing = tokenizer.missing_bytes();
    let spelt = !bytes.iter().any(|byte| missing.contains(byte));
    let text = std::str::from_utf8(bytes);
    // SentencePiece writes spaces as U+2581 and cannot tell one in the text from them.
    let own =
        std::ptr::eq(tokenizer, pieces) && bytes.windows(3).any(|w| w == "\u{2581}".as_bytes());
    if spelt && !own {
        assert_eq!(tokenizer.decode(&ids), bytes);
    }
    let Ok(text) = text else { return };
    assert_eq!(stream(tokenizer, &ids), tokenizer.decode_lossy(&ids));
    assert_eq!(tokenizer.encode_with_specials(text, &SpecialSet::Only(vec![])), ids);
    assert_eq!(tokenizer.encode_batch(&[text, "x", text], 2).ids(2), ids);
    if std::ptr::eq(tokenizer, ranks) {
        assert_eq!(by_pattern.encode(text), ids, "the hand-written split differs from its pattern");
    }
}

/// Vocabularies that are as they should be.
struct Sound<'a> {
    ranks: &'a Tokenizer,
    /// `ranks`, split by a regular expression.
    by_pattern: &'a Tokenizer,
    json: &'a Tokenizer,
    pieces: &'a Tokenizer,
}

fn sound() -> Sound<'static> {
    static ALL: OnceLock<[Tokenizer; 4]> = OnceLock::new();
    let [ranks, by_pattern, json, pieces] = ALL.get_or_init(|| {
        let ranks = Tokenizer::from_tiktoken(RANKS, SpecialTable::None).expect("a sound file");
        let file = ranks.to_tokenizer_json().expect("JSON holds it");
        // In a group the pattern is the same and no longer known by heart.
        let grouped = file.replacen("(?i:'s", "(?:)(?i:'s", 1);
        assert_ne!(grouped, file, "the pattern of Llama 3 stands in the file");
        [
            ranks,
            Tokenizer::from_tokenizer_json(grouped.as_bytes()).expect("a sound file"),
            Tokenizer::from_tokenizer_json(JSON.as_bytes()).expect("a sound file"),
            Tokenizer::from_sentencepiece(PIECES).expect("a sound file"),
        ]
    });
    Sound { ranks, by_pattern, json, pieces }
}
