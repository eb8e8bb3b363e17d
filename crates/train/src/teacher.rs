//! What the teacher of `distill` says of every token that counts: kept in a file, or computed as it is asked for.
//!
//! ```text
//! teacher.bin    pieces (`pieces.rs`) of some documents each, sources in their order, training before validation; of each
//!                target that counts k ids, ascending, of 2, 3 or 4 bytes by the vocabulary, then k log-probabilities (f32)
//! teacher.part   the same while it is made
//! ```
//!
//! A target is known by its document and its place there: the loader may shuffle and pack as it likes, as long as documents
//! are cut, if at all, where the teacher's were. Numbers are little-endian.

use crate::distill::{DistillConfig, asked, says, silence};
use crate::dpo::Side;
use crate::error::TrainError;
use crate::pieces::{self, Pieces};
use crate::reference::Ask;
use crate::step::{Micro, Packed};
use crate::trainer::{Event, network};
use herd_data::validation::{Form, in_order};
use herd_data::{Batch, Hash, Policy, Span};
use herd_model::Checkpoint;
use herd_model::llama::Llama;
use herd_tensor::ops::Likeliest;
use std::ops::Range;
use std::sync::atomic::Ordering;

/// What the teacher says.
pub(crate) enum Teacher {
    /// Read from a file.
    Kept(Kept),
    /// The model that says it.
    Live(Box<Llama>),
}

/// A file and where in it everything is.
pub(crate) struct Kept {
    file: Pieces,
    index: Index,
    entry: Entry,
}

pub(crate) const FILE: &str = "teacher.bin";
pub(crate) const PART: &str = "teacher.part";
const MAGIC: &[u8; 8] = b"HERDTCHR";
/// Targets of a piece, at least, unless there are no more: some seconds' work of a small model.
const PIECE: u64 = 8192;

/// How a target's list is written.
#[derive(Clone, Copy)]
struct Entry {
    k: usize,
    id_bytes: usize,
}

/// Bytes of what is kept of a target.
pub(crate) fn entry_bytes(k: usize, vocab: usize) -> u64 {
    Entry::new(k, vocab).bytes() as u64
}

impl Entry {
    fn new(k: usize, vocab: usize) -> Entry {
        let id_bytes = match vocab {
            0..=0x1_0000 => 2,
            0x1_0001..=0x100_0000 => 3,
            _ => 4,
        };
        Entry { k, id_bytes }
    }

    fn bytes(&self) -> usize {
        self.k * (self.id_bytes + 4)
    }

    fn write(&self, out: &mut [u8], ids: &[u32], log_probs: &[f32]) {
        let (of_ids, of_log_probs) = out.split_at_mut(self.k * self.id_bytes);
        for (out, id) in of_ids.chunks_exact_mut(self.id_bytes).zip(ids) {
            out.copy_from_slice(&id.to_le_bytes()[..self.id_bytes]);
        }
        for (out, log_prob) in of_log_probs.chunks_exact_mut(4).zip(log_probs) {
            out.copy_from_slice(&log_prob.to_le_bytes());
        }
    }

    fn read(&self, bytes: &[u8], ids: &mut [u32], log_probs: &mut [f32]) {
        let (of_ids, of_log_probs) = bytes.split_at(self.k * self.id_bytes);
        for (bytes, id) in of_ids.chunks_exact(self.id_bytes).zip(ids) {
            let mut wide = [0; 4];
            wide[..self.id_bytes].copy_from_slice(bytes);
            *id = u32::from_le_bytes(wide);
        }
        for (bytes, log_prob) in of_log_probs.as_chunks::<4>().0.iter().zip(log_probs) {
            *log_prob = f32::from_le_bytes(*bytes);
        }
    }
}

/// Some documents of one side of a source.
#[derive(Clone, Debug, PartialEq)]
struct Piece {
    side: Side,
    source: usize,
    documents: Range<u64>,
    targets: u64,
}

/// Where the targets of each document are.
struct Index {
    pieces: Vec<Piece>,
    /// Of each source, to train on and held out: the targets before each document, and all.
    before: Vec<[Vec<u64>; 2]>,
}

