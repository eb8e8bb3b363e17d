//! Intel's definition of the tile unit in plain Rust.

use super::{BYTES, ROW_BYTES, ROWS, Shape, Tiles};

/// The definition. What AMX answers with a fault panics here.
pub(crate) struct Emulated {
    shape: Option<Shape>,
    tiles: [[u8; BYTES]; 8],
}

impl Emulated {
    /// No shape set.
    pub(super) fn released() -> Emulated {
        Emulated { shape: None, tiles: [[0; BYTES]; 8] }
    }

    pub(super) fn set(&mut self, shape: Shape) {
        // Ones for unknown contents: bf16 and f32 read them as NaN.
        *self = Emulated { shape: Some(shape), tiles: [[0xff; BYTES]; 8] };
    }

    pub(super) fn clear(&mut self, t: u8) {
        self.size(t);
        self.tiles[usize::from(t)] = [0; BYTES];
    }

    /// # Safety
    ///
    /// The rows are readable.
    pub(super) unsafe fn read(&mut self, t: u8, from: *const u8, stride: usize) {
        let (rows, bytes) = self.size(t);
        let tile = &mut self.tiles[usize::from(t)];
        *tile = [0; BYTES];
        for (i, row) in tile.chunks_exact_mut(ROW_BYTES).take(rows).enumerate() {
            // SAFETY: the caller vouches for the rows.
            let from = unsafe { std::slice::from_raw_parts(from.add(i * stride), bytes) };
            row[..bytes].copy_from_slice(from);
        }
    }

    /// # Safety
    ///
    /// The rows are writable.
    pub(super) unsafe fn write(&self, t: u8, to: *mut u8, stride: usize) {
        let (rows, bytes) = self.size(t);
        let tile = &self.tiles[usize::from(t)];
        for (i, row) in tile.chunks_exact(ROW_BYTES).take(rows).enumerate() {
            // SAFETY: the caller vouches for the rows.
            unsafe { to.add(i * stride).copy_from_nonoverlapping(row.as_ptr(), bytes) };
        }
    }

    /// TDPBF16PS.
    pub(super) fn multiply_bf16(&mut self, c: u8, a: u8, b: u8) {
        let (rows, columns, words) = self.sizes(c, a, b);
        let pair = |[a, b, c, d]: [u8; 4]| [[a, b], [c, d]].map(widen);
        for m in 0..rows {
            let mut sums = [[0.0f32; 2]; ROWS];
            for k in 0..words {
                let a = pair(self.word(a, m, k));
                for (n, sum) in sums.iter_mut().take(columns).enumerate() {
                    let b = pair(self.word(b, k, n));
                    *sum = [fma(a[0], b[0], sum[0]), fma(a[1], b[1], sum[1])];
                }
            }
            for (n, [even, odd]) in sums.into_iter().take(columns).enumerate() {
                let before = f32::from_le_bytes(self.word(c, m, n));
                let sum = flush(flush(before) + flush(even + odd));
                self.put(c, m, n, sum.to_le_bytes());
            }
        }
    }

    /// TDPBSSD.
    pub(super) fn multiply_i8(&mut self, c: u8, a: u8, b: u8) {
        let (rows, columns, words) = self.sizes(c, a, b);
        let four = |word: [u8; 4]| word.map(|byte| i32::from(byte as i8));
        for m in 0..rows {
            for n in 0..columns {
                let mut sum = i32::from_le_bytes(self.word(c, m, n));
                for k in 0..words {
                    let (a, b) = (four(self.word(a, m, k)), four(self.word(b, k, n)));
                    sum = (0..4).fold(sum, |sum, i| sum.wrapping_add(a[i] * b[i]));
                }
                self.put(c, m, n, sum.to_le_bytes());
            }
        }
    }

    /// Rows, and bytes a row.
    fn size(&self, t: u8) -> (usize, usize) {
        let shape = self.shape.as_ref().expect("the tiles are configured");
        let t = usize::from(t);
        assert!(shape.rows[t] > 0, "tile {t} is not in use");
        (usize::from(shape.rows[t]), usize::from(shape.bytes[t]))
    }

    /// m, n and k in words of four bytes, checked.
    fn sizes(&self, c: u8, a: u8, b: u8) -> (usize, usize, usize) {
        assert!(c != a && a != b && b != c, "tiles {c}, {a}, {b} are not three");
        let ((m, c), (a_rows, a), (b_rows, b)) = (self.size(c), self.size(a), self.size(b));
        assert_eq!((m, a, c), (a_rows, 4 * b_rows, b), "sizes of C, A and B");
        (m, c / 4, a / 4)
    }

    fn word(&self, t: u8, row: usize, i: usize) -> [u8; 4] {
        let at = row * ROW_BYTES + 4 * i;
        let tile = &self.tiles[usize::from(t)];
        [tile[at], tile[at + 1], tile[at + 2], tile[at + 3]]
    }

    fn put(&mut self, t: u8, row: usize, i: usize, word: [u8; 4]) {
        self.tiles[usize::from(t)][row * ROW_BYTES + 4 * i..][..4].copy_from_slice(&word);
    }
}

impl Tiles for Emulated {
    unsafe fn new() -> Emulated {
        Emulated::released()
    }

    unsafe fn configure(&mut self, shape: &Shape) {
        if self.shape != Some(*shape) {
            self.set(*shape);
        }
    }

    unsafe fn zero<const T: u8>(&mut self) {
        self.clear(T);
    }

    unsafe fn load<const T: u8>(&mut self, from: *const u8, stride: usize) {
        // SAFETY: the caller's contract.
        unsafe { self.read(T, from, stride) }
    }

    unsafe fn store<const T: u8>(&mut self, to: *mut u8, stride: usize) {
        // SAFETY: the caller's contract.
        unsafe { self.write(T, to, stride) }
    }

    unsafe fn dot_bf16<const C: u8, const A: u8, const B: u8>(&mut self) {
        self.multiply_bf16(C, A, B);
    }

    unsafe fn dot_i8<const C: u8, const A: u8, const B: u8>(&mut self) {
        self.multiply_i8(C, A, B);
    }
}

/// A bf16 as f32, zero if subnormal.
fn widen([low, high]: [u8; 2]) -> f32 {
    flush(f32::from_bits(u32::from_le_bytes([0, 0, low, high])))
}

/// Zero of the same sign for a subnormal.
pub(super) fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0.0f32.copysign(x) } else { x }
}

/// a * b + c rounded once to nearest even, zero if the result is below the normal numbers.
pub(super) fn fma(a: f32, b: f32, c: f32) -> f32 {
    let sum = a.mul_add(b, c);
    if sum.abs() == f32::MIN_POSITIVE {
        // Tininess counts after rounding to 24 bits without a lower bound of the exponent,
        // half a step finer than the subnormal rounding that led here. Around this size the
        // exact sum has fewer than 53 bits, or lies far from the border.
        let border = f64::from(f32::MIN_POSITIVE) - 2f64.powi(-151);
        if f64::from(a).mul_add(f64::from(b), f64::from(c)).abs() < border {
            return 0.0f32.copysign(sum);
        }
    }
    flush(sum)
}
