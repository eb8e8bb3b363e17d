//! The loop: admit, pack, run, choose.
//!
//! A step packs one token of each answering request, what is proposed to follow it, and pieces of prompts into one
//! batch. What a request gets does not depend on the others in the batch (ARCHITECTURE.md).

use crate::job::{Job, Outcome};
use crate::pages::Pages;
use crate::queue::Queue;
use crate::request::{Event, Finish, Request, RequestError, RequestId, What};
use crate::sample::Samplers;
use crate::schedule::Packed;
use crate::shelf::Shelf;
use crate::speculate::Speculator;
use crate::stop::StopMatcher;
use herd_codec::Tokenizer;
use herd_model::Config;
use herd_model::llama::{Batch, Llama};
use herd_tensor::ops::KvCache;
use herd_tensor::{KvFormat, KvShape, Sequence, Tensor};
use std::mem::take;
use std::sync::Arc;

/// How an engine divides its memory and its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of one request, prompt and answer.
    pub context: usize,
    /// Requests that run at once.
    pub parallel: usize,
    /// Tokens of one step at most.
    pub batch: usize,
    /// Positions in a page of the cache; a multiple of 16.
    pub page_len: usize,
    /// How keys and values are stored.
    pub kv: KvFormat,
    /// Positions that the cache holds in all, at least those of one context; `None` for those of
    /// `parallel` full contexts.
    pub positions: Option<usize>,
}

impl Limits {
    /// One request at a time with this context.
    pub const fn single(context: usize) -> Limits {
        let (parallel, batch, page_len) = (1, 512, 64);
        Limits { context, parallel, batch, page_len, kv: KvFormat::F16, positions: None }
    }

    /// The shape of a page of the cache of such a model.
    pub(crate) fn kv_shape(&self, config: &Config) -> KvShape {
        let Config { kv_heads, head_dim, .. } = *config;
        KvShape { format: self.kv, page_len: self.page_len, kv_heads, head_dim }
    }

    /// Pages of the cache.
    pub const fn pages(&self) -> usize {
        let one = self.context.div_ceil(self.page_len);
        match self.positions {
            None => one * self.parallel,
            Some(n) if n / self.page_len > one => n / self.page_len,
            Some(_) => one,
        }
    }
}

/// What an engine has in hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests that run.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Pages of the cache that requests hold.
    pub pages_held: usize,
    /// Pages of the cache.
    pub pages: usize,
}

/// Runs requests on one model.
pub struct Engine {
    pub(crate) model: Arc<Llama>,
    tokenizer: Option<Arc<Tokenizer>>,
    pub(crate) limits: Limits,
    pub(crate) cache: KvCache,
    pub(crate) pages: Pages,
    pub(crate) samplers: Samplers,
    pub(crate) queue: Queue,
    pub(crate) running: Vec<Job>,
    next_id: u64,
    pub(crate) batch: Packed,
    pub(crate) speculator: Option<Speculator>,
    /// Pages on disk.
    pub(crate) shelf: Option<Shelf>,
    /// Jobs stopped since the last step was told.
    pub(crate) preempted: usize,
}

/// What a step did, for timing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Tokens of prompts computed.
    pub prompt: usize,
    /// Tokens of answers chosen.
    pub chosen: usize,
    /// Tokens proposed.
    pub proposed: usize,
    /// Of the proposed tokens, those that were chosen.
    pub accepted: usize,
    /// Requests that had to give up their pages.
    pub preempted: usize,
}

impl Engine {
    /// An engine of these limits. Without a tokenizer events have no text and stop strings do
    /// not stop. Panics if the limits let nothing run or the page length is no multiple of 16.
    pub fn new(model: Arc<Llama>, tokenizer: Option<Arc<Tokenizer>>, limits: Limits) -> Engine {
        let Limits { parallel, batch, page_len, .. } = limits;
        assert!(parallel > 0 && batch > 0, "engine: at least one request and one token a step");
        assert!(page_len > 0 && page_len.is_multiple_of(16), "engine: pages of {page_len}");
        let config = model.config();
        let cache = KvCache::new(limits.kv_shape(config), config.layers, limits.pages());
        Engine {
            model,
            tokenizer,
            limits,
            cache,
            pages: Pages::new(limits.pages(), limits.page_len),
            samplers: Samplers::default(),
            queue: Queue::default(),
            running: Vec::new(),
            next_id: 0,
            batch: Packed::default(),
            speculator: None,
            shelf: None,
            preempted: 0,
        }
    }