impl Index {
    fn new(ask: &Ask<'_>) -> Result<Index, TrainError> {
        let (mut pieces, mut before) = (Vec::new(), Vec::new());
        let ends = ask.words.ends.count();
        for source in 0..ask.corpus.sources().len() {
            let mut sides = [Vec::new(), Vec::new()];
            for side in [Side::Train, Side::Validation] {
                let counts = asked(ask.config, ask.corpus, side, source, ask.seq_len(), ends)?;
                let starts = &mut sides[side as usize];
                starts.push(0);
                let (mut first, mut targets) = (0, 0);
                for (document, count) in counts.iter().enumerate() {
                    starts.push(starts[document] + count);
                    targets += count;
                    let next = document as u64 + 1;
                    if targets >= PIECE || next == counts.len() as u64 {
                        pieces.push(Piece { side, source, documents: first..next, targets });
                        (first, targets) = (next, 0);
                    }
                }
            }
            before.push(sides);
        }
        Ok(Index { pieces, before })
    }

    /// The piece of a document, and the targets before it there.
    fn find(&self, side: Side, source: usize, document: u64) -> (usize, u64) {
        let order = |piece: &Piece| (piece.source, piece.side as usize, piece.documents.end);
        let piece = self.pieces.partition_point(|p| order(p) <= (source, side as usize, document));
        let before = &self.before[source][side as usize];
        let first = self.pieces[piece].documents.start;
        (piece, before[document as usize] - before[first as usize])
    }
}

