//! Equations and derivatives: polynomials of one unknown, linear systems of several, rules of differentiation.

use std::collections::BTreeMap;

use num_bigint::BigInt;
use num_traits::{Signed, ToPrimitive};

use super::CalcError;
use super::eval::{Eval, Number};
use super::number::Ratio;
use super::parse::{Expr, Op, binary};
use super::{constant, show_number, units};

/// Degrees beyond this are refused.
const DEGREE_MAX: usize = 24;

/// The names in an expression that stand for nothing known.
pub(super) fn unknowns(expr: &Expr, found: &mut Vec<String>) {
    match expr {
        Expr::Number(_) => {}
        Expr::Name(name) if constant(name) || found.contains(name) => {}
        Expr::Name(name) => found.push(name.clone()),
        Expr::Binary(_, a, b) => {
            unknowns(a, found);
            unknowns(b, found);
        }
        Expr::Call(_, arguments) => arguments.iter().for_each(|a| unknowns(a, found)),
    }
}

/// Solves equations, each given as what must be 0.
///
/// Errors: what is not polynomial; systems that are not linear; no unknown.
pub(super) fn solve(
    eval: &Eval,
    zeros: &[Expr],
    wanted: Option<&str>,
    digits: usize,
) -> Result<String, CalcError> {
    let mut names = Vec::new();
    zeros.iter().for_each(|zero| unknowns(zero, &mut names));
    if names.len() > 1 {
        // Letters that are units or constants elsewhere are unknowns here only where nothing else is.
        names.retain(|name| !units::is_unit(name) || wanted == Some(name));
    }
    match (zeros, &names[..]) {
        ([zero], [name]) => {
            let roots = roots(eval, &polynomial(zero, name)?, digits)?;
            Ok(told(name, &roots))
        }
        (_, []) => Err(CalcError::Domain("the equation has no unknown")),
        _ => linear(zeros, &names, digits),
    }
}

fn told(name: &str, roots: &[String]) -> String {
    match roots {
        [] => "no solution".to_owned(),
        roots => {
            let each = roots.iter().map(|root| match root.strip_prefix("\u{2248} ") {
                Some(near) => format!("{name} \u{2248} {near}"),
                None => format!("{name} = {root}"),
            });
            each.collect::<Vec<_>>().join(" or ")
        }
    }
}

/// The coefficients of an expression in one unknown, the constant first.
fn polynomial(expr: &Expr, name: &str) -> Result<Vec<Ratio>, CalcError> {
    let unfit = CalcError::Domain("only polynomial equations with exact coefficients are solved");
    let trimmed = |mut p: Vec<Ratio>| {
        while p.len() > 1 && p.last().is_some_and(Ratio::is_zero) {
            p.pop();
        }
        p
    };
    Ok(trimmed(match expr {
        Expr::Number(ratio) => vec![ratio.clone()],
        Expr::Name(found) if found == name => vec![Ratio::int(0), Ratio::int(1)],
        Expr::Name(_) => return Err(unfit),
        Expr::Call(..) => vec![exact(expr).ok_or(unfit)?],
        Expr::Binary(op, a, b) => match op {
            Op::Add | Op::Sub => {
                let (a, b) = (polynomial(a, name)?, polynomial(b, name)?);
                let zero = Ratio::int(0);
                let at = |p: &[Ratio], i: usize| p.get(i).unwrap_or(&zero).clone();
                let one = |i| match op {
                    Op::Sub => at(&a, i).sub(&at(&b, i)),
                    _ => at(&a, i).add(&at(&b, i)),
                };
                (0..a.len().max(b.len())).map(one).collect::<Result<_, _>>()?
            }
            Op::Mul => times(&polynomial(a, name)?, &polynomial(b, name)?)?,
            Op::Div => {
                let (a, b) = (polynomial(a, name)?, polynomial(b, name)?);
                let [by] = &b[..] else { return Err(unfit) };
                a.iter().map(|c| c.div(by)).collect::<Result<_, _>>()?
            }
            Op::Pow => {
                let (base, n) = (polynomial(a, name)?, exact(b).ok_or(unfit)?);
                if let ([c], Some(n)) = (&base[..], n.to_i64()) {
                    return Ok(vec![c.pow(n)?]);
                }
                let n = n.to_i64().and_then(|n| usize::try_from(n).ok());
                let n = n.filter(|n| n * (base.len() - 1) <= DEGREE_MAX);
                let n = n.ok_or(CalcError::Domain("the degree of an equation is at most 24"))?;
                let mut power = vec![Ratio::int(1)];
                for _ in 0..n {
                    power = times(&power, &base)?;
                }
                power
            }
        },
    }))
}

