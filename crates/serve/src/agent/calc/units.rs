//! Units: how many of the base units one is, exactly. BIPM's SI brochure, and NIST SP 811 for the others.

use super::number::Ratio;

/// Exponents of metre, kilogram, second, ampere, kelvin, mole, bit.
pub(super) type Dimension = [i8; 7];

pub(super) const NUMBER: Dimension = [0; 7];

/// Names, numerator and denominator of the factor, exponents of base units.
type Row = (&'static [&'static str], i64, i64, Dimension);

const M: Dimension = [1, 0, 0, 0, 0, 0, 0];
const M2: Dimension = [2, 0, 0, 0, 0, 0, 0];
const M3: Dimension = [3, 0, 0, 0, 0, 0, 0];
const KG: Dimension = [0, 1, 0, 0, 0, 0, 0];
const S: Dimension = [0, 0, 1, 0, 0, 0, 0];
const V: Dimension = [1, 0, -1, 0, 0, 0, 0];
const N: Dimension = [1, 1, -2, 0, 0, 0, 0];
const J: Dimension = [2, 1, -2, 0, 0, 0, 0];
const W: Dimension = [2, 1, -3, 0, 0, 0, 0];
const PA: Dimension = [-1, 1, -2, 0, 0, 0, 0];
const A: Dimension = [0, 0, 0, 1, 0, 0, 0];
const K: Dimension = [0, 0, 0, 0, 1, 0, 0];
const BIT: Dimension = [0, 0, 0, 0, 0, 0, 1];

const UNITS: &[Row] = &[
    (&["m", "meter", "metre", "meters", "metres"], 1, 1, M),
    (&["inch", "inches"], 254, 10_000, M),
    (&["ft", "foot", "feet"], 3048, 10_000, M),
    (&["yd", "yard", "yards"], 9144, 10_000, M),
    (&["mi", "mile", "miles"], 1_609_344, 1000, M),
    (&["nmi"], 1852, 1, M),
    (&["au"], 149_597_870_700, 1, M),
    (&["ly", "lightyear", "lightyears"], 9_460_730_472_580_800, 1, M),
    (&["acre", "acres"], 40_468_564_224, 10_000_000, M2),
    (&["ha", "hectare", "hectares"], 10_000, 1, M2),
    (&["l", "L", "liter", "litre", "liters", "litres"], 1, 1000, M3),
    (&["gal", "gallon", "gallons"], 3_785_411_784, 1_000_000_000_000, M3),
    (&["quart", "quarts"], 946_352_946, 1_000_000_000_000, M3),
    (&["pint", "pints"], 473_176_473, 1_000_000_000_000, M3),
    (&["cup", "cups"], 2_365_882_365, 10_000_000_000_000, M3),
    (&["floz"], 295_735_295_625, 10_000_000_000_000_000, M3),
    (&["g", "gram", "grams"], 1, 1000, KG),
    (&["t", "tonne", "tonnes"], 1000, 1, KG),
    (&["lb", "lbs", "pound", "pounds"], 45_359_237, 100_000_000, KG),
    (&["oz", "ounce", "ounces"], 45_359_237, 1_600_000_000, KG),
    (&["stone"], 635_029_318, 100_000_000, KG),
    (&["s", "sec", "second", "seconds"], 1, 1, S),
    (&["min", "minute", "minutes"], 60, 1, S),
    (&["h", "hr", "hour", "hours"], 3600, 1, S),
    (&["day", "days"], 86_400, 1, S),
    (&["week", "weeks"], 604_800, 1, S),
    (&["year", "years"], 31_557_600, 1, S),
    (&["kph", "kmh"], 1000, 3600, V),
    (&["mph"], 1_609_344, 3_600_000, V),
    (&["knot", "knots"], 1852, 3600, V),
    (&["Hz", "hertz"], 1, 1, [0, 0, -1, 0, 0, 0, 0]),
    (&["N", "newton", "newtons"], 1, 1, N),
    (&["lbf"], 44_482_216_152_605, 10_000_000_000_000, N),
    (&["J", "joule", "joules"], 1, 1, J),
    (&["cal", "calorie", "calories"], 4184, 1000, J),
    (&["Wh"], 3600, 1, J),
    // 1.602176634e-19: `plain` has the last 12 places, which an i64 does not hold.
    (&["eV"], 1_602_176_634, 10_000_000_000_000_000, J),
    (&["W", "watt", "watts"], 1, 1, W),
    (&["hp", "horsepower"], 74_569_987_158_227_022, 100_000_000_000_000, W),
    (&["Pa", "pascal"], 1, 1, PA),
    (&["bar"], 100_000, 1, PA),
    (&["atm"], 101_325, 1, PA),
    (&["psi"], 68_947_572_931_683, 10_000_000_000, PA),
    (&["mmHg"], 133_322_387_415, 1_000_000_000, PA),
    (&["A", "ampere", "amperes"], 1, 1, A),
    (&["C_", "coulomb"], 1, 1, [0, 0, 1, 1, 0, 0, 0]),
    (&["volt", "volts", "V"], 1, 1, [2, 1, -3, -1, 0, 0, 0]),
    (&["ohm", "ohms"], 1, 1, [2, 1, -3, -2, 0, 0, 0]),
    (&["K", "kelvin"], 1, 1, K),
    (&["mol"], 1, 1, [0, 0, 0, 0, 0, 1, 0]),
    (&["bit", "bits"], 1, 1, BIT),
    (&["B", "byte", "bytes"], 8, 1, BIT),
    (&["KiB"], 8 << 10, 1, BIT),
    (&["MiB"], 8 << 20, 1, BIT),
    (&["GiB"], 8 << 30, 1, BIT),
    (&["TiB"], 8 << 40, 1, BIT),
];

