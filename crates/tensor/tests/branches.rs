//! A document that branches gives the bits of a row for each branch, and the gradients of all of them.

#![allow(clippy::unwrap_used)] // helpers of tests too

#[path = "common/twin.rs"]
mod twin;

use herd_tensor::ops::{Branching, Documents, Keys, attention, linears};
use herd_tensor::{Class, Device, Format, Param, Tape, Tensor, Weight, blocks_of};
use proptest::prelude::*;
use std::ops::Range;
use std::sync::Arc;

const WIDTH: usize = 16;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD: usize = 4;

/// Lengths of a stem and of its branches.
type Lengths = Vec<(usize, Vec<usize>)>;

/// Where they lie, one behind the other.
fn lay(lengths: &Lengths) -> Vec<Branching> {
    let mut at = 0;
    let mut next = |len: usize| -> Range<usize> {
        at += len;
        at - len..at
    };
    let document = |(stem, branches): &(usize, Vec<usize>)| Branching {
        stem: next(*stem),
        branches: branches.iter().map(|len| next(*len)).collect(),
    };
    lengths.iter().map(document).collect()
}

/// The same as a row for each branch: the documents, and the token of each row.
fn apart(documents: &[Branching]) -> (Vec<Range<usize>>, Vec<usize>) {
    let (mut spans, mut tokens) = (Vec::new(), Vec::new());
    for Branching { stem, branches } in documents {
        let alone = vec![stem.end..stem.end];
        for branch in if branches.is_empty() { &alone } else { branches } {
            let start = tokens.len();
            tokens.extend(stem.clone().chain(branch.clone()));
            spans.push(start..tokens.len());
        }
    }
    (spans, tokens)
}

/// Attention behind products of `x`, and the gradients of these weights where each row of the result has this one.
fn run(
    device: &Device,
    x: &[f32],
    documents: Documents,
    gradient: &[f32],
) -> (Tensor, Vec<Vec<f32>>) {
    let tape = Arc::new(Tape::default());
    let sizes = [HEADS * HEAD, KV_HEADS * HEAD, KV_HEADS * HEAD];
    let param = |(i, rows): (usize, usize)| {
        let numbers = twin::noise(i as u64 + 7, rows * WIDTH);
        Param::matrix(device, &tape, Format::F32, [rows, WIDTH], numbers)
    };
    let params: Vec<Arc<Param>> = sizes.into_iter().enumerate().map(param).collect();
    let rows = x.len() / WIDTH;
    tape.begin(blocks_of(1, rows));
    let x = Tensor::from_slice(device, rows, WIDTH, x);
    let weights = [0, 1, 2].map(|i| Weight::Trained(Arc::clone(&params[i])));
    let [q, k, v] = linears(&x, weights.each_ref());
    let out = attention(&q, &k, &v, &mut Keys::Packed(Arc::new(documents)), 0);
    out.backward(gradient);
    let gradients = params.iter().map(|param| param.with_gradient(<[f32]>::to_vec)).collect();
    (out, gradients)
}

fn lengths() -> impl Strategy<Value = Lengths> {
    // Blocks of keys have 256 positions, pages 64.
    let stem = prop_oneof![1usize..20, 60usize..70, 250usize..260];
    let branch = prop_oneof![1usize..20, 60usize..70];
    prop::collection::vec((stem, prop::collection::vec(branch, 0..4)), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_branch_is_the_same_bits_as_a_row_of_its_own(lengths in lengths()) {
        let documents = lay(&lengths);
        let tokens: usize = lengths.iter().map(|(stem, b)| stem + b.iter().sum::<usize>()).sum();
        let x = twin::noise(1, tokens * WIDTH);
        let (spans, copies) = apart(&documents);
        let rows = |of: &[f32], width: usize| -> Vec<f32> {
            copies.iter().flat_map(|t| of[t * width..(t + 1) * width].iter().copied()).collect()
        };
        let (apart_x, width) = (rows(&x, WIDTH), HEADS * HEAD);
        // A token of a stem has its gradient in the first of its copies.
        let gradient = twin::noise(2, tokens * width);
        let mut apart_gradient = rows(&gradient, width);
        let mut seen = vec![false; tokens];
        for (row, token) in copies.iter().enumerate() {
            if std::mem::replace(&mut seen[*token], true) {
                apart_gradient[row * width..(row + 1) * width].fill(0.0);
            }
        }
        for class in Class::available() {
            for threads in [1, 2] {
                let device = Device::cpu(class, threads);
                let branching = Documents::branching(&documents, KV_HEADS, HEAD);
                let (out, got) = run(&device, &x, branching, &gradient);
                let alone = Documents::new(spans.clone(), KV_HEADS, HEAD);
                let (want, want_gradients) = run(&device, &apart_x, alone, &apart_gradient);
                for (row, token) in copies.iter().enumerate() {
                    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    prop_assert_eq!(bits(out.row(*token)), bits(want.row(row)), "{} {}", class, token);
                }
                let wide: Vec<_> = want_gradients.iter().map(|w| twin::wide(w)).collect();
                let distance = twin::distance(&got, &wide);
                prop_assert!(distance < 1e-5, "{class}: {distance:e}");
            }
        }
    }
}
