//! Golden gradients of PyTorch's autograd, in every class of this machine.

use std::collections::HashMap;

use herd_kernels::activation::swiglu_backward;
use herd_kernels::attention_backward::{
    Attended, AttentionGrads, HeadShape, Precision, attention_backward,
};
use herd_kernels::cross_entropy::{Targets, cross_entropy};
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
