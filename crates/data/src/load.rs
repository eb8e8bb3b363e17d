//! Batches for training, a function of corpus, settings and seed alone; any point of their order
//! can be taken up again.
//!
//! A planner decides which pieces of documents fill the rows (`mix`, `pack`); reading them comes
//! after. The planner's state is the cursor: some counters, and the pieces that wait in open rows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use serde::{Deserialize, Serialize};

use crate::batch::Plan;
use crate::mix::{MixState, Mixer, Phase, Size};
use crate::pack::{Ends, Ledger, LongDocuments, Packer, Piece, Policy};
use crate::{Batch, Corpus, DataError, Hash};

/// What decides the batches, besides the corpus and the seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoaderConfig {
    /// The mixtures and when each begins.
    pub phases: Vec<Phase>,
    /// The shapes of batches and when each begins.
    pub ramps: Vec<Ramp>,
    /// How documents fill rows.
    pub policy: Policy,
    /// The tokens that begin and end a document.
    pub ends: Ends,
}

/// The shape of batches from a step on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    /// The first step with it; 0 for the first ramp.
    pub from_step: u64,
    /// Places of a row.
    pub seq_len: usize,
    /// Rows of a batch.
    pub rows: usize,
}

/// A place between two batches; small, and exact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// Corpus, settings and seed that it belongs to.
    belongs_to: Hash,
    step: u64,
    /// Places of the rows that are open.
    seq_len: usize,
    mix: MixState,
    packer: Packer,
    ledger: Ledger,
}

impl Cursor {
    /// The number of the next batch.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// What packing has done so far.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

/// Gives batch after batch.
pub struct Loader {
    inner: Inner,
    /// Behind the batch given last.
    cursor: Cursor,
    corpus: Arc<Corpus>,
    config: LoaderConfig,
    seed: u64,
}

enum Inner {
    Here(Box<Planner>),
    Ahead(Ahead),
}

/// Places of a batch at most, so that a slip of the pen takes no terabytes.
const PLACES_MAX: usize = 1 << 28;

impl Loader {
    /// From the first batch on. Errors: settings outside their ranges, or not fitting the corpus.
    pub fn new(corpus: Arc<Corpus>, config: LoaderConfig, seed: u64) -> Result<Loader, DataError> {
        let planner = Planner::new(corpus.clone(), &config, seed)?;
        let cursor = planner.cursor();
        Ok(Loader { inner: Inner::Here(Box::new(planner)), cursor, corpus, config, seed })
    }

    /// From the batch on that follows `cursor`. Errors also where it belongs to another corpus,
    /// settings or seed.
    pub fn at(
        corpus: Arc<Corpus>,
        config: LoaderConfig,
        seed: u64,
        cursor: Cursor,
    ) -> Result<Loader, DataError> {
        let mut loader = Loader::new(corpus, config, seed)?;
        let expected = loader.cursor.belongs_to;
        if cursor.belongs_to != expected || !cursor.fits(&loader.cursor) {
            return Err(DataError::Cursor { expected, got: cursor.belongs_to });
        }
        loader.go_to(cursor)?;
        Ok(loader)
    }

    /// The same batches, up to `batches` of them read before they are asked for, by a thread.
    pub fn ahead(mut self, batches: usize) -> Loader {
        if let (Inner::Here(_), 1..) = (&self.inner, batches) {
            let planner = Planner::new(self.corpus.clone(), &self.config, self.seed);
            let mut planner = planner.expect("it was made from these before");
            planner.resume(self.cursor.clone());
            self.inner = Inner::Ahead(Ahead::start(planner, batches));
        }
        self
    }

    /// The next batch; none when every source has come as often as it may. The time this takes is
    /// what training waits for data. After an error the same batch can be asked for again.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, DataError> {
        let next = match &mut self.inner {
            Inner::Here(planner) => planner.next_batch().map(Some),
            Inner::Ahead(ahead) => ahead.next_batch(),
        };
        match next {
            Ok(Some((batch, cursor))) => {
                self.cursor = cursor;
                Ok(batch)
            }
            Ok(None) => Ok(None),
            Err(error) => {
                self.go_to(self.cursor.clone())?;
                Err(error)
            }
        }
    }

    /// The place behind the batch given last.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// What packing has done with the documents up to the batch given last.
    pub fn ledger(&self) -> &Ledger {
        self.cursor.ledger()
    }

    /// The corpus that the batches are from.
    pub fn corpus(&self) -> &Arc<Corpus> {
        &self.corpus
    }

    fn go_to(&mut self, cursor: Cursor) -> Result<(), DataError> {
        let mut planner = Planner::new(self.corpus.clone(), &self.config, self.seed)?;
        planner.resume(cursor.clone());
        self.inner = Inner::Here(Box::new(planner));
        self.cursor = cursor;
        Ok(())
    }
}

