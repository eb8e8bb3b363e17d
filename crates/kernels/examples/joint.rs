//! Times the gradients of products of one input, apart and together:
//! `cargo run --release -p herd-kernels --example joint`. Argument: threads.
//!
//! Prints medians of seven and their share of the peak that `probe` measures; x is f32.

use herd_kernels::gemm::Packed;
use herd_kernels::gemm::backward::{
    Back, Precision, Rows, Write, blocks, matmul_back, matmul_dw, matmul_dx,
};
use herd_kernels::{Class, Cpu, Format, probe};
use std::time::Instant;

const TOKENS: usize = 4096;

/// Inputs, and the outputs of each product.
const LAYERS: [(usize, &[usize]); 7] = [
    (288, &[288, 288, 288]),
    (288, &[288]),
    (288, &[768, 768]),
    (768, &[288]),
    (768, &[768, 768, 768]),
    (768, &[2048, 2048]),
    (2048, &[768]),
];

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 2001) as f32 / 1000.0 - 1.0).collect()
}

fn main() {
    let threads = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(1);
    let cpu = Cpu::new(Class::best(), threads);
    let peak = probe::peaks(&cpu).bf16_flops;
    println!("{threads} threads, bf16 {:.0} GFLOP/s", peak / 1e9);
    for (inputs, outputs) in LAYERS {
        let flops = 4.0 * (TOKENS * inputs * outputs.iter().sum::<usize>()) as f64;
        let show = |mut seconds: Vec<f64>| {
            seconds.sort_by(f64::total_cmp);
            let s = seconds[seconds.len() / 2];
            format!("{:.2} ms ({:.0} %)", s * 1e3, 100.0 * flops / s / peak)
        };
        let (apart, together) = time(&cpu, inputs, outputs);
        let (apart, together) = (show(apart), show(together));
        println!("{outputs:?} x {inputs}: apart {apart}, together {together}");
    }
}

/// Seconds of each call, in turns.
fn time(cpu: &Cpu, inputs: usize, outputs: &[usize]) -> (Vec<f64>, Vec<f64>) {
    let x = numbers(TOKENS * inputs);
    let dy: Vec<_> = outputs.iter().map(|o| numbers(TOKENS * o)).collect();
    let pack = |&o: &usize| Packed::from_f32(cpu, Format::BF16, o, inputs, &numbers(o * inputs));
    let w: Vec<_> = outputs.iter().map(pack).collect();
    let mut dw: Vec<_> = outputs.iter().map(|o| vec![0.0; o * inputs]).collect();
    let mut dx = vec![0.0; TOKENS * inputs];
    let blocks = blocks(TOKENS / 256, 256);
    let (mut apart, mut together) = (vec![], vec![]);
    for _ in 0..7 {
        let start = Instant::now();
        let mut write = Write::Set;
        for j in (0..outputs.len()).rev() {
            matmul_dx(cpu, &mut dx, &dy[j], &w[j], write);
            matmul_dw(cpu, &mut dw[j], &dy[j], Rows::F32(&x), &blocks, Precision::Bf16);
            write = Write::Add;
        }
        apart.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        let products = dy.iter().zip(&w).zip(&mut dw);
        let mut products: Vec<_> =
            products.map(|((dy, w), dw)| Back { dy, w, dw: Some(dw) }).collect();
        let dx = Some((&mut dx[..], Write::Set));
        matmul_back(cpu, dx, Rows::F32(&x), &mut products, &blocks);
        together.push(start.elapsed().as_secs_f64());
    }
    (apart, together)
}
