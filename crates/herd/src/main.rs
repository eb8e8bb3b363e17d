//! The door: flags, printing, progress, exit codes.
//!
//! Exit code 0: done; 1: the answer is no; 2: could not run. Errors are one line with their
//! causes, and a `hint:` where there is one.

mod about;
mod aids;
mod arena;
mod caller;
mod carry;
mod chat;
mod commands;
mod console;
mod energy;
mod error;
mod fit;
mod flags;
mod live;
mod machine;
mod measure;
mod models;
mod pull;
mod quickstart;
mod run;
mod running;
mod speak;
mod store;
mod sweep;
mod teller;
mod texts;
mod toolbox;
mod training;
mod verbs;
mod vocabulary;
mod whom;
mod writer;

use std::io::{ErrorKind, Write, stderr};
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use clap::Parser;

use crate::commands::Command;
use crate::console::{Console, Verdict};
use crate::error::Error;

/// Herd: the whole Llama system in one program.
#[derive(Debug, Parser)]
#[command(name = "herd", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags that every command has.
#[derive(Debug, clap::Args)]
pub struct Global {
    /// Answer in JSON
    #[arg(long, global = true)]
    json: bool,
    /// Print the answer only, no progress and no notes
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Never go online (only `pull` does, `eval run --url`, `synth` and `select` where their settings name an endpoint, tools where theirs do)
    #[arg(long, global = true)]
    offline: bool,
}

fn main() -> ExitCode {
    // Before anything else: this process may be a stage of the sandbox, which is someone else.
    if herd_sandbox::inside::asked() {
        return herd_sandbox::inside::enter();
    }
    let cli = Cli::parse();
    panic::set_hook(Box::new(report_panic));
    let run = AssertUnwindSafe(|| {
        let console = Console { json: cli.global.json, quiet: cli.global.quiet, mute: false };
        cli.command.run(&console, cli.global.offline)
    });
    match panic::catch_unwind(run) {
        Ok(Ok(Verdict::Done)) => ExitCode::SUCCESS,
        Ok(Ok(Verdict::No)) => ExitCode::from(1),
        // The reader has seen enough, as in `herd ls | head -1`.
        Ok(Err(Error::Output(e))) if e.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            let mut text = format!("error: {}\n", error.line());
            if let Some(hint) = error.hint() {
                text += &format!("hint: {hint}\n");
            }
            let _ = stderr().lock().write_all(text.as_bytes()); // nobody is left to tell
            ExitCode::from(2)
        }
        Err(_) => ExitCode::from(2), // the hook has told
    }
}

/// A panic is a fault of Herd: one line that says where, and asks for a report.
fn report_panic(info: &panic::PanicHookInfo) {
    let what = info.payload_as_str().unwrap_or("no message").replace('\n', " ");
    let place = info.location().map(|at| format!(" at {}:{}", at.file(), at.line()));
    let place = place.unwrap_or_default();
    let line = format!(
        "error: a fault in herd: {what}{place}\nhint: please report this line with the command \
         that led to it\n"
    );
    let _ = stderr().lock().write_all(line.as_bytes());
}
