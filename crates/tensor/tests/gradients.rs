//! Each operation that leaves a node on the tape: its gradients are the slopes of its formula in
//! f64, and those of a wrong formula (a mutant) are not.
//!
//! The operation stands between embeddings and a head with its loss, so that the gradients of its
//! input are seen in those of the embeddings.

#![allow(clippy::unwrap_used)] // helpers of tests too

#[path = "common/twin.rs"]
mod twin;

use herd_tensor::ops::{
    Branching, Documents, Keys, Positions, Targets, attention, cross_entropy, embed, linear,
    linears, recompute, rms_norm, rope, swiglu,
};
use herd_tensor::{Class, Device, Format, Gain, Lora, Param, Tape, Tensor, Weight};
use std::sync::Arc;
use twin::Rows;

/// Width, tokens, vocabulary; heads of four numbers, so that eight are two heads.
const D: usize = 8;
const HEAD: usize = 4;
const V: usize = 5;
/// An id comes again; a token has no weight.
const IDS: [u32; 7] = [3, 0, 3, 1, 4, 2, 3];
const TARGETS: [u32; 7] = [0, 3, 1, 4, 2, 3, 0];
const WEIGHTS: [f32; 7] = [1.0, 1.0, 0.0, 1.0, 1.0, 0.5, 1.0];
const POSITIONS: [u32; 7] = [0, 1, 2, 0, 1, 2, 3];
const EPS: f32 = 1e-3;
const SCALE: f32 = 0.25;
const FREQUENCIES: [f32; 2] = [1.0, 0.125];

/// The parameters of a case: embeddings, head, then those of the operation.
type Twin = dyn Fn(&[Vec<f64>], Rows) -> Rows;

/// An operation on the tape, its formula, and formulas that are wrong.
struct Case {
    name: &'static str,
    /// Rows and columns of its parameters; one row alone is a norm's gains.
    params: &'static [[usize; 2]],
    /// Whether the head is the embedding.
    tied: bool,
    op: fn(Tensor, &[Arc<Param>]) -> Tensor,
    twin: Box<Twin>,
    mutants: Vec<(&'static str, Box<Twin>)>,
}

impl Case {
    /// The first numbers of embeddings, head and parameters.
    fn numbers(&self) -> Vec<([usize; 2], Vec<f32>)> {
        let outer: &[[usize; 2]] = if self.tied { &[[V, D]] } else { &[[V, D], [V, D]] };
        let shapes = outer.iter().chain(self.params).enumerate();
        shapes.map(|(i, shape)| (*shape, twin::noise(i as u64 + 1, shape[0] * shape[1]))).collect()
    }

    fn outer(&self) -> usize {
        if self.tied { 1 } else { 2 }
    }

    /// The gradients of all parameters, by the tape.
    fn run(&self, device: &Device) -> Vec<Vec<f32>> {
        let tape = Arc::new(Tape::default());
        let param = |([rows, cols], numbers): ([usize; 2], Vec<f32>)| match rows {
            1 => Param::vector(device, &tape, Format::F32, numbers),
            _ => Param::matrix(device, &tape, Format::F32, [rows, cols], numbers),
        };
        let params: Vec<Arc<Param>> = self.numbers().into_iter().map(param).collect();
        tape.begin(vec![0..3, 3..7]);
        let x = embed(device, &Weight::Trained(Arc::clone(&params[0])), &IDS);
        let y = (self.op)(x, &params[self.outer()..]);
        let head = Weight::Trained(Arc::clone(&params[self.outer() - 1]));
        let targets = Targets { ids: &TARGETS, weights: &WEIGHTS, scale: SCALE, z_loss: 0.0 };
        cross_entropy(&y, &head, &targets).backward();
        let gradient = |param: &Arc<Param>| {
            param.join_gradients();
            param.with_gradient(<[f32]>::to_vec)
        };
        params.iter().map(gradient).collect()
    }

