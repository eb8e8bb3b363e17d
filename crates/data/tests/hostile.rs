//! Damaged shards and manifests: an error each, never a panic or a large allocation.

#![allow(clippy::unwrap_used)] // helpers beside the tests panic as the tests do

mod common;

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};

use herd_codec::chat::{ChatFormat, Dialogue, Message, RenderOptions, Role};
use herd_data::dialogue::{Encoder, Lesson};
use herd_data::disk::RealDisk;
use herd_data::read::RowId;
use herd_data::shard::{Shard, ShardBuilder, Vocabulary};
use herd_data::{Check, Corpus, DataError, Hash};
use peak_alloc::PeakAlloc;
use proptest::prelude::*;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Tests that share a process take turns, so that each measures its own memory.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn vocabulary(size: u64) -> Vocabulary {
    Vocabulary { sha256: Hash::of(b"some tokenizer"), size }
}

/// Reads all that an opened shard offers.
fn read_all(shard: &Shard) -> Result<(), DataError> {
    for document in 0..shard.documents() {
        shard.row(document)?;
        shard.read(document, 0..shard.len(document), &mut Vec::new())?;
    }
    Ok(())
}

fn small_shard(folder: &std::path::Path, size: u64) -> Vec<u8> {
    let mut builder = ShardBuilder::new(vocabulary(size), false);
    for i in 0..20u32 {
        let ids: Vec<u32> = (0..1 + i % 5).map(|t| (i * 40 + t) % size as u32).collect();
        builder.push(
            &ids,
            &[],
            3 * i,
            &RowId { file: 1, row: u64::from(i), bytes: 7..u64::from(i) + 9 },
        );
    }
    builder.write(&RealDisk, folder, "a.tok").unwrap();
    fs::read(folder.join("a.tok")).unwrap()
}

#[test]
fn damaged_shards_are_told_and_take_no_memory() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tok");
    for size in [900, 70_000] {
        let whole = small_shard(folder.path(), size);
        let mut damaged: Vec<Vec<u8>> = (0..whole.len()).map(|cut| whole[..cut].to_vec()).collect();
        damaged.push([&whole[..], b"x"].concat());
        for at in 0..whole.len() {
            for value in [1, 0x80] {
                let mut bytes = whole.clone();
                bytes[at] ^= value;
                damaged.push(bytes);
            }
        }
        for at in (8..80).step_by(4) {
            for value in [u32::MAX, 1 << 31, 1 << 16, 0] {
                let mut bytes = whole.clone();
                bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
                damaged.extend((bytes != whole).then_some(bytes));
            }
        }
        MEMORY.reset_peak_usage();
        let before = MEMORY.current_usage();
        for bytes in &damaged {
            common::write_anew(&path, bytes);
            let read = Shard::open(&path).and_then(|shard| {
                let _ = read_all(&shard);
                shard.verify()
            });
            assert!(read.is_err(), "damage is not seen");
        }
        let most = MEMORY.peak_usage() - before;
        assert!(most < 1 << 20, "{most} bytes for files of {}", whole.len());
    }
}

#[test]
fn a_token_outside_the_vocabulary_is_told_even_where_the_hash_is_right() {
    let _alone = alone();
    use sha2::{Digest, Sha256};
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = small_shard(folder.path(), 900);
    bytes[80..82].copy_from_slice(&900u16.to_le_bytes());
    let end = bytes.len() - 32;
    let hash = Sha256::digest(&bytes[..end]);
    bytes[end..].copy_from_slice(&hash);
    fs::write(folder.path().join("a.tok"), bytes).unwrap();
    let shard = Shard::open(&folder.path().join("a.tok")).unwrap();
    for error in [shard.verify().unwrap_err(), read_all(&shard).unwrap_err()] {
        assert!(error.to_string().contains("below 900, got 900"), "{error}");
    }
}

