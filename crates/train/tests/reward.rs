//! Ten steps of a reward model give what PyTorch recorded, and the same bits however they are cut; a reward is the same
//! bits whoever else is asked about.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;

use common::{bits_of, expect_same_bits, near, testdata};
use herd_data::dialogue::Mark;
use herd_model::llama::{Llama, Training};
use herd_model::names::{Part, Style, name};
use herd_model::{Checkpoint, Config, Head};
use herd_tensor::ops::Documents;
use herd_tensor::{Class, Device, Format, Tape};
use herd_train::reward::{Margin, Prompt, Sums, accumulate, rewards};
use herd_train::{Micro, Optimizer, OptimizerConfig};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

#[derive(Deserialize)]
struct Run {
    model: String,
    margin: Margin,
    head: Vec<f32>,
    steps: Vec<Step>,
    first_gradient: BTreeMap<String, f64>,
}

/// Ids of a prompt, its strength, and its answers: ids, and what people made of them.
type Asked = (Vec<u32>, u8, Vec<(Vec<u32>, u8)>);

#[derive(Deserialize)]
struct Step {
    prompts: Vec<Asked>,
    lr: f64,
    loss: f64,
    grad_norm: f64,
    means: [f64; 3],
}

fn recorded() -> Vec<Run> {
    serde_json::from_slice(&std::fs::read(testdata("reward.json")).unwrap()).unwrap()
}

fn mark(standing: u8, strength: u8) -> Mark {
    Mark::of_weight(f32::from(1 + standing + 3 * strength)).unwrap()
}

/// A prompt a row, its answers one behind the other.
struct Rows {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    documents: Vec<Range<usize>>,
    /// One a row.
    prompts: Vec<Prompt>,
}

const SEQ_LEN: usize = 64;

impl Rows {
    fn of(step: &Step) -> Rows {
        let (mut tokens, mut positions) = (Vec::new(), Vec::new());
        let (mut documents, mut prompts) = (Vec::new(), Vec::new());
        for (row, (prompt, strength, answers)) in step.prompts.iter().enumerate() {
            let mut push = |ids: &[u32]| -> Range<usize> {
                let at = tokens.len()..tokens.len() + ids.len();
                tokens.extend(ids);
                positions.extend(0..at.len() as u32);
                documents.push(at.clone());
                at
            };
            let stem = push(prompt);
            let answer = |(ids, standing): &(Vec<u32>, u8)| (push(ids), mark(*standing, *strength));
            let answers = answers.iter().map(answer).collect();
            let (here, end) = (tokens.len(), (row + 1) * SEQ_LEN);
            assert!(here < end, "a row of {SEQ_LEN} is too short");
            tokens.resize(end, 0);
            positions.extend(0..(end - here) as u32);
            documents.push(here..end);
            prompts.push(Prompt { stem, answers });
        }
        Rows { tokens, positions, documents, prompts }
    }

