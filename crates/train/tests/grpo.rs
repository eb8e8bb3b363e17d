//! Steps of group relative policy optimisation give what PyTorch recorded, and the same bits however they are cut.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;

use common::{Rows, bits_of, expect_gradient, expect_same_bits, load, near, testdata};
use herd_model::llama::Llama;
use herd_tensor::{Class, Device, Format, Tape};
use herd_train::grpo::GrpoConfig;
use herd_train::policy::{Answer, Sums, accumulate};
use herd_train::{Optimizer, OptimizerConfig};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::Range;

#[derive(Deserialize)]
struct Run {
    model: String,
    max_tokens: usize,
    settings: GrpoConfig,
    steps: Vec<Step>,
    first_gradient: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct Step {
    answers: Vec<Given>,
    advantages: Vec<f64>,
    lr: f64,
    loss: f64,
    grad_norm: f64,
    means: [f64; 3],
}

#[derive(Deserialize)]
struct Given {
    prompt: Vec<u32>,
    ids: Vec<u32>,
    ended: bool,
    reward: f64,
    old: Vec<f32>,
    reference: Vec<f32>,
}

fn recorded() -> Vec<Run> {
    serde_json::from_slice(&std::fs::read(testdata("grpo.json")).unwrap()).unwrap()
}

/// The answers of a step in rows.
fn rows(step: &Step) -> Rows {
    Rows::of(step.answers.iter().map(|Given { prompt, ids, .. }| (&prompt[..], &ids[..])))
}

/// The sums of a step, `each` rows at a time.
fn sums(model: &Llama, tape: &Tape, run: &Run, step: &Step, each: usize) -> Sums {
    let lengths: Vec<_> = step.answers.iter().map(|a| (a.ids.len(), a.ended)).collect();
    let shares = run.settings.shares(&lengths, run.max_tokens);
    let rewards: Vec<f64> = step.answers.iter().map(|a| a.reward).collect();
    let advantages: Vec<Vec<f64>> = run
        .settings
        .advantages(&rewards)
        .into_iter()
        .zip(&lengths)
        .map(|(advantage, (tokens, _))| vec![advantage; *tokens])
        .collect();
    let mut sums = Sums::default();
    rows(step).each(each, |micro, places| {
        let answer = |(i, at): (usize, Range<usize>)| Answer {
            at,
            share: shares[i],
            old: &step.answers[i].old,
            reference: &step.answers[i].reference,
            advantages: &advantages[i],
            values: &[],
            returns: &[],
        };
        let answers: Vec<Answer<'_>> = places.into_iter().map(answer).collect();
        accumulate(model, tape, micro, &answers, &run.settings.loss(), &mut sums);
    });
    sums
}

#[test]
fn steps_of_a_policy_equal_pytorch_in_every_class_for_every_loss() {
    for (number, run) in recorded().iter().enumerate() {
        for class in Class::available() {
            let (model, tape) = load(&run.model, Device::cpu(class, 2), Format::F32, false);
            let mut optimizer = Optimizer::new(&model, OptimizerConfig::LLAMA);
            for (i, step) in run.steps.iter().enumerate() {
                let what = format!("run {number} in {class}, step {i}");
                let rewards: Vec<f64> = step.answers.iter().map(|a| a.reward).collect();
                for (got, want) in run.settings.advantages(&rewards).iter().zip(&step.advantages) {
                    near(*got, *want, 1e-5, &what);
                }
                let met = sums(&model, &tape, run, step, 2);
                near(met.loss(), step.loss, 1e-5, &what);
                let moved = met.moved(false);
                let got = [moved.kl.unwrap(), moved.low, moved.high];
                let has_reference = run.settings.beta != 0.0;
                for (got, want) in got.into_iter().zip(step.means).skip(usize::from(!has_reference))
                {
                    near(got, want, 1e-5, &what);
                }
                let norm = optimizer.grad_norm(&model);
                let want = step.grad_norm;
                assert!((norm / want - 1.0).abs() < 1e-5, "{what}: {norm} against {want}");
                if i == 0 {
                    expect_gradient(&model, &run.first_gradient, &what);
                }
                optimizer.step(&model, step.lr, norm);
            }
        }
    }
}

/// The weights after all steps of a run and the sums of each, as bits.
fn trained(run: &Run, device: Device, format: Format, recompute: bool, each: usize) -> Vec<u64> {
    let (model, tape) = load(&run.model, device, format, recompute);
    let mut optimizer = Optimizer::new(&model, OptimizerConfig::LLAMA);
    let mut bits = Vec::new();
    for step in &run.steps {
        let met = sums(&model, &tape, run, step, each);
        let moved = met.moved(true);
        bits.extend([met.loss(), moved.kl.unwrap(), moved.entropy].map(f64::to_bits));
        let norm = optimizer.grad_norm(&model);
        optimizer.step(&model, step.lr, norm);
    }
    bits.extend(bits_of(&model));
    bits
}

#[test]
fn micro_batches_threads_and_recomputing_change_no_bit_of_a_policy() {
    for run in recorded() {
        expect_same_bits(&run.model, |device, format, recompute, each| {
            trained(&run, device, format, recompute, each)
        });
    }
}
