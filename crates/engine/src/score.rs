//! Log-probabilities of given tokens: perplexity, `herd logits`, scoring.

use crate::softmax::log_prob;
use herd_model::llama::{Batch, Llama};
use herd_tensor::ops::KvCache;
use herd_tensor::{KvFormat, KvShape, Sequence, Tensor};

/// Runs single sequences from their start and gives the logits of every position.
pub struct Scorer<'a> {
    model: &'a Llama,
    cache: KvCache,
    pages: Vec<u32>,
    batch: usize,
}

/// Positions in a page; sequences start at 0, so any will do.
const PAGE: usize = 64;

impl<'a> Scorer<'a> {
    /// A scorer for sequences of up to `context` tokens, computed `batch` at a time.
    pub fn new(model: &'a Llama, context: usize, batch: usize, kv: KvFormat) -> Scorer<'a> {
        let config = model.config();
        let (kv_heads, head_dim) = (config.kv_heads, config.head_dim);
        let shape = KvShape { format: kv, page_len: PAGE, kv_heads, head_dim };
        let pages = context.div_ceil(PAGE);
        let cache = KvCache::new(shape, config.layers, pages);
        Scorer { model, cache, pages: (0..pages as u32).collect(), batch: batch.max(1) }
    }

    /// Calls `each(first position, logits [positions, V])` for pieces of `tokens`, in order,
    /// leaving out logits before position `from`.
    ///
    /// Panics if there are more tokens than the context, or one is not in the vocabulary.
    pub fn logits(&mut self, tokens: &[u32], from: usize, mut each: impl FnMut(usize, &Tensor)) {
        assert!(tokens.len() <= self.pages.len() * PAGE, "scorer: {} tokens", tokens.len());
        for start in (0..tokens.len()).step_by(self.batch) {
            let end = (start + self.batch).min(tokens.len());
            let positions: Vec<u32> = (start as u32..end as u32).collect();
            let sequence = Sequence { row: 0, rows: end - start, past: start, pages: &self.pages };
            let batch = Batch {
                tokens: &tokens[start..end],
                positions: &positions,
                sequences: &[sequence],
            };
            let x_td = self.model.forward(&batch, &mut self.cache);
            // The head in pieces: all logits of a long text would not fit.
            for row in (from.saturating_sub(start)..end - start).step_by(64) {
                let rows: Vec<usize> = (row..(row + 64).min(end - start)).collect();
                each(start + row, &self.model.logits(&x_td.select(&rows)));
            }
        }
    }

    /// The log-probability of each token from position `from` + 1 on, given those before it.
    pub fn log_probs(&mut self, tokens: &[u32], from: usize) -> Vec<f64> {
        let mut out = Vec::with_capacity(tokens.len());
        self.logits(tokens, from, |first, logits_tv| {
            for row in 0..logits_tv.rows() {
                if let Some(&next) = tokens.get(first + row + 1) {
                    out.push(log_prob(logits_tv.row(row), next));
                }
            }
        });
        out
    }
}

/// Perplexity by llama.cpp's method: the text in chunks of `context` tokens, each chunk's first
/// token replaced by BOS if there is one, the second half of each chunk counted.
///
/// Source: llama.cpp `tools/perplexity`. `each(chunk, chunks, perplexity so far)` reports.
/// Returns the perplexity and the tokens counted; `None` if the text fills no chunk.
pub fn perplexity(
    scorer: &mut Scorer<'_>,
    tokens: &[u32],
    context: usize,
    bos: Option<u32>,
    mut each: impl FnMut(usize, usize, f64),
) -> Option<(f64, usize)> {
    let chunks = tokens.len() / context;
    let (mut sum, mut count) = (0.0, 0);
    for (i, chunk) in tokens.chunks_exact(context).enumerate() {
        let mut chunk = chunk.to_vec();
        if let Some(bos) = bos {
            chunk[0] = bos;
        }
        let log_probs = scorer.log_probs(&chunk, context / 2);
        sum -= log_probs.iter().sum::<f64>();
        count += log_probs.len();
        each(i, chunks, (sum / count as f64).exp());
    }
    (count > 0).then(|| ((sum / count as f64).exp(), count))
}
