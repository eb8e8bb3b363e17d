//! What this machine has and what it reaches: processor, memory, quotas, measured limits.

use std::fs;
use std::hint::black_box;
use std::time::Instant;

use herd_kernels::gemm::{Packed, Product, matmul};
use herd_kernels::{Cpu, Format};

/// The machine as the system describes it; `None` and 0 where it does not say.
#[derive(Debug, serde::Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: Option<String>,
    /// Processors that the system shows.
    pub processors: usize,
    /// Processors' worth of time that a control group lends, if it limits it.
    pub cpu_quota: Option<f64>,
    /// Memory of the machine, or of the control group where that is less.
    pub memory_bytes: u64,
    /// Memory that could be had now.
    pub memory_available_bytes: u64,
}

/// Asks the system.
pub fn machine() -> Machine {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':'));
    let processors = info.lines().filter(|l| l.starts_with("processor")).count();
    let limit = group("memory.max").and_then(|text| text.trim().parse::<u64>().ok());
    let used = group("memory.current").and_then(|text| text.trim().parse::<u64>().ok());
    let total = meminfo("MemTotal:");
    let available = meminfo("MemAvailable:");
    let free = limit.map_or(u64::MAX, |limit| limit.saturating_sub(used.unwrap_or(0)));
    Machine {
        cpu: name.map(|(_, name)| name.trim().to_owned()),
        processors,
        cpu_quota: group("cpu.max").and_then(|text| quota(&text)),
        memory_bytes: total.min(limit.unwrap_or(u64::MAX)),
        memory_available_bytes: available.min(free),
    }
}

/// A file of this process's control group (version 2).
fn group(file: &str) -> Option<String> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let inner = format!("/sys/fs/cgroup{path}/{file}");
    fs::read_to_string(inner).or_else(|_| fs::read_to_string(format!("/sys/fs/cgroup/{file}"))).ok()
}

/// `200000 100000` is two processors; `max 100000` is no limit.
fn quota(text: &str) -> Option<f64> {
    let (time, period) = text.trim().split_once(' ')?;
    Some(time.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
}

fn meminfo(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// The greatest resident size of this process so far, in bytes; 0 where the system does not say.
pub fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Streams that a thread reads at once, as the packed weights are read.
const STREAMS: usize = 8;

/// Bytes a second that the threads of `cpu` read together from memory, the best of some rounds.
///
/// Each thread adds up its own part of `bytes`, which must be far above the caches.
pub fn bandwidth(cpu: &Cpu, bytes: usize, rounds: usize) -> f64 {
    let threads = cpu.pool.threads();
    let words = vec![1u64; bytes / 8];
    let part = words.len() / threads;
    let mut best = 0.0f64;
    for _ in 0..rounds {
        let started = Instant::now();
        cpu.pool.run(threads, |i| {
            black_box(sum_of_streams(&words[i * part..(i + 1) * part]));
        });
        best = best.max((threads * part * 8) as f64 / started.elapsed().as_secs_f64());
    }
    best
}

fn sum_of_streams(words: &[u64]) -> u64 {
    let len = words.len() / STREAMS;
    let streams: [&[u64]; STREAMS] = std::array::from_fn(|s| &words[s * len..(s + 1) * len]);
    let mut sums = [[0u64; 8]; STREAMS];
    for at in (0..len / 8 * 8).step_by(8) {
        for (sums, stream) in sums.iter_mut().zip(&streams) {
            for (sum, word) in sums.iter_mut().zip(&stream[at..at + 8]) {
                *sum = sum.wrapping_add(*word);
            }
        }
    }
    sums.as_flattened().iter().fold(0, |a, b| a.wrapping_add(*b))
}

/// Floating-point operations a second of a product of `rows` inputs with 2048 x 2048 weights.
pub fn product_flops(cpu: &Cpu, format: Format, rows: usize, rounds: usize) -> f64 {
    const SIDE: usize = 2048;
    let raw = vec![0u8; format.bytes(SIDE * SIDE).expect("2048 is whole blocks of any format")];
    let weights = Packed::new(cpu, format, SIDE, SIDE, &raw);
    let x = vec![0.5f32; rows * SIDE];
    let mut y = vec![0.0f32; rows * SIDE];
    let mut best = 0.0f64;
    for _ in 0..rounds {
        let started = Instant::now();
        matmul(cpu, &x, rows, &mut [Product { y: &mut y, w: &weights }]);
        let operations = (2 * rows * SIDE * SIDE) as f64;
        best = best.max(operations / started.elapsed().as_secs_f64());
    }
    black_box(&y);
    best
}

/// Whether products of small whole numbers, which every class has exactly, come out right.
pub fn products_are_right(cpu: &Cpu) -> bool {
    const SIDE: usize = 64;
    let number = |i: usize| (i * 7 % 5) as f32 - 2.0;
    let half = |x: f32| ((x.to_bits() >> 16) as u16).to_le_bytes();
    let raw: Vec<u8> = (0..SIDE * SIDE).flat_map(|i| half(number(i))).collect();
    let weights = Packed::new(cpu, Format::BF16, SIDE, SIDE, &raw);
    (1..=33).all(|rows| {
        let x: Vec<f32> = (0..rows * SIDE).map(|i| number(i + i / 3)).collect();
        let mut y = vec![f32::NAN; rows * SIDE];
        matmul(cpu, &x, rows, &mut [Product { y: &mut y, w: &weights }]);
        (0..rows * SIDE).all(|i| {
            let (t, o) = (i / SIDE, i % SIDE);
            let wanted: f32 = (0..SIDE).map(|k| x[t * SIDE + k] * number(o * SIDE + k)).sum();
            y[i] == wanted
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_read() {
        assert_eq!(quota("200000 100000\n"), Some(2.0));
        assert_eq!(quota("max 100000\n"), None);
        assert_eq!(quota(""), None);
    }

    #[test]
    fn every_word_of_the_streams_is_read() {
        assert_eq!(sum_of_streams(&vec![1; 8 * 80]), 640);
    }
}
