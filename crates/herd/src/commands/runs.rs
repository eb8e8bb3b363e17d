//! `herd runs`: lists, shows, compares and plots training runs.

use std::io::stdout;
use std::path::{Path, PathBuf};

use herd_train::report::{chart, charts};
use herd_train::runs::{self, Diff, Metric, Run, Setting};
use serde_json::{Value, json};

use crate::console::{Console, Verdict, bytes, count};
use crate::error::Error;
use crate::live::{columns, curve, duration};

/// Flags of `herd runs`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List the runs in a folder
    List {
        /// The folder
        #[arg(default_value = ".", value_name = "DIR")]
        folder: PathBuf,
    },
    /// Say what became of a run
    Show {
        /// The run's folder
        run: PathBuf,
    },
    /// Say where two runs part: the step, the field, the tensor; or that they are identical
    Diff {
        /// The first run's folder
        a: PathBuf,
        /// The second run's folder
        b: PathBuf,
    },
    /// Draw curves of runs, over each other
    Plot(PlotFlags),
}

/// Flags of `herd runs plot`.
#[derive(Debug, clap::Args)]
struct PlotFlags {
    /// The runs' folders
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Write an SVG file, not to the terminal
    #[arg(short, long, value_name = "FILE.svg")]
    out: Option<PathBuf>,
    /// What to draw, between commas: loss, validation_loss, bpb, lr, grad_norm, tok_s, mfu, ...
    #[arg(short, long, value_name = "NAMES", value_delimiter = ',', default_value = "loss,bpb")]
    metric: Vec<String>,
}

/// Does what the verb says.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    match &flags.verb {
        Verb::List { folder } => list(folder, console),
        Verb::Show { run } => show(run, console),
        Verb::Diff { a, b } => diff(a, b, console),
        Verb::Plot(flags) => plot(flags, console),
    }
}

