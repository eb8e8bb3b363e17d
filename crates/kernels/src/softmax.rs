//! Softmax of rows, its logarithm, and the logarithm of the sum that normalises it.

use crate::class::Class;
use crate::dispatch::for_class;
use crate::math::{LANES, exp, join_lanes, ln, maximum, sum_by};

/// Softmax of each row: y_i = e^(x_i - m) / sum_j e^(x_j - m), m = max x.
///
/// Shapes: `y` and `x` are [T, width]. A row of -infinity alone, or with NaN or +infinity in it,
/// gives NaN, as in PyTorch. Panics if `width` is 0, `x` is not whole rows, or lengths differ.
pub fn softmax(class: Class, y: &mut [f32], x: &[f32], width: usize) {
    check_rows("softmax", x, width);
    assert_eq!(y.len(), x.len(), "softmax: y and x differ in length");
    for_class!(class, softmax_body(y: &mut [f32], x: &[f32], width: usize));
}

#[inline(always)]
fn softmax_body<const FMA: bool>(y: &mut [f32], x: &[f32], width: usize) {
    for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
        let scale = 1.0 / exp_and_sum::<FMA>(y, x, maximum(x));
        for y in y {
            *y *= scale;
        }
    }
}

/// Writes y = e^(x - m) and returns its sum.
#[inline(always)]
fn exp_and_sum<const FMA: bool>(y: &mut [f32], x: &[f32], m: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (y_blocks, y_tail) = y.as_chunks_mut::<LANES>();
    let (x_blocks, x_tail) = x.as_chunks::<LANES>();
    for (y, x) in y_blocks.iter_mut().zip(x_blocks) {
        for j in 0..LANES {
            y[j] = exp::<FMA>(x[j] - m);
            lanes[j] += y[j];
        }
    }
    for ((lane, y), x) in lanes.iter_mut().zip(y_tail).zip(x_tail) {
        *y = exp::<FMA>(x - m);
        *lane += *y;
    }
    join_lanes(lanes, |a, b| a + b)
}

/// Logarithm of the softmax of each row: y_i = x_i - log_sum_exp(x).
///
/// Shapes and panics as [`softmax`].
pub fn log_softmax(class: Class, y: &mut [f32], x: &[f32], width: usize) {
    check_rows("log_softmax", x, width);
    assert_eq!(y.len(), x.len(), "log_softmax: y and x differ in length");
    for_class!(class, log_softmax_body(y: &mut [f32], x: &[f32], width: usize));
}

#[inline(always)]
fn log_softmax_body<const FMA: bool>(y: &mut [f32], x: &[f32], width: usize) {
    for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
        let (shift, log_sum) = shift_and_log_sum::<FMA>(x);
        for (y, x) in y.iter_mut().zip(x) {
            *y = (x - shift) - log_sum;
        }
    }
}

/// Log of the sum of exponentials of each row: out = m + ln sum_j e^(x_j - m), m = max x.
///
/// Shapes: `x` is [T, width], `out` is `[T]`. A row of -infinity gives -infinity.
/// Panics if `width` is 0, `x` is not whole rows, or `out` is not one number a row.
pub fn log_sum_exp(class: Class, out: &mut [f32], x: &[f32], width: usize) {
    check_rows("log_sum_exp", x, width);
    assert_eq!(out.len(), x.len() / width, "log_sum_exp: out is not one number a row");
    for_class!(class, log_sum_exp_body(out: &mut [f32], x: &[f32], width: usize));
}

#[inline(always)]
fn log_sum_exp_body<const FMA: bool>(out: &mut [f32], x: &[f32], width: usize) {
    for (out, x) in out.iter_mut().zip(x.chunks_exact(width)) {
        let (shift, log_sum) = shift_and_log_sum::<FMA>(x);
        *out = shift + log_sum;
    }
}

/// The row's maximum (0 if that is infinite), and ln sum e^(x - shift).
#[inline(always)]
fn shift_and_log_sum<const FMA: bool>(x: &[f32]) -> (f32, f32) {
    let m = maximum(x);
    let shift = if m.is_finite() { m } else { 0.0 };
    let sum = sum_by(x, |sum, x| sum + exp::<FMA>(x - shift));
    (shift, ln(f64::from(sum)) as f32)
}

