//! Times products of every format: `cargo run --release -p herd-kernels --example products`.
//!
//! Prints the best of several runs, as operations a second and as bytes of weights a second.

use herd_kernels::gemm::{Packed, Product, matmul};
use herd_kernels::{Class, Cpu, Format, blocks};
use std::time::Instant;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let threads = args.first().and_then(|a| a.parse().ok()).unwrap_or(1);
    let class = args.get(1).and_then(|a| Class::from_name(a)).unwrap_or(Class::best());
    let cpu = Cpu::new(class, threads);
    println!("class {class}, {threads} threads");
    for (n, k) in [(1536, 576), (576, 1536), (8192, 2048)] {
        for format in Format::ALL {
            if k % format.block_len() != 0 {
                continue;
            }
            let plain: Vec<f32> =
                (0..n * k).map(|i| ((i * 7919) % 2001) as f32 / 1000.0 - 1.0).collect();
            let mut raw = vec![0; format.bytes(n * k).expect("whole blocks")];
            blocks::quantise(format, &plain, &mut raw).expect("finite");
            // Enough copies that single rows come from memory.
            let copies = (256_000_000 / raw.len()).clamp(2, 400);
            let packed: Vec<Packed> =
                (0..copies).map(|_| Packed::new(&cpu, format, n, k, &raw)).collect();
            print!("{:7} {n:5} x {k:5}:", format.name());
            for rows in [1, 4, 32, 512] {
                let x = vec![0.37f32; rows * k];
                let mut y = vec![0.0; rows * n];
                let mut best = f64::MAX;
                let calls = if rows == 1 { copies } else { 1 };
                for run in 0..if rows == 512 { 5 } else { 12 } {
                    let start = Instant::now();
                    for i in 0..calls {
                        let w = &packed[(run + i) % copies];
                        matmul(&cpu, &x, rows, &mut [Product { y: &mut y, w }]);
                    }
                    best = best.min(start.elapsed().as_secs_f64() / calls as f64);
                }
                let gops = 2.0 * (rows * n * k) as f64 / best / 1e9;
                let gbs = packed[0].bytes() as f64 / best / 1e9;
                print!("  [{rows}] {gops:6.0} G/s {gbs:5.1} GB/s");
            }
            println!();
        }
    }
}