fn list(folder: &Path, console: &Console) -> Result<Verdict, Error> {
    let runs = runs::list(folder)?;
    if console.json {
        let told = runs.iter().map(|(path, run)| match run {
            Ok(run) => summary(run),
            Err(error) => json!({ "path": path, "error": chain(error) }),
        });
        console.print_json(&told.collect::<Vec<Value>>())?;
        return Ok(Verdict::Done);
    }
    let head = ["run", "steps", "tokens", "loss", "best bpb", "time", "checkpoints"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (path, run) in &runs {
        let name = path.file_name().map_or("".into(), |name| name.to_string_lossy().into_owned());
        match run {
            Ok(run) => rows.push(row(name, run)),
            Err(error) => console.note(format!("cannot read {name}: {}", chain(error))),
        }
    }
    if rows.len() > 1 {
        console.print_table(&rows)?;
    } else {
        console.note(format!("no runs in {}", folder.display()));
    }
    Ok(Verdict::Done)
}

fn row(name: String, run: &Run) -> Vec<String> {
    let last = run.steps.last();
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    vec![
        name,
        count(last.map_or(0, |s| s.step)),
        count(last.map_or(0, |s| s.tokens)),
        or_none(last.map(|s| format!("{:.4}", s.loss))),
        or_none(run.best().map(|v| format!("{:.4}", v.bpb))),
        duration(run.seconds()),
        run.checkpoints.len().to_string(),
    ]
}

/// A run as JSON.
fn summary(run: &Run) -> Value {
    let last = run.steps.last();
    let validation = |v: &runs::Validation| {
        let by_source: Vec<_> = v.by_source.iter().collect();
        let sources = by_source
            .iter()
            .map(|(name, m)| ((*name).clone(), json!({ "loss": m.loss, "bpb": m.bpb })));
        let sources: serde_json::Map<String, Value> = sources.collect();
        json!({ "step": v.step, "loss": v.loss, "bpb": v.bpb, "by_source": sources })
    };
    json!({
        "path": run.path,
        "steps": last.map_or(0, |s| s.step),
        "tokens": last.map_or(0, |s| s.tokens),
        "loss": last.map(|s| s.loss),
        "best": run.best().map(validation),
        "validation": run.validations.last().map(validation),
        "average": run.average.as_ref().map(validation),
        "seconds": run.seconds(),
        "peak_bytes": run.speed.iter().map(|s| s.peak_bytes).max(),
        "spikes": run.spikes.len(),
        "failures": run.failures.len(),
        "checkpoints": run.checkpoints.iter().map(|c| c.step).collect::<Vec<u64>>(),
        "torn": run.torn,
    })
}

fn show(path: &Path, console: &Console) -> Result<Verdict, Error> {
    let run = Run::open(path)?;
    if console.json {
        console.print_json(&summary(&run))?;
        return Ok(Verdict::Done);
    }
    let mut rows = Vec::new();
    let mut put = |name: &str, text: String| rows.push(vec![name.to_owned(), text]);
    put("run", run.path.display().to_string());
    if let Some(last) = run.steps.last() {
        put("steps", count(last.step));
        put("tokens", count(last.tokens));
        put("loss", format!("{:.4}", last.loss));
        put("learning rate", format!("{:e}", last.lr));
    }
    for (name, validation) in [
        ("best validation", run.best()),
        ("last validation", run.validations.last()),
        ("mean of checkpoints", run.average.as_ref()),
    ] {
        let Some(v) = validation else { continue };
        let at = count(v.step);
        put(name, format!("{:.4} bits a byte at step {at}", v.bpb));
        for (source, m) in &v.by_source {
            put(&format!("  {source}"), format!("{:.4}", m.bpb));
        }
    }
    put("time", duration(run.seconds()));
    if let Some(peak) = run.speed.iter().map(|s| s.peak_bytes).max() {
        put("most memory", bytes(peak));
    }
    put("spikes, failures", format!("{}, {}", run.spikes.len(), run.failures.len()));
    let steps: Vec<String> = run.checkpoints.iter().map(|c| c.step.to_string()).collect();
    put("checkpoints", if steps.is_empty() { "none".to_owned() } else { steps.join(", ") });
    console.print_table(&rows)?;
    for torn in &run.torn {
        console.note(format!("torn: line {} of {}, {} bytes", torn.line, torn.file, torn.bytes));
    }
    Ok(Verdict::Done)
}

fn diff(a: &Path, b: &Path, console: &Console) -> Result<Verdict, Error> {
    let (a, b) = (Run::open(a)?, Run::open(b)?);
    for run in [&a, &b] {
        for torn in &run.torn {
            let path = run.path.join(&torn.file);
            console.note(format!("line {} of {} is torn", torn.line, path.display()));
        }
    }
    let diff = runs::diff(&a, &b)?;
    if console.json {
        console.print_json(&told(&diff))?;
    } else {
        explain(&diff, console)?;
    }
    Ok(if diff.identical() { Verdict::Done } else { Verdict::No })
}

/// Where the runs part, as JSON.
fn told(diff: &Diff) -> Value {
    let mut value = json!({ "identical": diff.identical() });
    if let Some(split) = &diff.metrics {
        value["step"] = split.step.into();
        value["line"] = split.line.into();
        value["field"] = split.field.clone().into();
        (value["a"], value["b"]) = (split.a.clone(), split.b.clone());
    }
    if let Some(split) = &diff.tensor {
        if diff.metrics.is_none() {
            value["step"] = split.checkpoint.into();
            value["field"] = "tensor".into();
            (value["a"], value["b"]) = (split.a.clone(), split.b.clone());
        }
        value["checkpoint"] = split.checkpoint.into();
        value["file"] = split.file.clone().into();
        value["tensor"] = split.tensor.clone().into();
        value["index"] = json!(split.index);
        (value["tensor_a"], value["tensor_b"]) = (split.a.clone(), split.b.clone());
    } else if !diff.identical() {
        (value["checkpoint"], value["tensor"]) = (Value::Null, Value::Null);
    }
    let lists = [
        ("settings", json!(diff.settings)),
        ("compared", json!(diff.compared)),
        ("only_a", json!(diff.only_a)),
        ("only_b", json!(diff.only_b)),
    ];
    for (name, list) in lists {
        if list.as_array().is_some_and(|list| !list.is_empty()) {
            value[name] = list;
        }
    }
    value
}

fn explain(diff: &Diff, console: &Console) -> Result<(), Error> {
    for Setting { key, a, b } in &diff.settings {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "absent".to_owned());
        console.note(format!("setting {key}: {} and {}", text(a), text(b)));
    }
    for (which, steps) in [("first", &diff.only_a), ("second", &diff.only_b)] {
        if !steps.is_empty() {
            console.note(format!("only the {which} has the checkpoints {steps:?}"));
        }
    }
    if let Some(s) = &diff.metrics {
        let (line, step) = (s.line, s.step);
        console.print(format!(
            "metrics part at step {step} (line {line}): {} is {} and {}",
            s.field, s.a, s.b
        ))?;
    }
    if let Some(s) = &diff.tensor {
        let (index, step) = (s.index.map_or(String::new(), |i| format!("[{i}]")), s.checkpoint);
        console.print(format!(
            "checkpoints part at step {step}: {} {}{index} is {} and {}",
            s.file, s.tensor, s.a, s.b
        ))?;
    }
    if diff.identical() {
        let checkpoints = diff.compared.len();
        console
            .print(format!("identical: all metrics, and {checkpoints} checkpoints bit for bit"))?;
    }
    Ok(())
}