impl Teacher {
    /// Takes the teacher into memory, or reads what it said before, or lets it say it, piece by piece.
    ///
    /// Errors: the teacher cannot be opened or has another vocabulary, the file is damaged or of something else, the disk,
    /// or it was asked to stop.
    pub fn open(
        ask: &Ask<'_>,
        config: &DistillConfig,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<Teacher, TrainError> {
        let checkpoint = open(ask, config)?;
        if config.live {
            return Ok(Teacher::Live(Box::new(load(ask, &checkpoint)?)));
        }
        let entry = Entry::new(config.k, checkpoint.config.vocab);
        let (index, path) = (Index::new(ask)?, ask.out.join(FILE));
        let belongs_to = belongs_to(ask, config);
        let sizes = || index.pieces.iter().map(|piece| piece.targets as usize * entry.bytes());
        if let Some(file) = Pieces::finished(&path, MAGIC, belongs_to, sizes())? {
            pieces::remove(&ask.out.join(PART))?;
            return Ok(Teacher::Kept(Kept { file, index, entry }));
        }
        let mut file = Pieces::begin(&ask.out.join(PART), MAGIC, belongs_to, sizes())?;
        if file.made() < index.pieces.len() {
            let teacher = load(ask, &checkpoint)?;
            let all = index.pieces.iter().map(|piece| piece.targets).sum();
            let mut done = 0;
            for (number, piece) in index.pieces.iter().enumerate() {
                if number >= file.made() {
                    let bytes = say(ask, config, &teacher, &index, piece, entry)?;
                    file.add(&bytes)?;
                }
                done += piece.targets;
                watch(Event::Teacher { done, all });
                if ask.stop.load(Ordering::Relaxed) {
                    return Err(TrainError::Stopped { what: "the teacher's log-probabilities" });
                }
            }
        }
        ask.device.free_buffers();
        file.rename(&path)?;
        Ok(Teacher::Kept(Kept { file, index, entry }))
    }

    /// What was kept of the places of a batch; `None` where the teacher is asked as one goes.
    ///
    /// Errors: the disk.
    pub fn kept(&self, side: Side, batch: &Batch) -> Result<Option<Likeliest>, TrainError> {
        let Teacher::Kept(Kept { file, index, entry }) = self else { return Ok(None) };
        let k = entry.k;
        let mut said = silence(batch.weight_t.len(), k);
        let mut bytes = Vec::new();
        for span in &batch.spans {
            let counts: Vec<usize> =
                span.at.clone().filter(|t| batch.weight_t[*t] != 0.0).collect();
            let (piece, before) = index.find(side, span.source as usize, span.document);
            bytes.resize(counts.len() * entry.bytes(), 0);
            file.read(piece, (before + span.from) * entry.bytes() as u64, &mut bytes)?;
            for (t, bytes) in counts.into_iter().zip(bytes.chunks_exact(entry.bytes())) {
                let at = t * k..(t + 1) * k;
                entry.read(bytes, &mut said.ids[at.clone()], &mut said.log_probs[at]);
            }
        }
        Ok(Some(said))
    }

    /// What it says of some rows. Panics if it was not to be asked.
    pub fn says(&self, micro: &Micro<'_>, config: &DistillConfig) -> Likeliest {
        let Teacher::Live(teacher) = self else { unreachable!("what is kept is read") };
        says(teacher, micro, config.k, config.temperature)
    }
}

/// The teacher's file.
///
/// Errors: it cannot be opened, or is of another vocabulary than the student.
fn open(ask: &Ask<'_>, config: &DistillConfig) -> Result<Checkpoint, TrainError> {
    let checkpoint = Checkpoint::open(&config.teacher)?;
    let (got, wanted) = (checkpoint.config.vocab, network(ask.config, ask.words)?.vocab);
    if got != wanted {
        let value = format!("{} of {got} ids", config.teacher.display());
        let expected = format!("the student's vocabulary of {wanted}");
        return Err(TrainError::no("distill.teacher", value, &expected));
    }
    if config.k > got {
        return Err(TrainError::no("distill.k", config.k, &format!("at most the {got} ids")));
    }
    Ok(checkpoint)
}

/// Nothing of it is trained: no masters, and weights as they are stored.
fn load(ask: &Ask<'_>, checkpoint: &Checkpoint) -> Result<Llama, TrainError> {
    let context = checkpoint.config.context.max(ask.seq_len());
    Ok(Llama::load(checkpoint, ask.device, context)?)
}

fn belongs_to(ask: &Ask<'_>, config: &DistillConfig) -> Hash {
    let teacher = ask.origin["distill.teacher"];
    let DistillConfig { k, temperature, .. } = config;
    let hashes = [ask.corpus.hash(), teacher].map(|hash| hash.to_string());
    let all = (hashes, ask.config.data.long, ask.seq_len());
    Hash::of(format!("{all:?} {k} {temperature}").as_bytes())
}

/// What the teacher says of the targets of a piece.
fn say(
    ask: &Ask<'_>,
    config: &DistillConfig,
    teacher: &Llama,
    index: &Index,
    piece: &Piece,
    entry: Entry,
) -> Result<Vec<u8>, TrainError> {
    let mut bytes = vec![0; piece.targets as usize * entry.bytes()];
    let documents = piece.side.of(ask.corpus, piece.source);
    let seq_len = ask.seq_len();
    let rows = ask.config.batch.rows_at_once(seq_len);
    let policy = Policy::Whole(ask.config.data.long.documents());
    let form = Form { seq_len, rows, policy, ends: ask.words.ends };
    for batch in in_order(documents, piece.source as u32, piece.documents.clone(), form) {
        let batch = batch?;
        let packed = Packed::of(&batch, true);
        let part = packed.rows(&batch, 0, batch.rows);
        let said = says(teacher, &part.borrow(), entry.k, config.temperature);
        for Span { at, document, from, .. } in &batch.spans {
            let (_, before) = index.find(piece.side, piece.source, *document);
            let counts = at.clone().filter(|t| batch.weight_t[*t] != 0.0);
            for (i, t) in counts.enumerate() {
                let of = (before + from) as usize + i;
                let out = &mut bytes[of * entry.bytes()..(of + 1) * entry.bytes()];
                let at = t * entry.k..(t + 1) * entry.k;
                entry.write(out, &said.ids[at.clone()], &said.log_probs[at]);
            }
        }
    }
    Ok(bytes)
}

/// Bytes of `teacher.bin` of so many targets.
pub(crate) fn file_bytes(targets: u64, k: usize, vocab: usize) -> u64 {
    40 + targets * entry_bytes(k, vocab) + 32 * targets.div_ceil(PIECE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_are_written_read_the_same() {
        for vocab in [400, 0x1_0001, 0x100_0001] {
            let entry = Entry::new(3, vocab);
            let (ids, log_probs) = ([0, 7, vocab as u32 - 1], [-0.25, -1.5, f32::MIN_POSITIVE]);
            let mut bytes = vec![0; entry.bytes()];
            entry.write(&mut bytes, &ids, &log_probs);
            let (mut got_ids, mut got) = ([9; 3], [9.0; 3]);
            entry.read(&bytes, &mut got_ids, &mut got);
            assert_eq!((got_ids, got), (ids, log_probs), "{vocab}");
        }
        assert_eq!(entry_bytes(64, 32_000), 384);
        assert_eq!(entry_bytes(64, 128_256), 448);
    }
}
