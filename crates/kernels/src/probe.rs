//! What this machine can do: measured peaks of arithmetic and of reading memory.

use crate::buffer::Buffer;
use crate::lanes::{Lanes, Plain};
use crate::{Class, Cpu};
use std::hint::black_box;
use std::time::{Duration, Instant};

#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};

/// The speed of one class on some threads, all of them together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peaks {
    /// Multiply-adds of f32, two operations each, a second.
    pub f32_flops: f64,
    /// Multiply-adds of bf16 in f32, two operations each, a second; of f32 where no instruction multiplies pairs.
    pub bf16_flops: f64,
    /// Multiply-adds of bytes in i32, two operations each, a second.
    pub int8_ops: f64,
    /// Bytes read from memory a second, in `READ_STREAMS` streams a thread.
    pub read_bytes_per_s: f64,
}

/// Streams in which a thread reads: one alone leaves a third of the bandwidth unused.
pub const READ_STREAMS: usize = 8;

/// Each figure is the best of the rounds that fit in this time: the machine may be shared.
const TIME: Duration = Duration::from_millis(100);
/// Past the last cache of most machines; written in about 0.1 s.
const READ_BYTES: usize = 256 << 20;

/// Measures the class of `cpu` on all its threads, each figure in less than 0.3 s.
pub fn peaks(cpu: &Cpu) -> Peaks {
    Peaks {
        f32_flops: operations_per_s(cpu, Work::F32),
        bf16_flops: bf16_flops(cpu),
        int8_ops: operations_per_s(cpu, Work::Int8),
        read_bytes_per_s: read_bytes_per_s(cpu, READ_STREAMS),
    }
}

/// Operations a second of multiply-adds alone, of bf16 where the class has them fast, else of f32;
/// takes no memory to speak of.
pub fn product_flops(cpu: &Cpu) -> f64 {
    bf16_flops(cpu).max(f32_flops(cpu))
}

/// Without an instruction for pairs bf16 is widened, once for many products, which then are those of f32.
fn bf16_flops(cpu: &Cpu) -> f64 {
    match cpu.class {
        Class::Portable | Class::Avx2 => f32_flops(cpu),
        Class::Avx512 | Class::Amx => operations_per_s(cpu, Work::Bf16),
    }
}

/// The same of f32.
pub fn f32_flops(cpu: &Cpu) -> f64 {
    operations_per_s(cpu, Work::F32)
}

/// Calls `f::<L>(args)`, compiled for the vector instructions of a class that runs here.
macro_rules! by_lanes {
    ($class:expr, $f:ident($($name:ident: $type:ty),*)) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn avx2($($name: $type),*) {
            // SAFETY: this function has the instructions of the class.
            unsafe { $f::<Avx2, 6>($($name),*) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(
            enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,fma,f16c"
        )]
        unsafe fn avx512($($name: $type),*) {
            // SAFETY: this function has the instructions of the class.
            unsafe { $f::<Avx512, 12>($($name),*) }
        }
        // SAFETY: a `Cpu` has a class that its machine runs.
        unsafe {
            match $class {
                Class::Portable => $f::<Plain, 4>($($name),*),
                #[cfg(target_arch = "x86_64")]
                Class::Avx2 => avx2($($name),*),
                #[cfg(target_arch = "x86_64")]
                Class::Avx512 | Class::Amx => avx512($($name),*),
                #[cfg(not(target_arch = "x86_64"))]
                Class::Avx2 | Class::Avx512 | Class::Amx => unreachable!("checked by Cpu::new"),
            }
        }
    }};
}

/// Bytes that all threads together read from memory a second, each in `streams` places in turn.
///
/// Panics if `streams` is 0 or above 64.
pub fn read_bytes_per_s(cpu: &Cpu, streams: usize) -> f64 {
    assert!((1..=64).contains(&streams), "{streams} streams");
    let (class, threads) = (cpu.class, cpu.pool.threads());
    let mut memory = Buffer::zeroed(READ_BYTES);
    // Pages that nobody wrote are all the same page of zeros, and that lies in the cache.
    crate::cpu::for_rows(cpu, memory.bytes_mut(), 1 << 20, |_, part| part.fill(1));
    let stream = READ_BYTES / threads / streams / 64 * 64;
    best_rate((stream * streams * threads) as f64, || {
        cpu.pool.run(threads, |i| {
            let part = &memory.bytes()[i * stream * streams..][..stream * streams];
            by_lanes!(class, read(part: &[u8], stream: usize));
        });
    })
}

/// What is counted.
#[derive(Clone, Copy, PartialEq)]
enum Work {
    F32,
    Bf16,
    Int8,
}

