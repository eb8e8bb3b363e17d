//! Copies the tensors of a file or folder into a new file, whose ending says its kind: `.gguf`,
//! `.safetensors` or `.pth`; a path without an ending becomes a Hugging Face folder.
//!
//! Bytes are copied as they are: this shows the readers and writers, it does not convert a model.
//!
//! ```text
//! cargo run -p herd-tensor --example copy -- FROM TO
//! ```

use std::error::Error;
use std::path::Path;

use herd_tensor::files::{
    Archive, FileError, GgufWriter, PthWriter, SafetensorsWriter, ShardAxis, ShardedWriter,
};

const SHARD_BYTES_MAX: usize = 5_000_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let [from, to] =
        std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "two paths")?;
    let archive = match Archive::open(&from) {
        Err(FileError::Ranks { .. }) => Archive::open_ranks(&from, llama3_axis)?,
        other => other?,
    };
    copy(&archive, Path::new(&to))?;
    println!("{to}: {} tensors, from {}", archive.tensors().len(), archive.kind());
    Ok(())
}

fn copy(from: &Archive, to: &Path) -> Result<(), Box<dyn Error>> {
    macro_rules! through {
        ($writer:expr) => {{
            let mut writer = $writer?;
            for info in from.tensors() {
                writer.write_tensor(&info.name, &from.bytes(info)?)?;
            }
            writer.finish()?;
        }};
    }
    let tensors = from.tensors();
    match to.extension().and_then(|ending| ending.to_str()) {
        Some("gguf") => through!(GgufWriter::create(to, from.metadata(), tensors)),
        Some("safetensors") => {
            through!(SafetensorsWriter::create(to, &[("format", "pt")], tensors))
        }
        Some("pth") => through!(PthWriter::create(to, tensors)),
        Some(other) => return Err(format!("no writer for .{other}").into()),
        None => {
            std::fs::create_dir_all(to)?;
            through!(ShardedWriter::create(to, tensors, SHARD_BYTES_MAX))
        }
    }
    Ok(())
}

/// How Meta spreads Llama 3 over ranks.
fn llama3_axis(name: &str) -> ShardAxis {
    match name.rsplit('.').nth(1) {
        Some("wo" | "w2") => ShardAxis::Columns,
        Some("wq" | "wk" | "wv" | "w1" | "w3" | "output" | "tok_embeddings") => ShardAxis::Rows,
        _ => ShardAxis::Replicated,
    }
}
