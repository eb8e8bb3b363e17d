//! `herd logits`: what a model says of each position of given tokens.

use herd_engine::sample::Sampler;
use herd_engine::score::Scorer;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::flags::{KvFlag, ModelFlags, range};
use crate::run;

/// Flags of `herd logits`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    kv: KvFlag,
    /// Token ids, with spaces or commas between
    #[arg(long)]
    ids: String,
    /// Likeliest tokens to print for each position; 0 prints the whole vocabulary by id
    #[arg(long, default_value_t = 10)]
    top: usize,
    /// Tokens computed at once; changes no bit
    #[arg(short, long, value_name = "N", default_value_t = 512)]
    #[arg(value_parser = range(1, 1 << 24))]
    batch_size: usize,
}

/// Prints the log-probabilities at each position, and a hash over the bits of all logits.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let ids = flags
        .ids
        .split([' ', ',', '\n'])
        .filter(|word| !word.is_empty())
        .map(|word| word.parse::<u32>().map_err(|_| wrong(word, "a token id")))
        .collect::<Result<Vec<u32>, Error>>()?;
    if ids.is_empty() {
        return Err(wrong("empty", "at least one token id"));
    }
    let ready = run::load(&flags.model, &flags.kv, Some(ids.len()))?;
    let vocab = ready.model.config().vocab;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
        return Err(wrong(&id.to_string(), format!("below the vocabulary's size, {vocab}")));
    }
    if ids.len() > ready.limits.context {
        let expected = format!("at most {} ids (-c)", ready.limits.context);
        return Err(wrong(&format!("{} ids", ids.len()), expected));
    }
    let mut scorer = Scorer::new(&ready.model, ids.len(), flags.batch_size, ready.limits.kv);
    let mut hash = Sha256::new();
    let mut positions = Vec::new();
    let mut sampler = Sampler::new();
    let mut top = Vec::new();
    scorer.logits(&ids, 0, |_, logits_tv| {
        for row in 0..logits_tv.rows() {
            let row = logits_tv.row(row);
            row.iter().for_each(|x| hash.update(x.to_le_bytes()));
            let n = if flags.top == 0 { vocab } else { flags.top };
            sampler.top_log_probs(row, n, &mut top);
            if flags.top == 0 {
                top.sort_by_key(|p| p.id);
            }
            let pairs: Vec<_> =
                top.iter().map(|p| json!({ "id": p.id, "logprob": p.log_prob })).collect();
            positions.push(pairs);
        }
    });
    let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if console.json {
        let answer = json!({
            "ids": ids,
            "logprobs": positions,
            "logits_sha256": hash,
            "class": ready.model.device().class().name(),
        });
        console.print_json(&answer)?;
        return Ok(Verdict::Done);
    }
    for (at, (id, top)) in ids.iter().zip(&positions).enumerate() {
        let shown: Vec<String> = top
            .iter()
            .map(|p| format!("{} {:.4}", p["id"], p["logprob"].as_f64().unwrap_or(f64::NAN)))
            .collect();
        console.print(format!("{at:>5} {id:>6} -> {}", shown.join(", ")))?;
    }
    console.print(format!("sha256 of the logits {hash}"))?;
    Ok(Verdict::Done)
}

fn wrong(got: &str, expected: impl Into<String>) -> Error {
    Error::Value { what: "--ids", got: got.to_owned(), expected: expected.into() }
}
