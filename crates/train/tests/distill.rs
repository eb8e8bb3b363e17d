//! Ten steps of distillation give what PyTorch recorded, and the same bits however they are cut.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;

use common::{bits_of, expect_same_bits, near, testdata};
use herd_model::Checkpoint;
use herd_model::llama::{Llama, Training};
use herd_model::names::{Style, name};
use herd_tensor::ops::Likeliest;
use herd_tensor::{Class, Device, Format, Tape};
use herd_train::distill::{DistillConfig, Rest, Sums, accumulate, says};
use herd_train::{Micro, Optimizer, OptimizerConfig};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

#[derive(Deserialize)]
struct Run {
    student: String,
    teacher: String,
    alpha: f64,
    temperature: f64,
    k: usize,
    rest: Rest,
    steps: Vec<Step>,
    first_gradient: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct Step {
    /// Rows of ids, and which of these count.
    rows: Vec<(Vec<u32>, Vec<f32>)>,
    lr: f64,
    loss: f64,
    ce: f64,
    kl: f64,
    grad_norm: f64,
}

fn recorded() -> Vec<Run> {
    serde_json::from_slice(&std::fs::read(testdata("distill.json")).unwrap()).unwrap()
}

impl Run {
    fn config(&self) -> DistillConfig {
        let Run { alpha, temperature, k, rest, .. } = *self;
        DistillConfig { alpha, temperature, k, rest, ..DistillConfig::USUAL }
    }

    fn teacher(&self, device: &Device) -> Llama {
        let checkpoint = Checkpoint::open(testdata("models").join(&self.teacher)).unwrap();
        Llama::load(&checkpoint, device, 64).unwrap()
    }

    fn student(&self, device: &Device, format: Format, recompute: bool) -> (Llama, Arc<Tape>) {
        let checkpoint = Checkpoint::open(testdata("models").join(&self.student)).unwrap();
        let tape = Arc::new(Tape::default());
        let training = Training { tape: Arc::clone(&tape), format, recompute };
        let numbers = |part| checkpoint.part(part).map(|stored| stored.unpack());
        let model = Llama::trainable(&checkpoint.config, device, 64, &training, numbers).unwrap();
        (model, tape)
    }
}

/// A row each, padded.
struct Rows {
    tokens: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
    documents: Vec<Range<usize>>,
}

const SEQ_LEN: usize = 32;

impl Rows {
    fn of(step: &Step) -> Rows {
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        let (mut weights, mut documents) = (Vec::new(), Vec::new());
        for (row, (ids, counts)) in step.rows.iter().enumerate() {
            let (start, end) = (row * SEQ_LEN, (row + 1) * SEQ_LEN);
            tokens.extend(&ids[..ids.len() - 1]);
            targets.extend(&ids[1..]);
            weights.extend(&counts[1..]);
            let here = tokens.len();
            documents.extend([start..here, here..end]);
            tokens.resize(end, 0);
            targets.resize(end, 0);
            weights.resize(end, 0.0);
        }
        Rows { tokens, targets, weights, documents }
    }

    /// Gives `f` micro-batches of `each` rows.
    fn each(&self, each: usize, mut f: impl FnMut(&Micro<'_>)) {
        let all = self.tokens.len() / SEQ_LEN;
        for start in (0..all).step_by(each) {
            let at = start * SEQ_LEN..(start + each).min(all) * SEQ_LEN;
            let here = |d: &Range<usize>| d.start - at.start..d.end - at.start;
            let documents: Vec<_> =
                self.documents.iter().filter(|d| at.contains(&d.start)).map(here).collect();
            let positions: Vec<u32> = documents.iter().flat_map(|d| 0..d.len() as u32).collect();
            f(&Micro {
                tokens: &self.tokens[at.clone()],
                targets: &self.targets[at.clone()],
                weights: &self.weights[at.clone()],
                positions: &positions,
                documents: &documents,
                seq_len: SEQ_LEN,
            });
        }
    }

    fn accumulate(
        &self,
        (model, tape): (&Llama, &Tape),
        teacher: &Llama,
        config: &DistillConfig,
        each: usize,
    ) -> Sums {
        let scale = 1.0 / self.weights.iter().sum::<f32>();
        let mut sums = Sums::default();
        self.each(each, |micro| {
            let said: Likeliest = says(teacher, micro, config.k, config.temperature);
            accumulate(model, tape, micro, said, config, scale, &mut sums);
        });
        sums
    }
}

#[test]
fn ten_steps_with_a_teacher_equal_pytorch_in_every_class() {
    for run in recorded() {
        for class in Class::available() {
            let device = Device::cpu(class, 2);
            let (teacher, config) = (run.teacher(&device), run.config());
            let (model, tape) = run.student(&device, Format::F32, false);
            let mut optimizer = Optimizer::new(&model, OptimizerConfig::LLAMA);
            for (i, step) in run.steps.iter().enumerate() {
                let what = format!("{} from {} in {class}, step {i}", run.student, run.teacher);
                let sums = Rows::of(step).accumulate((&model, &tape), &teacher, &config, 2);
                near(sums.loss(&config), step.loss, 1e-5, &format!("{what}, loss"));
                near(sums.learnt().ce, step.ce, 1e-5, &format!("{what}, ce"));
                near(sums.learnt().kl, step.kl, 1e-5, &format!("{what}, kl"));
                let norm = optimizer.grad_norm(&model);
                let off = (norm / step.grad_norm - 1.0).abs();
                assert!(off < 1e-5, "{what}: {norm}, {}: {off:e}", step.grad_norm);
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
fn trained(run: &Run, device: &Device, format: Format, recompute: bool, each: usize) -> Vec<u64> {
    let ((model, tape), teacher) = (run.student(device, format, recompute), run.teacher(device));
    let mut optimizer = Optimizer::new(&model, OptimizerConfig::LLAMA);
    let mut bits = Vec::new();
    for step in &run.steps {
        let config = run.config();
        let sums = Rows::of(step).accumulate((&model, &tape), &teacher, &config, each);
        bits.extend([sums.learnt().ce, sums.learnt().kl].map(f64::to_bits));
        let norm = optimizer.grad_norm(&model);
        optimizer.step(&model, step.lr, norm);
    }
    bits.extend(bits_of(&model));
    bits
}

#[test]
fn micro_batches_threads_and_recomputing_change_no_bit_of_what_is_taught() {
    for run in recorded() {
        expect_same_bits(&run.student, |device, format, recompute, each| {
            trained(&run, &device, format, recompute, each)
        });
    }
}