fn check_rows(name: &str, x: &[f32], width: usize) {
    assert!(width > 0, "{name}: rows have no width");
    assert_eq!(x.len() % width, 0, "{name}: x is not whole rows");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::sum_roundings;
    use crate::naive;
    use crate::sample::{ROWS, Sample, WIDTHS};

    const EPS: f64 = f32::EPSILON as f64;

    #[test]
    fn rows_agree_with_naive_in_every_class() {
        let mut sample = Sample::new(1);
        for (width, rows) in WIDTHS.into_iter().flat_map(|w| ROWS.map(|r| (w, r))) {
            let x: Vec<f32> = sample.normals(rows * width).iter().map(|x| x * 5.0).collect();
            let (mut got, mut want) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            let (mut got_sum, mut want_sum) = (vec![0.0; rows], vec![0.0; rows]);
            for class in Class::available() {
                let close = |got: &[f32], want: &[f32], scale: fn(f64) -> f64, name: &str| {
                    for (got, want) in got.iter().zip(want) {
                        let off = f64::from(got - want).abs();
                        let tolerance =
                            EPS * scale(f64::from(*want)) * (sum_roundings(width) + 8.0);
                        assert!(off <= tolerance, "{class} {name} {width}: {got} for {want}");
                    }
                };
                softmax(class, &mut got, &x, width);
                naive::softmax(&mut want, &x, width);
                // x - m has an error of 30 ulp at most, as |x| < 30 and |x - m| < 60.
                close(&got, &want, |y| 8.0 * y, "softmax");
                log_softmax(class, &mut got, &x, width);
                naive::log_softmax(&mut want, &x, width);
                close(&got, &want, |y| 8.0 + y.abs(), "log_softmax");
                log_sum_exp(class, &mut got_sum, &x, width);
                naive::log_sum_exp(&mut want_sum, &x, width);
                close(&got_sum, &want_sum, |y| 8.0 + y.abs(), "log_sum_exp");
            }
        }
    }

    #[test]
    fn a_row_alone_has_the_bits_it_has_among_many() {
        let mut sample = Sample::new(3);
        for width in WIDTHS {
            let x = sample.normals(17 * width);
            let row = &x[5 * width..][..width];
            for class in Class::available() {
                for f in [softmax, log_softmax] {
                    let (mut many, mut alone) = (vec![0.0; x.len()], vec![0.0; width]);
                    f(class, &mut many, &x, width);
                    f(class, &mut alone, row, width);
                    assert_eq!(many[5 * width..][..width], alone, "{class}, {width}");
                }
                let (mut many, mut alone) = ([0.0; 17], [0.0; 1]);
                log_sum_exp(class, &mut many, &x, width);
                log_sum_exp(class, &mut alone, row, width);
                assert_eq!(many[5], alone[0], "{class}, {width}");
            }
        }
    }

    #[test]
    fn infinities_and_nan_give_what_the_docs_say() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        for class in Class::available() {
            let mut y = [0.0; 3];
            softmax(class, &mut y, &[0.0, -inf, 0.0], 3);
            assert_eq!(y, [0.5, 0.0, 0.5]);
            log_softmax(class, &mut y, &[-inf, 2.0, -inf], 3);
            assert_eq!(y, [-inf, 0.0, -inf]);
            for row in [[-inf; 3], [0.0, inf, 1.0], [1.0, nan, 2.0]] {
                softmax(class, &mut y, &row, 3);
                assert!(y.iter().any(|y| y.is_nan()), "{class} {row:?}: {y:?}");
            }
            let mut out = [0.0; 3];
            log_sum_exp(class, &mut out, &[-inf, -inf, 1.0, inf, nan, 0.0], 2);
            assert!(out[0] == -inf && out[1] == inf && out[2].is_nan());
            softmax(class, &mut y, &[1e30, -1e30, f32::MAX], 3);
            assert_eq!(y, [0.0, 0.0, 1.0]);
        }
    }
}
