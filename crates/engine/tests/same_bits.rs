//! Must-hold line 4: what a request gets has the same bits alone and in any company.
//!
//! Random schedules (who is asked when, chunks, pages, threads, prefixes in the cache,
//! cancellations) run on small models of several shapes and formats in every class of the machine,
//! and each answer is compared with the same request alone. Three evaluators with the faults that
//! this promise excludes are compared by the same function, which must catch them.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use common::{Answer, finish, gguf, load, sort, wide_config};
use herd_engine::sample::Sampling;
use herd_engine::score::Scorer;
use herd_engine::softmax::log_prob;
use herd_engine::{Engine, Finish, Limits, Proposer, Request, RequestId, Speculation};
use herd_model::llama::Llama;
use herd_model::{Checkpoint, Config as ModelConfig};
use herd_tensor::{Class, Format, KvFormat};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

/// Positions of a request: past the first block of keys in attention, which holds 256.
const CONTEXT: usize = 320;

/// Models of different shapes and formats.
fn models() -> &'static [(String, Checkpoint)] {
    static MODELS: OnceLock<Vec<(String, Checkpoint)>> = OnceLock::new();
    MODELS.get_or_init(|| {
        let recorded = ["llama2_gqa", "llama32_tied", "mqa_rope_parameters"];
        let open = |name: &str| Checkpoint::open(common::files::recorded(name)).unwrap();
        let mut models: Vec<_> = recorded.iter().map(|n| (n.to_string(), open(n))).collect();
        // Heads for each key/value head: 2, 7, 5, 16; heads of 64, 18, 24 and 16.
        for (format, heads, kv_heads, head_dim) in [
            (Format::Q4_0, 4, 2, 64),
            (Format::Q4_K, 4, 2, 64),
            (Format::BF16, 7, 1, 18),
            (Format::F16, 5, 1, 24),
            (Format::Q8_0, 16, 1, 16),
        ] {
            let config = ModelConfig { heads, kv_heads, head_dim, ..wide_config() };
            models.push((format.name().into(), gguf(&config, format, |_, _| {})));
        }
        models
    })
}

/// A request and when it comes and goes.
#[derive(Clone, Debug)]
struct Visit {
    /// Tokens that it shares with others from the start on, then tokens of its own.
    shared: usize,
    own: Vec<u32>,
    max_tokens: usize,
    temperature: f32,
    seed: u64,
    /// Answers that are asked for at once.
    answers: usize,
    priority: i32,
    tenant: u32,
    /// Steps before it is submitted, and after which it is cancelled.
    arrives: usize,
    stays: Option<usize>,
}

/// A random run of an engine.
#[derive(Clone, Debug)]
struct Schedule {
    model: usize,
    class: usize,
    threads: usize,
    batch: usize,
    page_len: usize,
    parallel: usize,
    kv: KvFormat,
    /// Whether the cache holds one context alone, so that pages run out.
    tight: bool,
    proposer: Option<Guess>,
    visits: Vec<Visit>,
}

/// Who proposes tokens.
#[derive(Clone, Copy, Debug)]
enum Guess {
    Lookup,
    /// The model itself, which is mostly right.
    Itself,
    /// A model of the same shape in another format or with other weights, which is mostly wrong.
    Stranger,
}

fn visit() -> impl Strategy<Value = Visit> {
    let own = prop::collection::vec(0u32..60, 1..40);
    let shared = prop_oneof![Just(0usize), 1usize..40, 100usize..270];
    let stays = prop_oneof![4 => Just(None), 1 => (1usize..12).prop_map(Some)];
    let temperature = prop_oneof![Just(0.0f32), Just(1.0)];
    let answers = prop_oneof![3 => Just(1usize), 1 => 2usize..5];
    let max_tokens = prop_oneof![2 => 1usize..10, 1 => 10usize..40];
    let place = (-1i32..2, 0u32..3);
    (shared, own, max_tokens, temperature, 0u64..100, answers, 0usize..40, stays, place).prop_map(
        |(shared, own, max_tokens, temperature, seed, answers, arrives, stays, place)| Visit {
            shared,
            own,
            max_tokens,
            temperature,
            seed,
            answers,
            priority: place.0,
            tenant: place.1,
            arrives,
            stays,
        },
    )
}

