//! A batch of 24 rows gives the same weights after fifty steps, however it is cut into micro-batches,
//! on any number of threads, with blocks recomputed or not, in every class and precision.

#![allow(clippy::unwrap_used)] // helpers of tests too

use herd_model::llama::{Llama, Training};
use herd_model::{Config, RopeScaling};
use herd_tensor::{Class, Device, Format, Tape};
use herd_train::{Micro, Optimizer, OptimizerConfig, Sums, accumulate, first_numbers};
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::sync::Arc;

const ROWS: usize = 24;
const SEQ_LEN: usize = 6;
const STEPS: usize = 50;

fn config() -> Config {
    Config {
        layers: 2,
        width: 16,
        heads: 4,
        kv_heads: 2,
        head_dim: 4,
        ffn_width: 24,
        vocab: 29,
        norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        context: SEQ_LEN,
        tied: true,
        head: herd_model::Head::Language,
    }
}

/// Rows of documents of several lengths, the last of each padded where its length says so.
struct Batch {
    tokens: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
    positions: Vec<u32>,
    documents: Vec<Range<usize>>,
}

impl Batch {
    fn new(step: usize) -> Batch {
        let len = ROWS * SEQ_LEN;
        let id = |i: usize| ((step * 7919 + i * i * 31 + i) % config().vocab) as u32;
        let mut documents = vec![];
        for row in 0..ROWS {
            let (start, cut) = (row * SEQ_LEN, (step + row * 3) % SEQ_LEN);
            let whole = start..start + SEQ_LEN;
            match cut {
                0 => documents.push(whole),
                _ => documents.extend([start..start + cut, start + cut..whole.end]),
            }
        }
        Batch {
            tokens: (0..len).map(id).collect(),
            targets: (1..=len).map(id).collect(),
            weights: (0..len)
                .map(|i| if (i + step).is_multiple_of(11) { 0.0 } else { 1.0 })
                .collect(),
            positions: documents.iter().flat_map(|d| 0..d.len() as u32).collect(),
            documents,
        }
    }

    /// The rows `at` as a micro-batch.
    fn accumulate(&self, model: &Llama, tape: &Tape, at: Range<usize>, sums: &mut Sums) {
        let at = at.start * SEQ_LEN..at.end * SEQ_LEN;
        let inside = self.documents.iter().filter(|d| at.contains(&d.start));
        let micro = Micro {
            tokens: &self.tokens[at.clone()],
            targets: &self.targets[at.clone()],
            weights: &self.weights[at.clone()],
            positions: &self.positions[at.clone()],
            documents: &inside.map(|d| d.start - at.start..d.end - at.start).collect::<Vec<_>>(),
            seq_len: SEQ_LEN,
        };
        let scale = 1.0 / self.weights.iter().sum::<f32>();
        accumulate(model, tape, &micro, scale, sums);
    }
}

/// How a batch is computed.
#[derive(Clone, Copy, Debug)]
struct Way {
    class: Class,
    format: Format,
    threads: usize,
    recompute: bool,
    /// Rows of a micro-batch.
    rows: usize,
    /// A mutant: the last micro-batch first.
    backwards: bool,
}

/// The hash of all weights after the last step, and the bits of every loss.
fn trained(way: Way) -> (String, Vec<u64>) {
    let (device, tape) = (Device::cpu(way.class, way.threads), Arc::new(Tape::default()));
    let Way { format, recompute, .. } = way;
    let training = Training { tape: Arc::clone(&tape), format, recompute };
    let config = config();
    let numbers = |part| Ok::<_, ()>(first_numbers(&config, part, 0.05, 1));
    let model = Llama::trainable(&config, &device, SEQ_LEN, &training, numbers).unwrap();
    let mut optimizer = Optimizer::new(&model, OptimizerConfig::LLAMA);
    let mut losses = vec![];
    for step in 0..STEPS {
        let (batch, mut sums) = (Batch::new(step), Sums::default());
        let mut starts: Vec<usize> = (0..ROWS).step_by(way.rows).collect();
        if way.backwards {
            starts.reverse();
        }
        for start in starts {
            batch.accumulate(&model, &tape, start..start + way.rows, &mut sums);
        }
        losses.push(sums.loss().to_bits());
        let norm = optimizer.grad_norm(&model);
        optimizer.step(&model, 1e-2, norm);
    }
    let mut hash = Sha256::new();
    for named in model.params() {
        named.param.with_master(|w| w.iter().for_each(|x| hash.update(x.to_le_bytes())));
    }
    let hash = hash.finalize();
    (hash.iter().map(|byte| format!("{byte:02x}")).collect(), losses)
}

#[test]
fn cuts_of_a_batch_threads_and_recomputing_change_no_bit_in_fifty_steps() {
    for class in Class::available() {
        for format in [Format::F32, Format::BF16] {
            let (threads, recompute, backwards) = (1, false, false);
            let first = Way { class, format, threads, recompute, rows: ROWS, backwards };
            let want = trained(first);
            let losses = want.1.iter().map(|bits| f64::from_bits(*bits)).collect::<Vec<_>>();
            assert!(losses[STEPS - 1] < losses[0], "it learns: {losses:?}");
            for (rows, threads, recompute) in [1, 2, 3, ROWS].into_iter().flat_map(|rows| {
                [(1, false), (2, false), (1, true), (2, true)].map(|(t, r)| (rows, t, r))
            }) {
                let way = Way { threads, recompute, rows, ..first };
                assert!(trained(way) == want, "{way:?}");
            }
            let mutant = Way { rows: 1, backwards: true, ..first };
            assert_ne!(trained(mutant).0, want.0, "{class}: another order is other bits");
        }
    }
}
