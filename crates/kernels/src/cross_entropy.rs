//! Cross-entropy of rows of logits, and its gradient written over them.
//!
//! ```text
//! loss = sum_t weight_t (lse_t - logit_t[target_t] + z lse_t^2), lse_t = ln sum_v e^logit_tv
//! ```
//!
//! The caller brings a chunk of rows at a time, so that the logits of all tokens never exist at once.
//! Letters: T tokens, V vocabulary.

use crate::cpu::{Cpu, Parts, floats, for_rows};
use crate::dispatch::for_class;
use crate::math::{LANES, exp, join_lanes, ln, maximum};

/// What the rows should have said, and how much each counts.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    /// The token that follows each row, `[T]`.
    pub ids: &'a [u32],
    /// The weight of each row, `[T]`; 0 leaves a row out, whatever it holds.
    pub weights: &'a [f32],
    /// Factor of the gradient alone: 1 / the number of targets in the batch, or of all weights.
    pub scale: f32,
    /// Coefficient of lse^2, which keeps logits from drifting; 0 for none.
    pub z_loss: f32,
}

/// Sums over rows, in their order, in f64.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// Weighted nats: the sum of weight (lse - logit of the target).
    pub nats: f64,
    /// The sum of weight z lse^2.
    pub z: f64,
}

/// Writes the nats of each row, and over the logits the gradient of the scaled loss.
///
/// Shapes: `nats` is `[T]` (lse - logit of the target, not weighted; 0 where the weight is 0), `logits`
/// is [T, `width`]; row t becomes weight_t scale (softmax (1 + 2 z lse) - onehot(target_t)).
/// A row with NaN in it gives NaN in both. A row's bits depend on that row alone.
/// Panics if `width` is 0, sizes disagree, or a target is not below `width`.
pub fn cross_entropy(
    cpu: &Cpu,
    nats: &mut [f32],
    logits: &mut [f32],
    width: usize,
    targets: &Targets<'_>,
) -> Loss {
    assert!(width > 0, "cross_entropy: rows have no width");
    assert_eq!(logits.len(), nats.len() * width, "cross_entropy: logits are not one row a target");
    assert_eq!(targets.ids.len(), nats.len(), "cross_entropy: ids and nats differ in length");
    assert_eq!(targets.weights.len(), nats.len(), "cross_entropy: not one weight a target");
    for (t, id) in targets.ids.iter().enumerate() {
        assert!(
            (*id as usize) < width,
            "cross_entropy: target {id} of row {t}, vocabulary {width}"
        );
    }
    let mut scratch = cpu.scratch();
    let log_sums = floats(&mut scratch, nats.len());
    let (nats_parts, log_parts) = (Parts::new(nats), Parts::new(log_sums));
    for_rows(cpu, logits, width, |t, row| {
        let (weight, class) = (targets.weights[t], cpu.lanes());
        let (loss, log_sum) = match weight {
            0.0 => {
                row.fill(0.0);
                (0.0, 0.0)
            }
            _ => row_gradient(
                class,
                row,
                targets.ids[t] as usize,
                weight * targets.scale,
                targets.z_loss,
            ),
        };
        // SAFETY: row t is given to one task, and so is its number here.
        unsafe {
            nats_parts.part(t, 1)[0] = loss;
            log_parts.part(t, 1)[0] = log_sum;
        }
    });
    let mut loss = Loss { nats: 0.0, z: 0.0 };
    for ((nats, log_sum), weight) in nats.iter().zip(log_sums).zip(targets.weights) {
        let weight = f64::from(*weight);
        loss.nats += weight * f64::from(*nats);
        loss.z += weight * f64::from(targets.z_loss) * f64::from(*log_sum).powi(2);
    }
    loss
}

/// Pieces of a row at most. Each has its own maximum, so that one walk finds maximum and sum, and
/// each exponential is computed once.
const PIECES: usize = 256;
/// Numbers of a piece at least: 4 KiB stay in the first cache between its maximum and its sum.
const PIECE: usize = 1024;

/// The gradient over a row of logits; returns its nats and the logarithm of its sum.
fn row_gradient(
    class: crate::Class,
    row: &mut [f32],
    target: usize,
    scale: f32,
    z_loss: f32,
) -> (f32, f32) {
    for_class!(class, row_body(row: &mut [f32], target: usize, scale: f32, z_loss: f32) -> (f32, f32))
}

