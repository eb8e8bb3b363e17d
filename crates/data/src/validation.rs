//! The documents held out: the same ones in the same order at every step of every run.
//!
//! ```text
//! bits per byte = loss in nats, summed over the predictions / (ln 2 * bytes of text)
//! ```
//!
//! Documents follow one another as under [`Policy::Cut`], and the last row is padded; or they stand
//! whole in their rows, for a model that was trained so. Of a source that has more than is wanted,
//! documents are taken in a fixed shuffled order.

use std::sync::Arc;

use crate::batch::Plan;
use crate::corpus::Documents;
use crate::load::{Ramp, check_ends, check_ramps};
use crate::pack::{Ends, Ledger, LongDocuments, Packer, Piece, Policy};
use crate::shuffle::permute;
use crate::{Batch, Corpus, DataError};

/// Batches of held-out documents.
pub struct Validation {
    corpus: Arc<Corpus>,
    ends: Ends,
    shape: Ramp,
    policy: Policy,
    /// For each source, how many documents are taken.
    taken: Vec<u64>,
}

impl Validation {
    /// At least one document of each source that has any held out, and more while they have no more
    /// than `tokens_max` tokens in all; every one where nothing is said.
    ///
    /// Errors: a shape without places, a token outside the vocabulary.
    pub fn new(
        corpus: Arc<Corpus>,
        ends: Ends,
        seq_len: usize,
        rows: usize,
        tokens_max: Option<u64>,
    ) -> Result<Validation, DataError> {
        let shape = Ramp { from_step: 0, seq_len, rows };
        check_ramps(&[shape])?;
        check_ends(&ends, &corpus)?;
        let tokens_max = tokens_max.unwrap_or(u64::MAX);
        let take = |documents: &Documents| {
            let n = documents.counts().documents;
            let mut tokens = 0;
            let fits = |i: &u64| {
                tokens += documents.tokens(permute(*i, n, ORDER)) as u64;
                *i == 0 || tokens <= tokens_max
            };
            (0..n).take_while(fits).count() as u64
        };
        let taken = corpus.sources().iter().map(|source| take(&source.validation)).collect();
        Ok(Validation { corpus, ends, shape, policy: Policy::Cut, taken })
    }

    /// The same documents, each whole in a row that it fits; longer ones as `long` says, those that
    /// it would shorten left out like those that it drops.
    ///
    /// A model that never met a text cut in two is at a loss with the second half, and the more so the
    /// better it reads its context: trained on whole documents, it is measured on whole ones.
    pub fn whole(self, long: LongDocuments) -> Validation {
        let long = match long {
            LongDocuments::Split => LongDocuments::Split,
            LongDocuments::Shorten | LongDocuments::Drop => LongDocuments::Drop,
        };
        Validation { policy: Policy::Whole(long), ..self }
    }

    /// The sources that have documents held out, by their place in the corpus.
    pub fn sources(&self) -> impl Iterator<Item = usize> {
        self.taken.iter().enumerate().filter(|(_, n)| **n > 0).map(|(source, _)| source)
    }

    /// Bytes of the texts that [`batches`](Self::batches) of a source holds.
    pub fn bytes(&self, source: usize) -> Result<u64, DataError> {
        let documents = &self.corpus.sources()[source].validation;
        let counts = documents.counts();
        let all = self.policy != Policy::Whole(LongDocuments::Drop);
        if all && self.taken[source] == counts.documents {
            return Ok(counts.bytes);
        }
        let most = self.shape.seq_len as u64 + 1 - self.ends.count().min(self.shape.seq_len as u64);
        let taken = (0..self.taken[source]).map(|i| permute(i, counts.documents, ORDER));
        let held = taken.filter(|document| all || documents.tokens(*document) as u64 <= most);
        held.map(|document| Ok(u64::from(documents.row(document)?.1))).sum()
    }

    /// The batches of a source, in order.
    pub fn batches(&self, source: usize) -> impl Iterator<Item = Result<Batch, DataError>> + '_ {
        let documents = &self.corpus.sources()[source].validation;
        let n = documents.counts().documents;
        let order = (0..self.taken[source]).map(move |i| permute(i, n, ORDER));
        let Ramp { seq_len, rows, .. } = self.shape;
        let form = Form { seq_len, rows, policy: self.policy, ends: self.ends };
        in_order(documents, source as u32, order, form)
    }
}

/// How batches are laid out.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// Places of a row.
    pub seq_len: usize,
    /// Rows of a batch; the last one may have fewer.
    pub rows: usize,
    /// How documents fill rows.
    pub policy: Policy,
    /// The tokens that begin and end a document.
    pub ends: Ends,
}

/// Batches of the documents that `order` names, of a source of this number.
///
/// Panics if a row or a batch has no place, or there is no such document.
pub fn in_order<'a>(
    documents: &'a Documents,
    source: u32,
    mut order: impl Iterator<Item = u64> + 'a,
    form: Form,
) -> impl Iterator<Item = Result<Batch, DataError>> + 'a {
    let Form { seq_len, rows, policy, ends } = form;
    assert!(seq_len > 0 && rows > 0, "in_order: {rows} rows of {seq_len}");
    let (mut packer, mut ledger) = (Packer::default(), Ledger::default());
    let mut draw = move |ledger: &mut Ledger| loop {
        let document = order.next()?;
        let tokens = documents.tokens(document) as u64 + ends.count();
        ledger.draw(tokens);
        if tokens >= 2 {
            return Some(Piece { source, epoch: 0, document, from: 0, len: tokens - 1 });
        }
    };
    let mut row = move || packer.next_row(policy, seq_len as u64, &mut ledger, &mut draw);
    (0..).map_while(move |step| {
        let packed: Vec<_> = std::iter::from_fn(&mut row).take(rows).collect();
        let plan = Plan { step, rows, seq_len, packed };
        (!plan.packed.is_empty()).then(|| plan.read(&ends, |_| documents))
    })
}

/// The key of the fixed order.
const ORDER: u64 = 0;

/// Bits per byte of a loss that is the sum over all predictions of texts of `bytes` bytes.
///
/// ```
/// // Every byte predicted with probability 1/2.
/// assert_eq!(herd_data::validation::bits_per_byte(100.0 * 2f64.ln(), 100), 1.0);
/// ```
pub fn bits_per_byte(loss_nats: f64, bytes: u64) -> f64 {
    loss_nats / (std::f64::consts::LN_2 * bytes as f64)
}
