//! `report.md` of a run: its figures, curves as SVG, samples. The same files give the same report.

pub mod chart;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use herd_data::disk::{RealDisk, make_folder, replace};

use self::chart::{Chart, Curve, Scale, Stroke};
use crate::distill::Learnt;
use crate::dpo::Preferences;
use crate::paired::share;
use crate::rollout::Evaluation;
use crate::runs::{Metric, Run, RunError, Sample, Validation, smoothed};
use crate::spikes::Leapt;

/// A report and the pictures it shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The page.
    pub markdown: String,
    /// Its curves: the file names in its folder, and their SVG.
    pub figures: Vec<(String, String)>,
}

/// The folder of the pictures, beside the page.
const FIGURES: &str = "report";

/// Writes `report.md` and the pictures of `report/` into the run's folder, each whole or not at all.
///
/// Errors: the folder cannot be written.
pub fn write(run: &Run) -> Result<(), RunError> {
    let Report { markdown, figures } = report(run);
    let folder = run.path.join(FIGURES);
    make_folder(&folder).map_err(RunError::io("make", &folder))?;
    for (name, svg) in &figures {
        replace(&RealDisk, &folder, name, &[svg.as_bytes()])?;
    }
    Ok(replace(&RealDisk, &run.path, "report.md", &[markdown.as_bytes()])?)
}

/// Makes the report of a run.
pub fn report(run: &Run) -> Report {
    let mut page = String::from("# A training run\n\n");
    table(&mut page, run);
    let figures = figures(run);
    for (name, _) in &figures {
        let title = name.trim_end_matches(".svg").replace('_', " ");
        let _ = write!(page, "\n![{title}]({FIGURES}/{name})\n");
    }
    sources(&mut page, run);
    spikes(&mut page, run);
    samples(&mut page, run);
    if let Some(config) = &run.config {
        let _ = write!(page, "\n## Config\n\n{}", fenced("toml", config));
    }
    Report { markdown: page, figures }
}

/// A chart of one metric of one run, as the report has it.
pub fn chart(run: &Run, metric: Metric) -> Chart {
    charts(&[("", run)], metric)
}

/// A chart of one metric of several runs, each in its colour. One run alone also shows its smoothed
/// curve where the metric is noisy.
pub fn charts(runs: &[(&str, &Run)], metric: Metric) -> Chart {
    let mut curves = Vec::new();
    for (colour, (name, run)) in runs.iter().enumerate() {
        let points = run.series(metric);
        let noisy = is_noisy(metric) && points.len() > 2 * SMOOTH_MIN;
        let curve =
            |name: &str, points, stroke| Curve { name: name.into(), points, stroke, colour };
        let stroke = match metric {
            _ if noisy => Stroke::Faint,
            Metric::ValidationLoss | Metric::Bpb => Stroke::Dotted,
            Metric::ValidationMargin | Metric::ValidationAccuracy => Stroke::Dotted,
            Metric::EvalReward => Stroke::Dotted,
            _ => Stroke::Solid,
        };
        if noisy {
            let smooth = smoothed(&points, window(points.len()));
            curves.push(curve("", points, stroke));
            curves.push(curve(name, smooth, Stroke::Solid));
        } else {
            curves.push(curve(name, points, stroke));
        }
    }
    let scale = match metric {
        Metric::GradNorm => Scale::Logarithmic,
        _ => Scale::Linear,
    };
    Chart { title: title(metric).to_owned(), across: Scale::Linear, scale, curves }
}

/// Steps that are smoothed at least, where any are.
const SMOOTH_MIN: usize = 10;

/// A fiftieth of the run: smooth to the eye, and still in time with it.
fn window(points: usize) -> usize {
    (points / 50).clamp(SMOOTH_MIN, 1000)
}

fn is_noisy(metric: Metric) -> bool {
    match metric {
        Metric::Loss | Metric::GradNorm | Metric::TokS => true,
        Metric::Margin | Metric::Accuracy | Metric::Kl => true,
        Metric::ValidationMargin | Metric::ValidationAccuracy | Metric::ValidationKl => false,
        Metric::Reward | Metric::AnswerTokens => true,
        Metric::EvalReward => false,
        Metric::Mfu | Metric::StepS | Metric::DataWaitS => true,
        Metric::ValidationLoss | Metric::Bpb | Metric::Lr => false,
        Metric::PeakBytes | Metric::Tokens | Metric::SeqLen => false,
    }
}

