//! The gradient of one batch, micro-batch by micro-batch.

use herd_data::Batch;
use herd_model::llama::Llama;
use herd_tensor::ops::{Documents, Targets};
use herd_tensor::{Tape, blocks_of};
use std::ops::Range;
use std::sync::Arc;

/// Some rows of a batch, each of `seq_len` tokens, that pass through the model together.
#[derive(Clone, Copy, Debug)]
pub struct Micro<'a> {
    /// Tokens of all rows, one row after another.
    pub tokens: &'a [u32],
    /// The token that follows each.
    pub targets: &'a [u32],
    /// How much each target counts: 1, or 0 for padding.
    pub weights: &'a [f32],
    /// The position of each token in its document.
    pub positions: &'a [u32],
    /// The documents: ranges of tokens, none across two rows.
    pub documents: &'a [Range<usize>],
    /// Tokens in a row.
    pub seq_len: usize,
}

/// What was summed over targets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sums {
    /// Weighted nats.
    pub nats: f64,
    /// Weights of the targets.
    pub weight: f64,
}

impl Sums {
    /// Adds a row, by its own sum: the same however rows are cut into micro-batches.
    fn add_row(&mut self, nats: &[f32], weights: &[f32]) {
        let weighted = nats.iter().zip(weights).map(|(n, w)| f64::from(*n) * f64::from(*w));
        self.nats += weighted.sum::<f64>();
        self.weight += weights.iter().map(|w| f64::from(*w)).sum::<f64>();
    }

    /// Nats a target.
    pub fn loss(&self) -> f64 {
        self.nats / self.weight
    }
}

/// Adds the gradient of the loss of `micro`, scaled by `scale` (1 over the weights of the whole
/// batch), to the sums of the model's parameters, and what its targets lose to `sums`.
///
/// The order of additions depends on rows alone: rows in one call or in several give the same bits.
pub fn accumulate(model: &Llama, tape: &Tape, micro: &Micro<'_>, scale: f32, sums: &mut Sums) {
    tape.begin(blocks_of(micro.tokens.len() / micro.seq_len, micro.seq_len));
    let config = model.config();
    let documents =
        Arc::new(Documents::new(micro.documents.to_vec(), config.kv_heads, config.head_dim));
    let x_td = model.forward_documents(micro.tokens, micro.positions, &documents);
    let targets = Targets { ids: micro.targets, weights: micro.weights, scale, z_loss: 0.0 };
    let loss = model.loss(&x_td, &targets);
    let rows = loss.nats_t.chunks(micro.seq_len).zip(micro.weights.chunks(micro.seq_len));
    for (nats, weights) in rows {
        sums.add_row(nats, weights);
    }
    loss.backward();
}

/// Documents and positions of a batch.
pub(crate) struct Packed {
    positions_t: Vec<u32>,
    documents: Vec<Range<usize>>,
}

/// Some rows of it.
pub(crate) struct PackedRows<'a> {
    batch: &'a Batch,
    /// Their places in the batch.
    pub at: Range<usize>,
    positions: &'a [u32],
    documents: Vec<Range<usize>>,
}

impl Packed {
    /// With `mask`, positions and attention begin anew with each document, else with each row.
    pub fn of(batch: &Batch, mask: bool) -> Packed {
        let lengths = match mask {
            true => batch.lengths(),
            false => vec![batch.seq_len; batch.rows],
        };
        let (mut positions_t, mut documents) = (Vec::new(), Vec::new());
        for len in lengths {
            documents.push(positions_t.len()..positions_t.len() + len);
            positions_t.extend(0..len as u32);
        }
        Packed { positions_t, documents }
    }

    /// `rows` rows from row `first` on.
    pub fn rows<'a>(&'a self, batch: &'a Batch, first: usize, rows: usize) -> PackedRows<'a> {
        let at = first * batch.seq_len..(first + rows) * batch.seq_len;
        let inside = self.documents.iter().filter(|d| at.contains(&d.start));
        let documents = inside.map(|d| d.start - at.start..d.end - at.start).collect();
        PackedRows { batch, positions: &self.positions_t[at.clone()], documents, at }
    }
}

impl PackedRows<'_> {
    /// As the model takes them.
    pub fn borrow(&self) -> Micro<'_> {
        Micro {
            tokens: &self.batch.tokens_t[self.at.clone()],
            targets: &self.batch.targets_t[self.at.clone()],
            weights: &self.batch.weight_t[self.at.clone()],
            positions: self.positions,
            documents: &self.documents,
            seq_len: self.batch.seq_len,
        }
    }
}