#[inline(always)]
fn row_body<const FMA: bool>(
    row: &mut [f32],
    target: usize,
    scale: f32,
    z_loss: f32,
) -> (f32, f32) {
    let logit = row[target];
    let of = exponentials::<FMA>(row);
    let log_sum = f64::from(of.peak) + ln(of.sum);
    let slope = f64::from(scale) * (1.0 + 2.0 * f64::from(z_loss) * log_sum) / of.sum;
    scale_pieces(row, &of, slope);
    row[target] -= scale;
    ((log_sum - f64::from(logit)) as f32, log_sum as f32)
}

/// What became of a row of logits x: each piece holds e^(x - its own peak).
pub(crate) struct Exponentials {
    piece: usize,
    /// Of each piece e^(its peak - the greatest).
    shares: [f32; PIECES],
    /// The greatest peak.
    pub peak: f32,
    /// The sum of e^(x - the greatest peak).
    pub sum: f64,
}

/// Takes the exponentials of a row, in one walk.
#[inline(always)]
pub(crate) fn exponentials<const FMA: bool>(row: &mut [f32]) -> Exponentials {
    let piece = row.len().div_ceil(PIECES).next_multiple_of(LANES).max(PIECE);
    let (mut peaks, mut sums) = ([f32::NEG_INFINITY; PIECES], [0.0f32; PIECES]);
    for (i, part) in row.chunks_mut(piece).enumerate() {
        peaks[i] = maximum(part);
        // Infinity has nothing to subtract: its exponential makes the sum say so.
        sums[i] = exp_in_place::<FMA>(part, if peaks[i].is_finite() { peaks[i] } else { 0.0 });
    }
    let pieces = row.len().div_ceil(piece);
    let peak = maximum(&peaks[..pieces]);
    let mut sum = 0.0;
    for i in 0..pieces {
        peaks[i] = exp::<FMA>(peaks[i] - peak);
        sum += f64::from(peaks[i]) * f64::from(sums[i]);
    }
    Exponentials { piece, shares: peaks, peak, sum }
}

/// Turns the exponentials of a row into `slope` times e^(x - the greatest peak).
#[inline(always)]
pub(crate) fn scale_pieces(row: &mut [f32], of: &Exponentials, slope: f64) {
    for (i, part) in row.chunks_mut(of.piece).enumerate() {
        let factor = (slope * f64::from(of.shares[i])) as f32;
        for x in part {
            *x *= factor;
        }
    }
}

