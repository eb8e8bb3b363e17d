//! `herd show`: where a model of the store came from.

use serde_json::json;

use crate::console::{Console, Verdict, bytes};
use crate::error::Error;
use crate::store::Store;

/// Flags of `herd show`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// The model's name
    model: String,
}

/// Prints `source.json`, with the folder.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let store = Store::open()?;
    let Some(source) = store.find(&flags.model)? else {
        return Err(store.unknown(&flags.model));
    };
    let folder = store.folder(&source.name)?;
    if console.json {
        let mut value = json!(source);
        value["folder"] = json!(folder);
        console.print_json(&value)?;
        return Ok(Verdict::Done);
    }
    let licence = source.licence.clone().unwrap_or_else(|| "not stated".to_owned());
    let rows = [
        ("name", source.name.clone()),
        ("from", source.from.clone()),
        ("revision", source.revision.clone()),
        ("licence", licence),
        ("folder", folder.display().to_string()),
        ("size", bytes(source.bytes())),
    ];
    for (key, value) in rows {
        console.print(format!("{key:<9} {value}"))?;
    }
    for file in &source.files {
        console.print(format!(
            "file      {}  {}  {}",
            file.path,
            bytes(file.bytes),
            file.sha256
        ))?;
    }
    Ok(Verdict::Done)
}
