//! Models as points in the plane, with intervals, as SVG.

use std::fmt::Write as _;

/// One way of the plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis<'a> {
    /// What it is of, with its unit.
    pub name: &'a str,
    /// Whether equal ways are equal ratios.
    pub log: bool,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 60.0;

/// From where to where an axis goes, in its own numbers, and where it is marked.
struct Span {
    from: f64,
    to: f64,
    log: bool,
}

impl Span {
    fn of(numbers: &[f64], log: bool) -> Span {
        let sized = |x: f64| if log { x.log10() } else { x };
        let low = numbers.iter().copied().map(sized).fold(f64::INFINITY, f64::min);
        let high = numbers.iter().copied().map(sized).fold(f64::NEG_INFINITY, f64::max);
        let margin = match (high - low).abs() {
            0.0 if log => 0.3,
            0.0 => high.abs().max(1.0) * 0.2,
            wide => wide * 0.12,
        };
        Span { from: low - margin, to: high + margin, log }
    }

    /// The share of the way.
    fn at(&self, x: f64) -> f64 {
        let x = if self.log { x.log10() } else { x };
        (x - self.from) / (self.to - self.from)
    }

    /// Round numbers on the way.
    fn ticks(&self) -> Vec<f64> {
        let wide = self.to - self.from;
        if self.log && wide > 0.7 {
            let whole = (self.from.floor() as i32)..=(self.to.ceil() as i32);
            let within: &[f64] = if wide > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
            let marks = whole.flat_map(|e| within.iter().map(move |m| m * 10f64.powi(e)));
            let inside = |x: &f64| (self.from..=self.to).contains(&x.log10());
            let all: Vec<f64> = marks.filter(inside).collect();
            let few = all.len().div_ceil(8);
            return all.into_iter().step_by(few).collect();
        }
        let (from, to) = match self.log {
            true => (10f64.powf(self.from), 10f64.powf(self.to)),
            false => (self.from, self.to),
        };
        let rough = (to - from) / 5.0;
        let decade = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * decade).find(|s| *s >= rough);
        let step = step.unwrap_or(rough);
        let first = (from / step).ceil() as i64;
        (first..).map(|i| i as f64 * step).take_while(|x| *x <= to).take(12).collect()
    }
}

/// A model in the plane.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Its name.
    pub name: String,
    /// Where it stands from left to right.
    pub x: f64,
    /// Where it stands from below.
    pub y: f64,
    /// The ends of y's interval.
    pub interval: Option<(f64, f64)>,
}

impl Point {
    /// The ends of its interval, if the axis can show them.
    fn ends(&self, y: Axis<'_>) -> Option<(f64, f64)> {
        self.interval.filter(|(low, high)| y.shows(*low) && y.shows(*high))
    }
}

impl Axis<'_> {
    fn shows(self, value: f64) -> bool {
        value.is_finite() && (!self.log || value > 0.0)
    }
}

/// Both ways of a picture.
struct Plane {
    across: Span,
    up: Span,
}

impl Plane {
    fn x(&self, value: f64) -> f64 {
        LEFT + self.across.at(value) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.up.at(value) * (HEIGHT - TOP - BOTTOM)
    }
}

