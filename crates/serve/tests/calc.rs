//! The calculator of agents against answers of Python's integers and fractions, mpmath and sympy.

#![allow(clippy::unwrap_used)] // helpers of tests too

use herd_serve::agent::calc::{CalcError, answer};
use serde_json::Value;

#[test]
fn recorded_questions_have_their_recorded_answers() {
    let text = include_str!("../../../testdata/calc.json");
    let cases: Vec<Value> = serde_json::from_str(text).unwrap();
    assert!(cases.len() > 400);
    let mut wrong = Vec::new();
    for case in &cases {
        let ask = case["ask"].as_str().unwrap();
        let field = |name: &str| case[name].as_str().map(str::to_owned);
        let (got, expected) = if let Some(exact) = field("exact") {
            (answer(ask).map(|a| as_fraction(&a)), exact)
        } else if let Some(near) = field("near") {
            let bare = |a: String| a.trim_start_matches("\u{2248} ").to_owned();
            (answer(ask).map(bare), near)
        } else if let Some(at) = field("derivative") {
            let derivative = answer(&format!("derivative of {ask}")).unwrap();
            let there =
                derivative.replace("exp", "EXP").replace('x', "(3/4)").replace("EXP", "exp");
            let value = answer(&format!("({there}) to 25 digits"));
            (value.map(|a| a.rsplit("\u{2248} ").next().unwrap().to_owned()), at)
        } else {
            (answer(ask), field("text").unwrap())
        };
        if got.as_ref() != Ok(&expected) {
            wrong.push(format!("{ask}: {got:?}, expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// The fraction of an answer, whether it is written as one or as a decimal.
fn as_fraction(answer: &str) -> String {
    let exact = answer.split(" \u{2248} ").next().unwrap();
    let Some((whole, places)) = exact.split_once('.') else { return exact.to_owned() };
    let digits: i128 = format!("{whole}{places}").parse().unwrap();
    let ten = 10i128.pow(places.len() as u32);
    let gcd = |mut a: i128, mut b: i128| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a.abs()
    };
    let by = gcd(digits, ten);
    format!("{}/{}", digits / by, ten / by)
}

#[test]
fn units_scales_and_words_are_understood() {
    for (ask, expected) in [
        ("60 mph in km/h", "96.56064 km/h"),
        ("100 F to C", "340/9 \u{2248} 37.7777777777778 C"),
        ("-40 C to F", "-40 F"),
        ("3 km + 20 m", "3020 m"),
        ("10 m / 2 s", "5 m s^-1"),
        ("sqrt(16 m^2)", "4 m"),
        ("1 KiB to bytes", "1024 bytes"),
        ("2 kWh to MJ", "7.2 MJ"),
        ("1 eV to J", "801088317/5000000000000000000000000000 \u{2248} 1.602176634e-19 J"),
        ("What is 15% * 80?", "12"),
        ("1,234,567 + 1", "1234568"),
        ("max(3, 7, 5)", "7"),
        ("2^3^2", "512"),
        ("-2^2", "-4"),
        ("log10(1000)", "3"),
        ("sin(pi)", "\u{2248} 0"),
        ("0.1 + 0.2", "0.3"),
        ("solve x^2 + 1 = 0", "x \u{2248} 0 - 1 i or x \u{2248} 0 + 1 i"),
        ("solve x^3 - 6x^2 + 11x = 6", "x = 1 or x = 2 or x = 3"),
        ("x + y = 3 and x + y = 4", "no solution"),
    ] {
        assert_eq!(answer(ask).as_deref(), Ok(expected), "{ask}");
    }
}

#[test]
fn questions_without_an_answer_say_why_and_end_soon() {
    for (ask, wanted) in [
        ("1/0", CalcError::ByZero),
        ("0^-1", CalcError::ByZero),
        ("9^9^9^9", CalcError::TooLarge),
        ("1e999999999999", CalcError::TooLarge),
        ("exp(exp(100))", CalcError::TooLarge),
        ("sin(1e100000)", CalcError::TooLarge),
        ("frobnicate", CalcError::Unknown { name: "frobnicate".into() }),
        ("1 m + 1 s", CalcError::Units { a: "m".into(), b: "s".into() }),
        ("5 km to kg", CalcError::Units { a: "m".into(), b: "kg".into() }),
        ("2 +", CalcError::Syntax { rest: String::new() }),
        ("2 $ 3", CalcError::Syntax { rest: "$ 3".into() }),
    ] {
        assert_eq!(answer(ask), Err(wanted), "{ask}");
    }
    for ask in ["(-1)^0.5", "ln(0)", "asin(2)", "9999!", "", "solve 1 = 2", "2 to 9999 digits"] {
        assert!(answer(ask).is_err(), "{ask}");
    }
    assert_eq!(answer(&"1+".repeat(500)), Err(CalcError::TooDeep));
    assert_eq!(answer(&format!("1{}", "!".repeat(500))), Err(CalcError::TooDeep));
    for ask in ["(", "-", "x^", "sqrt(", "!", "1+"] {
        assert!(answer(&ask.repeat(3000)).is_err());
    }
}
