//! `herd complete`: goes on with a text.

use std::fs;
use std::io::{IsTerminal, Read, Write, stdin, stdout};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use herd_engine::{Finish, Request};
use serde_json::json;

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::flags::{FormFlags, KvFlag, ModelFlags, SamplingFlags};
use crate::speak::{self, Speaker};

/// Flags of `herd complete`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    kv: KvFlag,
    /// The text to go on with [default: standard input]
    #[arg(short, long, conflicts_with = "file")]
    prompt: Option<String>,
    /// A file with the text
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// Stop after N tokens [default: when the model ends or the context is full]
    #[arg(short, long, visible_alias = "predict", value_name = "N")]
    n_predict: Option<usize>,
    /// Stop where this text appears; may be given more than once
    #[arg(long, visible_alias = "reverse-prompt", value_name = "TEXT")]
    stop: Vec<String>,
    /// Take special strings in the prompt for the control tokens they name
    #[arg(long)]
    special: bool,
    /// Go on where the model would end
    #[arg(long)]
    ignore_eos: bool,
    #[command(flatten)]
    form: FormFlags,
    #[command(flatten)]
    sampling: SamplingFlags,
}

/// Prints the continuation alone; figures go to standard error on a terminal, or into JSON.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let text = prompt(flags)?;
    let mut speaker = Speaker::load(&flags.model, &flags.kv)?;
    let about = Arc::clone(&speaker.about);
    let sampling = flags.sampling.sampling(&about.defaults)?;
    let seed = sampling.seed;
    let request = Request {
        max_tokens: flags.n_predict,
        stop_tokens: if flags.ignore_eos { vec![] } else { about.stop_ids(None) },
        stop: flags.stop.clone(),
        grammar: speaker.grammar(&flags.form)?,
        ..Request::new(about.prompt(&text, flags.special), sampling)
    };
    let (mut ids, mut answer, mut shown) = (Vec::new(), String::new(), Ok(()));
    let spoken = speaker.speak(request, &AtomicBool::new(false), &mut |token| {
        ids.push(token.id);
        answer += &token.text;
        if !console.json {
            shown = show(&token.text);
        }
        if shown.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    shown?;
    answer += &spoken.text;
    if let Finish::Failed(_) | Finish::Form(_) = spoken.finish {
        return Err(spoken.finish().expect_err("it failed"));
    }
    if console.json {
        console.print_json(&json!({
            "text": answer,
            "ids": ids,
            "stop": speak::name(&spoken.finish),
            "seed": seed,
            "class": speaker.class().name(),
            "timings": spoken.times,
        }))?;
        return Ok(Verdict::Done);
    }
    show(&spoken.text)?;
    if stdout().is_terminal() {
        console.print("")?;
        console.note(format!("[{} | seed {seed}]", spoken.times.line()));
    }
    Ok(Verdict::Done)
}

/// Text of the answer, at once and as it is.
fn show(text: &str) -> Result<(), Error> {
    let mut stdout = stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Error::Output)
}

fn prompt(flags: &Flags) -> Result<String, Error> {
    if let Some(text) = &flags.prompt {
        return Ok(text.clone());
    }
    if let Some(path) = &flags.file {
        return fs::read_to_string(path).map_err(Error::io("read", path));
    }
    let mut text = String::new();
    stdin().lock().read_to_string(&mut text).map_err(Error::Input)?;
    Ok(text)
}
