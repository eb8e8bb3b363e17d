//! Shards hold the texts exactly, are the same for any number of threads, and survive kills, torn
//! writes and full disks.

#![allow(clippy::unwrap_used)] // helpers beside the tests panic as the tests do

mod common;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use common::{contents, options, sources, tokenizer, write_lines};
use herd_codec::{TokenId, Tokenizer};
use herd_data::disk::{Disk, RealDisk};
use herd_data::shard::Shard;
use herd_data::{Check, Corpus, DataError, Manifest, TokenizeOptions, count};

/// Three files of documents in a folder of their own.
fn input() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_lines(&folder.path().join("books.jsonl"), &common::texts(1, 400));
    write_lines(&folder.path().join("code.jsonl"), &common::texts(2, 150));
    fs::write(folder.path().join("notes.txt"), common::texts(3, 30).concat()).unwrap();
    folder
}

fn run(input: &Path, folder: &Path, disk: &dyn Disk) -> Result<Manifest, DataError> {
    run_with(input, folder, disk, &options())
}

/// A run with few shards: each is synced, which takes its time.
fn short_run(input: &Path, folder: &Path, disk: &dyn Disk) -> Result<Manifest, DataError> {
    run_with(input, folder, disk, &TokenizeOptions { shard_tokens: 9000, ..options() })
}

fn run_with(
    input: &Path,
    folder: &Path,
    disk: &dyn Disk,
    options: &TokenizeOptions,
) -> Result<Manifest, DataError> {
    herd_data::tokenize(&tokenizer(), &sources(&[input]), options, folder, disk, &mut |_| {})
}

fn decode(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let ids: Vec<TokenId> = ids.iter().map(|&id| TokenId(id)).collect();
    String::from_utf8(tokenizer.decode(&ids)).unwrap()
}

#[test]
fn shards_hold_every_text_once_and_say_where_it_stood() {
    let (input, out) = (input(), tempfile::tempdir().unwrap());
    let manifest = run(input.path(), out.path(), &RealDisk).unwrap();
    let corpus = Corpus::open(out.path(), Check::Contents).unwrap();
    let tokenizer = tokenizer();
    for (at, source) in corpus.sources().iter().enumerate().take(2) {
        let expected = common::texts(at as u64 + 1, [400, 150][at]);
        let mut seen = HashSet::new();
        for documents in [&source.train, &source.validation] {
            let mut bytes = 0;
            for document in 0..documents.counts().documents {
                let mut ids = Vec::new();
                documents.read(document, 0..documents.tokens(document), &mut ids).unwrap();
                let (row, text_bytes) = documents.row(document).unwrap();
                let text = decode(&tokenizer, &ids);
                assert_eq!(text, expected[row.row as usize - 1]);
                assert_eq!(text.len(), text_bytes as usize);
                assert!(seen.insert(row.row));
                bytes += u64::from(text_bytes);
            }
            assert_eq!(documents.counts().bytes, bytes);
        }
        assert_eq!(seen.len(), expected.len());
        let held = source.validation.counts().documents as f64 / expected.len() as f64;
        assert!((held - 0.2).abs() < 0.1, "{held} of {} is held out", source.name);
        assert!(manifest.sources[at].train.shards.len() > 2, "the test needs several shards");
    }
    assert_eq!(corpus.sources()[2].train.counts().documents, 1);
}

#[test]
fn threads_change_no_byte_and_a_second_run_changes_nothing() {
    let input = input();
    let mut all = Vec::new();
    for threads in [1, 2, 7] {
        let out = tempfile::tempdir().unwrap();
        let options = TokenizeOptions { threads, ..options() };
        let first = run_with(input.path(), out.path(), &RealDisk, &options).unwrap();
        let files = contents(out.path());
        assert_eq!(run_with(input.path(), out.path(), &RealDisk, &options).unwrap(), first);
        assert_eq!(contents(out.path()), files);
        all.push(files);
    }
    assert!(all.iter().all(|files| files == &all[0]));
}

#[test]
fn counting_gives_the_counts_of_tokenizing() {
    let (input, out) = (input(), tempfile::tempdir().unwrap());
    let manifest = run(input.path(), out.path(), &RealDisk).unwrap();
    let counted = count(&tokenizer(), &sources(&[input.path()]), &options(), &mut |_| {}).unwrap();
    for (report, counted) in manifest.sources.iter().zip(&counted) {
        assert_eq!(report.train.counts, counted.train.counts);
        assert_eq!(report.validation.counts, counted.validation.counts);
    }
}

/// How a [`Faulty`] disk goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// The power goes: of what was not synced, half of each file is left.
    Tear,
    /// The power goes: the first rename whose folder was not synced never happened.
    Forget,
    /// There is no room for more bytes than these.
    Full(usize),
}

/// A real folder on a disk that works for some steps, then goes wrong for good.
struct Faulty {
    fault: Fault,
    state: Mutex<State>,
}

