//! The loop: admit, pack, run, choose.
//!
//! A step packs one token of each answering request and pieces of prompts into one batch. What
//! a request gets does not depend on the others in the batch (ARCHITECTURE.md).

use crate::embed::Pool;
use crate::grammar::{Grammar, Walk};
use crate::pages::{Pages, Table};
use crate::request::{
    Event, Finish, PromptToken, Request, RequestError, RequestId, Token, Usage, What,
};
use crate::sample::Sampler;
use crate::softmax::log_prob;
use crate::stop::StopMatcher;
use herd_codec::{Controls, StreamDecoder, TokenId, Tokenizer};
use herd_model::llama::{Batch, Llama};
use herd_tensor::ops::{KvCache, Targets};
use herd_tensor::{KvFormat, KvShape, Sequence, Tensor};
use std::collections::VecDeque;
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
    model: Arc<Llama>,
    tokenizer: Option<Arc<Tokenizer>>,
    limits: Limits,
    cache: KvCache,
    pages: Pages,
    sampler: Sampler,
    waiting: VecDeque<Job>,
    running: Vec<Job>,
    next_id: u64,
    batch: Packed,
}

/// One request in work.
struct Job {
    id: RequestId,
    request: Request,
    /// Prompt and answer.
    tokens: Vec<u32>,
    /// Tokens whose keys and values are in the cache.
    computed: usize,
    table: Table,
    usage: Usage,
    /// Hidden states of the prompt, where their mean is asked for.
    pool: Pool,
    decoder: StreamDecoder,
    stop: StopMatcher,
    /// Where the answer is in its form.
    walk: Option<Walk>,
    /// Text between decoder and stop matcher.
    text: String,
}

/// A batch in the making; its memory serves all steps.
#[derive(Default)]
struct Packed {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    /// First row, rows, and place in `running`.
    spans: Vec<(usize, usize, usize)>,
    /// Rows whose logits are wanted, and whose they are.
    rows: Vec<usize>,
    owners: Vec<usize>,
}

/// What a step did, for timing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Tokens of prompts computed.
    pub prompt: usize,
    /// Tokens of answers chosen.
    pub chosen: usize,
}

