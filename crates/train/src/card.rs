//! The card of a trained model: what it is, what it was trained on, what that cost. Every figure says where it is from.
//!
//! ```text
//! FLOPs    = sum over steps of tokens * (6 N + 6 L D s)        N parameters, rows of s tokens
//! energy   = watts * seconds * PUE                             1 kWh = 3.6e6 J
//! CO2      = energy * kg of it a kWh
//! ```

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use crate::runs::Run;

/// What a run's folder does not say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Given {
    /// Watts that the machine took.
    pub watts: Option<f64>,
    /// Kilograms of carbon dioxide, or what equals it, for a kilowatt-hour.
    pub kg_per_kwh: Option<f64>,
    /// What the building took for each watt of the machine's.
    pub pue: Option<f64>,
    /// The processor of this machine, if the run was made on it.
    pub hardware: Option<String>,
}

/// The network of the last checkpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// N, an embedding that is the head counted once.
    pub params: u64,
    /// L.
    pub layers: usize,
    /// D.
    pub width: usize,
    /// Tokens of context.
    pub context: usize,
    /// Ids.
    pub vocab: usize,
}

/// A figure of a card.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// What it is of.
    pub name: &'static str,
    /// The figure in its unit; nothing where it is not known.
    pub value: Option<f64>,
    /// What a reader sees.
    pub text: String,
    /// Where it is from.
    pub from: String,
}

/// A card: what stands in its table, and the page.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Card {
    /// The rows.
    pub entries: Vec<Entry>,
    /// The page.
    pub markdown: String,
}

/// Makes the card of a run. `made` is the `herd.json` of its last checkpoint, `shape` what that checkpoint is.
pub fn card(run: &Run, made: &Value, shape: Option<Shape>, given: &Given) -> Card {
    let mut entries = Vec::new();
    about(&mut entries, made, shape);
    training(&mut entries, run, shape);
    cost(&mut entries, run, given);
    let markdown = page(run, made, &entries);
    Card { entries, markdown }
}

fn entry(
    name: &'static str,
    value: Option<f64>,
    text: impl Into<String>,
    from: impl Into<String>,
) -> Entry {
    Entry { name, value, text: text.into(), from: from.into() }
}

const MADE: &str = "herd.json of the last checkpoint";
const METRICS: &str = "metrics.jsonl";

fn about(entries: &mut Vec<Entry>, made: &Value, shape: Option<Shape>) {
    for (name, field) in [
        ("stage", "stage"),
        ("made from", "parent"),
        ("data, by hash", "data"),
        ("numeric class", "class"),
        ("Herd", "version"),
    ] {
        if let Some(text) = made[field].as_str() {
            entries.push(entry(name, None, text, MADE));
        }
    }
    let Some(shape) = shape else {
        let why = "the last checkpoint has no weights of its own, or there is none";
        entries.push(entry("parameters", None, "not known", why));
        return;
    };
    let from = "config.json of the last checkpoint";
    let whole = |name, n: u64| entry(name, Some(n as f64), count(n), from);
    entries.push(whole("parameters", shape.params));
    entries.push(whole("context (tokens)", shape.context as u64));
    entries.push(whole("vocabulary (ids)", shape.vocab as u64));
}

fn training(entries: &mut Vec<Entry>, run: &Run, shape: Option<Shape>) {
    if let Some(last) = run.steps.last() {
        entries.push(entry("steps", Some(last.step as f64), count(last.step), METRICS));
        entries.push(entry("tokens read", Some(last.tokens as f64), count(last.tokens), METRICS));
        let loss = format!("{:.4} nats a token", last.loss);
        entries.push(entry("loss of the last step", Some(last.loss), loss, METRICS));
    }
    if let Some(best) = run.best() {
        let text = format!("{:.4} bits a byte, after step {}", best.bpb, best.step);
        entries.push(entry("best validation", Some(best.bpb), text, METRICS));
    }
    for (what, n) in
        [("spikes", run.spikes.len()), ("failures beside training", run.failures.len())]
    {
        entries.push(entry(what, Some(n as f64), n.to_string(), METRICS));
    }
    let Some(flops) = shape.map(|shape| flops(run, shape)) else { return };
    let mut from = "the tokens of each step, times 6 N + 6 L D s".to_owned();
    if run.config.as_ref().is_some_and(|config| config.contains("[model.lora]")) {
        from += ", as if all weights were trained: an adapter takes about two thirds of that";
    }
    entries.push(entry("training FLOPs", Some(flops), format!("{flops:.3e}"), from));
}

