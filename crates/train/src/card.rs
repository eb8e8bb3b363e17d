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

use crate::runs::{Run, Validation};

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
    /// Whose files say so.
    pub of: ShapeOf,
}

/// Whose files tell the shape of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShapeOf {
    /// The last checkpoint's own.
    Checkpoint,
    /// Those of the model that it is an adapter of.
    Parent,
}

/// What a run learnt from, which decides what its loss is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lesson {
    /// Texts: nats a token.
    Texts,
    /// Texts and a teacher: nats a token too.
    Teacher,
    /// Pairs of answers, as `dpo` does.
    Pairs,
    /// Pairs of answers, as `reward` does.
    Rewards,
    /// Answers of its own, as `grpo` and `ppo` do.
    Answers,
}

impl Lesson {
    /// As the lines of a run tell.
    fn of(run: &Run) -> Lesson {
        let step = run.steps.last();
        let pairs = step.and_then(|step| step.preferences);
        let pairs = pairs.or(run.validations.last().and_then(|measured| measured.preferences));
        match pairs {
            Some(pairs) if pairs.chosen_logp.is_some() => Lesson::Pairs,
            Some(_) => Lesson::Rewards,
            None if !run.generations.is_empty() => Lesson::Answers,
            None if step.is_some_and(|step| step.moved.is_some()) => Lesson::Answers,
            None if step.is_some_and(|step| step.taught.is_some()) => Lesson::Teacher,
            None => Lesson::Texts,
        }
    }

    /// The loss with its unit.
    fn loss(self, loss: f64) -> String {
        match self {
            Lesson::Texts | Lesson::Teacher => format!("{loss:.4} nats a token"),
            Lesson::Pairs | Lesson::Rewards => format!("{loss:.4} nats a pair"),
            Lesson::Answers => format!("{loss:.4}, of the clipped objective: it has no unit"),
        }
    }

    /// The arithmetic that its FLOPs leave out.
    fn left_out(self) -> &'static str {
        match self {
            Lesson::Texts => "",
            Lesson::Teacher => "; the teacher's forward pass is not in it",
            Lesson::Pairs => "; the reference's forward pass over the same answers is not in it",
            Lesson::Rewards => "; its head of one number is counted as one over the vocabulary",
            Lesson::Answers => {
                "; giving the answers, judging them and the reference's forward pass are not in it"
            }
        }
    }
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
    settings(&mut entries, run);
    training(&mut entries, run, shape);
    held_out(&mut entries, run);
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
const CONFIG: &str = "config.toml";

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
        let why = "there is no checkpoint, or an adapter whose parent is not here";
        entries.push(entry("parameters", None, "not known", why));
        return;
    };
    let from = match shape.of {
        ShapeOf::Checkpoint => "config.json of the last checkpoint",
        ShapeOf::Parent => {
            "config.json of what it was made from: the adapter's own are not counted"
        }
    };
    let whole = |name, n: u64| entry(name, Some(n as f64), count(n), from);
    entries.push(whole("parameters", shape.params));
    entries.push(whole("context (tokens)", shape.context as u64));
    entries.push(whole("vocabulary (ids)", shape.vocab as u64));
}

/// What `config.toml` says of how it was trained.
fn settings(entries: &mut Vec<Entry>, run: &Run) {
    let Some(table) = run.config.as_deref().and_then(|text| text.parse::<toml::Table>().ok())
    else {
        return;
    };
    let find = |section: &str, name: &str| table.get(section)?.as_table()?.get(name).cloned();
    let number = |value: &toml::Value| value.as_float().or(value.as_integer().map(|n| n as f64));
    if let Some(rate) = find("optim", "lr").as_ref().and_then(number) {
        let mut text = format!("{rate:e} at its peak");
        if let Some(decay) = find("optim", "decay").as_ref().and_then(toml::Value::as_str) {
            let _ = write!(text, ", {decay} behind it");
        }
        entries.push(entry("learning rate", Some(rate), text, CONFIG));
    }
    if let Some(tokens) = find("batch", "tokens").as_ref().and_then(toml::Value::as_integer) {
        let tokens = tokens.max(0) as u64;
        let ramp = find("batch", "ramp").is_some();
        let text = if ramp { format!("{}, later others", count(tokens)) } else { count(tokens) };
        entries.push(entry("batch (tokens a step)", Some(tokens as f64), text, CONFIG));
    }
    if let Some(weights) = find("precision", "weights").as_ref().and_then(toml::Value::as_str) {
        let text = format!("{weights} products, f32 masters and sums");
        entries.push(entry("precision", None, text, CONFIG));
    }
    if let Some(seed) = table.get("seed").and_then(toml::Value::as_integer) {
        entries.push(entry("seed", Some(seed as f64), seed.to_string(), CONFIG));
    }
}

