//! Ids against references recorded in testdata/tokenizer, and the promises of the tokenizer.

#![allow(clippy::unwrap_used)] // helpers beside the tests panic as the tests do

use std::fs;
use std::path::PathBuf;

use herd_codec::{
    AddedToken, Controls, InfillOrder, SpecialSet, SpecialTable, StreamDecoder, TokenId, TokenKind,
    Tokenizer,
};
use proptest::prelude::*;

fn testdata(name: &str) -> Vec<u8> {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tokenizer").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn ranks() -> Tokenizer {
    Tokenizer::from_tiktoken(&testdata("small.tiktoken"), SpecialTable::Llama31).unwrap()
}

fn json() -> Tokenizer {
    Tokenizer::from_tokenizer_json(&testdata("small.json")).unwrap()
}

fn pieces() -> Tokenizer {
    Tokenizer::from_sentencepiece(&testdata("small.spm.model")).unwrap()
}

fn all() -> [Tokenizer; 3] {
    [ranks(), json(), pieces()]
}

#[derive(serde::Deserialize)]
struct Case {
    text: String,
    tiktoken: Vec<TokenId>,
    json: Vec<TokenId>,
    spm: Vec<TokenId>,
}

fn cases() -> Vec<Case> {
    let file = String::from_utf8(testdata("cases.jsonl")).unwrap();
    file.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn ids_equal_those_of_tiktoken_tokenizers_and_sentencepiece() {
    let [ranks, json, pieces] = all();
    for case in cases() {
        assert_eq!(ranks.encode(&case.text), case.tiktoken, "tiktoken: {:?}", case.text);
        assert_eq!(json.encode(&case.text), case.json, "tokenizers: {:?}", case.text);
        assert_eq!(pieces.encode(&case.text), case.spm, "sentencepiece: {:?}", case.text);
    }
}

#[test]
fn what_the_writers_write_gives_the_same_ids_again() {
    let [ranks, json, pieces] = all();
    let again = [
        Tokenizer::from_tiktoken(&ranks.to_tiktoken().unwrap(), SpecialTable::Llama31).unwrap(),
        Tokenizer::from_gguf_vocab(&json.to_gguf_vocab().unwrap()).unwrap(),
        Tokenizer::from_gguf_vocab(&pieces.to_gguf_vocab().unwrap()).unwrap(),
        through_json(&ranks),
        through_json(&json),
        through_json(&pieces),
        Tokenizer::from_gguf_vocab(&ranks.to_gguf_vocab().unwrap()).unwrap(),
    ];
    let originals = [&ranks, &json, &pieces, &ranks, &json, &pieces, &ranks];
    for (copy, original) in again.iter().zip(originals) {
        assert_eq!(copy.vocab_size(), original.vocab_size());
        assert_eq!(copy.specials(), original.specials());
        assert_eq!(copy.add_bos(), original.add_bos());
        for id in (0..original.vocab_size() as u32).map(TokenId) {
            assert_eq!(copy.token_bytes(id), original.token_bytes(id), "{id}");
            assert_eq!(copy.kind(id), original.kind(id), "{id}");
        }
        for case in cases() {
            assert_eq!(copy.encode(&case.text), original.encode(&case.text), "{:?}", case.text);
        }
    }
    let ranks_again = through_json(&ranks).to_tiktoken().unwrap();
    assert!(ranks_again == testdata("small.tiktoken"), "the rank file came back changed");
}

fn through_json(tokenizer: &Tokenizer) -> Tokenizer {
    Tokenizer::from_tokenizer_json(tokenizer.to_tokenizer_json().unwrap().as_bytes()).unwrap()
}

#[test]
fn special_strings_are_text_unless_allowed() {
    let tokenizer = ranks();
    let text = "<|begin_of_text|>hi<|eot_id|>";
    assert!(tokenizer.encode(text).iter().all(|&id| !tokenizer.is_control(id)));
    assert_eq!(tokenizer.decode(&tokenizer.encode(text)), text.as_bytes());

    let eot = tokenizer.specials().eot.unwrap();
    assert_eq!(tokenizer.special_id("<|eot_id|>"), Some(eot));
    assert_eq!(eot, TokenId(tokenizer.vocab_size() as u32 - 256 + 9));
    let only = SpecialSet::named(&tokenizer, &["<|eot_id|>"]).unwrap();
    let ids = tokenizer.encode_with_specials(text, &only);
    assert_eq!(ids.iter().filter(|&&id| tokenizer.is_control(id)).count(), 1);
    assert_eq!(ids.last(), Some(&eot));
    let ids = tokenizer.encode_with_specials(text, &SpecialSet::All);
    assert_eq!((ids.first().copied(), ids.last()), (tokenizer.specials().bos, Some(&eot)));
    assert_eq!(tokenizer.decode_with(&ids, Controls::Hide), b"hi");
    assert_eq!(tokenizer.decode(&ids), text.as_bytes());
    assert!(SpecialSet::named(&tokenizer, &["<|nothing|>"]).is_err());
}

#[test]
fn stops_of_llama_31_are_text_turn_and_message() {
    let tokenizer = ranks();
    let base = tokenizer.vocab_size() as u32 - 256;
    assert_eq!(tokenizer.specials().stops(), [1, 9, 8].map(|id| TokenId(base + id)));
}

#[test]
fn batches_give_the_same_ids_on_any_number_of_threads() {
    let tokenizer = ranks();
    let cases = cases();
    let texts: Vec<&str> = cases.iter().map(|case| case.text.as_str()).collect();
    let expected: Vec<_> = cases.iter().map(|case| case.tiktoken.clone()).collect();
    for threads in [0, 1, 2, 3, 8] {
        assert!(tokenizer.encode_batch(&texts, threads).iter().eq(expected.iter()));
    }
}

#[test]
fn batches_that_outgrow_the_cache_give_the_ids_of_each_text_alone() {
    // More different pieces than the first tables hold, each met by several threads.
    let word = |n: u32| format!(" {:x}{:?}", n.wrapping_mul(2_654_435_761), (n % 5).pow(9));
    let text = |i: u32| (0..1000).map(|j| word((i * 997 + j * j) % 50_000)).collect::<String>();
    let texts: Vec<String> = (0..60).map(text).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    for tokenizer in all() {
        let alone: Vec<_> = texts.iter().map(|text| tokenizer.encode(text)).collect();
        for threads in 1..=4 {
            tokenizer.forget();
            for pass in ["first", "second"] {
                let batch = tokenizer.encode_batch(&texts, threads);
                assert_eq!(batch.len(), texts.len());
                assert!(batch.iter().eq(alone.iter()), "{threads} threads, {pass} pass");
                assert_eq!(batch.tokens(), alone.iter().map(Vec::len).sum::<usize>());
            }
        }
    }
}

#[test]
fn a_megabyte_of_one_letter_takes_well_under_a_second() {
    let text = "a".repeat(1 << 20);
    for tokenizer in all() {
        let start = std::time::Instant::now();
        let ids = tokenizer.encode(&text);
        assert_eq!(tokenizer.decode(&ids), text.as_bytes());
        // Tests run unoptimised and side by side; quadratic time would be minutes.
        assert!(start.elapsed().as_secs_f64() < 10.0, "{:?}", start.elapsed());
    }
    let spaces = " ".repeat(1 << 20) + "x";
    for tokenizer in all() {
        assert_eq!(tokenizer.decode(&tokenizer.encode(&spaces)), spaces.as_bytes());
    }
}

#[test]
fn sentencepiece_puts_a_space_in_front_and_takes_it_away() {
    let tokenizer = pieces();
    assert!(tokenizer.encode("").is_empty());
    assert_eq!(tokenizer.token_bytes(tokenizer.encode("the")[0])[0], b' ');
    for text in ["the", " the", "  the", "the ", "\u{1F980}", "a\tb"] {
        assert_eq!(tokenizer.decode_lossy(&tokenizer.encode(text)), text);
    }
    // Outside the vocabulary: four byte tokens.
    let ids = tokenizer.encode("\u{1F980}");
    let bytes: Vec<_> = ids.iter().filter(|&&id| tokenizer.kind(id) == TokenKind::Byte).collect();
    assert_eq!(bytes.len(), 4);
}

#[test]
fn infilling_orders_the_parts_and_gives_the_suffix_no_space() {
    // Code Llama's infilling pieces put at the end of a small vocabulary.
    let mut vocab = pieces().to_gguf_vocab().unwrap();
    for name in ["▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>"] {
        vocab.tokens.push(name.to_owned());
        vocab.token_type.push(TokenKind::Control as i32);
        vocab.scores.push(0.0);
    }
    let tokenizer = Tokenizer::from_gguf_vocab(&vocab).unwrap();
    let names = ["<s>", "▁<PRE>", "▁<SUF>", "▁<MID>"];
    let [bos, pre, suf, mid] = names.map(|name| tokenizer.special_id(name).unwrap());
    let prefix = tokenizer.encode("def f(");
    // The reference encodes "☺" and the suffix together, and drops the first two pieces.
    let smiley = tokenizer.encode("☺");
    let suffix = tokenizer.encode("☺ return")[smiley.len()..].to_vec();
    let psm = [&[bos, pre][..], &prefix, &[suf], &suffix, &[mid]].concat();
    let spm = [&[bos, pre, suf][..], &suffix, &[mid], &prefix].concat();
    assert_eq!(tokenizer.encode_infill("def f(", " return", InfillOrder::Psm).unwrap(), psm);
    assert_eq!(tokenizer.encode_infill("def f(", " return", InfillOrder::Spm).unwrap(), spm);
    assert!(ranks().encode_infill("a", "b", InfillOrder::Psm).is_err());
}

#[test]
fn added_tokens_may_take_white_space_along() {
    let file = String::from_utf8(testdata("small.json")).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&file).unwrap();
    value["added_tokens"][1]["rstrip"] = true.into();
    value["added_tokens"][1]["lstrip"] = true.into();
    let tokenizer = Tokenizer::from_tokenizer_json(value.to_string().as_bytes()).unwrap();
    let token: &AddedToken = tokenizer.added_tokens().find(|t| t.rstrip).unwrap();
    let ids = tokenizer.encode_with_specials("a <|im_start|> \n b", &SpecialSet::All);
    let expected = [tokenizer.encode("a"), vec![token.id], tokenizer.encode("b")].concat();
    assert_eq!(ids, expected);
}

