//! The search for scales, minima and codes that lose least, for formats whose encoding is free.
//!
//! What is minimised is the weighted square error, sum of w * (x - y)^2, with w = rms + |x|: large
//! weights of a network matter more, but not as their square. A sub-block's scale is found by
//! trying steps around the one that spans it, each followed by least squares for the codes that
//! it gives. Its result then goes into the few bits of the block, and the block as a whole is
//! improved in turns: better integers next to the present ones, then least squares for the
//! block's own factors. Each turn is kept only if the error falls.
//!
//! Sums run in eight lanes in a fixed order: the same input always gives the same bytes.

use half::f16;

/// A 256-block of the formats with minima: weight = d * scale * code - dmin * min.
pub(super) struct Affine<const S: usize> {
    /// d as f16.
    pub d: [u8; 2],
    /// dmin as f16.
    pub dmin: [u8; 2],
    /// One integer for each sub-block.
    pub scales: [u8; S],
    /// One integer for each sub-block.
    pub mins: [u8; S],
    /// 0..=top.
    pub codes: [u8; 256],
}

/// A 256-block of the formats without minima: weight = d * scale * code.
pub(super) struct Linear<const S: usize> {
    /// d as f16.
    pub d: [u8; 2],
    /// One integer for each sub-block.
    pub scales: [i8; S],
    /// Within the format's range.
    pub codes: [i8; 256],
}

/// Turns of the improvement of a whole block; hardly any block gains from more.
const TURNS: usize = 4;

/// Beyond what any format of this file can hold (f16's largest times 128 times 32), and small
/// enough that no sum below overflows.
const TOO_LARGE: f32 = 1e9;

/// The numbers of a sub-block, each with its weight in the error.
struct Weighted<'a, const N: usize> {
    x: &'a [f32; N],
    w: [f32; N],
}

impl<'a, const N: usize> Weighted<'a, N> {
    #[inline(always)]
    fn new(x: &'a [f32; N]) -> Self {
        let rms = (sum::<N>(|i| x[i] * x[i]) / N as f32).sqrt();
        Weighted { x, w: x.map(|x| rms + x.abs()) }
    }

    /// Sum over i of w * (x - y(i))^2.
    #[inline(always)]
    fn error(&self, y: impl Fn(usize) -> f32) -> f32 {
        sum::<N>(|i| self.w[i] * (self.x[i] - y(i)) * (self.x[i] - y(i)))
    }

    /// The nearest codes in `0..=top` when weights are scale * code - min.
    #[inline(always)]
    fn line_codes(&self, scale: f32, min: f32, top: f32) -> [f32; N] {
        let inverse = inverse(scale);
        self.x.map(|x| round(clamp((x + min) * inverse, 0.0, top)))
    }

    /// The error with the nearest codes.
    #[inline(always)]
    fn line_error(&self, scale: f32, min: f32, top: f32) -> f32 {
        let q = self.line_codes(scale, min, top);
        self.error(|i| scale * q[i] - min)
    }

    /// The scale and min that lose least for these codes, with min >= 0.
    #[inline(always)]
    fn line_through(&self, q: &[f32; N]) -> (f32, f32) {
        let Weighted { x, w } = self;
        let w_sum = sum::<N>(|i| w[i]);
        let wq = sum::<N>(|i| w[i] * q[i]);
        let wqq = sum::<N>(|i| w[i] * q[i] * q[i]);
        let wx = sum::<N>(|i| w[i] * x[i]);
        let wxq = sum::<N>(|i| w[i] * x[i] * q[i]);
        let determinant = w_sum * wqq - wq * wq;
        let min = (wq * wxq - wqq * wx) / determinant;
        if determinant > 0.0 && min > 0.0 {
            ((w_sum * wxq - wq * wx) / determinant, min)
        } else {
            (ratio(wxq, wqq), 0.0)
        }
    }

    /// The scale and min, both at least 0, with which codes `0..=top` lose least.
    #[inline(always)]
    fn fit_line(&self, top: f32) -> (f32, f32) {
        let low = self.x.iter().fold(0.0f32, |a, &b| a.min(b));
        let high = self.x.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        let (mut best, mut least) = ((0.0, -low), self.error(|_| low));
        for step in -10..=15 {
            let q = self.line_codes((high - low) / (top + 0.1 * step as f32), -low, top);
            let (scale, min) = self.line_through(&q);
            let error = self.error(|i| scale * q[i] - min);
            if error < least && scale >= 0.0 {
                (best, least) = ((scale, min), error);
            }
        }
        best
    }

