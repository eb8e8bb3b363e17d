//! A solver for questions of arithmetic: exact where it can be, to as many digits as are asked for where not.
//!
//! `2^100`, `1/3 + 1/7`, `sqrt(2) to 50 digits`, `100th decimal of pi`, `60 mph in km/h`, `100 F to C`,
//! `solve x^2 = x + 1`, `x + y = 3, x - y = 1`, `derivative of x^2 sin(x)`. No float is involved, so every machine gives the
//! same answer.

mod algebra;
mod eval;
mod number;
mod parse;
mod real;
mod units;

use eval::{Eval, Number, Quantity};
use number::Ratio;
use parse::{Expr, Op, binary};

/// Bytes of a question at most.
const QUESTION_BYTES: usize = 16 << 10;
/// Digits that may be asked for.
const DIGITS_MAX: usize = 2000;
/// Digits of a number that is not exact, where nothing is said.
const DIGITS: usize = 15;

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CalcError {
    /// It is no expression from here on.
    #[error("cannot read it at {rest:?}")]
    Syntax {
        /// What stands there.
        rest: String,
    },
    /// A name that is no constant, function or unit.
    #[error("{name:?} is no constant, function or unit that is known here")]
    Unknown {
        /// The name.
        name: String,
    },
    /// A function has another number of arguments.
    #[error("{name} does not take {got} arguments")]
    Arguments {
        /// Its name.
        name: String,
        /// How many were given.
        got: usize,
    },
    /// Units that cannot be added or converted.
    #[error("{a} and {b} do not go together")]
    Units {
        /// The one.
        a: String,
        /// The other.
        b: String,
    },
    /// A division by 0.
    #[error("division by zero")]
    ByZero,
    /// A number beyond 39,000 digits or the range of reals.
    #[error("the number is too large")]
    TooLarge,
    /// Brackets within brackets, or operations, too many.
    #[error("the expression is nested too deeply, or has more than 400 operations")]
    TooDeep,
    /// A function has no value there.
    #[error("{0}")]
    Domain(&'static str),
    /// A question too long.
    #[error("the question has {0} bytes, at most 16384")]
    Long(usize),
}

/// The answer to a question, in a line.
///
/// ```
/// assert_eq!(herd_serve::agent::calc::answer("1/3 + 1/7").as_deref(), Ok("10/21 ≈ 0.476190476190476"));
/// assert_eq!(herd_serve::agent::calc::answer("100 F to C").as_deref(), Ok("340/9 ≈ 37.7777777777778 C"));
/// ```
///
/// Errors: a question that it cannot read, or that has no value.
pub fn answer(question: &str) -> Result<String, CalcError> {
    if question.len() > QUESTION_BYTES {
        return Err(CalcError::Long(question.len()));
    }
    let question = question.trim().trim_end_matches(['?', '.', '=']).trim();
    let question =
        after(question, &["what is ", "calculate ", "compute ", "evaluate ", "simplify "]);
    if let Some(asked) = digit_of(question) {
        return asked;
    }
    let (question, digits) = precision(question)?;
    let eval = Eval { bits: digits as u64 * 4 + 64 }; // a digit has 3.33 bits
    if let Some((what, by)) = derivative(question) {
        let expr = parse::parse(what)?;
        return Ok(algebra::show(&algebra::derive(&expr, by)?));
    }
    let solving = after(question, &["solve "]);
    if solving.contains('=') || solving.len() < question.len() {
        return solve(&eval, solving, digits);
    }
    let converted = [" to ", " in ", " as "].iter().find_map(|word| question.rsplit_once(word));
    if let Some((what, unit)) = converted {
        return convert(&eval, what, unit.trim(), digits);
    }
    let value = eval.value(&parse::parse(question)?)?;
    Ok(show(&value, &eval, digits))
}

/// The text behind the first of these words that it begins with, whatever their case.
fn after<'a>(text: &'a str, words: &[&str]) -> &'a str {
    let begins =
        |word: &&&str| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    words.iter().find(begins).map_or(text, |word| text[word.len()..].trim())
}

/// `... to N digits`; the rest, and N.
fn precision(question: &str) -> Result<(&str, usize), CalcError> {
    let wanted = (|| {
        let rest = ["digits", "decimals", "decimal places", "places"]
            .iter()
            .find_map(|word| question.strip_suffix(word))?;
        let (what, n) = rest.trim().rsplit_once(' ')?;
        let what = what.trim().strip_suffix("to").or(what.trim().strip_suffix("with"))?;
        Some((what.trim(), n.parse::<usize>().ok()?))
    })();
    match wanted {
        None => Ok((question, DIGITS)),
        Some((what, n)) if (1..=DIGITS_MAX).contains(&n) => Ok((what, n)),
        Some(_) => Err(CalcError::Domain("1 to 2000 digits can be asked for")),
    }
}

