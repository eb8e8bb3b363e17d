//! One request in work: its tokens, where its answer is, and how rows of logits become tokens.

use crate::embed::Pool;
use crate::grammar::{Grammar, Walk};
use crate::pages::Table;
use crate::request::{Finish, Request, RequestId, Token, Usage};
use crate::sample::Sampler;
use crate::speculate::Pace;
use crate::stop::StopMatcher;
use herd_codec::{Controls, StreamDecoder, TokenId, Tokenizer};
use herd_tensor::Tensor;

/// One request in work.
pub(crate) struct Job {
    pub(crate) id: RequestId,
    pub(crate) request: Request,
    /// Prompt and answer.
    pub(crate) tokens: Vec<u32>,
    /// Tokens whose keys and values are in the cache.
    pub(crate) computed: usize,
    /// The most that `computed` ever was: what is told of a prompt is told once.
    pub(crate) seen: usize,
    pub(crate) table: Table,
    pub(crate) usage: Usage,
    /// Hidden states of the prompt, where their mean is asked for.
    pub(crate) pool: Pool,
    /// Tokens that are thought to follow, to be checked by the next step.
    pub(crate) proposed: Vec<u32>,
    /// How far ahead it may propose.
    pub(crate) pace: Pace,
    /// Tokens whose keys and values are in the draft's cache.
    pub(crate) drafted: usize,
    /// Whether it ran before.
    pub(crate) started: bool,
    /// Younger requests of a higher rank that were let in before it.
    pub(crate) passed: u32,
    decoder: StreamDecoder,
    stop: StopMatcher,
    /// Where the answer is in its form.
    walk: Option<Walk>,
    /// Text between decoder and stop matcher.
    text: String,
}

/// What a step gave a job.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) chosen: Vec<Token>,
    /// Why it ends, if it does.
    pub(crate) finish: Option<Finish>,
}

/// Requests of a higher rank that pass one by until it has risen to the next rank itself.
pub(crate) const PATIENCE: u32 = 32;

impl Job {
    pub(crate) fn new(id: RequestId, request: Request, stop: StopMatcher) -> Job {
        Job {
            id,
            tokens: request.prompt.clone(),
            computed: 0,
            seen: 0,
            table: Table::default(),
            usage: Usage { prompt: request.prompt.len(), ..Usage::default() },
            pool: Pool::default(),
            proposed: Vec::new(),
            pace: Pace::default(),
            drafted: 0,
            started: false,
            passed: 0,
            decoder: StreamDecoder::after_prompt(Controls::Hide),
            stop,
            walk: request.grammar.as_ref().map(Grammar::walk),
            text: String::new(),
            request,
        }
    }

    /// Its priority, raised by how often it was passed by.
    pub(crate) fn rank(&self) -> i64 {
        i64::from(self.request.priority) + i64::from(self.passed / PATIENCE)
    }

    /// Whether all its tokens but the last are computed.
    pub(crate) fn answers(&self) -> bool {
        self.tokens.len() - self.computed == 1
    }

    /// The tokens whose pages it may take over, but for that of the last: of a prompt of whose tokens something is
    /// asked, those before, and those that were told.
    pub(crate) fn reusable(&self) -> &[u32] {
        let asked = self.request.told_from();
        &self.tokens
            [..asked.map_or(self.tokens.len(), |from| from.min(self.usage.prompt).max(self.seen))]
    }

    /// Positions that `tokens` begins with and could take over, some of which this job has yet to compute; 0 if
    /// there are none.
    pub(crate) fn will_fill(&self, tokens: &[u32]) -> usize {
        let known = self.tokens[..self.wanted()].iter();
        let both = known.zip(&tokens[..tokens.len().saturating_sub(1)]);
        let shared = both.take_while(|(a, b)| a == b).count();
        if shared > self.computed { shared } else { 0 }
    }