/// The value of an expression without unknowns, if it is exact and has no unit.
fn exact(expr: &Expr) -> Option<Ratio> {
    let value = Eval { bits: 64 }.value(expr).ok()?;
    (value.dimension == units::NUMBER).then_some(())?;
    value.value.exact().cloned()
}

fn times(a: &[Ratio], b: &[Ratio]) -> Result<Vec<Ratio>, CalcError> {
    let mut out = vec![Ratio::int(0); a.len() + b.len() - 1];
    if out.len() > DEGREE_MAX + 1 {
        return Err(CalcError::Domain("the degree of an equation is at most 24"));
    }
    for (i, a) in a.iter().enumerate() {
        for (j, b) in b.iter().enumerate() {
            out[i + j] = out[i + j].add(&a.mul(b)?)?;
        }
    }
    Ok(out)
}

/// The roots of a polynomial, rational ones first divided out; what is left of degree 2 by its formula.
fn roots(eval: &Eval, p: &[Ratio], digits: usize) -> Result<Vec<String>, CalcError> {
    let mut p = p.to_vec();
    if p.len() == 1 {
        let all = p[0].is_zero();
        return if all { Err(CalcError::Domain("every number solves it")) } else { Ok(vec![]) };
    }
    let mut found: Vec<Ratio> = Vec::new();
    while p.len() > 3 {
        let Some(root) = rational_root(&p)? else {
            let what = "roots of degree 3 and more are found only where they are rational";
            return Err(CalcError::Domain(what));
        };
        p = without(&p, &root)?;
        found.push(root);
    }
    let mut near = Vec::new();
    match &p[..] {
        [c, b] => found.push(c.neg().div(b)?),
        [c, b, a] => {
            let four = Ratio::int(4);
            let inner = b.mul(b)?.sub(&four.mul(a)?.mul(c)?)?;
            let twice = a.mul(&Ratio::int(2))?;
            match inner.root(2) {
                Some(root) => {
                    found.push(b.neg().sub(&root)?.div(&twice)?);
                    found.push(b.neg().add(&root)?.div(&twice)?);
                }
                None => near = irrational(eval, b, &inner, &twice, digits)?,
            }
        }
        _ => {}
    }
    found.sort_by(|a, b| {
        if a.less(b) {
            std::cmp::Ordering::Less
        } else if b.less(a) {
            std::cmp::Ordering::Greater
        } else {
            std::cmp::Ordering::Equal
        }
    });
    found.dedup();
    let mut shown: Vec<String> =
        found.into_iter().map(|root| show_number(&Number::Exact(root), eval, digits)).collect();
    shown.extend(near);
    Ok(shown)
}

/// (-b -+ sqrt(inner)) / twice, complex where `inner` is negative.
fn irrational(
    eval: &Eval,
    b: &Ratio,
    inner: &Ratio,
    twice: &Ratio,
    digits: usize,
) -> Result<Vec<String>, CalcError> {
    let bits = eval.bits;
    let size = if inner.is_negative() { inner.neg() } else { inner.clone() };
    let root = match size.root(2) {
        Some(exact) => exact.real(bits),
        None => super::real::sqrt(&size.real(bits + 16), bits)?,
    };
    let middle = b.neg().div(twice)?;
    let side = root.div(&twice.real(bits), bits)?;
    let side = if side.mantissa.is_negative() { side.neg() } else { side };
    if inner.is_negative() {
        let (middle, side) = (middle.real(bits).show(digits), side.show(digits));
        let near = "\u{2248} ";
        return Ok(vec![
            format!("{near}{middle} - {side} i"),
            format!("{near}{middle} + {side} i"),
        ]);
    }
    let middle = middle.real(bits);
    let both = [middle.add(&side.neg(), bits), middle.add(&side, bits)];
    Ok(both.map(|root| format!("\u{2248} {}", root.show(digits))).to_vec())
}

