//! Numbers: fractions of any size, exact, and reals of so many bits, by integers alone, so that every machine agrees.

use num_bigint::{BigInt, Sign};
use num_integer::Integer;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::CalcError;

/// Bits of a number at most: 39,000 digits, printed in milliseconds.
pub(super) const BITS_MAX: u64 = 1 << 17;

/// A fraction in lowest terms; the denominator is positive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ratio {
    pub(super) num: BigInt,
    pub(super) den: BigInt,
}

impl Ratio {
    /// num / den. Errors: the denominator is 0, or the number too large.
    pub(super) fn new(num: BigInt, den: BigInt) -> Result<Ratio, CalcError> {
        if den.is_zero() {
            return Err(CalcError::ByZero);
        }
        let by = num.gcd(&den) * if den.is_negative() { -1 } else { 1 };
        let ratio = Ratio { num: num / &by, den: den / &by };
        match ratio.num.bits().max(ratio.den.bits()) > BITS_MAX {
            true => Err(CalcError::TooLarge),
            false => Ok(ratio),
        }
    }

    pub(super) fn int(n: impl Into<BigInt>) -> Ratio {
        Ratio { num: n.into(), den: BigInt::one() }
    }

    pub(super) fn is_int(&self) -> bool {
        self.den.is_one()
    }

    pub(super) fn is_zero(&self) -> bool {
        self.num.is_zero()
    }

    pub(super) fn is_negative(&self) -> bool {
        self.num.is_negative()
    }

    pub(super) fn to_i64(&self) -> Option<i64> {
        self.is_int().then(|| self.num.to_i64()).flatten()
    }

    pub(super) fn neg(&self) -> Ratio {
        Ratio { num: -&self.num, den: self.den.clone() }
    }

    pub(super) fn add(&self, b: &Ratio) -> Result<Ratio, CalcError> {
        Ratio::new(&self.num * &b.den + &b.num * &self.den, &self.den * &b.den)
    }

    pub(super) fn sub(&self, b: &Ratio) -> Result<Ratio, CalcError> {
        self.add(&b.neg())
    }

    pub(super) fn mul(&self, b: &Ratio) -> Result<Ratio, CalcError> {
        Ratio::new(&self.num * &b.num, &self.den * &b.den)
    }

    pub(super) fn div(&self, b: &Ratio) -> Result<Ratio, CalcError> {
        Ratio::new(&self.num * &b.den, &self.den * &b.num)
    }

    /// To a whole power; its size is known before it is computed.
    pub(super) fn pow(&self, n: i64) -> Result<Ratio, CalcError> {
        let times = n.unsigned_abs();
        let one = self.num.magnitude().is_one() || self.num.is_zero();
        let bits = if one && self.is_int() { 1 } else { self.num.bits().max(self.den.bits()) };
        if bits.saturating_mul(times) > 2 * BITS_MAX && !(one && self.is_int()) {
            return Err(CalcError::TooLarge);
        }
        if one && self.is_int() {
            let odd = times % 2 == 1;
            let (zero, negative) = (self.is_zero(), self.is_negative());
            return match (zero, n) {
                (true, n) if n < 0 => Err(CalcError::ByZero),
                (true, 0) | (false, _) => Ok(Ratio::int(if negative && odd { -1 } else { 1 })),
                (true, _) => Ok(Ratio::int(0)),
            };
        }
        let times = u32::try_from(times).map_err(|_| CalcError::TooLarge)?;
        let (num, den) = (self.num.pow(times), self.den.pow(times));
        if n < 0 { Ratio::new(den, num) } else { Ratio::new(num, den) }
    }

    /// The k-th root, if it is a fraction.
    pub(super) fn root(&self, k: u32) -> Option<Ratio> {
        if k == 0 || (self.is_negative() && k.is_multiple_of(2)) {
            return None;
        }
        let (num, den) = (self.num.nth_root(k), self.den.nth_root(k));
        (num.pow(k) == self.num && den.pow(k) == self.den).then_some(Ratio { num, den })
    }

    /// The largest whole number that is not above it.
    pub(super) fn floor(&self) -> BigInt {
        self.num.div_floor(&self.den)
    }

    pub(super) fn less(&self, b: &Ratio) -> bool {
        &self.num * &b.den < &b.num * &self.den
    }

    /// Written as a decimal, if that ends within `places`.
    pub(super) fn decimal(&self, places: u32) -> Option<String> {
        let scaled = &self.num * BigInt::from(10).pow(places);
        let (whole, rest) = scaled.div_rem(&self.den);
        if !rest.is_zero() {
            return None;
        }
        let digits = whole.magnitude().to_string();
        let width = places as usize + 1;
        let digits = format!("{digits:0>width$}");
        let (int, fraction) = digits.split_at(digits.len() - places as usize);
        let fraction = fraction.trim_end_matches('0');
        let sign = if self.is_negative() { "-" } else { "" };
        let point = if fraction.is_empty() { "" } else { "." };
        Some(format!("{sign}{int}{point}{fraction}"))
    }

    /// As a real of so many bits.
    pub(super) fn real(&self, bits: u64) -> Real {
        if self.is_zero() {
            return Real { mantissa: BigInt::zero(), exponent: 0 };
        }
        let shift = (bits + 2 + self.den.bits()).saturating_sub(self.num.bits());
        Real::rounded((&self.num << shift) / &self.den, -(shift as i64), bits)
    }
}