impl Cursor {
    /// Whether it has the shape of a cursor of the same corpus: a file may have been edited.
    fn fits(&self, fresh: &Cursor) -> bool {
        self.mix.fits(&fresh.mix)
    }
}

/// Decides batches, one after the other.
struct Planner {
    corpus: Arc<Corpus>,
    ramps: Vec<Ramp>,
    policy: Policy,
    ends: Ends,
    belongs_to: Hash,
    step: u64,
    seq_len: usize,
    mixer: Mixer,
    packer: Packer,
    ledger: Ledger,
    /// Of documents that are shortened, by source and number: the first prediction that counts, if
    /// one does.
    first_learnt: BTreeMap<(u32, u64), Option<u64>>,
}

impl Planner {
    fn new(corpus: Arc<Corpus>, config: &LoaderConfig, seed: u64) -> Result<Planner, DataError> {
        check_ramps(&config.ramps)?;
        check_ends(&config.ends, &corpus)?;
        let size = |source: &crate::corpus::CorpusSource| Size {
            name: source.name.clone(),
            documents: source.train.counts().documents,
        };
        let mixer = Mixer::new(corpus.sources().iter().map(size).collect(), &config.phases, seed)?;
        let all = serde_json::to_vec(&(corpus.hash(), config, seed));
        let first_learnt = match config.policy {
            Policy::Whole(LongDocuments::Shorten) => first_learnt(&corpus, config)?,
            Policy::Cut | Policy::Whole(LongDocuments::Split | LongDocuments::Drop) => {
                BTreeMap::new()
            }
        };
        Ok(Planner {
            first_learnt,
            ramps: config.ramps.clone(),
            policy: config.policy,
            ends: config.ends,
            belongs_to: Hash::of(&all.expect("hashes and settings serialise")),
            step: 0,
            seq_len: config.ramps[0].seq_len,
            mixer,
            packer: Packer::default(),
            ledger: Ledger { kept_by_source: vec![0; corpus.sources().len()], ..Ledger::default() },
            corpus,
        })
    }

    fn cursor(&self) -> Cursor {
        Cursor {
            belongs_to: self.belongs_to,
            step: self.step,
            seq_len: self.seq_len,
            mix: self.mixer.state.clone(),
            packer: self.packer.clone(),
            ledger: self.ledger.clone(),
        }
    }

    fn resume(&mut self, cursor: Cursor) {
        let Cursor { belongs_to: _, step, seq_len, mix, packer, ledger } = cursor;
        (self.step, self.seq_len, self.mixer.state) = (step, seq_len, mix);
        (self.packer, self.ledger) = (packer, ledger);
    }

    /// The next batch, and the place behind it. Behind the last one there may still be documents
    /// that are drawn only to be dropped, so the cursor moves there as well.
    fn next_batch(&mut self) -> Loaded {
        let plan = self.plan();
        let sources = self.corpus.sources();
        let documents = |source: u32| &sources[source as usize].train;
        let batch = plan.map(|plan| plan.read(&self.ends, documents)).transpose()?;
        Ok((batch, self.cursor()))
    }

    /// Fills rows; the last batch of all may have empty ones.
    fn plan(&mut self) -> Option<Plan> {
        let due = self.ramps.iter().rev().find(|ramp| ramp.from_step <= self.step);
        let Ramp { seq_len, rows, .. } = *due.expect("the first ramp begins at step 0");
        if seq_len != self.seq_len {
            self.packer.reopen();
            self.seq_len = seq_len;
        }
        let Planner { corpus, policy, ends, mixer, packer, ledger, first_learnt, .. } = self;
        // Whether a document would be cut before what counts in it.
        let in_vain = |piece: &Piece| {
            let first = first_learnt.get(&(piece.source, piece.document));
            piece.len > seq_len as u64
                && first.is_some_and(|at| at.is_none_or(|at| at >= seq_len as u64))
        };
        let mut packed = Vec::with_capacity(rows);
        while packed.len() < rows {
            let draw = |ledger: &mut Ledger| loop {
                let piece = draw(corpus, ends, mixer, ledger)?;
                if !in_vain(&piece) {
                    return Some(piece);
                }
                ledger.drop_documents("nothing_learnt", piece.len);
            };
            match packer.next_row(*policy, seq_len as u64, ledger, draw) {
                Some(row) => packed.push(row),
                None if packed.is_empty() => return None,
                None => break,
            }
        }
        self.ledger.padded += ((rows - packed.len()) * seq_len) as u64;
        let plan = Plan { step: self.step, rows, seq_len, packed };
        self.step += 1;
        Some(plan)
    }
}