    /// The model.
    pub fn model(&self) -> &Llama {
        &self.model
    }

    /// The limits it was made with.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Pages of the cache that no request holds.
    pub fn available_pages(&self) -> usize {
        self.pages.available()
    }

    /// What is in hand.
    pub fn load(&self) -> Load {
        let pages = self.limits.pages();
        let (running, waiting) = (self.running.len(), self.queue.len());
        Load { running, waiting, pages_held: pages - self.pages.available(), pages }
    }

    /// Takes a request; its events come from `step`.
    ///
    /// Errors: a prompt that is empty, has unknown tokens or leaves no room in the context;
    /// settings out of range.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, RequestError> {
        let stop = self.stops_of(&request)?;
        Ok(self.enqueue(request, stop))
    }

    /// Takes a request for `n` answers; their ids, one after another.
    ///
    /// Answer i draws from the random numbers of `sampling.seed` and `sampling.stream` + i, as a request with these
    /// alone would. The prompt is computed once: whole pages of it are shared, and the others of the
    /// answers wait until the first has filled them. More answers than `parallel` run in turn.
    /// Errors: as `submit`, and `n` is 0; then nothing is taken.
    pub fn submit_many(
        &mut self,
        request: &Request,
        n: usize,
    ) -> Result<Vec<RequestId>, RequestError> {
        let stop = self.stops_of(request)?;
        if n == 0 {
            return Err(RequestError::NoAnswer);
        }
        let one = |i: usize| {
            let mut request = request.clone();
            request.sampling.stream = request.sampling.stream.wrapping_add(i as u64);
            self.enqueue(request, stop.clone())
        };
        Ok((0..n).map(one).collect())
    }

    /// Whether `submit` would take a request.
    pub fn check(&self, request: &Request) -> Result<(), RequestError> {
        self.stops_of(request).map(drop)
    }

    /// What stops the request, if all else of it is well.
    fn stops_of(&self, request: &Request) -> Result<StopMatcher, RequestError> {
        let vocab = self.model.config().vocab;
        let tokens = request.prompt.len();
        if tokens == 0 {
            return Err(RequestError::Empty);
        }
        // An answer needs room, a vector or the prompt's own log-probabilities do not.
        if tokens + usize::from(request.max_tokens != Some(0)) > self.limits.context {
            return Err(RequestError::Context { tokens, context: self.limits.context });
        }
        if let Some(at) = request.prompt.iter().position(|&id| id as usize >= vocab) {
            return Err(RequestError::Vocabulary { id: request.prompt[at], at, vocab });
        }
        request.sampling.check(vocab)?;
        Ok(StopMatcher::new(&request.stop)?)
    }

    fn enqueue(&mut self, request: Request, stop: StopMatcher) -> RequestId {
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.queue.push(Job::new(id, request, stop));
        id
    }

    /// Ends a request; its last event says so.
    pub fn cancel(&mut self, id: RequestId, events: &mut Vec<Event>) {
        let running = self.running.iter().position(|j| j.id == id).map(|i| self.running.remove(i));
        if let Some(job) = running.or_else(|| self.queue.remove(id)) {
            self.end(job, Finish::Cancelled, events);
        }
    }

    /// Whether nothing is left to do.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.queue.is_empty()
    }

    /// One step: computes a batch, chooses tokens for each request whose tokens are all
    /// computed, and appends what happened to `events`.
    pub fn step(&mut self, events: &mut Vec<Event>) -> Step {
        self.admit();
        let reach = self.grow();
        self.propose(&reach);
        self.pack();
        let mut step = Step { preempted: take(&mut self.preempted), ..Step::default() };
        if self.batch.tokens.is_empty() {
            return step;
        }
        let all_td = self.forward();
        self.tell_prompts(&all_td, events);
        self.tell_embeddings(&all_td, events);
        let x_td = all_td.select(&self.batch.rows);
        let logits_tv = self.model.logits(&x_td);
        for &(_, rows, i) in &self.batch.spans {
            let job = &mut self.running[i];
            let rows = rows - job.proposed.len();
            step.proposed += job.proposed.len();
            step.prompt += rows.min(job.usage.prompt.saturating_sub(job.computed));
            job.computed += rows;
            job.seen = job.seen.max(job.computed);
        }
        let outcomes = self.choose(&logits_tv);
        self.settle(outcomes, &x_td, &mut step, events);
        step
    }

    /// What came of the rows of logits, by place in `running`; on all threads, since a sampler
    /// passes over the vocabulary several times.
    fn choose(&mut self, logits_tv: &Tensor) -> Vec<Option<Outcome>> {
        let mut first = vec![None; self.running.len()];
        self.batch.owners.iter().for_each(|&(row, i)| first[i] = Some(row));
        let (context, tokenizer) = (self.limits.context, self.tokenizer.as_deref());
        let samplers = &self.samplers;
        let mut jobs: Vec<_> =
            self.running.iter_mut().zip(first).map(|(job, first)| (job, first, None)).collect();
        self.model.device().for_each(&mut jobs, |(job, first, outcome)| {
            let Some(first) = *first else { return };
            *outcome = Some(samplers.lend(|s| job.choose(s, tokenizer, logits_tv, first, context)));
        });
        jobs.into_iter().map(|(_, _, outcome)| outcome).collect()
    }

    /// Tells what was chosen, makes pages known that are full, and ends what has ended.
    fn settle(
        &mut self,
        outcomes: Vec<Option<Outcome>>,
        x_td: &Tensor,
        step: &mut Step,
        events: &mut Vec<Event>,
    ) {
        let (mut ended, mut asked) = (Vec::new(), Vec::new());
        let mut first = vec![0; self.running.len()];
        self.batch.owners.iter().for_each(|&(row, i)| first[i] = row);
        for (i, outcome) in outcomes.into_iter().enumerate() {
            let job = &mut self.running[i];
            self.pages.register(&mut job.table, &job.tokens[..job.computed]);
            let Some(Outcome { chosen, finish }) = outcome else { continue };
            step.chosen += chosen.len();
            step.accepted += chosen.len().saturating_sub(1);
            for (place, token) in chosen.into_iter().enumerate() {
                if job.request.nats {
                    asked.push((first[i] + place, events.len()));
                }
                events.push(Event { id: job.id, what: What::Token(token) });
            }
            ended.extend(finish.map(|finish| (i, finish)));
        }
        self.tell_nats(x_td, &asked, events);
        if !ended.is_empty() {
            self.shelve(1, false);
        }
        // Places stay true from the last on.
        for (i, finish) in ended.into_iter().rev() {
            let job = self.running.remove(i);
            self.end(job, finish, events);
        }
    }

    /// Hidden states of all rows of the batch.
    fn forward(&mut self) -> Tensor {
        let batch = &self.batch;
        let sequences: Vec<Sequence<'_>> = batch
            .spans
            .iter()
            .map(|&(row, rows, i)| {
                let job = &self.running[i];
                Sequence { row, rows, past: job.computed, pages: &job.table.pages }
            })
            .collect();
        let tokens =
            Batch { tokens: &batch.tokens, positions: &batch.positions, sequences: &sequences };
        self.model.forward(&tokens, &mut self.cache)
    }

    fn end(&mut self, mut job: Job, finish: Finish, events: &mut Vec<Event>) {
        self.pages.release(take(&mut job.table));
        let text = job.rest(&finish);
        events.push(Event { id: job.id, what: What::End { finish, text, usage: job.usage } });
    }
}