struct State {
    steps_left: usize,
    bytes: usize,
    dead: bool,
    /// Files written and not synced, with their lengths.
    unsynced: HashMap<PathBuf, u64>,
    /// Renames whose folder was not synced: from, to, and what stood there.
    renames: Vec<(PathBuf, PathBuf, Option<Vec<u8>>)>,
}

impl Faulty {
    fn new(fault: Fault, steps_left: usize) -> Faulty {
        let (unsynced, renames) = (HashMap::new(), Vec::new());
        let state = State { steps_left, bytes: 0, dead: false, unsynced, renames };
        Faulty { fault, state: Mutex::new(state) }
    }

    /// Counts a step; the last one ends in a power cut.
    fn step(&self, state: &mut State) -> io::Result<()> {
        let off = || Err(io::Error::other("the power is off"));
        if state.dead {
            return off();
        }
        if state.steps_left > 0 {
            state.steps_left -= 1;
            return Ok(());
        }
        state.dead = true;
        if let (Fault::Forget, Some((from, to, before))) = (self.fault, state.renames.first()) {
            fs::rename(to, from).unwrap();
            if let Some(before) = before {
                fs::write(to, before).unwrap();
            }
        }
        for (path, length) in &state.unsynced {
            let file = fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(length / 2).unwrap();
        }
        off()
    }
}

impl Disk for Faulty {
    fn write(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        RealDisk.write(path, parts)?;
        let length: usize = parts.iter().map(|part| part.len()).sum();
        state.unsynced.insert(path.to_owned(), length as u64);
        state.bytes += length;
        match self.fault {
            Fault::Full(most) if state.bytes > most => {
                fs::OpenOptions::new().write(true).open(path)?.set_len(length as u64 / 2)?;
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => self.step(&mut state),
        }
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        self.step(&mut state)?;
        state.unsynced.remove(path);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let before = fs::read(to).ok();
        RealDisk.rename(from, to)?;
        if let Some(length) = state.unsynced.remove(from) {
            state.unsynced.insert(to.to_owned(), length);
        }
        state.renames.push((from.to_owned(), to.to_owned(), before));
        self.step(&mut state)
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        self.step(&mut state)?;
        state.renames.clear();
        Ok(())
    }
}

#[test]
fn after_a_power_cut_at_any_step_the_same_command_ends_in_the_same_bytes() {
    let (input, out) = (input(), tempfile::tempdir().unwrap());
    short_run(input.path(), out.path(), &RealDisk).unwrap();
    let expected = contents(out.path());
    for fault in [Fault::Tear, Fault::Forget] {
        let mut cuts = 0;
        loop {
            let out = tempfile::tempdir().unwrap();
            let done = short_run(input.path(), out.path(), &Faulty::new(fault, cuts)).is_ok();
            // Another cut soon after, then a run in peace.
            let _ = short_run(input.path(), out.path(), &Faulty::new(fault, cuts % 7));
            short_run(input.path(), out.path(), &RealDisk)
                .unwrap_or_else(|error| panic!("{fault:?} after {cuts} steps: {error}"));
            assert!(contents(out.path()) == expected, "{fault:?} after {cuts} steps: other bytes");
            if done {
                break;
            }
            cuts += 1;
        }
        assert!(cuts > 30, "{cuts} cuts are too few to tell");
    }
}

#[test]
fn a_full_disk_is_an_error_that_says_so_and_the_run_goes_on_later() {
    let (input, out) = (input(), tempfile::tempdir().unwrap());
    short_run(input.path(), out.path(), &RealDisk).unwrap();
    let expected = contents(out.path());
    let total: usize = expected.values().map(Vec::len).sum();
    for most in (0..total).step_by(11_000) {
        let out = tempfile::tempdir().unwrap();
        let full = short_run(input.path(), out.path(), &Faulty::new(Fault::Full(most), usize::MAX));
        assert!(matches!(full, Err(DataError::DiskFull { .. })), "{most} bytes: {full:?}");
        assert!(contents(out.path()).keys().all(|name| !name.starts_with('.')), "a part is left");
        short_run(input.path(), out.path(), &RealDisk).unwrap();
        assert!(contents(out.path()) == expected, "{most} bytes: other bytes");
    }
}

#[test]
fn a_shard_edited_by_one_byte_is_named_with_its_hash() {
    let (input, out) = (input(), tempfile::tempdir().unwrap());
    run(input.path(), out.path(), &RealDisk).unwrap();
    let path = out.path().join("books.train-00001.tok");
    let whole = fs::read(&path).unwrap();
    let hash = Shard::open(&path).unwrap().stated_hash().to_string();
    for at in (0..whole.len()).step_by(whole.len() / 40) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&path, &bytes).unwrap();
        let open = Corpus::open(out.path(), Check::Contents).unwrap_err();
        let again = run(input.path(), out.path(), &RealDisk).unwrap_err();
        for error in [open, again] {
            let message = error.to_string();
            assert!(message.contains("books.train-00001.tok"), "byte {at}: {message}");
            if at >= 80 && at + 32 + 32 * 60 < whole.len() {
                let named = matches!(error, DataError::Hash { .. }) && message.contains(&hash);
                assert!(named || message.contains("the end of"), "byte {at}: {message}");
            }
        }
    }
    // Put back, or made anew after it was taken away, all is well again.
    fs::write(&path, &whole).unwrap();
    run(input.path(), out.path(), &RealDisk).unwrap();
}

