//! The engine over the weights at hand: answers to prompts, with their nats.

use super::Player;
use super::asking::Asking;
use crate::config::RunConfig;
use crate::error::TrainError;
use crate::rejection::{self, spoken::Spoken};
use herd_engine::sample::Sampling;
use herd_engine::{Engine, Limits, Request};
use std::collections::HashMap;
use std::sync::Arc;

/// How the engine divides its memory for so many answers; its cache is of f32, as the trainer's.
pub(crate) fn limits(config: &RunConfig, answers: usize) -> Limits {
    let parallel = config.rollout.as_ref().map_or(1, |rollout| rollout.parallel.min(answers));
    rejection::limits(config.batch.seq_len + 1, parallel)
}

/// `each` answers to each prompt.
pub(super) fn say(
    player: Player<'_>,
    asked: &[(&Asking, u64)],
    each: usize,
) -> Result<Vec<Spoken>, TrainError> {
    let Player { config, words, model, .. } = player;
    let fails = |error: String| TrainError::Sample { error };
    let rollout = config.rollout.as_ref().expect("it has answers");
    let limits = limits(config, asked.len() * each);
    let mut engine = Engine::new(Arc::clone(model), Some(Arc::clone(&words.tokenizer)), limits);
    let (temperature, top_p) = (rollout.temperature as f32, rollout.top_p as f32);
    let mut places = HashMap::new();
    for (i, (asking, seed)) in asked.iter().enumerate() {
        let sampling = Sampling { temperature, top_p, seed: *seed, stream: 0, ..Sampling::LLAMA };
        let request = Request {
            max_tokens: Some(rollout.max_tokens),
            stop_tokens: words.generation.eos_token_ids.clone(),
            nats: true,
            ..Request::new(asking.ids.clone(), sampling)
        };
        let ids = engine.submit_many(&request, each).map_err(|e| fails(e.to_string()))?;
        places.extend(ids.into_iter().enumerate().map(|(g, id)| (id, i * each + g)));
    }
    let mut said = vec![Spoken::default(); asked.len() * each];
    let mut events = Vec::new();
    while !engine.is_idle() {
        engine.step(&mut events);
        for event in events.drain(..) {
            said[places[&event.id]].hear(event.what);
        }
    }
    match said.iter().position(|said| said.finish_name() == "failed" || said.ids.is_empty()) {
        Some(at) => Err(fails(format!("{:?}", said[at].finish))),
        None => Ok(said),
    }
}
