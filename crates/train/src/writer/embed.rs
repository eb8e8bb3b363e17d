//! The vector of a text: the mean of a checkpoint's last hidden states over its tokens.

use herd_codec::Tokenizer;
use herd_model::llama::Llama;
use herd_tensor::ops::Documents;
use std::sync::Arc;

/// The mean over positions of the normed hidden states (D); the first, which is large and the same for all texts, is left out
/// where there are others.
///
/// Of a longer text the first `tokens_max` tokens are read; an empty one gives an empty vector.
pub fn embed(model: &Llama, words: &Tokenizer, text: &str, tokens_max: usize) -> Vec<f32> {
    let mut ids: Vec<u32> = words.encode(text).into_iter().map(|id| id.0).collect();
    ids.truncate(tokens_max);
    if ids.is_empty() {
        return Vec::new();
    }
    let config = model.config();
    let span = 0..ids.len();
    let documents = Documents::new(vec![span], config.kv_heads, config.head_dim);
    let positions: Vec<u32> = (0..ids.len() as u32).collect();
    let x_td = model.forward_documents(&ids, &positions, &Arc::new(documents));
    let from = usize::from(ids.len() > 1);
    let mut mean = vec![0f64; config.width];
    for t in from..ids.len() {
        mean.iter_mut().zip(x_td.row(t)).for_each(|(m, x)| *m += f64::from(*x));
    }
    mean.into_iter().map(|sum| (sum / (ids.len() - from) as f64) as f32).collect()
}