#[test]
fn other_settings_input_or_tokenizer_are_refused_by_name() {
    let (input, out) = (input(), tempfile::tempdir().unwrap());
    run(input.path(), out.path(), &RealDisk).unwrap();
    let refused = |options: &TokenizeOptions| {
        run_with(input.path(), out.path(), &RealDisk, options).unwrap_err().to_string()
    };
    let share = refused(&TokenizeOptions { validation: 0.3, ..options() });
    assert!(share.contains("validation share 0.2, not 0.3"), "{share}");
    assert!(refused(&TokenizeOptions { shard_tokens: 5, ..options() }).contains("2000, not 5"));
    assert!(refused(&TokenizeOptions { validation: 1.0, ..options() }).contains("below 1"));
    assert!(refused(&TokenizeOptions { validation: f64::NAN, ..options() }).contains("NaN"));
    assert!(refused(&TokenizeOptions { shard_tokens: 0, ..options() }).contains("is 0"));

    let json = fs::read(common::testdata("tokenizer/small.json")).unwrap();
    let other = Tokenizer::from_tokenizer_json(&json).unwrap();
    let sources = sources(&[input.path()]);
    let error =
        herd_data::tokenize(&other, &sources, &options(), out.path(), &RealDisk, &mut |_| {});
    assert!(matches!(error, Err(DataError::OtherRun { .. })), "{error:?}");
    let corpus = Corpus::open(out.path(), Check::Tables).unwrap();
    corpus.expect_tokenizer(herd_data::Hash::of_tokenizer(&tokenizer())).unwrap();
    let hash = herd_data::Hash::of_tokenizer(&other);
    let error = corpus.expect_tokenizer(hash).unwrap_err();
    assert!(error.to_string().contains(&hash.to_string()), "{error}");

    let path = input.path().join("code.jsonl");
    let mut text = fs::read_to_string(&path).unwrap();
    text.push('\n');
    fs::write(&path, text).unwrap();
    let error = run(input.path(), out.path(), &RealDisk).unwrap_err().to_string();
    assert!(error.contains("code.jsonl"), "{error}");
}

#[test]
fn a_tokenizer_is_the_same_in_any_container() {
    let tokenizer = tokenizer();
    let json = tokenizer.to_tokenizer_json().unwrap();
    let again = Tokenizer::from_tokenizer_json(json.as_bytes()).unwrap();
    let hash = herd_data::Hash::of_tokenizer;
    assert_eq!(hash(&tokenizer), hash(&again));
}

#[test]
fn bad_records_stop_the_run_or_are_counted_with_their_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    let lines =
        "{\"text\": \"one\"}\nnot json\n{\"text\": \"\"}\n{\"body\": \"x\"}\n{\"text\": \"two\"}\n";
    fs::write(&path, lines).unwrap();
    let out = tempfile::tempdir().unwrap();
    let error = run(&path, out.path(), &RealDisk).unwrap_err();
    assert!(error.to_string().contains("row 2 of") && error.hint().is_some(), "{error}");
    let out = tempfile::tempdir().unwrap();
    let options = TokenizeOptions { skip_bad: true, validation: 0.0, ..options() };
    let manifest = run_with(&path, out.path(), &RealDisk, &options).unwrap();
    let report = &manifest.sources[0];
    assert_eq!(report.train.counts.documents, 2);
    let dropped: Vec<_> = report.dropped.iter().map(|(why, n)| (why.as_str(), *n)).collect();
    assert_eq!(dropped, [("empty", 1), ("no_field", 1), ("not_json", 1)]);
    assert!(report.dropped_first[0].contains("a.jsonl:2: not JSON"), "{:?}", report.dropped_first);
}

#[test]
fn an_empty_corpus_and_a_strangers_folder_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    fs::write(&path, "\n\n").unwrap();
    let out = tempfile::tempdir().unwrap();
    assert!(matches!(run(&path, out.path(), &RealDisk), Err(DataError::NoDocuments { .. })));
    assert!(matches!(Corpus::open(out.path(), Check::Tables), Err(DataError::Unfinished { .. })));
    let out = tempfile::tempdir().unwrap();
    fs::write(out.path().join("a.train-00000.tok"), "whose?").unwrap();
    let error = run(&path, out.path(), &RealDisk).unwrap_err();
    assert!(error.to_string().contains("a.train-00000.tok"), "{error}");
    let nothing = tempfile::tempdir().unwrap();
    let error = Corpus::open(nothing.path(), Check::Tables).unwrap_err();
    assert!(matches!(error, DataError::NoDocuments { .. }), "{error}");
}
