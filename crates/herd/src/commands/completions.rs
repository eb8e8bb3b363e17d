//! `herd completions`: what a shell needs to complete Herd's flags.

use std::io::stdout;

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::console::Verdict;
use crate::error::Error;

/// Flags of `herd completions`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub fn run(flags: &Flags) -> Result<Verdict, Error> {
    let mut script = Vec::new();
    generate(flags.shell, &mut crate::Cli::command(), "herd", &mut script);
    std::io::Write::write_all(&mut stdout().lock(), &script).map_err(Error::Output)?;
    Ok(Verdict::Done)
}
