//! The products of training against their definitions, and the same bits in any company.

use super::*;
use crate::sample::noise;
use crate::{Class, Format};

/// Every class of the machine, and the tile unit by its definition.
fn cpus(threads: usize) -> Vec<Cpu> {
    let classes = Class::available().into_iter().map(|class| Cpu::new(class, threads));
    classes.chain([Cpu::emulated(threads)]).collect()
}

/// Tokens, outputs and inputs: one of each, the edges of tiles (3, 12, 16), of groups and pairs of
/// groups (16, 32), of steps (2, 32), of blocks of tokens (256), and odd numbers between.
const SHAPES: [[usize; 3]; 18] = [
    [1, 1, 1],
    [1, 16, 32],
    [2, 3, 5],
    [3, 12, 16],
    [4, 13, 17],
    [11, 15, 33],
    [12, 32, 12],
    [13, 31, 48],
    [16, 24, 64],
    [17, 25, 65],
    [31, 1, 7],
    [32, 33, 1],
    [33, 70, 49],
    [63, 2, 31],
    [64, 47, 70],
    [70, 36, 40],
    [257, 19, 21],
    [300, 40, 35],
];

fn bits(y: &[f32]) -> Vec<u32> {
    y.iter().map(|y| y.to_bits()).collect()
}

/// Weights of a format, and the numbers they stand for.
fn weights(cpu: &Cpu, format: Format, rows: usize, cols: usize) -> (Packed, Vec<f32>) {
    let mut raw = vec![0; format.bytes(rows * cols).expect("whole blocks")];
    crate::blocks::quantise(format, &noise(7, rows * cols), &mut raw).expect("finite numbers");
    let mut plain = vec![0.0; rows * cols];
    crate::blocks::unpack(format, &raw, &mut plain);
    (Packed::new(cpu, format, rows, cols, &raw), plain)
}

/// Where `got` leaves the chain sum(terms) by more than rounding allows: each of n steps errs by
/// half an ulp of a partial sum, which the sum of sizes bounds; pairs and tiles add a step a term.
fn off(got: f32, terms: impl Iterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut size, mut n) = (0.0, 0.0, 0.0);
    terms.for_each(|t| (sum, size, n) = (sum + t, size + t.abs(), n + 1.0));
    let tolerance = size * (n + 4.0) * f64::from(f32::EPSILON) + 1e-30;
    let off = (f64::from(got) - sum).abs();
    (off.is_nan() || off > tolerance).then_some(off)
}

/// Whether `dx` is dy W within rounding.
fn is_dx(
    dx: &[f32],
    old: Option<&[f32]>,
    dy: &[f32],
    w: &[f32],
    [_, o, i]: [usize; 3],
    p: Precision,
) -> bool {
    (0..dx.len()).all(|at| {
        let (t, col) = (at / i, at % i);
        let terms =
            (0..o).map(|o_| naive::seen(p, dy[t * o + o_]) * naive::seen(p, w[o_ * i + col]));
        off(dx[at], old.map(|old| f64::from(old[at])).into_iter().chain(terms)).is_none()
    })
}

/// Whether `dw` is old + dy^T x within rounding.
fn is_dw(
    dw: &[f32],
    old: &[f32],
    dy: &[f32],
    x: Rows<'_>,
    [t, o, i]: [usize; 3],
    p: Precision,
) -> bool {
    (0..dw.len()).all(|at| {
        let (row, col) = (at / i, at % i);
        let terms =
            (0..t).map(|t| naive::seen(p, dy[t * o + row]) * naive::seen(p, x.get(t * i + col)));
        off(dw[at], [f64::from(old[at])].into_iter().chain(terms)).is_none()
    })
}

#[test]
fn dx_agrees_with_its_definition_in_every_class_and_format() {
    for cpu in cpus(2) {
        for format in Format::ALL {
            for [t, o, i] in SHAPES {
                // Block formats have whole blocks of inputs, so fewer shapes.
                let block = format.block_len();
                if block > 1 && ![3, 17, 33].contains(&t) {
                    continue;
                }
                let i = i.next_multiple_of(block);
                let (w, plain) = weights(&cpu, format, o, i);
                let (dy, old) = (noise(3, t * o), noise(4, t * i));
                let p = Precision::of(format);
                let mut dx = vec![f32::NAN; t * i];
                matmul_dx(&cpu, &mut dx, &dy, &w, Write::Set);
                let name = format!("{} {} {t} {o} {i}", cpu.class, format.name());
                assert!(is_dx(&dx, None, &dy, &plain, [t, o, i], p), "{name}");
                dx.copy_from_slice(&old);
                matmul_dx(&cpu, &mut dx, &dy, &w, Write::Add);
                assert!(is_dx(&dx, Some(&old), &dy, &plain, [t, o, i], p), "{name} added");
            }
        }
    }
}

