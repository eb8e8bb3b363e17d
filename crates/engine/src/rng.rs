//! Random numbers that are a function of where they are used, not of what was drawn before.
//!
//! A counter-based generator has no state: the number at (seed, stream, position) is the same
//! whatever shares the batch, however often a request was stopped and taken up again.

/// Philox4x32-10: four random words from a 128-bit counter and a 64-bit key.
///
/// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), section 5.2.
///
/// ```
/// let words = herd_engine::rng::philox([0; 4], [0; 2]);
/// assert_eq!(words, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
/// ```
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
    const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85]; // golden ratio and sqrt(3) - 1, as 0.32 bits
    let ([mut a, mut b, mut c, mut d], [mut k0, mut k1]) = (counter, key);
    for _ in 0..10 {
        let (high0, low0) = wide_product(MULTIPLIERS[0], a);
        let (high1, low1) = wide_product(MULTIPLIERS[1], c);
        (a, b, c, d) = (high1 ^ b ^ k0, low1, high0 ^ d ^ k1, low0);
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    [a, b, c, d]
}

/// A uniform number in [0, 1), a multiple of 2^-53, that belongs to (seed, stream, position).
///
/// `stream` separates uses that share a seed: requests of one call, or two draws at one position.
pub fn uniform(seed: u64, stream: u64, position: u64) -> f64 {
    let counter = [low(position), high(position), low(stream), high(stream)];
    let [a, b, ..] = philox(counter, [low(seed), high(seed)]);
    let bits = (u64::from(a) << 32 | u64::from(b)) >> 11;
    bits as f64 / (1u64 << 53) as f64
}

fn wide_product(a: u32, b: u32) -> (u32, u32) {
    let product = u64::from(a) * u64::from(b);
    (high(product), low(product))
}

fn low(x: u64) -> u32 {
    x as u32
}

fn high(x: u64) -> u32 {
    (x >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_vectors() {
        let ones = philox([u32::MAX; 4], [u32::MAX; 2]);
        assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = philox(
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
        );
        assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn every_part_of_the_address_changes_the_number() {
        let here = uniform(1, 2, 3);
        assert_eq!(here, uniform(1, 2, 3));
        for other in [uniform(0, 2, 3), uniform(1, 0, 3), uniform(1, 2, 0), uniform(1, 2, 3 << 32)]
        {
            assert_ne!(here, other);
        }
    }

    #[test]
    fn numbers_are_even_over_the_unit_interval() {
        let mut counts = [0u32; 16];
        for position in 0..16_000 {
            counts[(uniform(7, 0, position) * 16.0) as usize] += 1;
        }
        let chi2: f64 = counts.iter().map(|&n| (f64::from(n) - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi2 < 37.7, "chi-squared {chi2} with 15 degrees of freedom (p = 0.001)");
    }
}
