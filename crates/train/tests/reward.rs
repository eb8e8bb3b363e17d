//! Ten steps of a reward model give what PyTorch recorded, and the same bits however they are cut; a reward is the same
//! bits whoever else is asked about.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;

use common::{bits_of, expect_same_bits, near, testdata};
use herd_data::dialogue::Mark;
use herd_model::llama::{Llama, Piece, Training};
use herd_model::names::{Direction, Part, Style, name, permute_rows};
use herd_model::{Checkpoint, CheckpointError, Config, Head};
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
    /// Where an adapter is trained beside frozen weights, and the head.
    #[serde(default)]
    lora: Option<Adapter>,
    /// Rewards of the last answers in the end, with the adapter and merged.
    #[serde(default)]
    rewards: Vec<f64>,
    #[serde(default)]
    merged: Vec<f64>,
}

#[derive(Deserialize)]
struct Adapter {
    rank: usize,
    alpha: f32,
    targets: Vec<String>,
    /// A and B, by their names in PEFT's files.
    first: BTreeMap<String, Vec<f32>>,
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
    let Some(lora) = &run.lora else {
        let numbers = |part| match part {
            Part::Score => Ok(run.head.clone()),
            part => checkpoint.part(part).map(|stored| stored.unpack()),
        };
        let model = Llama::trainable(&config, &device, 64, &training, numbers).unwrap();
        return (model, tape);
    };
    let head = run.head.clone();
    let mut model = Llama::scoring(&checkpoint, &device, 64, &training, head).unwrap();
    let kind = |part: &Part| match part {
        Part::Q(_) => "q",
        Part::K(_) => "k",
        Part::V(_) => "v",
        Part::Down(_) => "down",
        other => panic!("{other:?} has no name here"),
    };
    let parts =
        (0..config.layers).flat_map(|l| [Part::Q(l), Part::K(l), Part::V(l), Part::Down(l)]);
    let parts: Vec<Part> =
        parts.filter(|part| lora.targets.iter().any(|target| target == kind(part))).collect();
    assert_eq!(parts.len(), config.layers * lora.targets.len());
    model.add_lora(&training, &parts, lora.rank, lora.alpha, |part, piece, _| {
        let numbers = lora.first[&tensor(part, piece)].clone();
        match part.permuted_heads(&config) {
            Some(heads) if piece == Piece::LoraB => {
                reordered(&numbers, heads, lora.rank, &config, Direction::HfToMeta)
            }
            Some(_) | None => numbers,
        }
    });
    (model, tape)
}

/// The name in PEFT's files, less its prefix.
fn tensor(part: Part, piece: Piece) -> String {
    let name = name(part, Style::Hf).unwrap();
    match piece {
        Piece::Whole => name,
        Piece::LoraA => name.replace(".weight", ".lora_A.weight"),
        Piece::LoraB => name.replace(".weight", ".lora_B.weight"),
    }
}

/// Rows of queries and keys in another order.
fn reordered(
    rows: &[f32],
    heads: usize,
    cols: usize,
    config: &Config,
    direction: Direction,
) -> Vec<f32> {
    let bytes: Vec<u8> = rows.iter().flat_map(|x| x.to_le_bytes()).collect();
    let bytes = permute_rows(&bytes, heads, config.head_dim, 4 * cols, direction);
    bytes.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect()
}

/// W + (alpha / rank) B A in place of each target, all of it in f32.
fn merged(run: &Run, model: &Llama, device: &Device) -> (Llama, Arc<Tape>) {
    let lora = run.lora.as_ref().unwrap();
    let checkpoint = Checkpoint::open(testdata("models").join(&run.model)).unwrap();
    let mut trained: BTreeMap<(Part, Piece), Vec<f32>> = BTreeMap::new();
    for p in model.params() {
        trained.insert((p.part, p.piece), p.param.with_master(<[f32]>::to_vec));
    }
    let tape = Arc::new(Tape::default());
    let training = Training { tape: Arc::clone(&tape), format: Format::F32, recompute: false };
    let numbers = |part: Part| {
        if part == Part::Score {
            return Ok(trained[&(part, Piece::Whole)].clone());
        }
        let mut w = checkpoint.part(part)?.unpack();
        let pieces = [Piece::LoraA, Piece::LoraB].map(|piece| trained.get(&(part, piece)));
        if let [Some(a), Some(b)] = pieces {
            let (cols, scale) = (a.len() / lora.rank, lora.alpha / lora.rank as f32);
            for (i, w) in w.iter_mut().enumerate() {
                let (row, col) = (i / cols, i % cols);
                let sum = |r: usize| b[row * lora.rank + r] * a[r * cols + col];
                *w += scale * (0..lora.rank).map(sum).sum::<f32>();
            }
        }
        Ok::<_, CheckpointError>(w)
    };
    (Llama::trainable(model.config(), device, 64, &training, numbers).unwrap(), tape)
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
                        let name = tensor(p.part, p.piece);
                        let square =
                            |g: &[f32]| g.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>();
                        let got = p.param.with_gradient(square).sqrt();
                        let want = run.first_gradient[&name];
                        assert!((got / want - 1.0).abs() < 2e-5, "{what} {name}: {got}, {want}");
                    }
                }
                optimizer.step(&model, step.lr, norm);
            }
            expect_rewards(&run, &model, &tape, class);
        }
    }
}

/// What the last answers of an adapter are worth in the end, beside its weights and merged with them.
fn expect_rewards(run: &Run, model: &Llama, tape: &Tape, class: Class) {
    if run.lora.is_none() {
        return;
    }
    let rows = Rows::of(run.steps.last().unwrap());
    let ask = |model: &Llama, tape: &Tape| -> Vec<f64> {
        let mut got = Vec::new();
        rows.each(3, |micro, prompts| {
            got.extend(tape.paused(|| rewards(model, micro, &prompts)).concat());
        });
        got
    };
    let (own, (model, tape)) = (ask(model, tape), merged(run, model, &Device::cpu(class, 2)));
    let merged = ask(&model, &tape);
    assert_eq!((own.len(), merged.len()), (run.rewards.len(), run.merged.len()));
    for (i, (own, merged)) in own.iter().zip(&merged).enumerate() {
        let what = format!("{} in {class}, answer {i}", run.model);
        near(*own, run.rewards[i], 1e-5, &what);
        near(*merged, run.merged[i], 1e-5, &what);
        near(*own, *merged, 2e-6, &what);
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
