//! The fused head against the products and the loss that it stands for.

mod soft;

use super::*;
use crate::gemm::backward::blocks;
use crate::naive;
use crate::sample::Sample;
use half::bf16;

struct Case {
    width: usize,
    vocab: usize,
    x: Vec<f32>,
    w: Vec<f32>,
    ids: Vec<u32>,
    weights: Vec<f32>,
}

/// Nats, dx and dW.
type Grads = (Vec<f32>, Vec<f32>, Vec<f32>);

const SCALE: f32 = 0.125;

impl Case {
    fn new(seed: u64, tokens: usize, vocab: usize, width: usize) -> Case {
        let mut sample = Sample::new(seed);
        let mut numbers = |n: usize| -> Vec<f32> {
            sample.normals(n).iter().map(|x| bf16::from_f32(*x).to_f32()).collect()
        };
        let (x, w) = (numbers(tokens * width), numbers(vocab * width));
        let ids = (0..tokens).map(|_| (sample.bits() % vocab as u64) as u32).collect();
        let weights = (0..tokens).map(|t| [1.0, 0.5, 0.0, -2.0][t % 4]).collect();
        Case { width, vocab, x, w, ids, weights }
    }

    fn run(&self, cpu: &Cpu, blocks: &[Range<usize>]) -> Grads {
        let w = Packed::from_f32(cpu, Format::BF16, self.vocab, self.width, &self.w);
        let mut grads =
            (vec![9.0; self.ids.len()], vec![9.0; self.x.len()], vec![1.0; self.w.len()]);
        let targets = Targets { ids: &self.ids, weights: &self.weights, scale: SCALE, z_loss: 0.0 };
        let head = Head { x: &self.x, w: &w, targets, blocks };
        let (nats, dx, dw) = (&mut grads.0, &mut grads.1, &mut grads.2);
        let loss = head_loss(cpu, nats, &head, Some(HeadGrads { dx, dw: Some(dw) }));
        let mut again = vec![9.0; self.ids.len()];
        let alone = head_loss(cpu, &mut again, &head, None);
        assert_eq!(alone.nats.to_bits(), loss.nats.to_bits(), "loss alone");
        assert!(bits(&again).eq(bits(&grads.0)), "nats alone");
        grads
    }

    /// In f64 from the definition of the loss.
    fn naive(&self) -> (Vec<f32>, Vec<f64>, Vec<f64>) {
        let (d, v) = (self.width, self.vocab);
        let mut logits: Vec<f32> = vec![0.0; self.ids.len() * v];
        for (i, logit) in logits.iter_mut().enumerate() {
            let (t, o) = (i / v, i % v);
            let terms = self.x[t * d..][..d].iter().zip(&self.w[o * d..][..d]);
            *logit = terms.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32;
        }
        let mut nats = vec![9.0; self.ids.len()];
        let targets = Targets { ids: &self.ids, weights: &self.weights, scale: SCALE, z_loss: 0.0 };
        naive::cross_entropy(&mut nats, &mut logits, v, &targets);
        let (mut dx, mut dw) = (vec![0.0; self.x.len()], vec![1.0; self.w.len()]);
        for (i, g) in logits.iter().enumerate() {
            for k in 0..d {
                dx[i / v * d + k] += f64::from(*g) * f64::from(self.w[i % v * d + k]);
                dw[i % v * d + k] += f64::from(*g) * f64::from(self.x[i / v * d + k]);
            }
        }
        (nats, dx, dw)
    }
}

fn bits(x: &[f32]) -> impl Iterator<Item = u32> + '_ {
    x.iter().map(|x| x.to_bits())
}

fn classes() -> impl Iterator<Item = Class> {
    Class::available().into_iter().filter(|class| *class != Class::Amx)
}

/// The greatest difference, as a share of the root mean square of what is wanted.
fn off(got: &[f32], want: &[f64]) -> f64 {
    let size = want.iter().map(|x| x * x).sum::<f64>() / want.len() as f64;
    let off = got.iter().zip(want).map(|(a, b)| (f64::from(*a) - b).abs());
    off.fold(0.0, f64::max) / size.sqrt().max(1e-9)
}

const SHAPES: [[usize; 3]; 8] = [
    [1, 1, 1],
    [3, 2, 5],
    [9, 16, 16],
    [17, 97, 33],
    [65, 193, 48],
    [31, 401, 64],
    [258, 100, 20],
    [530, 50, 300],
];

