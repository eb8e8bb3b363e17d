//! Ten steps of direct preference optimisation give what PyTorch recorded, and the same bits however they are cut.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;

use common::{bits_of, expect_same_bits, load, near, testdata};
use herd_model::llama::Llama;
use herd_model::names::{Style, name};
use herd_tensor::{Class, Device, Format, Tape};
use herd_train::dpo::{Answer, DpoConfig, PairLoss, Sums, accumulate, logps};
use herd_train::{Micro, Optimizer, OptimizerConfig};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::Range;

#[derive(Deserialize)]
struct Run {
    model: String,
    loss: PairLoss,
    beta: f64,
    nll: f64,
    steps: Vec<Step>,
    first_gradient: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct Step {
    /// Answers as ids, and which of these count.
    prompts: Vec<Vec<(Vec<u32>, Vec<f32>)>>,
    lr: f64,
    loss: f64,
    grad_norm: f64,
    means: [f64; 5],
}

fn recorded() -> Vec<Run> {
    serde_json::from_slice(&std::fs::read(testdata("dpo.json")).unwrap()).unwrap()
}

impl Run {
    fn config(&self) -> DpoConfig {
        let Run { loss, beta, nll, .. } = *self;
        DpoConfig { loss, beta, nll, ..DpoConfig::LLAMA }
    }
}

/// A prompt a row, its answers one behind the other.
struct Rows {
    tokens: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
    positions: Vec<u32>,
    documents: Vec<Range<usize>>,
    answers: Vec<Vec<Range<usize>>>,
}

const SEQ_LEN: usize = 48;

impl Rows {
    fn of(step: &Step) -> Rows {
        let empty = || Vec::with_capacity(step.prompts.len() * SEQ_LEN);
        let mut rows = Rows {
            tokens: empty(),
            targets: empty(),
            weights: Vec::new(),
            positions: empty(),
            documents: Vec::new(),
            answers: Vec::new(),
        };
        for (row, prompt) in step.prompts.iter().enumerate() {
            let mut answers = Vec::new();
            for (ids, counts) in prompt {
                let at = rows.tokens.len()..rows.tokens.len() + ids.len() - 1;
                rows.tokens.extend(&ids[..at.len()]);
                rows.targets.extend(&ids[1..]);
                rows.weights.extend(&counts[1..]);
                rows.positions.extend(0..at.len() as u32);
                answers.push(at);
            }
            let (here, end) = (rows.tokens.len(), (row + 1) * SEQ_LEN);
            assert!(here < end, "a row of {SEQ_LEN} is too short");
            rows.documents.extend(answers.iter().cloned().chain(std::iter::once(here..end)));
            rows.tokens.resize(end, 0);
            rows.targets.resize(end, 0);
            rows.weights.resize(end, 0.0);
            rows.positions.extend(0..(end - here) as u32);
            rows.answers.push(answers);
        }
        rows
    }

