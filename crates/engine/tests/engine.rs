//! What a request is promised: limits, stops, seeds, shared beginnings, freed pages, refusals.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{Answer, finish, gguf, load, sort, wide_config};
use herd_codec::{Controls, TokenId, Tokenizer};
use herd_engine::sample::{SampleError, Sampling};
use herd_engine::{Engine, Finish, Limits, Load, Request, RequestError, RequestId};
use herd_model::Checkpoint;
use herd_model::llama::Llama;
use herd_tensor::{Class, Format};

fn model() -> Arc<Llama> {
    let checkpoint = Checkpoint::open(common::files::recorded("llama2_gqa")).unwrap();
    load(&checkpoint, Class::best(), 2, 128)
}

/// A tokenizer whose first tokens are single letters, signs and parts of UTF-8.
fn tokenizer() -> Arc<Tokenizer> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tokenizer/small.json");
    let json = std::fs::read(path).unwrap();
    Arc::new(Tokenizer::from_tokenizer_json(&json).unwrap())
}

fn sampled(seed: u64) -> Sampling {
    Sampling { temperature: 1.0, seed, ..Sampling::GREEDY }
}

fn request(prompt: &[u32], max_tokens: usize) -> Request {
    Request { max_tokens: Some(max_tokens), ..Request::new(prompt.to_vec(), sampled(3)) }
}

fn ask(engine: &mut Engine, request: Request) -> Answer {
    let id = engine.submit(request).unwrap();
    finish(engine, &[id]).remove(0)
}

#[test]
fn one_seed_gives_one_answer_whatever_the_company() {
    let limits = Limits { parallel: 3, batch: 5, ..Limits::single(64) };
    let with_seed = |seed| Request { sampling: sampled(seed), ..request(&[5, 6, 7], 20) };
    let mut engine = Engine::new(model(), None, limits);
    let ids = [1, 2, 1, 1].map(|seed| engine.submit(with_seed(seed)).unwrap());
    let answers = finish(&mut engine, &ids);
    assert_eq!(answers[0].ids, answers[2].ids);
    assert_eq!(answers[0].ids, answers[3].ids);
    assert_ne!(answers[0].ids, answers[1].ids);
}

#[test]
fn an_answer_ends_at_its_limit_or_with_the_context() {
    let mut engine = Engine::new(model(), None, Limits::single(24));
    let pages = engine.available_pages();
    for (max_tokens, generated) in
        [(Some(0), 0), (Some(1), 1), (Some(5), 5), (Some(99), 21), (None, 21)]
    {
        let answer = ask(&mut engine, Request { max_tokens, ..request(&[1, 2, 3], 0) });
        assert_eq!(answer.finish(), &Finish::Length, "{max_tokens:?}");
        assert_eq!((answer.ids.len(), answer.usage().generated), (generated, generated));
        assert_eq!(answer.usage().prompt, 3);
        assert_eq!(engine.available_pages(), pages);
    }
}

#[test]
fn requests_that_end_together_end_alone_whatever_their_places() {
    // In one step the second chooses before the first, which is still a prompt: both end, the third goes on.
    let (first, second, third) = (request(&[1, 2, 3], 1), request(&[1], 1), request(&[4, 5], 6));
    let wanted = [&first, &second, &third]
        .map(|one| ask(&mut Engine::new(model(), None, Limits::single(24)), one.clone()).ids);
    let mut engine = Engine::new(model(), None, Limits { parallel: 3, ..Limits::single(24) });
    let ids = [first, second, third].map(|one| engine.submit(one).unwrap());
    let got: Vec<Vec<u32>> = finish(&mut engine, &ids).into_iter().map(|a| a.ids).collect();
    assert_eq!(got, wanted);
}

#[test]
fn a_stop_token_ends_the_answer_and_counts() {
    let mut engine = Engine::new(model(), Some(tokenizer()), Limits::single(64));
    let free = ask(&mut engine, request(&[1, 2, 3], 12));
    let last = free.ids[4];
    let at = free.ids.iter().position(|&id| id == last).unwrap();
    let stopped =
        ask(&mut engine, Request { stop_tokens: vec![90, last], ..request(&[1, 2, 3], 12) });
    assert_eq!(stopped.finish(), &Finish::StopToken(last));
    assert_eq!(stopped.ids, free.ids[..=at]);
    assert_eq!(stopped.usage().generated, at + 1);
    let before: Vec<TokenId> = free.ids[..at].iter().map(|&id| TokenId(id)).collect();
    let text = tokenizer().decode_with(&before, Controls::Hide);
    assert_eq!(stopped.text, String::from_utf8_lossy(&text));
}

