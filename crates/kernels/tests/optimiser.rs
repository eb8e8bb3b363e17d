//! AdamW against PyTorch and its definition; the sum of squares in any company.

use herd_kernels::optimiser::{AdamW, adamw, naive, sum_of_squares};
use herd_kernels::{Class, Cpu};

const SETTINGS: AdamW = AdamW {
    lr: 3e-4,
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-8,
    weight_decay: 0.1,
    step: 1,
    grad_scale: 1.0,
};

/// Numbers in -1..1.
fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2001) as f32 / 1000.0 - 1.0).collect()
}

fn recorded() -> Vec<Vec<f32>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/adamw.bin");
    let bytes = std::fs::read(path).expect("testdata is there");
    let numbers: Vec<f32> =
        bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    numbers.chunks(64).map(<[f32]>::to_vec).collect()
}

#[test]
fn a_step_is_that_of_pytorch_to_an_ulp_or_two() {
    let recorded = recorded();
    for class in Class::available() {
        let cpu = Cpu::new(class, 2);
        let (mut w, mut m, mut v) = (recorded[0].clone(), vec![0.0; 64], vec![0.0; 64]);
        for (i, step) in recorded[1..].chunks(4).enumerate() {
            let settings = AdamW { step: i as u64 + 1, ..SETTINGS };
            adamw(&cpu, &mut w, &mut m, &mut v, &step[0], &settings);
            let largest = step[0].iter().fold(0.0f32, |a, g| a.max(g.abs()));
            // One fused multiply-add more or less moves the last bit; in m, that of what cancels.
            let near = |got: &[f32], want: &[f32], cancels: f32| {
                got.iter().zip(want).all(|(got, want)| {
                    (got - want).abs() <= 2.0 * f32::EPSILON * want.abs().max(cancels)
                })
            };
            assert!(near(&m, &step[2], 0.1 * largest), "{class} step {i}: m");
            assert!(near(&v, &step[3], 0.0), "{class} step {i}: v");
            assert!(near(&w, &step[1], 1e-3), "{class} step {i}: w");
            // The next step starts from what PyTorch has, so that roundings do not pile up.
            (w, m, v) = (step[1].clone(), step[2].clone(), step[3].clone());
        }
    }
}

#[test]
fn a_step_agrees_with_its_definition_at_every_length() {
    for class in Class::available() {
        let cpu = Cpu::new(class, 2);
        for n in (0..70).chain([4095, 4096, 9001]) {
            let settings = AdamW { step: 3, grad_scale: 0.25, ..SETTINGS };
            let (old, mean, grad) = (numbers(n, 1), numbers(n, 2), numbers(n, 3));
            let square: Vec<f32> = numbers(n, 4).iter().map(|x| x * x).collect();
            let (mut w, mut m, mut v) = (old.clone(), mean.clone(), square.clone());
            adamw(&cpu, &mut w, &mut m, &mut v, &grad, &settings);
            let (mut w2, mut m2, mut v2) = (old.clone(), mean, square);
            naive::adamw(&mut w2, &mut m2, &mut v2, &grad, &settings);
            for (got, want) in [(&w, &w2), (&m, &m2), (&v, &v2)] {
                for (got, want) in got.iter().zip(want) {
                    // All numbers are at most 1 in size; a few roundings each.
                    assert!((got - want).abs() <= 4.0 * f32::EPSILON, "{class} {n}: {got} {want}");
                }
            }
        }
    }
}

/// A number's step of AdamW in f64, from w, m, v and g: new w, m, v.
type Step = fn([f64; 4], &AdamW) -> [f64; 3];

/// The definition with its parts apart, for mutants: means, corrections, decay, direction.
fn parts(from: [f64; 4], s: &AdamW) -> [f64; 5] {
    let [_, m, v, g] = from;
    let g = g * f64::from(s.grad_scale);
    let (mean, square) = (s.beta1 * m + (1.0 - s.beta1) * g, s.beta2 * v + (1.0 - s.beta2) * g * g);
    let [one, two] = [s.beta1, s.beta2].map(|b| 1.0 - b.powf(s.step as f64));
    [mean, square, one, two, g]
}

