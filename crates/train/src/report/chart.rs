//! Curves as SVG: panels below each other, axes with ticks, legible on light and dark pages.

use std::fmt::Write;

/// One panel.
#[derive(Clone, Debug)]
pub struct Chart {
    /// What is drawn, with its unit.
    pub title: String,
    /// The horizontal axis.
    pub across: Scale,
    /// The vertical axis.
    pub scale: Scale,
    /// The curves, the first at the back.
    pub curves: Vec<Curve>,
}

/// How an axis runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Scale {
    Linear,
    /// Numbers that are not above zero are left out.
    Logarithmic,
}

/// One line of a panel.
#[derive(Clone, Debug)]
pub struct Curve {
    /// What the legend says; a curve without a name is not in it.
    pub name: String,
    /// Step and value, both finite, in ascending order of steps.
    pub points: Vec<(f64, f64)>,
    /// How it is drawn.
    pub stroke: Stroke,
    /// Which colour of the palette, counted round.
    pub colour: usize,
}

/// How a curve is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Stroke {
    /// Thin and pale, for noise.
    Faint,
    Solid,
    /// With a dot at each point, for few points.
    Dotted,
    /// Dots alone.
    Points,
}

/// Colours on light and on dark pages, told apart by those who do not see red or green.
const PALETTE: [(&str, &str); 6] = [
    ("#2563eb", "#60a5fa"),
    ("#d97706", "#fbbf24"),
    ("#059669", "#34d399"),
    ("#db2777", "#f472b6"),
    ("#7c3aed", "#a78bfa"),
    ("#57534e", "#d6d3d1"),
];

// Lengths in pixels.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 30.0;

/// Points of a curve that can be told apart: two for each pixel.
const POINTS_MAX: usize = 2 * (WIDTH - LEFT - RIGHT) as usize;

/// Draws the panels. The same charts give the same text.
pub fn svg(charts: &[Chart]) -> String {
    let height = HEIGHT * charts.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n{}",
        style()
    );
    for (i, chart) in charts.iter().enumerate() {
        let _ = writeln!(out, "<g transform=\"translate(0 {})\">", HEIGHT * i as f64);
        panel(&mut out, chart);
        out += "</g>\n";
    }
    out + "</svg>\n"
}

fn style() -> String {
    let colours = |page: fn(&(&'static str, &'static str)) -> &'static str| -> String {
        let rule =
            |(i, c): (usize, &(&'static str, &'static str))| format!(".c{i}{{color:{}}}", page(c));
        PALETTE.iter().enumerate().map(rule).collect()
    };
    format!(
        "<style>text{{font:12px system-ui,sans-serif;fill:#444}}.title{{font-weight:600;fill:#111}}\
         .grid{{stroke:#888;stroke-opacity:.25}}.axis{{stroke:#888}}{}\
         path{{fill:none;stroke:currentColor;stroke-width:1.8;stroke-linejoin:round}}\
         .faint{{stroke-width:1;stroke-opacity:.4}}circle{{fill:currentColor}}\
         @media(prefers-color-scheme:dark){{text{{fill:#bbb}}.title{{fill:#eee}}{}}}</style>\n",
        colours(|c| c.0),
        colours(|c| c.1)
    )
}

fn panel(out: &mut String, chart: &Chart) {
    let _ = writeln!(
        out,
        "<text class=\"title\" x=\"{LEFT}\" y=\"20\">{}</text>",
        escape(&chart.title)
    );
    let curves: Vec<(&Curve, Vec<(f64, f64)>)> =
        chart.curves.iter().map(|curve| (curve, thin(&drawn(curve, chart)))).collect();
    let points = || curves.iter().flat_map(|(_, points)| points.iter());
    let (Some(x), Some(y)) = (Span::of(points().map(|p| p.0)), Span::of(points().map(|p| p.1)))
    else {
        let (x, y) = (WIDTH / 2.0, HEIGHT / 2.0);
        let _ =
            writeln!(out, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">nothing yet</text>");
        return;
    };
    let to_x = |v: f64| LEFT + x.share(v) * (WIDTH - LEFT - RIGHT);
    let to_y = |v: f64| HEIGHT - BOTTOM - y.share(v) * (HEIGHT - TOP - BOTTOM);
    let ticks = match chart.scale {
        Scale::Linear => ticks(y),
        Scale::Logarithmic => decades(y),
    };
    for (value, label) in ticks {
        let (at, right) = (to_y(value), WIDTH - RIGHT);
        let _ = writeln!(
            out,
            "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            LEFT - 8.0,
            at + 4.0
        );
    }
    let floor = HEIGHT - BOTTOM;
    let _ = writeln!(out, "<path class=\"axis\" d=\"M{LEFT} {TOP}V{floor}H{}\"/>", WIDTH - RIGHT);
    let ticks = match chart.across {
        Scale::Linear => self::ticks(x),
        Scale::Logarithmic => decades(x),
    };
    for (value, label) in ticks {
        let at = to_x(value);
        let _ = writeln!(
            out,
            "<path class=\"axis\" d=\"M{at:.1} {floor}v4\"/>\
             <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
            floor + 18.0
        );
    }
    for (curve, points) in &curves {
        draw(out, curve, &points.iter().map(|p| (to_x(p.0), to_y(p.1))).collect::<Vec<_>>());
    }
    legend(out, chart);
}

