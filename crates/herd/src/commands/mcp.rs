//! `herd mcp`: Herd's tools for other programs, by the Model Context Protocol over standard input and output.

use std::io::{stdin, stdout};

use herd_serve::agent::mcp;

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::toolbox::{ToolFlags, Toolbox};

/// Flags of `herd mcp`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(flatten)]
    tools: ToolFlags,
}

/// Serves until the input is over.
pub fn run(flags: &Flags, console: &Console, offline: bool) -> Result<Verdict, Error> {
    let mut asked = flags.tools.clone();
    if asked.tools.is_empty() {
        asked.tools = vec!["calc".to_owned(), "python".to_owned()];
    }
    let tools = Toolbox::open(&asked, None, offline, console)?.tools(&[], None)?;
    mcp::serve(&tools, &mut stdin().lock(), &mut stdout().lock()).map_err(Error::Output)?;
    Ok(Verdict::Done)
}
