//! `herd quickstart`: the whole life of a model, small, on what comes with Herd.

use std::io::{IsTerminal, Write, stdin, stdout};
use std::path::PathBuf;

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::quickstart::{self, Size};
use crate::verbs;

/// Flags of `herd quickstart`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// How much of it: seconds, some ten minutes, or hours
    #[arg(long, value_enum, default_value_t = Size::Small)]
    size: Size,
    /// The folder of all that is made; the same command takes up what it finds there
    #[arg(long, value_name = "DIR", default_value = "quickstart")]
    out: PathBuf,
    /// Threads that compute [default: as many as the machine lends]
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,
    /// The numeric class: portable, avx2, avx512 or amx [default: $HERD_CLASS, else the fastest]
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
}

/// Goes through all stages, writes the report, and offers to talk with what came of it.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let machine = verbs::machine(flags.threads, flags.class.as_deref());
    let Some(model) = quickstart::run(flags.size, &flags.out, &machine, console)? else {
        return Ok(Verdict::Done);
    };
    let chat = format!("herd chat -m {}", model.display());
    if console.json || console.quiet || !stdin().is_terminal() || !stdout().is_terminal() {
        console.note(format!("talk with it: {chat}"));
        return Ok(Verdict::Done);
    }
    write!(stdout().lock(), "Talk with it now ({chat})? [Y/n] ").map_err(Error::Output)?;
    stdout().lock().flush().map_err(Error::Output)?;
    let mut answer = String::new();
    stdin().read_line(&mut answer).map_err(Error::Input)?;
    match answer.trim().to_lowercase().as_str() {
        "" | "y" | "yes" => {
            verbs::run(&["chat".into(), "-m".into(), model.display().to_string()], console)
        }
        _ => Ok(Verdict::Done),
    }
}
