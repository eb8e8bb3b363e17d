//! Prints what this machine reaches: arithmetic of each class, and reading by streams a thread.
//!
//! `cargo run --release -p herd-kernels --example peak`

use herd_kernels::{Class, Cpu, pool, probe};

fn main() {
    let all = pool::allowed_threads();
    let threads = if all > 1 { vec![1, all] } else { vec![1] };
    println!("| class | threads | f32 GFLOP/s | bf16 GFLOP/s | int8 GOP/s | read GB/s |");
    println!("|---|---|---|---|---|---|");
    for class in Class::available() {
        for &n in &threads {
            let p = probe::peaks(&Cpu::new(class, n));
            let figures = [p.f32_flops, p.bf16_flops, p.int8_ops, p.read_bytes_per_s];
            let cells: Vec<String> = figures.iter().map(|f| format!("{:.1}", f / 1e9)).collect();
            println!("| {class} | {n} | {} |", cells.join(" | "));
        }
    }
    println!("\n| streams a thread | threads | read GB/s |");
    println!("|---|---|---|");
    for streams in [1, 2, 4, 8, 16] {
        for &n in &threads {
            let cpu = Cpu::new(Class::best(), n);
            let rate = probe::read_bytes_per_s(&cpu, streams);
            println!("| {streams} | {n} | {:.1} |", rate / 1e9);
        }
    }
}
