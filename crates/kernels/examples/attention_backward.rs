//! Times the gradient of attention: `cargo run --release -p herd-kernels --example attention_backward`.
//!
//! Arguments: threads, class, length, f32 or bf16 (all if absent). Prints the share of the bound: five products of the causal half at
//! the measured peak of the class.

use herd_kernels::attention_backward::{
    Attended, AttentionGrads, HeadShape, Precision, attention_backward,
};
use herd_kernels::{Class, Cpu, probe};
use std::ops::Range;
use std::time::Instant;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let threads = args.first().and_then(|a| a.parse().ok()).unwrap_or(1);
    let class = args.get(1).and_then(|a| Class::from_name(a)).unwrap_or(Class::best());
    let only: Option<usize> = args.get(2).and_then(|a| a.parse().ok());
    let cpu = Cpu::new(class, threads);
    let peaks = probe::peaks(&cpu);
    println!("class {class}, {threads} threads");
    for (len, documents, heads, kv_heads, head_dim) in
        [(1024, 1, 12, 12, 64), (1024, 1, 12, 4, 64), (256, 8, 6, 6, 48), (2048, 1, 8, 2, 128)]
    {
        if only.is_some_and(|only| only != len) {
            continue;
        }
        let rows = len * documents;
        let documents: Vec<Range<usize>> = (0..documents).map(|d| d * len..(d + 1) * len).collect();
        let noise = |seed: usize, n: usize| -> Vec<f32> {
            let number = |i: usize| ((i * 7919 + seed * 104_729) % 2001) as f32 / 1000.0 - 1.0;
            (0..n).map(number).collect()
        };
        let (wide, narrow) = (rows * heads * head_dim, rows * kv_heads * head_dim);
        let (q, k, v, dout) = (noise(1, wide), noise(2, narrow), noise(3, narrow), noise(4, wide));
        let (out, lse) = (noise(5, wide), vec![(len as f32 / 2.0).ln(); rows * heads]);
        let (mut dq, mut dk, mut dv) = (vec![0.0; wide], vec![0.0; narrow], vec![0.0; narrow]);
        let flops = (10 * documents.len() * len * (len + 1) / 2 * heads * head_dim) as f64;
        for (precision, peak) in
            [(Precision::F32, peaks.f32_flops), (Precision::Bf16, peaks.bf16_flops)]
        {
            if args.get(3).is_some_and(|only| only != &format!("{precision:?}").to_lowercase()) {
                continue;
            }
            let mut best = f64::MAX;
            for _ in 0..30 {
                let grads = AttentionGrads { dq: &mut dq, dk: &mut dk, dv: &mut dv };
                let saved = Attended { q: &q, k: &k, v: &v, out: &out, lse: &lse };
                let shape = HeadShape { heads, kv_heads, head_dim };
                let scale = 1.0 / (head_dim as f32).sqrt();
                let start = Instant::now();
                attention_backward(&cpu, grads, &dout, saved, shape, scale, precision, &documents);
                best = best.min(start.elapsed().as_secs_f64());
            }
            println!(
                "{} x {len}, H {heads}, G {kv_heads}, K {head_dim}, {precision:?}: {:.2} ms, {:.0} GFLOP/s, {:.0} % of {:.0}",
                documents.len(),
                best * 1e3,
                flops / best / 1e9,
                100.0 * flops / best / peak,
                peak / 1e9,
            );
        }
    }
}
