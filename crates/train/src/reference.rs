//! What the reference of `dpo` says of every answer: kept in a file, or computed as it is asked for.
//!
//! ```text
//! reference.bin   HERDREFS, the hash of what it belongs to, answers of all sources (training, then validation),
//!                 a log-probability each (f64; NaN of answers longer than a row), SHA-256 of all before
//! reference.part  while it is made: pieces of 64 prompts (`pieces.rs`)
//! ```
//!
//! Numbers are little-endian.

use crate::config::RunConfig;
use crate::dpo::{self, Side};
use crate::error::TrainError;
use crate::pieces::{self, Pieces};
use crate::policy;
use crate::settings::Origin;
use crate::step::{Micro, Packed};
use crate::trainer::{Event, build, replace};
use crate::words::Words;
use herd_data::validation::{Form, in_order};
use herd_data::{Corpus, Documents, Hash, LongDocuments, Policy, Span};
use herd_model::Checkpoint;
use herd_model::llama::Llama;
use herd_tensor::{Device, Tape};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the reference says.
pub(crate) enum Reference {
    /// Of each source the log-probabilities of all answers: to train on, and held out.
    Kept(Vec<[Vec<f64>; 2]>),
    /// The model that says it.
    Live(Box<Live>),
}

/// A model that is never trained.
pub(crate) struct Live {
    model: Llama,
    tape: Arc<Tape>,
}

/// What it is made of.
pub(crate) struct Ask<'a> {
    pub config: &'a RunConfig,
    pub words: &'a Words,
    pub corpus: &'a Corpus,
    pub device: &'a Device,
    pub origin: &'a Origin,
    pub out: &'a Path,
    pub stop: &'a AtomicBool,
}

pub(crate) const FILE: &str = "reference.bin";
pub(crate) const PART: &str = "reference.part";
const MAGIC: &[u8; 8] = b"HERDREFS";
const PART_MAGIC: &[u8; 8] = b"HERDREFP";
const HASH: usize = 32;
/// Prompts of a piece: some seconds' work of a small model.
const PIECE: u64 = 64;

impl Reference {
    /// Reads what an earlier run kept, or makes it, piece by piece.
    ///
    /// Errors: the reference cannot be opened or has another vocabulary, the file is damaged or of other answers, the
    /// disk, or it was asked to stop.
    pub fn open(ask: &Ask<'_>, watch: &mut dyn FnMut(Event<'_>)) -> Result<Reference, TrainError> {
        if ask.config.dpo.as_ref().is_some_and(|dpo| dpo.live) {
            return Ok(Reference::Live(Box::new(ask.live()?)));
        }
        let path = ask.out.join(FILE);
        let numbers = match fs::read(&path) {
            Ok(bytes) => parse(&bytes, ask).ok_or_else(|| TrainError::Damaged {
                path,
                what: "it is of other answers".into(),
            })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => ask.make(watch)?,
            Err(e) => return Err(TrainError::io("read", &path, e)),
        };
        pieces::remove(&ask.out.join(PART))?;
        let mut rest = numbers.into_iter();
        let mut take = |side: &Documents| -> Vec<f64> {
            rest.by_ref().take(side.sequences_in_all() as usize).collect()
        };
        let sources = ask.corpus.sources().iter();
        Ok(Reference::Kept(sources.map(|s| [take(&s.train), take(&s.validation)]).collect()))
    }

    /// The log-probabilities of the answers of some documents, which stand at these places of `micro`.
    pub fn logps(
        &self,
        corpus: &Corpus,
        side: Side,
        documents: &[&[Span]],
        micro: &Micro<'_>,
        places: &[Range<usize>],
    ) -> Vec<f64> {
        match self {
            Reference::Live(live) => live.logps(micro, places),
            Reference::Kept(kept) => {
                let of = |answers: &&[Span]| {
                    let source = answers[0].source as usize;
                    let all = side.of(corpus, source).sequences(answers[0].document);
                    kept[source][side as usize][all.start as usize..all.end as usize].to_vec()
                };
                documents.iter().flat_map(of).collect()
            }
        }
    }
}

impl Side {
    pub fn of(self, corpus: &Corpus, source: usize) -> &Documents {
        match self {
            Side::Train => &corpus.sources()[source].train,
            Side::Validation => &corpus.sources()[source].validation,
        }
    }
}

impl Live {
    /// The model that a run starts from, as the run sees its own weights.
    ///
    /// Errors: it cannot be opened.
    pub fn first(config: &RunConfig, words: &Words, device: &Device) -> Result<Live, TrainError> {
        let tape = Arc::new(Tape::default());
        Ok(Live { model: build(config, words, device, &tape)?, tape })
    }

    /// The log-probability of every target that counts, 0 of the others: [T].
    pub fn token_logps(&self, micro: &Micro<'_>) -> Vec<f32> {
        self.tape.paused(|| policy::logps(&self.model, micro))
    }

    fn logps(&self, micro: &Micro<'_>, places: &[Range<usize>]) -> Vec<f64> {
        self.tape.paused(|| dpo::logps(&self.model, micro, places))
    }
}

/// Some documents of a source.
struct Piece<'a> {
    source: usize,
    documents: &'a Documents,
    range: Range<u64>,
}

impl Piece<'_> {
    fn answers(&self) -> usize {
        self.range.clone().map(|d| self.documents.lengths(d).count()).sum()
    }
}