/// mantissa * 2^exponent.
#[derive(Clone, Debug, PartialEq)]
pub struct Real {
    pub(super) mantissa: BigInt,
    pub(super) exponent: i64,
}

/// Exponents of two at most: beyond it numbers are called too large, or 0.
const EXPONENT_MAX: i64 = 1 << 18;

impl Real {
    pub(super) fn rounded(mantissa: BigInt, exponent: i64, bits: u64) -> Real {
        let over = mantissa.bits().saturating_sub(bits);
        if over == 0 {
            return Real { mantissa, exponent };
        }
        let half = BigInt::one() << (over - 1);
        let shifted = match mantissa.sign() {
            Sign::Minus => -((-mantissa + half) >> over),
            Sign::NoSign | Sign::Plus => (mantissa + half) >> over,
        };
        Real { mantissa: shifted, exponent: exponent + over as i64 }
    }

    pub(super) fn is_zero(&self) -> bool {
        self.mantissa.is_zero()
    }

    /// The place of its highest bit: |x| < 2^height.
    pub(super) fn height(&self) -> i64 {
        self.exponent + self.mantissa.bits() as i64
    }

    pub(super) fn neg(&self) -> Real {
        Real { mantissa: -&self.mantissa, exponent: self.exponent }
    }

    pub(super) fn add(&self, b: &Real, bits: u64) -> Real {
        if self.is_zero() || b.is_zero() {
            return if self.is_zero() { b.clone() } else { self.clone() };
        }
        let apart = self.height() - b.height();
        if apart.unsigned_abs() > 2 * bits + 8 {
            return if apart > 0 { self.clone() } else { b.clone() };
        }
        let low = self.exponent.min(b.exponent);
        let at = |x: &Real| &x.mantissa << (x.exponent - low) as u64;
        Real::rounded(at(self) + at(b), low, bits)
    }

    pub(super) fn mul(&self, b: &Real, bits: u64) -> Result<Real, CalcError> {
        let exponent = self.exponent + b.exponent;
        Real::rounded(&self.mantissa * &b.mantissa, exponent, bits).checked()
    }

    pub(super) fn div(&self, b: &Real, bits: u64) -> Result<Real, CalcError> {
        if b.is_zero() {
            return Err(CalcError::ByZero);
        }
        let shift = (bits + 2 + b.mantissa.bits()).saturating_sub(self.mantissa.bits());
        let quotient = (&self.mantissa << shift) / &b.mantissa;
        Real::rounded(quotient, self.exponent - b.exponent - shift as i64, bits).checked()
    }

    fn checked(self) -> Result<Real, CalcError> {
        match self.height().abs() > EXPONENT_MAX && !self.is_zero() {
            true => Err(CalcError::TooLarge),
            false => Ok(self),
        }
    }

    /// The whole number that x * 2^width is, rounded down.
    pub(super) fn fixed(&self, width: u64) -> Result<BigInt, CalcError> {
        let shift = self.exponent + width as i64;
        if self.height() > EXPONENT_MAX {
            return Err(CalcError::TooLarge);
        }
        Ok(match shift >= 0 {
            true => &self.mantissa << shift as u64,
            false => &self.mantissa >> shift.unsigned_abs(),
        })
    }

    /// Its first `digits` digits, rounded; large and small ones with an exponent.
    pub(super) fn show(&self, digits: usize) -> String {
        if self.is_zero() {
            return "0".to_owned();
        }
        let sign = if self.mantissa.is_negative() { "-" } else { "" };
        // log10(2) = 0.30103: a first guess of the decimal exponent, mended below.
        let mut ten = (self.height() as f64 * std::f64::consts::LOG10_2).floor() as i64;
        let mut text = self.scaled(digits as i64 - 1 - ten);
        if text.len() > digits {
            ten += text.len() as i64 - digits as i64;
            text = self.scaled(digits as i64 - 1 - ten);
        } else if text.len() < digits {
            ten -= (digits - text.len()) as i64;
            text = self.scaled(digits as i64 - 1 - ten);
        }
        if text.len() > digits {
            (ten, text) = (ten + 1, text[..digits].to_owned()); // 999.. was rounded up
        }
        let kept = text.trim_end_matches('0');
        if (-7..digits.max(15) as i64).contains(&ten) {
            let point = ten + 1;
            if point <= 0 {
                return format!("{sign}0.{}{kept}", "0".repeat(point.unsigned_abs() as usize));
            }
            let point = point as usize;
            return match kept.len() > point {
                true => format!("{sign}{}.{}", &kept[..point], &kept[point..]),
                false => format!("{sign}{kept:0<point$}"),
            };
        }
        let (first, rest) = kept.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        format!("{sign}{first}{point}{rest}e{ten}")
    }

    /// |x| * 10^places, rounded, as digits.
    fn scaled(&self, places: i64) -> String {
        let mut num = self.mantissa.magnitude().clone();
        let mut den = num_bigint::BigUint::one();
        match places >= 0 {
            true => num *= num_bigint::BigUint::from(10u8).pow(places as u32),
            false => den *= num_bigint::BigUint::from(10u8).pow(places.unsigned_abs() as u32),
        }
        match self.exponent >= 0 {
            true => num <<= self.exponent as u64,
            false => den <<= self.exponent.unsigned_abs(),
        }
        ((num * 2u8 + &den) / (den * 2u8)).to_string()
    }
}