#[test]
fn dw_agrees_with_its_definition_in_every_class_and_precision() {
    for cpu in cpus(2) {
        for [t, o, i] in SHAPES {
            let (dy, x, old) = (noise(3, t * o), noise(4, t * i), noise(5, o * i));
            let rounded: Vec<bf16> = x.iter().map(|x| bf16::from_f32(*x)).collect();
            for p in [Precision::F32, Precision::Bf16] {
                for x in [Rows::F32(&x), Rows::Bf16(&rounded)] {
                    let mut dw = old.clone();
                    matmul_dw(&cpu, &mut dw, &dy, x, &blocks(1, t), p);
                    let name = format!("{} {p:?} {t} {o} {i}", cpu.class);
                    assert!(is_dw(&dw, &old, &dy, x, [t, o, i], p), "{name}");
                }
            }
        }
    }
}

#[test]
fn a_token_has_the_same_dx_alone_and_among_many_on_any_threads() {
    for (one, two) in cpus(1).iter().zip(&cpus(2)) {
        for format in [Format::F32, Format::BF16, Format::F16, Format::Q4_K] {
            let [t, o, i] = [35, 530, 256];
            let (w, _) = weights(one, format, o, i);
            let dy = noise(3, t * o);
            let mut all = vec![f32::NAN; t * i];
            matmul_dx(two, &mut all, &dy, &w, Write::Set);
            for (from, n) in [(0, 1), (34, 1), (3, 13), (20, 15)] {
                let mut some = vec![f32::NAN; n * i];
                matmul_dx(one, &mut some, &dy[from * o..][..n * o], &w, Write::Set);
                let name = format!("{} {} {from} {n}", one.class, format.name());
                assert_eq!(bits(&some), bits(&all[from * i..][..n * i]), "{name}");
            }
        }
    }
}

#[test]
fn micro_batches_and_threads_change_no_bit_of_dw() {
    for (one, two) in cpus(1).iter().zip(&cpus(3)) {
        let [rows, row_tokens, o, i] = [3, 301, 45, 50];
        let t = rows * row_tokens;
        let (dy, x, old) = (noise(3, t * o), noise(4, t * i), noise(5, o * i));
        for p in [Precision::F32, Precision::Bf16] {
            let mut whole = old.clone();
            matmul_dw(two, &mut whole, &dy, Rows::F32(&x), &blocks(rows, row_tokens), p);
            let mut cut = old.clone();
            // Row by row, and the first row block by block.
            for from in [0..256, 256..301, 301..602, 602..903] {
                let n = from.len();
                let (dy, x) = (&dy[from.start * o..from.end * o], &x[from.start * i..from.end * i]);
                matmul_dw(one, &mut cut, dy, Rows::F32(x), &blocks(1, n), p);
            }
            assert_eq!(bits(&cut), bits(&whole), "{} {p:?}", one.class);
        }
    }
}

#[test]
fn products_of_one_input_have_the_bits_of_each_alone() {
    for cpu in cpus(1).iter().chain(&cpus(3)) {
        for (rows, row_tokens, outs, i) in [
            (1, 1, &[1][..], 1),
            (3, 301, &[45, 45, 20], 50),
            (2, 96, &[12, 33], 32),
            (9, 256, &[40], 17),
            (1, 0, &[3], 3),
        ] {
            let t = rows * row_tokens;
            let (x, old) = (noise(4, t * i), noise(5, t * i));
            let narrow: Vec<bf16> = x.iter().map(|x| bf16::from_f32(*x)).collect();
            let dy: Vec<Vec<f32>> = outs.iter().map(|&o| noise(o as u64, t * o)).collect();
            for format in [Format::BF16, Format::F32] {
                let p = Precision::of(format);
                let pack = |&o: &usize| Packed::from_f32(cpu, format, o, i, &noise(6, o * i));
                let w: Vec<Packed> = outs.iter().map(pack).collect();
                let dw: Vec<Vec<f32>> = outs.iter().map(|&o| noise(7, o * i)).collect();
                for x in [Rows::F32(&x), Rows::Bf16(&narrow)] {
                    let (mut dx, mut want) = (old.clone(), old.clone());
                    let mut sums = dw.clone();
                    let parts = dy.iter().zip(&w).zip(&mut sums);
                    let mut parts: Vec<Back<'_>> =
                        parts.map(|((dy, w), dw)| Back { dy, w, dw: Some(dw) }).collect();
                    let blocks = blocks(rows, row_tokens);
                    let all = Some((&mut dx[..], Write::Add));
                    matmul_back(cpu, all, x, &mut parts, &blocks);
                    for j in (0..outs.len()).rev() {
                        matmul_dx(cpu, &mut want, &dy[j], &w[j], Write::Add);
                        let mut alone = dw[j].clone();
                        matmul_dw(cpu, &mut alone, &dy[j], x, &blocks, p);
                        let name = format!("{} {t} {outs:?} {i} {}", cpu.class, format.name());
                        assert_eq!(bits(&sums[j]), bits(&alone), "dW {j} {name}");
                    }
                    assert_eq!(bits(&dx), bits(&want), "dx {} {t} {outs:?} {i}", cpu.class);
                }
            }
        }
    }
}