#[test]
fn damaged_manifests_are_told() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    common::corpus(folder.path(), &[("a", common::texts(1, 30))]);
    let shards = folder.path().join("shards");
    let path = shards.join("manifest.json");
    let whole = fs::read(&path).unwrap();
    let mut seed = 1;
    for cut in (0..whole.len() - 1).step_by(17) {
        common::write_anew(&path, &whole[..cut]);
        assert!(Corpus::open(&shards, Check::Tables).is_err(), "cut at {cut}");
    }
    for _ in 0..500 {
        let mut bytes = whole.clone();
        let at = common::next(&mut seed) as usize % bytes.len();
        bytes[at] = common::next(&mut seed) as u8;
        common::write_anew(&path, &bytes);
        let _ = Corpus::open(&shards, Check::Contents);
    }
    let outside = String::from_utf8(whole).unwrap().replace("\"a.train", "\"../a.train");
    fs::write(&path, outside).unwrap();
    let error = Corpus::open(&shards, Check::Tables).unwrap_err();
    assert!(error.to_string().contains("../a.train"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn any_documents_come_back_from_a_shard(
        wide in any::<bool>(),
        documents in prop::collection::vec(
            (prop::collection::vec(0u32..1 << 20, 1..30), any::<u32>(), any::<u32>(), any::<[u64; 3]>()),
            0..20,
        ),
    ) {
        let _alone = alone();
        let folder = tempfile::tempdir().unwrap();
        let size = if wide { 1 << 20 } else { 1 << 16 };
        let mut builder = ShardBuilder::new(vocabulary(size), false);
        let documents: Vec<_> = documents
            .into_iter()
            .map(|(ids, text_bytes, file, [row, start, end])| {
                let ids: Vec<u32> = ids.into_iter().map(|id| id % size as u32).collect();
                (ids, text_bytes, RowId { file, row, bytes: start..end })
            })
            .collect();
        documents.iter().for_each(|(ids, bytes, row)| builder.push(ids, &[], *bytes, row));
        let hash = builder.write(&RealDisk, folder.path(), "a.tok").unwrap();
        let shard = Shard::open(&folder.path().join("a.tok")).unwrap();
        shard.verify().unwrap();
        prop_assert_eq!(shard.stated_hash(), hash);
        prop_assert_eq!(shard.counts(), builder.counts());
        prop_assert_eq!(shard.vocabulary(), vocabulary(size));
        for (i, (ids, text_bytes, row)) in documents.iter().enumerate() {
            let mut read = Vec::new();
            shard.read(i, 0..shard.len(i), &mut read).unwrap();
            prop_assert_eq!(&read, ids);
            prop_assert_eq!(shard.row(i).unwrap(), (row.clone(), *text_bytes));
            let mut part = Vec::new();
            shard.read(i, ids.len() / 3..ids.len() / 2, &mut part).unwrap();
            prop_assert_eq!(&part, &ids[ids.len() / 3..ids.len() / 2]);
        }
    }
}

#[test]
fn weights_come_back_and_those_that_are_none_are_named() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let mut builder = ShardBuilder::new(vocabulary(100), true);
    let row = RowId { file: 0, row: 1, bytes: 0..9 };
    builder.push(&[1, 2, 3], &[0.0, 0.5, 2.0], 2, &row);
    builder.push(&[4, 5], &[0.0, 1.0], 1, &row);
    builder.write(&RealDisk, folder.path(), "a.tok").unwrap();
    let path = folder.path().join("a.tok");
    let read = |document: usize, part: std::ops::Range<usize>| {
        let mut out = vec![9.0; part.len()];
        let shard = Shard::open(&path).unwrap();
        assert!(shard.is_weighted());
        shard.weights(document, part, &mut out).map(|()| out)
    };
    assert_eq!(read(0, 1..3).unwrap(), [0.5, 2.0]);
    assert_eq!(read(1, 0..2).unwrap(), [0.0, 1.0]);
    let good = fs::read(&path).unwrap();
    // Five weights, filled up to 24 bytes, stand before the hash.
    let first = good.len() - 32 - 24;
    for (bad, told) in [(f32::NAN, "NaN"), (-1.0, "-1"), (f32::INFINITY, "inf")] {
        let mut bytes = good.clone();
        bytes[first + 4..first + 8].copy_from_slice(&bad.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        let error = read(0, 0..3).unwrap_err().to_string();
        assert!(error.contains("a weight") && error.contains(told), "{error}");
        assert!(Shard::open(&path).unwrap().verify().is_err());
    }
    for length in [good.len() - 24, good.len() - 8, good.len() + 8] {
        let mut bytes = good.clone();
        bytes.resize(length, 0);
        fs::write(&path, bytes).unwrap();
        assert!(Shard::open(&path).unwrap_err().to_string().contains("the length"));
    }
}

#[test]
fn a_dialogue_of_many_answers_takes_memory_in_proportion_to_its_length() {
    let _alone = alone();
    let (tokenizer, format) = (common::tokenizer(), ChatFormat::Llama3);
    let encoder =
        Encoder { format: &format, tokenizer: &tokenizer, options: RenderOptions::PROMPT };
    let most = |answers: usize| {
        let turn = |i: usize| {
            let (question, answer) = (format!("{i} ").repeat(8), format!("{i}, ").repeat(8));
            [Message::new(Role::User, question), Message::new(Role::Assistant, answer)]
        };
        let dialogue = Dialogue::from((0..answers).flat_map(turn).collect::<Vec<_>>());
        let weights = [0.0, 1.0].repeat(answers);
        let lesson = Lesson { dialogue, weights };
        MEMORY.reset_peak_usage();
        let before = MEMORY.current_usage();
        let rows = encoder.lesson(&lesson).unwrap();
        assert_eq!(rows.len(), 1, "all answers are taught by one row");
        let learnt = rows[0].learnt();
        assert!(learnt > answers * 8);
        MEMORY.peak_usage() - before
    };
    let (few, many) = (most(50), most(400));
    assert!(many < 10 * few, "{few} bytes for 50 answers, {many} for 400");
}
