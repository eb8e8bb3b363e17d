//! Functions of reals: series over fixed-point integers, with more bits inside than are wanted outside.

use num_bigint::BigInt;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::CalcError;
use super::number::Real;

/// More bits than are wanted, so that sums of a few hundred terms keep all of those.
const GUARD: u64 = 64;

/// pi * 2^width, by Machin: pi / 4 = 4 atan(1/5) - atan(1/239).
pub(super) fn pi_fixed(width: u64) -> BigInt {
    let w = width + 16;
    let atan = |n: u32| {
        let mut power: BigInt = (BigInt::one() << w) / n;
        let (mut sum, mut k) = (power.clone(), 1u32);
        while !power.is_zero() {
            power /= -BigInt::from(n * n);
            k += 2;
            sum += &power / k;
        }
        sum
    };
    (atan(5) * 16 - atan(239) * 4) >> 16u32
}

/// ln 2 * 2^width, as 2 atanh(1/3).
fn ln2_fixed(width: u64) -> BigInt {
    let w = width + 16;
    atanh_fixed(&((BigInt::one() << w) / 3), w) >> 15u32
}

/// atanh(y) * 2^w of |y| <= 1/3, fixed.
fn atanh_fixed(y: &BigInt, w: u64) -> BigInt {
    let square = (y * y) >> w;
    let (mut power, mut sum, mut k) = (y.clone(), y.clone(), 1u32);
    while power.magnitude().bits() > 0 {
        power = (power * &square) >> w;
        k += 2;
        let term = &power / k;
        if term.is_zero() {
            break;
        }
        sum += term;
    }
    sum
}

pub(super) fn pi(bits: u64) -> Real {
    let width = bits + GUARD;
    Real::rounded(pi_fixed(width), -(width as i64), bits)
}

/// e^x: x = k ln 2 + r, and e^r = (e^(r/256))^256 by Taylor.
pub(super) fn exp(x: &Real, bits: u64) -> Result<Real, CalcError> {
    if x.height() > 18 {
        return match x.mantissa.is_negative() {
            true => Ok(Real { mantissa: BigInt::zero(), exponent: 0 }),
            false => Err(CalcError::TooLarge),
        };
    }
    let w = bits + GUARD + 24;
    let (x, ln2) = (x.fixed(w)?, ln2_fixed(w));
    let k = num_integer::Integer::div_floor(&x, &ln2);
    let r = (x - &k * ln2) >> 8u32;
    let (mut term, mut sum, mut n) = (BigInt::one() << w, BigInt::one() << w, 0u32);
    while !term.is_zero() {
        n += 1;
        term = ((term * &r) >> w) / n;
        sum += &term;
    }
    for _ in 0..8 {
        sum = (&sum * &sum) >> w;
    }
    let k = k.to_i64().ok_or(CalcError::TooLarge)?;
    Ok(Real::rounded(sum, k - w as i64, bits))
}

/// The natural logarithm: x = m 2^e with m near 1, ln m = 2 atanh((m - 1) / (m + 1)).
pub(super) fn ln(x: &Real, bits: u64) -> Result<Real, CalcError> {
    if !x.mantissa.is_positive() {
        return Err(CalcError::Domain("the logarithm of a number that is not positive"));
    }
    let w = 2 * bits + GUARD; // near 1 half of them are lost
    let mut e = x.height();
    let mut m = Real { mantissa: x.mantissa.clone(), exponent: x.exponent - e }.fixed(w)?;
    let one = BigInt::one() << w;
    if &m * 4 < &one * 3 {
        (m, e) = (m * 2, e - 1);
    }
    let y = ((&m - &one) << w) / (&m + &one);
    let ln = atanh_fixed(&y, w) * 2 + ln2_fixed(w) * e;
    Ok(Real::rounded(ln, -(w as i64), bits))
}

/// sin and cos: x = q pi / 2 + r, Taylor for r.
pub(super) fn sin_cos(x: &Real, bits: u64) -> Result<(Real, Real), CalcError> {
    if x.height() > 4096 {
        return Err(CalcError::TooLarge);
    }
    let w = 2 * bits + GUARD + x.height().max(0) as u64;
    let (fixed, half_pi) = (x.fixed(w)?, pi_fixed(w) / 2);
    let q = num_integer::Integer::div_floor(&fixed, &half_pi);
    let r = fixed - &q * half_pi;
    let series = |first: BigInt, mut n: u32| {
        let (mut term, mut sum) = (first.clone(), first);
        while !term.is_zero() {
            term = -((((term * &r) >> w) * &r) >> w) / ((n + 1) * (n + 2));
            n += 2;
            sum += &term;
        }
        sum
    };
    let (sin, cos) = (series(r.clone(), 1), series(BigInt::one() << w, 0));
    let quarter = num_integer::Integer::mod_floor(&q, &BigInt::from(4)).to_u8().unwrap_or(0);
    let (sin, cos) = match quarter {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    };
    // Where x is large and the result within its own error of 0, it is 0: sin(pi).
    let told = |fixed: BigInt| {
        let real = Real::rounded(fixed, -(w as i64), bits);
        match x.height() > 0 && real.height() < 24 - bits as i64 {
            true => Real { mantissa: BigInt::zero(), exponent: 0 },
            false => real,
        }
    };
    Ok((told(sin), told(cos)))
}

pub(super) fn sqrt(x: &Real, bits: u64) -> Result<Real, CalcError> {
    if x.mantissa.is_negative() {
        return Err(CalcError::Domain("the square root of a negative number"));
    }
    let mut shift = 2 * bits + 8;
    if (x.exponent - shift as i64) % 2 != 0 {
        shift += 1;
    }
    let exponent = (x.exponent - shift as i64) / 2;
    Ok(Real::rounded((&x.mantissa << shift).sqrt(), exponent, bits))
}

/// atan x, by atan x = 2 atan(x / (1 + sqrt(1 + x^2))) until x is small, then Taylor.
pub(super) fn atan(x: &Real, bits: u64) -> Result<Real, CalcError> {
    let inner = bits + GUARD;
    let one = Real { mantissa: BigInt::one(), exponent: 0 };
    if x.height() > 2 * inner as i64 {
        let half = pi(bits).div(&Real { mantissa: BigInt::from(2), exponent: 0 }, bits)?;
        return Ok(if x.mantissa.is_negative() { half.neg() } else { half });
    }
    let mut y = x.clone();
    let halvings = 6;
    for _ in 0..halvings {
        let root = sqrt(&one.add(&y.mul(&y, inner)?, inner), inner)?;
        y = y.div(&one.add(&root, inner), inner)?;
    }
    let w = 2 * inner;
    let y = y.fixed(w)?;
    let square = (&y * &y) >> w;
    let (mut power, mut sum, mut k) = (y.clone(), y, 1u32);
    while !power.is_zero() {
        power = -((power * &square) >> w);
        k += 2;
        sum += &power / k;
        if power.magnitude().is_one() {
            break; // shifting down keeps -1 at -1
        }
    }
    Ok(Real::rounded(sum << halvings, -(w as i64), bits))
}