/// Lines of a curve.
const CURVE_LINES: usize = 12;

fn plot(flags: &PlotFlags, console: &Console) -> Result<Verdict, Error> {
    let metrics: Vec<Metric> =
        flags.metric.iter().map(|name| metric(name)).collect::<Result<_, _>>()?;
    let runs: Vec<Run> = flags.runs.iter().map(Run::open).collect::<Result<_, _>>()?;
    let names: Vec<String> = flags.runs.iter().map(|path| name(path)).collect();
    if let Some(out) = &flags.out {
        let several: Vec<(&str, &Run)> = names.iter().map(String::as_str).zip(&runs).collect();
        let drawn = metrics.iter().map(|metric| match runs.as_slice() {
            [run] => chart(run, *metric),
            _ => charts(&several, *metric),
        });
        let svg = chart::svg(&drawn.collect::<Vec<_>>());
        std::fs::write(out, svg).map_err(Error::io("write", out))?;
        console.note(format!("wrote {}", out.display()));
    } else if console.json {
        let series = |run: &Run| -> serde_json::Map<String, Value> {
            metrics.iter().map(|m| (m.name().to_owned(), json!(run.series(*m)))).collect()
        };
        let told = names
            .iter()
            .zip(&runs)
            .map(|(name, run)| json!({ "run": name, "series": series(run) }));
        console.print_json(&told.collect::<Vec<Value>>())?;
    } else {
        for metric in &metrics {
            for (name, run) in names.iter().zip(&runs) {
                draw(name, run, *metric, console)?;
            }
        }
    }
    Ok(Verdict::Done)
}

/// A curve of braille below its name.
fn draw(name: &str, run: &Run, metric: Metric, console: &Console) -> Result<(), Error> {
    let points = run.series(metric);
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        console.note(format!("{name} has no {metric}"));
        return Ok(());
    };
    console.print(format!("{metric} of {name}, steps {} to {}", first.0, last.0))?;
    console.print(curve(&points, columns(&stdout()) - 1, CURVE_LINES).join("\n"))
}

/// The last name of a path, however it is spelt.
fn name(path: &Path) -> String {
    let full = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let name = full.file_name().map(|name| name.to_string_lossy().into_owned());
    crate::console::visible(&name.unwrap_or_else(|| path.display().to_string()))
}

fn metric(name: &str) -> Result<Metric, Error> {
    Metric::from_name(name).ok_or_else(|| {
        let expected = Metric::ALL.map(Metric::name).join(", ");
        Error::Value { what: "--metric", got: name.to_owned(), expected }
    })
}

/// An error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    crate::console::visible(&text)
}
