//! `herd quantize`: writes a model in fewer bits, and what that costs into the file.

use std::path::{Path, PathBuf};

use herd_model::checkpoint::Checkpoint;
use herd_model::convert::{Job, keep, write};
use herd_model::names::{Part, Style};
use herd_model::recipe::Recipe;
use herd_tensor::files::{Metadata, Value};
use herd_tensor::{Device, Format};
use serde_json::json;

use crate::about::About;
use crate::carry;
use crate::commands::convert::refuse_existing;
use crate::console::{Console, Verdict, bytes};
use crate::error::Error;
use crate::flags::{KvFlag, ModelFlags};
use crate::measure::{CONTEXT, Measured, TextFlags, measure};
use crate::run;

/// Flags of `herd quantize`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(flatten)]
    model: ModelFlags,
    /// The GGUF file to write
    #[arg(short, long, value_name = "OUT")]
    out: PathBuf,
    /// The recipe: q4_k_m, q6_k, q8_0, q4_0, ...
    #[arg(long = "type", value_name = "TYPE")]
    recipe: String,
    /// Do not measure against the parent
    #[arg(long)]
    no_measure: bool,
    #[command(flatten)]
    kv: KvFlag,
    #[command(flatten)]
    text: TextFlags,
}

/// Writes the file; then measures it and writes the figures into its metadata.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let recipe = Recipe::named(&flags.recipe)?;
    refuse_existing(&flags.out)?;
    if let Some(folder) = &flags.model.lora {
        let (got, expected) = (
            folder.display().to_string(),
            "no adapter: merge it first (herd convert --lora)".to_owned(),
        );
        return Err(Error::Value { what: "--lora", got, expected });
    }
    let device = Device::cpu(flags.model.class()?, flags.model.threads()?);
    let (parent, _) = run::open(&flags.model, &flags.kv, Some(CONTEXT))?;
    parent.notes.iter().for_each(|note| console.note(format!("note: {note}")));
    if parent.format(Part::Down(0))?.block_len() > 1 && recipe.base().block_len() > 1 {
        console.note("note: the parent is quantised already, so its losses add up");
    }
    let about = About::read(&parent)?;
    let mut metadata = carry::metadata(&about, &parent)?;
    metadata.insert("general.file_type", Value::U32(recipe.file_type()));
    metadata.insert("herd.quantize.type", Value::String(recipe.name().to_owned()));
    let format = |part: Part| recipe.format(part, &parent.config);
    if flags.no_measure {
        let lost = write_gguf(&device, &parent, &flags.out, &format, &metadata, console)?;
        return report(flags, recipe, &lost, None, console);
    }
    // Written once to be measured, and once more with the figures.
    let draft = Draft(draft_path(&flags.out));
    if draft.0.is_file() {
        std::fs::remove_file(&draft.0).map_err(Error::io("remove", &draft.0))?;
    }
    let lost = write_gguf(&device, &parent, &draft.0, &format, &metadata, console)?;
    drop(parent);
    let child = draft.0.display().to_string();
    let child = ModelFlags { model: child, ctx_size: None, lora: None, ..flags.model.clone() };
    let measured = {
        let parent = run::load(&flags.model, &flags.kv, Some(CONTEXT))?;
        let child = run::load(&child, &flags.kv, Some(CONTEXT))?;
        measure(&flags.text, &parent, &child, console)?
    };
    let checkpoint = Checkpoint::open(&draft.0)?;
    let keep = keep(&checkpoint, Style::Gguf, None);
    let figures = figures(&measured);
    write_gguf(&device, &checkpoint, &flags.out, &keep, &figures, console)?;
    report(flags, recipe, &lost, Some(&measured), console)
}

/// Where the first writing of `out` stands: a name that nobody gives, so that what a killed run
/// left there can be removed.
fn draft_path(out: &Path) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    out.with_file_name(format!(".{name}.unmeasured.gguf"))
}

/// The first writing, removed at the end.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0); // it may not have come to be
    }
}

fn write_gguf(
    device: &Device,
    checkpoint: &Checkpoint,
    out: &Path,
    plan: &dyn Fn(Part) -> Format,
    metadata: &Metadata,
    console: &Console,
) -> Result<Vec<String>, Error> {
    let job = Job { out, style: Style::Gguf, plan, metadata, files: &[], adapter: None };
    let mut meter = console.meter("tensors", None);
    Ok(write(device, checkpoint, &job, &mut |done, all| meter.step(done, all))?)
}

/// The figures as metadata.
fn figures(measured: &Measured) -> Metadata {
    let c = &measured.comparison;
    let mut metadata = Metadata::default();
    let mut put = |name: &str, value| metadata.insert(format!("herd.quantize.{name}"), value);
    put("text_sha256", Value::String(measured.text_sha256.clone()));
    put("tokens", Value::U64(c.tokens as u64));
    put("perplexity", Value::F64(c.child_ppl));
    put("parent_perplexity", Value::F64(c.parent_ppl));
    put("kl_mean", Value::F64(c.kl_mean));
    put("kl_max", Value::F64(c.kl_max));
    put("same_top", Value::F64(c.same_top));
    metadata
}

fn report(
    flags: &Flags,
    recipe: Recipe,
    lost: &[String],
    measured: Option<&Measured>,
    console: &Console,
) -> Result<Verdict, Error> {
    let size = std::fs::metadata(&flags.out).map_err(Error::io("read", &flags.out))?.len();
    if console.json {
        console.print_json(&json!({
            "out": flags.out,
            "type": recipe.name(),
            "bytes": size,
            "lost": lost,
            "against_parent": measured.map(Measured::json),
        }))?;
        return Ok(Verdict::Done);
    }
    lost.iter().for_each(|what| console.note(format!("lost: {what}")));
    if let Some(measured) = measured {
        console.print(measured.lines())?;
    }
    console.note(format!("wrote {} ({})", flags.out.display(), bytes(size)));
    Ok(Verdict::Done)
}
