//! `herd average`: the mean of checkpoints, as a checkpoint.

use std::path::PathBuf;

use herd_model::checkpoint::Checkpoint;
use herd_model::names::Style;
use herd_train::average::{AverageError, Job, Parent, average};
use serde_json::json;

use crate::carry;
use crate::commands::refuse_existing;
use crate::console::{Console, Verdict};
use crate::error::Error;

/// Flags of `herd average`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Hugging Face folders, such as RUN/checkpoints/step-100; the first gives the number format
    #[arg(required = true, value_name = "CHECKPOINT")]
    checkpoints: Vec<PathBuf>,
    /// Where to write: a folder
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// How much each checkpoint counts, as numbers between commas [default: all the same]
    #[arg(long, value_name = "W,W,..", value_delimiter = ',')]
    weights: Vec<f64>,
}

/// Writes the mean.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let weights = weights(flags)?;
    refuse_existing(&flags.out)?;
    let first = Checkpoint::open_any(&flags.checkpoints[0])?;
    if first.style != Style::Hf {
        let path = flags.checkpoints[0].clone();
        return Err(AverageError::Style { path }.into());
    }
    let mut lost = Vec::new();
    let files = match carry::about(&first, None, &mut lost)? {
        None => Vec::new(),
        Some(about) => carry::files(&about, &first, Style::Hf, &mut lost)?,
    };
    lost.iter().for_each(|what| console.note(format!("lost: {what}")));
    let parents: Vec<Parent<'_>> = flags
        .checkpoints
        .iter()
        .zip(&weights)
        .map(|(path, weight)| Parent { path, weight: *weight })
        .collect();
    let tool = concat!("herd ", env!("CARGO_PKG_VERSION"));
    let job = Job { parents: &parents, out: &flags.out, files: &files, tool };
    let mut meter = console.meter("tensors", None);
    average(&job, &mut |done, all| meter.step(done, all))?;
    drop(meter);
    if console.json {
        console.print_json(&json!({ "out": flags.out, "checkpoints": parents.len() }))?;
    } else {
        console.note(format!("wrote {}: the mean of {}", flags.out.display(), parents.len()));
    }
    Ok(Verdict::Done)
}

fn weights(flags: &Flags) -> Result<Vec<f64>, Error> {
    match (flags.weights.len(), flags.checkpoints.len()) {
        (0, count) => Ok(vec![1.0; count]),
        (got, count) if got == count => Ok(flags.weights.clone()),
        (got, count) => {
            let expected = format!("one for each of {count} checkpoints");
            Err(Error::Value { what: "--weights", got: format!("{got} numbers"), expected })
        }
    }
}