#[test]
fn a_pattern_that_backtracks_without_end_is_an_error_and_not_a_hang() {
    let file = String::from_utf8(testdata("small.json")).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&file).unwrap();
    value["pre_tokenizer"] = serde_json::json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": r"(?:(a+)+)+(?=b)\1c"}, "behavior": "Isolated"},
        {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},
    ]});
    let tokenizer = Tokenizer::from_tokenizer_json(value.to_string().as_bytes()).unwrap();
    let text = "a".repeat(60) + "b";
    assert!(tokenizer.try_encode(&text).is_err());
    assert_eq!(tokenizer.decode(&tokenizer.encode(&text)), text.as_bytes());
    assert_eq!(tokenizer.try_encode("x").unwrap(), tokenizer.encode("x"));
}

fn stream(tokenizer: &Tokenizer, ids: &[TokenId]) -> Vec<String> {
    let mut decoder = StreamDecoder::new(Controls::Show);
    let mut parts: Vec<String> = vec![];
    for &id in ids {
        parts.push(String::new());
        decoder.push(tokenizer, id, parts.last_mut().unwrap());
    }
    parts.push(String::new());
    decoder.flush(parts.last_mut().unwrap());
    parts
}

#[test]
fn streaming_holds_back_unfinished_characters() {
    let tokenizer = ranks();
    let ids: Vec<TokenId> = "é🦀".bytes().map(|byte| tokenizer.id_of(&[byte]).unwrap()).collect();
    assert_eq!(stream(&tokenizer, &ids), ["", "é", "", "", "", "🦀", ""]);
    // Cut short, and the end says so.
    assert_eq!(stream(&tokenizer, &ids[..4]).concat(), "é\u{FFFD}");
    // A character that breaks off before another begins.
    let broken = [&ids[..1], &ids[2..]].concat();
    assert_eq!(stream(&tokenizer, &broken).concat(), "\u{FFFD}🦀");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_bytes_come_back(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for tokenizer in all() {
            let visible_space = bytes.windows(3).any(|w| w == "\u{2581}".as_bytes());
            if !visible_space {
                prop_assert_eq!(tokenizer.decode(&tokenizer.encode_bytes(&bytes)), &bytes[..]);
            }
        }
    }

    #[test]
    fn any_text_comes_back(text in r"[\PC\s]{0,80}|[a-z' \r\n\t0-9.!]{0,120}") {
        for tokenizer in all() {
            if !text.contains('\u{2581}') {
                prop_assert_eq!(tokenizer.decode_lossy(&tokenizer.encode(&text)), &text[..]);
            }
            prop_assert_eq!(tokenizer.try_encode(&text).unwrap(), tokenizer.encode(&text));
        }
    }

    #[test]
    fn streams_equal_the_whole_at_every_cut(
        numbers in prop::collection::vec(0u32..1200, 0..60),
    ) {
        for tokenizer in all() {
            let ids: Vec<TokenId> = numbers.iter().copied().map(TokenId).collect();
            for cut in 0..=ids.len() {
                let streamed = stream(&tokenizer, &ids[..cut]).concat();
                prop_assert_eq!(streamed, tokenizer.decode_lossy(&ids[..cut]));
            }
        }
    }
}

