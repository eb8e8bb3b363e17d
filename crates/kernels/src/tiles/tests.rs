//! Products of tiles against their formula, and the unit against its definition.

use super::emulated::{flush, fma};
use super::*;

/// Random words, the same in each run.
struct Noise(u64);

impl Noise {
    fn word(&mut self) -> u32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
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
fn the_hardware_agrees_with_the_definition() {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        let rounds = if crate::Class::Amx.runs_here() { 2_000 } else { 50 };
        trap::serve_tiles();
        let mut noise = Noise(3);
        for round in 0..rounds {
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
