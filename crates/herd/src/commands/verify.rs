//! `herd verify`: does a converted model give its parent's logits?
//!
//! It asks about the numbers in the files. Kernels treat formats differently (beside packed weights
//! they round activations), so where two models differ in format, both run on weights unpacked to
//! f32: a Q4_1 file and the folder made of it are the same.

use std::path::PathBuf;

use herd_model::checkpoint::Checkpoint;
use herd_model::names::all_parts;
use herd_tensor::Device;
use serde_json::json;

use crate::about::About;
use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::flags;
use crate::measure;
use crate::store::Store;

/// Flags of `herd verify`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// The converted model: a file, a folder, or a name in the store
    #[arg(short, long)]
    model: String,
    /// The model that it was made from
    #[arg(short, long, visible_alias = "parent", value_name = "MODEL")]
    against: String,
    /// Ask about this text [default: a built-in probe]
    #[arg(short, long, value_name = "FILE", conflicts_with = "ids")]
    file: Option<PathBuf>,
    /// Ask about these token ids, with spaces or commas between
    #[arg(long)]
    ids: Option<String>,
    /// Tokens of the text to ask about
    #[arg(long, value_name = "N", default_value_t = 512)]
    tokens: usize,
    /// Largest difference of a logit that still means yes
    #[arg(long, value_name = "X", default_value_t = 1e-3)]
    tolerance: f32,
    /// Judge by the mean KL divergence in nats a token instead: the most that still means yes
    #[arg(long, value_name = "NATS")]
    kl: Option<f64>,
    /// Compare the models as they run, packed weights and all
    #[arg(long)]
    as_run: bool,
    /// Threads that compute [default: as many as the machine lends]
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,
    /// The numeric class: portable, avx2, avx512 or amx [default: $HERD_CLASS, else the fastest]
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
}

/// Prints the difference; exit code 1 if it is above the tolerance or the tokenizers differ.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let store = Store::open()?;
    let open = |name: &str| -> Result<Checkpoint, Error> {
        Ok(Checkpoint::open(store.resolve_file(name)?)?)
    };
    let (child, parent) = (open(&flags.model)?, open(&flags.against)?);
    let formats = |c: &Checkpoint| -> Result<Vec<_>, Error> {
        Ok(all_parts(&c.config).into_iter().map(|part| c.format(part)).collect::<Result<_, _>>()?)
    };
    let unpack = !flags.as_run && formats(&parent)? != formats(&child)?;
    let (parent, child) =
        if unpack { (parent.unpacked(), child.unpacked()) } else { (parent, child) };
    let (ids, same_tokens) = ids(flags, &parent, &child)?;
    let most = parent.config.context.min(child.config.context);
    if !(1..=most).contains(&ids.len()) {
        let (what, got) = ("the probe", format!("{} tokens", ids.len()));
        return Err(Error::Value { what, got, expected: format!("1 to {most} tokens") });
    }
    let device = Device::cpu(flags::class(flags.class.as_deref())?, flags::threads(flags.threads)?);
    let c = measure::compare(&device, &parent, &child, &ids)?;
    let close = match flags.kl {
        Some(kl) => c.kl_mean() <= kl,
        None => c.logit_difference_max <= flags.tolerance,
    };
    let same = close && same_tokens;
    if console.json {
        let mut answer = measure::to_json(&c);
        answer["same"] = json!(same);
        answer["same_tokens"] = json!(same_tokens);
        console.print_json(&answer)?;
    } else {
        console.print(measure::to_line(&c))?;
        if !same_tokens {
            console.print("the tokenizers cut the text into other tokens")?;
        }
        console.print(if same { "same" } else { "not the same" })?;
    }
    Ok(if same { Verdict::Done } else { Verdict::No })
}

/// The ids to ask about, and whether both tokenizers give them.
fn ids(flags: &Flags, parent: &Checkpoint, child: &Checkpoint) -> Result<(Vec<u32>, bool), Error> {
    if let Some(text) = &flags.ids {
        let words = text.split([' ', ',', '\n']).filter(|word| !word.is_empty());
        let id = |word: &str| {
            let (what, expected) = ("--ids", "a token id".to_owned());
            word.parse().map_err(|_| Error::Value { what, got: word.to_owned(), expected })
        };
        return Ok((words.map(id).collect::<Result<_, _>>()?, true));
    }
    let tokens = |model: &Checkpoint| {
        measure::tokens(&About::read(model)?, flags.file.as_deref(), flags.tokens)
    };
    let ids = tokens(parent)?;
    let same = tokens(child)? == ids;
    Ok((ids, same))
}
