//! `herd sandbox`: runs a command behind walls, and gives back what it wrote.

use std::fs;
use std::io::{IsTerminal, Read, Write, stderr, stdin, stdout};
use std::path::{Path, PathBuf};
use std::time::Duration;

use herd_sandbox::{Ended, Found, Helper, Limits, Outcome, Program, Sandbox};
use serde_json::json;

use crate::commands::refuse_existing;
use crate::console::{Console, Verdict, visible};
use crate::error::Error;

/// Flags of `herd sandbox`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// Time on the wall and of the processor until all is killed, as in 500ms, 10s, 2m
    #[arg(long, value_name = "TIME", default_value = "10s")]
    time: String,
    /// Memory of all its processes, as in 512M, 2G
    #[arg(long, value_name = "SIZE", default_value = "512M")]
    memory: String,
    /// Processes and threads at a time
    #[arg(long, value_name = "N", default_value_t = Limits::USUAL.processes)]
    processes: u32,
    /// Size of its files, which lie in memory
    #[arg(long, value_name = "SIZE", default_value = "64M")]
    disk: String,
    /// Files and folders there, those that it is given among them
    #[arg(long, value_name = "N", default_value_t = Limits::USUAL.files)]
    files: u32,
    /// What is kept of each of its streams
    #[arg(long, value_name = "SIZE", default_value = "1M")]
    output: String,
    /// Copy the files of this folder into the one that it works in
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Let it read this folder of the machine, under its own name; it may connect to no socket then
    #[arg(long, value_name = "DIR")]
    readable: Vec<String>,
    /// Give it what comes on standard input
    #[arg(long)]
    stdin: bool,
    /// Bring back the file of this name
    #[arg(long, value_name = "NAME", requires = "out")]
    collect: Vec<String>,
    /// A new folder for files that are brought back
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Prints what the command wrote; the answer is no unless it ended by itself with code 0.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let time = time(&flags.time)?;
    let limits = Limits {
        wall: time,
        cpu: time,
        memory_bytes: size("the memory", &flags.memory)?,
        processes: flags.processes,
        disk_bytes: size("the size of files", &flags.disk)?,
        files: flags.files,
        output_bytes: size("the size of output", &flags.output)?,
    };
    if let Some(out) = &flags.out {
        refuse_existing(out)?;
    }
    let mut files = Vec::new();
    if let Some(folder) = &flags.dir {
        read_folder(folder, "", limits.disk_bytes, &mut files, console)?;
    }
    let mut input = Vec::new();
    if flags.stdin {
        stdin().lock().read_to_end(&mut input).map_err(Error::Input)?;
    }
    let readable: Vec<&str> = flags.readable.iter().map(String::as_str).collect();
    let sandbox = Sandbox::new(Helper::this_program()?, limits)?.with_readable(&readable)?;
    let command: Vec<&str> = flags.command.iter().map(String::as_str).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (n.as_str(), &b[..])).collect();
    let collect: Vec<&str> = flags.collect.iter().map(String::as_str).collect();
    let outcome = sandbox.run(&Program {
        command: &command,
        stdin: &input,
        environment: &[],
        files: &files,
        collect: &collect,
    })?;
    if let Some(out) = &flags.out {
        write_files(out, &outcome)?;
    }
    match console.json {
        true => console.print_json(&describe(&outcome))?,
        false => print(&outcome, console)?,
    }
    Ok(if outcome.succeeded() { Verdict::Done } else { Verdict::No })
}

/// The files below `folder`, named from there. Links are passed over, with a note.
fn read_folder(
    folder: &Path,
    prefix: &str,
    most: u64,
    files: &mut Vec<(String, Vec<u8>)>,
    console: &Console,
) -> Result<(), Error> {
    let entries = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    for entry in entries {
        let entry = entry.map_err(Error::io("read", folder))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(Error::io("read", &path))?;
        let Some(name) = entry.file_name().to_str().map(|name| format!("{prefix}{name}")) else {
            let (got, expected) = (path.display().to_string(), "a name in UTF-8".to_owned());
            return Err(Error::Value { what: "a file's name", got, expected });
        };
        if kind.is_dir() {
            read_folder(&path, &format!("{name}/"), most, files, console)?;
        } else if kind.is_file() {
            let size = entry.metadata().map_err(Error::io("read", &path))?.len();
            let before: u64 = files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
            if before + size > most {
                let (got, expected) =
                    (folder.display().to_string(), format!("at most {most} bytes"));
                return Err(Error::Value { what: "the size of files in --dir", got, expected });
            }
            files.push((name, fs::read(&path).map_err(Error::io("read", &path))?));
        } else {
            console.note(format!("left out {}: no file", visible(&path.display().to_string())));
        }
    }
    Ok(())
}

