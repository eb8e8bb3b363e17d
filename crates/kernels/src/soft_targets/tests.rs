//! Soft targets against their definition, and their gradient against the slopes of the loss.

use super::*;
use crate::sample::Sample;
use crate::{Class, naive};

/// Rows, outputs, listed outputs.
const SHAPES: [[usize; 3]; 7] =
    [[1, 1, 1], [3, 2, 1], [2, 63, 63], [17, 65, 4], [5, 1009, 64], [2, 4097, 3], [1, 300_000, 9]];

pub(crate) struct Case {
    pub width: usize,
    pub logits: Vec<f32>,
    pub targets: Vec<u32>,
    pub weights: Vec<f32>,
    pub ids: Vec<u32>,
    pub probs: Vec<f32>,
    pub rest: Vec<f32>,
}

pub(crate) const SCALE: f32 = 0.125;

impl Case {
    /// Every second target is listed; probabilities leave a rest or, with `drop`, none.
    pub(crate) fn new(seed: u64, [rows, width, k]: [usize; 3], drop: bool) -> Case {
        let mut sample = Sample::new(seed);
        let logits = sample.normals(rows * width).iter().map(|x| x * 5.0).collect();
        let (mut ids, mut probs, mut rest) = (Vec::new(), Vec::new(), Vec::new());
        let (mut targets, weights) = (Vec::new(), (0..rows).map(|t| [1.0, 0.0, 0.5, 2.0][t % 4]));
        for t in 0..rows {
            let mut own: Vec<u32> = Vec::new();
            while own.len() < k {
                let id = (sample.bits() % width as u64) as u32;
                if !own.contains(&id) {
                    own.push(id);
                }
            }
            own.sort_unstable();
            let any = (sample.bits() % width as u64) as u32;
            targets.push(if t % 2 == 0 { own[t % k] } else { any });
            let raw: Vec<f32> = sample.normals(k + 1).iter().map(|x| x.exp()).collect();
            let last = if drop || k == width { 0.0 } else { raw[k] };
            let sum = raw[..k].iter().sum::<f32>() + last;
            ids.extend(own);
            probs.extend(raw[..k].iter().map(|x| x / sum));
            rest.push(last / sum);
        }
        Case { width, logits, targets, weights: weights.collect(), ids, probs, rest }
    }

    pub(crate) fn targets(&self) -> Targets<'_> {
        Targets { ids: &self.targets, weights: &self.weights, scale: SCALE, z_loss: 0.0 }
    }

    pub(crate) fn soft(&self, hard: f32, soft: f32) -> Soft<'_> {
        Soft { ids: &self.ids, probs: &self.probs, rest: &self.rest, hard, soft }
    }

    fn run(&self, cpu: &Cpu, hard: f32, soft: f32) -> [Vec<f32>; 3] {
        let rows = self.targets.len();
        let (mut nats, mut kl, mut grads) = (vec![9.0; rows], vec![9.0; rows], self.logits.clone());
        let soft = self.soft(hard, soft);
        let out = [&mut nats[..], &mut kl[..]];
        soft_cross_entropy(cpu, out, &mut grads, self.width, &self.targets(), &soft);
        [nats, kl, grads]
    }

    fn naive(&self, hard: f32, soft: f32) -> [Vec<f32>; 3] {
        let rows = self.targets.len();
        let (mut nats, mut kl, mut grads) = (vec![9.0; rows], vec![9.0; rows], self.logits.clone());
        let out = [&mut nats[..], &mut kl[..]];
        let soft = self.soft(hard, soft);
        naive::soft_cross_entropy(out, &mut grads, self.width, &self.targets(), &soft);
        [nats, kl, grads]
    }

    /// The scaled loss of logits in f64, by the formula alone.
    fn loss(&self, logits: &[f64], hard: f64, soft: f64) -> f64 {
        let k = self.ids.len() / self.targets.len();
        let of = |(t, row): (usize, &[f64])| {
            let lse = row.iter().map(|x| x.exp()).sum::<f64>().ln();
            let ids = &self.ids[t * k..(t + 1) * k];
            let at = |id: &u32| row[*id as usize] - lse;
            let listed = ids.iter().zip(&self.probs[t * k..]).map(|(id, p)| {
                let p = f64::from(*p);
                p * (p.ln() - at(id))
            });
            let mut kl = listed.sum::<f64>();
            let rest = f64::from(self.rest[t]);
            if rest > 0.0 {
                let others = 1.0 - ids.iter().map(|id| at(id).exp()).sum::<f64>();
                kl += rest * (rest / others).ln();
            }
            let ce = -at(&self.targets[t]);
            f64::from(self.weights[t] * SCALE) * (hard * ce + soft * kl)
        };
        logits.chunks(self.width).enumerate().map(of).sum()
    }
}