const MUTANTS: [(&str, Step); 9] = [
    ("the sign", |[w, m, v, g], s| {
        let [mean, square, one, two, _] = parts([w, m, v, g], s);
        let step = mean / one / ((square / two).sqrt() + s.eps);
        [w * (1.0 - s.lr * s.weight_decay) + s.lr * step, mean, square]
    }),
    ("the mean of the step before", |[w, m, v, g], s| {
        let [mean, square, one, two, _] = parts([w, m, v, g], s);
        let step = m / one / ((square / two).sqrt() + s.eps);
        [w * (1.0 - s.lr * s.weight_decay) - s.lr * step, mean, square]
    }),
    ("the square of the step before", |[w, m, v, g], s| {
        let [mean, square, one, two, _] = parts([w, m, v, g], s);
        let step = mean / one / ((v / two).sqrt() + s.eps);
        [w * (1.0 - s.lr * s.weight_decay) - s.lr * step, mean, square]
    }),
    ("no correction", |[w, m, v, g], s| {
        let [mean, square, ..] = parts([w, m, v, g], s);
        let step = mean / (square.sqrt() + s.eps);
        [w * (1.0 - s.lr * s.weight_decay) - s.lr * step, mean, square]
    }),
    ("the corrections exchanged", |[w, m, v, g], s| {
        let [mean, square, one, two, _] = parts([w, m, v, g], s);
        let step = mean / two / ((square / one).sqrt() + s.eps);
        [w * (1.0 - s.lr * s.weight_decay) - s.lr * step, mean, square]
    }),
    ("no decay", |[w, m, v, g], s| {
        let [mean, square, one, two, _] = parts([w, m, v, g], s);
        [w - s.lr * mean / one / ((square / two).sqrt() + s.eps), mean, square]
    }),
    ("decay in the gradient", |[w, m, v, g], s| {
        let g = g + s.weight_decay * w / f64::from(s.grad_scale);
        let [mean, square, one, two, _] = parts([w, m, v, g], s);
        [w - s.lr * mean / one / ((square / two).sqrt() + s.eps), mean, square]
    }),
    ("no clipping", |[w, m, v, g], s| {
        let s = &AdamW { grad_scale: 1.0, ..*s };
        let [mean, square, one, two, _] = parts([w, m, v, g], s);
        let step = mean / one / ((square / two).sqrt() + s.eps);
        [w * (1.0 - s.lr * s.weight_decay) - s.lr * step, mean, square]
    }),
    ("the gradient in place of its square", |[w, m, v, g], s| {
        let [mean, _, one, two, g] = parts([w, m, v, g], s);
        let square = s.beta2 * v + (1.0 - s.beta2) * g.abs();
        let step = mean / one / ((square / two).sqrt() + s.eps);
        [w * (1.0 - s.lr * s.weight_decay) - s.lr * step, mean, square]
    }),
];

#[test]
fn each_mutant_of_a_step_is_caught() {
    const N: usize = 64;
    let settings = AdamW { lr: 0.01, step: 3, grad_scale: 0.25, ..SETTINGS };
    let (old, mean, grad) = (numbers(N, 1), numbers(N, 2), numbers(N, 3));
    let square: Vec<f32> = numbers(N, 4).iter().map(|x| x * x + 0.01).collect();
    let far = |step: Step, got: [&[f32]; 3]| {
        (0..N).any(|i| {
            let want = step([old[i], mean[i], square[i], grad[i]].map(f64::from), &settings);
            got.iter().zip(want).any(|(got, want)| (f64::from(got[i]) - want).abs() > 1e-6)
        })
    };
    let right: Step = |[w, m, v, g], s| {
        let [mean, square, one, two, _] = parts([w, m, v, g], s);
        let step = mean / one / ((square / two).sqrt() + s.eps);
        [w * (1.0 - s.lr * s.weight_decay) - s.lr * step, mean, square]
    };
    for class in Class::available() {
        let (mut w, mut m, mut v) = (old.clone(), mean.clone(), square.clone());
        adamw(&Cpu::new(class, 2), &mut w, &mut m, &mut v, &grad, &settings);
        assert!(!far(right, [&w, &m, &v]), "{class}");
        for (name, mutant) in MUTANTS {
            assert!(far(mutant, [&w, &m, &v]), "{class}: {name}");
        }
    }
}

#[test]
fn threads_and_classes_change_no_bit_of_the_sum_of_squares() {
    for n in [0, 1, 15, 16, 17, 4096, 4097, 100_003] {
        let x = numbers(n, 5);
        let want: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
        let one = sum_of_squares(&Cpu::new(Class::Portable, 1), &x);
        assert!((one - want).abs() <= want * n as f64 * f64::EPSILON, "{n}: {one} {want}");
        for class in Class::available() {
            let three = sum_of_squares(&Cpu::new(class, 3), &x);
            assert_eq!(three.to_bits(), one.to_bits(), "{class} {n}");
        }
    }
}

#[test]
fn a_gradient_that_is_no_number_is_seen_in_the_sum_of_squares() {
    let cpu = Cpu::new(Class::best(), 2);
    for at in [0, 17, 9_999] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![f32::MAX; 10_000];
            assert!(sum_of_squares(&cpu, &x).is_finite());
            x[at] = bad;
            assert!(!sum_of_squares(&cpu, &x).is_finite(), "{bad} at {at}");
        }
    }
}
