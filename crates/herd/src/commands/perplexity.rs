//! `herd perplexity`: how well a model predicts a text, by llama.cpp's method.

use std::fs;
use std::path::PathBuf;

use herd_codec::TokenId;
use herd_engine::score::{Scorer, perplexity};
use serde_json::json;

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::flags::{KvFlag, ModelFlags, range};
use crate::run;

/// Flags of `herd perplexity`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    kv: KvFlag,
    /// The text
    #[arg(short, long)]
    file: PathBuf,
    /// Tokens computed at once
    #[arg(short, long, value_name = "N", default_value_t = 512)]
    #[arg(value_parser = range(1, 1 << 24))]
    batch_size: usize,
}

/// Prints the perplexity over chunks of the context, the second half of each counted.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let bytes = fs::read(&flags.file).map_err(Error::io("read", &flags.file))?;
    let ready = run::load(&flags.model, &flags.kv, Some(512))?;
    let context = ready.limits.context;
    let tokenizer = &ready.about.tokenizer;
    let bos = tokenizer.specials().bos.filter(|_| tokenizer.add_bos());
    let mut ids: Vec<u32> = bos.iter().map(|id| id.0).collect();
    ids.extend(tokenizer.encode_bytes(&bytes).into_iter().map(|TokenId(id)| id));
    let mut scorer = Scorer::new(&ready.model, context, flags.batch_size, ready.limits.kv);
    let report = |i: usize, chunks: usize, ppl: f64| {
        if (i + 1).is_multiple_of(10) || i + 1 == chunks {
            console.note(format!("chunk {} of {chunks}: perplexity {ppl:.4}", i + 1));
        }
    };
    let bos = bos.map(|id| id.0);
    let result = perplexity(&mut scorer, &ids, context, bos, report);
    let Some((ppl, tokens)) = result else {
        return Err(Error::Value {
            what: "the text",
            got: format!("{} tokens", ids.len()),
            expected: format!("at least one chunk of {context} tokens (-c)"),
        });
    };
    if console.json {
        console.print_json(&json!({ "ppl": ppl, "tokens": tokens }))?;
    } else {
        console.print(format!("perplexity {ppl:.4} over {tokens} tokens"))?;
    }
    Ok(Verdict::Done)
}
