//! The tile unit: eight registers of sixteen rows by 64 bytes, and products of whole tiles.
//!
//! `Hardware` is AMX; `Emulated` is Intel's definition in plain Rust, so that everything built
//! on tiles is tested on any machine, and a machine with AMX is tested against the definition.
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, TDPBF16PS,
//! TDPBSSD, LDTILECFG, TILELOADD, TILESTORED.

/// Rows of a tile.
pub(crate) const ROWS: usize = 16;
/// Bytes of a row of a tile.
pub(crate) const ROW_BYTES: usize = 64;
/// Bytes of a tile.
pub(crate) const BYTES: usize = ROWS * ROW_BYTES;

/// Rows and bytes a row of each of the eight registers, as `ldtilecfg` reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct Shape {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

const _: () = assert!(size_of::<Shape>() == 64);

impl Shape {
    /// Registers of (rows, bytes a row), from register 0 on; (0, 0) for one that is not used.
    pub(crate) const fn new(registers: [(usize, usize); 8]) -> Shape {
        let mut shape =
            Shape { palette: 1, start_row: 0, reserved: [0; 14], bytes: [0; 16], rows: [0; 16] };
        let mut i = 0;
        while i < 8 {
            let (rows, bytes) = registers[i];
            assert!(rows <= ROWS && bytes <= ROW_BYTES && bytes % 4 == 0);
            assert!((rows == 0) == (bytes == 0));
            (shape.rows[i], shape.bytes[i]) = (rows as u8, bytes as u16);
            i += 1;
        }
        shape
    }
}

/// The operations on tiles. Products take C [m, n], A [m, k], and B with four bytes of k a row:
/// row i of B holds, for each of n columns, elements 4 i .. 4 i + 4 (bytes) or 2 i, 2 i + 1 (bf16).
///
/// # Safety
///
/// All methods ask that the machine has the unit; all but `new` and `configure` that `configure`
/// was called and the registers they name are in use; products that the sizes of C, A and B
/// agree; loads and stores that the register's bytes are readable or writable at `stride`.
pub(crate) trait Tiles {
    /// The unit of this thread. Dropping it gives the unit back.
    unsafe fn new() -> Self;
    /// Sets the shapes of the registers, whose contents are then unknown. Free if they are set.
    unsafe fn configure(&mut self, shape: &Shape);
    /// Register T becomes zero.
    unsafe fn zero<const T: u8>(&mut self);
    /// Register T from the rows at `from`, `stride` bytes apart.
    unsafe fn load<const T: u8>(&mut self, from: *const u8, stride: usize);
    /// Register T to the rows at `to`, `stride` bytes apart.
    unsafe fn store<const T: u8>(&mut self, to: *mut u8, stride: usize);
    /// C += A B for pairs of bf16, C of f32. Even and odd elements of k are added apart, each
    /// from zero in ascending order with one rounding a step; their sum is added to C.
    /// Subnormal numbers count as zero, on the way in and out.
    unsafe fn dot_bf16<const C: u8, const A: u8, const B: u8>(&mut self);
    /// C += A B for signed bytes, C of i32. Exact.
    unsafe fn dot_i8<const C: u8, const A: u8, const B: u8>(&mut self);
}

#[cfg(target_arch = "x86_64")]
pub(crate) use hardware::Hardware;

#[cfg(target_arch = "x86_64")]
mod hardware {
    use super::{Shape, Tiles};
    use std::arch::asm;
    use std::marker::PhantomData;

    /// AMX. The registers belong to the thread, so the value stays on it.
    pub(crate) struct Hardware {
        shape: Option<Shape>,
        thread: PhantomData<*const ()>,
    }

    // What all blocks below rely on: no function here enables AMX for the compiler, so it keeps
    // nothing in tile registers, and what one block leaves there the next one finds. The blocks
    // are not `pure`, so their order stays; they may touch memory, so stores before them are made.
    impl Tiles for Hardware {
        #[inline(always)]
        unsafe fn new() -> Hardware {
            Hardware { shape: None, thread: PhantomData }
        }

        #[inline(always)]
        unsafe fn configure(&mut self, shape: &Shape) {
            if self.shape.as_ref() == Some(shape) {
                return;
            }
            self.shape = Some(*shape);
            // SAFETY: the machine has the unit; `shape` is 64 readable bytes of a valid
            // configuration (`Shape::new` checked it).
            unsafe {
                asm!("ldtilecfg [{}]", in(reg) shape, options(nostack, preserves_flags, readonly));
            }
        }