fn title(metric: Metric) -> &'static str {
    match metric {
        Metric::Loss => "loss, nats a token",
        Metric::ValidationLoss => "validation loss, nats a token",
        Metric::Bpb => "validation, bits a byte",
        Metric::Lr => "learning rate",
        Metric::GradNorm => "norm of the gradient",
        Metric::TokS => "tokens a second",
        Metric::Mfu => "share of the machine's peak",
        Metric::StepS => "seconds a step",
        Metric::DataWaitS => "seconds a step waits for data",
        Metric::PeakBytes => "most memory so far, bytes",
        Metric::Tokens => "tokens read",
        Metric::SeqLen => "tokens a row",
        Metric::Margin => "margin of rewards",
        Metric::Accuracy => "share of pairs that are right",
        Metric::ValidationMargin => "validation, margin of rewards",
        Metric::ValidationAccuracy => "validation, share of pairs that are right",
        Metric::Kl => "divergence from the teacher, or from the first policy, nats a token",
        Metric::ValidationKl => "validation, divergence from the teacher",
        Metric::Reward => "mean reward",
        Metric::EvalReward => "mean reward of held-out prompts",
        Metric::AnswerTokens => "tokens an answer",
    }
}

fn figures(run: &Run) -> Vec<(String, String)> {
    let shown = [
        Metric::Reward,
        Metric::EvalReward,
        Metric::AnswerTokens,
        Metric::Kl,
        Metric::Loss,
        Metric::Bpb,
        Metric::ValidationMargin,
        Metric::ValidationAccuracy,
        Metric::ValidationKl,
        Metric::Lr,
        Metric::GradNorm,
        Metric::TokS,
    ];
    let there = shown.into_iter().filter(|metric| !run.series(*metric).is_empty());
    there.map(|metric| (format!("{metric}.svg"), chart::svg(&[chart(run, metric)]))).collect()
}

fn table(page: &mut String, run: &Run) {
    *page += "| | |\n|---|---|\n";
    let mut row = |name: &str, text: String| {
        let _ = writeln!(page, "| {name} | {text} |");
    };
    if let Some(last) = run.steps.last() {
        row("steps", count(last.step));
        row("tokens", count(last.tokens));
        let smooth = smoothed(&run.series(Metric::Loss), window(run.steps.len()));
        row("loss at the end", format!("{:.4} (smoothed {:.4})", last.loss, end(&smooth)));
    }
    if let Some(best) = run.best() {
        row("best validation", score(best));
    }
    if let Some(last) = run.validations.last() {
        row("last validation", score(last));
    }
    let pairs = |v: Option<&Validation>| v.and_then(|v| v.preferences);
    let (first, last) = (pairs(run.validations.first()), pairs(run.validations.last()));
    if let (Some(first), Some(last)) = (first, last) {
        let told = |pairs: Preferences| {
            let likely = pairs.pairs.map(|n| {
                let (low, high) = share(pairs.accuracy, n);
                format!(" (95 %: {:.1} to {:.1} % of {n})", 100.0 * low, 100.0 * high)
            });
            let likely = likely.unwrap_or_default();
            format!("{:.1} % right{likely}, margin {:.4}", 100.0 * pairs.accuracy, pairs.margin)
        };
        row("held-out pairs, first and last", format!("{}; {}", told(first), told(last)));
    }
    let taught = |v: Option<&Validation>| v.and_then(|v| v.taught);
    if let (Some(first), Some(last)) =
        (taught(run.validations.first()), taught(run.validations.last()))
    {
        let told = |of: Learnt| format!("cross-entropy {:.4}, divergence {:.4}", of.ce, of.kl);
        row("held out, first and last", format!("{}; {}", told(first), told(last)));
    }
    for (name, text) in rewarded(run) {
        row(name, text);
    }
    if let Some(average) = &run.average {
        row("mean of checkpoints", score(average));
    }
    if !run.speed.is_empty() {
        let seconds = run.seconds();
        row("time", duration(seconds));
        row("tokens a second, median", format!("{:.0}", median(run, Metric::TokS)));
        let mfu = median(run, Metric::Mfu);
        if mfu.is_finite() {
            row("share of the machine's peak, median", format!("{:.1} %", 100.0 * mfu));
        }
        let waited: f64 = run.speed.iter().map(|s| s.data_wait_s).filter(|s| s.is_finite()).sum();
        row(
            "waiting for data",
            format!("{:.1} %", 100.0 * waited / seconds.max(f64::MIN_POSITIVE)),
        );
        let peak = run.speed.iter().map(|s| s.peak_bytes).max().unwrap_or(0);
        row("most memory", format!("{:.1} MiB", peak as f64 / f64::from(1 << 20)));
    }
    row("spikes", run.spikes.len().to_string());
    row("failures", run.failures.len().to_string());
    let steps: Vec<String> = run.checkpoints.iter().map(|c| c.step.to_string()).collect();
    if !steps.is_empty() {
        row("checkpoints", steps.join(", "));
    }
    for torn in &run.torn {
        row("torn", format!("line {} of {}, {} bytes", torn.line, torn.file, torn.bytes));
    }
}

