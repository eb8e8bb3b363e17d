//! The definitions of the gradients, each the derivative of a formula as it is written on paper.

use crate::attention_backward::{Attended, AttentionGrads, HeadShape, Precision};
use crate::cross_entropy::{Loss, Targets};
use crate::soft_targets::Soft;
use std::ops::Range;

/// Twin of [`crate::attention_backward::attention_backward`].
///
/// In bf16 the factors of each product are rounded as the fast twin rounds them.
pub fn attention_backward(
    grads: AttentionGrads<'_>,
    dout: &[f32],
    saved: Attended<'_>,
    shape: HeadShape,
    scale: f32,
    precision: Precision,
    documents: &[Range<usize>],
) {
    let HeadShape { heads, kv_heads, head_dim } = shape;
    let round = |x: f64| match precision {
        Precision::F32 => x,
        Precision::Bf16 => half::bf16::from_f32(x as f32).to_f64(),
    };
    let row = |x: &[f32], i: usize| -> Vec<f64> {
        x[i * head_dim..][..head_dim].iter().map(|x| f64::from(*x)).collect()
    };
    let rounded = |x: &[f32], i: usize| row(x, i).into_iter().map(round).collect::<Vec<_>>();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let scale = f64::from(scale);
    let mut dq = vec![0.0; grads.dq.len()];
    let (mut dk, mut dv) = (vec![0.0; grads.dk.len()], vec![0.0; grads.dv.len()]);
    for document in documents {
        for (h, t) in (0..heads).flat_map(|h| document.clone().map(move |t| (h, t))) {
            let (g, i) = (h / (heads / kv_heads), t * heads + h);
            let (q, da) = (rounded(saved.q, i), rounded(dout, i));
            let d = dot(&row(dout, i), &row(saved.out, i));
            for j in document.start..=t {
                let at = j * kv_heads + g;
                let (k, v) = (rounded(saved.k, at), rounded(saved.v, at));
                let p = (dot(&q, &k) * scale - f64::from(saved.lse[i])).exp();
                let ds = round(p * (dot(&da, &v) - d));
                let p = round(p);
                for c in 0..head_dim {
                    dv[at * head_dim + c] += p * da[c];
                    dk[at * head_dim + c] += ds * scale * q[c];
                    dq[i * head_dim + c] += ds * scale * k[c];
                }
            }
        }
    }
    for (to, from) in [(grads.dq, dq), (grads.dk, dk), (grads.dv, dv)] {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = from as f32);
    }
}

/// Twin of [`crate::norm::rms_norm_backward`]: with s = 1 / sqrt(mean(x^2) + eps) and g = dy w,
/// dx = s (g - x s^2 mean(g x)) and dw = sum over rows of dy x s.
pub fn rms_norm_backward(
    dx: &mut [f32],
    dw: &mut [f32],
    dy: &[f32],
    x: &[f32],
    w: &[f32],
    eps: f32,
) {
    let width = w.len();
    let mut sum = vec![0.0; width];
    for (t, x) in x.chunks_exact(width).enumerate() {
        let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        let dy: Vec<f64> = dy[t * width..][..width].iter().map(|x| f64::from(*x)).collect();
        let mean = |f: &dyn Fn(usize) -> f64| (0..width).map(f).sum::<f64>() / width as f64;
        let s = 1.0 / (mean(&|i| x[i] * x[i]) + f64::from(eps)).sqrt();
        let along = mean(&|i| dy[i] * f64::from(w[i]) * x[i]) * s * s;
        for i in 0..width {
            dx[t * width + i] = (s * (dy[i] * f64::from(w[i]) - x[i] * along)) as f32;
            sum[i] += dy[i] * x[i] * s;
        }
    }
    dw.iter_mut().zip(sum).for_each(|(dw, sum)| *dw = (f64::from(*dw) + sum) as f32);
}

