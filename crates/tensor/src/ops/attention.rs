//! Causal grouped-query attention: over cached keys and values, or within packed documents.

use crate::Tensor;
use crate::tape::{Flow, record};
use herd_kernels::attention as kernel;
use herd_kernels::attention::{KvFormat, KvShape, Sequence};
use herd_kernels::attention_backward::{
    Attended, AttentionGrads, HeadShape, Precision, attention_backward,
};
use herd_kernels::buffer::Buffer;
use std::ops::Range;
use std::sync::Arc;

/// The keys and values of all layers, in pages that sequences share by number.
pub struct KvCache {
    layers: Vec<Buffer>,
    shape: KvShape,
    pages: usize,
}

impl KvCache {
    /// An empty cache of `pages` pages for each of `layers` layers.
    ///
    /// The system gives memory to pages when they are first written.
    pub fn new(shape: KvShape, layers: usize, pages: usize) -> KvCache {
        let layer = || Buffer::zeroed(pages * shape.page_bytes());
        KvCache { layers: (0..layers).map(|_| layer()).collect(), shape, pages }
    }

    /// The shape of a page.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Pages in all.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Bytes of one page in all layers.
    pub fn page_bytes(&self) -> usize {
        self.layers.len() * self.shape.page_bytes()
    }

    /// A page of all layers, one after another, as [`KvCache::write_page`] takes it. Panics if there is no such page.
    pub fn read_page(&self, page: u32) -> Vec<u8> {
        let place = self.place(page);
        let mut bytes = Vec::with_capacity(self.page_bytes());
        self.layers.iter().for_each(|layer| bytes.extend_from_slice(&layer.bytes()[place.clone()]));
        bytes
    }

    /// Puts a page in all layers. Panics if there is no such page or the bytes are not those of one.
    pub fn write_page(&mut self, page: u32, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.page_bytes(), "bytes of a page");
        let place = self.place(page);
        for (layer, part) in self.layers.iter_mut().zip(bytes.chunks_exact(place.len())) {
            layer.bytes_mut()[place.clone()].copy_from_slice(part);
        }
    }

    /// Copies a page of all layers over another. Panics if there is no such page.
    pub fn copy_page(&mut self, from: u32, to: u32) {
        let (from, to) = (self.place(from), self.place(to));
        self.layers
            .iter_mut()
            .for_each(|layer| layer.bytes_mut().copy_within(from.clone(), to.start));
    }

    fn place(&self, page: u32) -> Range<usize> {
        let (page, len) = (page as usize, self.shape.page_bytes());
        assert!(page < self.pages, "page {page} of {}", self.pages);
        page * len..(page + 1) * len
    }

    /// Bytes of all layers when every page is written.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(Buffer::len).sum()
    }
}

/// Documents that lie one after another in a batch; each attends within itself alone.
pub struct Documents {
    spans: Vec<Range<usize>>,
    shape: KvShape,
    /// Pages of all documents, and where those of each begin.
    pages: Vec<u32>,
    starts: Vec<usize>,
    /// Where documents branch: the row of the batch that each row of `spans` is a copy of.
    copies: Option<Vec<usize>>,
}

/// A text and the ways in which it goes on: a row of the stem sees the stem up to itself, one of a branch the
/// whole stem and its own branch up to itself, and never another branch. A document that does not
/// branch is a stem alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branching {
    /// The rows of what all branches have in common.
    pub stem: Range<usize>,
    /// The rows of each branch.
    pub branches: Vec<Range<usize>>,
}

/// Positions in a page of documents; any multiple of 16 gives the same bits.
const PAGE: usize = 64;

impl Documents {
    /// Documents at these rows, with `kv_heads` key/value heads of `head_dim` numbers.
    pub fn new(spans: Vec<Range<usize>>, kv_heads: usize, head_dim: usize) -> Documents {
        let shape = KvShape { format: KvFormat::F32, page_len: PAGE, kv_heads, head_dim };
        let mut starts = vec![0];
        for span in &spans {
            starts.push(starts[starts.len() - 1] + span.len().div_ceil(PAGE));
        }
        let pages = (0..starts[spans.len()] as u32).collect();
        Documents { spans, shape, pages, starts, copies: None }
    }

