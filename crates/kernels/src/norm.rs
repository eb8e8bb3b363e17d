//! Norms of rows: root-mean-square norm and layer norm.

use crate::class::Class;
use crate::cpu::{Cpu, Parts, floats, for_rows};
use crate::dispatch::for_class;
use crate::math::{LANES, join_lanes, mul_add, sum_by};
use std::ops::Range;

/// Root-mean-square norm of each row: y = x / sqrt(mean(x^2) + eps) * w.
///
/// Shapes: `y` and `x` are [T, D] row by row, `w` is `[D]`. A row's bits depend on that row alone.
/// Panics if `w` is empty, `x` is not whole rows, or `y` differs in length from `x`.
/// Source: arXiv 1910.07467; `eps` is inside the root, as in the Llama reference.
///
/// ```
/// use herd_kernels::{Class, norm::rms_norm};
/// let mut y = [0.0; 2];
/// rms_norm(Class::best(), &mut y, &[3.0, 4.0], &[1.0, 1.0], 0.0);
/// assert!((y[0] - 0.8485).abs() < 1e-4 && (y[1] - 1.1314).abs() < 1e-4);
/// ```
pub fn rms_norm(class: Class, y: &mut [f32], x: &[f32], w: &[f32], eps: f32) {
    check_rows("rms_norm", y, x, w);
    for_class!(class, rms_norm_body(y: &mut [f32], x: &[f32], w: &[f32], eps: f32));
}

#[inline(always)]
fn rms_norm_body<const FMA: bool>(y: &mut [f32], x: &[f32], w: &[f32], eps: f32) {
    for (y, x) in y.chunks_exact_mut(w.len()).zip(x.chunks_exact(w.len())) {
        let mean_square = sum_by(x, |sum, x| mul_add::<FMA>(x, x, sum)) / w.len() as f32;
        let scale = 1.0 / (mean_square + eps).sqrt();
        for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
            *y = x * scale * w;
        }
    }
}

/// Layer norm of each row: y = (x - mean(x)) / sqrt(variance(x) + eps) * w + b.
///
/// Shapes: `y` and `x` are [T, D] row by row, `w` and `b` are `[D]`. The variance is the mean of
/// (x - mean)^2, summed in a second walk over the row: no cancellation when the mean is large.
/// Panics if `w` is empty, `x` is not whole rows, or lengths differ. Source: arXiv 1607.06450.
pub fn layer_norm(class: Class, y: &mut [f32], x: &[f32], w: &[f32], b: &[f32], eps: f32) {
    check_rows("layer_norm", y, x, w);
    assert_eq!(b.len(), w.len(), "layer_norm: b and w differ in length");
    for_class!(class, layer_norm_body(y: &mut [f32], x: &[f32], w: &[f32], b: &[f32], eps: f32));
}

#[inline(always)]
fn layer_norm_body<const FMA: bool>(y: &mut [f32], x: &[f32], w: &[f32], b: &[f32], eps: f32) {
    for (y, x) in y.chunks_exact_mut(w.len()).zip(x.chunks_exact(w.len())) {
        let mean = sum_by(x, |sum, x| sum + x) / w.len() as f32;
        let square = |sum, x: f32| mul_add::<FMA>(x - mean, x - mean, sum);
        let variance = sum_by(x, square) / w.len() as f32;
        let scale = 1.0 / (variance + eps).sqrt();
        for (((y, x), w), b) in y.iter_mut().zip(x).zip(w).zip(b) {
            *y = mul_add::<FMA>((x - mean) * scale, *w, *b);
        }
    }
}