fn training(entries: &mut Vec<Entry>, run: &Run, shape: Option<Shape>) {
    let lesson = Lesson::of(run);
    if let Some(last) = run.steps.last() {
        entries.push(entry("steps", Some(last.step as f64), count(last.step), METRICS));
        entries.push(entry("tokens read", Some(last.tokens as f64), count(last.tokens), METRICS));
        let mut text = match lesson == Lesson::Pairs && is_ipo(run) {
            true => format!("{:.4} a pair, IPO's square", last.loss),
            false => lesson.loss(last.loss),
        };
        if let Some(parts) = last.taught {
            let _ =
                write!(text, ": {:.4} of the targets, {:.4} from the teacher", parts.ce, parts.kl);
        }
        entries.push(entry("loss of the last step", Some(last.loss), text, METRICS));
    }
    for (what, n) in
        [("spikes", run.spikes.len()), ("failures beside training", run.failures.len())]
    {
        entries.push(entry(what, Some(n as f64), n.to_string(), METRICS));
    }
    let Some(flops) = shape.map(|shape| flops(run, shape)) else { return };
    let mut from = "the tokens of each step, times 6 N + 6 L D s".to_owned();
    from += lesson.left_out();
    if run.config.as_ref().is_some_and(|config| config.contains("[model.lora]")) {
        from += ", as if all weights were trained: an adapter takes about two thirds of that";
    }
    entries.push(entry("training FLOPs", Some(flops), format!("{flops:.3e}"), from));
}

/// Whether pairs lose by the square of their distance (arXiv 2310.12036), which is of no nats.
fn is_ipo(run: &Run) -> bool {
    let table = run.config.as_deref().and_then(|text| text.parse::<toml::Table>().ok());
    let loss = table.and_then(|table| table.get("dpo")?.get("loss").cloned());
    loss.is_some_and(|loss| loss.as_str() == Some("ipo"))
}

/// What was measured on text, pairs or prompts that it did not learn from.
fn held_out(entries: &mut Vec<Entry>, run: &Run) {
    let last = run.validations.last();
    if let Some((measured, pairs)) = last.and_then(|v| Some((v, v.preferences?))) {
        let step = measured.step;
        let text = format!("{:.1} % of pairs, after step {step}", 100.0 * pairs.accuracy);
        entries.push(entry("held-out accuracy", Some(pairs.accuracy), text, METRICS));
        let text = format!("{:.4} of reward, after step {step}", pairs.margin);
        entries.push(entry("held-out margin", Some(pairs.margin), text, METRICS));
    } else if let Some(best) = run.best() {
        let text = format!("{:.4} bits a byte, after step {}", best.bpb, best.step);
        entries.push(entry("best validation", Some(best.bpb), text, METRICS));
    }
    if let Some(met) = run.generations.last() {
        let text = format!("{:.4}, the mean of {} answers", met.reward, count(met.answers as u64));
        entries.push(entry("reward of the last answers", Some(met.reward), text, METRICS));
    }
    if let Some(met) = run.evaluations.last() {
        let mut text = format!("{:.4}", met.eval_reward);
        if let (Some(low), Some(high)) = (met.low, met.high) {
            let _ = write!(text, " ({low:.4} to {high:.4})");
        }
        let _ = write!(text, ", {} prompts, after step {}", count(met.prompts as u64), met.step);
        entries.push(entry("held-out reward", Some(met.eval_reward), text, METRICS));
    }
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
    let text = kwh.map_or("not known".to_owned(), |kwh| told(kwh, ["kWh", "Wh", "mWh"]));
    let from = match (watts, pue) {
        (Some(watts), Some(pue)) => {
            format!("{watts} W and a PUE of {pue} given, times the time of steps")
        }
        (Some(watts), None) => format!("{watts} W given, times the time of steps"),
        (None, _) => "no watts were given (--watts), and runs count none".to_owned(),
    };
    entries.push(entry("energy", kwh, text, from));
    let kg = kwh.zip(*kg_per_kwh).map(|(kwh, kg)| kwh * kg);
    let of_co2 = |kg| format!("{} of CO2 or its equal", told(kg, ["kg", "g", "mg"]));
    let text = kg.map_or("not known".to_owned(), of_co2);
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
    let mut page =
        format!("# Model card: {}\n\n| figure | value | from |\n|---|---|---|\n", cell(&title));
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
    held_out_page(&mut page, run);
    page += "\n## Not said here\n\nWhat the model is meant for, what it must not be used for, its licence, and how it fares on \
             benchmarks and with people: `herd eval`, `herd arena` and whoever publishes it say that.\n";
    page
}