    /// The integers (scale, min), at most one from the given ones, with which
    /// weight = unit.0 * scale * code - unit.1 * min loses least.
    #[inline(always)]
    fn nearby_line(
        &self,
        unit: (f32, f32),
        (scale, min): (f32, f32),
        top: f32,
        field: f32,
    ) -> (f32, f32) {
        let around = |a: f32| [a, (a - 1.0).max(0.0), (a + 1.0).min(field)];
        let (mut best, mut least) = ((scale, min), f32::INFINITY);
        for scale in around(scale) {
            for min in around(min) {
                let error = self.line_error(unit.0 * scale, unit.1 * min, top);
                if error < least {
                    (best, least) = ((scale, min), error);
                }
            }
        }
        best
    }

    /// The integer scale, at most one from the given one, with which weight = d * scale * code
    /// loses least.
    #[inline(always)]
    fn nearby_scale(&self, d: f32, scale: f32, codes: (f32, f32), fields: (f32, f32)) -> f32 {
        let (mut best, mut least) = (scale, f32::INFINITY);
        for scale in [scale, (scale - 1.0).max(fields.0), (scale + 1.0).min(fields.1)] {
            let error = self.scale_error(d * scale, codes.0, codes.1);
            if error < least {
                (best, least) = (scale, error);
            }
        }
        best
    }

    /// The nearest codes in `low..=high` when weights are scale * code.
    #[inline(always)]
    fn codes(&self, scale: f32, low: f32, high: f32) -> [f32; N] {
        let inverse = inverse(scale);
        self.x.map(|x| round(clamp(x * inverse, low, high)))
    }

    /// The error with the nearest codes.
    #[inline(always)]
    fn scale_error(&self, scale: f32, low: f32, high: f32) -> f32 {
        let q = self.codes(scale, low, high);
        self.error(|i| scale * q[i])
    }

    /// The scale, of either sign, with which codes `low..=high` lose least.
    #[inline(always)]
    fn fit_scale(&self, low: f32, high: f32) -> f32 {
        let extreme = self.x[super::largest(self.x)];
        let (mut scale, mut error) = (0.0, self.error(|_| 0.0));
        for step in -9..=9 {
            for end in [low, high] {
                let q = self.codes(extreme / (end + 0.1 * step as f32), low, high);
                let s = ratio(self.dot(|i| q[i]), sum::<N>(|i| self.w[i] * q[i] * q[i]));
                let e = self.error(|i| s * q[i]);
                if e < error {
                    (scale, error) = (s, e);
                }
            }
        }
        scale
    }

    /// Sum of w * x * y(i).
    #[inline(always)]
    fn dot(&self, y: impl Fn(usize) -> f32) -> f32 {
        sum::<N>(|i| self.w[i] * self.x[i] * y(i))
    }
}

