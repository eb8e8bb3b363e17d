//! What a step tells beside the tokens that it chose: of prompts, and what training would lose.

use crate::engine::Engine;
use crate::request::{Event, PromptToken, What};
use herd_tensor::Tensor;
use herd_tensor::ops::Targets;

impl Engine {
    /// Log-probabilities of the prompts' tokens in the batch, where they are asked for.
    ///
    /// The head runs over as many rows at once as it does for answers, so that no more logits stand in memory.
    pub(crate) fn tell_prompts(&mut self, x_td: &Tensor, events: &mut Vec<Event>) {
        // Rows of the batch, whose they are, and the places of the tokens behind them.
        let mut asked: Vec<(usize, usize, usize)> = Vec::new();
        for &(first, rows, i) in &self.batch.spans {
            let job = &self.running[i];
            let (Some(_), Some(from)) = (job.request.log_probs, job.request.prompt_log_probs)
            else {
                continue;
            };
            if job.seen == 0 && from == 0 {
                let what = What::Prompt(PromptToken { id: job.tokens[0], said: None });
                events.push(Event { id: job.id, what });
            }
            let last = (job.computed + rows).min(job.usage.prompt - 1);
            let start = job.computed.max(job.seen).max(from.saturating_sub(1));
            asked.extend((start..last).map(|p| (first + p - job.computed, i, p + 1)));
        }
        for piece in asked.chunks(self.limits.parallel) {
            let places: Vec<usize> = piece.iter().map(|&(row, _, _)| row).collect();
            let logits_tv = self.model.logits(&x_td.select(&places));
            let mut told: Vec<_> = piece.iter().enumerate().map(|asked| (asked, None)).collect();
            self.model.device().for_each(&mut told, |((row, (_, i, at)), event)| {
                let (job, logits_v) = (&self.running[*i], logits_tv.row(*row));
                let (id, n) = (job.tokens[*at], job.request.log_probs.unwrap_or(0));
                let mut top = Vec::new();
                let normaliser = self.samplers.lend(|s| s.top_log_probs(logits_v, n, &mut top));
                let said = Some((f64::from(logits_v[id as usize]) - normaliser, top));
                let what = What::Prompt(PromptToken { id, said });
                *event = Some(Event { id: job.id, what });
            });
            events.extend(told.into_iter().filter_map(|(_, event)| event));
        }
    }

    /// Gathers the hidden states of prompts in the batch whose mean is asked for, and tells it once all are there.
    pub(crate) fn tell_embeddings(&mut self, x_td: &Tensor, events: &mut Vec<Event>) {
        for &(first, rows, i) in &self.batch.spans {
            let job = &mut self.running[i];
            // Rows behind the prompt are of an answer, and those before `seen` are counted.
            let (from, prompt) = (job.computed.max(job.seen), job.usage.prompt);
            let to = (job.computed + rows).min(prompt);
            if !job.request.embed || from >= to {
                continue;
            }
            job.pool.add(x_td, first + from - job.computed, to - from);
            if to == prompt {
                events.push(Event { id: job.id, what: What::Embedding(job.pool.mean()) });
            }
        }
    }

    /// Gives tokens just chosen what training on them would lose: each hidden row, and its event's place.
    pub(crate) fn tell_nats(&self, x_td: &Tensor, asked: &[(usize, usize)], events: &mut [Event]) {
        if asked.is_empty() {
            return;
        }
        let rows: Vec<usize> = asked.iter().map(|&(row, _)| row).collect();
        let mut ids = Vec::new();
        for &(_, place) in asked {
            if let What::Token(token) = &events[place].what {
                ids.push(token.id);
            }
        }
        let weights = vec![1.0; ids.len()];
        let targets = Targets { ids: &ids, weights: &weights, scale: 0.0, z_loss: 0.0 };
        let nats_t = self.model.loss(&x_td.select(&rows), &targets).nats_t;
        for (&(_, place), nats) in asked.iter().zip(nats_t) {
            if let What::Token(token) = &mut events[place].what {
                token.nats = Some(nats);
            }
        }
    }
}