/// Small deterministic generator for mutations.
struct Rng(u64);

impl Rng {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % limit
    }
}

/// Loads a file damaged in `count` ways; whatever loads must still encode and decode.
fn survive(file: &[u8], count: usize, load: impl Fn(&[u8]) -> Option<Tokenizer>) {
    let mut rng = Rng(1);
    for round in 0..count {
        let mut damaged = file.to_vec();
        match round % 4 {
            0 => damaged.truncate(rng.below(file.len())),
            1 => {
                let at = rng.below(file.len());
                damaged[at] ^= 1 << rng.below(8);
            }
            2 => {
                for _ in 0..4 {
                    let at = rng.below(file.len());
                    damaged[at] = rng.below(256) as u8;
                }
            }
            _ => {
                let (from, to) = (rng.below(file.len()), rng.below(file.len()));
                let part = damaged[from.min(to)..(from.min(to) + 40).min(file.len())].to_vec();
                damaged.splice(to..to, part);
            }
        }
        if let Some(tokenizer) = load(&damaged) {
            let text = "First Citizen: <s> 12 \u{1F980}\u{3000}";
            let ids = tokenizer.encode(text);
            tokenizer.decode_lossy(&ids);
            let ids = tokenizer.encode_with_specials(text, &SpecialSet::All);
            tokenizer.decode_lossy(&ids);
        }
    }
}

