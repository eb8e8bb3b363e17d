//! Golden gradients of PyTorch's autograd, in every class of this machine.

use std::collections::HashMap;

use herd_kernels::activation::swiglu_backward;
use herd_kernels::attention_backward::{
    Attended, AttentionGrads, HeadShape, Precision, attention_backward,
};
use herd_kernels::cross_entropy::{Targets, cross_entropy};
use herd_kernels::embed::embed_backward;
use herd_kernels::norm::rms_norm_backward;
use herd_kernels::{Class, Cpu};

const GRADIENTS: &str = include_str!("../../../testdata/gradients.txt");

fn goldens() -> HashMap<&'static str, Vec<f32>> {
    let bits = |word| u32::from_str_radix(word, 16).expect("golden numbers are hex");
    let entry = |line: &'static str| {
        let (name, words) = line.split_once(' ').expect("golden lines have a name");
        (name, words.split_whitespace().map(|word| f32::from_bits(bits(word))).collect())
    };
    GRADIENTS.lines().map(entry).collect()
}

/// Sums of some fifty terms of size 4 in another order: as many roundings, partly cancelling.
fn assert_close(name: &str, class: Class, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        let tolerance = 40.0 * (1.0 + want.abs()) * f32::EPSILON;
        assert!((got - want).abs() <= tolerance, "{class} {name}: {got}, not {want}");
    }
}

#[test]
fn gradients_of_packed_attention_agree_with_autograd() {
    let golden = goldens();
    let shape = HeadShape { heads: 4, kv_heads: 2, head_dim: 12 };
    let saved = Attended {
        q: &golden["q"],
        k: &golden["k"],
        v: &golden["v"],
        out: &golden["out"],
        lse: &golden["lse"],
    };
    for class in Class::available() {
        let [mut dq, mut dk, mut dv] = ["q", "k", "v"].map(|name| vec![0.0; golden[name].len()]);
        let grads = AttentionGrads { dq: &mut dq, dk: &mut dk, dv: &mut dv };
        let (cpu, scale) = (Cpu::new(class, 2), 1.0 / 12f32.sqrt());
        let dout = &golden["dout"];
        attention_backward(&cpu, grads, dout, saved, shape, scale, Precision::F32, &[0..5, 5..14]);
        for (name, got) in [("dq", dq), ("dk", dk), ("dv", dv)] {
            assert_close(name, class, &got, &golden[name]);
        }
    }
}

#[test]
fn gradients_of_rows_agree_with_autograd() {
    let golden = goldens();
    let (x, w, dy) = (&golden["x"], &golden["w"], &golden["dy"]);
    for class in Class::available() {
        let cpu = Cpu::new(class, 2);
        let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
        rms_norm_backward(&cpu, &mut dx, &mut dw, dy, x, w, 1e-5, &[0..2, 2..5]);
        assert_close("rms_dx", class, &dx, &golden["rms_dx"]);
        assert_close("rms_dw", class, &dw, &golden["rms_dw"]);
        let (mut dgate, mut dup) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        swiglu_backward(&cpu, &mut dgate, &mut dup, dy, &golden["gate"], &golden["up"]);
        assert_close("dgate", class, &dgate, &golden["dgate"]);
        assert_close("dup", class, &dup, &golden["dup"]);
    }
}

#[test]
fn cross_entropy_and_its_gradient_agree_with_autograd() {
    let golden = goldens();
    let ids: Vec<u32> = golden["ids"].iter().map(|id| *id as u32).collect();
    for class in Class::available() {
        let (mut nats, mut logits) = (vec![0.0; 5], golden["logits"].clone());
        let targets = Targets { ids: &ids, weights: &golden["weights"], scale: 0.25, z_loss: 0.0 };
        let loss = cross_entropy(&Cpu::new(class, 2), &mut nats, &mut logits, 37, &targets);
        assert_close("nats", class, &nats, &golden["nats"]);
        assert_close("dlogits", class, &logits, &golden["dlogits"]);
        let sum: f32 = golden["nats"].iter().sum();
        assert_close("loss", class, &[loss.nats as f32], &[sum]);
    }
}

