//! `herd verify`: does a converted or quantised model still say what its parent says?

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
}

/// Prints how far the models are apart; the answer is no if that is beyond `--kl-max`.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let parent = ModelFlags { model: flags.parent.clone(), ..flags.model.clone() };
    let parent = run::load(&parent, &flags.kv, Some(CONTEXT))?;
    let child = run::load(&flags.model, &flags.kv, Some(CONTEXT))?;
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
