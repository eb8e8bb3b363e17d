//! Products against their definition, and the same bits in any company.

use super::*;
use crate::blocks;
use crate::sample::noise;

fn raw_weights(format: Format, rows: usize, cols: usize, seed: u64) -> Vec<u8> {
    let mut raw = vec![0; format.bytes(rows * cols).expect("whole blocks")];
    blocks::quantise(format, &noise(seed, rows * cols), &mut raw).expect("finite numbers");
    raw
}

/// Every class of the machine, and the tile unit by its definition.
fn cpus(threads: usize) -> Vec<Cpu> {
    let classes = Class::available().into_iter().map(|class| Cpu::new(class, threads));
    classes.chain([Cpu::emulated(threads)]).collect()
}

/// Rows of noise in which some blocks of columns are far larger than the others.
fn activations(seed: u64, rows: usize, cols: usize) -> Vec<f32> {
    let mut x = noise(seed, rows * cols);
    for (t, row) in x.chunks_mut(cols.max(1)).enumerate() {
        for (b, block) in row.chunks_mut(32).enumerate() {
            if (2 * t + 3 * b + seed as usize).is_multiple_of(7) {
                block.iter_mut().for_each(|x| *x *= 9.0);
            }
        }
    }
    x
}

/// The activations of `cols` columns that a format multiplies: as they are, rounded to bf16, or as
/// codes.
fn seen(class: Class, format: Format, x: &[f32], cols: usize) -> Vec<f32> {
    match format {
        Format::F32 => x.to_vec(),
        Format::F16 if class != Class::Amx => x.to_vec(),
        Format::F16 | Format::BF16 => x.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect(),
        _ => x.chunks(cols).flat_map(decoded).collect(),
    }
}

/// What the codes of one row stand for: of 15 bits in blocks of 32 columns whose peak is more than
/// half an exponent above what is usual in the row, else of 8.
fn decoded(row: &[f32]) -> Vec<f32> {
    let peak = |block: &[f32]| block.iter().fold(0.0f32, |a, x| a.max(x.abs()));
    let bits = row.chunks(32).map(|block| u64::from(peak(block).to_bits()));
    let usual = bits.sum::<u64>() / (row.len() / 32) as u64;
    let large = f32::from_bits(usual as u32 + (1 << 22));
    let decode = |block: &[f32]| {
        let peak = peak(block);
        let (d, inverse) = (peak / 16256.0, if peak > 0.0 { 16256.0 / peak } else { 0.0 });
        let step = if peak > large { 1.0 } else { 128.0 };
        let code = move |x: &f32| d * (x * inverse / step).round_ties_even() * step;
        block.iter().map(code).collect::<Vec<_>>()
    };
    row.chunks(32).flat_map(decode).collect()
}

fn product(cpu: &Cpu, x: &[f32], rows: usize, w: &Packed) -> Vec<f32> {
    let mut y = vec![f32::NAN; rows * w.rows()];
    matmul(cpu, x, rows, &mut [Product { y: &mut y, w }]);
    y
}

fn bits(y: &[f32]) -> Vec<u32> {
    y.iter().map(|y| y.to_bits()).collect()
}

/// Rows of weights, columns: crossing groups, pairs of groups, tasks, blocks and panels.
fn shapes(format: Format) -> Vec<(usize, usize)> {
    let b = format.block_len();
    let mut shapes = vec![(1, b), (16, 2 * b), (17, 3 * b), (33, b), (100, 2 * b), (80, 9 * b)];
    if b == 1 {
        shapes.extend([(5, 7), (40, 129), (48, 0)]);
    }
    if b == 32 {
        shapes.push((18, 70 * 32));
    }
    shapes
}

