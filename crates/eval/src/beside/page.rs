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
    let whole = |figure: &Option<Figure>| figure.as_ref().map(|f| count(f.value));
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
    rows.push(row("highest throughput (tokens written/s)", &|c| short(&c.throughput)));
    rows.push(row("price of a million tokens read", &|c| short(&c.known.price_input)));
    rows.push(row("price of a million tokens written", &|c| short(&c.known.price_output)));
    rows.push(row("blended price of a million tokens (3 read, 1 written)", &|c| short(&c.blended)));
    rows.push(row("machine's cost of a million tokens written", &|c| short(&c.cost_written)));
    rows.push(row("machine's cost of a million tokens read or written", &|c| short(&c.cost_all)));
    rows.push(row("energy of a token written (J)", &|c| short(&c.energy)));
    rows
}

/// A whole number with its thousands apart.
fn count(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = if value < 0.0 { "-".to_owned() } else { String::new() };
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three digits that count.
fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 || v == 0.0 => count(value),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        v if v >= 0.001 => format!("{value:.0$}", (2.0 - v.log10().floor()) as usize),
        _ => format!("{value:.2e}"),
    }
}

fn percent(mean: Mean) -> String {
    match mean.interval() {
        Some((low, high)) => format!("{:.1} ± {:.1}", 100.0 * mean.value, 50.0 * (high - low)),
        None => format!("{:.1}", 100.0 * mean.value),
    }
}

/// Where the figures of a model are from.
fn sources(column: &Column) -> Vec<(&str, String)> {
    let known = &column.known;
    let before = [
        ("context", &known.context),
        ("output limit", &known.output_limit),
        ("parameters", &known.parameters),
    ];
    let behind = [
        ("output speed", &column.speed),
        ("first token", &column.ttft_ms),
        ("highest throughput", &column.throughput),
        ("price of tokens read", &known.price_input),
        ("price of tokens written", &known.price_output),
        ("blended price", &column.blended),
        ("cost of tokens written", &column.cost_written),
        ("cost of tokens read or written", &column.cost_all),
        ("energy", &column.energy),
    ];
    let told = |(name, figure): (&'static str, &Option<Figure>)| {
        figure.as_ref().map(|figure| (name, figure.from.clone()))
    };
    let quality = known.quality_from.iter().map(|(task, way)| (task.as_str(), way.to_string()));
    let before = before.into_iter().filter_map(told).collect::<Vec<_>>();
    before.into_iter().chain(quality).chain(behind.into_iter().filter_map(told)).collect()
}

/// What is said below the table.
const NOTE: &str = "Intervals are of 95 %; a score without one was given, or all its items were alike. Prices and costs are in \
                    the money in which they were given.";

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
    let _ = write!(page, "\n\n{NOTE} `-`: not given and not measured.\n");
    for name in figures {
        let _ =
            write!(page, "\n![{}]({name})\n", name.trim_end_matches(".svg").replace('-', " by "));
    }
    page += "\n## Where the figures are from\n";
    for column in columns {
        let _ = write!(page, "\n**{}**\n\n", cell(&column.name));
        for (name, from) in sources(column) {
            let _ = writeln!(page, "- {}: {}", cell(name), cell(&from));
        }
    }
    page
}

/// The last columns of the CSV.
const MEASURED: [&str; 9] = [
    "output_tok_s",
    "ttft_ms",
    "throughput_tok_s",
    "price_per_million_read",
    "price_per_million_written",
    "price_per_million_blended",
    "cost_per_million_written",
    "cost_per_million_read_or_written",
    "joules_per_token_written",
];

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
    head.extend(MEASURED.map(str::to_owned));
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
            let interval = mean.and_then(|mean| mean.interval());
            cells.extend([interval.map(|ends| ends.0), interval.map(|ends| ends.1)].map(number));
        }
        let speeds = [&column.speed, &column.ttft_ms, &column.throughput];
        let prices = [&known.price_input, &known.price_output, &column.blended];
        let costs = [&column.cost_written, &column.cost_all, &column.energy];
        cells.extend([speeds, prices, costs].into_iter().flatten().map(of));
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
    page += "</tbody>\n</table>\n</div>\n";
    let _ = writeln!(page, "<p>{NOTE} A dash: not given and not measured.</p>");
    for (_, svg) in figures {
        page += svg;
        page.push('\n');
    }
    page += "<h2>Where the figures are from</h2>\n";
    for column in columns {
        let _ = write!(page, "<h3>{}</h3>\n<ul>\n", escape(&column.name));
        for (name, from) in sources(column) {
            let _ = writeln!(page, "<li>{}: {}</li>", escape(name), escape(&from));
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
            "| context (tokens) | 8,192 | - |",
            "| parameters | 134,515,008 | - |",
            "| price of a million tokens written | - | 5.00 |",
            "| blended price of a million tokens (3 read, 1 written) | - | 2.00 |",
            "| machine's cost of a million tokens written | 0.250 | - |",
            "| machine's cost of a million tokens read or written | 0.0833 | - |",
            "- arc: acc, 5 examples, 100 items, version 1 of the task",
            "- highest throughput: herd bench serve, 8 at once",
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
        assert!(lines.iter().all(|line| line.split(',').count() == 22), "{table}");
    }

    #[test]
    fn three_digits_count_and_thousands_are_apart() {
        for (value, text) in [
            (0.0, "0"),
            (1234.5, "1,234"),
            (99.94, "99.9"),
            (1.005, "1.00"),
            (0.25, "0.250"),
            (0.001_26, "0.00126"),
            (0.000_026, "2.60e-5"),
        ] {
            assert_eq!(digits(value), text);
        }
        assert_eq!([count(7.0), count(1e6), count(123.0)], ["7", "1,000,000", "123"]);
    }

    #[test]
    fn csv_quotes_what_would_break_a_row() {
        let mut models = example();
        models[0].0 = "a,\"b\"".to_owned();
        let (tasks, columns) = beside(models);
        assert!(csv(&tasks, &columns).contains("\n\"a,\"\"b\"\"\",8192,"));
    }
}
