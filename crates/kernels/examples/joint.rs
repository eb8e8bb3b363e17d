//! Times the backward products of the layers of a 15M model: one by one, and together.
use half::bf16;
use herd_kernels::gemm::Packed;
use herd_kernels::gemm::backward::{Back, Precision, Rows, Write, blocks, matmul_back, matmul_dw, matmul_dx};
use herd_kernels::{Class, Cpu, Format, probe};
use std::time::Instant;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let threads = args.first().and_then(|a| a.parse().ok()).unwrap_or(1);
    let cpu = Cpu::new(Class::best(), threads);
    let peak = probe::peaks(&cpu).bf16_flops;
    println!("{threads} threads, bf16 {:.0} GFLOP/s", peak / 1e9);
    let _ = bf16::ZERO;
    for (t, i, outs) in [
        (4096, 288, &[288, 288, 288][..]),
        (4096, 288, &[288]),
        (4096, 288, &[768, 768]),
        (4096, 768, &[288]),
        (4096, 768, &[768, 768, 768]),
        (4096, 768, &[2048, 2048]),
        (4096, 2048, &[768]),
    ] {
        let numbers = |n: usize| -> Vec<f32> {
            (0..n).map(|i| ((i * 7919) % 2001) as f32 / 1000.0 - 1.0).collect()
        };
        let x = numbers(t * i);
        let dys: Vec<Vec<f32>> = outs.iter().map(|o| numbers(t * o)).collect();
        let ws: Vec<Packed> = outs.iter().map(|&o| Packed::from_f32(&cpu, Format::BF16, o, i, &numbers(o * i))).collect();
        let mut dws: Vec<Vec<f32>> = outs.iter().map(|o| vec![0.0; o * i]).collect();
        let mut dx = vec![0.0; t * i];
        let blocks = blocks(t / 256, 256);
        let (mut one, mut both) = (vec![], vec![]);
        for _ in 0..7 {
            let start = Instant::now();
            for j in (0..outs.len()).rev() {
                let write = if j + 1 == outs.len() { Write::Set } else { Write::Add };
                matmul_dx(&cpu, &mut dx, &dys[j], &ws[j], write);
                matmul_dw(&cpu, &mut dws[j], &dys[j], Rows::F32(&x), &blocks, Precision::Bf16);
            }
            one.push(start.elapsed().as_secs_f64());
            let start = Instant::now();
            let mut all: Vec<Back<'_>> = dys.iter().zip(&ws).zip(&mut dws).map(|((dy, w), dw)| Back { dy, w, dw: Some(dw) }).collect();
            matmul_back(&cpu, Some((&mut dx, Write::Set)), Rows::F32(&x), &mut all, &blocks);
            both.push(start.elapsed().as_secs_f64());
        }
        let flops = 4.0 * (t * i * outs.iter().sum::<usize>()) as f64;
        let mut show = |v: &mut Vec<f64>| { v.sort_by(f64::total_cmp); let s = v[v.len() / 2]; format!("{:.2} ms {:.0} %", s * 1e3, 100.0 * flops / s / peak) };
        println!("{t} x {outs:?} x {i}: one by one {}, joint {}", show(&mut one), show(&mut both));
    }
}
