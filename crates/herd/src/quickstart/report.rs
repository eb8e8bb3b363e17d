//! `report.md`, `report.html` and `hashes.json` of a quickstart.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use herd_train::report::chart::{Chart, Curve, Scale, Stroke, escape, svg};
use herd_train::report::charts;
use herd_train::runs::{Metric, Run};

use super::{Figure, Record, Sample, Size};
use crate::console::count;
use crate::error::Error;
use crate::verbs::{load, save, write as put};

/// A gain in words: `2.31 bits a byte, 11.0 before: -8.7 (-8.9 to -8.5), 128 pairs`.
pub(super) fn line(figure: &Figure) -> String {
    let Figure { what, gain, .. } = figure;
    let digits = digits(figure);
    let change = gain.after - gain.before;
    format!(
        "{what}: {:.digits$}, before {:.digits$}; change {change:+.digits$} ({:+.digits$} to {:+.digits$})",
        gain.after, gain.before, gain.low, gain.high
    )
}

fn digits(figure: &Figure) -> usize {
    if figure.gain.after.abs().max(figure.gain.before.abs()) < 100.0 { 3 } else { 0 }
}

/// Writes all three.
pub(super) fn write(out: &Path, size: Size, records: &[Record]) -> Result<(), Error> {
    let times: BTreeMap<String, f64> = load(&out.join("times.json"))?.unwrap_or_default();
    let page = Page { out, size, records, times };
    let hashes: BTreeMap<&str, &BTreeMap<String, String>> =
        records.iter().map(|record| (record.name.as_str(), &record.hashes)).collect();
    save(&out.join("hashes.json"), &hashes)?;
    let figures = page.figures();
    for (name, svg) in &figures {
        put(&out.join("report").join(name), svg.as_bytes())?;
    }
    put(&out.join("report.md"), page.markdown(&figures).as_bytes())?;
    put(&out.join("report.html"), page.html(&figures).as_bytes())
}

struct Page<'a> {
    out: &'a Path,
    size: Size,
    records: &'a [Record],
    times: BTreeMap<String, f64>,
}

/// The head of the table of gains.
const HEAD: [&str; 8] =
    ["stage", "what it does", "measured", "before", "after", "change", "95 % interval", "seconds"];

