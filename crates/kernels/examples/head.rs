//! Times the head and its loss: `cargo run --release -p herd-kernels --example head`.
//!
//! Prints seconds for 4096 tokens by 32,000 outputs and the share of the bound: three products at
//! the peak that `probe` measures. Arguments: threads, width.

use herd_kernels::cross_entropy::Targets;
use herd_kernels::gemm::Packed;
use herd_kernels::gemm::backward::blocks;
use herd_kernels::gemm::head::{Head, HeadGrads, head_loss};
use herd_kernels::{Class, Cpu, Format, probe};
use std::time::Instant;

fn main() {
    let args: Vec<usize> = std::env::args().skip(1).flat_map(|a| a.parse()).collect();
    let threads = args.first().copied().unwrap_or(1);
    let (tokens, vocab, width) = (4096, 32_000, args.get(1).copied().unwrap_or(288));
    let cpu = Cpu::new(Class::best(), threads);
    let numbers = |n: usize| -> Vec<f32> {
        (0..n).map(|i| ((i * 7919) % 2001) as f32 / 5000.0 - 0.2).collect()
    };
    let (x, w) = (numbers(tokens * width), numbers(vocab * width));
    let w = Packed::from_f32(&cpu, Format::BF16, vocab, width, &w);
    let ids: Vec<u32> = (0..tokens).map(|t| (t * 7919 % vocab) as u32).collect();
    let (weights, blocks) = (vec![1.0; tokens], blocks(16, tokens / 16));
    let targets = Targets { ids: &ids, weights: &weights, scale: 1.0 / 4096.0, z_loss: 0.0 };
    let head = Head { x: &x, w: &w, targets, blocks: &blocks };
    let (mut nats, mut dx) = (vec![0.0; tokens], vec![0.0; tokens * width]);
    let mut dw = vec![0.0; vocab * width];
    let mut best = f64::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        let grads = HeadGrads { dx: &mut dx, dw: Some(&mut dw) };
        head_loss(&cpu, &mut nats, &head, Some(grads));
        best = best.min(start.elapsed().as_secs_f64());
    }
    let bound = 6.0 * (tokens * vocab * width) as f64 / probe::peaks(&cpu).bf16_flops;
    println!(
        "{threads} threads, width {width}: {best:.4} s, {:.0} % of its bound",
        100.0 * bound / best
    );
}
