//! Work of a known size, to be timed by the caller: llama-bench's `pp`, `tg` and depth.

use herd_model::llama::{Batch, Llama};
use herd_tensor::ops::KvCache;
use herd_tensor::{KvFormat, KvShape, Sequence};

/// Some sequences of one length over one cache.
pub struct Bench<'a> {
    model: &'a Llama,
    cache: KvCache,
    tables: Vec<Vec<u32>>,
}

impl<'a> Bench<'a> {
    /// `sequences` sequences of up to `context` positions each.
    pub fn new(model: &'a Llama, sequences: usize, context: usize, kv: KvFormat) -> Bench<'a> {
        const PAGE: usize = 64;
        let config = model.config();
        let (kv_heads, head_dim) = (config.kv_heads, config.head_dim);
        let shape = KvShape { format: kv, page_len: PAGE, kv_heads, head_dim };
        let each = context.div_ceil(PAGE) as u32;
        let cache = KvCache::new(shape, config.layers, each as usize * sequences);
        let tables = (0..sequences as u32).map(|s| (s * each..(s + 1) * each).collect()).collect();
        Bench { model, cache, tables }
    }

    /// Computes `tokens` tokens of each sequence from position `past` on, `batch` at a time of
    /// one sequence, with the logits of each sequence's last token.
    pub fn prompt(&mut self, past: usize, tokens: usize, batch: usize) {
        for s in 0..self.tables.len() {
            for start in (0..tokens).step_by(batch.max(1)) {
                let rows = batch.min(tokens - start);
                let last = start + rows == tokens;
                self.run(&[s], past + start, rows, last);
            }
        }
    }

    /// Computes one token of each sequence at position `past`, together, and their logits.
    pub fn token(&mut self, past: usize) {
        let all: Vec<usize> = (0..self.tables.len()).collect();
        self.run(&all, past, 1, true);
    }

    fn run(&mut self, which: &[usize], past: usize, rows: usize, logits: bool) {
        let vocab = self.model.config().vocab;
        // Tokens of no meaning that differ from each other; time does not depend on them.
        let token = |i: usize| ((i * 7919 + 13) % vocab) as u32;
        let positions: Vec<u32> =
            which.iter().flat_map(|_| past as u32..(past + rows) as u32).collect();
        let tokens: Vec<u32> = positions.iter().map(|&p| token(p as usize)).collect();
        let sequences: Vec<Sequence<'_>> = which
            .iter()
            .enumerate()
            .map(|(i, &s)| Sequence { row: i * rows, rows, past, pages: &self.tables[s] })
            .collect();
        let batch = Batch { tokens: &tokens, positions: &positions, sequences: &sequences };
        let x_td = self.model.forward(&batch, &mut self.cache);
        if logits {
            let rows: Vec<usize> = (0..which.len()).map(|i| (i + 1) * rows - 1).collect();
            self.model.logits(&x_td.select(&rows));
        }
    }
}
