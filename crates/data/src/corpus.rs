//! A folder of shards, opened for reading.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::dialogue::{Counting, Lessons, Mark};
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
///
/// Where the answers of a row are compared, all of them together are one document, made of a
/// *sequence* for each answer, the best first: so they share a row of every batch. Else a document
/// has one sequence.
#[derive(Debug)]
pub struct Documents {
    shards: Vec<Shard>,
    /// The number of each shard's first sequence.
    firsts: Vec<u64>,
    counts: Counts,
    /// Of documents of several sequences, the number of each one's first, and the end.
    starts: Option<Vec<u64>>,
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
        let (vocabulary, compared) = (manifest.settings.tokenizer, manifest.settings.compared);
        let open = |report: &SourceReport| -> Result<CorpusSource, DataError> {
            Ok(CorpusSource {
                name: report.name.clone(),
                train: Documents::open(folder, &report.train, &vocabulary, check)?.of(compared)?,
                validation: Documents::open(folder, &report.validation, &vocabulary, check)?
                    .of(compared)?,
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

    /// Errors: the shards are not of dialogues read and rendered as these are; they are of
    /// dialogues, and plain texts are expected; or what should [mark](Mark) their answers does not.
    pub fn expect_lessons(&self, lessons: Option<&Lessons>) -> Result<(), DataError> {
        let told = |hash: Option<Hash>| match hash {
            Some(hash) => format!("the dialogues of rendering {hash}"),
            None => "plain texts".to_owned(),
        };
        let (got, expected) = (self.manifest.settings.lessons, lessons.map(Lessons::hash));
        if got != expected {
            return Err(DataError::Setting {
                what: format!("what {} holds", self.folder.display()),
                got: told(got),
                expected: told(expected),
            });
        }
        match lessons.and_then(|lessons| lessons.compare).map(|compare| compare.counts) {
            Some(Counting::End) => {
                let sides =
                    self.sources.iter().flat_map(|source| [&source.train, &source.validation]);
                sides.into_iter().try_for_each(Documents::expect_marks)
            }
            Some(Counting::Words | Counting::All) | None => Ok(()),
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
        Ok(Documents { shards, firsts, counts, starts: None })
    }

    /// The same, those of a row taken together if they are `compared`.
    fn of(mut self, compared: bool) -> Result<Documents, DataError> {
        if compared {
            let mut starts = Vec::new();
            let mut last = None;
            for sequence in 0..self.counts.documents {
                let (shard, at) = self.find(sequence);
                let (row, _) = shard.row(at)?;
                if last.replace((row.file, row.row)) != Some((row.file, row.row)) {
                    starts.push(sequence);
                }
            }
            starts.push(self.counts.documents);
            self.counts.documents = starts.len() as u64 - 1;
            self.starts = Some(starts);
        }
        Ok(self)
    }

    /// Errors: a document is no prompt with answers that have their [marks](Mark), one better than another.
    fn expect_marks(&self) -> Result<(), DataError> {
        for document in 0..self.counts.documents {
            let wrong = |what: &'static str, expected: &str, got: String| {
                let path = self.find(self.sequences(document).start).0.path().to_owned();
                Err(DataError::Format { path, what, expected: expected.to_owned(), got })
            };
            let mut end = 0;
            let mut places: Vec<usize> = self
                .lengths(document)
                .map(|len| {
                    end += len;
                    end
                })
                .collect();
            // An answer ends where the next one begins, and the last one before a place of its own.
            places.drain(..places.len().min(1));
            places.last_mut().into_iter().for_each(|last| *last -= 1);
            if places.len() < 2 || !places.is_sorted_by(|a, b| a < b) {
                let got = format!("{} answers in {end} tokens", places.len());
                return wrong("a row that is compared", "a prompt and two answers or more", got);
            }
            let mut weights = vec![0.0; end];
            self.weights(document, 0..end, &mut weights)?;
            let mut standings = Vec::new();
            for place in places {
                let weight = std::mem::take(&mut weights[place]);
                match Mark::of_weight(weight) {
                    Some(mark) => standings.push(mark.standing),
                    None => return wrong("the mark of an answer", "1 to 15", weight.to_string()),
                }
            }
            if let Some(weight) = weights.into_iter().find(|weight| *weight != 0.0) {
                return wrong("the weight of what is no mark", "0", weight.to_string());
            }
            if standings.windows(2).all(|pair| pair[0] == pair[1]) {
                let got = format!("{} of one standing", standings.len());
                return wrong("the answers of a row", "a better and a worse one", got);
            }
        }
        Ok(())
    }

    /// How many documents, tokens and bytes there are.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The sequences of a document, by their numbers among all. Panics if there is no such document.
    pub fn sequences(&self, document: u64) -> Range<u64> {
        assert!(document < self.counts.documents, "document {document} of {:?}", self.counts);
        match &self.starts {
            Some(starts) => starts[document as usize]..starts[document as usize + 1],
            None => document..document + 1,
        }
    }

    /// Number of all sequences.
    pub fn sequences_in_all(&self) -> u64 {
        let last = self.starts.as_ref().and_then(|starts| starts.last());
        last.copied().unwrap_or(self.counts.documents)
    }

    /// The tokens of each sequence of a document. Panics if there is no such document.
    pub fn lengths(&self, document: u64) -> impl Iterator<Item = usize> + '_ {
        self.sequences(document).map(|sequence| {
            let (shard, at) = self.find(sequence);
            shard.len(at)
        })
    }

    /// Number of tokens of a document, at least 1. Panics if there is no such document.
    pub fn tokens(&self, document: u64) -> usize {
        self.lengths(document).sum()
    }

    /// Appends the tokens `part` of a document. Panics if there is no such document or part.
    pub fn read(
        &self,
        document: u64,
        part: Range<usize>,
        ids: &mut Vec<u32>,
    ) -> Result<(), DataError> {
        self.for_parts(document, part, |shard, at, part| shard.read(at, part, ids))
    }

    /// Reads the weights of the losses of the tokens `part` of a document; 1 where shards have none.
    /// Panics if there is no such document or part.
    pub fn weights(
        &self,
        document: u64,
        part: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), DataError> {
        let mut rest = out;
        self.for_parts(document, part, |shard, at, part| {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(part.len());
            rest = later;
            shard.weights(at, part, now)
        })
    }

    /// Gives `f` the parts of the sequences that make up `part` of a document.
    fn for_parts(
        &self,
        document: u64,
        part: Range<usize>,
        mut f: impl FnMut(&Shard, usize, Range<usize>) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let mut start = 0;
        for sequence in self.sequences(document) {
            let (shard, at) = self.find(sequence);
            let own = start..start + shard.len(at);
            let (from, to) = (part.start.max(own.start), part.end.min(own.end));
            if from < to || self.starts.is_none() {
                f(shard, at, from - start..to.max(from) - start)?;
            }
            start = own.end;
        }
        assert!(part.end <= start, "{part:?} of document {document} of {start} tokens");
        Ok(())
    }

    /// Where a document came from, and the bytes of its text: of several sequences, of the first.
    /// Panics if there is no such document.
    pub fn row(&self, document: u64) -> Result<(RowId, u32), DataError> {
        let (shard, at) = self.find(self.sequences(document).start);
        shard.row(at)
    }

    fn find(&self, sequence: u64) -> (&Shard, usize) {
        let at = self.firsts.partition_point(|&first| first <= sequence) - 1;
        (&self.shards[at], (sequence - self.firsts[at]) as usize)
    }
}
