//! Asks two models about the same tokens, one after the other, so that both need not fit at once.

use std::path::Path;

use herd_codec::TokenId;
use herd_engine::Limits;
use herd_engine::compare::Comparison;
use herd_engine::score::Scorer;
use herd_model::checkpoint::Checkpoint;
use herd_model::llama::Llama;
use herd_tensor::{Device, KvFormat};
use serde_json::{Value, json};

use crate::about::About;
use crate::error::Error;
use crate::run;

/// Prose, arithmetic, code, a table, three languages: a little of what models are asked.
const PROBE: &str = include_str!("probe.txt");

/// Positions computed at once.
const BATCH: usize = 256;

/// The first `most` tokens of `text`, or of the built-in probe, after the begin-of-text token.
pub fn tokens(about: &About, text: Option<&Path>, most: usize) -> Result<Vec<u32>, Error> {
    let text = match text {
        None => PROBE.as_bytes().to_vec(),
        Some(path) => std::fs::read(path).map_err(Error::io("read", path))?,
    };
    let tokenizer = &about.tokenizer;
    let bos = tokenizer.specials().bos.filter(|_| tokenizer.add_bos());
    let ids = bos.into_iter().chain(tokenizer.encode_bytes(&text));
    Ok(ids.take(most).map(|TokenId(id)| id).collect())
}

/// Runs both checkpoints on `ids` with keys and values in f32, and compares every position.
///
/// Errors: a model does not fit into memory, the vocabularies differ in size, or an id lies
/// outside them.
pub fn compare(
    device: &Device,
    parent: &Checkpoint,
    child: &Checkpoint,
    ids: &[u32],
) -> Result<Comparison, Error> {
    let (vocab, other) = (parent.config.vocab, child.config.vocab);
    if vocab != other {
        let (what, expected) = ("the child's vocabulary", format!("the parent's {vocab}"));
        return Err(Error::Value { what, got: other.to_string(), expected });
    }
    if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
        let expected = format!("below the vocabulary's size, {vocab}");
        return Err(Error::Value { what: "a token id", got: id.to_string(), expected });
    }
    let mut parent_tv = Vec::new();
    each_row(device, parent, ids, |_, row| parent_tv.extend_from_slice(row))?;
    let mut comparison = Comparison::default();
    each_row(device, child, ids, |t, row| {
        comparison.add(&parent_tv[t * vocab..][..vocab], row, ids.get(t + 1).copied());
    })?;
    Ok(comparison)
}

/// Loads a model, and calls `each` with every position and its logits.
fn each_row(
    device: &Device,
    checkpoint: &Checkpoint,
    ids: &[u32],
    mut each: impl FnMut(usize, &[f32]),
) -> Result<(), Error> {
    let limits = Limits { kv: KvFormat::F32, ..Limits::single(ids.len()) };
    run::check_fits(checkpoint, limits)?;
    let model = Llama::load(checkpoint, device, checkpoint.config.context)?;
    let mut scorer = Scorer::new(&model, ids.len(), BATCH, KvFormat::F32);
    scorer.logits(ids, 0, |first, logits_tv| {
        for row in 0..logits_tv.rows() {
            each(first + row, logits_tv.row(row));
        }
    });
    Ok(())
}

/// The comparison as JSON.
pub fn to_json(c: &Comparison) -> Value {
    json!({
        "tokens": c.positions,
        "logit_difference_max": c.logit_difference_max,
        "kl_mean": c.kl_mean(),
        "kl_max": c.kl_max,
        "same_top": c.same_top as f64 / c.positions as f64,
        "ppl": c.child_perplexity(),
        "ppl_parent": c.parent_perplexity(),
    })
}

/// The comparison in a line.
pub fn to_line(c: &Comparison) -> String {
    format!(
        "{} tokens: KL {:.3e} nats a token (most {:.3e}), logits differ by at most {:.3e}, same \
         likeliest token {:.1} %, perplexity {:.4} (parent {:.4})",
        c.positions,
        c.kl_mean(),
        c.kl_max,
        c.logit_difference_max,
        100.0 * c.same_top as f64 / c.positions as f64,
        c.child_perplexity(),
        c.parent_perplexity(),
    )
}
