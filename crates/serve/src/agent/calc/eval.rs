//! The value of an expression: exact as long as it can be, else a real of so many bits; with its unit.

use num_bigint::BigInt;
use num_integer::Integer;
use num_traits::{One, Signed, Zero};

use super::number::{BITS_MAX, Ratio, Real};
use super::parse::{Expr, Op};
use super::units::{self, Dimension, NUMBER};
use super::{CalcError, real};

/// A number of either kind.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Number {
    Exact(Ratio),
    Near(Real),
}

/// A number of a unit.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Quantity {
    pub value: Number,
    pub dimension: Dimension,
}

const FUNCTIONS: &[&str] = &[
    "sqrt",
    "cbrt",
    "root",
    "abs",
    "exp",
    "ln",
    "log",
    "log2",
    "log10",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "arcsin",
    "arccos",
    "arctan",
    "sinh",
    "cosh",
    "tanh",
    "floor",
    "ceil",
    "round",
    "factorial",
    "gcd",
    "lcm",
    "mod",
    "binomial",
    "min",
    "max",
    "pow",
    "sign",
    "choose",
];

pub(super) fn is_function(name: &str) -> bool {
    FUNCTIONS.contains(&name)
}

impl Number {
    pub(super) fn real(&self, bits: u64) -> Real {
        match self {
            Number::Exact(ratio) => ratio.real(bits),
            Number::Near(real) => real.clone(),
        }
    }

    pub(super) fn exact(&self) -> Option<&Ratio> {
        match self {
            Number::Exact(ratio) => Some(ratio),
            Number::Near(_) => None,
        }
    }

    fn is_negative(&self) -> bool {
        match self {
            Number::Exact(ratio) => ratio.is_negative(),
            Number::Near(real) => real.mantissa.is_negative(),
        }
    }

    fn whole(&self) -> Result<BigInt, CalcError> {
        match self {
            Number::Exact(ratio) if ratio.is_int() => Ok(ratio.num.clone()),
            _ => Err(CalcError::Domain("a whole number was expected")),
        }
    }
}

/// Evaluates at a precision of so many bits.
pub(super) struct Eval {
    pub bits: u64,
}

impl Eval {
    /// The value of an expression. Errors: unknown names, units that do not fit, numbers too large, no value there.
    pub fn value(&self, expr: &Expr) -> Result<Quantity, CalcError> {
        match expr {
            Expr::Number(ratio) => Ok(plain(Number::Exact(ratio.clone()))),
            Expr::Name(name) => self.name(name),
            Expr::Binary(op, a, b) => {
                let (a, b) = (self.value(a)?, self.value(b)?);
                match op {
                    Op::Add => self.add(a, b),
                    Op::Sub => {
                        let minus = self.mul(&plain(Number::Exact(Ratio::int(-1))), &b)?;
                        self.add(a, minus)
                    }
                    Op::Mul => self.mul(&a, &b),
                    Op::Div => self.div(&a, &b),
                    Op::Pow => self.pow(&a, &b),
                }
            }
            Expr::Call(name, arguments) => {
                let arguments: Result<Vec<_>, _> =
                    arguments.iter().map(|argument| self.value(argument)).collect();
                self.call(name, &arguments?)
            }
        }
    }

    fn name(&self, name: &str) -> Result<Quantity, CalcError> {
        match name {
            "pi" | "\u{3c0}" | "Pi" | "PI" => Ok(plain(Number::Near(real::pi(self.bits)))),
            "e" => Ok(plain(Number::Near(real::exp(&Ratio::int(1).real(self.bits), self.bits)?))),
            "tau" => {
                let two = Number::Exact(Ratio::int(2));
                self.mul(&plain(two), &self.name("pi")?)
            }
            "phi" => {
                let five = real::sqrt(&Ratio::int(5).real(self.bits), self.bits)?;
                let sum = five.add(&Ratio::int(1).real(self.bits), self.bits);
                Ok(plain(Number::Near(sum.div(&Ratio::int(2).real(self.bits), self.bits)?)))
            }
            "c" => Ok(Quantity {
                value: Number::Exact(Ratio::int(299_792_458)),
                dimension: [1, 0, -1, 0, 0, 0, 0],
            }),
            name => match units::find(name) {
                Some((factor, dimension)) => {
                    Ok(Quantity { value: Number::Exact(factor), dimension })
                }
                None => Err(CalcError::Unknown { name: name.to_owned() }),
            },
        }
    }

