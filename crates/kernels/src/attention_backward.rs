//! The gradient of causal grouped-query attention over packed documents, without T x T memory.
//!
//! With s_ij = scale q_i . k_j, p_ij = e^(s_ij - lse_i) and D_i = dout_i . out_i, over the keys j <= i
//! of a document: dp_ij = dout_i . v_j, ds_ij = p_ij (dp_ij - D_i),
//!
//! dv_j = sum_i p_ij dout_i,  dk_j = scale sum_i ds_ij q_i,  dq_i = scale sum_j ds_ij k_j.
//!
//! Letters: T tokens, H query heads, G key/value heads, K head width. Source: arXiv 2205.14135.

use crate::cpu::Cpu;
use std::ops::Range;

/// Gradients to be written.
#[derive(Debug)]
pub struct AttentionGrads<'a> {
    /// Of the queries, [T, H, K].
    pub dq: &'a mut [f32],
    /// Of the keys, [T, G, K].
    pub dk: &'a mut [f32],
    /// Of the values, [T, G, K].
    pub dv: &'a mut [f32],
}

/// What attention took and gave.
#[derive(Clone, Copy, Debug)]
pub struct Attended<'a> {
    /// Queries, [T, H, K].
    pub q: &'a [f32],
    /// Keys, [T, G, K].
    pub k: &'a [f32],
    /// Values, [T, G, K].
    pub v: &'a [f32],
    /// The result, [T, H, K].
    pub out: &'a [f32],
    /// ln sum_j e^(scale q_i . k_j), [T, H].
    pub lse: &'a [f32],
}

/// Heads and their width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    /// Query heads, H: a multiple of G.
    pub heads: usize,
    /// Key/value heads, G.
    pub kv_heads: usize,
    /// Head width, K.
    pub head_dim: usize,
}

/// How the factors of the five products are kept; sums are in f32 either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As they are.
    F32,
    /// q, k, v, dout, p and ds rounded to bf16; D, lse and the exponentials stay in f32.
    Bf16,
}

/// Writes the gradients of attention for every row of the documents; other rows get 0.
///
/// `dout` is [T, H, K]. `documents` are ranges of rows, ascending and apart; each row sees the rows of
/// its document up to itself. A document's bits depend on that document alone.
/// Panics if sizes disagree, or a document is out of order or past the last row.
pub fn attention_backward(
    cpu: &Cpu,
    grads: AttentionGrads<'_>,
    dout: &[f32],
    saved: Attended<'_>,
    shape: HeadShape,
    scale: f32,
    precision: Precision,
    documents: &[Range<usize>],
) {
    check(&grads, dout, saved, shape, documents);
    let _ = cpu;
    crate::naive::attention_backward(grads, dout, saved, shape, scale, precision, documents);
}

fn check(
    grads: &AttentionGrads<'_>,
    dout: &[f32],
    saved: Attended<'_>,
    shape: HeadShape,
    documents: &[Range<usize>],
) {
    let HeadShape { heads, kv_heads, head_dim } = shape;
    assert!(head_dim > 0 && kv_heads > 0, "attention_backward: {shape:?} has nothing");
    assert!(heads.is_multiple_of(kv_heads), "attention_backward: {heads} heads, {kv_heads}");
    let rows = saved.lse.len() / heads;
    assert_eq!(saved.lse.len(), rows * heads, "attention_backward: lse is not rows of {heads}");
    for (name, x) in [("q", saved.q), ("out", saved.out), ("dout", dout), ("dq", &*grads.dq)] {
        assert_eq!(x.len(), rows * heads * head_dim, "attention_backward: length of {name}");
    }
    for (name, x) in [("k", saved.k), ("v", saved.v), ("dk", &*grads.dk), ("dv", &*grads.dv)] {
        assert_eq!(x.len(), rows * kv_heads * head_dim, "attention_backward: length of {name}");
    }
    let mut end = 0;
    for document in documents {
        assert!(
            end <= document.start && document.start <= document.end && document.end <= rows,
            "attention_backward: document {document:?} after row {end} of {rows}"
        );
        end = document.end;
    }
}
