//! A prompt's vector is the mean of the model's own hidden states, with the same bits alone, among answers, in
//! pieces and over a warm cache.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{gguf, load, wide_config};
use herd_engine::sample::Sampling;
use herd_engine::{Engine, Finish, Limits, Request, RequestError, RequestId, What};
use herd_model::llama::{Batch, Llama};
use herd_tensor::ops::KvCache;
use herd_tensor::{Class, Format, KvShape, Sequence};

const CONTEXT: usize = 96;

fn model() -> Arc<Llama> {
    load(&gguf(&wide_config(), Format::Q4_0, |_, _| {}), Class::best(), 1, CONTEXT)
}

/// The mean of the hidden states that the model's page gives for a whole prompt.
fn mean(model: &Llama, prompt: &[u32]) -> Vec<f32> {
    let config = model.config();
    let (kv_heads, head_dim) = (config.kv_heads, config.head_dim);
    let format = Limits::single(CONTEXT).kv;
    let shape = KvShape { format, page_len: CONTEXT, kv_heads, head_dim };
    let mut cache = KvCache::new(shape, config.layers, 1);
    let positions: Vec<u32> = (0..prompt.len() as u32).collect();
    let sequence = Sequence { row: 0, rows: prompt.len(), past: 0, pages: &[0] };
    let batch = Batch { tokens: prompt, positions: &positions, sequences: &[sequence] };
    let x_td = model.forward(&batch, &mut cache);
    let column = |d: usize| (0..prompt.len()).map(|t| f64::from(x_td.row(t)[d])).sum::<f64>();
    (0..config.width).map(|d| (column(d) / prompt.len() as f64) as f32).collect()
}

/// The vectors and the tokens of requests that run together.
fn together(engine: &mut Engine, requests: &[Request]) -> Vec<(Vec<f32>, Vec<u32>)> {
    let ids: Vec<RequestId> =
        requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
    let mut got: BTreeMap<RequestId, (Vec<f32>, Vec<u32>)> = BTreeMap::new();
    let mut events = Vec::new();
    while !engine.is_idle() {
        engine.step(&mut events);
        for event in events.drain(..) {
            let own = got.entry(event.id).or_default();
            match event.what {
                What::Embedding(x_d) => own.0 = x_d,
                What::Token(token) => own.1.push(token.id),
                What::Prompt(_) => {}
                What::End { finish, .. } => assert_eq!(finish, Finish::Length),
            }
        }
    }
    ids.iter().map(|id| got.remove(id).unwrap()).collect()
}

#[test]
fn a_vector_is_the_mean_of_the_models_own_hidden_states_in_any_company() {
    let model = model();
    let prompts: Vec<Vec<u32>> =
        [1, 17, 40, CONTEXT].map(|n| (0..n as u32).map(|i| (7 * i + 3) % 80).collect()).into();
    let answer = Request {
        max_tokens: Some(30),
        ..Request::new(vec![5; 20], Sampling { temperature: 1.0, seed: 3, ..Sampling::GREEDY })
    };
    let mut alone = Engine::new(Arc::clone(&model), None, Limits::single(CONTEXT));
    let said = together(&mut alone, std::slice::from_ref(&answer)).remove(0).1;
    assert_eq!(said.len(), 30);
    for (batch, page_len) in [(512, 64), (7, 16), (33, 32)] {
        let limits = Limits { parallel: 4, batch, page_len, ..Limits::single(CONTEXT) };
        let mut engine = Engine::new(Arc::clone(&model), None, limits);
        let mut requests: Vec<Request> = prompts.iter().cloned().map(Request::embedding).collect();
        requests.insert(1, answer.clone());
        for round in ["cold", "warm"] {
            let mut got = together(&mut engine, &requests);
            assert_eq!(got.remove(1).1, said, "batch {batch} {round}");
            for (prompt, (x_d, tokens)) in prompts.iter().zip(got) {
                assert_eq!(x_d, mean(&model, prompt), "batch {batch} {round} {}", prompt.len());
                assert!(tokens.is_empty());
            }
        }
    }
}

#[test]
fn a_prompt_beyond_the_context_has_no_vector() {
    let mut engine = Engine::new(model(), None, Limits::single(CONTEXT));
    let long = Request::embedding(vec![1; CONTEXT + 1]);
    let error = RequestError::Context { tokens: CONTEXT + 1, context: CONTEXT };
    assert_eq!(engine.submit(long), Err(error));
    assert_eq!(engine.submit(Request::embedding(Vec::new())), Err(RequestError::Empty));
}
