//! Texts that the model writes while it is trained.

use crate::error::TrainError;
use crate::trainer::Trainer;
use herd_engine::sample::Sampling;
use herd_engine::{Engine, Limits, Request, What};
use std::sync::Arc;

/// What the model goes on with after `prompt`; the same for the same weights, prompt and `stream`.
///
/// Errors: the prompt is empty and documents have no beginning, or it is longer than the context.
pub fn write(run: &Trainer<'_>, prompt: &str, stream: u64) -> Result<String, TrainError> {
    let samples = &run.config.samples;
    let fails = |error: String| TrainError::Sample { error };
    let ends = run.words.ends;
    let ids = run.words.tokenizer.encode(prompt);
    let mut prompt: Vec<u32> = ends.bos.into_iter().collect();
    prompt.extend(ids.iter().map(|id| id.0));
    if prompt.is_empty() {
        // A document that has no beginning of its own begins where another ended.
        prompt.extend(ends.eos);
    }
    let context = prompt.len() + samples.tokens;
    let limits = Limits { page_len: 16, ..Limits::single(context) };
    let tokenizer = Some(Arc::clone(&run.words.tokenizer));
    let seed = run.config.seed ^ run.step() ^ stream << 48;
    let sampling = Sampling { temperature: samples.temperature as f32, seed, ..Sampling::GREEDY };
    let mut request = Request::new(prompt, sampling);
    request.max_tokens = Some(samples.tokens);
    request.stop_tokens = ends.eos.into_iter().collect();
    run.tape.paused(|| {
        let mut engine = Engine::new(Arc::clone(&run.model), tokenizer, limits);
        engine.submit(request).map_err(|e| fails(e.to_string()))?;
        let (mut events, mut text) = (Vec::new(), String::new());
        while !engine.is_idle() {
            engine.step(&mut events);
            for event in events.drain(..) {
                match event.what {
                    What::Token(token) => text.push_str(&token.text),
                    What::End { text: rest, .. } => text.push_str(&rest),
                }
            }
        }
        Ok(text)
    })
}