/// The slope of `loss` along each number, by central differences in f64.
fn slopes(x: &[f32], loss: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const H: f64 = 1e-5;
    let mut x = wide(x);
    let mut out = Vec::new();
    for i in 0..x.len() {
        let from = x[i];
        let [above, below] = [H, -H].map(|h| {
            x[i] = from + h;
            loss(&x)
        });
        x[i] = from;
        out.push((above - below) / (2.0 * H));
    }
    out
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// Numbers are below 4 in size and few: roundings of f32 are a hundredth of this.
fn near(got: &[f32], want: &[f64]) -> bool {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).all(|(got, want)| (f64::from(*got) - want).abs() < 1e-4)
}

/// The gradient of the gate as swiglu has it, from the sigmoid `s`.
fn dgate(dy: f32, gate: f32, up: f32, s: f32) -> f32 {
    dy * up * s * (1.0 + gate * (1.0 - s))
}

#[test]
fn gradients_of_swiglu_are_slopes_and_those_of_mutants_are_not() {
    let golden = goldens();
    let (gate, up, dy) = (&golden["gate"], &golden["up"], &golden["dy"]);
    let n = gate.len();
    let loss = |gate: &[f64], up: &[f64]| -> f64 {
        let y = |i: usize| gate[i] / (1.0 + (-gate[i]).exp()) * up[i];
        (0..n).map(|i| y(i) * f64::from(dy[i])).sum()
    };
    let slopes_gate = slopes(gate, |gate| loss(gate, &wide(up)));
    let slopes_up = slopes(up, |up| loss(&wide(gate), up));
    for class in Class::available() {
        let (mut dg, mut du) = (vec![0.0; n], vec![0.0; n]);
        swiglu_backward(&Cpu::new(class, 2), &mut dg, &mut du, dy, gate, up);
        assert!(near(&dg, &slopes_gate) && near(&du, &slopes_up), "{class}");
        assert!(!near(&du, &slopes_gate) && !near(&dg, &slopes_up), "gate and up exchanged");
        // The row before: its gates, or its gradients.
        let (mut stale, mut other) = (gate.clone(), dy.clone());
        stale.rotate_right(7);
        other.rotate_right(7);
        for (what, dy, gate) in [("gates", dy, &stale), ("gradients", &other, gate)] {
            swiglu_backward(&Cpu::new(class, 2), &mut dg, &mut du, dy, gate, up);
            assert!(!near(&dg, &slopes_gate) && !near(&du, &slopes_up), "{what} of the row before");
        }
    }
    type Mutant = fn(f32, f32, f32) -> f32;
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    let of = |f: &dyn Fn(f32, f32, f32) -> f32| -> Vec<f32> {
        (0..n).map(|i| f(dy[i], gate[i], up[i])).collect()
    };
    assert!(near(&of(&|dy, g, u| dgate(dy, g, u, sigmoid(g))), &slopes_gate));
    let mutants: [(&str, Mutant); 3] = [
        ("the sign", |dy, g, u| -dgate(dy, g, u, 1.0 / (1.0 + (-g).exp()))),
        ("the sigmoid of -x", |dy, g, u| dgate(dy, g, u, 1.0 / (1.0 + g.exp()))),
        ("the sigmoid held fixed", |dy, g, u| dy * u / (1.0 + (-g).exp())),
    ];
    for (name, mutant) in mutants {
        assert!(!near(&of(&mutant), &slopes_gate), "{name}");
    }
}

