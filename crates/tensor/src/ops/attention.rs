//! Causal grouped-query attention over cached keys and values.

use crate::Tensor;
use herd_kernels::attention as kernel;
use herd_kernels::attention::{KvShape, Sequence};
use herd_kernels::buffer::Buffer;

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

    /// Bytes of all layers when every page is written.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(Buffer::len).sum()
    }
}

/// Stores `k` and `v` [T, G K] of the sequences in layer `layer` of the cache, then attends with
/// `q` [T, H K]: [T, H K]. Scores are scaled by 1 / sqrt(K).
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    cache: &mut KvCache,
    layer: usize,
    sequences: &[Sequence<'_>],
) -> Tensor {
    let (device, shape) = (q.device(), cache.shape);
    let heads = q.width() / shape.head_dim;
    let scale = 1.0 / (shape.head_dim as f32).sqrt();
    let pages = cache.layers[layer].bytes_mut();
    let cpu = device.kernels();
    kernel::store(cpu, pages, shape, k.data(), v.data(), sequences);
    let mut out = Tensor::uninitialised(device, q.rows(), q.width());
    kernel::attention(cpu, out.data_mut(), q.data(), pages, shape, heads, scale, sequences);
    out
}
