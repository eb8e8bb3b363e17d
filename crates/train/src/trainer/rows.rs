//! The rows of a run: which documents they are drawn from, how these are packed, and how many make a batch.

use crate::config::{Packing, RunConfig};
use crate::words::Words;
use herd_data::{Corpus, LoaderConfig, MixSource, Mixture, Phase, Policy, Ramp};

/// What the loader of a run is told.
pub(super) fn loader_config(config: &RunConfig, corpus: &Corpus, words: &Words) -> LoaderConfig {
    let mixture = |mix: &std::collections::BTreeMap<String, f64>| match mix.is_empty() {
        true => {
            let mut natural = Mixture::natural(corpus);
            for source in &mut natural.sources {
                source.epochs_max = Some(config.data.epochs_max);
            }
            natural
        }
        false => Mixture {
            sources: mix
                .iter()
                .map(|(name, weight)| MixSource {
                    name: name.clone(),
                    weight: *weight,
                    epochs_max: Some(config.data.epochs_max),
                })
                .collect(),
        },
    };
    let first = Phase { from_tokens: 0, mixture: mixture(&config.data.mix) };
    let changes = config
        .data
        .changes
        .iter()
        .map(|change| Phase { from_tokens: change.from_tokens, mixture: mixture(&change.mix) });
    LoaderConfig {
        phases: std::iter::once(first).chain(changes).collect(),
        ramps: ramps(config),
        policy: match config.data.packing {
            Packing::Cut => Policy::Cut,
            Packing::Whole => Policy::Whole(config.data.long.documents()),
        },
        ends: words.ends,
    }
}

/// The sizes of batches by step, where the config has them by tokens.
fn ramps(config: &RunConfig) -> Vec<Ramp> {
    let rows = |tokens: usize, seq_len: usize| tokens / seq_len;
    let batch = &config.batch;
    let first =
        Ramp { from_step: 0, seq_len: batch.seq_len, rows: rows(batch.tokens, batch.seq_len) };
    let mut ramps = vec![first];
    let (mut step, mut done, mut tokens) = (0, 0u64, batch.tokens as u64);
    for ramp in &batch.ramp {
        let steps = ramp.from_tokens.saturating_sub(done).div_ceil(tokens);
        (step, done) = (step + steps, done + steps * tokens);
        tokens = ramp.tokens as u64;
        let next =
            Ramp { from_step: step, seq_len: ramp.seq_len, rows: rows(ramp.tokens, ramp.seq_len) };
        match ramps.last_mut() {
            Some(last) if last.from_step == step => *last = next,
            _ => ramps.push(next),
        }
    }
    ramps
}