fn schedule() -> impl Strategy<Value = Schedule> {
    let kv = [KvFormat::I8, KvFormat::I16, KvFormat::F16, KvFormat::F32];
    let kv = prop::sample::select(kv.to_vec());
    let page_len = prop::sample::select(vec![16usize, 32, 48, 64, 256]);
    let batch = prop_oneof![1usize..8, 8usize..90, Just(400usize)];
    let visits = prop::collection::vec(visit(), 1..6);
    let class = 0..Class::available().len();
    let guess = prop::sample::select(vec![Guess::Lookup, Guess::Itself, Guess::Stranger]);
    let helped = (any::<bool>(), prop::option::of(guess));
    (0..models().len(), class, 1usize..4, batch, page_len, 1usize..5, kv, helped, visits).prop_map(
        |(model, class, threads, batch, page_len, parallel, kv, (tight, proposer), visits)| {
            let visits: Vec<Visit> = visits;
            Schedule {
                model,
                class,
                threads,
                batch,
                page_len,
                parallel,
                kv,
                tight,
                proposer,
                visits,
            }
        },
    )
}

impl Visit {
    fn request(&self) -> Request {
        let shared = (0..self.shared).map(|i| (i * 7 % 60) as u32);
        let prompt = shared.chain(self.own.iter().copied()).collect();
        let sampling =
            Sampling { temperature: self.temperature, seed: self.seed, ..Sampling::GREEDY };
        Request {
            max_tokens: Some(self.max_tokens),
            log_probs: Some(3),
            nats: true,
            priority: self.priority,
            tenant: self.tenant,
            ..Request::new(prompt, sampling)
        }
    }

    /// A request of its own for each answer.
    fn requests(&self) -> impl Iterator<Item = Request> + '_ {
        (0..self.answers as u64).map(|stream| {
            let mut request = self.request();
            request.sampling.stream = stream;
            request
        })
    }
}

/// A model of the same vocabulary whose weights are others.
fn stranger(model: &Llama) -> Arc<Llama> {
    let config = ModelConfig { vocab: model.config().vocab, ..wide_config() };
    Arc::new(Llama::load(&gguf(&config, Format::Q8_0, |_, _| {}), model.device(), CONTEXT).unwrap())
}

/// Each request by itself, one thread, its prompt in one piece.
fn alone(model: &Arc<Llama>, kv: KvFormat, requests: &[Request]) -> Vec<Answer> {
    let one = |request: &Request| {
        let limits = Limits { kv, batch: CONTEXT, ..Limits::single(CONTEXT) };
        let mut engine = Engine::new(Arc::clone(model), None, limits);
        let id = engine.submit(request.clone()).unwrap();
        finish(&mut engine, &[id]).remove(0)
    };
    requests.iter().map(one).collect()
}

/// What the schedules met in all.
#[derive(Default)]
struct Met {
    hits: AtomicUsize,
    cancelled: AtomicUsize,
    preempted: AtomicUsize,
    accepted: AtomicUsize,
    rejected: AtomicUsize,
}

/// The whole schedule on one engine; the answers of the visits, one visit after another.
fn together(model: &Arc<Llama>, schedule: &Schedule, limits: Limits, met: &Met) -> Vec<Answer> {
    let mut engine = Engine::new(Arc::clone(model), None, limits);
    if let Some(guess) = schedule.proposer {
        let by = match guess {
            Guess::Lookup => Proposer::Lookup,
            Guess::Itself => Proposer::Draft(Arc::clone(model)),
            Guess::Stranger => Proposer::Draft(stranger(model)),
        };
        engine.speculate(&Speculation { by, most: 7 });
    }
    let pages = engine.available_pages();
    let mut order: Vec<usize> = (0..schedule.visits.len()).collect();
    order.sort_by_key(|&i| schedule.visits[i].arrives);
    let (mut ids, mut whose): (Vec<RequestId>, Vec<usize>) = (Vec::new(), Vec::new());
    let mut come = 0;
    let mut answers = vec![Answer::default(); schedule.visits.iter().map(|v| v.answers).sum()];
    let mut events = Vec::new();
    for step in 0.. {
        assert!(step < 10_000, "the engine does not come to an end");
        while let Some(&i) = order.get(come).filter(|i| schedule.visits[**i].arrives <= step) {
            let visit = &schedule.visits[i];
            ids.extend(engine.submit_many(&visit.request(), visit.answers).unwrap());
            whose.resize(ids.len(), i);
            come += 1;
        }
        for (&id, &i) in ids.iter().zip(&whose) {
            let visit = &schedule.visits[i];
            if visit.stays.is_some_and(|stays| visit.arrives + stays == step) {
                engine.cancel(id, &mut events);
            }
        }
        let step = engine.step(&mut events);
        met.preempted.fetch_add(step.preempted, Ordering::Relaxed);
        met.accepted.fetch_add(step.accepted, Ordering::Relaxed);
        met.rejected.fetch_add(step.proposed - step.accepted, Ordering::Relaxed);
        sort(&mut events, &ids, &mut answers);
        if come == order.len() && engine.is_idle() {
            break;
        }
    }
    assert_eq!(engine.available_pages(), pages, "pages are lost");
    let mut by_visit: Vec<_> = whose.into_iter().zip(answers).collect();
    by_visit.sort_by_key(|(i, _)| *i);
    by_visit.into_iter().map(|(_, answer)| answer).collect()
}

