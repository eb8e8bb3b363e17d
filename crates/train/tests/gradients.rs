//! The gradient of a batch through the whole model is the slope of its loss in f64, along random
//! directions of every parameter; those of mutants are not.

#![allow(clippy::unwrap_used)] // helpers of tests too

#[path = "../../tensor/tests/common/twin.rs"]
mod twin;

use herd_model::llama::{Llama, Piece, Training};
use herd_model::names::{Part, all_parts};
use herd_model::{Checkpoint, Config, RopeScaling};
use herd_tensor::{Class, Device, Format, Scaling, Tape, inverse_frequencies};
use herd_train::{Micro, Sums, accumulate};
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use twin::Rows;

/// Two rows of documents: whole, and cut where a row ends.
const SEQ_LEN: usize = 7;
const DOCUMENTS: [Range<usize>; 4] = [0..7, 7..9, 9..10, 10..14];
const RANK: usize = 3;
const ALPHA: f32 = 4.5;

struct Case {
    checkpoint: Checkpoint,
    /// The parts beside which LoRA is trained; none: all parts are trained.
    lora: Vec<Part>,
}

/// Numbers of the model, by part and piece.
type Numbers = HashMap<(Part, Piece), Vec<f64>>;

/// How the formula of the loss goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mutant {
    None,
    OneDocument,
    NoScale,
    NoPositions,
    NoSkip,
    StaleHead,
}

fn cases() -> Vec<(&'static str, Case)> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/models");
    let open = |name: &str| Checkpoint::open(models.join(name)).unwrap();
    let all = |name| Case { checkpoint: open(name), lora: vec![] };
    let lora = vec![Part::Q(0), Part::V(0), Part::Down(0), Part::K(1), Part::O(1), Part::Gate(1)];
    vec![
        ("as many key heads as query heads", all("llama1_mha")),
        ("grouped heads", all("llama2_gqa")),
        ("a tied head, and scaled frequencies", all("llama32_tied")),
        ("LoRA", Case { checkpoint: open("llama2_gqa"), lora }),
    ]
}

struct Batch {
    tokens: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
    positions: Vec<u32>,
}

impl Batch {
    fn new(vocab: usize) -> Batch {
        let len = 2 * SEQ_LEN;
        // Few ids, so that some come again.
        let id = |i: usize, step: usize| ((i * step + 1) % 9 % vocab) as u32;
        Batch {
            tokens: (0..len).map(|i| id(i, 5)).collect(),
            targets: (0..len).map(|i| id(i, 7)).collect(),
            weights: (0..len).map(|i| if i % 6 == 4 { 0.0 } else { 1.0 }).collect(),
            positions: DOCUMENTS.into_iter().flat_map(|d| 0..d.len() as u32).collect(),
        }
    }

    fn scale(&self) -> f32 {
        1.0 / self.weights.iter().sum::<f32>()
    }

    /// Two micro-batches of a row each.
    fn accumulate(&self, model: &Llama, tape: &Tape) {
        let mut sums = Sums::default();
        for at in [0..SEQ_LEN, SEQ_LEN..2 * SEQ_LEN] {
            let inside = DOCUMENTS.into_iter().filter(|d| at.contains(&d.start));
            let micro = Micro {
                tokens: &self.tokens[at.clone()],
                targets: &self.targets[at.clone()],
                weights: &self.weights[at.clone()],
                positions: &self.positions[at.clone()],
                documents: &inside
                    .map(|d| d.start - at.start..d.end - at.start)
                    .collect::<Vec<_>>(),
                seq_len: SEQ_LEN,
            };
            accumulate(model, tape, &micro, self.scale(), &mut sums);
        }
    }
}

fn lora_numbers(part: Part, piece: Piece, len: usize) -> Vec<f32> {
    // B is not zero, as it is at first: else A would have no gradient.
    let seed = 7 * u64::from(piece == Piece::LoraB)
        + format!("{part:?}").bytes().map(u64::from).sum::<u64>();
    twin::noise(seed, len).iter().map(|x| 0.3 * x).collect()
}

impl Case {
    /// The gradients of all parameters, by the tape.
    fn gradients(&self, device: &Device, recompute: bool) -> Vec<((Part, Piece), Vec<f32>)> {
        let tape = Arc::new(Tape::default());
        let training = Training { tape: Arc::clone(&tape), format: Format::F32, recompute };
        let (checkpoint, config) = (&self.checkpoint, &self.checkpoint.config);
        let numbers = |part| checkpoint.part(part).map(|stored| stored.unpack());
        let model = if self.lora.is_empty() {
            Llama::trainable(config, device, 64, &training, numbers).unwrap()
        } else {
            let mut model = Llama::load(checkpoint, device, 64).unwrap();
            model.add_lora(&training, &self.lora, RANK, ALPHA, lora_numbers);
            model
        };
        Batch::new(config.vocab).accumulate(&model, &tape);
        let gradient = |named: &herd_model::llama::Named<'_>| {
            named.param.join_gradients();
            ((named.part, named.piece), named.param.with_gradient(<[f32]>::to_vec))
        };
        model.params().iter().map(gradient).collect()
    }

    fn numbers(&self) -> Numbers {
        let config = &self.checkpoint.config;
        let whole = |part| {
            ((part, Piece::Whole), twin::wide(&self.checkpoint.part(part).unwrap().unpack()))
        };
        let mut numbers: Numbers = all_parts(config).into_iter().map(whole).collect();
        for &part in &self.lora {
            let [rows, cols] = *part.shape(config).as_slice() else { panic!("{part:?}") };
            for (piece, len) in [(Piece::LoraA, RANK * cols), (Piece::LoraB, rows * RANK)] {
                numbers.insert((part, piece), twin::wide(&lora_numbers(part, piece, len)));
            }
        }
        numbers
    }
}