#[test]
fn stop_strings_end_the_answer_wherever_tokens_cut_them() {
    let mut engine = Engine::new(model(), Some(tokenizer()), Limits::single(64));
    let free = ask(&mut engine, request(&[9, 8, 7], 40));
    let letters: Vec<(usize, char)> = free.text.char_indices().collect();
    assert!(letters.len() > 20, "{:?}", free.text);
    for (start, len) in [(0, 1), (3, 2), (5, 4), (12, 6)] {
        let stop: String = letters[start..start + len].iter().map(|&(_, c)| c).collect();
        let at = free.text.find(&stop).unwrap();
        let stops = vec!["no such text".to_owned(), stop.clone()];
        let answer = ask(&mut engine, Request { stop: stops, ..request(&[9, 8, 7], 40) });
        assert_eq!(answer.finish(), &Finish::StopString(stop.clone()));
        assert_eq!(answer.text, free.text[..at], "stop {stop:?}");
        assert!(answer.ids.len() < 40 && free.ids.starts_with(&answer.ids));
    }
    // What could have begun a stop string is given out at the end.
    let last: String =
        free.text.chars().rev().take(2).collect::<Vec<_>>().into_iter().rev().collect();
    let stops = vec![format!("{last}!?")];
    assert_eq!(
        ask(&mut engine, Request { stop: stops, ..request(&[9, 8, 7], 40) }).text,
        free.text
    );
}

#[test]
fn a_cancelled_request_frees_its_pages_wherever_it_was() {
    let limits = Limits { parallel: 2, batch: 16, page_len: 16, ..Limits::single(64) };
    let mut engine = Engine::new(model(), None, limits);
    let pages = engine.available_pages();
    assert_eq!(pages, limits.pages());
    let prompt: Vec<u32> = (0..50).collect();
    // The first answers, the second is read, the third waits.
    let ids = [&[1u32][..], &prompt, &prompt].map(|p| engine.submit(request(p, 10)).unwrap());
    let mut answers = vec![Answer::default(); 3];
    let mut events = Vec::new();
    engine.step(&mut events);
    engine.step(&mut events);
    assert!(engine.available_pages() < pages);
    for id in ids {
        engine.cancel(id, &mut events);
        engine.cancel(id, &mut events); // a second time changes nothing
    }
    sort(&mut events, &ids, &mut answers);
    assert!(answers.iter().all(|answer| *answer.finish() == Finish::Cancelled));
    let tokens: Vec<usize> = answers.iter().map(|answer| answer.ids.len()).collect();
    assert_eq!(tokens, [2, 0, 0]);
    assert!(engine.is_idle());
    assert_eq!(engine.available_pages(), pages);
}

#[test]
fn a_shared_beginning_is_taken_from_the_cache() {
    let limits = Limits { page_len: 16, positions: Some(512), ..Limits::single(128) };
    let mut engine = Engine::new(model(), None, limits);
    let first: Vec<u32> = (0..40).collect();
    let answer = ask(&mut engine, request(&first, 30));
    assert_eq!(answer.usage().cached, 0);
    // The same again: two whole pages and a part of the third; the last token is always computed.
    assert_eq!(ask(&mut engine, request(&first, 3)).usage().cached, 39);
    assert_eq!(ask(&mut engine, request(&first[..32], 3)).usage().cached, 31);
    // Too little of the second page is the same for it to be copied.
    let little = [&first[..19], &[90; 10]].concat();
    assert_eq!(ask(&mut engine, request(&little, 3)).usage().cached, 16);
    let enough = [&first[..20], &[91; 10]].concat();
    assert_eq!(ask(&mut engine, request(&enough, 3)).usage().cached, 20);
    // The next turn of a chat: what was answered is in the cache as well.
    let turn = [&first[..], &answer.ids, &[1, 2, 3]].concat();
    assert_eq!(ask(&mut engine, request(&turn, 3)).usage().cached, 69);
    // Another beginning shares nothing, though its second page has the same tokens.
    let other: Vec<u32> = (1..17).chain(16..40).collect();
    assert_eq!(ask(&mut engine, request(&other, 3)).usage().cached, 0);
}

