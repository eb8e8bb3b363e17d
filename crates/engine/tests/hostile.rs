//! Broken weights: a request fails with the number that offends, or its log-probabilities are NaN;
//! nothing panics, hangs, or reaches another request.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;

use std::sync::Arc;

use common::{finish, gguf, load, wide_config};
use herd_engine::sample::{SampleError, Sampling};
use herd_engine::score::Scorer;
use herd_engine::{Engine, Finish, Limits, Request};
use herd_model::Config;
use herd_model::llama::Llama;
use herd_model::names::Part;
use herd_tensor::{Class, Format, KvFormat};

/// The one token of which the embedding is broken.
const BROKEN: u32 = 7;

/// Many models are made here, so they are small.
fn config() -> Config {
    Config { width: 64, head_dim: 16, ffn_width: 96, vocab: 40, ..wide_config() }
}

/// A model in which the first number of `part` (of token 7 in the embedding) has these bits.
fn broken(part: Part, bits: u32, format: Format, class: Class) -> Arc<Llama> {
    let config = config();
    let checkpoint = gguf(&config, format, |at, bytes| {
        if at != part {
            return;
        }
        let rows = part.shape(&config)[0];
        let row = if part == Part::TokEmbd { BROKEN as usize } else { 0 };
        let from = row * (bytes.len() / rows);
        match (format, part.shape(&config).len()) {
            (Format::F32, _) | (_, 1) => bytes[from..from + 4].copy_from_slice(&bits.to_le_bytes()),
            // The scale of the first block, in f16: NaN and infinities keep their upper bits.
            _ => bytes[from..from + 2].copy_from_slice(&half(bits).to_le_bytes()),
        }
    });
    load(&checkpoint, class, 2, 64)
}

/// Bits of a special f32 number as bits of the f16.
fn half(bits: u32) -> u16 {
    let x = f32::from_bits(bits);
    if x.is_nan() { 0x7e00 } else { 0x7c00 | (bits >> 16) as u16 & 0x8000 }
}

const SPECIAL: [f32; 3] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

#[test]
fn broken_weights_fail_a_request_and_nothing_else() {
    let parts = [Part::AttnNorm(0), Part::Q(0), Part::V(0), Part::Down(0), Part::Output];
    for class in Class::available() {
        for format in [Format::F32, Format::Q8_0, Format::Q4_0] {
            for (part, x) in parts.into_iter().flat_map(|p| SPECIAL.map(|x| (p, x))) {
                let model = broken(part, x.to_bits(), format, class);
                let mut engine = Engine::new(Arc::clone(&model), None, Limits::single(64));
                for sampling in [Sampling::GREEDY, Sampling::LLAMA] {
                    let prompt = (1..20).collect();
                    let request = Request { max_tokens: Some(4), ..Request::new(prompt, sampling) };
                    let id = engine.submit(request).unwrap();
                    let answer = finish(&mut engine, &[id]).remove(0);
                    // Minus infinity in the head is a token that cannot be chosen, no more.
                    let fine = matches!(
                        answer.finish(),
                        Finish::Length
                            | Finish::Failed(SampleError::Logit { .. } | SampleError::NoToken)
                    );
                    assert!(fine, "{class}, {part:?} {x}: {:?}", answer.finish());
                }
                let mut scorer = Scorer::new(&model, 64, 8, KvFormat::F16);
                let scores = scorer.log_probs(&(1..20).collect::<Vec<u32>>(), 0);
                assert_eq!(scores.len(), 18);
                assert!(scores.iter().all(|p| p.is_nan() || *p <= 0.0), "{part:?} {x}: {scores:?}");
            }
        }
    }
}

#[test]
fn a_broken_token_fails_its_own_request_and_no_other() {
    for class in Class::available() {
        let model = broken(Part::TokEmbd, f32::NAN.to_bits(), Format::F32, class);
        let limits = Limits { parallel: 2, page_len: 16, ..Limits::single(64) };
        let ask = |engine: &mut Engine, prompt: &[u32]| {
            let request = Request::new(prompt.to_vec(), Sampling::GREEDY);
            engine.submit(Request { max_tokens: Some(3), log_probs: Some(1), ..request }).unwrap()
        };
        let healthy: Vec<u32> = (10..30).collect();
        let mut engine = Engine::new(Arc::clone(&model), None, limits);
        let id = ask(&mut engine, &healthy);
        let alone = finish(&mut engine, &[id]).remove(0);
        // Beside a broken request, and after it in pages that hold its NaN.
        let mut engine = Engine::new(Arc::clone(&model), None, limits);
        for _ in 0..3 {
            let ids = [ask(&mut engine, &[1, BROKEN, 2]), ask(&mut engine, &healthy)];
            let answers = finish(&mut engine, &ids);
            assert!(matches!(answers[0].finish(), Finish::Failed(SampleError::Logit { .. })));
            assert_eq!(answers[1].bits, alone.bits, "{class}");
        }
    }
}

#[test]
fn a_broken_token_changes_no_bit_of_the_tokens_before_it() {
    // Attention gives later keys the weight 0, and 0 x NaN is NaN: they must not be touched at all.
    for class in Class::available() {
        let model = broken(Part::TokEmbd, f32::NAN.to_bits(), Format::F32, class);
        let tokens = [1, 2, 3, 4, BROKEN, 5];
        let bits = |batch| {
            let mut scorer = Scorer::new(&model, 64, batch, KvFormat::F16);
            let scores = scorer.log_probs(&tokens[..5], 0);
            scores.iter().map(|p| p.to_bits()).collect::<Vec<u64>>()
        };
        assert_eq!(bits(5), bits(1), "{class}");
    }
}