const STYLE: &str = "<style>.beside { font: 12px system-ui, sans-serif; fill: #222; }
.beside line { stroke: #8886; } .beside circle { fill: #0f6b5c; }
.beside .bar { stroke: #0f6b5c; stroke-width: 2; }
@media (prefers-color-scheme: dark) { .beside { fill: #ddd; } .beside circle { fill: #74d3b8; }
.beside .bar { stroke: #74d3b8; } }</style>";

/// A picture of models; `None` if there is none that both axes can show: numbers that are finite, and above zero where an
/// axis is logarithmic.
pub fn plot(title: &str, x: Axis<'_>, y: Axis<'_>, points: &[Point]) -> Option<String> {
    let shown = |point: &&Point| x.shows(point.x) && y.shows(point.y);
    let points: Vec<&Point> = points.iter().filter(shown).collect();
    if points.is_empty() {
        return None;
    }
    let xs: Vec<f64> = points.iter().map(|point| point.x).collect();
    let ends = points.iter().filter_map(|point| point.ends(y)).flat_map(|(a, b)| [a, b]);
    let ys: Vec<f64> = points.iter().map(|point| point.y).chain(ends).collect();
    let plane = Plane { across: Span::of(&xs, x.log), up: Span::of(&ys, y.log) };
    let title = escape(title);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\" aria-label=\"{title}\">\n\
         {STYLE}\n<g class=\"beside\">\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\" font-weight=\"600\">{title}</text>\n"
    );
    axes(&mut out, &plane, x, y);
    points.into_iter().for_each(|point| draw(&mut out, &plane, point, point.ends(y)));
    out += "</g>\n</svg>\n";
    Some(out)
}

fn line(out: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ =
        writeln!(out, "<line{class} x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>");
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    let words = escape(words);
    let _ =
        writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>");
}

fn axes(out: &mut String, plane: &Plane, x: Axis<'_>, y: Axis<'_>) {
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    for tick in plane.across.ticks() {
        let at = plane.x(tick);
        line(out, "", (at, TOP), (at, bottom));
        text(out, (at, bottom + 18.0), "middle", &label(tick));
    }
    for tick in plane.up.ticks() {
        let at = plane.y(tick);
        line(out, "", (LEFT, at), (right, at));
        text(out, (LEFT - 8.0, at + 4.0), "end", &label(tick));
    }
    text(out, ((LEFT + right) / 2.0, HEIGHT - 16.0), "middle", x.name);
    let (centre, name) = ((TOP + bottom) / 2.0, escape(y.name));
    let turned = format!("transform=\"translate(16 {centre}) rotate(-90)\"");
    let _ = writeln!(out, "<text {turned} text-anchor=\"middle\">{name}</text>");
}

fn draw(out: &mut String, plane: &Plane, point: &Point, ends: Option<(f64, f64)>) {
    let (x, y) = (plane.x(point.x), plane.y(point.y));
    if let Some((low, high)) = ends {
        line(out, " class=\"bar\"", (x, plane.y(low)), (x, plane.y(high)));
    }
    let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"/>");
    let (anchor, beside) = if x > WIDTH * 0.7 { ("end", -9.0) } else { ("start", 9.0) };
    text(out, (x + beside, y - 8.0), anchor, &point.name);
}

/// A tick without needless digits.
fn label(value: f64) -> String {
    if value != 0.0 && !(1e-5..1e7).contains(&value.abs()) {
        return format!("{value:e}");
    }
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Text that is no markup.
pub(super) fn escape(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: Axis<'_> = Axis { name: "price", log: true };
    const Y: Axis<'_> = Axis { name: "quality (%)", log: false };

    #[test]
    fn points_stand_in_the_order_of_their_numbers_and_inside_the_picture() {
        let points: Vec<_> = [("a", 0.01, 30.0), ("b", 1.0, 50.0), ("c <&>", 250.0, 70.0)]
            .map(|(name, x, y)| {
                let interval = Some((y - 5.0, y + 5.0));
                Point { name: name.to_owned(), x, y, interval }
            })
            .into();
        let svg = plot("quality by price", X, Y, &points).unwrap();
        let centres = |name: &str| -> Vec<f64> {
            let before = format!("{name}=\"");
            let parts = svg.split(&before).skip(1);
            parts.map(|rest| rest.split('"').next().unwrap().parse().unwrap()).collect()
        };
        let (cx, cy) = (centres("cx"), centres("cy"));
        assert!(cx.is_sorted() && cy.is_sorted_by(|a, b| a > b), "{cx:?} {cy:?}");
        assert!(
            cx.iter().all(|x| (LEFT..WIDTH).contains(x))
                && cy.iter().all(|y| (TOP..HEIGHT).contains(y))
        );
        assert!(svg.contains("c &lt;&amp;&gt;") && svg.contains(">0.01<") && svg.contains(">40<"));
    }

    #[test]
    fn numbers_that_have_no_place_are_left_out() {
        let point = |x, y| Point { name: "a".to_owned(), x, y, interval: None };
        assert_eq!(
            plot("", X, Y, &[point(0.0, 1.0), point(f64::NAN, 1.0), point(1.0, f64::INFINITY)]),
            None
        );
        for lone in [1e-9, 1.0, 7e12] {
            assert!(plot("", X, Y, &[point(lone, lone)]).unwrap().contains("<circle"));
        }
    }
}