#[test]
fn gradients_of_cross_entropy_are_slopes_and_those_of_mutants_are_not() {
    const WIDTH: usize = 37;
    let golden = goldens();
    let (first, weights) = (&golden["logits"], &golden["weights"]);
    let ids: Vec<u32> = golden["ids"].iter().map(|id| *id as u32).collect();
    let (scale, z_loss) = (0.25, 0.5);
    let slopes = slopes(first, |logits| {
        let row = |(t, row): (usize, &[f64])| {
            let lse = row.iter().map(|x| x.exp()).sum::<f64>().ln();
            let nats = lse - row[ids[t] as usize] + f64::from(z_loss) * lse * lse;
            f64::from(scale) * f64::from(weights[t]) * nats
        };
        logits.chunks(WIDTH).enumerate().map(row).sum()
    });
    for class in Class::available() {
        let run = |logits: &[f32], targets: &Targets<'_>| {
            let (mut nats, mut logits) = (vec![0.0; ids.len()], logits.to_vec());
            cross_entropy(&Cpu::new(class, 2), &mut nats, &mut logits, WIDTH, targets);
            logits
        };
        let targets = Targets { ids: &ids, weights, scale, z_loss };
        let got = run(first, &targets);
        assert!(near(&got, &slopes), "{class}");
        let other = |by: usize, x: &[f32]| {
            let mut x = x.to_vec();
            x.rotate_right(by);
            x
        };
        let next: Vec<u32> = ids.iter().map(|id| (id + 1) % WIDTH as u32).collect();
        let without_target = |(i, d): (usize, &f32)| {
            let (t, v) = (i / WIDTH, (i % WIDTH) as u32);
            if ids[t] == v { d + scale * weights[t] } else { *d }
        };
        let mutants = [
            ("the sign", got.iter().map(|d| -d).collect()),
            ("no scale", got.iter().map(|d| d / scale).collect()),
            ("the softmax alone", got.iter().enumerate().map(without_target).collect()),
            ("the row before", other(WIDTH, &got)),
            ("the logits of the row before", run(&other(WIDTH, first), &targets)),
            (
                "the weights of the row before",
                run(first, &Targets { weights: &other(1, weights), ..targets }),
            ),
            ("the token after the target", run(first, &Targets { ids: &next, ..targets })),
            ("no z-loss", run(first, &Targets { z_loss: 0.0, ..targets })),
        ];
        for (name, mutant) in mutants {
            assert!(!near(&mutant, &slopes), "{class}: {name}");
        }
    }
}

#[test]
fn gradients_of_embeddings_are_slopes_and_those_of_mutants_are_not() {
    const WIDTH: usize = 7;
    let golden = goldens();
    let dx = &golden["dy"][..5 * WIDTH];
    // An id comes again, and the ids are no places.
    let ids = [2, 5, 2, 0, 4];
    let table = vec![0.5; 6 * WIDTH];
    let slopes = slopes(&table, |table| {
        let row = |(t, id): (usize, &usize)| -> f64 {
            let at = |i: usize| table[id * WIDTH + i] * f64::from(dx[t * WIDTH + i]);
            (0..WIDTH).map(at).sum()
        };
        ids.iter().enumerate().map(row).sum()
    });
    for class in Class::available() {
        let run = |ids: &[u32], dx: &[f32]| {
            let mut dw = vec![0.0; table.len()];
            embed_backward(&Cpu::new(class, 2), &mut dw, dx, ids, WIDTH);
            dw
        };
        let ids = ids.map(|id| id as u32);
        let got = run(&ids, dx);
        assert!(near(&got, &slopes), "{class}");
        let mut back = ids;
        back.reverse();
        let mutants = [
            ("the sign", got.iter().map(|d| -d).collect()),
            ("places in place of ids", run(&[0, 1, 2, 3, 4], dx)),
            ("the ids from behind", run(&back, dx)),
            ("the first of an id alone", run(&[2, 5, 1, 0, 4], dx)),
            ("columns in place of rows", {
                let place = |i: usize| dx[i % WIDTH * 5 % (5 * WIDTH) + i / WIDTH];
                run(&ids, &(0..5 * WIDTH).map(place).collect::<Vec<_>>())
            }),
        ];
        for (name, mutant) in mutants {
            assert!(!near(&mutant, &slopes), "{class}: {name}");
        }
    }
}