/// Twin of [`crate::norm::layer_norm_backward`]: with n = (x - mean x) s and g = dy w,
/// dx = s (g - mean g - n mean(g n)), dw = sum of dy n, db = sum of dy.
pub fn layer_norm_backward(
    dx: &mut [f32],
    dw: &mut [f32],
    db: &mut [f32],
    dy: &[f32],
    x: &[f32],
    w: &[f32],
    eps: f32,
) {
    let width = w.len();
    let (mut dw_sum, mut db_sum) = (vec![0.0; width], vec![0.0; width]);
    for (t, x) in x.chunks_exact(width).enumerate() {
        let dy: Vec<f64> = dy[t * width..][..width].iter().map(|x| f64::from(*x)).collect();
        let mean = |f: &dyn Fn(usize) -> f64| (0..width).map(f).sum::<f64>() / width as f64;
        let centre = mean(&|i| f64::from(x[i]));
        let variance = mean(&|i| (f64::from(x[i]) - centre).powi(2));
        let s = 1.0 / (variance + f64::from(eps)).sqrt();
        let n: Vec<f64> = x.iter().map(|x| (f64::from(*x) - centre) * s).collect();
        let g = |i: usize| dy[i] * f64::from(w[i]);
        let (level, along) = (mean(&g), mean(&|i| g(i) * n[i]));
        for i in 0..width {
            dx[t * width + i] = (s * (g(i) - level - n[i] * along)) as f32;
            dw_sum[i] += dy[i] * n[i];
            db_sum[i] += dy[i];
        }
    }
    dw.iter_mut().zip(dw_sum).for_each(|(dw, sum)| *dw = (f64::from(*dw) + sum) as f32);
    db.iter_mut().zip(db_sum).for_each(|(db, sum)| *db = (f64::from(*db) + sum) as f32);
}

/// Twin of [`crate::rope::rope_backward`]: (a, b) becomes (a cos + b sin, b cos - a sin).
pub fn rope_backward(
    dx: &mut [f32],
    positions: &[u32],
    table: &[f32],
    heads: usize,
    head_dim: usize,
    layout: crate::rope::Layout,
) {
    // The transposed rotation is the rotation by the opposite angle.
    let opposite = |(i, x): (usize, &f32)| if i % head_dim < head_dim / 2 { *x } else { -*x };
    let table: Vec<f32> = table.iter().enumerate().map(opposite).collect();
    super::rope(dx, positions, &table, heads, head_dim, layout);
}

/// Twin of [`crate::activation::silu_backward`]: silu' = s (1 + x (1 - s)), s = 1 / (1 + e^-x).
pub fn silu_backward(dx: &mut [f32], dy: &[f32], x: &[f32]) {
    for ((dx, dy), x) in dx.iter_mut().zip(dy).zip(x) {
        *dx = (f64::from(*dy) * silu_slope(f64::from(*x))) as f32;
    }
}

/// Twin of [`crate::activation::swiglu_backward`]: dgate = dy up silu'(gate), dup = dy silu(gate).
pub fn swiglu_backward(dgate: &mut [f32], dup: &mut [f32], dy: &[f32], gate: &[f32], up: &[f32]) {
    for i in 0..dy.len() {
        let (dy, gate) = (f64::from(dy[i]), f64::from(gate[i]));
        dgate[i] = (dy * f64::from(up[i]) * silu_slope(gate)) as f32;
        dup[i] = (dy * super::silu_of(gate)) as f32;
    }
}

fn silu_slope(x: f64) -> f64 {
    let s = 1.0 / (1.0 + (-x).exp());
    s * (1.0 + x * (1.0 - s))
}

/// Twin of [`crate::activation::gelu_backward`]: gelu' = P(N <= x) + x e^(-x^2 / 2) / sqrt(2 pi).
pub fn gelu_backward(dx: &mut [f32], dy: &[f32], x: &[f32]) {
    for ((dx, dy), x) in dx.iter_mut().zip(dy).zip(x) {
        let x = f64::from(*x);
        let below = 0.5 * (1.0 + super::erf(x * std::f64::consts::FRAC_1_SQRT_2));
        let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        *dx = (f64::from(*dy) * (below + x * density)) as f32;
    }
}

