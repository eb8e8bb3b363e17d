//! Answers to one prompt: one request after another, and all at once.
//!
//! `cargo run --release -p herd-engine --example many_answers -- MODEL [ANSWERS [PROMPT [TOKENS [ROUNDS]]]]`

use herd_engine::sample::Sampling;
use herd_engine::{Engine, Limits, Request};
use herd_model::Checkpoint;
use herd_model::llama::Llama;
use herd_tensor::{Class, Device, KvFormat, allowed_threads};
use std::sync::Arc;
use std::time::Instant;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let path =
        args.first().expect("usage: many_answers MODEL [ANSWERS [PROMPT [TOKENS [ROUNDS]]]]");
    let number = |i: usize, usual: usize| {
        args.get(i).map_or(usual, |text| text.parse().expect("a whole number"))
    };
    let (n, prompt, tokens, rounds) = (number(1, 16), number(2, 300), number(3, 128), number(4, 5));
    let checkpoint = Checkpoint::open(path).expect("a model");
    let device = Device::cpu(Class::best(), allowed_threads());
    let context = prompt + tokens;
    let model = Arc::new(Llama::load(&checkpoint, &device, context).expect("its weights"));
    let limits = Limits {
        context,
        parallel: n,
        batch: 512,
        page_len: 16,
        kv: KvFormat::F32,
        positions: None,
    };
    let vocab = checkpoint.config.vocab as u32;
    println!("round  separate  cached  together  with nats  (tokens/s)");
    for round in 0..rounds as u32 {
        let ids: Vec<u32> = (0..prompt as u32).map(|i| (round * 31 + i * i * 7) % vocab).collect();
        let sampling = Sampling { temperature: 0.7, ..Sampling::LLAMA };
        let request = |nats| {
            let request = Request::new(ids.clone(), sampling.clone());
            Request { max_tokens: Some(tokens), nats, ..request }
        };
        let fresh = || Engine::new(Arc::clone(&model), None, limits);
        let timed = |f: &mut dyn FnMut()| {
            let begun = Instant::now();
            f();
            (n * tokens) as f64 / begun.elapsed().as_secs_f64()
        };
        let one = |engine: &mut Engine, i: usize| {
            let mut request = request(false);
            request.sampling.stream = i as u64;
            engine.submit(request).expect("a good request");
            finish(engine);
        };
        let separate = timed(&mut || (0..n).for_each(|i| one(&mut fresh(), i)));
        let cached = timed(&mut || {
            let mut engine = fresh();
            (0..n).for_each(|i| one(&mut engine, i));
        });
        let together = |nats: bool| {
            timed(&mut || {
                let mut engine = fresh();
                engine.submit_many(&request(nats), n).expect("a good request");
                finish(&mut engine);
            })
        };
        let (plain, nats) = (together(false), together(true));
        println!("{round:5}  {separate:8.1}  {cached:6.1}  {plain:8.1}  {nats:9.1}");
    }
}

fn finish(engine: &mut Engine) {
    let mut events = Vec::new();
    while !engine.is_idle() {
        engine.step(&mut events);
        events.clear();
    }
}
