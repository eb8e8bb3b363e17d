//! What a step of training computes on.
//!
//! T = rows x seq_len places, row by row.

use std::ops::Range;

use crate::pack::{Ends, Piece, Row};
use crate::{Corpus, DataError, RowId, corpus::Documents};

/// Rows of packed documents.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Its number, from 0.
    pub step: u64,
    /// Number of rows.
    pub rows: usize,
    /// Places of a row.
    pub seq_len: usize,
    /// Inputs `[T]`; 0 where there is padding.
    pub tokens_t: Vec<u32>,
    /// What follows each input `[T]`; 0 where there is padding.
    pub targets_t: Vec<u32>,
    /// How much the target counts: 1, or as the shard has it; 0 where there is padding `[T]`.
    pub weight_t: Vec<f32>,
    /// The pieces of documents, ascending; what they leave over is padding, at the ends of rows.
    pub spans: Vec<Span>,
}

/// A piece of one sequence of a document: attention stays within it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Span {
    /// Its places among the T, within one row.
    pub at: Range<usize>,
    /// The source, by its place in the corpus.
    pub source: u32,
    /// How often its source had been used up before.
    pub epoch: u32,
    /// The document, by its number in the source.
    pub document: u64,
    /// The place of its first token in the document, the begin token counted in.
    pub from: u64,
}

impl Batch {
    /// The lengths of all runs that see only themselves, in order: spans, and the padding at the
    /// end of a row as a run of its own. Their sum is T.
    pub fn lengths(&self) -> Vec<usize> {
        let mut lengths = Vec::with_capacity(self.spans.len() + self.rows);
        let mut spans = self.spans.iter().peekable();
        for row in 0..self.rows {
            let end = (row + 1) * self.seq_len;
            let mut at = row * self.seq_len;
            while let Some(span) = spans.next_if(|span| span.at.end <= end) {
                lengths.push(span.at.len());
                at = span.at.end;
            }
            lengths.extend((at < end).then_some(end - at));
        }
        lengths
    }

    /// Targets that count.
    pub fn predictions(&self) -> usize {
        self.spans.iter().map(|span| span.at.len()).sum()
    }

    /// Where the documents of the spans came from, in order: the source's name and the row.
    pub fn origins(&self, corpus: &Corpus) -> Result<Vec<(String, RowId)>, DataError> {
        let origin = |span: &Span| {
            let source = &corpus.sources()[span.source as usize];
            Ok((source.name.clone(), source.train.row(span.document)?.0))
        };
        self.spans.iter().map(origin).collect()
    }
}

/// A batch that is decided, but not read.
#[derive(Debug)]
pub(crate) struct Plan {
    pub step: u64,
    pub rows: usize,
    pub seq_len: usize,
    /// At most `rows`; what is missing is padding.
    pub packed: Vec<Row>,
}

impl Plan {
    /// Reads the tokens; `documents` gives those of a source.
    pub fn read<'a>(
        &self,
        ends: &Ends,
        documents: impl Fn(u32) -> &'a Documents,
    ) -> Result<Batch, DataError> {
        let places = self.rows * self.seq_len;
        let mut batch = Batch {
            step: self.step,
            rows: self.rows,
            seq_len: self.seq_len,
            tokens_t: vec![0; places],
            targets_t: vec![0; places],
            weight_t: vec![0.0; places],
            spans: Vec::new(),
        };
        let mut ids = Vec::new();
        for (row, packed) in self.packed.iter().enumerate() {
            let mut start = row * self.seq_len;
            for piece in &packed.pieces {
                ids.clear();
                read_piece(piece, ends, documents(piece.source), &mut ids)?;
                let at = start..start + piece.len as usize;
                batch.tokens_t[at.clone()].copy_from_slice(&ids[..at.len()]);
                batch.targets_t[at.clone()].copy_from_slice(&ids[1..]);
                read_weights(
                    piece,
                    ends,
                    documents(piece.source),
                    &mut batch.weight_t[at.clone()],
                )?;
                start = at.end;
                push_spans(&mut batch.spans, piece, ends, documents(piece.source), at);
            }
        }
        Ok(batch)
    }
}

/// The sequences of a piece whose inputs take the places `at`.
fn push_spans(
    spans: &mut Vec<Span>,
    piece: &Piece,
    ends: &Ends,
    documents: &Documents,
    at: Range<usize>,
) {
    let Piece { source, epoch, document, from, len } = *piece;
    let mut last = 0;
    for tokens in documents.lengths(document) {
        let (first, end) = (last, last + tokens as u64);
        last = end;
        // A document with ends has one sequence, and these belong to it.
        let own = if ends.count() > 0 { 0..u64::MAX } else { first..end };
        let (first, end) = (own.start.max(from), own.end.min(from + len));
        if first < end {
            let place = |token: u64| at.start + (token - from) as usize;
            let at = place(first)..place(end);
            spans.push(Span { at, source, epoch, document, from: first });
        }
    }
}

/// The weights of the `len` targets of a piece; those of a document's ends are 1.
fn read_weights(
    piece: &Piece,
    ends: &Ends,
    documents: &Documents,
    out: &mut [f32],
) -> Result<(), DataError> {
    let before = usize::from(ends.bos.is_some());
    let text = documents.tokens(piece.document);
    // Target i of the piece is token from + i + 1, of which `before` are no text.
    let first = piece.from as usize + 1 - before;
    let last = (first + out.len()).min(text);
    let own = last - first;
    documents.weights(piece.document, first..last, &mut out[..own])?;
    out[own..].fill(1.0);
    Ok(())
}

/// The `len + 1` tokens of a piece of a document with its ends.
fn read_piece(
    piece: &Piece,
    ends: &Ends,
    documents: &Documents,
    ids: &mut Vec<u32>,
) -> Result<(), DataError> {
    let (from, to) = (piece.from as usize, (piece.from + piece.len) as usize + 1);
    let before = usize::from(ends.bos.is_some());
    let text = documents.tokens(piece.document);
    ids.extend(ends.bos.filter(|_| from == 0));
    documents.read(piece.document, from.saturating_sub(before)..(to - before).min(text), ids)?;
    ids.extend(ends.eos.filter(|_| to - before > text));
    assert_eq!(ids.len(), to - from, "read_piece: {piece:?} of {text} tokens");
    Ok(())
}
