//! Rotary positions: the frequencies and their scalings, tables of cosines, and the rotation.
//!
//! Letters: T tokens, H heads, K head width, P positions.

use std::f64::consts::TAU;

use crate::class::Class;
use crate::dispatch::for_class;

/// How a model stretches the frequencies to contexts longer than it was trained on.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// None: f_i = theta^(-2i / K).
    None,
    /// Position interpolation, f_i / factor. Source: arXiv 2306.15595.
    Linear {
        /// Stretch of the context.
        factor: f32,
    },
    /// Llama 3.1: short waves stay, long ones are divided, those between are blended.
    Llama3 {
        /// Divisor of the long waves.
        factor: f32,
        /// Waves longer than the original context over this are divided.
        low_freq_factor: f32,
        /// Waves shorter than the original context over this stay.
        high_freq_factor: f32,
        /// Tokens of context before stretching.
        original_max_position_embeddings: u32,
    },
    /// YaRN. Source: arXiv 2309.00071.
    Yarn {
        /// Stretch of the context.
        factor: f32,
        /// Tokens of context before stretching.
        original_max_position_embeddings: u32,
        /// Rotations over the original context from which a frequency stays (usually 32).
        beta_fast: f32,
        /// Rotations up to which a frequency is divided (usually 1).
        beta_slow: f32,
        /// Factor of the cosines and sines; absent, 0.1 ln(factor) + 1.
        attention_factor: Option<f32>,
        /// Round the ends of the ramp outwards to whole pairs, as the paper does.
        truncate: bool,
    },
    /// Dynamic NTK: theta grows with the length in use.
    DynamicNtk {
        /// Stretch of the context.
        factor: f32,
        /// Tokens of context before stretching.
        original_max_position_embeddings: u32,
        /// Tokens in use; at most the original context means no change.
        current_len: u32,
    },
    /// A divisor for each frequency, as GGUF's `rope_freqs.weight` has them.
    Divisors(Vec<f32>),
}

/// Where the two numbers of a pair lie in a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// (2i, 2i+1): Meta's checkpoints and GGUF.
    Interleaved,
    /// (i, i + K/2): Hugging Face.
    HalfSplit,
}

/// Radians per position of each pair, and the factor of cosines and sines (1 except for YaRN).
///
/// Shape: `[K/2]`. Computed in f32 in the order of Hugging Face transformers, since positions
/// multiply the last bit: at position 100,000 one ulp of a frequency near 1 is 0.006 radians.
/// Panics if `head_dim` is odd or 0, or divisors are not one a pair.
/// Source: transformers 5.23, `modeling_rope_utils.py`; arXiv 2407.21783 for Llama 3.1.
pub fn inverse_frequencies(head_dim: usize, theta: f32, scaling: &Scaling) -> (Vec<f32>, f32) {
    assert!(head_dim > 0 && head_dim.is_multiple_of(2), "rope: head width {head_dim} is not pairs");
    let plain = powers(head_dim, theta);
    let mut freqs = inverses(&plain);
    let mut attention_factor = 1.0;
    match *scaling {
        Scaling::None => {}
        Scaling::Linear { factor } => freqs.iter_mut().for_each(|f| *f /= factor),
        Scaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: length,
        } => {
            freqs.iter_mut().for_each(|f| *f = llama3(*f, factor, low, high, length as f32));
        }
        Scaling::Yarn {
            factor,
            original_max_position_embeddings,
            beta_fast,
            beta_slow,
            attention_factor: given,
            truncate,
        } => {
            let turns = |beta: f32| {
                let wave = f64::from(original_max_position_embeddings) / (f64::from(beta) * TAU);
                head_dim as f64 * wave.ln() / (2.0 * f64::from(theta).ln())
            };
            let (low, high) = (turns(beta_fast), turns(beta_slow));
            let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
            let (low, high) = (low.max(0.0), high.min(head_dim as f64 - 1.0));
            yarn(&mut freqs, &plain, factor, low, high);
            let default = if factor <= 1.0 { 1.0 } else { 0.1 * f64::from(factor).ln() + 1.0 };
            attention_factor = given.unwrap_or(default as f32);
        }
        Scaling::DynamicNtk { factor, original_max_position_embeddings, current_len } => {
            let (s, d) = (f64::from(factor), head_dim as f64);
            let length = f64::from(original_max_position_embeddings);
            let stretch = s * f64::from(current_len) / length - (s - 1.0);
            // Two numbers make one pair, whose frequency is 1 under any theta.
            if head_dim > 2 && current_len > original_max_position_embeddings {
                let theta = f64::from(theta) * stretch.powf(d / (d - 2.0));
                freqs = inverses(&powers(head_dim, theta as f32));
            }
        }
        Scaling::Divisors(ref divisors) => {
            assert_eq!(divisors.len(), freqs.len(), "rope: divisors and pairs differ in number");
            freqs.iter_mut().zip(divisors).for_each(|(f, divisor)| *f /= divisor);
        }
    }
    (freqs, attention_factor)
}

