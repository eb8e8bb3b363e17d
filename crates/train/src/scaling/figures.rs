//! The paper's figures of a sweep: curves of equal operations, their minima over the budget, and the two steps to a benchmark.

use super::forecast::{Others, Study};
use super::isoflop::IsoFlops;
use super::parabola;
use crate::report::chart::{Chart, Curve, Scale, Stroke, svg};

/// File names and pictures, in one order.
pub fn figures(study: &Study, others: &Others) -> Vec<(String, String)> {
    let of = study.mix.as_ref().map(|mix| format!("-{mix}")).unwrap_or_default();
    let mut made = Vec::new();
    if let Some(curves) = &study.curves {
        made.push((format!("isoflop{of}.svg"), svg(&[isoflops(study, curves)])));
        made.push((format!("optimum{of}.svg"), svg(&[optima(curves)])));
    }
    for name in study.tasks.keys() {
        let plain: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        made.push((format!("task-{plain}{of}.svg"), svg(&task(study, others, name))));
    }
    made
}

fn curve(name: String, points: Vec<(f64, f64)>, stroke: Stroke, colour: usize) -> Curve {
    Curve { name, points, stroke, colour }
}

/// Numbers from one to another in even steps of their logarithms.
fn steps(low: f64, high: f64, n: usize) -> impl Iterator<Item = f64> {
    (0..=n).map(move |i| low * (high / low).powf(i as f64 / n as f64))
}

/// Figure 2: loss over tokens, a parabola for each budget.
fn isoflops(study: &Study, curves: &IsoFlops) -> Chart {
    let mut drawn = Vec::new();
    for (colour, best) in curves.minima.iter().enumerate() {
        let here: Vec<_> = study.runs.iter().filter(|run| run.budget == best.flops).collect();
        let tokens = |params: f64| best.flops / (6.0 * params);
        let logs: Vec<(f64, f64)> = here.iter().map(|run| (run.params.ln(), run.loss)).collect();
        let ends = |f: fn(f64, f64) -> f64, from| logs.iter().map(|p| p.0.exp()).fold(from, f);
        if let Some(parabola) = parabola(&logs) {
            let (low, high) = (ends(f64::min, f64::INFINITY), ends(f64::max, 0.0));
            let line = steps(high, low, 40).map(|n| (tokens(n), parabola.at(n.ln()))).collect();
            drawn.push(curve(format!("{:.0e}", best.flops), line, Stroke::Solid, colour));
        }
        let mut points: Vec<(f64, f64)> =
            here.iter().map(|run| (tokens(run.params), run.loss)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        drawn.push(curve(String::new(), points, Stroke::Points, colour));
    }
    let title = "loss over tokens, by operations".to_owned();
    Chart { title, across: Scale::Logarithmic, scale: Scale::Linear, curves: drawn }
}

/// Figure 3: the best tokens and parameters over operations.
fn optima(curves: &IsoFlops) -> Chart {
    let flops: Vec<f64> = curves.minima.iter().map(|best| best.flops).collect();
    let (low, high) = (
        flops.iter().copied().fold(f64::INFINITY, f64::min),
        flops.iter().copied().fold(0.0, f64::max),
    );
    let far = || steps(low, 10.0 * high, 20);
    let optima: Vec<_> = far().map(|flops| curves.optimum(flops)).collect();
    let line = |of: fn(&super::isoflop::Optimum) -> f64| -> Vec<(f64, f64)> {
        let points = optima.iter().map(|at| (at.flops, of(at)));
        points.filter(|(_, y)| y.is_finite()).collect()
    };
    let minima = |of: fn(&super::Best) -> f64| -> Vec<(f64, f64)> {
        curves.minima.iter().map(|best| (best.flops, of(best))).collect()
    };
    let nothing = String::new;
    let drawn = vec![
        curve(nothing(), line(|at| at.tokens_ci90.map_or(f64::NAN, |ci| ci.0)), Stroke::Faint, 0),
        curve(nothing(), line(|at| at.tokens_ci90.map_or(f64::NAN, |ci| ci.1)), Stroke::Faint, 0),
        curve(nothing(), line(|at| at.params_ci90.map_or(f64::NAN, |ci| ci.0)), Stroke::Faint, 1),
        curve(nothing(), line(|at| at.params_ci90.map_or(f64::NAN, |ci| ci.1)), Stroke::Faint, 1),
        curve("tokens".to_owned(), line(|at| at.tokens), Stroke::Solid, 0),
        curve("parameters".to_owned(), line(|at| at.params), Stroke::Solid, 1),
        curve(nothing(), minima(|best| best.flops / (6.0 * best.params)), Stroke::Points, 0),
        curve(nothing(), minima(|best| best.params), Stroke::Points, 1),
    ];
    let title = "the best size over operations, 90 %".to_owned();
    Chart { title, across: Scale::Logarithmic, scale: Scale::Logarithmic, curves: drawn }
}

/// Figure 4: nats a character over operations, accuracy over nats a character.
fn task(study: &Study, others: &Others, name: &str) -> [Chart; 2] {
    let law = &study.tasks[name];
    let own: Vec<_> =
        study.runs.iter().filter_map(|run| Some((run, run.tasks.get(name)?))).collect();
    let mut first: Vec<(f64, f64)> =
        own.iter().map(|(run, answered)| (run.budget, answered.nll_per_char)).collect();
    first.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (low, high) = (first.first().map_or(1.0, |p| p.0), first.last().map_or(1.0, |p| p.0));
    let line = steps(low, 10.0 * high, 20).map(|flops| (flops, law.line.at(flops))).collect();
    let mut second: Vec<(f64, f64)> =
        own.iter().map(|(_, answered)| (answered.nll_per_char, answered.acc)).collect();
    let other = others.get(name).into_iter().flatten();
    let mut other: Vec<(f64, f64)> = other.map(|of| (of.nll_per_char, of.acc)).collect();
    for points in [&mut second, &mut other] {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    let ends = || second.iter().chain(&other).map(|p| p.0);
    let (least, most) = (ends().fold(f64::INFINITY, f64::min), ends().fold(0.0, f64::max));
    let room = 0.2 * (most - least);
    let xs = (0..=60).map(|i| least - room + (most - least + 2.0 * room) * f64::from(i) / 60.0);
    let sigmoid = xs.map(|x| (x, law.sigmoid.at(x))).collect();
    let nothing = String::new;
    [
        Chart {
            title: format!("{name}: nats a character of right answers over operations"),
            across: Scale::Logarithmic,
            scale: Scale::Linear,
            curves: vec![
                curve(nothing(), line, Stroke::Solid, 0),
                curve(nothing(), first, Stroke::Points, 1),
            ],
        },
        Chart {
            title: format!("{name}: right answers over nats a character"),
            across: Scale::Linear,
            scale: Scale::Linear,
            curves: vec![
                curve(nothing(), sigmoid, Stroke::Solid, 0),
                curve("sweep".to_owned(), second, Stroke::Points, 1),
                curve("others".to_owned(), other, Stroke::Points, 2),
            ],
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::super::forecast::{studies, tests::done};
    use super::*;

    #[test]
    fn each_figure_is_a_whole_picture() {
        let study = &studies(&done(Some("web"), 0.0), &Others::new(), 1).unwrap()[0];
        let made = figures(study, &Others::new());
        let names: Vec<&str> = made.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["isoflop-web.svg", "optimum-web.svg", "task-pick-web.svg"]);
        for (name, text) in &made {
            assert!(text.ends_with("</svg>\n") && !text.contains("NaN"), "{name}");
            assert!(!text.contains("nothing yet"), "{name}");
        }
    }
}