    /// The same of documents that branch, which together have every row once.
    ///
    /// A row of a branch gives the bits that it would give in a document of its own behind a copy of the stem. Attention
    /// alone takes these copies: all else that a model does sees one row at a time.
    pub fn branching(all: &[Branching], kv_heads: usize, head_dim: usize) -> Documents {
        let (mut copies, mut spans) = (Vec::new(), Vec::new());
        for Branching { stem, branches } in all {
            let nothing = stem.end..stem.end;
            let alone = std::slice::from_ref(&nothing);
            for branch in if branches.is_empty() { alone } else { branches } {
                let start = copies.len();
                copies.extend(stem.clone().chain(branch.clone()));
                spans.push(start..copies.len());
            }
        }
        Documents { copies: Some(copies), ..Documents::new(spans, kv_heads, head_dim) }
    }

    /// The rows of `x` as the documents have them.
    fn spread(&self, x: &Tensor) -> Tensor {
        self.copies.as_ref().map_or_else(|| x.clone(), |copies| x.select(copies))
    }

    /// Rows of the documents back in their places; those of a stem as its first copy has them.
    fn first(&self, x: Tensor, rows: usize) -> Tensor {
        let Some(copies) = &self.copies else { return x };
        let mut out = Tensor::uninitialised(x.device(), rows, x.width());
        for (copy, row) in copies.iter().enumerate().rev() {
            place(&mut out, *row).copy_from_slice(x.row(copy));
        }
        out
    }

    /// The gradient of the rows of the documents, after that of their places: a stem's goes to its first copy.
    fn spread_first(&self, dx: &Tensor) -> Tensor {
        let Some(copies) = &self.copies else { return dx.clone() };
        let mut out = Tensor::uninitialised(dx.device(), copies.len(), dx.width());
        let mut given = vec![false; dx.rows()];
        for (copy, row) in copies.iter().enumerate() {
            match std::mem::replace(&mut given[*row], true) {
                false => place(&mut out, copy).copy_from_slice(dx.row(*row)),
                true => place(&mut out, copy).fill(0.0),
            }
        }
        out
    }

    /// The gradient of `rows` places: the sum over their copies, in the order of the branches.
    fn sum(&self, dx: Tensor, rows: usize) -> Tensor {
        let Some(copies) = &self.copies else { return dx };
        let mut out = Tensor::uninitialised(dx.device(), rows, dx.width());
        let mut begun = vec![false; rows];
        for (copy, row) in copies.iter().enumerate() {
            let sum = place(&mut out, *row);
            match std::mem::replace(&mut begun[*row], true) {
                false => sum.copy_from_slice(dx.row(copy)),
                true => sum.iter_mut().zip(dx.row(copy)).for_each(|(sum, dx)| *sum += dx),
            }
        }
        out
    }

    fn sequences(&self) -> Vec<Sequence<'_>> {
        let sequence = |(i, span): (usize, &Range<usize>)| Sequence {
            row: span.start,
            rows: span.len(),
            past: 0,
            pages: &self.pages[self.starts[i]..self.starts[i + 1]],
        };
        self.spans.iter().enumerate().map(sequence).collect()
    }
}

/// Row `i`, to be written.
fn place(x: &mut Tensor, i: usize) -> &mut [f32] {
    let width = x.width();
    &mut x.data_mut()[i * width..(i + 1) * width]
}

/// Where attention finds the keys and values of earlier tokens.
pub enum Keys<'a> {
    /// In a cache: serving. No gradient passes.
    Cached {
        /// The cache of all layers.
        cache: &'a mut KvCache,
        /// Which rows belong to which sequence, and where its keys and values lie.
        sequences: &'a [Sequence<'a>],
    },
    /// In the batch itself: training.
    Packed(Arc<Documents>),
}

