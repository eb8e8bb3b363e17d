//! Steps of proximal policy optimisation with a value head give what PyTorch recorded, and the same bits however they are cut.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;

use common::{Rows, bits_of, expect_gradient, expect_same_bits, load, near, testdata};
use herd_model::llama::Llama;
use herd_tensor::{Class, Device, Format, Tape};
use herd_train::policy::{Answer, Sums, accumulate, expected};
use herd_train::ppo::{Judged, PpoConfig, Worth};
use herd_train::{Optimizer, OptimizerConfig};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

#[derive(Deserialize)]
struct Run {
    model: String,
    settings: PpoConfig,
    head: Vec<f32>,
    steps: Vec<Step>,
    first_gradient: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct Step {
    answers: Vec<Given>,
    advantages: Vec<f64>,
    returns: Vec<f64>,
    lr: f64,
    loss: f64,
    /// Of the policy and of values, shares of clipped tokens, and what values explain.
    parts: [f64; 5],
    grad_norm: f64,
}

#[derive(Deserialize)]
struct Given {
    prompt: Vec<u32>,
    ids: Vec<u32>,
    reward: f64,
    old: Vec<f32>,
    reference: Vec<f32>,
    values: Vec<f32>,
}

impl Given {
    fn judged(&self) -> Judged<'_> {
        let Given { old, reference, values, reward, .. } = self;
        Judged { logps: old, reference, values, reward: *reward }
    }
}

fn recorded() -> Vec<Run> {
    serde_json::from_slice(&std::fs::read(testdata("ppo.json")).unwrap()).unwrap()
}

fn begin(run: &Run, device: Device, format: Format, recompute: bool) -> (Llama, Arc<Tape>) {
    let (mut model, tape) = load(&run.model, device, format, recompute);
    model.add_score(&tape, run.head.clone());
    (model, tape)
}

fn rows(step: &Step) -> Rows {
    Rows::of(step.answers.iter().map(|Given { prompt, ids, .. }| (&prompt[..], &ids[..])))
}

fn worth(run: &Run, step: &Step) -> Vec<Worth> {
    run.settings.worth(&step.answers.iter().map(Given::judged).collect::<Vec<_>>())
}

/// The sums of a step, `each` rows at a time.
fn sums(model: &Llama, tape: &Tape, run: &Run, step: &Step, each: usize) -> Sums {
    let worth = worth(run, step);
    let share = 1.0 / step.advantages.len() as f64;
    let mut sums = Sums::default();
    rows(step).each(each, |micro, places| {
        let answer = |(i, at): (usize, Range<usize>)| {
            let (given, worth) = (&step.answers[i], &worth[i]);
            Answer {
                at,
                share,
                old: &given.old,
                reference: &given.reference,
                advantages: &worth.advantages,
                values: &given.values,
                returns: &worth.returns,
            }
        };
        let answers: Vec<Answer<'_>> = places.into_iter().map(answer).collect();
        accumulate(model, tape, micro, &answers, &run.settings.loss(), &mut sums);
    });
    sums
}

#[test]
fn steps_with_values_equal_pytorch_in_every_class() {
    for (number, run) in recorded().iter().enumerate() {
        for class in Class::available() {
            let (model, tape) = begin(run, Device::cpu(class, 2), Format::F32, false);
            let mut optimizer = Optimizer::new(&model, OptimizerConfig::LLAMA);
            for (i, step) in run.steps.iter().enumerate() {
                let what = format!("run {number} in {class}, step {i}");
                let worth = worth(run, step);
                let all = |of: fn(&Worth) -> &Vec<f64>| worth.iter().flat_map(of).copied();
                let got = all(|worth| &worth.advantages).chain(all(|worth| &worth.returns));
                let want = step.advantages.iter().chain(&step.returns);
                assert_eq!(got.clone().count(), want.clone().count());
                for (got, want) in got.zip(want) {
                    near(got, *want, 1e-5, &what);
                }
                let met = sums(&model, &tape, run, step, 2);
                near(met.loss(), step.loss, 1e-5, &what);
                let (valued, clipped) = (met.valued().unwrap(), met.moved(false).clipped);
                let explained = valued.explained_variance.unwrap();
                let got = [valued.policy, valued.value, clipped, valued.clipped, explained];
                for (got, want) in got.into_iter().zip(step.parts) {
                    near(got, want, 1e-5, &what);
                }
                let (norm, want) = (optimizer.grad_norm(&model), step.grad_norm);
                assert!((norm / want - 1.0).abs() < 1e-5, "{what}: {norm} against {want}");
                if i == 0 {
                    expect_gradient(&model, &run.first_gradient, &what);
                    assert_eq!(model.params().len(), run.first_gradient.len());
                }
                optimizer.step(&model, step.lr, norm);
            }
        }
    }
}

/// The weights after all steps of a run and the sums of each, as bits.
fn trained(run: &Run, device: Device, format: Format, recompute: bool, each: usize) -> Vec<u64> {
    let (model, tape) = begin(run, device, format, recompute);
    let mut optimizer = Optimizer::new(&model, OptimizerConfig::LLAMA);
    let mut bits = Vec::new();
    for step in &run.steps {
        rows(step).each(each, |micro, places| {
            let values = tape.paused(|| expected(&model, micro));
            let values = places.into_iter().flat_map(|(_, at)| values[at].to_vec());
            bits.extend(values.map(|value| u64::from(value.to_bits())));
        });
        let met = sums(&model, &tape, run, step, each);
        let valued = met.valued().unwrap();
        let numbers = [met.loss(), valued.value, valued.explained_variance.unwrap()];
        bits.extend(numbers.map(f64::to_bits));
        let norm = optimizer.grad_norm(&model);
        optimizer.step(&model, step.lr, norm);
    }
    bits.extend(bits_of(&model));
    bits
}

#[test]
fn micro_batches_threads_and_recomputing_change_no_bit_of_a_policy_and_its_values() {
    for run in recorded() {
        expect_same_bits(&run.model, |device, format, recompute, each| {
            trained(&run, device, format, recompute, each)
        });
    }
}
