//! `herd quantize`: fewer bits a weight, by llama.cpp's recipes, and what that costs.

use std::fs;
use std::path::PathBuf;

use herd_engine::compare::Comparison;
use herd_model::checkpoint::Checkpoint;
use herd_model::convert::{Job, keep, write};
use herd_model::names::{Part, Style};
use herd_model::recipe::Recipe;
use herd_tensor::files::{Metadata, Value};
use herd_tensor::{Device, Format};
use serde_json::json;

use crate::about::About;
use crate::carry::carry;
use crate::console::{Console, Verdict, bytes};
use crate::error::Error;
use crate::flags;
use crate::measure;
use crate::store::Store;

/// Flags of `herd quantize`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// The model: a file, a folder, or a name in the store
    #[arg(short, long)]
    model: String,
    /// The GGUF file to write
    #[arg(short, long)]
    out: PathBuf,
    /// q4_0 q4_1 q5_0 q5_1 q8_0 q2_k q3_k_s/m/l q4_k_s/m q5_k_s/m q6_k iq4_nl f16 bf16 f32
    #[arg(long = "type", value_name = "TYPE")]
    recipe: String,
    /// Measure the loss on this text [default: a built-in probe]
    #[arg(short, long, value_name = "FILE", conflicts_with = "no_measure")]
    file: Option<PathBuf>,
    /// Tokens of the text to measure on
    #[arg(long, value_name = "N", default_value_t = 512)]
    tokens: usize,
    /// Do not run both models to measure the loss
    #[arg(long)]
    no_measure: bool,
    /// Threads that compute [default: as many as the machine lends]
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,
    /// The numeric class: portable, avx2, avx512 or amx [default: $HERD_CLASS, else the fastest]
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
}

/// Quantises, measures against the parent, and writes the measure into the file.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let recipe = Recipe::named(&flags.recipe)?;
    if flags.tokens < 2 {
        let (what, expected) = ("--tokens", "at least 2".to_owned());
        return Err(Error::Value { what, got: flags.tokens.to_string(), expected });
    }
    let parent = Checkpoint::open(Store::open()?.resolve_file(&flags.model)?)?;
    parent.notes.iter().for_each(|note| console.note(format!("note: {note}")));
    if parent.format(Part::Down(0))?.block_len() > 1 && recipe.base().block_len() > 1 {
        console.note("note: the parent is quantised already, so its losses add up");
    }
    let device = Device::cpu(flags::class(flags.class.as_deref())?, flags::threads(flags.threads)?);
    let mut carried = carry(&parent, Style::Gguf)?;
    carried.metadata.insert("general.file_type", Value::U32(recipe.file_type()));
    carried.metadata.insert("herd.quantize.recipe", Value::String(recipe.name().into()));
    let plan = |part: Part| recipe.format(part, &parent.config);
    let mut lost = write_gguf(&device, &parent, flags, &plan, &carried.metadata, console)?;
    lost.extend(carried.lost);
    let measured = match flags.no_measure {
        true => None,
        false => measure(&device, &parent, flags, console)?,
    };
    report(flags, console, recipe, &parent, &lost, measured.as_ref())?;
    Ok(Verdict::Done)
}

fn write_gguf(
    device: &Device,
    parent: &Checkpoint,
    flags: &Flags,
    plan: &dyn Fn(Part) -> Format,
    metadata: &Metadata,
    console: &Console,
) -> Result<Vec<String>, Error> {
    let job = Job { out: &flags.out, style: Style::Gguf, plan, metadata, files: &[] };
    let mut meter = console.meter("quantising", None);
    Ok(write(device, parent, &job, &mut |done, _| meter.at(done))?)
}

/// Compares the written file with its parent and writes it again with the measure in its
/// metadata. `None`, with a note, where the model has no tokenizer or does not fit into memory.
fn measure(
    device: &Device,
    parent: &Checkpoint,
    flags: &Flags,
    console: &Console,
) -> Result<Option<Comparison>, Error> {
    let about = match About::read(parent) {
        Err(Error::NoTokenizer { .. }) => {
            console.note("note: the model has no tokenizer, so the loss is not measured");
            return Ok(None);
        }
        other => other?,
    };
    let most = flags.tokens.min(parent.config.context);
    let ids = measure::tokens(&about, flags.file.as_deref(), most)?;
    if ids.len() < 2 {
        let (what, expected) = ("the text to measure on", "at least 2 tokens".to_owned());
        return Err(Error::Value { what, got: format!("{} tokens", ids.len()), expected });
    }
    let child = Checkpoint::open(&flags.out)?;
    let c = match measure::compare(device, parent, &child, &ids) {
        Err(error @ Error::Memory { .. }) => {
            console.note(format!("note: the loss is not measured: {error}"));
            return Ok(None);
        }
        other => other?,
    };
    let mut metadata = Metadata::default();
    let mut put = |key: &str, value| metadata.insert(format!("herd.quantize.{key}"), value);
    put("tokens", Value::U32(c.positions as u32));
    put("kl_mean", Value::F64(c.kl_mean()));
    put("kl_max", Value::F64(c.kl_max));
    put("ppl", Value::F64(c.child_perplexity()));
    put("ppl_parent", Value::F64(c.parent_perplexity()));
    let file_type = child.archive().metadata().get::<u32>("general.file_type")?;
    metadata.insert("general.file_type", Value::U32(file_type));
    write_gguf(device, &child, flags, &keep(&child, Style::Gguf, None), &metadata, console)?;
    Ok(Some(c))
}

fn report(
    flags: &Flags,
    console: &Console,
    recipe: Recipe,
    parent: &Checkpoint,
    lost: &[String],
    measured: Option<&Comparison>,
) -> Result<(), Error> {
    let size = fs::metadata(&flags.out).map_err(Error::io("read", &flags.out))?.len();
    let child = Checkpoint::open(&flags.out)?;
    let weights: usize = child.archive().tensors().iter().filter_map(|t| t.bytes()).sum();
    let bits = 8.0 * weights as f64 / parent.config.params() as f64;
    if console.json {
        return console.print_json(&json!({
            "out": flags.out,
            "type": recipe.name(),
            "bytes": size,
            "bits_per_weight": bits,
            "lost": lost,
            "measured": measured.map(measure::to_json),
        }));
    }
    let (out, size) = (flags.out.display(), bytes(size));
    console.print(format!("{out}: {}, {size}, {bits:.2} bits a weight", recipe.name()))?;
    lost.iter().try_for_each(|line| console.print(format!("lost: {line}")))?;
    measured.map_or(Ok(()), |c| console.print(measure::to_line(c)))
}