/// The next document that has something to predict, whole.
fn draw(corpus: &Corpus, ends: &Ends, mixer: &mut Mixer, ledger: &mut Ledger) -> Option<Piece> {
    loop {
        let documents = |source: u32| &corpus.sources()[source as usize].train;
        let drawn = mixer.next(|d| documents(d.source).tokens(d.document) as u64)?;
        let (source, epoch, document) = (drawn.source, drawn.epoch, drawn.document);
        let tokens = documents(source).tokens(document) as u64 + ends.count();
        ledger.draw(tokens);
        if tokens >= 2 {
            return Some(Piece { source, epoch, document, from: 0, len: tokens - 1 });
        }
    }
}

/// Where learning begins in each document that does not fit every row.
fn first_learnt(
    corpus: &Corpus,
    config: &LoaderConfig,
) -> Result<BTreeMap<(u32, u64), Option<u64>>, DataError> {
    let least = config.ramps.iter().map(|ramp| ramp.seq_len).min().unwrap_or(0);
    let before = usize::from(config.ends.bos.is_some());
    let mut found = BTreeMap::new();
    for (source, documents) in (0..).zip(corpus.sources().iter().map(|source| &source.train)) {
        for document in 0..documents.counts().documents {
            let tokens = documents.tokens(document);
            if tokens + config.ends.count() as usize <= least + 1 {
                continue;
            }
            let mut weights = vec![0.0; tokens];
            documents.weights(document, 0..tokens, &mut weights)?;
            // Token t, counted from 0 with the one that begins the document, is prediction t - 1.
            let counts = |t: &usize| t + before > 0 && weights[*t] > 0.0;
            let first = (0..tokens).find(counts).map(|t| (t + before - 1) as u64);
            found.insert((source, document), first);
        }
    }
    Ok(found)
}

pub(crate) fn check_ramps(ramps: &[Ramp]) -> Result<(), DataError> {
    let wrong = |what: &str, got: String, expected: &str| {
        let (what, expected) = (what.to_owned(), expected.to_owned());
        Err(DataError::Setting { what, got, expected })
    };
    if ramps.first().is_none_or(|ramp| ramp.from_step != 0) {
        let got = ramps.first().map_or("missing".into(), |ramp| format!("step {}", ramp.from_step));
        return wrong("the start of the first ramp", got, "step 0");
    }
    if let Some(pair) = ramps.windows(2).find(|pair| pair[0].from_step >= pair[1].from_step) {
        let expected = format!("behind step {}", pair[0].from_step);
        return wrong("the start of a ramp", format!("step {}", pair[1].from_step), &expected);
    }
    for Ramp { seq_len, rows, .. } in ramps {
        let fits = seq_len.checked_mul(*rows).is_some_and(|n| (1..=PLACES_MAX).contains(&n));
        if !fits {
            let expected = format!("1 to {PLACES_MAX} places");
            return wrong("a batch", format!("{rows} rows of {seq_len}"), &expected);
        }
    }
    Ok(())
}

pub(crate) fn check_ends(ends: &Ends, corpus: &Corpus) -> Result<(), DataError> {
    let size = corpus.vocabulary().size;
    match [ends.bos, ends.eos].into_iter().flatten().find(|&id| u64::from(id) >= size) {
        None => Ok(()),
        Some(id) => Err(DataError::Setting {
            what: "a begin- or end-of-text token".to_owned(),
            got: id.to_string(),
            expected: format!("below {size}"),
        }),
    }
}

type Loaded = Result<(Option<Batch>, Cursor), DataError>;

/// A thread that reads ahead.
struct Ahead {
    batches: Option<Receiver<Loaded>>,
    thread: Option<JoinHandle<()>>,
}

impl Ahead {
    fn start(planner: Planner, batches: usize) -> Ahead {
        // One more is in the thread's hands.
        let (to_loader, from_thread) = sync_channel(batches - 1);
        let thread = thread::spawn(move || read_ahead(planner, &to_loader));
        Ahead { batches: Some(from_thread), thread: Some(thread) }
    }

    /// None after the thread has ended, which it does behind the last batch or an error.
    fn next_batch(&mut self) -> Result<Option<(Option<Batch>, Cursor)>, DataError> {
        match self.batches.as_ref().map(Receiver::recv) {
            Some(Ok(next)) => next.map(Some),
            Some(Err(_)) => {
                self.batches = None;
                if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
                    std::panic::resume_unwind(panic);
                }
                Ok(None)
            }
            None => Ok(None),
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.batches = None; // a thread that waits to hand over a batch gives up
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // its panic, if any, is of no use any more
        }
    }
}

fn read_ahead(mut planner: Planner, to_loader: &SyncSender<Loaded>) {
    loop {
        let next = planner.next_batch();
        let last = !matches!(next, Ok((Some(_), _)));
        if to_loader.send(next).is_err() || last {
            return;
        }
    }
}