/// A root p / q, where p divides the constant and q the leading coefficient; both must be small.
fn rational_root(p: &[Ratio]) -> Result<Option<Ratio>, CalcError> {
    if p[0].is_zero() {
        return Ok(Some(Ratio::int(0)));
    }
    let common = p.iter().fold(BigInt::from(1), |all, c| num_integer::Integer::lcm(&all, &c.den));
    let whole = |c: &Ratio| (&c.num * &common / &c.den).abs().to_u64().filter(|n| *n <= 10_000);
    let (Some(last), Some(lead)) = (whole(&p[0]), whole(&p[p.len() - 1])) else {
        return Ok(None);
    };
    let divisors = |n: u64| -> Vec<u64> {
        let small: Vec<u64> = (1..=n.isqrt()).filter(|d| n.is_multiple_of(*d)).collect();
        let large: Vec<u64> = small.iter().map(|d| n / d).collect();
        small.into_iter().chain(large).collect()
    };
    for num in divisors(last) {
        for den in divisors(lead) {
            for sign in [1, -1] {
                let root = Ratio::new(BigInt::from(num) * sign, den.into())?;
                let value =
                    p.iter().rev().try_fold(Ratio::int(0), |sum, c| sum.mul(&root)?.add(c))?;
                if value.is_zero() {
                    return Ok(Some(root));
                }
            }
        }
    }
    Ok(None)
}

/// The polynomial divided by x - root, of which it is a multiple.
fn without(p: &[Ratio], root: &Ratio) -> Result<Vec<Ratio>, CalcError> {
    let mut quotient = vec![Ratio::int(0); p.len() - 1];
    let mut carry = Ratio::int(0);
    for i in (1..p.len()).rev() {
        carry = carry.mul(root)?.add(&p[i])?;
        quotient[i - 1] = carry.clone();
    }
    Ok(quotient)
}

/// A system of linear equations, by elimination.
fn linear(zeros: &[Expr], names: &[String], digits: usize) -> Result<String, CalcError> {
    let width = names.len();
    if width > 32 || zeros.len() > 32 {
        return Err(CalcError::TooLarge);
    }
    let mut rows = Vec::new();
    for zero in zeros {
        let terms = terms(zero)?;
        let at = |name: &str| terms.get(name).cloned().unwrap_or(Ratio::int(0));
        let mut row: Vec<Ratio> = names.iter().map(|name| at(name)).collect();
        row.push(at("").neg());
        rows.push(row);
    }
    let mut rank = 0;
    for column in 0..width {
        let Some(pivot) = (rank..rows.len()).find(|&r| !rows[r][column].is_zero()) else {
            continue;
        };
        rows.swap(rank, pivot);
        let lead = rows[rank][column].clone();
        for cell in &mut rows[rank] {
            *cell = cell.div(&lead)?;
        }
        let row = rows[rank].clone();
        for (r, other) in rows.iter_mut().enumerate() {
            let by = other[column].clone();
            if r != rank && !by.is_zero() {
                for (cell, above) in other.iter_mut().zip(&row) {
                    *cell = cell.sub(&by.mul(above)?)?;
                }
            }
        }
        rank += 1;
    }
    if rows[rank..].iter().any(|row| !row[width].is_zero()) {
        return Ok("no solution".to_owned());
    }
    if rank < width {
        return Err(CalcError::Domain("the equations leave more than one solution"));
    }
    let eval = Eval { bits: 128 };
    let show = |(name, row): (&String, &Vec<Ratio>)| {
        format!("{name} = {}", show_number(&Number::Exact(row[width].clone()), &eval, digits))
    };
    Ok(names.iter().zip(&rows).map(show).collect::<Vec<_>>().join(", "))
}