fn draw(out: &mut String, curve: &Curve, points: &[(f64, f64)]) {
    let colour = curve.colour % PALETTE.len();
    let faint = if curve.stroke == Stroke::Faint { " faint" } else { "" };
    if curve.stroke != Stroke::Points {
        let _ = write!(out, "<path class=\"c{colour}{faint}\" d=\"");
        for (i, (x, y)) in points.iter().enumerate() {
            let _ = write!(out, "{}{x:.1} {y:.1}", if i == 0 { "M" } else { "L" });
        }
        out.push_str("\"/>\n");
    }
    if matches!(curve.stroke, Stroke::Dotted | Stroke::Points) || points.len() == 1 {
        let _ = write!(out, "<g class=\"c{colour}\">");
        for (x, y) in points {
            let _ = write!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\"/>");
        }
        out.push_str("</g>\n");
    }
}

/// Names at the right of the title, from the right edge leftwards.
fn legend(out: &mut String, chart: &Chart) {
    const LETTER: f64 = 6.8; // of 12 pixels, about
    let mut right = WIDTH - RIGHT;
    for curve in chart.curves.iter().rev().filter(|curve| !curve.name.is_empty()) {
        let left = right - curve.name.chars().count() as f64 * LETTER;
        let _ = writeln!(
            out,
            "<text x=\"{left:.0}\" y=\"20\">{}</text><path class=\"c{}\" d=\"M{:.0} 16h14\"/>",
            escape(&curve.name),
            curve.colour % PALETTE.len(),
            left - 20.0
        );
        right = left - 34.0;
    }
}

/// The points in the units of the axes. Numbers beyond any sense are held at their ends.
fn drawn(curve: &Curve, chart: &Chart) -> Vec<(f64, f64)> {
    const FAR: f64 = 1e100;
    let on = |scale: Scale, v: f64| match scale {
        Scale::Linear => Some(v.clamp(-FAR, FAR)),
        Scale::Logarithmic => (v > 0.0).then(|| v.min(FAR).log10()),
    };
    let points = curve.points.iter();
    points.filter_map(|(x, y)| Some((on(chart.across, *x)?, on(chart.scale, *y)?))).collect()
}

/// At most [`POINTS_MAX`] points: of each stretch its least and its greatest, in their order.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= POINTS_MAX {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil(POINTS_MAX / 2);
    let ends = |part: &[(f64, f64)]| {
        let by_value = |a: &usize, b: &usize| part[*a].1.total_cmp(&part[*b].1);
        let least = (0..part.len()).min_by(by_value).expect("a stretch has points");
        let most = (0..part.len()).max_by(by_value).expect("a stretch has points");
        [part[least.min(most)], part[least.max(most)]]
    };
    points.chunks(stretch).flat_map(ends).collect()
}

/// From the least to the greatest of some numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Span {
    low: f64,
    high: f64,
}

impl Span {
    /// `None` of no numbers; numbers that are all the same get room around them.
    fn of(numbers: impl Iterator<Item = f64> + Clone) -> Option<Span> {
        let low = numbers.clone().min_by(f64::total_cmp)?;
        let high = numbers.max_by(f64::total_cmp)?;
        let room =
            if high - low > 1e-12 * low.abs().max(high.abs()) { 0.0 } else { low.abs() / 20.0 };
        let room = if high > low || room > 0.0 { room } else { 1.0 };
        Some(Span { low: low - room, high: high + room })
    }

    /// 0 at the low end, 1 at the high one.
    fn share(self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }
}

/// Round numbers inside the span, about five, with their labels.
fn ticks(span: Span) -> Vec<(f64, String)> {
    let raw = (span.high - span.low) / 5.0;
    let decade = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * decade).into_iter().find(|s| *s >= raw);
    let step = step.unwrap_or(10.0 * decade);
    // A hair of room: 3e-4 is not three times 1e-4 in f64.
    let (first, last) = ((span.low / step - 1e-9).ceil(), (span.high / step + 1e-9).floor());
    let count = ((last - first) as usize).min(8) + 1;
    let values = (0..count).map(|i| (first + i as f64) * step);
    values.map(|v| (v, label(v, step))).collect()
}