        #[inline(always)]
        unsafe fn zero<const T: u8>(&mut self) {
            // SAFETY: the trait's contract.
            unsafe {
                asm!("tilezero tmm{t}", t = const T, options(nostack, preserves_flags, nomem));
            }
        }

        #[inline(always)]
        unsafe fn load<const T: u8>(&mut self, from: *const u8, stride: usize) {
            // SAFETY: the trait's contract: the rows are readable.
            unsafe {
                asm!(
                    "tileloadd tmm{t}, [{from} + {stride} * 1]",
                    t = const T,
                    from = in(reg) from,
                    stride = in(reg) stride,
                    options(nostack, preserves_flags, readonly),
                );
            }
        }

        #[inline(always)]
        unsafe fn store<const T: u8>(&mut self, to: *mut u8, stride: usize) {
            // SAFETY: the trait's contract: the rows are writable.
            unsafe {
                asm!(
                    "tilestored [{to} + {stride} * 1], tmm{t}",
                    t = const T,
                    to = in(reg) to,
                    stride = in(reg) stride,
                    options(nostack, preserves_flags),
                );
            }
        }

        #[inline(always)]
        unsafe fn dot_bf16<const C: u8, const A: u8, const B: u8>(&mut self) {
            // SAFETY: the trait's contract: the sizes agree.
            unsafe {
                asm!(
                    "tdpbf16ps tmm{c}, tmm{a}, tmm{b}",
                    c = const C,
                    a = const A,
                    b = const B,
                    options(nostack, preserves_flags, nomem),
                );
            }
        }

        #[inline(always)]
        unsafe fn dot_i8<const C: u8, const A: u8, const B: u8>(&mut self) {
            // SAFETY: the trait's contract: the sizes agree.
            unsafe {
                asm!(
                    "tdpbssd tmm{c}, tmm{a}, tmm{b}",
                    c = const C,
                    a = const A,
                    b = const B,
                    options(nostack, preserves_flags, nomem),
                );
            }
        }
    }

    impl Drop for Hardware {
        #[inline(always)]
        fn drop(&mut self) {
            if self.shape.is_some() {
                // SAFETY: a shape was set, so the unit is there; nobody reads the tiles again.
                unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
            }
        }
    }
}

#[cfg(test)]
pub(crate) use emulated::Emulated;

#[cfg(test)]
mod emulated {
    use super::{BYTES, ROW_BYTES, ROWS, Shape, Tiles};

    /// The definition. What AMX answers with a fault panics here.
    pub(crate) struct Emulated {
        shape: Option<Shape>,
        tiles: [[u8; BYTES]; 8],
    }

    impl Emulated {
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
            Emulated { shape: None, tiles: [[0; BYTES]; 8] }
        }

        unsafe fn configure(&mut self, shape: &Shape) {
            if self.shape != Some(*shape) {
                // Ones for unknown contents: bf16 and f32 read them as NaN.
                *self = Emulated { shape: Some(*shape), tiles: [[0xff; BYTES]; 8] };
            }
        }

        unsafe fn zero<const T: u8>(&mut self) {
            self.size(T);
            self.tiles[usize::from(T)] = [0; BYTES];
        }

        unsafe fn load<const T: u8>(&mut self, from: *const u8, stride: usize) {
            let (rows, bytes) = self.size(T);
            let tile = &mut self.tiles[usize::from(T)];
            *tile = [0; BYTES];
            for (i, row) in tile.chunks_exact_mut(ROW_BYTES).take(rows).enumerate() {
                // SAFETY: the caller vouches for the rows.
                let from = unsafe { std::slice::from_raw_parts(from.add(i * stride), bytes) };
                row[..bytes].copy_from_slice(from);
            }
        }

        unsafe fn store<const T: u8>(&mut self, to: *mut u8, stride: usize) {
            let (rows, bytes) = self.size(T);
            let tile = &self.tiles[usize::from(T)];
            for (i, row) in tile.chunks_exact(ROW_BYTES).take(rows).enumerate() {
                // SAFETY: the caller vouches for the rows.
                unsafe { to.add(i * stride).copy_from_nonoverlapping(row.as_ptr(), bytes) };
            }
        }

