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
    /// Where it stands from left to right, if that is known.
    pub x: Option<f64>,
    /// Where it stands from below, if that is known.
    pub y: Option<f64>,
    /// The ends of y's interval.
    pub interval: Option<(f64, f64)>,
}

/// A model that both axes can show.
struct Shown<'a> {
    name: &'a str,
    x: f64,
    y: f64,
    ends: Option<(f64, f64)>,
}

impl Point {
    fn shown(&self, x: Axis<'_>, y: Axis<'_>) -> Option<Shown<'_>> {
        let place = (self.x.filter(|at| x.shows(*at))?, self.y.filter(|at| y.shows(*at))?);
        let ends = self.interval.filter(|(low, high)| y.shows(*low) && y.shows(*high));
        Some(Shown { name: &self.name, x: place.0, y: place.1, ends })
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

/// A picture of models; `None` if there is none that both axes can show: numbers that are known, finite, and above zero where
/// an axis is logarithmic. It says how many models have no such place.
pub fn plot(title: &str, x: Axis<'_>, y: Axis<'_>, points: &[Point]) -> Option<String> {
    let shown: Vec<Shown<'_>> = points.iter().filter_map(|point| point.shown(x, y)).collect();
    if shown.is_empty() {
        return None;
    }
    let xs: Vec<f64> = shown.iter().map(|point| point.x).collect();
    let ends = shown.iter().filter_map(|point| point.ends).flat_map(|(a, b)| [a, b]);
    let ys: Vec<f64> = shown.iter().map(|point| point.y).chain(ends).collect();
    let plane = Plane { across: Span::of(&xs, x.log), up: Span::of(&ys, y.log) };
    let title = escape(title);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\" aria-label=\"{title}\">\n\
         {STYLE}\n<g class=\"beside\">\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\" font-weight=\"600\">{title}</text>\n"
    );
    let absent = points.len() - shown.len();
    if absent > 0 {
        let models = if absent == 1 { "model has" } else { "models have" };
        text(&mut out, (WIDTH - RIGHT, 22.0), "end", &format!("{absent} {models} no place here"));
    }
    axes(&mut out, &plane, x, y);
    shown.iter().for_each(|point| draw(&mut out, &plane, point));
    names(&mut out, &plane, &shown);
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

fn draw(out: &mut String, plane: &Plane, point: &Shown<'_>) {
    let (x, y) = (plane.x(point.x), plane.y(point.y));
    if let Some((low, high)) = point.ends {
        line(out, " class=\"bar\"", (x, plane.y(low)), (x, plane.y(high)));
    }
    let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"/>");
}

/// What a name or a dot covers.
#[derive(Clone, Copy)]
struct Cover {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Cover {
    fn meets(&self, other: &Cover) -> bool {
        self.left < other.right
            && other.left < self.right
            && self.top < other.bottom
            && other.top < self.bottom
    }
}

/// Writes the names beside their dots, each shifted up or down until it lies on no other name and no other dot.
fn names(out: &mut String, plane: &Plane, points: &[Shown<'_>]) {
    // A sans-serif letter of 12 pixels is some 6.5 wide; a line of them is 13 high.
    const LETTER: f64 = 6.5;
    const LINE: f64 = 13.0;
    let dot = |point: &Shown<'_>| {
        let (x, y) = (plane.x(point.x), plane.y(point.y));
        Cover { left: x - 5.0, right: x + 5.0, top: y - 5.0, bottom: y + 5.0 }
    };
    let mut taken: Vec<Cover> = points.iter().map(dot).collect();
    for point in points {
        let (x, y) = (plane.x(point.x), plane.y(point.y));
        let wide = point.name.chars().count() as f64 * LETTER;
        let (anchor, at) = if x > WIDTH * 0.7 { ("end", x - 9.0) } else { ("start", x + 9.0) };
        let left = if anchor == "end" { at - wide } else { at };
        let over =
            |base: f64| Cover { left, right: left + wide, top: base - 10.0, bottom: base + 3.0 };
        let first = y - 8.0;
        let ways = (0..=2 * points.len()).map(|k| {
            let far = k.div_ceil(2) as f64 * LINE;
            if k % 2 == 1 { first + far } else { first - far }
        });
        let inside = |base: &f64| (TOP - 4.0..HEIGHT - BOTTOM + 12.0).contains(base);
        let free = |base: &f64| !taken.iter().any(|other| other.meets(&over(*base)));
        let base = ways.filter(inside).find(free).unwrap_or(first);
        taken.push(over(base));
        text(out, (at, base), anchor, point.name);
    }
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
                Point { name: name.to_owned(), x: Some(x), y: Some(y), interval }
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
        let point = |x, y| Point { name: "a".to_owned(), x: Some(x), y: Some(y), interval: None };
        assert_eq!(
            plot("", X, Y, &[point(0.0, 1.0), point(f64::NAN, 1.0), point(1.0, f64::INFINITY)]),
            None
        );
        for lone in [1e-9, 1.0, 7e12] {
            assert!(plot("", X, Y, &[point(lone, lone)]).unwrap().contains("<circle"));
        }
    }

    #[test]
    fn names_of_models_that_lie_together_do_not_and_those_left_out_are_counted() {
        let point = |i: usize, x, y| Point { name: format!("model-{i}"), x, y, interval: None };
        let mut points: Vec<Point> = (0..6).map(|i| point(i, Some(1.0), Some(50.0))).collect();
        points.push(point(6, Some(100.0), Some(70.0)));
        points.push(point(7, None, Some(50.0)));
        points.push(point(8, Some(0.0), Some(50.0)));
        let svg = plot("quality by price", X, Y, &points).unwrap();
        assert!(svg.contains(">2 models have no place here<"), "{svg}");
        let mut bases: Vec<f64> = (0..6)
            .map(|i| {
                let (before, _) = svg.split_once(&format!(">model-{i}<")).unwrap();
                let (_, y) = before.rsplit_once(" y=\"").unwrap();
                y.split('"').next().unwrap().parse().unwrap()
            })
            .collect();
        bases.sort_by(f64::total_cmp);
        assert!(bases.windows(2).all(|pair| pair[1] - pair[0] >= 12.9), "{bases:?}");
        let alone = plot("", X, Y, &points[6..7]).unwrap();
        assert!(!alone.contains("no place"));
    }
}