/// The first and the last of what was measured beside training, in the units that the run's loss has.
fn held_out_page(page: &mut String, run: &Run) {
    let first = run.validations.first().into_iter();
    let ends: Vec<&Validation> = first.chain(run.validations.iter().skip(1).last()).collect();
    if ends.is_empty() {
        return;
    }
    let number = |x: f64| if x.is_finite() { format!("{x:.4}") } else { "-".to_owned() };
    match ends.iter().any(|measured| measured.preferences.is_some()) {
        true => {
            *page += "\n## Held-out pairs\n\n| step | loss a pair | in order (%) | margin of reward |\n|---:|---:|---:|---:|\n";
            for measured in ends {
                let of = measured.preferences;
                let accuracy =
                    of.map_or("-".to_owned(), |of| format!("{:.1}", 100.0 * of.accuracy));
                let (loss, margin) =
                    (number(measured.loss), number(of.map_or(f64::NAN, |of| of.margin)));
                let _ = writeln!(page, "| {} | {loss} | {accuracy} | {margin} |", measured.step);
            }
        }
        false => {
            *page +=
                "\n## Held-out text\n\n| step | nats a token | bits a byte |\n|---:|---:|---:|\n";
            for measured in ends {
                let (loss, bits) = (number(measured.loss), number(measured.bpb));
                let _ = writeln!(page, "| {} | {loss} | {bits} |", measured.step);
            }
        }
    }
    *page += "\nThe first and the last, from `metrics.jsonl`.\n";
}