/// The comparison of this page: the first place where answers differ in a bit. A cancelled request
/// got the beginning of its answer.
fn difference(got: &[Answer], wanted: &[Answer]) -> Option<String> {
    for (i, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        let n = got.ids.len();
        let cancelled = matches!(got.end, Some((Finish::Cancelled, _)));
        if n > wanted.ids.len() || (n < wanted.ids.len() && !cancelled) {
            return Some(format!("request {i}: {n} tokens, alone {}", wanted.ids.len()));
        }
        for t in 0..n {
            if (got.ids[t], &got.bits[t]) != (wanted.ids[t], &wanted.bits[t]) {
                let (a, b) = ((got.ids[t], &got.bits[t]), (wanted.ids[t], &wanted.bits[t]));
                return Some(format!("request {i}, token {t}: {a:x?}, alone {b:x?}"));
            }
        }
        if !cancelled && got.finish() != wanted.finish() {
            return Some(format!("request {i}: {:?}, alone {:?}", got.finish(), wanted.finish()));
        }
    }
    None
}

#[test]
fn a_request_gets_the_same_bits_in_any_company_chunk_page_prefix_and_thread_count() {
    let met = Met::default();
    let config = Config { cases: 60, failure_persistence: None, ..Config::default() };
    let checked = TestRunner::new(config).run(&schedule(), |s| {
        let (name, checkpoint) = &models()[s.model];
        let class = Class::available()[s.class];
        let requests: Vec<Request> = s.visits.iter().flat_map(Visit::requests).collect();
        let wanted = alone(&load(checkpoint, class, 1, CONTEXT), s.kv, &requests);
        let Schedule { batch, page_len, parallel, kv, .. } = s;
        let positions = s.tight.then_some(CONTEXT);
        let limits = Limits { context: CONTEXT, parallel, batch, page_len, kv, positions };
        let got = together(&load(checkpoint, class, s.threads, CONTEXT), &s, limits, &met);
        for answer in &got {
            met.hits.fetch_add(usize::from(answer.usage().cached > 0), Ordering::Relaxed);
            let gone = *answer.finish() == Finish::Cancelled;
            met.cancelled.fetch_add(gone.into(), Ordering::Relaxed);
        }
        match difference(&got, &wanted) {
            None => Ok(()),
            Some(text) => Err(TestCaseError::fail(format!("{name}, {class}: {text}"))),
        }
    });
    checked.unwrap_or_else(|error| panic!("{error}"));
    let counts = [met.hits, met.cancelled, met.preempted, met.accepted, met.rejected];
    let counts = counts.map(AtomicUsize::into_inner);
    assert!(
        counts.iter().all(|&n| n > 0),
        "hits of prefixes, cancelled, preempted, accepted, rejected: {counts:?}"
    );
}

/// A request's answer from log-probabilities of its own tokens: scoring, in pieces of `chunk`.
fn scored(tokens: &[u32], mut logits: impl FnMut(usize) -> Vec<f32>) -> Answer {
    let mut answer = Answer::default();
    for (t, &next) in tokens[1..].iter().enumerate() {
        answer.ids.push(next);
        answer.bits.push(vec![log_prob(&logits(t), next).to_bits()]);
    }
    answer.end = Some((Finish::Length, Default::default()));
    answer
}

/// Whether scoring by `logits(tokens, chunk, position)` has the same bits for every chunk.
fn holds(mut logits: impl FnMut(&[u32], usize, usize) -> Vec<f32>) -> bool {
    let tokens: Vec<u32> = (0..40).map(|i| (i * i % 60) as u32).collect();
    let wanted = scored(&tokens, |t| logits(&tokens, 1, t));
    [2, 3, 7, 16, 40].into_iter().all(|chunk| {
        let got = scored(&tokens, |t| logits(&tokens, chunk, t));
        difference(&[got], std::slice::from_ref(&wanted)).is_none()
    })
}