    /// Gives `f` micro-batches of `each` rows, and the places of their answers.
    fn each(&self, each: usize, mut f: impl FnMut(&Micro<'_>, Vec<Vec<Range<usize>>>)) {
        for start in (0..self.answers.len()).step_by(each) {
            let rows = start..(start + each).min(self.answers.len());
            let at = rows.start * SEQ_LEN..rows.end * SEQ_LEN;
            let here = |d: &Range<usize>| d.start - at.start..d.end - at.start;
            let documents: Vec<_> =
                self.documents.iter().filter(|d| at.contains(&d.start)).map(here).collect();
            let micro = Micro {
                tokens: &self.tokens[at.clone()],
                targets: &self.targets[at.clone()],
                weights: &self.weights[at.clone()],
                positions: &self.positions[at.clone()],
                documents: &documents,
                seq_len: SEQ_LEN,
            };
            let answers = self.answers[rows].iter();
            f(&micro, answers.map(|answers| answers.iter().map(here).collect()).collect());
        }
    }

    fn references(&self, model: &Llama, tape: &Tape) -> Vec<f64> {
        let mut said = Vec::new();
        tape.paused(|| {
            self.each(1, |micro, answers| said.extend(logps(model, micro, &answers[0])))
        });
        said
    }

    fn accumulate(
        &self,
        model: &Llama,
        tape: &Tape,
        config: &DpoConfig,
        references: &[f64],
        each: usize,
    ) -> Sums {
        let pairs: usize = self.answers.iter().map(|a| a.len() * (a.len() - 1) / 2).sum();
        let mut references = references.iter().copied();
        let mut sums = Sums::default();
        self.each(each, |micro, answers| {
            let mut answer = |at| Answer { at, reference: references.next().unwrap() };
            let mut prompts: Vec<Vec<Answer>> = Vec::new();
            for places in answers {
                prompts.push(places.into_iter().map(&mut answer).collect());
            }
            accumulate(model, tape, micro, &prompts, config, 1.0 / pairs as f64, &mut sums);
        });
        sums
    }
}

#[test]
fn ten_steps_of_pairs_equal_pytorch_in_every_class() {
    for run in recorded() {
        for class in Class::available() {
            let (first, still) = load(&run.model, Device::cpu(class, 2), Format::F32, false);
            let (model, tape) = load(&run.model, Device::cpu(class, 2), Format::F32, false);
            let mut optimizer = Optimizer::new(&model, OptimizerConfig::LLAMA);
            for (i, step) in run.steps.iter().enumerate() {
                let what = format!("{} in {class}, step {i}", run.model);
                let rows = Rows::of(step);
                let references = rows.references(&first, &still);
                let sums = rows.accumulate(&model, &tape, &run.config(), &references, 2);
                near(sums.loss(), step.loss, 1e-5, &what);
                let met = sums.preferences();
                let got = [
                    met.chosen,
                    met.rejected,
                    met.chosen_logp.unwrap(),
                    met.rejected_logp.unwrap(),
                    met.nll.unwrap(),
                ];
                for (got, want) in got.into_iter().zip(step.means) {
                    near(got, want, 1e-5, &what);
                }
                assert_eq!((i == 0).then_some(0.0), (i == 0).then_some(met.margin), "{what}");
                let norm = optimizer.grad_norm(&model);
                assert!(
                    (norm / step.grad_norm - 1.0).abs() < 1e-5,
                    "{what}: {norm}, {}",
                    step.grad_norm
                );
                if i == 0 {
                    for p in model.params() {
                        let name = name(p.part, Style::Hf).unwrap();
                        let square =
                            |g: &[f32]| g.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>();
                        let got = p.param.with_gradient(square).sqrt();
                        let want = run.first_gradient[&name];
                        assert!((got / want - 1.0).abs() < 2e-5, "{what} {name}: {got}, {want}");
                    }
                }
                optimizer.step(&model, step.lr, norm);
            }
        }
    }
}

/// The weights after all steps of a run and the sums of the last, as bits.
fn trained(run: &Run, device: Device, format: Format, recompute: bool, each: usize) -> Vec<u64> {
    let (model, tape) = load(&run.model, device, format, recompute);
    let mut optimizer = Optimizer::new(&model, OptimizerConfig::LLAMA);
    let all: Vec<Rows> = run.steps.iter().map(Rows::of).collect();
    let references: Vec<_> = all.iter().map(|rows| rows.references(&model, &tape)).collect();
    let mut bits = Vec::new();
    for ((rows, step), references) in all.iter().zip(&run.steps).zip(&references) {
        let sums = rows.accumulate(&model, &tape, &run.config(), references, each);
        bits.extend([sums.loss(), sums.preferences().margin].map(f64::to_bits));
        let norm = optimizer.grad_norm(&model);
        optimizer.step(&model, step.lr, norm);
    }
    bits.extend(bits_of(&model));
    bits
}

#[test]
fn micro_batches_threads_and_recomputing_change_no_bit_of_pairs() {
    for run in recorded() {
        expect_same_bits(&run.model, |device, format, recompute, each| {
            trained(&run, device, format, recompute, each)
        });
    }
}
