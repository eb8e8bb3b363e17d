//! A model of this machine that answers: many questions at once, what they share computed once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use herd_codec::Tokenizer;
use herd_engine::sample::Sampling;
use herd_engine::{Engine, Event, Finish, Limits, Request, RequestId, What};
use herd_model::llama::Llama;

use crate::error::EvalError;
use crate::query::{Draw, IMPOSSIBLE, Query, Said};

/// An engine that is asked.
pub struct Local {
    engine: Engine,
}

/// An answer in the making.
struct Asked {
    /// Its place among the queries.
    at: usize,
    likelihood: bool,
    log_probs: Vec<f64>,
    greedy: bool,
    ids: Vec<u32>,
    text: String,
}

impl Local {
    /// A model with its tokenizer, within these limits.
    pub fn new(model: Arc<Llama>, tokenizer: Arc<Tokenizer>, limits: Limits) -> Local {
        Local { engine: Engine::new(model, Some(tokenizer), limits) }
    }

    /// Answers queries in their order; `stop` ends it early.
    ///
    /// Errors: the engine does not take one, as `item` names it; no token can be chosen.
    pub fn answer(&mut self, queries: &[Query], stop: &AtomicBool) -> Result<Vec<Said>, EvalError> {
        let mut asked: BTreeMap<RequestId, Asked> = BTreeMap::new();
        for (at, query) in queries.iter().enumerate() {
            let request = request(query);
            let likelihood = matches!(query, Query::Likelihood { .. });
            let id = self.engine.submit(request).map_err(|source| self.abandon(source))?;
            let (log_probs, ids, text) = Default::default();
            let new = Asked { at, likelihood, log_probs, greedy: true, ids, text };
            asked.insert(id, new);
        }
        let mut said: Vec<Option<Said>> = queries.iter().map(|_| None).collect();
        let mut events = Vec::new();
        while !self.engine.is_idle() {
            if stop.load(Ordering::Relaxed) {
                self.clear(asked.into_keys());
                return Err(EvalError::Stopped);
            }
            self.engine.step(&mut events);
            for Event { id, what } in events.drain(..) {
                let Some(one) = asked.get_mut(&id) else { continue };
                if let Some(full) = one.see(what)? {
                    let one = asked.remove(&id).expect("it was there");
                    let at = one.at;
                    said[at] = Some(one.said(full));
                }
            }
        }
        Ok(said.into_iter().map(|said| said.expect("the engine answers all")).collect())
    }

    fn abandon(&mut self, source: herd_engine::RequestError) -> EvalError {
        EvalError::Model(source.to_string())
    }

    fn clear(&mut self, ids: impl Iterator<Item = RequestId>) {
        let mut events = Vec::new();
        for id in ids {
            self.engine.cancel(id, &mut events);
        }
    }
}

fn sampling(Draw { temperature, top_p, seed, stream }: Draw) -> Sampling {
    Sampling { temperature, top_p, seed, stream, ..Sampling::GREEDY }
}

fn request(query: &Query) -> Request {
    match query {
        Query::Likelihood { context, target } => {
            let prompt = [context.as_slice(), target].concat();
            Request {
                max_tokens: Some(0),
                log_probs: Some(1),
                prompt_log_probs: Some(context.len()),
                ..Request::new(prompt, Sampling::GREEDY)
            }
        }
        Query::Write { prompt, until, stops, max_tokens, draw } => Request {
            max_tokens: Some(*max_tokens),
            stop_tokens: stops.clone(),
            stop: until.clone(),
            ..Request::new(prompt.clone(), draw.map_or(Sampling::GREEDY, sampling))
        },
    }
}

impl Asked {
    /// Sees an event; at the end, whether `max_tokens` was.
    fn see(&mut self, what: What) -> Result<Option<bool>, EvalError> {
        match what {
            What::Prompt(token) => {
                let (log_prob, top) = token.said.expect("a target is never the first token");
                if log_prob.is_nan() {
                    let what = format!("the log-probability of token {} is NaN", token.id);
                    return Err(EvalError::Model(what));
                }
                self.log_probs.push(log_prob.max(IMPOSSIBLE));
                self.greedy &= top.first().is_some_and(|best| best.id == token.id);
            }
            What::Token(token) => {
                self.ids.push(token.id);
                self.text += &token.text;
            }
            What::Embedding(_) => {}
            What::End { finish, text, .. } => {
                self.text += &text;
                return match finish {
                    Finish::Failed(error) => Err(EvalError::Model(error.to_string())),
                    Finish::Length => Ok(Some(true)),
                    _ => Ok(Some(false)),
                };
            }
        }
        Ok(None)
    }

    fn said(self, full: bool) -> Said {
        let Asked { log_probs, greedy, ids, text, .. } = self;
        if self.likelihood {
            Said::Likelihood { log_probs, greedy }
        } else {
            Said::Written { ids, text, full }
        }
    }
}