#[test]
fn losses_and_gradient_agree_with_their_definition_in_every_class() {
    for shape in SHAPES {
        for (drop, hard, soft) in [(true, 0.3, 0.7), (false, 0.3, 0.7), (false, 0.0, 4.0)] {
            let case = Case::new(1, shape, drop);
            let want = case.naive(hard, soft);
            for class in Class::available() {
                let got = case.run(&Cpu::new(class, 2), hard, soft);
                for (what, tolerance) in [(0, 4e-6), (1, 4e-6), (2, 2e-6)] {
                    for (got, want) in got[what].iter().zip(&want[what]) {
                        // Logits of 25 are rounded at 2e-6, and their exponentials by as much.
                        let off = (got - want).abs();
                        let name = format!("{class} {shape:?} {drop} {what}");
                        assert!(off <= tolerance * (1.0 + want.abs()), "{name}: {got}, not {want}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_gradient_is_the_slope_of_the_loss_and_that_of_a_mutant_is_not() {
    for (drop, hard, soft) in [(true, 0.3, 0.7), (false, 0.3, 0.7), (false, 0.0, 4.0)] {
        let mut case = Case::new(2, [4, 9, 3], drop);
        case.logits.iter_mut().for_each(|x| *x /= 5.0);
        let wide: Vec<f64> = case.logits.iter().map(|x| f64::from(*x)).collect();
        let slope = |i: usize| {
            let moved = |by: f64| {
                let mut logits = wide.clone();
                logits[i] += by;
                case.loss(&logits, f64::from(hard), f64::from(soft))
            };
            (moved(1e-5) - moved(-1e-5)) / 2e-5
        };
        let slopes: Vec<f64> = (0..wide.len()).map(slope).collect();
        let off = |grads: &[f32]| {
            let off = grads.iter().zip(&slopes).map(|(a, b)| (f64::from(*a) - b).abs());
            off.fold(0.0, f64::max)
        };
        for class in Class::available() {
            let cpu = Cpu::new(class, 1);
            let [.., grads] = case.run(&cpu, hard, soft);
            assert!(off(&grads) < 1e-6, "{class} {drop}: {}", off(&grads));
            let mutant = |change: fn(&mut Case)| {
                let mut other = Case::new(2, [4, 9, 3], drop);
                other.logits = case.logits.clone();
                change(&mut other);
                other.run(&cpu, hard, soft)[2].clone()
            };
            let mutants = [
                ("the sign", grads.iter().map(|g| -g).collect()),
                ("the softmax alone", case.run(&cpu, hard, 0.0)[2].clone()),
                ("the probabilities of the row before", mutant(|c| c.probs.rotate_right(3))),
                ("the ids of the row before", mutant(|c| c.ids.rotate_right(3))),
                ("another rest", mutant(|c| c.rest.iter_mut().for_each(|r| *r += 0.1))),
            ];
            for (name, mutant) in mutants {
                assert!(off(&mutant) > 1e-4, "{class} {drop}: {name}");
            }
        }
    }
}

#[test]
fn without_a_teacher_it_is_the_cross_entropy_and_threads_change_no_bit() {
    let case = Case::new(3, [17, 1009, 8], false);
    for class in Class::available() {
        let one = case.run(&Cpu::new(class, 1), 1.0, 0.5);
        assert_eq!(one, case.run(&Cpu::new(class, 3), 1.0, 0.5), "{class}");
        let [nats, _, grads] = case.run(&Cpu::new(class, 1), 1.0, 0.0);
        let (mut want_nats, mut want) = (vec![0.0; 17], case.logits.clone());
        naive::cross_entropy(&mut want_nats, &mut want, 1009, &case.targets());
        for (got, want) in nats.iter().chain(&grads).zip(want_nats.iter().chain(&want)) {
            assert!((got - want).abs() < 4e-6 * (1.0 + want.abs()), "{class}: {got}, not {want}");
        }
    }
}

#[test]
fn what_the_teacher_lists_alone_and_what_is_no_number_are_told() {
    for class in Class::available() {
        let cpu = Cpu::new(class, 1);
        let mut case = Case::new(4, [2, 6, 2], false);
        // All others are e^-1000 of the listed.
        for id in 0..6 {
            case.logits[id] = if case.ids[..2].contains(&(id as u32)) { 500.0 } else { -500.0 };
        }
        case.weights = vec![1.0; 2];
        let [nats, kl, grads] = case.run(&cpu, 0.5, 0.5);
        assert!(nats[0].is_finite() && kl[0] > 1.0, "{class}: {kl:?}");
        assert!(grads.iter().all(|g| g.is_finite()), "{class}");
        for bad in [f32::NAN, f32::INFINITY] {
            for at in 6..12 {
                let mut case = Case::new(4, [2, 6, 2], false);
                case.weights = vec![1.0; 2];
                case.logits[at] = bad;
                let [nats, kl, grads] = case.run(&cpu, 0.5, 0.5);
                assert!(nats[1].is_nan() && kl[1].is_nan() && grads[6].is_nan(), "{class} {bad}");
                assert!(nats[0].is_finite() && grads[0].is_finite(), "{class} {bad}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "the ids of row 1 do not ascend")]
fn lists_that_do_not_ascend_are_refused() {
    let mut case = Case::new(5, [2, 6, 3], false);
    case.ids.swap(3, 4);
    case.run(&Cpu::new(Class::Portable, 1), 1.0, 1.0);
}
