//! Tokens that are thought to follow, so that one step may check several.
//!
//! The rows behind them have the bits that they would have one at a time, and each is chosen by the
//! sampler with the randomness of its position: what is proposed changes no token, only how many
//! steps they take.

use crate::engine::Engine;
use crate::job::Job;
use herd_model::llama::{Batch, Llama};
use herd_tensor::Sequence;
use herd_tensor::ops::KvCache;
use std::sync::Arc;

/// Where proposals come from, and how many.
#[derive(Clone)]
pub struct Speculation {
    /// Who proposes.
    pub by: Proposer,
    /// Tokens ahead at most.
    pub most: usize,
}

/// Who proposes.
#[derive(Clone)]
pub enum Proposer {
    /// The text itself: what stood behind the last tokens when they stood there before.
    Lookup,
    /// A smaller model of the same vocabulary.
    Draft(Arc<Llama>),
}

/// Rows of a step up to which a token more costs less than a step more: one row of SmolLM2 takes 2 ms on two
/// cores of Zen 5, and each further one 0.8 ms.
const ROWS: usize = 8;

/// Tokens at the end of the text that must have stood there before, and fewer where these have not.
const MATCHES: [usize; 2] = [4, 2];

/// Steps without proposals after the first mistake, and at most.
const REST: (u32, u32) = (1, 64);

/// How far ahead a job proposes: further while all is right, not for a while when nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    reach: usize,
    /// Steps to go before the next proposal, and how many it will be after the next mistake.
    resting: u32,
    rest: u32,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { reach: 2, resting: 0, rest: REST.0 }
    }
}

impl Pace {
    /// Tokens to propose now.
    fn reach(&mut self) -> usize {
        if self.resting > 0 {
            self.resting -= 1;
            return 0;
        }
        self.reach
    }

    /// Of `proposed` tokens, the first `right` were chosen.
    pub(crate) fn learn(&mut self, proposed: usize, right: usize) {
        if right >= proposed {
            (self.reach, self.rest) = (2 * proposed, REST.0);
        } else if 2 * right >= proposed {
            (self.reach, self.rest) = (right.max(1), REST.0);
        } else {
            self.reach = right.max(1);
            self.resting = self.rest;
            self.rest = (2 * self.rest).min(REST.1);
        }
    }
}

/// The draft and its cache, whose pages have the numbers of the target's.
pub(crate) struct Draft {
    model: Arc<Llama>,
    cache: KvCache,
}

/// Proposals of one engine.
pub(crate) struct Speculator {
    draft: Option<Draft>,
    most: usize,
}

impl Engine {
    /// From now on proposes tokens where few answers run.
    ///
    /// A draft takes a second cache. Panics if its vocabulary has another size.
    pub fn speculate(&mut self, speculation: &Speculation) {
        let draft = match &speculation.by {
            Proposer::Lookup => None,
            Proposer::Draft(model) => {
                let (config, target) = (model.config(), self.model().config());
                assert_eq!(config.vocab, target.vocab, "a draft of another vocabulary");
                let limits = self.limits();
                let shape = limits.kv_shape(config);
                let cache = KvCache::new(shape, config.layers, limits.pages());
                Some(Draft { model: Arc::clone(model), cache })
            }
        };
        self.speculator = Some(Speculator { draft, most: speculation.most });
    }

    /// How many tokens each answering job may propose in this step: none where prompts are read or many
    /// answer, since then rows are not cheap.
    pub(crate) fn reach(&mut self) -> Vec<usize> {
        let jobs = self.running.len();
        let few = jobs > 0 && 2 * jobs <= ROWS && self.running.iter().all(Job::answers);
        let Some(speculator) = self.speculator.as_ref().filter(|_| few) else {
            return vec![0; jobs];
        };
        let most = speculator.most.min(ROWS / jobs - 1);
        let context = self.limits().context;
        let reach = |job: &mut Job| job.pace.reach().min(most).min(job.left(context) - 1);
        self.running.iter_mut().map(reach).collect()
    }

    /// Proposes up to `reach` tokens for each running job, whose pages cover them.
    pub(crate) fn propose(&mut self, reach: &[usize]) {
        let Some(speculator) = &mut self.speculator else { return };
        // What was proposed for a batch that had no room for it has no pages now.
        self.running.iter_mut().for_each(|job| job.proposed.clear());
        for (job, &reach) in self.running.iter_mut().zip(reach) {
            if reach == 0 {
                continue;
            }
            match &mut speculator.draft {
                None => lookup(&job.tokens, reach, &mut job.proposed),
                Some(draft) => {
                    let batch = self.limits.batch;
                    self.samplers.lend(|sampler| draft.propose(job, reach, batch, sampler));
                }
            }
        }
    }
}

/// What stood behind the last tokens when they last stood in the text.
fn lookup(tokens: &[u32], reach: usize, proposed: &mut Vec<u32>) {
    proposed.clear();
    for len in MATCHES {
        let Some(start) = tokens.len().checked_sub(len) else { continue };
        let ending = &tokens[start..];
        let found = (0..start).rev().find(|&at| tokens[at..].starts_with(ending));
        if let Some(at) = found {
            // Behind the end of the text it goes on with itself: what repeats is thought to go on.
            for next in at + len..at + len + reach {
                let known = tokens.get(next).copied();
                proposed.push(known.unwrap_or_else(|| proposed[next - tokens.len()]));
            }
            return;
        }
    }
}