/// theta^(2i / K): positions per radian.
fn powers(head_dim: usize, theta: f32) -> Vec<f32> {
    let power = |i| f64::from(theta).powf(f64::from((2 * i) as f32 / head_dim as f32)) as f32;
    (0..head_dim / 2).map(power).collect()
}

fn llama3(f: f32, factor: f32, low: f32, high: f32, length: f32) -> f32 {
    let wave = TAU as f32 / f;
    if wave > length / low {
        f / factor
    } else if wave < length / high {
        f
    } else {
        let smooth = (length / wave - low) / (high - low);
        (1.0 - smooth) * f / factor + smooth * f
    }
}

fn inverses(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| 1.0 / x).collect()
}

/// Blends from kept (pairs up to `low`) to divided (from `high` on).
fn yarn(freqs: &mut [f32], powers: &[f32], factor: f32, low: f64, high: f64) {
    let high = if low == high { high + 0.001 } else { high };
    for (i, (f, power)) in freqs.iter_mut().zip(powers).enumerate() {
        let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
        let kept = 1.0 - ramp;
        *f = 1.0 / (factor * power) * (1.0 - kept) + *f * kept;
    }
}

/// Cosines and sines of each position: a row is K/2 cosines, then K/2 sines.
///
/// Shapes: `table` is [P, K], `positions` is `[P]`, `freqs` is [K/2]. The angle is the f32 product
/// of position and frequency, as in transformers; its cosine is computed in f64 and rounded.
/// Panics if `table` is not one row a position. Positions from 2^24 on lose bits as f32.
pub fn cos_sin(table: &mut [f32], positions: &[u32], freqs: &[f32], attention_factor: f32) {
    let width = 2 * freqs.len();
    assert_eq!(table.len(), positions.len() * width, "rope: the table is not a row a position");
    for (row, position) in table.chunks_exact_mut(width.max(1)).zip(positions) {
        let (cos, sin) = row.split_at_mut(freqs.len());
        for ((cos, sin), f) in cos.iter_mut().zip(sin).zip(freqs) {
            let (s, c) = f64::from(*position as f32 * f).sin_cos();
            *cos = c as f32 * attention_factor;
            *sin = s as f32 * attention_factor;
        }
    }
}

/// Rotates each pair (a, b) of each head, in place, to (a cos - b sin, b cos + a sin).
///
/// Shapes: `x` is [T, H, K], `positions` is `[T]`; `table` is [P, K] of [`cos_sin`], and token t
/// takes its row `positions[t]` (for a table with a row for each token: 0, 1, 2, ...).
/// Panics if lengths do not agree or a position lies outside the table.
/// Source: arXiv 2104.09864.
pub fn rope(
    class: Class,
    x: &mut [f32],
    positions: &[u32],
    table: &[f32],
    heads: usize,
    head_dim: usize,
    layout: Layout,
) {
    rotate(class, x, positions, table, heads, head_dim, layout, 1.0);
}

