//! Trained vocabularies against a naive trainer and against `tokenizers`, and what extensions
//! promise.

#![allow(clippy::unwrap_used)] // helpers beside the tests panic as the tests do

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use herd_codec::tokenizer::train::{
    Extension, Guard, NewIds, PieceCounts, Split, Trained, Training, extend, fold, special_names,
    train,
};
use herd_codec::{CodecError, SpecialTable, TokenId, TokenKind, Tokenizer};
use proptest::prelude::*;

fn testdata(name: &str) -> String {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tokenizer").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines of a text as documents, line ends included.
fn lines(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

fn count(split: &Split, texts: &[&str]) -> PieceCounts {
    let mut pieces = PieceCounts::default();
    texts.iter().for_each(|text| pieces.add(split, text).unwrap());
    pieces
}

fn count_on(threads: usize, split: &Split, texts: &[&str]) -> PieceCounts {
    let chunks = texts.iter().map(Ok::<_, CodecError>);
    let add = |pieces: &mut PieceCounts, text: &&str| pieces.add(split, text);
    let parts = fold(threads, chunks, PieceCounts::default, add).unwrap();
    let mut pieces = PieceCounts::default();
    parts.into_iter().for_each(|part| pieces.absorb(part).unwrap());
    pieces
}

fn settings(vocab_size: usize, split: &Split) -> Training {
    let split = split.clone();
    Training { vocab_size, split, specials: Vec::new(), token_bytes_max: 1024 }
}

/// The merges as pairs of byte strings, and their counts.
fn spelt(trained: &Trained) -> Vec<(Vec<u8>, Vec<u8>, u64)> {
    let bytes = |id| trained.tokenizer.token_bytes(id).to_vec();
    trained.merges.iter().map(|m| (bytes(m.left), bytes(m.right), m.count)).collect()
}

/// The definition: count all pairs of neighbours anew for each merge. Words are lists of ids.
fn naive(
    words: &mut HashMap<Vec<u32>, u64>,
    first_id: u32,
    merges: usize,
    refuses: impl Fn(u32, u32) -> bool,
) -> Vec<(u32, u32, u64)> {
    let mut learnt = Vec::new();
    while learnt.len() < merges {
        let mut pairs: HashMap<(u32, u32), u64> = HashMap::new();
        for (word, count) in &*words {
            for two in word.windows(2) {
                *pairs.entry((two[0], two[1])).or_default() += count;
            }
        }
        pairs.retain(|&(left, right), _| !refuses(left, right));
        let best = |(&pair, &count): (&(u32, u32), &u64)| (count, std::cmp::Reverse(pair));
        let Some((&(left, right), &count)) = pairs.iter().max_by_key(|&entry| best(entry)) else {
            break;
        };
        let id = first_id + learnt.len() as u32;
        learnt.push((left, right, count));
        let mut joined: HashMap<Vec<u32>, u64> = HashMap::new();
        for (word, count) in words.drain() {
            let (mut out, mut i) = (Vec::new(), 0);
            while i < word.len() {
                let both = word[i] == left && word.get(i + 1) == Some(&right);
                out.push(if both { id } else { word[i] });
                i += if both { 2 } else { 1 };
            }
            *joined.entry(out).or_default() += count;
        }
        *words = joined;
    }
    learnt
}

/// The ids of single bytes: printable ASCII, printable Latin-1, then the rest in order.
fn byte_ids() -> [u32; 256] {
    let printable = |b: u8| matches!(b, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let first = (0..=255).filter(|&b| printable(b));
    let mut ids = [0; 256];
    for (id, byte) in first.chain((0..=255).filter(|&b| !printable(b))).enumerate() {
        ids[usize::from(byte)] = id as u32;
    }
    ids
}

fn naive_words(pieces: &PieceCounts) -> HashMap<Vec<u32>, u64> {
    let ids = byte_ids();
    let word = |piece: &[u8]| piece.iter().map(|&b| ids[usize::from(b)]).collect();
    pieces.iter().map(|(piece, count)| (word(piece), count)).collect()
}

fn assert_naive(split: &Split, texts: &[&str], vocab_size: usize) {
    let pieces = count(split, texts);
    let Ok(trained) = train(&pieces, &settings(vocab_size, split), &mut |_, _| {}) else {
        return assert!(pieces.is_empty());
    };
    let got: Vec<_> = trained.merges.iter().map(|m| (m.left.0, m.right.0, m.count)).collect();
    let mut words = naive_words(&pieces);
    assert_eq!(got, naive(&mut words, 256, vocab_size - 256, |_, _| false));
    let tokens: u64 = words.iter().map(|(word, count)| word.len() as u64 * count).sum();
    assert_eq!(trained.tokens, (pieces.bytes(), tokens));
    for (word, _) in words {
        let ids: Vec<TokenId> = word.into_iter().map(TokenId).collect();
        let piece = trained.tokenizer.decode(&ids);
        let text = String::from_utf8(piece).unwrap();
        if count(split, &[&text]).distinct() == 1 {
            assert_eq!(trained.tokenizer.encode(&text), ids, "{text:?}");
        }
    }
}

#[test]
fn merges_on_a_real_text_are_those_of_the_naive_trainer_for_every_split() {
    let text = testdata("train.txt");
    let text: String = text.chars().take(12_000).chain(text.chars().rev().take(1500)).collect();
    for split in ["llama3", "gpt-2", "smollm", r"\w+|\s+"] {
        assert_naive(&Split::new(split).unwrap(), &lines(&text), 456);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn merges_on_random_texts_are_those_of_the_naive_trainer(
        texts in prop::collection::vec("[ab]{0,40}|[a-c]{0,12}( [ab]{1,9}){0,4}|(\u{e9}|\u{e8}|a){0,9}|\\PC{0,6}", 0..8),
        merges in 0usize..60,
    ) {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        assert_naive(&Split::llama3(), &texts, 256 + merges);
    }
}

#[test]
fn any_number_of_threads_and_any_order_give_the_same_files() {
    let text = testdata("train.txt");
    let mut texts = lines(&text);
    let training = Training::llama3(1500);
    let files = |pieces: &PieceCounts| {
        let trained = train(pieces, &training, &mut |_, _| {}).unwrap();
        (trained.tokenizer.to_tokenizer_json().unwrap(), trained.tokenizer.to_tiktoken().unwrap())
    };
    let one = files(&count(&training.split, &texts));
    for threads in [1, 2, 5] {
        assert!(files(&count_on(threads, &training.split, &texts)) == one, "{threads} threads");
    }
    texts.reverse();
    assert!(files(&count(&training.split, &texts)) == one);
}

#[test]
fn merges_equal_those_that_tokenizers_learns() {
    #[derive(serde::Deserialize)]
    struct Recorded {
        vocab_size: usize,
        merges: Vec<(String, String)>,
    }
    let recorded: Recorded = serde_json::from_str(&testdata("trained.json")).unwrap();
    let text = testdata("train.txt");
    let split = Split::llama3();
    let training = settings(recorded.vocab_size, &split);
    let trained = train(&count(&split, &lines(&text)), &training, &mut |_, _| {}).unwrap();
    let file = trained.tokenizer.to_tokenizer_json().unwrap();
    let file: serde_json::Value = serde_json::from_str(&file).unwrap();
    let merges: Vec<(String, String)> =
        serde_json::from_value(file["model"]["merges"].clone()).unwrap();
    assert_eq!(merges.len(), recorded.merges.len());
    for (i, (got, wanted)) in merges.iter().zip(&recorded.merges).enumerate() {
        assert_eq!(got, wanted, "merge {i}");
    }
}

#[test]
fn both_files_of_a_trained_vocabulary_give_its_ids_and_specials() {
    let text = testdata("train.txt");
    let training = Training::llama3(1024);
    let pieces = count(&training.split, &lines(&text));
    let Trained { tokenizer, merges, .. } = train(&pieces, &training, &mut |_, _| {}).unwrap();
    assert_eq!((tokenizer.vocab_size(), merges.len()), (1024, 512));
    assert_eq!(tokenizer.token_bytes(TokenId(0)), b"!");
    let json = tokenizer.to_tokenizer_json().unwrap();
    let json = Tokenizer::from_tokenizer_json(json.as_bytes()).unwrap();
    let ranks = tokenizer.to_tiktoken().unwrap();
    let ranks = Tokenizer::from_tiktoken(&ranks, SpecialTable::Llama31).unwrap();
    for other in [&json, &ranks] {
        assert_eq!(other.specials(), tokenizer.specials());
        assert_eq!(other.vocab_size(), 1024);
        assert_eq!(other.encode(&text), tokenizer.encode(&text));
        assert!(other.add_bos());
    }
    assert_eq!(json.to_tiktoken().unwrap(), tokenizer.to_tiktoken().unwrap());
    assert_eq!(tokenizer.special_id("<|begin_of_text|>"), Some(TokenId(768)));
    assert_eq!(tokenizer.special_id("<|eot_id|>"), Some(TokenId(777)));
}

#[test]
fn special_names_follow_llama_3_at_any_number() {
    let names = special_names(12);
    assert_eq!(names[..2], ["<|begin_of_text|>", "<|end_of_text|>"]);
    assert_eq!(names[9..], ["<|eot_id|>", "<|python_tag|>", "<|reserved_special_token_3|>"]);
    assert_eq!(special_names(0), [""; 0]);
    assert_eq!(special_names(300)[299], "<|reserved_special_token_291|>");
}

fn error(texts: &[&str], training: &Training) -> CodecError {
    train(&count(&training.split, texts), training, &mut |_, _| {}).unwrap_err()
}

#[test]
fn what_cannot_be_trained_is_refused_by_name() {
    assert!(matches!(error(&[], &Training::llama3(1000)), CodecError::NoText));
    assert!(matches!(error(&["", ""], &Training::llama3(1000)), CodecError::NoText));
    let small = error(&["a"], &Training::llama3(511));
    assert!(matches!(small, CodecError::VocabSize { got: 511, least: 512, specials: 256 }));
    let large = error(&["a"], &Training::llama3(usize::MAX));
    assert!(matches!(large, CodecError::TooLarge { .. }));
    let specials = vec!["<x>".to_owned(), "<x>".to_owned()];
    let twice = error(&["a"], &Training { specials, ..Training::llama3(1000) });
    assert!(twice.to_string().contains("<x>"), "{twice}");
}

#[test]
fn a_text_that_gives_out_ends_training_early() {
    let split = Split::llama3();
    let pieces = count(&split, &["ab ab"]);
    let trained = train(&pieces, &settings(5000, &split), &mut |_, _| {}).unwrap();
    assert_eq!((trained.merges.len(), trained.merges_asked), (2, 4744));
    assert_eq!(spelt(&trained)[0], (b"a".to_vec(), b"b".to_vec(), 2));
    assert_eq!(trained.tokenizer.vocab_size(), 258);
}

#[test]
fn a_megabyte_of_one_letter_and_nul_bytes_are_text_like_any_other() {
    let split = Split::llama3();
    let long = "a".repeat(1 << 20);
    let pieces = count(&split, &[&long, "\0\0\0\0", "\0\0"]);
    let training = Training { token_bytes_max: 128, ..settings(32_000, &split) };
    let trained = train(&pieces, &training, &mut |_, _| {}).unwrap();
    let lengths = trained.merges.iter().map(|m| trained.tokenizer.token_bytes(m.id).len());
    assert_eq!(lengths.take(7).collect::<Vec<_>>(), [2, 4, 8, 16, 32, 64, 128]);
    assert_eq!(trained.tokenizer.encode(&long).len(), 1 << 13);
    assert_eq!(trained.tokenizer.encode("\0\0\0\0").len(), 1);
    assert_eq!(
        trained.tokenizer.to_tiktoken().unwrap().iter().filter(|&&b| b == b'\n').count(),
        265
    );
    // One piece of many words, as a pattern of one's own may give it.
    let whole = Split::new("(?s).+").unwrap();
    let text = testdata("train.txt").repeat(8);
    let pieces = count(&whole, &[&text]);
    assert_eq!(pieces.distinct(), 1);
    let trained = train(&pieces, &settings(2000, &whole), &mut |_, _| {}).unwrap();
    assert_eq!(trained.merges.len(), 1744);
}

const GREEK: &str = "μῆνιν ἄειδε θεὰ Πηληϊάδεω Ἀχιλῆος οὐλομένην, ἣ μυρί’ Ἀχαιοῖς ἄλγε’ ἔθηκε";
const FRENCH: &str = "L’été, la fenêtre « ouverte » — déjà, le café fermé ; the end of the été";

fn base() -> Tokenizer {
    let training = Training::llama3(1024);
    train(&count(&training.split, &lines(&testdata("train.txt"))), &training, &mut |_, _| {})
        .unwrap()
        .tokenizer
}

fn extended(base: &Tokenizer, texts: &[&str], extension: &Extension<'_>) -> Trained {
    extend(base, &count(&Split::of(base), texts), extension, &mut |_, _| {}).unwrap()
}

#[test]
fn an_extension_keeps_every_old_id_and_english_text() {
    let (base, english) = (base(), testdata("train.txt"));
    let added = [&GREEK.repeat(3)[..], FRENCH];
    let Trained { tokenizer, merges, .. } = extended(&base, &added, &Extension::new(60));
    assert_eq!((tokenizer.vocab_size(), merges.len()), (1084, 60));
    assert_eq!(tokenizer.specials(), base.specials());
    for id in (0..1024).map(TokenId) {
        assert_eq!(tokenizer.token_bytes(id), base.token_bytes(id));
        assert_eq!(tokenizer.kind(id), base.kind(id));
    }
    for id in (1024..1084).map(TokenId) {
        assert_eq!(tokenizer.kind(id), TokenKind::Normal);
    }
    // Scenes of Shakespeare, and the signs that typesetters add.
    let typeset = english.replace('\'', "\u{2019}").replace("--", "\u{2014}");
    for line in lines(&english).into_iter().chain(lines(&typeset)) {
        if line.chars().all(|c| c.is_ascii() || "\u{2019}\u{2014}".contains(c)) {
            assert_eq!(tokenizer.encode(line), base.encode(line), "{line:?}");
        }
    }
    for text in added {
        assert!(tokenizer.encode(text).len() < base.encode(text).len());
        assert_eq!(tokenizer.decode(&tokenizer.encode(text)), text.as_bytes());
    }
    let again = Tokenizer::from_tokenizer_json(tokenizer.to_tokenizer_json().unwrap().as_bytes());
    assert_eq!(again.unwrap().encode(FRENCH), tokenizer.encode(FRENCH));
    assert!(matches!(tokenizer.to_tiktoken(), Err(CodecError::NotRepresentable { .. })));
}

#[test]
fn special_tokens_may_move_behind_the_new_ones() {
    let base = base();
    let extension = Extension { ids: NewIds::BeforeSpecials, ..Extension::new(40) };
    let Trained { tokenizer, merges, .. } = extended(&base, &[GREEK], &extension);
    assert_eq!(merges[0].id, TokenId(768));
    assert_eq!(tokenizer.special_id("<|begin_of_text|>"), Some(TokenId(808)));
    assert_eq!(tokenizer.specials().eot, Some(TokenId(817)));
    let ranks = tokenizer.to_tiktoken().unwrap();
    let ranks = Tokenizer::from_tiktoken(&ranks, SpecialTable::Llama31).unwrap();
    for text in [GREEK, FRENCH, &testdata("train.txt")] {
        assert_eq!(ranks.encode(text), tokenizer.encode(text));
    }
    let last = extended(&base, &[GREEK], &Extension::new(40));
    let texts = |tokenizer: &Tokenizer, first: u32| -> Vec<Vec<u8>> {
        (first..first + 40).map(|id| tokenizer.token_bytes(TokenId(id)).to_vec()).collect()
    };
    assert_eq!(texts(&tokenizer, 768), texts(&last.tokenizer, 1024));
}

#[test]
fn an_extension_learns_what_the_naive_trainer_learns_under_each_guard() {
    let base = base();
    let split = Split::of(&base);
    let texts = [GREEK, FRENCH, "the fenêtre, the été of the \u{1f600}\u{1f600}"];
    let guarded = count(&split, &["the end of the summer, le café"]);
    let pieces = count(&split, &texts);
    let mut apart = std::collections::HashSet::new();
    for (piece, _) in guarded.iter() {
        let ids = base.encode(std::str::from_utf8(piece).unwrap());
        apart.extend(ids.windows(2).map(|two| (two[0].0, two[1].0)));
    }
    for guard in [Guard::Nothing, Guard::Text(&guarded)] {
        let extension = Extension { guard, ..Extension::new(80) };
        let trained = extend(&base, &pieces, &extension, &mut |_, _| {}).unwrap();
        let ids = |piece: &[u8]| base.encode_bytes(piece).iter().map(|id| id.0).collect();
        let mut words: HashMap<Vec<u32>, u64> = HashMap::new();
        pieces.iter().for_each(|(piece, n)| *words.entry(ids(piece)).or_default() += n);
        let kept = |left, right| matches!(guard, Guard::Text(_)) && apart.contains(&(left, right));
        let wanted = naive(&mut words, 1024, 80, kept);
        let got: Vec<_> = trained.merges.iter().map(|m| (m.left.0, m.right.0, m.count)).collect();
        assert_eq!(got, wanted);
        for (word, _) in words {
            let ids: Vec<TokenId> = word.into_iter().map(TokenId).collect();
            let piece = String::from_utf8(trained.tokenizer.decode(&ids)).unwrap();
            assert_eq!(trained.tokenizer.encode(&piece), ids, "{piece:?}");
        }
        let text = "the end of the summer, le café";
        let same = trained.tokenizer.encode(text) == base.encode(text);
        assert_eq!(same, matches!(guard, Guard::Text(_)));
    }
}

#[test]
fn an_extension_of_a_foreign_vocabulary_keeps_its_rules() {
    let json = testdata("small.json");
    let base = Tokenizer::from_tokenizer_json(json.as_bytes()).unwrap();
    let Trained { tokenizer, merges, .. } = extended(&base, &[GREEK], &Extension::new(50));
    assert!(!merges.is_empty());
    let text = testdata("train.txt");
    for line in lines(&text).into_iter().filter(|line| line.is_ascii()) {
        assert_eq!(tokenizer.encode(line), base.encode(line));
    }
    assert!(tokenizer.encode(GREEK).len() < base.encode(GREEK).len());

    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tokenizer");
    let pieces = fs::read(path.join("small.spm.model")).unwrap();
    let sentencepiece = Tokenizer::from_sentencepiece(&pieces).unwrap();
    let counted = count(&Split::of(&sentencepiece), &[GREEK]);
    let refused = extend(&sentencepiece, &counted, &Extension::new(5), &mut |_, _| {});
    assert!(matches!(refused.unwrap_err(), CodecError::Unsupported { .. }));
    let empty = extend(&base, &PieceCounts::default(), &Extension::new(5), &mut |_, _| {});
    assert!(matches!(empty.unwrap_err(), CodecError::NoText));
    let many = extend(&base, &counted, &Extension::new(usize::MAX), &mut |_, _| {});
    assert!(matches!(many.unwrap_err(), CodecError::TooLarge { .. }));
}