    pub(super) fn add(&self, a: Quantity, b: Quantity) -> Result<Quantity, CalcError> {
        if a.dimension != b.dimension {
            return Err(misfit(&a, &b));
        }
        let value = match (&a.value, &b.value) {
            (Number::Exact(a), Number::Exact(b)) => Number::Exact(a.add(b)?),
            (a, b) => Number::Near(a.real(self.bits).add(&b.real(self.bits), self.bits)),
        };
        Ok(Quantity { value, dimension: a.dimension })
    }

    pub(super) fn mul(&self, a: &Quantity, b: &Quantity) -> Result<Quantity, CalcError> {
        let value = match (&a.value, &b.value) {
            (Number::Exact(a), Number::Exact(b)) => Number::Exact(a.mul(b)?),
            (a, b) => Number::Near(a.real(self.bits).mul(&b.real(self.bits), self.bits)?),
        };
        Ok(Quantity { value, dimension: joined(a.dimension, b.dimension, 1)? })
    }

    pub(super) fn div(&self, a: &Quantity, b: &Quantity) -> Result<Quantity, CalcError> {
        let value = match (&a.value, &b.value) {
            (Number::Exact(a), Number::Exact(b)) => Number::Exact(a.div(b)?),
            (a, b) => Number::Near(a.real(self.bits).div(&b.real(self.bits), self.bits)?),
        };
        Ok(Quantity { value, dimension: joined(a.dimension, b.dimension, -1)? })
    }

    fn pow(&self, a: &Quantity, b: &Quantity) -> Result<Quantity, CalcError> {
        if b.dimension != NUMBER {
            return Err(CalcError::Domain("an exponent has no unit"));
        }
        if let (Number::Exact(base), Some(n)) = (&a.value, b.value.exact().and_then(Ratio::to_i64))
        {
            let n8 = i8::try_from(n).unwrap_or(i8::MAX);
            let dimension = joined(NUMBER, a.dimension, n8)?;
            return Ok(Quantity { value: Number::Exact(base.pow(n)?), dimension });
        }
        if a.dimension != NUMBER {
            return Err(CalcError::Domain("units have whole exponents"));
        }
        if let (Some(base), Some(by)) = (a.value.exact(), b.value.exact())
            && let Ok(k) = u32::try_from(&by.den)
            && k <= 64
            && let Some(root) = base.root(k)
            && let Ok(n) = i64::try_from(&by.num)
        {
            return Ok(plain(Number::Exact(root.pow(n)?)));
        }
        let (x, y) = (a.value.real(self.bits + 32), b.value.real(self.bits + 32));
        if x.is_zero() {
            return match b.value.is_negative() {
                true => Err(CalcError::ByZero),
                false => Ok(plain(Number::Exact(Ratio::int(0)))),
            };
        }
        if a.value.is_negative() {
            let whole = b
                .value
                .whole()
                .map_err(|_| CalcError::Domain("a negative number to a power that is not whole"))?;
            let size = real::exp(
                &y.mul(&real::ln(&x.neg(), self.bits + 32)?, self.bits + 32)?,
                self.bits,
            )?;
            return Ok(plain(Number::Near(if whole.is_odd() { size.neg() } else { size })));
        }
        let ln = real::ln(&x, self.bits + 32)?;
        Ok(plain(Number::Near(real::exp(&y.mul(&ln, self.bits + 32)?, self.bits)?)))
    }

    fn call(&self, name: &str, arguments: &[Quantity]) -> Result<Quantity, CalcError> {
        if let (Some(a), "abs" | "min" | "max") = (arguments.first(), name) {
            let minus = |q: &Quantity| self.mul(&plain(Number::Exact(Ratio::int(-1))), q);
            let mut best = match a.value.is_negative() && name == "abs" {
                true => minus(a)?,
                false => a.clone(),
            };
            for other in &arguments[1..] {
                let less = self.add(other.clone(), minus(&best)?)?.value.is_negative();
                if less == (name == "min") {
                    best = other.clone();
                }
            }
            return Ok(best);
        }
        let wrong = || CalcError::Arguments { name: name.to_owned(), got: arguments.len() };
        if name == "sqrt"
            && let [a] = arguments
            && a.dimension != NUMBER
        {
            return self.root_of_unit(a);
        }
        if arguments.iter().any(|argument| argument.dimension != NUMBER) {
            return Err(CalcError::Domain("this function takes numbers without a unit"));
        }
        let values: Vec<&Number> = arguments.iter().map(|argument| &argument.value).collect();
        let value = match values[..] {
            [a] => self.of_one(name, a),
            [a, b] => self.of_two(name, a, b),
            _ => None,
        };
        Ok(plain(value.ok_or_else(wrong)??))
    }

