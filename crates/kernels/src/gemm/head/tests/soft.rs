//! The same with soft targets.

use super::*;

/// A case with lists of K outputs, every second with its target among them.
struct Taught {
    case: Case,
    ids: Vec<u32>,
    probs: Vec<f32>,
    rest: Vec<f32>,
    hard: f32,
    soft: f32,
}

/// Nats, divergences, dx and dW.
type Grads = [Vec<f32>; 4];

impl Taught {
    fn new(seed: u64, [tokens, vocab, width]: [usize; 3], (hard, soft): (f32, f32)) -> Taught {
        let case = Case::new(seed, tokens, vocab, width);
        let mut sample = Sample::new(seed + 100);
        let k = 7.min(vocab);
        let (mut ids, mut probs, mut rest) = (Vec::new(), Vec::new(), Vec::new());
        for t in 0..tokens {
            let mut own = if t % 2 == 0 { vec![case.ids[t]] } else { Vec::new() };
            while own.len() < k {
                let id = (sample.bits() % vocab as u64) as u32;
                if !own.contains(&id) {
                    own.push(id);
                }
            }
            own.sort_unstable();
            ids.extend(own);
            let raw: Vec<f32> = sample.normals(k + 1).iter().map(|x| x.exp()).collect();
            let last = if k == vocab || t % 3 == 0 { 0.0 } else { raw[k] };
            let sum = raw[..k].iter().sum::<f32>() + last;
            probs.extend(raw[..k].iter().map(|x| x / sum));
            rest.push(last / sum);
        }
        Taught { case, ids, probs, rest, hard, soft }
    }

    fn soft(&self, rows: Range<usize>) -> Soft<'_> {
        let k = self.ids.len() / self.rest.len();
        let listed = rows.start * k..rows.end * k;
        let (ids, probs) = (&self.ids[listed.clone()], &self.probs[listed]);
        Soft { ids, probs, rest: &self.rest[rows], hard: self.hard, soft: self.soft }
    }

    /// Block by block.
    fn run(&self, cpu: &Cpu) -> Grads {
        let Case { width, vocab, .. } = self.case;
        let tokens = self.case.ids.len();
        let w = Packed::from_f32(cpu, Format::BF16, vocab, width, &self.case.w);
        let (mut nats, mut kl) = (vec![9.0; tokens], vec![9.0; tokens]);
        let (mut dx, mut dw) = (vec![9.0; self.case.x.len()], vec![1.0; self.case.w.len()]);
        for block in blocks(1, tokens) {
            let rows = block.start * width..block.end * width;
            let (ids, weights) = (&self.case.ids[block.clone()], &self.case.weights[block.clone()]);
            let targets = Targets { ids, weights, scale: SCALE, z_loss: 0.0 };
            let (alone, soft) = (0..block.len(), self.soft(block.clone()));
            let blocks = std::slice::from_ref(&alone);
            let head = Head { x: &self.case.x[rows.clone()], w: &w, targets, blocks };
            let out = [&mut nats[block.clone()], &mut kl[block.clone()]];
            let grads = HeadGrads { dx: &mut dx[rows], dw: Some(&mut dw) };
            soft_head_loss(cpu, out, &head, &soft, Some(grads));
            let (mut again, mut kl_again) = (vec![9.0; block.len()], vec![9.0; block.len()]);
            soft_head_loss(cpu, [&mut again, &mut kl_again], &head, &soft, None);
            assert!(bits(&again).eq(bits(&nats[block.clone()])), "nats alone");
            assert!(bits(&kl_again).eq(bits(&kl[block])), "kl alone");
        }
        [nats, kl, dx, dw]
    }

    /// In f64 from the definition of the loss.
    fn naive(&self) -> ([Vec<f32>; 2], [Vec<f64>; 2]) {
        let (d, v, tokens) = (self.case.width, self.case.vocab, self.case.ids.len());
        let mut logits: Vec<f32> = vec![0.0; tokens * v];
        for (i, logit) in logits.iter_mut().enumerate() {
            let terms = self.case.x[i / v * d..][..d].iter().zip(&self.case.w[i % v * d..][..d]);
            *logit = terms.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32;
        }
        let (mut nats, mut kl) = (vec![9.0; tokens], vec![9.0; tokens]);
        let Case { ids, weights, .. } = &self.case;
        let targets = Targets { ids, weights, scale: SCALE, z_loss: 0.0 };
        let out = [&mut nats[..], &mut kl[..]];
        naive::soft_cross_entropy(out, &mut logits, v, &targets, &self.soft(0..tokens));
        let (mut dx, mut dw) = (vec![0.0; self.case.x.len()], vec![1.0; self.case.w.len()]);
        for (i, g) in logits.iter().enumerate() {
            for k in 0..d {
                dx[i / v * d + k] += f64::from(*g) * f64::from(self.case.w[i % v * d + k]);
                dw[i % v * d + k] += f64::from(*g) * f64::from(self.case.x[i / v * d + k]);
            }
        }
        ([nats, kl], [dx, dw])
    }
}