/// The arithmetic of all steps that stand.
fn flops(run: &Run, shape: Shape) -> f64 {
    let (params, per_row) = (shape.params as f64, 6.0 * (shape.layers * shape.width) as f64);
    let mut before = 0;
    let of = |step: &crate::metrics::StepLine| {
        let tokens = step.tokens.saturating_sub(before) as f64;
        before = step.tokens;
        tokens * (6.0 * params + per_row * step.seq_len as f64)
    };
    run.steps.iter().map(of).sum()
}

fn cost(entries: &mut Vec<Entry>, run: &Run, given: &Given) {
    let Given { watts, kg_per_kwh, pue, hardware } = given;
    if let Some(hardware) = hardware {
        entries.push(entry("hardware", None, hardware, "given"));
    }
    let seconds = run.seconds();
    let known = (!run.speed.is_empty()).then_some(seconds);
    let text = known.map_or("not known".to_owned(), duration);
    let from = "speed.jsonl: all steps, those done again too; without loading and measuring";
    entries.push(entry("time of steps", known, text, from));
    if let Some(peak) = run.speed.iter().map(|speed| speed.peak_bytes).max() {
        let text = format!("{:.1} MB", peak as f64 / 1e6);
        entries.push(entry("peak memory", Some(peak as f64), text, "speed.jsonl"));
    }
    let kwh = known.zip(*watts).map(|(s, watts)| s * watts * pue.unwrap_or(1.0) / 3.6e6);
    let text = kwh.map_or("not known".to_owned(), |kwh| format!("{kwh:.4e} kWh"));
    let from = match (watts, pue) {
        (Some(watts), Some(pue)) => {
            format!("{watts} W and a PUE of {pue} given, times the time of steps")
        }
        (Some(watts), None) => format!("{watts} W given, times the time of steps"),
        (None, _) => "no watts were given (--watts), and runs count none".to_owned(),
    };
    entries.push(entry("energy", kwh, text, from));
    let kg = kwh.zip(*kg_per_kwh).map(|(kwh, kg)| kwh * kg);
    let text = kg.map_or("not known".to_owned(), |kg| format!("{kg:.4e} kg of CO2 or its equal"));
    let from = match kg_per_kwh {
        Some(kg) => format!("{kg} kg a kWh given, where the power was drawn"),
        None => "no kilograms a kilowatt-hour were given (--kg-per-kwh)".to_owned(),
    };
    entries.push(entry("emissions", kg, text, from));
}

fn page(run: &Run, made: &Value, entries: &[Entry]) -> String {
    let cell = |text: &str| text.replace('|', "\\|").replace(['\n', '\r'], " ");
    let title = run.path.file_name().map(|name| name.to_string_lossy().into_owned());
    let title = title.unwrap_or_else(|| "a run".to_owned());
    let mut page = format!("# Model card: {}\n\n| | | from |\n|---|---|---|\n", cell(&title));
    for Entry { name, text, from, .. } in entries {
        let _ = writeln!(page, "| {name} | {} | {} |", cell(text), cell(from));
    }
    let settings = run.config.as_deref().and_then(|text| text.parse::<toml::Table>().ok());
    if let Some(settings) = settings {
        page += "\n## Data\n\n";
        match settings.get("data").and_then(|data| data.as_table()) {
            Some(data) => {
                for (name, value) in data {
                    let _ = writeln!(page, "- `{name}`: {}", cell(&value.to_string()));
                }
            }
            None => page += "The settings name none.\n",
        }
        let _ = write!(
            page,
            "\nFrom `config.toml`; by hash {}.\n",
            made["data"].as_str().unwrap_or("not known")
        );
    }
    if !run.validations.is_empty() {
        page += "\n## Held-out text\n\n| step | nats a token | bits a byte |\n|---:|---:|---:|\n";
        let first = run.validations.first().into_iter();
        let last = run.validations[1..].last();
        for measured in first.chain(last) {
            let _ = writeln!(
                page,
                "| {} | {:.4} | {:.4} |",
                measured.step, measured.loss, measured.bpb
            );
        }
        page += "\nThe first and the last, from `metrics.jsonl`.\n";
    }
    page += "\n## Not said here\n\nWhat the model is meant for, what it must not be used for, its licence, and how it fares on \
             benchmarks and with people: `herd eval`, `herd arena` and whoever publishes it say that.\n";
    page
}