    fn root_of_unit(&self, a: &Quantity) -> Result<Quantity, CalcError> {
        if a.dimension.iter().any(|exponent| exponent % 2 != 0) {
            return Err(CalcError::Domain("the root of this unit is no unit"));
        }
        let value = self.of_one("sqrt", &a.value).expect("sqrt takes one argument")?;
        Ok(Quantity { value, dimension: a.dimension.map(|exponent| exponent / 2) })
    }

    fn of_one(&self, name: &str, a: &Number) -> Option<Result<Number, CalcError>> {
        let bits = self.bits;
        let near = |real: Result<Real, CalcError>| real.map(Number::Near);
        let one = || Ratio::int(1).real(bits);
        let half = |sum: Real| sum.div(&Ratio::int(2).real(bits), bits);
        let x = || a.real(bits + 32);
        let zero = a.exact().is_some_and(Ratio::is_zero);
        let root = |k: u32| a.exact().and_then(|a| a.root(k)).map(Number::Exact);
        Some(match name {
            "sqrt" => root(2).map_or_else(|| near(real::sqrt(&x(), bits)), Ok),
            "cbrt" => root(3).map_or_else(|| self.cube_root(a), Ok),
            "exp" if zero => Ok(Number::Exact(Ratio::int(1))),
            "exp" => near(real::exp(&x(), bits)),
            "ln" if a.exact() == Some(&Ratio::int(1)) => Ok(Number::Exact(Ratio::int(0))),
            "ln" => near(real::ln(&x(), bits)),
            "log" | "log10" => self.logarithm(a, &Number::Exact(Ratio::int(10))),
            "log2" => self.logarithm(a, &Number::Exact(Ratio::int(2))),
            "sin" | "tan" | "asin" | "atan" | "arcsin" | "arctan" | "sinh" | "tanh" if zero => {
                Ok(Number::Exact(Ratio::int(0)))
            }
            "cos" | "cosh" if zero => Ok(Number::Exact(Ratio::int(1))),
            "sin" => near(real::sin_cos(&x(), bits).map(|(sin, _)| sin)),
            "cos" => near(real::sin_cos(&x(), bits).map(|(_, cos)| cos)),
            "tan" => near(real::sin_cos(&x(), bits).and_then(|(sin, cos)| sin.div(&cos, bits))),
            "atan" | "arctan" => near(real::atan(&x(), bits)),
            "asin" | "arcsin" => near(self.arcsine(&x())),
            "acos" | "arccos" => near(
                self.arcsine(&x())
                    .and_then(|asin| Ok(half(real::pi(bits))?.add(&asin.neg(), bits))),
            ),
            "sinh" | "cosh" | "tanh" => near((|| {
                let up = real::exp(&x(), bits + 32)?;
                let down = one().div(&up, bits + 32)?;
                let (sinh, cosh) = (up.add(&down.neg(), bits), up.add(&down, bits));
                match name {
                    "sinh" => half(sinh),
                    "cosh" => half(cosh),
                    _ => sinh.div(&cosh, bits),
                }
            })()),
            "floor" | "ceil" | "round" => self.rounded(name, a),
            "sign" => Ok(Number::Exact(Ratio::int(match (zero, a.is_negative()) {
                (true, _) => 0,
                (false, true) => -1,
                (false, false) => 1,
            }))),
            "factorial" => factorial(a),
            _ => return None,
        })
    }

    fn of_two(&self, name: &str, a: &Number, b: &Number) -> Option<Result<Number, CalcError>> {
        let whole = |f: &dyn Fn(BigInt, BigInt) -> Result<BigInt, CalcError>| {
            Ok(Number::Exact(Ratio::int(f(a.whole()?, b.whole()?)?)))
        };
        Some(match name {
            "log" => self.logarithm(b, a), // log(base, x), as Wolfram has it
            "root" | "pow" => {
                let (a, b) = (plain(a.clone()), plain(b.clone()));
                let one = plain(Number::Exact(Ratio::int(1)));
                let by = if name == "root" { self.div(&one, &b) } else { Ok(b) };
                by.and_then(|by| self.pow(&a, &by)).map(|q| q.value)
            }
            "gcd" => whole(&|a, b| Ok(a.gcd(&b))),
            "lcm" => whole(&|a, b| Ok(a.lcm(&b))),
            "mod" => match (a, b) {
                (Number::Exact(a), Number::Exact(b)) => a.div(b).and_then(|quotient| {
                    a.sub(&b.mul(&Ratio::int(quotient.floor()))?).map(Number::Exact)
                }),
                _ => Err(CalcError::Domain("mod takes exact numbers")),
            },
            "binomial" | "choose" => whole(&binomial),
            _ => return None,
        })
    }