/// Three digits that count, in a unit, its thousandth or its millionth.
fn told(value: f64, units: [&str; 3]) -> String {
    let (number, unit) = match value.abs() {
        v if v >= 1.0 || v == 0.0 => (value, units[0]),
        v if v >= 1e-3 => (value * 1e3, units[1]),
        _ => (value * 1e6, units[2]),
    };
    let places = match number.abs() {
        v if v >= 100.0 || v == 0.0 => 0,
        v => (2.0 - v.log10().floor()).min(9.0) as usize,
    };
    format!("{number:.places$} {unit}")
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

    const SHAPE: Shape = Shape {
        params: 1000,
        layers: 2,
        width: 8,
        context: 64,
        vocab: 100,
        of: ShapeOf::Checkpoint,
    };

    fn run(folder: &std::path::Path) -> Run {
        let step = |step: u64| json!({ "kind": "step", "step": step, "tokens": 256 * step, "loss": 2.0, "grad_norm": 1.0, "lr": 0.1, "seq_len": 64 });
        let speed = |step: u64| json!({ "step": step, "tok_s": 64.0, "mfu": null, "step_s": 4.0, "data_wait_s": 0.0, "peak_bytes": 2_000_000, "eta_s": 0.0 });
        let lines = |of: &dyn Fn(u64) -> Value, steps: &[u64]| -> String {
            steps.iter().map(|i| format!("{}\n", of(*i))).collect()
        };
        fs::write(folder.join("metrics.jsonl"), lines(&step, &[1, 2, 3])).unwrap();
        fs::write(folder.join("speed.jsonl"), lines(&speed, &[1, 2, 2, 3])).unwrap(); // one step twice
        let config = "seed = 7\n[data]\ninput = [\"a|b.jsonl\"]\n[optim]\nlr = 1e-3\ndecay = \"cosine\"\n[batch]\ntokens = 4096\n[precision]\nweights = \"bf16\"\n";
        fs::write(folder.join("config.toml"), config).unwrap();
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
            "| figure | value | from |",
            "| energy | 500 mWh |",
            "| emissions | 200 mg of CO2",
            "| learning rate | 1e-3 at its peak, cosine behind it | config.toml |",
            "| batch (tokens a step) | 4,096 |",
            "| precision | bf16 products",
            "| seed | 7 |",
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

    /// A run whose last step and held-out line have these fields too.
    fn stage(folder: &std::path::Path, more: &Value, behind: &[Value]) -> Card {
        let with = |line: Value| {
            let mut line = line;
            for (name, value) in more.as_object().unwrap() {
                line[name] = value.clone();
            }
            line
        };
        let step = json!({ "kind": "step", "step": 1, "tokens": 256, "loss": 0.5, "grad_norm": 1.0, "lr": 0.1, "seq_len": 64 });
        let held = json!({ "kind": "validation", "step": 1, "loss": 0.6, "by_source": {} });
        let lines: Vec<String> =
            [with(step), with(held)].iter().chain(behind).map(|line| format!("{line}\n")).collect();
        fs::write(folder.join("metrics.jsonl"), lines.concat()).unwrap();
        let shape = Shape { of: ShapeOf::Parent, ..SHAPE };
        card(&Run::open(folder).unwrap(), &Value::Null, Some(shape), &Given::default())
    }

    #[test]
    fn pairs_are_told_in_their_own_units() {
        let folder = tempfile::tempdir().unwrap();
        let pairs = json!({ "rewards/chosen": 0.2, "rewards/rejected": -0.1, "rewards/accuracies": 0.75, "rewards/margins": 0.3 });
        let reward = stage(folder.path(), &pairs, &[]).markdown;
        for words in [
            "0.5000 nats a pair",
            "| held-out accuracy | 75.0 % of pairs, after step 1 |",
            "| held-out margin | 0.3000 of reward",
            "| 1 | 0.6000 | 75.0 | 0.3000 |",
            "config.json of what it was made from",
        ] {
            assert!(reward.contains(words), "{words}: {reward}");
        }
        assert!(!reward.contains("NaN") && !reward.contains("nats a token"), "{reward}");
        let mut dpo = pairs;
        (dpo["logps/chosen"], dpo["logps/rejected"]) = (json!(-9.0), json!(-8.0));
        let dpo = stage(folder.path(), &dpo, &[]).markdown;
        assert!(dpo.contains("the reference's forward pass over the same answers"), "{dpo}");
    }

    #[test]
    fn teachers_and_answers_are_told_apart_from_texts() {
        let folder = tempfile::tempdir().unwrap();
        let taught = stage(folder.path(), &json!({ "ce": 0.4, "kl": 0.1 }), &[]).markdown;
        assert!(taught.contains("0.4000 of the targets, 0.1000 from the teacher"), "{taught}");
        assert!(taught.contains("the teacher's forward pass is not in it"), "{taught}");
        assert!(taught.contains("| 1 | 0.6000 | - |"), "{taught}"); // no bits: no NaN
        let held = json!({ "kind": "evaluation", "step": 1, "prompts": 20, "eval_reward": 0.25, "low": 0.1, "high": 0.4,
            "eval_completions/mean_length": 5.0, "eval_rewards": {} });
        let met = json!({ "kind": "rollouts", "step": 1, "answers": 64, "reward": 0.5, "reward_std": 0.1, "frac_reward_zero_std": 0.0,
            "completions/mean_length": 5.0, "completions/min_length": 1, "completions/max_length": 9, "completions/clipped_ratio": 0.0, "rewards": {} });
        let answers = stage(folder.path(), &json!({}), &[held, met]).markdown;
        for words in [
            "it has no unit",
            "judging them and the reference's forward pass",
            "| held-out reward | 0.2500 (0.1000 to 0.4000), 20 prompts, after step 1 |",
            "| reward of the last answers | 0.5000, the mean of 64 answers |",
        ] {
            assert!(answers.contains(words), "{words}: {answers}");
        }
    }

    #[test]
    fn small_amounts_are_told_in_small_units() {
        let units = ["kWh", "Wh", "mWh"];
        for (value, text) in [
            (12.345, "12.3 kWh"),
            (0.5, "500 Wh"),
            (0.001_234, "1.23 Wh"),
            (0.000_000_5, "0.500 mWh"),
            (0.0, "0 kWh"),
        ] {
            assert_eq!(told(value, units), text);
        }
    }
}