/// A number for each pair, of the size of activations.
fn number(a: usize, b: usize) -> f32 {
    ((a * 7919 + b * 104_729) % 1009) as f32 / 1009.0 - 0.5
}

/// Row `t` of a product of 64 columns, which a fault sums in two halves when its chunk is large.
fn product(tokens: &[u32], chunk: usize, t: usize, fault: bool) -> Vec<f32> {
    let rows = chunk.min(tokens.len() - t / chunk * chunk);
    let x = |k: usize| number(tokens[t] as usize, k);
    let dot = |v: usize, from: usize, to: usize| {
        (from..to).fold(0.0f32, |sum, k| sum + x(k) * number(k, v))
    };
    let whole = |v| dot(v, 0, 64);
    let halves = |v| dot(v, 0, 32) + dot(v, 32, 64);
    (0..60).map(|v| if fault && rows > 4 { halves(v) } else { whole(v) }).collect()
}

/// Attention of row `t` in blocks of 8 keys, which a fault counts from the start of the chunk.
fn attention(tokens: &[u32], chunk: usize, t: usize, fault: bool) -> Vec<f32> {
    let first = if fault { t / chunk * chunk % 8 } else { 0 };
    let score = |j: usize| number(tokens[t] as usize, tokens[j] as usize + j);
    let value = |j: usize, v: usize| number(tokens[j] as usize, v + 100);
    let (mut all, mut weight) = (vec![0.0f32; 60], 0.0f32);
    let mut from = 0;
    while from <= t {
        let to = (((from + 8 - first) / 8) * 8 + first).min(t + 1);
        let (mut o, mut l) = (vec![0.0f32; 60], 0.0f32);
        for j in from..to {
            let w = (4.0 * score(j)).exp();
            l += w;
            o.iter_mut().enumerate().for_each(|(v, o)| *o += w * value(j, v));
        }
        weight += l;
        all.iter_mut().zip(o).for_each(|(all, o)| *all += o);
        from = to;
    }
    all.into_iter().map(|x| x / weight).collect()
}

#[test]
fn the_comparison_catches_sums_that_depend_on_the_batch() {
    assert!(holds(|tokens, chunk, t| product(tokens, chunk, t, false)));
    assert!(!holds(|tokens, chunk, t| product(tokens, chunk, t, true)), "halves for large batches");
    assert!(holds(|tokens, chunk, t| attention(tokens, chunk, t, false)));
    assert!(!holds(|tokens, chunk, t| attention(tokens, chunk, t, true)), "blocks of the chunk");
}

#[test]
fn the_comparison_catches_an_engine_that_chooses_kernels_by_batch_size() {
    let [few, .., many] = Class::available()[..] else { return };
    let (_, checkpoint) = &models()[0];
    let requests = [visit_of(150).request(), visit_of(90).request()];
    let kv = KvFormat::F32;
    let wanted = alone(&load(checkpoint, few, 1, CONTEXT), kv, &requests);
    for batch in [1, 4, 5, 64] {
        // The fault: another class's kernels, whose sums have another order, for more than 4 rows.
        let class = if batch > 4 { many } else { few };
        let model = load(checkpoint, class, 1, CONTEXT);
        let limits = Limits { batch, kv, ..Limits::single(CONTEXT) };
        let mut engine = Engine::new(model, None, limits);
        let ids = requests.clone().map(|request| engine.submit(request).unwrap());
        let caught = difference(&finish(&mut engine, &ids), &wanted).is_some();
        assert_eq!(caught, batch > 4, "batches of {batch}");
    }
}

fn visit_of(shared: usize) -> Visit {
    let own = vec![3, 1, 4, 1, 5];
    Visit {
        shared,
        own,
        max_tokens: 8,
        temperature: 1.0,
        seed: 5,
        answers: 1,
        priority: 0,
        tenant: 0,
        arrives: 0,
        stays: None,
    }
}