impl Page<'_> {
    fn seconds(&self, name: &str) -> f64 {
        self.times.get(name).copied().unwrap_or(0.0)
    }

    /// A row for each figure; a stage without one has a row as well.
    fn rows(&self) -> Vec<[String; 8]> {
        let mut rows = Vec::new();
        for record in self.records {
            let stage = [record.name.clone(), record.title.clone()];
            let seconds = format!("{:.0}", self.seconds(&record.name));
            let [name, title] = stage;
            let mut cells = record.figures.iter().map(|figure| {
                let (g, digits) = (&figure.gain, digits(figure));
                let number = |x: f64| format!("{x:.digits$}");
                let change = format!("{:+.digits$}", g.after - g.before);
                let interval = format!("{:+.digits$} to {:+.digits$}", g.low, g.high);
                [
                    format!("{} ({})", figure.what, g.of),
                    number(g.before),
                    number(g.after),
                    change,
                    interval,
                ]
            });
            let none = || [(); 5].map(|()| String::new());
            let [a, b, c, d, e] = cells.next().unwrap_or_else(none);
            rows.push([name, title, a, b, c, d, e, seconds]);
            rows.extend(cells.map(|[a, b, c, d, e]| {
                let empty = String::new;
                [empty(), empty(), a, b, c, d, e, empty()]
            }));
        }
        rows
    }

    /// What is worth knowing of each stage besides.
    fn facts(&self) -> Vec<String> {
        let fact = |record: &Record, name: &String, value: &f64| {
            let value = if value.abs() >= 1e9 {
                format!("{value:.3e}")
            } else if value.abs() >= 1000.0 {
                count(value.round() as u64)
            } else {
                format!("{value:.3}")
            };
            format!("{}: {name} {value}", record.name)
        };
        let of = |record: &'_ Record| {
            record.facts.iter().map(|(n, v)| fact(record, n, v)).collect::<Vec<_>>()
        };
        self.records.iter().flat_map(of).collect()
    }

    fn figures(&self) -> Vec<(String, String)> {
        let mut figures = Vec::new();
        for (name, folder, metric) in [
            ("pretrain.svg", "pretrain", Metric::Loss),
            ("pretrain-bits.svg", "pretrain", Metric::Bpb),
            ("sft.svg", "sft", Metric::Loss),
            ("dpo.svg", "dpo", Metric::Margin),
        ] {
            if let Ok(run) = Run::open(self.out.join(folder)) {
                let mut chart = charts(&[("", &run)], metric);
                chart.title = format!("{folder}: {}", chart.title);
                figures.push((name.to_owned(), svg(&[chart])));
            }
        }
        if let Some(scaling) = self.records.iter().find(|record| record.name == "scaling") {
            figures.insert(0, ("scaling.svg".to_owned(), svg(&[isoflops(scaling)])));
        }
        figures
    }

    /// What the model wrote before and after each stage, where anything was asked of it.
    fn written(&self) -> Vec<(String, &[Sample])> {
        let mut written: Vec<(String, &[Sample])> = Vec::new();
        for record in self.records {
            written.push((format!("Before {}", record.name), &record.before));
            written.push((format!("After {}", record.name), &record.samples));
        }
        written.retain(|(_, samples)| !samples.is_empty());
        written
    }

    fn markdown(&self, figures: &[(String, String)]) -> String {
        let mut page = format!("# A quickstart, {}\n\n{}\n\n", self.size.name(), self.summary());
        let row = |cells: &[String]| format!("| {} |\n", cells.join(" | ").replace('\n', " "));
        page += &row(&HEAD.map(str::to_owned));
        page += &format!("|{}\n", "---|".repeat(HEAD.len()));
        self.rows().iter().for_each(|cells| page += &row(cells));
        page.push('\n');
        self.facts().iter().for_each(|fact| page += &format!("- {fact}\n"));
        for (name, _) in figures {
            let _ = write!(page, "\n![{}](report/{name})\n", name.trim_end_matches(".svg"));
        }
        page += "\n## What it writes\n";
        for (when, samples) in self.written() {
            let _ = write!(page, "\n{when}:\n\n");
            for sample in samples {
                let text = sample.text.replace('\n', " ").replace('`', "'");
                let _ = writeln!(page, "- {}: `{text}`", sample.prompt);
            }
        }
        page + "\n" + AGAIN + "\n"
    }

    fn html(&self, figures: &[(String, String)]) -> String {
        let cells = |tag: &str, cells: &[String]| {
            let cell = |text: &String| format!("<{tag}>{}</{tag}>", escape(text));
            format!("<tr>{}</tr>\n", cells.iter().map(cell).collect::<String>())
        };
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n\
             <title>A Herd quickstart</title>\n<style>{STYLE}</style>\n<h1>A quickstart, {}</h1>\n<p>{}</p>\n<div><table>\n{}",
            self.size.name(),
            escape(&self.summary()),
            cells("th", &HEAD.map(str::to_owned)),
        );
        self.rows().iter().for_each(|row| page += &cells("td", row));
        page += "</table></div>\n<ul>";
        self.facts().iter().for_each(|fact| page += &format!("<li>{}</li>\n", escape(fact)));
        page += "</ul>\n";
        figures.iter().for_each(|(_, svg)| page += &format!("<figure>{svg}</figure>\n"));
        page += "<h2>What it writes</h2>\n";
        for (when, samples) in self.written() {
            let _ = writeln!(page, "<h3>{}</h3>\n<dl>", escape(&when));
            for sample in samples {
                let _ = writeln!(
                    page,
                    "<dt>{}</dt><dd>{}</dd>",
                    escape(&sample.prompt),
                    escape(&sample.text)
                );
            }
            page += "</dl>\n";
        }
        let _ = writeln!(page, "<p>{}</p></html>", escape(AGAIN));
        page
    }

    fn summary(&self) -> String {
        let fact = |stage: &str, name: &str| {
            let record = self.records.iter().find(|record| record.name == stage);
            record.and_then(|record| record.facts.get(name)).copied().unwrap_or(0.0)
        };
        let tokens = Run::open(self.out.join("pretrain")).ok();
        let tokens = tokens.and_then(|run| run.steps.last().map(|step| step.tokens)).unwrap_or(0);
        let minutes = self.times.values().sum::<f64>() / 60.0;
        format!(
            "A model of {} parameters read {} tokens and went the whole way in {minutes:.1} minutes. Gains are means of paired \
             differences on what no stage has learnt from (of `sample`, on its own prompts), each with its 95 % interval; in brackets over how many things.",
            count(fact("pretrain", "parameters") as u64),
            count(tokens),
        )
    }
}

const AGAIN: &str = "Each stage's settings stand in configs/, its run in the folder of its name: the commands that were printed repeat any of \
                     them by hand. hashes.json is the same each time in one numeric class.";

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
div{overflow-x:auto}table{border-collapse:collapse;font-size:14px}th,td{padding:.25rem .6rem;border-bottom:1px solid #8884;text-align:left}\
td:nth-child(n+4){font-variant-numeric:tabular-nums;white-space:nowrap}figure{margin:1rem 0}svg{max-width:100%;height:auto}dt{font-weight:600}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#111}}";

/// Loss over parameters, a curve for each budget.
fn isoflops(record: &Record) -> Chart {
    let column = |name: &str| record.values.get(name).cloned().unwrap_or_default();
    let (flops, params, bits) = (column("flops"), column("params"), column("bits"));
    let mut curves: Vec<Curve> = Vec::new();
    for ((flops, params), bits) in flops.iter().zip(&params).zip(&bits) {
        let name = format!("{flops:.1e}");
        match curves.iter_mut().find(|curve| curve.name == name) {
            Some(curve) => curve.points.push((*params, *bits)),
            None => {
                let (colour, points) = (curves.len(), vec![(*params, *bits)]);
                curves.push(Curve { name, points, stroke: Stroke::Dotted, colour });
            }
        }
    }
    Chart {
        title: "scaling: bits a byte over parameters, by operations".to_owned(),
        across: Scale::Logarithmic,
        scale: Scale::Linear,
        curves,
    }
}
