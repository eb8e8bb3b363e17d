//! The shards of a run: which may be read, and how they become batches.

use crate::config::{Long, Packing, RunConfig};
use crate::error::TrainError;
use crate::words::{Chat, Words};
use herd_data::{
    Check, Corpus, Cursor, Documents, Ends, Hash, Loader, LoaderConfig, MixSource, Mixture, Phase,
    Policy, Ramp,
};
use std::path::Path;
use std::sync::Arc;

/// The shards of a run, which must be of its tokenizer and lessons.
pub(crate) fn open_corpus(
    config: &RunConfig,
    words: &Words,
    shards: &Path,
) -> Result<Corpus, TrainError> {
    let corpus = Corpus::open(shards, Check::Contents)?;
    corpus.expect_tokenizer(Hash::of_tokenizer(&words.tokenizer))?;
    corpus.expect_lessons(words.chat.as_ref().map(Chat::lessons).as_ref())?;
    if config.data.packing == Packing::Whole && config.data.long == Long::Refuse {
        let whole = config.dpo.is_some() || config.reward.is_some();
        refuse_long(&corpus, words.ends, config.batch.seq_len, whole)?;
    }
    Ok(corpus)
}

/// Errors: a document, to train on or held out, is longer than a row; `whole` ones cannot be cut.
fn refuse_long(corpus: &Corpus, ends: Ends, seq_len: usize, whole: bool) -> Result<(), TrainError> {
    // A row of n places is made of n + 1 tokens.
    let places = seq_len + 1;
    let len = |side: &Documents, document: u64| side.tokens(document) + ends.count() as usize;
    let (mut first, mut long) = (None, 0);
    for (number, source) in corpus.sources().iter().enumerate() {
        for side in [&source.train, &source.validation] {
            for document in 0..side.counts().documents {
                let tokens = len(side, document);
                if tokens > places {
                    long += 1;
                    first.get_or_insert((number, side, document, tokens));
                }
            }
        }
    }
    let Some((number, side, document, tokens)) = first else { return Ok(()) };
    let (row, _) = side.row(document)?;
    let name = &corpus.sources()[number].name;
    let path = corpus.file_of(number, &row).unwrap_or(name).into();
    let (row, others) = (row.row, long - 1);
    Err(TrainError::Long { path, row, tokens, places, others, whole })
}

/// The batches of a run, from its first on or from `cursor`.
pub(crate) fn loader(
    config: &RunConfig,
    corpus: &Arc<Corpus>,
    words: &Words,
    cursor: Option<Cursor>,
) -> Result<Loader, TrainError> {
    let (form, seed) = (loader_config(config, corpus, words), config.seed);
    Ok(match cursor {
        None => Loader::new(Arc::clone(corpus), form, seed)?,
        Some(cursor) => Loader::at(Arc::clone(corpus), form, seed, cursor)?,
    })
}

/// Which documents rows are drawn from, how these are packed, and how many make a batch.
fn loader_config(config: &RunConfig, corpus: &Corpus, words: &Words) -> LoaderConfig {
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
