//! Times attention alone at depth, for each cache format: a prompt's piece, and answers.
//!
//! `cargo run --release -p herd-kernels --example attention [rows] [depth] [repetitions]`

use herd_kernels::attention::{KvFormat, KvShape, Sequence, attention, store};
use herd_kernels::buffer::Buffer;
use herd_kernels::{Class, Cpu};
use std::time::Instant;

fn main() {
    let argument =
        |i: usize, other| std::env::args().nth(i).map_or(other, |x| x.parse().expect("a number"));
    let (rows, depth, repetitions): (usize, usize, usize) =
        (argument(1, 96), argument(2, 4096), argument(3, 20));
    // The shape of SmolLM2's heads; `LAYERS` caches in turn, so that answers find none in a cache.
    const LAYERS: usize = 30;
    let (heads, kv_heads, head_dim, page_len) = (9, 3, 64, 64);
    println!("| cache | rows | depth | ms | GOP/s | GB/s |\n|---|---|---|---|---|---|");
    let cpu = Cpu::new(Class::best(), 1);
    for format in [KvFormat::F32, KvFormat::F16, KvFormat::I16] {
        let shape = KvShape { format, page_len, kv_heads, head_dim };
        let pages: Vec<u32> = (0..(depth + rows).div_ceil(page_len) as u32).collect();
        let noise =
            |n: usize| (0..n).map(|i| (i * 7919 % 1009) as f32 / 504.5 - 1.0).collect::<Vec<_>>();
        let kv = noise((depth + rows) * kv_heads * head_dim);
        let mut caches = (0..LAYERS)
            .map(|_| Buffer::zeroed(pages.len() * shape.page_bytes()))
            .collect::<Vec<_>>();
        let all = [Sequence { row: 0, rows: depth + rows, past: 0, pages: &pages }];
        caches.iter_mut().for_each(|cache| store(&cpu, cache.bytes_mut(), shape, &kv, &kv, &all));
        let q = noise(rows * heads * head_dim);
        let mut out = vec![0.0; q.len()];
        let last = [Sequence { row: 0, rows, past: depth, pages: &pages }];
        let mut best = f64::INFINITY;
        for _ in 0..repetitions {
            let started = Instant::now();
            for cache in &caches {
                attention(&cpu, &mut out, &q, cache.bytes(), shape, heads, 0.125, &last, None);
            }
            best = best.min(started.elapsed().as_secs_f64() / LAYERS as f64);
        }
        let operations = 4 * heads * head_dim * rows * (depth + rows / 2);
        let bytes = 2 * kv_heads * format.vector_bytes(head_dim) * (depth + rows);
        let (gop, gb) = (operations as f64 / best / 1e9, bytes as f64 / best / 1e9);
        println!("| {format:?} | {rows} | {depth} | {:.3} | {gop:.0} | {gb:.1} |", best * 1e3);
    }
}
