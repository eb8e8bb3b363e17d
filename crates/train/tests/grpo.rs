//! Steps of group relative policy optimisation give what PyTorch recorded, and the same bits however they are cut.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;

use common::{bits_of, expect_same_bits, load, near, testdata};
use herd_model::llama::Llama;
use herd_model::names::{Style, name};
use herd_tensor::{Class, Device, Format, Tape};
use herd_train::grpo::GrpoConfig;
use herd_train::policy::{Answer, Sums, accumulate};
use herd_train::{Micro, Optimizer, OptimizerConfig};
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

/// Places of a row; every answer fits.
const SEQ_LEN: usize = 32;

/// Answers one behind the other, as many in a row as fit.
#[derive(Default)]
struct Rows {
    tokens: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
    positions: Vec<u32>,
    documents: Vec<Range<usize>>,
    /// The places whose targets are the tokens of each answer.
    answers: Vec<Range<usize>>,
}

impl Rows {
    fn of(step: &Step) -> Rows {
        let mut rows = Rows::default();
        for Given { prompt, ids, .. } in &step.answers {
            let text = [&prompt[..], ids].concat();
            let len = text.len() - 1;
            if rows.tokens.len() % SEQ_LEN + len > SEQ_LEN {
                rows.pad();
            }
            let start = rows.tokens.len();
            rows.tokens.extend(&text[..len]);
            rows.targets.extend(&text[1..]);
            rows.weights.extend((1..text.len()).map(|t| f32::from(u8::from(t >= prompt.len()))));
            rows.positions.extend(0..len as u32);
            rows.documents.push(start..start + len);
            rows.answers.push(start + len - ids.len()..start + len);
        }
        rows.pad();
        rows
    }

    fn pad(&mut self) {
        let (here, end) = (self.tokens.len(), self.tokens.len().next_multiple_of(SEQ_LEN));
        if here < end {
            self.documents.push(here..end);
        }
        self.tokens.resize(end, 0);
        self.targets.resize(end, 0);
        self.weights.resize(end, 0.0);
        self.positions.extend(0..(end - here) as u32);
    }

    /// The sums of a step, `each` rows at a time.
    fn accumulate(&self, model: &Llama, tape: &Tape, run: &Run, step: &Step, each: usize) -> Sums {
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
        let end = self.tokens.len();
        for first in (0..end).step_by(each * SEQ_LEN) {
            let at = first..(first + each * SEQ_LEN).min(end);
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
            let inside = self.answers.iter().enumerate().filter(|(_, d)| at.contains(&d.start));
            let answers: Vec<Answer<'_>> = inside
                .map(|(i, place)| Answer {
                    at: here(place),
                    share: shares[i],
                    old: &step.answers[i].old,
                    reference: &step.answers[i].reference,
                    advantages: &advantages[i],
                    values: &[],
                    returns: &[],
                })
                .collect();
            accumulate(model, tape, &micro, &answers, &run.settings.loss(), &mut sums);
        }
        sums
    }
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
                let sums = Rows::of(step).accumulate(&model, &tape, run, step, 2);
                near(sums.loss(), step.loss, 1e-5, &what);
                let moved = sums.moved(false);
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

/// The weights after all steps of a run and the sums of each, as bits.
fn trained(run: &Run, device: Device, format: Format, recompute: bool, each: usize) -> Vec<u64> {
    let (model, tape) = load(&run.model, device, format, recompute);
    let mut optimizer = Optimizer::new(&model, OptimizerConfig::LLAMA);
    let mut bits = Vec::new();
    for step in &run.steps {
        let sums = Rows::of(step).accumulate(&model, &tape, run, step, each);
        let moved = sums.moved(true);
        bits.extend([sums.loss(), moved.kl.unwrap(), moved.entropy].map(f64::to_bits));
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