/// A whole number with its thousands apart.
fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.1} min", s / 60.0),
        s => format!("{:.2} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    const SHAPE: Shape = Shape { params: 1000, layers: 2, width: 8, context: 64, vocab: 100 };

    fn run(folder: &std::path::Path) -> Run {
        let step = |step: u64| json!({ "kind": "step", "step": step, "tokens": 256 * step, "loss": 2.0, "grad_norm": 1.0, "lr": 0.1, "seq_len": 64 });
        let speed = |step: u64| json!({ "step": step, "tok_s": 64.0, "mfu": null, "step_s": 4.0, "data_wait_s": 0.0, "peak_bytes": 2_000_000, "eta_s": 0.0 });
        let lines = |of: &dyn Fn(u64) -> Value, steps: &[u64]| -> String {
            steps.iter().map(|i| format!("{}\n", of(*i))).collect()
        };
        fs::write(folder.join("metrics.jsonl"), lines(&step, &[1, 2, 3])).unwrap();
        fs::write(folder.join("speed.jsonl"), lines(&speed, &[1, 2, 2, 3])).unwrap(); // one step twice
        fs::write(folder.join("config.toml"), "[data]\ninput = [\"a|b.jsonl\"]\n").unwrap();
        Run::open(folder).unwrap()
    }

    fn value(card: &Card, name: &str) -> Option<f64> {
        card.entries.iter().find(|entry| entry.name == name).unwrap().value
    }

    #[test]
    fn figures_are_those_of_the_records() {
        let folder = tempfile::tempdir().unwrap();
        let run = run(folder.path());
        let given =
            Given { watts: Some(90.0), kg_per_kwh: Some(0.4), pue: Some(1.25), hardware: None };
        let made =
            json!({ "stage": "pretrain", "data": "abc", "class": "avx2", "version": "0.1.0" });
        let card = card(&run, &made, Some(SHAPE), &given);
        assert_eq!(value(&card, "tokens read"), Some(768.0));
        // 768 tokens of 6 * 1000 + 6 * 2 * 8 * 64.
        assert_eq!(value(&card, "training FLOPs"), Some(768.0 * (6000.0 + 6144.0)));
        assert_eq!(value(&card, "time of steps"), Some(16.0));
        let kwh = 16.0 * 90.0 * 1.25 / 3.6e6;
        assert!((value(&card, "energy").unwrap() - kwh).abs() < 1e-15);
        assert!((value(&card, "emissions").unwrap() - 0.4 * kwh).abs() < 1e-15);
        for words in [
            "| stage | pretrain | herd.json",
            "a\\|b.jsonl",
            "90 W and a PUE of 1.25 given",
            "by hash abc",
        ] {
            assert!(card.markdown.contains(words), "{words}: {}", card.markdown);
        }
        assert!(card.entries.iter().all(|entry| !entry.from.is_empty()));
    }

    #[test]
    fn what_is_not_known_is_said_and_not_made_up() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("metrics.jsonl"), "").unwrap();
        let run = Run::open(folder.path()).unwrap();
        let card =
            card(&run, &Value::Null, None, &Given { kg_per_kwh: Some(0.4), ..Given::default() });
        for name in ["parameters", "time of steps", "energy", "emissions"] {
            let found = card.entries.iter().find(|entry| entry.name == name).unwrap();
            assert_eq!((found.value, found.text.as_str()), (None, "not known"), "{name}");
        }
        assert!(card.markdown.contains("--watts"));
    }
}
