//! `herd verify`: does a converted or quantised model still say what its parent says?
//!
//! It asks about the numbers in the files. Kernels treat formats differently (beside packed weights
//! they round activations), so models that differ in format both run on weights unpacked to f32: a
//! Q4_1 file and the folder made of it are identical.

use herd_model::CheckpointError;
use herd_model::checkpoint::Checkpoint;
use herd_model::names::all_parts;
use herd_tensor::Format;

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::flags::{KvFlag, ModelFlags};
use crate::measure::{CONTEXT, TextFlags, measure};
use crate::run;

/// Flags of `herd verify`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(flatten)]
    model: ModelFlags,
    /// The model that it was made from
    #[arg(short, long)]
    parent: String,
    #[command(flatten)]
    kv: KvFlag,
    #[command(flatten)]
    text: TextFlags,
    /// The mean KL divergence per token, in nats, up to which the answer is yes
    #[arg(long, value_name = "NATS", default_value_t = 0.05)]
    kl_max: f64,
    /// Compare the models as they run, packed weights and all
    #[arg(long)]
    as_run: bool,
}

/// Prints how far the models are apart; the answer is no if that is beyond `--kl-max`.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let parent = ModelFlags { model: flags.parent.clone(), lora: None, ..flags.model.clone() };
    let mut models = [
        run::open(&parent, &flags.kv, Some(CONTEXT))?,
        run::open(&flags.model, &flags.kv, Some(CONTEXT))?,
    ];
    if !flags.as_run && formats(&models[0].0)? != formats(&models[1].0)? {
        models = models.map(|(checkpoint, limits)| (checkpoint.unpacked(), limits));
        for (_, limits) in &mut models {
            limits.kv = flags.kv.format(Format::F32)?;
        }
    }
    let [(first, first_limits), (second, second_limits)] = models;
    let parent = run::ready(&first, first_limits, &parent)?;
    let child = run::ready(&second, second_limits, &flags.model)?;
    let measured = measure(&flags.text, &parent, &child, console)?;
    let holds = measured.comparison.kl_mean <= flags.kl_max;
    if console.json {
        let mut value = measured.json();
        value["holds"] = holds.into();
        console.print_json(&value)?;
    } else {
        console.print(measured.lines())?;
        let limit = flags.kl_max;
        console.print(if holds { "yes".into() } else { format!("no: KL beyond {limit}") })?;
    }
    Ok(if holds { Verdict::Done } else { Verdict::No })
}

/// How each part is stored.
fn formats(checkpoint: &Checkpoint) -> Result<Vec<Format>, CheckpointError> {
    all_parts(&checkpoint.config).into_iter().map(|part| checkpoint.format(part)).collect()
}