/// What answers of the run's own were worth, first and last.
fn rewarded(run: &Run) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    if let (Some(first), Some(last)) = (run.generations.first(), run.generations.last()) {
        let text = format!("{:.4}; {:.4}", first.reward, last.reward);
        rows.push(("mean reward, first and last", text));
        let text = format!("{:.1}; {:.1}", first.mean_length, last.mean_length);
        rows.push(("tokens an answer", text));
    }
    if let (Some(first), Some(last)) = (run.evaluations.first(), run.evaluations.last()) {
        let told = |met: &Evaluation| match (met.low, met.high) {
            (Some(low), Some(high)) => {
                format!("{:.4} (95 %: {low:.4} to {high:.4})", met.eval_reward)
            }
            _ => format!("{:.4}", met.eval_reward),
        };
        let text = format!("{}; {}", told(first), told(last));
        rows.push(("that of held-out prompts", text));
    }
    rows
}

fn score(validation: &Validation) -> String {
    let Validation { step, loss, bpb, .. } = validation;
    if bpb.is_nan() {
        return format!("{loss:.4} nats a pair (step {})", count(*step));
    }
    format!("{bpb:.4} bits a byte, {loss:.4} nats a token (step {})", count(*step))
}

fn end(points: &[(f64, f64)]) -> f64 {
    points.last().map_or(f64::NAN, |point| point.1)
}

