//! Measures a model against its parent on a text.

use std::fs;
use std::path::PathBuf;

use herd_codec::TokenId;
use herd_engine::compare::{Comparison, compare};
use herd_engine::score::Scorer;
use sha2::{Digest, Sha256};

use crate::console::Console;
use crate::error::Error;
use crate::pull::download::hex;
use crate::run::Ready;

/// Flags that say what to measure on.
#[derive(Debug, clap::Args)]
pub struct TextFlags {
    /// The text to measure on [default: some prose, code and numbers that come with Herd]
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// Tokens of the text to measure on at most
    #[arg(long, value_name = "N", default_value_t = 2048)]
    tokens: usize,
}

/// A comparison, and the hash of the text it was made on.
#[derive(Debug)]
pub struct Measured {
    /// The figures.
    pub comparison: Comparison,
    /// sha256 of the text.
    pub text_sha256: String,
}

/// Positions that see each other; the logits of as many are held at once.
const CHUNK: usize = 256;

/// Context that both models need for it.
pub const CONTEXT: usize = CHUNK;

/// Compares the models on the text that the flags name.
pub fn measure(
    flags: &TextFlags,
    parent: &Ready,
    child: &Ready,
    console: &Console,
) -> Result<Measured, Error> {
    let text = match &flags.file {
        Some(path) => fs::read(path).map_err(Error::io("read", path))?,
        None => include_bytes!("probe.txt").to_vec(),
    };
    let tokenizer = &parent.about.tokenizer;
    let ids = tokenizer.encode_bytes(&text);
    if child.about.tokenizer.encode_bytes(&text) != ids {
        return Err(Error::Value {
            what: "the tokenizer",
            got: child.about.path.display().to_string(),
            expected: format!("that of {}", parent.about.path.display()),
        });
    }
    let mut ids: Vec<u32> = ids.into_iter().map(|TokenId(id)| id).collect();
    ids.truncate(flags.tokens.max(2));
    let (rows, others) = (parent.model.config().vocab, child.model.config().vocab);
    if rows != others {
        let expected = format!("{rows}, as the parent has");
        return Err(Error::Value { what: "the vocabulary", got: others.to_string(), expected });
    }
    let scorer = |r: &Ready| (CHUNK.min(r.limits.context), r.limits.kv);
    let (context, kv) = scorer(parent);
    let mut parent_scorer = Scorer::new(&parent.model, context, CHUNK, kv);
    let (other, kv) = scorer(child);
    let context = context.min(other);
    let mut child_scorer = Scorer::new(&child.model, context, CHUNK, kv);
    let mut meter = console.meter("chunks", None);
    let comparison = compare(&mut parent_scorer, &mut child_scorer, &ids, context, |i, count| {
        meter.step(i + 1, count);
    });
    Ok(Measured { comparison, text_sha256: hex(&Sha256::digest(&text)) })
}

impl Measured {
    /// The figures as JSON.
    pub fn json(&self) -> serde_json::Value {
        let c = &self.comparison;
        serde_json::json!({
            "tokens": c.tokens,
            "text_sha256": self.text_sha256,
            "parent_ppl": c.parent_ppl,
            "ppl": c.child_ppl,
            "kl_mean": c.kl_mean,
            "kl_max": c.kl_max,
            "same_top": c.same_top,
            "log_prob_difference_max": c.log_prob_difference_max,
            "identical": c.identical,
        })
    }

    /// The figures as lines for a person.
    pub fn lines(&self) -> String {
        let c = &self.comparison;
        if c.identical {
            return format!("every logit has the parent's bits, over {} tokens", c.tokens);
        }
        format!(
            "perplexity {:.4}, parent {:.4} ({:+.2} %) over {} tokens\n\
             KL per token {:.6} nats, at most {:.4}\n\
             likeliest token the same at {:.1} % of positions",
            c.child_ppl,
            c.parent_ppl,
            100.0 * (c.child_ppl / c.parent_ppl - 1.0),
            c.tokens,
            c.kl_mean,
            c.kl_max,
            100.0 * c.same_top,
        )
    }
}