/// Operations of `work` a second, by the instruction with which the class multiplies.
fn operations_per_s(cpu: &Cpu, work: Work) -> f64 {
    // A few milliseconds of the fastest unit, tens of the portable one.
    let rounds = if cpu.class == Class::Portable { 20_000 } else { 200_000 };
    let (class, threads) = (cpu.class, cpu.pool.threads());
    let terms = match work {
        Work::F32 => 1,
        Work::Bf16 => 2,
        Work::Int8 => 4,
    };
    if class == Class::Amx && work != Work::F32 {
        let operations = rounds * 4 * 2 * 16 * 16 * 16 * terms;
        return best_rate((operations * threads) as f64, || {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the class runs here.
            cpu.pool.run(threads, |_| unsafe { multiply_tiles(work, rounds) });
        });
    }
    let chains = match class {
        Class::Portable => 4,
        Class::Avx2 => 6,
        Class::Avx512 | Class::Amx => 12,
    };
    let operations = rounds * chains * 2 * 16 * terms;
    best_rate((operations * threads) as f64, || {
        cpu.pool.run(threads, |_| by_lanes!(class, multiply(work: Work, rounds: usize)));
    })
}

/// `amount` a second, at the best of several calls of `round`.
fn best_rate(amount: f64, round: impl Fn()) -> f64 {
    let (start, mut best) = (Instant::now(), Duration::MAX);
    while start.elapsed() < TIME {
        let begin = Instant::now();
        round();
        best = best.min(begin.elapsed());
    }
    amount / best.as_secs_f64()
}

/// N independent chains of multiply-adds, enough to fill the units while each waits for itself.
///
/// # Safety
///
/// The contract of `Lanes`.
#[inline(always)]
unsafe fn multiply<L: Lanes, const N: usize>(work: Work, rounds: usize) {
    // Pairs of bf16 near 1, and bytes; a bit changes each round so that no product is kept.
    let mut x = black_box(0x3f81_3f80_u32);
    // SAFETY: the caller's contract; the arrays hold what is loaded.
    unsafe {
        let w = L::load_bytes(black_box([0x3f; 64]).as_ptr());
        let f = L::splat(f32::from_bits(black_box(0x3f80_0000)));
        let (mut sums, mut wholes) = ([L::splat(0.0); N], [L::splat_i(0); N]);
        for _ in 0..rounds {
            x ^= 1;
            match work {
                Work::F32 => {
                    let x = L::splat(f32::from_bits(x));
                    for sum in &mut sums {
                        *sum = L::fma(f, x, *sum);
                    }
                }
                Work::Bf16 => {
                    for sum in &mut sums {
                        *sum = L::dot2_bf16(*sum, w, x as i32);
                    }
                }
                Work::Int8 => {
                    for whole in &mut wholes {
                        *whole = L::dot4(*whole, w, x as i32 & 0x0101_0101);
                    }
                }
            }
        }
        for (sum, whole) in sums.into_iter().zip(wholes) {
            black_box((L::to_array(sum), L::to_array(L::to_f(whole))));
        }
    }
}

/// Four sums of tiles, as in the product of 32 rows by two groups, without its loads.
///
/// # Safety
///
/// The machine runs the class `amx`.
#[cfg(target_arch = "x86_64")]
unsafe fn multiply_tiles(work: Work, rounds: usize) {
    use crate::tiles::{Hardware, Shape, Tiles};
    // SAFETY: the caller's contract; all registers are whole tiles.
    unsafe {
        let mut unit = Hardware::new();
        unit.configure(&Shape::new([(16, 64); 8]));
        unit.zero::<0>();
        unit.zero::<1>();
        unit.zero::<2>();
        unit.zero::<3>();
        unit.zero::<4>();
        unit.zero::<5>();
        unit.zero::<6>();
        unit.zero::<7>();
        for _ in 0..rounds {
            if work == Work::Bf16 {
                unit.dot_bf16::<0, 4, 6>();
                unit.dot_bf16::<1, 4, 7>();
                unit.dot_bf16::<2, 5, 6>();
                unit.dot_bf16::<3, 5, 7>();
            } else {
                unit.dot_i8::<0, 4, 6>();
                unit.dot_i8::<1, 4, 7>();
                unit.dot_i8::<2, 5, 6>();
                unit.dot_i8::<3, 5, 7>();
            }
        }
    }
}

/// Reads all of `part`, a line of each stream of `stream` bytes in turn.
///
/// # Safety
///
/// The contract of `Lanes`.
#[inline(always)]
unsafe fn read<L: Lanes, const N: usize>(part: &[u8], stream: usize) {
    // SAFETY: the caller's contract; each line lies in `part`.
    unsafe {
        let mut all = L::load_bytes([0; 64].as_ptr());
        for line in (0..stream).step_by(64) {
            for from in (line..part.len()).step_by(stream) {
                all = L::or(all, L::load_bytes(part[from..][..64].as_ptr()));
            }
        }
        let mut out = [0; 64];
        L::store_bytes(out.as_mut_ptr(), all);
        black_box(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_peaks() {
        for class in Class::available() {
            let p = peaks(&Cpu::new(class, 1));
            let figures = [p.f32_flops, p.bf16_flops, p.int8_ops, p.read_bytes_per_s];
            assert!(figures.iter().all(|f| f.is_finite() && *f > 1e6), "{class}: {p:?}");
        }
    }
}