#[test]
fn prompts_and_settings_that_cannot_be_honoured_are_refused() {
    let mut engine = Engine::new(model(), None, Limits::single(24));
    let refused = |engine: &mut Engine, request| engine.submit(request).unwrap_err();
    assert_eq!(refused(&mut engine, request(&[], 1)), RequestError::Empty);
    let error = RequestError::Context { tokens: 24, context: 24 };
    assert_eq!(refused(&mut engine, request(&[1; 24], 1)), error);
    let error = RequestError::Vocabulary { id: 101, at: 1, vocab: 101 };
    assert_eq!(refused(&mut engine, request(&[1, 101, 500], 1)), error);
    let sampling = Sampling { temperature: f32::NAN, ..Sampling::GREEDY };
    let error = refused(&mut engine, Request { sampling, ..request(&[1], 1) });
    assert!(matches!(
        error,
        RequestError::Sampling(SampleError::Field { name: "temperature", .. })
    ));
    let sampling = Sampling { logit_bias: vec![(101, 1.0)], ..Sampling::GREEDY };
    let error = refused(&mut engine, Request { sampling, ..request(&[1], 1) });
    assert!(matches!(error, RequestError::Sampling(SampleError::BiasToken { id: 101, .. })));
    let stop = vec![String::new()];
    let error = refused(&mut engine, Request { stop, ..request(&[1], 1) });
    assert!(matches!(error, RequestError::Stop(_)));
    assert!(engine.is_idle());
    assert_eq!(ask(&mut engine, request(&[1; 23], 5)).ids.len(), 1);
}

#[test]
fn forbidding_every_token_fails_the_request_alone() {
    let limits = Limits { parallel: 2, ..Limits::single(64) };
    let mut engine = Engine::new(model(), None, limits);
    let logit_bias = (0..101).map(|id| (id, f32::NEG_INFINITY)).collect();
    let sampling = Sampling { logit_bias, ..Sampling::GREEDY };
    let ids = [
        engine.submit(Request { sampling, ..request(&[1], 4) }).unwrap(),
        engine.submit(request(&[1], 4)).unwrap(),
    ];
    let answers = finish(&mut engine, &ids);
    assert_eq!(answers[0].finish(), &Finish::Failed(SampleError::NoToken));
    assert_eq!((answers[1].finish(), answers[1].ids.len()), (&Finish::Length, 4));
}

#[test]
#[should_panic(expected = "engine: at least one request and one token a step")]
fn limits_under_which_nothing_would_ever_happen_are_a_mistake() {
    Engine::new(model(), None, Limits { batch: 0, ..Limits::single(24) });
}

#[test]
fn a_model_with_more_rows_than_its_tokenizer_has_tokens_answers() {
    // 1200 rows, 959 tokens; the bias makes rows without a token the only choice.
    let config = herd_model::Config { vocab: 1200, ..wide_config() };
    let model = load(&gguf(&config, Format::Q8_0, |_, _| {}), Class::best(), 2, 64);
    let mut engine = Engine::new(model, Some(tokenizer()), Limits::single(64));
    let logit_bias = (0..1000).map(|id| (id, f32::NEG_INFINITY)).collect();
    let sampling = Sampling { logit_bias, ..sampled(1) };
    let answer = ask(&mut engine, Request { sampling, ..request(&[1, 2], 5) });
    assert!(answer.ids.iter().all(|&id| id >= 1000));
    assert_eq!((answer.ids.len(), answer.text.as_str()), (5, ""));
}

/// Steps until nothing is left to do; the answers, and the tokens of prompts that were computed.
fn finish_counting(engine: &mut Engine, ids: &[RequestId]) -> (Vec<Answer>, usize) {
    let (mut answers, mut events) = (vec![Answer::default(); ids.len()], Vec::new());
    let mut computed = 0;
    while !engine.is_idle() {
        computed += engine.step(&mut events).prompt;
        sort(&mut events, ids, &mut answers);
    }
    (answers, computed)
}