/// Attends with `q` [T, H K] to the keys `k` and values `v` [T, G K] of the batch and those before:
/// [T, H K]. Scores are scaled by 1 / sqrt(K). With a cache, `k` and `v` go to layer `layer` of it.
///
/// Backward, with scores s, weights p = softmax(s), and D = sum_k do o for each row and head:
/// dv_j = sum_i p_ij do_i; ds_ij = p_ij (do_i . v_j - D_i); dq_i = sum_j ds_ij k_j / sqrt(K);
/// dk_j = sum_i ds_ij q_i / sqrt(K).
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, keys: &mut Keys<'_>, layer: usize) -> Tensor {
    match keys {
        Keys::Cached { cache, sequences } => {
            let shape = cache.shape;
            attend([q, k, v], cache.layers[layer].bytes_mut(), shape, sequences, None)
        }
        Keys::Packed(documents) => attend_documents([q, k, v], documents),
    }
}

fn attend(
    [q, k, v]: [&Tensor; 3],
    pages: &mut [u8],
    shape: KvShape,
    sequences: &[Sequence<'_>],
    lse: Option<&mut [f32]>,
) -> Tensor {
    let device = q.device();
    let (cpu, heads) = (device.kernels(), q.width() / shape.head_dim);
    let scale = 1.0 / (shape.head_dim as f32).sqrt();
    kernel::store(cpu, pages, shape, k.data(), v.data(), sequences);
    let mut out = Tensor::uninitialised(device, q.rows(), q.width());
    kernel::attention(cpu, out.data_mut(), q.data(), pages, shape, heads, scale, sequences, lse);
    out
}

fn attend_documents([q, k, v]: [&Tensor; 3], documents: &Arc<Documents>) -> Tensor {
    let (device, shape) = (q.device().clone(), documents.shape);
    let [q_rows, k_rows, v_rows] = [q, k, v].map(|x| documents.spread(x));
    let mut lse_th = Tensor::uninitialised(&device, q_rows.rows(), q.width() / shape.head_dim);
    let out = device.with_keys(documents.pages.len() * shape.page_bytes(), |pages| {
        let lse = Some(lse_th.data_mut());
        attend([&q_rows, &k_rows, &v_rows], pages, shape, &documents.sequences(), lse)
    });
    drop([q_rows, k_rows, v_rows]);
    let (out, lse_th) = (documents.first(out, q.rows()), documents.first(lse_th, q.rows()));
    let tape = [q, k, v].into_iter().find_map(|x| x.slot()).map(|slot| Arc::clone(slot.tape()));
    let saved = [q, k, v, &out].map(Tensor::clone);
    let documents = Arc::clone(documents);
    let slot = record(tape.as_ref(), move |dout, flow| {
        attend_back(&documents, saved, &lse_th, &dout, flow);
    });
    out.with_slot(slot)
}

fn attend_back(
    documents: &Documents,
    saved: [Tensor; 4],
    lse_th: &Tensor,
    dout: &Tensor,
    flow: &mut Flow,
) {
    let (device, KvShape { kv_heads, head_dim, .. }) = (dout.device(), documents.shape);
    let rows = dout.rows();
    let slots = [0, 1, 2].map(|i| saved[i].slot().cloned());
    let [q, k, v, out] = saved.map(|x| documents.spread(&x));
    let (dout, lse_th) = (documents.spread_first(dout), documents.spread(lse_th));
    let like = |x: &Tensor| Tensor::uninitialised(device, x.rows(), x.width());
    let (mut dq, mut dk, mut dv) = (like(&q), like(&k), like(&v));
    attention_backward(
        device.kernels(),
        AttentionGrads { dq: dq.data_mut(), dk: dk.data_mut(), dv: dv.data_mut() },
        dout.data(),
        Attended { q: q.data(), k: k.data(), v: v.data(), out: out.data(), lse: lse_th.data() },
        HeadShape { heads: q.width() / head_dim, kv_heads, head_dim },
        1.0 / (head_dim as f32).sqrt(),
        Precision::F32,
        &documents.spans,
    );
    drop([q, k, v, out, dout, lse_th]);
    for (slot, dx) in slots.iter().zip([dq, dk, dv]) {
        if let Some(slot) = slot {
            flow.add(slot, documents.sum(dx, rows));
        }
    }
}