    /// The logarithm of x to a base, exact where it is whole.
    fn logarithm(&self, x: &Number, base: &Number) -> Result<Number, CalcError> {
        let bits = self.bits + 32;
        let (ln_x, ln_base) = (real::ln(&x.real(bits), bits)?, real::ln(&base.real(bits), bits)?);
        let near = ln_x.div(&ln_base, self.bits)?;
        if let (Some(x), Some(base)) = (x.exact(), base.exact()) {
            let half = Ratio::new(1.into(), 2.into())?.real(self.bits);
            let whole = near.add(&half, self.bits).fixed(0)?;
            if let Ok(n) = i64::try_from(&whole)
                && base.pow(n).ok().as_ref() == Some(x)
            {
                return Ok(Number::Exact(Ratio::int(n)));
            }
        }
        Ok(Number::Near(near))
    }

    fn cube_root(&self, a: &Number) -> Result<Number, CalcError> {
        let third = plain(Number::Exact(Ratio::new(1.into(), 3.into())?));
        let minus = plain(Number::Exact(Ratio::int(-1)));
        let a = plain(a.clone());
        match a.value.is_negative() {
            true => Ok(self.mul(&minus, &self.pow(&self.mul(&minus, &a)?, &third)?)?.value),
            false => Ok(self.pow(&a, &third)?.value),
        }
    }

    /// asin x = atan(x / sqrt(1 - x^2)).
    fn arcsine(&self, x: &Real) -> Result<Real, CalcError> {
        let bits = self.bits + 32;
        let rest = Ratio::int(1).real(bits).add(&x.mul(x, 2 * bits)?.neg(), 2 * bits);
        if rest.mantissa.is_negative() {
            return Err(CalcError::Domain("the arcsine of a number beyond 1"));
        }
        if rest.is_zero() {
            let half = real::pi(self.bits).div(&Ratio::int(2).real(self.bits), self.bits)?;
            return Ok(if x.mantissa.is_negative() { half.neg() } else { half });
        }
        real::atan(&x.div(&real::sqrt(&rest, bits)?, bits)?, self.bits)
    }

    fn rounded(&self, name: &str, a: &Number) -> Result<Number, CalcError> {
        let exact = match a {
            Number::Exact(ratio) => ratio.clone(),
            Number::Near(real) => {
                let width = self.bits.max(real.exponent.unsigned_abs().min(BITS_MAX));
                Ratio::new(real.fixed(width)?, BigInt::one() << width)?
            }
        };
        let half = Ratio::new(1.into(), 2.into())?;
        Ok(Number::Exact(Ratio::int(match name {
            "floor" => exact.floor(),
            "ceil" => -exact.neg().floor(),
            _ if exact.is_negative() => -exact.neg().add(&half)?.floor(),
            _ => exact.add(&half)?.floor(),
        })))
    }
}

pub(super) fn plain(value: Number) -> Quantity {
    Quantity { value, dimension: NUMBER }
}

fn misfit(a: &Quantity, b: &Quantity) -> CalcError {
    let show = |q: &Quantity| match q.dimension == NUMBER {
        true => "a number".to_owned(),
        false => units::show(q.dimension),
    };
    CalcError::Units { a: show(a), b: show(b) }
}

fn joined(a: Dimension, b: Dimension, times: i8) -> Result<Dimension, CalcError> {
    let mut out = a;
    for (out, b) in out.iter_mut().zip(b) {
        let more = b.checked_mul(times).ok_or(CalcError::TooLarge)?;
        *out = out.checked_add(more).ok_or(CalcError::TooLarge)?;
    }
    Ok(out)
}

fn factorial(a: &Number) -> Result<Number, CalcError> {
    let n = a.whole()?;
    let n = u32::try_from(&n).ok().filter(|n| *n <= 8000);
    let n = n.ok_or(CalcError::Domain("factorials are of 0 to 8000"))?;
    Ok(Number::Exact(Ratio::int((1..=n).map(BigInt::from).product::<BigInt>())))
}

fn binomial(n: BigInt, k: BigInt) -> Result<BigInt, CalcError> {
    if n.is_negative() || k.is_negative() {
        return Err(CalcError::Domain("binomials are of numbers that are not negative"));
    }
    if k > n {
        return Ok(BigInt::zero());
    }
    let k = k.clone().min(&n - &k);
    let k = u32::try_from(&k).ok().filter(|k| *k <= 8000).ok_or(CalcError::TooLarge)?;
    let mut product = BigInt::one();
    for i in 0..k {
        product = product * (&n - i) / (i + 1);
        if product.bits() > BITS_MAX {
            return Err(CalcError::TooLarge);
        }
    }
    Ok(product)
}
