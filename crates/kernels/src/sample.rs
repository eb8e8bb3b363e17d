//! Numbers for tests: a seeded generator, and the lengths that cross every tail.

/// Row widths: one element, part of a block, one block and its neighbours, primes, many blocks.
pub(crate) const WIDTHS: [usize; 12] = [1, 2, 17, 31, 63, 64, 65, 127, 128, 149, 1009, 4096];

/// Numbers of rows.
pub(crate) const ROWS: [usize; 4] = [0, 1, 3, 17];

/// A seeded generator (splitmix64).
pub(crate) struct Sample(u64);

impl Sample {
    pub(crate) fn new(seed: u64) -> Sample {
        Sample(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Nearly normal: the sum of twelve uniform numbers less six.
    pub(crate) fn normal(&mut self) -> f32 {
        let uniform = |bits: u64| (bits >> 40) as f32 / (1u64 << 24) as f32;
        (0..12).map(|_| uniform(self.bits())).sum::<f32>() - 6.0
    }

    pub(crate) fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }
}

/// Numbers in -1..1.
pub(crate) fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut sample = Sample::new(seed);
    (0..n).map(|_| (sample.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
}
