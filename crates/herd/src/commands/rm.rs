//! `herd rm`: takes a model out of the store.

use std::io::{BufRead, IsTerminal, Write, stderr, stdin};

use crate::console::{Console, Verdict, bytes};
use crate::error::Error;
use crate::store::Store;

/// Flags of `herd rm`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// The model's name
    model: String,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

/// Asks, unless told not to, and removes the model's folder.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let store = Store::open()?;
    let Some(source) = store.find(&flags.model)? else {
        return Err(store.unknown(&flags.model));
    };
    if !flags.yes && !ask(&source.name, source.bytes())? {
        console.note("nothing removed");
        return Ok(Verdict::No);
    }
    store.remove(&source.name)?;
    console.note(format!("removed {} ({})", source.name, bytes(source.bytes())));
    Ok(Verdict::Done)
}

fn ask(name: &str, size: u64) -> Result<bool, Error> {
    if !stdin().is_terminal() {
        return Err(Error::Unanswered { name: name.to_owned() });
    }
    let _ = write!(stderr().lock(), "remove {name} ({})? [y/N] ", bytes(size));
    let mut line = String::new();
    stdin().lock().read_line(&mut line).map_err(Error::Input)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}
