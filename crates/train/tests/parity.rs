//! Ten steps of training give what PyTorch recorded: losses, gradients, changes of the weights.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;

use common::{expect_same_bits, load, testdata};
use herd_model::llama::Llama;
use herd_model::names::{Style, name};
use herd_tensor::{Class, Device, Format, Tape};
use herd_train::{Micro, Optimizer, OptimizerConfig, Sums, accumulate};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Run {
    model: String,
    steps: Vec<Step>,
    first_gradient: BTreeMap<String, f64>,
    change: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct Step {
    rows: Vec<Vec<u32>>,
    ends: Vec<Vec<usize>>,
    lr: f64,
    loss: f64,
    grad_norm: f64,
}

fn recorded() -> Vec<Run> {
    serde_json::from_slice(&std::fs::read(testdata("training.json")).unwrap()).unwrap()
}

/// A batch in the form that the model takes.
struct Rows {
    tokens: Vec<u32>,
    targets: Vec<u32>,
    positions: Vec<u32>,
    documents: Vec<std::ops::Range<usize>>,
    seq_len: usize,
}

impl Rows {
    fn of(step: &Step) -> Rows {
        let seq_len = step.rows[0].len() - 1;
        let (mut positions, mut documents) = (vec![], vec![]);
        for (row, ends) in step.ends.iter().enumerate() {
            let mut start = 0;
            for &end in ends {
                positions.extend(0..(end - start) as u32);
                documents.push(row * seq_len + start..row * seq_len + end);
                start = end;
            }
        }
        let tokens = step.rows.iter().flat_map(|row| &row[..seq_len]).copied().collect();
        let targets = step.rows.iter().flat_map(|row| &row[1..]).copied().collect();
        Rows { tokens, targets, positions, documents, seq_len }
    }

    /// All rows, `each` at a time.
    fn accumulate(&self, model: &Llama, tape: &Tape, each: usize) -> f64 {
        let scale = 1.0 / self.tokens.len() as f32;
        let mut sums = Sums::default();
        for start in (0..self.tokens.len()).step_by(each * self.seq_len) {
            let range = start..(start + each * self.seq_len).min(self.tokens.len());
            let documents: Vec<_> = self
                .documents
                .iter()
                .filter(|d| range.contains(&d.start))
                .map(|d| d.start - start..d.end - start)
                .collect();
            let micro = Micro {
                tokens: &self.tokens[range.clone()],
                targets: &self.targets[range.clone()],
                weights: &vec![1.0; range.len()],
                positions: &self.positions[range.clone()],
                documents: &documents,
                seq_len: self.seq_len,
            };
            accumulate(model, tape, &micro, scale, &mut sums);
        }
        sums.loss()
    }
}

fn near(got: f64, want: f64, tolerance: f64, what: &str) {
    let error = (got - want).abs() / want.abs().max(1e-12);
    assert!(error <= tolerance, "{what}: {got} against {want}, {error:e} of it");
}

fn norm(numbers: impl Iterator<Item = f64>) -> f64 {
    numbers.map(|x| x * x).sum::<f64>().sqrt()
}

fn masters(model: &Llama) -> Vec<Vec<f32>> {
    model.params().iter().map(|p| p.param.with_master(<[f32]>::to_vec)).collect()
}

#[test]
fn ten_steps_equal_pytorch_in_every_class() {
    for run in recorded() {
        for class in Class::available() {
            let (model, tape) = load(&run.model, Device::cpu(class, 2), Format::F32, false);
            let mut optimizer = Optimizer::new(&model, OptimizerConfig::LLAMA);
            let before = masters(&model);
            for (i, step) in run.steps.iter().enumerate() {
                let what = format!("{} in {class}, step {i}", run.model);
                let loss = Rows::of(step).accumulate(&model, &tape, 2);
                near(loss, step.loss, 1e-5, &what);
                let grad_norm = optimizer.grad_norm(&model);
                near(grad_norm, step.grad_norm, 1e-4, &what);
                if i == 0 {
                    for p in model.params() {
                        let name = name(p.part, Style::Hf).unwrap();
                        let got = p.param.with_gradient(|g| norm(g.iter().map(|&g| g.into())));
                        near(got, run.first_gradient[&name], 1e-4, &name);
                    }
                }
                optimizer.step(&model, step.lr, grad_norm);
            }
            for (p, before) in model.params().iter().zip(&before) {
                let name = name(p.part, Style::Hf).unwrap();
                let changes = |w: &[f32]| {
                    norm(w.iter().zip(before).map(|(w, b)| f64::from(*w) - f64::from(*b)))
                };
                near(p.param.with_master(changes), run.change[&name], 1e-3, &name);
            }
        }
    }
}

/// The weights after all steps of a run, as bits.
fn trained(run: &Run, device: Device, format: Format, recompute: bool, each: usize) -> Vec<u32> {
    let (model, tape) = load(&run.model, device, format, recompute);
    let mut optimizer = Optimizer::new(&model, OptimizerConfig::LLAMA);
    for step in &run.steps {
        Rows::of(step).accumulate(&model, &tape, each);
        let grad_norm = optimizer.grad_norm(&model);
        optimizer.step(&model, step.lr, grad_norm);
    }
    masters(&model).concat().into_iter().map(f32::to_bits).collect()
}

#[test]
fn micro_batches_threads_and_recomputing_change_no_bit() {
    for run in recorded() {
        expect_same_bits(&run.model, |device, format, recompute, each| {
            trained(&run, device, format, recompute, each)
        });
    }
}
