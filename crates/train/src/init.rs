//! Initial weights: normal numbers that are a function of seed, part and place.

use herd_engine::rng::philox;
use herd_model::Config;
use herd_model::llama::Piece;
use herd_model::names::{Part, Style, all_parts, name};
use std::f64::consts::TAU;

/// The first numbers of a part: ones for norms, else normal with deviation `std`, which for the
/// projections back into the residual stream is divided by sqrt(2 L), so that the stream's variance
/// does not grow with depth (choice; after GPT-2). A head that scores has 1 / sqrt(D + 1) (arXiv 2009.01325).
pub fn numbers(config: &Config, part: Part, std: f64, seed: u64) -> Vec<f32> {
    let len = part.shape(config).iter().product();
    let into_stream = 1.0 / (2.0 * config.layers as f64).sqrt();
    match part {
        Part::OutputNorm | Part::AttnNorm(_) | Part::FfnNorm(_) => vec![1.0; len],
        Part::O(_) | Part::Down(_) => normals(len, std * into_stream, seed, stream(config, part)),
        Part::Score => {
            let std = 1.0 / ((config.width + 1) as f64).sqrt();
            normals(len, std, seed, stream(config, part))
        }
        _ => normals(len, std, seed, stream(config, part)),
    }
}

/// The first numbers of LoRA: A uniform as Kaiming's for a linear layer, B zero, so that training
/// begins at the frozen model (arXiv 2106.09685, section 4.1).
pub fn lora(
    config: &Config,
    part: Part,
    piece: Piece,
    rank: usize,
    len: usize,
    seed: u64,
) -> Vec<f32> {
    if piece == Piece::LoraB {
        return vec![0.0; len];
    }
    let bound = 1.0 / ((len / rank) as f64).sqrt();
    let stream = stream(config, part) | 1 << 32;
    let word = |i: usize| {
        philox([i as u32, (i >> 32) as u32, stream as u32, (stream >> 32) as u32], key(seed))[0]
    };
    (0..len).map(|i| ((unit(word(i)) * 2.0 - 1.0) * bound) as f32).collect()
}

/// A part's own stream of numbers: its place in the model's order.
fn stream(config: &Config, part: Part) -> u64 {
    let place = all_parts(config).iter().position(|p| *p == part);
    place.unwrap_or_else(|| panic!("{:?} is no part", name(part, Style::Gguf))) as u64
}

fn key(seed: u64) -> [u32; 2] {
    [seed as u32, (seed >> 32) as u32]
}

/// In (0, 1).
fn unit(word: u32) -> f64 {
    (f64::from(word) + 0.5) / 4_294_967_296.0
}

/// Box-Muller, four normals from four words.
fn normals(len: usize, std: f64, seed: u64, stream: u64) -> Vec<f32> {
    let mut out = Vec::with_capacity(len + 3);
    for block in 0..len.div_ceil(4) as u64 {
        let counter = [block as u32, (block >> 32) as u32, stream as u32, (stream >> 32) as u32];
        let [a, b, c, d] = philox(counter, key(seed));
        for (a, b) in [(a, b), (c, d)] {
            let radius = std * (-2.0 * unit(a).ln()).sqrt();
            let (sin, cos) = (TAU * unit(b)).sin_cos();
            out.extend([(radius * cos) as f32, (radius * sin) as f32]);
        }
    }
    out.truncate(len);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_normal_and_their_own() {
        let x = normals(100_000, 0.02, 7, 3);
        let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / x.len() as f64;
        let square = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / x.len() as f64;
        // Standard errors: 0.02 / sqrt(n), and 0.02^2 sqrt(2 / n).
        assert!(mean.abs() < 5.0 * 6.4e-5, "{mean}");
        assert!((square - 4e-4).abs() < 5.0 * 1.8e-6, "{square}");
        assert_eq!(normals(10, 0.02, 7, 3), x[..10]);
        assert_ne!(normals(10, 0.02, 7, 4), x[..10]);
        assert_ne!(normals(10, 0.02, 8, 3), x[..10]);
    }
}
