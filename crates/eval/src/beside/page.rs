//! Models side by side as Markdown, CSV and a page of its own.

use std::fmt::Write as _;

use super::plot::escape;
use super::{Column, Figure};
use crate::stats::Mean;

/// A row of the table: its name, its unit, and a cell for each model.
struct Row {
    name: String,
    cells: Vec<String>,
}

fn rows(tasks: &[String], columns: &[Column]) -> Vec<Row> {
    let row = |name: &str, cell: &dyn Fn(&Column) -> Option<String>| Row {
        name: name.to_owned(),
        cells: columns
            .iter()
            .map(|column| cell(column).unwrap_or_else(|| "-".to_owned()))
            .collect(),
    };
    let whole = |figure: &Option<Figure>| figure.as_ref().map(|f| format!("{:.0}", f.value));
    let short = |figure: &Option<Figure>| figure.as_ref().map(|f| digits(f.value));
    let mut rows = vec![
        row("context (tokens)", &|c| whole(&c.known.context)),
        row("output limit (tokens)", &|c| whole(&c.known.output_limit)),
        row("parameters", &|c| whole(&c.known.parameters)),
    ];
    if !tasks.is_empty() {
        let name = format!("quality: mean of {} (%)", tasks.join(", "));
        rows.push(row(&name, &|c| c.quality.map(percent)));
    }
    let mut all: Vec<&String> = columns.iter().flat_map(|c| c.known.quality.keys()).collect();
    all.sort();
    all.dedup();
    for task in all {
        rows.push(row(&format!("{task} (%)"), &|c| {
            c.known.quality.get(task).copied().map(percent)
        }));
    }
    rows.push(row("output speed behind the first token (tokens/s)", &|c| short(&c.speed)));
    rows.push(row("time to the first token (ms)", &|c| short(&c.ttft_ms)));
    rows.push(row("highest throughput (tokens/s)", &|c| {
        let most = c.known.loads.iter().map(|load| load.tok_s).reduce(f64::max);
        most.map(digits)
    }));
    rows.push(row("price of a million tokens", &|c| short(&c.price)));
    rows.push(row("energy of a token (J)", &|c| short(&c.energy)));
    rows
}

/// Three digits that count.
fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 || v == 0.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        v if v >= 0.001 => format!("{value:.4}"),
        _ => format!("{value:.2e}"),
    }
}

fn percent(mean: Mean) -> String {
    let half = (mean.ci95.1 - mean.ci95.0) / 2.0;
    format!("{:.1} ± {:.1}", 100.0 * mean.value, 100.0 * half)
}

/// Where the figures of a model are from.
fn sources(column: &Column) -> Vec<(&'static str, &str)> {
    let known = &column.known;
    let figures = [
        ("context", &known.context),
        ("output limit", &known.output_limit),
        ("parameters", &known.parameters),
        ("output speed", &column.speed),
        ("first token", &column.ttft_ms),
        ("price", &column.price),
        ("energy", &column.energy),
    ];
    figures.into_iter().filter_map(|(name, f)| Some((name, f.as_ref()?.from.as_str()))).collect()
}

/// The report as Markdown; `figures` are the pictures beside it, by file name.
pub fn markdown(tasks: &[String], columns: &[Column], figures: &[&str]) -> String {
    let cell =
        |text: &str| text.replace('|', "\\|").replace(['\n', '\r'], " ").replace('<', "&lt;");
    let mut page = String::from("# Models side by side\n\n| |");
    columns.iter().for_each(|column| page += &format!(" {} |", cell(&column.name)));
    page += "\n|---|";
    page += &"---:|".repeat(columns.len());
    for row in rows(tasks, columns) {
        let _ = write!(page, "\n| {} |", cell(&row.name));
        row.cells.iter().for_each(|text| page += &format!(" {} |", cell(text)));
    }
    page += "\n\nIntervals are of 95 %. `-`: not given and not measured.\n";
    for name in figures {
        let _ =
            write!(page, "\n![{}]({name})\n", name.trim_end_matches(".svg").replace('-', " by "));
    }
    page += "\n## Where the figures are from\n";
    for column in columns {
        let _ = write!(page, "\n**{}**\n\n", cell(&column.name));
        for (name, from) in sources(column) {
            let _ = writeln!(page, "- {name}: {}", cell(from));
        }
    }
    page
}

