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
            let marks = whole.flat_map(|e| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(e)));
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

/// A picture of points `(name, x, y, interval of y)`; `None` if there is none whose numbers are finite, and above zero where the axis is logarithmic.
pub fn plot(
    title: &str,
    x: Axis<'_>,
    y: Axis<'_>,
    points: &[(String, f64, f64, Option<(f64, f64)>)],
) -> Option<String> {
    let fits = |axis: Axis<'_>, value: f64| value.is_finite() && (!axis.log || value > 0.0);
    let points: Vec<_> = points.iter().filter(|p| fits(x, p.1) && fits(y, p.2)).collect();
    if points.is_empty() {
        return None;
    }
    let ends = |p: &&(String, f64, f64, Option<(f64, f64)>)| match p.3 {
        Some((low, high)) if fits(y, low) && fits(y, high) => vec![p.2, low, high],
        _ => vec![p.2],
    };
    let across = Span::of(&points.iter().map(|p| p.1).collect::<Vec<_>>(), x.log);
    let up = Span::of(&points.iter().flat_map(ends).collect::<Vec<_>>(), y.log);
    let px = |value: f64| LEFT + across.at(value) * (WIDTH - LEFT - RIGHT);
    let py = |value: f64| HEIGHT - BOTTOM - up.at(value) * (HEIGHT - TOP - BOTTOM);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\" aria-label=\"{}\">\n\
         <style>.beside {{ font: 12px system-ui, sans-serif; fill: #222; }} .beside line {{ stroke: #8886; }} .beside .bar {{ stroke: #0f6b5c; stroke-width: 2; }} .beside circle {{ fill: #0f6b5c; }}\n\
         @media (prefers-color-scheme: dark) {{ .beside {{ fill: #ddd; }} .beside .bar {{ stroke: #74d3b8; }} .beside circle {{ fill: #74d3b8; }} }}</style>\n<g class=\"beside\">\n",
        escape(title)
    );
    let _ = writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"22\" font-size=\"15\" font-weight=\"600\">{}</text>",
        escape(title)
    );
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    for tick in across.ticks() {
        let at = px(tick);
        let _ = writeln!(
            out,
            "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 18.0,
            label(tick)
        );
    }
    for tick in up.ticks() {
        let at = py(tick);
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            at + 4.0,
            label(tick)
        );
    }
    let middle = (LEFT + right) / 2.0;
    let _ = writeln!(
        out,
        "<text x=\"{middle}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        HEIGHT - 16.0,
        escape(x.name)
    );
    let centre = (TOP + bottom) / 2.0;
    let _ = writeln!(
        out,
        "<text transform=\"translate(16 {centre}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        escape(y.name)
    );
    for point in points {
        let (name, at, high) = (&point.0, px(point.1), py(point.2));
        if let [_, low, top] = ends(&point)[..] {
            let _ = writeln!(
                out,
                "<line class=\"bar\" x1=\"{at:.1}\" y1=\"{:.1}\" x2=\"{at:.1}\" y2=\"{:.1}\"/>",
                py(low),
                py(top)
            );
        }
        let (anchor, beside) = if at > WIDTH * 0.7 { ("end", -9.0) } else { ("start", 9.0) };
        let _ = writeln!(
            out,
            "<circle cx=\"{at:.1}\" cy=\"{high:.1}\" r=\"5\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
            at + beside,
            high - 8.0,
            escape(name)
        );
    }
    out += "</g>\n</svg>\n";
    Some(out)
}

/// A tick without needless digits.
fn label(value: f64) -> String {
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
            .map(|(name, x, y)| (name.to_owned(), x, y, Some((y - 5.0, y + 5.0))))
            .into();
        let svg = plot("quality by price", X, Y, &points).unwrap();
        let centres = |name: &str| -> Vec<f64> {
            let parts = svg.split(&format!("{name}=\"")).skip(1);
            parts.map(|rest| rest.split('"').next().unwrap().parse().unwrap()).collect()
        };
        let (cx, cy) = (centres("cx"), centres("cy"));
        assert!(cx.is_sorted() && cy.is_sorted_by(|a, b| a > b), "{cx:?} {cy:?}");
        assert!(
            cx.iter().all(|x| (LEFT..WIDTH).contains(x))
                && cy.iter().all(|y| (TOP..HEIGHT).contains(y))
        );
        assert!(svg.contains("c &lt;&amp;&gt;") && svg.contains(">0.01<") && svg.contains(">50<"));
    }

    #[test]
    fn numbers_that_have_no_place_are_left_out() {
        let point = |x, y| ("a".to_owned(), x, y, None);
        assert_eq!(
            plot("", X, Y, &[point(0.0, 1.0), point(f64::NAN, 1.0), point(1.0, f64::INFINITY)]),
            None
        );
        for lone in [1e-9, 1.0, 7e12] {
            assert!(plot("", X, Y, &[point(lone, lone)]).unwrap().contains("<circle"));
        }
    }
}