        unsafe fn dot_bf16<const C: u8, const A: u8, const B: u8>(&mut self) {
            let (rows, columns, words) = self.sizes(C, A, B);
            let pair = |[a, b, c, d]: [u8; 4]| [[a, b], [c, d]].map(widen);
            for m in 0..rows {
                let mut sums = [[0.0f32; 2]; ROWS];
                for k in 0..words {
                    let a = pair(self.word(A, m, k));
                    for (n, sum) in sums.iter_mut().take(columns).enumerate() {
                        let b = pair(self.word(B, k, n));
                        *sum = [fma(a[0], b[0], sum[0]), fma(a[1], b[1], sum[1])];
                    }
                }
                for (n, [even, odd]) in sums.into_iter().take(columns).enumerate() {
                    let c = f32::from_le_bytes(self.word(C, m, n));
                    let sum = flush(flush(c) + flush(even + odd));
                    self.put(C, m, n, sum.to_le_bytes());
                }
            }
        }

        unsafe fn dot_i8<const C: u8, const A: u8, const B: u8>(&mut self) {
            let (rows, columns, words) = self.sizes(C, A, B);
            let four = |word: [u8; 4]| word.map(|byte| i32::from(byte as i8));
            for m in 0..rows {
                for n in 0..columns {
                    let mut sum = i32::from_le_bytes(self.word(C, m, n));
                    for k in 0..words {
                        let (a, b) = (four(self.word(A, m, k)), four(self.word(B, k, n)));
                        sum = (0..4).fold(sum, |sum, i| sum.wrapping_add(a[i] * b[i]));
                    }
                    self.put(C, m, n, sum.to_le_bytes());
                }
            }
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
}

#[cfg(test)]
mod tests {
    use super::emulated::{flush, fma};
    use super::*;

    /// Random words, the same in each run.
    struct Noise(u64);

    impl Noise {
        fn word(&mut self) -> u32 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 32) as u32
        }