impl Engine {
    /// An engine of these limits. Without a tokenizer events have no text and stop strings do
    /// not stop. Panics if the limits let nothing run or the page length is no multiple of 16.
    pub fn new(model: Arc<Llama>, tokenizer: Option<Arc<Tokenizer>>, limits: Limits) -> Engine {
        let Limits { parallel, batch, page_len, .. } = limits;
        assert!(parallel > 0 && batch > 0, "engine: at least one request and one token a step");
        assert!(page_len > 0 && page_len.is_multiple_of(16), "engine: pages of {page_len}");
        let config = model.config();
        let shape = KvShape {
            format: limits.kv,
            page_len: limits.page_len,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
        };
        let cache = KvCache::new(shape, config.layers, limits.pages());
        Engine {
            model,
            tokenizer,
            limits,
            cache,
            pages: Pages::new(limits.pages(), limits.page_len),
            sampler: Sampler::new(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            next_id: 0,
            batch: Packed::default(),
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
        let (running, waiting) = (self.running.len(), self.waiting.len());
        Load { running, waiting, pages_held: pages - self.pages.available(), pages }
    }

    /// Takes a request; its events come from `step`.
    ///
    /// Errors: a prompt that is empty, has unknown tokens or leaves no room in the context;
    /// settings out of range.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, RequestError> {
        let stop = self.stops_of(&request)?;
        Ok(self.queue(request, stop))
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
            self.queue(request, stop.clone())
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
        // An answer needs room, a vector does not.
        if tokens + usize::from(!request.embed) > self.limits.context {
            return Err(RequestError::Context { tokens, context: self.limits.context });
        }
        if let Some(at) = request.prompt.iter().position(|&id| id as usize >= vocab) {
            return Err(RequestError::Vocabulary { id: request.prompt[at], at, vocab });
        }
        request.sampling.check(vocab)?;
        Ok(StopMatcher::new(&request.stop)?)
    }

    fn queue(&mut self, request: Request, stop: StopMatcher) -> RequestId {
        let tokens = request.prompt.len();
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.waiting.push_back(Job {
            id,
            tokens: request.prompt.clone(),
            computed: 0,
            table: Table::default(),
            usage: Usage { prompt: tokens, ..Usage::default() },
            pool: Pool::default(),
            decoder: StreamDecoder::after_prompt(Controls::Hide),
            stop,
            walk: request.grammar.as_ref().map(Grammar::walk),
            text: String::new(),
            request,
        });
        id
    }

    /// Ends a request; its last event says so.
    pub fn cancel(&mut self, id: RequestId, events: &mut Vec<Event>) {
        let running = self.running.iter().position(|j| j.id == id).map(|i| self.running.remove(i));
        let waiting = || self.waiting.iter().position(|j| j.id == id);
        let job = match running {
            Some(job) => Some(job),
            None => waiting().and_then(|i| self.waiting.remove(i)),
        };
        if let Some(job) = job {
            self.end(job, Finish::Cancelled, events);
        }
    }

    /// Whether nothing is left to do.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// One step: computes a batch, chooses a token for each request whose tokens are all
    /// computed, and appends what happened to `events`.
    pub fn step(&mut self, events: &mut Vec<Event>) -> Step {
        self.admit();
        self.pack();
        if self.batch.tokens.is_empty() {
            return Step::default();
        }
        let all_td = self.forward();
        self.tell_prompts(&all_td, events);
        self.tell_embeddings(&all_td, events);
        let x_td = all_td.select(&self.batch.rows);
        let logits_tv = self.model.logits(&x_td);
        let mut step = Step::default();
        for &(_, rows, i) in &self.batch.spans {
            let job = &mut self.running[i];
            step.prompt += rows.min(job.usage.prompt.saturating_sub(job.computed));
            job.computed += rows;
            self.pages.register(&mut job.table, &job.tokens[..job.computed]);
        }
        let owners = std::mem::take(&mut self.batch.owners);
        let mut ended = Vec::new();
        let before = events.len();
        for (row, &i) in owners.iter().enumerate() {
            if let Some(finish) = self.choose(i, logits_tv.row(row), events) {
                ended.push((i, finish));
            }
        }
        step.chosen = events.len() - before;
        self.tell_nats(&x_td, &owners, &mut events[before..]);
        self.batch.owners = owners;
        // Owners are answering requests, then prompts; places stay true from the last on.
        ended.sort_unstable_by_key(|&(i, _)| std::cmp::Reverse(i));
        for (i, finish) in ended {
            let job = self.running.remove(i);
            self.end(job, finish, events);
        }
        step
    }

    /// Starts waiting requests, in order, while there is room for all that they may write.
    ///
    /// One that begins with pages which a running one has yet to compute waits for these: a step or
    /// two, in which there is little room for its own prompt anyway.
    fn admit(&mut self) {
        while self.running.len() < self.limits.parallel {
            let Some(job) = self.waiting.front_mut() else { return };
            // A prompt of whose tokens something is asked, is computed.
            let whole = job.request.whole_prompt();
            let (mut table, covered) = match whole {
                true => self.pages.reuse(&[]),
                false => self.pages.reuse(&job.tokens),
            };
            let ahead = |r: &Job| r.will_fill(&job.tokens, self.limits.page_len) > covered;
            if !whole && self.running.iter().any(ahead) {
                self.pages.release(table);
                return;
            }
            let most = job.request.max_tokens.unwrap_or(self.limits.context);
            let end = (job.tokens.len().saturating_add(most)).min(self.limits.context);
            if !self.pages.grow(&mut table, end) {
                self.pages.release(table);
                return;
            }
            (job.table, job.computed, job.usage.cached) = (table, covered, covered);
            self.running.extend(self.waiting.pop_front());
        }
    }

    /// One token of each answering request, then pieces of prompts, up to the limit.
    fn pack(&mut self) {
        let batch = &mut self.batch;
        batch.tokens.clear();
        batch.positions.clear();
        batch.spans.clear();
        batch.rows.clear();
        batch.owners.clear();
        let mut room = self.limits.batch;
        for answering in [true, false] {
            for (i, job) in self.running.iter().enumerate() {
                let left = job.tokens.len() - job.computed;
                if (left == 1) != answering || room == 0 {
                    continue;
                }
                let rows = left.min(room);
                room -= rows;
                batch.spans.push((batch.tokens.len(), rows, i));
                let range = job.computed..job.computed + rows;
                batch.tokens.extend_from_slice(&job.tokens[range.clone()]);
                batch.positions.extend(range.map(|p| p as u32));
                if rows == left {
                    batch.rows.push(batch.tokens.len() - 1);
                    batch.owners.push(i);
                }
            }
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

    /// Log-probabilities of the prompts' tokens in the batch, where they are asked for.
    ///
    /// The head runs over as many rows at once as it does for answers, so that no more logits stand in memory.
    fn tell_prompts(&mut self, x_td: &Tensor, events: &mut Vec<Event>) {
        for &(first, rows, i) in &self.batch.spans {
            let job = &self.running[i];
            let (Some(n), true) = (job.request.log_probs, job.request.prompt_log_probs) else {
                continue;
            };
            if job.computed == 0 {
                let what = What::Prompt(PromptToken { id: job.tokens[0], said: None });
                events.push(Event { id: job.id, what });
            }
            let last = (job.computed + rows).min(job.usage.prompt - 1);
            let positions: Vec<usize> = (job.computed..last).collect();
            for piece in positions.chunks(self.limits.parallel) {
                let places: Vec<usize> = piece.iter().map(|p| first + p - job.computed).collect();
                let logits_tv = self.model.logits(&x_td.select(&places));
                for (row, position) in piece.iter().enumerate() {
                    let (id, logits_v) = (job.tokens[position + 1], logits_tv.row(row));
                    let mut top = Vec::new();
                    self.sampler.top_log_probs(logits_v, n, &mut top);
                    let said = Some((log_prob(logits_v, id), top));
                    events.push(Event { id: job.id, what: What::Prompt(PromptToken { id, said }) });
                }
            }
        }
    }

    /// Gathers the hidden states of prompts in the batch whose mean is asked for, and tells it once all are there.
    fn tell_embeddings(&mut self, x_td: &Tensor, events: &mut Vec<Event>) {
        for &(first, rows, i) in &self.batch.spans {
            let job = &mut self.running[i];
            // Rows behind the prompt are of an answer.
            let rows = rows.min(job.usage.prompt.saturating_sub(job.computed));
            if !job.request.embed || rows == 0 {
                continue;
            }
            job.pool.add(x_td, first, rows);
            if job.computed + rows == job.usage.prompt {
                events.push(Event { id: job.id, what: What::Embedding(job.pool.mean()) });
            }
        }
    }

    /// Gives the tokens just chosen what training on them would lose, where that is asked for.
    ///
    /// `owners[row]` is the running job of hidden row `row`; not all have chosen a token.
    fn tell_nats(&self, x_td: &Tensor, owners: &[usize], events: &mut [Event]) {
        let (mut rows, mut ids, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (place, event) in events.iter().enumerate() {
            let owner = |i: &usize| self.running[*i].id == event.id;
            let Some(row) = owners.iter().position(owner) else { continue };
            if let (What::Token(token), true) =
                (&event.what, self.running[owners[row]].request.nats)
            {
                rows.push(row);
                ids.push(token.id);
                places.push(place);
            }
        }
        if rows.is_empty() {
            return;
        }
        let weights = vec![1.0; ids.len()];
        let targets = Targets { ids: &ids, weights: &weights, scale: 0.0, z_loss: 0.0 };
        let nats_t = self.model.loss(&x_td.select(&rows), &targets).nats_t;
        for (place, nats) in places.into_iter().zip(nats_t) {
            if let What::Token(token) = &mut events[place].what {
                token.nats = Some(nats);
            }
        }
    }

    /// Chooses a token for running request `i`; why it ends, if it does.
    fn choose(&mut self, i: usize, logits_v: &[f32], events: &mut Vec<Event>) -> Option<Finish> {
        let job = &mut self.running[i];
        if job.request.max_tokens == Some(0) {
            return Some(Finish::Length);
        }
        let (id, complete) = match job.pick(&mut self.sampler, logits_v) {
            Ok(picked) => picked,
            Err(finish) => return Some(finish),
        };
        let mut top = Vec::new();
        if let Some(n) = job.request.log_probs {
            self.sampler.top_log_probs(logits_v, n, &mut top);
        }
        let log_prob = job.request.log_probs.map(|_| log_prob(logits_v, id));
        job.tokens.push(id);
        job.usage.generated += 1;
        let stops = job.request.stop_tokens.contains(&id);
        let (text, stopped) = match (&self.tokenizer, stops) {
            (Some(tokenizer), false) => job.read(tokenizer, id),
            _ => (String::new(), None),
        };
        let token = Token { id, log_prob, nats: None, top, text };
        events.push(Event { id: job.id, what: What::Token(token) });
        let full = job.request.max_tokens.is_some_and(|n| job.usage.generated >= n)
            || job.tokens.len() >= self.limits.context;
        match (stops, stopped) {
            (true, _) => Some(Finish::StopToken(id)),
            (false, Some(s)) => Some(Finish::StopString(job.request.stop[s].clone())),
            (false, None) if complete => Some(Finish::Complete),
            (false, None) => full.then_some(Finish::Length),
        }
    }

    fn end(&mut self, mut job: Job, finish: Finish, events: &mut Vec<Event>) {
        self.pages.release(std::mem::take(&mut job.table));
        let mut held = Vec::new();
        if !matches!(finish, Finish::StopString(_)) {
            job.text.clear();
            job.decoder.flush(&mut job.text);
            // The last characters may themselves complete a stop string: then they are dropped.
            if job.stop.push(job.text.as_bytes(), &mut held).is_none() {
                job.stop.flush(&mut held);
            }
        }
        let text = String::from_utf8_lossy(&held).into_owned();
        events.push(Event { id: job.id, what: What::End { finish, text, usage: job.usage } });
    }
}

impl Job {
    /// Positions of whole pages that `tokens` begins with and could take over, some of which this job has yet to
    /// compute; 0 if there are none.
    fn will_fill(&self, tokens: &[u32], page_len: usize) -> usize {
        let known = self.tokens.iter().zip(&tokens[..tokens.len() - 1]);
        let shared = known.take_while(|(a, b)| a == b).count() / page_len * page_len;
        if shared > self.computed { shared } else { 0 }
    }

    /// The next token, and whether it completes a form that allows nothing more; else why there is none.
    fn pick(&mut self, sampler: &mut Sampler, logits_v: &[f32]) -> Result<(u32, bool), Finish> {
        let Request { sampling, stop_tokens, .. } = &self.request;
        let allowed = match &mut self.walk {
            Some(walk) => Some(walk.allowed(stop_tokens).map_err(Finish::Form)?),
            None => None,
        };
        let position = self.tokens.len() as u64;
        let id = sampler
            .choose_among(allowed, sampling, logits_v, &self.tokens, position)
            .map_err(Finish::Failed)?;
        match &mut self.walk {
            Some(walk) if !stop_tokens.contains(&id) => {
                Ok((id, walk.go_on(id).map_err(Finish::Form)?))
            }
            Some(_) | None => Ok((id, false)),
        }
    }

    /// Text that token `id` makes certain, and the stop string that it completes.
    fn read(&mut self, tokenizer: &Tokenizer, id: u32) -> (String, Option<usize>) {
        self.text.clear();
        self.decoder.push(tokenizer, TokenId(id), &mut self.text);
        let mut certain = Vec::new();
        let stopped = self.stop.push(self.text.as_bytes(), &mut certain);
        // Stop strings are whole characters, so what comes before one is too.
        (String::from_utf8_lossy(&certain).into_owned(), stopped)
    }
}