/// Writes what came back. Names were checked before: none leads out of `out`.
fn write_files(out: &Path, outcome: &Outcome) -> Result<(), Error> {
    fs::create_dir_all(out).map_err(Error::io("create", out))?;
    for (name, found) in &outcome.files {
        let Found::Bytes(bytes) = found else { continue };
        let path = out.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        fs::write(&path, bytes).map_err(Error::io("write", &path))?;
    }
    Ok(())
}

fn describe(outcome: &Outcome) -> serde_json::Value {
    let files = outcome.files.iter().map(|(name, found)| json!({ "name": name, "is": is(found) }));
    json!({
        "ended": ended(outcome.ended),
        "stdout": outcome.stdout.text(),
        "stderr": outcome.stderr.text(),
        "stdout_dropped": outcome.stdout.dropped,
        "stderr_dropped": outcome.stderr.dropped,
        "files": files.collect::<Vec<_>>(),
        "wall_s": outcome.wall.as_secs_f64(),
        "cpu_s": outcome.cpu.as_secs_f64(),
    })
}

fn is(found: &Found) -> &'static str {
    match found {
        Found::Bytes(_) => "a file",
        Found::Missing => "missing",
        Found::NotAFile => "not a file",
        Found::TooLarge => "too large",
    }
}

fn ended(ended: Ended) -> String {
    match ended {
        Ended::Exited(code) => format!("code {code}"),
        Ended::Signalled(signal) => format!("signal {signal}"),
        Ended::WallTime => "out of time".to_owned(),
        Ended::CpuTime => "out of processor time".to_owned(),
        Ended::Memory => "out of memory".to_owned(),
    }
}

/// The streams as they are, but for terminals, which nobody's bytes control.
fn print(outcome: &Outcome, console: &Console) -> Result<(), Error> {
    let lines = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.split('\n').map(visible).collect::<Vec<_>>().join("\n").into_bytes()
    };
    let (mut out, mut err) = (outcome.stdout.bytes.clone(), outcome.stderr.bytes.clone());
    if stdout().is_terminal() {
        out = lines(&out);
    }
    if stderr().is_terminal() {
        err = lines(&err);
    }
    let _ = stderr().lock().write_all(&err); // nobody is left to tell
    stdout().lock().write_all(&out).map_err(Error::Output)?;
    for (name, stream) in [("output", &outcome.stdout), ("errors", &outcome.stderr)] {
        if stream.dropped > 0 {
            console.note(format!("{} bytes of {name} were dropped", stream.dropped));
        }
    }
    for (name, found) in &outcome.files {
        if !matches!(found, Found::Bytes(_)) {
            console.note(format!("{} is {}", visible(name), is(found)));
        }
    }
    if !outcome.succeeded() {
        console.note(format!("it ended: {}", ended(outcome.ended)));
    }
    Ok(())
}

/// A number and its unit, times the unit's worth.
fn measure(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, worth) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*worth)
}

fn time(text: &str) -> Result<Duration, Error> {
    let millis = measure(text, &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)]);
    millis.map(Duration::from_millis).ok_or_else(|| {
        let expected = "a time such as 500ms, 10s or 2m".to_owned();
        Error::Value { what: "the time", got: text.to_owned(), expected }
    })
}

fn size(what: &'static str, text: &str) -> Result<u64, Error> {
    measure(text, &[("", 1), ("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30)]).ok_or_else(|| {
        let expected = "a size such as 512M or 2G".to_owned();
        Error::Value { what, got: text.to_owned(), expected }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_have_units() {
        assert_eq!(time("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(time("2m").unwrap(), Duration::from_secs(120));
        assert_eq!(size("x", "512M").unwrap(), 512 << 20);
        assert_eq!(size("x", "7").unwrap(), 7);
        for wrong in ["", "10", "s", "-1s", "1.5s", "99999999999999999999s", "9999999999999999999m"]
        {
            assert!(time(wrong).is_err(), "{wrong:?}");
        }
        for wrong in ["", "M", "1T", "1 M", "99999999999999G"] {
            assert!(size("x", wrong).is_err(), "{wrong:?}");
        }
    }
}
