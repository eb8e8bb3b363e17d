//! Raw files to a folder of shards. A run that was killed goes on when it is called again, and what
//! it leaves is byte for byte what an undisturbed run leaves.
//!
//! 1. All inputs are hashed; `manifest.json` keeps that and the settings, marked as not complete.
//! 2. Each source is read in order. A side (training, validation) that has as many tokens as a
//!    shard may hold is written under its final name in one step.
//! 3. The manifest is written again, complete.
//!
//! Called again, step 2 keeps the shards that are there after comparing their hashes, reads
//! the source from its beginning, and encodes only what lies behind the last document kept.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use herd_codec::Tokenizer;

use crate::dialogue::Lessons;
use crate::disk::{Disk, FolderLock, make_folder};
use crate::manifest::{
    FileInput, MANIFEST, Manifest, Part, Settings, ShardEntry, SourceInput, SourceReport,
};
use crate::pipeline::{self, Encoded, Lacking, Outcome, Recipe, Side, Tokens};
use crate::read::{RECORD_BYTES_MAX, ReadOptions, Source, Sources, record_error};
use crate::shard::{Counts, SHARD_TOKENS_MAX, Shard, ShardBuilder, Vocabulary};
use crate::{DataError, Fault, Hash};

/// How raw files become shards.
#[derive(Clone, Debug)]
pub struct TokenizeOptions {
    /// How files become documents.
    pub read: ReadOptions,
    /// Where rows are dialogues: how they are read and rendered. Shards then have weights.
    pub lessons: Option<Lessons>,
    /// Share of documents that are held out, by the hash of their text.
    pub validation: f64,
    /// Tokens of a shard at most, unless one document alone has more.
    pub shard_tokens: u64,
    /// Count records that are no documents, rather than stop at the first.
    pub skip_bad: bool,
    /// Threads that encode; changes no byte.
    pub threads: usize,
}

impl TokenizeOptions {
    /// Nothing held out, shards of 2^25 tokens (64 MiB of two-byte tokens), bad records refused.
    pub fn new(threads: usize) -> TokenizeOptions {
        let read = ReadOptions::new();
        TokenizeOptions {
            read,
            lessons: None,
            validation: 0.0,
            shard_tokens: 1 << 25,
            skip_bad: false,
            threads,
        }
    }

    fn check(&self) -> Result<(), DataError> {
        let wrong = |what: &str, got: String, expected: &str| DataError::Setting {
            what: what.to_owned(),
            got,
            expected: expected.to_owned(),
        };
        if !(0.0..1.0).contains(&self.validation) {
            let got = self.validation.to_string();
            return Err(wrong("the validation share", got, "from 0 to below 1"));
        }
        if !(1..=SHARD_TOKENS_MAX).contains(&self.shard_tokens) {
            let expected = format!("1 to {SHARD_TOKENS_MAX}");
            return Err(wrong("the tokens of a shard", self.shard_tokens.to_string(), &expected));
        }
        if !(1..=RECORD_BYTES_MAX).contains(&self.read.record_bytes_max) {
            let expected = format!("1 to {RECORD_BYTES_MAX}");
            let got = self.read.record_bytes_max.to_string();
            return Err(wrong("the longest record", got, &expected));
        }
        Ok(())
    }
}

/// How far a run has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The source being read.
    pub source: &'a str,
    /// What the run has taken in so far, over all sources.
    pub done: Counts,
}

/// How many dropped records the manifest names.
const NAMED_MAX: usize = 10;