impl Ask<'_> {
    fn reference(&self) -> Result<&PathBuf, TrainError> {
        let own = self.config.dpo.as_ref().and_then(|dpo| dpo.reference.as_ref());
        let path = own.or(self.config.model.init.as_ref());
        path.ok_or_else(|| TrainError::no("model.init", "nothing", "the checkpoint to align"))
    }

    /// The reference as the run sees its own weights, so that both say the same at first.
    fn live(&self) -> Result<Live, TrainError> {
        let path = self.reference()?;
        let (got, wanted) = (Checkpoint::open(path)?.config.vocab, self.corpus.vocabulary().size);
        if (got as u64) < wanted {
            let value = format!("{} of {got} ids", path.display());
            return Err(TrainError::no("dpo.reference", value, "the vocabulary of model.init"));
        }
        let mut config = self.config.clone();
        config.model.init = Some(path.clone());
        Live::first(&config, self.words, self.device)
    }

    fn belongs_to(&self) -> Hash {
        let weights = self.origin.get("dpo.reference").or(self.origin.get("model.init"));
        let weights = weights.expect("a run of pairs knows the weights of its reference");
        let hashes = [self.corpus.hash(), *weights].map(|hash| hash.to_string());
        let all = (hashes, self.config.precision.weights);
        Hash::of(format!("{all:?} {}", self.seq_len()).as_bytes())
    }

    /// The longest row of the run.
    pub fn seq_len(&self) -> usize {
        let batch = &self.config.batch;
        batch.ramp.iter().map(|ramp| ramp.seq_len).fold(batch.seq_len, usize::max)
    }

    fn pieces(&self) -> Vec<Piece<'_>> {
        let mut pieces = Vec::new();
        for (source, sides) in self.corpus.sources().iter().enumerate() {
            for documents in [&sides.train, &sides.validation] {
                let end = documents.counts().documents;
                let ranges = (0..end).step_by(PIECE as usize).map(|at| at..(at + PIECE).min(end));
                pieces.extend(ranges.map(|range| Piece { source, documents, range }));
            }
        }
        pieces
    }

    /// All numbers, those of pieces that were made before as they are; the file holds them then.
    fn make(&self, watch: &mut dyn FnMut(Event<'_>)) -> Result<Vec<f64>, TrainError> {
        let (pieces, belongs_to) = (self.pieces(), self.belongs_to());
        let sizes = pieces.iter().map(|piece| 8 * piece.answers());
        let mut part = Pieces::begin(&self.out.join(PART), PART_MAGIC, belongs_to, sizes)?;
        let mut numbers = Vec::new();
        for (number, piece) in pieces.iter().take(part.made()).enumerate() {
            let mut bytes = vec![0; 8 * piece.answers()];
            part.read(number, 0, &mut bytes)?;
            numbers.extend(numbers_of(&bytes));
        }
        if part.made() < pieces.len() {
            let live = self.live()?;
            let all = pieces.iter().map(|piece| piece.range.end - piece.range.start).sum();
            let mut done = 0;
            for (number, piece) in pieces.iter().enumerate() {
                if number >= part.made() {
                    let said = self.say(&live, piece)?;
                    part.add(&said.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())?;
                    numbers.extend(said);
                }
                done += piece.range.end - piece.range.start;
                watch(Event::Reference { done, all });
                if self.stop.load(Ordering::Relaxed) {
                    return Err(TrainError::Stopped { what: "the reference's log-probabilities" });
                }
            }
        }
        let mut bytes = [MAGIC, &belongs_to.0[..], &(numbers.len() as u64).to_le_bytes()].concat();
        bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        bytes.extend(Hash::of(&bytes).0);
        replace(&self.out.join(FILE), &bytes)?;
        Ok(numbers)
    }

    /// Of each answer of a piece its log-probability.
    fn say(&self, live: &Live, piece: &Piece<'_>) -> Result<Vec<f64>, TrainError> {
        let first = piece.documents.sequences(piece.range.start).start;
        let last = piece.documents.sequences(piece.range.end - 1).end;
        let mut numbers = vec![f64::NAN; (last - first) as usize];
        let seq_len = self.seq_len();
        let rows = self.config.batch.rows_at_once(seq_len);
        let (policy, ends) = (Policy::Whole(LongDocuments::Drop), self.words.ends);
        let form = Form { seq_len, rows, policy, ends };
        for batch in in_order(piece.documents, piece.source as u32, piece.range.clone(), form) {
            let batch = batch?;
            let packed = Packed::of(&batch, true);
            let rows = packed.rows(&batch, 0, batch.rows);
            let places: Vec<_> = batch.spans.iter().map(|span| span.at.clone()).collect();
            let mut said = live.logps(&rows.borrow(), &places).into_iter();
            for answers in batch.spans.chunk_by(|_, next| next.from > 0) {
                let all = piece.documents.sequences(answers[0].document);
                for sequence in all {
                    numbers[(sequence - first) as usize] =
                        said.next().expect("one number a sequence");
                }
            }
        }
        Ok(numbers)
    }
}

fn numbers_of(bytes: &[u8]) -> Vec<f64> {
    bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
}

/// The numbers of a whole file; `None` if it is damaged or belongs to something else.
fn parse(bytes: &[u8], ask: &Ask<'_>) -> Option<Vec<f64>> {
    let (said, hash) = bytes.split_last_chunk::<HASH>()?;
    let rest = said.strip_prefix(MAGIC)?.strip_prefix(&ask.belongs_to().0)?;
    let (count, rest) = rest.split_first_chunk::<8>()?;
    let sides = ask.corpus.sources().iter().flat_map(|s| [&s.train, &s.validation]);
    let wanted: u64 = sides.map(Documents::sequences_in_all).sum();
    let right = u64::from_le_bytes(*count) == wanted && rest.len() as u64 == 8 * wanted;
    (right && Hash::of(said).0 == *hash).then(|| numbers_of(rest))
}