/// Names of units that take the prefixes of SI.
const PREFIXED: &[&str] = &[
    "m", "meter", "metre", "meters", "metres", "g", "gram", "grams", "s", "l", "L", "liter",
    "litre", "liters", "litres", "N", "J", "joule", "joules", "cal", "Wh", "eV", "W", "watt",
    "watts", "Pa", "A", "V", "Hz", "hertz", "mol", "bit", "bits", "B", "byte", "bytes", "K",
];

const PREFIXES: &[(&str, &str, i64)] = &[
    ("T", "tera", 12),
    ("G", "giga", 9),
    ("M", "mega", 6),
    ("k", "kilo", 3),
    ("h", "hecto", 2),
    ("d", "deci", -1),
    ("c", "centi", -2),
    ("m", "milli", -3),
    ("u", "micro", -6),
    ("\u{b5}", "", -6),
    ("n", "nano", -9),
    ("p", "pico", -12),
];

/// Whether a name is that of a unit.
pub(super) fn is_unit(name: &str) -> bool {
    find(name).is_some()
}

/// A unit in base units.
pub(super) fn find(name: &str) -> Option<(Ratio, Dimension)> {
    plain(name).or_else(|| {
        PREFIXES.iter().find_map(|(short, long, ten)| {
            let after = |prefix: &str| {
                let rest = name.strip_prefix(prefix).filter(|_| !prefix.is_empty())?;
                PREFIXED.contains(&rest).then(|| plain(rest)).flatten()
            };
            let (factor, dimension) = after(long).or_else(|| after(short))?;
            let ten = Ratio::int(10).pow(*ten).ok()?;
            Some((factor.mul(&ten).ok()?, dimension))
        })
    })
}

fn plain(name: &str) -> Option<(Ratio, Dimension)> {
    let (_, num, den, dimension) = UNITS.iter().find(|row| row.0.contains(&name))?;
    let factor = Ratio::new((*num).into(), (*den).into()).ok()?;
    match name {
        "eV" => Some((factor.mul(&Ratio::int(10).pow(-12).ok()?).ok()?, *dimension)),
        _ => Some((factor, *dimension)),
    }
}

/// A scale of temperature: kelvin are (degrees + shift) * num / den.
pub(super) fn temperature(name: &str) -> Option<(Ratio, Ratio)> {
    let ratio = |num: i64, den: i64| Ratio::new(num.into(), den.into()).ok();
    match name {
        "C" | "degC" | "\u{b0}C" | "celsius" | "Celsius" => {
            Some((ratio(27_315, 100)?, ratio(1, 1)?))
        }
        "F" | "degF" | "\u{b0}F" | "fahrenheit" | "Fahrenheit" => {
            Some((ratio(45_967, 100)?, ratio(5, 9)?))
        }
        "K" | "kelvin" => Some((ratio(0, 1)?, ratio(1, 1)?)),
        _ => None,
    }
}

/// A dimension in base units, for people: `kg m s^-2`.
pub(super) fn show(dimension: Dimension) -> String {
    let names = ["m", "kg", "s", "A", "K", "mol", "bit"];
    let order = [1, 0, 2, 3, 4, 5, 6];
    let one = |i: usize| match dimension[i] {
        0 => None,
        1 => Some(names[i].to_owned()),
        n => Some(format!("{}^{n}", names[i])),
    };
    order.into_iter().filter_map(one).collect::<Vec<_>>().join(" ")
}