#[test]
fn many_answers_are_those_of_requests_of_their_streams_and_share_the_prompts_pages() {
    let prompt: Vec<u32> = (0..75).map(|i| i * 13 % 101).collect();
    let asked = Request { log_probs: Some(2), nats: true, ..request(&prompt, 12) };
    for (parallel, batch, n) in [(8, 256, 8), (3, 20, 7), (1, 7, 4), (8, 64, 3)] {
        let limits = Limits { parallel, batch, page_len: 16, ..Limits::single(96) };
        let mut engine = Engine::new(model(), None, limits);
        let pages = engine.available_pages();
        let ids = engine.submit_many(&asked, n).unwrap();
        let (answers, computed) = finish_counting(&mut engine, &ids);
        // All is shared but the last token, which each answer computes for its logits.
        assert_eq!(computed, 75 + n - 1, "parallel {parallel}");
        assert_eq!(engine.available_pages(), pages);
        for (i, answer) in answers.iter().enumerate() {
            let mut alone = asked.clone();
            alone.sampling.stream = i as u64;
            let mut engine = Engine::new(model(), None, Limits::single(96));
            let alone = ask(&mut engine, alone);
            assert_eq!((&answer.ids, &answer.bits), (&alone.ids, &alone.bits), "answer {i}");
            assert_eq!(answer.usage().cached, if i == 0 { 0 } else { 74 });
        }
        assert!((1..n).all(|i| answers[i].ids != answers[0].ids), "the streams are the same");
    }
}

#[test]
fn answers_outlive_the_one_that_was_to_compute_their_prompt() {
    let prompt: Vec<u32> = (0..75).collect();
    let limits = Limits { parallel: 4, batch: 20, page_len: 16, ..Limits::single(96) };
    let whole = {
        let mut engine = Engine::new(model(), None, limits);
        let ids = engine.submit_many(&request(&prompt, 12), 4).unwrap();
        finish(&mut engine, &ids)
    };
    for steps in 0..12 {
        let mut engine = Engine::new(model(), None, limits);
        let pages = engine.available_pages();
        let ids = engine.submit_many(&request(&prompt, 12), 4).unwrap();
        let (mut answers, mut events) = (vec![Answer::default(); 4], Vec::new());
        for _ in 0..steps {
            engine.step(&mut events);
        }
        engine.cancel(ids[0], &mut events);
        while !engine.is_idle() {
            engine.step(&mut events);
        }
        sort(&mut events, &ids, &mut answers);
        let said = |answers: &[Answer]| -> Vec<Vec<u32>> {
            answers[1..].iter().map(|answer| answer.ids.clone()).collect()
        };
        assert_eq!(said(&answers), said(&whole), "cancelled after {steps} steps");
        assert_eq!(engine.available_pages(), pages);
    }
}

#[test]
fn a_prompt_for_no_answers_or_that_is_refused_leaves_nothing_behind() {
    let mut engine = Engine::new(model(), None, Limits::single(24));
    let refused = engine.submit_many(&request(&[1], 1), 0).unwrap_err();
    assert_eq!(refused, RequestError::NoAnswer);
    assert!(engine.submit_many(&request(&[1; 30], 1), 3).is_err());
    assert!(engine.is_idle());
}

#[test]
fn requests_with_a_common_beginning_wait_for_its_pages_and_no_longer() {
    let limits = Limits { parallel: 3, batch: 32, page_len: 16, ..Limits::single(96) };
    let mut engine = Engine::new(model(), None, limits);
    let (first, second): (Vec<u32>, Vec<u32>) =
        ((0..80).collect(), (0..20).chain(40..60).collect());
    let ids = [&first[..], &second, &[7, 8]].map(|p| engine.submit(request(p, 4)).unwrap());
    let (answers, computed) = finish_counting(&mut engine, &ids);
    let cached = [0, 1, 2].map(|i| answers[i].usage().cached);
    assert_eq!((cached, computed), ([0, 20, 0], 80 + 20 + 2));
}

#[test]
fn a_cache_smaller_than_all_contexts_makes_requests_wait_and_loses_none() {
    let small = Limits { parallel: 4, page_len: 16, positions: Some(64), ..Limits::single(64) };
    assert_eq!(small.pages(), 4);
    // A cache of less than one context has one context.
    assert_eq!(Limits { positions: Some(1), ..small }.pages(), 4);
    let mut engine = Engine::new(model(), None, small);
    let asked: Vec<Request> = (0..6).map(|i| request(&[i, 2, 3], 40)).collect();
    let ids: Vec<RequestId> = asked.iter().map(|r| engine.submit(r.clone()).unwrap()).collect();
    engine.step(&mut Vec::new());
    assert_eq!(engine.load(), Load { running: 2, waiting: 4, pages_held: 2, pages: 4 });
    let mut engine = Engine::new(model(), None, small);
    let again: Vec<RequestId> = asked.iter().map(|r| engine.submit(r.clone()).unwrap()).collect();
    assert_eq!(again, ids);
    let answers = finish(&mut engine, &again);
    assert!(answers.iter().all(|answer| answer.ids.len() == 40));
    assert_eq!(engine.load(), Load { pages: 4, ..Load::default() });
}
