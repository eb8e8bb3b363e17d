//! Answers in rows, each behind its prompt, and what is read of them there.

use crate::config::RunConfig;
use crate::step::{Micro, Packed, PackedRows};
use herd_data::{Batch, Span};
use std::ops::Range;

/// An answer to be packed.
pub(super) struct Text<'a> {
    /// Its number: the document of its span.
    pub number: usize,
    pub prompt: &'a [u32],
    pub ids: &'a [u32],
}

/// Answers one behind the other, each behind its prompt, in as many rows as they need.
pub(super) fn pack<'a>(step: u64, seq_len: usize, texts: impl Iterator<Item = Text<'a>>) -> Batch {
    let mut batch = Batch {
        step,
        rows: 0,
        seq_len,
        tokens_t: Vec::new(),
        targets_t: Vec::new(),
        weight_t: Vec::new(),
        spans: Vec::new(),
    };
    let pad = |batch: &mut Batch| {
        batch.rows = batch.tokens_t.len().div_ceil(seq_len);
        let end = batch.rows * seq_len;
        batch.tokens_t.resize(end, 0);
        batch.targets_t.resize(end, 0);
        batch.weight_t.resize(end, 0.0);
    };
    for Text { number, prompt, ids } in texts {
        let text = [prompt, ids].concat();
        let (len, start) = (text.len() - 1, batch.tokens_t.len());
        if start % seq_len + len > seq_len {
            pad(&mut batch);
        }
        let start = batch.tokens_t.len();
        batch.tokens_t.extend(&text[..len]);
        batch.targets_t.extend(&text[1..]);
        batch.weight_t.resize(start + prompt.len() - 1, 0.0);
        batch.weight_t.resize(start + len, 1.0);
        let (source, epoch, document, from) = (0, 0, number as u64, 0);
        batch.spans.push(Span { at: start..start + len, source, epoch, document, from });
    }
    pad(&mut batch);
    batch
}

/// The answers that stand in some rows of a batch: their numbers, and the places there whose targets are their tokens.
pub(super) fn here<'a>(
    batch: &'a Batch,
    rows: &'a PackedRows<'_>,
) -> impl Iterator<Item = (usize, Range<usize>)> + 'a {
    let inside = batch.spans.iter().filter(|span| rows.at.contains(&span.at.start));
    inside.map(|span| {
        let counts = |t: &usize| batch.weight_t[*t] != 0.0;
        let first = span.at.clone().find(counts).unwrap_or(span.at.end);
        (span.document as usize, first - rows.at.start..span.at.end - rows.at.start)
    })
}

/// Numbers of the tokens of each answer of a batch, which `read` gives for all places of some rows.
pub(super) fn read_answers(
    config: &RunConfig,
    batch: &Batch,
    read: impl Fn(&Micro<'_>) -> Vec<f32>,
    mut give: impl FnMut(usize, Vec<f32>),
) {
    let packed = Packed::of(batch, true);
    let many = (config.batch.micro_tokens / batch.seq_len).clamp(1, batch.rows);
    for first in (0..batch.rows).step_by(many) {
        let part = packed.rows(batch, first, many.min(batch.rows - first));
        let numbers = read(&part.borrow());
        for (number, at) in here(batch, &part) {
            give(number, numbers[at].to_vec());
        }
    }
}