    /// The slopes of the loss behind a formula.
    fn slopes(&self, twin: &Twin) -> Vec<Vec<f64>> {
        let params: Vec<Vec<f64>> = self.numbers().iter().map(|(_, w)| twin::wide(w)).collect();
        let outer = self.outer();
        twin::gradient(&params, &|params| {
            let y = twin(&params[outer..], twin::embed(&params[0], D, &IDS));
            twin::cross_entropy(&y, &params[outer - 1], &TARGETS, &WEIGHTS, SCALE.into())
        })
    }
}

fn case(
    name: &'static str,
    params: &'static [[usize; 2]],
    op: fn(Tensor, &[Arc<Param>]) -> Tensor,
    twin: impl Fn(&[Vec<f64>], Rows) -> Rows + 'static,
) -> Case {
    Case { name, params, tied: false, op, twin: Box::new(twin), mutants: vec![] }
}

impl Case {
    fn mutant(
        mut self,
        name: &'static str,
        twin: impl Fn(&[Vec<f64>], Rows) -> Rows + 'static,
    ) -> Case {
        self.mutants.push((name, Box::new(twin)));
        self
    }
}

fn weight(param: &Arc<Param>) -> Weight {
    Weight::Trained(Arc::clone(param))
}

fn transposed(w: &[f64]) -> Vec<f64> {
    (0..D * D).map(|i| w[i % D * D + i / D]).collect()
}

/// What embeddings give before any step: a statistic that a stale operation would still hold.
fn stale_scales() -> Vec<f64> {
    let w = twin::wide(&twin::noise(1, V * D));
    twin::scales(&twin::embed(&w, D, &IDS), EPS.into())
}

fn outer() -> Vec<Case> {
    let plain = |_: &[Vec<f64>], x: Rows| x;
    let tied = Case { tied: true, ..case("embed, tied to the head", &[], |x, _| x, plain) };
    vec![
        case("embed and cross_entropy", &[], |x, _| x, plain)
            .mutant("the sign of x", |_, x| twin::times(x, -1.0))
            .mutant("the row before", |_, mut x| {
                x.rotate_right(1);
                x
            }),
        tied.mutant("another scale", |_, x| twin::times(x, 1.001)),
    ]
}

fn sums() -> Vec<Case> {
    vec![
        case(
            "add",
            &[[D, D]],
            |x, w| {
                let y = linear(&x, &weight(&w[0]));
                x + &y
            },
            |w, x| twin::add(&x, &twin::linear(&x, &w[0])),
        )
        .mutant("one branch", |w, x| twin::linear(&x, &w[0]))
        .mutant("the other branch", |_, x| x)
        .mutant("the sign", |w, x| twin::add(&x, &twin::times(twin::linear(&x, &w[0]), -1.0))),
        case("add, twice the same", &[], |x, _| x.clone() + &x, |_, x| twin::add(&x, &x))
            .mutant("once", |_, x| x),
    ]
}

fn products() -> Vec<Case> {
    let lora: fn(Tensor, &[Arc<Param>]) -> Tensor = |x, w| {
        let base = twin::noise(9, D * D).iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let base = Weight::new(x.device(), Format::F32, D, D, &base);
        let [a, b] = [0, 1].map(|i| Weight::Trained(Arc::clone(&w[i])));
        linear(&x, &Weight::Lora(Arc::new(Lora { base, a, b, scale: 1.5 })))
    };
    let low = |x: &Rows, w: &[Vec<f64>]| twin::linear(&twin::linear(x, &w[0]), &w[1]);
    let base = |x: &Rows| twin::linear(x, &twin::wide(&twin::noise(9, D * D)));
    vec![
        case(
            "linear",
            &[[D, D]],
            |x, w| linear(&x, &weight(&w[0])),
            |w, x| twin::linear(&x, &w[0]),
        )
        .mutant("W without its transpose", |w, x| twin::linear(&x, &transposed(&w[0])))
        .mutant("the sign", |w, x| twin::times(twin::linear(&x, &w[0]), -1.0)),
        case(
            "linears",
            &[[D, D], [D, D]],
            |x, w| {
                let [a, b] = linears(&x, [&weight(&w[0]), &weight(&w[1])]);
                a + &b
            },
            |w, x| twin::add(&twin::linear(&x, &w[0]), &twin::linear(&x, &w[1])),
        )
        .mutant("the second written over the first", |w, x| twin::linear(&x, &w[1])),
        case("linear with LoRA", &[[2, D], [D, 2]], lora, move |w, x| {
            twin::add(&base(&x), &twin::times(low(&x, w), 1.5))
        })
        .mutant("no scale", move |w, x| twin::add(&base(&x), &low(&x, w)))
        .mutant("no frozen product", move |w, x| twin::times(low(&x, w), 1.5))
        .mutant("the sign", move |w, x| twin::add(&base(&x), &twin::times(low(&x, w), -1.5))),
    ]
}

fn rows() -> Vec<Case> {
    let stale = stale_scales();
    let gate = |w: &[Vec<f64>], x: &Rows| [twin::linear(x, &w[0]), twin::linear(x, &w[1])];
    let feed: fn(Tensor, &[Arc<Param>]) -> Tensor = |x, w| {
        let [gate, up] = linears(&x, [&weight(&w[0]), &weight(&w[1])]);
        swiglu(&gate, &up)
    };
    vec![
        case(
            "rms_norm",
            &[[1, D]],
            |x, w| rms_norm(&x, &Gain::Trained(Arc::clone(&w[0])), EPS),
            |w, x| twin::rms_norm(&x, &w[0], EPS.into()),
        )
        .mutant("a root held fixed", move |w, x| twin::scaled(&x, &stale, &w[0]))
        .mutant("the root of the row before", |w, x| {
            let mut scales = twin::scales(&x, EPS.into());
            scales.rotate_right(1);
            twin::scaled(&x, &scales, &w[0])
        })
        .mutant("no eps", |w, x| twin::rms_norm(&x, &w[0], 0.0)),
        case("swiglu", &[[D, D], [D, D]], feed, move |w, x| {
            let [gate, up] = gate(w, &x);
            twin::swiglu(&gate, &up)
        })
        .mutant("gate and up exchanged", move |w, x| {
            let [gate, up] = gate(w, &x);
            twin::swiglu(&up, &gate)
        })
        .mutant("the sign of the gate", move |w, x| {
            let [gate, up] = gate(w, &x);
            twin::swiglu(&twin::times(gate, -1.0), &up)
        })
        .mutant("sigmoid alone", move |w, x| {
            let [gate, up] = gate(w, &x);
            twin::map(&gate, &up, |gate, up| up / (1.0 + (-gate).exp()))
        }),
    ]
}

fn whole_documents() -> Arc<Documents> {
    Arc::new(Documents::new(vec![0..3, 3..7], 1, HEAD))
}

/// Two tokens, and two ways to go on.
const STEM: std::ops::Range<usize> = 0..2;
const BRANCHES: [std::ops::Range<usize>; 2] = [2..4, 4..7];

/// Attention of a stem and its branches, each of which has keys and values of its own for the stem.
fn branched(q: &Rows, keys: [&Rows; 2], values: [&Rows; 2], scale: f64) -> Rows {
    let mut out = q.clone();
    for ((branch, k), v) in BRANCHES.into_iter().zip(keys).zip(values).rev() {
        let rows: Vec<usize> = STEM.chain(branch).collect();
        let of = |x: &Rows| -> Rows { rows.iter().map(|row| x[*row].clone()).collect() };
        let all = 0..rows.len();
        let seen = twin::attention([&of(q), &of(k), &of(v)], &[all], HEAD, scale);
        rows.iter().zip(seen).for_each(|(row, seen)| out[*row] = seen);
    }
    out
}

/// Its keys or values before any step, in the rows of the stem.
fn stale_stem(x: &Rows, seed: u64) -> Rows {
    let first = twin::embed(&twin::wide(&twin::noise(1, V * D)), D, &IDS);
    let stale = twin::linear(&first, &twin::wide(&twin::noise(seed, HEAD * D)));
    (0..x.len()).map(|t| if STEM.contains(&t) { stale[t].clone() } else { x[t].clone() }).collect()
}

fn branches() -> Case {
    let run: fn(Tensor, &[Arc<Param>]) -> Tensor = |x, w| {
        let [q, k, v] = linears(&x, [&weight(&w[0]), &weight(&w[1]), &weight(&w[2])]);
        let documents = [Branching { stem: STEM, branches: BRANCHES.to_vec() }];
        let documents = Arc::new(Documents::branching(&documents, 1, HEAD));
        attention(&q, &k, &v, &mut Keys::Packed(documents), 0)
    };
    let qkv = |w: &[Vec<f64>], x: &Rows| [0, 1, 2].map(|i| twin::linear(x, &w[i]));
    case("attention of branches", &[[D, D], [HEAD, D], [HEAD, D]], run, move |w, x| {
        let [q, k, v] = qkv(w, &x);
        branched(&q, [&k, &k], [&v, &v], 0.5)
    })
    .mutant("a branch sees its sibling", move |w, x| {
        let [q, k, v] = qkv(w, &x);
        let all = 0..IDS.len();
        twin::attention([&q, &k, &v], &[all], HEAD, 0.5)
    })
    .mutant("a branch without its stem", move |w, x| {
        let [q, k, v] = qkv(w, &x);
        twin::attention([&q, &k, &v], &[STEM, 2..4, 4..7], HEAD, 0.5)
    })
    .mutant("the stem learns from its first branch alone", move |w, x| {
        let [q, k, v] = qkv(w, &x);
        let (stale_k, stale_v) = (stale_stem(&k, 4), stale_stem(&v, 5));
        branched(&q, [&k, &stale_k], [&v, &stale_v], 0.5)
    })
}

fn places() -> Vec<Case> {
    let positions = || POSITIONS.map(f64::from);
    let frequencies = || FREQUENCIES.map(f64::from);
    // Two query heads share a head of keys and values.
    let attend: fn(Tensor, &[Arc<Param>]) -> Tensor = |x, w| {
        let [q, k, v] = linears(&x, [&weight(&w[0]), &weight(&w[1]), &weight(&w[2])]);
        attention(&q, &k, &v, &mut Keys::Packed(whole_documents()), 0)
    };
    let qkv = |w: &[Vec<f64>], x: &Rows| [0, 1, 2].map(|i| twin::linear(x, &w[i]));
    const GROUPED: &[[usize; 2]] = &[[D, D], [HEAD, D], [HEAD, D]];
    const ROOT: f64 = 0.5; // 1 / sqrt(4)
    vec![
        case(
            "rope",
            &[[D, D]],
            |x, w| {
                let at = Positions::new(&POSITIONS, &FREQUENCIES, 1.0);
                rope(linear(&x, &weight(&w[0])), &at)
            },
            move |w, x| twin::rope(twin::linear(&x, &w[0]), &positions(), &frequencies()),
        )
        .mutant("turned the other way", move |w, x| {
            let back = positions().map(|p| -p);
            twin::rope(twin::linear(&x, &w[0]), &back, &frequencies())
        })
        .mutant("positions of the row", move |w, x| {
            let row: Vec<f64> = (0..IDS.len()).map(|t| t as f64).collect();
            twin::rope(twin::linear(&x, &w[0]), &row, &frequencies())
        }),
        case("attention", GROUPED, attend, move |w, x| {
            let [q, k, v] = qkv(w, &x);
            twin::attention([&q, &k, &v], &[0..3, 3..7], HEAD, ROOT)
        })
        .mutant("no scale", move |w, x| {
            let [q, k, v] = qkv(w, &x);
            twin::attention([&q, &k, &v], &[0..3, 3..7], HEAD, 1.0)
        })
        .mutant("across documents", move |w, x| {
            let [q, k, v] = qkv(w, &x);
            let all = 0..IDS.len();
            twin::attention([&q, &k, &v], &[all], HEAD, ROOT)
        })
        .mutant("keys and values exchanged", move |w, x| {
            let [q, k, v] = qkv(w, &x);
            twin::attention([&q, &v, &k], &[0..3, 3..7], HEAD, ROOT)
        }),
    ]
}

fn again() -> Case {
    let run = |x: Tensor, w: &[Arc<Param>]| {
        let (norm, w) = (Gain::Trained(Arc::clone(&w[0])), weight(&w[1]));
        let block = move |x: Tensor| {
            let y = linear(&rms_norm(&x, &norm, EPS), &w);
            x + &y
        };
        recompute(recompute(x, block.clone()), block)
    };
    let block = |w: &[Vec<f64>], x: Rows| {
        let y = twin::linear(&twin::rms_norm(&x, &w[0], EPS.into()), &w[1]);
        twin::add(&x, &y)
    };
    case("recompute", &[[1, D], [D, D]], run, move |w, x| block(w, block(w, x)))
        .mutant("once", move |w, x| block(w, x))
}

#[test]
fn gradients_of_the_tape_are_slopes_and_those_of_mutants_are_not() {
    let mut cases: Vec<Case> =
        [outer(), sums(), products(), rows(), places()].into_iter().flatten().collect();
    cases.extend([again(), branches()]);
    for case in &cases {
        let slopes = case.slopes(&case.twin);
        let mutants: Vec<_> =
            case.mutants.iter().map(|(name, twin)| (name, case.slopes(twin))).collect();
        for class in Class::available() {
            let got = case.run(&Device::cpu(class, 2));
            let distance = twin::distance(&got, &slopes);
            // A few dozen roundings of f32, those of the slopes far below.
            assert!(distance < 1e-5, "{} in {class}: {distance:e}", case.name);
            for (mutant, slopes) in &mutants {
                let distance = twin::distance(&got, slopes);
                assert!(distance > 1e-4, "{}: {mutant} passes, {distance:e}", case.name);
            }
        }
    }
}
