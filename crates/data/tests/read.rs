//! Every kind of file gives its documents and where they stood; damaged and hostile ones give
//! errors and take no memory.

#![allow(clippy::unwrap_used)] // helpers beside the tests panic as the tests do

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::testdata;
use herd_data::read::{InputFile, ReadOptions, documents};
use herd_data::{DataError, Document, Fault};
use peak_alloc::PeakAlloc;
use proptest::prelude::*;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Tests that share a process take turns, so that each measures its own memory.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

type Read = Vec<Result<Document, DataError>>;

fn read_with(path: &Path, options: &ReadOptions) -> Result<Read, DataError> {
    Ok(documents(&InputFile::new(path)?, options)?.collect())
}

fn read(path: &Path) -> Read {
    read_with(path, &ReadOptions::new()).unwrap()
}

fn texts(read: Read) -> Vec<String> {
    read.into_iter().map(|document| document.unwrap().text).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        common::write_anew(&path, bytes);
        path
    }
}

#[test]
fn packed_lines_are_the_plain_ones_in_any_number_of_members() {
    let _alone = alone();
    let folder = Folder::new();
    let all = common::texts(1, 300);
    let path = folder.0.path().join("a.jsonl");
    common::write_lines(&path, &all);
    let plain = fs::read(&path).unwrap();
    let (one, two) = plain.split_at(plain.len() / 3);
    for (name, bytes) in [
        ("b.jsonl.gz", gzip(&plain)),
        ("c.jsonl.gz", [gzip(one), gzip(two)].concat()),
        ("d.jsonl.zst", zstd(&plain)),
        ("e.ndjson.zst", [zstd(one), zstd(two)].concat()),
    ] {
        let read = read(&folder.write(name, &bytes));
        for (i, document) in read.iter().enumerate() {
            let Document { text, id } = document.as_ref().unwrap();
            assert_eq!((text, id.row), (&all[i], i as u64 + 1), "{name}");
            let line = &plain[id.bytes.start as usize..id.bytes.end as usize];
            let line: serde_json::Value = serde_json::from_slice(line).unwrap();
            assert_eq!(line["text"], **text, "{name}: the byte range is the line");
        }
        assert_eq!(read.len(), all.len(), "{name}");
    }
}

#[test]
fn every_way_of_writing_parquet_gives_the_recorded_texts() {
    let _alone = alone();
    let recorded = fs::read(testdata("parquet/texts.json")).unwrap();
    let recorded: Vec<Option<String>> = serde_json::from_slice(&recorded).unwrap();
    for name in ["plain", "dictionary", "zstd", "gzip", "delta"] {
        let read = read(&testdata(&format!("parquet/{name}.parquet")));
        assert_eq!(read.len(), recorded.len(), "{name}");
        for (i, (got, expected)) in read.into_iter().zip(&recorded).enumerate() {
            match (got, expected.as_deref()) {
                (Ok(got), Some(expected)) => {
                    assert_eq!((got.text.as_str(), got.id.row), (expected, i as u64 + 1), "{name}");
                }
                (Err(DataError::Record { row, fault, .. }), expected) => {
                    let reason = if expected.is_none() { "not_text" } else { "empty" };
                    assert_eq!((row, fault.reason()), (i as u64 + 1, reason), "{name}");
                }
                (got, expected) => panic!("{name}: {got:?}, expected {expected:?}"),
            }
        }
    }
    assert_eq!(texts(read(&testdata("parquet/required.parquet"))).len(), recorded.len());
}

#[test]
fn a_column_is_found_by_its_path_or_the_others_are_named() {
    let _alone = alone();
    let path = testdata("parquet/plain.parquet");
    let with = |field: &str| {
        read_with(&path, &ReadOptions { field: field.to_owned(), ..ReadOptions::new() })
    };
    assert!(with("meta.lang").unwrap()[1].is_ok());
    for absent in ["id", "tags.list.element", "body"] {
        let error = with(absent).unwrap_err().to_string();
        assert!(error.contains(absent) && error.contains("text, meta.lang"), "{error}");
    }
}