/// The gradient of [`rms_norm`]: with s = 1 / sqrt(mean(x^2) + eps) and g = dy w,
/// dx = s (g - x s^2 mean(g x)), and dw gains the sum over rows of dy x s.
///
/// Shapes: `dx`, `dy`, `x` are [T, D]; `dw`, `w` are `[D]`. `dx` is written, `dw` is added to. `blocks` are ranges
/// of rows: each block's sum begins at zero, takes its rows in order and is then added to `dw`. So
/// a batch cut at the borders of blocks gives the same bits. Panics if sizes disagree or blocks do
/// not follow each other from row 0 to row T.
pub fn rms_norm_backward(
    cpu: &Cpu,
    dx: &mut [f32],
    dw: &mut [f32],
    dy: &[f32],
    x: &[f32],
    w: &[f32],
    eps: f32,
    blocks: &[Range<usize>],
) {
    check_rows("rms_norm_backward", dx, x, w);
    check_blocks("rms_norm_backward", blocks, x.len() / w.len());
    assert_eq!(dy.len(), x.len(), "rms_norm_backward: dy and x differ in length");
    assert_eq!(dw.len(), w.len(), "rms_norm_backward: dw and w differ in length");
    let (width, class) = (w.len(), cpu.lanes());
    let mut scratch = cpu.scratch();
    let scales = floats(&mut scratch, x.len() / width);
    let scale_parts = Parts::new(scales);
    for_rows(cpu, dx, width, |t, dx| {
        let row = t * width..(t + 1) * width;
        // SAFETY: row t is given to one task, and so is its scale.
        let scale = unsafe { &mut scale_parts.part(t, 1)[0] };
        *scale = rms_row(class, dx, &dy[row.clone()], &x[row], w, eps);
    });
    let sums = Parts::new(dw);
    cpu.pool.run_ranges(width, LANES, |from, to| {
        // SAFETY: each column is given to one task.
        let dw = unsafe { sums.part(from, to - from) };
        rms_columns(class, dw, from, dy, x, scales, blocks);
    });
}

/// One row of dx; returns the row's scale.
fn rms_row(class: Class, dx: &mut [f32], dy: &[f32], x: &[f32], w: &[f32], eps: f32) -> f32 {
    for_class!(class, rms_row_body(
        dx: &mut [f32],
        dy: &[f32],
        x: &[f32],
        w: &[f32],
        eps: f32,
    ) -> f32)
}

#[inline(always)]
fn rms_row_body<const FMA: bool>(
    dx: &mut [f32],
    dy: &[f32],
    x: &[f32],
    w: &[f32],
    eps: f32,
) -> f32 {
    let width = w.len() as f32;
    let mean_square = sum_by(x, |sum, x| mul_add::<FMA>(x, x, sum)) / width;
    let scale = 1.0 / (mean_square + eps).sqrt();
    for ((dx, dy), w) in dx.iter_mut().zip(dy).zip(w) {
        *dx = dy * w;
    }
    let along = dot::<FMA>(dx, x) / width * scale * scale;
    for (dx, x) in dx.iter_mut().zip(x) {
        *dx = scale * mul_add::<FMA>(-along, *x, *dx);
    }
    scale
}

/// Columns of dw, from column `from` on.
fn rms_columns(
    class: Class,
    dw: &mut [f32],
    from: usize,
    dy: &[f32],
    x: &[f32],
    scales: &[f32],
    blocks: &[Range<usize>],
) {
    for_class!(class, rms_columns_body(
        dw: &mut [f32],
        from: usize,
        dy: &[f32],
        x: &[f32],
        scales: &[f32],
        blocks: &[Range<usize>],
    ));
}

#[inline(always)]
fn rms_columns_body<const FMA: bool>(
    dw: &mut [f32],
    from: usize,
    dy: &[f32],
    x: &[f32],
    scales: &[f32],
    blocks: &[Range<usize>],
) {
    for_strips(dw, blocks, |sums, strip, t| {
        let at = t * (x.len() / scales.len()) + from + strip;
        let (dy, x) = (&dy[at..][..sums.len()], &x[at..][..sums.len()]);
        for ((sum, dy), x) in sums.iter_mut().zip(dy).zip(x) {
            *sum = mul_add::<FMA>(*dy, x * scales[t], *sum);
        }
    });
}

/// Sums over tokens, a strip of columns at a time: each block begins at zero, gets `add(sums, strip, t)`
/// for its tokens in order, and is added to `total`.
#[inline(always)]
fn for_strips(total: &mut [f32], blocks: &[Range<usize>], add: impl Fn(&mut [f32], usize, usize)) {
    let (strips, tail) = total.as_chunks_mut::<LANES>();
    let whole = strips.len() * LANES;
    for (i, total) in strips.iter_mut().enumerate() {
        for block in blocks {
            let mut sums = [0.0; LANES];
            block.clone().for_each(|t| add(&mut sums, i * LANES, t));
            total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
        }
    }
    for block in blocks {
        let mut sums = [0.0; LANES];
        block.clone().for_each(|t| add(&mut sums[..tail.len()], whole, t));
        tail.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
    }
}

