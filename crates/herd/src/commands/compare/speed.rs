//! How fast a model of this machine answers, measured in this process.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use herd_engine::sample::Sampling;
use herd_engine::{Engine, Limits, Request, What};
use herd_eval::beside::{Known, Load};

use super::{Flags, Measure};
use crate::about::About;
use crate::commands::bench_serve::{median, percentile};
use crate::energy::Rapl;
use crate::error::Error;
use crate::flags::{KvFlag, ModelFlags};
use crate::run::{self, Ready};

/// A model that can be measured: it is there, and it and the measurement fit.
pub struct Here {
    model: ModelFlags,
}

impl Here {
    /// Looks at a model without loading it. Errors: it cannot be run, or the measurement fits neither its context nor the memory.
    pub fn check(flags: &Flags, name: &str, path: &Path, measure: &Measure) -> Result<Here, Error> {
        let model = ModelFlags {
            model: path.display().to_string(),
            threads: flags.threads,
            ctx_size: None,
            class: flags.class.clone(),
            lora: None,
        };
        model.class()?;
        model.threads()?;
        let (checkpoint, limits) = run::open(&model, &KvFlag::default(), None)?;
        let (own, wanted) = (limits.context, measure.tokens());
        if wanted > own {
            let expected = format!("at most {own}, the context of {name}");
            let what = "measure.prompt_tokens and max_tokens together";
            return Err(Error::Value { what, got: wanted.to_string(), expected });
        }
        let fits = run::check_memory(&checkpoint, measure.limits(limits));
        fits.map_err(|error| match error {
            Error::Memory { needed, available, most: Some(_), .. } => {
                let less = "a smaller measure.concurrency, prompt_tokens or max_tokens";
                Error::RunMemory { needed, available, change: Some(less.to_owned()) }
            }
            error => error,
        })?;
        About::read(&checkpoint)?;
        Ok(Here { model: ModelFlags { ctx_size: Some(wanted), ..model } })
    }

    /// Answers prompts, and counts energy where that may be read.
    pub fn measure(&self, measure: &Measure, known: &mut Known) -> Result<(), Error> {
        let Measure { prompt_tokens, max_tokens, concurrency } = measure;
        let (checkpoint, limits) = run::open(&self.model, &KvFlag::default(), None)?;
        let Ready { model, limits, .. } =
            run::ready(&checkpoint, measure.limits(limits), &self.model)?;
        let (class, threads) = (model.device().class().name(), model.device().threads());
        let vocab = model.config().vocab;
        let mut engine = Engine::new(Arc::clone(&model), None, limits);
        let rapl = Rapl::open();
        let mut number = 0;
        measured(&mut engine, vocab, measure, 1, &mut number)?; // does not count
        for &at_once in concurrency {
            let mark = rapl.as_ref().and_then(Rapl::mark);
            let begun = Instant::now();
            let mut times = Vec::new();
            let rounds = if at_once == 1 { 5 } else { 2 };
            for _ in 0..rounds {
                times.extend(measured(&mut engine, vocab, measure, at_once, &mut number)?);
            }
            let seconds = begun.elapsed().as_secs_f64();
            let joules = mark.and_then(|mark| rapl.as_ref()?.joules_since(&mark));
            known.loads.push(load(at_once, &times, seconds, *prompt_tokens, joules));
        }
        known.loads_from = format!(
            "in process, class {class}, {threads} threads, {prompt_tokens} tokens read, {max_tokens} written"
        );
        Ok(())
    }
}

impl Measure {
    /// Tokens of a prompt and its answer.
    fn tokens(&self) -> usize {
        self.prompt_tokens + self.max_tokens
    }

    /// What the measurement takes of a model.
    fn limits(&self, limits: Limits) -> Limits {
        let parallel = self.concurrency.iter().copied().max().unwrap_or(1);
        Limits { context: self.tokens(), parallel, ..limits }
    }
}

/// One request's times.
#[derive(Default)]
struct Times {
    first: Option<Duration>,
    last: Duration,
    tokens: usize,
}

/// What requests got together.
fn load(
    concurrency: usize,
    times: &[Times],
    seconds: f64,
    prompt_tokens: usize,
    joules: Option<f64>,
) -> Load {
    let tokens: usize = times.iter().map(|t| t.tokens).sum();
    let first: Vec<f64> = times.iter().filter_map(|t| Some(t.first?.as_secs_f64() * 1e3)).collect();
    let speed = |t: &Times| {
        let seconds = (t.last - t.first?).as_secs_f64();
        (t.tokens > 1 && seconds > 0.0).then(|| (t.tokens - 1) as f64 / seconds)
    };
    Load {
        concurrency,
        tok_s: tokens as f64 / seconds,
        total_tok_s: Some((tokens + times.len() * prompt_tokens) as f64 / seconds),
        output_tok_s: median(times.iter().filter_map(speed).collect()),
        ttft_ms: (median(first.clone()), percentile(first, 0.95)),
        joules_per_token: joules.map(|joules| joules / tokens as f64),
    }
}

/// Answers so many prompts at once, none of which was there before.
fn measured(
    engine: &mut Engine,
    vocab: usize,
    measure: &Measure,
    at_once: usize,
    number: &mut usize,
) -> Result<Vec<Times>, Error> {
    let begun = Instant::now();
    let mut times: BTreeMap<_, Times> = BTreeMap::new();
    for _ in 0..at_once {
        *number += 1;
        let token = |i: usize| ((*number * 104_729 + i * 7919 + 13) % vocab) as u32;
        let prompt = (0..measure.prompt_tokens).map(token).collect();
        let request = Request {
            max_tokens: Some(measure.max_tokens),
            ..Request::new(prompt, Sampling::GREEDY)
        };
        times.insert(engine.submit(request)?, Times::default());
    }
    let mut events = Vec::new();
    while !engine.is_idle() {
        engine.step(&mut events);
        let now = begun.elapsed();
        for event in events.drain(..) {
            if let (What::Token(_), Some(times)) = (event.what, times.get_mut(&event.id)) {
                times.first.get_or_insert(now);
                times.last = now;
                times.tokens += 1;
            }
        }
    }
    Ok(times.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_has_the_nearest_rank_and_its_own_joules() {
        let times = |i: u64| Times {
            first: Some(Duration::from_millis(i)),
            last: Duration::from_millis(i + 100),
            tokens: 11,
        };
        let times: Vec<Times> = (1..=40).map(times).collect();
        let load = load(8, &times, 2.0, 9, Some(880.0));
        assert_eq!((load.tok_s, load.total_tok_s), (220.0, Some(400.0)));
        assert_eq!(load.ttft_ms, (Some(20.0), Some(38.0)));
        assert_eq!((load.output_tok_s, load.joules_per_token), (Some(100.0), Some(2.0)));
    }
}