/// Powers of ten inside a span of logarithms, with twos and fives where there are few.
fn decades(span: Span) -> Vec<(f64, String)> {
    let wide = span.high - span.low;
    let every = (wide / 6.0).ceil().max(1.0);
    let digits: &[f64] = if wide < 2.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let first = span.low.floor();
    let powers = (0..).map(|i| first + i as f64 * every).take_while(|p| *p <= span.high).take(16);
    let values =
        powers.flat_map(|p| digits.iter().map(move |d| (p + d.log10(), d * 10f64.powf(p))));
    let inside: Vec<_> = values.filter(|(at, _)| (span.low..=span.high).contains(at)).collect();
    match inside.len() {
        0 | 1 => {
            let linear = Span { low: 10f64.powf(span.low), high: 10f64.powf(span.high) };
            ticks(linear).into_iter().map(|(v, label)| (v.log10(), label)).collect()
        }
        _ => inside.into_iter().map(|(at, v)| (at, label(v, v))).collect(),
    }
}

/// A number of an axis whose ticks are `step` apart, with as many digits as that needs.
pub fn label(value: f64, step: f64) -> String {
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let size = value.abs().max(step);
    if value.abs() < step * 1e-6 {
        return "0".to_owned();
    }
    if !(1e-2..1e15).contains(&size) {
        let text = format!("{value:.2e}");
        let (digits, power) = text.split_once('e').expect("it was written with an exponent");
        return format!("{}e{power}", trim(digits));
    }
    let unit = units.into_iter().find(|(unit, _)| size >= 1e4 && value.abs() >= *unit);
    let (divisor, name) = unit.unwrap_or((1.0, ""));
    let decimals = (-(step / divisor).log10().floor()).clamp(0.0, 6.0) as usize;
    let text = format!("{:.decimals$}", value / divisor);
    format!("{}{name}", if name.is_empty() { &text } else { trim(&text) })
}

fn trim(digits: &str) -> &str {
    match digits.contains('.') {
        true => digits.trim_end_matches('0').trim_end_matches('.'),
        false => digits,
    }
}

/// Text of files is not trusted with the page.
pub fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(low: f64, high: f64) -> String {
        ticks(Span { low, high }).into_iter().map(|t| t.1).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn ticks_are_round_numbers_with_the_digits_they_need() {
        assert_eq!(labels(1.0, 100.0), "20 40 60 80 100");
        assert_eq!(labels(0.0, 2.3), "0.0 0.5 1.0 1.5 2.0".replace("0.0 ", "0 "));
        assert_eq!(labels(1.0, 30_000.0), "10k 20k 30k");
        assert_eq!(labels(2.71, 2.74), "2.71 2.72 2.73 2.74");
        assert_eq!(labels(0.0, 3e-4), "0 1e-4 2e-4 3e-4");
        assert_eq!(labels(-1.0, 1.0), "-1.0 -0.5 0 0.5 1.0");
        assert_eq!(labels(0.0, 2.5e6), "0 500k 1M 1.5M 2M 2.5M");
    }

    #[test]
    fn logarithmic_axes_mark_powers_of_ten() {
        let labels = |low: f64, high: f64| -> String {
            let ticks = decades(Span { low: low.log10(), high: high.log10() });
            ticks.into_iter().map(|t| t.1).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(labels(0.3, 12.0), "0.5 1 2 5 10");
        assert_eq!(labels(0.01, 1000.0), "0.01 0.1 1 10 100 1000");
        assert_eq!(labels(2.1, 2.9), "2.2 2.4 2.6 2.8");
    }

    #[test]
    fn a_long_curve_keeps_its_extremes_in_few_points() {
        let mut points: Vec<(f64, f64)> = (0..100_000).map(|i| (f64::from(i), 1.0)).collect();
        points[77_777].1 = 9.0;
        points[77_778].1 = -9.0;
        let thin = thin(&points);
        assert!(thin.len() <= POINTS_MAX && thin.is_sorted_by(|a, b| a.0 <= b.0));
        assert!(thin.contains(&(77_777.0, 9.0)) && thin.contains(&(77_778.0, -9.0)));
    }

    #[test]
    fn hostile_numbers_and_names_give_a_whole_page() {
        let curve = |points: &[(f64, f64)]| Curve {
            name: "<script>&\u{1b}".into(),
            points: points.to_vec(),
            stroke: Stroke::Dotted,
            colour: 7,
        };
        let cases: [&[(f64, f64)]; 6] = [
            &[],
            &[(1.0, 0.0)],
            &[(1.0, 5.0), (2.0, 5.0)],
            &[(1.0, f64::MAX), (2.0, f64::MIN)],
            &[(0.0, 1e-308), (1.8e19, 5e-324)],
            &[(1.0, 1.0), (2.0, 1.0 + f64::EPSILON)],
        ];
        for points in cases {
            for scale in [Scale::Linear, Scale::Logarithmic] {
                let curves = vec![curve(points)];
                let across = scale;
                let text = svg(&[Chart { title: "\"t\"".into(), across, scale, curves }]);
                assert!(text.ends_with("</svg>\n") && !text.contains("<script"), "{text}");
                assert!(!text.contains("NaN") && !text.contains("inf"), "{points:?} {text}");
            }
        }
    }
}
