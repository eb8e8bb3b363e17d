//! `herd plan`: how much memory a model takes at its peak, and whether that is there.

use herd_engine::plan::Plan;
use serde_json::json;

use crate::console::{Console, Verdict, bytes};
use crate::error::Error;
use crate::flags::{KvFlag, ModelFlags};
use crate::machine::machine;
use crate::run;

/// Flags of `herd plan`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    kv: KvFlag,
}

/// Prints the parts; the answer is no if they do not fit.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let (checkpoint, limits) = run::open(&flags.model, &flags.kv, None)?;
    let plan = Plan::new(&checkpoint, limits)?;
    let available = machine().memory_available_bytes;
    let fits = run::fits(&plan, available);
    let most = plan.context_that_fits(&checkpoint.config, limits, available as usize);
    let parts = [
        ("weights", plan.weights),
        ("cache", plan.cache),
        ("activations", plan.activations),
        ("logits", plan.logits),
        ("rest", plan.rest),
    ];
    if console.json {
        let parts: serde_json::Map<String, serde_json::Value> =
            parts.into_iter().map(|(name, bytes)| (name.to_owned(), json!(bytes))).collect();
        console.print_json(&json!({
            "context": limits.context,
            "parts": parts,
            "peak_bytes": plan.peak(),
            "available_bytes": available,
            "fits": fits,
            "context_that_fits": most,
        }))?;
    } else {
        for (name, size) in parts {
            console.print(format!("{name:<12} {:>11}", bytes(size as u64)))?;
        }
        let (peak, free) = (bytes(plan.peak() as u64), bytes(available));
        console.print(format!("{:<12} {peak:>11} with a context of {}", "peak", limits.context))?;
        let answer = match (fits, most) {
            (true, _) => format!("fits into the {free} that are free"),
            (false, Some(n)) => format!("does not fit into {free}; a context of {n} would"),
            (false, None) => format!("does not fit into {free} with any context"),
        };
        console.print(answer)?;
    }
    Ok(if fits { Verdict::Done } else { Verdict::No })
}
