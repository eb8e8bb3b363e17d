//! `herd convert`: writes a model in another style: GGUF, Hugging Face's folder, Meta's folder.

use std::path::PathBuf;

use herd_model::checkpoint::Checkpoint;
use herd_model::convert::{Job, keep, write};
use herd_model::llama::Adapter;
use herd_model::names::Style;
use herd_tensor::files::{FileError, Metadata};
use herd_tensor::{Device, Format};
use serde_json::json;

use crate::carry;
use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::flags;
use crate::store::Store;
use crate::training;

/// Flags of `herd convert`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// The model: a file, a folder, or a name in the store
    #[arg(short, long)]
    model: String,
    /// Where to write: a file for GGUF, else a folder
    #[arg(short, long, value_name = "OUT")]
    out: PathBuf,
    /// The style: gguf, hf or meta [default: gguf for a name that ends so, else hf]
    #[arg(long, value_name = "STYLE")]
    to: Option<String>,
    /// Take an adapter into the weights, as `herd sft`, `herd reward` or PEFT writes it, and the chat template beside it
    #[arg(long, value_name = "FOLDER")]
    lora: Option<PathBuf>,
    /// Write all weights as f32, f16 or bf16 [default: as they are, where the style holds them]
    #[arg(long, visible_alias = "outtype", value_name = "FORMAT")]
    float: Option<String>,
    /// Threads that compute [default: as many as the machine lends]
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,
}

/// Writes the model and names what was lost.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let style = style(flags)?;
    let float = flags.float.as_deref().map(float).transpose()?;
    refuse_existing(&flags.out)?;
    let device = Device::cpu(flags::class(None)?, flags::threads(flags.threads)?);
    let mut checkpoint = Checkpoint::open_any(Store::open()?.resolve(&flags.model)?)?;
    checkpoint.notes.iter().for_each(|note| console.note(format!("note: {note}")));
    let mut lost = Vec::new();
    let about = carry::about(&checkpoint, flags.lora.as_deref(), &mut lost)?;
    let adapter = flags.lora.as_ref().map(|folder| Adapter::open_any(folder, &checkpoint.config));
    let adapter = adapter.transpose()?;
    if adapter.as_ref().is_some_and(|adapter| adapter.score().is_some())
        && let Some(about) = &about
        && let Ok(format) = about.chat_format(None)
    {
        checkpoint.generation.pad_token_id = training::filler(&about.tokenizer, &format);
    }
    let (metadata, files) = match (&about, style) {
        (None, _) => (Metadata::default(), Vec::new()),
        (Some(about), Style::Gguf) => (carry::metadata(about, &checkpoint)?, Vec::new()),
        (Some(about), Style::Hf | Style::Meta) => {
            (Metadata::default(), carry::files(about, &checkpoint, style, &mut lost)?)
        }
    };
    let plan = keep(&checkpoint, style, float);
    let job = Job {
        out: &flags.out,
        style,
        plan: &plan,
        metadata: &metadata,
        files: &files,
        adapter: adapter.as_ref(),
    };
    let mut meter = console.meter("tensors", None);
    lost.extend(write(&device, &checkpoint, &job, &mut |done, all| meter.step(done, all))?);
    drop(meter);
    if console.json {
        console.print_json(&json!({ "out": flags.out, "lost": lost }))?;
    } else {
        lost.iter().for_each(|what| console.note(format!("lost: {what}")));
        let nothing = if lost.is_empty() { "; nothing was lost" } else { "" };
        console.note(format!("wrote {}{nothing}", flags.out.display()));
    }
    Ok(Verdict::Done)
}

fn style(flags: &Flags) -> Result<Style, Error> {
    let named = flags.out.extension().is_some_and(|e| e == "gguf");
    match flags.to.as_deref() {
        Some("gguf") => Ok(Style::Gguf),
        Some("hf") => Ok(Style::Hf),
        Some("meta") => Ok(Style::Meta),
        Some(other) => {
            let expected = "gguf, hf or meta".to_owned();
            Err(Error::Value { what: "--to", got: other.to_owned(), expected })
        }
        None if named => Ok(Style::Gguf),
        None => Ok(Style::Hf),
    }
}

fn float(name: &str) -> Result<Format, Error> {
    match name {
        "f32" => Ok(Format::F32),
        "f16" => Ok(Format::F16),
        "bf16" => Ok(Format::BF16),
        other => {
            let expected = "f32, f16 or bf16; `herd quantize` writes blocks".to_owned();
            Err(Error::Value { what: "--float", got: other.to_owned(), expected })
        }
    }
}

/// Nothing is overwritten.
pub fn refuse_existing(out: &std::path::Path) -> Result<(), Error> {
    let empty = || std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
    match out.exists() && !empty() {
        true => Err(FileError::Exists { path: out.to_owned() }.into()),
        false => Ok(()),
    }
}
