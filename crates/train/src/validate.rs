//! Held-out text: nats a token and bits per byte, by source.

use crate::config::{Packing, RunConfig};
use crate::error::TrainError;
use crate::metrics::{Line, Measured};
use crate::trainer::{Objective, Trainer};
use herd_data::validation::bits_per_byte;
use herd_data::{Corpus, Ends, Validation};
use herd_model::llama::Llama;
use herd_tensor::ops::{Documents, Targets};
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::step::{Micro, Packed};

/// The sums over some text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Part {
    nats: f64,
    targets: f64,
    bytes: u64,
}

/// Measured text.
pub struct Measurement {
    by_source: BTreeMap<String, Part>,
}

impl Part {
    fn measured(&self) -> Measured {
        Measured { loss: self.nats / self.targets, bpb: bits_per_byte(self.nats, self.bytes) }
    }
}

impl Measurement {
    /// Over all sources.
    pub fn all(&self) -> Measured {
        let mut all = Part::default();
        for part in self.by_source.values() {
            all.nats += part.nats;
            all.targets += part.targets;
            all.bytes += part.bytes;
        }
        all.measured()
    }

    /// The line of the metrics.
    pub fn line(&self, step: u64) -> Line {
        let by_source = self.by_source.iter().map(|(name, part)| (name.clone(), part.measured()));
        let Measured { loss, bpb } = self.all();
        let (by_source, bpb) = (by_source.collect(), Some(bpb));
        Line::Validation { step, loss, bpb, by_source, preferences: None, taught: None }
    }
}

/// Measures the held-out text of every source with a run's weights; `None` if none is held out.
pub fn measure(run: &Trainer<'_>) -> Result<Option<Measurement>, TrainError> {
    run.tape.paused(|| measure_model(&run.model, &run.config, run.corpus(), run.words.ends))
}

/// The line of a run's own measure: what it lessens, on what is held out.
pub(crate) fn line(run: &Trainer<'_>) -> Result<Option<Line>, TrainError> {
    match &run.objective {
        Objective::Pairs(dpo) => run.tape.paused(|| dpo.measure(run)),
        Objective::Rewards(reward) => run.tape.paused(|| reward.measure(run)),
        Objective::Taught(distill) => run.tape.paused(|| distill.measure(run)),
        Objective::Rollouts(rollouts) => rollouts.measure(run.player()),
        Objective::Tokens => Ok(measure(run)?.map(|measured| measured.line(run.step()))),
    }
}

/// The held-out text, in the rows of `config` and packed as it says, as each measurement reads it.
pub fn held_out(
    config: &RunConfig,
    corpus: &Arc<Corpus>,
    ends: Ends,
) -> Result<Validation, TrainError> {
    let batch = &config.batch;
    let rows = batch.rows_at_once(batch.seq_len);
    let tokens_max = Some(config.validation.tokens as u64);
    let held = Validation::new(Arc::clone(corpus), ends, batch.seq_len, rows, tokens_max)?;
    Ok(match config.data.packing {
        Packing::Cut => held,
        Packing::Whole => held.whole(config.data.long.documents()),
    })
}

/// The same with any weights, none of which are recorded; rows are those of `config`.
pub fn measure_model(
    model: &Llama,
    config: &RunConfig,
    corpus: &Arc<Corpus>,
    ends: Ends,
) -> Result<Option<Measurement>, TrainError> {
    let held = held_out(config, corpus, ends)?;
    let mut by_source = BTreeMap::new();
    for source in held.sources() {
        let mut part = Part { bytes: held.bytes(source)?, ..Part::default() };
        for batch in held.batches(source) {
            let batch = batch?;
            let packed = Packed::of(&batch, config.data.document_mask);
            let rows = packed.rows(&batch, 0, batch.rows);
            part.nats += nats(model, &rows.borrow());
            part.targets += batch.weight_t.iter().map(|w| f64::from(*w)).sum::<f64>();
        }
        if part.targets > 0.0 && part.bytes > 0 {
            by_source.insert(corpus.sources()[source].name.clone(), part);
        }
    }
    Ok((!by_source.is_empty()).then_some(Measurement { by_source }))
}

/// The weighted nats of some rows.
pub fn nats(model: &Llama, rows: &Micro<'_>) -> f64 {
    let config = model.config();
    let documents =
        Arc::new(Documents::new(rows.documents.to_vec(), config.kv_heads, config.head_dim));
    let x_td = model.forward_documents(rows.tokens, rows.positions, &documents);
    let targets = Targets { ids: rows.targets, weights: rows.weights, scale: 0.0, z_loss: 0.0 };
    model.loss(&x_td, &targets).nats
}