fn frequencies(config: &Config) -> Vec<f64> {
    let scaling = match config.rope_scaling {
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            Scaling::Llama3 {
                factor: factor as f32,
                low_freq_factor: low_freq_factor as f32,
                high_freq_factor: high_freq_factor as f32,
                original_max_position_embeddings: original_context as u32,
            }
        }
        _ => Scaling::None,
    };
    twin::wide(&inverse_frequencies(config.head_dim, config.rope_theta as f32, &scaling).0)
}

/// The loss of the batch in f64. A stale head is that of `first`.
fn loss(config: &Config, w: &Numbers, first: &Numbers, mutant: Mutant) -> f64 {
    let batch = Batch::new(config.vocab);
    let rows = [0..SEQ_LEN, SEQ_LEN..2 * SEQ_LEN];
    let documents: &[Range<usize>] = if mutant == Mutant::OneDocument { &rows } else { &DOCUMENTS };
    let place = |p: &u32| match mutant {
        Mutant::NoPositions => 0.0,
        _ => f64::from(*p),
    };
    let positions: Vec<f64> = batch.positions.iter().map(place).collect();
    let (eps, frequencies) = (f64::from(config.norm_eps), frequencies(config));
    let scale = if mutant == Mutant::NoScale { 1.0 } else { f64::from(ALPHA) / RANK as f64 };
    let product = |x: &Rows, part: Part| {
        let y = twin::linear(x, &w[&(part, Piece::Whole)]);
        match (w.get(&(part, Piece::LoraA)), w.get(&(part, Piece::LoraB))) {
            (Some(a), Some(b)) => {
                twin::add(&y, &twin::times(twin::linear(&twin::linear(x, a), b), scale))
            }
            _ => y,
        }
    };
    let norm = |x: &Rows, part: Part| twin::rms_norm(x, &w[&(part, Piece::Whole)], eps);
    let turn = |x: Rows| twin::rope(x, &positions, &frequencies);
    let head_scale =
        if mutant == Mutant::NoScale { 1.0 } else { 1.0 / (config.head_dim as f64).sqrt() };
    let mut x = twin::embed(&w[&(Part::TokEmbd, Piece::Whole)], config.width, &batch.tokens);
    for l in 0..config.layers {
        let n = norm(&x, Part::AttnNorm(l));
        let (q, k) = (turn(product(&n, Part::Q(l))), turn(product(&n, Part::K(l))));
        let v = product(&n, Part::V(l));
        let a = twin::attention([&q, &k, &v], documents, config.head_dim, head_scale);
        let a = product(&a, Part::O(l));
        let h = if mutant == Mutant::NoSkip { a } else { twin::add(&x, &a) };
        let n = norm(&h, Part::FfnNorm(l));
        let f = twin::swiglu(&product(&n, Part::Gate(l)), &product(&n, Part::Up(l)));
        x = twin::add(&h, &product(&f, Part::Down(l)));
    }
    let x = norm(&x, Part::OutputNorm);
    let head = if config.tied { Part::TokEmbd } else { Part::Output };
    let head = &(if mutant == Mutant::StaleHead { first } else { w })[&(head, Piece::Whole)];
    twin::cross_entropy(&x, head, &batch.targets, &batch.weights, batch.scale().into())
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// The greatest distance of g . d from the slope along d, over a random direction of each parameter,
/// as a share of what g . d is typically.
fn distance(case: &Case, got: &[((Part, Piece), Vec<f32>)], mutant: Mutant) -> f64 {
    const H: f64 = 1e-5;
    let first = case.numbers();
    let share = |(seed, (key, g)): (usize, &((Part, Piece), Vec<f32>))| {
        let d = twin::noise(100 + seed as u64, g.len());
        let moved = |h: f64| {
            let mut w = first.clone();
            let numbers = w.get_mut(key).unwrap();
            numbers.iter_mut().zip(&d).for_each(|(w, d)| *w += h * f64::from(*d));
            loss(&case.checkpoint.config, &w, &first, mutant)
        };
        let slope = (moved(H) - moved(-H)) / (2.0 * H);
        let typical = (dot(g, g) * dot(&d, &d) / g.len() as f64).sqrt();
        (dot(g, &d) - slope).abs() / typical
    };
    got.iter().enumerate().map(share).fold(0.0, f64::max)
}

#[test]
fn gradients_of_the_model_are_slopes_of_its_loss_and_those_of_mutants_are_not() {
    for (name, case) in cases() {
        let (tied, lora) = (case.checkpoint.config.tied, !case.lora.is_empty());
        for class in Class::available() {
            for recompute in [false, true] {
                let got = case.gradients(&Device::cpu(class, 2), recompute);
                let parameters = if lora { 2 * case.lora.len() } else { 3 + 9 * 2 };
                assert_eq!(got.len() + usize::from(tied && !lora), parameters, "{name}");
                let distance = distance(&case, &got, Mutant::None);
                assert!(distance < 1e-4, "{name} in {class}: {distance:e}");
            }
        }
        let got = case.gradients(&Device::cpu(Class::best(), 1), false);
        let mut mutants = vec![Mutant::OneDocument, Mutant::NoScale, Mutant::NoSkip];
        mutants.push(Mutant::NoPositions);
        mutants.extend((!lora).then_some(Mutant::StaleHead));
        for mutant in mutants {
            let distance = distance(&case, &got, mutant);
            assert!(distance > 1e-2, "{name}: {mutant:?} passes, {distance:e}");
        }
    }
}
