//! The head taught by a teacher: its gradients are the slopes of its formula in f64, those of wrong formulas are not, and
//! no cut of a batch changes a bit.

#![allow(clippy::unwrap_used)] // helpers of tests too
#![allow(clippy::single_range_in_vec_init)] // a batch that passes whole is one part

#[path = "common/twin.rs"]
mod twin;

use herd_tensor::ops::{Targets, Teacher, distill, embed, likeliest};
use herd_tensor::{Class, Device, Format, Param, Tape, Tensor, Weight};
use std::ops::Range;
use std::sync::Arc;

const D: usize = 8;
const V: usize = 6;
const K: usize = 2;
const IDS: [u32; 7] = [3, 0, 3, 1, 4, 2, 3];
const TARGETS: [u32; 7] = [0, 3, 1, 4, 2, 3, 0];
const WEIGHTS: [f32; 7] = [1.0, 1.0, 0.0, 1.0, 1.0, 0.5, 1.0];
const SCALE: f32 = 0.25;
/// In some rows the target is listed, in some not.
const LISTED: [u32; 14] = [0, 4, 1, 2, 0, 5, 3, 4, 2, 5, 0, 1, 4, 5];
const PROBS: [f32; 14] = [0.5, 0.2, 0.6, 0.1, 0.3, 0.3, 0.8, 0.1, 0.2, 0.2, 0.4, 0.4, 0.05, 0.9];

/// The share of the teacher, its temperature, and whether what it does not list is one more.
#[derive(Clone, Copy, Debug)]
struct Setting {
    alpha: f32,
    temperature: f32,
    bucket: bool,
}

const SETTINGS: [Setting; 6] = [
    Setting { alpha: 0.75, temperature: 1.0, bucket: true },
    Setting { alpha: 0.75, temperature: 1.0, bucket: false },
    Setting { alpha: 1.0, temperature: 1.0, bucket: true },
    Setting { alpha: 0.5, temperature: 2.0, bucket: true },
    Setting { alpha: 1.0, temperature: 1.5, bucket: false },
    Setting { alpha: 0.0, temperature: 3.0, bucket: false },
];

impl Setting {
    fn probs(&self) -> (Vec<f32>, Vec<f32>) {
        let sums = PROBS.chunks(K).map(|p| p.iter().sum::<f32>());
        match self.bucket {
            true => (PROBS.to_vec(), sums.map(|sum| 1.0 - sum).collect()),
            false => {
                let sums: Vec<f32> = sums.collect();
                let probs = PROBS.iter().enumerate().map(|(i, p)| p / sums[i / K]).collect();
                (probs, vec![0.0; IDS.len()])
            }
        }
    }

    /// Embeddings, the head, nats and divergences after one batch, its rows passing in `parts`.
    fn run(&self, device: &Device, format: Format, parts: &[Range<usize>]) -> [Vec<f32>; 4] {
        let tape = Arc::new(Tape::default());
        let param = |seed| Param::matrix(device, &tape, format, [V, D], twin::noise(seed, V * D));
        let params = [param(1), param(2)];
        let [table, head] = params.clone().map(Weight::Trained);
        let (probs, rest) = self.probs();
        let (mut nats, mut kl) = (Vec::new(), Vec::new());
        for part in parts {
            // Blocks of 3 and 4 rows, however they come.
            let cut = if part.len() == 7 { vec![0..3, 3..7] } else { vec![0..part.len()] };
            tape.begin(cut);
            let x: Tensor = embed(device, &table, &IDS[part.clone()]);
            let (ids, weights) = (&TARGETS[part.clone()], &WEIGHTS[part.clone()]);
            let targets = Targets { ids, weights, scale: SCALE, z_loss: 0.0 };
            let listed = part.start * K..part.end * K;
            let teacher = Teacher {
                ids: &LISTED[listed.clone()],
                probs: &probs[listed],
                rest: &rest[part.clone()],
                alpha: self.alpha,
                temperature: self.temperature,
            };
            let taught = distill(&x, &head, &targets, &teacher);
            let alone = tape.paused(|| distill(&x, &head, &targets, &teacher));
            assert_eq!((&alone.nats_t, &alone.kl_t), (&taught.nats_t, &taught.kl_t));
            nats.extend(&taught.nats_t);
            kl.extend(&taught.kl_t);
            taught.backward();
        }
        let gradient = |param: &Arc<Param>| {
            param.join_gradients();
            param.with_gradient(<[f32]>::to_vec)
        };
        [gradient(&params[0]), gradient(&params[1]), nats, kl]
    }

