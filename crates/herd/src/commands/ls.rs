//! `herd ls`: the models in the store.

use serde_json::json;

use crate::console::{Console, Verdict, bytes};
use crate::error::Error;
use crate::store::Store;

/// Flags of `herd ls`.
#[derive(Debug, clap::Args)]
pub struct Flags {}

/// Prints a line per model.
pub fn run(_: &Flags, console: &Console) -> Result<Verdict, Error> {
    let store = Store::open()?;
    let models = store.list()?;
    if console.json {
        let row = |m: &crate::store::Source| json!({ "name": m.name, "bytes": m.bytes(), "from": m.from, "licence": m.licence });
        console.print_json(&models.iter().map(row).collect::<Vec<_>>())?;
        return Ok(Verdict::Done);
    }
    if models.is_empty() {
        console.note("no models yet: `herd pull smollm2` brings one");
        return Ok(Verdict::Done);
    }
    let head = ["NAME", "SIZE", "LICENCE", "FROM"].map(str::to_owned).to_vec();
    let row = |m: crate::store::Source| {
        let size = bytes(m.bytes());
        vec![m.name, size, m.licence.unwrap_or_else(|| "not stated".to_owned()), m.from]
    };
    let rows: Vec<Vec<String>> = [head].into_iter().chain(models.into_iter().map(row)).collect();
    console.print_table(&rows)?;
    Ok(Verdict::Done)
}
