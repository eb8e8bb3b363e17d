//! The records of a source as tokens, on many threads, in the order of the files.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use herd_codec::{TokenId, Tokenizer};

use crate::dialogue::{Counting, Encoder, Lessons, Row, comparison, lesson, opening};
use crate::read::{Raw, ReadOptions, Records, RowId, Source};
use crate::shard::Counts;
use crate::{DataError, Fault, Hash};

/// A thread takes this much at a time: enough to hide the cost of handing over, little enough that
/// threads end together.
const CHUNK_BYTES: usize = 1 << 18;
const CHUNK_RECORDS: usize = 1 << 12;

/// On which side of the split a document lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Train,
    Validation,
}

/// A record, and what became of it.
pub(crate) struct Encoded {
    pub id: RowId,
    pub outcome: Outcome,
}

pub(crate) enum Outcome {
    /// One document, or the rows that teach a dialogue.
    Documents {
        side: Side,
        lacking: Lacking,
        documents: Vec<Tokens>,
    },
    /// Documents that an earlier run has written.
    Done {
        side: Side,
        lacking: Lacking,
        documents: u64,
    },
    Dropped(Fault),
}

/// What documents lack of their record.
#[derive(Clone, Copy, Default)]
pub(crate) struct Lacking {
    /// Bytes that the vocabulary cannot spell.
    pub unspelt: u64,
    /// Answers that say what a better one says.
    pub similar: u64,
}

/// A document as ids.
pub(crate) struct Tokens {
    pub ids: Vec<u32>,
    /// One for each id where rows are dialogues, else none.
    pub weights: Vec<f32>,
    /// Bytes of what is learnt.
    pub text_bytes: u32,
}

impl Tokens {
    pub fn counts(&self) -> Counts {
        let (tokens, bytes) = (self.ids.len() as u64, u64::from(self.text_bytes));
        Counts { documents: 1, tokens, bytes }
    }
}

/// How a source becomes tokens.
pub(crate) struct Recipe<'a> {
    pub tokenizer: &'a Tokenizer,
    pub read: &'a ReadOptions,
    /// Where rows are dialogues.
    pub lessons: Option<&'a Lessons>,
    /// Share of documents held out.
    pub validation: f64,
    pub threads: usize,
    /// File and row of the last document of each side that need not be encoded again.
    pub done: [Option<(u32, u64)>; 2],
}

type Chunk = (usize, Vec<Raw>);
type Answer = (usize, thread::Result<Result<Vec<Encoded>, DataError>>);

/// Gives every record of the source to `sink`, in order. The first error in that order ends it.
///
/// A reader hands chunks to workers; a ticket goes with each and comes back when the chunk has been
/// taken, so that memory is bounded however slow one of them is.
pub(crate) fn encode(
    source: &Source,
    recipe: &Recipe<'_>,
    sink: &mut dyn FnMut(Encoded) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let missing = recipe.tokenizer.missing_bytes();
    let (to_reader, tickets) = channel();
    let (to_workers, chunks) = channel::<Chunk>();
    let (to_sink, answers) = channel::<Answer>();
    let chunks = Mutex::new(chunks);
    for _ in 0..2 * recipe.threads + 2 {
        to_reader.send(()).expect("the reader has not begun");
    }
    thread::scope(|scope| {
        let reader_answers = to_sink.clone();
        scope.spawn(move || read(source, recipe, &tickets, &to_workers, &reader_answers));
        for _ in 0..recipe.threads.max(1) {
            let (chunks, to_sink) = (&chunks, to_sink.clone());
            let missing = &missing;
            scope.spawn(move || work(source, recipe, missing, chunks, &to_sink));
        }
        drop(to_sink);
        // Dropping the tickets ends the reader, and with it the workers.
        collect(to_reader, &answers, sink)
    })
}

