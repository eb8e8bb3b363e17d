//! The engine and the trainer say the same of a text: the nats of sampled tokens have the bits of the trainer's
//! loss, in every class, for checkpoints in f32 and bf16.

#![allow(clippy::unwrap_used)] // helpers of tests too

#[path = "../../engine/tests/common/mod.rs"]
mod common;

use common::{Answer, finish, gguf, load, wide_config};
use herd_engine::sample::Sampling;
use herd_engine::{Engine, Limits, Request};
use herd_model::llama::{Llama, Training};
use herd_model::{Checkpoint, Config};
use herd_tensor::ops::{Documents, Targets};
use herd_tensor::{Class, Device, Format, KvFormat, Tape, blocks_of};
use herd_train::state::first_numbers;
use std::ops::Range;
use std::sync::Arc;

/// Past the 256 keys of a block of attention, and more than a block of rows of the head.
const CONTEXT: usize = 320;

fn config() -> Config {
    Config { width: 128, head_dim: 32, ffn_width: 96, vocab: 301, ..wide_config() }
}

/// Answers to prompts of several lengths, and the texts that they end.
fn sampled(checkpoint: &Checkpoint, class: Class) -> Vec<(Vec<u32>, Answer)> {
    let model = load(checkpoint, class, 2, CONTEXT);
    let kv = KvFormat::F32;
    let limits = Limits { parallel: 5, batch: 100, page_len: 16, kv, ..Limits::single(CONTEXT) };
    let mut engine = Engine::new(model, None, limits);
    let sampling = Sampling { temperature: 0.9, seed: 4, ..Sampling::GREEDY };
    let (mut ids, mut prompts) = (Vec::new(), Vec::new());
    for len in [3usize, 40, 250] {
        let prompt: Vec<u32> = (0..len).map(|i| (i * i % 300) as u32).collect();
        let asked = Request::new(prompt.clone(), sampling.clone());
        let asked = Request { max_tokens: Some(45), nats: true, ..asked };
        ids.extend(engine.submit_many(&asked, 3).unwrap());
        prompts.extend(vec![prompt; 3]);
    }
    prompts.into_iter().zip(finish(&mut engine, &ids)).collect()
}

/// The trainer's nats of the answers, all texts in one batch: while it learns, or while it only looks.
fn trained(
    model: &Llama,
    tape: &Tape,
    texts: &[(Vec<u32>, Answer)],
    learns: bool,
) -> Vec<Vec<u32>> {
    let (mut tokens, mut targets, mut positions) = (Vec::new(), Vec::new(), Vec::new());
    let mut weights = Vec::new();
    let mut documents: Vec<Range<usize>> = Vec::new();
    for (prompt, answer) in texts {
        let text = [&prompt[..], &answer.ids].concat();
        documents.push(tokens.len()..tokens.len() + text.len() - 1);
        tokens.extend(&text[..text.len() - 1]);
        targets.extend(&text[1..]);
        positions.extend(0..text.len() as u32 - 1);
        weights.extend((1..text.len()).map(|t| if t < prompt.len() { 0.0 } else { 0.5 }));
    }
    let shape = model.config();
    let packed = Documents::new(documents.clone(), shape.kv_heads, shape.head_dim);
    let nats = || {
        let x_td = model.forward_documents(&tokens, &positions, &Arc::new(packed));
        let targets = Targets { ids: &targets, weights: &weights, scale: 0.3, z_loss: 0.0 };
        let loss = model.loss(&x_td, &targets);
        let nats_t = loss.nats_t.clone();
        loss.backward();
        nats_t
    };
    tape.begin(blocks_of(1, tokens.len()));
    let nats_t = if learns { nats() } else { tape.paused(nats) };
    let answers = documents.iter().zip(texts);
    answers
        .map(|(at, (_, answer))| {
            nats_t[at.end - answer.ids.len()..at.end].iter().map(|nats| nats.to_bits()).collect()
        })
        .collect()
}

#[test]
fn sampled_tokens_have_the_nats_of_the_trainers_loss_bit_by_bit() {
    for (format, tied) in [(Format::F32, false), (Format::BF16, false), (Format::BF16, true)] {
        // A checkpoint in bf16 has norms in bf16 as well: the trainer rounds them, as it does all weights.
        let checkpoint = gguf(&Config { tied, ..config() }, format, |part, bytes| {
            let norm = part.shape(&config()).len() == 1 && format == Format::BF16;
            let low_halves = bytes.chunks_exact_mut(4).filter(|_| norm);
            low_halves.for_each(|number| number[..2].fill(0));
        });
        for class in Class::available() {
            let texts = sampled(&checkpoint, class);
            let tape = Arc::new(Tape::default());
            let training = Training { tape: Arc::clone(&tape), format, recompute: false };
            let device = Device::cpu(class, 1);
            let numbers = |part| first_numbers(&checkpoint, part);
            let shape = &checkpoint.config;
            let model = Llama::trainable(shape, &device, CONTEXT, &training, numbers).unwrap();
            for learns in [true, false] {
                let wanted = trained(&model, &tape, &texts, learns);
                for (i, ((prompt, answer), wanted)) in texts.iter().zip(wanted).enumerate() {
                    let got: Vec<u32> = answer.bits.iter().map(|bits| bits[0] as u32).collect();
                    assert_eq!(answer.ids.len(), 45);
                    assert_eq!(
                        got,
                        wanted,
                        "{format:?}, {class}, answer {i} to {} tokens, learns: {learns}",
                        prompt.len()
                    );
                }
            }
        }
    }
}
