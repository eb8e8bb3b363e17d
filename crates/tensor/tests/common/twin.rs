//! The operations of a Llama in f64, as their formulas stand in the papers, and slopes by central
//! differences: what the gradients of the tape are held against.
//!
//! Letters: T tokens (packed), D width, K head width, F feed-forward, V vocabulary.

#![allow(dead_code)] // each test file uses a part

use std::ops::Range;

/// One row a token.
pub type Rows = Vec<Vec<f64>>;

/// Numbers in -1..1, a function of seed and place (splitmix64).
pub fn noise(seed: u64, len: usize) -> Vec<f32> {
    let number = |i: u64| {
        let x = (seed << 32 | i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len as u64).map(number).collect()
}

/// The same numbers in f64.
pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// Row id of `w` [V, `width`] for each token.
pub fn embed(w: &[f64], width: usize, ids: &[u32]) -> Rows {
    ids.iter().map(|id| w[*id as usize * width..][..width].to_vec()).collect()
}

/// x W^T with `w` [outputs, inputs].
pub fn linear(x: &Rows, w: &[f64]) -> Rows {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum();
    x.iter().map(|x| w.chunks(x.len()).map(|w| dot(x, w)).collect()).collect()
}

/// x times a constant.
pub fn times(mut x: Rows, by: f64) -> Rows {
    x.iter_mut().flatten().for_each(|x| *x *= by);
    x
}

/// x + y.
pub fn add(x: &Rows, y: &Rows) -> Rows {
    map(x, y, |x, y| x + y)
}

/// silu(gate) up.
pub fn swiglu(gate: &Rows, up: &Rows) -> Rows {
    map(gate, up, |gate, up| gate / (1.0 + (-gate).exp()) * up)
}

/// `f` of each pair of numbers.
pub fn map(x: &Rows, y: &Rows, f: impl Fn(f64, f64) -> f64) -> Rows {
    let row = |(x, y): (&Vec<f64>, &Vec<f64>)| x.iter().zip(y).map(|(x, y)| f(*x, *y)).collect();
    x.iter().zip(y).map(row).collect()
}

/// 1 / sqrt(mean(x^2) + eps) of each row.
pub fn scales(x: &Rows, eps: f64) -> Vec<f64> {
    let mean = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    x.iter().map(|x| 1.0 / (mean(x) + eps).sqrt()).collect()
}

/// x / sqrt(mean(x^2) + eps) w.
pub fn rms_norm(x: &Rows, w: &[f64], eps: f64) -> Rows {
    scaled(x, &scales(x, eps), w)
}

/// Each row times its scale and the gains `w`.
pub fn scaled(x: &Rows, scales: &[f64], w: &[f64]) -> Rows {
    let row = |(x, s): (&Vec<f64>, &f64)| x.iter().zip(w).map(|(x, w)| x * s * w).collect();
    x.iter().zip(scales).map(row).collect()
}

/// Turns the neighbouring pairs of each head by position times frequency.
pub fn rope(mut x: Rows, positions: &[f64], frequencies: &[f64]) -> Rows {
    for (x, position) in x.iter_mut().zip(positions) {
        for (i, pair) in x.chunks_mut(2).enumerate() {
            let (sin, cos) = (position * frequencies[i % frequencies.len()]).sin_cos();
            let (a, b) = (pair[0], pair[1]);
            (pair[0], pair[1]) = (a * cos - b * sin, a * sin + b * cos);
        }
    }
    x
}

/// Causal attention within each document; query heads share key heads in groups.
pub fn attention(
    [q, k, v]: [&Rows; 3],
    documents: &[Range<usize>],
    head_dim: usize,
    scale: f64,
) -> Rows {
    let mut out = q.clone();
    let group = q[0].len() / k[0].len();
    for document in documents {
        for t in document.clone() {
            for head in 0..q[0].len() / head_dim {
                let of = |rows: &Rows, s: usize, h: usize| -> Vec<f64> {
                    rows[s][h * head_dim..(h + 1) * head_dim].to_vec()
                };
                let query = of(q, t, head);
                let score = |s: usize| {
                    let key = of(k, s, head / group);
                    scale * query.iter().zip(&key).map(|(q, k)| q * k).sum::<f64>()
                };
                let weights: Vec<f64> = (document.start..=t).map(|s| score(s).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for i in 0..head_dim {
                    let value = |(s, w): (usize, &f64)| {
                        w * v[document.start + s][head / group * head_dim + i]
                    };
                    let mean = weights.iter().enumerate().map(value).sum::<f64>() / sum;
                    out[t][head * head_dim + i] = mean;
                }
            }
        }
    }
    out
}

/// `scale` sum_t weight_t (ln sum_v e^(x_t . w_v) - x_t . w_target(t)).
pub fn cross_entropy(x: &Rows, w: &[f64], ids: &[u32], weights: &[f32], scale: f64) -> f64 {
    let nats = |(logits, id): (&Vec<f64>, &u32)| {
        logits.iter().map(|x| x.exp()).sum::<f64>().ln() - logits[*id as usize]
    };
    let logits = linear(x, w);
    let nats = logits.iter().zip(ids).map(nats);
    scale * nats.zip(weights).map(|(nats, weight)| nats * f64::from(*weight)).sum::<f64>()
}

/// (L(w + h d) - L(w - h d)) / 2h for one direction d in the numbers of all parameters.
pub fn slope(
    params: &[Vec<f64>],
    direction: &[Vec<f64>],
    loss: &dyn Fn(&[Vec<f64>]) -> f64,
) -> f64 {
    const H: f64 = 1e-5;
    let moved = |h: f64| -> Vec<Vec<f64>> {
        let row =
            |(w, d): (&Vec<f64>, &Vec<f64>)| w.iter().zip(d).map(|(w, d)| w + h * d).collect();
        params.iter().zip(direction).map(row).collect()
    };
    (loss(&moved(H)) - loss(&moved(-H))) / (2.0 * H)
}

/// The slope along each number of each parameter.
pub fn gradient(params: &[Vec<f64>], loss: &dyn Fn(&[Vec<f64>]) -> f64) -> Vec<Vec<f64>> {
    let along = |p: usize, i: usize| {
        let mut direction: Vec<Vec<f64>> = params.iter().map(|w| vec![0.0; w.len()]).collect();
        direction[p][i] = 1.0;
        slope(params, &direction, loss)
    };
    let of = |(p, w): (usize, &Vec<f64>)| (0..w.len()).map(|i| along(p, i)).collect();
    params.iter().enumerate().map(of).collect()
}

/// The greatest distance of a gradient from slopes, as a share of the greatest slope.
pub fn distance(got: &[Vec<f32>], slopes: &[Vec<f64>]) -> f64 {
    let largest = slopes.iter().flatten().fold(0.0, |a: f64, s| a.max(s.abs()));
    assert_eq!(got.len(), slopes.len(), "as many parameters");
    let mut distance = 0.0f64;
    for (got, slopes) in got.iter().zip(slopes) {
        assert_eq!(got.len(), slopes.len(), "as many numbers");
        for (got, slope) in got.iter().zip(slopes) {
            distance = distance.max((f64::from(*got) - slope).abs() / largest);
        }
    }
    distance
}