/// The gradient of [`rope`]: rotates `dx` back, to (a cos + b sin, b cos - a sin).
pub fn rope_backward(
    class: Class,
    dx: &mut [f32],
    positions: &[u32],
    table: &[f32],
    heads: usize,
    head_dim: usize,
    layout: Layout,
) {
    rotate(class, dx, positions, table, heads, head_dim, layout, -1.0);
}

fn rotate(
    class: Class,
    x: &mut [f32],
    positions: &[u32],
    table: &[f32],
    heads: usize,
    head_dim: usize,
    layout: Layout,
    sign: f32,
) {
    assert!(head_dim > 0 && head_dim.is_multiple_of(2), "rope: head width {head_dim} is not pairs");
    assert!(heads > 0, "rope: no heads");
    assert_eq!(x.len(), positions.len() * heads * head_dim, "rope: x is not [T, H, K]");
    assert_eq!(table.len() % head_dim, 0, "rope: the table is not whole rows");
    let rows = table.len() / head_dim;
    for position in positions {
        assert!((*position as usize) < rows, "rope: position {position} of a table of {rows}");
    }
    for_class!(class, rotate_body(
        x: &mut [f32],
        positions: &[u32],
        table: &[f32],
        heads: usize,
        head_dim: usize,
        layout: Layout,
        sign: f32,
    ));
}