/// Fits a block with minima: codes in `0..=top`, scales and mins in `0..=field`.
///
/// `None` if a factor overflows f16.
pub(super) fn affine<const S: usize, const N: usize>(
    x: &[f32; 256],
    top: f32,
    field: f32,
) -> Option<Affine<S>> {
    if x.iter().any(|x| x.abs() > TOO_LARGE) {
        return None;
    }
    let subs: [Weighted<'_, N>; S] = std::array::from_fn(|s| Weighted::new(&x.as_chunks().0[s]));
    let fits = subs.each_ref().map(|sub| wide(|| sub.fit_line(top)));
    let d = f16_up(fits.iter().fold(0.0f32, |a, fit| a.max(fit.0)) / field)?;
    let dmin = f16_up(fits.iter().fold(0.0f32, |a, fit| a.max(fit.1)) / field)?;
    let integer = |x: f32, unit: f32| round((x * inverse(unit)).min(field));
    let first = AffineFit { d, dmin, fields: fits.map(|(s, m)| (integer(s, d), integer(m, dmin))) };
    let best = improve(first, |fit| fit.error(&subs, top), |fit| fit.turn(&subs, top, field));
    let mut codes = [0; 256];
    for (s, codes) in codes.as_chunks_mut::<N>().0.iter_mut().enumerate() {
        let (scale, min) = best.line(s);
        *codes = subs[s].line_codes(scale, min, top).map(|q| q as u8);
    }
    Some(Affine {
        d: f16::from_f32(best.d).to_le_bytes(),
        dmin: f16::from_f32(best.dmin).to_le_bytes(),
        scales: best.fields.map(|(scale, _)| scale as u8),
        mins: best.fields.map(|(_, min)| min as u8),
        codes,
    })
}

/// The factors of a block with minima: `fields` are the integers (scale, min) of each sub-block.
#[derive(Clone, Copy)]
struct AffineFit<const S: usize> {
    d: f32,
    dmin: f32,
    fields: [(f32, f32); S],
}

impl<const S: usize> AffineFit<S> {
    fn line(&self, s: usize) -> (f32, f32) {
        (self.d * self.fields[s].0, self.dmin * self.fields[s].1)
    }

    fn error<const N: usize>(&self, subs: &[Weighted<'_, N>; S], top: f32) -> f32 {
        let error = |s: usize| subs[s].line_error(self.line(s).0, self.line(s).1, top);
        (0..S).map(error).sum()
    }

    /// Better integers for the present d and dmin, then d and dmin for these; `None` if they
    /// leave f16.
    fn turn<const N: usize>(
        &self,
        subs: &[Weighted<'_, N>; S],
        top: f32,
        field: f32,
    ) -> Option<Self> {
        let mut next = *self;
        // Normal equations of x = d * u - dmin * v with u = scale * code, v = min.
        let (mut uu, mut uv, mut vv, mut xu, mut xv) = (0.0f64, 0.0f64, 0.0f64, 0.0f64, 0.0f64);
        for (s, sub) in subs.iter().enumerate() {
            let near = wide(|| sub.nearby_line((self.d, self.dmin), self.fields[s], top, field));
            next.fields[s] = near;
            let ((scale, v), w) = (next.fields[s], &sub.w);
            let q = sub.line_codes(self.d * scale, self.dmin * v, top);
            let u = |i: usize| scale * q[i];
            uu += f64::from(sum::<N>(|i| w[i] * u(i) * u(i)));
            uv += f64::from(sum::<N>(|i| w[i] * u(i)) * v);
            vv += f64::from(sum::<N>(|i| w[i]) * v * v);
            xu += f64::from(sub.dot(u));
            xv += f64::from(sub.dot(|_| v));
        }
        let determinant = uu * vv - uv * uv;
        if determinant > 1e-9 * uu * vv {
            next.d = f16_near((xu * vv - xv * uv) / determinant)?;
            next.dmin = f16_near((xu * uv - xv * uu) / determinant)?;
        } else if uu > 0.0 {
            next.d = f16_near((xu + f64::from(self.dmin) * uv) / uu)?;
        }
        Some(next)
    }
}

/// Fits a block without minima: codes in `codes.0..=codes.1`, scales in `fields.0..=fields.1`.
///
/// `None` if d overflows f16.
pub(super) fn linear<const S: usize, const N: usize>(
    x: &[f32; 256],
    codes: (f32, f32),
    fields: (f32, f32),
) -> Option<Linear<S>> {
    if x.iter().any(|x| x.abs() > TOO_LARGE) {
        return None;
    }
    let subs: [Weighted<'_, N>; S] = std::array::from_fn(|s| Weighted::new(&x.as_chunks().0[s]));
    let scales = subs.each_ref().map(|sub| wide(|| sub.fit_scale(codes.0, codes.1)));
    let d = f16_up(scales[super::largest(&scales)] / fields.0)?;
    let integer = |s: f32| round((s * inverse(d)).max(fields.0).min(fields.1));
    let first = LinearFit { d, fields: scales.map(integer) };
    let best = improve(first, |fit| fit.error(&subs, codes), |fit| fit.turn(&subs, codes, fields));
    let mut out = [0; 256];
    for (s, out) in out.as_chunks_mut::<N>().0.iter_mut().enumerate() {
        let q = subs[s].codes(best.d * best.fields[s], codes.0, codes.1);
        *out = q.map(|q| q as i8);
    }
    Some(Linear {
        d: f16::from_f32(best.d).to_le_bytes(),
        scales: best.fields.map(|scale| scale as i8),
        codes: out,
    })
}

/// The factors of a block without minima.
#[derive(Clone, Copy)]
struct LinearFit<const S: usize> {
    d: f32,
    fields: [f32; S],
}

impl<const S: usize> LinearFit<S> {
    fn error<const N: usize>(&self, subs: &[Weighted<'_, N>; S], codes: (f32, f32)) -> f32 {
        let error = |s: usize| subs[s].scale_error(self.d * self.fields[s], codes.0, codes.1);
        (0..S).map(error).sum()
    }

    /// Better integers for the present d, then d for these; `None` if it leaves f16.
    fn turn<const N: usize>(
        &self,
        subs: &[Weighted<'_, N>; S],
        codes: (f32, f32),
        fields: (f32, f32),
    ) -> Option<Self> {
        let mut next = *self;
        let (mut uu, mut xu) = (0.0f64, 0.0f64); // u = scale * code
        for (s, sub) in subs.iter().enumerate() {
            let scale = wide(|| sub.nearby_scale(self.d, self.fields[s], codes, fields));
            next.fields[s] = scale;
            let q = sub.codes(self.d * scale, codes.0, codes.1);
            let u = |i: usize| scale * q[i];
            uu += f64::from(sum::<N>(|i| sub.w[i] * u(i) * u(i)));
            xu += f64::from(sub.dot(u));
        }
        if uu > 0.0 {
            next.d = f16_near(xu / uu)?;
        }
        Some(next)
    }
}

/// Takes turns while the error falls; a turn that is `None` or no better ends the search.
fn improve<T>(first: T, error: impl Fn(&T) -> f32, turn: impl Fn(&T) -> Option<T>) -> T {
    let (mut best, mut least) = (first, f32::INFINITY);
    least = least.min(error(&best));
    for _ in 0..TURNS {
        let Some(next) = turn(&best) else { break };
        let e = error(&next);
        if e >= least {
            break;
        }
        (best, least) = (next, e);
    }
    best
}

/// The factor d and the nearest entries of `table` (rising) for 32 numbers: weight = d * entry.
pub(super) fn table(x: &[f32; 32], table: &[i8; 16]) -> Option<([u8; 2], [u8; 32])> {
    if x.iter().any(|x| x.abs() > TOO_LARGE) {
        return None;
    }
    let block = Weighted::new(x);
    let extreme = x[super::largest(x)];
    let (mut d, mut error) = (0.0, block.error(|_| 0.0));
    for step in -10..=10 {
        for end in [table[0], table[15]] {
            let trial = extreme / (f32::from(end) + step as f32);
            let y = nearest(x, trial, table).0;
            let s = ratio(block.dot(|i| y[i]), sum::<32>(|i| block.w[i] * y[i] * y[i]));
            let e = block.error(|i| s * y[i]);
            if e < error {
                (d, error) = (s, e);
            }
        }
    }
    let d = Some(f16::from_f32(d)).filter(|d| d.is_finite())?;
    Some((d.to_le_bytes(), nearest(x, d.to_f32(), table).1))
}

/// The nearest table entry to each x / scale: its value and its index.
fn nearest(x: &[f32; 32], scale: f32, table: &[i8; 16]) -> ([f32; 32], [u8; 32]) {
    let inverse = inverse(scale);
    let (mut value, mut index) = ([f32::from(table[0]); 32], [0u8; 32]);
    for pair in table.windows(2) {
        let (a, b) = (f32::from(pair[0]), f32::from(pair[1]));
        for i in 0..32 {
            let above = x[i] * inverse > 0.5 * (a + b);
            value[i] = if above { b } else { value[i] };
            index[i] += u8::from(above);
        }
    }
    (value, index)
}

/// Runs `f` compiled for AVX2 where the machine has it: the same sums in the same order, without
/// fused operations, so the same bits, on registers twice as wide.
#[inline(always)]
fn wide<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn avx2<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the line above proved that this CPU has AVX2.
            return unsafe { avx2(f) };
        }
    }
    f()
}

/// The sum of `term(0..N)` in eight lanes; N is a multiple of eight.
#[inline(always)]
fn sum<const N: usize>(term: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; 8];
    for start in (0..N).step_by(8) {
        for l in 0..8 {
            lanes[l] += term(start + l);
        }
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// The nearest integer, ties to even, for |x| < 2^22: adding 1.5 * 2^23 leaves no fraction bits.
#[inline(always)]
fn round(x: f32) -> f32 {
    const NO_FRACTION: f32 = 12_582_912.0;
    (x + NO_FRACTION) - NO_FRACTION
}

/// `x` between `low` and `high`. Unlike `f32::clamp` it says nothing about NaN, which would cost
/// three instructions in place of one.
#[inline(always)]
fn clamp(x: f32, low: f32, high: f32) -> f32 {
    let x = if x > low { x } else { low };
    if x < high { x } else { high }
}

/// 1 / x, or 0 where that is not finite.
#[inline(always)]
fn inverse(x: f32) -> f32 {
    ratio(1.0, x)
}

/// a / b, or 0 where that is not finite.
#[inline(always)]
fn ratio(a: f32, b: f32) -> f32 {
    Some(a / b).filter(|r| r.is_finite()).unwrap_or(0.0)
}

/// The f16 next to `x` away from zero: integers counted in it then do not overflow their field,
/// and a scale below the smallest f16 does not vanish. `None` if infinite.
fn f16_up(x: f32) -> Option<f32> {
    let near = f16::from_f32(x);
    let short = near.to_f32().abs() < x.abs();
    let up = f16::from_bits(near.to_bits() + u16::from(short));
    up.is_finite().then(|| up.to_f32())
}

/// The nearest f16, or `None` if infinite.
fn f16_near(x: f64) -> Option<f32> {
    let near = f16::from_f32(x as f32);
    near.is_finite().then(|| near.to_f32())
}