impl Draft {
    /// Reads what the draft has not read of the job, then chooses by the job's own sampling: where the two
    /// models agree on probabilities, one random number gives both the same token.
    fn propose(
        &mut self,
        job: &mut Job,
        reach: usize,
        batch: usize,
        sampler: &mut crate::sample::Sampler,
    ) {
        // The last token gives the logits.
        job.drafted = job.drafted.min(job.tokens.len() - 1);
        let mut text = job.tokens.clone();
        while text.len() < job.tokens.len() + reach {
            let mut logits_tv = None;
            while job.drafted < text.len() {
                let rows = (text.len() - job.drafted).min(batch);
                let x_td = self.forward(job, &text, rows);
                job.drafted += rows;
                if job.drafted == text.len() {
                    logits_tv = Some(self.model.logits(&x_td.select(&[rows - 1])));
                }
            }
            let logits_tv = logits_tv.expect("the last token is read only now");
            let position = text.len() as u64;
            let sampling = &job.request.sampling;
            let Ok(id) = sampler.choose(sampling, logits_tv.row(0), &text, position) else { break };
            text.push(id);
        }
        job.proposed.clear();
        job.proposed.extend_from_slice(&text[job.tokens.len()..]);
    }

    fn forward(&mut self, job: &Job, text: &[u32], rows: usize) -> herd_tensor::Tensor {
        let past = job.drafted;
        let positions: Vec<u32> = (past..past + rows).map(|p| p as u32).collect();
        let sequences = [Sequence { row: 0, rows, past, pages: &job.table.pages }];
        let tokens = &text[past..past + rows];
        let batch = Batch { tokens, positions: &positions, sequences: &sequences };
        self.model.forward(&batch, &mut self.cache)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Sampling;
    use crate::{Limits, Request};
    use herd_model::Checkpoint;
    use herd_tensor::{Class, Device};

    #[test]
    fn what_stood_behind_the_last_tokens_is_proposed_the_nearest_first() {
        let mut proposed = vec![9];
        lookup(&[1, 2, 3, 4, 1, 2, 5, 6, 1, 2], 3, &mut proposed);
        assert_eq!(proposed, [5, 6, 1]);
        lookup(&[1, 2, 3, 4, 7, 8, 3, 4, 9, 1, 2, 3, 4], 2, &mut proposed);
        assert_eq!(proposed, [7, 8], "four tokens count for more than two");
        lookup(&[1, 1, 1, 1, 1, 1], 4, &mut proposed);
        assert_eq!(proposed, [1; 4]);
        for nothing in [&[][..], &[1], &[1, 2], &[1, 2, 3, 4, 5]] {
            lookup(nothing, 3, &mut proposed);
            assert!(proposed.is_empty(), "{nothing:?}");
        }
    }

    #[test]
    fn a_pace_grows_while_all_is_right_and_rests_longer_after_each_mistake() {
        let mut pace = Pace::default();
        assert_eq!(pace.reach(), 2);
        pace.learn(2, 2);
        assert_eq!(pace.reach(), 4);
        pace.learn(4, 2);
        assert_eq!(pace.reach(), 2);
        for rest in [1, 2, 4] {
            pace.learn(1, 0);
            let steps = (0..100).take_while(|_| pace.reach() == 0).count();
            assert_eq!(steps, rest);
        }
        pace.learn(1, 1);
        pace.learn(1, 0);
        assert_eq!((pace.reach(), pace.reach()), (0, 1));
    }

    fn load(name: &str) -> Arc<Llama> {
        let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/models/");
        let checkpoint = Checkpoint::open(std::path::Path::new(models).join(name)).unwrap();
        Arc::new(Llama::load(&checkpoint, &Device::cpu(Class::best(), 1), 128).unwrap())
    }

    /// An engine with a draft of other weights, mostly wrong, that answers one request.
    fn guessing() -> Engine {
        let limits = Limits { page_len: 128, ..Limits::single(128) };
        let mut engine = Engine::new(load("llama1_mha"), None, limits);
        engine.speculate(&Speculation { by: Proposer::Draft(load("llama2_linear")), most: 4 });
        let sampling = Sampling { temperature: 1.0, seed: 3, ..Sampling::GREEDY };
        engine.submit(Request::new(vec![5, 6, 7], sampling)).unwrap();
        engine
    }

    #[test]
    fn a_draft_that_was_wrong_proposes_what_one_that_reads_all_anew_would() {
        let mut engine = guessing();
        let mut rests = 0;
        while let Some(step) = Some(engine.step(&mut Vec::new())).filter(|_| !engine.is_idle()) {
            let job = &mut engine.running[0];
            // While it rests the text goes on without it. Asking repairs nothing that is older.
            if step.proposed > 0 || job.tokens.len() > 120 {
                continue;
            }
            let draft = engine.speculator.as_mut().and_then(|s| s.draft.as_mut()).unwrap();
            let mut ask = |job: &mut Job| {
                engine.samplers.lend(|sampler| draft.propose(job, 4, 512, sampler));
                std::mem::take(&mut job.proposed)
            };
            let read = job.drafted;
            let proposed = ask(job);
            job.drafted = 0;
            assert_eq!(proposed, ask(job), "at {} tokens, {read} read", job.tokens.len());
            rests += usize::from(read > 0);
        }
        assert!(rests > 5, "{rests} rests");
    }

    #[test]
    fn a_draft_keeps_no_token_that_was_not_chosen() {
        let mut engine = guessing();
        let mut wrong = 0;
        while let Some(step) = Some(engine.step(&mut Vec::new())).filter(|_| !engine.is_idle()) {
            let job = &engine.running[0];
            assert!(job.drafted <= job.computed, "{} read of {}", job.drafted, job.computed);
            wrong += step.proposed - step.accepted;
        }
        assert!(wrong > 5, "{wrong} wrong");
    }
}