/// x becomes e^(x - shift); returns the sum, in lanes.
#[inline(always)]
fn exp_in_place<const FMA: bool>(x: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (blocks, tail) = x.as_chunks_mut::<LANES>();
    for x in blocks {
        for j in 0..LANES {
            x[j] = exp::<FMA>(x[j] - shift);
            lanes[j] += x[j];
        }
    }
    for (lane, x) in lanes.iter_mut().zip(tail) {
        *x = exp::<FMA>(*x - shift);
        *lane += *x;
    }
    join_lanes(lanes, |a, b| a + b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::sum_roundings;
    use crate::sample::Sample;
    use crate::{Class, naive};

    const SHAPES: [(usize, usize); 7] =
        [(1, 1), (3, 2), (2, 63), (17, 65), (3, 1009), (2, 4097), (1, 300_000)];

    struct Case {
        width: usize,
        logits: Vec<f32>,
        ids: Vec<u32>,
        weights: Vec<f32>,
    }

    impl Case {
        fn new(seed: u64, rows: usize, width: usize) -> Case {
            let mut sample = Sample::new(seed);
            let logits = sample.normals(rows * width).iter().map(|x| x * 5.0).collect();
            let ids = (0..rows).map(|_| (sample.bits() % width as u64) as u32).collect();
            let weights = (0..rows).map(|t| [1.0, 0.0, 0.5, 2.0][t % 4]).collect();
            Case { width, logits, ids, weights }
        }

        fn targets(&self, z_loss: f32) -> Targets<'_> {
            Targets { ids: &self.ids, weights: &self.weights, scale: 0.125, z_loss }
        }

        fn run(&self, cpu: &Cpu, z_loss: f32) -> (Loss, Vec<f32>, Vec<f32>) {
            let (mut nats, mut logits) = (vec![9.0; self.ids.len()], self.logits.clone());
            let targets = self.targets(z_loss);
            let loss = cross_entropy(cpu, &mut nats, &mut logits, self.width, &targets);
            (loss, nats, logits)
        }
    }

    #[test]
    fn loss_and_gradient_agree_with_their_definition_in_every_class() {
        for (rows, width) in SHAPES {
            for z_loss in [0.0, 0.01] {
                let case = Case::new(1, rows, width);
                let (mut nats, mut want) = (vec![9.0; rows], case.logits.clone());
                let loss = naive::cross_entropy(&mut nats, &mut want, width, &case.targets(z_loss));
                for class in Class::available() {
                    let (got, got_nats, grads) = case.run(&Cpu::new(class, 2), z_loss);
                    let ulps = f64::from(f32::EPSILON) * (sum_roundings(width) + 8.0);
                    for (got, want) in got_nats.iter().zip(&nats) {
                        // The logarithm is at most 30 + ln V; the sum's relative error adds to it.
                        let off = f64::from(got - want).abs();
                        assert!(
                            off <= ulps + 8.0 * f64::from(want.abs() * f32::EPSILON),
                            "{class}"
                        );
                    }
                    for (got, want) in grads.iter().zip(&want) {
                        // Scale and weight make 0.25 at most; x - peak is rounded at 60.
                        let tolerance = ulps * (f64::from(want.abs()) * 60.0 + 0.25);
                        let off = f64::from(got - want).abs();
                        assert!(off <= tolerance, "{class} {rows} x {width}: {got}, not {want}");
                    }
                    let off = (got.nats - loss.nats).abs() + (got.z - loss.z).abs();
                    assert!(off <= ulps * (loss.nats.abs() + loss.z.abs()), "{class} {width}");
                }
            }
        }
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        let case = Case::new(2, 4, 9);
        for class in Class::available() {
            let (_, _, grads) = case.run(&Cpu::new(class, 1), 0.02);
            for (i, grad) in grads.iter().enumerate() {
                let loss = |step: f64| {
                    let mut total = 0.0;
                    for (t, row) in case.logits.chunks(9).enumerate() {
                        let mut row: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
                        if t == i / 9 {
                            row[i % 9] += step;
                        }
                        let log_sum = row.iter().map(|x| x.exp()).sum::<f64>().ln();
                        let z = f64::from(0.02f32) * log_sum * log_sum;
                        let nats = log_sum - row[case.ids[t] as usize] + z;
                        total += 0.125 * f64::from(case.weights[t]) * nats;
                    }
                    total
                };
                let slope = (loss(1e-5) - loss(-1e-5)) / 2e-5;
                let off = (f64::from(*grad) - slope).abs();
                assert!(off <= 1e-6, "{class} {i}: {grad}, not {slope}");
            }
        }
    }

    #[test]
    fn chunks_and_threads_change_no_bit() {
        let case = Case::new(3, 17, 1009);
        for class in Class::available() {
            let (loss, nats, grads) = case.run(&Cpu::new(class, 1), 0.01);
            assert_eq!(case.run(&Cpu::new(class, 3), 0.01), (loss, nats.clone(), grads.clone()));
            let alone = Case {
                width: 1009,
                logits: case.logits[6 * 1009..7 * 1009].into(),
                ids: vec![case.ids[6]],
                weights: vec![case.weights[6]],
            };
            let (_, nat, grad) = alone.run(&Cpu::new(class, 2), 0.01);
            assert_eq!((nat[0], &grad[..]), (nats[6], &grads[6 * 1009..7 * 1009]));
        }
    }

    #[test]
    fn no_number_gives_none_and_a_row_without_weight_gives_nothing() {
        let inf = f32::INFINITY;
        for class in Class::available() {
            for bad in [f32::NAN, inf] {
                let mut logits = [0.0, bad, 1.0, 1.0, bad, 2.0, -inf, 0.0, -1000.0];
                let mut nats = [0.0; 3];
                let targets =
                    Targets { ids: &[0; 3], weights: &[1.0, 0.0, 1.0], scale: 1.0, z_loss: 0.0 };
                let cpu = Cpu::new(class, 1);
                let loss = cross_entropy(&cpu, &mut nats, &mut logits, 3, &targets);
                assert!(loss.nats.is_nan() && nats[0].is_nan() && logits[0].is_nan());
                assert_eq!(nats[1..], [0.0, inf], "{class}");
                assert_eq!(logits[3..], [0.0, 0.0, 0.0, -1.0, 1.0, 0.0], "{class}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "target 5 of row 1, vocabulary 5")]
    fn a_target_past_the_vocabulary_is_refused() {
        let targets = Targets { ids: &[4, 5], weights: &[1.0; 2], scale: 1.0, z_loss: 0.0 };
        cross_entropy(&Cpu::new(Class::Portable, 1), &mut [0.0; 2], &mut [0.0; 10], 5, &targets);
    }
}
