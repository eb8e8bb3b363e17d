//! Times choosing a token: `cargo run --release -p herd-engine --example sample_bench`.

use std::hint::black_box;
use std::time::Instant;

use herd_engine::rng::uniform;
use herd_engine::sample::{Sampler, Sampling};

fn main() {
    const VOCAB: usize = 128_256;
    // About the shape of a language model's logits: a broad bulk, and a few tokens far above it.
    let normal = |i: usize| (0..12).map(|j| uniform(1, j, i as u64)).sum::<f64>() - 6.0;
    let logits_v: Vec<f32> = (0..VOCAB).map(|i| 2.5 * normal(i) as f32).collect();
    let history: Vec<u32> = (0..4096u32).map(|i| i * 31 % VOCAB as u32).collect();
    let warm = Sampling { temperature: 0.8, ..Sampling::GREEDY };
    let cases = [
        ("greedy", Sampling::GREEDY),
        ("top-k 40", Sampling { top_k: Some(40), ..warm.clone() }),
        ("top-p 0.9", Sampling { top_p: 0.9, ..warm.clone() }),
        ("min-p 0.05", Sampling { min_p: 0.05, ..warm.clone() }),
        ("typical 0.9", Sampling { typical_p: 0.9, ..warm.clone() }),
        ("temperature alone", warm.clone()),
        ("top-p, penalties", Sampling { top_p: 0.9, frequency_penalty: 0.1, ..warm }),
    ];
    let mut sampler = Sampler::new();
    for (name, sampling) in cases {
        let mut times: Vec<f64> = (0..50)
            .map(|position| {
                let started = Instant::now();
                black_box(sampler.choose(&sampling, &logits_v, &history, position)).ok();
                started.elapsed().as_secs_f64() * 1e6
            })
            .collect();
        times.sort_by(f64::total_cmp);
        println!("{name:<20} {:>8.1} microseconds (median of 50)", times[25]);
    }
}