        /// A finite bf16 around 1, or, if `wild`, of any size.
        fn bf16(&mut self, wild: bool) -> u16 {
            let word = self.word();
            if word >> 20 == 0 {
                return 0;
            }
            let exponent = if wild { word >> 8 & 0xff } else { 120 + (word >> 8 & 15) };
            ((word & 0x807f) | exponent.min(254) << 7) as u16
        }
    }

    fn bf16(bits: u16) -> f32 {
        f32::from_bits(u32::from(bits) << 16)
    }

    const SHAPE: Shape =
        Shape::new([(16, 64), (16, 64), (16, 64), (3, 64), (3, 24), (6, 64), (0, 0), (0, 0)]);

    /// C after one product: full tiles, then 3 rows by 12 pairs (or 24 bytes).
    fn run<U: Tiles>(a: &[u8], b: &[u8], c: &[u8], ints: bool) -> [Vec<u8>; 2] {
        let (mut full, mut part) = (c.to_vec(), c.to_vec());
        // SAFETY: the caller has the unit; each slice is a tile of 1024 bytes.
        unsafe {
            let mut unit = U::new();
            unit.configure(&SHAPE);
            unit.load::<0>(c.as_ptr(), ROW_BYTES);
            unit.load::<1>(a.as_ptr(), ROW_BYTES);
            unit.load::<2>(b.as_ptr(), ROW_BYTES);
            unit.load::<3>(c.as_ptr(), ROW_BYTES);
            unit.load::<4>(a.as_ptr(), 40);
            unit.load::<5>(b.as_ptr(), ROW_BYTES);
            if ints {
                unit.dot_i8::<0, 1, 2>();
                unit.dot_i8::<3, 4, 5>();
            } else {
                unit.dot_bf16::<0, 1, 2>();
                unit.dot_bf16::<3, 4, 5>();
            }
            unit.store::<0>(full.as_mut_ptr(), ROW_BYTES);
            unit.store::<3>(part.as_mut_ptr(), ROW_BYTES);
            unit.zero::<0>();
        }
        [full, part]
    }

    fn tiles_of_pairs(noise: &mut Noise, wild: bool) -> [Vec<u8>; 3] {
        let mut pairs = || (0..512).flat_map(|_| noise.bf16(wild).to_le_bytes()).collect();
        let (a, b) = (pairs(), pairs());
        let c = (0..256).flat_map(|_| (u32::from(noise.bf16(wild)) << 16).to_le_bytes());
        [a, b, c.collect()]
    }

    #[test]
    fn pairs_add_even_and_odd_apart_and_then_to_c() {
        let mut noise = Noise(1);
        let [a, b, c] = tiles_of_pairs(&mut noise, false);
        let at = |t: &[u8], i: usize| bf16(u16::from_le_bytes([t[2 * i], t[2 * i + 1]]));
        let [full, part] = run::<Emulated>(&a, &b, &c, false);
        for (m, n) in (0..16).flat_map(|m| (0..16).map(move |n| (m, n))) {
            let sum = |k_pairs: usize, a_stride: usize| {
                let chain = |odd: usize| {
                    (0..k_pairs).fold(0.0f32, |sum, k| {
                        let a = at(&a, m * a_stride + 2 * k + odd);
                        a.mul_add(at(&b, k * 32 + 2 * n + odd), sum)
                    })
                };
                at(&c, (m * 16 + n) * 2 + 1) + (chain(0) + chain(1))
            };
            let got = |t: &[u8]| {
                let at = (m * 16 + n) * 4;
                f32::from_le_bytes([t[at], t[at + 1], t[at + 2], t[at + 3]])
            };
            assert_eq!(got(&full).to_bits(), sum(16, 32).to_bits(), "{m}, {n}");
            if m < 3 {
                assert_eq!(got(&part).to_bits(), sum(6, 20).to_bits(), "{m}, {n}");
            } else {
                assert_eq!(got(&part).to_bits(), got(&c).to_bits(), "{m}, {n}");
            }
        }
    }

    #[test]
    fn bytes_are_signed_on_both_sides() {
        let mut noise = Noise(2);
        let mut bytes = || (0..1024).map(|_| noise.word() as u8).collect::<Vec<u8>>();
        let (a, b, c) = (bytes(), bytes(), bytes());
        let [full, _] = run::<Emulated>(&a, &b, &c, true);
        for (m, n) in (0..16).flat_map(|m| (0..16).map(move |n| (m, n))) {
            let at = (m * 16 + n) * 4;
            let int = |t: &[u8]| i32::from_le_bytes([t[at], t[at + 1], t[at + 2], t[at + 3]]);
            let sum = (0..64).map(|k| {
                i32::from(a[m * 64 + k] as i8) * i32::from(b[k / 4 * 64 + 4 * n + k % 4] as i8)
            });
            assert_eq!(int(&full), sum.fold(int(&c), i32::wrapping_add));
        }
    }

    #[test]
    fn subnormal_numbers_are_zero_in_and_out() {
        let tiny = f32::MIN_POSITIVE;
        assert_eq!(flush(-tiny / 2.0).to_bits(), (-0.0f32).to_bits());
        assert_eq!(fma(tiny, 0.5, 0.0), 0.0);
        assert_eq!(fma(tiny, 1.0, 0.0), tiny);
        // Just below the normal numbers: a quarter of a step rounds up to them, more is tiny.
        assert_eq!(fma(-tiny, 2f32.powi(-26), tiny), tiny);
        assert_eq!(fma(-tiny, 2f32.powi(-25), tiny), tiny);
        assert_eq!(fma(-tiny, 1.5 * 2f32.powi(-25), tiny), 0.0);
    }

    #[test]
    fn the_hardware_agrees_with_the_definition_where_there_is_one() {
        #[cfg(target_arch = "x86_64")]
        if crate::Class::Amx.runs_here() {
            let mut noise = Noise(3);
            for round in 0..2_000 {
                let wild = round % 2 == 1;
                let [a, b, c] = tiles_of_pairs(&mut noise, wild);
                let (want, got) =
                    (run::<Emulated>(&a, &b, &c, false), run::<Hardware>(&a, &b, &c, false));
                assert_eq!(got.map(numbers), want.map(numbers), "round {round}");
                let ints = run::<Emulated>(&a, &b, &c, true);
                assert_eq!(run::<Hardware>(&a, &b, &c, true), ints, "round {round}");
            }
        }
    }

    /// The bits of each number, one pattern for all NaN: the manual leaves their payload open.
    #[cfg(target_arch = "x86_64")]
    fn numbers(tile: Vec<u8>) -> Vec<u32> {
        let (words, _) = tile.as_chunks::<4>();
        let bits = |w: &[u8; 4]| f32::from_le_bytes(*w);
        words.iter().map(bits).map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() }).collect()
    }
}