/// The coefficients of a linear expression by unknown, the constant under "".
fn terms(expr: &Expr) -> Result<BTreeMap<String, Ratio>, CalcError> {
    let unfit = CalcError::Domain("systems of equations must be linear");
    let scaled = |terms: BTreeMap<String, Ratio>, by: &Ratio| {
        terms.into_iter().map(|(name, c)| Ok((name, c.mul(by)?))).collect::<Result<_, CalcError>>()
    };
    if let Some(value) = exact(expr) {
        return Ok([(String::new(), value)].into_iter().collect());
    }
    match expr {
        Expr::Name(name) => Ok([(name.clone(), Ratio::int(1))].into_iter().collect()),
        Expr::Binary(op @ (Op::Add | Op::Sub), a, b) => {
            let mut sum = terms(a)?;
            let sign = Ratio::int(if *op == Op::Add { 1 } else { -1 });
            for (name, c) in terms(b)? {
                let all = sum.entry(name).or_insert(Ratio::int(0));
                *all = all.add(&c.mul(&sign)?)?;
            }
            Ok(sum)
        }
        Expr::Binary(Op::Mul, a, b) => match (exact(a), exact(b)) {
            (Some(by), _) => scaled(terms(b)?, &by),
            (_, Some(by)) => scaled(terms(a)?, &by),
            _ => Err(unfit),
        },
        Expr::Binary(Op::Div, a, b) => {
            let by = exact(b).ok_or(unfit)?;
            scaled(terms(a)?, &Ratio::int(1).div(&by)?)
        }
        Expr::Number(_) | Expr::Binary(Op::Pow, ..) | Expr::Call(..) => Err(unfit),
    }
}

/// The derivative of an expression with respect to a name.
///
/// Errors: a function whose derivative is not known here.
pub(super) fn derive(expr: &Expr, by: &str) -> Result<Expr, CalcError> {
    let number = |n: i64| Expr::Number(Ratio::int(n));
    let call = |name: &str, inner: &Expr| Expr::Call(name.to_owned(), vec![inner.clone()]);
    Ok(match expr {
        Expr::Number(_) => number(0),
        Expr::Name(name) => number(i64::from(name == by)),
        Expr::Binary(op, a, b) => match op {
            Op::Add | Op::Sub => tidy(*op, derive(a, by)?, derive(b, by)?),
            Op::Mul => {
                let left = tidy(Op::Mul, derive(a, by)?, (**b).clone());
                tidy(Op::Add, left, tidy(Op::Mul, (**a).clone(), derive(b, by)?))
            }
            Op::Div => {
                let left = tidy(Op::Mul, derive(a, by)?, (**b).clone());
                let top = tidy(Op::Sub, left, tidy(Op::Mul, (**a).clone(), derive(b, by)?));
                tidy(Op::Div, top, tidy(Op::Pow, (**b).clone(), number(2)))
            }
            Op::Pow => {
                let mut inside = Vec::new();
                unknowns(b, &mut inside);
                if inside.iter().any(|name| name == by) {
                    // a^b = e^(b ln a)
                    let log = tidy(Op::Mul, (**b).clone(), tidy_ln(a));
                    tidy(Op::Mul, expr.clone(), derive(&log, by)?)
                } else {
                    let less = tidy(Op::Sub, (**b).clone(), number(1));
                    let power = tidy(Op::Pow, (**a).clone(), less);
                    let outer = tidy(Op::Mul, (**b).clone(), power);
                    tidy(Op::Mul, outer, derive(a, by)?)
                }
            }
        },
        Expr::Call(name, arguments) => {
            let [a] = &arguments[..] else {
                return Err(CalcError::Domain("this function is not differentiated"));
            };
            let over = |top: Expr, bottom: Expr| tidy(Op::Div, top, bottom);
            let square = |inner: Expr| tidy(Op::Pow, inner, number(2));
            let outer = match name.as_str() {
                "sin" => call("cos", a),
                "cos" => tidy(Op::Mul, number(-1), call("sin", a)),
                "tan" => over(number(1), square(call("cos", a))),
                "exp" => call("exp", a),
                "ln" => over(number(1), a.clone()),
                "sqrt" => over(number(1), tidy(Op::Mul, number(2), call("sqrt", a))),
                "atan" | "arctan" => over(number(1), tidy(Op::Add, number(1), square(a.clone()))),
                "sinh" => call("cosh", a),
                "cosh" => call("sinh", a),
                _ => return Err(CalcError::Domain("this function is not differentiated")),
            };
            tidy(Op::Mul, outer, derive(a, by)?)
        }
    })
}