    /// Tokens to be computed before anything is chosen: of a prompt that nothing follows all but the last.
    pub(crate) fn wanted(&self) -> usize {
        let Request { max_tokens, embed, .. } = self.request;
        let all = self.tokens.len();
        let last = max_tokens == Some(0) && !embed && self.computed + 1 < all;
        all - usize::from(last)
    }

    /// Tokens that the answer may still get, one at least.
    pub(crate) fn left(&self, context: usize) -> usize {
        let most = self.request.max_tokens.unwrap_or(context);
        let left = most.saturating_sub(self.usage.generated);
        left.min(context.saturating_sub(self.tokens.len())).max(1)
    }

    /// Chooses from the rows of logits behind the last token and behind those proposed, as far as what is
    /// proposed is what is chosen. Counts the rows that stay as computed.
    pub(crate) fn choose(
        &mut self,
        sampler: &mut Sampler,
        tokenizer: Option<&Tokenizer>,
        logits_tv: &Tensor,
        first: usize,
        context: usize,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        if self.request.max_tokens == Some(0) {
            return Outcome { finish: Some(Finish::Length), ..outcome };
        }
        let proposed = std::mem::take(&mut self.proposed);
        for place in 0..=proposed.len() {
            let logits_v = logits_tv.row(first + place);
            let (token, finish) = match self.choose_one(sampler, tokenizer, logits_v, context) {
                Ok(told) => told,
                Err(finish) => {
                    outcome.finish = Some(finish);
                    break;
                }
            };
            let right = proposed.get(place) == Some(&token.id);
            outcome.chosen.push(token);
            outcome.finish = finish;
            if outcome.finish.is_some() || !right {
                break;
            }
            self.computed += 1;
        }
        if !proposed.is_empty() {
            self.pace.learn(proposed.len(), outcome.chosen.len().saturating_sub(1));
        }
        self.seen = self.seen.max(self.computed);
        // Behind the first wrong proposal the draft has read what was not chosen.
        self.drafted = self.drafted.min(self.computed);
        outcome
    }

    /// The next token, and why the answer ends with it, if it does; else why there is none.
    fn choose_one(
        &mut self,
        sampler: &mut Sampler,
        tokenizer: Option<&Tokenizer>,
        logits_v: &[f32],
        context: usize,
    ) -> Result<(Token, Option<Finish>), Finish> {
        let (id, complete) = self.pick(sampler, logits_v)?;
        let mut top = Vec::new();
        let log_prob = self.request.log_probs.map(|n| {
            let normaliser = sampler.top_log_probs(logits_v, n, &mut top);
            f64::from(logits_v[id as usize]) - normaliser
        });
        self.tokens.push(id);
        self.usage.generated += 1;
        let stops = self.request.stop_tokens.contains(&id);
        let (text, stopped) = match (tokenizer, stops) {
            (Some(tokenizer), false) => self.read(tokenizer, id),
            _ => (String::new(), None),
        };
        let full = self.request.max_tokens.is_some_and(|n| self.usage.generated >= n)
            || self.tokens.len() >= context;
        let finish = match (stops, stopped) {
            (true, _) => Some(Finish::StopToken(id)),
            (false, Some(s)) => Some(Finish::StopString(self.request.stop[s].clone())),
            (false, None) if complete => Some(Finish::Complete),
            (false, None) => full.then_some(Finish::Length),
        };
        Ok((Token { id, log_prob, nats: None, top, text }, finish))
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

    /// Text that was held back and belongs to the answer, which ends so.
    pub(crate) fn rest(&mut self, finish: &Finish) -> String {
        let mut held = Vec::new();
        if !matches!(finish, Finish::StopString(_)) {
            self.text.clear();
            self.decoder.flush(&mut self.text);
            // The last characters may themselves complete a stop string: then they are dropped.
            if self.stop.push(self.text.as_bytes(), &mut held).is_none() {
                self.stop.flush(&mut held);
            }
        }
        String::from_utf8_lossy(&held).into_owned()
    }
}