/// Sum of a_i b_i, in lanes.
#[inline(always)]
fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let ((a_blocks, a_tail), (b_blocks, b_tail)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for j in 0..LANES {
            lanes[j] = mul_add::<FMA>(a[j], b[j], lanes[j]);
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(a_tail).zip(b_tail) {
        *lane = mul_add::<FMA>(*a, *b, *lane);
    }
    join_lanes(lanes, |a, b| a + b)
}

/// The gradient of [`layer_norm`]: with s = 1 / sqrt(variance(x) + eps), n = (x - mean x) s and g = dy w,
/// dx = s (g - mean g - n mean(g n)); dw gains the sum of dy n, and db that of dy.
///
/// Shapes, blocks and panics as [`rms_norm_backward`].
pub fn layer_norm_backward(
    cpu: &Cpu,
    dx: &mut [f32],
    dw: &mut [f32],
    db: &mut [f32],
    dy: &[f32],
    x: &[f32],
    w: &[f32],
    eps: f32,
    blocks: &[Range<usize>],
) {
    check_rows("layer_norm_backward", dx, x, w);
    check_blocks("layer_norm_backward", blocks, x.len() / w.len());
    assert_eq!(dy.len(), x.len(), "layer_norm_backward: dy and x differ in length");
    assert_eq!(dw.len(), w.len(), "layer_norm_backward: dw and w differ in length");
    assert_eq!(db.len(), w.len(), "layer_norm_backward: db and w differ in length");
    let (width, class) = (w.len(), cpu.lanes());
    let mut scratch = cpu.scratch();
    let stats = floats(&mut scratch, 2 * x.len() / width);
    let stat_parts = Parts::new(stats);
    for_rows(cpu, dx, width, |t, dx| {
        let row = t * width..(t + 1) * width;
        // SAFETY: row t is given to one task, and so are its mean and scale.
        let stat = unsafe { stat_parts.part(2 * t, 2) };
        stat.copy_from_slice(&layer_row(class, dx, &dy[row.clone()], &x[row], w, eps));
    });
    let (dw_sums, db_sums) = (Parts::new(dw), Parts::new(db));
    cpu.pool.run_ranges(width, LANES, |from, to| {
        // SAFETY: each column is given to one task.
        let (dw, db) = unsafe { (dw_sums.part(from, to - from), db_sums.part(from, to - from)) };
        layer_columns(class, dw, db, from, dy, x, stats, blocks);
    });
}

/// One row of dx; returns the row's mean and scale.
fn layer_row(class: Class, dx: &mut [f32], dy: &[f32], x: &[f32], w: &[f32], eps: f32) -> [f32; 2] {
    for_class!(class, layer_row_body(
        dx: &mut [f32],
        dy: &[f32],
        x: &[f32],
        w: &[f32],
        eps: f32,
    ) -> [f32; 2])
}

#[inline(always)]
fn layer_row_body<const FMA: bool>(
    dx: &mut [f32],
    dy: &[f32],
    x: &[f32],
    w: &[f32],
    eps: f32,
) -> [f32; 2] {
    let width = w.len() as f32;
    let mean = sum_by(x, |sum, x| sum + x) / width;
    let square = |sum, x: f32| mul_add::<FMA>(x - mean, x - mean, sum);
    let scale = 1.0 / (sum_by(x, square) / width + eps).sqrt();
    for ((dx, dy), w) in dx.iter_mut().zip(dy).zip(w) {
        *dx = dy * w;
    }
    let level = sum_by(dx, |sum, g| sum + g) / width;
    let products = |sum, (g, x): (f32, f32)| mul_add::<FMA>(g, x - mean, sum);
    let mut lanes = [0.0; LANES];
    for (g, x) in dx.chunks(LANES).zip(x.chunks(LANES)) {
        for ((lane, g), x) in lanes.iter_mut().zip(g).zip(x) {
            *lane = products(*lane, (*g, *x));
        }
    }
    let along = join_lanes(lanes, |a, b| a + b) / width * scale * scale;
    for (dx, x) in dx.iter_mut().zip(x) {
        *dx = scale * mul_add::<FMA>(-along, x - mean, *dx - level);
    }
    [mean, scale]
}

/// Columns of dw and db, from column `from` on.
fn layer_columns(
    class: Class,
    dw: &mut [f32],
    db: &mut [f32],
    from: usize,
    dy: &[f32],
    x: &[f32],
    stats: &[f32],
    blocks: &[Range<usize>],
) {
    for_class!(class, layer_columns_body(
        dw: &mut [f32],
        db: &mut [f32],
        from: usize,
        dy: &[f32],
        x: &[f32],
        stats: &[f32],
        blocks: &[Range<usize>],
    ));
}

#[inline(always)]
fn layer_columns_body<const FMA: bool>(
    dw: &mut [f32],
    db: &mut [f32],
    from: usize,
    dy: &[f32],
    x: &[f32],
    stats: &[f32],
    blocks: &[Range<usize>],
) {
    let width = 2 * x.len() / stats.len().max(1);
    for_strips(dw, blocks, |sums, strip, t| {
        let (at, mean, scale) = (t * width + from + strip, stats[2 * t], stats[2 * t + 1]);
        let (dy, x) = (&dy[at..][..sums.len()], &x[at..][..sums.len()]);
        for ((sum, dy), x) in sums.iter_mut().zip(dy).zip(x) {
            *sum = mul_add::<FMA>(*dy, (x - mean) * scale, *sum);
        }
    });
    for_strips(db, blocks, |sums, strip, t| {
        let dy = &dy[t * width + from + strip..][..sums.len()];
        sums.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
    });
}

fn check_blocks(name: &str, blocks: &[Range<usize>], rows: usize) {
    let mut end = 0;
    for block in blocks {
        let follows = block.start == end && block.end >= end;
        assert!(follows, "{name}: block {block:?} does not follow row {end}");
        end = block.end;
    }
    assert_eq!(end, rows, "{name}: blocks end at row {end} of {rows}");
}

fn check_rows(name: &str, y: &[f32], x: &[f32], w: &[f32]) {
    assert!(!w.is_empty(), "{name}: the weight is empty");
    assert_eq!(x.len() % w.len(), 0, "{name}: x is not whole rows");
    assert_eq!(y.len(), x.len(), "{name}: y and x differ in length");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::sum_roundings;
    use crate::naive;
    use crate::sample::{ROWS, Sample, WIDTHS};

    const EPS: f64 = f32::EPSILON as f64;

    #[test]
    fn rms_norm_agrees_with_naive_in_every_class() {
        let mut sample = Sample::new(1);
        for (width, rows) in WIDTHS.into_iter().flat_map(|w| ROWS.map(|r| (w, r))) {
            let (x, w) = (sample.normals(rows * width), sample.normals(width));
            let (mut got, mut want) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            naive::rms_norm(&mut want, &x, &w, 1e-5);
            for class in Class::available() {
                rms_norm(class, &mut got, &x, &w, 1e-5);
                for (got, want) in got.iter().zip(&want) {
                    // The root halves the sum's error; eight more roundings make the result.
                    let tolerance =
                        EPS * f64::from(want.abs()) * (sum_roundings(width) / 2.0 + 8.0);
                    let off = f64::from(got - want).abs();
                    assert!(off <= tolerance, "{class} [{rows}, {width}]: {got} for {want}");
                }
            }
        }
    }

    #[test]
    fn layer_norm_agrees_with_naive_in_every_class() {
        let mut sample = Sample::new(2);
        for (width, rows) in WIDTHS.into_iter().flat_map(|w| ROWS.map(|r| (w, r))) {
            let x: Vec<f32> = sample.normals(rows * width).iter().map(|x| x + 3.0).collect();
            let (w, b) = (sample.normals(width), sample.normals(width));
            let (mut got, mut want) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            naive::layer_norm(&mut want, &x, &w, &b, 1e-2);
            for class in Class::available() {
                layer_norm(class, &mut got, &x, &w, &b, 1e-2);
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    // |x| < 9, and 1 / root < 10: the mean's error is multiplied by both and w.
                    let scale = 90.0 * f64::from(w[i % width].abs()) + f64::from(want.abs());
                    let tolerance = EPS * scale * (sum_roundings(width) + 8.0);
                    let off = f64::from(got - want).abs();
                    assert!(off <= tolerance, "{class} [{rows}, {width}]: {got} for {want}");
                }
            }
        }
    }

    #[test]
    fn a_row_alone_has_the_bits_it_has_among_many() {
        let mut sample = Sample::new(3);
        for width in WIDTHS {
            let (x, w, b) = (sample.normals(17 * width), sample.normals(width), vec![0.5; width]);
            for class in Class::available() {
                let (mut many, mut alone) = (vec![0.0; x.len()], vec![0.0; width]);
                rms_norm(class, &mut many, &x, &w, 1e-5);
                rms_norm(class, &mut alone, &x[5 * width..][..width], &w, 1e-5);
                assert_eq!(many[5 * width..][..width], alone, "{class} rms_norm of {width}");
                layer_norm(class, &mut many, &x, &w, &b, 1e-5);
                layer_norm(class, &mut alone, &x[16 * width..], &w, &b, 1e-5);
                assert_eq!(many[16 * width..], alone, "{class} layer_norm of {width}");
            }
        }
    }

    /// Borders of blocks that cut `rows` rows unevenly.
    fn blocks_of(rows: usize) -> Vec<Range<usize>> {
        (0..rows).step_by(5).map(|from| from..(from + 5).min(rows)).collect()
    }

    type Grads = (Vec<f32>, Vec<f32>, Vec<f32>);

    /// A gradient of either norm, on any number of threads: dx, dw and db (0 for rms_norm).
    struct Backward {
        name: &'static str,
        fast: fn(&Cpu, &Case, &[Range<usize>]) -> Grads,
        naive: fn(&Case) -> Grads,
        /// The norm itself, in f64.
        forward: fn(&[f64], &[f64]) -> Vec<f64>,
    }

    struct Case {
        x: Vec<f32>,
        w: Vec<f32>,
        dy: Vec<f32>,
    }

    impl Case {
        fn new(seed: u64, rows: usize, width: usize) -> Case {
            let mut sample = Sample::new(seed);
            let mut of = |n: usize| sample.normals(n);
            Case { x: of(rows * width), w: of(width), dy: of(rows * width) }
        }

        /// Gradients before: dx is written, dw and db are added to.
        fn empty(&self) -> Grads {
            let width = self.w.len();
            (vec![f32::NAN; self.x.len()], vec![0.5; width], vec![0.5; width])
        }
    }

    const EPSILON: f32 = 1e-2;

    const BACKWARDS: [Backward; 2] = [
        Backward {
            name: "rms_norm",
            fast: |cpu, c, blocks| {
                let (mut dx, mut dw, db) = c.empty();
                rms_norm_backward(cpu, &mut dx, &mut dw, &c.dy, &c.x, &c.w, EPSILON, blocks);
                (dx, dw, db)
            },
            naive: |c| {
                let (mut dx, mut dw, db) = c.empty();
                naive::rms_norm_backward(&mut dx, &mut dw, &c.dy, &c.x, &c.w, EPSILON);
                (dx, dw, db)
            },
            forward: |x, w| {
                let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
                let root = (mean + f64::from(EPSILON)).sqrt();
                x.iter().zip(w).map(|(x, w)| x / root * w).collect()
            },
        },
        Backward {
            name: "layer_norm",
            fast: |cpu, c, blocks| {
                let (mut dx, mut dw, mut db) = c.empty();
                let (dy, x, w) = (&c.dy, &c.x, &c.w);
                layer_norm_backward(cpu, &mut dx, &mut dw, &mut db, dy, x, w, EPSILON, blocks);
                (dx, dw, db)
            },
            naive: |c| {
                let (mut dx, mut dw, mut db) = c.empty();
                let (dy, x, w) = (&c.dy, &c.x, &c.w);
                naive::layer_norm_backward(&mut dx, &mut dw, &mut db, dy, x, w, EPSILON);
                (dx, dw, db)
            },
            forward: |x, w| {
                let n = x.len() as f64;
                let mean = x.iter().sum::<f64>() / n;
                let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
                let root = (variance + f64::from(EPSILON)).sqrt();
                x.iter().zip(w).map(|(x, w)| (x - mean) / root * w).collect()
            },
        },
    ];

    #[test]
    fn gradients_agree_with_naive_in_every_class() {
        for (width, rows) in WIDTHS.into_iter().flat_map(|w| ROWS.map(|r| (w, r))) {
            let case = Case::new(width as u64, rows, width);
            for b in BACKWARDS {
                let want = (b.naive)(&case);
                for class in Class::available() {
                    let got = (b.fast)(&Cpu::new(class, 2), &case, &blocks_of(rows));
                    let close = |name: &str, got: &[f32], want: &[f32], scale: f64| {
                        for (got, want) in got.iter().zip(want) {
                            let off = f64::from(got - want).abs();
                            let tolerance = EPS * scale * (sum_roundings(width) + 16.0);
                            let at = format!("{class} {} {name} [{rows}, {width}]", b.name);
                            assert!(off <= tolerance, "{at}: {got}, not {want}");
                        }
                    };
                    // |x|, |dy|, |w| < 5, and 1 / root <= 10 where a row is nearly constant.
                    close("dx", &got.0, &want.0, 10.0 * 125.0);
                    close("dw", &got.1, &want.1, 50.0 * (rows as f64 + 1.0));
                    close("db", &got.2, &want.2, 5.0 * (rows as f64 + 1.0));
                }
            }
        }
    }

    #[test]
    fn gradients_are_the_slopes_of_the_norms_and_mutants_are_not() {
        let (rows, width) = (3, 7);
        let case = Case::new(9, rows, width);
        for b in BACKWARDS {
            let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
            let loss = |x: &[f64], w: &[f64]| {
                let y = x.chunks(width).flat_map(|x| (b.forward)(x, w));
                y.zip(&case.dy).map(|(y, dy)| y * f64::from(*dy)).sum::<f64>()
            };
            let slopes = |which: usize| -> Vec<f64> {
                let mut inputs = [wide(&case.x), wide(&case.w)];
                (0..inputs[which].len())
                    .map(|i| {
                        let from = inputs[which][i];
                        let [above, below] = [1e-5, -1e-5].map(|step| {
                            inputs[which][i] = from + step;
                            loss(&inputs[0], &inputs[1])
                        });
                        inputs[which][i] = from;
                        (above - below) / 2e-5
                    })
                    .collect()
            };
            let (dx, mut dw) = (slopes(0), slopes(1));
            dw.iter_mut().for_each(|dw| *dw += 0.5); // what stood there before
            let near = |got: &[f32], want: &[f64]| {
                got.iter().zip(want).all(|(got, want)| (f64::from(*got) - want).abs() < 2e-5)
            };
            for class in Class::available() {
                let cpu = Cpu::new(class, 1);
                let got = (b.fast)(&cpu, &case, &blocks_of(rows));
                assert!(near(&got.0, &dx) && near(&got.1, &dw), "{class} {}", b.name);
                let negative: Vec<f32> = got.0.iter().map(|dx| -dx).collect();
                assert!(!near(&negative, &dx), "the sign of dx");
                let mut stale = Case { x: case.x.clone(), w: case.w.clone(), dy: case.dy.clone() };
                stale.x.rotate_left(width);
                let stale = (b.fast)(&cpu, &stale, &blocks_of(rows));
                assert!(!near(&stale.0, &dx) && !near(&stale.1, &dw), "the row before");
                let anew: Vec<f32> = got.1.iter().map(|dw| dw - 0.5).collect();
                assert!(!near(&anew, &dw), "dw written over");
            }
        }
    }

    #[test]
    fn micro_batches_and_threads_change_no_bit_of_a_gradient() {
        let (rows, width) = (23, 149);
        let case = Case::new(4, rows, width);
        for class in Class::available() {
            for b in BACKWARDS {
                let whole = (b.fast)(&Cpu::new(class, 1), &case, &blocks_of(rows));
                assert_eq!((b.fast)(&Cpu::new(class, 3), &case, &blocks_of(rows)), whole);
                // Ten rows, then thirteen, with dw and db carried on.
                let cpu = Cpu::new(class, 2);
                let (mut dx, mut dw, mut db) = case.empty();
                for part in [0..10, 10..23] {
                    let blocks = blocks_of(part.len());
                    let part = part.start * width..part.end * width;
                    let (dx, dy, x) =
                        (&mut dx[part.clone()], &case.dy[part.clone()], &case.x[part]);
                    let (dw, w) = (&mut dw, &case.w);
                    match b.name {
                        "rms_norm" => rms_norm_backward(&cpu, dx, dw, dy, x, w, EPSILON, &blocks),
                        _ => layer_norm_backward(&cpu, dx, dw, &mut db, dy, x, w, EPSILON, &blocks),
                    }
                }
                assert_eq!((dx, dw, db), whole, "{class} {}", b.name);
                // A mutant: blocks at other places are another sum.
                let other = [0..7, 7..rows];
                assert_ne!((b.fast)(&cpu, &case, &other).1, whole.1, "{class} {}", b.name);
            }
        }
    }

    #[test]
    #[should_panic(expected = "block 3..5 does not follow row 2")]
    fn blocks_that_leave_rows_out_are_refused() {
        let case = Case::new(1, 5, 4);
        (BACKWARDS[0].fast)(&Cpu::new(Class::Portable, 1), &case, &[0..2, 3..5]);
    }
}