#[test]
fn text_files_are_whole_or_cut_at_line_ends_and_nothing_is_lost() {
    let _alone = alone();
    let folder = Folder::new();
    let text = "first\n\nthird line\r\nno end \u{e9}";
    let path = folder.write("a.txt", text.as_bytes());
    let whole = read(&path);
    assert_eq!(whole.len(), 1);
    assert_eq!(whole[0].as_ref().unwrap().text, text);
    for bytes in 1..40 {
        let options = ReadOptions { text_bytes: Some(bytes), ..ReadOptions::new() };
        let pieces = read_with(&path, &options).unwrap();
        let pieces: Vec<Document> = pieces.into_iter().map(Result::unwrap).collect();
        assert_eq!(pieces.iter().map(|d| d.text.as_str()).collect::<String>(), text);
        for piece in &pieces {
            let range = piece.id.bytes.start as usize..piece.id.bytes.end as usize;
            assert_eq!(&text[range], piece.text);
            let lines = text[..piece.id.bytes.start as usize].matches('\n').count() as u64;
            assert_eq!(piece.id.row, lines + 1);
        }
        let last = pieces.len() - 1;
        assert!(
            pieces[..last].iter().all(|p| p.text.len() as u64 >= bytes && p.text.ends_with('\n'))
        );
    }
    assert!(read(&folder.write("empty.txt", b"")).is_empty());
    assert!(read(&folder.write("empty.jsonl", b"\n  \n\r\n")).is_empty());
}

#[test]
fn broken_records_are_named_by_row_and_the_next_ones_are_read() {
    let _alone = alone();
    let folder = Folder::new();
    let lines: &[&[u8]] = &[
        b"\xef\xbb\xbf{\"text\": \"with a mark in front\"}",
        b"{\"text\": \"cut",
        b"",
        b"{\"body\": \"x\"}",
        b"{\"text\": 5}",
        b"{\"text\": \"\xff\"}",
        b"{\"text\": \"\"}",
        b"{\"text\": \"last\"}\r",
    ];
    let read = read(&folder.write("a.jsonl", &lines.join(&b'\n')));
    let told: Vec<(u64, &str)> = read
        .iter()
        .map(|document| match document {
            Ok(document) => (document.id.row, "good"),
            Err(DataError::Record { row, fault, .. }) => (*row, fault.reason()),
            Err(other) => panic!("{other}"),
        })
        .collect();
    let expected = [
        (1, "good"),
        (2, "not_json"),
        (4, "no_field"),
        (5, "not_text"),
        (6, "not_utf8"),
        (7, "empty"),
        (8, "good"),
    ];
    assert_eq!(told, expected);
}

#[test]
fn long_records_are_passed_over_without_being_held() {
    let _alone = alone();
    let folder = Folder::new();
    let long = "x".repeat(30 << 20);
    let lines = format!("{{\"text\": \"a\"}}\n{{\"text\": \"{long}\"}}\n{{\"text\": \"b\"}}\n");
    let options = ReadOptions { record_bytes_max: 1 << 16, ..ReadOptions::new() };
    for (name, bytes) in
        [("a.jsonl", lines.clone().into_bytes()), ("b.jsonl.zst", zstd(lines.as_bytes()))]
    {
        let path = folder.write(name, &bytes);
        MEMORY.reset_peak_usage();
        let before = MEMORY.current_usage();
        let read = read_with(&path, &options).unwrap();
        // Two buffers of 256 KiB, zstd's window of up to 8 MiB with its own buffers.
        let most = MEMORY.peak_usage() - before;
        assert!(most < 12 << 20, "{name} took {most} bytes");
        assert_eq!(read.len(), 3);
        let fault = Fault::TooLong { limit: 1 << 16 };
        assert!(matches!(&read[1], Err(DataError::Record { row: 2, fault: f, .. }) if *f == fault));
        assert_eq!(read[2].as_ref().unwrap().text, "b");
    }
    let read = read_with(&folder.write("c.txt", long.as_bytes()), &options).unwrap();
    assert!(matches!(&read[..], [Err(DataError::Record { row: 1, .. })]));
    let pieces = ReadOptions { text_bytes: Some(10), ..options };
    let text = format!("short one\n{long}\nanother\n");
    let read = read_with(&folder.write("d.txt", text.as_bytes()), &pieces).unwrap();
    assert!(matches!(&read[..], [Ok(_), Err(DataError::Record { row: 2, .. }), Ok(_)]), "{read:?}");
}

#[test]
fn a_file_that_unpacks_beyond_reason_is_refused() {
    let _alone = alone();
    let folder = Folder::new();
    let line = "{\"text\": \"a\"}\n".repeat(1 << 16);
    let mut packed = zstd::Encoder::new(Vec::new(), 3).unwrap();
    for _ in 0..100 {
        packed.write_all(line.as_bytes()).unwrap();
    }
    let bomb = packed.finish().unwrap();
    let path = folder.write("bomb.jsonl.zst", &bomb);
    let mut records =
        herd_data::read::Records::open(&InputFile::new(&path).unwrap(), 0, &ReadOptions::new())
            .unwrap();
    let error = records.find_map(Result::err).expect("it ends in an error");
    assert!(matches!(error, DataError::Expands { .. }), "{error}");
    assert!(records.next().is_none());
}