#[test]
fn damaged_rank_files_are_refused_or_load() {
    survive(&testdata("small.tiktoken"), 400, |file| {
        Tokenizer::from_tiktoken(file, SpecialTable::Llama3).ok()
    });
}

#[test]
fn damaged_tokenizer_json_files_are_refused_or_load() {
    survive(&testdata("small.json"), 400, |file| Tokenizer::from_tokenizer_json(file).ok());
}

#[test]
fn damaged_sentencepiece_files_are_refused_or_load() {
    survive(&testdata("small.spm.model"), 2000, |file| Tokenizer::from_sentencepiece(file).ok());
}

#[test]
fn damaged_gguf_vocabularies_are_refused_or_load() {
    for tokenizer in all() {
        let file = serde_json::to_vec(&tokenizer.to_gguf_vocab().unwrap()).unwrap();
        survive(&file, 300, |file| {
            Tokenizer::from_gguf_vocab(&serde_json::from_slice(file).ok()?).ok()
        });
    }
}

#[test]
fn hostile_files_are_refused_with_the_value_that_offends() {
    let message =
        |result: Result<Tokenizer, herd_codec::CodecError>| result.unwrap_err().to_string();
    let ranks = |file: &str| message(Tokenizer::from_tiktoken(file.as_bytes(), SpecialTable::None));
    assert_eq!(ranks(""), "the rank file should be at least one token, got nothing");
    assert!(ranks("YQ== 0\n!! 1").contains("line 2"));
    assert!(ranks("YQ== 0\nYQ== 1").contains("token 1 is given twice"));
    assert!(ranks("YQ== 4294967295").contains("4294967295 in place of 0"));

    let json = |edit: &dyn Fn(&mut serde_json::Value)| {
        let mut value = serde_json::from_slice(&testdata("small.json")).unwrap();
        edit(&mut value);
        message(Tokenizer::from_tokenizer_json(value.to_string().as_bytes()))
    };
    assert!(json(&|v| v["model"]["vocab"]["x y"] = 4_000_000_000u32.into()).contains("4000000000"));
    assert!(json(&|v| v["added_tokens"][0]["id"] = 900_000_000.into()).contains("900000000"));
    assert!(json(&|v| v["model"]["merges"][0] = "zzz qq".into()).contains("merge 0"));
    assert!(json(&|v| v["model"]["dropout"] = 0.1.into()).contains("dropout = 0.1"));
    assert!(json(&|v| v["model"]["type"] = "Unigram".into()).contains("Unigram"));
    let lowercase = serde_json::json!({"type": "Lowercase"});
    assert!(json(&|v| v["normalizer"] = lowercase.clone()).contains("Lowercase"));
    let split = serde_json::json!({
        "type": "Split", "pattern": {"Regex": "(["}, "behavior": "Isolated", "invert": false});
    assert!(json(&|v| v["pre_tokenizer"] = split.clone()).contains("(["));
    let deep = "(".repeat(4000) + &")".repeat(4000);
    let deep = serde_json::json!({
        "type": "Split", "pattern": {"Regex": deep}, "behavior": "Isolated", "invert": false});
    assert!(json(&|v| v["pre_tokenizer"] = deep.clone()).contains("nesting is 4000"));
    let digits = serde_json::json!({"type": "Digits", "individual_digits": true});
    let many = serde_json::json!({"type": "Sequence", "pretokenizers": vec![digits; 1000]});
    assert!(json(&|v| v["pre_tokenizer"] = many.clone()).contains("limit is 16"));

    // A length that claims more than the file has, and a number that never ends.
    let broken = |file: &[u8]| message(Tokenizer::from_sentencepiece(file));
    assert!(broken(&[0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F]).contains("longer than what is left"));
    assert!(broken(&[0x80; 12]).contains("ten bytes"));
    assert!(broken(&[]).contains("no pieces"));

    let mut vocab = pieces().to_gguf_vocab().unwrap();
    vocab.bos = Some(u32::MAX);
    assert!(message(Tokenizer::from_gguf_vocab(&vocab)).contains("4294967295"));
    vocab.bos = None;
    vocab.pre = "new-split".to_owned();
    vocab.model = "gpt2".to_owned();
    assert!(message(Tokenizer::from_gguf_vocab(&vocab)).contains("new-split"));
}
