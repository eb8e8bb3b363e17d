//! `herd card`: the card of a trained model, from the records of its run.

use std::fs;
use std::path::{Path, PathBuf};

use herd_data::disk::{RealDisk, replace};
use herd_model::checkpoint::Checkpoint;
use herd_train::card::{Given, Shape, ShapeOf, card};
use herd_train::runs::Run;
use serde_json::Value;

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::writer::find;

/// Flags of `herd card`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// The run's folder
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Write the card into a file, not to the terminal
    #[arg(short, long, value_name = "FILE.md")]
    out: Option<PathBuf>,
    /// Watts that the machine took
    #[arg(long, value_name = "W")]
    watts: Option<f64>,
    /// Kilograms of CO2, or what equals it, for a kilowatt-hour
    #[arg(long, value_name = "KG")]
    kg_per_kwh: Option<f64>,
    /// What the building took for each watt of the machine's
    #[arg(long, value_name = "RATIO")]
    pue: Option<f64>,
    /// What it was trained on, in words
    #[arg(long, value_name = "TEXT")]
    hardware: Option<String>,
}

/// Prints or writes the card.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let number = |what: &'static str, value: Option<f64>, least: f64| match value {
        Some(value) if !(value.is_finite() && value >= least) => {
            Err(Error::Value { what, got: value.to_string(), expected: format!("{least} or more") })
        }
        value => Ok(value),
    };
    let given = Given {
        watts: number("--watts", flags.watts, 0.0)?,
        kg_per_kwh: number("--kg-per-kwh", flags.kg_per_kwh, 0.0)?,
        pue: number("--pue", flags.pue, 1.0)?,
        hardware: flags.hardware.clone(),
    };
    let run = Run::open(&flags.run)?;
    let last = run.checkpoints.last().map(|saved| saved.path.clone());
    let made = last.as_deref().map(made).transpose()?.unwrap_or(Value::Null);
    let own = last.as_deref().and_then(|folder| shape(folder, ShapeOf::Checkpoint));
    let card = card(&run, &made, own.or_else(|| of_parent(&run, &made)), &given);
    if let Some(out) = &flags.out {
        write(out, &card.markdown)?;
    }
    match (console.json, &flags.out) {
        (true, _) => console.print_json(&card)?,
        (false, None) => console.print(card.markdown.trim_end())?,
        (false, Some(out)) => console.note(format!("the card is in {}", out.display())),
    }
    Ok(Verdict::Done)
}

/// The `herd.json` of a checkpoint.
fn made(folder: &Path) -> Result<Value, Error> {
    let path = folder.join("herd.json");
    let text = fs::read(&path).map_err(Error::io("read", &path))?;
    serde_json::from_slice(&text).map_err(|e| Error::Json { path, what: format!("no JSON: {e}") })
}

/// What a checkpoint is; nothing of an adapter, which has no weights of its own.
fn shape(folder: &Path, of: ShapeOf) -> Option<Shape> {
    let config = Checkpoint::open_any(folder).ok()?.config;
    Some(Shape {
        params: config.params(),
        layers: config.layers,
        width: config.width,
        context: config.context,
        vocab: config.vocab,
        of,
    })
}

/// What the model is that an adapter stands beside, where it still lies there: settings name it by its way from the run.
fn of_parent(run: &Run, made: &Value) -> Option<Shape> {
    let parent = find(Path::new(made["parent"].as_str()?), &run.path).ok()?;
    shape(&parent, ShapeOf::Parent)
}

fn write(out: &Path, text: &str) -> Result<(), Error> {
    let Some(name) = out.file_name().and_then(|name| name.to_str()) else {
        let (what, got) = ("-o", out.display().to_string());
        return Err(Error::Value { what, got, expected: "a file such as CARD.md".to_owned() });
    };
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    Ok(replace(&RealDisk, folder.unwrap_or(Path::new(".")), name, &[text.as_bytes()])?)
}