fn tidy_ln(a: &Expr) -> Expr {
    match a {
        Expr::Name(name) if name == "e" => Expr::Number(Ratio::int(1)),
        a => Expr::Call("ln".to_owned(), vec![a.clone()]),
    }
}

/// An operation, without what adds 0 or multiplies by 1, and with numbers taken together.
fn tidy(op: Op, a: Expr, b: Expr) -> Expr {
    let is = |expr: &Expr, n: i64| matches!(expr, Expr::Number(r) if *r == Ratio::int(n));
    if let (Expr::Number(x), Expr::Number(y)) = (&a, &b) {
        let value = match op {
            Op::Add => x.add(y).ok(),
            Op::Sub => x.sub(y).ok(),
            Op::Mul => x.mul(y).ok(),
            Op::Div => x.div(y).ok(),
            Op::Pow => y.to_i64().and_then(|n| x.pow(n).ok()),
        };
        if let Some(value) = value {
            return Expr::Number(value);
        }
    }
    match op {
        Op::Add if is(&a, 0) => b,
        Op::Add | Op::Sub if is(&b, 0) => a,
        Op::Mul if is(&a, 0) || is(&b, 0) => Expr::Number(Ratio::int(0)),
        Op::Mul if is(&a, 1) => b,
        Op::Mul | Op::Div | Op::Pow if is(&b, 1) => a,
        Op::Div if is(&a, 0) => a,
        Op::Mul => match (a, b) {
            (a, Expr::Number(n)) => tidy(Op::Mul, Expr::Number(n), a),
            (Expr::Number(n), Expr::Binary(Op::Mul, inner, rest))
                if matches!(*inner, Expr::Number(_)) =>
            {
                tidy(Op::Mul, tidy(Op::Mul, Expr::Number(n), *inner), *rest)
            }
            (a, b) => binary(Op::Mul, a, b),
        },
        Op::Add | Op::Sub | Op::Div | Op::Pow => binary(op, a, b),
    }
}

/// An expression as text, with the brackets that it needs.
pub(super) fn show(expr: &Expr) -> String {
    show_within(expr, 0)
}

fn show_within(expr: &Expr, outer: u8) -> String {
    let (text, own) = match expr {
        Expr::Number(ratio) if ratio.is_int() => {
            (ratio.num.to_string(), if ratio.is_negative() { 1 } else { 4 })
        }
        Expr::Number(ratio) => (format!("{}/{}", ratio.num, ratio.den), 2),
        Expr::Name(name) => (name.clone(), 4),
        Expr::Call(name, arguments) => {
            let inner: Vec<String> = arguments.iter().map(show).collect();
            (format!("{name}({})", inner.join(", ")), 4)
        }
        Expr::Binary(op, a, b) => {
            let (sign, own, left, right) = match op {
                Op::Add => (" + ", 1, 1, 1),
                Op::Sub => (" - ", 1, 1, 2),
                Op::Mul => ("*", 2, 2, 2),
                Op::Div => ("/", 2, 2, 3),
                Op::Pow => ("^", 3, 4, 3),
            };
            (format!("{}{sign}{}", show_within(a, left), show_within(b, right)), own)
        }
    };
    if own < outer { format!("({text})") } else { text }
}