/// `100th decimal of pi`: the digit at that place behind the point.
fn digit_of(question: &str) -> Option<Result<String, CalcError>> {
    let question = after(question, &["the "]);
    let (place, rest) = question.split_once(' ')?;
    let place = ["st", "nd", "rd", "th"].iter().find_map(|end| place.strip_suffix(end))?;
    let place: usize = place.parse().ok()?;
    let (kind, what) = rest.split_once(" of ")?;
    if !matches!(kind, "decimal" | "digit" | "decimal digit" | "decimal place") {
        return None;
    }
    if !(1..=DIGITS_MAX).contains(&place) {
        return Some(Err(CalcError::Domain("places are counted from 1 to 2000")));
    }
    let digit = || {
        let eval = Eval { bits: place as u64 * 4 + 128 };
        let value = eval.value(&parse::parse(what)?)?.value;
        let scaled = match &value {
            Number::Exact(ratio) => ratio.mul(&Ratio::int(10).pow(place as i64)?)?.floor(),
            Number::Near(real) => {
                let ten = Ratio::int(10).pow(place as i64)?.real(eval.bits);
                real.mul(&ten, eval.bits)?.fixed(0)?
            }
        };
        let digits = scaled.magnitude().to_string();
        Ok(digits[digits.len() - 1..].to_owned())
    };
    Some(digit())
}

/// `derivative of E`, `d/dx E`, `diff(E, x)`.
fn derivative(question: &str) -> Option<(&str, &str)> {
    let rest = after(question, &["derivative of ", "the derivative of ", "differentiate "]);
    if rest.len() < question.len() {
        let by = [" with respect to ", " wrt ", " by "].iter().find_map(|w| rest.rsplit_once(w));
        return Some(by.map_or((rest, "x"), |(what, by)| (what, by.trim())));
    }
    if let Some(rest) = question.strip_prefix("d/d") {
        let end = rest.find(|c: char| !c.is_alphanumeric())?;
        return Some((&rest[end..], &rest[..end]));
    }
    let inner = question.strip_prefix("diff(")?.strip_suffix(')')?;
    let (what, by) = inner.rsplit_once(',')?;
    Some((what, by.trim()))
}

/// One equation or several, parted by commas, semicolons or `and`.
fn solve(eval: &Eval, text: &str, digits: usize) -> Result<String, CalcError> {
    let (text, wanted) = match text.rsplit_once(" for ") {
        Some((text, name)) if name.trim().chars().all(char::is_alphanumeric) => {
            (text, Some(name.trim()))
        }
        _ => (text, None),
    };
    let text = text.replace(" and ", ",").replace(';', ",");
    let zero = |equation: &str| {
        let (left, right) = equation.split_once('=').unwrap_or((equation, "0"));
        Ok(binary(Op::Sub, parse::parse(left)?, parse::parse(right)?))
    };
    let zeros: Result<Vec<Expr>, CalcError> = text.split(',').map(zero).collect();
    algebra::solve(eval, &zeros?, wanted, digits)
}

fn convert(eval: &Eval, what: &str, unit: &str, digits: usize) -> Result<String, CalcError> {
    let expr = parse::parse(what)?;
    if let Expr::Binary(Op::Mul, number, name) = &expr
        && let (Expr::Name(from), Some(to)) = (&**name, units::temperature(unit))
        && let Some(from) = units::temperature(from)
        && let Some(degrees) = eval.value(number)?.value.exact()
    {
        let kelvin = degrees.add(&from.0)?.mul(&from.1)?;
        let there = kelvin.div(&to.1)?.sub(&to.0)?;
        return Ok(format!("{} {unit}", show_number(&Number::Exact(there), eval, digits)));
    }
    let (value, one) = (eval.value(&expr)?, eval.value(&parse::parse(unit)?)?);
    if value.dimension != one.dimension {
        let told = |q: &Quantity| match q.dimension == units::NUMBER {
            true => "a number".to_owned(),
            false => units::show(q.dimension),
        };
        return Err(CalcError::Units { a: told(&value), b: told(&one) });
    }
    let there = eval.div(&value, &one)?;
    Ok(format!("{} {unit}", show_number(&there.value, eval, digits)))
}

/// Whether a name stands for something by itself, where equations have other names.
fn constant(name: &str) -> bool {
    matches!(name, "pi" | "\u{3c0}" | "e" | "tau" | "phi")
}

fn show(value: &Quantity, eval: &Eval, digits: usize) -> String {
    let number = show_number(&value.value, eval, digits);
    match value.dimension == units::NUMBER {
        true => number,
        false => format!("{number} {}", units::show(value.dimension)),
    }
}

/// An exact number as such, with a decimal beside a fraction; one that is not after `≈`.
fn show_number(number: &Number, eval: &Eval, digits: usize) -> String {
    match number {
        Number::Exact(ratio) if ratio.is_int() => ratio.num.to_string(),
        Number::Exact(ratio) => match ratio.decimal(digits as u32) {
            Some(decimal) => decimal,
            None => {
                let near = ratio.real(eval.bits).show(digits);
                match ratio.num.bits().max(ratio.den.bits()) > 200 {
                    true => format!("\u{2248} {near}"),
                    false => format!("{}/{} \u{2248} {near}", ratio.num, ratio.den),
                }
            }
        },
        Number::Near(real) => format!("\u{2248} {}", real.show(digits)),
    }
}