/// Twin of [`crate::activation::gelu_tanh_backward`]: with u as there and s = 1 / (1 + e^-2u),
/// the slope is s (1 + 2 x u' (1 - s)).
pub fn gelu_tanh_backward(dx: &mut [f32], dy: &[f32], x: &[f32]) {
    for ((dx, dy), x) in dx.iter_mut().zip(dy).zip(x) {
        let (x, root) = (f64::from(*x), (2.0 / std::f64::consts::PI).sqrt());
        let s = 1.0 / (1.0 + (-2.0 * root * (x + 0.044715 * x.powi(3))).exp());
        let slope = s * (1.0 + 2.0 * x * root * (1.0 + 3.0 * 0.044715 * x * x) * (1.0 - s));
        *dx = (f64::from(*dy) * slope) as f32;
    }
}

/// Twin of [`crate::cross_entropy::cross_entropy`].
pub fn cross_entropy(
    nats: &mut [f32],
    logits: &mut [f32],
    width: usize,
    targets: &Targets<'_>,
) -> Loss {
    let mut loss = Loss { nats: 0.0, z: 0.0 };
    for (t, row) in logits.chunks_exact_mut(width).enumerate() {
        let (weight, target) = (f64::from(targets.weights[t]), targets.ids[t] as usize);
        if weight == 0.0 {
            row.fill(0.0);
            nats[t] = 0.0;
            continue;
        }
        let log_sum = super::log_sum_exp_of(row);
        nats[t] = (log_sum - f64::from(row[target])) as f32;
        loss.nats += weight * f64::from(nats[t]);
        loss.z += weight * f64::from(targets.z_loss) * log_sum * log_sum;
        let scale = weight * f64::from(targets.scale);
        let slope = 1.0 + 2.0 * f64::from(targets.z_loss) * log_sum;
        for (i, x) in row.iter_mut().enumerate() {
            let hit = if i == target { 1.0 } else { 0.0 };
            *x = (scale * ((f64::from(*x) - log_sum).exp() * slope - hit)) as f32;
        }
    }
    loss
}

/// Twin of [`crate::soft_targets::soft_cross_entropy`], by the formulas of its page.
pub fn soft_cross_entropy(
    [nats, kl]: [&mut [f32]; 2],
    logits: &mut [f32],
    width: usize,
    targets: &Targets<'_>,
    soft: &Soft<'_>,
) {
    let k = soft.listed();
    let (hard, share) = (f64::from(soft.hard), f64::from(soft.soft));
    for (t, row) in logits.chunks_exact_mut(width).enumerate() {
        let (weight, target) = (f64::from(targets.weights[t]), targets.ids[t] as usize);
        (nats[t], kl[t]) = (0.0, 0.0);
        if weight == 0.0 {
            row.fill(0.0);
            continue;
        }
        let log_sum = super::log_sum_exp_of(row);
        let q: Vec<f64> = row.iter().map(|x| (f64::from(*x) - log_sum).exp()).collect();
        nats[t] = (log_sum - f64::from(row[target])) as f32;
        let mut p = vec![None; width];
        for j in t * k..(t + 1) * k {
            p[soft.ids[j] as usize] = Some(f64::from(soft.probs[j]));
        }
        let rest = f64::from(soft.rest[t]);
        let mass = rest + p.iter().flatten().sum::<f64>();
        let others: f64 = q.iter().zip(&p).filter(|(_, p)| p.is_none()).map(|(q, _)| q).sum();
        // x ln x is 0 at 0.
        let part = |p: f64, q: f64| if p > 0.0 { p * (p / q).ln() } else { 0.0 };
        let listed = q.iter().zip(&p).map(|(q, p)| p.map_or(0.0, |p| part(p, *q)));
        kl[t] = (listed.sum::<f64>() + part(rest, others)) as f32;
        let scale = weight * f64::from(targets.scale);
        for (v, x) in row.iter_mut().enumerate() {
            let hit = if v == target { hard } else { 0.0 };
            let from_teacher = match p[v] {
                Some(p) => mass * q[v] - p,
                None if rest == 0.0 => mass * q[v],
                None => (mass - rest / others) * q[v],
            };
            *x = (scale * (hard * q[v] - hit + share * from_teacher)) as f32;
        }
    }
}