/// The table as CSV: a row for each model.
pub fn csv(tasks: &[String], columns: &[Column]) -> String {
    let field = |text: &str| match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    };
    let mut all: Vec<&String> = columns.iter().flat_map(|c| c.known.quality.keys()).collect();
    all.sort();
    all.dedup();
    let fixed = [
        "model",
        "context",
        "output_limit",
        "parameters",
        "quality",
        "quality_low",
        "quality_high",
    ];
    let mut head: Vec<String> = fixed.map(str::to_owned).to_vec();
    for task in &all {
        head.extend(["", "_low", "_high"].map(|end| format!("{task}{end}")));
    }
    head.extend(
        ["output_tok_s", "ttft_ms", "price_per_million", "joules_per_token"].map(str::to_owned),
    );
    let mut text = head.iter().map(|name| field(name)).collect::<Vec<_>>().join(",") + "\n";
    let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    let of = |figure: &Option<Figure>| number(figure.as_ref().map(|figure| figure.value));
    for column in columns {
        let known = &column.known;
        let mut cells = vec![column.name.clone()];
        cells.extend([&known.context, &known.output_limit, &known.parameters].map(of));
        let means = [tasks.first().and(column.quality)].into_iter();
        for mean in means.chain(all.iter().map(|task| known.quality.get(*task).copied())) {
            cells.push(number(mean.map(|mean| mean.value)));
            cells.extend([mean.map(|mean| mean.ci95.0), mean.map(|mean| mean.ci95.1)].map(number));
        }
        cells.extend([&column.speed, &column.ttft_ms, &column.price, &column.energy].map(of));
        text += &(cells.iter().map(|cell| field(cell)).collect::<Vec<_>>().join(",") + "\n");
    }
    text
}

const STYLE: &str = "
:root { color-scheme: light dark; font: 100%/1.5 system-ui, sans-serif; }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: 0.35rem 0.8rem; border-bottom: 1px solid color-mix(in srgb, currentcolor 25%, transparent); text-align: end; }
th:first-child { text-align: start; font-weight: normal; }
thead th { font-weight: 600; }
svg { max-width: 100%; height: auto; }
";

/// The report as one page that loads nothing: table, pictures, sources.
pub fn html(tasks: &[String], columns: &[Column], figures: &[(&str, String)]) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Models side by side</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <main>\n<h1>Models side by side</h1>\n\
         <div class=\"table\" tabindex=\"0\" role=\"region\" aria-label=\"Figures of each model\">\n<table>\n<thead><tr><td></td>"
    );
    for column in columns {
        let _ = write!(page, "<th scope=\"col\">{}</th>", escape(&column.name));
    }
    page += "</tr></thead>\n<tbody>\n";
    for row in rows(tasks, columns) {
        let _ = write!(page, "<tr><th scope=\"row\">{}</th>", escape(&row.name));
        row.cells.iter().for_each(|cell| page += &format!("<td>{}</td>", escape(cell)));
        page += "</tr>\n";
    }
    page += "</tbody>\n</table>\n</div>\n<p>Intervals are of 95 %. A dash: not given and not measured.</p>\n";
    for (_, svg) in figures {
        page += svg;
        page.push('\n');
    }
    page += "<h2>Where the figures are from</h2>\n";
    for column in columns {
        let _ = write!(page, "<h3>{}</h3>\n<ul>\n", escape(&column.name));
        for (name, from) in sources(column) {
            let _ = writeln!(page, "<li>{name}: {}</li>", escape(from));
        }
        page += "</ul>\n";
    }
    page + "</main>\n</body>\n</html>\n"
}

#[cfg(test)]
mod tests {
    use super::super::{beside, example};
    use super::*;

    #[test]
    fn pages_hold_every_figure_and_no_markup_of_names() {
        let (tasks, columns) = beside(example());
        let page = markdown(&tasks, &columns, &["quality-speed.svg"]);
        for words in [
            "| context (tokens) | 8192 | - |",
            "40.0 ± 4.0",
            "| 60.0 ± 4.0 |",
            "![quality by speed](quality-speed.svg)",
            "0.36 an hour",
            "large &lt;1>",
        ] {
            assert!(page.contains(words), "{words}: {page}");
        }
        let page = html(&tasks, &columns, &[("x", "<svg></svg>".to_owned())]);
        assert!(
            page.contains("large &lt;1&gt;") && !page.contains("<1>") && !page.contains("http")
        );
        let table = csv(&tasks, &columns);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.split(',').count() == 17), "{table}");
    }

    #[test]
    fn csv_quotes_what_would_break_a_row() {
        let mut models = example();
        models[0].0 = "a,\"b\"".to_owned();
        let (tasks, columns) = beside(models);
        assert!(csv(&tasks, &columns).contains("\n\"a,\"\"b\"\"\",8192,"));
    }
}