/// Makes shards of `sources` in `folder`, or goes on where a run with the same settings stopped.
///
/// Errors: another run's folder, a record that is no document (unless they are counted), inputs
/// without any document, a shard that is not what was written.
pub fn tokenize(
    tokenizer: &Tokenizer,
    sources: &Sources,
    options: &TokenizeOptions,
    folder: &Path,
    disk: &dyn Disk,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Manifest, DataError> {
    options.check()?;
    make_folder(folder).map_err(DataError::io("make", folder))?;
    let _lock = FolderLock::take(folder)?;
    let found = Manifest::find(folder)?;
    let settings = settings(tokenizer, sources, options)?;
    // A start that failed before its first shard binds nobody.
    let stands = || refuse_strangers(folder).is_err();
    let binds = |was: &Manifest| was.complete || was.settings == settings || stands();
    let mut manifest = match found.filter(binds) {
        None => {
            refuse_strangers(folder)?;
            let begun = Manifest::begun(settings);
            begun.write(disk, folder)?;
            begun
        }
        Some(manifest) => {
            manifest.settings.expect_same(&settings, folder)?;
            manifest
        }
    };
    if manifest.complete {
        verify(&manifest, folder)?;
        return Ok(manifest);
    }
    let mut total = Counts::default();
    for source in &sources.sources {
        let vocabulary = manifest.settings.tokenizer;
        let mut run = SourceRun::open(source, vocabulary, options, Some((folder, disk)))?;
        let report = run.run(tokenizer, options, &mut total, progress)?;
        manifest.sources.push(report);
    }
    expect_documents(&manifest.sources, sources)?;
    manifest.complete = true;
    manifest.write(disk, folder)?;
    Ok(manifest)
}

/// What [`tokenize`] would make of `sources`, without writing anything: the shards are left out.
pub fn count(
    tokenizer: &Tokenizer,
    sources: &Sources,
    options: &TokenizeOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<SourceReport>, DataError> {
    options.check()?;
    let vocabulary = Vocabulary { sha256: Hash::default(), size: tokenizer.vocab_size() as u64 };
    let mut total = Counts::default();
    let mut reports = Vec::new();
    for source in &sources.sources {
        let mut run = SourceRun::open(source, vocabulary, options, None)?;
        reports.push(run.run(tokenizer, options, &mut total, progress)?);
    }
    expect_documents(&reports, sources)?;
    Ok(reports)
}

/// Compares every shard with the manifest's hashes, and with its own.
pub fn verify(manifest: &Manifest, folder: &Path) -> Result<(), DataError> {
    let parts = manifest.sources.iter().flat_map(SourceReport::parts);
    for entry in parts.flat_map(|part| &part.shards) {
        let shard = Shard::open(&folder.join(&entry.file))?;
        shard.verify()?;
        expect_entry(&shard, entry, &manifest.settings.tokenizer)?;
    }
    Ok(())
}

/// Errors: the shard is not the one the manifest lists.
pub(crate) fn expect_entry(
    shard: &Shard,
    entry: &ShardEntry,
    vocabulary: &Vocabulary,
) -> Result<(), DataError> {
    let path = shard.path().to_owned();
    if shard.vocabulary() != *vocabulary {
        let (expected, got) = (vocabulary.sha256, shard.vocabulary().sha256);
        return Err(DataError::Tokenizer { path, expected, got });
    }
    if shard.stated_hash() != entry.sha256 {
        let (expected, got) = (entry.sha256, shard.stated_hash());
        return Err(DataError::Hash { path, expected, got });
    }
    if shard.counts() != entry.counts {
        let (expected, got) = (format!("{:?}", entry.counts), format!("{:?}", shard.counts()));
        return Err(DataError::Format { path, what: "the counts", expected, got });
    }
    Ok(())
}

fn settings(
    tokenizer: &Tokenizer,
    sources: &Sources,
    options: &TokenizeOptions,
) -> Result<Settings, DataError> {
    let file = |path: &Path| -> Result<FileInput, DataError> {
        let bytes = fs::metadata(path).map_err(DataError::io("read", path))?.len();
        let sha256 = Hash::of_file(path)?;
        Ok(FileInput { path: path.to_string_lossy().into_owned(), bytes, sha256 })
    };
    let input = |source: &Source| {
        let files = source.files.iter().map(|f| file(&f.path)).collect::<Result<_, _>>();
        Ok(SourceInput { name: source.name.clone(), files: files? })
    };
    let sha256 = Hash::of_tokenizer(tokenizer);
    Ok(Settings {
        tokenizer: Vocabulary { sha256, size: tokenizer.vocab_size() as u64 },
        field: options.read.field.clone(),
        text_bytes: options.read.text_bytes,
        record_bytes_max: options.read.record_bytes_max,
        validation: options.validation,
        shard_tokens: options.shard_tokens,
        skip_bad: options.skip_bad,
        lessons: options.lessons.as_ref().map(Lessons::hash),
        compared: options.lessons.as_ref().is_some_and(|lessons| lessons.compare.is_some()),
        inputs: sources.sources.iter().map(input).collect::<Result<_, DataError>>()?,
    })
}

/// A folder without a manifest must not have shards: nobody knows what they are made of.
fn refuse_strangers(folder: &Path) -> Result<(), DataError> {
    for entry in fs::read_dir(folder).map_err(DataError::io("list", folder))? {
        let name = entry.map_err(DataError::io("list", folder))?.file_name();
        let name = name.to_string_lossy().into_owned();
        if name.ends_with(SHARD_ENDING) && !name.starts_with('.') {
            let what = "shards, though it has no ".to_owned() + MANIFEST + ":";
            let (folder, expected) = (folder.to_owned(), "empty".to_owned());
            return Err(DataError::OtherRun { folder, what, expected, got: name });
        }
    }
    Ok(())
}

fn expect_documents(reports: &[SourceReport], sources: &Sources) -> Result<(), DataError> {
    let some = |part: &Part| part.counts.documents > 0;
    if reports.iter().any(|report| report.parts().into_iter().any(some)) {
        return Ok(());
    }
    let names: Vec<&str> = sources.sources.iter().map(|s| s.name.as_str()).collect();
    Err(DataError::NoDocuments { what: names.join(", ") })
}

const SHARD_ENDING: &str = ".tok";

/// One source on its way into shards.
struct SourceRun<'a> {
    source: &'a Source,
    sides: [SideRun<'a>; 2],
    dropped: BTreeMap<String, u64>,
    dropped_first: Vec<String>,
    unspelt_bytes: u64,
}

/// One side of a source: shards that are there, and the one that is being filled.
struct SideRun<'a> {
    stem: String,
    /// Where shards go; nowhere when tokens are only counted.
    place: Option<(&'a Path, &'a dyn Disk)>,
    tokens_max: u64,
    vocabulary: Vocabulary,
    weighted: bool,
    filling: ShardBuilder,
    part: Part,
    /// File and row of the last document that an earlier run wrote.
    last_done: Option<(u32, u64)>,
    /// Documents of earlier runs that have yet to be met.
    to_meet: u64,
}

impl<'a> SourceRun<'a> {
    fn open(
        source: &'a Source,
        vocabulary: Vocabulary,
        options: &TokenizeOptions,
        place: Option<(&'a Path, &'a dyn Disk)>,
    ) -> Result<SourceRun<'a>, DataError> {
        let side = |name: &str| {
            let stem = format!("{}.{name}", source.name);
            SideRun::open(stem, vocabulary, options, place)
        };
        let sides = [side("train")?, side("validation")?];
        let (dropped, dropped_first) = (BTreeMap::new(), Vec::new());
        Ok(SourceRun { source, sides, dropped, dropped_first, unspelt_bytes: 0 })
    }

    fn run(
        &mut self,
        tokenizer: &Tokenizer,
        options: &TokenizeOptions,
        total: &mut Counts,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<SourceReport, DataError> {
        let recipe = Recipe {
            tokenizer,
            read: &options.read,
            lessons: options.lessons.as_ref(),
            validation: options.validation,
            threads: options.threads,
            done: [self.sides[0].last_done, self.sides[1].last_done],
        };
        let source = self.source;
        pipeline::encode(source, &recipe, &mut |record| {
            if let Outcome::Documents { documents, .. } = &record.outcome {
                documents.iter().for_each(|document| *total += document.counts());
                progress(Progress { source: &source.name, done: *total });
            }
            self.take(record, options.skip_bad)
        })?;
        for side in &mut self.sides {
            side.finish()?;
        }
        let [train, validation] = &mut self.sides;
        Ok(SourceReport {
            name: source.name.clone(),
            train: std::mem::take(&mut train.part),
            validation: std::mem::take(&mut validation.part),
            dropped: std::mem::take(&mut self.dropped),
            dropped_first: std::mem::take(&mut self.dropped_first),
            unspelt_bytes: self.unspelt_bytes,
        })
    }

    fn take(&mut self, record: Encoded, skip_bad: bool) -> Result<(), DataError> {
        match record.outcome {
            Outcome::Documents { side, lacking, documents } => {
                self.lack(lacking);
                self.sides[side as usize].push(&documents, &record.id)
            }
            Outcome::Done { side, lacking, documents } => {
                self.lack(lacking);
                self.sides[side as usize].meet(documents)
            }
            Outcome::Dropped(fault) => {
                let path = &self.source.files[record.id.file as usize].path;
                self.drop_record(path, record.id.row, fault, skip_bad)
            }
        }
    }

    fn lack(&mut self, lacking: Lacking) {
        self.unspelt_bytes += lacking.unspelt;
        if lacking.similar > 0 {
            *self.dropped.entry("similar_answer".to_owned()).or_default() += lacking.similar;
        }
    }

    fn drop_record(
        &mut self,
        path: &Path,
        row: u64,
        fault: Fault,
        skip_bad: bool,
    ) -> Result<(), DataError> {
        if !skip_bad && !fault.is_harmless() {
            return Err(record_error(path, row, fault));
        }
        *self.dropped.entry(fault.reason().to_owned()).or_default() += 1;
        if self.dropped_first.len() < NAMED_MAX {
            self.dropped_first.push(format!("{}:{row}: {fault}", path.display()));
        }
        Ok(())
    }
}

impl<'a> SideRun<'a> {
    /// Takes up the shards that are there, as far as they follow one another.
    fn open(
        stem: String,
        vocabulary: Vocabulary,
        options: &TokenizeOptions,
        place: Option<(&'a Path, &'a dyn Disk)>,
    ) -> Result<SideRun<'a>, DataError> {
        let (weighted, tokens_max) = (options.lessons.is_some(), options.shard_tokens);
        let filling = ShardBuilder::new(vocabulary, weighted);
        let part = Part::default();
        let mut side = SideRun {
            stem,
            place,
            tokens_max,
            vocabulary,
            weighted,
            filling,
            part,
            last_done: None,
            to_meet: 0,
        };
        let Some((folder, _)) = place else { return Ok(side) };
        while folder.join(side.next_name()).exists() {
            let file = side.next_name();
            let shard = Shard::open(&folder.join(&file))?;
            shard.verify()?;
            let (sha256, counts) = (shard.stated_hash(), shard.counts());
            let entry = ShardEntry { file, sha256, counts };
            expect_entry(&shard, &entry, &vocabulary)?;
            if let Some(last) = shard.documents().checked_sub(1) {
                let (row, _) = shard.row(last)?;
                side.last_done = Some((row.file, row.row));
            }
            side.to_meet += counts.documents;
            side.add(entry);
        }
        Ok(side)
    }

    fn next_name(&self) -> String {
        format!("{}-{:05}{SHARD_ENDING}", self.stem, self.part.shards.len())
    }

    fn add(&mut self, entry: ShardEntry) {
        self.part.counts += entry.counts;
        self.part.shards.push(entry);
    }

    /// Documents that stand in a shard already.
    fn meet(&mut self, documents: u64) -> Result<(), DataError> {
        self.to_meet = self.to_meet.checked_sub(documents).ok_or_else(|| self.unmet("more"))?;
        Ok(())
    }

    /// Takes the documents of a record; they share a shard.
    fn push(&mut self, documents: &[Tokens], id: &crate::RowId) -> Result<(), DataError> {
        let tokens = self.filling.counts().tokens;
        let more: u64 = documents.iter().map(|document| document.ids.len() as u64).sum();
        if tokens > 0 && tokens + more > self.tokens_max {
            self.write()?;
        }
        for document in documents {
            match self.place {
                Some(_) => {
                    let Tokens { ids, weights, text_bytes } = document;
                    self.filling.push(ids, weights, *text_bytes, id);
                }
                None => self.part.counts += document.counts(),
            }
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), DataError> {
        let empty = ShardBuilder::new(self.vocabulary, self.weighted);
        let full = std::mem::replace(&mut self.filling, empty);
        if let Some((folder, disk)) = self.place {
            let file = self.next_name();
            let sha256 = full.write(disk, folder, &file)?;
            self.add(ShardEntry { file, sha256, counts: full.counts() });
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), DataError> {
        if self.to_meet > 0 {
            return Err(self.unmet("fewer"));
        }
        if self.filling.counts().documents > 0 { self.write() } else { Ok(()) }
    }

    fn unmet(&self, got: &str) -> DataError {
        let file = self.part.shards.last().map_or_else(String::new, |shard| shard.file.clone());
        DataError::Format {
            path: self.place.map_or_else(|| file.clone().into(), |(folder, _)| folder.join(&file)),
            what: "the number of documents up to its end",
            expected: "that of the input".to_owned(),
            got: got.to_owned(),
        }
    }
}

/// The two sides, in the order of [`SourceRun`]'s.
const _: () = assert!(Side::Train as usize == 0 && Side::Validation as usize == 1);