#[test]
fn damaged_files_give_errors_and_never_a_panic() {
    let _alone = alone();
    let folder = Folder::new();
    let path = folder.0.path().join("a.jsonl");
    common::write_lines(&path, &common::texts(3, 60));
    let plain = fs::read(&path).unwrap();
    let mut seeds = 1;
    for (name, whole) in [("a.jsonl.gz", gzip(&plain)), ("a.jsonl.zst", zstd(&plain))] {
        for cut in (0..whole.len()).step_by(97) {
            let all = read(&folder.write(name, &whole[..cut]));
            assert!(cut == 0 || all.iter().any(Result::is_err), "{name} cut at {cut} passes");
        }
        for _ in 0..200 {
            let mut bytes = whole.clone();
            let at = common::next(&mut seeds) as usize % bytes.len();
            bytes[at] ^= 1 << (common::next(&mut seeds) % 8);
            drop(read(&folder.write(name, &bytes)));
        }
    }
}

#[test]
fn damaged_parquet_gives_errors_and_bounded_memory() {
    let _alone = alone();
    let folder = Folder::new();
    let mut seed = 5;
    let names =
        ["plain", "dictionary", "zstd", "gzip", "delta", "required", "nested", "nested_item"];
    for name in names {
        let whole = fs::read(testdata(&format!("parquet/{name}.parquet"))).unwrap();
        let mut damaged: Vec<Vec<u8>> =
            (0..whole.len()).step_by(211).map(|cut| whole[..cut].to_vec()).collect();
        for _ in 0..100 {
            let mut bytes = whole.clone();
            for _ in 0..1 + common::next(&mut seed) % 3 {
                // Half of the hits in the footer, where the structure is.
                let range = match common::next(&mut seed) % 2 {
                    0 => bytes.len(),
                    _ => 1200.min(bytes.len()),
                };
                let at = bytes.len() - 1 - common::next(&mut seed) as usize % range;
                bytes[at] = common::next(&mut seed) as u8;
            }
            damaged.push(bytes);
        }
        for bytes in damaged {
            let path = folder.write("a.parquet", &bytes);
            let file = InputFile::new(&path).unwrap();
            MEMORY.reset_peak_usage();
            let before = MEMORY.current_usage();
            if let Ok(documents) = documents(&file, &ReadOptions::new()) {
                let rows = documents.count();
                assert!(rows < 10_000_000, "{name}: {rows} rows");
            }
            if let Ok(records) = herd_data::read::objects(&file) {
                let rows = records.count();
                assert!(rows < 10_000_000, "{name}: {rows} records");
            }
            let most = MEMORY.peak_usage() - before;
            assert!(most < 64 << 20, "{name}: {most} bytes for a file of {}", bytes.len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_texts_come_back_from_json_lines(texts in prop::collection::vec(".{1,40}", 0..20)) {
        let _alone = alone();
        let folder = Folder::new();
        let path = folder.0.path().join("a.jsonl");
        common::write_lines(&path, &texts);
        prop_assert_eq!(self::texts(read(&path)), texts);
    }

    #[test]
    fn any_bytes_are_records_or_faults(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _alone = alone();
        let folder = Folder::new();
        for name in ["a.jsonl", "a.txt", "a.jsonl.gz", "a.jsonl.zst"] {
            let _ = read_with(&folder.write(name, &bytes), &ReadOptions::new());
        }
        prop_assert!(read_with(&folder.write("a.parquet", &bytes), &ReadOptions::new()).is_err());
    }
}

#[test]
fn lists_lines_and_tables_give_whole_records() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("list.json");
    fs::write(&list, "[{\"a\": 1}, {\"a\": [null]}]").unwrap();
    let lines = folder.path().join("lines.jsonl");
    fs::write(&lines, "{\"a\": 1}\n\nnonsense\n{\"a\": [null]}\n").unwrap();
    let all = |path: &Path| -> Vec<Result<(u64, serde_json::Value), String>> {
        let records = herd_data::read::objects(&InputFile::new(path).unwrap()).unwrap();
        records.map(|record| record.map_err(|e| e.to_string())).collect()
    };
    let (first, second) = (serde_json::json!({"a": 1}), serde_json::json!({"a": [null]}));
    assert_eq!(all(&list), [Ok((1, first.clone())), Ok((2, second.clone()))]);
    let read = all(&lines);
    assert_eq!((&read[0], &read[2]), (&Ok((1, first)), &Ok((4, second))));
    assert!(read[1].as_ref().unwrap_err().contains("row 3 of"));

    let recorded = fs::read(testdata("parquet/texts.json")).unwrap();
    let recorded: Vec<Option<String>> = serde_json::from_slice(&recorded).unwrap();
    let table = all(&testdata("parquet/plain.parquet"));
    assert_eq!(table.len(), recorded.len());
    for (row, text) in table.into_iter().zip(recorded) {
        let (_, record) = row.unwrap();
        assert_eq!(record["text"].as_str(), text.as_deref());
    }
}