#[test]
fn products_agree_with_their_definition_in_every_class_and_format() {
    for cpu in cpus(2) {
        let class = cpu.class;
        for format in Format::ALL {
            for (n, k) in shapes(format) {
                let raw = raw_weights(format, n, k, 7);
                let w = Packed::new(&cpu, format, n, k, &raw);
                let mut plain = vec![0.0; n * k];
                blocks::unpack(format, &raw, &mut plain);
                for rows in [1, 2, 5, 6, 7, 13, 26, 50] {
                    if k == 0 {
                        continue;
                    }
                    let x = activations(3, rows, k);
                    let y = product(&cpu, &x, rows, &w);
                    let x = seen(class, format, &x, k);
                    for (t, n) in (0..rows).flat_map(|t| (0..n).map(move |n| (t, n))) {
                        let terms = (0..k)
                            .map(|k_| f64::from(x[t * k + k_]) * f64::from(plain[n * k + k_]));
                        let (mut sum, mut size) = (0.0, 0.0);
                        terms.for_each(|term| (sum, size) = (sum + term, size + term.abs()));
                        // Each step of the sum rounds once; min terms add parts of both signs.
                        let tolerance = (size + 4.0 * k as f64) * f64::from(f32::EPSILON) * 2.0;
                        let off = (f64::from(y[t * w.rows() + n]) - sum).abs();
                        let name = format.name();
                        assert!(off <= tolerance, "{class} {name} {n}/{k} row {t}: off by {off}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_alone_has_the_bits_it_has_among_many_on_any_number_of_threads() {
    for (one, two) in cpus(1).iter().zip(&cpus(2)) {
        let class = one.class;
        for format in Format::ALL {
            let (n, k) = (150, if format.block_len() == 1 { 83 } else { 256 });
            let w = Packed::new(one, format, n, k, &raw_weights(format, n, k, 5));
            let x = activations(11, 31, k);
            let all = product(two, &x, 31, &w);
            for t in 0..31 {
                let alone = product(one, &x[t * k..(t + 1) * k], 1, &w);
                assert_eq!(bits(&alone), bits(&all[t * n..(t + 1) * n]), "{class} {format:?} {t}");
            }
            let few = product(two, &x[..4 * k], 4, &w);
            assert_eq!(few, all[..4 * n], "{class} {format:?}");
        }
    }
}

#[test]
fn rows_come_back_as_the_file_has_them() {
    let cpu = Cpu::new(Class::best(), 2);
    for format in Format::ALL {
        let (n, k) = (35, format.block_len() * 3);
        let raw = raw_weights(format, n, k, 9);
        let w = Packed::new(&cpu, format, n, k, &raw);
        let mut plain = vec![0.0; n * k];
        blocks::unpack(format, &raw, &mut plain);
        let mut row = vec![0.0; k];
        for i in 0..n {
            w.row(i, &mut row);
            assert_eq!(row, plain[i * k..(i + 1) * k], "{format:?} row {i}");
        }
    }
}

#[test]
fn several_products_of_one_call_equal_single_calls() {
    let cpu = Cpu::new(Class::best(), 2);
    let formats = [Format::Q4_K, Format::Q6_K, Format::F32, Format::BF16, Format::Q4_1];
    let weights: Vec<Packed> = formats
        .iter()
        .enumerate()
        .map(|(i, &f)| Packed::new(&cpu, f, 20 + i, 256, &raw_weights(f, 20 + i, 256, 4)))
        .collect();
    let x = noise(2, 9 * 256);
    let mut together: Vec<Vec<f32>> = weights.iter().map(|w| vec![0.0; 9 * w.rows()]).collect();
    let mut products: Vec<Product> =
        together.iter_mut().zip(&weights).map(|(y, w)| Product { y, w }).collect();
    matmul(&cpu, &x, 9, &mut products);
    for (y, w) in together.iter().zip(&weights) {
        assert_eq!(*y, product(&cpu, &x, 9, w));
    }
}

#[test]
fn block_formats_have_the_same_bits_by_tiles_and_by_vectors() {
    let tiled = Cpu::emulated(2);
    let plain = Cpu::new(tiled.lanes().min(Class::Avx512), 2);
    for format in Format::ALL.into_iter().filter(|f| f.block_len() > 1) {
        for (n, k) in [(37, 1_280), (16, 256)] {
            let w = Packed::new(&plain, format, n, k, &raw_weights(format, n, k, 3));
            for rows in [3, 8, 9, 16, 17, 40] {
                let x = activations(rows as u64, rows, k);
                let (a, b) = (product(&tiled, &x, rows, &w), product(&plain, &x, rows, &w));
                assert_eq!(bits(&a), bits(&b), "{format:?} {n}/{k} {rows} rows");
            }
        }
    }
}

#[test]
fn columns_past_one_stretch_and_odd_ends_add_in_the_same_order() {
    let (one, two) = (Cpu::emulated(1), Cpu::emulated(2));
    // Leaves codes of -1 in the panel of this thread, which a bf16 would read as NaN.
    let w = Packed::new(&one, Format::Q8_0, 16, 512, &raw_weights(Format::Q8_0, 16, 512, 4));
    product(&one, &noise(1, 4 * 512), 4, &w);
    for format in [Format::BF16, Format::F16] {
        for (n, k) in [(70, 1_061), (33, 1_024), (5, 2)] {
            let w = Packed::new(&one, format, n, k, &raw_weights(format, n, k, 8));
            let x = noise(21, 35 * k);
            let all = product(&two, &x, 35, &w);
            for rows in [1, 15, 17, 33] {
                let some = product(&one, &x[k..(rows + 1) * k], rows, &w);
                assert!(some.iter().all(|y| y.is_finite()), "{format:?} {n}/{k} {rows}");
                assert_eq!(bits(&some), bits(&all[n..(rows + 1) * n]), "{format:?} {n}/{k} {rows}");
            }
        }
    }
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
    for format in Format::ALL {
        for (n, k) in shapes(format).into_iter().filter(|&(_, k)| k > 0) {
            let w = Packed::new(&hardware, format, n, k, &raw_weights(format, n, k, 6));
            for rows in [1, 3, 16, 33] {
                let x = activations(5, rows, k);
                let (a, b) = (product(&hardware, &x, rows, &w), product(&definition, &x, rows, &w));
                assert_eq!(bits(&a), bits(&b), "{format:?} {n}/{k} {rows} rows");
            }
        }
    }
}

#[test]
fn strips_of_rows_change_no_bit() {
    let (n, k) = (37, 12_000);
    for class in Class::available() {
        let cpu = Cpu::new(class, 2);
        for format in [Format::F32, Format::F16, Format::BF16] {
            let w = Packed::new(&cpu, format, n, k, &raw_weights(format, n, k, 7));
            let rows = 101;
            let strip = Job::strip(class, &w, rows);
            assert!(class == Class::Amx || strip < rows, "{class}: one strip of {strip}");
            let x = noise(3, rows * k);
            let y = product(&cpu, &x, rows, &w);
            for t in [0, strip.min(rows) - 1, strip % rows, rows - 1] {
                let alone = product(&cpu, &x[t * k..(t + 1) * k], 1, &w);
                assert_eq!(bits(&alone), bits(&y[t * n..(t + 1) * n]), "{class} row {t}");
            }
        }
    }
}
