//! Fast hashes of short byte strings; tables that use them bound their probes or their size.

const K0: u64 = 0x9E37_79B9_7F4A_7C15;
const K1: u64 = 0xD6E8_FEB8_6659_FD93;

/// Mixes two words through the halves of their 128-bit product.
#[inline]
pub(super) fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ K0) * u128::from(b ^ K1);
    (product >> 64) as u64 ^ product as u64
}

/// Hash of a byte string of any length.
#[inline]
pub(super) fn hash_bytes(bytes: &[u8]) -> u64 {
    if bytes.len() < 16 {
        let (a, b) = short_key(bytes, 0, bytes.len());
        return mix(a, b);
    }
    let (blocks, _) = bytes.as_chunks::<16>();
    let mut hash = bytes.len() as u64;
    for block in blocks {
        let (a, b) = words(block);
        hash = mix(a ^ hash, b);
    }
    // The last 16 bytes overlap the blocks; the length is in the hash already.
    let (a, b) = words(bytes.last_chunk::<16>().expect("there are at least 16 bytes"));
    mix(a ^ hash, b)
}

/// Up to 15 bytes of `text` from `at` as two words: the bytes, zeros, and their number on top.
/// Distinct strings give distinct keys.
#[inline(always)]
pub(super) fn short_key(text: &[u8], at: usize, len: usize) -> (u64, u64) {
    debug_assert!(len < 16, "short_key: {len} bytes");
    let (low, high) = match text[at..].first_chunk::<16>() {
        Some(chunk) => words(chunk),
        None => {
            let mut chunk = [0; 16];
            chunk[..len].copy_from_slice(&text[at..at + len]);
            words(&chunk)
        }
    };
    let [low_mask, high_mask] = MASKS[len & 15];
    (low & low_mask, high & high_mask | (len as u64) << 56)
}

/// Ones over the first `len` of 16 bytes.
static MASKS: [[u64; 2]; 16] = {
    let mut masks = [[0; 2]; 16];
    let mut len = 0;
    while len < 16 {
        let mask = (1u128 << (8 * len)) - 1;
        masks[len] = [mask as u64, (mask >> 64) as u64];
        len += 1;
    }
    masks
};

#[inline]
fn words(block: &[u8; 16]) -> (u64, u64) {
    let word = u128::from_le_bytes(*block);
    (word as u64, (word >> 64) as u64)
}