fn median(run: &Run, metric: Metric) -> f64 {
    let mut values: Vec<f64> = run.series(metric).into_iter().map(|p| p.1).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Bits a byte by source: at the first validation, at the best and at the last, and those of the
/// mean of checkpoints.
fn sources(page: &mut String, run: &Run) {
    let (Some(first), Some(best), Some(last)) =
        (run.validations.first(), run.best(), run.validations.last())
    else {
        return;
    };
    let columns = [("first", first), ("best", best), ("last", last)].into_iter();
    let average = run.average.iter().map(|average| ("mean", average));
    let columns: Vec<(&str, &Validation)> = columns.chain(average).collect();
    let names: BTreeSet<&String> = columns.iter().flat_map(|(_, v)| v.by_source.keys()).collect();
    if names.is_empty() {
        return;
    }
    let heads = columns.iter().map(|(name, v)| format!(" {name}, step {} |", count(v.step)));
    let (heads, rules) = (heads.collect::<String>(), "---:|".repeat(columns.len()));
    let _ = write!(page, "\n## Bits a byte by source\n\n| source |{heads}\n|---|{rules}\n");
    for name in names {
        let cell = |(_, v): &(&str, &Validation)| {
            v.by_source.get(name).map_or("  |".to_owned(), |s| format!(" {:.4} |", s.bpb))
        };
        let cells: String = columns.iter().map(cell).collect();
        let _ = writeln!(page, "| {} |{cells}", cell_text(name));
    }
}

fn spikes(page: &mut String, run: &Run) {
    const SHOWN: usize = 50;
    let spikes = &run.spikes;
    if !spikes.is_empty() {
        *page += "\n## Spikes\n\n| step | loss | passes up to | what was done | rows |\n|---:|---:|---:|---|---:|\n";
        for spike in spikes.iter().take(SHOWN) {
            let (action, rows) = (cell_text(&spike.action), spike.rows.len());
            let step = count(spike.step);
            let loss = spike.loss.map_or("NaN".to_owned(), |loss| format!("{loss:.4}"));
            let passes = match spike.what {
                Leapt::Loss => format!("{:.4}", spike.expected),
                Leapt::Gradient => "the gradient is no number".to_owned(),
            };
            let _ = writeln!(page, "| {step} | {loss} | {passes} | {action} | {rows} |");
        }
        more(page, spikes.len(), SHOWN);
    }
    let failures = &run.failures;
    if !failures.is_empty() {
        *page += "\n## Failures\n\n| step | what | error |\n|---:|---|---|\n";
        for failure in failures.iter().take(SHOWN) {
            let (what, error) = (cell_text(&failure.what), cell_text(&failure.error));
            let _ = writeln!(page, "| {} | {what} | {error} |", count(failure.step));
        }
        more(page, failures.len(), SHOWN);
    }
}

fn more(page: &mut String, all: usize, shown: usize) {
    if all > shown {
        let _ = write!(page, "\n{} more stand in metrics.jsonl.\n", all - shown);
    }
}

/// The first and the last samples of each prompt.
fn samples(page: &mut String, run: &Run) {
    const PROMPTS: usize = 8;
    let mut prompts: Vec<(&str, &Sample, &Sample)> = Vec::new();
    for sample in &run.samples {
        match prompts.iter_mut().find(|(prompt, ..)| *prompt == sample.prompt) {
            Some((_, _, last)) => *last = sample,
            None => prompts.push((&sample.prompt, sample, sample)),
        }
    }
    if prompts.is_empty() {
        return;
    }
    *page += "\n## Samples\n";
    for (prompt, first, last) in prompts.iter().take(PROMPTS) {
        let mut show = |sample: &Sample| {
            let text = fenced("text", &format!("{prompt}{}", sample.text));
            let _ = write!(page, "\nStep {}:\n\n{text}", count(sample.step));
        };
        show(first);
        if first.step != last.step {
            show(last);
        }
    }
    more(page, prompts.len(), PROMPTS);
}

/// A block of code whose fence is longer than any in the text; control characters are spelt out.
fn fenced(language: &str, text: &str) -> String {
    let ticks = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat((ticks + 1).max(3));
    let spell = |c: char| match c {
        '\n' | '\t' => c.to_string(),
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    };
    let text: String = text.chars().map(spell).collect();
    format!("{fence}{language}\n{}\n{fence}\n", text.trim_end_matches('\n'))
}

/// A text of the run as a cell of a table.
fn cell_text(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    let spell = |c: char| match c {
        '|' | '<' | '>' | '`' | '*' | '_' | '[' | ']' | '\\' => format!("\\{c}"),
        c if c.is_control() => " ".to_owned(),
        c => c.to_string(),
    };
    text.chars().take(CHARS_MAX).map(spell).collect()
}

/// `49,152`.
fn count(n: u64) -> String {
    let digits = n.to_string();
    let comma = |(i, digit): (usize, char)| match i > 0 && (digits.len() - i).is_multiple_of(3) {
        true => format!(",{digit}"),
        false => digit.to_string(),
    };
    digits.chars().enumerate().map(comma).collect()
}

/// `2 h 05 min`, `3 min 20 s`, `12.5 s`.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Line, Measured, StepLine};
    use crate::runs::Speed;
    use std::fs;
    use std::path::{Path, PathBuf};

    /// A run of a hundred steps with everything in it.
    pub(crate) fn run(folder: &Path) -> PathBuf {
        let mut metrics = String::new();
        let text = |line: Line| serde_json::to_string(&line).unwrap() + "\n";
        let mut speed = String::new();
        for step in 1..=100u64 {
            let loss = 2.0 + 8.0 * (-(step as f64) / 20.0).exp();
            let (tokens, grad_norm, lr, seq_len) = (step * 4096, 10.0 / step as f64, 1e-3, 256);
            let (preferences, taught, moved, valued) = (None, None, None, None);
            let line = StepLine {
                step,
                tokens,
                loss,
                grad_norm,
                lr,
                seq_len,
                preferences,
                taught,
                moved,
                valued,
            };
            metrics += &text(Line::Step(line));
            let (tok_s, mfu, step_s, data_wait_s) = (5000.0, 0.25, 0.8, 0.01);
            let (peak_bytes, eta_s) = (300 << 20, 80.0);
            let line = Speed { step, tok_s, mfu, step_s, data_wait_s, peak_bytes, eta_s };
            speed += &line.text();
            if step % 50 == 0 {
                let by_source = [("books".to_owned(), Measured { loss, bpb: loss / 2.0 })].into();
                let bpb = loss / 2.0;
                let line =
                    Line::Validation { step, loss, bpb: Some(bpb), by_source, preferences, taught };
                metrics += &text(line);
                let (prompt, wrote) = ("Once".to_owned(), format!(" ```upon\u{1b}[2J {step}"));
                metrics += &text(Line::Sample { step, prompt, text: wrote });
            }
        }
        let (rows, action) = (vec!["a:1".to_owned(), "a:2".to_owned()], "recorded".to_owned());
        let (what, loss, expected) = (Leapt::Loss, Some(9.0), 3.0);
        metrics += &text(Line::Spike { step: 100, what, loss, expected, rows, action });
        let by_source = [("books".to_owned(), Measured { loss: 2.0, bpb: 0.75 })].into();
        let of = vec![50, 100];
        metrics += &text(Line::Average { step: 100, of, loss: 2.0, bpb: 0.75, by_source });
        let (what, error) = ("validation".to_owned(), "a | b\n<c>".to_owned());
        metrics += &text(Line::Failure { step: 100, what, error });
        fs::write(folder.join("metrics.jsonl"), metrics).unwrap();
        fs::write(folder.join("speed.jsonl"), speed).unwrap();
        fs::write(folder.join("config.toml"), "seed = 1\n").unwrap();
        folder.to_owned()
    }

    #[test]
    fn a_report_tells_the_run_and_shows_its_curves() {
        let folder = tempfile::tempdir().unwrap();
        let run = Run::open(run(folder.path())).unwrap();
        write(&run).unwrap();
        let page = fs::read_to_string(folder.path().join("report.md")).unwrap();
        let told = [
            "| tokens | 409,600 |",
            "| time | 1 min 20 s |",
            "| share of the machine's peak, median | 25.0 % |",
            "| spikes | 1 |",
            "| mean of checkpoints | 0.7500 bits a byte, 2.0000 nats a token (step 100) |",
            "| source | first, step 50 | best, step 100 | last, step 100 | mean, step 100 |",
            "| books | 1.3283 | 1.0270 | 1.0270 | 0.7500 |",
            "| 100 | 9.0000 | 3.0000 | recorded | 2 |",
            "| 100 | validation | a \\| b \\<c\\> |",
            "````text\nOnce ```upon\\u{1b}[2J 50\n````",
            "```toml\nseed = 1\n```",
        ];
        for told in told {
            assert!(page.contains(told), "{told}\n{page}");
        }
        for name in ["loss", "bpb", "lr", "grad_norm", "tok_s"] {
            let link = format!("({FIGURES}/{name}.svg)");
            assert!(page.contains(&link), "{link}");
            let svg = fs::read_to_string(folder.path().join(FIGURES).join(format!("{name}.svg")));
            assert!(svg.unwrap().contains("prefers-color-scheme:dark"));
        }
        assert_eq!(report(&Run::open(folder.path()).unwrap()).markdown, page);
    }

    #[test]
    fn a_run_that_has_only_begun_has_a_report() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("metrics.jsonl"), "{\"ki").unwrap();
        let page = report(&Run::open(folder.path()).unwrap());
        assert!(page.figures.is_empty());
        assert!(page.markdown.contains("| torn | line 1 of metrics.jsonl, 4 bytes |"));
    }

    #[test]
    fn times_are_readable() {
        let told = [0.0, 59.4, 59.6, 200.0, 7500.0].map(duration).join(", ");
        assert_eq!(told, "0.0 s, 59.4 s, 1 min 00 s, 3 min 20 s, 2 h 05 min");
    }
}