    /// The loss of embeddings and a head in f64.
    fn loss(&self, params: &[Vec<f64>], mutant: Mutant) -> f64 {
        let x = twin::embed(&params[0], D, &IDS);
        let (probs, rest) = self.probs();
        let (alpha, temperature) = (f64::from(self.alpha), f64::from(self.temperature));
        let logits = twin::linear(&x, &params[1]);
        let lse = |z: &[f64]| z.iter().map(|x| x.exp()).sum::<f64>().ln();
        let row = |(t, z): (usize, &Vec<f64>)| {
            let ce = lse(z) - z[TARGETS[t] as usize];
            let by = if mutant == Mutant::Hot { 1.0 } else { temperature };
            let cool: Vec<f64> = z.iter().map(|z| z / by).collect();
            let (lse, mut others, mut kl) = (lse(&cool), 1.0, 0.0);
            for j in t * K..(t + 1) * K {
                let ln_q = cool[LISTED[j] as usize] - lse;
                let p = f64::from(probs[j]);
                kl += p * (p.ln() - ln_q);
                others -= ln_q.exp();
            }
            let rest = f64::from(rest[t]);
            if rest > 0.0 && mutant != Mutant::NoRest {
                kl += rest * (rest / others).ln();
            }
            let square = if mutant == Mutant::NoSquare { 1.0 } else { temperature * temperature };
            let soft = if mutant == Mutant::NoTeacher { 0.0 } else { alpha };
            f64::from(WEIGHTS[t]) * ((1.0 - alpha) * ce + soft * square * kl)
        };
        f64::from(SCALE) * logits.iter().enumerate().map(row).sum::<f64>()
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Mutant {
    None,
    NoTeacher,
    NoRest,
    NoSquare,
    Hot,
}

fn off(got: &[Vec<f32>], want: &[Vec<f64>]) -> f64 {
    let pairs = got.iter().flatten().zip(want.iter().flatten());
    pairs.map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max)
}

#[test]
fn gradients_are_slopes_of_the_formula_and_not_of_mutants() {
    let params: Vec<Vec<f64>> =
        [1, 2].iter().map(|seed| twin::wide(&twin::noise(*seed, V * D))).collect();
    for setting in SETTINGS {
        let slopes = |mutant| twin::gradient(&params, &|params| setting.loss(params, mutant));
        let want = slopes(Mutant::None);
        for class in Class::available() {
            let got = setting.run(&Device::cpu(class, 2), Format::F32, &[0..7]);
            let name = format!("{class} {setting:?}");
            assert!(off(&got[..2], &want) < 2e-6, "{name}: {}", off(&got[..2], &want));
            let cooled = setting.temperature != 1.0;
            for (mutant, differs) in [
                (Mutant::NoTeacher, setting.alpha > 0.0),
                (Mutant::NoRest, setting.bucket),
                (Mutant::NoSquare, cooled && setting.alpha > 0.0),
                (Mutant::Hot, cooled && setting.alpha > 0.0),
            ] {
                if differs {
                    assert!(off(&got[..2], &slopes(mutant)) > 1e-4, "{name}: {mutant:?}");
                }
            }
        }
    }
}

#[test]
fn micro_batches_and_threads_change_no_bit() {
    for setting in SETTINGS {
        for class in Class::available() {
            for format in [Format::F32, Format::BF16] {
                let want = setting.run(&Device::cpu(class, 1), format, &[0..7]);
                let bits = |x: &[Vec<f32>; 4]| -> Vec<u32> {
                    x.iter().flatten().map(|x| x.to_bits()).collect()
                };
                for (threads, parts) in [(3, vec![0..7]), (1, vec![0..3, 3..7])] {
                    let got = setting.run(&Device::cpu(class, threads), format, &parts);
                    assert_eq!(bits(&got), bits(&want), "{class} {setting:?} {threads} {parts:?}");
                }
            }
        }
    }
}

#[test]
fn the_likeliest_ids_are_those_of_sorted_log_probabilities() {
    let x: Vec<f32> = twin::noise(5, 300 * D);
    let w = twin::noise(6, V * D);
    for class in Class::available() {
        let device = Device::cpu(class, 2);
        let raw: Vec<u8> = w.iter().flat_map(|w| w.to_le_bytes()).collect();
        let weight = Weight::new(&device, Format::F32, V, D, &raw);
        let x_td = Tensor::from_slice(&device, 300, D, &x);
        for temperature in [1.0f32, 2.0] {
            let found = likeliest(&x_td, &weight, K, temperature);
            for t in 0..300 {
                let dot = |v: usize| -> f64 {
                    (0..D).map(|d| f64::from(x[t * D + d]) * f64::from(w[v * D + d])).sum()
                };
                let z: Vec<f64> = (0..V).map(|v| dot(v) / f64::from(temperature)).collect();
                let lse = z.iter().map(|z| z.exp()).sum::<f64>().ln();
                let mut best: Vec<usize> = (0..V).collect();
                best.sort_by(|a, b| z[*b].total_cmp(&z[*a]));
                best.truncate(K);
                best.sort_unstable();
                for (j, v) in best.into_iter().enumerate() {
                    assert_eq!(found.ids[t * K + j] as usize, v, "{class}");
                    let off = (f64::from(found.log_probs[t * K + j]) - (z[v] - lse)).abs();
                    assert!(off < 2e-6, "{class}: {off}");
                }
            }
        }
    }
}