#[test]
fn scorer_and_engine_agree_in_every_class() {
    for (name, checkpoint) in models() {
        for class in Class::available() {
            let model = load(checkpoint, class, 2, CONTEXT);
            let request = visit_of(60).request();
            let answer = alone(&model, KvFormat::F16, std::slice::from_ref(&request)).remove(0);
            let tokens = [&request.prompt[..], &answer.ids[..]].concat();
            for batch in [1, 13, 400] {
                let mut scorer = Scorer::new(&model, CONTEXT, batch, KvFormat::F16);
                let scores = scorer.log_probs(&tokens, request.prompt.len() - 1);
                let scores: Vec<u64> = scores.iter().map(|p| p.to_bits()).collect();
                let chosen: Vec<u64> = answer.bits.iter().map(|bits| bits[0]).collect();
                assert_eq!(scores, chosen, "{name}, {class}, batches of {batch}");
            }
        }
    }
}

#[test]
fn log_probabilities_of_a_prompt_are_those_of_the_scorer_in_any_company() {
    let (_, checkpoint) = &models()[0];
    let model = load(checkpoint, Class::best(), 2, CONTEXT);
    let mut asked = visit_of(60).request();
    asked.prompt_log_probs = Some(0);
    let mut scorer = Scorer::new(&model, CONTEXT, 16, KvFormat::F16);
    let scores = scorer.log_probs(&asked.prompt, 0);
    for (batch, parallel) in [(1, 1), (7, 3), (512, 2)] {
        let limits = Limits { batch, parallel, page_len: 16, ..Limits::single(CONTEXT) };
        let mut engine = Engine::new(Arc::clone(&model), None, limits);
        // The pages of the first are known when the second comes, and yet it is computed whole.
        let ids = [visit_of(60).request(), asked.clone(), visit_of(90).request(), asked.clone()]
            .map(|request| engine.submit(request).unwrap());
        let answers = finish(&mut engine, &ids);
        for answer in [&answers[1], &answers[3]] {
            assert_eq!(answer.usage().cached, 0);
            let read: Vec<u32> = answer.prompt.iter().map(|token| token.id).collect();
            assert_eq!(read, asked.prompt);
            let said: Vec<Option<u64>> =
                answer.prompt.iter().map(|t| t.said.as_ref().map(|s| s.0.to_bits())).collect();
            let wanted = scores.iter().map(|score| Some(score.to_bits()));
            assert_eq!(said, [None].into_iter().chain(wanted).collect::<Vec<_>>());
            assert!(answer.prompt[1..].iter().all(|t| t.said.as_ref().unwrap().1.len() == 3));
            assert_eq!((&answer.ids, &answer.bits), (&answers[0].ids, &answers[0].bits));
        }
    }
}

#[test]
fn log_probabilities_from_a_place_on_are_those_of_the_whole_and_share_what_stands_before() {
    let (_, checkpoint) = &models()[0];
    let model = load(checkpoint, Class::best(), 2, CONTEXT);
    let whole = visit_of(200).request();
    let tokens = whole.prompt.len();
    let scores = Scorer::new(&model, CONTEXT, 16, KvFormat::F16).log_probs(&whole.prompt, 0);
    let froms = [1, 16, 17, 40, 192, 193, tokens - 1, tokens, tokens + 9];
    for (batch, parallel, positions) in [(1, 1, Some(4096)), (7, 3, Some(CONTEXT)), (512, 9, None)]
    {
        let limits = Limits { batch, parallel, positions, page_len: 16, ..Limits::single(CONTEXT) };
        let mut engine = Engine::new(Arc::clone(&model), None, limits);
        let asked = froms.map(|from| {
            engine.submit(Request { prompt_log_probs: Some(from), ..whole.clone() }).unwrap()
        });
        let answers = finish(&mut engine, &asked);
        for (answer, from) in answers.iter().zip(froms) {
            let wanted: Vec<(u32, u64)> =
                (from..tokens).map(|at| (whole.prompt[at], scores[at - 1].to_bits())).collect();
            let said = answer.prompt.iter().map(|t| (t.id, t.said.as_ref().unwrap().0.to_bits()));
            assert_eq!(said.collect::<Vec<_>>(), wanted, "from {from}, batches of {batch}");
            assert_eq!((&answer.ids, &answer.bits), (&answers[0].ids, &answers[0].bits));
        }
        // What stands before the token that the place follows, where it is enough, and no more.
        if parallel == 1 {
            let cached: Vec<usize> = answers.iter().map(|answer| answer.usage().cached).collect();
            let before = froms.map(|from| from.min(tokens).saturating_sub(1));
            let wanted = before.map(|n| if n % 16 < 4 { n / 16 * 16 } else { n });
            assert_eq!(cached, wanted);
        }
    }
}
