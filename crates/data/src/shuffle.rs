//! A permutation of any number of things that is computed, not stored.

/// Rounds of the Feistel network; four already give a permutation that cannot be told from random
/// by statistics (Luby and Rackoff, 1988), two more cost little.
const ROUNDS: u64 = 6;

/// The place of `i` in the order `key` of 0..n: a bijection of 0..n for each key.
///
/// A Feistel network permutes the smallest square of a power of two that holds n (under 4n
/// numbers); a result outside 0..n is permuted again until it lies inside, which keeps it a
/// bijection (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
///
/// Panics if `i` is not below `n`.
pub(crate) fn permute(i: u64, n: u64, key: u64) -> u64 {
    assert!(i < n, "permute: {i} of {n}");
    let bits = (64 - (n - 1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1u64 << bits) - 1;
    let mut x = i;
    loop {
        let (mut left, mut right) = (x >> bits, x & mask);
        for round in 0..ROUNDS {
            let mixed = mix(right ^ mix(key.wrapping_add(round)));
            (left, right) = (right, left ^ (mixed & mask));
        }
        x = left << bits | right;
        if x < n {
            return x;
        }
    }
}

/// Two words as one, each bit of it dependent on all of theirs.
pub(crate) fn join(a: u64, b: u64) -> u64 {
    mix(a ^ mix(b))
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014), one step of its sequence on.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_comes_once() {
        for n in (1..200).chain([255, 256, 257, 1000, 4096, 4097]) {
            for key in [0, 1, u64::MAX] {
                let mut seen: Vec<u64> = (0..n).map(|i| permute(i, n, key)).collect();
                seen.sort_unstable();
                assert!(seen.into_iter().eq(0..n), "n = {n}, key = {key}");
            }
        }
        for n in [1 << 40, (1 << 40) + 1, u64::MAX] {
            assert!((0..100).all(|i| permute(i, n, 7) < n));
        }
    }

    #[test]
    fn orders_differ_by_key_and_look_random() {
        // Kolmogorov's distance of the first 1,000 places of 100,000 from the even distribution.
        let n = 100_000;
        for key in 0..20 {
            let mut places: Vec<u64> = (0..1000).map(|i| permute(i, n, key)).collect();
            let same =
                places.iter().enumerate().filter(|&(i, &p)| p == permute(i as u64, n, key + 1));
            assert!(same.count() < 5);
            places.sort_unstable();
            let off = |(i, p): (usize, &u64)| (*p as f64 / n as f64 - i as f64 / 1000.0).abs();
            let distance = places.iter().enumerate().map(off).fold(0.0, f64::max);
            assert!(distance < 0.0617, "key {key}: {distance} (p = 0.001 is 0.0617)");
        }
    }
}
