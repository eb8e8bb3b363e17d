//! Times the products of training: `cargo run --release -p herd-kernels --example backward`.
//!
//! Prints, for the shapes of a 15M and a 110M model, the best of several runs as operations a
//! second and as a share of the peak that `probe` measures. Arguments: threads, class.

use half::bf16;
use herd_kernels::gemm::backward::{Precision, Rows, Write, blocks, matmul_dw, matmul_dx};
use herd_kernels::gemm::{Packed, Product, matmul};
use herd_kernels::{Class, Cpu, Format, probe};
use std::time::Instant;

/// Tokens, outputs, inputs.
const SHAPES: [[usize; 3]; 10] = [
    [4096, 288, 288],
    [4096, 768, 288],
    [4096, 288, 768],
    [1024, 32_000, 288],
    [1024, 768, 768],
    [1024, 2048, 768],
    [4096, 768, 768],
    [4096, 2048, 768],
    [4096, 768, 2048],
    [1024, 32_000, 768],
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let threads = args.first().and_then(|a| a.parse().ok()).unwrap_or(1);
    let class = args.get(1).and_then(|a| Class::from_name(a)).unwrap_or(Class::best());
    let cpu = Cpu::new(class, threads);
    let peaks = probe::peaks(&cpu);
    println!(
        "class {class}, {threads} threads: f32 {:.0}, bf16 {:.0} GFLOP/s, read {:.0} GB/s",
        peaks.f32_flops / 1e9,
        peaks.bf16_flops / 1e9,
        peaks.read_bytes_per_s / 1e9
    );
    println!("| tokens x outputs x inputs | | y | dx | dW |\n|---|---|---|---|---|");
    for [t, o, i] in SHAPES {
        let numbers = |n: usize| -> Vec<f32> {
            (0..n).map(|i| ((i * 7919) % 2001) as f32 / 1000.0 - 1.0).collect()
        };
        let (x, dy, w) = (numbers(t * i), numbers(t * o), numbers(o * i));
        let rounded: Vec<bf16> = x.iter().map(|x| bf16::from_f32(*x)).collect();
        let (mut y, mut dx, mut dw) = (vec![0.0; t * o], vec![0.0; t * i], vec![0.0; o * i]);
        let blocks = blocks(1, t);
        for (format, precision, peak) in [
            (Format::BF16, Precision::Bf16, peaks.bf16_flops),
            (Format::F32, Precision::F32, peaks.f32_flops),
        ] {
            let w = Packed::from_f32(&cpu, format, o, i, &w);
            let saved =
                if precision == Precision::F32 { Rows::F32(&x) } else { Rows::Bf16(&rounded) };
            let rate = |run: &mut dyn FnMut()| {
                let mut best = f64::MAX;
                for _ in 0..4 {
                    let start = Instant::now();
                    run();
                    best = best.min(start.elapsed().as_secs_f64());
                }
                let rate = 2.0 * (t * o * i) as f64 / best;
                format!("{:.0} ({:.0} %)", rate / 1e9, 100.0 * rate / peak)
            };
            let y = rate(&mut || matmul(&cpu, &x, t, &mut [Product { y: &mut y, w: &w }]));
            let dx = rate(&mut || matmul_dx(&cpu, &mut dx, &dy, &w, Write::Set));
            let dw = rate(&mut || matmul_dw(&cpu, &mut dw, &dy, saved, &blocks, precision));
            println!("| {t} x {o} x {i} | {} | {y} | {dx} | {dw} |", format.name());
        }
    }
}