/// Products are rounded before they are added in every class, as in the reference.
#[inline(always)]
fn rotate_body<const FMA: bool>(
    x: &mut [f32],
    positions: &[u32],
    table: &[f32],
    heads: usize,
    head_dim: usize,
    layout: Layout,
    sign: f32,
) {
    for (x_hk, position) in x.chunks_exact_mut(heads * head_dim).zip(positions) {
        let row = &table[*position as usize * head_dim..][..head_dim];
        let (cos, sin) = row.split_at(head_dim / 2);
        for x_k in x_hk.chunks_exact_mut(head_dim) {
            match layout {
                Layout::Interleaved => {
                    for (([a, b], cos), sin) in x_k.as_chunks_mut().0.iter_mut().zip(cos).zip(sin) {
                        (*a, *b) = turn(*a, *b, *cos, sign * sin);
                    }
                }
                Layout::HalfSplit => {
                    let (a, b) = x_k.split_at_mut(head_dim / 2);
                    for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                        (*a, *b) = turn(*a, *b, *cos, sign * sin);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn turn(a: f32, b: f32, cos: f32, sin: f32) -> (f32, f32) {
    (a * cos - b * sin, b * cos + a * sin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive;
    use crate::sample::Sample;

    #[test]
    fn rope_agrees_with_naive_in_every_class_and_layout() {
        let mut sample = Sample::new(5);
        for (tokens, heads, head_dim) in [(0, 1, 2), (1, 1, 2), (3, 2, 6), (17, 3, 64), (5, 1, 74)]
        {
            let (freqs, _) = inverse_frequencies(head_dim, 10_000.0, &Scaling::None);
            let all: Vec<u32> = (0..40).collect();
            let mut table = vec![0.0; all.len() * head_dim];
            cos_sin(&mut table, &all, &freqs, 1.0);
            let positions: Vec<u32> = (0..tokens as u32).map(|t| (t * 7 + 3) % 40).collect();
            let x = sample.normals(tokens * heads * head_dim);
            for layout in [Layout::Interleaved, Layout::HalfSplit] {
                let mut want = x.clone();
                naive::rope(&mut want, &positions, &table, heads, head_dim, layout);
                for class in Class::available() {
                    let mut got = x.clone();
                    rope(class, &mut got, &positions, &table, heads, head_dim, layout);
                    for (got, want) in got.iter().zip(&want) {
                        // Each of the three roundings is of a number at most |a| + |b| < 10.
                        assert!((got - want).abs() <= 10.0 * f32::EPSILON, "{class} {layout:?}");
                    }
                    rope_backward(class, &mut got, &positions, &table, heads, head_dim, layout);
                    for (got, x) in got.iter().zip(&x) {
                        assert!((got - x).abs() <= 20.0 * f32::EPSILON, "{class} {layout:?} back");
                    }
                }
            }
        }
    }

    #[test]
    fn the_gradient_agrees_with_naive_and_is_the_transposed_rotation() {
        let (heads, head_dim) = (3, 10);
        let mut sample = Sample::new(6);
        let (freqs, _) = inverse_frequencies(head_dim, 100.0, &Scaling::None);
        let mut table = vec![0.0; 4 * head_dim];
        cos_sin(&mut table, &[0, 1, 5, 9], &freqs, 1.0);
        let positions = [3, 1, 2];
        let n = positions.len() * heads * head_dim;
        let (x, dy) = (sample.normals(n), sample.normals(n));
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        for layout in [Layout::Interleaved, Layout::HalfSplit] {
            let mut want = dy.clone();
            naive::rope_backward(&mut want, &positions, &table, heads, head_dim, layout);
            for class in Class::available() {
                let (mut y, mut dx) = (x.clone(), dy.clone());
                rope(class, &mut y, &positions, &table, heads, head_dim, layout);
                rope_backward(class, &mut dx, &positions, &table, heads, head_dim, layout);
                for (got, want) in dx.iter().zip(&want) {
                    assert!((got - want).abs() <= 10.0 * f32::EPSILON, "{class} {layout:?}");
                }
                // A linear map has its transpose for gradient: dy . R x = R' dy . x.
                assert!((dot(&dy, &y) - dot(&dx, &x)).abs() < 1e-4, "{class} {layout:?}");
                // A mutant: the rotation itself is no gradient of it.
                let mut forward = dy.clone();
                rope(class, &mut forward, &positions, &table, heads, head_dim, layout);
                assert!((dot(&dy, &y) - dot(&forward, &x)).abs() > 1e-2, "{class} {layout:?}");
            }
        }
    }

    #[test]
    fn llama31_keeps_29_frequencies_blends_6_and_divides_29() {
        let scaling = Scaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let (plain, _) = inverse_frequencies(128, 500_000.0, &Scaling::None);
        let (scaled, _) = inverse_frequencies(128, 500_000.0, &scaling);
        let kept = plain.iter().zip(&scaled).filter(|(p, s)| p == s).count();
        let divided = plain.iter().zip(&scaled).filter(|(p, s)| **p / 8.0 == **s).count();
        assert_eq!((kept, divided), (29, 29));
        // GGUF stores the same scaling as divisors.
        let divisors = plain.iter().zip(&scaled).map(|(p, s)| p / s).collect();
        let (from_divisors, _) = inverse_frequencies(128, 500_000.0, &Scaling::Divisors(divisors));
        for (a, b) in from_divisors.iter().zip(&scaled) {
            assert!((a - b).abs() <= b * f32::EPSILON);
        }
    }

    #[test]
    fn dynamic_ntk_within_the_original_context_changes_nothing() {
        let dynamic = |current_len| Scaling::DynamicNtk {
            factor: 2.0,
            original_max_position_embeddings: 2048,
            current_len,
        };
        let (plain, _) = inverse_frequencies(64, 1e4, &Scaling::None);
        assert_eq!(inverse_frequencies(64, 1e4, &dynamic(100)).0, plain);
        assert!(inverse_frequencies(64, 1e4, &dynamic(4096)).0[31] < plain[31]);
        assert_eq!(inverse_frequencies(2, 1e4, &dynamic(4096)).0, [1.0]);
    }

    #[test]
    #[should_panic(expected = "position 4 of a table of 4")]
    fn a_position_outside_the_table_is_refused() {
        rope(Class::Portable, &mut [0.0; 2], &[4], &[0.0; 8], 1, 2, Layout::HalfSplit);
    }
}
