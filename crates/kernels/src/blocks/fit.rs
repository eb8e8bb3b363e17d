//! The search for scales, minima and codes that lose least, for formats whose encoding is free.
//!
//! What is minimised is the weighted square error, sum of w * (x - y)^2, with w = rms + |x|: large
//! weights of a network matter more, but not as their square. A sub-block's scale is found by
//! trying steps around the one that spans it, each followed by least squares for the codes that
//! it gives. Its result then goes into the few bits of the block, and the block as a whole is
//! improved in turns: better integers next to the present ones, then least squares for the block's
//! own factors. Each turn is kept only if the error falls.

use half::f16;

use super::weighted::{
    Line, Range, Weighted, inverse, line_codes, round, scale_codes, table_entries,
};

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
    let numbers = x.as_chunks::<N>().0;
    let subs: [Weighted; S] = std::array::from_fn(|s| Weighted::new(&numbers[s]));
    let fits = subs.each_ref().map(|sub| sub.fit_line(top));
    let d = f16_up(fits.iter().fold(0.0f32, |a, fit| a.max(fit.0)) / field)?;
    let dmin = f16_up(fits.iter().fold(0.0f32, |a, fit| a.max(fit.1)) / field)?;
    let integer = |x: f32, unit: f32| round((x * inverse(unit)).min(field));
    let first = AffineFit { d, dmin, fields: fits.map(|(s, m)| (integer(s, d), integer(m, dmin))) };
    let best = improve(first, |fit| fit.turn(&subs, top, field));
    let mut codes = [0; 256];
    for (s, codes) in codes.as_chunks_mut::<N>().0.iter_mut().enumerate() {
        let nearest = line_codes(best.line(s), top);
        *codes = numbers[s].map(|x| nearest(x) as u8);
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
    fields: [Line; S],
}

impl<const S: usize> AffineFit<S> {
    fn line(&self, s: usize) -> Line {
        (self.d * self.fields[s].0, self.dmin * self.fields[s].1)
    }

    /// The error as it stands; then better integers for d and dmin, and d and dmin for these,
    /// or `None` if they leave f16.
    fn turn(&self, subs: &[Weighted; S], top: f32, field: f32) -> (f32, Option<Self>) {
        let (mut fields, mut error, mut sums) = (self.fields, 0.0, Normal::default());
        for (sub, field_pair) in subs.iter().zip(&mut fields) {
            let unit = (self.d, self.dmin);
            let (near, given) = sub.nearby_line(unit, *field_pair, top, field);
            (*field_pair, error) = (near, error + given);
            sums.add(sub, near, line_codes((self.d * near.0, self.dmin * near.1), top));
        }
        let factors = sums.solve(self.dmin);
        (error, factors.map(|(d, dmin)| AffineFit { d, dmin, fields }))
    }
}

/// Sums for the least squares of x = d * u - dmin * v, with u = scale * code and v = min.
#[derive(Default)]
struct Normal {
    uu: f64,
    uv: f64,
    vv: f64,
    xu: f64,
    xv: f64,
}

impl Normal {
    fn add(&mut self, sub: &Weighted, (scale, min): Line, codes: impl Fn(f32) -> f32) {
        let [q, qq, xq] = sub.moments(codes).map(f64::from);
        let (scale, v) = (f64::from(scale), f64::from(min));
        self.uu += scale * scale * qq;
        self.uv += scale * v * q;
        self.vv += v * v * f64::from(sub.w_sum);
        self.xu += scale * xq;
        self.xv += v * f64::from(sub.wx_sum);
    }

    /// d and dmin; where they cannot be told apart, d alone with the present `dmin`.
    fn solve(&self, dmin: f32) -> Option<(f32, f32)> {
        let Normal { uu, uv, vv, xu, xv } = self;
        let determinant = uu * vv - uv * uv;
        if determinant > 1e-9 * uu * vv {
            let d = f16_near((xu * vv - xv * uv) / determinant)?;
            Some((d, f16_near((xu * uv - xv * uu) / determinant)?))
        } else if *uu > 0.0 {
            Some((f16_near((xu + f64::from(dmin) * uv) / uu)?, dmin))
        } else {
            None
        }
    }
}

/// Fits a block without minima: codes in `codes.0..=codes.1`, scales in `fields.0..=fields.1`.
///
/// `None` if d overflows f16.
pub(super) fn linear<const S: usize, const N: usize>(
    x: &[f32; 256],
    codes: Range,
    fields: Range,
) -> Option<Linear<S>> {
    if x.iter().any(|x| x.abs() > TOO_LARGE) {
        return None;
    }
    let numbers = x.as_chunks::<N>().0;
    let subs: [Weighted; S] = std::array::from_fn(|s| Weighted::new(&numbers[s]));
    let scales = subs.each_ref().map(|sub| sub.fit_scale(codes));
    let d = f16_up(scales[super::largest(&scales)] / fields.0)?;
    let integer = |s: f32| round((s * inverse(d)).max(fields.0).min(fields.1));
    let first = LinearFit { d, fields: scales.map(integer) };
    let best = improve(first, |fit| fit.turn(&subs, codes, fields));
    let mut out = [0; 256];
    for (s, out) in out.as_chunks_mut::<N>().0.iter_mut().enumerate() {
        let nearest = scale_codes(best.d * best.fields[s], codes);
        *out = numbers[s].map(|x| nearest(x) as i8);
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
    /// The error as it stands; then better integers for d, and d for these, or `None` if it
    /// leaves f16.
    fn turn(&self, subs: &[Weighted; S], codes: Range, fields: Range) -> (f32, Option<Self>) {
        let (mut scales, mut error, mut sums) = (self.fields, 0.0, Normal::default());
        for (sub, scale) in subs.iter().zip(&mut scales) {
            let (near, given) = sub.nearby_scale(self.d, *scale, codes, fields);
            (*scale, error) = (near, error + given);
            sums.add(sub, (near, 0.0), scale_codes(self.d * near, codes));
        }
        (error, sums.solve(0.0).map(|(d, _)| LinearFit { d, fields: scales }))
    }
}

/// Takes turns while the error falls. A turn gives the error of what it got, and what to try next.
fn improve<T: Copy>(first: T, turn: impl Fn(&T) -> (f32, Option<T>)) -> T {
    let (mut best, mut least, mut next) = (first, f32::INFINITY, Some(first));
    for _ in 0..=TURNS {
        let Some(trial) = next else { break };
        let (error, after) = turn(&trial);
        if error >= least {
            break;
        }
        (best, least, next) = (trial, error, after);
    }
    best
}

/// The factor d and the nearest entries of `table` (rising) for 32 numbers: weight = d * entry.
pub(super) fn table(x: &[f32; 32], table: &[i8; 16]) -> Option<([u8; 2], [u8; 32])> {
    if x.iter().any(|x| x.abs() > TOO_LARGE) {
        return None;
    }
    let block = Weighted::new(x);
    let d = f16::from_f32(block.fit_table(table));
    let nearest = table_entries(d.to_f32(), table);
    let index = |entry: f32| table.iter().take_while(|&&t| f32::from(t) < entry).count() as u8;
    d.is_finite().then(|| (d.to_le_bytes(), x.map(|x| index(nearest(x)))))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_half_away_from_zero_is_never_smaller() {
        for x in [0.0, 1.0, -1.0, 0.1, -0.1, 1e-9, -1e-9, 65_504.0] {
            let up = f16_up(x).expect("these are within f16");
            assert!(up.abs() >= x.abs() && up * x >= 0.0, "{x} became {up}");
        }
        assert_eq!(f16_up(65_505.0), None);
    }
}