const SHARES: [(f32, f32); 2] = [(0.25, 0.75), (0.0, 4.0)];

#[test]
fn losses_and_gradients_agree_with_their_definition_in_every_class() {
    for shape in SHAPES {
        for shares in SHARES {
            let taught = Taught::new(1, shape, shares);
            let (losses, grads) = taught.naive();
            for class in classes() {
                let [nats, kl, dx, dw] = taught.run(&Cpu::new(class, 2));
                for (got, want) in nats.iter().chain(&kl).zip(losses.iter().flatten()) {
                    assert!((got - want).abs() <= 2e-5 * (1.0 + want.abs()), "{got}, not {want}");
                }
                let name = format!("{class} {shape:?} {shares:?}");
                let [of_x, of_w] = [off(&dx, &grads[0]), off(&dw, &grads[1])];
                assert!(of_x < 0.03 && of_w < 0.03, "{name}: off by {of_x} and {of_w}");
            }
        }
    }
}

#[test]
fn threads_change_no_bit() {
    for shape in SHAPES {
        let taught = Taught::new(2, shape, SHARES[0]);
        for class in classes() {
            let (one, three) = (taught.run(&Cpu::new(class, 1)), taught.run(&Cpu::new(class, 3)));
            for (one, three) in one.iter().zip(&three) {
                assert!(bits(one).eq(bits(three)), "{class} {shape:?}");
            }
        }
    }
}

#[test]
fn a_listed_output_far_above_all_others_and_a_row_that_outgrows_its_first_logits_are_right() {
    for listed in [true, false] {
        let mut taught = Taught::new(3, [5, 330, 8], SHARES[0]);
        for t in [0, 3] {
            taught.case.x[t * 8..(t + 1) * 8].fill(5.0);
            let own = &mut taught.ids[t * 7..(t + 1) * 7];
            own.copy_from_slice(&[1, 2, 3, 4, 5, 6, if listed { 300 } else { 301 }]);
        }
        taught.case.w[300 * 8..301 * 8].fill(8.0);
        taught.case.ids[0] = 300;
        let (losses, grads) = taught.naive();
        for class in classes() {
            let [nats, kl, dx, dw] = taught.run(&Cpu::new(class, 1));
            for (got, want) in nats.iter().chain(&kl).zip(losses.iter().flatten()) {
                assert!((got - want).abs() <= 1e-4 * (1.0 + want.abs()), "{listed} {got}, {want}");
            }
            assert!(off(&dx, &grads[0]) < 0.03 && off(&dw, &grads[1]) < 0.03, "{class} {listed}");
        }
    }
}

#[test]
fn no_number_gives_none_and_a_row_without_weight_gives_nothing() {
    for class in classes() {
        let mut taught = Taught::new(4, [4, 20, 6], SHARES[0]);
        taught.case.x[2 * 6] = f32::NAN; // has no weight
        let got = taught.run(&Cpu::new(class, 1));
        assert!(got.iter().flatten().all(|x| x.is_finite()), "{class}");
        assert_eq!((got[0][2], got[1][2], &got[2][12..18]), (0.0, 0.0, &[0.0; 6][..]), "{class}");
        taught.case.x[6] = f32::NAN;
        let [nats, kl, dx, _] = taught.run(&Cpu::new(class, 1));
        assert!(nats[1].is_nan() && kl[1].is_nan() && dx[6].is_nan(), "{class}");
        assert!(nats[0].is_finite() && kl[0].is_finite() && dx[0].is_finite(), "{class}");
    }
}