/// Bad products, each made by the good one from bad factors: the tests above would see them.
#[test]
fn a_wrong_transpose_a_sign_a_stale_block_or_a_lost_token_is_seen() {
    let [t, o] = [300, 40];
    let size = [t, o, o];
    for cpu in cpus(1) {
        let (dy, x, plain) = (noise(3, t * o), noise(4, t * o), noise(5, o * o));
        let turned: Vec<f32> = (0..o * o).map(|i| plain[i % o * o + i / o]).collect();
        let negative: Vec<f32> = dy.iter().map(|x| -x).collect();
        for p in [Precision::F32, Precision::Bf16] {
            let format = if p == Precision::F32 { Format::F32 } else { Format::BF16 };
            let dx = |dy: &[f32], w: &[f32]| {
                let mut dx = vec![0.0; t * o];
                let w = Packed::from_f32(&cpu, format, o, o, w);
                matmul_dx(&cpu, &mut dx, dy, &w, Write::Set);
                is_dx(&dx, None, &negative, &plain, size, p)
            };
            assert!(dx(&negative, &plain));
            assert!(!dx(&dy, &plain) && !dx(&negative, &turned));

            let old = vec![0.0; o * o];
            let dw = |dy_: &[f32], x_: &[f32], blocks: &[Range<usize>]| {
                let mut dw = old.clone();
                matmul_dw(&cpu, &mut dw, dy_, Rows::F32(x_), blocks, p);
                is_dw(&dw, &old, &dy, Rows::F32(&x), size, p)
            };
            let all = blocks(1, t);
            let (mut stale, mut lost) = (x.clone(), dy.clone());
            stale.copy_within(0..(t - BLOCK_TOKENS) * o, BLOCK_TOKENS * o);
            lost[(t - 1) * o..].fill(0.0);
            assert!(dw(&dy, &x, &all));
            assert!(!dw(&negative, &x, &all) && !dw(&x, &dy, &all), "sign, transpose");
            assert!(!dw(&dy, &stale, &all) && !dw(&lost, &x, &all), "stale, lost");
            let cut = BLOCK_TOKENS * o;
            assert!(!dw(&dy[..cut], &x[..cut], &all[..1]), "the last block");
        }
    }
}

#[test]
#[should_panic(expected = "a block does not follow the one before")]
fn blocks_with_a_gap_are_refused() {
    let cpu = Cpu::new(Class::Portable, 1);
    let (dy, x) = ([0.0; 4], [0.0; 4]);
    matmul_dw(&cpu, &mut [0.0], &dy, Rows::F32(&x), &[0..1, 2..4], Precision::F32);
}

#[test]
fn empty_products_add_nothing_and_set_zero() {
    let cpu = Cpu::new(Class::best(), 2);
    let none = Packed::zeroed(&cpu, Format::BF16, 0, 3);
    let mut dx = [1.0; 6];
    matmul_dx(&cpu, &mut dx, &[], &none, Write::Add);
    assert_eq!(dx, [1.0; 6]);
    matmul_dx(&cpu, &mut dx, &[], &none, Write::Set);
    assert_eq!(dx, [0.0; 6]);
    let mut dw = [1.0; 6];
    matmul_dw(&cpu, &mut dw, &[], Rows::F32(&[]), &[], Precision::Bf16);
    assert_eq!(dw, [1.0; 6]);
}

/// The compiled code of the tile unit, if need be with each instruction served by the definition.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[test]
fn the_tile_unit_gives_the_bits_of_its_definition() {
    if !Class::Avx512.runs_here() {
        return;
    }
    crate::tiles::trap::serve_tiles();
    let definition = Cpu::emulated(2);
    let mut hardware = Cpu::emulated(2);
    hardware.emulates_tiles = false;
    for [t, o, i] in [[1, 1, 1], [33, 70, 49], [257, 19, 21]] {
        let (dy, x) = (noise(3, t * o), noise(4, t * i));
        let w = Packed::from_f32(&hardware, Format::BF16, o, i, &noise(5, o * i));
        let both = [&definition, &hardware].map(|cpu| {
            let (mut dx, mut dw) = (vec![f32::NAN; t * i], vec![0.5; o * i]);
            matmul_dx(cpu, &mut dx, &dy, &w, Write::Set);
            matmul_dw(cpu, &mut dw, &dy, Rows::F32(&x), &blocks(1, t), Precision::Bf16);
            [bits(&dx), bits(&dw)]
        });
        assert_eq!(both[0], both[1], "{t} {o} {i}");
    }
}