/// Reads all files, a chunk for each ticket.
fn read(
    source: &Source,
    recipe: &Recipe<'_>,
    tickets: &Receiver<()>,
    to_workers: &Sender<Chunk>,
    to_sink: &Sender<Answer>,
) {
    let mut index = 0;
    let mut chunk = Vec::new();
    let mut bytes = 0;
    // False when nobody listens any more.
    let mut hand_over = |chunk: &mut Vec<Raw>| {
        let open =
            tickets.recv().is_ok() && to_workers.send((index, std::mem::take(chunk))).is_ok();
        index += 1;
        open
    };
    let mut all = || -> Result<bool, DataError> {
        for (number, file) in source.files.iter().enumerate() {
            let records = match recipe.lessons {
                None => Records::open(file, number as u32, recipe.read)?,
                Some(_) => Records::whole(file, number as u32, recipe.read)?,
            };
            for raw in records {
                let raw = raw?;
                bytes += raw.len();
                chunk.push(raw);
                if bytes >= CHUNK_BYTES || chunk.len() == CHUNK_RECORDS {
                    bytes = 0;
                    if !hand_over(&mut chunk) {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    };
    let result = all();
    let open = !matches!(result, Ok(false)) && (chunk.is_empty() || hand_over(&mut chunk));
    if let (Err(error), true) = (result, open) {
        let _ = to_sink.send((index, Ok(Err(error)))); // an error behind another is of no interest
    }
}

fn work(
    source: &Source,
    recipe: &Recipe<'_>,
    missing: &[u8],
    chunks: &Mutex<Receiver<Chunk>>,
    to_sink: &Sender<Answer>,
) {
    loop {
        let next = chunks.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((index, raws)) = next else { return };
        let encode = || raws.into_iter().map(|raw| encode_one(raw, source, recipe, missing));
        let answer = catch_unwind(AssertUnwindSafe(|| encode().collect()));
        if to_sink.send((index, answer)).is_err() {
            return;
        }
    }
}

fn encode_one(
    raw: Raw,
    source: &Source,
    recipe: &Recipe<'_>,
    missing: &[u8],
) -> Result<Encoded, DataError> {
    let id = raw.id.clone();
    let outcome = match recipe.lessons {
        Some(lessons) => encode_lesson(raw, lessons, recipe),
        None => encode_text(raw, source, recipe, missing)?,
    };
    Ok(Encoded { id, outcome })
}

fn encode_text(
    raw: Raw,
    source: &Source,
    recipe: &Recipe<'_>,
    missing: &[u8],
) -> Result<Outcome, DataError> {
    let id = raw.id.clone();
    let text = match raw.parse(&recipe.read.field) {
        Ok(text) => text,
        Err(fault) => return Ok(Outcome::Dropped(fault)),
    };
    let side = side(&text, recipe.validation);
    let unspelt = match missing {
        [] => 0,
        missing => text.bytes().filter(|byte| missing.contains(byte)).count() as u64,
    };
    let lacking = Lacking { unspelt, similar: 0 };
    if recipe.is_done(side, &id) {
        return Ok(Outcome::Done { side, lacking, documents: 1 });
    }
    let ids = recipe.tokenizer.try_encode(&text).map_err(|source_error| {
        let path: PathBuf = source.files[id.file as usize].path.clone();
        DataError::Encode { path, row: id.row, source: source_error }
    })?;
    if ids.is_empty() {
        return Ok(Outcome::Dropped(Fault::NoTokens));
    }
    let (ids, weights) = (ids.into_iter().map(|id| id.0).collect(), Vec::new());
    let text_bytes = u32::try_from(text.len()).expect("records are shorter than 4 GiB");
    Ok(Outcome::Documents { side, lacking, documents: vec![Tokens { ids, weights, text_bytes }] })
}

/// The rows that teach a dialogue, or those of the answers that are compared. An earlier run's are made again: only so is their number known.
fn encode_lesson(raw: Raw, lessons: &Lessons, recipe: &Recipe<'_>) -> Outcome {
    let id = raw.id.clone();
    let made = raw.json().and_then(|value| {
        let text = value.to_string();
        let (question, documents, similar) = sequences(&value, &text, lessons, recipe.tokenizer)?;
        Ok((side(&question, recipe.validation), documents, Lacking { unspelt: 0, similar }))
    });
    let (side, documents, lacking) = match made {
        Ok(made) => made,
        Err(fault) => return Outcome::Dropped(fault),
    };
    match recipe.is_done(side, &id) {
        true => Outcome::Done { side, lacking, documents: documents.len() as u64 },
        false => Outcome::Documents { side, lacking, documents },
    }
}

/// The question that a row of this text begins with, what the row becomes, and how many answers were left out of it.
fn sequences(
    row: &serde_json::Value,
    text: &str,
    lessons: &Lessons,
    tokenizer: &Tokenizer,
) -> Result<(String, Vec<Tokens>, u64), Fault> {
    let Lessons { shape, format, options, compare } = lessons;
    let encoder = Encoder { format, tokenizer, options: *options };
    let tokens = |ids: Vec<TokenId>, weights: Vec<f32>, counts: &dyn Fn(usize) -> bool| {
        let counted = ids.iter().enumerate().filter(|(i, _)| counts(*i));
        let bytes: usize = counted.map(|(_, id)| tokenizer.token_bytes(*id).len()).sum();
        let text_bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Tokens { ids: ids.into_iter().map(|id| id.0).collect(), weights, text_bytes }
    };
    let learnt = |row: Row| {
        let weights = row.weights.clone();
        tokens(row.ids, row.weights, &|i| weights[i] > 0.0)
    };
    let Some(compare) = compare else {
        let lesson = lesson(row, *shape)?;
        let rows = encoder.lesson(&lesson)?;
        return Ok((opening(&lesson.dialogue), rows.into_iter().map(learnt).collect(), 0));
    };
    let comparison = comparison(row, *shape)?;
    let compared = encoder.compare(&comparison, compare)?;
    let similar = compared.similar;
    let documents = match compare.counts {
        Counting::Words | Counting::All => compared.rows.into_iter().map(learnt).collect(),
        Counting::End => {
            let parts = compared.branch(Hash::of(text.as_bytes()).word()).into_iter().enumerate();
            parts.map(|(number, part)| tokens(part.ids, part.weights, &|_| number > 0)).collect()
        }
    };
    Ok((opening(&comparison.prompt), documents, similar))
}

impl Recipe<'_> {
    fn is_done(&self, side: Side, id: &RowId) -> bool {
        self.done[side as usize].is_some_and(|last| (id.file, id.row) <= last)
    }
}

/// The side of a document: it depends on its text alone, of a dialogue on its question, so that equal ones never lie on both.
fn side(text: &str, validation: f64) -> Side {
    let bound = (validation * 2f64.powi(64)) as u64;
    match Hash::of(text.as_bytes()).word() < bound {
        true => Side::Validation,
        false => Side::Train,
    }
}

/// Hands the answers on in their order.
fn collect(
    tickets: Sender<()>,
    answers: &Receiver<Answer>,
    sink: &mut dyn FnMut(Encoded) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let mut waiting = BTreeMap::new();
    let mut next = 0;
    while let Ok((index, answer)) = answers.recv() {
        waiting.insert(index, answer);
        while let Some(answer) = waiting.remove(&next) {
            let chunk = answer.unwrap_or_else(|panic| resume_unwind(panic))?;
            chunk.into_iter().try_for_each(&mut *sink)?;
            let _ = tickets.send(()); // the reader may have come to the end
            next += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_takes_its_share_and_no_more() {
        let held = |share: f64| {
            let texts = (0..10_000).map(|i| format!("document {i}"));
            texts.filter(|text| side(text, share) == Side::Validation).count()
        };
        assert_eq!(held(0.0), 0);
        // Five standard deviations of 10,000 draws.
        assert!((held(0.01) as f64 - 100.0).abs() < 50.0, "{}", held(0.01));
        assert!((held(0.5) as f64 - 5000.0).abs() < 250.0, "{}", held(0.5));
    }
}
