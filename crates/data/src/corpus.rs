//! A folder of shards, opened for reading.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::dialogue::Lessons;
use crate::manifest::{Manifest, Part, SourceReport};
use crate::shard::{Counts, Shard, Vocabulary};
use crate::tokenize::expect_entry;
use crate::{DataError, Hash, RowId};

/// How much of the shards is read when they are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Everything: each content has the hash that the manifest states.
    Contents,
    /// Heads and tables of documents; ids are compared with the vocabulary when they are read.
    Tables,
}

/// All documents of a folder of shards, by source and side.
#[derive(Debug)]
pub struct Corpus {
    folder: PathBuf,
    manifest: Manifest,
    sources: Vec<CorpusSource>,
}

/// The documents of one source.
#[derive(Debug)]
pub struct CorpusSource {
    /// Its name.
    pub name: String,
    /// What there is to train on.
    pub train: Documents,
    /// What is held out.
    pub validation: Documents,
}

/// Documents by number, in the order of the files they came from.
#[derive(Debug)]
pub struct Documents {
    shards: Vec<Shard>,
    /// The number of each shard's first document.
    firsts: Vec<u64>,
    counts: Counts,
}

impl Corpus {
    /// Opens the shards that [`tokenize`](crate::tokenize()) wrote into `folder`.
    ///
    /// Errors: there are none, the run was not finished, a shard is not what was written.
    pub fn open(folder: &Path, check: Check) -> Result<Corpus, DataError> {
        let Some(manifest) = Manifest::find(folder)? else {
            return Err(DataError::NoDocuments { what: folder.display().to_string() });
        };
        if !manifest.complete {
            return Err(DataError::Unfinished { folder: folder.to_owned() });
        }
        let vocabulary = manifest.settings.tokenizer;
        let open = |report: &SourceReport| -> Result<CorpusSource, DataError> {
            Ok(CorpusSource {
                name: report.name.clone(),
                train: Documents::open(folder, &report.train, &vocabulary, check)?,
                validation: Documents::open(folder, &report.validation, &vocabulary, check)?,
            })
        };
        let sources = manifest.sources.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Corpus { folder: folder.to_owned(), manifest, sources })
    }

    /// Errors: the shards were made by another tokenizer than the one with this
    /// [hash](Hash::of_tokenizer).
    pub fn expect_tokenizer(&self, expected: Hash) -> Result<(), DataError> {
        let got = self.vocabulary().sha256;
        match got == expected {
            true => Ok(()),
            false => Err(DataError::Tokenizer { path: self.folder.clone(), expected, got }),
        }
    }

    /// Errors: the shards are not of dialogues read and rendered as these are; or they are of
    /// dialogues, and plain texts are expected.
    pub fn expect_lessons(&self, lessons: Option<&Lessons>) -> Result<(), DataError> {
        let told = |hash: Option<Hash>| match hash {
            Some(hash) => format!("the dialogues of rendering {hash}"),
            None => "plain texts".to_owned(),
        };
        let (got, expected) = (self.manifest.settings.lessons, lessons.map(Lessons::hash));
        match got == expected {
            true => Ok(()),
            false => Err(DataError::Setting {
                what: format!("what {} holds", self.folder.display()),
                got: told(got),
                expected: told(expected),
            }),
        }
    }

    /// What the tokens are numbers of.
    pub fn vocabulary(&self) -> Vocabulary {
        self.manifest.settings.tokenizer
    }

    /// What the shards were made of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The sources, in the manifest's order.
    pub fn sources(&self) -> &[CorpusSource] {
        &self.sources
    }

    /// What decides every token of it: the hashes of all shards.
    pub fn hash(&self) -> Hash {
        let parts = self.manifest.sources.iter().map(|s| (&s.name, s.parts()));
        let shards = |part: &Part| part.shards.iter().map(|s| s.sha256).collect::<Vec<_>>();
        let all: Vec<_> = parts.map(|(name, parts)| (name, parts.map(shards))).collect();
        Hash::of(&serde_json::to_vec(&all).expect("names and hashes serialise"))
    }

    /// The file a row came from, as it was named when it was tokenized.
    pub fn file_of(&self, source: usize, row: &RowId) -> Option<&str> {
        let inputs = self.manifest.settings.inputs.get(source)?;
        inputs.files.get(row.file as usize).map(|file| file.path.as_str())
    }
}

impl Documents {
    fn open(
        folder: &Path,
        part: &Part,
        vocabulary: &Vocabulary,
        check: Check,
    ) -> Result<Documents, DataError> {
        let (mut shards, mut firsts, mut counts) = (Vec::new(), Vec::new(), Counts::default());
        for entry in &part.shards {
            let shard = Shard::open(&folder.join(&entry.file))?;
            if check == Check::Contents {
                shard.verify()?;
            }
            expect_entry(&shard, entry, vocabulary)?;
            firsts.push(counts.documents);
            counts += shard.counts();
            shards.push(shard);
        }
        Ok(Documents { shards, firsts, counts })
    }

    /// How many documents, tokens and bytes there are.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Number of tokens of a document, at least 1. Panics if there is no such document.
    pub fn tokens(&self, document: u64) -> usize {
        let (shard, at) = self.find(document);
        shard.len(at)
    }

    /// Appends the tokens `part` of a document. Panics if there is no such document or part.
    pub fn read(
        &self,
        document: u64,
        part: Range<usize>,
        ids: &mut Vec<u32>,
    ) -> Result<(), DataError> {
        let (shard, at) = self.find(document);
        shard.read(at, part, ids)
    }

    /// Reads the weights of the losses of the tokens `part` of a document; 1 where shards have none.
    /// Panics if there is no such document or part.
    pub fn weights(
        &self,
        document: u64,
        part: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), DataError> {
        let (shard, at) = self.find(document);
        shard.weights(at, part, out)
    }

    /// Where a document came from, and the bytes of its text. Panics if there is no such document.
    pub fn row(&self, document: u64) -> Result<(RowId, u32), DataError> {
        let (shard, at) = self.find(document);
        shard.row(at)
    }

    fn find(&self, document: u64) -> (&Shard, usize) {
        assert!(document < self.counts.documents, "document {document} of {:?}", self.counts);
        let at = self.firsts.partition_point(|&first| first <= document) - 1;
        (&self.shards[at], (document - self.firsts[at]) as usize)
    }
}
