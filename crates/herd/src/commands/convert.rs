//! `herd convert`: a checkpoint in another style: GGUF, Hugging Face, Meta.

use std::path::{Path, PathBuf};

use herd_model::checkpoint::Checkpoint;
use herd_model::convert::{Job, keep, write};
use herd_model::names::Style;
use herd_tensor::{Device, Format};
use serde_json::json;

use crate::carry::carry;
use crate::console::{Console, Verdict, bytes};
use crate::error::Error;
use crate::flags;
use crate::store::Store;

/// Flags of `herd convert`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// The model: a file, a folder, or a name in the store
    #[arg(short, long)]
    model: String,
    /// The file (GGUF) or the new folder to write
    #[arg(short, long, visible_alias = "outfile")]
    out: PathBuf,
    /// The style to write: gguf, hf or meta [default: by the name of OUT]
    #[arg(long, value_name = "STYLE")]
    to: Option<String>,
    /// Write the weights as f32, f16 or bf16 [default: as they are; blocks in folders as f32]
    #[arg(long, visible_alias = "outtype", value_name = "TYPE")]
    dtype: Option<String>,
    /// Threads that compute [default: as many as the machine lends]
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,
}

/// Writes the model anew and says what was lost.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let style = style(flags.to.as_deref(), &flags.out)?;
    let float = flags.dtype.as_deref().map(float).transpose()?;
    let checkpoint = Checkpoint::open(Store::open()?.resolve_file(&flags.model)?)?;
    checkpoint.notes.iter().for_each(|note| console.note(format!("note: {note}")));
    let carried = carry(&checkpoint, style)?;
    let plan = keep(&checkpoint, style, float);
    let job = Job {
        out: &flags.out,
        style,
        plan: &plan,
        metadata: &carried.metadata,
        files: &carried.files,
    };
    let device = Device::cpu(flags::class(None)?, flags::threads(flags.threads)?);
    let mut meter = console.meter("writing", None);
    let mut lost = write(&device, &checkpoint, &job, &mut |done, _| meter.at(done))?;
    drop(meter);
    lost.extend(carried.lost);
    report(console, &flags.out, style, &lost)?;
    Ok(Verdict::Done)
}

fn report(console: &Console, out: &Path, style: Style, lost: &[String]) -> Result<(), Error> {
    let written = Checkpoint::open(out)?;
    let size: usize = written.archive().tensors().iter().filter_map(|t| t.bytes()).sum();
    if console.json {
        let answer = json!({ "out": out, "style": name(style), "bytes": size, "lost": lost });
        return console.print_json(&answer);
    }
    let tensors = written.archive().tensors().len();
    console.print(format!("{}: {tensors} tensors, {}", out.display(), bytes(size as u64)))?;
    lost.iter().try_for_each(|line| console.print(format!("lost: {line}")))
}

fn name(style: Style) -> &'static str {
    match style {
        Style::Gguf => "gguf",
        Style::Hf => "hf",
        Style::Meta => "meta",
    }
}

/// The style asked for, else GGUF for a name that ends so and Hugging Face for others.
fn style(wanted: Option<&str>, out: &Path) -> Result<Style, Error> {
    let is_gguf = out.extension().is_some_and(|e| e == "gguf");
    match wanted {
        Some("gguf") => Ok(Style::Gguf),
        Some("hf") => Ok(Style::Hf),
        Some("meta") => Ok(Style::Meta),
        None if is_gguf => Ok(Style::Gguf),
        None => Ok(Style::Hf),
        Some(other) => {
            let expected = "gguf, hf or meta".to_owned();
            Err(Error::Value { what: "--to", got: other.to_owned(), expected })
        }
    }
}

fn float(name: &str) -> Result<Format, Error> {
    match name {
        "f32" | "float32" => Ok(Format::F32),
        "f16" | "float16" => Ok(Format::F16),
        "bf16" | "bfloat16" => Ok(Format::BF16),
        other => {
            let expected = "f32, f16 or bf16 (blocks: `herd quantize`)".to_owned();
            Err(Error::Value { what: "--dtype", got: other.to_owned(), expected })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_decides_the_style_where_no_flag_does() {
        assert_eq!(style(None, Path::new("a/b.gguf")).unwrap(), Style::Gguf);
        assert_eq!(style(None, Path::new("a/b")).unwrap(), Style::Hf);
        assert_eq!(style(Some("meta"), Path::new("b.gguf")).unwrap(), Style::Meta);
        assert!(style(Some("onnx"), Path::new("b")).is_err());
        assert!(float("q4_0").is_err());
    }
}