    /// Gives `f` micro-batches of `each` rows, and their prompts.
    fn each(&self, each: usize, mut f: impl FnMut(&Micro<'_>, Vec<Prompt>)) {
        for start in (0..self.prompts.len()).step_by(each) {
            let rows = start..(start + each).min(self.prompts.len());
            let at = rows.start * SEQ_LEN..rows.end * SEQ_LEN;
            let here = |d: &Range<usize>| d.start - at.start..d.end - at.start;
            let documents: Vec<_> =
                self.documents.iter().filter(|d| at.contains(&d.start)).map(here).collect();
            let zeros = vec![0; at.len()];
            let micro = Micro {
                tokens: &self.tokens[at.clone()],
                targets: &zeros,
                weights: &vec![0.0; at.len()],
                positions: &self.positions[at.clone()],
                documents: &documents,
                seq_len: SEQ_LEN,
            };
            let moved = |prompt: &Prompt| Prompt {
                stem: here(&prompt.stem),
                answers: prompt.answers.iter().map(|(at, mark)| (here(at), *mark)).collect(),
            };
            f(&micro, self.prompts[rows].iter().map(moved).collect());
        }
    }

    fn accumulate(&self, model: &Llama, tape: &Tape, margin: Margin, each: usize) -> Sums {
        let pairs = |p: &Prompt| p.answers.len() * (p.answers.len() - 1) / 2;
        let share = 1.0 / self.prompts.iter().map(pairs).sum::<usize>() as f64;
        let mut sums = Sums::default();
        self.each(each, |micro, prompts| {
            accumulate(model, tape, micro, &prompts, margin, share, &mut sums);
        });
        sums
    }
}

fn load(run: &Run, device: Device, format: Format, recompute: bool) -> (Llama, Arc<Tape>) {
    let checkpoint = Checkpoint::open(testdata("models").join(&run.model)).unwrap();
    let config = Config { head: Head::Score, ..checkpoint.config.clone() };
    let tape = Arc::new(Tape::default());
    let training = Training { tape: Arc::clone(&tape), format, recompute };
    let numbers = |part| match part {
        Part::Score => Ok(run.head.clone()),
        part => checkpoint.part(part).map(|stored| stored.unpack()),
    };
    let model = Llama::trainable(&config, &device, 64, &training, numbers).unwrap();
    (model, tape)
}

#[test]
fn ten_steps_of_rewards_equal_pytorch_in_every_class() {
    let three = |run: &Run| run.steps.iter().flat_map(|s| &s.prompts).any(|p| p.2.len() == 3);
    for run in recorded() {
        assert!(three(&run), "an edited answer is met");
        for class in Class::available() {
            let (model, tape) = load(&run, Device::cpu(class, 2), Format::F32, false);
            let mut optimizer = Optimizer::new(&model, OptimizerConfig::LLAMA);
            for (i, step) in run.steps.iter().enumerate() {
                let what = format!("{} in {class}, step {i}", run.model);
                let rows = Rows::of(step);
                let sums = rows.accumulate(&model, &tape, run.margin, 2);
                near(sums.loss(), step.loss, 1e-5, &what);
                let met = sums.preferences();
                for (got, want) in [met.chosen, met.rejected, met.accuracy].iter().zip(step.means) {
                    near(*got, want, 1e-5, &what);
                }
                let norm = optimizer.grad_norm(&model);
                let off = (norm / step.grad_norm - 1.0).abs();
                assert!(off < 1e-5, "{what}: {norm}, {}", step.grad_norm);
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

#[test]
fn a_shared_prompt_gives_the_bits_of_a_row_for_each_answer() {
    for run in recorded() {
        for (class, format) in
            Class::available().into_iter().flat_map(|c| [(c, Format::F32), (c, Format::BF16)])
        {
            let (model, tape) = load(&run, Device::cpu(class, 2), format, false);
            let alone = |prompt: &[u32], answer: &[u32]| {
                let (ids, shape) = ([prompt, answer].concat(), model.config());
                let positions: Vec<u32> = (0..ids.len() as u32).collect();
                let whole = std::iter::once(0..ids.len()).collect();
                let documents = Documents::new(whole, shape.kv_heads, shape.head_dim);
                let x_td = model.forward_documents(&ids, &positions, &Arc::new(documents));
                f64::from(model.scores(&x_td.select(&[ids.len() - 1])).data()[0])
            };
            for step in &run.steps {
                let of = |(prompt, _, answers): &Asked| -> Vec<f64> {
                    answers.iter().map(|(ids, _)| alone(prompt, ids)).collect()
                };
                let want: Vec<Vec<f64>> =
                    tape.paused(|| step.prompts.iter().map(of).collect::<Vec<_>>());
                for each in [1, 3] {
                    let mut got = Vec::new();
                    Rows::of(step).each(each, |micro, prompts| {
                        got.extend(tape.paused(|| rewards(&model, micro, &prompts)));
                    });
                    assert_eq!(got, want, "{} in {class}, {}", run.model, format.name());
                }
            }
        }
    }
}

/// The weights after all steps of a run and the sums of the last, as bits.
fn trained(run: &Run, device: Device, format: Format, recompute: bool, each: usize) -> Vec<u64> {
    let (model, tape) = load(run, device, format, recompute);
    let mut optimizer = Optimizer::new(&model, OptimizerConfig::LLAMA);
    let mut bits = Vec::new();
    for step in &run.steps {
        let rows = Rows::of(step);
        let sums = rows.accumulate(&model, &tape, run.margin, each);
        bits.extend([sums.loss(), sums.preferences().margin].map(f64::to_bits));
        let norm = optimizer.grad_norm(&model);
        optimizer.step(&model, step.lr, norm);
    }
    bits.extend(bits_of(&model));
    bits
}

#[test]
fn micro_batches_threads_and_recomputing_change_no_bit_of_rewards() {
    for run in recorded() {
        expect_same_bits(&run.model, |device, format, recompute, each| {
            trained(&run, device, format, recompute, each)
        });
    }
}