#[test]
fn loss_and_gradients_agree_with_their_definition_in_every_class() {
    for [tokens, vocab, width] in SHAPES {
        let case = Case::new(1, tokens, vocab, width);
        let (nats, dx, dw) = case.naive();
        for class in classes() {
            let got = case.run(&Cpu::new(class, 2), &blocks(1, tokens));
            for (got, want) in got.0.iter().zip(&nats) {
                assert!((got - want).abs() <= 1e-5 * (1.0 + want.abs()), "{got}, not {want}");
            }
            // bf16 keeps 8 bits of each factor; roundings add up like a random walk.
            let name = format!("{class} {tokens} x {vocab} x {width}");
            assert!(off(&got.1, &dx) < 0.03, "{name}: dx is off by {}", off(&got.1, &dx));
            assert!(off(&got.2, &dw) < 0.03, "{name}: dW is off by {}", off(&got.2, &dw));
        }
    }
}

#[test]
fn threads_and_micro_batches_change_no_bit() {
    for [tokens, vocab, width] in SHAPES {
        let case = Case::new(2, tokens, vocab, width);
        let blocks = blocks(1, tokens);
        for class in classes() {
            let cpu = Cpu::new(class, 1);
            let want = case.run(&cpu, &blocks);
            let other = case.run(&Cpu::new(class, 3), &blocks);
            assert!(bits(&want.0).eq(bits(&other.0)), "{class}: nats on three threads");
            assert!(bits(&want.1).eq(bits(&other.1)), "{class}: dx on three threads");
            assert!(bits(&want.2).eq(bits(&other.2)), "{class}: dW on three threads");
            let w = Packed::from_f32(&cpu, Format::BF16, vocab, width, &case.w);
            let mut dw = vec![1.0; case.w.len()];
            for block in &blocks {
                let rows = block.start * width..block.end * width;
                let mut nats = vec![0.0; block.len()];
                let mut dx = vec![0.0; rows.len()];
                let targets = Targets {
                    ids: &case.ids[block.clone()],
                    weights: &case.weights[block.clone()],
                    scale: SCALE,
                    z_loss: 0.0,
                };
                let alone = 0..block.len();
                let blocks = std::slice::from_ref(&alone);
                let head = Head { x: &case.x[rows.clone()], w: &w, targets, blocks };
                let grads = HeadGrads { dx: &mut dx, dw: Some(&mut dw) };
                head_loss(&cpu, &mut nats, &head, Some(grads));
                assert!(bits(&nats).eq(bits(&want.0[block.clone()])), "{class}: nats alone");
                assert!(bits(&dx).eq(bits(&want.1[rows])), "{class}: dx alone");
            }
            assert!(bits(&dw).eq(bits(&want.2)), "{class}: dW block by block");
        }
    }
}

#[test]
fn a_row_that_outgrows_its_first_logits_begins_again() {
    // Output 300 is 200 greater than any of the first; the sum would pass f32.
    let mut case = Case::new(3, 5, 330, 8);
    for t in [0, 3] {
        case.x[t * 8..(t + 1) * 8].fill(5.0);
    }
    case.w[300 * 8..301 * 8].fill(8.0);
    case.ids[0] = 300;
    let (nats, dx, dw) = case.naive();
    for class in classes() {
        let got = case.run(&Cpu::new(class, 1), &blocks(1, 5));
        for (got, want) in got.0.iter().zip(&nats) {
            assert!((got - want).abs() <= 1e-5 * (1.0 + want.abs()), "{got}, not {want}");
        }
        assert!(off(&got.1, &dx) < 0.03 && off(&got.2, &dw) < 0.03, "{class}");
    }
}

#[test]
fn no_number_gives_none_and_a_row_without_weight_gives_nothing() {
    for class in classes() {
        let mut case = Case::new(4, 4, 20, 6);
        case.x[2 * 6] = f32::NAN; // has no weight
        let got = case.run(&Cpu::new(class, 1), &blocks(1, 4));
        assert!(got.0.iter().chain(&got.1).chain(&got.2).all(|x| x.is_finite()), "{class}");
        assert_eq!((got.0[2], &got.1[12..18]), (0.0, &[0.0; 6][..]), "{class}");
        for bad in [f32::NAN, f32::INFINITY] {
            case.x[6] = bad;
            let got = case.run(&Cpu::new(class, 1), &blocks(1, 4));
            assert!(got.0[1].is_nan() && got.1[6].is_nan() && got.2[0].is_nan(), "{class} {bad}");
            assert!(got.0[0].is_finite() && got.1[0].is_finite(), "{class} {bad}");
        }
    }
}

#[test]
#[should_panic(expected = "target 5 of row 1, vocabulary 5")]
fn a_target_past_the_vocabulary_is_refused() {
    let mut case = Case::new(5, 2, 5, 3);
    case.ids[1] = 5;
    case.run(&Cpu::new(Class::Portable, 1), &blocks(1, 2));
}
